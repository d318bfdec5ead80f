//! Waiting for signals, also as the first process of a namespace, to which signals that nobody waits for never come.

use std::io;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// Waits until SIGTERM or SIGINT, and reaps every child that is left to this process meanwhile.
pub(crate) fn pause() -> io::Result<()> {
    let signals = block(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD])?;
    while signals.wait()? == Signal::SIGCHLD {
        reap();
    }
    Ok(())
}

/// A channel that gets something with the first SIGTERM or SIGINT. To be called before other threads begin.
pub(crate) fn termination() -> io::Result<Receiver<()>> {
    let signals = block(&[Signal::SIGTERM, Signal::SIGINT])?;
    let (stop, stopped) = mpsc::sync_channel(1);
    thread::spawn(move || {
        if signals.wait().is_ok() {
            // Nobody listens any more when the program is about to end anyway.
            stop.send(()).ok();
        }
    });
    Ok(stopped)
}

fn block(signals: &[Signal]) -> io::Result<SigSet> {
    let set: SigSet = signals.iter().copied().collect();
    set.thread_block()?;
    Ok(set)
}

fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}
