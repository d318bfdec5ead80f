//! Two connections to one peer, because both have dialled or the peer is back: which of them stays (RFC 4271 §6.8).

use std::time::{Duration, Instant};

use super::dialer::After;
use super::outbox::Outbox;
use super::session::Phase;
use super::{Core, Peer};
use crate::config::{ConnId, Local};
use crate::speaker::Direction;
use crate::wire::{ErrorCode, Open};

/// A connection of the peer's that comes later than this after a session is no part of a collision: the peer has lost
/// its end of the session and is back (RFC 4724 §5).
const COLLISION_TIME: Duration = Duration::from_secs(1);

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
            Phase::Closed | Phase::Delayed(_) | Phase::OpenSent(_) => return None,
            Phase::Established(up) if new.connected_at >= up.since + COLLISION_TIME => {
                let returned = up.agreed.restart.is_some();
                return Some(if returned {
                    Collision::Returned { old }
                } else {
                    Collision::Lost { loser: new_conn }
                });
            }
            Phase::OpenConfirm(_) | Phase::Established(_) => {}
        }
        Some(Collision::Lost {
            loser: if new.link.direction == winner(theirs, local) { old } else { new_conn },
        })
    }

    /// Whether a connection will lose against another one, once the OPEN comes on that. The peer must not hear our
    /// KEEPALIVE on it: a session that is Established there and then closed takes the other connection with it in some
    /// speakers, and the routes that were kept over a restart.
    pub(super) fn yields(&self, conn: ConnId, theirs: &Open, local: &Local) -> bool {
        let direction = self.session(conn).map(|session| session.link.direction);
        direction.is_some_and(|direction| direction != winner(theirs, local) && self.has_rival(direction))
    }

    /// Whether the peer owes us the OPEN on a connection from the other side than this.
    pub(super) fn has_rival(&self, direction: Direction) -> bool {
        let mut others = self.sessions.iter().filter(|session| session.link.direction != direction);
        others.any(|session| matches!(session.phase, Phase::Delayed(_) | Phase::OpenSent(_)))
    }

    /// A connection that gave way to another does so no longer.
    pub(super) fn go_on(&mut self, conn: ConnId, core: &mut Core, now: Instant) {
        if self.session_mut(conn).is_some_and(|session| session.go_on(&mut core.chance, now)) {
            self.up(conn, core, now);
        }
        self.report(core, now);
    }
}
