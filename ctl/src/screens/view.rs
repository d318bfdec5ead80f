//! What a screen shows, as data: made by `state`, drawn in a terminal by `top` and in a browser by `ui`.

use manx_api::SessionState;
use serde::Serialize;

use super::rates::Rates;
use crate::finding::Finding;

/// Everything that a screen may show.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct View {
    /// The whole cluster in a few numbers.
    pub(crate) summary: Summary,
    /// Nodes by name.
    pub(crate) nodes: Vec<NodeView>,
    /// Peers that are no nodes of the cluster, by name.
    pub(crate) routers: Vec<RouterView>,
    /// Sessions as each of their nodes sees them, by node and peer.
    pub(crate) sessions: Vec<SessionView>,
    /// Pools by name.
    pub(crate) pools: Vec<PoolView>,
    /// Claimed blocks by pool and address.
    pub(crate) blocks: Vec<BlockView>,
    /// What is wrong, the worst first.
    pub(crate) findings: Vec<Finding>,
}

/// The whole cluster in a few numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    /// Whose cluster this is: the context of the kubeconfig.
    pub(crate) cluster: String,
    /// Whether all objects have been read once.
    pub(crate) complete: bool,
    /// Why what is shown may be old; empty when it is not.
    pub(crate) troubles: Vec<String>,
    /// Nodes.
    pub(crate) nodes: usize,
    /// Nodes that are ready.
    pub(crate) nodes_ready: usize,
    /// Nodes that answer questions.
    pub(crate) nodes_asked: usize,
    /// Sessions, each counted at every node that has it.
    pub(crate) sessions: usize,
    /// Those that are up.
    pub(crate) sessions_up: usize,
    /// Claimed blocks.
    pub(crate) blocks: usize,
    /// Addresses in use.
    pub(crate) used: u64,
    /// Addresses that can be given from claimed blocks.
    pub(crate) free: u64,
    /// The sum over all nodes that answer.
    pub(crate) rates: Rates,
    /// Pods started, pods stopped and operations on routes per second, over the last minutes, oldest first.
    pub(crate) history: Vec<[f64; 3]>,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeView {
    /// Its name.
    pub(crate) name: String,
    /// Where it stands: its rack, its zone, or the routers it talks to; empty when nothing tells nodes apart.
    pub(crate) group: String,
    /// Its addresses.
    pub(crate) addresses: Vec<String>,
    /// Its AS.
    pub(crate) as_number: u32,
    /// It reflects routes to others.
    pub(crate) reflector: bool,
    /// Whether it is ready; `None` when its agent has not said.
    pub(crate) ready: Option<bool>,
    /// Version of its agent.
    pub(crate) version: String,
    /// Sessions that are up.
    pub(crate) sessions_up: usize,
    /// Sessions that should be.
    pub(crate) sessions: usize,
    /// Blocks.
    pub(crate) blocks: usize,
    /// Addresses in use.
    pub(crate) used: u64,
    /// Addresses that can be given now.
    pub(crate) free: u64,
    /// How many things are wrong that concern it.
    pub(crate) findings: usize,
    /// How many of them are errors of its own.
    pub(crate) errors: usize,
    /// What it does, if it answers.
    #[serde(skip)]
    pub(crate) rates: Option<Rates>,
    /// Why it does not answer.
    pub(crate) away: Option<String>,
    /// When it last answered, in seconds since 1970, if it should have since.
    pub(crate) silent_since: Option<i64>,
}

/// A peer that is no node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RouterView {
    /// Such as `peer/tor`.
    pub(crate) name: String,
    /// The peers that nodes have it by, such as `peer/tor-node1`.
    pub(crate) peers: Vec<String>,
    /// Its addresses.
    pub(crate) addresses: Vec<String>,
    /// Its AS.
    pub(crate) as_number: Option<u32>,
    /// Sessions of nodes with it that are up.
    pub(crate) sessions_up: usize,
    /// Sessions of nodes with it.
    pub(crate) sessions: usize,
}

/// One session, as one of its nodes sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SessionView {
    /// The node that tells.
    pub(crate) node: String,
    /// Such as `node/node2` or `peer/tor`.
    pub(crate) peer: String,
    /// The router that the peer is, if it is no node: its name among [`View::routers`].
    pub(crate) router: Option<String>,
    /// The peer's address.
    pub(crate) address: String,
    /// The peer's AS.
    pub(crate) as_number: Option<u32>,
    /// Its state.
    pub(crate) state: SessionState,
    /// Whether it is established.
    pub(crate) up: bool,
    /// Since when it is in this state, in seconds since 1970.
    pub(crate) since: i64,
    /// Prefixes received, before policy.
    pub(crate) received: u64,
    /// Prefixes that policy let through.
    pub(crate) accepted: u64,
    /// Prefixes that the peer was told.
    pub(crate) advertised: u64,
    /// Times that it went down.
    pub(crate) flaps: u64,
    /// Why it last ended.
    pub(crate) error: String,
    /// When, in seconds since 1970.
    pub(crate) error_at: Option<i64>,
    /// Messages per second from and to the peer, if its node answers.
    #[serde(skip)]
    pub(crate) messages: Option<(f64, f64)>,
}

/// One pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PoolView {
    /// Its name.
    pub(crate) name: String,
    /// Its prefix.
    pub(crate) cidr: String,
    /// Prefix length of its blocks.
    pub(crate) block_len: u8,
    /// How many blocks it can be cut into, as far as a number tells.
    pub(crate) places: f64,
    /// Claimed blocks.
    pub(crate) blocks: usize,
    /// Addresses of the whole pool.
    pub(crate) capacity: f64,
    /// Addresses in use.
    pub(crate) used: u64,
    /// Addresses in claimed blocks that can be given.
    pub(crate) free: u64,
    /// What is claimed of the pool, 0 to 1.
    pub(crate) claimed: f64,
    /// Whether it gives addresses.
    pub(crate) ready: bool,
    /// How many things are wrong with it.
    pub(crate) findings: usize,
}

/// One claimed block.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BlockView {
    /// Its network.
    pub(crate) cidr: String,
    /// Its pool.
    pub(crate) pool: String,
    /// Its owner.
    pub(crate) node: String,
    /// Which block of its pool it is, counted from 0.
    pub(crate) place: f64,
    /// Addresses in use.
    pub(crate) used: u32,
    /// Addresses that can be given.
    pub(crate) free: u32,
    /// Whether its owner runs an agent.
    pub(crate) owned: bool,
}
