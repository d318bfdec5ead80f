//! A cluster out of network namespaces on one machine: nodes, a top-of-rack router with a real BGP daemon, a host
//! outside, the embedded API server, real agents, and pods made by calling the real plugin.
//!
//! ```text
//!   node1 ─┐                        each node: manx-agent, its pods behind veths
//!   node2 ─┼─ tor (BIRD or FRR) ─┬─ outside   a host that is no part of the cluster
//!   node3 ─┘                     └─ cp        API server, manx-controller
//! ```
//!
//! Every link is a routed veth pair, so that two pods on different nodes are three routers apart and whatever they
//! say to each other passes the router, where it can be captured. All namespaces and processes of a lab can be found
//! by the lab's name; [`Lab::down`] needs nothing else, and so also cleans up after a run that was killed.

mod calico;
pub mod capture;
pub mod cluster;
pub mod netns;
mod node;
mod pod;
pub mod probe;
pub mod process;
pub mod router;
pub mod runtime;
pub mod show;
pub mod wait;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub use pod::Pod;
use router::{Router, RouterKind};

/// Where labs keep their files; one folder per lab.
const LABS: &str = "/run/manx-lab";
/// Set in the environment, it leaves a lab that failed up, to be looked at and ended by `lab down`.
const KEEP: &str = "MANX_LAB_KEEP";
/// How long a lab waits for anything to come up.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Prefix of every namespace; at most 8 characters.
    pub name: String,
    /// How many nodes to start with.
    pub nodes: usize,
    /// What speaks BGP on the router.
    pub router: RouterKind,
}

impl Default for Options {
    fn default() -> Self {
        Self { name: "manx".to_owned(), nodes: 3, router: RouterKind::Bird }
    }
}

/// What `down` and later commands need to know; written after each change.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct State {
    name: String,
    router: RouterKind,
    /// Numbers of the nodes, from 1.
    nodes: Vec<usize>,
    pods: Vec<Pod>,
    /// Counts sandboxes, so that each has its own container id.
    sandboxes: u64,
    /// The process that made it, for labs that belong to a test run.
    owner: u32,
}

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    state: State,
    dir: PathBuf,
    bin_dir: PathBuf,
    /// Take it down when dropped.
    owned: bool,
}

/// The folder with our binaries: where this program lies, or the one above for a test.
fn bin_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    exe.ancestors()
        .skip(1)
        .take(2)
        .find(|dir| dir.join("manx-agent").exists())
        .map(Path::to_owned)
        .context("manx-agent is not built: run `cargo build --workspace` first")
}

impl Lab {
    /// Makes a lab, with everything in place but no pods; a lab of the same name is taken down first.
    pub fn up(options: &Options) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "a lab makes network namespaces: run as root");
        ensure!(
            (1..=8).contains(&options.name.len())
                && options.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()),
            "a lab's name has 1 to 8 lower-case letters and digits"
        );
        Self::down_by_name(&options.name)?;
        let dir = Path::new(LABS).join(&options.name);
        std::fs::create_dir_all(&dir)?;
        let state = State {
            name: options.name.clone(),
            router: options.router,
            nodes: Vec::new(),
            pods: Vec::new(),
            sandboxes: 0,
            owner: std::process::id(),
        };
        let mut lab = Self { state, dir, bin_dir: bin_dir()?, owned: true };
        lab.save()?;
        lab.fabric()?;
        lab.control_plane()?;
        for number in 1..=options.nodes {
            lab.wire_node(number)?;
        }
        lab.router().start(&lab.router_nodes())?;
        for number in lab.state.nodes.clone() {
            lab.register_node(number)?;
        }
        for node in lab.nodes() {
            lab.start_agent(&node)?;
        }
        lab.start_controller()?;
        Ok(lab)
    }

    /// Opens the lab `name` that an earlier command brought up.
    pub fn open(name: &str) -> Result<Self> {
        let dir = Path::new(LABS).join(name);
        let text = std::fs::read(dir.join("lab.json"))
            .with_context(|| format!("no lab `{name}` is up: `cargo xtask lab` brings one up"))?;
        Ok(Self { state: serde_json::from_slice(&text)?, dir, bin_dir: bin_dir()?, owned: false })
    }

    /// Leaves the lab running when this value is dropped.
    pub fn keep(&mut self) {
        self.owned = false;
    }

    /// Takes the lab down: processes, namespaces, files.
    pub fn down(mut self) -> Result<()> {
        self.owned = false;
        Self::down_by_name(&self.state.name)
    }

    /// Takes down whatever carries the lab's name, also after its maker was killed.
    pub fn down_by_name(name: &str) -> Result<()> {
        for netns in netns::list(&format!("{name}-")) {
            netns::delete(&netns)?;
        }
        match std::fs::remove_dir_all(Path::new(LABS).join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The names of labs whose maker is gone, other than `keep`: test runs that were killed.
    pub fn stale(keep: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(LABS) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names
            .filter(|name| name != keep)
            .filter(|name| {
                let state = std::fs::read(Path::new(LABS).join(name).join("lab.json")).ok();
                let state: Option<State> = state.and_then(|text| serde_json::from_slice(&text).ok());
                state.is_none_or(|state| !Path::new(&format!("/proc/{}", state.owner)).exists())
            })
            .collect()
    }

    /// Node names, in order.
    pub fn nodes(&self) -> Vec<String> {
        self.state.nodes.iter().map(|number| format!("node{number}")).collect()
    }

    /// All pods.
    pub fn pods(&self) -> &[Pod] {
        &self.state.pods
    }

    /// The pod `name`.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        self.state
            .pods
            .iter()
            .find(|pod| pod.name == name)
            .with_context(|| format!("no pod {name} in this lab"))
    }

    /// The namespace of a node, `tor`, `outside` or `cp`.
    pub fn netns(&self, place: &str) -> String {
        format!("{}-{place}", self.state.name)
    }

    /// A node's two addresses, IPv4 first.
    pub fn node_addresses(&self, node: &str) -> Result<[IpAddr; 2]> {
        let number: usize = node.strip_prefix("node").and_then(|n| n.parse().ok()).context("no such node")?;
        Ok([format!("172.30.{number}.2").parse()?, format!("fd00:30:{number}::2").parse()?])
    }

    /// The addresses of the host outside, IPv4 first.
    pub fn outside_addresses(&self) -> [IpAddr; 2] {
        [IpAddr::from([192, 0, 2, 10]), IpAddr::from([0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 0x10])]
    }

    /// The folder of a node: run directory, logs, conflist.
    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.dir.join(node)
    }

    /// The folder of the lab.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The router.
    pub fn router(&self) -> Router {
        Router { kind: self.state.router, netns: self.netns("tor"), dir: self.dir.join("router") }
    }

    fn router_nodes(&self) -> Vec<(String, String)> {
        self.state
            .nodes
            .iter()
            .map(|number| (format!("node{number}"), format!("172.30.{number}.2")))
            .collect()
    }

    fn save(&self) -> Result<()> {
        let path = self.dir.join("lab.json");
        let new = path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec_pretty(&self.state)?)?;
        std::fs::rename(new, path).map_err(Into::into)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.owned
            && std::env::var_os(KEEP).is_none()
            && let Err(error) = Self::down_by_name(&self.state.name)
        {
            eprintln!("the lab {} could not be taken down: {error:#}", self.state.name);
        }
    }
}
