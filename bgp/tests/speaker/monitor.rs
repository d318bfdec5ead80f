//! What a BMP station is sent (RFC 7854), read as a station reads it, and the dump of the table (RFC 6396).

use std::time::Duration;

use manx_bgp::wire::{self, Announcement, Attributes, Framer, Message, NextHop, Update};
use manx_bgp::{ConnId, Direction, Input, Output};

use crate::script::{DIALECT, PEER_ASN, STATION, Script, octets, open};
use crate::world::{prefix, secs};

const UNIX: Duration = Duration::from_secs(1_700_000_000);

/// Takes what the station is sent, and reads it into one line for each message.
fn received(script: &mut Script) -> Vec<String> {
    let mut bytes = Vec::new();
    while script.speaker.transmit(STATION, &mut bytes, 700) {}
    let mut rest = bytes.as_slice();
    let mut lines = Vec::new();
    while let Some((header, _)) = rest.split_at_checked(6) {
        assert_eq!(header[0], 3, "the version of BMP");
        let length = u32::from_be_bytes(header[1..5].try_into().expect("four octets")) as usize;
        let (message, others) = rest.split_at(length);
        lines.push(line(message[5], &message[6..]));
        rest = others;
    }
    assert!(rest.is_empty(), "octets behind the last message");
    lines
}

fn line(kind: u8, body: &[u8]) -> String {
    if matches!(kind, 4 | 5) {
        let texts = String::from_utf8_lossy(body).replace(|c: char| c.is_control(), " ");
        return format!("{} {}", if kind == 4 { "initiation" } else { "termination" }, texts.trim());
    }
    let (header, body) = body.split_at(42);
    assert_eq!(header[..10], [0; 10], "an IPv4 peer of the global instance");
    assert_eq!(header[10..26], [[0; 12].as_slice(), &[10, 0, 0, 2]].concat(), "the peer's address");
    assert_eq!(header[26..30], PEER_ASN.0.to_be_bytes());
    assert_eq!(header[30..34], [10, 0, 0, 9], "the peer's identifier");
    let time = u32::from_be_bytes(header[34..38].try_into().expect("four octets"));
    let after = u64::from(time) - UNIX.as_secs();
    let what = match kind {
        0 => format!("route {}", messages(body).join(", ")),
        1 => format!("stats {}", body[3]),
        2 => format!("down {} {}", body[0], messages(&body[1..]).join(", ")),
        3 => {
            let (ends, rest) = body.split_at(20);
            assert_eq!(ends[16..], [0, 179, 0, 179], "the ports of both ends");
            let opens =
                rest.len() - rest.windows(16).rposition(|window| window == [0xff; 16]).expect("an OPEN");
            let second = rest.len() - opens;
            let length = usize::from(u16::from_be_bytes([rest[second + 16], rest[second + 17]]));
            let name = String::from_utf8_lossy(&rest[second + length + 4..]);
            format!("up {} {name}", messages(&rest[..second + length]).join(", "))
        }
        other => panic!("a message of type {other}"),
    };
    format!("{what} +{after}")
}

fn messages(octets: &[u8]) -> Vec<String> {
    let (mut framer, mut input) = (Framer::new(), octets);
    let mut said = Vec::new();
    while let Some(frame) = framer.next(&mut input).expect("sound frames") {
        let decoded = wire::decode(frame, &DIALECT).expect("sound messages");
        assert_eq!(decoded.faults, []);
        said.push(match decoded.message {
            Message::Open(open) => format!("OPEN {}", open.asn),
            Message::EndOfRib(family) => format!("END {family}"),
            Message::Notification(sent) => format!("NOTIFICATION {}/{}", sent.code.code, sent.code.subcode),
            Message::Update(update) => {
                let told = update.announced.iter().flat_map(|one| &one.prefixes).map(|one| format!("+{one}"));
                let gone = update.withdrawn.iter().map(|one| format!("-{one}"));
                told.chain(gone).collect::<Vec<_>>().join(" ")
            }
            other => panic!("{other:?}"),
        });
    }
    said
}

fn announce(prefixes: &[&str]) -> Message {
    let mut attributes = Attributes::new(NextHop::V4([192, 0, 2, 1].into()));
    attributes.as_path = "65000".parse().expect("a path");
    let prefixes = prefixes.iter().map(|text| prefix(text).into()).collect();
    Message::Update(Update { withdrawn: vec![], announced: vec![Announcement { attributes, prefixes }] })
}

fn watch(script: &mut Script) {
    let input = Input::Monitor { conn: STATION, name: "node1", description: "manx", unix: UNIX };
    script.input(input);
}

#[test]
fn a_station_is_told_what_is_there_and_then_what_comes() {
    let mut script = Script::new(|_| {});
    script.establish(open(PEER_ASN));
    script.say(1, &announce(&["10.1.0.0/24", "10.1.1.0/24"]));
    watch(&mut script);
    script.say(1, &announce(&["10.1.2.0/24"]));
    let up = "up OPEN 64512, OPEN 65000 peer +0";
    let first = received(&mut script);
    assert!(first[0].contains("manx") && first[0].contains("node1"), "{first:?}");
    assert_eq!(first[1], up);
    assert_eq!(first[2], "route +10.1.2.0/24 +0", "what comes is told before what was there is read");
    assert_eq!(first[3], "route +10.1.0.0/24 +10.1.1.0/24 +10.1.2.0/24 +0");
    assert_eq!(first[4..], ["route END ipv4-unicast +0", "route END ipv6-unicast +0"]);
    script.wait(secs(5));
    script.say(
        1,
        &Message::Update(Update { withdrawn: vec![prefix("10.1.0.0/24").into()], announced: vec![] }),
    );
    assert_eq!(received(&mut script), ["route -10.1.0.0/24 +5"]);
}

#[test]
fn a_station_is_told_how_a_session_ended_and_that_it_is_back() {
    let mut script = Script::new(|_| {});
    watch(&mut script);
    script.establish(open(PEER_ASN));
    assert_eq!(received(&mut script)[1..], ["up OPEN 64512, OPEN 65000 peer +0"]);
    script.input(Input::Received { conn: ConnId(1), bytes: &[0; 19] });
    assert_eq!(received(&mut script), ["down 1 NOTIFICATION 1/1 +0"]);
    script.wait(secs(40));
    script.connect(2, Direction::Passive);
    script.say(2, &Message::Open(open(PEER_ASN)));
    script.say(2, &Message::Keepalive);
    assert_eq!(received(&mut script), ["up OPEN 64512, OPEN 65000 peer +40"]);
    script.input(Input::Closed { conn: ConnId(2) });
    assert_eq!(received(&mut script), ["down 4  +40"]);
}

#[test]
fn a_station_is_told_of_a_bad_update_what_was_taken_of_it() {
    let mut script = Script::new(|_| {});
    watch(&mut script);
    script.establish(open(PEER_ASN));
    received(&mut script);
    let mut bad = octets(&announce(&["10.1.0.0/24"]));
    // The value of ORIGIN, which is the first attribute.
    bad[26] = 9;
    script.input(Input::Received { conn: ConnId(1), bytes: &bad });
    assert_eq!(received(&mut script), ["route -10.1.0.0/24 +0"]);
}

#[test]
fn a_station_gets_counters_every_minute() {
    let mut script = Script::new(|config| config.hold_time = manx_bgp::HoldTime::NEVER);
    watch(&mut script);
    script.establish(open(PEER_ASN));
    received(&mut script);
    script.wait(secs(125));
    assert_eq!(received(&mut script), ["stats 4 +60", "stats 4 +120"]);
}

#[test]
fn a_station_that_does_not_read_is_let_go_and_costs_a_bounded_amount() {
    let mut script = Script::new(|_| {});
    watch(&mut script);
    script.establish(open(PEER_ASN));
    let update = octets(&announce(&["10.1.0.0/24"])).repeat(1000);
    let mut closed = false;
    for _ in 0..1000 {
        script.speaker.handle(Input::Received { conn: ConnId(1), bytes: &update }, script.now);
        while let Some(output) = script.speaker.poll() {
            closed |= output == Output::Close { conn: STATION };
        }
    }
    assert!(closed);
    assert_eq!(script.state(), "Established");
}

#[test]
fn an_end_is_announced_to_stations() {
    let mut script = Script::new(|_| {});
    watch(&mut script);
    received(&mut script);
    script.input(Input::Stop(manx_bgp::StopReason::Restart));
    assert_eq!(received(&mut script).len(), 1);
}

/// Reads the records of a dump: type, subtype and the octets behind the header.
pub(crate) fn records(mut file: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut records = Vec::new();
    while let Some((header, _)) = file.split_at_checked(12) {
        assert_eq!(header[4..6], [0, 13], "TABLE_DUMP_V2");
        let length = u32::from_be_bytes(header[8..12].try_into().expect("four octets")) as usize;
        let (record, rest) = file.split_at(12 + length);
        records.push((u16::from_be_bytes([header[6], header[7]]), record[12..].to_vec()));
        file = rest;
    }
    assert!(file.is_empty());
    records
}

#[test]
fn a_dump_has_an_index_of_peers_and_every_path_as_received() {
    let mut script = Script::new(|_| {});
    script.establish(open(PEER_ASN));
    script.say(1, &announce(&["10.1.0.0/23"]));
    let origins = [(prefix("fd00::/64"), Default::default())].into();
    script.input(Input::SetOrigins(origins));
    let records = records(&script.speaker.mrt(5));
    let (kind, index) = &records[0];
    assert_eq!((*kind, index.len()), (1, 4 + 2 + 2 + 2 * 13));
    assert_eq!(index[6..8], [0, 2], "we, and the peer");
    let of_peer = &index[8 + 13..];
    assert_eq!(of_peer, [[2, 10, 0, 0, 9, 10, 0, 0, 2].as_slice(), &PEER_ASN.0.to_be_bytes()].concat());
    let kinds: Vec<u16> = records.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [1, 2, 4]);
    let route = &records[1].1;
    assert_eq!(route[..8], [0, 0, 0, 0, 23, 10, 1, 0], "the sequence, then the prefix");
    assert_eq!(route[8..16], [0, 1, 0, 1, 0, 0, 0, 5], "one entry, of the peer, as old as the dump");
    let attributes = &route[18..];
    let body = [&[0, 0], &route[16..18], attributes, &[23, 10, 1, 0]].concat();
    let length = (body.len() as u16 + 19).to_be_bytes();
    let update = [[0xff; 16].as_slice(), &length, &[2], &body].concat();
    assert_eq!(messages(&update), ["+10.1.0.0/23"], "the attributes stand as in an UPDATE");
}
