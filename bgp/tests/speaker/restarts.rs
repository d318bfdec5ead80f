//! Graceful restart in both roles (RFC 4724, RFC 8538), settling after a start, and saying goodbye.

use std::net::IpAddr;
use std::time::Duration;

use manx_bgp::{Event, StopReason};

use crate::world::{World, address, name, pair, prefix, secs};

const BLOCK: &str = "10.244.0.0/26";
const OTHER: &str = "10.244.0.64/26";

/// A pair where host 0 has told two routes.
fn told() -> World {
    let mut world = pair();
    world.originate(0, &[BLOCK, OTHER]);
    world.originate(1, &["0.0.0.0/0"]);
    world.run(secs(5));
    assert_eq!(world.nodes[1].routes.len(), 2);
    world.forget_events();
    world
}

fn gone(world: &World, host: usize, text: &str) -> bool {
    !world.nodes[host].routes.contains_key(&prefix(text))
}

/// Runs and makes sure that a route was there all the time.
fn run_keeping(world: &mut World, time: Duration, host: usize, text: &str) {
    world.nodes[host].lost.clear();
    world.run(time);
    assert!(!world.nodes[host].lost.contains(&prefix(text)), "{text} was lost for a while");
    assert!(!gone(world, host, text));
}

#[test]
fn a_restart_loses_no_route_and_forgets_what_is_not_said_again() {
    let mut world = told();
    world.stop(0, StopReason::Restart);
    run_keeping(&mut world, secs(20), 1, BLOCK);
    assert!(!gone(&world, 1, OTHER));
    world.start(0, true);
    world.originate(0, &[BLOCK]);
    run_keeping(&mut world, secs(60), 1, BLOCK);
    assert!(world.is_up(0, 1));
    assert!(gone(&world, 1, OTHER), "End-of-RIB removes what was not confirmed");
    assert_eq!(world.notifications_received(1), []);
    assert_eq!(world.hops(0, "0.0.0.0/0"), [address(1)]);
}

#[test]
fn a_crash_counts_as_a_restart() {
    let mut world = told();
    world.crash(0, true);
    run_keeping(&mut world, secs(100), 1, BLOCK);
    world.start(0, true);
    world.originate(0, &[BLOCK, OTHER]);
    run_keeping(&mut world, secs(60), 1, OTHER);
}

#[test]
fn routes_go_when_the_restart_time_is_over() {
    let mut world = told();
    world.stop(0, StopReason::Restart);
    run_keeping(&mut world, secs(119), 1, BLOCK);
    world.run(secs(2));
    assert!(gone(&world, 1, BLOCK) && gone(&world, 1, OTHER));
    let expired = Event::RoutesExpired { peer: name(0), count: 2 };
    assert!(world.nodes[1].events.iter().any(|(_, event)| *event == expired));
}

#[test]
fn a_peer_that_comes_back_without_its_forwarding_state_loses_its_old_routes_at_once() {
    let mut world = told();
    world.stop(0, StopReason::Restart);
    world.run(secs(2));
    world.start(0, false);
    world.run(secs(40));
    assert!(world.is_up(0, 1));
    assert!(gone(&world, 1, BLOCK));
}

#[test]
fn a_node_that_leaves_takes_its_routes_along_at_once() {
    let mut world = told();
    world.stop(0, StopReason::Leave { communication: "drained for repair".to_owned() });
    world.run(secs(1));
    assert!(gone(&world, 1, BLOCK));
    let text = world.nodes[1].events.iter().find_map(|(_, event)| match event {
        Event::NotificationReceived { text, .. } => Some(text.clone()),
        _ => None,
    });
    assert_eq!(text.as_deref(), Some("Cease/Hard Reset: Cease/Administrative Shutdown: drained for repair"));
    assert!(world.nodes[0].speaker.deadline().is_none());
}

#[test]
fn without_graceful_restart_a_lost_session_loses_its_routes() {
    let mut world = told();
    world.reconfigure(1, 0, |peer| peer.graceful_restart = None);
    world.run(secs(5));
    world.stop(0, StopReason::Restart);
    world.run(secs(1));
    assert!(gone(&world, 1, BLOCK));
}

#[test]
fn an_expired_hold_timer_keeps_the_routes_for_the_restart_time() {
    let mut world = told();
    world.cut(0, 1);
    world.run(secs(95));
    assert_eq!(world.notifications_sent(1), [(4, 0)]);
    assert!(!gone(&world, 1, BLOCK));
    world.mend(0, 1);
    run_keeping(&mut world, secs(60), 1, BLOCK);
    assert!(world.is_up(0, 1));
    assert_eq!(
        world.nodes[1].speaker.snapshot(world.now).peers[0].families.values().map(|f| f.stale).sum::<u32>(),
        0
    );
}

#[test]
fn an_administrative_reset_keeps_routes_flowing() {
    let mut world = told();
    world.input(0, manx_bgp::Input::Reset { peer: name(1) });
    run_keeping(&mut world, secs(60), 1, BLOCK);
    assert!(world.is_up(0, 1));
    assert_eq!(world.notifications_received(1), [(6, 4)]);
}

#[test]
fn a_peer_that_vanished_and_dials_again_replaces_its_old_session() {
    let mut world = told();
    // The host loses power: nobody says goodbye, and it is back long before the hold time is over.
    world.crash(0, false);
    world.run(secs(5));
    world.start(0, true);
    world.originate(0, &[BLOCK]);
    run_keeping(&mut world, secs(20), 1, BLOCK);
    assert!(world.is_up(0, 1));
    assert!(gone(&world, 1, OTHER));
}

#[test]
fn a_second_loss_before_the_first_is_confirmed_drops_what_was_stale() {
    let mut world = told();
    world.crash(0, true);
    world.run(secs(2));
    world.start(0, true);
    world.originate(0, &[BLOCK]);
    // Up, but End-of-RIB is held back until the restarted speaker has settled.
    world.nodes[0].local.settle = secs(3600);
    world.run(secs(4));
    world.crash(0, true);
    world.run(secs(1));
    assert!(!gone(&world, 1, BLOCK));
}

#[test]
fn a_removed_peer_is_told_and_its_routes_go() {
    let mut world = told();
    world.nodes[1].peers.clear();
    world.declare(1);
    world.run(secs(1));
    assert_eq!(world.nodes[1].routes.len(), 0);
    assert_eq!(world.notifications_sent(1), [(6, 3)]);
    assert_eq!(world.nodes[1].speaker.snapshot(world.now).peers.len(), 0);
    assert!(gone(&world, 0, "0.0.0.0/0"), "a removal is no restart");
    world.nodes[1].peers = [(name(0), crate::world::open_peer(1, 0, world.nodes[0].local.asn))].into();
    world.declare(1);
    world.run(secs(40));
    assert!(world.is_up(0, 1));
    assert_eq!(world.hops(1, BLOCK), [address(0)]);
}

#[test]
fn a_changed_parameter_resets_only_the_session_it_belongs_to() {
    let mut world = World::new();
    for asn in [64512, 65001, 65002] {
        world.add(asn);
    }
    world.peer(0, 1);
    world.peer(0, 2);
    world.originate(1, &["10.1.0.0/24"]);
    world.run(secs(5));
    world.forget_events();
    world.reconfigure(0, 1, |peer| peer.hold_time = manx_bgp::HoldTime::new(30).unwrap());
    world.run(secs(10));
    assert_eq!(world.notifications_sent(0), [(6, 6)]);
    assert!(world.is_up(0, 1));
    assert_eq!(world.states(0, 2), []);
    assert_eq!(world.hops(0, "10.1.0.0/24"), [address(1)]);
}

#[test]
fn a_restarted_speaker_puts_off_end_of_rib_until_it_knows_what_it_reflects() {
    let mut world = told();
    world.crash(1, true);
    world.forget_events();
    world.nodes[0].peers.insert(name(1), crate::world::open_peer(0, 1, manx_bgp::Asn(65000)));
    // A second peer never answers, so host 1 settles only when its time is over.
    world.add(65009);
    world.crash(2, true);
    world.nodes[1].peers.insert(name(2), crate::world::open_peer(1, 2, manx_bgp::Asn(65009)));
    world.start(1, true);
    world.originate(1, &["0.0.0.0/0"]);
    let ended = |world: &World| {
        world.nodes[0].events.iter().any(|(_, event)| matches!(event, Event::EndOfRib { .. }))
    };
    world.run(secs(9));
    assert!(world.is_up(0, 1));
    assert!(!ended(&world));
    world.run(secs(2));
    assert!(ended(&world));
}

#[test]
fn settled_comes_when_all_peers_have_told_everything() {
    let world = told();
    let settled = world.nodes[0].settled.unwrap();
    assert!(settled >= secs(2) && settled < secs(4), "settled after {settled:?}");
}

#[test]
fn settled_does_not_wait_for_the_dead_longer_than_the_window() {
    let mut world = World::new();
    for asn in [64512, 65001, 65002] {
        world.add(asn);
    }
    world.crash(2, true);
    world.peer(0, 1);
    let dead = crate::world::open_peer(0, 2, manx_bgp::Asn(65002));
    world.nodes[0].peers.insert(name(2), dead);
    world.declare(0);
    world.run(secs(9));
    assert_eq!(world.nodes[0].settled, None);
    world.run(secs(2));
    assert_eq!(world.nodes[0].settled, Some(secs(10)));
}

#[test]
fn without_peers_a_speaker_settles_once_it_was_told_so() {
    let mut world = World::new();
    world.add(64512);
    world.run(secs(60));
    assert_eq!(world.nodes[0].settled, None, "nobody has declared the peers yet");
    world.declare(0);
    world.run(secs(3));
    assert_eq!(world.nodes[0].settled, Some(secs(62)));
}

#[test]
fn routes_come_before_settled() {
    let mut world = told();
    world.crash(1, true);
    world.start(1, true);
    world.run(secs(20));
    assert_eq!(world.nodes[1].routes_when_settled, 2);
}

#[test]
fn all_hosts_restarting_at_once_lose_nothing_and_settle() {
    let mut world = World::new();
    (0..6).for_each(|_| _ = world.add(64512));
    for a in 0..6 {
        (0..a).for_each(|b| world.peer(a, b));
    }
    let block = |host: usize| format!("10.244.{host}.0/26");
    (0..6).for_each(|host| world.originate(host, &[&block(host)]));
    world.run(secs(10));
    (0..6).for_each(|host| world.crash(host, true));
    world.run(secs(1));
    (0..6).for_each(|host| {
        world.start(host, true);
        world.originate(host, &[&block(host)]);
    });
    world.run(secs(30));
    for host in 0..6 {
        assert_eq!(world.nodes[host].routes.len(), 5);
        assert!(world.nodes[host].settled.is_some());
    }
    assert_eq!(world.hops(0, &block(0)), [] as [IpAddr; 0]);
}
