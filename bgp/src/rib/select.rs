//! From the paths of a prefix to those that carry traffic, and those that would do so next.

use super::decision::{self, Candidate, From};
use super::nets::Net;
use super::path::{Path, PeerIndex};
use super::{PathId, Sources};
use crate::config::Local;
use crate::policy::Source;

/// Puts the paths that carry traffic first, the best one leading, and behind them those that would do so next.
pub(super) fn select(net: &mut Net, sources: &Sources, local: &Local) {
    net.spare = 0;
    if let [only] = net.paths.as_slice() {
        net.selected = u8::from(only.used().is_some());
        return;
    }
    let paths = net.paths.as_mut_slice();
    paths.sort_by_key(Path::key);
    let (places, mut candidates): (Vec<usize>, Vec<Candidate<'_>>) = candidates(paths, sources).unzip();
    let width = local.multipath.clamp(1, usize::from(u8::MAX));
    let key_at = |places: &[usize], at: &usize| paths.get(*places.get(*at)?).map(Path::key);
    let decision = decision::decide(&candidates, width, local.relax);
    let mut chosen: Vec<(PeerIndex, PathId)> =
        decision.selected.iter().filter_map(|at| key_at(&places, at)).collect();
    net.selected = chosen.len() as u8;
    if candidates.len() > chosen.len() {
        let lost = |path: &Path| chosen.iter().any(|(peer, _)| *peer == path.peer);
        let (places, candidates): (Vec<usize>, Vec<Candidate<'_>>) = places
            .iter()
            .zip(candidates.drain(..))
            .filter(|(place, _)| paths.get(**place).is_some_and(|path| !lost(path)))
            .map(|(place, candidate)| (*place, candidate))
            .unzip();
        let spare = decision::decide(&candidates, width, local.relax).selected;
        net.spare = spare.len() as u8;
        chosen.extend(spare.iter().filter_map(|at| key_at(&places, at)));
    }
    paths.sort_by_key(|path| {
        (chosen.iter().position(|key| *key == path.key()).unwrap_or(usize::MAX), path.key())
    });
}

/// The paths that take part in the decision, with their places.
pub(super) fn candidates<'a>(
    paths: &'a [Path],
    sources: &'a Sources,
) -> impl Iterator<Item = (usize, Candidate<'a>)> + 'a {
    paths.iter().enumerate().filter_map(|(place, path)| {
        let from = sources.facts(path.peer).map_or(From::Local, |facts| From::Peer {
            external: facts.kind == Source::External,
            router_id: facts.router_id,
            address: facts.address,
        });
        Some((place, Candidate { attributes: &path.used()?.attributes, from }))
    })
}
