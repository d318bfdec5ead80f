//! `manxctl errors`: cause and cure of a message, out of the catalogue that docs/errors.md is made of.
//!
//! A message is often a chain, so several entries may be about parts of one line: all are shown, in the order of the line.

use std::io::Read as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::Context;
use crate::show::{Output, Page, Tone};

/// The chapters of the catalogue, as `cargo xtask errors` checks them.
const CHAPTERS: [&str; 10] = [
    include_str!("../../docs/errors/agent.yaml"),
    include_str!("../../docs/errors/bgp.yaml"),
    include_str!("../../docs/errors/conditions.yaml"),
    include_str!("../../docs/errors/controller.yaml"),
    include_str!("../../docs/errors/kernel.yaml"),
    include_str!("../../docs/errors/manxctl.yaml"),
    include_str!("../../docs/errors/migrate.yaml"),
    include_str!("../../docs/errors/objects.yaml"),
    include_str!("../../docs/errors/plugin.yaml"),
    include_str!("../../docs/errors/pods.yaml"),
];

/// A message has at least so many letters of its own that it is known by in the middle of others.
const TELLING: usize = 7;
/// More than so many entries help nobody.
const MOST: usize = 6;

/// What to look up.
#[derive(clap::Args, Debug)]
#[command(after_help = "Exit status: 0 when something is known of it, 2 when nothing is.

Examples:
  manxctl errors 'no free IPv4 address yet: a block of pool a is being claimed; try again'
  kubectl -n manx-system logs ds/manx-agent -c agent | tail -3 | manxctl errors")]
pub(crate) struct Options {
    /// A message, or a line that has one, as it was printed; unset: standard input.
    #[arg(value_name = "TEXT")]
    text: Vec<String>,
    #[command(flatten)]
    output: Output,
}

/// Looks the text up and prints what is known.
pub(crate) fn run(options: Options, context: &Context) -> Result<ExitCode> {
    let mut text = options.text.join(" ");
    if options.text.is_empty() {
        std::io::stdin().read_to_string(&mut text).context("standard input cannot be read")?;
    }
    let known = look_up(&catalogue()?, &text);
    if known.is_empty() {
        bail!("nothing is known of this message: docs/errors.md lists all, docs/operate.md goes by symptom");
    }
    context.show.asked(options.output).print(&known, |known, page| render(known, page))?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Deserialize)]
struct Chapter {
    title: String,
    parts: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    says: Vec<String>,
    cause: String,
    cure: String,
}

/// What is known of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    /// What it says, with holes for values.
    says: String,
    /// Its chapter in docs/errors.md.
    chapter: String,
    cause: String,
    cure: String,
    /// Where in the text it was found, in octets.
    #[serde(skip)]
    place: (usize, usize),
    /// How many letters of its own it has.
    #[serde(skip)]
    letters: usize,
}

fn catalogue() -> Result<Vec<Chapter>> {
    let read =
        |text| serde_yaml_ng::from_str(text).context("the catalogue of messages in this program is broken");
    CHAPTERS.into_iter().map(read).collect()
}

/// What is known of the messages in a text: of two about the same words the one that says more.
fn look_up(catalogue: &[Chapter], text: &str) -> Vec<Known> {
    let mut found: Vec<Known> = text.lines().take(64).flat_map(|line| of_line(catalogue, line)).collect();
    found.sort_by_key(|known| std::cmp::Reverse(known.letters));
    let mut kept: Vec<Known> = Vec::new();
    for known in found {
        let (start, end) = known.place;
        let covers = |other: &Known| other.place.0 <= start && end <= other.place.1;
        let same = |other: &Known| other.cause == known.cause && other.cure == known.cure;
        if !kept.iter().any(|other| covers(other) || same(other)) {
            kept.push(known);
        }
    }
    kept.truncate(MOST);
    kept.sort_by_key(|known| known.place);
    kept
}

fn of_line<'a>(catalogue: &'a [Chapter], line: &'a str) -> impl Iterator<Item = Known> + 'a {
    let entries = catalogue.iter().flat_map(|chapter| {
        let entries = chapter.parts.iter().flat_map(|part| &part.entries);
        entries.map(move |entry| (chapter, entry))
    });
    let says = entries.flat_map(|(chapter, entry)| entry.says.iter().map(move |says| (chapter, entry, says)));
    says.filter_map(move |(chapter, entry, says)| {
        let (place, letters) = find(&fragments(says), line)?;
        Some(Known {
            says: shown(says),
            chapter: chapter.title.clone(),
            cause: plain(&entry.cause),
            cure: plain(&entry.cure),
            place,
            letters,
        })
    })
}

/// What stands between the holes of a message.
fn fragments(says: &str) -> Vec<String> {
    let mut fragments = vec![String::new()];
    let mut rest = says.chars().peekable();
    while let Some(char) = rest.next() {
        match char {
            '{' | '}' if rest.peek() == Some(&char) => {
                rest.next();
                fragments.last_mut().expect("never empty").push(char);
            }
            '{' => {
                while rest.next().is_some_and(|char| char != '}') {}
                fragments.push(String::new());
            }
            other => fragments.last_mut().expect("never empty").push(other),
        }
    }
    fragments
}

/// Where these stand in a line, one behind the other and whole words, and how many letters they have.
fn find(fragments: &[String], line: &str) -> Option<((usize, usize), usize)> {
    let letters =
        fragments.iter().flat_map(|fragment| fragment.chars()).filter(|char| char.is_alphabetic()).count();
    if letters < TELLING && line.trim() != fragments.concat().trim() {
        return None;
    }
    let (mut at, mut start) = (0, None);
    for fragment in fragments.iter().map(|fragment| fragment.trim()).filter(|fragment| !fragment.is_empty()) {
        let (begin, end) = word(line, fragment, at)?;
        start.get_or_insert(begin);
        at = end;
    }
    let start = start?;
    // A word alone, as in `opening {path}`, tells something only where a part of a chain begins with it.
    let single = fragments.len() > 1 && !fragments.iter().any(|fragment| fragment.trim().contains(' '));
    let begins = fragments[0].is_empty() || line[..start].is_empty() || line[..start].ends_with(": ");
    (!single || begins && !fragments[0].is_empty()).then_some(((start, at), letters))
}

/// The next place at which this stands and is no part of a longer word.
fn word(line: &str, fragment: &str, from: usize) -> Option<(usize, usize)> {
    let is_word = |char: char| char.is_alphanumeric();
    let mut places =
        line.get(from..)?.match_indices(fragment).map(|(at, _)| (from + at, from + at + fragment.len()));
    places.find(|(begin, end)| {
        let before = fragment.starts_with(is_word) && line[..*begin].ends_with(is_word);
        let behind = fragment.ends_with(is_word) && line[*end..].starts_with(is_word);
        !before && !behind
    })
}

fn shown(says: &str) -> String {
    says.replace("{{", "{").replace("}}", "}")
}

/// A text of Markdown without its links: `[pools.md](pools.md)` is docs/pools.md.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text.trim();
    while let Some((before, (words, target, behind))) = rest.split_once('[').and_then(|(before, rest)| {
        let (words, rest) = rest.split_once("](")?;
        let (target, behind) = rest.split_once(')')?;
        Some((before, (words, target, behind)))
    }) {
        plain.push_str(before);
        let page = match target.strip_prefix('#') {
            Some(anchor) => format!("docs/errors.md#{anchor}"),
            None => format!("docs/{target}"),
        };
        plain.push_str(&if target.starts_with(words) { page } else { format!("{words} ({page})") });
        rest = behind;
    }
    plain + rest
}

fn render(known: &[Known], page: &Page) -> String {
    let parts = known.iter().map(|known| {
        let head = page.paint(Tone::Strong, &known.says);
        let lines =
            [page.wrap(&known.cause, "  why:  ", "        "), page.wrap(&known.cure, "  cure: ", "        ")];
        format!("{head}\n{}\n", lines.join("\n"))
    });
    parts.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(text: &str) -> Vec<String> {
        let catalogue = catalogue().expect("it reads");
        look_up(&catalogue, text).into_iter().map(|known| known.says).collect()
    }

    #[test]
    fn every_chapter_of_the_catalogue_is_in_the_program() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors");
        let files =
            std::fs::read_dir(folder).expect("docs/errors").map(|file| file.expect("a file").file_name());
        assert_eq!(files.filter(|name| name != "other.yaml").count(), CHAPTERS.len(), "add it to CHAPTERS");
        assert_eq!(catalogue().expect("it reads").len(), CHAPTERS.len());
    }

    #[test]
    fn a_message_with_its_values_is_found_whatever_is_around_it() {
        let event = "Warning FailedCreatePodSandBox: plugin type=\"manx-cni\" failed (add): pool a (10.0.0.0/16) has no \
                     IPv6 addresses: name it in the annotation of its own family";
        let template =
            "pool {pool} ({cidr}) has no {family} addresses: name it in the annotation of its own family";
        assert_eq!(says(event), [template]);
    }

    #[test]
    fn parts_of_a_chain_are_found_in_their_order() {
        let chain = "the agent cannot go on: listening on 127.0.0.1:9179: Address already in use";
        assert_eq!(says(chain), ["the {name} cannot go on", "listening on {address}"]);
    }

    #[test]
    fn a_word_alone_is_found_where_a_part_of_a_chain_begins() {
        assert_eq!(says("opening /run/manx/agent.lock: Read-only file system"), ["opening {path}"]);
        assert_eq!(says("while opening the door"), [""; 0]);
    }

    #[test]
    fn names_of_bgp_and_reasons_are_found_as_whole_words_only() {
        assert_eq!(says("peer: Cease/Administrative Shutdown: drain"), ["Administrative Shutdown"]);
        assert_eq!(says("Cease"), ["Cease"]);
        assert_eq!(says("the Ceased"), [""; 0]);
    }

    #[test]
    fn what_nobody_knows_is_not_found() {
        assert_eq!(says("everything is fine and nothing happened"), [""; 0]);
    }

    #[test]
    fn links_become_paths() {
        assert_eq!(plain("See [pools.md](pools.md)."), "See docs/pools.md.");
        assert_eq!(plain("[MTU](operate.md#mtu), or `x[1]`"), "MTU (docs/operate.md#mtu), or `x[1]`");
        assert_eq!(plain("[The kernel](#the-kernel)."), "The kernel (docs/errors.md#the-kernel).");
    }
}
