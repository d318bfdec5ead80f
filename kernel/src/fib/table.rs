//! What is wanted, decided and known of each route: 56 octets apiece, whatever it leads to.
//!
//! Routes are numbered and found by a hash of their key. What has to be looked at again, and what has to be changed in
//! the kernel, are lists of numbers; a mark on the route keeps each in a list once.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::model::{Forward, Hop, RouteKey};

use super::index::Index;
use super::paths::PathSets;
use super::target::TargetId;

/// The number of a route, valid while anything is wanted or known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RouteNo(u32);

/// A source address by number; 0 is the kernel's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct SourceNo(u16);

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// To lead to a target.
    Target(TargetId),
    /// To lead out of the link with this number in `LinkNames`.
    Link(u32),
    /// To drop packets.
    Blackhole,
}

/// Where a route leads; sets of paths are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lead {
    /// To a next-hop object.
    Nexthop(u32),
    /// To gateways of its own, by number.
    Paths(u32),
    /// Out of a link, by index.
    Link(u32),
    /// Nowhere.
    Blackhole,
    /// Something that is never wanted.
    Other,
}

/// A route as it is, or should be, in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Installed {
    pub(super) lead: Lead,
    pub(super) source: SourceNo,
}

/// What has to be done for a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Create(Installed),
    Update(Installed),
    Delete(Installed),
}

/// The key of a route without gaps: the table and the metric by number, the prefix length apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packed {
    address: [u8; 16],
    plane: u16,
    length: u8,
}

/// Everything about one route.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    wanted: Option<Wish>,
    desired: Option<Installed>,
    actual: Option<Installed>,
    key: Packed,
    source: SourceNo,
    flags: u8,
}

/// Nobody spoke of it since the start.
const STALE: u8 = 1;
/// It is among those to be decided.
const OPEN: u8 = 2;
/// It is among those to be looked at for changes.
const QUEUED: u8 = 4;
/// The number is free.
const VACANT: u8 = 8;
/// A dump named it.
const SEEN: u8 = 16;

impl Entry {
    pub(super) fn wanted(&self) -> Option<Wish> {
        self.wanted
    }

    pub(super) fn source(&self) -> SourceNo {
        self.source
    }

    pub(super) fn desired(&self) -> Option<Installed> {
        self.desired
    }

    pub(super) fn actual(&self) -> Option<Installed> {
        self.actual
    }

    /// The next-hop object to which it leads in the kernel.
    pub(super) fn object(&self) -> Option<u32> {
        match self.actual?.lead {
            Lead::Nexthop(id) => Some(id),
            _ => None,
        }
    }

    pub(super) fn stale(&self) -> bool {
        self.flags & STALE != 0
    }

    fn pending(&self) -> bool {
        self.desired != self.actual
    }

    fn change(&self) -> Option<Change> {
        match (self.desired, self.actual) {
            (desired, actual) if desired == actual => None,
            (Some(desired), None) => Some(Change::Create(desired)),
            (Some(desired), Some(_)) => Some(Change::Update(desired)),
            (None, actual) => actual.map(Change::Delete),
        }
    }

    fn unused(&self) -> bool {
        self.wanted.is_none()
            && self.desired.is_none()
            && self.actual.is_none()
            && self.flags & (OPEN | QUEUED) == 0
    }
}

/// All routes.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: Vec<Entry>,
    vacant: Vec<RouteNo>,
    index: Index,
    hash_key: u64,
    planes: Vec<(u32, u32, bool)>,
    sources: Vec<IpAddr>,
    paths: PathSets,
    /// To be decided anew.
    open: Vec<RouteNo>,
    /// May differ between what should be and what is.
    queue: VecDeque<RouteNo>,
    counts: Counts,
}

/// How many routes there are of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) wanted: usize,
    pub(super) actual: usize,
    pub(super) pending: usize,
    pub(super) stale: usize,
}

impl Table {
    pub(super) fn new(hash_key: u64) -> Self {
        Self { hash_key, ..Self::default() }
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// The number of a route, if anything is wanted or known of it.
    pub(super) fn find(&self, key: &RouteKey) -> Option<RouteNo> {
        let plane = self.planes.iter().position(|plane| *plane == plane_of(key))?;
        self.find_packed(&packed(key, plane as u16))
    }

    fn find_packed(&self, key: &Packed) -> Option<RouteNo> {
        let hash = hash(self.hash_key, key);
        let same = |place| self.entries.get(place as usize).is_some_and(|entry: &Entry| entry.key == *key);
        self.index.find(hash, same).map(RouteNo)
    }

    /// The number of a route, a new one if need be.
    fn number(&mut self, key: &RouteKey) -> RouteNo {
        let known = self.planes.iter().position(|plane| *plane == plane_of(key));
        let plane = known.unwrap_or_else(|| {
            self.planes.push(plane_of(key));
            self.planes.len() - 1
        });
        let key = packed(key, u16::try_from(plane).unwrap_or(u16::MAX));
        if let Some(known) = self.find_packed(&key) {
            return known;
        }
        let entry =
            Entry { wanted: None, desired: None, actual: None, key, source: SourceNo::default(), flags: 0 };
        let number = match self.vacant.pop() {
            Some(number) => {
                if let Some(place) = self.entries.get_mut(number.0 as usize) {
                    *place = entry;
                }
                number
            }
            None => {
                self.entries.push(entry);
                RouteNo(self.entries.len() as u32 - 1)
            }
        };
        let (entries, hash_key) = (&self.entries, self.hash_key);
        self.index.insert(hash(hash_key, &key), number.0, |place| hash_at(entries, hash_key, place));
        number
    }

    pub(super) fn get(&self, number: RouteNo) -> Option<&Entry> {
        self.entries.get(number.0 as usize)
    }

    /// What is known of a key.
    pub(super) fn at(&self, key: &RouteKey) -> Option<&Entry> {
        self.get(self.find(key)?)
    }

    /// The key of a route.
    pub(super) fn key(&self, entry: &Entry) -> RouteKey {
        let Packed { address, plane, length } = entry.key;
        let (table, metric, ipv6) = self.planes.get(usize::from(plane)).copied().unwrap_or_default();
        let [a, b, c, d, ..] = address;
        let address = if ipv6 { IpAddr::from(address) } else { IpAddr::from([a, b, c, d]) };
        let dst = IpNetwork::new(address, length).unwrap_or_else(|_| address.into());
        RouteKey { table, dst, metric }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (RouteNo, &Entry)> {
        let used = |(entry, _): &(&Entry, u32)| entry.flags & VACANT == 0;
        self.entries.iter().zip(0..).filter(used).map(|(entry, number)| (RouteNo(number), entry))
    }

    /// Says what is wanted of a key and has it decided; gives what was wanted before.
    pub(super) fn want(&mut self, key: &RouteKey, wish: Option<(Wish, SourceNo)>) -> Option<Wish> {
        let number = if wish.is_some() { Some(self.number(key)) } else { self.find(key) };
        number.and_then(|number| self.want_at(number, wish))
    }

    /// Says what is wanted of a route and has it decided; gives what was wanted before.
    pub(super) fn want_at(&mut self, number: RouteNo, wish: Option<(Wish, SourceNo)>) -> Option<Wish> {
        self.open(number);
        self.set_stale(number, false);
        let entry = self.entries.get_mut(number.0 as usize)?;
        let (wanted, source) = wish.unzip();
        entry.source = source.unwrap_or_default();
        let before = std::mem::replace(&mut entry.wanted, wanted);
        self.counts.wanted += usize::from(wanted.is_some());
        self.counts.wanted -= usize::from(before.is_some());
        before
    }

    /// Says what should be in the kernel.
    pub(super) fn desire(&mut self, number: RouteNo, desired: Option<Installed>) {
        self.change(number, |entry| entry.desired = desired);
    }

    /// Says what is in the kernel; gives what was thought to be there.
    pub(super) fn observe(&mut self, key: &RouteKey, actual: Option<Installed>) -> Option<Installed> {
        let number = if actual.is_some() { self.number(key) } else { self.find(key)? };
        self.observe_at(number, actual)
    }

    /// Says what is in the kernel; gives what was thought to be there.
    pub(super) fn observe_at(&mut self, number: RouteNo, actual: Option<Installed>) -> Option<Installed> {
        if actual.is_none() {
            self.set_stale(number, false);
        }
        let before = self.change(number, |entry| std::mem::replace(&mut entry.actual, actual))?;
        self.counts.actual += usize::from(actual.is_some());
        self.counts.actual -= usize::from(before.is_some());
        before
    }

    fn change<R>(&mut self, number: RouteNo, change: impl FnOnce(&mut Entry) -> R) -> Option<R> {
        let entry = self.entries.get_mut(number.0 as usize)?;
        let was = entry.pending();
        let result = change(entry);
        let is = entry.pending();
        if is && entry.flags & QUEUED == 0 {
            entry.flags |= QUEUED;
            self.queue.push_back(number);
        }
        self.counts.pending += usize::from(is);
        self.counts.pending -= usize::from(was);
        self.free_if_unused(number);
        Some(result)
    }

    /// Marks a route as one that nobody spoke of, or as spoken of.
    pub(super) fn set_stale(&mut self, number: RouteNo, stale: bool) {
        let Some(entry) = self.entries.get_mut(number.0 as usize) else { return };
        self.counts.stale -= usize::from(entry.stale());
        entry.flags = if stale { entry.flags | STALE } else { entry.flags & !STALE };
        self.counts.stale += usize::from(stale);
    }

    /// Counts all routes as spoken of.
    pub(super) fn forget_stale(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.flags &= !STALE);
        self.counts.stale = 0;
    }

    /// Has a route decided anew.
    pub(super) fn open(&mut self, number: RouteNo) {
        if let Some(entry) = self.entries.get_mut(number.0 as usize)
            && entry.flags & OPEN == 0
        {
            entry.flags |= OPEN;
            self.open.push(number);
        }
    }

    /// Has all routes decided anew of which this holds.
    pub(super) fn open_all(&mut self, condition: impl Fn(&Entry) -> bool) {
        for (entry, number) in self.entries.iter_mut().zip(0..) {
            if entry.flags & (OPEN | VACANT) == 0 && condition(entry) {
                entry.flags |= OPEN;
                self.open.push(RouteNo(number));
            }
        }
    }

    /// The routes that are to be decided.
    pub(super) fn opened(&self) -> &[RouteNo] {
        &self.open
    }

    /// Takes the routes that are to be decided; give the list back with [`Self::decided`].
    pub(super) fn take_opened(&mut self) -> Vec<RouteNo> {
        let open = std::mem::take(&mut self.open);
        for number in &open {
            if let Some(entry) = self.entries.get_mut(number.0 as usize) {
                entry.flags &= !OPEN;
            }
        }
        open
    }

    /// Takes back an emptied list, for its memory, and lets go of routes of which nothing is left.
    pub(super) fn decided(&mut self, mut open: Vec<RouteNo>) {
        open.drain(..).for_each(|number| self.free_if_unused(number));
        open.shrink_to(1 << 14);
        if self.open.is_empty() {
            self.open = open;
        }
    }

    /// Forgets that there was something to do where nothing is left.
    pub(super) fn tidy_queue(&mut self) {
        while let Some(number) = self.queue.front().copied() {
            let Some(entry) = self.entries.get_mut(number.0 as usize) else { break };
            if entry.pending() {
                return;
            }
            entry.flags &= !QUEUED;
            self.queue.pop_front();
            self.free_if_unused(number);
        }
        self.queue.shrink_to(1 << 14);
    }

    /// What has to be done, the oldest first.
    pub(super) fn pending(&self) -> impl Iterator<Item = (&Entry, Change)> {
        self.queue.iter().filter_map(|number| {
            let entry = self.get(*number)?;
            Some((entry, entry.change()?))
        })
    }

    /// Takes note that a dump names a route.
    pub(super) fn see(&mut self, key: &RouteKey) {
        if let Some(entry) = self.find(key).and_then(|number| self.entries.get_mut(number.0 as usize)) {
            entry.flags |= SEEN;
        }
    }

    /// The routes thought to be in the kernel that were not seen since the last time.
    pub(super) fn unseen(&mut self) -> Vec<RouteKey> {
        let mut unseen = Vec::new();
        for number in 0..self.entries.len() {
            let Some(entry) = self.entries.get_mut(number) else { break };
            let seen = entry.flags & SEEN != 0;
            entry.flags &= !SEEN;
            if !seen && entry.actual.is_some() {
                unseen.push(number);
            }
        }
        let entries = unseen.into_iter().filter_map(|number| self.entries.get(number));
        entries.map(|entry| self.key(entry)).collect()
    }

    fn free_if_unused(&mut self, number: RouteNo) {
        let Some(entry) = self.entries.get_mut(number.0 as usize) else { return };
        if entry.flags & VACANT != 0 || !entry.unused() {
            return;
        }
        let hash_of_entry = hash(self.hash_key, &entry.key);
        entry.flags = VACANT;
        let (entries, key) = (&self.entries, self.hash_key);
        self.index.remove(hash_of_entry, number.0, |place| hash_at(entries, key, place));
        self.vacant.push(number);
    }

    /// The number of a source address.
    pub(super) fn source_number(&mut self, source: Option<IpAddr>) -> SourceNo {
        let Some(source) = source else { return SourceNo(0) };
        let known = self.sources.iter().position(|known| *known == source);
        let place = known.unwrap_or_else(|| {
            self.sources.push(source);
            self.sources.len() - 1
        });
        SourceNo(u16::try_from(place + 1).unwrap_or_default())
    }

    /// The source address of this number.
    pub(super) fn source_address(&self, source: SourceNo) -> Option<IpAddr> {
        self.sources.get(usize::from(source.0).checked_sub(1)?).copied()
    }

    /// The compact form of where a route leads.
    pub(super) fn lead(&mut self, forward: &Forward) -> Lead {
        match forward {
            Forward::Nexthop(id) => Lead::Nexthop(*id),
            Forward::Link(index) => Lead::Link(*index),
            Forward::Blackhole => Lead::Blackhole,
            Forward::Other => Lead::Other,
            Forward::Paths(hops) => self.paths(hops),
        }
    }

    /// Whether routes may carry a gateway on this link.
    pub(super) fn has_paths_on(&self, link: u32) -> bool {
        self.paths.on_link(link)
    }

    /// The compact form of these gateways.
    pub(super) fn paths(&mut self, hops: &BTreeSet<Hop>) -> Lead {
        if self.paths.full() {
            let entries = self.entries.iter().filter(|entry| entry.flags & VACANT == 0);
            let installed = entries.flat_map(|entry| [entry.desired, entry.actual]).flatten();
            let used = installed.filter_map(|installed| match installed.lead {
                Lead::Paths(number) => Some(number),
                _ => None,
            });
            self.paths.sweep(&used.collect());
        }
        Lead::Paths(self.paths.number(hops))
    }

    /// Where a route leads in the kernel's terms.
    pub(super) fn forward(&self, lead: Lead) -> Forward {
        match lead {
            Lead::Nexthop(id) => Forward::Nexthop(id),
            Lead::Link(index) => Forward::Link(index),
            Lead::Blackhole => Forward::Blackhole,
            Lead::Other => Forward::Other,
            Lead::Paths(number) => Forward::Paths(self.paths.get(number)),
        }
    }
}

fn plane_of(key: &RouteKey) -> (u32, u32, bool) {
    (key.table, key.metric, key.dst.is_ipv6())
}

fn packed(key: &RouteKey, plane: u16) -> Packed {
    let mut address = [0; 16];
    match key.dst.network() {
        IpAddr::V4(network) => address[..4].copy_from_slice(&network.octets()),
        IpAddr::V6(network) => address = network.octets(),
    }
    Packed { address, plane, length: key.dst.prefix() }
}

fn hash_at(entries: &[Entry], key: u64, place: u32) -> u64 {
    entries.get(place as usize).map_or(0, |entry| hash(key, &entry.key))
}

/// A keyed hash: each word is folded in by a multiplication of 128 bits. Peers choose what is hashed.
fn hash(key: u64, packed: &Packed) -> u64 {
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let address = u128::from_ne_bytes(packed.address);
    let rest = u64::from(packed.plane) << 8 | u64::from(packed.length);
    let mut state = key.rotate_left(32);
    for word in [address as u64, (address >> 64) as u64, rest] {
        let product = u128::from(state ^ word ^ SPREAD) * u128::from((key | 1) ^ SPREAD.rotate_left(17));
        state = (product >> 64) as u64 ^ product as u64 ^ word.rotate_left(23);
    }
    state ^ (state >> 29)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> RouteKey {
        let dst = match number % 3 {
            0 => format!("2001:db8:{number:x}::/48"),
            _ => format!("10.{number}.0.0/{}", 16 + number % 3),
        };
        RouteKey::new(u32::from(number % 2) + 253, dst.parse().unwrap(), u32::from(number % 5))
    }

    #[derive(Debug, Clone)]
    enum Step {
        Want(u8, bool),
        Desire(u8, Option<u32>),
        Observe(u8, Option<u32>),
        Decide,
        Look,
    }

    fn step() -> impl Strategy<Value = Step> {
        let value = || proptest::option::of(0..3u32);
        prop_oneof![
            (0..60u8, any::<bool>()).prop_map(|(key, wanted)| Step::Want(key, wanted)),
            (0..60u8, value()).prop_map(|(key, value)| Step::Desire(key, value)),
            (0..60u8, value()).prop_map(|(key, value)| Step::Observe(key, value)),
            Just(Step::Decide),
            Just(Step::Look),
        ]
    }

    fn put<V>(map: &mut BTreeMap<RouteKey, V>, key: RouteKey, value: Option<V>) {
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
    }

    fn installed(value: Option<u32>) -> Option<Installed> {
        value.map(|id| Installed { lead: Lead::Nexthop(id), source: SourceNo::default() })
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_plain_maps(steps in vec(step(), 0..200), hash_key in any::<u64>()) {
            let (mut wanted, mut desired, mut actual) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
            let mut table = Table::new(hash_key);
            for step in steps {
                match step {
                    Step::Want(number, yes) => {
                        let wish = yes.then_some(Wish::Blackhole);
                        let before = wanted.get(&key(number)).copied();
                        put(&mut wanted, key(number), wish);
                        let told = table.want(&key(number), wish.map(|wish| (wish, SourceNo::default())));
                        prop_assert_eq!(told, before);
                    }
                    Step::Desire(number, value) => {
                        if let Some(known) = table.find(&key(number)) {
                            put(&mut desired, key(number), installed(value));
                            table.desire(known, installed(value));
                        }
                    }
                    Step::Observe(number, value) => {
                        let before = actual.get(&key(number)).copied();
                        put(&mut actual, key(number), installed(value));
                        prop_assert_eq!(table.observe(&key(number), installed(value)), before);
                    }
                    Step::Decide => {
                        let open = table.take_opened();
                        table.decided(open);
                    }
                    Step::Look => table.tidy_queue(),
                }
                for number in 0..60 {
                    let entry = table.at(&key(number));
                    prop_assert_eq!(entry.and_then(Entry::wanted), wanted.get(&key(number)).copied());
                    prop_assert_eq!(entry.and_then(Entry::desired), desired.get(&key(number)).copied());
                    prop_assert_eq!(entry.and_then(Entry::actual), actual.get(&key(number)).copied());
                    if let Some(entry) = entry {
                        prop_assert_eq!(table.key(entry), key(number));
                    }
                }
                let differ = (0..60).filter(|number| desired.get(&key(*number)) != actual.get(&key(*number)));
                let differ = differ.count();
                let counts = Counts { wanted: wanted.len(), actual: actual.len(), pending: differ, stale: 0 };
                prop_assert_eq!(table.counts(), counts);
                prop_assert_eq!(table.pending().count(), differ);
            }
        }
    }

    #[test]
    fn an_entry_stays_small() {
        assert_eq!(size_of::<Entry>(), 56);
    }
}
