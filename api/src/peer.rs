//! `BGPPeer`: whom some nodes speak BGP with, besides the mesh.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Address, GracefulRestart, LabelSelector, MaxPrefixes, PeerAddress, PeerAsn};

/// A BGP session of some nodes: with a router, with whatever is at the other end of a link, or with other nodes.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "manx.dev",
    version = "v1alpha1",
    kind = "BGPPeer",
    plural = "bgppeers",
    shortname = "bgpp",
    category = "manx",
    status = "BGPPeerStatus",
    derive = "PartialEq",
    doc = "A BGP session of some nodes: with a router, with whatever is at the other end of a link, or with other nodes.",
    printcolumn(name = "PEER", type_ = "string", json_path = ".spec.peerIP"),
    printcolumn(name = "ASN", type_ = "string", json_path = ".spec.asNumber"),
    printcolumn(name = "NEXTHOP", type_ = "string", json_path = ".spec.nextHopMode", priority = 1),
    printcolumn(name = "FILTERS", type_ = "string", json_path = ".spec.filters", priority = 1),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = (
        "(has(self.peerIP) ? 1 : 0) + (has(self.interface) ? 1 : 0) + (has(self.peerSelector) ? 1 : 0) == 1",
        "exactly one of peerIP, interface and peerSelector must be set"
    ),
    validation = (
        "!has(self.holdTimeSeconds) || self.holdTimeSeconds == 0 || self.holdTimeSeconds >= 3",
        "holdTimeSeconds must be 0 (no keepalives at all) or at least 3 (RFC 4271 §4.2)"
    ),
    validation = (
        "!has(self.keepaliveTimeSeconds) || !has(self.holdTimeSeconds) || self.holdTimeSeconds == 0 || self.keepaliveTimeSeconds < self.holdTimeSeconds",
        "keepaliveTimeSeconds must be below holdTimeSeconds"
    ),
    validation = (
        "!has(self.reachableBy) || has(self.peerIP)",
        "reachableBy is the way to peerIP: it needs peerIP"
    )
)]
pub struct BGPPeerSpec {
    /// Which nodes have this session, by the labels of the Node. Unset: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,

    /// The peer's address, and its port unless that is 179: `192.0.2.1`, `192.0.2.1:1179`, `fd00::1` or
    /// `[fd00::1]:1179`.
    #[serde(rename = "peerIP", default, skip_serializing_if = "Option::is_none")]
    pub peer_ip: Option<PeerAddress>,

    /// The link whose other end is the peer, found by its router advertisements; routes of both families go over its
    /// link-local address (RFC 8950).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15), regex(pattern = "^[^/\\s]+$"))]
    pub interface: Option<String>,

    /// Other nodes of the cluster, by the labels of the Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_selector: Option<LabelSelector>,

    /// The peer's AS: a number, Internal (ours) or External (any but ours).
    pub as_number: PeerAsn,

    /// The TCP MD5 password (RFC 2385), from a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<SecretKeyRef>,

    /// Which address the session comes from.
    #[serde(default)]
    pub source_address: SourceAddress,

    /// Hops to the peer, for TTL security (RFC 5082): packets from farther away are dropped. Unset: no TTL security.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 254))]
    pub ttl_security_hops: Option<u8>,

    /// Silence, in seconds, after which the peer is taken for dead: 0 (never) or 3 to 65535. Unset: as in
    /// BGPConfiguration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_time_seconds: Option<u16>,

    /// Seconds between keepalives. Unset: as in BGPConfiguration, or a third of the hold time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 21845))]
    pub keepalive_time_seconds: Option<u16>,

    /// Longest wait, in seconds, between attempts to connect. Unset: as in BGPConfiguration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600))]
    pub connect_retry_seconds: Option<u16>,

    /// Names of BGPFilters, asked in this order; the first rule that matches decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    pub filters: Vec<String>,

    /// What next hop our announcements to this peer carry.
    #[serde(default)]
    pub next_hop_mode: NextHopMode,

    /// Prefixes taken from the peer before the session is closed. Unset: as in BGPConfiguration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prefixes: Option<MaxPrefixes>,

    /// Keep forwarding while either side's process restarts (RFC 4724). Unset: as in BGPConfiguration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graceful_restart: Option<GracefulRestart>,

    /// Wait for the peer to connect instead of connecting.
    #[serde(default)]
    pub passive: bool,

    /// A gateway through which the peer is reached, when the node's own routes do not lead there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable_by: Option<Address>,
}

/// Whom a [`BGPPeer`] is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PeerTarget<'a> {
    /// A router at this address.
    Address(PeerAddress),
    /// The other end of this link.
    Interface(&'a str),
    /// Nodes with these labels.
    Nodes(&'a LabelSelector),
}

/// One key of one Secret.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// The Secret's namespace. Agents may read Secrets in their own namespace only, unless RBAC was widened.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,

    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// The key in the Secret's data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Which address a session comes from.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceAddress {
    /// The node's address, as in its NodeNetwork.
    #[default]
    UseNodeIP,
    /// Whatever the kernel chooses.
    None,
}

/// What next hop announcements carry.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NextHopMode {
    /// Ours on eBGP sessions and for our own blocks, else unchanged.
    #[default]
    Auto,
    /// Always ours.
    #[serde(rename = "Self")]
    Own,
    /// Always unchanged, also to eBGP peers (our own blocks still carry our address).
    Keep,
}

/// What became of a peer's configuration. The state of its sessions is in the NodeNetwork of each node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BGPPeerStatus {
    /// Accepted, or why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

impl BGPPeerSpec {
    /// A session of all nodes with a router, every other field as the API server would default it.
    pub fn with_router(peer: PeerAddress, as_number: PeerAsn) -> Self {
        Self {
            node_selector: None,
            peer_ip: Some(peer),
            interface: None,
            peer_selector: None,
            as_number,
            password_secret_ref: None,
            source_address: SourceAddress::default(),
            ttl_security_hops: None,
            hold_time_seconds: None,
            keepalive_time_seconds: None,
            connect_retry_seconds: None,
            filters: Vec::new(),
            next_hop_mode: NextHopMode::default(),
            max_prefixes: None,
            graceful_restart: None,
            passive: false,
            reachable_by: None,
        }
    }

    /// Whom the sessions are with. `None` when not exactly one of the three is set, which the door refuses.
    pub fn target(&self) -> Option<PeerTarget<'_>> {
        match (self.peer_ip, &self.interface, &self.peer_selector) {
            (Some(address), None, None) => Some(PeerTarget::Address(address)),
            (None, Some(interface), None) => Some(PeerTarget::Interface(interface)),
            (None, None, Some(selector)) => Some(PeerTarget::Nodes(selector)),
            _ => None,
        }
    }
}

impl BGPPeer {
    /// The router of `deploy/examples/bgppeer.yaml`.
    pub fn example() -> Self {
        let address = "192.0.2.1".parse().expect("a valid address");
        let mut spec = BGPPeerSpec::with_router(address, PeerAsn::Number(65000));
        spec.filters = vec!["tor".into()];
        Self::new("tor", spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_api_server_would_default_is_what_with_router_gives() {
        let json = serde_json::json!({"peerIP": "[fd00::1]:1179", "asNumber": "External"});
        let sparse: BGPPeerSpec = serde_json::from_value(json).expect("a peer");
        let peer = "[fd00::1]:1179".parse().expect("an address");
        assert_eq!(sparse, BGPPeerSpec::with_router(peer, PeerAsn::External));
        assert_eq!(sparse.target(), Some(PeerTarget::Address(peer)));
    }

    #[test]
    fn two_targets_are_none() {
        let mut spec = BGPPeer::example().spec;
        spec.interface = Some("eth1".into());
        assert_eq!(spec.target(), None);
    }
}
