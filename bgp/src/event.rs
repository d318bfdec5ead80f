//! What the speaker tells whoever watches: plain values for logs, metrics and status; nothing depends on them.

use std::fmt;

use crate::config::PeerId;
use crate::prefix::Family;

/// The state of a peer (RFC 4271 §8.2.2); with two connections the one that got further counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerState {
    /// Waiting out a failure, refusing connections.
    #[default]
    Idle,
    /// Dialling.
    Connect,
    /// Waiting for the peer to dial, or for the next attempt.
    Active,
    /// Connected; our OPEN is out.
    OpenSent,
    /// Both OPENs agree; waiting for the first KEEPALIVE.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What a fault in a message cost the peer (RFC 7606 §2), from mildest to hardest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultAction {
    /// The attribute was ignored, the routes were kept.
    AttributeDiscard,
    /// The routes of the message were withdrawn.
    TreatAsWithdraw,
    /// The address family is ignored until the session ends.
    DisableFamily,
    /// The session was ended with a NOTIFICATION.
    SessionReset,
}

impl fmt::Display for FaultAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AttributeDiscard => "attribute discard",
            Self::TreatAsWithdraw => "treat as withdraw",
            Self::DisableFamily => "family disabled",
            Self::SessionReset => "session reset",
        })
    }
}

/// Something worth a line in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer changed its state.
    StateChanged {
        /// Which peer.
        peer: PeerId,
        /// The state it left.
        from: PeerState,
        /// The state it is in.
        to: PeerState,
    },
    /// We ended a connection.
    NotificationSent {
        /// Which peer.
        peer: PeerId,
        /// The error code (RFC 4271 §4.5).
        code: u8,
        /// The error subcode.
        subcode: u8,
        /// What it means, with a shutdown communication if there is one.
        text: String,
    },
    /// The peer ended a connection.
    NotificationReceived {
        /// Which peer.
        peer: PeerId,
        /// The error code (RFC 4271 §4.5).
        code: u8,
        /// The error subcode.
        subcode: u8,
        /// What it means, with a shutdown communication if there is one.
        text: String,
    },
    /// The peer sent something that breaks the rules.
    Fault {
        /// Which peer.
        peer: PeerId,
        /// What it cost.
        action: FaultAction,
        /// What was wrong.
        reason: String,
    },
    /// The number of prefixes of a peer reached the part of its limit that is warned about, or passed the limit.
    PrefixLimit {
        /// Which peer.
        peer: PeerId,
        /// Which family.
        family: Family,
        /// How many there are.
        count: u32,
        /// How many may be.
        limit: u32,
        /// Whether the limit itself was passed.
        exceeded: bool,
        /// Whether the session was ended for it.
        ended: bool,
    },
    /// Somebody connected from a range and became a peer.
    PeerAppeared {
        /// Which peer.
        peer: PeerId,
    },
    /// A peer from a range, or one that lingered, is gone.
    PeerVanished {
        /// Which peer.
        peer: PeerId,
    },
    /// A peer that is no longer declared stays until those declared instead have been heard.
    PeerLingers {
        /// Which peer.
        peer: PeerId,
    },
    /// An accepted connection was closed: no peer is there, or the range that would take it is full.
    ConnectionRefused {
        /// Whose.
        remote: std::net::SocketAddr,
        /// Why.
        reason: &'static str,
    },
    /// A BMP station did not read what it was sent, and was let go.
    StationTooSlow {
        /// Its connection.
        conn: crate::config::ConnId,
    },
    /// The peer has sent all that it has (RFC 4724 §2).
    EndOfRib {
        /// Which peer.
        peer: PeerId,
        /// Which family.
        family: Family,
    },
    /// The session is gone, the routes stay for a while (RFC 4724 §4.2).
    RoutesRetained {
        /// Which peer.
        peer: PeerId,
        /// How many routes.
        count: u32,
    },
    /// The time for a restart is over: retained routes are marked as long stale and come last (RFC 9494 §4.2).
    RoutesMarked {
        /// Which peer.
        peer: PeerId,
        /// Which family.
        family: Family,
        /// How many routes.
        count: u32,
    },
    /// Retained routes were removed because the peer did not confirm them in time.
    RoutesExpired {
        /// Which peer.
        peer: PeerId,
        /// How many routes.
        count: u32,
    },
    /// A route that may be announced does not fit, or has no next hop that the peer could use.
    NotAnnounced {
        /// Which peer.
        peer: PeerId,
        /// Which prefix.
        prefix: crate::prefix::Prefix,
        /// Why.
        reason: &'static str,
    },
}
