//! A pod's addresses follow its name to another node and back, and are free once its claim is deleted.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use manx_tests::lab::runtime::Sandbox;
use manx_tests::lab::{Lab, Pod, cluster, netns, probe, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{CONVERGENCE, blocks, everyone_is_reached, lab_with_pods, our_routes, refusal};

/// The code of the specification for "try again later".
const TRY_AGAIN: u64 = 11;

/// The pod `db-0` as its StatefulSet makes it.
fn db(node: &str) -> Value {
    let mut pod = cluster::pod_object("default", "db-0", node);
    pod["metadata"]["annotations"] = json!({"manx.dev/sticky": "true"});
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db",
                                                 "uid": "5e7", "controller": true}]);
    pod
}

/// Starts `db-0` on `node` as its kubelet does: again and again while it is told to.
fn start_db(lab: &mut Lab, node: &str) -> Result<Pod> {
    let uid = lab.create_pod(&db(node))?;
    start_db_with(lab, node, &uid)
}

fn start_db_with(lab: &mut Lab, node: &str, uid: &str) -> Result<Pod> {
    let begin = Instant::now();
    let mut refusals = Vec::new();
    wait::until(&format!("db-0 starts on {node}"), CONVERGENCE, || {
        match lab.start_sandbox("db-0", node, uid, Value::Null) {
            Ok(_) => Ok(true),
            Err(error) => {
                let (code, text) = refusal::<Pod>(Err(error))?;
                ensure!(code == TRY_AGAIN, "{code} {text}");
                refusals.push(text);
                Ok(false)
            }
        }
    })
    .with_context(|| format!("{refusals:?}"))?;
    println!("db-0 started on {node} after {:?} and {} refusals", begin.elapsed(), refusals.len());
    Ok(lab.pod("db-0")?.clone())
}

/// The claim `db-0`, if there is one.
fn claim(lab: &Lab) -> Result<Option<Value>> {
    let claims = lab.objects("ipclaims")?;
    Ok(claims.into_iter().find(|claim| claim["metadata"]["name"] == "db-0"))
}

fn texts(list: &Value) -> BTreeSet<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Those of `addresses` to which `node` has a route of their own that leads to another node.
fn elsewhere(lab: &Lab, node: &str, addresses: &[IpAddr]) -> Result<usize> {
    let routes = our_routes(lab, node)?;
    let leads_away = |route: &&Value| route["dev"].as_str().is_none_or(|link| link == "eth0");
    let single = |route: &&Value| addresses.iter().any(|address| route["dst"] == address.to_string());
    Ok(routes.iter().filter(leads_away).filter(single).count())
}

/// Waits until exactly `nodes` and the router, if any node has them, have routes to each of `addresses` by itself.
fn host_routes_are_at(lab: &Lab, addresses: &[IpAddr], nodes: &[&str]) -> Result<()> {
    for node in lab.nodes() {
        let wanted = if nodes.contains(&node.as_str()) { addresses.len() } else { 0 };
        wait::until(&format!("{node} has {wanted} host routes"), CONVERGENCE, || {
            Ok(elsewhere(lab, &node, addresses)? == wanted)
        })
        .with_context(|| format!("{:?}", our_routes(lab, &node)))?;
    }
    let wanted = if nodes.is_empty() { 0 } else { addresses.len() };
    wait::until(&format!("the router has {wanted} host routes"), CONVERGENCE, || {
        let routes = lab.router().kernel_routes()?;
        Ok(routes
            .iter()
            .filter(|route| addresses.iter().any(|address| **route == address.to_string()))
            .count()
            == wanted)
    })
    .with_context(|| format!("{:?}", lab.router().kernel_routes()))
}

/// The scenario.
pub(crate) fn follows_its_name() -> Result<()> {
    let mut lab = lab_with_pods(3)?;
    let first = start_db(&mut lab, "node1")?;
    is_claimed(&lab, &first)?;
    host_routes_are_at(&lab, &first.addresses, &[])?;
    everyone_is_reached(&lab)?;

    let uid = refused_while_it_runs(&lab)?;
    lab.stop_sandbox("db-0")?;
    let moved = start_db_with(&mut lab, "node2", &uid)?;
    ensure!(moved.addresses == first.addresses, "{moved:?}, not {first:?}");
    is_claimed(&lab, &moved)?;
    host_routes_are_at(&lab, &first.addresses, &["node1", "node3"])?;
    everyone_is_reached(&lab)?;
    let asks = asks_for(&first);
    let (code, text) = refusal(lab.add_pod_that_asks("default", "thief", "node1", &asks))?;
    ensure!(code == 101 && text.contains("default/db-0"), "{code} {text}");

    lab.del_pod("db-0")?;
    let back = start_db(&mut lab, "node1")?;
    ensure!(back.addresses == first.addresses, "{back:?}, not {first:?}");
    host_routes_are_at(&lab, &first.addresses, &[])?;
    everyone_is_reached(&lab)?;

    lab.del_pod("db-0")?;
    wait::until("nobody holds the claim", CONVERGENCE, || {
        Ok(claim(&lab)?.is_some_and(|claim| claim["status"]["node"].is_null()))
    })?;
    lab.kubectl(&["delete", "ipclaim", "db-0", "--wait=false"])?;
    wait::until("the claim is gone", CONVERGENCE, || Ok(claim(&lab)?.is_none()))
        .with_context(|| format!("{:?}", claim(&lab)))?;
    let heir = lab.add_pod_that_asks("default", "heir", "node1", &asks)?;
    ensure!(heir.addresses == first.addresses, "{heir:?}, not {first:?}");
    everyone_is_reached(&lab)
}

/// What an address away from its block lives through: the agents of both nodes killed, the death of the node that has
/// it, then of the one that owns its block, then the deletion of its claim.
pub(crate) fn outlives_agents_and_nodes() -> Result<()> {
    let mut lab = lab_with_pods(3)?;
    let first = start_db(&mut lab, "node1")?;
    lab.del_pod("db-0")?;
    start_db(&mut lab, "node2")?;
    host_routes_are_at(&lab, &first.addresses, &["node1", "node3"])?;
    everyone_is_reached(&lab)?;
    agents_die_unnoticed(&lab, &["node2", "node1"])?;
    host_routes_are_at(&lab, &first.addresses, &["node1", "node3"])?;

    lab.remove_node("node2")?;
    let third = start_db(&mut lab, "node3")?;
    ensure!(third.addresses == first.addresses, "{third:?}, not {first:?}");
    is_claimed(&lab, &third)?;
    host_routes_are_at(&lab, &first.addresses, &["node1"])?;
    everyone_is_reached(&lab)?;

    let node = lab.add_node()?;
    lab.add_pod("late", &node)?;
    lab.remove_node("node1")?;
    wait::until("nobody owns the block", CONVERGENCE, || Ok(blocks(&lab, Some("node1"))?.is_empty()))?;
    everyone_is_reached(&lab)?;

    lab.kubectl(&["delete", "ipclaim", "db-0", "--wait=false"])?;
    let asks = asks_for(&first);
    let (code, text) = refusal(lab.add_pod_that_asks("default", "thief", &node, &asks))?;
    ensure!(text.contains("default/db-0"), "{code} {text}");
    everyone_is_reached(&lab)?;
    lab.del_pod("db-0")?;
    wait::until("the claim is gone", CONVERGENCE, || Ok(claim(&lab)?.is_none()))
        .with_context(|| format!("{:?}", claim(&lab)))?;
    // The node still takes the block for node1's, and asks anew at most every half minute.
    let mut heir = cluster::pod_object("default", "heir", &node);
    heir["metadata"]["annotations"] = asks;
    let uid = lab.create_pod(&heir)?;
    wait::until("a pod gets the addresses that are free now", Duration::from_secs(60), || {
        Ok(lab.start_sandbox("heir", &node, &uid, Value::Null)?.addresses == first.addresses)
    })?;
    everyone_is_reached(&lab)
}

fn asks_for(pod: &Pod) -> Value {
    let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
    json!({ "manx.dev/ipAddrs": addresses.join(",") })
}

/// Kills the agents of `nodes`, one after the other, and starts them again, while pings go to `db-0` from all sides.
fn agents_die_unnoticed(lab: &Lab, nodes: &[&str]) -> Result<()> {
    let db = lab.pod("db-0")?;
    let mut from = vec![lab.netns("outside")];
    from.extend(lab.pods().iter().filter(|pod| pod.name != db.name).map(|pod| pod.sandbox.netns.clone()));
    let mut streams = Vec::new();
    for netns in from {
        for address in &db.addresses {
            let log = lab.dir().join(format!("ping-{}", streams.len()));
            streams.push((netns.clone(), *address, probe::Stream::start(&netns, *address, &log)?));
        }
    }
    for node in nodes {
        lab.stop_agent(node, Signal::SIGKILL)?;
        wait::until("the router has lost a session", CONVERGENCE, || Ok(lab.router().established()? == 2))?;
        lab.start_agent(node)?;
        wait::until("the router has it back", CONVERGENCE, || Ok(lab.router().established()? == 3))?;
        // Stale routes are swept at the latest 10 s after the start: what they still carried would be lost now.
        std::thread::sleep(Duration::from_secs(12));
    }
    for (from, to, stream) in streams {
        let count = stream.stop()?;
        ensure!(count.sent > 500 && count.lost.is_empty(), "pings from {from} to {to}: {count:?}");
    }
    Ok(())
}

/// The claim says all of it.
fn is_claimed(lab: &Lab, pod: &Pod) -> Result<()> {
    let claim = claim(lab)?.context("there is no claim")?;
    let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
    let addresses: BTreeSet<&str> = addresses.iter().map(String::as_str).collect();
    let metadata = &claim["metadata"];
    ensure!(
        addresses.len() == 2
            && texts(&claim["spec"]["addresses"]) == addresses
            && texts(&claim["status"]["reserved"]) == addresses
            && claim["status"]["node"] == *pod.node
            && metadata["ownerReferences"][0]["name"] == "db"
            && texts(&metadata["finalizers"]).contains("manx.dev/addresses"),
        "{claim} of {pod:?}"
    );
    Ok(())
}

/// The StatefulSet puts `db-0` on node2 while its sandbox on node1 still runs: the UID of the new pod.
fn refused_while_it_runs(lab: &Lab) -> Result<String> {
    lab.kubectl(&["delete", "pod", "db-0", "--force", "--grace-period=0"])?;
    let uid = lab.create_pod(&db("node2"))?;
    let sandbox = Sandbox {
        container: format!("{}-early", lab.netns("db-0")),
        netns: lab.netns("pod-early"),
        namespace: "default".to_owned(),
        pod: "db-0".to_owned(),
        uid: uid.clone(),
        capabilities: Value::Null,
    };
    netns::add(&sandbox.netns)?;
    let runtime = lab.runtime("node2")?;
    let begin = Instant::now();
    let (code, text) = refusal(runtime.add(&sandbox))?;
    let took = begin.elapsed();
    runtime.del(&sandbox, None)?;
    netns::delete(&sandbox.netns)?;
    let named = text.starts_with("IPClaim default/db-0: node node1 still has its addresses");
    ensure!(code == TRY_AGAIN && named && took < Duration::from_secs(5), "{code} {text} after {took:?}");
    println!("refused after {took:?}: {text}");
    Ok(uid)
}
