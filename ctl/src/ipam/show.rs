//! `manxctl ipam show IP`: who has an address, or why nobody has it.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Result;
use kube::ResourceExt as _;
use manx_api::{IPBlock, IPPool, Timestamp};
use manx_facts::record::{Endpoint, Record, RecordQuestion};
use serde::Serialize;

use super::audit::short;
use super::pods::{self, PodSeen};
use crate::Context;
use crate::cluster::{Cluster, Part};
use crate::show::{Output, Page, Tone};

/// Which address, and how it is shown.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  manxctl ipam show 10.244.1.5
  manxctl ipam show fd00:10:244::40 -o json")]
pub(crate) struct Options {
    /// The address.
    address: IpAddr,
    #[command(flatten)]
    output: Output,
}

/// How an address stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum State {
    /// A pod has it.
    InUse,
    /// A claim keeps it for a pod that does not run now.
    Claimed,
    /// It was given back a while ago, and pods get others first.
    Resting,
    /// Its pool says that nobody gets it.
    Reserved,
    /// The owner of its block may give it to a pod.
    Free,
    /// No node owns its block.
    Unclaimed,
    /// It is a node's own.
    Node,
    /// It lies in no pool.
    Foreign,
}

/// All that is known of an address.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    address: IpAddr,
    state: State,
    /// In a sentence.
    summary: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<Pool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block: Option<Block>,
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<Holder>,
    /// The pod that has it by the API server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Pod>,
    #[serde(skip_serializing_if = "Option::is_none")]
    claim: Option<Claim>,
    /// What may not be so, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remarks: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Pool {
    name: String,
    cidr: String,
    disabled: bool,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Block {
    cidr: String,
    node: String,
    since: Option<Timestamp>,
    used: u32,
    free: u32,
}

/// Who has it, by the record of the node, or else by the status of the block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Holder {
    node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    container: String,
    interface: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    since: Option<Timestamp>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Pod {
    name: String,
    node: String,
    phase: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Claim {
    name: String,
    node: Option<String>,
    since: Option<Timestamp>,
}

/// Finds it.
pub(crate) async fn run(options: Options, context: &Context) -> Result<ExitCode> {
    let parts = [Part::Networks, Part::Pools, Part::Blocks, Part::Claims];
    let cluster = Cluster::read(context, &parts).await?;
    let pods = pods::all(&context.client().await?).await?;
    let asked = match node_of(&cluster, options.address) {
        Some(node) => {
            let nodes = context.nodes().await?;
            let answer = nodes.ask(&node, &RecordQuestion::default()).await;
            Some(answer.map_err(|away| {
                format!("{node} was not asked, so this is what was last written of it: {away}")
            }))
        }
        None => None,
    };
    let shown = find(options.address, &cluster, &pods, asked);
    context.show.asked(options.output).print(&shown, text)?;
    Ok(ExitCode::SUCCESS)
}

fn block_of(cluster: &Cluster, address: IpAddr) -> Option<&IPBlock> {
    cluster.blocks.iter().find(|block| block.spec.cidr.network().contains(address))
}

fn claim_of(cluster: &Cluster, address: IpAddr) -> Option<&manx_api::IPClaim> {
    cluster.claims.iter().find(|claim| claim.spec.addresses.iter().any(|one| one.ip() == address))
}

/// The node that knows: where the claim is, else the owner of the block.
fn node_of(cluster: &Cluster, address: IpAddr) -> Option<String> {
    let claimed = claim_of(cluster, address).and_then(|claim| claim.status.as_ref()?.node.clone());
    claimed.or_else(|| block_of(cluster, address).map(|block| block.spec.node.clone()))
}

/// Puts together what is known; pure.
fn find(
    address: IpAddr,
    cluster: &Cluster,
    pods: &[PodSeen],
    asked: Option<Result<Record, String>>,
) -> Shown {
    let node = node_of(cluster, address).unwrap_or_default();
    let pool = cluster.pools.iter().find(|pool| pool.spec.cidr.network().contains(address));
    let block = block_of(cluster, address);
    let claim = claim_of(cluster, address);
    let mut remarks = Vec::new();
    let record = match asked {
        Some(Ok(record)) => Some(record),
        Some(Err(away)) => {
            remarks.push(away);
            None
        }
        None => None,
    };
    let holder = match &record {
        Some(record) => record.holder(address).map(|endpoint| recorded(&node, endpoint)),
        None => block.and_then(|block| by_status(block, address)),
    };
    let pod = pods.iter().find(|pod| pod.lives() && pod.addresses.contains(&address));
    remarks.extend(disagreement(holder.as_ref(), pod));
    let resting = record.as_ref().is_some_and(|record| record.resting.contains(&address));
    let reserved =
        pool.is_some_and(|pool| pool.spec.reserved.iter().any(|one| one.network().contains(address)));
    let of_node = cluster.networks.iter().find(|network| {
        let own = &network.spec.addresses;
        own.ipv4.map(IpAddr::from) == Some(address) || own.ipv6.map(IpAddr::from) == Some(address)
    });
    let state = match (&holder, claim, pool) {
        (Some(_), ..) => State::InUse,
        (None, Some(_), _) => State::Claimed,
        (None, None, None) if of_node.is_some() => State::Node,
        (None, None, None) => State::Foreign,
        _ if reserved => State::Reserved,
        _ if block.is_none() => State::Unclaimed,
        _ if resting => State::Resting,
        _ => State::Free,
    };
    let mut shown = Shown {
        address,
        state,
        summary: String::new(),
        pool: pool.map(|pool| Pool {
            name: pool.name_any(),
            cidr: pool.spec.cidr.to_string(),
            disabled: pool.spec.disabled,
        }),
        block: block.map(of_block),
        holder,
        pod: pod.map(|pod| Pod { name: pod.name.clone(), node: pod.node.clone(), phase: pod.phase.clone() }),
        claim: claim.map(|claim| Claim {
            name: format!("{}/{}", claim.namespace().unwrap_or_default(), claim.name_any()),
            node: claim.status.as_ref().and_then(|status| status.node.clone()),
            since: claim.status.as_ref().and_then(|status| status.since.as_ref()).map(|time| time.0),
        }),
        remarks,
    };
    shown.summary = summary(&shown, pool, of_node.map(|network| network.name_any()));
    shown
}

fn of_block(block: &IPBlock) -> Block {
    let status = block.status.clone().unwrap_or_default();
    Block {
        cidr: block.spec.cidr.to_string(),
        node: block.spec.node.clone(),
        since: block.metadata.creation_timestamp.as_ref().map(|time| time.0),
        used: status.used,
        free: status.free,
    }
}

fn recorded(node: &str, endpoint: &Endpoint) -> Holder {
    let since = endpoint.since.and_then(|since| i64::try_from(since).ok());
    Holder {
        node: node.to_owned(),
        pod: (!endpoint.pod.is_empty()).then(|| format!("{}/{}", endpoint.namespace, endpoint.pod)),
        container: endpoint.container.clone(),
        interface: endpoint.ifname.clone(),
        link: Some(endpoint.link.clone()),
        since: since.and_then(|since| Timestamp::from_second(since).ok()),
    }
}

fn by_status(block: &IPBlock, address: IpAddr) -> Option<Holder> {
    let one = block.status.as_ref()?.allocations.iter().find(|one| one.address == address)?;
    Some(Holder {
        node: block.spec.node.clone(),
        pod: one.pod.clone(),
        container: one.container.clone(),
        interface: one.interface.clone(),
        link: None,
        since: Some(one.since.0),
    })
}

/// Where node and API server do not say the same.
fn disagreement(holder: Option<&Holder>, pod: Option<&PodSeen>) -> Option<String> {
    match (holder.map(|holder| holder.pod.as_deref()), pod) {
        (Some(Some(recorded)), Some(pod)) if recorded != pod.name => {
            Some(format!("by the API server the pod {} has it: see `manxctl ipam check`", pod.name))
        }
        (Some(Some(_)), None) => Some(
            "no living pod has it by the API server, which may lag behind: see `manxctl ipam check`"
                .to_owned(),
        ),
        (None, Some(pod)) => Some(format!(
            "by the API server the pod {} has it, and its node does not know: see `manxctl ipam check`",
            pod.name
        )),
        _ => None,
    }
}

fn summary(shown: &Shown, pool: Option<&IPPool>, node: Option<String>) -> String {
    let claim = shown.claim.as_ref().map_or("", |claim| &claim.name);
    let owner = shown.block.as_ref().map_or("", |block| &block.node);
    match (shown.state, &shown.holder) {
        (State::InUse, Some(Holder { node, pod: Some(pod), .. })) => {
            format!("in use by the pod {pod} on {node}")
        }
        (State::InUse, holder) => {
            let (node, container) =
                holder.as_ref().map_or(("", ""), |holder| (&holder.node, &holder.container));
            format!(
                "in use by the sandbox {} on {node}, of which nobody said which pod it is",
                short(container)
            )
        }
        (State::Claimed, _) => format!("kept for the pod {claim} by its IPClaim; it runs nowhere now"),
        (State::Resting, _) => format!("free, given back a while ago: {owner} gives other addresses first"),
        (State::Reserved, _) => "reserved: its pool says that nobody gets it".to_owned(),
        (State::Free, _) if pool.is_some_and(|pool| pool.spec.disabled) => {
            format!("free, in a block of {owner}; its pool is disabled, so nobody gets it")
        }
        (State::Free, _) => format!("free: {owner} may give it to a pod"),
        (State::Unclaimed, _) => "free: no node owns the block that it lies in".to_owned(),
        (State::Node, _) => format!("the address of the node {}", node.unwrap_or_default()),
        (State::Foreign, _) => "in no pool: Manx knows nothing of it".to_owned(),
    }
}

fn text(shown: &Shown, page: &Page) -> String {
    let mut text = format!("{} is {}\n", page.paint(Tone::Strong, &shown.address.to_string()), shown.summary);
    let mut line = |name: &str, value: String| {
        let _never_fails = writeln!(text, "{}", page.wrap(&value, &format!("  {name:<7} "), "          "));
    };
    let ago =
        |time: Option<Timestamp>| time.map_or_else(String::new, |time| format!(", since {}", page.ago(time)));
    if let Some(pool) = &shown.pool {
        line("pool", format!("{} {}{}", pool.name, pool.cidr, if pool.disabled { ", disabled" } else { "" }));
    }
    if let Some(Block { cidr, node, since, used, free }) = &shown.block {
        line("block", format!("{cidr} of {node}{}; {used} used, {free} free", ago(*since)));
    }
    if let Some(holder) = &shown.holder {
        let link = holder.link.as_deref().unwrap_or("?");
        line(
            "link",
            format!(
                "{link}, {} in the sandbox {}{}",
                holder.interface,
                short(&holder.container),
                ago(holder.since)
            ),
        );
    }
    if let Some(pod) = &shown.pod {
        line("pod", format!("{} on {}, {}", pod.name, pod.node, pod.phase));
    }
    if let Some(claim) = &shown.claim {
        let at = claim.node.as_ref().map_or_else(|| ", nowhere now".to_owned(), |node| format!(" on {node}"));
        line("claim", format!("{}{at}{}", claim.name, ago(claim.since)));
    }
    for remark in &shown.remarks {
        line("but", remark.clone());
    }
    text
}

#[cfg(test)]
mod tests {
    use manx_api::{IPClaim, NodeNetwork};

    use super::*;

    fn cluster() -> Cluster {
        let mut claim = IPClaim::of_pod("shop", "db-0", ["10.244.3.70".parse().expect("an address")]);
        claim.status = None;
        Cluster {
            networks: vec![NodeNetwork::example()],
            pools: vec![IPPool::example()],
            blocks: vec![IPBlock::example()],
            claims: vec![claim],
            ..Cluster::default()
        }
    }

    fn record() -> Record {
        let endpoint = Endpoint {
            container: "0123456789abcdef".to_owned(),
            ifname: "eth0".to_owned(),
            namespace: "shop".to_owned(),
            pod: "web".to_owned(),
            link: "cali1".to_owned(),
            addresses: vec!["10.244.3.65".parse().expect("an address")],
            since: Some(0),
            ..Endpoint::default()
        };
        let resting = vec!["10.244.3.66".parse().expect("an address")];
        Record { endpoints: vec![endpoint], resting, ..Record::default() }
    }

    fn shown(address: &str, pods: &[PodSeen]) -> Shown {
        let address = address.parse().expect("an address");
        let cluster = cluster();
        let asked = node_of(&cluster, address).map(|_| Ok(record()));
        find(address, &cluster, pods, asked)
    }

    #[test]
    fn each_way_that_an_address_can_stand_is_told() {
        for (address, state, summary) in [
            ("10.244.3.65", State::InUse, "in use by the pod shop/web on node1"),
            (
                "10.244.3.66",
                State::Resting,
                "free, given back a while ago: node1 gives other addresses first",
            ),
            ("10.244.3.67", State::Free, "free: node1 may give it to a pod"),
            ("10.244.3.70", State::Claimed, "kept for the pod shop/db-0 by its IPClaim; it runs nowhere now"),
            ("10.244.0.3", State::Reserved, "reserved: its pool says that nobody gets it"),
            ("10.244.9.1", State::Unclaimed, "free: no node owns the block that it lies in"),
            ("192.0.2.11", State::Node, "the address of the node node1"),
            ("198.51.100.1", State::Foreign, "in no pool: Manx knows nothing of it"),
        ] {
            let shown = shown(address, &[]);
            assert_eq!((shown.state, shown.summary.as_str()), (state, summary), "{address}");
        }
    }

    #[test]
    fn all_that_is_known_of_an_address_is_shown() {
        let pod = PodSeen {
            name: "shop/web".to_owned(),
            node: "node1".to_owned(),
            phase: "Running".to_owned(),
            addresses: vec!["10.244.3.65".parse().expect("an address")],
            ..PodSeen::default()
        };
        assert_eq!(
            text(&shown("10.244.3.65", &[pod]), &Page::plain()),
            "10.244.3.65 is in use by the pod shop/web on node1\n  \
             pool    pods-v4 10.244.0.0/16\n  \
             block   10.244.3.64/26 of node1; 0 used, 0 free\n  \
             link    cali1, eth0 in the sandbox 0123456789ab, since 0s\n  \
             pod     shop/web on node1, Running\n"
        );
    }

    #[test]
    fn a_node_that_is_away_is_named_and_what_it_wrote_last_is_shown() {
        let address = "10.244.3.65".parse().expect("an address");
        let away = Some(Err("node1 was not asked".to_owned()));
        let shown = find(address, &cluster(), &[], away);
        assert_eq!((shown.state, shown.remarks.len()), (State::Free, 1));
    }
}
