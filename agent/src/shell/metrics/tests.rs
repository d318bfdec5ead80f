//! What is shown is what the table says, no more and no less, and of bounded size.

use std::collections::{BTreeMap, BTreeSet};

use manx_bgp::{LastError, PeerId};
use manx_cni::rpc::RpcError;
use manx_kernel::fib::Stats;

use super::names::{Kind, SECTIONS, manual};
use super::*;

const DOCS: &str = include_str!("../../../../docs/metrics.md");

fn peer(name: &str, state: PeerState) -> PeerStatus {
    PeerStatus {
        state,
        families: BTreeMap::from([(manx_bgp::Family::Ipv4Unicast, FamilyStatus::default())]),
        established: 2,
        last_error: Some(LastError {
            ago: Duration::ZERO,
            by_peer: true,
            code: Some(ErrorCode::ADMINISTRATIVE_SHUTDOWN),
            text: String::new(),
            data: Vec::new(),
        }),
        ..PeerStatus::new(PeerId::from(name))
    }
}

/// The page of a node with these peers on which everything else that can be told is told once.
fn page(peers: Vec<PeerStatus>) -> String {
    let sessions = Sessions { peers, stations: 1, ..Sessions::default() };
    let mut node = NodeReport::default();
    node.usage.pools.push(manx_ipam::PoolUsage { pool: "default".to_owned(), ..Default::default() });
    let stats = Stats { blocked: BTreeMap::from([(Why::NextHop, 1)]), ..Stats::default() };
    let kernel = KernelReport { stats: Some(stats), in_sync: true, ..KernelReport::default() };
    Metrics::default().render(&node, &sessions, &kernel, &ConflistReport::default(), 0, false)
}

fn everything() -> String {
    page(vec![peer("peer/tor", PeerState::Idle)])
}

/// Name, type, labels and meaning of each metric of a page.
fn rows(text: &str) -> BTreeSet<(String, String, String, String)> {
    let metrics = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let rows = metrics.map(|(name, kind)| {
        let help = text.lines().find_map(|line| line.strip_prefix(&format!("# HELP {name} ")));
        let full = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
        let sample = if kind == "histogram" { format!("{name}_sum") } else { full.clone() };
        let meaning = help.unwrap_or_default().trim_end_matches('.').to_owned();
        (full, kind.to_owned(), labels_of(text, &sample), meaning)
    });
    rows.collect()
}

fn labels_of(text: &str, name: &str) -> String {
    let sample = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
    let labels = sample.and_then(|sample| sample.split_once('}')).map_or("", |(labels, _)| labels);
    let names = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0));
    names.collect::<Vec<_>>().join(", ")
}

fn table() -> impl Iterator<Item = &'static Metric> {
    SECTIONS.iter().flat_map(|(_, _, metrics)| *metrics)
}

#[test]
fn the_table_lists_what_both_programs_show_and_nothing_else() {
    let mut shown = rows(&everything());
    shown.extend(rows(&crate::controller::metrics::everything()));
    let listed = table().map(|metric| {
        let (kind, labels) = (metric.kind.as_str().to_owned(), metric.labels.join(", "));
        (metric.name.to_owned(), kind, labels, metric.meaning.to_owned())
    });
    let listed: BTreeSet<_> = listed.collect();
    let missing: Vec<_> = shown.difference(&listed).collect();
    let surplus: Vec<_> = listed.difference(&shown).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "not listed {missing:#?}\nnot shown {surplus:#?}");
    assert_eq!(listed.len(), table().count(), "no name twice");
}

#[test]
fn the_documentation_is_made_of_the_table() {
    assert!(DOCS == manual(), "docs/metrics.md is stale: run cargo xtask metrics");
}

#[test]
fn names_follow_the_conventions_of_prometheus() {
    for metric in table() {
        let Metric { name, kind, labels, unit, .. } = metric;
        let units = ["seconds", "bytes"];
        assert_eq!(
            name.ends_with("_total"),
            *kind == Kind::Counter,
            "{name}: counters and only they end in _total"
        );
        assert!(name.starts_with("manx_") || name.starts_with("process_"), "{name}");
        assert!(name.bytes().all(|octet| octet.is_ascii_lowercase() || octet == b'_'), "{name}");
        if units.contains(unit) {
            let stem = name.trim_end_matches("_total");
            assert!(stem.ends_with(&format!("_{unit}")), "{name} does not end in its unit {unit}");
        }
        assert!(
            !["_milliseconds", "_ms", "_kilobytes", "_percent"].iter().any(|end| name.ends_with(end)),
            "{name}"
        );
        let reserved = ["le", "quantile", "job", "instance", "node", "namespace", "pod"];
        assert!(!labels.iter().any(|label| reserved.contains(label)), "{name}: the scraper sets that label");
    }
}

#[test]
fn the_page_of_a_large_mesh_stays_small_and_names_what_is_down() {
    let mut peers: Vec<_> =
        (0..1000).map(|number| peer(&format!("node/n{number:04}"), PeerState::Established)).collect();
    peers.push(peer("peer/tor", PeerState::Established));
    peers[500].state = PeerState::Active;
    let text = page(peers);
    let lines: BTreeSet<&str> =
        text.lines().filter(|line| line.starts_with("manx_bgp_session_up{")).collect();
    let expected =
        [r#"manx_bgp_session_up{peer="node/n0500"} 0"#, r#"manx_bgp_session_up{peer="peer/tor"} 1"#];
    assert_eq!(lines, BTreeSet::from(expected));
    assert!(text.contains(r#"manx_bgp_sessions{with="node",state="established"} 999"#), "{text}");
    assert!(text.lines().count() < 600, "{} lines", text.lines().count());
}

#[test]
fn messages_are_counted_by_direction_and_kind() {
    let text = everything();
    let line = r#"manx_bgp_peer_messages_total{peer="peer/tor",direction="out",kind="route-refresh"} 0"#;
    assert!(text.lines().any(|shown| shown == line), "{text}");
    assert!(text.contains(r#"manx_bgp_last_error_subcode{peer="peer/tor"} 2"#), "{text}");
}

#[test]
fn calls_are_counted_by_what_became_of_them() {
    let metrics = Metrics::default();
    let error = |code| Reply::Error(RpcError { code, msg: String::new(), details: String::new() });
    for (reply, outcome) in [
        (Reply::Ready, "ok"),
        (error(11), "retry"),
        (error(100), "refused"),
        (error(101), "refused"),
        (error(103), "failed"),
    ] {
        metrics.called("add", &reply, Duration::from_millis(2));
        let shown = metrics.render(
            &NodeReport::default(),
            &Sessions::default(),
            &KernelReport::default(),
            &ConflistReport::default(),
            0,
            false,
        );
        let count = format!(r#"manx_cni_request_duration_seconds_count{{verb="add",outcome="{outcome}"}} "#);
        let line = shown.lines().find_map(|line| line.strip_prefix(&count));
        assert!(line.is_some_and(|count| count != "0"), "{outcome}: {shown}");
    }
}
