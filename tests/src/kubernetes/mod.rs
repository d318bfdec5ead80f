//! A real Kubernetes on one machine: etcd, API server, controller-manager, scheduler, and nodes with containerd, kubelet
//! and kube-proxy, each node in network, mount and UTS namespaces of its own with all the default paths.
//!
//! ```text
//!   node1 ─┐                    each node: containerd, kubelet, kube-proxy; Manx comes as pods
//!   node2 ─┼─ tor (BIRD) ─┬─ outside   a host that is no part of the cluster
//!   node3 ─┘              └─ cp        etcd, kube-apiserver, kube-controller-manager, kube-scheduler
//! ```
//!
//! The wires, addresses and AS numbers are those of the [lab](crate::lab). Everything that a cluster makes carries its
//! name, so that [`Cluster::down_by_name`] needs nothing else, also after its maker was killed.

pub mod audit;
pub mod cgroup;
mod container;
pub mod control_plane;
mod images;
mod install;
mod limits;
pub mod network;
pub mod node;
mod objects;
pub mod pki;
mod plugin;
mod pods;
pub mod process;
mod proxy;
mod residue;
pub mod show;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

pub use control_plane::ControlPlane;
pub use install::Timing;
pub use network::{Families, Family, Host};
pub use node::Node;
pub use objects::program;
pub use pods::LivingPod;
pub use proxy::LocalMode;

use crate::lab::netns;
use pki::Pki;

/// Where clusters keep their files; one folder per cluster. Not below `/run`, `/var/lib`, `/var/log`, `/opt` or `/etc`,
/// of which each node has its own.
const CLUSTERS: &str = "/var/cache/manx/clusters";
/// Set in the environment, it leaves a cluster that failed up, to be looked at and ended by `lab --kubernetes down`.
const KEEP: &str = "MANX_LAB_KEEP";
/// The file that marks a cluster which outlives its maker on purpose.
const KEPT: &str = "kept";
/// How long a component may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where `cargo xtask kubernetes` puts what it builds; `KUBE_BIN_DIR` overrides it.
const BINARIES: &str = "/var/cache/manx/kubernetes/v1.32.6";

/// How kube-proxy makes Services work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Proxy {
    /// nftables rules.
    Nftables,
    /// iptables rules.
    Iptables,
    /// The kernel's IPVS, which few test machines have.
    Ipvs,
    /// No kube-proxy.
    None,
}

/// What gives pods their network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Network {
    /// Manx, which [`Cluster::install`] brings; until then no node is Ready.
    Manx,
    /// Debian's ptp and host-local with static routes on the router, as a control.
    Ptp,
}

/// What a cluster is made of.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Options {
    /// Prefix of every namespace; at most 8 characters.
    pub name: String,
    /// How many nodes to start with.
    pub nodes: usize,
    /// Address families of nodes, pods and services.
    pub families: Families,
    /// What kube-proxy uses.
    pub proxy: Proxy,
    /// What gives pods their network.
    pub network: Network,
    /// Whether the controller-manager gives each node a `podCIDR`; Manx does not need it.
    pub allocate_node_cidrs: bool,
    /// Taints that each node registers with, as `key=value:effect`.
    pub taints: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "manx".to_owned(),
            nodes: 3,
            families: Families::Dual,
            proxy: Proxy::Nftables,
            network: Network::Manx,
            allocate_node_cidrs: false,
            taints: Vec::new(),
        }
    }
}

/// What `down` and later commands need to know; written after each change.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct State {
    options: Options,
    /// Numbers of the nodes, from 1.
    nodes: Vec<usize>,
    /// The process that made it, for clusters that belong to a test run.
    owner: u32,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    state: State,
    dir: PathBuf,
    /// Take it down when dropped.
    owned: bool,
}

/// What a cluster needs of this machine and does not find, in words for who runs the tests; `None` when all is there.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("a cluster makes network namespaces and needs root".to_owned());
    }
    let binaries =
        ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"];
    if let Some(name) = binaries.iter().find(|name| !binary(name).exists()) {
        return Some(format!(
            "{} is missing: build Kubernetes by `cargo xtask kubernetes` (it needs Go), or point KUBE_BIN_DIR at it",
            binary(name).display()
        ));
    }
    for name in ["etcd", "containerd", "runc", "ctr", "nsenter", "bird"] {
        if !in_path(name) {
            return Some(format!("{name} is not installed: `cargo xtask setup` installs what is needed"));
        }
    }
    images::missing()
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.iter().any(|folder| folder.join(program).is_file())
}

/// Where the Kubernetes program `name` lies, if it is there: in the folder that `KUBE_BIN_DIR` names, or where
/// `cargo xtask kubernetes` builds it.
pub fn binary(name: &str) -> PathBuf {
    let dir = std::env::var_os("KUBE_BIN_DIR").map_or_else(|| PathBuf::from(BINARIES), PathBuf::from);
    dir.join(name)
}

impl Cluster {
    /// Brings up a cluster, up to nodes that have registered; with [`Network::Manx`] none is Ready yet. A cluster of the
    /// same name, and those whose maker was killed, are taken down first.
    ///
    /// # Errors
    /// Names the component that did not come up, with the end of its log.
    pub fn up(options: &Options) -> Result<Self> {
        if let Some(missing) = missing() {
            anyhow::bail!(missing);
        }
        ensure!(
            (1..=8).contains(&options.name.len())
                && options.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()),
            "a cluster's name has 1 to 8 lower-case letters and digits"
        );
        for stale in Self::stale(&options.name) {
            Self::down_by_name(&stale)?;
        }
        Self::down_by_name(&options.name)?;
        limits::check(options.nodes)?;
        let begin = Instant::now();
        let dir = Path::new(CLUSTERS).join(&options.name);
        std::fs::create_dir_all(&dir)?;
        let mut options = options.clone();
        let nodes = std::mem::take(&mut options.nodes);
        let state = State { options, nodes: (1..=nodes).collect(), owner: std::process::id() };
        let cluster = Self { state, dir, owned: true };
        cluster.save()?;
        cluster.build()?;
        println!("the cluster {} is up after {:.1} s", cluster.name(), begin.elapsed().as_secs_f32());
        Ok(cluster)
    }

    fn build(&self) -> Result<()> {
        self.issue_certificates()?;
        self.fabric()?;
        self.control_plane().start_etcd()?;
        let begin = Instant::now();
        let after = |what: &str| println!("{what} after {:.1} s", begin.elapsed().as_secs_f32());
        std::thread::scope(|scope| {
            let control_plane = scope.spawn(|| self.control_plane().start());
            let nodes: Vec<_> = self
                .state
                .nodes
                .iter()
                .map(|number| {
                    scope.spawn(move || {
                        self.wire_node(*number)?;
                        self.node(*number).boot()
                    })
                })
                .collect();
            // The error of the control plane tells more than those of nodes that do not find it.
            join(control_plane)?;
            after("the control plane is up");
            nodes.into_iter().try_for_each(join)
        })?;
        after("containerd has the images on every node");
        self.router().start(&self.neighbours())?;
        for node in self.nodes() {
            node.start_kubelet()?;
            node.start_proxy()?;
        }
        self.wait_registered()
    }

    /// Opens the cluster `name` that an earlier command brought up.
    pub fn open(name: &str) -> Result<Self> {
        let dir = Path::new(CLUSTERS).join(name);
        let text = std::fs::read(dir.join("cluster.json")).with_context(|| {
            format!("no cluster `{name}` is up: `cargo xtask lab --kubernetes` brings one up")
        })?;
        Ok(Self { state: serde_json::from_slice(&text)?, dir, owned: false })
    }

    /// Leaves the cluster running when this value is dropped, until it is taken down by name.
    pub fn keep(&mut self) -> Result<()> {
        self.owned = false;
        std::fs::write(self.dir.join(KEPT), "").map_err(Into::into)
    }

    /// Takes the cluster down: processes, namespaces, control groups, files.
    pub fn down(mut self) -> Result<()> {
        self.owned = false;
        audit::remember(&self);
        Self::down_by_name(self.name())
    }

    /// Takes down whatever carries the cluster's name, also after its maker was killed.
    pub fn down_by_name(name: &str) -> Result<()> {
        // What runs inside a node goes first, so that nothing is started again; the pods' processes, which have network
        // namespaces of their own, are found by their control groups.
        for netns in netns::list(&format!("{name}-")) {
            netns::delete(&netns)?;
        }
        for group in cgroup::list(name) {
            cgroup::kill(&group)?;
            cgroup::remove(&group)?;
        }
        match std::fs::remove_dir_all(Path::new(CLUSTERS).join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The names of clusters whose maker is gone, other than `keep`: test runs that were killed. One that was kept on
    /// purpose is not among them.
    pub fn stale(keep: &str) -> Vec<String> {
        names()
            .into_iter()
            .filter(|name| name != keep)
            .filter(|name| is_stale(&Path::new(CLUSTERS).join(name)))
            .collect()
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.state.options.name
    }

    /// The folder of the cluster: certificates, logs, the nodes' files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The families that it speaks.
    pub fn families(&self) -> Families {
        self.state.options.families
    }

    /// All nodes, in order.
    pub fn nodes(&self) -> Vec<Node<'_>> {
        self.state.nodes.iter().map(|number| self.node(*number)).collect()
    }

    /// Node `number`, from 1.
    pub fn node(&self, number: usize) -> Node<'_> {
        Node { cluster: self, number }
    }

    /// The node called `name`, such as `node2`.
    pub fn node_by_name(&self, name: &str) -> Result<Node<'_>> {
        self.nodes()
            .into_iter()
            .find(|node| node.name() == name)
            .with_context(|| format!("no node {name} in this cluster"))
    }

    /// Adds one more machine, up to its registered node.
    pub fn add_node(&mut self) -> Result<usize> {
        let number = self.state.nodes.iter().max().copied().unwrap_or(0) + 1;
        self.state.nodes.push(number);
        self.save()?;
        self.issue_node_certificate(&self.pki().reopen()?, number)?;
        self.wire_node(number)?;
        self.router().reconfigure(&self.neighbours())?;
        let node = self.node(number);
        node.boot()?;
        node.start_kubelet()?;
        node.start_proxy()?;
        self.wait_registered()?;
        Ok(number)
    }

    /// Removes the machine `number` as if it had died; its Node object stays until somebody deletes it.
    pub fn remove_node(&mut self, number: usize) -> Result<()> {
        self.node(number).power_off()?;
        self.state.nodes.retain(|other| *other != number);
        self.save()
    }

    fn pki(&self) -> Pki {
        Pki::new(self.dir.join("pki"))
    }

    fn save(&self) -> Result<()> {
        let path = self.dir.join("cluster.json");
        let new = path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec_pretty(&self.state)?)?;
        std::fs::rename(new, path).map_err(Into::into)
    }
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("a thread that brings up the cluster panicked"))?
}

/// The names of all clusters on this machine, sorted.
fn names() -> Vec<String> {
    let entries = std::fs::read_dir(CLUSTERS).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Whether the maker of the cluster in `dir` is gone, and did not mean to leave it.
fn is_stale(dir: &Path) -> bool {
    let state = std::fs::read(dir.join("cluster.json")).ok();
    let state: Option<State> = state.and_then(|text| serde_json::from_slice(&text).ok());
    let kept = dir.join(KEPT).exists();
    !kept && state.is_none_or(|state| !crate::lab::process::is_alive(i32::try_from(state.owner).unwrap_or(0)))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        audit::remember(self);
        let outcome = match std::env::var_os(KEEP) {
            Some(_) => self.keep(),
            None => Self::down_by_name(self.name()),
        };
        if let Err(error) = outcome {
            eprintln!("the cluster {} could not be taken down: {error:#}", self.name());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_whose_maker_is_gone_is_stale_unless_it_was_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut cluster = Cluster {
            state: State { options: Options::default(), nodes: vec![1], owner: std::process::id() },
            dir: dir.path().to_owned(),
            owned: false,
        };
        cluster.save().expect("saved");
        assert!(!is_stale(dir.path()));
        // No process has this id: it is above the largest that the kernel gives.
        cluster.state.owner = i32::MAX.unsigned_abs();
        cluster.save().expect("saved");
        assert!(is_stale(dir.path()));
        cluster.keep().expect("kept");
        assert!(!is_stale(dir.path()));
    }

    #[test]
    fn a_folder_that_was_left_half_made_is_stale() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(is_stale(dir.path()));
    }
}
