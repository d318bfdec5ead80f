//! From what the API server says to what this node is to do: peers and policies, pools, announcements, NAT.
//!
//! Pure and whole: [`Intent::new`] looks at the cluster as it is and gives everything at once; whoever carries
//! it out finds the differences. What cannot be done is a [`Problem`] and never stops the rest.
//! Read `peers.rs` for who peers with whom, `policy.rs` for what is believed and told, `pools.rs` for addresses.

mod peers;
mod pod_pools;
mod policy;
mod pools;
mod session;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use manx_api::{
    BGPConfigurationSpec, DEFAULT_CONFIGURATION, NodeAddresses, NodeNetworkSpec, Topology, selects,
};
use manx_bgp::{Asn, Local, PeerConfig, PeerId, RouterId};
use manx_ipam::{NodeName, Pool};

pub use pod_pools::{PodPool, PodPools};
pub use pools::{Announcement, NatIntent};

use super::cluster::{Cluster, OwnNode};
use super::secret::{Key, SecretName};

/// Connections are accepted at every address of the node: a peer may know it by any of them.
const EVERYWHERE: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

/// What this node is to do.
#[derive(Debug, Clone, Default)]
pub struct Intent {
    /// What this node publishes of itself; `None` until its Node object and an address of it are known.
    pub network: Option<OwnNetwork>,
    /// Whom we speak BGP with; `None` until we have an address.
    pub bgp: Option<Arc<BgpIntent>>,
    /// The pools that give addresses on this node, older first.
    pub pools: Vec<Pool>,
    /// Which pods may use which of them.
    pub pod_pools: PodPools,
    /// What our own blocks are announced with.
    pub announcement: Announcement,
    /// What is masqueraded.
    pub nat: NatIntent,
    /// What pods may not reach.
    pub guard: GuardIntent,
    /// What is configured and cannot be done.
    pub problems: BTreeSet<Problem>,
    /// The Secrets that our peers name, whether they are there or not.
    pub secrets: BTreeSet<SecretName>,
}

/// The NodeNetwork that this node's agent keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnNetwork {
    /// Its spec.
    pub spec: NodeNetworkSpec,
    /// Its labels: those of the Node, so that peers can be selected without watching Nodes.
    pub labels: BTreeMap<String, String>,
}

/// Everything that the speaker and its sockets are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BgpIntent {
    /// Who we are. A change of it needs a new speaker.
    pub local: Local,
    /// Where connections are accepted, unless this machine's command line says otherwise.
    pub listen: BTreeSet<SocketAddr>,
    /// The port of the cluster's BGP.
    pub port: u16,
    /// Whom we speak with.
    pub peers: BTreeMap<PeerId, PeerIntent>,
    /// The other nodes that there are, whether we speak with them or not.
    pub nodes: BTreeSet<PeerId>,
    /// The BMP stations that are told what peers announce.
    pub stations: BTreeSet<SocketAddr>,
}

impl BgpIntent {
    /// What the connections of a peer are to be like, also of one that appeared from a range (`NAME/ADDRESS`).
    pub fn transport(&self, peer: &PeerId) -> Option<&Transport> {
        let found = self.peers.get(peer).or_else(|| {
            let (range, _) = peer.as_str().rsplit_once('/')?;
            self.peers.get(&PeerId::from(range))
        });
        found.map(|peer| &peer.transport)
    }
}

/// One peer: what the speaker and what the socket has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIntent {
    /// For the speaker.
    pub config: PeerConfig,
    /// For its sockets.
    pub transport: Transport,
}

/// What a session wants of its TCP connections. Every part of it can change while a session is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transport {
    /// The TTL or hop limit of what we send; the system's default when unset.
    pub ttl: Option<u8>,
    /// The least TTL or hop limit of what we take (GTSM, RFC 5082 §3).
    pub min_ttl: Option<u8>,
    /// The key by which both ends sign their segments (TCP MD5, RFC 2385).
    pub key: Option<Key>,
    /// How long the peer may leave our bytes unacknowledged before the connection is given up: the hold time, since
    /// a session that lives longer than that is none.
    pub patience: Duration,
    /// The link on which the peer is found by its router advertisements; its address is not known before.
    pub interface: Option<String>,
}

impl Transport {
    /// The patience with a peer that has no hold time.
    pub const PATIENCE: Duration = Duration::from_secs(30);
}

impl Default for Transport {
    /// No TTL security, no key, 30 s of patience.
    fn default() -> Self {
        Self { ttl: None, min_ttl: None, key: None, patience: Self::PATIENCE, interface: None }
    }
}

/// The port of BGP (RFC 4271 §8.2.1).
const BGP_PORT: u16 = 179;

/// The port of a BMP station unless another is given: that of the stations that people use; none is assigned.
const BMP_PORT: u16 = 11019;

/// What pods may not reach: neither our BGP, nor that of those with whom they could pass for us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuardIntent {
    /// The ports of BGP, here and there.
    pub ports: BTreeSet<u16>,
    /// The addresses of other nodes, and of peers outside the cluster.
    pub routers: BTreeSet<IpAddr>,
}

impl GuardIntent {
    fn new(cluster: &Cluster, config: &BGPConfigurationSpec) -> Self {
        let nodes = cluster.networks.values().map(|network| network.spec.addresses);
        let nodes = nodes.flat_map(|NodeAddresses { ipv4, ipv6 }| {
            ipv4.map(IpAddr::V4).into_iter().chain(ipv6.map(IpAddr::V6))
        });
        let outside: Vec<_> = cluster.peers.values().filter_map(|peer| peer.spec.peer_ip).collect();
        let mut ports = BTreeSet::from([BGP_PORT, config.listen_port]);
        ports.extend(outside.iter().filter_map(|peer| peer.port));
        Self { ports, routers: nodes.chain(outside.iter().map(|peer| peer.ip)).collect() }
    }
}

/// Something configured that this node cannot do, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The kind of object it is about.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// What is wrong, as one sentence.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.kind, self.name, self.text)
    }
}

impl Problem {
    pub(crate) fn new(kind: &'static str, name: &str, text: impl Into<String>) -> Self {
        Self { kind, name: name.to_owned(), text: text.into() }
    }
}

/// What the parts of the intent are computed from.
struct View<'a> {
    cluster: &'a Cluster,
    me: &'a NodeName,
    node: &'a OwnNode,
    config: &'a BGPConfigurationSpec,
    own: OwnAddresses,
    reflector: bool,
}

/// The addresses that other nodes send to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct OwnAddresses {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl OwnAddresses {
    fn of(node: &OwnNode) -> Self {
        let v4 = node.addresses.iter().find_map(|address| match address {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        });
        let v6 = node.addresses.iter().find_map(|address| match address {
            IpAddr::V6(v6) => Some(*v6),
            IpAddr::V4(_) => None,
        });
        Self { v4, v6 }
    }

    fn iter(self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

impl Intent {
    /// What `me` is to do in this cluster.
    pub fn new(cluster: &Cluster, me: &NodeName) -> Self {
        let mut problems = BTreeSet::new();
        let configuration = cluster.configurations.get(DEFAULT_CONFIGURATION);
        let default = BGPConfigurationSpec::default();
        let config = configuration.map_or(&default, |configuration| &configuration.spec);
        let mut intent = Self {
            nat: pools::nat(cluster),
            guard: GuardIntent::new(cluster, config),
            announcement: pools::announcement(cluster, config, &mut problems),
            ..Self::default()
        };
        if let Some(node) = cluster.node.as_deref() {
            intent.pools = pools::for_node(cluster, node, &mut problems);
            intent.pod_pools = PodPools::new(cluster, node);
            let own = OwnAddresses::of(node);
            let reflector = reflects(config, node);
            let view = View { cluster, me, node, config, own, reflector };
            intent.secrets = peers::secrets(&view);
            intent.identify(&view, &mut problems);
        } else {
            problems.insert(Problem::new("Node", me.as_str(), "does not exist or was not seen yet"));
        }
        intent.problems = problems;
        intent
    }

    /// The node's own addresses, IPv4 first; empty while they are unknown.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let Some(network) = &self.network else { return Vec::new() };
        let NodeAddresses { ipv4, ipv6 } = network.spec.addresses;
        ipv4.map(IpAddr::V4).into_iter().chain(ipv6.map(IpAddr::V6)).collect()
    }

    fn identify(&mut self, view: &View<'_>, problems: &mut BTreeSet<Problem>) {
        let Some(router_id) = view.router_id() else {
            let text = "has no address of type InternalIP: the kubelet's --node-ip sets it";
            problems.insert(Problem::new("Node", view.me.as_str(), text));
            return;
        };
        let cluster_id = view.reflector.then(|| view.cluster_id(router_id));
        self.network = Some(OwnNetwork {
            spec: NodeNetworkSpec {
                addresses: NodeAddresses { ipv4: view.own.v4, ipv6: view.own.v6 },
                as_number: view.as_number(),
                router_id,
                cluster_id,
                node_uid: view.node.uid.clone(),
            },
            labels: view.node.labels.clone(),
        });
        let Some(id) = RouterId::new(router_id) else { return };
        let local = Local {
            cluster_id: cluster_id.and_then(RouterId::new),
            multipath: usize::from(view.config.multipath.max(1)),
            relax: view.config.multipath_relax,
            linger: Duration::from_secs(view.config.linger_seconds.into()),
            ..Local::new(Asn(view.as_number()), id)
        };
        let given: Vec<IpAddr> = view.config.listen_addresses.iter().map(|address| address.ip()).collect();
        let listen = if given.is_empty() { EVERYWHERE.to_vec() } else { given };
        let listen =
            listen.into_iter().map(|address| SocketAddr::new(address, view.config.listen_port)).collect();
        let peers = peers::all(view, problems);
        let port = view.config.listen_port;
        let (nodes, stations) = (peers::nodes(view), view.stations());
        self.bgp = Some(Arc::new(BgpIntent { local, listen, port, peers, nodes, stations }));
    }
}

impl View<'_> {
    /// The node's IPv4 address, or for a node without one a number made of its UID (RFC 6286 §2.1).
    fn router_id(&self) -> Option<Ipv4Addr> {
        if let (Some(router), Some(_)) = (&self.node.router, self.own.iter().next()) {
            return Some(router.router_id);
        }
        if self.own.v4.is_some() {
            return self.own.v4;
        }
        let v6 = self.own.v6?;
        let octets = v6.octets();
        let hash = octets
            .iter()
            .fold(0x811c_9dc5_u32, |hash, octet| (hash ^ u32::from(*octet)).wrapping_mul(0x0100_0193));
        Some(Ipv4Addr::from_bits(hash.max(1)))
    }

    fn cluster_id(&self, router_id: Ipv4Addr) -> Ipv4Addr {
        let given = self.node.router.and_then(|router| router.cluster_id);
        let shared = || self.config.route_reflector.as_ref().and_then(|reflector| reflector.cluster_id);
        given.or_else(shared).unwrap_or(router_id)
    }

    /// The BMP stations that this node connects to.
    fn stations(&self) -> BTreeSet<SocketAddr> {
        let all = self.config.monitoring_stations.iter();
        let ours = all.filter(|station| selects(station.node_selector.as_ref(), &self.node.labels));
        ours.map(|station| SocketAddr::new(station.address.ip, station.address.port.unwrap_or(BMP_PORT)))
            .collect()
    }

    /// The AS of this node.
    fn as_number(&self) -> u32 {
        self.node.router.map_or(self.config.as_number, |router| router.as_number)
    }
}

/// Whether a node is about to go.
fn drains(config: &BGPConfigurationSpec, node: &OwnNode) -> bool {
    config.graceful_shutdown.as_ref().is_some_and(|chosen| chosen.node_selector.matches(&node.labels))
}

fn reflects(config: &BGPConfigurationSpec, node: &OwnNode) -> bool {
    let chosen = config.route_reflector.as_ref().map(|reflector| &reflector.node_selector);
    let given = node.router.is_some_and(|router| router.cluster_id.is_some());
    let selected = chosen.is_some() && selects(chosen, &node.labels);
    config.topology == Topology::RouteReflectors && (given || selected)
}
