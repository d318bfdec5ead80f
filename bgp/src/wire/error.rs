//! What can be wrong with a message, and the single map from that to a NOTIFICATION.
//!
//! A [`FrameError`] ends the session. An [`AttributeFault`] costs what RFC 7606 says and no more; one
//! that costs the session is delivered as [`FrameError::Attribute`].

use std::fmt;

use super::notification::{ErrorCode, Notification};
use super::{MessageType, table};
use crate::prefix::Family;

/// What a fault in an UPDATE costs, weakest first (RFC 7606 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// The attribute is dropped, the routes stand.
    Discard,
    /// The announced routes count as withdrawn.
    TreatAsWithdraw,
    /// All routes of one family go and none is taken for the rest of the session.
    DisableFamily,
    /// The session ends.
    Reset,
}

/// The rule that an attribute broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The Optional or Transitive bit contradicts the type.
    Flags,
    /// The value is too long or too short.
    Length,
    /// The value is not one of those defined, or does not parse.
    Value,
    /// The attribute came before in the same message.
    Duplicate,
    /// This peer has no business sending it.
    Unexpected,
    /// It runs past the end of the attribute list.
    Overrun,
    /// It is mandatory and not there.
    Missing,
    /// It is well-known, but not to us.
    UnrecognizedWellKnown,
    /// It is about a family that was not negotiated.
    NotNegotiated,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flags => "has the wrong flags",
            Self::Length => "has a wrong length",
            Self::Value => "has an invalid value",
            Self::Duplicate => "appears twice",
            Self::Unexpected => "is not accepted from this peer",
            Self::Overrun => "runs past the end of the attributes",
            Self::Missing => "is missing",
            Self::UnrecognizedWellKnown => "is well-known but not recognized",
            Self::NotNegotiated => "is about a family that was not negotiated",
        })
    }
}

/// One thing wrong in the attributes of an UPDATE, and what it cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeFault {
    /// The type code of the attribute.
    pub code: u8,
    /// The rule that was broken.
    pub kind: FaultKind,
    /// What that costs.
    pub action: Action,
    /// The family to disable; set if and only if `action` is [`Action::DisableFamily`].
    pub family: Option<Family>,
    /// The attribute as it came, for the NOTIFICATION, should there be one.
    pub bytes: Box<[u8]>,
}

impl AttributeFault {
    /// The NOTIFICATION that RFC 4271 §6.3 knows for this fault, for the session that ends by it.
    pub fn notification(&self) -> Notification {
        let (code, data) = match self.kind {
            FaultKind::Missing => (ErrorCode::MISSING_WELL_KNOWN, vec![self.code]),
            FaultKind::UnrecognizedWellKnown => (ErrorCode::UNRECOGNIZED_WELL_KNOWN, self.bytes.to_vec()),
            FaultKind::Flags => (ErrorCode::ATTRIBUTE_FLAGS, self.bytes.to_vec()),
            FaultKind::Duplicate => (ErrorCode::MALFORMED_ATTRIBUTE_LIST, Vec::new()),
            _ if matches!(self.code, table::MP_REACH_NLRI | table::MP_UNREACH_NLRI) => {
                (ErrorCode::OPTIONAL_ATTRIBUTE, self.bytes.to_vec())
            }
            FaultKind::Length | FaultKind::Overrun => (ErrorCode::ATTRIBUTE_LENGTH, self.bytes.to_vec()),
            FaultKind::Value | FaultKind::Unexpected | FaultKind::NotNegotiated => match self.code {
                table::ORIGIN => (ErrorCode::INVALID_ORIGIN, self.bytes.to_vec()),
                table::NEXT_HOP => (ErrorCode::INVALID_NEXT_HOP, self.bytes.to_vec()),
                table::AS_PATH => (ErrorCode::MALFORMED_AS_PATH, Vec::new()),
                _ => (ErrorCode::OPTIONAL_ATTRIBUTE, self.bytes.to_vec()),
            },
        };
        Notification { code, data }
    }
}

impl fmt::Display for AttributeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", table::name(self.code), self.kind)
    }
}

/// Why a message ends the session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The marker is not all ones: the two ends do not agree where messages begin.
    #[error("the marker of a message is not all ones")]
    Marker,
    /// The length is outside the limits, or wrong for the type.
    #[error("a message says that it is {length} octets long, which its type does not allow")]
    Length {
        /// The length field.
        length: u16,
    },
    /// The type is unknown.
    #[error("message type {0} is unknown")]
    Type(u8),
    /// The version is not 4.
    #[error("the peer speaks version {0} of BGP, only 4 is spoken here")]
    Version(u8),
    /// The autonomous system number is 0 (RFC 7607).
    #[error("the peer says it is in autonomous system 0")]
    PeerAs,
    /// The BGP identifier is 0.0.0.0.
    #[error("the peer's router id is 0.0.0.0")]
    RouterId,
    /// A hold time of one or two seconds (RFC 4271 §4.2).
    #[error("the peer asks for a hold time of {0} s, at least 3 s or none is allowed")]
    HoldTime(u16),
    /// An optional parameter other than capabilities.
    #[error("optional parameter {0} is not supported")]
    OptionalParameter(u8),
    /// The OPEN does not add up.
    #[error("the open message is malformed in its {0}")]
    Open(&'static str),
    /// The lengths inside an UPDATE contradict the message's own.
    #[error("the lengths inside an update message do not add up")]
    AttributeList,
    /// The classic NLRI or withdrawn routes do not parse (RFC 7606 §3 i, j).
    #[error("the {0} of an update message hold an invalid prefix")]
    Network(&'static str),
    /// An attribute whose fault nothing less can answer.
    #[error("{0}")]
    Attribute(Box<AttributeFault>),
    /// A route refresh of a wrong length; holds the whole message (RFC 7313 §5).
    #[error("a route refresh message has a wrong length")]
    RouteRefresh(Box<[u8]>),
}

impl FrameError {
    /// The error of a message whose length its type does not allow.
    pub(super) const fn length(length: u16) -> Self {
        Self::Length { length }
    }
}

impl From<&FrameError> for Notification {
    fn from(error: &FrameError) -> Self {
        let (code, data) = match error {
            FrameError::Marker => (ErrorCode::NOT_SYNCHRONIZED, Vec::new()),
            FrameError::Length { length } => (ErrorCode::BAD_LENGTH, length.to_be_bytes().to_vec()),
            FrameError::Type(kind) => (ErrorCode::BAD_TYPE, vec![*kind]),
            FrameError::Version(_) => (ErrorCode::UNSUPPORTED_VERSION, vec![0, super::open::VERSION]),
            FrameError::PeerAs => (ErrorCode::BAD_PEER_AS, Vec::new()),
            FrameError::RouterId => (ErrorCode::BAD_ROUTER_ID, Vec::new()),
            FrameError::HoldTime(_) => (ErrorCode::UNACCEPTABLE_HOLD_TIME, Vec::new()),
            FrameError::OptionalParameter(_) => (ErrorCode::UNSUPPORTED_PARAMETER, Vec::new()),
            FrameError::Open(_) => (ErrorCode::OPEN, Vec::new()),
            FrameError::AttributeList => (ErrorCode::MALFORMED_ATTRIBUTE_LIST, Vec::new()),
            FrameError::Network(_) => (ErrorCode::INVALID_NETWORK, Vec::new()),
            FrameError::Attribute(fault) => return fault.notification(),
            FrameError::RouteRefresh(message) => (ErrorCode::ROUTE_REFRESH_LENGTH, message.to_vec()),
        };
        Self { code, data }
    }
}

/// Why something cannot be said to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The attributes leave no room for a single prefix: the routes must be withdrawn from this peer
    /// (RFC 4271 §9.2, RFC 8654 §4).
    #[error(
        "the attributes leave no room for a prefix in a message of {limit} octets; withdraw the routes instead"
    )]
    AttributesTooLarge {
        /// The largest message that the peer takes.
        limit: usize,
    },
    /// The next hop cannot stand beside prefixes of this family towards this peer (RFC 8950).
    #[error("the next hop cannot be told to this peer with {family} prefixes; set one of the family's own")]
    NextHop {
        /// The family of the prefixes.
        family: Family,
    },
    /// The message does not fit.
    #[error("a message of type {} does not fit into {limit} octets", kind.code())]
    MessageTooLarge {
        /// The type of the message.
        kind: MessageType,
        /// The largest message that the peer takes.
        limit: usize,
    },
    /// A capability's value does not fit behind its length octet.
    #[error("capability {0} is longer than 255 octets")]
    CapabilityTooLarge(u8),
}
