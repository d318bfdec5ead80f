//! A peer that goes without loss: no longer declared, it stays until what replaces it is there.

use std::time::{Duration, Instant};

use super::outbox::Outbox;
use super::session::Established;
use super::{Core, Peer};
use crate::config::{ConnId, PeerConfig, PeerId};
use crate::event::Event;
use crate::prefix::{Families, Family};
use crate::wire::{ErrorCode, Notification};

impl Peer {
    /// The range that it came from.
    pub(crate) fn range(&self) -> Option<&PeerId> {
        self.range.as_ref()
    }

    /// When it was declared.
    pub(crate) fn added_at(&self) -> Instant {
        self.added_at
    }

    /// Whether there is something to lose.
    pub(crate) fn is_useful(&self) -> bool {
        self.is_up() || !self.retained.is_empty()
    }

    /// Whether nothing is left of it: no connection, no route, no fault that is held against it.
    pub(crate) fn is_spent(&self) -> bool {
        self.sessions.is_empty() && self.retained.is_empty() && !self.dialer.refuses()
    }

    /// Whether that is the same router under another name.
    pub(crate) fn is_same_host(&self, other: &PeerConfig) -> bool {
        let here = self.established().map(|(session, _)| session.link.remote);
        here.is_some_and(|remote| other.target.is_at(remote))
            || self.config.target.address().is_some()
                && self.config.target.address() == other.target.address()
    }

    /// No longer declared, and kept.
    pub(crate) fn lingers(&self) -> bool {
        self.lingers.is_some()
    }

    pub(crate) fn lingered_out(&self, now: Instant) -> bool {
        self.lingers.is_some_and(|until| until <= now)
    }

    /// It is declared no longer, and stays; what it said is kept even if the session ends meanwhile.
    pub(crate) fn linger(&mut self, until: Instant, core: &mut Core, now: Instant) {
        self.lingers = Some(until);
        self.dialer.stop();
        self.retained.put_off(until);
        core.tell(Event::PeerLingers { peer: self.id.clone() });
        self.report(core, now);
    }

    /// It is declared again.
    pub(super) fn stay(&mut self, now: Instant) {
        if self.lingers.take().is_some() {
            if self.is_up() {
                self.dialer.established();
            } else {
                self.dialer.restart(now);
            }
        }
    }

    /// Which routes stay when the session ends, and until when (RFC 4724 §4.2).
    pub(super) fn lasting(
        &self,
        established: &Established,
        graceful: bool,
        now: Instant,
    ) -> (Families, Instant) {
        let restart = established.agreed.restart.as_ref().filter(|_| graceful);
        let (families, until) =
            restart.map_or((Families::NONE, now), |restart| (restart.families, now + restart.time));
        match self.lingers.filter(|_| graceful) {
            Some(lingers) => (established.agreed.dialect.families, until.max(lingers)),
            None => (families, until),
        }
    }

    /// For how long routes of a family stay after that, marked (RFC 9494 §4.2). A peer that is no longer declared is not
    /// waited for.
    pub(super) fn lasting_long(
        &self,
        established: &Established,
        graceful: bool,
        family: Family,
    ) -> Option<Duration> {
        let restart = established.agreed.restart.as_ref().filter(|_| graceful && self.lingers.is_none());
        restart.and_then(|restart| restart.long_lived.get(&family)).map(|long| long.time)
    }

    /// Ends the session so that the peer keeps our routes, if it ever does.
    pub(crate) fn part(&mut self, core: &mut Core, now: Instant) {
        self.end_gently(&ErrorCode::PEER_DECONFIGURED.into(), core, now);
    }

    /// Ends all connections so that both sides keep routes, if they have agreed to.
    pub(super) fn end_gently(&mut self, notification: &Notification, core: &mut Core, now: Instant) {
        while let Some(conn) = self.sessions.last().map(|session| session.link.conn) {
            self.end_one_gently(conn, notification, core, now);
        }
    }

    pub(super) fn end_one_gently(
        &mut self,
        conn: ConnId,
        notification: &Notification,
        core: &mut Core,
        now: Instant,
    ) {
        let Some(session) = self.session(conn) else { return };
        if session.outlives_notifications() || !session.is_restartable() {
            self.dismiss(conn, notification.clone(), core, now);
        } else {
            // Without RFC 8538 only a connection that is lost without a word is a restart (RFC 4724 §4.2).
            core.close(conn, Outbox::default());
            self.lost(conn, &notification.to_string(), core, now);
        }
    }

    /// Whether we reflect for it (RFC 4456): it is our client, or was one until not long ago.
    pub(super) fn is_client(&self) -> bool {
        self.config.reflector_client || self.client_until.is_some()
    }

    /// Takes or drops it as a client in the midst of a session.
    pub(super) fn reflect(&mut self, core: &mut Core) {
        if let Some((session, _)) = self.established() {
            let facts = self.facts(session, core);
            core.rib.set_client(self.index, facts);
        }
    }
}
