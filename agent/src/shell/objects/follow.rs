//! Says when files of a directory may have changed: inotify, and a look now and then for what it does not see.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// How long the directory must be quiet before it is read: editors and tools write in several steps.
const QUIET: Duration = Duration::from_millis(50);
/// The longest that changes without end put the reading off.
const LONGEST: Duration = Duration::from_millis(500);

/// Follows one directory.
pub(in crate::shell) struct Watcher {
    directory: PathBuf,
    inotify: Option<Arc<Inotify>>,
    notices: Arc<Notify>,
}

impl Watcher {
    /// Follows `directory`, which need not be there yet.
    pub(in crate::shell) fn new(directory: PathBuf) -> Self {
        let notices = Arc::new(Notify::new());
        let inotify = listen(Arc::clone(&notices)).inspect_err(|error| {
            tracing::warn!(
                error = format!("{error:#}"),
                "the directory of objects cannot be watched: changes are found only by looking now and then"
            );
        });
        let watcher = Self { directory, inotify: inotify.ok(), notices };
        watcher.attach();
        watcher
    }

    /// Watches whatever directory now has the name; once more changes nothing.
    fn attach(&self) {
        let Some(inotify) = &self.inotify else { return };
        let wanted = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        // What is not there cannot be watched: it is looked for.
        let _absent = inotify.add_watch(&self.directory, wanted);
    }

    /// Waits for a change, or for `look` to pass.
    pub(in crate::shell) async fn changed(&mut self, look: Duration) {
        let due = Instant::now() + look;
        self.attach();
        if timeout_at(due, self.notices.notified()).await.is_err() {
            return;
        }
        let until = Instant::now() + LONGEST;
        while timeout_at(until.min(Instant::now() + QUIET), self.notices.notified()).await.is_ok() {}
    }
}

/// Passes on that there are notices, on a thread of its own that ends with the process.
fn listen(notices: Arc<Notify>) -> anyhow::Result<Arc<Inotify>> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).context("asking for notices of changes")?;
    let inotify = Arc::new(inotify);
    let source = Arc::clone(&inotify);
    std::thread::Builder::new()
        .name("files".to_owned())
        .spawn(move || {
            while source.read_events().is_ok() {
                notices.notify_one();
            }
        })
        .context("starting the thread that waits for changes of files")?;
    Ok(inotify)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    async fn is_noticed(watcher: &mut Watcher, change: impl FnOnce()) -> bool {
        change();
        tokio::time::timeout(Duration::from_secs(10), watcher.changed(LONG)).await.is_ok()
    }

    #[tokio::test]
    async fn files_written_renamed_and_removed_are_noticed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let mut watcher = Watcher::new(directory.path().to_owned());
        assert!(is_noticed(&mut watcher, || std::fs::write(path("new"), "a").expect("written")).await);
        assert!(
            is_noticed(&mut watcher, || std::fs::rename(path("new"), path("a.yaml")).expect("renamed")).await
        );
        assert!(is_noticed(&mut watcher, || std::fs::write(path("a.yaml"), "b").expect("written")).await);
        assert!(is_noticed(&mut watcher, || std::fs::remove_file(path("a.yaml")).expect("removed")).await);
    }

    #[tokio::test]
    async fn a_mounted_config_map_that_changes_is_noticed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        for version in ["..1", "..2"] {
            std::fs::create_dir(path(version)).expect("made");
            std::fs::write(path(version).join("a.yaml"), version).expect("written");
        }
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, path(name)).expect("linked");
        link("..1", "..data");
        link("..data/a.yaml", "a.yaml");
        let mut watcher = Watcher::new(directory.path().to_owned());
        link("..2", "..data_tmp");
        assert!(
            is_noticed(&mut watcher, || std::fs::rename(path("..data_tmp"), path("..data"))
                .expect("renamed"))
            .await
        );
        assert_eq!(std::fs::read_to_string(path("a.yaml")).expect("read"), "..2");
    }
}
