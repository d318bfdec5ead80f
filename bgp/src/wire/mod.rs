//! BGP messages: octets to values and back (RFC 4271 §4), for unicast IPv4 and IPv6.
//!
//! A connection's octets go through a [`Framer`], each [`Frame`] through [`decode`], and what comes out has
//! been judged: a [`FrameError`] ends the session by the NOTIFICATION made from it, an [`AttributeFault`]
//! has already cost what RFC 7606 says. The other way, [`encode()`] writes any message; a speaker with many
//! routes keeps [`EncodedAttributes`] and fills messages with [`announce`] and [`withdraw`].
//!
//! No input can panic here: octets are read through a cursor whose reads can fail, and the lints below
//! refuse indexing and unchecked arithmetic. Memory is linear in the length of the message.
//! Absent on purpose: every other family, confederations (RFC 5065).
//!
//! Reading order: `framer`, `open`, `capability`, `attribute`, `table`, `update`, `judge`, `nlri`, `encode`.
#![deny(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used
)]

mod as_path;
mod attribute;
mod capability;
mod community;
mod encode;
mod error;
mod framer;
mod judge;
mod nlri;
mod notification;
mod open;
mod reader;
mod refresh;
pub mod table;
mod update;

pub use as_path::{AsPath, AsPathParseError, Segment};
pub use attribute::{Aggregator, Attributes, NextHop, Origin, PartialBits, UnknownAttribute};
pub use capability::{
    AddPathFamily, AfiSafi, Capability, ExtendedNextHop, GracefulRestart, LongLivedFamily, RestartFamily,
};
pub use community::{Community, CommunityParseError, ExtendedCommunity, LargeCommunity};
pub use encode::{EncodedAttributes, announce, encode, end_of_rib, withdraw};
pub use error::{Action, AttributeFault, EncodeError, FaultKind, FrameError};
pub use framer::{EXTENDED_LIMIT, Frame, Framer, HEADER_LEN, PLAIN_LIMIT};
pub use nlri::{Nlri, PathId};
pub use notification::{ErrorCode, Notification};
pub use open::Open;
pub use refresh::{RefreshKind, RouteRefresh};
pub use update::{Announcement, Update};

use crate::prefix::{Families, Family};

/// The types of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageType {
    /// OPEN.
    Open,
    /// UPDATE.
    Update,
    /// NOTIFICATION.
    Notification,
    /// KEEPALIVE.
    Keepalive,
    /// ROUTE-REFRESH.
    RouteRefresh,
}

impl MessageType {
    /// The number in the header.
    pub const fn code(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Open),
            2 => Some(Self::Update),
            3 => Some(Self::Notification),
            4 => Some(Self::Keepalive),
            5 => Some(Self::RouteRefresh),
            _ => None,
        }
    }
}

/// A message as a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The first message of each side.
    Open(Open),
    /// Routes announced and withdrawn.
    Update(Update),
    /// An UPDATE with nothing in it, by which a sender says that it has told all routes of a family
    /// (RFC 4724 §2).
    EndOfRib(Family),
    /// The last message of a session.
    Notification(Notification),
    /// A sign of life.
    Keepalive,
    /// A request to tell all routes again, or the begin or end of that.
    RouteRefresh(RouteRefresh),
}

impl Message {
    /// The type by which the message is sent.
    pub const fn kind(&self) -> MessageType {
        match self {
            Self::Open(_) => MessageType::Open,
            Self::Update(_) | Self::EndOfRib(_) => MessageType::Update,
            Self::Notification(_) => MessageType::Notification,
            Self::Keepalive => MessageType::Keepalive,
            Self::RouteRefresh(_) => MessageType::RouteRefresh,
        }
    }
}

/// On which side of the border of our autonomous system a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// In the same system: an iBGP session.
    Internal,
    /// In another system: an eBGP session.
    External,
}

/// What both ends of a session agreed on, as far as it changes how messages are read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// Whether the peer is in our system.
    pub side: Side,
    /// The families that both can exchange.
    pub families: Families,
    /// Both use four-octet autonomous system numbers (RFC 6793).
    pub four_octet_as: bool,
    /// Both take messages of up to 65535 octets (RFC 8654).
    pub extended_messages: bool,
    /// Both take IPv4 prefixes with IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// The families whose prefixes the peer sends with path identifiers (RFC 7911).
    pub paths_in: Families,
    /// The families whose prefixes we send with path identifiers.
    pub paths_out: Families,
}

impl Dialect {
    /// What holds before the OPENs are exchanged: nothing but OPEN, KEEPALIVE and NOTIFICATION makes
    /// sense.
    pub const BEFORE_OPEN: Self = Self {
        side: Side::External,
        families: Families::NONE,
        four_octet_as: true,
        extended_messages: false,
        extended_next_hop: false,
        paths_in: Families::NONE,
        paths_out: Families::NONE,
    };

    /// The longest message of type `kind`, in octets.
    pub const fn limit(&self, kind: MessageType) -> usize {
        match kind {
            MessageType::Open | MessageType::Keepalive => PLAIN_LIMIT,
            _ if self.extended_messages => EXTENDED_LIMIT,
            _ => PLAIN_LIMIT,
        }
    }
}

/// A message, and what was wrong with it short of ending the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The message. In an UPDATE the faults' actions have been carried out.
    pub message: Message,
    /// What was wrong, of many faults the 16 gravest. [`Action::Discard`] and
    /// [`Action::TreatAsWithdraw`] need no more than being told; [`Action::DisableFamily`] asks the
    /// receiver to drop all routes of `family`, which are not in the message any more, and to take the
    /// family out of its [`Dialect`]. [`Action::Reset`] is not among them: that is a [`FrameError`].
    pub faults: Vec<AttributeFault>,
}

impl From<Message> for Decoded {
    fn from(message: Message) -> Self {
        Self { message, faults: Vec::new() }
    }
}

/// Reads a message.
///
/// # Errors
/// What ends the session; [`Notification`] has a `From` for it.
pub fn decode(frame: Frame<'_>, dialect: &Dialect) -> Result<Decoded, FrameError> {
    Ok(match frame.kind() {
        MessageType::Open => Message::Open(Open::decode(frame)?).into(),
        MessageType::Update => match update::decode(frame, dialect)? {
            update::Decoded::Update(update, faults) => Decoded { message: Message::Update(update), faults },
            update::Decoded::EndOfRib(family) => Message::EndOfRib(family).into(),
        },
        MessageType::Notification => Message::Notification(Notification::decode(frame)?).into(),
        MessageType::Keepalive => Message::Keepalive.into(),
        MessageType::RouteRefresh => Message::RouteRefresh(RouteRefresh::decode(frame)?).into(),
    })
}
