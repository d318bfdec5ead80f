//! Network namespaces by name: making them, wiring them, running programs and closures inside.
//!
//! Everything that a lab makes carries the lab's name as a prefix, so that a later run finds and removes
//! what a killed one left behind.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

/// Where iproute2 keeps the namespaces that have a name.
const NETNS_DIR: &str = "/run/netns";

/// The path of the namespace `name`, as `CNI_NETNS` wants it.
pub fn path(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// The names of all namespaces that start with `prefix`, sorted.
pub fn list(prefix: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(NETNS_DIR) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    names
}

/// Makes the namespace `name` with its loopback up.
pub fn add(name: &str) -> Result<()> {
    ip(&["netns", "add", name])?;
    ip(&["-n", name, "link", "set", "lo", "up"])
}

/// Ends every process inside `name` and removes the namespace; what is already gone is fine.
pub fn delete(name: &str) -> Result<()> {
    kill_all(name)?;
    if path(name).exists() {
        ip(&["netns", "del", name])?;
    }
    Ok(())
}

/// The processes inside `name`. Looked up here, as `ip netns pids` may end early when one ends meanwhile.
fn processes(name: &str) -> Vec<i32> {
    let identity = |path: PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let Some(wanted) = identity(path(name)) else { return Vec::new() };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let inside = entries.filter(|entry| identity(entry.path().join("ns/net")) == Some(wanted));
    inside.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Sends SIGKILL to the processes inside `name` until none is left.
fn kill_all(name: &str) -> Result<()> {
    for _ in 0..100 {
        let pids = processes(name);
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids {
            // A process that ended meanwhile is what we want.
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    bail!("processes in the namespace {name} do not end")
}

/// Runs `ip` with `args` and reports its own words when it fails.
pub fn ip(args: &[&str]) -> Result<()> {
    run(Command::new("ip").args(args)).map(drop)
}

/// A command that will run inside the namespace `name`.
pub fn command(name: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", name]).arg(program);
    command
}

/// Runs a command to its end and returns its output; a failure carries what it said on standard error.
pub fn run(command: &mut Command) -> Result<Output> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed ({}): {}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(output)
}

/// Runs a command inside `name` and returns its standard output as text.
pub fn text(name: &str, argv: &[&str]) -> Result<String> {
    let (program, args) = argv.split_first().context("an empty command")?;
    let output = run(command(name, program).args(args))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command inside `name` and parses its standard output as JSON; no output is an empty list.
pub fn json(name: &str, argv: &[&str]) -> Result<serde_json::Value> {
    let text = text(name, argv)?;
    if text.trim().is_empty() {
        return Ok(serde_json::Value::Array(Vec::new()));
    }
    serde_json::from_str(&text).with_context(|| format!("{argv:?} in {name} printed no JSON: {text}"))
}

/// Runs `body` on a thread of its own inside the namespace `name`; sockets that it opens belong there.
pub fn enter<T: Send>(name: &str, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    enter_at(&path(name), body)
}

/// [`enter`] by a file of the namespace, such as `/proc/PID/ns/net`.
pub fn enter_at<T: Send>(path: &Path, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file = File::open(path).with_context(|| format!("no namespace {}", path.display()))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
            body()
        });
        thread.join().map_err(|_| anyhow::anyhow!("the thread inside {} panicked", path.display()))?
    })
}

/// One end of a wire: namespace, interface name, addresses with prefix length.
pub struct End<'a> {
    /// The namespace the end lives in.
    pub netns: &'a str,
    /// The interface name inside it.
    pub link: &'a str,
    /// Addresses in CIDR form, either family.
    pub addresses: &'a [String],
}

/// Joins two namespaces by a veth pair, gives both ends their addresses and brings them up.
pub fn wire(a: &End<'_>, b: &End<'_>) -> Result<()> {
    ip(&["link", "add", a.link, "netns", a.netns, "type", "veth", "peer", "name", b.link, "netns", b.netns])?;
    for end in [a, b] {
        for address in end.addresses {
            let mut args = vec!["-n", end.netns, "addr", "add", address, "dev", end.link];
            if address.contains(':') {
                args.push("nodad");
            }
            ip(&args)?;
        }
        ip(&["-n", end.netns, "link", "set", end.link, "up"])?;
    }
    Ok(())
}

/// Sets `net.*` sysctls inside `name`, each as `key=value`.
pub fn sysctl(name: &str, settings: &[&str]) -> Result<()> {
    run(command(name, "sysctl").arg("-qw").args(settings)).map(drop)
}
