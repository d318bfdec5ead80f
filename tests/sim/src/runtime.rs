//! The container runtime of each host and the plugin that it calls: what it starts it starts again until it runs, what it
//! ends it ends until that has succeeded, and any of its processes may be killed in between.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use manx_cni::rpc::{self, AddRequest, Attachment, DelRequest, GcRequest, Reply, Request};
use manx_kernel::names::host_link_name;

use crate::agent::Task;
use crate::kernel::Occupied;
use crate::world::{Happening, World, millis, secs};

/// The only interface of a pod.
const IFNAME: &str = "eth0";
/// How long a plugin waits for the agent.
const ADD_TIMEOUT: Duration = secs(20);
/// The same for everything but ADD.
const TIMEOUT: Duration = secs(5);

/// A running plugin.
pub(crate) type CallId = u64;

/// What a container is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// ADD runs, or is to be repeated.
    Starting,
    /// ADD succeeded.
    Running,
    /// DEL runs, or is to be repeated.
    Ending,
}

/// A container of a pod.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    pub(crate) pod: usize,
    pub(crate) stage: Stage,
    pub(crate) addresses: Vec<IpAddr>,
    busy: bool,
    /// ADD failed: it is ended, and the pod gets another.
    failed: bool,
    /// When it was made.
    pub(crate) made: Instant,
}

/// What a plugin does next.
#[derive(Debug, Clone)]
enum Step {
    AskAdd,
    AwaitAdd,
    Create(Vec<IpAddr>),
    Inside(Vec<IpAddr>),
    Outside(u32, Vec<IpAddr>),
    AskDel,
    AwaitDel,
    AskGc,
    AwaitGc,
}

/// A plugin's process.
#[derive(Debug, Clone)]
struct Process {
    container: String,
    step: Step,
    /// It is killed after so many more steps.
    fuse: Option<usize>,
}

/// A host's runtime.
#[derive(Debug, Default)]
pub(crate) struct Runtime {
    /// The pods that should run here.
    pub(crate) wanted: BTreeMap<usize, bool>,
    pub(crate) sandboxes: BTreeMap<String, Sandbox>,
    processes: BTreeMap<CallId, Process>,
    next_call: CallId,
    next_container: u64,
    /// The next plugin is killed after so many steps.
    pub(crate) plugin_fuse: Option<usize>,
    /// Calls GC when it looks next.
    pub(crate) gc_due: bool,
    looks: bool,
}

impl Runtime {
    /// The containers of a pod.
    pub(crate) fn of_pod(&self, pod: usize) -> impl Iterator<Item = (&String, &Sandbox)> {
        self.sandboxes.iter().filter(move |(_, sandbox)| sandbox.pod == pod)
    }

    /// Everything ends with the machine; what was there is still to be ended when it is back.
    pub(crate) fn crash(&mut self) {
        self.processes.clear();
        for sandbox in self.sandboxes.values_mut() {
            sandbox.stage = Stage::Ending;
            sandbox.busy = false;
        }
        (self.plugin_fuse, self.gc_due, self.looks) = (None, false, false);
    }
}

impl World {
    /// A pod is to run on a host, or not any more.
    pub(crate) fn want_pod(&mut self, host: usize, pod: usize, wanted: bool) {
        self.hosts[host].runtime.wanted.insert(pod, wanted);
        self.look_soon(host, millis(50));
    }

    /// Has the runtime look after its containers.
    pub(crate) fn look_soon(&mut self, host: usize, most: Duration) {
        if !self.hosts[host].on || std::mem::replace(&mut self.hosts[host].runtime.looks, true) {
            return;
        }
        let delay = self.noise.between(millis(1), most);
        self.after(delay, Happening::Runtime { host });
    }

    /// The runtime looks after its containers.
    pub(crate) fn runtime(&mut self, host: usize) {
        let runtime = &mut self.hosts[host].runtime;
        if !std::mem::take(&mut runtime.looks) {
            return;
        }
        for (pod, wanted) in runtime.wanted.clone() {
            self.tend_pod(host, pod, wanted);
        }
        if std::mem::take(&mut self.hosts[host].runtime.gc_due) {
            self.spawn(host, String::new(), Step::AskGc);
        }
        let runtime = &self.hosts[host].runtime;
        let unsettled = |sandbox: &Sandbox| sandbox.stage != Stage::Running;
        let missing = |(pod, wanted): (&usize, &bool)| *wanted && runtime.of_pod(*pod).next().is_none();
        if runtime.sandboxes.values().any(unsettled) || runtime.wanted.iter().any(missing) {
            self.look_soon(host, secs(3));
        }
    }

    fn tend_pod(&mut self, host: usize, pod: usize, wanted: bool) {
        let runtime = &mut self.hosts[host].runtime;
        let of_pod = runtime.of_pod(pod).map(|(container, sandbox)| (container.clone(), sandbox.clone()));
        let sandboxes: Vec<(String, Sandbox)> = of_pod.collect();
        let ending = |sandbox: &Sandbox| sandbox.stage == Stage::Ending || sandbox.failed || !wanted;
        for (container, sandbox) in sandboxes.iter().filter(|(_, sandbox)| !sandbox.busy) {
            if ending(sandbox) {
                self.set_stage(host, container, Stage::Ending);
                self.spawn(host, container.clone(), Step::AskDel);
            } else if sandbox.stage == Stage::Starting {
                // A plugin was killed: some runtimes repeat ADD, others begin with a new container.
                if self.noise.chance(300) {
                    self.spawn(host, container.clone(), Step::AskAdd);
                } else {
                    self.fail(host, container);
                }
            }
        }
        // A new container may begin before the end of the old one has succeeded.
        let live = sandboxes.iter().any(|(_, sandbox)| !ending(sandbox));
        let room = sandboxes.is_empty() || !live && sandboxes.len() < 3 && self.noise.chance(500);
        if wanted && room {
            self.new_sandbox(host, pod);
        }
    }

    fn new_sandbox(&mut self, host: usize, pod: usize) {
        let made = self.now;
        let runtime = &mut self.hosts[host].runtime;
        runtime.next_container += 1;
        let container = format!("n{host}c{}", runtime.next_container);
        let sandbox =
            Sandbox { pod, stage: Stage::Starting, addresses: Vec::new(), busy: false, failed: false, made };
        runtime.sandboxes.insert(container.clone(), sandbox);
        self.spawn(host, container, Step::AskAdd);
    }

    fn set_stage(&mut self, host: usize, container: &str, stage: Stage) {
        if let Some(sandbox) = self.hosts[host].runtime.sandboxes.get_mut(container) {
            sandbox.stage = stage;
        }
    }

    fn fail(&mut self, host: usize, container: &str) {
        if let Some(sandbox) = self.hosts[host].runtime.sandboxes.get_mut(container) {
            (sandbox.failed, sandbox.stage) = (true, Stage::Ending);
        }
    }

    fn spawn(&mut self, host: usize, container: String, step: Step) {
        let runtime = &mut self.hosts[host].runtime;
        if let Some(sandbox) = runtime.sandboxes.get_mut(&container) {
            sandbox.busy = true;
        }
        let call = runtime.next_call;
        runtime.next_call += 1;
        let fuse = runtime.plugin_fuse.take();
        runtime.processes.insert(call, Process { container, step, fuse });
        self.go_on(host, call);
    }

    fn go_on(&mut self, host: usize, call: CallId) {
        let delay = match self.noise.below(24) {
            // A busy machine.
            0 => self.noise.between(millis(2), secs(5)),
            _ => self.noise.between(Duration::from_micros(50), millis(2)),
        };
        self.after(delay, Happening::Plugin { host, call });
    }

    /// A plugin's process ends, one way or another.
    fn exit(&mut self, host: usize, call: CallId) -> Option<String> {
        let runtime = &mut self.hosts[host].runtime;
        let process = runtime.processes.remove(&call)?;
        if let Some(sandbox) = runtime.sandboxes.get_mut(&process.container) {
            sandbox.busy = false;
        }
        self.look_soon(host, secs(2));
        Some(process.container)
    }

    /// A plugin goes on, or its patience with the agent is over.
    pub(crate) fn plugin(&mut self, host: usize, call: CallId) {
        let Some(process) = self.hosts[host].runtime.processes.get_mut(&call) else { return };
        if let Some(fuse) = &mut process.fuse {
            match fuse.checked_sub(1) {
                Some(left) => *fuse = left,
                None => {
                    let step = format!("{:?}", process.step);
                    let container = self.exit(host, call).unwrap_or_default();
                    return self
                        .log(format_args!("node{host}: the plugin of {container} is killed at {step}"));
                }
            }
        }
        let Some(process) = self.hosts[host].runtime.processes.get(&call).cloned() else { return };
        match process.step {
            Step::AskAdd => self.ask_add(host, call, &process.container),
            Step::AskDel => self.ask_del(host, call, &process.container),
            Step::AskGc => self.ask_gc(host, call),
            Step::AwaitAdd => self.give_back(host, call, &process.container),
            Step::AwaitDel => self.del_alone(host, call, &process.container),
            Step::AwaitGc => drop(self.exit(host, call)),
            Step::Create(addresses) => self.create_link(host, call, &process.container, addresses),
            Step::Inside(addresses) => self.inside(host, call, &process.container, addresses),
            Step::Outside(index, addresses) => {
                self.outside(host, call, &process.container, (index, addresses))
            }
        }
    }

    fn step(&mut self, host: usize, call: CallId, step: Step) {
        if let Some(process) = self.hosts[host].runtime.processes.get_mut(&call) {
            process.step = step;
        }
    }

    /// Sends a request to the agent; false if nobody listens.
    fn call_agent(
        &mut self,
        host: usize,
        call: CallId,
        request: Request,
        then: Step,
        patience: Duration,
    ) -> bool {
        let Some(agent) = self.agent(host) else { return false };
        agent.calls.push_back((call, request));
        self.step(host, call, then);
        self.poke(host, Task::Owner);
        self.after(patience, Happening::Plugin { host, call });
        true
    }

    fn link_of(&self, host: usize, container: &str) -> String {
        let pod = self.hosts[host].runtime.sandboxes.get(container).map_or(0, |sandbox| sandbox.pod);
        host_link_name(Some(("default", &format!("pod{pod}"))), container, IFNAME)
    }

    fn ask_add(&mut self, host: usize, call: CallId, container: &str) {
        self.hosts[host].disk.tombstones.remove(container);
        let link = self.link_of(host, container);
        let pod = self.hosts[host].runtime.sandboxes.get(container).map_or(0, |sandbox| sandbox.pod);
        let request = add_request(container, pod, &link);
        if !self.call_agent(host, call, Request::Add(request), Step::AwaitAdd, ADD_TIMEOUT) {
            self.exit(host, call);
            self.fail(host, container);
        }
    }

    fn ended(&self, host: usize, container: &str) -> DelRequest {
        let link = self.link_of(host, container);
        DelRequest { container: container.to_owned(), ifname: IFNAME.to_owned(), link }
    }

    fn ask_del(&mut self, host: usize, call: CallId, container: &str) {
        let ended = self.ended(host, container);
        if !self.call_agent(host, call, Request::Del(ended), Step::AwaitDel, TIMEOUT) {
            self.del_alone(host, call, container);
        }
    }

    /// The agent is away: the plugin leaves a note and removes the link itself.
    fn del_alone(&mut self, host: usize, call: CallId, container: &str) {
        let link = self.link_of(host, container);
        if self.hosts[host].disk.full {
            // DEL fails and is repeated; the link goes all the same.
            self.delete_link(host, container, &link);
            self.exit(host, call);
            return;
        }
        self.hosts[host].disk.tombstones.insert(container.to_owned(), link.clone());
        self.delete_link(host, container, &link);
        self.over(host, call);
    }

    fn delete_link(&mut self, host: usize, container: &str, link: &str) {
        let kernel = &mut self.hosts[host].kernel;
        if let Some(index) = kernel.find(link, container, IFNAME) {
            kernel.delete(index);
        }
    }

    /// DEL succeeded: the runtime removes the namespace and forgets the container.
    fn over(&mut self, host: usize, call: CallId) {
        let Some(container) = self.exit(host, call) else { return };
        self.hosts[host].runtime.sandboxes.remove(&container);
        let delay = self.noise.between(Duration::ZERO, millis(400));
        self.after(delay, Happening::Namespace { host, container });
    }

    /// A container's namespace goes, and its link with it.
    pub(crate) fn namespace_goes(&mut self, host: usize, container: &str) {
        let links = self.hosts[host].kernel.links.values();
        let of_container = links.filter(|link| link.container.as_deref() == Some(container));
        let indexes: Vec<u32> = of_container.map(|link| link.link.index).collect();
        indexes.into_iter().for_each(|index| self.hosts[host].kernel.delete(index));
        self.poke(host, Task::Kernel);
    }

    /// It is not known what the agent did: it is to undo it.
    fn give_back(&mut self, host: usize, call: CallId, container: &str) {
        let Some(_) = self.exit(host, call) else { return };
        self.fail(host, container);
        let link = self.link_of(host, container);
        if !self.hosts[host].disk.full && self.hosts[host].agent.is_none() {
            self.hosts[host].disk.tombstones.insert(container.to_owned(), link);
        }
    }

    fn ask_gc(&mut self, host: usize, call: CallId) {
        let all = self.hosts[host].runtime.sandboxes.keys();
        let valid =
            all.map(|container| Attachment { container: container.clone(), ifname: IFNAME.to_owned() });
        let request = GcRequest { network: "manx".to_owned(), valid: valid.collect() };
        if !self.call_agent(host, call, Request::Gc(request), Step::AwaitGc, TIMEOUT) {
            self.exit(host, call);
        }
    }

    /// The agent answers.
    pub(crate) fn replied(&mut self, host: usize, call: CallId, reply: Reply) {
        let Some(process) = self.hosts[host].runtime.processes.get(&call).cloned() else { return };
        match (process.step, reply) {
            (Step::AwaitAdd, Reply::Assigned(assignment)) => {
                self.check_assigned(host, &process.container, &assignment.addresses);
                self.step(host, call, Step::Create(assignment.addresses));
                self.go_on(host, call);
            }
            (Step::AwaitAdd, Reply::Error(error)) => {
                self.figures.refused += 1;
                self.log(format_args!("node{host}: {} is refused: {}", process.container, error.msg));
                self.check_refused(host, &process.container, &error);
                self.exit(host, call);
                self.fail(host, &process.container);
            }
            (Step::AwaitDel, Reply::Deleted { .. }) => self.over(host, call),
            (Step::AwaitGc, Reply::Collected(collected)) => {
                self.log(format_args!("node{host}: {} collected", collected.len()));
                self.exit(host, call);
            }
            (step, reply) => {
                self.violated("answers fit", format!("node{host}: {reply:?} at {step:?}"));
            }
        }
    }

    /// The agent died: whoever waits for an answer sees the connection close.
    pub(crate) fn break_calls(&mut self, host: usize) {
        let waiting =
            |process: &Process| matches!(process.step, Step::AwaitAdd | Step::AwaitDel | Step::AwaitGc);
        let processes = self.hosts[host].runtime.processes.iter();
        let calls: Vec<CallId> =
            processes.filter(|(_, process)| waiting(process)).map(|(call, _)| *call).collect();
        calls.into_iter().for_each(|call| self.go_on(host, call));
    }

    fn create_link(&mut self, host: usize, call: CallId, container: &str, addresses: Vec<IpAddr>) {
        let link = self.link_of(host, container);
        let kernel = &mut self.hosts[host].kernel;
        let index = match kernel.create(&link, container) {
            Some(index) => Some(index),
            None => match kernel.find(&link, container, IFNAME) {
                Some(index) => Some(index),
                None => {
                    // What is left of an older container of this pod goes.
                    if let Some((index, _)) = kernel.named(&link) {
                        kernel.delete(index);
                    }
                    kernel.create(&link, container)
                }
            },
        };
        self.poke(host, Task::Kernel);
        match index {
            Some(_) => self.step(host, call, Step::Inside(addresses)),
            None => return self.undo(host, call, container),
        }
        self.go_on(host, call);
    }

    fn inside(&mut self, host: usize, call: CallId, container: &str, addresses: Vec<IpAddr>) {
        let link = self.link_of(host, container);
        let kernel = &mut self.hosts[host].kernel;
        let Some(index) = kernel.named(&link).map(|(index, _)| index) else {
            return self.undo(host, call, container);
        };
        kernel.set_up_inside(index, &addresses);
        self.step(host, call, Step::Outside(index, addresses));
        self.go_on(host, call);
    }

    fn outside(
        &mut self,
        host: usize,
        call: CallId,
        container: &str,
        (index, addresses): (u32, Vec<IpAddr>),
    ) {
        let made = self.hosts[host].kernel.set_up_outside(index, container, IFNAME);
        self.poke(host, Task::Kernel);
        match made {
            Ok(()) => {
                self.log(format_args!("node{host}: {container} runs with {addresses:?}"));
                self.exit(host, call);
                self.figures.pods += 1;
                if let Some(sandbox) = self.hosts[host].runtime.sandboxes.get_mut(container) {
                    sandbox.addresses = addresses;
                    if sandbox.stage == Stage::Starting {
                        sandbox.stage = Stage::Running;
                    }
                }
                self.check_living();
            }
            Err(Occupied) => self.undo(host, call, container),
        }
    }

    /// The link cannot be made: the addresses are given back.
    fn undo(&mut self, host: usize, call: CallId, container: &str) {
        let link = self.link_of(host, container);
        self.delete_link(host, container, &link);
        self.exit(host, call);
        self.fail(host, container);
    }
}

/// The request as the plugin writes it.
fn add_request(container: &str, pod: usize, link: &str) -> AddRequest {
    let line = format!(
        r#"{{"network":"manx","container":"{container}","ifname":"{IFNAME}","netns":"/run/netns/{container}",
            "pod":{{"namespace":"default","name":"pod{pod}","uid":"{container}"}},"link":"{link}"}}"#
    );
    rpc::decode(line.as_bytes()).expect("a line of this protocol")
}
