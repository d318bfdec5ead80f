//! Pods of another network: what is told of them, what the kernel shows, and what becomes of both.

use std::net::IpAddr;

use manx_api::{IPBlockStatus, Time, Timestamp};
use manx_ipam::{Limits, Recovered};
use manx_kernel::names::alias;
use manx_kernel::netlink::inspect::End;

use super::*;
use crate::node::{Input, Output};

const CONTAINER: &str = "0b0e7e0bd3a0c9f7";

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn block(cidr: &str, node: &str, allocations: &[(&str, &str, &str)]) -> IPBlock {
    let allocation = |(address, pod, container): &(&str, &str, &str)| Allocation {
        address: self::address(address),
        pod: Some((*pod).to_owned()),
        container: (*container).to_owned(),
        interface: "eth0".to_owned(),
        since: Time(Timestamp::from_second(1_767_773_585).expect("a time")),
    };
    let mut object = IPBlock::claim(cidr.parse().expect("a network"), node, "v4");
    object.status = Some(IPBlockStatus {
        allocations: allocations.iter().map(allocation).collect(),
        handed_over_by: Some("calico".to_owned()),
        ..IPBlockStatus::default()
    });
    object
}

fn handed(allocations: &[(&str, &str, &str)]) -> HandedOver {
    handed_over([block("10.48.21.64/26", "node1", allocations)].iter(), &"node1".into())
}

fn guest(pod: &str, alias: Option<&str>, addresses: &[&str]) -> Guest {
    let name = host_link_name(pod.split_once('/'), "", "eth0");
    Guest {
        end: End { index: 7, name, alias: alias.map(str::to_owned), mtu: 1440, ..End::default() },
        mac: "4e:c1:15:0f:3a:07".parse().ok(),
        ifname: "eth0".to_owned(),
        addresses: addresses.iter().map(|text| address(text)).collect(),
    }
}

fn only(handed: &HandedOver, guest: Guest) -> Option<Part> {
    judge(handed, &[guest]).pop().map(|(_, part)| part)
}

#[test]
fn a_pod_has_the_addresses_of_all_blocks_that_were_handed_over_to_its_node() {
    let mut settled = block("10.48.22.0/26", "node1", &[("10.48.22.1", "a/b", "x")]);
    settled.status.as_mut().expect("a status").handed_over_by = None;
    let blocks = [
        block("fd00:10:48::2a40/122", "node1", &[("fd00:10:48::2a41", "default/web-0", CONTAINER)]),
        block("10.48.21.64/26", "node1", &[("10.48.21.65", "default/web-0", CONTAINER)]),
        block("10.48.23.0/26", "node2", &[("10.48.23.1", "default/web-1", "other")]),
        settled,
    ];
    let all = handed_over(blocks.iter(), &"node1".into());
    assert_eq!(all.blocks.len(), 2);
    let [endpoint] = all.endpoints.as_slice() else { panic!("one endpoint: {all:?}") };
    assert_eq!(endpoint.addresses, [address("10.48.21.65"), address("fd00:10:48::2a41")]);
    assert_eq!(endpoint.link, host_link_name(Some(("default", "web-0")), "", "eth0"));
    assert_eq!((endpoint.network.as_deref(), endpoint.since), (Some("calico"), Some(1_767_773_585)));
}

#[test]
fn only_a_link_of_the_pods_name_with_the_pods_address_is_the_pods() {
    let told = handed(&[("10.48.21.65", "default/web-0", CONTAINER)]);
    let adopted = |guest| matches!(only(&told, guest), Some(Part::Adopt(endpoint)) if endpoint.id.container == CONTAINER);
    let held = |guest| matches!(only(&told, guest), Some(Part::Hold(_)));
    assert!(adopted(guest("default/web-0", None, &["10.48.21.65"])));
    assert!(
        adopted(guest("default/web-0", Some(&alias(CONTAINER, "eth0")), &["10.48.21.65"])),
        "a second look"
    );
    assert!(adopted(guest("default/web-0", Some("manx:?:cali0"), &["10.48.21.65"])), "one that was held");
    assert!(held(guest("default/web-1", None, &["10.48.21.65"])), "the address is another pod's by now");
    assert!(held(guest("default/web-0", None, &["10.48.21.66"])), "the pod has another address by now");
    assert!(held(guest("default/web-1", Some("manx:?:cali0"), &["10.48.21.66"])), "still unknown");
    let ours = guest("default/web-0", Some("manx:younger:eth0"), &["10.48.21.65"]);
    assert_eq!(only(&told, ours), None, "a newer container of the same pod, started by us");
    assert_eq!(only(&told, guest("default/web-0", Some("lab"), &["10.48.21.65"])), None, "somebody else's");
}

#[test]
fn a_pod_has_the_addresses_that_are_routed_to_it() {
    let told =
        handed(&[("10.48.21.65", "default/web-0", CONTAINER), ("10.48.21.70", "default/web-0", CONTAINER)]);
    let of = |addresses: &[&str]| match only(&told, guest("default/web-0", None, addresses)) {
        Some(Part::Adopt(endpoint)) => endpoint,
        other => panic!("not adopted: {other:?}"),
    };
    assert_eq!(of(&["10.48.21.65"]).addresses, [address("10.48.21.65")]);
    let endpoint = of(&["fd00:10:48::2a41", "10.48.21.65"]);
    let both = [address("10.48.21.65"), address("fd00:10:48::2a41")];
    assert_eq!(endpoint.addresses, both, "the block of one of them may have been settled first");
    assert_eq!((endpoint.mac.as_deref(), endpoint.mtu), (Some("4e:c1:15:0f:3a:07"), Some(1440)));
}

#[test]
fn links_that_only_look_like_calicos_are_strangers_until_they_have_a_name_of_ours() {
    use manx_kernel::model::Link;
    let link = |name: &str, up, alias: Option<&str>| Link {
        index: 1,
        name: name.to_owned(),
        up,
        carrier: up,
        mtu: 1500,
        alias: alias.map(str::to_owned),
    };
    for (found, stranger) in [
        (link("cali440f455693a", true, None), true),
        (link("cali440f455693a", false, None), false),
        (link("cali440f455693a", true, Some("manx:c1:eth0")), false),
        (link("calico-tunnel", true, None), false),
        (link("eth0", true, None), false),
    ] {
        let text = format!("{found:?}");
        assert_eq!(strangers(&Dump { links: vec![found], ..Dump::default() }), stranger, "{text}");
    }
}

/// A node that has just started, with nothing on record.
fn node() -> (Node, Instant) {
    let now = Instant::now();
    (Node::new("node1".into(), Limits::default(), Recovered::default(), now), now)
}

fn adopted(container: &str, link: &str, address: &str) -> Endpoint {
    Endpoint {
        id: EndpointId { container: container.to_owned(), ifname: "eth0".to_owned() },
        link: link.to_owned(),
        addresses: vec![self::address(address)],
        network: Some("calico".to_owned()),
        ..Endpoint::default()
    }
}

fn look(node: &mut Node, now: Instant, found: &[Endpoint]) -> Vec<Output> {
    let present = found.iter().map(|endpoint| endpoint.id.clone()).collect();
    node.handle(Input::Guests { found: found.to_vec(), present }, now);
    std::iter::from_fn(|| node.poll()).collect()
}

fn containers(node: &Node) -> Vec<String> {
    node.ipam.endpoints().map(|endpoint| endpoint.id.container.clone()).collect()
}

#[test]
fn what_is_taken_over_is_on_record_before_anything_else_happens() {
    let (mut node, now) = node();
    while node.poll().is_some() {}
    let outputs = look(&mut node, now, &[adopted("c1", "cali1", "10.48.21.65")]);
    assert!(matches!(outputs.first(), Some(Output::Record(_))), "{outputs:?}");
    let routes = outputs.iter().rev().find_map(|output| match output {
        Output::Routes(routes) => Some(routes.len()),
        _ => None,
    });
    assert_eq!(routes, Some(1));
}

#[test]
fn a_holder_that_becomes_known_keeps_the_address_and_one_whose_link_is_gone_does_not() {
    let (mut node, now) = node();
    let link = host_link_name(Some(("default", "web-0")), "", "eth0");
    let Part::Hold(held) = only(&handed(&[]), guest("default/web-0", None, &["10.48.21.65"])).expect("held")
    else {
        panic!("nobody told of it")
    };
    let outputs = look(&mut node, now, std::slice::from_ref(&held));
    assert_eq!(containers(&node), ["?"]);
    let routed = outputs.iter().any(|output| matches!(output, Output::Routes(routes) if !routes.is_empty()));
    assert!(!routed, "the route of a link that is not ours is not ours to make: {outputs:?}");
    let known = adopted("c1", &link, "10.48.21.65");
    let outputs = look(&mut node, now, std::slice::from_ref(&known));
    assert_eq!(containers(&node), ["c1"]);
    let unlinked = outputs.iter().any(|output| matches!(output, Output::Unlink { .. }));
    assert!(!unlinked, "it is the same link: {outputs:?}");
    look(&mut node, now, &[]);
    assert_eq!(containers(&node), Vec::<String>::new());
}

#[test]
fn pods_of_our_own_do_not_end_because_a_look_misses_them() {
    let (mut node, now) = node();
    let ours = Endpoint { netns: Some("/run/netns/a".to_owned()), ..adopted("c1", "cali1", "10.48.21.65") };
    look(&mut node, now, &[ours]);
    look(&mut node, now, &[]);
    assert_eq!(containers(&node), ["c1"]);
}
