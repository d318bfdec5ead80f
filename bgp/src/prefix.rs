//! Addresses as BGP names them: prefixes, families, autonomous systems, router ids.
//!
//! Everything here is small, `Copy` and canonical: a [`Prefix`] never has host bits, so that equal
//! routes are equal values. Next read: `wire`, which turns these into octets and back.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

/// An address family that this speaker carries. Unicast is the only sub-address-family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4Unicast,
    /// AFI 2, SAFI 1.
    Ipv6Unicast,
}

impl Family {
    /// Both families, in the order of their AFI.
    pub const ALL: [Self; 2] = [Self::Ipv4Unicast, Self::Ipv6Unicast];

    /// The family to which an address belongs.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4Unicast } else { Self::Ipv6Unicast }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4Unicast => "ipv4-unicast",
            Self::Ipv6Unicast => "ipv6-unicast",
        })
    }
}

/// A set of families.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Families {
    ipv4: bool,
    ipv6: bool,
}

impl Families {
    /// No family at all.
    pub const NONE: Self = Self { ipv4: false, ipv6: false };
    /// Both families.
    pub const ALL: Self = Self { ipv4: true, ipv6: true };

    /// Says whether `family` is in the set.
    pub const fn contains(self, family: Family) -> bool {
        match family {
            Family::Ipv4Unicast => self.ipv4,
            Family::Ipv6Unicast => self.ipv6,
        }
    }

    /// Adds `family`.
    pub const fn insert(&mut self, family: Family) {
        match family {
            Family::Ipv4Unicast => self.ipv4 = true,
            Family::Ipv6Unicast => self.ipv6 = true,
        }
    }

    /// Takes `family` out.
    pub const fn remove(&mut self, family: Family) {
        match family {
            Family::Ipv4Unicast => self.ipv4 = false,
            Family::Ipv6Unicast => self.ipv6 = false,
        }
    }

    /// What is in both sets.
    pub const fn intersection(self, other: Self) -> Self {
        Self { ipv4: self.ipv4 && other.ipv4, ipv6: self.ipv6 && other.ipv6 }
    }

    /// Says whether no family is in the set.
    pub const fn is_empty(self) -> bool {
        !self.ipv4 && !self.ipv6
    }

    /// The members, in the order of their AFI.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self.contains(*family))
    }
}

impl FromIterator<Family> for Families {
    fn from_iter<I: IntoIterator<Item = Family>>(families: I) -> Self {
        let mut set = Self::NONE;
        families.into_iter().for_each(|family| set.insert(family));
        set
    }
}

impl fmt::Debug for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// An IPv4 prefix without host bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Prefix {
    address: Ipv4Addr,
    len: u8,
}

impl Ipv4Prefix {
    /// Keeps the first `len` bits of `address`; `None` if `len` is above 32.
    pub const fn masked(address: Ipv4Addr, len: u8) -> Option<Self> {
        if len > 32 {
            return None;
        }
        let mask = match u32::MAX.checked_shl(32 - len as u32) {
            Some(mask) => mask,
            None => 0,
        };
        Some(Self { address: Ipv4Addr::from_bits(address.to_bits() & mask), len })
    }

    /// The network address.
    pub const fn address(self) -> Ipv4Addr {
        self.address
    }

    /// The length in bits, 0 to 32.
    #[expect(clippy::len_without_is_empty, reason = "the length of a prefix is not a count of things in it")]
    pub const fn len(self) -> u8 {
        self.len
    }

    /// Says whether `other` is this prefix or one within it.
    pub fn contains(self, other: Self) -> bool {
        self.len <= other.len && Self::masked(other.address, self.len) == Some(self)
    }
}

/// An IPv6 prefix without host bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv6Prefix {
    address: Ipv6Addr,
    len: u8,
}

impl Ipv6Prefix {
    /// Keeps the first `len` bits of `address`; `None` if `len` is above 128.
    pub const fn masked(address: Ipv6Addr, len: u8) -> Option<Self> {
        if len > 128 {
            return None;
        }
        let mask = match u128::MAX.checked_shl(128 - len as u32) {
            Some(mask) => mask,
            None => 0,
        };
        Some(Self { address: Ipv6Addr::from_bits(address.to_bits() & mask), len })
    }

    /// The network address.
    pub const fn address(self) -> Ipv6Addr {
        self.address
    }

    /// The length in bits, 0 to 128.
    #[expect(clippy::len_without_is_empty, reason = "the length of a prefix is not a count of things in it")]
    pub const fn len(self) -> u8 {
        self.len
    }

    /// Says whether `other` is this prefix or one within it.
    pub fn contains(self, other: Self) -> bool {
        self.len <= other.len && Self::masked(other.address, self.len) == Some(self)
    }
}

/// A prefix of either family: 18 octets, ordered by family, then address, then length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Prefix {
    /// An IPv4 prefix.
    V4(Ipv4Prefix),
    /// An IPv6 prefix.
    V6(Ipv6Prefix),
}

impl Prefix {
    /// Takes a network that is already canonical.
    ///
    /// # Errors
    /// [`HostBits`] if bits are set beyond the prefix length; [`Prefix::masked`] clears them instead.
    pub fn new(network: IpNetwork) -> Result<Self, HostBits> {
        let prefix = Self::of_network(network);
        if prefix.address() == network.ip() { Ok(prefix) } else { Err(HostBits { network, prefix }) }
    }

    /// Keeps the first `len` bits of `address`; `None` if `len` is above the family's width.
    pub fn masked(address: IpAddr, len: u8) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Ipv4Prefix::masked(address, len).map(Self::V4),
            IpAddr::V6(address) => Ipv6Prefix::masked(address, len).map(Self::V6),
        }
    }

    /// The prefix that holds nothing but `address`: a /32 or a /128.
    pub const fn host(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(Ipv4Prefix { address, len: 32 }),
            IpAddr::V6(address) => Self::V6(Ipv6Prefix { address, len: 128 }),
        }
    }

    fn of_network(network: IpNetwork) -> Self {
        match network {
            IpNetwork::V4(net) => Self::V4(Ipv4Prefix { address: net.network(), len: net.prefix() }),
            IpNetwork::V6(net) => Self::V6(Ipv6Prefix { address: net.network(), len: net.prefix() }),
        }
    }

    /// The family.
    pub const fn family(self) -> Family {
        match self {
            Self::V4(_) => Family::Ipv4Unicast,
            Self::V6(_) => Family::Ipv6Unicast,
        }
    }

    /// The network address.
    pub const fn address(self) -> IpAddr {
        match self {
            Self::V4(prefix) => IpAddr::V4(prefix.address),
            Self::V6(prefix) => IpAddr::V6(prefix.address),
        }
    }

    /// The length in bits.
    #[expect(clippy::len_without_is_empty, reason = "the length of a prefix is not a count of things in it")]
    pub const fn len(self) -> u8 {
        match self {
            Self::V4(prefix) => prefix.len,
            Self::V6(prefix) => prefix.len,
        }
    }

    /// Says whether `other` is this prefix or one within it. Families never contain one another.
    pub fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::V4(outer), Self::V4(inner)) => outer.contains(*inner),
            (Self::V6(outer), Self::V6(inner)) => outer.contains(*inner),
            _ => false,
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.len())
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl fmt::Debug for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Ipv6Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl fmt::Debug for Ipv6Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Ipv4Prefix> for Prefix {
    fn from(prefix: Ipv4Prefix) -> Self {
        Self::V4(prefix)
    }
}

impl From<Ipv6Prefix> for Prefix {
    fn from(prefix: Ipv6Prefix) -> Self {
        Self::V6(prefix)
    }
}

impl From<Prefix> for IpNetwork {
    fn from(prefix: Prefix) -> Self {
        match prefix {
            Prefix::V4(Ipv4Prefix { address, len }) => {
                Self::V4(Ipv4Network::new(address, len).expect("an Ipv4Prefix is at most 32 bits long"))
            }
            Prefix::V6(Ipv6Prefix { address, len }) => {
                Self::V6(Ipv6Network::new(address, len).expect("an Ipv6Prefix is at most 128 bits long"))
            }
        }
    }
}

impl TryFrom<IpNetwork> for Prefix {
    type Error = HostBits;

    fn try_from(network: IpNetwork) -> Result<Self, HostBits> {
        Self::new(network)
    }
}

impl FromStr for Prefix {
    type Err = PrefixParseError;

    fn from_str(text: &str) -> Result<Self, PrefixParseError> {
        let network: IpNetwork = text.parse().map_err(|_| PrefixParseError::Syntax(text.to_owned()))?;
        Ok(Self::new(network)?)
    }
}

/// A network was given with bits set beyond its prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{network} has bits set beyond its prefix length; {prefix} may be meant")]
pub struct HostBits {
    network: IpNetwork,
    prefix: Prefix,
}

/// A text is not a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixParseError {
    /// It is not `address/length` at all.
    #[error("{0:?} is not a prefix such as 10.244.0.0/26")]
    Syntax(String),
    /// It has bits beyond the prefix length.
    #[error(transparent)]
    HostBits(#[from] HostBits),
}

/// A next hop, as routes lead to it: an address and, where that alone says too little, its link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gateway {
    /// The address.
    pub address: IpAddr,
    /// The index of the link that a link-local address is on; 0 for every other address.
    pub zone: u32,
}

impl Gateway {
    /// An address as a session gives it: the zone counts only if the address is link-local (RFC 4007 §6).
    pub fn on_link(address: IpAddr, zone: u32) -> Self {
        let zone = if is_link_local(address) { zone } else { 0 };
        Self { address, zone }
    }
}

impl From<IpAddr> for Gateway {
    fn from(address: IpAddr) -> Self {
        Self { address, zone: 0 }
    }
}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.zone {
            0 => fmt::Display::fmt(&self.address, f),
            zone => write!(f, "{}%{zone}", self.address),
        }
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether an address means something on one link only: fe80::/10 (RFC 4291 §2.5.6).
pub(crate) const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// The number of an autonomous system, four octets wide (RFC 6793).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asn(pub u32);

impl Asn {
    /// Stands for a number that does not fit into two octets (RFC 6793 §9).
    pub const TRANS: Self = Self(23456);

    /// Says whether the number is never anybody's (RFC 7607).
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Says whether the number is for private use (RFC 6996 §5).
    pub const fn is_private(self) -> bool {
        matches!(self.0, 64_512..=65_534 | 4_200_000_000..=4_294_967_294)
    }
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl From<u32> for Asn {
    fn from(number: u32) -> Self {
        Self(number)
    }
}

/// A BGP identifier: four octets, not all zero (RFC 6286 §2.1). Ordered as an unsigned number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId(Ipv4Addr);

impl RouterId {
    /// Takes four octets; `None` if they are all zero.
    pub const fn new(octets: Ipv4Addr) -> Option<Self> {
        if octets.is_unspecified() { None } else { Some(Self(octets)) }
    }

    /// The identifier as the address that it looks like.
    pub const fn get(self) -> Ipv4Addr {
        self.0
    }
}

impl From<RouterId> for Ipv4Addr {
    fn from(id: RouterId) -> Self {
        id.0
    }
}

impl TryFrom<Ipv4Addr> for RouterId {
    type Error = ZeroRouterId;

    fn try_from(octets: Ipv4Addr) -> Result<Self, ZeroRouterId> {
        Self::new(octets).ok_or(ZeroRouterId)
    }
}

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// 0.0.0.0 was given as a router id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a router id must not be 0.0.0.0; use an address of the node")]
pub struct ZeroRouterId;

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_takes_eighteen_octets() {
        assert_eq!(size_of::<Prefix>(), 18);
    }

    #[test]
    fn bits_beyond_the_length_are_refused_by_new_and_cleared_by_masked() {
        let error = Prefix::new("10.244.3.65/26".parse().unwrap()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "10.244.3.65/26 has bits set beyond its prefix length; 10.244.3.64/26 may be meant"
        );
        assert_eq!(Prefix::masked("10.244.3.65".parse().unwrap(), 26), Some(prefix("10.244.3.64/26")));
        assert_eq!(Prefix::masked("fd00::1".parse().unwrap(), 0), Some(prefix("::/0")));
        assert_eq!(Prefix::masked("10.0.0.1".parse().unwrap(), 33), None);
        assert_eq!(Prefix::masked("::1".parse().unwrap(), 129), None);
    }

    #[test]
    fn a_prefix_contains_itself_and_what_is_longer_within_its_own_family() {
        let pool = prefix("10.244.0.0/16");
        assert!(pool.contains(&pool));
        assert!(pool.contains(&prefix("10.244.3.64/26")));
        assert!(!pool.contains(&prefix("10.0.0.0/8")));
        assert!(!pool.contains(&prefix("10.245.0.0/26")));
        assert!(prefix("0.0.0.0/0").contains(&pool));
        assert!(!prefix("::/0").contains(&pool));
        assert!(prefix("::/0").contains(&prefix("fd00::/48")));
    }

    #[test]
    fn prefixes_sort_by_family_then_address_then_length() {
        let mut sorted = ["fd00::/48", "10.1.0.0/16", "10.0.0.0/16", "10.0.0.0/8", "::/0"].map(prefix);
        sorted.sort();
        assert_eq!(sorted, ["10.0.0.0/8", "10.0.0.0/16", "10.1.0.0/16", "::/0", "fd00::/48"].map(prefix));
    }

    #[test]
    fn a_prefix_survives_the_way_to_a_network_and_to_text_and_back() {
        for text in ["0.0.0.0/0", "10.244.3.64/26", "192.0.2.1/32", "::/0", "fd00:10:244::40/122"] {
            assert_eq!(Prefix::new(IpNetwork::from(prefix(text))), Ok(prefix(text)));
            assert_eq!(prefix(text).to_string(), text);
        }
    }

    #[test]
    fn a_gateway_has_a_zone_only_if_its_address_is_link_local() {
        let gateway = |address: &str| Gateway::on_link(address.parse().unwrap(), 3);
        assert_eq!(gateway("fe80::1").to_string(), "fe80::1%3");
        assert_eq!(gateway("fd00::1"), Gateway::from("fd00::1".parse::<IpAddr>().unwrap()));
        assert_eq!(gateway("169.254.0.1").to_string(), "169.254.0.1");
    }

    #[test]
    fn a_router_id_of_zero_does_not_exist() {
        assert_eq!(RouterId::new(Ipv4Addr::UNSPECIFIED), None);
        assert!(RouterId::new([9, 0, 0, 1].into()) < RouterId::new([10, 0, 0, 1].into()));
    }
}
