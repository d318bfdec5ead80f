//! Do all nodes have the same time? Leases, certificates and the reading of logs need it.

use super::Facts;
use crate::finding::Finding;

/// Milliseconds by which two clocks may differ; what an answer takes on its way is within.
const WARNING: i64 = 2_000;
const ERROR: i64 = 30_000;
const CURE: &str = "let all machines take their time from the same servers (chrony, systemd-timesyncd)";

/// Clocks that differ from most. Our own counts as one of them only when there is a single node.
pub(super) fn clocks(facts: &Facts) -> Vec<Finding> {
    let mut offsets: Vec<i64> = facts.nodes.values().filter_map(|node| node.clock).collect();
    offsets.sort_unstable();
    // Between two the earlier: neither is more right.
    let Some(&usual) = offsets.get((offsets.len().max(1) - 1) / 2) else { return Vec::new() };
    let mut findings: Vec<Finding> =
        facts.nodes.iter().filter_map(|(name, node)| judge(name, node.clock? - usual)).collect();
    if findings.is_empty() && usual.abs() >= ERROR {
        findings.push(Finding::note(
            "this machine",
            format!("its clock differs by {} from that of the nodes", seconds(usual)),
        ));
    }
    findings
}

fn judge(node: &str, behind: i64) -> Option<Finding> {
    let direction = if behind > 0 { "behind" } else { "ahead of" };
    let what = format!("its clock is {} {direction} that of most", seconds(behind));
    match behind.abs() {
        ERROR.. => Some(Finding::error(format!("node {node}"), what, CURE)),
        WARNING.. => Some(Finding::warning(format!("node {node}"), what, CURE)),
        _ => None,
    }
}

fn seconds(millis: i64) -> String {
    format!("{}.{} s", millis.abs() / 1000, millis.abs() % 1000 / 100)
}
