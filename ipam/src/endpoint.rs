//! Endpoints: the attachments of pods to the network, as the record keeps them.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What identifies an attachment: the runtime's container id and the interface's name inside the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointId {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.container, self.ifname)
    }
}

/// The pod behind an attachment.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, when the runtime passed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// An attachment with its addresses. It is also a line of the record, so fields are only ever added, with a
/// default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// What identifies it.
    pub id: EndpointId,
    /// The pod, unless the runtime named none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    /// Name of the link's host end.
    pub link: String,
    /// Its addresses, IPv4 first. Empty in a request.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Path of the network namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// The key of the claim by which it has its addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// When it was asked for, in seconds since 1970 by the caller's clock; shown in status, decides nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// When it was asked for last, in seconds on the clock of [`Recovered::uptime`](crate::Recovered::uptime), which no
    /// change of the time of day moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<u64>,
    /// The name of the network configuration by which it was made; unknown in older records and of endpoints that
    /// were found in the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Hardware address of the pod's end, where it is another than the one that the plugin derives by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// MTU of its link in octets, where the network configuration fixes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}
