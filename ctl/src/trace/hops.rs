//! What is shown of a trace: its hops in order, each with its links and with what decides there.

use manx_facts::kernel::{Kernel, Link};
use manx_facts::probe::{Kind, Protocol, Seen, Way};
use serde::Serialize;

use super::evidence::{Evidence, NodeEvidence, REACH, Target};
use super::judge::{Fault, judge};
use super::path::{self, Leg, Station, Stop, sighting, stations};
use super::words;
use crate::finding::Finding;

/// A trace.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Trace {
    /// Who sends.
    pub(crate) from: String,
    /// Where to, as it was asked for.
    pub(crate) to: String,
    /// Addresses, protocol and port.
    pub(crate) flow: String,
    /// How it went, in a sentence.
    pub(crate) outcome: String,
    /// The hops from the source to the target.
    pub(crate) hops: Vec<Hop>,
    /// Where the probe was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop: Option<Stop>,
    /// What is wrong.
    pub(crate) faults: Vec<Fault>,
}

/// What a hop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum HopKind {
    /// A pod.
    Pod,
    /// A node.
    Node,
    /// What is between nodes.
    Wire,
    /// Something that cannot be looked into.
    Outside,
}

/// One place on the way.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hop {
    /// What it is.
    pub(crate) kind: HopKind,
    /// Its name.
    pub(crate) name: String,
    /// Its node.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) node: String,
    /// The link by which packets come in, on the way there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) entry: Option<Pass>,
    /// What decides here.
    pub(crate) notes: Vec<String>,
    /// The link by which they go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exit: Option<Pass>,
    /// Whether the probe, or its answer, was lost here or right behind.
    pub(crate) lost: bool,
}

/// A link, and what passed it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pass {
    /// Which one of the path.
    pub(crate) station: Station,
    /// Its name.
    pub(crate) link: String,
    /// Its index, MTU and counters.
    pub(crate) about: String,
    /// Whether the probe passed.
    pub(crate) there: bool,
    /// Whether the answer passed.
    pub(crate) back: bool,
    /// Microseconds from the first sending until the probe and the answer passed, where one clock saw both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) there_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) back_at: Option<u64>,
}

impl Trace {
    /// Makes it of what is known.
    pub(crate) fn of(evidence: &Evidence) -> Self {
        let (faults, stop) = judge(evidence);
        let (far, _) = evidence.far_end();
        let to = match &evidence.target {
            Target::Service(name, _) => format!("Service {name}"),
            _ => far,
        };
        let flow = &evidence.flow;
        let port = if flow.port == 0 { String::new() } else { format!(" port {}", flow.port) };
        let mut trace = Self {
            from: format!("pod {}", evidence.source.name),
            to,
            flow: format!("{} → {}, {}{port}", flow.source, flow.target, flow.protocol),
            outcome: outcome(evidence, stop),
            hops: Hops { evidence, stop }.all(),
            stop,
            faults,
        };
        mark_lost(&mut trace);
        trace
    }

    /// What is wrong, without names.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        self.faults.iter().map(|fault| fault.finding.clone()).collect()
    }
}

fn outcome(evidence: &Evidence, stop: Option<Stop>) -> String {
    if evidence.here.sent().next().is_none() {
        return "no probe was sent".to_owned();
    }
    let last = stop.and_then(|stop| stop.after).map(|station| words::station(evidence, station));
    match stop {
        None => answered(evidence),
        Some(Stop { leg: Leg::Back, after: None, .. }) => match evidence.flow.protocol {
            Protocol::Udp => "it arrived; nobody has to answer a datagram, and nobody did".to_owned(),
            _ => "no answer came back".to_owned(),
        },
        Some(stop) => format!(
            "{} was lost behind {}, before {}",
            if stop.leg == Leg::There { "the probe" } else { "the answer" },
            last.unwrap_or_else(|| "the pod's program".to_owned()),
            words::station(evidence, stop.before)
        ),
    }
}

fn answered(evidence: &Evidence) -> String {
    let back = evidence.came_back(REACH).find(|seen| matches!(seen.kind, Kind::Answer | Kind::Refusal));
    let out = sighting(evidence, Station::SourcePod, Leg::There, REACH);
    match (back, out) {
        (Some(back), Some(out)) => {
            let how = if back.kind == Kind::Refusal { "refused" } else { "answered" };
            let micros = back.time.saturating_sub(out.time) / 1000;
            format!("it was {how} after {}.{:03} ms", micros / 1000, micros % 1000)
        }
        _ => "it was answered".to_owned(),
    }
}

/// The hop of the last station that saw it, or the wire.
fn mark_lost(trace: &mut Trace) {
    let Some(stop) = trace.stop else { return };
    if trace.faults.is_empty() {
        return;
    }
    let on_wire = matches!(
        (stop.after, stop.before),
        (Some(Station::SourceUplink), Station::TargetUplink)
            | (Some(Station::TargetUplink), Station::SourceUplink)
    );
    let has = |hop: &Hop, station: Station| {
        [&hop.entry, &hop.exit].into_iter().flatten().any(|pass| pass.station == station)
    };
    let last = trace.hops.len().saturating_sub(1);
    for (place, hop) in trace.hops.iter_mut().enumerate() {
        hop.lost = match (on_wire, stop.after) {
            (true, _) => hop.kind == HopKind::Wire,
            (false, Some(after)) => has(hop, after),
            (false, None) if stop.leg == Leg::Back => place == last,
            (false, None) => has(hop, stop.before),
        };
    }
}

struct Hops<'a> {
    evidence: &'a Evidence,
    stop: Option<Stop>,
}

impl Hops<'_> {
    fn all(&self) -> Vec<Hop> {
        let evidence = self.evidence;
        let stations = stations(evidence);
        let has = |station| stations.contains(&station);
        let far = evidence.far_node();
        let mut hops =
            vec![self.pod(&evidence.here, format!("pod {}", evidence.source.name), Station::SourcePod)];
        let exit = [Station::SourceUplink, Station::TargetVeth].into_iter().find(|station| has(*station));
        hops.push(self.node(&evidence.here, Some(Station::SourceVeth), exit));
        if has(Station::SourceUplink) {
            hops.push(self.wire());
        }
        match far {
            Some(far) if has(Station::TargetUplink) => {
                let exit = has(Station::TargetVeth).then_some(Station::TargetVeth);
                hops.push(self.node(far, Some(Station::TargetUplink), exit));
            }
            Some(_) => {}
            None if !evidence.one_node() => hops.push(self.beyond()),
            None => {}
        }
        if let Some(far) = far.filter(|_| has(Station::TargetPod)) {
            hops.push(self.pod(far, evidence.far_end().0, Station::TargetPod));
        }
        hops
    }

    fn pod(&self, node: &NodeEvidence, name: String, station: Station) -> Hop {
        let mut notes = Vec::new();
        let way = node.ways().find(|way| way.lookup.inside);
        if let (Some(way), Station::SourcePod) = (way, station) {
            notes.extend(way_notes(way, None));
        }
        let pass = Some(self.pass(node, station));
        let (entry, exit) = if station == Station::SourcePod { (None, pass) } else { (pass, None) };
        Hop { kind: HopKind::Pod, name, node: node.node.clone(), entry, notes, exit, lost: false }
    }

    fn node(&self, node: &NodeEvidence, entry: Option<Station>, exit: Option<Station>) -> Hop {
        let evidence = self.evidence;
        let mut notes = Vec::new();
        notes.extend(firewall_note(node));
        notes.extend(translation_notes(evidence, node));
        let to = evidence.far();
        let way = node.ways().find(|way| way.passing && way.lookup.to == to);
        let way = way.or_else(|| node.ways().find(|way| !way.lookup.inside && way.lookup.to == to));
        notes.extend(way.and_then(|way| rule_note(evidence, node, way)));
        notes.extend(way.map(|way| way_notes(way, Some(&node.kernel))).into_iter().flatten());
        Hop {
            kind: HopKind::Node,
            name: format!("node {}", node.node),
            node: node.node.clone(),
            entry: entry.map(|station| self.pass(node, station)),
            notes,
            exit: exit.map(|station| self.pass(node, station)),
            lost: false,
        }
    }

    /// Another source than the pod, where the probe was seen with one.
    fn hidden(&self, there: Option<&Seen>) -> String {
        let from = there.and_then(|seen| seen.from).filter(|from| *from != self.evidence.flow.source);
        from.map_or_else(String::new, |from| format!(", as {from}"))
    }

    fn wire(&self) -> Hop {
        let routers = self.evidence.routers();
        let mut notes: Vec<String> =
            routers.iter().map(|(ttl, router)| format!("{router} is router {}", ttl - 1)).collect();
        if let Some((_, octets)) =
            self.evidence.sizes().into_iter().rfind(|(probe, _)| self.evidence.arrived(*probe))
        {
            let best = self
                .evidence
                .sizes()
                .into_iter()
                .filter(|(probe, _)| self.evidence.arrived(*probe))
                .map(|(_, size)| size)
                .max();
            notes.push(format!("packets of {} octets pass", best.unwrap_or(octets)));
        }
        Hop {
            kind: HopKind::Wire,
            name: "the wire".to_owned(),
            node: String::new(),
            entry: None,
            notes,
            exit: None,
            lost: false,
        }
    }

    fn beyond(&self) -> Hop {
        let (name, _) = self.evidence.far_end();
        let reached = self.stop.is_none();
        let notes =
            vec![if reached { "it answered".to_owned() } else { "nobody can be asked there".to_owned() }];
        Hop { kind: HopKind::Outside, name, node: String::new(), entry: None, notes, exit: None, lost: false }
    }

    fn pass(&self, node: &NodeEvidence, station: Station) -> Pass {
        let there = sighting(self.evidence, station, Leg::There, REACH);
        let back = sighting(self.evidence, station, Leg::Back, REACH);
        let kernel = path::kernel(node, station);
        let link = path::link(self.evidence, station).map_or_else(|| "?".to_owned(), |(_, link)| link);
        let near = station <= Station::SourceUplink;
        let start = sighting(self.evidence, Station::SourcePod, Leg::There, REACH).filter(|_| near);
        let at = |seen: Option<&Seen>| Some(seen?.time.checked_sub(start?.time)? / 1000);
        Pass {
            station,
            about: kernel.and_then(|kernel| kernel.link_named(&link)).map_or_else(String::new, about)
                + &self.hidden(there),
            link,
            there: there.is_some(),
            back: back.is_some(),
            there_at: at(there),
            back_at: at(back),
        }
    }
}

/// The rule of policy routing that decides where it is none of the usual, or how many of those there are.
fn rule_note(evidence: &Evidence, node: &NodeEvidence, way: &Way) -> Option<String> {
    let ipv6 = evidence.flow.source.is_ipv6();
    let count = node.kernel.rules.iter().filter(|rule| rule.ipv6 == ipv6 && !rule.is_usual()).count();
    match node.decided(&way.lookup).and_then(|decision| decision.rule).filter(|rule| !rule.is_usual()) {
        Some(rule) => Some(format!("rule {rule}")),
        None => (count > 0).then(|| format!("{count} rules of policy routing that let it pass")),
    }
}

/// The Service's backend, and behind whom the pod is hidden, on both ways.
fn translation_notes(evidence: &Evidence, node: &NodeEvidence) -> Vec<String> {
    let mut notes = Vec::new();
    let Some(it) = node.translation() else {
        // A connection that was refused is forgotten at once.
        let seen = sighting(evidence, Station::SourceUplink, Leg::There, REACH).and_then(|seen| seen.from);
        let seen = seen.filter(|from| *from != evidence.flow.source && node.node == evidence.here.node);
        notes.extend(seen.map(|from| format!("masquerade: {} goes out as {from}", evidence.flow.source)));
        return notes;
    };
    if it.chooses() {
        notes.push(format!(
            "Service: {}:{} is {}:{}, tracked for {} s",
            it.to, it.to_port, it.backend, it.backend_port, it.timeout
        ));
    }
    if it.hides() {
        let flow = &evidence.flow;
        let port = |number: u16| match flow.protocol {
            Protocol::Icmp => String::new(),
            _ if number == 0 => String::new(),
            _ => format!(" port {number}"),
        };
        let (own, other) = (port(flow.source_port()), port(it.seen_port));
        notes.push(format!(
            "masquerade: {}{own} goes out as {}{other}, tracked for {} s",
            it.from, it.seen_as, it.timeout
        ));
        notes.push(format!("answers to {}{other} go back to {}{own}", it.seen_as, it.from));
    }
    notes
}

fn about(link: &Link) -> String {
    let peer = link.peer_index.filter(|_| link.kind.as_deref() == Some("veth"));
    let peer = peer.map_or_else(String::new, |peer| format!(" ⇄ #{peer}"));
    let count = &link.counters;
    let mut text =
        format!("#{}{peer}, MTU {}, rx {} tx {}", link.index, link.mtu, count.rx_packets, count.tx_packets);
    if count.rx_dropped + count.tx_dropped > 0 {
        text += &format!(", dropped {}/{}", count.rx_dropped, count.tx_dropped);
    }
    if count.rx_errors + count.tx_errors > 0 {
        text += &format!(", errors {}/{}", count.rx_errors, count.tx_errors);
    }
    if !link.up || !link.carrier {
        text += ", DOWN";
    }
    text
}

fn way_notes(way: &Way, kernel: Option<&Kernel>) -> Vec<String> {
    if let Some(refused) = &way.refused {
        return vec![format!("route to {}: refused ({refused})", way.lookup.to)];
    }
    if way.local {
        return vec![format!("{} is its own", way.lookup.to)];
    }
    let prefix = way.prefix.map_or_else(
        || way.lookup.to.to_string(),
        |prefix| match prefix.prefix() {
            0 => "default".to_owned(),
            _ => prefix.to_string(),
        },
    );
    let via = way.gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
    let link = way.link.as_deref().unwrap_or("?");
    let made = kernel.map_or_else(String::new, |_| format!(" (made by {})", words::protocol(way.protocol)));
    let mut notes = vec![format!("route {prefix}{via} dev {link}{made}")];
    notes.extend(way.neighbour.as_ref().map(words::neighbour));
    notes
}

/// Which tables had a say, and what they said.
fn firewall_note(node: &NodeEvidence) -> Option<String> {
    let mut tables: Vec<String> = Vec::new();
    let mut count = 0;
    for verdict in node.verdicts().filter(|verdict| verdict.probe == REACH && !verdict.back) {
        let name = format!("{} {}", verdict.family, verdict.table);
        if !tables.contains(&name) {
            tables.push(name);
        }
        count += 1;
    }
    let drop = node.verdicts().find(|verdict| verdict.probe == REACH && verdict.verdict == "drop");
    let said = drop
        .map_or_else(|| "none drops it".to_owned(), |drop| format!("{} {} drops it", drop.table, drop.chain));
    (count > 0).then(|| format!("netfilter: {count} decisions of {}; {said}", tables.join(", ")))
}
