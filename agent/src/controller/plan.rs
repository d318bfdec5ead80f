//! What the controller does next, as a pure function of what it has seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use kube::ResourceExt;
use manx_api::{
    Condition, IPBlock, IPPool, IPPoolStatus, NodeNetwork, POOL_FINALIZER, Timestamp, condition,
    set_condition,
};
use manx_ipam::{BlockId, NodeLife, NodeName, garbage};

/// The objects of the cluster, as the watches last showed them.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Every pool.
    pub pools: Vec<IPPool>,
    /// Every block.
    pub blocks: Vec<IPBlock>,
    /// Every NodeNetwork.
    pub networks: Vec<NodeNetwork>,
    /// The names of all Node objects.
    pub nodes: BTreeSet<String>,
    /// The agents' Leases: node name and whatever changes with each renewal.
    pub heartbeats: BTreeMap<String, String>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Delete a block whose owner is gone; only as it was seen.
    ReleaseBlock {
        /// The object's name.
        name: String,
        /// Its resourceVersion, for the precondition.
        version: String,
        /// Its owner.
        node: String,
    },
    /// Delete the NodeNetwork of a node that is gone.
    ForgetNode {
        /// The object's name.
        name: String,
        /// Its UID, for the precondition: a node that came back has another one.
        uid: String,
    },
    /// Write the finalizers of a pool.
    SetFinalizers {
        /// The pool.
        pool: String,
        /// Its resourceVersion, for the precondition.
        version: String,
        /// All finalizers that it shall have.
        finalizers: Vec<String>,
    },
    /// Write the status of a pool.
    Report {
        /// The pool.
        pool: String,
        /// Its status.
        status: IPPoolStatus,
    },
}

/// How long each owner of blocks has been gone, remembered between two looks at the cluster.
#[derive(Debug, Default)]
pub struct Lives {
    gone_since: BTreeMap<String, Instant>,
    heard: BTreeMap<String, (String, Instant)>,
}

impl Lives {
    /// Takes note of who is there at `now`.
    pub fn observe(&mut self, view: &View, now: Instant) {
        let owners = view.blocks.iter().map(|block| block.spec.node.clone());
        let known: BTreeSet<String> = owners.chain(view.networks.iter().map(ResourceExt::name_any)).collect();
        self.gone_since.retain(|node, _| known.contains(node) && !view.nodes.contains(node));
        for node in known.difference(&view.nodes) {
            self.gone_since.entry(node.clone()).or_insert(now);
        }
        self.heard.retain(|node, _| view.heartbeats.contains_key(node));
        for (node, beat) in &view.heartbeats {
            if self.heard.get(node).is_none_or(|(last, _)| last != beat) {
                self.heard.insert(node.clone(), (beat.clone(), now));
            }
        }
    }

    /// When the next owner may be over, if any is gone: look again then.
    pub fn deadline(&self, grace: Duration) -> Option<Instant> {
        let heard = |node: &String| self.heard.get(node).map(|(_, at)| *at);
        let over = |(node, gone): (&String, &Instant)| heard(node).map_or(*gone, |at| at.max(*gone)) + grace;
        self.gone_since.iter().map(over).min()
    }

    fn lives(&self) -> BTreeMap<NodeName, NodeLife> {
        let life = |(node, gone): (&String, &Instant)| {
            let mut life = NodeLife::gone(*gone);
            life.agent_seen = self.heard.get(node).map(|(_, at)| *at);
            (NodeName::new(node.clone()), life)
        };
        self.gone_since.iter().map(life).collect()
    }
}

/// What is to be done now.
pub fn plan(view: &View, lives: &Lives, grace: Duration, now: Instant, clock: Timestamp) -> Vec<Action> {
    let mut actions = releases(view, lives, grace, now);
    for pool in &view.pools {
        actions.extend(finalizers(pool, &view.blocks));
        actions.extend(report(pool, view, clock));
    }
    actions
}

fn releases(view: &View, lives: &Lives, grace: Duration, now: Instant) -> Vec<Action> {
    let lives = lives.lives();
    let mut owners = BTreeMap::new();
    for block in &view.blocks {
        if let Ok(id) = BlockId::new(block.spec.cidr.into()) {
            owners.insert(id, NodeName::new(block.spec.node.clone()));
        }
    }
    let over: BTreeSet<String> =
        garbage(&owners, &lives, grace, now).into_iter().map(|block| block.name()).collect();
    let mut actions: Vec<Action> = view
        .blocks
        .iter()
        .filter(|block| over.contains(&block.name_any()))
        .map(|block| Action::ReleaseBlock {
            name: block.name_any(),
            version: block.resource_version().unwrap_or_default(),
            node: block.spec.node.clone(),
        })
        .collect();
    let forgotten = view.networks.iter().filter(|network| {
        let name = NodeName::new(network.name_any());
        lives.get(&name).is_some_and(|life| life.is_over(grace, now))
    });
    actions.extend(forgotten.map(|network| Action::ForgetNode {
        name: network.name_any(),
        uid: network.uid().unwrap_or_default(),
    }));
    actions
}

/// A pool keeps our finalizer while it lives, and until its last block is gone.
fn finalizers(pool: &IPPool, blocks: &[IPBlock]) -> Option<Action> {
    let name = pool.name_any();
    let has = pool.finalizers().iter().any(|finalizer| finalizer == POOL_FINALIZER);
    let terminating = pool.metadata.deletion_timestamp.is_some();
    let used = blocks.iter().any(|block| block.spec.pool == name);
    let mut finalizers = pool.finalizers().to_vec();
    if !terminating && !has {
        finalizers.push(POOL_FINALIZER.to_owned());
    } else if terminating && has && !used {
        finalizers.retain(|finalizer| finalizer != POOL_FINALIZER);
    } else {
        return None;
    }
    Some(Action::SetFinalizers {
        pool: name,
        version: pool.resource_version().unwrap_or_default(),
        finalizers,
    })
}

fn report(pool: &IPPool, view: &View, clock: Timestamp) -> Option<Action> {
    let name = pool.name_any();
    let mut status = pool.status.clone().unwrap_or_default();
    let before = status.clone();
    let blocks: Vec<&IPBlock> = view.blocks.iter().filter(|block| block.spec.pool == name).collect();
    let used =
        blocks.iter().filter_map(|block| block.status.as_ref()).map(|status| i64::from(status.used)).sum();
    status.capacity = capacity(pool.spec.cidr.into());
    status.used = used;
    status.free = status.capacity.saturating_sub(used);
    status.blocks = i64::try_from(blocks.len()).unwrap_or(i64::MAX);
    conditions(pool, &view.pools, blocks.len(), &mut status.conditions, clock);
    (status != before).then_some(Action::Report { pool: name, status })
}

/// Addresses in `network`; the largest `i64` where there are more.
fn capacity(network: IpNetwork) -> i64 {
    let bits = match network {
        IpNetwork::V4(network) => 32 - network.prefix(),
        IpNetwork::V6(network) => 128 - network.prefix(),
    };
    if bits >= 63 { i64::MAX } else { 1 << bits }
}

fn conditions(
    pool: &IPPool,
    pools: &[IPPool],
    blocks: usize,
    conditions: &mut Vec<Condition>,
    clock: Timestamp,
) {
    let generation = pool.metadata.generation;
    let mut set = |type_: &str, status: bool, reason: &str, message: String| {
        // A condition that was never true is not worth a line.
        if status || type_ == "Ready" || condition(conditions, type_).is_some() {
            set_condition(conditions, type_, status, reason, message, generation, clock);
        }
    };
    let overlap = overlapped(pool, pools);
    let terminating = pool.metadata.deletion_timestamp.is_some();
    match &overlap {
        Some(older) => set(
            "Overlap",
            true,
            "OlderPoolOverlaps",
            format!(
                "the older pool {older} covers some of these addresses: delete one of the two, no address is given from this one"
            ),
        ),
        None => set("Overlap", false, "NoOverlap", String::new()),
    }
    if terminating {
        let message =
            format!("waiting for {blocks} blocks to be empty and given back; no new address is given");
        set("Terminating", true, "BlocksInUse", message);
    }
    match (overlap.is_some(), terminating, pool.spec.disabled) {
        (true, ..) => set("Ready", false, "Overlap", "the pool overlaps with an older one".to_owned()),
        (_, true, _) => set("Ready", false, "Terminating", "the pool is being deleted".to_owned()),
        (.., true) => {
            set("Ready", false, "Disabled", "spec.disabled is set: no new address is given".to_owned())
        }
        _ => set("Ready", true, "Serving", "addresses are given from this pool".to_owned()),
    }
}

/// The oldest pool that shares addresses with `pool` and was there first.
fn overlapped(pool: &IPPool, pools: &[IPPool]) -> Option<String> {
    let age = |pool: &IPPool| (pool.creation_timestamp().map(|time| time.0), pool.name_any());
    let network: IpNetwork = pool.spec.cidr.into();
    let shares = |other: &IpNetwork| other.contains(network.network()) || network.contains(other.network());
    pools
        .iter()
        .filter(|other| age(other) < age(pool) && shares(&other.spec.cidr.into()))
        .min_by_key(|other| age(other))
        .map(ResourceExt::name_any)
}

#[cfg(test)]
mod tests {
    use manx_api::{Cidr, IPBlockStatus, IPPoolSpec, is_true};

    use super::*;

    const GRACE: Duration = Duration::from_secs(300);

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a CIDR")
    }

    fn pool(name: &str, network: &str, created: i64) -> IPPool {
        let mut pool = IPPool::new(name, IPPoolSpec::new(cidr(network)));
        let created = Timestamp::from_second(created).expect("a time");
        pool.metadata.creation_timestamp = Some(manx_api::Time(created));
        pool.metadata.resource_version = Some("7".to_owned());
        pool.metadata.finalizers = Some(vec![POOL_FINALIZER.to_owned()]);
        pool
    }

    fn block(network: &str, node: &str, used: u32) -> IPBlock {
        let mut block = IPBlock::claim(cidr(network), node, "pool");
        block.metadata.resource_version = Some("9".to_owned());
        block.status = Some(IPBlockStatus { used, ..IPBlockStatus::default() });
        block
    }

    fn actions(view: &View, lives: &mut Lives, now: Instant) -> Vec<Action> {
        lives.observe(view, now);
        plan(view, lives, GRACE, now, Timestamp::UNIX_EPOCH)
    }

    fn released(actions: &[Action]) -> Vec<&str> {
        let name = |action| match action {
            &Action::ReleaseBlock { ref name, .. } => Some(name.as_str()),
            _ => None,
        };
        actions.iter().filter_map(name).collect()
    }

    #[test]
    fn the_block_of_a_gone_node_returns_after_the_grace_and_not_before() {
        let view = View { blocks: vec![block("10.0.0.0/26", "gone", 3)], ..View::default() };
        let (mut lives, start) = (Lives::default(), Instant::now());
        assert_eq!(actions(&view, &mut lives, start), []);
        assert_eq!(lives.deadline(GRACE), Some(start + GRACE));
        assert_eq!(actions(&view, &mut lives, start + GRACE - Duration::from_secs(1)), []);
        let expected =
            Action::ReleaseBlock { name: "10-0-0-0-26".into(), version: "9".into(), node: "gone".into() };
        assert_eq!(actions(&view, &mut lives, start + GRACE), [expected]);
    }

    #[test]
    fn a_node_that_comes_back_within_the_grace_keeps_its_blocks() {
        let mut view = View { blocks: vec![block("10.0.0.0/26", "node1", 0)], ..View::default() };
        let (mut lives, start) = (Lives::default(), Instant::now());
        actions(&view, &mut lives, start);
        view.nodes.insert("node1".to_owned());
        actions(&view, &mut lives, start + GRACE / 2);
        view.nodes.clear();
        assert_eq!(actions(&view, &mut lives, start + GRACE), []);
        assert_eq!(released(&actions(&view, &mut lives, start + GRACE * 2)), ["10-0-0-0-26"]);
    }

    #[test]
    fn a_living_agent_keeps_its_blocks_though_its_node_object_is_gone() {
        let mut view = View { blocks: vec![block("10.0.0.0/26", "node1", 0)], ..View::default() };
        let (mut lives, start) = (Lives::default(), Instant::now());
        actions(&view, &mut lives, start);
        view.heartbeats.insert("node1".to_owned(), "42".to_owned());
        assert_eq!(actions(&view, &mut lives, start + GRACE), []);
        assert_eq!(released(&actions(&view, &mut lives, start + GRACE * 2)), ["10-0-0-0-26"]);
    }

    #[test]
    fn the_node_network_of_a_gone_node_is_forgotten_with_its_blocks() {
        let mut network = NodeNetwork::example();
        network.metadata.uid = Some("u".to_owned());
        let view = View { networks: vec![network], ..View::default() };
        let (mut lives, start) = (Lives::default(), Instant::now());
        actions(&view, &mut lives, start);
        let expected = Action::ForgetNode { name: "node1".into(), uid: "u".into() };
        assert_eq!(actions(&view, &mut lives, start + GRACE), [expected]);
    }

    #[test]
    fn a_pool_reports_what_its_blocks_use() {
        let view = View {
            pools: vec![pool("pool", "10.0.0.0/24", 1)],
            blocks: vec![block("10.0.0.0/26", "node1", 3), block("10.0.0.64/26", "node1", 4)],
            nodes: BTreeSet::from(["node1".to_owned()]),
            ..View::default()
        };
        let actions = actions(&view, &mut Lives::default(), Instant::now());
        let [Action::Report { status, .. }] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!((status.capacity, status.used, status.free, status.blocks), (256, 7, 249, 2));
        assert!(is_true(&status.conditions, "Ready"));
    }

    #[test]
    fn a_status_that_is_true_already_is_not_written_again() {
        let mut view = View { pools: vec![pool("pool", "10.0.0.0/24", 1)], ..View::default() };
        let mut lives = Lives::default();
        let [Action::Report { status, .. }] = &actions(&view, &mut lives, Instant::now())[..] else {
            panic!("one report")
        };
        view.pools[0].status = Some(status.clone());
        assert_eq!(actions(&view, &mut lives, Instant::now()), []);
    }

    #[test]
    fn of_two_pools_that_overlap_the_younger_is_not_ready() {
        let view = View {
            pools: vec![pool("young", "10.0.0.0/16", 2), pool("old", "10.0.4.0/24", 1)],
            ..View::default()
        };
        let ready: Vec<(String, bool)> = actions(&view, &mut Lives::default(), Instant::now())
            .into_iter()
            .filter_map(|action| match action {
                Action::Report { pool, status } => Some((pool, is_true(&status.conditions, "Ready"))),
                _ => None,
            })
            .collect();
        assert_eq!(ready, [("young".to_owned(), false), ("old".to_owned(), true)]);
    }

    #[test]
    fn a_deleted_pool_is_kept_until_its_last_block_is_gone() {
        let mut deleted = pool("pool", "10.0.0.0/24", 1);
        deleted.metadata.deletion_timestamp = Some(manx_api::Time(Timestamp::UNIX_EPOCH));
        let mut view = View {
            pools: vec![deleted],
            blocks: vec![block("10.0.0.0/26", "node1", 0)],
            nodes: BTreeSet::from(["node1".to_owned()]),
            ..View::default()
        };
        let is_finalizer = |action: &Action| matches!(action, Action::SetFinalizers { .. });
        let mut lives = Lives::default();
        assert!(!actions(&view, &mut lives, Instant::now()).iter().any(is_finalizer));
        view.blocks.clear();
        let expected =
            Action::SetFinalizers { pool: "pool".into(), version: "7".into(), finalizers: Vec::new() };
        assert!(actions(&view, &mut lives, Instant::now()).contains(&expected));
    }
}
