//! Two connections to one peer, because both have dialled or the peer is back: which of them stays (RFC 4271 §6.8).
//!
//! Identifiers decide, but never against a session that the peer has seen Established. Our KEEPALIVE is what lets it see
//! that, so it is a promise: a connection that may still have to go keeps it back (it *gives way*), and one on which it
//! is out stays. What connects afterwards is refused, or *held*: it hears no OPEN, on which the peer would decide for
//! itself, until the peer has confirmed the other one or closed it. Each of these waits has an end.

use std::time::{Duration, Instant};

use super::dialer::After;
use super::negotiate::Agreed;
use super::outbox::Outbox;
use super::session::{Link, Phase, Session};
use super::{Core, Peer};
use crate::config::{ConnId, Local};
use crate::speaker::Direction;
use crate::wire::{ErrorCode, Open};

/// A connection of the peer's that comes later than this after a session is no part of a collision: the peer has lost
/// its end of the session and is back (RFC 4724 §5).
const COLLISION_TIME: Duration = Duration::from_secs(1);

/// How a new connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// With our OPEN.
    Open,
    /// Without a word, until it is known what becomes of another one.
    Hold,
    /// Not at all.
    Refuse,
}

/// Two connections to one peer, of which one must go.
enum Collision {
    /// The peer has lost its end of the old one and is back.
    Returned { old: ConnId },
    /// One of them lost.
    Lost { loser: ConnId },
}

/// Who must have dialled the connection that survives: the one with the higher identifier (RFC 4271 §6.8, RFC 6286
/// §2.3).
fn winner(theirs: &Open, local: &Local) -> Direction {
    let we_win = (local.router_id, local.asn) > (theirs.router_id, theirs.asn);
    if we_win { Direction::Active } else { Direction::Passive }
}

impl Peer {
    /// How a connection from this side begins. A peer that decides by identifiers as soon as two OPENs are there may be
    /// closing the one that we have confirmed, if this one wins.
    pub(super) fn entry(&self, direction: Direction, local: &Local, now: Instant) -> Entry {
        let fresh = |session: &&Session| {
            session.link.direction != direction
                && session.confirmed_at().is_some_and(|at| now < at + COLLISION_TIME)
        };
        let Some(rival) = self.sessions.iter().find(fresh) else { return Entry::Open };
        let wins = rival.agreed().is_some_and(|agreed| winner(&agreed.theirs, local) == direction);
        if wins && rival.established().is_none() { Entry::Hold } else { Entry::Refuse }
    }

    /// One of two connections goes, if the OPEN that has come on `new` makes them collide.
    pub(super) fn resolve_collision(&mut self, new: ConnId, theirs: &Open, core: &mut Core, now: Instant) {
        match self.collision(new, theirs, &core.local) {
            None => {}
            Some(Collision::Returned { old }) => {
                core.close(old, Outbox::default());
                self.closed(old, core, now);
            }
            Some(Collision::Lost { loser }) => {
                self.fail(loser, ErrorCode::COLLISION.into(), After::Wait, core, now);
                // If the session that stays is dead at the other end, a word on it will show that.
                for session in self.sessions.iter_mut().filter(|session| session.established().is_some()) {
                    session.keep_alive(&mut core.chance, now);
                }
            }
        }
    }

    /// Which of two connections goes, when the OPEN has come on `new` (RFC 4271 §6.8, RFC 6286 §2.3).
    fn collision(&self, new: ConnId, theirs: &Open, local: &Local) -> Option<Collision> {
        let new = self.session(new)?;
        // Of several others the one that got furthest is the rival: only one may ever be Established.
        let others = self.sessions.iter().filter(|session| session.link.conn != new.link.conn);
        let other = others.max_by_key(|session| session.state())?;
        let (new_conn, old) = (new.link.conn, other.link.conn);
        match &other.phase {
            Phase::Closed | Phase::Delayed(_) | Phase::Held(_) | Phase::OpenSent(_) => None,
            Phase::Established(up) => {
                // Who dials twice has lost the first.
                let again = new.link.direction == other.link.direction;
                let late = new.connected_at >= up.since + COLLISION_TIME;
                let returned = up.agreed.restart.is_some() && (again || late);
                Some(if returned { Collision::Returned { old } } else { Collision::Lost { loser: new_conn } })
            }
            // If it is confirmed it wins, for otherwise this one would have been held or have gone, or the peer has not
            // answered for long.
            Phase::OpenConfirm(_) => Some(Collision::Lost {
                loser: if new.link.direction == winner(theirs, local) { old } else { new_conn },
            }),
        }
    }

    /// Whether a connection on which both OPENs are there must not hear our KEEPALIVE yet: because it loses against
    /// another one once the OPEN comes on that, or because the peer may come across that one only when the session is
    /// up, and take it for our return (RFC 4724 §5).
    pub(super) fn gives_way(&self, link: Link, agreed: &Agreed, local: &Local) -> bool {
        let loses = link.direction != winner(&agreed.theirs, local);
        let replaceable = link.direction == Direction::Passive && agreed.restart.is_some();
        let has_rival = self.rivals(link.direction).next().is_some();
        (loses || replaceable) && has_rival || replaceable && self.dialer.dialling()
    }

    /// The connections from the other side than this on which the peer owes us its OPEN.
    fn rivals(&self, direction: Direction) -> impl Iterator<Item = ConnId> {
        let rivals = self
            .sessions
            .iter()
            .filter(move |session| session.link.direction != direction && session.is_unanswered());
        rivals.map(|session| session.link.conn)
    }

    /// The peer had its time: connections on which it says nothing go, and the one that gave way to them does so no
    /// longer.
    pub(super) fn yield_no_longer(&mut self, conn: ConnId, core: &mut Core, now: Instant) {
        let Some(direction) = self.session(conn).map(|session| session.link.direction) else { return };
        for rival in self.rivals(direction).collect::<Vec<_>>() {
            self.fail(rival, ErrorCode::COLLISION.into(), After::Wait, core, now);
        }
        // It has gone on with the last of them, unless it waited for a dial.
        if self.session(conn).is_some_and(Session::yields) {
            self.abandon_dial(core);
            self.go_on(conn, core, now);
        }
    }

    /// Connections that waited for another one go on, or go, when that is decided.
    pub(super) fn settle_collisions(&mut self, core: &mut Core, now: Instant) {
        let ready = |session: &&Session| {
            let agreed = session.agreed().filter(|_| session.yields());
            agreed.is_some_and(|agreed| !self.gives_way(session.link, agreed, &core.local))
        };
        if let Some(conn) = self.sessions.iter().find(ready).map(|session| session.link.conn) {
            self.go_on(conn, core, now);
        }
        let held = self.sessions.iter().find(|session| session.is_held());
        let Some(conn) = held.map(|session| session.link.conn) else { return };
        if self.is_up() {
            return self.fail(conn, ErrorCode::COLLISION.into(), After::Wait, core, now);
        }
        if self.sessions.iter().all(|session| session.confirmed_at().is_none())
            && let Some(theirs) = self.session_mut(conn).and_then(|session| session.release(now))
        {
            self.on_kept_open(conn, &theirs, core, now);
        }
    }

    /// A connection that gave way to another does so no longer.
    fn go_on(&mut self, conn: ConnId, core: &mut Core, now: Instant) {
        if self.session_mut(conn).is_some_and(|session| session.go_on(&mut core.chance, now)) {
            self.up(conn, core, now);
        }
        self.report(core, now);
    }
}
