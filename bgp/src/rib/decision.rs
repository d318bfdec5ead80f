//! Which path is best, and why (RFC 4271 §9.1.2.2, RFC 4456 §9).
//!
//! Paths are eliminated step by step, as the RFC has it, and not by comparing pairs: MED counts only among paths from
//! the same AS, so "better than" is no order and the winner of pairwise duels would depend on who meets whom first.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::prefix::{Asn, RouterId};
use crate::wire::{Attributes, Community};

/// LOCAL_PREF of a path that carries none.
pub(crate) const DEFAULT_LOCAL_PREF: u32 = 100;

/// The step of the decision process that preferred one path to another, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Our own routes come first.
    Local,
    /// Routes that are stale for long come last (RFC 9494 §4.2).
    LongLivedStale,
    /// Highest LOCAL_PREF (RFC 4271 §9.1.1).
    LocalPref,
    /// Shortest AS_PATH.
    AsPathLength,
    /// Lowest ORIGIN.
    Origin,
    /// Lowest MULTI_EXIT_DISC among routes from the same AS.
    Med,
    /// External before internal.
    External,
    /// Lowest BGP identifier, ORIGINATOR_ID in its place (RFC 4456 §9).
    RouterId,
    /// Shortest CLUSTER_LIST (RFC 4456 §9).
    ClusterList,
    /// Lowest address of the peer.
    PeerAddress,
}

impl Step {
    /// All steps, first to last.
    pub const ALL: [Self; 10] = [
        Self::Local,
        Self::LongLivedStale,
        Self::LocalPref,
        Self::AsPathLength,
        Self::Origin,
        Self::Med,
        Self::External,
        Self::RouterId,
        Self::ClusterList,
        Self::PeerAddress,
    ];

    /// Paths that differ only from here on carry traffic together.
    const FIRST_TIE_BREAK: Self = Self::RouterId;
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "own route",
            Self::LongLivedStale => "not long stale",
            Self::LocalPref => "local preference",
            Self::AsPathLength => "AS path length",
            Self::Origin => "origin",
            Self::Med => "MED",
            Self::External => "external over internal",
            Self::RouterId => "router id",
            Self::ClusterList => "cluster list length",
            Self::PeerAddress => "peer address",
        })
    }
}

/// Who a path comes from, as far as the decision cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// Ourselves.
    Local,
    /// A peer.
    Peer { external: bool, router_id: RouterId, address: IpAddr },
}

/// A path that takes part in the decision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    /// Its attributes after import policy.
    pub(crate) attributes: &'a Attributes,
    /// Who it comes from.
    pub(crate) from: From,
}

impl Candidate<'_> {
    /// What counts at a step; the lesser wins.
    fn rank(&self, step: Step) -> u128 {
        let attributes = self.attributes;
        match step {
            Step::Local => u128::from(self.from != From::Local),
            Step::LongLivedStale => u128::from(attributes.communities.contains(&Community::LLGR_STALE)),
            Step::LocalPref => u128::from(u32::MAX - attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)),
            Step::AsPathLength => attributes.as_path.hops() as u128,
            Step::Origin => attributes.origin as u128,
            Step::Med => u128::from(attributes.med.unwrap_or(0)),
            Step::External => u128::from(!self.external()),
            Step::RouterId => u128::from(self.identifier()),
            Step::ClusterList => attributes.cluster_list.len() as u128,
            Step::PeerAddress => match self.from {
                From::Local => 0,
                From::Peer { address: IpAddr::V4(address), .. } => address.to_bits().into(),
                From::Peer { address: IpAddr::V6(address), .. } => address.to_bits(),
            },
        }
    }

    fn external(&self) -> bool {
        matches!(self.from, From::Peer { external: true, .. })
    }

    fn identifier(&self) -> u32 {
        match (self.attributes.originator_id, self.from) {
            (Some(originator), _) => originator.to_bits(),
            (None, From::Peer { router_id, .. }) => router_id.get().to_bits(),
            (None, From::Local) => 0,
        }
    }

    /// The AS that MED speaks for; paths without one came from inside and share it (RFC 4271 §9.1.2.2 c).
    fn neighbour_as(&self) -> Option<Asn> {
        self.attributes.as_path.first()
    }
}

/// What the decision process made of the candidates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// The places of the paths that carry traffic, the best one first.
    pub(crate) selected: Vec<usize>,
    /// For each candidate the step at which it fell out; `None` for the best.
    pub(crate) lost: Vec<Option<Step>>,
}

/// Runs the decision process over all candidates, keeping at most `width` equal ones: those with the same AS_PATH as the
/// best, or with `relax` any as long.
pub(crate) fn decide(candidates: &[Candidate<'_>], width: usize, relax: bool) -> Decision {
    let mut lost = vec![None; candidates.len()];
    let mut alive: Vec<(usize, &Candidate<'_>)> = candidates.iter().enumerate().collect();
    let mut equal = alive.clone();
    for step in Step::ALL {
        if step == Step::FIRST_TIE_BREAK {
            equal.clone_from(&alive);
        }
        if alive.len() > 1 {
            eliminate(&mut alive, step, &mut lost);
        }
    }
    let Some(&(best, winner)) = alive.first() else { return Decision { selected: Vec::new(), lost } };
    let same_path = |other: &Candidate<'_>| relax || other.attributes.as_path == winner.attributes.as_path;
    let others =
        equal.iter().filter(|(place, path)| *place != best && same_path(path)).map(|(place, _)| *place);
    let selected = std::iter::once(best).chain(others.take(width.saturating_sub(1))).collect();
    Decision { selected, lost }
}

/// Takes out whoever is beaten at this step by another one alive.
fn eliminate(alive: &mut Vec<(usize, &Candidate<'_>)>, step: Step, lost: &mut [Option<Step>]) {
    let rivalry = |path: &Candidate<'_>| if step == Step::Med { path.neighbour_as() } else { None };
    let mut least = BTreeMap::new();
    for (_, path) in alive.iter() {
        let rank = path.rank(step);
        least.entry(rivalry(path)).and_modify(|known: &mut u128| *known = rank.min(*known)).or_insert(rank);
    }
    alive.retain(|(place, path)| {
        let beaten = least.get(&rivalry(path)).is_some_and(|least| *least < path.rank(step));
        if let (true, Some(reason)) = (beaten, lost.get_mut(*place)) {
            *reason = Some(step);
        }
        !beaten
    });
}
