//! What `cargo xtask lab` shows: the tables an operator would ask for, and the proofs, each ending in `ok` or not.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::capture::{Capture, Packet};
use super::probe::{self, Hops, Path};
use super::{Lab, cluster, netns, wait};

/// Routers between two pods on different nodes: the one node, the router, the other node.
const HOPS_ACROSS: u8 = 3;
/// Routers between two pods on one node: the node.
const HOPS_WITHIN: u8 = 1;
/// Routers between a pod and the host outside: the node and the router.
const HOPS_OUTSIDE: u8 = 2;

/// Shows what it saw, or says why the claim does not hold.
type Proof = fn(&Lab) -> Result<String>;

/// Everything, in the order of a packet's life; returns the number of proofs that failed.
pub fn all(lab: &Lab) -> Result<usize> {
    status(lab)?;
    let proofs: [(&str, Proof); 5] = [
        ("every pod reaches every pod, both families", pods_reach_pods),
        ("the outside reaches every pod, both families", outside_reaches_pods),
        ("no packet is encapsulated or translated between pods", nothing_is_wrapped),
        ("no node has a bridge or a tunnel", no_bridge_no_tunnel),
        ("natOutgoing: IPv4 leaves with the node's address, IPv6 with the pod's own", nat_outgoing),
    ];
    let mut failed = 0;
    for (name, proof) in proofs {
        println!("\n== {name}");
        match proof(lab) {
            Ok(text) => println!("{text}ok: {name}"),
            Err(error) => {
                failed += 1;
                println!("FAILED: {name}: {error:#}");
            }
        }
    }
    println!("\n{} of {} proofs hold", proofs.len() - failed, proofs.len());
    Ok(failed)
}

/// The tables: pools, blocks, nodes, peers, sessions and routes of the router, kernel routes of a node.
pub fn status(lab: &Lab) -> Result<()> {
    wait::until("every session of the router is up", Duration::from_secs(30), || {
        Ok(lab.router().established()? == lab.nodes().len())
    })?;
    until_reached(lab, Duration::from_secs(30))?;
    for kind in ["ippools", "ipblocks", "nodenetworks", "bgppeers", "nodes", "pods"] {
        println!("\n$ kubectl get {kind}");
        print!("{}", lab.kubectl(&["get", kind])?);
    }
    println!("\n== the router's sessions and routes\n{}", lab.router().show()?);
    for node in lab.nodes().iter().take(1) {
        for family in ["-4", "-6"] {
            println!("\n$ ip {family} route show proto 179   (on {node})");
            print!("{}", netns::text(&lab.netns(node), &["ip", family, "route", "show", "proto", "179"])?);
        }
    }
    Ok(())
}

/// The ways from every pod to every other pod.
pub fn pod_paths(lab: &Lab) -> Vec<Path> {
    let mut paths = Vec::new();
    for from in lab.pods() {
        for to in lab.pods().iter().filter(|to| to.name != from.name) {
            let spoken =
                |address: &&IpAddr| from.addresses.iter().any(|own| own.is_ipv4() == address.is_ipv4());
            for address in to.addresses.iter().filter(spoken) {
                paths.push(Path {
                    from: from.name.clone(),
                    netns: from.sandbox.netns.clone(),
                    to: to.name.clone(),
                    address: *address,
                });
            }
        }
    }
    paths
}

/// The ways from the host outside to every pod.
pub fn outside_paths(lab: &Lab) -> Vec<Path> {
    let mut paths = Vec::new();
    for pod in lab.pods() {
        for address in &pod.addresses {
            let netns = lab.netns("outside");
            paths.push(Path { from: "outside".to_owned(), netns, to: pod.name.clone(), address: *address });
        }
    }
    paths
}

/// Waits until each pod reaches each other pod and the outside reaches all of them, on both families.
///
/// # Errors
/// Names the ways that are still closed after `limit`, or one that closed again meanwhile.
pub fn until_reached(lab: &Lab, limit: Duration) -> Result<()> {
    let mut paths = pod_paths(lab);
    paths.extend(outside_paths(lab));
    let mut missing = paths.clone();
    let outcome = wait::until("every pod is reached", limit, || {
        let hops = probe::matrix(&missing)?;
        let mut answers = hops.iter();
        missing.retain(|_| answers.next().is_some_and(Option::is_none));
        Ok(missing.is_empty())
    });
    outcome.with_context(|| format!("not reached: {missing:?}"))?;
    ensure!(probe::matrix(&paths)?.iter().all(Option::is_some), "a pod that was reached is no longer");
    Ok(())
}

fn pods_reach_pods(lab: &Lab) -> Result<String> {
    let paths = pod_paths(lab);
    let hops = probe::matrix(&paths)?;
    let expected = |path: &Path| -> Result<u8> {
        let same = lab.pod(&path.from)?.node == lab.pod(&path.to)?.node;
        Ok(if same { HOPS_WITHIN } else { HOPS_ACROSS })
    };
    let text = table(&paths, &hops);
    for (path, hops) in paths.iter().zip(&hops) {
        let expected = expected(path)?;
        ensure!(
            *hops == Some(expected),
            "{} to {} ({}): {hops:?} hops, not {expected}\n{text}",
            path.from,
            path.to,
            path.address
        );
    }
    Ok(text)
}

fn outside_reaches_pods(lab: &Lab) -> Result<String> {
    let paths = outside_paths(lab);
    let hops = probe::matrix(&paths)?;
    let text = table(&paths, &hops);
    ensure!(hops.iter().all(|hops| *hops == Some(HOPS_OUTSIDE)), "not every pod answers\n{text}");
    Ok(text)
}

/// A matrix per family: rows are where the ping starts, columns where it goes, cells the routers crossed.
fn table(paths: &[Path], hops: &[Hops]) -> String {
    let mut text = String::new();
    for (family, v6) in [("IPv4", false), ("IPv6", true)] {
        let of_family: Vec<(&Path, &Hops)> =
            paths.iter().zip(hops).filter(|(path, _)| path.address.is_ipv6() == v6).collect();
        let rows: BTreeSet<&str> = of_family.iter().map(|(path, _)| path.from.as_str()).collect();
        let columns: BTreeSet<&str> = of_family.iter().map(|(path, _)| path.to.as_str()).collect();
        let _ = write!(text, "{family:<10}");
        for column in &columns {
            let _ = write!(text, "{column:>9}");
        }
        text.push('\n');
        for row in rows {
            let _ = write!(text, "{row:<10}");
            for column in &columns {
                let cell = of_family.iter().find(|(path, _)| path.from == row && path.to == *column);
                let cell = match cell {
                    None => "-".to_owned(),
                    Some((_, None)) => "LOST".to_owned(),
                    Some((_, Some(hops))) => hops.to_string(),
                };
                let _ = write!(text, "{cell:>9}");
            }
            text.push('\n');
        }
    }
    text
}

/// Pings every pair across nodes while the router captures, and looks at each packet it forwarded.
fn nothing_is_wrapped(lab: &Lab) -> Result<String> {
    let paths: Vec<Path> = pod_paths(lab).into_iter().filter(|path| across(lab, path)).collect();
    ensure!(!paths.is_empty(), "no two pods are on different nodes");
    let capture = Capture::start(&lab.netns("tor"), &lab.dir().join("pods.pcap"))?;
    let hops = probe::matrix(&paths)?;
    let packets = capture.finish(cluster::API_HOST)?;
    ensure!(hops.iter().all(Option::is_some), "a ping was lost while capturing");
    let wrapped: Vec<&Packet> = packets.iter().filter(|packet| packet.is_encapsulated()).collect();
    ensure!(wrapped.is_empty(), "encapsulated packets at the router: {wrapped:?}");
    for path in &paths {
        let source = lab.pod(&path.from)?.addresses.iter().find(|a| a.is_ipv6() == path.address.is_ipv6());
        let (Some(source), target) = (source, path.address) else { continue };
        for (from, to) in [(*source, target), (target, *source)] {
            let seen = |outgoing, ttl| {
                packets.iter().any(|p| {
                    p.source == from && p.destination == to && p.outgoing == outgoing && p.ttl == ttl
                })
            };
            ensure!(
                seen(false, 63) && seen(true, 62),
                "{from} to {to} did not pass the router as it was sent"
            );
        }
    }
    Ok(format!(
        "{} packets at the router, {} pairs: each entered with the pods' own addresses and TTL 63, left with the same\n\
         addresses and TTL 62; none was IPIP, GRE, ESP, VXLAN, Geneve or WireGuard\n",
        packets.len(),
        paths.len()
    ))
}

fn across(lab: &Lab, path: &Path) -> bool {
    match (lab.pod(&path.from), lab.pod(&path.to)) {
        (Ok(from), Ok(to)) => from.node != to.node,
        _ => false,
    }
}

fn no_bridge_no_tunnel(lab: &Lab) -> Result<String> {
    let mut text = String::new();
    for node in lab.nodes() {
        let links = netns::json(&lab.netns(&node), &["ip", "-d", "-j", "link", "show"])?;
        let mut kinds = BTreeSet::new();
        for link in links.as_array().into_iter().flatten() {
            kinds.insert(link["linkinfo"]["info_kind"].as_str().unwrap_or("loopback").to_owned());
        }
        let _ = writeln!(
            text,
            "{node}: kinds of links: {}",
            kinds.iter().cloned().collect::<Vec<_>>().join(", ")
        );
        let allowed = |kind: &String| kind == "veth" || kind == "loopback";
        ensure!(kinds.iter().all(allowed), "{node} has links of the kinds {kinds:?}");
    }
    Ok(text)
}

/// Pings the host outside from a pod and looks at the source address that the router sees.
fn nat_outgoing(lab: &Lab) -> Result<String> {
    let Some(pod) = lab.pods().first() else { anyhow::bail!("the lab has no pod") };
    let capture = Capture::start(&lab.netns("tor"), &lab.dir().join("outgoing.pcap"))?;
    let mut text = String::new();
    for target in lab.outside_addresses() {
        ensure!(probe::ping(&pod.sandbox.netns, target)?.is_some(), "{} does not reach {target}", pod.name);
    }
    let packets = capture.finish(cluster::API_HOST)?;
    let [node4, _] = lab.node_addresses(&pod.node)?;
    let own6 = pod.addresses.iter().copied().find(IpAddr::is_ipv6);
    for (target, expected) in lab.outside_addresses().into_iter().zip([Some(node4), own6]) {
        let sources: BTreeSet<IpAddr> = packets
            .iter()
            .filter(|packet| packet.destination == target)
            .map(|packet| packet.source)
            .collect();
        let _ = writeln!(text, "{} ({:?}) to {target}: seen from {sources:?}", pod.name, pod.addresses);
        ensure!(
            sources.iter().copied().eq(expected),
            "{target} was reached from {sources:?}, not {expected:?}"
        );
    }
    Ok(text)
}
