//! Several paths per prefix (RFC 7911), routes that are stale for long (RFC 9494), next hops of the other family and on
//! the link of a session (RFC 8950, RFC 2545).

use std::collections::BTreeSet;
use std::net::IpAddr;

use manx_bgp::{
    AddPath, Community, Event, Family, Gateway, NextHopMode, OriginAttributes, PathStatus, PeerConfig, Step,
    StopReason,
};

use crate::world::{Host, World, address, name, prefix, secs};

const V4: Family = Family::Ipv4Unicast;
const BLOCK: &str = "10.244.0.0/26";

fn paths(world: &World, host: Host) -> Vec<PathStatus> {
    let snapshot = world.nodes[host].speaker.snapshot(world.now);
    let route = snapshot.routes.into_iter().find(|route| route.prefix == prefix(BLOCK));
    route.map_or(Vec::new(), |route| route.paths)
}

/// A reflector, host 0, with clients that take several paths; host 0 tells them up to `most`.
fn reflected(clients: Host, most: Option<u8>) -> World {
    let mut world = World::new();
    for _ in 0..=clients {
        world.add(64512);
    }
    for client in 1..=clients {
        world.peer_with(0, client, |me, config| {
            config.reflector_client = me == 0;
            let family = config.families.get_mut(&V4).expect("configured");
            family.add_path = AddPath { receive: me != 0, send: most.filter(|_| me == 0) };
        });
    }
    world.run(secs(5));
    world
}

#[test]
fn clients_of_a_reflector_share_traffic_over_all_the_paths_that_they_are_told() {
    for (most, expected) in [(None, 1), (Some(1), 1), (Some(2), 2), (Some(3), 3), (Some(9), 3)] {
        let mut world = reflected(4, most);
        for client in 1..=3 {
            world.originate(client, &[BLOCK]);
        }
        world.run(secs(1));
        assert_eq!(world.hops(4, BLOCK).len(), expected, "of at most {most:?}");
        let ids: BTreeSet<u32> = paths(&world, 4).iter().map(|path| path.path_id).collect();
        assert_eq!(ids.len(), expected);
        assert_eq!(ids.contains(&0), most.is_none(), "path identifiers begin with 1");
        // Nobody hears of its own route.
        let own = paths(&world, 1);
        assert_eq!(own.iter().filter(|path| path.next_hop == Some(address(1))).count(), 0);
        let status = &world.nodes[4].speaker.peers(world.now)[0];
        assert_eq!(status.families[&V4].received as usize, expected);
    }
}

#[test]
fn a_path_that_goes_or_changes_leaves_the_others_and_their_identifiers_alone() {
    let mut world = reflected(4, Some(3));
    for client in 1..=3 {
        world.originate(client, &[BLOCK]);
    }
    world.run(secs(1));
    let id = |world: &World, of: Host| {
        let path = paths(world, 4).into_iter().find(|path| path.next_hop == Some(address(of)));
        path.map(|path| path.path_id)
    };
    let before = id(&world, 3);
    assert!(before.is_some());
    world.nodes[4].lost.clear();
    world.originate(2, &[]);
    world.run(secs(1));
    assert_eq!(world.hops(4, BLOCK), [address(1), address(3)]);
    let changed = OriginAttributes { med: Some(5), ..OriginAttributes::default() };
    world.input(3, manx_bgp::Input::SetOrigins([(prefix(BLOCK), changed)].into()));
    world.run(secs(1));
    assert_eq!((id(&world, 2), id(&world, 3)), (None, before));
    world.originate(2, &[BLOCK]);
    world.run(secs(1));
    assert_eq!(id(&world, 3), before);
    assert_eq!(world.nodes[4].lost, []);
    assert_eq!(paths(&world, 4).len(), 3);
}

#[test]
fn every_path_outlives_a_restart_and_goes_if_it_is_not_told_again() {
    let mut world = reflected(3, Some(3));
    world.originate(1, &[BLOCK]);
    world.originate(2, &[BLOCK]);
    world.run(secs(1));
    world.stop(0, StopReason::Restart);
    world.run(secs(5));
    assert_eq!(paths(&world, 3).iter().filter(|path| path.stale).count(), 2);
    world.originate(2, &[]);
    world.start(0, true);
    world.run(secs(60));
    let left = paths(&world, 3);
    assert_eq!(
        left.iter().map(|path| (path.next_hop, path.stale)).collect::<Vec<_>>(),
        [(Some(address(1)), false)]
    );
}

#[test]
fn how_many_paths_are_told_can_be_changed_within_the_session() {
    let mut world = reflected(4, Some(1));
    for client in 1..=3 {
        world.originate(client, &[BLOCK]);
    }
    world.run(secs(1));
    world.forget_events();
    for (most, expected) in [(3, 3), (2, 2), (1, 1)] {
        world.reconfigure(0, 4, |config| {
            config.families.get_mut(&V4).unwrap().add_path.send = Some(most);
        });
        world.run(secs(1));
        assert_eq!(paths(&world, 4).len(), expected);
    }
    assert_eq!(world.states(4, 0), []);
}

#[test]
fn a_refresh_tells_every_path_again_and_loses_none() {
    let mut world = reflected(3, Some(3));
    for client in [1, 2] {
        world.originate(client, &[BLOCK]);
    }
    world.run(secs(1));
    world.forget_events();
    world.reconfigure(3, 0, |config| {
        let import = &mut config.families.get_mut(&V4).unwrap().import;
        import.rules.push(manx_bgp::Rule::new("all", import.otherwise.clone()));
    });
    world.run(secs(2));
    let seen = paths(&world, 3);
    assert_eq!(seen.iter().filter(|path| !path.stale).count(), 2, "{seen:?}");
    assert_eq!((world.states(3, 0), world.nodes[3].lost.len()), (Vec::new(), 0));
    world.originate(2, &[]);
    world.run(secs(1));
    assert_eq!(paths(&world, 3).len(), 1, "each path can still be withdrawn");
}

#[test]
fn a_dump_has_every_path_of_a_prefix_with_its_identifier() {
    let mut world = reflected(3, Some(3));
    for client in [1, 2] {
        world.originate(client, &[BLOCK]);
    }
    world.run(secs(1));
    let records = crate::monitor::records(&world.nodes[3].speaker.mrt(5));
    let (kind, route) = &records[1];
    assert_eq!(*kind, 8, "RIB_IPV4_UNICAST_ADDPATH (RFC 8050 §4.2)");
    // The sequence and the prefix, then the number of entries.
    let (count, mut entries) = route[9..].split_at(2);
    assert_eq!(count, [0, 2]);
    let mut identifiers = BTreeSet::new();
    while !entries.is_empty() {
        identifiers.insert(entries[6..10].to_vec());
        let length = usize::from(u16::from_be_bytes([entries[10], entries[11]]));
        entries = &entries[12 + length..];
    }
    assert_eq!(identifiers.len(), 2);
}

// ── stale for long ───────────────────────────────────────────────────────────────────────────────────────

fn for_long(config: &mut PeerConfig) {
    config.long_lived = Some(secs(3600));
}

/// Host 0 tells hosts 1 and 3, and host 1 host 2; 1 and 2 keep stale routes for long. All are in systems of their own.
fn chain(understood: bool) -> World {
    let mut world = World::new();
    for host in 0..4 {
        world.add(64512 + host);
    }
    world.peer_with(0, 1, |_, config| for_long(config));
    world.peer_with(1, 2, |_, config| {
        if understood {
            for_long(config)
        }
    });
    world.run(secs(3));
    world.originate(0, &[BLOCK]);
    world.run(secs(2));
    assert_eq!(world.hops(2, BLOCK), [address(1)]);
    world
}

fn marked(world: &World, host: Host) -> bool {
    let marked = Community::LLGR_STALE.to_string();
    paths(world, host).first().is_some_and(|path| path.communities.contains(&marked))
}

#[test]
fn stale_routes_are_marked_after_the_restart_time_and_told_to_those_who_understand() {
    for understood in [false, true] {
        let mut world = chain(understood);
        world.crash(0, true);
        world.run(secs(115));
        assert!(!marked(&world, 1) && !world.hops(2, BLOCK).is_empty());
        world.run(secs(100));
        assert!(marked(&world, 1));
        assert_eq!(world.hops(1, BLOCK), [address(0)], "it still carries traffic");
        assert_eq!((marked(&world, 2), world.hops(2, BLOCK).len()), (understood, usize::from(understood)));
        let event = Event::RoutesMarked { peer: name(0), family: V4, count: 1 };
        assert_eq!(world.nodes[1].events.iter().filter(|(_, told)| *told == event).count(), 1);
        world.run(secs(3600));
        assert!(paths(&world, 1).is_empty() && world.hops(2, BLOCK).is_empty());
    }
}

#[test]
fn a_marked_route_gives_way_to_any_other() {
    let mut world = chain(true);
    world.add(64520);
    world.peer_with(1, 4, |_, _| {});
    world.originate(4, &[BLOCK]);
    world.run(secs(5));
    assert_eq!(world.hops(1, BLOCK).len(), 1);
    let best = world.hops(1, BLOCK);
    assert_eq!(best, [address(0)]);
    world.crash(0, true);
    world.run(secs(250));
    assert_eq!(world.hops(1, BLOCK), [address(4)]);
    let lost = paths(&world, 1).into_iter().find(|path| path.next_hop == Some(address(0))).unwrap();
    assert_eq!(lost.lost_at, Some(Step::LongLivedStale));
}

#[test]
fn a_route_that_must_not_outlive_its_session_for_long_goes_with_the_restart_time() {
    let mut world = chain(true);
    let never = OriginAttributes { communities: [Community::NO_LLGR].into(), ..OriginAttributes::default() };
    world.input(0, manx_bgp::Input::SetOrigins([(prefix(BLOCK), never)].into()));
    world.run(secs(1));
    world.crash(0, true);
    world.run(secs(110));
    assert!(!world.hops(1, BLOCK).is_empty());
    world.run(secs(110));
    assert!(paths(&world, 1).is_empty());
}

#[test]
fn a_session_that_returns_in_any_phase_confirms_what_is_told_again() {
    // How long it is away, and whether it goes on forwarding meanwhile.
    let rows = [(10, true), (10, false), (300, true), (300, false), (3700, true), (4000, true)];
    for (away, forwarding) in rows {
        for told_again in [true, false] {
            let mut world = chain(true);
            world.stop(0, StopReason::Restart);
            world.run(secs(away));
            let kept = away < 3720;
            assert_eq!(!paths(&world, 1).is_empty(), kept, "after {away} s");
            world.nodes[1].lost.clear();
            world.start(0, forwarding);
            world.originate(0, if told_again { &[BLOCK] } else { &[] });
            world.run(secs(100));
            assert!(world.is_up(0, 1));
            assert_eq!(!paths(&world, 1).is_empty(), told_again, "after {away} s, told again: {told_again}");
            assert!(!marked(&world, 1) && !marked(&world, 2));
            let interrupted = world.nodes[1].lost.contains(&prefix(BLOCK));
            assert_eq!(interrupted, kept && !(forwarding && told_again), "{away} {forwarding} {told_again}");
        }
    }
}

// ── next hops ────────────────────────────────────────────────────────────────────────────────────────────

fn link_local(host: Host) -> IpAddr {
    IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, host as u16 + 1])
}

#[test]
fn over_a_link_local_session_routes_of_both_families_lead_to_the_peer_on_that_link() {
    let v6 = "fd00:10:244::/64";
    for next_hop in [None, Some(NextHopMode::Keep)] {
        let mut world = World::new();
        world.on_link = true;
        for host in 0..2 {
            world.add(64512 + host);
        }
        world.peer_with(0, 1, |_, config| {
            for family in config.families.values_mut() {
                family.next_hop = next_hop.unwrap_or(family.next_hop);
            }
        });
        world.run(secs(3));
        world.originate(0, &[BLOCK, v6]);
        world.run(secs(1));
        let gateway = BTreeSet::from([Gateway { address: link_local(0), zone: World::ZONE }]);
        assert_eq!(world.gateways(1, BLOCK), gateway, "{next_hop:?}");
        assert_eq!(world.gateways(1, v6), gateway, "{next_hop:?}");
    }
}

#[test]
fn a_link_local_next_hop_goes_no_further_than_its_link() {
    let mut world = World::new();
    world.on_link = true;
    for host in 0..2 {
        world.add(64512 + host);
    }
    world.peer_with(0, 1, |_, config| {
        config.families.get_mut(&V4).unwrap().next_hop = NextHopMode::Keep;
    });
    world.run(secs(3));
    world.on_link = false;
    world.add(64513);
    world.peer_with(1, 2, |_, config| {
        config.families.get_mut(&V4).unwrap().next_hop = NextHopMode::Keep;
    });
    world.originate(0, &[BLOCK]);
    world.run(secs(5));
    assert_eq!(world.hops(1, BLOCK), [link_local(0)]);
    assert_eq!(world.hops(2, BLOCK), [address(1)], "the next hop on another link is the router itself");
}
