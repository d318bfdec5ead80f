//! Every state against every event (RFC 4271 §8.2.2): what is said, in full, and the state that follows.

use std::collections::BTreeMap;
use std::time::Duration;

use manx_bgp::wire::{AfiSafi, ErrorCode, Message, Notification, RefreshKind, RouteRefresh, Update};
use manx_bgp::{Asn, ConnId, Direction, Family, Input, StopReason};

use crate::script::{PEER_ASN, Script, open, peer};

/// A speaker in a state; its connection, if it has one, is number 1.
fn in_state(state: &str) -> Script {
    let mut script = Script::new(|_| {});
    match state {
        "Idle" => {
            // A peer of the wrong system has been refused and is held off.
            script.connect(1, Direction::Active);
            script.say(1, &Message::Open(open(Asn(1))));
        }
        "Connect" => {}
        "Connect, delayed" | "Active, delayed" => {
            let later = |config: &mut manx_bgp::PeerConfig| config.delay_open = Some(Duration::from_secs(5));
            script = Script::new(later);
            let direction = if state.starts_with('A') { Direction::Passive } else { Direction::Active };
            script.connect(1, direction);
        }
        "Active" => _ = script.input(Input::ConnectFailed { peer: peer() }),
        "OpenSent" => _ = script.connect(1, Direction::Active),
        "OpenConfirm" => {
            script.connect(1, Direction::Active);
            script.say(1, &Message::Open(open(PEER_ASN)));
        }
        "Established" => script.establish(open(PEER_ASN)),
        other => panic!("there is no state {other}"),
    }
    assert_eq!(script.state(), state.trim_end_matches(", delayed"));
    script
}

fn happen(script: &mut Script, event: &str) -> Vec<String> {
    let refresh = RouteRefresh { family: AfiSafi::from(Family::Ipv4Unicast), kind: RefreshKind::Request };
    match event {
        "dial succeeds" => script.connect(2, Direction::Active),
        "peer connects" => script.connect(2, Direction::Passive),
        "dial fails" => script.input(Input::ConnectFailed { peer: peer() }),
        "connection closes" => script.input(Input::Closed { conn: ConnId(1) }),
        "a second passes" => script.wait(Duration::from_millis(1001)),
        "silence" => script.wait(Duration::from_secs(90)),
        "good OPEN" => script.say(1, &Message::Open(open(PEER_ASN))),
        "OPEN of another AS" => script.say(1, &Message::Open(open(Asn(1)))),
        "KEEPALIVE" => script.say(1, &Message::Keepalive),
        "UPDATE" => script.say(1, &Message::EndOfRib(Family::Ipv4Unicast)),
        "NOTIFICATION" => {
            script.say(1, &Message::Notification(Notification::from(ErrorCode::ADMINISTRATIVE_RESET)))
        }
        "REFRESH" => script.say(1, &Message::RouteRefresh(refresh)),
        "garbage" => script.input(Input::Received { conn: ConnId(1), bytes: &[0; 19] }),
        "reset" => script.input(Input::Reset { peer: peer() }),
        "removal" => script.input(Input::SetPeers(BTreeMap::new())),
        "stop for a restart" => script.input(Input::Stop(StopReason::Restart)),
        "stop for good" => script.input(Input::Stop(StopReason::Leave { communication: String::new() })),
        other => panic!("there is no event {other}"),
    }
}

/// State, event, what is said.
#[rustfmt::skip]
const ROWS: &[(&str, &str, &str)] = &[
    // Without a connection.
    ("Idle",        "dial succeeds",      "close 2"),
    ("Idle",        "peer connects",      "close 2"),
    ("Idle",        "dial fails",         ""),
    ("Idle",        "a second passes",    "dial, Connect"),
    ("Idle",        "reset",              "Active"),
    ("Idle",        "removal",            ""),
    ("Idle",        "stop for a restart", ""),
    ("Idle",        "stop for good",      ""),

    ("Connect",     "dial succeeds",      "OpenSent, OPEN"),
    ("Connect",     "peer connects",      "OpenSent, OPEN"),
    ("Connect",     "dial fails",         "Active"),
    ("Connect",     "a second passes",    ""),
    ("Connect",     "reset",              "Active"),
    ("Connect",     "removal",            "Idle"),
    ("Connect",     "stop for a restart", "Idle"),
    ("Connect",     "stop for good",      "Idle"),

    ("Active",      "dial succeeds",      "close 2"),
    ("Active",      "peer connects",      "OpenSent, OPEN"),
    ("Active",      "dial fails",         ""),
    ("Active",      "a second passes",    "dial, Connect"),
    ("Active",      "reset",              ""),
    ("Active",      "removal",            "Idle"),
    ("Active",      "stop for a restart", "Idle"),
    ("Active",      "stop for good",      "Idle"),

    // With a connection on which our OPEN is held back for 5 s.
    ("Active, delayed", "dial succeeds",      ""),
    ("Active, delayed", "peer connects",      "NOTIFICATION 6/7, close 1, Connect, Active"),
    ("Active, delayed", "dial fails",         ""),
    ("Active, delayed", "connection closes",  "Connect"),
    ("Active, delayed", "a second passes",    ""),
    ("Active, delayed", "silence",            "OpenSent, OPEN, settled, NOTIFICATION 4/0, close 1, Connect"),
    ("Active, delayed", "good OPEN",          "OpenConfirm, OPEN, KEEPALIVE"),
    ("Active, delayed", "OPEN of another AS", "NOTIFICATION 2/2, close 1, Idle"),
    ("Active, delayed", "KEEPALIVE",          "NOTIFICATION 5/0, close 1, Idle"),
    ("Active, delayed", "UPDATE",             "NOTIFICATION 5/0, close 1, Idle"),
    ("Active, delayed", "NOTIFICATION",       "close 1, Connect"),
    ("Active, delayed", "REFRESH",            "NOTIFICATION 5/0, close 1, Idle"),
    ("Active, delayed", "garbage",            "fault: session reset, NOTIFICATION 1/1, close 1, Idle"),
    ("Active, delayed", "reset",              "NOTIFICATION 6/4, close 1, Connect, Active"),
    ("Active, delayed", "removal",            "NOTIFICATION 6/3, close 1, Idle"),
    ("Active, delayed", "stop for a restart", "close 1, Idle"),
    ("Active, delayed", "stop for good",      "NOTIFICATION 6/2, close 1, Idle"),

    ("Connect, delayed", "dial succeeds",      "close 2"),
    ("Connect, delayed", "peer connects",      "Active"),
    ("Connect, delayed", "dial fails",         ""),
    ("Connect, delayed", "connection closes",  "Active"),
    ("Connect, delayed", "a second passes",    ""),
    ("Connect, delayed", "silence",            "OpenSent, OPEN, settled, NOTIFICATION 4/0, close 1, Active, dial, Connect"),
    ("Connect, delayed", "good OPEN",          "OpenConfirm, OPEN, KEEPALIVE"),
    ("Connect, delayed", "OPEN of another AS", "NOTIFICATION 2/2, close 1, Idle"),
    ("Connect, delayed", "KEEPALIVE",          "NOTIFICATION 5/0, close 1, Idle"),
    ("Connect, delayed", "UPDATE",             "NOTIFICATION 5/0, close 1, Idle"),
    ("Connect, delayed", "NOTIFICATION",       "close 1, Active"),
    ("Connect, delayed", "REFRESH",            "NOTIFICATION 5/0, close 1, Idle"),
    ("Connect, delayed", "garbage",            "fault: session reset, NOTIFICATION 1/1, close 1, Idle"),
    ("Connect, delayed", "reset",              "NOTIFICATION 6/4, close 1, Active"),
    ("Connect, delayed", "removal",            "NOTIFICATION 6/3, close 1, Idle"),
    ("Connect, delayed", "stop for a restart", "close 1, Idle"),
    ("Connect, delayed", "stop for good",      "NOTIFICATION 6/2, close 1, Idle"),

    // With a connection.
    ("OpenSent",    "dial succeeds",      "close 2"),
    ("OpenSent",    "peer connects",      "OPEN"),
    ("OpenSent",    "dial fails",         ""),
    ("OpenSent",    "connection closes",  "Active"),
    ("OpenSent",    "a second passes",    ""),
    ("OpenSent",    "silence",            "settled, NOTIFICATION 4/0, close 1, Active, dial, Connect"),
    ("OpenSent",    "good OPEN",          "OpenConfirm, KEEPALIVE"),
    ("OpenSent",    "OPEN of another AS", "NOTIFICATION 2/2, close 1, Idle"),
    ("OpenSent",    "KEEPALIVE",          "NOTIFICATION 5/1, close 1, Idle"),
    ("OpenSent",    "UPDATE",             "NOTIFICATION 5/1, close 1, Idle"),
    ("OpenSent",    "NOTIFICATION",       "close 1, Active"),
    ("OpenSent",    "REFRESH",            "NOTIFICATION 5/1, close 1, Idle"),
    ("OpenSent",    "garbage",            "fault: session reset, NOTIFICATION 1/1, close 1, Idle"),
    ("OpenSent",    "reset",              "NOTIFICATION 6/4, close 1, Active"),
    ("OpenSent",    "removal",            "NOTIFICATION 6/3, close 1, Idle"),
    ("OpenSent",    "stop for a restart", "close 1, Idle"),
    ("OpenSent",    "stop for good",      "NOTIFICATION 6/2, close 1, Idle"),

    ("OpenConfirm", "dial succeeds",      "close 2"),
    ("OpenConfirm", "peer connects",      ""),
    ("OpenConfirm", "dial fails",         ""),
    ("OpenConfirm", "connection closes",  "Active"),
    ("OpenConfirm", "a second passes",    ""),
    ("OpenConfirm", "good OPEN",          "NOTIFICATION 5/2, close 1, Idle"),
    ("OpenConfirm", "KEEPALIVE",          "Established, END ipv4-unicast, END ipv6-unicast"),
    ("OpenConfirm", "UPDATE",             "NOTIFICATION 5/2, close 1, Idle"),
    ("OpenConfirm", "NOTIFICATION",       "close 1, Active"),
    ("OpenConfirm", "REFRESH",            "NOTIFICATION 5/2, close 1, Idle"),
    ("OpenConfirm", "garbage",            "fault: session reset, NOTIFICATION 1/1, close 1, Idle"),
    ("OpenConfirm", "reset",              "NOTIFICATION 6/4, close 1, Active"),
    ("OpenConfirm", "removal",            "NOTIFICATION 6/3, close 1, Idle"),
    ("OpenConfirm", "stop for a restart", "close 1, Idle"),
    ("OpenConfirm", "stop for good",      "NOTIFICATION 6/2, close 1, Idle"),

    ("Established", "dial succeeds",      "close 2"),
    ("Established", "peer connects",      "close 2"),
    ("Established", "dial fails",         ""),
    ("Established", "connection closes",  "Active"),
    ("Established", "a second passes",    ""),
    ("Established", "good OPEN",          "NOTIFICATION 5/3, close 1, Idle"),
    ("Established", "KEEPALIVE",          ""),
    ("Established", "UPDATE",             ""),
    ("Established", "NOTIFICATION",       "close 1, Active"),
    ("Established", "REFRESH",            ""),
    ("Established", "garbage",            "fault: session reset, NOTIFICATION 1/1, close 1, Idle"),
    ("Established", "reset",              "NOTIFICATION 6/4, close 1, Active"),
    ("Established", "removal",            "NOTIFICATION 6/3, close 1, Idle"),
    ("Established", "stop for a restart", "close 1, Idle"),
    ("Established", "stop for good",      "NOTIFICATION 6/2, close 1, Idle"),
];

/// What only a connection can bring about; once it is gone it means nothing.
const OF_A_CONNECTION: [&str; 8] = [
    "connection closes",
    "good OPEN",
    "OPEN of another AS",
    "KEEPALIVE",
    "UPDATE",
    "NOTIFICATION",
    "REFRESH",
    "garbage",
];

#[test]
fn what_comes_from_a_connection_that_is_gone_means_nothing() {
    for state in ["Idle", "Connect", "Active"] {
        for event in OF_A_CONNECTION {
            let mut script = in_state(state);
            assert_eq!(happen(&mut script, event), [] as [&str; 0], "{state}: {event}");
            assert_eq!(script.state(), state);
        }
    }
}

#[test]
fn the_table_has_every_cell() {
    for state in ["Connect, delayed", "Active, delayed", "OpenSent", "OpenConfirm", "Established"] {
        for event in OF_A_CONNECTION {
            let rows = ROWS.iter().filter(|(of, on, _)| *of == state && *on == event).count();
            let same_as_good = state.starts_with("OpenConfirm") || state == "Established";
            let same_as_good = same_as_good && event == "OPEN of another AS";
            assert!(rows == 1 || same_as_good, "{state}: {event}");
        }
    }
    let others = ROWS.iter().map(|(_, event, _)| *event).filter(|event| !OF_A_CONNECTION.contains(event));
    for event in others.filter(|event| *event != "silence").collect::<std::collections::BTreeSet<_>>() {
        assert_eq!(ROWS.iter().filter(|(_, on, _)| *on == event).count(), 8, "{event}");
    }
}

#[test]
fn every_event_in_every_state_says_exactly_what_it_should() {
    let mut wrong = Vec::new();
    for (state, event, expected) in ROWS {
        let mut script = in_state(state);
        let said = happen(&mut script, event).join(", ");
        if said != *expected {
            wrong.push(format!("{state}: {event}: said {said:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_session_that_hears_nothing_ends_after_the_hold_time_and_keeps_itself_alive_until_then() {
    for state in ["OpenConfirm", "Established"] {
        let mut script = in_state(state);
        let said = script.wait(Duration::from_secs(89));
        let alive = said.iter().filter(|word| *word == "KEEPALIVE").count();
        assert!((2..=4).contains(&alive), "{alive} keepalives in {said:?}");
        let said = script.wait(Duration::from_millis(1100));
        assert!(said.contains(&"NOTIFICATION 4/0".to_owned()), "{said:?}");
        assert_eq!(script.state(), "Active");
    }
}

#[test]
fn each_wrong_open_is_refused_with_its_own_reason() {
    let refusal = |change: fn(&mut Vec<u8>)| {
        let mut script = in_state("OpenSent");
        let mut octets = crate::script::octets(&Message::Open(open(PEER_ASN)));
        change(&mut octets);
        let said = script.input(Input::Received { conn: ConnId(1), bytes: &octets });
        said.into_iter().find(|word| word.starts_with("NOTIFICATION")).unwrap_or_default()
    };
    assert_eq!(refusal(|octets| octets[19] = 3), "NOTIFICATION 2/1");
    assert_eq!(refusal(|octets| octets[22..24].copy_from_slice(&[0, 2])), "NOTIFICATION 2/6");
    assert_eq!(refusal(|octets| octets[24..28].fill(0)), "NOTIFICATION 2/3");
    assert_eq!(refusal(|octets| octets[28] += 1), "NOTIFICATION 2/0");
    assert_eq!(refusal(|octets| octets[18] = 9), "NOTIFICATION 1/3");
    assert_eq!(refusal(|octets| octets[17] = 200), "");
    assert_eq!(refusal(|octets| octets[16..18].fill(0xff)), "NOTIFICATION 1/2");
}

#[test]
fn octets_may_come_one_by_one() {
    let mut script = in_state("OpenSent");
    let mut stream = crate::script::octets(&Message::Open(open(PEER_ASN)));
    stream.extend(crate::script::octets(&Message::Keepalive));
    stream.extend(crate::script::octets(&Message::Update(Update::default())));
    let said: Vec<String> = stream
        .iter()
        .flat_map(|octet| script.input(Input::Received { conn: ConnId(1), bytes: &[*octet] }))
        .collect();
    assert_eq!(said, ["OpenConfirm", "KEEPALIVE", "Established", "END ipv4-unicast", "END ipv6-unicast"]);
}
