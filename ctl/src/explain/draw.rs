//! The explanation as text.

use std::fmt::Write as _;

use super::{Chain, Report, Told, Way};
use crate::finding;
use crate::show::{Page, Tone};

/// All of it.
pub(super) fn report(report: &Report, page: &Page) -> String {
    let mut text = String::new();
    for chain in &report.chains {
        self::chain(chain, page, &mut text);
        text.push('\n');
    }
    if report.chains.is_empty() {
        let _never_fails = writeln!(text, "{}\n", page.paint(Tone::Strong, &report.subject));
    }
    text + &finding::render(&report.findings, page)
}

fn chain(chain: &Chain, page: &Page, text: &mut String) {
    let mut line = |words: String| text.push_str(&(words + "\n"));
    let network = chain.network;
    let host = network.prefix() == if network.is_ipv4() { 32 } else { 128 };
    let title = if host { network.ip().to_string() } else { network.to_string() };
    line(page.paint(Tone::Strong, &title));
    for link in &chain.links {
        line(page.wrap(&link.is, &format!("  {:<8} ", link.what), "           "));
    }
    if let (Some(node), Some(announced)) = (&chain.node, chain.announced) {
        line(format!("\n{node} announces {announced}"));
        for (peers, told) in groups(&chain.told, |told| &told.peer, same_told) {
            let peers = peers.join(", ");
            if told.told {
                line(page.wrap(&peers, "  to ", "     "));
                line(page.wrap(&told.attributes, "    says    ", "            "));
                line(page.wrap(&told.by, "    by      ", "            "));
            } else {
                line(page.wrap(&format!("{peers}: {}", told.by), "  not to ", "    "));
            }
        }
    }
    if chain.nodes.is_empty() {
        return;
    }
    line(match &chain.node {
        Some(node) => format!("\nhow other nodes reach {node}"),
        None => "\nwhat nodes have of it".to_owned(),
    });
    for (nodes, way) in groups(&chain.nodes, |way| &way.node, same_way) {
        line(page.wrap(&nodes.join(", "), "  ", "  "));
        let why = if way.why.is_empty() { String::new() } else { format!(" ({})", way.why) };
        line(page.wrap(&format!("{}{why}", way.bgp), "    BGP     ", "            "));
        for other in &way.others {
            line(page.wrap(other, "    not     ", "            "));
        }
        line(page.wrap(&way.kernel, "    kernel  ", "            "));
    }
}

/// Those that are the same but for their names, which stand together: in a large cluster most are.
fn groups<'a, T>(
    all: &'a [T],
    name: impl Fn(&'a T) -> &'a String,
    same: impl Fn(&T, &T) -> bool,
) -> Vec<(Vec<&'a str>, &'a T)> {
    let mut groups: Vec<(Vec<&str>, &T)> = Vec::new();
    for one in all {
        match groups.iter_mut().find(|(_, other)| same(one, other)) {
            Some((names, _)) => names.push(name(one)),
            None => groups.push((vec![name(one)], one)),
        }
    }
    groups
}

fn same_told(one: &Told, other: &Told) -> bool {
    (one.told, &one.attributes, &one.by) == (other.told, &other.attributes, &other.by)
}

fn same_way(one: &Way, other: &Way) -> bool {
    (&one.bgp, &one.why, &one.kernel, &one.others) == (&other.bgp, &other.why, &other.kernel, &other.others)
}
