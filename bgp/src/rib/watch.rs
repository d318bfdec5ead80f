//! The table for those who watch: what one peer said, as it would write it, and everything as a dump.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Rib;
use super::nets::NetId;
use super::path::{PeerIndex, Shared};
use crate::monitor::mrt::{self, Entry};
use crate::wire::{self, Dialect, EncodedAttributes, Nlri};

/// How many prefixes are looked at in one step.
const STEP: u32 = 4096;

impl Rib {
    /// UPDATEs with what a peer announced, before policy, of the prefixes from number `from` on; and the number from
    /// which to go on, unless that were all.
    pub(crate) fn told_by(
        &self,
        peer: PeerIndex,
        from: u32,
        dialect: &Dialect,
    ) -> (Vec<Vec<u8>>, Option<u32>) {
        let end = self.nets.end().min(from.saturating_add(STEP));
        let mut told: BTreeMap<u64, (Shared, Vec<Nlri>)> = BTreeMap::new();
        for net in (from..end).filter_map(|place| self.nets.get(NetId(place))) {
            for path in net.paths.as_slice().iter().filter(|path| path.peer == peer && !path.stale) {
                let set = path.received();
                let nlri = Nlri { prefix: net.prefix, path: path.id };
                let entry = told.entry(set.serial).or_insert_with(|| (Arc::clone(set), Vec::new()));
                entry.1.push(nlri);
            }
        }
        let mut updates = Vec::new();
        for (set, mut prefixes) in told.into_values() {
            prefixes.sort_by_key(|nlri| nlri.family());
            let attributes = EncodedAttributes::new(&set.attributes, dialect);
            let mut prefixes = prefixes.into_iter().peekable();
            while prefixes.peek().is_some() {
                let mut update = Vec::new();
                // What a peer could write can be written again.
                if wire::announce(&attributes, &mut prefixes, dialect, &mut update).is_err() {
                    break;
                }
                updates.push(update);
            }
        }
        (updates, (end < self.nets.end()).then_some(end))
    }

    /// Appends every prefix with all of its paths, as received. `places` says where each peer is in the dump's index.
    pub(crate) fn dump(&self, time: u32, places: &BTreeMap<PeerIndex, u16>, buf: &mut Vec<u8>) {
        let mut sequence = 0;
        for (_, net) in self.nets.iter() {
            let entries: Vec<Entry<'_>> = net
                .paths
                .as_slice()
                .iter()
                .filter_map(|path| {
                    let peer = *places.get(&path.peer)?;
                    Some(Entry { peer, path: path.id.0, attributes: &path.received().attributes })
                })
                .collect();
            if !entries.is_empty() {
                mrt::prefix(time, sequence, net.prefix, &entries, buf);
                sequence += 1;
            }
        }
    }
}
