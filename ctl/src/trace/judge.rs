//! What is wrong on the way of a packet: each fault with its name, its place and its cure.

mod away;
mod drops;

use std::net::IpAddr;

use manx_facts::kernel::{NeighbourState, RouteKind};
use manx_facts::probe::{Kind, Protocol, Sight, Way};
use serde::Serialize;

use super::evidence::{Evidence, NodeEvidence, REACH, Target};
use super::path::{Leg, Station, Stop, sighting, stations, stop};
use super::words;
use crate::finding::{Finding, Weight};

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
    if evidence.here.away.is_some() && evidence.here.sent().next().is_none() {
        return (faults, None);
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
    let mut faults = Vec::new();
    for node in std::iter::once(&evidence.here).chain(&evidence.there) {
        let object = format!("node {}", node.node);
        let source = std::ptr::eq(node, &raw const evidence.here) && node.sent().next().is_none();
        let weight = if source { Weight::Error } else { Weight::Warning };
        faults.extend(node.away.as_ref().map(|why| away::away(evidence, node, why, weight)));
        for sight in &node.sights {
            if let Sight::Blind(why) = sight {
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
        (_, None, SourcePod) => {
            Some(drops::changed_mac(near).unwrap_or_else(|| not_sent(evidence, "no probe left it")))
        }
        (Leg::Back, None, _) => taken(evidence, far).or_else(|| silent(evidence)),
        (_, Some(SourcePod), SourceVeth) | (_, Some(SourceVeth), SourcePod) => {
            Some(pod_link(evidence, near, stop, &evidence.source.name))
        }
        (_, Some(TargetVeth), TargetPod) | (_, Some(TargetPod), TargetVeth) => {
            far.map(|far| pod_link(evidence, far, stop, &evidence.far_end().0))
        }
        (_, Some(SourceUplink), TargetUplink) => Some(on_wire(evidence, near, far, stop, ends)),
        (_, Some(TargetUplink), SourceUplink) => Some(on_wire(evidence, far?, Some(near), stop, ends)),
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

/// It arrived at a node that is the target itself, and a rule there took it away, or the answer.
fn taken(evidence: &Evidence, far: Option<&NodeEvidence>) -> Option<Fault> {
    let far = far.filter(|_| !evidence.far_is_pod())?;
    let legs = [Leg::There, Leg::Back].into_iter();
    let named = legs.filter_map(|leg| drops::named(evidence, far, leg)).next();
    named.or_else(|| drops::legacy(evidence, far))
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
    let stop = Stop { leg: Leg::There, after: Some(Station::SourceUplink), before: Station::SourceUplink };
    on_wire(evidence, &evidence.here, None, stop, ends)
}

fn pod_link(evidence: &Evidence, node: &NodeEvidence, stop: Stop, pod: &str) -> Fault {
    let link = node.veth().unwrap_or("its link");
    let state = match node.kernel.link_named(link) {
        None => "is gone".to_owned(),
        Some(link) if !link.up => "is down".to_owned(),
        Some(link) if !link.carrier => "has no carrier: the end inside the pod is down".to_owned(),
        Some(_) => "does not pass it on".to_owned(),
    };
    let object = format!("node {}", node.node);
    let hint = drops::programs(evidence, stop);
    let program = hint.as_ref().map_or("", |hint| &hint.words);
    let what = format!("the link {link} of {pod} {state}{program}");
    let cure = hint.map_or_else(|| "delete the pod, so that it is made anew".to_owned(), |hint| hint.look);
    fault("podLink", Finding::error(object, what, cure))
}

type Ends = (IpAddr, IpAddr);

/// A packet came in and did not go on.
fn in_node(evidence: &Evidence, node: &NodeEvidence, stop: Stop, ends: Ends) -> Fault {
    let object = format!("node {}", node.node);
    if let Some(named) = drops::named(evidence, node, stop.leg) {
        return named;
    }
    let way = passing(node, ends);
    if let Some(way) = way {
        let found = refused_way(node, way).or_else(|| elsewhere(node, way)).or_else(|| neighbour(node, way));
        if let Some(found) = found {
            return found;
        }
    }
    let found = drops::legacy(evidence, node).or_else(|| source_check(node, stop, evidence, ends));
    if let Some(found) = found {
        return found;
    }
    let hint = drops::programs(evidence, stop);
    let counters: Vec<String> = node
        .sights
        .iter()
        .rev()
        .find_map(|sight| match sight {
            Sight::Grown(grown) => Some(grown.iter().map(|(name, more)| format!("{name} +{more}")).collect()),
            _ => None,
        })
        .unwrap_or_default();
    let what = format!(
        "the packet from {} to {} comes in and does not go on; {}{}",
        ends.0,
        ends.1,
        if counters.is_empty() { "no counter says why".to_owned() } else { counters.join(", ") },
        hint.as_ref().map_or("", |hint| &hint.words)
    );
    let programs =
        "look for eBPF programs on its links and cgroups (`bpftool net`): these do not tell what they drop";
    let cure = hint.map_or_else(|| programs.to_owned(), |hint| hint.look);
    fault("lostInNode", Finding::error(object, what, cure))
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
    let decision = node.decided(&way.lookup).unwrap_or_default();
    let rule = decision.rule.filter(|rule| !rule.is_usual());
    let hole = |what, cure| fault("blackHole", Finding::error(&object, what, cure).see("no-route"));
    if let Some(route) = decision.route.filter(|route| is_hole(route.kind)) {
        let by = rule.map_or_else(String::new, |rule| format!(", by the rule {rule}"));
        let of = rule.map_or_else(String::new, |rule| format!(" table {}", rule.table));
        let what = format!("its route for {to} throws packets away: {}{by}", words::route(node, route));
        let cure = format!(
            "find who made it, and remove it: `ip route del {} {}{of}`",
            words::kind(route.kind),
            route.dst
        );
        return Some(hole(what, cure));
    }
    if let Some(rule) = rule.filter(|_| decision.route.is_none()) {
        let what = format!("its rule \"{rule}\" throws packets to {to} away");
        return Some(hole(what, format!("find who made it, and remove it: `{}`", words::rule_gone(rule))));
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
        return Some(hole(what, "find who made it, and remove it".to_owned()));
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
    let rule = node.decided(&way.lookup).and_then(|decision| decision.rule);
    let rule = rule.filter(|rule| !rule.is_usual() && rule.table == way.table);
    let table = match (rule, way.table) {
        (Some(rule), number) => format!(" of table {number}, by the rule {rule}"),
        (None, manx_facts::kernel::TABLE_MAIN) => String::new(),
        (None, number) => format!(" of table {number}"),
    };
    let what = format!(
        "{taken}{via} dev {by}{table} (made by {}) leads packets for {} elsewhere, before that of Manx: {}",
        words::protocol(way.protocol),
        way.lookup.to,
        words::route(node, own)
    );
    let of = if table.is_empty() { String::new() } else { format!(" table {}", way.table) };
    let cure = match (rule, way.prefix) {
        (Some(rule), _) => format!("find who made the rule, and remove it: `{}`", words::rule_gone(rule)),
        (None, Some(prefix)) => {
            format!("find who made it, and remove it: `ip route del {prefix} dev {by}{of}`")
        }
        (None, None) => "find who made it, and remove it".to_owned(),
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
    stop: Stop,
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
    let end = match to {
        None => "no answer comes".to_owned(),
        Some(to) if to.away.is_some() => {
            format!("no answer comes; node {} does not say whether it got there", to.node)
        }
        Some(to) => format!("it never comes to node {}", to.node),
    };
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
        .filter(|_| stop.leg == Leg::There)
        .map_or_else(String::new, |(_, router)| format!("; the last router that answers is {router}"));
    let hint = drops::programs(evidence, stop);
    let program = hint.as_ref().map_or("", |hint| &hint.words);
    let what = format!("the packet to {} leaves by {link}{hop}, and {end}{last}{program}", ends.1);
    let between = "something between drops it without a word: look at routes and filters of the routers and switches there";
    let cure = hint.map_or_else(|| between.to_owned(), |hint| hint.look);
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
    // Of datagrams only who gets them knows which came: answers do not say it.
    let unknown = evidence.flow.protocol == Protocol::Udp
        && (evidence.far_node().is_none_or(|there| there.away.is_some()) || !evidence.arrived(REACH));
    // A refusal says as much as an answer; where nothing is looked at there and nothing answers, nothing is known.
    if passes(large) || unknown {
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
