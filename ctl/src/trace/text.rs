//! A trace as text for a terminal.

use std::fmt::Write as _;

use super::hops::{Hop, HopKind, Pass, Trace};
use super::path::Leg;
use crate::finding;
use crate::show::{Page, Tone};

/// Draws it from top to bottom.
pub(crate) fn draw(trace: &Trace, page: &Page) -> String {
    let mut text = format!("{} → {}\n{}\n\n", trace.from, trace.to, trace.flow);
    for hop in &trace.hops {
        draw_hop(&mut text, trace, hop, page);
    }
    let well = finding::well(&trace.findings());
    let tone = if well { Tone::Good } else { Tone::Bad };
    let _never_fails = writeln!(text, "\n{}\n", page.paint(tone, &trace.outcome));
    text + &finding::render(&trace.findings(), page)
}

fn draw_hop(text: &mut String, trace: &Trace, hop: &Hop, page: &Page) {
    let on = if hop.node.is_empty() || hop.kind == HopKind::Node {
        String::new()
    } else {
        format!(" on {}", hop.node)
    };
    let dot = match (hop.lost, hop.kind) {
        (true, _) => page.paint(Tone::Bad, "✗"),
        (false, HopKind::Wire) => "┊".to_owned(),
        (false, _) => "●".to_owned(),
    };
    let bar = if hop.kind == HopKind::Wire { "┊" } else { "│" };
    let _never_fails = writeln!(text, "{dot} {}{on}", hop.name);
    let mut line = |words: String| {
        let _never_fails =
            writeln!(text, "{}", page.wrap(&words, &format!("{bar}   "), &format!("{bar}     ")));
    };
    if let Some(pass) = &hop.entry {
        line(draw_pass(pass, page));
    }
    for note in &hop.notes {
        line(note.clone());
    }
    if let Some(pass) = &hop.exit {
        line(draw_pass(pass, page));
    }
    if let Some(stop) = trace.stop.filter(|_| hop.lost) {
        let what = if stop.leg == Leg::There { "the probe stops here" } else { "the answer stops here" };
        line(page.paint(Tone::Bad, &format!("✗ {what}")));
    }
}

fn draw_pass(pass: &Pass, page: &Page) -> String {
    let at = |at: Option<u64>| {
        at.map_or_else(String::new, |micros| format!(" {}.{:03} ms", micros / 1000, micros % 1000))
    };
    let mark = |arrow: &str, passed: bool, when| match passed {
        true => page.paint(Tone::Good, &format!("{arrow}{}", at(when))),
        false => page.paint(Tone::Quiet, "·"),
    };
    let there = mark("→", pass.there, pass.there_at);
    let back = mark("←", pass.back, pass.back_at);
    format!("{} {}  {there} {back}", pass.link, pass.about)
}
