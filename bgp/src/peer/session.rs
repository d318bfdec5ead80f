//! The state machine of one connection (RFC 4271 §8.2.2), from our OPEN to the end.
//!
//! Each state is a value that owns exactly its data and is consumed by what ends it. The states without a connection
//! are in `dialer`; what a message means for routes is in `receive`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::negotiate::{Agreed, negotiate};
use super::outbox::Outbox;
use super::refresh::Refreshing;
use super::status::count;
use super::timers::{Timer, Timers};
use crate::chance::Chance;
use crate::config::{ConnId, PeerConfig};
use crate::event::PeerState;
use crate::prefix::{Families, Family};
use crate::snapshot::MessageCounts;
use crate::speaker::Direction;
use crate::wire::{self, Dialect, ErrorCode, Framer, Message, MessageType, Notification, Open};

/// How long the peer may take to send its OPEN (RFC 4271 §8.2.2 suggests minutes; a peer that is there needs no second).
const OPEN_TIME: Duration = Duration::from_secs(30);
/// How long a connection gives way to another one whose OPEN has not come yet.
const YIELD_TIME: Duration = Duration::from_secs(1);
/// How long a connection is held while another one that we have confirmed comes up or is closed by the peer. Shorter than
/// [`YIELD_TIME`]: a peer that follows the same rules may be giving way to just this one.
const HELD_TIME: Duration = Duration::from_millis(200);
/// The least time without progress after which a connection counts as stuck (RFC 9687 §4).
const SEND_HOLD: Duration = Duration::from_secs(480);

/// The state of a connection.
#[derive(Debug, Default)]
pub(crate) enum Phase {
    /// Over.
    #[default]
    Closed,
    /// Our OPEN waits for the peer's, for a while (RFC 4271 §8.1.1 DelayOpen).
    Delayed(OpenSent),
    /// Our OPEN waits for what becomes of another connection.
    Held(Held),
    /// Our OPEN is out.
    OpenSent(OpenSent),
    /// Their OPEN is good.
    OpenConfirm(OpenConfirm),
    /// Routes are exchanged.
    Established(Box<Established>),
}

/// Waiting for the peer's OPEN, with what ours says.
#[derive(Debug)]
pub(crate) struct OpenSent {
    ours: Open,
}

/// Saying nothing, with what our OPEN would say and what theirs has said.
#[derive(Debug)]
pub(crate) struct Held {
    ours: Open,
    theirs: Option<Open>,
}

/// Waiting for the first KEEPALIVE.
#[derive(Debug)]
pub(crate) struct OpenConfirm {
    agreed: Agreed,
    answer: Answer,
}

/// Our KEEPALIVE, which lets the peer call the session Established.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It is out.
    Sent { at: Instant },
    /// It waits, as another connection goes before this one; the peer's may have come.
    Withheld { confirmed: bool },
}

/// Exchanging routes.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) agreed: Agreed,
    pub(crate) since: Instant,
    /// The families that have had End-of-RIB.
    pub(crate) ended: Families,
    /// The families that are ignored after a fault (RFC 7606 §2).
    pub(crate) disabled: Families,
    /// The families whose limit has been warned about.
    pub(crate) warned: Families,
    /// The families whose limit was passed, and that was told.
    pub(crate) exceeded: Families,
    /// The families that the peer is telling again.
    pub(crate) refreshing: Refreshing,
    /// UPDATEs received, by family.
    pub(crate) updates_in: [u64; Family::ALL.len()],
    /// UPDATEs sent, by family.
    pub(crate) updates_out: [u64; Family::ALL.len()],
}

impl Established {
    /// One more UPDATE about this family has come.
    pub(crate) fn count_in(&mut self, family: Family) {
        if let Some(count) = self.updates_in.get_mut(family as usize) {
            *count += 1;
        }
    }
}

impl Phase {
    /// Whether a message of this type may come now (RFC 4271 §8.2.2).
    ///
    /// # Errors
    /// The NOTIFICATION of RFC 6608 §3, which names the type of the message.
    pub(crate) fn expects(&self, kind: MessageType) -> Result<(), Notification> {
        use MessageType::{Keepalive, Notification as Ending, Open, RouteRefresh, Update};
        let (expected, code) = match self {
            Self::Closed => (false, ErrorCode::FSM),
            Self::Delayed(_) | Self::Held(Held { theirs: None, .. }) => {
                (matches!(kind, Open | Ending), ErrorCode::FSM)
            }
            Self::Held(_) => (matches!(kind, Ending), ErrorCode::FSM),
            Self::OpenSent(_) => (matches!(kind, Open | Ending), ErrorCode::FSM_OPEN_SENT),
            Self::OpenConfirm(_) => (matches!(kind, Keepalive | Ending), ErrorCode::FSM_OPEN_CONFIRM),
            Self::Established(_) => {
                (matches!(kind, Update | Keepalive | Ending | RouteRefresh), ErrorCode::FSM_ESTABLISHED)
            }
        };
        if expected { Ok(()) } else { Err(Notification { code, data: vec![kind.code()] }) }
    }

    /// What our OPEN and theirs agree on; `None` if we are past that.
    ///
    /// # Errors
    /// The NOTIFICATION with which to refuse.
    pub(crate) fn judge(&self, theirs: &Open, config: &PeerConfig) -> Result<Option<Agreed>, Notification> {
        match self {
            Self::Delayed(OpenSent { ours })
            | Self::Held(Held { ours, .. })
            | Self::OpenSent(OpenSent { ours }) => negotiate(ours, theirs, config).map(Some),
            Self::Closed | Self::OpenConfirm(_) | Self::Established(_) => Ok(None),
        }
    }

    /// The peer's OPEN is good.
    fn opened(self, agreed: Agreed, answer: Answer) -> Self {
        match self {
            Self::Delayed(_) | Self::OpenSent(_) => Self::OpenConfirm(OpenConfirm { agreed, answer }),
            other => other,
        }
    }

    /// A KEEPALIVE has come.
    fn confirmed(self, now: Instant) -> Self {
        match self {
            Self::OpenConfirm(OpenConfirm { agreed, answer: Answer::Withheld { .. } }) => {
                Self::OpenConfirm(OpenConfirm { agreed, answer: Answer::Withheld { confirmed: true } })
            }
            Self::OpenConfirm(OpenConfirm { agreed, answer: Answer::Sent { .. } }) => {
                Self::Established(Box::new(Established {
                    agreed,
                    since: now,
                    ended: Families::NONE,
                    disabled: Families::NONE,
                    warned: Families::NONE,
                    exceeded: Families::NONE,
                    refreshing: Refreshing::default(),
                    updates_in: Default::default(),
                    updates_out: Default::default(),
                }))
            }
            other => other,
        }
    }
}

/// Where a connection comes from and goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) conn: ConnId,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) direction: Direction,
}

impl Link {
    /// The index of the network link over which both ends speak link-locally; 0 if they do not.
    pub(crate) fn zone(&self) -> u32 {
        let zone = |address: &SocketAddr| match address {
            SocketAddr::V6(address) => address.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        [&self.remote, &self.local].into_iter().map(zone).find(|zone| *zone != 0).unwrap_or(0)
    }
}

/// One connection and its state.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) link: Link,
    pub(crate) connected_at: Instant,
    pub(crate) phase: Phase,
    pub(crate) framer: Framer,
    pub(crate) outbox: Outbox,
    pub(crate) timers: Timers,
    /// The time between keepalives, as configured.
    pub(crate) pace: Option<Duration>,
    /// The owner of the socket knows that there is something to send.
    signalled: bool,
    sent: MessageCounts,
}

impl Session {
    /// A new connection. Our OPEN goes out now, or after this delay if the peer's does not come first.
    pub(crate) fn open(link: Link, ours: Open, delay: Option<Duration>, now: Instant) -> Self {
        let mut session = Self::new(link, Phase::Delayed(OpenSent { ours }), now);
        match delay {
            Some(delay) => session.timers.set(Timer::DelayOpen, Some(now + delay)),
            None => session.speak_first(now),
        }
        session
    }

    /// A new connection that says nothing until it is known what becomes of another one.
    pub(crate) fn hold(link: Link, ours: Open, now: Instant) -> Self {
        let mut session = Self::new(link, Phase::Held(Held { ours, theirs: None }), now);
        session.timers.set(Timer::DelayOpen, Some(now + HELD_TIME));
        session
    }

    fn new(link: Link, phase: Phase, now: Instant) -> Self {
        Self {
            link,
            connected_at: now,
            phase,
            framer: Framer::new(),
            outbox: Outbox::default(),
            timers: Timers::default(),
            pace: None,
            signalled: false,
            sent: MessageCounts::default(),
        }
    }

    pub(crate) fn is_held(&self) -> bool {
        matches!(self.phase, Phase::Held(_))
    }

    /// Keeps the peer's OPEN while the connection is held.
    pub(crate) fn keep(&mut self, open: &Open) {
        if let Phase::Held(Held { theirs, .. }) = &mut self.phase {
            *theirs = Some(open.clone());
        }
    }

    /// The other connection is gone: our OPEN goes out. Returns the peer's, if it has come.
    pub(crate) fn release(&mut self, now: Instant) -> Option<Open> {
        match std::mem::take(&mut self.phase) {
            Phase::Held(Held { ours, theirs }) => {
                self.phase = Phase::Delayed(OpenSent { ours });
                self.speak_first(now);
                theirs
            }
            other => {
                self.phase = other;
                None
            }
        }
    }

    /// The peer has had its time: our OPEN goes out.
    pub(crate) fn speak_first(&mut self, now: Instant) {
        let Phase::Delayed(OpenSent { ours }) = &self.phase else { return };
        let ours = ours.clone();
        self.send(&Message::Open(ours.clone()));
        self.phase = Phase::OpenSent(OpenSent { ours });
        self.timers.set(Timer::DelayOpen, None);
        self.timers.set(Timer::Hold, Some(now + OPEN_TIME));
    }

    pub(crate) fn state(&self) -> PeerState {
        match self.phase {
            Phase::Closed => PeerState::Idle,
            Phase::Delayed(_) | Phase::Held(_) if self.link.direction == Direction::Active => {
                PeerState::Connect
            }
            Phase::Delayed(_) | Phase::Held(_) => PeerState::Active,
            Phase::OpenSent(_) => PeerState::OpenSent,
            Phase::OpenConfirm(_) => PeerState::OpenConfirm,
            Phase::Established(_) => PeerState::Established,
        }
    }

    pub(crate) fn established(&self) -> Option<&Established> {
        match &self.phase {
            Phase::Established(established) => Some(established),
            _ => None,
        }
    }

    pub(crate) fn established_mut(&mut self) -> Option<&mut Established> {
        match &mut self.phase {
            Phase::Established(established) => Some(established),
            _ => None,
        }
    }

    /// Our OPEN, while it counts.
    pub(crate) fn ours(&self) -> Option<&Open> {
        match &self.phase {
            Phase::Closed => None,
            Phase::Delayed(OpenSent { ours })
            | Phase::Held(Held { ours, .. })
            | Phase::OpenSent(OpenSent { ours }) => Some(ours),
            Phase::OpenConfirm(OpenConfirm { agreed, .. }) => Some(&agreed.ours),
            Phase::Established(established) => Some(&established.agreed.ours),
        }
    }

    /// What was agreed on, once both OPENs are there.
    pub(crate) fn agreed(&self) -> Option<&Agreed> {
        match &self.phase {
            Phase::OpenConfirm(OpenConfirm { agreed, .. }) => Some(agreed),
            Phase::Established(established) => Some(&established.agreed),
            Phase::Closed | Phase::Delayed(_) | Phase::Held(_) | Phase::OpenSent(_) => None,
        }
    }

    /// Since when the peer may call the session Established: our KEEPALIVE is out, or theirs is in as well.
    pub(crate) fn confirmed_at(&self) -> Option<Instant> {
        match &self.phase {
            Phase::OpenConfirm(OpenConfirm { answer: Answer::Sent { at }, .. }) => Some(*at),
            Phase::Established(established) => Some(established.since),
            _ => None,
        }
    }

    /// Whether the peer owes us its OPEN on a connection that is not held.
    pub(crate) fn is_unanswered(&self) -> bool {
        matches!(self.phase, Phase::Delayed(_) | Phase::OpenSent(_))
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.agreed().map_or(Dialect::BEFORE_OPEN, |agreed| agreed.dialect)
    }

    /// Whether both keep routes when the connection is lost (RFC 4724).
    pub(crate) fn is_restartable(&self) -> bool {
        self.agreed().is_some_and(|agreed| agreed.restart.is_some())
    }

    /// Whether both keep routes when the session ends by a NOTIFICATION (RFC 8538 §2).
    pub(crate) fn outlives_notifications(&self) -> bool {
        let restart = self.agreed().and_then(|agreed| agreed.restart.as_ref());
        restart.is_some_and(|restart| restart.notification)
    }

    /// Appends a message to what is on its way. What does not fit is not said: none of ours is that large.
    pub(crate) fn send(&mut self, message: &Message) {
        let dialect = self.dialect();
        if wire::encode(message, &dialect, self.outbox.buffer()).is_ok() {
            count(&mut self.sent, message.kind(), 1);
        }
    }

    /// Messages sent since the last call.
    pub(crate) fn take_sent(&mut self) -> MessageCounts {
        std::mem::take(&mut self.sent)
    }

    /// Takes the peer's OPEN: answers with a KEEPALIVE, behind our own OPEN if that is still owed, and waits for theirs.
    /// The KEEPALIVE of a connection that yields to another waits for [`go_on`](Self::go_on).
    pub(crate) fn on_open(&mut self, agreed: Agreed, yields: bool, chance: &mut Chance, now: Instant) {
        self.speak_first(now);
        let answer = if yields { Answer::Withheld { confirmed: false } } else { Answer::Sent { at: now } };
        self.phase = std::mem::take(&mut self.phase).opened(agreed, answer);
        self.heard(now);
        if yields {
            self.timers.set(Timer::Keepalive, Some(now + YIELD_TIME));
        } else {
            self.send(&Message::Keepalive);
            self.arm_keepalive(chance, now);
        }
    }

    /// Whether our KEEPALIVE waits for what becomes of another connection.
    pub(crate) fn yields(&self) -> bool {
        matches!(self.phase, Phase::OpenConfirm(OpenConfirm { answer: Answer::Withheld { .. }, .. }))
    }

    /// No other connection goes before this one any more: sends the KEEPALIVE that waits; says whether that made the
    /// session.
    pub(crate) fn go_on(&mut self, chance: &mut Chance, now: Instant) -> bool {
        let Phase::OpenConfirm(confirm) = &mut self.phase else { return false };
        let answer = std::mem::replace(&mut confirm.answer, Answer::Sent { at: now });
        self.send(&Message::Keepalive);
        self.arm_keepalive(chance, now);
        answer == Answer::Withheld { confirmed: true } && self.on_keepalive(now)
    }

    /// Takes a KEEPALIVE; says whether it made the session.
    pub(crate) fn on_keepalive(&mut self, now: Instant) -> bool {
        let before = self.state();
        self.phase = std::mem::take(&mut self.phase).confirmed(now);
        self.heard(now);
        before != self.state()
    }

    /// The peer is alive.
    pub(crate) fn heard(&mut self, now: Instant) {
        if let Some(agreed) = self.agreed() {
            let due = agreed.hold.map(|hold| now + hold);
            self.timers.set(Timer::Hold, due);
        }
    }

    /// The time between two keepalives of ours: a third of the hold time, or less if so configured (RFC 4271 §4.4).
    pub(crate) fn keepalive(&self) -> Option<Duration> {
        let third = self.agreed()?.hold? / 3;
        Some(self.pace.map_or(third, |wanted| third.min(wanted)))
    }

    /// Sets the keepalive timer, with jitter (RFC 4271 §10).
    fn arm_keepalive(&mut self, chance: &mut Chance, now: Instant) {
        let due = self.keepalive().map(|time| now + chance.jitter(time));
        self.timers.set(Timer::Keepalive, due);
    }

    /// The time between keepalives may have changed.
    pub(crate) fn hasten(&mut self, chance: &mut Chance, now: Instant) {
        if self.timers.is_set(Timer::Keepalive) && !self.yields() {
            self.arm_keepalive(chance, now);
        }
    }

    /// Our sign of life is due. While octets wait to be sent another one would say nothing.
    pub(crate) fn keep_alive(&mut self, chance: &mut Chance, now: Instant) {
        if self.outbox.is_empty() {
            self.send(&Message::Keepalive);
        }
        self.arm_keepalive(chance, now);
    }

    /// Asks for the connection to be written if it must be and is not; watches that it gets on (RFC 9687).
    pub(crate) fn wants_writing(&mut self, routes_pending: bool, now: Instant) -> bool {
        let pending = routes_pending || !self.outbox.is_empty();
        if !pending {
            self.timers.set(Timer::SendHold, None);
        } else if self.outbox.take_progress() || !self.timers.is_set(Timer::SendHold) {
            self.arm_send_hold(now);
        }
        pending && !std::mem::replace(&mut self.signalled, true)
    }

    fn arm_send_hold(&mut self, now: Instant) {
        let hold = self.agreed().and_then(|agreed| agreed.hold);
        self.timers.set(Timer::SendHold, hold.map(|hold| now + SEND_HOLD.max(hold * 2)));
    }

    /// Whether nothing was taken since the send hold timer was set; sets it again if something was.
    pub(crate) fn is_stuck(&mut self, now: Instant) -> bool {
        if self.outbox.take_progress() {
            self.arm_send_hold(now);
            return false;
        }
        true
    }

    /// Moves octets to `buf`; says whether more remain.
    pub(crate) fn transmit(&mut self, routes_pending: bool, buf: &mut Vec<u8>, budget: usize) -> bool {
        self.outbox.take(buf, budget);
        self.signalled = routes_pending || !self.outbox.is_empty();
        self.signalled
    }
}
