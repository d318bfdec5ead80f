//! Routes and next-hop objects in a real kernel.

mod namespace;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use manx_kernel::fib::{Config, Input, Why};
use manx_kernel::model::{Event, Forward, Gateway, Hop, Op, OpError, Resolution, Route, RouteKey, SetId};
use manx_kernel::netlink::Kernel;
use namespace::{Node, ip, key, two_uplinks, via, way};

fn mixed() -> BTreeMap<RouteKey, Route> {
    [
        (key("10.244.1.0/26"), via(&["192.0.1.2"])),
        (key("10.244.2.0/26"), via(&["192.0.1.2", "192.0.2.2"])),
        (key("10.244.3.0/26"), via(&["2001:db8:1::2"])),
        (key("10.244.4.7/32"), Route::link("up2")),
        (key("10.244.5.0/26"), Route::blackhole()),
        (key("fd00:10:244:1::/122"), via(&["2001:db8:1::2"])),
        (key("fd00:10:244:2::/122"), via(&["2001:db8:1::2", "2001:db8:2::2"])),
        (key("fd00:10:244:4::7/128"), Route::link("up2")),
        (key("fd00:10:244:5::/122"), Route::blackhole()),
    ]
    .into()
}

fn check_mixed() {
    assert!(way("10.244.1.1").contains("via 192.0.1.2 dev up1"), "{}", way("10.244.1.1"));
    assert!(way("10.244.3.1").contains("via inet6 2001:db8:1::2 dev up1"), "{}", way("10.244.3.1"));
    assert!(way("10.244.4.7").contains("dev up2"));
    assert!(way("fd00:10:244:1::1").contains("via 2001:db8:1::2 dev up1"));
    assert!(way("fd00:10:244:4::7").contains("dev up2"));
    let v4 = ip("-4 route show proto 179");
    assert!(v4.contains("blackhole 10.244.5.0/26"), "{v4}");
    let double = ip("-4 route show 10.244.2.0/26");
    assert!(double.contains("nexthop via 192.0.1.2 dev up1"), "{double}");
    assert!(double.contains("nexthop via 192.0.2.2 dev up2"), "{double}");
    let double = ip("-6 route show fd00:10:244:2::/122");
    assert!(double.contains("2001:db8:1::2") && double.contains("2001:db8:2::2"), "{double}");
    let v6 = ip("-6 route show proto 179");
    assert!(v6.contains("blackhole fd00:10:244:5::/122"), "{v6}");
}

#[test]
fn routes_of_all_kinds_are_added_changed_and_removed() {
    namespace::run(|| {
        two_uplinks();
        for nexthop_objects in [true, false] {
            let mut node = Node::new(Config { nexthop_objects, ..Config::default() });
            node.want(mixed());
            assert!(node.fib.in_sync(), "{:?}", node.fib.blocked().collect::<Vec<_>>());
            check_mixed();
            // Each becomes something of another kind.
            let routes: Vec<Route> = mixed().into_values().collect();
            let turned = mixed().into_keys().zip(routes.iter().cycle().skip(1).cloned());
            let fits = |(key, route): &(RouteKey, Route)| {
                key.dst.is_ipv4() || !format!("{route:?}").contains("192.0")
            };
            let turned: BTreeMap<RouteKey, Route> = turned.filter(fits).collect();
            node.want(turned);
            assert!(node.fib.in_sync(), "{:?}", node.fib.blocked().collect::<Vec<_>>());
            node.want(mixed());
            check_mixed();
            node.want([]);
            assert_eq!(ip("-4 route show proto 179") + &ip("-6 route show proto 179"), "");
            assert_eq!(ip("nexthop show proto 179"), "");
        }
    });
}

#[test]
fn what_was_written_is_read_back_the_same() {
    namespace::run(|| {
        two_uplinks();
        let mut node = Node::new(Config::default());
        let mut wanted = mixed();
        let source = Some("192.0.1.1".parse().unwrap());
        wanted.insert(key("10.244.9.0/26"), Route { source, ..via(&["192.0.1.2"]) });
        node.want(wanted);
        let applied = node.fib.stats().applied_total;
        node.feed(Input::Observed(Event::Overrun));
        node.settle();
        assert_eq!((node.fib.stats().drift_total, node.fib.stats().applied_total), (0, applied));
    });
}

#[test]
fn a_new_run_takes_over_routes_and_objects_without_writing() {
    namespace::run(|| {
        two_uplinks();
        Node::new(Config::default()).want(mixed());
        let before = ip("nexthop show") + &ip("route show") + &ip("-6 route show");
        let mut node = Node::new(Config::default());
        assert_eq!(node.fib.stats().stale, mixed().len());
        node.want(mixed());
        node.feed(Input::KeepStale(false));
        node.settle();
        assert!(node.fib.in_sync());
        assert_eq!(node.fib.stats().applied_total, 0);
        assert_eq!(ip("nexthop show") + &ip("route show") + &ip("-6 route show"), before);
    });
}

#[test]
fn a_run_without_objects_replaces_those_of_an_earlier_one_and_the_other_way_round() {
    namespace::run(|| {
        two_uplinks();
        for nexthop_objects in [true, false, true] {
            let mut node = Node::new(Config { nexthop_objects, ..Config::default() });
            node.want(mixed());
            node.feed(Input::KeepStale(false));
            node.settle();
            assert!(node.fib.in_sync(), "{:?}", node.fib.blocked().collect::<Vec<_>>());
            check_mixed();
            assert_eq!(ip("nexthop show").is_empty(), !nexthop_objects);
        }
    });
}

#[test]
fn foreign_routes_of_the_same_key_are_kept() {
    namespace::run(|| {
        two_uplinks();
        ip("route add 10.244.1.0/26 via 192.0.2.9 proto 16");
        ip("-6 route add fd00:10:244:1::/122 via 2001:db8:2::9 proto 16");
        ip("route add 10.244.77.0/26 via 192.0.2.9 proto 16");
        let mut node = Node::new(Config::default());
        node.want(mixed());
        let blocked: Vec<_> =
            node.fib.blocked().map(|(key, blocked)| (key.dst.to_string(), blocked.why)).collect();
        assert_eq!(
            blocked,
            [("10.244.1.0/26".to_owned(), Why::Foreign), ("fd00:10:244:1::/122".to_owned(), Why::Foreign)]
        );
        node.want([]);
        assert!(way("10.244.1.1").contains("via 192.0.2.9"));
        assert!(way("fd00:10:244:1::1").contains("via 2001:db8:2::9"));
        assert!(way("10.244.77.1").contains("via 192.0.2.9"));
    });
}

#[test]
fn next_hops_are_resolved_as_the_kernel_reaches_them() {
    namespace::run(|| {
        two_uplinks();
        ip("route add 198.51.100.0/24 via 192.0.1.254");
        ip("route add 198.51.101.0/24 nexthop via 192.0.1.254 dev up1 nexthop via 192.0.2.254 dev up2");
        ip("route add 198.51.102.0/24 via 192.0.1.254 proto 179");
        ip("route add blackhole 198.51.103.0/24");
        ip("nexthop add id 7 via 192.0.2.254 dev up2");
        ip("route add 198.51.104.0/24 nhid 7");
        let mut kernel = Kernel::open().unwrap();
        let hop = |gateway: &str, name: &str| Hop {
            gateway: gateway.parse().unwrap(),
            link: nix::net::if_::if_nametoindex(name).unwrap(),
        };
        let cases: [(&str, &[Hop]); 10] = [
            ("192.0.1.2", &[hop("192.0.1.2", "up1")]),
            ("192.0.1.1", &[]),
            ("198.51.100.1", &[hop("192.0.1.254", "up1")]),
            ("198.51.101.1", &[hop("192.0.1.254", "up1"), hop("192.0.2.254", "up2")]),
            ("198.51.102.1", &[]),
            ("198.51.103.1", &[]),
            ("198.51.104.1", &[hop("192.0.2.254", "up2")]),
            ("203.0.113.1", &[]),
            ("2001:db8:1::2", &[hop("2001:db8:1::2", "up1")]),
            ("2001:db8:9::2", &[]),
        ];
        let addresses: BTreeSet<_> = cases.iter().map(|(address, _)| address.parse().unwrap()).collect();
        let resolved = kernel.resolve(&addresses).unwrap();
        for (address, hops) in cases {
            let expected = match hops {
                [] => Resolution::Unreachable,
                hops => Resolution::Hops(hops.iter().copied().collect()),
            };
            assert_eq!(resolved[&address.parse().unwrap()], expected, "{address}");
        }
    });
}

#[test]
fn an_object_id_that_is_taken_is_left_to_its_owner() {
    namespace::run(|| {
        two_uplinks();
        ip("nexthop add id 1297612800 via 192.0.2.99 dev up2 proto 196");
        let mut node = Node::new(Config::default());
        node.want(mixed());
        assert!(node.fib.in_sync());
        check_mixed();
        node.want([]);
        assert!(ip("nexthop show").contains("192.0.2.99"));
    });
}

#[test]
fn many_routes_move_and_go_with_their_object() {
    namespace::run(|| {
        two_uplinks();
        let mut node = Node::new(Config::default());
        let all = |route: Route| {
            (0..10_000u32).map(move |number| {
                let address = std::net::Ipv4Addr::from(0x1400_0000 + number * 64);
                let dst = ipnetwork::IpNetwork::new(address.into(), 26).unwrap();
                (RouteKey::main(dst, 0), route.clone())
            })
        };
        node.want(all(via(&["192.0.1.2"])));
        assert_eq!(node.fib.stats().applied_total, 10_001);
        node.want(all(via(&["192.0.2.2"])));
        assert_eq!(node.fib.stats().applied_total, 10_002);
        assert!(way("20.0.0.65").contains("via 192.0.2.2 dev up2"));
        node.want([]);
        assert_eq!(node.fib.stats().applied_total, 10_003);
        let dump = node.kernel.dump().unwrap();
        assert_eq!((dump.routes.len(), dump.nexthops.unwrap().len()), (0, 0));
    });
}

#[test]
fn a_link_that_goes_down_and_up_has_its_routes_again() {
    namespace::run(|| {
        two_uplinks();
        let mut node = Node::new(Config::default());
        node.want(mixed());
        for change in
            ["link set up1 down", "link set up1 up", "link set up1-peer down", "link set up1-peer up"]
        {
            ip(change);
            node.feed(Input::Observed(Event::Overrun));
            node.settle();
            if change.ends_with("down") {
                assert_eq!(node.fib.stats().blocked, [(Why::NextHop, 3)].into());
                let double = ip("-4 route show 10.244.2.0/26");
                assert!(double.contains("192.0.2.2") && !double.contains("192.0.1.2"), "{double}");
            } else {
                // The kernel forgets IPv6 addresses of a link that went down.
                ip("addr replace 2001:db8:1::1/64 dev up1 nodad");
                node.feed(Input::Observed(Event::Overrun));
                node.settle();
                assert!(node.fib.in_sync(), "{:?}", node.fib.blocked().collect::<Vec<_>>());
                check_mixed();
            }
        }
    });
}

#[test]
fn links_and_addresses_are_read() {
    namespace::run(|| {
        two_uplinks();
        ip("link set up1 alias manx:abc:eth0");
        let mut kernel = Kernel::open().unwrap();
        let links = kernel.links().unwrap();
        let link = links.iter().find(|link| link.name == "up1").unwrap();
        assert_eq!((link.up, link.carrier, link.mtu), (true, true, 1500));
        assert_eq!(link.alias.as_deref(), Some("manx:abc:eth0"));
        let addresses = kernel.addresses().unwrap();
        let expected = "192.0.1.1/24".parse().unwrap();
        assert!(addresses.iter().any(|address| address.link == link.index && address.address == expected));
    });
}

#[test]
fn a_refusal_comes_with_the_kernels_words() {
    namespace::run(|| {
        two_uplinks();
        let mut kernel = Kernel::open().unwrap();
        let op = Op::PutRoute {
            key: key("10.244.1.0/26"),
            forward: Forward::Nexthop(4711),
            source: None,
            replace: false,
        };
        let results = kernel.apply(&[op.clone(), op]).unwrap();
        assert_eq!(results.len(), 2);
        let error = results[0].as_ref().unwrap_err().to_string();
        assert!(error.contains("Nexthop id does not exist"), "{error}");
    });
}

#[test]
fn no_removal_and_no_creation_touches_what_is_foreign() {
    namespace::run(|| {
        two_uplinks();
        let mut kernel = Kernel::open().unwrap();
        for (family, network, gateway) in
            [("-4", "10.244.1.0/26", "192.0.2.9"), ("-6", "fd00:10:244:1::/122", "2001:db8:2::9")]
        {
            ip(&format!("{family} route add {network} via {gateway} proto 16"));
            let key = key(network);
            let put = Op::PutRoute { key, forward: Forward::Blackhole, source: None, replace: false };
            let results = kernel.apply(&[Op::DeleteRoute { key }, put]).unwrap();
            assert_eq!(results, [Err(OpError::Missing), Err(OpError::Exists)]);
            assert!(ip(&format!("{family} route show {network}")).contains(gateway));
        }
    });
}

#[test]
fn link_local_gateways_carry_ipv4_alone_and_beside_others_and_follow_their_link() {
    namespace::run(|| {
        two_uplinks();
        let index = |name: &str| {
            let text = ip(&format!("-o link show {name}"));
            text.split(':').next().and_then(|index| index.parse::<u32>().ok()).expect("an index")
        };
        let up1 = index("up1");
        let local = |link| Gateway { address: "fe80::2".parse().expect("an address"), link: Some(link) };
        let plain = Gateway::from("192.0.2.2".parse::<IpAddr>().expect("an address"));
        for nexthop_objects in [true, false] {
            let mut node = Node::new(Config { nexthop_objects, ..Config::default() });
            node.want([
                (key("10.244.1.0/26"), Route::via([local(up1)])),
                (key("10.244.2.0/26"), Route::via([local(up1), plain])),
                (key("fd00:10:244:1::/122"), Route::via([local(up1), local(index("up2"))])),
            ]);
            assert!(node.fib.in_sync(), "{:?}", node.fib.blocked().collect::<Vec<_>>());
            let both = || {
                assert!(way("10.244.1.1").contains("via inet6 fe80::2 dev up1"), "{}", way("10.244.1.1"));
                let double = ip("-4 route show 10.244.2.0/26");
                assert!(double.contains("via inet6 fe80::2 dev up1"), "{double}");
                assert!(double.contains("via 192.0.2.2 dev up2"), "{double}");
            };
            both();
            ip("link del up1");
            node.feed(Input::Observed(Event::Overrun));
            node.settle();
            assert_eq!(node.fib.stats().blocked, [(Why::NextHop, 1)].into());
            assert!(way("10.244.2.1").contains("via 192.0.2.2 dev up2"), "{}", way("10.244.2.1"));
            ip(&format!("link add up1 index {up1} type veth peer name up1-peer"));
            ip("link set up1-peer up");
            ip("link set up1 up");
            node.feed(Input::Observed(Event::Overrun));
            node.settle();
            assert!(node.fib.in_sync(), "{:?}", node.fib.blocked().collect::<Vec<_>>());
            both();
            node.want([]);
        }
    });
}

#[test]
fn a_set_moves_and_takes_along_its_routes_with_one_message_each() {
    namespace::run(|| {
        two_uplinks();
        // As on a node: a changed object then costs no message for each of its routes.
        let _before_5_9 = manx_kernel::sysctl::write("net/ipv4/nexthop_compat_mode", "0");
        let mut node = Node::new(Config::default());
        let gateways =
            |address: &str| BTreeSet::from([address.parse::<IpAddr>().expect("an address").into()]);
        node.feed(Input::Sets(vec![(SetId(1), gateways("192.0.1.2"))]));
        let address = |number: u32| std::net::Ipv4Addr::from(0x1400_0000 + number * 64);
        let dst = |number| ipnetwork::IpNetwork::new(address(number).into(), 26).expect("a network");
        node.want((0..2000).map(|number| (RouteKey::main(dst(number), 0), Route::set(SetId(1)))));
        let applied = node.fib.stats().applied_total;
        node.feed(Input::Sets(vec![(SetId(1), gateways("192.0.2.2"))]));
        node.settle();
        assert_eq!(node.fib.stats().applied_total, applied + 1);
        assert!(way("20.0.0.65").contains("via 192.0.2.2 dev up2"), "{}", way("20.0.0.65"));
        node.feed(Input::Sets(vec![(SetId(1), BTreeSet::new())]));
        node.settle();
        assert_eq!(node.fib.stats().applied_total, applied + 2);
        let dump = node.kernel.dump().expect("a dump");
        assert_eq!((dump.routes.len(), dump.nexthops.map_or(0, |objects| objects.len())), (0, 0));
    });
}
