//! Traces out of facts as nodes give them, each fault found and named.

use std::net::IpAddr;

use manx_facts::kernel::{Hop, Kernel, Link, Neighbour, NeighbourState, Route, RouteKind, TABLE_MAIN};
use manx_facts::pod::PodInside;
use manx_facts::probe::{Aim, Flow, Kind, Lookup, Protocol, Seen, Sent, Sight, Translation, Verdict, Way};
use manx_facts::record::Endpoint;

use super::evidence::{Backend, Evidence, NodeEvidence, PodEnd, SessionDown, Target};
use super::hops::Trace;
use super::judge::judge;
use super::path::{Leg, Station};
use super::{picture, text};
use crate::show::Page;

const A: &str = "10.244.0.5";
const B: &str = "10.244.1.7";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn link(index: u32, name: &str, group: u32) -> Link {
    let kind = (group == 179).then(|| "veth".to_owned());
    Link {
        index,
        name: name.to_owned(),
        mtu: 1500,
        up: true,
        carrier: true,
        group,
        kind,
        peer_index: Some(2),
        ..Link::default()
    }
}

fn route(dst: &str, protocol: u8, gateway: Option<&str>, link: u32) -> Route {
    Route {
        dst: dst.parse().expect("a prefix"),
        table: TABLE_MAIN,
        metric: 0,
        protocol,
        kind: RouteKind::Unicast,
        hops: vec![Hop { gateway: gateway.map(ip), link, weight: 1, ..Hop::default() }],
        nexthop: None,
        source: None,
        mtu: None,
        scope: 0,
    }
}

fn node(number: u8, pod: &str, own: &str, other: &str) -> NodeEvidence {
    let veth = format!("cali{number}");
    let gateway = format!("172.30.{number}.1");
    let kernel = Kernel {
        links: vec![link(3, "eth0", 0), link(17, &veth, 179)],
        routes: vec![
            route("0.0.0.0/0", 3, Some(&gateway), 3),
            route(own, 179, None, 17),
            route(other, 179, Some(&gateway), 3),
        ],
        ..Kernel::default()
    };
    let endpoint =
        Endpoint { ifname: "eth0".to_owned(), link: veth, addresses: vec![ip(pod)], ..Endpoint::default() };
    let inside = Kernel { links: vec![link(2, "eth0", 0)], ..Kernel::default() };
    let pod = Some(PodInside { endpoint: Some(endpoint), unread: None, inside });
    NodeEvidence { node: format!("node{number}"), kernel, pod, ..NodeEvidence::default() }
}

fn seen(probe: u8, link: &str, inside: bool, outgoing: bool, kind: Kind, time: u64) -> Sight {
    Sight::Seen(Seen { time, inside, link: link.to_owned(), outgoing, probe, kind, ..Seen::default() })
}

fn sent(probe: u8, aim: Aim, size: u16) -> Sight {
    Sight::Sent(Sent { probe, aim, size, ttl: 64, target: ip(B), time: 0, failed: None })
}

/// The first `count` stations of the way there and back that see a probe, and what they do.
fn passes(evidence: &mut Evidence, probe: u8, count: usize) {
    let answer = Kind::Answer;
    let way = [
        (0, "eth0", true, true, Kind::Probe),
        (0, "cali1", false, false, Kind::Probe),
        (0, "eth0", false, true, Kind::Probe),
        (1, "eth0", false, false, Kind::Probe),
        (1, "cali2", false, true, Kind::Probe),
        (1, "eth0", true, false, Kind::Probe),
        (1, "eth0", true, true, answer),
        (1, "cali2", false, false, answer),
        (1, "eth0", false, true, answer),
        (0, "eth0", false, false, answer),
        (0, "cali1", false, true, answer),
        (0, "eth0", true, false, answer),
    ];
    for (step, (node, link, inside, outgoing, kind)) in way.into_iter().take(count).enumerate() {
        let sight = seen(probe, link, inside, outgoing, kind, 1_000_000 + step as u64 * 40_000);
        let node = if node == 0 { &mut evidence.here } else { &mut evidence.there[0] };
        node.sights.push(sight);
    }
}

fn way(
    from: &str,
    to: &str,
    iif: &str,
    prefix: &str,
    protocol: u8,
    gateway: Option<&str>,
    link: &str,
) -> Way {
    Way {
        lookup: Lookup { inside: false, to: ip(to), from: Some(ip(from)), iif: Some(iif.to_owned()) },
        passing: true,
        refused: None,
        local: false,
        link: Some(link.to_owned()),
        gateway: gateway.map(ip),
        prefix: prefix.parse().ok(),
        table: TABLE_MAIN,
        protocol,
        neighbour: None,
    }
}

/// Two pods on two nodes; the probe and its answer are seen by the first `count` stations.
fn between_pods(count: usize) -> Evidence {
    let flow = Flow { source: ip(A), target: ip(B), protocol: Protocol::Icmp, port: 0, mark: 7 };
    let source = PodEnd { name: "default/a".to_owned(), node: "node1".to_owned(), addresses: vec![ip(A)] };
    let target = PodEnd { name: "default/b".to_owned(), node: "node2".to_owned(), addresses: vec![ip(B)] };
    let mut here = node(1, A, "10.244.0.5/32", "10.244.1.0/26");
    let mut there = node(2, B, "10.244.1.7/32", "10.244.0.0/26");
    here.sights = vec![sent(0, Aim::Reach, 57)];
    here.sights.push(Sight::Way(way(A, B, "cali1", "10.244.1.0/26", 179, Some("172.30.1.1"), "eth0")));
    if count > 3 {
        there.sights.push(Sight::Way(way(A, B, "eth0", "10.244.1.7/32", 179, None, "cali2")));
    }
    let mut evidence = Evidence {
        flow,
        source,
        target: Target::Pod(target),
        here,
        there: vec![there],
        sessions_down: Vec::new(),
    };
    passes(&mut evidence, 0, count);
    evidence
}

fn names(evidence: &Evidence) -> Vec<&'static str> {
    judge(evidence).0.iter().map(|fault| fault.name).collect()
}

fn said(evidence: &Evidence) -> String {
    let trace = Trace::of(evidence);
    text::draw(&trace, &Page::plain())
}

#[test]
fn a_healthy_way_is_drawn_hop_by_hop_and_nothing_is_wrong() {
    let evidence = between_pods(12);
    assert_eq!(judge(&evidence), (Vec::new(), None));
    let text = said(&evidence);
    let expected = "\
pod default/a → pod default/b
10.244.0.5 → 10.244.1.7, icmp

● pod default/a on node1
│   eth0 #2, MTU 1500, rx 0 tx 0  → 0.000 ms ← 0.440 ms
● node node1
│   cali1 #17 ⇄ #2, MTU 1500, rx 0 tx 0  → 0.040 ms ← 0.400 ms
│   route 10.244.1.0/26 via 172.30.1.1 dev eth0 (made by Manx)
│   eth0 #3, MTU 1500, rx 0 tx 0  → 0.080 ms ← 0.360 ms
┊ the wire
● node node2
│   eth0 #3, MTU 1500, rx 0 tx 0  → ←
│   route 10.244.1.7/32 dev cali2 (made by Manx)
│   cali2 #17 ⇄ #2, MTU 1500, rx 0 tx 0  → ←
● pod default/b on node2
│   eth0 #2, MTU 1500, rx 0 tx 0  → ←

it was answered after 0.440 ms

nothing is wrong
";
    assert_eq!(text, expected);
}

#[test]
fn a_foreign_route_that_leads_elsewhere_is_named() {
    let mut evidence = between_pods(3);
    evidence.here.sights.retain(|sight| !matches!(sight, Sight::Way(_)));
    let foreign = way(A, B, "cali1", "10.244.1.7/32", 4, Some("172.30.1.1"), "eth0");
    evidence.here.sights.push(Sight::Way(foreign));
    assert_eq!(names(&evidence), ["wrongRoute"]);
    assert!(
        said(&evidence).contains("node node1: the route 10.244.1.7/32 via 172.30.1.1 dev eth0"),
        "{}",
        said(&evidence)
    );
}

#[test]
fn the_source_check_is_named_with_the_way_back_that_it_wants() {
    let mut evidence = between_pods(4);
    let there = &mut evidence.there[0];
    there.kernel.settings.insert("net/ipv4/conf/eth0/rp_filter".to_owned(), "1".to_owned());
    there.kernel.routes.push(route("10.244.0.5/32", 4, None, 9));
    there.sights.retain(|sight| !matches!(sight, Sight::Way(_)));
    let mut refused = way(A, B, "eth0", "10.244.1.7/32", 0, None, "cali2");
    refused.refused = Some("EINVAL".to_owned());
    there.sights.push(Sight::Way(refused));
    assert_eq!(names(&evidence), ["sourceCheck"]);
    assert!(said(&evidence).contains("node node2: rp_filter=1 of eth0"), "{}", said(&evidence));
}

#[test]
fn a_neighbour_that_does_not_answer_or_was_set_by_hand_is_named() {
    for (state, count) in [(NeighbourState::Failed, 2), (NeighbourState::Permanent, 3)] {
        let mut evidence = between_pods(count);
        for sight in &mut evidence.here.sights {
            if let Sight::Way(way) = sight {
                way.neighbour = Some(Neighbour { link: 3, address: ip("172.30.1.1"), mac: None, state });
            }
        }
        assert_eq!(names(&evidence), ["neighbour"], "{state:?}");
    }
}

#[test]
fn a_black_hole_is_named_on_a_node_and_between_nodes() {
    let mut evidence = between_pods(2);
    evidence.here.kernel.routes.push(Route {
        kind: RouteKind::Blackhole,
        hops: Vec::new(),
        ..route("10.244.1.7/32", 4, None, 0)
    });
    evidence.here.sights.retain(|sight| !matches!(sight, Sight::Way(_)));
    let mut refused = way(A, B, "cali1", "10.244.1.7/32", 0, None, "eth0");
    refused.refused = Some("EINVAL".to_owned());
    evidence.here.sights.push(Sight::Way(refused));
    assert_eq!(names(&evidence), ["blackHole"]);
    assert!(said(&evidence).contains("blackhole 10.244.1.7/32"), "{}", said(&evidence));
    assert_eq!(names(&between_pods(3)), ["lostOnWire"]);
    // On the way back too.
    let back = between_pods(9);
    assert_eq!(judge(&back).1.map(|stop| (stop.leg, stop.before)), Some((Leg::Back, Station::SourceUplink)));
    assert_eq!(names(&back), ["lostOnWire"]);
}

#[test]
fn packets_that_are_too_large_for_a_link_between_are_named_with_what_passes() {
    let mut evidence = between_pods(12);
    for (probe, size, count) in [(1, 1500, 3), (2, 1400, 12), (3, 1450, 3)] {
        evidence.here.sights.push(sent(probe, Aim::Size, size));
        passes(&mut evidence, probe, count);
    }
    assert_eq!(names(&evidence), ["mtu"]);
    let text = said(&evidence);
    assert!(text.contains("packets of 1500 octets are lost behind the uplink of node node1"), "{text}");
    assert!(text.contains("1400 pass"), "{text}");
    // A router that says so is as it should be.
    let told = seen(1, "eth0", true, false, Kind::TooBig(1400), 9);
    evidence.here.sights.push(told);
    assert_eq!(names(&evidence), ["mtuTold"]);
}

#[test]
fn the_rule_of_a_firewall_is_named_with_table_chain_and_handle() {
    let mut evidence = between_pods(4);
    evidence.there[0].sights.push(Sight::Verdict(Verdict {
        family: "inet".to_owned(),
        table: "wall".to_owned(),
        chain: "forward".to_owned(),
        handle: Some(4),
        comment: Some("no pods".to_owned()),
        verdict: "drop".to_owned(),
        ..Verdict::default()
    }));
    assert_eq!(names(&evidence), ["firewall"]);
    let text = said(&evidence);
    assert!(
        text.contains("the rule with handle 4 (\"no pods\") in chain forward of table inet wall"),
        "{text}"
    );
}

#[test]
fn a_service_without_endpoints_is_named_and_one_with_shows_the_chosen_backend() {
    let mut evidence = between_pods(2);
    evidence.target = Target::Service("default/web".to_owned(), Vec::new());
    assert_eq!(names(&evidence), ["noEndpoints"]);
    let mut evidence = between_pods(12);
    let service = ip("10.96.0.7");
    (evidence.flow.target, evidence.flow.port, evidence.flow.protocol) = (service, 80, Protocol::Tcp);
    let pod = Some("default/b".to_owned());
    let backend = Backend { address: ip(B), port: 8081, node: Some("node2".to_owned()), pod };
    evidence.target = Target::Service("default/web".to_owned(), vec![backend]);
    evidence.here.sights.push(Sight::Translation(Translation {
        from: ip(A),
        to: service,
        to_port: 80,
        backend: ip(B),
        backend_port: 8081,
        seen_as: ip(A),
        timeout: 119,
    }));
    assert_eq!(names(&evidence), Vec::<&str>::new());
    assert!(
        said(&evidence).contains("Service: 10.96.0.7:80 is 10.244.1.7:8081, tracked for 119 s"),
        "{}",
        said(&evidence)
    );
}

#[test]
fn a_dead_session_is_named_where_nobody_has_the_route() {
    let mut evidence = between_pods(3);
    evidence.here.kernel.routes.retain(|route| route.dst != "10.244.1.0/26".parse().expect("a prefix"));
    evidence.sessions_down.push(SessionDown {
        node: "node2".to_owned(),
        what: "its session with peer/tor is Active: Cease/Administrative Shutdown".to_owned(),
    });
    assert_eq!(names(&evidence), ["sessionDown"]);
    let text = said(&evidence);
    assert!(text.contains("node node2: its session with peer/tor is Active"), "{text}");
    assert!(text.contains("node node1 has no route of Manx for 10.244.1.7"), "{text}");
    evidence.sessions_down.clear();
    assert_eq!(names(&evidence), ["noRoute"]);
}

#[test]
fn a_port_at_which_nobody_listens_is_no_fault_of_the_network() {
    let mut evidence = between_pods(11);
    evidence.flow.protocol = Protocol::Tcp;
    evidence.here.sights.push(seen(0, "eth0", true, false, Kind::Refusal, 2_000_000));
    assert_eq!(names(&evidence), ["refused"]);
}

#[test]
fn pictures_are_well_formed_and_say_the_same() {
    let mut healthy = Trace::of(&between_pods(12));
    healthy.from = "pod <&\">".to_owned();
    for trace in [healthy, Trace::of(&between_pods(3)), Trace::of(&between_pods(9))] {
        let svg = picture::svg(&trace);
        well_formed(&svg);
        for fault in &trace.faults {
            let first = fault.finding.what.split_whitespace().next().expect("words");
            assert!(svg.contains(first), "{svg}");
        }
        assert_eq!(svg.contains("way bad"), !trace.faults.is_empty());
        assert!(!picture::html(&trace).contains("http-equiv"));
        assert_eq!(picture::html(&trace).matches("http").count(), 1, "the name space, and no address");
    }
}

/// Each element that is opened is closed, in order, and what is text is escaped.
fn well_formed(svg: &str) {
    let mut open = Vec::new();
    for part in svg.split('<').skip(1) {
        let (tag, content) = part.split_once('>').expect("a tag ends");
        assert!(!content.contains('>') || open.last() == Some(&"style"), "{content}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().expect("a name"));
        }
    }
    assert!(open.is_empty(), "{open:?}");
}
