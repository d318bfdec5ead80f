//! Route refresh: asking for all routes again and telling them again (RFC 2918), with a begin and an end where both
//! sides know those (RFC 7313).

use std::time::{Duration, Instant};

use super::{Core, Peer};
use crate::config::ConnId;
use crate::event::Event;
use crate::prefix::Family;
use crate::wire::{AfiSafi, Message, RefreshKind, RouteRefresh};

/// How long a peer may take from the begin of a refresh to its end.
const REFRESH_TIME: Duration = Duration::from_secs(360);

/// The families whose refresh has begun, and when it must be over.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Refreshing([Option<Instant>; Family::ALL.len()]);

impl Refreshing {
    fn set(&mut self, family: Family, until: Option<Instant>) -> Option<Instant> {
        self.0.get_mut(family as usize).and_then(|slot| std::mem::replace(slot, until))
    }

    /// Whether a refresh of this family is under way.
    pub(super) fn contains(&self, family: Family) -> bool {
        self.0.get(family as usize).is_some_and(Option::is_some)
    }

    /// When the first one must be over.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }
}

impl Peer {
    /// Asks the peer to tell all routes of a family again, if it can.
    pub(super) fn ask_again(&mut self, family: Family) {
        let refresh = RouteRefresh { family: AfiSafi::from(family), kind: RefreshKind::Request };
        for session in &mut self.sessions {
            let agreed = session.established().map(|established| &established.agreed);
            if agreed.is_some_and(|agreed| agreed.route_refresh && agreed.dialect.families.contains(family)) {
                session.send(&Message::RouteRefresh(refresh));
            }
        }
    }

    /// What is unknown, or was never agreed on, is ignored (RFC 2918 §4, RFC 7313 §4).
    pub(super) fn on_refresh(&mut self, conn: ConnId, refresh: RouteRefresh, core: &mut Core, now: Instant) {
        let awaited = refresh.family.family().is_some_and(|family| self.retained.contains(family));
        let Some(session) = self.session_mut(conn) else { return };
        session.heard(now);
        let Some(up) = session.established_mut() else { return };
        let Some(family) = refresh.family.family() else { return };
        if !up.agreed.dialect.families.contains(family) {
            return;
        }
        let enhanced = up.agreed.enhanced_refresh;
        match refresh.kind {
            RefreshKind::Request => core.rib.refresh(self.index, family, enhanced),
            // Routes kept over a restart wait for End-of-RIB already.
            RefreshKind::Begin if enhanced && !awaited => {
                up.refreshing.set(family, Some(now + REFRESH_TIME));
                core.rib.mark_stale(self.index, family);
            }
            RefreshKind::End if up.refreshing.set(family, None).is_some() => {
                core.rib.flush_stale(self.index, family);
            }
            RefreshKind::Begin | RefreshKind::End | RefreshKind::Unknown(_) => {}
        }
    }

    /// A refresh that does not end is over: what was not told again goes.
    pub(super) fn end_late_refreshes(&mut self, core: &mut Core, now: Instant) {
        let Some(up) = self.sessions.iter_mut().find_map(|session| session.established_mut()) else { return };
        let mut gone = 0;
        for family in Family::ALL {
            if up
                .refreshing
                .0
                .get(family as usize)
                .is_some_and(|until| until.is_some_and(|until| until <= now))
            {
                up.refreshing.set(family, None);
                gone += core.rib.flush_stale(self.index, family);
            }
        }
        if gone > 0 {
            core.tell(Event::RoutesExpired { peer: self.id.clone(), count: gone });
        }
    }
}
