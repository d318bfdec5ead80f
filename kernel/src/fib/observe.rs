//! What the kernel says: dumps, notifications and the results of operations.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::model::{Dump, Event, Forward, KernelRoute, Link, Nexthop, Op, OpError, PROTOCOL, RouteKey};

use super::links::usable;
use super::object::Role;
use super::table::{Installed, Lead, Wish};
use super::target::leads_over;
use super::{Fib, FibEvent, Resolution, Why};

/// A route of ours that is no more as it should be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drifted {
    key: RouteKey,
    /// Where it led.
    lead: Lead,
    /// There is none now, rather than another.
    gone: bool,
}

impl Fib {
    pub(super) fn on_event(&mut self, event: Event) {
        match event {
            Event::Link(link) => self.on_link(link),
            Event::LinkGone(index) => {
                if let Some(link) = self.links.remove(index) {
                    self.on_link_change(&link, true);
                }
            }
            // The connected routes that come and go with them are told apart.
            Event::Address(_) | Event::AddressGone(_) => {}
            Event::Route { route, .. } if route.protocol == PROTOCOL => {
                let now = self.installed(&route.forward, route.source);
                self.observe_by_others(route.key, Some(now));
            }
            Event::Route { route, replaced } => {
                if self.table.at(&route.key).is_some_and(|entry| entry.actual().is_some()) {
                    // Ours gave way, now or, if nobody said so, before.
                    if replaced {
                        self.observe_by_others(route.key, None);
                    } else {
                        self.want_dump();
                    }
                }
                self.on_foreign_route(&route);
            }
            Event::RouteGone(route) if route.protocol == PROTOCOL => {
                self.observe_by_others(route.key, None);
            }
            Event::RouteGone(route) => {
                if self.blocked.why(&route.key) == Some(Why::Foreign) {
                    self.open(&route.key);
                }
                self.on_foreign_route(&route);
            }
            Event::Nexthop(nexthop) => self.on_nexthop(nexthop),
            Event::NexthopGone(id) => {
                self.objects.remove_foreign(id);
                self.object_gone(id);
            }
            Event::Overrun => {
                self.want_dump();
                self.resolve_again(|_, _| true);
            }
        }
    }

    fn on_link(&mut self, link: Link) {
        let now = link.clone();
        let Some(before) = self.links.put(link) else { return self.on_link_change(&now, false) };
        if before.name == now.name && before.up == now.up && before.carrier == now.carrier {
            return;
        }
        let lost = before.up && !now.up || usable(&before) && !usable(&now);
        self.on_link_change(&now, lost);
        if before.name != now.name {
            self.on_link_change(&before, lost);
        }
    }

    /// A link came, went, was renamed, or went up or down. With one that is `lost` the kernel drops routes and
    /// objects without a word.
    fn on_link_change(&mut self, link: &Link, lost: bool) {
        let by_name: Vec<RouteKey> = self.names.routes(&link.name).into_iter().flatten().copied().collect();
        let concerned = !by_name.is_empty() || self.targets.uses_link(link.index);
        by_name.iter().for_each(|key| self.open(key));
        // What an earlier run left there is nobody's yet, and goes all the same.
        if lost && (concerned || self.objects.on_link(link.index) || self.table.has_paths_on(link.index)) {
            self.lost_links.insert(link.index);
            self.dump_soon();
        }
        if concerned {
            self.targets.touch_all();
            self.retry_refused();
        }
        let came_up = usable(link);
        self.resolve_again(|_, resolution| {
            leads_over(resolution, link.index) || came_up && resolution == Some(&Resolution::Unreachable)
        });
    }

    /// Ways to next hops may lead over a route that others made or removed.
    fn on_foreign_route(&mut self, route: &KernelRoute) {
        self.again.extend(self.targets.next_hops_within(route.key.dst));
        self.again_soon();
    }

    fn on_nexthop(&mut self, nexthop: Nexthop) {
        if nexthop.protocol == PROTOCOL {
            self.objects.tracker.observe(nexthop.id, Some(nexthop.to));
            self.objects_dirty = true;
        } else {
            self.object_taken(nexthop.id);
        }
    }

    pub(super) fn on_dump(&mut self, dump: Dump) {
        self.stats.dumps_total += 1;
        self.observe_links(dump.links);
        self.observe_objects(dump.nexthops);
        let mut fresh = Vec::new();
        for route in dump.routes.into_iter().filter(|route| route.protocol == PROTOCOL) {
            let now = self.installed(&route.forward, route.source);
            self.table.see(&route.key);
            if self.table.at(&route.key).and_then(|entry| entry.actual()) != Some(now) {
                fresh.push((route.key, now));
            }
        }
        for key in self.table.unseen() {
            self.observe_by_others(key, None);
        }
        for (key, now) in fresh {
            self.observe_by_others(key, Some(now));
        }
        self.tell_drift();
        self.lost_links.clear();
        self.resolve_again(|_, resolution| resolution == Some(&Resolution::Unreachable));
    }

    fn observe_links(&mut self, links: Vec<Link>) {
        let mut gone: BTreeSet<u32> = self.links.indexes().into_iter().collect();
        for link in links {
            gone.remove(&link.index);
            self.on_link(link);
        }
        for index in gone {
            self.on_event(Event::LinkGone(index));
        }
    }

    fn observe_objects(&mut self, nexthops: Option<Vec<Nexthop>>) {
        let Some(nexthops) = nexthops else {
            self.give_up_objects();
            return;
        };
        let (ours, foreign): (Vec<_>, Vec<_>) =
            nexthops.into_iter().partition(|nexthop| nexthop.protocol == PROTOCOL);
        self.objects.tracker.observe_all(ours.into_iter().map(|nexthop| (nexthop.id, nexthop.to)));
        self.objects.set_foreign(foreign.iter().map(|nexthop| nexthop.id).collect());
        for nexthop in foreign {
            self.object_taken(nexthop.id);
        }
        self.objects_dirty = true;
    }

    /// From now on routes carry their gateways.
    pub(super) fn give_up_objects(&mut self) {
        if self.use_objects {
            self.use_objects = false;
            self.objects_dirty = true;
            self.events.push_back(FibEvent::NoNexthopObjects);
            self.table.open_all(|entry| entry.wanted().is_some());
        }
    }

    /// An id that we use or might have used belongs to somebody else.
    fn object_taken(&mut self, id: u32) {
        self.objects.add_foreign(id);
        self.object_gone(id);
        self.abandon(id);
    }

    /// Uses another id in place of this one.
    fn abandon(&mut self, id: u32) {
        self.objects_dirty = true;
        match self.objects.role(id) {
            Some(Role::Target(target)) => {
                self.part(target, id);
                self.rescan.insert(target);
                self.targets.forget_if_unused(target);
            }
            Some(Role::Member(_)) => self.objects.disown(id),
            None => {}
        }
        let actual = self.objects.tracker.actual_at(&id).cloned();
        self.objects.tracker.desire(id, actual);
    }

    /// An object is gone, and with it the routes that led to it.
    fn object_gone(&mut self, id: u32) {
        if self.objects.tracker.observe(id, None).is_none() {
            return;
        }
        self.objects_dirty = true;
        if self.objects.usage(id) > 0 {
            for key in self.leading_to(id) {
                self.observe_by_others(key, None);
            }
        }
    }

    /// The routes in the kernel that lead to an object.
    fn leading_to(&self, id: u32) -> Vec<RouteKey> {
        let routes = self.table.iter().filter(|(_, entry)| entry.object() == Some(id));
        routes.map(|(_, entry)| self.table.key(entry)).collect()
    }

    /// Somebody else changed or removed a route of ours, or it was there before us.
    fn observe_by_others(&mut self, key: RouteKey, now: Option<Installed>) {
        let entry = self.table.at(&key);
        let before = entry.and_then(|entry| entry.actual());
        let wanted = entry.is_some_and(|entry| entry.wanted().is_some());
        if let Some(before) = before
            && Some(before) == entry.and_then(|entry| entry.desired())
            && Some(before) != now
        {
            self.drift.push(Drifted { key, lead: before.lead, gone: now.is_none() });
        }
        self.observe_route(key, now);
        let unspoken = before.is_none() && !wanted;
        if let Some(number) = self.table.find(&key) {
            if self.keep_stale && unspoken && now.is_some() {
                self.table.set_stale(number, true);
            }
            if wanted {
                self.table.open(number);
            }
        }
    }

    /// Takes note of what is at a key, and of how many routes lead to each object.
    pub(super) fn observe_route(&mut self, key: RouteKey, now: Option<Installed>) {
        if let Some(Installed { lead: Lead::Nexthop(id), .. }) = now {
            self.objects.count_up(id);
        }
        if let Some(Installed { lead: Lead::Nexthop(id), .. }) = self.table.observe(&key, now)
            && self.objects.count_down(id)
        {
            self.objects_dirty = true;
        }
    }

    /// The compact form of a route in the kernel.
    fn installed(&mut self, forward: &Forward, source: Option<IpAddr>) -> Installed {
        Installed { lead: self.table.lead(forward), source: self.table.source_number(source) }
    }

    /// Tells what others did to routes of ours. Asked late: word of a link that goes down may come after word of its
    /// routes, and a pod may end before we are told that its route is wanted no more.
    pub(super) fn tell_drift(&mut self) {
        let mut drift = std::mem::take(&mut self.drift);
        drift.retain(|drifted| self.is_by_others(drifted));
        if let Some(Drifted { key: example, .. }) = drift.first().copied() {
            self.stats.drift_total += drift.len() as u64;
            self.events.push_back(FibEvent::Drift { routes: drift.len(), example });
        }
    }

    /// Whether nothing but somebody's hand explains what became of a route: it is wanted, and has a link on which it
    /// could have stayed.
    fn is_by_others(&self, drifted: &Drifted) -> bool {
        let Some(wish) = self.table.at(&drifted.key).and_then(|entry| entry.wanted()) else { return false };
        if !drifted.gone {
            return true;
        }
        let steady = |link: u32| !self.lost_links.contains(&link);
        match (drifted.lead, wish) {
            (Lead::Link(link), _) => steady(link) && self.links.up(link),
            (Lead::Nexthop(_) | Lead::Paths(_), Wish::Target(id)) => {
                let hops = self.targets.get(id).map(|target| target.hops.iter()).into_iter().flatten();
                hops.into_iter().any(|hop| steady(hop.link) && self.links.usable(hop.link))
            }
            _ => true,
        }
    }

    pub(super) fn on_applied(&mut self, ops: Vec<Op>, results: Option<Vec<Result<(), OpError>>>) {
        let Some(results) = results.filter(|results| results.len() == ops.len()) else {
            self.want_dump();
            return;
        };
        let mut refused = 0;
        for (op, result) in ops.into_iter().zip(results) {
            match result {
                Ok(()) => self.on_done(op),
                Err(error) => {
                    refused += u64::from(!self.on_refused(op, error));
                }
            }
        }
        self.stats.refused_total += refused;
        if refused > 0 {
            self.retry_later();
        } else {
            self.attempts = 0;
        }
    }

    fn on_done(&mut self, op: Op) {
        self.stats.applied_total += 1;
        match op {
            Op::PutNexthop { id, to, .. } => {
                self.objects.tracker.observe(id, Some(to));
                self.objects_dirty = true;
            }
            Op::DeleteNexthop { id } => self.on_object_deleted(id),
            Op::PutRoute { key, forward, source, .. } => {
                let now = self.installed(&forward, source);
                self.observe_route(key, Some(now));
            }
            Op::DeleteRoute { key } => self.observe_route(key, None),
        }
    }

    fn on_object_deleted(&mut self, id: u32) {
        if self.objects.usage(id) > 0 {
            for key in self.leading_to(id) {
                self.observe_route(key, None);
            }
        }
        self.objects.tracker.observe(id, None);
        self.objects_dirty = true;
    }

    /// Takes note of a refusal; returns whether it is as good as success.
    fn on_refused(&mut self, op: Op, error: OpError) -> bool {
        match (op, error) {
            (op @ (Op::DeleteRoute { .. } | Op::DeleteNexthop { .. }), OpError::Missing) => {
                self.on_done(op);
                return true;
            }
            (Op::PutNexthop { id, .. }, OpError::Exists) => {
                self.object_taken(id);
                self.want_dump();
            }
            (Op::PutNexthop { .. }, OpError::Unsupported(_))
                if self.objects.tracker.actual().next().is_none() =>
            {
                self.give_up_objects();
            }
            (Op::PutNexthop { id, replace, .. }, error) => {
                self.object_failed(id, &error);
                if replace && !matches!(error, OpError::NoPath(_)) {
                    // It may be of a kind that cannot become what it should: another can.
                    self.abandon(id);
                }
            }
            (Op::DeleteNexthop { id }, error) => self.object_failed(id, &error),
            (Op::PutRoute { key, .. }, OpError::Exists) => {
                let detail = "a route of the same key that is not ours is in the way".to_owned();
                self.blocked.block(key, Why::Foreign, detail, true);
                self.doubt(key);
            }
            (Op::PutRoute { key, .. }, error @ OpError::NoPath(_)) => {
                let by_link =
                    matches!(self.table.at(&key).and_then(|entry| entry.wanted()), Some(Wish::Link(_)));
                let why = if by_link { Why::Link } else { Why::NextHop };
                self.blocked.block(key, why, error.to_string(), true);
            }
            (Op::PutRoute { key, .. } | Op::DeleteRoute { key }, error) => {
                self.blocked.block(key, Why::Refused, error.to_string(), true);
            }
        }
        false
    }

    fn object_failed(&mut self, id: u32, error: &OpError) {
        self.failed_objects.insert(id, error.to_string());
        self.objects_dirty = true;
        if let Some(Role::Target(target)) = self.objects.role(id) {
            self.rescan.insert(target);
        }
    }

    /// Has objects that failed tried again.
    pub(super) fn forgive_objects(&mut self) {
        self.objects_dirty = true;
        for (id, _) in std::mem::take(&mut self.failed_objects) {
            if let Some(Role::Target(target)) = self.objects.role(id) {
                self.rescan.insert(target);
            }
        }
    }
}
