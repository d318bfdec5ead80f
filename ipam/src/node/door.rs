//! What goes into a [`NodeIpam`](crate::NodeIpam) and what comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::claims::AddressClaim;
use crate::endpoint::{Endpoint, EndpointId};
use crate::name::{BlockId, Family, NodeName, RequestId};
use crate::pool::Pool;

/// The knobs of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How long an address rests between the end of its link and its next use. Default 30 s.
    pub cooldown: Duration,
    /// Free addresses per family to have ready ahead of need. Of blocks that are smaller than that, one, and as many
    /// more as addresses were given in the last ten seconds. Default 16.
    pub headroom: u32,
    /// How long a block must have been empty before it is released. Default 5 minutes. A pool whose blocks were
    /// missed soon after they were released keeps them longer, up to sixteen times.
    pub release_after: Duration,
    /// Most blocks per family that the node takes. Default 256.
    pub max_blocks: usize,
    /// How long a request waits for an address before it is refused. Default 10 s.
    pub wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cooldown: Duration::from_secs(30),
            headroom: 16,
            release_after: Duration::from_secs(300),
            max_blocks: 256,
            wait: Duration::from_secs(10),
        }
    }
}

/// What an endpoint is to get: all of it or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Want {
    /// An IPv4 address.
    pub v4: bool,
    /// An IPv6 address.
    pub v6: bool,
    /// These addresses and no others; each stands for the address of its family.
    pub addresses: Vec<IpAddr>,
    /// Names of the pools to take from, manual and restricted ones included. Empty: any automatic pool that is not
    /// restricted.
    pub pools: BTreeSet<String>,
    /// The key of the claim that the node holds for it. Then `addresses` may be claimed by that, and those of them that
    /// are reserved are given in any node's block.
    pub claim: Option<String>,
}

/// A fact or a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "inputs are handled at once, never stored in numbers")]
pub enum Input {
    /// The deadline has come.
    Timeout,
    /// All pools that select this node, in order of preference: the first that has an address gives it. Of two that
    /// overlap the first counts.
    SetPools(Vec<Pool>),
    /// All blocks of the cluster, as the API server last told them: at start from a consistent list, later
    /// never going back in time, and never from a copy kept over a restart.
    SetBlocks {
        /// Each block with its owner.
        blocks: BTreeMap<BlockId, NodeName>,
    },
    /// All claims of addresses of the cluster, by key, as the API server last told them, never going back in time, and
    /// those that this node is making. Without any, nothing need be said.
    SetClaims(BTreeMap<String, AddressClaim>),
    /// An endpoint wants addresses. A repetition gets the same addresses again.
    Assign {
        /// Comes back with the answer: [`Output::Assigned`] or [`Output::Refused`].
        request: RequestId,
        /// The endpoint, still without addresses.
        endpoint: Endpoint,
        /// What it is to get.
        want: Want,
    },
    /// An endpoint is over: its addresses leave use, and rest once the link is gone. Ends a waiting
    /// [`Input::Assign`] too.
    Free {
        /// Comes back with [`Output::Freed`].
        request: RequestId,
        /// Which.
        id: EndpointId,
    },
    /// The link of an endpoint does not exist (any more): its freed addresses may start their cooldown.
    LinkGone {
        /// Which.
        id: EndpointId,
    },
    /// The answer to [`Output::Claim`]: exactly one for each. `Ok` also if the block turns out to be this
    /// node's already; all claims of addresses that there were when it became so have been told before.
    Claimed {
        /// Which.
        block: BlockId,
        /// What came of it.
        outcome: Result<(), ClaimError>,
    },
    /// The answer to [`Output::Release`]: exactly one for each. `Ok` also if there was no such block.
    Released {
        /// Which.
        block: BlockId,
        /// What came of it. [`ClaimError::Taken`]: the block belongs to someone else.
        outcome: Result<(), ClaimError>,
    },
    /// The runtime knows these endpoints and no others (CNI GC): the rest is freed, each with
    /// [`Output::Collected`].
    Keep {
        /// The endpoints that stay.
        valid: BTreeSet<EndpointId>,
    },
    /// Endpoints found in the kernel at start, with their addresses: to be said before the first
    /// [`Input::Assign`]. Those that the record lacks are taken over, so that a lost record costs no address its
    /// holder.
    Adopt(Vec<Endpoint>),
    /// An [`Output::Record`] or [`Output::Rewrite`] was not written. Until a later `Rewrite` is, what comes
    /// out is not to be carried out: [`Output::Assigned`] is answered with an error (the runtime repeats the
    /// request or frees the endpoint), and [`Output::Release`] with [`ClaimError::Failed`]. Only what is
    /// freed may be answered as such: a crash would bring it back, but without a link.
    RecordFailed,
    /// After [`Input::RecordFailed`], an [`Output::Rewrite`] was written: one may have been on its way already.
    RecordWhole,
}

/// Why a block was not claimed or released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// Another node owns the block.
    #[error("another node owns the block")]
    Taken,
    /// The API server was not reached or gave an error: it may or may not have happened.
    #[error("the API server did not confirm")]
    Failed,
}

/// Something to do or to answer. To be carried out in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Append to the record before anything after it is carried out.
    Record(Vec<u8>),
    /// Replace the whole record, atomically, before anything after it is carried out.
    Rewrite(Vec<u8>),
    /// Create the block's object with this node as owner, and say [`Input::Claimed`].
    Claim(BlockId),
    /// Delete the block's object if this node owns it, and say [`Input::Released`].
    Release(BlockId),
    /// The endpoint has its addresses.
    Assigned {
        /// Of the request.
        request: RequestId,
        /// With addresses.
        endpoint: Endpoint,
    },
    /// The endpoint is over; `None` if there was none.
    Freed {
        /// Of the request.
        request: RequestId,
        /// The endpoint whose link is to be removed.
        endpoint: Option<Endpoint>,
    },
    /// Freed because the runtime does not know it any more: its link is to be removed, then
    /// [`Input::LinkGone`].
    Collected(Endpoint),
    /// The request failed.
    Refused {
        /// Of the request.
        request: RequestId,
        /// The reason.
        why: AssignError,
    },
    /// All blocks to announce.
    Owned(BTreeSet<BlockId>),
    /// [`NodeIpam::endpoints`](crate::NodeIpam::endpoints) has changed.
    EndpointsChanged,
    /// For the log, conditions and metrics.
    Event(Event),
}

/// Something worth telling. What degrades is told when it begins and when it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A block is this node's now, by a claim or because the cluster says so.
    BlockOwned {
        /// Which.
        block: BlockId,
    },
    /// A block is not this node's any more.
    BlockGone {
        /// Which.
        block: BlockId,
    },
    /// Begins: endpoints of this node have addresses in a block that is not this node's. They keep them; no
    /// new ones are given.
    Conflict {
        /// Which.
        block: BlockId,
        /// Who owns it: `None` if nobody does, and the node tries to claim it again.
        owner: Option<NodeName>,
    },
    /// Ends.
    ConflictEnded {
        /// Which.
        block: BlockId,
    },
    /// Begins: a block is wanted and no pool of that family has one left.
    Exhausted {
        /// Of which family.
        family: Family,
    },
    /// Ends.
    ExhaustedEnded {
        /// Of which family.
        family: Family,
    },
    /// Begins: the API server does not confirm claims or releases of a pool's blocks.
    ClaimsFailing {
        /// Which pool.
        pool: String,
    },
    /// Ends.
    ClaimsFailingEnded {
        /// Which pool.
        pool: String,
    },
    /// A pool is not used because it overlaps an earlier one.
    PoolOverlap {
        /// The pool that is not used.
        pool: String,
        /// The earlier one.
        with: String,
    },
    /// Ends.
    PoolOverlapEnded {
        /// The pool.
        pool: String,
    },
    /// An endpoint found in the kernel has an address that belongs to another one. It was not taken over.
    AddressConflict {
        /// The address.
        address: IpAddr,
        /// Whose it is by the record.
        holder: EndpointId,
        /// Who was found with it.
        found: EndpointId,
    },
    /// The record had lines that could not be read; what the kernel knows should be adopted.
    RecordDamaged {
        /// How many.
        lines: usize,
    },
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    /// Neither a family nor an address was asked for.
    #[error("no address was asked for: ask for IPv4, IPv6 or certain addresses")]
    NothingWanted,
    /// Pools and blocks are still unknown.
    #[error("pools and blocks have not been read from the API server yet: try again")]
    NotReady,
    /// No pool to take from.
    #[error("no enabled automatic {family} pool selects this node: create, enable or widen one")]
    NoPool {
        /// Of which family.
        family: Family,
    },
    /// A pool that was named does not exist, does not select this node or is of another family.
    #[error(
        "none of the pools {pools} gives {family} addresses to this node: check their names, selectors and families"
    )]
    UnknownPool {
        /// Of which family.
        family: Family,
        /// The names.
        pools: String,
    },
    /// A pool that was named is disabled.
    #[error("pool {pool} is disabled: enable it or name another")]
    PoolDisabled {
        /// Which.
        pool: String,
    },
    /// No block is left and the node's own are full.
    #[error(
        "no free {family} address: every block of {pools} has an owner and this node's are full; add a pool or free blocks"
    )]
    PoolFull {
        /// Of which family.
        family: Family,
        /// The pools tried.
        pools: String,
    },
    /// The node has as many blocks as it may.
    #[error(
        "no free {family} address: this node's blocks are full and it has the {limit} blocks that it may have; raise the limit"
    )]
    BlockLimit {
        /// Of which family.
        family: Family,
        /// The limit.
        limit: usize,
    },
    /// The node has as many blocks of a pool as it may.
    #[error(
        "no free {family} address: this node's blocks are full and it has the {limit} blocks that it may have of pool {pool}; raise maxBlocksPerNode of the pool or add a pool"
    )]
    PoolBlockLimit {
        /// Of which family.
        family: Family,
        /// Which pool.
        pool: String,
        /// The limit.
        limit: usize,
    },
    /// The blocks that lie where this node's must lie are full.
    #[error(
        "no free {family} address: no block of pool {pool} is left inside the node's podCIDRs ({within}); give the node a larger one or add a pool"
    )]
    PodCidrsFull {
        /// Of which family.
        family: Family,
        /// Which pool.
        pool: String,
        /// Where the node's blocks must lie.
        within: String,
    },
    /// A claim was not answered in time.
    #[error("no free {family} address yet: a block of pool {pool} is being claimed; try again")]
    ClaimPending {
        /// Of which family.
        family: Family,
        /// Of which pool.
        pool: String,
    },
    /// Claims fail.
    #[error(
        "no free {family} address: claiming a block of pool {pool} fails, the API server does not confirm; try again"
    )]
    ClaimFailed {
        /// Of which family.
        family: Family,
        /// Of which pool.
        pool: String,
    },
    /// An address that was asked for is in no pool of this node.
    #[error(
        "{address} is in no pool that selects this node, or in none of those allowed: choose another address or pool"
    )]
    OutsidePools {
        /// Which.
        address: IpAddr,
    },
    /// An address that was asked for lies where this node gives none.
    #[error(
        "{address} of pool {pool} lies outside of the node's podCIDRs ({within}): choose an address inside or another node"
    )]
    OutsidePodCidrs {
        /// Which.
        address: IpAddr,
        /// Of which pool.
        pool: String,
        /// Where the node's blocks must lie.
        within: String,
    },
    /// An address that was asked for is reserved.
    #[error("{address} is reserved in pool {pool}: choose another address")]
    AddressReserved {
        /// Which.
        address: IpAddr,
        /// Where.
        pool: String,
    },
    /// An address that was asked for is in use here.
    #[error("{address} is in use by {holder}: free that first or choose another address")]
    AddressTaken {
        /// Which.
        address: IpAddr,
        /// By whom.
        holder: EndpointId,
    },
    /// An address that was asked for was freed, but its link still exists.
    #[error("{address} still belongs to the link of {holder}, which is being removed: try again")]
    AddressLeaving {
        /// Which.
        address: IpAddr,
        /// Whose link.
        holder: EndpointId,
    },
    /// An address that was asked for lies in another node's block.
    #[error("{address} lies in a block of node {node}: run the pod there or choose another address")]
    AddressElsewhere {
        /// Which.
        address: IpAddr,
        /// The owner.
        node: NodeName,
    },
    /// An address that was asked for belongs to the name of another pod.
    #[error("{address} is claimed for {claim}: choose another address, or delete that IPClaim")]
    AddressClaimed {
        /// Which.
        address: IpAddr,
        /// The key of the claim.
        claim: String,
    },
    /// A claimed address lies in another node's block, and that node has not set it aside.
    #[error(
        "node {node}, in whose block {address} lies, has not set it aside yet for the IPClaim: try again; another pod may have it"
    )]
    AddressUnreserved {
        /// Which.
        address: IpAddr,
        /// The owner of the block.
        node: NodeName,
    },
    /// The endpoint was freed while its request waited.
    #[error("the endpoint was deleted while it waited for an address")]
    Withdrawn,
    /// The record cannot be written.
    #[error("the record of assignments cannot be written: look for a full or read-only run directory")]
    NotRecorded,
}

impl AssignError {
    /// Whether addresses ran out: somebody must add to them or free some.
    pub fn is_exhaustion(&self) -> bool {
        matches!(
            self,
            Self::PoolFull { .. }
                | Self::BlockLimit { .. }
                | Self::PoolBlockLimit { .. }
                | Self::PodCidrsFull { .. }
        )
    }

    /// Whether the same request may succeed later without anybody doing anything (CNI error code 11).
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotReady
            | Self::PoolFull { .. }
            | Self::BlockLimit { .. }
            | Self::PoolBlockLimit { .. }
            | Self::PodCidrsFull { .. }
            | Self::ClaimPending { .. }
            | Self::ClaimFailed { .. }
            | Self::AddressLeaving { .. }
            | Self::AddressUnreserved { .. }
            | Self::NotRecorded => true,
            Self::NothingWanted
            | Self::NoPool { .. }
            | Self::UnknownPool { .. }
            | Self::PoolDisabled { .. }
            | Self::OutsidePools { .. }
            | Self::OutsidePodCidrs { .. }
            | Self::AddressReserved { .. }
            | Self::AddressTaken { .. }
            | Self::AddressElsewhere { .. }
            | Self::AddressClaimed { .. }
            | Self::Withdrawn => false,
        }
    }
}
