//! What DEL leaves behind while the agent is away: one small file per attachment that has ended.
//!
//! A pod must be able to stop while the agent is being upgraded or is broken. DEL then removes the link by itself and
//! leaves a tombstone in `<run dir>/tombstones/<container>:<ifname>`. The agent reads them all before it serves its
//! first request and whenever it looks again, frees the addresses, and only then clears each tombstone away.
//! A repeated ADD of the same container clears the tombstone before it asks the agent. So the agent handles tombstones
//! in one queue with requests, and only those whose file is still there when their turn has come.
//! The directory is on tmpfs beside the agent's record, and dies with the pods at a reboot.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::rpc::{Attachment, DelRequest, decode, encode};

/// How often a tombstone is written that is swept up under the plugin's hands; the agent looks each 10 s.
const ATTEMPTS: u32 = 5;

/// The directory of the tombstones inside a run directory.
pub fn directory(run_dir: &Path) -> PathBuf {
    run_dir.join("tombstones")
}

/// The file of one attachment. Container ids and interface names hold no slash and no colon.
pub fn file(run_dir: &Path, attachment: &Attachment) -> PathBuf {
    directory(run_dir).join(format!("{}:{}", attachment.container, attachment.ifname))
}

/// Leaves a tombstone; leaving it twice is the same as leaving it once.
///
/// # Errors
/// If the directory or the file cannot be written.
pub fn leave(run_dir: &Path, ended: &DelRequest) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory(run_dir))?;
    let key = Attachment { container: ended.container.clone(), ifname: ended.ifname.clone() };
    let target = file(run_dir, &key);
    // Written aside and renamed, so that a reader never sees half of one. No container id begins with a dot.
    let aside = directory(run_dir).join(format!(".{}:{}", key.container, key.ifname));
    let mut attempt = 1;
    loop {
        fs::write(&aside, encode(ended))?;
        match fs::rename(&aside, &target) {
            // An agent has swept it up, or another DEL of this container has renamed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS => attempt += 1,
            renamed => return renamed,
        }
    }
}

/// All tombstones, in no particular order. Sweeps up what plugins that were killed while they
/// wrote have left. Files that are none are passed over.
///
/// # Errors
/// If the directory exists but cannot be read.
pub fn list(run_dir: &Path) -> io::Result<Vec<DelRequest>> {
    let entries = match fs::read_dir(directory(run_dir)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut ended = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            // The runtime repeats a DEL that was killed; one that is under way writes again. One that cannot be
            // removed does no harm.
            let _kept = fs::remove_file(entry.path());
            continue;
        }
        if let Some(tombstone) = fs::read(entry.path()).ok().and_then(|line| decode(&line).ok()) {
            ended.push(tombstone);
        }
    }
    Ok(ended)
}

/// Clears a tombstone away; it need not be there.
///
/// # Errors
/// If the file is there and cannot be removed.
pub fn clear(run_dir: &Path, attachment: &Attachment) -> io::Result<()> {
    match fs::remove_file(file(run_dir, attachment)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(container: &str) -> DelRequest {
        DelRequest { container: container.into(), ifname: "eth0".into(), link: "cali0".into() }
    }

    #[test]
    fn a_tombstone_is_found_again_until_it_is_cleared_away() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(list(dir.path()).unwrap(), []);
        leave(dir.path(), &ended("c1")).unwrap();
        leave(dir.path(), &ended("c1")).unwrap();
        leave(dir.path(), &ended("c2")).unwrap();
        let mut found = list(dir.path()).unwrap();
        found.sort();
        assert_eq!(found, [ended("c1"), ended("c2")]);
        let c1 = Attachment { container: "c1".into(), ifname: "eth0".into() };
        clear(dir.path(), &c1).unwrap();
        clear(dir.path(), &c1).unwrap();
        assert_eq!(list(dir.path()).unwrap(), [ended("c2")]);
    }

    #[test]
    fn a_file_that_is_no_tombstone_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        leave(dir.path(), &ended("c1")).unwrap();
        fs::write(directory(dir.path()).join("c2:eth0"), b"{\"contai").unwrap();
        assert_eq!(list(dir.path()).unwrap(), [ended("c1")]);
        assert!(directory(dir.path()).join("c2:eth0").exists());
    }

    #[test]
    fn what_a_plugin_that_was_killed_while_it_wrote_has_left_is_swept_up() {
        let dir = tempfile::tempdir().unwrap();
        leave(dir.path(), &ended("c1")).unwrap();
        let aside = directory(dir.path()).join(".c2:eth0");
        fs::write(&aside, encode(&ended("c2"))).unwrap();
        assert_eq!(list(dir.path()).unwrap(), [ended("c1")]);
        assert!(!aside.exists());
    }

    #[test]
    fn a_tombstone_that_is_swept_up_while_it_is_written_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let sweeping = std::sync::atomic::AtomicBool::new(true);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while sweeping.load(std::sync::atomic::Ordering::Relaxed) {
                    list(dir.path()).unwrap();
                    std::thread::sleep(std::time::Duration::from_micros(500));
                }
            });
            let left: Vec<_> = (0..2000).map(|n| leave(dir.path(), &ended(&format!("c{n}")))).collect();
            sweeping.store(false, std::sync::atomic::Ordering::Relaxed);
            left.into_iter().for_each(Result::unwrap);
        });
        assert_eq!(list(dir.path()).unwrap().len(), 2000);
    }
}
