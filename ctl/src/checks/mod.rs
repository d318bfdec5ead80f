//! What can be wrong with machines, a cluster and a running Manx, as one list of checks. Each is pure: facts in, findings
//! out. `manxctl check` asks those that make sense before anything is installed, `manxctl doctor` all of them.

mod certificates;
mod clock;
pub(crate) mod cluster;
mod firewall;
pub(crate) mod gather;
mod machine;
mod network;
mod proxy;
pub(crate) mod reached;
mod running;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::ExitCode;

use ipnetwork::IpNetwork;
use manx_api::{BGPConfiguration, BGPPeer, IPPool};
use manx_facts::host::HostFacts;
use serde::Serialize;

use crate::finding::{Finding, Weight, exit_code, named, render, well};
use crate::show::{Page, Tone};
pub(crate) use running::{Manx, PodSeen};

/// All that checks look at.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// The nodes by their names; the one machine of a look at a single one.
    pub(crate) nodes: BTreeMap<String, Seen>,
    /// What is known of the cluster.
    pub(crate) cluster: Cluster,
    /// What is known of a running Manx.
    pub(crate) manx: Manx,
}

/// One node.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Its internal addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// The networks that Kubernetes gave it for pods.
    pub(crate) pod_cidrs: Vec<IpNetwork>,
    /// The version of its kubelet.
    pub(crate) kubelet: String,
    /// What it answered; else why it did not.
    pub(crate) host: Result<Box<HostFacts>, String>,
    /// When its answer came by our own clock, less when it left by its clock, in milliseconds.
    pub(crate) clock: Option<i64>,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            labels: BTreeMap::new(),
            pod_cidrs: Vec::new(),
            kubelet: String::new(),
            host: Err("it was not asked".to_owned()),
            clock: None,
        }
    }
}

/// The cluster, as its objects and the objects to come tell it.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    /// Whether there is an API server that was asked.
    pub(crate) asked: bool,
    /// The networks of Services' addresses; empty if they are not known.
    pub(crate) services: Vec<IpNetwork>,
    /// The server's version, such as `v1.32.6`.
    pub(crate) version: String,
    /// Pools that there are, or shall be.
    pub(crate) pools: Vec<IPPool>,
    /// Peers that there are, or shall be.
    pub(crate) peers: Vec<BGPPeer>,
    /// The configuration, if there is one.
    pub(crate) configuration: Option<BGPConfiguration>,
    /// Other networks that run as pods, each with what tells it, such as `DaemonSet kube-system/calico-node`.
    pub(crate) networks: BTreeMap<String, String>,
    /// Requests that were refused, and what they were for.
    pub(crate) refused: Vec<String>,
}

/// When a check says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Before anything of Manx is installed.
    Before,
    /// Always.
    Always,
    /// Only while Manx runs.
    Running,
}

/// What a check looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Each machine by itself.
    Machine,
    /// The cluster, or several machines.
    Cluster,
}

/// One check.
pub(crate) struct Check {
    /// Its name, which says what is well when it finds nothing.
    pub(crate) name: &'static str,
    /// When it says something.
    pub(crate) when: When,
    /// What it looks at.
    pub(crate) scope: Scope,
    /// Looks.
    pub(crate) look: fn(&Facts) -> Vec<Finding>,
}

const fn check(name: &'static str, when: When, scope: Scope, look: fn(&Facts) -> Vec<Finding>) -> Check {
    Check { name, when, scope, look }
}

/// All of them, in the order in which they are shown.
pub(crate) const CHECKS: &[Check] = &[
    check("every node answers", When::Always, Scope::Cluster, network::answers),
    check("kernel features", When::Always, Scope::Machine, machine::features),
    check("kernel settings", When::Always, Scope::Machine, machine::settings),
    check("settings of a running node", When::Running, Scope::Machine, machine::settings_of_a_router),
    check("ports 179, 9179 and 9180", When::Before, Scope::Machine, machine::ports),
    check("other networks on the machine", When::Before, Scope::Machine, machine::networks),
    check("other networks in the cluster", When::Before, Scope::Cluster, network::networks),
    check("configurations before ours", When::Running, Scope::Machine, machine::conflists),
    check("folders of the container runtime", When::Always, Scope::Machine, machine::folders),
    check("programs that configure networks", When::Always, Scope::Machine, machine::configurers),
    check("firewalls let pods pass", When::Always, Scope::Machine, firewall::barriers),
    check(
        "room for connections, neighbours, processes and files",
        When::Always,
        Scope::Machine,
        machine::room,
    ),
    check("MTU of the uplinks", When::Always, Scope::Cluster, network::mtu),
    check("addresses of nodes and families of pools", When::Always, Scope::Cluster, network::families),
    check("pools overlap nothing", When::Always, Scope::Cluster, network::overlaps),
    check("kube-proxy", When::Always, Scope::Cluster, proxy::proxy),
    check("clocks", When::Always, Scope::Cluster, clock::clocks),
    check("the API server from each node", When::Always, Scope::Cluster, reached::api),
    check("nodes reach nodes", When::Always, Scope::Cluster, reached::nodes),
    check("large packets between nodes", When::Always, Scope::Cluster, reached::large),
    check("certificates", When::Always, Scope::Cluster, certificates::certificates),
    check("peers answer", When::Before, Scope::Cluster, reached::peers),
    check("pods of Manx run on", When::Running, Scope::Cluster, running::restarts),
    check("versions", When::Running, Scope::Cluster, running::versions),
    check("guards", When::Running, Scope::Machine, running::guards),
    check("routes, NAT and conflist as they should be", When::Running, Scope::Machine, running::gauges),
    check("what others undo", When::Running, Scope::Machine, running::counters),
    check("MTU of pods' links", When::Running, Scope::Machine, running::pods_mtu),
    check("agents, controller, sessions, pools and blocks", When::Running, Scope::Cluster, running::objects),
];

/// What a check came to.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Verdict {
    /// The check.
    pub(crate) check: &'static str,
    /// Whether nothing is wrong.
    pub(crate) well: bool,
    /// What it found.
    pub(crate) findings: Vec<Finding>,
}

/// What all checks came to.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Verdicts {
    /// The nodes that answered.
    pub(crate) nodes: BTreeSet<String>,
    /// The nodes that did not, each with why.
    pub(crate) away: BTreeMap<String, String>,
    /// Check by check.
    pub(crate) checks: Vec<Verdict>,
}

impl Verdicts {
    /// Looks with all checks that `asked` picks.
    pub(crate) fn of(facts: &Facts, asked: impl Fn(&Check) -> bool) -> Self {
        let checks = CHECKS.iter().filter(|check| asked(check)).map(|check| {
            let findings = (check.look)(facts);
            Verdict { check: check.name, well: well(&findings), findings }
        });
        let away = facts
            .nodes
            .iter()
            .filter_map(|(name, node)| Some((name.clone(), node.host.as_ref().err()?.clone())));
        let here = facts.nodes.iter().filter(|(_, node)| node.host.is_ok());
        Self {
            checks: checks.collect(),
            away: away.collect(),
            nodes: here.map(|(name, _)| name.clone()).collect(),
        }
    }

    /// 0 when nothing is wrong, 1 when something is, 2 when no node could be asked.
    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.nodes.is_empty() { ExitCode::from(2) } else { exit_code(&self.findings()) }
    }

    /// For people: check by check, then what was found.
    pub(crate) fn text(&self, page: &Page) -> String {
        let mut text = String::new();
        for verdict in &self.checks {
            let wrong = verdict.findings.iter().filter(|finding| finding.weight > Weight::Note).count();
            let (tone, word) = match wrong {
                0 => (Tone::Good, "ok   ".to_owned()),
                _ => (Tone::Bad, "wrong".to_owned()),
            };
            text.push_str(&format!("{}  {}\n", page.paint(tone, &word), verdict.check));
        }
        let asked = self.nodes.len() + self.away.len();
        text.push_str(&format!("\n{} of {asked} nodes answered", self.nodes.len()));
        match self.away.is_empty() {
            true => text.push('\n'),
            false => text
                .push_str(&format!("; away: {}\n", self.away.keys().cloned().collect::<Vec<_>>().join(", "))),
        }
        text + "\n" + &render(&self.findings(), page)
    }

    /// All findings, those that are the same on several nodes put together.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        together(self.checks.iter().flat_map(|verdict| &verdict.findings))
    }
}

/// The most nodes that are named one by one.
const MOST_NODES: usize = 5;

/// Puts findings of several nodes that say the same into one.
fn together<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Vec<Finding> {
    let mut merged: Vec<(Finding, Vec<String>)> = Vec::new();
    for finding in findings {
        let node = finding.object.strip_prefix("node ").map(str::to_owned);
        let same = |(other, nodes): &&mut (Finding, Vec<String>)| {
            !nodes.is_empty() && other.what == finding.what && other.weight == finding.weight
        };
        match (merged.iter_mut().find(same), node) {
            (Some((_, nodes)), Some(node)) => nodes.push(node),
            (_, node) => merged.push((finding.clone(), node.into_iter().collect())),
        }
    }
    let on_all = |(finding, nodes): (Finding, Vec<String>)| match nodes.len() {
        0 | 1 => finding,
        _ => Finding { object: format!("nodes {}", named(&nodes, MOST_NODES)), ..finding },
    };
    merged.into_iter().map(on_all).collect()
}

/// What each node that answered is and has, with words for it.
fn machines(facts: &Facts) -> impl Iterator<Item = (String, &HostFacts)> {
    facts.nodes.iter().filter_map(|(name, node)| Some((format!("node {name}"), &**node.host.as_ref().ok()?)))
}

/// What one check finds on each machine.
fn each(facts: &Facts, look: impl Fn(&str, &HostFacts, &mut Vec<Finding>)) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (node, host) in machines(facts) {
        look(&node, host, &mut findings);
    }
    findings
}

/// A finding of a weight that is found out first.
fn weighed(weight: Weight, object: &str, what: impl Into<String>, cure: impl Into<String>) -> Finding {
    Finding { weight, ..Finding::error(object, what, cure) }
}
