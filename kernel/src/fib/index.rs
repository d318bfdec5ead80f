//! Places of a vector by the hash of what is there.

/// Places by hash: linear probing, at most three quarters full, without gaps after a removal.
#[derive(Debug, Default)]
pub(super) struct Index {
    slots: Vec<u32>,
    used: usize,
}

const EMPTY: u32 = u32::MAX;

impl Index {
    /// The place with this hash for which `matches` holds.
    pub(super) fn find(&self, hash: u64, matches: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = self.start(hash);
        loop {
            let place = self.slots.get(at).copied().filter(|place| *place != EMPTY)?;
            if matches(place) {
                return Some(place);
            }
            at = self.after(at);
        }
    }

    /// Adds a place that is not there; `hash_of` tells the hashes of those that are.
    pub(super) fn insert(&mut self, hash: u64, place: u32, hash_of: impl Fn(u32) -> u64) {
        if (self.used + 1) * 4 > self.slots.len() * 3 {
            let size = (self.slots.len() * 2).max(16);
            let before = std::mem::replace(&mut self.slots, vec![EMPTY; size]);
            before
                .into_iter()
                .filter(|place| *place != EMPTY)
                .for_each(|place| self.put(hash_of(place), place));
        }
        self.put(hash, place);
        self.used += 1;
    }

    fn put(&mut self, hash: u64, place: u32) {
        let mut at = self.start(hash);
        while let Some(slot) = self.slots.get_mut(at) {
            if *slot == EMPTY {
                *slot = place;
                return;
            }
            at = self.after(at);
        }
    }

    /// Takes a place out and moves up those behind it that would not be found any more.
    pub(super) fn remove(&mut self, hash: u64, place: u32, hash_of: impl Fn(u32) -> u64) {
        let mut hole = self.start(hash);
        while self.slots.get(hole).is_some_and(|slot| *slot != place) {
            if self.slots.get(hole) == Some(&EMPTY) {
                return;
            }
            hole = self.after(hole);
        }
        let mut at = self.after(hole);
        while let Some(moved) = self.slots.get(at).copied().filter(|place| *place != EMPTY) {
            let mask = self.slots.len().wrapping_sub(1);
            let from_start = at.wrapping_sub(self.start(hash_of(moved))) & mask;
            let from_hole = at.wrapping_sub(hole) & mask;
            if from_start >= from_hole {
                if let Some(slot) = self.slots.get_mut(hole) {
                    *slot = moved;
                }
                hole = at;
            }
            at = self.after(at);
        }
        if let Some(slot) = self.slots.get_mut(hole) {
            *slot = EMPTY;
            self.used -= 1;
        }
    }

    fn start(&self, hash: u64) -> usize {
        (hash >> 32) as usize & self.slots.len().wrapping_sub(1)
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & self.slots.len().wrapping_sub(1)
    }
}
