//! One life of an agent: the pure machines of a node, and between them what the agent's shell does, part by part.
//!
//! Each part has its turn when something waits for it, a moment later, and takes one thing of those that wait, any of
//! them: as threads and `select!` do it. What parts tell one another is kept as their channels keep it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use manx_agent::node::blockmap::BlockMap;
use manx_agent::node::cluster::Cluster;
use manx_agent::node::fib::{Learned, LocalRoutes, Wanted};
use manx_agent::node::intent::{BgpIntent, Intent};
use manx_agent::node::{Input, Node, found};
use manx_bgp::{OriginAttributes, Prefix, Speaker};
use manx_cni::rpc::DelRequest;
use manx_ipam::{BlockId, EndpointId, Limits, NodeName, RequestId, recover};
use manx_kernel::fib::{self, Config, Fib};

use crate::blocks::{Job, Order, Outcome};
use crate::client::{Client, Watches};
use crate::links::News;
use crate::runtime::CallId;
use crate::world::{Happening, Host, Life, World, millis, secs};

/// A part of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Task {
    Owner,
    Kernel,
    Links,
    Reaper,
    Bgp,
    Blocks,
    Watch,
    Publish,
    Heartbeat,
}

/// Everything that dies with the process.
pub(crate) struct Agent {
    pub(crate) life: Life,
    wakes: BTreeMap<Task, Instant>,
    pub(crate) watches: Watches,

    // The owner of addresses.
    pub(crate) node: Node,
    pub(crate) record_broken: bool,
    pub(crate) calls: VecDeque<(CallId, manx_cni::rpc::Request)>,
    pub(crate) waiting: BTreeMap<RequestId, CallId>,
    pub(crate) next_request: u64,
    pub(crate) look_due: Instant,
    pub(crate) outcomes: BTreeMap<BlockId, Outcome>,
    pub(crate) news: BTreeMap<EndpointId, News>,
    pub(crate) owners: Option<Arc<BTreeMap<BlockId, NodeName>>>,
    pub(crate) owners_changed: bool,
    pub(crate) intent: Option<Arc<Intent>>,
    pub(crate) intent_changed: bool,

    // The owner of blocks.
    pub(crate) map: BlockMap,
    pub(crate) orders: BTreeMap<BlockId, Order>,
    pub(crate) job: Option<Job>,
    pub(crate) list_due: Instant,
    pub(crate) listed_at: Option<Instant>,

    // The owner of what the API server says, and those who write there.
    pub(crate) cluster: Cluster,
    pub(crate) copied: bool,
    pub(crate) copy_due: Option<Instant>,
    pub(crate) publishing: bool,
    pub(crate) publish_failures: u32,
    pub(crate) beating: bool,

    // The owners of links.
    pub(crate) unlinks: BTreeMap<EndpointId, String>,
    pub(crate) gone_news: BTreeSet<EndpointId>,
    pub(crate) dooms: BTreeMap<EndpointId, String>,
    pub(crate) pending: BTreeMap<EndpointId, String>,
    pub(crate) half_made: BTreeSet<u32>,
    pub(crate) sweep_due: Instant,

    // The owner of routes.
    pub(crate) fib: Fib,
    pub(crate) wanted: Wanted,
    pub(crate) asked: Option<fib::Output>,
    pub(crate) local: Option<LocalRoutes>,
    pub(crate) learned: VecDeque<Vec<Learned>>,

    // The owner of the speaker.
    pub(crate) speaker: Option<Speaker>,
    pub(crate) restarting: bool,
    pub(crate) bgp: Option<Arc<BgpIntent>>,
    pub(crate) bgp_changed: bool,
    /// What the speaker was told last.
    pub(crate) bgp_known: Option<Arc<BgpIntent>>,
    pub(crate) origins: BTreeMap<Prefix, OriginAttributes>,
    pub(crate) origins_changed: bool,
    pub(crate) bgp_life: Life,
}

impl Host {
    /// The agent, if it is in this life.
    pub(crate) fn living(&mut self, life: Life) -> Option<&mut Agent> {
        self.agent.as_deref_mut().filter(|agent| agent.life == life)
    }
}

impl World {
    /// A host's agent, if it is alive.
    pub(crate) fn agent(&mut self, host: usize) -> Option<&mut Agent> {
        self.hosts[host].agent.as_deref_mut()
    }

    /// A process begins.
    pub(crate) fn start_agent(&mut self, host: usize) {
        let now = self.now;
        let at = self.time_of_day();
        let there = &mut self.hosts[host];
        if there.agent.is_some() || !there.on {
            return;
        }
        there.lives += 1;
        self.last_start = now;
        let dump = there.kernel.dump();
        there.kernel.listen();
        let restarting = !there.disk.record.is_empty() || !dump.routes.is_empty();
        let copy = there.disk.copy.as_deref().and_then(|bytes| Cluster::from_bytes(bytes).ok());
        let limits = Limits { release_after: self.settings.release_after, ..Limits::default() };
        let ended: Vec<DelRequest> = there.disk.ended();
        let node = Node::new(there.name.clone(), limits, recover(&there.disk.record), now);
        let resync = if self.settings.audits { secs(60) } else { secs(86_400) };
        let config = Config { hash_key: there.lives, resync, ..Config::default() };
        let fib = Fib::new(config, now);
        let agent = Agent::new(there.name.clone(), there.lives, (node, fib), copy, restarting, now);
        there.agent = Some(Box::new(agent));
        self.log(format_args!("node{host}: the agent starts, restarting {restarting}"));
        self.carry_out_all(host);
        for ended in ended {
            self.feed(host, Input::Ended(ended));
        }
        self.feed(host, Input::Found { endpoints: found::endpoints(&dump), at });
        self.begin_watches(Client::Host(host));
        for task in [Task::Owner, Task::Kernel, Task::Links, Task::Blocks, Task::Watch, Task::Heartbeat] {
            self.poke(host, task);
        }
        self.poke(host, Task::Reaper);
    }

    /// The process is killed. Its kernel closes its connections.
    pub(crate) fn kill_agent(&mut self, host: usize) {
        if self.hosts[host].agent.take().is_none() {
            return;
        }
        self.figures.deaths += 1;
        self.hosts[host].fuse = None;
        self.hosts[host].kernel.deafen();
        self.log(format_args!("node{host}: the agent dies"));
        self.hang_up_all(host);
        self.break_calls(host);
    }

    /// The time of day in seconds since 1970.
    pub(crate) fn time_of_day(&self) -> u64 {
        1_700_000_000 + (self.now - self.start).as_secs()
    }

    /// Gives a part its turn in a moment.
    pub(crate) fn poke(&mut self, host: usize, task: Task) {
        let delay = match self.noise.below(64) {
            0 => self.noise.between(Duration::ZERO, millis(300)),
            _ => self.noise.between(Duration::ZERO, millis(2)),
        };
        self.wake_at(host, task, self.now + delay);
    }

    /// Whether a part will have a turn within a moment.
    pub(crate) fn is_woken(&self, host: usize, task: Task) -> bool {
        let soon = self.now + millis(300);
        let agent = self.hosts[host].agent.as_ref();
        agent.is_none_or(|agent| agent.wakes.get(&task).is_some_and(|due| *due <= soon))
    }

    /// Gives a part its turn at that time, unless it has one before.
    pub(crate) fn wake_at(&mut self, host: usize, task: Task, at: Instant) {
        let at = at.max(self.now);
        let Some(agent) = self.agent(host) else { return };
        if agent.wakes.get(&task).is_some_and(|due| *due <= at) {
            return;
        }
        agent.wakes.insert(task, at);
        let life = agent.life;
        self.at(at, Happening::Turn { host, life, task });
    }

    /// A part has its turn.
    pub(crate) fn turn(&mut self, host: usize, life: Life, task: Task) {
        let now = self.now;
        let Some(agent) = self.hosts[host].living(life) else { return };
        if agent.wakes.get(&task) != Some(&now) {
            return;
        }
        agent.wakes.remove(&task);
        let more = match task {
            Task::Owner => self.owner_turn(host),
            Task::Kernel => self.kernel_turn(host),
            Task::Links => self.links_turn(host),
            Task::Reaper => self.reaper_turn(host),
            Task::Bgp => self.bgp_turn(host),
            Task::Blocks => self.blocks_turn(host),
            Task::Watch => self.watch_turn(host),
            Task::Publish => self.publish_turn(host),
            Task::Heartbeat => self.heartbeat_turn(host),
        };
        if more {
            self.poke(host, task);
        }
        let Some(agent) = self.hosts[host].living(life) else { return };
        if let Some(deadline) = agent.deadline(task) {
            // A timer is never late by much, and never early.
            let late = self.noise.between(Duration::ZERO, millis(2));
            self.wake_at(host, task, deadline.max(now) + late);
        }
    }
}

impl Agent {
    fn new(
        name: NodeName,
        life: Life,
        (node, fib): (Node, Fib),
        copy: Option<Cluster>,
        restarting: bool,
        now: Instant,
    ) -> Self {
        Self {
            life,
            wakes: BTreeMap::new(),
            watches: Watches::new(),
            node,
            record_broken: false,
            calls: VecDeque::new(),
            waiting: BTreeMap::new(),
            next_request: 0,
            look_due: now + secs(10),
            outcomes: BTreeMap::new(),
            news: BTreeMap::new(),
            owners: None,
            owners_changed: false,
            intent: None,
            intent_changed: false,
            map: BlockMap::new(name),
            orders: BTreeMap::new(),
            job: None,
            list_due: now,
            listed_at: None,
            copied: copy.is_some(),
            cluster: copy.unwrap_or_default(),
            copy_due: None,
            publishing: false,
            publish_failures: 0,
            beating: false,
            unlinks: BTreeMap::new(),
            gone_news: BTreeSet::new(),
            dooms: BTreeMap::new(),
            pending: BTreeMap::new(),
            half_made: BTreeSet::new(),
            sweep_due: now + secs(60),
            fib,
            wanted: Wanted::new(0),
            asked: None,
            local: None,
            learned: VecDeque::new(),
            speaker: None,
            restarting,
            bgp: None,
            bgp_changed: false,
            bgp_known: None,
            origins: BTreeMap::new(),
            origins_changed: false,
            bgp_life: 0,
        }
    }

    fn deadline(&self, task: Task) -> Option<Instant> {
        match task {
            Task::Owner => [self.node.deadline(), Some(self.look_due)].into_iter().flatten().min(),
            Task::Kernel => self.fib.deadline(),
            Task::Links => Some(self.sweep_due),
            Task::Bgp => self.speaker.as_ref().and_then(Speaker::deadline),
            Task::Blocks => self.job.is_none().then_some(self.list_due),
            Task::Watch => self.copy_due,
            Task::Reaper | Task::Publish | Task::Heartbeat => None,
        }
    }
}
