//! The namespaces of a node: network, mounts and host name, held open by a process that sleeps.
//!
//! A node sees the machine's files, except for what belongs to a machine of its own: `/etc`, `/opt`, `/var/lib` and
//! `/var/log`, which outlive a reboot, and `/run`, which does not. So every program on it has its default paths, and a
//! DaemonSet's hostPath volumes are per node.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::process::Daemon;
use crate::lab::netns;

/// What a node keeps over a reboot, and where it keeps it below its folder.
const OWN: [(&str, &str); 4] =
    [("etc", "/etc"), ("opt", "/opt"), ("var-lib", "/var/lib"), ("var-log", "/var/log")];
/// Where a kubelet looks for pods that are no objects of the API, on a node.
pub(super) const STATIC_PODS: &str = "/etc/kubernetes/manifests";
/// Folders that have to be there, below the node's folder.
const FOLDERS: [&str; 7] = [
    "opt/cni/bin",
    "var-lib/cni",
    "var-lib/containerd",
    "var-lib/kubelet",
    "var-log/pods",
    "var-log/containers",
    "sys",
];
/// Settings of the whole machine that a kubelet wants changed, and what it wants: it finds them so, in files.
const SETTINGS: [(&str, &str); 3] =
    [("vm/overcommit_memory", "1\n"), ("kernel/panic", "10\n"), ("kernel/panic_on_oops", "1\n")];

/// Makes the files that a node keeps, in `dir`.
pub(super) fn prepare(dir: &Path, node: &str, resolv_conf: &str) -> Result<()> {
    for folder in FOLDERS {
        std::fs::create_dir_all(dir.join(folder))?;
    }
    if !dir.join("etc").exists() {
        netns::run(Command::new("cp").args(["-a", "/etc"]).arg(dir.join("etc")))?;
    }
    std::fs::create_dir_all(dir.join("etc/cni/net.d"))?;
    std::fs::create_dir_all(dir.join("etc/kubernetes/manifests"))?;
    for (file, text) in [("hostname", node), ("resolv.conf", resolv_conf), ("machine-id", &random_id()?)] {
        let path = dir.join("etc").join(file);
        // It may be a link to somewhere that a node does not have.
        let _ = std::fs::remove_file(&path);
        std::fs::write(path, format!("{text}\n"))?;
    }
    Ok(())
}

fn random_id() -> Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().replace('-', ""))
}

/// Makes the namespaces of `node`, whose network namespace is `netns` and whose files are in `dir`, and starts `holder`
/// inside, which holds them open.
pub(super) fn start(holder: &Daemon, netns: &str, node: &str, dir: &Path) -> Result<()> {
    let network = std::fs::File::open(netns::path(netns)).with_context(|| format!("no namespace {netns}"))?;
    // A thread may have namespaces of its own, and what it starts has the same.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(&network, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
                .context("cannot make the node's mount and UTS namespaces")?;
            nix::unistd::sethostname(node)?;
            mounts(dir)?;
            let mut command = Command::new("sleep");
            command.arg("infinity");
            holder.start(&command)
        });
        thread.join().map_err(|_| anyhow::anyhow!("the thread that makes {node} panicked"))?
    })
}

const NONE: Option<&str> = None;

fn bind(from: &Path, to: &str) -> Result<()> {
    mount(Some(from), to, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
        .with_context(|| format!("cannot mount {} at {to}", from.display()))
}

fn mounts(dir: &Path) -> Result<()> {
    // Mounts of the machine come in, none of the node's goes out.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE).context("cannot detach the mounts")?;
    // /sys shows the interfaces of the namespace that mounts it; the control groups have to be carried over.
    let kept = dir.join("sys");
    let kept_text = kept.display().to_string();
    bind(Path::new("/sys/fs/cgroup"), &kept_text)?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), NONE).context("cannot mount /sys")?;
    bind(&kept, "/sys/fs/cgroup")?;
    umount2(&kept, MntFlags::MNT_DETACH)?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .context("cannot mount /run")?;
    for folder in ["/run/netns", "/run/lock", "/run/containerd"] {
        std::fs::create_dir_all(folder)?;
    }
    for (own, place) in OWN {
        bind(&dir.join(own), place)?;
    }
    let settings = dir.join("settings");
    std::fs::create_dir_all(&settings)?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    let boot = [("kernel/random/boot_id", boot.as_str())];
    for (name, value) in SETTINGS.iter().copied().chain(boot) {
        let file: PathBuf = settings.join(name.replace('/', "."));
        std::fs::write(&file, value)?;
        bind(&file, &format!("/proc/sys/{name}"))?;
    }
    // Volumes and the namespaces of pods go to the pods that ask for them.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SHARED, NONE).context("cannot share the mounts")
}
