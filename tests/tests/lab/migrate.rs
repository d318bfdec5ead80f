//! A cluster of Calico's becomes one of Manx's, node by node, while pings go through it.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manx_tests::lab::router::RouterKind;
use manx_tests::lab::{Lab, Pod, netns, probe, show, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{CONVERGENCE, lab};

/// Routes of the agents lie beneath those of BIRD until BIRD's are taken away.
const BENEATH: &str = "--route-metric=32";

/// The scenario.
pub(crate) fn from_calico() -> Result<()> {
    let mut lab = lab(2, RouterKind::Bird)?;
    lab.become_calicos()?;
    let a = lab.add_calico_pod("a", "node1")?;
    let a2 = lab.add_calico_pod("a2", "node1")?;
    let b = lab.add_calico_pod("b", "node2")?;
    show::until_reached(&lab, CONVERGENCE)?;
    let streams = streams(&lab, &[(&a, &b), (&b, &a), (&a2, &a)])?;

    dry_run(&lab)?;
    manxctl(&lab, &[])?;
    let again = manxctl(&lab, &[])?;
    ensure!(again.is_empty(), "a second run has nothing to do: {again}");
    // Until its node moves, Calico gives and takes as ever.
    let late = lab.add_calico_pod("late", "node1")?;

    move_node(&lab, "node1")?;
    show::until_reached(&lab, CONVERGENCE)?;
    ensure!(allocated(&lab, "node1")?.contains(&late.addresses[0].to_string()), "a late pod is known");
    let fresh = lab.add_pod("fresh", "node1")?;
    let taken: Vec<IpAddr> = [&a, &a2, &late].iter().flat_map(|pod| pod.addresses.clone()).collect();
    ensure!(
        fresh.addresses.iter().all(|address| !taken.contains(address)),
        "{:?} are taken",
        fresh.addresses
    );
    let inside = fresh.addresses.iter().all(|address| in_block_of_node1(*address));
    ensure!(inside, "{:?} are of the block that was taken over", fresh.addresses);
    show::until_reached(&lab, CONVERGENCE)?;

    let mut runtime = lab.runtime("node1")?;
    // The others of the chain are at a loss with a result that names no pod's interface.
    runtime.conflist["plugins"].as_array_mut().context("plugins")?.truncate(1);
    runtime.check(&a.sandbox, &a.result).context("CHECK of a pod that Calico started")?;
    let hidden = move_node_with_a_hidden_pod(&mut lab, "node2")?;
    show::until_reached(&lab, CONVERGENCE)?;
    ensure!(
        allocated(&lab, "node2")?.contains(&hidden.addresses[0].to_string()),
        "the hidden pod is known by now"
    );
    for stream in streams {
        let count = stream.stop()?;
        ensure!(count.sent > 300 && count.lost.is_empty(), "pings were lost: {count:?}");
    }
    ends_wholly(&mut lab, "late")?;
    let names: Vec<Value> =
        lab.objects("bgppeers")?.iter().map(|peer| peer["metadata"]["name"].clone()).collect();
    ensure!(
        names == [json!("tor-node1"), json!("tor-node2")],
        "no peer stands for a node any more: {names:?}"
    );
    show::until_reached(&lab, CONVERGENCE)
}

fn in_block_of_node1(address: IpAddr) -> bool {
    let text = address.to_string();
    text.starts_with("10.48.1.") || text.starts_with("fd00:10:48::1:")
}

fn streams(lab: &Lab, pairs: &[(&Pod, &Pod)]) -> Result<Vec<probe::Stream>> {
    let mut streams = Vec::new();
    for (from, to) in pairs {
        for address in &to.addresses {
            let log = lab.dir().join(format!("ping-{}", streams.len()));
            streams.push(probe::Stream::start(&from.sandbox.netns, *address, &log)?);
        }
    }
    Ok(streams)
}

fn dry_run(lab: &Lab) -> Result<()> {
    let output = lab.manxctl(&["migrate", "calico", "--dry-run"])?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "nothing is in the way: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(text.contains("would have created IPBlock 10.48.1.64/26 of node1 with 2 pods"), "{text}");
    ensure!(lab.objects("ippools")?.is_empty(), "a dry run writes nothing");
    set_strict_affinity(lab, false)?;
    let refused = lab.manxctl(&["migrate", "calico"])?;
    ensure!(refused.status.code() == Some(1), "Calico may still borrow: {refused:?}");
    ensure!(lab.objects("ippools")?.is_empty(), "what is in the way is found before anything is written");
    set_strict_affinity(lab, true)
}

/// Whether Calico may take addresses of other nodes' blocks.
fn set_strict_affinity(lab: &Lab, strict: bool) -> Result<()> {
    let patch = format!(r#"{{"spec":{{"strictAffinity":{strict}}}}}"#);
    lab.kubectl(&["patch", "ipamconfigs.crd.projectcalico.org", "default", "--type", "merge", "-p", &patch])
        .map(drop)
}

/// What it wrote.
fn manxctl(lab: &Lab, more: &[&str]) -> Result<String> {
    let output = lab.manxctl(&[&["migrate", "calico"], more].concat())?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "manxctl migrate calico {more:?}: {told}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What an operator does for each node.
fn move_node(lab: &Lab, node: &str) -> Result<()> {
    lab.stop_calico(node)?;
    manxctl(lab, &["--node", node])?;
    lab.start_agent_with(node, &[BENEATH])?;
    settle(lab, node)
}

/// The same where Calico's plugin started one more pod behind the operator's back, until he says so.
fn move_node_with_a_hidden_pod(lab: &mut Lab, node: &str) -> Result<Pod> {
    lab.stop_calico(node)?;
    manxctl(lab, &["--node", node])?;
    let hidden = lab.add_calico_pod("hidden", node)?;
    lab.start_agent_with(node, &[BENEATH])?;
    let link = hidden.result["interfaces"][0]["name"].as_str().context("a link")?.to_owned();
    let alias = |lab: &Lab| netns::text(&lab.netns(node), &["ip", "-d", "link", "show", &link]);
    wait::until("its link is held", CONVERGENCE, || Ok(alias(lab)?.contains("manx:?:")))?;
    let fresh = lab.add_pod("beside", node)?;
    let given = fresh.addresses.iter().any(|address| hidden.addresses.contains(address));
    ensure!(!given, "an address that somebody has was given again: {:?}", fresh.addresses);
    ensure!(waiting(lab, node)? > 0, "somebody may yet say whose it is");
    lab.stop_agent(node, Signal::SIGKILL)?;
    lab.start_agent_with(node, &[BENEATH])?;
    ensure!(waiting(lab, node)? > 0 && alias(lab)?.contains("manx:?:"), "a restart does not lose it");
    manxctl(lab, &["--node", node])?;
    settle(lab, node)?;
    ensure!(
        alias(lab)?.contains(&format!("manx:{}:eth0", hidden.sandbox.container)),
        "the link has its name"
    );
    Ok(hidden)
}

fn settle(lab: &Lab, node: &str) -> Result<()> {
    wait::until("the node's blocks are its own", CONVERGENCE, || Ok(waiting(lab, node)? == 0))?;
    wait::until("the router has its session", CONVERGENCE, || Ok(lab.router().established()? == 2))?;
    wait::until("the node has every route that BIRD left", CONVERGENCE, || routes_are_there(lab, node))?;
    manxctl(lab, &[])?;
    for family in ["-4", "-6"] {
        netns::ip(&["-n", &lab.netns(node), family, "route", "flush", "proto", "bird"])?;
    }
    Ok(())
}

/// Blocks of a node whose pods it has not taken over.
fn waiting(lab: &Lab, node: &str) -> Result<usize> {
    let blocks = lab.objects("ipblocks")?;
    let of_node = blocks.iter().filter(|block| block["spec"]["node"] == node);
    Ok(of_node.filter(|block| !block["status"]["handedOverBy"].is_null()).count())
}

fn routes_are_there(lab: &Lab, node: &str) -> Result<bool> {
    let mut destinations = [Vec::new(), Vec::new()];
    for family in ["-4", "-6"] {
        for (found, protocol) in destinations.iter_mut().zip(["bird", "179"]) {
            let routes =
                netns::json(&lab.netns(node), &["ip", "-j", family, "route", "show", "proto", protocol])?;
            let all = routes.as_array().cloned().unwrap_or_default();
            found.extend(all.into_iter().filter_map(|route| route["dst"].as_str().map(str::to_owned)));
        }
    }
    let [birds, ours] = destinations;
    let inside = |network: &&String| network.starts_with("10.48.") || network.starts_with("fd00:10:48:");
    Ok(birds.iter().filter(inside).all(|network| ours.contains(network)))
}

/// Addresses that are in use, by the blocks of a node.
fn allocated(lab: &Lab, node: &str) -> Result<Vec<String>> {
    let blocks = lab.objects("ipblocks")?;
    let of_node = blocks.iter().filter(|block| block["spec"]["node"] == node);
    let lists = of_node.filter_map(|block| block["status"]["allocations"].as_array());
    Ok(lists.flatten().filter_map(|one| one["address"].as_str().map(str::to_owned)).collect())
}

/// A pod that Calico started ends by our plugin and leaves nothing.
fn ends_wholly(lab: &mut Lab, name: &str) -> Result<()> {
    let pod = lab.pod(name)?.clone();
    lab.stop_sandbox(name)?;
    let node = lab.netns(&pod.node);
    let links = netns::text(&node, &["ip", "-o", "link", "show"])?;
    let link = pod.result["interfaces"][0]["name"].as_str().context("a link")?;
    wait::until("its link is gone", CONVERGENCE, || {
        Ok(!netns::text(&node, &["ip", "-o", "link", "show"])?.contains(link))
    })
    .with_context(|| links)?;
    for address in &pod.addresses {
        let routes = netns::text(&node, &["ip", "route", "show", "table", "all", &address.to_string()])?;
        ensure!(routes.is_empty(), "{routes}");
    }
    wait::until("its addresses are free", Duration::from_secs(30), || {
        let allocated = allocated(lab, &pod.node)?;
        Ok(pod.addresses.iter().all(|address| !allocated.contains(&address.to_string())))
    })
}
