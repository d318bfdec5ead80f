//! The explanation as text.

use std::fmt::Write as _;

use super::{Chain, Report};
use crate::finding;
use crate::show::{Page, Tone};
use crate::table::{Cell, Table, column, names, words};

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
    for away in &report.away {
        let _never_fails =
            writeln!(text, "{}\n", page.wrap(&format!("node {} is away: {}", away.node, away.why), "", "  "));
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
        line(told(chain, page).trim_end().to_owned());
    }
    if chain.nodes.is_empty() {
        return;
    }
    line(match &chain.node {
        Some(node) => format!("\nhow other nodes reach {node}"),
        None => "\nwhat nodes have of it".to_owned(),
    });
    let mut table = Table::new([names("NODE"), column("BGP"), words("WHY"), column("KERNEL")]);
    for way in &chain.nodes {
        table.row([
            way.node.clone().into(),
            way.bgp.clone().into(),
            way.why.clone().into(),
            way.kernel.clone().into(),
        ]);
    }
    line(table.render(page).trim_end().to_owned());
    for way in &chain.nodes {
        for other in &way.others {
            line(page.wrap(&format!("{}: path of {other}", way.node), "  ", "    "));
        }
    }
}

/// Peers that are told the same are one line.
fn told(chain: &Chain, page: &Page) -> String {
    let mut groups: Vec<(Vec<&str>, &super::Told)> = Vec::new();
    for told in &chain.told {
        let same = |(_, other): &&mut (Vec<&str>, &super::Told)| {
            other.told == told.told && other.attributes == told.attributes && other.by == told.by
        };
        match groups.iter_mut().find(same) {
            Some((peers, _)) => peers.push(&told.peer),
            None => groups.push((vec![&told.peer], told)),
        }
    }
    let mut table = Table::new([words("TO"), words("ATTRIBUTES"), words("BY")]);
    for (peers, told) in groups {
        let attributes = match told.told {
            true => Cell::from(&told.attributes),
            false => Cell::toned("not told", Tone::Doubtful),
        };
        table.row([peers.join(", ").into(), attributes, told.by.clone().into()]);
    }
    table.render(page)
}
