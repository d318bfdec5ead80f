//! What every chore stands on: the workspace's root, and child processes whose failure ends the chore.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::Context as _;

/// The folder of the workspace's `Cargo.toml`.
pub(crate) struct Root(PathBuf);

impl Root {
    /// The workspace that this program was built from.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = here.parent().context("xtask lies in the workspace's folder")?;
        Ok(Self(root.to_owned()))
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A path below it.
    pub(crate) fn join(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// Where cargo puts what it builds.
    pub(crate) fn target(&self) -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.join("target"), |target| self.0.join(target))
    }

    /// A cargo command in this folder. It does not see what cargo has told us of our own package: some build scripts
    /// (that of `ring`) take a change of that for a reason to run again, and half of the workspace follows.
    pub(crate) fn cargo(&self, args: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        for (name, _) in std::env::vars_os() {
            let ours = ["CARGO_PKG_", "CARGO_MANIFEST_"];
            if name.to_str().is_some_and(|name| ours.iter().any(|prefix| name.starts_with(prefix))) {
                command.env_remove(name);
            }
        }
        command.current_dir(&self.0).args(args);
        command
    }
}

/// A child process failed and has said why: nothing more is printed, and its exit status becomes ours.
#[derive(Debug)]
pub(crate) struct Failed(ExitStatus);

impl Failed {
    /// The child's exit status, or 1 after a signal.
    pub(crate) fn code(&self) -> u8 {
        self.0.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Failed {}

/// Runs a child that shares our terminal.
///
/// # Errors
/// When it cannot be started, or [`Failed`] when it exits with anything but 0.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("{:?} does not start", command.get_program()))?;
    if status.success() { Ok(()) } else { Err(Failed(status).into()) }
}

/// Runs a child and returns what it printed.
///
/// # Errors
/// When it cannot be started or exits with anything but 0; what it wrote to standard error is in the message.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{:?} does not start", command.get_program()))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        anyhow::bail!("{:?} failed: {}", command.get_program(), stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
