//! However the agent hangs, every verb comes to an end, and a pod can stop.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use manx_cni::rpc::socket_path;
use manx_cni::tombstone;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use serde_json::json;

use crate::node::{Agent, Answer, Mood, Node, Sandbox};

/// The longest that an ADD waits for the agent, and that it then tries to have it undone.
const ADD_PATIENCE: Duration = Duration::from_secs(20 + 5);
/// The longest that every other verb waits for the agent.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a busy machine may take besides.
const SLACK: Duration = Duration::from_secs(8);

/// Calls a verb and sees that it takes no longer than it may.
fn patiently(node: &Node, verb: &str, sandbox: &Sandbox, patience: Duration) -> Answer {
    let started = Instant::now();
    let changes = match verb {
        "CHECK" => json!({ "prevResult": { "interfaces": [], "ips": [] } }),
        "GC" => json!({ "cni.dev/valid-attachments": [] }),
        _ => json!({}),
    };
    let answer = node.call_with(verb, sandbox, changes);
    assert!(started.elapsed() < patience + SLACK, "{verb} took {:?}", started.elapsed());
    answer
}

/// Every verb, all at once: ADD, CHECK and GC are to be tried again, STATUS says why not, DEL succeeds.
fn every_verb_ends(node: &Node, adds: &[u64]) {
    let before = node.space.photograph();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let sandbox = node.sandbox("c1");
            let (code, text) = patiently(node, "ADD", &sandbox, ADD_PATIENCE).failed();
            assert!(adds.contains(&code), "{code} {text}");
            assert!(sandbox.eth0().is_none());
            let left = tombstone::list(&node.run_dir).expect("readable");
            assert!(left.iter().any(|ended| ended.container == "c1"), "the agent is told later to undo it");
        });
        for (verb, code) in [("CHECK", 11), ("GC", 11), ("STATUS", 50)] {
            scope.spawn(move || {
                let failed = patiently(node, verb, &node.sandbox("c2"), PATIENCE).failed();
                assert_eq!(failed.0, code, "{verb}: {failed:?}");
            });
        }
        scope.spawn(|| {
            patiently(node, "DEL", &node.sandbox("c3"), PATIENCE).ok();
        });
    });
    assert_eq!(node.space.photograph(), before);
}

/// A socket whose backlog is full: connecting to it waits.
fn deaf(node: &Node) -> (OwnedFd, UnixStream) {
    let path = socket_path(&node.run_dir);
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(fd.as_raw_fd(), &UnixAddr::new(&path).expect("a path")).expect("the path is free");
    listen(&fd, Backlog::new(0).expect("a backlog")).expect("a listener");
    let first = UnixStream::connect(&path).expect("there is room for one");
    (fd, first)
}

#[test]
fn an_agent_that_takes_no_connection_is_given_up() {
    let Some(node) = Node::new() else { return };
    let _deaf = deaf(&node);
    every_verb_ends(&node, &[11]);
}

#[test]
fn an_agent_that_hangs_at_whatever_point_is_given_up() {
    let moods = [Mood::Silent, Mood::Halting, Mood::Dripping, Mood::Babbling];
    std::thread::scope(|scope| {
        for mood in moods {
            scope.spawn(move || {
                let Some(node) = Node::new() else { return };
                let _agent = Agent::start_with(&node, &[&["10.244.3.7"]], 1500, mood);
                every_verb_ends(&node, &[11]);
            });
        }
    });
}

#[test]
fn status_tells_of_a_node_that_forwards_nothing() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&["10.244.3.7"]]);
    let sandbox = node.sandbox("c1");
    for (key, family) in [("net.ipv4.ip_forward", "IPv4"), ("net.ipv6.conf.all.forwarding", "IPv6")] {
        node.call("STATUS", &sandbox).ok();
        node.space.run(&format!("sysctl -qw {key}=0"));
        let (code, text) = node.call("STATUS", &sandbox).failed();
        assert!(
            code == 51 && text.contains(family) && text.contains(&format!("sysctl -w {key}=1")),
            "{text}"
        );
        node.space.run(&format!("sysctl -qw {key}=1"));
    }
}
