//! The network between hosts: connections that deliver octets in order, late, in pieces, or not at all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use manx_bgp::{ConnId, PeerId};

use crate::world::{Happening, Life, World, millis, secs};

/// How much is under way on a connection at most before its writer waits, in packets.
const WINDOW: usize = 4;
/// How long a connection may go unanswered before its kernel gives it up.
const PATIENCE: Duration = secs(90);
/// How long dialling may take.
const CONNECT_TIME: Duration = secs(5);

/// Something under way.
#[derive(Debug)]
enum Packet {
    Data(Vec<u8>),
    End,
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) host: usize,
    pub(crate) bgp_life: Life,
    other: ConnId,
    peer: usize,
    /// What is under way to this end, each with the time of its arrival.
    coming: VecDeque<(Instant, Packet)>,
    /// Since when what is under way to this end has not arrived.
    stuck: Option<Instant>,
    retry: Duration,
    /// The speaker knows of it and reads it.
    readable: bool,
    /// The application has closed it.
    closed: bool,
}

/// A peer that is being dialled.
#[derive(Debug)]
pub(crate) struct Dialling {
    pub(crate) host: usize,
    pub(crate) bgp_life: Life,
    /// Which dial of all it is.
    pub(crate) number: u64,
    pub(crate) peer: PeerId,
    pub(crate) target: SocketAddr,
    pub(crate) source: SocketAddr,
}

/// All connections and what is wrong with the network.
#[derive(Debug, Default)]
pub(crate) struct Wires {
    pub(crate) ends: BTreeMap<ConnId, End>,
    next: u64,
    /// Pairs of hosts between which nothing passes, and until when.
    cut: BTreeMap<(usize, usize), Instant>,
    /// Hosts without carrier.
    pub(crate) unplugged: BTreeSet<usize>,
    /// Ends whose dialler has not heard yet that it is connected: for whom, from where, where to.
    connecting: BTreeMap<ConnId, (PeerId, SocketAddr, SocketAddr)>,
    /// The dials that somebody waits for, by host and peer.
    dials: BTreeMap<(usize, PeerId), u64>,
    speakers: Life,
}

impl Wires {
    /// The number of a new speaker.
    pub(crate) fn next_life(&mut self) -> Life {
        self.speakers += 1;
        self.speakers
    }

    /// Everything passes again.
    pub(crate) fn mend(&mut self) {
        self.cut.clear();
    }
}

impl World {
    /// Nothing passes between two hosts until then.
    pub(crate) fn cut(&mut self, one: usize, other: usize, until: Instant) {
        let pair = (one.min(other), one.max(other));
        let before = self.wires.cut.insert(pair, until);
        if before.is_some_and(|before| before > until) {
            self.wires.cut.extend(before.map(|before| (pair, before)));
        }
    }

    fn passes(&self, one: usize, other: usize) -> bool {
        let pair = (one.min(other), one.max(other));
        let cut = self.wires.cut.get(&pair).is_some_and(|until| *until > self.now);
        let plugged = |host| !self.wires.unplugged.contains(&host);
        !cut && self.hosts[one].on && self.hosts[other].on && plugged(one) && plugged(other)
    }

    fn way(&mut self) -> Duration {
        let (latency, jitter) = (self.settings.latency, self.settings.jitter);
        let mut way = latency + self.noise.between(Duration::ZERO, jitter);
        // A lost packet is sent again after a while, and waits behind nobody.
        let mut again = millis(200);
        while self.noise.chance(self.settings.loss) && again < secs(10) {
            way += again;
            again *= 2;
        }
        way
    }

    /// Dials for a host.
    pub(crate) fn dial(&mut self, mut dialling: Dialling) {
        let way = self.way();
        dialling.number = self.wires.next;
        self.wires.next += 1;
        self.wires.dials.insert((dialling.host, dialling.peer.clone()), dialling.number);
        self.after(way, Happening::Dialled(Box::new(dialling)));
    }

    /// Nobody waits for a dial any more: what it makes all the same is reset.
    pub(crate) fn abandon(&mut self, host: usize, peer: &PeerId) {
        self.wires.dials.remove(&(host, peer.clone()));
        let of_host = |conn: &ConnId| self.wires.ends.get(conn).is_some_and(|end| end.host == host);
        let half = self.wires.connecting.iter().filter(|(conn, (name, ..))| name == peer && of_host(conn));
        let conns: Vec<ConnId> = half.map(|(conn, _)| *conn).collect();
        conns.into_iter().for_each(|conn| self.hang_up(conn));
    }

    fn is_awaited(&self, dialling: &Dialling) -> bool {
        let key = (dialling.host, dialling.peer.clone());
        self.bgp_of(dialling.host) == Some(dialling.bgp_life)
            && self.wires.dials.get(&key) == Some(&dialling.number)
    }

    /// A connection request arrives, or does not.
    pub(crate) fn dialled(&mut self, dialling: Dialling) {
        let Some(peer) = self.host_at(dialling.target.ip()) else {
            return self.after(CONNECT_TIME, Happening::Refused(Box::new(dialling)));
        };
        if !self.passes(dialling.host, peer) {
            return self.after(CONNECT_TIME, Happening::Refused(Box::new(dialling)));
        }
        let listens = self.hosts[peer].agent.as_ref().is_some_and(|agent| agent.speaker.is_some());
        if !listens || !self.is_awaited(&dialling) {
            let way = self.way();
            return self.after(way, Happening::Refused(Box::new(dialling)));
        }
        let (mine, theirs) = (ConnId(self.wires.next), ConnId(self.wires.next + 1));
        self.wires.next += 2;
        let now = self.now;
        let end = |host, bgp_life, other, peer| End {
            host,
            bgp_life,
            other,
            peer,
            coming: VecDeque::new(),
            stuck: None,
            retry: millis(200),
            readable: false,
            closed: false,
        };
        let life = self.bgp_of(peer).unwrap_or(0);
        self.wires.ends.insert(mine, end(dialling.host, dialling.bgp_life, theirs, peer));
        self.wires.ends.insert(theirs, end(peer, life, mine, dialling.host));
        let port = u16::try_from(32_768 + mine.0 % 28_000).unwrap_or(40_000);
        let source = SocketAddr::new(dialling.source.ip(), port);
        // The dialler hears of it as of an empty first packet.
        let way = self.way();
        if let Some(end) = self.wires.ends.get_mut(&mine) {
            end.coming.push_back((now + way, Packet::Data(Vec::new())));
        }
        self.wires.connecting.insert(mine, (dialling.peer, source, dialling.target));
        self.after(way, Happening::Wire(mine));
        self.accepted(peer, theirs, dialling.target, source);
    }

    /// Nobody answers.
    pub(crate) fn refused(&mut self, dialling: &Dialling) {
        if self.is_awaited(dialling) {
            self.connect_failed(dialling.host, &dialling.peer);
        }
    }

    /// The speaker reads this connection from now on.
    pub(crate) fn make_readable(&mut self, conn: ConnId) {
        if let Some(end) = self.wires.ends.get_mut(&conn) {
            end.readable = true;
            self.after(Duration::ZERO, Happening::Wire(conn));
        }
    }

    /// Whether a writer may give more.
    pub(crate) fn has_window(&self, conn: ConnId) -> bool {
        let other = self.wires.ends.get(&conn).filter(|end| !end.closed).map(|end| end.other);
        other.is_some_and(|other| self.wires.ends.get(&other).is_none_or(|other| other.coming.len() < WINDOW))
    }

    /// Sends octets.
    pub(crate) fn send(&mut self, conn: ConnId, bytes: Vec<u8>) {
        self.push(conn, Packet::Data(bytes));
    }

    fn push(&mut self, conn: ConnId, packet: Packet) {
        let way = self.way();
        let Some(other) = self.wires.ends.get(&conn).map(|end| end.other) else { return };
        let arrival = self.now + way;
        let Some(end) = self.wires.ends.get_mut(&other) else {
            // Nobody is there any more: the other kernel answers with a reset, if it is there.
            return self.after(way * 2, Happening::Wire(conn));
        };
        let arrival = end.coming.back().map_or(arrival, |(last, _)| arrival.max(*last));
        end.coming.push_back((arrival, packet));
        self.at(arrival, Happening::Wire(other));
    }

    /// An end closes: what was sent arrives before the end does.
    pub(crate) fn hang_up(&mut self, conn: ConnId) {
        self.wires.connecting.remove(&conn);
        let Some(end) = self.wires.ends.get_mut(&conn) else { return };
        end.closed = true;
        self.push(conn, Packet::End);
        self.wires.ends.remove(&conn);
    }

    /// A connection is reset at both ends.
    pub(crate) fn reset_between(&mut self, one: usize, other: usize) {
        let ends = self.wires.ends.iter().filter(|(_, end)| end.host == one && end.peer == other);
        let conns: Vec<ConnId> = ends.flat_map(|(conn, end)| [*conn, end.other]).collect();
        conns.into_iter().for_each(|conn| self.drop_end(conn));
    }

    /// Everything that a dead process had is closed by its kernel.
    pub(crate) fn hang_up_all(&mut self, host: usize) {
        let conns: Vec<ConnId> =
            self.wires.ends.iter().filter(|(_, end)| end.host == host).map(|(conn, _)| *conn).collect();
        conns.into_iter().for_each(|conn| self.hang_up(conn));
    }

    /// A machine is gone: nobody says so.
    pub(crate) fn vanish_all(&mut self, host: usize) {
        self.wires.ends.retain(|_, end| end.host != host);
    }

    /// An end breaks: its speaker hears of it.
    fn drop_end(&mut self, conn: ConnId) {
        let Some(end) = self.wires.ends.remove(&conn) else { return };
        if let Some((peer, ..)) = self.wires.connecting.remove(&conn) {
            if self.bgp_of(end.host) == Some(end.bgp_life) {
                self.connect_failed(end.host, &peer);
            }
        } else if self.bgp_of(end.host) == Some(end.bgp_life) && !end.closed {
            self.closed(end.host, conn);
        }
    }

    /// Something may arrive at this end.
    pub(crate) fn wire(&mut self, conn: ConnId) {
        let now = self.now;
        let Some(end) = self.wires.ends.get(&conn) else { return };
        let (host, peer, other) = (end.host, end.peer, end.other);
        if !self.wires.ends.contains_key(&other) && end.coming.is_empty() {
            return self.lonely(conn);
        }
        let due = end.coming.front().is_some_and(|(arrival, _)| *arrival <= now);
        if !due || !end.readable && !self.wires.connecting.contains_key(&conn) {
            return;
        }
        if !self.passes(host, peer) {
            return self.stuck(conn);
        }
        let Some(end) = self.wires.ends.get_mut(&conn) else { return };
        (end.stuck, end.retry) = (None, millis(200));
        let Some((_, packet)) = end.coming.pop_front() else { return };
        if let Some((next, _)) = end.coming.front() {
            let next = *next;
            self.at(next, Happening::Wire(conn));
        }
        match packet {
            Packet::Data(bytes) => self.arrived(conn, host, bytes),
            Packet::End => self.drop_end(conn),
        }
        // The writer at the other end has room again.
        if let Some(writer) = self.wires.ends.get(&other).map(|end| end.host) {
            self.fill(writer, other);
        }
    }

    fn arrived(&mut self, conn: ConnId, host: usize, mut bytes: Vec<u8>) {
        if let Some((peer, local, remote)) = self.wires.connecting.remove(&conn) {
            if let Some(end) = self.wires.ends.get_mut(&conn) {
                end.readable = true;
            }
            return self.connected(host, conn, peer, (local, remote));
        }
        self.figures.octets += bytes.len() as u64;
        // What was sent at once is read in pieces.
        while bytes.len() > 1 && self.noise.chance(100) {
            let rest = bytes.split_off(1 + self.noise.below(bytes.len() - 1));
            self.received(host, conn, &bytes);
            bytes = rest;
        }
        self.received(host, conn, &bytes);
    }

    /// Nothing passes: it is tried again, until the sender's kernel gives up.
    fn stuck(&mut self, conn: ConnId) {
        let now = self.now;
        let Some(end) = self.wires.ends.get_mut(&conn) else { return };
        let since = *end.stuck.get_or_insert(now);
        let (pause, other) = (end.retry, end.other);
        end.retry = (end.retry * 2).min(secs(20));
        if now.saturating_duration_since(since) >= PATIENCE {
            end.coming.clear();
            self.drop_end(other);
        } else {
            self.after(pause, Happening::Wire(conn));
        }
    }

    /// The other end is gone without a word.
    fn lonely(&mut self, conn: ConnId) {
        let now = self.now;
        let Some(end) = self.wires.ends.get(&conn) else { return };
        let (host, peer) = (end.host, end.peer);
        if self.passes(host, peer) {
            return self.drop_end(conn);
        }
        let Some(end) = self.wires.ends.get_mut(&conn) else { return };
        let since = *end.stuck.get_or_insert(now);
        let pause = end.retry;
        end.retry = (end.retry * 2).min(secs(20));
        if now.saturating_duration_since(since) >= PATIENCE {
            self.drop_end(conn);
        } else {
            self.after(pause, Happening::Wire(conn));
        }
    }
}
