//! Many nodes, one small pool, one API server whose create is the only arbiter, and lists that come late to
//! each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::bench::{endpoint, id, limits, pool, v4};
use crate::{
    AssignError, BlockId, ClaimError, Family, Input, Limits, NodeIpam, NodeName, Output, Pool, RequestId,
    recover,
};

struct Node {
    ipam: NodeIpam,
    owned: BTreeSet<BlockId>,
    /// Requests to the API server, `true` for a claim.
    calls: Vec<(BlockId, bool)>,
    refused: Vec<AssignError>,
}

struct Cluster {
    nodes: Vec<Node>,
    now: Instant,
    blocks: BTreeMap<BlockId, NodeName>,
    given: BTreeMap<IpAddr, usize>,
    requests: u64,
}

fn name(node: usize) -> NodeName {
    NodeName::new(format!("node{node}"))
}

fn small_pool() -> Pool {
    pool("v4", "10.0.0.0/26", 30)
}

impl Cluster {
    #[expect(clippy::disallowed_methods, reason = "any instant will do as a beginning")]
    fn new(size: usize, limits: &Limits) -> Self {
        let now = Instant::now();
        let node = |at| Node {
            ipam: NodeIpam::new(name(at), limits.clone(), recover(b""), now),
            owned: BTreeSet::new(),
            calls: Vec::new(),
            refused: Vec::new(),
        };
        let nodes = (0..size).map(node).collect();
        let mut cluster = Self { nodes, now, blocks: BTreeMap::new(), given: BTreeMap::new(), requests: 0 };
        for at in 0..size {
            cluster.feed(at, Input::SetPools(vec![small_pool()]));
            cluster.show(at);
        }
        cluster
    }

    fn feed(&mut self, at: usize, input: Input) {
        let node = &mut self.nodes[at];
        node.ipam.handle(input, self.now);
        while let Some(output) = node.ipam.poll() {
            match output {
                Output::Claim(block) => node.calls.push((block, true)),
                Output::Release(block) => node.calls.push((block, false)),
                Output::Owned(blocks) => node.owned = blocks,
                Output::Refused { why, .. } => node.refused.push(why),
                Output::Assigned { endpoint, .. } => {
                    for address in endpoint.addresses {
                        assert_eq!(self.given.insert(address, at), None, "{address} is given twice");
                    }
                }
                _ => {}
            }
        }
        for block in &self.nodes[at].owned {
            assert_eq!(self.blocks.get(block), Some(&name(at)), "{block} has two owners");
        }
    }

    fn show(&mut self, at: usize) {
        self.feed(at, Input::SetBlocks { blocks: self.blocks.clone() });
    }

    fn answer(&mut self, at: usize, which: usize) {
        if self.nodes[at].calls.is_empty() {
            return;
        }
        let open = self.nodes[at].calls.len();
        let (block, claim) = self.nodes[at].calls.remove(which % open);
        if claim {
            let owner = self.blocks.entry(block).or_insert_with(|| name(at));
            let outcome = if *owner == name(at) { Ok(()) } else { Err(ClaimError::Taken) };
            self.feed(at, Input::Claimed { block, outcome });
        } else {
            let outcome = if self.blocks.get(&block) == Some(&name(at)) {
                self.blocks.remove(&block);
                Ok(())
            } else {
                Err(ClaimError::Taken)
            };
            self.feed(at, Input::Released { block, outcome });
        }
    }

    fn assign(&mut self, at: usize) {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.feed(
            at,
            Input::Assign { request, endpoint: endpoint(&format!("pod{}", self.requests)), want: v4() },
        );
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let due = |node: &Node| node.ipam.deadline().filter(|due| *due <= end);
        while let Some((due, at)) =
            (0..self.nodes.len()).filter_map(|at| Some((due(&self.nodes[at])?, at))).min()
        {
            self.now = due;
            self.feed(at, Input::Timeout);
        }
        self.now = end;
    }

    fn calm(&mut self) {
        for _ in 0..30 {
            for at in 0..self.nodes.len() {
                while !self.nodes[at].calls.is_empty() {
                    self.answer(at, 0);
                }
                self.show(at);
            }
            if self.nodes.iter().all(|node| node.calls.is_empty() && node.ipam.usage().waiting == 0) {
                break;
            }
            self.pass(Duration::from_millis(200));
        }
    }

    fn end_all(&mut self) {
        for at in 0..self.nodes.len() {
            let pods: Vec<_> = self.nodes[at].ipam.endpoints().map(|pod| pod.id.clone()).collect();
            self.feed(at, Input::Keep { valid: BTreeSet::new() });
            pods.into_iter().for_each(|id| self.feed(at, Input::LinkGone { id }));
        }
        self.given.clear();
    }
}

#[derive(Debug, Clone)]
enum Step {
    Assign(usize),
    Answer(usize, usize),
    Show(usize),
    Pass(u64),
}

fn step(nodes: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..nodes).prop_map(Step::Assign),
        6 => (0..nodes, any::<prop::sample::Index>()).prop_map(|(at, which)| Step::Answer(at, which.index(97))),
        2 => (0..nodes).prop_map(Step::Show),
        1 => (0u64..500).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn nodes_that_race_for_a_small_pool_never_share_a_block_and_use_it_up(
        steps in prop::collection::vec(step(6), 0..200), headroom in 0u32..5,
    ) {
        let limits = Limits { headroom, max_blocks: 16, ..limits() };
        let mut cluster = Cluster::new(6, &limits);
        for step in steps {
            match step {
                Step::Assign(at) => cluster.assign(at),
                Step::Answer(at, which) => cluster.answer(at, which),
                Step::Show(at) => cluster.show(at),
                Step::Pass(millis) => cluster.pass(Duration::from_millis(millis)),
            }
        }
        cluster.calm();
        for at in 0..6 {
            for _ in 0..64 {
                cluster.assign(at);
                cluster.calm();
                if cluster.nodes[at].refused.pop().is_some() {
                    break;
                }
            }
        }
        prop_assert_eq!(cluster.given.len(), 64, "every address is in use");
        prop_assert_eq!(cluster.blocks.len(), 16);
    }
}

#[test]
fn addresses_left_by_one_node_come_to_another() {
    let mut cluster = Cluster::new(3, &Limits { max_blocks: 16, ..limits() });
    for pod in 0..64 {
        cluster.assign(pod % 3);
        cluster.calm();
    }
    cluster.end_all();
    for _ in 0..20 {
        cluster.pass(Duration::from_secs(10));
        cluster.calm();
    }
    assert_eq!(cluster.blocks, BTreeMap::new(), "all are returned");
    cluster.nodes[2].refused.clear();
    for _ in 0..64 {
        cluster.assign(1);
        cluster.calm();
    }
    assert_eq!(cluster.given.len(), 64);
    cluster.assign(2);
    cluster.calm();
    let full = AssignError::PoolFull { family: Family::V4, pools: "v4".into() };
    assert_eq!(cluster.nodes[2].refused, [full]);
}

#[test]
fn a_hundred_nodes_that_start_together_need_few_second_tries() {
    let now = Cluster::new(0, &limits()).now;
    let (mut blocks, mut tries) = (BTreeMap::new(), 0);
    for at in 0..100 {
        let mut ipam = NodeIpam::new(name(at), Limits { headroom: 64, ..limits() }, recover(b""), now);
        ipam.handle(Input::SetPools(vec![pool("v4", "10.244.0.0/16", 26)]), now);
        ipam.handle(Input::SetBlocks { blocks: BTreeMap::new() }, now);
        while let Some(output) = ipam.poll() {
            if let Output::Claim(block) = output {
                tries += 1;
                let outcome =
                    if blocks.insert(block, at).is_none() { Ok(()) } else { Err(ClaimError::Taken) };
                ipam.handle(Input::Claimed { block, outcome }, now);
            }
        }
        assert_eq!(ipam.endpoints().count(), 0);
        ipam.handle(Input::LinkGone { id: id("nobody") }, now);
    }
    assert!((100..115).contains(&tries), "{tries} claims for 100 blocks of 1024");
}
