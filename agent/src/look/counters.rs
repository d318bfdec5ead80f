//! What the agent counts, read from its own metrics again and again: the part that a live view is made of.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use manx_facts::counters::{Counters, CountersQuestion, PeerCounters};

use super::{Lines, page};

/// The shortest time between two answers.
const SOONEST: Duration = Duration::from_millis(200);
/// The time between two answers where none is asked for.
const USUAL: Duration = Duration::from_secs(1);

/// Answers until nobody listens any more.
pub(super) async fn look<W: Write>(
    question: &CountersQuestion,
    agent: SocketAddr,
    lines: &mut Lines<W>,
) -> io::Result<()> {
    let every = match question.every {
        0 => USUAL,
        millis => Duration::from_millis(millis).max(SOONEST),
    };
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = BTreeMap::new();
    loop {
        tick.tick().await;
        let page = match page::get(agent, "/metrics").await {
            Ok(page) if page.status == 200 => page.text(),
            Ok(page) => return lines.error(&format!("the agent says {} of its metrics", page.status)),
            Err(why) => return lines.error(&why),
        };
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let (counters, peers) = read(&page);
        let peers = news(&mut told, peers);
        lines.ok(&Counters { time, peers, ..counters })?;
    }
}

/// The peers of which something changed since it was told.
fn news(told: &mut BTreeMap<String, PeerCounters>, now: BTreeMap<String, PeerCounters>) -> Vec<PeerCounters> {
    let changed = now.iter().filter(|(name, peer)| told.get(*name) != Some(peer));
    let changed = changed.map(|(_, peer)| peer.clone()).collect();
    *told = now;
    changed
}

/// Reads a page of metrics in the text format of OpenMetrics.
fn read(page: &str) -> (Counters, BTreeMap<String, PeerCounters>) {
    let mut counters = Counters::default();
    let mut peers = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let Ok(value) = value.parse::<f64>() else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        match label(labels, "peer") {
            Some(peer) => count_peer(peers.entry(peer.clone()).or_default(), peer, name, labels, value),
            None => count(&mut counters, name, labels, value),
        }
    }
    (counters, peers)
}

fn count(counters: &mut Counters, name: &str, labels: &str, value: f64) {
    let whole = value as u64;
    match name {
        "manx_ready" => counters.ready = value > 0.0,
        "manx_ipam_pods" => counters.pods = whole,
        "manx_ipam_pods_started_total" => counters.started = whole,
        "manx_ipam_pods_stopped_total" => counters.stopped = whole,
        "manx_fib_routes_desired" => counters.routes_desired = whole,
        "manx_fib_routes_installed" => counters.routes_installed = whole,
        "manx_fib_operations_total" => counters.routes_changed = whole,
        "manx_fib_drift_total" => counters.drift = whole,
        "process_resident_memory_bytes" => counters.memory = whole,
        "process_cpu_seconds_total" => counters.cpu_seconds = value,
        "manx_cni_request_duration_seconds_count" => {
            let is = |name: &str, wanted: &str| label(labels, name).as_deref() == Some(wanted);
            if is("verb", "add") && !is("outcome", "ok") {
                counters.failed += whole;
            }
        }
        _ => {}
    }
}

fn count_peer(counters: &mut PeerCounters, peer: String, name: &str, labels: &str, value: f64) {
    let whole = value as u64;
    counters.peer = peer;
    match name {
        "manx_bgp_session_state" => counters.state = value as u8,
        "manx_bgp_peer_dropped_total" => counters.dropped = whole,
        "manx_bgp_prefixes_received" => counters.received += whole,
        "manx_bgp_prefixes_accepted" => counters.accepted += whole,
        "manx_bgp_prefixes_announced" => counters.announced += whole,
        "manx_bgp_peer_messages_total" => match label(labels, "direction").as_deref() {
            Some("in") => counters.messages_in += whole,
            _ => counters.messages_out += whole,
        },
        _ => {}
    }
}

/// The value of a label. Names of peers have no characters that are escaped.
fn label(labels: &str, name: &str) -> Option<String> {
    let mut rest = labels;
    while let Some((key, after)) = rest.split_once("=\"") {
        let (value, after) = after.split_once('"')?;
        if key.trim_start_matches(',') == name {
            return Some(value.to_owned());
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"# TYPE manx_ready gauge
manx_ready 1
manx_bgp_session_state{peer="peer/tor"} 5
manx_bgp_session_state_age_seconds{peer="peer/tor"} 77
manx_bgp_peer_messages_total{peer="peer/tor",direction="in",kind="update"} 7
manx_bgp_peer_messages_total{peer="peer/tor",direction="in",kind="keepalive"} 3
manx_bgp_peer_messages_total{peer="peer/tor",direction="out",kind="keepalive"} 4
manx_bgp_prefixes_received{peer="peer/tor",family="ipv4-unicast"} 3
manx_bgp_prefixes_received{peer="peer/tor",family="ipv6-unicast"} 2
manx_fib_routes_installed 6
manx_ipam_pods 4
manx_ipam_pods_started_total 12
manx_ipam_pods_stopped_total 8
manx_cni_request_duration_seconds_sum{verb="add",outcome="ok"} 0.25
manx_cni_request_duration_seconds_count{verb="add",outcome="ok"} 12
manx_cni_request_duration_seconds_count{verb="add",outcome="retry"} 2
process_cpu_seconds_total 1.5
# EOF
"#;

    #[test]
    fn metrics_become_counts() {
        let (counters, peers) = read(PAGE);
        assert!(counters.ready);
        assert_eq!((counters.started, counters.failed, counters.stopped, counters.pods), (12, 2, 8, 4));
        assert_eq!((counters.routes_installed, counters.cpu_seconds), (6, 1.5));
        let tor = &peers["peer/tor"];
        assert_eq!((tor.state, tor.messages_in, tor.messages_out, tor.received), (5, 10, 4, 5));
    }

    #[test]
    fn a_peer_is_told_again_only_when_something_changed() {
        let mut told = BTreeMap::new();
        let (_, peers) = read(PAGE);
        assert_eq!(news(&mut told, peers.clone()).len(), 1);
        assert_eq!(news(&mut told, peers), []);
        let (_, peers) = read(&PAGE.replace("keepalive\"} 3", "keepalive\"} 4"));
        assert_eq!(news(&mut told, peers)[0].messages_in, 11);
    }

    #[test]
    fn the_names_that_are_read_are_those_that_the_agent_shows() {
        let manual = include_str!("../../../docs/metrics.md");
        let words = include_str!("counters.rs").split('"').filter(|word| word.starts_with("manx_"));
        for name in words.map(|word| word.trim_end_matches("_count")).filter(|name| *name != "manx_") {
            assert!(manual.contains(&format!("`{name}`")), "{name}");
        }
    }
}
