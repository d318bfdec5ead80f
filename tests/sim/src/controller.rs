//! The controller: its census, and what `agent/src/controller/run.rs` does between it and the API server, one request
//! after the other.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use manx_agent::controller::census::{Block, Census, Finalizer};
use manx_ipam::{BlockId, NodeName};

use crate::api::{Answer, Kind, Object, Request};
use crate::client::{Client, Desk, Watches};
use crate::world::{Happening, Life, World, millis, secs};

/// How long a node must be gone.
pub(crate) const GRACE: Duration = secs(60);
/// How often the census is looked at though nothing changed.
const BEAT: Duration = secs(15);
const KINDS: [Kind; 4] = [Kind::Node, Kind::Network, Kind::Block, Kind::Pool];

/// What is to be done, one after the other.
#[derive(Debug, Clone)]
enum Job {
    Listen(NodeName),
    Judge,
    Bury(NodeName, Vec<BlockId>),
    LookAt(NodeName, BlockId),
    Reclaim(BlockId, u64, u64),
    FindNetwork(NodeName),
    Forget(NodeName, u64),
    FindPool(String, bool),
    HasBlocks(String, u64),
    Finalize(String, bool, u64),
}

/// The leading replica.
#[derive(Debug, Default)]
pub(crate) struct Controller {
    pub(crate) life: Life,
    pub(crate) watches: Watches,
    census: Census,
    jobs: VecDeque<Job>,
    waiting: Option<Job>,
    due: Option<Instant>,
}

impl World {
    /// A replica begins to lead.
    pub(crate) fn start_controller(&mut self) {
        let life = self.controller.life + 1;
        self.controller = Controller { life, ..Controller::default() };
        self.begin_watches(Client::Controller);
        self.look_at_census(secs(1));
    }

    fn look_at_census(&mut self, delay: Duration) {
        let at = self.now + delay;
        if self.controller.due.is_none_or(|due| due > at || due < self.now) {
            self.controller.due = Some(at);
            let life = self.controller.life;
            self.at(at, Happening::Controller { life });
        }
    }

    /// A watch of the controller told something.
    pub(crate) fn on_census(&mut self, _kind: Kind) {
        self.look_at_census(millis(50));
    }

    pub(crate) fn controller_turn(&mut self, life: Life) {
        if self.controller.life != life || self.controller.due != Some(self.now) {
            return;
        }
        self.controller.due = None;
        self.look_at_census(BEAT);
        let seen = |kind: &Kind| self.controller.watches.get(kind).is_some_and(|watch| watch.listed);
        if !KINDS.iter().all(seen) || self.controller.waiting.is_some() || !self.controller.jobs.is_empty() {
            return;
        }
        self.controller.absorb();
        let now = self.now;
        let controller = &mut self.controller;
        controller.census.observe(now);
        let gone = controller.census.gone();
        controller.jobs.extend(gone.into_iter().map(Job::Listen));
        controller.jobs.push_back(Job::Judge);
        for (pool, change) in controller.census.finalizers() {
            controller.jobs.push_back(Job::FindPool(pool, change == Finalizer::Add));
        }
        self.next_job();
    }

    fn next_job(&mut self) {
        while self.controller.waiting.is_none()
            && let Some(job) = self.controller.jobs.pop_front()
        {
            let Some(request) = self.request_of(&job) else { continue };
            self.controller.waiting = Some(job);
            let life = self.controller.life;
            self.ask(Client::Controller, life, Desk::Census, request);
        }
    }

    fn request_of(&mut self, job: &Job) -> Option<Request> {
        let named = |kind, name: &str| Request::Get((kind, name.to_owned()));
        Some(match job {
            Job::Listen(node) => Request::GetLease(node.as_str().to_owned()),
            Job::Judge => {
                let (nodes, blocks) = self.controller.census.over(GRACE, self.now);
                let jobs = nodes.into_iter().map(|node| Job::Bury(node, blocks.clone()));
                self.controller.jobs.extend(jobs.collect::<Vec<_>>());
                return None;
            }
            Job::Bury(node, _) => named(Kind::Node, node.as_str()),
            Job::LookAt(_, block) => named(Kind::Block, &block.name()),
            Job::Reclaim(block, uid, version) => {
                Request::Delete((Kind::Block, block.name()), *uid, Some(*version))
            }
            Job::FindNetwork(node) => named(Kind::Network, node.as_str()),
            Job::Forget(node, uid) => Request::Delete((Kind::Network, node.as_str().to_owned()), *uid, None),
            Job::FindPool(pool, _) => named(Kind::Pool, pool),
            Job::HasBlocks(..) => Request::ListBlocks,
            Job::Finalize(pool, add, version) => Request::Finalize(pool.clone(), *add, *version),
        })
    }

    /// The API server answers the controller.
    pub(crate) fn census_answered(&mut self, life: Life, answer: Answer) {
        if self.controller.life != life {
            return;
        }
        let now = self.now;
        let controller = &mut self.controller;
        let Some(job) = controller.waiting.take() else { return };
        match (job, answer) {
            (Job::Listen(node), answer) => {
                // Silence is counted only while we can hear: a lease that cannot be read says nothing.
                let sign = match answer {
                    Answer::Lease(Some(sign)) => sign.to_string(),
                    Answer::Lease(None) => String::new(),
                    _ => format!("unreadable at {:?}", now.duration_since(self.start)),
                };
                controller.census.heard(&node, sign, now);
            }
            (Job::Bury(node, blocks), Answer::Found(None)) => {
                let of_node = |block: &BlockId| {
                    controller.census.blocks.get(block).is_some_and(|known| known.owner == node)
                };
                let blocks: Vec<BlockId> = blocks.into_iter().filter(of_node).collect();
                controller.jobs.extend(blocks.into_iter().map(|block| Job::LookAt(node.clone(), block)));
                if controller.census.networks.contains(&node) {
                    controller.jobs.push_back(Job::FindNetwork(node));
                }
            }
            (Job::LookAt(node, block), Answer::Found(Some(stored))) => {
                let owned = |object: &Object| matches!(object, Object::Block(block) if block.spec.node == node.as_str());
                if owned(&stored.object) {
                    controller.jobs.push_front(Job::Reclaim(block, stored.uid, stored.version));
                }
            }
            (Job::FindNetwork(node), Answer::Found(Some(stored))) => {
                controller.jobs.push_front(Job::Forget(node, stored.uid));
            }
            (Job::FindPool(name, add), Answer::Found(Some(stored))) => {
                controller.finalize(name, add, &stored.object, stored.version);
            }
            (Job::HasBlocks(pool, version), Answer::Blocks(blocks))
                if blocks.iter().all(|(_, _, of)| *of != pool) =>
            {
                controller.jobs.push_front(Job::Finalize(pool, false, version));
            }
            _ => {}
        }
        self.next_job();
    }
}

impl Controller {
    /// What the watches show becomes what the census rests on.
    fn absorb(&mut self) {
        let names = |kind: Kind| -> BTreeSet<NodeName> {
            let watch = self.watches.get(&kind);
            watch
                .into_iter()
                .flat_map(|watch| watch.objects.keys())
                .map(|name| name.as_str().into())
                .collect()
        };
        let (nodes, networks) = (names(Kind::Node), names(Kind::Network));
        (self.census.nodes, self.census.networks) = (nodes, networks);
        let objects = |kind: Kind| {
            let watch = self.watches.get(&kind);
            watch.into_iter().flat_map(|watch| watch.objects.iter())
        };
        let blocks = objects(Kind::Block).filter_map(|(_, object)| match &**object {
            Object::Block(block) => Block::read(block),
            _ => None,
        });
        let pools = objects(Kind::Pool).filter_map(|(name, object)| match &**object {
            Object::Pool(pool) => Some((name.clone(), pool.clone())),
            _ => None,
        });
        let (blocks, pools) = (blocks.collect(), pools.collect());
        (self.census.blocks, self.census.pools) = (blocks, pools);
    }

    fn finalize(&mut self, name: String, add: bool, object: &Object, version: u64) {
        let Object::Pool(pool) = object else { return };
        let leaving = pool.metadata.deletion_timestamp.is_some();
        match add {
            true if leaving => {}
            true => self.jobs.push_front(Job::Finalize(name, true, version)),
            // Watches may lag, and a block that is claimed now would be lost with its pool.
            false => self.jobs.push_front(Job::HasBlocks(name, version)),
        }
    }
}
