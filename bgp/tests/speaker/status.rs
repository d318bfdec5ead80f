//! What status tells about a peer.

use manx_bgp::wire::{Capability, ErrorCode, Message, Notification};
use manx_bgp::{ConnId, Family, Input};

use crate::script::{PEER_ASN, Script, open};
use crate::world::secs;

fn session() -> Script {
    let mut script = Script::new(|_| {});
    script.establish(open(PEER_ASN));
    script
}

#[test]
fn messages_are_counted_by_kind_and_updates_by_family() {
    let mut script = session();
    script.announce(1, "10.8.0.0/16", PEER_ASN);
    script.say(1, &Message::EndOfRib(Family::Ipv6Unicast));
    let status = script.speaker.peers(script.now).remove(0);
    let (got, sent) = (status.messages_in, status.messages_out);
    assert_eq!((got.open, got.keepalive, got.update, got.total()), (1, 1, 2, 4));
    assert_eq!((sent.open, sent.keepalive, sent.update, sent.total()), (1, 1, 2, 4));
    for family in Family::ALL {
        let counts = status.families[&family];
        assert_eq!((counts.updates_in, counts.updates_out), (1, 1), "{family}");
    }
}

#[test]
fn both_sides_capabilities_are_shown_in_full() {
    let status = session().speaker.peers(session().now).remove(0);
    assert!(status.offered.contains(&Capability::EnhancedRouteRefresh));
    assert!(status.received.contains(&Capability::FourOctetAs(PEER_ASN)));
    assert!(status.capabilities.contains(&"route refresh"));
    assert!(!status.capabilities.contains(&"enhanced route refresh"));
}

#[test]
fn the_last_error_says_who_when_and_what_in_words() {
    let mut script = session();
    script.say(1, &Message::Notification(Notification::shutdown("back at noon")));
    script.wait(secs(5));
    let error = script.speaker.peers(script.now).remove(0).last_error.expect("there was one");
    assert!(error.by_peer);
    assert_eq!((error.ago, error.code), (secs(5), Some(ErrorCode::ADMINISTRATIVE_SHUTDOWN)));
    assert_eq!(error.to_string(), "peer: Cease/Administrative Shutdown: back at noon");
    assert_eq!(error.data[..5], *b"\x0cback");

    let mut script = session();
    script.input(Input::Received { conn: ConnId(1), bytes: &[0xff; 19] });
    let error = script.speaker.peers(script.now).remove(0).last_error.expect("there was one");
    assert!(!error.by_peer);
    assert_eq!((error.code, error.data.as_slice()), (Some(ErrorCode::BAD_LENGTH), &[0xff, 0xff][..]));

    let mut script = session();
    script.input(Input::Closed { conn: ConnId(1) });
    let error = script.speaker.peers(script.now).remove(0).last_error.expect("there was one");
    assert_eq!((error.to_string().as_str(), error.code), ("connection closed", None));
}

#[test]
fn a_second_connection_that_goes_without_a_word_is_no_error_of_the_session_that_is_up() {
    let mut script = session();
    script.connect(2, manx_bgp::Direction::Passive);
    script.input(Input::Closed { conn: ConnId(2) });
    let status = script.speaker.peers(script.now).remove(0);
    assert_eq!((status.state, status.last_error), (manx_bgp::PeerState::Established, None));
}

#[test]
fn a_peer_that_keeps_failing_is_refused_for_longer_and_longer_unless_failures_do_not_count() {
    for damping in [true, false] {
        let mut script = Script::new(|config| config.damping = damping);
        let mut waits = Vec::new();
        for conn in 1..10 {
            script.connect(conn, manx_bgp::Direction::Active);
            script.input(Input::Received { conn: ConnId(conn), bytes: &[0; 19] });
            let wait = script.speaker.peers(script.now)[0].retry_in.expect("it is tried again");
            assert_eq!(script.state(), "Idle");
            waits.push(wait);
            script.wait(wait);
        }
        let longest = waits.iter().max().expect("there are some");
        if damping {
            assert!((secs(22)..=secs(30)).contains(longest), "{waits:?}");
        } else {
            assert!(*longest <= secs(1), "{waits:?}");
        }
    }
}
