//! What the speaker explains, as facts for whoever asks this node.

use manx_bgp::{Explanation, ImportStatus, PathExplanation, Told, ToldStatus, communities};
use manx_facts::bgp;

/// All about one prefix.
pub(super) fn explained(explanation: &Explanation) -> bgp::Explained {
    bgp::Explained {
        prefix: explanation.prefix.into(),
        paths: explanation.paths.iter().map(path).collect(),
        best: explanation.best,
        step: explanation.step.map(|step| step.to_string()),
        next_hops: explanation.next_hops.iter().map(ToString::to_string).collect(),
        told: explanation.told.iter().map(told).collect(),
    }
}

/// What stands of one prefix in a table.
pub(super) fn lines(explanation: &Explanation, side: bgp::Side) -> Vec<bgp::RouteLine> {
    match side {
        bgp::Side::Best => best(explanation).into_iter().collect(),
        bgp::Side::In => {
            let said = explanation.paths.iter().enumerate().filter(|(_, path)| path.status.peer.is_some());
            said.map(|(place, path)| line(explanation, place, path)).collect()
        }
        bgp::Side::Out => explanation.told.iter().filter_map(|told| out(explanation, told)).collect(),
    }
}

fn best(explanation: &Explanation) -> Option<bgp::RouteLine> {
    let place = explanation.best?;
    let path = explanation.paths.get(place)?;
    let used = path.used.as_ref().unwrap_or(&path.received);
    let by = match (explanation.step, &path.status.peer) {
        (_, None) => "our own".to_owned(),
        (Some(step), _) => format!("best by {step}"),
        (None, _) => "the only one".to_owned(),
    };
    Some(bgp::RouteLine {
        attributes: attributes(used),
        verdict: by,
        selected: path.status.selected,
        ..line(explanation, place, path)
    })
}

fn line(explanation: &Explanation, place: usize, path: &PathExplanation) -> bgp::RouteLine {
    let import = import(path);
    let outcome = match (path.status.lost_at, explanation.best == Some(place)) {
        (_, true) => "best, ".to_owned(),
        (Some(step), _) if path.status.selected => format!("carries traffic too, after {step}, "),
        (Some(step), _) => format!("lost at {step}, "),
        (None, false) => String::new(),
    };
    bgp::RouteLine {
        prefix: explanation.prefix.into(),
        peer: path.status.peer.as_ref().map(ToString::to_string),
        attributes: attributes(&path.received),
        verdict: outcome + &import.verdict,
        selected: path.status.selected,
    }
}

fn out(explanation: &Explanation, told: &Told) -> Option<bgp::RouteLine> {
    let ToldStatus::Told { attributes: said, sent, .. } = &told.status else { return None };
    let waits = if *sent { "" } else { ", waits for the connection" };
    Some(bgp::RouteLine {
        prefix: explanation.prefix.into(),
        peer: Some(told.peer.to_string()),
        attributes: attributes(said),
        verdict: told.verdict() + waits,
        selected: *sent,
    })
}

fn path(path: &PathExplanation) -> bgp::Path {
    let used = path.used.as_ref().filter(|used| **used != path.received);
    bgp::Path {
        peer: path.status.peer.as_ref().map(ToString::to_string),
        import: import(path),
        lost_at: path.status.lost_at.map(|step| step.to_string()),
        selected: path.status.selected,
        stale: path.status.stale,
        received: attributes(&path.received),
        used: used.map(attributes),
    }
}

fn import(path: &PathExplanation) -> bgp::Import {
    let status = &path.status.import;
    let (accepted, rule) = match status {
        ImportStatus::Local => (true, None),
        ImportStatus::Accepted(rule) | ImportStatus::Discarded(rule) => (true, rule.clone()),
        ImportStatus::Rejected(rule) => (false, rule.clone()),
        _ => (false, None),
    };
    let discards =
        if matches!(status, ImportStatus::Discarded(_)) { ": its traffic is discarded" } else { "" };
    bgp::Import { accepted, rule, amended: path.amended.clone(), verdict: format!("{status}{discards}") }
}

fn told(told: &Told) -> bgp::Told {
    let about = bgp::Told {
        peer: told.peer.to_string(),
        path: told.path,
        verdict: told.verdict(),
        ..bgp::Told::default()
    };
    match &told.status {
        ToldStatus::Untold(_) => about,
        ToldStatus::Told { rule, amended, attributes: said, sent } => bgp::Told {
            attributes: Some(attributes(said)),
            sent: *sent,
            rule: rule.clone(),
            amended: amended.clone(),
            ..about
        },
    }
}

fn attributes(said: &manx_bgp::Attributes) -> bgp::Attributes {
    let next_hop = Some(said.next_hop).filter(|next_hop| !next_hop.address().is_unspecified());
    bgp::Attributes {
        next_hop: next_hop.map_or_else(String::new, |next_hop| next_hop.to_string()),
        as_path: said.as_path.to_string(),
        origin: said.origin.to_string(),
        med: said.med,
        local_pref: said.local_pref,
        only_to_customer: said.only_to_customer.map(|asn| asn.0),
        communities: communities(said),
    }
}
