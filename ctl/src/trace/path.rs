//! The path as a list of stations, and where probes stop on it.

use manx_facts::kernel::Kernel;
use manx_facts::probe::{Kind, Seen};

use super::evidence::{Evidence, NodeEvidence, REACH};

/// On which way a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Leg {
    /// From the source to the target.
    There,
    /// Back.
    Back,
}

/// Where a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Station {
    /// The source pod's own link.
    SourcePod,
    /// Its other end on the node.
    SourceVeth,
    /// The link by which the source's node sends.
    SourceUplink,
    /// The link by which the target's node receives.
    TargetUplink,
    /// The node's end of the target pod's link.
    TargetVeth,
    /// The target pod's own link.
    TargetPod,
}

/// Between which stations a probe was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Stop {
    /// On which way.
    pub(crate) leg: Leg,
    /// The last that saw it; none if it was never sent.
    pub(crate) after: Option<Station>,
    /// The first that did not.
    pub(crate) before: Station,
}

/// The stations from the source to the target.
pub(crate) fn stations(evidence: &Evidence) -> Vec<Station> {
    use Station::{SourcePod, SourceUplink, SourceVeth, TargetPod, TargetUplink, TargetVeth};
    let mut stations = vec![SourcePod, SourceVeth];
    match (evidence.far_node().is_some(), evidence.one_node(), evidence.far_is_pod()) {
        (true, true, true) => stations.extend([TargetVeth, TargetPod]),
        (true, true, false) => {}
        (true, false, true) => stations.extend([SourceUplink, TargetUplink, TargetVeth, TargetPod]),
        (true, false, false) => stations.extend([SourceUplink, TargetUplink]),
        (false, true, _) => {}
        (false, false, _) => stations.push(SourceUplink),
    }
    stations
}

/// The first packet of a probe, or of its answer, that a station saw.
pub(crate) fn sighting(evidence: &Evidence, station: Station, leg: Leg, probe: u8) -> Option<&Seen> {
    let kind = |seen: &Seen| match leg {
        Leg::There => seen.kind == Kind::Probe,
        Leg::Back => matches!(seen.kind, Kind::Answer | Kind::Refusal),
    };
    let near = station <= Station::SourceUplink;
    let outgoing = outgoing(station, leg);
    let inside = matches!(station, Station::SourcePod | Station::TargetPod);
    let node = if near { Some(&evidence.here) } else { evidence.far_node() }?;
    let here = |seen: &&Seen| {
        seen.probe == probe
            && kind(seen)
            && seen.outgoing == outgoing
            && seen.inside == inside
            && fits(node, station, seen)
    };
    node.seen().find(here)
}

/// Whether a packet leaves its namespace by the link of a station, on this way.
pub(crate) fn outgoing(station: Station, leg: Leg) -> bool {
    let there = matches!(station, Station::SourcePod | Station::SourceUplink | Station::TargetVeth);
    there == (leg == Leg::There)
}

/// The node of a station, and the name of its link: that which saw a probe, else that which packets should take.
pub(crate) fn link(evidence: &Evidence, station: Station) -> Option<(&NodeEvidence, String)> {
    let near = station <= Station::SourceUplink;
    let node = if near { Some(&evidence.here) } else { evidence.far_node() }?;
    let seen = [Leg::There, Leg::Back].into_iter().find_map(|leg| sighting(evidence, station, leg, REACH));
    let name = match (seen, station) {
        (Some(seen), _) => seen.link.clone(),
        (None, Station::SourcePod | Station::TargetPod) => {
            node.pod.as_ref()?.endpoint.as_ref()?.ifname.clone()
        }
        (None, Station::SourceVeth | Station::TargetVeth) => node.veth()?.to_owned(),
        (None, Station::SourceUplink) => by_route(node, evidence.far())?,
        (None, Station::TargetUplink) => by_route(node, evidence.flow.source)?,
    };
    Some((node, name))
}

fn by_route(node: &NodeEvidence, to: std::net::IpAddr) -> Option<String> {
    Some(node.kernel.link_name(node.route(to)?.hops.first()?.link))
}

/// What the kernel of a station's namespace says.
pub(crate) fn kernel(node: &NodeEvidence, station: Station) -> Option<&Kernel> {
    let inside = matches!(station, Station::SourcePod | Station::TargetPod);
    if inside { node.pod.as_ref().map(|pod| &pod.inside) } else { Some(&node.kernel) }
}

fn fits(node: &NodeEvidence, station: Station, seen: &Seen) -> bool {
    let veth = node.veth() == Some(&*seen.link);
    match station {
        Station::SourceVeth | Station::TargetVeth => veth,
        Station::SourceUplink | Station::TargetUplink => !veth && seen.link != "lo",
        Station::SourcePod | Station::TargetPod => seen.link != "lo",
    }
}

/// Where the probe that is to reach the target, or its answer, was lost.
pub(crate) fn stop(evidence: &Evidence) -> Option<Stop> {
    let stations = stations(evidence);
    let lost = |leg, stations: &[Station]| {
        // A packet that a later station saw passed all before, whatever they had to say.
        let last = stations.iter().rposition(|station| sighting(evidence, *station, leg, REACH).is_some());
        let next = last.map_or(0, |last| last + 1);
        stations.get(next).map(|before| Stop { leg, after: last.map(|last| stations[last]), before: *before })
    };
    if evidence.answered(REACH) {
        return None;
    }
    if let Some(stop) = lost(Leg::There, &stations).filter(|_| !answered_far(evidence)) {
        return Some(stop);
    }
    let back: Vec<Station> = stations.iter().rev().copied().collect();
    lost(Leg::Back, &back)
}

/// Whether the far end, or its node, sent an answer.
fn answered_far(evidence: &Evidence) -> bool {
    let answer = |seen: &Seen| seen.probe == REACH && matches!(seen.kind, Kind::Answer | Kind::Refusal);
    evidence.far_node().is_some_and(|there| there.seen().any(answer))
}
