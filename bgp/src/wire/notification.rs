//! NOTIFICATION: why a session ends (RFC 4271 §4.5), named for people.
//!
//! The names come from one table; a code that is not in it still has a Display. Free text from a peer
//! (RFC 9003) is bounded and stripped of control characters before anybody sees it.

use std::fmt;

use super::capability::AfiSafi;
use super::error::FrameError;
use super::framer::Frame;
use super::reader::Reader;
use crate::prefix::Family;

/// The code and subcode of a NOTIFICATION. Display gives `Cease/Administrative Shutdown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode {
    /// The error code.
    pub code: u8,
    /// The error subcode; 0 is "unspecific".
    pub subcode: u8,
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $constant:ident = $code:literal / $subcode:literal, $name:literal;)*) => {
        impl ErrorCode {
            $($(#[$doc])* pub const $constant: Self = Self { code: $code, subcode: $subcode };)*
        }

        /// Every subcode that has a name, by code.
        const SUBCODES: &[(ErrorCode, &str)] = &[$((ErrorCode::$constant, $name)),*];
    };
}

error_codes! {
    /// The marker was not all ones (RFC 4271 §6.1).
    NOT_SYNCHRONIZED = 1 / 1, "Connection Not Synchronized";
    /// The length does not fit the type (RFC 4271 §6.1).
    BAD_LENGTH = 1 / 2, "Bad Message Length";
    /// The type is unknown (RFC 4271 §6.1).
    BAD_TYPE = 1 / 3, "Bad Message Type";
    /// An OPEN that is wrong in a way without a subcode (RFC 4271 §6.2).
    OPEN = 2 / 0, "Unspecific";
    /// Not BGP-4 (RFC 4271 §6.2).
    UNSUPPORTED_VERSION = 2 / 1, "Unsupported Version Number";
    /// Not the autonomous system that was expected (RFC 4271 §6.2).
    BAD_PEER_AS = 2 / 2, "Bad Peer AS";
    /// An identifier of zero, or our own (RFC 6286 §2.2).
    BAD_ROUTER_ID = 2 / 3, "Bad BGP Identifier";
    /// An optional parameter that is not known (RFC 4271 §6.2).
    UNSUPPORTED_PARAMETER = 2 / 4, "Unsupported Optional Parameter";
    /// Authentication by an optional parameter, which nobody has any more (RFC 4271 §6.2, deprecated).
    AUTHENTICATION_FAILURE = 2 / 5, "Authentication Failure (Deprecated)";
    /// A hold time that is not allowed (RFC 4271 §6.2).
    UNACCEPTABLE_HOLD_TIME = 2 / 6, "Unacceptable Hold Time";
    /// A capability is missing that we insist on (RFC 5492 §3).
    UNSUPPORTED_CAPABILITY = 2 / 7, "Unsupported Capability";
    /// The roles of the two ends do not go together (RFC 9234 §4.2).
    ROLE_MISMATCH = 2 / 11, "Role Mismatch";
    /// The lengths in an UPDATE do not add up (RFC 4271 §6.3).
    MALFORMED_ATTRIBUTE_LIST = 3 / 1, "Malformed Attribute List";
    /// A well-known attribute that we do not know (RFC 4271 §6.3).
    UNRECOGNIZED_WELL_KNOWN = 3 / 2, "Unrecognized Well-known Attribute";
    /// A mandatory attribute is not there (RFC 4271 §6.3).
    MISSING_WELL_KNOWN = 3 / 3, "Missing Well-known Attribute";
    /// The flags contradict the type (RFC 4271 §6.3).
    ATTRIBUTE_FLAGS = 3 / 4, "Attribute Flags Error";
    /// The length contradicts the type (RFC 4271 §6.3).
    ATTRIBUTE_LENGTH = 3 / 5, "Attribute Length Error";
    /// An ORIGIN that does not exist (RFC 4271 §6.3).
    INVALID_ORIGIN = 3 / 6, "Invalid ORIGIN Attribute";
    /// A loop, which is no fault any more (RFC 4271 §6.3, deprecated).
    AS_ROUTING_LOOP = 3 / 7, "AS Routing Loop (Deprecated)";
    /// A next hop that is no host's address (RFC 4271 §6.3).
    INVALID_NEXT_HOP = 3 / 8, "Invalid NEXT_HOP Attribute";
    /// An optional attribute with a wrong value (RFC 4271 §6.3).
    OPTIONAL_ATTRIBUTE = 3 / 9, "Optional Attribute Error";
    /// A prefix that does not parse (RFC 4271 §6.3).
    INVALID_NETWORK = 3 / 10, "Invalid Network Field";
    /// An AS_PATH that does not parse (RFC 4271 §6.3).
    MALFORMED_AS_PATH = 3 / 11, "Malformed AS_PATH";
    /// Nothing was heard for the hold time (RFC 4271 §6.5).
    HOLD_TIMER_EXPIRED = 4 / 0, "Unspecific";
    /// A message that the state does not allow, without saying which (RFC 4271 §6.6).
    FSM = 5 / 0, "Unspecific";
    /// A message that OpenSent does not allow (RFC 6608 §3).
    FSM_OPEN_SENT = 5 / 1, "Receive Unexpected Message in OpenSent State";
    /// A message that OpenConfirm does not allow (RFC 6608 §3).
    FSM_OPEN_CONFIRM = 5 / 2, "Receive Unexpected Message in OpenConfirm State";
    /// A message that Established does not allow (RFC 6608 §3).
    FSM_ESTABLISHED = 5 / 3, "Receive Unexpected Message in Established State";
    /// Too many prefixes (RFC 4486 §4).
    MAX_PREFIXES = 6 / 1, "Maximum Number of Prefixes Reached";
    /// Somebody shut the session down (RFC 9003).
    ADMINISTRATIVE_SHUTDOWN = 6 / 2, "Administrative Shutdown";
    /// The peer was taken out of the configuration (RFC 4486 §4).
    PEER_DECONFIGURED = 6 / 3, "Peer De-configured";
    /// Somebody reset the session (RFC 9003).
    ADMINISTRATIVE_RESET = 6 / 4, "Administrative Reset";
    /// The connection is not wanted, now or at all (RFC 4486 §4).
    CONNECTION_REJECTED = 6 / 5, "Connection Rejected";
    /// The configuration changed in a way that needs a new session (RFC 4486 §4).
    CONFIGURATION_CHANGE = 6 / 6, "Other Configuration Change";
    /// The other one of two connections won (RFC 4271 §6.8).
    COLLISION = 6 / 7, "Connection Collision Resolution";
    /// Memory or the like ran out (RFC 4486 §4).
    OUT_OF_RESOURCES = 6 / 8, "Out of Resources";
    /// What is inside ends the session without graceful restart (RFC 8538 §3).
    HARD_RESET = 6 / 9, "Hard Reset";
    /// BFD says that the peer is gone (RFC 9384 §3).
    BFD_DOWN = 6 / 10, "BFD Down";
    /// A route refresh of a wrong length (RFC 7313 §5).
    ROUTE_REFRESH_LENGTH = 7 / 1, "Invalid Message Length";
    /// Nothing could be sent for the send hold time (RFC 9687 §3).
    SEND_HOLD_TIMER_EXPIRED = 8 / 0, "Unspecific";
}

const CODES: &[(u8, &str)] = &[
    (1, "Message Header Error"),
    (2, "OPEN Message Error"),
    (3, "UPDATE Message Error"),
    (4, "Hold Timer Expired"),
    (5, "Finite State Machine Error"),
    (6, "Cease"),
    (7, "ROUTE-REFRESH Message Error"),
    (8, "Send Hold Timer Expired"),
];

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match CODES.iter().find(|(code, _)| *code == self.code) {
            Some((_, name)) => f.write_str(name)?,
            None => write!(f, "Error {}", self.code)?,
        }
        match SUBCODES.iter().find(|(known, _)| known == self) {
            _ if self.subcode == 0 => Ok(()),
            Some((_, name)) => write!(f, "/{name}"),
            None => write!(f, "/{}", self.subcode),
        }
    }
}

/// The longest text that a shutdown can carry, in octets (RFC 9003 §2).
const LONGEST_COMMUNICATION: usize = 255;

/// A NOTIFICATION message. Display gives all that it says: `Cease/Administrative Shutdown: drain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// What is wrong.
    pub code: ErrorCode,
    /// More about it; its meaning depends on the code.
    pub data: Vec<u8>,
}

impl Notification {
    /// An administrative shutdown with a text for the operator at the other end, cut to 255 octets at a
    /// character's end (RFC 9003).
    pub fn shutdown(text: &str) -> Self {
        Self { code: ErrorCode::ADMINISTRATIVE_SHUTDOWN, data: communication(text) }
    }

    /// An administrative reset with a text, as [`Notification::shutdown`].
    pub fn administrative_reset(text: &str) -> Self {
        Self { code: ErrorCode::ADMINISTRATIVE_RESET, data: communication(text) }
    }

    /// Too many prefixes of `family`: more than `limit` (RFC 4486 §4).
    pub fn max_prefixes(family: Family, limit: u32) -> Self {
        let AfiSafi { afi, safi } = family.into();
        let mut data = afi.to_be_bytes().to_vec();
        data.push(safi);
        data.extend_from_slice(&limit.to_be_bytes());
        Self { code: ErrorCode::MAX_PREFIXES, data }
    }

    /// Wraps this notification so that a peer that would keep our routes gives them up (RFC 8538 §3.1).
    #[must_use]
    pub fn into_hard_reset(self) -> Self {
        let mut data = vec![self.code.code, self.code.subcode];
        data.extend_from_slice(&self.data);
        Self { code: ErrorCode::HARD_RESET, data }
    }

    /// What a hard reset wraps, or `None` for any other notification.
    pub fn hard_reset_cause(&self) -> Option<Self> {
        if self.code != ErrorCode::HARD_RESET {
            return None;
        }
        let mut reader = Reader::new(&self.data);
        let code = ErrorCode { code: reader.u8()?, subcode: reader.u8()? };
        Some(Self { code, data: reader.take_rest().to_vec() })
    }

    /// The text of an administrative shutdown or reset, if there is one and it is UTF-8.
    pub fn communication(&self) -> Option<&str> {
        if !matches!(self.code, ErrorCode::ADMINISTRATIVE_SHUTDOWN | ErrorCode::ADMINISTRATIVE_RESET) {
            return None;
        }
        let text = Reader::new(&self.data).counted_u8()?;
        std::str::from_utf8(text).ok().filter(|text| !text.is_empty())
    }

    pub(super) fn decode(frame: Frame<'_>) -> Result<Self, FrameError> {
        let mut reader = Reader::new(frame.body());
        let (Some(code), Some(subcode)) = (reader.u8(), reader.u8()) else {
            return Err(FrameError::length(frame.length()));
        };
        Ok(Self { code: ErrorCode { code, subcode }, data: reader.take_rest().to_vec() })
    }

    /// Writes the body; data that does not fit into `room` octets is cut.
    pub(super) fn encode(&self, buf: &mut Vec<u8>, room: usize) {
        buf.extend_from_slice(&[self.code.code, self.code.subcode]);
        let data = self.data.get(..room.saturating_sub(2)).unwrap_or(&self.data);
        buf.extend_from_slice(data);
    }
}

impl From<ErrorCode> for Notification {
    fn from(code: ErrorCode) -> Self {
        Self { code, data: Vec::new() }
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.code, f)?;
        if let Some(cause) = self.hard_reset_cause() {
            // One level only: a hard reset inside a hard reset is nonsense that a peer could nest deeply.
            write!(f, ": {}", cause.code)?;
            return write_communication(&cause, f);
        }
        write_communication(self, f)
    }
}

fn write_communication(notification: &Notification, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Some(text) = notification.communication() else { return Ok(()) };
    f.write_str(": ")?;
    text.chars()
        .try_for_each(|c| if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") })
}

fn communication(text: &str) -> Vec<u8> {
    let mut longest = LONGEST_COMMUNICATION.min(text.len());
    while !text.is_char_boundary(longest) {
        longest = longest.saturating_sub(1);
    }
    let text = text.get(..longest).unwrap_or_default().as_bytes();
    match u8::try_from(text.len()) {
        Ok(0) | Err(_) => Vec::new(),
        Ok(len) => [&[len], text].concat(),
    }
}
