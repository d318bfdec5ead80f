//! What the kernel tells of single packets: their way, the rules that decide about them, and where it translates them
//! to.

mod namespace;

use std::net::{IpAddr, UdpSocket};

use manx_kernel::netlink::conntrack::{self, Tuple};
use manx_kernel::netlink::lookup::{Packet, way};
use manx_kernel::netlink::nftrace::{Follower, Mark, Sign, addresses};
use manx_kernel::netlink::socket::Socket;
use manx_kernel::xtables;
use namespace::{command, ip, nft};
use nix::errno::Errno;

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn index(link: &str) -> u32 {
    nix::net::if_::if_nametoindex(link).expect("the link is there")
}

/// Two links with a network each; routes over the second to some more.
fn router() {
    ip("link set lo up");
    for number in [1, 2] {
        ip(&format!("link add l{number} type veth peer name p{number}"));
        ip(&format!("addr add 192.0.{number}.1/24 dev l{number}"));
        ip(&format!("addr add fd00:{number}::1/64 dev l{number} nodad"));
        ip(&format!("link set l{number} up"));
        ip(&format!("link set p{number} up"));
    }
    command("sysctl", "-qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
}

#[test]
fn the_kernel_names_the_route_that_it_takes_for_a_packet_and_refuses_those_that_it_would_drop() {
    namespace::run(|| {
        router();
        ip("route add 198.51.100.0/24 via 192.0.2.9 proto 179");
        ip("route add blackhole 198.51.100.7");
        ip("route add fd00:9::/64 via fd00:2::9 proto 179");
        ip("route add blackhole fd00:9::7");
        let mut socket = Socket::route().unwrap();
        let mut ask = |to: &str, from: &str, iif| {
            way(&mut socket, &Packet { to: address(to), from: Some(address(from)), iif }).unwrap()
        };
        for (to, from, gateway, prefix) in [
            ("198.51.100.5", "192.0.1.5", "192.0.2.9", "198.51.100.0/24"),
            ("fd00:9::5", "fd00:1::5", "fd00:2::9", "fd00:9::/64"),
        ] {
            let found = ask(to, from, Some(index("l1"))).unwrap();
            assert_eq!((found.gateway, found.link), (Some(address(gateway)), Some(index("l2"))), "{found:?}");
            assert_eq!((found.protocol, found.prefix), (179, prefix.parse().ok()), "{found:?}");
        }
        ip("route add 203.0.113.0/24 dev l2 table 77");
        ip("rule add to 203.0.113.9 lookup 77");
        let ruled = ask("203.0.113.9", "192.0.1.5", Some(index("l1"))).unwrap();
        assert_eq!((ruled.table, ruled.prefix), (77, "203.0.113.0/24".parse().ok()));
        assert!(ask("192.0.1.1", "192.0.2.5", Some(index("l2"))).unwrap().local);
        assert_eq!(ask("198.51.100.7", "192.0.1.5", Some(index("l1"))), Err(Errno::EINVAL));
        assert_eq!(ask("fd00:9::7", "fd00:1::5", Some(index("l1"))), Err(Errno::EINVAL));
        assert_eq!(ask("203.0.113.1", "192.0.1.5", Some(index("l1"))), Err(Errno::ENETUNREACH));
        assert_eq!(ask("2001:db8::1", "fd00:1::5", Some(index("l1"))), Err(Errno::ENETUNREACH));
        command("sysctl", "-qw net.ipv4.conf.l2.rp_filter=1");
        let wrong = ask("198.51.100.5", "192.0.1.5", Some(index("l2")));
        assert!(matches!(wrong, Err(Errno::EINVAL | Errno::EXDEV)), "{wrong:?}");
    });
}

#[test]
fn the_rule_that_drops_a_marked_packet_is_told_and_others_packets_are_not() {
    namespace::run(|| {
        router();
        let rules = [
            "add table inet wall",
            "add chain inet wall out { type filter hook output priority 0; policy accept; }",
            "add rule inet wall out udp dport 9 drop comment \"nine\"",
        ];
        for rule in rules {
            if nft(rule).is_none() {
                return;
            }
        }
        let marks = [
            Mark { protocol: 17, signs: vec![Sign::Is { offset: 8, octets: b"mark".to_vec() }] },
            Mark { protocol: 6, signs: vec![Sign::From { offset: 4, first: 7, span: 9 }] },
        ];
        let mut follower = Follower::start("manxctl-trace-1", &marks, Some("l1")).unwrap();
        let listed = nft("list tables").unwrap_or_default();
        assert!(listed.contains("manxctl-trace-1"), "{listed}");
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for (text, port) in [("other", 9), ("marked", 10), ("marked", 9)] {
            let _refused = socket.send_to(text.as_bytes(), ("192.0.1.1", port));
        }
        let decisions = follower.decisions().unwrap();
        let drops: Vec<_> = decisions.iter().filter(|decision| decision.verdict == "drop").collect();
        assert_eq!(drops.len(), 1, "{decisions:?}");
        assert_eq!((drops[0].family, &*drops[0].table, &*drops[0].chain), ("inet", "wall", "out"));
        let note = follower.rule(drops[0]).unwrap();
        assert_eq!((note.comment.as_deref(), note.line, note.xtables), (Some("nine"), 1, false));
        let handle = drops[0].handle.unwrap();
        let listed = nft("-a list chain inet wall out").unwrap_or_default();
        assert!(listed.contains(&format!("handle {handle}")), "{handle} is not in {listed}");
        assert_eq!(addresses(&drops[0].packet).map(|(_, to)| to), Some(address("192.0.1.1")));
        assert!(drops[0].packet.ends_with(b"marked"), "{:?}", drops[0].packet);
        drop(follower);
        let listed = nft("list tables").unwrap_or_default();
        assert!(!listed.contains("manxctl-trace"), "{listed}");
    });
}

#[test]
fn a_tracked_connection_tells_where_its_packets_are_translated_to() {
    namespace::run(|| {
        router();
        let rules = [
            "add table ip proxy",
            "add chain ip proxy out { type nat hook output priority -100; }",
            "add rule ip proxy out ip daddr 10.96.0.1 udp dport 53 dnat to 192.0.1.1:5353",
        ];
        for rule in rules {
            if nft(rule).is_none() {
                return;
            }
        }
        ip("route add 10.96.0.0/16 dev l1");
        let socket = UdpSocket::bind("192.0.1.1:0").unwrap();
        socket.send_to(b"x", "10.96.0.1:53").unwrap();
        let mut netfilter = Socket::netfilter().unwrap();
        let from_port = socket.local_addr().unwrap().port();
        let packets = Tuple {
            from: address("192.0.1.1"),
            to: address("10.96.0.1"),
            from_port,
            to_port: 53,
            protocol: 17,
        };
        let tracked = conntrack::find(&mut netfilter, &packets).unwrap().expect("it is tracked");
        assert_eq!(tracked.original, packets);
        assert_eq!((tracked.reply.from, tracked.reply.from_port), (address("192.0.1.1"), 5353));
        let other = Tuple { to_port: 54, ..packets };
        assert_eq!(conntrack::find(&mut netfilter, &other).unwrap(), None);
    });
}

#[test]
fn rules_of_iptables_are_told_by_their_place_and_comment_in_both_of_its_kinds() {
    namespace::run(|| {
        router();
        let made = [
            ("iptables-nft", "-A OUTPUT -p tcp --dport 7 -j ACCEPT"),
            ("iptables-nft", "-A OUTPUT -p udp --dport 9 -m comment --comment nine -j DROP"),
        ];
        for (program, rule) in made {
            command(program, rule);
        }
        let marks = [Mark { protocol: 17, signs: vec![Sign::Is { offset: 8, octets: b"mark".to_vec() }] }];
        let mut follower = Follower::start("manxctl-trace-1", &marks, None).unwrap();
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let _refused = socket.send_to(b"marked", ("192.0.1.1", 9));
        let decisions = follower.decisions().unwrap();
        let drop = decisions.iter().find(|decision| decision.verdict == "drop").expect("it was dropped");
        assert_eq!((drop.family, &*drop.table, &*drop.chain), ("ip", "filter", "OUTPUT"));
        let note = follower.rule(drop).expect("a rule");
        assert_eq!((note.comment.as_deref(), note.line, note.xtables), (Some("nine"), 2, true));
    });
}

#[test]
fn rules_of_legacy_iptables_that_drop_are_read_with_their_counters() {
    namespace::run(|| {
        router();
        assert_eq!(xtables::dropping(false).unwrap(), []);
        let rules = [
            "-N OWN",
            "-A OUTPUT -p tcp --dport 7 -j ACCEPT",
            "-A OUTPUT -j OWN",
            "-A OWN -p tcp -j RETURN",
            "-A OWN -p udp -d {} --dport 9 -m comment --comment nine -j DROP",
            "-A OWN -p udp --dport 10 -j REJECT",
            "-P FORWARD DROP",
        ];
        for (program, to) in [("iptables-legacy", "192.0.1.1"), ("ip6tables-legacy", "fd00:1::1")] {
            for rule in rules {
                command(program, &rule.replace("{}", to));
            }
            let socket = UdpSocket::bind(if to.contains(':') { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
            for port in [9, 9, 10, 11] {
                let _refused = socket.send_to(b"x", (to, port));
            }
            let found = xtables::dropping(to.contains(':')).unwrap();
            let told = found.iter().map(|it| (&*it.chain, it.line, &*it.target, it.packets));
            let expected =
                [("FORWARD", None, "DROP", 0), ("OWN", Some(2), "DROP", 2), ("OWN", Some(3), "REJECT", 1)];
            assert_eq!(told.collect::<Vec<_>>(), expected, "{found:?}");
            assert_eq!(found[1].comment.as_deref(), Some("nine"));
            assert!(found[1].may_concern(address(to), 17) && !found[1].may_concern(address(to), 6));
            let other = if to.contains(':') { "fd00:7::1" } else { "192.0.7.1" };
            // It may come from anywhere.
            assert!(found[1].may_concern(address(other), 17));
        }
    });
}
