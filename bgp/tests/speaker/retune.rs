//! What holds for the speaker itself changes while sessions go on.

use manx_bgp::{Asn, Input, Local, RouterId, StopReason};

use crate::world::{World, address, pair, prefix, secs};

const POD: &str = "10.244.1.0/26";

fn retune(world: &mut World, host: usize, change: impl FnOnce(&mut Local)) {
    change(&mut world.nodes[host].local);
    let local = world.nodes[host].local.clone();
    world.input(host, Input::SetLocal(local));
}

/// Host 0, which uses one path, and two others that announce the same prefix.
fn fork(systems: [u32; 2]) -> World {
    let mut world = World::new();
    world.add_with(64512, |local| local.multipath = 1);
    for asn in systems {
        let host = world.add(asn);
        world.peer(0, host);
        world.originate(host, &[POD]);
    }
    world.run(secs(20));
    assert_eq!(world.hops(0, POD), [address(1)]);
    world.forget_events();
    world
}

/// No session has gone through anything and no route was lost.
fn undisturbed(world: &World, host: usize) -> bool {
    let node = &world.nodes[host];
    node.events.is_empty() && node.lost.is_empty()
}

#[test]
fn more_paths_carry_traffic_as_soon_as_they_may_and_fewer_as_soon_as_they_must() {
    let mut world = fork([65000, 65000]);
    for (multipath, hops) in
        [(2, vec![address(1), address(2)]), (1, vec![address(1)]), (2, vec![address(1), address(2)])]
    {
        retune(&mut world, 0, |local| local.multipath = multipath);
        assert_eq!(world.hops(0, POD), hops, "{multipath}");
    }
    world.run(secs(20));
    assert!(undisturbed(&world, 0));
}

#[test]
fn paths_through_other_systems_join_when_the_rule_is_relaxed() {
    let mut world = fork([65000, 65001]);
    retune(&mut world, 0, |local| local.multipath = 2);
    assert_eq!(world.hops(0, POD), [address(1)]);
    retune(&mut world, 0, |local| local.relax = true);
    assert_eq!(world.hops(0, POD), [address(1), address(2)]);
    assert!(undisturbed(&world, 0));
}

#[test]
fn another_cluster_is_told_at_once_and_makes_loops_of_what_passed_it() {
    let mut world = World::new();
    for _ in 0..3 {
        world.add(64512);
    }
    world.peer_with(0, 1, |me, config| config.reflector_client = me == 0);
    world.peer(0, 2);
    world.originate(1, &[POD]);
    world.run(secs(20));
    let (here, there) = (RouterId::new([10, 0, 0, 1].into()), RouterId::new([10, 9, 9, 9].into()));
    let known = |world: &World| world.nodes[2].routes.contains_key(&prefix(POD));
    assert!(known(&world));
    retune(&mut world, 2, |local| local.cluster_id = here);
    assert!(!known(&world), "it passed our cluster");
    retune(&mut world, 0, |local| local.cluster_id = there);
    world.run(secs(1));
    assert!(known(&world), "it passes another one now");
    retune(&mut world, 2, |local| local.cluster_id = there);
    assert!(!known(&world), "which is ours as well");
    retune(&mut world, 2, |local| local.cluster_id = None);
    assert!(known(&world));
    let resets = world.nodes.iter().flat_map(|node| &node.events).filter(|(when, _)| *when > secs(20));
    assert_eq!(resets.count(), 0);
}

#[test]
fn a_shorter_wait_for_the_first_exchange_ends_it_sooner() {
    for (settle, expected) in [(10, 10), (4, 4), (1, 2)] {
        let mut world = pair();
        world.cut(0, 1);
        world.run(secs(2));
        retune(&mut world, 0, |local| local.settle = secs(settle));
        world.run(secs(30));
        assert_eq!(world.nodes[0].settled, Some(secs(expected)), "{settle}");
    }
}

#[test]
fn an_identity_is_for_life() {
    let mut world = pair();
    world.originate(1, &[POD]);
    world.run(secs(20));
    world.forget_events();
    retune(&mut world, 0, |local| {
        *local = Local {
            restarting: true,
            ..Local::new(Asn(65000), RouterId::new([9, 9, 9, 9].into()).expect("not zero"))
        };
    });
    world.run(secs(20));
    assert!(undisturbed(&world, 0) && undisturbed(&world, 1));
}

#[test]
fn who_comes_back_as_another_keeps_its_routes_at_peers_that_agreed_to_restarts() {
    for graceful in [true, false] {
        let mut world = World::new();
        world.add(64512);
        world.add(65000);
        world.peer_with(0, 1, |_, config| {
            config.graceful_restart = config.graceful_restart.filter(|_| graceful)
        });
        world.originate(0, &[POD]);
        world.run(secs(20));
        world.forget_events();
        world.stop(0, StopReason::Change);
        world.run(secs(1));
        assert_eq!(world.nodes[1].routes.contains_key(&prefix(POD)), graceful);
        assert_eq!(world.notifications_received(1), [(6, 6)]);
        world.nodes[0].local.router_id = RouterId::new([10, 7, 7, 7].into()).expect("not zero");
        world.start(0, true);
        world.originate(0, &[POD]);
        world.run(secs(60));
        assert!(world.is_up(0, 1));
        assert_eq!(world.nodes[1].lost.is_empty(), graceful, "{:?}", world.nodes[1].lost);
        assert!(world.nodes[1].routes.contains_key(&prefix(POD)));
    }
}
