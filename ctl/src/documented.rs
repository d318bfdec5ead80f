//! Every call of `manxctl` in the documentation is one that it takes.

use std::path::Path;

use clap::Parser as _;

use super::Arguments;

/// Calls in a page: what follows `manxctl` on a line of a block, or up to the closing backtick.
fn calls(text: &str) -> Vec<String> {
    let mut calls = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        let block = line.trim_start().trim_start_matches("$ ");
        if let Some(call) = block.strip_prefix("manxctl ").filter(|_| fenced || line.starts_with("    ")) {
            calls.push(call.to_owned());
        } else {
            let spans = line.split('`').skip(1).step_by(2);
            calls.extend(spans.filter_map(|span| span.strip_prefix("manxctl ")).map(str::to_owned));
        }
    }
    calls
}

#[test]
fn every_call_in_the_documentation_is_understood() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let pages = std::fs::read_dir(docs).expect("docs").map(|entry| entry.expect("an entry").path());
    let mut seen = 0;
    for page in pages.filter(|page| page.extension().is_some_and(|end| end == "md")) {
        let text = std::fs::read_to_string(&page).expect("a page");
        for call in calls(&text) {
            let call = call.split(['|', '&', '>', '#', ';']).next().unwrap_or_default();
            // A command, or a group of them, that is named and not called.
            if ["explain", "migrate", "migrate calico", "mrt"].contains(&call.trim()) {
                continue;
            }
            let words = std::iter::once("manxctl").chain(call.split_whitespace());
            if let Err(error) = Arguments::try_parse_from(words) {
                panic!("{}: manxctl {call}: {error}", page.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 10, "only {seen} calls were found");
}
