//! A small Linux per host: routes, next-hop objects, links, notifications that can be lost, and others who change things.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use manx_kernel::model::{
    Dump, Event, Forward, Hop, KernelRoute, Link, Nexthop, NexthopTo, Op, OpError, PROTOCOL, Resolution,
    RouteKey,
};
use manx_kernel::names::{DOOMED_GROUP, LINK_GROUP, alias};

/// The protocol of routes that are somebody else's.
const FOREIGN: u8 = 4;
/// The index of the link to the other hosts.
pub(crate) const UPLINK: u32 = 2;
/// How many notifications a listener may leave unread before they are lost.
const UNREAD: usize = 48;

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) protocol: u8,
    pub(crate) forward: Forward,
    source: Option<IpAddr>,
}

/// A link; that of a pod with what is set up at the pod's end.
#[derive(Debug, Clone)]
pub(crate) struct SimLink {
    pub(crate) link: Link,
    group: u32,
    /// The container in whose namespace the other end is.
    pub(crate) container: Option<String>,
    /// The addresses of the other end.
    pub(crate) addresses: Vec<IpAddr>,
}

/// Somebody's own route is in the way.
#[derive(Debug)]
pub(crate) struct Occupied;

/// All that a host's kernel holds.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) routes: BTreeMap<RouteKey, Held>,
    objects: BTreeMap<u32, (u8, NexthopTo)>,
    pub(crate) links: BTreeMap<u32, SimLink>,
    next_index: u32,
    own: Vec<IpAddr>,
    /// Unread notifications, while somebody listens.
    unread: Option<VecDeque<Event>>,
    /// Routes of others, as they must be.
    pub(crate) foreign: BTreeSet<RouteKey>,
}

impl Kernel {
    /// A kernel with an uplink and these addresses.
    pub(crate) fn new(own: Vec<IpAddr>) -> Self {
        let link =
            Link { index: UPLINK, name: "eth0".into(), up: true, carrier: true, mtu: 1500, alias: None };
        let uplink = SimLink { link, group: 0, container: None, addresses: Vec::new() };
        Self {
            routes: BTreeMap::new(),
            objects: BTreeMap::new(),
            links: BTreeMap::from([(UPLINK, uplink)]),
            next_index: 10,
            own,
            unread: None,
            foreign: BTreeSet::new(),
        }
    }

    /// Somebody listens from now on.
    pub(crate) fn listen(&mut self) {
        self.unread = Some(VecDeque::new());
    }

    /// Nobody listens any more.
    pub(crate) fn deafen(&mut self) {
        self.unread = None;
    }

    /// The next notification.
    pub(crate) fn hear(&mut self) -> Option<Event> {
        self.unread.as_mut()?.pop_front()
    }

    /// Whether there is a notification.
    pub(crate) fn has_news(&self) -> bool {
        self.unread.as_ref().is_some_and(|unread| !unread.is_empty())
    }

    fn tell(&mut self, event: Event) {
        let Some(unread) = &mut self.unread else { return };
        match unread.len() {
            0..UNREAD => unread.push_back(event),
            UNREAD => unread.push_back(Event::Overrun),
            _ => {}
        }
    }

    /// Too much happens at once: what is unread is lost.
    pub(crate) fn overrun(&mut self) {
        if let Some(unread) = &mut self.unread {
            *unread = VecDeque::from([Event::Overrun]);
        }
    }

    fn told(key: RouteKey, held: &Held) -> KernelRoute {
        KernelRoute { key, protocol: held.protocol, forward: held.forward.clone(), source: held.source }
    }

    /// The keys of the routes that are ours.
    pub(crate) fn ours(&self) -> impl Iterator<Item = (&RouteKey, &Held)> {
        self.routes.iter().filter(|(_, held)| held.protocol == PROTOCOL)
    }

    pub(crate) fn dump(&self) -> Dump {
        let nexthop = |(id, (protocol, to)): (&u32, &(u8, NexthopTo))| Nexthop {
            id: *id,
            protocol: *protocol,
            to: to.clone(),
        };
        Dump {
            links: self.links.values().map(|link| link.link.clone()).collect(),
            routes: self.ours().map(|(key, held)| Self::told(*key, held)).collect(),
            nexthops: Some(self.objects.iter().map(nexthop).collect()),
        }
    }

    pub(crate) fn resolve(&self, address: IpAddr) -> Resolution {
        let usable = self.usable(UPLINK);
        if !usable || self.own.contains(&address) {
            return Resolution::Unreachable;
        }
        Resolution::Hops([Hop { gateway: address, link: UPLINK }].into())
    }

    fn usable(&self, link: u32) -> bool {
        self.links.get(&link).is_some_and(|link| link.link.up && link.link.carrier)
    }

    fn is_up(&self, link: u32) -> bool {
        self.links.get(&link).is_some_and(|link| link.link.up)
    }

    /// Where a route leads in the end.
    pub(crate) fn hops(&self, forward: &Forward) -> BTreeSet<Hop> {
        let hop = |id: &u32| match self.objects.get(id) {
            Some((_, NexthopTo::Hop(hop))) => Some(*hop),
            _ => None,
        };
        match forward {
            Forward::Paths(hops) => hops.clone(),
            Forward::Nexthop(id) => match self.objects.get(id) {
                Some((_, NexthopTo::Hop(hop))) => [*hop].into(),
                Some((_, NexthopTo::Group(members))) => members.iter().filter_map(hop).collect(),
                Some((_, NexthopTo::Other)) | None => BTreeSet::new(),
            },
            Forward::Link(_) | Forward::Blackhole | Forward::Other => BTreeSet::new(),
        }
    }

    // What the agent's owner of routes does; it is not told of it.

    pub(crate) fn apply(&mut self, op: &Op) -> Result<(), OpError> {
        match op {
            Op::PutNexthop { id, to, replace } => self.put_object(*id, to, *replace),
            Op::DeleteNexthop { id } => match self.objects.get(id) {
                None => Err(OpError::Missing),
                Some(_) => {
                    self.remove_object(*id);
                    Ok(())
                }
            },
            Op::PutRoute { key, forward, source, replace } => {
                self.check_forward(forward)?;
                if self.routes.contains_key(key) && !replace {
                    return Err(OpError::Exists);
                }
                let held = Held { protocol: PROTOCOL, forward: forward.clone(), source: *source };
                self.routes.insert(*key, held);
                Ok(())
            }
            // The kernel compares the protocol that the request names.
            Op::DeleteRoute { key } => match self.routes.get(key) {
                Some(held) if held.protocol == PROTOCOL => {
                    self.routes.remove(key);
                    Ok(())
                }
                _ => Err(OpError::Missing),
            },
        }
    }

    fn check_forward(&self, forward: &Forward) -> Result<(), OpError> {
        let away = || Err(OpError::NoPath("down".into()));
        match forward {
            Forward::Nexthop(id) if !self.objects.contains_key(id) => {
                Err(OpError::Refused("no such object".into()))
            }
            Forward::Link(index) if !self.is_up(*index) => away(),
            Forward::Paths(hops) if hops.iter().any(|hop| !self.is_up(hop.link)) => away(),
            _ => Ok(()),
        }
    }

    fn put_object(&mut self, id: u32, to: &NexthopTo, replace: bool) -> Result<(), OpError> {
        let refused = || Err(OpError::Refused("invalid".into()));
        match self.objects.get(&id) {
            Some(_) if !replace => return Err(OpError::Exists),
            Some((_, before))
                if matches!(before, NexthopTo::Group(_)) != matches!(to, NexthopTo::Group(_)) =>
            {
                return refused();
            }
            _ => {}
        }
        match to {
            NexthopTo::Hop(hop) if !self.usable(hop.link) => return Err(OpError::NoPath("down".into())),
            NexthopTo::Group(members) => {
                let gateway = |id| matches!(self.objects.get(id), Some((_, NexthopTo::Hop(_))));
                if members.is_empty() || !members.iter().all(gateway) {
                    return refused();
                }
            }
            NexthopTo::Hop(_) | NexthopTo::Other => {}
        }
        self.objects.insert(id, (PROTOCOL, to.clone()));
        Ok(())
    }

    fn remove_object(&mut self, id: u32) {
        self.objects.remove(&id);
        self.routes.retain(|_, held| held.forward != Forward::Nexthop(id));
        let mut empty = Vec::new();
        for (group, (_, to)) in &mut self.objects {
            if let NexthopTo::Group(members) = to
                && members.remove(&id)
                && members.is_empty()
            {
                empty.push(*group);
            }
        }
        empty.into_iter().for_each(|group| self.remove_object(group));
    }

    // What plugins and the agent's owner of links do.

    /// The link of this name, if it is this container's.
    pub(crate) fn find(&self, name: &str, container: &str, ifname: &str) -> Option<u32> {
        let wanted = alias(container, ifname);
        let (index, link) = self.named(name)?;
        (link.link.alias.as_deref() == Some(&wanted)).then_some(index)
    }

    /// The link of this name.
    pub(crate) fn named(&self, name: &str) -> Option<(u32, &SimLink)> {
        self.links.iter().find(|(_, link)| link.link.name == name).map(|(index, link)| (*index, link))
    }

    /// Makes a link into a container, down and without alias; `None` if the name is taken.
    pub(crate) fn create(&mut self, name: &str, container: &str) -> Option<u32> {
        if self.named(name).is_some() {
            return None;
        }
        let index = self.next_index;
        self.next_index += 1;
        let link = Link { index, name: name.into(), up: false, carrier: false, mtu: 1500, alias: None };
        self.tell(Event::Link(link.clone()));
        let container = Some(container.to_owned());
        self.links.insert(index, SimLink { link, group: LINK_GROUP, container, addresses: Vec::new() });
        Some(index)
    }

    /// Gives the pod's end its addresses.
    pub(crate) fn set_up_inside(&mut self, index: u32, addresses: &[IpAddr]) {
        if let Some(link) = self.links.get_mut(&index) {
            link.addresses = addresses.to_vec();
        }
    }

    /// Names the link's owner, brings it up and routes the pod's addresses to it.
    pub(crate) fn set_up_outside(
        &mut self,
        index: u32,
        container: &str,
        ifname: &str,
    ) -> Result<(), Occupied> {
        let Some(link) = self.links.get_mut(&index) else { return Err(Occupied) };
        link.link.alias = Some(alias(container, ifname));
        (link.link.up, link.link.carrier, link.group) = (true, true, LINK_GROUP);
        let (now, addresses) = (link.link.clone(), link.addresses.clone());
        self.tell(Event::Link(now));
        for address in addresses {
            let key = RouteKey::main(IpNetwork::from(address), 0);
            let replaced = match self.routes.get(&key) {
                Some(held) if held.protocol != PROTOCOL => return Err(Occupied),
                there => there.is_some(),
            };
            let held = Held { protocol: PROTOCOL, forward: Forward::Link(index), source: None };
            self.tell(Event::Route { route: Self::told(key, &held), replaced });
            self.routes.insert(key, held);
        }
        Ok(())
    }

    /// Takes a link down and marks it as one that is to be deleted.
    pub(crate) fn doom(&mut self, index: u32) {
        let Some(link) = self.links.get_mut(&index) else { return };
        link.group = DOOMED_GROUP;
        self.admin(index, false);
    }

    /// Deletes all links that were marked so.
    pub(crate) fn remove_doomed(&mut self) {
        let doomed: Vec<u32> = self
            .links
            .iter()
            .filter(|(_, link)| link.group == DOOMED_GROUP)
            .map(|(index, _)| *index)
            .collect();
        doomed.into_iter().for_each(|index| self.delete(index));
    }

    /// Links of ours that were never finished.
    pub(crate) fn half_made(&self) -> BTreeSet<u32> {
        let half = |link: &&SimLink| link.group == LINK_GROUP && link.link.alias.is_none();
        self.links.values().filter(half).map(|link| link.link.index).collect()
    }

    pub(crate) fn delete(&mut self, index: u32) {
        if self.links.remove(&index).is_some() {
            self.flush(index, true);
            self.tell(Event::LinkGone(index));
        }
    }

    /// Brings a link up or down.
    pub(crate) fn admin(&mut self, index: u32, up: bool) {
        let Some(link) = self.links.get_mut(&index) else { return };
        if link.link.up == up {
            return;
        }
        (link.link.up, link.link.carrier) = (up, up);
        let now = link.link.clone();
        if !up {
            self.flush(index, true);
        }
        self.tell(Event::Link(now));
    }

    /// A cable is pulled, or put in again.
    pub(crate) fn carrier(&mut self, index: u32, carrier: bool) {
        let Some(link) = self.links.get_mut(&index) else { return };
        link.link.carrier = carrier;
        let now = link.link.clone();
        if !carrier {
            self.flush(index, false);
        }
        self.tell(Event::Link(now));
    }

    /// What Linux drops without a word when a link goes: objects with their routes; plain routes only if it is down by
    /// will.
    fn flush(&mut self, link: u32, plain: bool) {
        let on_link = |to: &NexthopTo| matches!(to, NexthopTo::Hop(hop) if hop.link == link);
        let gone: Vec<u32> =
            self.objects.iter().filter(|(_, (_, to))| on_link(to)).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|id| self.remove_object(id));
        self.routes.retain(|_, held| match &held.forward {
            Forward::Link(index) => !plain || *index != link,
            Forward::Paths(hops) => !plain || hops.iter().all(|hop| hop.link != link),
            _ => true,
        });
    }

    // What others do.

    /// Somebody adds a route of their own, unless there is one of that key.
    pub(crate) fn foreign_add(&mut self, key: RouteKey) -> bool {
        if self.routes.contains_key(&key) {
            return false;
        }
        let held = Held { protocol: FOREIGN, forward: Forward::Blackhole, source: None };
        self.tell(Event::Route { route: Self::told(key, &held), replaced: false });
        self.routes.insert(key, held);
        self.foreign.insert(key);
        true
    }

    /// Somebody removes a route of their own.
    pub(crate) fn foreign_remove(&mut self, key: RouteKey) {
        if self.foreign.remove(&key)
            && let Some(held) = self.routes.remove(&key)
        {
            self.tell(Event::RouteGone(Self::told(key, &held)));
        }
    }

    /// Somebody removes a route of ours.
    pub(crate) fn spoil(&mut self, key: RouteKey) {
        if let Some(held) = self.routes.remove(&key) {
            self.tell(Event::RouteGone(Self::told(key, &held)));
        }
    }

    /// Somebody removes one of our next-hop objects: its routes go too, without a word.
    pub(crate) fn spoil_object(&mut self, nth: usize) {
        let id = self.objects.keys().copied().nth(nth.checked_rem(self.objects.len()).unwrap_or(0));
        if let Some(id) = id {
            self.remove_object(id);
            self.tell(Event::NexthopGone(id));
        }
    }

    /// The routes of others that are not as they were left.
    pub(crate) fn touched_foreign(&self) -> Option<RouteKey> {
        let intact = |key: &RouteKey| self.routes.get(key).is_some_and(|held| held.protocol == FOREIGN);
        self.foreign.iter().find(|key| !intact(key)).copied()
    }
}
