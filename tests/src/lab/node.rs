//! Building the lab: the fabric, the control plane, and nodes with their agents.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use kube::api::{Api, Patch, PatchParams};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::pod::Pod;
use super::process::is_alive;
use super::runtime::Runtime;
use super::{Lab, PATIENCE, cluster, netns, wait};

impl Lab {
    /// Router, outside host, control plane host and the wires between them.
    pub(super) fn fabric(&self) -> Result<()> {
        let (tor, outside, cp) = (self.netns("tor"), self.netns("outside"), self.netns("cp"));
        for netns in [&tor, &outside, &cp] {
            netns::add(netns)?;
        }
        netns::sysctl(&tor, &["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])?;
        self.stub(
            &outside,
            &tor,
            "outside",
            ["192.0.2.10/24", "2001:db8:ff::10/64"],
            ["192.0.2.1/24", "2001:db8:ff::1/64"],
        )?;
        self.stub(&cp, &tor, "cp", ["172.30.0.10/24", "fd00:30::10/64"], ["172.30.0.1/24", "fd00:30::1/64"])
    }

    /// Joins `netns` to the router and lets its default routes go there.
    fn stub(&self, netns: &str, tor: &str, link: &str, own: [&str; 2], router: [&str; 2]) -> Result<()> {
        let own = own.map(str::to_owned);
        let router = router.map(str::to_owned);
        netns::wire(
            &netns::End { netns, link: "eth0", addresses: &own },
            &netns::End { netns: tor, link, addresses: &router },
        )?;
        for gateway in router {
            let gateway = gateway.split('/').next().unwrap_or_default();
            netns::ip(&["-n", netns, "route", "add", "default", "via", gateway])?;
        }
        Ok(())
    }

    pub(super) fn wire_node(&mut self, number: usize) -> Result<()> {
        let node = format!("node{number}");
        let netns = self.netns(&node);
        netns::add(&netns)?;
        let own = [format!("172.30.{number}.2/24"), format!("fd00:30:{number}::2/64")];
        let router = [format!("172.30.{number}.1/24"), format!("fd00:30:{number}::1/64")];
        self.stub(&netns, &self.netns("tor"), &node, [&own[0], &own[1]], [&router[0], &router[1]])?;
        self.state.nodes.push(number);
        self.save()
    }

    pub(super) fn control_plane(&self) -> Result<()> {
        let cp = self.netns("cp");
        std::fs::write(self.kubeconfig(), cluster::kubeconfig())?;
        let mut command = netns::command(&cp, self.bin_dir.join("manx-apiserver"));
        command.args(["--listen", cluster::API_ADDRESS]);
        let pid = self.daemon(command, &self.dir.join("apiserver.log"))?;
        std::fs::write(self.dir.join("apiserver.pid"), pid.to_string())?;
        wait::until("the API server answers", PATIENCE, || {
            self.kubectl(&["get", "--raw", "/readyz"]).map(|text| text.contains("ok"))
        })?;
        self.kubectl(&[
            "apply",
            "--validate=false",
            "-f",
            concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/crds"),
        ])?;
        self.apply(&cluster::network_objects())
    }

    pub(super) fn register_node(&self, number: usize) -> Result<()> {
        let node = format!("node{number}");
        self.apply(&[
            cluster::node_object(&node),
            cluster::router_peer(&node, &format!("172.30.{number}.1")),
        ])?;
        let addresses = self.node_addresses(&node)?.map(|address| address.to_string());
        let status = cluster::node_status(&addresses);
        cluster::with_client(&self.netns("cp"), |client| async move {
            let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client);
            nodes.patch_status(&node, &PatchParams::default(), &Patch::Merge(status)).await?;
            Ok(())
        })
    }

    /// Starts the agent of `node` and waits until it is ready.
    pub fn start_agent(&self, node: &str) -> Result<()> {
        self.start_agent_with(node, &[])
    }

    /// The same with more of a command line.
    pub fn start_agent_with(&self, node: &str, more: &[&str]) -> Result<()> {
        let dir = self.node_dir(node);
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("10-manx.conflist"), self.conflist(node)?.to_string())?;
        let mut command = netns::command(&self.netns(node), self.bin_dir.join("manx-agent"));
        command.args(["--node-name", node, "--log-format", "text", "--run-dir"]).arg(self.run_dir(node));
        command.args(["--metrics-listen", "[::]:9181"]);
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(more);
        command.env("MANX_LOG", std::env::var("MANX_LOG").unwrap_or_else(|_| "info".to_owned()));
        let child = self.daemon(command, &dir.join("agent.log"))?;
        std::fs::write(dir.join("agent.pid"), child.to_string())?;
        self.wait_for_agent(node)
    }

    /// Waits until the agent of `node` says that pods may start.
    pub fn wait_for_agent(&self, node: &str) -> Result<()> {
        let runtime = self.runtime(node)?;
        wait::until(&format!("the agent of {node} is ready"), PATIENCE, || runtime.status().map(|()| true))
            .with_context(|| format!("its log: {}", self.node_dir(node).join("agent.log").display()))
    }

    /// Stops the API server in the middle of whatever it does, so that its clients wait in vain, or lets it go on.
    pub fn set_api_outage(&self, away: bool) -> Result<()> {
        let pid: i32 = std::fs::read_to_string(self.dir.join("apiserver.pid"))?.trim().parse()?;
        let signal = if away { Signal::SIGSTOP } else { Signal::SIGCONT };
        signal::kill(Pid::from_raw(pid), signal).map_err(Into::into)
    }

    /// Sends `signal` to the agent of `node` and waits for its end.
    pub fn stop_agent(&self, node: &str, signal: Signal) -> Result<()> {
        let text = std::fs::read_to_string(self.node_dir(node).join("agent.pid"))?;
        let pid: i32 = text.trim().parse()?;
        signal::kill(Pid::from_raw(pid), signal)?;
        wait::until(&format!("the agent of {node} ends"), PATIENCE, || Ok(!is_alive(pid)))
    }

    pub(super) fn start_controller(&self) -> Result<()> {
        let mut command = netns::command(&self.netns("cp"), self.bin_dir.join("manx-controller"));
        command.args(["--metrics-listen", "[::]:9180"]);
        command.args(["--log-format", "text", "--node-grace", "2s", "--kubeconfig"]).arg(self.kubeconfig());
        self.daemon(command, &self.dir.join("controller.log")).map(drop)
    }

    /// Starts a real Prometheus beside the API server with this configuration; it answers at 127.0.0.1:9090 there.
    pub fn start_prometheus(&self, config: &Path) -> Result<()> {
        let mut command = netns::command(&self.netns("cp"), "prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", self.dir.join("prometheus").display()));
        command.arg("--web.listen-address=127.0.0.1:9090");
        self.daemon(command, &self.dir.join("prometheus.log")).map(drop)
    }

    /// Starts `command` in the background with its output in `log`; returns its process id.
    fn daemon(&self, mut command: Command, log: &Path) -> Result<u32> {
        let log = File::options().create(true).append(true).open(log)?;
        let mut wrapped = Command::new("setsid");
        wrapped.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            if let Some(value) = value {
                wrapped.env(key, value);
            }
        }
        command = wrapped;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let pid = child.id();
        // Nobody waits for a daemon of a lab that stays up; a lab of a test reaps it here.
        std::thread::spawn(move || {
            let mut child = child;
            let _ = child.wait();
        });
        Ok(pid)
    }

    /// The conflist of deploy/ with this node's run directory.
    fn conflist(&self, node: &str) -> Result<Value> {
        let mut conflist: Value = serde_json::from_str(include_str!("../../../deploy/10-manx.conflist"))?;
        conflist["plugins"][0]["runDir"] = json!(self.run_dir(node));
        Ok(conflist)
    }

    /// The agent's run directory on `node`.
    pub fn run_dir(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("run")
    }

    /// The container runtime of `node`.
    pub fn runtime(&self, node: &str) -> Result<Runtime> {
        Ok(Runtime { node: self.netns(node), conflist: self.conflist(node)?, bin_dir: self.bin_dir.clone() })
    }

    /// Adds one more node, up to its ready agent.
    pub fn add_node(&mut self) -> Result<String> {
        let number = self.state.nodes.iter().max().copied().unwrap_or(0) + 1;
        self.wire_node(number)?;
        self.router().reconfigure(&self.router_nodes())?;
        self.register_node(number)?;
        let node = format!("node{number}");
        self.start_agent(&node)?;
        Ok(node)
    }

    /// Removes `node` as if its machine had died: processes, namespace, pods, and then its Node object.
    pub fn remove_node(&mut self, node: &str) -> Result<()> {
        let gone: Vec<Pod> = self.state.pods.extract_if(.., |pod| pod.node == node).collect();
        netns::delete(&self.netns(node))?;
        for pod in &gone {
            netns::delete(&pod.sandbox.netns)?;
            self.delete_object("v1", "Pod", Some(&pod.sandbox.namespace), &pod.name)?;
        }
        self.state.nodes.retain(|number| format!("node{number}") != node);
        self.save()?;
        self.delete_object("v1", "Node", None, node)?;
        self.delete_object("manx.dev/v1alpha1", "BGPPeer", None, &format!("tor-{node}"))
    }
}
