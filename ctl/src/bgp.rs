//! `manxctl bgp`: every BGP session, and of those that are down why they ended last, in words, with what to do.

mod decode;

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use kube::ResourceExt as _;
use manx_api::{NodeNetwork, Session, SessionState};
use serde::Serialize;

use crate::Context;
use crate::finding::{self, Finding};
use crate::show::{Output, Page, Tone};
use crate::table::{Cell, Table, column, names, number, words};

pub(crate) use decode::cure;

/// Which sessions, and how they are shown.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  manxctl bgp
  manxctl bgp --node node2 --peer tor -o wide")]
pub(crate) struct Options {
    /// Only the sessions of this node.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Only the sessions with this peer: node/NAME or peer/NAME, or NAME alone.
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// Lists them.
pub(crate) async fn run(options: Options, context: &Context) -> Result<ExitCode> {
    let networks = crate::list::<NodeNetwork>(&context.client().await?).await?;
    let report = report(&networks, options.node.as_deref(), options.peer.as_deref());
    if report.sessions.is_empty()
        && let Some(wanted) = options.node.as_ref().or(options.peer.as_ref())
    {
        bail!("there is no session of {wanted}: `manxctl peers` lists all");
    }
    context.show.asked(options.output).print(&report, draw)?;
    Ok(finding::exit_code(&report.findings))
}

/// Sessions, and what is wrong with them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Report {
    sessions: Vec<Line>,
    findings: Vec<Finding>,
}

/// One session.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Line {
    node: String,
    #[serde(flatten)]
    session: Session,
    /// Its last error by its names.
    #[serde(rename = "lastErrorDecoded", skip_serializing_if = "Option::is_none")]
    decoded: Option<decode::Decoded>,
}

/// Whether a peer is called so: by its whole name, or by what follows `node/` or `peer/`.
pub(crate) fn is_called(peer: &str, name: &str) -> bool {
    peer == name || peer.split_once('/').is_some_and(|(_, rest)| rest == name)
}

fn report(networks: &[NodeNetwork], node: Option<&str>, peer: Option<&str>) -> Report {
    let mut report = Report::default();
    for network in networks {
        let name = network.name_any();
        if node.is_some_and(|wanted| wanted != name) {
            continue;
        }
        let sessions = network.status.iter().flat_map(|status| &status.sessions);
        for session in sessions.filter(|session| peer.is_none_or(|wanted| is_called(&session.peer, wanted))) {
            let decoded = session.last_error.as_ref().map(decode::decode);
            if session.state != SessionState::Established {
                report.findings.push(wrong(&name, session, decoded.as_ref()));
            }
            report.sessions.push(Line { node: name.clone(), session: session.clone(), decoded });
        }
    }
    report
}

fn wrong(node: &str, session: &Session, decoded: Option<&decode::Decoded>) -> Finding {
    let why = match decoded {
        None => "no error was seen yet".to_owned(),
        Some(decoded) => format!("{}: {}", decoded.name, decoded.cause),
    };
    let what =
        format!("the session with {} is {:?} since {}: {why}", session.peer, session.state, session.since.0);
    Finding::error(format!("node {node}"), what, cure(session)).see("session-down")
}

fn draw(report: &Report, page: &Page) -> String {
    let mut table = Table::new([
        names("NODE"),
        names("PEER"),
        column("ADDRESS"),
        column("ASN"),
        column("STATE"),
        column("FOR"),
        number("IN"),
        number("USED"),
        number("OUT"),
        number("FLAPS"),
        words("LAST ERROR"),
    ]);
    for Line { node, session, decoded } in &report.sessions {
        let tone = if session.state == SessionState::Established { Tone::Good } else { Tone::Bad };
        let shown = |value: Option<String>| Cell::from(value.unwrap_or_default());
        table.row([
            node.into(),
            (&session.peer).into(),
            shown(session.address.map(|address| address.to_string())),
            shown(session.as_number.map(|asn| asn.to_string())),
            Cell::toned(format!("{:?}", session.state), tone),
            page.ago(session.since.0).into(),
            session.received.into(),
            session.accepted.into(),
            session.advertised.into(),
            session.flaps.into(),
            shown(decoded.as_ref().map(|decoded| decoded.name.clone())),
        ]);
    }
    let mut text = table.render(page);
    // What once ended a session that is up again is for who asks for more.
    let told = |line: &&Line| page.wide || line.session.state != SessionState::Established;
    for Line { node, session, decoded } in report.sessions.iter().filter(told) {
        let (Some(decoded), Some(error)) = (decoded, &session.last_error) else { continue };
        let who = if error.by_peer { "the peer ended it" } else { "this side ended it" };
        let head = format!("{node} {}, {} ago, {who}: {}", session.peer, page.ago(error.when.0), error.text);
        let _never_fails = writeln!(text, "\n{}", page.wrap(&head, "", "  "));
        let _never_fails = writeln!(text, "{}", page.wrap(&decoded.cause, "  means  ", "         "));
        let _never_fails = writeln!(text, "{}", page.wrap(&decoded.cure, "  cure   ", "         "));
    }
    text + "\n" + &finding::render(&report.findings, page)
}

#[cfg(test)]
mod tests {
    use manx_api::{NodeNetworkStatus, SessionError, Time, Timestamp};

    use super::*;

    fn network() -> NodeNetwork {
        let since = Time(Timestamp::UNIX_EPOCH);
        let error = SessionError {
            by_peer: true,
            code: Some(6),
            subcode: Some(2),
            ..SessionError::new(since.clone(), "Cease/Administrative Shutdown: moving racks")
        };
        let down = Session {
            last_error: Some(error),
            as_number: Some(65000),
            flaps: 1,
            ..Session::new("peer/tor", SessionState::Idle, since.clone())
        };
        let up = Session::new("node/node2", SessionState::Established, since);
        let status = NodeNetworkStatus { sessions: vec![up, down], ..NodeNetworkStatus::default() };
        NodeNetwork { status: Some(status), ..NodeNetwork::example() }
    }

    #[test]
    fn a_session_that_is_down_is_named_with_the_meaning_of_its_last_error_and_a_cure() {
        let report = report(&[network()], None, None);
        let text = draw(&report, &Page::plain());
        for part in [
            "Cease/Administrative Shutdown",
            "the peer ended it: Cease/Administrative Shutdown: moving racks",
            "means  an operator shut the session down on the peer",
            "error: node node1: the session with peer/tor is Idle",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert_eq!(report.findings.len(), 1);
    }

    #[test]
    fn a_peer_may_be_named_without_its_kind() {
        let of = |peer| report(&[network()], None, Some(peer)).sessions.len();
        assert_eq!((of("tor"), of("peer/tor"), of("node2"), of("or")), (1, 1, 1, 0));
    }
}
