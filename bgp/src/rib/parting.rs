//! What the table does for peers that go without loss, that are told or tell everything again, and for reflection that
//! begins or ends within a session.

use std::collections::BTreeSet;

use super::{Facts, Net, PeerIndex, Rib};
use crate::policy::Source;
use crate::prefix::Family;

impl Rib {
    /// Everything that a peer said must be said again, or goes with the next [`flush_stale`](Self::flush_stale).
    pub(crate) fn mark_stale(&mut self, peer: PeerIndex, family: Family) -> u32 {
        let nets = self.of_peer(peer, family, |_| true);
        let mut count = 0;
        for id in &nets {
            let paths = self.nets.get_mut(*id).map(|net| net.paths.as_mut_slice()).unwrap_or_default();
            for path in paths.iter_mut().filter(|path| path.peer == peer) {
                path.stale = true;
                count += 1;
            }
        }
        if let Some(counts) = self.sources.counts.get_mut(peer.0 as usize) {
            counts.entry(family).or_default().stale = count;
        }
        count
    }

    /// Tells a peer all routes again because it asked for that, between a begin and an end if it knows those
    /// (RFC 7313 §4). While the first exchange goes on its End-of-RIB is the end of this as well.
    pub(crate) fn refresh(&mut self, peer: PeerIndex, family: Family, enhanced: bool) {
        self.tell_again(peer, family);
        if let Some(out) = self.outs.get_mut(family, peer).filter(|_| enhanced) {
            out.begin_refresh();
        }
    }

    /// Whether a peer has a route that nobody else has but those in `leaving`. With `shed`, routes that were kept and
    /// are known from others go now, so that they never stand against a newer one.
    pub(crate) fn alone(&mut self, peer: PeerIndex, leaving: &BTreeSet<PeerIndex>, shed: bool) -> bool {
        // A path that is gone, and only still in its place, is no other way.
        self.finish_flushes();
        let mut alone = false;
        for family in Family::ALL {
            let of_it = self.of_peer(peer, family, |path| path.used().is_some());
            let (known, only): (Vec<_>, Vec<_>) = of_it
                .into_iter()
                .partition(|id| self.nets.get(*id).is_some_and(|net| is_known_beyond(net, leaving)));
            alone |= !only.is_empty();
            if shed {
                self.remove_all(&known, |path| path.peer == peer);
            }
        }
        alone
    }

    /// A peer becomes a client of ours as a reflector, or ceases to be one (RFC 4456): what it says spreads, and what it
    /// is told grows, or the other way round.
    pub(crate) fn set_client(&mut self, peer: PeerIndex, facts: Facts) {
        self.set_facts(peer, facts);
        for family in Family::ALL {
            if let Some(mut out) = self.outs.take(family, peer) {
                out.export.facts = facts;
                self.outs.insert(out);
                self.tell_again(peer, family);
            }
            let said = self.of_peer(peer, family, |_| true);
            for (listener, out) in self.outs.range_mut(family, true) {
                if listener == peer || out.export.facts.kind != Source::Internal {
                    continue;
                }
                for id in &said {
                    if out.knows(*id) || out.export.may_pass(peer, Some(&facts)) {
                        out.mark(*id);
                        self.woken.insert(listener);
                    }
                }
            }
        }
    }
}

/// Whether somebody has the route who is not leaving.
fn is_known_beyond(net: &Net, leaving: &BTreeSet<PeerIndex>) -> bool {
    net.paths.as_slice().iter().any(|path| path.used().is_some() && !leaving.contains(&path.peer))
}
