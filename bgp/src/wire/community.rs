//! The three kinds of community: plain (RFC 1997), extended (RFC 4360) and large (RFC 8092).

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A community of four octets, written `65000:100` (RFC 1997).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl Community {
    /// Lower the preference, the path is about to go (RFC 8326 §5).
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);
    /// The route outlives its session (RFC 9494 §4.6).
    pub const LLGR_STALE: Self = Self(0xffff_0006);
    /// The route must not outlive its session (RFC 9494 §4.6).
    pub const NO_LLGR: Self = Self(0xffff_0007);
    /// Discard the traffic (RFC 7999 §5).
    pub const BLACKHOLE: Self = Self(0xffff_029a);
    /// Keep inside the autonomous system or confederation (RFC 1997).
    pub const NO_EXPORT: Self = Self(0xffff_ff01);
    /// Tell no other peer (RFC 1997).
    pub const NO_ADVERTISE: Self = Self(0xffff_ff02);
    /// Keep inside the autonomous system, member or not (RFC 1997).
    pub const NO_EXPORT_SUBCONFED: Self = Self(0xffff_ff03);
    /// Tell no bilateral peer (RFC 3765).
    pub const NO_PEER: Self = Self(0xffff_ff04);

    /// Builds `high:low`.
    pub const fn new(high: u16, low: u16) -> Self {
        Self((high as u32) << 16 | low as u32)
    }

    /// The part before the colon, by habit an autonomous system.
    pub const fn high(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The part behind the colon.
    pub const fn low(self) -> u16 {
        self.0 as u16
    }
}

const WELL_KNOWN: &[(Community, &str)] = &[
    (Community::GRACEFUL_SHUTDOWN, "graceful-shutdown"),
    (Community::LLGR_STALE, "llgr-stale"),
    (Community::NO_LLGR, "no-llgr"),
    (Community::BLACKHOLE, "blackhole"),
    (Community::NO_EXPORT, "no-export"),
    (Community::NO_ADVERTISE, "no-advertise"),
    (Community::NO_EXPORT_SUBCONFED, "no-export-subconfed"),
    (Community::NO_PEER, "no-peer"),
];

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match WELL_KNOWN.iter().find(|(known, _)| known == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{}:{}", self.high(), self.low()),
        }
    }
}

impl fmt::Debug for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Community {
    type Err = CommunityParseError;

    /// Reads `65000:100` or the name of a well-known community such as `no-export`.
    fn from_str(text: &str) -> Result<Self, CommunityParseError> {
        let wrong = || CommunityParseError::Plain(text.to_owned());
        if let Some((known, _)) = WELL_KNOWN.iter().find(|(_, name)| *name == text) {
            return Ok(*known);
        }
        let (high, low) = text.split_once(':').ok_or_else(wrong)?;
        Ok(Self::new(high.parse().map_err(|_| wrong())?, low.parse().map_err(|_| wrong())?))
    }
}

/// An extended community: eight octets, passed on as they are (RFC 4360).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtendedCommunity(pub [u8; 8]);

impl ExtendedCommunity {
    /// Whether the community may leave the autonomous system (RFC 4360 §2).
    pub const fn is_transitive(self) -> bool {
        let [kind, ..] = self.0;
        kind & 0x40 == 0
    }
}

/// The first octet of an extended community: whose number comes first (RFC 4360 §3, RFC 5668 §2).
const TWO_OCTET_AS: u8 = 0x00;
const IPV4_ADDRESS: u8 = 0x01;
const FOUR_OCTET_AS: u8 = 0x02;
/// The second octet: what it is for.
const ROUTE_TARGET: u8 = 0x02;
const ROUTE_ORIGIN: u8 = 0x03;

impl fmt::Display for ExtendedCommunity {
    /// `rt:65000:100` or `ro:192.0.2.1:100` for route targets and origins, all others in hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kind, subkind, a, b, c, d, e, g] = self.0;
        let role = match subkind {
            ROUTE_TARGET => "rt",
            ROUTE_ORIGIN => "ro",
            _ => return write!(f, "0x{:016x}", u64::from_be_bytes(self.0)),
        };
        let low = u16::from_be_bytes([e, g]);
        match kind {
            TWO_OCTET_AS => {
                write!(f, "{role}:{}:{}", u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, g]))
            }
            IPV4_ADDRESS => write!(f, "{role}:{}:{low}", Ipv4Addr::new(a, b, c, d)),
            FOUR_OCTET_AS => write!(f, "{role}:{}:{low}", u32::from_be_bytes([a, b, c, d])),
            _ => write!(f, "0x{:016x}", u64::from_be_bytes(self.0)),
        }
    }
}

impl FromStr for ExtendedCommunity {
    type Err = CommunityParseError;

    /// Reads what Display writes: `rt:65000:100`, `ro:192.0.2.1:100` or sixteen hexadecimal digits behind `0x`. A
    /// system that fits into two octets is written in two.
    fn from_str(text: &str) -> Result<Self, CommunityParseError> {
        let wrong = || CommunityParseError::Extended(text.to_owned());
        if let Some(digits) = text.strip_prefix("0x") {
            let number = u64::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 16);
            return number.map(|number| Self(number.to_be_bytes())).ok_or_else(wrong);
        }
        let mut parts = text.split(':');
        let (Some(role), Some(who), Some(what), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let subkind = match role {
            "rt" => ROUTE_TARGET,
            "ro" => ROUTE_ORIGIN,
            _ => return Err(wrong()),
        };
        if let Ok(asn) = who.parse::<u16>() {
            let [a, b] = asn.to_be_bytes();
            let [c, d, e, g] = what.parse::<u32>().map_err(|_| wrong())?.to_be_bytes();
            return Ok(Self([TWO_OCTET_AS, subkind, a, b, c, d, e, g]));
        }
        let address = who.parse::<Ipv4Addr>().ok().map(|address| (IPV4_ADDRESS, address.octets()));
        let wide = || who.parse::<u32>().ok().map(|asn| (FOUR_OCTET_AS, asn.to_be_bytes()));
        let (kind, [a, b, c, d]) = address.or_else(wide).ok_or_else(wrong)?;
        let [e, g] = what.parse::<u16>().map_err(|_| wrong())?.to_be_bytes();
        Ok(Self([kind, subkind, a, b, c, d, e, g]))
    }
}

impl fmt::Debug for ExtendedCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A large community, written `65000:1:2` (RFC 8092).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity {
    /// The autonomous system whose community it is.
    pub global: u32,
    /// The first part that this system defines.
    pub local1: u32,
    /// The second part that this system defines.
    pub local2: u32,
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.global, self.local1, self.local2)
    }
}

impl fmt::Debug for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for LargeCommunity {
    type Err = CommunityParseError;

    fn from_str(text: &str) -> Result<Self, CommunityParseError> {
        let wrong = || CommunityParseError::Large(text.to_owned());
        let mut parts = text.split(':').map(|part| part.parse().map_err(|_| wrong()));
        let mut part = || parts.next().unwrap_or_else(|| Err(wrong()));
        let community = Self { global: part()?, local1: part()?, local2: part()? };
        if parts.next().is_some() { Err(wrong()) } else { Ok(community) }
    }
}

/// A text is not a community.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommunityParseError {
    /// Not a plain community.
    #[error("{0:?} is not a community such as 65000:100 or no-export")]
    Plain(String),
    /// Not an extended community.
    #[error("{0:?} is not an extended community such as rt:65000:100 or 0x0002fde800000064")]
    Extended(String),
    /// Not a large community.
    #[error("{0:?} is not a large community such as 65000:1:2")]
    Large(String),
}
