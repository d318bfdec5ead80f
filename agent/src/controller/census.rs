//! What there is in the cluster, and what follows from it. Pure: objects and time in, decisions out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use manx_api::{IPBlock, IPPool, IPPoolStatus, POOL_FINALIZER, set_condition};
use manx_ipam::{BlockId, NodeLife, NodeName, garbage};

/// What counts of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The node that owns it.
    pub owner: NodeName,
    /// The pool that it was cut from.
    pub pool: String,
    /// Addresses in use.
    pub used: u32,
}

impl Block {
    /// Reads what counts.
    pub fn read(object: &IPBlock) -> Option<(BlockId, Self)> {
        let id = BlockId::new(object.spec.cidr.network()).ok()?;
        let used = object.status.as_ref().map_or(0, |status| status.used);
        let owner = NodeName::new(object.spec.node.clone());
        Some((id, Self { owner, pool: object.spec.pool.clone(), used }))
    }
}

/// A change to the list of finalizers of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finalizer {
    /// Ours is to be there.
    Add,
    /// Ours is to go.
    Remove,
}

/// Everything that decisions rest on.
#[derive(Debug, Default)]
pub struct Census {
    /// The nodes that there are.
    pub nodes: BTreeSet<NodeName>,
    /// The NodeNetworks that there are.
    pub networks: BTreeSet<NodeName>,
    /// The blocks.
    pub blocks: BTreeMap<BlockId, Block>,
    /// The pools.
    pub pools: BTreeMap<String, IPPool>,
    lives: BTreeMap<NodeName, NodeLife>,
    signs: BTreeMap<NodeName, String>,
}

impl Census {
    /// Notices which owners have no Node (any more), and which have one again.
    pub fn observe(&mut self, now: Instant) {
        let owners = self.blocks.values().map(|block| &block.owner).chain(&self.networks);
        let gone: BTreeSet<NodeName> = owners.filter(|owner| !self.nodes.contains(*owner)).cloned().collect();
        self.lives.retain(|node, _| gone.contains(node));
        self.signs.retain(|node, _| gone.contains(node));
        for node in gone {
            self.lives.entry(node).or_insert_with(|| NodeLife::gone(now));
        }
    }

    /// The owners without a Node.
    pub fn gone(&self) -> Vec<NodeName> {
        self.lives.keys().cloned().collect()
    }

    /// The sign of life of an agent whose Node is gone, as it stands now: it lives when the sign has changed.
    pub fn heard(&mut self, node: &NodeName, sign: String, now: Instant) {
        let before = self.signs.insert(node.clone(), sign.clone());
        if before.is_some_and(|before| before != sign)
            && let Some(life) = self.lives.get_mut(node)
        {
            life.agent_seen = Some(now);
        }
    }

    /// The nodes that are gone for good, and the blocks that they leave behind.
    pub fn over(&self, grace: Duration, now: Instant) -> (Vec<NodeName>, Vec<BlockId>) {
        let owners = self.blocks.iter().map(|(id, block)| (*id, block.owner.clone())).collect();
        let nodes = self.lives.iter().filter(|(_, life)| life.is_over(grace, now));
        (nodes.map(|(node, _)| node.clone()).collect(), garbage(&owners, &self.lives, grace, now))
    }

    /// The pools whose finalizer is to change: each has it, until it is deleted and its last block is gone.
    pub fn finalizers(&self) -> Vec<(String, Finalizer)> {
        let change = |(name, pool): (&String, &IPPool)| {
            let has = pool.finalizers().iter().any(|finalizer| finalizer == POOL_FINALIZER);
            let leaving = pool.metadata.deletion_timestamp.is_some();
            match (leaving, has) {
                (false, false) => Some((name.clone(), Finalizer::Add)),
                (true, true) if self.blocks_of(name, pool).next().is_none() => {
                    Some((name.clone(), Finalizer::Remove))
                }
                _ => None,
            }
        };
        self.pools.iter().filter_map(change).collect()
    }

    /// A block belongs to the pool that it was cut from, or in whose network it lies.
    fn blocks_of<'a>(&'a self, name: &'a str, pool: &'a IPPool) -> impl Iterator<Item = &'a Block> {
        let network = pool.spec.cidr.network();
        let belongs = move |id: &BlockId, block: &Block| block.pool == name || network.contains(id.first());
        self.blocks.iter().filter(move |(id, block)| belongs(id, block)).map(|(_, block)| block)
    }

    /// The status of every pool.
    pub fn pool_status(&self, now: Timestamp) -> BTreeMap<String, IPPoolStatus> {
        self.pools.iter().map(|(name, pool)| (name.clone(), self.status_of(name, pool, now))).collect()
    }

    fn status_of(&self, name: &str, pool: &IPPool, now: Timestamp) -> IPPoolStatus {
        let mut status = pool.status.clone().unwrap_or_default();
        status.capacity = capacity(pool);
        status.used = self.blocks_of(name, pool).map(|block| i64::from(block.used)).sum();
        status.free = status.capacity.saturating_sub(status.used);
        status.blocks = i64::try_from(self.blocks_of(name, pool).count()).unwrap_or(i64::MAX);
        let leaving = pool.metadata.deletion_timestamp.is_some();
        let overlap = self.overlapped_by(name, pool);
        let (ready, reason, message) = match &overlap {
            _ if leaving => (false, "Terminating", format!("{} blocks are still in use", status.blocks)),
            Some(other) => {
                (false, "Overlap", format!("the pool is not used: it overlaps the older pool {other}"))
            }
            None if pool.spec.disabled => (false, "Disabled", "the pool gives no new addresses".to_owned()),
            None => (true, "Usable", "the pool gives addresses".to_owned()),
        };
        let generation = pool.metadata.generation;
        let conditions = &mut status.conditions;
        set_condition(conditions, "Ready", ready, reason, message, generation, now);
        let (reason, message) = match overlap {
            Some(other) => ("Overlap", format!("the older pool {other} has addresses of this one")),
            None => ("Alone", "no older pool has addresses of this one".to_owned()),
        };
        set_condition(conditions, "Overlap", reason == "Overlap", reason, message, generation, now);
        let (reason, message) = match leaving {
            true => ("Deleted", format!("the pool goes when its {} blocks are gone", status.blocks)),
            false => ("Wanted", "nobody has deleted the pool".to_owned()),
        };
        set_condition(conditions, "Terminating", leaving, reason, message, generation, now);
        status
    }

    /// The oldest pool that was there before this one and has addresses of it.
    fn overlapped_by(&self, name: &str, pool: &IPPool) -> Option<String> {
        let age = |name: &str, pool: &IPPool| (pool.creation_timestamp().map(|time| time.0), name.to_owned());
        let own = age(name, pool);
        let older = self.pools.iter().filter(|(other, candidate)| {
            *other != name && candidate.spec.cidr.overlaps(pool.spec.cidr) && age(other, candidate) < own
        });
        older.min_by_key(|(other, candidate)| age(other, candidate)).map(|(other, _)| other.clone())
    }
}

/// Addresses of a pool that may be given out.
fn capacity(pool: &IPPool) -> i64 {
    let size = |network: IpNetwork| {
        let bits = if network.is_ipv4() { 32 } else { 128 };
        1_u128.checked_shl(u32::from(bits - network.prefix())).unwrap_or(u128::MAX)
    };
    let mut reserved: Vec<IpNetwork> = pool.spec.reserved.iter().map(|cidr| cidr.network()).collect();
    // One that lies inside another is counted with it.
    reserved.sort_by_key(IpNetwork::prefix);
    let mut apart: Vec<IpNetwork> = Vec::new();
    for network in reserved {
        if !apart.iter().any(|wider| wider.contains(network.network())) {
            apart.push(network);
        }
    }
    let taken: u128 = apart.into_iter().map(size).fold(0, u128::saturating_add);
    i64::try_from(size(pool.spec.cidr.network()).saturating_sub(taken)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use manx_api::{IPPoolSpec, condition, is_true};

    use super::*;

    const GRACE: Duration = Duration::from_secs(300);

    fn pool(name: &str, cidr: &str, created: i64) -> IPPool {
        let mut pool = IPPool::new(name, IPPoolSpec::new(cidr.parse().expect("a network")));
        pool.metadata.creation_timestamp = Some(Time(Timestamp::from_second(created).expect("a time")));
        pool
    }

    fn census() -> Census {
        let block = Block { owner: "n1".into(), pool: "v4".to_owned(), used: 3 };
        Census {
            nodes: BTreeSet::from(["n1".into()]),
            networks: BTreeSet::from(["n1".into()]),
            blocks: BTreeMap::from([("10.244.1.0/26".parse().expect("a block"), block)]),
            pools: BTreeMap::from([("v4".to_owned(), pool("v4", "10.244.0.0/16", 1))]),
            ..Census::default()
        }
    }

    #[test]
    fn blocks_return_when_the_node_has_been_gone_for_the_whole_grace() {
        let (mut census, start) = (census(), Instant::now());
        census.observe(start);
        census.nodes.clear();
        census.observe(start);
        assert_eq!(census.over(GRACE, start + GRACE - Duration::from_secs(1)), (vec![], vec![]));
        let (nodes, blocks) = census.over(GRACE, start + GRACE);
        assert_eq!((nodes.len(), blocks.len()), (1, 1));
    }

    #[test]
    fn an_agent_that_goes_on_saying_that_it_lives_keeps_its_blocks() {
        let (mut census, start) = (census(), Instant::now());
        census.nodes.clear();
        census.observe(start);
        census.heard(&"n1".into(), "first".to_owned(), start);
        census.heard(&"n1".into(), "second".to_owned(), start + GRACE);
        assert_eq!(census.over(GRACE, start + GRACE).1, []);
        census.heard(&"n1".into(), "second".to_owned(), start + 2 * GRACE);
        assert_eq!(census.over(GRACE, start + 2 * GRACE).1.len(), 1);
    }

    #[test]
    fn a_node_that_comes_back_starts_a_new_grace() {
        let (mut census, start) = (census(), Instant::now());
        let nodes = std::mem::take(&mut census.nodes);
        census.observe(start);
        census.nodes = nodes;
        census.observe(start + GRACE);
        census.nodes.clear();
        census.observe(start + GRACE);
        assert_eq!(census.over(GRACE, start + GRACE + Duration::from_secs(1)).1, []);
    }

    #[test]
    fn a_pool_is_kept_until_its_last_block_is_gone() {
        let mut census = census();
        assert_eq!(census.finalizers(), [("v4".to_owned(), Finalizer::Add)]);
        let pool = census.pools.get_mut("v4").expect("there");
        pool.metadata.finalizers = Some(vec![POOL_FINALIZER.to_owned()]);
        assert_eq!(census.finalizers(), []);
        let pool = census.pools.get_mut("v4").expect("there");
        pool.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(census.finalizers(), []);
        census.blocks.clear();
        assert_eq!(census.finalizers(), [("v4".to_owned(), Finalizer::Remove)]);
    }

    #[test]
    fn the_younger_of_two_pools_that_overlap_is_not_ready() {
        let mut census = census();
        census.pools.insert("more".to_owned(), pool("more", "10.244.128.0/17", 2));
        let status = census.pool_status(Timestamp::UNIX_EPOCH);
        assert!(is_true(&status["v4"].conditions, "Ready"));
        assert!(is_true(&status["more"].conditions, "Overlap"));
        let ready = condition(&status["more"].conditions, "Ready").expect("set");
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "Overlap"));
    }

    #[test]
    fn reserved_addresses_are_no_capacity_and_are_counted_once() {
        let mut pool = pool("v4", "10.244.0.0/24", 1);
        pool.spec.reserved =
            ["10.244.0.0/28", "10.244.0.4/30"].map(|cidr| cidr.parse().expect("a network")).into();
        assert_eq!(capacity(&pool), 240);
        assert_eq!(capacity(&self::pool("v6", "fd00::/48", 1)), i64::MAX);
    }
}
