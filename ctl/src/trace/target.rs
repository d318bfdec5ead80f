//! Who is meant: names and addresses of the command line, looked up at the API server.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use manx_api::{NodeNetwork, SessionState};
use manx_facts::probe::{Flow, Protocol};

use super::evidence::{Backend, NodeView, PodEnd, SessionDown, Target};
use crate::Context;

/// What the command line says.
pub(crate) struct Asked {
    pub(crate) pod: String,
    pub(crate) to: String,
    pub(crate) port: Option<u16>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) ipv6: bool,
}

/// Both ends, and what goes from one to the other.
pub(crate) struct Journey {
    pub(crate) flow: Flow,
    pub(crate) source: PodEnd,
    pub(crate) target: Target,
    pub(crate) sessions_down: Vec<SessionDown>,
    pub(crate) views: Vec<NodeView>,
}

/// Finds both ends.
///
/// # Errors
/// When one is not there, or they have no family in common.
pub(crate) async fn find(asked: &Asked, context: &Context) -> Result<Journey> {
    let client = context.client().await?;
    let namespace = context.namespace().await?;
    let networks = crate::list::<NodeNetwork>(&client).await?;
    let finder = Finder { client, namespace, networks };
    let source = match asked.pod.parse::<IpAddr>() {
        Ok(address) => {
            finder.pod_of(address).await?.with_context(|| format!("no running pod has {address}"))?
        }
        Err(_) => finder.pod(asked.pod.strip_prefix("pod/").unwrap_or(&asked.pod)).await?,
    };
    let found = finder.target(asked).await?;
    let (from, to) = pick(&source.addresses, &found.addresses, asked.ipv6)
        .with_context(|| format!("{} and {} have no address of the same family", asked.pod, asked.to))?;
    let port = asked.port.or(found.port).unwrap_or(0);
    let protocol =
        asked.protocol.or(found.protocol).unwrap_or(if port == 0 { Protocol::Icmp } else { Protocol::Tcp });
    if protocol != Protocol::Icmp && port == 0 {
        bail!("{protocol} needs a port: say --port");
    }
    let mut target = found.target;
    if let Target::Service(name, backends) = &mut target {
        if protocol == Protocol::Icmp {
            bail!("a Service answers no ICMP: say --port and --protocol tcp or udp");
        }
        *backends = finder.backends(name, protocol, found.port_name.as_deref(), to.is_ipv6()).await?;
    }
    let mark = RandomState::new().hash_one("a trace") as u32;
    let flow = Flow {
        source: from,
        target: to,
        protocol,
        port: if protocol == Protocol::Icmp { 0 } else { port },
        mark,
    };
    let (sessions_down, views) = (sessions_down(&finder.networks), views(&finder.networks));
    Ok(Journey { flow, source, target, sessions_down, views })
}

fn pick(source: &[IpAddr], target: &[IpAddr], ipv6: bool) -> Option<(IpAddr, IpAddr)> {
    let of = |list: &[IpAddr], six: bool| list.iter().copied().find(|address| address.is_ipv6() == six);
    let both = |six| Some((of(source, six)?, of(target, six)?));
    if ipv6 { both(true) } else { both(false).or_else(|| both(true)) }
}

/// What a name or an address stands for.
struct Found {
    target: Target,
    addresses: Vec<IpAddr>,
    port: Option<u16>,
    port_name: Option<String>,
    protocol: Option<Protocol>,
}

struct Finder {
    client: kube::Client,
    namespace: String,
    networks: Vec<NodeNetwork>,
}

impl Finder {
    fn split<'a>(&'a self, name: &'a str) -> (&'a str, &'a str) {
        name.split_once('/').unwrap_or((&self.namespace, name))
    }

    async fn pod(&self, name: &str) -> Result<PodEnd> {
        let (namespace, name) = self.split(name);
        let pod = Api::<Pod>::namespaced(self.client.clone(), namespace).get_opt(name).await?;
        let pod = pod.with_context(|| format!("there is no pod {name} in the namespace {namespace}"))?;
        end(&pod).with_context(|| {
            format!("the pod {namespace}/{name} has no address or no node yet: `kubectl describe pod {name}`")
        })
    }

    /// The pod that runs with this address and has a network of its own.
    async fn pod_of(&self, address: IpAddr) -> Result<Option<PodEnd>> {
        let pods = Api::<Pod>::all(self.client.clone());
        let pods = pods.list(&ListParams::default()).await.context("cannot list pods")?;
        let own = |pod: &&Pod| !is_host(pod) && pod.metadata.deletion_timestamp.is_none();
        Ok(pods.items.iter().filter(own).filter_map(end).find(|pod| pod.addresses.contains(&address)))
    }

    async fn target(&self, asked: &Asked) -> Result<Found> {
        if let Ok(address) = asked.to.parse::<IpAddr>() {
            return self.by_address(address, asked).await;
        }
        let (kind, name) = match asked.to.split_once('/') {
            Some(("svc" | "service" | "services", name)) => (Some(true), name),
            Some(("pod" | "pods", name)) => (Some(false), name),
            _ => (None, &*asked.to),
        };
        let (namespace, short) = self.split(name);
        if kind != Some(true) {
            let pod = Api::<Pod>::namespaced(self.client.clone(), namespace).get_opt(short).await?;
            if let Some(pod) = &pod {
                let end = end(pod)
                    .with_context(|| format!("the pod {namespace}/{short} has no address or no node yet"))?;
                return Ok(self.of_pod(end, is_host(pod)));
            }
        }
        if kind != Some(false) {
            let service = Api::<Service>::namespaced(self.client.clone(), namespace).get_opt(short).await?;
            if let Some(service) = service {
                return of_service(&service, asked);
            }
        }
        bail!(
            "there is no {} {short} in the namespace {namespace}",
            match kind {
                Some(true) => "Service",
                Some(false) => "pod",
                None => "pod or Service",
            }
        )
    }

    fn of_pod(&self, pod: PodEnd, host: bool) -> Found {
        let addresses = pod.addresses.clone();
        let target = if host { Target::Node(pod.node) } else { Target::Pod(pod) };
        Found { target, addresses, port: None, port_name: None, protocol: None }
    }

    async fn by_address(&self, address: IpAddr, asked: &Asked) -> Result<Found> {
        let plain =
            |target| Found { target, addresses: vec![address], port: None, port_name: None, protocol: None };
        if let Some(node) = self.node_of(address) {
            return Ok(plain(Target::Node(node)));
        }
        if let Some(pod) = self.pod_of(address).await? {
            return Ok(plain(Target::Pod(pod)));
        }
        let services = Api::<Service>::all(self.client.clone());
        let services = services.list(&ListParams::default()).await.context("cannot list Services")?;
        let has = |service: &&Service| addresses_of(service).contains(&address);
        match services.items.iter().find(has) {
            Some(service) => {
                of_service(service, asked).map(|found| Found { addresses: vec![address], ..found })
            }
            None => Ok(plain(Target::Outside)),
        }
    }

    fn node_of(&self, address: IpAddr) -> Option<String> {
        let has = |network: &&NodeNetwork| {
            let own = &network.spec.addresses;
            own.ipv4.map(IpAddr::from) == Some(address) || own.ipv6.map(IpAddr::from) == Some(address)
        };
        self.networks.iter().find(has).map(NodeNetwork::name_any)
    }

    /// Who is ready behind a Service, by the port of this name.
    async fn backends(
        &self,
        service: &str,
        protocol: Protocol,
        port: Option<&str>,
        ipv6: bool,
    ) -> Result<Vec<Backend>> {
        let (namespace, name) = service.split_once('/').unwrap_or(("default", service));
        let slices = Api::<EndpointSlice>::namespaced(self.client.clone(), namespace);
        let label = format!("kubernetes.io/service-name={name}");
        let slices =
            slices.list(&ListParams::default().labels(&label)).await.context("cannot list EndpointSlices")?;
        let mut backends = BTreeMap::new();
        for slice in &slices.items {
            if (slice.address_type == "IPv6") != ipv6 {
                continue;
            }
            let fits = |of: &&k8s_openapi::api::discovery::v1::EndpointPort| {
                of.protocol.as_deref().unwrap_or("TCP").eq_ignore_ascii_case(&protocol.to_string())
                    && port.is_none_or(|port| of.name.as_deref().unwrap_or("") == port)
            };
            let Some(number) = slice.ports.iter().flatten().find(fits).and_then(|port| port.port) else {
                continue;
            };
            for endpoint in &slice.endpoints {
                if endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(false) {
                    continue;
                }
                let pod = endpoint.target_ref.as_ref().filter(|of| of.kind.as_deref() == Some("Pod"));
                for address in endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok()) {
                    let backend = Backend {
                        address,
                        port: u16::try_from(number).unwrap_or(0),
                        node: endpoint.node_name.clone().or_else(|| self.node_of(address)),
                        pod: pod.and_then(|pod| {
                            Some(format!("{}/{}", pod.namespace.as_deref()?, pod.name.as_deref()?))
                        }),
                    };
                    backends.insert(address, backend);
                }
            }
        }
        Ok(backends.into_values().collect())
    }
}

fn is_host(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

fn end(pod: &Pod) -> Option<PodEnd> {
    let ips = pod.status.as_ref()?.pod_ips.iter().flatten();
    let addresses: Vec<IpAddr> = ips.filter_map(|ip| ip.ip.parse().ok()).collect();
    (!addresses.is_empty()).then_some(())?;
    Some(PodEnd {
        name: format!("{}/{}", pod.metadata.namespace.as_deref()?, pod.name_any()),
        node: pod.spec.as_ref()?.node_name.clone()?,
        addresses,
    })
}

fn addresses_of(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let own = spec.cluster_ips.iter().flatten().chain(spec.external_ips.iter().flatten()).cloned();
    let status = service.status.iter().flat_map(|status| &status.load_balancer);
    let balanced = status
        .flat_map(|balancer| balancer.ingress.iter().flatten())
        .filter_map(|ingress| ingress.ip.clone());
    own.chain(balanced).filter_map(|text| text.parse().ok()).collect()
}

fn of_service(service: &Service, asked: &Asked) -> Result<Found> {
    let name =
        format!("{}/{}", service.metadata.namespace.as_deref().unwrap_or("default"), service.name_any());
    let addresses = addresses_of(service);
    if addresses.is_empty() {
        bail!("the Service {name} has no address of its own: trace to one of its pods");
    }
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let kind = |text: Option<&str>| match text {
        Some("UDP") => Protocol::Udp,
        _ => Protocol::Tcp,
    };
    let fits = |port: &&k8s_openapi::api::core::v1::ServicePort| {
        asked.port.is_none_or(|number| i32::from(number) == port.port)
            && asked.protocol.is_none_or(|protocol| protocol == kind(port.protocol.as_deref()))
    };
    let port = ports.clone().find(fits).with_context(|| {
        let all: Vec<String> =
            ports.map(|port| format!("{}/{}", port.port, kind(port.protocol.as_deref()))).collect();
        format!("the Service {name} has no such port; it has {}", all.join(", "))
    })?;
    Ok(Found {
        target: Target::Service(name, Vec::new()),
        addresses,
        port: u16::try_from(port.port).ok(),
        port_name: Some(port.name.clone().unwrap_or_default()),
        protocol: Some(kind(port.protocol.as_deref())),
    })
}

fn sessions_down(networks: &[NodeNetwork]) -> Vec<SessionDown> {
    let mut down = Vec::new();
    for network in networks {
        for session in network.status.iter().flat_map(|status| &status.sessions) {
            if session.state != SessionState::Established {
                let error =
                    session.last_error.as_ref().map_or_else(String::new, |error| format!(": {}", error.text));
                let what = format!("its session with {} is {:?}{error}", session.peer, session.state);
                down.push(SessionDown { node: network.name_any(), what });
            }
        }
    }
    down
}

fn views(networks: &[NodeNetwork]) -> Vec<NodeView> {
    let view = |network: &NodeNetwork| {
        let name = network.name_any();
        let own = &network.spec.addresses;
        let addresses = own.ipv4.map(IpAddr::from).into_iter().chain(own.ipv6.map(IpAddr::from)).collect();
        let mut view = NodeView { name, addresses, ..NodeView::default() };
        let peer = format!("node/{}", view.name);
        for other in networks {
            let sessions = other.status.iter().flat_map(|status| &status.sessions);
            for session in sessions.filter(|session| session.peer == peer) {
                let up = session.state == SessionState::Established;
                (if up { &mut view.up } else { &mut view.down }).push(other.name_any());
            }
        }
        view
    };
    networks.iter().map(view).collect()
}
