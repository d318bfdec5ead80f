//! The list of documents in the crate's essay and the one in `docs/rfcs.md` are the same.

use std::collections::BTreeSet;

/// The numbers in the first cells of tables.
fn rows(text: &str) -> BTreeSet<u16> {
    let cells = text.lines().filter_map(|line| line.strip_prefix("| "));
    cells.filter_map(|cell| cell.split_whitespace().next()?.parse().ok()).collect()
}

/// The numbers of the essay's paragraph on RFCs.
fn listed(essay: &str) -> BTreeSet<u16> {
    let paragraph = essay.split("//! # RFCs\n").nth(1).expect("a section on RFCs");
    let paragraph = paragraph.split("Absent").next().unwrap_or_default();
    paragraph.split(|letter: char| !letter.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn every_rfc_of_the_essay_has_a_row_and_every_row_is_in_the_essay() {
    let table = rows(include_str!("../../../docs/rfcs.md"));
    let essay = listed(include_str!("../../src/lib.rs"));
    assert!(essay.len() > 30);
    assert_eq!(table, essay);
}
