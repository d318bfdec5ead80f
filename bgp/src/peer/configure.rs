//! What the owner decides about a peer: a new configuration, a reset, removal, the end of everything.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use super::dialer::After;
use super::negotiate::still_holds;
use super::outbox::Outbox;
use super::session::Session;
use super::{Core, Peer};
use crate::config::{ConnId, FamilyConfig, PeerConfig};
use crate::policy::Source;
use crate::prefix::Family;
use crate::retained::Retained;
use crate::rib::{Screen, Terms};
use crate::speaker::StopReason;
use crate::wire::{ErrorCode, Notification};

impl Peer {
    /// Takes a new configuration. A connection goes on if its OPEN still says what we would say now; what an OPEN does
    /// not say takes effect at once.
    pub(crate) fn configure(&mut self, config: PeerConfig, core: &mut Core, now: Instant) {
        self.stay(now);
        if self.config == config {
            return;
        }
        let before = std::mem::replace(&mut self.config, config);
        self.dialer.configure(&self.config, now);
        self.end_unfit(core, now);
        self.forget_what_changed(&before, core);
        if self.sessions.is_empty() && self.must_dial_anew(&before) {
            self.dialer.restart(now);
        }
        self.change_client(&before, core, now);
        for session in &mut self.sessions {
            session.pace = self.config.keepalive;
            session.hasten(&mut core.chance, now);
        }
        for (family, is) in self.config.families.clone() {
            if let Some(was) = before.families.get(&family) {
                self.change_family(family, (&before, was), &is, core, now);
            }
        }
        self.report(core, now);
    }

    /// Ends connections whose OPEN is no longer what we would say. Both sides keep their routes if they can.
    fn end_unfit(&mut self, core: &mut Core, now: Instant) {
        let ours = self.open_message(core);
        let config = &self.config;
        let source =
            |local: IpAddr| config.source.is_none_or(|source| source.to_canonical() == local.to_canonical());
        let fits = |session: &Session| {
            config.target.is_at(session.link.remote)
                && source(session.link.local.ip())
                && session.ours().is_none_or(|sent| still_holds(sent, &ours, session.agreed(), config))
        };
        let unfit = self.sessions.iter().filter(|session| !fits(session));
        let unfit: Vec<ConnId> = unfit.map(|session| session.link.conn).collect();
        for conn in unfit {
            self.end_one_gently(conn, &ErrorCode::CONFIGURATION_CHANGE.into(), core, now);
            self.dialer.restart(now);
        }
    }

    /// Whether the change may make an attempt succeed that has failed so far.
    fn must_dial_anew(&self, before: &PeerConfig) -> bool {
        let limits =
            |config: &PeerConfig| -> Vec<_> { config.families.values().map(|one| one.limit).collect() };
        let is = &self.config;
        (before.target, before.source, before.asn, before.local_as, before.role, before.role_strict)
            != (is.target, is.source, is.asn, is.local_as, is.role, is.role_strict)
            || !before.families.keys().eq(is.families.keys())
            || limits(before) != limits(is)
    }

    /// Reflecting begins at once. It ends when those reflected for have had the time to speak to each other.
    fn change_client(&mut self, before: &PeerConfig, core: &mut Core, now: Instant) {
        match (before.reflector_client, self.config.reflector_client) {
            (false, true) => self.client_until = None,
            (true, false) if self.is_up() => self.client_until = Some(now + core.local.linger),
            _ => return,
        }
        self.reflect(core);
    }

    fn change_family(
        &mut self,
        family: Family,
        (before, was): (&PeerConfig, &FamilyConfig),
        is: &FamilyConfig,
        core: &mut Core,
        now: Instant,
    ) {
        let (told, terms) = (Terms::from(before), Terms::from(&self.config));
        if was.import != is.import || told != terms {
            self.import_again(family, core);
        }
        core.rib.set_export(self.index, family, |export| {
            let changed = export.policy != is.export
                || export.next_hop != is.next_hop
                || was.add_path != is.add_path
                || told != terms;
            export.terms = terms;
            export.policy.clone_from(&is.export);
            export.next_hop = is.next_hop;
            export.most_paths = is.add_path.send.unwrap_or(1);
            changed
        });
        if was.limit != is.limit {
            self.check_limit(family, core, now);
        }
    }

    /// We reflect for another cluster: what went through it is a loop now, and what we reflect says so (RFC 4456 §8).
    pub(crate) fn change_cluster(&mut self, core: &mut Core) {
        if self.kind(core) != Source::Internal {
            return;
        }
        for family in Family::ALL {
            self.screen_again(family, core);
            core.rib.tell_again(self.index, family);
        }
    }

    /// Applies import policy again to what is there, and asks the peer for what is not (RFC 2918 §4).
    fn import_again(&mut self, family: Family, core: &mut Core) {
        self.screen_again(family, core);
        self.ask_again(family);
    }

    fn screen_again(&self, family: Family, core: &mut Core) {
        let Some(config) = self.config.families.get(&family) else { return };
        let screen = Screen {
            peer: self.index,
            kind: self.kind(core),
            terms: (&self.config).into(),
            policy: &config.import,
            own: config.next_hop,
            local_address: self.local_address(),
        };
        core.rib.import_again(&screen, family);
    }

    /// Our end of the session, or of the one to come.
    fn local_address(&self) -> IpAddr {
        let session = self.sessions.iter().map(|session| session.link.local.ip()).next();
        session.or(self.config.source).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    fn fail_all(&mut self, notification: &Notification, core: &mut Core, now: Instant) {
        while let Some(conn) = self.sessions.last().map(|session| session.link.conn) {
            self.fail(conn, notification.clone(), After::Wait, core, now);
        }
    }

    /// Forgets all routes of the peer.
    fn forget(&mut self, core: &mut Core) {
        self.retained = Retained::default();
        for family in Family::ALL {
            core.rib.flush(self.index, family);
        }
    }

    /// Routes of another AS, or of a family that is no longer there, are not kept for the next session.
    fn forget_what_changed(&mut self, before: &PeerConfig, core: &mut Core) {
        if before.asn != self.config.asn && !self.is_up() {
            self.forget(core);
        } else if self.config.graceful_restart.is_none() {
            self.expire(core);
        }
        for family in before.families.keys().filter(|family| !self.config.families.contains_key(family)) {
            core.rib.flush(self.index, *family);
            self.retained.remove(*family);
        }
    }

    /// An operator wants the session to start again.
    pub(crate) fn reset(&mut self, core: &mut Core, now: Instant) {
        self.fail_all(&ErrorCode::ADMINISTRATIVE_RESET.into(), core, now);
        self.dialer.restart(now);
        self.report(core, now);
    }

    /// The peer is no longer configured.
    pub(crate) fn deconfigure(mut self, core: &mut Core, now: Instant) {
        self.dialer.stop();
        self.fail_all(&ErrorCode::PEER_DECONFIGURED.into(), core, now);
        self.forget(core);
        self.report(core, now);
    }

    /// We stop. Without a NOTIFICATION connections just close, so that the peer keeps our routes.
    pub(crate) fn stop(&mut self, reason: &StopReason, core: &mut Core, now: Instant) {
        self.dialer.stop();
        match reason {
            StopReason::Leave { communication } => {
                self.fail_all(&Notification::shutdown(communication), core, now);
            }
            StopReason::Change => self.end_gently(&ErrorCode::CONFIGURATION_CHANGE.into(), core, now),
            StopReason::Restart => {
                for session in std::mem::take(&mut self.sessions) {
                    core.rib.close(self.index);
                    core.close(session.link.conn, Outbox::default());
                }
            }
        }
        self.report(core, now);
    }
}
