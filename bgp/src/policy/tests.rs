//! Policies against a naive model that works on texts.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::prefix::Asn;
use crate::wire::{AsPath, LargeCommunity, NextHop};

/// A rule as the model reads it: everything as text or number.
#[derive(Clone, Debug)]
struct Plain {
    /// Bits of the covering prefix, and the bounds of the length.
    prefixes: Vec<(String, u8, u8)>,
    source: Option<Source>,
    peer: Option<Source>,
    any: Vec<String>,
    all: Vec<String>,
    none: Vec<String>,
    neighbor: Vec<u32>,
    origin: Vec<u32>,
    contains: Vec<u32>,
    hops: (Option<u16>, Option<u16>),
    accept: bool,
}

/// A route as the model reads it.
#[derive(Clone, Debug)]
struct Route {
    bits: String,
    source: Source,
    peer: Source,
    communities: Vec<String>,
    path: Vec<u32>,
}

/// Prefixes live in four bits of 10.0.0.0/8, so that they meet.
fn bits() -> impl Strategy<Value = String> {
    "[01]{0,4}"
}

fn to_prefix(bits: &str) -> Prefix {
    let value = bits.bytes().enumerate().fold(0_u8, |value, (at, bit)| value | ((bit - b'0') << (7 - at)));
    Prefix::masked(std::net::IpAddr::from([10, value, 0, 0]), 8 + bits.len() as u8).unwrap()
}

fn source() -> impl Strategy<Value = Source> {
    select(&[Source::Local, Source::Internal, Source::External][..])
}

fn asns(most: usize) -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(1..5_u32, 0..most)
}

fn carried() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(select(&["1:1", "1:2", "2:1", "1:1:1", "1:2:1", "2:1:2"][..]), 0..4)
        .prop_map(|texts| texts.into_iter().map(str::to_owned).collect())
}

fn wanted() -> impl Strategy<Value = Vec<String>> {
    let values = ["1:1", "1:2", "1:*", "*:1", "*:*", "1:1:1", "1:*:1", "*:*:2", "2:*:*", "3:3"];
    prop::collection::vec(select(values.to_vec()), 0..3)
        .prop_map(|texts| texts.into_iter().map(str::to_owned).collect())
}

fn route() -> impl Strategy<Value = Route> {
    (bits(), source(), source(), carried(), asns(4))
        .prop_map(|(bits, source, peer, communities, path)| Route { bits, source, peer, communities, path })
}

fn rule() -> impl Strategy<Value = Plain> {
    let span = (bits(), 0..5_u8, 0..5_u8).prop_map(|(bits, a, b)| (bits, 8 + a.min(b), 8 + a.max(b)));
    let prefixes = prop_oneof![Just(Vec::new()), prop::collection::vec(span, 1..4)];
    let list = || prop_oneof![3 => Just(Vec::new()), 1 => wanted()];
    let systems = || prop_oneof![3 => Just(Vec::new()), 1 => asns(3)];
    let bound = || prop::option::weighted(0.2, 0..4_u16);
    let sided = || prop::option::weighted(0.3, source());
    (
        (prefixes, sided(), sided(), any::<bool>()),
        (list(), list(), list()),
        (systems(), systems(), systems(), bound(), bound()),
    )
        .prop_map(
            |((prefixes, source, peer, accept), (any, all, none), (neighbor, origin, contains, a, b))| {
                Plain {
                    prefixes,
                    source,
                    peer,
                    any,
                    all,
                    none,
                    neighbor,
                    origin,
                    contains,
                    hops: (a, b),
                    accept,
                }
            },
        )
}

/// Whether a text such as `1:*` stands for a text such as `1:2`.
fn stands_for(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<_>, Vec<_>) = (pattern.split(':').collect(), text.split(':').collect());
    pattern.len() == text.len() && pattern.iter().zip(&text).all(|(a, b)| *a == "*" || a == b)
}

fn model(rule: &Plain, route: &Route) -> bool {
    let length = 8 + route.bits.len() as u8;
    let inside = |(bits, least, most): &(String, u8, u8)| {
        route.bits.starts_with(bits.as_str()) && *least <= length && length <= *most
    };
    let has = |pattern: &String| route.communities.iter().any(|text| stands_for(pattern, text));
    let conditions = [
        rule.prefixes.is_empty() || rule.prefixes.iter().any(inside),
        rule.source.is_none() || rule.source == Some(route.source),
        rule.peer.is_none() || rule.peer == Some(route.peer),
        rule.any.is_empty() || rule.any.iter().any(has),
        rule.all.iter().all(has),
        !rule.none.iter().any(has),
        rule.neighbor.is_empty() || route.path.first().is_some_and(|asn| rule.neighbor.contains(asn)),
        rule.origin.is_empty() || route.path.last().is_some_and(|asn| rule.origin.contains(asn)),
        rule.contains.is_empty() || route.path.iter().any(|asn| rule.contains.contains(asn)),
        rule.hops.0.is_none_or(|least| route.path.len() >= usize::from(least)),
        rule.hops.1.is_none_or(|most| route.path.len() <= usize::from(most)),
    ];
    conditions.iter().all(|holds| *holds)
}

fn real(place: usize, rule: &Plain) -> Rule {
    let values = |texts: &[String]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let set = |asns: &[u32]| asns.iter().copied().map(Asn).collect::<BTreeSet<_>>();
    let spans = rule.prefixes.iter();
    Rule {
        prefixes: spans
            .map(|(bits, min_len, max_len)| PrefixMatch {
                prefix: to_prefix(bits),
                min_len: *min_len,
                max_len: *max_len,
            })
            .collect(),
        source: rule.source,
        peer: rule.peer,
        communities: Some(CommunityMatch {
            any_of: values(&rule.any),
            all_of: values(&rule.all),
            none_of: values(&rule.none),
        }),
        as_path: Some(AsPathMatch {
            origin: set(&rule.origin),
            neighbor: set(&rule.neighbor),
            contains: set(&rule.contains),
            min_hops: rule.hops.0,
            max_hops: rule.hops.1,
        }),
        ..Rule::new(
            place.to_string(),
            if rule.accept { Verdict::Accept(Changes::default()) } else { Verdict::Reject },
        )
    }
}

fn attributes(route: &Route) -> Attributes {
    let mut attributes = Attributes::new(NextHop::V4([10, 0, 0, 1].into()));
    attributes.as_path = AsPath::sequence(route.path.iter().copied().map(Asn));
    for text in &route.communities {
        match text.parse::<LargeCommunity>() {
            Ok(large) => _ = attributes.large_communities.insert(large),
            Err(_) => _ = attributes.communities.insert(text.parse().unwrap()),
        }
    }
    attributes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_first_rule_that_matches_decides_as_in_the_model(
        rules in prop::collection::vec(rule(), 0..6),
        routes in prop::collection::vec(route(), 1..12),
        otherwise in any::<bool>(),
    ) {
        let mut policy = if otherwise { Policy::accept_all() } else { Policy::reject_all() };
        policy.rules = rules.iter().enumerate().map(|(place, rule)| real(place, rule)).collect();
        for route in &routes {
            let expected = rules.iter().position(|rule| model(rule, route));
            let (prefix, attributes) = (to_prefix(&route.bits), attributes(route));
            let subject = Subject { prefix: &prefix, source: route.source, peer: route.peer, attributes: &attributes };
            let (verdict, name) = policy.evaluate(&subject);
            prop_assert_eq!(name.map(str::to_owned), expected.map(|place| place.to_string()));
            let accept = expected.map_or(otherwise, |place| rules[place].accept);
            prop_assert_eq!(matches!(verdict, Verdict::Accept(_)), accept);
        }
    }
}
