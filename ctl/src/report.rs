//! What the objects say, put together: pure functions from objects to text.

use kube::ResourceExt;
use manx_api::{
    Condition, IPBlock, IPPool, NodeNetwork, NodeNetworkStatus, Session, SessionState, condition, is_true,
};

use crate::table;

/// All that a report is made from.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    /// Every node that runs an agent.
    pub(crate) nodes: Vec<NodeNetwork>,
    /// Every pool.
    pub(crate) pools: Vec<IPPool>,
    /// Every claimed block.
    pub(crate) blocks: Vec<IPBlock>,
}

/// Nodes, pools, and what is wrong.
pub(crate) fn status(cluster: &Cluster) -> String {
    let mut text = table::render(
        &["NODE", "IPV4", "IPV6", "ASN", "SESSIONS", "BLOCKS", "READY", "VERSION"],
        &cluster.nodes.iter().map(node_row).collect::<Vec<_>>(),
    );
    text.push('\n');
    text.push_str(&table::render(
        &["POOL", "CIDR", "BLOCKS", "USED", "FREE", "READY"],
        &cluster.pools.iter().map(|pool| pool_row(pool, &cluster.blocks)).collect::<Vec<_>>(),
    ));
    let problems = problems(cluster);
    text.push_str(if problems.is_empty() { "\nnothing is wrong\n" } else { "\nwhat is wrong:\n" });
    for problem in problems {
        text.push_str(&format!("- {problem}\n"));
    }
    text
}

/// One line per session, of all nodes or of one.
pub(crate) fn peers(cluster: &Cluster, node: Option<&str>) -> String {
    let mut rows = Vec::new();
    for network in cluster.nodes.iter().filter(|network| node.is_none_or(|node| network.name_any() == node)) {
        for session in sessions(network) {
            rows.push(vec![
                network.name_any(),
                session.peer.clone(),
                session.address.map(|address| address.to_string()).unwrap_or_default(),
                session.as_number.map(|asn| asn.to_string()).unwrap_or_default(),
                format!("{:?}", session.state),
                session.since.0.to_string(),
                format!("{}/{}", session.accepted, session.received),
                session.advertised.to_string(),
                session.last_error.clone().unwrap_or_default(),
            ]);
        }
    }
    table::render(
        &["NODE", "PEER", "ADDRESS", "ASN", "STATE", "SINCE", "ACCEPTED", "ADVERTISED", "LAST ERROR"],
        &rows,
    )
}

/// One sentence for each thing that is wrong, most local first.
pub(crate) fn problems(cluster: &Cluster) -> Vec<String> {
    let mut problems = Vec::new();
    for network in &cluster.nodes {
        let name = network.name_any();
        let Some(status) = &network.status else {
            problems
                .push(format!("node {name}: its agent has not reported yet; look at the agent's log there"));
            continue;
        };
        problems.extend(conditions(&format!("node {name}"), &status.conditions));
        for session in status.sessions.iter().filter(|session| session.state != SessionState::Established) {
            let why = session.last_error.as_deref().unwrap_or("no error was seen yet");
            problems.push(format!(
                "node {name}: the session with {} is {:?} since {}: {why}",
                session.peer, session.state, session.since.0
            ));
        }
    }
    for pool in &cluster.pools {
        let listed = pool.status.as_ref().map_or(&[][..], |status| &status.conditions);
        problems.extend(conditions(&format!("pool {}", pool.name_any()), listed));
    }
    for block in &cluster.blocks {
        if !cluster.nodes.iter().any(|network| network.name_any() == block.spec.node) {
            problems.push(format!(
                "block {}: its owner {} has no agent; the controller returns it once the node is gone for good",
                block.spec.cidr, block.spec.node
            ));
        }
    }
    problems
}

/// Types of conditions whose being true is bad news; all others are good news.
const BAD_WHEN_TRUE: [&str; 2] = ["Overlap", "Terminating"];

/// The conditions of one object that say something is wrong.
fn conditions<'a>(object: &'a str, listed: &'a [Condition]) -> impl Iterator<Item = String> + 'a {
    listed
        .iter()
        .filter(|condition| BAD_WHEN_TRUE.contains(&condition.type_.as_str()) == (condition.status == "True"))
        .map(move |condition| {
            format!("{object}: {} ({}): {}", condition.type_, condition.reason, condition.message)
        })
}

fn sessions(network: &NodeNetwork) -> &[Session] {
    network.status.as_ref().map_or(&[], |status| &status.sessions)
}

fn node_row(network: &NodeNetwork) -> Vec<String> {
    let nothing = NodeNetworkStatus::default();
    let status = network.status.as_ref().unwrap_or(&nothing);
    let addresses = &network.spec.addresses;
    vec![
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

fn pool_row(pool: &IPPool, blocks: &[IPBlock]) -> Vec<String> {
    let name = pool.name_any();
    let count = blocks.iter().filter(|block| block.spec.pool == name).count();
    let status = pool.status.clone().unwrap_or_default();
    vec![
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
        Session {
            peer: peer.to_owned(),
            address: "172.30.2.2".parse().ok(),
            as_number: Some(64512),
            state,
            since: Time(Timestamp::UNIX_EPOCH),
            last_error: last_error.map(str::to_owned),
            received: 3,
            accepted: 2,
            advertised: 1,
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
        assert_eq!(problems(&cluster), Vec::<String>::new());
        assert!(status(&cluster).ends_with("\nnothing is wrong\n"));
    }

    #[test]
    fn a_session_that_is_down_is_named_with_its_last_error() {
        let cluster = cluster(vec![session("peer/tor", SessionState::Active, Some("hold timer expired"))]);
        assert_eq!(
            problems(&cluster),
            [
                "node node1: the session with peer/tor is Active since 1970-01-01T00:00:00Z: hold timer expired"
            ]
        );
    }

    #[test]
    fn a_block_whose_owner_has_no_agent_is_named() {
        let mut cluster = cluster(Vec::new());
        let cidr: Cidr = "10.244.0.64/26".parse().expect("a CIDR");
        cluster.blocks.push(IPBlock::claim(cidr, "gone", "default"));
        assert_eq!(
            problems(&cluster),
            [
                "block 10.244.0.64/26: its owner gone has no agent; the controller returns it once the node is gone for good"
            ]
        );
    }

    #[test]
    fn peers_can_be_asked_for_one_node() {
        let cluster = cluster(vec![session("node/node2", SessionState::Established, None)]);
        assert_eq!(
            peers(&cluster, Some("node1")).lines().nth(1),
            Some("node1  node/node2  172.30.2.2  64512  Established  1970-01-01T00:00:00Z  2/3       1")
        );
        assert_eq!(peers(&cluster, Some("node9")).lines().count(), 1);
    }
}
