//! What a speaker can be asked: its peers, its table, and why a prefix is where it is.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Speaker;
use crate::config::PeerId;
use crate::explanation::Explanation;
use crate::monitor::mrt::{self, DumpedPeer};
use crate::peer::Peer;
use crate::policy::Policy;
use crate::prefix::{Family, Prefix};
use crate::rib::{Names, PeerIndex};
use crate::snapshot::{PeerStatus, Snapshot};

impl Speaker {
    /// The peers at this moment, in the order of their names: what status needs often, without the table.
    pub fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        let peers = self.names.values().filter_map(|index| self.peers.get(index));
        peers.map(|peer| peer.status(&self.core, now)).collect()
    }

    /// Everything at this moment, for status and "explain". Its size is that of the table.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        Snapshot {
            peers: self.peers(now),
            routes: self.core.rib.routes(&self.peers),
            settled: self.settled(),
        }
    }

    /// Why a prefix is where it is: every path with what became of it, and what every peer is told and why. It costs
    /// as much as the peers and the paths of the one prefix, whatever the size of the table.
    pub fn explain(&self, prefix: &Prefix) -> Explanation {
        let peers = self.names.iter();
        let peers = peers.filter_map(|(name, index)| Some((name, *index, self.peers.get(index)?.is_up())));
        self.core.rib.explain(prefix, &self.peers, peers)
    }

    /// The longest prefix with a path that is this one or holds it.
    pub fn covering(&self, prefix: &Prefix) -> Option<Prefix> {
        let wider = (0..=prefix.len()).rev().filter_map(|len| Prefix::masked(prefix.address(), len));
        wider.into_iter().find(|prefix| self.core.rib.has_path(prefix))
    }

    /// The explanations of a part of the table: of the prefixes numbered from `from` on that `within` holds, of a bounded
    /// number; and the number from which to go on, unless that were all. They say what the peers in `told` are told.
    pub fn part(
        &self,
        from: u32,
        within: Option<&Prefix>,
        told: impl Fn(&PeerId) -> bool,
    ) -> (Vec<Explanation>, Option<u32>) {
        let peers: Vec<_> = self.names.iter().filter(|(name, _)| told(name)).collect();
        let (prefixes, next) = self.core.rib.known(from, within, peers.len());
        let explain = |prefix: &Prefix| {
            let peers = peers.iter();
            let peers =
                peers.filter_map(|(name, index)| Some((*name, **index, self.peers.get(index)?.is_up())));
            self.core.rib.explain(prefix, &self.peers, peers)
        };
        (prefixes.iter().map(explain).collect(), next)
    }

    /// The table as an MRT file (RFC 6396): every path of every peer as received. `unix` is the time of day in seconds
    /// since 1970; the result has the size of the table on the wire.
    pub fn mrt(&self, unix: u32) -> Vec<u8> {
        let collector = DumpedPeer {
            router_id: self.core.local.router_id.get(),
            address: self.core.local.router_id.get().into(),
            asn: self.core.local.asn,
        };
        let mut index = vec![collector];
        let mut places = BTreeMap::from([(PeerIndex::LOCAL, 0)]);
        for (place, peer) in
            self.peers.iter().filter_map(|(place, peer)| Some((*place, peer.dumped(&self.core)?)))
        {
            places.insert(place, u16::try_from(index.len()).unwrap_or(u16::MAX));
            index.push(peer);
        }
        let mut file = Vec::new();
        mrt::peers(unix, collector.router_id, &index, &mut file);
        self.core.rib.dump(unix, &places, &mut file);
        file
    }
}

impl Names for BTreeMap<PeerIndex, Peer> {
    fn name(&self, peer: PeerIndex) -> Option<&PeerId> {
        self.get(&peer).map(Peer::id)
    }

    fn policy(&self, peer: PeerIndex, family: Family) -> Option<&Policy> {
        self.get(&peer)?.config().families.get(&family).map(|config| &config.import)
    }
}
