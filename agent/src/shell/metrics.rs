//! Counters and gauges, in the format of OpenMetrics.
//!
//! Counters are atomics that clones share. Gauges are set when somebody asks, from the reports that the
//! owners publish; nothing is counted twice.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use manx_bgp::PeerState;

use super::bgp::Sessions;
use super::kernel::KernelReport;
use super::owner::NodeReport;

/// What the owners count as it happens.
#[derive(Debug, Clone, Default)]
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
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabel {
    peer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabel {
    pool: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhyLabel {
    why: String,
}

/// Everything that is shown, made for one answer.
#[derive(Default)]
struct Shown {
    registry: Registry,
}

impl Shown {
    fn number(&mut self, name: &str, help: &str, value: impl TryInto<i64>) {
        let gauge: Gauge = Gauge::default();
        gauge.set(value.try_into().unwrap_or(i64::MAX));
        self.registry.register(name, help, gauge);
    }

    fn family<L>(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (L, i64)>)
    where
        L: Clone + std::hash::Hash + Eq + EncodeLabelSet + std::fmt::Debug + Send + Sync + 'static,
    {
        let family = Family::<L, Gauge>::default();
        for (label, value) in values {
            family.get_or_create(&label).set(value);
        }
        self.registry.register(name, help, family);
    }
}

impl Metrics {
    /// The text of `/metrics`; `faults` are those of the files of objects.
    pub fn render(
        &self,
        node: &NodeReport,
        sessions: &Sessions,
        kernel: &KernelReport,
        faults: usize,
    ) -> String {
        let mut shown = Shown { registry: Registry::with_prefix("manx") };
        self.register_counters(&mut shown.registry);
        show_sessions(&mut shown, sessions);
        show_addresses(&mut shown, node);
        show_routes(&mut shown, kernel);
        shown.number("objects_faults", "Faults in the files of objects", faults);
        let mut text = String::new();
        match encode(&mut text, &shown.registry) {
            Ok(()) => text,
            Err(_) => "# EOF\n".to_owned(),
        }
    }

    fn register_counters(&self, registry: &mut Registry) {
        let counters = [
            (
                "bgp_speaker_panics",
                "Times that the speaker failed and was started again",
                &self.speaker_panics,
            ),
            ("bgp_sessions_established", "Sessions that came up", &self.sessions_established),
            ("bgp_sessions_lost", "Sessions that went down", &self.sessions_lost),
            (
                "bgp_notifications",
                "Connections ended with a NOTIFICATION by either side",
                &self.notifications,
            ),
            ("bgp_faults", "Messages that broke a rule", &self.faults),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
    }
}

fn show_sessions(shown: &mut Shown, sessions: &Sessions) {
    let peers = || sessions.peers.iter();
    let label = |peer: &manx_bgp::PeerStatus| PeerLabel { peer: peer.peer.to_string() };
    let up = peers().map(|peer| (label(peer), i64::from(peer.state == PeerState::Established)));
    shown.family("bgp_session_up", "Whether the session is established", up);
    let sum = |peer: &manx_bgp::PeerStatus, count: fn(&manx_bgp::FamilyStatus) -> u32| {
        peer.families.values().map(|family| i64::from(count(family))).sum::<i64>()
    };
    let received = peers().map(|peer| (label(peer), sum(peer, |family| family.received)));
    shown.family("bgp_prefixes_received", "Prefixes received, before policy", received);
    let accepted = peers().map(|peer| (label(peer), sum(peer, |family| family.accepted)));
    shown.family("bgp_prefixes_accepted", "Prefixes that import policy let through", accepted);
    let announced = peers().map(|peer| (label(peer), sum(peer, |family| family.announced)));
    shown.family("bgp_prefixes_announced", "Prefixes announced", announced);
    shown.number(
        "bgp_settled",
        "Whether the first exchange after the start is over",
        u8::from(sessions.settled),
    );
}

fn show_addresses(shown: &mut Shown, node: &NodeReport) {
    let pools = || node.usage.pools.iter();
    let label = |pool: &manx_ipam::PoolUsage| PoolLabel { pool: pool.pool.clone() };
    shown.family("ipam_blocks", "Blocks of this node", pools().map(|pool| (label(pool), pool.blocks.into())));
    shown.family(
        "ipam_addresses_used",
        "Addresses that pods have",
        pools().map(|pool| (label(pool), pool.used.into())),
    );
    shown.family(
        "ipam_addresses_free",
        "Addresses that can be given now",
        pools().map(|pool| (label(pool), pool.free.into())),
    );
    shown.family(
        "ipam_addresses_resting",
        "Addresses freed but not yet usable",
        pools().map(|pool| (label(pool), pool.resting.into())),
    );
    shown.number("ipam_requests_waiting", "Requests that wait for an address", node.usage.waiting);
    shown.number("ready", "Whether pods can start", u8::from(node.obstacles.is_empty()));
}

fn show_routes(shown: &mut Shown, kernel: &KernelReport) {
    let stats = kernel.stats.clone().unwrap_or_default();
    shown.number("fib_routes_desired", "Routes wanted", stats.desired);
    shown.number("fib_routes_installed", "Routes of ours in the kernel", stats.installed);
    shown.number("fib_changes_pending", "Changes that wait to be made", stats.pending);
    shown.number(
        "fib_routes_stale",
        "Routes of an earlier run that are kept until BGP has settled",
        stats.stale,
    );
    shown.number("fib_nexthop_objects", "Next-hop objects of ours in the kernel", stats.nexthops);
    shown.number(
        "fib_drift",
        "Routes found removed or changed by others, since the start",
        stats.drift_total,
    );
    shown.number("fib_operations", "Operations carried out since the start", stats.applied_total);
    shown.number("fib_refusals", "Operations refused since the start", stats.refused_total);
    let blocked = stats.blocked.iter().map(|(why, count)| {
        (WhyLabel { why: format!("{why:?}").to_lowercase() }, i64::try_from(*count).unwrap_or(i64::MAX))
    });
    shown.family("fib_routes_blocked", "Routes that cannot be installed", blocked);
    shown.number("fib_in_sync", "Whether the kernel has what it should have", u8::from(kernel.in_sync));
    shown.number("nat_in_place", "Whether the NAT rules are in place", u8::from(kernel.nat_error.is_none()));
    let guarded = u8::from(kernel.guard_error.is_none());
    shown.number("guard_in_place", "Whether pods are kept from the ports of BGP", guarded);
}

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
    /// What is wrong with the files of objects; empty without such files.
    pub complaints: tokio::sync::watch::Receiver<super::objects::Complaints>,
    /// The threads without which nothing works, by name.
    pub threads: Vec<(&'static str, std::thread::JoinHandle<()>)>,
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
        obstacles.extend(kernel.nat_error.iter().map(|error| format!("NAT: {error}")));
        obstacles
    }

    fn metrics(&self) -> String {
        let faults = self.complaints.borrow().len();
        self.metrics.render(&self.node.borrow(), &self.sessions.borrow(), &self.kernel.borrow(), faults)
    }
}
