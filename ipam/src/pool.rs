//! Pools: ranges of addresses, cut into blocks of one length, and the order in which a node tries to claim
//! them.
//!
//! Every address of a pool can be given to a pod, the first and the last of a block and of the pool included.
//! A pod holds a `/32` or `/128` and is reached by a route, so there is no subnet that could have a network,
//! a broadcast or a subnet-router anycast address (RFC 4291 §2.6.1); Linux joins no anycast group for
//! prefixes that long. It keeps the sums simple (a `/26` is 64 pods, a `/32` block is one) and is what Calico
//! does. Whoever has old equipment that dislikes addresses ending in `.0` or `.255` lists them under
//! `reserved`.
//!
//! A pool may have far more blocks than could be listed (2^74 in an IPv6 `/48`), so nothing here enumerates
//! one eagerly.

use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use sha1::{Digest, Sha1};

use crate::name::{BlockId, Family, NodeName, from_bits, host_mask, to_bits};

/// Blocks are tried in windows of 2^24, lowest window first: as good as no two nodes collide in one,
/// and the addresses of a huge IPv6 pool stay short (`fd00:10:244::3f:9a40`).
const WINDOW_BITS: u8 = 24;

/// A range of addresses that nodes claim blocks from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// The range.
    pub cidr: IpNetwork,
    /// Prefix length of its blocks.
    pub block_len: u8,
    /// No new assignments; what is assigned stays, and empty blocks are released.
    pub disabled: bool,
    /// Whether requests that name no pool may be served from it.
    pub automatic: bool,
    /// No block is claimed: those that the cluster's list gives to this node are all that it gets.
    pub closed: bool,
    /// Addresses never to be handed out. What lies outside the pool has no effect.
    pub reserved: Vec<IpNetwork>,
    /// Where this node's blocks must lie: inside one of these networks; `None`: anywhere in the pool. Blocks of
    /// this node elsewhere keep their endpoints, get no new ones and are released once empty.
    pub within: Option<Vec<IpNetwork>>,
    /// Most blocks of this pool that the node takes, besides [`Limits::max_blocks`](crate::Limits).
    pub max_blocks: Option<usize>,
    /// How long its addresses rest, where that differs from [`Limits::cooldown`](crate::Limits).
    pub cooldown: Option<Duration>,
    /// Only requests that name it are served from it, though it is automatic: it is not for every pod. A node
    /// keeps room in it once somebody has asked.
    pub restricted: bool,
}

impl Pool {
    /// A pool that is enabled, automatic and without reserved addresses. Change the fields afterwards where
    /// that is wrong.
    ///
    /// # Errors
    /// See [`PoolError`].
    pub fn new(name: impl Into<String>, cidr: IpNetwork, block_len: u8) -> Result<Self, PoolError> {
        if cidr.ip() != cidr.network() {
            return Err(PoolError::HostBits { cidr });
        }
        let (min, max) = block_lengths(Family::of(cidr.ip()));
        if !(min..=max).contains(&block_len) {
            return Err(PoolError::BlockLength { block_len, min, max });
        }
        if block_len < cidr.prefix() {
            return Err(PoolError::BlockLargerThanPool { cidr, block_len });
        }
        if let Some(special) = special_range(cidr) {
            return Err(PoolError::SpecialRange { cidr, special });
        }
        Ok(Self {
            name: name.into(),
            cidr,
            block_len,
            disabled: false,
            automatic: true,
            closed: false,
            reserved: Vec::new(),
            within: None,
            max_blocks: None,
            cooldown: None,
            restricted: false,
        })
    }

    /// The family of its addresses.
    pub fn family(&self) -> Family {
        Family::of(self.cidr.ip())
    }

    /// How many blocks it has; `u128::MAX` if there are more than that.
    pub fn block_count(&self) -> u128 {
        1u128.checked_shl(u32::from(self.index_bits())).unwrap_or(u128::MAX)
    }

    /// How many addresses it has, the reserved ones included; `u128::MAX` if there are more than that.
    pub fn capacity(&self) -> u128 {
        1u128.checked_shl(u32::from(self.family().bits() - self.cidr.prefix())).unwrap_or(u128::MAX)
    }

    /// The block in which an address lies, or `None` for an address outside the pool.
    pub fn block_of(&self, address: IpAddr) -> Option<BlockId> {
        self.cidr.contains(address).then(|| BlockId::around(address, self.block_len))
    }

    /// Whether `block` is one of its blocks: inside, and of its length.
    pub fn has_block(&self, block: &BlockId) -> bool {
        block.cidr().prefix() == self.block_len && self.cidr.contains(block.first())
    }

    /// Whether an address must not be handed out.
    pub fn is_reserved(&self, address: IpAddr) -> bool {
        self.reserved.iter().any(|range| range.contains(address))
    }

    /// Whether the two pools have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.cidr.contains(other.cidr.network()) || other.cidr.contains(self.cidr.network())
    }

    /// Whether this node may have `block` for new endpoints: it is one of the pool's, and lies where this node's
    /// blocks must lie.
    pub fn reaches(&self, block: &BlockId) -> bool {
        let inside =
            |range: &IpNetwork| range.contains(block.first()) && range.prefix() <= block.cidr().prefix();
        self.has_block(block) && self.within.as_ref().is_none_or(|ranges| ranges.iter().any(inside))
    }

    /// Every block that this node may claim once, in an order of its own, made as it is asked for.
    ///
    /// Nodes that start together begin at different places and go on with different strides, so that they
    /// seldom want the same block; a node that starts again wants the same blocks again.
    pub fn claim_order(&self, node: &NodeName) -> impl Iterator<Item = BlockId> + use<> {
        let ranges = match &self.within {
            None => vec![self.cidr],
            Some(ranges) => ranges.iter().filter_map(|range| self.common(*range)).collect(),
        };
        let (family, block_len) = (self.family(), self.block_len.min(self.family().bits()));
        let (start, stride) = (seed("start", &self.name, node), seed("stride", &self.name, node) | 1);
        ranges.into_iter().flat_map(move |range| {
            let index_bits = block_len.saturating_sub(range.prefix());
            let window = index_bits.min(WINDOW_BITS);
            ClaimOrder {
                family,
                base: to_bits(range.network()),
                block_len,
                mask: host_mask(window),
                window,
                windows: host_mask(index_bits - window),
                start,
                stride,
                next: Some((0, 0)),
            }
        })
    }

    /// What the pool has in common with a network, if whole blocks fit in there.
    fn common(&self, network: IpNetwork) -> Option<IpNetwork> {
        let narrower = match network.prefix() > self.cidr.prefix() {
            true if self.cidr.contains(network.network()) => network,
            false if network.contains(self.cidr.network()) => self.cidr,
            _ => return None,
        };
        (narrower.prefix() <= self.block_len).then_some(narrower)
    }

    /// Bits that number a block within the pool.
    fn index_bits(&self) -> u8 {
        self.block_len.min(self.family().bits()).saturating_sub(self.cidr.prefix())
    }
}

/// The pairs of pools that overlap, as indices, the first below the second.
///
/// ```
/// # use manx_ipam::{Pool, overlaps};
/// let pool = |name, cidr: &str| Pool::new(name, cidr.parse().unwrap(), 26).unwrap();
/// let pools = [pool("a", "10.0.0.0/16"), pool("b", "10.1.0.0/16"), pool("c", "10.0.128.0/17")];
/// assert_eq!(overlaps(&pools), [(0, 2)]);
/// ```
pub fn overlaps(pools: &[Pool]) -> Vec<(usize, usize)> {
    let pairs = pools.iter().enumerate().flat_map(|(i, a)| {
        pools.iter().enumerate().skip(i + 1).filter(move |(_, b)| a.overlaps(b)).map(move |(j, _)| (i, j))
    });
    pairs.collect()
}

/// Why something is not a pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Bits behind the prefix.
    #[error("{cidr} has bits set behind its prefix: write {}/{}", cidr.network(), cidr.prefix())]
    HostBits {
        /// What was given.
        cidr: IpNetwork,
    },
    /// A block length outside what the family allows.
    #[error("block length /{block_len} is not within /{min} to /{max}")]
    BlockLength {
        /// What was given.
        block_len: u8,
        /// The shortest prefix (largest block) allowed.
        min: u8,
        /// The longest prefix (smallest block) allowed.
        max: u8,
    },
    /// Not one block fits.
    #[error("a /{block_len} block is larger than the pool {cidr}: take a block length of at least {}", cidr.prefix())]
    BlockLargerThanPool {
        /// The range.
        cidr: IpNetwork,
        /// The block length given.
        block_len: u8,
    },
    /// A range whose addresses no pod can have.
    #[error("{cidr} overlaps {special}, whose addresses pods cannot have")]
    SpecialRange {
        /// The range given.
        cidr: IpNetwork,
        /// The special range.
        special: &'static str,
    },
}

struct ClaimOrder {
    family: Family,
    base: u128,
    block_len: u8,
    mask: u128,
    window: u8,
    /// Number of the last window.
    windows: u128,
    start: u128,
    stride: u128,
    /// Window and step of the next block.
    next: Option<(u128, u128)>,
}

impl Iterator for ClaimOrder {
    type Item = BlockId;

    fn next(&mut self) -> Option<BlockId> {
        let (window, step) = self.next?;
        self.next = match (step == self.mask, window == self.windows) {
            (false, _) => Some((window, step + 1)),
            (true, false) => Some((window + 1, 0)),
            (true, true) => None,
        };
        // An odd stride is coprime to a power of two, so each index comes once.
        let within = self.start.wrapping_add(step.wrapping_mul(self.stride)) & self.mask;
        let index = window.checked_shl(u32::from(self.window)).unwrap_or(0) | within;
        let offset = index.checked_shl(u32::from(self.family.bits() - self.block_len)).unwrap_or(0);
        Some(BlockId::from_bits(self.family, self.base | offset, self.block_len))
    }
}

/// The first 128 bits of a SHA-1 over a purpose, the pool and the node.
fn seed(purpose: &str, pool: &str, node: &NodeName) -> u128 {
    let mut hash = Sha1::new();
    for part in [purpose, pool, node.as_str()] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize().iter().take(16).fold(0, |bits, octet| bits << 8 | u128::from(*octet))
}

/// Shortest and longest prefix of a block.
pub(crate) fn block_lengths(family: Family) -> (u8, u8) {
    match family {
        Family::V4 => (20, 32),
        Family::V6 => (112, 128),
    }
}

/// The range unfit for pods that `cidr` overlaps.
fn special_range(cidr: IpNetwork) -> Option<&'static str> {
    const SPECIAL: [(&str, Family, u128, u8); 9] = [
        ("0.0.0.0/8 (this network)", Family::V4, 0, 8),
        ("127.0.0.0/8 (loopback)", Family::V4, 127 << 24, 8),
        ("169.254.0.0/16 (link-local)", Family::V4, 0xa9fe << 16, 16),
        ("224.0.0.0/4 (multicast)", Family::V4, 0xe << 28, 4),
        ("255.255.255.255/32 (broadcast)", Family::V4, 0xffff_ffff, 32),
        ("::/96 (unspecified, loopback)", Family::V6, 0, 96),
        ("::ffff:0:0/96 (IPv4-mapped)", Family::V6, 0xffff << 32, 96),
        ("fe80::/10 (link-local)", Family::V6, 0xfe80 << 112, 10),
        ("ff00::/8 (multicast)", Family::V6, 0xff << 120, 8),
    ];
    let ours = BlockId::around(cidr.network(), cidr.prefix());
    let hit = SPECIAL.iter().find(|(_, family, bits, len)| {
        *family == ours.family() && ours.overlaps(&BlockId::around(from_bits(*family, *bits), *len))
    });
    hit.map(|(text, ..)| *text)
}

#[cfg(test)]
mod tests;
