//! How long an empty block is kept before it is returned.
//!
//! A block that is returned and then missed is kept longer the next time, so that load which swings around the end of
//! a block costs a few claims and not one with every swing.

use std::time::{Duration, Instant};

/// Doublings at most: five minutes become eighty.
const MOST: u32 = 4;

/// What the blocks of one pool taught.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Patience {
    /// How often a block was missed soon after it was returned.
    missed: u32,
    returned: Option<Instant>,
}

impl Patience {
    /// How long to keep an empty block, of a usual time.
    pub(super) fn time(&self, usual: Duration) -> Duration {
        usual.saturating_mul(1 << self.missed)
    }

    /// A block was returned because it had been empty for long.
    pub(super) fn returned(&mut self, now: Instant) {
        self.returned = Some(now);
    }

    /// A block is needed.
    pub(super) fn claims(&mut self, usual: Duration, now: Instant) {
        if let Some(returned) = self.returned.take() {
            let soon = now.saturating_duration_since(returned) < usual.saturating_mul(1 << MOST);
            self.missed = if soon { (self.missed + 1).min(MOST) } else { 0 };
        }
    }
}
