//! A pod's addresses follow its name to another node and back, and are free once its claim is deleted.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use manx_tests::lab::runtime::Sandbox;
use manx_tests::lab::{Lab, Pod, cluster, netns, wait};
use serde_json::{Value, json};

use crate::{CONVERGENCE, everyone_is_reached, lab_with_pods, our_routes, refusal};

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
    let asks = first.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let asks = json!({ "manx.dev/ipAddrs": asks });
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
