//! Translation in a real kernel.

mod namespace;

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;
use manx_kernel::nat::NatRules;
use manx_kernel::netlink::nat::Nat;
use namespace::{Elsewhere, command, ip, nft};

fn networks(texts: &[&str]) -> BTreeSet<IpNetwork> {
    texts.iter().map(|text| text.parse().expect("a network")).collect()
}

fn both() -> NatRules {
    NatRules {
        masquerade: networks(&["10.244.0.0/16", "10.245.0.0/16", "fd00:10:244::/48"]),
        all_pools: networks(&[
            "10.244.0.0/16",
            "10.245.0.0/16",
            "10.250.0.0/16",
            "fd00:10:244::/48",
            "255.255.255.0/24",
        ]),
    }
}

#[test]
fn rules_are_put_read_back_changed_and_removed() {
    namespace::run(|| {
        let mut nat = Nat::open().unwrap();
        nat.remove().unwrap();
        assert!(nat.verify(&NatRules::default()).unwrap());
        assert!(!nat.verify(&both()).unwrap());
        nat.replace(&both()).unwrap();
        assert!(nat.verify(&both()).unwrap());
        assert!(!nat.verify(&NatRules::default()).unwrap());
        let v4_only = NatRules { masquerade: networks(&["10.244.0.0/16"]), ..both() };
        assert!(!nat.verify(&v4_only).unwrap());
        nat.replace(&v4_only).unwrap();
        assert!(nat.verify(&v4_only).unwrap());
        assert!(!nat.verify(&both()).unwrap());
        nat.remove().unwrap();
        assert!(nat.verify(&NatRules::default()).unwrap());
    });
}

#[test]
fn a_thousand_pools_fit() {
    namespace::run(|| {
        let pools: BTreeSet<IpNetwork> = (0..3000u32)
            .map(|number| {
                let address = std::net::Ipv4Addr::from(0x0a00_0000 + number * 512);
                IpNetwork::new(address.into(), 24).unwrap()
            })
            .collect();
        let rules = NatRules { masquerade: pools.clone(), all_pools: pools };
        let mut nat = Nat::open().unwrap();
        nat.replace(&rules).unwrap();
        nat.replace(&rules).unwrap();
        assert!(nat.verify(&rules).unwrap());
    });
}

#[test]
fn nft_reads_the_rules_as_they_are_meant() {
    namespace::run(|| {
        Nat::open().unwrap().replace(&both()).unwrap();
        let Some(listed) = nft("list ruleset") else { return };
        let expected = [
            "table ip manx {",
            "elements = { 10.244.0.0/15 }",
            "elements = { 10.244.0.0/15, 10.250.0.0/16,",
            "224.0.0.0/4, 255.255.255.0/24 }",
            "type nat hook postrouting priority srcnat; policy accept;",
            r#"ip saddr @pools ip daddr != @inside oifname != "lo" masquerade fully-random comment "what leaves the pools takes the address of the node""#,
            "table ip6 manx {",
            "elements = { fd00:10:244::/48 }",
            r#"ip6 saddr @pools ip6 daddr != @inside oifname != "lo" masquerade fully-random"#,
        ];
        for line in expected {
            assert!(listed.contains(line), "{line} is not in {listed}");
        }
    });
}

#[test]
fn whatever_somebody_else_does_to_the_table_is_noticed_and_repaired() {
    namespace::run(|| {
        let mut nat = Nat::open().unwrap();
        let changes = [
            "flush ruleset",
            "delete table ip6 manx",
            "flush chain ip manx postrouting",
            "flush set ip manx pools",
            "add element ip manx inside { 203.0.113.0/24 }",
            "delete element ip6 manx pools { fd00:10:244::/48 }",
            "delete element ip6 manx pools { fd00:10:244::/48 } ; add element ip6 manx pools { fd00:99::/48 }",
            "add rule ip manx postrouting accept",
            "insert rule ip manx postrouting counter",
            "add chain ip manx other",
        ];
        for change in changes {
            nat.replace(&both()).unwrap();
            if nft(change).is_none() {
                return;
            }
            assert!(!nat.verify(&both()).unwrap(), "{change} was not noticed");
            nat.replace(&both()).unwrap();
            assert!(nat.verify(&both()).unwrap(), "{change} was not repaired");
        }
    });
}

#[test]
fn other_tables_are_left_alone() {
    namespace::run(|| {
        let mut nat = Nat::open().unwrap();
        if nft("add table ip theirs").is_none() {
            return;
        }
        nft("add chain ip theirs postrouting { type nat hook postrouting priority 100 ; }");
        nat.replace(&both()).unwrap();
        assert!(nat.verify(&both()).unwrap());
        nat.remove().unwrap();
        let listed = nft("list ruleset").unwrap_or_default();
        assert!(listed.contains("table ip theirs") && !listed.contains("manx"), "{listed}");
    });
}

/// A node between a pod with 10.244.0.2 and fd00:10:244::2, and an outside that also has addresses in other pools.
fn pod_node_outside() -> (Elsewhere, Elsewhere) {
    let (pod, outside) = (Elsewhere::new(), Elsewhere::new());
    for (name, elsewhere) in [("cali1", &pod), ("up1", &outside)] {
        ip(&format!("link add {name} type veth peer name eth0 netns {}", elsewhere.path));
    }
    let node = [
        "addr add 10.244.0.1/24 dev cali1",
        "addr add fd00:10:244::1/64 dev cali1 nodad",
        "addr add 192.0.2.1/24 dev up1",
        "addr add 2001:db8::1/64 dev up1 nodad",
        "link set lo up",
        "link set cali1 up",
        "link set up1 up",
        "route add 10.250.0.0/16 via 192.0.2.2",
    ];
    node.iter().for_each(|arguments| drop(ip(arguments)));
    pod.run(|| {
        ip("addr add 10.244.0.2/24 dev eth0");
        ip("addr add fd00:10:244::2/64 dev eth0 nodad");
        ip("link set eth0 up");
        ip("route add default via 10.244.0.1");
        ip("route add default via fd00:10:244::1");
    });
    outside.run(|| {
        ip("addr add 192.0.2.2/24 dev eth0");
        ip("addr add 10.250.0.2/32 dev eth0");
        ip("addr add 2001:db8::2/64 dev eth0 nodad");
        ip("link set eth0 up");
        ip("route add 10.244.0.0/16 via 192.0.2.1");
        ip("route add fd00:10:244::/48 via 2001:db8::1");
    });
    command("sysctl", "-qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    (pod, outside)
}

/// The source address with which a datagram of the pod arrives at this address outside.
fn source_seen(pod: &Elsewhere, outside: &Elsewhere, address: &str) -> String {
    let to = std::net::SocketAddr::new(address.parse().expect("an address"), 9);
    let receiver = outside.run(move || {
        let socket = std::net::UdpSocket::bind(to).expect("a receiver");
        socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).expect("a timeout");
        socket
    });
    pod.run(move || {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = std::net::UdpSocket::bind(any).expect("a sender");
        socket.send_to(b"manx", to).expect("a way out");
    });
    let (_, from) = receiver.recv_from(&mut [0; 16]).expect("the datagram arrives");
    from.ip().to_string()
}

#[test]
fn what_leaves_the_pools_takes_the_nodes_address_and_nothing_else_does() {
    namespace::run(|| {
        let (pod, outside) = pod_node_outside();
        let mut nat = Nat::open().unwrap();
        assert_eq!(source_seen(&pod, &outside, "192.0.2.2"), "10.244.0.2");
        nat.replace(&both()).unwrap();
        assert_eq!(source_seen(&pod, &outside, "192.0.2.2"), "192.0.2.1");
        assert_eq!(source_seen(&pod, &outside, "2001:db8::2"), "2001:db8::1");
        assert_eq!(
            source_seen(&pod, &outside, "10.250.0.2"),
            "10.244.0.2",
            "between pools nothing is translated"
        );
        nat.remove().unwrap();
        assert_eq!(source_seen(&pod, &outside, "192.0.2.2"), "10.244.0.2");
    });
}
