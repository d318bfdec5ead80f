//! Which node this is, what runs there, and how its agent is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Ask, Question};

/// Asks which node this is and how its agent is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeQuestion {}

impl Ask for NodeQuestion {
    type Answer = NodeFacts;

    fn question(&self) -> Question {
        Question::Node(self.clone())
    }
}

/// Which node this is, what runs there, and how its agent is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeFacts {
    /// The node's name, as its agent is told; else the host's.
    pub name: String,
    /// The version of the program that answers.
    pub version: String,
    /// Such as `6.12.30-amd64`.
    pub kernel_release: String,
    /// Seconds since the machine started.
    pub uptime_seconds: u64,
    /// The time of day there, in nanoseconds since 1970.
    pub time: u64,
    /// How the agent is.
    pub agent: Agent,
    /// What the kernel has of what Manx uses, by name; `false`: it does not. What could not be found out is not there.
    pub features: BTreeMap<String, bool>,
    /// Tracked connections now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conntrack: Option<u64>,
    /// The most connections that are tracked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conntrack_max: Option<u64>,
    /// Octets of memory that could be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_available: Option<u64>,
    /// What could not be read, each with why: lower-case fragments.
    pub unread: Vec<String>,
}

/// How the agent is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Agent {
    /// Whether a process holds the run directory: one runs, whether it answers or not.
    pub running: bool,
    /// Whether it says that it lives.
    pub alive: bool,
    /// Whether it says that it serves.
    pub ready: bool,
    /// What keeps it from living or serving, in its words; or why it cannot be asked.
    pub obstacles: Vec<String>,
}
