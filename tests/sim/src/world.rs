//! The scheduler: everything that will happen, in the order of time, one step after the other.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use manx_api::Cidr;
use manx_bgp::ConnId;
use manx_ipam::NodeName;

use crate::agent::{Agent, Task};
use crate::api::{Answer, Api, Kind, Request};
use crate::check::Violation;
use crate::choices::Choices;
use crate::client::{Client, Desk, Weather};
use crate::controller::Controller;
use crate::kernel::Kernel;
use crate::log::Log;
use crate::plan::{Act, Plan, Settings};
use crate::runtime::{CallId, Runtime};
use crate::wires::{Dialling, Wires};

/// Any moment will do as the beginning.
#[expect(
    clippy::disallowed_methods,
    reason = "the only moment that is taken from outside; only differences count"
)]
fn beginning() -> Instant {
    Instant::now()
}

/// Milliseconds.
pub(crate) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Seconds.
pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Which life of an agent: what was meant for an earlier one is nobody's.
pub(crate) type Life = u64;

/// What happens at some time.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A part of an agent has its turn.
    Turn { host: usize, life: Life, task: Task },
    /// A request arrives at the API server.
    Asked { client: Client, life: Life, desk: Desk, request: Box<Request>, sent: Instant },
    /// An answer of the API server arrives.
    Answered { client: Client, life: Life, desk: Desk, answer: Answer },
    /// A watch may have something to tell.
    Watched(Client, Kind),
    /// Something arrives on a connection.
    Wire(ConnId),
    /// A peer was dialled.
    Dialled(Box<Dialling>),
    /// The dialler hears that nobody answers.
    Refused(Box<Dialling>),
    /// A plugin goes on.
    Plugin { host: usize, call: CallId },
    /// The runtime looks after its containers.
    Runtime { host: usize },
    /// A container's namespace goes, and with it its link.
    Namespace { host: usize, container: String },
    /// The controller has its turn.
    Controller { life: Life },
    /// Somebody does something.
    Act(usize),
    /// The agent of a host starts.
    StartAgent { host: usize },
    /// A host is switched on.
    Boot { host: usize },
    /// The kubelet of a host registers its Node.
    Register { host: usize },
    /// A link has carrier again.
    Carrier { host: usize },
    /// A file system has room again.
    Room { host: usize },
    /// The Node of a host that is off is deleted.
    Unregister { host: usize },
}

impl Happening {
    /// The hosts whose kernels it may change.
    fn concerned(&self, hosts: usize) -> std::ops::Range<usize> {
        match self {
            Self::Turn { host, task: Task::Kernel | Task::Links | Task::Reaper, .. }
            | Self::Turn { host, task: Task::Owner, .. }
            | Self::Plugin { host, .. }
            | Self::Runtime { host }
            | Self::Namespace { host, .. }
            | Self::StartAgent { host }
            | Self::Boot { host }
            | Self::Carrier { host } => *host..*host + 1,
            Self::Act(_) => 0..hosts,
            _ => 0..0,
        }
    }
}

/// What outlives an agent: the run directory.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) record: Vec<u8>,
    pub(crate) copy: Option<Vec<u8>>,
    pub(crate) tombstones: BTreeMap<String, String>,
    /// Nothing can be written.
    pub(crate) full: bool,
}

/// One machine.
pub(crate) struct Host {
    pub(crate) name: NodeName,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) on: bool,
    pub(crate) kernel: Kernel,
    pub(crate) disk: Disk,
    pub(crate) agent: Option<Box<Agent>>,
    pub(crate) lives: Life,
    pub(crate) runtime: Runtime,
    /// The agent dies after so many more outputs.
    pub(crate) fuse: Option<usize>,
}

/// Everything.
pub struct World {
    pub(crate) settings: Settings,
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    queue: BTreeMap<(Instant, u64), Happening>,
    queued: u64,
    pub(crate) noise: Choices<'static>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) api: Api,
    pub(crate) weather: BTreeMap<Client, Weather>,
    pub(crate) controller: Controller,
    pub(crate) wires: Wires,
    pub(crate) log: Log,
    pub(crate) broken: Option<Violation>,
    pub(crate) steps: u64,
    pub(crate) acts: Vec<(Duration, Act)>,
    /// The last fault is over: from now on everything must become right.
    pub(crate) calm: bool,
    pub(crate) figures: Figures,
    /// When the last agent started.
    pub(crate) last_start: Instant,
}

/// What is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Pods that ran.
    pub pods: u64,
    /// ADDs that were refused.
    pub refused: u64,
    /// Agents that died.
    pub deaths: u64,
    /// Blocks claimed.
    pub claims: u64,
    /// Octets of BGP delivered.
    pub octets: u64,
    /// Requests to the API server.
    pub requests: u64,
}

impl World {
    /// The world as a plan begins.
    pub(crate) fn new(plan: &Plan, whole_log: bool) -> Self {
        let start = beginning();
        let mut world = Self {
            settings: plan.settings,
            start,
            now: start,
            queue: BTreeMap::new(),
            queued: 0,
            noise: Choices::seeded(plan.noise),
            hosts: (0..plan.nodes).map(Host::new).collect(),
            api: Api::default(),
            weather: BTreeMap::new(),
            controller: Controller::default(),
            wires: Wires::default(),
            log: Log::new(whole_log),
            broken: None,
            steps: 0,
            acts: plan.acts.clone(),
            calm: false,
            figures: Figures::default(),
            last_start: start,
        };
        world.found(plan);
        world
    }

    fn found(&mut self, plan: &Plan) {
        self.write_config(plan.settings.reflectors);
        for (number, (cidr, block_size)) in plan.settings.pools().into_iter().enumerate() {
            self.write_pool(&format!("pool-{number}"), cidr, block_size);
        }
        for host in 0..self.hosts.len() {
            let delay = self.noise.between(Duration::ZERO, secs(2));
            self.after(delay, Happening::Boot { host });
        }
        self.start_controller();
        for (number, (at, _)) in plan.acts.iter().enumerate() {
            self.at(self.start + *at, Happening::Act(number));
        }
    }

    /// Something happens at that time.
    pub(crate) fn at(&mut self, when: Instant, what: Happening) {
        self.queued += 1;
        self.queue.insert((when.max(self.now), self.queued), what);
    }

    /// Something happens after that time.
    pub(crate) fn after(&mut self, delay: Duration, what: Happening) {
        self.at(self.now + delay, what);
    }

    pub(crate) fn log(&mut self, what: fmt::Arguments<'_>) {
        self.log.add(self.now - self.start, what);
    }

    /// An invariant does not hold; the first that breaks is kept.
    pub(crate) fn violated(&mut self, invariant: &'static str, what: String) {
        if self.broken.is_none() {
            self.log(format_args!("VIOLATED {invariant}: {what}"));
            let (step, at) = (self.steps, self.now - self.start);
            self.broken = Some(Violation { invariant, what, step, at });
        }
    }

    /// Runs until that time, or until an invariant breaks.
    pub(crate) fn run_until(&mut self, end: Instant) {
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= end
            && self.broken.is_none()
        {
            let ((when, _), what) = entry.remove_entry();
            self.now = when;
            self.steps += 1;
            let concerned = what.concerned(self.hosts.len());
            self.happen(what);
            for host in concerned {
                self.wake_listener(host);
                self.check_step(host);
            }
        }
        self.now = self.now.max(end);
    }

    /// Who listens to a kernel that has something to tell gets its turn.
    fn wake_listener(&mut self, host: usize) {
        if self.hosts[host].kernel.has_news() && !self.is_woken(host, Task::Kernel) {
            self.poke(host, Task::Kernel);
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Turn { host, life, task } => self.turn(host, life, task),
            Happening::Asked { client, life, desk, request, sent } => {
                self.asked(client, life, desk, *request, sent);
            }
            Happening::Answered { client, life, desk, answer } => match client {
                Client::Host(host) => self.answered(host, life, desk, answer),
                Client::Controller => self.census_answered(life, answer),
            },
            Happening::Watched(client, kind) => self.watched(client, kind),
            Happening::Wire(conn) => self.wire(conn),
            Happening::Dialled(dialling) => self.dialled(*dialling),
            Happening::Refused(dialling) => self.refused(&dialling),
            Happening::Plugin { host, call } => self.plugin(host, call),
            Happening::Runtime { host } => self.runtime(host),
            Happening::Namespace { host, container } => self.namespace_goes(host, &container),
            Happening::Controller { life } => self.controller_turn(life),
            Happening::Act(number) => self.act(number),
            Happening::StartAgent { host } => self.start_agent(host),
            Happening::Boot { host } => self.boot(host),
            Happening::Register { host } => self.register(host),
            Happening::Carrier { host } => self.plug_in(host),
            Happening::Room { host } => self.hosts[host].disk.full = false,
            Happening::Unregister { host } => self.node_goes(host),
        }
    }

    /// The host with this address.
    pub(crate) fn host_at(&self, address: IpAddr) -> Option<usize> {
        self.hosts.iter().position(|host| host.addresses.contains(&address))
    }

    /// The host of this name.
    pub(crate) fn host_named(&self, name: &str) -> Option<usize> {
        self.hosts.iter().position(|host| host.name.as_str() == name)
    }

    /// A network that is written in this file or a test.
    pub(crate) fn cidr(text: &str) -> Cidr {
        text.parse().expect("a network")
    }
}

impl Host {
    fn new(number: usize) -> Self {
        let last = u16::try_from(number + 1).unwrap_or(u16::MAX);
        let [high, low] = last.to_be_bytes();
        let addresses =
            vec![IpAddr::from([192, 0, 2 + high, low]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last])];
        Self {
            name: NodeName::new(format!("node{number}")),
            kernel: Kernel::new(addresses.clone()),
            addresses,
            on: false,
            disk: Disk::default(),
            agent: None,
            lives: 0,
            runtime: Runtime::default(),
            fuse: None,
        }
    }
}
