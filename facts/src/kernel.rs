//! What a kernel says of one network namespace: links, addresses, routes, rules, neighbours, settings.

mod decide;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::guards::Guards;
use crate::{Ask, Question};

pub use decide::{Decided, Decision, Packet, holds};

/// The table of the node's own addresses.
pub const TABLE_LOCAL: u32 = 255;
/// The table that is looked at first, unless a rule says otherwise.
pub const TABLE_MAIN: u32 = 254;
/// The protocol of routes that Manx made.
pub const PROTOCOL: u8 = 179;

/// Asks for what the node's kernel says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KernelQuestion {
    /// Only the routes that hold one of these networks or lie in it; all routes if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub around: Vec<IpNetwork>,
    /// At most so many routes; 0 stands for 100,000.
    #[serde(skip_serializing_if = "is_zero")]
    pub most_routes: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Ask for KernelQuestion {
    type Answer = Kernel;

    fn question(&self) -> Question {
        Question::Kernel(self.clone())
    }
}

/// What a kernel says of one network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Kernel {
    /// Every link, by index.
    pub links: Vec<Link>,
    /// Every address of every link.
    pub addresses: Vec<Address>,
    /// Routes of all tables and both families, next-hop objects resolved into hops.
    pub routes: Vec<Route>,
    /// Routes that were left out because there are more than were asked for.
    pub routes_left_out: u64,
    /// Rules of both families, in the order in which the kernel looks at them: by priority.
    pub rules: Vec<Rule>,
    /// Neighbours of every link.
    pub neighbours: Vec<Neighbour>,
    /// Settings by their path below `/proc/sys`, such as `net/ipv4/ip_forward`: those that forwarding depends on, for
    /// the namespace and for each link. What is not there the kernel does not have.
    pub settings: BTreeMap<String, String>,
    /// The guards of pods' links; `None` inside of a pod, where the kernel has none, and from older nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guards: Option<Guards>,
    /// What could not be read, each with why: lower-case fragments.
    pub unread: Vec<String>,
}

impl Kernel {
    /// The link with this index.
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The name of the link with this index; its number if there is none.
    pub fn link_name(&self, index: u32) -> String {
        self.link(index).map_or_else(|| format!("link {index}"), |link| link.name.clone())
    }

    /// The link of this name.
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// A setting of the whole namespace, such as `net/ipv4/ip_forward`.
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(String::as_str)
    }

    /// An IPv4 setting of a link, `all` or `default`, such as `rp_filter`.
    pub fn ipv4(&self, link: &str, setting: &str) -> Option<&str> {
        self.setting(&format!("net/ipv4/conf/{link}/{setting}"))
    }

    /// An IPv6 setting of a link, `all` or `default`, such as `forwarding`.
    pub fn ipv6(&self, link: &str, setting: &str) -> Option<&str> {
        self.setting(&format!("net/ipv6/conf/{link}/{setting}"))
    }

    /// The route of this table that is taken for an address: see [`Kernel::route_to`]. It does not look at rules.
    pub fn route_in(&self, table: u32, address: IpAddr) -> Option<&Route> {
        self.route_to(table, address.into())
    }
}

/// A network link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Link {
    /// Index, unique in the namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// What kind of virtual link it is, such as `veth`; `None` of hardware and of the loopback link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Hardware address as `aa:bb:cc:dd:ee:ff`, if it has an Ethernet one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Largest packet in octets.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it has carrier.
    pub carrier: bool,
    /// Alias: on the host end of a pod's link `manx:CONTAINER:IFNAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Index of the other end, or of the link below, in its own namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_index: Option<u32>,
    /// Number under which this namespace knows the other end's; `None` if it is this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_namespace: Option<i32>,
    /// Index of the bridge, bond or VRF that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<u32>,
    /// Group; 179 of pods' links.
    pub group: u32,
    /// What may take packets away before netfilter sees them, or after.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<Program>,
    /// What has passed since it was made.
    pub counters: Counters,
}

/// A filter of tc or an XDP program on a link. Programs that are attached by `tcx` are not told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Program {
    /// Where it sees packets.
    pub place: ProgramPlace,
    /// Kind of the filter, such as `u32` or `bpf`; empty of XDP.
    pub kind: String,
    /// Name of its BPF program, where the kernel says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Id of its BPF program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
}

/// Where a program sees packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProgramPlace {
    /// As they come in, before all else, packet sockets included.
    Xdp,
    /// As they come in, after packet sockets.
    Ingress,
    /// As they go out, before packet sockets.
    Egress,
    /// Somewhere that this version does not know.
    #[default]
    #[serde(other)]
    Other,
}

/// What has passed over a link since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counters {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Octets received.
    pub rx_bytes: u64,
    /// Octets sent.
    pub tx_bytes: u64,
    /// Packets received with errors.
    pub rx_errors: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets received and dropped for want of room or of anybody who takes them.
    pub rx_dropped: u64,
    /// Packets dropped before they were sent.
    pub tx_dropped: u64,
}

/// An address on a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// Index of the link.
    pub link: u32,
    /// The address with the length of its prefix.
    pub address: IpNetwork,
    /// Whether duplicate address detection still goes on.
    #[serde(default)]
    pub tentative: bool,
    /// Whether duplicate address detection found another with it.
    #[serde(default)]
    pub duplicate: bool,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Destination.
    pub dst: IpNetwork,
    /// Table; [`TABLE_MAIN`] as a rule.
    #[serde(default)]
    pub table: u32,
    /// Metric; the lowest of the longest prefix is taken.
    #[serde(default)]
    pub metric: u32,
    /// Who made it: 2 the kernel, 3 an administrator, [`PROTOCOL`] Manx.
    #[serde(default)]
    pub protocol: u8,
    /// What becomes of packets.
    #[serde(default)]
    pub kind: RouteKind,
    /// Where packets go, one of these for each flow; empty where `kind` has them go nowhere.
    #[serde(default)]
    pub hops: Vec<Hop>,
    /// Id of the next-hop object that says so, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nexthop: Option<u32>,
    /// Source address of the node's own packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Largest packet in octets, where the route says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// 0 everywhere, 253 on the link, 254 the node itself.
    #[serde(default)]
    pub scope: u8,
}

/// What becomes of packets that take a route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RouteKind {
    /// They go to a hop.
    #[default]
    Unicast,
    /// They are for the node itself.
    Local,
    /// They are for all on the link.
    Broadcast,
    /// They are for the node itself, as one of several.
    Anycast,
    /// They are for a group.
    Multicast,
    /// They vanish.
    Blackhole,
    /// They are refused: host unreachable.
    Unreachable,
    /// They are refused: prohibited.
    Prohibit,
    /// The next rule decides.
    Throw,
    /// Something that this version does not know.
    #[serde(other)]
    Other,
}

/// Where a route sends packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hop {
    /// The neighbour that takes them; `None` where the destination itself is on the link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Index of the link.
    pub link: u32,
    /// Share among the hops, from 1.
    pub weight: u32,
    /// Whether the kernel says that the hop is dead or its link without carrier.
    pub dead: bool,
    /// Whether the gateway is taken to be on the link without an address that says so.
    pub onlink: bool,
}

/// A rule that chooses a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// Whether it is for IPv6.
    pub ipv6: bool,
    /// Its place: the lowest is looked at first.
    pub priority: u32,
    /// Only packets from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<IpNetwork>,
    /// Only packets to there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<IpNetwork>,
    /// Only packets with this mark.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
    /// The bits of the mark that count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<u32>,
    /// Only packets that come by this link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iif: Option<String>,
    /// Only packets of sockets bound to this link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oif: Option<String>,
    /// Whether it is for packets that all of the above does not fit.
    pub invert: bool,
    /// Whether it has conditions that are not told here (ports, users, kind of service, VRFs).
    pub more: bool,
    /// What it does.
    pub action: RuleAction,
    /// The table, for [`RuleAction::Table`].
    pub table: u32,
    /// The priority of the rule that is looked at next, for [`RuleAction::Goto`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goto: Option<u32>,
    /// Routes of this length and shorter do not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppress_length: Option<u32>,
}

/// What a rule does with packets that it fits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RuleAction {
    /// It has its table looked at.
    #[default]
    Table,
    /// It has another rule looked at next.
    Goto,
    /// Nothing.
    Nop,
    /// They vanish.
    Blackhole,
    /// They are refused: unreachable.
    Unreachable,
    /// They are refused: prohibited.
    Prohibit,
    /// Something that this version does not know.
    #[serde(other)]
    Other,
}

/// A neighbour of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Neighbour {
    /// Index of the link.
    pub link: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address as `aa:bb:cc:dd:ee:ff`, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// What the kernel knows of it.
    #[serde(default)]
    pub state: NeighbourState,
}

/// What the kernel knows of a neighbour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NeighbourState {
    /// It is being asked for the first time.
    Incomplete,
    /// It answered a moment ago.
    Reachable,
    /// It answered some time ago; good until used.
    Stale,
    /// It was just used, and will be asked if nothing says that it lives.
    Delay,
    /// It is being asked again.
    Probe,
    /// It did not answer.
    Failed,
    /// This link needs no asking.
    Noarp,
    /// Somebody wrote it down for good.
    Permanent,
    /// Nothing, or something that this version does not know.
    #[default]
    #[serde(other)]
    None,
}

impl NeighbourState {
    /// Whether packets can be sent to it at once.
    pub fn is_valid(self) -> bool {
        !matches!(self, Self::Incomplete | Self::Failed | Self::None)
    }
}
