//! Octets as they stand in the RFCs and as other speakers send them, against values; both ways.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use manx_bgp::wire::{
    self, AddPathFamily, AfiSafi, Aggregator, Announcement, AsPath, Attributes, Capability, Community,
    Dialect, EncodeError, EncodedAttributes, ErrorCode, ExtendedCommunity, ExtendedNextHop, Framer,
    GracefulRestart, LargeCommunity, LongLivedFamily, Message, MessageType, NextHop, Nlri, Notification,
    Open, Origin, PathId, RefreshKind, RestartFamily, RouteRefresh, Segment, Side, UnknownAttribute, Update,
};
use manx_bgp::{Asn, Families, Family, Prefix, RouterId};

use crate::octets::{answer, attribute, decode, dialect, encode, good, hex, message, prefix, to_hex, update};

const V4: AfiSafi = AfiSafi { afi: 1, safi: 1 };
const V6: AfiSafi = AfiSafi { afi: 2, safi: 1 };

/// Checks both directions, octet by octet.
fn same(octets: &[u8], message: &Message, dialect: &Dialect) {
    assert_eq!(&good(octets, dialect), message);
    assert_eq!(to_hex(&encode(message, dialect)), to_hex(octets));
}

fn open(capabilities: Vec<Capability>) -> Open {
    let router_id = RouterId::new([10, 99, 0, 1].into()).expect("not zero");
    Open { asn: Asn(64512), hold_secs: 90, router_id, capabilities }
}

fn next_hop(text: &str) -> NextHop {
    text.parse::<IpAddr>().expect("an address").into()
}

fn announced(attributes: Attributes, prefixes: &[&str]) -> Message {
    let prefixes = prefixes.iter().copied().map(prefix);
    Message::Update(Announcement::new(attributes, prefixes).into())
}

// ── header and framer ──────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_keepalive_is_nothing_but_a_header() {
    let octets = hex("ffffffffffffffffffffffffffffffff 0013 04");
    same(&octets, &Message::Keepalive, &Dialect::BEFORE_OPEN);
}

#[test]
fn a_bad_header_is_answered_by_the_code_of_rfc_4271_6_1() {
    let bare = Dialect::BEFORE_OPEN;
    assert_eq!(answer(&hex("fffffffffffffffffffffffffffffffe 0013 04"), &bare), (1, 1, "".into()));
    for (kind, length) in
        [(4, 18), (4, 20), (4, 0), (1, 28), (1, 4097), (2, 22), (2, 4097), (3, 20), (5, 4097), (9, 12)]
    {
        let mut octets = message(kind, &[]);
        octets[16..18].copy_from_slice(&u16::to_be_bytes(length));
        assert_eq!(answer(&octets, &bare), (1, 2, format!("{length:04x}")), "type {kind}, {length} octets");
    }
    for kind in [0, 6, 7, 255] {
        assert_eq!(answer(&message(kind, &[]), &bare), (1, 3, format!("{kind:02x}")));
    }
}

#[test]
fn extended_messages_lengthen_all_but_open_and_keepalive() {
    for (kind, allowed) in [(1, false), (2, true), (3, true), (4, false), (5, true)] {
        let mut framer = Framer::new();
        framer.allow_extended_messages();
        let mut header = message(kind, &[]);
        header[16..18].copy_from_slice(&5000_u16.to_be_bytes());
        assert_eq!(framer.next(&mut header.as_slice()).is_ok(), allowed, "type {kind}");
    }
}

#[test]
fn messages_are_cut_out_of_the_stream_wherever_reads_divide_it() {
    let parts = [message(4, &[]), message(3, &[6, 2]), message(2, &[0; 4]), message(4, &[])];
    let stream = parts.concat();
    for size in 1..=stream.len() {
        let mut framer = Framer::new();
        let mut found = Vec::new();
        for mut read in stream.chunks(size) {
            while let Some(frame) = framer.next(&mut read).unwrap() {
                found.push(frame.octets().to_vec());
            }
            assert!(read.is_empty());
        }
        assert_eq!(found, parts, "reads of {size} octets");
    }
}

#[test]
fn a_bad_header_is_found_before_the_rest_of_its_message_arrives() {
    let mut framer = Framer::new();
    let header = hex("ffffffffffffffffffffffffffffffff 1001 02");
    assert!(framer.next(&mut &header[..18]).unwrap().is_none());
    assert!(framer.next(&mut &header[18..]).is_err());
}

// ── OPEN ───────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_open_without_capabilities_is_as_in_rfc_4271() {
    let octets = hex("ffffffffffffffffffffffffffffffff 001d 01 04 fc00 005a 0a630001 00");
    same(&octets, &Message::Open(open(vec![])), &Dialect::BEFORE_OPEN);
    let open = open(vec![]);
    assert_eq!(open.families(), Families::from_iter([Family::Ipv4Unicast]));
    assert!(!open.four_octet_as() && !open.extended_messages() && !open.extended_next_hop());
}

#[test]
fn every_capability_stands_on_the_wire_as_its_rfc_says() {
    let restart = GracefulRestart {
        restarting: true,
        notification: true,
        restart_secs: 120,
        families: vec![
            RestartFamily { family: V4, forwarding: true },
            RestartFamily { family: V6, forwarding: false },
        ],
    };
    let long_lived = LongLivedFamily { family: V4, forwarding: true, stale_secs: 86400 };
    let rows = [
        ("01 04 00010001", Capability::Multiprotocol(V4)),
        ("01 04 00020001", Capability::Multiprotocol(V6)),
        ("01 04 00190046", Capability::Multiprotocol(AfiSafi { afi: 25, safi: 70 })),
        ("02 00", Capability::RouteRefresh),
        (
            "05 06 0001 0001 0002",
            Capability::ExtendedNextHop(vec![ExtendedNextHop { family: V4, next_hop_afi: 2 }]),
        ),
        ("06 00", Capability::ExtendedMessages),
        ("09 01 04", Capability::Role(4)),
        ("40 0a c078 00010180 00020100", Capability::GracefulRestart(restart)),
        ("41 04 00010000", Capability::FourOctetAs(Asn(65536))),
        ("45 04 0001 01 03", Capability::AddPath(vec![AddPathFamily { family: V4, mode: 3 }])),
        ("46 00", Capability::EnhancedRouteRefresh),
        ("47 07 0001 01 80 015180", Capability::LongLivedGracefulRestart(vec![long_lived])),
        ("49 05 036e6f6400", Capability::Unknown { code: 73, value: hex("036e6f6400") }),
        ("4b 00", Capability::Unknown { code: 75, value: vec![] }),
    ];
    for (octets, capability) in rows {
        let capabilities = hex(octets);
        let len = capabilities.len() as u8;
        let body = [hex("04 fc00 005a 0a630001").as_slice(), &[len + 2, 2, len], &capabilities].concat();
        let mut expected = open(vec![capability]);
        if let [Capability::FourOctetAs(asn)] = *expected.capabilities {
            expected.asn = asn;
            let mut trans = body.clone();
            trans[1..3].copy_from_slice(&hex("5ba0"));
            same(&message(1, &trans), &Message::Open(expected), &Dialect::BEFORE_OPEN);
        } else {
            same(&message(1, &body), &Message::Open(expected), &Dialect::BEFORE_OPEN);
        }
    }
}

#[test]
fn an_open_with_the_capabilities_that_are_common_today_is_read() {
    let octets = message(
        1,
        &hex("04 fde9 0009 0a630001 34 02 32
         0104 00010001 0104 00020001 0200 0506 000100010002 4006 0078 00010180 4104 0000fde9
         4508 00010103 00020103 4600 4700"),
    );
    let Message::Open(open) = good(&octets, &Dialect::BEFORE_OPEN) else { panic!("an OPEN") };
    assert_eq!(open.asn, Asn(65001));
    assert_eq!(open.families(), Families::ALL);
    assert!(open.four_octet_as() && open.route_refresh() && open.enhanced_route_refresh());
    assert!(open.extended_next_hop() && !open.extended_messages());
    assert_eq!(open.graceful_restart().map(|restart| restart.restart_secs), Some(120));
}

#[test]
fn of_several_graceful_restarts_the_last_one_counts() {
    let capability = |restart_secs| {
        Capability::GracefulRestart(GracefulRestart { restart_secs, ..GracefulRestart::default() })
    };
    let open = open(vec![capability(1), capability(2), Capability::RouteRefresh]);
    assert_eq!(open.graceful_restart().map(|restart| restart.restart_secs), Some(2));
}

#[test]
fn several_parameters_with_one_capability_each_are_one_list() {
    let octets = message(1, &hex("04 fc00 005a 0a630001 10 0206 0104 00010001 0202 0200 0202 4600"));
    let capabilities =
        vec![Capability::Multiprotocol(V4), Capability::RouteRefresh, Capability::EnhancedRouteRefresh];
    assert_eq!(good(&octets, &Dialect::BEFORE_OPEN), Message::Open(open(capabilities)));
}

#[test]
fn long_capabilities_use_the_extended_parameters_of_rfc_9072() {
    let value = vec![7; 252];
    let capabilities =
        vec![Capability::Unknown { code: 200, value: value.clone() }, Capability::RouteRefresh];
    let body =
        [hex("04 fc00 005a 0a630001 ff ff 0103 02 0100 c8fc").as_slice(), &value, &hex("0200")].concat();
    same(&message(1, &body), &Message::Open(open(capabilities)), &Dialect::BEFORE_OPEN);
    // The first length is to be ignored, as long as it is not 0.
    let short = message(1, &hex("04 fc00 005a 0a630001 09 ff 0005 02 0002 0200"));
    let expected = Message::Open(open(vec![Capability::RouteRefresh]));
    assert_eq!(good(&short, &Dialect::BEFORE_OPEN), expected);
}

#[test]
fn a_bad_open_is_answered_by_the_code_of_rfc_4271_6_2() {
    let rows: &[(&str, &str, (u8, u8, &str))] = &[
        ("version 3", "03 fc00 005a 0a630001 00", (2, 1, "0004")),
        ("version 5, the rest nonsense", "05 0000 0001 00000000 07", (2, 1, "0004")),
        ("as 0", "04 0000 005a 0a630001 00", (2, 2, "")),
        ("as 0 in the capability", "04 fc00 005a 0a630001 08 0206 4104 00000000", (2, 2, "")),
        ("router id 0", "04 fc00 005a 00000000 00", (2, 3, "")),
        ("authentication parameter", "04 fc00 005a 0a630001 02 0100", (2, 4, "")),
        ("hold time 1", "04 fc00 0001 0a630001 00", (2, 6, "")),
        ("hold time 2", "04 fc00 0002 0a630001 00", (2, 6, "")),
        ("parameters longer than the message", "04 fc00 005a 0a630001 05 0202 0200", (2, 0, "")),
        ("parameters shorter than the message", "04 fc00 005a 0a630001 03 0202 0200", (2, 0, "")),
        ("parameters of 254 and no data", "04 fc00 005a 0a630001 fe", (2, 0, "")),
        ("parameters of 255 and no data", "04 fc00 005a 0a630001 ff", (2, 0, "")),
        ("no parameters, but data", "04 fc00 005a 0a630001 00 ff", (2, 0, "")),
        ("parameter header cut", "04 fc00 005a 0a630001 01 02", (2, 0, "")),
        ("extended parameters of none", "04 fc00 005a 0a630001 00 ff 0005 02 0002 0200", (2, 0, "")),
        ("extended length cut to 1", "04 fc00 005a 0a630001 ff ff 00", (2, 0, "")),
        ("extended length lies", "04 fc00 005a 0a630001 ff ff 0006 02 0002 0200", (2, 0, "")),
        ("extended parameter cut", "04 fc00 005a 0a630001 ff ff 0002 02 00", (2, 0, "")),
        ("capability overruns its parameter", "04 fc00 005a 0a630001 05 0203 0104 00", (2, 0, "")),
        ("capability without a length", "04 fc00 005a 0a630001 03 0201 02", (2, 0, "")),
        ("multiprotocol of 3 octets", "04 fc00 005a 0a630001 07 0205 0103 000100", (2, 0, "")),
        ("four-octet as of 2 octets", "04 fc00 005a 0a630001 06 0204 4102 fc00", (2, 0, "")),
        ("graceful restart of 1 octet", "04 fc00 005a 0a630001 05 0203 4001 00", (2, 0, "")),
        ("graceful restart of 5 octets", "04 fc00 005a 0a630001 09 0207 4005 0000000101", (2, 0, "")),
        ("route refresh of 1 octet", "04 fc00 005a 0a630001 05 0203 0201 00", (2, 0, "")),
    ];
    for (name, body, (code, subcode, data)) in rows {
        let octets = message(1, &hex(body));
        assert_eq!(answer(&octets, &Dialect::BEFORE_OPEN), (*code, *subcode, data.to_string()), "{name}");
    }
}

#[test]
fn a_hold_time_of_none_and_of_three_seconds_is_good() {
    for hold_secs in [0, 3, 65535] {
        let open = Open { hold_secs, ..open(vec![]) };
        let octets = encode(&Message::Open(open.clone()), &Dialect::BEFORE_OPEN);
        assert_eq!(good(&octets, &Dialect::BEFORE_OPEN), Message::Open(open));
    }
}

#[test]
fn what_does_not_fit_into_an_open_is_refused_whole() {
    let long = Capability::Unknown { code: 200, value: vec![0; 256] };
    let mut buf = vec![1, 2, 3];
    let outcome = wire::encode(&Message::Open(open(vec![long])), &Dialect::BEFORE_OPEN, &mut buf);
    assert_eq!(outcome, Err(EncodeError::CapabilityTooLarge(200)));
    let many = vec![Capability::Unknown { code: 200, value: vec![0; 255] }; 17];
    let extended = Dialect { extended_messages: true, ..dialect(Side::Internal) };
    let outcome = wire::encode(&Message::Open(open(many)), &extended, &mut buf);
    assert_eq!(outcome, Err(EncodeError::MessageTooLarge { kind: MessageType::Open, limit: 4096 }));
    assert_eq!(buf, [1, 2, 3]);
}

// ── UPDATE ─────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_announcement_of_ipv4_is_as_in_rfc_4271() {
    let octets = hex("ffffffffffffffffffffffffffffffff 0036 02 0000 0014
        400101 00  400206 0201 0000fde9  400304 c0000201  1a0af40800 | 00 | 20c6336401");
    let mut attributes = Attributes::new(next_hop("192.0.2.1"));
    attributes.as_path = AsPath::sequence([Asn(65001)]);
    let expected = announced(attributes, &["10.244.8.0/26", "0.0.0.0/0", "198.51.100.1/32"]);
    same(&octets, &expected, &dialect(Side::External));
}

#[test]
fn every_attribute_stands_on_the_wire_as_its_rfc_says() {
    let mut attributes = Attributes::new(next_hop("192.0.2.1"));
    attributes.origin = Origin::Incomplete;
    attributes.as_path = AsPath::sequence([Asn(65001), Asn(4_200_000_000)]);
    attributes.med = Some(5);
    attributes.local_pref = Some(200);
    attributes.atomic_aggregate = true;
    attributes.aggregator = Some(Aggregator { asn: Asn(65001), router: [10, 0, 0, 1].into() });
    attributes.communities = BTreeSet::from([Community::new(65000, 100), Community::NO_EXPORT]);
    attributes.originator_id = Some([10, 0, 0, 2].into());
    attributes.cluster_list = vec![[10, 0, 0, 4].into(), [10, 0, 0, 3].into()];
    attributes.extended_communities = BTreeSet::from([ExtendedCommunity([0, 2, 0xfd, 0xe8, 0, 0, 0, 100])]);
    attributes.large_communities = BTreeSet::from([LargeCommunity { global: 65000, local1: 1, local2: 2 }]);
    attributes.only_to_customer = Some(Asn(65000));
    attributes.unknown = vec![UnknownAttribute { code: 200, value: [1, 2, 3].into() }];
    let list = hex("400101 02  40020a 0202 0000fde9 fa56ea00  400304 c0000201  800404 00000005
        400504 000000c8  400600  c00708 0000fde90a000001  c00808 fde80064 ffffff01  800904 0a000002
        800a08 0a0000040a000003  c01008 0002fde800000064  c0200c 0000fde80000000100000002
        c02304 0000fde8  e0c803 010203");
    let octets = update(&[], &list, &hex("08 0a"));
    same(&octets, &announced(attributes, &["10.0.0.0/8"]), &dialect(Side::Internal));
}

#[test]
fn ipv6_goes_into_mp_reach_first_in_the_list() {
    let list =
        hex("900e 0026 0002 01 10 20010db8000000000000000000000001 00 7a fd000010024400000000000000000040
        400101 00 400200");
    let octets = update(&[], &list, &[]);
    // 0x7a is 122 bits, so sixteen octets follow.
    let attributes = Attributes::new(next_hop("2001:db8::1"));
    same(&octets, &announced(attributes, &["fd00:10:244::40/122"]), &dialect(Side::Internal));
}

#[test]
fn a_next_hop_of_32_octets_carries_the_link_local_address() {
    let global = "20010db8000000000000000000000001";
    let link_local = "fe800000000000000000000000000001";
    let mp_reach = |first: &str, second: &str| {
        let value = hex(&format!("0002 01 20 {first}{second} 00 30 fd0000100244"));
        update(&[], &[hex("900e"), vec![0, value.len() as u8], value, hex("400101 00 400200")].concat(), &[])
    };
    let both =
        NextHop::V6 { address: "2001:db8::1".parse().unwrap(), link_local: Some("fe80::1".parse().unwrap()) };
    let message = announced(Attributes::new(both), &["fd00:10:244::/48"]);
    same(&mp_reach(global, link_local), &message, &dialect(Side::Internal));
    // What is not link-local in the second place is not used; two link-local ones or none in front are one.
    let cases = [(global, global, "2001:db8::1"), (link_local, link_local, "fe80::1")];
    let nothing = "00000000000000000000000000000000";
    for (first, second, expected) in cases.into_iter().chain([(nothing, link_local, "fe80::1")]) {
        let message = announced(Attributes::new(next_hop(expected)), &["fd00:10:244::/48"]);
        assert_eq!(good(&mp_reach(first, second), &dialect(Side::Internal)), message);
    }
}

#[test]
fn ipv4_goes_behind_an_ipv6_next_hop_where_that_was_negotiated() {
    let list = hex("900e 001a 0001 01 10 20010db8000000000000000000000001 00 1a0af40340 400101 00 400200");
    let octets = update(&[], &list, &[]);
    let message = announced(Attributes::new(next_hop("2001:db8::1")), &["10.244.3.64/26"]);
    let plain = dialect(Side::Internal);
    same(&octets, &message, &Dialect { extended_next_hop: true, ..plain });
    let outcome = wire::encode(&message, &plain, &mut Vec::new());
    assert_eq!(outcome, Err(EncodeError::NextHop { family: Family::Ipv4Unicast }));
}

#[test]
fn a_next_hop_that_is_only_link_local_is_told_twice_and_understood_in_every_form() {
    let extended = Dialect { extended_next_hop: true, ..dialect(Side::Internal) };
    let message = announced(Attributes::new(next_hop("fe80::1")), &["10.244.3.64/26"]);
    let local = "fe800000000000000000000000000001";
    let list = |hops: &str| {
        let len = hops.len() / 2;
        hex(&format!("900e 00{:02x} 0001 01 {len:02x} {hops} 00 1a0af40340 400101 00 400200", len + 10))
    };
    same(&update(&[], &list(&format!("{local}{local}")), &[]), &message, &extended);
    let unspecified = "0".repeat(32);
    for other in [local.to_owned(), format!("{unspecified}{local}")] {
        assert_eq!(good(&update(&[], &list(&other), &[]), &extended), message, "{other}");
    }
}

#[test]
fn ipv4_in_mp_reach_with_an_ipv4_next_hop_is_read_as_well() {
    let list = hex("800e 0e 0001 01 04 c0000201 00 1a0af40340 400101 00 400200");
    let message = announced(Attributes::new(next_hop("192.0.2.1")), &["10.244.3.64/26"]);
    assert_eq!(good(&update(&[], &list, &[]), &dialect(Side::Internal)), message);
}

#[test]
fn classic_and_multiprotocol_routes_in_one_message_have_a_next_hop_each() {
    let list = hex("800e 1c 0002 01 10 20010db8000000000000000000000001 00 30 fd0000100244
        400101 00 400200 400304 c0000201");
    let Message::Update(update) = good(&update(&[], &list, &hex("08 0a")), &dialect(Side::Internal)) else {
        panic!("an UPDATE")
    };
    let found: Vec<_> =
        update.announced.iter().map(|it| (it.attributes.next_hop.to_string(), it.prefixes.clone())).collect();
    let expected = [
        ("192.0.2.1".to_owned(), vec![prefix("10.0.0.0/8").into()]),
        ("2001:db8::1".to_owned(), vec![prefix("fd00:10:244::/48").into()]),
    ];
    assert_eq!(found, expected);
}

#[test]
fn withdrawals_of_both_families_stand_as_in_their_rfcs() {
    let v4 = Update::withdrawal([prefix("10.244.3.64/26"), prefix("10.0.0.0/8")]);
    let octets = update(&hex("1a0af40340 080a"), &[], &[]);
    same(&octets, &Message::Update(v4), &dialect(Side::Internal));
    let v6 = Update::withdrawal([prefix("fd00:10:244::/48"), prefix("::/0")]);
    let octets = update(&[], &hex("900f 000b 0002 01 30 fd0000100244 00"), &[]);
    same(&octets, &Message::Update(v6), &dialect(Side::Internal));
}

#[test]
fn unknown_attributes_are_kept_in_the_order_of_their_types() {
    let list = hex("400101 00 400200 400304 c0000201 c0ff01 01 c0c801 02");
    let Message::Update(update) = good(&update(&[], &list, &hex("080a")), &dialect(Side::Internal)) else {
        panic!("an UPDATE")
    };
    let codes: Vec<u8> = update.announced[0].attributes.unknown.iter().map(|it| it.code).collect();
    assert_eq!(codes, [200, 255]);
}

#[test]
fn bits_beyond_a_prefix_length_do_not_count() {
    let list = hex("400101 00 400200 400304 c0000201");
    let octets = update(&[], &list, &hex("1a 0af4037f | 09 0aff"));
    let expected = announced(Attributes::new(next_hop("192.0.2.1")), &["10.244.3.64/26", "10.128.0.0/9"]);
    assert_eq!(good(&octets, &dialect(Side::Internal)), expected);
}

#[test]
fn the_end_of_rib_is_an_update_with_truly_nothing_in_it() {
    let internal = dialect(Side::Internal);
    same(&update(&[], &[], &[]), &Message::EndOfRib(Family::Ipv4Unicast), &internal);
    same(&update(&[], &hex("800f03 000201"), &[]), &Message::EndOfRib(Family::Ipv6Unicast), &internal);
    let mp_ipv4 = update(&[], &hex("900f0003 000101"), &[]);
    assert_eq!(good(&mp_ipv4, &internal), Message::EndOfRib(Family::Ipv4Unicast));
    let nothing = Message::Update(Update::default());
    for (name, list) in [
        ("another attribute beside it", "800f03 000201 400101 00"),
        ("another attribute and no MP_UNREACH", "400101 00"),
        ("MP_REACH without prefixes", "800e15 0002 01 10 20010db8000000000000000000000001 00"),
        ("an unknown attribute beside it", "800f03 000201 c0c800"),
        ("a family that was not negotiated", "800f03 000102"),
        ("wrong flags", "c00f03 000201"),
    ] {
        assert_eq!(decode(&update(&[], &hex(list), &[]), &internal).unwrap().message, nothing, "{name}");
    }
    let ipv6_only = Dialect { families: Families::from_iter([Family::Ipv6Unicast]), ..internal };
    assert_eq!(good(&update(&[], &[], &[]), &ipv6_only), nothing);
}

#[test]
fn routes_of_families_that_were_not_negotiated_are_ignored() {
    let list = hex("400101 00 400200 400304 c0000201");
    let octets = update(&hex("080b"), &list, &hex("080a"));
    let ipv6_only =
        Dialect { families: Families::from_iter([Family::Ipv6Unicast]), ..dialect(Side::Internal) };
    assert_eq!(good(&octets, &ipv6_only), Message::Update(Update::default()));
}

// ── four-octet autonomous system numbers (RFC 6793) ────────────────────────────────────────────────────

#[test]
fn a_two_octet_peer_gets_as_trans_and_the_truth_beside_it() {
    let narrow = Dialect { four_octet_as: false, ..dialect(Side::External) };
    let mut attributes = Attributes::new(next_hop("192.0.2.1"));
    attributes.as_path = AsPath::sequence([Asn(65001), Asn(4_200_000_000)]);
    attributes.aggregator = Some(Aggregator { asn: Asn(4_200_000_000), router: [10, 0, 0, 1].into() });
    let list = hex("400101 00 400206 0202 fde95ba0 400304 c0000201 c00706 5ba00a000001
        c0110a 0202 0000fde9fa56ea00 c01208 fa56ea000a000001");
    same(&update(&[], &list, &hex("080a")), &announced(attributes, &["10.0.0.0/8"]), &narrow);
}

#[test]
fn a_two_octet_peer_gets_nothing_beside_a_path_that_it_can_read() {
    let narrow = Dialect { four_octet_as: false, ..dialect(Side::External) };
    let mut attributes = Attributes::new(next_hop("192.0.2.1"));
    attributes.as_path = AsPath::sequence([Asn(65001)]);
    let list = hex("400101 00 400204 0201 fde9 400304 c0000201");
    same(&update(&[], &list, &hex("080a")), &announced(attributes, &["10.0.0.0/8"]), &narrow);
}

#[test]
fn the_four_octet_path_replaces_the_tail_of_the_narrow_one() {
    let narrow = Dialect { four_octet_as: false, ..dialect(Side::External) };
    let rows = [
        ("tail replaced", "0203 0001 5ba0 5ba0", "0202 00010000 00010001", "1 65536 65537"),
        ("all replaced", "0202 5ba0 5ba0", "0202 00010000 00010001", "65536 65537"),
        ("longer than the path: ignored", "0201 5ba0", "0202 00010000 00010001", "23456"),
        ("a set is one hop", "0202 0001 5ba0 0102 0002 0003", "0201 00010000 0101 00000002", "1 65536 {2}"),
        ("a leading set is kept", "0102 0001 0002 0201 5ba0", "0201 00010000", "{1,2} 65536"),
        ("confederation segments skipped", "0202 0001 5ba0", "0301 00000009 0201 00010000", "1 65536"),
        ("empty: nothing replaced", "0202 0001 5ba0", "", "1 23456"),
    ];
    for (name, path, as4, expected) in rows {
        let list = [
            hex("400101 00 400304 c0000201"),
            attribute(0xc0, 17, &hex(as4)),
            attribute(0x40, 2, &hex(path)),
        ];
        let Message::Update(update) = good(&update(&[], &list.concat(), &hex("080a")), &narrow) else {
            panic!("an UPDATE")
        };
        assert_eq!(update.announced[0].attributes.as_path.to_string(), expected, "{name}");
    }
}

#[test]
fn an_aggregator_who_knew_no_four_octet_numbers_makes_the_wide_attributes_void() {
    let narrow = Dialect { four_octet_as: false, ..dialect(Side::External) };
    let list = hex("400101 00 400206 0202 fde95ba0 400304 c0000201 c00706 fde80a000001
        c01106 0201 fa56ea00 c01208 fa56ea000a000001");
    let Message::Update(update) = good(&update(&[], &list, &hex("080a")), &narrow) else {
        panic!("an UPDATE")
    };
    let attributes = &update.announced[0].attributes;
    assert_eq!(attributes.as_path.to_string(), "65001 23456");
    assert_eq!(attributes.aggregator.map(|it| it.asn), Some(Asn(65000)));
}

// ── AS_PATH as a value ─────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_path_counts_sets_once_and_knows_its_ends() {
    let list =
        hex("400101 00 40021a 0202 0000000100000002 0102 0000000300000004 0201 00000005 400304 c0000201");
    let Message::Update(update) = good(&update(&[], &list, &hex("080a")), &dialect(Side::External)) else {
        panic!("an UPDATE")
    };
    let path = &update.announced[0].attributes.as_path;
    assert_eq!((path.to_string().as_str(), path.hops()), ("1 2 {3,4} 5", 4));
    assert_eq!((path.first(), path.origin()), (Some(Asn(1)), Some(Asn(5))));
    assert!(path.contains(Asn(4)) && !path.contains(Asn(6)));
    let longer = path.prepended(Asn(9), 2);
    assert_eq!((longer.to_string().as_str(), longer.hops()), ("9 9 1 2 {3,4} 5", 6));
    let set = |asns: &[u32]| asns.iter().copied().map(Asn).collect::<Vec<_>>();
    let segments: Vec<_> = longer.segments().collect();
    assert_eq!(segments[0], Segment::Sequence(&set(&[9, 9, 1, 2])));
    assert_eq!(segments[1], Segment::Set(&set(&[3, 4])));
    assert_eq!(AsPath::default().hops(), 0);
    assert_eq!((AsPath::default().first(), AsPath::default().origin()), (None, None));
}

#[test]
fn a_path_is_read_as_it_is_written() {
    for text in ["", "65000", "65000 64512 {1,2}", "{1} {2,3} 4200000000 5"] {
        assert_eq!(text.parse::<AsPath>().unwrap().to_string(), text);
    }
    let too_many: Vec<String> = (1..=256).map(|asn: u32| asn.to_string()).collect();
    for text in ["0", "x", "{}", "{1", "1}", "{1, 2}", "4294967296", &format!("{{{}}}", too_many.join(","))] {
        assert!(text.parse::<AsPath>().is_err(), "{text}");
    }
}

#[test]
fn a_path_of_more_than_255_systems_is_cut_into_segments_and_put_together_again() {
    let mut attributes = Attributes::new(next_hop("192.0.2.1"));
    attributes.as_path = (1..=600).map(Asn).collect();
    let message = announced(attributes, &["10.0.0.0/8"]);
    let octets = encode(&message, &dialect(Side::External));
    assert!(octets.windows(2).any(|pair| pair == [2, 255]));
    assert_eq!(good(&octets, &dialect(Side::External)), message);
}

// ── communities as text ────────────────────────────────────────────────────────────────────────────────

#[test]
fn communities_are_read_and_written_as_operators_do() {
    for text in ["65000:100", "0:0", "65535:65535", "no-export", "graceful-shutdown", "blackhole"] {
        assert_eq!(text.parse::<Community>().unwrap().to_string(), text);
    }
    assert_eq!("65535:65281".parse(), Ok(Community::NO_EXPORT));
    for text in ["", "65000", "65536:1", "1:2:3", "no-such", ":", "1:", "-1:0"] {
        let error = text.parse::<Community>().unwrap_err();
        assert!(error.to_string().contains("is not a community"), "{error}");
    }
    assert_eq!("4200000000:1:2".parse::<LargeCommunity>().unwrap().to_string(), "4200000000:1:2");
    for text in ["", "1:2", "1:2:3:4", "4294967296:0:0", "a:b:c"] {
        assert!(text.parse::<LargeCommunity>().is_err(), "{text}");
    }
    assert_eq!(ExtendedCommunity([0, 2, 0xfd, 0xe8, 0, 0, 0, 100]).to_string(), "rt:65000:100");
    assert_eq!(ExtendedCommunity([2, 3, 0, 1, 0, 0, 0, 100]).to_string(), "ro:65536:100");
    assert!(!ExtendedCommunity([0x40, 4, 0, 0, 0, 0, 0, 0]).is_transitive());
}

// ── several paths per prefix (RFC 7911) ────────────────────────────────────────────────────────────────

fn path(text: &str, id: u32) -> Nlri {
    Nlri { prefix: prefix(text), path: PathId(id) }
}

#[test]
fn path_identifiers_stand_before_prefixes_in_every_field() {
    let both = Dialect { paths_in: Families::ALL, paths_out: Families::ALL, ..dialect(Side::Internal) };
    let v4 = Announcement::new(
        Attributes::new(next_hop("192.0.2.1")),
        [path("10.244.3.64/26", 1), path("10.244.3.64/26", 0x0102_0304), path("0.0.0.0/0", u32::MAX)],
    );
    let list = hex("400101 00 400200 400304 c0000201");
    let nlri = hex("00000001 1a 0af40340 01020304 1a 0af40340 ffffffff 00");
    same(&update(&[], &list, &nlri), &Message::Update(v4.into()), &both);
    let gone = Message::Update(Update::withdrawal([path("10.0.0.0/8", 7), path("10.0.0.0/8", 8)]));
    same(&update(&hex("00000007 08 0a 00000008 08 0a"), &[], &[]), &gone, &both);
    let v6 = Announcement::new(Attributes::new(next_hop("2001:db8::1")), [path("fd00:10:244::/48", 9)]);
    let list = hex("900e 0020 0002 01 10 20010db8000000000000000000000001 00 00000009 30 fd0000100244
        400101 00 400200");
    same(&update(&[], &list, &[]), &Message::Update(v6.into()), &both);
    let gone = Message::Update(Update::withdrawal([path("fd00:10:244::/48", 9)]));
    same(&update(&[], &hex("900f 000e 0002 01 00000009 30 fd0000100244"), &[]), &gone, &both);
}

#[test]
fn a_family_without_path_identifiers_is_read_without_beside_one_with() {
    let ipv6 = Families::from_iter([Family::Ipv6Unicast]);
    let dialect = Dialect { paths_in: ipv6, ..dialect(Side::Internal) };
    let list = hex("800f 0e 0002 01 00000009 30 fd0000100244");
    let Message::Update(update) = good(&update(&hex("08 0a"), &list, &[]), &dialect) else {
        panic!("an UPDATE")
    };
    assert_eq!(update.withdrawn, [path("10.0.0.0/8", 0), path("fd00:10:244::/48", 9)]);
}

// ── packing ────────────────────────────────────────────────────────────────────────────────────────────

fn thousands(family: Family, count: u32) -> Vec<Nlri> {
    let address = |n: u32| match family {
        Family::Ipv4Unicast => IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + (n << 6))),
        Family::Ipv6Unicast => IpAddr::V6((0xfd00_u128 << 112 | u128::from(n) << 64).into()),
    };
    let len = if family == Family::Ipv4Unicast { 26 } else { 64 };
    let one = |n| Nlri { prefix: Prefix::masked(address(n), len).expect("a good length"), path: PathId(0) };
    (0..count).map(one).collect()
}

#[test]
fn messages_are_filled_to_the_limit_and_nothing_is_lost() {
    for (family, hop) in [(Family::Ipv4Unicast, "192.0.2.1"), (Family::Ipv6Unicast, "2001:db8::1")] {
        for (extended_messages, paths) in
            [(false, Families::NONE), (true, Families::NONE), (false, Families::ALL)]
        {
            let dialect =
                Dialect { extended_messages, paths_in: paths, paths_out: paths, ..dialect(Side::Internal) };
            let limit = dialect.limit(MessageType::Update);
            let prefixes = thousands(family, 20_000);
            let attributes = EncodedAttributes::new(&Attributes::new(next_hop(hop)), &dialect);
            let mut left = prefixes.iter().copied().peekable();
            let mut found = Vec::new();
            while left.peek().is_some() {
                let mut buf = Vec::new();
                let count = wire::announce(&attributes, &mut left, &dialect, &mut buf).unwrap();
                assert!(buf.len() <= limit, "{} octets", buf.len());
                assert!(
                    left.peek().is_none() || buf.len() + 13 > limit,
                    "room is left in {} octets",
                    buf.len()
                );
                let Message::Update(update) = good(&buf, &dialect) else { panic!("an UPDATE") };
                assert_eq!(update.announced[0].prefixes.len(), count);
                found.extend(update.announced.into_iter().flat_map(|it| it.prefixes));
            }
            assert_eq!(found, prefixes);
            let mut left = prefixes.iter().copied().peekable();
            let mut found = Vec::new();
            while left.peek().is_some() {
                let mut buf = Vec::new();
                wire::withdraw(&mut left, &dialect, &mut buf);
                assert!(buf.len() <= limit, "{} octets", buf.len());
                assert!(
                    left.peek().is_none() || buf.len() + 13 > limit,
                    "room is left in {} octets",
                    buf.len()
                );
                let Message::Update(update) = good(&buf, &dialect) else { panic!("an UPDATE") };
                found.extend(update.withdrawn);
            }
            assert_eq!(found, prefixes);
        }
    }
}

#[test]
fn one_message_never_mixes_families() {
    let dialect = dialect(Side::Internal);
    let mixed = ["10.0.0.0/8", "10.1.0.0/16", "fd00::/48", "11.0.0.0/8"].map(|text| prefix(text).into());
    let mut left = mixed.into_iter().peekable();
    let mut counts = Vec::new();
    while left.peek().is_some() {
        counts.push(wire::withdraw(&mut left, &dialect, &mut Vec::new()));
    }
    assert_eq!(counts, [2, 1, 1]);
}

#[test]
fn attributes_that_leave_no_room_are_refused_and_no_prefix_is_lost() {
    let dialect = dialect(Side::Internal);
    for (family, hop) in [(Family::Ipv4Unicast, "192.0.2.1"), (Family::Ipv6Unicast, "2001:db8::1")] {
        let mut refused = 0;
        for count in [900, 1000, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1100, 20_000] {
            let mut attributes = Attributes::new(next_hop(hop));
            attributes.communities = (0..count).map(Community).collect();
            let encoded = EncodedAttributes::new(&attributes, &dialect);
            let mut prefixes = thousands(family, 3).into_iter().peekable();
            let mut buf = vec![1];
            match wire::announce(&encoded, &mut prefixes, &dialect, &mut buf) {
                Ok(_) => assert!(buf.len() <= 4097, "{} octets", buf.len()),
                Err(error) => {
                    refused += 1;
                    assert_eq!(error, EncodeError::AttributesTooLarge { limit: 4096 });
                    assert_eq!((buf.as_slice(), prefixes.count()), ([1].as_slice(), 3));
                }
            }
        }
        assert!((2..13).contains(&refused), "{refused} refused");
    }
}

#[test]
fn an_external_peer_is_told_nothing_that_stays_inside() {
    let external = dialect(Side::External);
    let mut attributes = Attributes::new(next_hop("192.0.2.1"));
    let plain = EncodedAttributes::new(&attributes, &external);
    attributes.local_pref = Some(200);
    attributes.originator_id = Some([1, 1, 1, 1].into());
    attributes.cluster_list = vec![[1, 1, 1, 1].into()];
    assert_eq!(EncodedAttributes::new(&attributes, &external), plain);
}

#[test]
fn an_ipv6_prefix_needs_an_ipv6_next_hop() {
    let message = announced(Attributes::new(next_hop("192.0.2.1")), &["fd00::/48"]);
    let outcome = wire::encode(&message, &dialect(Side::Internal), &mut Vec::new());
    assert_eq!(outcome, Err(EncodeError::NextHop { family: Family::Ipv6Unicast }));
}

// ── NOTIFICATION ───────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_shutdown_carries_its_reason_in_words() {
    let notification = Notification::shutdown("node-7 drains");
    let octets = message(3, &hex("06 02 0d 6e6f64652d3720647261696e73"));
    assert_eq!(notification.communication(), Some("node-7 drains"));
    assert_eq!(notification.to_string(), "Cease/Administrative Shutdown: node-7 drains");
    same(&octets, &Message::Notification(notification), &Dialect::BEFORE_OPEN);
    assert_eq!(Notification::shutdown("").data, []);
    assert_eq!(Notification::administrative_reset("x").to_string(), "Cease/Administrative Reset: x");
}

#[test]
fn a_long_reason_is_cut_at_the_end_of_a_character() {
    let notification = Notification::shutdown(&"ä".repeat(200));
    assert_eq!(notification.communication(), Some("ä".repeat(127).as_str()));
    assert_eq!(notification.data.len(), 255);
}

#[test]
fn a_bad_reason_is_no_reason() {
    for data in ["", "00", "05 61", "02 fffe", "ff"] {
        let notification = Notification { code: ErrorCode::ADMINISTRATIVE_SHUTDOWN, data: hex(data) };
        assert_eq!(notification.communication(), None, "{data}");
        assert_eq!(notification.to_string(), "Cease/Administrative Shutdown");
    }
    let other = Notification { code: ErrorCode::COLLISION, data: hex("01 61") };
    assert_eq!(other.communication(), None);
}

#[test]
fn a_reason_cannot_write_on_the_terminal_of_its_reader() {
    let notification = Notification::shutdown("a\n\u{1b}[31mb");
    assert_eq!(notification.to_string(), "Cease/Administrative Shutdown: a\\n\\u{1b}[31mb");
}

#[test]
fn a_hard_reset_wraps_its_cause() {
    let hard = Notification::shutdown("bye").into_hard_reset();
    let octets = message(3, &hex("06 09 06 02 03 627965"));
    assert_eq!(hard.to_string(), "Cease/Hard Reset: Cease/Administrative Shutdown: bye");
    assert_eq!(hard.hard_reset_cause(), Some(Notification::shutdown("bye")));
    same(&octets, &Message::Notification(hard), &Dialect::BEFORE_OPEN);
    assert_eq!(Notification::from(ErrorCode::HARD_RESET).to_string(), "Cease/Hard Reset");
    assert_eq!(Notification::from(ErrorCode::COLLISION).hard_reset_cause(), None);
}

#[test]
fn codes_are_named_and_unknown_ones_numbered() {
    let name = |code, subcode| ErrorCode { code, subcode }.to_string();
    assert_eq!(name(1, 2), "Message Header Error/Bad Message Length");
    assert_eq!(name(2, 6), "OPEN Message Error/Unacceptable Hold Time");
    assert_eq!(name(2, 0), "OPEN Message Error");
    assert_eq!(name(3, 11), "UPDATE Message Error/Malformed AS_PATH");
    assert_eq!(name(4, 0), "Hold Timer Expired");
    assert_eq!(name(5, 3), "Finite State Machine Error/Receive Unexpected Message in Established State");
    assert_eq!(name(6, 1), "Cease/Maximum Number of Prefixes Reached");
    assert_eq!(name(6, 10), "Cease/BFD Down");
    assert_eq!(name(6, 99), "Cease/99");
    assert_eq!(name(7, 1), "ROUTE-REFRESH Message Error/Invalid Message Length");
    assert_eq!(name(8, 0), "Send Hold Timer Expired");
    assert_eq!(name(77, 3), "Error 77/3");
}

#[test]
fn too_many_prefixes_are_told_with_family_and_limit() {
    let notification = Notification::max_prefixes(Family::Ipv6Unicast, 1000);
    let octets = message(3, &hex("06 01 0002 01 000003e8"));
    same(&octets, &Message::Notification(notification), &Dialect::BEFORE_OPEN);
}

#[test]
fn data_that_does_not_fit_is_cut() {
    let code = ErrorCode::ATTRIBUTE_LENGTH;
    let long = Message::Notification(Notification { code, data: vec![7; 60_000] });
    assert_eq!(encode(&long, &Dialect::BEFORE_OPEN).len(), 4096);
    let extended = Dialect { extended_messages: true, ..dialect(Side::Internal) };
    assert_eq!(encode(&long, &extended).len(), 60_021);
}

// ── ROUTE-REFRESH ──────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_route_refresh_is_as_in_rfc_2918_and_7313() {
    for (octets, family, kind) in [
        ("0001 00 01", V4, RefreshKind::Request),
        ("0002 01 01", V6, RefreshKind::Begin),
        ("0002 02 01", V6, RefreshKind::End),
        ("0019 00 46", AfiSafi { afi: 25, safi: 70 }, RefreshKind::Request),
        ("0001 07 01", V4, RefreshKind::Unknown(7)),
    ] {
        let expected = Message::RouteRefresh(RouteRefresh { family, kind });
        same(&message(5, &hex(octets)), &expected, &dialect(Side::Internal));
    }
}

#[test]
fn a_route_refresh_of_a_wrong_length_is_answered_by_its_subtype() {
    let internal = dialect(Side::Internal);
    assert_eq!(answer(&message(5, &hex("000100")), &internal), (1, 2, "0016".into()));
    assert_eq!(answer(&message(5, &hex("0001")), &internal), (1, 2, "0015".into()));
    assert_eq!(answer(&message(5, &hex("0001000180")), &internal), (1, 2, "0018".into()));
    for body in ["000101", "0001020100"] {
        let octets = message(5, &hex(body));
        assert_eq!(answer(&octets, &internal), (7, 1, to_hex(&octets)));
    }
    assert!(decode(&message(5, &hex("0001090100")), &internal).is_ok(), "unknown subtypes are ignored");
}
