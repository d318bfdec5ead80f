//! Whether a cluster has exactly what its living pods need: the API's pods, the runtime's sandboxes, the network's own
//! record and the kernel, one against the other.
//!
//! It looks with `ip`, `nft`, `conntrack` and `ctr`, not with the code under test, and names every difference.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use manx_ipam::{Endpoint, EndpointId, PodRef, recover};
use serde_json::Value;

use super::pods::LivingPod;
use super::{Cluster, Network, Node};
use crate::lab::{netns, wait};

/// How long what is still going on (pods that end, links on their way out) may take.
const SETTLING: Duration = Duration::from_secs(40);
/// Where host-local keeps what it gave.
const HOST_LOCAL: &str = "/var/lib/cni/networks/ptp";

/// What the kernel of a node shows, by `ip`.
struct Sight {
    links: Vec<Value>,
    routes: Vec<Value>,
    neighbours: Vec<Value>,
}

impl Cluster {
    /// What gives its pods their network.
    pub fn network(&self) -> Network {
        self.state.options.network
    }

    /// Every difference between what living pods need and what is there, in words; empty when all is as it should. What
    /// is still going on is a difference too: see [`Cluster::network_is_even`].
    pub fn audit_network(&self) -> Result<Vec<String>> {
        let pods = self.living_pods()?;
        let blocks = match self.network() {
            Network::Manx => self.objects("ipblocks.manx.dev")?,
            Network::Ptp => Vec::new(),
        };
        let mut found = held_twice(&pods);
        let nodes = std::thread::scope(|scope| {
            let (pods, blocks) = (&pods, &blocks);
            let threads: Vec<_> =
                self.nodes().into_iter().map(|node| scope.spawn(move || node.audit(pods, blocks))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("an audit panicked"))?)
                .collect::<Result<Vec<_>>>()
        })?;
        found.extend(nodes.into_iter().flatten());
        Ok(found)
    }

    /// Waits until [`Cluster::audit_network`] finds nothing: what is going on may end first.
    pub fn network_is_even(&self) -> Result<()> {
        let mut found = Vec::new();
        let outcome = wait::until("nothing is left of pods that are gone", SETTLING, || {
            found = self.audit_network()?;
            Ok(found.is_empty())
        });
        outcome.with_context(|| found.join("\n"))
    }
}

/// Addresses that two pods have, by the API.
fn held_twice(pods: &[LivingPod]) -> Vec<String> {
    let mut holders: BTreeMap<IpAddr, &str> = BTreeMap::new();
    let all = pods.iter().flat_map(|pod| pod.addresses.iter().map(move |address| (*address, &*pod.name)));
    all.filter_map(|(address, name)| {
        let other = holders.insert(address, name)?;
        Some(format!("{address} is held by {other} and by {name}"))
    })
    .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Lists the network namespaces of pods that have a link. Those without are the runtime's: one that is killed between
/// making a namespace and writing down its sandbox leaves it.
const LINKED: &str = "for n in $(ls /run/netns | grep ^cni-); do \
                      ip -n $n link show dev eth0 >/dev/null 2>&1 && echo $n; done; true";

/// What is in one of two sets alone, in words.
fn compare<T: Ord + std::fmt::Debug>(
    what: &str,
    (one, of_one): (&str, &BTreeSet<T>),
    (other, of_other): (&str, &BTreeSet<T>),
) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(of_one.difference(of_other).map(|x| format!("{what} {x:?}: {one} has it, {other} not")));
    found.extend(of_other.difference(of_one).map(|x| format!("{what} {x:?}: {other} has it, {one} not")));
    found
}

impl Node<'_> {
    fn audit(&self, pods: &[LivingPod], blocks: &[Value]) -> Result<Vec<String>> {
        let name = self.name();
        let pods: Vec<&LivingPod> = pods.iter().filter(|pod| pod.node == name).collect();
        let manx = self.cluster.network() == Network::Manx;
        let (endpoints, mut found) = if manx { self.record(blocks)? } else { self.host_local()? };
        found.extend(against_pods(&pods, &endpoints, manx));
        let sandboxes = self.sandboxes()?;
        let recorded: BTreeSet<String> = endpoints.iter().map(|one| one.id.container.clone()).collect();
        let living: BTreeSet<String> = recorded.intersection(&sandboxes).cloned().collect();
        found.extend(compare("sandbox", ("the record", &recorded), ("the runtime", &living)));
        let linked = self.run(&["sh", "-c", LINKED])?.lines().count();
        if linked != endpoints.len() {
            found.push(format!(
                "{linked} network namespaces with a pod's link, but {} records",
                endpoints.len()
            ));
        }
        let sight = self.sight()?;
        found.extend(sight.against(&endpoints, manx));
        if manx {
            found.extend(self.guards(&endpoints)?);
            found.extend(self.connections(&endpoints, blocks)?);
        }
        Ok(found.into_iter().map(|line| format!("{name}: {line}")).collect())
    }

    fn read(&self, path: &str) -> Result<Vec<u8>> {
        Ok(netns::run(self.command("cat").arg(path))?.stdout)
    }

    /// The agent's record, and what is wrong in it or between it and the blocks of the API.
    fn record(&self, blocks: &[Value]) -> Result<(Vec<Endpoint>, Vec<String>)> {
        let record = recover(&self.read("/run/manx/endpoints").context("the agent's record")?);
        let mut found = Vec::new();
        if record.damaged > 0 {
            found.push(format!("the record has {} lines that cannot be read", record.damaged));
        }
        let leaving = record.leaving.iter().map(|one| format!("{} is still on its way out", one.id));
        found.extend(leaving);
        let tombstones = self.run(&["find", "/run/manx/tombstones", "-type", "f"]).unwrap_or_default();
        found.extend(tombstones.lines().map(|line| format!("{line} is left")));
        let own = self.blocks(blocks);
        let recorded: BTreeSet<String> = record.blocks.iter().map(ToString::to_string).collect();
        found.extend(compare("block", ("the API", &own), ("the record", &recorded)));
        for endpoint in &record.endpoints {
            for address in &endpoint.addresses {
                if endpoint.claim.is_none() && !own.iter().any(|block| contains(block, *address)) {
                    found.push(format!("{address} of {} is in no block of the node", endpoint.id));
                }
            }
        }
        Ok((record.endpoints, found))
    }

    /// The blocks of this node, in CIDR notation.
    fn blocks(&self, blocks: &[Value]) -> BTreeSet<String> {
        let name = self.name();
        let own = blocks.iter().filter(|block| block["spec"]["node"] == *name);
        own.map(|block| text(&block["spec"]["cidr"])).collect()
    }

    /// What host-local gave, in the form of the agent's record: without pods.
    fn host_local(&self) -> Result<(Vec<Endpoint>, Vec<String>)> {
        let files =
            self.run(&["sh", "-c", &format!("cd {HOST_LOCAL} 2>/dev/null && grep -H . * || true")])?;
        let mut endpoints: BTreeMap<String, Endpoint> = BTreeMap::new();
        for line in files.lines() {
            // ADDRESS:CONTAINER and ADDRESS:eth0, where the address of IPv6 has colons of its own.
            let Some((address, container)) = line.trim().rsplit_once(':') else { continue };
            let (Ok(address), true) = (address.parse(), container.len() == 64) else { continue };
            let endpoint = endpoints.entry(container.to_owned()).or_default();
            endpoint.id = EndpointId { container: container.to_owned(), ifname: "eth0".to_owned() };
            endpoint.addresses.push(address);
            endpoint.addresses.sort();
        }
        Ok((endpoints.into_values().collect(), Vec::new()))
    }

    /// The ids of sandboxes whose pause process runs.
    fn sandboxes(&self) -> Result<BTreeSet<String>> {
        let text = self.run(&["ctr", "-n", "k8s.io", "tasks", "ls"])?;
        let running = text.lines().filter(|line| line.ends_with("RUNNING"));
        Ok(running.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
    }

    fn sight(&self) -> Result<Sight> {
        let list = |args: &[&str]| -> Result<Vec<Value>> {
            let value = netns::json(&self.netns(), &[&["ip", "-d", "-j"], args].concat())?;
            Ok(value.as_array().cloned().unwrap_or_default())
        };
        let mut routes = list(&["-4", "route", "show", "table", "all"])?;
        routes.extend(list(&["-6", "route", "show", "table", "all"])?);
        Ok(Sight {
            links: list(&["link", "show"])?,
            routes,
            neighbours: list(&["neigh", "show", "nud", "permanent"])?,
        })
    }

    /// Guards of links: one for each link, and none besides.
    fn guards(&self, endpoints: &[Endpoint]) -> Result<Vec<String>> {
        let text = self.run(&["nft", "list", "tables", "netdev"])?;
        let tables: BTreeSet<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("table netdev manx-"))
            .map(str::to_owned)
            .collect();
        let links: BTreeSet<String> = endpoints.iter().map(|endpoint| endpoint.link.clone()).collect();
        Ok(compare("guard of the link", ("the kernel", &tables), ("the record", &links)))
    }

    /// Connections from or to addresses of this node's blocks that no pod has.
    fn connections(&self, endpoints: &[Endpoint], blocks: &[Value]) -> Result<Vec<String>> {
        let own = self.blocks(blocks);
        let held: BTreeSet<IpAddr> =
            endpoints.iter().flat_map(|endpoint| endpoint.addresses.clone()).collect();
        let mut found = Vec::new();
        for family in ["ipv4", "ipv6"] {
            for line in self.run(&["conntrack", "-L", "-f", family])?.lines() {
                let words = line.split_whitespace().filter_map(|word| word.split_once('='));
                let ends = words.filter(|(key, _)| *key == "src" || *key == "dst");
                let addresses: BTreeSet<IpAddr> = ends.filter_map(|(_, end)| end.parse().ok()).collect();
                let dead = addresses.iter().find(|address| {
                    !held.contains(*address) && own.iter().any(|block| contains(block, **address))
                });
                found.extend(
                    dead.map(|address| format!("a connection of {address}, which no pod has: {line}")),
                );
            }
        }
        Ok(found)
    }
}

fn contains(block: &str, address: IpAddr) -> bool {
    block.parse::<ipnetwork::IpNetwork>().is_ok_and(|block| block.contains(address))
}

/// The record names the pods of the API with their addresses, and nobody else.
fn against_pods(pods: &[&LivingPod], endpoints: &[Endpoint], manx: bool) -> Vec<String> {
    let of_pods: BTreeSet<(String, Vec<IpAddr>)> = pods
        .iter()
        .map(|pod| {
            let mut addresses = pod.addresses.clone();
            addresses.sort();
            (if manx { format!("{} {}", pod.name, pod.uid) } else { String::new() }, addresses)
        })
        .collect();
    let name = |pod: &PodRef| format!("{}/{} {}", pod.namespace, pod.name, pod.uid.as_deref().unwrap_or("?"));
    let of_record = endpoints
        .iter()
        .map(|one| {
            let mut addresses = one.addresses.clone();
            addresses.sort();
            (one.pod.as_ref().map(name).unwrap_or_default(), addresses)
        })
        .collect();
    let mut found = compare("pod", ("the API", &of_pods), ("the record", &of_record));
    if pods.len() != endpoints.len() {
        found.push(format!("{} pods of the API, {} in the record", pods.len(), endpoints.len()));
    }
    found
}

impl Sight {
    /// The kernel has links, routes and neighbours for the endpoints, and no others of pods.
    fn against(&self, endpoints: &[Endpoint], manx: bool) -> Vec<String> {
        let addresses: BTreeSet<String> =
            endpoints.iter().flat_map(|one| one.addresses.iter().map(ToString::to_string)).collect();
        let prefix = if manx { "cali" } else { "veth" };
        let is_ours = |value: &Value| value.as_str().is_some_and(|name| name.starts_with(prefix));
        let links: Vec<&Value> = self.links.iter().filter(|link| is_ours(&link["ifname"])).collect();
        let routes = self.routes.iter().filter(|route| is_ours(&route["dev"]));
        let routes: BTreeSet<String> =
            routes.filter(|route| is_to_a_pod(route)).map(|route| text(&route["dst"])).collect();
        let mut found = compare("route to", ("the kernel", &routes), ("the record", &addresses));
        if !manx {
            if links.len() != endpoints.len() {
                found.push(format!("{} links of pods, but {} records", links.len(), endpoints.len()));
            }
            return found;
        }
        let marked = |link: &&Value| format!("{} {}", text(&link["ifname"]), text(&link["ifalias"]));
        let there: BTreeSet<String> = links.iter().map(marked).collect();
        let wanted = endpoints
            .iter()
            .map(|one| format!("{} manx:{}:{}", one.link, one.id.container, one.id.ifname))
            .collect();
        found.extend(compare("link", ("the kernel", &there), ("the record", &wanted)));
        let down = links.iter().filter(|link| link["operstate"] != "UP");
        found.extend(down.map(|link| format!("the link {} is not up", link["ifname"])));
        let neighbours = self.neighbours.iter().filter(|one| is_ours(&one["dev"]));
        let neighbours: BTreeSet<String> = neighbours.map(|one| text(&one["dst"])).collect();
        found.extend(compare("neighbour", ("the kernel", &neighbours), ("the record", &addresses)));
        found
    }
}

/// Whether a route leads to one address of a pod; the kernel makes others by itself for each link.
fn is_to_a_pod(route: &Value) -> bool {
    route["protocol"] != "kernel" && route["table"] != "local" && text(&route["dst"]) != "ff00::/8"
}
