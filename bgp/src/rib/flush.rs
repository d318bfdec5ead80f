//! The end of a peer's paths: traffic first, the table afterwards.
//!
//! However many prefixes there are, sets of next hops that rest on the peer get other gateways at once. The paths
//! themselves are taken out some at a time, between other peers' messages. Until then they count for nothing: whatever
//! decides about a prefix takes them out first, and nobody is told anything.

use super::nets::NetId;
use super::path::PeerIndex;
use super::{Counts, Rib};
use crate::prefix::Family;

/// How many paths are taken out, and their prefixes decided, in one go: about a millisecond.
pub(super) const SLICE: usize = 4096;
/// How many prefixes are looked at for each path that may be taken out.
const LOOKS: usize = 16;

/// Paths of a peer that are gone and still in their places.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone {
    peer: PeerIndex,
    family: Family,
    /// The prefixes still to be looked at.
    next: u32,
    end: u32,
}

impl Rib {
    /// Forgets all that a peer said; returns how many paths that were. [`Rib::unfinished`] says whether work is left
    /// for the following calls of [`Rib::decide`].
    pub(crate) fn flush(&mut self, peer: PeerIndex, family: Family) -> u32 {
        let count = self.counts(peer, family).received;
        if count == 0 {
            return 0;
        }
        // What prefixes fall back on must be true before more of it is lost.
        self.finish_flushes();
        self.hops.fail(peer, family);
        if let Some(counts) = self.sources.counts.get_mut(peer.0 as usize) {
            counts.insert(family, Counts::default());
        }
        self.gone.push_back(Gone { peer, family, next: 0, end: self.nets.end() });
        count
    }

    /// Whether paths that are gone are still in their places.
    pub(crate) fn unfinished(&self) -> bool {
        !self.gone.is_empty()
    }

    /// Takes at most so many paths out that are gone, and marks their prefixes.
    pub(super) fn flush_some(&mut self, paths: usize) {
        let mut looks = paths.saturating_mul(LOOKS);
        let mut left = paths;
        while let Some(gone) = self.gone.front_mut() {
            if looks == 0 || left == 0 {
                return;
            }
            if gone.next >= gone.end {
                self.gone.pop_front();
                if self.gone.is_empty() {
                    self.woken.extend(self.outs.peers());
                }
                continue;
            }
            let (id, peer, family) = (NetId(gone.next), gone.peer, gone.family);
            gone.next += 1;
            looks -= 1;
            let holds = |net: &super::Net| {
                net.prefix.family() == family && net.paths.as_slice().iter().any(|path| path.peer == peer)
            };
            if self.nets.get(id).is_some_and(holds) {
                let count = self.remove_all(&[id], |path| path.peer == peer);
                left = left.saturating_sub(count as usize);
            }
        }
    }

    /// Takes the paths of one prefix out that are gone.
    pub(super) fn flush_one(&mut self, id: NetId) {
        for at in 0..self.gone.len() {
            let Some(gone) = self.gone.get(at).copied() else { continue };
            let here = self.nets.get(id).is_some_and(|net| net.prefix.family() == gone.family);
            if here && (gone.next..gone.end).contains(&id.0) {
                while self.take_out(id, |path| path.peer == gone.peer) {}
            }
        }
    }

    /// Takes out everything of a peer that is gone: it begins anew.
    pub(super) fn finish_flush_of(&mut self, peer: PeerIndex) {
        if self.gone.iter().any(|gone| gone.peer == peer) {
            self.finish_flushes();
        }
    }

    /// Takes out everything that is gone, and decides.
    pub(super) fn finish_flushes(&mut self) {
        while self.unfinished() {
            self.flush_some(SLICE);
            self.decide_marked();
        }
    }
}
