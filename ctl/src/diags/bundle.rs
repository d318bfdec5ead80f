//! The file itself: a packed archive of bounded size, without secrets, with an index.

use std::io::Write;

use anyhow::Result;
use flate2::Compression;
use flate2::write::GzEncoder;
use manx_api::Timestamp;

use super::redact::redact;

/// The most octets of one file in it; of longer ones the end is kept, which is the newest of a log.
const ITEM: usize = 16 << 20;
/// Why something is not in it.
pub(super) const TIME_IS_UP: &str = "the time was up (--within)";
const SIZE_IS_UP: &str = "the size was up (--size)";

/// An archive that is being written.
pub(super) struct Bundle<W: Write> {
    tar: tar::Builder<GzEncoder<W>>,
    folder: String,
    room: u64,
    files: Vec<(String, String)>,
    missing: Vec<(String, String)>,
}

impl<W: Write> Bundle<W> {
    /// One of which all files are in `folder` and take at most `room` octets.
    pub(super) fn new(to: W, folder: &str, room: u64) -> Self {
        let tar = tar::Builder::new(GzEncoder::new(to, Compression::default()));
        Self { tar, folder: folder.to_owned(), room, files: Vec::new(), missing: Vec::new() }
    }

    /// Puts a text into it, less what looks like a secret.
    pub(super) fn add(&mut self, path: &str, about: &str, text: &str) -> Result<()> {
        let text = redact(end_of(text));
        let Some(room) = self.room.checked_sub(text.len() as u64) else {
            self.miss(path, SIZE_IS_UP);
            return Ok(());
        };
        self.room = room;
        self.write(path, &text)?;
        self.files.push((path.to_owned(), about.to_owned()));
        Ok(())
    }

    fn write(&mut self, path: &str, text: &str) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(Timestamp::now().as_second()).unwrap_or(0));
        self.tar.append_data(&mut header, format!("{}/{path}", self.folder), text.as_bytes())?;
        Ok(())
    }

    /// Notes what could not be had.
    pub(super) fn miss(&mut self, path: &str, why: &str) {
        self.missing.push((path.to_owned(), redact(why)));
    }

    /// Ends it with its index. Gives how many files are in it, and how many could not be had.
    pub(super) fn finish(mut self) -> Result<(usize, usize)> {
        self.files.sort();
        self.missing.sort();
        let index = self.index();
        self.write("index.txt", &index)?;
        self.tar.into_inner()?.finish()?.flush()?;
        Ok((self.files.len() + 1, self.missing.len()))
    }

    fn index(&self) -> String {
        let mut text = format!(
            "Made by manxctl {} at {:.0}.\n\nWhat is here:\n",
            env!("CARGO_PKG_VERSION"),
            Timestamp::now()
        );
        let width = self.files.iter().map(|(path, _)| path.len()).max().unwrap_or(0);
        for (path, about) in &self.files {
            text.push_str(&format!("  {path:width$}  {about}\n"));
        }
        if !self.missing.is_empty() {
            text.push_str("\nWhat could not be had:\n");
        }
        for (path, why) in &self.missing {
            text.push_str(&format!("  {path}: {why}\n"));
        }
        text
    }
}

/// The end of a text that is too long, from the beginning of a line.
fn end_of(text: &str) -> &str {
    let mut from = text.len().saturating_sub(ITEM);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    match text[from..].find('\n') {
        Some(line) if from > 0 => &text[from + line + 1..],
        _ => &text[from..],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    fn unpacked(bytes: &[u8]) -> BTreeMap<String, String> {
        let mut archive = tar::Archive::new(GzDecoder::new(bytes));
        let entries = archive.entries().expect("an archive");
        entries
            .map(|entry| {
                let mut entry = entry.expect("an entry");
                let mut text = String::new();
                entry.read_to_string(&mut text).expect("text");
                (entry.path().expect("a path").display().to_string(), text)
            })
            .collect()
    }

    #[test]
    fn the_index_says_what_is_there_and_what_could_not_be_had() {
        let mut bytes = Vec::new();
        let mut bundle = Bundle::new(&mut bytes, "d", 60);
        bundle.add("a.txt", "first", "password=hunter2 x\n").expect("written");
        bundle.add("b.txt", "too long", &"y".repeat(50)).expect("written");
        bundle.miss("c.txt", "forbidden");
        assert_eq!(bundle.finish().expect("written"), (2, 2));
        let files = unpacked(&bytes);
        assert_eq!(files["d/a.txt"], "password=REDACTED x\n");
        let index = &files["d/index.txt"];
        for line in ["  a.txt  first\n", "  b.txt: the size was up (--size)\n", "  c.txt: forbidden\n"] {
            assert!(index.contains(line), "{line:?} is not in {index}");
        }
        assert_eq!(files.len(), 2);
    }

    #[test]
    fn of_a_long_log_the_end_is_kept() {
        let long = "line of a log\n".repeat(ITEM / 14 + 100);
        let end = end_of(&long);
        assert!(end.len() <= ITEM && end.starts_with("line of a log\n") && end.ends_with("log\n"));
        assert_eq!(end_of("short"), "short");
    }
}
