//! The state by what is shown of it.

use k8s_openapi::api::core::v1::Node;
use manx_api::{IPBlock, IPPoolSpec, NodeNetworkStatus, SessionError, Time, set_condition};
use serde_json::json;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn network(name: &str, sessions: Vec<Session>) -> NodeNetwork {
    let mut network = NodeNetwork::example();
    network.metadata.name = Some(name.to_owned());
    let mut status = NodeNetworkStatus { sessions, ..NodeNetworkStatus::default() };
    set_condition(&mut status.conditions, "Ready", true, "Well", "", None, now());
    network.status = Some(status);
    network
}

fn session(peer: &str, state: SessionState) -> Session {
    let mut session = Session::new(peer, state, Time(Timestamp::UNIX_EPOCH));
    session.address = "192.0.2.1".parse().ok();
    session
}

fn pool(name: &str, cidr: &str) -> IPPool {
    IPPool::new(name, IPPoolSpec::new(cidr.parse().expect("a network")))
}

fn block(cidr: &str, node: &str, pool: &str, used: u32) -> IPBlock {
    let mut block = IPBlock::claim(cidr.parse().expect("a network"), node, pool);
    block.status = Some(manx_api::IPBlockStatus { used, free: 64 - used, ..Default::default() });
    block
}

fn labelled(name: &str, key: &str, value: &str) -> Node {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {key: value}}})).expect("a node")
}

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

/// Of objects that say nothing of agents' lives.
fn objects(networks: Vec<NodeNetwork>, pools: Vec<IPPool>, blocks: Vec<IPBlock>) -> Event {
    let unread =
        vec!["Leases cannot be read: forbidden".to_owned(), "Nodes cannot be read: forbidden".to_owned()];
    Event::Objects(Box::new(Cluster { networks, pools, blocks, unread, ..Cluster::default() }))
}

fn cluster(networks: Vec<NodeNetwork>, pools: Vec<IPPool>, blocks: Vec<IPBlock>) -> State {
    let mut state = State::new("test", None);
    state.handle(objects(networks, pools, blocks), now());
    state
}

#[test]
fn nothing_is_judged_before_objects_are_read() {
    let mut state = State::new("test", None);
    state.handle(Event::Tick, now());
    let view = state.view();
    assert!(!view.summary.complete && view.findings.is_empty(), "{:?}", view.findings);
}

#[test]
fn a_session_that_goes_down_is_wrong_and_says_why() {
    let mut state =
        cluster(vec![network("a", vec![session("peer/tor", SessionState::Established)])], vec![], vec![]);
    assert_eq!((state.view().summary.sessions_up, state.view().nodes[0].errors), (1, 0));
    let mut down = session("peer/tor", SessionState::Active);
    down.last_error = Some(SessionError::new(Time(Timestamp::UNIX_EPOCH), "hold timer expired"));
    state.handle(objects(vec![network("a", vec![down])], vec![], vec![]), now());
    let view = state.view();
    assert_eq!((view.summary.sessions, view.summary.sessions_up), (1, 0));
    assert_eq!((view.sessions[0].error.as_str(), view.sessions[0].up), ("hold timer expired", false));
    assert_eq!((view.routers[0].sessions, view.routers[0].sessions_up), (1, 0));
    assert_eq!((view.nodes[0].findings, view.nodes[0].errors), (1, 1));
    assert!(view.findings.iter().any(|finding| finding.what.contains("hold timer expired")));
}

#[test]
fn blocks_know_their_place_in_the_pool_and_their_nodes_how_full_they_are() {
    let blocks = vec![
        block("10.244.1.0/26", "b", "v4", 64),
        block("10.244.0.64/26", "a", "v4", 3),
        block("10.244.0.0/26", "a", "v4", 10),
    ];
    let state = cluster(vec![network("a", vec![])], vec![pool("v4", "10.244.0.0/16")], blocks);
    let view = state.view();
    let places: Vec<(f64, bool)> = view.blocks.iter().map(|block| (block.place, block.owned)).collect();
    assert_eq!(places, [(0.0, true), (1.0, true), (4.0, false)]);
    let node = &view.nodes[0];
    assert_eq!((node.blocks, node.used, node.free), (2, 13, 115));
    let pool = &view.pools[0];
    assert_eq!((pool.places, pool.blocks, pool.used, pool.capacity), (1024.0, 3, 77, 65536.0));
}

#[test]
fn a_large_pool_has_as_many_places_as_a_number_can_tell() {
    let claimed = block("fd00:10:244:1::/122", "a", "v6", 1);
    let state = cluster(vec![], vec![pool("v6", "fd00:10:244::/48")], vec![claimed]);
    let view = state.view();
    assert_eq!(view.pools[0].places, 2_f64.powi(74));
    assert_eq!(view.blocks[0].place, 2_f64.powi(58));
}

#[test]
fn nodes_stand_in_racks_by_label_or_by_their_routers() {
    let on = |name: &str, tor: &str| {
        let mut session = session(tor, SessionState::Established);
        session.address = Some([192, 0, 2, tor.as_bytes()[tor.len() - 1]].into());
        network(name, vec![session])
    };
    let state =
        cluster(vec![on("a", "peer/tor1"), on("b", "peer/tor2"), on("c", "peer/tor2")], vec![], vec![]);
    let groups = |state: &State| state.view().nodes.into_iter().map(|node| node.group).collect::<Vec<_>>();
    assert_eq!(groups(&state), ["tor1", "tor2", "tor2"]);
    let state = cluster(vec![on("a", "peer/tor1"), on("b", "peer/tor2")], vec![], vec![]);
    assert_eq!(groups(&state), ["", ""], "each with a router of its own");
    let nodes = [("a", "left"), ("b", "right")];
    let nodes = nodes.map(|(name, rack)| labelled(name, "topology.kubernetes.io/rack", rack)).to_vec();
    let networks = vec![on("a", "peer/tor1"), on("b", "peer/tor2")];
    let with_labels = |state: &mut State| {
        let (nodes, networks) = (nodes.clone(), networks.clone());
        state.handle(Event::Objects(Box::new(Cluster { nodes, networks, ..Cluster::default() })), now());
    };
    let mut racks = State::new("test", None);
    with_labels(&mut racks);
    assert_eq!(groups(&racks), ["left", "right"]);
    let mut asked = State::new("test", Some("row".to_owned()));
    with_labels(&mut asked);
    assert_eq!(groups(&asked), ["", ""], "nobody has the label that was asked for");
}

#[test]
fn what_counters_say_goes_before_what_the_status_said_earlier() {
    let mut state =
        cluster(vec![network("a", vec![session("peer/tor", SessionState::Established)])], vec![], vec![]);
    assert_eq!(state.view().sessions[0].messages, None);
    let peer = |messages_in| manx_facts::counters::PeerCounters {
        peer: "peer/tor".to_owned(),
        messages_in,
        received: 9,
        ..Default::default()
    };
    for (second, messages) in [(1, 10), (2, 14)] {
        let peers = vec![peer(messages)];
        let counters = Counters { time: second * SECOND, started: second, peers, ..Counters::default() };
        state.handle(Event::Counted("a".to_owned(), counters), now());
        state.handle(Event::Tick, now());
    }
    let view = state.view();
    assert_eq!((view.sessions[0].received, view.sessions[0].messages), (9, Some((4.0, 0.0))));
    assert_eq!(view.summary.history, [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]);
    assert_eq!(view.summary.nodes_asked, 1);
}

#[test]
fn a_node_that_stops_answering_says_so_and_has_no_rates() {
    let mut state = cluster(vec![network("a", vec![])], vec![], vec![]);
    for second in [1, 2] {
        let counters = Counters { time: second * SECOND, ..Counters::default() };
        state.handle(Event::Counted("a".to_owned(), counters), now());
    }
    assert!(state.view().nodes[0].rates.is_some());
    state.handle(Event::Away("a".to_owned(), "it has no agent".to_owned()), now());
    let node = state.view().nodes.remove(0);
    assert_eq!((node.rates, node.away.as_deref()), (None, Some("it has no agent")));
}

#[test]
fn what_was_said_long_ago_is_not_shown_as_of_now() {
    let mut state = cluster(vec![network("a", vec![]), network("b", vec![])], vec![], vec![]);
    let at = |second: i64| Timestamp::from_second(second).expect("a time");
    let mut said = |node: &str, second: u64| {
        let counters = Counters { time: second * SECOND, started: second, ..Counters::default() };
        state.handle(Event::Counted(node.to_owned(), counters), at(second as i64));
    };
    (1..=4).for_each(|second| said("a", second));
    (1..=9).for_each(|second| said("b", second));
    state.handle(Event::Tick, at(9));
    assert_eq!(state.view().nodes[0].silent_since, None, "five seconds are not long");
    state.handle(Event::Tick, at(10));
    let view = state.view();
    assert_eq!((view.nodes[0].silent_since, view.nodes[0].rates), (Some(4), None));
    assert_eq!((view.nodes[1].silent_since, view.summary.nodes_asked), (None, 1));
    assert_eq!(view.summary.rates.started, 1.0, "only what is heard counts");
    state.handle(Event::Away("a".to_owned(), "it answers no more".to_owned()), at(20));
    assert_eq!(state.view().nodes[0].silent_since, Some(4), "since its last answer");
}

#[test]
fn one_router_of_a_peer_for_each_node_is_drawn_once() {
    let on = |name: &str| {
        let mut session = session(&format!("peer/tor-{name}"), SessionState::Established);
        session.router_id = Some([10, 0, 0, 1].into());
        network(name, vec![session])
    };
    let view = cluster(vec![on("a"), on("b")], vec![], vec![]).view();
    let router = &view.routers[0];
    assert_eq!((view.routers.len(), router.name.as_str(), router.sessions), (1, "peer/tor", 2));
    assert_eq!(router.peers, ["peer/tor-a", "peer/tor-b"]);
    assert_eq!(view.sessions[1].router.as_deref(), Some("peer/tor"));
    assert_eq!(view.nodes[1].group, "tor");
}

#[test]
fn what_cannot_be_read_or_asked_makes_what_is_shown_doubtful() {
    let mut state = cluster(vec![], vec![], vec![]);
    state.handle(Event::Deaf(Some("forbidden".to_owned())), now());
    let troubles = state.view().summary.troubles;
    assert!(troubles.contains(&"Nodes cannot be read: forbidden".to_owned()), "{troubles:?}");
    assert!(troubles.contains(&"nodes cannot be asked: forbidden".to_owned()), "{troubles:?}");
}
