//! Who has to be woken when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::rib::PeerIndex;

/// The earliest deadline of each peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Agenda {
    due: BTreeSet<(Instant, PeerIndex)>,
    by_peer: BTreeMap<PeerIndex, Instant>,
}

impl Agenda {
    /// Sets or clears a peer's deadline.
    pub(crate) fn set(&mut self, peer: PeerIndex, due: Option<Instant>) {
        let before = match due {
            Some(due) => self.by_peer.insert(peer, due),
            None => self.by_peer.remove(&peer),
        };
        if before == due {
            return;
        }
        if let Some(before) = before {
            self.due.remove(&(before, peer));
        }
        self.due.extend(due.map(|due| (due, peer)));
    }

    /// The earliest deadline of all.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes off the agenda all peers whose time has come; whoever handles them sets them again.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<PeerIndex> {
        let mut peers = Vec::new();
        while let Some((due, peer)) = self.due.first().copied()
            && due <= now
        {
            self.due.pop_first();
            self.by_peer.remove(&peer);
            peers.push(peer);
        }
        peers
    }
}
