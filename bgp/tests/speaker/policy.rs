//! Policy between speakers: communities, systems hidden and shown, roles, draining, and what changes without a reset.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use manx_bgp::{
    Amendment, AsPathMatch, Asn, Changes, Community, CommunityMatch, Family, ImportStatus, Input, LocalAs,
    OriginAttributes, PathStatus, PeerConfig, Policy, Role, Rule, Verdict,
};

use crate::world::{World, address, pair, prefix, secs};

const V4: Family = Family::Ipv4Unicast;

/// A chain of hosts, each a peer of the next.
fn chain(systems: &[u32], change: impl Fn(usize, usize, &mut PeerConfig)) -> World {
    let mut world = World::new();
    systems.iter().for_each(|asn| _ = world.add(*asn));
    for host in 1..systems.len() {
        let other = |me| if me == host { host - 1 } else { host };
        world.peer_with(host - 1, host, |me, peer| change(me, other(me), peer));
    }
    world
}

/// The only path that a host has to a prefix.
fn path(world: &World, host: usize, text: &str) -> PathStatus {
    let explanation = world.nodes[host].speaker.explain(&prefix(text));
    assert_eq!(explanation.paths.len(), 1, "{explanation}");
    explanation.paths[0].status.clone()
}

fn tagged(texts: &[(&str, Community)]) -> BTreeMap<manx_bgp::Prefix, OriginAttributes> {
    let attributes =
        |community| OriginAttributes { communities: BTreeSet::from([community]), ..Default::default() };
    texts.iter().map(|(text, community)| (prefix(text), attributes(*community))).collect()
}

#[test]
fn the_default_policy_lets_nothing_in_and_nothing_out() {
    for closed in [0, 1] {
        let mut world = chain(&[64512, 65001], |me, _, peer| {
            let family = peer.families.get_mut(&V4).unwrap();
            if me == closed {
                (family.import, family.export) = (Policy::default(), Policy::default());
            }
        });
        world.originate(0, &["10.0.0.0/24"]);
        world.originate(1, &["10.1.0.0/24"]);
        world.run(secs(2));
        assert!(world.is_up(0, 1));
        assert_eq!([0, 1].map(|host| world.nodes[host].routes.len()), [0, 0], "host {closed} is closed");
    }
}

#[test]
fn rules_look_at_communities_and_paths_and_the_first_that_matches_decides() {
    let mut world = chain(&[65001, 64512], |me, _, peer| {
        let set = |texts: &[&str]| CommunityMatch::any(texts.iter().map(|text| text.parse().unwrap()));
        let preferred = Changes { local_pref: Some(300), ..Changes::default() };
        let stamped = Changes {
            remove_communities: ["65001:*".parse().unwrap()].into(),
            add_communities: [Community::new(64512, 9)].into(),
            ..Changes::default()
        };
        let rules = vec![
            Rule { communities: Some(set(&["65001:666"])), ..Rule::new("bad", Verdict::Reject) },
            Rule { communities: Some(set(&["65001:1"])), ..Rule::new("good", Verdict::Accept(preferred)) },
            Rule {
                as_path: Some(AsPathMatch { origin: [Asn(65001)].into(), ..AsPathMatch::default() }),
                ..Rule::new("theirs", Verdict::Accept(stamped))
            },
        ];
        if me == 1 {
            peer.families.get_mut(&V4).unwrap().import = Policy { rules, ..Policy::default() };
        }
    });
    let origins = tagged(&[
        ("10.0.0.0/24", Community::new(65001, 666)),
        ("10.1.0.0/24", Community::new(65001, 1)),
        ("10.2.0.0/24", Community::new(65001, 2)),
    ]);
    world.input(0, Input::SetOrigins(origins));
    world.run(secs(2));
    let seen = |text| {
        let path = path(&world, 1, text);
        (path.import, path.local_pref, path.communities.join(" "))
    };
    let accepted = |rule: &str| ImportStatus::Accepted(Some(rule.to_owned()));
    assert_eq!(seen("10.0.0.0/24").0, ImportStatus::Rejected(Some("bad".to_owned())));
    assert_eq!(seen("10.1.0.0/24"), (accepted("good"), 300, "65001:1".to_owned()));
    assert_eq!(seen("10.2.0.0/24"), (accepted("theirs"), 100, "64512:9".to_owned()));
}

#[test]
fn a_shown_as_hides_ours_from_one_peer_and_its_paths_from_none() {
    let shown = |replace| LocalAs { asn: Asn(65500), prepend: true, replace };
    for (replace, there) in [(false, "65500 64512"), (true, "65500")] {
        let mut world = chain(&[64512, 65001, 65002], |me, other, peer| match (me, other) {
            (0, 1) => peer.local_as = Some(shown(replace)),
            (1, 0) => peer.asn = Asn(65500).into(),
            _ => {}
        });
        world.originate(0, &["10.0.0.0/24"]);
        world.originate(2, &["10.2.0.0/24"]);
        world.run(secs(2));
        assert_eq!(path(&world, 1, "10.0.0.0/24").as_path, there);
        assert_eq!(path(&world, 2, "10.0.0.0/24").as_path, format!("65001 {there}"));
        assert_eq!(path(&world, 0, "10.2.0.0/24").as_path, "65500 65001 65002");
    }
}

#[test]
fn our_own_as_is_taken_where_allowed_and_a_change_of_that_resets_nothing() {
    let mut world = chain(&[64512, 65001, 64512], |_, _, _| {});
    world.originate(0, &["10.0.0.0/24"]);
    world.run(secs(2));
    assert_eq!(path(&world, 2, "10.0.0.0/24").import, ImportStatus::AsLoop);
    world.forget_events();
    world.reconfigure(2, 1, |peer| peer.allow_own_as = 1);
    world.run(secs(2));
    assert_eq!(world.hops(2, "10.0.0.0/24"), [address(1)]);
    world.reconfigure(2, 1, |peer| peer.allow_own_as = 0);
    world.run(secs(2));
    assert_eq!(world.nodes[2].routes.len(), 0);
    assert_eq!(world.states(2, 1), [], "no session changed its state");
}

#[test]
fn private_systems_are_taken_out_on_request_and_put_back_without_a_reset() {
    let mut world = chain(&[64513, 3356, 174], |_, _, _| {});
    world.originate(0, &["10.0.0.0/24"]);
    world.run(secs(2));
    assert_eq!(path(&world, 2, "10.0.0.0/24").as_path, "3356 64513");
    world.forget_events();
    world.reconfigure(1, 2, |peer| peer.remove_private_as = true);
    world.run(secs(2));
    assert_eq!(path(&world, 2, "10.0.0.0/24").as_path, "3356");
    world.reconfigure(1, 2, |peer| peer.remove_private_as = false);
    world.run(secs(2));
    assert_eq!(path(&world, 2, "10.0.0.0/24").as_path, "3356 64513");
    assert_eq!(world.states(1, 2), []);
}

#[test]
fn equal_paths_through_different_systems_carry_traffic_together_if_so_wanted() {
    for relax in [false, true] {
        let mut world = World::new();
        for asn in [64512, 65001, 65002] {
            world.add(asn);
        }
        world.nodes[0].local.relax = relax;
        world.start(0, false);
        world.peer(0, 1);
        world.peer(0, 2);
        world.originate(1, &["10.0.0.0/24"]);
        world.originate(2, &["10.0.0.0/24"]);
        world.run(secs(2));
        let expected = if relax { vec![address(1), address(2)] } else { vec![address(1)] };
        assert_eq!(world.hops(0, "10.0.0.0/24"), expected);
    }
}

/// Makes `above` the provider and the other one its customer.
fn below(above: usize) -> impl Fn(usize, &mut PeerConfig) {
    move |me, peer| peer.role = Some(if me == above { Role::Provider } else { Role::Customer })
}

#[test]
fn a_route_from_above_goes_down_and_never_up_again() {
    // 0 gives transit to 1, and so does 2, which tells no role: 1 must not join them.
    let mut world = World::new();
    for asn in [65000, 65001, 65002, 65003] {
        world.add(asn);
    }
    world.peer_with(0, 1, below(0));
    world.peer_with(2, 1, |me, peer| peer.role = (me == 1).then_some(Role::Customer));
    world.peer_with(1, 3, below(1));
    world.originate(0, &["10.0.0.0/24"]);
    world.originate(3, &["10.3.0.0/24"]);
    world.run(secs(2));
    assert_eq!(world.hops(3, "10.0.0.0/24"), [address(1)], "down it goes");
    assert_eq!(world.nodes[2].routes.keys().map(ToString::to_string).collect::<Vec<_>>(), ["10.3.0.0/24"]);
    assert_eq!(world.hops(0, "10.3.0.0/24"), [address(1)], "a customer's own goes up");
    let marked = |host: usize, text| {
        let explanation = world.nodes[host].speaker.explain(&prefix(text));
        let path = explanation.paths[0].clone();
        (path.received.only_to_customer, path.used.and_then(|used| used.only_to_customer))
    };
    assert_eq!(marked(1, "10.0.0.0/24"), (Some(Asn(65000)), Some(Asn(65000))), "the provider marks it");
    assert_eq!(marked(3, "10.0.0.0/24").0, Some(Asn(65000)), "and the mark stays");
    assert_eq!(marked(1, "10.3.0.0/24"), (None, None));
}

#[test]
fn a_leak_is_not_used_and_says_so() {
    // 1 knows nothing of roles towards 2 and leaks; 2 is its provider and sees the mark of 0.
    let mut world = World::new();
    for asn in [65000, 65001, 65002] {
        world.add(asn);
    }
    world.peer_with(0, 1, |me, peer| peer.role = (me == 0).then_some(Role::Provider));
    world.peer_with(1, 2, |me, peer| peer.role = (me == 2).then_some(Role::Provider));
    world.originate(0, &["10.0.0.0/24"]);
    world.run(secs(2));
    assert_eq!(world.hops(1, "10.0.0.0/24"), [address(0)]);
    assert_eq!(path(&world, 2, "10.0.0.0/24").import, ImportStatus::Leak);
    assert_eq!(world.nodes[2].routes.len(), 0);
    let explained = world.nodes[2].speaker.explain(&prefix("10.0.0.0/24")).to_string();
    assert!(explained.contains("refused: a leak, it is for customers only"), "{explained}");
}

#[test]
fn a_drained_node_is_used_only_if_there_is_no_other_and_its_sessions_stay() {
    let mut world = World::new();
    for asn in [64512, 65001, 65002] {
        world.add(asn);
    }
    for host in [1, 2] {
        world.peer_with(0, host, |me, peer| {
            if me == 0 {
                peer.families.get_mut(&V4).unwrap().import.finally.push(Amendment::graceful_shutdown());
            }
        });
        world.originate(host, &["10.0.0.0/24"]);
    }
    world.run(secs(2));
    assert_eq!(world.hops(0, "10.0.0.0/24"), [address(1)]);
    world.forget_events();
    world.reconfigure(1, 0, |peer| {
        peer.families.get_mut(&V4).unwrap().export.finally = Amendment::drain().into();
    });
    world.run(secs(1));
    assert_eq!(world.hops(0, "10.0.0.0/24"), [address(2)]);
    assert_eq!(world.nodes[0].lost, [], "at no time was there no way");
    world.originate(2, &[]);
    world.run(secs(1));
    assert_eq!(world.hops(0, "10.0.0.0/24"), [address(1)], "there is no other");
    world.reconfigure(1, 0, |peer| peer.families.get_mut(&V4).unwrap().export.finally.clear());
    world.run(secs(1));
    assert_eq!(path(&world, 0, "10.0.0.0/24").communities, [] as [&str; 0]);
    assert_eq!(world.states(0, 1), []);
}

#[test]
fn a_drained_node_is_the_last_choice_inside_too() {
    let mut world = chain(&[64512, 64512], |_, _, _| {});
    world.originate(0, &["10.0.0.0/24"]);
    world.run(secs(1));
    world.reconfigure(0, 1, |peer| {
        peer.families.get_mut(&V4).unwrap().export.finally = Amendment::drain().into();
    });
    world.run(secs(1));
    let path = path(&world, 1, "10.0.0.0/24");
    assert_eq!((path.local_pref, path.communities), (0, Vec::new()));
}

#[test]
fn a_blackhole_needs_a_rule_that_allows_it_and_goes_no_further() {
    let mut world = chain(&[65001, 64512, 64512], |_, _, _| {});
    let origins = tagged(&[("10.0.0.1/32", Community::BLACKHOLE)]);
    world.input(0, Input::SetOrigins(origins));
    world.run(secs(2));
    assert_eq!(path(&world, 1, "10.0.0.1/32").import, ImportStatus::Blackhole);
    assert_eq!(world.nodes[1].routes.len(), 0);
    world.reconfigure(1, 0, |peer| {
        let rule = Rule {
            communities: Some(CommunityMatch::any([Community::BLACKHOLE.into()])),
            ..Rule::new("tor/blackhole", Verdict::Accept(Changes { blackhole: true, ..Changes::default() }))
        };
        peer.families.get_mut(&V4).unwrap().import.rules.push(rule);
    });
    world.run(secs(2));
    let taken = path(&world, 1, "10.0.0.1/32");
    assert_eq!(taken.import, ImportStatus::Discarded(Some("tor/blackhole".to_owned())));
    assert_eq!(taken.communities, ["blackhole", "no-advertise"]);
    assert!(world.nodes[2].routes.is_empty());
    assert_eq!(world.nodes[1].routes, [(prefix("10.0.0.1/32"), BTreeSet::new())].into(), "to nowhere");
    let explained = world.nodes[1].speaker.explain(&prefix("10.0.0.1/32")).to_string();
    assert!(explained.contains("accepted by rule tor/blackhole: its traffic is discarded"), "{explained}");
    world.originate(0, &["10.0.0.1/32"]);
    world.run(secs(1));
    assert_eq!(world.hops(1, "10.0.0.1/32"), [address(0)], "without the community traffic goes on");
    world.input(0, Input::SetOrigins(tagged(&[("10.0.0.1/32", Community::BLACKHOLE)])));
    world.run(secs(1));
    assert!(world.hops(1, "10.0.0.1/32").is_empty());
    world.originate(0, &[]);
    world.run(secs(1));
    assert!(world.nodes[1].routes.is_empty());
}

#[test]
fn what_we_do_not_know_goes_on_as_it_came() {
    use manx_bgp::ExtendedCommunity;
    let mut world = pair();
    let mut origin = OriginAttributes::default();
    let kept: ExtendedCommunity = "0x0304000000000001".parse().unwrap();
    let inside: ExtendedCommunity = "0x4304000000000001".parse().unwrap();
    origin.extended_communities.extend([kept, inside, "rt:65000:1".parse().unwrap()]);
    world.input(0, Input::SetOrigins(BTreeMap::from([(prefix("10.0.0.0/24"), origin)])));
    world.run(secs(1));
    assert_eq!(path(&world, 1, "10.0.0.0/24").communities, ["rt:65000:1", "0x0304000000000001"]);
}

#[test]
fn import_makes_external_paths_look_longer_and_leads_traffic_elsewhere() {
    let elsewhere = IpAddr::from([10, 0, 9, 9]);
    let mut world = chain(&[64512, 64512, 65001], |me, other, peer| {
        let changes = Changes { prepend: 2, next_hop: Some(elsewhere), med: Some(3), ..Changes::default() };
        if me < other {
            peer.families.get_mut(&V4).unwrap().import.otherwise = Verdict::Accept(changes);
        }
    });
    world.originate(1, &["10.1.0.0/24"]);
    world.originate(2, &["10.2.0.0/24"]);
    world.run(secs(2));
    let seen = |host, text| (path(&world, host, text).as_path, path(&world, host, text).med);
    assert_eq!(seen(1, "10.2.0.0/24"), ("65001 65001 65001".to_owned(), Some(3)));
    assert_eq!(seen(0, "10.2.0.0/24"), ("65001 65001 65001".to_owned(), Some(3)), "not longer inside");
    assert_eq!(seen(0, "10.1.0.0/24"), (String::new(), Some(3)));
    assert_eq!(world.hops(1, "10.2.0.0/24"), [elsewhere]);
}
