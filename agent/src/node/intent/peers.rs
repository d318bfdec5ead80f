//! Who peers with whom: the mesh, the reflectors, and what BGPPeer objects add to or change about them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use kube::ResourceExt as _;
use manx_api::{
    BGPFilter, BGPPeer, BGPPeerSpec, DEFAULT_CONFIGURATION, GracefulRestart, MaxPrefixes,
    NextHopMode as ApiNextHop, NodeNetwork, PeerAddress, PeerAsn, PeerTarget, SourceAddress, Topology,
    selects,
};
use manx_bgp::{Asn, Dial, Family, FamilyConfig, HoldTime, NextHopMode, PeerConfig, PeerId, PrefixLimit};

use super::policy::{Towards, export, import};
use super::{PeerIntent, Problem, Transport, View};
use crate::node::secret::{self, Key, SecretName};

/// Prefixes that one peer may announce in a family unless told otherwise: above the 20,000 blocks of a
/// cluster of 5,000 nodes, below what would hurt a node.
const MAX_PREFIXES: u32 = 65_536;
/// The first pause between two attempts to connect; it doubles from there.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const BGP_PORT: u16 = 179;
/// What to say to somebody who sets a pace of keepalives, which the speaker derives from the hold time.
const OWN_PACE: &str = "keepaliveTimeSeconds is not carried out yet: keepalives go out every third of the hold time; \
                        set holdTimeSeconds instead";

/// All sessions of this node.
pub(super) fn all(view: &View<'_>, problems: &mut BTreeSet<Problem>) -> BTreeMap<PeerId, PeerIntent> {
    let mut peers = BTreeMap::new();
    if view.config.keepalive_time_seconds.is_some() {
        problems.insert(Problem::new("BGPConfiguration", DEFAULT_CONFIGURATION, OWN_PACE));
    }
    for network in view.cluster.networks.values().filter(|network| view.in_mesh(network)) {
        let wanted = Wanted { spec: None, filters: Vec::new(), key: None };
        if let Some(peer) = wanted.with_node(view, network) {
            peers.insert(node_id(network), peer);
        }
    }
    for object in view.cluster.peers.values() {
        for (id, peer) in of_object(view, object, problems) {
            peers.insert(id, peer);
        }
    }
    peers
}

/// The Secrets that the sessions of this node need.
pub(super) fn secrets(view: &View<'_>) -> BTreeSet<SecretName> {
    let concerns_us = |spec: &BGPPeerSpec| {
        let chosen_here = selects(spec.node_selector.as_ref(), &view.node.labels);
        let chosen_there = spec.peer_selector.as_ref().is_some_and(|nodes| nodes.matches(&view.node.labels));
        chosen_here || chosen_there
    };
    let specs = view.cluster.peers.values().map(|peer| &peer.spec).filter(|spec| concerns_us(spec));
    specs.filter_map(|spec| spec.password_secret_ref.as_ref()).map(SecretName::from).collect()
}

fn node_id(network: &NodeNetwork) -> PeerId {
    PeerId::from(format!("node/{}", network.name_any()))
}

impl View<'_> {
    fn is_me(&self, network: &NodeNetwork) -> bool {
        network.name_any() == self.me.as_str()
    }

    /// Whether the topology of the cluster gives us a session with that node.
    fn in_mesh(&self, network: &NodeNetwork) -> bool {
        if self.is_me(network) {
            return false;
        }
        match self.config.topology {
            Topology::FullMesh => true,
            Topology::RouteReflectors => self.reflector || network.spec.cluster_id.is_some(),
            Topology::None => false,
        }
    }
}

/// The sessions that one BGPPeer gives this node.
fn of_object(
    view: &View<'_>,
    object: &BGPPeer,
    problems: &mut BTreeSet<Problem>,
) -> Vec<(PeerId, PeerIntent)> {
    let name = object.name_any();
    let chosen_here = selects(object.spec.node_selector.as_ref(), &view.node.labels);
    if chosen_here && object.spec.keepalive_time_seconds.is_some() {
        problems.insert(Problem::new("BGPPeer", &name, OWN_PACE));
    }
    let mut refuse = |text: String| {
        problems.insert(Problem::new("BGPPeer", &name, text));
        Vec::new()
    };
    match object.spec.target() {
        Some(PeerTarget::Address(address)) if chosen_here => {
            match Wanted::read(view, &object.spec).and_then(|wanted| wanted.with_router(view, address)) {
                Ok(peer) => vec![(PeerId::from(format!("peer/{name}")), peer)],
                Err(text) => refuse(text),
            }
        }
        Some(PeerTarget::Interface(_)) if chosen_here => {
            refuse("peers by interface are not supported yet: name the peer's address in peerIP".to_owned())
        }
        Some(PeerTarget::Nodes(selector)) => match Wanted::read(view, &object.spec) {
            Ok(wanted) => {
                // Both ends need the session: those that the peer selector chooses expect those that select them.
                let chosen_there = selector.matches(&view.node.labels);
                let others = view.cluster.networks.values().filter(|network| !view.is_me(network));
                let ours = others.filter(|network| {
                    chosen_here && selector.matches(network.labels())
                        || chosen_there && selects(object.spec.node_selector.as_ref(), network.labels())
                });
                ours.filter_map(|network| Some((node_id(network), wanted.with_node(view, network)?)))
                    .collect()
            }
            Err(text) => refuse(text),
        },
        None if chosen_here => {
            refuse("exactly one of peerIP, interface and peerSelector must be set".to_owned())
        }
        Some(PeerTarget::Address(_) | PeerTarget::Interface(_)) | None => Vec::new(),
    }
}

/// What is wanted of a session, before the peer's addresses are known.
struct Wanted<'a> {
    /// The BGPPeer behind it; the mesh has none.
    spec: Option<&'a BGPPeerSpec>,
    filters: Vec<&'a BGPFilter>,
    key: Option<Key>,
}

impl<'a> Wanted<'a> {
    /// Reads a BGPPeer; what we cannot do as it is written is refused, never done by half.
    fn read(view: &View<'a>, spec: &'a BGPPeerSpec) -> Result<Self, String> {
        if spec.reachable_by.is_some() {
            return Err("reachableBy is not supported yet: give the node a route to the peer".to_owned());
        }
        let mut filters = Vec::new();
        for name in &spec.filters {
            let Some(filter) = view.cluster.filters.get(name) else {
                return Err(format!("there is no BGPFilter {name}: the session waits for it"));
            };
            filters.push(&**filter);
        }
        let key = spec.password_secret_ref.as_ref();
        let key = key.map(|wanted| secret::find(&view.cluster.secrets, wanted)).transpose();
        Ok(Self { spec: Some(spec), filters, key: key.map_err(|missing| missing.to_string())? })
    }

    /// A session with another node; `None` when no family is common to both.
    fn with_node(&self, view: &View<'_>, network: &NodeNetwork) -> Option<PeerIntent> {
        let theirs = network.spec.addresses;
        let v4 = theirs.ipv4.zip(view.own.v4).map(|(their, our)| (IpAddr::V4(their), IpAddr::V4(our)));
        let v6 = theirs.ipv6.zip(view.own.v6).map(|(their, our)| (IpAddr::V6(their), IpAddr::V6(our)));
        let (target, source) = v4.or(v6)?;
        let target = SocketAddr::new(target, view.config.listen_port);
        let asn = Asn(network.spec.as_number);
        let towards = Towards::Node;
        let families = [v4.map(|_| Family::Ipv4Unicast), v6.map(|_| Family::Ipv6Unicast)];
        let families = families.into_iter().flatten();
        let families = families.filter_map(|family| Some((family, self.family(view, family, towards)?)));
        let config = PeerConfig {
            families: families.collect(),
            source: Some(source),
            reflector_client: view.reflector && network.spec.cluster_id.is_none(),
            ..self.session(view, asn, target)
        };
        let transport = self.transport(&config);
        Some(PeerIntent { config, transport })
    }

    /// A session with a router outside the cluster.
    fn with_router(&self, view: &View<'_>, address: PeerAddress) -> Result<PeerIntent, String> {
        let spec = self.spec.expect("a router is named by a BGPPeer");
        let asn = match spec.as_number {
            PeerAsn::Number(number) => Asn(number),
            PeerAsn::Internal => Asn(view.as_number()),
            PeerAsn::External => {
                return Err("asNumber External is not supported yet: write the peer's AS".to_owned());
            }
        };
        let own = view.own.iter().find(|own| own.is_ipv4() == address.ip.is_ipv4());
        let Some(own) = own else {
            return Err(format!("{} cannot be reached: this node has no address of that family", address.ip));
        };
        let target = SocketAddr::new(address.ip, address.port.unwrap_or(BGP_PORT));
        let families = Family::ALL.into_iter();
        let families =
            families.filter_map(|family| Some((family, self.family(view, family, Towards::Outside)?)));
        let config = PeerConfig {
            families: families.collect(),
            source: (spec.source_address == SourceAddress::UseNodeIP).then_some(own),
            ..self.session(view, asn, target)
        };
        let transport = self.transport(&config);
        Ok(PeerIntent { config, transport })
    }

    fn session(&self, view: &View<'_>, asn: Asn, target: SocketAddr) -> PeerConfig {
        let config = view.config;
        let hold = self.spec.and_then(|spec| spec.hold_time_seconds).unwrap_or(config.hold_time_seconds);
        let retry =
            self.spec.and_then(|spec| spec.connect_retry_seconds).unwrap_or(config.connect_retry_seconds);
        let restart = self.spec.and_then(|spec| spec.graceful_restart).unwrap_or(config.graceful_restart);
        PeerConfig {
            target: if self.spec.is_some_and(|spec| spec.passive) {
                Dial::Passive(target)
            } else {
                Dial::Active(target)
            },
            hold_time: HoldTime::new(hold).unwrap_or_default(),
            connect_retry: FIRST_RETRY.min(Duration::from_secs(retry.into())),
            graceful_restart: restart_time(restart),
            ..PeerConfig::new(asn, target)
        }
    }

    /// One family of a session; `None` when this node has no address for it to be a next hop.
    fn family(&self, view: &View<'_>, family: Family, towards: Towards) -> Option<FamilyConfig> {
        let own = view.own.iter().find(|own| Family::of(*own) == family)?;
        let mode = self.spec.map_or(ApiNextHop::Auto, |spec| spec.next_hop_mode);
        let next_hop = match mode {
            ApiNextHop::Auto | ApiNextHop::Own => NextHopMode::Own(own),
            ApiNextHop::Keep => NextHopMode::Keep,
        };
        let limits = [self.spec.and_then(|spec| spec.max_prefixes), Some(view.config.max_prefixes)];
        let limit = limits.into_iter().flatten().find_map(|limits| limit_of(limits, family));
        let import = import(view, family, &self.filters);
        let export = export(view, family, towards, &self.filters);
        Some(FamilyConfig {
            limit: PrefixLimit::new(limit.unwrap_or(MAX_PREFIXES)),
            ..FamilyConfig::new(import, export, next_hop)
        })
    }

    fn transport(&self, config: &PeerConfig) -> Transport {
        let hops = self.spec.and_then(|spec| spec.ttl_security_hops);
        Transport {
            ttl: hops.map(|_| 255),
            min_ttl: hops.map(|hops| 255 - hops.saturating_sub(1)),
            key: self.key.clone(),
            patience: config.hold_time.duration().unwrap_or(Transport::PATIENCE),
            interface: None,
        }
    }
}

fn restart_time(restart: GracefulRestart) -> Option<Duration> {
    restart.enabled.then(|| Duration::from_secs(restart.restart_time_seconds.into()))
}

fn limit_of(limits: MaxPrefixes, family: Family) -> Option<u32> {
    match family {
        Family::Ipv4Unicast => limits.ipv4,
        Family::Ipv6Unicast => limits.ipv6,
    }
}
