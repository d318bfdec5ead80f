//! `BGPConfiguration`: what is true for every BGP session of the cluster.

use std::net::Ipv4Addr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Address, Cidr, Community, LabelSelector, PeerAddress};

/// What is true for every BGP session of the cluster. Only the object named default is heeded.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "manx.dev",
    version = "v1alpha1",
    kind = "BGPConfiguration",
    plural = "bgpconfigurations",
    shortname = "bgpc",
    category = "manx",
    status = "BGPConfigurationStatus",
    derive = "PartialEq",
    doc = "What is true for every BGP session of the cluster. There is one, named default.",
    validation = ("self.metadata.name == 'default'", "the name must be default: there is one BGPConfiguration"),
    printcolumn(name = "ASN", type_ = "integer", json_path = ".spec.asNumber"),
    printcolumn(name = "TOPOLOGY", type_ = "string", json_path = ".spec.topology"),
    printcolumn(name = "PORT", type_ = "integer", json_path = ".spec.listenPort"),
    printcolumn(name = "ACCEPTED", type_ = "string", json_path = ".status.conditions[?(@.type==\"Accepted\")].status"),
    printcolumn(name = "HOLD", type_ = "integer", json_path = ".spec.holdTimeSeconds", priority = 1),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = (
        "self.topology != 'RouteReflectors' || has(self.routeReflector)",
        "topology RouteReflectors needs routeReflector, which says which nodes reflect"
    ),
    validation = (
        "self.holdTimeSeconds == 0 || self.holdTimeSeconds >= 3",
        "holdTimeSeconds must be 0 (no keepalives at all) or at least 3 (RFC 4271 §4.2)"
    ),
    validation = (
        "!has(self.keepaliveTimeSeconds) || self.holdTimeSeconds == 0 || self.keepaliveTimeSeconds < self.holdTimeSeconds",
        "keepaliveTimeSeconds must be below holdTimeSeconds"
    ),
    validation = (
        "!has(self.prefixAdvertisements) || self.prefixAdvertisements.all(p, p.communities.all(c, c.contains(':') || (has(self.communities) && self.communities.exists(n, n.name == c))))",
        "a community named in prefixAdvertisements must be defined in communities"
    )
)]
pub struct BGPConfigurationSpec {
    /// The AS of every node.
    #[serde(default = "default_asn")]
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub as_number: u32,

    /// How the nodes of the cluster learn one another's blocks.
    #[serde(default)]
    pub topology: Topology,

    /// Which nodes reflect, when topology is RouteReflectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_reflector: Option<RouteReflector>,

    /// TCP port that agents listen on.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub listen_port: u16,

    /// Addresses that agents listen on. Unset: all of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub listen_addresses: Vec<Address>,

    /// Silence, in seconds, after which a peer is taken for dead: 0 (never) or 3 to 65535.
    #[serde(default = "default_hold_time")]
    pub hold_time_seconds: u16,

    /// Seconds between keepalives. Unset: a third of the hold time that both sides agreed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 21845))]
    pub keepalive_time_seconds: Option<u16>,

    /// Longest wait, in seconds, between attempts to connect.
    #[serde(default = "default_connect_retry")]
    #[schemars(range(min = 1, max = 3600))]
    pub connect_retry_seconds: u16,

    /// Keep forwarding while a peer's process restarts (RFC 4724).
    #[serde(default)]
    pub graceful_restart: GracefulRestart,

    /// Keep the routes of a peer, as the last resort, while it stays away for longer than that (RFC 9494). Unset: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_lived_graceful_restart: Option<LongLivedGracefulRestart>,

    /// Nodes that are about to go: their routes are announced with the community of RFC 8326 to external peers and with
    /// LOCAL_PREF 0 to internal ones, so that traffic finds another way first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graceful_shutdown: Option<GracefulShutdown>,

    /// Seconds that sessions which are no longer configured stay while those configured instead have not been heard.
    #[serde(default = "default_linger")]
    #[schemars(range(min = 0, max = 600))]
    pub linger_seconds: u16,

    /// Prefixes taken from one peer before its session is closed, unless its BGPPeer says otherwise.
    #[serde(default)]
    pub max_prefixes: MaxPrefixes,

    /// Most next hops of one route.
    #[serde(default = "default_multipath")]
    #[schemars(range(min = 1, max = 64))]
    pub multipath: u8,

    /// Paths of equal length through different systems share the traffic.
    #[serde(default)]
    pub multipath_relax: bool,

    /// Names for communities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub communities: Vec<NamedCommunity>,

    /// What our own announcements inside these prefixes carry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["cidr".into()]))]
    pub prefix_advertisements: Vec<PrefixAdvertisement>,

    /// BMP stations (RFC 7854) that every agent, or those of chosen nodes, connects to and tells what peers announce.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["address".into()]))]
    pub monitoring_stations: Vec<MonitoringStation>,
}

/// A BMP station.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MonitoringStation {
    /// Its address, and its port unless that is 11019; an IPv6 address with a port stands in brackets.
    pub address: PeerAddress,

    /// The nodes that connect to it, by the labels of the Node. Unset: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
}

/// How the nodes of a cluster learn one another's blocks.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Topology {
    /// Every node has a session with every other.
    #[default]
    FullMesh,
    /// Chosen nodes reflect for all the others (RFC 4456).
    RouteReflectors,
    /// Nodes have no sessions with one another: the routers outside carry the routes.
    None,
}

/// Which nodes are route reflectors.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RouteReflector {
    /// The nodes that reflect, by the labels of the Node.
    pub node_selector: LabelSelector,

    /// The cluster id that they share (RFC 4456 §8). Unset: each reflector uses its router id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 15), extend("format" = "ipv4"))]
    pub cluster_id: Option<Ipv4Addr>,
}

/// Whether and how long forwarding goes on while BGP restarts (RFC 4724).
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GracefulRestart {
    /// Whether the capability is offered.
    #[serde(default = "yes")]
    pub enabled: bool,

    /// Seconds that peers wait for us to come back: 1 to 4095.
    #[serde(default = "default_restart_time")]
    #[schemars(range(min = 1, max = 4095))]
    pub restart_time_seconds: u16,
}

/// How long the routes of a peer that stays away are kept (RFC 9494).
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LongLivedGracefulRestart {
    /// Seconds, counted from the end of the restart time: 0 (off) to 16777215.
    #[schemars(range(min = 0, max = 16_777_215))]
    pub stale_time_seconds: u32,
}

/// Which nodes are about to go.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GracefulShutdown {
    /// These, by the labels of the Node.
    pub node_selector: LabelSelector,
}

/// How many prefixes a peer may announce, and what happens when there are more.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!has(self.restartSeconds) || !has(self.action) || self.action == 'Restart'",
    "restartSeconds is for action Restart"
))]
pub struct MaxPrefixes {
    /// IPv4 prefixes. Unset: the default of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub ipv4: Option<u32>,

    /// IPv6 prefixes. Unset: the default of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub ipv6: Option<u32>,

    /// Percent of the number at which a warning is told. Unset: 75.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub warn_percent: Option<u8>,

    /// What happens when there are more. Unset: Restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<LimitAction>,

    /// Seconds until the next session, when action is Restart. Unset: 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub restart_seconds: Option<u16>,
}

/// What happens when a peer announces more prefixes than it may.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitAction {
    /// It is told, and the routes are taken.
    Warn,
    /// The session is closed (RFC 4486 §4) and made again after a while.
    Restart,
    /// The session is closed and stays so until the limit is changed.
    StayDown,
}

/// A name for a community.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NamedCommunity {
    /// The name.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-zA-Z][-a-zA-Z0-9_.]*$"))]
    pub name: String,

    /// What it stands for.
    pub value: Community,
}

/// What announcements inside a prefix carry.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PrefixAdvertisement {
    /// The prefix.
    pub cidr: Cidr,

    /// Communities, each a value (64512:100) or a name out of communities.
    #[schemars(
        length(min = 1, max = 8),
        inner(
            length(min = 1, max = 63),
            regex(pattern = "^([a-zA-Z][-a-zA-Z0-9_.]*|[0-9]{1,10}:[0-9]{1,10}(:[0-9]{1,10})?)$")
        )
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub communities: Vec<String>,
}

/// What became of the configuration.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BGPConfigurationStatus {
    /// Accepted, or why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

impl Default for BGPConfigurationSpec {
    /// What holds when there is no object named default: the defaults of the schema.
    fn default() -> Self {
        Self {
            as_number: default_asn(),
            topology: Topology::default(),
            route_reflector: None,
            listen_port: default_port(),
            listen_addresses: Vec::new(),
            hold_time_seconds: default_hold_time(),
            keepalive_time_seconds: None,
            connect_retry_seconds: default_connect_retry(),
            graceful_restart: GracefulRestart::default(),
            long_lived_graceful_restart: None,
            graceful_shutdown: None,
            linger_seconds: default_linger(),
            max_prefixes: MaxPrefixes::default(),
            multipath: default_multipath(),
            multipath_relax: false,
            communities: Vec::new(),
            prefix_advertisements: Vec::new(),
            monitoring_stations: Vec::new(),
        }
    }
}

impl Default for GracefulRestart {
    fn default() -> Self {
        Self { enabled: yes(), restart_time_seconds: default_restart_time() }
    }
}

impl BGPConfigurationSpec {
    /// The community that `text` stands for: one of the names in `communities`, or a value such as `64512:100`.
    pub fn community(&self, text: &str) -> Option<Community> {
        let named = self.communities.iter().find(|named| named.name == text);
        named.map(|named| named.value).or_else(|| text.parse().ok())
    }
}

impl BGPConfiguration {
    /// The configuration of `deploy/examples/bgpconfiguration.yaml`.
    pub fn example() -> Self {
        let communities =
            vec![NamedCommunity { name: "pods".into(), value: Community::Standard(64512, 100) }];
        let advertisement = PrefixAdvertisement {
            cidr: "10.244.0.0/16".parse().expect("a valid network"),
            communities: vec!["pods".into()],
        };
        let spec = BGPConfigurationSpec {
            as_number: 64512,
            communities,
            prefix_advertisements: vec![advertisement],
            ..BGPConfigurationSpec::default()
        };
        Self::new(crate::DEFAULT_CONFIGURATION, spec)
    }
}

fn yes() -> bool {
    true
}

fn default_asn() -> u32 {
    64512
}

fn default_port() -> u16 {
    179
}

fn default_hold_time() -> u16 {
    90
}

fn default_connect_retry() -> u16 {
    30
}

fn default_linger() -> u16 {
    30
}

fn default_multipath() -> u8 {
    16
}

fn default_restart_time() -> u16 {
    120
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_object_the_defaults_of_the_schema_hold() {
        let empty: BGPConfigurationSpec = serde_json::from_str("{}").expect("everything has a default");
        assert_eq!(empty, BGPConfigurationSpec::default());
    }

    #[test]
    fn communities_are_found_by_name_and_by_value() {
        let spec = BGPConfiguration::example().spec;
        assert_eq!(spec.community("pods"), Some(Community::Standard(64512, 100)));
        assert_eq!(spec.community("1:2:3"), Some(Community::Large(1, 2, 3)));
        assert_eq!(spec.community("gone"), None);
    }
}
