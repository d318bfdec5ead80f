//! The octets that brought other speakers down, each under the name by which its story is known.
//!
//! `docs/history.md` tells the stories; a test holds it and this table together.

use std::collections::BTreeSet;

use manx_bgp::wire::Message;
use manx_bgp::{ConnId, Direction, Input, LimitAction, PrefixLimit};

use crate::script::{PEER_ASN, Script, open};

/// How far the session is when the octets come.
#[derive(Clone, Copy)]
enum Stage {
    /// Connected, our OPEN is out.
    OpenSent,
    /// Routes are exchanged.
    Established,
}

use Stage::{Established, OpenSent};

const SOUND: &str = "400101 00 | 400206 0201 0000fde8 | 400304 c0000201";
const ROUTE: &str = "180a0102";
const LEARNED: &str = "use 10.1.2.0/24";
const WITHDRAWN: &str = "fault: treat as withdraw";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("two digits"))
        .collect()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16 + 19).to_be_bytes();
    [[0xff; 16].as_slice(), &length, &[kind], body].concat()
}

/// An OPEN of the peer with these optional parameters, whatever their length octet says.
fn opening(parameters: &str) -> Vec<u8> {
    message(1, &hex(&format!("04 fde8 005a 0a000009 {parameters}")))
}

/// An OPEN with one parameter that holds these capabilities, after the four-octet AS.
fn capable(capabilities: &str) -> Vec<u8> {
    let list = hex(&format!("41040000fde8 0104 0001 0001 {capabilities}"));
    let (inner, outer) = (list.len() as u8, list.len() as u8 + 2);
    message(1, &[hex(&format!("04 fde8 005a 0a000009 {outer:02x} 02 {inner:02x}")), list].concat())
}

/// An UPDATE of one route with these attributes.
fn update(attributes: &str) -> Vec<u8> {
    let list = hex(attributes);
    let length = (list.len() as u16).to_be_bytes();
    message(2, &[&[0, 0], length.as_slice(), &list, &hex(ROUTE)].concat())
}

/// A sound UPDATE with one attribute more.
fn update_with(attribute: &str) -> Vec<u8> {
    update(&format!("{SOUND} {attribute}"))
}

fn long(code: &str, len: usize) -> String {
    format!("d0{code} {len:04x} {}", "00".repeat(len))
}

/// Attribute sets inside one another, `depth` times (RFC 6368).
fn nested(depth: usize) -> String {
    (0..depth).fold(String::new(), |inner, _| {
        format!("d080 {:04x} 0000fde8 {inner}", inner.replace(' ', "").len() / 2 + 4)
    })
}

/// What comes of a case.
enum Outcome {
    /// The session ends with this NOTIFICATION.
    Ends(&'static str),
    /// The session stands, and this is said.
    Stands(&'static [&'static str]),
}

use Outcome::{Ends, Stands};

fn cases() -> Vec<(&'static str, Stage, Vec<u8>, Outcome)> {
    let unknown_capabilities: String = (0..100).map(|n| format!("{:02x}00", 100 + n)).collect();
    let withdrawn_only = message(2, &hex("0000 0003 800f00"));
    vec![
        ("CVE-2022-40302", OpenSent, opening("ff ff ffff 02"), Ends("2/0")),
        ("CVE-2022-40318", OpenSent, opening("01 02"), Ends("2/0")),
        ("CVE-2022-43681", OpenSent, opening("ff ff"), Ends("2/0")),
        ("routecore-31-octets", OpenSent, message(1, &hex("f18effffff00170500020101")), Ends("2/1")),
        (
            "frr-100-capabilities",
            OpenSent,
            capable(&unknown_capabilities),
            Stands(&["OpenConfirm", "KEEPALIVE"]),
        ),
        ("CVE-2025-43970", OpenSent, capable("4b00"), Stands(&["OpenConfirm", "KEEPALIVE"])),
        ("CVE-2025-43971", OpenSent, capable("4901ff"), Stands(&["OpenConfirm", "KEEPALIVE"])),
        ("CVE-2023-46565", OpenSent, message(255, &[]), Ends("1/3")),
        ("CVE-2024-27913", Established, message(6, &hex("00000000")), Ends("1/3")),
        ("keepalive-4096", Established, [[0xff; 16].as_slice(), &hex("1000 04")].concat(), Ends("1/2")),
        ("marker", Established, [[0xfe; 16].as_slice(), &hex("0013 04")].concat(), Ends("1/1")),
        ("rustybgp-23-octets", Established, message(2, &hex("0000 ffff")), Ends("3/1")),
        ("CVE-2026-37461", Established, message(2, &hex("0010 fff8 00")), Ends("3/1")),
        (
            "zettabgp-87-octets",
            Established,
            update("400101 00 | 400207 0201 0000fde8 04 | 400304 c0000201"),
            Stands(&[WITHDRAWN]),
        ),
        ("grave-flaws-2023", Established, update_with("c01703 0001ff"), Stands(&[LEARNED])),
        ("entropy-label-2023", Established, update_with("c01c01 00"), Stands(&[LEARNED])),
        ("CVE-2023-31490", Established, update_with("c02805 0500220001"), Stands(&[LEARNED])),
        ("prefix-sid-2025", Established, update_with("c02808 0000000000000000"), Stands(&[LEARNED])),
        ("otc-1024-2025", Established, update_with(&long("23", 1024)), Stands(&[WITHDRAWN])),
        ("CVE-2023-41358", Established, update(""), Stands(&[WITHDRAWN])),
        ("CVE-2023-46753", Established, update("c0c800"), Stands(&[WITHDRAWN])),
        ("CVE-2023-47235", Established, withdrawn_only, Ends("3/9")),
        (
            "CVE-2023-46752",
            Established,
            update_with("800e06 0002 01 ff 0000"),
            Stands(&["fault: family disabled", LEARNED]),
        ),
        (
            "CVE-2026-30405",
            Established,
            update("400101 00 | 400206 0201 0000fde8 | 400300"),
            Stands(&[WITHDRAWN]),
        ),
        (
            "flowspec-2026",
            Established,
            update_with("800e08 0001 85 00 00 ff0102"),
            Stands(&["fault: attribute discard", LEARNED]),
        ),
        ("CVE-2026-37459", Established, update_with("c02704 0001fffe"), Stands(&[LEARNED])),
        ("CVE-2026-41642", Established, update_with("40c803 010203"), Ends("3/2")),
        (
            "CVE-2026-41643",
            Established,
            update("c01103 020100 | 400101 00 | 400206 0901 0000fde8 | 400304 c0000201"),
            Stands(&["fault: attribute discard", WITHDRAWN]),
        ),
        ("attribute-99-2010", Established, update_with(&long("63", 3000)), Stands(&[LEARNED])),
        (
            "attribute-255-2019",
            Established,
            update_with("e0ff10 00000000000000000000000000000000"),
            Stands(&[LEARNED]),
        ),
        ("aigp-tlv-of-2", Established, update_with("801a03 010002"), Stands(&[LEARNED])),
        ("attr-set-bomb", Established, update_with(&nested(400)), Stands(&[LEARNED])),
        ("max-prefix-off-by-one", Established, eleven_prefixes(), Ends("6/1")),
    ]
}

/// One more than the limit that every case has.
fn eleven_prefixes() -> Vec<u8> {
    let list = hex(SOUND);
    let nlri: Vec<u8> = (0..11).flat_map(|n| [24, 10, 2, n]).collect();
    let length = (list.len() as u16).to_be_bytes();
    message(2, &[&[0, 0], length.as_slice(), &list, &nlri].concat())
}

#[test]
fn what_brought_others_down_costs_what_the_rfcs_say_and_the_peer_may_come_back() {
    for (name, stage, octets, outcome) in cases() {
        let mut script = Script::new(|config| {
            for family in config.families.values_mut() {
                family.limit = PrefixLimit { action: LimitAction::StayDown, ..PrefixLimit::new(10) };
            }
        });
        let conn = ConnId(1);
        match stage {
            OpenSent => drop(script.connect(1, Direction::Active)),
            Established => script.establish(open(PEER_ASN)),
        }
        let mut said = script.input(Input::Received { conn, bytes: &octets });
        said.dedup();
        match outcome {
            Ends(code) => {
                assert!(said.contains(&format!("NOTIFICATION {code}")), "{name}: {said:?}");
                assert!(said.contains(&"close 1".to_owned()), "{name}: {said:?}");
                if code != "6/1" {
                    script.wait(std::time::Duration::from_secs(120));
                    script.connect(2, Direction::Passive);
                    script.say(2, &Message::Open(open(PEER_ASN)));
                    script.say(2, &Message::Keepalive);
                    assert_eq!(script.state(), "Established", "{name}: the peer is locked out");
                }
            }
            Stands(expected) => {
                assert_eq!(said, expected, "{name}");
                assert_ne!(script.state(), "Idle", "{name}");
            }
        }
    }
}

#[test]
fn every_case_is_told_in_the_history_and_every_story_has_a_case() {
    let told: BTreeSet<&str> = include_str!("../../../docs/history.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let tested: BTreeSet<&str> = cases().iter().map(|(name, ..)| *name).collect();
    assert_eq!(told, tested);
}
