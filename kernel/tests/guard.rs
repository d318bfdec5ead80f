//! What pods cannot reach, in a real kernel.

#![expect(clippy::disallowed_types, reason = "the attacks of a pod go over the network")]

mod namespace;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use manx_kernel::guard::GuardRules;
use manx_kernel::nat::NatRules;
use manx_kernel::netlink::guard::Guard;
use manx_kernel::netlink::nat::Nat;
use namespace::{Elsewhere, command, ip, nft};

const BGP: u16 = 179;
const OTHER: u16 = 8080;

/// How long to wait for what is expected, and for what must not come.
fn patience(expected: bool) -> Duration {
    Duration::from_millis(if expected { 10_000 } else { 400 })
}

fn rules() -> GuardRules {
    GuardRules {
        ports: BTreeSet::from([BGP, 1179]),
        router_ports: BTreeSet::from([BGP]),
        routers: ["192.0.2.2", "2001:db8::2"].map(address).into(),
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn rules_are_put_read_back_changed_and_removed() {
    namespace::run(|| {
        let mut guard = Guard::open().unwrap();
        assert!(!guard.verify(&rules()).unwrap());
        guard.replace(&rules()).unwrap();
        assert!(guard.verify(&rules()).unwrap());
        let fewer = GuardRules { ports: BTreeSet::from([BGP]), ..rules() };
        let others = GuardRules { routers: BTreeSet::from([address("192.0.2.3")]), ..rules() };
        for changed in [fewer, others, GuardRules::default()] {
            assert!(!guard.verify(&changed).unwrap(), "{changed:?}");
            guard.replace(&changed).unwrap();
            assert!(guard.verify(&changed).unwrap(), "{changed:?}");
        }
        guard.remove().unwrap();
        assert!(!guard.verify(&GuardRules::default()).unwrap());
    });
}

#[test]
fn nft_reads_the_rules_as_they_are_meant() {
    namespace::run(|| {
        Guard::open().unwrap().replace(&rules()).unwrap();
        let Some(listed) = nft("list ruleset") else { return };
        let expected = [
            "table inet manx {",
            "type filter hook input priority raw; policy accept;",
            "type filter hook forward priority raw; policy accept;",
            r#"iifname != "cali*" accept"#,
            "meta l4proto != tcp meta l4proto != udp accept",
            "th dport 179 drop",
            "th sport 1179 drop",
            "ip daddr @routers4 drop",
            "ip6 daddr @routers6 drop",
        ];
        for line in expected {
            assert!(listed.contains(line), "{line} is not in {listed}");
        }
    });
}

#[test]
fn whatever_somebody_else_does_to_the_table_is_noticed_and_repaired() {
    namespace::run(|| {
        let mut guard = Guard::open().unwrap();
        let changes = [
            "flush ruleset",
            "delete table inet manx",
            "flush chain inet manx input",
            "flush chain inet manx forward",
            "flush set inet manx routers4",
            "add element inet manx routers6 { 2001:db8::9 }",
            "insert rule inet manx input accept",
            "add chain inet manx other",
        ];
        for change in changes {
            guard.replace(&rules()).unwrap();
            if nft(change).is_none() {
                return;
            }
            assert!(!guard.verify(&rules()).unwrap(), "{change} was not noticed");
            guard.replace(&rules()).unwrap();
            assert!(guard.verify(&rules()).unwrap(), "{change} was not repaired");
        }
    });
}

/// A node with a pod on it, on a link with another router that has sockets on the BGP port and another.
fn pod_node_router() -> (Elsewhere, Elsewhere) {
    let (pod, router) = (Elsewhere::new(), Elsewhere::new());
    let at_once = "-qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0";
    command("sysctl", at_once);
    for elsewhere in [&pod, &router] {
        elsewhere.run(move || drop(command("sysctl", at_once)));
    }
    for (name, elsewhere) in [("cali1", &pod), ("up1", &router)] {
        ip(&format!("link add {name} type veth peer name eth0 netns {}", elsewhere.path));
    }
    let node = [
        "addr add 10.244.0.1/24 dev cali1",
        "addr add fd00:10:244::1/64 dev cali1 nodad",
        "addr add 192.0.2.1/24 dev up1",
        "addr add 2001:db8::1/64 dev up1 nodad",
        "addr add 203.0.113.1/32 dev lo",
        "addr add fe80::1/64 dev cali1 nodad",
        "link set lo up",
        "link set cali1 up",
        "link set up1 up",
    ];
    node.iter().for_each(|arguments| drop(ip(arguments)));
    pod.run(|| {
        ip("addr add 10.244.0.2/24 dev eth0");
        ip("addr add fd00:10:244::2/64 dev eth0 nodad");
        ip("link set eth0 up");
        ip("link set lo up");
        ip("route add default via 10.244.0.1");
        ip("route add default via fd00:10:244::1");
        // As a pod would that pretends to be a neighbour with TTL security.
        command("sysctl", "-qw net.ipv4.ip_default_ttl=255 net.ipv6.conf.all.hop_limit=255");
    });
    router.run(|| {
        ip("addr add 192.0.2.2/24 dev eth0");
        ip("addr add 2001:db8::2/64 dev eth0 nodad");
        ip("link set eth0 up");
        ip("route add 10.244.0.0/16 via 192.0.2.1");
        ip("route add fd00:10:244::/48 via 2001:db8::1");
        ip("route add 203.0.113.1 via 192.0.2.1");
    });
    command("sysctl", "-qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    (pod, router)
}

fn listen() -> Vec<TcpListener> {
    let ports = [BGP, OTHER];
    // Such a socket takes both families.
    ports.map(|port| TcpListener::bind(SocketAddr::new(address("::"), port)).expect("a listener")).into()
}

/// Whether a connection to this place is made as it should; `%` names the link of a link-local address.
fn connects(to: &str, expected: bool) -> bool {
    let to: SocketAddr = to.parse().expect("a place");
    TcpStream::connect_timeout(&to, patience(expected)).is_ok() == expected
}

fn place(host: &str, port: u16) -> String {
    let scope = |host: &str| if host == "fe80::1" { "fe80::1%2".to_owned() } else { host.to_owned() };
    if host.contains(':') { format!("[{}]:{port}", scope(host)) } else { format!("{host}:{port}") }
}

#[test]
fn nothing_from_a_pod_reaches_the_bgp_ports_of_this_node_or_of_another_router() {
    namespace::run(|| {
        let (pod, router) = pod_node_router();
        let at_router = router.run(listen);
        let here = listen();
        assert!(here.len() == 2 && at_router.len() == 2);
        let link = pod.run(|| ip("-o link show dev eth0"));
        assert!(link.starts_with("2:"), "the pod's link has another number: {link}");
        let nodes = ["10.244.0.1", "192.0.2.1", "203.0.113.1", "fd00:10:244::1", "2001:db8::1", "fe80::1"];
        let routers = ["192.0.2.2", "2001:db8::2"];
        let all: Vec<&str> = nodes.iter().chain(&routers).copied().collect();
        let reaches = |host: &str, port: u16, expected: bool| {
            let place = place(host, port);
            pod.run(move || connects(&place, expected))
        };
        for host in &all {
            assert!(reaches(host, BGP, true), "without a guard a pod reaches {host}");
        }
        Guard::open().unwrap().replace(&rules()).unwrap();
        for host in &all {
            assert!(reaches(host, BGP, false), "a pod reaches {host}");
            assert!(reaches(host, OTHER, true), "a pod must reach other ports of {host}");
        }
        for host in ["192.0.2.1", "203.0.113.1", "2001:db8::1"] {
            let place = place(host, BGP);
            let reached = router.run(move || connects(&place, true));
            assert!(reached, "a peer on a link reaches {host}");
        }
        for to in routers {
            assert!(connects(&place(to, BGP), true), "the node itself reaches {to}");
        }
    });
}

#[test]
fn a_pod_cannot_pass_for_its_node_at_another_router() {
    namespace::run(|| {
        let (pod, router) = pod_node_router();
        let sockets = router.run(listen);
        let pools = BTreeSet::from(["10.244.0.0/16".parse().expect("a network")]);
        let rules_of_nat = NatRules { masquerade: pools.clone(), all_pools: pools };
        Nat::open().unwrap().replace(&rules_of_nat).unwrap();
        assert!(pod.run(|| connects("192.0.2.2:179", true)));
        let bgp = sockets.iter().find(|socket| socket.local_addr().is_ok_and(|at| at.port() == BGP));
        let (_, from) = bgp.expect("a socket").accept().expect("a connection");
        assert_eq!(from.ip().to_canonical(), address("192.0.2.1"), "a pod passes for its node");
        Guard::open().unwrap().replace(&rules()).unwrap();
        assert!(pod.run(|| connects("192.0.2.2:179", false)));
        assert!(pod.run(|| connects("192.0.2.2:8080", true)));
    });
}

#[test]
fn what_seems_to_come_from_a_bgp_port_is_dropped_too() {
    namespace::run(|| {
        let (pod, _router) = pod_node_router();
        let here = UdpSocket::bind("0.0.0.0:9000").expect("a socket");
        let arrives = |from: &'static str, expected: bool| {
            here.set_read_timeout(Some(patience(expected))).expect("a timeout");
            pod.run(move || {
                let socket = UdpSocket::bind(from).expect("a socket");
                socket.send_to(b"x", "192.0.2.1:9000").expect("sent");
            });
            here.recv_from(&mut [0; 8]).is_ok() == expected
        };
        assert!(arrives("0.0.0.0:179", true));
        Guard::open().unwrap().replace(&rules()).unwrap();
        assert!(arrives("0.0.0.0:179", false));
        assert!(arrives("0.0.0.0:7000", true));
    });
}
