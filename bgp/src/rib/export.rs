//! Which route a peer is told, and with which attributes.

use std::net::IpAddr;
use std::sync::Arc;

use super::decision::DEFAULT_LOCAL_PREF;
use super::nets::Net;
use super::path::{Path, PeerIndex, Shared};
use super::terms::{Terms, leaving};
use super::{Facts, Sources};
use crate::config::{Local, NextHopMode};
use crate::policy::{Policy, RuleIndex, Source, Subject, Verdict};
use crate::prefix::Prefix;
use crate::wire::{Attributes, Community, Dialect, NextHop, PathId};

/// How one family is exported to one peer.
#[derive(Clone, Debug)]
pub(crate) struct Export {
    /// The peer that is told.
    pub(crate) peer: PeerIndex,
    /// Who it is.
    pub(crate) facts: Facts,
    /// What holds about its AS and ours.
    pub(crate) terms: Terms,
    /// Export policy.
    pub(crate) policy: Policy,
    /// The next hop to tell.
    pub(crate) next_hop: NextHopMode,
    /// Our end of the session, in place of a next hop that is not there.
    pub(crate) local_address: IpAddr,
    /// How messages to it are written.
    pub(crate) dialect: Dialect,
    /// How many paths of a prefix it is told, if it takes several (RFC 7911).
    pub(crate) most_paths: u8,
    /// It understands routes that are stale for long (RFC 9494).
    pub(crate) long_lived: bool,
}

/// A route to tell: routes with equal choices have equal attributes and share messages.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    /// What the decision process preferred.
    pub(crate) attributes: Shared,
    /// Who it comes from.
    pub(crate) source: PeerIndex,
    /// Which of the source's paths it is.
    pub(crate) path: PathId,
    /// The rule of export policy that accepted it.
    pub(crate) rule: RuleIndex,
}

/// Equal for equal choices, ordered by when their attributes were first seen.
pub(crate) type Key = (u64, PeerIndex, RuleIndex);

impl Choice {
    /// Its key.
    pub(crate) fn key(&self) -> Key {
        (self.attributes.serial, self.source, self.rule)
    }

    /// Whose path it is, and which.
    pub(crate) fn origin(&self) -> (PeerIndex, PathId) {
        (self.source, self.path)
    }
}

/// Why a peer is not told a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Withheld {
    /// It takes no part in the decision.
    Unused,
    /// The peer said it.
    SplitHorizon,
    /// Both are internal, and neither is a client (RFC 4456 §6).
    NotReflected,
    /// It carries this community (RFC 1997).
    Community(Community),
    /// It is for customers only (RFC 9234 §5).
    OnlyToCustomer,
    /// This rule refused it.
    Rule(RuleIndex),
}

impl Export {
    /// Whether routes from this source may go to the peer at all: not back, and between internal peers only by
    /// reflection (RFC 4456 §6).
    pub(crate) fn may_pass(&self, source: PeerIndex, facts: Option<&Facts>) -> bool {
        match facts {
            _ if source == self.peer => false,
            Some(from) if from.kind == Source::Internal && self.facts.kind == Source::Internal => {
                from.client || self.facts.client
            }
            _ => true,
        }
    }

    /// What the peer is to be told about a prefix; `None`: nothing.
    pub(crate) fn choose(&self, net: &Net, sources: &Sources) -> Option<Choice> {
        self.judge(net.best()?, &net.prefix, sources).ok()
    }

    /// Whether the peer may be told this path of a prefix, and if not why.
    pub(crate) fn judge(&self, path: &Path, prefix: &Prefix, sources: &Sources) -> Result<Choice, Withheld> {
        let facts = sources.facts(path.peer);
        let attributes = path.used().ok_or(Withheld::Unused)?;
        if path.peer == self.peer {
            return Err(Withheld::SplitHorizon);
        }
        if !self.may_pass(path.peer, facts) {
            return Err(Withheld::NotReflected);
        }
        if let Some(community) = self.held_back(&attributes.attributes) {
            return Err(Withheld::Community(community));
        }
        if leaving(self.facts.role, attributes.attributes.only_to_customer, self.facts.asn).is_err() {
            return Err(Withheld::OnlyToCustomer);
        }
        let rule = self.policy.decide(&Subject {
            prefix,
            source: facts.map_or(Source::Local, |facts| facts.kind),
            peer: self.facts.kind,
            attributes: &attributes.attributes,
        });
        match self.policy.verdict(rule) {
            Verdict::Accept(_) => {
                Ok(Choice { attributes: Arc::clone(attributes), source: path.peer, path: path.id, rule })
            }
            Verdict::Reject => Err(Withheld::Rule(rule)),
        }
    }

    /// The well-known community that forbids it (RFC 1997, RFC 9494 §4.3).
    fn held_back(&self, attributes: &Attributes) -> Option<Community> {
        let held = |community| attributes.communities.contains(&community);
        if attributes.communities.is_empty() {
            return None;
        }
        if held(Community::NO_ADVERTISE) {
            return Some(Community::NO_ADVERTISE);
        }
        if held(Community::LLGR_STALE) && !self.long_lived {
            return Some(Community::LLGR_STALE);
        }
        let inside = [Community::NO_EXPORT, Community::NO_EXPORT_SUBCONFED];
        inside.into_iter().find(|community| self.facts.kind == Source::External && held(*community))
    }

    /// The attributes to tell.
    pub(crate) fn attributes(&self, choice: &Choice, sources: &Sources, local: &Local) -> Attributes {
        let before = &choice.attributes.attributes;
        let mut attributes = before.clone();
        let from = sources.facts(choice.source);
        match self.facts.kind {
            Source::External => self.leave_the_system(&mut attributes, from),
            Source::Internal | Source::Local => self.stay_inside(&mut attributes, from, local),
        }
        let mut prepended: u8 = 0;
        for changes in self.policy.changes(choice.rule, self.facts.kind, before).into_iter().flatten() {
            changes.apply(&mut attributes);
            attributes.next_hop = changes.next_hop.map_or(attributes.next_hop, NextHop::from);
            prepended = prepended.saturating_add(changes.prepend);
        }
        if self.facts.kind == Source::External {
            attributes.as_path = self.terms.sent(&attributes.as_path, self.facts.asn, prepended, local);
            attributes.local_pref = None;
            let value = leaving(self.facts.role, attributes.only_to_customer, self.terms.presented(local));
            attributes.only_to_customer = value.unwrap_or(attributes.only_to_customer);
        }
        attributes
    }

    fn leave_the_system(&self, attributes: &mut Attributes, from: Option<&Facts>) {
        if from.is_some() {
            // A MED speaks to the neighbouring system only (RFC 4271 §5.1.4).
            attributes.med = None;
        }
        attributes.originator_id = None;
        attributes.cluster_list.clear();
        attributes.extended_communities.retain(|community| community.is_transitive());
        attributes.next_hop = self.next_hop(attributes.next_hop, from);
    }

    fn stay_inside(&self, attributes: &mut Attributes, from: Option<&Facts>, local: &Local) {
        attributes.local_pref.get_or_insert(DEFAULT_LOCAL_PREF);
        match from {
            Some(facts) if facts.kind == Source::Internal => {
                attributes.originator_id.get_or_insert_with(|| facts.router_id.get());
                attributes.cluster_list.insert(0, local.cluster().get());
                attributes.next_hop =
                    beyond_the_link(attributes.next_hop).unwrap_or_else(|| self.own_next_hop());
            }
            _ => attributes.next_hop = self.next_hop(attributes.next_hop, from),
        }
    }

    fn next_hop(&self, learned: NextHop, from: Option<&Facts>) -> NextHop {
        let kept = (self.next_hop == NextHopMode::Keep && from.is_some()).then(|| beyond_the_link(learned));
        kept.flatten().unwrap_or_else(|| self.own_next_hop())
    }

    /// Our own address as a next hop. Over a link-local session the address of that session goes with it, or stands in
    /// for it where it is no IPv6 address (RFC 2545 §3, RFC 8950 §3): nothing else need be reachable over such a link.
    fn own_next_hop(&self) -> NextHop {
        let address = match self.next_hop {
            NextHopMode::Own(address) => address,
            NextHopMode::Keep => self.local_address,
        };
        match (address, self.local_address) {
            (IpAddr::V6(address), IpAddr::V6(own)) if own.is_unicast_link_local() && address != own => {
                NextHop::V6 { address, link_local: Some(own) }
            }
            (IpAddr::V4(_), IpAddr::V6(own))
                if own.is_unicast_link_local() && self.dialect.extended_next_hop =>
            {
                NextHop::V6 { address: own, link_local: None }
            }
            _ => address.into(),
        }
    }
}

/// What is left of a next hop on another link than the one it was told on; `None`: nothing.
fn beyond_the_link(next_hop: NextHop) -> Option<NextHop> {
    match next_hop {
        NextHop::V6 { address, .. } if address.is_unicast_link_local() => None,
        NextHop::V6 { address, .. } => Some(NextHop::V6 { address, link_local: None }),
        NextHop::V4(_) => Some(next_hop),
    }
}
