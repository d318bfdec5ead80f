//! Routes that outlive their session or wait to be told again (RFC 4724, RFC 7313), and for long (RFC 9494): then they
//! are marked, least preferred, and told only to those who understand the mark.

use std::sync::Arc;

use super::Rib;
use super::path::{Path, PeerIndex, Shared};
use crate::prefix::Family;
use crate::wire::Community;

impl Rib {
    /// Keeps what a peer said until it says it again; what was kept once already goes (RFC 4724 §4.2), unless that is
    /// for long (RFC 9494 §4.2).
    pub(crate) fn retain(&mut self, peer: PeerIndex, family: Family) -> u32 {
        self.finish_flush_of(peer);
        let twice = self.of_peer(peer, family, |path| path.stale && !path.long_lived);
        self.remove_all(&twice, |path| path.peer == peer && path.stale && !path.long_lived);
        self.mark_stale(peer, family)
    }

    /// The time for a restart is over: what is stale still is marked with LLGR_STALE, or goes if it carries NO_LLGR
    /// (RFC 9494 §4.2). Returns how many paths are marked and how many went.
    pub(crate) fn keep_for_long(&mut self, peer: PeerIndex, family: Family) -> (u32, u32) {
        if self.counts(peer, family).stale == 0 {
            return (0, 0);
        }
        let fading = |path: &Path| path.peer == peer && path.stale && !path.long_lived;
        let refuses = |path: &Path| path.received().attributes.communities.contains(&Community::NO_LLGR);
        let nets = self.of_peer(peer, family, fading);
        let gone = self.remove_all(&nets, |path| fading(path) && refuses(path));
        let mut marked = 0;
        for id in nets {
            let Some(net) = self.nets.get(id) else { continue };
            let prefix = net.prefix;
            let paths: Vec<Path> = net.paths.as_slice().iter().filter(|path| fading(path)).cloned().collect();
            for mut path in paths {
                path.long_lived = true;
                path.set = self.marked(&path);
                self.store(prefix, path);
                marked += 1;
            }
        }
        (marked, gone)
    }

    /// Forgets what is marked; returns how many paths that were.
    pub(crate) fn flush_marked(&mut self, peer: PeerIndex, family: Family) -> u32 {
        if self.counts(peer, family).stale == 0 {
            return 0;
        }
        let marked = |path: &Path| path.peer == peer && path.long_lived;
        let nets = self.of_peer(peer, family, marked);
        self.remove_all(&nets, marked)
    }

    /// The attributes of a path with LLGR_STALE among its communities.
    pub(super) fn marked(&mut self, path: &Path) -> Shared {
        if path.set.attributes.communities.contains(&Community::LLGR_STALE) {
            return Arc::clone(&path.set);
        }
        let mut attributes = path.set.attributes.clone();
        attributes.communities.insert(Community::LLGR_STALE);
        self.interner.intern_from(attributes, Some(path.received()))
    }
}
