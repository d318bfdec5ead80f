//! Tests of the route machine, against a small model of Linux.

mod faults;
mod model;

use super::*;
use crate::model::{Event, Forward, Hop, NexthopTo, PROTOCOL};
use model::{Bench, hop, ip, key, link};

fn two_uplinks() -> Bench {
    let mut bench = Bench::new(Config::default());
    bench.world.links.insert(1, link(1, "up1"));
    bench.world.links.insert(2, link(2, "up2"));
    bench.world.reach(ip("192.0.2.1"), [hop("192.0.2.1", 1)]);
    bench.world.reach(ip("192.0.2.2"), [hop("192.0.2.2", 2)]);
    bench.world.reach(ip("192.0.2.3"), [hop("192.0.2.3", 1)]);
    bench
}

fn many(count: u32, route: &Route) -> Vec<(RouteKey, Option<Route>)> {
    (0..count).map(|number| (key(number), Some(route.clone()))).collect()
}

#[test]
fn the_first_thing_asked_for_is_a_dump_and_nothing_is_done_before_it() {
    let now = model::start();
    let mut fib = Fib::new(Config::default(), now);
    fib.handle(Input::Desire(many(1, &Route::blackhole())), now);
    assert_eq!(fib.poll(), Some(Output::Dump));
    assert_eq!(fib.poll(), None);
    fib.handle(Input::Dumped(Some(Dump { nexthops: Some(Vec::new()), ..Dump::default() })), now);
    let expected = Op::PutRoute { key: key(0), forward: Forward::Blackhole, source: None, replace: false };
    assert_eq!(fib.poll(), Some(Output::Apply(vec![expected])));
}

#[test]
fn routes_to_one_next_hop_share_one_object() {
    let mut bench = two_uplinks();
    bench.feed(Input::Desire(many(50, &Route::via([ip("192.0.2.1")]))));
    bench.settle();
    assert_eq!(bench.world.objects.len(), 1);
    assert_eq!(bench.world.ours().len(), 50);
    assert!(bench.fib.in_sync());
}

#[test]
fn a_gateway_on_a_known_link_is_not_looked_up_and_waits_for_the_link() {
    let mut bench = two_uplinks();
    let gateway = |link| Gateway { address: ip("fe80::1"), link: Some(link) };
    bench.feed(Input::Desire(many(2, &Route::via([gateway(1), gateway(2)]))));
    bench.settle();
    assert!(bench.world.leads_to(&key(1), &[hop("fe80::1", 1), hop("fe80::1", 2)]));
    let mut down = link(2, "up2");
    down.carrier = false;
    bench.world.links.insert(2, down.clone());
    bench.feed(Input::Observed(Event::Link(down)));
    bench.settle();
    assert!(bench.world.leads_to(&key(1), &[hop("fe80::1", 1)]));
    assert!(bench.fib.in_sync());
}

#[test]
fn objects_come_before_groups_and_groups_before_routes() {
    let mut bench = two_uplinks();
    bench.feed(Input::Desire(many(1, &Route::via([ip("192.0.2.1"), ip("192.0.2.2")]))));
    bench.settle();
    let kinds: Vec<&str> = bench
        .log
        .iter()
        .map(|op| match op {
            Op::PutNexthop { to: NexthopTo::Hop(_), .. } => "hop",
            Op::PutNexthop { .. } => "group",
            Op::PutRoute { .. } => "route",
            Op::DeleteNexthop { .. } | Op::DeleteRoute { .. } => "delete",
        })
        .collect();
    assert_eq!(kinds, ["hop", "hop", "group", "route"]);
}

#[test]
fn a_next_hop_that_is_reached_another_way_costs_one_message() {
    let mut bench = two_uplinks();
    bench.feed(Input::Desire(many(500, &Route::via([ip("192.0.2.1")]))));
    bench.settle();
    bench.log.clear();
    bench.world.reach(ip("192.0.2.1"), [hop("198.51.100.1", 2)]);
    bench
        .feed(Input::Resolved([(ip("192.0.2.1"), Resolution::Hops([hop("198.51.100.1", 2)].into()))].into()));
    bench.settle();
    assert_eq!(bench.log.len(), 1);
    assert!(bench.world.leads_to(&key(7), &[hop("198.51.100.1", 2)]));
}

#[test]
fn all_routes_of_a_lost_peer_move_with_one_message() {
    let mut bench = two_uplinks();
    bench.feed(Input::Desire(many(500, &Route::via([ip("192.0.2.1")]))));
    bench.feed(Input::Desire(vec![(key(1000), Some(Route::via([ip("192.0.2.2")])))]));
    bench.settle();
    bench.log.clear();
    bench.feed(Input::Desire(many(500, &Route::via([ip("192.0.2.2")]))));
    bench.settle();
    assert_eq!(bench.log.len(), 1, "{:?}", bench.log);
    assert!(bench.world.leads_to(&key(7), &[hop("192.0.2.2", 2)]));
    assert!(bench.fib.in_sync());
}

#[test]
fn a_set_that_leads_elsewhere_costs_one_message_however_many_routes_are_in_it() {
    let mut bench = two_uplinks();
    let (set, other) = (SetId(1), SetId(2));
    let to = |text: &[&str]| text.iter().map(|text| Gateway::from(ip(text))).collect::<BTreeSet<_>>();
    bench.feed(Input::Sets(vec![(set, to(&["192.0.2.1"])), (other, to(&["192.0.2.1"]))]));
    bench.feed(Input::Desire(many(500, &Route::set(set))));
    bench.feed(Input::Desire(vec![(key(1000), Some(Route::set(other)))]));
    bench.settle();
    bench.log.clear();
    bench.feed(Input::Sets(vec![(set, to(&["192.0.2.2"]))]));
    bench.settle();
    assert_eq!(bench.log.len(), 1, "{:?}", bench.log);
    assert!(bench.world.leads_to(&key(7), &[hop("192.0.2.2", 2)]));
    assert!(bench.world.leads_to(&key(1000), &[hop("192.0.2.1", 1)]));
    assert!(bench.fib.in_sync());
}

#[test]
fn a_set_that_is_gone_takes_its_routes_along_with_one_message() {
    let mut bench = two_uplinks();
    let (set, other) = (SetId(1), SetId(2));
    let to = |text: &[&str]| text.iter().map(|text| Gateway::from(ip(text))).collect::<BTreeSet<_>>();
    bench.feed(Input::Sets(vec![(set, to(&["192.0.2.1", "192.0.2.2"])), (other, to(&["192.0.2.1"]))]));
    bench.feed(Input::Desire(many(500, &Route::set(set))));
    bench.feed(Input::Desire(vec![(key(1000), Some(Route::set(other)))]));
    bench.settle();
    bench.log.clear();
    bench.feed(Input::Sets(vec![(set, BTreeSet::new())]));
    bench.drain();
    assert!(matches!(bench.log.first(), Some(Op::DeleteNexthop { .. })), "{:?}", bench.log);
    bench.settle();
    assert_eq!(bench.world.ours(), [key(1000)].into());
    assert_eq!((bench.fib.stats().desired, bench.world.objects.len()), (1, 1));
    bench.feed(Input::Desire(vec![(key(7), Some(Route::set(set)))]));
    bench.settle();
    assert_eq!(bench.world.ours(), [key(1000)].into());
    assert!(bench.fib.in_sync());
}

#[test]
fn a_gateway_in_the_other_family_serves_the_routes_of_a_set() {
    let mut bench = two_uplinks();
    let gateways = [Gateway::from(ip("192.0.2.1")), Gateway { address: ip("fe80::1"), link: Some(2) }];
    bench.feed(Input::Sets(vec![(SetId(1), gateways.into())]));
    let six = RouteKey::main("2001:db8::/64".parse().unwrap(), 0);
    bench.feed(Input::Desire(vec![(key(1), Some(Route::set(SetId(1)))), (six, Some(Route::set(SetId(1))))]));
    bench.settle();
    assert!(bench.world.leads_to(&key(1), &[hop("192.0.2.1", 1), hop("fe80::1", 2)]));
    assert!(bench.world.leads_to(&six, &[hop("fe80::1", 2)]));
    bench.world.drop_link(2);
    bench.settle();
    assert!(bench.world.leads_to(&key(1), &[hop("192.0.2.1", 1)]));
    bench.world.put_link(link(2, "up2"));
    bench.settle();
    assert!(bench.world.leads_to(&key(1), &[hop("192.0.2.1", 1), hop("fe80::1", 2)]));
    assert!(bench.world.leads_to(&six, &[hop("fe80::1", 2)]));
    assert!(bench.fib.in_sync());
}

#[test]
fn all_routes_of_a_lost_peer_go_with_one_message() {
    let mut bench = two_uplinks();
    bench.feed(Input::Desire(many(500, &Route::via([ip("192.0.2.1")]))));
    bench.settle();
    bench.log.clear();
    bench.feed(Input::SetRoutes(BTreeMap::new()));
    bench.settle();
    assert_eq!(bench.log.len(), 1, "{:?}", bench.log);
    assert!(bench.world.ours().is_empty());
    assert!(bench.world.objects.is_empty());
}

#[test]
fn an_object_to_which_a_wanted_route_leads_is_not_swept_away() {
    let mut bench = two_uplinks();
    bench.feed(Input::Desire(many(500, &Route::via([ip("192.0.2.1")]))));
    bench.settle();
    let changes = (0..499).map(|number| (key(number), None)).collect();
    bench.feed(Input::Desire(changes));
    bench.settle();
    assert_eq!(bench.world.ours(), [key(499)].into());
}

#[test]
fn an_earlier_runs_routes_and_objects_are_taken_over_without_a_message() {
    let mut bench = two_uplinks();
    let single = Route::via([ip("192.0.2.1")]);
    let double = Route::via([ip("192.0.2.1"), ip("192.0.2.2")]);
    let wanted: BTreeMap<RouteKey, Route> =
        [(key(1), single), (key(2), double), (key(3), Route::link("up1")), (key(4), Route::blackhole())]
            .into();
    bench.feed(Input::SetRoutes(wanted.clone()));
    bench.settle();
    bench.restart();
    bench.settle();
    assert_eq!(bench.world.ours().len(), 4, "stale routes stay until BGP has settled");
    bench.feed(Input::SetRoutes(wanted));
    bench.feed(Input::KeepStale(false));
    bench.settle();
    assert_eq!(bench.log, []);
    assert!(bench.fib.in_sync());
}

#[test]
fn stale_routes_go_once_bgp_has_settled() {
    let mut bench = two_uplinks();
    bench.feed(Input::Desire(many(3, &Route::via([ip("192.0.2.1")]))));
    bench.settle();
    bench.restart();
    bench.feed(Input::Desire(vec![(key(0), Some(Route::via([ip("192.0.2.1")])))]));
    bench.settle();
    assert_eq!((bench.world.ours().len(), bench.fib.stats().stale), (3, 2));
    bench.feed(Input::KeepStale(false));
    bench.settle();
    assert_eq!(bench.world.ours(), [key(0)].into());
}

#[test]
fn a_route_withdrawn_by_name_goes_though_stale_ones_are_kept() {
    let mut bench = two_uplinks();
    bench.feed(Input::Desire(many(2, &Route::blackhole())));
    bench.settle();
    bench.restart();
    bench.settle();
    bench.feed(Input::Desire(vec![(key(0), None)]));
    bench.settle();
    assert_eq!(bench.world.ours(), [key(1)].into());
}

#[test]
fn a_foreign_route_of_the_same_key_is_left_alone_and_reported_until_it_goes() {
    let mut bench = two_uplinks();
    bench.world.put_foreign(key(1));
    bench.feed(Input::Desire(many(3, &Route::via([ip("192.0.2.1")]))));
    bench.settle();
    assert_eq!(bench.world.ours(), [key(0), key(2)].into());
    assert_eq!(
        bench.fib.blocked().map(|(key, blocked)| (*key, blocked.why)).collect::<Vec<_>>(),
        [(key(1), Why::Foreign)]
    );
    assert_eq!(bench.events, [FibEvent::Blocked { why: Why::Foreign, example: key(1) }]);
    assert_eq!(bench.fib.stats().blocked, [(Why::Foreign, 1)].into());
    bench.world.delete_foreign(key(1));
    bench.settle();
    assert_eq!(bench.world.ours().len(), 3);
    assert_eq!(bench.events.last(), Some(&FibEvent::Unblocked { why: Why::Foreign }));
}

#[test]
fn what_stays_refused_is_said_once_and_tried_less_and_less_often() {
    let mut bench = two_uplinks();
    bench.world.put_foreign(key(1));
    bench.feed(Input::Desire(many(2, &Route::blackhole())));
    bench.settle();
    let mut waits = Vec::new();
    for _ in 0..12 {
        let before = bench.now;
        while bench.log.iter().all(|op| !matches!(op, Op::PutRoute { .. })) {
            bench.sleep();
        }
        bench.log.clear();
        waits.push(bench.now - before);
    }
    assert!(waits.windows(2).skip(1).all(|pair| pair[0] <= pair[1]), "{waits:?}");
    assert_eq!(waits.last(), Some(&LAST_RETRY));
    assert_eq!(bench.events.len(), 1, "{:?}", bench.events);
}

#[test]
fn what_others_remove_is_put_back_and_counted() {
    let mut bench = two_uplinks();
    bench.feed(Input::Desire(many(3, &Route::via([ip("192.0.2.1")]))));
    bench.settle();
    bench.world.spoil(key(1), None);
    bench.world.spoil(key(2), Some(Forward::Blackhole));
    bench.settle();
    assert!(bench.world.leads_to(&key(1), &[hop("192.0.2.1", 1)]));
    assert!(bench.world.leads_to(&key(2), &[hop("192.0.2.1", 1)]));
    assert_eq!(bench.fib.stats().drift_total, 2);
    assert_eq!(bench.events, [FibEvent::Drift { routes: 2, example: key(1) }]);
}

#[test]
fn a_route_that_goes_with_its_link_is_no_alarm_and_one_removed_by_hand_is() {
    let link_gone = |world: &mut model::World| {
        world.down_with_words(7);
        world.drop_link(7);
    };
    let without_words = |world: &mut model::World| world.drop_link(7);
    let down_and_up = |world: &mut model::World| {
        world.down_with_words(7);
        world.put_link(link(7, "cali1"));
    };
    let route_before_link = |world: &mut model::World| {
        world.down_with_words(7);
        world.events.rotate_left(1);
    };
    let other_link = |world: &mut model::World| {
        world.admin(1, false);
        world.spoil(key(1), None);
    };
    let changed = |world: &mut model::World| world.spoil(key(1), Some(Forward::Blackhole));
    let by_hand = |world: &mut model::World| world.spoil(key(1), None);
    type Act<'a> = (&'a str, &'a dyn Fn(&mut model::World), u64);
    let cases: [Act<'_>; 7] = [
        ("down, gone", &link_gone, 0),
        ("gone without a word", &without_words, 0),
        ("down and up", &down_and_up, 0),
        ("word of the route first", &route_before_link, 0),
        ("another link", &other_link, 1),
        ("changed", &changed, 1),
        ("by hand", &by_hand, 1),
    ];
    for (name, act, told) in cases {
        let mut bench = two_uplinks();
        bench.world.put_link(link(7, "cali1"));
        bench.feed(Input::Desire(vec![(key(1), Some(Route::link("cali1")))]));
        bench.settle();
        assert!(bench.fib.in_sync());
        act(&mut bench.world);
        bench.settle();
        assert_eq!(bench.fib.stats().drift_total, told, "{name}");
        let said = bench.events.iter().filter(|event| matches!(event, FibEvent::Drift { .. })).count();
        assert_eq!(said as u64, told, "{name}");
    }
}

#[test]
fn a_route_that_is_wanted_no_more_may_vanish_before_or_after_that_is_said() {
    for route_first in [true, false] {
        let mut bench = two_uplinks();
        bench.feed(Input::Desire(many(2, &Route::blackhole())));
        bench.settle();
        bench.world.spoil(key(1), None);
        let gone = bench.world.events.pop_front().unwrap();
        if route_first {
            bench.feed(Input::Observed(gone.clone()));
        }
        bench.feed(Input::Desire(vec![(key(1), None)]));
        if !route_first {
            bench.feed(Input::Observed(gone));
        }
        bench.settle();
        assert_eq!((bench.fib.stats().drift_total, bench.events.len()), (0, 0), "route first: {route_first}");
        assert!(bench.fib.in_sync());
    }
}

#[test]
fn routes_over_an_uplink_that_loses_carrier_are_no_alarm() {
    let mut bench = two_uplinks();
    bench.feed(Input::Desire(many(3, &Route::via([ip("192.0.2.1")]))));
    bench.settle();
    // Told one by one, before the link.
    let told: Vec<Event> = (0..3).map(|number| Event::RouteGone(bench.world.told(key(number)))).collect();
    bench.world.carrier(1, false);
    told.into_iter().for_each(|event| bench.world.events.push_front(event));
    bench.settle();
    bench.world.carrier(1, true);
    bench.settle();
    assert_eq!(bench.fib.stats().drift_total, 0);
    assert_eq!(bench.world.ours().len(), 3);
    bench.world.spoil(key(1), None);
    bench.settle();
    assert_eq!(bench.fib.stats().drift_total, 1);
}

#[test]
fn a_link_that_loses_carrier_takes_its_routes_along_and_brings_them_back() {
    let mut bench = two_uplinks();
    bench.feed(Input::Desire(many(3, &Route::via([ip("192.0.2.1"), ip("192.0.2.2")]))));
    bench.feed(Input::Desire(vec![(key(10), Some(Route::via([ip("192.0.2.1")])))]));
    bench.settle();
    bench.world.carrier(1, false);
    bench.settle();
    assert!(bench.world.leads_to(&key(1), &[hop("192.0.2.2", 2)]));
    assert!(!bench.world.ours().contains(&key(10)));
    assert_eq!(bench.fib.stats().blocked, [(Why::NextHop, 1)].into());
    bench.world.carrier(1, true);
    bench.settle();
    assert!(bench.world.leads_to(&key(10), &[hop("192.0.2.1", 1)]));
    assert!(bench.world.leads_to(&key(1), &[hop("192.0.2.1", 1), hop("192.0.2.2", 2)]));
    assert!(bench.fib.in_sync());
}

/// As seeds 185 and 453 of the whole-node simulation had it.
#[test]
fn what_an_earlier_run_left_goes_with_its_link_before_anything_is_wanted() {
    for (objects, admin) in [(true, false), (true, true), (false, true)] {
        let config = Config { nexthop_objects: objects, ..Config::default() };
        let mut bench = Bench::new(Config { resync: Duration::from_secs(1 << 30), ..config });
        bench.world.links.insert(1, link(1, "up1"));
        bench.world.reach(ip("192.0.2.1"), [hop("192.0.2.1", 1)]);
        bench.feed(Input::Desire(many(3, &Route::via([ip("192.0.2.1")]))));
        bench.settle();
        bench.restart();
        bench.settle();
        for up in [false, true] {
            if admin {
                bench.world.admin(1, up)
            } else {
                bench.world.carrier(1, up)
            }
            bench.settle();
        }
        assert_eq!((bench.world.ours().len(), bench.fib.stats().drift_total), (0, 0));
        bench.feed(Input::Desire(many(3, &Route::via([ip("192.0.2.1")]))));
        bench.settle();
        assert!(bench.world.leads_to(&key(1), &[hop("192.0.2.1", 1)]), "objects: {objects}, admin: {admin}");
        assert!(bench.fib.in_sync());
    }
}

#[test]
fn a_route_waits_for_its_link_and_follows_it_when_it_is_made_anew() {
    let mut bench = two_uplinks();
    bench.feed(Input::Desire(vec![(key(1), Some(Route::link("cali1")))]));
    bench.settle();
    assert_eq!(bench.fib.stats().blocked, [(Why::Link, 1)].into());
    bench.world.put_link(link(7, "cali1"));
    bench.settle();
    assert_eq!(bench.world.routes[&key(1)].forward, Forward::Link(7));
    bench.world.drop_link(7);
    bench.world.put_link(link(8, "cali1"));
    bench.settle();
    assert_eq!(bench.world.routes[&key(1)].forward, Forward::Link(8));
}

#[test]
fn a_route_that_the_plugin_made_first_is_ours_once_we_hear_of_it() {
    let mut bench = two_uplinks();
    bench.feed(Input::KeepStale(false));
    bench.feed(Input::Desire(vec![(key(1), Some(Route::link("cali1")))]));
    bench.settle();
    bench.world.put_link(link(7, "cali1"));
    let held = model::Held { protocol: PROTOCOL, forward: Forward::Link(7), source: None };
    bench.world.routes.insert(key(1), held);
    bench.events.clear();
    bench.drain();
    assert_eq!(bench.fib.blocked().map(|(_, blocked)| blocked.why).collect::<Vec<_>>(), [Why::Foreign]);
    assert!(bench.fib.stats().blocked.is_empty(), "nobody is told of it before it is sure");
    bench.world.tell(key(1));
    bench.settle();
    assert!(bench.fib.in_sync());
    assert_eq!(bench.fib.stats().dumps_total, 1);
    assert_eq!(bench.events, [FibEvent::Unblocked { why: Why::Link }]);
}

#[test]
fn a_kernel_without_next_hop_objects_gets_plain_gateways() {
    let mut bench = two_uplinks();
    bench.world.has_objects = false;
    bench.feed(Input::Desire(many(2, &Route::via([ip("192.0.2.1"), ip("192.0.2.2")]))));
    bench.settle();
    let paths = Forward::Paths([hop("192.0.2.1", 1), hop("192.0.2.2", 2)].into());
    assert_eq!(bench.world.routes[&key(1)].forward, paths);
    assert_eq!(bench.events, [FibEvent::NoNexthopObjects]);
    bench.world.reach(ip("192.0.2.1"), [hop("192.0.2.9", 1)]);
    bench.feed(Input::Observed(Event::Overrun));
    bench.settle();
    assert!(bench.world.leads_to(&key(0), &[hop("192.0.2.9", 1), hop("192.0.2.2", 2)]));
}

#[test]
fn an_id_that_somebody_else_uses_is_left_to_them() {
    let mut bench = two_uplinks();
    let theirs = NexthopTo::Hop(hop("203.0.113.9", 2));
    bench.world.objects.insert(0x4d58_0000, (16, theirs.clone()));
    bench.feed(Input::Desire(many(2, &Route::via([ip("192.0.2.1")]))));
    bench.settle();
    assert_eq!(bench.world.objects[&0x4d58_0000], (16, theirs));
    assert_eq!(bench.world.objects.values().filter(|(protocol, _)| *protocol == PROTOCOL).count(), 1);
    assert!(bench.world.leads_to(&key(0), &[hop("192.0.2.1", 1)]));
}

#[test]
fn an_answer_that_was_lost_leads_to_a_dump_before_anything_else() {
    let mut bench = two_uplinks();
    bench.feed(Input::Desire(many(5, &Route::blackhole())));
    bench.world.lose_after = Some(2);
    bench.settle();
    assert_eq!(bench.world.ours().len(), 5);
    assert!(bench.fib.in_sync());
    assert_eq!((bench.fib.stats().dumps_total, bench.fib.stats().refused_total), (2, 0));
}

#[test]
fn an_unreachable_next_hop_blocks_its_routes_and_says_so() {
    let mut bench = two_uplinks();
    bench.feed(Input::Desire(many(2, &Route::via([ip("203.0.113.1")]))));
    bench.settle();
    let (_, blocked) = bench.fib.blocked().next().unwrap();
    assert_eq!(blocked.detail, "no usable path to next hop 203.0.113.1");
    bench.world.reach(ip("203.0.113.1"), [hop("192.0.2.254", 1)]);
    bench.world.tell_foreign_route("203.0.113.0/24");
    bench.settle();
    assert!(bench.world.leads_to(&key(0), &[hop("192.0.2.254", 1)]));
}

#[test]
fn ipv4_gateways_are_of_no_use_to_an_ipv6_route() {
    let mut bench = two_uplinks();
    let route = RouteKey::main("2001:db8::/64".parse().unwrap(), 0);
    bench.feed(Input::Desire(vec![(route, Some(Route::via([ip("192.0.2.1")])))]));
    bench.settle();
    assert_eq!(bench.fib.blocked().map(|(_, blocked)| blocked.why).collect::<Vec<_>>(), [Why::NextHop]);
}

#[test]
fn a_machine_at_rest_asks_for_a_dump_now_and_then_and_for_nothing_else() {
    let mut bench = two_uplinks();
    bench.feed(Input::Desire(many(2, &Route::via([ip("192.0.2.1")]))));
    bench.settle();
    bench.log.clear();
    let before = bench.now;
    bench.sleep();
    assert!(bench.now - before > Duration::from_secs(55));
    assert_eq!((bench.fib.stats().dumps_total, bench.log.len()), (2, 0));
}

#[test]
fn hops_are_shared_between_groups() {
    let mut bench = two_uplinks();
    let pairs = [["192.0.2.1", "192.0.2.2"], ["192.0.2.1", "192.0.2.3"], ["192.0.2.2", "192.0.2.3"]];
    for (number, pair) in pairs.iter().enumerate() {
        let route = Route::via(pair.map(ip));
        bench.feed(Input::Desire(vec![(key(number as u32), Some(route))]));
    }
    bench.settle();
    let hops: BTreeSet<Hop> = bench.world.hops().collect();
    assert_eq!((bench.world.objects.len(), hops.len()), (6, 3));
    bench.feed(Input::SetRoutes(BTreeMap::new()));
    bench.settle();
    assert!(bench.world.objects.is_empty());
}

#[test]
fn an_object_that_others_remove_is_put_back_with_its_routes() {
    let mut bench = two_uplinks();
    bench.feed(Input::Desire(many(3, &Route::via([ip("192.0.2.1")]))));
    bench.settle();
    let id = *bench.world.objects.keys().next().unwrap();
    bench.world.spoil_object(id);
    bench.settle();
    assert_eq!(bench.world.ours().len(), 3);
    assert_eq!((bench.fib.stats().dumps_total, bench.fib.stats().drift_total), (1, 3));
}

#[test]
fn a_group_does_without_a_member_that_the_kernel_refuses() {
    let mut bench = two_uplinks();
    bench.world.refused.insert(hop("192.0.2.2", 2));
    bench.feed(Input::Desire(many(3, &Route::via([ip("192.0.2.1"), ip("192.0.2.2")]))));
    bench.settle();
    assert!(bench.world.leads_to(&key(0), &[hop("192.0.2.1", 1)]));
    bench.world.refused.clear();
    bench.now += LAST_RETRY;
    bench.settle();
    assert!(bench.world.leads_to(&key(0), &[hop("192.0.2.1", 1), hop("192.0.2.2", 2)]));
}

#[test]
fn a_gateway_that_the_kernel_refuses_blocks_its_routes_until_it_is_taken() {
    let mut bench = two_uplinks();
    bench.world.refused.insert(hop("192.0.2.1", 1));
    bench.feed(Input::Desire(many(3, &Route::via([ip("192.0.2.1")]))));
    bench.settle();
    assert_eq!(bench.fib.stats().blocked, [(Why::NextHop, 3)].into());
    assert_eq!(bench.fib.blocked().next().unwrap().1.detail, "the kernel refused: invalid");
    assert!(bench.log.is_empty() || !bench.log.iter().any(|op| matches!(op, Op::PutRoute { .. })));
    bench.world.refused.clear();
    bench.now += LAST_RETRY;
    bench.settle();
    assert!(bench.fib.in_sync());
}

#[test]
fn a_next_hop_that_comes_to_have_two_ways_gets_a_group_in_place_of_its_object() {
    let mut bench = two_uplinks();
    bench.feed(Input::Desire(many(3, &Route::via([ip("192.0.2.1")]))));
    bench.settle();
    let both = [hop("198.51.100.1", 1), hop("198.51.100.2", 2)];
    bench.world.reach(ip("192.0.2.1"), both);
    bench.world.tell_foreign_route("192.0.2.0/24");
    bench.settle();
    assert!(bench.world.leads_to(&key(0), &both));
    assert_eq!((bench.fib.stats().refused_total, bench.world.objects.len()), (0, 3));
}

#[test]
fn a_route_that_is_wanted_again_before_its_object_is_swept_away_stays() {
    let mut bench = two_uplinks();
    bench.feed(Input::Desire(many(20, &Route::via([ip("192.0.2.1")]))));
    bench.settle();
    let mut changes: Vec<_> = (0..20).map(|number| (key(number), None)).collect();
    changes.extend(
        (100..100 + 2 * bench.config.batch as u32).map(|number| (key(number), Some(Route::blackhole()))),
    );
    bench.feed(Input::Desire(changes));
    let Some(Output::Apply(ops)) = bench.fib.poll() else { panic!("there is work to do") };
    bench.apply(&ops);
    // It cannot be reached, so that the route stays as it is.
    bench.feed(Input::Desire(vec![(key(7), Some(Route::via([ip("203.0.113.1")])))]));
    bench.settle();
    assert!(bench.world.leads_to(&key(7), &[hop("192.0.2.1", 1)]));
    assert!(!bench.world.ours().contains(&key(6)));
}

#[test]
fn a_target_keeps_no_object_that_no_route_leads_to() {
    let mut bench = two_uplinks();
    let route = Route::via([ip("192.0.2.1")]);
    bench.feed(Input::Desire(vec![(key(4), Some(route.clone()))]));
    bench.settle();
    bench.restart();
    // Another route gets an object before the first, with its own, is spoken of.
    bench.feed(Input::Desire(vec![(key(1), Some(route.clone()))]));
    bench.drain();
    let second = *bench.world.objects.keys().nth(1).unwrap();
    bench.world.spoil_object(second);
    bench.feed(Input::Desire(vec![(key(4), Some(route))]));
    bench.settle();
    assert_eq!((bench.world.ours().len(), bench.world.objects.len()), (2, 1));
}
