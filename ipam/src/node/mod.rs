//! The machine of one node: its fields, its door, and the order in which everything is settled after each
//! input.
//!
//! Inputs change facts; then [`NodeIpam::settle`] looks at the facts as they are and does what follows from
//! them. Nothing depends on having seen a change happen, so a late, repeated or lost input costs time and
//! nothing else.
//!
//! - `ownership`: which blocks are this node's, by claims, releases and the cluster's list
//! - `demand`: which blocks it wants, which it can spare
//! - `assign`: endpoints and their addresses
//! - `claims`: addresses that belong to the name of a pod
//! - `held`, `cooling`, `patience`, `backoff`: the small types beneath

mod assign;
mod backoff;
pub(crate) mod claims;
mod cooling;
mod demand;
pub(crate) mod door;
mod held;
mod ownership;
mod patience;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::block::Block;
use crate::endpoint::{Endpoint, EndpointId};
use crate::journal::{Entry, Recovered, encode, encode_all, millis};
use crate::ledger::{Ledger, Use};
use crate::name::{BlockId, Family, NodeName};
use crate::pool::{Pool, overlaps};
use crate::usage::{BlockUsage, PoolUsage, Room, Turnover, Usage};
use assign::Waiting;
use backoff::Backoff;
use claims::AddressClaim;
use cooling::Cooling;
use door::{Event, Input, Limits, Output};
use held::{Held, Title};
use patience::Patience;

/// How long recorded blocks wait for the cluster's list after a start, before addresses are given from them
/// without it.
const TRUST_AFTER: Duration = Duration::from_secs(3);
/// How long lists of blocks may be late.
const LATE: Duration = Duration::from_secs(30);
/// Pause before a record that could not be written is written anew.
const REWRITE_AFTER: Duration = Duration::from_secs(1);
/// A record is rewritten when it has this many times the lines that it needs.
const SLACK: usize = 4;
/// Lines below which a record is not worth rewriting.
const FEW_LINES: usize = 64;

/// The addresses of one node.
#[derive(Debug)]
pub struct NodeIpam {
    name: NodeName,
    limits: Limits,
    /// The latest time seen: what was due by then is done.
    now: Instant,
    /// When the machine started, and what the clock of the record showed then.
    started: (Instant, Duration),
    outputs: VecDeque<Output>,

    /// Who has which address: what the record says.
    ledger: Ledger,
    /// Lines of the record.
    lines: usize,
    /// When to write the record anew, after it could not be written.
    rewrite_at: Option<Instant>,

    /// Pools that select this node and do not overlap an earlier one; `None` until known.
    pools: Option<Vec<Arc<Pool>>>,
    /// Pools left out because they overlap an earlier one.
    shadowed: BTreeSet<String>,
    /// The cluster's blocks; `None` until known.
    known: Option<BTreeMap<BlockId, NodeName>>,
    /// This node's among them.
    ours: BTreeSet<BlockId>,
    /// What is in this node's hands. Never two that overlap.
    held: BTreeMap<BlockId, Held>,
    /// The last set announced.
    announced: BTreeSet<BlockId>,
    /// When recorded blocks are used without the cluster's word.
    trust_at: Instant,

    /// The cluster's claims of addresses; `None` until known.
    claims: Option<BTreeMap<String, AddressClaim>>,
    /// Whose each claimed address is: by the record until the claims are known.
    claimants: BTreeMap<IpAddr, String>,

    /// Addresses in their cooldown.
    cooling: Cooling,
    /// Live endpoints whose link was reported gone.
    unlinked: BTreeSet<EndpointId>,
    /// Requests that no address was found for yet, oldest first.
    waiting: Vec<Waiting>,

    /// Blocks lately taken by others, though the cluster's list may not say so yet, and until when to believe
    /// it.
    avoid: BTreeMap<BlockId, Instant>,
    /// Blocks lately released, though the cluster's list may not say so yet, and until when to believe it.
    released: BTreeMap<BlockId, Instant>,
    /// Pools whose claims or releases fail.
    backoff: BTreeMap<String, Backoff>,
    /// Pools in which no block was found to claim, until something changes.
    barren: BTreeSet<String>,
    /// Families that want a block and find none.
    exhausted: BTreeSet<Family>,
    /// Families that want a block while the node may have no more.
    limited: BTreeSet<Family>,
    /// When addresses were given lately.
    given: BTreeMap<String, VecDeque<Instant>>,
    /// How long empty blocks of a pool are kept.
    patience: BTreeMap<String, Patience>,
    /// What came and went.
    turnover: Turnover,
}

impl NodeIpam {
    /// Starts from what the record says; [`Recovered::default`] after a boot. The first output rewrites the
    /// record.
    ///
    /// Blocks in the record are announced at once. Addresses are given from them once the cluster's list
    /// confirms them, or after 3 s without one: the API server may be away.
    pub fn new(node: NodeName, limits: Limits, recovered: Recovered, now: Instant) -> Self {
        let mut ipam = Self {
            name: node,
            limits,
            now,
            started: (now, recovered.uptime),
            outputs: VecDeque::new(),
            claims: None,
            claimants: recovered.claimed.clone(),
            ledger: Ledger::new(&recovered),
            lines: 0,
            rewrite_at: None,
            pools: None,
            shadowed: BTreeSet::new(),
            known: None,
            ours: BTreeSet::new(),
            held: BTreeMap::new(),
            announced: BTreeSet::new(),
            trust_at: now + TRUST_AFTER,
            cooling: Cooling::default(),
            unlinked: BTreeSet::new(),
            waiting: Vec::new(),
            avoid: BTreeMap::new(),
            released: BTreeMap::new(),
            backoff: BTreeMap::new(),
            barren: BTreeSet::new(),
            exhausted: BTreeSet::new(),
            limited: BTreeSet::new(),
            given: BTreeMap::new(),
            patience: BTreeMap::new(),
            turnover: Turnover::default(),
        };
        ipam.go_on_resting();
        ipam.rewrite();
        if recovered.damaged > 0 {
            ipam.tell(Event::RecordDamaged { lines: recovered.damaged });
        }
        let remembered = recovered.blocks.into_iter().map(|block| (block, Title::Remembered));
        let releasing = recovered.releasing.into_iter().map(|block| (block, Title::Releasing));
        for (block, title) in remembered.chain(releasing) {
            ipam.hold(block, title);
        }
        ipam.settle();
        ipam
    }

    /// Feeds one fact or request. Never fails: what is wrong becomes an output. Time that runs backwards
    /// stands still.
    pub fn handle(&mut self, input: Input, now: Instant) {
        self.now = self.now.max(now);
        match input {
            Input::Timeout => {}
            Input::SetPools(pools) => self.on_pools(pools),
            Input::SetBlocks { blocks } => self.on_blocks(blocks),
            Input::SetClaims(claims) => self.on_claims(claims),
            Input::Assign { request, endpoint, want } => self.on_assign(request, endpoint, want),
            Input::Free { request, id } => self.on_free(request, &id),
            Input::LinkGone { id } => self.on_link_gone(&id),
            Input::Claimed { block, outcome } => self.on_claimed(block, outcome),
            Input::Released { block, outcome } => self.on_released(block, outcome),
            Input::Keep { valid } => self.on_keep(&valid),
            Input::Adopt(found) => self.on_adopt(found),
            Input::RecordFailed => self.rewrite_at = Some(self.now + REWRITE_AFTER),
            Input::RecordWhole => self.rewrite_at = None,
        }
        self.settle();
    }

    /// Takes the next output, or `None` once drained.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due next.
    pub fn deadline(&self) -> Option<Instant> {
        let unheard = self.known.is_none() && !self.held.is_empty();
        let times = [self.rewrite_at, unheard.then_some(self.trust_at), self.cooling.next_end()];
        let waiting = self.waiting.iter().map(|waiting| waiting.until);
        let believed = self.avoid.values().chain(self.released.values()).copied();
        let retries = self.backoff.values().map(|backoff| backoff.retry_at);
        let blocks = self.held.iter().flat_map(|(block, held)| self.review_times(block, held));
        let all = times
            .into_iter()
            .flatten()
            .chain(self.stream_end())
            .chain(waiting)
            .chain(believed)
            .chain(retries)
            .chain(blocks);
        all.filter(|time| *time > self.now).min()
    }

    /// The node's name.
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// The endpoint with this id, if it has addresses.
    pub fn endpoint(&self, id: &EndpointId) -> Option<&Endpoint> {
        self.ledger.endpoint(id)
    }

    /// The endpoints that have addresses, by id.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.ledger.endpoints()
    }

    /// The endpoints that were freed and whose link may still exist, by id.
    pub fn leaving(&self) -> impl Iterator<Item = &Endpoint> {
        self.ledger.leaving()
    }

    /// The claimed addresses that this node, as the owner of their block, has set aside, with the claim's key. They
    /// can be written down as reserved.
    pub fn set_aside_for(&self) -> impl Iterator<Item = (IpAddr, &str)> {
        self.ledger.asides().map(|(address, key)| (*address, key.as_str()))
    }

    /// Families that want a block while the node has as many as it may have.
    pub fn limited(&self) -> &BTreeSet<Family> {
        &self.limited
    }

    /// Whether somebody waits for an address.
    pub fn is_awaited(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Figures for status.
    pub fn usage(&self) -> Usage {
        let blocks: Vec<BlockUsage> =
            self.held.iter().map(|(block, held)| self.usage_of(*block, held)).collect();
        let in_pool = |pool: &Arc<Pool>| {
            let mine = || blocks.iter().filter(|usage| usage.pool.as_deref() == Some(&pool.name));
            PoolUsage {
                pool: pool.name.clone(),
                blocks: mine().map(|_| 1).sum(),
                used: mine().map(|usage| usage.used).sum(),
                free: mine().map(|usage| usage.free).sum(),
                resting: mine().map(|usage| usage.resting).sum(),
            }
        };
        let pools = self.pools.iter().flatten().map(in_pool).collect();
        let endpoints = self.ledger.endpoints().count();
        Usage { pools, blocks, waiting: self.waiting.len(), endpoints, turnover: self.turnover }
    }

    /// What of [`Self::usage`] changes without an output: by the cluster's word on a block, and by time.
    pub fn rooms(&self) -> impl Iterator<Item = Room> {
        self.held.iter().map(|(block, held)| Room {
            block: *block,
            standing: held.standing(),
            free: self.free_in(held),
            out: held.block.out(),
        })
    }

    fn free_in(&self, held: &Held) -> u32 {
        if self.assignable(held) { held.block.free() } else { 0 }
    }

    fn usage_of(&self, block: BlockId, held: &Held) -> BlockUsage {
        let users = self.ledger.uses_in(&block).filter_map(|(_, usage)| match usage {
            Use::Live(id) => self.ledger.endpoint(id),
            Use::Leaving(_) | Use::Freed(_) => None,
        });
        let allocations: Vec<Endpoint> = users.cloned().collect();
        let used = u32::try_from(allocations.len()).unwrap_or(u32::MAX);
        BlockUsage {
            block,
            pool: self.pool_of(&block).map(|pool| pool.name.clone()),
            standing: held.standing(),
            used,
            free: self.free_in(held),
            resting: held.block.out().saturating_sub(used),
            allocations,
        }
    }

    /// Does all that follows from the facts as they are.
    fn settle(&mut self) {
        self.expire();
        self.review_blocks();
        self.set_aside();
        self.announce();
        self.serve();
        self.claim_blocks();
        self.refuse();
        self.release_blocks();
        self.compact();
    }

    /// Ends what has run out.
    fn expire(&mut self) {
        // How long an address rests is known once its pool is; before that none is given.
        let rested = self.pools.is_some();
        while let Some(address) = rested.then(|| self.cooling.take_rested(self.now)).flatten() {
            self.ledger.rested(address);
            match held::covering(&self.held, address).and_then(|block| self.held.get_mut(&block)) {
                Some(held) => held.block.put_back(address),
                None => self.ledger.forget(address),
            }
        }
        if self.avoid.values().any(|until| *until <= self.now) {
            self.avoid.retain(|_, until| *until > self.now);
            self.barren.clear();
        }
        if self.rewrite_at.is_some_and(|at| at <= self.now) {
            self.rewrite_at = None;
            self.rewrite();
        }
    }

    fn on_pools(&mut self, pools: Vec<Pool>) {
        let mut shadowed = BTreeMap::new();
        for (first, second) in overlaps(&pools) {
            if !shadowed.contains_key(&pools[first].name) {
                shadowed.entry(pools[second].name.clone()).or_insert_with(|| pools[first].name.clone());
            }
        }
        for (pool, with) in shadowed.iter().filter(|(pool, _)| !self.shadowed.contains(*pool)) {
            self.outputs
                .push_back(Output::Event(Event::PoolOverlap { pool: pool.clone(), with: with.clone() }));
        }
        for pool in self.shadowed.iter().filter(|pool| !shadowed.contains_key(*pool)) {
            self.outputs.push_back(Output::Event(Event::PoolOverlapEnded { pool: pool.clone() }));
        }
        let usable: Vec<Pool> = pools.into_iter().filter(|pool| !shadowed.contains_key(&pool.name)).collect();
        self.shadowed = shadowed.into_keys().collect();
        self.given.retain(|name, _| usable.iter().any(|pool| pool.name == *name));
        self.patience.retain(|name, _| usable.iter().any(|pool| pool.name == *name));
        self.pools = Some(usable.into_iter().map(Arc::new).collect());
        self.reserve_all();
        self.barren.clear();
        let resting: Vec<IpAddr> = self.cooling.addresses().collect();
        resting.into_iter().for_each(|address| self.rest(address));
        self.hold_orphans();
    }

    /// Keeps from all who come what pools reserve and what is claimed.
    fn reserve_all(&mut self) {
        let blocks: Vec<BlockId> = self.held.keys().copied().collect();
        for block in blocks {
            let (pool, claimed) = (self.pool_of(&block).cloned(), self.claimed_in(&block));
            if let Some(held) = self.held.get_mut(&block) {
                held.block.reserve(pool.as_ref(), &claimed);
            }
        }
    }

    /// Takes a block in hand, with what is known of its addresses.
    fn hold(&mut self, block: BlockId, title: Title) {
        let mut addresses = Block::new(block);
        addresses.reserve(self.pool_of(&block), &self.claimed_in(&block));
        self.ledger.uses_in(&block).for_each(|(address, _)| addresses.take(address));
        let rested = self.ledger.freed().filter(|address| block.contains(*address));
        let rested = rested.filter(|address| !self.cooling.contains(*address));
        rested.for_each(|address| addresses.put_back(address));
        self.held.insert(block, Held::new(addresses, title));
    }

    /// The pool of a block, of those that select this node.
    fn pool_of(&self, block: &BlockId) -> Option<&Pool> {
        self.pools.iter().flatten().find(|pool| pool.has_block(block)).map(|pool| &**pool)
    }

    /// The time on the clock of the record, in milliseconds.
    fn uptime(&self) -> u64 {
        let (started, uptime) = self.started;
        millis(uptime + self.now.saturating_duration_since(started))
    }

    /// How long an address rests.
    fn cooldown(&self, address: IpAddr) -> Duration {
        let pool = self.pools.iter().flatten().find(|pool| pool.cidr.contains(address));
        pool.and_then(|pool| pool.cooldown).unwrap_or(self.limits.cooldown)
    }

    /// Lets a freed address rest for as long as its pool says, counted from when it became free.
    fn rest(&mut self, address: IpAddr) {
        let rested =
            self.ledger.resting_since(address).map_or(0, |since| self.uptime().saturating_sub(since));
        let left = self.cooldown(address).saturating_sub(Duration::from_millis(rested));
        if let Some(Use::Freed(turn)) = self.ledger.use_of(address) {
            self.cooling.insert(address, self.now + left, *turn);
        }
    }

    /// Goes on with what rested before the start. Times that are unknown, or of another boot, begin now.
    fn go_on_resting(&mut self) {
        let now = self.uptime();
        let resting: Vec<(IpAddr, Option<u64>)> = self.ledger.resting().collect();
        for (address, since) in resting {
            self.ledger.rests_since(address, since.filter(|since| *since <= now).unwrap_or(now));
            self.rest(address);
        }
    }

    fn tell(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Carries an entry out and records it. Returns the addresses that it freed.
    fn write(&mut self, entry: &Entry) -> Vec<IpAddr> {
        self.outputs.push_back(Output::Record(encode(entry)));
        self.lines += 1;
        self.ledger.apply(entry)
    }

    fn rewrite(&mut self) {
        self.outputs.push_back(Output::Rewrite(encode_all(&self.ledger)));
        self.lines = self.ledger.lines();
    }

    fn compact(&mut self) {
        if self.rewrite_at.is_none() && self.lines > FEW_LINES.max(SLACK * self.ledger.lines()) {
            self.rewrite();
        }
    }
}
