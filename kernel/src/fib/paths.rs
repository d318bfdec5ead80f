//! Sets of gateways that routes carry themselves, where there are no next-hop objects: each stored once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::Hop;

/// All such sets.
#[derive(Debug, Default)]
pub(super) struct PathSets {
    numbers: BTreeMap<Arc<BTreeSet<Hop>>, u32>,
    sets: Vec<Option<Arc<BTreeSet<Hop>>>>,
    free: Vec<u32>,
    sweep_at: usize,
}

const FIRST_SWEEP: usize = 1024;

impl PathSets {
    /// The number of a set.
    pub(super) fn number(&mut self, hops: &BTreeSet<Hop>) -> u32 {
        if let Some(number) = self.numbers.get(hops) {
            return *number;
        }
        let set = Arc::new(hops.clone());
        let number = self.free.pop().unwrap_or_else(|| {
            self.sets.push(None);
            self.sets.len() as u32 - 1
        });
        if let Some(place) = self.sets.get_mut(number as usize) {
            *place = Some(Arc::clone(&set));
        }
        self.numbers.insert(set, number);
        number
    }

    /// The set with this number.
    pub(super) fn get(&self, number: u32) -> BTreeSet<Hop> {
        let set = self.sets.get(number as usize).and_then(Option::as_ref);
        set.map(|set| BTreeSet::clone(set)).unwrap_or_default()
    }

    /// Whether a set has a hop on this link; it may be one that is not used any more.
    pub(super) fn on_link(&self, link: u32) -> bool {
        self.numbers.keys().any(|set| set.iter().any(|hop| hop.link == link))
    }

    /// Whether so many were added that [`Self::sweep`] pays.
    pub(super) fn full(&self) -> bool {
        self.numbers.len() >= self.sweep_at.max(FIRST_SWEEP)
    }

    /// Forgets those that are not used.
    pub(super) fn sweep(&mut self, used: &BTreeSet<u32>) {
        for (set, number) in self.sets.iter_mut().zip(0..) {
            if set.is_some() && !used.contains(&number) {
                self.numbers.remove(&set.take().unwrap_or_default());
                self.free.push(number);
            }
        }
        self.sweep_at = 2 * self.numbers.len();
    }
}
