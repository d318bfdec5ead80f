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

use manx_bgp::{ErrorCode, FamilyStatus, MessageCounts, PeerState, PeerStatus};
use manx_ipam::Standing;

use super::bgp::Sessions;
use super::conflist::ConflistReport;
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

/// Everything that is shown, made for one answer.
pub(crate) struct Shown {
    registry: Registry,
}

impl Shown {
    pub(crate) fn new() -> Self {
        Self { registry: Registry::with_prefix("manx") }
    }

    /// The page.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(_) => "# EOF\n".to_owned(),
        }
    }

    pub(crate) fn counter(&mut self, name: &str, help: &str, value: u64) {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        self.registry.register(name, help, counter);
    }

    pub(crate) fn number(&mut self, name: &str, help: &str, value: impl TryInto<i64>) {
        let gauge: Gauge = Gauge::default();
        gauge.set(value.try_into().unwrap_or(i64::MAX));
        self.registry.register(name, help, gauge);
    }

    pub(crate) fn family<L>(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (L, i64)>)
    where
        L: Clone + std::hash::Hash + Eq + EncodeLabelSet + std::fmt::Debug + Send + Sync + 'static,
    {
        let family = Family::<L, Gauge>::default();
        for (label, value) in values {
            family.get_or_create(&label).set(value);
        }
        self.registry.register(name, help, family);
    }

    /// What the owner of a number has counted since its start.
    fn counters<L>(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (L, u64)>)
    where
        L: Clone + std::hash::Hash + Eq + EncodeLabelSet + std::fmt::Debug + Send + Sync + 'static,
    {
        let family = Family::<L, Counter>::default();
        for (label, value) in values {
            family.get_or_create(&label).inc_by(value);
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
        conflist: &ConflistReport,
        faults: usize,
    ) -> String {
        let mut shown = Shown::new();
        self.register_counters(&mut shown.registry);
        show_sessions(&mut shown, sessions);
        show_addresses(&mut shown, node);
        show_routes(&mut shown, kernel);
        show_conflist(&mut shown, conflist);
        shown.number("objects_faults", "Faults in the files of objects", faults);
        shown.text()
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
    let up = peers().map(|peer| (label(peer), i64::from(peer.state == PeerState::Established)));
    shown.family("bgp_session_up", "Whether the session is established", up);
    let state = peers().map(|peer| (label(peer), peer.state as i64));
    let help =
        "The state of the session: 0 Idle, 1 Connect, 2 Active, 3 OpenSent, 4 OpenConfirm, 5 Established";
    shown.family("bgp_session_state", help, state);
    let seconds =
        |peer: &PeerStatus| i64::try_from((peer.since + sessions.age()).as_secs()).unwrap_or(i64::MAX);
    let since = peers().map(|peer| (label(peer), seconds(peer)));
    shown.family("bgp_session_state_age_seconds", "How long the session has been in its state", since);
    let code = |of: fn(ErrorCode) -> u8| {
        peers().filter_map(move |peer| Some((label(peer), of(peer.last_error.as_ref()?.code?).into())))
    };
    shown.family(
        "bgp_last_error_code",
        "The error code of the NOTIFICATION that ended the last session or attempt",
        code(|code| code.code),
    );
    shown.family("bgp_last_error_subcode", "Its error subcode", code(|code| code.subcode));
    let established = peers().map(|peer| (label(peer), peer.established));
    shown.counters("bgp_peer_established", "Times that the session came up", established);
    let dropped = peers().map(|peer| (label(peer), peer.dropped));
    shown.counters("bgp_peer_dropped", "Times that the session went down", dropped);
    let faults = peers().map(|peer| (label(peer), peer.faults));
    shown.counters("bgp_peer_faults", "UPDATEs that broke a rule", faults);
    shown.counters("bgp_peer_messages", "Messages exchanged", peers().flat_map(messages));
    show_prefixes(shown, &sessions.peers);
    shown.number(
        "bgp_settled",
        "Whether the first exchange after the start is over",
        u8::from(sessions.settled),
    );
    shown.number("bmp_stations_connected", "BMP stations that are connected", sessions.stations);
}

fn show_prefixes(shown: &mut Shown, peers: &[PeerStatus]) {
    let each = |count: fn(&FamilyStatus) -> u32| {
        let families = peers.iter().flat_map(|peer| peer.families.iter().map(move |family| (peer, family)));
        families.map(move |(peer, (family, status))| {
            let label = FamilyLabel { peer: peer.peer.to_string(), family: family.to_string() };
            (label, i64::from(count(status)))
        })
    };
    shown.family("bgp_prefixes_received", "Prefixes received, before policy", each(|family| family.received));
    shown.family(
        "bgp_prefixes_accepted",
        "Prefixes that import policy let through",
        each(|family| family.accepted),
    );
    shown.family("bgp_prefixes_announced", "Prefixes announced", each(|family| family.announced));
    shown.family(
        "bgp_prefixes_stale",
        "Prefixes kept from the last session, not yet confirmed",
        each(|family| family.stale),
    );
    shown.family("bgp_prefixes_limit", "Prefixes that may be received", each(|family| family.max_prefixes));
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
    let blocks = |standing: &[Standing]| {
        node.usage.blocks.iter().filter(|block| standing.contains(&block.standing)).count()
    };
    shown.number(
        "ipam_blocks_in_conflict",
        "Blocks of our pods that are not this node's",
        blocks(&[Standing::Foreign, Standing::Vanished]),
    );
    shown.number("ipam_blocks_claiming", "Claims of blocks that are out", blocks(&[Standing::Claiming]));
    shown.number("ipam_blocks_releasing", "Blocks on their way back", blocks(&[Standing::Releasing]));
    shown.number(
        "ipam_short_of_blocks",
        "Whether a block is wanted and no pool has one left",
        u8::from(node.short_of_blocks),
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
    let links = &kernel.guarded;
    shown.number("guard_links", "Links of pods that take only what their pods may send", links.links);
    shown.number(
        "guard_mended",
        "Guards of pods' links found missing or changed, since the start",
        links.mended_total,
    );
}

fn show_conflist(shown: &mut Shown, conflist: &ConflistReport) {
    let in_place = u8::from(conflist.in_place);
    shown.number("cni_conflist_in_place", "Whether the conflist is as it should be", in_place);
    shown.counter(
        "cni_conflist_restored",
        "Times that the conflist was put back after somebody had removed or changed it",
        conflist.restored_total,
    );
    shown.number(
        "cni_conflists_before",
        "Configurations that the container runtime takes in place of ours",
        conflist.before.len(),
    );
    shown.number(
        "cni_plugins_missing",
        "Chained plugins that the node does not have and that were left out",
        conflist.missing.len(),
    );
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
        let (kernel, conflist) = (self.kernel.borrow(), self.conflist.borrow());
        self.metrics.render(&self.node.borrow(), &self.sessions.borrow(), &kernel, &conflist, faults)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use manx_bgp::{LastError, PeerId};
    use manx_kernel::fib::{Stats, Why};

    use super::*;

    const DOCS: &str = include_str!("../../../docs/metrics.md");

    /// The metrics of a node on which everything that can be told is told once.
    fn everything() -> String {
        let peer = PeerStatus {
            families: BTreeMap::from([(manx_bgp::Family::Ipv4Unicast, FamilyStatus::default())]),
            established: 2,
            last_error: Some(LastError {
                ago: std::time::Duration::ZERO,
                by_peer: true,
                code: Some(ErrorCode::ADMINISTRATIVE_SHUTDOWN),
                text: String::new(),
                data: Vec::new(),
            }),
            ..PeerStatus::new(PeerId::from("peer/tor"))
        };
        let sessions = Sessions { peers: vec![peer], stations: 1, ..Sessions::default() };
        let mut node = NodeReport::default();
        node.usage.pools.push(manx_ipam::PoolUsage { pool: "default".to_owned(), ..Default::default() });
        let stats = Stats { blocked: BTreeMap::from([(Why::NextHop, 1)]), ..Stats::default() };
        let kernel = KernelReport { stats: Some(stats), in_sync: true, ..KernelReport::default() };
        Metrics::default().render(&node, &sessions, &kernel, &ConflistReport::default(), 0)
    }

    fn labels_of(text: &str, name: &str) -> String {
        let sample = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
        let labels = sample.and_then(|sample| sample.split_once('}')).map_or("", |(labels, _)| labels);
        let names = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0));
        names.collect::<Vec<_>>().join(", ")
    }

    /// The row of each metric, as the documentation has it.
    fn rows(text: &str) -> Vec<String> {
        let metrics = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let rows = metrics.map(|(name, kind)| {
            let help = text.lines().find_map(|line| line.strip_prefix(&format!("# HELP {name} ")));
            let full = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
            let labels = labels_of(text, &full);
            format!("| `{full}` | {kind} | {labels} | {} |", help.unwrap_or_default().trim_end_matches('.'))
        });
        rows.collect()
    }

    #[test]
    fn the_documentation_lists_what_is_shown_and_nothing_else() {
        let mut shown = rows(&everything());
        shown.extend(rows(&crate::controller::metrics::everything()));
        let listed: BTreeSet<&str> = DOCS.lines().filter(|line| line.starts_with("| `manx_")).collect();
        let expected: BTreeSet<&str> = shown.iter().map(String::as_str).collect();
        let missing: Vec<_> = expected.difference(&listed).collect();
        let surplus: Vec<_> = listed.difference(&expected).collect();
        assert!(missing.is_empty() && surplus.is_empty(), "missing {missing:#?}\nnot shown {surplus:#?}");
        assert_eq!(shown.len(), expected.len(), "no name twice");
    }

    #[test]
    fn messages_are_counted_by_direction_and_kind() {
        let text = everything();
        let line = r#"manx_bgp_peer_messages_total{peer="peer/tor",direction="out",kind="route-refresh"} 0"#;
        assert!(text.lines().any(|shown| shown == line), "{text}");
        assert!(text.contains(r#"manx_bgp_last_error_subcode{peer="peer/tor"} 2"#), "{text}");
    }
}
