//! What the objects say, put together: pure functions from objects to text.

use kube::ResourceExt;
use manx_api::{
    Condition, IPBlock, IPPool, NodeNetwork, NodeNetworkStatus, Session, SessionError, SessionState,
    condition, is_true,
};

use crate::cluster::Cluster;
use crate::finding::{self, Finding};
use crate::show::Page;
use crate::table::{Cell, Column, Table, column, names, words};

/// Nodes, pools, and what is wrong.
pub(crate) fn status(cluster: &Cluster, page: &Page) -> String {
    let header = [names("NODE"), column("IPV4"), column("IPV6"), column("ASN"), column("SESSIONS")];
    let mut nodes = Table::new(header.into_iter().chain(["BLOCKS", "READY", "VERSION"].map(column)));
    cluster.nodes.iter().for_each(|node| nodes.row(node_row(node).map(Cell::from)));
    let header = ["CIDR", "BLOCKS", "USED", "FREE", "READY"].map(column);
    let mut pools = Table::new([names("POOL")].into_iter().chain(header));
    cluster.pools.iter().for_each(|pool| pools.row(pool_row(pool, &cluster.blocks).map(Cell::from)));
    let findings = finding::render(&problems(cluster), page);
    format!("{}\n{}\n{findings}", nodes.render(page), pools.render(page))
}

/// One line per session, of all nodes or of one; `wide` has more columns.
pub(crate) fn peers(cluster: &Cluster, node: Option<&str>, wide: bool, page: &Page) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for network in cluster.nodes.iter().filter(|network| node.is_none_or(|node| network.name_any() == node)) {
        for session in sessions(network) {
            let mut row = vec![
                network.name_any(),
                session.peer.clone(),
                shown(session.address),
                shown(session.as_number),
                format!("{:?}", session.state),
                session.since.0.to_string(),
                format!("{}/{}", session.accepted, session.received),
                session.advertised.to_string(),
            ];
            if wide {
                row.extend(more(session));
            }
            row.push(session.last_error.as_ref().map_or_else(String::new, SessionError::line));
            rows.push(row);
        }
    }
    let mut header: Vec<Column> = vec![names("NODE"), names("PEER")];
    header.extend(["ADDRESS", "ASN", "STATE", "SINCE", "ACCEPTED", "ADVERTISED"].map(column));
    if wide {
        let more = ["ROUTER ID", "HOLD", "FLAPS", "STALE", "LIMITS", "RETRY AT", "RANGE", "CAPABILITIES"];
        header.extend(more.map(column));
        header.extend(["ERROR AT", "CODE", "DATA"].map(column));
    }
    header.push(words("LAST ERROR"));
    let mut table = Table::new(header);
    rows.into_iter().for_each(|row| table.row(row.into_iter().map(Cell::from)));
    table.render(page)
}

/// The further columns of `-o wide`.
fn more(session: &Session) -> [String; 11] {
    let error = session.last_error.as_ref();
    let code = error.and_then(|error| Some(format!("{}/{}", error.code?, error.subcode?)));
    let limits = session.families.iter().map(|family| format!("{}/{}", family.received, family.limit));
    let stale: u32 = session.families.iter().map(|family| family.stale).sum();
    [
        shown(session.router_id),
        shown(session.hold_time_seconds),
        session.flaps.to_string(),
        stale.to_string(),
        limits.collect::<Vec<_>>().join(","),
        shown(session.retry_at.as_ref().map(|time| time.0)),
        match session.lingers {
            true => "lingers".to_owned(),
            false => session.range.clone().unwrap_or_default(),
        },
        session.capabilities.join(", "),
        shown(error.map(|error| error.when.0)),
        code.unwrap_or_default(),
        error.map_or_else(String::new, |error| error.data.clone()),
    ]
}

fn shown(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// One sentence for each thing that is wrong, most local first.
pub(crate) fn problems(cluster: &Cluster) -> Vec<Finding> {
    let mut problems = Vec::new();
    for network in &cluster.nodes {
        let name = network.name_any();
        let Some(status) = &network.status else {
            problems.push(
                Finding::error(
                    format!("node {name}"),
                    "its agent has not reported yet",
                    "look at the agent's log there",
                )
                .see("agent-down"),
            );
            continue;
        };
        problems.extend(conditions(&format!("node {name}"), &status.conditions));
        for session in status.sessions.iter().filter(|session| session.state != SessionState::Established) {
            let why = session
                .last_error
                .as_ref()
                .map_or_else(|| "no error was seen yet".to_owned(), SessionError::line);
            let what = format!(
                "the session with {} is {:?} since {}: {why}",
                session.peer, session.state, session.since.0
            );
            problems.push(Finding::error(format!("node {name}"), what, "").see("session-down"));
        }
    }
    for pool in &cluster.pools {
        let listed = pool.status.as_ref().map_or(&[][..], |status| &status.conditions);
        problems.extend(conditions(&format!("pool {}", pool.name_any()), listed));
    }
    for block in &cluster.blocks {
        if !cluster.nodes.iter().any(|network| network.name_any() == block.spec.node) {
            let what = format!("its owner {} has no agent", block.spec.node);
            let cure = "the controller returns it once the node is gone for good";
            problems.push(Finding::warning(format!("block {}", block.spec.cidr), what, cure));
        }
    }
    problems
}

/// Types of conditions whose being true is bad news; all others are good news.
const BAD_WHEN_TRUE: [&str; 3] = ["NearlyFull", "Overlap", "Terminating"];

/// The conditions of one object that say something is wrong.
fn conditions<'a>(object: &'a str, listed: &'a [Condition]) -> impl Iterator<Item = Finding> + 'a {
    listed
        .iter()
        .filter(|condition| BAD_WHEN_TRUE.contains(&condition.type_.as_str()) == (condition.status == "True"))
        .map(move |condition| {
            let what = format!("{} ({}): {}", condition.type_, condition.reason, condition.message);
            Finding::error(object, what, "")
        })
}

fn sessions(network: &NodeNetwork) -> &[Session] {
    network.status.as_ref().map_or(&[], |status| &status.sessions)
}

fn node_row(network: &NodeNetwork) -> [String; 8] {
    let nothing = NodeNetworkStatus::default();
    let status = network.status.as_ref().unwrap_or(&nothing);
    let addresses = &network.spec.addresses;
    [
        network.name_any(),
        addresses.ipv4.map(|address| address.to_string()).unwrap_or_default(),
        addresses.ipv6.map(|address| address.to_string()).unwrap_or_default(),
        network.spec.as_number.to_string(),
        NodeNetworkStatus::count_up(&status.sessions),
        status.blocks.len().to_string(),
        condition(&status.conditions, "Ready").map_or("Unknown", |condition| &condition.status).to_owned(),
        status.version.clone(),
    ]
}

fn pool_row(pool: &IPPool, blocks: &[IPBlock]) -> [String; 6] {
    let name = pool.name_any();
    let count = blocks.iter().filter(|block| block.spec.pool == name).count();
    let status = pool.status.clone().unwrap_or_default();
    [
        name,
        pool.spec.cidr.to_string(),
        count.to_string(),
        status.used.to_string(),
        status.free.to_string(),
        if is_true(&status.conditions, "Ready") { "True" } else { "False" }.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use manx_api::{Cidr, Time, Timestamp, set_condition};

    use super::*;

    fn session(peer: &str, state: SessionState, last_error: Option<&str>) -> Session {
        let since = Time(Timestamp::UNIX_EPOCH);
        Session {
            address: "172.30.2.2".parse().ok(),
            as_number: Some(64512),
            last_error: last_error.map(|text| SessionError::new(since.clone(), text)),
            received: 3,
            accepted: 2,
            advertised: 1,
            ..Session::new(peer, state, since)
        }
    }

    fn cluster(sessions: Vec<Session>) -> Cluster {
        let mut node = NodeNetwork::example();
        let mut status = NodeNetworkStatus { sessions, version: "0.1.0".to_owned(), ..Default::default() };
        for type_ in ["Ready", "RoutesInstalled"] {
            set_condition(&mut status.conditions, type_, true, "Well", "", None, Timestamp::UNIX_EPOCH);
        }
        node.status = Some(status);
        Cluster { nodes: vec![node], ..Cluster::default() }
    }

    #[test]
    fn a_cluster_with_every_session_up_has_nothing_wrong() {
        let cluster = cluster(vec![session("node/node2", SessionState::Established, None)]);
        assert_eq!(problems(&cluster), Vec::new());
        assert!(status(&cluster, &Page::plain()).ends_with("\nnothing is wrong\n"));
    }

    #[test]
    fn a_pool_with_room_is_nothing_wrong_and_one_that_is_nearly_full_is() {
        let mut cluster = cluster(Vec::new());
        let mut pool = IPPool::example();
        for (nearly_full, wrong) in [(false, 0), (true, 1)] {
            let mut status = manx_api::IPPoolStatus::default();
            for (type_, holds) in
                [("Ready", true), ("Overlap", false), ("Terminating", false), ("NearlyFull", nearly_full)]
            {
                set_condition(&mut status.conditions, type_, holds, "Why", "", None, Timestamp::UNIX_EPOCH);
            }
            pool.status = Some(status);
            cluster.pools = vec![pool.clone()];
            assert_eq!(problems(&cluster).len(), wrong);
        }
    }

    #[test]
    fn a_session_that_is_down_is_named_with_its_last_error() {
        let cluster = cluster(vec![session("peer/tor", SessionState::Active, Some("hold timer expired"))]);
        assert_eq!(
            problems(&cluster)[0].what,
            "the session with peer/tor is Active since 1970-01-01T00:00:00Z: hold timer expired"
        );
    }

    #[test]
    fn a_block_whose_owner_has_no_agent_is_named() {
        let mut cluster = cluster(Vec::new());
        let cidr: Cidr = "10.244.0.64/26".parse().expect("a CIDR");
        cluster.blocks.push(IPBlock::claim(cidr, "gone", "default"));
        assert_eq!(
            (problems(&cluster)[0].object.as_str(), problems(&cluster)[0].what.as_str()),
            ("block 10.244.0.64/26", "its owner gone has no agent")
        );
    }

    #[test]
    fn peers_can_be_asked_for_one_node() {
        let cluster = cluster(vec![session("node/node2", SessionState::Established, None)]);
        assert_eq!(
            peers(&cluster, Some("node1"), false, &Page::plain()).lines().nth(1),
            Some("node1  node/node2  172.30.2.2  64512  Established  1970-01-01T00:00:00Z  2/3       1")
        );
        assert_eq!(peers(&cluster, Some("node9"), false, &Page::plain()).lines().count(), 1);
    }
    #[test]
    fn wide_shows_what_was_agreed_on_and_the_error_with_its_octets() {
        let mut one = session("peer/tor", SessionState::Active, Some("hold timer expired"));
        one.hold_time_seconds = Some(90);
        one.capabilities = vec!["route refresh".to_owned()];
        let error = one.last_error.as_mut().expect("given");
        (error.code, error.subcode, error.data) = (Some(4), Some(0), "0c".to_owned());
        let text = peers(&cluster(vec![one]), None, true, &Page::plain());
        let line = text.lines().nth(1).expect("a session");
        for part in ["  90  ", "route refresh", "  4/0  ", "  0c  ", "hold timer expired"] {
            assert!(line.contains(part), "{part:?} in {line:?}");
        }
    }
}
