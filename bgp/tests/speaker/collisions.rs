//! Two connections at once, in every order in which their messages can arrive (RFC 4271 §6.8).

use std::time::Duration;

use manx_bgp::wire::{ErrorCode, Message};
use manx_bgp::{ConnId, Direction, Input, PeerState};

use crate::crossing::Crossing;
use crate::others::HABITS;
use crate::script::{PEER_ASN, Script, octets, open, passive, peer, restartable};
use crate::world::{World, secs};

/// Between speakers that follow the same rules all waits are over by then.
const OURS: Duration = Duration::from_millis(250);
/// With any speaker they are.
const ANY: Duration = Duration::from_millis(1100);

/// Walks through all orders by counting in the mixed radix of the choices; returns how many there were.
fn every_order(limit: usize, mut visit: impl FnMut(&Crossing, &[usize]), asns: [u32; 2]) -> usize {
    let mut choices: Vec<(usize, usize)> = Vec::new();
    for round in 0.. {
        let mut crossing = Crossing::new(asns);
        let mut depth = 0;
        while !crossing.ready().is_empty() || crossing.wait(OURS) {
            let radix = crossing.ready().len();
            if radix == 0 {
                continue;
            }
            if depth == choices.len() {
                choices.push((0, radix));
            }
            let end = crossing.ready()[choices[depth].0];
            crossing.deliver(end);
            depth += 1;
        }
        choices.truncate(depth);
        visit(&crossing, &choices.iter().map(|(choice, _)| *choice).collect::<Vec<_>>());
        while choices.last().is_some_and(|(choice, radix)| choice + 1 == *radix) {
            choices.pop();
        }
        match choices.last_mut() {
            Some((choice, _)) if round < limit => *choice += 1,
            _ => return round + 1,
        }
    }
    0
}

#[test]
fn in_every_order_exactly_one_connection_survives_on_both_sides() {
    for asns in [[64512, 64512], [64512, 65000], [65000, 64512]] {
        let orders = every_order(
            30_000,
            |crossing, order| {
                assert_eq!(crossing.established(), [true, true], "order {order:?}");
            },
            asns,
        );
        assert!(orders > 1000, "only {orders} orders");
    }
}

/// Delivers everything in random orders, and lets time pass when nothing is left.
fn in_random_orders(most: Duration, new: impl Fn() -> Crossing, mut visit: impl FnMut(usize, &Crossing)) {
    let mut dice = 1_u64;
    for round in 0..5000 {
        let mut crossing = new();
        loop {
            let ready = crossing.ready();
            if ready.is_empty() {
                if crossing.wait(most) {
                    continue;
                }
                break;
            }
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            crossing.deliver(ready[(dice >> 33) as usize % ready.len()]);
        }
        visit(round, &crossing);
    }
}

#[test]
fn in_random_orders_too_and_none_of_them_costs_a_session_that_was_up() {
    in_random_orders(
        OURS,
        || Crossing::new([64512, 65000]),
        |round, crossing| {
            assert_eq!((crossing.established(), crossing.lost()), ([true, true], 0), "round {round}");
        },
    );
}

#[test]
fn no_other_speaker_loses_a_session_that_was_up_either_whatever_the_order() {
    for ((name, habits), place) in HABITS.into_iter().flat_map(|one| [(one, 0), (one, 1)]) {
        in_random_orders(
            ANY,
            || Crossing::with(habits, place),
            |round, crossing| {
                let ended = (crossing.established(), crossing.lost());
                assert_eq!(ended, ([true, true], 0), "{name} at {place}, round {round}");
            },
        );
    }
}

#[test]
fn speakers_that_start_together_agree_whatever_the_latency() {
    for step in 0..200 {
        let mut world = World::with_seed(step as u8);
        world.latency = Duration::from_micros(37 * step);
        world.add(64512);
        world.add(64512);
        world.peer(0, 1);
        world.run(secs(10));
        assert!(world.is_up(0, 1), "latency {:?}", world.latency);
        let ups = world.states(0, 1).iter().filter(|state| **state == PeerState::Established).count();
        assert_eq!(ups, 1, "latency {:?}: {:?}", world.latency, world.states(0, 1));
    }
}

/// Both have dialled, and the peer, whose identifier is the higher, has sent its OPEN on our connection 1.
fn yielding() -> Script {
    let mut script = Script::new(|_| {});
    script.connect(1, Direction::Active);
    script.connect(2, Direction::Passive);
    assert_eq!(script.say(1, &Message::Open(open(PEER_ASN))), ["OpenConfirm"], "without a KEEPALIVE");
    script
}

#[test]
fn a_connection_that_will_lose_is_not_confirmed_and_goes_before_it_was_up() {
    let mut script = yielding();
    assert!(script.say(1, &Message::Keepalive).is_empty());
    let said = script.say(2, &Message::Open(open(PEER_ASN)));
    assert_eq!(said, ["NOTIFICATION 6/7", "close 1", "OpenSent", "OpenConfirm", "KEEPALIVE"]);
    script.say(2, &Message::Keepalive);
    assert_eq!(script.state(), "Established");
}

#[test]
fn a_connection_goes_on_when_nothing_comes_on_the_one_that_went_before_it() {
    let mut script = yielding();
    script.say(1, &Message::Keepalive);
    let said = script.wait(secs(2));
    assert_eq!(said[..2], ["NOTIFICATION 6/7", "close 2"], "nothing that is said on it may decide now");
    assert_eq!(said.iter().filter(|word| *word == "KEEPALIVE").count(), 1, "{said:?}");
    assert_eq!(script.state(), "Established");
}

#[test]
fn a_connection_goes_on_at_once_when_the_one_that_went_before_it_is_closed() {
    let mut script = yielding();
    let said = script.input(Input::Closed { conn: ConnId(2) });
    assert!(said.iter().any(|word| word == "KEEPALIVE"), "{said:?}");
    assert_eq!(script.state(), "OpenConfirm");
    script.say(1, &Message::Keepalive);
    assert_eq!(script.state(), "Established");
}

/// The peer, whose identifier is the higher, has connected after our connection 1 was confirmed, and sent its OPEN.
fn holding() -> Script {
    let mut script = Script::new(|_| {});
    script.connect(1, Direction::Active);
    assert_eq!(script.say(1, &Message::Open(open(PEER_ASN))), ["OpenConfirm", "KEEPALIVE"]);
    assert!(script.connect(2, Direction::Passive).is_empty(), "it might decide by an OPEN");
    assert!(script.say(2, &Message::Open(open(PEER_ASN))).is_empty());
    script
}

#[test]
fn a_connection_that_comes_after_another_was_confirmed_goes_when_the_peer_confirms_that_too() {
    let mut script = holding();
    let said = script.say(1, &Message::Keepalive);
    assert_eq!(said[..2], ["NOTIFICATION 6/7", "close 2"], "{said:?}");
    assert_eq!(script.state(), "Established");
}

#[test]
fn a_connection_that_comes_after_another_was_confirmed_takes_its_place_when_the_peer_closes_that() {
    let mut script = holding();
    let collision = Message::Notification(ErrorCode::COLLISION.into());
    assert_eq!(script.say(1, &collision)[1..], ["OPEN", "KEEPALIVE"]);
    script.say(2, &Message::Keepalive);
    assert_eq!(script.state(), "Established");
}

#[test]
fn a_connection_that_comes_after_another_was_confirmed_does_not_wait_for_long() {
    let mut script = holding();
    assert_eq!(script.wait(Duration::from_millis(201)), ["NOTIFICATION 6/7", "close 2"]);
    assert_eq!(script.state(), "OpenConfirm");
}

#[test]
fn a_connection_that_comes_just_after_a_session_is_refused_even_with_the_higher_identifier() {
    let mut script = Script::new(|_| {});
    script.establish(restartable(PEER_ASN, false));
    script.wait(Duration::from_millis(900));
    assert_eq!(script.connect(2, Direction::Passive), ["close 2"]);
    script.wait(Duration::from_millis(200));
    assert_eq!(script.connect(3, Direction::Passive), ["OPEN"], "later it may be the peer's return");
}

/// The peer, which may take a second connection for our restart, has come while we dial it.
fn dialling() -> Script {
    let mut script = Script::new(|_| {});
    script.connect(1, Direction::Passive);
    let said = script.say(1, &Message::Open(restartable(PEER_ASN, false)));
    assert_eq!(said, ["OpenConfirm"], "without a KEEPALIVE");
    assert!(script.say(1, &Message::Keepalive).is_empty());
    script
}

#[test]
fn a_peer_that_would_take_our_dial_for_a_restart_sees_no_session_before_the_dial_is_over() {
    let mut script = dialling();
    let said = script.input(Input::ConnectFailed { peer: peer() });
    assert!(said.contains(&"KEEPALIVE".to_owned()), "{said:?}");
    assert_eq!(script.state(), "Established");

    let mut script = dialling();
    let said = script.wait(Duration::from_millis(1001));
    assert!(said[0] == "give up" && said.contains(&"KEEPALIVE".to_owned()), "{said:?}");
    assert_eq!(script.state(), "Established");
    assert_eq!(script.connect(2, Direction::Active), ["close 2"], "it was made at the last moment");

    let mut script = dialling();
    assert_eq!(script.connect(2, Direction::Active), ["OPEN"]);
    let said = script.say(2, &Message::Open(restartable(PEER_ASN, false)));
    assert_eq!(said[..3], ["NOTIFICATION 6/7", "close 2", "Established"], "{said:?}");
}

#[test]
fn a_late_second_connection_does_not_disturb_a_session_without_graceful_restart() {
    let mut script = Script::new(|_| {});
    script.establish(open(PEER_ASN));
    script.wait(secs(5));
    assert_eq!(script.connect(2, Direction::Passive), ["OPEN"]);
    let said = script.say(2, &Message::Open(open(PEER_ASN)));
    assert_eq!(said, ["NOTIFICATION 6/7", "close 2", "KEEPALIVE"], "the old session is probed");
    assert_eq!(script.state(), "Established");
}

#[test]
fn a_late_second_connection_of_a_peer_with_graceful_restart_replaces_the_session() {
    let mut script = Script::new(|_| {});
    script.establish(restartable(PEER_ASN, false));
    script.wait(secs(5));
    script.connect(2, Direction::Passive);
    let said = script.say(2, &Message::Open(restartable(PEER_ASN, true)));
    assert_eq!(said, ["close 1", "OpenSent", "OpenConfirm", "KEEPALIVE"]);
    let said = script.say(2, &Message::Keepalive);
    assert_eq!(said, ["Established", "END ipv4-unicast", "END ipv6-unicast"]);
}

#[test]
fn an_open_that_is_no_good_does_not_replace_a_session() {
    let mut script = Script::new(|_| {});
    script.establish(restartable(PEER_ASN, false));
    script.wait(secs(5));
    script.connect(2, Direction::Passive);
    let said = script.say(2, &Message::Open(restartable(manx_bgp::Asn(1), true)));
    assert_eq!(said, ["NOTIFICATION 2/2", "close 2"]);
    assert_eq!(script.state(), "Established");
}

#[test]
fn the_newest_of_two_connections_that_the_peer_dialled_is_the_live_one() {
    let mut script = Script::new(|config| config.target = passive(config.target));
    script.connect(1, Direction::Passive);
    assert_eq!(
        script.connect(2, Direction::Passive),
        ["NOTIFICATION 6/7", "close 1", "Active", "OpenSent", "OPEN"]
    );
    script.say(2, &Message::Open(open(PEER_ASN)));
    script.say(2, &Message::Keepalive);
    assert_eq!(script.state(), "Established");
}

#[test]
fn who_dials_again_has_lost_the_session_that_it_dialled_and_gets_another_at_once() {
    let mut script = Script::new(|config| config.target = passive(config.target));
    script.connect(1, Direction::Passive);
    script.say(1, &Message::Open(restartable(PEER_ASN, false)));
    script.say(1, &Message::Keepalive);
    assert_eq!(script.connect(2, Direction::Passive), ["OPEN"]);
    let said = script.say(2, &Message::Open(restartable(PEER_ASN, true)));
    assert_eq!(said, ["close 1", "OpenSent", "OpenConfirm", "KEEPALIVE"]);
}

#[test]
fn a_peer_that_connects_in_a_storm_is_throttled() {
    let mut script = Script::new(|_| {});
    let mut taken = 0;
    for conn in 0..1000 {
        let said = script.connect(conn, Direction::Passive);
        taken += usize::from(said.contains(&"OPEN".to_owned()));
        script.input(Input::Closed { conn: ConnId(conn) });
        script.wait(Duration::from_millis(10));
    }
    assert!(taken <= 25, "{taken} connections were taken in ten seconds");
    script.wait(secs(30));
    script.connect(1001, Direction::Passive);
    script.say(1001, &Message::Open(open(PEER_ASN)));
    script.say(1001, &Message::Keepalive);
    assert_eq!(script.state(), "Established", "an honest attempt later succeeds");
    assert!(octets(&Message::Keepalive).len() == 19);
}

#[test]
fn a_third_connection_is_measured_against_the_session_that_is_up_not_against_one_that_still_waits() {
    let mut script = Script::new(|_| {});
    script.connect(1, Direction::Active);
    script.connect(2, Direction::Passive);
    script.say(2, &Message::Open(open(PEER_ASN)));
    script.say(2, &Message::Keepalive);
    assert_eq!(script.state(), "Established");
    script.wait(secs(5));
    script.connect(3, Direction::Passive);
    let said = script.say(3, &Message::Open(open(PEER_ASN)));
    assert_eq!(said[..2], ["NOTIFICATION 6/7", "close 3"], "{said:?}");
    assert_eq!(script.state(), "Established");
}
