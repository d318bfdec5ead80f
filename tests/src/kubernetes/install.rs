//! Manx on the cluster, as an operator would bring it: one file for `kubectl apply`.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Cluster, Families};
use crate::lab::router::ROUTER_ASN;
use crate::lab::wait;

/// How long a step of the installation took.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// `kubectl apply` itself.
    pub apply: Duration,
    /// From the start of `kubectl apply` until every node was Ready.
    pub ready: Duration,
}

/// How long a kubelet may take until its node is Ready again. After failures client-go watches Nodes again within 30 s,
/// which its jitter doubles, and the kubelet looks each 10 s whether what it reports has to be written.
const READY: Duration = Duration::from_secs(120);

impl Cluster {
    /// Waits until every node has registered.
    pub(super) fn wait_registered(&self) -> Result<()> {
        let registered = || {
            let nodes = self.kubectl(&["get", "nodes", "-o", "name"])?;
            Ok(self
                .nodes()
                .iter()
                .all(|node| nodes.lines().any(|line| line == format!("node/{}", node.name()))))
        };
        for node in self.nodes() {
            node.kubelet().wait("every node has registered", super::PATIENCE, registered)?;
        }
        Ok(())
    }

    /// `kubectl apply -f deploy/manx.yaml`, and nothing else; with IPv6, the overlay for the cluster's families.
    pub fn install(&self) -> Result<()> {
        let (flag, what) = match self.families() {
            Families::Ipv4 => ("-f", "manx.yaml"),
            Families::Ipv6 => ("-k", "overlays/ipv6"),
            Families::Dual => ("-k", "overlays/dual-stack"),
        };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(what);
        self.kubectl(&["apply", flag, &path.display().to_string()]).map(drop)
    }

    /// [`Cluster::install`] and [`Cluster::wait_ready`], with the time that they took.
    pub fn install_and_wait(&self) -> Result<Timing> {
        let begin = Instant::now();
        self.install()?;
        let apply = begin.elapsed();
        self.wait_ready()?;
        let timing = Timing { apply, ready: begin.elapsed() };
        println!(
            "kubectl apply took {:.1} s, every node was Ready {:.1} s after its start",
            timing.apply.as_secs_f32(),
            timing.ready.as_secs_f32()
        );
        Ok(timing)
    }

    /// The objects with which every node peers with the router: one BGPPeer each.
    pub fn router_peers(&self) -> Vec<Value> {
        let peer = |node: super::Node<'_>| {
            json!({"apiVersion": "manx.dev/v1alpha1", "kind": "BGPPeer",
                   "metadata": {"name": format!("tor-{}", node.name())},
                   "spec": {"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": node.name()}},
                            "peerIP": node.router_address(self.families().primary()), "asNumber": ROUTER_ASN}})
        };
        self.nodes().into_iter().map(peer).collect()
    }

    /// Lets every node peer with the router, and waits until the sessions are up.
    pub fn peer_with_router(&self) -> Result<()> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": self.router_peers()});
        self.apply(&list.to_string())?;
        wait::until("every session of the router is up", super::PATIENCE, || {
            Ok(self.router().established()? == self.nodes().len())
        })
    }

    /// Waits until every node is Ready, also after an API server that was away.
    ///
    /// # Errors
    /// Says why those that are not Ready are not, in the kubelet's words.
    pub fn wait_ready(&self) -> Result<()> {
        let mut waiting = Vec::new();
        let outcome = wait::until("every node is Ready", READY, || {
            let nodes = self.objects("nodes")?;
            ensure!(nodes.len() >= self.nodes().len(), "only {} nodes have registered", nodes.len());
            waiting = nodes.iter().filter_map(not_ready).collect();
            Ok(waiting.is_empty())
        });
        outcome.with_context(|| format!("not Ready: {waiting:?}"))
    }

    /// Waits until a rollout is done, such as `deployment/web` or `-n manx-system daemonset/manx-agent`.
    pub fn wait_rollout(&self, what: &[&str]) -> Result<()> {
        let mut args = vec!["rollout", "status", "--timeout=90s"];
        args.extend(what);
        self.kubectl(&args).map(drop)
    }
}

/// The name of a node that is not Ready, and why.
fn not_ready(node: &Value) -> Option<String> {
    let conditions = node["status"]["conditions"].as_array()?;
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
    match ready {
        Some(ready) if ready["status"] == "True" => None,
        other => {
            Some(format!("{}: {}", node["metadata"]["name"], other.map_or(&Value::Null, |c| &c["message"])))
        }
    }
}
