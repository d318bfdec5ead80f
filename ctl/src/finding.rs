//! Findings: what is wrong with what, and what to do about it. Every command that judges says it in these.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;

use crate::show::{Page, Tone};

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Weight {
    /// Worth knowing; nothing is wrong.
    Note,
    /// Not yet harmful, or only for some.
    Warning,
    /// Something does not work, or will not.
    Error,
}

/// How many names of a list are told.
pub(crate) const NAMED: usize = 3;

/// The first names of a list, and how many more there are than `most`.
pub(crate) fn named<S: AsRef<str>>(names: &[S], most: usize) -> String {
    let first = names.iter().take(most).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(most) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// One thing that was found, in one sentence, and its cure in another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finding {
    /// How much it matters.
    pub(crate) weight: Weight,
    /// What it is about, as in `node node2` or `pool pods-v4`.
    pub(crate) object: String,
    /// What is wrong with it: a sentence without the object, its capital and its full stop.
    pub(crate) what: String,
    /// What to do; empty for a note that needs nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) cure: String,
    /// The heading of docs/operate.md with more, as its anchor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) see: Option<&'static str>,
    /// The nodes that it concerns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) nodes: Vec<String>,
}

impl Finding {
    /// Something that does not work.
    pub(crate) fn error(object: impl Into<String>, what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::new(Weight::Error, object, what, cure)
    }

    /// Something that is not yet harmful.
    pub(crate) fn warning(
        object: impl Into<String>,
        what: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self::new(Weight::Warning, object, what, cure)
    }

    /// Something worth knowing.
    pub(crate) fn note(object: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Weight::Note, object, what, "")
    }

    fn new(
        weight: Weight,
        object: impl Into<String>,
        what: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self {
            weight,
            object: object.into(),
            what: what.into(),
            cure: cure.into(),
            see: None,
            nodes: Vec::new(),
        }
    }

    /// With the heading of docs/operate.md that has more, as its anchor.
    pub(crate) fn see(self, anchor: &'static str) -> Self {
        Self { see: Some(anchor), ..self }
    }

    /// With a node that it concerns.
    pub(crate) fn on(mut self, node: impl Into<String>) -> Self {
        self.nodes.push(node.into());
        self
    }

    /// Whether it has to do with that node.
    pub(crate) fn concerns(&self, node: &str) -> bool {
        self.nodes.iter().any(|one| one == node)
    }
}

/// Whether nothing is wrong: notes are not.
pub(crate) fn well(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.weight == Weight::Note)
}

/// 0 when nothing is wrong, else 1.
pub(crate) fn exit_code(findings: &[Finding]) -> ExitCode {
    if well(findings) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All of them as lines, the worst first; `nothing is wrong` when that is so.
pub(crate) fn render(findings: &[Finding], page: &Page) -> String {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| std::cmp::Reverse(finding.weight));
    let mut text = match well(findings) {
        true => format!("{}\n", page.paint(Tone::Good, "nothing is wrong")),
        false => "what is wrong, and what to do:\n".to_owned(),
    };
    for finding in sorted {
        text.push_str(&lines(finding, page));
    }
    text
}

fn lines(finding: &Finding, page: &Page) -> String {
    let (word, tone) = match finding.weight {
        Weight::Error => ("error", Tone::Bad),
        Weight::Warning => ("warning", Tone::Doubtful),
        Weight::Note => ("note", Tone::Quiet),
    };
    let mut text = String::new();
    let head = page.wrap(&format!("{word}: {}: {}", finding.object, finding.what), "- ", "  ");
    let _never_fails = writeln!(text, "{}", head.replacen(word, &page.paint(tone, word), 1));
    let see = finding.see.map(|anchor| format!("docs/operate.md#{anchor}"));
    let cure = match (finding.cure.is_empty(), see) {
        (true, None) => return text,
        (true, Some(see)) => format!("see {see}"),
        (false, None) => finding.cure.clone(),
        (false, Some(see)) => format!("{} ({see})", finding.cure),
    };
    let _never_fails = writeln!(text, "{}", page.wrap(&cure, "  → ", "    "));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_comes_first_and_each_has_its_cure() {
        let findings = [
            Finding::warning("pool a", "it is nearly full", "make another").see("addresses-run-out"),
            Finding::error("node b", "it is away", "start it"),
        ];
        assert_eq!(
            render(&findings, &Page::plain()),
            "what is wrong, and what to do:\n\
             - error: node b: it is away\n  → start it\n\
             - warning: pool a: it is nearly full\n  → make another (docs/operate.md#addresses-run-out)\n"
        );
        assert!(!well(&findings));
    }

    #[test]
    fn a_note_is_nothing_wrong() {
        let findings = [Finding::new(Weight::Note, "node a", "it is new", "")];
        assert!(well(&findings));
        assert_eq!(render(&findings, &Page::plain()), "nothing is wrong\n- note: node a: it is new\n");
    }
}
