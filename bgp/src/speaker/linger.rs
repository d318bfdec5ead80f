//! Make before break: peers that are no longer declared stay while what replaces them is not there yet.
//!
//! A change of the topology reaches the nodes of a cluster one after the other. Whoever drops a peer at once loses its
//! routes, and takes its own from the peer, before the new peers have told theirs. So a peer lingers, session and
//! routes, until all new peers have been heard and, if it is internal, each of its routes has also come from somebody
//! who stays; at most for [`Local::linger`](crate::Local::linger).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Speaker;
use crate::config::{PeerConfig, PeerId};
use crate::event::Event;
use crate::peer::Peer;
use crate::policy::Source;
use crate::rib::PeerIndex;

/// The time between two looks at what lingers.
const PAUSE: Duration = Duration::from_millis(200);

/// When to look again at the peers that linger.
#[derive(Debug, Default)]
pub(super) struct Lingering {
    look: Option<Instant>,
}

impl Lingering {
    pub(super) fn next(&self) -> Option<Instant> {
        self.look
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.look.is_some_and(|look| look <= now)
    }
}

impl Speaker {
    /// These are declared no longer. They linger if something is to come in their place, else they go at once.
    pub(super) fn part_with(
        &mut self,
        gone: Vec<PeerId>,
        added: &BTreeMap<PeerId, PeerConfig>,
        now: Instant,
    ) -> Vec<PeerIndex> {
        let until = now + self.core.local.linger;
        let leaving: BTreeSet<PeerIndex> =
            gone.iter().filter_map(|name| self.names.get(name)).copied().collect();
        let awaiting = !added.is_empty() || self.awaits(&leaving, now);
        let reflected = self.peers.iter().any(|(index, peer)| {
            !leaving.contains(index) && peer.kind(&self.core) == Source::Internal && peer.is_up()
        });
        let mut touched = Vec::new();
        for name in &gone {
            let Some(index) = self.names.get(name).copied() else { continue };
            let Some(peer) = self.peers.get_mut(&index).filter(|peer| !peer.lingers()) else { continue };
            let replaced = added.values().any(|config| peer.is_same_host(config));
            let due = awaiting || reflected && peer.kind(&self.core) == Source::Internal;
            if until > now && due && !replaced && peer.is_useful() {
                peer.linger(until, &mut self.core, now);
                self.unheard.remove(&index);
                self.lingering.look = Some(now + PAUSE);
                touched.push(index);
            } else {
                self.remove_peer(name, now);
            }
        }
        touched
    }

    /// Whether a peer was declared not long ago and has not been heard yet.
    fn awaits(&self, leaving: &BTreeSet<PeerIndex>, now: Instant) -> bool {
        let recent = |peer: &Peer| now < peer.added_at() + self.core.local.linger;
        let mut staying = self.peers.iter().filter(|(index, _)| !leaving.contains(index));
        staying.any(|(_, peer)| !peer.lingers() && !peer.heard() && recent(peer))
    }

    /// Lets go of the peers that need not linger any more.
    pub(super) fn release(&mut self, now: Instant) -> Vec<PeerIndex> {
        let lingering: BTreeSet<PeerIndex> =
            self.peers.iter().filter(|(_, peer)| peer.lingers()).map(|(index, _)| *index).collect();
        let awaiting = self.awaits(&lingering, now);
        for index in &lingering {
            let Some(peer) = self.peers.get(index) else { continue };
            let wanted = peer.kind(&self.core) == Source::Internal
                && self.core.rib.alone(*index, &lingering, !peer.is_up());
            if peer.is_useful() && !peer.lingered_out(now) && (awaiting || wanted) {
                continue;
            }
            let name = peer.id().clone();
            self.part_gently(&name, now);
            self.core.tell(Event::PeerVanished { peer: name });
        }
        let some_left = self.peers.values().any(Peer::lingers);
        self.lingering.look = some_left.then(|| now + PAUSE);
        lingering.into_iter().collect()
    }

    /// Removes a peer so that the other side loses nothing by it.
    fn part_gently(&mut self, name: &PeerId, now: Instant) {
        if let Some(index) = self.names.get(name)
            && let Some(peer) = self.peers.get_mut(index)
        {
            peer.part(&mut self.core, now);
        }
        self.remove_peer(name, now);
    }
}
