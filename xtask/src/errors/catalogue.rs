//! Cause and cure of every message: the files in `docs/errors`, one for each chapter of the page, and
//! `docs/errors/other.yaml` with the words of the code that are no messages of trouble.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use serde::Deserialize;

use super::find::{Kind, Message};
use super::template::Template;
use crate::tidy::Tree;

const FOLDER: &str = "docs/errors/";
const OTHER: &str = "docs/errors/other.yaml";

/// What a file of the catalogue holds: a chapter.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Chapter {
    /// Its place among the others.
    pub(crate) order: u32,
    /// Its heading.
    pub(crate) title: String,
    /// Where such messages are met, and whatever is true of all of them.
    pub(crate) about: String,
    /// Its parts.
    pub(crate) parts: Vec<Part>,
}

/// Messages on one subject.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Part {
    /// The subject.
    pub(crate) title: String,
    /// What is true of all of them.
    #[serde(default)]
    pub(crate) about: String,
    /// The messages.
    pub(crate) entries: Vec<Entry>,
}

/// Messages with one cause and one cure.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// What they say, as in the code, with holes for values: `opening {path}`.
    pub(crate) says: Vec<String>,
    /// Why it is said.
    pub(crate) cause: String,
    /// What to do.
    pub(crate) cure: String,
}

/// Words of the code that are no messages of trouble.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Other {
    /// What they are instead.
    why: String,
    /// Files, or folders with `/` at the end, whose sentences are all of this sort. What an error's macro makes there is a
    /// message all the same.
    #[serde(default)]
    files: Vec<String>,
    /// Files or folders below these of which that is not so.
    #[serde(default)]
    except: Vec<String>,
    /// The words.
    #[serde(default)]
    says: Vec<String>,
}

/// All files of the catalogue.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    /// The chapters by their path, in the order of the page.
    pub(crate) chapters: Vec<(String, Chapter)>,
    others: Vec<Other>,
}

impl Catalogue {
    /// Reads it.
    ///
    /// # Errors
    /// When a file is not of that form.
    pub(crate) fn of(tree: &Tree) -> anyhow::Result<Self> {
        let mut catalogue = Self::default();
        for (path, text) in tree.files().filter(|(path, _)| path.starts_with(FOLDER)) {
            match path {
                OTHER => catalogue.others = serde_yaml_ng::from_str(text).context(OTHER)?,
                _ => {
                    let chapter = serde_yaml_ng::from_str(text).with_context(|| path.to_owned())?;
                    catalogue.chapters.push((path.to_owned(), chapter));
                }
            }
        }
        catalogue.chapters.sort_by_key(|(_, chapter)| chapter.order);
        Ok(catalogue)
    }

    /// What is wrong with it, given the messages of the code: each has exactly one entry, each entry a message.
    pub(crate) fn complaints(&self, messages: &[Message]) -> Vec<String> {
        let mut places: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        let mut complaints = Vec::new();
        for (path, says) in self.says() {
            places.entry(Template::of_format(says).key()).or_default().push(path);
        }
        for (says, paths) in places.iter().filter(|(_, paths)| paths.len() > 1) {
            complaints.push(format!("{}: {says:?} has more than one entry: leave one", paths.join(", ")));
        }
        let met: Vec<&Message> = messages.iter().filter(|message| self.needs_entry(message)).collect();
        let said: BTreeSet<String> = met.iter().map(|message| message.template.key()).collect();
        for (says, paths) in places.iter().filter(|(says, _)| !said.contains(*says)) {
            complaints.push(format!(
                "{}: {says:?}: nothing in the code says this (any more): correct it or take it out",
                paths[0]
            ));
        }
        let mut told = BTreeSet::new();
        for message in met {
            let key = message.template.key();
            if !places.contains_key(&key) && told.insert(key) {
                complaints.push(missing(message));
            }
        }
        complaints.extend(messages.iter().filter(|message| is_without_cure(message)).map(|message| {
            let Message { path, line, template, .. } = message;
            format!(
                "{path}:{line}: a finding without a cure: {template:?}: say in it what to do",
                template = template.to_string()
            )
        }));
        complaints.extend(self.unused_files(messages));
        complaints.extend(self.empty());
        complaints
    }

    fn says(&self) -> impl Iterator<Item = (&str, &str)> {
        let entries = self.chapters.iter().flat_map(|(path, chapter)| {
            let entries = chapter.parts.iter().flat_map(|part| &part.entries);
            entries.flat_map(move |entry| entry.says.iter().map(move |says| (path.as_str(), says.as_str())))
        });
        let others =
            self.others.iter().flat_map(|other| other.says.iter().map(|says| (OTHER, says.as_str())));
        entries.chain(others)
    }

    fn needs_entry(&self, message: &Message) -> bool {
        message.kind != Kind::Finding && !self.is_other_file(message)
    }

    /// Whether this is no message because of the file that it stands in.
    fn is_other_file(&self, message: &Message) -> bool {
        let is_plain = matches!(message.kind, Kind::Words | Kind::Display | Kind::Reason);
        let is_other = |other: &Other| {
            let at = |places: &[String]| places.iter().any(|place| is_at(message, place));
            at(&other.files) && !at(&other.except)
        };
        is_plain && self.others.iter().any(is_other)
    }

    fn unused_files(&self, messages: &[Message]) -> impl Iterator<Item = String> {
        let places = self.others.iter().flat_map(|other| &other.files);
        let unused = places.filter(|place| !messages.iter().any(|message| is_at(message, place)));
        unused.map(|place| format!("{OTHER}: nothing is said in {place}: take it out"))
    }

    fn empty(&self) -> impl Iterator<Item = String> {
        let entries = self.chapters.iter().flat_map(|(path, chapter)| {
            let entries = chapter.parts.iter().flat_map(|part| &part.entries);
            entries.map(move |entry| (path, entry))
        });
        let empty =
            entries.filter(|(_, entry)| entry.cause.trim().is_empty() || entry.cure.trim().is_empty());
        let entries = empty
            .map(|(path, entry)| format!("{path}: {:?} has no cause or no cure: write them", entry.says));
        let others = self.others.iter().filter(|other| other.why.trim().is_empty());
        entries.chain(others.map(|_| format!("{OTHER}: an entry without why: say what the words are")))
    }
}

/// Whether this is a finding that says nothing of a cure. One that is worth knowing only needs none.
fn is_without_cure(message: &Message) -> bool {
    message.cure.as_ref().is_some_and(|cure| cure.needed && cure.texts.is_empty())
}

fn is_at(message: &Message, place: &str) -> bool {
    message.path == place || place.ends_with('/') && message.path.starts_with(place)
}

/// What to do about a message without an entry, ready to be copied.
fn missing(message: &Message) -> String {
    let says = serde_json::Value::from(message.template.to_string());
    format!(
        "{}:{}: a message ({}) without an entry: give it cause and cure in a file of {FOLDER}, or put it into {OTHER} if it \
         is no message of trouble:\n      - says:\n          - {says}\n        cause: \n        cure: ",
        message.path, message.line, message.kind
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAPTER: &str = "\
order: 1
title: Pods
about: Events.
parts:
  - title: Addresses
    entries:
      - says: [\"no address in {pool}\"]
        cause: It is full.
        cure: Add a pool.
";
    const OTHERS: &str = "- why: headings\n  files: [ctl/src/report.rs]\n  says: [all is well]\n";

    fn message(kind: Kind, path: &str, text: &str) -> Message {
        Message { kind, path: path.to_owned(), line: 7, template: Template::of_format(text), cure: None }
    }

    fn complaints(chapter: &str, messages: &[Message]) -> Vec<String> {
        let tree = Tree::of(&[("docs/errors/pods.yaml", chapter), (OTHER, OTHERS)]);
        Catalogue::of(&tree).expect("it reads").complaints(messages)
    }

    fn said() -> Vec<Message> {
        vec![
            message(Kind::Error, "ipam/src/door.rs", "no address in {0}"),
            message(Kind::Words, "ctl/src/report.rs", "a heading of {}"),
            message(Kind::Words, "agent/src/a.rs", "all is well"),
        ]
    }

    #[test]
    fn a_catalogue_with_one_entry_for_each_message_is_fine() {
        assert_eq!(complaints(CHAPTER, &said()), [""; 0]);
    }

    #[test]
    fn a_message_without_an_entry_is_found_with_what_to_do() {
        let mut messages = said();
        messages.push(message(Kind::Log, "agent/src/b.rs", "the {thing} \"broke\""));
        let complaints = complaints(CHAPTER, &messages);
        assert_eq!(complaints.len(), 1);
        assert!(
            complaints[0].starts_with("agent/src/b.rs:7: a message (log) without an entry"),
            "{complaints:?}"
        );
        assert!(complaints[0].contains("- \"the {thing} \\\"broke\\\"\""), "{complaints:?}");
    }

    #[test]
    fn what_an_error_says_in_a_file_of_other_words_is_a_message() {
        let mut messages = said();
        messages.push(message(Kind::Context, "ctl/src/report.rs", "cannot write {}"));
        assert_eq!(complaints(CHAPTER, &messages).len(), 1);
    }

    #[test]
    fn an_entry_that_nothing_says_is_found() {
        let complaints = complaints(CHAPTER, &said()[1..]);
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].contains("nothing in the code says this"), "{complaints:?}");
    }

    #[test]
    fn a_file_of_other_words_in_which_nothing_is_said_is_found() {
        let messages = [said().remove(0), said().remove(2)];
        assert_eq!(complaints(CHAPTER, &messages).len(), 1);
    }

    #[test]
    fn two_entries_for_one_message_are_found_whatever_their_holes_are_called() {
        let twice = CHAPTER
            .replace("[\"no address in {pool}\"]", "[\"no address in {pool}\", \"no address in {0}\"]");
        let complaints = complaints(&twice, &said());
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].contains("more than one entry"), "{complaints:?}");
    }

    #[test]
    fn an_entry_without_cure_is_found() {
        let complaints = complaints(&CHAPTER.replace("Add a pool.", "\"\""), &said());
        assert_eq!(complaints.len(), 1);
    }
}
