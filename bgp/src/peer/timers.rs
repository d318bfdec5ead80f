//! The timers of a connection: data, not tasks.

use std::time::Instant;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// The peer's next sign of life (RFC 4271 §6.5).
    Hold,
    /// Our next sign of life.
    Keepalive,
    /// The peer's taking what we send (RFC 9687).
    SendHold,
    /// The peer's OPEN, before ours goes out.
    DelayOpen,
}

/// When each timer is due.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timers {
    due: [Option<Instant>; 4],
}

impl Timers {
    const ALL: [Timer; 4] = [Timer::Hold, Timer::Keepalive, Timer::SendHold, Timer::DelayOpen];

    pub(crate) fn set(&mut self, timer: Timer, due: Option<Instant>) {
        if let Some(slot) = self.due.get_mut(timer as usize) {
            *slot = due;
        }
    }

    pub(crate) fn is_set(&self, timer: Timer) -> bool {
        self.due.get(timer as usize).is_some_and(Option::is_some)
    }

    /// Sets a timer that is due to a later moment.
    pub(crate) fn put_off(&mut self, timer: Timer, until: Instant, now: Instant) {
        if let Some(slot) = self.due.get_mut(timer as usize)
            && slot.is_some_and(|due| due <= now)
        {
            *slot = Some(until);
        }
    }

    /// The earliest moment at which something is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.iter().flatten().min().copied()
    }

    /// Takes one timer that is due and stops it.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        let place = self.due.iter().position(|due| due.is_some_and(|due| due <= now))?;
        *self.due.get_mut(place)? = None;
        Self::ALL.get(place).copied()
    }
}
