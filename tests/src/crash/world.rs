//! A node to be harmed: a network namespace, a run directory, an agent that reads its objects from files, sandboxes.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use manx_cni::rpc::{Reply, Request, call};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;

use crate::lab::{netns, wait};

/// How long an agent may take until pods can start.
const READY: Duration = Duration::from_secs(30);
/// How many addresses there are of each family: the blocks of `OBJECTS`.
pub const ADDRESSES: u32 = 4096;
/// The blocks, which the node has as routes that lead nowhere.
pub const BLOCKS: [&str; 2] = ["10.244.0.0/20", "fd00:10:244::/116"];

const OBJECTS: &str = r#"
apiVersion: manx.dev/v1alpha1
kind: BGPConfiguration
metadata: {name: default}
spec: {asNumber: 64512, topology: None}
---
apiVersion: manx.dev/v1alpha1
kind: NodeNetwork
metadata: {name: n1}
spec: {addresses: {ipv4: 192.0.2.1, ipv6: "2001:db8::1"}, asNumber: 64512, routerId: 192.0.2.1, nodeUID: ""}
---
apiVersion: manx.dev/v1alpha1
kind: IPPool
metadata: {name: v4}
spec: {cidr: 10.244.0.0/16, blockSize: 20}
---
apiVersion: manx.dev/v1alpha1
kind: IPPool
metadata: {name: v6}
spec: {cidr: "fd00:10:244::/64", blockSize: 116}
---
apiVersion: manx.dev/v1alpha1
kind: IPBlock
metadata: {name: 10-244-0-0-20}
spec: {cidr: 10.244.0.0/20, node: n1, pool: v4}
---
apiVersion: manx.dev/v1alpha1
kind: IPBlock
metadata: {name: fd00-10-244---116}
spec: {cidr: "fd00:10:244::/116", node: n1, pool: v6}
"#;

/// A sandbox of a pod, as the runtime knows it.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The pod's name; two sandboxes of a pod have the same.
    pub name: String,
    /// The container id, of this sandbox alone.
    pub container: String,
    /// The result of its ADD while it lives.
    pub result: Option<Value>,
    /// Whether the namespace is there.
    pub there: bool,
}

impl Pod {
    /// For calls that concern no pod.
    pub fn nobody() -> Self {
        Self { name: String::new(), container: String::new(), result: None, there: false }
    }

    /// The name of its network namespace.
    pub fn netns(&self) -> String {
        format!("p-{}", self.container)
    }

    /// The path of its network namespace, whether there is one or not.
    pub fn netns_path(&self) -> PathBuf {
        netns::path(&self.netns())
    }

    /// The name of the host's end, by the result of ADD.
    pub fn link(&self) -> &str {
        self.interface(0, "name")
    }

    /// The hardware address of the pod's end, by the result of ADD.
    pub fn mac(&self) -> &str {
        self.interface(1, "mac")
    }

    fn interface(&self, index: usize, key: &str) -> &str {
        self.result.as_ref().and_then(|result| result["interfaces"][index][key].as_str()).unwrap_or_default()
    }

    /// Its addresses, by the result of ADD.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let ips = self.result.as_ref().and_then(|result| result["ips"].as_array());
        let text = ips.into_iter().flatten().filter_map(|ip| ip["address"].as_str()?.split('/').next());
        text.filter_map(|text| text.parse().ok()).collect()
    }
}

/// A node; everything of it ends with this value.
#[derive(Debug)]
pub struct World {
    /// The agent's run directory.
    pub run_dir: PathBuf,
    /// Pods that live through all that happens to others.
    pub bystanders: Vec<Pod>,
    dir: PathBuf,
    node: String,
    programs: PathBuf,
    agent: Option<Child>,
    serial: AtomicUsize,
}

impl World {
    /// A node with a ready agent and a living pod. The calling thread is in its namespace from now on.
    pub fn new(name: &str) -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let node = format!("{name}{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = Path::new("/run/crash").join(&node);
        let exe = std::env::current_exe()?;
        let programs = exe.ancestors().skip(1).take(2).find(|dir| dir.join("manx-agent").exists());
        let programs = programs.context("manx-agent is not built: run `cargo xtask crash`")?.to_owned();
        ensure!(programs.join("manx-cni").exists(), "manx-cni is not built: run `cargo xtask crash`");
        fs::create_dir_all(dir.join("objects"))?;
        fs::create_dir_all(dir.join("run"))?;
        fs::write(dir.join("objects/all.yaml"), OBJECTS)?;
        fs::write(dir.join("look"), "address show\nroute show table all\nneigh show nud all\n")?;
        let run_dir = dir.join("run");
        let mut world = Self {
            run_dir,
            bystanders: Vec::new(),
            dir,
            node,
            programs,
            agent: None,
            serial: AtomicUsize::new(0),
        };
        world.make_node()?;
        world.start_agent()?;
        let mut bystander = world.pod()?;
        world.add(&mut bystander)?;
        world.bystanders.push(bystander);
        Ok(world)
    }

    fn make_node(&self) -> Result<()> {
        netns::add(&self.node)?;
        setns(File::open(netns::path(&self.node))?, CloneFlags::CLONE_NEWNET).context("entering the node")?;
        for address in ["192.0.2.1/32", "2001:db8::1/128"] {
            netns::ip(&["address", "add", address, "dev", "lo"])?;
        }
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
        Ok(())
    }

    /// The path of one of our programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// A file of this node outside the run directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A number that this node has not had yet.
    fn next(&self) -> usize {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// A sandbox of a new pod.
    pub fn pod(&self) -> Result<Pod> {
        let name = format!("pod{}", self.next());
        self.sandbox_of(&name)
    }

    /// Another sandbox of a pod.
    pub fn sandbox_of(&self, name: &str) -> Result<Pod> {
        let container = format!("{}-{}", self.node, self.next());
        let pod = Pod { name: name.to_owned(), container, result: None, there: true };
        let path = pod.netns_path();
        File::create(&path)?;
        let made = std::thread::spawn(move || -> Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(())
        });
        made.join().ok().context("the thread panicked")?.context("making a sandbox")?;
        Ok(pod)
    }

    /// Removes the namespace of a sandbox, if it is still there.
    pub fn drop_sandbox(&self, pod: &mut Pod) -> Result<()> {
        if std::mem::replace(&mut pod.there, false) {
            umount2(&pod.netns_path(), MntFlags::MNT_DETACH)?;
            fs::remove_file(pod.netns_path())?;
        }
        Ok(())
    }

    /// A command that starts the agent.
    pub fn agent_command(&self, program: &str) -> Result<Command> {
        let log = File::options().create(true).append(true).open(self.file("agent.log"))?;
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        Ok(command)
    }

    /// Appends the agent's own words to a command that starts it.
    pub fn agent_words(&self, command: &mut Command) {
        command.args(["--node-name", "n1", "--mtu", "1500", "--objects"]).arg(self.file("objects"));
        command.arg("--run-dir").arg(&self.run_dir);
    }

    /// Starts the agent and waits until pods can start.
    pub fn start_agent(&mut self) -> Result<()> {
        self.spawn_agent()?;
        self.await_ready()
    }

    /// Starts the agent and waits until it answers, be it that no pod can start.
    pub fn start_unready(&mut self) -> Result<()> {
        self.spawn_agent()?;
        wait::until("the agent answers", READY, || {
            call(&self.run_dir, &Request::Status, Duration::from_secs(5)).map(|_| true).map_err(Into::into)
        })
    }

    fn spawn_agent(&mut self) -> Result<()> {
        let program = self.program("manx-agent");
        let mut command = self.agent_command(&program.to_string_lossy())?;
        self.agent_words(&mut command);
        self.adopt(command)
    }

    /// Starts the agent by this command, and does not wait.
    pub fn adopt(&mut self, mut command: Command) -> Result<()> {
        ensure!(self.agent.is_none(), "an agent runs already");
        self.agent = Some(command.spawn().context("the agent does not start")?);
        Ok(())
    }

    /// Waits until pods can start; an error if the agent ends before.
    pub fn await_ready(&mut self) -> Result<()> {
        let end = Instant::now() + READY;
        loop {
            if self.is_ready() {
                return Ok(());
            }
            if let Some(status) = self.agent.as_mut().and_then(|agent| agent.try_wait().ok().flatten()) {
                self.agent = None;
                bail!("the agent ended: {status}; {}", self.last_words());
            }
            ensure!(Instant::now() < end, "the agent does not get ready; {}", self.last_words());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether the agent says that pods can start.
    pub fn is_ready(&self) -> bool {
        call(&self.run_dir, &Request::Status, Duration::from_secs(5)).is_ok_and(|reply| reply == Reply::Ready)
    }

    /// The agent's process, when it was started by itself.
    pub fn agent_pid(&self) -> Result<i32> {
        let agent = self.agent.as_ref().context("no agent runs")?;
        i32::try_from(agent.id()).context("a process id")
    }

    /// Whether the agent's process has ended.
    pub fn agent_has_ended(&mut self) -> bool {
        self.agent.as_mut().is_none_or(|agent| !matches!(agent.try_wait(), Ok(None)))
    }

    /// Kills the agent, and whatever follows it, if it is not dead already.
    pub fn kill_agent(&mut self) -> Result<()> {
        if let Some(mut agent) = self.agent.take() {
            // One that ended by itself is what is wanted too.
            let _ = killpg(Pid::from_raw(i32::try_from(agent.id())?), Signal::SIGKILL);
            agent.wait()?;
            // Under `strace` that was the tracer: the agent itself is gone once its lock can be had.
            if let Ok(lock) = File::open(self.run_dir.join("agent.lock")) {
                Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
            }
        }
        Ok(())
    }

    /// Kills the agent and starts another.
    pub fn restart_agent(&mut self) -> Result<()> {
        self.kill_agent()?;
        self.start_agent()
    }

    /// The last lines of the agent's log.
    pub fn last_words(&self) -> String {
        let log = fs::read_to_string(self.file("agent.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(6)..].join("\n")
    }

    /// The name of the node's namespace.
    pub fn node(&self) -> &str {
        &self.node
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The namespaces around the whole run take what this leaves.
        let _ = self.kill_agent();
        for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == self.node || name.starts_with(&format!("p-{}-", self.node)) {
                let _ = umount2(&entry.path(), MntFlags::MNT_DETACH);
                let _ = fs::remove_file(entry.path());
            }
        }
        if std::env::var_os("MANX_CRASH_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
