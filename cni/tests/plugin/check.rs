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

impl Pod {
    /// CHECK has to fail with exactly these differences.
    fn finds_exactly(&self, differences: &str, tampering: &str) {
        let (code, text) = self.check().failed();
        let expected = format!("eth0 of container c1 is not as ADD made it: {differences}");
        assert_eq!((code, &*text), (104, &*expected), "{tampering}");
    }
}

#[test]
fn a_link_as_add_made_it_passes_and_check_changes_nothing() {
    let Some(pod) = Pod::new() else { return };
    let before = (pod.node.space.photograph(), pod.sandbox.space.photograph());
    assert!(pod.check().ok().is_null());
    assert_eq!((pod.node.space.photograph(), pod.sandbox.space.photograph()), before);
}

/// A way to spoil a link, and all that CHECK has to say then, in its order.
type Case = (&'static str, &'static [&'static str]);

const INSIDE: [Case; 11] = [
    ("ip link set eth0 mtu 1400", &["eth0 has MTU 1400 in place of 1500"]),
    ("ip link set eth0 down", &["eth0 is down"]),
    // With its last IPv4 address the kernel takes IPv4 from the link.
    (
        "ip address delete 10.244.3.7/32 dev eth0",
        &[
            "the pod has lost 10.244.3.7",
            "eth0 has lost its permanent neighbour 169.254.1.1",
            "the pod has lost its route to 169.254.1.1/32",
            "the pod has lost its route to 0.0.0.0/0",
        ],
    ),
    ("ip address delete fd00:10:244::307/128 dev eth0", &["the pod has lost fd00:10:244::307"]),
    ("ip route delete 169.254.1.1 dev eth0", &["the pod has lost its route to 169.254.1.1/32"]),
    ("ip route delete default", &["the pod has lost its route to 0.0.0.0/0"]),
    ("ip route replace default dev eth0", &["the pod has lost its route to 0.0.0.0/0"]),
    ("ip -6 route delete default", &["the pod has lost its route to ::/0"]),
    ("ip neigh delete 169.254.1.1 dev eth0", &["eth0 has lost its permanent neighbour 169.254.1.1"]),
    (
        "ip neigh change 169.254.1.1 lladdr 0a:00:00:00:00:01 dev eth0 nud permanent",
        &["eth0 has lost its permanent neighbour 169.254.1.1"],
    ),
    (
        "ip neigh change fe80::ecee:eeff:feee:eeee dev eth0 nud reachable",
        &["eth0 has lost its permanent neighbour fe80::ecee:eeff:feee:eeee"],
    ),
];

const OUTSIDE: [Case; 24] = [
    ("ip link set LINK mtu 1400", &["LINK has MTU 1400 in place of 1500"]),
    ("ip link set LINK down", &["LINK is down"]),
    ("ip link set LINK group 7", &["LINK is in link group 7 in place of 179"]),
    ("ip link set LINK group 179179", &["LINK is about to be removed (link group 179179)"]),
    ("ip route delete 10.244.3.7", &["the node has lost its route to 10.244.3.7"]),
    ("ip route replace 10.244.3.7 dev LINK", &["the node has lost its route to 10.244.3.7"]),
    ("ip -6 route delete fd00:10:244::307", &["the node has lost its route to fd00:10:244::307"]),
    ("ip neigh delete 10.244.3.7 dev LINK", &["LINK has lost its permanent neighbour 10.244.3.7"]),
    (
        "ip neigh change fd00:10:244::307 dev LINK nud stale",
        &["LINK has lost its permanent neighbour fd00:10:244::307"],
    ),
    ("nft flush ruleset", &["the guard of LINK is missing or changed"]),
    ("nft insert rule netdev manx-LINK ingress accept", &["the guard of LINK is missing or changed"]),
    ("ip address delete fe80::ecee:eeff:feee:eeee/64 dev LINK", &["LINK has lost fe80::ecee:eeff:feee:eeee"]),
    ("sysctl -qw net.ipv4.conf.LINK.rp_filter=0", &["net/ipv4/conf/LINK/rp_filter is 0 in place of 1"]),
    ("sysctl -qw net.ipv4.conf.LINK.rp_filter=2", &["net/ipv4/conf/LINK/rp_filter is 2 in place of 1"]),
    (
        "sysctl -qw net.ipv4.conf.all.rp_filter=2",
        &["net/ipv4/conf/all/rp_filter makes the source check of every link loose"],
    ),
    ("sysctl -qw net.ipv4.conf.LINK.forwarding=0", &["net/ipv4/conf/LINK/forwarding is 0 in place of 1"]),
    ("sysctl -qw net.ipv4.conf.LINK.proxy_arp=0", &["net/ipv4/conf/LINK/proxy_arp is 0 in place of 1"]),
    (
        "sysctl -qw net.ipv4.conf.LINK.accept_redirects=1",
        &["net/ipv4/conf/LINK/accept_redirects is 1 in place of 0"],
    ),
    (
        "sysctl -qw net.ipv4.conf.LINK.send_redirects=1",
        &["net/ipv4/conf/LINK/send_redirects is 1 in place of 0"],
    ),
    (
        "sysctl -qw net.ipv4.neigh.LINK.proxy_delay=80",
        &["net/ipv4/neigh/LINK/proxy_delay is 80 in place of 0"],
    ),
    ("sysctl -qw net.ipv6.conf.LINK.accept_ra=1", &["net/ipv6/conf/LINK/accept_ra is 1 in place of 0"]),
    ("sysctl -qw net.ipv6.conf.LINK.accept_dad=1", &["net/ipv6/conf/LINK/accept_dad is 1 in place of 0"]),
    (
        "sysctl -qw net.ipv6.conf.LINK.addr_gen_mode=1",
        &["net/ipv6/conf/LINK/addr_gen_mode is 1 in place of 0"],
    ),
    (
        "sysctl -qw net.ipv6.conf.LINK.disable_ipv6=1",
        &[
            "LINK has lost its permanent neighbour fd00:10:244::307",
            "the node has lost its route to fd00:10:244::307",
            "LINK has lost fe80::ecee:eeff:feee:eeee",
            "net/ipv6/conf/LINK/disable_ipv6 is 1 in place of 0",
        ],
    ),
];

#[test]
fn whatever_is_spoilt_check_names_exactly_that_and_add_repairs_it() {
    let Some(pod) = Pod::new() else { return };
    pod.node.space.await_settled(LINK);
    let inside = INSIDE.iter().map(|case| (&pod.sandbox.space, case));
    for (space, (tampering, differences)) in inside.chain(OUTSIDE.iter().map(|case| (&pod.node.space, case)))
    {
        space.run(&tampering.replace("LINK", LINK));
        pod.finds_exactly(&differences.join("; ").replace("LINK", LINK), tampering);
        // What is not Manx's is not for ADD to put right: somebody else's route, a setting of all links.
        if tampering.contains("route replace 10.244.3.7") {
            space.run("ip route delete 10.244.3.7");
        }
        if tampering.contains("conf.all") {
            space.run("sysctl -qw net.ipv4.conf.all.rp_filter=0");
        }
        assert_eq!(pod.node.call("ADD", &pod.sandbox).ok(), pod.result, "{tampering}");
        pod.node.space.await_settled(LINK);
        let answer = pod.check();
        assert!(answer.succeeded, "{tampering}, then ADD: {answer:?}");
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
    pod.result["interfaces"][0]["name"] = json!("cali0");
    pod.finds(&format!("prevResult has no link {LINK} of the node"));
}

#[test]
fn a_prefix_that_add_did_not_give_is_found() {
    let Some(mut pod) = Pod::new() else { return };
    pod.result["ips"][0]["address"] = json!("10.244.3.7/24");
    let differences = "prevResult has the addresses 10.244.3.7/24, fd00:10:244::307/128, \
                       the agent's record 10.244.3.7/32, fd00:10:244::307/128";
    pod.finds_exactly(differences, "a prefix length");
}

#[test]
fn a_result_that_was_kept_under_another_path_of_the_same_namespace_is_understood() {
    let Some(mut pod) = Pod::new() else { return };
    pod.result["interfaces"][1]["sandbox"] = json!("/var/run/netns/before-the-restart");
    pod.check().ok();
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
