//! Who peers with whom: the mesh, the reflectors, and what BGPPeer objects add to or change about them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use kube::ResourceExt as _;
use manx_api::{
    BGPFilter, BGPPeer, BGPPeerSpec, NextHopMode as ApiNextHop, NodeNetwork, PeerAddress, PeerRange,
    PeerTarget, SourceAddress, Topology, selects,
};
use manx_bgp::{
    Asn, Dial, Family, FamilyConfig, HoldTime, NextHopMode, PeerConfig, PeerId, Prefix, RemoteAs,
};

use manx_kernel::names::HOST_LINK_PREFIX;

use super::policy::{Towards, export, import};
use super::session::{Settings, contradiction, dial, remote_as};
use super::{BGP_PORT, PeerIntent, Problem, Transport, View};
use crate::node::secret::{self, Key, SecretName};
/// All sessions of this node.
pub(super) fn all(view: &View<'_>, problems: &mut BTreeSet<Problem>) -> BTreeMap<PeerId, PeerIntent> {
    let mut peers = BTreeMap::new();
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

/// The other nodes that there are.
pub(super) fn nodes(view: &View<'_>) -> BTreeSet<PeerId> {
    let mut nodes: BTreeSet<PeerId> =
        view.cluster.networks.values().map(|network| node_id(network)).collect();
    nodes.remove(&PeerId::from(format!("node/{}", view.me)));
    nodes
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
            // One that is to reflect counts before it has said that it does: nobody is left without a session meanwhile.
            Topology::RouteReflectors => {
                let chosen = self.config.route_reflector.as_ref();
                let chosen = chosen.is_some_and(|chosen| chosen.node_selector.matches(network.labels()));
                self.reflector || chosen || network.spec.cluster_id.is_some()
            }
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
        Some(PeerTarget::Range(range)) if chosen_here => {
            match Wanted::read(view, &object.spec).and_then(|wanted| wanted.with_range(view, range)) {
                Ok(peer) => vec![(PeerId::from(format!("peer/{name}")), peer)],
                Err(text) => refuse(text),
            }
        }
        Some(PeerTarget::Interface(link)) if chosen_here => {
            match Wanted::read(view, &object.spec).and_then(|wanted| wanted.with_link(view, link)) {
                Ok(peer) => vec![(PeerId::from(format!("peer/{name}")), peer)],
                Err(text) => refuse(text),
            }
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
            refuse("exactly one of peerIP, interface, peerSelector and peerRange must be set".to_owned())
        }
        Some(PeerTarget::Address(_) | PeerTarget::Interface(_) | PeerTarget::Range(_)) | None => Vec::new(),
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
        if let Some(text) = contradiction(spec, view.as_number()) {
            return Err(text);
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
            ..self.session(view, RemoteAs::Exactly(asn), target)
        };
        let transport = self.transport(view, &config);
        Some(PeerIntent { config, transport })
    }

    /// A session with a router outside the cluster.
    fn with_router(&self, view: &View<'_>, address: PeerAddress) -> Result<PeerIntent, String> {
        let spec = self.spec.expect("a router is named by a BGPPeer");
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
            ..self.session(view, remote_as(spec.as_number), target)
        };
        let transport = self.transport(view, &config);
        Ok(PeerIntent { config, transport })
    }

    /// Sessions with whoever connects from inside a prefix.
    /// A session with whatever is at the other end of a link: its address and ours are found there.
    fn with_link(&self, view: &View<'_>, link: &str) -> Result<PeerIntent, String> {
        let spec = self.spec.expect("a link is named by a BGPPeer");
        if link.starts_with(HOST_LINK_PREFIX) {
            return Err(format!("{link} leads to a pod, and pods are kept from BGP: name another link"));
        }
        let families = Family::ALL.into_iter();
        let families =
            families.filter_map(|family| Some((family, self.family(view, family, Towards::Outside)?)));
        // IPv4 goes over the link's IPv6 addresses, as there are no others (RFC 8950).
        let families =
            families.map(|(family, config)| (family, FamilyConfig { extended_next_hop: true, ..config }));
        let unknown = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), BGP_PORT);
        let config = PeerConfig {
            families: families.collect(),
            ..self.session(view, remote_as(spec.as_number), unknown)
        };
        let transport = Transport { interface: Some(link.to_owned()), ..self.transport(view, &config) };
        Ok(PeerIntent { config, transport })
    }

    fn with_range(&self, view: &View<'_>, range: PeerRange) -> Result<PeerIntent, String> {
        let spec = self.spec.expect("a range is named by a BGPPeer");
        let network = range.cidr.network();
        let prefix = Prefix::new(network).map_err(|error| error.to_string())?;
        let own = view.own.iter().find(|own| Family::of(*own) == prefix.family());
        let Some(own) = own else {
            return Err(format!("{network} cannot be reached: this node has no address of that family"));
        };
        let families = Family::ALL.into_iter();
        let families =
            families.filter_map(|family| Some((family, self.family(view, family, Towards::Outside)?)));
        // Nobody is dialled: the address says nothing.
        let nowhere = SocketAddr::new(network.network(), BGP_PORT);
        let config = PeerConfig {
            target: Dial::Range { prefix, limit: range.limit },
            families: families.collect(),
            source: (spec.source_address == SourceAddress::UseNodeIP).then_some(own),
            ..self.session(view, remote_as(spec.as_number), nowhere)
        };
        let transport = self.transport(view, &config);
        Ok(PeerIntent { config, transport })
    }

    fn settings<'b>(&self, view: &'b View<'_>) -> Settings<'b>
    where
        'a: 'b,
    {
        Settings { peer: self.spec, config: view.config }
    }

    fn session(&self, view: &View<'_>, asn: RemoteAs, target: SocketAddr) -> PeerConfig {
        let settings = self.settings(view);
        let (connect_retry, connect_retry_max) = settings.retry();
        PeerConfig {
            target: dial(self.spec, target),
            hold_time: HoldTime::new(settings.hold_time()).unwrap_or_default(),
            keepalive: settings.keepalive(),
            connect_retry,
            connect_retry_max,
            delay_open: settings.delay_open(),
            damping: settings.damping(),
            graceful_restart: settings.graceful_restart(),
            long_lived: settings.long_lived(),
            role: settings.role(),
            role_strict: self.spec.is_some_and(|spec| spec.role_strict),
            local_as: settings.local_as(),
            allow_own_as: self.spec.and_then(|spec| spec.num_allowed_local_as_numbers).unwrap_or(0),
            remove_private_as: self.spec.is_some_and(|spec| spec.remove_private_as),
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
        let settings = self.settings(view);
        let import = import(view, family, &self.filters);
        let export = export(view, family, towards, &self.filters);
        Some(FamilyConfig {
            limit: settings.limit(family),
            add_path: settings.add_path(),
            extended_next_hop: settings.extended_next_hop(),
            ..FamilyConfig::new(import, export, next_hop)
        })
    }

    /// How far what we send may go: to a router of another AS on the same link, unless told otherwise.
    fn reach(&self, view: &View<'_>, config: &PeerConfig) -> Option<u8> {
        let spec = self.spec.filter(|spec| spec.peer_selector.is_none())?;
        let external = match config.asn {
            RemoteAs::Exactly(asn) => asn.0 != view.config.as_number,
            RemoteAs::Internal => false,
            RemoteAs::External => true,
        };
        spec.ebgp_multihop.or_else(|| external.then_some(1))
    }

    fn transport(&self, view: &View<'_>, config: &PeerConfig) -> Transport {
        let hops = self.spec.and_then(|spec| spec.ttl_security_hops);
        Transport {
            ttl: hops.map(|_| 255).or_else(|| self.reach(view, config)),
            min_ttl: hops.map(|hops| 255 - hops.saturating_sub(1)),
            key: self.key.clone(),
            patience: config.hold_time.duration().unwrap_or(Transport::PATIENCE),
            interface: None,
        }
    }
}
