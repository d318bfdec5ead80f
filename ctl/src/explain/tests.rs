//! The reasoning on facts as nodes of a small cluster have them: healthy, then broken at one place after the other.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use manx_api::{
    Allocation, Cidr, IPBlock, IPPool, NodeNetwork, NodeNetworkStatus, Session, SessionError, SessionState,
    Time, Timestamp,
};
use manx_facts::bgp::{Attributes, Explained, Import, Path, Told};
use manx_facts::kernel::{Hop, Kernel, Link, PROTOCOL, Route, RouteKind, Rule, RuleAction, TABLE_MAIN};
use manx_facts::record::{Endpoint, Record};

use super::gather::{Gathered, PodFacts, Target};
use super::{What, draw, reason};
use crate::ask::Away;
use crate::show::Page;

fn network(text: &str) -> IpNetwork {
    text.parse().expect("a network")
}

fn link(index: u32, name: &str) -> Link {
    Link { index, name: name.to_owned(), up: true, carrier: true, mtu: 1500, ..Link::default() }
}

fn route(dst: &str, gateway: Option<&str>, link: u32, protocol: u8) -> Route {
    let gateway = gateway.map(|gateway| gateway.parse().expect("an address"));
    Route {
        dst: network(dst),
        table: TABLE_MAIN,
        metric: 0,
        protocol,
        kind: RouteKind::Unicast,
        hops: vec![Hop { gateway, link, weight: 1, ..Hop::default() }],
        nexthop: None,
        source: None,
        mtu: None,
        scope: 0,
    }
}

fn kernel(routes: Vec<Route>) -> Kernel {
    let mut all = vec![route("0.0.0.0/0", Some("172.30.0.1"), 2, 3), route("172.30.0.0/24", None, 2, 2)];
    all.extend(routes);
    Kernel { links: vec![link(2, "eth0"), link(9, "cali12345")], routes: all, ..Kernel::default() }
}

fn path(peer: Option<&str>, next_hop: &str) -> Path {
    Path {
        peer: peer.map(str::to_owned),
        import: Import {
            accepted: true,
            verdict: "accepted by rule nodes/blocks".to_owned(),
            ..Import::default()
        },
        selected: true,
        received: Attributes {
            next_hop: next_hop.to_owned(),
            origin: "IGP".to_owned(),
            ..Attributes::default()
        },
        ..Path::default()
    }
}

fn table(path: Path, told: Vec<Told>) -> Explained {
    let hop = path.received.next_hop.clone();
    let next_hops = if hop.is_empty() { Vec::new() } else { vec![hop] };
    Explained {
        prefix: network("10.244.1.0/26"),
        paths: vec![path],
        best: Some(0),
        step: None,
        next_hops,
        told,
    }
}

fn told(peer: &str) -> Told {
    let attributes =
        Attributes { origin: "IGP".to_owned(), next_hop: "172.30.0.12".to_owned(), ..Attributes::default() };
    Told {
        peer: peer.to_owned(),
        attributes: Some(attributes),
        sent: true,
        verdict: "accepted by rule nodes/blocks".to_owned(),
        ..Told::default()
    }
}

fn node(name: &str, peers: &[&str]) -> NodeNetwork {
    let since = Time(Timestamp::UNIX_EPOCH);
    let session = |peer: &&str| Session::new(*peer, SessionState::Established, since.clone());
    let status =
        NodeNetworkStatus { sessions: peers.iter().map(session).collect(), ..NodeNetworkStatus::default() };
    let mut network = NodeNetwork::example();
    network.metadata.name = Some(name.to_owned());
    network.spec.addresses.ipv4 = None;
    network.spec.addresses.ipv6 = None;
    NodeNetwork { status: Some(status), ..network }
}

/// Three nodes; the pod default/web is 10.244.1.5 on node2, of the block 10.244.1.0/26.
fn healthy(of_pod: bool) -> Gathered {
    let mut pool = IPPool::example();
    pool.metadata.name = Some("pods-v4".to_owned());
    pool.spec.cidr = "10.244.0.0/16".parse().expect("a CIDR");
    let cidr: Cidr = "10.244.1.0/26".parse().expect("a CIDR");
    let mut block = IPBlock::claim(cidr, "node2", "pods-v4");
    block.status = Some(manx_api::IPBlockStatus { used: 1, free: 63, ..manx_api::IPBlockStatus::default() });
    let address = "10.244.1.5".parse().expect("an address");
    let endpoint = Endpoint {
        container: "3fa9c5d07e11aa".to_owned(),
        ifname: "eth0".to_owned(),
        namespace: "default".to_owned(),
        pod: "web".to_owned(),
        link: "cali12345".to_owned(),
        addresses: vec![address],
        ..Endpoint::default()
    };
    let home = vec![route("10.244.1.5/32", None, 9, PROTOCOL)];
    let away = || vec![route("10.244.1.0/26", Some("172.30.0.12"), 2, PROTOCOL)];
    let from = || table(path(Some("node/node2"), "172.30.0.12"), Vec::new());
    let own = table(path(None, ""), vec![told("node/node1"), told("node/node3")]);
    let target = Target {
        network: address.into(),
        service: None,
        tables: BTreeMap::from([
            ("node1".to_owned(), Ok(from())),
            ("node2".to_owned(), Ok(own)),
            ("node3".to_owned(), Ok(from())),
        ]),
    };
    Gathered {
        subject: if of_pod { "pod default/web" } else { "10.244.1.5" }.to_owned(),
        pools: vec![pool],
        blocks: vec![block],
        networks: vec![
            node("node1", &["node/node2", "node/node3"]),
            node("node2", &["node/node1", "node/node3"]),
            node("node3", &["node/node1", "node/node2"]),
        ],
        pod: Some(PodFacts {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            node: Some("node2".to_owned()),
            phase: "Running".to_owned(),
            addresses: vec![address],
            ..PodFacts::default()
        }),
        targets: vec![target],
        kernels: BTreeMap::from([
            ("node1".to_owned(), Ok(kernel(away()))),
            ("node2".to_owned(), Ok(kernel(home))),
            ("node3".to_owned(), Ok(kernel(away()))),
        ]),
        record: Some(Ok(Record { endpoints: vec![endpoint], ..Record::default() })),
    }
}

fn text(gathered: &Gathered) -> String {
    draw::report(&reason::report(gathered), &Page::plain())
}

/// What is wrong, without what to do.
fn wrong(gathered: &Gathered) -> Vec<String> {
    let findings = reason::report(gathered).findings;
    findings.iter().map(|finding| format!("{}: {}", finding.object, finding.what)).collect()
}

fn kernel_of<'a>(gathered: &'a mut Gathered, node: &str) -> &'a mut Kernel {
    gathered.kernels.get_mut(node).and_then(|kernel| kernel.as_mut().ok()).expect("it answered")
}

#[test]
fn the_whole_chain_of_a_pod_is_told_and_nothing_is_wrong() {
    assert_eq!(
        text(&healthy(true)),
        "10.244.1.5\n\
         \x20 pool     pods-v4 10.244.0.0/16, blocks of /26, masqueraded outwards\n\
         \x20 block    10.244.1.0/26 of node node2, 1 used, 63 free\n\
         \x20 pod      default/web on node node2, container 3fa9c5d07e11, eth0\n\
         \x20 link     cali12345 (index 9), up, MTU 1500\n\
         \x20 route    10.244.1.5 dev cali12345\n\
         \nnode2 announces 10.244.1.0/26\n\
         \x20 to node/node1, node/node3\n\
         \x20   says    next hop 172.30.0.12, empty AS path, origin IGP\n\
         \x20   by      accepted by rule nodes/blocks\n\
         \nhow other nodes reach node2\n\
         \x20 node1, node3\n\
         \x20   BGP     10.244.1.0/26 of node/node2 via 172.30.0.12 (the only path)\n\
         \x20   kernel  10.244.1.0/26 via 172.30.0.12 dev eth0\n\
         \nnothing is wrong\n"
    );
}

#[test]
fn a_node_that_is_away_is_named_and_the_rest_is_told() {
    let mut gathered = healthy(true);
    gathered.kernels.insert("node3".to_owned(), Err(Away::Timeout));
    gathered.targets[0].tables.remove("node3");
    let text = text(&gathered);
    assert!(text.contains("node node3: it is away") && text.contains("→ no answer in time"), "{text}");
    assert!(text.contains("BGP     10.244.1.0/26 of node/node2"), "{text}");
    assert_eq!(wrong(&gathered), ["node node3: it is away, and what is told here leaves it out"]);
}

#[test]
fn a_wrong_route_in_the_way_is_named_with_how_to_take_it_away() {
    let mut gathered = healthy(true);
    kernel_of(&mut gathered, "node1").routes.push(route("10.244.1.5/32", Some("172.30.0.99"), 2, 3));
    let finding = &reason::report(&gathered).findings[0];
    assert!(
        finding
            .what
            .starts_with("another route is in the way: 10.244.1.5 via 172.30.0.99 dev eth0 proto boot")
    );
    assert_eq!(finding.cure, "who made it? take it away: ip route del 10.244.1.5 dev eth0");
}

/// The usual rules and one more, and a default route in table 100.
fn ruled(rule: Rule) -> Gathered {
    let mut gathered = healthy(true);
    let kernel = kernel_of(&mut gathered, "node1");
    let usual = |priority, table| Rule { priority, table, ..Rule::default() };
    kernel.rules = vec![usual(0, 255), rule, usual(32_766, TABLE_MAIN), usual(32_767, 253)];
    let aside = route("0.0.0.0/0", Some("172.30.0.99"), 2, 3);
    kernel.routes.push(Route { table: 100, ..aside });
    gathered
}

#[test]
fn a_rule_that_leads_packets_away_is_named_with_its_table_and_how_to_take_it_away() {
    let gathered =
        ruled(Rule { priority: 100, table: 100, to: Some(network("10.244.0.0/16")), ..Rule::default() });
    let told = text(&gathered);
    assert!(
        told.contains(
            "kernel  default via 172.30.0.99 dev eth0 proto boot, by the rule 100: from all to 10.244.0.0/16 lookup 100"
        ),
        "{told}"
    );
    let findings = reason::report(&gathered).findings;
    let [finding] = &*findings else { panic!("{findings:?}") };
    assert_eq!(
        finding.what,
        "its rule \"100: from all to 10.244.0.0/16 lookup 100\" leads packets to 10.244.1.5 elsewhere: default via \
         172.30.0.99 dev eth0 proto boot of table 100; that of Manx is 10.244.1.0/26 via 172.30.0.12 dev eth0"
    );
    assert!(finding.cure.contains("ip rule del pref 100"), "{}", finding.cure);
    assert!(finding.cure.contains("ip rule add to 10.244.1.0/26 lookup main pref 99"), "{}", finding.cure);
}

#[test]
fn rules_that_do_no_harm_are_no_fault_and_those_for_some_packets_are_told_if_they_are_of_pods() {
    // One that has a copy of the route of Manx.
    let rule =
        |from: Option<&str>| Rule { priority: 100, table: 100, from: from.map(network), ..Rule::default() };
    let mut copied = ruled(rule(None));
    let copy = Route { table: 100, ..route("10.244.1.0/26", Some("172.30.0.12"), 2, 3) };
    kernel_of(&mut copied, "node1").routes.push(copy);
    assert_eq!(wrong(&copied), Vec::<String>::new());
    assert!(text(&copied).contains("by the rule 100: from all lookup 100"));
    // Another network of the machine.
    assert_eq!(wrong(&ruled(rule(Some("192.168.7.0/24")))), Vec::<String>::new());
    let pods = wrong(&ruled(rule(Some("10.244.3.0/26"))));
    assert_eq!(pods.len(), 1, "{pods:?}");
    assert!(pods[0].contains("leads some packets to 10.244.1.5 elsewhere"), "{pods:?}");
    let thrown = Rule { action: RuleAction::Blackhole, ..rule(None) };
    let thrown = wrong(&ruled(thrown));
    assert!(
        thrown[0].contains("\"100: from all blackhole\" throws packets to 10.244.1.5 away"),
        "{thrown:?}"
    );
}

#[test]
fn a_kernel_without_the_route_or_with_another_next_hop_is_named() {
    let mut gathered = healthy(true);
    kernel_of(&mut gathered, "node1").routes.pop();
    assert_eq!(wrong(&gathered), ["node node1: BGP has 10.244.1.0/26, its kernel has no route to it"]);
    kernel_of(&mut gathered, "node1").routes.push(route("10.244.1.0/26", Some("172.30.0.13"), 2, PROTOCOL));
    assert_eq!(
        wrong(&gathered),
        [
            "node node1: its kernel sends to another next hop than BGP says: 10.244.1.0/26 via 172.30.0.13 dev eth0 in \
          place of 172.30.0.12"
        ]
    );
}

#[test]
fn a_session_that_is_down_is_why_a_node_has_not_heard() {
    let mut gathered = healthy(true);
    kernel_of(&mut gathered, "node1").routes.pop();
    let unknown = Explained { paths: Vec::new(), best: None, ..table(path(None, ""), Vec::new()) };
    gathered.targets[0].tables.insert("node1".to_owned(), Ok(unknown));
    let status = gathered.networks[0].status.as_mut().expect("given");
    status.sessions[0].state = SessionState::Active;
    status.sessions[0].last_error =
        Some(SessionError::new(Time(Timestamp::UNIX_EPOCH), "hold timer expired"));
    assert_eq!(
        wrong(&gathered),
        [
            "node node1: its session with node/node2 is Active since 1970-01-01T00:00:00Z: hold timer expired",
            "node node1: nobody told it of 10.244.1.5; its kernel has no route either",
        ]
    );
}

#[test]
fn what_policy_refuses_is_named_with_the_rule() {
    let mut gathered = healthy(true);
    kernel_of(&mut gathered, "node1").routes.pop();
    let mut refused = table(path(Some("node/node2"), "172.30.0.12"), Vec::new());
    refused.best = None;
    refused.paths[0].import =
        Import { accepted: false, verdict: "rejected by rule x/no".to_owned(), ..Import::default() };
    gathered.targets[0].tables.insert("node1".to_owned(), Ok(refused));
    assert_eq!(
        wrong(&gathered),
        ["node node1: what node/node2 announces of 10.244.1.0/26 is rejected by rule x/no"]
    );
}

#[test]
fn a_pods_link_that_is_gone_or_down_and_a_route_that_leads_elsewhere_are_named() {
    let mut gathered = healthy(true);
    kernel_of(&mut gathered, "node2").links[1].up = false;
    assert_eq!(wrong(&gathered), ["link cali12345 on node node2: it is down"]);
    let mut gathered = healthy(true);
    kernel_of(&mut gathered, "node2").routes.last_mut().expect("the pod's").hops[0].link = 2;
    let found = wrong(&gathered);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("leads to eth0, and the pod is at cali12345"), "{found:?}");
}

#[test]
fn a_free_address_is_no_fault_and_a_foreign_one_is() {
    let mut gathered = healthy(false);
    gathered.pod = None;
    gathered.record = Some(Ok(Record::default()));
    assert_eq!(wrong(&gathered), ["10.244.1.5: it is free: no pod has it"]);

    gathered.blocks.clear();
    gathered.kernels.clear();
    gathered.targets[0].tables.clear();
    assert_eq!(wrong(&gathered), ["10.244.1.5: it is free: no node has claimed its block"]);

    gathered.pools.clear();
    assert_eq!(
        wrong(&gathered),
        [
            "10.244.1.5: it is in no pool: no pod of this cluster has or gets it, and no router announces it: packets take \
          the default route of the node"
        ]
    );
}

#[test]
fn a_pod_without_an_address_says_why_and_where_to_look() {
    let mut gathered = healthy(true);
    gathered.targets.clear();
    gathered.kernels.clear();
    let pod = gathered.pod.as_mut().expect("given");
    pod.addresses.clear();
    pod.waits = Some("ContainerCreating".to_owned());
    assert_eq!(wrong(&gathered), ["pod default/web: it has no address on node node2 (ContainerCreating)"]);
    assert!(text(&gathered).contains("kubectl -n default describe pod web"));
}

#[test]
fn an_address_by_itself_says_whose_it_is() {
    let mut gathered = healthy(false);
    gathered.blocks[0].status.as_mut().expect("given").allocations = vec![Allocation {
        address: "10.244.1.5".parse().expect("an address"),
        pod: Some("default/web".to_owned()),
        container: "3fa9c5d07e11aa".to_owned(),
        interface: "eth0".to_owned(),
        since: Time(Timestamp::UNIX_EPOCH),
    }];
    assert_eq!(wrong(&gathered), ["10.244.1.5: it is pod default/web"]);
}

#[test]
fn addresses_prefixes_and_pods_are_told_apart() {
    let named = |text: &str| What::parse(text).expect("something");
    assert_eq!(named("10.0.0.1"), What::Network(network("10.0.0.1/32")));
    assert_eq!(named("fd00::/64"), What::Network(network("fd00::/64")));
    assert_eq!(named("web"), What::Pod { namespace: None, name: "web".to_owned() });
    assert_eq!(named("a/web"), What::Pod { namespace: Some("a".to_owned()), name: "web".to_owned() });
    let error = What::parse("10.0.0.1/8").expect_err("bits behind its length").to_string();
    assert!(error.ends_with("say 10.0.0.0/8"), "{error}");
}
