//! `manxctl peers`: every BGP session, as the agents tell of them.

use std::process::ExitCode;

use anyhow::Result;
use kube::ResourceExt as _;
use manx_api::{Session, SessionError, SessionState};
use serde::Serialize;

use crate::Context;
use crate::cluster::{Cluster, Part};
use crate::show::{Live, Page, Tone};
use crate::table::{Cell, Table, column, names, number, words};

/// Which sessions, and how they are shown.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  manxctl peers                        # every session of every node
  manxctl peers --down                 # those that are not up
  manxctl peers --node node1 -o wide   # what was agreed on, and the last error with its octets
  manxctl peers --watch")]
pub(crate) struct Options {
    /// Only the sessions of this node.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Only the sessions that are not up.
    #[arg(long)]
    down: bool,
    #[command(flatten)]
    live: Live,
}

impl Options {
    fn wants(&self, row: &Row) -> bool {
        self.node.as_ref().is_none_or(|node| *node == row.node)
            && !(self.down && row.session.state == SessionState::Established)
    }
}

/// Lists them.
pub(crate) async fn run(options: Options, context: &Context) -> Result<ExitCode> {
    let find = |cluster: &Cluster| rows(cluster, |row| options.wants(row));
    context.each(&[Part::Networks], options.live, find, |rows, page| table(rows, page)).await?;
    Ok(ExitCode::SUCCESS)
}

/// One session of one node.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    pub(crate) node: String,
    #[serde(flatten)]
    pub(crate) session: Session,
}

/// The sessions that are wanted, by node and peer.
pub(crate) fn rows(cluster: &Cluster, wanted: impl Fn(&Row) -> bool) -> Vec<Row> {
    let of = |network: &manx_api::NodeNetwork| {
        let node = network.name_any();
        let sessions = network.status.iter().flat_map(|status| &status.sessions).cloned();
        sessions.map(|session| Row { node: node.clone(), session }).collect::<Vec<_>>()
    };
    cluster.networks.iter().flat_map(of).filter(wanted).collect()
}

/// A line for each.
pub(crate) fn table(rows: &[Row], page: &Page) -> String {
    let mut table = Table::new([
        names("NODE"),
        names("PEER"),
        column("ADDRESS"),
        number("ASN").spare(2),
        column("STATE"),
        column("SINCE"),
        number("RECEIVED").spare(3),
        number("ACCEPTED").spare(1),
        number("ADVERTISED").spare(4),
        column("ROUTER ID").wide(),
        number("HOLD").wide(),
        number("FLAPS").wide(),
        number("STALE").wide(),
        column("LIMITS").wide(),
        column("RETRY").wide(),
        column("RANGE").wide(),
        column("CAPABILITIES").wide(),
        column("ERROR").wide(),
        column("CODE").wide(),
        column("DATA").wide(),
        words("LAST ERROR"),
    ]);
    for row in rows {
        let session = &row.session;
        let cells = [Cell::from(&row.node), Cell::from(&session.peer)].into_iter();
        let error = session.last_error.as_ref();
        let last = match session.state {
            // It is up again: when that was matters more than what.
            SessionState::Established => {
                let before = error.map(|error| format!("{} ago: {}", page.ago(error.when.0), error.line()));
                Cell::toned(before.unwrap_or_default(), Tone::Quiet)
            }
            _ => Cell::toned(error.map_or_else(String::new, SessionError::line), Tone::Bad),
        };
        table.row(cells.chain(state(session, page)).chain(more(session, page)).chain([last]));
    }
    table.render(page)
}

fn state(session: &Session, page: &Page) -> [Cell; 7] {
    let up = session.state == SessionState::Established;
    [
        shown(session.address).into(),
        shown(session.as_number).into(),
        Cell::toned(format!("{:?}", session.state), if up { Tone::Good } else { Tone::Bad }),
        page.ago(session.since.0).into(),
        session.received.into(),
        session.accepted.into(),
        session.advertised.into(),
    ]
}

/// The further columns of `-o wide`.
fn more(session: &Session, page: &Page) -> [Cell; 11] {
    let error = session.last_error.as_ref();
    let code = error.and_then(|error| Some(format!("{}/{}", error.code?, error.subcode?)));
    let limits = session.families.iter().map(|family| format!("{}/{}", family.received, family.limit));
    let stale: u32 = session.families.iter().map(|family| family.stale).sum();
    let ahead = |time: &manx_api::Time| crate::show::age(time.0.as_second() - page.now.as_second());
    let text = |text: String| Cell::from(if text.is_empty() { "-".to_owned() } else { text });
    [
        shown(session.router_id).into(),
        shown(session.hold_time_seconds).into(),
        session.flaps.into(),
        stale.into(),
        text(limits.collect::<Vec<_>>().join(",")),
        shown(session.retry_at.as_ref().map(|time| format!("in {}", ahead(time)))).into(),
        match session.lingers {
            true => "lingers".into(),
            false => shown(session.range.clone()).into(),
        },
        text(session.capabilities.join(", ")),
        shown(error.map(|error| page.ago(error.when.0))).into(),
        shown(code).into(),
        text(error.map_or_else(String::new, |error| error.data.clone())),
    ]
}

fn shown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use manx_api::{NodeNetwork, NodeNetworkStatus, Time, Timestamp};

    use super::*;

    fn cluster(state: SessionState) -> Cluster {
        let since = Time(Timestamp::from_second(-300).expect("in range"));
        let mut error = SessionError::new(since.clone(), "Hold Timer Expired");
        (error.code, error.subcode, error.data) = (Some(4), Some(0), "0c".to_owned());
        let session = Session {
            address: "172.30.2.2".parse().ok(),
            as_number: Some(64512),
            last_error: Some(error),
            hold_time_seconds: Some(90),
            capabilities: vec!["route refresh".to_owned()],
            received: 3,
            accepted: 2,
            advertised: 1,
            ..Session::new("node/node2", state, since)
        };
        let mut node = NodeNetwork::example();
        node.status = Some(NodeNetworkStatus { sessions: vec![session], ..Default::default() });
        Cluster { networks: vec![node], ..Cluster::default() }
    }

    #[test]
    fn peers_can_be_asked_for_one_node_and_for_those_that_are_down() {
        let up = cluster(SessionState::Established);
        let text = table(&rows(&up, |_| true), &Page::plain());
        let line = "node1  node/node2  172.30.2.2  64512  Established  5m            3         2           1  5m ago: Hold Timer Expired";
        assert_eq!(text.lines().nth(1), Some(line));
        let count = |node: Option<&str>, down, cluster: &Cluster| {
            let node = node.map(str::to_owned);
            let options = Options { node, down, live: Live::default() };
            rows(cluster, |row| options.wants(row)).len()
        };
        assert_eq!((count(Some("node1"), false, &up), count(Some("node9"), false, &up)), (1, 0));
        assert_eq!((count(None, true, &up), count(None, true, &cluster(SessionState::Idle))), (0, 1));
    }

    #[test]
    fn wide_shows_what_was_agreed_on_and_the_error_with_its_octets() {
        let rows = rows(&cluster(SessionState::Active), |_| true);
        let text = table(&rows, &Page { wide: true, ..Page::plain() });
        let line = text.lines().nth(1).expect("a session");
        for part in ["  90  ", "route refresh", "  4/0  ", "  0c  ", "Hold Timer Expired"] {
            assert!(line.contains(part), "{part:?} in {line:?}");
        }
    }

    #[test]
    fn data_has_the_whole_session_beside_the_node() {
        let rows = rows(&cluster(SessionState::Active), |_| true);
        let json = serde_json::to_value(&rows).expect("plain data");
        assert_eq!((&json[0]["node"], &json[0]["lastError"]["code"]), (&"node1".into(), &4.into()));
    }
}
