//! Import and export policy as data: rules in order, the first that matches decides, and the verdict can be named.

use std::collections::BTreeSet;

use crate::prefix::Prefix;
use crate::wire::{Community, LargeCommunity};

/// Rules in order. The default refuses everything (RFC 8212).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Tried from first to last.
    pub rules: Vec<Rule>,
    /// What holds when no rule matches.
    pub otherwise: Verdict,
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
    /// What to do.
    pub verdict: Verdict,
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
            crate::prefix::Family::Ipv4Unicast => 32,
            crate::prefix::Family::Ipv6Unicast => 128,
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
pub enum Verdict {
    /// The route passes, with these changes.
    Accept(Changes),
    /// The route does not pass.
    #[default]
    Reject,
}

/// What an accepting rule changes about a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Sets LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// Sets MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// Adds these to COMMUNITIES.
    pub add_communities: BTreeSet<Community>,
    /// Adds these to LARGE_COMMUNITY.
    pub add_large_communities: BTreeSet<LargeCommunity>,
    /// Prepends our AS this many more times (export to external peers only).
    pub prepend: u8,
}

impl Changes {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
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
        Self { rules: Vec::new(), otherwise: Verdict::Accept(Changes::default()) }
    }

    /// Refuses everything.
    pub fn reject_all() -> Self {
        Self::default()
    }

    /// The verdict on `prefix` and the name of the rule that gave it (`None`: no rule matched).
    pub fn evaluate(&self, prefix: &Prefix, source: Source) -> (&Verdict, Option<&str>) {
        let rule = self.decide(prefix, source);
        (self.verdict(rule), self.rule_name(rule))
    }

    pub(crate) fn decide(&self, prefix: &Prefix, source: Source) -> RuleIndex {
        let index = self.rules.iter().position(|rule| rule.matches(prefix, source));
        index.and_then(|index| u16::try_from(index).ok()).map_or(RuleIndex::OTHERWISE, RuleIndex)
    }

    pub(crate) fn verdict(&self, rule: RuleIndex) -> &Verdict {
        self.rules.get(usize::from(rule.0)).map_or(&self.otherwise, |rule| &rule.verdict)
    }

    pub(crate) fn rule_name(&self, rule: RuleIndex) -> Option<&str> {
        self.rules.get(usize::from(rule.0)).map(|rule| rule.name.as_str())
    }
}

impl Rule {
    fn matches(&self, prefix: &Prefix, source: Source) -> bool {
        self.source.is_none_or(|wanted| wanted == source)
            && (self.prefixes.is_empty() || self.prefixes.iter().any(|entry| entry.matches(prefix)))
    }
}
