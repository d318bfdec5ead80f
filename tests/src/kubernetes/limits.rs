//! What a machine has only so much of, and clusters use up: better said before than by a kubelet that ends.

use std::path::Path;

use anyhow::{Result, ensure};

const INSTANCES: &str = "/proc/sys/fs/inotify/max_user_instances";
/// Watchers of files (inotify instances) that a control plane has.
const OF_CONTROL_PLANE: usize = 8;
/// Those of a node: its kubelet seven, containerd, kube-proxy, and the agent two.
const OF_NODE: usize = 11;

/// Whether a cluster of `nodes` nodes fits beside what runs.
///
/// # Errors
/// Names the limit, and the clusters that are up.
pub(super) fn check(nodes: usize) -> Result<()> {
    let limit: usize = std::fs::read_to_string(INSTANCES)?.trim().parse()?;
    let (used, wanted) = (watchers(Path::new("/proc")), OF_CONTROL_PLANE + nodes * OF_NODE);
    ensure!(
        used + wanted <= limit,
        "a cluster of {nodes} nodes watches files in {wanted} places, {used} of {limit} are taken \
         (fs.inotify.max_user_instances), and these clusters are up: {}. Take one down \
         (`cargo xtask lab --kubernetes --lab NAME down`) or raise the limit",
        super::names().join(", ")
    );
    Ok(())
}

/// How many inotify instances the processes of this machine have open.
fn watchers(proc: &Path) -> usize {
    let processes = std::fs::read_dir(proc).into_iter().flatten().flatten();
    let files = processes.filter_map(|process| std::fs::read_dir(process.path().join("fd")).ok());
    let links = files.flatten().flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
    links.filter(|link| link.as_os_str() == "anon_inode:inotify").count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_watchers_are_counted_and_only_files_of_processes() {
        let proc = tempfile::tempdir().expect("a folder");
        for (process, links) in
            [("1", &["anon_inode:inotify", "socket:[1]"][..]), ("2", &["anon_inode:inotify"]), ("net", &[])]
        {
            let fd = proc.path().join(process).join("fd");
            std::fs::create_dir_all(&fd).expect("made");
            for (number, target) in links.iter().enumerate() {
                std::os::unix::fs::symlink(target, fd.join(number.to_string())).expect("linked");
            }
        }
        assert_eq!(watchers(proc.path()), 2);
    }
}
