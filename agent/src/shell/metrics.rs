//! Counters, gauges and histograms, in the format of OpenMetrics.
//!
//! Counters are atomics that clones share. Gauges are set when somebody asks, from the reports that the
//! owners publish; nothing is counted twice. What there is stands in `names.rs`.

pub mod names;
pub(crate) mod process;
pub(crate) mod sheet;

use std::sync::Arc;
use std::time::Duration;

use manx_cni::rpc::{Reply, Request};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use manx_bgp::{ErrorCode, FamilyStatus, MessageCounts, PeerState, PeerStatus};
use manx_ipam::Standing;
use manx_kernel::fib::Why;

use super::bgp::Sessions;
use super::conflist::ConflistReport;
use super::kernel::KernelReport;
use super::owner::NodeReport;
use names::Metric;
use process::Process;
use sheet::Sheet;

/// Peers that are shown one by one.
const PEERS_SHOWN: usize = 256;
/// Pools that are shown; what more there are is left out.
pub(crate) const POOLS_SHOWN: usize = 1000;
/// Upper bounds of the buckets of what a call took, in seconds.
const BUCKETS: [f64; 10] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 20.0];

/// Upper bounds of the buckets of what the API server takes to answer, in seconds: its own service levels are one second.
const API_BUCKETS: [f64; 8] = [0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 10.0];
/// Upper bounds of the buckets of what a claimed block takes until peers hear of it, in seconds.
const LAG_BUCKETS: [f64; 8] = [0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// What the owners count as it happens.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Times that the speaker failed and was started again.
    pub speaker_panics: Counter,
    /// Sessions that came up.
    pub sessions_established: Counter,
    /// Sessions that went down.
    pub sessions_lost: Counter,
    /// Connections ended with a NOTIFICATION, by either side.
    pub notifications: Counter,
    /// Messages that broke a rule.
    pub faults: Counter,
    /// Requests to the API server.
    pub api: ApiRequests,
    /// What calls of the plugin took.
    calls: Family<CallLabel, Histogram, fn() -> Histogram>,
    /// What blocks took from their claim until peers heard of them.
    announcements: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let calls: Family<CallLabel, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        // There before the first call, so that the first failure is an increase and no beginning.
        for verb in ["add", "del"] {
            for outcome in ["ok", "retry", "refused", "failed"] {
                drop(calls.get_or_create(&CallLabel { verb, outcome }));
            }
        }
        Self {
            speaker_panics: Counter::default(),
            sessions_established: Counter::default(),
            sessions_lost: Counter::default(),
            notifications: Counter::default(),
            faults: Counter::default(),
            api: ApiRequests::default(),
            calls,
            announcements: Histogram::new(LAG_BUCKETS),
        }
    }
}

/// Requests to the API server, by how they ended.
#[derive(Debug, Clone)]
pub struct ApiRequests {
    counts: Family<CodeLabel, Counter>,
    times: Histogram,
}

impl Default for ApiRequests {
    fn default() -> Self {
        Self { counts: Family::default(), times: Histogram::new(API_BUCKETS) }
    }
}

impl ApiRequests {
    /// Counts an answer, by its HTTP status (`None` where there was none), and what it took to begin.
    pub fn count(&self, status: Option<u16>, took: Duration) {
        let code = status.map_or_else(|| "error".to_owned(), |status| status.to_string());
        self.counts.get_or_create(&CodeLabel { code }).inc();
        self.times.observe(took.as_secs_f64());
    }

    /// Shows them.
    pub(crate) fn show(&self, sheet: &mut Sheet) {
        for code in ["200", "error"] {
            drop(self.counts.get_or_create(&CodeLabel { code: code.to_owned() }));
        }
        sheet.kept(&names::API_REQUESTS, self.counts.clone());
        sheet.kept(&names::API_TIMES, self.times.clone());
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabel {
    verb: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SessionsLabel {
    with: &'static str,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabel {
    peer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FamilyLabel {
    peer: String,
    family: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MessageLabel {
    peer: String,
    direction: &'static str,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PoolLabel {
    pub(crate) pool: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhyLabel {
    why: String,
}

/// The plugin's name for what it asks.
pub(crate) fn verb(request: &Request) -> &'static str {
    match request {
        Request::Add(_) => "add",
        Request::Del(_) => "del",
        Request::Check(_) => "check",
        Request::Status => "status",
        Request::Gc(_) => "gc",
    }
}

/// How a call ended: `refused` is what cannot be had until somebody changes something, `retry` passes by itself.
fn outcome(reply: &Reply) -> &'static str {
    match reply {
        Reply::Error(error) => match error.code {
            11 => "retry",
            50 | 51 | 100 | 101 => "refused",
            _ => "failed",
        },
        _ => "ok",
    }
}

impl Metrics {
    /// Counts a call of the plugin, with what it took from its arrival to the reply.
    pub fn called(&self, verb: &'static str, reply: &Reply, took: Duration) {
        self.calls.get_or_create(&CallLabel { verb, outcome: outcome(reply) }).observe(took.as_secs_f64());
    }

    /// A block was announced so long after it was asked for.
    pub fn announced(&self, took: Duration) {
        self.announcements.observe(took.as_secs_f64());
    }

    /// The text of `/metrics`; `faults` are those of the files of objects, and `stuck` says that running pods do not
    /// get the uplink's MTU.
    pub fn render(
        &self,
        node: &NodeReport,
        sessions: &Sessions,
        kernel: &KernelReport,
        conflist: &ConflistReport,
        faults: usize,
        stuck: bool,
    ) -> String {
        let mut shown = Sheet::default();
        shown.program("agent", Process::read().as_ref());
        self.api.show(&mut shown);
        self.show_counters(&mut shown);
        show_sessions(&mut shown, sessions);
        show_addresses(&mut shown, node);
        show_routes(&mut shown, kernel);
        show_conflist(&mut shown, conflist);
        show_kernel(&mut shown, kernel);
        shown.number(&names::OBJECTS_FAULTS, faults);
        shown.number(&names::MTU_FOLLOWED, u8::from(!stuck && node.mtu_problem.is_none()));
        shown.text()
    }

    fn show_counters(&self, shown: &mut Sheet) {
        let counters: [(&Metric, &Counter); 5] = [
            (&names::SPEAKER_PANICS, &self.speaker_panics),
            (&names::ESTABLISHED, &self.sessions_established),
            (&names::LOST, &self.sessions_lost),
            (&names::NOTIFICATIONS, &self.notifications),
            (&names::FAULTS, &self.faults),
        ];
        for (metric, counter) in counters {
            shown.kept(metric, counter.clone());
        }
        shown.kept(&names::CALLS, self.calls.clone());
        shown.kept(&names::ANNOUNCEMENTS, self.announcements.clone());
    }
}

fn with(peer: &PeerStatus) -> &'static str {
    if peer.peer.as_str().starts_with("node/") { "node" } else { "router" }
}

/// The peers that have series of their own: all, or if they are too many the routers and what is down.
fn detailed(peers: &[PeerStatus]) -> Vec<&PeerStatus> {
    if peers.len() <= PEERS_SHOWN {
        return peers.iter().collect();
    }
    let down = |peer: &&PeerStatus| with(peer) == "node" && peer.state != PeerState::Established;
    let routers = peers.iter().filter(|peer| with(peer) == "router");
    routers.chain(peers.iter().filter(down)).take(PEERS_SHOWN).collect()
}

fn show_totals(shown: &mut Sheet, peers: &[PeerStatus]) {
    let states = ["idle", "connect", "active", "opensent", "openconfirm", "established"];
    let each = ["node", "router"].into_iter().flat_map(|kind| {
        states.into_iter().enumerate().map(move |(number, state)| {
            let count =
                peers.iter().filter(|peer| with(peer) == kind && peer.state as usize == number).count();
            (SessionsLabel { with: kind, state }, i64::try_from(count).unwrap_or(i64::MAX))
        })
    });
    shown.numbers(&names::SESSIONS, each);
}

fn show_sessions(shown: &mut Sheet, sessions: &Sessions) {
    show_totals(shown, &sessions.peers);
    let all = detailed(&sessions.peers);
    let peers = || all.iter().copied();
    let up = peers().map(|peer| (label(peer), i64::from(peer.state == PeerState::Established)));
    shown.numbers(&names::SESSION_UP, up);
    shown.numbers(&names::SESSION_STATE, peers().map(|peer| (label(peer), peer.state as i64)));
    let seconds =
        |peer: &PeerStatus| i64::try_from((peer.since + sessions.age()).as_secs()).unwrap_or(i64::MAX);
    shown.numbers(&names::SESSION_AGE, peers().map(|peer| (label(peer), seconds(peer))));
    let code = |of: fn(ErrorCode) -> u8| {
        peers().filter_map(move |peer| Some((label(peer), of(peer.last_error.as_ref()?.code?).into())))
    };
    shown.numbers(&names::LAST_ERROR, code(|code| code.code));
    shown.numbers(&names::LAST_SUBCODE, code(|code| code.subcode));
    shown.counters(&names::PEER_ESTABLISHED, peers().map(|peer| (label(peer), peer.established)));
    shown.counters(&names::PEER_DROPPED, peers().map(|peer| (label(peer), peer.dropped)));
    shown.counters(&names::PEER_FAULTS, peers().map(|peer| (label(peer), peer.faults)));
    shown.counters(&names::PEER_MESSAGES, peers().flat_map(messages));
    show_prefixes(shown, &all);
    shown.number(&names::SETTLED, u8::from(sessions.settled));
    shown.number(&names::STATIONS, sessions.stations);
}

fn show_prefixes(shown: &mut Sheet, peers: &[&PeerStatus]) {
    let each = |count: fn(&FamilyStatus) -> u32| {
        let families = peers.iter().flat_map(|peer| peer.families.iter().map(move |family| (peer, family)));
        families.map(move |(peer, (family, status))| {
            let label = FamilyLabel { peer: peer.peer.to_string(), family: family.to_string() };
            (label, i64::from(count(status)))
        })
    };
    shown.numbers(&names::RECEIVED, each(|family| family.received));
    shown.numbers(&names::ACCEPTED, each(|family| family.accepted));
    shown.numbers(&names::ANNOUNCED, each(|family| family.announced));
    shown.numbers(&names::STALE, each(|family| family.stale));
    shown.numbers(&names::LIMIT, each(|family| family.max_prefixes));
}

fn label(peer: &PeerStatus) -> PeerLabel {
    PeerLabel { peer: peer.peer.to_string() }
}

fn messages(peer: &PeerStatus) -> impl Iterator<Item = (MessageLabel, u64)> {
    let counts = [("in", &peer.messages_in), ("out", &peer.messages_out)];
    counts.into_iter().flat_map(|(direction, counts)| {
        let MessageCounts { open, update, notification, keepalive, route_refresh } = *counts;
        let kinds = [
            ("open", open),
            ("update", update),
            ("notification", notification),
            ("keepalive", keepalive),
            ("route-refresh", route_refresh),
        ];
        kinds.map(|(kind, count)| (MessageLabel { peer: peer.peer.to_string(), direction, kind }, count))
    })
}

fn show_addresses(shown: &mut Sheet, node: &NodeReport) {
    let pools = || node.usage.pools.iter().take(POOLS_SHOWN);
    let label = |pool: &manx_ipam::PoolUsage| PoolLabel { pool: pool.pool.clone() };
    shown.numbers(&names::NODE_BLOCKS, pools().map(|pool| (label(pool), pool.blocks.into())));
    shown.numbers(&names::NODE_USED, pools().map(|pool| (label(pool), pool.used.into())));
    shown.numbers(&names::NODE_FREE, pools().map(|pool| (label(pool), pool.free.into())));
    shown.numbers(&names::NODE_RESTING, pools().map(|pool| (label(pool), pool.resting.into())));
    shown.number(&names::NODE_PODS, node.usage.endpoints);
    shown.counter(&names::PODS_STARTED, node.usage.turnover.begun);
    shown.counter(&names::PODS_STOPPED, node.usage.turnover.ended);
    let blocks = |standing: &[Standing]| {
        node.usage.blocks.iter().filter(|block| standing.contains(&block.standing)).count()
    };
    shown.number(&names::BLOCKS_IN_CONFLICT, blocks(&[Standing::Foreign, Standing::Vanished]));
    shown.number(&names::BLOCKS_CLAIMING, blocks(&[Standing::Claiming]));
    shown.number(&names::BLOCKS_RELEASING, blocks(&[Standing::Releasing]));
    shown.number(&names::SHORT_OF_BLOCKS, u8::from(node.short_of_blocks));
    shown.number(&names::REQUESTS_WAITING, node.usage.waiting);
    shown.number(&names::READY, u8::from(node.obstacles.is_empty()));
}

fn show_routes(shown: &mut Sheet, kernel: &KernelReport) {
    let stats = kernel.stats.clone().unwrap_or_default();
    shown.number(&names::ROUTES_DESIRED, stats.desired);
    shown.number(&names::ROUTES_INSTALLED, stats.installed);
    shown.number(&names::CHANGES_PENDING, stats.pending);
    shown.number(&names::ROUTES_STALE, stats.stale);
    shown.number(&names::NEXTHOPS, stats.nexthops);
    shown.counter(&names::DRIFT, stats.drift_total);
    shown.counter(&names::OPERATIONS, stats.applied_total);
    shown.counter(&names::REFUSALS, stats.refused_total);
    let blocked = [Why::NextHop, Why::Link, Why::Foreign, Why::Refused].map(|why| {
        let count = stats.blocked.get(&why).copied().unwrap_or_default();
        (WhyLabel { why: format!("{why:?}").to_lowercase() }, i64::try_from(count).unwrap_or(i64::MAX))
    });
    shown.numbers(&names::ROUTES_BLOCKED, blocked);
    shown.number(&names::IN_SYNC, u8::from(kernel.in_sync));
}

fn show_kernel(shown: &mut Sheet, kernel: &KernelReport) {
    shown.number(&names::NAT_IN_PLACE, u8::from(kernel.nat_error.is_none()));
    shown.number(&names::GUARD_IN_PLACE, u8::from(kernel.guard_error.is_none()));
    shown.number(&names::GUARD_LINKS, kernel.guarded.links);
    shown.counter(&names::GUARD_MENDED, kernel.guarded.mended_total);
}

fn show_conflist(shown: &mut Sheet, conflist: &ConflistReport) {
    shown.number(&names::CONFLIST, u8::from(conflist.in_place || !conflist.wanted));
    shown.counter(&names::CONFLIST_RESTORED, conflist.restored_total);
    shown.number(&names::CONFLISTS_BEFORE, conflist.before.len());
    shown.number(&names::PLUGINS_MISSING, conflist.missing.len());
}

/// Threads by name.
pub type Threads = Vec<(&'static str, std::thread::JoinHandle<()>)>;

/// The reports from which metrics and readiness are made.
pub struct Reports {
    /// What the speaker tells who asks it.
    pub bgp: super::bgp::BgpPages,
    /// Counters.
    pub metrics: Metrics,
    /// Endpoints and blocks.
    pub node: tokio::sync::watch::Receiver<Arc<NodeReport>>,
    /// Sessions.
    pub sessions: tokio::sync::watch::Receiver<Arc<Sessions>>,
    /// Routes.
    pub kernel: tokio::sync::watch::Receiver<Arc<KernelReport>>,
    /// The conflist.
    pub conflist: tokio::sync::watch::Receiver<Arc<ConflistReport>>,
    /// What is wrong with the files of objects; empty without such files.
    pub complaints: tokio::sync::watch::Receiver<super::objects::Complaints>,
    /// Which running pods do not get the uplink's MTU, and why.
    pub stuck: tokio::sync::watch::Receiver<Option<String>>,
    /// The threads without which nothing works, by name.
    pub threads: Threads,
}

impl super::health::Pages for Reports {
    fn bgp(&self) -> Option<&super::bgp::BgpPages> {
        Some(&self.bgp)
    }

    fn ailments(&self) -> Vec<String> {
        let ended = self.threads.iter().filter(|(_, thread)| thread.is_finished());
        ended.map(|(name, _)| format!("the thread {name} has ended")).collect()
    }

    fn obstacles(&self) -> Vec<String> {
        let mut obstacles = self.node.borrow().obstacles.clone();
        let kernel = self.kernel.borrow();
        if kernel.stats.is_none() {
            obstacles.push("the kernel's routes have not been read yet".to_owned());
        }
        obstacles.extend(self.complaints.borrow().iter().map(ToString::to_string));
        let conflist = self.conflist.borrow();
        obstacles.extend(conflist.error.iter().filter(|_| !conflist.in_place).cloned());
        obstacles.extend(kernel.nat_error.iter().map(|error| format!("NAT: {error}")));
        obstacles
    }

    fn metrics(&self) -> String {
        let faults = self.complaints.borrow().len();
        let stuck = self.stuck.borrow().is_some();
        self.metrics.render(
            &self.node.borrow(),
            &self.sessions.borrow(),
            &self.kernel.borrow(),
            &self.conflist.borrow(),
            faults,
            stuck,
        )
    }
}

/// The same pages, but for what BGP knows.
pub struct ForOthers(pub Arc<Reports>);

impl super::health::Pages for ForOthers {
    fn ailments(&self) -> Vec<String> {
        self.0.ailments()
    }

    fn obstacles(&self) -> Vec<String> {
        self.0.obstacles()
    }

    fn metrics(&self) -> String {
        self.0.metrics()
    }
}

#[cfg(test)]
mod tests;
