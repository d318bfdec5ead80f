//! Checks of what nodes have in common: addresses, MTU, pools, other networks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kube::ResourceExt as _;
use manx_api::{BlockSource, IPPool, selects};
use manx_facts::host::HostLink;

use super::{Facts, Seen};
use crate::finding::Finding;

/// Nodes that do not answer: of them nothing is known.
pub(super) fn answers(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = facts
        .nodes
        .iter()
        .filter_map(|(name, node)| {
            let why = node.host.as_ref().err()?;
            Some(Finding::error(
                format!("node {name}"),
                format!("it does not answer: {why}"),
                "everything below leaves it out",
            ))
        })
        .collect();
    findings.extend(facts.cluster.refused.iter().map(|refused| {
        Finding::warning("the API server", refused.clone(), "ask with the rights that docs/check.md lists")
    }));
    findings.extend(super::machines(facts).flat_map(|(node, host)| {
        host.unknown.iter().map(move |unknown| {
            Finding::warning(
                &node,
                format!("it could not find out: {unknown}"),
                "the words of the kernel say why",
            )
        })
    }));
    findings
}

/// Other networks that run as pods.
pub(super) fn networks(facts: &Facts) -> Vec<Finding> {
    let networks = &facts.cluster.networks;
    let cure = |network: &str| match network {
        "Calico" => "move in from it without restarting pods (docs/migrate-calico.md), or remove it first",
        _ => "remove it first; a cluster has one network for pods",
    };
    networks
        .iter()
        .map(|(network, sign)| {
            Finding::error(sign.clone(), format!("{network} is this cluster's network"), cure(network))
        })
        .collect()
}

/// The links of a node that have its addresses.
pub(super) fn uplinks(node: &Seen) -> Vec<&HostLink> {
    let Ok(host) = &node.host else { return Vec::new() };
    let has = |link: &&HostLink| {
        let mut addresses = link.addresses.iter().filter_map(|text| text.parse::<IpNetwork>().ok());
        addresses.any(|address| node.addresses.contains(&address.ip()))
    };
    host.links.iter().filter(has).collect()
}

/// Nodes whose uplinks have another MTU than most.
pub(super) fn mtu(facts: &Facts) -> Vec<Finding> {
    let mut of_mtu: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for (name, node) in &facts.nodes {
        for link in uplinks(node) {
            of_mtu.entry(link.mtu).or_default().push(format!("{name} ({})", link.name));
        }
    }
    let usual = of_mtu.iter().max_by_key(|(mtu, nodes)| (nodes.len(), **mtu)).map(|(mtu, _)| *mtu);
    let Some(usual) = usual else { return Vec::new() };
    let mut findings = Vec::new();
    for (mtu, nodes) in of_mtu.iter().filter(|(mtu, _)| **mtu != usual) {
        for node in nodes {
            let (name, link) = node.split_once(' ').unwrap_or((node, ""));
            findings.push(
                Finding::warning(
                    format!("node {name}"),
                    format!("the MTU of its uplink {link} is {mtu}, while that of most is {usual}"),
                    "give all the same, or the agents --mtu with the smallest; else large packets get lost wherever \
                     ICMP \"fragmentation needed\" is filtered",
                )
                .see("mtu"),
            );
        }
    }
    findings.extend(of_mtu.range(..1280).flat_map(|(mtu, nodes)| {
        nodes.iter().map(move |node| {
            let name = node.split(' ').next().unwrap_or_default();
            Finding::error(
                format!("node {name}"),
                format!("an MTU of {mtu} carries no IPv6"),
                "at least 1280 (RFC 8200 §5)",
            )
        })
    }));
    findings
}

/// Nodes that lack an address of a family of which pods shall have one, and addresses that no link has.
pub(super) fn families(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, node) in &facts.nodes {
        let object = format!("node {name}");
        let pools = facts.cluster.pools.iter().filter(|pool| !pool.spec.disabled);
        let pools = pools.filter(|pool| selects(pool.spec.node_selector.as_ref(), &node.labels));
        let families: BTreeSet<bool> = pools.map(|pool| network(pool).is_ipv4()).collect();
        for v4 in families {
            if facts.cluster.asked && !node.addresses.iter().any(|address| address.is_ipv4() == v4) {
                let family = if v4 { "IPv4" } else { "IPv6" };
                findings.push(Finding::error(
                    &object,
                    format!("it has no {family} InternalIP, and a pool gives its pods {family}"),
                    format!(
                        "the kubelet's --node-ip with an address of each family, or no {family} pool for it"
                    ),
                ));
            }
        }
        findings.extend(without_cidr(facts, node).map(|pool| {
            Finding::error(
                &object,
                format!("it has no podCIDR inside of the pool {pool}, which takes its blocks from there"),
                "--allocate-node-cidrs and --cluster-cidr of the controller manager, or blockSource: Claim",
            )
        }));
        if node.host.is_ok() && !node.addresses.is_empty() && uplinks(node).is_empty() {
            let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
            findings.push(Finding::error(
                &object,
                format!("no link of the machine has its InternalIP {}", addresses.join(", ")),
                "give the kubelet the machine's own address with --node-ip: BGP announces it as the next hop",
            ));
        }
    }
    findings
}

/// Pools that take a node's blocks from what Kubernetes gave it for pods, which is nothing of theirs.
fn without_cidr<'a>(facts: &'a Facts, node: &'a Seen) -> impl Iterator<Item = String> + 'a {
    let pools = facts.cluster.pools.iter().filter(|pool| pool.spec.block_source == BlockSource::NodePodCIDRs);
    let pools =
        pools.filter(|pool| facts.cluster.asked && selects(pool.spec.node_selector.as_ref(), &node.labels));
    pools
        .filter(|pool| !node.pod_cidrs.iter().any(|cidr| network(pool).contains(cidr.ip())))
        .map(|pool| pool.name_any())
}

fn network(pool: &IPPool) -> IpNetwork {
    pool.spec.cidr.network()
}

/// Whether two networks share an address.
fn overlap(one: IpNetwork, other: IpNetwork) -> bool {
    one.contains(other.ip()) || other.contains(one.ip())
}

/// Pools that share addresses with nodes, Services, each other, links, or what Kubernetes gave nodes for pods.
pub(super) fn overlaps(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let pools = &facts.cluster.pools;
    for (index, pool) in pools.iter().enumerate() {
        let (object, cidr) = (format!("pool {}", pool.name_any()), network(pool));
        let mut add = |what: String, cure: &str| findings.push(Finding::error(&object, what, cure));
        for services in facts.cluster.services.iter().filter(|services| overlap(cidr, **services)) {
            add(
                format!("{cidr} overlaps the network of Services {services}"),
                "take another network for pods: that of Services cannot change",
            );
        }
        for other in pools[index + 1..].iter().filter(|other| overlap(cidr, network(other))) {
            add(
                format!("{cidr} overlaps {} of the pool {}", network(other), other.name_any()),
                "pools must be apart",
            );
        }
        for (name, node) in &facts.nodes {
            for address in node.addresses.iter().filter(|address| cidr.contains(**address)) {
                add(
                    format!("{cidr} has the address {address} of the node {name} in it"),
                    "take another network for pods, or narrow this one",
                );
            }
        }
        for (link, found) in foreign(facts, cidr) {
            add(
                format!("{cidr} overlaps {found} of {link}"),
                "take another network for pods, or renumber that link",
            );
        }
        for peer in &facts.cluster.peers {
            if let Some(address) =
                peer.spec.peer_ip.as_ref().map(|peer| peer.ip).filter(|address| cidr.contains(*address))
            {
                add(
                    format!("{cidr} has the address {address} of the peer {} in it", peer.name_any()),
                    "take another network for pods",
                );
            }
        }
    }
    findings
}

/// Networks of links that share addresses with a pool; each link once, whatever the number of nodes that have it.
fn foreign(facts: &Facts, pool: IpNetwork) -> BTreeMap<String, IpNetwork> {
    let mut found = BTreeMap::new();
    for node in facts.nodes.values() {
        let Ok(host) = &node.host else { continue };
        for link in &host.links {
            // Other networks' own links are named elsewhere; a kube-ipvs0 has Services' addresses.
            let addresses = link.addresses.iter().filter_map(|text| text.parse::<IpNetwork>().ok());
            for address in addresses.filter(|address| !is_node(node, address.ip()) && overlap(pool, *address))
            {
                found.entry(format!("the link {}", link.name)).or_insert(address);
            }
        }
    }
    found
}

fn is_node(node: &Seen, address: IpAddr) -> bool {
    node.addresses.contains(&address)
}
