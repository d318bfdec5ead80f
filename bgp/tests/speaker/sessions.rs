//! Sessions come up, stay up, end and come back.

use std::net::IpAddr;
use std::time::Duration;

use manx_bgp::PeerState;

use crate::world::{address, pair, secs, v6_address};

#[test]
fn two_speakers_come_up_and_tell_each_other_their_routes_of_both_families() {
    let mut world = pair();
    world.originate(0, &["10.244.0.0/26", "fd00:10:244::/122"]);
    world.originate(1, &["0.0.0.0/0"]);
    world.run(secs(1));
    assert!(world.is_up(0, 1));
    assert_eq!(world.hops(1, "10.244.0.0/26"), [address(0)]);
    assert_eq!(world.hops(1, "fd00:10:244::/122"), [v6_address(0)]);
    assert_eq!(world.hops(0, "0.0.0.0/0"), [address(1)]);
    world.originate(0, &["fd00:10:244::/122"]);
    world.run(secs(1));
    assert_eq!(world.hops(1, "10.244.0.0/26"), [] as [IpAddr; 0]);
    assert_eq!(world.hops(1, "fd00:10:244::/122"), [v6_address(0)]);
}

#[test]
fn a_virtual_year_of_an_idle_session_is_quiet() {
    let mut world = pair();
    world.originate(0, &["10.244.0.0/26"]);
    world.run(secs(10));
    world.forget_events();
    world.run(Duration::from_secs(365 * 24 * 3600));
    assert!(world.is_up(0, 1));
    assert_eq!(world.nodes[0].events, []);
    assert_eq!(world.nodes[1].events, []);
}

#[test]
fn silence_for_the_hold_time_tears_the_session_down_on_both_sides() {
    let mut world = pair();
    world.run(secs(5));
    world.forget_events();
    world.cut(0, 1);
    world.run(secs(61));
    assert!(world.is_up(0, 1));
    world.run(secs(30));
    assert_ne!(world.state(0, 1), PeerState::Established);
    assert_ne!(world.state(1, 0), PeerState::Established);
    assert_eq!((world.notifications_sent(0), world.notifications_sent(1)), (vec![(4, 0)], vec![(4, 0)]));
    world.mend(0, 1);
    world.run(secs(60));
    assert!(world.is_up(0, 1));
}
