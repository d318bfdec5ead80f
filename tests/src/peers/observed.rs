//! What daemons show, in one form for all of them.

use std::collections::BTreeSet;

/// The state of a session as the daemon tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// Whether it is established.
    pub established: bool,
    /// The state in the daemon's own word.
    pub state: String,
    /// All that the daemon prints about the session: negotiated capabilities, errors, shutdown messages.
    pub words: String,
    /// UPDATE messages (BIRD, which counts no messages: routes) received in this session.
    pub updates: u64,
    /// ROUTE-REFRESH messages received, their beginnings and ends included.
    pub refreshes: u64,
}

impl Session {
    /// Whether the daemon's own words contain `text`, whatever the case.
    pub fn says(&self, text: &str) -> bool {
        self.words.to_lowercase().contains(&text.to_lowercase())
    }
}

/// A path that a daemon received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The prefix.
    pub prefix: String,
    /// The next hops, one or both of a 32-octet one.
    pub next_hops: BTreeSet<String>,
    /// AS_PATH without sets.
    pub as_path: Vec<u32>,
    /// Communities as `65001:7`.
    pub communities: BTreeSet<String>,
    /// Large communities as `1:2:3`.
    pub large_communities: BTreeSet<String>,
    /// Route targets as `65001:7`.
    pub route_targets: BTreeSet<String>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// Kept from a session that ended.
    pub stale: bool,
    /// All that the daemon prints about the path, for what only some of them know.
    pub words: String,
}
