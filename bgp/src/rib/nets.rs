//! The prefixes of the table, numbered, so that everything per prefix is a vector or a bit.

use std::hash::Hasher as _;

use super::bits::Bits;
use super::hops::HopSet;
use super::path::Paths;
use super::slots::{SeededHasher, Slots};
use crate::prefix::Prefix;
use crate::wire::Nlri;

/// The number of a prefix, valid as long as anything refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NetId(pub(crate) u32);

/// A prefix and what is known about it.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    /// All paths; those that carry traffic first, the best one leading.
    pub(crate) paths: Paths,
    /// Where traffic goes.
    pub(crate) hops: HopSet,
    /// Which prefix.
    pub(crate) prefix: Prefix,
    /// How many of the paths carry traffic.
    pub(crate) selected: u8,
    /// How many of the paths behind those would carry it next.
    pub(crate) spare: u8,
    /// It waits for the decision process.
    pub(crate) dirty: bool,
    /// Its next hops wait to be told.
    pub(crate) untold: bool,
    /// The number is free.
    vacant: bool,
}

/// All prefixes.
#[derive(Debug)]
pub(crate) struct Nets {
    nets: Vec<Net>,
    vacant: Vec<NetId>,
    slots: Slots,
    key: u64,
    empty: usize,
}

const FIRST_SWEEP: usize = 1024;
/// How many prefixes are read ahead: more than a processor can wait for at once.
const WARMED: usize = 32;

impl Nets {
    pub(crate) fn new(key: u64) -> Self {
        Self { nets: Vec::new(), vacant: Vec::new(), slots: Slots::default(), key, empty: 0 }
    }

    pub(crate) fn find(&self, prefix: &Prefix) -> Option<NetId> {
        let hash = hash(self.key, prefix);
        self.slots.find(hash, |place| self.holds(place, prefix)).map(NetId)
    }

    /// Reads what finding these prefixes will read, all at once: the processor waits for many far places in memory no
    /// longer than for one. Nothing else comes of it.
    pub(crate) fn warm(&self, prefixes: &[Nlri]) {
        for some in prefixes.chunks(WARMED) {
            let mut places = [None; WARMED];
            for (place, nlri) in places.iter_mut().zip(some) {
                *place = self.slots.first(hash(self.key, &nlri.prefix));
            }
            let nets = places.iter().flatten().filter_map(|place| self.nets.get(*place as usize));
            std::hint::black_box(nets.filter(|net| net.dirty).count());
        }
    }

    fn holds(&self, place: u32, prefix: &Prefix) -> bool {
        self.nets.get(place as usize).is_some_and(|net| net.prefix == *prefix)
    }

    /// The number of a prefix, a new one if need be.
    pub(crate) fn find_or_insert(&mut self, prefix: Prefix) -> NetId {
        let hash = hash(self.key, &prefix);
        if let Some(place) = self.slots.find(hash, |place| self.holds(place, &prefix)) {
            return NetId(place);
        }
        let net = Net {
            paths: Paths::None,
            hops: HopSet::NONE,
            prefix,
            selected: 0,
            spare: 0,
            dirty: false,
            untold: false,
            vacant: false,
        };
        let id = self.place(net);
        let (nets, key) = (&self.nets, self.key);
        self.slots.insert(hash, id.0, |place| hash_at(nets, key, place));
        id
    }

    fn place(&mut self, net: Net) -> NetId {
        if let Some(id) = self.vacant.pop()
            && let Some(place) = self.nets.get_mut(id.0 as usize)
        {
            *place = net;
            return id;
        }
        self.nets.push(net);
        NetId(self.nets.len() as u32 - 1)
    }

    pub(crate) fn get(&self, id: NetId) -> Option<&Net> {
        self.nets.get(id.0 as usize)
    }

    pub(crate) fn get_mut(&mut self, id: NetId) -> Option<&mut Net> {
        self.nets.get_mut(id.0 as usize)
    }

    /// One above the highest number.
    pub(crate) fn end(&self) -> u32 {
        self.nets.len() as u32
    }

    /// All prefixes with their numbers, in the order of the numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (NetId, &Net)> {
        self.nets.iter().zip(0..).filter(|(net, _)| !net.vacant).map(|(net, id)| (NetId(id), net))
    }

    /// Takes note that a prefix lost its last path, or got one again.
    pub(crate) fn note_empty(&mut self, empty: bool) {
        self.empty = if empty { self.empty + 1 } else { self.empty.saturating_sub(1) };
    }

    /// Whether so many prefixes without paths are kept that [`sweep`](Self::sweep) pays.
    pub(crate) fn wants_sweep(&self) -> bool {
        self.empty >= FIRST_SWEEP && self.empty * 2 >= self.nets.len() - self.vacant.len()
    }

    /// Frees the numbers of prefixes that have no path and that nobody refers to.
    pub(crate) fn sweep(&mut self, referenced: &Bits) {
        self.empty = 0;
        for (net, place) in self.nets.iter_mut().zip(0..) {
            if net.vacant || !net.paths.as_slice().is_empty() {
                continue;
            }
            if net.dirty || net.untold || referenced.contains(NetId(place)) {
                self.empty += 1;
            } else {
                net.vacant = true;
                self.vacant.push(NetId(place));
            }
        }
        let (nets, key) = (&self.nets, self.key);
        let live = nets.iter().zip(0..).filter(|(net, _)| !net.vacant).map(|(_, place)| place);
        self.slots.rebuild(nets.len() - self.vacant.len(), live, |place| hash_at(nets, key, place));
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.nets.len() - self.vacant.len()
    }
}

fn hash_at(nets: &[Net], key: u64, place: u32) -> u64 {
    nets.get(place as usize).map_or(0, |net| hash(key, &net.prefix))
}

/// The hash of a prefix: as few rounds as its bits need.
fn hash(key: u64, prefix: &Prefix) -> u64 {
    let mut hasher = SeededHasher::new(key);
    match prefix {
        Prefix::V4(prefix) => {
            hasher.write_u64(u64::from(prefix.address().to_bits()) << 8 | u64::from(prefix.len()));
        }
        Prefix::V6(prefix) => {
            let bits = prefix.address().to_bits();
            hasher.write_u64(u64::from(prefix.len()) | 1 << 63);
            hasher.write_u64((bits >> 64) as u64);
            hasher.write_u64(bits as u64);
        }
    }
    hasher.finish()
}
