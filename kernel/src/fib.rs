//! The machine that keeps the kernel's routes equal to the wanted ones.
//!
//! It is fed with what is wanted ([`Input::SetRoutes`], [`Input::Desire`]) and with what the kernel says, and asks
//! for dumps, lookups and batches of operations. It reads no clock and opens nothing.
//!
//! - A next hop as BGP gives it need not be on-link: the kernel is asked how it reaches each, and asked again when
//!   links or foreign routes change.
//! - Each distinct set of next hops (a *target*) gets one next-hop object, a group if there are several, and routes
//!   lead to objects. So a change below a next hop, and the move of all routes from one target to another, are one
//!   message whatever the number of routes. A kernel without objects gets plain gateways.
//! - Objects of an earlier run are found by their protocol number and taken over by what they stand for.
//! - A route of the same key that is not ours is left alone, and ours is reported as blocked.
//! - What the kernel refuses is tried again with growing delay, at once when links change.
//!
//! Read `fib/plan.rs` for the order of operations, `fib/observe.rs` for what is believed of the kernel.

mod blocked;
mod index;
mod links;
mod object;
mod observe;
mod paths;
mod plan;
mod table;
mod target;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;

use crate::model::{Dump, Gateway, Op, Resolution, Route, RouteKey, RouteTo, SetId};

use blocked::BlockedRoutes;
use links::{LinkNames, Links};
use object::Objects;
use observe::Drifted;
use table::{RouteNo, Table, Wish};
use target::{TargetId, Targets};
pub use words::{Blocked, Config, FibEvent, Input, Output, Stats, Why};

/// How long changes of the kernel are gathered before it is asked about them.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// The first delay before what was refused is tried again; it doubles.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// The longest such delay.
const LAST_RETRY: Duration = Duration::from_secs(30);
/// How long to wait after a dump or lookup that failed.
const READ_RETRY: Duration = Duration::from_secs(1);

/// The machine. See the module's introduction.
#[derive(Debug)]
pub struct Fib {
    config: Config,
    now: Instant,
    table: Table,
    /// Wanted routes by the name of their link.
    names: LinkNames,
    targets: Targets,
    links: Links,
    objects: Objects,
    use_objects: bool,
    blocked: BlockedRoutes,
    keep_stale: bool,
    /// Targets for whose routes it must be decided anew what should be in the kernel.
    rescan: BTreeSet<TargetId>,
    /// Whether the same must be decided for objects.
    objects_dirty: bool,
    /// Objects that the kernel refused, and why.
    failed_objects: BTreeMap<u32, String>,
    /// Objects that are to be removed together with all routes that lead to them.
    condemned: BTreeSet<u32>,
    /// What became of routes without our doing, until it is told.
    drift: Vec<Drifted>,
    /// Links that went down or away since the last dump, with which the kernel drops routes.
    lost_links: BTreeSet<u32>,
    stats: Stats,
    events: VecDeque<FibEvent>,

    /// Whether anything changed since the last plan came out empty.
    dirty: bool,
    in_flight: Option<Vec<Op>>,
    dump: Asked,
    /// Routes in whose way something is that may yet turn out to be ours.
    doubted: BTreeSet<RouteKey>,
    /// When a dump is to tell, unless a notification does before.
    doubt_until: Option<Instant>,
    /// Whether the kernel may have dropped something without a word since the last dump.
    in_doubt: bool,
    /// When the next dump is due in any case.
    dump_at: Instant,
    /// Next hops that are being looked up.
    asked: BTreeSet<IpAddr>,
    /// Next hops to look up once `again_at` has come.
    again: BTreeSet<IpAddr>,
    again_at: Option<Instant>,
    retry_at: Option<Instant>,
    attempts: u32,
}

/// Where a dump stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// None is needed.
    No,
    /// Nothing is done before there is one, which may be asked for from this time on.
    Needed(Instant),
    /// It was asked for.
    Pending {
        /// What happened since then calls for another.
        again: bool,
    },
}

impl Fib {
    /// Makes a machine that knows nothing; its first output is [`Output::Dump`].
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            use_objects: config.nexthop_objects,
            dump_at: now + config.resync,
            table: Table::new(config.hash_key),
            config,
            now,
            names: LinkNames::default(),
            targets: Targets::default(),
            links: Links::default(),
            objects: Objects::default(),
            blocked: BlockedRoutes::default(),
            keep_stale: true,
            rescan: BTreeSet::new(),
            objects_dirty: true,
            failed_objects: BTreeMap::new(),
            condemned: BTreeSet::new(),
            drift: Vec::new(),
            lost_links: BTreeSet::new(),
            stats: Stats::default(),
            events: VecDeque::new(),
            dirty: true,
            in_flight: None,
            dump: Asked::Needed(now),
            doubted: BTreeSet::new(),
            doubt_until: None,
            in_doubt: false,
            asked: BTreeSet::new(),
            again: BTreeSet::new(),
            again_at: None,
            retry_at: None,
            attempts: 0,
        }
    }

    /// Feeds one fact.
    pub fn handle(&mut self, input: Input, now: Instant) {
        self.now = now;
        self.dirty = true;
        match input {
            Input::Timeout => {}
            Input::SetRoutes(routes) => self.set_routes(routes),
            Input::Sets(sets) => self.set_sets(sets),
            Input::Desire(changes) => {
                for (key, route) in changes {
                    self.desire(key, route);
                }
            }
            Input::KeepStale(keep) => self.set_keep_stale(keep),
            Input::Observed(event) => self.on_event(event),
            Input::Dumped(dump) => self.on_dumped(dump),
            Input::Resolved(resolved) => self.on_resolved(resolved),
            Input::Applied(results) => {
                if let Some(ops) = self.in_flight.take() {
                    self.on_applied(ops, results);
                }
            }
        }
        self.on_time();
    }

    /// Takes the next thing to do, or `None` when there is nothing to do but wait.
    pub fn poll(&mut self) -> Option<Output> {
        self.tell_drift();
        if let Some(event) = self.events.pop_front() {
            return Some(Output::Event(event));
        }
        if self.in_flight.is_some() {
            return None;
        }
        match self.dump {
            Asked::Needed(at) if at <= self.now => {
                self.dump = Asked::Pending { again: false };
                return Some(Output::Dump);
            }
            Asked::Needed(_) | Asked::Pending { .. } => return None,
            Asked::No => {}
        }
        if !self.asked.is_empty() {
            return None;
        }
        if self.targets.has_fresh() || self.again_at.is_some_and(|at| at <= self.now) {
            return Some(self.resolve());
        }
        self.work()
    }

    /// When [`Input::Timeout`] is due next.
    pub fn deadline(&self) -> Option<Instant> {
        let busy = self.in_flight.is_some() || !self.asked.is_empty();
        let due = match self.dump {
            Asked::Pending { .. } => [None, None],
            _ if busy => [None, None],
            Asked::Needed(at) => [Some(at), None],
            Asked::No => [Some(self.dump_at), self.again_at],
        };
        due.into_iter().chain([self.doubt_until]).chain([self.retry_at]).flatten().min()
    }

    /// Whether the kernel holds exactly what is wanted, stale routes that are still kept aside.
    pub fn in_sync(&self) -> bool {
        let quiet = self.dump == Asked::No && self.in_flight.is_none() && self.table.opened().is_empty();
        quiet
            && !self.dirty
            && !self.in_doubt
            && self.rescan.is_empty()
            && self.blocked.counts().is_empty()
            && self.table.counts().pending == self.table.counts().stale
            && self.objects.tracker.in_sync()
    }

    /// Figures for metrics and status.
    pub fn stats(&self) -> Stats {
        let counts = self.table.counts();
        Stats {
            desired: counts.wanted,
            installed: counts.actual,
            pending: counts.pending.saturating_sub(counts.stale),
            stale: counts.stale,
            nexthops: self.objects.tracker.actual().count(),
            blocked: self.blocked.told(),
            ..self.stats.clone()
        }
    }

    /// The routes that cannot be installed, and why.
    pub fn blocked(&self) -> impl Iterator<Item = (&RouteKey, &Blocked)> {
        self.blocked.iter()
    }

    /// The wanted routes that are in sets, inside a network.
    pub fn in_sets(&self, within: IpNetwork) -> Vec<(RouteKey, SetId)> {
        let in_set = |wish: Option<Wish>| match wish? {
            Wish::Target(id) => self.targets.set_of(id),
            Wish::Link(_) | Wish::Blackhole => None,
        };
        let wanted =
            self.table.iter().filter_map(|(_, entry)| Some((self.table.key(entry), in_set(entry.wanted())?)));
        wanted
            .filter(|(key, _)| {
                within.is_ipv4() == key.dst.is_ipv4()
                    && within.prefix() <= key.dst.prefix()
                    && within.contains(key.dst.network())
            })
            .collect()
    }

    fn set_sets(&mut self, sets: Vec<(SetId, BTreeSet<Gateway>)>) {
        let mut gone = BTreeSet::new();
        for (set, next_hops) in sets {
            gone.extend(self.targets.define(set, next_hops));
        }
        if gone.is_empty() {
            return;
        }
        let in_one = |wish: Option<Wish>| matches!(wish, Some(Wish::Target(id)) if gone.contains(&id));
        let routes = self.table.iter().filter(|(_, entry)| in_one(entry.wanted()));
        let routes: Vec<RouteNo> = routes.map(|(number, _)| number).collect();
        for number in routes {
            if let Some(Wish::Target(id)) = self.table.want_at(number, None) {
                self.targets.release(id);
                self.objects_dirty = true;
            }
        }
    }

    fn set_routes(&mut self, mut routes: BTreeMap<RouteKey, Route>) {
        let wanted = self.table.iter().filter(|(_, entry)| entry.wanted().is_some());
        let keys = wanted.map(|(_, entry)| self.table.key(entry));
        let gone: Vec<RouteKey> = keys.filter(|key| !routes.contains_key(key)).collect();
        for key in gone {
            self.desire(key, None);
        }
        while let Some((key, route)) = routes.pop_first() {
            self.desire(key, Some(route));
        }
    }

    fn desire(&mut self, key: RouteKey, route: Option<Route>) {
        let key = RouteKey::new(key.table, key.dst, key.metric);
        let wish = route.and_then(|Route { to, source }| {
            let wish = match to {
                RouteTo::Via(next_hops) => Wish::Target(self.targets.acquire(key.dst.is_ipv6(), &next_hops)),
                RouteTo::Set(set) => Wish::Target(self.targets.acquire_set(key.dst.is_ipv6(), set)?),
                RouteTo::Link(name) => Wish::Link(self.names.enter(name, key)),
                RouteTo::Blackhole => Wish::Blackhole,
            };
            Some((wish, self.table.source_number(source)))
        });
        match self.table.want(&key, wish) {
            Some(Wish::Target(id)) => {
                self.targets.release(id);
                self.objects_dirty = true;
            }
            Some(Wish::Link(link)) if wish.map(|(wish, _)| wish) != Some(Wish::Link(link)) => {
                self.names.leave(link, &key);
            }
            Some(Wish::Link(_) | Wish::Blackhole) | None => {}
        }
    }

    fn set_keep_stale(&mut self, keep: bool) {
        self.keep_stale = keep;
        if !keep {
            self.table.forget_stale();
        }
    }

    fn on_dumped(&mut self, dump: Option<Dump>) {
        let again = self.dump == Asked::Pending { again: true };
        self.dump = match (&dump, again) {
            (None, _) => Asked::Needed(self.now + READ_RETRY),
            (Some(_), true) => Asked::Needed(self.now),
            (Some(_), false) => Asked::No,
        };
        if let Some(dump) = dump {
            self.on_dump(dump);
            self.in_doubt = false;
            self.dump_at = self.now + self.config.resync;
        }
    }

    fn on_resolved(&mut self, resolved: BTreeMap<IpAddr, Resolution>) {
        for (address, resolution) in resolved {
            self.asked.remove(&address);
            self.targets.resolved(address, resolution);
        }
        if !self.asked.is_empty() {
            self.again.append(&mut self.asked);
            self.again_at.get_or_insert(self.now + READ_RETRY);
        }
    }

    /// Does what is due.
    fn on_time(&mut self) {
        if self.dump == Asked::No && self.dump_at <= self.now {
            self.want_dump();
        }
        if self.doubt_until.is_some_and(|at| at <= self.now) {
            self.doubt_until = None;
            let doubted = std::mem::take(&mut self.doubted);
            if doubted.iter().any(|key| self.blocked.why(key) == Some(Why::Foreign)) {
                self.want_dump();
            }
        }
        if self.retry_at.is_some_and(|at| at <= self.now) {
            self.retry_at = None;
            self.retry_refused();
        }
    }

    /// Nothing more is done before there is a dump.
    fn want_dump(&mut self) {
        self.dump = match self.dump {
            Asked::No => Asked::Needed(self.now),
            Asked::Needed(at) => Asked::Needed(at),
            Asked::Pending { .. } => Asked::Pending { again: true },
        };
    }

    /// Has the kernel dumped after a moment.
    fn dump_soon(&mut self) {
        self.in_doubt = true;
        self.dump_at = self.dump_at.min(self.now + DEBOUNCE);
    }

    /// What is in the way of a route may be ours: the plugin's, of which we have not heard yet.
    fn doubt(&mut self, key: RouteKey) {
        self.doubted.insert(key);
        self.doubt_until.get_or_insert(self.now + DEBOUNCE);
    }

    /// Has next hops looked up again after a moment.
    fn resolve_again(&mut self, condition: impl Fn(IpAddr, Option<&Resolution>) -> bool) {
        self.again.extend(self.targets.next_hops(condition));
        self.again_soon();
    }

    fn again_soon(&mut self) {
        if !self.again.is_empty() {
            self.again_at.get_or_insert(self.now + DEBOUNCE);
        }
    }

    fn resolve(&mut self) -> Output {
        self.asked = self.targets.take_fresh();
        if self.again_at.is_some_and(|at| at <= self.now) {
            self.asked.append(&mut self.again);
            self.again_at = None;
        }
        Output::Resolve(self.asked.clone())
    }

    /// Has it decided anew what should be at a key.
    fn open(&mut self, key: &RouteKey) {
        if let Some(number) = self.table.find(key) {
            self.table.open(number);
        }
    }

    /// Tries again what the kernel refused.
    fn retry_refused(&mut self) {
        for key in self.blocked.refused() {
            self.open(&key);
        }
        self.forgive_objects();
    }

    fn retry_later(&mut self) {
        let delay = FIRST_RETRY.saturating_mul(1 << self.attempts.min(16)).min(LAST_RETRY);
        self.retry_at.get_or_insert_with(|| {
            self.attempts += 1;
            self.now + delay
        });
    }

    fn work(&mut self) -> Option<Output> {
        if !self.dirty {
            return None;
        }
        let ops = self.plan();
        self.dirty = !ops.is_empty();
        if ops.is_empty() && self.doubted.is_empty() {
            // Only now: what is tried again is not blocked while it is under way.
            self.events.extend(self.blocked.news());
        }
        if ops.is_empty() {
            return self.events.pop_front().map(Output::Event);
        }
        self.in_flight = Some(ops.clone());
        Some(Output::Apply(ops))
    }
}
