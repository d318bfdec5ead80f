//! What the API server refuses at the door: every rule of the schemas, with an object that it lets in and one that it
//! does not, and the types beside them, which must agree.

mod cel;

use kube::CustomResourceExt;
use manx_api::{BGPConfiguration, BGPFilter, BGPPeer, IPBlock, IPClaim, IPPool, NodeNetwork};
use serde::Serialize;
use serde_json::{Value, json};

/// Where in an example something is put; `null` removes it.
type Change = (&'static str, Value);

#[test]
fn every_rule_compiles_and_says_what_it_wants_in_one_line() {
    let env = cel::environment();
    let mut count = 0;
    for crd in manx_api::crds() {
        let schema = serde_json::to_value(&crd).expect("plain data");
        for rule in cel::rules(&schema) {
            env.compile(&rule).unwrap_or_else(|error| panic!("{rule}: {error}"));
            count += 1;
        }
    }
    assert!(count > 40, "{count} rules");
}

#[test]
fn the_examples_are_let_in() {
    assert_eq!(refused(&IPPool::example(), &[]), NOTHING);
    assert_eq!(refused(&IPBlock::example(), &[]), NOTHING);
    assert_eq!(refused(&IPClaim::example(), &[]), NOTHING);
    assert_eq!(refused(&BGPConfiguration::example(), &[]), NOTHING);
    assert_eq!(refused(&BGPPeer::example(), &[]), NOTHING);
    assert_eq!(refused(&BGPFilter::example(), &[]), NOTHING);
    assert_eq!(refused(&NodeNetwork::example(), &[]), NOTHING);
}

#[test]
fn a_pool_needs_a_strict_network_that_can_be_cut_into_blocks() {
    let refused = |changes: &[Change]| refused(&IPPool::example(), changes);
    let pool = |cidr: &str, block_size| {
        [("/spec/cidr", json!(cidr)), ("/spec/blockSize", block_size), ("/spec/reserved", Value::Null)]
    };
    for (cidr, size) in [
        ("10.0.0.0/8", json!(20)),
        ("192.0.2.0/24", Value::Null),
        ("192.0.2.0/32", json!(32)),
        ("fd00::/16", json!(112)),
        ("fd00::/122", Value::Null),
    ] {
        assert_eq!(refused(&pool(cidr, size.clone())), NOTHING, "{cidr} {size}");
    }
    assert!(refused(&pool("10.244.0.1/16", json!(26)))[0].starts_with("must be a network in CIDR notation"));
    assert!(refused(&pool("FD00::/48", Value::Null))[0].starts_with("must be a network in CIDR notation"));
    assert!(refused(&pool("10.244.0.0", json!(26)))[0].starts_with("must be a network in CIDR notation"));
    assert!(refused(&pool("10.244.0.0/16", json!(19)))[0].starts_with("blockSize must be 20 to 32"));
    assert!(refused(&pool("10.244.0.0/16", json!(112)))[0].starts_with("blockSize must be 20 to 32"));
    assert!(refused(&pool("fd00::/48", json!(26)))[0].starts_with("blockSize must be 20 to 32"));
    assert!(
        refused(&pool("10.244.0.0/27", Value::Null))[0].starts_with("the pool must hold at least one block")
    );
    assert!(
        refused(&pool("10.244.0.0/24", json!(23)))[0].starts_with("the pool must hold at least one block")
    );
    assert!(
        refused(&pool("10.0.0.0/7", json!(26))).iter().any(|message| message.contains("shorter than /8"))
    );
    for cidr in ["127.0.0.0/8", "169.254.1.0/24", "224.0.0.0/8", "fe80::/64", "::/64", "169.0.0.0/8"] {
        assert!(refused(&pool(cidr, Value::Null))[0].contains("must not overlap unspecified"), "{cidr}");
    }
    assert!(refused(&[("/spec/reserved", json!(["10.245.0.0/28"]))])[0].contains("inside cidr"));
    assert!(refused(&[("/metadata/name", json!("x".repeat(64)))])[0].contains("at most 63"));
}

#[test]
fn what_a_pool_is_cannot_change() {
    let changed = |changes: &[Change]| refused_change(&IPPool::example(), changes);
    assert_eq!(changed(&[("/spec/disabled", json!(true))]), NOTHING);
    assert!(changed(&[("/spec/cidr", json!("10.244.0.0/17"))])[0].starts_with("cidr cannot change"));
    assert!(changed(&[("/spec/blockSize", json!(27))])[0].starts_with("blockSize cannot change"));
    assert!(changed(&[("/spec/blockSize", Value::Null)])[0].starts_with("blockSize cannot change"));
}

#[test]
fn a_block_is_named_by_its_network_and_may_change_hands_only() {
    let example = IPBlock::example();
    assert!(
        refused(&example, &[("/metadata/name", json!("10-244-3-64-27"))])[0]
            .starts_with("the name must be the cidr")
    );
    assert_eq!(
        refused(&IPBlock::claim("fd00:10:244::40/122".parse().expect("a network"), "n", "p"), &[]),
        NOTHING
    );
    let big = [("/metadata/name", json!("10-244-0-0-19")), ("/spec/cidr", json!("10.244.0.0/19"))];
    assert!(refused(&example, &big)[0].starts_with("a block must be /20"));
    assert_eq!(refused_change(&example, &[("/spec/node", json!("node2"))]), NOTHING);
    assert_eq!(refused_change(&example, &[("/spec/pool", json!("other"))]), ["pool cannot change"]);
}

#[test]
fn a_claim_has_one_address_of_each_family_and_keeps_what_it_has() {
    let addresses = |addresses: Value| [("/spec/addresses", addresses)];
    let refused = |list: Value| refused(&IPClaim::example(), &addresses(list));
    let changed = |list: Value| refused_change(&IPClaim::example(), &addresses(list));
    assert_eq!(refused(json!(["fd00::1"])), NOTHING);
    assert!(refused(json!(["10.0.0.1", "10.0.0.2"]))[0].starts_with("at most one address of each family"));
    assert!(refused(json!(["fd00::1", "fd00::1"]))[0].starts_with("at most one address of each family"));
    for text in ["10.0.0.1/32", "FD00::1", "db-0"] {
        assert!(refused(json!([text]))[0].starts_with("must be an IPv4 or IPv6 address"), "{text}");
    }
    assert_eq!(changed(json!(["fd00:10:244::46", "10.244.3.70"])), NOTHING);
    assert!(changed(json!(["10.244.3.70"]))[0].starts_with("an address can be added"));
    assert!(changed(json!(["10.244.3.71", "fd00:10:244::46"]))[0].starts_with("an address can be added"));
}

#[test]
fn the_configuration_is_one_and_agrees_with_itself() {
    let refused = |changes: &[Change]| refused(&BGPConfiguration::example(), changes);
    assert!(refused(&[("/metadata/name", json!("other"))])[0].starts_with("the name must be default"));
    assert!(refused(&[("/spec/topology", json!("RouteReflectors"))])[0].contains("needs routeReflector"));
    let reflectors =
        [("/spec/topology", json!("RouteReflectors")), ("/spec/routeReflector", json!({"nodeSelector": {}}))];
    assert_eq!(refused(&reflectors), NOTHING);
    assert!(refused(&[("/spec/holdTimeSeconds", json!(2))])[0].contains("at least 3"));
    assert_eq!(
        refused(&[("/spec/holdTimeSeconds", json!(0)), ("/spec/keepaliveTimeSeconds", json!(30))]),
        NOTHING
    );
    assert!(refused(&[("/spec/keepaliveTimeSeconds", json!(90))])[0].contains("below holdTimeSeconds"));
    assert!(refused(&[("/spec/communities", Value::Null)])[0].contains("must be defined"));
}

#[test]
fn a_peer_is_exactly_one_of_three_things() {
    let refused = |changes: &[Change]| refused(&BGPPeer::example(), changes);
    assert!(refused(&[("/spec/peerIP", Value::Null)])[0].starts_with("exactly one"));
    assert!(refused(&[("/spec/interface", json!("eth1"))])[0].starts_with("exactly one"));
    assert_eq!(refused(&[("/spec/peerIP", Value::Null), ("/spec/peerSelector", json!({}))]), NOTHING);
    let range = [("/spec/peerIP", Value::Null), ("/spec/peerRange", json!({"cidr": "192.0.2.0/24"}))];
    assert_eq!(refused(&range), NOTHING);
    assert!(refused(&range[1..])[0].starts_with("exactly one"));
}

#[test]
fn settings_of_a_peer_that_contradict_each_other_are_refused() {
    let refused = |changes: &[Change]| refused(&BGPPeer::example(), changes);
    let rows: [(&[Change], &str); 3] = [
        (
            &[("/spec/ebgpMultihop", json!(2)), ("/spec/ttlSecurityHops", json!(1))],
            "ebgpMultihop and ttlSecurityHops",
        ),
        (&[("/spec/roleStrict", json!(true))], "roleStrict asks"),
        (
            &[("/spec/asNumber", json!("Internal")), ("/spec/localAS", json!({"asNumber": 65001}))],
            "localAS is shown to external",
        ),
    ];
    for (changes, text) in rows {
        assert!(refused(changes)[0].starts_with(text), "{changes:?}");
        assert_eq!(refused(&changes[1..]).is_empty(), !text.starts_with("roleStrict") || changes.len() == 1);
    }
    assert!(
        refused(&[("/spec/maxPrefixes", json!({"ipv4": 9, "action": "Warn", "restartSeconds": 5}))])[0]
            .starts_with("restartSeconds is for")
    );
}

#[test]
fn the_door_and_the_type_agree_on_communities() {
    let schema = serde_json::to_value(BGPFilter::crd()).expect("plain data");
    let rule = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/importV4/items/properties";
    let pattern = |field: &str| {
        let found = schema.pointer(&format!("{rule}/{field}/items/pattern")).and_then(Value::as_str);
        regex::Regex::new(found.expect("a pattern")).expect("a regular expression")
    };
    let community = pattern("addCommunities");
    for text in [
        "64512:100",
        "65535:65535",
        "65536:1",
        "1:65536",
        "1:4294967295:0",
        "1:4294967296:0",
        "64512:65536:4294967295",
        "rt:64512:70000",
        "rt:70000:64512",
        "rt:70000:70000",
        "no-export",
    ] {
        let good = text.parse::<manx_api::Community>().is_ok();
        assert_eq!(community.is_match(text), good, "{text}");
    }
    let open = [pattern("communities/properties/any"), pattern("removeCommunities")];
    for text in ["64512:*", "65536:*", "*:*:4294967296", "*:*:4294967295", "rt:70000:*", "rt:70000:70000"] {
        let good = text.parse::<manx_api::CommunityPattern>().is_ok();
        assert!(open.iter().all(|pattern| pattern.is_match(text) == good), "{text}");
    }
}

#[test]
fn a_condition_of_a_rule_says_something() {
    let refused = |changes: &[Change]| refused(&BGPFilter::example(), changes);
    assert!(refused(&[("/spec/importV4/0/communities", json!({}))])[0].starts_with("at least one of any"));
    assert!(refused(&[("/spec/importV4/0/asPath", json!({}))])[0].starts_with("at least one of origin"));
    let hops = json!({"minHops": 3, "maxHops": 2});
    assert!(refused(&[("/spec/importV4/0/asPath", hops)])[0].starts_with("minHops must not"));
}

#[test]
fn the_door_and_the_type_agree_on_the_address_of_a_peer() {
    for good in ["192.0.2.1", "192.0.2.1:1", "192.0.2.1:65535", "fd00::1", "[fd00::1]:1179"] {
        assert_eq!(refused(&BGPPeer::example(), &[("/spec/peerIP", json!(good))]), NOTHING, "{good}");
        good.parse::<manx_api::PeerAddress>().unwrap_or_else(|error| panic!("{error}"));
    }
    for bad in [
        "",
        "tor1",
        "192.0.2",
        "192.0.2.1:",
        "192.0.2.1:0",
        "192.0.2.1:65536",
        "[fd00::1]",
        "fd00::1/64",
        "[192.0.2]:1",
        "fe80::1%eth0",
    ] {
        assert!(!refused(&BGPPeer::example(), &[("/spec/peerIP", json!(bad))]).is_empty(), "{bad}");
        assert!(bad.parse::<manx_api::PeerAddress>().is_err(), "{bad}");
    }
}

#[test]
fn the_door_and_the_type_agree_on_the_as_of_a_peer() {
    for (value, good) in [
        (json!(1), true),
        (json!(4_294_967_295_u32), true),
        (json!("Internal"), true),
        (json!("External"), true),
        (json!(0), false),
        (json!(4_294_967_296_u64), false),
        (json!(-1), false),
        (json!("internal"), false),
        (json!("65000"), false),
    ] {
        assert_eq!(
            refused(&BGPPeer::example(), &[("/spec/asNumber", value.clone())]).is_empty(),
            good,
            "{value}"
        );
        assert_eq!(serde_json::from_value::<manx_api::PeerAsn>(value.clone()).is_ok(), good, "{value}");
    }
}

#[test]
fn a_filter_keeps_the_families_apart() {
    let refused = |changes: &[Change]| refused(&BGPFilter::example(), changes);
    assert!(refused(&[("/spec/importV4/0/cidr", json!("fd00::/48"))])[0].contains("take IPv4 networks"));
    assert!(refused(&[("/spec/importV4/1/prefixLength/max", json!(33))])[0].contains("up to 32"));
    assert!(refused(&[("/spec/importV6/0/cidr", json!("10.0.0.0/8"))])[0].contains("take IPv6 networks"));
    assert!(
        refused(&[("/spec/importV4/1/prefixLength/min", json!(25))])[0].contains("min must not be above max")
    );
    assert!(refused(&[("/spec/importV4/2/matchOperator", json!("In"))])[0].contains("needs cidr"));
    for field in
        ["/spec/importV4/2/setLocalPreference", "/spec/importV4/2/setMED", "/spec/importV4/2/prependASPath"]
    {
        assert!(refused(&[(field, json!(2))])[0].contains("need action Accept"), "{field}");
    }
    assert!(refused(&[("/spec/importV4/2/blackhole", json!(true))])[0].contains("need action Accept"));
    let accept = |blackhole| json!([{ "name": "all", "action": "Accept", "blackhole": blackhole }]);
    assert!(refused(&[("/spec/exportV6", accept(true))])[0].contains("on import only"));
    assert!(refused(&[("/spec/importV6", accept(true)), ("/spec/exportV6", accept(false))]).is_empty());
}

#[test]
fn a_node_has_an_address_and_a_router_id() {
    let refused = |changes: &[Change]| refused(&NodeNetwork::example(), changes);
    assert!(refused(&[("/spec/addresses", json!({}))])[0].contains("at least one"));
    assert!(refused(&[("/spec/routerId", json!("0.0.0.0"))])[0].contains("must not be 0.0.0.0"));
}

#[test]
fn a_selector_has_values_where_its_operator_takes_them() {
    let selector = |operator: &str, values: &[&str]| {
        let requirement = json!({"key": "a", "operator": operator, "values": values});
        refused(&IPPool::example(), &[("/spec/nodeSelector", json!({"matchExpressions": [requirement]}))])
    };
    assert_eq!(selector("In", &["x"]), NOTHING);
    assert_eq!(selector("Exists", &[]), NOTHING);
    assert!(selector("NotIn", &[])[0].starts_with("In and NotIn need values"));
    assert!(selector("DoesNotExist", &["x"])[0].starts_with("In and NotIn need values"));
}

const NOTHING: [&str; 0] = [];

fn refused<K: Serialize + CustomResourceExt>(example: &K, changes: &[Change]) -> Vec<String> {
    let schema = schema_of::<K>();
    cel::refusals(&schema, &changed(&schema, example, changes), None)
}

fn refused_change<K: Serialize + CustomResourceExt>(example: &K, changes: &[Change]) -> Vec<String> {
    let schema = schema_of::<K>();
    let old = changed(&schema, example, &[]);
    cel::refusals(&schema, &changed(&schema, example, changes), Some(&old))
}

fn schema_of<K: CustomResourceExt>() -> Value {
    let crds = manx_api::crds();
    let crd = crds
        .iter()
        .find(|crd| crd.spec.names.kind == K::crd().spec.names.kind)
        .expect("every kind is listed");
    let schema = crd.spec.versions[0].schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
    serde_json::to_value(schema.expect("a schema")).expect("plain data")
}

/// The example with its defaults, and then the changes.
fn changed<K: Serialize>(schema: &Value, example: &K, changes: &[Change]) -> Value {
    let mut object = serde_json::to_value(example).expect("plain data");
    for (pointer, value) in changes {
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        let parent = object.pointer_mut(parent).unwrap_or_else(|| panic!("{parent} is not in the example"));
        match (parent, value) {
            (Value::Object(fields), Value::Null) => drop(fields.remove(name)),
            (Value::Object(fields), value) => drop(fields.insert(name.to_owned(), value.clone())),
            (other, _) => panic!("{other} has no fields"),
        }
    }
    cel::fill_defaults(schema, &mut object);
    object
}
