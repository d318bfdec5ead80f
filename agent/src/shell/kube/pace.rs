//! When which object is written: the latest wish per object, never more often than the pace allows, with backoff.
//!
//! Pure but for its callers: time is an argument. What was written last is remembered, so that a
//! wish that changes nothing costs no request.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The wishes for a set of objects, and what became of them.
#[derive(Debug)]
pub(crate) struct Pace<K, V> {
    objects: BTreeMap<K, Object<V>>,
    settings: Settings,
}

/// How fast one object may be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// How long the first change waits for company.
    pub(crate) gather: Duration,
    /// The least time between two writes of one object.
    pub(crate) pause: Duration,
    /// What that grows to, twice as long each time, while changes do not cease.
    pub(crate) longest_pause: Duration,
    /// The longest wait after failures.
    pub(crate) longest_backoff: Duration,
}

#[derive(Debug)]
struct Object<V> {
    wished: V,
    written: Option<V>,
    /// Something else than what was written has been seen since, too early to tell whether it is older than the write.
    doubted: bool,
    /// A write is on its way.
    busy: bool,
    /// When it may be written; `None` when nothing is to be done.
    due: Option<Instant>,
    not_before: Option<Instant>,
    pause: Duration,
    failures: u32,
}

impl<K: Ord + Clone, V: PartialEq + Clone> Pace<K, V> {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { objects: BTreeMap::new(), settings }
    }

    /// Declares all wishes at once; objects that are no longer wished for are forgotten, not deleted.
    pub(crate) fn wish(&mut self, wishes: impl IntoIterator<Item = (K, V)>, now: Instant) {
        let mut before = std::mem::take(&mut self.objects);
        for (key, wished) in wishes {
            let mut object = before.remove(&key).unwrap_or_else(|| Object::new(wished.clone()));
            object.wished = wished;
            object.plan(now + self.settings.gather);
            self.objects.insert(key, object);
        }
    }

    /// Forgets what was written of one object: somebody else changed it. Within a pause of our own write nobody is
    /// suspected yet, since what is seen then may be older than it: the object is written when the pause is over, unless
    /// [`Self::confirm`] comes first.
    pub(crate) fn forget(&mut self, key: &K, now: Instant) {
        let Some(object) = self.objects.get_mut(key) else { return };
        if object.not_before.is_some_and(|at| now < at) {
            object.doubted = true;
        } else {
            object.written = None;
        }
        object.plan(now + self.settings.gather);
    }

    /// What was written has been seen: nobody changed it.
    pub(crate) fn confirm(&mut self, key: &K, now: Instant) {
        if let Some(object) = self.objects.get_mut(key) {
            object.doubted = false;
            object.due = None;
            object.plan(now + self.settings.gather);
        }
    }

    /// What is wished has been seen, whoever wrote it.
    pub(crate) fn fulfilled(&mut self, key: &K, now: Instant) {
        if let Some(object) = self.objects.get_mut(key) {
            object.written = Some(object.wished.clone());
        }
        self.confirm(key, now);
    }

    /// Takes the next object that is due.
    pub(crate) fn take(&mut self, now: Instant) -> Option<(K, V)> {
        let Settings { pause, longest_pause, .. } = self.settings;
        let (key, object) =
            self.objects.iter_mut().find(|(_, object)| object.due.is_some_and(|due| due <= now))?;
        let held_back = object.not_before.is_some() && object.due == object.not_before;
        object.pause = if held_back { (object.pause * 2).min(longest_pause) } else { pause };
        object.due = None;
        object.busy = true;
        Some((key.clone(), object.wished.clone()))
    }

    /// When [`Self::take`] has something next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.objects.values().filter_map(|object| object.due).min()
    }

    /// The write of `value` is done.
    pub(crate) fn written(&mut self, key: &K, value: V, now: Instant) {
        let Some(object) = self.objects.get_mut(key) else { return };
        object.busy = false;
        object.doubted = false;
        object.failures = 0;
        object.written = Some(value);
        object.not_before = Some(now + object.pause);
        object.plan(now);
    }

    /// The write failed and is tried again later; `jitter` in 0..1 spreads the nodes of a cluster.
    pub(crate) fn failed(&mut self, key: &K, jitter: f64, now: Instant) {
        let Settings { pause, longest_backoff, .. } = self.settings;
        let Some(object) = self.objects.get_mut(key) else { return };
        object.busy = false;
        object.failures = object.failures.saturating_add(1);
        let backoff = pause.saturating_mul(1 << object.failures.min(16)).min(longest_backoff);
        object.not_before = Some(now + backoff.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0));
        object.plan(now);
    }
}

impl<V: PartialEq> Object<V> {
    fn new(wished: V) -> Self {
        Self {
            wished,
            written: None,
            doubted: false,
            busy: false,
            due: None,
            not_before: None,
            pause: Duration::ZERO,
            failures: 0,
        }
    }

    fn plan(&mut self, earliest: Instant) {
        if self.busy {
            return;
        }
        if self.written.as_ref() == Some(&self.wished) && !self.doubted {
            self.due = None;
            return;
        }
        let allowed = self.not_before.map_or(earliest, |not_before| not_before.max(earliest));
        self.due = Some(self.due.map_or(allowed, |due| due.min(allowed)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        gather: Duration::from_millis(100),
        pause: Duration::from_secs(1),
        longest_pause: Duration::from_secs(8),
        longest_backoff: Duration::from_secs(60),
    };

    fn pace() -> (Pace<&'static str, u32>, Instant) {
        (Pace::new(SETTINGS), Instant::now())
    }

    #[test]
    fn changes_that_come_together_are_written_once_with_the_last_value() {
        let (mut pace, start) = pace();
        pace.wish([("a", 1)], start);
        pace.wish([("a", 2)], start + Duration::from_millis(50));
        assert_eq!(pace.take(start + Duration::from_millis(99)), None);
        assert_eq!(pace.take(start + Duration::from_millis(100)), Some(("a", 2)));
        assert_eq!(pace.take(start + Duration::from_secs(9)), None);
    }

    #[test]
    fn two_writes_of_one_object_are_a_pause_apart() {
        let (mut pace, start) = pace();
        pace.wish([("a", 1)], start);
        let first = start + SETTINGS.gather;
        pace.take(first).expect("due");
        pace.wish([("a", 2)], first);
        pace.written(&"a", 1, first);
        assert_eq!(pace.deadline(), Some(first + SETTINGS.pause));
    }

    #[test]
    fn changes_that_do_not_cease_are_written_ever_less_often_until_there_is_quiet() {
        let (mut pace, start) = pace();
        pace.wish([("a", 0)], start);
        let mut now = start + SETTINGS.gather;
        let mut pauses = Vec::new();
        for value in 1..8 {
            let (key, written) = pace.take(now).expect("due");
            pace.wish([("a", value)], now);
            pace.written(&key, written, now);
            let next = pace.deadline().expect("more to write");
            pauses.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 8, 8, 8]);
        pace.take(now).expect("due");
        pace.written(&"a", 7, now);
        let later = now + Duration::from_secs(60);
        pace.wish([("a", 9)], later);
        pace.take(later + SETTINGS.gather).expect("due");
        pace.wish([("a", 10)], later + SETTINGS.gather);
        pace.written(&"a", 9, later + SETTINGS.gather);
        assert_eq!(pace.deadline(), Some(later + SETTINGS.gather + SETTINGS.pause));
    }

    #[test]
    fn a_wish_that_is_already_written_costs_nothing() {
        let (mut pace, start) = pace();
        pace.wish([("a", 1)], start);
        let (key, value) = pace.take(start + SETTINGS.gather).expect("due");
        pace.written(&key, value, start + SETTINGS.gather);
        pace.wish([("a", 1)], start + Duration::from_secs(5));
        assert_eq!(pace.deadline(), None);
    }

    #[test]
    fn failures_wait_longer_each_time_up_to_the_limit() {
        let (mut pace, start) = pace();
        pace.wish([("a", 1)], start);
        let mut now = start + SETTINGS.gather;
        let mut waits = Vec::new();
        for _ in 0..8 {
            pace.take(now).expect("due");
            pace.failed(&"a", 1.0, now);
            let next = pace.deadline().expect("tried again");
            waits.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn an_object_that_somebody_else_changed_is_written_again() {
        let (mut pace, start) = pace();
        pace.wish([("a", 1)], start);
        pace.take(start + SETTINGS.gather).expect("due");
        pace.written(&"a", 1, start + SETTINGS.gather);
        pace.forget(&"a", start + Duration::from_secs(5));
        assert!(pace.take(start + Duration::from_secs(6)).is_some());
    }

    #[test]
    fn what_somebody_else_changed_just_after_us_is_written_when_the_pause_is_over() {
        let (mut pace, start) = pace();
        pace.wish([("a", 1)], start);
        let first = start + SETTINGS.gather;
        pace.take(first).expect("due");
        pace.written(&"a", 1, first);
        pace.forget(&"a", first + Duration::from_millis(50));
        pace.wish([("a", 1)], first + Duration::from_millis(60));
        assert_eq!(pace.deadline(), Some(first + SETTINGS.pause));
        assert_eq!(pace.take(first + SETTINGS.pause), Some(("a", 1)));
        pace.written(&"a", 1, first + SETTINGS.pause);
        assert_eq!(pace.deadline(), None);
    }

    #[test]
    fn what_was_seen_before_our_own_write_was_costs_no_second_one() {
        let (mut pace, start) = pace();
        pace.wish([("a", 1)], start);
        let first = start + SETTINGS.gather;
        pace.take(first).expect("due");
        pace.written(&"a", 1, first);
        pace.forget(&"a", first);
        pace.confirm(&"a", first + Duration::from_millis(50));
        assert_eq!(pace.deadline(), None);
    }

    #[test]
    fn what_is_as_wished_from_the_start_is_not_written() {
        let (mut pace, start) = pace();
        pace.wish([("a", 1)], start);
        pace.fulfilled(&"a", start);
        assert_eq!(pace.deadline(), None);
        pace.forget(&"a", start);
        assert_eq!(pace.deadline(), Some(start + SETTINGS.gather), "no pause has begun");
    }
}
