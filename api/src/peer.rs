//! `BGPPeer`: whom some nodes speak BGP with, besides the mesh.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Cidr, GracefulRestart, LabelSelector, LongLivedGracefulRestart, MaxPrefixes, PeerAddress, PeerAsn,
};

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
    printcolumn(
        name = "ACCEPTED",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(name = "INTERFACE", type_ = "string", json_path = ".spec.interface", priority = 1),
    printcolumn(name = "RANGE", type_ = "string", json_path = ".spec.peerRange.cidr", priority = 1),
    printcolumn(name = "NEXTHOP", type_ = "string", json_path = ".spec.nextHopMode", priority = 1),
    printcolumn(name = "FILTERS", type_ = "string", json_path = ".spec.filters", priority = 1),
    printcolumn(
        name = "REASON",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].reason",
        priority = 1
    ),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = (
        "(has(self.peerIP) ? 1 : 0) + (has(self.interface) ? 1 : 0) + (has(self.peerSelector) ? 1 : 0) + (has(self.peerRange) ? 1 : 0) == 1",
        "exactly one of peerIP, interface, peerSelector and peerRange must be set"
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
        "!has(self.ebgpMultihop) || !has(self.ttlSecurityHops)",
        "ebgpMultihop and ttlSecurityHops exclude each other: with TTL security every packet has a TTL of 255"
    ),
    validation = ("!self.roleStrict || has(self.role)", "roleStrict asks the peer for a role: set ours with role"),
    validation = (
        "!has(self.localAS) || self.asNumber != 'Internal'",
        "localAS is shown to external peers: asNumber must not be Internal"
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

    /// Whoever connects from inside a prefix: each becomes a peer of its own, named `peer/<name>/<address>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_range: Option<PeerRange>,

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

    /// TTL of the packets that we send to the peer: how many hops away it may be. 1: only a neighbour. Unset: 1
    /// for a router of another AS, else the system's default (64).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 255))]
    pub ebgp_multihop: Option<u8>,

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

    /// Seconds that a new connection waits for the peer's OPEN before ours goes out (RFC 4271 §8.1.1). Unset: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 240))]
    pub delay_open_seconds: Option<u16>,

    /// Refuse a peer whose session keeps failing for longer and longer (RFC 4271 §8.1.1, DampPeerOscillations).
    #[serde(default = "yes")]
    pub damping: bool,

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

    /// Keep the peer's routes, as the last resort, while it stays away for longer than that (RFC 9494). Unset: as in
    /// BGPConfiguration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_lived_graceful_restart: Option<LongLivedGracefulRestart>,

    /// Several paths for one prefix (RFC 7911).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_path: Option<AddPath>,

    /// Take IPv4 prefixes with IPv6 next hops (RFC 8950).
    #[serde(default = "yes")]
    pub extended_next_hop: bool,

    /// Another AS that we show to this peer instead of ours, as during a migration.
    #[serde(rename = "localAS", default, skip_serializing_if = "Option::is_none")]
    pub local_as: Option<LocalAs>,

    /// How often our own AS may be in a path that we take from this peer.
    #[serde(rename = "numAllowedLocalASNumbers", default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub num_allowed_local_as_numbers: Option<u8>,

    /// Take private AS numbers (RFC 6996) out of the paths that we send.
    #[serde(rename = "removePrivateAS", default)]
    pub remove_private_as: bool,

    /// What we are to an external peer (RFC 9234). Both sides must agree; leaks are then stopped by OTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,

    /// Refuse a peer that tells no role (RFC 9234 §4.2).
    #[serde(default)]
    pub role_strict: bool,

    /// Wait for the peer to connect instead of connecting.
    #[serde(default)]
    pub passive: bool,
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
    /// Whoever connects from inside this prefix.
    Range(PeerRange),
}

/// Peers that are known by the prefix that they connect from.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PeerRange {
    /// Where such peers may be.
    pub cidr: Cidr,

    /// How many there may be on a node at a time.
    #[serde(default = "default_range_limit")]
    #[schemars(range(min = 1, max = 1000))]
    pub limit: u32,
}

/// Several paths for one prefix (RFC 7911).
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AddPath {
    /// Take them from the peer.
    #[serde(default)]
    pub receive: bool,

    /// Tell the peer as many as this, if it takes them. Unset: one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub send: Option<u8>,
}

/// Another AS that we show to a peer.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LocalAs {
    /// The AS.
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub as_number: u32,

    /// Do not put it before the paths that the peer sends.
    #[serde(default)]
    pub no_prepend: bool,

    /// Do not show our real AS in the paths that we send.
    #[serde(rename = "replaceAS", default)]
    pub replace_as: bool,
}

/// What we are to a peer in the order of the Internet (RFC 9234 §4.1).
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We give the peer transit.
    Provider,
    /// We are a route server, the peer is its client.
    RouteServer,
    /// The peer is a route server, we are its client.
    RouteServerClient,
    /// The peer gives us transit.
    Customer,
    /// Neither pays the other.
    Peer,
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
            peer_range: None,
            as_number,
            password_secret_ref: None,
            source_address: SourceAddress::default(),
            ttl_security_hops: None,
            ebgp_multihop: None,
            hold_time_seconds: None,
            keepalive_time_seconds: None,
            connect_retry_seconds: None,
            delay_open_seconds: None,
            damping: true,
            filters: Vec::new(),
            next_hop_mode: NextHopMode::default(),
            max_prefixes: None,
            graceful_restart: None,
            long_lived_graceful_restart: None,
            add_path: None,
            extended_next_hop: true,
            local_as: None,
            num_allowed_local_as_numbers: None,
            remove_private_as: false,
            role: None,
            role_strict: false,
            passive: false,
        }
    }

    /// Whom the sessions are with. `None` when not exactly one of the four is set, which the door refuses.
    pub fn target(&self) -> Option<PeerTarget<'_>> {
        match (self.peer_ip, &self.interface, &self.peer_selector, self.peer_range) {
            (Some(address), None, None, None) => Some(PeerTarget::Address(address)),
            (None, Some(interface), None, None) => Some(PeerTarget::Interface(interface)),
            (None, None, Some(selector), None) => Some(PeerTarget::Nodes(selector)),
            (None, None, None, Some(range)) => Some(PeerTarget::Range(range)),
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

fn yes() -> bool {
    true
}

fn default_range_limit() -> u32 {
    100
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
