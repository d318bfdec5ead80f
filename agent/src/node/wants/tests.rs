//! Pools of every kind, and pods that ask for them.

use std::sync::Arc;

use manx_api::LabelSelector;

use super::*;
use crate::node::asks::Annotations;
use crate::node::pods::Namespaces;

fn red() -> NamespaceNotes {
    NamespaceNotes { labels: [("team".to_owned(), "red".to_owned())].into(), ..NamespaceNotes::default() }
}

fn pool(cidr: &str, change: impl FnOnce(&mut PodPool)) -> PodPool {
    let cidr = cidr.parse().expect("a network");
    let mut pool = PodPool { cidr, here: true, automatic: true, disabled: false, namespaces: None };
    change(&mut pool);
    pool
}

fn for_red(pool: &mut PodPool) {
    pool.namespaces = Some(LabelSelector { match_labels: red().labels, ..LabelSelector::default() });
}

/// Two pools for all, and one of every other kind.
fn pools() -> PodPools {
    let pools = [
        ("v4", pool("10.1.0.0/16", |_| {})),
        ("v6", pool("fd00:1::/64", |_| {})),
        ("manual", pool("10.2.0.0/16", |pool| pool.automatic = false)),
        ("red", pool("10.3.0.0/16", for_red)),
        (
            "red-manual",
            pool("10.4.0.0/16", |pool| {
                for_red(pool);
                pool.automatic = false;
            }),
        ),
        ("away", pool("10.5.0.0/16", |pool| pool.here = false)),
        ("off", pool("10.6.0.0/16", |pool| pool.disabled = true)),
    ];
    let namespaces = [("ours".to_owned(), Arc::new(red()))];
    PodPools::of(pools.map(|(name, pool)| (name.to_owned(), pool)), Namespaces::new(namespaces.into()))
}

/// What a pod of no team gets, or one of team red.
fn asked(annotations: &[(&str, &str)], runtime: &[&str], team: bool) -> Result<Want, String> {
    let notes: Annotations =
        annotations.iter().map(|(key, value)| (format!("manx.dev/{key}"), (*value).to_owned())).collect();
    let asks = Asks::read(&notes, &Annotations::new()).expect("readable");
    let runtime: Vec<IpAddr> = runtime.iter().map(|text| text.parse().expect("an address")).collect();
    let known = if team { red() } else { NamespaceNotes::default() };
    let namespace = Some(if team { "ours" } else { "web" });
    let asking = Asking { asks: &asks, runtime: &runtime, namespace, notes: Some(&known) };
    asking.want(&pools()).map_err(|denial| denial.to_string())
}

fn want(families: &str, pools: &[&str], addresses: &[&str]) -> Result<Want, String> {
    Ok(Want {
        v4: families.contains('4'),
        v6: families.contains('6'),
        pools: pools.iter().map(|name| (*name).to_owned()).collect(),
        addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
        claim: None,
    })
}

#[test]
fn pools_and_families_are_as_asked_and_as_the_pools_allow_otherwise() {
    for (annotations, team, expected) in [
        (&[][..], false, want("46", &["v4", "v6"], &[])),
        (&[], true, want("46", &["v4", "v6", "red"], &[])),
        (&[("ipFamilies", "ipv4")], false, want("4", &["v4"], &[])),
        (&[("ipFamilies", "ipv6")], true, want("6", &["v6"], &[])),
        (&[("ipFamilies", "ipv4,ipv6")], false, want("46", &["v4", "v6"], &[])),
        (&[("ipv4pools", "manual")], false, want("46", &["manual", "v6"], &[])),
        (&[("ipv4pools", "10.2.0.0/16")], false, want("46", &["manual", "v6"], &[])),
        (&[("ipv4pools", "manual,v4")], false, want("46", &["manual", "v4", "v6"], &[])),
        (&[("ipv4pools", "red-manual"), ("ipFamilies", "ipv4")], true, want("4", &["red-manual"], &[])),
        // One of several that can be used is enough.
        (&[("ipv4pools", "away,off,manual")], false, want("46", &["manual", "v6"], &[])),
        // A family that is left out needs no pools.
        (&[("ipv4pools", "manual"), ("ipFamilies", "ipv6")], false, want("6", &["v6"], &[])),
    ] {
        assert_eq!(asked(annotations, &[], team), expected, "{annotations:?}, team {team}");
    }
}

#[test]
fn addresses_are_taken_from_pools_of_any_mode_and_the_runtimes_go_first() {
    let fixed = |address| [("ipAddrs", address)];
    for (annotations, runtime, expected) in [
        (&fixed("10.1.0.7")[..], &[][..], want("46", &["v4", "v6"], &["10.1.0.7"])),
        (&fixed("10.2.0.7"), &[], want("46", &["manual", "v6"], &["10.2.0.7"])),
        (&[("ipAddrs", "10.2.0.7"), ("ipFamilies", "ipv4")], &[], want("4", &["manual"], &["10.2.0.7"])),
        (&fixed("10.1.0.7"), &["10.2.0.9"], want("46", &["manual", "v6"], &["10.2.0.9"])),
        (&fixed("fd00:1::7"), &["10.2.0.9"], want("46", &["manual", "v6"], &["10.2.0.9", "fd00:1::7"])),
        // The runtime is not held to the pools that an annotation names, nor to its families.
        (&[("ipv4pools", "v4")], &["10.2.0.9"], want("46", &["manual", "v6"], &["10.2.0.9"])),
        (&[("ipFamilies", "ipv6")], &["10.2.0.9"], want("46", &["manual", "v6"], &["10.2.0.9"])),
    ] {
        assert_eq!(asked(annotations, runtime, false), expected, "{annotations:?} {runtime:?}");
    }
}

#[test]
fn what_cannot_be_had_is_denied_with_the_reason() {
    let pools = |text| [("ipv4pools", text)];
    let fixed = |text| [("ipAddrs", text)];
    for (annotations, sentence) in [
        (
            &pools("gone")[..],
            "there is no pool gone for pods: check the name in the annotation manx.dev/ipv4pools",
        ),
        (&pools("10.9.0.0/16"), "there is no pool 10.9.0.0/16 for pods"),
        (&pools("v4,gone"), "there is no pool gone for pods"),
        (&pools("v6"), "pool v6 (fd00:1::/64) has no IPv4 addresses"),
        (&pools("away"), "pool away does not select this node"),
        (&pools("off"), "pool off is disabled: enable it or name another"),
        (&fixed("192.0.2.1"), "192.0.2.1 is in no pool for pods: ask for an address of a pool"),
        (&fixed("10.5.0.1"), "10.5.0.1 is of pool away, which does not select this node"),
        (
            &[("ipAddrs", "10.1.0.7"), ("ipv4pools", "manual")],
            "10.1.0.7 is of pool v4, which is not among those that the annotation manx.dev/ipv4pools names",
        ),
    ] {
        let denied = asked(annotations, &[], true).expect_err("denied");
        assert!(denied.starts_with(sentence), "{annotations:?}: {denied}");
    }
}

#[test]
fn a_family_without_a_pool_is_denied_where_it_was_asked_for_and_left_out_otherwise() {
    let only_v4 = PodPools::of([("v4".to_owned(), pool("10.1.0.0/16", |_| {}))], Namespaces::default());
    let ask = |families: Option<BTreeSet<Family>>| {
        let asks = Asks { families, ..Asks::default() };
        let asking = Asking { asks: &asks, runtime: &[], namespace: Some("web"), notes: None };
        asking.want(&only_v4).map_err(|denial| (denial.code(), denial.to_string()))
    };
    assert_eq!(ask(None).map_err(|error| error.1), want("4", &[], &[]));
    let (code, text) = ask(Some(BTreeSet::from(Family::ALL))).expect_err("no IPv6");
    assert_eq!(code, Code::NO_ADDRESS);
    assert_eq!(
        text,
        "IPv6 is asked for, but no enabled automatic IPv6 pool that selects this node is for pods of namespace web"
    );
}

/// CVE-2022-28224: what a namespace may not have, its pods must not get by naming it.
#[test]
fn a_pool_for_other_namespaces_is_denied_however_it_is_asked_for() {
    for (annotations, runtime) in [
        (&[("ipv4pools", "red")][..], &[][..]),
        (&[("ipv4pools", "10.3.0.0/16")], &[]),
        (&[("ipv4pools", "v4,red")], &[]),
        (&[("ipv4pools", "red-manual")], &[]),
        (&[("ipAddrs", "10.3.0.7")], &[]),
        (&[("ipAddrs", "10.4.0.7"), ("ipv4pools", "red-manual")], &[]),
        (&[], &["10.3.0.7"]),
        (&[("ipAddrs", "10.1.0.7")], &["10.4.0.7"]),
    ] {
        let denied = asked(annotations, runtime, false).expect_err("denied");
        assert!(denied.contains("is not for pods of namespace web: its namespaceSelector"), "{denied}");
        asked(annotations, runtime, true).expect("allowed for the team");
    }
    // A namespace that nobody knows has no labels.
    let asks = Asks { families: Some([Family::V4].into()), ..Asks::default() };
    let asking = Asking { asks: &asks, runtime: &[], namespace: Some("ours"), notes: None };
    assert_eq!(asking.want(&pools()).map_err(|denial| denial.to_string()), want("4", &["v4"], &[]));
}

#[test]
fn where_nothing_restricts_no_pool_is_named_so_that_one_added_later_will_do() {
    let open = PodPools::of([("v4".to_owned(), pool("10.1.0.0/16", |_| {}))], Namespaces::default());
    let asking = Asking { asks: &Asks::default(), runtime: &[], namespace: None, notes: None };
    assert_eq!(asking.want(&open).map_err(|denial| denial.to_string()), want("4", &[], &[]));
}

#[test]
fn where_every_pool_is_for_others_that_is_the_reason() {
    let closed = PodPools::of([("red".to_owned(), pool("10.3.0.0/16", for_red))], Namespaces::default());
    let asking = Asking { asks: &Asks::default(), runtime: &[], namespace: Some("web"), notes: None };
    let denial = asking.want(&closed).expect_err("nothing is open");
    assert_eq!(denial.code(), Code::NO_ADDRESS);
    assert!(
        denial.to_string().ends_with("is for pods of namespace web: widen a namespaceSelector"),
        "{denial}"
    );
}
