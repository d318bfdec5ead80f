//! Capabilities: what a speaker can do, told in its OPEN (RFC 5492).

use std::fmt;

use super::error::{EncodeError, FrameError};
use super::reader::Reader;
use crate::prefix::{Asn, Family};

/// An address family as numbers, known to us or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AfiSafi {
    /// The address family identifier.
    pub afi: u16,
    /// The subsequent address family identifier.
    pub safi: u8,
}

impl AfiSafi {
    /// The family, if this speaker carries it.
    pub const fn family(self) -> Option<Family> {
        match (self.afi, self.safi) {
            (1, 1) => Some(Family::Ipv4Unicast),
            (2, 1) => Some(Family::Ipv6Unicast),
            _ => None,
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self { afi: reader.u16()?, safi: reader.u8()? })
    }

    pub(super) fn encode(self, buf: &mut Vec<u8>) {
        buf.extend_from_slice(&self.afi.to_be_bytes());
        buf.push(self.safi);
    }
}

impl From<Family> for AfiSafi {
    fn from(family: Family) -> Self {
        match family {
            Family::Ipv4Unicast => Self { afi: 1, safi: 1 },
            Family::Ipv6Unicast => Self { afi: 2, safi: 1 },
        }
    }
}

impl fmt::Display for AfiSafi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.family() {
            Some(family) => fmt::Display::fmt(&family, f),
            None => write!(f, "afi {} safi {}", self.afi, self.safi),
        }
    }
}

/// A family whose prefixes the sender takes with next hops of another family (RFC 8950 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedNextHop {
    /// The family of the prefixes.
    pub family: AfiSafi,
    /// The address family of the next hop: 2 is IPv6.
    pub next_hop_afi: u16,
}

/// The graceful restart capability (RFC 4724 §3, RFC 8538 §2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GracefulRestart {
    /// R: the sender has restarted and waits for our End-of-RIB.
    pub restarting: bool,
    /// N: a NOTIFICATION or an expired hold timer ends the session gracefully as well.
    pub notification: bool,
    /// How long a restart may take, in seconds, at most 4095.
    pub restart_secs: u16,
    /// The families for which routes may be kept.
    pub families: Vec<RestartFamily>,
}

/// A family within [`GracefulRestart`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartFamily {
    /// The family.
    pub family: AfiSafi,
    /// F: forwarding went on while the sender restarted.
    pub forwarding: bool,
}

/// A family within [`Capability::LongLivedGracefulRestart`] (RFC 9494 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongLivedFamily {
    /// The family.
    pub family: AfiSafi,
    /// F: forwarding went on while the sender restarted.
    pub forwarding: bool,
    /// How long stale routes may be kept, in seconds, 24 bits wide.
    pub stale_secs: u32,
}

/// What a sender does with path identifiers in one family (RFC 7911 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddPathFamily {
    /// The family.
    pub family: AfiSafi,
    /// 1: receives, 2: sends, 3: both. Anything else is to be ignored.
    pub mode: u8,
}

impl AddPathFamily {
    /// The bit of [`mode`](Self::mode): the sender takes several paths.
    pub const RECEIVE: u8 = 1;
    /// The bit of [`mode`](Self::mode): the sender may tell several paths.
    pub const SEND: u8 = 2;
}

/// One capability. What is not known, or only of interest to others, stays as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Routes of a family can be exchanged (RFC 4760 §8).
    Multiprotocol(AfiSafi),
    /// ROUTE-REFRESH is understood (RFC 2918).
    RouteRefresh,
    /// Next hops of another family are understood (RFC 8950).
    ExtendedNextHop(Vec<ExtendedNextHop>),
    /// Messages up to 65535 octets are understood (RFC 8654).
    ExtendedMessages,
    /// The sender's role, as numbered by RFC 9234 §4.1.
    Role(u8),
    /// The session may be restarted gracefully (RFC 4724).
    GracefulRestart(GracefulRestart),
    /// The sender's number, four octets wide (RFC 6793 §3).
    FourOctetAs(Asn),
    /// Several paths per prefix can be exchanged (RFC 7911).
    AddPath(Vec<AddPathFamily>),
    /// The demarcation of route refreshes is understood (RFC 7313).
    EnhancedRouteRefresh,
    /// Stale routes may be kept for long (RFC 9494).
    LongLivedGracefulRestart(Vec<LongLivedFamily>),
    /// Any other capability.
    Unknown {
        /// The code.
        code: u8,
        /// The value.
        value: Vec<u8>,
    },
}

const MULTIPROTOCOL: u8 = 1;
const ROUTE_REFRESH: u8 = 2;
const EXTENDED_NEXT_HOP: u8 = 5;
const EXTENDED_MESSAGES: u8 = 6;
const ROLE: u8 = 9;
const GRACEFUL_RESTART: u8 = 64;
const FOUR_OCTET_AS: u8 = 65;
const ADD_PATH: u8 = 69;
const ENHANCED_ROUTE_REFRESH: u8 = 70;
const LONG_LIVED_GRACEFUL_RESTART: u8 = 71;

const FORWARDING: u8 = 0x80;
const RESTARTING: u16 = 0x8000;
const NOTIFICATION: u16 = 0x4000;
/// The widest restart time, in seconds: 12 bits.
const RESTART_SECS: u16 = 0x0fff;
/// The widest stale time, in seconds: 24 bits.
const STALE_SECS: u32 = 0x00ff_ffff;

impl Capability {
    /// The code by which the capability is registered.
    pub const fn code(&self) -> u8 {
        match self {
            Self::Multiprotocol(_) => MULTIPROTOCOL,
            Self::RouteRefresh => ROUTE_REFRESH,
            Self::ExtendedNextHop(_) => EXTENDED_NEXT_HOP,
            Self::ExtendedMessages => EXTENDED_MESSAGES,
            Self::Role(_) => ROLE,
            Self::GracefulRestart(_) => GRACEFUL_RESTART,
            Self::FourOctetAs(_) => FOUR_OCTET_AS,
            Self::AddPath(_) => ADD_PATH,
            Self::EnhancedRouteRefresh => ENHANCED_ROUTE_REFRESH,
            Self::LongLivedGracefulRestart(_) => LONG_LIVED_GRACEFUL_RESTART,
            Self::Unknown { code, .. } => *code,
        }
    }

    /// Reads the capabilities of one optional parameter.
    pub(super) fn decode_all(parameter: &[u8], into: &mut Vec<Self>) -> Result<(), FrameError> {
        let mut reader = Reader::new(parameter);
        while !reader.is_empty() {
            let code = reader.u8().ok_or(FrameError::Open("capabilities"))?;
            let value = reader.counted_u8().ok_or(FrameError::Open("capabilities"))?;
            into.push(Self::decode(code, value).ok_or(FrameError::Open("capabilities"))?);
        }
        Ok(())
    }

    /// Reads one value; `None` if it is too short or too long for what it claims to be.
    fn decode(code: u8, value: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(value);
        let capability = match code {
            MULTIPROTOCOL => {
                let afi = reader.u16()?;
                let _reserved = reader.u8()?;
                Self::Multiprotocol(AfiSafi { afi, safi: reader.u8()? })
            }
            ROUTE_REFRESH => Self::RouteRefresh,
            EXTENDED_NEXT_HOP => Self::ExtendedNextHop(list(&mut reader, extended_next_hop)?),
            EXTENDED_MESSAGES => Self::ExtendedMessages,
            ROLE => Self::Role(reader.u8()?),
            GRACEFUL_RESTART => Self::GracefulRestart(graceful_restart(&mut reader)?),
            FOUR_OCTET_AS => Self::FourOctetAs(Asn(reader.u32()?)),
            ADD_PATH => Self::AddPath(list(&mut reader, |reader| {
                Some(AddPathFamily { family: AfiSafi::decode(reader)?, mode: reader.u8()? })
            })?),
            ENHANCED_ROUTE_REFRESH => Self::EnhancedRouteRefresh,
            LONG_LIVED_GRACEFUL_RESTART => {
                Self::LongLivedGracefulRestart(list(&mut reader, long_lived_family)?)
            }
            _ => Self::Unknown { code, value: reader.take_rest().to_vec() },
        };
        reader.is_empty().then_some(capability)
    }

    /// Writes code, length and value.
    pub(super) fn encode(&self, buf: &mut Vec<u8>) -> Result<(), EncodeError> {
        let mut value = Vec::new();
        self.encode_value(&mut value);
        let len = u8::try_from(value.len()).map_err(|_| EncodeError::CapabilityTooLarge(self.code()))?;
        buf.extend_from_slice(&[self.code(), len]);
        buf.extend_from_slice(&value);
        Ok(())
    }

    fn encode_value(&self, value: &mut Vec<u8>) {
        match self {
            Self::Multiprotocol(AfiSafi { afi, safi }) => {
                value.extend_from_slice(&afi.to_be_bytes());
                value.extend_from_slice(&[0, *safi]);
            }
            Self::RouteRefresh | Self::ExtendedMessages | Self::EnhancedRouteRefresh => {}
            Self::ExtendedNextHop(families) => families.iter().for_each(|one| one.encode(value)),
            Self::Role(role) => value.push(*role),
            Self::GracefulRestart(restart) => restart.encode(value),
            Self::FourOctetAs(asn) => value.extend_from_slice(&asn.0.to_be_bytes()),
            Self::AddPath(families) => {
                for AddPathFamily { family, mode } in families {
                    family.encode(value);
                    value.push(*mode);
                }
            }
            Self::LongLivedGracefulRestart(families) => families.iter().for_each(|one| one.encode(value)),
            Self::Unknown { value: opaque, .. } => value.extend_from_slice(opaque),
        }
    }
}

/// Reads items until nothing is left; `None` if the last one is cut short.
fn list<'a, T>(reader: &mut Reader<'a>, item: impl Fn(&mut Reader<'a>) -> Option<T>) -> Option<Vec<T>> {
    let mut items = Vec::new();
    while !reader.is_empty() {
        items.push(item(reader)?);
    }
    Some(items)
}

fn extended_next_hop(reader: &mut Reader<'_>) -> Option<ExtendedNextHop> {
    let afi = reader.u16()?;
    let safi = u8::try_from(reader.u16()?).ok()?;
    Some(ExtendedNextHop { family: AfiSafi { afi, safi }, next_hop_afi: reader.u16()? })
}

impl ExtendedNextHop {
    fn encode(&self, value: &mut Vec<u8>) {
        value.extend_from_slice(&self.family.afi.to_be_bytes());
        value.extend_from_slice(&u16::from(self.family.safi).to_be_bytes());
        value.extend_from_slice(&self.next_hop_afi.to_be_bytes());
    }
}

fn graceful_restart(reader: &mut Reader<'_>) -> Option<GracefulRestart> {
    let head = reader.u16()?;
    let families = list(reader, |reader| {
        let family = AfiSafi::decode(reader)?;
        Some(RestartFamily { family, forwarding: reader.u8()? & FORWARDING != 0 })
    })?;
    Some(GracefulRestart {
        restarting: head & RESTARTING != 0,
        notification: head & NOTIFICATION != 0,
        restart_secs: head & RESTART_SECS,
        families,
    })
}

impl GracefulRestart {
    fn encode(&self, value: &mut Vec<u8>) {
        let restarting = if self.restarting { RESTARTING } else { 0 };
        let notification = if self.notification { NOTIFICATION } else { 0 };
        let head = restarting | notification | self.restart_secs.min(RESTART_SECS);
        value.extend_from_slice(&head.to_be_bytes());
        for RestartFamily { family, forwarding } in &self.families {
            family.encode(value);
            value.push(if *forwarding { FORWARDING } else { 0 });
        }
    }
}

fn long_lived_family(reader: &mut Reader<'_>) -> Option<LongLivedFamily> {
    let family = AfiSafi::decode(reader)?;
    let word = reader.u32()?;
    let [flags, ..] = word.to_be_bytes();
    Some(LongLivedFamily { family, forwarding: flags & FORWARDING != 0, stale_secs: word & STALE_SECS })
}

impl LongLivedFamily {
    fn encode(&self, value: &mut Vec<u8>) {
        self.family.encode(value);
        let forwarding = if self.forwarding { u32::from(FORWARDING) << 24 } else { 0 };
        let word = forwarding | self.stale_secs.min(STALE_SECS);
        value.extend_from_slice(&word.to_be_bytes());
    }
}
