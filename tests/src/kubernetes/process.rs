//! Programs in the background: each with a log and a process id in files, so that a later command finds them.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::lab::process::is_alive;
use crate::lab::wait;

/// How much of a log an error shows.
const TAIL: usize = 25;

/// A program that runs in the background, or did.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// What it is called: the stem of its files.
    pub name: String,
    /// The folder of its log and process id.
    pub dir: PathBuf,
}

impl Daemon {
    /// The daemon `name` with its files in `dir`.
    pub fn new(name: &str, dir: impl Into<PathBuf>) -> Self {
        Self { name: name.to_owned(), dir: dir.into() }
    }

    /// The file with what it prints.
    pub fn log(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.name))
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join(format!("{}.pid", self.name))
    }

    /// Starts `command`, which must become the daemon itself (by `exec`), in a session of its own.
    pub fn start(&self, command: &Command) -> Result<()> {
        ensure!(!self.is_alive(), "{} runs already", self.name);
        std::fs::create_dir_all(&self.dir)?;
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut wrapped = Command::new("setsid");
        wrapped.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(key, value),
                None => wrapped.env_remove(key),
            };
        }
        wrapped.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = wrapped.spawn().with_context(|| format!("cannot start {}", self.name))?;
        std::fs::write(self.pid_file(), child.id().to_string())?;
        // Nobody waits for a daemon of a cluster that stays up; one of a test is reaped here.
        std::thread::spawn(move || child.wait());
        Ok(())
    }

    /// Its process id, when it runs.
    pub fn pid(&self) -> Option<i32> {
        let pid: i32 = std::fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        is_alive(pid).then_some(pid)
    }

    /// Whether it runs.
    pub fn is_alive(&self) -> bool {
        self.pid().is_some()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.name))?;
        signal::kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Ends it: SIGTERM, and SIGKILL when it takes longer than `patience`. It may have ended before.
    pub fn stop(&self, patience: Duration) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        // It may end in this very moment.
        let _ = signal::kill(Pid::from_raw(pid), Signal::SIGTERM);
        if wait::until("it ends", patience, || Ok(!is_alive(pid))).is_err() {
            let _ = signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
            wait::until(&format!("{} ends", self.name), Duration::from_secs(5), || Ok(!is_alive(pid)))?;
        }
        Ok(())
    }

    /// Waits until `condition` holds.
    ///
    /// # Errors
    /// With the end of its log, when it ended before or `limit` is over.
    pub fn wait(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let state = condition();
            if matches!(state, Ok(true)) {
                return Ok(());
            }
            let late = Instant::now() >= end;
            if late || !self.is_alive() {
                let how = if late { "is late" } else { "ended" };
                let why = state.err().map(|error| format!("{error:#}")).unwrap_or_default();
                bail!(
                    "waited until {what}, but {} {how}: {why}\nthe end of {}:\n{}",
                    self.name,
                    self.log().display(),
                    self.tail()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The last lines of its log.
    pub fn tail(&self) -> String {
        let text = std::fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    /// Its resident memory in bytes.
    pub fn memory(&self) -> Result<u64> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.name))?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(script: &str) -> (tempfile::TempDir, Daemon) {
        let dir = tempfile::tempdir().expect("a folder");
        let daemon = Daemon::new("sleeper", dir.path());
        daemon.start(Command::new("sh").args(["-c", script])).expect("started");
        (dir, daemon)
    }

    #[test]
    fn a_daemon_that_ends_before_it_is_ready_is_an_error_with_the_end_of_its_log() {
        let (_dir, daemon) = daemon("echo no port is free; exit 1");
        let limit = Duration::from_secs(20);
        let error = daemon.wait("it answers", limit, || Ok(false)).expect_err("it ended");
        assert!(
            error.to_string().contains("sleeper ended") && error.to_string().contains("no port is free"),
            "{error}"
        );
    }

    #[test]
    fn a_daemon_that_ignores_sigterm_is_killed_when_patience_is_over() {
        let (dir, daemon) = daemon("trap '' TERM; echo ready; while :; do sleep 0.05; done");
        daemon
            .wait("it prints", Duration::from_secs(20), || Ok(daemon.tail() == "ready"))
            .expect("it prints");
        let again = Daemon::new("sleeper", dir.path());
        assert!(again.start(&Command::new("true")).is_err(), "it runs already");
        again.stop(Duration::from_millis(200)).expect("ended");
        assert!(!daemon.is_alive());
    }
}
