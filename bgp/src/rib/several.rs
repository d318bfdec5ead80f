//! What a peer that takes several paths per prefix knows (RFC 7911): which paths, and by which identifiers.
//!
//! An identifier belongs to a path of a source for as long as the peer knows that path: it does not change when the
//! path's attributes or its rank do. The least free one is given, so that a path which takes the place of another one
//! replaces it without a withdrawal.

use std::collections::BTreeMap;

use super::decision::{self, Candidate};
use super::export::{Choice, Export};
use super::nets::{Net, NetId};
use super::path::{Path, PeerIndex};
use super::{Sources, candidates};
use crate::policy::RuleIndex;
use crate::wire::PathId;

/// The paths that a peer knows, or is about to.
#[derive(Debug, Default)]
pub(crate) struct Several {
    told: BTreeMap<NetId, Vec<Told>>,
}

/// A path that the peer knows.
#[derive(Clone, Debug)]
struct Told {
    id: PathId,
    /// Whose path it is and which; `None` if nothing stands behind it any more.
    source: Option<(PeerIndex, PathId)>,
    /// With which attributes it was told; `None`: it must be told again.
    said: Option<(u64, PeerIndex, RuleIndex)>,
}

/// What is to be said about one prefix.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) withdrawn: Vec<PathId>,
    pub(super) announced: Vec<(PathId, Choice)>,
    /// The peer knows some path of the prefix then.
    pub(super) known: bool,
}

impl Several {
    /// How many paths the peer knows.
    pub(super) fn len(&self) -> u32 {
        self.told.values().map(Vec::len).sum::<usize>() as u32
    }

    /// Works out what to say about a prefix, and counts it as said.
    pub(super) fn update(
        &mut self,
        id: NetId,
        net: Option<&Net>,
        export: &Export,
        sources: &Sources,
    ) -> News {
        let chosen = net.map(|net| best(net, export, sources)).unwrap_or_default();
        let mut old = self.told.remove(&id).unwrap_or_default();
        let mut new: Vec<Told> = Vec::with_capacity(chosen.len());
        let mut news = News { known: !chosen.is_empty(), ..News::default() };
        let mut strangers = Vec::new();
        for choice in chosen {
            let Some(at) = old.iter().position(|told| told.source == Some(choice.origin())) else {
                strangers.push(choice);
                continue;
            };
            let mut told = old.swap_remove(at);
            if told.said.replace(choice.key()) != Some(choice.key()) {
                news.announced.push((told.id, choice));
            }
            new.push(told);
        }
        let mut free = (1..).map(PathId);
        for choice in strangers {
            let taken = |id: &PathId| new.iter().any(|told| told.id == *id);
            let Some(id) = free.find(|id| !taken(id)) else { continue };
            new.push(Told { id, source: Some(choice.origin()), said: Some(choice.key()) });
            news.announced.push((id, choice));
        }
        let lost = old.iter().map(|told| told.id).filter(|id| !new.iter().any(|told| told.id == *id));
        news.withdrawn = lost.collect();
        if !new.is_empty() {
            self.told.insert(id, new);
        }
        news
    }

    /// Everything is to be told again.
    pub(super) fn forget_what_was_said(&mut self) {
        self.told.values_mut().flatten().for_each(|told| told.said = None);
    }

    /// A path was not told after all, or not withdrawn: the peer may know it with whatever attributes.
    pub(super) fn doubt(&mut self, net: NetId, id: PathId) {
        let paths = self.told.entry(net).or_default();
        match paths.iter_mut().find(|told| told.id == id) {
            Some(told) => told.said = None,
            None => paths.push(Told { id, source: None, said: None }),
        }
    }

    /// The peer does not know the path; says whether it still knows another one of the prefix.
    pub(super) fn forget(&mut self, net: NetId, id: PathId) -> bool {
        let Some(paths) = self.told.get_mut(&net) else { return false };
        paths.retain(|told| told.id != id);
        let known = !paths.is_empty();
        if !known {
            self.told.remove(&net);
        }
        known
    }
}

/// The paths that may be told, the best one first, at most as many as the peer is told.
///
/// The second best is what would win without the best, and so on: MED makes it more than a sorting.
pub(super) fn best(net: &Net, export: &Export, sources: &Sources) -> Vec<Choice> {
    let most = usize::from(export.most_paths);
    let may = |path: &Path| export.judge(path, &net.prefix, sources).ok();
    if let [only] = net.paths.as_slice() {
        return may(only).into_iter().take(most).collect();
    }
    let paths = net.paths.as_slice();
    let contender = |(place, candidate)| Some((candidate, may(paths.get(place)?)?));
    let (mut left, mut choices): (Vec<Candidate<'_>>, Vec<Choice>) =
        candidates(paths, sources).filter_map(contender).unzip();
    let mut best = Vec::new();
    while best.len() < most
        && let Some(place) = decision::decide(&left, 1, false).selected.first().copied()
    {
        left.remove(place);
        best.push(choices.remove(place));
    }
    best
}
