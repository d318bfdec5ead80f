//! From what was read to the chain, and to where it breaks: pure.

mod elsewhere;
mod rules;

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kube::ResourceExt as _;
use manx_api::{IPBlock, NodeNetwork, Session, SessionError, SessionState};
use manx_facts::bgp;
use manx_facts::kernel::{Kernel, Route, RouteKind, TABLE_MAIN, holds};
use manx_facts::record::{Endpoint, Record};

use super::gather::{Gathered, PodFacts, Target, block_of, is_host, pool_of};
use super::{AwayNode, Chain, Link, Report, Told};
use crate::finding::Finding;

/// Everything about what was named.
pub(super) fn report(gathered: &Gathered) -> Report {
    let mut report = Report { subject: gathered.subject.clone(), ..Report::default() };
    if let Some(pod) = &gathered.pod {
        pod_itself(pod, &gathered.subject, &mut report.findings);
    }
    for target in &gathered.targets {
        let chain = chain(gathered, target, &mut report.findings);
        report.chains.push(chain);
    }
    for (node, answer) in &gathered.kernels {
        if let Err(away) = answer {
            let why = away.to_string();
            let what = "it is away, and what is told here leaves it out";
            report.findings.push(Finding::warning(format!("node {node}"), what, why.clone()));
            report.away.push(AwayNode { node: node.clone(), why });
        }
    }
    let mut seen: Vec<Finding> = Vec::new();
    report.findings.retain(|finding| {
        let fresh = !seen.contains(finding);
        seen.push(finding.clone());
        fresh
    });
    report
}

/// The node where a network is: the pod's, else the owner of the block.
pub(super) fn home(gathered: &Gathered, network: IpNetwork) -> Option<String> {
    let of_pod = gathered.pod.as_ref().and_then(|pod| pod.node.clone());
    of_pod.or_else(|| Some(block_of(&gathered.blocks, network)?.spec.node.clone()))
}

fn pod_itself(pod: &PodFacts, subject: &str, findings: &mut Vec<Finding>) {
    let object = format!("pod {}/{}", pod.namespace, pod.name);
    if pod.host_network {
        let what = "it has the addresses and the routes of its node: the pod network has no part in it";
        findings.push(Finding::note(object, what));
    } else if matches!(pod.phase.as_str(), "Succeeded" | "Failed") {
        findings.push(Finding::note(
            object,
            format!("it has ended ({}): its addresses are given back", pod.phase),
        ));
    } else if pod.addresses.is_empty() {
        let why = pod.waits.as_deref().map_or_else(String::new, |why| format!(" ({why})"));
        let what = match &pod.node {
            None => format!("it has no node yet, so no address{why}"),
            Some(node) => format!("it has no address on node {node}{why}"),
        };
        let cure = format!("its events say why: kubectl -n {} describe pod {}", pod.namespace, pod.name);
        findings.push(Finding::error(object, what, cure).see("pod-stuck-in-containercreating"));
    } else if !subject.starts_with("pod ") {
        findings.push(Finding::note(subject.to_owned(), format!("it is {object}")));
    }
}

fn chain(gathered: &Gathered, target: &Target, findings: &mut Vec<Finding>) -> Chain {
    let home = home(gathered, target.network);
    let mut chain = Chain {
        network: target.network,
        links: Vec::new(),
        node: home.clone(),
        announced: None,
        told: Vec::new(),
        nodes: Vec::new(),
    };
    let pooled = pool(gathered, target, &mut chain, findings);
    if pooled {
        block(gathered, target, &mut chain, findings);
    }
    if let Some(home) = &home {
        if is_host(target.network) {
            here(gathered, home, target, &mut chain, findings);
        }
        announcements(gathered, home, target, &mut chain, findings);
    }
    elsewhere::ways(gathered, home.as_deref(), target, &mut chain, findings);
    chain
}

fn named(network: IpNetwork) -> String {
    if is_host(network) { network.ip().to_string() } else { network.to_string() }
}

/// The pool, or what it is instead; whether it has one.
fn pool(gathered: &Gathered, target: &Target, chain: &mut Chain, findings: &mut Vec<Finding>) -> bool {
    let network = target.network;
    if let Some(pool) = pool_of(&gathered.pools, network) {
        let spec = &pool.spec;
        let mut is = format!("{} {}, blocks of /{}", pool.name_any(), spec.cidr, spec.block_len());
        for (says, words) in [
            (spec.nat_outgoing, "masqueraded outwards"),
            (spec.disabled, "disabled"),
            (!spec.advertise, "not advertised"),
        ] {
            if says {
                is += &format!(", {words}");
            }
        }
        chain.links.push(Link { what: "pool", is });
        return true;
    }
    let object = named(network);
    let node = gathered.networks.iter().find(|node| has_address(node, network));
    if let Some(node) = node {
        let is = format!("an address of node {}", node.name_any());
        findings.push(Finding::note(object, format!("it is {is}, and in no pool")));
        chain.links.push(Link { what: "node", is });
    } else if let Some(service) = &target.service {
        let what = format!("it is {service}: nodes translate it to the address of a pod before they route");
        findings.push(Finding::note(object, what));
        chain.links.push(Link { what: "service", is: service.clone() });
    } else if let Some(pod) = &gathered.pod {
        let what = format!("pod {}/{} has it, and it is in no pool", pod.namespace, pod.name);
        let cure = "make a pool that holds it, or make the pod anew: another network or a pool that is gone gave it \
                    the address";
        findings.push(Finding::error(object, what, cure));
    } else if gathered.pools.iter().any(|pool| holds(network, pool.spec.cidr.network())) {
        findings.push(Finding::note(object, "it is wider than the pools in it"));
    } else {
        let what = "it is in no pool: no pod of this cluster has or gets it";
        let learned = target
            .tables
            .values()
            .flatten()
            .any(|table| !table.paths.is_empty() && table.prefix.prefix() > 0);
        findings.push(match learned {
            true => Finding::note(object, format!("{what}; a router announces it")),
            false => Finding::warning(
                object,
                format!("{what}, and no router announces it: packets take the default route of the node"),
                "look whether it is written right; pools: manxctl pools",
            ),
        });
    }
    false
}

fn has_address(node: &NodeNetwork, network: IpNetwork) -> bool {
    let addresses = &node.spec.addresses;
    is_host(network)
        && (addresses.ipv4.is_some_and(|ip| network.ip() == ip)
            || addresses.ipv6.is_some_and(|ip| network.ip() == ip))
}

fn block(gathered: &Gathered, target: &Target, chain: &mut Chain, findings: &mut Vec<Finding>) {
    let network = target.network;
    let object = named(network);
    let Some(block) = block_of(&gathered.blocks, network) else {
        let inside = gathered.blocks.iter().filter(|block| holds(network, block.spec.cidr.network())).count();
        match &gathered.pod {
            Some(pod) => findings.push(Finding::error(
                object,
                format!("pod {}/{} has it, and it is in a block of nobody", pod.namespace, pod.name),
                "look at the log of the agent of its node for why the claim is gone; a pod made anew gets another address",
            )),
            None if inside > 0 => findings.push(Finding::note(object, format!("nodes have {inside} blocks in it"))),
            None => findings.push(Finding::note(object, "it is free: no node has claimed its block")),
        }
        return;
    };
    let status = block.status.clone().unwrap_or_default();
    let owner = &block.spec.node;
    let is = format!("{} of node {owner}, {} used, {} free", block.spec.cidr, status.used, status.free);
    chain.links.push(Link { what: "block", is });
    if !gathered.networks.iter().any(|node| node.name_any() == *owner) {
        findings.push(Finding::error(
            format!("block {}", block.spec.cidr),
            format!("its owner {owner} has no agent, so nobody announces it"),
            "start the agent there; if the node is gone for good, delete its Node and the controller returns the block",
        ));
    }
    if let Some(pod) = &gathered.pod
        && pod.node.as_ref().is_some_and(|node| node != owner)
    {
        let what = format!(
            "it is of a block of {owner}, while its pod is on {}: it is routed by itself",
            pod.node.as_deref().unwrap_or_default()
        );
        findings.push(Finding::note(object, what));
    } else if gathered.pod.is_none() && is_host(network) {
        free(gathered, block, network, findings);
    }
}

/// What an address is that no pod has, as the API server says.
fn free(gathered: &Gathered, block: &IPBlock, network: IpNetwork, findings: &mut Vec<Finding>) {
    let object = named(network);
    let record = gathered.record.as_ref().and_then(|record| record.as_ref().ok());
    let holder = record.and_then(|record| record.holder(network.ip()));
    if let Some(holder) = holder {
        let owner = &block.spec.node;
        let what =
            format!("the agent of {owner} gave it to {}, which the API server does not have", whose(holder));
        let cure = "a pod that just started or just ended looks like this for some seconds; if it stays, look at the \
                    agent's log there";
        findings.push(Finding::warning(object, what, cure));
    } else if record.is_some_and(|record| record.resting.contains(&network.ip())) {
        findings.push(Finding::note(object, "it is free, and rests for a while since its last pod"));
    } else if record.is_some_and(|record| record.claimed.iter().any(|kept| kept.address == network.ip())) {
        findings.push(Finding::note(object, "it is kept for a claim (kubectl get ipclaims -A)"));
    } else {
        findings.push(Finding::note(object, "it is free: no pod has it"));
    }
}

fn whose(endpoint: &Endpoint) -> String {
    match endpoint.pod.is_empty() {
        true => format!("container {}", short(&endpoint.container)),
        false => format!("pod {}/{}", endpoint.namespace, endpoint.pod),
    }
}

/// The first letters of a container's id.
fn short(container: &str) -> &str {
    container.get(..12).unwrap_or(container)
}

/// The pod, its link, and its route on its own node.
fn here(gathered: &Gathered, home: &str, target: &Target, chain: &mut Chain, findings: &mut Vec<Finding>) {
    let address = target.network.ip();
    let pod = gathered.pod.as_ref().map(|pod| format!("pod {}/{}", pod.namespace, pod.name));
    let endpoint = match &gathered.record {
        Some(Ok(record)) => {
            let endpoint = record.holder(address);
            if let (None, Some(pod)) = (endpoint, &pod) {
                findings.push(unrecorded(record, home, pod, address));
            }
            endpoint
        }
        _ => None,
    };
    if let Some(pod) = &pod {
        let from = endpoint
            .map_or_else(String::new, |e| format!(", container {}, {}", short(&e.container), e.ifname));
        chain.links.push(Link { what: "pod", is: format!("{} on node {home}{from}", &pod[4..]) });
    }
    let (Some(Ok(kernel)), true) = (gathered.kernels.get(home), pod.is_some() || endpoint.is_some()) else {
        return;
    };
    let link = endpoint.map(|endpoint| endpoint.link.as_str());
    if let Some(name) = link {
        link_of(kernel, home, name, chain, findings);
    }
    local_route(kernel, home, target.network, link, chain, findings);
    findings.extend(rules::judge(gathered, home, kernel, target.network));
}

/// Why the record does not know a pod that the API server has.
fn unrecorded(record: &Record, home: &str, pod: &str, address: IpAddr) -> Finding {
    let object = format!("the record of node {home}");
    if let Some(why) = &record.unread {
        return Finding::error(object, why.clone(), "look at the permissions of /run/manx there");
    }
    if record.missing {
        let what = "there is none: no agent was there since the node started, or --through leads to where it is not seen";
        return Finding::warning(object, what, "look at the agent's pod on that node; ask without --through");
    }
    let what = format!("it does not know that {pod} has {address}");
    Finding::error(
        object,
        what,
        "make the pod anew: nothing keeps its address from being given away a second time",
    )
}

fn link_of(kernel: &Kernel, home: &str, name: &str, chain: &mut Chain, findings: &mut Vec<Finding>) {
    let object = format!("link {name} on node {home}");
    let Some(link) = kernel.link_named(name) else {
        findings.push(Finding::error(
            object,
            "it is gone, so the pod has no network",
            "make the pod anew; find out who removed the link",
        ));
        return;
    };
    let state = match (link.up, link.carrier) {
        (true, true) => "up",
        (true, false) => "without carrier",
        (false, _) => "down",
    };
    chain
        .links
        .push(Link { what: "link", is: format!("{name} (index {}), {state}, MTU {}", link.index, link.mtu) });
    if !link.up {
        findings.push(Finding::error(
            object,
            "it is down",
            format!("ip link set {name} up; find out who took it down"),
        ));
    } else if !link.carrier {
        findings.push(Finding::error(
            object,
            "it has no carrier: the pod's end is down or gone",
            "look into the pod: ip link; or make it anew",
        ));
    }
}

fn local_route(
    kernel: &Kernel,
    home: &str,
    network: IpNetwork,
    link: Option<&str>,
    chain: &mut Chain,
    findings: &mut Vec<Finding>,
) {
    let object = format!("node {home}");
    let route = route_to(kernel, network);
    let is = route.map_or_else(|| "none".to_owned(), |route| shown(kernel, route));
    chain.links.push(Link { what: "route", is: rules::way(kernel, network) });
    let leads = route.and_then(|route| route.hops.first()).map(|hop| kernel.link_name(hop.link));
    let exact = route.is_some_and(|route| route.dst == network && route.kind == RouteKind::Unicast);
    if !exact {
        findings.push(Finding::error(
            object,
            format!("its kernel has no route to {} itself; what it takes is: {is}", named(network)),
            "the condition RoutesInstalled of its NodeNetwork and its agent's log say why; the agent mends it within a \
             minute unless something is in its way",
        ).see("no-route"));
    } else if let (Some(link), Some(leads)) = (link, leads)
        && leads != link
    {
        findings.push(
            Finding::error(
                object,
                format!("its route to {} leads to {leads}, and the pod is at {link}: {is}", named(network)),
                format!("somebody else made it: ip route del {} dev {leads}", named(network)),
            )
            .see("no-route"),
        );
    }
}

/// The route of the main table that packets to all of a network take.
fn route_to(kernel: &Kernel, network: IpNetwork) -> Option<&Route> {
    kernel.route_to(TABLE_MAIN, network)
}

/// A route as `ip route` writes it.
fn shown(kernel: &Kernel, route: &Route) -> String {
    let kind = match route.kind {
        RouteKind::Unicast => String::new(),
        kind => format!("{kind:?} ").to_lowercase(),
    };
    let to = if route.dst.prefix() == 0 { "default".to_owned() } else { named(route.dst) };
    let mut text = format!("{kind}{to}");
    let mut hops: Vec<String> = route
        .hops
        .iter()
        .map(|hop| {
            let via = hop.gateway.map_or_else(String::new, |gateway| format!("via {gateway} "));
            format!("{via}dev {}{}", kernel.link_name(hop.link), if hop.dead { " dead" } else { "" })
        })
        .collect();
    hops.sort();
    if !hops.is_empty() {
        text += &format!(" {}", hops.join(" and "));
    }
    if route.metric != 0 && route.metric != 1024 {
        text += &format!(" metric {}", route.metric);
    }
    if route.protocol != manx_facts::kernel::PROTOCOL {
        let maker = match route.protocol {
            2 => "kernel".to_owned(),
            3 => "boot".to_owned(),
            4 => "static".to_owned(),
            9 => "ra".to_owned(),
            12 => "bird".to_owned(),
            16 => "dhcp".to_owned(),
            186 => "bgp".to_owned(),
            196 => "zebra".to_owned(),
            other => other.to_string(),
        };
        text += &format!(" proto {maker}");
    }
    text
}

fn announcements(
    gathered: &Gathered,
    home: &str,
    target: &Target,
    chain: &mut Chain,
    findings: &mut Vec<Finding>,
) {
    let Some(answer) = target.tables.get(home) else { return };
    let object = format!("node {home}");
    let table = match answer {
        Ok(table) => table,
        Err(away) => {
            findings.push(
                Finding::error(
                    object,
                    format!("its BGP speaker does not tell its table: {away}"),
                    "look at its agent's log",
                )
                .see("agent-down"),
            );
            return;
        }
    };
    let own = table.paths.iter().any(|path| path.peer.is_none());
    if !own {
        if block_of(&gathered.blocks, target.network).is_some_and(|block| block.spec.node == home) {
            let advertised = pool_of(&gathered.pools, target.network).is_none_or(|pool| pool.spec.advertise);
            match advertised {
                true => findings.push(
                    Finding::error(
                        object,
                        format!("it announces nothing that holds {}", named(target.network)),
                        "look at its agent's log",
                    )
                    .see("no-route"),
                ),
                false => findings
                    .push(Finding::note(object, "it announces nothing: the pool says advertise: false")),
            }
        }
        return;
    }
    chain.announced = Some(table.prefix);
    chain.told = table.told.iter().map(told).collect();
    silence(gathered, home, table, findings);
}

fn told(told: &bgp::Told) -> Told {
    let attributes = told.attributes.as_ref().map_or_else(String::new, ToString::to_string);
    let amended = if told.amended.is_empty() {
        String::new()
    } else {
        format!(", amended by {}", told.amended.join(", "))
    };
    let waits = if told.attributes.is_some() && !told.sent { ", waits for the connection" } else { "" };
    Told {
        peer: told.peer.clone(),
        told: told.attributes.is_some(),
        attributes,
        by: format!("{}{amended}{waits}", told.verdict),
    }
}

/// Peers that are told nothing, and should be.
fn silence(gathered: &Gathered, home: &str, table: &bgp::Explained, findings: &mut Vec<Finding>) {
    for told in table.told.iter().filter(|told| told.attributes.is_none()) {
        if let Some(session) = session(gathered, home, &told.peer)
            && session.state != SessionState::Established
        {
            findings.push(down(home, session));
        }
    }
    if !table.told.is_empty() && table.told.iter().all(|told| told.attributes.is_none()) {
        findings.push(
            Finding::error(
                format!("node {home}"),
                format!("it tells nobody of {}", table.prefix),
                "bring up its sessions, or look at the export policy above: manxctl bgp",
            )
            .see("no-route"),
        );
    }
}

/// A session of a node.
fn session<'a>(gathered: &'a Gathered, node: &str, peer: &str) -> Option<&'a Session> {
    let network = gathered.networks.iter().find(|network| network.name_any() == node)?;
    network.status.as_ref()?.sessions.iter().find(|session| session.peer == peer)
}

/// A session that is down, with what it last said.
fn down(node: &str, session: &Session) -> Finding {
    let said = session
        .last_error
        .as_ref()
        .map_or_else(String::new, |error| format!(": {}", SessionError::line(error)));
    Finding::error(
        format!("node {node}"),
        format!("its session with {} is {:?} since {}{said}", session.peer, session.state, session.since.0),
        crate::bgp::cure(session),
    )
    .see("session-down")
}
