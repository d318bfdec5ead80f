//! Second interfaces of a pod, as Multus makes them: another network, another name, the same container.

use serde_json::{Value, json};

use crate::node::{Agent, NODE_V4, NODE_V6, Node, Sandbox, echo};

const FIRST: [&str; 2] = ["10.244.3.7", "fd00:10:244::307"];
const SECOND: [&str; 2] = ["10.245.3.8", "fd00:10:245::308"];

/// The same container with another interface.
fn other(node: &Node, sandbox: &Sandbox, ifname: &str, of: impl FnOnce(Sandbox) -> Sandbox) -> Sandbox {
    let fresh = node.sandbox(&sandbox.container);
    of(Sandbox { ifname: ifname.into(), pod: sandbox.pod.clone(), ..fresh })
}

fn call(node: &Node, verb: &str, second: &Sandbox, result: Option<&Value>) -> crate::node::Answer {
    let mut changes = json!({ "name": "storage" });
    if let Some(result) = result {
        changes["prevResult"] = result.clone();
    }
    node.call_with(verb, second, changes)
}

fn names(result: &Value) -> [String; 2] {
    [0, 1].map(|index| result["interfaces"][index]["name"].as_str().expect("a name").to_owned())
}

#[test]
fn a_second_interface_is_reached_and_leaves_the_default_routes_of_the_first_alone() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&FIRST, &SECOND]);
    let sandbox = node.sandbox("c1");
    let first = node.call("ADD", &sandbox).ok();
    let routes = ["-4", "-6"].map(|family| sandbox.space.routes(family));
    let whole = sandbox.space.photograph();
    let second = other(&node, &sandbox, "net1", |fresh| Sandbox { space: sandbox.space.share(), ..fresh });
    let result = call(&node, "ADD", &second, None).ok();
    assert_eq!(result["routes"], json!([]), "a runtime must not take it for the pod's way out");
    assert_eq!(["-4", "-6"].map(|family| sandbox.space.routes(family)), routes);
    let ([first_link, _], [second_link, net1]) = (names(&first), names(&result));
    assert!(first_link != second_link && net1 == "net1");
    for (address, target) in FIRST.into_iter().chain(SECOND).zip([NODE_V4, NODE_V6, NODE_V4, NODE_V6]) {
        assert!(echo(&sandbox.space, &node.space, address, target), "{address} to its node");
        assert!(echo(&node.space, &sandbox.space, target, address), "its node to {address}");
    }
    // ADD repeated, CHECK, and the end of one do not touch the other.
    let both = sandbox.space.photograph();
    assert_eq!(call(&node, "ADD", &second, None).ok(), result);
    assert_eq!(sandbox.space.photograph(), both);
    call(&node, "CHECK", &second, Some(&result)).ok();
    node.call_with("CHECK", &sandbox, json!({ "prevResult": first })).ok();
    call(&node, "DEL", &second, None).ok();
    assert_eq!(sandbox.space.photograph(), whole);
    assert!(node.space.link(&first_link).is_some() && node.space.link(&second_link).is_none());
    assert_eq!(agent.known().keys().collect::<Vec<_>>(), [&sandbox.attachment()]);
    node.call_with("CHECK", &sandbox, json!({ "prevResult": first })).ok();
}

#[test]
fn check_finds_what_a_second_interface_has_lost() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&FIRST, &SECOND]);
    let sandbox = node.sandbox("c1");
    node.call("ADD", &sandbox).ok();
    let second = other(&node, &sandbox, "net1", |fresh| Sandbox { space: sandbox.space.share(), ..fresh });
    let result = call(&node, "ADD", &second, None).ok();
    let index = sandbox.space.link("net1").expect("net1")["ifindex"].as_u64().expect("a number");
    let table = 179_000 + index;
    for (tampering, difference) in [
        (
            format!("ip rule delete from 10.245.3.8 lookup {table}"),
            "the pod has lost its rule for what it sends from 10.245.3.8".to_owned(),
        ),
        (
            format!("ip -6 route delete default table {table}"),
            format!("the pod has lost the route for what it sends from fd00:10:245::308 (table {table})"),
        ),
    ] {
        sandbox.space.run(&tampering);
        let (code, text) = call(&node, "CHECK", &second, Some(&result)).failed();
        assert_eq!((code, text), (104, format!("net1 of container c1 is not as ADD made it: {difference}")));
        assert_eq!(call(&node, "ADD", &second, None).ok(), result);
        call(&node, "CHECK", &second, Some(&result)).ok();
    }
}

#[test]
fn a_default_route_of_another_plugins_interface_stays_whatever_its_metric() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&SECOND]);
    let sandbox = Sandbox { ifname: "net1".into(), ..node.sandbox("c1") };
    sandbox.space.run("ip link add eth0 type veth peer name x1");
    sandbox.space.run("ip link set eth0 up");
    sandbox.space.run("ip address add 172.16.0.2/24 dev eth0");
    sandbox.space.run("ip route add default via 172.16.0.1 dev eth0 metric 100");
    let before = sandbox.space.routes("-4");
    let result = call(&node, "ADD", &sandbox, None).ok();
    assert_eq!(sandbox.space.routes("-4"), before);
    // There is no default route for IPv6 yet, so that this one is it.
    assert_eq!(result["routes"], json!([{ "dst": "::/0", "gw": "fe80::ecee:eeff:feee:eeee" }]));
    assert!(sandbox.space.routes("-6")[0].starts_with("default via fe80::ecee:eeff:feee:eeee dev net1"));
    for (address, target) in SECOND.into_iter().zip([NODE_V4, NODE_V6]) {
        assert!(echo(&node.space, &sandbox.space, target, address), "its node to {address}");
        assert!(echo(&sandbox.space, &node.space, address, target), "{address} to its node");
    }
    call(&node, "CHECK", &sandbox, Some(&result)).ok();
}

#[test]
fn an_only_interface_has_the_default_routes_whatever_its_name() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&FIRST, &SECOND]);
    for (container, ifname) in [("c1", "net1"), ("c2", "fifteen-bytes-x"), ("c3", "net.1_a@b"), ("c4", "-x")]
    {
        let sandbox = Sandbox { ifname: ifname.into(), ..node.sandbox(container) };
        let result = call(&node, "ADD", &sandbox, None).ok();
        assert_eq!(result["routes"].as_array().map(Vec::len), Some(2), "{ifname}: {result}");
        assert_eq!(names(&result)[1], ifname);
        assert!(echo(&sandbox.space, &node.space, FIRST[0], NODE_V4), "{ifname}");
        call(&node, "CHECK", &sandbox, Some(&result)).ok();
        call(&node, "DEL", &sandbox, None).ok();
    }
    assert!(node.pod_link().is_none());
}

#[test]
fn many_interfaces_of_one_pod_have_links_of_their_own() {
    let Some(node) = Node::new() else { return };
    let rows: Vec<[String; 1]> = (1..=6).map(|last| [format!("10.245.3.{last}")]).collect();
    let rows: Vec<[&str; 1]> = rows.iter().map(|[row]| [&**row]).collect();
    let rows: Vec<&[&str]> = rows.iter().map(|row| &row[..]).collect();
    let _agent = Agent::start(&node, &rows);
    let sandbox = node.sandbox("c1");
    node.call("ADD", &sandbox).ok();
    for number in 1..=5 {
        let share = |fresh| Sandbox { space: sandbox.space.share(), ..fresh };
        let second = other(&node, &sandbox, &format!("net{number}"), share);
        call(&node, "ADD", &second, None).ok();
    }
    for last in 1..=6 {
        assert!(echo(&node.space, &sandbox.space, NODE_V4, &format!("10.245.3.{last}")), "{last}");
    }
    assert_eq!(node.space.routes("-4").len(), 6);
}
