//! The part of Linux that Manx cares about, as plain values: routes, next-hop objects, links, what can be done to
//! them, what can go wrong and what the kernel tells.
//!
//! Routes are keyed as the kernel keys them: table, destination and metric. Ours carry the protocol number
//! [`PROTOCOL`]; everything else is foreign and only ever looked at.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// The routing protocol number on every route and next-hop object of ours (`ip route show proto 179`).
pub const PROTOCOL: u8 = 179;
/// The main routing table.
pub const MAIN_TABLE: u32 = 254;
/// The metric that Linux gives to an IPv6 route that asks for none.
const IPV6_DEFAULT_METRIC: u32 = 1024;

/// What makes a route distinct in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// Routing table, [`MAIN_TABLE`] as a rule.
    pub table: u32,
    /// Destination without host bits.
    pub dst: IpNetwork,
    /// Metric; lower wins. Never 0 in IPv6.
    pub metric: u32,
}

impl RouteKey {
    /// Makes a key as the kernel would: host bits are cleared and an IPv6 metric of 0 becomes 1024.
    pub fn new(table: u32, dst: IpNetwork, metric: u32) -> Self {
        let network = IpNetwork::new(dst.network(), dst.prefix()).unwrap_or(dst);
        let metric = if metric == 0 && dst.is_ipv6() { IPV6_DEFAULT_METRIC } else { metric };
        Self { table, dst: network, metric }
    }

    /// A key in the main table; see [`RouteKey::new`].
    pub fn main(dst: IpNetwork, metric: u32) -> Self {
        Self::new(MAIN_TABLE, dst, metric)
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} metric {}", self.dst, self.metric)?;
        if self.table == MAIN_TABLE { Ok(()) } else { write!(f, " table {}", self.table) }
    }
}

/// A route that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where packets go.
    pub to: RouteTo,
    /// The source address that the node's own packets take on this route, if not the kernel's choice.
    pub source: Option<IpAddr>,
}

impl Route {
    /// Through these next hops, which need not be on-link.
    pub fn via<G: Into<Gateway>>(next_hops: impl IntoIterator<Item = G>) -> Self {
        Self { to: RouteTo::Via(next_hops.into_iter().map(Into::into).collect()), source: None }
    }

    /// To whatever a set of next hops leads to (see `Input::Sets` of the route machine).
    pub const fn set(set: SetId) -> Self {
        Self { to: RouteTo::Set(set), source: None }
    }

    /// Straight out of the link of this name.
    pub fn link(name: impl Into<String>) -> Self {
        Self { to: RouteTo::Link(name.into()), source: None }
    }

    /// Nowhere, silently.
    pub fn blackhole() -> Self {
        Self { to: RouteTo::Blackhole, source: None }
    }
}

/// Where a wanted route leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteTo {
    /// Next hops as BGP gives them: shared evenly, resolved through the kernel's own routes unless their link is known.
    Via(BTreeSet<Gateway>),
    /// The next hops of this set, whatever they are at the time.
    Set(SetId),
    /// The link of this name.
    Link(String),
    /// Packets are dropped.
    Blackhole,
}

/// Names a set of next hops that routes share and that can be changed under all of them at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub u64);

/// A next hop as BGP gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gateway {
    /// Its address.
    pub address: IpAddr,
    /// The index of the link on which it is, as a link-local address needs it; without one the kernel is asked.
    pub link: Option<u32>,
}

impl From<IpAddr> for Gateway {
    fn from(address: IpAddr) -> Self {
        Self { address, link: None }
    }
}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.link {
            Some(link) => write!(f, "{}%{link}", self.address),
            None => fmt::Display::fmt(&self.address, f),
        }
    }
}

/// A neighbour that takes our packets: what is left of a next hop once it is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hop {
    /// Its address on the link.
    pub gateway: IpAddr,
    /// Index of the link.
    pub link: u32,
}

/// How the kernel reaches an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// Through any of these; an on-link address is its own gateway.
    Hops(BTreeSet<Hop>),
    /// It does not, or only through one of our own routes, or the address is this node's own.
    Unreachable,
}

/// Where a route leads, in the kernel's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forward {
    /// To the next-hop object with this id.
    Nexthop(u32),
    /// To one gateway, or evenly to several.
    Paths(BTreeSet<Hop>),
    /// Straight out of the link with this index.
    Link(u32),
    /// Packets are dropped.
    Blackhole,
    /// Something that Manx never makes.
    Other,
}

/// A route in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelRoute {
    /// Its key.
    pub key: RouteKey,
    /// Who made it.
    pub protocol: u8,
    /// Where it leads.
    pub forward: Forward,
    /// Preferred source address.
    pub source: Option<IpAddr>,
}

/// What a next-hop object stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NexthopTo {
    /// One gateway.
    Hop(Hop),
    /// Other objects, by id, shared evenly.
    Group(BTreeSet<u32>),
    /// Something that Manx never makes.
    Other,
}

/// A next-hop object in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nexthop {
    /// Its id, unique in the network namespace.
    pub id: u32,
    /// Who made it.
    pub protocol: u8,
    /// What it stands for.
    pub to: NexthopTo,
}

/// A network link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Index, unique in the network namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it has carrier.
    pub carrier: bool,
    /// Largest packet in octets.
    pub mtu: u32,
    /// Alias: on the host end of a pod's link, whose it is.
    pub alias: Option<String>,
}

/// An address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Index of the link.
    pub link: u32,
    /// The address with the length of its prefix.
    pub address: IpNetwork,
}

/// Everything of ours in the kernel at one time, and the links.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dump {
    /// Every link.
    pub links: Vec<Link>,
    /// The routes with protocol [`PROTOCOL`].
    pub routes: Vec<KernelRoute>,
    /// Every next-hop object, whoever made it; `None` when the kernel knows none (before Linux 5.3).
    pub nexthops: Option<Vec<Nexthop>>,
}

/// One change to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Creates a next-hop object, or replaces what ours of this id stands for.
    PutNexthop {
        /// Id.
        id: u32,
        /// What it is to stand for.
        to: NexthopTo,
        /// Whether ours of this id exists.
        replace: bool,
    },
    /// Removes a next-hop object and with it every route that leads to it.
    DeleteNexthop {
        /// Id.
        id: u32,
    },
    /// Creates a route, which fails if any of this key exists, or replaces ours.
    PutRoute {
        /// Key.
        key: RouteKey,
        /// Where it is to lead.
        forward: Forward,
        /// Preferred source address.
        source: Option<IpAddr>,
        /// Whether ours of this key exists.
        replace: bool,
    },
    /// Removes our route of this key.
    DeleteRoute {
        /// Key.
        key: RouteKey,
    },
}

/// Why the kernel refused an operation, by what can be done about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// Something of this key exists that was not expected.
    #[error("something with the same destination, metric and table exists already")]
    Exists,
    /// It does not exist (any more).
    #[error("it does not exist")]
    Missing,
    /// The link is away or down, or the gateway is not on it.
    #[error("the link or the gateway is away: {0}")]
    NoPath(String),
    /// The kernel lacks the feature.
    #[error("this kernel cannot do it: {0}")]
    Unsupported(String),
    /// Anything else, in the kernel's words.
    #[error("the kernel refused: {0}")]
    Refused(String),
}

/// Something changed in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A link is new or changed.
    Link(Link),
    /// The link with this index is gone.
    LinkGone(u32),
    /// An address is new or changed.
    Address(Address),
    /// An address is gone.
    AddressGone(Address),
    /// A route is new or changed, whosever it is.
    Route {
        /// As it is now.
        route: KernelRoute,
        /// Whether it took the place of another of the same key, which is then gone without further word.
        replaced: bool,
    },
    /// A route is gone.
    RouteGone(KernelRoute),
    /// A next-hop object is new or changed.
    Nexthop(Nexthop),
    /// The next-hop object with this id is gone.
    NexthopGone(u32),
    /// Events were lost: only a dump tells what there is now.
    Overrun,
}
