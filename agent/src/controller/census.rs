//! What there is in the cluster, and whose time is over. Pure: objects and time in, decisions out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kube::ResourceExt as _;
use manx_api::{IPBlock, IPPool, POOL_FINALIZER};
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

/// What counts of a claim of addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claim {
    /// The node that has its addresses.
    pub holder: Option<NodeName>,
    /// Somebody deleted it.
    pub deleting: bool,
    /// Our finalizer is there.
    pub kept: bool,
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
    /// Their labels.
    pub labels: BTreeMap<NodeName, BTreeMap<String, String>>,
    /// The NodeNetworks that there are.
    pub networks: BTreeSet<NodeName>,
    /// The blocks.
    pub blocks: BTreeMap<BlockId, Block>,
    /// The pools.
    pub pools: BTreeMap<String, IPPool>,
    /// The claims of addresses, by namespace and name.
    pub claims: BTreeMap<(String, String), Claim>,
    lives: BTreeMap<NodeName, NodeLife>,
    signs: BTreeMap<NodeName, String>,
}

impl Census {
    /// Notices which owners have no Node (any more), and which have one again.
    pub fn observe(&mut self, now: Instant) {
        let holders = self.claims.values().filter_map(|claim| claim.holder.as_ref());
        let owners = self.blocks.values().map(|block| &block.owner).chain(&self.networks).chain(holders);
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

    /// A block belongs to the pool that it was cut from, or where there is no such pool to the one in which it lies.
    pub(super) fn blocks_of<'a>(
        &'a self,
        name: &'a str,
        pool: &'a IPPool,
    ) -> impl Iterator<Item = &'a Block> {
        let network = pool.spec.cidr.network();
        let belongs = move |id: &BlockId, block: &Block| {
            let orphan = || !self.pools.contains_key(&block.pool) && network.contains(id.first());
            block.pool == name || orphan()
        };
        self.blocks.iter().filter(move |(id, block)| belongs(id, block)).map(|(_, block)| block)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use manx_api::IPPoolSpec;
    use proptest::prelude::*;

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
    fn blocks_of_an_overlapping_pool_keep_no_other_pool() {
        let mut census = census();
        let mut other = pool("more", "10.244.0.0/17", 2);
        other.metadata.finalizers = Some(vec![POOL_FINALIZER.to_owned()]);
        other.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        census.pools.insert("more".to_owned(), other);
        assert!(census.finalizers().contains(&("more".to_owned(), Finalizer::Remove)));
        census.pools.remove("v4");
        assert_eq!(census.finalizers(), [], "now nobody else answers for the block");
    }

    #[test]
    fn a_node_registered_again_under_another_uid_keeps_its_blocks() {
        let (mut census, start) = (census(), Instant::now());
        // Nodes are known by name: the agent that returns finds its blocks as they were.
        census.nodes.clear();
        census.observe(start);
        census.nodes.insert("n1".into());
        census.observe(start + GRACE - Duration::from_secs(1));
        assert_eq!(census.over(GRACE, start + 100 * GRACE), (vec![], vec![]));
    }

    #[test]
    fn a_renamed_node_loses_the_blocks_of_its_old_name_only() {
        let (mut census, start) = (census(), Instant::now());
        let block = Block { owner: "n1-new".into(), pool: "v4".to_owned(), used: 1 };
        census.blocks.insert("10.244.2.0/26".parse().expect("a block"), block);
        census.nodes = ["n1-new".into()].into();
        census.observe(start);
        let (nodes, blocks) = census.over(GRACE, start + GRACE);
        assert_eq!(nodes, ["n1".into()]);
        assert_eq!(blocks, ["10.244.1.0/26".parse().expect("a block")]);
    }

    /// What happens to one of three nodes.
    #[derive(Debug, Clone)]
    enum Step {
        Leaves(u8),
        Returns(u8),
        Beats(u8),
        Waits(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..3_u8).prop_map(Step::Leaves),
            (0..3_u8).prop_map(Step::Returns),
            (0..3_u8).prop_map(Step::Beats),
            (1..200_u64).prop_map(Step::Waits),
        ]
    }

    proptest! {
        /// A node lives while it has its object, and for a grace after that and after each sign of its agent.
        #[test]
        fn no_block_of_a_living_node_is_ever_taken(steps in prop::collection::vec(step(), 0..60)) {
            let name = |n: u8| NodeName::new(format!("n{n}"));
            let start = Instant::now();
            let mut now = start;
            let mut census = Census { nodes: (0..3).map(name).collect(), ..Census::default() };
            for n in 0..3 {
                let block = Block { owner: name(n), pool: "v4".to_owned(), used: 1 };
                census.blocks.insert(format!("10.244.{n}.0/26").parse().expect("a block"), block);
            }
            let (mut alive_at, mut beats) = ([start; 3], [0_u32; 3]);
            for step in steps {
                match step {
                    Step::Leaves(n) => drop(census.nodes.remove(&name(n))),
                    Step::Returns(n) => drop(census.nodes.insert(name(n))),
                    Step::Beats(n) => beats[usize::from(n)] += 1,
                    Step::Waits(seconds) => now += Duration::from_secs(seconds),
                }
                census.observe(now);
                for n in 0..3_u8 {
                    let at = usize::from(n);
                    // A first sign says nothing: it may be of long ago.
                    let changed = matches!(step, Step::Beats(beating) if beating == n) && beats[at] > 1;
                    if census.nodes.contains(&name(n)) || changed {
                        alive_at[at] = now;
                    }
                    if census.gone().contains(&name(n)) {
                        census.heard(&name(n), beats[at].to_string(), now);
                    }
                }
                let (nodes, blocks) = census.over(GRACE, now);
                for block in blocks {
                    let owner = &census.blocks[&block].owner;
                    prop_assert!(nodes.contains(owner));
                    prop_assert!(!census.nodes.contains(owner));
                    let at = (0..3).find(|n| name(*n) == *owner).map(usize::from).expect("one of three");
                    prop_assert!(now - alive_at[at] >= GRACE, "{owner} lived {:?} ago", now - alive_at[at]);
                }
            }
        }
    }
}
