//! `manxctl routes`: the BGP tables of nodes: best routes, what a peer said, what a peer is told.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Result, bail};
use ipnetwork::IpNetwork;
use kube::ResourceExt as _;
use manx_facts::bgp::{RouteLine, Routes, RoutesQuestion, Side};
use serde::Serialize;

use crate::ask::Away;
use crate::show::{Output, Page, Tone};
use crate::table::{Cell, Table, column, names, words};
use crate::{Context, bgp};

/// Which routes, and how they are shown.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  manxctl routes --prefix 10.244.0.0/16
  manxctl routes --node node2 --peer tor in
  manxctl routes --node node2 --peer tor out -o wide")]
pub(crate) struct Options {
    /// Only the tables of this node.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// What this peer said (in, before policy), or is told (out): node/NAME, peer/NAME or NAME. Without it the best route
    /// of each prefix.
    #[arg(long, num_args = 1..=2, value_names = ["NAME", "in|out"])]
    peer: Vec<String>,
    /// Only prefixes in this one.
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<IpNetwork>,
    /// At most so many routes of each node.
    #[arg(long, value_name = "NUMBER", default_value = "1000")]
    most: u32,
    #[command(flatten)]
    output: Output,
}

/// Lists them.
pub(crate) async fn run(options: Options, context: &Context) -> Result<ExitCode> {
    let side = side(&options.peer)?;
    let nodes = context.nodes().await?;
    let networks = crate::list::<manx_api::NodeNetwork>(&context.client().await?).await?;
    let wanted: Vec<&str> =
        nodes.names().filter(|name| options.node.as_deref().is_none_or(|node| node == *name)).collect();
    if wanted.is_empty() {
        bail!("there is no node {}: `manxctl nodes` lists all", options.node.unwrap_or_default());
    }
    let progress = context.show.progress("asking the nodes");
    let mut answers: BTreeMap<String, Result<Routes, Away>> = BTreeMap::new();
    let question = |peer| RoutesQuestion { side, peer, within: options.prefix, most: options.most.max(1) };
    match options.peer.first() {
        None => answers = nodes.ask_these(wanted, &question(None)).await,
        // What the peer is called may be another on each node.
        Some(name) => {
            for network in networks.iter().filter(|network| wanted.contains(&network.name_any().as_str())) {
                let sessions = network.status.iter().flat_map(|status| &status.sessions);
                for session in sessions.filter(|session| bgp::is_called(&session.peer, name)) {
                    let node = network.name_any();
                    let answer = nodes.ask(&node, &question(Some(session.peer.clone()))).await;
                    answers.insert(node, answer);
                }
            }
            if answers.is_empty() {
                bail!("no node has a peer {name}: `manxctl peers` lists all");
            }
        }
    }
    drop(progress);
    let report = report(side, answers);
    context.show.asked(options.output).print(&report, draw)?;
    Ok(if report.away.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn side(peer: &[String]) -> Result<Side> {
    Ok(match peer.get(1).map(String::as_str) {
        None if peer.is_empty() => Side::Best,
        None | Some("in") => Side::In,
        Some("out") => Side::Out,
        Some(other) => bail!("--peer NAME {other}: say in (what it said) or out (what it is told)"),
    })
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    side: Side,
    routes: Vec<Line>,
    /// Routes that were left out, by node.
    left_out: BTreeMap<String, u64>,
    /// Nodes that did not answer, with why.
    away: BTreeMap<String, String>,
}

/// One route of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Line {
    node: String,
    #[serde(flatten)]
    route: RouteLine,
}

fn report(side: Side, answers: BTreeMap<String, Result<Routes, Away>>) -> Report {
    let mut report = Report { side, ..Report::default() };
    for (node, answer) in answers {
        match answer {
            Err(away) => drop(report.away.insert(node, away.to_string())),
            Ok(table) => {
                if table.left_out > 0 {
                    report.left_out.insert(node.clone(), table.left_out);
                }
                report
                    .routes
                    .extend(table.routes.into_iter().map(|route| Line { node: node.clone(), route }));
            }
        }
    }
    report
}

fn draw(report: &Report, page: &Page) -> String {
    let peer = match report.side {
        Side::Out => "TO",
        Side::Best | Side::In => "FROM",
    };
    let mut table = Table::new([
        names("NODE"),
        column("PREFIX"),
        names(peer),
        column("NEXT HOP"),
        words("AS PATH"),
        column("PREF").wide(),
        column("MED").wide(),
        words("COMMUNITIES").wide(),
        words("VERDICT"),
    ]);
    for Line { node, route } in &report.routes {
        let said = &route.attributes;
        let verdict = match report.side == Side::In && (route.verdict.starts_with("re")) {
            true => Cell::toned(&route.verdict, Tone::Doubtful),
            false => Cell::from(&route.verdict),
        };
        let number =
            |value: Option<u32>| Cell::from(value.map_or_else(String::new, |value| value.to_string()));
        table.row([
            node.into(),
            route.prefix.into(),
            route.peer.as_deref().unwrap_or("itself").into(),
            (&said.next_hop).into(),
            (&said.as_path).into(),
            number(said.local_pref),
            number(said.med),
            said.communities.join(" ").into(),
            verdict,
        ]);
    }
    let mut text = match report.routes.is_empty() {
        true => "no routes\n".to_owned(),
        false => table.render(page),
    };
    for (node, more) in &report.left_out {
        text += &format!("\nnode {node} has {more} more: name a --prefix, or ask for more with --most\n");
    }
    for (node, why) in &report.away {
        text += &format!("\n{}\n", page.wrap(&format!("node {node} is away: {why}"), "", "  "));
    }
    text
}

#[cfg(test)]
mod tests {
    use manx_facts::bgp::Attributes;

    use super::*;

    #[test]
    fn nodes_that_are_away_and_routes_that_were_left_out_are_named() {
        let attributes = Attributes { next_hop: "172.30.2.2".to_owned(), ..Attributes::default() };
        let route = RouteLine {
            prefix: "10.244.1.0/26".parse().expect("a prefix"),
            peer: Some("node/node2".to_owned()),
            attributes,
            verdict: "the only one".to_owned(),
            selected: true,
        };
        let answers = BTreeMap::from([
            ("node1".to_owned(), Ok(Routes { routes: vec![route], left_out: 7 })),
            ("node3".to_owned(), Err(Away::NoAgent)),
        ]);
        assert_eq!(
            draw(&report(Side::Best, answers), &Page::plain()),
            "NODE   PREFIX         FROM        NEXT HOP    AS PATH  VERDICT\n\
             node1  10.244.1.0/26  node/node2  172.30.2.2           the only one\n\
             \nnode node1 has 7 more: name a --prefix, or ask for more with --most\n\
             \nnode node3 is away: no agent's pod is on it: look at `kubectl -n manx-system get pods -o wide`\n"
        );
    }

    #[test]
    fn a_peer_is_asked_for_what_it_said_unless_for_what_it_is_told() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(side(&words(&[])).expect("none"), Side::Best);
        assert_eq!(side(&words(&["tor"])).expect("one"), Side::In);
        assert_eq!(side(&words(&["tor", "out"])).expect("two"), Side::Out);
        assert!(side(&words(&["tor", "up"])).is_err());
    }
}
