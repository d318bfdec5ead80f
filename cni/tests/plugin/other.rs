//! VERSION, STATUS and GC.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::node::{Agent, Answer, Mood, Node};
use manx_cni::rpc::RpcError;
use manx_kernel::names::host_link_name;

const PLUGIN: &str = env!("CARGO_BIN_EXE_manx-cni");

fn bare(node: &Node, verb: &str, stdin: &str) -> Answer {
    node.exec(PLUGIN, &BTreeMap::from([("CNI_COMMAND", verb.to_owned())]), stdin)
}

#[test]
fn version_lists_what_is_spoken_and_needs_nothing() {
    let Some(node) = Node::new() else { return };
    for (stdin, version) in [(r#"{"cniVersion":"0.3.1"}"#, "0.3.1"), ("", "1.1.0")] {
        let answer = bare(&node, "VERSION", stdin).ok();
        let supported = json!(["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
        assert_eq!(answer, json!({ "cniVersion": version, "supportedVersions": supported }));
    }
}

#[test]
fn status_says_whether_the_node_can_take_pods_and_why_not() {
    let Some(node) = Node::new() else { return };
    let status = |changes: Value| bare(&node, "STATUS", &node.config(changes).to_string());
    let (code, text) = status(json!({})).failed();
    assert!(code == 50 && text.contains("agent.sock"), "{text}");
    let agent = Agent::start(&node, &[&["10.244.3.7"]]);
    assert!(status(json!({})).ok().is_null());
    for code in [50, 51] {
        let refusal = RpcError {
            code,
            msg: "no block could be claimed".into(),
            details: "pool default is full".into(),
        };
        agent.be(Mood::Refusing(refusal));
        assert_eq!(
            status(json!({})).failed(),
            (code.into(), "no block could be claimed: pool default is full".into())
        );
    }
    agent.be(Mood::Curt);
    assert_eq!(status(json!({})).failed().0, 50);
    assert_eq!(status(json!({ "cniVersion": "1.0.0" })).failed().0, 1);
}

#[test]
fn gc_removes_what_the_runtime_does_not_know_and_nothing_else() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&["10.244.3.7"], &["10.244.3.8"], &["10.244.3.9"], &["10.244.3.10"]]);
    let sandboxes: Vec<_> = ["keep", "gone", "lost", "used"]
        .iter()
        .map(|name| node.sandbox_of(name, Some(("shop", name))))
        .collect();
    for sandbox in &sandboxes {
        node.call("ADD", sandbox).ok();
    }
    // The agent lost its record of two, one of them in use; and the node has a link that is not Manx's.
    agent.forget(&sandboxes[2].attachment());
    agent.forget(&sandboxes[3].attachment());
    node.space.run("ip link add cali0123456789a type veth peer name other");
    let valid = ["keep", "used"].map(|container| json!({ "containerID": container, "ifname": "eth0" }));
    let config = node.config(json!({ "cni.dev/valid-attachments": valid })).to_string();
    for _ in 0..2 {
        assert!(bare(&node, "GC", &config).ok().is_null());
        let here =
            |name: &str| node.space.link(&host_link_name(Some(("shop", name)), name, "eth0")).is_some();
        assert_eq!(["keep", "gone", "lost", "used"].map(here), [true, false, false, true]);
        assert!(node.space.link("cali0123456789a").is_some());
        assert_eq!(agent.known().keys().collect::<Vec<_>>(), [&sandboxes[0].attachment()]);
    }
}

#[test]
fn gc_without_an_agent_is_to_be_tried_again_and_removes_nothing() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&["10.244.3.7"]]);
    node.call("ADD", &node.sandbox("c1")).ok();
    drop(agent);
    let sandbox = node.sandbox("c2");
    let agent = Agent::start(&node, &[&["10.244.3.7"]]);
    node.call("ADD", &sandbox).ok();
    drop(agent);
    let config = node.config(json!({ "cni.dev/valid-attachments": [] })).to_string();
    assert_eq!(bare(&node, "GC", &config).failed().0, 11);
    assert!(sandbox.eth0().is_some());
}
