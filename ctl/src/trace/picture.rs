//! A trace as a picture: SVG by itself, or in a page. Nothing is fetched from anywhere.

use std::fmt::Write as _;

use super::hops::{Hop, HopKind, Pass, Trace};
use crate::finding::Weight;

const MARGIN: usize = 24;
const GAP: usize = 54;
const CARD: usize = 262;
const WIRE: usize = 190;
/// Of a line of details, and the octets that a card is wide: the font has letters of 6.6.
const LINE: usize = 16;
const LETTER: f32 = 6.7;
/// Where the ways there and back are, and where details begin.
const THERE: usize = 142;
const BACK: usize = 166;
const DETAILS: usize = 218;

const STYLE: &str = "\
svg{--ink:#1c2430;--soft:#5d6b7e;--card:#fff;--pod:#eef4ff;--edge:#b9c4d3;--ground:#f6f8fb;--good:#16803c;--bad:#c8231c;\
--hurt:#fdecea;font-family:ui-sans-serif,system-ui,'Segoe UI',Roboto,sans-serif}\
@media(prefers-color-scheme:dark){svg{--ink:#e8edf4;--soft:#9fb0c6;--card:#1d2733;--pod:#1b2c48;--edge:#465569;\
--ground:#121920;--good:#4cc879;--bad:#ff776e;--hurt:#3b1d1d}}\
.ground{fill:var(--ground)}.card{fill:var(--card);stroke:var(--edge);stroke-width:1.2}.pod{fill:var(--pod)}\
.wire{fill:none;stroke:var(--edge);stroke-dasharray:5 5}.lost{stroke:var(--bad);stroke-width:2.4;fill:var(--hurt)}\
text{fill:var(--ink);font-size:14px}.title{font-size:15px;font-weight:650}.head{font-size:20px;font-weight:700}\
.soft{fill:var(--soft);font-size:12.5px}.mono{font-family:ui-monospace,'DejaVu Sans Mono',Menlo,monospace;font-size:11px}\
.label{font-size:11.5px;font-weight:650}.way{stroke-width:2.6;fill:none}.good{stroke:var(--good)}.none{stroke:var(--edge);stroke-dasharray:3 5}\
.bad{stroke:var(--bad)}.dot{stroke:none}.dot.good{fill:var(--good)}.dot.none{fill:var(--edge)}\
.error{fill:var(--bad);font-weight:650}.well{fill:var(--good);font-weight:650}";

/// The picture.
pub(crate) fn svg(trace: &Trace) -> String {
    let places = places(trace);
    let width = places.last().map_or(0, |(x, width)| x + width) + MARGIN;
    let width = width.max(760);
    let depth =
        trace.hops.iter().zip(&places).map(|(hop, (_, width))| details(hop, *width).len()).max().unwrap_or(0);
    let bottom = DETAILS + depth * LINE + 14;
    let (findings, height) = findings(trace, width, bottom + 34);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" aria-label=\"{}\"><style>{STYLE}</style>\
         <rect class=\"ground\" width=\"{width}\" height=\"{height}\" rx=\"14\"/>",
        escape(&format!("{} to {}: {}", trace.from, trace.to, trace.outcome))
    );
    write(&mut text, "head", MARGIN, 40, &format!("{} → {}", trace.from, trace.to));
    write(&mut text, "soft", MARGIN, 60, &format!("{}: {}", trace.flow, trace.outcome));
    for (hop, place) in trace.hops.iter().zip(&places) {
        card(&mut text, hop, *place, bottom);
    }
    ways(&mut text, trace, &places);
    text + &findings + "</svg>\n"
}

/// The picture in a page.
pub(crate) fn html(trace: &Trace) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>:root{{color-scheme:light dark}}\
         body{{margin:0;padding:24px;background:#fff}}svg{{max-width:100%;height:auto}}\
         @media(prefers-color-scheme:dark){{body{{background:#0c1116}}}}</style></head><body>\n{svg}</body></html>\n",
        title = escape(&format!("{} → {}", trace.from, trace.to)),
        svg = svg(trace)
    )
}

/// Left edge and width of each hop.
fn places(trace: &Trace) -> Vec<(usize, usize)> {
    let mut x = MARGIN;
    let mut places = Vec::new();
    for hop in &trace.hops {
        let width = if hop.kind == HopKind::Wire { WIRE } else { CARD };
        places.push((x, width));
        x += width + GAP;
    }
    places
}

fn card(text: &mut String, hop: &Hop, (x, width): (usize, usize), bottom: usize) {
    let class = match (hop.lost, hop.kind) {
        (true, _) => "card lost",
        (false, HopKind::Pod) => "card pod",
        (false, HopKind::Wire) => "card wire",
        (false, _) => "card",
    };
    let _never_fails = write!(
        text,
        "<rect class=\"{class}\" x=\"{x}\" y=\"82\" width=\"{width}\" height=\"{}\" rx=\"10\"/>",
        bottom - 82
    );
    write(text, "title", x + 14, 106, &hop.name);
    let below = match hop.kind {
        HopKind::Pod => format!("on {}", hop.node),
        HopKind::Wire => "between nodes".to_owned(),
        HopKind::Outside => "cannot be looked into".to_owned(),
        HopKind::Node => String::new(),
    };
    write(text, "soft", x + 14, 123, &below);
    for (pass, (x, anchor)) in [(&hop.entry, (x + 12, "start")), (&hop.exit, (x + width - 12, "end"))] {
        if let Some(pass) = pass {
            let _never_fails = write!(
                text,
                "<text class=\"label\" x=\"{x}\" y=\"{}\" text-anchor=\"{anchor}\">{}</text>",
                BACK + 21,
                escape(&pass.link)
            );
        }
    }
    for (row, line) in details(hop, width).into_iter().enumerate() {
        write(text, "mono", x + 14, DETAILS + row * LINE, &line);
    }
}

fn details(hop: &Hop, width: usize) -> Vec<String> {
    let pass = |pass: &Pass| format!("{} {}", pass.link, pass.about);
    let lines = hop.entry.iter().map(pass).chain(hop.notes.iter().cloned()).chain(hop.exit.iter().map(pass));
    let letters = ((width as f32 - 26.0) / LETTER) as usize;
    lines.flat_map(|line| wrap(&line, letters)).collect()
}

/// The words in lines of at most so many letters; what goes on is moved in.
fn wrap(text: &str, letters: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.trim().is_empty() && line.chars().count() + 1 + word.chars().count() > letters {
            lines.push(std::mem::replace(&mut line, " ".to_owned()));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

/// A point of the ways: where it is, and whether probe and answer passed.
struct Point {
    x: usize,
    there: bool,
    back: bool,
}

fn ways(text: &mut String, trace: &Trace, places: &[(usize, usize)]) {
    let mut points = Vec::new();
    for (hop, (x, width)) in trace.hops.iter().zip(places) {
        let mut point = |pass: &Option<Pass>, x: usize| {
            points.extend(pass.as_ref().map(|pass| Point { x, there: pass.there, back: pass.back }));
        };
        point(&hop.entry, x + 16);
        point(&hop.exit, x + width - 16);
        if hop.kind == HopKind::Outside {
            let reached = trace.stop.is_none();
            points.push(Point { x: x + 16, there: reached, back: reached });
        }
    }
    let lost = |there: bool| {
        let passed = |point: &Point| if there { point.there } else { point.back };
        match there {
            true => points.iter().position(|point| !passed(point)),
            false => points.iter().rposition(|point| !passed(point)),
        }
    };
    for (there, y) in [(true, THERE), (false, BACK)] {
        for pair in points.windows(2) {
            let passed = if there { pair[0].there && pair[1].there } else { pair[0].back && pair[1].back };
            let class = if passed { "good" } else { "none" };
            let (from, to) = (pair[0].x + 6, pair[1].x - 6);
            let _never_fails = write!(text, "<path class=\"way {class}\" d=\"M{from} {y}H{to}\"/>");
            let (tip, wing) = if there { (to, to - 7) } else { (from, from + 7) };
            if passed {
                let _never_fails = write!(
                    text,
                    "<path class=\"way good\" d=\"M{wing} {}L{tip} {y}L{wing} {}\"/>",
                    y - 4,
                    y + 4
                );
            }
        }
        for point in &points {
            let class = if (there && point.there) || (!there && point.back) { "good" } else { "none" };
            let _never_fails =
                write!(text, "<circle class=\"dot {class}\" cx=\"{}\" cy=\"{y}\" r=\"4.5\"/>", point.x);
        }
    }
    let broken = trace.stop.filter(|_| !trace.faults.is_empty());
    if let Some(stop) = broken {
        let there = stop.leg == super::path::Leg::There;
        if let Some(place) = lost(there) {
            let other = if there { place.checked_sub(1) } else { Some(place + 1) };
            let before = other.and_then(|place| points.get(place)).map_or(points[place].x, |point| point.x);
            let (x, y) = (usize::midpoint(before, points[place].x), if there { THERE } else { BACK });
            let _never_fails = write!(
                text,
                "<path class=\"way bad\" stroke-width=\"4\" d=\"M{} {}L{} {}M{} {}L{} {}\"/>",
                x - 8,
                y - 8,
                x + 8,
                y + 8,
                x + 8,
                y - 8,
                x - 8,
                y + 8
            );
        }
    }
}

/// The findings below the picture, and how high all of it is.
fn findings(trace: &Trace, width: usize, top: usize) -> (String, usize) {
    let letters = ((width - 2 * MARGIN) as f32 / 7.4) as usize;
    let mut text = String::new();
    let mut y = top;
    if crate::finding::well(&trace.findings()) {
        write(&mut text, "well", MARGIN, y, "nothing is wrong");
        y += 24;
    }
    for fault in &trace.faults {
        let class = if fault.finding.weight == Weight::Error { "error" } else { "" };
        for line in wrap(&format!("{}: {}", fault.finding.object, fault.finding.what), letters) {
            write(&mut text, class, MARGIN, y, &line);
            y += 20;
        }
        for line in wrap(&format!("→ {}", fault.finding.cure), letters)
            .iter()
            .filter(|_| !fault.finding.cure.is_empty())
        {
            write(&mut text, "soft", MARGIN, y, line);
            y += 20;
        }
        y += 6;
    }
    (text, y)
}

fn write(text: &mut String, class: &str, x: usize, y: usize, words: &str) {
    let _never_fails = write!(
        text,
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" xml:space=\"preserve\">{}</text>",
        escape(words)
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
