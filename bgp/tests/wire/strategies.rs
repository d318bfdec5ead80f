//! Generators of well-formed values.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use manx_bgp::wire::{
    AddPathFamily, AfiSafi, Aggregator, Announcement, AsPath, Attributes, Capability, Community, Dialect,
    ErrorCode, ExtendedCommunity, ExtendedNextHop, GracefulRestart, LargeCommunity, LongLivedFamily, NextHop,
    Nlri, Notification, Open, Origin, PathId, RefreshKind, RestartFamily, RouteRefresh, Side,
    UnknownAttribute, Update,
};
use manx_bgp::{Asn, Families, Family, Prefix, RouterId};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

pub(crate) fn dialect() -> impl Strategy<Value = Dialect> {
    (any::<[bool; 6]>()).prop_map(
        |[internal, four_octet_as, extended_messages, extended_next_hop, v4, v6]| Dialect {
            side: if internal { Side::Internal } else { Side::External },
            families: Families::ALL,
            four_octet_as,
            extended_messages,
            extended_next_hop,
            paths_in: paths(v4, v6),
            paths_out: paths(v4, v6),
        },
    )
}

fn paths(v4: bool, v6: bool) -> Families {
    let families = [(v4, Family::Ipv4Unicast), (v6, Family::Ipv6Unicast)];
    families.into_iter().filter_map(|(wanted, family)| wanted.then_some(family)).collect()
}

/// Private numbers of both widths. Those are the ones whose width bgp-rs cannot mistake.
fn asn() -> impl Strategy<Value = Asn> {
    prop_oneof![64_512_u32..=65_534, 4_200_000_000_u32..=4_200_005_000].prop_map(Asn)
}

fn as_path() -> impl Strategy<Value = AsPath> {
    let segment = prop_oneof![
        4 => vec(asn(), 1..6).prop_map(|asns| words(&asns, " ")),
        1 => vec(asn(), 1..4).prop_map(|asns| format!("{{{}}}", words(&asns, ","))),
    ];
    vec(segment, 0..4).prop_map(|segments| segments.join(" ").parse().expect("a path"))
}

fn words(asns: &[Asn], separator: &str) -> String {
    asns.iter().map(Asn::to_string).collect::<Vec<_>>().join(separator)
}

/// Prefixes of one family; a default route comes last, where bgp-rs does not take it for a path identifier.
pub(crate) fn prefixes(family: Family, most: usize) -> impl Strategy<Value = Vec<Prefix>> {
    let one = match family {
        Family::Ipv4Unicast => (any::<u32>(), 0..=32_u8)
            .prop_map(|(bits, len)| Prefix::masked(IpAddr::V4(bits.into()), len))
            .boxed(),
        Family::Ipv6Unicast => (any::<u128>(), 0..=128_u8)
            .prop_map(|(bits, len)| Prefix::masked(IpAddr::V6(bits.into()), len))
            .boxed(),
    };
    vec(one, 1..=most).prop_map(|prefixes| {
        let mut prefixes: Vec<Prefix> =
            prefixes.into_iter().map(|it| it.expect("a length in range")).collect();
        let default = prefixes.iter().position(|prefix| prefix.len() == 0).map(|at| prefixes[at]);
        prefixes.retain(|prefix| prefix.len() != 0);
        prefixes.extend(default);
        prefixes
    })
}

fn next_hop(family: Family) -> BoxedStrategy<NextHop> {
    match family {
        Family::Ipv4Unicast => {
            (1_u8..=126, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| NextHop::V4([a, b, c, d].into())).boxed()
        }
        Family::Ipv6Unicast => (any::<u128>(), option::of(any::<u64>()))
            .prop_map(|(global, link_local)| NextHop::V6 {
                address: Ipv6Addr::from(0x2000_u128 << 112 | global >> 8),
                link_local: link_local.map(|id| (0xfe80_u128 << 112 | u128::from(id)).into()),
            })
            .boxed(),
    }
}

fn aggregator() -> impl Strategy<Value = Aggregator> {
    (asn(), any::<u32>()).prop_map(|(asn, router)| Aggregator { asn, router: router.into() })
}

fn unknown() -> impl Strategy<Value = Vec<UnknownAttribute>> {
    let unknown = btree_map(200_u8..=255, vec(any::<u8>(), 0..300), 0..3);
    unknown.prop_map(|map| {
        map.into_iter().map(|(code, value)| UnknownAttribute { code, value: value.into() }).collect()
    })
}

fn communities()
-> impl Strategy<Value = (BTreeSet<Community>, BTreeSet<ExtendedCommunity>, BTreeSet<LargeCommunity>)> {
    let large =
        any::<[u32; 3]>().prop_map(|[global, local1, local2]| LargeCommunity { global, local1, local2 });
    (
        btree_set(any::<u32>().prop_map(Community), 0..80),
        btree_set(any::<[u8; 8]>().prop_map(ExtendedCommunity), 0..4),
        btree_set(large, 0..4),
    )
}

pub(crate) fn attributes(family: Family) -> impl Strategy<Value = Attributes> {
    let origin = prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)];
    let numbers = (option::of(any::<u32>()), option::of(any::<u32>()), any::<bool>(), option::of(asn()));
    let reflection = (option::of(any::<u32>()), vec(any::<u32>().prop_map(Ipv4Addr::from), 0..4));
    let rest = (option::of(aggregator()), unknown());
    (next_hop(family), origin, as_path(), numbers, communities(), reflection, rest).prop_map(
        |(next_hop, origin, as_path, numbers, communities, reflection, rest)| {
            let mut it = Attributes::new(next_hop);
            (it.origin, it.as_path) = (origin, as_path);
            (it.med, it.local_pref, it.atomic_aggregate, it.only_to_customer) = numbers;
            (it.communities, it.extended_communities, it.large_communities) = communities;
            it.originator_id = reflection.0.map(Ipv4Addr::from);
            it.cluster_list = reflection.1;
            (it.aggregator, it.unknown) = rest;
            it
        },
    )
}

/// Paths to prefixes of one family.
fn paths_to(family: Family, most: usize) -> impl Strategy<Value = Vec<Nlri>> {
    let one = |prefix: Prefix| any::<u32>().prop_map(move |path| Nlri { prefix, path: PathId(path) });
    prefixes(family, most).prop_flat_map(move |prefixes| prefixes.into_iter().map(one).collect::<Vec<_>>())
}

fn announcement(family: Family) -> impl Strategy<Value = Announcement> {
    (attributes(family), paths_to(family, 30))
        .prop_map(|(attributes, prefixes)| Announcement::new(attributes, prefixes))
}

pub(crate) fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::Ipv4Unicast), Just(Family::Ipv6Unicast)]
}

/// Something announced or something withdrawn, so that it is one message.
pub(crate) fn update() -> impl Strategy<Value = Update> {
    let announced =
        family().prop_flat_map(announcement).prop_map(|it| Update { withdrawn: vec![], announced: vec![it] });
    let withdrawn = family().prop_flat_map(|family| paths_to(family, 60)).prop_map(Update::withdrawal);
    prop_oneof![3 => announced, 1 => withdrawn]
}

fn afi_safi() -> impl Strategy<Value = AfiSafi> {
    prop_oneof![
        Just(AfiSafi { afi: 1, safi: 1 }),
        Just(AfiSafi { afi: 2, safi: 1 }),
        Just(AfiSafi { afi: 1, safi: 2 }),
        Just(AfiSafi { afi: 25, safi: 70 }),
    ]
}

fn graceful_restart() -> impl Strategy<Value = GracefulRestart> {
    let family =
        (afi_safi(), any::<bool>()).prop_map(|(family, forwarding)| RestartFamily { family, forwarding });
    (any::<[bool; 2]>(), 0..4096_u16, vec(family, 0..3)).prop_map(
        |([restarting, notification], restart_secs, families)| GracefulRestart {
            restarting,
            notification,
            restart_secs,
            families,
        },
    )
}

fn capability() -> impl Strategy<Value = Capability> {
    let extended_next_hop =
        (afi_safi(), 1..3_u16).prop_map(|(family, next_hop_afi)| ExtendedNextHop { family, next_hop_afi });
    let add_path = (afi_safi(), 1..=3_u8).prop_map(|(family, mode)| AddPathFamily { family, mode });
    let long_lived = (afi_safi(), any::<bool>(), 0..1_u32 << 24)
        .prop_map(|(family, forwarding, stale_secs)| LongLivedFamily { family, forwarding, stale_secs });
    prop_oneof![
        afi_safi().prop_map(Capability::Multiprotocol),
        Just(Capability::RouteRefresh),
        vec(extended_next_hop, 0..3).prop_map(Capability::ExtendedNextHop),
        Just(Capability::ExtendedMessages),
        any::<u8>().prop_map(Capability::Role),
        graceful_restart().prop_map(Capability::GracefulRestart),
        vec(add_path, 0..3).prop_map(Capability::AddPath),
        Just(Capability::EnhancedRouteRefresh),
        vec(long_lived, 0..3).prop_map(Capability::LongLivedGracefulRestart),
        (72..=255_u8, vec(any::<u8>(), 0..60)).prop_map(|(code, value)| Capability::Unknown { code, value }),
    ]
}

pub(crate) fn open(most_capabilities: usize) -> impl Strategy<Value = Open> {
    let hold_secs = prop_oneof![Just(0_u16), 3..=u16::MAX];
    (asn(), any::<bool>(), hold_secs, 1..=u32::MAX, vec(capability(), 0..=most_capabilities)).prop_map(
        |(asn, tell, hold_secs, router_id, mut capabilities)| {
            if tell || asn.0 > 65535 {
                capabilities.insert(0, Capability::FourOctetAs(asn));
            }
            let router_id = RouterId::new(router_id.into()).expect("not zero");
            Open { asn, hold_secs, router_id, capabilities }
        },
    )
}

pub(crate) fn notification() -> impl Strategy<Value = Notification> {
    (any::<u8>(), any::<u8>(), vec(any::<u8>(), 0..400))
        .prop_map(|(code, subcode, data)| Notification { code: ErrorCode { code, subcode }, data })
}

pub(crate) fn refresh() -> impl Strategy<Value = RouteRefresh> {
    let kind = prop_oneof![
        Just(RefreshKind::Request),
        Just(RefreshKind::Begin),
        Just(RefreshKind::End),
        (3..=255_u8).prop_map(RefreshKind::Unknown),
    ];
    (afi_safi(), kind).prop_map(|(family, kind)| RouteRefresh { family, kind })
}
