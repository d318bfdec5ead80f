//! What is wrong in a cluster, as its objects tell. Pure: objects and the time in, findings out.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use manx_api::{
    Condition, IPPool, NodeNetwork, Session, SessionError, SessionState, Timestamp, condition, is_true,
};

use super::cures;
use super::mesh::{self, Down};
use super::view::Controller;
use crate::cluster::Cluster;
use crate::finding::{Finding, NAMED, named};
use crate::nodes::{self, Row};
use crate::show::age;

/// Everything that is wrong: controller and agents first, then nodes, sessions, pools, blocks and objects of BGP.
pub(crate) fn findings(cluster: &Cluster, now: Timestamp) -> Vec<Finding> {
    let rows = nodes::rows(cluster, now);
    let away: BTreeSet<&str> =
        rows.iter().filter(|row| row.agent.alive == Some(false)).map(|row| row.name.as_str()).collect();
    let mut found = Vec::new();
    found.extend(controller(cluster, now));
    for row in &rows {
        found.extend(agent(cluster, row, now));
    }
    found.extend(versions(cluster, &rows));
    for network in cluster.networks.iter().filter(|network| !away.contains(&*network.name_any())) {
        found.extend(conditions(network));
    }
    found.extend(sessions(cluster, &away, now));
    found.extend(pools(cluster));
    found.extend(blocks(cluster));
    found.extend(objects(cluster));
    found
}

fn controller(cluster: &Cluster, now: Timestamp) -> Option<Finding> {
    let controller = Controller::of(cluster, now).filter(|controller| !controller.alive)?;
    let what = match controller.renewed {
        Some(renewed) => format!("nobody leads since {}", since(renewed, now)),
        None => "it has never led".to_owned(),
    };
    let cure = format!("`kubectl -n {} get pods` says why it does not run", cluster.manx_namespace);
    Some(Finding::error("controller", what, cure).see("no-controller"))
}

/// How long ago, as `5m (10:02:03Z)`.
pub(super) fn since(then: Timestamp, now: Timestamp) -> String {
    format!("{} ({then:.0})", age(now.as_second() - then.as_second()))
}

/// Whether there is an agent, and whether it lives.
fn agent(cluster: &Cluster, row: &Row, now: Timestamp) -> Option<Finding> {
    let node = cluster.nodes.iter().find(|node| node.name_any() == row.name);
    let nodes_known = !cluster.unread.iter().any(|told| told.starts_with("Node"));
    let (object, namespace) = (format!("node {}", row.name), &cluster.manx_namespace);
    if nodes_known && node.is_none() {
        let what = "an agent has reported for it, but Kubernetes has no such Node";
        let cure = "if the node is gone for good, the controller returns its blocks five minutes after its agent; else let the kubelet register it again";
        return Some(Finding::warning(object, what, cure).see("addresses-run-out").on(&row.name));
    }
    let logs = match &row.agent.pod {
        Some(pod) => {
            format!("`kubectl -n {namespace} logs {pod} -c agent` says why (with -p before its last start)")
        }
        None => format!(
            "`kubectl -n {namespace} describe daemonset manx-agent` says why it starts none there: a selector or a taint"
        ),
    };
    let trouble =
        row.agent.trouble.as_ref().map_or_else(String::new, |trouble| format!("; its pod is {trouble}"));
    let silent = node.is_some_and(kubelet_is_silent);
    // Where agents run as pods, one without a pod has ended, though its Lease still runs.
    let pods = cluster.workers.iter().any(|pod| nodes::is(pod, "manx-agent"));
    let what = match (row.agent.alive, row.agent.last_sign_of_life, row.ready) {
        (Some(false), Some(last), _) if silent => {
            let what = format!("neither its agent nor its kubelet has been heard since {}", since(last, now));
            let cure = "the machine, or its way to the API server, is down: look there first";
            return Some(Finding::error(object, what, cure).see("agent-down").on(&row.name));
        }
        _ if pods && row.agent.pod.is_none() => "no agent runs on it".to_owned(),
        (Some(false), Some(last), _) => {
            format!("its agent has given no sign of life since {}{trouble}", since(last, now))
        }
        (Some(false), None, _) if row.agent.pod.is_none() => "no agent runs on it".to_owned(),
        (Some(false), None, _) => format!("its agent has not started yet{trouble}"),
        (_, _, None) => format!("its agent has not reported yet{trouble}"),
        _ if row.agent.trouble.is_some() => {
            format!("the pod of its agent is {}", row.agent.trouble.as_deref().unwrap_or_default())
        }
        _ => return None,
    };
    Some(Finding::error(object, what, logs).see("agent-down").on(&row.name))
}

fn kubelet_is_silent(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "Unknown")
}

/// Agents of several versions.
fn versions(cluster: &Cluster, rows: &[Row]) -> Option<Finding> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for row in rows.iter().filter(|row| !row.version.is_empty()) {
        versions.entry(&row.version).or_default().push(&row.name);
    }
    if versions.len() < 2 {
        return None;
    }
    let told: Vec<String> =
        versions.iter().map(|(version, nodes)| format!("{version} on {}", named(nodes, NAMED))).collect();
    let what = format!("agents of {} versions run: {}", versions.len(), told.join("; "));
    let namespace = &cluster.manx_namespace;
    let cure = format!(
        "`kubectl -n {namespace} rollout status daemonset/manx-agent` says whether the roll-out goes on"
    );
    let going_on = cluster
        .daemonsets
        .iter()
        .filter_map(|set| set.status.as_ref())
        .any(|status| status.updated_number_scheduled.unwrap_or(0) < status.desired_number_scheduled);
    Some(match going_on {
        true => Finding { weight: crate::finding::Weight::Note, ..Finding::warning("agents", what, cure) },
        false => Finding::warning("agents", what, cure),
    })
}

fn conditions(network: &NodeNetwork) -> Vec<Finding> {
    let name = network.name_any();
    let listed = network.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let bad = listed.iter().filter(|condition| condition.status != "True");
    bad.map(|condition| {
        let what = format!("{} is {}: {}", condition.type_, condition.status, condition.message);
        let (cure, see) = cures::of_condition(&condition.type_, &condition.message);
        Finding::error(format!("node {name}"), what, cure).see(see).on(&name)
    })
    .collect()
}

/// Sessions that are down. Those with a node whose agent is away are its own trouble, told once; so are many of one node
/// with others, and the same trouble of a router on several nodes.
fn sessions(cluster: &Cluster, away: &BTreeSet<&str>, now: Timestamp) -> Vec<Finding> {
    let mut down: BTreeMap<(String, String), Vec<(&str, &Session)>> = BTreeMap::new();
    let mut lost: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut between = Vec::new();
    for network in &cluster.networks {
        let Some(node) = network.metadata.name.as_deref().filter(|name| !away.contains(name)) else {
            continue;
        };
        let sessions = network.status.iter().flat_map(|status| &status.sessions);
        for session in sessions.filter(|session| session.state != SessionState::Established) {
            let error = session.last_error.as_ref().map_or_else(String::new, SessionError::line);
            match session.peer.strip_prefix("node/") {
                Some(peer) if away.contains(peer) => lost.entry(peer).or_default().push(node),
                Some(peer) => between.push(Down { node, peer, session, error }),
                None => down.entry((session.peer.clone(), error)).or_default().push((node, session)),
            }
        }
    }
    let lost = lost.into_iter().map(|(peer, nodes)| {
        let what = format!(
            "{} have no session with it: its pods are reached for the time of graceful restart at most",
            named(&nodes, NAMED)
        );
        let cure = "bring its agent back, or drain the node";
        nodes.iter().fold(
            Finding::error(format!("node {peer}"), what, cure).see("agent-down").on(peer),
            |finding, node| finding.on(*node),
        )
    });
    let (together, alone) = mesh::split(between, now);
    for Down { node, session, error, .. } in alone {
        down.entry((session.peer.clone(), error)).or_default().push((node, session));
    }
    let down = down.into_iter().map(|((peer, error), on)| session(&peer, &error, &on, now));
    lost.chain(together).chain(down).collect()
}

fn session(peer: &str, error: &str, on: &[(&str, &Session)], now: Timestamp) -> Finding {
    let names: Vec<&str> = on.iter().map(|(name, _)| *name).collect();
    let word = if names.len() == 1 { "node" } else { "nodes" };
    let first = on[0].1;
    let address = first.address.map_or_else(String::new, |address| format!(" ({address})"));
    let oldest = on.iter().map(|(_, session)| session.since.0).min().unwrap_or(now);
    let why = if error.is_empty() { "no error was seen yet" } else { error };
    let what =
        format!("the session with {peer}{address} is {:?} since {}: {why}", first.state, since(oldest, now));
    let (cure, see) = cures::of_session(first);
    let finding = Finding::error(format!("{word} {}", named(&names, NAMED)), what, cure).see(see);
    let finding = names.iter().fold(finding, |finding, name| finding.on(*name));
    match peer.strip_prefix("node/") {
        Some(peer) => finding.on(peer),
        None => finding,
    }
}

fn pools(cluster: &Cluster) -> Vec<Finding> {
    if cluster.pools.is_empty() {
        let cure = "make one as deploy/examples/ippool.yaml is: docs/pools.md";
        return vec![
            Finding::error("pools", "there is none, so no pod can get an address", cure).see("node-notready"),
        ];
    }
    cluster.pools.iter().flat_map(pool).collect()
}

fn pool(pool: &IPPool) -> Vec<Finding> {
    let object = format!("pool {}", pool.name_any());
    let listed = pool.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let Some(ready) = condition(listed, "Ready") else {
        let what = "no controller has looked at it yet";
        return vec![Finding::warning(object, what, "see whether there is one").see("no-controller")];
    };
    let mut found = Vec::new();
    if ready.status != "True" {
        let what = &ready.message;
        let (cure, see) = cures::of_pool(&ready.reason);
        found.push(match ready.reason.as_str() {
            "Disabled" | "Terminating" => Finding::note(&object, what),
            "NoNode" => Finding::warning(&object, what, cure).see(see),
            _ => Finding::error(&object, what, cure).see(see),
        });
    }
    let full = is_true(listed, "NearlyFull") && ready.reason != "Exhausted";
    if let Some(full) = condition(listed, "NearlyFull").filter(|_| full) {
        let (cure, see) = cures::of_pool("Exhausted");
        found.push(Finding::warning(object, format!("it is nearly full: {}", full.message), cure).see(see));
    }
    found
}

/// Blocks of nodes that there are not, and of pools that there are not.
fn blocks(cluster: &Cluster) -> Vec<Finding> {
    let known: BTreeSet<String> = cluster
        .networks
        .iter()
        .map(|network| network.name_any())
        .chain(cluster.nodes.iter().map(|node| node.name_any()))
        .collect();
    let mut orphans: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for block in cluster.blocks.iter().filter(|block| !known.contains(&block.spec.node)) {
        orphans.entry(&block.spec.node).or_default().push(block.spec.cidr.to_string());
    }
    let gone = orphans.into_iter().map(|(node, cidrs)| {
        let names: Vec<&str> = cidrs.iter().map(String::as_str).collect();
        let what = format!("it is gone and still owns {}", named(&names, NAMED));
        let cure = "the controller returns its blocks five minutes after the node is gone (--node-grace)";
        Finding::warning(format!("node {node}"), what, cure).see("addresses-run-out").on(node)
    });
    let strays = cluster
        .blocks
        .iter()
        .filter(|block| !cluster.pools.iter().any(|pool| pool.name_any() == block.spec.pool));
    let strays = strays.map(|block| {
        let what = format!("its pool {} is not there", block.spec.pool);
        let cure =
            "make the pool again with the same cidr, or restart the pods that have addresses of the block";
        Finding::error(format!("block {}", block.spec.cidr), what, cure)
            .see("addresses-run-out")
            .on(&block.spec.node)
    });
    gone.chain(strays).collect()
}

/// Objects of BGP that are not accepted. What nodes cannot carry out is their condition Configured.
fn objects(cluster: &Cluster) -> Vec<Finding> {
    let peers = cluster
        .peers
        .iter()
        .map(|peer| ("BGPPeer", peer.name_any(), peer.status.as_ref().map(|status| &status.conditions)));
    let filters = cluster.filters.iter().map(|filter| {
        ("BGPFilter", filter.name_any(), filter.status.as_ref().map(|status| &status.conditions))
    });
    let configurations = cluster.configurations.iter().map(|one| {
        ("BGPConfiguration", one.name_any(), one.status.as_ref().map(|status| &status.conditions))
    });
    let all = peers.chain(filters).chain(configurations);
    all.filter_map(|(kind, name, conditions)| {
        let refused: &Condition = condition(conditions?, "Accepted").filter(|one| one.status != "True")?;
        let cure = "put right what it says, or what it refers to: docs/policy.md, docs/sessions.md";
        (refused.reason != "NotCarriedOut").then(|| {
            Finding::error(format!("{kind} {name}"), format!("it is not accepted: {}", refused.message), cure)
        })
    })
    .collect()
}
