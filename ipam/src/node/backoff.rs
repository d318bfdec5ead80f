//! How long to wait before asking the API server again.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(30);

/// Failures in a row, and when to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Backoff {
    failures: u32,
    pub(super) retry_at: Instant,
}

impl Backoff {
    /// After a failure at `now`, following those of `before`: doubles from 0.2 s to 30 s. `jitter`, any
    /// number that differs between nodes, lengthens it by up to a quarter, so that they do not come back
    /// together.
    pub(super) fn after(before: Option<Self>, jitter: u32, now: Instant) -> Self {
        let failures = before.map_or(0, |before| before.failures.saturating_add(1));
        let base = FIRST.saturating_mul(1 << failures.min(8)).min(LONGEST);
        let share = (jitter.wrapping_mul(0x9e37_79b9).rotate_left(failures % 32)) % 256;
        Self { failures, retry_at: now + base + base / 1024 * share }
    }
}
