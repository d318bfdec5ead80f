//! Traces out of facts as nodes give them, each fault found and named.

use std::net::IpAddr;

use manx_facts::kernel::{
    Hop, Kernel, Link, Neighbour, NeighbourState, Program, ProgramPlace, Route, RouteKind, Rule, RuleAction,
    TABLE_MAIN,
};
use manx_facts::pod::PodInside;
use manx_facts::probe::{
    Aim, Flow, Kind, LegacyDrop, Lookup, Protocol, Seen, Sent, Sight, Translation, Verdict, Way,
};
use manx_facts::record::Endpoint;

use super::evidence::{Backend, Evidence, NodeEvidence, NodeView, PodEnd, SessionDown, Target};
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
        views: Vec::new(),
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
    // Nobody outside tells which datagrams came.
    let mut outside = evidence.clone();
    (outside.target, outside.flow.protocol) = (Target::Outside, Protocol::Udp);
    outside.there.clear();
    assert_eq!(names(&outside), Vec::<&str>::new());
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

fn drop_of(family: &str, table: &str, chain: &str) -> Verdict {
    Verdict {
        family: family.to_owned(),
        table: table.to_owned(),
        chain: chain.to_owned(),
        verdict: "drop".to_owned(),
        ..Verdict::default()
    }
}

#[test]
fn rules_of_iptables_are_named_by_their_number_in_both_of_its_kinds() {
    let mut evidence = between_pods(4);
    let drop = Verdict {
        handle: Some(9),
        line: Some(3),
        comment: Some("no pings".to_owned()),
        ..drop_of("ip", "filter", "FORWARD")
    };
    evidence.there[0].sights.push(Sight::Verdict(drop));
    assert_eq!(names(&evidence), ["firewall"]);
    let text = said(&evidence);
    assert!(
        text.contains("rule 3 (\"no pings\") in chain FORWARD of the table filter of iptables"),
        "{text}"
    );
    assert!(text.contains("iptables -t filter -vnL FORWARD --line-numbers"), "{text}");

    let mut evidence = between_pods(4);
    let drop = LegacyDrop {
        table: "filter".to_owned(),
        chain: "FORWARD".to_owned(),
        target: "DROP".to_owned(),
        packets: 3,
        ..LegacyDrop::default()
    };
    evidence.there[0].sights.push(Sight::Legacy(vec![drop]));
    assert_eq!(names(&evidence), ["firewall"]);
    let text = said(&evidence);
    let words = "legacy iptables drops it: the policy of chain FORWARD of the table filter (+3)";
    assert!(text.contains(words), "{text}");
}

#[test]
fn what_the_guard_of_a_pods_link_drops_is_told_with_what_the_pod_did_wrong() {
    let guarded = |mac: &str, given: &[&str]| {
        let mut evidence = between_pods(2);
        evidence.here.sights.push(Sight::Verdict(drop_of("netdev", "manx-cali1", "ingress")));
        for sight in &mut evidence.here.sights {
            if let Sight::Seen(seen) = sight {
                (seen.mac, seen.from) = (Some(mac.to_owned()), Some(ip(A)));
            }
        }
        let given = given.iter().map(|address| Neighbour {
            link: 17,
            address: ip(address),
            mac: Some("02:00:00:00:00:01".to_owned()),
            state: NeighbourState::Permanent,
        });
        evidence.here.kernel.neighbours = given.collect();
        assert_eq!(names(&evidence), ["guard"]);
        said(&evidence)
    };
    let text = guarded("02:00:00:00:00:77", &[A]);
    assert!(text.contains("sends from the hardware address 02:00:00:00:00:77, and Manx gave it"), "{text}");
    let text = guarded("02:00:00:00:00:01", &["10.244.0.9"]);
    assert!(text.contains("it comes from 10.244.0.5, and Manx gave that pod 10.244.0.9"), "{text}");
    let text = guarded("02:00:00:00:00:01", &[A]);
    assert!(text.contains("none of its rules is for the packet"), "{text}");
}

#[test]
fn programs_on_the_links_where_packets_vanish_are_hinted_at() {
    let of = |place, kind: &str| Program { place, kind: kind.to_owned(), name: None, id: Some(7) };
    let mut evidence = between_pods(4);
    evidence.there[0].kernel.links[0].programs.push(of(ProgramPlace::Ingress, "bpf"));
    assert_eq!(names(&evidence), ["lostInNode"]);
    let text = said(&evidence);
    assert!(
        text.contains("eth0 of node node2 has a filter of tc at ingress: bpf (id 7), which may"),
        "{text}"
    );
    assert!(text.contains("look at `tc filter show dev eth0 ingress`"), "{text}");
    // Before packet sockets see it.
    let mut evidence = between_pods(3);
    evidence.there[0].kernel.links[0].programs.push(of(ProgramPlace::Xdp, ""));
    assert_eq!(names(&evidence), ["lostOnWire"]);
    assert!(said(&evidence).contains("eth0 of node node2 has an XDP program (id 7)"), "{}", said(&evidence));
    // One that does not see packets of this direction is not why.
    let mut evidence = between_pods(3);
    evidence.there[0].kernel.links[0].programs.push(of(ProgramPlace::Egress, "bpf"));
    assert!(!said(&evidence).contains("egress"), "{}", said(&evidence));
}

#[test]
fn a_rule_that_leads_packets_elsewhere_or_throws_them_away_is_named() {
    let rule = Rule { priority: 100, table: 100, ..Rule::default() };
    let mut evidence = between_pods(3);
    evidence.here.kernel.rules.push(rule.clone());
    evidence.here.kernel.routes.push(Route { table: 100, ..route("10.244.1.7/32", 3, None, 3) });
    evidence.here.sights.retain(|sight| !matches!(sight, Sight::Way(_)));
    let ruled = Way { table: 100, ..way(A, B, "cali1", "10.244.1.7/32", 3, None, "eth0") };
    evidence.here.sights.push(Sight::Way(ruled));
    assert_eq!(names(&evidence), ["wrongRoute"]);
    let text = said(&evidence);
    assert!(text.contains("of table 100, by the rule 100: from all lookup 100 (made by hand)"), "{text}");
    assert!(text.contains("`ip rule del pref 100`"), "{text}");

    let mut evidence = between_pods(2);
    evidence.here.kernel.rules.push(Rule { action: RuleAction::Blackhole, ..rule });
    evidence.here.sights.retain(|sight| !matches!(sight, Sight::Way(_)));
    let mut refused = way(A, B, "cali1", "10.244.1.7/32", 0, None, "eth0");
    refused.refused = Some("EINVAL".to_owned());
    evidence.here.sights.push(Sight::Way(refused));
    assert_eq!(names(&evidence), ["blackHole"]);
    let text = said(&evidence);
    assert!(
        text.contains("its rule \"100: from all blackhole\" throws packets to 10.244.1.7 away"),
        "{text}"
    );
}

#[test]
fn a_node_that_cannot_be_asked_is_told_with_what_others_know_of_it() {
    let mut evidence = between_pods(0);
    evidence.here = NodeEvidence {
        node: "node1".to_owned(),
        away: Some("no answer in time".to_owned()),
        ..NodeEvidence::default()
    };
    evidence.views.push(NodeView {
        name: "node1".to_owned(),
        addresses: vec![ip("172.30.0.1")],
        up: vec!["node2".to_owned(), "node3".to_owned()],
        down: Vec::new(),
    });
    evidence.there[0].kernel.neighbours.push(Neighbour {
        link: 3,
        address: ip("172.30.0.1"),
        mac: Some("02:00:00:00:00:99".to_owned()),
        state: NeighbourState::Reachable,
    });
    assert_eq!(names(&evidence), ["away"]);
    let text = said(&evidence);
    for words in [
        "no probe was sent",
        "its sessions with node2, node3 are up",
        "node node2 has the neighbour 172.30.0.1 is 02:00:00:00:00:99, reachable",
        "--through 'ssh root@{node}'",
    ] {
        assert!(text.split_whitespace().collect::<Vec<_>>().join(" ").contains(words), "{words}: {text}");
    }
    // Nothing is claimed of where it got lost.
    let mut evidence = between_pods(3);
    evidence.there[0] = NodeEvidence { away: Some("x".to_owned()), ..NodeEvidence::default() };
    evidence.there[0].node = "node2".to_owned();
    assert_eq!(names(&evidence), ["away", "lostOnWire"]);
    assert!(said(&evidence).contains("does not say whether it got there"), "{}", said(&evidence));
}

#[test]
fn a_pod_that_is_hidden_behind_its_node_is_shown_with_both_ways() {
    let mut evidence = between_pods(12);
    (evidence.flow.port, evidence.flow.protocol) = (80, Protocol::Tcp);
    let node = ip("172.30.1.2");
    for sight in &mut evidence.here.sights {
        if let Sight::Seen(seen) = sight {
            let hidden = !seen.inside && seen.link == "eth0" && seen.kind == Kind::Probe;
            seen.from = Some(if hidden { node } else { ip(A) });
        }
    }
    evidence.here.sights.push(Sight::Translation(Translation {
        from: ip(A),
        to: ip(B),
        to_port: 80,
        backend: ip(B),
        backend_port: 80,
        seen_as: node,
        seen_port: 4242,
        timeout: 119,
    }));
    let (text, own) = (said(&evidence), evidence.flow.source_port());
    for words in [
        &*format!("masquerade: 10.244.0.5 port {own} goes out as 172.30.1.2 port 4242, tracked for 119 s"),
        &format!("answers to 172.30.1.2 port 4242 go back to 10.244.0.5 port {own}"),
        "rx 0 tx 0, as 172.30.1.2  → 0.080 ms ← 0.360 ms",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
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
        seen_port: 61_000,
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
