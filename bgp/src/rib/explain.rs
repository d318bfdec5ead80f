//! The table as status: every path with what became of it and why.

use std::collections::BTreeMap;

use super::adj_out::AdjOut;
use super::decision::{self, DEFAULT_LOCAL_PREF};
use super::export::{Choice, Withheld};
use super::nets::{Net, NetId};
use super::path::{Import, Path, PeerIndex};
use super::{Rib, candidates};
use crate::config::PeerId;
use crate::explanation::{Explanation, PathExplanation, Told, ToldStatus, Untold, communities};
use crate::policy::{Amendment, Policy};
use crate::prefix::{Family, Prefix};
use crate::snapshot::{ImportStatus, PathStatus, RouteStatus};

/// How many judgements of a prefix for a peer are made in one step.
const STEP: usize = 2048;
/// How many prefixes are looked at in one step.
const LOOKED_AT: u32 = 65536;

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

    /// Whether anybody, or this speaker itself, said something about a prefix.
    pub(crate) fn has_path(&self, prefix: &Prefix) -> bool {
        let found = self.nets.find(prefix).and_then(|id| self.nets.get(id));
        found.is_some_and(|net| !net.paths.as_slice().is_empty())
    }

    /// Prefixes with a path that lie in `within`, numbered from `from` on, fewer at once the more peers each of them is
    /// explained for; and the number from which to go on, unless that were all.
    pub(crate) fn known(
        &self,
        from: u32,
        within: Option<&Prefix>,
        peers: usize,
    ) -> (Vec<Prefix>, Option<u32>) {
        let most = STEP / (peers + 1) + 1;
        let (mut found, mut place) = (Vec::new(), from);
        let end = self.nets.end();
        let looked_at = end.min(from.saturating_add(LOOKED_AT));
        while place < looked_at && found.len() < most {
            let net = self.nets.get(NetId(place)).filter(|net| !net.paths.as_slice().is_empty());
            found
                .extend(net.map(|net| net.prefix).filter(|prefix| within.is_none_or(|w| w.contains(prefix))));
            place += 1;
        }
        (found, (place < end).then_some(place))
    }

    fn route(&self, net: &Net, names: &impl Names) -> RouteStatus {
        self.ordered(net, names).0
    }

    /// The status of a prefix, and its paths in the same order.
    fn ordered<'a>(&self, net: &'a Net, names: &impl Names) -> (RouteStatus, Vec<&'a Path>) {
        let paths = net.paths.as_slice();
        let (places, candidates): (Vec<usize>, Vec<_>) = candidates(paths, &self.sources).unzip();
        let decision = decision::decide(&candidates, usize::from(net.selected).max(1), self.local.relax);
        let mut lost = BTreeMap::new();
        for (place, step) in places.iter().zip(&decision.lost) {
            lost.insert(*place, *step);
        }
        let mut shown: Vec<(PathStatus, &Path)> = paths
            .iter()
            .enumerate()
            .map(|(place, path)| {
                let mut status = path_status(path, net, names);
                status.selected = place < usize::from(net.selected);
                status.lost_at = lost.get(&place).copied().flatten();
                (status, path)
            })
            .collect();
        let best = net.best().map(std::ptr::from_ref);
        shown.sort_by(|(a, _), (b, _)| a.peer.cmp(&b.peer));
        let best = shown.iter().position(|(_, path)| best == Some(std::ptr::from_ref(*path)));
        let (paths, order) = shown.into_iter().unzip();
        let route = RouteStatus {
            prefix: net.prefix,
            best,
            // The runner-up is the one that stayed in longest.
            step: decision.lost.iter().flatten().max().copied(),
            next_hops: self.hops.gateways(net.hops),
            paths,
        };
        (route, order)
    }

    /// All about one prefix. `peers` are those to whom it may be told, with whether their session is up.
    pub(crate) fn explain<'a>(
        &self,
        prefix: &Prefix,
        names: &impl Names,
        peers: impl Iterator<Item = (&'a PeerId, PeerIndex, bool)>,
    ) -> Explanation {
        let found = self.nets.find(prefix).and_then(|id| Some((id, self.nets.get(id)?)));
        let (route, order) = match found {
            Some((_, net)) => self.ordered(net, names),
            None => (RouteStatus::unknown(*prefix), Vec::new()),
        };
        let told = peers.flat_map(|(name, index, up)| {
            let statuses = match self.outs.get(prefix.family(), index) {
                Some(out) => self.told(out, found, &order),
                None if up => vec![(None, ToldStatus::Untold(Untold::NotNegotiated))],
                None => vec![(None, ToldStatus::Untold(Untold::Down))],
            };
            statuses.into_iter().map(|(path, status)| Told { peer: name.clone(), path, status })
        });
        Explanation {
            prefix: *prefix,
            best: route.best,
            step: route.step,
            told: told.collect(),
            next_hops: route.next_hops,
            paths: route
                .paths
                .into_iter()
                .zip(&order)
                .map(|(status, path)| PathExplanation {
                    amended: self.amended(path, prefix.family(), names),
                    status,
                    received: path.received().attributes.clone(),
                    used: path.used().map(|used| used.attributes.clone()),
                })
                .collect(),
        }
    }

    fn amended(&self, path: &Path, family: Family, names: &impl Names) -> Vec<String> {
        let policy = names.policy(path.peer, family).filter(|_| path.used().is_some());
        let (Some(policy), Some(facts)) = (policy, self.sources.facts(path.peer)) else { return Vec::new() };
        names_of(policy.amendments(facts.kind, &path.received().attributes))
    }

    /// What a peer is told about a prefix: the best path, or each that it may be told. Places are those in `order`.
    fn told(
        &self,
        out: &AdjOut,
        found: Option<(NetId, &Net)>,
        order: &[&Path],
    ) -> Vec<(Option<usize>, ToldStatus)> {
        let no_path = || vec![(None, ToldStatus::Untold(Untold::NoPath))];
        let Some((id, net)) = found else { return no_path() };
        let Some(best) = net.best() else { return no_path() };
        let place = |wanted: &Path| order.iter().position(|path| std::ptr::eq(*path, wanted));
        let Some(chosen) = out.several_best(net, &self.sources) else {
            let choice = out.export.judge(best, &net.prefix, &self.sources);
            return vec![(place(best), self.said(out, id, net, choice))];
        };
        let used = order.iter().filter(|path| path.used().is_some());
        used.map(|path| {
            let choice = out.export.judge(path, &net.prefix, &self.sources);
            let beyond = |choice: &Choice| !chosen.iter().any(|told| told.origin() == choice.origin());
            let status = match choice {
                Ok(choice) if beyond(&choice) => ToldStatus::Untold(Untold::Limit(out.export.most_paths)),
                choice => self.said(out, id, net, choice),
            };
            (place(path), status)
        })
        .collect()
    }

    fn said(&self, out: &AdjOut, id: NetId, net: &Net, choice: Result<Choice, Withheld>) -> ToldStatus {
        let policy = &out.export.policy;
        let choice = match choice {
            Ok(choice) => choice,
            Err(reason) => return ToldStatus::Untold(untold(reason, policy)),
        };
        let attributes = out.export.attributes(&choice, &self.sources, &self.local);
        if let Some(reason) = out.unsayable(&attributes, net.prefix) {
            return ToldStatus::Untold(Untold::Unsayable(reason));
        }
        ToldStatus::Told {
            rule: policy.rule_name(choice.rule).map(str::to_owned),
            amended: names_of(policy.amendments(out.export.facts.kind, &choice.attributes.attributes)),
            attributes: Box::new(attributes),
            sent: out.has_sent(id),
        }
    }
}

fn names_of<'a>(amendments: impl Iterator<Item = &'a Amendment>) -> Vec<String> {
    amendments.map(|amendment| amendment.name.clone()).collect()
}

fn untold(reason: Withheld, policy: &Policy) -> Untold {
    match reason {
        Withheld::Unused => Untold::NoPath,
        Withheld::SplitHorizon => Untold::SplitHorizon,
        Withheld::NotReflected => Untold::NotReflected,
        Withheld::Community(community) => Untold::Community(community),
        Withheld::OnlyToCustomer => Untold::OnlyToCustomer,
        Withheld::Rule(rule) => Untold::Rejected(policy.rule_name(rule).map(str::to_owned)),
    }
}

fn path_status(path: &Path, net: &Net, names: &impl Names) -> PathStatus {
    let attributes = &path.set.attributes;
    let local = path.peer == PeerIndex::LOCAL;
    let rule = || {
        let policy = names.policy(path.peer, net.prefix.family())?;
        policy.rule_name(path.rule).map(str::to_owned)
    };
    PathStatus {
        peer: names.name(path.peer).cloned(),
        path_id: path.id.0,
        next_hop: (!local).then(|| attributes.next_hop.address()),
        as_path: attributes.as_path.to_string(),
        local_pref: attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF),
        med: attributes.med,
        communities: communities(attributes),
        stale: path.stale,
        import: match path.import {
            Import::Accepted if local => ImportStatus::Local,
            Import::Accepted => ImportStatus::Accepted(rule()),
            Import::Discarded => ImportStatus::Discarded(rule()),
            Import::Rejected => ImportStatus::Rejected(rule()),
            Import::AsLoop => ImportStatus::AsLoop,
            Import::ReflectionLoop => ImportStatus::ReflectionLoop,
            Import::OwnNextHop => ImportStatus::OwnNextHop,
            Import::Leak => ImportStatus::Leak,
            Import::Blackhole => ImportStatus::Blackhole,
            Import::NextHopOffLink => ImportStatus::NextHopOffLink,
        },
        selected: false,
        lost_at: None,
    }
}
