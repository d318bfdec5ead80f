//! What the owner of a [`Speaker`](crate::Speaker) declares: who we are, whom we speak to, what we originate.
//!
//! Every value is declared whole; the speaker finds the difference to what it had. Reading from files or custom
//! resources, and names for humans, belong elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::policy::Policy;
use crate::prefix::{Asn, Family, Prefix, RouterId};
use crate::wire::{Community, ExtendedCommunity, LargeCommunity};

/// The stable name of a configured peer, chosen by the owner of the speaker ("node/node2", "peer/tor").
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(Arc<str>);

impl PeerId {
    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for PeerId {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for PeerId {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// One TCP connection, numbered by whoever owns the sockets. A number is never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// This speaker. All but the AS, the identifier and `restarting` may change while it lives
/// ([`SetLocal`](crate::Input::SetLocal)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Our autonomous system.
    pub asn: Asn,
    /// Our BGP identifier, unique within the AS (RFC 6286).
    pub router_id: RouterId,
    /// The cluster we reflect for; the router id stands in when there is none (RFC 4456 §7).
    pub cluster_id: Option<RouterId>,
    /// The forwarding state outlived our restart: the OPEN carries the R and F bits (RFC 4724 §3).
    pub restarting: bool,
    /// The longest wait for End-of-RIB, counted from the first [`SetPeers`](crate::Input::SetPeers).
    pub settle: Duration,
    /// How many equal paths a route may use; at least 1.
    pub multipath: usize,
    /// Paths of equal length through different systems are equal as well.
    pub relax: bool,
    /// How long peers that are no longer declared stay while those declared instead have not been heard.
    pub linger: Duration,
}

impl Local {
    /// A speaker with the defaults: not restarting, 10 s to settle, 16 equal paths through one system, 30 s to linger.
    pub fn new(asn: Asn, router_id: RouterId) -> Self {
        Self {
            asn,
            router_id,
            cluster_id: None,
            restarting: false,
            settle: Duration::from_secs(10),
            multipath: 16,
            relax: false,
            linger: Duration::from_secs(30),
        }
    }

    pub(crate) fn cluster(&self) -> RouterId {
        self.cluster_id.unwrap_or(self.router_id)
    }
}

/// The hold time of RFC 4271 §4.2 in whole seconds: 0 (never), or at least 3.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HoldTime(u16);

/// A hold time of 1 or 2 seconds, which RFC 4271 §4.2 forbids.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("hold time of {0} s is not allowed, use 0 (never) or at least 3 s")]
pub struct HoldTimeError(pub u16);

impl HoldTime {
    /// No hold timer and no keepalives.
    pub const NEVER: Self = Self(0);

    /// A hold time in seconds.
    ///
    /// # Errors
    /// 1 and 2 are refused (RFC 4271 §4.2).
    pub fn new(seconds: u16) -> Result<Self, HoldTimeError> {
        if matches!(seconds, 1 | 2) { Err(HoldTimeError(seconds)) } else { Ok(Self(seconds)) }
    }

    /// The value on the wire.
    pub fn seconds(self) -> u16 {
        self.0
    }

    /// `None` when the timer never runs.
    pub fn duration(self) -> Option<Duration> {
        (self.0 > 0).then(|| Duration::from_secs(self.0.into()))
    }
}

impl Default for HoldTime {
    /// 90 s (RFC 4271 §10).
    fn default() -> Self {
        Self(90)
    }
}

/// The AS that a peer must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RemoteAs {
    /// This one; equal to ours makes the peer internal.
    Exactly(Asn),
    /// Ours, whatever it is.
    Internal,
    /// Any but ours; the OPEN tells which.
    External,
}

impl From<Asn> for RemoteAs {
    fn from(asn: Asn) -> Self {
        Self::Exactly(asn)
    }
}

/// Who opens the connection, and where the peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    /// We dial this address, and accept connections from it.
    Active(SocketAddr),
    /// We only accept connections from this address; the port says nothing.
    Passive(SocketAddr),
    /// A template: whoever connects from inside this prefix and is no peer yet becomes one, named
    /// `NAME/ADDRESS`, for as long as there is a session or something of it is kept.
    Range {
        /// Where such peers may be.
        prefix: Prefix,
        /// How many there may be at a time.
        limit: u32,
    },
}

impl Dial {
    /// The one address of the peer; `None` for a range.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Active(target) | Self::Passive(target) => Some(target.ip()),
            Self::Range { .. } => None,
        }
    }

    /// Whether a connection from `remote` comes from this peer. Of a link-local address the link counts as well, if
    /// both sides name one.
    pub(crate) fn is_at(&self, remote: SocketAddr) -> bool {
        let (Self::Active(target) | Self::Passive(target)) = self else { return false };
        let zone = |address: &SocketAddr| match address {
            SocketAddr::V6(v6) => v6.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        let (here, there) = (zone(target), zone(&remote));
        target.ip().to_canonical() == remote.ip().to_canonical() && (here == 0 || there == 0 || here == there)
    }
}

/// What we are to the peer in the order of the Internet (RFC 9234 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// We give the peer transit.
    Provider,
    /// We are a route server, the peer is its client.
    RouteServer,
    /// The peer is a route server, we are its client.
    RouteServerClient,
    /// The peer gives us transit.
    Customer,
    /// Neither pays the other.
    Peer,
}

/// Another AS that we show to a peer instead of ours, as during a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAs {
    /// The AS of our OPEN.
    pub asn: Asn,
    /// It is put before the paths that the peer sends.
    pub prepend: bool,
    /// Our real AS is not shown in the paths that we send.
    pub replace: bool,
}

/// A peer as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// The AS that the peer must have.
    pub asn: RemoteAs,
    /// Where it is and who dials.
    pub target: Dial,
    /// The address to dial from.
    pub source: Option<IpAddr>,
    /// The hold time we offer; the smaller of both offers holds. A change that makes no difference to that is none; any
    /// other one needs new OPENs, and so a new session, which both sides take for a restart if they agreed on those.
    pub hold_time: HoldTime,
    /// The time between two keepalives, if it is less than a third of the hold time agreed on.
    pub keepalive: Option<Duration>,
    /// The wait after the first failed attempt; it doubles with each further one.
    pub connect_retry: Duration,
    /// The longest wait between two attempts, unless [`connect_retry`](Self::connect_retry) is longer.
    pub connect_retry_max: Duration,
    /// How long a new connection waits for the peer's OPEN before ours goes out (RFC 4271 §8.1.1 DelayOpen).
    pub delay_open: Option<Duration>,
    /// Failures add up, and a peer that keeps failing is refused for longer and longer
    /// (RFC 4271 §8.1.1 DampPeerOscillations).
    pub damping: bool,
    /// What is exchanged.
    pub families: BTreeMap<Family, FamilyConfig>,
    /// Offer graceful restart, with this restart time (RFC 4724; at most 4095 s).
    pub graceful_restart: Option<Duration>,
    /// Offer long-lived graceful restart, with this stale time (RFC 9494; at most 2^24 - 1 s).
    pub long_lived: Option<Duration>,
    /// The peer is a client of ours as a route reflector (RFC 4456).
    pub reflector_client: bool,
    /// Our role towards an external peer (RFC 9234).
    pub role: Option<Role>,
    /// A peer that tells no role is refused (RFC 9234 §4.2).
    pub role_strict: bool,
    /// Another AS that we show to this peer.
    pub local_as: Option<LocalAs>,
    /// How often our AS may be in a path that we take from this peer.
    pub allow_own_as: u8,
    /// Private AS numbers are taken out of the paths that we send (RFC 6996).
    pub remove_private_as: bool,
}

impl PeerConfig {
    /// The restart time used unless told otherwise.
    pub const RESTART_TIME: Duration = Duration::from_secs(120);
    /// The longest wait between two attempts unless told otherwise.
    pub const CONNECT_RETRY_MAX: Duration = Duration::from_secs(30);

    /// An active peer with the defaults: hold time 90 s, first retry after 1 s, damping, graceful restart of 120 s,
    /// no family.
    pub fn new(asn: impl Into<RemoteAs>, target: SocketAddr) -> Self {
        Self {
            asn: asn.into(),
            target: Dial::Active(target),
            source: None,
            hold_time: HoldTime::default(),
            keepalive: None,
            connect_retry: Duration::from_secs(1),
            connect_retry_max: Self::CONNECT_RETRY_MAX,
            delay_open: None,
            damping: true,
            families: BTreeMap::new(),
            graceful_restart: Some(Self::RESTART_TIME),
            long_lived: None,
            reflector_client: false,
            role: None,
            role_strict: false,
            local_as: None,
            allow_own_as: 0,
            remove_private_as: false,
        }
    }
}

/// How many prefixes a peer may announce in one family, and what follows if there are more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixLimit {
    /// How many prefixes; paths, if the peer tells several of each (RFC 7911).
    pub max: u32,
    /// The part of `max`, in percent, at which a warning is told.
    pub warn_percent: u8,
    /// What follows when `max` is passed.
    pub action: LimitAction,
}

/// What follows when a peer announces more prefixes than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitAction {
    /// An event; the routes are taken.
    Warn,
    /// Cease (RFC 4486 §4), and a new session after this time.
    Restart(Duration),
    /// Cease, and no new session until the limit changes or somebody resets the peer.
    StayDown,
}

impl PrefixLimit {
    /// This many, with a warning at 75 %, and a new session 60 s after it is passed.
    pub const fn new(max: u32) -> Self {
        Self { max, warn_percent: 75, action: LimitAction::Restart(Duration::from_secs(60)) }
    }
}

/// Several paths for one prefix (RFC 7911).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddPath {
    /// We take them from the peer.
    pub receive: bool,
    /// We tell the peer as many as this, if it takes them.
    pub send: Option<u8>,
}

/// One address family of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyConfig {
    /// What we believe.
    pub import: Policy,
    /// What we announce.
    pub export: Policy,
    /// How many prefixes the peer may announce.
    pub limit: PrefixLimit,
    /// The next hop of what we announce.
    pub next_hop: NextHopMode,
    /// Several paths for one prefix.
    pub add_path: AddPath,
    /// Offer to take prefixes of this family with IPv6 next hops (RFC 8950); only IPv4 has any use for it.
    pub extended_next_hop: bool,
}

impl FamilyConfig {
    /// As many prefixes as a peer may announce unless told otherwise.
    pub const MAX_PREFIXES: u32 = 1_000_000;

    /// A family with the defaults: the limit of [`MAX_PREFIXES`](Self::MAX_PREFIXES), one path for a prefix, IPv6
    /// next hops for IPv4.
    pub fn new(import: Policy, export: Policy, next_hop: NextHopMode) -> Self {
        Self {
            import,
            export,
            limit: PrefixLimit::new(Self::MAX_PREFIXES),
            next_hop,
            add_path: AddPath::default(),
            extended_next_hop: true,
        }
    }
}

/// The next hop of announced routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NextHopMode {
    /// This address of ours. A route reflected from one internal peer to another keeps its own (RFC 4456 §10).
    Own(IpAddr),
    /// The next hop that was learned. Routes of our own have none: they use the session's local address.
    Keep,
}

/// What a route of our own is announced with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OriginAttributes {
    /// COMMUNITIES (RFC 1997).
    pub communities: BTreeSet<Community>,
    /// EXTENDED COMMUNITIES (RFC 4360).
    pub extended_communities: BTreeSet<ExtendedCommunity>,
    /// LARGE_COMMUNITY (RFC 8092).
    pub large_communities: BTreeSet<LargeCommunity>,
    /// LOCAL_PREF towards internal peers; 100 when unset.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hold_times_of_one_and_two_seconds_are_refused() {
        assert_eq!(HoldTime::new(1), Err(HoldTimeError(1)));
        assert_eq!(HoldTime::new(2), Err(HoldTimeError(2)));
        assert_eq!(HoldTime::new(0), Ok(HoldTime::NEVER));
        assert_eq!(HoldTime::new(3).map(HoldTime::seconds), Ok(3));
    }
}
