//! `NodeNetwork`: a node's addresses and BGP identity, and the state of its sessions.
//!
//! Every agent watches these, so the spec holds only what others need and changes rarely; what changes often is in the
//! status, which the agent writes seldom.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A node as a router: its addresses and BGP identity, and the state of its sessions. Named as the Node; written by
/// its agent.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "manx.dev",
    version = "v1alpha1",
    kind = "NodeNetwork",
    plural = "nodenetworks",
    shortname = "nn",
    category = "manx",
    status = "NodeNetworkStatus",
    derive = "PartialEq",
    doc = "A node as a router: its addresses and BGP identity, and the state of its sessions. Named as the Node; written by its agent.",
    printcolumn(name = "IPV4", type_ = "string", json_path = ".spec.addresses.ipv4"),
    printcolumn(name = "IPV6", type_ = "string", json_path = ".spec.addresses.ipv6"),
    printcolumn(name = "ASN", type_ = "integer", json_path = ".spec.asNumber"),
    printcolumn(
        name = "SESSIONS",
        type_ = "string",
        json_path = ".status.sessionsUp",
        description = "sessions that are up, of those that should be"
    ),
    printcolumn(name = "BLOCKS", type_ = "string", json_path = ".status.blocks", priority = 1),
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "VERSION", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct NodeNetworkSpec {
    /// The addresses that other nodes send to.
    pub addresses: NodeAddresses,

    /// The node's AS.
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub as_number: u32,

    /// BGP identifier (RFC 6286): unique in the AS, not 0.0.0.0.
    #[schemars(with = "String", length(max = 15), extend("format" = "ipv4"))]
    #[x_kube(validation = ("self != '0.0.0.0'", "routerId must not be 0.0.0.0"))]
    pub router_id: Ipv4Addr,

    /// Set on route reflectors: the cluster id (RFC 4456 §8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 15), extend("format" = "ipv4"))]
    pub cluster_id: Option<Ipv4Addr>,

    /// UID of the Node, so that a node which comes back under the same name is told from its predecessor.
    #[serde(rename = "nodeUID")]
    #[schemars(length(max = 63))]
    pub node_uid: String,
}

/// A node's addresses, one of each family at most.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.ipv4) || has(self.ipv6)", "at least one of ipv4 and ipv6 must be set"))]
pub struct NodeAddresses {
    /// The IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 15), extend("format" = "ipv4"))]
    pub ipv4: Option<Ipv4Addr>,

    /// The IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 39), extend("format" = "ipv6"))]
    pub ipv6: Option<Ipv6Addr>,
}

/// What the agent last said of its node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeNetworkStatus {
    /// Sessions that are up, of those that should be, as in 3/4.
    #[serde(default)]
    pub sessions_up: String,

    /// The node's BGP sessions, sorted by peer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["peer".into()]))]
    pub sessions: Vec<Session>,

    /// The blocks that the node owns and announces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub blocks: Vec<IpNetwork>,

    /// Version of the agent.
    #[serde(default)]
    pub version: String,

    /// Ready, and what is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The state of one BGP session.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// The peer's name: `node/<name>` for a node of the cluster, `peer/<name>` for a BGPPeer.
    pub peer: String,

    /// The peer's address, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub address: Option<IpAddr>,

    /// The peer's AS, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_number: Option<u32>,

    /// The state of RFC 4271 §8.2.2.
    pub state: SessionState,

    /// Since when it is in this state.
    pub since: Time,

    /// The peer's BGP identifier, while the session is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub router_id: Option<Ipv4Addr>,

    /// The hold time that both agreed on, in seconds, while the session is up; 0: no keepalives at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_time_seconds: Option<u16>,

    /// What both agreed on, in words. Left out for nodes of the cluster where there are many sessions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,

    /// How often the session was up and went down, since the agent started.
    #[serde(default)]
    pub flaps: u32,

    /// Why the session, or the attempt to make it, last ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<SessionError>,

    /// When the next attempt is due, or the peer is no longer refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,

    /// The peer whose range this one came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,

    /// The peer is no longer configured, and stays until those configured instead have been heard.
    #[serde(default, skip_serializing_if = "is_false")]
    pub lingers: bool,

    /// Prefixes received, before import policy.
    #[serde(default)]
    pub received: u32,

    /// Prefixes that import policy accepted.
    #[serde(default)]
    pub accepted: u32,

    /// Prefixes that the peer was told.
    #[serde(default)]
    pub advertised: u32,

    /// The same for each address family, with what the peer may announce. Left out for nodes of the cluster where there
    /// are many sessions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["family".into()]))]
    pub families: Vec<SessionFamily>,
}

/// Why a session, or the attempt to make it, ended.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SessionError {
    /// When.
    pub when: Time,

    /// The peer ended it, by a NOTIFICATION or by closing the connection; otherwise this node did.
    #[serde(default)]
    pub by_peer: bool,

    /// The error code of the NOTIFICATION, if there was one (RFC 4271 §4.5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,

    /// Its error subcode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subcode: Option<u8>,

    /// What it means, with the shutdown communication (RFC 9003) if there is one.
    #[serde(default)]
    pub text: String,

    /// The first 64 octets of its data, in hexadecimal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub data: String,
}

/// One address family of a session.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SessionFamily {
    /// `ipv4-unicast` or `ipv6-unicast`.
    pub family: String,

    /// Both agreed on it, and the session is up.
    #[serde(default)]
    pub negotiated: bool,

    /// Prefixes received, before import policy.
    #[serde(default)]
    pub received: u32,

    /// Prefixes that import policy accepted.
    #[serde(default)]
    pub accepted: u32,

    /// Prefixes that the peer was told.
    #[serde(default)]
    pub advertised: u32,

    /// Prefixes kept from the last session, not yet confirmed.
    #[serde(default)]
    pub stale: u32,

    /// Prefixes that the peer may announce.
    #[serde(default)]
    pub limit: u32,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl SessionError {
    /// One without a NOTIFICATION.
    pub fn new(when: Time, text: impl Into<String>) -> Self {
        Self { when, by_peer: false, code: None, subcode: None, text: text.into(), data: String::new() }
    }

    /// In one line: who said what.
    pub fn line(&self) -> String {
        let who = if self.by_peer && self.code.is_some() { "peer: " } else { "" };
        format!("{who}{}", self.text)
    }
}

impl Session {
    /// One of which nothing else is known.
    pub fn new(peer: impl Into<String>, state: SessionState, since: Time) -> Self {
        Self {
            peer: peer.into(),
            address: None,
            as_number: None,
            state,
            since,
            router_id: None,
            hold_time_seconds: None,
            capabilities: Vec::new(),
            flaps: 0,
            last_error: None,
            retry_at: None,
            range: None,
            lingers: false,
            received: 0,
            accepted: 0,
            advertised: 0,
            families: Vec::new(),
        }
    }

    /// The session without what changes although nothing happened: counters, and when the same thing happened again.
    pub fn without_counters(&self) -> Self {
        let still = |family: &SessionFamily| SessionFamily {
            family: family.family.clone(),
            negotiated: family.negotiated,
            limit: family.limit,
            ..SessionFamily::default()
        };
        let last_error = self.last_error.clone();
        Self {
            received: 0,
            accepted: 0,
            advertised: 0,
            retry_at: None,
            last_error: last_error.map(|error| SessionError { when: Time(Timestamp::UNIX_EPOCH), ..error }),
            families: self.families.iter().map(still).collect(),
            ..self.clone()
        }
    }
}

/// States of a session (RFC 4271 §8.2.2).
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionState {
    /// Nothing is tried at present.
    #[default]
    Idle,
    /// A TCP connection is being made.
    Connect,
    /// The peer is expected to connect.
    Active,
    /// Our OPEN was sent.
    OpenSent,
    /// Both OPENs were exchanged.
    OpenConfirm,
    /// The session is up.
    Established,
}

impl NodeNetworkStatus {
    /// The text of `sessionsUp` for these sessions.
    pub fn count_up(sessions: &[Session]) -> String {
        let up = sessions.iter().filter(|session| session.state == SessionState::Established).count();
        format!("{up}/{}", sessions.len())
    }
}

impl NodeNetwork {
    /// The node of `deploy/examples/nodenetwork.yaml`.
    pub fn example() -> Self {
        let ipv4 = Ipv4Addr::new(192, 0, 2, 11);
        let ipv6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x11);
        let spec = NodeNetworkSpec {
            addresses: NodeAddresses { ipv4: Some(ipv4), ipv6: Some(ipv6) },
            as_number: 64512,
            router_id: ipv4,
            cluster_id: None,
            node_uid: "6d6f1c1e-3c0e-4c7b-9f39-0a6b8a4a2f10".into(),
        };
        Self::new("node1", spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_are_up_are_counted() {
        let session = |state| Session::new("node/node2", state, Time(Timestamp::UNIX_EPOCH));
        let sessions = [session(SessionState::Established), session(SessionState::OpenSent)];
        assert_eq!(NodeNetworkStatus::count_up(&sessions), "1/2");
        let json = serde_json::to_value(&sessions[0]).expect("plain data");
        assert_eq!((&json["state"], &json["since"]), (&"Established".into(), &"1970-01-01T00:00:00Z".into()));
    }
}
