//! What the agent's BGP speaker knows: why a prefix is where it is, and its tables.

use std::fmt;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::{Ask, Question};

/// What the speaker can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BgpQuestion {
    /// Why a prefix is where it is.
    Explain(Explain),
    /// A part of a table.
    Routes(RoutesQuestion),
}

/// Asks why a prefix is where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explain {
    /// Which.
    pub prefix: IpNetwork,
    /// Of the longest prefix with a path that holds it, if it has no path itself.
    #[serde(default)]
    pub covering: bool,
}

impl Ask for Explain {
    type Answer = Explained;

    fn question(&self) -> Question {
        Question::Bgp(BgpQuestion::Explain(self.clone()))
    }
}

/// All about one prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// Which prefix: what was asked for, or one that holds it.
    pub prefix: IpNetwork,
    /// All paths known, our own first; empty if the prefix is unknown.
    #[serde(default)]
    pub paths: Vec<Path>,
    /// The place of the best one in `paths`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<usize>,
    /// The step of the decision that preferred it to the runner-up, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The next hops in use; empty of what the node announces itself.
    #[serde(default)]
    pub next_hops: Vec<String>,
    /// Every peer: what it is told, or why not.
    #[serde(default)]
    pub told: Vec<Told>,
}

/// One path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Path {
    /// Whose; `None`: the node's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// What import made of it.
    pub import: Import,
    /// The step of the decision at which it lost, in words; `None` of the best one, and of one that took no part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_at: Option<String>,
    /// Whether it carries traffic.
    pub selected: bool,
    /// Whether its peer is away and it is kept for a while (RFC 4724).
    pub stale: bool,
    /// What the peer said.
    pub received: Attributes,
    /// What the decision saw, where policy changed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<Attributes>,
}

/// What import made of a path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Import {
    /// Whether it takes part in the decision.
    pub accepted: bool,
    /// The rule of policy that decided; `None`: no rule matched, or policy was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The amendments of policy that changed it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub amended: Vec<String>,
    /// In words: `accepted by rule from-tor/data-centre`.
    pub verdict: String,
}

/// What a route says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Attributes {
    /// The next hop; empty of what the node announces itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next_hop: String,
    /// The AS path, empty inside the AS.
    pub as_path: String,
    /// `IGP`, `EGP` or `incomplete`.
    pub origin: String,
    /// MED.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    /// Local preference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    /// The AS whose customers alone may have it (RFC 9234).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only_to_customer: Option<u32>,
    /// Communities in the usual notation: standard, extended, large.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<String>,
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.next_hop.is_empty() {
            write!(f, "next hop {}, ", self.next_hop)?;
        }
        match self.as_path.is_empty() {
            true => f.write_str("empty AS path")?,
            false => write!(f, "AS path {}", self.as_path)?,
        }
        write!(f, ", origin {}", self.origin)?;
        for (name, value) in [
            ("local preference", self.local_pref),
            ("MED", self.med),
            ("only to customer", self.only_to_customer),
        ] {
            if let Some(value) = value {
                write!(f, ", {name} {value}")?;
            }
        }
        match self.communities.is_empty() {
            true => Ok(()),
            false => write!(f, ", communities {}", self.communities.join(" ")),
        }
    }
}

/// One peer's share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Told {
    /// Whom.
    pub peer: String,
    /// The place in [`Explained::paths`] of the path that this is about, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<usize>,
    /// What the peer reads; `None`: it is not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Attributes>,
    /// Whether it is on its way or there; `false` while the connection cannot take it.
    pub sent: bool,
    /// The rule of export policy that decided; `None`: no rule matched, or policy was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The amendments of export policy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub amended: Vec<String>,
    /// In words: `accepted by rule to-tor/blocks`, or why it is not told.
    pub verdict: String,
}

/// Asks for a part of a table: an answer holds a bounded number of routes, and says where the next one begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RoutesQuestion {
    /// Which table.
    pub side: Side,
    /// Only what this peer said or is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Only prefixes that lie in this network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<IpNetwork>,
    /// At most so many routes; 0 stands for 10,000.
    pub most: u32,
}

impl Ask for RoutesQuestion {
    type Answer = Routes;

    fn question(&self) -> Question {
        Question::Bgp(BgpQuestion::Routes(self.clone()))
    }
}

/// Which table of the speaker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Side {
    /// Each prefix with its best path (Loc-RIB).
    #[default]
    Best,
    /// What peers said, those that policy refused too (Adj-RIB-In).
    In,
    /// What peers are told (Adj-RIB-Out).
    Out,
}

/// A part of a table, in the order of prefixes. One question may have several such answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Routes {
    /// The routes.
    pub routes: Vec<RouteLine>,
    /// How many were left out because there are more than were asked for.
    pub left_out: u64,
}

/// One route of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteLine {
    /// Destination.
    pub prefix: IpNetwork,
    /// Who said it, or who is told; `None`: the node's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// What it says of itself.
    #[serde(default)]
    pub attributes: Attributes,
    /// What became of it, in words: `best`, `lost at AS path length`, `rejected by rule from-tor/everything-else`.
    #[serde(default)]
    pub verdict: String,
    /// Whether it carries traffic.
    #[serde(default)]
    pub selected: bool,
}
