//! One configured peer: at most two connections, which of them survives, and what follows the end of one.
//!
//! Reading order: `dialer` (states without a connection), `session` (states with one), `negotiate`, `receive` (what
//! messages mean), `configure` (what the owner decides). Here is what ties them together.

mod collision;
mod configure;
pub(crate) mod dialer;
mod leave;
mod limit;
pub(crate) mod negotiate;
pub(crate) mod outbox;
pub(crate) mod receive;
mod refresh;
pub(crate) mod session;
pub(crate) mod status;
pub(crate) mod timers;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use crate::chance::Chance;
use crate::config::{ConnId, Dial, Local, PeerConfig, PeerId, RemoteAs};
use crate::event::{Event, PeerState};
use crate::monitor::bmp::PeerHeader;
use crate::monitor::mrt::DumpedPeer;
use crate::monitor::{Monitors, Watched};
use crate::policy::Source;
use crate::prefix::{Asn, Family};
use crate::retained::{Due, Retained};
use crate::rib::export::Export;
use crate::rib::{Facts, PeerIndex, Rib};
use crate::speaker::{Direction, Output};
use crate::wire::{Dialect, ErrorCode, Message, MessageType, Notification, Open, Side};
use collision::Entry;
use dialer::{After, Dialer};
use negotiate::{Agreed, RestartState};
use outbox::Outbox;
use session::{Established, Link, Session};
use status::Record;
use timers::Timer;

/// What all peers share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) local: Local,
    pub(crate) rib: Rib,
    pub(crate) chance: Chance,
    pub(crate) outputs: VecDeque<Output>,
    /// Connections that only have their last octets to send.
    pub(crate) closing: BTreeMap<ConnId, Outbox>,
    /// Connections that ended since this was last emptied.
    pub(crate) ended: Vec<ConnId>,
    /// The first exchange after our start is over.
    pub(crate) settled: bool,
    /// Who watches.
    pub(crate) monitors: Monitors,
}

impl Core {
    pub(crate) fn tell(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Ends a connection after its last octets.
    pub(crate) fn close(&mut self, conn: ConnId, last: Outbox) {
        if !last.is_empty() {
            self.closing.insert(conn, last);
        }
        self.ended.push(conn);
        self.outputs.push_back(Output::Close { conn });
    }

    /// Whether End-of-RIB must wait: what we reflect is not complete yet (RFC 4724 §4.1).
    pub(crate) fn holds_end(&self) -> bool {
        self.local.restarting && !self.settled
    }
}

/// A configured peer.
#[derive(Debug)]
pub(crate) struct Peer {
    id: PeerId,
    index: PeerIndex,
    config: PeerConfig,
    dialer: Dialer,
    sessions: Vec<Session>,
    retained: Retained,
    heard: bool,
    record: Record,
    /// The range that it came from.
    range: Option<PeerId>,
    added_at: Instant,
    /// No longer declared, but kept until then.
    lingers: Option<Instant>,
    /// Reflected for until then, although it is no client any more.
    client_until: Option<Instant>,
}

impl Peer {
    pub(crate) fn new(
        id: PeerId,
        index: PeerIndex,
        config: PeerConfig,
        range: Option<PeerId>,
        now: Instant,
    ) -> Self {
        let dialer = Dialer::new(&config, now);
        Self {
            id,
            index,
            config,
            dialer,
            sessions: Vec::new(),
            retained: Retained::default(),
            heard: false,
            record: Record::new(now),
            range,
            added_at: now,
            lingers: None,
            client_until: None,
        }
    }

    pub(crate) fn id(&self) -> &PeerId {
        &self.id
    }

    pub(crate) fn config(&self) -> &PeerConfig {
        &self.config
    }

    /// Whether a session since our start has ended its first exchange.
    pub(crate) fn heard(&self) -> bool {
        self.heard
    }

    fn session(&self, conn: ConnId) -> Option<&Session> {
        self.sessions.iter().find(|session| session.link.conn == conn)
    }

    fn session_mut(&mut self, conn: ConnId) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| session.link.conn == conn)
    }

    fn established(&self) -> Option<(&Session, &Established)> {
        self.sessions.iter().find_map(|session| Some((session, session.established()?)))
    }

    /// Whether routes are exchanged.
    pub(crate) fn is_up(&self) -> bool {
        self.established().is_some()
    }

    fn state(&self) -> PeerState {
        let furthest = self.sessions.iter().map(Session::state).max();
        furthest.unwrap_or_else(|| self.dialer.state())
    }

    /// Tells a change of state.
    fn report(&mut self, core: &mut Core, now: Instant) {
        let state = self.state();
        if let Some(from) = self.record.enter(state, now) {
            core.tell(Event::StateChanged { peer: self.id.clone(), from, to: state });
        }
    }

    /// The earliest moment at which something is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        let sessions = self.sessions.iter().filter_map(|session| session.timers.next());
        let refreshing = self.established().and_then(|(_, up)| up.refreshing.next());
        let sessions = sessions.chain(refreshing).chain(self.dialer.next());
        sessions.chain(self.retained.next()).chain(self.client_until).min()
    }

    /// Does what is due.
    pub(crate) fn timeout(&mut self, core: &mut Core, now: Instant) {
        let conns: Vec<ConnId> = self.sessions.iter().map(|session| session.link.conn).collect();
        for conn in conns {
            while let Some(timer) = self.session_mut(conn).and_then(|session| session.timers.take_due(now)) {
                self.on_timer(conn, timer, core, now);
            }
        }
        if self.dialer.take_due(!self.sessions.is_empty(), &mut core.chance, now) {
            let PeerConfig { target, source, .. } = self.config;
            if let Dial::Active(target) = target {
                core.outputs.push_back(Output::Connect { peer: self.id.clone(), target, source });
            }
        }
        self.age(core, now);
        self.end_late_refreshes(core, now);
        if self.client_until.is_some_and(|until| until <= now) {
            self.client_until = None;
            self.reflect(core);
        }
        self.report(core, now);
    }

    /// Puts off hold timers that are due: it was us who did not listen.
    pub(crate) fn bear_with(&mut self, until: Instant, now: Instant) {
        for session in &mut self.sessions {
            session.timers.put_off(Timer::Hold, until, now);
        }
    }

    fn on_timer(&mut self, conn: ConnId, timer: Timer, core: &mut Core, now: Instant) {
        let Some(session) = self.session_mut(conn) else { return };
        match timer {
            Timer::Keepalive if session.yields() => self.yield_no_longer(conn, core, now),
            Timer::Keepalive => session.keep_alive(&mut core.chance, now),
            Timer::Hold => self.fail(conn, ErrorCode::HOLD_TIMER_EXPIRED.into(), After::Wait, core, now),
            Timer::SendHold if session.is_stuck(now) => {
                self.fail(conn, ErrorCode::SEND_HOLD_TIMER_EXPIRED.into(), After::Wait, core, now);
            }
            Timer::SendHold => {}
            Timer::DelayOpen if session.is_held() => {
                self.fail(conn, ErrorCode::COLLISION.into(), After::Wait, core, now)
            }
            Timer::DelayOpen => session.speak_first(now),
        }
    }

    /// Marks kept routes, or forgets them, as time has come: nobody confirmed them.
    fn age(&mut self, core: &mut Core, now: Instant) {
        let mut gone = 0;
        for (family, due) in self.retained.take_due(now) {
            gone += match due {
                Due::Mark => {
                    let (marked, gone) = core.rib.keep_for_long(self.index, family);
                    if marked > 0 {
                        core.tell(Event::RoutesMarked { peer: self.id.clone(), family, count: marked });
                    }
                    gone
                }
                Due::DropMarked => core.rib.flush_marked(self.index, family),
                Due::DropStale => core.rib.flush_stale(self.index, family),
            };
        }
        self.tell_expired(gone, core);
    }

    /// The routes that were kept go.
    fn expire(&mut self, core: &mut Core) {
        self.retained = Retained::default();
        let gone = Family::ALL.into_iter().map(|family| core.rib.flush_stale(self.index, family)).sum();
        self.tell_expired(gone, core);
    }

    fn tell_expired(&self, count: u32, core: &mut Core) {
        if count > 0 {
            core.tell(Event::RoutesExpired { peer: self.id.clone(), count });
        }
    }

    /// A connection is up; says whether it is wanted.
    pub(crate) fn connected(&mut self, link: Link, core: &mut Core, now: Instant) -> bool {
        let wanted = match link.direction {
            Direction::Active => self.dialer.dialling() && self.established().is_none(),
            Direction::Passive => self.dialer.admits(now),
        };
        if link.direction == Direction::Active {
            self.dialer.connected();
        }
        let entry = self.entry(link.direction, &core.local, now);
        if !wanted || entry == Entry::Refuse {
            core.close(link.conn, Outbox::default());
            self.settle_collisions(core, now);
            self.report(core, now);
            return false;
        }
        // A second connection from one side means that the first is dead there.
        let earlier = self
            .sessions
            .iter()
            .find(|session| session.link.direction == link.direction && session.established().is_none());
        if let Some(conn) = earlier.map(|session| session.link.conn) {
            self.fail(conn, ErrorCode::COLLISION.into(), After::Wait, core, now);
        }
        let ours = self.open_message(core);
        let mut session = match entry {
            Entry::Hold => Session::hold(link, ours, now),
            Entry::Open | Entry::Refuse => Session::open(link, ours, self.config.delay_open, now),
        };
        session.pace = self.config.keepalive;
        self.sessions.push(session);
        self.report(core, now);
        true
    }

    fn open_message(&self, core: &Core) -> Open {
        let known = self.record.was_established();
        let state = RestartState {
            restarting: core.local.restarting && !known,
            forwarding: core.local.restarting || known,
        };
        negotiate::open(&core.local, &self.config, state)
    }

    /// No connection of ours is wanted now.
    fn abandon_dial(&mut self, core: &mut Core) {
        if self.dialer.abandon() {
            core.outputs.push_back(Output::Abandon { peer: self.id.clone() });
        }
    }

    pub(crate) fn connect_failed(&mut self, core: &mut Core, now: Instant) {
        self.record.unreachable(now);
        self.dialer.failed(&mut core.chance, now);
        self.settle_collisions(core, now);
        self.report(core, now);
    }

    /// The connection is gone without a word.
    pub(crate) fn closed(&mut self, conn: ConnId, core: &mut Core, now: Instant) {
        core.ended.push(conn);
        self.lost(conn, "connection closed", core, now);
    }

    fn lost(&mut self, conn: ConnId, why: &str, core: &mut Core, now: Instant) {
        let Some(session) = self.remove(conn) else { return };
        match session.agreed() {
            Some(_) => self.record.note(true, why, now),
            // Somebody who only tries the port, or a second connection: the session does not mind.
            None if self.is_up() => {}
            None => self.record.not_answered(why, now),
        }
        let graceful = session.is_restartable() || self.lingers();
        self.over(session, graceful, After::Wait, core, now);
    }

    /// Ends a connection with a NOTIFICATION.
    pub(crate) fn fail(
        &mut self,
        conn: ConnId,
        notification: Notification,
        after: After,
        core: &mut Core,
        now: Instant,
    ) {
        let hard = ends_for_good(&notification);
        self.end(conn, notification, (hard, after), core, now);
    }

    /// As [`fail`](Self::fail), but the peer keeps our routes if both have agreed on that.
    fn dismiss(&mut self, conn: ConnId, notification: Notification, core: &mut Core, now: Instant) {
        self.end(conn, notification, (false, After::Wait), core, now);
    }

    fn end(
        &mut self,
        conn: ConnId,
        notification: Notification,
        (hard, after): (bool, After),
        core: &mut Core,
        now: Instant,
    ) {
        let Some(mut session) = self.remove(conn) else { return };
        let lasting = session.outlives_notifications();
        self.record.notified(false, &notification, now);
        core.tell(Event::NotificationSent {
            peer: self.id.clone(),
            code: notification.code.code,
            subcode: notification.code.subcode,
            text: notification.to_string(),
        });
        let sent = if hard && lasting { notification.into_hard_reset() } else { notification };
        session.send(&Message::Notification(sent));
        core.close(conn, std::mem::take(&mut session.outbox));
        self.over(session, lasting && !hard, after, core, now);
    }

    fn remove(&mut self, conn: ConnId) -> Option<Session> {
        let place = self.sessions.iter().position(|session| session.link.conn == conn)?;
        Some(self.sessions.remove(place))
    }

    /// A connection has ended: settles what becomes of its routes, and what comes next.
    fn over(&mut self, mut session: Session, graceful: bool, after: After, core: &mut Core, now: Instant) {
        self.record.sent_all(session.take_sent());
        let mut lasted = None;
        if let Some(established) = session.established() {
            lasted = Some(now - established.since);
            self.down(established, graceful, core, now);
        }
        if self.sessions.is_empty() {
            self.dialer.ended(lasted, after, &mut core.chance, now);
        }
        self.settle_collisions(core, now);
        self.report(core, now);
    }

    /// The session has ended. Its routes stay if that was agreed on, for as long as the peer said (RFC 4724 §4.2).
    fn down(&mut self, established: &Established, graceful: bool, core: &mut Core, now: Instant) {
        core.monitors.down(self.index, &self.record.ending(), now);
        core.rib.close(self.index);
        self.record.dropped();
        let (lasting, until) = self.lasting(established, graceful, now);
        let mut count = 0;
        for family in Family::ALL {
            let long = self.lasting_long(established, graceful, family);
            // A family that is only kept for long has no time for a restart (RFC 9494 §4.2).
            let until = if lasting.contains(family) { until } else { now };
            let kept = (lasting.contains(family) || long.is_some()) && !established.disabled.contains(family);
            let kept = match (kept, established.refreshing.contains(family)) {
                (false, _) => 0,
                // Those not told again yet are no older than the others.
                (true, true) => core.rib.mark_stale(self.index, family),
                (true, false) => core.rib.retain(self.index, family),
            };
            if kept > 0 {
                self.retained.keep(family, until, long);
            } else {
                core.rib.flush(self.index, family);
                self.retained.remove(family);
            }
            count += kept;
        }
        if count > 0 {
            core.tell(Event::RoutesRetained { peer: self.id.clone(), count });
        }
    }

    /// A session is up: tells all routes, and waits for those that were kept to be confirmed.
    fn up(&mut self, conn: ConnId, core: &mut Core, now: Instant) {
        let Some((session, established)) = self.established() else { return };
        let facts = self.facts(session, core);
        let (link, agreed) = (session.link, established.agreed.clone());
        debug_assert_eq!(link.conn, conn, "only one session is ever up");
        core.monitors.up(self.index, self.watched(link, &agreed), now);
        core.rib.set_facts(self.index, facts);
        for family in agreed.dialect.families.iter() {
            if let Some(config) = self.config.families.get(&family) {
                let export = Export {
                    peer: self.index,
                    facts,
                    terms: (&self.config).into(),
                    policy: config.export.clone(),
                    next_hop: config.next_hop,
                    local_address: link.local.ip(),
                    dialect: agreed.dialect,
                    most_paths: config.add_path.send.unwrap_or(1),
                    long_lived: agreed.restart.as_ref().is_some_and(|restart| !restart.long_lived.is_empty()),
                };
                core.rib.open(family, export);
            }
        }
        self.abandon_dial(core);
        self.dialer.established();
        self.record.established();
        let forwarded = |family, marked| match &agreed.restart {
            Some(restart) if marked => restart.long_lived.get(&family).is_some_and(|long| long.forwarding),
            Some(restart) => restart.forwarding.contains(family),
            None => false,
        };
        for family in self.retained.returned(forwarded, now) {
            core.rib.flush_stale(self.index, family);
        }
    }

    fn facts(&self, session: &Session, core: &Core) -> Facts {
        Facts {
            kind: self.kind(core),
            client: self.is_client(),
            router_id: session.agreed().map_or(core.local.router_id, |agreed| agreed.router_id),
            address: session.link.remote.ip(),
            zone: session.link.zone(),
            asn: session.agreed().map_or(core.local.asn, |agreed| agreed.asn),
            role: self.config.role.filter(|_| self.kind(core) == Source::External),
        }
    }

    pub(crate) fn kind(&self, core: &Core) -> Source {
        negotiate::kind(&core.local, &self.config)
    }

    /// UPDATEs with faults so far.
    pub(crate) fn faults(&self) -> u64 {
        self.record.faults()
    }

    /// The peer in the index of a dump; `None` if nothing was ever heard of it.
    pub(crate) fn dumped(&self, core: &Core) -> Option<DumpedPeer> {
        let facts = core.rib.facts(self.index)?;
        let router_id = facts.router_id.get();
        Some(DumpedPeer { router_id, address: facts.address, asn: self.asn(core).unwrap_or(Asn(0)) })
    }

    /// The session for those who watch.
    fn watched(&self, link: Link, agreed: &Agreed) -> Watched {
        let header = PeerHeader {
            address: link.remote.ip().to_canonical(),
            asn: agreed.asn,
            router_id: agreed.router_id,
            four_octet_as: agreed.dialect.four_octet_as,
        };
        Watched {
            header,
            name: self.id.to_string(),
            local: link.local,
            remote: link.remote,
            ours: agreed.ours.clone(),
            theirs: agreed.theirs.clone(),
            dialect: Dialect { side: Side::Internal, paths_out: agreed.dialect.paths_in, ..agreed.dialect },
        }
    }

    /// The peer's AS, as far as it is known.
    fn asn(&self, core: &Core) -> Option<Asn> {
        match self.config.asn {
            RemoteAs::Exactly(asn) => Some(asn),
            RemoteAs::Internal => Some(negotiate::presented(&core.local, &self.config)),
            RemoteAs::External => self.established().map(|(_, up)| up.agreed.asn),
        }
    }

    /// Asks for connections to be written where there is something to send.
    pub(crate) fn flush(&mut self, core: &mut Core, now: Instant) {
        let hold_end = core.holds_end();
        for session in &mut self.sessions {
            self.record.sent_all(session.take_sent());
            let routes = session.established().is_some() && core.rib.pending(self.index, hold_end);
            if session.wants_writing(routes, now) {
                core.outputs.push_back(Output::Writable { conn: session.link.conn });
            }
        }
    }

    /// Appends at most `budget` octets for a connection; says whether more remain.
    pub(crate) fn transmit(
        &mut self,
        conn: ConnId,
        core: &mut Core,
        buf: &mut Vec<u8>,
        budget: usize,
    ) -> bool {
        let (index, hold_end) = (self.index, core.holds_end());
        let Some(session) = self.session_mut(conn) else { return false };
        let mut pending = false;
        let mut unsaid = Vec::new();
        if session.established().is_some() {
            if session.outbox.len() < budget {
                let filled = core.rib.fill(index, budget, hold_end, session.outbox.buffer());
                unsaid = filled.unsaid;
                if let Some(up) = session.established_mut() {
                    up.updates_out.iter_mut().zip(filled.by_family).for_each(|(all, new)| *all += new);
                }
                self.record.sent(MessageType::Update, filled.messages);
                self.record.sent(MessageType::RouteRefresh, filled.refreshes);
            }
            pending = core.rib.pending(index, hold_end);
        }
        for route in unsaid {
            let peer = self.id.clone();
            core.tell(Event::NotAnnounced { peer, prefix: route.prefix, reason: route.reason });
        }
        self.session_mut(conn).is_some_and(|session| session.transmit(pending, buf, budget))
    }

    /// Our end and the peer's end of the connection that got furthest.
    fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        let session = self.sessions.iter().max_by_key(|session| session.state())?;
        Some((session.link.local, session.link.remote))
    }
}

/// Whether a peer that would keep our routes must not (RFC 8538 §3.1).
fn ends_for_good(notification: &Notification) -> bool {
    matches!(
        notification.code,
        ErrorCode::MAX_PREFIXES | ErrorCode::ADMINISTRATIVE_SHUTDOWN | ErrorCode::PEER_DECONFIGURED
    )
}
