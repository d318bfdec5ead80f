//! Desired against actual: a map of what should be, a map of what is, and always at hand the difference.

use std::collections::{BTreeMap, BTreeSet};

/// Keeps two maps and the keys in which they differ. Each call costs the logarithm of the number of keys.
#[derive(Debug, Clone)]
pub struct Tracker<K, V> {
    entries: BTreeMap<K, Entry<V>>,
    pending: BTreeSet<K>,
}

#[derive(Debug, Clone)]
struct Entry<V> {
    desired: Option<V>,
    actual: Option<V>,
}

/// What has to be done for one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a, K, V> {
    /// It should exist and does not.
    Create(&'a K, &'a V),
    /// It should be the second and is the third.
    Update(&'a K, &'a V, &'a V),
    /// It exists and should not.
    Delete(&'a K, &'a V),
}

impl<K, V> Default for Tracker<K, V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), pending: BTreeSet::new() }
    }
}

impl<K: Clone + Ord, V: PartialEq> Tracker<K, V> {
    /// Makes a tracker that wants nothing and knows of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what should be at `key`; `None`: nothing.
    pub fn desire(&mut self, key: K, value: Option<V>) {
        self.entry(key, |entry| entry.desired = value);
    }

    /// Says what is at `key`, from a notification or an acknowledged request; `None`: nothing. Returns what
    /// was thought to be there.
    pub fn observe(&mut self, key: K, value: Option<V>) -> Option<V> {
        self.entry(key, |entry| std::mem::replace(&mut entry.actual, value))
    }

    /// Says all that is. What the dump does not name does not exist.
    pub fn observe_all(&mut self, dump: impl IntoIterator<Item = (K, V)>) {
        let mut gone: BTreeSet<K> = self.actual().map(|(key, _)| key.clone()).collect();
        for (key, value) in dump {
            gone.remove(&key);
            self.observe(key, Some(value));
        }
        for key in gone {
            self.observe(key, None);
        }
    }

    /// What should be at `key`.
    pub fn desired_at(&self, key: &K) -> Option<&V> {
        self.entries.get(key)?.desired.as_ref()
    }

    /// What is at `key`, as far as is known.
    pub fn actual_at(&self, key: &K) -> Option<&V> {
        self.entries.get(key)?.actual.as_ref()
    }

    /// All that should be, in the order of the keys.
    pub fn desired(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().filter_map(|(key, entry)| Some((key, entry.desired.as_ref()?)))
    }

    /// All that is, as far as is known, in the order of the keys.
    pub fn actual(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().filter_map(|(key, entry)| Some((key, entry.actual.as_ref()?)))
    }

    /// What has to be done so that what is becomes what should be, in the order of the keys.
    pub fn pending(&self) -> impl Iterator<Item = Change<'_, K, V>> {
        self.pending.iter().filter_map(|key| {
            let (key, entry) = self.entries.get_key_value(key)?;
            match (&entry.desired, &entry.actual) {
                (Some(desired), None) => Some(Change::Create(key, desired)),
                (Some(desired), Some(actual)) => Some(Change::Update(key, desired, actual)),
                (None, Some(actual)) => Some(Change::Delete(key, actual)),
                (None, None) => None,
            }
        })
    }

    /// For how many keys something has to be done.
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// Whether what is is what should be.
    pub fn in_sync(&self) -> bool {
        self.pending.is_empty()
    }

    fn entry<R>(&mut self, key: K, change: impl FnOnce(&mut Entry<V>) -> R) -> R {
        let entry = self.entries.entry(key.clone()).or_insert(Entry { desired: None, actual: None });
        let result = change(entry);
        let (empty, differs) =
            (entry.desired.is_none() && entry.actual.is_none(), entry.desired != entry.actual);
        if empty {
            self.entries.remove(&key);
        }
        if differs {
            self.pending.insert(key);
        } else {
            self.pending.remove(&key);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Desire(u8, Option<u8>),
        Observe(u8, Option<u8>),
        ObserveAll(BTreeMap<u8, u8>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let value = || proptest::option::of(0..3u8);
        prop_oneof![
            (0..6u8, value()).prop_map(|(key, value)| Step::Desire(key, value)),
            (0..6u8, value()).prop_map(|(key, value)| Step::Observe(key, value)),
            btree_map(0..6u8, 0..3u8, 0..6).prop_map(Step::ObserveAll),
        ]
    }

    fn put(map: &mut BTreeMap<u8, u8>, key: u8, value: Option<u8>) {
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
    }

    /// The same difference, from the two maps and nothing else.
    fn difference<'a>(
        desired: &'a BTreeMap<u8, u8>,
        actual: &'a BTreeMap<u8, u8>,
    ) -> Vec<Change<'a, u8, u8>> {
        let keys: BTreeSet<&u8> = desired.keys().chain(actual.keys()).collect();
        keys.into_iter()
            .filter_map(|key| match (desired.get(key), actual.get(key)) {
                (Some(want), None) => Some(Change::Create(key, want)),
                (Some(want), Some(is)) if want != is => Some(Change::Update(key, want, is)),
                (None, Some(is)) => Some(Change::Delete(key, is)),
                _ => None,
            })
            .collect()
    }

    proptest! {
        #[test]
        fn the_tracker_agrees_with_two_plain_maps(steps in vec(step(), 0..60)) {
            let (mut desired, mut actual) = (BTreeMap::new(), BTreeMap::new());
            let mut tracker = Tracker::new();
            for step in steps {
                match step {
                    Step::Desire(key, value) => {
                        put(&mut desired, key, value);
                        tracker.desire(key, value);
                    }
                    Step::Observe(key, value) => {
                        let before = actual.get(&key).copied();
                        put(&mut actual, key, value);
                        prop_assert_eq!(tracker.observe(key, value), before);
                    }
                    Step::ObserveAll(dump) => {
                        actual = dump.clone();
                        tracker.observe_all(dump);
                    }
                }
                let expected = difference(&desired, &actual);
                prop_assert_eq!(tracker.pending().collect::<Vec<_>>(), expected.clone());
                prop_assert_eq!(tracker.in_sync(), expected.is_empty());
                prop_assert_eq!(tracker.pending_len(), expected.len());
                prop_assert!(tracker.desired().eq(desired.iter()));
                prop_assert!(tracker.actual().eq(actual.iter()));
            }
        }
    }
}
