//! The files of a layer, and the tar archive that they become.
//!
//! Everything belongs to root and carries the one time that is asked for. Hard links, devices, sparse files and extended
//! attributes are absent: no image here needs them.

use std::collections::BTreeMap;
use std::io;

use tar::{Builder, EntryType, Header};

/// Folders, files and symbolic links by path, without a leading `/`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Folder { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Link { target: String },
}

impl Tree {
    /// A tree with nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file, and the folders above it where they are missing (mode 0755). What stood at the path is replaced.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.entry(path, Entry::File { mode, content: content.into() })
    }

    /// Adds an empty folder, or sets the mode of one that is there.
    #[must_use]
    pub fn folder(self, path: &str, mode: u32) -> Self {
        self.entry(path, Entry::Folder { mode })
    }

    /// Adds a symbolic link; `target` is written as it is given.
    #[must_use]
    pub fn link(self, path: &str, target: &str) -> Self {
        self.entry(path, Entry::Link { target: target.to_owned() })
    }

    /// The paths of files and links, sorted, each with a leading `/`.
    pub fn files(&self) -> impl Iterator<Item = String> {
        let files = self.entries.iter().filter(|(_, entry)| !matches!(entry, Entry::Folder { .. }));
        files.map(|(path, _)| format!("/{path}"))
    }

    /// The tar archive (ustar, with GNU records for names above 100 octets), folders before what they hold. `time` is
    /// in seconds since 1970.
    ///
    /// # Errors
    /// When a path or a link cannot be written as a tar header.
    pub fn to_tar(&self, time: u64) -> io::Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            match entry {
                Entry::Folder { mode } => {
                    let mut header = header(EntryType::Directory, *mode, time);
                    tar.append_data(&mut header, format!("{path}/"), io::empty())?;
                }
                Entry::File { mode, content } => append_file(&mut tar, path, *mode, content, time)?,
                Entry::Link { target } => {
                    let mut header = header(EntryType::Symlink, 0o777, time);
                    tar.append_link(&mut header, path, target)?;
                }
            }
        }
        tar.into_inner()
    }

    fn entry(mut self, path: &str, entry: Entry) -> Self {
        let path = path.trim_matches('/');
        for (at, _) in path.match_indices('/') {
            let folder = path[..at].to_owned();
            self.entries.entry(folder).or_insert(Entry::Folder { mode: 0o755 });
        }
        self.entries.insert(path.to_owned(), entry);
        self
    }
}

/// Adds one file to a tar archive, owned by root.
pub(crate) fn append_file(
    tar: &mut Builder<impl io::Write>,
    path: &str,
    mode: u32,
    content: &[u8],
    time: u64,
) -> io::Result<()> {
    let mut header = header(EntryType::Regular, mode, time);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content)
}

fn header(kind: EntryType, mode: u32, time: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(time);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn tree() -> Tree {
        Tree::new().folder("/tmp", 0o1777).file("/usr/bin/a", 0o755, "A").link("/bin/b", "../usr/bin/a")
    }

    #[test]
    fn the_order_in_which_files_are_added_does_not_matter() {
        let other =
            Tree::new().link("bin/b", "../usr/bin/a").file("usr/bin/a", 0o755, "A").folder("tmp", 0o1777);
        assert_eq!(tree().to_tar(0).expect("a tar"), other.to_tar(0).expect("a tar"));
    }

    #[test]
    fn every_entry_belongs_to_root_has_the_time_asked_for_and_comes_after_its_folder() {
        let tar = tree().to_tar(7).expect("a tar");
        let mut archive = tar::Archive::new(tar.as_slice());
        let mut seen = Vec::new();
        for entry in archive.entries().expect("entries") {
            let mut entry = entry.expect("an entry");
            let header = entry.header().clone();
            assert_eq!(
                (header.uid().ok(), header.gid().ok(), header.mtime().ok()),
                (Some(0), Some(0), Some(7))
            );
            let mut content = String::new();
            entry.read_to_string(&mut content).expect("text");
            let path = entry.path().expect("a path").display().to_string();
            let link = entry.link_name().expect("a name").map(|name| name.display().to_string());
            seen.push((path, header.mode().expect("a mode"), content, link));
        }
        let plain = |path: &str, mode, content: &str| (path.to_owned(), mode, content.to_owned(), None);
        let link = ("bin/b".to_owned(), 0o777, String::new(), Some("../usr/bin/a".to_owned()));
        let want = vec![
            plain("bin/", 0o755, ""),
            link,
            plain("tmp/", 0o1777, ""),
            plain("usr/", 0o755, ""),
            plain("usr/bin/", 0o755, ""),
            plain("usr/bin/a", 0o755, "A"),
        ];
        assert_eq!(seen, want);
    }

    #[test]
    fn long_names_survive() {
        let name = format!("a/{}", "b".repeat(150));
        let tar = Tree::new().file(&name, 0o644, "").to_tar(0).expect("a tar");
        let mut archive = tar::Archive::new(tar.as_slice());
        let last = archive.entries().expect("entries").last().expect("one").expect("an entry");
        assert_eq!(last.path().expect("a path").display().to_string(), name);
    }
}
