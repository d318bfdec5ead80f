//! What is remembered about a peer for status only; nothing is decided by it but the restart bits of an OPEN.

use std::time::Instant;

use super::{Core, Peer};
use crate::event::PeerState;
use crate::prefix::Family;
use crate::snapshot::{FamilyStatus, PeerStatus};

/// How many faults are told for the octets of one input; all are counted.
const FAULTS_TOLD: u32 = 16;

/// Counters and the last error of a peer.
#[derive(Debug)]
pub(crate) struct Record {
    state: PeerState,
    since: Instant,
    established: u64,
    dropped: u64,
    messages_in: u64,
    messages_out: u64,
    faults: u64,
    faults_told: u32,
    last_error: Option<String>,
}

impl Record {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            state: PeerState::Idle,
            since: now,
            established: 0,
            dropped: 0,
            messages_in: 0,
            messages_out: 0,
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

    pub(crate) fn note(&mut self, error: &str) {
        self.last_error = Some(error.to_owned());
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

    pub(crate) fn received(&mut self) {
        self.messages_in += 1;
    }

    pub(crate) fn sent(&mut self, messages: u64) {
        self.messages_out += messages;
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
            asn: self.config.asn,
            router_id: agreed.map(|agreed| agreed.router_id),
            local: self.ends().map(|(local, _)| local),
            remote: self.ends().map(|(_, remote)| remote),
            hold_time: agreed.and_then(|agreed| agreed.hold),
            capabilities: agreed.map(|agreed| agreed.capabilities()).unwrap_or_default(),
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
            last_error: record.last_error.clone(),
            retry_in: self.dialer.next().map(|due| due.saturating_duration_since(now)),
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
            max_prefixes: self.config.families.get(&family).map_or(0, |config| config.max_prefixes),
            end_of_rib: up.is_some_and(|up| up.ended.contains(family)),
        }
    }
}
