//! Figures for status: how much of each block and pool is in use on this node.

use crate::endpoint::Endpoint;
use crate::name::BlockId;

/// How a node stands to a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// A claim is out.
    Claiming,
    /// By the record; the cluster has not been heard yet.
    Remembered,
    /// This node's.
    Owned,
    /// Was this node's, has endpoints, and nobody's now: being claimed again.
    Vanished,
    /// Another node's, although endpoints here have addresses in it.
    Foreign,
    /// On its way back.
    Releasing,
}

/// One block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockUsage {
    /// Which.
    pub block: BlockId,
    /// Its pool, if that selects this node.
    pub pool: Option<String>,
    /// How this node stands to it.
    pub standing: Standing,
    /// Addresses that endpoints have.
    pub used: u32,
    /// Addresses that can be given now.
    pub free: u32,
    /// Addresses freed but not yet usable: the link still exists, or the cooldown runs.
    pub resting: u32,
    /// The endpoints with an address in it, by address.
    pub allocations: Vec<Endpoint>,
}

/// How much room there is in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Which.
    pub block: BlockId,
    /// How this node stands to it.
    pub standing: Standing,
    /// Addresses that can be given now.
    pub free: u32,
    /// Addresses that endpoints have, or that are freed but not yet usable.
    pub out: u32,
}

/// One pool, as far as this node's blocks go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolUsage {
    /// Its name.
    pub pool: String,
    /// Blocks of this node.
    pub blocks: u32,
    /// Addresses that endpoints have.
    pub used: u32,
    /// Addresses that can be given now.
    pub free: u32,
    /// Addresses freed but not yet usable.
    pub resting: u32,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// By block.
    pub blocks: Vec<BlockUsage>,
    /// By pool, in the order of [`Input::SetPools`](crate::Input::SetPools).
    pub pools: Vec<PoolUsage>,
    /// Requests that wait for an address.
    pub waiting: usize,
    /// Endpoints that have addresses.
    pub endpoints: usize,
    /// Endpoints that came and went.
    pub turnover: Turnover,
}

/// How many endpoints came and went since the start, each counted once, however often it was asked for or freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turnover {
    /// Endpoints that were given addresses.
    pub begun: u64,
    /// Endpoints that were freed, for whatever reason.
    pub ended: u64,
}
