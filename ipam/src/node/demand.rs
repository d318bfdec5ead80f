//! Which blocks this node wants, and which it can spare.
//!
//! A node keeps room ahead of need, [`Limits::headroom`](crate::Limits) free addresses per family, and more of small
//! blocks while pods start in numbers, plus one for each request that waits. The room is to be in the pool that is
//! preferred: what a later one has counts only where those before it have no block left. Pools that only some pods may
//! use get room of their own once one of them has. What a node has beyond that it returns, once the block has been
//! empty for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::NodeIpam;
use super::assign::Lack;
use super::door::{Event, Output};
use super::held::{Asked, Held, Title, overlapping};
use crate::block::Block;
use crate::endpoint::Endpoint;
use crate::name::{BlockId, Family};
use crate::pool::Pool;

/// Claims of a pool's blocks that are out at a time.
const CLAIMS_AT_ONCE: usize = 4;
/// For how long a start of a pod lets expect another one.
const STREAM: Duration = Duration::from_secs(10);

/// What came of the wish for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Supply {
    /// There is room, or will be once claims are answered.
    Enough,
    /// Claims are out, or will be.
    Coming,
    /// The node may have no more.
    Limit,
    /// No pool has a block left.
    Exhausted,
}

impl NodeIpam {
    /// The pools that may serve a family: those named, or the automatic ones for every pod if none is named.
    pub(super) fn eligible(&self, family: Family, named: &BTreeSet<String>) -> Vec<Arc<Pool>> {
        let allowed = |pool: &Pool| if named.is_empty() { is_open(pool) } else { named.contains(&pool.name) };
        let all = self.pools.iter().flatten();
        all.filter(|pool| pool.family() == family && !pool.disabled && allowed(pool)).cloned().collect()
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
        for family in Family::ALL {
            let open = self.eligible(family, &BTreeSet::new());
            self.keep_room(family, &open);
            for pool in self.rooms_apart(family) {
                let wanted = self.room_wanted(std::slice::from_ref(&pool));
                self.supply(family, &[pool], wanted);
            }
        }
        for ((family, named), number) in self.named_wishes() {
            let pools = self.eligible(family, &named);
            self.supply(family, &pools, number);
        }
        for block in self.blocks_wished() {
            let free = |pool: &Pool| !pool.closed && !self.claiming(&[pool.name.clone()].into());
            if self.pool_of(&block).is_some_and(free)
                && self.may_grow(&block)
                && self.claimable(&block)
                && !self.paused(&block)
            {
                self.claim(block);
            }
        }
    }

    /// Keeps room for pods that may use every open pool, and tells when there is none to be had.
    fn keep_room(&mut self, family: Family, pools: &[Arc<Pool>]) {
        let queue = self.queue(family);
        let least = self.least_room(pools) + queue;
        let short = self.room(pools) < least;
        let supply = self.supply(family, pools, least);
        let exhausted = short && supply == Supply::Exhausted;
        match short && supply == Supply::Limit {
            true => self.limited.insert(family),
            false => self.limited.remove(&family),
        };
        if exhausted && self.exhausted.insert(family) {
            self.tell(Event::Exhausted { family });
        } else if !exhausted && self.exhausted.remove(&family) {
            self.tell(Event::ExhaustedEnded { family });
        }
        let wanted = self.room_wanted(pools) + queue;
        if wanted > least {
            self.supply(family, pools, wanted);
        }
    }

    /// Returns what can be spared.
    pub(super) fn release_blocks(&mut self) {
        if self.known.is_none() || self.pools.is_none() || self.rewrite_at.is_some() {
            return;
        }
        self.look_for_spares();
        let mut spare: Vec<_> =
            self.held.iter().filter_map(|(block, held)| Some((held.spare_since?, *block))).collect();
        spare.sort();
        for (_, block) in spare {
            // Those released before this one may have made it needed.
            if self.is_spare(&block, &mut BTreeMap::new()) && self.was_spare_for_long(&block) {
                if let Some(pool) = self.pool_of(&block).map(|pool| pool.name.clone()) {
                    self.patience.entry(pool).or_default().returned(self.now);
                }
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

    /// Whether the node has all blocks of a pool that it may have.
    pub(super) fn at_pool_limit(&self, pool: &Pool) -> bool {
        let counted = self.held.iter().filter(|(block, held)| counts(held) && pool.has_block(block));
        pool.max_blocks.is_some_and(|most| counted.count() >= most)
    }

    /// Whether a block would be within the limits.
    pub(super) fn may_grow(&self, block: &BlockId) -> bool {
        !self.at_limit(block.family()) && self.pool_of(block).is_some_and(|pool| !self.at_pool_limit(pool))
    }

    /// How long an empty block is kept.
    pub(super) fn patience(&self, block: &BlockId) -> Duration {
        let usual = self.limits.release_after;
        let pool = self.pool_of(block).and_then(|pool| self.patience.get(&pool.name));
        pool.map_or(usual, |patience| patience.time(usual))
    }

    /// Remembers that addresses were given.
    pub(super) fn note_given(&mut self, endpoint: &Endpoint) {
        for address in &endpoint.addresses {
            let pool = self.pools.iter().flatten().find(|pool| pool.cidr.contains(*address));
            let Some(name) = pool.map(|pool| pool.name.clone()) else { continue };
            let given = self.given.entry(name).or_default();
            given.push_back(self.now);
            if given.len() > self.limits.headroom as usize {
                given.pop_front();
            }
        }
    }

    /// When a stream of starts is over.
    pub(super) fn stream_end(&self) -> Option<Instant> {
        self.given.values().filter_map(|given| given.back()).max().map(|last| *last + STREAM)
    }

    /// Pools that only some pods may use, and some do here.
    fn rooms_apart(&self, family: Family) -> Vec<Arc<Pool>> {
        let all = self.pools.iter().flatten();
        let apart = all.filter(|pool| pool.family() == family && !pool.disabled && !is_open(pool));
        apart.filter(|pool| self.is_used(pool)).cloned().collect()
    }

    fn is_used(&self, pool: &Pool) -> bool {
        let mut held = self.held.iter();
        held.any(|(block, held)| held.busy() && self.assignable(held) && pool.reaches(block))
    }

    /// Free addresses of some pools.
    fn room(&self, pools: &[Arc<Pool>]) -> u64 {
        pools.iter().map(|pool| self.room_in(pool)).sum()
    }

    fn room_in(&self, pool: &Pool) -> u64 {
        let usable = self.held.iter().filter(|(block, held)| self.assignable(held) && pool.reaches(block));
        usable.map(|(_, held)| u64::from(held.block.free())).sum()
    }

    /// The claims of a pool's blocks that are out, and the addresses that they will bring.
    fn coming(&self, pool: &Pool) -> (usize, u64) {
        let claims =
            self.held.iter().filter(|(block, held)| held.title == Title::Claiming && pool.reaches(block));
        claims.fold((0, 0), |(claims, room), (_, held)| (claims + 1, room + u64::from(held.block.free())))
    }

    /// Free addresses that there should be while no pod starts.
    fn least_room(&self, pools: &[Arc<Pool>]) -> u64 {
        let Some(pool) = pools.first() else { return 0 };
        let one_block = BlockId::around(pool.cidr.network(), pool.block_len).size();
        u64::from(self.limits.headroom.min(one_block))
    }

    /// Free addresses that there should be.
    fn room_wanted(&self, pools: &[Arc<Pool>]) -> u64 {
        let lately = |given: &&Instant| self.now.saturating_duration_since(**given) < STREAM;
        let given = pools.iter().filter_map(|pool| self.given.get(&pool.name)).flatten();
        let stream = given.filter(lately).count() as u64;
        self.least_room(pools).max(stream.min(self.limits.headroom.into()))
    }

    /// Requests that name no pool and wait for an address.
    fn queue(&self, family: Family) -> u64 {
        let waits = |lack: &Lack| matches!(lack, Lack::Room(lacking) if *lacking == family);
        let waiting = self.waiting.iter().filter(|waiting| waiting.want.pools.is_empty());
        waiting.filter(|waiting| waiting.lacks.iter().any(waits)).count() as u64
    }

    /// Claims blocks until these pools have that much room, as far as can be foreseen.
    fn supply(&mut self, family: Family, pools: &[Arc<Pool>], wanted: u64) -> Supply {
        let (mut have, mut outcome) = (0, Supply::Exhausted);
        for pool in pools {
            let (mut claims, coming) = self.coming(pool);
            have += self.room_in(pool) + coming;
            while have < wanted {
                if claims >= CLAIMS_AT_ONCE {
                    return Supply::Coming;
                }
                match self.draw(family, pool) {
                    Ok(room) => have += room.max(1),
                    Err(why) => {
                        outcome = if outcome == Supply::Exhausted { why } else { outcome };
                        break;
                    }
                }
                claims += 1;
            }
            if have >= wanted {
                return Supply::Enough;
            }
            if claims > 0 {
                outcome = Supply::Coming;
            }
        }
        outcome
    }

    /// Claims one more block of a pool; gives the addresses that it will bring.
    fn draw(&mut self, family: Family, pool: &Pool) -> Result<u64, Supply> {
        if self.at_limit(family) || self.at_pool_limit(pool) {
            return Err(Supply::Limit);
        }
        if self.pool_paused(&pool.name) {
            return Err(Supply::Coming);
        }
        if self.barren.contains(&pool.name) {
            return Err(Supply::Exhausted);
        }
        let Some(block) = self.candidate(pool) else {
            self.barren.insert(pool.name.clone());
            return Err(Supply::Exhausted);
        };
        self.patience.entry(pool.name.clone()).or_default().claims(self.limits.release_after, self.now);
        self.claim(block);
        Ok(self.held.get(&block).map_or(0, |held| u64::from(held.block.free())))
    }

    /// The first block in this node's order that nobody seems to have, and that has an address to give.
    fn candidate(&self, pool: &Pool) -> Option<BlockId> {
        if pool.closed {
            return None;
        }
        let useful = |block: &BlockId| {
            let mut addresses = Block::new(*block);
            addresses.reserve(Some(pool), &self.claimed_in(block));
            addresses.free() > 0
        };
        let mut order = pool.claim_order(&self.name).filter(|block| self.claimable(block));
        let all_free = pool.reserved.is_empty() && self.claimants.is_empty();
        if all_free { order.next() } else { order.find(useful) }
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

    /// Families and pools that requests name, with how many wait for them.
    fn named_wishes(&self) -> BTreeMap<(Family, BTreeSet<String>), u64> {
        let mut wishes = BTreeMap::new();
        for waiting in self.waiting.iter().filter(|waiting| !waiting.want.pools.is_empty()) {
            for lack in &waiting.lacks {
                if let Lack::Room(family) = lack {
                    *wishes.entry((*family, waiting.want.pools.clone())).or_insert(0) += 1;
                }
            }
        }
        wishes
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
        self.held.iter().filter(|(block, held)| block.family() == family && counts(held)).count()
    }

    /// Notes since when blocks could be spared.
    fn look_for_spares(&mut self) {
        let mut surplus = BTreeMap::new();
        let spare: BTreeSet<BlockId> =
            self.held.keys().filter(|block| self.is_spare(block, &mut surplus)).copied().collect();
        for (block, held) in &mut self.held {
            held.spare_since = spare.contains(block).then(|| held.spare_since.unwrap_or(self.now));
        }
    }

    /// Whether a block is empty and too much: its pool is not for use any more, or the others suffice. `surplus` keeps
    /// what was found of each pool.
    fn is_spare<'a>(&'a self, block: &BlockId, surplus: &mut BTreeMap<&'a str, u64>) -> bool {
        let owned = |held: &&Held| matches!(held.title, Title::Owned { .. }) && held.asked.is_none();
        let Some(held) = self.held.get(block).filter(|held| !held.busy()).filter(owned) else { return false };
        if self.must_vouch(block) {
            return false;
        }
        let Some(pool) = self.useful_pool_of(block) else { return true };
        let free = u64::from(held.block.free());
        free == 0 || *surplus.entry(&pool.name).or_insert_with(|| self.surplus(pool)) >= free
    }

    fn was_spare_for_long(&self, block: &BlockId) -> bool {
        let since = self.held.get(block).and_then(|held| held.spare_since);
        let long = since.is_some_and(|since| self.now >= since + self.patience(block));
        long || self.useful_pool_of(block).is_none()
    }

    /// The pool of a block, if it gives addresses from there.
    fn useful_pool_of(&self, block: &BlockId) -> Option<&Pool> {
        self.pool_of(block).filter(|pool| !pool.disabled && pool.reaches(block))
    }

    /// Free addresses beyond those that there should be, in a pool and in those that go before it.
    fn surplus(&self, pool: &Pool) -> u64 {
        let (pools, wanted) = if is_open(pool) {
            let mut open = self.eligible(pool.family(), &BTreeSet::new());
            let wanted = self.room_wanted(&open);
            let end = open.iter().position(|other| other.name == pool.name).map_or(open.len(), |at| at + 1);
            open.truncate(end);
            (open, wanted)
        } else {
            let alone: Vec<Arc<Pool>> =
                self.pools.iter().flatten().filter(|other| other.name == pool.name).cloned().collect();
            let wanted = if self.is_used(pool) { self.room_wanted(&alone) } else { 0 };
            (alone, wanted)
        };
        self.room(&pools).saturating_sub(wanted)
    }
}

/// Whether every pod may have addresses of a pool without naming it.
fn is_open(pool: &Pool) -> bool {
    pool.automatic && !pool.restricted
}

/// Whether a block counts against the limits.
fn counts(held: &Held) -> bool {
    !matches!(held.title, Title::Foreign { .. } | Title::Releasing)
}
