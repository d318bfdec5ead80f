//! What the owner decides about a peer: a new configuration, a reset, removal, the end of everything.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use super::dialer::After;
use super::outbox::Outbox;
use super::{Core, Peer};
use crate::config::PeerConfig;
use crate::prefix::Family;
use crate::rib::{Screen, Terms};
use crate::wire::{AfiSafi, ErrorCode, Message, Notification, RefreshKind, RouteRefresh};

impl Peer {
    /// Takes a new configuration; a session whose parameters changed starts again.
    pub(crate) fn configure(&mut self, config: PeerConfig, core: &mut Core, now: Instant) {
        if self.config == config {
            return;
        }
        let before = std::mem::replace(&mut self.config, config);
        self.dialer.configure(&self.config, now);
        if !before.same_session(&self.config) {
            self.fail_all(&ErrorCode::CONFIGURATION_CHANGE.into(), core, now);
            self.forget_what_changed(&before, core);
            self.dialer.restart(now);
            self.report(core, now);
            return;
        }
        let terms = Terms::from(&self.config);
        for (family, is) in self.config.families.clone() {
            let Some(was) = before.families.get(&family) else { continue };
            if was.import != is.import || Terms::from(&before) != terms {
                self.import_again(family, core);
            }
            core.rib.set_export(self.index, family, |export| {
                let changed =
                    export.policy != is.export || export.next_hop != is.next_hop || export.terms != terms;
                export.terms = terms;
                export.policy.clone_from(&is.export);
                export.next_hop = is.next_hop;
                changed
            });
            self.check_limit(family, core, now);
        }
    }

    /// Applies import policy again to what is there, and asks the peer for what is not (RFC 2918 §4).
    fn import_again(&mut self, family: Family, core: &mut Core) {
        let Some(config) = self.config.families.get(&family) else { return };
        let screen = Screen {
            peer: self.index,
            kind: self.kind(core),
            terms: (&self.config).into(),
            policy: &config.import,
            local_address: self.local_address(),
        };
        core.rib.import_again(&screen, family);
        let refresh = RouteRefresh { family: AfiSafi::from(family), kind: RefreshKind::Request };
        for session in &mut self.sessions {
            let agreed = session.established().map(|established| &established.agreed);
            if agreed.is_some_and(|agreed| agreed.route_refresh && agreed.dialect.families.contains(family)) {
                session.send(&Message::RouteRefresh(refresh));
            }
        }
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
        self.retained = None;
        for family in Family::ALL {
            core.rib.flush(self.index, family);
        }
    }

    /// Routes of another AS, or of a family that is no longer there, are not kept for the next session.
    fn forget_what_changed(&mut self, before: &PeerConfig, core: &mut Core) {
        if before.asn != self.config.asn {
            self.forget(core);
        } else if self.config.graceful_restart.is_none() {
            self.expire(core);
        }
        for family in before.families.keys().filter(|family| !self.config.families.contains_key(family)) {
            core.rib.flush(self.index, *family);
            if let Some(retained) = &mut self.retained {
                retained.families.remove(*family);
            }
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
    pub(crate) fn stop(&mut self, farewell: Option<&Notification>, core: &mut Core, now: Instant) {
        self.dialer.stop();
        match farewell {
            Some(notification) => self.fail_all(notification, core, now),
            None => {
                for session in std::mem::take(&mut self.sessions) {
                    core.rib.close(self.index);
                    core.close(session.link.conn, Outbox::default());
                }
            }
        }
        self.report(core, now);
    }
}
