//! `setup`: what the lab and the tests need of the machine.
//!
//! Looks for programs rather than packages, so that it costs nothing when all is there and accepts programs from
//! elsewhere. Installs with apt-get, and keeps the packages from starting their daemons: a BIRD or an FRR in the
//! host's own namespace would write routes where nobody asked for them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::chore::run;

/// Programs (a name to look for, or an absolute path), each with the Debian package that has it.
pub(crate) type Needs = [(&'static str, &'static str)];

const NEEDS: [(&str, &str); 24] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("bird", "bird2"),
    ("/usr/lib/frr/bgpd", "frr"),
    ("jq", "jq"),
    ("tcpdump", "tcpdump"),
    ("ping", "iputils-ping"),
    ("kubectl", "kubernetes-client"),
    ("/usr/lib/cni/host-local", "containernetworking-plugins"),
    ("conntrack", "conntrack"),
    ("iptables", "iptables"),
    ("strace", "strace"),
    ("sysctl", "procps"),
    ("ps", "procps"),
    ("traceroute", "traceroute"),
    ("gobgpd", "gobgpd"),
    ("gobgp", "gobgpd"),
    ("/usr/sbin/bgpd", "openbgpd"),
    ("exabgp", "exabgp"),
    ("bgpdump", "bgpdump"),
    ("dpkg-deb", "dpkg"),
    ("chromium", "chromium"),
    ("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf", "fonts-dejavu-core"),
    ("script", "bsdutils"),
];

/// What clusters of real kubelets and the checks of alert rules need besides.
const KUBERNETES_NEEDS: [(&str, &str); 8] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("etcd", "etcd-server"),
    ("/bin/busybox", "busybox-static"),
    ("musl-gcc", "musl-tools"),
    ("prometheus", "prometheus"),
    ("promtool", "prometheus"),
];

/// Where BIRD 1.6 is unpacked: its package conflicts with that of BIRD 2, so it is never installed.
/// `tests/src/peers/bird.rs` looks for it here.
const BIRD1: &str = "/var/cache/manx/bird1";

/// Packages whose installation would start a daemon.
const DAEMONS: [&str; 8] =
    ["bird2", "frr", "gobgpd", "openbgpd", "exabgp", "containerd", "etcd-server", "prometheus"];

const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_BEFORE: &str = "/usr/sbin/policy-rc.d.before-manx";
const POLICY_MARK: &str = "cargo xtask setup";

/// Installs the packages given as arguments; whatever happens, the policy of before is restored at the end.
const INSTALL: &str = r#"
policy=/usr/sbin/policy-rc.d
restore() {
    rm -f "$policy"
    if [ -e "$policy.before-manx" ]; then mv "$policy.before-manx" "$policy"; fi
}
if [ -e "$policy" ]; then mv "$policy" "$policy.before-manx"; fi
trap restore EXIT
trap 'exit 130' INT TERM HUP
printf '#!/bin/sh\n# cargo xtask setup: start no daemon while it installs\nexit 101\n' >"$policy"
chmod 755 "$policy"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq -o DPkg::Lock::Timeout=300 update
apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install --no-install-recommends "$@"
"#;

/// Downloads BIRD 1.6 and unpacks it into the folder given as argument, which appears only once it is whole.
const UNPACK: &str = r#"
new=$1.new
rm -rf "$new"
mkdir -p "$new"
trap 'rm -rf "$new"' EXIT
cd "$new"
fetch="apt-get -qq -o APT::Sandbox::User=root download bird"
$fetch || { apt-get -qq update && $fetch; }
dpkg-deb -x bird_*.deb .
rm bird_*.deb
chmod 755 .
mv "$new" "$1"
"#;

/// Names what is missing and installs it.
///
/// # Errors
/// When something is missing and cannot be installed here: not Debian, not root, no such package.
pub(crate) fn setup() -> anyhow::Result<()> {
    install(&NEEDS)?;
    if !Path::new(BIRD1).join("usr/sbin/bird").is_file() {
        unpack_bird1()?;
    }
    Ok(())
}

/// Likewise for what real clusters need besides.
///
/// # Errors
/// As of [`setup`].
pub(crate) fn kubernetes() -> anyhow::Result<()> {
    install(&KUBERNETES_NEEDS)
}

/// Names which of these programs are missing and installs the packages that have them.
///
/// # Errors
/// As of [`setup`].
pub(crate) fn install(needs: &Needs) -> anyhow::Result<()> {
    restore_policy(Path::new(POLICY), Path::new(POLICY_BEFORE))?;
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    println!("setup: missing packages: {list}");
    anyhow::ensure!(
        Path::new("/etc/debian_version").exists(),
        "this is not Debian: install what these packages hold ({list}), then try again"
    );
    anyhow::ensure!(is_root(), "not root: run  sudo cargo xtask setup  (the lab needs root as well)");
    let daemons: Vec<&str> = missing.iter().copied().filter(|package| DAEMONS.contains(package)).collect();
    if !daemons.is_empty() {
        println!("setup: installing with apt-get; {POLICY} keeps {} from starting here", daemons.join(", "));
    }
    run(Command::new("sh").args(["-euc", INSTALL, "setup"]).args(&missing)).context("apt-get failed")?;
    let missing = self::missing(needs);
    anyhow::ensure!(missing.is_empty(), "still missing after apt-get: {}", missing.join(" "));
    println!("setup: done");
    Ok(())
}

fn unpack_bird1() -> anyhow::Result<()> {
    println!("setup: unpacking BIRD 1.6 into {BIRD1} (its package conflicts with BIRD 2)");
    anyhow::ensure!(
        Path::new("/etc/debian_version").exists(),
        "this is not Debian: put BIRD 1.6 at {BIRD1}/usr/sbin/bird and birdc beside it, then try again"
    );
    anyhow::ensure!(is_root(), "not root: run  sudo cargo xtask setup");
    run(Command::new("sh").args(["-euc", UNPACK, "setup", BIRD1])).context("BIRD 1.6 cannot be had")
}

/// Where a program is, if it is on this machine.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    folders().iter().map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Packages whose program is not on this machine, each once.
fn missing(needs: &Needs) -> Vec<&'static str> {
    missing_in(&folders(), needs)
}

fn folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders
}

fn missing_in(folders: &[PathBuf], needs: &Needs) -> Vec<&'static str> {
    let mut packages: Vec<&str> = needs
        .iter()
        .filter(|(program, _)| !folders.iter().any(|folder| folder.join(program).is_file()))
        .map(|&(_, package)| package)
        .collect();
    packages.dedup();
    packages
}

/// Undoes what an earlier setup left when it was killed between its first and its last step.
fn restore_policy(policy: &Path, before: &Path) -> anyhow::Result<()> {
    let ours = fs::read_to_string(policy).is_ok_and(|text| text.contains(POLICY_MARK));
    if ours {
        println!("setup: removing {}, left by a setup that was killed", policy.display());
        fs::remove_file(policy)?;
    }
    if before.exists() && !policy.exists() {
        fs::rename(before, policy)?;
    }
    Ok(())
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_named_once_though_two_of_its_programs_are_missing() {
        let packages = missing_in(&[PathBuf::from("/nonexistent")], &NEEDS);
        assert_eq!(packages.iter().filter(|package| **package == "procps").count(), 1);
        assert!(packages.contains(&"bird2"));
    }

    #[test]
    fn what_a_killed_setup_left_is_undone() {
        let folder = std::env::temp_dir().join(format!("manx-xtask-policy-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let (policy, before) = (folder.join("policy"), folder.join("before"));
        fs::write(&policy, format!("# {POLICY_MARK}")).expect("a file");
        fs::write(&before, "the owner's").expect("a file");

        restore_policy(&policy, &before).expect("restored");

        assert_eq!(fs::read_to_string(&policy).expect("the policy"), "the owner's");
        assert!(!before.exists());
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn a_policy_of_the_owner_stays() {
        let folder = std::env::temp_dir().join(format!("manx-xtask-owner-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let policy = folder.join("policy");
        fs::write(&policy, "exit 101").expect("a file");

        restore_policy(&policy, &folder.join("before")).expect("nothing to do");

        assert!(policy.exists());
        fs::remove_dir_all(&folder).expect("removed");
    }
}
