//! Network namespaces: opening a path that claims to be one without being led astray, and doing something inside.
//!
//! A path from a container runtime may be anything: a FIFO that never opens, a plain file that a reboot left
//! behind, the host's own namespace. [`NetNs::open`] touches nothing before it knows what it has. A netlink socket
//! stays in the namespace in which it was opened, so most callers enter for one system call:
//! `netns.within(Socket::route)`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

/// The namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// An open network namespace. It lives at least as long as this value.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
    path: PathBuf,
    identity: (u64, u64),
}

/// A path is not the network namespace that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetNsError {
    /// Nothing is there.
    #[error("there is no namespace at {}", path.display())]
    Gone {
        /// The path.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{} is {what}, not a network namespace", path.display())]
    SomethingElse {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A system call failed.
    #[error("cannot {call} the namespace {}: {}", path.display(), errno.desc())]
    Io {
        /// The path.
        path: PathBuf,
        /// What was being done.
        call: &'static str,
        /// Why it failed.
        errno: Errno,
    },
}

impl NetNs {
    /// Opens a path. What is not of the namespace file system is never opened for reading, so a FIFO cannot hold
    /// the caller up and a device does not notice. Whether a namespace is one of networks shows when it is entered.
    ///
    /// # Errors
    /// [`NetNsError::Gone`] if nothing is there, [`NetNsError::SomethingElse`] if it is no namespace.
    pub fn open(path: &Path) -> Result<Self, NetNsError> {
        let failed = |errno| match errno {
            Errno::ENOENT | Errno::ENOTDIR => NetNsError::Gone { path: path.to_owned() },
            errno => NetNsError::Io { path: path.to_owned(), call: "open", errno },
        };
        let handle = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed)?;
        let status = fstat(&handle).map_err(failed)?;
        if fstatfs(&handle).map_err(failed)?.filesystem_type() != NSFS_MAGIC {
            return Err(NetNsError::SomethingElse { path: path.to_owned(), what: kind(&status) });
        }
        // An O_PATH descriptor cannot be entered. Opening it anew by its number cannot meet another file.
        let same = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let fd = open(&*same, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed)?;
        Ok(Self { fd, path: path.to_owned(), identity: (status.st_dev, status.st_ino) })
    }

    /// Opens the namespace of the calling thread.
    ///
    /// # Errors
    /// If there is no `/proc`.
    pub fn current() -> Result<Self, NetNsError> {
        let path = Path::new(OWN);
        let failed = |errno| NetNsError::Io { path: path.to_owned(), call: "open", errno };
        let fd = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed)?;
        let status = fstat(&fd).map_err(failed)?;
        Ok(Self { fd, path: path.to_owned(), identity: (status.st_dev, status.st_ino) })
    }

    /// Whether both are the same namespace.
    pub fn same_as(&self, other: &Self) -> bool {
        self.identity == other.identity
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the calling thread into the namespace, calls `inside`, and takes the thread back, also if `inside`
    /// panics. Threads that `inside` starts stay in the namespace.
    ///
    /// # Errors
    /// If the thread cannot enter: [`NetNsError::SomethingElse`] when the namespace is not one of networks.
    ///
    /// # Panics
    /// Ends the process if the thread cannot return: nothing that it does afterwards would be where it belongs.
    pub fn within<T>(&self, inside: impl FnOnce() -> T) -> Result<T, NetNsError> {
        let home = Home(Self::current()?);
        setns(&self.fd, CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
            Errno::EINVAL => {
                NetNsError::SomethingElse { path: self.path.clone(), what: "another kind of namespace" }
            }
            errno => NetNsError::Io { path: self.path.clone(), call: "enter", errno },
        })?;
        let result = inside();
        drop(home);
        Ok(result)
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Takes the thread back where it came from.
struct Home(NetNs);

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(errno) = setns(&self.0.fd, CloneFlags::CLONE_NEWNET) {
            eprintln!("cannot return to the network namespace of this process: {}", errno.desc());
            std::process::abort();
        }
    }
}

/// What a file is, in words.
fn kind(status: &FileStat) -> &'static str {
    match SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => "a plain file",
        SFlag::S_IFDIR => "a directory",
        SFlag::S_IFIFO => "a FIFO",
        SFlag::S_IFSOCK => "a socket",
        SFlag::S_IFCHR | SFlag::S_IFBLK => "a device",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "the tests make files that are no namespaces")]
    use super::*;
    use nix::unistd::mkfifo;

    fn refused(path: &Path) -> &'static str {
        match NetNs::open(path) {
            Err(NetNsError::SomethingElse { what, .. }) => what,
            other => panic!("{}: {other:?}", path.display()),
        }
    }

    #[test]
    fn what_is_no_namespace_is_said_and_never_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(refused(&fifo), "a FIFO");
        assert_eq!(refused(&dir.path().join("file")), "a plain file");
        assert_eq!(refused(dir.path()), "a directory");
        assert_eq!(refused(Path::new("/dev/null")), "a device");
    }

    #[test]
    fn nothing_at_the_path_is_not_the_same_as_something_else() {
        for path in ["", "/nonexistent", "/dev/null/x"] {
            assert_eq!(NetNs::open(Path::new(path)).unwrap_err(), NetNsError::Gone { path: path.into() });
        }
    }

    #[test]
    fn the_own_namespace_is_recognised_by_whatever_path() {
        let own = NetNs::current().unwrap();
        assert!(own.same_as(&NetNs::open(Path::new("/proc/self/ns/net")).unwrap()));
        assert!(!own.same_as(&NetNs::open(Path::new("/proc/self/ns/mnt")).unwrap()));
    }

    #[test]
    fn another_kind_of_namespace_is_not_entered() {
        let error = NetNs::open(Path::new("/proc/self/ns/mnt")).unwrap().within(|| ()).unwrap_err();
        let expected: &[Errno] = &[Errno::EPERM];
        match error {
            NetNsError::SomethingElse { what, .. } => assert_eq!(what, "another kind of namespace"),
            // Without privileges the kernel refuses before it looks.
            NetNsError::Io { errno, .. } => assert!(expected.contains(&errno)),
            NetNsError::Gone { .. } => panic!("{error}"),
        }
    }
}
