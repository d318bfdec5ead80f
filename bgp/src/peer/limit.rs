//! How many prefixes a peer may announce, and what follows when there are more (RFC 4486 §4).

use std::time::Instant;

use super::dialer::After;
use super::{Core, Peer};
use crate::config::{ConnId, LimitAction, PrefixLimit};
use crate::event::Event;
use crate::prefix::Family;
use crate::wire::Notification;

/// Taken for a family that is not configured, which has no routes.
const NONE: PrefixLimit = PrefixLimit { max: u32::MAX, warn_percent: 100, action: LimitAction::Warn };

impl PrefixLimit {
    /// What follows the end of a session that passed the limit.
    fn after(self) -> After {
        match self.action {
            LimitAction::Warn => After::Wait,
            LimitAction::Restart(time) => After::RefuseFor(time),
            LimitAction::StayDown => After::RefuseForGood,
        }
    }
}

impl Peer {
    pub(super) fn limit(&self, family: Family) -> PrefixLimit {
        self.config.families.get(&family).map_or(NONE, |config| config.limit)
    }

    /// How many more prefixes the table takes.
    pub(super) fn room(&self, family: Family, core: &Core) -> u32 {
        match self.limit(family) {
            PrefixLimit { action: LimitAction::Warn, .. } => u32::MAX,
            PrefixLimit { max, .. } => max.saturating_sub(core.rib.counts(self.index, family).received),
        }
    }

    fn tell_limit(&self, family: Family, (exceeded, ended): (bool, bool), core: &mut Core) {
        let (peer, limit) = (self.id.clone(), self.limit(family).max);
        let count = core.rib.counts(self.index, family).received;
        core.tell(Event::PrefixLimit { peer, family, count, limit, exceeded, ended });
    }

    /// The session ends for it.
    pub(super) fn too_many(&self, family: Family, core: &mut Core) -> (Notification, After) {
        self.tell_limit(family, (true, true), core);
        let limit = self.limit(family);
        (Notification::max_prefixes(family, limit.max), limit.after())
    }

    /// Tells, each once per session, that the number is close to the limit and that it is beyond.
    pub(super) fn warn_of_limit(&mut self, conn: ConnId, family: Family, core: &mut Core) {
        let PrefixLimit { max, warn_percent, .. } = self.limit(family);
        let count = core.rib.counts(self.index, family).received;
        let near = u64::from(count) * 100 >= u64::from(max) * u64::from(warn_percent);
        let beyond = count > max;
        if !near && !beyond {
            return;
        }
        let Some(up) = self.session_mut(conn).and_then(|session| session.established_mut()) else { return };
        let told = if beyond { &mut up.exceeded } else { &mut up.warned };
        if !told.contains(family) {
            told.insert(family);
            self.tell_limit(family, (beyond, false), core);
        }
    }

    /// A changed limit may end the session at once, or warn again.
    pub(super) fn check_limit(&mut self, family: Family, core: &mut Core, now: Instant) {
        let Some(conn) = self.established().map(|(session, _)| session.link.conn) else { return };
        let PrefixLimit { max, action, .. } = self.limit(family);
        if core.rib.counts(self.index, family).received > max && action != LimitAction::Warn {
            let (notification, after) = self.too_many(family, core);
            return self.fail(conn, notification, after, core, now);
        }
        if let Some(up) = self.session_mut(conn).and_then(|session| session.established_mut()) {
            up.warned.remove(family);
            up.exceeded.remove(family);
        }
        self.warn_of_limit(conn, family, core);
    }
}
