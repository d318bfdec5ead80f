//! `bench kubernetes`: what a real cluster of Manx costs, and what a pod's start costs through kubelet and containerd
//! against Debian's ptp.
//!
//! Both networks are on the same nodes at the same time, under the same containerd: pods of the runtime class `ptp` are
//! run by the same runc, with a conflist in which ptp and host-local stand in the place of manx-cni and all plugins behind
//! it stay. So nothing differs but the network, and samples can be taken in turn. How long containerd took for a sandbox
//! is the kubelet's own figure (`run_podsandbox` of `kubelet_runtime_operations_duration_seconds`), one pod at a time. The one
//! by runtime class, `kubelet_run_podsandbox_duration_seconds`, is always some microseconds in 1.32.

mod memory;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Row;
use crate::kubernetes::{Cluster, Families, Node, Options};
use crate::lab::wait;

/// How much to measure.
#[derive(Clone, Debug)]
pub struct Size {
    /// Pods that are started one at a time on one node, this many of each network.
    pub single: usize,
    /// Pods of a Deployment that are started at once on three nodes.
    pub pods: usize,
    /// How often these are, for each network.
    pub rounds: usize,
}

/// The runtime class of pods with the network that Manx is compared with.
const PTP: &str = "ptp";
/// The default runtime class has no name.
const MANX: &str = "";
const PATIENCE: Duration = Duration::from_secs(300);
/// A second runtime of the same kind, whose pods get their network from another folder.
const HANDLER: &str = r#"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.ptp]
  runtime_type = "io.containerd.runc.v2"
  cni_conf_dir = "/etc/cni/ptp.d"
"#;

/// Runs the benchmark in a cluster of its own.
///
/// # Errors
/// When the cluster does not come up, or a pod does not.
pub fn run(size: &Size) -> Result<Vec<Row>> {
    let options = Options { name: "bench".to_owned(), families: Families::Ipv4, ..Options::default() };
    let cluster = Cluster::up(&options)?;
    // It prints what it took.
    cluster.install_and_wait()?;
    for node in cluster.nodes() {
        add_ptp(node)?;
    }
    cluster.apply(
        &json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": PTP},
                           "handler": PTP})
        .to_string(),
    )?;
    cluster.wait_ready()?;
    wait::until("pods can be made", PATIENCE, || {
        cluster.kubectl(&["get", "serviceaccount", "default"]).map(|_| true)
    })?;
    println!("\nmemory without pods of users:");
    memory::print(&cluster)?;
    let mut rows = one_by_one(&cluster, size.single)?;
    rows.extend(at_once(&cluster, size)?);
    println!();
    Ok(rows)
}

/// Adds the runtime class to a node.
fn add_ptp(node: Node<'_>) -> Result<()> {
    let etc = node.dir().join("etc/cni");
    let ours = std::fs::read(etc.join("net.d/10-manx.conflist")).context("the conflist of Manx")?;
    let mut list: Value = serde_json::from_slice(&ours)?;
    let block = crate::kubernetes::network::ptp_block(node.number(), crate::kubernetes::Family::Ipv4);
    list["name"] = json!(PTP);
    list["plugins"][0] = json!({"type": "ptp", "ipMasq": false,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": block}]], "routes": [{"dst": "0.0.0.0/0"}]}});
    std::fs::create_dir_all(etc.join("ptp.d"))?;
    std::fs::write(etc.join("ptp.d/10-ptp.conflist"), list.to_string())?;
    let path = node.containerd_config();
    let config = std::fs::read_to_string(&path)?;
    std::fs::write(path, config + HANDLER)?;
    node.stop_containerd()?;
    node.start_containerd()
}

/// Sandboxes on one node, in turn. The first of each warms caches up and is not counted.
fn one_by_one(cluster: &Cluster, count: usize) -> Result<Vec<Row>> {
    let mut sandboxes = [Vec::new(), Vec::new()];
    let mut starts = [Vec::new(), Vec::new()];
    for number in 0..=count {
        for (index, class) in [MANX, PTP].into_iter().enumerate() {
            let (sandbox, start) = single(cluster, class, number)?;
            if number > 0 {
                sandboxes[index].push(sandbox * 1e3);
                starts[index].push(start * 1e3);
            }
        }
    }
    let row = |what: &str, [ours, theirs]: [Vec<f64>; 2]| Row {
        what: what.to_owned(),
        peer: "ptp, host-local".to_owned(),
        ours,
        theirs,
        unit: "ms",
        target: "≤ 1",
    };
    Ok(vec![
        row("RunPodSandbox through containerd, as the kubelet counts it", sandboxes),
        row("one pod, from its creation until it is Ready", starts),
    ])
}

/// One pod of a runtime class on the first node: seconds of its sandbox, and until it was Ready.
fn single(cluster: &Cluster, class: &str, number: usize) -> Result<(f64, f64)> {
    let name = format!("single-{number}{class}");
    let before = sandboxes(cluster)?;
    let mut spec = spec(class);
    spec["nodeName"] = json!("node1");
    let begin = Instant::now();
    cluster.apply(
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string(),
    )?;
    cluster.kubectl(&["wait", &format!("pod/{name}"), "--for=condition=Ready", "--timeout=120s"])?;
    let start = begin.elapsed();
    let after = sandboxes(cluster)?;
    ensure!(after.0 == before.0 + 1.0, "{} sandboxes were made for one pod", after.0 - before.0);
    cluster.kubectl(&["delete", "pod", &name, "--timeout=120s"])?;
    Ok((after.1 - before.1, start.as_secs_f64()))
}

/// How many sandboxes the first node's kubelet has asked for, and how many seconds these took.
fn sandboxes(cluster: &Cluster) -> Result<(f64, f64)> {
    let page = cluster.kubectl(&["get", "--raw", "/api/v1/nodes/node1/proxy/metrics"])?;
    let figure = |what: &str| -> Result<f64> {
        let key = format!(
            "kubelet_runtime_operations_duration_seconds_{what}{{operation_type=\"run_podsandbox\"}} "
        );
        let line = page.lines().find_map(|line| line.strip_prefix(&key));
        line.map_or(Ok(0.0), |value| value.trim().parse().map_err(Into::into))
    };
    Ok((figure("count")?, figure("sum")?))
}

/// A pod that answers, of a runtime class.
fn spec(class: &str) -> Value {
    let mut spec = json!({"terminationGracePeriodSeconds": 2, "automountServiceAccountToken": false,
        "containers": [{"name": "main", "image": "docker.io/library/toolbox:1", "imagePullPolicy": "Never"}]});
    if class != MANX {
        spec["runtimeClassName"] = json!(class);
    }
    spec
}

/// A Deployment that is scaled up and down, of each network in turn.
fn at_once(cluster: &Cluster, size: &Size) -> Result<Vec<Row>> {
    let mut ups = [Vec::new(), Vec::new()];
    for (class, name) in [(MANX, "manx"), (PTP, "ptp")] {
        cluster.apply(&deployment(name, class).to_string())?;
    }
    for round in 0..size.rounds {
        for (index, name) in ["manx", "ptp"].into_iter().enumerate() {
            let before = cluster.audit()?.len();
            ups[index].push(scale_up(cluster, name, size.pods)?);
            if name == "manx" && round == 0 {
                println!("\nmemory with {} pods:", size.pods);
                memory::print(cluster)?;
                requests(&cluster.audit()?[before..], size.pods);
            }
            cluster.kubectl(&["scale", &format!("deployment/{name}"), "--replicas=0"])?;
            cluster.kubectl(&[
                "wait",
                "pods",
                "-l",
                &format!("app={name}"),
                "--for=delete",
                "--timeout=300s",
            ])?;
        }
    }
    let [ours, theirs] = ups;
    let what = format!("a Deployment of {} pods on three nodes, until all are Ready", size.pods);
    let peer = "ptp, host-local".to_owned();
    Ok(vec![Row { what, peer, ours, theirs, unit: "s", target: "≤ 1" }])
}

fn deployment(name: &str, class: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
           "spec": {"replicas": 0, "selector": {"matchLabels": {"app": name}},
                    "template": {"metadata": {"labels": {"app": name}}, "spec": spec(class)}}})
}

/// Seconds until all of so many pods are Ready.
fn scale_up(cluster: &Cluster, name: &str, pods: usize) -> Result<f64> {
    let (deployment, replicas) = (format!("deployment/{name}"), format!("--replicas={pods}"));
    let begin = Instant::now();
    cluster.kubectl(&["scale", &deployment, &replicas])?;
    let all = format!("--for=jsonpath={{.status.readyReplicas}}={pods}");
    cluster.kubectl(&["wait", &deployment, &all, "--timeout=300s"])?;
    Ok(begin.elapsed().as_secs_f64())
}

/// Prints who asked the API server how often, for each pod.
fn requests(events: &[Value], pods: usize) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for event in events.iter().filter(|event| event["stage"] == "ResponseComplete") {
        let user = event["user"]["username"].as_str().unwrap_or("?");
        *counts.entry(component(user).to_owned()).or_default() += 1;
    }
    println!("\nrequests to the API server while {pods} pods started:");
    for (who, count) in counts {
        println!("  {who:<40} {count:>6} {:>8.2} a pod", count as f64 / pods as f64);
    }
}

/// Nodes are one component; everybody else is known by the end of the name.
fn component(user: &str) -> &str {
    if user.starts_with("system:node:") { "kubelets" } else { user.rsplit(':').next().unwrap_or(user) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_component() {
        assert_eq!(component("system:node:node2"), "kubelets");
        assert_eq!(component("system:serviceaccount:manx-system:manx-agent"), "manx-agent");
        assert_eq!(component("admin"), "admin");
    }
}
