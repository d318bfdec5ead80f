//! What a machine is and has, before anything of Manx is on it as well as after: what its kernel can do, settings, ports,
//! links, configurations of container networks, room; and whom it reaches.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

pub use crate::guards::Guards;
use crate::{Ask, Question};

/// Asks for [`HostFacts`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HostQuestion {
    /// The folder at which `/etc`, `/opt` and `/run` of the machine are, if not at the root: a container says `/host`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Whether to try what the kernel can do, in network namespaces that are gone afterwards.
    pub trials: bool,
    /// Who shall be reached by TCP.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reach: Vec<Reach>,
    /// Whether to ask the API server something, as programs on this machine reach it.
    pub api: bool,
    /// Pages of the agent's loopback address that shall be fetched, such as `/metrics`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pages: Vec<String>,
    /// Networks of pods of which it shall be told whether firewalls let them pass.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<IpNetwork>,
    /// The machine's own addresses as a node, which tell its uplinks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<IpAddr>,
    /// Who shall be reached by packets as large as pods send them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub large: Vec<Large>,
}

impl Ask for HostQuestion {
    type Answer = HostFacts;

    fn question(&self) -> Question {
        Question::Host(self.clone())
    }
}

/// Somebody to reach by TCP.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reach {
    /// Whose address it is, given back as it is.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Whether to wait for an OPEN (RFC 4271 §4.2) once connected.
    #[serde(default)]
    pub open: bool,
}

/// Somebody to reach by large packets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Large {
    /// Whose address it is, given back as it is.
    pub name: String,
    /// The address.
    pub address: IpAddr,
}

/// What a machine is and has. What could not be found out is empty, and named in [`HostFacts::unknown`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HostFacts {
    /// Its host name.
    pub name: String,
    /// The version of the program that answers.
    pub version: String,
    /// The kernel's release, as `uname -r` gives it.
    pub kernel_release: String,
    /// The time, in nanoseconds since 1970, taken last of all that is answered.
    pub time: u64,
    /// Seconds since the boot.
    pub uptime: u64,
    /// What the kernel was tried for; empty if that was not asked.
    pub trials: Vec<Trial>,
    /// Settings by their names as `sysctl` has them, such as `net.ipv4.ip_forward`; those that the kernel lacks are absent.
    pub settings: BTreeMap<String, String>,
    /// Who listens at TCP ports of interest; `None` if that could not be seen.
    pub listeners: Option<Vec<Listener>>,
    /// Links that are not pods' of ours, loopback left out.
    pub links: Vec<HostLink>,
    /// The guards of pods' links of ours.
    pub guards: Guards,
    /// Folders of configurations of container networks.
    pub cni: Option<CniFiles>,
    /// The configuration of kube-proxy, as its page `/configz` tells it; `None` if none answers.
    pub kube_proxy: Option<String>,
    /// Programs that configure networks beside us.
    pub configurers: Vec<Configurer>,
    /// What there is of things that run out.
    pub room: Vec<Room>,
    /// How everybody was reached, in the order of the question.
    pub reached: Vec<Reached>,
    /// How packets fared that were as large as pods send them, in the order of the question.
    pub large: Vec<LargeReached>,
    /// What certainly does not let pods' packets pass.
    pub barriers: Vec<Barrier>,
    /// Certificates that programs on this machine rely on to reach the API server.
    pub certificates: Vec<Certificate>,
    /// How the API server was reached; `None` if that was not asked.
    pub api: Option<ApiReached>,
    /// Pages of the agent by their path: its text, or why there is none.
    pub pages: BTreeMap<String, Result<String, String>>,
    /// What could not be found out, and why.
    pub unknown: Vec<String>,
}

/// One thing that a kernel was tried for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Trial {
    /// What was tried.
    pub feature: Feature,
    /// Why it does not work; `None` if it does.
    pub error: Option<String>,
}

/// What Manx wants of a kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Feature {
    /// Network namespaces of their own.
    Namespaces,
    /// Pairs of links.
    Veth,
    /// IPv6 at all.
    Ipv6,
    /// Everything that makes a pod's link, as the plugin does it.
    PodLink,
    /// nftables at the ingress of links.
    Netdev,
    /// nftables that see IPv4 and IPv6.
    Inet,
    /// Masquerading of IPv4 by nftables.
    NatV4,
    /// Masquerading of IPv6 by nftables.
    NatV6,
    /// Next-hop objects (Linux 5.3).
    NextHops,
    /// IPv4 routes over IPv6 next hops (RFC 8950; Linux 5.2).
    Ipv4OverIpv6,
    /// Rules that choose a routing table.
    Rules,
    /// Tracked connections.
    Conntrack,
    /// Word of changed files.
    Inotify,
    /// Raw sockets.
    RawSockets,
    /// One that the asking side does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

/// Somebody who listens at a TCP port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// The port.
    pub port: u16,
    /// The address; unspecified for all.
    pub address: IpAddr,
    /// The name of the program, if its process can be seen.
    #[serde(default)]
    pub program: Option<String>,
}

/// A link of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HostLink {
    /// Name.
    pub name: String,
    /// Largest packet in octets.
    pub mtu: u32,
    /// Whether it is up and has carrier.
    pub running: bool,
    /// Addresses with the lengths of their prefixes, but for link-local ones.
    pub addresses: Vec<String>,
    /// Its `rp_filter`, where IPv4 knows the link.
    pub rp_filter: Option<String>,
}

impl HostLink {
    /// Its addresses without the lengths of their prefixes.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().filter_map(|text| Some(text.parse::<IpNetwork>().ok()?.ip()))
    }
}

/// Configurations of container networks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CniFiles {
    /// The folder in which the container runtime looks, if it is known.
    pub runtime_conf_dir: Option<String>,
    /// The folder in which it looks for plugins, if it is known.
    pub runtime_bin_dir: Option<String>,
    /// Files of `/etc/cni/net.d` in their order.
    pub files: Vec<ConfFile>,
    /// Programs in `/opt/cni/bin`.
    pub plugins: Vec<String>,
}

/// A configuration of a container network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConfFile {
    /// The file's name.
    pub file: String,
    /// The network's name.
    pub name: String,
    /// Types of its plugins.
    pub plugins: Vec<String>,
    /// Why it cannot be read.
    pub error: Option<String>,
}

/// A program that configures networks and can be told to leave ours alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configurer {
    /// Its name.
    pub name: String,
    /// Whether it has been told.
    pub told: bool,
}

/// Something of which there is only so much.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Room {
    /// What it is.
    pub what: String,
    /// How much is used; `None` if only the limit is known.
    pub used: Option<u64>,
    /// How much there is.
    pub limit: u64,
    /// The setting of that limit, as `sysctl` names it.
    pub setting: String,
}

/// How somebody was reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reached {
    /// Who.
    #[serde(flatten)]
    pub reach: Reach,
    /// What came of it.
    pub outcome: Outcome,
    /// Milliseconds that it took.
    #[serde(default)]
    pub millis: u64,
}

/// What came of reaching somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The connection stands; nothing more was wanted.
    Connected,
    /// An OPEN came.
    #[serde(rename_all = "camelCase")]
    Open {
        /// The AS number that it says.
        as_number: u32,
        /// The router id.
        router_id: String,
        /// The hold time in seconds.
        hold_time: u16,
    },
    /// A NOTIFICATION came in place of an OPEN: error code and subcode.
    Notification(u8, u8),
    /// Connected, and the other end closed without a word.
    Closed,
    /// Connected, and nothing was heard.
    Silent,
    /// Nobody listens there.
    Refused,
    /// Nobody answers.
    Timeout,
    /// Something else, in the kernel's words.
    Error(String),
}

/// How the API server was reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ApiReached {
    /// Where.
    pub address: String,
    /// Its version; empty when only a connection was tried.
    pub version: String,
    /// Why it was not reached.
    pub error: Option<String>,
    /// Milliseconds that it took.
    pub millis: u64,
}

/// How large packets fared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LargeReached {
    /// Who.
    #[serde(flatten)]
    pub large: Large,
    /// Octets of the largest packet, with all headers of IP: the MTU of pods' links, of the uplink if there are none.
    #[serde(default)]
    pub size: u32,
    /// What came of it.
    pub outcome: LargeOutcome,
}

/// What came of large packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LargeOutcome {
    /// They are answered.
    Answered,
    /// Not even small ones are answered, which says nothing of large ones.
    Silent,
    /// Small ones are answered and large ones are not.
    #[serde(rename_all = "camelCase")]
    Lost {
        /// The largest that were answered, of some usual sizes.
        #[serde(default)]
        passes: Option<u32>,
        /// What a router on the way, or the machine's own kernel, said that a link there takes.
        #[serde(default)]
        told: Option<u32>,
    },
    /// They could not be sent: in words.
    Error(String),
}

/// A base chain of nf_tables that certainly drops what pods send one another over this machine's uplink.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Barrier {
    /// The network of pods.
    pub pods: IpNetwork,
    /// Whether it is about packets of pods here; else about those to pods here.
    pub outgoing: bool,
    /// The table, as `nft` names it: `ip filter`.
    pub table: String,
    /// The base chain.
    pub chain: String,
    /// The chain of which a rule drops them; `None`: it is the policy of the base chain.
    #[serde(default)]
    pub rule_in: Option<String>,
}

/// A certificate and until when it is good.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// Whose it is, in words.
    pub of: String,
    /// Its last second, since 1970.
    pub until: i64,
}
