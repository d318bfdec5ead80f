//! What a node holds: its blocks and how it stands to each. Questions about sets of blocks that never
//! overlap.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Bound;
use std::time::Instant;

use crate::block::Block;
use crate::name::{BlockId, Family, NodeName};
use crate::usage::Standing;

/// A request about a block whose answer is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Claim,
    Release,
}

/// How this node stands to a block, and what it must know for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Title {
    /// A claim is out.
    Claiming,
    /// By the record; the cluster has not been heard.
    Remembered,
    /// This node's. `unseen` since the claim, while no list of blocks has shown it: such lists may be late.
    Owned { unseen: Option<Instant> },
    /// Was this node's, is nobody's, and is being claimed again for those who have addresses in it.
    Vanished,
    /// Another's, or lately nobody's, although endpoints here have addresses in it.
    Foreign { owner: Option<NodeName> },
    /// Being released; without `asked`, to be asked again.
    Releasing,
}

/// A block in this node's hands.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) block: Block,
    pub(super) title: Title,
    pub(super) asked: Option<Asked>,
    /// Since when it is empty and could be spared.
    pub(super) spare_since: Option<Instant>,
}

impl Held {
    pub(super) fn new(block: Block, title: Title) -> Self {
        Self { block, title, asked: None, spare_since: None }
    }

    /// Whether addresses of it are in use or resting.
    pub(super) fn busy(&self) -> bool {
        self.block.out() > 0
    }

    /// Whether it is to be announced.
    pub(super) fn announced(&self) -> bool {
        match self.title {
            Title::Remembered | Title::Owned { .. } | Title::Vanished => true,
            Title::Claiming | Title::Foreign { .. } | Title::Releasing => false,
        }
    }

    pub(super) fn standing(&self) -> Standing {
        match self.title {
            Title::Claiming => Standing::Claiming,
            Title::Remembered => Standing::Remembered,
            Title::Owned { .. } => Standing::Owned,
            Title::Vanished => Standing::Vanished,
            Title::Foreign { .. } => Standing::Foreign,
            Title::Releasing => Standing::Releasing,
        }
    }
}

/// The block of a map without overlaps in which `address` lies.
pub(super) fn covering<V>(blocks: &BTreeMap<BlockId, V>, address: IpAddr) -> Option<BlockId> {
    let host = BlockId::around(address, Family::of(address).bits());
    blocks.range(..=host).next_back().map(|(block, _)| *block).filter(|block| block.contains(address))
}

/// An entry of a map whose block overlaps `block`; the largest, if several contain it.
pub(super) fn overlapping<'a, V>(
    blocks: &'a BTreeMap<BlockId, V>,
    block: &BlockId,
) -> Option<(&'a BlockId, &'a V)> {
    let above = (0..=block.cidr().prefix()).map(|len| BlockId::around(block.first(), len));
    let within = || {
        let after = blocks.range((Bound::Excluded(*block), Bound::Unbounded)).next();
        after.filter(|(other, _)| block.contains(other.first()))
    };
    shortest(block.family(), above).find_map(|id| blocks.get_key_value(&id)).or_else(within)
}

/// Leaves out prefixes shorter than any block of the family.
fn shortest(family: Family, ids: impl Iterator<Item = BlockId>) -> impl Iterator<Item = BlockId> {
    let min = crate::pool::block_lengths(family).0;
    ids.filter(move |id| id.cidr().prefix() >= min)
}
