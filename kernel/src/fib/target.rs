//! Targets: the distinct sets of next hops that routes lead to, and what each resolves to.
//!
//! A target is either made for one distinct set of next hops, or stands for a named set, whose next hops may change under
//! its routes.
//!
//! A hundred thousand routes share a few targets, so that a change below a next hop is worked out once per target
//! and not once per route.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::model::{Gateway, Hop, Resolution, SetId};

/// Names a target for as long as it is in use; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TargetId(u32);

/// A set of next hops for routes of one family.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) next_hops: BTreeSet<Gateway>,
    ipv6: bool,
    /// The set for which it stands.
    set: Option<SetId>,
    /// How many wanted routes lead here.
    pub(super) routes: usize,
    /// The neighbours that can be used now.
    pub(super) hops: BTreeSet<Hop>,
    /// The next-hop objects that stand for it. One as a rule; more after a whole object's routes moved here.
    pub(super) objects: BTreeSet<u32>,
}

impl Target {
    /// Whether a single gateway's object can never stand for it.
    pub(super) fn needs_group(&self) -> bool {
        self.next_hops.len() > 1 || self.hops.len() > 1
    }
}

#[derive(Debug, Default)]
struct NextHop {
    resolution: Option<Resolution>,
    targets: BTreeSet<TargetId>,
}

/// A set of next hops with a name.
#[derive(Debug, Default)]
struct NamedSet {
    next_hops: BTreeSet<Gateway>,
    /// The targets that stand for it, one for each family.
    targets: [Option<TargetId>; 2],
}

/// All targets in use.
#[derive(Debug, Default)]
pub(super) struct Targets {
    ids: BTreeMap<(bool, BTreeSet<Gateway>), TargetId>,
    sets: BTreeMap<SetId, NamedSet>,
    targets: BTreeMap<TargetId, Target>,
    next_hops: BTreeMap<Gateway, NextHop>,
    last_id: u32,
    /// Targets whose hops may have changed.
    dirty: BTreeSet<TargetId>,
    /// Next hops that nobody has resolved yet.
    fresh: BTreeSet<IpAddr>,
}

impl Targets {
    /// Counts one more route to these next hops.
    pub(super) fn acquire(&mut self, ipv6: bool, next_hops: &BTreeSet<Gateway>) -> TargetId {
        let key = (ipv6, next_hops.clone());
        let known = self.ids.get(&key).copied();
        let id = known.unwrap_or_else(|| {
            let id = self.insert(ipv6, next_hops.clone(), None);
            self.ids.insert(key, id);
            id
        });
        self.count_up(id);
        id
    }

    /// Counts one more route to a named set; `None` if there is no such set.
    pub(super) fn acquire_set(&mut self, ipv6: bool, set: SetId) -> Option<TargetId> {
        let named = self.sets.get(&set)?;
        let id = match named.targets[usize::from(ipv6)] {
            Some(id) => id,
            None => {
                let id = self.insert(ipv6, named.next_hops.clone(), Some(set));
                if let Some(named) = self.sets.get_mut(&set) {
                    named.targets[usize::from(ipv6)] = Some(id);
                }
                id
            }
        };
        self.count_up(id);
        Some(id)
    }

    /// Says what a set leads to from now on. Without next hops it is gone; gives the targets that stood for it then.
    pub(super) fn define(&mut self, set: SetId, next_hops: BTreeSet<Gateway>) -> Vec<TargetId> {
        if next_hops.is_empty() {
            let targets = self.sets.remove(&set).map(|named| named.targets).unwrap_or_default();
            return targets.into_iter().flatten().collect();
        }
        let named = self.sets.entry(set).or_default();
        named.next_hops.clone_from(&next_hops);
        for id in named.targets.into_iter().flatten() {
            let Some(target) = self.targets.get_mut(&id) else { continue };
            let before = std::mem::replace(&mut target.next_hops, next_hops.clone());
            self.link(id, &next_hops);
            self.unlink(id, &before.difference(&next_hops).copied().collect());
        }
        Vec::new()
    }

    fn count_up(&mut self, id: TargetId) {
        if let Some(target) = self.targets.get_mut(&id) {
            target.routes += 1;
        }
    }

    fn insert(&mut self, ipv6: bool, next_hops: BTreeSet<Gateway>, set: Option<SetId>) -> TargetId {
        self.last_id += 1;
        let id = TargetId(self.last_id);
        self.link(id, &next_hops);
        let (hops, objects) = (BTreeSet::new(), BTreeSet::new());
        self.targets.insert(id, Target { next_hops, ipv6, set, routes: 0, hops, objects });
        id
    }

    /// Has a target follow its next hops.
    fn link(&mut self, id: TargetId, next_hops: &BTreeSet<Gateway>) {
        for gateway in next_hops {
            let next_hop = self.next_hops.entry(*gateway).or_default();
            next_hop.targets.insert(id);
            match gateway.link {
                // On a link that is known there is nothing to ask.
                Some(link) => {
                    let hop = Hop { gateway: gateway.address, link };
                    next_hop.resolution = Some(Resolution::Hops(BTreeSet::from([hop])));
                }
                None if next_hop.resolution.is_none() => drop(self.fresh.insert(gateway.address)),
                None => {}
            }
        }
        self.dirty.insert(id);
    }

    /// Undoes [`Self::link`].
    fn unlink(&mut self, id: TargetId, next_hops: &BTreeSet<Gateway>) {
        for gateway in next_hops {
            let Some(next_hop) = self.next_hops.get_mut(gateway) else { continue };
            next_hop.targets.remove(&id);
            if next_hop.targets.is_empty() {
                self.next_hops.remove(gateway);
                if gateway.link.is_none() {
                    self.fresh.remove(&gateway.address);
                }
            }
        }
    }

    /// Counts one route less.
    pub(super) fn release(&mut self, id: TargetId) {
        if let Some(target) = self.targets.get_mut(&id) {
            target.routes = target.routes.saturating_sub(1);
        }
        self.forget_if_unused(id);
    }

    /// Forgets a target that no route wants and no object stands for.
    pub(super) fn forget_if_unused(&mut self, id: TargetId) {
        let unused = |target: &Target| target.routes == 0 && target.objects.is_empty();
        if !self.targets.get(&id).is_some_and(unused) {
            return;
        }
        let Some(target) = self.targets.remove(&id) else { return };
        self.unlink(id, &target.next_hops);
        self.dirty.remove(&id);
        match target.set.map(|set| self.sets.get_mut(&set)) {
            None => drop(self.ids.remove(&(target.ipv6, target.next_hops))),
            Some(Some(named)) => {
                for place in named.targets.iter_mut().filter(|place| **place == Some(id)) {
                    *place = None;
                }
            }
            Some(None) => {}
        }
    }

    pub(super) fn get(&self, id: TargetId) -> Option<&Target> {
        self.targets.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: TargetId) -> Option<&mut Target> {
        self.targets.get_mut(&id)
    }

    /// The set for which a target stands.
    pub(super) fn set_of(&self, id: TargetId) -> Option<SetId> {
        self.targets.get(&id)?.set
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (TargetId, &Target)> {
        self.targets.iter().map(|(id, target)| (*id, target))
    }

    /// The next hops that nobody has resolved yet; they count as asked for from now on.
    pub(super) fn take_fresh(&mut self) -> BTreeSet<IpAddr> {
        std::mem::take(&mut self.fresh)
    }

    pub(super) fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// Takes note of how the kernel reaches a next hop.
    pub(super) fn resolved(&mut self, address: IpAddr, resolution: Resolution) {
        let Some(next_hop) = self.next_hops.get_mut(&address.into()) else { return };
        if next_hop.resolution.as_ref() != Some(&resolution) {
            next_hop.resolution = Some(resolution);
            self.dirty.extend(&next_hop.targets);
        }
    }

    /// The next hops in use that the kernel resolves and that satisfy `condition`.
    pub(super) fn next_hops(
        &self,
        condition: impl Fn(IpAddr, Option<&Resolution>) -> bool,
    ) -> BTreeSet<IpAddr> {
        let holds = |(gateway, next_hop): &(&Gateway, &NextHop)| {
            gateway.link.is_none() && condition(gateway.address, next_hop.resolution.as_ref())
        };
        self.next_hops.iter().filter(holds).map(|(gateway, _)| gateway.address).collect()
    }

    /// The next hops in use that the kernel resolves, inside a network.
    pub(super) fn next_hops_within(&self, network: IpNetwork) -> impl Iterator<Item = IpAddr> {
        let first = Gateway::from(network.network());
        let last = Gateway { address: network.broadcast(), link: Some(u32::MAX) };
        let inside = self.next_hops.range(first..=last);
        inside.filter(|(gateway, _)| gateway.link.is_none()).map(|(gateway, _)| gateway.address)
    }

    /// Whether any next hop leads over this link.
    pub(super) fn uses_link(&self, link: u32) -> bool {
        self.next_hops.values().any(|next_hop| leads_over(next_hop.resolution.as_ref(), link))
    }

    /// Has the hops of all targets worked out again: a link went up or down.
    pub(super) fn touch_all(&mut self) {
        self.dirty.extend(self.targets.keys());
    }

    /// Works out the hops of targets below which something changed; returns those whose hops are now others, and
    /// whether they had none before.
    pub(super) fn refresh(&mut self, usable: impl Fn(u32) -> bool) -> BTreeMap<TargetId, bool> {
        let mut changed = BTreeMap::new();
        for id in std::mem::take(&mut self.dirty) {
            let Some(target) = self.targets.get_mut(&id) else { continue };
            let hops = target
                .next_hops
                .iter()
                .filter_map(|gateway| self.next_hops.get(gateway)?.resolution.as_ref())
                .flat_map(|resolution| match resolution {
                    Resolution::Hops(hops) => hops.iter().copied().collect(),
                    Resolution::Unreachable => Vec::new(),
                })
                .filter(|hop| usable(hop.link) && (hop.gateway.is_ipv6() || !target.ipv6))
                .collect();
            if target.hops != hops {
                changed.insert(id, target.hops.is_empty());
                target.hops = hops;
            }
        }
        changed
    }
}

/// Whether a resolution leads over this link.
pub(super) fn leads_over(resolution: Option<&Resolution>, link: u32) -> bool {
    match resolution {
        Some(Resolution::Hops(hops)) => hops.iter().any(|hop| hop.link == link),
        Some(Resolution::Unreachable) | None => false,
    }
}
