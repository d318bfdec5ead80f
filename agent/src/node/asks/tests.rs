//! Annotations as people write them, right and wrong.

use proptest::prelude::*;

use super::*;

fn notes(pairs: &[(&str, &str)]) -> Annotations {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn read(pod: &[(&str, &str)], namespace: &[(&str, &str)]) -> Result<Asks, String> {
    Asks::read(&notes(pod), &notes(namespace)).map_err(|error| error.to_string())
}

fn named(names: &[&str]) -> BTreeSet<PoolRef> {
    names.iter().map(|name| PoolRef::Name((*name).to_owned())).collect()
}

#[test]
fn nothing_is_asked_for_where_nothing_is_said() {
    let strange = [
        ("manx.dev/other", "x"),
        ("example.com/ipAddrs", "x"),
        ("cni.projectcalico.org/podIP", "10.0.0.1/32"),
    ];
    assert_eq!(read(&strange, &strange), Ok(Asks::default()));
}

#[test]
fn lists_are_json_or_separated_by_commas_and_pools_go_by_name_or_network() {
    let range = PoolRef::Range("10.9.0.0/16".parse().expect("a network"));
    let both = BTreeSet::from([range.clone(), PoolRef::Name("red".to_owned())]);
    for (text, pools) in [
        ("red", named(&["red"])),
        (" red , blue ", named(&["red", "blue"])),
        (r#"["red","10.9.0.0/16"]"#, both.clone()),
        ("10.9.0.0/16,red,red", both),
        ("10.9.0.0/16", BTreeSet::from([range])),
    ] {
        let asks = read(&[("manx.dev/ipv4pools", text)], &[]).expect(text);
        assert_eq!(asks.pools, BTreeMap::from([(Family::V4, pools)]), "{text}");
    }
}

#[test]
fn everything_together() {
    let pod = [
        ("manx.dev/ipv6pools", "fd00:9::/64"),
        ("manx.dev/ipFamilies", "IPv6, ipv4"),
        ("manx.dev/ipAddrs", r#"["fd00:9::7","10.9.0.7"]"#),
        ("manx.dev/hwAddr", "0A-58-0a-09-00-07"),
        ("manx.dev/sticky", "true"),
    ];
    let asks = read(&pod, &[]).expect("all of it can be read");
    assert_eq!(asks.families, Some(BTreeSet::from(Family::ALL)));
    assert_eq!(asks.addresses[&Family::V4].to_string(), "10.9.0.7");
    assert_eq!(asks.addresses[&Family::V6].to_string(), "fd00:9::7");
    assert_eq!(asks.mac.map(|mac| mac.to_string()).as_deref(), Some("0a:58:0a:09:00:07"));
    assert_eq!(asks.pools.keys().collect::<Vec<_>>(), [&Family::V6]);
    assert!(asks.sticky);
}

#[test]
fn the_pod_goes_before_its_namespace_and_our_spelling_before_calicos() {
    let (ours, calicos) = ("manx.dev/ipv4pools", "cni.projectcalico.org/ipv4pools");
    for (pod, namespace, pool) in [
        (vec![(ours, "a")], vec![(ours, "b")], "a"),
        (vec![], vec![(ours, "b")], "b"),
        (vec![], vec![(calicos, r#"["b"]"#)], "b"),
        (vec![(calicos, "c")], vec![(ours, "b")], "c"),
        (vec![(calicos, "c"), (ours, "a")], vec![], "a"),
        // What is overridden need not even be readable.
        (vec![(ours, "a")], vec![(ours, "[")], "a"),
    ] {
        let asks = read(&pod, &namespace).expect("readable");
        assert_eq!(asks.pools[&Family::V4], named(&[pool]), "{pod:?} {namespace:?}");
    }
}

#[test]
fn an_address_a_hardware_address_and_stickiness_are_for_one_pod_and_never_for_a_namespace() {
    let all = [("manx.dev/ipAddrs", "10.9.0.7"), ("manx.dev/hwAddr", "x"), ("manx.dev/sticky", "x")];
    assert_eq!(read(&[], &all), Ok(Asks::default()));
    assert_eq!(of_namespace(&notes(&all)), Annotations::new());
    assert_eq!(of_pod(&notes(&all)), notes(&all));
}

#[test]
fn what_cannot_be_read_is_refused_in_a_sentence() {
    let long = "a,".repeat(LONGEST);
    for (key, value, sentence) in [
        ("manx.dev/ipv4pools", "", "has an empty value or entry: write what is asked for, or remove it"),
        ("manx.dev/ipv4pools", "a,,b", "has an empty value or entry: write what is asked for, or remove it"),
        ("manx.dev/ipv4pools", "[]", "has an empty value or entry: write what is asked for, or remove it"),
        ("manx.dev/ipv4pools", &long, "is longer than 8192 bytes: shorten it"),
        (
            "manx.dev/ipv6pools",
            "[\"a\", 1]",
            r#"is not a JSON list of strings, such as ["a", "b"]: "[\"a\", 1]""#,
        ),
        (
            "manx.dev/ipv4pools",
            "Red",
            "has \"Red\", which is neither the name of a pool nor its network, such as 10.244.0.0/16",
        ),
        (
            "manx.dev/ipv4pools",
            "10.244.0.0",
            "has \"10.244.0.0\", which is neither the name of a pool nor its network, such as 10.244.0.0/16",
        ),
        (
            "manx.dev/ipv4pools",
            "10.244.0.1/16",
            "has \"10.244.0.1/16\", which is neither the name of a pool nor its network, such as 10.244.0.0/16",
        ),
        ("manx.dev/ipv4pools", "fd00::/64", "has fd00::/64, which is not an IPv4 network"),
        (
            "cni.projectcalico.org/ipFamilies",
            "[\"ipv5\"]",
            "has \"ipv5\", which is no family: write ipv4, ipv6 or both",
        ),
        (
            "manx.dev/ipAddrs",
            "10.9.0.7/32",
            "has \"10.9.0.7/32\", which is no address: write one like 10.244.0.7 or fd00::7, without a prefix length",
        ),
        (
            "manx.dev/ipAddrs",
            "10.9.0.7,10.9.0.8",
            "has two IPv4 addresses, 10.9.0.7 and 10.9.0.8: a pod has at most one of each family",
        ),
        (
            "manx.dev/hwAddr",
            "01:00:5e:00:00:01",
            "has \"01:00:5e:00:00:01\", which is not the hardware address of one interface, such as 0a:58:0a:f4:00:07",
        ),
        (
            "manx.dev/hwAddr",
            "00:00:00:00:00:00",
            "has \"00:00:00:00:00:00\", which is not the hardware address of one interface, such as 0a:58:0a:f4:00:07",
        ),
        ("manx.dev/sticky", "yes", "has \"yes\": write \"true\" or \"false\""),
    ] {
        let expected = format!("the pod's annotation {key} {sentence}");
        assert_eq!(read(&[(key, value)], &[]), Err(expected), "{key}: {value}");
    }
}

#[test]
fn an_address_of_a_family_that_was_left_out_is_a_contradiction_wherever_it_was_left_out() {
    let families = ("manx.dev/ipFamilies", "ipv4");
    let address = ("manx.dev/ipAddrs", "fd00::7");
    let sentence = "the pod's annotation manx.dev/ipAddrs has fd00::7, but ipFamilies leaves IPv6 out: change one of the two";
    assert_eq!(read(&[families, address], &[]), Err(sentence.to_owned()));
    assert_eq!(read(&[address], &[families]), Err(sentence.to_owned()));
}

#[test]
fn an_error_of_the_namespace_says_so_and_repeats_no_more_than_a_piece() {
    let secret = format!("{}\n{}", "x".repeat(40), "y".repeat(4000));
    let error = read(&[], &[("manx.dev/ipFamilies", &secret)]).expect_err("no family");
    assert!(error.starts_with("the namespace's annotation manx.dev/ipFamilies has \"xxx"), "{error}");
    assert!(error.len() < 250 && !error.contains('\n'), "{error}");
}

/// A value as somebody may write it: right, wrong, or anything at all.
fn value() -> impl Strategy<Value = String> {
    let entry = prop_oneof![
        Just("ipv4".to_owned()),
        Just("10.9.0.7".to_owned()),
        Just("fd00::7".to_owned()),
        Just("10.9.0.0/16".to_owned()),
        Just("red".to_owned()),
        Just("0a:58:0a:09:00:07".to_owned()),
        Just(" ".to_owned()),
        any::<String>(),
    ];
    prop_oneof![
        proptest::collection::vec(entry.clone(), 0..4).prop_map(|list| list.join(",")),
        proptest::collection::vec(entry, 0..4)
            .prop_map(|list| serde_json::to_string(&list).expect("strings")),
        any::<String>(),
    ]
}

fn annotations() -> impl Strategy<Value = Annotations> {
    let key = prop_oneof![
        proptest::sample::select(vec!["ipv4pools", "ipv6pools", "ipFamilies", "ipAddrs", "hwAddr", "sticky"])
            .prop_flat_map(|key| (Just(key), any::<bool>()))
            .prop_map(|(key, ours)| format!("{}{key}", if ours { OURS } else { CALICO })),
        any::<String>(),
    ];
    proptest::collection::btree_map(key, value(), 0..6)
}

proptest! {
    #[test]
    fn whatever_is_written_is_read_or_refused_in_one_line(pod in annotations(), namespace in annotations()) {
        match Asks::read(&pod, &namespace) {
            Ok(asks) => {
                prop_assert!(asks.addresses.iter().all(|(family, address)| Family::of(*address) == *family));
                prop_assert!(asks.pools.values().all(|pools| !pools.is_empty()));
                prop_assert!(asks.families.as_ref().is_none_or(|families| !families.is_empty()));
            }
            Err(error) => {
                let text = error.to_string();
                prop_assert!(text.lines().count() == 1 && text.len() < 1000, "{text}");
            }
        }
    }

    #[test]
    fn what_is_kept_of_annotations_says_the_same_as_all_of_them(pod in annotations(), namespace in annotations()) {
        let kept = Asks::read(&of_pod(&pod), &of_namespace(&namespace));
        prop_assert_eq!(kept, Asks::read(&pod, &namespace));
    }
}
