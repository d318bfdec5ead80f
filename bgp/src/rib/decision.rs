//! Which path is best, and why (RFC 4271 §9.1.2.2, RFC 4456 §9).
//!
//! Paths are eliminated step by step, as the RFC has it, and not by comparing pairs: MED counts only among paths from
//! the same AS, so "better than" is no order and the winner of pairwise duels would depend on who meets whom first.

use std::fmt;

/// The step of the decision process that preferred one path to another, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Our own routes come first.
    Local,
    /// Highest LOCAL_PREF (RFC 4271 §9.1.1).
    LocalPref,
    /// Shortest AS_PATH.
    AsPathLength,
    /// Lowest ORIGIN.
    Origin,
    /// Lowest MULTI_EXIT_DISC among routes from the same AS.
    Med,
    /// External before internal.
    External,
    /// Lowest BGP identifier, ORIGINATOR_ID in its place (RFC 4456 §9).
    RouterId,
    /// Shortest CLUSTER_LIST (RFC 4456 §9).
    ClusterList,
    /// Lowest address of the peer.
    PeerAddress,
}

impl Step {
    /// All steps, first to last.
    pub const ALL: [Self; 9] = [
        Self::Local,
        Self::LocalPref,
        Self::AsPathLength,
        Self::Origin,
        Self::Med,
        Self::External,
        Self::RouterId,
        Self::ClusterList,
        Self::PeerAddress,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "own route",
            Self::LocalPref => "local preference",
            Self::AsPathLength => "AS path length",
            Self::Origin => "origin",
            Self::Med => "MED",
            Self::External => "external over internal",
            Self::RouterId => "router id",
            Self::ClusterList => "cluster list length",
            Self::PeerAddress => "peer address",
        })
    }
}
