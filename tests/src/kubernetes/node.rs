//! A node: containerd, kubelet and kube-proxy in namespaces of their own.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::network::{self, Family};
use super::process::Daemon;
use super::{Cluster, Network, PATIENCE, binary, cgroup, container, images};
use crate::lab::netns;

/// How long a component may take to end in its own way.
pub(super) const GRACE: Duration = Duration::from_secs(5);
const CONTAINERD_CONFIG: &str = r#"version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.10"
  # Lowering a score needs CAP_SYS_RESOURCE, which a machine in a sandbox does not have.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
"#;

/// A node of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) number: usize,
}

impl Node<'_> {
    /// Its number, from 1.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Its name: `node1` and so on.
    pub fn name(&self) -> String {
        format!("node{}", self.number)
    }

    /// Its network namespace, for [`crate::lab::netns`] and [`crate::lab::probe`].
    pub fn netns(&self) -> String {
        self.cluster.netns(&self.name())
    }

    /// Its address of `family`, which it has when the cluster speaks that family.
    pub fn address(&self, family: Family) -> IpAddr {
        network::node_address(self.number, family)
    }

    /// The router's address on this node's wire.
    pub fn router_address(&self, family: Family) -> IpAddr {
        network::router_address(self.number, family)
    }

    /// All its addresses, the primary one first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.cluster.families().list().iter().map(|family| self.address(*family)).collect()
    }

    /// Its folder on this machine: logs, and as `etc`, `opt`, `var-lib` and `var-log` what it keeps over a reboot.
    pub fn dir(&self) -> PathBuf {
        self.cluster.dir.join(self.name())
    }

    /// The control group of its pods, as the name of a folder.
    pub fn cgroup(&self) -> String {
        cgroup::name(self.cluster.name(), &self.name())
    }

    fn daemon(&self, name: &str) -> Daemon {
        Daemon::new(name, self.dir())
    }

    /// What holds its namespaces open.
    fn holder(&self) -> Daemon {
        self.daemon("holder")
    }

    /// containerd.
    pub fn containerd(&self) -> Daemon {
        self.daemon("containerd")
    }

    /// The kubelet.
    pub fn kubelet(&self) -> Daemon {
        self.daemon("kubelet")
    }

    /// kube-proxy.
    pub fn proxy(&self) -> Daemon {
        self.daemon("kube-proxy")
    }

    /// A command that will run on this node, in all its namespaces; its process is the program itself, so that it can
    /// be signalled.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        // Without a process to enter, nsenter says so.
        let holder = self.holder().pid().unwrap_or(0).to_string();
        command.args(["--target", &holder, "--net", "--mount", "--uts", "--"]).arg(program);
        command
    }

    /// Runs a command on this node and returns what it printed.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        let (program, arguments) = argv.split_first().context("an empty command")?;
        let output = netns::run(self.command(program).args(arguments))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Makes the machine and starts containerd with the images; the kubelet comes once there is an API server.
    pub(super) fn boot(&self) -> Result<()> {
        self.install_files()?;
        self.power_on()?;
        images::import(self)
    }

    fn install_files(&self) -> Result<()> {
        let dir = self.dir();
        let gateway = self.router_address(self.cluster.families().primary());
        container::prepare(&dir, &self.name(), &format!("nameserver {gateway}"))?;
        std::fs::create_dir_all(dir.join("etc/containerd"))?;
        std::fs::write(self.containerd_config(), CONTAINERD_CONFIG)?;
        std::fs::write(dir.join("kubelet.json"), self.kubelet_config().to_string())?;
        netns::run(
            Command::new("cp")
                .args(["-a", "/usr/lib/cni/.", "--target-directory"])
                .arg(dir.join("opt/cni/bin")),
        )?;
        match self.cluster.state.options.network {
            Network::Ptp => self.install_ptp(),
            Network::Manx => Ok(()),
        }
    }

    fn power_on(&self) -> Result<()> {
        cgroup::create(&self.cgroup())?;
        container::start(&self.holder(), &self.netns(), &self.name(), &self.dir())?;
        self.start_containerd()
    }

    /// The configuration of its containerd, as a file of this machine.
    pub fn containerd_config(&self) -> PathBuf {
        self.dir().join("etc/containerd/config.toml")
    }

    /// Starts containerd and waits until it answers.
    pub fn start_containerd(&self) -> Result<()> {
        let mut command = self.command("containerd");
        command.arg("--config").arg("/etc/containerd/config.toml");
        let daemon = self.containerd();
        daemon.start(&command)?;
        daemon.wait("containerd answers", PATIENCE, || self.run(&["ctr", "version"]).map(|_| true))
    }

    /// Ends containerd; what runs in containers goes on.
    pub fn stop_containerd(&self) -> Result<()> {
        self.containerd().stop(GRACE)
    }

    /// Starts the kubelet; its Node is there a moment later.
    pub fn start_kubelet(&self) -> Result<()> {
        let (pki, name) = (self.cluster.pki(), self.name());
        let addresses: Vec<String> = self.addresses().iter().map(ToString::to_string).collect();
        let mut command = self.command(binary("kubelet"));
        command.arg("--config").arg(self.dir().join("kubelet.json"));
        command.arg("--kubeconfig").arg(pki.kubeconfig(&format!("kubelet-{name}")));
        command.args(["--hostname-override", &name, "--node-ip", &addresses.join(","), "--v=2"]);
        self.kubelet().start(&command)
    }

    /// Ends the kubelet; the pods go on.
    pub fn stop_kubelet(&self) -> Result<()> {
        self.kubelet().stop(GRACE)
    }

    /// Ends every process on the node at once, as when the power is cut; the namespaces and wires go too. What is on
    /// its disk stays.
    pub fn power_off(&self) -> Result<()> {
        // The wire would go with the namespace, but some time later, and a node that starts again makes a new one.
        let wire =
            Command::new("ip").args(["-n", &self.cluster.netns("tor"), "link", "del", &self.name()]).output();
        wire.context("cannot start ip")?;
        netns::delete(&self.netns())?;
        let group = self.cgroup();
        cgroup::kill(&group)?;
        cgroup::remove(&group)
    }

    /// [`Node::power_off`], and a start from what the node has on its disk: new namespaces, an empty `/run`, no link,
    /// route or rule of before, another boot id.
    pub fn reboot(&self) -> Result<()> {
        self.power_off()?;
        self.restart()
    }

    /// Starts a node that was powered off.
    pub fn restart(&self) -> Result<()> {
        self.cluster.wire_node(self.number)?;
        self.power_on()?;
        self.start_kubelet()?;
        self.start_proxy()
    }

    fn kubelet_config(&self) -> Value {
        let (pki, name) = (self.cluster.pki(), self.name());
        let taints: Vec<Value> =
            self.cluster.state.options.taints.iter().map(|taint| parse_taint(taint)).collect();
        let dns = self.cluster.families().pick(network::DNS_SERVICE);
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true},
                               "x509": {"clientCAFile": pki.certificate("ca")}},
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": pki.certificate(&format!("kubelet-{name}")),
            "tlsPrivateKeyFile": pki.key(&format!("kubelet-{name}")),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}", self.cgroup()),
            "enforceNodeAllocatable": [],
            "failCgroupV1": false,
            "failSwapOn": false,
            "clusterDomain": "cluster.local",
            "clusterDNS": dns,
            "resolvConf": "/etc/resolv.conf",
            "staticPodPath": container::STATIC_PODS,
            // The machine's disk is not the cluster's.
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%",
                             "nodefs.inodesFree": "1%"},
            "volumePluginDir": "/var/lib/kubelet/volumeplugins",
            "nodeLeaseDurationSeconds": 16,
            "syncFrequency": "10s",
            // By default what volumes hold is looked at after one to two minutes, and a pod that takes too much is
            // evicted as late.
            "volumeStatsAggPeriod": "10s",
            "registerWithTaints": taints,
            "maxPods": 110,
        })
    }
}

/// A taint of the form `key=value:effect` or `key:effect`.
fn parse_taint(text: &str) -> Value {
    let (key, effect) = text.split_once(':').unwrap_or((text, "NoSchedule"));
    let (key, value) = key.split_once('=').unwrap_or((key, ""));
    json!({"key": key, "value": value, "effect": effect})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taint_may_have_a_value() {
        assert_eq!(
            parse_taint("a.b/c:NoExecute"),
            json!({"key": "a.b/c", "value": "", "effect": "NoExecute"})
        );
        assert_eq!(parse_taint("k=v:NoSchedule"), json!({"key": "k", "value": "v", "effect": "NoSchedule"}));
    }
}
