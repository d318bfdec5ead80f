//! What `status` shows, as data and as text.

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use manx_api::{Condition, Timestamp};
use serde::Serialize;

use super::findings;
use crate::cluster::Cluster;
use crate::finding::{self, Finding};
use crate::show::{Page, Tone};
use crate::table::{Cell, Table, column, words};
use crate::{blocks, nodes, peers, pools};

/// Everything.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct View {
    /// Nothing is wrong, as far as could be read.
    pub(crate) well: bool,
    pub(crate) summary: Summary,
    pub(crate) nodes: Vec<nodes::Row>,
    /// Of the whole cluster.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) pools: Vec<pools::Row>,
    /// Of the one node that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Node>,
    pub(crate) findings: Vec<Finding>,
    /// What could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unread: Vec<String>,
}

/// The cluster in a few figures.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    /// How many nodes run each version of the agent.
    pub(crate) versions: BTreeMap<String, usize>,
    pub(crate) controller: Option<Controller>,
    pub(crate) nodes: usize,
    pub(crate) agents_alive: usize,
    pub(crate) sessions_up: usize,
    pub(crate) sessions: usize,
    pub(crate) blocks: usize,
    pub(crate) addresses_used: u64,
}

/// Who leads the controllers.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Controller {
    pub(crate) leader: Option<String>,
    pub(crate) renewed: Option<Timestamp>,
    pub(crate) alive: bool,
}

impl Controller {
    /// What its Lease says; none where Leases cannot be read.
    pub(super) fn of(cluster: &Cluster, now: Timestamp) -> Option<Self> {
        // Every agent has one: without any, nothing can be said of the controller alone.
        if cluster.leases.is_empty() || cluster.unread.iter().any(|told| told.starts_with("Lease")) {
            return None;
        }
        let lease = cluster.leases.iter().find(|lease| lease.name_any() == "manx-controller");
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        let leader = spec.and_then(|spec| spec.holder_identity.clone()).filter(|leader| !leader.is_empty());
        let renewed = spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
        let lasts = i64::from(spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(15));
        // A clock that differs by some seconds, and a Lease that is renewed every two.
        let fresh = renewed.is_some_and(|renewed| now.as_second() - renewed.as_second() <= lasts + 5);
        Some(Self { alive: leader.is_some() && fresh, leader, renewed })
    }
}

/// More about one node.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Node {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) sessions: Vec<peers::Row>,
    pub(crate) blocks: Vec<blocks::Row>,
}

impl View {
    /// What there is to say of the cluster or of one node.
    pub(crate) fn new(cluster: &Cluster, node: Option<&str>, now: Timestamp) -> Self {
        let mut nodes = nodes::rows(cluster, now);
        let summary = Summary::new(&nodes, cluster, now);
        let mut findings = findings(cluster, now);
        if let Some(node) = node {
            nodes.retain(|row| row.name == node);
            findings.retain(|finding| finding.concerns(node));
        }
        Self {
            well: finding::well(&findings),
            summary,
            nodes,
            pools: if node.is_none() { pools::rows(cluster) } else { Vec::new() },
            node: node.map(|node| Node::new(cluster, node)),
            findings,
            unread: cluster.unread.clone(),
        }
    }

    /// For people.
    pub(crate) fn text(&self, page: &Page) -> String {
        let mut parts = Vec::new();
        match &self.node {
            None => {
                parts.push(self.summary.text(page));
                parts.push(nodes::table(&self.nodes, page));
                parts.push(pools::table(&self.pools, page));
            }
            Some(node) => {
                parts.push(nodes::table(&self.nodes, page));
                parts.push(node.text(page));
            }
        }
        parts.push(finding::render(&self.findings, page));
        if !self.unread.is_empty() {
            let lines = self.unread.iter().map(|line| page.wrap(line, "- ", "  ") + "\n");
            parts.push(format!("what could not be found out:\n{}", lines.collect::<String>()));
        }
        parts.join("\n")
    }
}

impl Summary {
    fn new(nodes: &[nodes::Row], cluster: &Cluster, now: Timestamp) -> Self {
        let mut versions = BTreeMap::new();
        for row in nodes.iter().filter(|row| !row.version.is_empty()) {
            *versions.entry(row.version.clone()).or_default() += 1;
        }
        Self {
            versions,
            controller: Controller::of(cluster, now),
            nodes: nodes.len(),
            agents_alive: nodes.iter().filter(|row| row.agent.alive == Some(true)).count(),
            sessions_up: nodes.iter().map(|row| row.sessions_up).sum(),
            sessions: nodes.iter().map(|row| row.sessions).sum(),
            blocks: cluster.blocks.len(),
            addresses_used: nodes.iter().map(|row| row.addresses_used).sum(),
        }
    }

    fn text(&self, page: &Page) -> String {
        let versions = self.versions.iter().map(|(version, count)| format!("{version} on {count}"));
        let part = |count: usize, of: usize, what: &str| {
            let tone = if count == of { Tone::Good } else { Tone::Bad };
            format!("{} {what}", page.paint(tone, &format!("{count}/{of}")))
        };
        let controller = match &self.controller {
            None => page.paint(Tone::Doubtful, "unknown"),
            Some(Controller { alive: false, .. }) => page.paint(Tone::Bad, "nobody leads"),
            Some(controller) => format!("{} leads", controller.leader.as_deref().unwrap_or_default()),
        };
        format!(
            "Agents      {}, version {}\nController  {controller}\nSessions    {}\nAddresses   {} used in {} blocks\n",
            part(self.agents_alive, self.nodes, "alive"),
            versions.collect::<Vec<_>>().join(", "),
            part(self.sessions_up, self.sessions, "up"),
            self.addresses_used,
            self.blocks,
        )
    }
}

impl Node {
    fn new(cluster: &Cluster, node: &str) -> Self {
        let network = cluster.networks.iter().find(|network| network.name_any() == node);
        let status = network.and_then(|network| network.status.as_ref());
        Self {
            conditions: status.map(|status| status.conditions.clone()).unwrap_or_default(),
            sessions: peers::rows(cluster, |row| row.node == node),
            blocks: blocks::rows(cluster, |block| block.spec.node == node),
        }
    }

    fn text(&self, page: &Page) -> String {
        let mut conditions = Table::new([
            column("CONDITION"),
            column("STATUS"),
            column("SINCE"),
            column("REASON"),
            words("MESSAGE"),
        ]);
        for condition in &self.conditions {
            let tone = if condition.status == "True" { Tone::Good } else { Tone::Bad };
            conditions.row([
                Cell::from(&condition.type_),
                Cell::toned(&condition.status, tone),
                page.ago(condition.last_transition_time.0).into(),
                Cell::from(&condition.reason),
                Cell::from(&condition.message),
            ]);
        }
        let sessions = peers::table(&self.sessions, page);
        format!("{}\n{sessions}\n{}", conditions.render(page), blocks::table(&self.blocks, page))
    }
}
