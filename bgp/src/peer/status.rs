//! What is remembered about a peer for status only; nothing is decided by it but the restart bits of an OPEN.

use std::time::Instant;

use super::{Core, Peer};
use crate::event::PeerState;
use crate::monitor::bmp::Ending;
use crate::prefix::Family;
use crate::snapshot::{FamilyStatus, LastError, MessageCounts, PeerStatus};
use crate::wire::{ErrorCode, MessageType, Notification};

/// How many faults are told for the octets of one input; all are counted.
const FAULTS_TOLD: u32 = 16;

/// Counters and the last error of a peer.
#[derive(Debug)]
pub(crate) struct Record {
    state: PeerState,
    since: Instant,
    established: u64,
    dropped: u64,
    messages_in: MessageCounts,
    messages_out: MessageCounts,
    faults: u64,
    faults_told: u32,
    last_error: Option<Ended>,
}

/// Why something ended, and when.
#[derive(Debug)]
struct Ended {
    at: Instant,
    by_peer: bool,
    code: Option<ErrorCode>,
    text: String,
    data: Vec<u8>,
}

/// What is said of a peer that was never connected to.
const UNREACHABLE: &str = "connection failed";
/// How much of the data of a NOTIFICATION is kept.
const DATA_KEPT: usize = 64;

impl Record {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            state: PeerState::Idle,
            since: now,
            established: 0,
            dropped: 0,
            messages_in: MessageCounts::default(),
            messages_out: MessageCounts::default(),
            faults: 0,
            faults_told: 0,
            last_error: None,
        }
    }

    /// Takes the state that holds now; returns the one before if it is another.
    pub(crate) fn enter(&mut self, state: PeerState, now: Instant) -> Option<PeerState> {
        if state == self.state {
            return None;
        }
        self.since = now;
        Some(std::mem::replace(&mut self.state, state))
    }

    /// Something ended without a NOTIFICATION.
    pub(crate) fn note(&mut self, by_peer: bool, text: &str, now: Instant) {
        let text = text.to_owned();
        self.last_error = Some(Ended { at: now, by_peer, code: None, text, data: Vec::new() });
    }

    /// Nobody could be connected to. That says less than why the session ended, and does not take its place.
    pub(crate) fn unreachable(&mut self, now: Instant) {
        if self.last_error.as_ref().is_none_or(|ended| ended.text == UNREACHABLE) {
            self.note(false, UNREACHABLE, now);
        }
    }

    /// The peer took a connection and closed it before its OPEN. Why the session ended, where it was said in a
    /// NOTIFICATION, says more: who shut a session down keeps on closing what comes.
    pub(crate) fn not_answered(&mut self, text: &str, now: Instant) {
        if self.last_error.as_ref().is_none_or(|ended| ended.code.is_none()) {
            self.note(true, text, now);
        }
    }

    /// A connection ended with a NOTIFICATION.
    pub(crate) fn notified(&mut self, by_peer: bool, notification: &Notification, now: Instant) {
        self.last_error = Some(Ended {
            at: now,
            by_peer,
            code: Some(notification.code),
            text: notification.to_string(),
            data: notification.data.iter().take(DATA_KEPT).copied().collect(),
        });
    }

    /// How the session that ended last did so.
    pub(crate) fn ending(&self) -> Ending {
        let ended = self.last_error.as_ref();
        let notification =
            ended.and_then(|ended| Some(Notification { code: ended.code?, data: ended.data.clone() }));
        Ending::new(ended.is_some_and(|ended| ended.by_peer), notification)
    }

    /// UPDATEs with faults so far.
    pub(crate) fn faults(&self) -> u64 {
        self.faults
    }

    pub(crate) fn established(&mut self) {
        self.established += 1;
    }

    /// Whether there has been a session since our start.
    pub(crate) fn was_established(&self) -> bool {
        self.established > 0
    }

    pub(crate) fn dropped(&mut self) {
        self.dropped += 1;
    }

    pub(crate) fn received(&mut self, kind: MessageType) {
        count(&mut self.messages_in, kind, 1);
    }

    pub(crate) fn sent(&mut self, kind: MessageType, messages: u64) {
        count(&mut self.messages_out, kind, messages);
    }

    pub(crate) fn sent_all(&mut self, sent: MessageCounts) {
        let MessageCounts { open, update, notification, keepalive, route_refresh } = sent;
        self.messages_out.open += open;
        self.messages_out.update += update;
        self.messages_out.notification += notification;
        self.messages_out.keepalive += keepalive;
        self.messages_out.route_refresh += route_refresh;
    }

    pub(crate) fn faulty(&mut self) {
        self.faults += 1;
    }

    /// More octets have come: faults may be told again.
    pub(crate) fn tell_faults_again(&mut self) {
        self.faults_told = 0;
    }

    /// Whether one more fault is worth telling: a peer must not flood our log.
    pub(crate) fn may_tell_fault(&mut self) -> bool {
        self.faults_told += 1;
        self.faults_told <= FAULTS_TOLD
    }
}

/// Counts messages of one kind.
pub(crate) fn count(counts: &mut MessageCounts, kind: MessageType, messages: u64) {
    let counter = match kind {
        MessageType::Open => &mut counts.open,
        MessageType::Update => &mut counts.update,
        MessageType::Notification => &mut counts.notification,
        MessageType::Keepalive => &mut counts.keepalive,
        MessageType::RouteRefresh => &mut counts.route_refresh,
    };
    *counter += messages;
}

impl Ended {
    fn status(&self, now: Instant) -> LastError {
        LastError {
            ago: now.saturating_duration_since(self.at),
            by_peer: self.by_peer,
            code: self.code,
            text: self.text.clone(),
            data: self.data.clone(),
        }
    }
}

impl Peer {
    /// The peer as status.
    pub(crate) fn status(&self, core: &Core, now: Instant) -> PeerStatus {
        let record = &self.record;
        let up = self.established();
        let agreed = up.map(|(_, established)| &established.agreed);
        PeerStatus {
            peer: self.id.clone(),
            state: record.state,
            since: now.saturating_duration_since(record.since),
            asn: self.asn(core),
            router_id: agreed.map(|agreed| agreed.router_id),
            local: self.ends().map(|(local, _)| local),
            remote: self.ends().map(|(_, remote)| remote),
            hold_time: agreed.and_then(|agreed| agreed.hold),
            keepalive: up.and_then(|(session, _)| session.keepalive()),
            capabilities: agreed.map(|agreed| agreed.capabilities()).unwrap_or_default(),
            offered: agreed.map(|agreed| agreed.ours.capabilities.clone()).unwrap_or_default(),
            received: agreed.map(|agreed| agreed.theirs.capabilities.clone()).unwrap_or_default(),
            families: self
                .config
                .families
                .keys()
                .map(|family| (*family, self.family(*family, core)))
                .collect(),
            established: record.established,
            dropped: record.dropped,
            messages_in: record.messages_in,
            messages_out: record.messages_out,
            faults: record.faults,
            last_error: record.last_error.as_ref().map(|ended| ended.status(now)),
            retry_in: self.dialer.next().map(|due| due.saturating_duration_since(now)),
            range: self.range.clone(),
            lingers: self.lingers.is_some(),
        }
    }

    fn family(&self, family: Family, core: &Core) -> FamilyStatus {
        let counts = core.rib.counts(self.index, family);
        let up = self.established().map(|(_, established)| established);
        FamilyStatus {
            negotiated: up.is_some_and(|up| up.agreed.dialect.families.contains(family)),
            received: counts.received,
            accepted: counts.accepted,
            announced: core.rib.announced(self.index, family),
            stale: counts.stale,
            max_prefixes: self.config.families.get(&family).map_or(0, |config| config.limit.max),
            updates_in: up.and_then(|up| up.updates_in.get(family as usize).copied()).unwrap_or_default(),
            updates_out: up.and_then(|up| up.updates_out.get(family as usize).copied()).unwrap_or_default(),
            end_of_rib: up.is_some_and(|up| up.ended.contains(family)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn the_reason_for_the_end_of_a_session_outlasts_failed_attempts() {
        let start = Instant::now();
        let later = start + Duration::from_secs(9);
        let mut record = Record::new(start);
        let said = |record: &Record| record.last_error.as_ref().map(|ended| (ended.text.clone(), ended.at));
        record.unreachable(start);
        record.unreachable(later);
        assert_eq!(said(&record), Some((UNREACHABLE.to_owned(), later)));
        record.notified(true, &Notification::shutdown("moving racks"), later);
        record.unreachable(later + Duration::from_secs(9));
        assert!(said(&record).is_some_and(|(text, at)| text.contains("moving racks") && at == later));
    }
}
