//! Tests of what an audit finds.

use manx_api::{Allocation, IPBlock, IPBlockStatus, IPClaim, IPPool, NodeNetwork, Time, Timestamp};
use manx_facts::guards::Guards;
use manx_facts::kernel::{Hop, Route, RouteKind};

use super::*;

const CONTAINER: &str = "0123456789abcdef0123456789abcdef";

fn network(text: &str) -> IpNetwork {
    text.parse().expect("a network")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn route(dst: &str, link: u32) -> Route {
    Route {
        dst: network(dst),
        table: TABLE_MAIN,
        metric: 0,
        protocol: PROTOCOL,
        kind: RouteKind::Unicast,
        hops: vec![Hop { link, ..Hop::default() }],
        nexthop: None,
        source: None,
        mtu: None,
        scope: 253,
    }
}

/// One node with one pod, where all agree.
fn healthy() -> Seen {
    let mut block = IPBlock::example();
    let allocation = Allocation {
        address: address("10.244.3.65"),
        pod: Some("shop/web".to_owned()),
        container: CONTAINER.to_owned(),
        interface: "eth0".to_owned(),
        since: Time(Timestamp::UNIX_EPOCH),
    };
    block.status =
        Some(IPBlockStatus { used: 1, free: 63, allocations: vec![allocation], handed_over_by: None });
    let cluster = Cluster {
        networks: vec![NodeNetwork::example()],
        pools: vec![IPPool::example()],
        blocks: vec![block],
        ..Cluster::default()
    };
    let pod = PodSeen {
        name: "shop/web".to_owned(),
        uid: "u1".to_owned(),
        node: "node1".to_owned(),
        addresses: vec![address("10.244.3.65")],
        phase: "Running".to_owned(),
        leaving: false,
    };
    let endpoint = Endpoint {
        container: CONTAINER.to_owned(),
        ifname: "eth0".to_owned(),
        namespace: "shop".to_owned(),
        pod: "web".to_owned(),
        uid: Some("u1".to_owned()),
        link: "cali1".to_owned(),
        addresses: vec![address("10.244.3.65")],
        ..Endpoint::default()
    };
    let link = Link {
        index: 7,
        name: "cali1".to_owned(),
        alias: Some(format!("manx:{CONTAINER}:eth0")),
        up: true,
        ..Link::default()
    };
    let record =
        Record { blocks: vec![network("10.244.3.64/26")], endpoints: vec![endpoint], ..Record::default() };
    let kernel = Kernel { links: vec![link], routes: vec![route("10.244.3.65/32", 7)], ..Kernel::default() };
    let nodes = BTreeMap::from([("node1".to_owned(), Sight { record, kernel })]);
    Seen { cluster, pods: vec![pod], nodes }
}

impl Seen {
    fn node(&mut self) -> &mut Sight {
        self.nodes.get_mut("node1").expect("there is one")
    }

    fn block(&mut self, cidr: &str, node: &str, pool: &str) {
        let block = IPBlock::claim(cidr.parse().expect("a CIDR"), node, pool);
        self.cluster.blocks.push(block);
    }
}

/// What is found once the healthy cluster was changed, in words, all of it with a cure.
fn told(change: impl FnOnce(&mut Seen)) -> Vec<String> {
    let mut seen = healthy();
    change(&mut seen);
    let findings = differences(&seen).into_iter().map(|difference| difference.finding("manx-system"));
    findings
        .map(|finding| {
            assert!(!finding.cure.is_empty() && finding.see.is_some(), "{finding:?}");
            format!("{}: {}", finding.object, finding.what)
        })
        .collect()
}

#[test]
fn guards_are_compared_with_the_record_and_with_links() {
    let guards = |admitted: &str| Guards {
        links: 1,
        admitted: BTreeMap::from([("cali1".to_owned(), BTreeSet::from([address(admitted)]))]),
        ..Guards::default()
    };
    assert_eq!(told(|seen| seen.node().kernel.guards = Some(guards("10.244.3.65"))), Vec::<String>::new());
    assert_eq!(
        told(|seen| seen.node().kernel.guards = Some(guards("10.244.3.66"))),
        ["pod shop/web: the guard of its link cali1 lets 10.244.3.66 pass, and the record has 10.244.3.65"]
    );
    let open =
        Guards { open: vec!["cali1".to_owned()], strays: vec!["cali9".to_owned()], ..Guards::default() };
    assert_eq!(
        told(|seen| seen.node().kernel.guards = Some(open)),
        [
            "node node1: there is a guard for the link cali9, which is gone",
            "pod shop/web: its link cali1 takes more than the pod may send",
        ]
    );
}

#[test]
fn where_all_agree_nothing_is_found() {
    assert_eq!(told(|_| {}), Vec::<String>::new());
}

#[test]
fn blocks_that_are_wrong_by_themselves_are_found() {
    assert_eq!(
        told(|seen| seen.block("10.244.3.96/27", "node1", "pods-v4")),
        [
            "block 10.244.3.96/27: node1 owns it, and node1 owns 10.244.3.64/26, which has the same addresses",
            "block 10.244.3.96/27: the API server says that it is node1's, and the record of node1 does not have it",
        ]
    );
    assert_eq!(
        told(|seen| seen.block("10.244.7.0/26", "nobody", "pods-v4")),
        ["block 10.244.7.0/26: it belongs to nobody, and there is no such node"]
    );
    assert_eq!(
        told(|seen| seen.cluster.pools.clear()),
        ["block 10.244.3.64/26: it does not lie in its pool pods-v4, or that is not there"]
    );
}

#[test]
fn blocks_that_api_and_record_do_not_share_are_found() {
    assert_eq!(
        told(|seen| seen.block("10.244.7.0/26", "node1", "pods-v4")),
        [
            "block 10.244.7.0/26: the API server says that it is node1's, and the record of node1 does not have it"
        ]
    );
    assert_eq!(
        told(|seen| seen.node().record.blocks.push(network("10.244.7.0/26"))),
        ["block 10.244.7.0/26: node1 gives addresses of it, and by the API server nobody owns it"]
    );
    assert_eq!(
        told(|seen| {
            seen.block("10.244.7.0/26", "node2", "pods-v4");
            let mut other = NodeNetwork::example();
            other.metadata.name = Some("node2".to_owned());
            seen.cluster.networks.push(other);
            seen.node().record.blocks.push(network("10.244.7.0/26"));
        }),
        ["block 10.244.7.0/26: node1 gives addresses of it, and it belongs to node2"]
    );
}

#[test]
fn a_block_on_its_way_back_or_over_is_no_disagreement() {
    assert!(
        told(|seen| {
            seen.block("10.244.7.0/26", "node1", "pods-v4");
            seen.node().record.releasing.push(network("10.244.7.0/26"));
        })
        .is_empty()
    );
    assert!(
        told(|seen| {
            seen.block("10.244.7.0/26", "node1", "pods-v4");
            let status =
                IPBlockStatus { handed_over_by: Some("calico".to_owned()), ..IPBlockStatus::default() };
            seen.cluster.blocks[1].status = Some(status);
        })
        .is_empty()
    );
}

#[test]
fn an_address_of_two_is_found() {
    let found = told(|seen| {
        let mut other = seen.pods[0].clone();
        (other.name, other.uid, other.node) = ("shop/other".to_owned(), "u2".to_owned(), "node2".to_owned());
        seen.pods.push(other);
    });
    assert_eq!(found, ["address 10.244.3.65: it is held by shop/other on node2 and by shop/web on node1"]);
    let found = told(|seen| {
        let mut other = seen.node().clone();
        (other.record.blocks, other.record.endpoints[0].pod) = (Vec::new(), "other".to_owned());
        other.record.endpoints[0].claim = Some("shop/web".to_owned());
        other.record.endpoints[0].uid = None;
        let mut pod = seen.pods[0].clone();
        (pod.name, pod.node, pod.addresses) = ("shop/other".to_owned(), "node2".to_owned(), Vec::new());
        seen.pods.push(pod);
        seen.nodes.insert("node2".to_owned(), other);
    });
    assert_eq!(found, ["address 10.244.3.65: it is held by shop/other on node2 and by shop/web on node1"]);
    let claim = |name: &str| IPClaim::of_pod("shop", name, [address("10.244.3.70")]);
    assert_eq!(
        told(|seen| seen.cluster.claims = vec![claim("a"), claim("b")]),
        ["address 10.244.3.70: the IPClaims shop/a and shop/b both have it"]
    );
}

#[test]
fn pods_that_api_and_record_do_not_share_are_found() {
    assert_eq!(
        told(|seen| seen.pods.clear()),
        [
            "node node1: the record has 10.244.3.65 for the pod shop/web (sandbox 0123456789ab), which is not there"
        ]
    );
    // The pod of a StatefulSet came again, and its first sandbox is still there.
    assert_eq!(told(|seen| seen.pods[0].uid = "u2".to_owned()).len(), 1);
    assert_eq!(
        told(|seen| {
            seen.node().record.endpoints.clear();
            seen.node().kernel = Kernel::default();
            seen.cluster.blocks[0].status = None;
        }),
        ["pod shop/web: it has 10.244.3.65, which the record of node1 does not know"]
    );
    assert_eq!(
        told(|seen| {
            let mut pod = seen.pods[0].clone();
            (pod.name, pod.addresses) = ("shop/other".to_owned(), Vec::new());
            seen.node().record.endpoints[0].pod = "other".to_owned();
            seen.node().record.endpoints[0].uid = None;
            seen.pods.push(pod);
            seen.cluster.blocks[0].status = None;
        }),
        ["pod shop/web: it has 10.244.3.65, which the record of node1 gives to shop/other"]
    );
}

#[test]
fn pods_on_their_way_in_or_out_and_those_of_others_are_no_disagreement() {
    assert!(
        told(|seen| seen.pods[0].addresses.clear()).is_empty(),
        "the kubelet has not told the address yet"
    );
    let ends = |seen: &mut Seen| {
        seen.pods[0].leaving = true;
        let endpoint = seen.node().record.endpoints.remove(0);
        seen.node().record.leaving.push(endpoint);
        seen.cluster.blocks[0].status = None;
    };
    assert!(told(ends).is_empty(), "its link is on its way out");
    let foreign = |seen: &mut Seen| {
        let mut other = seen.pods[0].clone();
        (other.name, other.addresses) = ("shop/old".to_owned(), vec![address("192.168.3.4")]);
        seen.pods.push(other);
        let link = Link { index: 9, name: "cali9".to_owned(), up: true, ..Link::default() };
        seen.node().kernel.links.push(link);
        seen.node().kernel.routes.push(Route { protocol: 3, ..route("192.168.3.4/32", 9) });
    };
    assert!(told(foreign).is_empty(), "a pod, a link and a route of another network");
}

#[test]
fn what_blocks_say_otherwise_than_the_record_is_found() {
    let free = "address 10.244.3.65: its block says that it is free, by the record of node1 shop/web has it";
    assert_eq!(
        told(|seen| seen.cluster.blocks[0].status = None),
        Vec::<String>::new(),
        "nothing was said yet"
    );
    let allocations = |seen: &mut Seen| {
        let status = seen.cluster.blocks[0].status.as_mut().expect("given");
        std::mem::take(&mut status.allocations)
    };
    assert_eq!(told(|seen| drop(allocations(seen))), [free]);
    let other = |seen: &mut Seen| {
        let status = seen.cluster.blocks[0].status.as_mut().expect("given");
        status.allocations[0].pod = Some("shop/old".to_owned());
    };
    let text = "address 10.244.3.65: its block says shop/old, the record of node1 says shop/web";
    assert_eq!(told(other), [text]);
    let more = |seen: &mut Seen| {
        let status = seen.cluster.blocks[0].status.as_mut().expect("given");
        let mut one = status.allocations[0].clone();
        (one.address, one.pod) = (address("10.244.3.66"), Some("shop/old".to_owned()));
        status.allocations.push(one);
    };
    let text = "address 10.244.3.66: its block says shop/old, by the record of node1 it is free";
    assert_eq!(told(more), [text]);
}

#[test]
fn an_address_outside_the_nodes_blocks_is_found_unless_it_is_claimed() {
    let lost = |seen: &mut Seen| {
        seen.node().record.blocks.clear();
        seen.cluster.blocks.clear();
    };
    let text = "pod shop/web: its address 10.244.3.65 lies in no block of node1, so nobody sends there";
    assert_eq!(told(lost), [text]);
    let claimed = |seen: &mut Seen| {
        lost(seen);
        seen.node().record.endpoints[0].claim = Some("shop/web".to_owned());
    };
    assert!(told(claimed).is_empty());
}

#[test]
fn links_that_record_and_kernel_do_not_share_are_found() {
    assert_eq!(
        told(|seen| seen.node().kernel = Kernel::default()),
        ["pod shop/web: the record of node1 has 10.244.3.65 for it, and its link cali1 is not there"]
    );
    assert_eq!(
        told(|seen| seen.node().kernel.links[0].up = false),
        ["pod shop/web: its link cali1 on node1: it is down"]
    );
    assert_eq!(
        told(|seen| seen.node().kernel.links[0].alias = Some("manx:feed:eth0".to_owned())),
        ["pod shop/web: its link cali1 on node1: it is of another sandbox (manx:feed:eth0)"]
    );
    assert_eq!(
        told(|seen| {
            let mut link = seen.node().kernel.links[0].clone();
            (link.index, link.name, link.alias) = (8, "cali2".to_owned(), Some("manx:dead:eth0".to_owned()));
            seen.node().kernel.links.push(link);
        }),
        ["node node1: the link cali2 (manx:dead:eth0) is of no pod that its agent knows"]
    );
}

#[test]
fn routes_that_record_and_kernel_do_not_share_are_found() {
    assert_eq!(
        told(|seen| seen.node().kernel.routes.clear()),
        ["node node1: it has no route to 10.244.3.65 on cali1"]
    );
    assert_eq!(
        told(|seen| seen.node().kernel.routes[0].hops[0].link = 1),
        ["node node1: its route to 10.244.3.65 leads to link 1 and not to cali1"]
    );
    assert_eq!(
        told(|seen| seen.node().kernel.routes.push(route("10.244.3.99/32", 7))),
        ["node node1: it has a route to 10.244.3.99/32 on cali1, and no pod there has that address"]
    );
    // The blocks of other nodes are routes of ours too, and those that somebody else made are his.
    assert!(
        told(|seen| {
            let kernel = &mut seen.node().kernel;
            kernel.links.push(Link { index: 1, name: "eth0".to_owned(), up: true, ..Link::default() });
            kernel.routes.extend([route("10.244.4.0/26", 1), route("10.244.4.7/32", 1)]);
        })
        .is_empty()
    );
}

#[test]
fn a_record_that_cannot_be_read_is_found_and_nothing_is_concluded_from_it() {
    assert_eq!(
        told(|seen| seen.node().record =
            Record { unread: Some("input/output error".to_owned()), ..Record::default() }),
        ["node node1: the record of its agent: it cannot be read: input/output error"]
    );
    assert_eq!(
        told(|seen| seen.node().record.damaged = 2),
        ["node node1: the record of its agent: 2 of its lines cannot be read"]
    );
}

#[test]
fn a_node_that_is_away_leaves_the_others_to_be_compared() {
    assert!(told(|seen| seen.nodes.clear()).is_empty());
}

#[test]
fn the_same_difference_seen_twice_is_one_and_of_another_sandbox_is_another() {
    let leak = |container: &str| {
        let mut seen = healthy();
        seen.pods.clear();
        seen.node().record.endpoints[0].container = container.to_owned();
        seen.node().kernel.links[0].alias = Some(format!("manx:{container}:eth0"));
        differences(&seen)
    };
    assert_eq!(leak("one").intersection(&leak("one")).count(), 1);
    assert_eq!(leak("one").intersection(&leak("two")).count(), 0);
}
