//! The objects in memory and the bounded history from which watches are fed.
//!
//! One revision counter serves all resources, as etcd's does. A collection keeps its newest changes; what is
//! older is compacted, and whoever asks for it is told 410.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use super::resource::StorageKey;

/// Namespace (empty for cluster-scoped objects) and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// One change of one object. Created: no `before`. Deleted: no `after`.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) key: Key,
    pub(crate) before: Option<Arc<Value>>,
    pub(crate) after: Option<Arc<Value>>,
    /// The last state of a deleted object, with the revision of its deletion.
    pub(crate) last: Option<Arc<Value>>,
}

/// The history that was asked for has been compacted; the oldest revision that still can be asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Compacted {
    /// The oldest revision that a watch may start from.
    pub(crate) oldest: u64,
}

/// The objects of one resource.
#[derive(Debug, Default)]
pub(crate) struct Collection {
    objects: BTreeMap<Key, Arc<Value>>,
    history: VecDeque<Change>,
    floor: u64,
    published: watch::Sender<u64>,
}

impl Collection {
    /// The current state of an object.
    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// All objects, or those of a namespace, by namespace and name.
    pub(crate) fn in_scope<'a>(
        &'a self,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
        self.objects.iter().filter(move |(key, _)| namespace.is_none_or(|n| n == key.namespace))
    }

    /// Tells of each new revision of this resource.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// What changed after `revision`, oldest first.
    pub(crate) fn since(&self, revision: u64) -> Result<impl Iterator<Item = &Change>, Compacted> {
        if revision < self.floor {
            return Err(Compacted { oldest: self.floor });
        }
        let start = self.history.partition_point(|change| change.revision <= revision);
        Ok(self.history.range(start..))
    }

    /// The objects as they were at `revision`.
    pub(crate) fn at(&self, revision: u64) -> Result<BTreeMap<Key, Arc<Value>>, Compacted> {
        let mut objects = self.objects.clone();
        let changes: Vec<&Change> = self.since(revision)?.collect();
        for change in changes.into_iter().rev() {
            match &change.before {
                Some(before) => objects.insert(change.key.clone(), Arc::clone(before)),
                None => objects.remove(&change.key),
            };
        }
        Ok(objects)
    }

    fn record(&mut self, change: Change, capacity: usize) {
        let revision = change.revision;
        self.history.push_back(change);
        while self.history.len() > capacity {
            if let Some(oldest) = self.history.pop_front() {
                self.floor = oldest.revision;
            }
        }
        self.published.send_replace(revision);
    }
}

/// All collections and the revision they share.
#[derive(Debug)]
pub(crate) struct Store {
    revision: u64,
    collections: BTreeMap<StorageKey, Collection>,
    capacity: usize,
}

impl Store {
    /// An empty store that remembers `capacity` changes of each resource.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { revision: 1, collections: BTreeMap::new(), capacity }
    }

    /// The newest revision.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The objects of a resource; an empty collection springs up where there was none.
    pub(crate) fn collection(&mut self, storage: &StorageKey) -> &Collection {
        self.collections.entry(storage.clone()).or_default()
    }

    /// Writes an object under a new revision, which is put into its metadata.
    pub(crate) fn put(&mut self, storage: &StorageKey, key: Key, mut object: Value) -> Arc<Value> {
        let revision = self.next();
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        let object = Arc::new(object);
        let collection = self.collections.entry(storage.clone()).or_default();
        let before = collection.objects.insert(key.clone(), Arc::clone(&object));
        let change = Change { revision, key, before, after: Some(Arc::clone(&object)), last: None };
        collection.record(change, self.capacity);
        object
    }

    /// Removes an object; its last state carries the revision of the removal.
    pub(crate) fn remove(
        &mut self,
        storage: &StorageKey,
        key: &Key,
        last: Option<Value>,
    ) -> Option<Arc<Value>> {
        let before = self.collections.get_mut(storage)?.objects.remove(key)?;
        let revision = self.next();
        let mut object = last.unwrap_or_else(|| (*before).clone());
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        let last = Arc::new(object);
        let change = Change {
            revision,
            key: key.clone(),
            before: Some(before),
            after: None,
            last: Some(Arc::clone(&last)),
        };
        self.collections.get_mut(storage)?.record(change, self.capacity);
        Some(last)
    }

    /// Forgets the history of the resources for which `of` holds: whatever is older than now is gone.
    pub(crate) fn compact(&mut self, of: impl Fn(&StorageKey) -> bool) {
        let revision = self.next();
        for (storage, collection) in &mut self.collections {
            if of(storage) {
                collection.history.clear();
                collection.floor = revision;
                collection.published.send_replace(revision);
            }
        }
    }

    /// Wakes the watches of a resource, which may have to end.
    pub(crate) fn wake(&self, storage: &StorageKey) {
        if let Some(collection) = self.collections.get(storage) {
            collection.published.send_replace(self.revision);
        }
    }

    fn next(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(name: &str) -> Key {
        Key { namespace: String::new(), name: name.into() }
    }

    #[test]
    fn the_past_can_be_listed_until_it_is_compacted() {
        let storage = (String::new(), "things".to_owned());
        let mut store = Store::new(3);
        store.put(&storage, key("a"), json!({"n": 1}));
        let then = store.revision();
        store.put(&storage, key("b"), json!({"n": 1}));
        store.put(&storage, key("a"), json!({"n": 2}));
        store.remove(&storage, &key("b"), None);
        let past = store.collection(&storage).at(then).expect("still there");
        assert_eq!(past.len(), 1);
        assert_eq!(past[&key("a")]["n"], 1);
        store.put(&storage, key("c"), json!({"n": 1}));
        assert!(store.collection(&storage).at(then).is_err());
    }

    #[test]
    fn a_removed_object_carries_the_revision_of_its_removal() {
        let storage = (String::new(), "things".to_owned());
        let mut store = Store::new(8);
        store.put(&storage, key("a"), json!({}));
        let last = store.remove(&storage, &key("a"), None).expect("was there");
        assert_eq!(last["metadata"]["resourceVersion"], store.revision().to_string());
        assert_eq!(store.collection(&storage).get(&key("a")), None);
    }
}
