//! The table as status: every path with what became of it and why.

use std::collections::BTreeMap;

use super::decision::{self, DEFAULT_LOCAL_PREF};
use super::nets::Net;
use super::path::{Import, Path, PeerIndex};
use super::{Rib, candidates};
use crate::config::PeerId;
use crate::policy::Policy;
use crate::prefix::Family;
use crate::snapshot::{ImportStatus, PathStatus, RouteStatus};

/// What the table does not know about a peer.
pub(crate) trait Names {
    /// The name of a peer, and its import policy for a family.
    fn name(&self, peer: PeerIndex) -> Option<&PeerId>;
    /// Its import policy.
    fn policy(&self, peer: PeerIndex, family: Family) -> Option<&Policy>;
}

impl Rib {
    /// All prefixes that have a path, in their order.
    pub(crate) fn routes(&self, names: &impl Names) -> Vec<RouteStatus> {
        let known = self.nets.iter().filter(|(_, net)| !net.paths.as_slice().is_empty());
        let sorted: BTreeMap<_, _> = known.map(|(_, net)| (net.prefix, net)).collect();
        sorted.into_values().map(|net| self.route(net, names)).collect()
    }

    fn route(&self, net: &Net, names: &impl Names) -> RouteStatus {
        let paths = net.paths.as_slice();
        let (places, candidates): (Vec<usize>, Vec<_>) = candidates(paths, &self.sources).unzip();
        let decision = decision::decide(&candidates, usize::from(net.selected).max(1), self.local.relax);
        let mut lost = BTreeMap::new();
        for (place, step) in places.iter().zip(&decision.lost) {
            lost.insert(*place, *step);
        }
        let mut shown: Vec<PathStatus> = paths
            .iter()
            .enumerate()
            .map(|(place, path)| {
                let mut status = path_status(path, net, names);
                status.selected = place < usize::from(net.selected);
                status.lost_at = lost.get(&place).copied().flatten();
                status
            })
            .collect();
        let best = (net.selected > 0).then(|| shown.first().and_then(|best| best.peer.clone()));
        shown.sort_by(|a, b| a.peer.cmp(&b.peer));
        RouteStatus {
            prefix: net.prefix,
            best: best.and_then(|best| shown.iter().position(|path| path.peer == best)),
            // The runner-up is the one that stayed in longest.
            step: decision.lost.iter().flatten().max().copied(),
            next_hops: self.hops.get(net.hops),
            paths: shown,
        }
    }
}

fn path_status(path: &Path, net: &Net, names: &impl Names) -> PathStatus {
    let attributes = &path.used().unwrap_or(&path.received).attributes;
    let local = path.peer == PeerIndex::LOCAL;
    let communities = attributes.communities.iter().map(ToString::to_string);
    let rule = || {
        let policy = names.policy(path.peer, net.prefix.family())?;
        policy.rule_name(path.rule).map(str::to_owned)
    };
    PathStatus {
        peer: names.name(path.peer).cloned(),
        next_hop: (!local).then(|| attributes.next_hop.address()),
        as_path: attributes.as_path.to_string(),
        local_pref: attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF),
        med: attributes.med,
        communities: communities
            .chain(attributes.large_communities.iter().map(ToString::to_string))
            .collect(),
        stale: path.stale,
        import: match path.import {
            Import::Accepted if local => ImportStatus::Local,
            Import::Accepted => ImportStatus::Accepted(rule()),
            Import::Rejected => ImportStatus::Rejected(rule()),
            Import::AsLoop => ImportStatus::AsLoop,
            Import::ReflectionLoop => ImportStatus::ReflectionLoop,
            Import::OwnNextHop => ImportStatus::OwnNextHop,
            Import::Leak => ImportStatus::Leak,
            Import::Blackhole => ImportStatus::Blackhole,
        },
        selected: false,
        lost_at: None,
    }
}
