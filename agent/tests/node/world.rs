//! A node: a network namespace with an uplink, folders of a container runtime, and an agent.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_manx-agent");
/// The longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// What an API server would say to `host1`, without a pool.
const OBJECTS: &str = "
apiVersion: manx.dev/v1alpha1
kind: BGPConfiguration
metadata: {name: default}
spec: {asNumber: 64512, topology: None}
---
apiVersion: manx.dev/v1alpha1
kind: NodeNetwork
metadata: {name: host1}
spec:
  addresses: {ipv4: 192.0.2.11, ipv6: 2001:db8::11}
  asNumber: 64512
  routerId: 192.0.2.11
  nodeUID: ''
";
/// A pool, and a block of this node.
const POOL: &str = "
apiVersion: manx.dev/v1alpha1
kind: IPPool
metadata: {name: pods-v4}
spec: {cidr: 10.244.0.0/16, natOutgoing: true}
---
apiVersion: manx.dev/v1alpha1
kind: IPBlock
metadata: {name: 10-244-3-64-26}
spec: {cidr: 10.244.3.64/26, node: host1, pool: pods-v4}
";

/// Runs `test` on a thread in a new network namespace. Without the right to make one it says so, and in CI fails.
pub(crate) fn run(test: impl FnOnce(World) + Send + 'static) {
    let outcome = std::thread::spawn(|| {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            assert!(std::env::var_os("CI").is_none(), "no namespaces: {error}");
            println!("ignored: no namespaces");
            return;
        }
        test(World::new());
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a program with these arguments, separated by blanks, and returns what it prints.
pub(crate) fn command(line: &str) -> String {
    let mut words = line.split_whitespace();
    let program = words.next().expect("one");
    let output = Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until `what` holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The node.
pub(crate) struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { dir: tempfile::tempdir().expect("a directory") };
        for name in ["objects", "conf", "bin", "image"] {
            std::fs::create_dir(world.path(name)).expect("made");
        }
        std::fs::write(world.path("objects").join("node.yaml"), OBJECTS).expect("written");
        std::fs::write(world.template(), include_str!("../../../deploy/10-manx.conflist")).expect("written");
        for plugin in ["manx-cni", "portmap", "bandwidth"] {
            world.add_plugin(plugin);
        }
        command("ip link set lo up");
        command("ip link add uplink type veth peer name router");
        command("ip link set router up");
        command("ip link set uplink up");
        command("ip address add 192.0.2.11/24 dev uplink");
        command("ip address add 2001:db8::11/64 dev uplink nodad");
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn template(&self) -> PathBuf {
        self.path("image").join("10-manx.conflist")
    }

    pub(crate) fn conflist(&self) -> PathBuf {
        self.path("conf").join("10-manx.conflist")
    }

    pub(crate) fn add_plugin(&self, name: &str) {
        std::fs::copy("/bin/true", self.path("bin").join(name)).expect("copied");
    }

    /// Gives the node a pool.
    pub(crate) fn add_pool(&self) {
        std::fs::write(self.path("objects").join("pool.yaml"), POOL).expect("written");
    }

    /// The types of the plugins in the conflist.
    pub(crate) fn plugins(&self) -> Vec<String> {
        let Ok(text) = std::fs::read(self.conflist()) else { return Vec::new() };
        let list: serde_json::Value = serde_json::from_slice(&text).expect("a whole conflist at any time");
        let plugins = list["plugins"].as_array().expect("a list");
        plugins.iter().map(|plugin| plugin["type"].as_str().expect("a text").to_owned()).collect()
    }

    /// The arguments of the agent.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let path = |name: &str| self.path(name).display().to_string();
        let (run, objects, conf, bin) = (path("run"), path("objects"), path("conf"), path("bin"));
        let template = self.template().display().to_string();
        let arguments =
            ["--node-name", "host1", "--run-dir", &run, "--objects", &objects, "--cni-conf-dir", &conf];
        let more = ["--cni-bin-dir", &bin, "--conflist", &template];
        arguments.into_iter().chain(more).map(str::to_owned).collect()
    }

    /// Starts the agent.
    pub(crate) fn start(&self) -> Agent {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", AGENT]).args(self.arguments());
        self.start_as(command)
    }

    pub(crate) fn start_as(&self, mut command: Command) -> Agent {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).expect("open");
        Agent(command.stderr(log).spawn().expect("started"))
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).expect("read")
    }

    /// Waits until the conflist has these plugins.
    pub(crate) fn until_plugins(&self, expected: &[&str]) {
        until(&format!("the conflist has {expected:?}"), || self.plugins() == expected);
    }

    /// What one of the pages of the agent says; nothing while it does not answer.
    pub(crate) fn page(&self, path: &str) -> String {
        let output = Command::new("curl").arg("-s").arg(format!("http://127.0.0.1:9179/{path}")).output();
        String::from_utf8_lossy(&output.expect("run").stdout).into_owned()
    }

    /// Whether this is a line of `/metrics`.
    pub(crate) fn shows(&self, line: &str) -> bool {
        self.page("metrics").lines().any(|shown| shown == line)
    }
}

/// A running agent.
pub(crate) struct Agent(Child);

impl Agent {
    /// Ends it as an upgrade does.
    pub(crate) fn stop(mut self) {
        kill(Pid::from_raw(self.0.id().try_into().expect("a number")), Signal::SIGTERM).expect("killed");
        assert!(self.0.wait().expect("ended").success());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// All files below a directory, with what is in them.
pub(crate) fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .expect("read")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    names
}
