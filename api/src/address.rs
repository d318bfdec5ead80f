//! Addresses and networks as fields of a resource: strict when read, canonical when written.
//!
//! `10.0.0.1/8` is refused rather than rounded: it is either a typing error or a misunderstanding, and both are better
//! told at `kubectl apply` than found in a routing table. The schema carries the same rule in CEL.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A network in CIDR notation without host bits, such as `10.244.0.0/16` or `fd00:10:244::/48`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr(IpNetwork);

/// Why a text is not a [`Cidr`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// No slash, no address before it, or no decimal length behind it.
    #[error(
        "{0:?} is not a network in CIDR notation: write an address, a slash and a prefix length, as in 10.244.0.0/16"
    )]
    Syntax(String),
    /// The length is above 32 (IPv4) or 128 (IPv6).
    #[error("the prefix length of {text:?} is above {max}")]
    Length {
        /// What was read.
        text: String,
        /// The longest possible prefix in that family.
        max: u8,
    },
    /// Bits are set behind the prefix length.
    #[error("{text:?} has host bits set: write {network}")]
    HostBits {
        /// What was read.
        text: String,
        /// The network that contains it.
        network: IpNetwork,
    },
    /// An IPv4 network written as `::ffff:a.b.c.d/n`.
    #[error("{0:?} is an IPv4-mapped IPv6 network: write it in IPv4 form")]
    Mapped(String),
}

impl Cidr {
    /// The network, which has no host bits.
    pub fn network(self) -> IpNetwork {
        self.0
    }

    /// Whether this is an IPv4 network.
    pub fn is_ipv4(self) -> bool {
        self.0.is_ipv4()
    }

    /// The prefix length in bits.
    pub fn prefix_len(self) -> u8 {
        self.0.prefix()
    }

    /// Whether every address of `other` is in this network.
    pub fn contains(self, other: Self) -> bool {
        self.is_ipv4() == other.is_ipv4()
            && self.prefix_len() <= other.prefix_len()
            && self.0.contains(other.0.network())
    }

    /// Whether some address is in both networks.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other) || other.contains(self)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let syntax = || CidrError::Syntax(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(syntax)?;
        let address: IpAddr = address.parse().map_err(|_| syntax())?;
        let decimal = !length.is_empty() && length.len() <= 3 && length.bytes().all(|b| b.is_ascii_digit());
        if !decimal || (length.len() > 1 && length.starts_with('0')) {
            return Err(syntax());
        }
        if is_mapped(address) {
            return Err(CidrError::Mapped(text.to_owned()));
        }
        let max = if address.is_ipv4() { 32 } else { 128 };
        let too_long = || CidrError::Length { text: text.to_owned(), max };
        let length: u8 = length.parse().map_err(|_| too_long())?;
        let network = IpNetwork::new(address, length).map_err(|_| too_long())?;
        Self::try_from(network)
            .map_err(|_| CidrError::HostBits { text: text.to_owned(), network: masked(network) })
    }
}

impl TryFrom<IpNetwork> for Cidr {
    type Error = CidrError;

    fn try_from(network: IpNetwork) -> Result<Self, CidrError> {
        let canonical = masked(network);
        if canonical == network {
            Ok(Self(network))
        } else {
            Err(CidrError::HostBits { text: network.to_string(), network: canonical })
        }
    }
}

impl From<Cidr> for IpNetwork {
    fn from(cidr: Cidr) -> Self {
        cidr.0
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl JsonSchema for Cidr {
    fn schema_name() -> Cow<'static, str> {
        "Cidr".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 3,
            "maxLength": 43,
            "x-kubernetes-validations": [{
                "rule": "isCIDR(self) && string(cidr(self).masked()) == self",
                "message": "must be a network in CIDR notation, in canonical form and without host bits, such as 10.244.0.0/16 or fd00:10:244::/48",
            }],
        })
    }
}

/// An IPv4 or IPv6 address without a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(IpAddr);

/// Why a text is not an [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv4 or IPv6 address")]
pub struct AddressError(String);

impl Address {
    /// The address.
    pub fn ip(self) -> IpAddr {
        self.0
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.parse::<IpAddr>() {
            Ok(ip) if !is_mapped(ip) => Ok(Self(ip)),
            _ => Err(AddressError(text.to_owned())),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        address.0
    }
}

impl From<IpAddr> for Address {
    /// An IPv4-mapped IPv6 address becomes the IPv4 address that it stands for.
    fn from(ip: IpAddr) -> Self {
        Self(ip.to_canonical())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl JsonSchema for Address {
    fn schema_name() -> Cow<'static, str> {
        "Address".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 2,
            "maxLength": 39,
            "x-kubernetes-validations": [{
                "rule": "isIP(self) && string(ip(self)) == self",
                "message": "must be an IPv4 or IPv6 address in canonical form, such as 192.0.2.1 or fd00::1",
            }],
        })
    }
}

/// A peer's address and, where it is not the well-known one, its TCP port: `192.0.2.1`, `192.0.2.1:1179`, `fd00::1`,
/// `[fd00::1]:1179`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerAddress {
    /// The address.
    pub ip: IpAddr,
    /// The port, or `None` for 179.
    pub port: Option<u16>,
}

/// Why a text is not a [`PeerAddress`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a peer's address: write 192.0.2.1, 192.0.2.1:1179, fd00::1 or [fd00::1]:1179")]
pub struct PeerAddressError(String);

impl FromStr for PeerAddress {
    type Err = PeerAddressError;

    fn from_str(text: &str) -> Result<Self, PeerAddressError> {
        let parsed = match text.parse::<IpAddr>() {
            Ok(ip) => Some(Self { ip, port: None }),
            Err(_) => with_port(text),
        };
        parsed.filter(|peer| !is_mapped(peer.ip)).ok_or_else(|| PeerAddressError(text.to_owned()))
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ip, self.port) {
            (ip, None) => ip.fmt(f),
            (IpAddr::V4(ip), Some(port)) => write!(f, "{ip}:{port}"),
            (IpAddr::V6(ip), Some(port)) => write!(f, "[{ip}]:{port}"),
        }
    }
}

impl JsonSchema for PeerAddress {
    fn schema_name() -> Cow<'static, str> {
        "PeerAddress".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 2,
            "maxLength": 47,
            "x-kubernetes-validations": [{
                "rule": PEER_ADDRESS_RULE,
                "message": "must be an address and perhaps a port: 192.0.2.1, 192.0.2.1:1179, fd00::1 or [fd00::1]:1179",
            }],
        })
    }
}

/// Everything before the port (brackets off) is an address, and the port, if there is one, is between 1 and 65535.
const PEER_ADDRESS_RULE: &str = concat!(
    "isIP(self) || (self.matches('^([0-9.]+|\\\\[[0-9a-f:.]+\\\\]):[1-9][0-9]{0,4}$')",
    " && isIP(self.substring(0, self.lastIndexOf(':')).replace('[', '').replace(']', ''))",
    " && int(self.substring(self.lastIndexOf(':') + 1)) <= 65535)",
);

fn with_port(text: &str) -> Option<PeerAddress> {
    let socket: std::net::SocketAddr = text.parse().ok()?;
    let zoned = matches!(socket, std::net::SocketAddr::V6(v6) if v6.scope_id() != 0) || text.contains('%');
    (socket.port() != 0 && !zoned).then(|| PeerAddress { ip: socket.ip(), port: Some(socket.port()) })
}

fn is_mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

fn masked(network: IpNetwork) -> IpNetwork {
    IpNetwork::new(network.network(), network.prefix())
        .expect("a network's own length is valid in its family")
}

/// Serializes as `Display` writes it and reads as `FromStr` does, with its error as the message.
macro_rules! serde_as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
pub(crate) use serde_as_text;

serde_as_text!(Cidr, Address, PeerAddress);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn host_bits_are_refused_with_the_network_that_was_meant() {
        let error = "10.0.0.1/8".parse::<Cidr>().expect_err("host bits");
        assert_eq!(error.to_string(), "\"10.0.0.1/8\" has host bits set: write 10.0.0.0/8");
        let error = serde_json::from_str::<Cidr>("\"fd00::1/64\"").expect_err("host bits");
        assert!(
            error.to_string().starts_with("\"fd00::1/64\" has host bits set: write fd00::/64"),
            "{error}"
        );
    }

    #[test]
    fn only_cidr_notation_is_a_network() {
        let length = |text: &str| matches!(text.parse::<Cidr>(), Err(CidrError::Length { .. }));
        let syntax = |text: &str| matches!(text.parse::<Cidr>(), Err(CidrError::Syntax(_)));
        assert!(length("10.0.0.0/33") && length("fd00::/129") && length("10.0.0.0/999"));
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "10.0.0.0/255.0.0.0",
            "010.0.0.0/8",
            "x/8",
        ] {
            assert!(syntax(bad), "{bad}");
        }
        assert!(matches!("::ffff:10.0.0.0/104".parse::<Cidr>(), Err(CidrError::Mapped(_))));
    }

    #[test]
    fn networks_contain_and_overlap_within_their_family() {
        let cidr = |text: &str| text.parse::<Cidr>().expect("a network");
        assert!(cidr("10.0.0.0/8").contains(cidr("10.1.0.0/16")));
        assert!(!cidr("10.1.0.0/16").contains(cidr("10.0.0.0/8")));
        assert!(cidr("10.1.0.0/16").overlaps(cidr("10.0.0.0/8")));
        assert!(!cidr("0.0.0.0/0").overlaps(cidr("::/0")));
        assert!(!cidr("10.1.0.0/16").overlaps(cidr("10.2.0.0/16")));
    }

    #[test]
    fn addresses_of_peers_are_written_as_they_are_read() {
        for text in ["192.0.2.1", "192.0.2.1:1179", "fd00::1", "[fd00::1]:1179"] {
            assert_eq!(text.parse::<PeerAddress>().expect("an address").to_string(), text);
        }
    }

    #[test]
    fn a_mapped_address_stands_for_the_ipv4_address() {
        assert!("::ffff:192.0.2.1".parse::<Address>().is_err());
        assert_eq!(
            Address::from(IpAddr::V6("::ffff:192.0.2.1".parse().expect("valid"))).to_string(),
            "192.0.2.1"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ip in any::<IpAddr>(), len in 0u8..=128) {
            let network = IpNetwork::new(ip, len);
            prop_assume!(network.is_ok() && !is_mapped(ip));
            let cidr = Cidr::try_from(masked(network.expect("assumed"))).expect("no host bits");
            prop_assume!(!is_mapped(cidr.network().ip()));
            let json = serde_json::to_string(&cidr).expect("plain data");
            prop_assert_eq!(serde_json::from_str::<Cidr>(&json).expect("what was written"), cidr);
        }

        #[test]
        fn no_text_makes_reading_panic(text in ".{0,50}") {
            let _ = (text.parse::<Cidr>(), text.parse::<Address>(), text.parse::<PeerAddress>());
        }
    }
}
