//! Routes that cannot be installed, why, and what the log was told about them.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::RouteKey;

use super::{Blocked, FibEvent, Why};

#[derive(Debug)]
struct Entry {
    blocked: Blocked,
    /// Whether the kernel said so (it may change its mind) rather than our own knowledge.
    refused: bool,
}

/// The blocked routes, counted by reason.
#[derive(Debug, Default)]
pub(super) struct BlockedRoutes {
    entries: BTreeMap<RouteKey, Entry>,
    counts: BTreeMap<Why, usize>,
    examples: BTreeMap<Why, RouteKey>,
    told: BTreeSet<Why>,
}

impl BlockedRoutes {
    /// Blocks a route.
    pub(super) fn block(&mut self, key: RouteKey, why: Why, detail: String, refused: bool) {
        self.unblock(&key);
        *self.counts.entry(why).or_default() += 1;
        self.examples.entry(why).or_insert(key);
        self.entries.insert(key, Entry { blocked: Blocked { why, detail }, refused });
    }

    /// Lifts the block of a route, if there is one.
    pub(super) fn unblock(&mut self, key: &RouteKey) {
        let Some(Entry { blocked: Blocked { why, .. }, .. }) = self.entries.remove(key) else { return };
        if let Some(count) = self.counts.get_mut(&why) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&why);
                self.examples.remove(&why);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn contains(&self, key: &RouteKey) -> bool {
        self.entries.contains_key(key)
    }

    pub(super) fn why(&self, key: &RouteKey) -> Option<Why> {
        self.entries.get(key).map(|entry| entry.blocked.why)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&RouteKey, &Blocked)> {
        self.entries.iter().map(|(key, entry)| (key, &entry.blocked))
    }

    pub(super) fn counts(&self) -> &BTreeMap<Why, usize> {
        &self.counts
    }

    /// Those of reasons that the log was told of: what is only in doubt yet is not among them.
    pub(super) fn told(&self) -> BTreeMap<Why, usize> {
        self.counts
            .iter()
            .filter(|(why, _)| self.told.contains(why))
            .map(|(why, count)| (*why, *count))
            .collect()
    }

    /// The routes that the kernel refused and that may be tried again.
    pub(super) fn refused(&self) -> Vec<RouteKey> {
        self.entries.iter().filter(|(_, entry)| entry.refused).map(|(key, _)| *key).collect()
    }

    /// What the log should be told since the last time: reasons that appeared or went away.
    pub(super) fn news(&mut self) -> Vec<FibEvent> {
        let now: BTreeSet<Why> = self.counts.keys().copied().collect();
        let ended = self.told.difference(&now).map(|why| FibEvent::Unblocked { why: *why });
        let begun = now
            .difference(&self.told)
            .filter_map(|why| Some(FibEvent::Blocked { why: *why, example: *self.examples.get(why)? }));
        let news = ended.chain(begun).collect();
        self.told = now;
        news
    }
}
