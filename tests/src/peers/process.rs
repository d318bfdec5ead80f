//! The processes of one daemon.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::PATIENCE;
use crate::lab::wait;

/// Children in the order of their start; they end with this value.
#[derive(Debug, Default)]
pub(super) struct Processes(Vec<Child>);

impl Processes {
    /// Starts `command` in the foreground with its output appended to `log`.
    pub(super) fn spawn(&mut self, command: &mut Command, log: &Path) -> Result<()> {
        let log = File::options().create(true).append(true).open(log)?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        self.0.push(child.with_context(|| format!("cannot start {command:?}"))?);
        Ok(())
    }

    /// The process ids.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.0.iter().map(Child::id).collect()
    }

    /// Fails once one of them has ended by itself.
    pub(super) fn ensure_alive(&mut self) -> Result<()> {
        for child in &mut self.0 {
            if let Some(status) = child.try_wait()? {
                bail!("process {} ended: {status}", child.id());
            }
        }
        Ok(())
    }

    /// Sends `signal` to each, the last one first, and waits for their ends.
    pub(super) fn end(&mut self, signal: Signal) -> Result<()> {
        for child in self.0.iter_mut().rev() {
            if child.try_wait()?.is_none() {
                kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
            }
        }
        for mut child in self.0.drain(..).rev() {
            let ended = wait::until("a daemon ends", PATIENCE, || Ok(child.try_wait()?.is_some()));
            if ended.is_err() {
                child.kill()?;
                child.wait()?;
                ended?;
            }
        }
        Ok(())
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        if let Err(error) = self.end(Signal::SIGKILL) {
            eprintln!("a daemon could not be ended: {error:#}");
        }
    }
}
