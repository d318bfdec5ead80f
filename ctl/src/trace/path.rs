//! The path as a list of stations, and where probes stop on it.

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
    // Which way a packet goes through the link, on the way there.
    let outgoing = matches!(station, Station::SourcePod | Station::SourceUplink | Station::TargetVeth);
    let outgoing = if leg == Leg::There { outgoing } else { !outgoing };
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
