//! Sessions between nodes that are down, told by the nodes that they have in common: one node that is cut off is one
//! thing that is wrong, and not one for each other node of the mesh.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use manx_api::{Session, Timestamp};

use super::cures;
use super::findings::since;
use crate::finding::{Finding, NAMED, named};

/// From so many sessions on, those of a node are told together.
const MANY: usize = 5;

/// A session between two nodes that is down, as one of them tells.
#[derive(Clone, Debug)]
pub(super) struct Down<'a> {
    /// Who tells it.
    pub(super) node: &'a str,
    /// The other node.
    pub(super) peer: &'a str,
    pub(super) session: &'a Session,
    /// Its last error in words, if there was one.
    pub(super) error: String,
}

/// Splits off what nodes that lost many sessions have in common: what is left is told session by session.
pub(super) fn split<'a>(down: Vec<Down<'a>>, now: Timestamp) -> (Vec<Finding>, Vec<Down<'a>>) {
    let centres = centres(&down);
    let mut of_centre: BTreeMap<&str, Vec<Down<'a>>> = BTreeMap::new();
    let mut left = Vec::new();
    for one in down {
        let has = |centre: &str, other: &str| centres.get(centre).is_some_and(|with| with.contains(other));
        let centre = [(one.node, one.peer), (one.peer, one.node)].into_iter().find(|(a, b)| has(a, b));
        match centre {
            Some((centre, _)) => of_centre.entry(centre).or_default().push(one),
            None => left.push(one),
        }
    }
    let mut alike: BTreeMap<String, BTreeMap<&str, Vec<Down<'a>>>> = BTreeMap::new();
    for (centre, sessions) in of_centre {
        alike.entry(most(&sessions)).or_default().insert(centre, sessions);
    }
    let told = alike.into_iter().map(|(error, centres)| finding(&error, &centres, now)).collect();
    (told, left)
}

/// Of the nodes that lost many sessions, as few as have them all, each with the other ends: the one with the most first,
/// without whose sessions the next one is looked for.
fn centres<'a>(down: &[Down<'a>]) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let mut with: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for Down { node, peer, .. } in down {
        with.entry(node).or_default().insert(peer);
        with.entry(peer).or_default().insert(node);
    }
    let many: BTreeSet<&str> =
        with.iter().filter(|(_, others)| others.len() >= MANY).map(|(name, _)| *name).collect();
    let mut centres = BTreeMap::new();
    while let Some(centre) =
        many.iter().copied().max_by_key(|name| (with.get(name).map_or(0, BTreeSet::len), Reverse(*name)))
        && let Some(others) = with.remove(centre)
        && !others.is_empty()
    {
        for other in &others {
            if let Some(left) = with.get_mut(other) {
                left.remove(centre);
            }
        }
        centres.insert(centre, others);
    }
    centres
}

/// The error that most of them have.
fn most(sessions: &[Down<'_>]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for one in sessions {
        *counts.entry(&one.error).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map_or_else(String::new, |(error, _)| error.to_owned())
}

/// Nodes whose many sessions ended with one error.
fn finding(error: &str, centres: &BTreeMap<&str, Vec<Down<'_>>>, now: Timestamp) -> Finding {
    let sessions = || centres.values().flatten();
    let pairs: BTreeSet<[&str; 2]> = sessions()
        .map(|one| if one.node < one.peer { [one.node, one.peer] } else { [one.peer, one.node] })
        .collect();
    let ends: BTreeSet<&str> = pairs.iter().flatten().copied().collect();
    let names: Vec<&str> = centres.keys().copied().collect();
    let others: Vec<&str> = ends.iter().copied().filter(|end| !centres.contains_key(end)).collect();
    let oldest = sessions().map(|one| one.session.since.0).min().unwrap_or(now);
    let why = if error.is_empty() { "no error was seen yet" } else { error };
    let (count, since) = (pairs.len(), since(oldest, now));
    let what = match names.len() {
        1 => {
            let with = named(&others, NAMED);
            format!(
                "{count} of its sessions with other nodes ({with}) are down, the first since {since}: {why}"
            )
        }
        _ => format!("{count} of their sessions with other nodes are down, the first since {since}: {why}"),
    };
    let (cure, see) = sessions()
        .find(|one| one.error == error)
        .map_or(("look at the node's own network first", "session-down"), |one| {
            cures::of_session(one.session)
        });
    let word = if names.len() == 1 { "node" } else { "nodes" };
    let finding = Finding::error(format!("{word} {}", named(&names, NAMED)), what, cure).see(see);
    ends.into_iter().fold(finding, |finding, end| finding.on(end))
}
