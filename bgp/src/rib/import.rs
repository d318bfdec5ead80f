//! What a peer announces on its way into the table: loop checks, import policy, and policy applied again.

use std::net::IpAddr;
use std::sync::Arc;

use super::path::{Import, Path, PeerIndex, Shared};
use super::terms::{Terms, arriving};
use super::{Facts, Rib};
use crate::config::{Local, NextHopMode};
use crate::policy::{Changes, Policy, RuleIndex, Source, Subject};
use crate::prefix::{Family, Prefix, is_link_local};
use crate::wire::{Announcement, Attributes, Community, NextHop, Nlri};

/// What a family of a peer is checked against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen<'a> {
    /// Who announces.
    pub(crate) peer: PeerIndex,
    /// Internal or external.
    pub(crate) kind: Source,
    /// What holds about its AS and ours.
    pub(crate) terms: Terms,
    /// Import policy.
    pub(crate) policy: &'a Policy,
    /// Our end of the session: no next hop of ours.
    pub(crate) local_address: IpAddr,
    /// The next hop that we tell.
    pub(crate) own: NextHopMode,
}

impl Screen<'_> {
    fn decide(&self, prefix: &Prefix, attributes: &Attributes) -> RuleIndex {
        self.policy.decide(&Subject { prefix, source: self.kind, peer: self.kind, attributes })
    }

    /// Whether a next hop is our end of the session, or what we tell as ours on it.
    fn is_ours(&self, next_hop: NextHop) -> bool {
        let ours = |address: IpAddr| address == self.local_address || self.own == NextHopMode::Own(address);
        match next_hop {
            NextHop::V6 { link_local: Some(link_local), .. } => {
                ours(next_hop.address()) || ours(link_local.into())
            }
            NextHop::V6 { .. } | NextHop::V4(_) => ours(next_hop.address()),
        }
    }

    /// What holds whatever policy says.
    fn check(&self, attributes: &Attributes, facts: Option<&Facts>, local: &Local) -> Import {
        let value = attributes.only_to_customer;
        if self.terms.loops(&attributes.as_path, local) {
            Import::AsLoop
        } else if attributes.originator_id == Some(local.router_id.get())
            || attributes.cluster_list.contains(&local.cluster().get())
        {
            Import::ReflectionLoop
        } else if self.is_ours(attributes.next_hop) {
            Import::OwnNextHop
        } else if facts.is_some_and(|facts| arriving(facts.role, value, facts.asn).is_err()) {
            Import::Leak
        } else if facts.is_none_or(|facts| facts.zone == 0) && is_link_local(attributes.next_hop.address()) {
            Import::NextHopOffLink
        } else {
            Import::Accepted
        }
    }

    /// What an accepting rule makes of a route, and its attributes if they change.
    fn admit<'a>(
        &self,
        changes: impl Iterator<Item = &'a Changes>,
        received: &Attributes,
        facts: Option<&Facts>,
        local: &Local,
    ) -> (Import, Option<Attributes>) {
        let mut changed: Option<Attributes> = None;
        let mut blackhole = false;
        for changes in changes {
            let attributes = changed.get_or_insert_with(|| received.clone());
            changes.apply(attributes);
            attributes.next_hop = changes.next_hop.map_or(attributes.next_hop, NextHop::from);
            if self.kind == Source::External
                && let (1.., Some(first)) = (changes.prepend, attributes.as_path.first())
            {
                attributes.as_path = attributes.as_path.prepended(first, changes.prepend.into());
            }
            blackhole |= changes.blackhole;
        }
        if blackhole {
            changed.get_or_insert_with(|| received.clone()).communities.insert(Community::NO_ADVERTISE);
        } else if self.kind == Source::External && received.communities.contains(&Community::BLACKHOLE) {
            return (Import::Blackhole, None);
        }
        if self.kind == Source::External {
            let path = &changed.as_ref().unwrap_or(received).as_path;
            if let Some(path) = self.terms.received(path, local) {
                changed.get_or_insert_with(|| received.clone()).as_path = path;
            }
        }
        let value = facts.map(|facts| arriving(facts.role, received.only_to_customer, facts.asn));
        if let Some(Ok(value)) = value
            && value != received.only_to_customer
        {
            changed.get_or_insert_with(|| received.clone()).only_to_customer = value;
        }
        (if blackhole { Import::Discarded } else { Import::Accepted }, changed)
    }
}

/// The outcome of policy for one attribute set under one rule; most prefixes of a message share it.
type Memo = Option<(RuleIndex, Import, Shared)>;

impl Rib {
    /// Takes what a peer announces, at most `room` prefixes that it had not announced before. Says whether there were
    /// more: then the limit is broken and the rest is left out.
    pub(crate) fn announce(&mut self, screen: &Screen<'_>, announcement: Announcement, room: u32) -> bool {
        let received = self.interner.intern(announcement.attributes);
        let checked = screen.check(&received.attributes, self.sources.facts(screen.peer), &self.local);
        self.nets.warm(&announcement.prefixes);
        let mut memo = None;
        let mut room = room;
        for Nlri { prefix, path: id } in announcement.prefixes {
            let rule = screen.decide(&prefix, &received.attributes);
            let (import, set) = self.judge(screen, &received, checked, rule, &mut memo);
            let path = Path { set, peer: screen.peer, id, rule, import, stale: false, long_lived: false };
            if self.store(prefix, path) {
                if room == 0 {
                    return true;
                }
                room -= 1;
            }
        }
        false
    }

    fn judge(
        &mut self,
        screen: &Screen<'_>,
        received: &Shared,
        checked: Import,
        rule: RuleIndex,
        memo: &mut Memo,
    ) -> (Import, Shared) {
        if let Some((known, import, set)) = memo
            && *known == rule
        {
            return (*import, Arc::clone(set));
        }
        let changes = screen.policy.changes(rule, screen.kind, &received.attributes);
        let (import, changed) = match changes {
            _ if checked != Import::Accepted => (checked, None),
            None => (Import::Rejected, None),
            Some(changes) => {
                let facts = self.sources.facts(screen.peer);
                screen.admit(changes, &received.attributes, facts, &self.local)
            }
        };
        let set = changed.map_or_else(
            || Arc::clone(received),
            |attributes| self.interner.intern_from(attributes, Some(received)),
        );
        *memo = Some((rule, import, Arc::clone(&set)));
        (import, set)
    }

    /// Applies a changed import policy to all that the peer has announced.
    pub(crate) fn import_again(&mut self, screen: &Screen<'_>, family: Family) {
        for id in self.of_peer(screen.peer, family, |_| true) {
            let Some(net) = self.nets.get(id) else { continue };
            let prefix = net.prefix;
            let of_peer = net.paths.as_slice().iter().filter(|path| path.peer == screen.peer);
            for mut path in of_peer.cloned().collect::<Vec<_>>() {
                let received = Arc::clone(path.received());
                let rule = screen.decide(&prefix, &received.attributes);
                let facts = self.sources.facts(screen.peer);
                let checked = screen.check(&received.attributes, facts, &self.local);
                (path.import, path.set) = self.judge(screen, &received, checked, rule, &mut None);
                path.rule = rule;
                if path.long_lived {
                    path.set = self.marked(&path);
                }
                self.store(prefix, path);
            }
        }
    }
}
