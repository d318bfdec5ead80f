//! The path attributes of a route as a value that can be compared, ordered and interned.
//!
//! Only what can be said about a *valid* route fits in here; how attributes look on the wire, and what a
//! malformed one costs, is told by `table`, `judge` and `encode`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::as_path::AsPath;
use super::community::{Community, ExtendedCommunity, LargeCommunity};
use crate::prefix::{Asn, Gateway};

/// How a route got into BGP; the lesser is preferred (RFC 4271 §5.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// Made inside the system.
    #[default]
    Igp,
    /// Learnt through EGP.
    Egp,
    /// Anything else.
    Incomplete,
}

impl Origin {
    /// Reads the octet of the attribute.
    pub(super) const fn from_octet(octet: u8) -> Option<Self> {
        match octet {
            0 => Some(Self::Igp),
            1 => Some(Self::Egp),
            2 => Some(Self::Incomplete),
            _ => None,
        }
    }

    /// The octet of the attribute.
    pub(super) const fn octet(self) -> u8 {
        match self {
            Self::Igp => 0,
            Self::Egp => 1,
            Self::Incomplete => 2,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Igp => "IGP",
            Self::Egp => "EGP",
            Self::Incomplete => "incomplete",
        })
    }
}

/// Where traffic for the prefixes is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    /// An IPv4 address: NEXT_HOP, or four octets in MP_REACH_NLRI.
    V4(Ipv4Addr),
    /// An IPv6 address, and the link-local one of the same interface if the sender told it (RFC 2545 §3).
    /// `address` itself is link-local when the sender has no other.
    V6 {
        /// The address to use.
        address: Ipv6Addr,
        /// The address of the same router on the shared link.
        link_local: Option<Ipv6Addr>,
    },
}

impl NextHop {
    /// The address to resolve.
    pub const fn address(self) -> IpAddr {
        match self {
            Self::V4(address) => IpAddr::V4(address),
            Self::V6 { address, .. } => IpAddr::V6(address),
        }
    }

    /// Where to send traffic, as told over a session on the link `zone`; 0 if it is not bound to a link. On a link the
    /// link-local address is the one to use, which needs no further route (RFC 2545 §3).
    pub fn gateway(self, zone: u32) -> Gateway {
        match self {
            Self::V6 { link_local: Some(link_local), .. } if zone != 0 => {
                Gateway::on_link(link_local.into(), zone)
            }
            _ => Gateway::on_link(self.address(), zone),
        }
    }
}

impl From<IpAddr> for NextHop {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6 { address, link_local: None },
        }
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V6 { address, link_local: Some(link_local) } => write!(f, "{address} ({link_local})"),
            _ => fmt::Display::fmt(&self.address(), f),
        }
    }
}

/// Who aggregated the route (RFC 4271 §5.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Aggregator {
    /// The system of the aggregating router.
    pub asn: Asn,
    /// Its identifier.
    pub router: Ipv4Addr,
}

/// An optional transitive attribute that this speaker does not know and must pass on, marked as partial
/// (RFC 4271 §5).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnknownAttribute {
    /// The type code.
    pub code: u8,
    /// The value, as it came.
    pub value: Box<[u8]>,
}

/// Which optional transitive attributes carry the Partial bit: somebody on the way did not know them
/// (RFC 4271 §4.3). Once set it stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartialBits(u8);

impl PartialBits {
    /// Marks the attribute of type `code` as partial. Types other than AGGREGATOR, the communities and
    /// OTC carry no such mark here.
    pub(super) const fn insert(&mut self, code: u8) {
        self.0 |= Self::bit(code);
    }

    /// Whether the attribute of type `code` is partial.
    pub const fn contains(self, code: u8) -> bool {
        self.0 & Self::bit(code) != 0
    }

    const fn bit(code: u8) -> u8 {
        match code {
            super::table::AGGREGATOR => 1,
            super::table::COMMUNITIES => 2,
            super::table::EXTENDED_COMMUNITIES => 4,
            super::table::LARGE_COMMUNITIES => 8,
            super::table::ONLY_TO_CUSTOMER => 16,
            _ => 0,
        }
    }
}

/// All that an UPDATE says about the prefixes that it announces.
///
/// Two routes with equal attributes can share one message, so the value is what a speaker interns and
/// groups by. Communities are sets: their order on the wire says nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attributes {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH, with four-octet numbers whatever the peer could send.
    pub as_path: AsPath,
    /// NEXT_HOP, or the next hop of MP_REACH_NLRI.
    pub next_hop: NextHop,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF. From an external peer it is always `None`.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE is there.
    pub atomic_aggregate: bool,
    /// AGGREGATOR.
    pub aggregator: Option<Aggregator>,
    /// COMMUNITIES (RFC 1997).
    pub communities: BTreeSet<Community>,
    /// EXTENDED COMMUNITIES (RFC 4360).
    pub extended_communities: BTreeSet<ExtendedCommunity>,
    /// LARGE_COMMUNITY (RFC 8092).
    pub large_communities: BTreeSet<LargeCommunity>,
    /// ORIGINATOR_ID (RFC 4456). From an external peer it is always `None`.
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST (RFC 4456), the nearest reflector first. From an external peer it is always empty.
    pub cluster_list: Vec<Ipv4Addr>,
    /// Only to Customer (RFC 9234).
    pub only_to_customer: Option<Asn>,
    /// Unknown optional transitive attributes, ascending by type.
    pub unknown: Vec<UnknownAttribute>,
    /// Which of the attributes above came with the Partial bit.
    pub partial: PartialBits,
}

impl Attributes {
    /// The least that a route needs: where to send its traffic. The rest is as for a route of our own:
    /// ORIGIN IGP, an empty path, nothing optional.
    pub fn new(next_hop: NextHop) -> Self {
        Self {
            origin: Origin::Igp,
            as_path: AsPath::default(),
            next_hop,
            med: None,
            local_pref: None,
            atomic_aggregate: false,
            aggregator: None,
            communities: BTreeSet::new(),
            extended_communities: BTreeSet::new(),
            large_communities: BTreeSet::new(),
            originator_id: None,
            cluster_list: Vec::new(),
            only_to_customer: None,
            unknown: Vec::new(),
            partial: PartialBits::default(),
        }
    }
}
