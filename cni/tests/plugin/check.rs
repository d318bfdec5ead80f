//! CHECK finds every way in which a link can differ from what ADD made.

use serde_json::{Value, json};

use crate::node::{Agent, Node, Sandbox};

const V4: &str = "10.244.3.7";
const V6: &str = "fd00:10:244::307";
const LINK: &str = "cali18582a65b10";

/// The agent goes before the node, whose run directory holds its socket.
struct Pod {
    agent: Agent,
    node: Node,
    sandbox: Sandbox,
    result: Value,
}

impl Pod {
    fn new() -> Option<Self> {
        let node = Node::new()?;
        let agent = Agent::start(&node, &[&[V4, V6]]);
        let sandbox = node.sandbox("c1");
        let result = node.call("ADD", &sandbox).ok();
        Some(Self { agent, node, sandbox, result })
    }

    fn check(&self) -> crate::node::Answer {
        self.node.call_with("CHECK", &self.sandbox, json!({ "prevResult": self.result }))
    }

    /// CHECK has to fail and name what is wrong.
    fn finds(&self, what: &str) {
        let (code, text) = self.check().failed();
        assert_eq!(code, 104, "{text}");
        assert!(text.contains(what), "\"{what}\" is not in: {text}");
    }
}

#[test]
fn a_link_as_add_made_it_passes_and_check_changes_nothing() {
    let Some(pod) = Pod::new() else { return };
    let before = (pod.node.space.photograph(), pod.sandbox.space.photograph());
    assert!(pod.check().ok().is_null());
    assert_eq!((pod.node.space.photograph(), pod.sandbox.space.photograph()), before);
}

#[test]
fn tampering_with_the_link_is_found_each_time_and_add_repairs_it() {
    let Some(pod) = Pod::new() else { return };
    let inside = [
        ("ip link set eth0 mtu 1400", "eth0 has MTU 1400 in place of 1500"),
        ("ip link set eth0 down", "eth0 is down"),
        ("ip address delete 10.244.3.7/32 dev eth0", "the pod has lost 10.244.3.7"),
        ("ip address delete fd00:10:244::307/128 dev eth0", "the pod has lost fd00:10:244::307"),
        ("ip route delete 169.254.1.1 dev eth0", "its route to 169.254.1.1/32"),
        ("ip route delete default", "its route to 0.0.0.0/0"),
        ("ip route replace default dev eth0", "its route to 0.0.0.0/0"),
        ("ip -6 route delete default", "its route to ::/0"),
        ("ip neigh delete 169.254.1.1 dev eth0", "neighbour 169.254.1.1"),
        (
            "ip neigh change 169.254.1.1 lladdr 0a:00:00:00:00:01 dev eth0 nud permanent",
            "neighbour 169.254.1.1",
        ),
        ("ip neigh change fe80::ecee:eeff:feee:eeee dev eth0 nud reachable", "neighbour fe80::ecee"),
    ];
    let outside = [
        ("ip link set LINK mtu 1400", "LINK has MTU 1400 in place of 1500"),
        ("ip link set LINK down", "LINK is down"),
        ("ip route delete 10.244.3.7", "the node has lost its route to 10.244.3.7"),
        ("ip route replace 10.244.3.7 dev LINK", "the node has lost its route to 10.244.3.7"),
        ("ip -6 route delete fd00:10:244::307", "the node has lost its route to fd00:10:244::307"),
        ("ip neigh delete 10.244.3.7 dev LINK", "neighbour 10.244.3.7"),
        ("ip neigh change fd00:10:244::307 dev LINK nud stale", "neighbour fd00:10:244::307"),
        ("sysctl -qw net.ipv4.conf.LINK.rp_filter=0", "rp_filter is 0 in place of 1"),
        ("sysctl -qw net.ipv4.conf.LINK.forwarding=0", "forwarding is 0 in place of 1"),
        ("sysctl -qw net.ipv6.conf.LINK.accept_ra=1", "accept_ra is 1 in place of 0"),
    ];
    let cases = inside.iter().map(|case| (&pod.sandbox.space, case));
    for (space, (tampering, found)) in cases.chain(outside.iter().map(|case| (&pod.node.space, case))) {
        space.run(&tampering.replace("LINK", LINK));
        pod.finds(&found.replace("LINK", LINK));
        if tampering.contains("route replace 10.244.3.7") {
            // A route that is not Manx's is not for ADD to replace.
            space.run("ip route delete 10.244.3.7");
        }
        assert_eq!(pod.node.call("ADD", &pod.sandbox).ok(), pod.result, "{tampering}");
        pod.check().ok();
    }
}

#[test]
fn a_hardware_address_that_was_changed_is_found() {
    let Some(pod) = Pod::new() else { return };
    pod.sandbox.space.run("ip link set eth0 address 0a:00:00:00:00:01");
    pod.finds("eth0 has another hardware address");
    pod.node.space.run(&format!("ip link set {LINK} address 0a:00:00:00:00:02"));
    pod.finds(&format!("{LINK} has another hardware address"));
}

#[test]
fn all_differences_are_named_at_once() {
    let Some(pod) = Pod::new() else { return };
    pod.sandbox.space.run("ip -6 route delete default");
    pod.node.space.run("ip route delete 10.244.3.7");
    pod.finds("its route to ::/0");
    pod.finds("the node has lost its route to 10.244.3.7");
}

#[test]
fn a_link_that_is_gone_is_found_on_both_sides() {
    let Some(pod) = Pod::new() else { return };
    pod.node.space.run(&format!("ip link delete {LINK}"));
    pod.finds("the pod has no interface eth0");
    pod.finds(&format!("the node has no link {LINK}"));
}

#[test]
fn a_link_that_now_is_another_containers_is_found() {
    let Some(pod) = Pod::new() else { return };
    pod.node.space.run(&format!("ip link set {LINK} alias manx:c9:eth0"));
    pod.finds("belongs to another container");
}

#[test]
fn a_container_that_the_agent_does_not_know_fails() {
    let Some(pod) = Pod::new() else { return };
    pod.agent.forget(&pod.sandbox.attachment());
    pod.finds("the agent has no record");
}

#[test]
fn a_result_that_differs_from_the_agents_record_fails() {
    let Some(mut pod) = Pod::new() else { return };
    pod.result["ips"][0]["address"] = json!("10.244.3.9/32");
    pod.finds("10.244.3.9");
    pod.result["interfaces"][1]["name"] = json!("eth7");
    pod.finds("prevResult has no interface eth0");
}

#[test]
fn results_of_older_versions_are_checked_as_well() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&[V4, V6]]);
    for version in ["0.4.0", "1.0.0"] {
        let sandbox = node.sandbox("c1");
        let result = node.call_with("ADD", &sandbox, json!({ "cniVersion": version })).ok();
        let changes = json!({ "cniVersion": version, "prevResult": result });
        node.call_with("CHECK", &sandbox, changes).ok();
        node.call_with("DEL", &sandbox, json!({ "cniVersion": version })).ok();
    }
}

#[test]
fn without_an_agent_nothing_can_be_said() {
    let Some(pod) = Pod::new() else { return };
    let Pod { agent, node, sandbox, result } = pod;
    drop(agent);
    assert_eq!(node.call_with("CHECK", &sandbox, json!({ "prevResult": result })).failed().0, 11);
}
