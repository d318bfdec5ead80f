//! A hash index from keys that live elsewhere to their places there.
//!
//! The keys stay in a vector of the owner, so iteration never follows the hash: two runs with the same inputs give the
//! same outputs. The hash is keyed with the speaker's seed, so that a peer cannot choose prefixes that collide.

use std::hash::{Hash, Hasher};

/// Places by hash, with linear probing; at most three quarters full.
///
/// A place needs fewer bits than a slot has: the bits above it hold a part of the hash, so that a search looks at a
/// key, which is far away in memory, only where that part agrees.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots {
    slots: Vec<u32>,
    used: usize,
    /// The bits of a slot that hold the place; a place with all of them set does not occur.
    mask: u32,
}

const EMPTY: u32 = u32::MAX;

impl Slots {
    /// The place for which `matches` holds among those with this hash.
    pub(crate) fn find(&self, hash: u64, matches: impl Fn(u32) -> bool) -> Option<u32> {
        let tag = self.tag(hash);
        self.probe(hash)
            .map(|at| self.slots.get(at).copied().unwrap_or(EMPTY))
            .take_while(|slot| *slot != EMPTY)
            .filter(|slot| slot & !self.mask == tag)
            .map(|slot| slot & self.mask)
            .find(|place| matches(*place))
    }

    /// Where a search for this hash begins: the place in that slot, if there is one.
    pub(crate) fn first(&self, hash: u64) -> Option<u32> {
        let slot = self.probe(hash).next().and_then(|at| self.slots.get(at))?;
        (*slot != EMPTY).then_some(slot & self.mask)
    }

    /// Adds a place that is not there yet; `hash_of` tells the hashes of the places known so far.
    pub(crate) fn insert(&mut self, hash: u64, place: u32, hash_of: impl Fn(u32) -> u64) {
        if (self.used + 1) * 4 > self.slots.len() * 3 || place >= self.mask {
            let mut places: Vec<u32> = self.slots.iter().copied().filter(|slot| *slot != EMPTY).collect();
            places.iter_mut().for_each(|slot| *slot &= self.mask);
            let room = (places.len() + 1) * 2;
            self.lay_out(room, places.iter().copied().max().unwrap_or(0).max(place));
            places.into_iter().for_each(|place| self.put(hash_of(place), place));
        }
        self.put(hash, place);
    }

    /// Forgets everything and takes these places, leaving room for `room` of them.
    pub(crate) fn rebuild(
        &mut self,
        room: usize,
        places: impl Iterator<Item = u32> + Clone,
        hash_of: impl Fn(u32) -> u64,
    ) {
        self.lay_out(room, places.clone().max().unwrap_or(0));
        places.for_each(|place| self.put(hash_of(place), place));
    }

    /// Empty slots for `room` places, none of them above `last`.
    fn lay_out(&mut self, room: usize, last: u32) {
        let size = (room.max(8) * 4 / 3 + 1).next_power_of_two();
        self.slots.clear();
        self.slots.resize(size, EMPTY);
        self.slots.shrink_to_fit();
        self.used = 0;
        let bound = u32::try_from(size).unwrap_or(u32::MAX).max(last.saturating_add(2));
        self.mask = bound.checked_next_power_of_two().map_or(u32::MAX, |power| power - 1);
    }

    fn put(&mut self, hash: u64, place: u32) {
        let vacant = self.probe(hash).find(|at| self.slots.get(*at) == Some(&EMPTY));
        let tag = self.tag(hash);
        if let Some(slot) = vacant.and_then(|at| self.slots.get_mut(at)) {
            *slot = tag | place;
            self.used += 1;
        }
    }

    fn tag(&self, hash: u64) -> u32 {
        (hash >> 32) as u32 & !self.mask
    }

    fn probe(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let size = self.slots.len();
        let mask = size.saturating_sub(1);
        let start = (hash >> 32) as usize ^ hash as usize;
        (0..size).map(move |step| start.wrapping_add(step) & mask)
    }
}

/// A keyed hash: each word is folded in by a multiplication of 128 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SeededHasher {
    state: u64,
    key: u64,
}

impl SeededHasher {
    /// A hasher with this key.
    pub(crate) fn new(key: u64) -> Self {
        Self { state: key.rotate_left(32), key: key | 1 }
    }

    /// The hash of a value under this key.
    pub(crate) fn hash<T: Hash>(key: u64, value: &T) -> u64 {
        let mut hasher = Self::new(key);
        value.hash(&mut hasher);
        hasher.finish()
    }
}

const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for SeededHasher {
    fn finish(&self) -> u64 {
        self.state ^ (self.state >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.write_u64(word.try_into().map_or(0, u64::from_le_bytes));
        }
        let rest = words.remainder();
        if !rest.is_empty() {
            let tail = rest.iter().fold(rest.len() as u64, |sum, byte| (sum << 8) | u64::from(*byte));
            self.write_u64(tail);
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        let product =
            u128::from(self.state ^ number ^ SPREAD) * u128::from(self.key ^ SPREAD.rotate_left(17));
        self.state = (product >> 64) as u64 ^ product as u64 ^ number.rotate_left(23);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_found_again_after_growth() {
        let keys: Vec<u64> = (0..10_000).map(|n| n * 7).collect();
        let hash_of = |place: u32| SeededHasher::hash(9, &keys[place as usize]);
        let mut slots = Slots::default();
        for place in 0..keys.len() as u32 {
            slots.insert(hash_of(place), place, hash_of);
        }
        for (place, key) in keys.iter().enumerate() {
            let found = slots.find(SeededHasher::hash(9, key), |at| keys[at as usize] == *key);
            assert_eq!(found, Some(place as u32));
        }
        assert_eq!(slots.find(SeededHasher::hash(9, &1_u64), |at| keys[at as usize] == 1), None);
    }

    #[test]
    fn places_far_above_their_number_are_found_as_well() {
        let places = [0, 7, 1000, 70_000, 1 << 30, u32::MAX - 2];
        let hash_of = |place: u32| SeededHasher::hash(3, &place);
        let mut slots = Slots::default();
        places.iter().for_each(|place| slots.insert(hash_of(*place), *place, hash_of));
        for place in places {
            assert_eq!(slots.find(hash_of(place), |at| at == place), Some(place));
        }
        slots.rebuild(2, [5, 1 << 20].into_iter(), hash_of);
        assert_eq!(slots.find(hash_of(1 << 20), |at| at == 1 << 20), Some(1 << 20));
        assert_eq!(slots.find(hash_of(7), |at| at == 7), None);
    }
}
