//! What to do next: from wanted routes, targets and objects to an ordered batch of operations.
//!
//! Make before break: next-hop objects and groups come first and are awaited, then routes that lead to them, then
//! removals of routes, and objects that no route leads to any more come last.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{NexthopTo, Op};
use crate::tracker;

use super::object::Role;
use super::table::{Change, Entry, Installed, Lead, RouteNo, Wish};
use super::target::TargetId;
use super::{Fib, Why};

/// From how many routes on it is an object itself changed or removed although there are other ways.
const BULK: usize = 16;
/// Changing or removing an object under routes makes the kernel walk its whole table, at a cost of this share of
/// what changing or removing every single route would take.
const WALK: usize = 256;

/// Why a wanted route cannot even be attempted.
struct Obstacle {
    why: Why,
    detail: String,
}

impl Fib {
    /// Brings the trackers up to date with what is wanted and returns the next operations; none when all is
    /// done or must wait.
    pub(super) fn plan(&mut self) -> Vec<Op> {
        let links = &self.links;
        let changed = self.targets.refresh(|link| links.usable(link));
        if !changed.is_empty() {
            self.forgive_objects();
        }
        let mut rescan = std::mem::take(&mut self.rescan);
        rescan.extend(self.drop_misfits());
        rescan.extend(
            changed
                .iter()
                .filter(|(id, was_empty)| self.concerns_routes(**id, **was_empty))
                .map(|(id, _)| *id),
        );
        if self.use_objects {
            rescan.extend(self.hand_over());
        }
        if !rescan.is_empty() {
            let concerned =
                |entry: &Entry| matches!(entry.wanted(), Some(Wish::Target(id)) if rescan.contains(&id));
            self.table.open_all(concerned);
        }
        self.compile_all();
        if std::mem::take(&mut self.objects_dirty) {
            self.refresh_objects();
        }
        self.next_batch()
    }

    /// Whether new hops of a target mean anything to its routes, or only to its object.
    fn concerns_routes(&self, id: TargetId, was_empty: bool) -> bool {
        let Some(target) = self.targets.get(id) else { return false };
        !self.use_objects || was_empty || target.hops.is_empty() || target.objects.is_empty()
    }

    /// Parts targets from objects that cannot stand for them (a single gateway cannot become a group) or that no
    /// route leads to while there is another.
    fn drop_misfits(&mut self) -> BTreeSet<TargetId> {
        if !self.objects_dirty {
            return BTreeSet::new();
        }
        let mut misfits = Vec::new();
        for (id, target) in self.targets.iter() {
            let leads_to = |object: &u32| self.objects.usage(*object) > 0;
            let kept =
                target.objects.iter().find(|object| leads_to(object)).or_else(|| target.objects.first());
            let unfit = |object: &&u32| {
                let single = self.objects.is_group(**object) == Some(false);
                let idle = !leads_to(object) && Some(*object) != kept;
                !self.use_objects || target.needs_group() && single || idle
            };
            misfits.extend(target.objects.iter().filter(unfit).map(|object| (id, *object)));
        }
        for (id, object) in &misfits {
            self.part(*id, *object);
        }
        misfits.into_iter().map(|(id, _)| id).collect()
    }

    /// Lets an object stand for its target no more.
    pub(super) fn part(&mut self, id: TargetId, object: u32) {
        self.objects.disown(object);
        self.objects_dirty = true;
        if let Some(target) = self.targets.get_mut(id) {
            target.objects.remove(&object);
        }
    }

    /// Finds objects all of whose routes move to one other target, and gives them to it: one message moves the
    /// routes. Objects all of whose routes are to go are condemned: one message removes them. Returns the
    /// targets that lost an object.
    fn hand_over(&mut self) -> BTreeSet<TargetId> {
        let mut moves: BTreeMap<(u32, Option<TargetId>), usize> = BTreeMap::new();
        for entry in self.table.opened().iter().filter_map(|number| self.table.get(*number)) {
            let Some(object) = entry.object() else { continue };
            match entry.wanted() {
                Some(Wish::Target(id)) => *moves.entry((object, Some(id))).or_default() += 1,
                None if !entry.stale() => *moves.entry((object, None)).or_default() += 1,
                _ => {}
            }
        }
        let mut losers = BTreeSet::new();
        let all = self.table.counts().actual;
        for ((object, to), routes) in moves {
            if routes != self.objects.usage(object) || routes * WALK < all {
                continue;
            }
            match to {
                Some(to) => losers.extend(self.hand_over_one(object, to, routes)),
                None if routes >= BULK => {
                    self.condemned.insert(object);
                }
                None => {}
            }
        }
        losers
    }

    fn hand_over_one(&mut self, object: u32, to: TargetId, routes: usize) -> Option<TargetId> {
        let target = self.targets.get(to)?;
        let worth_it = target.objects.is_empty() || routes >= BULK;
        let fits = !target.hops.is_empty()
            && self.objects.is_group(object).is_some_and(|group| group || !target.needs_group());
        let from = match self.objects.role(object) {
            Some(Role::Target(from)) if from != to => Some(from),
            None => None,
            Some(_) => return None,
        };
        if !worth_it || !fits {
            return None;
        }
        if let Some(from) = from {
            self.part(from, object);
            self.targets.forget_if_unused(from);
        }
        self.give(object, to);
        from
    }

    fn give(&mut self, object: u32, to: TargetId) {
        self.objects.adopt_members(object);
        self.objects.assign(object, Role::Target(to));
        self.objects_dirty = true;
        if let Some(target) = self.targets.get_mut(to) {
            target.objects.insert(object);
        }
    }

    /// Decides for every route in question what should be in the kernel.
    fn compile_all(&mut self) {
        let open = self.table.take_opened();
        if self.use_objects {
            open.iter().for_each(|number| self.adopt(*number));
        }
        for number in &open {
            self.compile(*number);
        }
        self.table.decided(open);
    }

    /// Takes over the object that an earlier run left under this route, if it leads where it should.
    fn adopt(&mut self, number: RouteNo) {
        let Some(entry) = self.table.get(number) else { return };
        let (Some(object), Some(Wish::Target(id))) = (entry.object(), entry.wanted()) else { return };
        if self.objects.role(object).is_some() {
            return;
        }
        let Some(target) = self.targets.get(id) else { return };
        let fits = self.objects.is_group(object).is_some_and(|group| group || !target.needs_group());
        if fits && self.objects.hops_of(object).is_some_and(|hops| hops == target.hops) {
            self.give(object, id);
        }
    }

    fn compile(&mut self, number: RouteNo) {
        let Some(entry) = self.table.get(number) else { return };
        let (wish, source, object) = (entry.wanted(), entry.source(), entry.object());
        let lead = wish.map(|wish| self.lead(wish, object)).transpose();
        match lead {
            Ok(lead) => {
                if !self.blocked.is_empty()
                    && let Some(entry) = self.table.get(number)
                {
                    self.blocked.unblock(&self.table.key(entry));
                }
                self.table.desire(number, lead.map(|lead| Installed { lead, source }));
            }
            Err(Obstacle { why, detail }) => {
                if let Some(entry) = self.table.get(number) {
                    self.blocked.block(self.table.key(entry), why, detail, false);
                }
            }
        }
    }

    /// Where a wish leads; `object` is the one to which the route leads now.
    fn lead(&mut self, wish: Wish, object: Option<u32>) -> Result<Lead, Obstacle> {
        match wish {
            Wish::Blackhole => Ok(Lead::Blackhole),
            Wish::Link(number) => {
                let name = self.names.name(number).unwrap_or_default();
                let link = self.links.by_name(name).filter(|link| link.up);
                link.map(|link| Lead::Link(link.index)).ok_or_else(|| Obstacle {
                    why: Why::Link,
                    detail: format!("link {name} does not exist or is down"),
                })
            }
            Wish::Target(id) => self.compile_target(object, id),
        }
    }

    fn compile_target(&mut self, current: Option<u32>, id: TargetId) -> Result<Lead, Obstacle> {
        let Some(target) = self.targets.get(id).filter(|target| !target.hops.is_empty()) else {
            return Err(Obstacle { why: Why::NextHop, detail: self.unreachable(id) });
        };
        if !self.use_objects {
            return Ok(self.table.paths(&target.hops));
        }
        if let Some(object) = current.filter(|object| target.objects.contains(object)) {
            return Ok(Lead::Nexthop(object));
        }
        if let Some(object) = target.objects.first() {
            return match self.failed_objects.get(object) {
                None => Ok(Lead::Nexthop(*object)),
                Some(detail) => Err(Obstacle { why: Why::NextHop, detail: detail.clone() }),
            };
        }
        let Some(object) = self.objects.allocate() else { return Ok(self.table.paths(&target.hops)) };
        self.give(object, id);
        Ok(Lead::Nexthop(object))
    }

    fn unreachable(&self, id: TargetId) -> String {
        let next_hops = self.targets.get(id).map(|target| target.next_hops.iter()).into_iter().flatten();
        let next_hops: Vec<String> = next_hops.map(ToString::to_string).collect();
        format!("no usable path to next hop {}", next_hops.join(", "))
    }

    /// Decides for every object what it should stand for, or that it should go: those of targets, then groups
    /// that stand for none, then the members of all these.
    fn refresh_objects(&mut self) {
        let ids = self.objects.ids();
        for &object in &ids {
            match self.objects.role(object) {
                Some(Role::Target(id)) => self.refresh_target_object(object, id),
                None if self.objects.is_group(object) == Some(true) => self.keep_while_used(object, false),
                None | Some(Role::Member(_)) => {}
            }
        }
        let in_use = self.objects.members_in_use();
        for object in self.objects.ids() {
            let member = in_use.contains(&object);
            match self.objects.role(object) {
                Some(Role::Target(_)) => {}
                Some(Role::Member(hop)) if member && self.links.usable(hop.link) => {
                    self.objects.tracker.desire(object, Some(NexthopTo::Hop(hop)));
                }
                Some(Role::Member(_)) if !member => {
                    self.objects.disown(object);
                    self.keep_while_used(object, false);
                }
                Some(Role::Member(_)) | None => self.keep_while_used(object, member),
            }
        }
    }

    /// An object without a part to play stays as it is while anything leads to it.
    fn keep_while_used(&mut self, object: u32, member: bool) {
        let used = member || self.objects.usage(object) > 0;
        let kept = self.objects.tracker.actual_at(&object).filter(|_| used).cloned();
        self.objects.tracker.desire(object, kept);
    }

    fn refresh_target_object(&mut self, object: u32, id: TargetId) {
        let Some(target) = self.targets.get(id) else { return self.objects.disown(object) };
        if target.routes == 0 && self.objects.usage(object) == 0 {
            self.part(id, object);
            self.targets.forget_if_unused(id);
            // Parting asks for another round; this is that round.
            self.objects_dirty = false;
            return self.keep_while_used(object, false);
        }
        let hops = target.hops.clone();
        let group = target.needs_group() || self.objects.is_group(object) == Some(true);
        let desired = match hops.first() {
            // It stays as it is until there is a way again.
            None => self.objects.tracker.actual_at(&object).cloned(),
            Some(_) if group => {
                let members = hops.iter().filter_map(|hop| self.objects.member(*hop));
                let members: BTreeSet<u32> =
                    members.filter(|id| !self.failed_objects.contains_key(id)).collect();
                (!members.is_empty()).then_some(NexthopTo::Group(members))
            }
            Some(hop) => Some(NexthopTo::Hop(*hop)),
        };
        self.objects.tracker.desire(object, desired);
    }

    fn next_batch(&mut self) -> Vec<Op> {
        let ops = self.object_puts();
        if !ops.is_empty() {
            return ops;
        }
        let ops = self.route_ops();
        if !ops.is_empty() {
            return ops;
        }
        self.object_deletes()
    }

    /// Gateways, then groups of gateways that exist.
    fn object_puts(&self) -> Vec<Op> {
        let (mut hops, mut groups) = (Vec::new(), Vec::new());
        for change in self.objects.tracker.pending() {
            let (id, to, replace) = match change {
                tracker::Change::Create(id, to) => (*id, to, false),
                tracker::Change::Update(id, to, _) => (*id, to, true),
                tracker::Change::Delete(..) => continue,
            };
            if self.failed_objects.contains_key(&id) {
                continue;
            }
            let op = Op::PutNexthop { id, to: to.clone(), replace };
            match to {
                NexthopTo::Group(members) if members.iter().all(|id| self.objects.in_place(*id)) => {
                    groups.push(op)
                }
                NexthopTo::Group(_) | NexthopTo::Other => {}
                NexthopTo::Hop(_) => hops.push(op),
            }
        }
        hops.append(&mut groups);
        hops
    }

    /// Routes to put, and when these leave room, routes to remove.
    fn route_ops(&mut self) -> Vec<Op> {
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        self.spare_the_wanted();
        self.table.tidy_queue();
        for (entry, change) in self.table.pending() {
            if puts.len() >= self.config.batch {
                break;
            }
            match change {
                Change::Create(want) => puts.extend(self.put(entry, want, false)),
                Change::Update(want) => puts.extend(self.put(entry, want, true)),
                Change::Delete(actual) if deletes.len() < self.config.batch => {
                    let key = self.table.key(entry);
                    let kept = entry.stale() || self.blocked.contains(&key) || entry.wanted().is_some();
                    let swept = matches!(actual.lead, Lead::Nexthop(id) if self.condemned.contains(&id));
                    if !kept && !swept {
                        deletes.push(Op::DeleteRoute { key });
                    }
                }
                Change::Delete(_) => {}
            }
        }
        if puts.len() < self.config.batch {
            puts.extend(std::mem::take(&mut self.condemned).into_iter().map(|id| Op::DeleteNexthop { id }));
            puts.append(&mut deletes);
            puts.truncate(self.config.batch);
        }
        puts
    }

    fn put(&self, entry: &Entry, want: Installed, replace: bool) -> Option<Op> {
        let key = self.table.key(entry);
        if entry.wanted().is_none() || self.blocked.contains(&key) {
            return None;
        }
        if let Lead::Nexthop(id) = want.lead
            && !self.objects.in_place(id)
        {
            return None;
        }
        let (forward, source) = (self.table.forward(want.lead), self.table.source_address(want.source));
        Some(Op::PutRoute { key, forward, source, replace })
    }

    /// Pardons condemned objects to which a route leads that must stay, or soon will lead.
    fn spare_the_wanted(&mut self) {
        if self.condemned.is_empty() {
            return;
        }
        self.condemned.retain(|id| match self.objects.role(*id) {
            Some(Role::Target(target)) => self.targets.get(target).is_none_or(|target| target.routes == 0),
            Some(Role::Member(_)) => false,
            None => true,
        });
        for (_, entry) in self.table.iter() {
            if let Some(id) = entry.object()
                && (entry.wanted().is_some() || entry.stale())
            {
                self.condemned.remove(&id);
            }
        }
    }

    /// Objects that nothing leads to: groups, then gateways.
    fn object_deletes(&self) -> Vec<Op> {
        let (mut groups, mut hops) = (Vec::new(), Vec::new());
        for change in self.objects.tracker.pending() {
            let tracker::Change::Delete(id, actual) = change else { continue };
            if self.objects.usage(*id) > 0 || self.failed_objects.contains_key(id) {
                continue;
            }
            let list = if matches!(actual, NexthopTo::Group(_)) { &mut groups } else { &mut hops };
            list.push(Op::DeleteNexthop { id: *id });
        }
        groups.append(&mut hops);
        groups
    }
}
