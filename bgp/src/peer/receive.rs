//! What a peer's octets mean: messages to the state machine, routes to the table, faults to their price.

use std::time::Instant;

use super::dialer::After;
use super::outbox::Outbox;
use super::{Core, Peer};
use crate::config::{ConnId, Role};
use crate::event::{Event, FaultAction};
use crate::policy::Source;
use crate::prefix::{Families, Family};
use crate::rib::Screen;
use crate::wire::{
    self, Action, Announcement, AttributeFault, Decoded, ErrorCode, Frame, FrameError, Framer, Message,
    Notification, Open, Update,
};

/// How a connection ends: by a NOTIFICATION of ours, and what follows.
struct End {
    notification: Notification,
    after: After,
}

impl From<Notification> for End {
    fn from(notification: Notification) -> Self {
        Self { notification, after: After::Refuse }
    }
}

impl Peer {
    /// Takes octets, cut anywhere.
    pub(crate) fn received(&mut self, conn: ConnId, bytes: &[u8], core: &mut Core, now: Instant) {
        let Some(session) = self.session_mut(conn) else { return };
        let mut framer = std::mem::take(&mut session.framer);
        self.record.tell_faults_again();
        let mut input = bytes;
        loop {
            let step = match framer.next(&mut input) {
                Ok(None) => break,
                Ok(Some(frame)) => self.on_frame(conn, frame, core, now),
                Err(error) => Err(self.fatal(&error, core)),
            };
            match step {
                Ok(()) => {}
                Err(End { notification, after }) => self.fail(conn, notification, after, core, now),
            }
            let Some(session) = self.session(conn) else { return };
            if session.dialect().extended_messages {
                framer.allow_extended_messages();
            }
        }
        if let Some(session) = self.session_mut(conn) {
            session.framer = framer;
        }
    }

    /// Tells a fault that ends the session.
    fn fatal(&mut self, error: &FrameError, core: &mut Core) -> End {
        self.record.faulty();
        self.tell_fault(FaultAction::SessionReset, error.to_string(), core);
        Notification::from(error).into()
    }

    fn tell_fault(&mut self, action: FaultAction, reason: String, core: &mut Core) {
        if self.record.may_tell_fault() || action == FaultAction::SessionReset {
            core.tell(Event::Fault { peer: self.id.clone(), action, reason });
        }
    }

    fn on_frame(&mut self, conn: ConnId, frame: Frame<'_>, core: &mut Core, now: Instant) -> Result<(), End> {
        let Some(session) = self.session_mut(conn) else { return Ok(()) };
        session.phase.expects(frame.kind())?;
        let dialect = session.dialect();
        self.record.received(frame.kind());
        let decoded = wire::decode(frame, &dialect).map_err(|error| self.fatal(&error, core))?;
        if !core.monitors.is_idle() {
            self.mirror(frame, &decoded, core, now);
        }
        match decoded.message {
            Message::Open(open) => self.on_open(conn, &open, core, now)?,
            Message::Keepalive => self.on_keepalive(conn, core, now),
            Message::Update(update) => self.on_update(conn, update, decoded.faults, core, now)?,
            Message::EndOfRib(family) => self.on_end_of_rib(conn, family, core, now),
            Message::RouteRefresh(refresh) => self.on_refresh(conn, refresh, core, now),
            Message::Notification(notification) => self.on_notification(conn, &notification, core, now),
        }
        Ok(())
    }

    /// Shows an UPDATE to those who watch: as it came, or if something was wrong with it, what was taken of it.
    fn mirror(&self, frame: Frame<'_>, decoded: &Decoded, core: &mut Core, now: Instant) {
        match &decoded.message {
            Message::Update(update) if !decoded.faults.is_empty() => {
                let Some(dialect) = core.monitors.dialect(self.index) else { return };
                let mut octets = Vec::new();
                // What was read can be written again, if it is not too long for one message with what was left out.
                if wire::encode(&Message::Update(update.clone()), &dialect, &mut octets).is_err() {
                    return;
                }
                let (mut framer, mut input) = (Framer::new(), octets.as_slice());
                framer.allow_extended_messages();
                while let Ok(Some(frame)) = framer.next(&mut input) {
                    core.monitors.update(self.index, frame.octets(), now);
                }
            }
            Message::Update(_) | Message::EndOfRib(_) => {
                core.monitors.update(self.index, frame.octets(), now)
            }
            _ => {}
        }
    }

    fn on_open(&mut self, conn: ConnId, theirs: &Open, core: &mut Core, now: Instant) -> Result<(), End> {
        let Some(session) = self.sessions.iter_mut().find(|session| session.link.conn == conn) else {
            return Ok(());
        };
        let Some(agreed) = session.phase.judge(theirs, &self.config)? else { return Ok(()) };
        if session.is_held() {
            session.keep(theirs);
            return Ok(());
        }
        self.resolve_collision(conn, theirs, core, now);
        let link = self.session(conn).map(|session| session.link);
        let yields = link.is_some_and(|link| self.gives_way(link, &agreed, &core.local));
        if let Some(session) = self.session_mut(conn) {
            session.on_open(agreed, yields, &mut core.chance, now);
        }
        self.report(core, now);
        Ok(())
    }

    /// The OPEN of a connection that was held counts now.
    pub(super) fn on_kept_open(&mut self, conn: ConnId, theirs: &Open, core: &mut Core, now: Instant) {
        if let Err(End { notification, after }) = self.on_open(conn, theirs, core, now) {
            self.fail(conn, notification, after, core, now);
        }
    }

    fn on_keepalive(&mut self, conn: ConnId, core: &mut Core, now: Instant) {
        if self.session_mut(conn).is_some_and(|session| session.on_keepalive(now)) {
            self.up(conn, core, now);
            self.settle_collisions(core, now);
            self.report(core, now);
        }
    }

    fn on_notification(&mut self, conn: ConnId, notification: &Notification, core: &mut Core, now: Instant) {
        let Some(session) = self.remove(conn) else { return };
        self.record.notified(true, notification, now);
        core.tell(Event::NotificationReceived {
            peer: self.id.clone(),
            code: notification.code.code,
            subcode: notification.code.subcode,
            text: notification.to_string(),
        });
        core.close(conn, Outbox::default());
        let graceful = (session.outlives_notifications() || self.lingers())
            && notification.code != ErrorCode::HARD_RESET;
        self.over(session, graceful, After::Wait, core, now);
    }

    fn on_end_of_rib(&mut self, conn: ConnId, family: Family, core: &mut Core, now: Instant) {
        let Some(session) = self.session_mut(conn) else { return };
        session.heard(now);
        let Some(up) = session.established_mut() else { return };
        if !up.agreed.dialect.families.contains(family) || up.ended.contains(family) {
            return;
        }
        up.ended.insert(family);
        up.count_in(family);
        let complete = up.ended == up.agreed.dialect.families;
        self.heard |= complete;
        core.tell(Event::EndOfRib { peer: self.id.clone(), family });
        self.retained.remove(family);
        let gone = core.rib.flush_stale(self.index, family);
        self.tell_expired(gone, core);
    }

    fn on_update(
        &mut self,
        conn: ConnId,
        update: Update,
        faults: Vec<AttributeFault>,
        core: &mut Core,
        now: Instant,
    ) -> Result<(), End> {
        if !faults.is_empty() {
            self.on_faults(conn, &faults, core);
        }
        let Some(session) = self.session_mut(conn) else { return Ok(()) };
        session.heard(now);
        let Some(up) = session.established_mut() else { return Ok(()) };
        let withdrawn = update.withdrawn.iter().map(|nlri| nlri.family());
        let announced = update.announced.iter().filter_map(|one| Some(one.prefixes.first()?.family()));
        let families: Families = withdrawn.chain(announced).collect();
        for family in families.iter() {
            up.count_in(family);
        }
        let taken = |family| up.agreed.dialect.families.contains(family) && !up.disabled.contains(family);
        let withdrawn: Vec<_> = update.withdrawn.into_iter().filter(|nlri| taken(nlri.family())).collect();
        let announced: Vec<_> = update
            .announced
            .into_iter()
            .filter(|one| one.prefixes.first().is_some_and(|nlri| taken(nlri.family())))
            .collect();
        core.rib.withdraw_all(self.index, &withdrawn);
        announced.into_iter().try_for_each(|announcement| self.announce(announcement, core, conn))
    }

    /// Carries out what RFC 7606 leaves to the receiver, and tells the rest.
    fn on_faults(&mut self, conn: ConnId, faults: &[AttributeFault], core: &mut Core) {
        self.record.faulty();
        for fault in faults {
            let action = match fault.action {
                Action::Discard => FaultAction::AttributeDiscard,
                Action::TreatAsWithdraw => FaultAction::TreatAsWithdraw,
                Action::DisableFamily => FaultAction::DisableFamily,
                Action::Reset => FaultAction::SessionReset,
            };
            self.tell_fault(action, fault.to_string(), core);
            let up = self.session_mut(conn).and_then(|session| session.established_mut());
            if let (Some(family), Some(up)) = (fault.family, up) {
                up.disabled.insert(family);
                core.rib.flush(self.index, family);
            }
        }
    }

    fn announce(&mut self, announcement: Announcement, core: &mut Core, conn: ConnId) -> Result<(), End> {
        let Some(family) = announcement.prefixes.first().map(|nlri| nlri.family()) else { return Ok(()) };
        let kind = self.kind(core);
        let asn = self.session(conn).and_then(|up| up.agreed()).map(|agreed| agreed.asn);
        // A route server puts nothing before the paths of its clients (RFC 7947 §2.2.2).
        let signed = self.config.role != Some(Role::RouteServerClient);
        if kind == Source::External && signed && announcement.attributes.as_path.first() != asn {
            self.record.faulty();
            let reason = "AS_PATH does not begin with the peer's AS".to_owned();
            self.tell_fault(FaultAction::TreatAsWithdraw, reason, core);
            announcement.prefixes.iter().for_each(|nlri| core.rib.withdraw(self.index, *nlri));
            return Ok(());
        }
        let Some(config) = self.config.families.get(&family) else { return Ok(()) };
        let Some(local_address) = self.session(conn).map(|up| up.link.local.ip()) else { return Ok(()) };
        let screen = Screen {
            peer: self.index,
            kind,
            terms: (&self.config).into(),
            policy: &config.import,
            own: config.next_hop,
            local_address,
        };
        let room = self.room(family, core);
        if core.rib.announce(&screen, announcement, room) {
            let (notification, after) = self.too_many(family, core);
            return Err(End { notification, after });
        }
        self.warn_of_limit(conn, family, core);
        Ok(())
    }
}
