//! The machine of one node.

pub(crate) mod door;

use std::collections::VecDeque;
use std::time::Instant;

use crate::endpoint::Endpoint;
use crate::journal::Recovered;
use crate::name::NodeName;
use crate::usage::Usage;
use door::{Input, Limits, Output};

/// The addresses of one node.
#[derive(Debug)]
pub struct NodeIpam {
    outputs: VecDeque<Output>,
    endpoints: Vec<Endpoint>,
}

impl NodeIpam {
    /// Starts from what the record says; [`Recovered::default`] after a boot.
    pub fn new(_node: NodeName, _limits: Limits, recovered: Recovered, _now: Instant) -> Self {
        Self { outputs: VecDeque::new(), endpoints: recovered.endpoints }
    }

    /// Feeds one fact or request. Never fails: what is wrong becomes an output.
    pub fn handle(&mut self, _input: Input, _now: Instant) {}

    /// Takes the next output, or `None` once drained.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due next.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// The endpoints that have addresses, by id.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter()
    }

    /// The endpoints that were freed and whose link still exists.
    pub fn leaving(&self) -> impl Iterator<Item = &Endpoint> {
        std::iter::empty()
    }

    /// Figures for status.
    pub fn usage(&self) -> Usage {
        Usage::default()
    }
}
