//! The [`Speaker`]: one door in, one door out. Which part of it answers is decided here and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::config::{ConnId, Local, OriginAttributes, PeerConfig, PeerId};
use crate::event::Event;
use crate::prefix::Prefix;
use crate::snapshot::Snapshot;

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// We dialled.
    Active,
    /// The peer dialled.
    Passive,
}

/// How to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// We will be back: connections close without a NOTIFICATION, so that peers keep forwarding (RFC 4724 §4).
    Restart,
    /// We leave: Cease, Administrative Shutdown, with this text for the peer's operator (RFC 9003).
    Leave {
        /// At most 255 octets reach the peer.
        communication: String,
    },
}

/// Everything that can happen to a speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// [`Speaker::deadline`] has come.
    Timeout,
    /// A connection is up: one that was asked for ([`Output::Connect`]), or an accepted one.
    Connected {
        /// The configured peer it belongs to.
        peer: PeerId,
        /// Its number.
        conn: ConnId,
        /// Our end.
        local: SocketAddr,
        /// The peer's end.
        remote: SocketAddr,
        /// Who opened it.
        direction: Direction,
    },
    /// The connection asked for could not be made.
    ConnectFailed {
        /// The peer that was dialled.
        peer: PeerId,
    },
    /// Octets arrived, cut anywhere.
    Received {
        /// Where.
        conn: ConnId,
        /// What.
        bytes: &'a [u8],
    },
    /// The connection is gone: closed by the peer, reset or broken.
    Closed {
        /// Which.
        conn: ConnId,
    },
    /// The peers that should be there; sessions whose parameters did not change go on.
    SetPeers(BTreeMap<PeerId, PeerConfig>),
    /// The routes of our own.
    SetOrigins(BTreeMap<Prefix, OriginAttributes>),
    /// End the session of this peer and start again, as an operator asks for it.
    Reset {
        /// Which peer.
        peer: PeerId,
    },
    /// End all sessions; nothing is dialled or accepted any more.
    Stop(StopReason),
}

/// Everything that a speaker asks for or tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Dial; answer with [`Input::Connected`] or [`Input::ConnectFailed`].
    Connect {
        /// For whom.
        peer: PeerId,
        /// Where to.
        target: SocketAddr,
        /// Where from.
        source: Option<IpAddr>,
    },
    /// There is something to send: call [`Speaker::transmit`] while the socket takes it.
    Writable {
        /// Where.
        conn: ConnId,
    },
    /// Close, after sending what [`Speaker::transmit`] still gives. [`Input::Closed`] need not follow.
    Close {
        /// Which.
        conn: ConnId,
    },
    /// The next hops of a prefix changed; none means withdrawn. Own origins are never among them.
    Route {
        /// Which prefix.
        prefix: Prefix,
        /// Where to; traffic is shared among them.
        next_hops: BTreeSet<IpAddr>,
    },
    /// Once after the start: every live peer has sent End-of-RIB, or the wait is over, or there are no peers.
    /// Routes of an earlier life that have not come again may go now.
    Settled,
    /// Something worth knowing.
    Event(Event),
}

/// All sessions and routes of one BGP router. It has no socket, no clock and no chance: see the crate's essay.
#[derive(Debug)]
pub struct Speaker {
    local: Local,
}

impl Speaker {
    /// A speaker without peers. The seed feeds the jitter of its timers.
    pub fn new(local: Local, seed: [u8; 32], now: Instant) -> Self {
        let _ = (seed, now);
        Self { local }
    }

    /// Feeds one fact. Never fails: what a peer does wrong becomes outputs. Time must not run backwards.
    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        let _ = (input, now, &self.local);
    }

    /// Takes the next output; drain it after each [`handle`](Self::handle).
    pub fn poll(&mut self) -> Option<Output> {
        None
    }

    /// When [`Input::Timeout`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Appends at most `budget` octets for `conn` to `buf`; returns whether more remain. Call it when the socket
    /// can take them: messages are made from the newest state at this moment.
    pub fn transmit(&mut self, conn: ConnId, buf: &mut Vec<u8>, budget: usize) -> bool {
        let _ = (conn, buf, budget);
        false
    }

    /// Everything at this moment, for status and "explain".
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let _ = now;
        Snapshot::default()
    }
}
