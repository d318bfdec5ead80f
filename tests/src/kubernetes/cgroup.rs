//! The control groups of a node: below one folder of its own in every hierarchy, so that kubelets of several nodes on
//! one machine leave each other's alone, and everything that a node's pods run can be found and ended.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::lab::wait;

const MOUNT: &str = "/sys/fs/cgroup";
/// What keeps apart the groups of labs from whatever else the machine runs.
const PREFIX: &str = "manx-";

/// The name of the group of `node` in the cluster `cluster`; as `/NAME` it is the kubelet's `cgroupRoot`.
pub fn name(cluster: &str, node: &str) -> String {
    format!("{PREFIX}{cluster}-{node}")
}

/// The roots of the hierarchies: one with cgroup v2, one per controller with v1.
fn hierarchies() -> Vec<PathBuf> {
    let mount = Path::new(MOUNT);
    if mount.join("cgroup.controllers").exists() {
        return vec![mount.to_owned()];
    }
    let Ok(entries) = std::fs::read_dir(mount) else { return Vec::new() };
    let mut roots: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir() && !path.is_symlink() && path.join("cgroup.procs").exists())
        .collect();
    roots.sort();
    roots
}

/// Makes the group `name` in every hierarchy.
pub fn create(name: &str) -> Result<()> {
    for root in hierarchies() {
        let group = root.join(name);
        std::fs::create_dir_all(&group).with_context(|| format!("cannot make {}", group.display()))?;
        // A v1 cpuset starts without processors or memory and takes no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if root.ends_with("cpuset") {
                std::fs::write(group.join(file), std::fs::read(root.join(file))?)?;
            }
        }
    }
    Ok(())
}

/// The groups of the cluster `cluster`, by name.
pub fn list(cluster: &str) -> Vec<String> {
    let prefix = format!("{PREFIX}{cluster}-node");
    let mut names: Vec<String> = hierarchies()
        .iter()
        .filter_map(|root| std::fs::read_dir(root).ok())
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Every folder at and below `folder`, the deepest first.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.extend(folders(&entry.path()));
        }
    }
    all.push(folder.to_owned());
    all
}

fn processes_in(folder: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// The processes of the group `name` and of all below it.
pub fn processes(name: &str) -> Vec<i32> {
    let mut pids: Vec<i32> = hierarchies()
        .iter()
        .flat_map(|root| folders(&root.join(name)))
        .flat_map(|folder| processes_in(&folder))
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// A process of the pod `uid` on the node with the group `name`.
pub fn process_of_pod(name: &str, uid: &str) -> Option<i32> {
    let pod = format!("pod{uid}");
    let groups = hierarchies().into_iter().flat_map(|root| folders(&root.join(name)));
    groups
        .filter(|folder| folder.components().any(|part| part.as_os_str() == pod.as_str()))
        .find_map(|folder| processes_in(&folder).into_iter().find(|pid| crate::lab::process::is_alive(*pid)))
}

/// Kills every process of the group `name` and of all below it.
pub fn kill(name: &str) -> Result<()> {
    wait::until(&format!("the processes of {name} end"), Duration::from_secs(10), || {
        let pids = processes(name);
        for pid in &pids {
            // One that ended meanwhile is what we want.
            let _ = signal::kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        Ok(pids.is_empty())
    })
}

/// Removes the group `name`, which has no processes any more, from every hierarchy.
pub fn remove(name: &str) -> Result<()> {
    wait::until(&format!("the control groups {name} are gone"), Duration::from_secs(10), || {
        let mut gone = true;
        for folder in hierarchies().iter().flat_map(|root| folders(&root.join(name))) {
            if folder.exists() {
                gone &= std::fs::remove_dir(&folder).is_ok();
            }
        }
        Ok(gone)
    })
}
