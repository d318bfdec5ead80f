//! The node's run directory: the IPAM record, the lock that keeps a second agent away, tombstones.
//!
//! The directory lies on tmpfs, so that it dies with the pods at a reboot. Nothing here is synced
//! to a disk: the page cache outlives the process, and nothing on tmpfs outlives the machine.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};

/// The most that is read of a record; one that grew beyond it is refused rather than believed.
pub(crate) const RECORD_LIMIT: u64 = 64 << 20;

/// The run directory, held by this process alone as long as the value lives.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl RunDir {
    /// Creates the directory (mode 0700) where it is missing and takes its lock.
    ///
    /// # Errors
    /// When the directory cannot be made, or another agent holds the lock.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
        std::fs::set_permissions(path, Permissions::from_mode(0o700))
            .with_context(|| format!("setting the mode of {}", path.display()))?;
        let lock_path = path.join("agent.lock");
        let file = private_file()
            .write(true)
            .truncate(false)
            .open(&lock_path)
            .with_context(|| format!("opening {}", lock_path.display()))?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => bail!(
                "another manx-agent runs on this node and holds {}: stop it first, or give this one its own --run-dir",
                lock_path.display()
            ),
            Err((_, error)) => return Err(error).with_context(|| format!("locking {}", lock_path.display())),
        };
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The path of the allocation socket.
    pub fn socket(&self) -> PathBuf {
        manx_cni::rpc::socket_path(&self.path)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The copy of what the API server said last.
    pub fn cluster_copy(&self) -> PathBuf {
        self.path.join("cluster.json")
    }

    /// The copy of what it said of this node's pods.
    pub fn pods_copy(&self) -> PathBuf {
        self.path.join("pods.json")
    }

    /// Reads the IPAM record; empty when there is none.
    ///
    /// # Errors
    /// When the file is there and cannot be read, or is larger than any real record.
    pub fn read_record(&self) -> anyhow::Result<Vec<u8>> {
        let path = self.record();
        let bytes =
            read_bounded(&path, RECORD_LIMIT).with_context(|| format!("reading {}", path.display()))?;
        Ok(bytes.unwrap_or_default())
    }

    /// Opens the record for appending.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open_record(&self) -> anyhow::Result<Record> {
        Record::open(self.record())
    }

    fn record(&self) -> PathBuf {
        self.path.join("endpoints")
    }
}

/// The open IPAM record.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    file: File,
}

impl Record {
    fn open(path: PathBuf) -> anyhow::Result<Self> {
        let file =
            private_file().append(true).open(&path).with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { path, file })
    }

    /// Adds bytes at the end; after it returns they survive this process.
    ///
    /// # Errors
    /// When the file system refuses, for one because it is full. What was written of `bytes` is cut
    /// off again, so that the next line does not run into half a line.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.file.metadata()?.len();
        self.file.write_all(bytes).inspect_err(|_| {
            if let Err(error) = self.file.set_len(end) {
                tracing::error!(%error, path = %self.path.display(), "half a line stays in the record: it will be left out at the next start");
            }
        })
    }

    /// Replaces the whole record at once: readers see the old or the new one, never a part.
    ///
    /// # Errors
    /// When the file system refuses; the old record is then still in place.
    pub fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        write_whole(&self.path, bytes)?;
        self.file = private_file().append(true).open(&self.path)?;
        Ok(())
    }
}

/// Writes a file so that readers see the old or the new content, never a part.
///
/// # Errors
/// When the file system refuses; the old content is then still in place, and nothing of the new.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = private_file().write(true).truncate(true).open(&fresh)?;
    let written = file.write_all(bytes).and_then(|()| std::fs::rename(&fresh, path));
    // What may have failed for want of room must not take more of it.
    written.inspect_err(|_| drop(std::fs::remove_file(&fresh)))
}

/// Reads a file of at most `limit` octets; `None` when there is none.
///
/// # Errors
/// When it cannot be read or is larger than `limit`.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if size > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("{size} octets are more than the {limit} that are believable"),
        ));
    }
    std::fs::read(path).map(Some)
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_on_the_same_run_directory_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = RunDir::open(dir.path()).expect("the first holds the lock");
        let error = RunDir::open(dir.path()).expect_err("the second is refused");
        assert!(error.to_string().contains("another manx-agent runs on this node"), "{error}");
        drop(first);
        RunDir::open(dir.path()).expect("free again");
    }

    #[test]
    fn what_was_appended_is_read_back_after_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let run = RunDir::open(dir.path()).expect("opened");
        let mut record = run.open_record().expect("a record");
        record.append(b"one\n").expect("written");
        record.append(b"two\n").expect("written");
        assert_eq!(run.read_record().expect("read"), b"one\ntwo\n");
    }

    #[test]
    fn what_could_not_be_written_whole_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("copy.json");
        // A directory with something in it cannot be replaced.
        std::fs::create_dir_all(path.join("within")).expect("made");
        write_whole(&path, b"{}").expect_err("it is a directory");
        let left: Vec<_> = std::fs::read_dir(dir.path())
            .expect("read")
            .map(|entry| entry.expect("read").file_name())
            .collect();
        assert_eq!(left, ["copy.json"]);
    }

    #[test]
    fn appending_goes_on_behind_a_replaced_record() {
        let dir = tempfile::tempdir().expect("a directory");
        let run = RunDir::open(dir.path()).expect("opened");
        let mut record = run.open_record().expect("a record");
        record.append(b"old\n").expect("written");
        record.replace(b"new\n").expect("replaced");
        record.append(b"more\n").expect("written");
        assert_eq!(run.read_record().expect("read"), b"new\nmore\n");
    }

    #[test]
    fn the_run_directory_is_closed_to_others() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("run");
        let run = RunDir::open(&path).expect("opened");
        run.open_record().expect("a record");
        let mode = |path: &Path| std::fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join("endpoints")), 0o600);
    }
}
