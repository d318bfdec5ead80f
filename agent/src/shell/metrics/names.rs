//! Every metric: its name, type, labels, unit, meaning, and when to worry. `docs/metrics.md` is made of this table by
//! `cargo xtask metrics`; nothing can be shown that does not stand here.

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from the start of the process on.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size, in buckets.
    Histogram,
}

impl Kind {
    /// Its name in the text format of OpenMetrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric, as everybody reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// The name of its samples, but for the suffixes of a histogram's.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// The labels of each of its samples, but for `le`.
    pub labels: &'static [&'static str],
    /// What is counted or measured.
    pub unit: &'static str,
    /// What it tells, without a full stop.
    pub meaning: &'static str,
    /// When to worry; empty if never on its own.
    pub worry: &'static str,
}

impl Metric {
    const fn new(
        kind: Kind,
        name: &'static str,
        labels: &'static [&'static str],
        texts: [&'static str; 3],
    ) -> Self {
        let [unit, meaning, worry] = texts;
        Self { name, kind, labels, unit, meaning, worry }
    }
}

const fn counter(name: &'static str, labels: &'static [&'static str], texts: [&'static str; 3]) -> Metric {
    Metric::new(Kind::Counter, name, labels, texts)
}

const fn gauge(name: &'static str, labels: &'static [&'static str], texts: [&'static str; 3]) -> Metric {
    Metric::new(Kind::Gauge, name, labels, texts)
}

/// Declares metrics by constants of their own, and the list of all of them.
macro_rules! metrics {
    ($(#[$about:meta])* $list:ident: $($constant:ident = $metric:expr;)*) => {
        $(pub(crate) const $constant: Metric = $metric;)*
        $(#[$about])*
        pub const $list: &[Metric] = &[$($constant),*];
    };
}

const PEER: &[&str] = &["peer"];
const FAMILY: &[&str] = &["peer", "family"];
const POOL: &[&str] = &["pool"];
const NONE: &[&str] = &[];
const FLAG: &str = "0 or 1";

metrics! {
    /// What the speaker shows of sessions.
    BGP:
    SESSIONS = gauge("manx_bgp_sessions", &["with", "state"], ["sessions",
        "Sessions by state; with is node for other nodes of the cluster and router for everybody else", ""]);
    SESSION_UP = gauge("manx_bgp_session_up", PEER, [FLAG,
        "Whether the session is established", "0 for five minutes: [session down](operate.md#session-down)"]);
    SESSION_STATE = gauge("manx_bgp_session_state", PEER, ["number",
        "The state of the session: 0 Idle, 1 Connect, 2 Active, 3 OpenSent, 4 OpenConfirm, 5 Established", ""]);
    SESSION_AGE = gauge("manx_bgp_session_state_age_seconds", PEER, ["seconds",
        "How long the session has been in its state", ""]);
    LAST_ERROR = gauge("manx_bgp_last_error_code", PEER, ["number",
        "The error code of the NOTIFICATION that ended the last session or attempt", ""]);
    LAST_SUBCODE = gauge("manx_bgp_last_error_subcode", PEER, ["number", "Its error subcode", ""]);
    PEER_ESTABLISHED = counter("manx_bgp_peer_established_total", PEER, ["sessions",
        "Times that the session came up", ""]);
    PEER_DROPPED = counter("manx_bgp_peer_dropped_total", PEER, ["sessions",
        "Times that the session went down", "more than 3 in an hour: it flaps"]);
    PEER_FAULTS = counter("manx_bgp_peer_faults_total", PEER, ["messages",
        "UPDATEs that broke a rule", "any: the peer has a fault, or somebody behind it"]);
    PEER_MESSAGES = counter("manx_bgp_peer_messages_total", &["peer", "direction", "kind"], ["messages",
        "Messages exchanged", "thousands of UPDATEs a minute: something flaps behind the peer"]);
    RECEIVED = gauge("manx_bgp_prefixes_received", FAMILY, ["prefixes",
        "Prefixes received, before policy", "above three quarters of the limit"]);
    ACCEPTED = gauge("manx_bgp_prefixes_accepted", FAMILY, ["prefixes",
        "Prefixes that import policy let through", ""]);
    ANNOUNCED = gauge("manx_bgp_prefixes_announced", FAMILY, ["prefixes",
        "Prefixes announced", "0 to an established peer while the node has blocks"]);
    STALE = gauge("manx_bgp_prefixes_stale", FAMILY, ["prefixes",
        "Prefixes kept from the last session, not yet confirmed", "above 0 for a quarter of an hour"]);
    LIMIT = gauge("manx_bgp_prefixes_limit", FAMILY, ["prefixes", "Prefixes that may be received", ""]);
    ESTABLISHED = counter("manx_bgp_sessions_established_total", NONE, ["sessions", "Sessions that came up", ""]);
    LOST = counter("manx_bgp_sessions_lost_total", NONE, ["sessions", "Sessions that went down", ""]);
    NOTIFICATIONS = counter("manx_bgp_notifications_total", NONE, ["messages",
        "Connections ended with a NOTIFICATION by either side", ""]);
    FAULTS = counter("manx_bgp_faults_total", NONE, ["messages", "Messages that broke a rule", ""]);
    SETTLED = gauge("manx_bgp_settled", NONE, [FLAG,
        "Whether the first exchange after the start is over", "0 for ten minutes"]);
    SPEAKER_PANICS = counter("manx_bgp_speaker_panics_total", NONE, ["times",
        "Times that the speaker failed and was started again", "any: a fault of Manx, please report it"]);
    STATIONS = gauge("manx_bmp_stations_connected", NONE, ["stations",
        "BMP stations that are connected", "fewer than configured"]);
}

metrics! {
    /// What the owner of the kernel's routes shows.
    ROUTES:
    ROUTES_DESIRED = gauge("manx_fib_routes_desired", NONE, ["routes", "Routes wanted", ""]);
    ROUTES_INSTALLED = gauge("manx_fib_routes_installed", NONE, ["routes",
        "Routes of ours in the kernel", "fewer than wanted for five minutes"]);
    CHANGES_PENDING = gauge("manx_fib_changes_pending", NONE, ["changes", "Changes that wait to be made", ""]);
    ROUTES_STALE = gauge("manx_fib_routes_stale", NONE, ["routes",
        "Routes of an earlier run that are kept until BGP has settled", ""]);
    NEXTHOPS = gauge("manx_fib_nexthop_objects", NONE, ["objects", "Next-hop objects of ours in the kernel", ""]);
    ROUTES_BLOCKED = gauge("manx_fib_routes_blocked", &["why"], ["routes",
        "Routes that cannot be installed; why is nexthop, link, foreign or refused", "any for ten minutes"]);
    IN_SYNC = gauge("manx_fib_in_sync", NONE, [FLAG,
        "Whether the kernel has what it should have", "0 for five minutes: [no route](operate.md#no-route)"]);
    DRIFT = counter("manx_fib_drift_total", NONE, ["routes",
        "Routes found removed or changed by others, and put right", "again and again: somebody else removes them"]);
    OPERATIONS = counter("manx_fib_operations_total", NONE, ["operations", "Operations carried out", ""]);
    REFUSALS = counter("manx_fib_refusals_total", NONE, ["operations", "Operations that the kernel refused", ""]);
}

metrics! {
    /// What the owner of addresses shows.
    ADDRESSES:
    NODE_BLOCKS = gauge("manx_ipam_blocks", POOL, ["blocks", "Blocks of this node", ""]);
    ANNOUNCEMENTS = Metric::new(Kind::Histogram, "manx_ipam_claim_to_announcement_seconds", NONE, ["seconds",
        "What a block takes from its claim until it is handed to the sessions that are up",
        "nine of ten take more than a second: the API server is slow, or BGP is busy"]);
    NODE_USED = gauge("manx_ipam_addresses_used", POOL, ["addresses", "Addresses that pods have", ""]);
    NODE_FREE = gauge("manx_ipam_addresses_free", POOL, ["addresses", "Addresses that can be given now", ""]);
    NODE_RESTING = gauge("manx_ipam_addresses_resting", POOL, ["addresses", "Addresses freed but not yet usable", ""]);
    NODE_PODS = gauge("manx_ipam_pods", NONE, ["pods", "Pods that have addresses; one with two networks counts twice", ""]);
    PODS_STARTED = counter("manx_ipam_pods_started_total", NONE, ["pods", "Pods that were given addresses, each once", ""]);
    PODS_STOPPED = counter("manx_ipam_pods_stopped_total", NONE, ["pods",
        "Pods whose addresses were freed, each once, whether by DEL, GC or the agent itself", ""]);
    BLOCKS_IN_CONFLICT = gauge("manx_ipam_blocks_in_conflict", NONE, ["blocks",
        "Blocks of our pods that are not this node's", "any for five minutes: nobody answers for these pods"]);
    BLOCKS_CLAIMING = gauge("manx_ipam_blocks_claiming", NONE, ["blocks", "Claims of blocks that are out", ""]);
    BLOCKS_RELEASING = gauge("manx_ipam_blocks_releasing", NONE, ["blocks", "Blocks on their way back", ""]);
    SHORT_OF_BLOCKS = gauge("manx_ipam_short_of_blocks", NONE, [FLAG,
        "Whether a block is wanted and no pool has one left", "1: [addresses run out](operate.md#addresses-run-out)"]);
    REQUESTS_WAITING = gauge("manx_ipam_requests_waiting", NONE, ["requests",
        "Requests that wait for an address", "above 0 for some minutes"]);
}

metrics! {
    /// What the agent shows of its node.
    NODE:
    READY = gauge("manx_ready", NONE, [FLAG,
        "Whether pods can start", "0 for five minutes: [node not ready](operate.md#node-notready)"]);
    CALLS = Metric::new(Kind::Histogram, "manx_cni_request_duration_seconds", &["verb", "outcome"], ["seconds",
        "What the agent takes to answer the plugin, which then makes the link; outcome is ok, retry, refused or failed",
        "failed grows, or nine of ten starts take more than a second"]);
    CONFLIST = gauge("manx_cni_conflist_in_place", NONE, [FLAG,
        "Whether the conflist is as it should be, or none is wanted", "0 for five minutes: the runtime starts no pods by Manx"]);
    CONFLIST_RESTORED = counter("manx_cni_conflist_restored_total", NONE, ["times",
        "Times that the conflist was put back after somebody had removed or changed it",
        "grows: another network's installer is at work"]);
    CONFLISTS_BEFORE = gauge("manx_cni_conflists_before", NONE, ["files",
        "Configurations that the container runtime takes in place of ours", "any"]);
    PLUGINS_MISSING = gauge("manx_cni_plugins_missing", NONE, ["plugins",
        "Chained plugins that the node does not have and that were left out",
        "any, where hostPort or bandwidth limits are wanted"]);
    GUARD_IN_PLACE = gauge("manx_guard_in_place", NONE, [FLAG, "Whether pods are kept from the ports of BGP", "0"]);
    GUARD_LINKS = gauge("manx_guard_links", NONE, ["links",
        "Links of pods that take only what their pods may send", ""]);
    GUARD_MENDED = counter("manx_guard_mended_total", NONE, ["guards",
        "Guards of pods' links found missing or changed, and put right", "grows: somebody flushes nftables"]);
    NAT_IN_PLACE = gauge("manx_nat_in_place", NONE, [FLAG, "Whether the NAT rules are in place", "0"]);
    MTU_FOLLOWED = gauge("manx_mtu_followed", NONE, [FLAG,
        "Whether every pod's link has the MTU that the uplink allows", "0: [MTU](operate.md#mtu)"]);
    OBJECTS_FAULTS = gauge("manx_objects_faults", NONE, ["faults", "Faults in the files of objects", "any"]);
}

metrics! {
    /// What the controller shows.
    CONTROLLER:
    POOL_ADDRESSES = gauge("manx_pool_addresses", POOL, ["addresses", "Addresses that may be given", ""]);
    POOL_USED = gauge("manx_pool_addresses_used", POOL, ["addresses", "Addresses in use", ""]);
    POOL_FREE = gauge("manx_pool_addresses_free", POOL, ["addresses", "Addresses that are not in use", "0"]);
    POOL_BLOCKS = gauge("manx_pool_blocks", POOL, ["blocks", "Blocks that nodes own", ""]);
    POOL_READY = gauge("manx_pool_ready", POOL, [FLAG,
        "Whether the pool gives addresses", "0, unless it was disabled or deleted"]);
    POOL_NEARLY_FULL = gauge("manx_pool_nearly_full", POOL, [FLAG,
        "Whether 80 per cent of the pool are gone", "1: [addresses run out](operate.md#addresses-run-out)"]);
    LEADS = gauge("manx_controller_leads", NONE, [FLAG,
        "Whether this replica leads", "the sum over all replicas is not 1"]);
    NODES_GONE = gauge("manx_controller_nodes_gone", NONE, ["nodes",
        "Nodes that are gone and still have blocks", "above 0 for an hour"]);
    RECLAIMED = counter("manx_controller_blocks_reclaimed_total", NONE, ["blocks",
        "Blocks taken back from nodes that are gone", ""]);
}

metrics! {
    /// What agent and controller both show.
    PROCESS:
    BUILD = gauge("manx_build_info", &["component", "version"], ["1",
        "The version that runs; component is agent or controller", "several versions for a day: a roll-out hangs"]);
    API_REQUESTS = counter("manx_api_requests_total", &["code"], ["requests",
        "Requests to the API server by HTTP status; error where there was no answer",
        "error or 403 grows: [API server](operate.md#api-server-away)"]);
    API_TIMES = Metric::new(Kind::Histogram, "manx_api_request_duration_seconds", NONE, ["seconds",
        "What the API server takes until an answer, or a watch, begins", "nine of ten take more than a second"]);
    START_TIME = gauge("process_start_time_seconds", NONE, ["seconds",
        "When the process started, since 1970", "changes again and again"]);
    CPU = counter("process_cpu_seconds_total", NONE, ["seconds", "Time on a processor", ""]);
    MEMORY = gauge("process_resident_memory_bytes", NONE, ["bytes", "Memory in use", "grows for days"]);
    DESCRIPTORS = gauge("process_open_fds", NONE, ["descriptors", "Open file descriptors", "grows for days"]);
}

/// Sections of the page of the agent, then that of the controller, then what both have.
pub const SECTIONS: [(&str, &str, &[Metric]); 6] = [
    ("BGP", "", BGP),
    ("Routes in the kernel", "", ROUTES),
    ("Addresses", "", ADDRESSES),
    ("The node", "", NODE),
    (
        "Pools",
        "`manx-controller` shows these; each replica answers, and the one that leads has the pools.",
        CONTROLLER,
    ),
    ("Both programs", "", PROCESS),
];

/// `docs/metrics.md`, whole.
pub fn manual() -> String {
    let mut text = INTRODUCTION.to_owned();
    for (title, words, metrics) in SECTIONS {
        text.push_str(&format!("\n## {title}\n\n"));
        if !words.is_empty() {
            text.push_str(&format!("{words}\n\n"));
        }
        text.push_str(
            "| name | type | labels | unit | meaning | when to worry |\n|---|---|---|---|---|---|\n",
        );
        for Metric { name, kind, labels, unit, meaning, worry } in metrics {
            let (kind, labels) = (kind.as_str(), labels.join(", "));
            text.push_str(&format!("| `{name}` | {kind} | {labels} | {unit} | {meaning} | {worry} |\n"));
        }
    }
    text
}

const INTRODUCTION: &str = "\
<!-- generated by cargo xtask metrics from agent/src/shell/metrics/names.rs: edit that -->
# Metrics

What `/metrics` of agent and controller shows, in the text format of OpenMetrics, which Prometheus reads. Where it is
served, how it is scraped, alerts and a dashboard: [monitoring.md](monitoring.md).

`peer` is `node/NAME` for a node of the cluster and `peer/NAME` for a BGPPeer; one that came from a range is
`peer/NAME/ADDRESS`. `family` is `ipv4-unicast` or `ipv6-unicast`, `direction` is `in` or `out`, `kind` of a message is
`open`, `update`, `notification`, `keepalive` or `route-refresh`, `verb` is one of the plugin's (`add`, `del`, `check`,
`status`, `gc`). Metrics of peers are at most a quarter of a second old while anything happens. Counters begin with the
process.

How many series there are is bounded: each peer has about 20, and 5 more for each family, for at most 256 peers. A node
with more shows its routers first and, of the other nodes, only those whose session is down; `manx_bgp_sessions` counts
all. Pools have 4 series on each node and 6 at the controller, for at most 1,000 pools. Nothing grows with prefixes or
pods.
";
