//! Nodes that are drained, deleted, switched off and booted again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use manx_tests::kubernetes::{Cluster, Family, LivingPod, Node};
use manx_tests::lab::{netns, probe, wait};
use serde_json::{Value, json};

use super::flows::Flows;
use super::{Scenario, shared};

/// The scenarios of this module.
pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("a_node_is_drained_deleted_and_comes_back_under_its_name", drained),
    ("rebooted_nodes_get_their_pods_back_one_and_two_at_once", rebooted),
    ("the_routes_of_a_node_without_power_are_withdrawn_in_time", switched_off),
];

/// How long a step may take: kubelets try again after some seconds, and this machine has other work.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A DaemonSet or Deployment of pods that only exist; `spec` is put over that of its template.
pub(crate) fn workload(kind: &str, name: &str, replicas: Option<usize>, spec: Value) -> Value {
    let mut pod = json!({"terminationGracePeriodSeconds": 0,
                         "containers": [{"name": "main", "image": "registry.k8s.io/pause:3.10"}]});
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod[key] = value.clone();
    }
    let mut object = json!({"apiVersion": "apps/v1", "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": name}},
                 "template": {"metadata": {"labels": {"app": name}}, "spec": pod}}});
    if let Some(replicas) = replicas {
        object["spec"]["replicas"] = replicas.into();
    }
    object
}

/// A pod on every node, by a DaemonSet called `name`, and its pods once all run.
pub(crate) fn pod_on_every_node(cluster: &Cluster, name: &str) -> Result<Vec<LivingPod>> {
    cluster.apply(&workload("DaemonSet", name, None, json!({})).to_string())?;
    wait_pods(cluster, name, cluster.nodes().len())
}

/// Waits until exactly `count` pods whose name begins with `prefix` run, and returns them.
pub(crate) fn wait_pods(cluster: &Cluster, prefix: &str, count: usize) -> Result<Vec<LivingPod>> {
    let mut found = Vec::new();
    wait::until(&format!("{count} pods {prefix} run"), PATIENCE, || {
        found = cluster.running_pods()?;
        found.retain(|pod| pod.name.starts_with(&format!("default/{prefix}-")));
        Ok(found.len() == count && found.iter().all(|pod| !pod.addresses.is_empty()))
    })
    .with_context(|| format!("{found:?}"))?;
    Ok(found)
}

/// Deletes what [`workload`] made and waits until its pods are gone.
pub(crate) fn delete(cluster: &Cluster, kind: &str, name: &str) -> Result<()> {
    cluster.kubectl(&["delete", kind, name, "--timeout=60s"])?;
    wait::until(&format!("no pod of {name} is left"), PATIENCE, || {
        Ok(cluster.kubectl(&["get", "pods", "-l", &format!("app={name}"), "-o", "name"])?.trim().is_empty())
    })
}

/// One echo request from a pod.
fn ping(cluster: &Cluster, from: &LivingPod, to: IpAddr) -> Result<bool> {
    let mut command = cluster.pod_command(&from.name, "ping")?;
    let output = command.args(["-n", "-c", "1", "-W", "1", &to.to_string()]).output()?;
    Ok(output.status.success())
}

/// Waits until each of `pods` reaches each other one, and the host outside all of them.
pub(crate) fn reached(cluster: &Cluster, pods: &[LivingPod]) -> Result<()> {
    let outside = cluster.netns("outside");
    wait::until("every pod is reached from outside", PATIENCE, || {
        for address in pods.iter().flat_map(|pod| &pod.addresses) {
            if probe::ping(&outside, *address)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    reached_inside(cluster, pods)
}

/// Waits until each of `pods` reaches each other one.
pub(crate) fn reached_inside(cluster: &Cluster, pods: &[LivingPod]) -> Result<()> {
    let targets: Vec<(usize, IpAddr)> =
        pods.iter().enumerate().flat_map(|(at, pod)| pod.addresses.iter().map(move |a| (at, *a))).collect();
    let mut ways: Vec<(&LivingPod, IpAddr)> = Vec::new();
    for (at, from) in pods.iter().enumerate() {
        ways.extend(targets.iter().filter(|(of, _)| *of != at).map(|(_, to)| (from, *to)));
    }
    wait::until("every pod is reached", PATIENCE, || {
        let mut closed = Vec::new();
        for (from, to) in &ways {
            if !ping(cluster, from, *to)? {
                closed.push((*from, *to));
            }
        }
        ways = closed;
        Ok(ways.is_empty())
    })
    .context("a way between pods is closed")
}

/// The blocks by network, with their nodes.
pub(crate) fn blocks(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let blocks = cluster.objects("ipblocks.manx.dev")?;
    Ok(blocks.iter().map(|block| (text(&block["spec"]["cidr"]), text(&block["spec"]["node"]))).collect())
}

fn blocks_of(cluster: &Cluster, node: &str) -> Result<BTreeSet<String>> {
    Ok(blocks(cluster)?.into_iter().filter(|(_, owner)| owner == node).map(|(cidr, _)| cidr).collect())
}

/// Destinations of our routes on a node: those that lead away, and those into pods.
fn routes(node: &Node<'_>) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let (mut away, mut pods) = (BTreeSet::new(), BTreeSet::new());
    for family in ["-4", "-6"] {
        let found = netns::json(&node.netns(), &["ip", "-j", family, "route", "show", "proto", "179"])?;
        for route in found.as_array().into_iter().flatten() {
            let destination = route["dst"].as_str().unwrap_or_default().to_owned();
            match route["dev"].as_str() {
                // Our own block: what is no pod goes nowhere.
                _ if route["type"].is_string() && route["type"] != "unicast" => {}
                // By the number of a next hop, which leads to another node.
                Some("eth0") | None => drop(away.insert(destination)),
                Some(_) => drop(pods.insert(destination)),
            }
        }
    }
    Ok((away, pods))
}

/// Waits until all is as it has to be: no address has two pods, every block has one living owner, every node has routes
/// to exactly its own pods and to exactly the blocks of others, the router to all blocks, and the blocks count as many
/// addresses in use as pods have.
pub(crate) fn consistent(cluster: &Cluster) -> Result<()> {
    wait::until("addresses, blocks and routes agree", PATIENCE, || {
        let pods = cluster.running_pods()?;
        let mut addresses = BTreeSet::new();
        for address in pods.iter().flat_map(|pod| &pod.addresses) {
            ensure!(addresses.insert(*address), "{address} has two pods: {pods:?}");
        }
        let blocks = blocks(cluster)?;
        let names: BTreeSet<String> = cluster.nodes().iter().map(Node::name).collect();
        ensure!(blocks.values().all(|owner| names.contains(owner)), "a block of no node: {blocks:?}");
        for node in cluster.nodes() {
            let (away, local) = routes(&node)?;
            let others = blocks.iter().filter(|(_, owner)| **owner != node.name());
            let others: BTreeSet<String> = others.map(|(cidr, _)| cidr.clone()).collect();
            ensure!(away == others, "{} has routes to {away:?}, the others have {others:?}", node.name());
            let own = pods.iter().filter(|pod| pod.node == node.name());
            let own: BTreeSet<String> = own.flat_map(|pod| &pod.addresses).map(ToString::to_string).collect();
            ensure!(local == own, "{} has pods {local:?} by its routes, and {own:?}", node.name());
        }
        let router: BTreeSet<String> = cluster.router().kernel_routes()?.into_iter().collect();
        let all: BTreeSet<String> = blocks.keys().cloned().collect();
        ensure!(
            router == all || cluster.router().established()? == 0,
            "the router has {router:?}, not {all:?}"
        );
        let used: u64 = cluster
            .objects("ipblocks.manx.dev")?
            .iter()
            .map(|block| block["status"]["used"].as_u64().unwrap_or(0))
            .sum();
        ensure!(
            used == u64::try_from(addresses.len())?,
            "{used} addresses are in use, pods have {addresses:?}"
        );
        Ok(true)
    })
}

/// Deletes the agent's pod on `node`.
pub(crate) fn delete_agent(cluster: &Cluster, node: &str) -> Result<()> {
    cluster
        .kubectl(&[
            "-n",
            "manx-system",
            "delete",
            "pod",
            "-l",
            "app.kubernetes.io/name=manx-agent",
            "--field-selector",
            &format!("spec.nodeName={node}"),
        ])
        .map(drop)
}

/// Waits until every agent is ready.
pub(crate) fn wait_agents(cluster: &Cluster) -> Result<()> {
    cluster.wait_rollout(&["-n", "manx-system", "daemonset/manx-agent"])
}

/// Lets the controller take a node for gone after a few seconds for as long as `body` takes.
pub(crate) fn with_short_grace(cluster: &Cluster, body: impl FnOnce() -> Result<()>) -> Result<()> {
    let path = "/spec/template/spec/containers/0/args/-";
    let patch = json!([{"op": "add", "path": path, "value": "--node-grace=8s"}]).to_string();
    let controller = ["-n", "manx-system", "deployment/manx-controller"];
    let rolled = || cluster.wait_rollout(&controller);
    cluster.kubectl(&[
        "-n",
        "manx-system",
        "patch",
        "deployment",
        "manx-controller",
        "--type=json",
        "-p",
        &patch,
    ])?;
    rolled()?;
    let outcome = body();
    cluster.kubectl(&["-n", "manx-system", "rollout", "undo", "deployment/manx-controller"])?;
    rolled()?;
    outcome
}

/// Waits until nothing of a deleted node is left in the API, and no route to it anywhere.
pub(crate) fn wait_forgotten(cluster: &Cluster, name: &str) -> Result<()> {
    wait::until("its NodeNetwork is gone", PATIENCE, || {
        Ok(cluster.objects("nodenetworks.manx.dev")?.iter().all(|it| it["metadata"]["name"] != name))
    })?;
    wait::until("its blocks are free", PATIENCE, || Ok(blocks_of(cluster, name)?.is_empty()))?;
    wait::until("its claims are held by nobody", PATIENCE, || {
        Ok(cluster.objects("ipclaims.manx.dev")?.iter().all(|it| it["status"]["node"] != name))
    })?;
    wait::until("its agent's Lease is gone", PATIENCE, || {
        let lease = format!("manx-agent-{name}");
        Ok(cluster.objects("leases")?.iter().all(|it| it["metadata"]["name"] != lease.as_str()))
    })
}

fn last(cluster: &Cluster) -> Result<Node<'_>> {
    cluster.nodes().pop().context("a cluster without nodes")
}

fn drained() -> Result<()> {
    let cluster = shared()?;
    let node = last(&cluster)?;
    let name = node.name();
    let far = pod_on_every_node(&cluster, "far")?;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
                        "metadata": {"name": "web", "namespace": "default"},
                        "spec": {"minAvailable": 5, "selector": {"matchLabels": {"app": "web"}}}});
    cluster.apply(&workload("Deployment", "web", Some(6), json!({})).to_string())?;
    cluster.apply(&budget.to_string())?;
    wait_pods(&cluster, "web", 6)?;
    let staying: Vec<LivingPod> = far.iter().filter(|pod| pod.node != name).cloned().collect();
    let flows = Flows::around(&cluster, &staying)?;
    cluster.kubectl(&["drain", &name, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=90s"])?;
    let web = wait_pods(&cluster, "web", 6)?;
    ensure!(web.iter().all(|pod| pod.node != name), "{name} was drained and has {web:?}");
    consistent(&cluster)?;

    with_short_grace(&cluster, || {
        node.power_off()?;
        cluster.kubectl(&["delete", "node", &name])?;
        wait_forgotten(&cluster, &name)
    })?;
    node.restart()?;
    cluster.wait_ready()?;
    wait_agents(&cluster)?;
    flows.none_lost()?;
    let far = wait_pods(&cluster, "far", cluster.nodes().len())?;
    reached(&cluster, &far)?;
    consistent(&cluster)?;
    delete(&cluster, "deployment", "web")?;
    cluster.kubectl(&["delete", "pdb", "web"])?;
    delete(&cluster, "daemonset", "far")?;
    consistent(&cluster)
}

/// The blocks that `nodes` had before they are still theirs, unless they gave one back.
fn rebooted() -> Result<()> {
    let cluster = shared()?;
    let before = pod_on_every_node(&cluster, "far")?;
    let count = cluster.nodes().len();
    let owners = blocks(&cluster)?;
    for numbers in [vec![count], vec![count - 1, count]] {
        let begin = Instant::now();
        let staying: Vec<LivingPod> = before
            .iter()
            .filter(|pod| numbers.iter().all(|n| pod.node != format!("node{n}")))
            .cloned()
            .collect();
        let flows = if staying.len() > 1 { Some(Flows::around(&cluster, &staying)?) } else { None };
        numbers.iter().try_for_each(|number| cluster.node(*number).power_off())?;
        numbers.iter().try_for_each(|number| cluster.node(*number).restart())?;
        come_back(&cluster, &numbers)?;
        if let Some(flows) = flows {
            flows.none_lost()?;
        }
        let after = wait_pods(&cluster, "far", count)?;
        reached(&cluster, &after)?;
        consistent(&cluster)?;
        println!("{} rebooted, all is back after {:.1} s", numbers.len(), begin.elapsed().as_secs_f32());
    }
    deleted_while_off(&cluster, count)?;
    let now = blocks(&cluster)?;
    ensure!(owners.iter().all(|(block, owner)| now.get(block) == Some(owner)), "{owners:?} became {now:?}");
    delete(&cluster, "daemonset", "far")?;
    consistent(&cluster)
}

/// Waits until the agents and the other pods of nodes that booted run in containers of after that.
fn come_back(cluster: &Cluster, numbers: &[usize]) -> Result<()> {
    for number in numbers {
        let node = cluster.node(*number);
        wait::until(&format!("the pods of {} run again", node.name()), PATIENCE, || {
            let (_, local) = routes(&node)?;
            let pods = cluster.running_pods()?;
            let own = pods.iter().filter(|pod| pod.node == node.name());
            let own: BTreeSet<String> = own.flat_map(|pod| &pod.addresses).map(ToString::to_string).collect();
            Ok(!own.is_empty() && own == local)
        })?;
    }
    cluster.wait_ready()?;
    wait_agents(cluster)
}

/// The Node of a machine that is off is deleted; it boots within the grace and is the same to the others.
fn deleted_while_off(cluster: &Cluster, number: usize) -> Result<()> {
    let node = cluster.node(number);
    let own = blocks_of(cluster, &node.name())?;
    node.power_off()?;
    cluster.kubectl(&["delete", "node", &node.name()])?;
    node.restart()?;
    wait_pods(cluster, "far", cluster.nodes().len())?;
    come_back(cluster, &[number])?;
    let now = blocks_of(cluster, &node.name())?;
    ensure!(own.is_subset(&now), "{} had {own:?}, and has {now:?}", node.name());
    consistent(cluster)
}

/// With the hold time and restart time of nodes that are to be missed soon.
fn switched_off() -> Result<()> {
    let cluster = shared()?;
    let node = last(&cluster)?;
    let far = pod_on_every_node(&cluster, "far")?;
    let own = blocks_of(&cluster, &node.name())?;
    ensure!(!own.is_empty(), "{} has no block", node.name());
    let was = cluster.object("bgpconfiguration", "default")?["spec"].clone();
    let quick = json!({"spec": {"holdTimeSeconds": 9, "gracefulRestart": {"enabled": true, "restartTimeSeconds": 5}}});
    let patch = |spec: &Value| {
        cluster.kubectl(&["patch", "bgpconfiguration", "default", "--type=merge", "-p", &spec.to_string()])
    };
    patch(&quick)?;
    sessions_negotiated(&cluster, 9)?;
    let begin = Instant::now();
    node.power_off()?;
    let mut left = BTreeSet::new();
    wait::until("no node has a route to what is off", Duration::from_secs(40), || {
        left.clear();
        for other in cluster.nodes().into_iter().filter(|other| other.name() != node.name()) {
            let (away, _) = routes(&other)?;
            left.extend(away.intersection(&own).map(|block| (other.name(), block.clone())));
        }
        Ok(left.is_empty())
    })
    .with_context(|| format!("{left:?}"))?;
    println!("the nodes withdrew the routes {:.1} s after the power went", begin.elapsed().as_secs_f32());
    node.restart()?;
    come_back(&cluster, &[cluster.nodes().len()])?;
    let far = wait_pods(&cluster, "far", far.len())?;
    reached(&cluster, &far)?;
    let mut undo = json!({"spec": {"holdTimeSeconds": null, "gracefulRestart": null}});
    for (key, value) in was.as_object().into_iter().flatten() {
        undo["spec"][key] = value.clone();
    }
    patch(&undo)?;
    delete(&cluster, "daemonset", "far")?;
    ensure!(node.address(Family::Ipv4).is_ipv4());
    consistent(&cluster)
}

/// Waits until every session between nodes is up with this hold time.
fn sessions_negotiated(cluster: &Cluster, hold: u64) -> Result<()> {
    wait::until(&format!("every session has a hold time of {hold} s"), PATIENCE, || {
        let networks = cluster.objects("nodenetworks.manx.dev")?;
        let sessions =
            networks.iter().flat_map(|it| it["status"]["sessions"].as_array().into_iter().flatten());
        let waiting: Vec<_> = sessions
            .filter(|session| session["state"] != "Established" || session["holdTimeSeconds"] != hold)
            .collect();
        Ok(waiting.is_empty())
    })
}
