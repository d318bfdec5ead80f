//! Next-hop objects: which exist, whom they stand for, which ids are free.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Hop, NexthopTo};
use crate::tracker::Tracker;

use super::target::TargetId;

/// The ids that are ours to give: "MX" and below it nineteen bits.
const FIRST_ID: u32 = 0x4d58_0000;
const LAST_ID: u32 = FIRST_ID + 0x0007_ffff;

/// Whom an object stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The routes of a target lead to it.
    Target(TargetId),
    /// It is a member of groups.
    Member(Hop),
}

/// All next-hop objects of ours, and the ids of the others.
#[derive(Debug, Default)]
pub(super) struct Objects {
    pub(super) tracker: Tracker<u32, NexthopTo>,
    roles: BTreeMap<u32, Role>,
    members: BTreeMap<Hop, u32>,
    /// How many routes of ours in the kernel lead to each.
    usage: BTreeMap<u32, usize>,
    foreign: BTreeSet<u32>,
    last_id: Option<u32>,
}

impl Objects {
    pub(super) fn role(&self, id: u32) -> Option<Role> {
        self.roles.get(&id).copied()
    }

    /// Gives an object a role in place of the one it had.
    pub(super) fn assign(&mut self, id: u32, role: Role) {
        self.disown(id);
        if let Role::Member(hop) = role {
            self.members.insert(hop, id);
        }
        self.roles.insert(id, role);
    }

    /// Takes an object's role away. It lives on until no route leads to it.
    pub(super) fn disown(&mut self, id: u32) {
        if let Some(Role::Member(hop)) = self.roles.remove(&id) {
            self.members.remove(&hop);
        }
    }

    /// The object that stands for a hop in groups; made if there is none.
    pub(super) fn member(&mut self, hop: Hop) -> Option<u32> {
        if let Some(id) = self.members.get(&hop) {
            return Some(*id);
        }
        let id = self.allocate()?;
        self.assign(id, Role::Member(hop));
        Some(id)
    }

    /// An id that nobody uses; `None` when all half a million are taken.
    pub(super) fn allocate(&mut self) -> Option<u32> {
        let free = |id: &u32| {
            !self.roles.contains_key(id)
                && !self.foreign.contains(id)
                && self.tracker.actual_at(id).is_none()
                && self.tracker.desired_at(id).is_none()
        };
        let start = self.last_id.map_or(FIRST_ID, |id| id + 1);
        let id = (start..=LAST_ID).chain(FIRST_ID..start).find(free)?;
        self.last_id = Some(id);
        Some(id)
    }

    /// Whether the object is in the kernel as it should be.
    pub(super) fn in_place(&self, id: u32) -> bool {
        let actual = self.tracker.actual_at(&id);
        actual.is_some() && actual == self.tracker.desired_at(&id)
    }

    pub(super) fn usage(&self, id: u32) -> usize {
        self.usage.get(&id).copied().unwrap_or_default()
    }

    /// Counts a route that came to lead to this object.
    pub(super) fn count_up(&mut self, id: u32) {
        *self.usage.entry(id).or_default() += 1;
    }

    /// Counts a route that leads to it no more; returns whether it was the last.
    pub(super) fn count_down(&mut self, id: u32) -> bool {
        let Some(count) = self.usage.get_mut(&id) else { return false };
        *count -= 1;
        let last = *count == 0;
        if last {
            self.usage.remove(&id);
        }
        last
    }

    pub(super) fn set_foreign(&mut self, ids: BTreeSet<u32>) {
        self.foreign = ids;
    }

    pub(super) fn add_foreign(&mut self, id: u32) {
        self.foreign.insert(id);
    }

    pub(super) fn remove_foreign(&mut self, id: u32) {
        self.foreign.remove(&id);
    }

    /// The gateways behind an object in the kernel; `None` if not all are known.
    pub(super) fn hops_of(&self, id: u32) -> Option<BTreeSet<Hop>> {
        match self.tracker.actual_at(&id)? {
            NexthopTo::Hop(hop) => Some([*hop].into()),
            NexthopTo::Group(members) => members.iter().map(|id| self.hop_of(*id)).collect(),
            NexthopTo::Other => None,
        }
    }

    /// Whether an object in the kernel leads over this link.
    pub(super) fn on_link(&self, link: u32) -> bool {
        self.tracker.actual().any(|(_, to)| matches!(to, NexthopTo::Hop(hop) if hop.link == link))
    }

    fn hop_of(&self, id: u32) -> Option<Hop> {
        match self.tracker.actual_at(&id)? {
            NexthopTo::Hop(hop) => Some(*hop),
            NexthopTo::Group(_) | NexthopTo::Other => None,
        }
    }

    /// Whether the object is a group, or is to become one.
    pub(super) fn is_group(&self, id: u32) -> Option<bool> {
        let to = self.tracker.actual_at(&id).or_else(|| self.tracker.desired_at(&id))?;
        Some(matches!(to, NexthopTo::Group(_)))
    }

    /// Makes the members of an adopted group the members for their hops, where those have none.
    pub(super) fn adopt_members(&mut self, group: u32) {
        let Some(NexthopTo::Group(members)) = self.tracker.actual_at(&group).cloned() else { return };
        for id in members {
            let Some(hop) = self.hop_of(id) else { continue };
            if !self.members.contains_key(&hop) && !self.roles.contains_key(&id) {
                self.assign(id, Role::Member(hop));
            }
        }
    }

    /// The members of all groups that exist or should.
    pub(super) fn members_in_use(&self) -> BTreeSet<u32> {
        let groups = self.tracker.actual().chain(self.tracker.desired());
        groups
            .filter_map(|(_, to)| match to {
                NexthopTo::Group(members) => Some(members),
                NexthopTo::Hop(_) | NexthopTo::Other => None,
            })
            .flatten()
            .copied()
            .collect()
    }

    /// The ids that have a role, exist or should exist.
    pub(super) fn ids(&self) -> BTreeSet<u32> {
        let tracked = self.tracker.actual().chain(self.tracker.desired()).map(|(id, _)| id);
        self.roles.keys().chain(tracked).copied().collect()
    }
}
