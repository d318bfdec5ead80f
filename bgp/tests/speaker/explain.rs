//! Explanations: the whole text, and each reason for which a peer is not told a route.

use std::collections::BTreeMap;

use manx_bgp::{
    AddPath, Amendment, Changes, Community, Family, Input, OriginAttributes, Policy, PrefixMatch, Role, Rule,
    Told, ToldStatus, Untold, Verdict,
};

use crate::world::{World, name, pair, prefix, secs};

const V4: Family = Family::Ipv4Unicast;

fn accept(name: &str, changes: Changes) -> Rule {
    Rule::new(name, Verdict::Accept(changes))
}

/// What a host tells another about a prefix.
fn told(world: &World, host: usize, other: usize, text: &str) -> ToldStatus {
    let told = world.nodes[host].speaker.explain(&prefix(text)).told;
    told.into_iter().find(|told| told.peer == name(other)).map(|told| told.status).expect("is a peer")
}

#[test]
fn an_explanation_says_which_rule_which_step_and_what_everybody_is_told() {
    let mut world = World::new();
    for asn in [64512, 65001, 65002, 64512] {
        world.add(asn);
    }
    world.peer_with(0, 1, |me, peer| {
        let family = peer.families.get_mut(&V4).unwrap();
        if me == 0 {
            let all = accept("tor/all", Changes { local_pref: Some(200), ..Changes::default() });
            family.import = Policy {
                rules: vec![all],
                finally: vec![Amendment::graceful_shutdown()],
                ..Policy::default()
            };
        } else {
            family.export.finally = Amendment::drain().into();
        }
    });
    world.peer_with(0, 2, |me, peer| {
        let family = peer.families.get_mut(&V4).unwrap();
        if me == 0 {
            let changes = Changes { med: Some(5), prepend: 1, ..Changes::default() };
            family.export = Policy { rules: vec![accept("out/all", changes)], ..Policy::default() };
        }
    });
    world.peer(0, 3);
    world.originate(1, &["192.0.2.0/24"]);
    world.originate(2, &["192.0.2.0/24"]);
    world.run(secs(2));
    let expected = "\
192.0.2.0/24
  path of host1: lost at local preference
    received: next hop 10.0.0.2, AS path 65001, origin IGP, communities graceful-shutdown
    accepted by rule tor/all, amended by built-in/graceful-shutdown
    used: next hop 10.0.0.2, AS path 65001, origin IGP, local preference 0, communities graceful-shutdown
  path of host2: best by local preference
    received: next hop 10.0.0.3, AS path 65002, origin IGP
    accepted by default: no rule matched
  told host1: next hop 10.0.0.1, AS path 64512 65002, origin IGP
    accepted by default: no rule matched
  not told host2: the best path is its own
  told host3: next hop 10.0.0.1, AS path 65002, origin IGP, local preference 100
    accepted by default: no rule matched
";
    assert_eq!(world.nodes[0].speaker.explain(&prefix("192.0.2.0/24")).to_string(), expected);
    world.originate(2, &[]);
    world.originate(1, &[]);
    world.originate(0, &["10.244.0.0/26"]);
    world.run(secs(2));
    let expected = "\
10.244.0.0/26
  path of our own: best, the only one
    received: empty AS path, origin IGP
  told host1: next hop 10.0.0.1, AS path 64512, origin IGP
    accepted by default: no rule matched
  told host2: next hop 10.0.0.1, AS path 64512 64512, origin IGP, MED 5
    accepted by rule out/all
  told host3: next hop 10.0.0.1, empty AS path, origin IGP, local preference 100
    accepted by default: no rule matched
";
    assert_eq!(world.nodes[0].speaker.explain(&prefix("10.244.0.0/26")).to_string(), expected);
}

#[test]
fn the_longest_prefix_that_holds_an_address_is_found_among_those_with_a_path() {
    let mut world = World::new();
    world.add(64512);
    world.originate(0, &["10.0.0.0/8", "10.244.0.0/16", "10.244.1.0/26"]);
    world.run(secs(1));
    let covering = |text: &str| world.nodes[0].speaker.covering(&prefix(text));
    assert_eq!(covering("10.244.1.5/32"), Some(prefix("10.244.1.0/26")));
    assert_eq!(covering("10.244.1.64/32"), Some(prefix("10.244.0.0/16")));
    assert_eq!(covering("10.0.0.0/8"), Some(prefix("10.0.0.0/8")));
    assert_eq!(covering("11.0.0.1/32"), None);
}

#[test]
fn a_table_is_read_in_parts_that_are_the_smaller_the_more_peers_are_told_of() {
    let mut world = pair();
    let all: Vec<String> =
        (0..1500).map(|number| format!("10.{}.{}.0/24", number / 256, number % 256)).collect();
    world.originate(0, &all.iter().map(String::as_str).collect::<Vec<_>>());
    world.run(secs(5));
    let read = |told: bool| {
        let (mut from, mut sizes, mut known) = (Some(0), Vec::new(), BTreeMap::new());
        while let Some(place) = from {
            let (part, next) = world.nodes[0].speaker.part(place, Some(&prefix("10.0.0.0/8")), |_| told);
            sizes.push(part.len());
            known.extend(part.into_iter().map(|explanation| (explanation.prefix, explanation.told.len())));
            from = next;
        }
        (sizes, known)
    };
    let (sizes, known) = read(false);
    assert_eq!((sizes, known.len()), (vec![1500], 1500));
    let (sizes, known) = read(true);
    assert_eq!(sizes, [1025, 475]);
    assert!(known.len() == 1500 && known.values().all(|told| *told == 1));
}

#[test]
fn what_is_unknown_is_explained_too() {
    let world = pair();
    let expected = "\
198.51.100.0/24
  no path
  not told host1: no session is up
";
    assert_eq!(world.nodes[0].speaker.explain(&prefix("198.51.100.0/24")).to_string(), expected);
}

#[test]
fn every_reason_not_to_tell_a_route_is_named() {
    let mut world = World::new();
    for asn in [64512, 64512, 64512, 65003, 65004, 65005] {
        world.add(asn);
    }
    world.peer(0, 1);
    world.peer(0, 2);
    world.peer_with(0, 3, |me, peer| peer.role = Some(if me == 0 { Role::Customer } else { Role::Provider }));
    world.peer_with(0, 4, |me, peer| {
        peer.role = Some(if me == 0 { Role::Customer } else { Role::Provider });
        let secret = PrefixMatch::within(prefix("10.9.0.0/16"));
        let rule = Rule { prefixes: vec![secret], ..Rule::new("f/secret", Verdict::Reject) };
        if me == 0 {
            peer.families.get_mut(&V4).unwrap().export.rules.push(rule);
        }
    });
    world.peer_with(0, 5, |_, peer| _ = peer.families.remove(&V4));
    world.originate(1, &["10.1.0.0/24"]);
    world.originate(3, &["10.3.0.0/24"]);
    let tagged = |community| OriginAttributes { communities: [community].into(), ..Default::default() };
    let origins = BTreeMap::from([
        (prefix("10.9.1.0/24"), OriginAttributes::default()),
        (prefix("10.10.0.0/24"), tagged(Community::NO_EXPORT)),
        (prefix("10.11.0.0/24"), tagged(Community::NO_ADVERTISE)),
    ]);
    world.input(0, Input::SetOrigins(origins));
    world.run(secs(2));
    let rows = [
        ("10.1.0.0/24", 1, Untold::SplitHorizon),
        ("10.1.0.0/24", 2, Untold::NotReflected),
        ("10.1.0.0/24", 5, Untold::NotNegotiated),
        ("10.3.0.0/24", 3, Untold::SplitHorizon),
        ("10.3.0.0/24", 4, Untold::OnlyToCustomer),
        ("10.9.1.0/24", 4, Untold::Rejected(Some("f/secret".to_owned()))),
        ("10.10.0.0/24", 4, Untold::Community(Community::NO_EXPORT)),
        ("10.11.0.0/24", 1, Untold::Community(Community::NO_ADVERTISE)),
        ("10.99.0.0/24", 1, Untold::NoPath),
    ];
    for (text, other, reason) in rows {
        assert_eq!(told(&world, 0, other, text), ToldStatus::Untold(reason), "{text} to host{other}");
    }
    // What is said is what the other side has.
    for host in 1..6 {
        for text in ["10.1.0.0/24", "10.3.0.0/24", "10.9.1.0/24", "10.10.0.0/24", "10.11.0.0/24"] {
            let explained = matches!(told(&world, 0, host, text), ToldStatus::Told { sent: true, .. });
            assert_eq!(
                world.nodes[host].routes.contains_key(&prefix(text)),
                explained,
                "{text} at host{host}"
            );
        }
    }
    world.crash(4, true);
    world.run(secs(1));
    assert_eq!(told(&world, 0, 4, "10.1.0.0/24"), ToldStatus::Untold(Untold::Down));
    let all = world.nodes[0].speaker.explain(&prefix("10.1.0.0/24")).told;
    assert_eq!(
        all.iter().map(|Told { peer, .. }| peer.clone()).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5].map(name)
    );
}

#[test]
fn a_peer_that_takes_several_paths_is_told_each_and_the_rest_is_beyond_its_limit() {
    let mut world = World::new();
    for asn in [64512, 65001, 65002, 65003, 65004] {
        world.add(asn);
    }
    for other in [1, 2, 3] {
        world.peer(0, other);
        world.originate(other, &["10.0.0.0/24"]);
    }
    world.peer_with(0, 4, |me, peer| {
        let family = peer.families.get_mut(&V4).unwrap();
        family.add_path = if me == 0 {
            AddPath { receive: false, send: Some(2) }
        } else {
            AddPath { receive: true, send: None }
        };
    });
    world.run(secs(2));
    let explanation = world.nodes[0].speaker.explain(&prefix("10.0.0.0/24")).to_string();
    let about_4: Vec<&str> = explanation.lines().filter(|line| line.contains("told host4")).collect();
    let expected = [
        "  told host4: next hop 10.0.0.1, AS path 64512 65001, origin IGP",
        "  told host4 the path of host2: next hop 10.0.0.1, AS path 64512 65002, origin IGP",
        "  not told host4 the path of host3: the peer takes at most 2 paths",
    ];
    assert_eq!(about_4, expected);
    let there = world.nodes[4].speaker.explain(&prefix("10.0.0.0/24"));
    assert_eq!(there.paths.len(), 2);
}
