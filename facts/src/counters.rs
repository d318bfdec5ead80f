//! What a node's agent has counted, again and again: the part of its metrics that a live view is made of.

use serde::{Deserialize, Serialize};

use crate::{Ask, Question};

/// Asks for what the agent counts, until nobody listens any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CountersQuestion {
    /// Milliseconds from one answer to the next; 0: a second.
    pub every: u64,
}

impl Ask for CountersQuestion {
    type Answer = Counters;

    fn question(&self) -> Question {
        Question::Counters(self.clone())
    }
}

/// What the agent has counted since its process began, and what it has now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counters {
    /// The time of day there, in nanoseconds since 1970.
    pub time: u64,
    /// Whether pods can start.
    pub ready: bool,
    /// Pods that have addresses; one with two networks counts twice, here and below.
    pub pods: u64,
    /// Pods that were given addresses, each once, however often its ADD came.
    pub started: u64,
    /// ADDs of the plugin that did not get what they asked for.
    pub failed: u64,
    /// Pods whose addresses were freed, each once, however often its DEL came.
    pub stopped: u64,
    /// Routes that are wanted in the kernel.
    pub routes_desired: u64,
    /// Routes of Manx in the kernel.
    pub routes_installed: u64,
    /// Operations on routes that the kernel was asked for.
    pub routes_changed: u64,
    /// Routes that others removed or changed, put right.
    pub drift: u64,
    /// Octets of memory of the agent.
    pub memory: u64,
    /// Seconds on a processor.
    pub cpu_seconds: f64,
    /// The peers of which something is not as in the answer before; in the first answer all.
    pub peers: Vec<PeerCounters>,
}

/// What was counted of one peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerCounters {
    /// `node/NAME` or `peer/NAME`, as in the status of the node.
    pub peer: String,
    /// 0 Idle, 1 Connect, 2 Active, 3 OpenSent, 4 OpenConfirm, 5 Established.
    pub state: u8,
    /// Messages from the peer.
    pub messages_in: u64,
    /// Messages to the peer.
    pub messages_out: u64,
    /// Prefixes received, before policy.
    pub received: u64,
    /// Prefixes that import policy let through.
    pub accepted: u64,
    /// Prefixes announced to the peer.
    pub announced: u64,
    /// Times that the session went down.
    pub dropped: u64,
}
