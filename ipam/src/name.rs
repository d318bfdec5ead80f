//! Names: of nodes, blocks, families and requests.
//!
//! They are values without behaviour beyond parsing and printing. A [`BlockId`] is the only one with a rule:
//! it never has host bits, so two equal blocks are always equal values.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// The name of a Kubernetes node, as in `metadata.name` of its Node object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeName(String);

impl NodeName {
    /// Takes a name as it is.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for NodeName {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for NodeName {
    fn from(name: String) -> Self {
        Self(name)
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Chosen by the caller for each request and given back with its answer; never reused while an answer is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, in the order in which an endpoint lists its addresses.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Bits in an address: 32 or 128.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A block of addresses, named by its network. Without host bits, so that one block has one name.
///
/// Sorts by family, then address, then length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "IpNetwork", into = "IpNetwork")]
pub struct BlockId(IpNetwork);

impl BlockId {
    /// Takes a network.
    ///
    /// # Errors
    /// [`BlockIdError::HostBits`] when the address has bits behind the prefix.
    pub fn new(cidr: IpNetwork) -> Result<Self, BlockIdError> {
        if cidr.ip() == cidr.network() { Ok(Self(cidr)) } else { Err(BlockIdError::HostBits { cidr }) }
    }

    /// The block of length `len` in which `address` lies; a length beyond the family's is cut to it.
    pub(crate) fn around(address: IpAddr, len: u8) -> Self {
        let family = Family::of(address);
        let len = len.min(family.bits());
        Self::from_bits(family, to_bits(address) & !host_mask(family.bits() - len), len)
    }

    /// The block that starts at `bits`; these must not reach behind `len`.
    pub(crate) fn from_bits(family: Family, bits: u128, len: u8) -> Self {
        let network = IpNetwork::new(from_bits(family, bits), len.min(family.bits()));
        Self(network.expect("a prefix length within the family's bits is valid"))
    }

    /// The network.
    pub fn cidr(&self) -> IpNetwork {
        self.0
    }

    /// The family.
    pub fn family(&self) -> Family {
        Family::of(self.0.ip())
    }

    /// Whether `address` lies in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(address)
    }

    /// Whether the two have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.0.ip()) || other.contains(self.0.ip())
    }

    /// How many addresses the block has; saturates at `u32::MAX`, far above any valid block.
    pub fn size(&self) -> u32 {
        1u32.checked_shl(u32::from(self.family().bits() - self.0.prefix())).unwrap_or(u32::MAX)
    }

    /// The first address.
    pub fn first(&self) -> IpAddr {
        self.0.ip()
    }

    /// The last address.
    pub fn last(&self) -> IpAddr {
        let family = self.family();
        from_bits(family, to_bits(self.0.ip()) | host_mask(family.bits() - self.0.prefix()))
    }

    /// The name of the object that stands for the block: its CIDR with `.`, `:` and `/` turned into `-`,
    /// as `10-244-3-64-26` or `fd00-10-244--40-122`. No two blocks share one.
    pub fn name(&self) -> String {
        self.0.to_string().replace(['.', ':', '/'], "-")
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<IpNetwork> for BlockId {
    type Error = BlockIdError;

    fn try_from(cidr: IpNetwork) -> Result<Self, BlockIdError> {
        Self::new(cidr)
    }
}

impl From<BlockId> for IpNetwork {
    fn from(block: BlockId) -> Self {
        block.0
    }
}

impl FromStr for BlockId {
    type Err = BlockIdError;

    fn from_str(text: &str) -> Result<Self, BlockIdError> {
        let syntax = || BlockIdError::Syntax { text: text.to_owned() };
        if !text.contains('/') {
            return Err(syntax());
        }
        Self::new(text.parse().map_err(|_| syntax())?)
    }
}

/// Why something is not a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockIdError {
    /// Not a network in CIDR notation.
    #[error("{text:?} is not a network such as 10.244.3.64/26")]
    Syntax {
        /// What was given.
        text: String,
    },
    /// Bits behind the prefix.
    #[error("{cidr} has bits set behind its prefix: its network is {}/{}", cidr.network(), cidr.prefix())]
    HostBits {
        /// What was given.
        cidr: IpNetwork,
    },
}

/// An address as a number.
pub(crate) fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of a family that a number stands for; bits above 32 are no part of an IPv4 address.
pub(crate) fn from_bits(family: Family, bits: u128) -> IpAddr {
    match family {
        Family::V4 => {
            IpAddr::V4(u32::try_from(bits & u128::from(u32::MAX)).expect("masked to 32 bits").into())
        }
        Family::V6 => IpAddr::V6(bits.into()),
    }
}

/// A number whose lowest `bits` bits are set.
pub(crate) fn host_mask(bits: u8) -> u128 {
    1u128.checked_shl(u32::from(bits)).map_or(u128::MAX, |power| power - 1)
}

#[cfg(test)]
mod tests;
