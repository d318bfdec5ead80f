//! The matrix as text: on the terminal while it is played, and as docs/interop.md.

use std::fmt::Write as _;
use std::time::Duration;

use super::{FEATURES, Feature, Matrix, Outcome};
use crate::peers::Daemon;

/// Tells of one cell that has ended.
pub(super) fn tell(feature: &Feature, daemon: Daemon, outcome: &Outcome, took: Duration) {
    let (word, more) = match outcome {
        Outcome::Yes(note) => ("yes", (*note).to_owned()),
        Outcome::Cannot(why) => ("peer cannot", (*why).to_owned()),
        Outcome::Missing(words) => ("not there", words.clone()),
        Outcome::Failed(why) => ("FAILED", why.clone()),
    };
    println!(
        "{:>6.1} s  {:<34} {word:<12} {more}",
        took.as_secs_f64(),
        format!("{}/{}", feature.key, daemon.slug())
    );
}

/// Prints the whole matrix.
pub fn print(matrix: &Matrix) {
    print!("\n{:<44}", "");
    for daemon in Daemon::ALL {
        print!("{:<13}", daemon.name());
    }
    print!("\n{:<44}", "");
    for daemon in Daemon::ALL {
        print!("{:<13}", daemon.version().unwrap_or_default());
    }
    println!();
    for feature in FEATURES {
        print!("{:<44}", feature.title);
        for daemon in Daemon::ALL {
            let word = match matrix.get(&(feature.key, daemon)) {
                None => "-",
                Some(Outcome::Yes(_)) => "yes",
                Some(Outcome::Cannot(_)) => "peer cannot",
                Some(Outcome::Missing(_)) => "not there",
                Some(Outcome::Failed(_)) => "FAILED",
            };
            print!("{word:<13}");
        }
        println!();
    }
}

/// The text of docs/interop.md.
pub fn document(matrix: &Matrix) -> String {
    let mut text = HEAD.to_owned();
    let mut row = |cells: Vec<String>| {
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    };
    let names = Daemon::ALL.map(|daemon| daemon.name().to_owned());
    row([vec![String::new()], names.into()].concat());
    row(vec!["---".to_owned(); 1 + Daemon::ALL.len()]);
    let versions = Daemon::ALL.map(|daemon| daemon.version().unwrap_or_default());
    row([vec!["version".to_owned()], versions.into()].concat());
    let mut notes: Vec<&str> = Vec::new();
    for feature in FEATURES {
        let mut cells = vec![feature.title.to_owned()];
        for daemon in Daemon::ALL {
            let (word, note) = match matrix.get(&(feature.key, daemon)) {
                None => ("", ""),
                Some(Outcome::Yes(note)) => ("yes", *note),
                Some(Outcome::Cannot(why)) => ("cannot", *why),
                Some(Outcome::Missing(_)) => ("**not there yet**", ""),
                Some(Outcome::Failed(_)) => ("**FAILED**", ""),
            };
            cells.push(if note.is_empty() {
                word.to_owned()
            } else {
                format!("{word}{}", mark(&mut notes, note))
            });
        }
        row(cells);
    }
    text.push('\n');
    for (number, note) in notes.iter().enumerate() {
        let _ = writeln!(text, "{}. {note}", number + 1);
    }
    text.push_str("\n## What each row shows\n\n");
    for feature in FEATURES {
        let _ = writeln!(text, "* **{}**: {}", feature.title, feature.shows);
    }
    text
}

/// A reference to a note under the table, which is written there once.
fn mark<'a>(notes: &mut Vec<&'a str>, note: &'a str) -> String {
    let place = notes.iter().position(|known| *known == note).unwrap_or_else(|| {
        notes.push(note);
        notes.len() - 1
    });
    format!(" ({})", place + 1)
}

/// Whether the file says what the matrix says; versions of the daemons aside, which are those of the machine.
pub fn is_current(file: &str, matrix: &Matrix) -> bool {
    let without_versions = |text: &str| {
        text.lines().filter(|line| !line.starts_with("| version")).map(str::to_owned).collect::<Vec<_>>()
    };
    without_versions(file) == without_versions(&document(matrix))
}

const HEAD: &str = "\
<!-- Written by `cargo xtask test interop --write`; every full run checks it. -->

# Interoperability

Each cell was played with the real daemon out of Debian's packages and the agent as it ships, each in a network
namespace of its own: `cargo xtask test interop` plays all of them, `cargo xtask test interop md5` those of one row.
\"yes\" means that the behaviour was seen, not only the capability; \"cannot\" is the daemon's limit.

";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_of_a_daemon_does_not_make_the_page_stale_and_another_outcome_does() {
        let first = FEATURES[0].key;
        let matrix = Matrix::from([((first, Daemon::Frr), Outcome::Yes(""))]);
        let page = document(&matrix);
        let older = page.replace("| version", "| version 0");
        assert!(is_current(&older, &matrix));
        let other = Matrix::from([((first, Daemon::Frr), Outcome::Failed(String::new()))]);
        assert!(!is_current(&page, &other));
    }

    #[test]
    fn a_note_stands_under_the_table_once() {
        let key = FEATURES[0].key;
        let matrix = Matrix::from([
            ((key, Daemon::Frr), Outcome::Cannot("no code for it")),
            ((key, Daemon::GoBgp), Outcome::Cannot("no code for it")),
        ]);
        let page = document(&matrix);
        assert_eq!(page.matches("no code for it").count(), 1);
        assert_eq!(page.matches("cannot (1)").count(), 2);
    }
}
