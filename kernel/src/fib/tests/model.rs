//! A small Linux: routes, next-hop objects, links, notifications, refusals.

use std::collections::VecDeque;

use super::super::*;
use crate::model::{
    Event, Forward, Hop, KernelRoute, Link, MAIN_TABLE, Nexthop, NexthopTo, OpError, PROTOCOL,
};

pub(super) const FOREIGN: u8 = 4;

#[expect(clippy::disallowed_methods, reason = "a test may begin now")]
pub(super) fn start() -> Instant {
    Instant::now()
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn hop(gateway: &str, link: u32) -> Hop {
    Hop { gateway: ip(gateway), link }
}

pub(super) fn key(number: u32) -> RouteKey {
    let address = std::net::Ipv4Addr::from(0x0af4_0000 + number * 64);
    RouteKey::main(IpNetwork::new(address.into(), 26).unwrap(), 0)
}

pub(super) fn link(index: u32, name: &str) -> Link {
    Link { index, name: name.into(), up: true, carrier: true, mtu: 1500, alias: None }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Held {
    pub(super) protocol: u8,
    pub(super) forward: Forward,
    pub(super) source: Option<IpAddr>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) routes: BTreeMap<RouteKey, Held>,
    pub(super) objects: BTreeMap<u32, (u8, NexthopTo)>,
    pub(super) links: BTreeMap<u32, Link>,
    pub(super) reach: BTreeMap<IpAddr, Resolution>,
    pub(super) events: VecDeque<Event>,
    pub(super) has_objects: bool,
    /// Gateways that Linux takes no object for.
    pub(super) refused: BTreeSet<Hop>,
    /// The answers to the next batch are lost after so many operations.
    pub(super) lose_after: Option<usize>,
}

impl World {
    fn new() -> Self {
        Self {
            routes: BTreeMap::new(),
            objects: BTreeMap::new(),
            links: BTreeMap::new(),
            reach: BTreeMap::new(),
            events: VecDeque::new(),
            has_objects: true,
            refused: BTreeSet::new(),
            lose_after: None,
        }
    }

    pub(super) fn ours(&self) -> BTreeSet<RouteKey> {
        let ours = self.routes.iter().filter(|(_, held)| held.protocol == PROTOCOL);
        ours.map(|(key, _)| *key).collect()
    }

    pub(super) fn hops(&self) -> impl Iterator<Item = Hop> {
        self.objects.values().filter_map(|(_, to)| match to {
            NexthopTo::Hop(hop) => Some(*hop),
            NexthopTo::Group(_) | NexthopTo::Other => None,
        })
    }

    pub(super) fn reach(&mut self, address: IpAddr, hops: impl IntoIterator<Item = Hop>) {
        self.reach.insert(address, Resolution::Hops(hops.into_iter().collect()));
    }

    /// The gateways to which a packet for this route may go.
    pub(super) fn hops_of(&self, key: &RouteKey) -> Option<BTreeSet<Hop>> {
        match &self.routes.get(key)?.forward {
            Forward::Paths(hops) => Some(hops.clone()),
            Forward::Nexthop(id) => match &self.objects.get(id)?.1 {
                NexthopTo::Hop(hop) => Some([*hop].into()),
                NexthopTo::Group(members) => members
                    .iter()
                    .map(|id| match self.objects.get(id)?.1 {
                        NexthopTo::Hop(hop) => Some(hop),
                        NexthopTo::Group(_) | NexthopTo::Other => None,
                    })
                    .collect(),
                NexthopTo::Other => None,
            },
            Forward::Link(_) | Forward::Blackhole | Forward::Other => None,
        }
    }

    pub(super) fn leads_to(&self, key: &RouteKey, hops: &[Hop]) -> bool {
        self.hops_of(key) == Some(hops.iter().copied().collect())
    }

    fn usable(&self, link: u32) -> bool {
        self.links.get(&link).is_some_and(|link| link.up && link.carrier)
    }

    pub(super) fn resolve(&self, address: IpAddr) -> Resolution {
        match self.reach.get(&address) {
            Some(Resolution::Hops(hops))
                if hops.iter().all(|hop| self.links.get(&hop.link).is_some_and(|link| link.up)) =>
            {
                Resolution::Hops(hops.clone())
            }
            _ => Resolution::Unreachable,
        }
    }

    pub(super) fn told(&self, key: RouteKey) -> KernelRoute {
        let held = self.routes[&key].clone();
        KernelRoute { key, protocol: held.protocol, forward: held.forward, source: held.source }
    }

    pub(super) fn dump(&self) -> Dump {
        let nexthop = |(id, (protocol, to)): (&u32, &(u8, NexthopTo))| Nexthop {
            id: *id,
            protocol: *protocol,
            to: to.clone(),
        };
        Dump {
            links: self.links.values().cloned().collect(),
            routes: self.ours().into_iter().map(|key| self.told(key)).collect(),
            nexthops: self.has_objects.then(|| self.objects.iter().map(nexthop).collect()),
        }
    }

    // What others do.

    pub(super) fn put_foreign(&mut self, key: RouteKey) {
        let held = Held { protocol: FOREIGN, forward: Forward::Blackhole, source: None };
        let replaced = self.routes.insert(key, held).is_some();
        let route = self.told(key);
        self.events.push_back(Event::Route { route, replaced });
    }

    /// Tells of a route as if it were new.
    pub(super) fn tell(&mut self, key: RouteKey) {
        let route = self.told(key);
        self.events.push_back(Event::Route { route, replaced: false });
    }

    pub(super) fn delete_foreign(&mut self, key: RouteKey) {
        if self.routes.get(&key).is_some_and(|held| held.protocol == FOREIGN) {
            let route = self.told(key);
            self.routes.remove(&key);
            self.events.push_back(Event::RouteGone(route));
        }
    }

    pub(super) fn tell_foreign_route(&mut self, dst: &str) {
        let key = RouteKey::new(MAIN_TABLE, dst.parse().unwrap(), 0);
        let route = KernelRoute { key, protocol: 2, forward: Forward::Other, source: None };
        self.events.push_back(Event::Route { route, replaced: false });
    }

    /// Somebody removes or changes a route of ours.
    pub(super) fn spoil(&mut self, key: RouteKey, forward: Option<Forward>) {
        if self.routes.get(&key).is_none_or(|held| held.protocol != PROTOCOL) {
            return;
        }
        let before = self.told(key);
        let event = match forward {
            Some(forward) => {
                self.routes.insert(key, Held { protocol: PROTOCOL, forward, source: None });
                Event::Route { route: self.told(key), replaced: true }
            }
            None => {
                self.routes.remove(&key);
                Event::RouteGone(before)
            }
        };
        self.events.push_back(event);
    }

    /// Somebody removes an object: its routes go too, IPv4 ones without a word.
    pub(super) fn spoil_object(&mut self, id: u32) {
        if self.objects.contains_key(&id) {
            self.remove_object(id);
            self.events.push_back(Event::NexthopGone(id));
        }
    }

    pub(super) fn put_link(&mut self, link: Link) {
        self.links.insert(link.index, link.clone());
        self.events.push_back(Event::Link(link));
    }

    pub(super) fn drop_link(&mut self, index: u32) {
        if self.links.remove(&index).is_some() {
            self.flush(index, true);
            self.events.push_back(Event::LinkGone(index));
        }
    }

    pub(super) fn carrier(&mut self, index: u32, carrier: bool) {
        let Some(link) = self.links.get_mut(&index) else { return };
        link.carrier = carrier;
        let link = link.clone();
        if !carrier {
            self.flush(index, false);
        }
        self.events.push_back(Event::Link(link));
    }

    pub(super) fn admin(&mut self, index: u32, up: bool) {
        let Some(link) = self.links.get_mut(&index) else { return };
        link.up = up;
        let link = link.clone();
        if !up {
            self.flush(index, true);
        }
        self.events.push_back(Event::Link(link));
    }

    /// Takes a link down as Linux does with IPv6: each route that goes along is told.
    pub(super) fn down_with_words(&mut self, index: u32) {
        let over = |held: &Held| held.forward == Forward::Link(index);
        let going =
            self.routes.iter().filter(|(_, held)| over(held)).map(|(key, _)| *key).collect::<Vec<_>>();
        let told: Vec<KernelRoute> = going.into_iter().map(|key| self.told(key)).collect();
        self.admin(index, false);
        self.events.extend(told.into_iter().map(Event::RouteGone));
    }

    /// What Linux drops without a word when a link goes: objects with their routes; plain routes only if it is
    /// down by will.
    fn flush(&mut self, link: u32, plain: bool) {
        let on_link = |to: &NexthopTo| matches!(to, NexthopTo::Hop(hop) if hop.link == link);
        let gone: Vec<u32> =
            self.objects.iter().filter(|(_, (_, to))| on_link(to)).map(|(id, _)| *id).collect();
        for id in gone {
            self.remove_object(id);
        }
        self.routes.retain(|_, held| match &held.forward {
            Forward::Link(index) => !plain || *index != link,
            Forward::Paths(hops) => !plain || hops.iter().all(|hop| hop.link != link),
            _ => true,
        });
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
        for group in empty {
            self.remove_object(group);
        }
    }

    // What we do.

    fn apply(&mut self, op: &Op) -> Result<(), OpError> {
        match op {
            Op::PutNexthop { id, to, replace } => self.put_object(*id, to, *replace),
            Op::DeleteNexthop { id } => match self.objects.get(id) {
                None => Err(OpError::Missing),
                Some((protocol, _)) => {
                    assert_eq!(*protocol, PROTOCOL, "a foreign object was removed");
                    self.remove_object(*id);
                    Ok(())
                }
            },
            Op::PutRoute { key, forward, source, replace } => {
                self.put_route(*key, forward, *source, *replace)
            }
            Op::DeleteRoute { key } => match self.routes.get(key) {
                Some(held) if held.protocol == PROTOCOL => {
                    self.routes.remove(key);
                    Ok(())
                }
                _ => Err(OpError::Missing),
            },
        }
    }

    fn put_object(&mut self, id: u32, to: &NexthopTo, replace: bool) -> Result<(), OpError> {
        if !self.has_objects {
            return Err(OpError::Unsupported(String::new()));
        }
        let refused = || Err(OpError::Refused("invalid".into()));
        match self.objects.get(&id) {
            Some(_) if !replace => return Err(OpError::Exists),
            Some((protocol, before)) => {
                assert_eq!(*protocol, PROTOCOL, "a foreign object was changed");
                if matches!(before, NexthopTo::Group(_)) != matches!(to, NexthopTo::Group(_)) {
                    return refused();
                }
            }
            None => {}
        }
        match to {
            NexthopTo::Hop(hop) if self.refused.contains(hop) => return refused(),
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

    fn put_route(
        &mut self,
        key: RouteKey,
        forward: &Forward,
        source: Option<IpAddr>,
        replace: bool,
    ) -> Result<(), OpError> {
        match self.routes.get(&key) {
            Some(_) if !replace => return Err(OpError::Exists),
            Some(held) => assert_eq!(held.protocol, PROTOCOL, "a foreign route was replaced"),
            None => {}
        }
        match forward {
            Forward::Nexthop(id) if !self.objects.contains_key(id) => {
                return Err(OpError::Refused("no such object".into()));
            }
            Forward::Link(index) if !self.links.get(index).is_some_and(|link| link.up) => {
                return Err(OpError::NoPath("down".into()));
            }
            Forward::Paths(hops)
                if hops.iter().any(|hop| !self.links.get(&hop.link).is_some_and(|link| link.up)) =>
            {
                return Err(OpError::NoPath("down".into()));
            }
            _ => {}
        }
        self.routes.insert(key, Held { protocol: PROTOCOL, forward: forward.clone(), source });
        Ok(())
    }
}

/// A machine and its world.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) fib: Fib,
    pub(super) world: World,
    pub(super) now: Instant,
    pub(super) wanted: BTreeMap<RouteKey, Route>,
    pub(super) sets: BTreeMap<SetId, BTreeSet<Gateway>>,
    pub(super) log: Vec<Op>,
    pub(super) events: Vec<FibEvent>,
    pub(super) config: Config,
}

impl Bench {
    pub(super) fn new(config: Config) -> Self {
        let now = start();
        Self {
            fib: Fib::new(config.clone(), now),
            world: World::new(),
            now,
            wanted: BTreeMap::new(),
            sets: BTreeMap::new(),
            log: Vec::new(),
            events: Vec::new(),
            config,
        }
    }

    /// The agent dies and starts again.
    pub(super) fn restart(&mut self) {
        self.fib = Fib::new(self.config.clone(), self.now);
        self.world.events.clear();
        self.wanted.clear();
        self.sets.clear();
        self.log.clear();
        self.events.clear();
    }

    pub(super) fn feed(&mut self, input: Input) {
        match &input {
            Input::SetRoutes(routes) => self.wanted = routes.clone(),
            Input::Sets(sets) => {
                for (set, gateways) in sets {
                    if gateways.is_empty() {
                        self.sets.remove(set);
                        self.wanted.retain(|_, route| *route != Route::set(*set));
                    } else {
                        self.sets.insert(*set, gateways.clone());
                    }
                }
            }
            Input::Desire(changes) => {
                for (key, route) in changes {
                    match route.as_ref().filter(|route| self.leads_somewhere(route)) {
                        Some(route) => self.wanted.insert(*key, route.clone()),
                        None => self.wanted.remove(key),
                    };
                }
            }
            _ => {}
        }
        self.fib.handle(input, self.now);
    }

    /// Whether a route is in no set or in one that is there.
    fn leads_somewhere(&self, route: &Route) -> bool {
        !matches!(&route.to, RouteTo::Set(set) if !self.sets.contains_key(set))
    }

    /// The next hops of a wanted route.
    pub(super) fn next_hops(&self, route: &Route) -> BTreeSet<Gateway> {
        match &route.to {
            RouteTo::Via(next_hops) => next_hops.clone(),
            RouteTo::Set(set) => self.sets[set].clone(),
            RouteTo::Link(_) | RouteTo::Blackhole => BTreeSet::new(),
        }
    }

    /// Delivers what is queued and does what the machine asks until it asks no more.
    pub(super) fn drain(&mut self) {
        while let Some(event) = self.world.events.pop_front() {
            self.feed(Input::Observed(event));
        }
        for _ in 0..10_000 {
            let Some(output) = self.fib.poll() else { return };
            match output {
                Output::Dump => self.feed(Input::Dumped(Some(self.world.dump()))),
                Output::Resolve(addresses) => {
                    let answers = addresses.into_iter().map(|address| (address, self.world.resolve(address)));
                    self.feed(Input::Resolved(answers.collect()));
                }
                Output::Apply(ops) => self.apply(&ops),
                Output::Event(event) => self.events.push(event),
            }
        }
        panic!("the machine does not come to rest: {:?}", self.fib.stats());
    }

    pub(super) fn apply(&mut self, ops: &[Op]) {
        let mut results = Vec::new();
        let lose_after = self.world.lose_after.take();
        for op in ops.iter().take(lose_after.unwrap_or(usize::MAX)) {
            let there = |bench: &Self| -> BTreeSet<RouteKey> {
                let ours = bench.world.ours();
                ours.into_iter().filter(|key| bench.wanted.contains_key(key)).collect()
            };
            // Checking each operation is quadratic: the large tests do without.
            let before = (ops.len() < 50).then(|| there(self));
            results.push(self.world.apply(op));
            if let Some(before) = before {
                let missing: Vec<_> = before.difference(&there(self)).copied().collect();
                assert!(missing.is_empty(), "{op:?} broke {missing:?}");
            }
            self.log.push(op.clone());
        }
        let results = lose_after.is_none().then_some(results);
        self.feed(Input::Applied(results));
    }

    /// Lets time pass until the machine wants to be woken.
    pub(super) fn sleep(&mut self) {
        self.now = self.now.max(self.fib.deadline().expect("there is always a next dump"));
        self.feed(Input::Timeout);
        self.drain();
    }

    /// Lets a second pass, and longer if the machine is still busy.
    pub(super) fn settle(&mut self) {
        self.drain();
        let end = self.now + Duration::from_secs(1);
        while self.fib.deadline().is_some_and(|at| at <= end) {
            self.sleep();
        }
        self.now = end;
        self.feed(Input::Timeout);
        self.drain();
    }
}
