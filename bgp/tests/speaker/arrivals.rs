//! Accepted connections: whose they are, peers from a range, and those that come before they are declared.

use std::net::SocketAddr;
use std::time::Duration;

use manx_bgp::wire::Message;
use manx_bgp::{Asn, ConnId, Dial, Event, Input, PeerConfig, PeerId, PeerState, RemoteAs};

use crate::script::{PEER_ASN, Script, open, passive, restartable};
use crate::world::secs;

const HERE: &str = "10.0.0.1:179";

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("valid in this test")
}

fn accept(script: &mut Script, conn: u64, remote: &str) -> Vec<String> {
    let (local, remote) = (socket(HERE), socket(remote));
    script.input(Input::Accepted { conn: ConnId(conn), local, remote })
}

fn range(prefix: &str, limit: u32) -> impl Fn(&mut PeerConfig) {
    let prefix = prefix.parse().expect("valid in this test");
    move |config| {
        config.target = Dial::Range { prefix, limit };
        config.asn = RemoteAs::External;
    }
}

fn declare(script: &mut Script, peers: &[(&str, PeerConfig)]) -> Vec<String> {
    let peers = peers.iter().map(|(name, config)| (PeerId::from(*name), config.clone())).collect();
    script.input(Input::SetPeers(peers))
}

fn config(change: impl Fn(&mut PeerConfig)) -> PeerConfig {
    let mut config = crate::script::config();
    change(&mut config);
    config
}

fn names(script: &Script) -> Vec<String> {
    script.speaker.peers(script.now).into_iter().map(|peer| peer.peer.to_string()).collect()
}

#[test]
fn an_accepted_connection_finds_its_peer_by_address_and_then_by_the_narrowest_range() {
    let mut script = Script::empty();
    let wide = config(range("10.0.0.0/8", 9));
    let narrow = config(range("10.1.0.0/16", 9));
    let one = config(|config| config.target = passive(config.target));
    declare(&mut script, &[("all", wide), ("rack", narrow), ("one", one)]);
    assert_eq!(accept(&mut script, 1, "10.0.0.2:50000"), ["adopt 1 one", "OpenSent", "OPEN"]);
    let said = accept(&mut script, 2, "10.1.2.3:50000");
    assert_eq!(said, ["Active", "adopt 2 rack/10.1.2.3", "OpenSent", "OPEN"]);
    let said = accept(&mut script, 3, "[::ffff:10.2.2.3]:50000");
    assert_eq!(said[1], "adopt 3 all/10.2.2.3");
    assert_eq!(names(&script), ["all/10.2.2.3", "one", "rack/10.1.2.3"]);
    let status = script.speaker.peers(script.now);
    assert_eq!(status[0].range, Some(PeerId::from("all")));
    assert_eq!(status[1].range, None);
}

#[test]
fn link_local_peers_of_different_links_are_different_peers() {
    let mut script = Script::empty();
    let on = |link: &str| {
        let target = socket(&format!("[fe80::1%{link}]:179"));
        config(move |config| (config.target, config.source) = (Dial::Passive(target), None))
    };
    declare(&mut script, &[("left", on("1")), ("right", on("2"))]);
    let local = socket("[fe80::9%2]:179");
    let mut from = |conn, remote: &str| {
        script.input(Input::Accepted { conn: ConnId(conn), local, remote: socket(remote) })[0].clone()
    };
    assert_eq!(from(1, "[fe80::1%2]:5"), "adopt 1 right");
    assert_eq!(from(2, "[fe80::1%1]:5"), "adopt 2 left");
}

#[test]
fn a_peer_from_a_range_speaks_and_is_gone_with_its_session() {
    let mut script = Script::empty();
    declare(&mut script, &[("rack", config(range("10.0.0.0/24", 2)))]);
    accept(&mut script, 1, "10.0.0.7:50000");
    script.say(1, &Message::Open(open(PEER_ASN)));
    script.say(1, &Message::Keepalive);
    let status = script.speaker.peers(script.now);
    assert_eq!((status[0].state, status[0].asn), (PeerState::Established, Some(PEER_ASN)));
    // The template changes, and the session goes on.
    declare(&mut script, &[("rack", config(range("10.0.0.0/16", 2)))]);
    assert_eq!(names(&script), ["rack/10.0.0.7"]);
    let said = script.input(Input::Closed { conn: ConnId(1) });
    assert_eq!(said.last().map(String::as_str), Some("vanished"), "{said:?}");
    assert_eq!(names(&script), [] as [&str; 0]);
}

#[test]
fn a_peer_from_a_range_stays_as_long_as_its_routes_are_kept() {
    let mut script = Script::empty();
    declare(&mut script, &[("rack", config(range("10.0.0.0/24", 2)))]);
    accept(&mut script, 1, "10.0.0.7:50000");
    script.say(1, &Message::Open(restartable(PEER_ASN, false)));
    script.say(1, &Message::Keepalive);
    script.announce(1, "10.9.0.0/16", PEER_ASN);
    assert!(script.input(Input::Closed { conn: ConnId(1) }).contains(&"keep 1".to_owned()));
    script.wait(secs(50));
    assert_eq!(names(&script), ["rack/10.0.0.7"]);
    // It comes back as the same peer.
    assert_eq!(accept(&mut script, 2, "10.0.0.7:50001")[0], "adopt 2 rack/10.0.0.7");
    script.input(Input::Closed { conn: ConnId(2) });
    script.wait(secs(70));
    assert_eq!(names(&script), [] as [&str; 0]);
}

#[test]
fn a_range_takes_no_more_peers_than_it_may_and_gives_up_those_that_it_no_longer_covers() {
    let mut script = Script::empty();
    declare(&mut script, &[("rack", config(range("10.0.0.0/24", 2)))]);
    accept(&mut script, 1, "10.0.0.7:50000");
    accept(&mut script, 2, "10.0.0.8:50000");
    assert_eq!(accept(&mut script, 3, "10.0.0.9:50000"), ["close 3"]);
    let said = declare(&mut script, &[("rack", config(range("10.0.0.8/30", 2)))]);
    assert!(said.contains(&"close 1".to_owned()) && !said.contains(&"close 2".to_owned()), "{said:?}");
    assert_eq!(names(&script), ["rack/10.0.0.8"]);
    // A reset of the range is one of all its peers.
    assert!(script.input(Input::Reset { peer: "rack".into() }).contains(&"close 2".to_owned()));
}

#[test]
fn who_misbehaves_in_a_range_is_held_off_like_any_peer() {
    let mut script = Script::empty();
    declare(&mut script, &[("rack", config(range("10.0.0.0/24", 2)))]);
    accept(&mut script, 1, "10.0.0.7:50000");
    script.input(Input::Received { conn: ConnId(1), bytes: &[0; 19] });
    assert_eq!(accept(&mut script, 2, "10.0.0.7:50001"), ["adopt 2 rack/10.0.0.7", "close 2"]);
    script.wait(secs(2));
    assert_eq!(names(&script), [] as [&str; 0]);
}

#[test]
fn whoever_comes_early_waits_unread_until_it_is_declared() {
    let mut script = Script::empty();
    assert_eq!(accept(&mut script, 1, "10.0.0.2:50000"), [] as [&str; 0]);
    script.wait(secs(29));
    let said = declare(&mut script, &[("one", config(|_| {}))]);
    assert_eq!(said[2..4], ["adopt 1 one", "OpenSent"], "{said:?}");
}

#[test]
fn whoever_is_never_declared_is_closed_after_half_a_minute() {
    let mut script = Script::empty();
    accept(&mut script, 1, "10.0.0.2:50000");
    assert_eq!(script.wait(Duration::from_millis(29_900)), [] as [&str; 0]);
    assert_eq!(script.wait(Duration::from_millis(200)), ["close 1"]);
    // One that has gone by itself is forgotten.
    accept(&mut script, 2, "10.0.0.2:50000");
    script.input(Input::Closed { conn: ConnId(2) });
    assert_eq!(script.wait(secs(60)), [] as [&str; 0]);
}

#[test]
fn the_number_of_those_that_wait_is_bounded_in_all_and_for_each_address() {
    let mut script = Script::empty();
    let mut conn = 0;
    let mut knock = |script: &mut Script, host: u8| {
        conn += 1;
        accept(script, conn, &format!("10.0.0.{host}:50000")).is_empty()
    };
    let of_one = (0..10).filter(|_| knock(&mut script, 1)).count();
    assert_eq!(of_one, 3);
    let more = (2..200).filter(|host| knock(&mut script, *host)).count();
    assert_eq!(of_one + more, 64);
}

#[test]
fn the_system_of_a_peer_may_be_told_by_its_kind_only() {
    let rows: [(RemoteAs, Asn, bool); 6] = [
        (RemoteAs::External, PEER_ASN, true),
        (RemoteAs::External, Asn(4_200_000_000), true),
        (RemoteAs::External, crate::script::ASN, false),
        (RemoteAs::Internal, crate::script::ASN, true),
        (RemoteAs::Internal, PEER_ASN, false),
        (RemoteAs::Exactly(PEER_ASN), Asn(1), false),
    ];
    for (wanted, theirs, good) in rows {
        let mut script = Script::new(|config| config.asn = wanted);
        script.connect(1, manx_bgp::Direction::Active);
        let said = script.say(1, &Message::Open(open(theirs)));
        let expected = if good { "OpenConfirm" } else { "NOTIFICATION 2/2" };
        assert_eq!(said[0], expected, "{wanted:?} and {theirs}");
        script.say(1, &Message::Keepalive);
        let known = script.speaker.peers(script.now)[0].asn;
        assert_eq!(known.is_some_and(|asn| asn == theirs), good, "{wanted:?} and {theirs}");
    }
}

#[test]
fn a_refused_connection_is_told() {
    let mut script = Script::empty();
    for conn in 1..=4 {
        accept(&mut script, conn, "10.0.0.2:50000");
    }
    let refused = script.events.iter().filter(|event| matches!(event, Event::ConnectionRefused { .. }));
    assert_eq!(refused.count(), 1);
}
