//! Against an independent decoder: bgp-rs 0.6, within what it can read.
//!
//! It guesses the width of autonomous system numbers and the presence of path identifiers from the
//! octets, so the generators keep to numbers and prefixes that cannot be mistaken. It knows nothing of
//! OTC and drops unknown attributes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bgp_rs::{Identifier, NLRIEncoding, OpenCapability, OpenParameter, PathAttribute};
use manx_bgp::wire::{
    Announcement, AsPath, Attributes, Capability, Dialect, ExtendedCommunity, Message, NextHop, Origin,
    PathId, RefreshKind, Segment, Side, Update,
};
use manx_bgp::{Families, Prefix};
use proptest::prelude::*;

use crate::octets::{encode, good};
use crate::strategies;

/// What bgp-rs makes of one message.
fn theirs(octets: &[u8], four_octet_as: bool) -> bgp_rs::Message {
    let capabilities = bgp_rs::Capabilities { FOUR_OCTET_ASN_SUPPORT: four_octet_as, ..Default::default() };
    let mut reader = bgp_rs::Reader { stream: octets, capabilities };
    let (header, message) = reader.read().expect("bgp-rs reads the message");
    assert_eq!(usize::from(header.length), octets.len());
    message
}

fn dialect(four_octet_as: bool) -> Dialect {
    Dialect {
        side: Side::Internal,
        families: Families::ALL,
        four_octet_as,
        extended_messages: false,
        extended_next_hop: false,
        paths_in: Families::NONE,
        paths_out: Families::NONE,
    }
}

fn to_prefixes(nlri: &[NLRIEncoding]) -> Vec<Prefix> {
    let one = |nlri: &NLRIEncoding| match nlri {
        NLRIEncoding::IP(prefix) => Prefix::masked(IpAddr::from(prefix), prefix.length).expect("a prefix"),
        other => panic!("bgp-rs saw {other:?}"),
    };
    nlri.iter().map(one).collect()
}

fn to_path(path: &bgp_rs::ASPath) -> AsPath {
    let text =
        |asns: &[u32], separator: &str| asns.iter().map(u32::to_string).collect::<Vec<_>>().join(separator);
    let segments = path.segments.iter().map(|segment| match segment {
        bgp_rs::Segment::AS_SEQUENCE(asns) => text(asns, " "),
        bgp_rs::Segment::AS_SET(asns) => format!("{{{}}}", text(asns, ",")),
    });
    segments.collect::<Vec<_>>().join(" ").parse().expect("a path")
}

fn to_next_hop(octets: &[u8]) -> NextHop {
    let v6 = |octets: &[u8]| Ipv6Addr::from(<[u8; 16]>::try_from(octets).expect("sixteen octets"));
    match octets.len() {
        16 => NextHop::V6 { address: v6(octets), link_local: None },
        32 => NextHop::V6 { address: v6(&octets[..16]), link_local: Some(v6(&octets[16..])) },
        len => panic!("a next hop of {len} octets"),
    }
}

/// Reads an UPDATE of bgp-rs as one of ours.
fn to_update(update: &bgp_rs::Update) -> Update {
    let mut ours = Update::withdrawal(to_prefixes(&update.withdrawn_routes));
    let mut prefixes = to_prefixes(&update.announced_routes);
    let mut attributes = Attributes::new(NextHop::V4(Ipv4Addr::UNSPECIFIED));
    for attribute in &update.attributes {
        match attribute {
            PathAttribute::ORIGIN(bgp_rs::Origin::IGP) => attributes.origin = Origin::Igp,
            PathAttribute::ORIGIN(bgp_rs::Origin::EGP) => attributes.origin = Origin::Egp,
            PathAttribute::ORIGIN(bgp_rs::Origin::INCOMPLETE) => attributes.origin = Origin::Incomplete,
            PathAttribute::AS_PATH(path) => attributes.as_path = to_path(path),
            PathAttribute::NEXT_HOP(address) => attributes.next_hop = (*address).into(),
            PathAttribute::MULTI_EXIT_DISC(med) => attributes.med = Some(*med),
            PathAttribute::LOCAL_PREF(preference) => attributes.local_pref = Some(*preference),
            PathAttribute::ATOMIC_AGGREGATOR => attributes.atomic_aggregate = true,
            PathAttribute::AGGREGATOR((asn, router)) => {
                attributes.aggregator =
                    Some(manx_bgp::wire::Aggregator { asn: (*asn).into(), router: *router });
            }
            PathAttribute::COMMUNITY(list) => {
                attributes.communities = list.iter().map(|it| manx_bgp::wire::Community(*it)).collect();
            }
            PathAttribute::ORIGINATOR_ID(id) => attributes.originator_id = Some((*id).into()),
            PathAttribute::CLUSTER_LIST(ids) => {
                attributes.cluster_list = ids.iter().map(|id| (*id).into()).collect();
            }
            PathAttribute::EXTENDED_COMMUNITIES(list) => {
                attributes.extended_communities =
                    list.iter().map(|it| ExtendedCommunity(it.to_be_bytes())).collect();
            }
            PathAttribute::LARGE_COMMUNITY(list) => {
                attributes.large_communities = list
                    .iter()
                    .map(|(global, local1, local2)| manx_bgp::wire::LargeCommunity {
                        global: *global,
                        local1: *local1,
                        local2: *local2,
                    })
                    .collect();
            }
            PathAttribute::MP_REACH_NLRI(reach) => {
                attributes.next_hop = to_next_hop(&reach.next_hop);
                prefixes = to_prefixes(&reach.announced_routes);
            }
            PathAttribute::MP_UNREACH_NLRI(unreach) => {
                ours = Update::withdrawal(to_prefixes(&unreach.withdrawn_routes));
            }
            other => panic!("bgp-rs saw {other:?}"),
        }
    }
    if !prefixes.is_empty() {
        ours.announced.push(Announcement::new(attributes, prefixes));
    }
    ours
}

/// Leaves out what bgp-rs does not keep.
fn within_reach(mut update: Update) -> Update {
    update.withdrawn.iter_mut().for_each(|nlri| nlri.path = PathId(0));
    for Announcement { attributes, prefixes } in &mut update.announced {
        prefixes.iter_mut().for_each(|nlri| nlri.path = PathId(0));
        attributes.only_to_customer = None;
        attributes.unknown.clear();
    }
    update
}

fn has_wide(update: &Update) -> bool {
    let wide = |attributes: &Attributes| {
        attributes.as_path.asns().iter().any(|asn| asn.0 > 65535)
            || attributes.aggregator.is_some_and(|aggregator| aggregator.asn.0 > 65535)
    };
    update.announced.iter().any(|it| wide(&it.attributes))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn an_update_of_ours_means_the_same_to_bgp_rs(update in strategies::update(), four_octet_as in any::<bool>()) {
        let update = within_reach(update);
        prop_assume!(four_octet_as || !has_wide(&update));
        let octets = encode(&Message::Update(update.clone()), &dialect(four_octet_as));
        prop_assume!(octets.len() == usize::from(u16::from_be_bytes([octets[16], octets[17]])));
        let bgp_rs::Message::Update(theirs) = theirs(&octets, four_octet_as) else { panic!("an UPDATE") };
        prop_assert_eq!(to_update(&theirs), update);
    }

    #[test]
    fn an_update_of_bgp_rs_means_the_same_to_us(update in strategies::update()) {
        let mut update = within_reach(update);
        update.withdrawn.iter_mut().for_each(|nlri| nlri.path = PathId(0));
    for Announcement { attributes, prefixes } in &mut update.announced {
        prefixes.iter_mut().for_each(|nlri| nlri.path = PathId(0));
            // These it cannot write, or writes in two octets only.
            attributes.atomic_aggregate = false;
            attributes.aggregator = None;
            attributes.large_communities.clear();
        }
        // It writes four octets if and only if a number needs them, and an empty path either way.
        let dialect = dialect(has_wide(&update));
        let ours = encode(&Message::Update(update.clone()), &dialect);
        prop_assume!(ours.len() == usize::from(u16::from_be_bytes([ours[16], ours[17]])));
        let mut theirs_again = Vec::new();
        theirs(&ours, dialect.four_octet_as).encode(&mut theirs_again).expect("bgp-rs writes what it read");
        prop_assert_eq!(good(&theirs_again, &dialect), Message::Update(update));
    }

    #[test]
    fn an_open_of_ours_means_the_same_to_bgp_rs(open in strategies::open(5)) {
        let octets = encode(&Message::Open(open.clone()), &Dialect::BEFORE_OPEN);
        prop_assume!(octets.len() < 19 + 10 + 255);
        let bgp_rs::Message::Open(theirs) = theirs(&octets, true) else { panic!("an OPEN") };
        prop_assert_eq!((theirs.version, theirs.hold_timer), (4, open.hold_secs));
        prop_assert_eq!(u32::from(theirs.peer_asn), if open.asn.0 > 65535 { 23456 } else { open.asn.0 });
        prop_assert_eq!(Ipv4Addr::from(theirs.identifier), open.router_id.get());
        let capabilities: Vec<&OpenCapability> = theirs.parameters.iter().flat_map(|parameter| match parameter {
            OpenParameter::Capabilities(capabilities) => capabilities,
            OpenParameter::Unknown { .. } => panic!("{parameter:?}"),
        }).collect();
        prop_assert_eq!(capabilities.len(), open.capabilities.len());
        for (theirs, ours) in capabilities.into_iter().zip(&open.capabilities) {
            match (theirs, ours) {
                (OpenCapability::MultiProtocol((afi, safi)), Capability::Multiprotocol(family)) => {
                    prop_assert_eq!((*afi as u16, *safi as u8), (family.afi, family.safi));
                }
                (OpenCapability::RouteRefresh, Capability::RouteRefresh) => {}
                (OpenCapability::FourByteASN(theirs), Capability::FourOctetAs(ours)) => {
                    prop_assert_eq!(*theirs, ours.0);
                }
                (OpenCapability::AddPath(theirs), Capability::AddPath(ours)) => {
                    let theirs: Vec<_> = theirs.iter().map(|(afi, safi, mode)| (*afi as u16, *safi as u8, *mode as u8)).collect();
                    let ours: Vec<_> = ours.iter().map(|it| (it.family.afi, it.family.safi, it.mode)).collect();
                    prop_assert_eq!(theirs, ours);
                }
                (OpenCapability::Unknown { cap_code, value, .. }, ours) => {
                    prop_assert_eq!(*cap_code, ours.code());
                    if let Capability::Unknown { value: ours, .. } = ours {
                        prop_assert_eq!(value, ours);
                    }
                }
                (theirs, ours) => prop_assert!(false, "{:?} is not {:?}", theirs, ours),
            }
        }
        let mut again = Vec::new();
        bgp_rs::Message::Open(theirs).encode(&mut again).expect("bgp-rs writes what it read");
        prop_assert_eq!(good(&again, &Dialect::BEFORE_OPEN), Message::Open(open));
    }

    #[test]
    fn a_notification_means_the_same_to_both(notification in strategies::notification()) {
        let octets = encode(&Message::Notification(notification.clone()), &Dialect::BEFORE_OPEN);
        let message = theirs(&octets, true);
        let bgp_rs::Message::Notification(theirs) = &message else { panic!("a NOTIFICATION") };
        prop_assert_eq!((theirs.major_err_code, theirs.minor_err_code), (notification.code.code, notification.code.subcode));
        prop_assert_eq!(&theirs.data, &notification.data);
        let mut again = Vec::new();
        message.encode(&mut again).expect("bgp-rs writes what it read");
        prop_assert_eq!(again, octets);
    }

    #[test]
    fn a_route_refresh_means_the_same_to_both(refresh in strategies::refresh()) {
        let octets = encode(&Message::RouteRefresh(refresh), &dialect(true));
        let message = theirs(&octets, true);
        let bgp_rs::Message::RouteRefresh(theirs) = &message else { panic!("a ROUTE-REFRESH") };
        prop_assert_eq!((theirs.afi as u16, theirs.safi as u8), (refresh.family.afi, refresh.family.safi));
        let subtype = match refresh.kind {
            RefreshKind::Request => 0,
            RefreshKind::Begin => 1,
            RefreshKind::End => 2,
            RefreshKind::Unknown(subtype) => subtype,
        };
        prop_assert_eq!(theirs.subtype, subtype);
        let mut again = Vec::new();
        message.encode(&mut again).expect("bgp-rs writes what it read");
        prop_assert_eq!(again, octets);
    }
}

#[test]
fn a_keepalive_and_an_end_of_rib_mean_the_same_to_both() {
    let octets = encode(&Message::Keepalive, &Dialect::BEFORE_OPEN);
    assert!(matches!(theirs(&octets, true), bgp_rs::Message::KeepAlive));
    for family in manx_bgp::Family::ALL {
        let octets = encode(&Message::EndOfRib(family), &dialect(true));
        let bgp_rs::Message::Update(update) = theirs(&octets, true) else { panic!("an UPDATE") };
        assert!(update.withdrawn_routes.is_empty() && update.announced_routes.is_empty());
        let unreach = update.get(Identifier::MP_UNREACH_NLRI).is_some();
        assert_eq!(unreach, family == manx_bgp::Family::Ipv6Unicast);
    }
}

#[test]
fn the_message_that_bgp_rs_reads_wrongly_is_read_rightly_here() {
    // A default route and a pod block from a plain peer; bgp-rs takes them for 0.0.0.0/8 with a path identifier.
    let octets = crate::octets::hex(
        "ffffffffffffffffffffffffffffffff 0031 02 0000 0014 40010100 40020602010000fde9 400304c0000201 00 1a0af40800",
    );
    let Message::Update(update) = good(&octets, &dialect(true)) else { panic!("an UPDATE") };
    assert_eq!(update.announced[0].prefixes, ["0.0.0.0/0", "10.244.8.0/26"].map(crate::octets::prefix));
    let path = &update.announced[0].attributes.as_path;
    assert_eq!(path.segments().collect::<Vec<_>>(), [Segment::Sequence(&[manx_bgp::Asn(65001)])]);
}
