//! Tests of what status finds and shows.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::ObjectMeta;
use manx_api::{
    IPBlock, IPPool, IPPoolStatus, NodeNetwork, NodeNetworkStatus, Session, SessionError, SessionState, Time,
    Timestamp, set_condition,
};

use super::*;
use crate::finding::{Finding, Weight};
use crate::show::Page;

const NODES: [&str; 3] = ["node1", "node2", "node3"];

fn now() -> Timestamp {
    Timestamp::from_second(10_000).expect("in range")
}

fn lease(name: &str, seconds_ago: i64, lasts: i32) -> Lease {
    let renewed = Timestamp::from_second(10_000 - seconds_ago).expect("in range");
    Lease {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: Some(LeaseSpec {
            holder_identity: Some("somebody".to_owned()),
            lease_duration_seconds: Some(lasts),
            renew_time: Some(MicroTime(renewed)),
            ..LeaseSpec::default()
        }),
    }
}

fn network(name: &str) -> NodeNetwork {
    let mut network = NodeNetwork::example();
    network.metadata.name = Some(name.to_owned());
    let others = NODES.iter().filter(|other| **other != name).map(|other| format!("node/{other}"));
    let since = Time(Timestamp::from_second(9_000).expect("in range"));
    let mut status = NodeNetworkStatus { version: "0.1.0".to_owned(), ..Default::default() };
    status.sessions = others
        .chain(["peer/tor".to_owned()])
        .map(|peer| Session::new(peer, SessionState::Established, since.clone()))
        .collect();
    for type_ in ["Ready", "Configured", "RoutesInstalled", "BlocksHeld"] {
        set_condition(&mut status.conditions, type_, true, "Well", "", None, now());
    }
    network.status = Some(status);
    network
}

/// One with all as it should be.
fn healthy() -> Cluster {
    let mut pool = IPPool::example();
    let mut status = IPPoolStatus { capacity: 65_520, used: 3, free: 65_517, ..Default::default() };
    for (type_, holds) in [("Ready", true), ("Overlap", false), ("Terminating", false), ("NearlyFull", false)]
    {
        set_condition(&mut status.conditions, type_, holds, "OK", "12 of 15 are in use", None, now());
    }
    pool.status = Some(status);
    let leases = NODES.iter().map(|node| lease(&format!("manx-agent-{node}"), 50, 180));
    let node = |name: &str| Node {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        ..Node::default()
    };
    Cluster {
        networks: NODES.map(network).to_vec(),
        nodes: NODES.map(node).to_vec(),
        blocks: vec![IPBlock::claim("10.244.0.64/26".parse().expect("a CIDR"), "node1", "pods-v4")],
        pools: vec![pool],
        leases: leases.chain([lease("manx-controller", 2, 15)]).collect(),
        manx_namespace: "manx-system".to_owned(),
        ..Cluster::default()
    }
}

fn status_of<'a>(cluster: &'a mut Cluster, node: &str) -> &'a mut NodeNetworkStatus {
    let mut networks = cluster.networks.iter_mut();
    let network = networks.find(|network| network.metadata.name.as_deref() == Some(node)).expect("a node");
    network.status.as_mut().expect("reported")
}

fn set(cluster: &mut Cluster, node: &str, type_: &str, message: &str) {
    let conditions = &mut status_of(cluster, node).conditions;
    set_condition(conditions, type_, false, "Bad", message, None, now());
}

/// The session of a node with a peer goes down.
fn down(cluster: &mut Cluster, node: &str, peer: &str, error: Option<(u8, u8, &str)>) {
    let mut sessions = status_of(cluster, node).sessions.iter_mut();
    let session = sessions.find(|session| session.peer == peer).expect("a session");
    session.state = SessionState::Active;
    session.last_error = error.map(|(code, subcode, text)| {
        let mut error = SessionError::new(Time(now()), text);
        (error.code, error.subcode) = (Some(code), Some(subcode));
        error
    });
}

/// The only thing that is found.
fn only(cluster: &Cluster) -> Finding {
    let found = findings(cluster, now());
    let [one] = &*found else { panic!("{found:#?}") };
    one.clone()
}

#[test]
fn a_healthy_cluster_has_nothing_wrong() {
    assert_eq!(findings(&healthy(), now()), []);
    let view = View::new(&healthy(), None, now());
    assert!(view.well);
    let text = view.text(&Page::plain());
    assert!(
        text.starts_with("Agents      3/3 alive, version 0.1.0 on 3\nController  somebody leads\n"),
        "{text}"
    );
    assert!(text.contains("Sessions    9/9 up\n") && text.ends_with("\nnothing is wrong\n"), "{text}");
}

#[test]
fn a_session_that_is_down_is_named_with_its_last_error_and_a_cure_for_it() {
    let mut cluster = healthy();
    down(&mut cluster, "node2", "peer/tor", Some((2, 2, "OPEN Message Error/Bad Peer AS")));
    let found = only(&cluster);
    assert_eq!(found.object, "node node2");
    assert_eq!(
        found.what,
        "the session with peer/tor is Active since 16m (1970-01-01T02:30:00Z): OPEN Message Error/Bad Peer AS"
    );
    assert!(found.cure.contains("asNumber"), "{}", found.cure);
    assert_eq!((found.weight, found.see), (Weight::Error, Some("session-down")));
    assert!(found.concerns("node2") && !found.concerns("node1"));
}

#[test]
fn a_router_that_is_down_for_every_node_is_one_finding() {
    let mut cluster = healthy();
    NODES.iter().for_each(|node| down(&mut cluster, node, "peer/tor", None));
    let found = only(&cluster);
    assert_eq!(found.object, "nodes node1, node2, node3");
    assert!(found.cure.contains("nobody answers"), "{}", found.cure);
}

/// A mesh of twelve nodes, of whose sessions these are down, with the same error at both ends.
fn mesh(broken: impl Fn(usize, usize) -> bool) -> Cluster {
    let mut cluster = healthy();
    let since = Time(Timestamp::from_second(9_000).expect("in range"));
    cluster.networks = (1..=12)
        .map(|node| {
            let mut network = network(&format!("node{node}"));
            let sessions = (1..=12).filter(|peer| *peer != node).map(|peer| {
                let down = broken(node.min(peer), node.max(peer));
                let state = if down { SessionState::Active } else { SessionState::Established };
                let mut session = Session::new(format!("node/node{peer}"), state, since.clone());
                session.last_error = down.then(|| SessionError::new(Time(now()), "no route to host"));
                session
            });
            network.status.as_mut().expect("reported").sessions = sessions.collect();
            network
        })
        .collect();
    cluster.leases = (1..=12).map(|node| lease(&format!("manx-agent-node{node}"), 50, 180)).collect();
    cluster.leases.push(lease("manx-controller", 2, 15));
    cluster
}

/// What is told of sessions.
fn told_of_sessions(cluster: &Cluster) -> Vec<(String, String)> {
    let found = findings(cluster, now()).into_iter().filter(|found| found.what.contains("session"));
    found.map(|found| (found.object, found.what)).collect()
}

#[test]
fn a_node_that_lost_its_sessions_with_all_others_is_one_finding() {
    let cluster = mesh(|node, peer| node == 4 || peer == 4 || (node, peer) == (1, 2));
    let due = [
        (
            "node node4",
            "11 of its sessions with other nodes (node1, node10, node11 and 8 more) are down, the first since 16m \
             (1970-01-01T02:30:00Z): no route to host",
        ),
        (
            "node node2",
            "the session with node/node1 is Active since 16m (1970-01-01T02:30:00Z): no route to host",
        ),
        (
            "node node1",
            "the session with node/node2 is Active since 16m (1970-01-01T02:30:00Z): no route to host",
        ),
    ];
    assert_eq!(told_of_sessions(&cluster), due.map(|(object, what)| (object.to_owned(), what.to_owned())));
    let of_node9 = View::new(&cluster, Some("node9"), now()).findings;
    assert!(of_node9.iter().any(|found| found.object == "node node4"), "{of_node9:#?}");
}

#[test]
fn a_mesh_that_is_down_as_a_whole_is_one_finding() {
    let told = told_of_sessions(&mesh(|_, _| true));
    let [(object, what)] = &*told else { panic!("{told:#?}") };
    assert_eq!(object, "nodes node1, node10, node11 and 8 more");
    assert!(what.starts_with("66 of their sessions with other nodes are down, "), "{what}");
}

#[test]
fn an_agent_without_a_sign_of_life_is_told_once_and_not_by_each_of_its_sessions() {
    let mut cluster = healthy();
    cluster.leases[2] = lease("manx-agent-node3", 300, 180);
    // What it said when it lived counts no more.
    down(&mut cluster, "node3", "peer/tor", None);
    set(&mut cluster, "node3", "RoutesInstalled", "old");
    down(&mut cluster, "node1", "node/node3", None);
    down(&mut cluster, "node2", "node/node3", None);
    let found = findings(&cluster, now());
    let told: Vec<(&str, &str)> = found.iter().map(|one| (one.object.as_str(), one.what.as_str())).collect();
    assert_eq!(
        told,
        [
            ("node node3", "its agent has given no sign of life since 5m (1970-01-01T02:41:40Z)"),
            (
                "node node3",
                "node1, node2 have no session with it: its pods are reached for the time of graceful restart at most"
            ),
        ]
    );
    assert_eq!(View::new(&cluster, Some("node1"), now()).findings.len(), 1);
}

#[test]
fn a_node_without_an_agent_is_named() {
    let mut cluster = healthy();
    cluster.networks.retain(|network| network.metadata.name.as_deref() != Some("node2"));
    cluster.leases.remove(1);
    assert_eq!(only(&cluster).what, "no agent runs on it");
}

#[test]
fn each_condition_that_is_not_good_has_a_cure() {
    for (type_, message, see) in [
        ("Ready", "no pool", "node-notready"),
        ("Configured", "BGPPeer tor: no such Secret", "session-down"),
        ("RoutesInstalled", "1 routes where a route that is not ours has the same key", "no-route"),
        ("BlocksHeld", "10.244.0.64/26 has no owner, and 2 pods here use it", "a-nodes-block-is-anothers"),
    ] {
        let mut cluster = healthy();
        set(&mut cluster, "node1", type_, message);
        let found = only(&cluster);
        assert_eq!(found.what, format!("{type_} is False: {message}"));
        assert_eq!(found.see, Some(see));
        assert!(!found.cure.is_empty());
    }
}

#[test]
fn a_controller_that_nobody_has_heard_of_lately_is_named() {
    let mut cluster = healthy();
    cluster.leases[3] = lease("manx-controller", 60, 15);
    assert_eq!(only(&cluster).object, "controller");
    cluster.leases.pop();
    assert_eq!(only(&cluster).what, "it has never led");
}

#[test]
fn whoever_may_not_read_leases_is_told_so_and_nothing_is_called_dead() {
    let mut cluster = healthy();
    cluster.leases.clear();
    cluster.unread.push("Leases cannot be read: forbidden".to_owned());
    assert_eq!(findings(&cluster, now()), []);
    let text = View::new(&cluster, None, now()).text(&Page::plain());
    assert!(text.ends_with("what could not be found out:\n- Leases cannot be read: forbidden\n"), "{text}");
}

#[test]
fn two_versions_are_a_note_while_the_rollout_goes_on_and_a_warning_when_it_stands() {
    let mut cluster = healthy();
    status_of(&mut cluster, "node3").version = "0.2.0".to_owned();
    let found = only(&cluster);
    assert_eq!(found.what, "agents of 2 versions run: 0.1.0 on node1, node2; 0.2.0 on node3");
    assert_eq!(found.weight, Weight::Warning);
    let status = DaemonSetStatus {
        desired_number_scheduled: 3,
        updated_number_scheduled: Some(1),
        ..DaemonSetStatus::default()
    };
    cluster.daemonsets.push(DaemonSet { status: Some(status), ..DaemonSet::default() });
    assert_eq!(only(&cluster).weight, Weight::Note);
}

#[test]
fn pools_that_are_full_or_off_are_told_as_what_they_are() {
    let mut cluster = healthy();
    let status = cluster.pools[0].status.as_mut().expect("given");
    set_condition(&mut status.conditions, "NearlyFull", true, "Almost", "62000 of 65520", None, now());
    assert_eq!((only(&cluster).weight, only(&cluster).see), (Weight::Warning, Some("addresses-run-out")));
    let status = cluster.pools[0].status.as_mut().expect("given");
    set_condition(&mut status.conditions, "NearlyFull", false, "Roomy", "", None, now());
    set_condition(
        &mut status.conditions,
        "Ready",
        false,
        "Disabled",
        "the pool gives no new addresses",
        None,
        now(),
    );
    assert_eq!(only(&cluster).weight, Weight::Note);
    cluster.pools.clear();
    cluster.blocks.clear();
    assert_eq!(only(&cluster).object, "pools");
}

#[test]
fn blocks_of_nodes_and_pools_that_are_gone_are_named() {
    let mut cluster = healthy();
    cluster.blocks.push(IPBlock::claim("10.244.1.0/26".parse().expect("a CIDR"), "gone", "pods-v4"));
    let found = only(&cluster);
    assert_eq!((&*found.object, &*found.what), ("node gone", "it is gone and still owns 10.244.1.0/26"));
    cluster.blocks[1] = IPBlock::claim("10.99.1.0/26".parse().expect("a CIDR"), "node1", "old");
    assert_eq!(only(&cluster).what, "its pool old is not there");
}

#[test]
fn every_heading_that_a_finding_points_to_is_in_the_documentation() {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operate.md")).expect("a page");
    let anchor = |line: &str| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        heading
            .chars()
            .filter(|letter| letter.is_alphanumeric() || " -".contains(*letter))
            .collect::<String>()
            .replace(' ', "-")
    };
    let headings: Vec<String> = page.lines().filter(|line| line.starts_with("## ")).map(anchor).collect();
    let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/status");
    let mut seen = 0;
    for file in ["findings.rs", "cures.rs"] {
        let text = std::fs::read_to_string(sources.join(file)).expect("a source");
        let words = text.split('"').skip(1).step_by(2);
        // Anchors are the only texts of one word with a hyphen.
        for word in words.filter(|word| {
            word.contains('-') && *word != "manx-agent" && !word.contains([' ', '{', '/', '`'])
        }) {
            assert!(
                headings.iter().any(|heading| heading == word),
                "{file}: docs/operate.md has no heading {word}"
            );
            seen += 1;
        }
    }
    assert!(seen > 10, "only {seen} were found");
}
