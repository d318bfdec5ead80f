//! A plan from a cluster of Calico's, and one change at a time that gets in its way.

use std::collections::BTreeMap;

use manx_api::{FilterAction, FilterSource, IPBlock, NextHopMode, Operator, SourceAddress, Topology};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::calico::{Calico, Named, Node};
use super::plan::Remark;
use super::*;

/// Objects as the API server would list them.
fn objects(text: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).expect("an object"))
        .collect()
}

fn cluster() -> Vec<Value> {
    objects(include_str!("fixtures/cluster.yaml"))
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().expect("a name").to_owned()
}

fn of_kind<S: DeserializeOwned>(objects: &[Value], kind: &str) -> Vec<Named<S>> {
    let chosen = objects.iter().filter(|object| object["kind"] == kind);
    let read = |object: &Value| Named {
        name: name(object),
        spec: serde_json::from_value(object["spec"].clone()).expect("a spec"),
    };
    chosen.map(read).collect()
}

fn read(objects: &[Value]) -> Calico {
    let texts = |value: &Value| -> BTreeMap<String, String> {
        serde_json::from_value(value.clone()).unwrap_or_default()
    };
    let nodes = objects.iter().filter(|object| object["kind"] == "Node").map(|node| Node {
        name: name(node),
        labels: texts(&node["metadata"]["labels"]),
        annotations: texts(&node["metadata"]["annotations"]),
    });
    Calico {
        pools: of_kind(objects, "IPPool"),
        blocks: of_kind(objects, "IPAMBlock"),
        affinities: of_kind(objects, "BlockAffinity"),
        ipam: of_kind(objects, "IPAMConfig").pop().map(|object| object.spec),
        reservations: of_kind(objects, "IPReservation"),
        bgp: of_kind(objects, "BGPConfiguration"),
        peers: of_kind(objects, "BGPPeer"),
        filters: of_kind(objects, "BGPFilter"),
        felix: of_kind(objects, "FelixConfiguration"),
        nodes: nodes.collect(),
    }
}

fn choices() -> Choices {
    Choices { drop_tunnels: false, namespace: "manx-system".to_owned(), moved: Vec::new() }
}

fn plan_of(objects: &[Value]) -> Plan {
    Plan::new(&read(objects), &choices())
}

/// The cluster with a change to one of its objects.
fn with(kind: &str, called: &str, change: impl FnOnce(&mut Value)) -> Plan {
    let mut objects = cluster();
    let found =
        objects.iter_mut().find(|object| object["kind"] == kind && object["metadata"]["name"] == called);
    change(found.expect("such an object"));
    plan_of(&objects)
}

fn said(plan: &Plan, weight: Weight) -> Vec<String> {
    plan.remarks
        .iter()
        .filter(|remark| remark.weight == weight)
        .map(|Remark { about, text, .. }| format!("{about}: {text}"))
        .collect()
}

fn blocks_with_pods(plan: &Plan) -> Vec<(String, String, Vec<String>)> {
    let pods = |block: &IPBlock| {
        let status = block.status.as_ref().expect("a status");
        status
            .allocations
            .iter()
            .map(|one| format!("{} {}", one.address, one.pod.as_deref().unwrap_or("-")))
            .collect()
    };
    plan.blocks
        .iter()
        .map(|block| (block.spec.cidr.to_string(), block.spec.node.clone(), pods(block)))
        .collect()
}

#[test]
fn a_plain_cluster_has_nothing_in_the_way() {
    let plan = plan_of(&cluster());
    assert_eq!(said(&plan, Weight::Blocker), Vec::<String>::new());
    assert!(said(&plan, Weight::Warning).iter().any(|text| text.starts_with("IPPool services")));
}

#[test]
fn pools_keep_what_they_are_with_selectors_and_reservations() {
    let plan = plan_of(&cluster());
    let names: Vec<&str> = plan.pools.iter().map(pools::named).collect();
    assert_eq!(names, ["default-ipv4-ippool", "default-ipv6-ippool"]);
    let v4 = &plan.pools[0].spec;
    assert_eq!(
        (v4.cidr.to_string().as_str(), v4.block_size, v4.nat_outgoing),
        ("10.48.0.0/16", Some(26), true)
    );
    assert_eq!(v4.node_selector, None);
    let reserved: Vec<String> = v4.reserved.iter().map(ToString::to_string).collect();
    assert_eq!(reserved, ["10.48.0.0/30", "10.48.255.255/32"]);
    assert_eq!((v4.max_blocks_per_node, v4.cooldown_seconds), (Some(20), Some(120)));
    let chosen = plan.pools[1].spec.node_selector.as_ref().expect("a selector");
    let operators: Vec<Operator> = chosen.match_expressions.iter().map(|one| one.operator).collect();
    assert_eq!(operators, [Operator::DoesNotExist, Operator::In]);
}

#[test]
fn blocks_come_with_their_owners_pods_and_containers() {
    let plan = plan_of(&cluster());
    let pods = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let web = "10.48.21.65 default/web-6d4b75cb6d-hx2ks";
    let dns = "10.48.21.66 kube-system/coredns-76f75df574-7x2lq";
    assert_eq!(
        blocks_with_pods(&plan),
        [
            ("10.48.21.64/26".to_owned(), "node1".to_owned(), pods(&[web, dns])),
            ("10.48.90.0/26".to_owned(), "node2".to_owned(), Vec::new()),
            (
                "fd00:10:48::2a40/122".to_owned(),
                "node1".to_owned(),
                pods(&["fd00:10:48::2a41 default/web-6d4b75cb6d-hx2ks"])
            ),
        ]
    );
    let status = plan.blocks[0].status.as_ref().expect("a status");
    assert_eq!((status.used, status.free, status.handed_over_by.as_deref()), (2, 62, Some("calico")));
    let first = &status.allocations[0];
    assert!(first.container.starts_with("0b0e7e0bd3a0c9f7"), "{first:?}");
    assert_eq!(
        (first.interface.as_str(), first.since.0.to_string().as_str()),
        ("eth0", "2026-01-07T08:13:05Z")
    );
}

#[test]
fn bgp_goes_over_with_filters_and_a_peer_for_every_node() {
    let plan = plan_of(&cluster());
    let config = &plan.configuration.as_ref().expect("a configuration").spec;
    assert_eq!((config.as_number, config.topology), (64512, Topology::FullMesh));
    assert_eq!(config.graceful_restart.restart_time_seconds, 600);
    assert_eq!((config.communities.len(), config.prefix_advertisements.len()), (1, 1));
    let names: Vec<String> = plan.peers.iter().map(ResourceExt::name_any).collect();
    assert_eq!(
        names,
        ["calico-node-v4-node1", "calico-node-v4-node2", "calico-node-v6-node1", "core", "tor-rack-a"]
    );
    let stand_in = &plan.peers[1].spec;
    let nodes = &stand_in.node_selector.as_ref().expect("all others").match_expressions[0];
    assert_eq!(
        (nodes.operator, nodes.values.as_slice()),
        (Operator::NotIn, ["node2.example".to_owned()].as_slice())
    );
    let core = &plan.peers[3].spec;
    assert_eq!((core.ebgp_multihop, core.next_hop_mode), (Some(64), NextHopMode::Keep));
    assert_eq!(core.local_as.map(|local| (local.as_number, local.replace_as)), Some((65100, true)));
    let tor = &plan.peers[4].spec;
    assert_eq!(tor.peer_ip.map(|ip| ip.port), Some(Some(1179)));
    assert_eq!(
        (tor.ttl_security_hops, tor.ebgp_multihop, tor.source_address),
        (Some(1), None, SourceAddress::None)
    );
    assert_eq!((tor.keepalive_time_seconds, tor.hold_time_seconds), (Some(10), Some(30)));
    assert_eq!(tor.password_secret_ref.as_ref().map(|key| key.namespace.as_str()), Some("manx-system"));
}

#[test]
fn a_rule_on_remote_peers_becomes_two_and_operations_go_along() {
    let plan = plan_of(&cluster());
    let export = &plan.filters[0].spec.export_v4;
    let sources: Vec<_> = export.iter().map(|rule| (rule.name.as_str(), rule.action, rule.source)).collect();
    assert_eq!(
        sources,
        [
            ("rule-1", FilterAction::Reject, Some(FilterSource::Internal)),
            ("rule-1-external", FilterAction::Reject, Some(FilterSource::External)),
            ("rule-2", FilterAction::Accept, None),
        ]
    );
    assert_eq!((export[2].prepend_as_path, export[2].add_communities.len()), (Some(2), 1));
    let import = &plan.filters[0].spec.import_v4;
    assert_eq!(import[1].as_path.as_ref().map(|path| path.neighbor.as_slice()), Some([65001].as_slice()));
}

/// What is in the way is told with the object and the way out; one change each.
#[test]
fn what_cannot_be_taken_over_is_in_the_way() {
    const BLOCK: &str = "10-48-21-64-26";
    const POOL: &str = "default-ipv4-ippool";
    let set = |kind: &str, called: &str, path: &str, value: Value| {
        with(kind, called, |object| *object.pointer_mut(path).unwrap_or_else(|| panic!("no {path}")) = value)
    };
    let add = |kind: &str, called: &str, more: Value| {
        with(kind, called, |object| {
            let spec = object["spec"].as_object_mut().expect("a spec");
            spec.extend(more.as_object().expect("fields").clone());
        })
    };
    let cases: [(Plan, &str); 18] = [
        (set("IPPool", POOL, "/spec/ipipMode", json!("CrossSubnet")), "IPIP is CrossSubnet"),
        (set("IPPool", POOL, "/spec/vxlanMode", json!("Always")), "VXLAN is Always"),
        (set("IPPool", POOL, "/spec/nodeSelector", json!("a == '1' || b == '2'")), "kubectl label"),
        (set("IPPool", POOL, "/spec/cidr", json!("10.49.0.0/16")), "no pool that moves holds it"),
        (
            set("IPPool", "default-ipv6-ippool", "/spec/cidr", json!("10.48.0.0/17")),
            "it overlaps 10.48.0.0/16",
        ),
        (set("IPAMConfig", "default", "/spec/strictAffinity", json!(false)), "set strictAffinity true"),
        (set("IPAMConfig", "default", "/spec/autoAllocateBlocks", json!(true)), "autoAllocateBlocks false"),
        (
            set("IPAMBlock", BLOCK, "/spec/attributes/0/secondary/node", json!("node2")),
            "is borrowed by default/web-",
        ),
        (set("IPAMBlock", BLOCK, "/spec/affinity", Value::Null), "it belongs to no node, and 2 addresses"),
        (
            set("IPAMBlock", "10-48-90-0-26", "/spec/cidr", json!("10.48.21.0/25")),
            "it overlaps 10.48.21.0/25",
        ),
        (
            add(
                "BGPConfiguration",
                "default",
                json!({"nodeMeshPassword": {"secretKeyRef": {"name": "a", "key": "b"}}}),
            ),
            "nodeMeshPassword",
        ),
        (
            add("BGPFilter", "tor", json!({"importV4": [{"action": "Accept", "interface": "eth0"}]})),
            "rule-1: there is nothing like interface",
        ),
        (
            add(
                "BGPFilter",
                "tor",
                json!({"exportV4": [{"action": "Accept", "operations": [{"setPriority": {"value": 1}}]}]}),
            ),
            "the operation setPriority",
        ),
        (add("BGPPeer", "tor-rack-a", json!({"filters": ["gone"]})), "its BGPFilter gone is not taken over"),
        (add("BGPPeer", "core", json!({"node": "node9"})), "there is no Node node9"),
        (
            set("Node", "node1", "/metadata/annotations", json!({"projectcalico.org/ASNumber": "64999"})),
            "all nodes of Manx have one AS",
        ),
        (
            set(
                "Node",
                "node1",
                "/metadata/annotations",
                json!({"projectcalico.org/RouteReflectorClusterID": "1.0.0.1"}),
            ),
            "it is a route reflector",
        ),
        (add("IPReservation", "routers", json!({"reservedCIDRs": ["10.48.0.1/30"]})), "is no network"),
    ];
    for (plan, text) in cases {
        let blockers = said(&plan, Weight::Blocker);
        assert!(plan.is_blocked() && blockers.iter().any(|line| line.contains(text)), "{text}: {blockers:?}");
    }
}

#[test]
fn what_changes_by_the_move_is_a_warning() {
    const BLOCK: &str = "10-48-21-64-26";
    let handle = |text: &str| {
        with("IPAMBlock", BLOCK, |object| object["spec"]["attributes"][0]["handle_id"] = json!(text))
    };
    let old_handle = handle("default.web-6d4b75cb6d-hx2ks");
    assert_eq!(old_handle.blocks[0].status.as_ref().expect("a status").allocations.len(), 1);
    let tunnel = with("IPAMBlock", BLOCK, |object| {
        object["spec"]["attributes"][0] = json!({"handle_id": "vxlan-tunnel-addr-node1", "secondary": {"node": "node1", "type": "vxlanTunnelAddress"}});
    });
    assert!(tunnel.pools[0].spec.reserved.iter().any(|network| network.to_string() == "10.48.21.65/32"));
    let odd = with("IPPool", "default-ipv4-ippool", |object| object["spec"]["blockSize"] = json!(27));
    let gone = with("Node", "node2", |object| object["metadata"]["name"] = json!("node3"));
    let export =
        with("IPPool", "default-ipv4-ippool", |object| object["spec"]["disableBGPExport"] = json!(true));
    for (plan, text) in [
        (old_handle, "a handle without a container id"),
        (tunnel, "is a tunnel address of node1"),
        (odd, "this one gives no new addresses"),
        (gone, "it belongs to node2, which is no Node"),
        (export, "disableBGPExport becomes advertise: false"),
    ] {
        let warnings = said(&plan, Weight::Warning);
        assert!(warnings.iter().any(|line| line.contains(text)), "{text}: {warnings:?}");
    }
}

#[test]
fn tunnels_are_dropped_when_that_is_asked_for() {
    let mut objects = cluster();
    objects[0]["spec"]["ipipMode"] = json!("Always");
    let plan = Plan::new(&read(&objects), &Choices { drop_tunnels: true, ..choices() });
    assert!(!plan.is_blocked());
    assert!(said(&plan, Weight::Warning).iter().any(|text| text.contains("routed as they are as soon as")));
}

/// What there is after a plan was carried out.
fn carried_out(plan: &Plan) -> Existing {
    Existing {
        pools: plan.pools.clone(),
        configurations: plan.configuration.iter().cloned().collect(),
        filters: plan.filters.clone(),
        peers: plan.peers.clone(),
        blocks: plan.blocks.clone(),
    }
}

#[test]
fn a_second_run_has_nothing_to_do() {
    let plan = plan_of(&cluster());
    let first = Look::at(plan_of(&cluster()), &Existing::default(), &[]);
    assert_eq!((first.steps.len(), first.is_blocked()), (2 + 1 + 1 + 5 + 3, false));
    let second = Look::at(plan_of(&cluster()), &carried_out(&plan), &[]);
    assert_eq!((second.steps, second.waiting), (Vec::new(), 3));
}

#[test]
fn an_interrupted_run_is_resumed_where_it_ended() {
    let plan = plan_of(&cluster());
    let mut existing = carried_out(&plan);
    existing.peers.pop();
    existing.blocks.pop();
    existing.blocks[0].status = None;
    let look = Look::at(plan, &existing, &[]);
    assert!(!look.is_blocked());
    let told: Vec<String> = look.steps.iter().map(Step::told).collect();
    assert_eq!(
        told,
        [
            "created BGPPeer tor-rack-a",
            "told IPBlock 10-48-21-64-26 of 2 pods",
            "created IPBlock fd00:10:48::2a40/122 of node1 with 1 pods",
        ]
    );
}

#[test]
fn pods_that_came_and_went_are_told_until_the_node_has_taken_them_over() {
    let before = plan_of(&cluster());
    let now = || with("IPAMBlock", "10-48-21-64-26", |object| object["spec"]["allocations"][1] = Value::Null);
    let mut existing = carried_out(&before);
    let look = Look::at(now(), &existing, &[]);
    assert_eq!(
        look.steps.iter().map(Step::told).collect::<Vec<_>>(),
        ["told IPBlock 10-48-21-64-26 of 1 pods"]
    );
    assert_eq!(Look::at(now(), &existing, &["node2".to_owned()]).steps, []);
    let taken_over = existing.blocks[0].status.as_mut().expect("a status");
    taken_over.handed_over_by = None;
    assert_eq!(Look::at(now(), &existing, &[]).steps, [], "what the owner says is not overwritten");
}

#[test]
fn the_peer_that_stands_for_a_node_goes_when_the_node_has_moved() {
    let existing = carried_out(&plan_of(&cluster()));
    let moved = Choices { moved: vec!["node1".to_owned()], ..choices() };
    let look = Look::at(Plan::new(&read(&cluster()), &moved), &existing, &[]);
    let told: Vec<String> = look.steps.iter().map(Step::told).collect();
    assert_eq!(told, ["deleted BGPPeer calico-node-v4-node1", "deleted BGPPeer calico-node-v6-node1"]);
}

#[test]
fn objects_of_ours_that_say_otherwise_are_in_the_way_unless_an_earlier_run_made_them() {
    let plan = plan_of(&cluster());
    let mut existing = carried_out(&plan);
    existing.pools[0].spec.nat_outgoing = false;
    let look = Look::at(plan_of(&cluster()), &existing, &[]);
    assert!(!look.is_blocked() && look.remarks.iter().any(|remark| remark.text.contains("stays as it is")));
    existing.pools[0].metadata.labels = None;
    assert!(Look::at(plan_of(&cluster()), &existing, &[]).is_blocked());

    let mut foreign = Existing { blocks: plan.blocks, ..Existing::default() };
    foreign.blocks[0].spec.node = "node2".to_owned();
    assert!(Look::at(plan_of(&cluster()), &foreign, &[]).is_blocked());

    let wide = IPBlock::claim("10.48.21.0/24".parse().expect("a network"), "node5", "other");
    assert!(
        Look::at(plan_of(&cluster()), &Existing { blocks: vec![wide], ..Existing::default() }, &[])
            .is_blocked()
    );
}

#[test]
fn the_objects_can_be_read_back_from_yaml() {
    let text = yaml(&plan_of(&cluster())).expect("YAML");
    let kinds: Vec<String> =
        objects(&text).iter().map(|object| object["kind"].as_str().expect("a kind").to_owned()).collect();
    assert_eq!(kinds.len(), 12);
    assert!(text.contains("handedOverBy: calico"));
}
