//! The state of a speaker at one moment, as plain values for status and "explain".

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::PeerId;
use crate::event::PeerState;
use crate::prefix::{Asn, Family, Gateway, Prefix, RouterId};
use crate::rib::decision::Step;
use crate::wire::{Capability, ErrorCode};

/// Everything, in the order of peer names and of prefixes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The configured peers.
    pub peers: Vec<PeerStatus>,
    /// All prefixes with at least one path.
    pub routes: Vec<RouteStatus>,
    /// Whether the first exchange after the start is over.
    pub settled: bool,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its name.
    pub peer: PeerId,
    /// Its state.
    pub state: PeerState,
    /// How long it has been in this state.
    pub since: Duration,
    /// Its AS; `None` while only an OPEN can tell.
    pub asn: Option<Asn>,
    /// Its BGP identifier, while a session is up.
    pub router_id: Option<RouterId>,
    /// Our end of the session.
    pub local: Option<SocketAddr>,
    /// The peer's end of the session.
    pub remote: Option<SocketAddr>,
    /// The hold time that both agreed on.
    pub hold_time: Option<Duration>,
    /// The time between two keepalives of ours.
    pub keepalive: Option<Duration>,
    /// What both agreed on, in words ("graceful restart", "route refresh").
    pub capabilities: Vec<&'static str>,
    /// The capabilities of our OPEN, while a session is up.
    pub offered: Vec<Capability>,
    /// The capabilities of the peer's OPEN, while a session is up.
    pub received: Vec<Capability>,
    /// The families of the session.
    pub families: BTreeMap<Family, FamilyStatus>,
    /// How often the session has been established.
    pub established: u64,
    /// How often an established session has ended.
    pub dropped: u64,
    /// Messages received since the start.
    pub messages_in: MessageCounts,
    /// Messages sent since the start.
    pub messages_out: MessageCounts,
    /// UPDATEs with faults since the start.
    pub faults: u64,
    /// Why the last session or connection ended; a peer that cannot be reached does not change it.
    pub last_error: Option<LastError>,
    /// When the next attempt is due, or the peer is no longer refused, from now.
    pub retry_in: Option<Duration>,
    /// The range that the peer came from.
    pub range: Option<PeerId>,
    /// The peer is no longer declared and stays until those declared instead have been heard.
    pub lingers: bool,
}

impl PeerStatus {
    /// A peer of which nothing is known yet.
    pub fn new(peer: PeerId) -> Self {
        Self {
            peer,
            state: PeerState::Idle,
            since: Duration::ZERO,
            asn: None,
            router_id: None,
            local: None,
            remote: None,
            hold_time: None,
            keepalive: None,
            capabilities: Vec::new(),
            offered: Vec::new(),
            received: Vec::new(),
            families: BTreeMap::new(),
            established: 0,
            dropped: 0,
            messages_in: MessageCounts::default(),
            messages_out: MessageCounts::default(),
            faults: 0,
            last_error: None,
            retry_in: None,
            range: None,
            lingers: false,
        }
    }
}

/// How many messages of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageCounts {
    /// OPEN.
    pub open: u64,
    /// UPDATE, End-of-RIB among them.
    pub update: u64,
    /// NOTIFICATION.
    pub notification: u64,
    /// KEEPALIVE.
    pub keepalive: u64,
    /// ROUTE-REFRESH.
    pub route_refresh: u64,
}

impl MessageCounts {
    /// All of them.
    pub fn total(&self) -> u64 {
        let Self { open, update, notification, keepalive, route_refresh } = self;
        [open, update, notification, keepalive, route_refresh].into_iter().sum()
    }
}

/// Why a session or an attempt ended. Display gives all that it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// How long ago.
    pub ago: Duration,
    /// Who said so: the peer, by a NOTIFICATION or by closing; or this side.
    pub by_peer: bool,
    /// Code and subcode of the NOTIFICATION, if there was one.
    pub code: Option<ErrorCode>,
    /// What it means, with a shutdown communication (RFC 9003) if there is one.
    pub text: String,
    /// The data of the NOTIFICATION, with the octets that broke the rules where it carries them: at most 64.
    pub data: Vec<u8>,
}

impl fmt::Display for LastError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.by_peer && self.code.is_some() {
            f.write_str("peer: ")?;
        }
        f.write_str(&self.text)
    }
}

/// One family of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FamilyStatus {
    /// Whether both agreed on it and a session is up.
    pub negotiated: bool,
    /// Prefixes received, before policy.
    pub received: u32,
    /// Prefixes that import policy let through.
    pub accepted: u32,
    /// Prefixes announced.
    pub announced: u32,
    /// Prefixes kept from the last session, not yet confirmed.
    pub stale: u32,
    /// The limit on prefixes received.
    pub max_prefixes: u32,
    /// UPDATEs received about this family since the session came up, End-of-RIB among them.
    pub updates_in: u64,
    /// UPDATEs sent about this family since the session came up, End-of-RIB among them.
    pub updates_out: u64,
    /// Whether the peer has sent End-of-RIB.
    pub end_of_rib: bool,
}

/// One prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteStatus {
    /// Which prefix.
    pub prefix: Prefix,
    /// All paths known, ours first, then in the order of peer names.
    pub paths: Vec<PathStatus>,
    /// The place of the best one in `paths`.
    pub best: Option<usize>,
    /// The step that preferred it to the runner-up.
    pub step: Option<Step>,
    /// The next hops in use; empty for our own.
    pub next_hops: BTreeSet<Gateway>,
}

impl RouteStatus {
    /// A prefix that nobody said anything about.
    pub(crate) fn unknown(prefix: Prefix) -> Self {
        Self { prefix, paths: Vec::new(), best: None, step: None, next_hops: BTreeSet::new() }
    }
}

/// One path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStatus {
    /// Who sent it; `None` for our own.
    pub peer: Option<PeerId>,
    /// Which of the peer's paths it is (RFC 7911); 0 on sessions without path identifiers.
    pub path_id: u32,
    /// Its next hop; `None` for our own.
    pub next_hop: Option<IpAddr>,
    /// AS_PATH in the usual notation.
    pub as_path: String,
    /// LOCAL_PREF as used for the decision.
    pub local_pref: u32,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// COMMUNITIES and LARGE_COMMUNITY in the usual notation.
    pub communities: Vec<String>,
    /// Kept from the last session, not yet confirmed.
    pub stale: bool,
    /// What import policy and the loop checks said.
    pub import: ImportStatus,
    /// Whether it carries traffic.
    pub selected: bool,
    /// The step of the decision process at which it lost.
    pub lost_at: Option<Step>,
}

/// What became of a path on its way in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportStatus {
    /// Our own: no policy applies.
    Local,
    /// Accepted by this rule; `None`: no rule matched, the policy's default.
    Accepted(Option<String>),
    /// The same, and the rule says that its traffic is discarded (RFC 7999 §3.3).
    Discarded(Option<String>),
    /// Rejected by this rule; `None`: no rule matched, the policy's default.
    Rejected(Option<String>),
    /// Our own AS is in AS_PATH (RFC 4271 §9.1.2).
    AsLoop,
    /// We are its originator, or it has passed our cluster (RFC 4456 §8).
    ReflectionLoop,
    /// Its next hop is our end of the session (RFC 4271 §5.1.3).
    OwnNextHop,
    /// A leak: it is for customers only, and does not come from a provider (RFC 9234 §5).
    Leak,
    /// It asks for its traffic to be discarded, and the rule that accepts it does not say that the peer may
    /// (RFC 7999 §3.3).
    Blackhole,
    /// Its next hop is link-local and the session is not (RFC 2545 §3).
    NextHopOffLink,
}
