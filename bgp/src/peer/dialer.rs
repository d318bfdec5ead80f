//! When to dial: the states of RFC 4271 §8 without a connection, and the waits between attempts.

use std::time::{Duration, Instant};

use crate::chance::Chance;
use crate::config::{Dial, PeerConfig};
use crate::event::PeerState;

/// A session that lasted this long wipes out the failures before it.
const STEADY: Duration = Duration::from_secs(60);
/// The longest wait for the answer to a dial; the owner of the sockets should give up earlier.
const DIAL_TIME: Duration = Duration::from_secs(120);
/// Connections accepted at once, and how long it takes to earn one more.
const BURST: u32 = 10;
const EARN: Duration = Duration::from_secs(1);

/// What the dialer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Administratively down.
    Stopped,
    /// Refusing connections after a fault.
    Idle { until: Option<Instant> },
    /// Dialling.
    Connect { give_up: Instant },
    /// Waiting for the peer; dialling at some time, if at all.
    Active { until: Option<Instant> },
}

/// What follows the end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// Wait, but take the peer's connections.
    Wait,
    /// Wait and refuse connections: the peer breaks the rules.
    Refuse,
    /// As [`Refuse`](Self::Refuse), for this long.
    RefuseFor(Duration),
    /// As [`Refuse`](Self::Refuse), until somebody resets the peer or changes what it was refused for.
    RefuseForGood,
}

/// The dialling side of a peer.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    stage: Stage,
    failures: u32,
    first_wait: Duration,
    longest_wait: Duration,
    damping: bool,
    passive: bool,
    credit: u32,
    earned_at: Instant,
}

impl Dialer {
    /// A dialer that dials at once.
    pub(crate) fn new(config: &PeerConfig, now: Instant) -> Self {
        let mut dialer = Self {
            stage: Stage::Stopped,
            failures: 0,
            first_wait: config.connect_retry,
            longest_wait: config.connect_retry_max,
            damping: config.damping,
            passive: !matches!(config.target, Dial::Active(_)),
            credit: BURST,
            earned_at: now,
        };
        dialer.listen(Some(now));
        dialer
    }

    fn listen(&mut self, until: Option<Instant>) {
        self.stage = Stage::Active { until: until.filter(|_| !self.passive) };
    }

    pub(crate) fn state(&self) -> PeerState {
        match self.stage {
            Stage::Stopped | Stage::Idle { .. } => PeerState::Idle,
            Stage::Connect { .. } => PeerState::Connect,
            Stage::Active { .. } => PeerState::Active,
        }
    }

    /// Connections are refused after a fault.
    pub(crate) fn refuses(&self) -> bool {
        matches!(self.stage, Stage::Idle { .. })
    }

    pub(crate) fn dialling(&self) -> bool {
        matches!(self.stage, Stage::Connect { .. })
    }

    /// When something is to be done.
    pub(crate) fn next(&self) -> Option<Instant> {
        match self.stage {
            Stage::Stopped => None,
            Stage::Connect { give_up } => Some(give_up),
            Stage::Idle { until } | Stage::Active { until } => until,
        }
    }

    /// Whether it is time to dial; if so the dialer counts on it. With a connection already there it waits on.
    pub(crate) fn take_due(&mut self, connected: bool, chance: &mut Chance, now: Instant) -> bool {
        if self.next().is_none_or(|due| due > now) {
            return false;
        }
        if self.passive {
            self.listen(None);
            return false;
        }
        if self.dialling() {
            self.failures = self.failures.saturating_add(1);
        }
        if connected {
            let wait = self.wait(chance);
            self.listen(Some(now + wait));
            return false;
        }
        self.stage = Stage::Connect { give_up: now + DIAL_TIME };
        true
    }

    /// The dial failed.
    pub(crate) fn failed(&mut self, chance: &mut Chance, now: Instant) {
        if self.dialling() {
            self.fail(After::Wait, chance, now);
        }
    }

    /// The dial came through.
    pub(crate) fn connected(&mut self) {
        if self.dialling() {
            self.listen(None);
        }
    }

    /// A session is up: nothing to do.
    pub(crate) fn established(&mut self) {
        self.stage = Stage::Active { until: None };
    }

    /// The peer has come first; says whether there is a dial to be given up.
    pub(crate) fn abandon(&mut self) -> bool {
        let dialling = self.dialling();
        self.connected();
        dialling
    }

    /// The last connection is gone; `lasted` is the time for which the session was up.
    pub(crate) fn ended(
        &mut self,
        lasted: Option<Duration>,
        after: After,
        chance: &mut Chance,
        now: Instant,
    ) {
        if lasted.is_some_and(|lasted| lasted >= STEADY) {
            self.failures = 0;
        }
        if self.stage == Stage::Stopped || self.dialling() && after == After::Wait {
            return;
        }
        self.fail(after, chance, now);
    }

    fn fail(&mut self, after: After, chance: &mut Chance, now: Instant) {
        let wait = self.wait(chance);
        self.failures = self.failures.saturating_add(1);
        match after {
            After::Wait => self.listen(Some(now + wait)),
            After::Refuse => self.stage = Stage::Idle { until: Some(now + wait) },
            After::RefuseFor(time) => self.stage = Stage::Idle { until: Some(now + time) },
            After::RefuseForGood => self.stage = Stage::Idle { until: None },
        }
    }

    /// Forgets all failures and dials at once.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.failures = 0;
        self.listen(Some(now));
    }

    /// Changes the waits for the next failure.
    pub(crate) fn configure(&mut self, config: &PeerConfig, now: Instant) {
        let passive = !matches!(config.target, Dial::Active(_));
        let woken = self.passive && !passive;
        self.passive = passive;
        (self.first_wait, self.longest_wait) = (config.connect_retry, config.connect_retry_max);
        self.damping = config.damping;
        if woken && let Stage::Active { until: None } = self.stage {
            self.listen(Some(now));
        }
    }

    pub(crate) fn stop(&mut self) {
        self.stage = Stage::Stopped;
    }

    /// Whether a connection of the peer's may be taken now. A peer that connects in a storm is throttled.
    pub(crate) fn admits(&mut self, now: Instant) -> bool {
        while self.credit < BURST && now >= self.earned_at + EARN {
            self.credit += 1;
            self.earned_at += EARN;
        }
        if self.credit == BURST {
            self.earned_at = now;
        }
        let open = matches!(self.stage, Stage::Connect { .. } | Stage::Active { .. });
        if open && self.credit > 0 {
            self.credit -= 1;
            return true;
        }
        false
    }

    /// The wait after the failures so far, doubled for each if they count.
    fn wait(&self, chance: &mut Chance) -> Duration {
        let longest = self.longest_wait.max(self.first_wait);
        let failures = if self.damping { self.failures } else { 0 };
        let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
        chance.jitter(self.first_wait.saturating_mul(factor).min(longest))
    }
}
