//! What is wrong on the way of a packet: each fault with its name, its place and its cure.

use std::net::IpAddr;

use manx_facts::kernel::{NeighbourState, RouteKind};
use manx_facts::probe::{Kind, Protocol, Verdict, Way};
use serde::Serialize;

use super::evidence::{Evidence, NodeEvidence, REACH, Target};
use super::path::{Leg, Station, Stop, sighting, stations, stop};
use super::words;
use crate::finding::Finding;

/// A finding with the name of its fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Fault {
    /// What it is, always in the same word: `blackHole`, `firewall`, ….
    pub(crate) name: &'static str,
    /// What and where, and the cure.
    #[serde(flatten)]
    pub(crate) finding: Finding,
}

fn fault(name: &'static str, finding: Finding) -> Fault {
    Fault { name, finding }
}

/// Everything that is wrong, and where the probe stopped.
pub(crate) fn judge(evidence: &Evidence) -> (Vec<Fault>, Option<Stop>) {
    let mut faults = blind(evidence);
    if let Target::Service(name, backends) = &evidence.target
        && backends.is_empty()
    {
        faults.push(no_endpoints(name));
        return (faults, stop(evidence));
    }
    if let Some(failed) = evidence.here.sent().find(|sent| sent.probe == REACH && sent.failed.is_some()) {
        faults.push(not_sent(evidence, failed.failed.as_deref().unwrap_or_default()));
        return (faults, Some(Stop { leg: Leg::There, after: None, before: Station::SourcePod }));
    }
    let stop = stop(evidence);
    match stop {
        Some(stop) => faults.extend(explain(evidence, stop)),
        None if evidence.came_back(REACH).any(|seen| seen.kind == Kind::Refusal) => {
            faults.push(refused(evidence))
        }
        None => {}
    }
    if stop.is_none_or(|stop| stop.leg == Leg::Back) {
        faults.extend(sizes(evidence));
    }
    (faults, stop)
}

fn blind(evidence: &Evidence) -> Vec<Fault> {
    let nodes = std::iter::once(&evidence.here).chain(&evidence.there);
    let mut faults = Vec::new();
    for node in nodes {
        let object = format!("node {}", node.node);
        if let Some(why) = &node.away {
            let what = format!("it does not say what it sees: {why}");
            faults.push(fault("away", Finding::warning(&object, what, "what happens there is left out")));
        }
        for sight in &node.sights {
            if let manx_facts::probe::Sight::Blind(why) = sight {
                let finding = Finding::note(&object, format!("it cannot see all: {why}"));
                faults.push(fault("blind", finding));
            }
        }
    }
    faults
}

fn no_endpoints(name: &str) -> Fault {
    let what = "no pod is ready behind it, so nobody can answer";
    let cure =
        "look at `kubectl get endpointslices` and at the readiness of the pods that its selector names";
    fault("noEndpoints", Finding::error(format!("Service {name}"), what, cure).see("service-not-reached"))
}

fn not_sent(evidence: &Evidence, why: &str) -> Fault {
    let object = format!("pod {}", evidence.source.name);
    let what = format!("it cannot send to {}: {why}", evidence.flow.target);
    let cure =
        "its namespace has lost its default route or its link: delete the pod, so that it is made anew";
    fault("podRoute", Finding::error(object, what, cure).see("no-route"))
}

fn refused(evidence: &Evidence) -> Fault {
    let (name, _) = evidence.far_end();
    let port = evidence.here.translation().map_or(evidence.flow.port, |it| it.backend_port);
    let what =
        format!("the network is well, and nobody listens at {} port {port} there", evidence.flow.protocol);
    fault(
        "refused",
        Finding::error(name, what, "look at the port in the pod, and at targetPort of the Service"),
    )
}

fn explain(evidence: &Evidence, stop: Stop) -> Option<Fault> {
    let (near, far) = (&evidence.here, evidence.far_node());
    let ends = match stop.leg {
        Leg::There => (evidence.flow.source, evidence.far()),
        Leg::Back => (evidence.far(), evidence.flow.source),
    };
    use Station::{SourcePod, SourceUplink, SourceVeth, TargetPod, TargetUplink, TargetVeth};
    match (stop.leg, stop.after, stop.before) {
        (_, None, SourcePod) => Some(not_sent(evidence, "no probe left it")),
        (Leg::Back, None, _) => silent(evidence),
        (_, Some(SourcePod), SourceVeth) => Some(pod_link(near, &evidence.source.name)),
        (_, Some(SourceVeth), SourcePod) => Some(pod_link(near, &evidence.source.name)),
        (_, Some(TargetVeth), TargetPod) | (_, Some(TargetPod), TargetVeth) => {
            far.map(|far| pod_link(far, &evidence.far_end().0))
        }
        (_, Some(SourceUplink), TargetUplink) => Some(on_wire(evidence, near, far, stop.leg, ends)),
        (_, Some(TargetUplink), SourceUplink) => Some(on_wire(evidence, far?, Some(near), stop.leg, ends)),
        (_, Some(SourceVeth | SourceUplink), SourceVeth | SourceUplink) => {
            Some(in_node(evidence, near, stop, ends))
        }
        (_, Some(SourceVeth), TargetVeth) | (_, Some(TargetVeth), SourceVeth) => {
            Some(in_node(evidence, near, stop, ends))
        }
        (_, Some(TargetVeth | TargetUplink), _) => far.map(|far| in_node(evidence, far, stop, ends)),
        _ => silent(evidence),
    }
}

/// It arrived, and nothing came back.
fn silent(evidence: &Evidence) -> Option<Fault> {
    if evidence.flow.protocol == Protocol::Udp {
        // Nobody has to answer a datagram.
        return None;
    }
    let (name, _) = evidence.far_end();
    let last = stations(evidence).last().copied();
    if matches!(last, Some(Station::SourceUplink)) {
        return Some(outside(evidence));
    }
    let what = match evidence.flow.protocol {
        Protocol::Tcp => "it gets the SYN and does not answer",
        _ => "it gets the echo request and does not answer",
    };
    let cure = "look for a firewall (a service mesh, nftables) inside the pod, and at its own routes";
    Some(fault("noAnswer", Finding::error(name, what, cure)))
}

fn outside(evidence: &Evidence) -> Fault {
    let ends = (evidence.flow.source, evidence.flow.target);
    on_wire(evidence, &evidence.here, None, Leg::There, ends)
}

fn pod_link(node: &NodeEvidence, pod: &str) -> Fault {
    let link = node.veth().unwrap_or("its link");
    let state = match node.kernel.link_named(link) {
        None => "is gone".to_owned(),
        Some(link) if !link.up => "is down".to_owned(),
        Some(link) if !link.carrier => "has no carrier: the end inside the pod is down".to_owned(),
        Some(_) => "does not pass it on".to_owned(),
    };
    let object = format!("node {}", node.node);
    let what = format!("the link {link} of {pod} {state}");
    fault("podLink", Finding::error(object, what, "delete the pod, so that it is made anew"))
}

type Ends = (IpAddr, IpAddr);

/// A packet came in and did not go on.
fn in_node(evidence: &Evidence, node: &NodeEvidence, stop: Stop, ends: Ends) -> Fault {
    let object = format!("node {}", node.node);
    if let Some(drop) = dropped(node, stop.leg) {
        return firewall(&object, drop);
    }
    let way = passing(node, ends);
    if let Some(way) = way {
        let found = refused_way(node, way).or_else(|| elsewhere(node, way)).or_else(|| neighbour(node, way));
        if let Some(found) = found {
            return found;
        }
    }
    if let Some(found) = source_check(node, stop, evidence, ends) {
        return found;
    }
    let counters: Vec<String> = node
        .sights
        .iter()
        .rev()
        .find_map(|sight| match sight {
            manx_facts::probe::Sight::Grown(grown) => {
                Some(grown.iter().map(|(name, more)| format!("{name} +{more}")).collect())
            }
            _ => None,
        })
        .unwrap_or_default();
    let what = format!(
        "the packet from {} to {} comes in and does not go on; {}",
        ends.0,
        ends.1,
        if counters.is_empty() { "no counter says why".to_owned() } else { counters.join(", ") }
    );
    let cure = "look for legacy iptables, tc or eBPF programs on its links: these do not tell what they drop";
    fault("lostInNode", Finding::error(object, what, cure))
}

fn dropped(node: &NodeEvidence, leg: Leg) -> Option<&Verdict> {
    node.verdicts().find(|verdict| {
        verdict.verdict == "drop" && verdict.probe == REACH && verdict.back == (leg == Leg::Back)
    })
}

fn firewall(object: &str, drop: &Verdict) -> Fault {
    let chain = format!("chain {} of table {} {}", drop.chain, drop.family, drop.table);
    let links = format!(
        "{}{}",
        drop.iif.as_ref().map_or_else(String::new, |link| format!(" from {link}")),
        drop.oif.as_ref().map_or_else(String::new, |link| format!(" to {link}"))
    );
    let what = match drop.handle {
        Some(handle) => {
            let comment = drop.comment.as_ref().map_or_else(String::new, |text| format!(" ({text:?})"));
            format!("a firewall drops it{links}: the rule with handle {handle}{comment} in {chain}")
        }
        None => format!("a firewall drops it{links}: the policy of {chain}"),
    };
    let cure = format!(
        "see `nft -a list chain {} {} {}`, and let pods through",
        drop.family, drop.table, drop.chain
    );
    fault("firewall", Finding::error(object, what, cure).see("no-route"))
}

/// The way that the kernel found for the packet that came in.
fn passing(node: &NodeEvidence, (from, to): Ends) -> Option<&Way> {
    let ways = || node.ways().filter(|way| way.passing && way.lookup.to == to);
    let exact = ways().find(|way| way.lookup.from == Some(from));
    exact.or_else(|| ways().next())
}

fn refused_way(node: &NodeEvidence, way: &Way) -> Option<Fault> {
    let refused = way.refused.as_deref()?;
    let object = format!("node {}", node.node);
    let to = way.lookup.to;
    let route = node.route(to);
    if let Some(route) = route.filter(|route| is_hole(route.kind)) {
        let what = format!("its route for {to} throws packets away: {}", words::route(node, route));
        let cure = format!(
            "find who made it, and remove it: `ip route del {} {}`",
            words::kind(route.kind),
            route.dst
        );
        return Some(fault("blackHole", Finding::error(object, what, cure).see("no-route")));
    }
    if matches!(refused, "ENETUNREACH" | "EHOSTUNREACH") {
        let what = format!("it has no route to {to}");
        let cure = format!(
            "ask `manxctl explain {to}` which node should announce it, and `manxctl peers --node {}`",
            node.node
        );
        return Some(fault("noRoute", Finding::error(object, what, cure).see("no-route")));
    }
    if refused == "EACCES" {
        let what = format!("its route for {to} prohibits packets");
        return Some(fault(
            "blackHole",
            Finding::error(object, what, "find who made it, and remove it").see("no-route"),
        ));
    }
    let (from, iif) = (way.lookup.from?, way.lookup.iif.as_deref()?);
    Some(source_fault(node, from, iif, to))
}

fn is_hole(kind: RouteKind) -> bool {
    matches!(kind, RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit)
}

/// The kernel does not take this source from this link.
fn source_fault(node: &NodeEvidence, from: IpAddr, iif: &str, to: IpAddr) -> Fault {
    let object = format!("node {}", node.node);
    let setting = |link: &str| node.kernel.ipv4(link, "rp_filter").and_then(|text| text.parse::<u8>().ok());
    let strict = setting("all").unwrap_or(0).max(setting(iif).unwrap_or(0));
    let back = node.route(from).map_or_else(
        || "there is no way back to it".to_owned(),
        |route| format!("its way back is {}", words::route(node, route)),
    );
    let grown = match node.grown("TcpExt.IPReversePathFilter") {
        0 => String::new(),
        more => format!(" (IPReversePathFilter +{more})"),
    };
    let what = format!("rp_filter={strict} of {iif} drops packets from {from} to {to}: {back}{grown}");
    let cure = format!(
        "let the way back be by {iif}, or set net.ipv4.conf.{iif}.rp_filter to 0 or 2 where ways differ on purpose"
    );
    fault("sourceCheck", Finding::error(object, what, cure).see("no-route"))
}

/// No way was looked up, but the kernel counted packets with wrong sources.
fn source_check(node: &NodeEvidence, stop: Stop, evidence: &Evidence, (from, to): Ends) -> Option<Fault> {
    (node.grown("TcpExt.IPReversePathFilter") > 0).then_some(())?;
    let seen = sighting(evidence, stop.after?, stop.leg, REACH)?;
    Some(source_fault(node, from, &seen.link, to))
}

/// The packet takes a route that is not Manx's, where Manx has one.
fn elsewhere(node: &NodeEvidence, way: &Way) -> Option<Fault> {
    let own = node.own_route(way.lookup.to)?;
    if way.local || way.protocol == manx_facts::kernel::PROTOCOL || way.refused.is_some() {
        return None;
    }
    let object = format!("node {}", node.node);
    let by = way.link.as_deref().unwrap_or("?");
    let via = way.gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
    let taken = way.prefix.map_or_else(|| "a route".to_owned(), |prefix| format!("the route {prefix}"));
    let table = if way.table == manx_facts::kernel::TABLE_MAIN {
        String::new()
    } else {
        format!(" of table {}", way.table)
    };
    let what = format!(
        "{taken}{via} dev {by}{table} (made by {}) leads packets for {} elsewhere, before that of Manx: {}",
        words::protocol(way.protocol),
        way.lookup.to,
        words::route(node, own)
    );
    let of = if table.is_empty() { String::new() } else { format!(" table {}", way.table) };
    let cure = match way.prefix {
        Some(prefix) => format!("find who made it, and remove it: `ip route del {prefix} dev {by}{of}`"),
        None => "find who made it, and remove it".to_owned(),
    };
    Some(fault("wrongRoute", Finding::error(object, what, cure).see("no-route")))
}

fn neighbour(node: &NodeEvidence, way: &Way) -> Option<Fault> {
    let neighbour = way.neighbour.as_ref()?;
    let link = way.link.as_deref().unwrap_or("?");
    let object = format!("node {}", node.node);
    let pod = node.kernel.link_named(link).is_some_and(|link| link.group == 179);
    let (what, cure) = match neighbour.state {
        NeighbourState::Failed | NeighbourState::Incomplete => (
            format!(
                "nobody answers for the next hop {} on {link}: the neighbour is {:?}",
                neighbour.address, neighbour.state
            ),
            format!(
                "is {} up, and in the same network? `ip neigh show dev {link}`, and the cable or VLAN of {link}",
                neighbour.address
            ),
        ),
        NeighbourState::Permanent if !pod => (
            format!(
                "the neighbour {} on {link} was set by hand to {}, and packets sent there do not arrive",
                neighbour.address,
                neighbour.mac.as_deref().unwrap_or("nothing")
            ),
            format!("let the kernel ask for it: `ip neigh del {} dev {link}`", neighbour.address),
        ),
        _ => return None,
    };
    Some(fault("neighbour", Finding::error(object, what, cure).see("no-route")))
}

/// It left a node and did not come to the next.
fn on_wire(
    evidence: &Evidence,
    from: &NodeEvidence,
    to: Option<&NodeEvidence>,
    leg: Leg,
    ends: Ends,
) -> Fault {
    let way = passing(from, ends);
    let found = way.and_then(|way| elsewhere(from, way).or_else(|| neighbour(from, way)));
    if let Some(found) = found.or_else(|| unannounced(evidence, from, to, ends.1)) {
        return found;
    }
    let object = format!("node {}", from.node);
    let hop = way.and_then(|way| way.gateway).map_or_else(String::new, |gateway| format!(" to {gateway}"));
    let link = way.and_then(|way| way.link.as_deref()).unwrap_or("its uplink");
    let end =
        to.map_or_else(|| "no answer comes".to_owned(), |to| format!("it never comes to node {}", to.node));
    let error =
        evidence.came_back(REACH).find(|seen| matches!(seen.kind, Kind::Unreachable | Kind::Prohibited));
    if let Some((seen, router)) = error.and_then(|seen| Some((seen, seen.from?))) {
        let why = if seen.kind == Kind::Prohibited { "does not let it pass" } else { "has no way to it" };
        let what = format!("the router {router} {why}: {} is unreachable from there", ends.1);
        let cure =
            format!("look at the routes of {router}: does it get the block of {} from its node?", ends.1);
        return fault("router", Finding::error(format!("router {router}"), what, cure).see("no-route"));
    }
    let routers = evidence.routers();
    let last = routers
        .last()
        .filter(|_| leg == Leg::There)
        .map_or_else(String::new, |(_, router)| format!("; the last router that answers is {router}"));
    let what = format!("the packet to {} leaves by {link}{hop}, and {end}{last}", ends.1);
    let cure = "something between drops it without a word: look at routes and filters of the routers and switches there";
    fault("lostOnWire", Finding::error(object, what, cure).see("no-route"))
}

/// Nobody announces the way, so that Manx has no route for an address of a pod.
fn unannounced(
    evidence: &Evidence,
    from: &NodeEvidence,
    to: Option<&NodeEvidence>,
    address: IpAddr,
) -> Option<Fault> {
    let is_pod = to.is_some_and(|to| to.own_route(address).is_some());
    if !is_pod || from.own_route(address).is_some() {
        return None;
    }
    let taken = from
        .route(address)
        .map_or_else(String::new, |route| format!(", so packets take {}", words::route(from, route)));
    let missing = format!("node {} has no route of Manx for {address}{taken}", from.node);
    let owner = to.map_or("", |to| &*to.node);
    let concerned = |name: &str| name == from.node || name == owner;
    let mut down: Vec<_> = evidence.sessions_down.iter().filter(|session| concerned(&session.node)).collect();
    // That of the node which should announce it says most.
    down.sort_by_key(|session| session.node != owner);
    let Some(session) = down.first() else {
        let cure =
            format!("ask `manxctl explain {address}`: is its block announced, and does a filter reject it?");
        return Some(fault(
            "noRoute",
            Finding::error(
                format!("node {}", from.node),
                format!("it has no route of Manx for {address}{taken}"),
                cure,
            )
            .see("no-route"),
        ));
    };
    let what = format!("{}; {missing}", session.what);
    let cure = format!("see `manxctl peers --node {}`", session.node);
    Some(fault(
        "sessionDown",
        Finding::error(format!("node {}", session.node), what, cure).see("session-down"),
    ))
}

/// Whether large packets pass.
fn sizes(evidence: &Evidence) -> Option<Fault> {
    let sizes = evidence.sizes();
    let (large, octets) = *sizes.first()?;
    let passes = |probe| {
        if evidence.flow.protocol == Protocol::Udp {
            evidence.arrived(probe)
        } else {
            evidence.answered(probe)
        }
    };
    // A refusal says as much as an answer; where nothing is looked at there and nothing answers, nothing is known.
    if passes(large) || (evidence.flow.protocol == Protocol::Udp && !evidence.arrived(REACH)) {
        return None;
    }
    let best = sizes.iter().filter(|(probe, _)| passes(*probe)).map(|(_, size)| *size).max();
    let most = best.map_or_else(|| "no size that was tried".to_owned(), |best| format!("{best}"));
    let told = evidence.came_back(large).find_map(|seen| match seen.kind {
        Kind::TooBig(mtu) => Some((seen.from, mtu)),
        _ => None,
    });
    if let Some((router, mtu)) = told {
        let router = router.map_or_else(|| "a router".to_owned(), |router| format!("router {router}"));
        let what = format!(
            "its next link takes {mtu} octets, and it says so: senders that listen make do with that"
        );
        return Some(fault("mtuTold", Finding::note(router, what)));
    }
    let order = stations(evidence);
    let leg = if evidence.arrived(large) { Leg::Back } else { Leg::There };
    let order: Vec<Station> = if leg == Leg::There { order } else { order.into_iter().rev().collect() };
    let last = order.iter().rev().find(|station| sighting(evidence, **station, leg, large).is_some());
    let place = last.map_or_else(|| "the pod".to_owned(), |station| words::station(evidence, *station));
    let way = if leg == Leg::There { "there" } else { "back" };
    let what = format!(
        "packets of {octets} octets are lost behind {place} on the way {way}, and nobody says why; {most} pass"
    );
    let cure = "a link between takes less, and its \"too big\" is filtered: let ICMP through, or give pods that MTU (`--mtu` of the agent)";
    Some(fault("mtu", Finding::error("the path", what, cure).see("mtu")))
}
