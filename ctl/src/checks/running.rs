//! Checks of a running Manx: its pods, its objects, and what its agents say of themselves.

use std::collections::{BTreeMap, BTreeSet};

use manx_api::Timestamp;

use super::{Facts, Seen, each, machines};
use crate::cluster::Cluster;
use crate::finding::Finding;
use crate::guards::of_node;
use crate::status::findings;

/// Seconds within which a restart is worth a word.
const RECENT: i64 = 3600;
/// Times from which on what others undo is no accident.
const AGAIN_AND_AGAIN: f64 = 3.0;

/// What is known of a running Manx beyond its nodes.
#[derive(Debug, Default)]
pub(crate) struct Manx {
    /// Its objects.
    pub(crate) objects: Cluster,
    /// Its pods.
    pub(crate) pods: Vec<PodSeen>,
    /// When they were read.
    pub(crate) now: Timestamp,
}

/// A pod of ours.
#[derive(Debug, Clone, Default)]
pub(crate) struct PodSeen {
    /// Its name.
    pub(crate) name: String,
    /// `manx-agent` or `manx-controller`.
    pub(crate) component: String,
    /// Its node; empty while it has none.
    pub(crate) node: String,
    /// Restarts of its containers.
    pub(crate) restarts: i32,
    /// Seconds since the last of them, and why it was.
    pub(crate) restarted: Option<(i64, String)>,
    /// The image of its main container.
    pub(crate) image: String,
}

fn of<'a>(facts: &'a Facts, component: &'a str) -> impl Iterator<Item = &'a PodSeen> {
    facts.manx.pods.iter().filter(move |pod| pod.component == component)
}

/// Pods of ours that start again and again.
pub(super) fn restarts(facts: &Facts) -> Vec<Finding> {
    facts.manx.pods.iter().filter_map(restarted).collect()
}

fn restarted(pod: &PodSeen) -> Option<Finding> {
    let (ago, why) = pod.restarted.as_ref().filter(|(ago, _)| *ago < RECENT)?;
    let what = format!("it was started anew {} min ago ({why}), {} times in all", ago / 60, pod.restarts);
    let cure = format!("`kubectl -n manx-system logs -p {}`", pod.name);
    Some(Finding::warning(format!("pod {}", pod.name), what, cure).see("agent-down"))
}

/// Programs of several versions.
pub(super) fn versions(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for component in ["manx-agent", "manx-controller"] {
        let mut images: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for pod in of(facts, component) {
            images.entry(&pod.image).or_default().insert(&pod.node);
        }
        if images.len() > 1 {
            let shown: Vec<String> =
                images.iter().map(|(image, nodes)| format!("{image} on {}", count(nodes.len()))).collect();
            findings.push(Finding::warning(
                component,
                format!("several images run: {}", shown.join(", ")),
                format!(
                    "a roll-out goes on or hangs: `kubectl -n manx-system rollout status` of {component}"
                ),
            ));
        }
    }
    let answers: BTreeSet<&str> = machines(facts).map(|(_, host)| host.version.as_str()).collect();
    let ours = env!("CARGO_PKG_VERSION");
    if answers.iter().any(|version| *version != ours) {
        let shown = answers.into_iter().collect::<Vec<_>>().join(", ");
        let what = format!("it is of version {ours}, and the agents of {shown}");
        findings.push(Finding::note("manxctl", what));
    }
    findings
}

fn count(nodes: usize) -> String {
    if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") }
}

/// Links that are not guarded, and tables that are gone.
pub(super) fn guards(facts: &Facts) -> Vec<Finding> {
    each(facts, |node, host, findings| {
        let guards = &host.guards;
        let cure = "the agent mends that within a minute; find who flushes nftables";
        if let Some(what) = of_node(guards) {
            findings.push(Finding::error(node, what, cure).see("guards-vanish"));
        }
        if !guards.tables.iter().any(|table| table == "inet manx") {
            findings.push(
                Finding::error(node, "the table inet manx is gone: pods reach the ports of BGP", cure)
                    .see("guards-vanish"),
            );
        }
    })
}

/// The numbers of a page of metrics, by their names with labels.
fn metrics(page: &str) -> BTreeMap<&str, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name, value.parse().ok()?))
        })
        .collect()
}

/// What each agent says of itself, in numbers; agents without such a page are found elsewhere.
fn pages<'a>(
    facts: &'a Facts,
    look: impl Fn(&str, &BTreeMap<&str, f64>, &mut Vec<Finding>) + 'a,
) -> Vec<Finding> {
    each(facts, |node, host, findings| {
        if let Some(Ok(page)) = host.pages.get("/metrics") {
            look(node, &metrics(page), findings);
        }
    })
}

/// What agents say is not as it should be.
pub(super) fn gauges(facts: &Facts) -> Vec<Finding> {
    let mut findings = each(facts, |node, host, findings| {
        if let Some(Err(why)) = host.pages.get("/metrics") {
            findings.push(
                Finding::error(
                    node,
                    format!("its agent does not tell how it is: {why}"),
                    "look at the log of its agent, which is away, hangs or has another --health-listen",
                )
                .see("agent-down"),
            );
        }
    });
    findings.extend(pages(facts, |node, numbers, findings| {
        for (metric, what, anchor) in [
            ("manx_nat_in_place", "the rules that masquerade are not in place", "source-address-is-wrong"),
            (
                "manx_guard_in_place",
                "the rules that keep pods from the ports of BGP are not in place",
                "guards-vanish",
            ),
            (
                "manx_cni_conflist_in_place",
                "the conflist is not in place: the runtime starts no pods by Manx",
                "node-notready",
            ),
            ("manx_fib_in_sync", "the kernel has not every route that it should have", "no-route"),
        ] {
            if numbers.get(metric) == Some(&0.0) {
                findings.push(Finding::error(node, what, "the agent's log says why").see(anchor));
            }
        }
    }));
    findings
}

/// What agents had to put right again and again since they started.
pub(super) fn counters(facts: &Facts) -> Vec<Finding> {
    pages(facts, |node, numbers, findings| {
        let start = numbers.get("process_start_time_seconds").copied().unwrap_or(0.0);
        for (metric, least, what, cure, anchor) in [
            (
                "manx_fib_drift_total",
                AGAIN_AND_AGAIN,
                "routes were removed or changed by others",
                "find who does it: NetworkManager, systemd-networkd, a routing daemon (docs/node.md)",
                "routes-vanish",
            ),
            (
                "manx_guard_mended_total",
                AGAIN_AND_AGAIN,
                "guards of pods' links were removed or changed by others",
                "find who flushes nftables",
                "guards-vanish",
            ),
            (
                "manx_cni_conflist_restored_total",
                AGAIN_AND_AGAIN,
                "times the conflist was removed or changed by others",
                "find which other network's installer is at work",
                "node-notready",
            ),
            (
                "manx_bgp_speaker_panics_total",
                1.0,
                "times the speaker failed and was started again",
                "that is a fault of Manx: please report it with `manxctl diags`",
                "agent-down",
            ),
            (
                "manx_api_requests_total{code=\"403\"}",
                1.0,
                "requests to the API server were forbidden",
                "apply the manifests of the version that runs",
                "api-server-away",
            ),
        ] {
            if let Some(count) = numbers.get(metric).filter(|count| **count >= least) {
                let since = if start > 0.0 { " since its agent started" } else { "" };
                findings.push(Finding::warning(node, format!("{count} {what}{since}"), cure).see(anchor));
            }
        }
    })
}

/// Links of pods with another MTU than the uplink.
pub(super) fn pods_mtu(facts: &Facts) -> Vec<Finding> {
    let usual = |seen: &Seen| {
        let links = super::network::uplinks(seen);
        links.iter().map(|link| link.mtu).min()
    };
    let mut findings = Vec::new();
    for (name, seen) in &facts.nodes {
        let (Ok(host), Some(uplink)) = (&seen.host, usual(seen)) else { continue };
        for (mtu, links) in host.guards.mtus.iter().filter(|(mtu, _)| **mtu > uplink) {
            findings.push(
                Finding::warning(
                    format!("node {name}"),
                    format!("{links} links of pods have the MTU {mtu}, and the uplink has {uplink}"),
                    "the condition MTUFollowed says why; restart these pods, or see whether --mtu is right",
                )
                .see("mtu"),
            );
        }
    }
    findings
}

/// What the objects say: agents, controller, conditions, sessions, pools and blocks.
pub(super) fn objects(facts: &Facts) -> Vec<Finding> {
    let objects = &facts.manx.objects;
    let unread = objects.unread.iter().map(|unread| {
        Finding::warning("the API server", unread.clone(), "ask with the rights that docs/check.md lists")
    });
    findings(objects, facts.manx.now).into_iter().chain(unread).collect()
}
