//! RFC 7606 as a table: what each fault of an UPDATE costs, from an external and from an internal peer.

use manx_bgp::wire::table::{Accepted, Length, RULES};
use manx_bgp::wire::{Action, AttributeFault, Decoded, Dialect, FaultKind, Message, Side, Update};
use manx_bgp::{Families, Family};

use crate::octets::{answer, attribute, decode, dialect, hex, prefix, update};

const NLRI: &str = "1a0af40340";
const ORIGIN: &str = "400101 00";
const AS_PATH: &str = "400206 0201 0000fde9";
const NEXT_HOP: &str = "400304 c0000201";
const MP_REACH: &str = "800e1c 0002 01 10 20010db8000000000000000000000001 00 30 fd0000100244";

/// What must come of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    /// The routes stand, nothing is wrong.
    Fine,
    /// The routes stand, an attribute is dropped and the fault is told.
    Discarded,
    /// The routes count as withdrawn.
    Withdrawn,
    /// The family goes.
    Disabled(Family),
    /// The session ends with this code and subcode.
    Reset(u8, u8),
}

use Outcome::{Disabled, Discarded, Fine, Reset, Withdrawn};

fn outcome(octets: &[u8], dialect: &Dialect) -> Outcome {
    let Ok(Decoded { message, faults }) = decode(octets, dialect) else {
        let (code, subcode, _) = answer(octets, dialect);
        return Reset(code, subcode);
    };
    let Message::Update(update) = message else { panic!("not an UPDATE: {message:?}") };
    match faults.iter().max_by_key(|fault| fault.action) {
        None => Fine,
        Some(AttributeFault { action: Action::Discard, .. }) => Discarded,
        Some(AttributeFault { action: Action::TreatAsWithdraw, .. }) => {
            assert_eq!(update.announced, [], "a withdrawn route is still announced");
            assert!(!update.withdrawn.is_empty(), "a route treated as withdrawn is not withdrawn");
            Withdrawn
        }
        Some(fault) => {
            let family = fault.family.expect("a fault that disables names the family");
            let in_family = |nlri: &manx_bgp::wire::Nlri| nlri.family() == family;
            assert!(!update.withdrawn.iter().any(in_family));
            assert!(!update.announced.iter().flat_map(|it| &it.prefixes).any(in_family));
            Disabled(family)
        }
    }
}

/// A message with one IPv4 route whose attributes are `list`.
fn route(list: &str) -> Vec<u8> {
    update(&[], &hex(list), &hex(NLRI))
}

/// A message with one IPv4 route and sound mandatory attributes besides `list`.
fn route_with(list: &str) -> Vec<u8> {
    route(&format!("{ORIGIN} {AS_PATH} {NEXT_HOP} {list}"))
}

#[test]
fn a_fault_costs_what_rfc_7606_says() {
    let mandatory = [
        ("origin undefined value 5", format!("400101 05 {AS_PATH} {NEXT_HOP}"), Withdrawn),
        ("origin undefined value 3", format!("400101 03 {AS_PATH} {NEXT_HOP}"), Withdrawn),
        ("origin length 2", format!("400102 0000 {AS_PATH} {NEXT_HOP}"), Withdrawn),
        ("origin length 0", format!("400100 {AS_PATH} {NEXT_HOP}"), Withdrawn),
        ("origin flags optional", format!("c00101 00 {AS_PATH} {NEXT_HOP}"), Withdrawn),
        ("origin flags non-transitive", format!("000101 00 {AS_PATH} {NEXT_HOP}"), Withdrawn),
        ("origin with the partial bit", format!("600101 00 {AS_PATH} {NEXT_HOP}"), Fine),
        ("origin with a long length", format!("50010001 00 {AS_PATH} {NEXT_HOP}"), Fine),
        ("origin with reserved flag bits", format!("4f0101 00 {AS_PATH} {NEXT_HOP}"), Fine),
        ("as_path segment type 9", format!("{ORIGIN} 400206 0901 0000fde9 {NEXT_HOP}"), Withdrawn),
        ("as_path segment type 0", format!("{ORIGIN} 400206 0001 0000fde9 {NEXT_HOP}"), Withdrawn),
        ("as_path segment overrun", format!("{ORIGIN} 400206 0202 0000fde9 {NEXT_HOP}"), Withdrawn),
        ("as_path segment underrun", format!("{ORIGIN} 400207 0201 0000fde9 02 {NEXT_HOP}"), Withdrawn),
        ("as_path empty segment", format!("{ORIGIN} 400202 0200 {NEXT_HOP}"), Withdrawn),
        ("as_path confederation", format!("{ORIGIN} 400206 0301 0000fde9 {NEXT_HOP}"), Withdrawn),
        ("as_path confederation set", format!("{ORIGIN} 400206 0401 0000fde9 {NEXT_HOP}"), Withdrawn),
        ("as_path set", format!("{ORIGIN} 400206 0101 0000fde9 {NEXT_HOP}"), Fine),
        ("as_path empty", format!("{ORIGIN} 400200 {NEXT_HOP}"), Fine),
        ("as 0 in path", format!("{ORIGIN} 40020a 0202 0000fde900000000 {NEXT_HOP}"), Withdrawn),
        ("next_hop length 3", format!("{ORIGIN} {AS_PATH} 400303 c00002"), Withdrawn),
        ("next_hop length 0", format!("{ORIGIN} {AS_PATH} 400300"), Withdrawn),
        ("next_hop length 16", format!("{ORIGIN} {AS_PATH} 400310 {}", "00".repeat(16)), Withdrawn),
        ("next_hop 0.0.0.0", format!("{ORIGIN} {AS_PATH} 400304 00000000"), Withdrawn),
        ("next_hop multicast", format!("{ORIGIN} {AS_PATH} 400304 e0000001"), Withdrawn),
        ("next_hop loopback", format!("{ORIGIN} {AS_PATH} 400304 7f000001"), Withdrawn),
        ("next_hop broadcast", format!("{ORIGIN} {AS_PATH} 400304 ffffffff"), Withdrawn),
        ("missing origin", format!("{AS_PATH} {NEXT_HOP}"), Withdrawn),
        ("missing as_path", format!("{ORIGIN} {NEXT_HOP}"), Withdrawn),
        ("missing next_hop", format!("{ORIGIN} {AS_PATH}"), Withdrawn),
        ("missing all", String::new(), Withdrawn),
        ("all missing but an unknown one", "c0c800".into(), Withdrawn),
        ("missing next_hop, mp_reach there", format!("{MP_REACH} {ORIGIN} {AS_PATH}"), Withdrawn),
        ("origin twice, the second bad", format!("{ORIGIN} 400101 05 {AS_PATH} {NEXT_HOP}"), Discarded),
        ("origin twice, the first bad", format!("400101 05 {ORIGIN} {AS_PATH} {NEXT_HOP}"), Withdrawn),
    ];
    for (name, list, expected) in mandatory {
        for side in [Side::External, Side::Internal] {
            assert_eq!(outcome(&route(&list), &dialect(side)), expected, "{name}, {side:?}");
        }
    }
    #[rustfmt::skip]
    let optional = [
        // name, attribute, from an external peer, from an internal peer
        ("med length 3", "800403 000005", Withdrawn, Withdrawn),
        ("med flags transitive", "c00404 00000005", Withdrawn, Withdrawn),
        ("communities length 5", "c00805 fde8006400", Withdrawn, Withdrawn),
        ("communities length 0", "c00800", Withdrawn, Withdrawn),
        ("communities length 2", "c00802 fde8", Withdrawn, Withdrawn),
        ("communities flags well-known", "400804 fde80064", Withdrawn, Withdrawn),
        ("communities with the partial bit", "e00804 fde80064", Fine, Fine),
        ("ext communities length 7", "c01007 0002fde8000000", Withdrawn, Withdrawn),
        ("ext communities length 12", "c0100c 0002fde800000064 00000000", Withdrawn, Withdrawn),
        ("ext communities length 0", "c01000", Withdrawn, Withdrawn),
        ("large communities length 13", "c0200d 0000fde8000000010000000200", Withdrawn, Withdrawn),
        ("large communities length 16", "c02010 0000fde80000000100000002 00000000", Withdrawn, Withdrawn),
        ("large communities length 0", "c02000", Withdrawn, Withdrawn),
        ("otc length 3", "c02303 0000fd", Withdrawn, Withdrawn),
        ("aggregator length 7", "c00707 0000fde90a0000", Discarded, Discarded),
        ("aggregator length 6", "c00706 fde90a000001", Discarded, Discarded),
        ("aggregator as 0", "c00708 000000000a000001", Discarded, Discarded),
        ("aggregator flags", "800708 0000fde90a000001", Withdrawn, Withdrawn),
        ("atomic_aggregate length 1", "400601 00", Discarded, Discarded),
        ("as4_path from 4-byte peer", "c01106 0201 0000fde9", Discarded, Discarded),
        ("as4_path, malformed, from 4-byte peer", "c01103 020100", Discarded, Discarded),
        ("as4_aggregator from 4-byte peer", "c01208 0000fde90a000001", Discarded, Discarded),
        ("duplicate med", "800404 00000005 800404 00000006", Discarded, Discarded),
        ("duplicate unknown", "c0c80101 c0c80102", Discarded, Discarded),
        ("duplicate mp_reach", &format!("{MP_REACH} {MP_REACH}"), Reset(3, 1), Reset(3, 1)),
        ("duplicate mp_unreach", "800f03000201 800f03000201", Reset(3, 1), Reset(3, 1)),
        ("unknown well-known attr 200", "40c803 010203", Reset(3, 2), Reset(3, 2)),
        ("unknown optional transitive attr 200", "c0c803 010203", Fine, Fine),
        ("unknown optional non-transitive attr 200", "80c803 010203", Fine, Fine),
        ("attr 255", "c0ff03 010203", Fine, Fine),
        ("attr overruns list", "c0c8ff 01", Withdrawn, Withdrawn),
        ("attr with a long length overruns list", "d0c8ffff 01", Withdrawn, Withdrawn),
        ("1 byte left in attr list", "c0", Withdrawn, Withdrawn),
        ("2 bytes left in attr list", "c0c8", Withdrawn, Withdrawn),
        ("3 bytes left in attr list, long length", "d0c800", Withdrawn, Withdrawn),
        ("originator_id", "800904 0a000002", Discarded, Fine),
        ("originator_id length 3", "800903 0a0000", Discarded, Withdrawn),
        ("originator_id flags", "c00904 0a000002", Discarded, Withdrawn),
        ("local_pref", "400504 00000064", Discarded, Fine),
        ("local_pref length 2", "400502 0064", Discarded, Withdrawn),
        ("cluster_list", "800a04 0a000002", Discarded, Fine),
        ("cluster_list length 3", "800a03 0a0000", Discarded, Withdrawn),
        ("cluster_list length 0", "800a00", Discarded, Withdrawn),
        ("prefix-sid cut short", "c02805 0100070000", Fine, Fine),
        ("prefix-sid of zeros", "c02808 0000000000000000", Fine, Fine),
        ("tunnel encapsulation cut short", "c01703 0001ff", Fine, Fine),
        ("entropy label, deprecated", "c01c01 00", Fine, Fine),
        ("aigp with a tlv shorter than its header", "801a03 010002", Fine, Fine),
    ];
    for (name, list, external, internal) in optional {
        assert_eq!(outcome(&route_with(list), &dialect(Side::External)), external, "{name}, external");
        assert_eq!(outcome(&route_with(list), &dialect(Side::Internal)), internal, "{name}, internal");
    }
}

#[test]
fn a_fault_of_a_two_octet_peer_costs_what_rfc_6793_says() {
    let narrow = Dialect { four_octet_as: false, ..dialect(Side::External) };
    let mandatory = format!("{ORIGIN} 400204 0201 fde9 {NEXT_HOP}");
    for (name, list, expected) in [
        ("as4_path", "c01106 0201 0000fde9", Fine),
        ("as4_path overrun", "c01106 0202 0000fde9", Discarded),
        ("as4_path segment type 9", "c01106 0901 0000fde9", Discarded),
        ("as4_path of 2-octet numbers", "c01104 0201 fde9", Discarded),
        ("as4_path with as 0", "c01106 0201 00000000", Discarded),
        ("as4_path of a confederation", "c01106 0301 0000fde9", Fine),
        ("as4_aggregator length 6", "c01206 fde90a000001", Discarded),
        ("aggregator length 8", "c00708 0000fde90a000001", Discarded),
        ("aggregator length 6", "c00706 fde90a000001", Fine),
    ] {
        let octets = route(&format!("{list} {mandatory}"));
        assert_eq!(outcome(&octets, &narrow), expected, "{name}");
    }
}

#[test]
fn a_message_whose_fields_do_not_add_up_ends_the_session() {
    let sound = format!("{ORIGIN} {AS_PATH} {NEXT_HOP}");
    let head = |withdrawn: &str, attributes_len: &str| {
        crate::octets::message(2, &hex(&format!("{withdrawn} {attributes_len} {sound} {NLRI}")))
    };
    let rows = [
        ("nlri /33", update(&[], &hex(&sound), &hex("210af4034000")), Reset(3, 10)),
        ("nlri truncated", update(&[], &hex(&sound), &hex("1a0af4")), Reset(3, 10)),
        ("nlri length and nothing", update(&[], &hex(&sound), &hex("1a0af40340 08")), Reset(3, 10)),
        ("nlri length 255", update(&[], &hex(&sound), &hex(&format!("ff{}", "00".repeat(32)))), Reset(3, 10)),
        ("withdrawn /33", update(&hex("210af4034000"), &[], &[]), Reset(3, 10)),
        ("withdrawn truncated", update(&hex("1a0af4"), &[], &[]), Reset(3, 10)),
        ("bad attributes and nlri /33", update(&[], &hex("400101 05"), &hex("210af4034000")), Reset(3, 10)),
        ("total attr len beyond message", head("0000", "00ff"), Reset(3, 1)),
        ("total attr len 65535", head("0000", "ffff"), Reset(3, 1)),
        ("withdrawn len beyond message", head("00ff", "0000"), Reset(3, 1)),
        ("withdrawn len leaves 1 byte", crate::octets::message(2, &hex("0001 00 00")), Reset(3, 1)),
        ("23 bytes, attr len 65535", crate::octets::message(2, &hex("0000 ffff")), Reset(3, 1)),
        ("withdrawn len to the end", crate::octets::message(2, &hex("0002 0000")), Reset(3, 1)),
    ];
    for (name, octets, expected) in rows {
        for side in [Side::External, Side::Internal] {
            assert_eq!(outcome(&octets, &dialect(side)), expected, "{name}, {side:?}");
        }
    }
}

#[test]
fn a_broken_multiprotocol_attribute_costs_its_family() {
    let v6 = "20010db8000000000000000000000001";
    let v6_gone = Disabled(Family::Ipv6Unicast);
    let rows = [
        ("next hop of 15 octets", format!("800e14 0002 01 0f {} 00", &v6[..30]), v6_gone),
        ("next hop of 17 octets", format!("800e16 0002 01 11 {v6}00 00"), v6_gone),
        ("next hop of 4 octets", "800e0c 0002 01 04 c0000201 00 10fd00".into(), v6_gone),
        ("next hop of none", "800e05 0002 01 00 00".into(), v6_gone),
        ("next hop beyond the attribute", "800e05 0002 01 ff 00".into(), v6_gone),
        ("no reserved octet", format!("800e14 0002 01 10 {v6}"), v6_gone),
        ("no next hop length", "800e03 0002 01".into(), v6_gone),
        ("prefix of /129", format!("800e27 0002 01 10 {v6} 00 81 {v6}00"), v6_gone),
        ("prefix truncated", format!("800e18 0002 01 10 {v6} 00 30 fd00"), v6_gone),
        ("unreach prefix of /129", format!("800f15 0002 01 81 {v6}00"), v6_gone),
        ("unreach prefix truncated", "800f06 0002 01 30 fd00".into(), v6_gone),
        ("overrun of reach", format!("800eff 0002 01 10 {v6} 00"), v6_gone),
        ("overrun of unreach", "800fff 0002 01".into(), v6_gone),
        ("reach of 2 octets", "800e02 0002".into(), Reset(3, 9)),
        ("unreach of 2 octets", "800f02 0002".into(), Reset(3, 9)),
        ("reach of nothing", "800e00".into(), Reset(3, 9)),
        ("overrun of reach before its family", "800eff 0002".into(), Reset(3, 9)),
        ("ipv6 next hop for ipv4", format!("800e15 0001 01 10 {v6} 00"), Disabled(Family::Ipv4Unicast)),
        ("flags of reach", MP_REACH.replacen("80", "c0", 1), Withdrawn),
        ("next hop ::", format!("800e18 0002 01 10 {} 00 10fd00", "00".repeat(16)), Withdrawn),
        ("next hop ::1", format!("800e18 0002 01 10 {}01 00 10fd00", "00".repeat(15)), Withdrawn),
        ("next hop multicast", format!("800e18 0002 01 10 ff02{} 00 10fd00", "00".repeat(14)), Withdrawn),
        ("unknown afi", "800e0a 4004 47 04 c0000201 00 00".into(), Discarded),
        ("multicast, never negotiated", "800e0a 0001 02 04 c0000201 00 00".into(), Discarded),
        ("unreach of an unknown afi", "800f03 0019 46".into(), Discarded),
    ];
    for (name, list, expected) in rows {
        // With an IPv4 route behind it, which must be neither lost nor read from the wrong place.
        let octets = route(&format!("{ORIGIN} {AS_PATH} {NEXT_HOP} {list}"));
        for side in [Side::External, Side::Internal] {
            assert_eq!(outcome(&octets, &dialect(side)), expected, "{name}, {side:?}");
        }
        if let Ok(Decoded { message: Message::Update(Update { withdrawn, announced }), .. }) =
            decode(&octets, &dialect(Side::Internal))
        {
            let routes = withdrawn.iter().chain(announced.iter().flat_map(|it| &it.prefixes));
            let there = routes.into_iter().any(|it| *it == prefix("10.244.3.64/26"));
            assert_eq!(there, expected != Disabled(Family::Ipv4Unicast), "{name}");
        }
    }
}

#[test]
fn a_path_identifier_cut_short_costs_what_a_prefix_cut_short_does() {
    let v6 = "20010db8000000000000000000000001";
    let v6_gone = Disabled(Family::Ipv6Unicast);
    let sound = format!("{ORIGIN} {AS_PATH} {NEXT_HOP}");
    let nlri = [
        ("identifier of 3 octets", "000001"),
        ("identifier and no prefix", "00000001"),
        ("prefix of /33", "00000001 21 0af4034000"),
        ("prefix cut short", "00000001 1a 0af4"),
        ("no identifier", NLRI),
        ("a good one and then a part", "00000001 1a 0af40340 0000"),
    ];
    let unreach = ["000009", "00000009", "00000009 81 00", "00000009 30 fd00"];
    for side in [Side::External, Side::Internal] {
        let dialect = Dialect { paths_in: Families::ALL, ..dialect(side) };
        for (name, octets) in nlri {
            let octets = hex(octets);
            assert_eq!(outcome(&update(&[], &hex(&sound), &octets), &dialect), Reset(3, 10), "{name}");
            assert_eq!(outcome(&update(&octets, &[], &[]), &dialect), Reset(3, 10), "{name}, withdrawn");
        }
        for octets in unreach {
            let octets = hex(octets);
            let list = attribute(0x80, 15, &[hex("0002 01"), octets.clone()].concat());
            assert_eq!(outcome(&update(&[], &list, &[]), &dialect), v6_gone, "{octets:02x?}");
            let reach = [hex(&format!("0002 01 10 {v6} 00")), octets.clone()].concat();
            let list = [attribute(0x80, 14, &reach), hex(&format!("{ORIGIN} {AS_PATH}"))].concat();
            assert_eq!(outcome(&update(&[], &list, &[]), &dialect), v6_gone, "{octets:02x?}, reach");
        }
        let octets =
            update(&[], &hex(&format!("400101 05 {AS_PATH} {NEXT_HOP}")), &hex("00000007 1a 0af40340"));
        assert_eq!(outcome(&octets, &dialect), Withdrawn);
        let Message::Update(update) = decode(&octets, &dialect).unwrap().message else { panic!("an UPDATE") };
        assert_eq!(update.withdrawn[0].path.0, 7, "that path and no other");
    }
}

#[test]
fn a_fault_in_a_message_without_routes_ends_the_session_unless_it_is_discarded() {
    // RFC 7606 §5.2: there may have been routes that the fault hides.
    let rows = [
        ("bad origin, no route", "400101 05", Reset(3, 6)),
        ("bad length, no route", "400102 0000", Reset(3, 5)),
        ("bad flags, no route", "c00101 00", Reset(3, 4)),
        ("bad as_path, no route", "400206 0901 0000fde9", Reset(3, 11)),
        ("overrun, no route", "c0c8ff 01", Reset(3, 5)),
        ("bad origin beside withdrawals", "800f0a 0002 01 30 fd0000100244 400101 05", Reset(3, 6)),
        ("bad aggregator, no route", "c00701 00", Discarded),
        ("bad aggregator beside withdrawals", "800f0a 0002 01 30 fd0000100244 c00701 00", Discarded),
        ("flags of mp_unreach alone", "c00f0a 0002 01 30 fd0000100244", Withdrawn),
        ("attributes that need no route", "400101 00", Fine),
        (
            "bad origin and routes of another family",
            "800e0a 4004 47 04 c0000201 00 00 400101 05",
            Reset(0, 0),
        ),
    ];
    for (name, list, expected) in rows {
        let octets = update(&[], &hex(list), &[]);
        if expected == Reset(0, 0) {
            let decoded = decode(&octets, &dialect(Side::External)).expect("the session stands");
            assert_eq!(decoded.message, Message::Update(Update::default()), "{name}");
        } else {
            assert_eq!(outcome(&octets, &dialect(Side::External)), expected, "{name}");
        }
    }
}

#[test]
fn the_gravest_fault_decides_and_all_are_told() {
    let octets = route_with("400601 00 800403 000005 c00707 00000000000000");
    let decoded = decode(&octets, &dialect(Side::External)).unwrap();
    let told: Vec<_> = decoded.faults.iter().map(ToString::to_string).collect();
    let expected = [
        "ATOMIC_AGGREGATE has a wrong length",
        "MULTI_EXIT_DISC has a wrong length",
        "AGGREGATOR has a wrong length",
    ];
    assert_eq!(told, expected);
    assert_eq!(outcome(&octets, &dialect(Side::External)), Withdrawn);
    let octets = route_with("800403 000005 40c803 010203");
    assert_eq!(outcome(&octets, &dialect(Side::External)), Reset(3, 2));
}

#[test]
fn one_fault_is_told_once() {
    let lists = [
        format!("{ORIGIN} {AS_PATH} 400303 c00002"),
        format!("{ORIGIN} {AS_PATH} 400304 00000000"),
        format!("{ORIGIN} {AS_PATH}"),
        format!("400101 05 {AS_PATH} {NEXT_HOP}"),
    ];
    for list in lists {
        let decoded = decode(&route(&list), &dialect(Side::External)).unwrap();
        assert_eq!(decoded.faults.len(), 1, "{:?}", decoded.faults);
    }
}

#[test]
fn a_discarded_attribute_is_gone_and_the_rest_stays() {
    let octets = route_with("800404 00000005 c00707 00000000000000 400504 000000c8 c00804 fde80064");
    let Message::Update(update) = decode(&octets, &dialect(Side::External)).unwrap().message else {
        panic!("an UPDATE")
    };
    let attributes = &update.announced[0].attributes;
    assert_eq!((attributes.aggregator, attributes.local_pref, attributes.med), (None, None, Some(5)));
    assert_eq!(attributes.communities.len(), 1);
}

#[test]
fn of_two_equal_attributes_the_first_one_counts() {
    let octets = route_with("800404 00000005 800404 00000006");
    let Message::Update(update) = decode(&octets, &dialect(Side::External)).unwrap().message else {
        panic!("an UPDATE")
    };
    assert_eq!(update.announced[0].attributes.med, Some(5));
}

#[test]
fn the_partial_bit_stays_and_is_set_on_what_is_unknown() {
    let octets = route_with("e00804 fde80064 c0c801 07 c01008 0002fde800000064");
    let Message::Update(update) = decode(&octets, &dialect(Side::External)).unwrap().message else {
        panic!("an UPDATE")
    };
    let attributes = &update.announced[0].attributes;
    assert!(attributes.partial.contains(8) && !attributes.partial.contains(16));
    let again = crate::octets::encode(&Message::Update(update.clone()), &dialect(Side::External));
    for wanted in ["e00804fde80064", "e0c80107", "c010080002fde800000064"] {
        assert!(crate::octets::to_hex(&again).contains(wanted), "{wanted}");
    }
}

#[test]
fn thousands_of_faults_are_counted_but_not_kept() {
    let octets = route_with(&"c0c800".repeat(1000));
    let decoded = decode(&octets, &dialect(Side::External)).unwrap();
    assert_eq!(decoded.faults.len(), 16);
    let octets = route_with(&("c0c800".repeat(1000) + "800403 000005"));
    assert_eq!(outcome(&octets, &dialect(Side::External)), Withdrawn, "the gravest is among those kept");
}

#[test]
fn a_prefix_in_both_lists_is_in_both_so_that_the_announcement_comes_last() {
    let list = hex(&format!("{ORIGIN} {AS_PATH} {NEXT_HOP}"));
    let octets = update(&hex(NLRI), &list, &hex(NLRI));
    let Message::Update(update) = decode(&octets, &dialect(Side::External)).unwrap().message else {
        panic!("an UPDATE")
    };
    assert_eq!(update.withdrawn, [prefix("10.244.3.64/26")]);
    assert_eq!(update.announced[0].prefixes, [prefix("10.244.3.64/26")]);
}

#[test]
fn a_fault_of_ipv6_leaves_ipv4_alone() {
    let list = hex(&format!("{ORIGIN} {AS_PATH} {NEXT_HOP} 800e05 0002 01 00 00"));
    let decoded = decode(&update(&hex("080b"), &list, &hex("080a")), &dialect(Side::External)).unwrap();
    let Message::Update(update) = decoded.message else { panic!("an UPDATE") };
    assert_eq!(update.withdrawn, [prefix("11.0.0.0/8")]);
    assert_eq!(update.announced[0].prefixes, [prefix("10.0.0.0/8")]);
    assert_eq!(decoded.faults[0].family, Some(Family::Ipv6Unicast));
}

#[test]
fn a_disabled_family_is_ignored_once_it_is_out_of_the_dialect() {
    let list = format!("{MP_REACH} {ORIGIN} {AS_PATH}");
    let ipv4 = Dialect { families: Families::from_iter([Family::Ipv4Unicast]), ..dialect(Side::External) };
    let decoded = decode(&update(&[], &hex(&list), &[]), &ipv4).unwrap();
    assert_eq!(decoded.message, Message::Update(Update::default()));
    assert_eq!(decoded.faults[0].kind, FaultKind::NotNegotiated);
}

#[test]
fn the_notification_for_a_fault_carries_the_attribute() {
    let rows = [
        ("400101 05", (3, 6, "40010105")),
        ("400102 0000", (3, 5, "4001020000")),
        ("c00101 00", (3, 4, "c0010100")),
        ("40c803 010203", (3, 2, "40c803010203")),
        ("400206 0901 0000fde9", (3, 11, "")),
        ("800e02 0002", (3, 9, "800e020002")),
    ];
    for (list, (code, subcode, data)) in rows {
        let octets = update(&[], &hex(list), &[]);
        assert_eq!(answer(&octets, &dialect(Side::External)), (code, subcode, data.to_owned()), "{list}");
    }
    let missing = decode(&route(&format!("{AS_PATH} {NEXT_HOP}")), &dialect(Side::External)).unwrap();
    let notification = missing.faults[0].notification();
    assert_eq!(notification.to_string(), "UPDATE Message Error/Missing Well-known Attribute");
    assert_eq!(notification.data, [1]);
}

/// Every row of the decoder's own table, as far as a row says what to expect.
#[test]
fn the_rows_of_the_table_hold() {
    for rule in RULES {
        for side in [Side::External, Side::Internal] {
            for four_octet_as in [false, true] {
                let dialect = Dialect { four_octet_as, ..dialect(side) };
                let action = if side == Side::External { rule.external } else { rule.internal };
                let accepted = match rule.accepted {
                    Accepted::FromAll => true,
                    Accepted::FromInternal => side == Side::Internal,
                    Accepted::FromTwoOctet => !four_octet_as,
                };
                let context = format!("{}, {side:?}, four octets {four_octet_as}", rule.name);
                let fault = |octets: Vec<u8>| first_fault(rule.code, &octets, &dialect);
                let bad_length: Vec<usize> =
                    (0..30).filter(|len| !rule.length.allows(*len, four_octet_as)).collect();
                for len in bad_length {
                    let found = fault(alone(rule.code, rule.flags, &vec![1; len], four_octet_as));
                    let kind = if accepted { FaultKind::Length } else { FaultKind::Unexpected };
                    assert_eq!(found, (kind, action), "{context}, length {len}");
                }
                let good = good_value(rule.code, rule.length);
                for flags in [0x00, 0x40, 0x80, 0xc0] {
                    if flags != rule.flags {
                        let found = fault(alone(rule.code, flags, &good, four_octet_as));
                        let expected = if accepted {
                            (FaultKind::Flags, Action::TreatAsWithdraw)
                        } else {
                            (FaultKind::Unexpected, Action::Discard)
                        };
                        assert_eq!(found, expected, "{context}, flags {flags:02x}");
                    }
                }
            }
        }
    }
}

/// A route whose attribute `code` is the one given, among sound ones.
fn alone(code: u8, flags: u8, value: &[u8], four_octet_as: bool) -> Vec<u8> {
    let as_path = if four_octet_as { AS_PATH } else { "400204 0201 fde9" };
    let mut list = attribute(flags, code, value);
    for (other, sound) in [(1, ORIGIN), (2, as_path), (3, NEXT_HOP)] {
        if other != code {
            list.extend(hex(sound));
        }
    }
    update(&[], &list, &hex(NLRI))
}

fn good_value(code: u8, length: Length) -> Vec<u8> {
    match (code, length) {
        (14, _) => hex("0001 01 04 c0000201 00"),
        (15, _) => hex("0001 01"),
        (_, Length::Exactly(len) | Length::MultipleOf(len)) => vec![1; len],
        _ => vec![],
    }
}

fn first_fault(code: u8, octets: &[u8], dialect: &Dialect) -> (FaultKind, Action) {
    let decoded = decode(octets, dialect).expect("a session that stands");
    let fault = decoded.faults.into_iter().find(|fault| fault.code == code);
    let fault = fault.unwrap_or_else(|| panic!("no fault of attribute {code}"));
    (fault.kind, fault.action)
}
