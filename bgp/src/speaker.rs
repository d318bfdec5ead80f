//! The [`Speaker`]: one door in, one door out. Which part of it answers is decided here and nothing else.

mod arrivals;
mod inspect;
mod linger;
mod retune;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::agenda::Agenda;
use crate::chance::Chance;
use crate::config::{ConnId, Dial, Local, OriginAttributes, PeerConfig, PeerId};
use crate::event::Event;
use crate::graceful::Settling;
use crate::monitor::Monitors;
use crate::monitor::bmp::Stats;
use crate::peer::outbox::Outbox;
use crate::peer::session::Link;
use crate::peer::{Core, Peer};
use crate::prefix::{Family, Gateway, Prefix};
use crate::rib::{HopSet, PeerIndex, Rib};
use arrivals::Unread;
use linger::Lingering;

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
    /// We are back at once, and are somebody else then. Peers keep our routes if both have agreed on restarts, and are
    /// told Cease, Other Configuration Change, where that does not end it (RFC 8538 §3).
    Change,
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
    /// A connection is up: one that was asked for ([`Output::Connect`]), or one whose peer its owner knows.
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
    /// A connection was accepted. The speaker finds the peer by the remote address, then by a range; whoever is not
    /// there yet may still be declared, and waits unread for a short time. [`Output::Adopted`] or [`Output::Close`]
    /// follows; nothing may be read before.
    Accepted {
        /// Its number.
        conn: ConnId,
        /// Our end.
        local: SocketAddr,
        /// The peer's end.
        remote: SocketAddr,
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
    /// The connection to a BMP station is up (RFC 7854): from now on it is told of all sessions and what peers announce.
    /// [`Speaker::transmit`] gives what to send, [`Closed`](Self::Closed) says that it is gone, and
    /// [`Output::Close`] that it does not keep up.
    Monitor {
        /// Its number.
        conn: ConnId,
        /// Our name.
        name: &'a str,
        /// What we are, for people.
        description: &'a str,
        /// The time of day, counted from 1970.
        unix: Duration,
    },
    /// The peers that should be there; sessions whose parameters did not change go on.
    SetPeers(BTreeMap<PeerId, PeerConfig>),
    /// What holds for the speaker itself. Routes are decided anew where it makes a difference, and no session ends. Its
    /// AS and identifier are for life, and `restarting` speaks of its start: what is said of these here means nothing.
    SetLocal(Local),
    /// The host of this peer is no more: unlike a peer that is only not declared any longer it does not linger, and
    /// nothing of it is kept.
    Dismiss {
        /// Which peer.
        peer: PeerId,
    },
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
    /// Give up the dial that is under way, without an answer: the peer has come first, and a connection that reaches it
    /// now might cost the session.
    Abandon {
        /// For whom.
        peer: PeerId,
    },
    /// An accepted connection has found its peer, whose transport options hold from now on; read it.
    Adopted {
        /// Which.
        conn: ConnId,
        /// Whose.
        peer: PeerId,
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
    /// A set of next hops that prefixes share is new, or leads elsewhere from now on: all prefixes in it move at once.
    /// Without gateways the set is gone, and what is still in it is withdrawn. When a peer is lost this comes before
    /// the decision process has looked at its prefixes.
    Hops {
        /// Which set.
        set: HopSet,
        /// Where to; traffic is shared among them.
        gateways: BTreeSet<Gateway>,
    },
    /// A prefix is in another set; in none when it is withdrawn. Own origins are never told.
    Route {
        /// Which prefix.
        prefix: Prefix,
        /// Which set, as told by [`Output::Hops`], or [`HopSet::DISCARD`].
        set: Option<HopSet>,
    },
    /// Once after the start: every live peer has sent End-of-RIB, or the wait is over, or there are no peers.
    /// Routes of an earlier life that have not come again may go now.
    Settled,
    /// Something worth knowing.
    Event(Event),
}

/// A deadline missed by this much means that our process stood still.
const OVERSLEPT: Duration = Duration::from_secs(1);
/// How long peers have then to be heard before they count as silent.
const GRACE: Duration = Duration::from_secs(5);

/// All sessions and routes of one BGP router. It has no socket, no clock and no chance: see the crate's essay.
#[derive(Debug)]
pub struct Speaker {
    core: Core,
    peers: BTreeMap<PeerIndex, Peer>,
    names: BTreeMap<PeerId, PeerIndex>,
    conns: BTreeMap<ConnId, PeerIndex>,
    /// The templates of peers that come from a range.
    ranges: BTreeMap<PeerId, PeerConfig>,
    unread: Unread,
    lingering: Lingering,
    agenda: Agenda,
    settling: Settling,
    /// Peers that owe us their first End-of-RIB.
    unheard: BTreeSet<PeerIndex>,
    settled_untold: bool,
    stopped: bool,
    latest: Instant,
}

impl Speaker {
    /// A speaker without peers. The seed feeds the jitter of its timers and the keys of its tables.
    pub fn new(local: Local, seed: [u8; 32], now: Instant) -> Self {
        let mut chance = Chance::new(seed);
        let keys = [chance.next(), chance.next()];
        let settling = Settling::new(local.settle);
        let core = Core {
            rib: Rib::new(local.clone(), keys),
            local,
            chance,
            outputs: VecDeque::new(),
            closing: BTreeMap::new(),
            ended: Vec::new(),
            settled: false,
            monitors: Monitors::default(),
        };
        Self {
            core,
            peers: BTreeMap::new(),
            names: BTreeMap::new(),
            conns: BTreeMap::new(),
            ranges: BTreeMap::new(),
            unread: Unread::default(),
            lingering: Lingering::default(),
            agenda: Agenda::default(),
            settling,
            unheard: BTreeSet::new(),
            settled_untold: false,
            stopped: false,
            latest: now,
        }
    }

    /// Feeds one fact. Never fails: what a peer does wrong becomes outputs. Time that runs backwards stands still.
    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        let now = self.latest.max(now);
        self.latest = now;
        if self.stopped {
            return self.after_stop(&input);
        }
        let mut touched = Vec::new();
        match input {
            Input::Timeout => touched = self.timeout(now),
            Input::Connected { peer, conn, local, remote, direction } => {
                touched.extend(self.connected(&peer, Link { conn, local, remote, direction }, now));
            }
            Input::Accepted { conn, local, remote } => {
                touched.extend(self.accepted(conn, local, remote, now));
            }
            Input::ConnectFailed { peer } => {
                touched.extend(self.with_named(&peer, |peer, core| peer.connect_failed(core, now)));
            }
            Input::Received { conn, bytes } => {
                touched.extend(self.with_conn(conn, |peer, core| peer.received(conn, bytes, core, now)));
            }
            Input::Closed { conn } => {
                self.core.closing.remove(&conn);
                self.core.monitors.closed(conn);
                self.unread.forget(conn);
                touched.extend(self.with_conn(conn, |peer, core| peer.closed(conn, core, now)));
            }
            Input::Monitor { conn, name, description, unix } => {
                self.core.monitors.connect(conn, (name, description), unix, now);
            }
            Input::SetPeers(peers) => touched = self.set_peers(peers, now),
            Input::SetLocal(local) => self.set_local(local),
            Input::SetOrigins(origins) => self.core.rib.set_origins(origins),
            Input::Dismiss { peer } => self.remove_peer(&peer, now),
            Input::Reset { peer } => touched = self.reset(&peer, now),
            Input::Stop(reason) => touched = self.stop(&reason, now),
        }
        self.conclude(touched, now);
    }

    /// Only connections that come or go still mean something.
    fn after_stop(&mut self, input: &Input<'_>) {
        if let Input::Connected { conn, .. } | Input::Accepted { conn, .. } = input {
            self.core.close(*conn, Outbox::default());
        }
        if let Input::Closed { conn } = input {
            self.core.closing.remove(conn);
        }
    }

    /// Runs the decision process, and looks who has to send or to wait for something else now.
    fn conclude(&mut self, mut touched: Vec<PeerIndex>, now: Instant) {
        self.drop_vanished(&touched, now);
        self.core.rib.decide();
        if self.lingering.is_due(now) {
            touched.extend(self.release(now));
            self.core.rib.decide();
        }
        let mut touched: BTreeSet<PeerIndex> = touched.into_iter().collect();
        for index in &touched {
            if self.peers.get(index).is_none_or(Peer::heard) {
                self.unheard.remove(index);
            }
        }
        if self.settling.check(self.unheard.is_empty(), now) {
            self.settled_untold = true;
            self.core.settled = true;
            touched.extend(self.peers.keys());
        }
        touched.extend(self.core.rib.take_woken());
        for index in touched {
            let Some(peer) = self.peers.get_mut(&index) else { continue };
            peer.flush(&mut self.core, now);
            self.agenda.set(index, peer.next());
        }
        for conn in self.core.ended.drain(..) {
            self.conns.remove(&conn);
        }
        self.watch(now);
    }

    /// Reports to the stations, and looks which of them have something to be sent.
    fn watch(&mut self, now: Instant) {
        if self.core.monitors.is_idle() {
            return;
        }
        let (peers, rib) = (&self.peers, &self.core.rib);
        let stats = |index| Stats {
            faults: peers.get(&index).map_or(0, |peer| u32::try_from(peer.faults()).unwrap_or(u32::MAX)),
            received: Family::ALL.map(|family| (family, rib.counts(index, family).received.into())).to_vec(),
        };
        self.core.monitors.timeout(stats, now);
        let (woken, slow) = self.core.monitors.flush();
        self.core.outputs.extend(woken.into_iter().map(|conn| Output::Writable { conn }));
        for conn in slow {
            self.core.tell(Event::StationTooSlow { conn });
            self.core.outputs.push_back(Output::Close { conn });
        }
    }

    fn timeout(&mut self, now: Instant) -> Vec<PeerIndex> {
        // Whoever was asleep has not read either: what the peers said meanwhile is still to come.
        let overslept = self.agenda.next().is_some_and(|due| now >= due + OVERSLEPT);
        self.give_up_unread(now);
        let due = self.agenda.take_due(now);
        for index in &due {
            if let Some(peer) = self.peers.get_mut(index) {
                if overslept {
                    peer.bear_with(now + GRACE, now);
                }
                peer.timeout(&mut self.core, now);
            }
        }
        due
    }

    /// A range stands for all peers that came from it.
    fn reset(&mut self, name: &PeerId, now: Instant) -> Vec<PeerIndex> {
        let meant = |peer: &Peer| peer.id() == name || peer.range() == Some(name);
        let mut touched = Vec::new();
        for (index, peer) in self.peers.iter_mut().filter(|(_, peer)| meant(peer)) {
            peer.reset(&mut self.core, now);
            touched.push(*index);
        }
        touched
    }

    fn with_named(&mut self, name: &PeerId, act: impl FnOnce(&mut Peer, &mut Core)) -> Option<PeerIndex> {
        let index = *self.names.get(name)?;
        act(self.peers.get_mut(&index)?, &mut self.core);
        Some(index)
    }

    fn with_conn(&mut self, conn: ConnId, act: impl FnOnce(&mut Peer, &mut Core)) -> Option<PeerIndex> {
        let index = *self.conns.get(&conn)?;
        act(self.peers.get_mut(&index)?, &mut self.core);
        Some(index)
    }

    fn connected(&mut self, name: &PeerId, link: Link, now: Instant) -> Option<PeerIndex> {
        let mut wanted = false;
        let index = self.with_named(name, |peer, core| wanted = peer.connected(link, core, now));
        if index.is_none() {
            self.core.close(link.conn, Outbox::default());
        }
        if let (Some(index), true) = (index, wanted) {
            self.conns.insert(link.conn, index);
        }
        index
    }

    fn set_peers(&mut self, peers: BTreeMap<PeerId, PeerConfig>, now: Instant) -> Vec<PeerIndex> {
        let is_range = |config: &PeerConfig| matches!(config.target, Dial::Range { .. });
        let (ranges, mut peers): (BTreeMap<_, _>, BTreeMap<_, _>) =
            peers.into_iter().partition(|(_, config)| is_range(config));
        self.ranges = ranges;
        for peer in self.peers.values() {
            let Some((config, remote)) = self.child_config(peer) else { continue };
            if !peers.values().any(|named| named.target.is_at(remote)) {
                peers.insert(peer.id().clone(), config);
            }
        }
        let gone: Vec<PeerId> =
            self.names.keys().filter(|name| !peers.contains_key(*name)).cloned().collect();
        let (known, added): (BTreeMap<_, _>, BTreeMap<_, _>) =
            peers.into_iter().partition(|(name, _)| self.names.contains_key(name));
        self.settling.peers_declared(!added.is_empty(), now);
        let mut touched = self.part_with(gone, &added, now);
        // A number is free for another peer only when the decision process has forgotten the one before.
        self.core.rib.decide();
        for (name, config) in known {
            touched.extend(self.with_named(&name, |peer, core| peer.configure(config, core, now)));
        }
        for (name, config) in added {
            touched.push(self.add_peer(name, config, None, now));
        }
        touched.extend(self.adopt_unread(now));
        touched
    }

    fn add_peer(
        &mut self,
        name: PeerId,
        config: PeerConfig,
        range: Option<PeerId>,
        now: Instant,
    ) -> PeerIndex {
        let index = self.free_index();
        let mut peer = Peer::new(name.clone(), index, config, range, now);
        peer.timeout(&mut self.core, now);
        self.peers.insert(index, peer);
        self.names.insert(name, index);
        self.unheard.insert(index);
        index
    }

    /// The least number that no peer has.
    fn free_index(&self) -> PeerIndex {
        let last = self.peers.last_key_value().map_or(0, |(last, _)| last.0.saturating_add(1));
        if last as usize == self.peers.len() {
            return PeerIndex(last);
        }
        let free = self.peers.keys().zip(0..).find(|(used, wanted)| used.0 != *wanted);
        PeerIndex(free.map_or(last, |(_, wanted)| wanted))
    }

    fn remove_peer(&mut self, name: &PeerId, now: Instant) {
        let Some(index) = self.names.remove(name) else { return };
        self.agenda.set(index, None);
        self.unheard.remove(&index);
        if let Some(peer) = self.peers.remove(&index) {
            peer.deconfigure(&mut self.core, now);
        }
    }

    fn stop(&mut self, reason: &StopReason, now: Instant) -> Vec<PeerIndex> {
        self.stopped = true;
        for peer in self.peers.values_mut() {
            peer.stop(reason, &mut self.core, now);
        }
        for (conn, last) in self.core.monitors.stop() {
            self.core.close(conn, last);
        }
        self.peers.keys().copied().collect()
    }

    /// Takes the next output; drain it after each [`handle`](Self::handle).
    ///
    /// Routes are told from their newest state, and none after [`Input::Stop`]: what forwards goes on forwarding.
    pub fn poll(&mut self) -> Option<Output> {
        self.poll_sessions().or_else(|| self.poll_routes())
    }

    /// Like [`poll`](Self::poll), without what is for the kernel's routes.
    pub fn poll_sessions(&mut self) -> Option<Output> {
        self.core.outputs.pop_front()
    }

    /// The rest of [`poll`](Self::poll): hops, routes and, when there are no more of these, that the start is over.
    /// What is not taken is kept, and only its newest state: take as much as there is room for.
    pub fn poll_routes(&mut self) -> Option<Output> {
        if self.stopped {
            return None;
        }
        let rib = &mut self.core.rib;
        loop {
            if let Some((set, gateways)) = rib.next_hops() {
                return Some(Output::Hops { set, gateways });
            }
            if let Some((prefix, set)) = rib.next_route() {
                return Some(Output::Route { prefix, set });
            }
            if !rib.routes_told() {
                break;
            }
        }
        std::mem::take(&mut self.settled_untold).then_some(Output::Settled)
    }

    /// When [`Input::Timeout`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        if self.stopped {
            return None;
        }
        let settled = self.settling.next(self.unheard.is_empty());
        let at_once = self.core.rib.unfinished().then_some(self.latest);
        let all = [
            self.agenda.next(),
            settled,
            self.unread.next(),
            self.lingering.next(),
            at_once,
            self.core.monitors.next(),
        ];
        all.into_iter().flatten().min()
    }

    /// Appends at most `budget` octets for `conn` to `buf`; returns whether more remain. Call it when the socket
    /// can take them: messages are made from the newest state at this moment. After `false`, wait for the next
    /// [`Output::Writable`].
    pub fn transmit(&mut self, conn: ConnId, buf: &mut Vec<u8>, budget: usize) -> bool {
        if let Some(last) = self.core.closing.get_mut(&conn) {
            last.take(buf, budget);
            let more = !last.is_empty();
            if !more {
                self.core.closing.remove(&conn);
            }
            return more;
        }
        let Core { monitors, rib, .. } = &mut self.core;
        if let Some(more) = monitors.transmit(conn, rib, buf, budget, self.latest) {
            return more;
        }
        let peer = self.conns.get(&conn).and_then(|index| self.peers.get_mut(index));
        peer.is_some_and(|peer| peer.transmit(conn, &mut self.core, buf, budget))
    }

    /// Whether the first exchange of routes after the start is over.
    pub fn settled(&self) -> bool {
        self.settling.is_done()
    }
}
