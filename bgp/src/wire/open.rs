//! OPEN: who a speaker is and what it can do (RFC 4271 §4.2, RFC 5492, RFC 9072).

use super::capability::{AddPathFamily, AfiSafi, Capability, GracefulRestart, LongLivedFamily};
use super::error::{EncodeError, FrameError};
use super::framer::Frame;
use super::reader::Reader;
use crate::prefix::{Asn, Families, Family, RouterId};

/// The version of BGP spoken here.
pub(super) const VERSION: u8 = 4;

const CAPABILITIES: u8 = 2;
/// In the place of the first parameter's type: the lengths that follow are two octets wide (RFC 9072 §2).
const EXTENDED: u8 = 255;
const IPV6_AFI: u16 = 2;

/// An OPEN message that passed every check which needs no configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The sender's autonomous system: the four-octet number if the sender has that capability. When the
    /// message is written, what does not fit into its two octets becomes AS_TRANS; the capability is not
    /// added by itself.
    pub asn: Asn,
    /// The proposed hold time in seconds: 0 (none) or at least 3.
    pub hold_secs: u16,
    /// The sender's identifier.
    pub router_id: RouterId,
    /// The capabilities, as listed.
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// The families that the sender can exchange. Without any multiprotocol capability that is IPv4
    /// (RFC 4760 §8).
    pub fn families(&self) -> Families {
        let mut any = false;
        let mut families = Families::NONE;
        for capability in &self.capabilities {
            if let Capability::Multiprotocol(family) = capability {
                any = true;
                family.family().into_iter().for_each(|family| families.insert(family));
            }
        }
        if !any {
            families.insert(Family::Ipv4Unicast);
        }
        families
    }

    /// Whether the sender writes and reads four-octet autonomous system numbers.
    pub fn four_octet_as(&self) -> bool {
        self.capabilities.iter().any(|capability| matches!(capability, Capability::FourOctetAs(_)))
    }

    /// Whether the sender takes messages of more than 4096 octets.
    pub fn extended_messages(&self) -> bool {
        self.capabilities.contains(&Capability::ExtendedMessages)
    }

    /// Whether the sender understands ROUTE-REFRESH.
    pub fn route_refresh(&self) -> bool {
        self.capabilities.contains(&Capability::RouteRefresh)
    }

    /// Whether the sender understands the begin and the end of a route refresh.
    pub fn enhanced_route_refresh(&self) -> bool {
        self.capabilities.contains(&Capability::EnhancedRouteRefresh)
    }

    /// Whether the sender takes IPv4 prefixes with IPv6 next hops (RFC 8950).
    pub fn extended_next_hop(&self) -> bool {
        let ipv4 = AfiSafi::from(Family::Ipv4Unicast);
        self.capabilities.iter().any(|capability| match capability {
            Capability::ExtendedNextHop(families) => {
                families.iter().any(|one| one.family == ipv4 && one.next_hop_afi == IPV6_AFI)
            }
            _ => false,
        })
    }

    /// The roles that the sender claims, as numbered by RFC 9234 §4.1; more than one kind is a fault.
    pub fn roles(&self) -> Vec<u8> {
        let role = |capability: &Capability| match capability {
            Capability::Role(role) => Some(*role),
            _ => None,
        };
        self.capabilities.iter().filter_map(role).collect()
    }

    /// The families whose prefixes the sender takes with path identifiers (RFC 7911 §4).
    pub fn takes_paths(&self) -> Families {
        self.path_families(AddPathFamily::RECEIVE)
    }

    /// The families whose prefixes the sender would send with path identifiers.
    pub fn sends_paths(&self) -> Families {
        self.path_families(AddPathFamily::SEND)
    }

    /// The families with this bit in their mode; a mode that is not defined is to be ignored.
    fn path_families(&self, bit: u8) -> Families {
        let defined = AddPathFamily::RECEIVE..=AddPathFamily::RECEIVE | AddPathFamily::SEND;
        let listed = self.capabilities.iter().filter_map(|capability| match capability {
            Capability::AddPath(families) => Some(families),
            _ => None,
        });
        let offered = listed.flatten().filter(|one| defined.contains(&one.mode) && one.mode & bit != 0);
        offered.filter_map(|one| one.family.family()).collect()
    }

    /// The families of the long-lived graceful restart capability, of several the last one; without graceful restart it
    /// means nothing (RFC 9494 §3).
    pub fn long_lived(&self) -> &[LongLivedFamily] {
        if self.graceful_restart().is_none() {
            return &[];
        }
        let families = self.capabilities.iter().rev().find_map(|capability| match capability {
            Capability::LongLivedGracefulRestart(families) => Some(families.as_slice()),
            _ => None,
        });
        families.unwrap_or_default()
    }

    /// The graceful restart capability; of several the last one counts (RFC 4724 §3).
    pub fn graceful_restart(&self) -> Option<&GracefulRestart> {
        self.capabilities.iter().rev().find_map(|capability| match capability {
            Capability::GracefulRestart(restart) => Some(restart),
            _ => None,
        })
    }

    pub(super) fn decode(frame: Frame<'_>) -> Result<Self, FrameError> {
        let mut reader = Reader::new(frame.body());
        let too_short = || FrameError::length(frame.length());
        let version = reader.u8().ok_or_else(too_short)?;
        let two_octet_as = reader.u16().ok_or_else(too_short)?;
        let hold_secs = reader.u16().ok_or_else(too_short)?;
        let router_id = reader.u32().ok_or_else(too_short)?;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if matches!(hold_secs, 1 | 2) {
            return Err(FrameError::HoldTime(hold_secs));
        }
        let router_id = RouterId::new(router_id.into()).ok_or(FrameError::RouterId)?;
        let capabilities = decode_parameters(&mut reader)?;
        let asn = wide_asn(&capabilities).unwrap_or_else(|| Asn(u32::from(two_octet_as)));
        if asn.is_zero() || two_octet_as == 0 {
            return Err(FrameError::PeerAs);
        }
        Ok(Self { asn, hold_secs, router_id, capabilities })
    }

    pub(super) fn encode(&self, buf: &mut Vec<u8>) -> Result<(), EncodeError> {
        buf.push(VERSION);
        self.asn.encode(false, buf);
        buf.extend_from_slice(&self.hold_secs.to_be_bytes());
        buf.extend_from_slice(&self.router_id.get().octets());
        let mut capabilities = Vec::new();
        for capability in &self.capabilities {
            capability.encode(&mut capabilities)?;
        }
        encode_parameters(&capabilities, buf);
        Ok(())
    }
}

fn wide_asn(capabilities: &[Capability]) -> Option<Asn> {
    capabilities.iter().find_map(|capability| match capability {
        Capability::FourOctetAs(asn) => Some(*asn),
        _ => None,
    })
}

/// Reads the optional parameters, whose lengths are one octet wide or, if the first type says so, two.
fn decode_parameters(reader: &mut Reader<'_>) -> Result<Vec<Capability>, FrameError> {
    let malformed = || FrameError::Open("optional parameters");
    let len = reader.u8().ok_or_else(malformed)?;
    let mut ahead = *reader;
    let extended = len != 0 && ahead.u8() == Some(EXTENDED);
    let parameters = if extended {
        *reader = ahead;
        reader.counted_u16()
    } else {
        reader.take(usize::from(len))
    };
    let mut parameters = Reader::new(parameters.ok_or_else(malformed)?);
    if !reader.is_empty() {
        return Err(malformed());
    }
    let mut capabilities = Vec::new();
    while !parameters.is_empty() {
        let kind = parameters.u8().ok_or_else(malformed)?;
        let value = if extended { parameters.counted_u16() } else { parameters.counted_u8() };
        let value = value.ok_or_else(malformed)?;
        if kind != CAPABILITIES {
            return Err(FrameError::OptionalParameter(kind));
        }
        Capability::decode_all(value, &mut capabilities)?;
    }
    Ok(capabilities)
}

/// Writes all capabilities as one parameter, in the extended form only if the plain one is too narrow.
fn encode_parameters(capabilities: &[u8], buf: &mut Vec<u8>) {
    let plain = u8::try_from(capabilities.len()).ok().and_then(|len| Some((len, len.checked_add(2)?)));
    match plain {
        Some((0, _)) => buf.push(0),
        Some((len, total)) => buf.extend_from_slice(&[total, CAPABILITIES, len]),
        None => {
            // What is too long even for two octets is refused with the message, which cannot hold it.
            let len = u16::try_from(capabilities.len()).unwrap_or(u16::MAX);
            buf.extend_from_slice(&[EXTENDED, EXTENDED]);
            buf.extend_from_slice(&len.saturating_add(3).to_be_bytes());
            buf.push(CAPABILITIES);
            buf.extend_from_slice(&len.to_be_bytes());
        }
    }
    buf.extend_from_slice(capabilities);
}
