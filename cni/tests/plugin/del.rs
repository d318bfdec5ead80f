//! DEL: with the agent, without it, and of what is already gone.

use serde_json::json;

use crate::node::{Agent, Mood, NODE_V4, Node, Sandbox, echo};
use manx_cni::rpc::{DelRequest, RpcError};
use manx_cni::tombstone;

const V4: &str = "10.244.3.7";
const V6: &str = "fd00:10:244::307";
const LINK: &str = "cali18582a65b10";

fn ended(container: &str) -> DelRequest {
    DelRequest { container: container.into(), ifname: "eth0".into(), link: LINK.into() }
}

#[test]
fn del_takes_everything_away_and_a_second_del_finds_nothing_to_do() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&[V4, V6]]);
    let before = node.space.photograph();
    let sandbox = node.sandbox("c1");
    let inside = sandbox.space.photograph();
    node.call("ADD", &sandbox).ok();
    for _ in 0..2 {
        assert!(node.call("DEL", &sandbox).ok().is_null(), "DEL prints nothing");
        assert_eq!(node.space.photograph(), before);
        assert_eq!(sandbox.space.photograph(), inside);
        assert!(agent.known().is_empty());
    }
    assert_eq!(tombstone::list(&node.run_dir).expect("readable"), []);
}

#[test]
fn del_without_a_previous_add_succeeds() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&[V4]]);
    node.call("DEL", &node.sandbox("never-added")).ok();
}

#[test]
fn an_agent_may_leave_the_link_to_the_plugin() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start_with(&node, &[&[V4]], 1500, Mood::HandsOff);
    let sandbox = node.sandbox("c1");
    node.call("ADD", &sandbox).ok();
    node.call("DEL", &sandbox).ok();
    assert!(node.pod_link().is_none() && agent.known().is_empty());
}

/// Every way in which a namespace can be gone.
fn gone_namespaces(sandbox: &Sandbox, file: &str) -> Vec<Option<String>> {
    let _ = sandbox;
    vec![None, Some(String::new()), Some("/run/netns/long-gone".into()), Some(file.into())]
}

#[test]
fn a_namespace_that_is_gone_in_whatever_way_does_not_keep_a_pod_from_stopping() {
    let Some(node) = Node::new() else { return };
    let file = node.run_dir.join("was-a-namespace");
    std::fs::write(&file, "").expect("a file");
    for away in [false, true] {
        let agent = (!away).then(|| Agent::start(&node, &[&[V4, V6]]));
        let sandbox = node.sandbox("c1");
        for netns in gone_namespaces(&sandbox, file.to_str().expect("UTF-8")) {
            if agent.is_some() {
                node.call("ADD", &sandbox).ok();
            }
            let mut variables = crate::node::variables("DEL", &sandbox);
            variables.remove("CNI_NETNS");
            variables.extend(netns.clone().map(|path| ("CNI_NETNS", path)));
            let config = node.config(json!({})).to_string();
            node.exec(env!("CARGO_BIN_EXE_manx-cni"), &variables, &config).ok();
            assert!(node.pod_link().is_none(), "agent away: {away}, namespace {netns:?}");
        }
    }
}

#[test]
fn a_namespace_that_really_vanished_took_the_link_along() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&[V4, V6]]);
    let sandbox = node.sandbox("c1");
    node.call("ADD", &sandbox).ok();
    let variables = crate::node::variables("DEL", &sandbox);
    drop(sandbox);
    node.exec(env!("CARGO_BIN_EXE_manx-cni"), &variables, &node.config(json!({})).to_string()).ok();
    assert!(agent.known().is_empty());
}

#[test]
fn while_the_agent_is_away_the_link_goes_and_a_tombstone_stays() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&[V4, V6]]);
    let sandbox = node.sandbox("c1");
    node.call("ADD", &sandbox).ok();
    drop(agent);
    for _ in 0..2 {
        node.call("DEL", &sandbox).ok();
        assert!(node.pod_link().is_none() && sandbox.eth0().is_none());
        assert_eq!(node.space.routes("-4"), [""; 0]);
        assert_eq!(tombstone::list(&node.run_dir).expect("readable"), [ended("c1")]);
    }
    assert!(tombstone::file(&node.run_dir, &sandbox.attachment()).ends_with("tombstones/c1:eth0"));
}

#[test]
fn an_agent_that_refuses_or_breaks_off_counts_as_away() {
    let Some(node) = Node::new() else { return };
    let busy = RpcError { code: 11, msg: "still starting".into(), details: String::new() };
    for mood in [Mood::Refusing(busy), Mood::Curt, Mood::Confused] {
        let agent = Agent::start(&node, &[&[V4, V6]]);
        let sandbox = node.sandbox("c1");
        node.call("ADD", &sandbox).ok();
        agent.be(mood);
        node.call("DEL", &sandbox).ok();
        assert!(node.pod_link().is_none());
        assert_eq!(tombstone::list(&node.run_dir).expect("readable"), [ended("c1")]);
        tombstone::clear(&node.run_dir, &sandbox.attachment()).expect("it can be cleared");
    }
}

#[test]
fn an_agent_that_never_answers_is_given_up() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&[V4, V6]]);
    let sandbox = node.sandbox("c1");
    node.call("ADD", &sandbox).ok();
    agent.be(Mood::Silent);
    node.call("DEL", &sandbox).ok();
    assert!(node.pod_link().is_none());
    assert_eq!(tombstone::list(&node.run_dir).expect("readable"), [ended("c1")]);
}

#[test]
fn a_late_del_of_an_old_sandbox_does_not_hurt_the_new_one() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&[V4], &["10.244.3.8"]]);
    let (old, new) = (node.sandbox("c1"), node.sandbox("c2"));
    node.call("ADD", &old).ok();
    node.call("ADD", &new).ok();
    let whole = node.space.photograph();
    node.call("DEL", &old).ok();
    assert_eq!(node.space.photograph(), whole);
    assert_eq!(agent.known().keys().collect::<Vec<_>>(), [&new.attachment()]);
    drop(agent);
    node.call("DEL", &old).ok();
    assert_eq!(node.space.photograph(), whole, "nor while the agent is away");
    assert!(echo(&new.space, &node.space, "10.244.3.8", NODE_V4));
}

#[test]
fn a_strangers_link_of_the_same_name_survives_del() {
    let Some(node) = Node::new() else { return };
    node.space.run(&format!("ip link add {LINK} type veth peer name other"));
    let before = node.space.photograph();
    node.call("DEL", &node.sandbox("c1")).ok();
    assert_eq!(node.space.photograph(), before);
}

#[test]
fn a_link_is_found_by_its_alias_where_del_does_not_say_the_pods_name() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&[V4]]);
    let sandbox = node.sandbox("c1");
    node.call("ADD", &sandbox).ok();
    drop(agent);
    node.call("DEL", &Sandbox { pod: None, ..sandbox }).ok();
    assert!(node.pod_link().is_none());
}

#[test]
fn a_link_that_was_left_half_made_goes_with_its_container() {
    let Some(node) = Node::new() else { return };
    let (sandbox, other) = (node.sandbox("c1"), node.sandbox("c2"));
    node.space.run(&format!("ip link add {LINK} group 179 type veth peer name eth0"));
    node.space.run(&format!("ip link set eth0 netns {}", sandbox.space.path()));
    node.call("DEL", &other).ok();
    assert!(node.pod_link().is_some(), "it may be the beginning of another container's ADD");
    node.call("DEL", &sandbox).ok();
    assert!(node.pod_link().is_none());
}

#[test]
fn a_del_that_can_leave_no_note_fails_so_that_it_is_repeated() {
    let Some(node) = Node::new() else { return };
    std::fs::write(tombstone::directory(&node.run_dir), "in the way").expect("a file");
    let (code, text) = node.call("DEL", &node.sandbox("c1")).failed();
    assert_eq!(code, 11, "{text}");
}

#[test]
fn it_succeeds_as_soon_as_a_note_can_be_left_or_the_agent_is_back() {
    let Some(node) = Node::new() else { return };
    let sandbox = node.sandbox("c1");
    let in_the_way = tombstone::directory(&node.run_dir);
    std::fs::write(&in_the_way, "").expect("a file");
    node.call("DEL", &sandbox).failed();
    let agent = Agent::start(&node, &[&[V4]]);
    node.call("DEL", &sandbox).ok();
    drop(agent);
    node.call("DEL", &sandbox).failed();
    std::fs::remove_file(&in_the_way).expect("it was there");
    node.call("DEL", &sandbox).ok();
}

#[test]
fn whatever_the_runtime_writes_a_pod_can_stop() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&[V4, V6]]);
    let sandbox = node.sandbox("c1");
    let spoilt = [
        json!({ "cniVersion": "9.9.9" }),
        json!({ "cniVersion": null }),
        json!({ "name": "../x" }),
        json!({ "type": "/bin/sh" }),
        json!({ "ipam": 5, "mtu": "x", "dns": 7 }),
        json!({ "prevResult": { "interfaces": 5 } }),
        json!({ "prevResult": "[[[[" }),
    ];
    for changes in spoilt {
        node.call("ADD", &sandbox).ok();
        assert!(node.call_with("DEL", &sandbox, changes.clone()).ok().is_null());
        assert!(node.pod_link().is_none() && agent.known().is_empty(), "{changes}");
    }
}

#[test]
fn del_of_what_add_refuses_for_its_names_succeeds() {
    let Some(node) = Node::new() else { return };
    let before = node.space.photograph();
    let sandbox = node.sandbox("c1");
    for (name, value) in
        [("CNI_IFNAME", "eth%d"), ("CNI_IFNAME", "a-name-that-is-too-long"), ("CNI_CONTAINERID", "../../etc")]
    {
        let mut variables = crate::node::variables("DEL", &sandbox);
        variables.insert(name, value.to_owned());
        node.exec(env!("CARGO_BIN_EXE_manx-cni"), &variables, &node.config(json!({})).to_string()).ok();
    }
    assert_eq!(node.space.photograph(), before);
    assert_eq!(tombstone::list(&node.run_dir).expect("readable"), []);
}
