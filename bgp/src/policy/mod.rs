//! Import and export policy as data: rules in order, the first that matches decides, and the verdict can be named.
//!
//! A [`Policy`] is a list of [`Rule`]s, what holds when none matches, and [`Amendment`]s to what was accepted. Conditions
//! are in `community` and `as_path`, changes in `changes`. Nothing here knows peers or the table.

mod as_path;
mod changes;
mod community;

use crate::prefix::{Family, Prefix};
use crate::wire::{Attributes, Community};
pub use as_path::AsPathMatch;
pub use changes::Changes;
pub use community::{CommunityMatch, CommunityValue, CommunityValueError};

/// Rules in order. The default refuses everything (RFC 8212).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Tried from first to last; the first that matches decides.
    pub rules: Vec<Rule>,
    /// What holds when no rule matches.
    pub otherwise: Verdict,
    /// Further changes to what was accepted, by whichever rule: all that match, in order.
    pub finally: Vec<Amendment>,
}

/// One rule: all of its conditions must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What "explain" shows.
    pub name: String,
    /// Any of these; an empty list means any prefix.
    pub prefixes: Vec<PrefixMatch>,
    /// Where the route comes from; `None` means anywhere.
    pub source: Option<Source>,
    /// Whom the route is exchanged with: the sender on import, the listener on export. `None` means anybody.
    pub peer: Option<Source>,
    /// What communities it carries; `None` means any or none.
    pub communities: Option<CommunityMatch>,
    /// The way it came; `None` means any.
    pub as_path: Option<AsPathMatch>,
    /// What to do.
    pub verdict: Verdict,
}

impl Rule {
    /// A rule without conditions: it matches everything.
    pub fn new(name: impl Into<String>, verdict: Verdict) -> Self {
        Self {
            name: name.into(),
            prefixes: Vec::new(),
            source: None,
            peer: None,
            communities: None,
            as_path: None,
            verdict,
        }
    }
}

/// A change to routes that were accepted. Its conditions look at the attributes before any change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Amendment {
    /// What "explain" shows.
    pub name: String,
    /// Whom the route is exchanged with; `None` means anybody.
    pub peer: Option<Source>,
    /// What communities it carries; `None` means any or none.
    pub communities: Option<CommunityMatch>,
    /// What changes.
    pub changes: Changes,
}

impl Amendment {
    /// For import: what an external peer marks with GRACEFUL_SHUTDOWN is used only if there is nothing else
    /// (RFC 8326 §4.2).
    pub fn graceful_shutdown() -> Self {
        Self {
            name: "built-in/graceful-shutdown".to_owned(),
            peer: Some(Source::External),
            communities: Some(CommunityMatch::any([Community::GRACEFUL_SHUTDOWN.into()])),
            changes: Changes { local_pref: Some(0), ..Changes::default() },
        }
    }

    /// For export, before this node goes: external peers see GRACEFUL_SHUTDOWN, internal ones a LOCAL_PREF of 0
    /// (RFC 8326 §4.1).
    pub fn drain() -> [Self; 2] {
        let amendment = |name: &str, peer, changes| Self {
            name: name.to_owned(),
            peer: Some(peer),
            communities: None,
            changes,
        };
        let tag = Changes { add_communities: [Community::GRACEFUL_SHUTDOWN].into(), ..Changes::default() };
        let least = Changes { local_pref: Some(0), ..Changes::default() };
        [
            amendment("built-in/drain-external", Source::External, tag),
            amendment("built-in/drain-internal", Source::Internal, least),
        ]
    }

    fn matches(&self, peer: Source, attributes: &Attributes) -> bool {
        self.peer.is_none_or(|wanted| wanted == peer)
            && self.communities.as_ref().is_none_or(|wanted| wanted.matches(attributes))
    }
}

/// Prefixes inside `prefix` whose length lies between the two bounds, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixMatch {
    /// The covering prefix.
    pub prefix: Prefix,
    /// The least length, in bits.
    pub min_len: u8,
    /// The greatest length, in bits.
    pub max_len: u8,
}

impl PrefixMatch {
    /// Exactly this prefix.
    pub fn exact(prefix: Prefix) -> Self {
        Self { prefix, min_len: prefix.len(), max_len: prefix.len() }
    }

    /// This prefix and everything more specific inside it.
    pub fn within(prefix: Prefix) -> Self {
        let widest = match prefix.family() {
            Family::Ipv4Unicast => 32,
            Family::Ipv6Unicast => 128,
        };
        Self { prefix, min_len: prefix.len(), max_len: widest }
    }

    fn matches(&self, prefix: &Prefix) -> bool {
        (self.min_len..=self.max_len).contains(&prefix.len()) && self.prefix.contains(prefix)
    }
}

/// Where a route comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Originated here.
    Local,
    /// Learned from a peer of our own AS.
    Internal,
    /// Learned from a peer of another AS.
    External,
}

/// What a policy decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a policy has a handful of rules, and nearly all accept")]
pub enum Verdict {
    /// The route passes, with these changes.
    Accept(Changes),
    /// The route does not pass.
    #[default]
    Reject,
}

/// A route that a policy is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Which prefix.
    pub prefix: &'a Prefix,
    /// Where it comes from.
    pub source: Source,
    /// Whom it is exchanged with: the sender on import, the listener on export.
    pub peer: Source,
    /// What is said about it, before this policy.
    pub attributes: &'a Attributes,
}

/// The rule that decided: its place in [`Policy::rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RuleIndex(u16);

impl RuleIndex {
    /// No rule matched: [`Policy::otherwise`] decided.
    pub(crate) const OTHERWISE: Self = Self(u16::MAX);
}

impl Policy {
    /// Accepts everything unchanged.
    pub fn accept_all() -> Self {
        Self { otherwise: Verdict::Accept(Changes::default()), ..Self::default() }
    }

    /// Refuses everything.
    pub fn reject_all() -> Self {
        Self::default()
    }

    /// The verdict on a route and the name of the rule that gave it (`None`: no rule matched). What [`Self::finally`]
    /// adds is not in it.
    pub fn evaluate(&self, subject: &Subject<'_>) -> (&Verdict, Option<&str>) {
        let rule = self.decide(subject);
        (self.verdict(rule), self.rule_name(rule))
    }

    pub(crate) fn decide(&self, subject: &Subject<'_>) -> RuleIndex {
        let index = self.rules.iter().position(|rule| rule.matches(subject));
        index.and_then(|index| u16::try_from(index).ok()).map_or(RuleIndex::OTHERWISE, RuleIndex)
    }

    pub(crate) fn verdict(&self, rule: RuleIndex) -> &Verdict {
        self.rules.get(usize::from(rule.0)).map_or(&self.otherwise, |rule| &rule.verdict)
    }

    pub(crate) fn rule_name(&self, rule: RuleIndex) -> Option<&str> {
        self.rules.get(usize::from(rule.0)).map(|rule| rule.name.as_str())
    }

    /// The amendments to what was accepted with these attributes.
    pub(crate) fn amendments<'a>(
        &'a self,
        peer: Source,
        attributes: &'a Attributes,
    ) -> impl Iterator<Item = &'a Amendment> {
        self.finally.iter().filter(move |amendment| amendment.matches(peer, attributes))
    }

    /// All that changes about a route which this rule accepted, in order: what the rule says, then the amendments.
    /// `None`: it was not accepted.
    pub(crate) fn changes<'a>(
        &'a self,
        rule: RuleIndex,
        peer: Source,
        attributes: &'a Attributes,
    ) -> Option<impl Iterator<Item = &'a Changes>> {
        let Verdict::Accept(changes) = self.verdict(rule) else { return None };
        let amendments = self.amendments(peer, attributes).map(|amendment| &amendment.changes);
        Some(std::iter::once(changes).chain(amendments).filter(|changes| !changes.is_empty()))
    }
}

impl Rule {
    /// Conditions on the prefix come before those on attributes: they cost less and leave little to look at.
    fn matches(&self, subject: &Subject<'_>) -> bool {
        self.source.is_none_or(|wanted| wanted == subject.source)
            && self.peer.is_none_or(|wanted| wanted == subject.peer)
            && (self.prefixes.is_empty() || self.prefixes.iter().any(|entry| entry.matches(subject.prefix)))
            && self.as_path.as_ref().is_none_or(|wanted| wanted.matches(&subject.attributes.as_path))
            && self.communities.as_ref().is_none_or(|wanted| wanted.matches(subject.attributes))
    }
}

#[cfg(test)]
mod tests;
