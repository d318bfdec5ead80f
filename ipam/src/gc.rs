//! Blocks of nodes that are gone for good: the controller's part.
//!
//! A node returns its own empty blocks. Only what a deleted node left behind is for the controller, and only
//! after a grace: a node that comes back under its name with its pods running must find its blocks as they
//! were.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::name::{BlockId, NodeName};

/// What the controller knows of a node's life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeLife {
    /// Since when there is no Node object of that name, as far as this controller saw; `None` while there is
    /// one.
    pub gone_since: Option<Instant>,
    /// The last sign of life of the agent of that name, if any was seen.
    pub agent_seen: Option<Instant>,
}

impl NodeLife {
    /// A node whose Node object exists.
    pub fn present() -> Self {
        Self::default()
    }

    /// A node whose Node object is missing since `since`, and of whose agent nothing was heard.
    pub fn gone(since: Instant) -> Self {
        Self { gone_since: Some(since), agent_seen: None }
    }

    /// Whether the node is gone and its agent silent, both for `grace`.
    pub fn is_over(&self, grace: Duration, now: Instant) -> bool {
        let past = |since: Instant| now.saturating_duration_since(since) >= grace;
        self.gone_since.is_some_and(past) && self.agent_seen.is_none_or(past)
    }
}

/// The blocks to delete: those whose node is gone, and whose agent is silent, both for `grace`.
///
/// A node that is not in `nodes` keeps its blocks. The controller adds each owner that it finds in `blocks`
/// but has no Node object for, as [`NodeLife::gone`] with the present time; so that a controller that has
/// just started waits a whole grace too.
pub fn garbage(
    blocks: &BTreeMap<BlockId, NodeName>,
    nodes: &BTreeMap<NodeName, NodeLife>,
    grace: Duration,
    now: Instant,
) -> Vec<BlockId> {
    let over = |node| nodes.get(node).is_some_and(|life| life.is_over(grace, now));
    blocks.iter().filter(|(_, node)| over(*node)).map(|(block, _)| *block).collect()
}

#[cfg(test)]
mod tests;
