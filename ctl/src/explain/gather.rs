//! Reads what an explanation is made from: objects from the API server, facts from the nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use manx_api::{IPBlock, IPPool, NodeNetwork};
use manx_facts::bgp::{Explain, Explained};
use manx_facts::kernel::{Kernel, KernelQuestion, holds};
use manx_facts::record::{Record, RecordQuestion};

use super::What;
use crate::Context;
use crate::ask::{Away, Nodes};
use crate::show::Progress;

/// All that was read.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) subject: String,
    pub(super) pools: Vec<IPPool>,
    pub(super) blocks: Vec<IPBlock>,
    pub(super) networks: Vec<NodeNetwork>,
    pub(super) pod: Option<PodFacts>,
    /// What is explained: addresses of a pod, or what was named.
    pub(super) targets: Vec<Target>,
    /// What each kernel has around the targets.
    pub(super) kernels: BTreeMap<String, Result<Kernel, Away>>,
    /// The record of the node where the pod is, or the block.
    pub(super) record: Option<Result<Record, Away>>,
}

/// One address or prefix.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) network: IpNetwork,
    /// The Service that has it, and with which kind of address.
    pub(super) service: Option<String>,
    /// What the BGP table of each node has of it, or of what holds it.
    pub(super) tables: BTreeMap<String, Result<Explained, Away>>,
}

/// What the API server says of a pod.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct PodFacts {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) node: Option<String>,
    pub(super) phase: String,
    pub(super) host_network: bool,
    pub(super) addresses: Vec<IpAddr>,
    /// Why it does not run, as far as its status says.
    pub(super) waits: Option<String>,
}

impl PodFacts {
    fn of(pod: &Pod) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        let spec = pod.spec.clone().unwrap_or_default();
        let ips = status.pod_ips.unwrap_or_default();
        let scheduled =
            status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
        let unscheduled = scheduled.map(|condition| condition.message.clone().unwrap_or_default());
        let waiting = status.container_statuses.iter().flatten().find_map(|container| {
            let waiting = container.state.as_ref()?.waiting.as_ref()?;
            waiting.reason.clone()
        });
        Self {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            node: spec.node_name,
            phase: status.phase.unwrap_or_default(),
            host_network: spec.host_network.unwrap_or_default(),
            addresses: ips.iter().filter_map(|ip| ip.ip.parse().ok()).collect(),
            waits: unscheduled.or(waiting),
        }
    }
}

/// Reads it.
pub(super) async fn gather(what: What, context: &Context, progress: &Progress) -> Result<Gathered> {
    let client = context.client().await?;
    let mut gathered = Gathered {
        pools: crate::list(&client).await?,
        blocks: crate::list(&client).await?,
        networks: crate::list(&client).await?,
        ..Gathered::default()
    };
    match what {
        What::Pod { namespace, name } => {
            let namespace = match namespace {
                Some(namespace) => namespace,
                None => context.namespace().await?,
            };
            let pod = pod(context, &namespace, &name).await?;
            gathered.subject = format!("pod {namespace}/{name}");
            let pod = pod.with_context(|| format!("there is no pod {name} in namespace {namespace}"))?;
            let mine = if pod.host_network { Vec::new() } else { pod.addresses.clone() };
            gathered.targets = mine.into_iter().map(|address| target(address.into())).collect();
            gathered.pod = Some(pod);
        }
        What::Network(network) => {
            gathered.subject = if is_host(network) { network.ip().to_string() } else { network.to_string() };
            gathered.pod = owner(context, &gathered.blocks, network).await?;
            let service = match pool_of(&gathered.pools, network) {
                None if is_host(network) => service(context, network.ip()).await?,
                _ => None,
            };
            gathered.targets = vec![Target { service, ..target(network) }];
        }
    }
    if !gathered.targets.is_empty() {
        progress.say("asking the nodes");
        ask(&mut gathered, &context.nodes().await?).await;
    }
    Ok(gathered)
}

fn target(network: IpNetwork) -> Target {
    Target { network, service: None, tables: BTreeMap::new() }
}

/// Whether it is one address.
pub(super) fn is_host(network: IpNetwork) -> bool {
    network.prefix() == if network.is_ipv4() { 32 } else { 128 }
}

/// The pool that holds all of it.
pub(super) fn pool_of(pools: &[IPPool], network: IpNetwork) -> Option<&IPPool> {
    pools.iter().find(|pool| holds(pool.spec.cidr.network(), network))
}

/// The block that holds all of it.
pub(super) fn block_of(blocks: &[IPBlock], network: IpNetwork) -> Option<&IPBlock> {
    blocks.iter().find(|block| holds(block.spec.cidr.network(), network))
}

async fn pod(context: &Context, namespace: &str, name: &str) -> Result<Option<PodFacts>> {
    let pods: Api<Pod> = Api::namespaced(context.client().await?, namespace);
    let pod = pods.get_opt(name).await.with_context(|| format!("cannot read the pods of {namespace}"))?;
    Ok(pod.as_ref().map(PodFacts::of))
}

/// The pod that has an address, as the status of its block says.
async fn owner(context: &Context, blocks: &[IPBlock], network: IpNetwork) -> Result<Option<PodFacts>> {
    if !is_host(network) {
        return Ok(None);
    }
    let status = block_of(blocks, network).and_then(|block| block.status.as_ref());
    let allocation = status.and_then(|s| s.allocations.iter().find(|a| a.address == network.ip()));
    let named = allocation.and_then(|allocation| allocation.pod.as_deref()?.split_once('/'));
    let found = match named {
        Some((namespace, name)) => pod(context, namespace, name).await?,
        None => None,
    };
    let has_it = |pod: &PodFacts| pod.addresses.contains(&network.ip());
    if let Some(found) = found.filter(has_it) {
        return Ok(Some(found));
    }
    // The status of blocks is written some seconds after pods start.
    let pods: Api<Pod> = Api::all(context.client().await?);
    let with = ListParams::default().fields(&format!("status.podIP={}", network.ip()));
    let pods = pods.list(&with).await.context("cannot list pods")?;
    Ok(pods.iter().map(PodFacts::of).find(|pod| has_it(pod) && !pod.host_network))
}

/// The Service that has an address.
async fn service(context: &Context, address: IpAddr) -> Result<Option<String>> {
    let services: Api<Service> = Api::all(context.client().await?);
    let services = services.list(&ListParams::default()).await.context("cannot list Services")?;
    let address = address.to_string();
    Ok(services.iter().find_map(|service| {
        let spec = service.spec.as_ref()?;
        let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let balanced = balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten());
        let kind = if spec.cluster_ips.iter().flatten().any(|ip| *ip == address) {
            "the cluster address"
        } else if spec.external_ips.iter().flatten().any(|ip| *ip == address) {
            "an external address"
        } else if balanced.filter_map(|ingress| ingress.ip.as_ref()).any(|ip| *ip == address) {
            "an address of the load balancer"
        } else {
            return None;
        };
        let namespace = service.namespace().unwrap_or_default();
        Some(format!("{kind} of Service {namespace}/{}", service.name_any()))
    }))
}

async fn ask(gathered: &mut Gathered, nodes: &Nodes) {
    let mut around: Vec<IpNetwork> = gathered.targets.iter().map(|target| target.network).collect();
    // The ways to the nodes too: they show whether a next hop is on the link.
    for network in &gathered.networks {
        let addresses = &network.spec.addresses;
        around.extend(addresses.ipv4.map(|ip| IpNetwork::from(IpAddr::from(ip))));
        around.extend(addresses.ipv6.map(|ip| IpNetwork::from(IpAddr::from(ip))));
    }
    gathered.kernels = nodes.ask_all(&KernelQuestion { around, ..KernelQuestion::default() }).await;
    // Who did not answer is not asked again.
    let there: Vec<String> =
        gathered.kernels.iter().filter(|(_, answer)| answer.is_ok()).map(|(node, _)| node.clone()).collect();
    for target in &mut gathered.targets {
        let question = Explain { prefix: target.network, covering: true };
        target.tables = nodes.ask_these(there.iter().map(String::as_str), &question).await;
    }
    let home = gathered.targets.iter().find_map(|target| super::reason::home(gathered, target.network));
    if let Some(home) = home.filter(|home| there.contains(home)) {
        gathered.record = Some(nodes.ask(&home, &RecordQuestion::default()).await);
    }
}
