//! The MTU of running pods is changed on both ends, or on neither.

use std::path::Path;

use manx_kernel::netlink::mtu::{ResizeError, Resized, Which, resize};
use manx_kernel::netlink::socket::Socket;
use serde_json::json;

use crate::node::{Agent, NODE_V4, NODE_V6, Node, Sandbox, Space};

const V4: &str = "10.244.3.7";
const V6: &str = "fd00:10:244::307";
const LINK: &str = "cali18582a65b10";

fn change(node: &Node, sandbox: &Sandbox, netns: Option<&str>, mtu: u32) -> Result<Resized, ResizeError> {
    node.space.within(|| {
        let mut host = Socket::route().expect("a socket");
        let which = Which { link: LINK, container: &sandbox.container, ifname: &sandbox.ifname };
        resize(&mut host, which, netns.map(Path::new), mtu)
    })
}

/// The MTU of the host's end and of the pod's.
fn sizes(node: &Node, sandbox: &Sandbox) -> [u64; 2] {
    let of = |link: Option<serde_json::Value>| link.expect("the link")["mtu"].as_u64().expect("a number");
    [of(node.space.link(LINK)), of(sandbox.eth0())]
}

/// Whether a packet of this size, headers included, gets there and back in one piece.
fn passes(from: &Space, target: &str, size: u32) -> bool {
    let headers = if target.contains(':') { 48 } else { 28 };
    from.try_run(&format!("ping -n -c 1 -W 0.3 -M do -s {} {target}", size - headers)).is_ok()
}

#[test]
fn a_running_pod_gets_larger_and_smaller_packets_through_as_the_mtu_changes() {
    let Some(node) = Node::new() else { return };
    if node.space.try_run("ping -V").is_err() {
        println!("ignored: no ping (package iputils-ping)");
        return;
    }
    let agent = Agent::start(&node, &[&[V4, V6]]);
    let sandbox = node.sandbox("c1");
    let result = node.call("ADD", &sandbox).ok();
    let path = sandbox.space.path();
    for (mtu, outcome) in [
        (1500, Resized::Already),
        (8900, Resized::Changed),
        (1400, Resized::Changed),
        (1280, Resized::Changed),
    ] {
        assert_eq!(change(&node, &sandbox, Some(&path), mtu).expect("it works"), outcome);
        assert_eq!(sizes(&node, &sandbox), [u64::from(mtu); 2]);
        for (from, targets) in [(&sandbox.space, [NODE_V4, NODE_V6]), (&node.space, [V4, V6])] {
            for target in targets {
                assert!(passes(from, target, mtu), "{mtu} to {target}");
                assert!(!passes(from, target, mtu + 1), "{} to {target}", mtu + 1);
            }
        }
        agent.tell_mtu(mtu);
        node.call_with("CHECK", &sandbox, json!({ "prevResult": result })).ok();
    }
}

#[test]
fn a_pods_end_that_somebody_made_smaller_stays_so() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&[V4]]);
    let sandbox = node.sandbox("c1");
    node.call("ADD", &sandbox).ok();
    let path = sandbox.space.path();
    sandbox.space.run("ip link set eth0 mtu 1300");
    change(&node, &sandbox, Some(&path), 9000).expect("it works");
    assert_eq!(sizes(&node, &sandbox), [9000, 1300]);
    change(&node, &sandbox, Some(&path), 1200).expect("it works");
    assert_eq!(
        sizes(&node, &sandbox),
        [1200, 1200],
        "what is larger than its node's end gets nothing through"
    );
}

#[test]
fn what_a_killed_change_left_is_finished_by_the_next() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&[V4]]);
    let sandbox = node.sandbox("c1");
    node.call("ADD", &sandbox).ok();
    sandbox.space.run("ip link set eth0 mtu 9000");
    assert_eq!(
        change(&node, &sandbox, Some(&sandbox.space.path()), 9000).expect("it works"),
        Resized::Changed
    );
    assert_eq!(sizes(&node, &sandbox), [9000, 9000]);
}

#[test]
fn where_the_pods_end_cannot_be_reached_neither_end_changes() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&[V4], &["10.244.3.8"]]);
    let (sandbox, other) = (node.sandbox("c1"), node.sandbox_of("c2", Some(("shop", "other"))));
    node.call("ADD", &sandbox).ok();
    node.call("ADD", &other).ok();
    let empty = node.sandbox("c3");
    let paths = [
        None,
        Some("/run/netns/gone".to_owned()),
        Some("/dev/null".to_owned()),
        Some(other.space.path()),
        Some(empty.space.path()),
        Some(node.space.path()),
    ];
    for path in paths {
        let refused = change(&node, &sandbox, path.as_deref(), 9000);
        assert!(refused.is_err(), "{path:?}: {refused:?}");
        assert_eq!(sizes(&node, &sandbox), [1500, 1500], "{path:?}");
        assert_eq!(other.eth0().expect("eth0")["mtu"], 1500);
    }
    assert_eq!(change(&node, &empty, None, 9000).expect("nothing to do"), Resized::NoLink);
}
