//! Sets of next hops, each stored once and counted: thousands of prefixes share a handful of them.

use std::collections::{BTreeMap, BTreeSet};

use super::Sources;
use super::path::{Path, PeerIndex};
use crate::prefix::Gateway;

/// The number of a set of next hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HopsId(u32);

impl HopsId {
    /// The empty set.
    pub(crate) const NONE: Self = Self(0);
}

/// All sets of next hops in use.
#[derive(Debug, Default)]
pub(crate) struct Hops {
    numbers: BTreeMap<BTreeSet<Gateway>, HopsId>,
    sets: Vec<(BTreeSet<Gateway>, u32)>,
    free: Vec<HopsId>,
    /// The last set of one, for runs of prefixes that share it.
    last: Option<(Gateway, HopsId)>,
}

impl Hops {
    /// The number of a set, counted once more; [`release`](Self::release) takes the count back.
    pub(crate) fn acquire(&mut self, set: BTreeSet<Gateway>) -> HopsId {
        if set.is_empty() {
            return HopsId::NONE;
        }
        if let Some(id) = self.numbers.get(&set).copied() {
            if let Some((_, count)) = self.slot(id) {
                *count += 1;
            }
            return id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.sets.push((BTreeSet::new(), 0));
            HopsId(self.sets.len() as u32)
        });
        self.numbers.insert(set.clone(), id);
        if let Some(slot) = self.slot(id) {
            *slot = (set, 1);
        }
        id
    }

    /// The number of the set of next hops of these paths; ours have none.
    pub(crate) fn acquire_for(&mut self, paths: &[Path], sources: &Sources) -> HopsId {
        let hop = |path: &Path| Some(path.used()?.attributes.next_hop.gateway(sources.zone(path.peer)));
        match paths {
            [only] if only.peer != PeerIndex::LOCAL => {
                hop(only).map_or(HopsId::NONE, |hop| self.acquire_one(hop))
            }
            [best, ..] if best.peer != PeerIndex::LOCAL => {
                self.acquire(paths.iter().filter_map(hop).collect())
            }
            _ => HopsId::NONE,
        }
    }

    fn acquire_one(&mut self, hop: Gateway) -> HopsId {
        if let Some((last, id)) = self.last
            && last == hop
            && let Some((_, count)) = self.slot(id)
            && *count > 0
        {
            *count += 1;
            return id;
        }
        let id = self.acquire(BTreeSet::from([hop]));
        self.last = Some((hop, id));
        id
    }

    /// Takes back one [`acquire`](Self::acquire).
    pub(crate) fn release(&mut self, id: HopsId) {
        let Some((set, count)) = self.slot(id) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            let set = std::mem::take(set);
            self.last = None;
            self.numbers.remove(&set);
            self.free.push(id);
        }
    }

    /// The members of a set.
    pub(crate) fn get(&self, id: HopsId) -> BTreeSet<Gateway> {
        let place = (id.0 as usize).checked_sub(1);
        place.and_then(|place| self.sets.get(place)).map_or_else(BTreeSet::new, |(set, _)| set.clone())
    }

    fn slot(&mut self, id: HopsId) -> Option<&mut (BTreeSet<Gateway>, u32)> {
        self.sets.get_mut((id.0 as usize).checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn a_set_lives_as_long_as_it_is_counted() {
        let set = |last: u8| BTreeSet::from([Gateway::from(IpAddr::from([10, 0, 0, last]))]);
        let mut hops = Hops::default();
        let one = hops.acquire(set(1));
        assert_eq!(hops.acquire(set(1)), one);
        assert_ne!(hops.acquire(set(2)), one);
        assert_eq!(hops.acquire(BTreeSet::new()), HopsId::NONE);
        hops.release(one);
        assert_eq!(hops.get(one), set(1));
        hops.release(one);
        assert_eq!(hops.get(one), BTreeSet::new());
        assert_eq!(hops.acquire(set(3)), one);
    }
}
