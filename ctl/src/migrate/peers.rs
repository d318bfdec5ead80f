//! Peers: Calico's BGPPeer as BGPPeers of ours, and peers that stand for the nodes which still run Calico.

use std::collections::BTreeMap;

use manx_api::{
    BGPFilter, BGPPeer, BGPPeerSpec, GracefulRestart, LabelSelector, LocalAs, NextHopMode, Operator,
    PeerAddress, PeerAsn, Requirement, SecretKeyRef, SourceAddress,
};

use super::bgp::{self, Network};
use super::calico::{Calico, Named, Node, Peer};
use super::plan::{Choices, NODE_PEER, Remarks};
use super::selector;

/// The label by which a single node is chosen.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// How far BIRD's sessions to routers of another AS may go: it never limits them.
const ANY_HOPS: u8 = 64;

/// The peers, sorted by name.
pub(crate) fn translate(
    calico: &Calico,
    network: &Network,
    choices: &Choices,
    filters: &[BGPFilter],
    remarks: &mut Remarks,
) -> Vec<BGPPeer> {
    let reader = Reader { calico, network, choices, filters };
    let mut peers: Vec<BGPPeer> = calico.peers.iter().filter_map(|peer| reader.one(peer, remarks)).collect();
    if peers.iter().any(|peer| peer.spec.peer_ip.is_some()) {
        remarks.warning(
            "BGP",
            "Calico believes every route of a peer, Manx only those inside pools: let a BGPFilter accept others",
        );
    }
    if network.mesh {
        peers.extend(node_peers(calico, network, choices, remarks));
    }
    peers.sort_by_key(|peer| peer.metadata.name.clone());
    peers
}

struct Reader<'a> {
    calico: &'a Calico,
    network: &'a Network,
    choices: &'a Choices,
    filters: &'a [BGPFilter],
}

impl Reader<'_> {
    fn one(&self, peer: &Named<Peer>, remarks: &mut Remarks) -> Option<BGPPeer> {
        let about = format!("BGPPeer {}", peer.name);
        match self.spec(peer, &about, remarks) {
            Ok(spec) => Some(BGPPeer::new(&peer.name, spec?)),
            Err(text) => {
                remarks.blocker(about, text);
                None
            }
        }
    }

    /// `None` for a peer that is left out, which was told.
    fn spec(
        &self,
        peer: &Named<Peer>,
        about: &str,
        remarks: &mut Remarks,
    ) -> Result<Option<BGPPeerSpec>, String> {
        let Named { spec, .. } = peer;
        if !spec.local_workload_selector.is_empty() {
            remarks.warning(about, "localWorkloadSelector: pods are kept from BGP in Manx; left out");
            return Ok(None);
        }
        if !spec.reachable_by.is_empty() {
            remarks.warning(
                about,
                format!("reachableBy {}: make that static route yourself", spec.reachable_by),
            );
        }
        let mut object = self.target(spec)?;
        object.node_selector = self.nodes(spec)?;
        object.filters = self.filters(spec)?;
        self.session(spec, &mut object);
        object.graceful_restart = spec.max_restart_time.as_deref().and_then(|text| {
            let restart_time_seconds = bgp::seconds(text, remarks)?;
            Some(GracefulRestart { enabled: true, restart_time_seconds })
        });
        object.keepalive_time_seconds = spec
            .keepalive_time
            .as_deref()
            .and_then(|text| bgp::seconds(text, remarks))
            .map(|time| time.min(21845));
        object.hold_time_seconds = object.keepalive_time_seconds.map(|time| time.saturating_mul(3));
        object.password_secret_ref = self.password(spec, about, remarks);
        Ok(Some(object))
    }

    /// Whom it is with.
    fn target(&self, spec: &Peer) -> Result<BGPPeerSpec, String> {
        if !spec.peer_selector.is_empty() {
            let chosen = selector::translate(&spec.peer_selector);
            let chosen = chosen.map_err(|error| format!("peerSelector {:?}: {error}", spec.peer_selector))?;
            let nowhere = PeerAddress { ip: std::net::Ipv4Addr::UNSPECIFIED.into(), port: None };
            let with_router = BGPPeerSpec::with_router(nowhere, PeerAsn::Internal);
            return Ok(BGPPeerSpec {
                peer_ip: None,
                peer_selector: Some(chosen.unwrap_or_default()),
                ..with_router
            });
        }
        let address: PeerAddress = spec.peer_ip.parse().map_err(|error| format!("peerIP: {error}"))?;
        let asn = match spec.as_number {
            0 => self.network.as_number,
            number => number,
        };
        let mut object = BGPPeerSpec::with_router(address, PeerAsn::Number(asn));
        if asn != self.network.as_number && spec.ttl_security.is_none() {
            object.ebgp_multihop = Some(ANY_HOPS);
        }
        Ok(object)
    }

    /// Which nodes have it.
    fn nodes(&self, spec: &Peer) -> Result<Option<LabelSelector>, String> {
        if spec.node.is_empty() {
            let chosen = selector::translate(&spec.node_selector);
            return chosen.map_err(|error| format!("nodeSelector {:?}: {error}", spec.node_selector));
        }
        let node = self.calico.nodes.iter().find(|node| node.name == spec.node);
        let node = node.ok_or_else(|| format!("there is no Node {}: delete the peer", spec.node))?;
        let hostname = hostname(node);
        let match_labels = BTreeMap::from([(HOSTNAME.to_owned(), hostname)]);
        Ok(Some(LabelSelector { match_labels, ..LabelSelector::default() }))
    }

    fn filters(&self, spec: &Peer) -> Result<Vec<String>, String> {
        let known =
            |name: &String| self.filters.iter().any(|filter| filter.metadata.name.as_ref() == Some(name));
        match spec.filters.iter().find(|name| !known(name)) {
            Some(missing) => Err(format!("its BGPFilter {missing} is not taken over")),
            None => Ok(spec.filters.clone()),
        }
    }

    fn session(&self, spec: &Peer, object: &mut BGPPeerSpec) {
        object.ttl_security_hops = spec.ttl_security.filter(|hops| *hops > 0);
        object.num_allowed_local_as_numbers = spec.allowed_local_as.map(|count| count.min(10));
        object.source_address = match spec.source_address.as_str() {
            "None" => SourceAddress::None,
            _ => SourceAddress::UseNodeIP,
        };
        object.next_hop_mode = match spec.next_hop_mode.as_str() {
            "Self" => NextHopMode::Own,
            "Keep" => NextHopMode::Keep,
            _ if spec.keep_original_next_hop => NextHopMode::Keep,
            _ => NextHopMode::Auto,
        };
        // BIRD knows one AS per session: the other is not shown in either direction.
        object.local_as = spec
            .local_as_number
            .filter(|number| *number != self.network.as_number)
            .map(|as_number| LocalAs { as_number, no_prepend: true, replace_as: true });
    }

    fn password(&self, spec: &Peer, about: &str, remarks: &mut Remarks) -> Option<SecretKeyRef> {
        let key = spec.password.as_ref()?.secret_key_ref.clone()?;
        let namespace = self.choices.namespace.clone();
        let text = format!("copy the Secret {} from the namespace of Calico's pods to {namespace}", key.name);
        remarks.warning(about, text);
        Some(SecretKeyRef { namespace, name: key.name, key: key.key })
    }
}

fn hostname(node: &Node) -> String {
    node.labels.get(HOSTNAME).unwrap_or(&node.name).clone()
}

/// Peers for each node that still runs Calico, at all others: Calico's mesh expects every node at its old address, and
/// has a session of its own for each family.
fn node_peers(calico: &Calico, network: &Network, choices: &Choices, remarks: &mut Remarks) -> Vec<BGPPeer> {
    let mut peers = Vec::new();
    for node in calico.nodes.iter().filter(|node| !choices.moved.contains(&node.name)) {
        let before = peers.len();
        for ip in bgp::addresses(node) {
            let family = if ip.is_ipv4() { "v4" } else { "v6" };
            let port = (network.port != 179).then_some(network.port);
            let values = vec![hostname(node)];
            let others = Requirement { key: HOSTNAME.to_owned(), operator: Operator::NotIn, values };
            let selector = LabelSelector { match_expressions: vec![others], ..LabelSelector::default() };
            let spec = BGPPeerSpec {
                node_selector: Some(selector),
                ..BGPPeerSpec::with_router(PeerAddress { ip, port }, PeerAsn::Number(network.as_number))
            };
            peers.push(BGPPeer::new(&format!("{NODE_PEER}{family}-{}", node.name), spec));
        }
        if peers.len() == before {
            remarks.note(
                format!("Node {}", node.name),
                "it has no BGP address of Calico's: no peer stands for it",
            );
        }
    }
    peers
}
