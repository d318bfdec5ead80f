//! The one state behind all screens: objects and counters in, a [`View`] out. It opens nothing and reads no clock.
//!
//! `feed` brings the events; `top` and `ui` draw the view.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kube::ResourceExt as _;
use manx_api::{IPPool, NodeNetwork, Session, SessionState, Timestamp, condition, is_true};
use manx_facts::counters::Counters;

use super::listen::Manner;
use super::rates::{Meter, Rates};
use super::routers::{Identities, Routers};
use super::view::{BlockView, NodeView, PoolView, RouterView, SessionView, Summary, View};
use crate::cluster::Cluster;
use crate::finding::{Finding, Weight};
use crate::status;

/// How many ticks of the sums are remembered.
const HISTORY: usize = 240;

/// Labels of a Node that say where it stands; the first that tells nodes apart is taken.
const PLACES: [&str; 5] = [
    "topology.kubernetes.io/rack",
    "manx.dev/rack",
    "rack",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];

/// What the state learns.
#[derive(Debug)]
pub(crate) enum Event {
    /// All objects, as they are now.
    Objects(Box<Cluster>),
    /// Nodes cannot be asked at all, or can again.
    Deaf(Option<String>),
    /// A node answered.
    Counted(String, Counters),
    /// A node does not answer, and why.
    Away(String, String),
    /// A second has passed.
    Tick,
}

/// Everything known.
#[derive(Debug, Default)]
pub(crate) struct State {
    name: String,
    /// The label to group nodes by, if somebody said which.
    place: Option<String>,
    /// `None` before they were read.
    objects: Option<Box<Cluster>>,
    deaf: Option<String>,
    meters: BTreeMap<String, Meter>,
    /// When each node last answered.
    heard: BTreeMap<String, Timestamp>,
    away: BTreeMap<String, String>,
    now: Timestamp,
    identities: Identities,
    history: VecDeque<[f64; 3]>,
    findings: Vec<Finding>,
}

impl State {
    /// Of a cluster by this name, with its nodes grouped by a label.
    pub(crate) fn new(name: impl Into<String>, place: Option<String>) -> Self {
        Self { name: name.into(), place, ..Self::default() }
    }

    /// Learns something.
    pub(crate) fn handle(&mut self, event: Event, now: Timestamp) {
        self.now = self.now.max(now);
        match event {
            Event::Objects(objects) => {
                self.identities.learn(&objects.networks, &objects.peers);
                self.objects = Some(objects);
                self.judge(now);
            }
            Event::Deaf(why) => self.deaf = why,
            Event::Counted(node, counters) => {
                self.away.remove(&node);
                self.heard.insert(node.clone(), now);
                self.meters.entry(node).or_default().take(counters);
            }
            Event::Away(node, why) => {
                self.meters.remove(&node);
                self.away.insert(node, why);
            }
            Event::Tick => {
                let sum = self.sum();
                self.history.push_back([sum.started, sum.stopped, sum.changes]);
                while self.history.len() > HISTORY {
                    self.history.pop_front();
                }
                // Some things become wrong by time alone.
                self.judge(now);
            }
        }
    }

    fn judge(&mut self, now: Timestamp) {
        if let Some(objects) = &self.objects {
            self.findings = status::findings(objects, now);
            self.findings.sort_by_key(|finding| std::cmp::Reverse(finding.weight));
        }
    }

    fn networks(&self) -> &[NodeNetwork] {
        self.objects.as_ref().map_or(&[], |objects| &objects.networks)
    }

    fn pools(&self) -> &[IPPool] {
        self.objects.as_ref().map_or(&[], |objects| &objects.pools)
    }

    /// What a node counts, unless it has been silent for too long.
    fn meter(&self, node: &str) -> Option<&Meter> {
        self.meters.get(node).filter(|_| self.silent_since(node).is_none())
    }

    /// When a node last answered that should have since, in seconds since 1970.
    fn silent_since(&self, node: &str) -> Option<i64> {
        let heard = *self.heard.get(node)?;
        let stale = Manner::of(self.networks().len()).stale;
        let silent = self.away.contains_key(node) || heard + stale < self.now;
        silent.then(|| heard.as_second())
    }

    /// What all nodes that answer do together.
    fn sum(&self) -> Rates {
        let rates = self.meters.keys().filter_map(|node| self.meter(node)?.rates());
        rates.fold(Rates::default(), |sum, one| Rates {
            started: sum.started + one.started,
            stopped: sum.stopped + one.stopped,
            failed: sum.failed + one.failed,
            pods: sum.pods + one.pods,
            routes: sum.routes + one.routes,
            desired: sum.desired + one.desired,
            changes: sum.changes + one.changes,
            drift: sum.drift + one.drift,
            memory: sum.memory.max(one.memory),
            cpu: sum.cpu.max(one.cpu),
        })
    }

    /// What a screen may show now.
    pub(crate) fn view(&self) -> View {
        let sessions = self.sessions(&self.identities.routers(self.networks()));
        let blocks = self.blocks();
        let nodes = self.node_views(&blocks, &sessions);
        let summary = self.summary(&nodes, &sessions, &blocks);
        View {
            summary,
            routers: routers(&sessions),
            pools: self.pools().iter().map(|pool| self.pool(pool, &blocks)).collect(),
            nodes,
            sessions,
            blocks,
            findings: self.findings.clone(),
        }
    }

    fn summary(&self, nodes: &[NodeView], sessions: &[SessionView], blocks: &[BlockView]) -> Summary {
        let unread = self.objects.iter().flat_map(|objects| objects.unread.iter().cloned());
        let deaf = self.deaf.iter().map(|why| format!("nodes cannot be asked: {why}"));
        Summary {
            cluster: self.name.clone(),
            complete: self.objects.is_some(),
            troubles: unread.chain(deaf).collect(),
            nodes: nodes.len(),
            nodes_ready: nodes.iter().filter(|node| node.ready == Some(true)).count(),
            nodes_asked: nodes.iter().filter(|node| node.rates.is_some()).count(),
            sessions: sessions.len(),
            sessions_up: sessions.iter().filter(|session| session.up).count(),
            blocks: blocks.len(),
            used: blocks.iter().map(|block| u64::from(block.used)).sum(),
            free: blocks.iter().map(|block| u64::from(block.free)).sum(),
            rates: self.sum(),
            history: self.history.iter().copied().collect(),
        }
    }

    fn sessions(&self, routers: &Routers) -> Vec<SessionView> {
        let mut sessions = Vec::new();
        for network in self.networks() {
            let node = network.name_any();
            let meter = self.meter(&node);
            let listed = network.status.iter().flat_map(|status| &status.sessions);
            sessions.extend(listed.map(|session| {
                let end = (node.clone(), session.peer.clone());
                SessionView { router: routers.get(&end).cloned(), ..session_view(&node, session, meter) }
            }));
        }
        sessions
    }

    fn blocks(&self) -> Vec<BlockView> {
        let nodes: BTreeSet<String> = self.networks().iter().map(kube::ResourceExt::name_any).collect();
        let pools: BTreeMap<String, &IPPool> =
            self.pools().iter().map(|pool| (pool.name_any(), pool)).collect();
        let mut blocks: Vec<(u128, BlockView)> = self
            .objects
            .iter()
            .flat_map(|objects| &objects.blocks)
            .map(|block| {
                let status = block.status.as_ref().map(|status| (status.used, status.free));
                let (used, free) = status.unwrap_or_default();
                let first = number(block.spec.cidr.network());
                let view = BlockView {
                    cidr: block.spec.cidr.to_string(),
                    pool: block.spec.pool.clone(),
                    node: block.spec.node.clone(),
                    place: pools.get(&block.spec.pool).map_or(0.0, |pool| place(pool, first)),
                    used,
                    free,
                    owned: nodes.contains(&block.spec.node),
                };
                (first, view)
            })
            .collect();
        blocks.sort_by(|(a, one), (b, other)| (&one.pool, a).cmp(&(&other.pool, b)));
        blocks.into_iter().map(|(_, view)| view).collect()
    }

    fn node_views(&self, blocks: &[BlockView], sessions: &[SessionView]) -> Vec<NodeView> {
        let mut owned: BTreeMap<&str, (usize, u64, u64)> = BTreeMap::new();
        for block in blocks {
            let (count, used, free) = owned.entry(&block.node).or_default();
            *count += 1;
            *used += u64::from(block.used);
            *free += u64::from(block.free);
        }
        let places = self.places();
        let mut spoken: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for session in sessions {
            let router = session.router.as_deref().and_then(|router| router.strip_prefix("peer/"));
            spoken.entry(&session.node).or_default().extend(router);
        }
        let views = self.networks().iter().map(|network| {
            let name = network.name_any();
            let own = owned.get(name.as_str()).copied().unwrap_or_default();
            let routers = spoken.remove(name.as_str()).unwrap_or_default();
            NodeView { group: self.group(&name, routers, &places), ..self.node_view(network, own) }
        });
        let mut views: Vec<NodeView> = views.collect();
        let groups: BTreeSet<&String> = views.iter().map(|node| &node.group).collect();
        if places.is_empty() && groups.len() == views.len() {
            // Each node has routers of its own: that is no place to share.
            views.iter_mut().for_each(|node| node.group.clear());
        }
        views
    }

    fn node_view(&self, network: &NodeNetwork, (blocks, used, free): (usize, u64, u64)) -> NodeView {
        let name = network.name_any();
        let status = network.status.as_ref();
        let sessions = status.map_or(&[][..], |status| &status.sessions);
        let addresses = &network.spec.addresses;
        let ready = status.and_then(|status| condition(&status.conditions, "Ready"));
        let texts = [addresses.ipv4.map(|one| one.to_string()), addresses.ipv6.map(|one| one.to_string())];
        NodeView {
            addresses: texts.into_iter().flatten().collect(),
            as_number: network.spec.as_number,
            reflector: network.spec.cluster_id.is_some(),
            ready: ready.map(|ready| ready.status == "True"),
            version: status.map(|status| status.version.clone()).unwrap_or_default(),
            sessions_up: sessions.iter().filter(|session| session.state == SessionState::Established).count(),
            sessions: sessions.len(),
            blocks,
            used,
            free,
            findings: self
                .findings
                .iter()
                .filter(|one| one.weight != Weight::Note && one.concerns(&name))
                .count(),
            errors: self.findings.iter().filter(|one| own_error(one, &name)).count(),
            rates: self.meter(&name).and_then(Meter::rates),
            away: self.away.get(&name).cloned(),
            silent_since: self.silent_since(&name),
            group: String::new(),
            name,
        }
    }

    /// How much is wrong with an object.
    fn wrong(&self, object: &str) -> usize {
        let wrong = |finding: &&Finding| finding.object == object && finding.weight != Weight::Note;
        self.findings.iter().filter(wrong).count()
    }

    /// The label that tells where nodes stand.
    fn place(&self) -> Option<&str> {
        if let Some(place) = &self.place {
            return Some(place);
        }
        PLACES.into_iter().find(|place| {
            let nodes = self.objects.iter().flat_map(|objects| &objects.nodes);
            let values: BTreeSet<&String> = nodes.filter_map(|node| node.labels().get(*place)).collect();
            values.len() > 1
        })
    }

    /// What the label says of each node.
    fn places(&self) -> BTreeMap<&str, &str> {
        let Some(place) = self.place() else { return BTreeMap::new() };
        let nodes = self.objects.iter().flat_map(|objects| &objects.nodes);
        nodes
            .filter_map(|node| Some((node.metadata.name.as_deref()?, node.labels().get(place)?.as_str())))
            .collect()
    }

    /// Where a node stands: by its label, else by the routers it talks to.
    fn group(&self, node: &str, routers: BTreeSet<&str>, places: &BTreeMap<&str, &str>) -> String {
        if self.place().is_some() {
            return places.get(node).map(|place| (*place).to_owned()).unwrap_or_default();
        }
        routers.into_iter().take(4).collect::<Vec<_>>().join(" + ")
    }

    fn pool(&self, pool: &IPPool, blocks: &[BlockView]) -> PoolView {
        let name = pool.name_any();
        let own: Vec<&BlockView> = blocks.iter().filter(|block| block.pool == name).collect();
        let bits: u8 = if pool.spec.cidr.is_ipv4() { 32 } else { 128 };
        let length = pool.spec.cidr.network().prefix();
        let places = 2_f64.powi(i32::from(pool.spec.block_len().saturating_sub(length)));
        PoolView {
            cidr: pool.spec.cidr.to_string(),
            block_len: pool.spec.block_len(),
            places,
            blocks: own.len(),
            capacity: 2_f64.powi(i32::from(bits - length)),
            used: own.iter().map(|block| u64::from(block.used)).sum(),
            free: own.iter().map(|block| u64::from(block.free)).sum(),
            claimed: own.len() as f64 / places,
            ready: pool.status.as_ref().is_some_and(|status| is_true(&status.conditions, "Ready")),
            findings: self.wrong(&format!("pool {name}")),
            name,
        }
    }
}

/// Whether a finding is about this node itself, and not about what others miss of it.
fn own_error(finding: &Finding, node: &str) -> bool {
    let named = finding.object.strip_prefix("node ").is_some_and(|name| name == node);
    finding.weight == Weight::Error
        && (named || finding.object.starts_with("nodes ") && finding.concerns(node))
}

fn session_view(node: &str, session: &Session, meter: Option<&Meter>) -> SessionView {
    let error = session.last_error.as_ref();
    let live = meter.and_then(|meter| meter.peer(&session.peer));
    let counted = |seen: u32, live: Option<u64>| live.unwrap_or_else(|| u64::from(seen));
    SessionView {
        node: node.to_owned(),
        peer: session.peer.clone(),
        router: None,
        address: session.address.map(|address| address.to_string()).unwrap_or_default(),
        as_number: session.as_number,
        state: session.state,
        up: session.state == SessionState::Established,
        since: session.since.0.as_second(),
        received: counted(session.received, live.map(|live| live.received)),
        accepted: counted(session.accepted, live.map(|live| live.accepted)),
        advertised: counted(session.advertised, live.map(|live| live.announced)),
        flaps: counted(session.flaps, live.map(|live| live.dropped)),
        error: error.map(manx_api::SessionError::line).unwrap_or_default(),
        error_at: error.map(|error| error.when.0.as_second()),
        messages: meter.and_then(|meter| meter.messages(&session.peer)),
    }
}

/// The peers that are no nodes, out of what the nodes say of their sessions.
fn routers(sessions: &[SessionView]) -> Vec<RouterView> {
    let mut routers: BTreeMap<&str, RouterView> = BTreeMap::new();
    for session in sessions {
        let Some(name) = &session.router else { continue };
        let router = routers.entry(name).or_default();
        if !router.peers.contains(&session.peer) {
            router.peers.push(session.peer.clone());
        }
        router.sessions += 1;
        router.sessions_up += usize::from(session.up);
        router.as_number = router.as_number.or(session.as_number);
        if !session.address.is_empty() && !router.addresses.contains(&session.address) {
            router.addresses.push(session.address.clone());
        }
    }
    routers.into_iter().map(|(name, router)| RouterView { name: name.to_owned(), ..router }).collect()
}

/// The first address of a network as a number.
fn number(network: ipnetwork::IpNetwork) -> u128 {
    match network.network() {
        std::net::IpAddr::V4(address) => u128::from(u32::from(address)),
        std::net::IpAddr::V6(address) => u128::from(address),
    }
}

/// Which block of the pool begins at this address.
fn place(pool: &IPPool, first: u128) -> f64 {
    let bits: u32 = if pool.spec.cidr.is_ipv4() { 32 } else { 128 };
    let below = first.saturating_sub(number(pool.spec.cidr.network()));
    below.checked_shr(bits - u32::from(pool.spec.block_len())).unwrap_or_default() as f64
}

#[cfg(test)]
mod tests;
