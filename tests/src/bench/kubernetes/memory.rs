//! What every component of a cluster has in memory.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::kubernetes::{Cluster, Node, cgroup};

/// Prints memory by component: the mean of its processes, resident (RSS) and as its share of what processes share (PSS).
pub(super) fn print(cluster: &Cluster) -> Result<()> {
    println!("  {:<28} {:>9} {:>10} {:>10}", "component", "processes", "RSS MiB", "PSS MiB");
    for (name, pids) in components(cluster)? {
        // A process may have ended since it was found.
        let figures: Vec<(f64, f64)> = pids.iter().filter_map(|pid| figures(*pid).ok()).collect();
        let mean =
            |pick: fn(&(f64, f64)) -> f64| figures.iter().map(pick).sum::<f64>() / figures.len() as f64;
        println!("  {name:<28} {:>9} {:>10.1} {:>10.1}", figures.len(), mean(|f| f.0), mean(|f| f.1));
    }
    Ok(())
}

fn components(cluster: &Cluster) -> Result<BTreeMap<String, Vec<i32>>> {
    let mut all: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    let control_plane = cluster.control_plane();
    for daemon in [
        control_plane.etcd(),
        control_plane.apiserver(),
        control_plane.controller_manager(),
        control_plane.scheduler(),
    ] {
        all.entry(daemon.name.clone()).or_default().extend(daemon.pid());
    }
    for node in cluster.nodes() {
        for daemon in [node.containerd(), node.kubelet(), node.proxy()] {
            all.entry(daemon.name.clone()).or_default().extend(daemon.pid());
        }
        for pid in cgroup::processes(&node.cgroup()) {
            let name = name(pid);
            if name.starts_with("manx-agent") || name.starts_with("manx-control") {
                all.entry(name).or_default().push(pid);
            }
        }
        all.entry("containerd-shim".to_owned()).or_default().extend(shims(node)?);
    }
    Ok(all)
}

fn name(pid: i32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    text.trim().to_owned()
}

/// The shims of a node: those in its network namespace.
fn shims(node: Node<'_>) -> Result<Vec<i32>> {
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let own: Option<PathBuf> = namespace(node.containerd().pid().context("containerd does not run")?);
    let pids = std::fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(pids.filter(|pid| name(*pid).starts_with("containerd-shim") && namespace(*pid) == own).collect())
}

/// RSS and PSS of a process in MiB.
fn figures(pid: i32) -> Result<(f64, f64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let figure = |key: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).context("no such figure")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib / 1024.0)
    };
    Ok((figure("Rss:")?, figure("Pss:")?))
}
