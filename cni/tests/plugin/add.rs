//! ADD: the result and the whole of the kernel's state.

use serde_json::{Value, json};

use crate::node::{Agent, Mood, NODE_V4, NODE_V6, Node, Sandbox, Space, echo};
use manx_cni::rpc::{PodRef, Request, RpcError};
use manx_cni::tombstone;

const V4: &str = "10.244.3.7";
const V6: &str = "fd00:10:244::307";
/// `printf 'shop.cart-0' | sha1sum`
const LINK: &str = "cali18582a65b10";

#[test]
fn a_pod_with_both_families_gets_a_link_that_is_right_in_every_detail() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&[V4, V6]]);
    let sandbox = node.sandbox("c1");
    let result = node.call("ADD", &sandbox).ok();

    let mac = sandbox.eth0().expect("eth0")["address"].clone();
    assert_eq!(
        result,
        json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                { "name": LINK, "mac": "ee:ee:ee:ee:ee:ee", "mtu": 1500 },
                { "name": "eth0", "mac": mac, "mtu": 1500, "sandbox": sandbox.space.path() },
            ],
            "ips": [
                { "interface": 1, "address": format!("{V4}/32"), "gateway": "169.254.1.1" },
                { "interface": 1, "address": format!("{V6}/128"), "gateway": "fe80::ecee:eeff:feee:eeee" },
            ],
            "routes": [
                { "dst": "0.0.0.0/0", "gw": "169.254.1.1" },
                { "dst": "::/0", "gw": "fe80::ecee:eeff:feee:eeee" },
            ],
            "dns": {},
        })
    );
    inside_is_right(&sandbox, mac.as_str().expect("text"));
    outside_is_right(&node, mac.as_str().expect("text"));
    let requests = agent.seen();
    let Request::Add(request) = &requests[0] else { panic!("{requests:?}") };
    let pod = PodRef { namespace: "shop".into(), name: "cart-0".into(), uid: Some("u-1".into()) };
    assert_eq!((&*request.link, request.pod.as_ref(), &*request.network), (LINK, Some(&pod), "manx"));
}

fn inside_is_right(sandbox: &Sandbox, mac: &str) {
    let pod = &sandbox.space;
    let eth0 = sandbox.eth0().expect("eth0");
    assert_eq!(eth0["mtu"], 1500);
    assert!(eth0["flags"].as_array().expect("a list").contains(&json!("UP")));
    assert_eq!((&eth0["num_tx_queues"], &eth0["num_rx_queues"]), (&json!(1), &json!(1)));
    assert_ne!(mac, "ee:ee:ee:ee:ee:ee");
    assert_eq!(pod.routes("-4"), ["default via 169.254.1.1 dev eth0", "169.254.1.1 dev eth0 scope link"]);
    let v6 = pod.routes("-6");
    assert_eq!(v6.len(), 1, "{v6:?}");
    assert!(v6[0].starts_with("default via fe80::ecee:eeff:feee:eeee dev eth0"), "{v6:?}");
    let neighbour = |address: &str| format!("{address} lladdr ee:ee:ee:ee:ee:ee PERMANENT");
    assert_eq!(pod.neighbours("eth0"), [neighbour("169.254.1.1"), neighbour("fe80::ecee:eeff:feee:eeee")]);
    let addresses = pod.run("ip address show dev eth0");
    assert!(addresses.contains(&format!("inet {V4}/32")), "{addresses}");
    let of_v6 = addresses.lines().find(|line| line.contains(V6)).expect("the IPv6 address");
    assert!(of_v6.contains("/128") && !of_v6.contains("tentative"), "{of_v6}");
}

fn outside_is_right(node: &Node, mac: &str) {
    node.space.await_settled(LINK);
    let host = node.space.link(LINK).expect("the host's end");
    assert_eq!(host["ifalias"], "manx:c1:eth0");
    assert_eq!(
        (&host["address"], &host["mtu"], &host["group"]),
        (&json!("ee:ee:ee:ee:ee:ee"), &json!(1500), &json!("179"))
    );
    assert_eq!((&host["num_tx_queues"], &host["operstate"]), (&json!(1), &json!("UP")));
    assert_eq!(node.space.routes("-4"), [format!("{V4} dev {LINK} proto 179 scope link")]);
    let v6 = node.space.routes("-6");
    assert_eq!(v6.len(), 1, "{v6:?}");
    assert!(v6[0].starts_with(&format!("{V6} dev {LINK} proto 179 metric 1024")), "{v6:?}");
    let neighbour = |address: &str| format!("{address} lladdr {mac} PERMANENT");
    assert_eq!(node.space.neighbours(LINK), [neighbour(V4), neighbour(V6)]);
    for (setting, value) in [
        ("net/ipv4/conf/LINK/rp_filter", "1"),
        ("net/ipv4/conf/LINK/forwarding", "1"),
        ("net/ipv4/conf/LINK/proxy_arp", "1"),
        ("net/ipv4/conf/LINK/accept_redirects", "0"),
        ("net/ipv4/conf/LINK/send_redirects", "0"),
        ("net/ipv4/neigh/LINK/proxy_delay", "0"),
        ("net/ipv6/conf/LINK/accept_ra", "0"),
        ("net/ipv6/conf/LINK/accept_dad", "0"),
        ("net/ipv6/conf/LINK/forwarding", "1"),
    ] {
        assert_eq!(node.space.sysctl(&setting.replace("LINK", LINK)), value, "{setting}");
    }
    let addresses = node.space.run(&format!("ip -6 address show dev {LINK}"));
    assert!(
        addresses.contains("fe80::ecee:eeff:feee:eeee/64") && !addresses.contains("tentative"),
        "{addresses}"
    );
}

#[test]
fn a_pod_with_one_family_gets_nothing_of_the_other() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&[V4], &[V6]]);
    let only_v4 = node.sandbox_of("c1", Some(("shop", "four")));
    let only_v6 = node.sandbox_of("c2", Some(("shop", "six")));
    let four = node.call("ADD", &only_v4).ok();
    let six = node.call("ADD", &only_v6).ok();
    assert_eq!(four["routes"], json!([{ "dst": "0.0.0.0/0", "gw": "169.254.1.1" }]));
    assert_eq!(six["routes"], json!([{ "dst": "::/0", "gw": "fe80::ecee:eeff:feee:eeee" }]));
    assert!(only_v4.space.routes("-6").is_empty());
    assert!(only_v6.space.routes("-4").is_empty());
    // A pod without an IPv6 address can send router advertisements none the less.
    let link = four["interfaces"][0]["name"].as_str().expect("a name");
    assert_eq!(node.space.sysctl(&format!("net/ipv6/conf/{link}/accept_ra")), "0");
}

#[test]
fn the_very_first_packet_arrives_in_both_directions_and_nobody_is_asked_for_the_way() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&[V4, V6], &["10.244.3.8", "fd00:10:244::308"]]);
    let first = node.sandbox_of("c1", Some(("shop", "a")));
    let second = node.sandbox_of("c2", Some(("shop", "b")));
    node.call("ADD", &first).ok();
    node.call("ADD", &second).ok();
    for (pod, host) in [(V4, NODE_V4), (V6, NODE_V6)] {
        assert!(echo(&first.space, &node.space, pod, host), "pod to host, {pod}");
        assert!(echo(&node.space, &first.space, host, pod), "host to pod, {pod}");
    }
    for (a, b) in [(V4, "10.244.3.8"), (V6, "fd00:10:244::308")] {
        assert!(echo(&first.space, &second.space, a, b), "pod to pod, {a}");
    }
    for space in [&node.space, &first.space, &second.space] {
        let learnt =
            space.run("ip neigh show nud reachable nud stale nud delay nud probe nud incomplete nud failed");
        assert_eq!(learnt, "", "every neighbour that was used is permanent");
    }
}

#[test]
fn a_first_ping_is_answered() {
    let Some(node) = Node::new() else { return };
    if node.space.try_run("ping -V").is_err() {
        println!("ignored: no ping (package iputils-ping)");
        return;
    }
    let _agent = Agent::start(&node, &[&[V4, V6]]);
    let sandbox = node.sandbox("c1");
    node.call("ADD", &sandbox).ok();
    for address in [NODE_V4, NODE_V6] {
        sandbox.space.run(&format!("ping -n -c 1 -W 1 {address}"));
    }
    for address in [V4, V6] {
        node.space.run(&format!("ping -n -c 1 -W 1 {address}"));
    }
}

#[test]
fn a_pod_cannot_send_from_an_ipv4_address_that_is_not_its_own() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&[V4]]);
    let sandbox = node.sandbox("c1");
    node.call("ADD", &sandbox).ok();
    sandbox.space.run("ip address add 10.244.9.9/32 dev eth0");
    node.space.run("ip route add blackhole 10.244.9.0/24");
    assert!(
        !echo(&sandbox.space, &node.space, "10.244.9.9", NODE_V4),
        "the source check lets a stranger through"
    );
    assert!(echo(&sandbox.space, &node.space, V4, NODE_V4));
}

#[test]
fn every_version_of_the_specification_gets_its_own_shape() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&[V4, V6]]);
    for version in ["0.1.0", "0.2.0"] {
        let sandbox = node.sandbox("c1");
        let of_family = |address: &str, any: &str, gateway: &str| json!({ "ip": address, "gateway": gateway, "routes": [{ "dst": any, "gw": gateway }] });
        let expected = json!({
            "cniVersion": version,
            "ip4": of_family("10.244.3.7/32", "0.0.0.0/0", "169.254.1.1"),
            "ip6": of_family("fd00:10:244::307/128", "::/0", "fe80::ecee:eeff:feee:eeee"),
            "dns": {},
        });
        assert_eq!(node.call_with("ADD", &sandbox, json!({ "cniVersion": version })).ok(), expected);
        node.call_with("DEL", &sandbox, json!({ "cniVersion": version })).ok();
    }
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let sandbox = node.sandbox("c1");
        let result = node.call_with("ADD", &sandbox, json!({ "cniVersion": version })).ok();
        assert_eq!(result["cniVersion"], version);
        let family = if version < "1.0.0" { json!("4") } else { Value::Null };
        assert_eq!(result["ips"][0]["version"], family, "{version}");
        let mtu = if version < "1.1.0" { Value::Null } else { json!(1500) };
        assert_eq!(result["interfaces"][1]["mtu"], mtu, "{version}");
        node.call_with("DEL", &sandbox, json!({ "cniVersion": version })).ok();
    }
}

#[test]
fn add_repeated_gives_the_same_result_and_repairs_what_was_broken() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&[V4, V6], &["10.244.3.99"]]);
    let sandbox = node.sandbox("c1");
    let first = node.call("ADD", &sandbox).ok();
    let index = sandbox.eth0().expect("eth0")["ifindex"].clone();
    let (whole_node, whole_pod) = (node.space.photograph(), sandbox.space.photograph());
    assert_eq!(node.call("ADD", &sandbox).ok(), first);
    assert_eq!(node.space.photograph(), whole_node);
    assert_eq!(sandbox.space.photograph(), whole_pod);

    node.space.run(&format!("ip route delete {V4}/32"));
    node.space.run(&format!("ip link set {LINK} down"));
    sandbox.space.run("ip link set eth0 mtu 1400");
    sandbox.space.run(&format!("ip address delete {V4}/32 dev eth0"));
    sandbox.space.run("ip -6 neigh delete fe80::ecee:eeff:feee:eeee dev eth0");
    sandbox.space.run("ip route replace default dev eth0");
    assert_eq!(node.call("ADD", &sandbox).ok(), first);
    assert_eq!(sandbox.eth0().expect("eth0")["ifindex"], index, "the link is repaired, not made anew");
    let mac = first["interfaces"][1]["mac"].as_str().expect("text");
    inside_is_right(&sandbox, mac);
    outside_is_right(&node, mac);
}

#[test]
fn a_link_that_lost_its_other_end_to_another_namespace_is_made_anew() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&[V4, V6]]);
    let sandbox = node.sandbox("c1");
    let first = node.call("ADD", &sandbox).ok();
    let elsewhere = Sandbox { space: node.sandbox("x").space, ..node.sandbox("c1") };
    let second = node.call("ADD", &elsewhere).ok();
    assert_eq!(first["ips"], second["ips"]);
    assert!(sandbox.eth0().is_none());
    outside_is_right(&node, second["interfaces"][1]["mac"].as_str().expect("text"));
}

#[test]
fn the_link_of_an_older_sandbox_of_the_same_pod_gives_way() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&[V4, V6], &["10.244.3.8"]]);
    let (old, new) = (node.sandbox("c1"), node.sandbox("c2"));
    node.call("ADD", &old).ok();
    node.call("ADD", &new).ok();
    assert_eq!(node.space.link(LINK).expect("the new link")["ifalias"], "manx:c2:eth0");
    assert!(old.eth0().is_none() && new.eth0().is_some());
    assert!(echo(&new.space, &node.space, "10.244.3.8", NODE_V4));
}

#[test]
fn what_a_plugin_that_was_killed_left_half_made_is_made_anew() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&[V4, V6]]);
    let sandbox = node.sandbox("c1");
    // As it is right after the first request: both ends there and down, no alias yet.
    let netns = sandbox.space.path();
    node.space.run(&format!("ip link add {LINK} group 179 type veth peer name eth0"));
    let moved = node.space.try_run(&format!("ip link set eth0 netns {netns}"));
    if let Err(error) = moved {
        println!("ignored: this ip cannot move links to a path ({error})");
        return;
    }
    let result = node.call("ADD", &sandbox).ok();
    inside_is_right(&sandbox, result["interfaces"][1]["mac"].as_str().expect("text"));
}

#[test]
fn a_strangers_link_of_the_same_name_is_left_alone() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&[V4, V6]]);
    node.space.run(&format!("ip link add {LINK} type veth peer name other"));
    let before = node.space.photograph();
    let sandbox = node.sandbox("c1");
    let (code, text) = node.call("ADD", &sandbox).failed();
    assert_eq!(code, 102, "{text}");
    assert!(text.contains(LINK) && text.contains("ip link delete"), "{text}");
    assert_eq!(node.space.photograph(), before);
    assert!(sandbox.eth0().is_none() && agent.known().is_empty(), "the addresses are free again");
}

#[test]
fn an_interface_of_that_name_in_the_pod_is_an_error_and_leaves_no_trace() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&[V4, V6]]);
    let sandbox = node.sandbox("c1");
    sandbox.space.run("ip link add eth0 type veth peer name x0");
    let before = (node.space.photograph(), sandbox.space.photograph());
    let (code, text) = node.call("ADD", &sandbox).failed();
    assert_eq!(code, 102, "{text}");
    assert!(text.contains("already has an interface eth0"), "{text}");
    assert_eq!((node.space.photograph(), sandbox.space.photograph()), before);
    assert!(agent.known().is_empty(), "the addresses are free again");
}

#[test]
fn a_strangers_route_to_the_pods_address_is_an_error_and_leaves_no_trace() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&[V4, V6]]);
    node.space.run(&format!("ip route add {V4}/32 dev lo"));
    let before = node.space.photograph();
    let sandbox = node.sandbox("c1");
    let (code, text) = node.call("ADD", &sandbox).failed();
    assert_eq!(code, 103, "{text}");
    assert!(text.contains(V4) && text.contains("not Manx's"), "{text}");
    assert_eq!(node.space.photograph(), before);
    assert!(sandbox.eth0().is_none() && agent.known().is_empty());
}

#[test]
fn a_stale_route_of_ours_to_the_pods_address_gives_way() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&[V4, V6]]);
    node.space.run(&format!("ip route add {V4}/32 dev lo proto 179"));
    let sandbox = node.sandbox("c1");
    let result = node.call("ADD", &sandbox).ok();
    outside_is_right(&node, result["interfaces"][1]["mac"].as_str().expect("text"));
}

#[test]
fn a_default_route_by_another_interface_of_the_pod_is_not_stolen() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&[V4]]);
    let sandbox = node.sandbox("c1");
    sandbox.space.run("ip link add x0 type veth peer name x1");
    sandbox.space.run("ip link set x0 up");
    sandbox.space.run("ip route add default dev x0");
    let before = sandbox.space.photograph();
    let (code, text) = node.call("ADD", &sandbox).failed();
    assert_eq!(code, 103, "{text}");
    assert!(text.contains("0.0.0.0/0"), "{text}");
    assert_eq!(sandbox.space.photograph(), before);
    assert!(agent.known().is_empty() && node.pod_link().is_none());
}

#[test]
fn ipv6_that_was_switched_off_is_switched_on_where_a_pod_needs_it() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&[V4, V6]]);
    let sandbox = node.sandbox("c1");
    let switch_off = |space: &Space, scope: &str| {
        let key = manx_kernel::sysctl::ipv6(scope, "disable_ipv6");
        space.within(|| manx_kernel::sysctl::write(&key, "1")).expect("IPv6 can be switched off");
    };
    switch_off(&sandbox.space, "all");
    switch_off(&sandbox.space, "default");
    switch_off(&node.space, "default");
    let result = node.call("ADD", &sandbox).ok();
    inside_is_right(&sandbox, result["interfaces"][1]["mac"].as_str().expect("text"));
    assert!(echo(&sandbox.space, &node.space, V6, NODE_V6));
}

#[test]
fn a_node_that_has_ipv6_switched_off_carries_pods_with_and_without_it() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&[V4], &[V4, V6]]);
    for scope in ["all", "default", "lo"] {
        node.space.run(&format!("sysctl -qw net.ipv6.conf.{scope}.disable_ipv6=1"));
    }
    let only_v4 = node.sandbox_of("c1", Some(("shop", "four")));
    let four = node.call("ADD", &only_v4).ok();
    let link = four["interfaces"][0]["name"].as_str().expect("a name");
    assert_eq!(node.space.sysctl(&format!("net/ipv6/conf/{link}/disable_ipv6")), "1", "no need for it here");
    assert!(echo(&only_v4.space, &node.space, V4, NODE_V4));
    node.call_with("CHECK", &only_v4, json!({ "prevResult": four })).ok();
    let both = node.sandbox("c2");
    let result = node.call("ADD", &both).ok();
    // A node without an IPv6 address of its own answers from the link-local one.
    if node.space.try_run("ping -V").is_ok() {
        both.space.run(&format!("ping -n -c 1 -W 5 -I {V6} fe80::ecee:eeff:feee:eeee%eth0"));
    }
    node.call_with("CHECK", &both, json!({ "prevResult": result })).ok();
    for sandbox in [&only_v4, &both] {
        node.call("DEL", sandbox).ok();
    }
    for scope in ["all", "default", "lo"] {
        assert_eq!(node.space.sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6")), "1", "{scope}");
    }
}

#[test]
fn the_source_check_holds_with_each_value_for_all_links_but_the_loose_one_which_check_names() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&[V4]]);
    for all in ["0", "1", "2"] {
        node.space.run(&format!("sysctl -qw net.ipv4.conf.all.rp_filter={all}"));
        node.space.run("sysctl -qw net.ipv4.conf.default.rp_filter=2");
        let sandbox = node.sandbox("c1");
        let result = node.call("ADD", &sandbox).ok();
        assert_eq!(node.space.sysctl(&format!("net/ipv4/conf/{LINK}/rp_filter")), "1");
        let answer = node.call_with("CHECK", &sandbox, json!({ "prevResult": result }));
        assert_eq!(answer.succeeded, all != "2", "{all}: {answer:?}");
        node.call("DEL", &sandbox).ok();
    }
}

#[test]
fn the_configurations_mtu_holds_over_the_agents() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start_with(&node, &[&[V4, V6]], 8900, Mood::Well);
    let (big, small) = (node.sandbox("c1"), node.sandbox_of("c2", None));
    node.call("ADD", &big).ok();
    assert_eq!(big.eth0().expect("eth0")["mtu"], 8900);
    assert_eq!(node.space.link(LINK).expect("the host's end")["mtu"], 8900);
    node.call_with("ADD", &small, json!({ "mtu": 1400 })).ok();
    assert_eq!(small.eth0().expect("eth0")["mtu"], 1400);
}

#[test]
fn an_mtu_too_small_for_ipv6_is_refused_and_the_addresses_are_free_again() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&[V4, V6]]);
    let sandbox = node.sandbox("c1");
    let (code, text) = node.call_with("ADD", &sandbox, json!({ "mtu": 1279 })).failed();
    assert_eq!(code, 7, "{text}");
    assert!(agent.known().is_empty() && sandbox.eth0().is_none());
}

#[test]
fn addresses_and_a_hardware_address_that_were_asked_for_reach_agent_and_pod() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&[V4]]);
    let sandbox = node.sandbox("c1");
    let runtime = json!({ "ips": ["10.244.3.7/24"], "mac": "0a:58:0a:f4:03:07" });
    node.call_with("ADD", &sandbox, json!({ "runtimeConfig": runtime })).ok();
    assert_eq!(sandbox.eth0().expect("eth0")["address"], "0a:58:0a:f4:03:07");
    let Request::Add(request) = &agent.seen()[0] else { panic!("no ADD") };
    assert_eq!(request.addresses, [V4.parse::<std::net::IpAddr>().expect("an address")]);
    assert_eq!(request.mac.as_deref(), Some("0a:58:0a:f4:03:07"));
}

#[test]
fn the_hardware_address_that_the_agent_decides_on_holds_and_is_checked() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&[V4]]);
    agent.decide_mac(Some("0a:58:0a:f4:03:09"));
    let sandbox = node.sandbox("c1");
    let result = node.call("ADD", &sandbox).ok();
    assert_eq!(result["interfaces"][1]["mac"], "0a:58:0a:f4:03:09");
    assert_eq!(sandbox.eth0().expect("eth0")["address"], "0a:58:0a:f4:03:09");
    assert_eq!(node.space.neighbours(LINK), [format!("{V4} lladdr 0a:58:0a:f4:03:09 PERMANENT")]);
    node.call_with("CHECK", &sandbox, json!({ "prevResult": result })).ok();
    let mut told_otherwise = result;
    told_otherwise["interfaces"][1]["mac"] = json!("0a:58:0a:f4:03:0a");
    let (_, text) = node.call_with("CHECK", &sandbox, json!({ "prevResult": told_otherwise })).failed();
    assert!(text.contains("prevResult has another hardware address"), "{text}");
    agent.decide_mac(Some("not one"));
    let other = node.sandbox_of("c2", None);
    assert_eq!(node.call("ADD", &other).failed().0, 105);
    assert!(other.eth0().is_none());
}

#[test]
fn a_result_of_plugins_before_is_passed_on_with_ours_behind() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&[V4]]);
    let sandbox = node.sandbox("c1");
    let previous = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{ "name": "tap0", "sandbox": "/x" }],
        "ips": [{ "interface": 0, "address": "10.9.9.9/24" }],
        "dns": { "nameservers": ["10.96.0.10"] },
    });
    let result = node.call_with("ADD", &sandbox, json!({ "prevResult": previous })).ok();
    let names: Vec<_> = (0..3).map(|index| result["interfaces"][index]["name"].clone()).collect();
    assert_eq!(names, [json!("tap0"), json!(LINK), json!("eth0")]);
    assert_eq!(result["ips"][0], json!({ "interface": 0, "address": "10.9.9.9/24" }));
    assert_eq!(result["ips"][1]["interface"], 2);
    assert_eq!(result["dns"], json!({ "nameservers": ["10.96.0.10"] }));
}

#[test]
fn a_previous_result_that_cannot_be_right_is_refused_before_anything_is_changed() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start(&node, &[&[V4]]);
    let sandbox = node.sandbox("c1");
    let before = (node.space.photograph(), sandbox.space.photograph());
    let inside = json!([{ "name": "eth0", "sandbox": sandbox.space.path() }]);
    let cases = [
        (json!("s3cret"), 6, "prevResult"),
        (json!({ "ips": [{ "address": "s3cret" }] }), 6, "prevResult"),
        (json!({ "ips": [{ "address": "10.9.9.9/24", "interface": -1 }] }), 6, "prevResult"),
        (json!({ "ips": [{ "address": "10.9.9.9/24", "interface": 7 }] }), 7, "prevResult"),
        (json!({ "interfaces": { "name": "x" } }), 6, "prevResult"),
        (json!({ "interfaces": [{ "name": ["s3cret"] }] }), 6, "prevResult"),
        (json!({ "routes": [{ "dst": "nowhere" }] }), 6, "prevResult"),
        (json!({ "interfaces": inside }), 102, "has already made eth0"),
    ];
    for (previous, code, text) in cases {
        let answer = node.call_with("ADD", &sandbox, json!({ "prevResult": previous }));
        assert!(!format!("{answer:?}").contains("s3cret"), "{answer:?}");
        let failed = answer.failed();
        assert!(failed.0 == code && failed.1.contains(text), "{previous}: {failed:?}");
    }
    assert_eq!((node.space.photograph(), sandbox.space.photograph()), before);
    assert!(agent.seen().is_empty());
}

#[test]
fn a_hardware_address_of_the_host_end_that_was_changed_is_given_back_by_add() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&[V4, V6]]);
    let sandbox = node.sandbox("c1");
    let result = node.call("ADD", &sandbox).ok();
    node.space.run(&format!("ip link set {LINK} address 0a:00:00:00:00:02"));
    assert!(!echo(&sandbox.space, &node.space, V4, NODE_V4), "the pod still knows its node by the old one");
    assert_eq!(node.call("ADD", &sandbox).ok(), result);
    outside_is_right(&node, result["interfaces"][1]["mac"].as_str().expect("text"));
    assert!(echo(&sandbox.space, &node.space, V4, NODE_V4));
}

#[test]
fn an_ipv6_address_of_the_host_end_is_there_whatever_the_node_does_with_new_links() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start(&node, &[&[V4, V6], &["10.244.3.8", "fd00:10:244::308"]]);
    for (setting, value) in
        [("addr_gen_mode", "1"), ("addr_gen_mode", "3"), ("accept_dad", "2"), ("accept_ra", "2")]
    {
        node.space.run(&format!("sysctl -qw net.ipv6.conf.default.{setting}={value}"));
        let sandbox = node.sandbox("c1");
        let result = node.call("ADD", &sandbox).ok();
        let addresses = node.space.run(&format!("ip -6 address show dev {LINK}"));
        assert!(addresses.contains("fe80::ecee:eeff:feee:eeee/64"), "{setting} {value}: {addresses}");
        assert_eq!(addresses.matches("inet6").count(), 1, "{setting} {value}: {addresses}");
        outside_is_right(&node, result["interfaces"][1]["mac"].as_str().expect("text"));
        node.call("DEL", &sandbox).ok();
    }
}

#[test]
fn without_an_agent_nothing_is_changed_and_the_runtime_is_told_to_try_again() {
    let Some(node) = Node::new() else { return };
    let sandbox = node.sandbox("c1");
    let before = node.space.photograph();
    let (code, text) = node.call("ADD", &sandbox).failed();
    assert_eq!(code, 11, "{text}");
    assert!(text.contains("agent.sock") && text.contains("manx-agent"), "{text}");
    assert_eq!(node.space.photograph(), before);
    assert_eq!(tombstone::list(&node.run_dir).expect("readable"), []);
}

#[test]
fn the_agents_refusal_reaches_the_runtime_word_for_word() {
    let Some(node) = Node::new() else { return };
    let refusal = RpcError { code: 100, msg: "pool default is full".into(), details: "add a pool".into() };
    let agent = Agent::start_with(&node, &[&[V4]], 1500, Mood::Refusing(refusal));
    let (code, text) = node.call("ADD", &node.sandbox("c1")).failed();
    assert_eq!((code, &*text), (100, "pool default is full: add a pool"));
    assert_eq!(agent.seen().len(), 1, "there is nothing to undo");
}

#[test]
fn after_an_answer_that_never_came_the_agent_is_told_to_undo_what_it_may_have_done() {
    let Some(node) = Node::new() else { return };
    let agent = Agent::start_with(&node, &[&[V4]], 1500, Mood::Curt);
    let (code, _) = node.call("ADD", &node.sandbox("c1")).failed();
    assert_eq!(code, 11);
    let left = tombstone::list(&node.run_dir).expect("readable");
    assert_eq!((left.len(), &*left[0].container), (1, "c1"));
    // A later ADD of the same container takes the note away, or the agent would free what it assigns now.
    agent.be(Mood::Well);
    node.call("ADD", &node.sandbox("c1")).ok();
    assert_eq!(tombstone::list(&node.run_dir).expect("readable"), []);
}

#[test]
fn an_answer_that_makes_no_sense_is_an_error_and_not_a_link() {
    let Some(node) = Node::new() else { return };
    let _agent = Agent::start_with(&node, &[&[V4]], 1500, Mood::Confused);
    let sandbox = node.sandbox("c1");
    assert_eq!(node.call("ADD", &sandbox).failed().0, 105);
    assert!(sandbox.eth0().is_none());
}

#[test]
fn of_many_pods_at_once_each_gets_a_link_that_carries_its_first_packet() {
    let Some(node) = Node::new() else { return };
    let rows: Vec<[String; 2]> =
        (1..=24).map(|last| [format!("10.244.7.{last}"), format!("fd00:10:244::7{last:02}")]).collect();
    let rows: Vec<[&str; 2]> = rows.iter().map(|[v4, v6]| [&**v4, &**v6]).collect();
    let rows: Vec<&[&str]> = rows.iter().map(|row| &row[..]).collect();
    let _agent = Agent::start(&node, &rows);
    let sandboxes: Vec<Sandbox> = (0..24).map(|i| node.sandbox_of(&format!("c{i}"), None)).collect();
    let attach = |sandbox: &Sandbox| {
        let result = node.call("ADD", sandbox).ok();
        for (index, target) in [NODE_V4, NODE_V6].into_iter().enumerate() {
            let address = result["ips"][index]["address"].as_str().expect("text");
            let address = address.split('/').next().expect("an address");
            assert!(echo(&sandbox.space, &node.space, address, target), "the first packet of {address}");
        }
    };
    std::thread::scope(|scope| {
        let calls: Vec<_> = sandboxes.iter().map(|sandbox| scope.spawn(|| attach(sandbox))).collect();
        calls.into_iter().for_each(|call| call.join().expect("every ADD succeeds"));
    });
    assert_eq!(node.space.routes("-4").len(), 24);
}
