//! Which blocks this node wants, and which it can spare.
//!
//! A node keeps room ahead of need: per family as many free addresses as [`Limits::headroom`](crate::Limits)
//! says, at most one block's worth, plus one for each request that waits. It claims one block at a time per
//! pool. What it has beyond that it returns, once the block has been empty for a while.

use std::collections::BTreeSet;

use super::NodeIpam;
use super::assign::Lack;
use super::door::{Event, Output};
use super::held::{Asked, Held, Title, overlapping};
use crate::block::Block;
use crate::name::{BlockId, Family};
use crate::pool::Pool;

/// What came of the wish for a block.
enum Supply {
    /// A claim is out, or will be.
    Coming,
    /// No pool has a block left.
    Exhausted,
    /// The node may have no more.
    Limit,
}

impl NodeIpam {
    /// The pools that may serve a family: those named, or the automatic ones if none is named.
    pub(super) fn eligible(&self, family: Family, named: &BTreeSet<String>) -> Vec<&Pool> {
        let allowed =
            |pool: &Pool| if named.is_empty() { pool.automatic } else { named.contains(&pool.name) };
        let all = self.pools.iter().flatten();
        all.filter(|pool| pool.family() == family && !pool.disabled && allowed(pool)).collect()
    }

    /// Whether addresses may be given from a block.
    pub(super) fn assignable(&self, held: &Held) -> bool {
        match held.title {
            Title::Owned { .. } => true,
            Title::Remembered => self.known.is_none() && self.now >= self.trust_at,
            Title::Claiming | Title::Vanished | Title::Foreign { .. } | Title::Releasing => false,
        }
    }

    pub(super) fn claim_blocks(&mut self) {
        if self.known.is_none() || self.pools.is_none() {
            return;
        }
        self.claim_vanished();
        let none = BTreeSet::new();
        for family in Family::ALL {
            let exhausted = self.room(family) < self.room_wanted(family)
                && matches!(self.supply(family, &none), Supply::Exhausted);
            if exhausted && self.exhausted.insert(family) {
                self.tell(Event::Exhausted { family });
            } else if !exhausted && self.exhausted.remove(&family) {
                self.tell(Event::ExhaustedEnded { family });
            }
        }
        for (family, named) in self.named_wishes() {
            self.supply(family, &named);
        }
        for block in self.blocks_wished() {
            let family = block.family();
            if self
                .pool_of(&block)
                .is_some_and(|pool| !pool.closed && !self.claiming(&[pool.name.clone()].into()))
                && self.block_count(family) < self.limits.max_blocks
                && self.claimable(&block)
                && !self.paused(&block)
            {
                self.claim(block);
            }
        }
    }

    /// Returns what can be spared.
    pub(super) fn release_blocks(&mut self) {
        for held in self.held.values_mut() {
            held.empty_since = if held.busy() { None } else { held.empty_since.or(Some(self.now)) };
        }
        if self.known.is_none() || self.pools.is_none() || self.rewrite_at.is_some() {
            return;
        }
        let mut idle: Vec<_> =
            self.held.iter().filter_map(|(block, held)| Some((held.empty_since?, *block))).collect();
        idle.sort();
        for (_, block) in idle {
            if self.can_spare(&block) {
                self.entitle(block, Title::Releasing);
            }
        }
        self.announce();
        let due: Vec<BlockId> = self
            .held
            .iter()
            .filter(|(block, held)| {
                held.title == Title::Releasing && held.asked.is_none() && !self.paused(block)
            })
            .map(|(block, _)| *block)
            .collect();
        for block in due {
            self.ask(block, Asked::Release);
        }
    }

    /// Whether a block may be claimed as far as this node knows.
    pub(super) fn claimable(&self, block: &BlockId) -> bool {
        self.owner_elsewhere(block).is_none()
            && !self.avoid.contains_key(block)
            && overlapping(&self.held, block).is_none()
    }

    /// Whether a claim from one of these pools is out.
    pub(super) fn claiming(&self, pools: &BTreeSet<String>) -> bool {
        let mut claims = self.held.iter().filter(|(_, held)| held.title == Title::Claiming);
        claims.any(|(block, _)| self.pool_of(block).is_some_and(|pool| pools.contains(&pool.name)))
    }

    /// Whether the node has all blocks that it may have.
    pub(super) fn at_limit(&self, family: Family) -> bool {
        self.block_count(family) >= self.limits.max_blocks
    }

    /// Free addresses for requests that name no pool.
    fn room(&self, family: Family) -> u64 {
        let pools = self.eligible(family, &BTreeSet::new());
        let usable = self.held.iter().filter(|(block, held)| {
            block.family() == family
                && self.assignable(held)
                && pools.iter().any(|pool| pool.has_block(block))
        });
        usable.map(|(_, held)| u64::from(held.block.free())).sum()
    }

    /// How many of those there should be.
    fn room_wanted(&self, family: Family) -> u64 {
        let pools = self.eligible(family, &BTreeSet::new());
        let Some(pool) = pools.first() else { return 0 };
        let one_block = BlockId::around(pool.cidr.network(), pool.block_len).size();
        let waits = |lack: &Lack| matches!(lack, Lack::Room(lacking) if *lacking == family);
        let waiting = self.waiting.iter().filter(|waiting| waiting.want.pools.is_empty());
        let queue = waiting.filter(|waiting| waiting.lacks.iter().any(waits)).count();
        u64::from(self.limits.headroom.min(one_block)) + queue as u64
    }

    /// Claims the next block for a family, unless one is on its way.
    fn supply(&mut self, family: Family, named: &BTreeSet<String>) -> Supply {
        let pools: Vec<Pool> = self.eligible(family, named).into_iter().cloned().collect();
        if self.claiming(&pools.iter().map(|pool| pool.name.clone()).collect()) {
            return Supply::Coming;
        }
        if self.at_limit(family) {
            return Supply::Limit;
        }
        let mut paused = false;
        for pool in pools {
            if self.pool_paused(&pool.name) {
                paused = true;
            } else if !self.barren.contains(&pool.name) {
                match self.candidate(&pool) {
                    Some(block) => {
                        self.claim(block);
                        return Supply::Coming;
                    }
                    None => drop(self.barren.insert(pool.name)),
                }
            }
        }
        if paused { Supply::Coming } else { Supply::Exhausted }
    }

    /// The first block in this node's order that nobody seems to have, and that has an address to give.
    fn candidate(&self, pool: &Pool) -> Option<BlockId> {
        if pool.closed {
            return None;
        }
        let useful = |block: &BlockId| {
            let mut addresses = Block::new(*block);
            addresses.reserve(Some(pool));
            addresses.free() > 0
        };
        let mut order = pool.claim_order(&self.name).filter(|block| self.claimable(block));
        if pool.reserved.is_empty() { order.next() } else { order.find(useful) }
    }

    /// Asks for a block.
    pub(super) fn claim(&mut self, block: BlockId) {
        self.hold(block, Title::Claiming);
        self.ask(block, Asked::Claim);
    }

    fn ask(&mut self, block: BlockId, asked: Asked) {
        if let Some(held) = self.held.get_mut(&block) {
            held.asked = Some(asked);
            self.outputs.push_back(match asked {
                Asked::Claim => Output::Claim(block),
                Asked::Release => Output::Release(block),
            });
        }
    }

    /// Claims again what endpoints here need and nobody has.
    fn claim_vanished(&mut self) {
        let lost = |(block, held): &(&BlockId, &Held)| {
            held.title == Title::Vanished && held.asked.is_none() && !self.paused(block)
        };
        let lost: Vec<BlockId> = self.held.iter().filter(lost).map(|(block, _)| *block).collect();
        for block in lost {
            self.ask(block, Asked::Claim);
        }
    }

    /// Families and pools that requests name and wait for.
    fn named_wishes(&self) -> BTreeSet<(Family, BTreeSet<String>)> {
        let named = self.waiting.iter().filter(|waiting| !waiting.want.pools.is_empty());
        let wishes = named.flat_map(|waiting| {
            waiting.lacks.iter().filter_map(|lack| match lack {
                Lack::Room(family) => Some((*family, waiting.want.pools.clone())),
                Lack::Never(_) | Lack::Block { .. } | Lack::Leaving { .. } | Lack::Unknown => None,
            })
        });
        wishes.collect()
    }

    /// Blocks of addresses that requests name and wait for.
    fn blocks_wished(&self) -> Vec<BlockId> {
        let lacks = self.waiting.iter().flat_map(|waiting| &waiting.lacks);
        let blocks = lacks.filter_map(|lack| match lack {
            Lack::Block { block, .. } => Some(*block),
            Lack::Never(_) | Lack::Room(_) | Lack::Leaving { .. } | Lack::Unknown => None,
        });
        blocks.collect()
    }

    /// Blocks that count against the limit.
    fn block_count(&self, family: Family) -> usize {
        let counted = |held: &Held| !matches!(held.title, Title::Foreign { .. } | Title::Releasing);
        self.held.iter().filter(|(block, held)| block.family() == family && counted(held)).count()
    }

    /// Whether an empty block is too much: its pool is not for use any more, or it has been empty for long
    /// and the others suffice.
    fn can_spare(&self, block: &BlockId) -> bool {
        let Some(held) = self.held.get(block) else { return false };
        if !matches!(held.title, Title::Owned { .. }) || held.asked.is_some() {
            return false;
        }
        let Some(pool) = self.pool_of(block).filter(|pool| !pool.disabled) else { return true };
        let idle = held.empty_since.is_some_and(|since| self.now >= since + self.limits.release_after);
        let family = block.family();
        let others = || self.room(family).saturating_sub(u64::from(held.block.free()));
        idle && (!pool.automatic || others() >= self.room_wanted(family))
    }
}
