//! A bounded channel of changes that coalesces by key: between two reads only the last value of a key is kept.
//!
//! Memory is bounded by the number of distinct keys, not by the number of changes, so a flapping
//! peer cannot make the reader fall behind without end. There is one sender and one receiver; the
//! lock inside is held for one map operation and guards nothing but the queue itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Makes a channel of changes keyed by `K`.
pub fn coalescing<K: Ord, V>() -> (Sender<K, V>, Receiver<K, V>) {
    let shared = Arc::new(Shared {
        queue: Mutex::new(Queue { changes: BTreeMap::new(), closed: false }),
        ready: Notify::new(),
    });
    (Sender { shared: Arc::clone(&shared) }, Receiver { shared })
}

/// The writing end; dropping it ends the channel once drained.
#[derive(Debug)]
pub struct Sender<K: Ord, V> {
    shared: Arc<Shared<K, V>>,
}

/// The reading end.
#[derive(Debug)]
pub struct Receiver<K: Ord, V> {
    shared: Arc<Shared<K, V>>,
}

#[derive(Debug)]
struct Shared<K: Ord, V> {
    queue: Mutex<Queue<K, V>>,
    ready: Notify,
}

#[derive(Debug)]
struct Queue<K: Ord, V> {
    changes: BTreeMap<K, V>,
    closed: bool,
}

impl<K: Ord, V> Shared<K, V> {
    fn lock(&self) -> MutexGuard<'_, Queue<K, V>> {
        // A map insertion does not panic half-way: a poisoned queue is still a valid one.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord, V> Sender<K, V> {
    /// Sets the latest value of `key`, replacing one that has not been read yet.
    pub fn send(&self, key: K, value: V) {
        self.shared.lock().changes.insert(key, value);
        self.shared.ready.notify_one();
    }

    /// Drops everything that has not been read yet and sends `key` alone: the source of the changes begins anew.
    pub fn restart(&self, key: K, value: V) {
        self.shared.lock().changes = BTreeMap::from([(key, value)]);
        self.shared.ready.notify_one();
    }
}

impl<K: Ord, V> Drop for Sender<K, V> {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.ready.notify_one();
    }
}

impl<K: Ord, V> Receiver<K, V> {
    /// Waits for changes and takes at most `budget` of them in key order; `None` when the sender
    /// is gone and everything was read. Cancel safe.
    pub async fn recv(&mut self, budget: usize) -> Option<Vec<(K, V)>> {
        loop {
            if let Some(taken) = self.take(budget) {
                return taken;
            }
            self.shared.ready.notified().await;
        }
    }

    fn take(&self, budget: usize) -> Option<Option<Vec<(K, V)>>> {
        let mut queue = self.shared.lock();
        if queue.changes.is_empty() {
            return queue.closed.then_some(None);
        }
        let taken = std::iter::from_fn(|| queue.changes.pop_first()).take(budget).collect();
        Some(Some(taken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_last_value_of_a_key_is_delivered() {
        let (sender, mut receiver) = coalescing();
        sender.send("a", 1);
        sender.send("b", 1);
        sender.send("a", 2);
        assert_eq!(receiver.recv(10).await, Some(vec![("a", 2), ("b", 1)]));
    }

    #[tokio::test]
    async fn what_exceeds_the_budget_is_delivered_by_the_next_call() {
        let (sender, mut receiver) = coalescing();
        for key in 0..3 {
            sender.send(key, ());
        }
        assert_eq!(receiver.recv(2).await.map(|batch| batch.len()), Some(2));
        assert_eq!(receiver.recv(2).await.map(|batch| batch.len()), Some(1));
    }

    #[tokio::test]
    async fn the_end_comes_after_the_last_change() {
        let (sender, mut receiver) = coalescing();
        sender.send(1, ());
        drop(sender);
        assert_eq!(receiver.recv(8).await, Some(vec![(1, ())]));
        assert_eq!(receiver.recv(8).await, None);
    }

    #[tokio::test]
    async fn a_restart_drops_what_was_not_read_yet() {
        let (sender, mut receiver) = coalescing();
        sender.send(5, "old");
        sender.restart(0, "begin");
        sender.send(7, "new");
        assert_eq!(receiver.recv(8).await, Some(vec![(0, "begin"), (7, "new")]));
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken_by_a_change() {
        let (sender, mut receiver) = coalescing();
        let reader = tokio::spawn(async move { receiver.recv(8).await });
        tokio::task::yield_now().await;
        sender.send(7, 'x');
        assert_eq!(reader.await.expect("the reader ends"), Some(vec![(7, 'x')]));
    }
}
