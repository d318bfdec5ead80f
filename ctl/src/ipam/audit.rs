//! Whether API server, records of agents and kernels agree about blocks and addresses. Pure: what was seen in, differences
//! out.
//!
//! Nothing is held still meanwhile, so a difference may be only in flight: a pod that starts, a status that is written once
//! a second. Each difference names what it is about down to the sandbox, so that one which is there again when one looks
//! later is the same one, and real.

#[cfg(test)]
mod tests;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kube::ResourceExt as _;
use manx_facts::kernel::{Kernel, Link, PROTOCOL, TABLE_MAIN};
use manx_facts::record::{Endpoint, Record};

use super::pods::PodSeen;
use crate::cluster::Cluster;
use crate::guards::{Wrong, wrong};

/// How the alias of our links begins.
const ALIAS: &str = "manx:";

/// What was seen in one look.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The objects.
    pub(crate) cluster: Cluster,
    /// The pods.
    pub(crate) pods: Vec<PodSeen>,
    /// What each node that answered says.
    pub(crate) nodes: BTreeMap<String, Sight>,
}

/// What one node says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sight {
    /// The agent's record.
    pub(crate) record: Record,
    /// The kernel.
    pub(crate) kernel: Kernel,
}

/// A disagreement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Difference {
    /// Two blocks have addresses in common.
    BlocksOverlap { one: IpNetwork, of: String, other: IpNetwork, of_other: String },
    /// A block belongs to a node that there is not.
    BlockOfNobody { block: IpNetwork, node: String },
    /// A block does not lie in its pool, or its pool is not there.
    BlockOutsidePool { block: IpNetwork, node: String, pool: String },
    /// The API says that a block is a node's, and its record does not.
    BlockNotRecorded { node: String, block: IpNetwork },
    /// The record says that a block is the node's, and the API does not.
    BlockNotOwned { node: String, block: IpNetwork, owner: Option<String> },
    /// Two claims have the same address.
    ClaimedTwice { address: IpAddr, one: String, other: String },
    /// Pods, by the API, or nodes, by their records, have the same address.
    HeldTwice { address: IpAddr, holders: Vec<String> },
    /// A record has damaged lines, or could not be read.
    RecordDamaged { node: String, why: String },
    /// A living pod has an address that the record of its node does not know, or knows as another's.
    PodNotRecorded { node: String, pod: String, address: IpAddr, holder: Option<String> },
    /// The record has an address for a pod that there is not.
    PodGone { node: String, pod: String, container: String, addresses: Vec<IpAddr> },
    /// The record has an address that lies in no block of the node and is not claimed.
    AddressOutsideBlocks { node: String, address: IpAddr, holder: String },
    /// The status of a block says otherwise than the record.
    StatusDiffers { node: String, address: IpAddr, status: Option<String>, record: Option<String> },
    /// The record has an address whose link is not there.
    LinkMissing { node: String, holder: String, link: String, addresses: Vec<IpAddr> },
    /// The link is there and is another sandbox's, or is down.
    LinkWrong { node: String, holder: String, link: String, why: String },
    /// A link of ours of which no record knows.
    LinkOfNobody { node: String, link: String, alias: String },
    /// The kernel has no route to a pod's address, or it leads elsewhere.
    RouteWrong { node: String, address: IpAddr, link: String, leads_to: Option<String> },
    /// A route of ours to an address on a pod's link that no record knows.
    RouteOfNobody { node: String, address: IpNetwork, link: String },
    /// What the kernel takes from a link is not what the record says; with whose it is, as far as the record knows.
    Guard { node: String, holder: Option<String>, wrong: Wrong },
}

/// Every disagreement.
pub(crate) fn differences(seen: &Seen) -> BTreeSet<Difference> {
    let mut found = BTreeSet::new();
    found.extend(blocks(&seen.cluster));
    found.extend(claims(&seen.cluster));
    found.extend(held_twice(seen));
    for (node, sight) in &seen.nodes {
        let Sight { record, kernel } = sight;
        let damage = match (&record.unread, record.damaged) {
            (Some(why), _) => Some(format!("it cannot be read: {why}")),
            (None, 0) => None,
            (None, lines) => Some(format!("{lines} of its lines cannot be read")),
        };
        found.extend(damage.map(|why| Difference::RecordDamaged { node: node.clone(), why }));
        if record.unread.is_none() {
            found.extend(owned(node, &seen.cluster, record));
            found.extend(against_pods(node, seen, record));
            found.extend(statuses(node, &seen.cluster, record));
            found.extend(links(node, record, kernel));
            found.extend(routes(node, record, kernel));
            found.extend(guards(node, record, kernel));
        }
    }
    found
}

/// Whose an attachment is.
fn holder(endpoint: &Endpoint) -> String {
    match endpoint.pod.is_empty() {
        true => format!("sandbox {}", short(&endpoint.container)),
        false => format!("{}/{}", endpoint.namespace, endpoint.pod),
    }
}

/// As much of an id as people need.
pub(crate) fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

/// Blocks against each other, their nodes and pools.
fn blocks(cluster: &Cluster) -> Vec<Difference> {
    let mut found = Vec::new();
    let networks = cluster.networks.iter().map(|network| network.name_any());
    let nodes: BTreeSet<String> = networks.chain(cluster.nodes.iter().map(|node| node.name_any())).collect();
    let mut sorted: Vec<(IpNetwork, &str)> =
        cluster.blocks.iter().map(|block| (block.spec.cidr.network(), block.spec.node.as_str())).collect();
    sorted.sort();
    // Sorted by their first address, a block that overlaps one before it overlaps the widest of those.
    let mut widest: Option<(IpNetwork, &str)> = None;
    for (block, node) in sorted {
        match widest.filter(|(before, _)| before.contains(block.network())) {
            Some((one, of)) => found.push(Difference::BlocksOverlap {
                one,
                of: of.to_owned(),
                other: block,
                of_other: node.to_owned(),
            }),
            None => widest = Some((block, node)),
        }
        if !nodes.contains(node) {
            found.push(Difference::BlockOfNobody { block, node: node.to_owned() });
        }
    }
    for block in &cluster.blocks {
        let pool = cluster.pools.iter().find(|pool| pool.name_any() == block.spec.pool);
        let inside =
            pool.is_some_and(|pool| pool.spec.cidr.network().contains(block.spec.cidr.network().network()));
        if !inside {
            let (block, node, pool) =
                (block.spec.cidr.network(), block.spec.node.clone(), block.spec.pool.clone());
            found.push(Difference::BlockOutsidePool { block, node, pool });
        }
    }
    found
}

fn claims(cluster: &Cluster) -> Vec<Difference> {
    let mut owners: BTreeMap<IpAddr, String> = BTreeMap::new();
    let mut found = Vec::new();
    for claim in &cluster.claims {
        let name = format!("{}/{}", claim.namespace().unwrap_or_default(), claim.name_any());
        for address in &claim.spec.addresses {
            let address = address.ip();
            if let Some(one) = owners.insert(address, name.clone()) {
                found.push(Difference::ClaimedTwice { address, one, other: name.clone() });
            }
        }
    }
    found
}

/// Addresses of two living pods, and of two nodes' records.
fn held_twice(seen: &Seen) -> Vec<Difference> {
    let mut pods: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for pod in seen.pods.iter().filter(|pod| pod.lives()) {
        for address in pod.addresses.iter().filter(|address| in_a_pool(&seen.cluster, **address)) {
            pods.entry(*address).or_default().push(format!("{} on {}", pod.name, pod.node));
        }
    }
    let mut records: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for (node, sight) in &seen.nodes {
        for endpoint in &sight.record.endpoints {
            for address in &endpoint.addresses {
                records.entry(*address).or_default().push(format!("{} on {node}", holder(endpoint)));
            }
        }
    }
    let all = pods.into_iter().chain(records).filter(|(_, holders)| holders.len() > 1);
    all.map(|(address, mut holders)| {
        holders.sort();
        Difference::HeldTwice { address, holders }
    })
    .collect()
}

fn in_a_pool(cluster: &Cluster, address: IpAddr) -> bool {
    cluster.pools.iter().any(|pool| pool.spec.cidr.network().contains(address))
}

/// Blocks of the API against those of the record.
fn owned(node: &str, cluster: &Cluster, record: &Record) -> Vec<Difference> {
    let owner = |block: IpNetwork| cluster.blocks.iter().find(|one| one.spec.cidr.network() == block);
    let mut found = Vec::new();
    for block in cluster.blocks.iter().filter(|block| block.spec.node == node) {
        let cidr = block.spec.cidr.network();
        let handed = block.status.as_ref().is_some_and(|status| status.handed_over_by.is_some());
        if !handed && !record.blocks.contains(&cidr) && !record.releasing.contains(&cidr) {
            found.push(Difference::BlockNotRecorded { node: node.to_owned(), block: cidr });
        }
    }
    for &block in &record.blocks {
        let owner = owner(block).map(|one| one.spec.node.clone());
        if owner.as_deref() != Some(node) {
            found.push(Difference::BlockNotOwned { node: node.to_owned(), block, owner });
        }
    }
    found
}

/// Pods of the API against the record, both ways.
fn against_pods(node: &str, seen: &Seen, record: &Record) -> Vec<Difference> {
    let here: Vec<&PodSeen> = seen.pods.iter().filter(|pod| pod.node == node).collect();
    let mut found = Vec::new();
    for pod in here.iter().filter(|pod| pod.lives()) {
        for &address in pod.addresses.iter().filter(|address| in_a_pool(&seen.cluster, **address)) {
            let endpoint = record.holder(address);
            let same = endpoint.is_some_and(|one| one.pod.is_empty() || holder(one) == pod.name);
            if !same {
                let (node, pod, holder) = (node.to_owned(), pod.name.clone(), endpoint.map(holder));
                found.push(Difference::PodNotRecorded { node, pod, address, holder });
            }
        }
    }
    // Of an attachment that names no pod, nobody can say whether its pod is there.
    for endpoint in record.endpoints.iter().filter(|endpoint| !endpoint.pod.is_empty()) {
        let name = holder(endpoint);
        let same =
            |pod: &&PodSeen| pod.name == name && endpoint.uid.as_ref().is_none_or(|uid| *uid == pod.uid);
        if !here.iter().any(same) {
            let (node, container) = (node.to_owned(), endpoint.container.clone());
            found.push(Difference::PodGone {
                node,
                pod: name,
                container,
                addresses: endpoint.addresses.clone(),
            });
        }
    }
    for endpoint in record.endpoints.iter().filter(|endpoint| endpoint.claim.is_none()) {
        for &address in &endpoint.addresses {
            if !record.blocks.iter().chain(&record.releasing).any(|block| block.contains(address)) {
                let (node, holder) = (node.to_owned(), holder(endpoint));
                found.push(Difference::AddressOutsideBlocks { node, address, holder });
            }
        }
    }
    found
}

/// What blocks say of their addresses against the record.
fn statuses(node: &str, cluster: &Cluster, record: &Record) -> Vec<Difference> {
    let mut told: BTreeMap<IpAddr, Option<&str>> = BTreeMap::new();
    let own = cluster.blocks.iter().filter(|block| block.spec.node == node);
    let mut blocks = Vec::new();
    for block in own {
        // Of one that nothing was ever said of, nothing is wrong.
        let Some(status) = block.status.as_ref().filter(|status| status.handed_over_by.is_none()) else {
            continue;
        };
        blocks.push(block.spec.cidr.network());
        told.extend(status.allocations.iter().map(|one| (one.address, one.pod.as_deref())));
    }
    let recorded: BTreeMap<IpAddr, String> = record
        .endpoints
        .iter()
        .flat_map(|endpoint| endpoint.addresses.iter().map(move |address| (*address, holder(endpoint))))
        .filter(|(address, _)| blocks.iter().any(|block| block.contains(*address)))
        .collect();
    let all: BTreeSet<IpAddr> = told.keys().chain(recorded.keys()).copied().collect();
    all.into_iter()
        .filter(|address| match (told.get(address), recorded.get(address)) {
            (Some(Some(pod)), Some(recorded)) => pod != recorded,
            (Some(None), Some(_)) => false,
            _ => true,
        })
        .map(|address| Difference::StatusDiffers {
            node: node.to_owned(),
            address,
            status: told.get(&address).map(|pod| pod.unwrap_or("somebody").to_owned()),
            record: recorded.get(&address).cloned(),
        })
        .collect()
}

fn is_ours(link: &Link) -> bool {
    link.alias.as_ref().is_some_and(|alias| alias.starts_with(ALIAS))
}

/// Links against the record, both ways. Attachments on their way out may have theirs or not.
fn links(node: &str, record: &Record, kernel: &Kernel) -> Vec<Difference> {
    let mut found = Vec::new();
    for endpoint in &record.endpoints {
        let (holder, name) = (holder(endpoint), endpoint.link.clone());
        let Some(link) = kernel.link_named(&endpoint.link) else {
            let addresses = endpoint.addresses.clone();
            found.push(Difference::LinkMissing { node: node.to_owned(), holder, link: name, addresses });
            continue;
        };
        let alias = format!("{ALIAS}{}:{}", endpoint.container, endpoint.ifname);
        let why = match &link.alias {
            Some(other) if is_ours(link) && *other != alias => format!("it is of another sandbox ({other})"),
            _ if !link.up => "it is down".to_owned(),
            _ => continue,
        };
        found.push(Difference::LinkWrong { node: node.to_owned(), holder, link: name, why });
    }
    let known: BTreeSet<&str> =
        record.endpoints.iter().chain(&record.leaving).map(|endpoint| endpoint.link.as_str()).collect();
    let strays = kernel.links.iter().filter(|link| is_ours(link) && !known.contains(link.name.as_str()));
    found.extend(strays.map(|link| Difference::LinkOfNobody {
        node: node.to_owned(),
        link: link.name.clone(),
        alias: link.alias.clone().unwrap_or_default(),
    }));
    found
}

/// The routes to pods against the record, both ways.
fn routes(node: &str, record: &Record, kernel: &Kernel) -> Vec<Difference> {
    if kernel.routes_left_out > 0 {
        return Vec::new();
    }
    let mut found = Vec::new();
    for endpoint in &record.endpoints {
        // Without a link there can be no route: that is told already.
        let Some(link) = kernel.link_named(&endpoint.link) else { continue };
        for &address in &endpoint.addresses {
            let route =
                kernel.route_in(TABLE_MAIN, address).filter(|route| route.dst.prefix() == host(address));
            let leads_to = route.and_then(|route| route.hops.first()).map(|hop| hop.link);
            if leads_to != Some(link.index) {
                let leads_to = leads_to.map(|index| kernel.link_name(index));
                let (node, link) = (node.to_owned(), endpoint.link.clone());
                found.push(Difference::RouteWrong { node, address, link, leads_to });
            }
        }
    }
    let known: BTreeSet<IpAddr> = record
        .endpoints
        .iter()
        .chain(&record.leaving)
        .flat_map(|endpoint| endpoint.addresses.clone())
        .collect();
    for route in kernel.routes.iter().filter(|route| route.protocol == PROTOCOL && route.table == TABLE_MAIN)
    {
        let to_a_pod = route.dst.prefix() == host(route.dst.ip()) && !known.contains(&route.dst.ip());
        let link = route.hops.first().and_then(|hop| kernel.link(hop.link)).filter(|link| is_ours(link));
        if let (true, Some(link)) = (to_a_pod, link) {
            let (node, link) = (node.to_owned(), link.name.clone());
            found.push(Difference::RouteOfNobody { node, address: route.dst, link });
        }
    }
    found
}

/// The guards of links against the record. Of a link that no record knows that much is told already.
fn guards(node: &str, record: &Record, kernel: &Kernel) -> Vec<Difference> {
    let wrong = kernel.guards.iter().flat_map(|guards| wrong(guards, Some(record)));
    wrong
        .filter_map(|wrong| {
            let known = record.endpoints.iter().find(|endpoint| endpoint.link == wrong.link());
            let holder = known.map(holder);
            let of_nobody = holder.is_none() && !matches!(wrong, Wrong::Stray(_));
            (!of_nobody).then(|| Difference::Guard { node: node.to_owned(), holder, wrong })
        })
        .collect()
}

/// The length of a prefix of one address.
fn host(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
