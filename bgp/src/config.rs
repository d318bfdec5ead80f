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
use crate::prefix::{Asn, Family, RouterId};
use crate::wire::{Community, LargeCommunity};

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

/// This speaker, for all of its life.
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
}

impl Local {
    /// A speaker with the defaults: not restarting, 10 s to settle, 16 equal paths.
    pub fn new(asn: Asn, router_id: RouterId) -> Self {
        Self {
            asn,
            router_id,
            cluster_id: None,
            restarting: false,
            settle: Duration::from_secs(10),
            multipath: 16,
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

/// A peer as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// The AS the peer must have; equal to ours makes the peer internal.
    pub asn: Asn,
    /// Where to dial.
    pub target: SocketAddr,
    /// The address to dial from.
    pub source: Option<IpAddr>,
    /// Never dial, only accept.
    pub passive: bool,
    /// The hold time we offer; the smaller of both offers holds.
    pub hold_time: HoldTime,
    /// The wait after the first failed attempt; it doubles with each further one up to 30 s, or stays if it is more.
    pub connect_retry: Duration,
    /// What is exchanged.
    pub families: BTreeMap<Family, FamilyConfig>,
    /// Offer graceful restart, with this restart time (RFC 4724; at most 4095 s).
    pub graceful_restart: Option<Duration>,
    /// The peer is a client of ours as a route reflector (RFC 4456).
    pub reflector_client: bool,
}

impl PeerConfig {
    /// The restart time used unless told otherwise.
    pub const RESTART_TIME: Duration = Duration::from_secs(120);

    /// An active peer with the defaults: hold time 90 s, first retry after 1 s, graceful restart of 120 s, no family.
    pub fn new(asn: Asn, target: SocketAddr) -> Self {
        Self {
            asn,
            target,
            source: None,
            passive: false,
            hold_time: HoldTime::default(),
            connect_retry: Duration::from_secs(1),
            families: BTreeMap::new(),
            graceful_restart: Some(Self::RESTART_TIME),
            reflector_client: false,
        }
    }

    /// Whether a running session can go on under `other`: only policy, limits and retry times may differ.
    pub(crate) fn same_session(&self, other: &Self) -> bool {
        self.asn == other.asn
            && self.target == other.target
            && self.source == other.source
            && self.hold_time == other.hold_time
            && self.graceful_restart == other.graceful_restart
            && self.reflector_client == other.reflector_client
            && self.families.keys().eq(other.families.keys())
    }
}

/// One address family of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyConfig {
    /// What we believe.
    pub import: Policy,
    /// What we announce.
    pub export: Policy,
    /// How many prefixes the peer may announce before the session is ended with Cease (RFC 4486 §4).
    pub max_prefixes: u32,
    /// The next hop of what we announce.
    pub next_hop: NextHopMode,
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
