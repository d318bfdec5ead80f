//! Accepted connections: whose they are, peers that come from a range, and those that wait for their peer to be
//! declared.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::{Direction, Output, Speaker};
use crate::config::{ConnId, Dial, PeerConfig, PeerId};
use crate::event::Event;
use crate::peer::Peer;
use crate::peer::outbox::Outbox;
use crate::peer::session::Link;
use crate::prefix::Prefix;
use crate::rib::PeerIndex;

/// Connections held unread at a time.
const UNREAD: usize = 64;
/// Connections held unread at a time of one remote address.
const UNREAD_OF_ONE: usize = 3;
/// How long a connection is held unread.
const UNREAD_TIME: Duration = Duration::from_secs(30);

/// Accepted connections whose peer is not there, or not yet.
#[derive(Debug, Default)]
pub(super) struct Unread(BTreeMap<ConnId, Arrival>);

#[derive(Clone, Copy, Debug)]
struct Arrival {
    local: SocketAddr,
    remote: SocketAddr,
    until: Instant,
}

impl Unread {
    /// When the first one is held no longer.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().map(|arrival| arrival.until).min()
    }

    /// The connection is gone.
    pub(super) fn forget(&mut self, conn: ConnId) {
        self.0.remove(&conn);
    }

    fn has_room_for(&self, remote: IpAddr) -> bool {
        let of_one = self.0.values().filter(|arrival| arrival.remote.ip() == remote).count();
        self.0.len() < UNREAD && of_one < UNREAD_OF_ONE
    }
}

/// Whose a connection is.
enum Owner {
    Peer(PeerId),
    /// Somebody within this range.
    Range(PeerId, PeerConfig),
    /// Somebody within a range that is full.
    Full,
    Nobody,
}

impl Speaker {
    /// A connection was accepted.
    pub(super) fn accepted(
        &mut self,
        conn: ConnId,
        local: SocketAddr,
        remote: SocketAddr,
        now: Instant,
    ) -> Option<PeerIndex> {
        let arrival = Arrival { local, remote, until: now + UNREAD_TIME };
        match self.owner(local, remote) {
            Owner::Nobody if self.unread.has_room_for(remote.ip()) => {
                self.unread.0.insert(conn, arrival);
                None
            }
            Owner::Nobody => self.refuse(conn, remote, "no peer has this address, and others wait already"),
            owner => self.adopt(conn, arrival, owner, now),
        }
    }

    /// The peers have changed: some that wait may have found theirs.
    pub(super) fn adopt_unread(&mut self, now: Instant) -> Vec<PeerIndex> {
        let arrivals: Vec<(ConnId, Arrival)> =
            self.unread.0.iter().map(|(conn, one)| (*conn, *one)).collect();
        let mut touched = Vec::new();
        for (conn, arrival) in arrivals {
            let owner = self.owner(arrival.local, arrival.remote);
            if !matches!(owner, Owner::Nobody) {
                self.unread.forget(conn);
                touched.extend(self.adopt(conn, arrival, owner, now));
            }
        }
        touched
    }

    /// Closes what has waited for too long.
    pub(super) fn give_up_unread(&mut self, now: Instant) {
        let late = self.unread.0.iter().filter(|(_, arrival)| arrival.until <= now);
        let late: Vec<(ConnId, SocketAddr)> = late.map(|(conn, arrival)| (*conn, arrival.remote)).collect();
        for (conn, remote) in late {
            self.unread.forget(conn);
            self.refuse(conn, remote, "no peer has this address");
        }
    }

    fn refuse(&mut self, conn: ConnId, remote: SocketAddr, reason: &'static str) -> Option<PeerIndex> {
        self.core.tell(Event::ConnectionRefused { remote, reason });
        self.core.close(conn, Outbox::default());
        None
    }

    fn adopt(&mut self, conn: ConnId, arrival: Arrival, owner: Owner, now: Instant) -> Option<PeerIndex> {
        let (local, remote) = (canonical(arrival.local), canonical(arrival.remote));
        let name = match owner {
            Owner::Peer(name) => name,
            Owner::Range(range, template) => self.appear(range, &template, remote, now),
            Owner::Full => return self.refuse(conn, remote, "the range has as many peers as it may"),
            Owner::Nobody => return self.refuse(conn, remote, "no peer has this address"),
        };
        self.core.outputs.push_back(Output::Adopted { conn, peer: name.clone() });
        self.connected(&name, Link { conn, local, remote, direction: Direction::Passive }, now)
    }

    /// The peer with this address, else the narrowest range around it.
    fn owner(&self, local: SocketAddr, remote: SocketAddr) -> Owner {
        let called = |config: &PeerConfig| {
            config.source.is_none_or(|source| source.to_canonical() == local.ip().to_canonical())
        };
        let is_it =
            |peer: &&Peer| !peer.lingers() && peer.config().target.is_at(remote) && called(peer.config());
        if let Some(peer) = self.peers.values().find(is_it) {
            return Owner::Peer(peer.id().clone());
        }
        let around = self.ranges.iter().filter_map(|(name, template)| match template.target {
            Dial::Range { prefix, limit } if contains(prefix, remote.ip()) && called(template) => {
                Some((prefix.len(), name, template, limit))
            }
            _ => None,
        });
        let Some((_, name, template, limit)) = around.max_by_key(|(len, ..)| *len) else {
            return Owner::Nobody;
        };
        let known = self.peers.values().filter(|peer| peer.range() == Some(name)).count();
        if known < limit as usize { Owner::Range(name.clone(), template.clone()) } else { Owner::Full }
    }

    /// Somebody within a range becomes a peer.
    fn appear(&mut self, range: PeerId, template: &PeerConfig, remote: SocketAddr, now: Instant) -> PeerId {
        let name = child_name(&range, remote);
        // One of that name may linger still.
        self.remove_peer(&name, now);
        self.core.rib.decide();
        self.core.tell(Event::PeerAppeared { peer: name.clone() });
        self.add_peer(name.clone(), child(template, remote), Some(range), now);
        name
    }

    /// What the ranges say about a peer that came from one; `None` if it is not, or no longer, from any.
    pub(super) fn child_config(&self, peer: &Peer) -> Option<(PeerConfig, SocketAddr)> {
        let template = self.ranges.get(peer.range()?)?;
        let (Dial::Range { prefix, .. }, Dial::Passive(remote)) = (template.target, peer.config().target)
        else {
            return None;
        };
        contains(prefix, remote.ip()).then(|| (child(template, remote), remote))
    }

    /// Peers from a range go when there is nothing left of them.
    pub(super) fn drop_vanished(&mut self, touched: &[PeerIndex], now: Instant) {
        for index in touched {
            let spent = self.peers.get(index).filter(|peer| peer.range().is_some() && peer.is_spent());
            if let Some(name) = spent.map(|peer| peer.id().clone()) {
                self.remove_peer(&name, now);
                self.core.tell(Event::PeerVanished { peer: name });
            }
        }
    }
}

fn child(template: &PeerConfig, remote: SocketAddr) -> PeerConfig {
    PeerConfig { target: Dial::Passive(remote), ..template.clone() }
}

/// The name of somebody from a range.
fn child_name(range: &PeerId, remote: SocketAddr) -> PeerId {
    let address = remote.ip().to_canonical();
    match remote {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => {
            PeerId::from(format!("{range}/{address}%{}", v6.scope_id()))
        }
        _ => PeerId::from(format!("{range}/{address}")),
    }
}

/// An IPv4 address that came as an IPv6 one is what it was.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

fn contains(prefix: Prefix, address: IpAddr) -> bool {
    prefix.contains(&Prefix::host(address.to_canonical()))
}
