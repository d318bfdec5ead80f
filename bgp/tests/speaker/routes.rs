//! What is believed, preferred and told: policy, limits, reflection, equal paths, communities.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use manx_bgp::{
    Changes, Community, Event, Family, ImportStatus, Input, NextHopMode, OriginAttributes, PeerState, Policy,
    PrefixMatch, RouteStatus, Rule, Source, Step, Verdict,
};

use crate::world::{World, address, name, open_peer, pair, prefix, secs};

const V4: Family = Family::Ipv4Unicast;

fn accept_within(texts: &[&str]) -> Policy {
    let prefixes = texts.iter().map(|text| PrefixMatch::within(prefix(text))).collect();
    let verdict = Verdict::Accept(Changes::default());
    Policy { rules: vec![Rule { prefixes, ..Rule::new("pools", verdict) }], ..Policy::reject_all() }
}

fn route(world: &World, host: usize, text: &str) -> RouteStatus {
    let snapshot = world.nodes[host].speaker.snapshot(world.now);
    snapshot.routes.into_iter().find(|route| route.prefix == prefix(text)).expect("the route is known")
}

#[test]
fn only_what_import_policy_accepts_is_believed_and_the_verdict_names_its_rule() {
    let mut world = pair();
    world.reconfigure(0, 1, |peer| {
        peer.families.get_mut(&V4).unwrap().import = accept_within(&["10.244.0.0/16"]);
    });
    world.originate(1, &["10.244.1.0/26", "0.0.0.0/1"]);
    world.run(secs(1));
    assert_eq!(world.hops(0, "10.244.1.0/26"), [address(1)]);
    assert_eq!(world.hops(0, "0.0.0.0/1"), [] as [IpAddr; 0]);
    let believed = route(&world, 0, "10.244.1.0/26");
    assert_eq!(believed.paths[0].import, ImportStatus::Accepted(Some("pools".to_owned())));
    assert_eq!(route(&world, 0, "0.0.0.0/1").paths[0].import, ImportStatus::Rejected(None));
}

#[test]
fn a_changed_policy_applies_to_old_routes_without_a_new_session() {
    let mut world = pair();
    world.originate(0, &["10.244.0.0/26"]);
    world.originate(1, &["10.244.1.0/26", "192.0.2.0/24"]);
    world.run(secs(1));
    world.forget_events();
    world.reconfigure(0, 1, |peer| {
        let family = peer.families.get_mut(&V4).unwrap();
        family.import = accept_within(&["192.0.2.0/24"]);
        family.export = Policy::reject_all();
    });
    world.run(secs(1));
    assert_eq!(world.hops(0, "10.244.1.0/26"), [] as [IpAddr; 0]);
    assert_eq!(world.hops(0, "192.0.2.0/24"), [address(1)]);
    assert_eq!(world.hops(1, "10.244.0.0/26"), [] as [IpAddr; 0]);
    world.reconfigure(0, 1, |peer| {
        let family = peer.families.get_mut(&V4).unwrap();
        (family.import, family.export) = (Policy::accept_all(), Policy::accept_all());
    });
    world.run(secs(1));
    assert_eq!(world.hops(0, "10.244.1.0/26"), [address(1)]);
    assert_eq!(world.hops(1, "10.244.0.0/26"), [address(0)]);
    assert_eq!(world.states(0, 1), [], "no session changed its state");
}

#[test]
fn a_changed_next_hop_is_told_again() {
    let mut world = pair();
    world.originate(0, &["10.244.0.0/26"]);
    world.run(secs(1));
    let elsewhere = IpAddr::from([10, 0, 9, 9]);
    world.reconfigure(0, 1, |peer| {
        peer.families.get_mut(&V4).unwrap().next_hop = NextHopMode::Own(elsewhere);
    });
    world.run(secs(1));
    assert_eq!(world.hops(1, "10.244.0.0/26"), [elsewhere]);
}

#[test]
fn import_policy_may_change_what_is_preferred() {
    let mut world = World::new();
    (0..3).for_each(|host| _ = world.add(64512 + host));
    world.peer(0, 1);
    world.peer(0, 2);
    world.originate(1, &["192.0.2.0/24"]);
    world.originate(2, &["192.0.2.0/24"]);
    world.run(secs(1));
    assert_eq!(world.hops(0, "192.0.2.0/24"), [address(1)]);
    assert_eq!(route(&world, 0, "192.0.2.0/24").step, Some(Step::RouterId));
    let preferred = Changes { local_pref: Some(200), ..Changes::default() };
    world.reconfigure(0, 2, |peer| {
        peer.families.get_mut(&V4).unwrap().import =
            Policy { otherwise: Verdict::Accept(preferred), ..Policy::default() };
    });
    world.run(secs(1));
    assert_eq!(world.hops(0, "192.0.2.0/24"), [address(2)]);
    let explained = route(&world, 0, "192.0.2.0/24");
    assert_eq!((explained.best, explained.step), (Some(1), Some(Step::LocalPref)));
    assert_eq!(explained.paths[0].lost_at, Some(Step::LocalPref));
}

#[test]
fn equal_paths_carry_traffic_together_up_to_the_width() {
    let mut world = World::new();
    world.add(64512);
    for _ in 0..4 {
        world.add(65000);
    }
    (1..5).for_each(|tor| world.peer_with(0, tor, |_, peer| peer.graceful_restart = None));
    (1..5).for_each(|tor| world.originate(tor, &["0.0.0.0/0"]));
    world.run(secs(1));
    assert_eq!(world.hops(0, "0.0.0.0/0"), [1, 2, 3, 4].map(address));
    world.crash(2, true);
    world.run(secs(1));
    assert_eq!(world.hops(0, "0.0.0.0/0"), [1, 3, 4].map(address));
}

#[test]
fn a_peer_that_exceeds_its_limit_loses_the_session_and_all_its_routes() {
    let mut world = pair();
    world.reconfigure(0, 1, |peer| peer.families.get_mut(&V4).unwrap().limit.max = 4);
    world.originate(1, &["10.1.0.0/24", "10.2.0.0/24"]);
    world.run(secs(1));
    world.forget_events();
    world.originate(1, &["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24", "10.4.0.0/24"]);
    world.run(secs(1));
    assert!(world.is_up(0, 1), "the limit itself is allowed");
    let warning =
        Event::PrefixLimit { peer: name(1), family: V4, count: 4, limit: 4, exceeded: false, ended: false };
    assert!(world.nodes[0].events.iter().any(|(_, event)| *event == warning));
    world.originate(1, &["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24", "10.4.0.0/24", "10.5.0.0/24"]);
    world.run(secs(1));
    assert_eq!(world.notifications_sent(0), [(6, 1)]);
    assert_eq!(world.state(0, 1), PeerState::Idle);
    assert_eq!(world.nodes[0].routes, BTreeMap::new());
    world.forget_events();
    world.run(secs(55));
    assert_eq!(world.notifications_sent(0), [], "a peer over its limit is left alone for its pause");
    world.originate(1, &["10.1.0.0/24"]);
    world.input(0, Input::Reset { peer: name(1) });
    world.run(secs(40));
    assert_eq!(world.hops(0, "10.1.0.0/24"), [address(1)]);
}

#[test]
fn a_lowered_limit_counts_at_once() {
    let mut world = pair();
    world.originate(1, &["10.1.0.0/24", "10.2.0.0/24"]);
    world.run(secs(1));
    world.forget_events();
    world.reconfigure(0, 1, |peer| peer.families.get_mut(&V4).unwrap().limit.max = 1);
    world.run(secs(1));
    assert_eq!(world.notifications_sent(0), [(6, 1)]);
    assert_eq!(world.nodes[0].routes, BTreeMap::new());
}

#[test]
fn our_own_prefix_from_a_peer_never_wins_and_is_never_told_to_the_kernel() {
    let mut world = pair();
    world.originate(0, &["10.244.0.0/26"]);
    world.originate(1, &["10.244.0.0/26"]);
    world.run(secs(1));
    assert_eq!((world.nodes[0].routes.len(), world.nodes[1].routes.len()), (0, 0));
    assert_eq!(route(&world, 0, "10.244.0.0/26").step, Some(Step::Local));
    world.originate(0, &[]);
    world.run(secs(1));
    assert_eq!(world.hops(0, "10.244.0.0/26"), [address(1)]);
    world.originate(0, &["10.244.0.0/26"]);
    world.run(secs(1));
    assert_eq!(world.hops(0, "10.244.0.0/26"), [] as [IpAddr; 0]);
}

/// Hosts of one system, each peering with the first.
fn star(reflecting: bool) -> World {
    let mut world = World::new();
    (0..4).for_each(|_| _ = world.add(64512));
    for leaf in 1..4 {
        world.peer_with(0, leaf, |me, peer| peer.reflector_client = reflecting && me == 0 && leaf < 3);
    }
    (1..4).for_each(|leaf| world.originate(leaf, &[["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"][leaf - 1]]));
    world.run(secs(2));
    world
}

#[test]
fn internal_routes_are_not_passed_on_to_internal_peers() {
    let mut world = star(false);
    assert_eq!(world.nodes[0].routes.len(), 3);
    assert_eq!([1, 2, 3].map(|leaf| world.nodes[leaf].routes.len()), [0, 0, 0]);
    // Nor to one that comes when the routes are already there.
    world.input(0, Input::Reset { peer: name(1) });
    world.run(secs(10));
    assert!(world.is_up(0, 1));
    assert_eq!(world.nodes[1].routes.len(), 0);
}

#[test]
fn a_reflector_passes_on_routes_from_and_to_its_clients_with_their_own_next_hop() {
    let world = star(true);
    assert_eq!(world.hops(1, "10.2.0.0/24"), [address(2)]);
    assert_eq!(world.hops(1, "10.3.0.0/24"), [address(3)]);
    assert_eq!(world.hops(3, "10.1.0.0/24"), [address(1)]);
    assert_eq!([1, 2, 3].map(|leaf| world.nodes[leaf].routes.len()), [2, 2, 2]);
}

#[test]
fn two_reflectors_of_clients_and_of_each_other_make_no_loop() {
    let mut world = World::new();
    (0..4).for_each(|_| _ = world.add(64512));
    for (a, b) in [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3)] {
        world.peer_with(a, b, |me, peer| peer.reflector_client = me < 2);
    }
    world.originate(2, &["10.2.0.0/24"]);
    world.run(secs(2));
    assert_eq!(world.hops(3, "10.2.0.0/24"), [address(2)]);
    let outputs: usize = world.nodes.iter().map(|node| node.outputs).sum();
    world.run(secs(5));
    world.originate(2, &[]);
    world.run(secs(2));
    assert!((0..4).all(|host| world.nodes[host].routes.is_empty()), "nothing circulates");
    let more: usize = world.nodes.iter().map(|node| node.outputs).sum::<usize>() - outputs;
    assert!(more < 60, "a withdrawal takes {more} outputs");
}

#[test]
fn external_routes_reach_internal_peers_and_back_out_with_our_as_in_front() {
    let mut world = World::new();
    for asn in [65001, 64512, 64512, 65002] {
        world.add(asn);
    }
    world.peer(0, 1);
    world.peer(1, 2);
    world.peer(2, 3);
    world.originate(0, &["192.0.2.0/24"]);
    world.run(secs(2));
    assert_eq!(world.hops(2, "192.0.2.0/24"), [address(1)]);
    assert_eq!(world.hops(3, "192.0.2.0/24"), [address(2)]);
    assert_eq!(route(&world, 3, "192.0.2.0/24").paths[0].as_path, "64512 65001");
    assert_eq!(world.nodes[0].routes.len(), 0, "a route never comes back to where it was made");
}

#[test]
fn communities_keep_routes_where_they_belong() {
    let mut world = World::new();
    for asn in [64512, 64512, 65002] {
        world.add(asn);
    }
    world.peer(0, 1);
    world.peer(0, 2);
    let tagged = |community| OriginAttributes {
        communities: BTreeSet::from([community]),
        ..OriginAttributes::default()
    };
    let origins = BTreeMap::from([
        (prefix("10.1.0.0/24"), tagged(Community::NO_EXPORT)),
        (prefix("10.2.0.0/24"), tagged(Community::NO_ADVERTISE)),
        (prefix("10.3.0.0/24"), tagged(Community::new(64512, 1))),
    ]);
    world.input(0, Input::SetOrigins(origins));
    world.run(secs(2));
    let known = |host: usize| world.nodes[host].routes.keys().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(known(1), ["10.1.0.0/24", "10.3.0.0/24"]);
    assert_eq!(known(2), ["10.3.0.0/24"]);
    assert_eq!(route(&world, 2, "10.3.0.0/24").paths[0].communities, ["64512:1"]);
}

#[test]
fn local_preference_stays_inside_and_med_reaches_only_the_neighbour() {
    let mut world = World::new();
    for asn in [64512, 64512, 65002, 65003] {
        world.add(asn);
    }
    world.peer(0, 1);
    world.peer(0, 2);
    world.peer(2, 3);
    let origin = OriginAttributes { local_pref: Some(300), med: Some(7), ..OriginAttributes::default() };
    world.input(0, Input::SetOrigins(BTreeMap::from([(prefix("10.1.0.0/24"), origin)])));
    world.run(secs(2));
    let seen = |host| {
        let route = route(&world, host, "10.1.0.0/24");
        (route.paths[0].local_pref, route.paths[0].med)
    };
    assert_eq!(seen(1), (300, Some(7)));
    assert_eq!(seen(2), (100, Some(7)));
    assert_eq!(seen(3), (100, None), "a MED goes no further than the neighbour");
}

#[test]
fn export_policy_tells_sources_apart_and_prepends() {
    let mut world = World::new();
    for asn in [65001, 64512, 65002] {
        world.add(asn);
    }
    world.peer(0, 1);
    world.peer_with(1, 2, |me, peer| {
        let own = Rule {
            source: Some(Source::Local),
            ..Rule::new("own", Verdict::Accept(Changes { prepend: 2, ..Changes::default() }))
        };
        if me == 1 {
            peer.families.get_mut(&V4).unwrap().export = Policy { rules: vec![own], ..Policy::default() };
        }
    });
    world.originate(0, &["192.0.2.0/24"]);
    world.originate(1, &["10.244.0.0/26"]);
    world.run(secs(2));
    assert_eq!(world.nodes[2].routes.len(), 1);
    assert_eq!(route(&world, 2, "10.244.0.0/26").paths[0].as_path, "64512 64512 64512");
}

#[test]
fn an_ipv6_next_hop_carries_ipv4_routes_where_both_can() {
    let mut world = pair();
    let next_hop: IpAddr = "fd00::1".parse().unwrap();
    world.reconfigure(0, 1, |peer| {
        peer.families.get_mut(&V4).unwrap().next_hop = NextHopMode::Own(next_hop);
    });
    world.originate(0, &["10.244.0.0/26"]);
    world.run(secs(1));
    assert_eq!(world.hops(1, "10.244.0.0/26"), [next_hop]);
}

#[test]
fn a_route_without_a_usable_next_hop_is_said_aloud_and_not_announced() {
    let mut world = pair();
    world.reconfigure(0, 1, |peer| {
        peer.families.get_mut(&Family::Ipv6Unicast).unwrap().next_hop = NextHopMode::Own(address(0));
    });
    world.originate(0, &["fd00:10::/64", "10.244.0.0/26"]);
    world.run(secs(1));
    assert_eq!(world.nodes[1].routes.len(), 1);
    let said = world.nodes[0].events.iter().filter(|(_, event)| matches!(event, Event::NotAnnounced { .. }));
    assert_eq!(said.count(), 1);
}

#[test]
fn a_peer_with_one_family_is_told_only_that_one() {
    let mut world = pair();
    world.reconfigure(1, 0, |peer| _ = peer.families.remove(&Family::Ipv6Unicast));
    world.originate(0, &["fd00:10::/64", "10.244.0.0/26"]);
    world.run(secs(5));
    assert!(world.is_up(0, 1));
    assert_eq!(world.nodes[1].routes.keys().map(ToString::to_string).collect::<Vec<_>>(), ["10.244.0.0/26"]);
}

#[test]
fn origins_and_routes_survive_a_peer_being_declared_again() {
    let mut world = pair();
    world.originate(0, &["10.244.0.0/26"]);
    world.run(secs(1));
    world.forget_events();
    world.declare(0);
    world.declare(1);
    let config = open_peer(0, 1, world.nodes[1].local.asn);
    assert_eq!(world.nodes[0].peers[&name(1)], config);
    world.run(secs(1));
    assert_eq!(world.nodes[0].events, []);
    assert_eq!(world.hops(1, "10.244.0.0/26"), [address(0)]);
}
