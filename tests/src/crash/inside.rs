//! Namespaces around the whole run: whatever it starts, makes or mounts ends with it, also when it is killed.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

/// Set inside.
const MARK: &str = "MANX_CRASH_INSIDE";
/// The longest that a run may take, as `timeout` wants it; the whole grid takes some minutes.
const BOUND: &str = "3600";

/// Whether this process is the one inside.
pub fn is_inside() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Runs this program again with the same arguments in network, mount and process namespaces of its own. The first
/// process in there is a shell, since somebody has to take leave of orphans.
pub fn enter() -> Result<ExitCode> {
    let own = std::env::current_exe().context("this program has no path")?;
    // All of it ends when this process does, also when that is killed.
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "TERM", "timeout", "--kill-after=5", BOUND])
        .args(["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc"])
        .args(["--kill-child=SIGKILL", "sh", "-c", r#""$@" & wait $!"#, "crash"])
        .arg(own)
        .args(std::env::args_os().skip(1))
        .env(MARK, "1")
        .status()
        .context("setpriv (package util-linux) does not start")?;
    let code = status.code().or_else(|| status.signal()).and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// An empty `/run` of our own, with room for named network namespaces.
pub fn prepare() -> Result<()> {
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>)
        .context("mounting over /run")?;
    fs::create_dir("/run/netns").context("making /run/netns")
}
