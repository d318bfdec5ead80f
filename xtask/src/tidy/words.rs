//! Rules on what stands in comments and prose: no notes to self, one form of citing an RFC, and nothing that only the
//! machine or the tracker of its author knows.

use super::Finding;
use super::source::Source;

/// Notes that stand for work not done. Spelled apart, so that this file obeys its own rule.
const NOTES: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Places on somebody's machine, spelled apart likewise.
const MACHINE: [&str; 5] = [
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("shar", "ed/"),
    concat!("rese", "arch/"),
];

/// Checks the comments of a Rust file.
pub(crate) fn comments(source: &Source<'_>) -> Vec<Finding> {
    let comments = source.comments();
    check(source.path, comments.iter().map(|(line, text)| (*line, text.as_str())))
}

/// Checks every line of a document, or what stands behind `#` in a file of settings.
pub(crate) fn prose(path: &str, text: &str) -> Vec<Finding> {
    let all = path.ends_with(".md");
    let said = |line| if all { Some(line) } else { str::split_once(line, '#').map(|(_, comment)| comment) };
    check(path, text.lines().enumerate().filter_map(|(index, line)| Some((index + 1, said(line)?))))
}

/// Checks every line of any file for places and numbers that say nothing to a reader elsewhere.
pub(crate) fn machine_words(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for place in MACHINE.iter().filter(|place| stands_alone(line, place)) {
            let what = format!("{place}: a place on somebody's machine: say it without");
            findings.push(Finding::new(path, index + 1, what));
        }
        if cites_the_tracker(line) {
            findings.push(Finding::new(path, index + 1, "a number out of a tracker: say what it is about"));
        }
    }
    findings
}

fn check<'a>(path: &str, lines: impl Iterator<Item = (usize, &'a str)>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, text) in lines {
        let notes = NOTES.iter().filter(|note| has_word(text, note));
        findings.extend(
            notes.map(|note| Finding::new(path, line, format!("{note}: do it, or say what is so and why"))),
        );
        findings.extend(citations(text).map(|what| Finding::new(path, line, what)));
    }
    findings
}

fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let is_part = |char: char| char.is_alphanumeric() || char == '_' || char == '`';
        !text[..at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part)
    })
}

/// Whether a path begins with this here, rather than having it somewhere in the middle of a word.
fn stands_alone(line: &str, place: &str) -> bool {
    line.match_indices(place)
        .any(|(at, _)| !line[..at].ends_with(|char: char| char.is_alphanumeric() || char == '-'))
}

/// Whether the line says `issue` or `PR` and then a number, with or without `#`.
fn cites_the_tracker(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    let words: Vec<&str> = lower.split_whitespace().collect();
    words.windows(2).any(|pair| {
        let tracker = ["issue", "issues", "pr", "ticket"].contains(&pair[0].trim_start_matches(['(', '/']));
        let number = pair[1].trim_start_matches('#');
        tracker && number.starts_with(|char: char| char.is_ascii_digit()) && number.len() <= 6
    })
}

/// What is wrong with the citations of RFCs in a line: the form is `RFC 4271 §6.8`.
fn citations(text: &str) -> impl Iterator<Item = String> {
    let lower = text.to_ascii_lowercase();
    let found: Vec<usize> = lower.match_indices("rfc").map(|(at, _)| at).collect();
    found.into_iter().filter_map(|at| citation(&text[..at], &text[at..])).collect::<Vec<_>>().into_iter()
}

fn citation(before: &str, from: &str) -> Option<String> {
    let is_name =
        before.ends_with(|char: char| char.is_alphanumeric() || char == '_' || char == '/' || char == '-');
    let number_at = from.find(|char: char| char.is_ascii_digit()).filter(|at| *at <= 4 && !is_name)?;
    let digits =
        from[number_at..].find(|char: char| !char.is_ascii_digit()).unwrap_or(from.len() - number_at);
    let number = &from[number_at..number_at + digits];
    if from[..number_at].chars().skip(3).any(char::is_alphabetic) || number.len() < 3 {
        return None;
    }
    let tail = &from[number_at + digits..];
    let trimmed = tail.trim_start_matches([' ', ',', ';', ':']);
    let section = ["section", "sec.", "sect", "chapter", "§"]
        .iter()
        .any(|word| trimmed.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word)));
    let bare_number = tail.strip_prefix(' ').is_some_and(|tail| {
        let digits = tail.trim_start_matches(|char: char| char.is_ascii_digit());
        digits.len() < tail.len()
            && digits
                .strip_prefix('.')
                .is_some_and(|rest| rest.starts_with(|char: char| char.is_ascii_digit()))
    });
    let well_formed_section = tail
        .strip_prefix(" §")
        .is_some_and(|rest| rest.starts_with(|char: char| char.is_ascii_alphanumeric()));
    let good = from[..number_at] == *"RFC " && !bare_number && (!section || well_formed_section);
    (!good).then(|| format!("write RFC {number}, or RFC {number} §6.8 with a section"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> usize {
        prose("a.md", text).len()
    }

    #[test]
    fn notes_to_self_are_found_as_words() {
        for note in NOTES {
            assert_eq!(faults(&format!("{note}: later")), 1, "{note}");
            assert_eq!(faults(&format!("the word `{note}`, and {note}S")), 0, "{note}");
        }
    }

    #[test]
    fn citations_have_one_form() {
        for good in [
            "RFC 4271",
            "RFC 4271 §6.8",
            "(RFC 4271 §8.2.2, RFC 4724)",
            "RFC 7606: errors",
            "RFCs 4271",
            "RFC 4271 §A.1",
        ] {
            assert_eq!(faults(good), 0, "{good}");
        }
        for bad in [
            "RFC4271",
            "RFC-4271",
            "rfc 4271",
            "RFC 4271, section 6.8",
            "RFC 4271 Section 6",
            "RFC 4271§6",
            "RFC 4271 § 6.8",
            "RFC 4271 6.8",
        ] {
            assert_eq!(faults(bad), 1, "{bad}");
        }
        assert_eq!(faults("https://www.rfc-editor.org/rfc/rfc4271"), 0, "addresses are not citations");
    }

    #[test]
    fn in_settings_only_comments_are_prose() {
        let note = NOTES[0];
        assert_eq!(prose("a.toml", &format!("{note} = 1\nb = 2 # {note}\n")).len(), 1);
    }

    #[test]
    fn in_sources_only_comments_are_prose() {
        let note = NOTES[1];
        let text =
            format!("//! D.\nconst A: &str = \"{note} RFC4271\"; // {note}\n/// See RFC4271.\nfn f() {{}}\n");
        let source = Source::parse("a/src/b.rs", &text).expect("it parses");
        let lines: Vec<usize> = comments(&source).into_iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [2, 3]);
    }

    #[test]
    fn places_on_a_machine_are_found_in_code_too() {
        for place in MACHINE {
            assert_eq!(machine_words("a.rs", &format!("let p = \"{place}x\";")).len(), 1, "{place}");
        }
        assert!(machine_words("a.rs", "the frame/work/flow of home/").is_empty());
    }

    #[test]
    fn numbers_of_a_tracker_are_found() {
        let tracker = concat!("iss", "ue");
        assert_eq!(machine_words("a.rs", &format!("// see {tracker} #12")).len(), 1);
        assert_eq!(machine_words("a.rs", &format!("// ({tracker} 12)")).len(), 1);
        assert!(machine_words("a.rs", &format!("// an {tracker} of style")).is_empty());
    }
}
