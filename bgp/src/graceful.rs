//! Graceful restart, our own side of it (RFC 4724 §4.1): when our start is over. `retained` is the other side.

use std::time::{Duration, Instant};

/// The part of the settling time for which the set of peers must not have grown.
const QUIET_PART: u32 = 5;

/// Whether the first exchange of routes after our start is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settling {
    window: Duration,
    /// When the peers were first declared, and when one was last added.
    declared: Option<(Instant, Instant)>,
    done: bool,
}

impl Settling {
    pub(crate) fn new(window: Duration) -> Self {
        Self { window, declared: None, done: false }
    }

    /// Another longest wait, from the same beginning.
    pub(crate) fn set_window(&mut self, window: Duration) {
        self.window = window;
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// The peers were declared. The clock starts with the first time: before it, silence says nothing.
    pub(crate) fn peers_declared(&mut self, added: bool, now: Instant) {
        let (first, last) = self.declared.unwrap_or((now, now));
        self.declared = Some((first, if added { now } else { last }));
    }

    /// Looks whether it is over; true once.
    pub(crate) fn check(&mut self, all_heard: bool, now: Instant) -> bool {
        let Some((first, last)) = self.declared else { return false };
        let over = now >= first + self.window || all_heard && now >= last + self.window / QUIET_PART;
        let news = over && !self.done;
        self.done |= over;
        news
    }

    /// When to look again.
    pub(crate) fn next(&self, now_heard: bool) -> Option<Instant> {
        let (first, last) = self.declared.filter(|_| !self.done)?;
        let end = first + self.window;
        Some(if now_heard { end.min(last + self.window / QUIET_PART) } else { end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn at(start: Instant, secs: u64) -> Instant {
        start + Duration::from_secs(secs)
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn nothing_settles_before_the_peers_are_declared_and_everything_when_the_time_is_over() {
        let start = Instant::now();
        let mut settling = Settling::new(WINDOW);
        assert!(!settling.check(true, at(start, 3600)));
        settling.peers_declared(true, at(start, 3600));
        assert!(!settling.check(false, at(start, 3609)));
        assert_eq!(settling.next(false), Some(at(start, 3610)));
        assert!(settling.check(false, at(start, 3610)));
        assert!(!settling.check(false, at(start, 3611)));
        assert_eq!(settling.next(true), None);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn peers_that_keep_coming_put_off_an_early_end_but_not_the_last_one() {
        let start = Instant::now();
        let mut settling = Settling::new(WINDOW);
        for secs in 0..9 {
            settling.peers_declared(true, at(start, secs));
            assert!(!settling.check(true, at(start, secs + 1)));
        }
        settling.peers_declared(false, at(start, 9));
        assert!(settling.check(true, at(start, 10)));
    }
}
