//! Puts the plugin where the container runtime looks for it.
//!
//! A runtime may start it at any moment, and calls of the version before may be running: so the new file is written
//! under another name, is on the disk before it gets its own, and replaces the old one in one step. Running calls go on
//! with the file that they were started from.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use nix::fcntl::{Flock, FlockArg, OFlag};

use super::options::Install;

/// Who may do what with the plugin.
const MODE: u32 = 0o755;

/// What an installation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installed {
    /// There was no plugin before.
    New,
    /// It replaced another one.
    Replaced,
    /// The very same was there.
    Already,
}

/// Installs the plugin. What an installation that was killed left behind is removed.
///
/// # Errors
/// When the directory or the plugin cannot be used; the message says what to do. What was there before is there still.
pub fn install(options: &Install) -> anyhow::Result<Installed> {
    let (dir, plugin) = (&options.bin_dir, &options.plugin);
    let name = plugin
        .file_name()
        .with_context(|| format!("{} names no file: --plugin takes the path of a file", plugin.display()))?;
    let target = dir.join(name);
    let fresh = dir.join(format!(".{}.new", name.to_string_lossy()));
    let lock = hold(dir)?;
    remove_leftover(&fresh)?;
    let found = compare(plugin, &target)?;
    if found != Installed::Already {
        let bytes = std::fs::read(plugin).with_context(|| format!("reading {}", plugin.display()))?;
        place(&bytes, &fresh, &target, MODE)?;
        lock.sync_all().with_context(|| format!("syncing {}", dir.display()))?;
    }
    match found {
        Installed::Already => tracing::info!(path = %target.display(), "the plugin is there already"),
        Installed::New => tracing::info!(path = %target.display(), "the plugin is installed"),
        Installed::Replaced => tracing::info!(path = %target.display(), "the plugin is replaced"),
    }
    Ok(found)
}

/// Keeps other installations out of the directory until the value is dropped, or this process dies.
fn hold(dir: &Path) -> anyhow::Result<Flock<File>> {
    let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(dir);
    let opened = opened.with_context(|| {
        format!("opening {} (mount the directory of the runtime's plugins there)", dir.display())
    })?;
    Flock::lock(opened, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("locking {}", dir.display()))
}

fn remove_leftover(fresh: &PathBuf) -> anyhow::Result<()> {
    match std::fs::remove_file(fresh) {
        Ok(()) => {
            tracing::info!(path = %fresh.display(), "what an earlier installation left behind is removed")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(explained(error, &format!("removing {}", fresh.display()))),
    }
    Ok(())
}

/// Whether anything has to be done.
fn compare(plugin: &Path, target: &Path) -> anyhow::Result<Installed> {
    let metadata = match std::fs::symlink_metadata(target) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Installed::New),
        Err(error) => return Err(explained(error, &format!("looking at {}", target.display()))),
    };
    ensure!(!metadata.is_dir(), "{} is a directory: remove it, the plugin belongs there", target.display());
    let same = metadata.is_file()
        && metadata.permissions().mode() & 0o7777 == MODE
        && same_bytes(plugin, target)
            .with_context(|| format!("comparing {} with {}", plugin.display(), target.display()))?;
    Ok(if same { Installed::Already } else { Installed::Replaced })
}

fn same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let count = one.read(&mut left)?;
        if count == 0 {
            return Ok(true);
        }
        other.read_exact(&mut right[..count])?;
        if left[..count] != right[..count] {
            return Ok(false);
        }
    }
}

/// Has the names in a directory on the disk.
pub(super) fn sync(dir: &Path) -> anyhow::Result<()> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.with_context(|| format!("syncing {}", dir.display()))
}

/// Writes a file under its temporary name, in the same directory, and renames it.
pub(super) fn place(bytes: &[u8], fresh: &Path, target: &Path, mode: u32) -> anyhow::Result<()> {
    let written = write(bytes, fresh, mode)
        .map_err(|error| explained(error, &format!("writing {}", fresh.display())))
        .and_then(|()| {
            std::fs::rename(fresh, target).map_err(|error| {
                explained(error, &format!("renaming {} to {}", fresh.display(), target.display()))
            })
        });
    // What may have failed for want of room must not take more of it.
    written.inspect_err(|_| drop(std::fs::remove_file(fresh)))
}

/// The file is closed before it gets its name: the kernel starts no program that somebody may still write to.
fn write(bytes: &[u8], fresh: &Path, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(fresh)?;
    file.write_all(bytes)?;
    // Whatever the umask is.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

/// An error of the file system with what to do about it.
pub(super) fn explained(error: io::Error, doing: &str) -> anyhow::Error {
    let advice = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => " (mount it writable: hostPath without readOnly)",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => " (make room on the node)",
        io::ErrorKind::PermissionDenied => " (run as root; SELinux or AppArmor may forbid it too)",
        io::ErrorKind::NotADirectory => " (a file lies where a directory should be)",
        _ => "",
    };
    anyhow::Error::new(error).context(format!("{doing}{advice}"))
}
