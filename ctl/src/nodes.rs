//! `manxctl nodes`: every node as a router, and the agent on it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use manx_api::{NodeNetwork, SessionState, Timestamp, condition, is_true};
use serde::Serialize;

use crate::Context;
use crate::cluster::{Cluster, Part};
use crate::show::{Live, Page, Tone};
use crate::table::{Cell, Table, column, names, number};

/// A Lease of an agent that says nothing of its length lasts this long, in seconds.
const LEASE_SECONDS: i32 = 180;
/// The label by which pods of Manx say what they are.
const NAME_LABEL: &str = "app.kubernetes.io/name";

/// How they are shown.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  manxctl nodes               # a line for each node
  manxctl nodes -o wide       # router id, pod and restarts of the agent, last sign of life
  manxctl nodes --watch       # follow a roll-out")]
pub(crate) struct Options {
    #[command(flatten)]
    live: Live,
}

/// Lists them.
pub(crate) async fn run(options: Options, context: &Context) -> Result<ExitCode> {
    let parts = [Part::Networks, Part::Blocks, Part::Nodes, Part::Workers];
    context
        .each(&parts, options.live, |cluster| rows(cluster, Timestamp::now()), |rows, page| table(rows, page))
        .await?;
    Ok(ExitCode::SUCCESS)
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) ipv4: Option<String>,
    pub(crate) ipv6: Option<String>,
    pub(crate) as_number: Option<u32>,
    pub(crate) router_id: Option<String>,
    pub(crate) sessions_up: usize,
    pub(crate) sessions: usize,
    pub(crate) blocks: usize,
    pub(crate) addresses_used: u64,
    /// Pods can start there; unset: no agent has said.
    pub(crate) ready: Option<bool>,
    /// Types of conditions that say that something is wrong.
    pub(crate) wrong: Vec<String>,
    pub(crate) agent: Agent,
    pub(crate) version: String,
    pub(crate) created: Option<Timestamp>,
}

/// The agent of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Agent {
    /// It gave a sign of life in time; unset: Leases could not be read.
    pub(crate) alive: Option<bool>,
    pub(crate) last_sign_of_life: Option<Timestamp>,
    pub(crate) pod: Option<String>,
    /// Why its pod is not ready, in a word.
    pub(crate) trouble: Option<String>,
    pub(crate) restarts: i32,
}

impl Agent {
    /// In one word.
    pub(crate) fn word(&self) -> &str {
        match (&self.trouble, self.alive) {
            (_, Some(false)) if self.last_sign_of_life.is_none() => "None",
            (_, Some(false)) => "Silent",
            (Some(trouble), _) => trouble,
            (None, Some(true)) => "Alive",
            (None, None) => "Unknown",
        }
    }
}

/// Every node of which Kubernetes or an agent knows.
pub(crate) fn rows(cluster: &Cluster, now: Timestamp) -> Vec<Row> {
    let networks: BTreeMap<String, &NodeNetwork> =
        cluster.networks.iter().map(|network| (network.name_any(), network)).collect();
    let known = cluster.nodes.iter().map(|node| node.name_any());
    let all: BTreeSet<String> = networks.keys().cloned().chain(known).collect();
    all.into_iter().map(|name| row(cluster, networks.get(&name).copied(), name, now)).collect()
}

fn row(cluster: &Cluster, network: Option<&NodeNetwork>, name: String, now: Timestamp) -> Row {
    let owned = cluster.blocks.iter().filter(|block| block.spec.node == name);
    let used = owned.clone().filter_map(|block| block.status.as_ref()).map(|status| u64::from(status.used));
    let mut row = Row {
        agent: agent(cluster, &name, now),
        blocks: owned.clone().count(),
        addresses_used: used.sum(),
        name,
        ..Row::default()
    };
    let Some(network) = network else { return row };
    let spec = &network.spec;
    row.ipv4 = spec.addresses.ipv4.map(|address| address.to_string());
    row.ipv6 = spec.addresses.ipv6.map(|address| address.to_string());
    row.as_number = Some(spec.as_number);
    row.router_id = Some(spec.router_id.to_string());
    row.created = network.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let Some(status) = &network.status else { return row };
    let up = status.sessions.iter().filter(|session| session.state == SessionState::Established);
    (row.sessions_up, row.sessions) = (up.count(), status.sessions.len());
    row.ready = condition(&status.conditions, "Ready").map(|_| is_true(&status.conditions, "Ready"));
    let wrong = status.conditions.iter().filter(|condition| condition.status != "True");
    row.wrong = wrong.map(|condition| condition.type_.clone()).collect();
    row.version.clone_from(&status.version);
    row
}

fn agent(cluster: &Cluster, node: &str, now: Timestamp) -> Agent {
    let name = format!("manx-agent-{node}");
    let lease =
        cluster.leases.iter().find(|lease| lease.name_any() == name).and_then(|lease| lease.spec.as_ref());
    let renewed = lease.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
    let lasts = lease.and_then(|spec| spec.lease_duration_seconds).unwrap_or(LEASE_SECONDS);
    let fresh = |renewed: Timestamp| now.as_second() - renewed.as_second() <= i64::from(lasts);
    let known = !cluster.unread.iter().any(|told| told.starts_with("Lease"));
    let pod = cluster.workers.iter().find(|pod| is(pod, "manx-agent") && runs_on(pod, node));
    Agent {
        alive: known.then(|| renewed.is_some_and(fresh)),
        last_sign_of_life: renewed,
        pod: pod.map(|pod| pod.name_any()),
        trouble: pod.and_then(trouble),
        restarts: pod.map_or(0, restarts),
    }
}

/// Whether a pod of Manx is of that part of it.
pub(crate) fn is(pod: &Pod, name: &str) -> bool {
    pod.labels().get(NAME_LABEL).is_some_and(|label| label == name)
}

fn runs_on(pod: &Pod, node: &str) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node)
}

/// Why a pod is not ready, in a word.
pub(crate) fn trouble(pod: &Pod) -> Option<String> {
    let Some(status) = &pod.status else { return Some("Pending".to_owned()) };
    if pod.metadata.deletion_timestamp.is_some() {
        return Some("Terminating".to_owned());
    }
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let states = containers.filter_map(|container| container.state.as_ref());
    if let Some(waits) =
        states.filter_map(|state| state.waiting.as_ref()).find_map(|waiting| waiting.reason.clone())
    {
        return Some(waits);
    }
    let ready = status.conditions.iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True");
    match status.phase.as_deref() {
        _ if ready => None,
        Some("Running") | None => Some("NotReady".to_owned()),
        Some(phase) => Some(phase.to_owned()),
    }
}

fn restarts(pod: &Pod) -> i32 {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    containers.map(|container| container.restart_count).sum()
}

/// A line for each.
pub(crate) fn table(rows: &[Row], page: &Page) -> String {
    let mut table = Table::new([
        names("NODE"),
        column("IPV4"),
        column("IPV6").spare(4),
        number("ASN").spare(3),
        column("ROUTER ID").wide(),
        number("SESSIONS"),
        number("BLOCKS").spare(1),
        number("USED").spare(2),
        column("READY"),
        column("AGENT"),
        column("SIGN OF LIFE").wide(),
        names("POD").wide(),
        number("RESTARTS").wide(),
        column("VERSION"),
        column("WRONG").wide(),
        column("AGE"),
    ]);
    for row in rows {
        table.row(cells(row, page));
    }
    table.render(page)
}

fn cells(row: &Row, page: &Page) -> [Cell; 16] {
    let shown = |text: &Option<String>| Cell::from(text.as_deref().unwrap_or("-"));
    let when = |time: Option<Timestamp>| time.map_or_else(|| "-".to_owned(), |time| page.ago(time));
    let all_up = row.sessions_up == row.sessions;
    let agent = &row.agent;
    [
        Cell::from(&row.name),
        shown(&row.ipv4),
        shown(&row.ipv6),
        shown(&row.as_number.map(|number| number.to_string())),
        shown(&row.router_id),
        Cell::toned(
            format!("{}/{}", row.sessions_up, row.sessions),
            if all_up { Tone::Good } else { Tone::Bad },
        ),
        row.blocks.into(),
        row.addresses_used.into(),
        match row.ready {
            Some(true) => Cell::toned("True", Tone::Good),
            Some(false) => Cell::toned("False", Tone::Bad),
            None => Cell::toned("Unknown", Tone::Bad),
        },
        Cell::toned(agent.word(), if agent.word() == "Alive" { Tone::Good } else { Tone::Bad }),
        when(agent.last_sign_of_life).into(),
        shown(&agent.pod),
        agent.restarts.into(),
        if row.version.is_empty() { "-".into() } else { Cell::from(&row.version) },
        if row.wrong.is_empty() { "-".into() } else { Cell::toned(row.wrong.join(","), Tone::Bad) },
        when(row.created).into(),
    ]
}
