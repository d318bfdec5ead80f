//! What `cargo xtask lab --kubernetes` shows: pods over all nodes that talk to each other and to the world outside.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Cluster, LivingPod, Network};
use crate::lab::{probe, wait};

/// How long packets may take to find their way after a change.
const PATIENCE: Duration = Duration::from_secs(60);

/// A DaemonSet whose pods only exist, one on each node.
const PODS: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: show}
spec:
  selector: {matchLabels: {app: show}}
  template:
    metadata: {labels: {app: show}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - {name: main, image: "registry.k8s.io/pause:3.10"}
"#;

/// Starts a pod on every node and waits until all run.
pub fn start_pods(cluster: &Cluster) -> Result<()> {
    cluster.apply(PODS)?;
    wait::until("a pod runs on every node", PATIENCE, || {
        let pods = cluster.running_pods()?;
        let shown = pods.iter().filter(|pod| pod.name.starts_with("default/show-"));
        Ok(shown.filter(|pod| !pod.addresses.is_empty()).count() == cluster.nodes().len())
    })
}

/// Waits until each of `pods` reaches each other one, and every node and the host outside reach all of them; returns
/// the routers between as a table.
///
/// # Errors
/// Names the ways that are still closed.
pub fn until_reached(cluster: &Cluster, pods: &[LivingPod]) -> Result<String> {
    let mut starts: Vec<(String, String)> = Vec::new();
    for node in cluster.nodes() {
        starts.push((node.name(), node.netns()));
    }
    if cluster.state.options.network == Network::Ptp || cluster.router().established()? > 0 {
        starts.push(("outside".to_owned(), cluster.netns("outside")));
    }
    let mut closed = Vec::new();
    let mut table = String::new();
    let outcome = wait::until("every pod is reached", PATIENCE, || {
        closed.clear();
        table.clear();
        for (name, netns) in &starts {
            let hops =
                targets(pods).map(|address| probe::ping(netns, address)).collect::<Result<Vec<_>>>()?;
            row(&mut table, &mut closed, name, pods, &hops);
        }
        for from in pods {
            let hops =
                targets(pods).map(|address| ping_from(cluster, from, address)).collect::<Result<Vec<_>>>()?;
            row(&mut table, &mut closed, &from.name, pods, &hops);
        }
        Ok(closed.is_empty())
    });
    outcome.with_context(|| format!("not reached: {closed:?}\n{table}"))?;
    Ok(table)
}

fn targets(pods: &[LivingPod]) -> impl Iterator<Item = IpAddr> + '_ {
    pods.iter().flat_map(|pod| pod.addresses.iter().copied())
}

/// One echo request from inside a pod.
pub fn ping_from(cluster: &Cluster, pod: &LivingPod, address: IpAddr) -> Result<probe::Hops> {
    let output = cluster
        .pod_command(&pod.name, "ping")?
        .args(["-n", "-c", "1", "-W", "1", &address.to_string()])
        .output()
        .context("cannot start ping")?;
    Ok(probe::hops(&String::from_utf8_lossy(&output.stdout)))
}

fn row(table: &mut String, closed: &mut Vec<String>, from: &str, pods: &[LivingPod], hops: &[probe::Hops]) {
    let _ = write!(table, "{from:<28}");
    for (address, hops) in targets(pods).zip(hops) {
        match hops {
            Some(hops) => {
                let _ = write!(table, " {address}: {hops}");
            }
            None => closed.push(format!("{from} to {address}")),
        }
    }
    table.push('\n');
}

/// The tables, then the proof; returns the number of proofs that failed.
pub fn all(cluster: &Cluster) -> Result<usize> {
    let mut kinds = vec!["nodes", "pods"];
    if cluster.state.options.network == Network::Manx {
        kinds.extend(["ippools", "ipblocks", "nodenetworks", "bgppeers"]);
    }
    for kind in kinds {
        println!("\n$ kubectl get {kind} -A -o wide");
        print!("{}", cluster.kubectl(&["get", kind, "-A", "-o", "wide"])?);
    }
    println!("\n== the router's sessions and routes\n{}", cluster.router().show()?);
    let pods = cluster.running_pods()?;
    ensure!(!pods.is_empty(), "no pod with a network of its own runs");
    println!("== every pod, every node and the host outside reach every pod: routers between them");
    match until_reached(cluster, &pods) {
        Ok(table) => {
            println!("{table}ok: {} pods", pods.len());
            Ok(0)
        }
        Err(error) => {
            println!("FAILED: {error:#}");
            Ok(1)
        }
    }
}

/// The resident memory of every component, in bytes, by name.
pub fn memory(cluster: &Cluster) -> Result<Vec<(String, u64)>> {
    let control_plane = cluster.control_plane();
    let mut all = Vec::new();
    for daemon in [
        control_plane.etcd(),
        control_plane.apiserver(),
        control_plane.controller_manager(),
        control_plane.scheduler(),
    ] {
        all.push((daemon.name.clone(), daemon.memory()?));
    }
    for node in cluster.nodes() {
        for daemon in [node.containerd(), node.kubelet(), node.proxy()] {
            if daemon.is_alive() {
                all.push((format!("{} {}", node.name(), daemon.name), daemon.memory()?));
            }
        }
    }
    Ok(all)
}
