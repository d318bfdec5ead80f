//! The table as others may watch it: live to BMP stations (RFC 7854), and whole as an MRT dump (RFC 6396).
//!
//! A station is told of every session, then what the peer announces before our policy looks at it (Adj-RIB-In): first
//! the routes that are there, read from the table at the pace at which the station takes them, and from the start
//! every UPDATE as it comes. Both are right at the moment when they are written, so their order is right too. A station
//! that does not keep up is let go; when it is back it begins anew. Without stations none of this costs anything.

pub(crate) mod bmp;
pub(crate) mod mrt;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::config::ConnId;
use crate::peer::outbox::Outbox;
use crate::rib::{PeerIndex, Rib};
use crate::wire::{Dialect, Notification, Open};
use bmp::{Ending, PeerHeader, Stats};

/// What a station that does not read may owe us before it is let go, in octets.
const MOST_UNREAD: usize = 32 << 20;
/// How much of the table is read ahead for a station, in octets.
const READ_AHEAD: usize = 128 << 10;
/// The time between two reports of counters.
const REPORT_TIME: Duration = Duration::from_secs(60);

/// A session as stations know it.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) header: PeerHeader,
    pub(crate) name: String,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) ours: Open,
    pub(crate) theirs: Open,
    /// How the peer's routes are written: as it would write them.
    pub(crate) dialect: Dialect,
}

/// A station and what it is owed.
#[derive(Debug, Default)]
struct Station {
    outbox: Outbox,
    /// Peers whose routes it must still be told, and from which prefix on.
    walks: VecDeque<(PeerIndex, u32)>,
    /// Its owner knows that there is something to send.
    signalled: bool,
}

impl Station {
    fn pending(&self) -> bool {
        !self.outbox.is_empty() || !self.walks.is_empty()
    }
}

/// All stations, and the sessions that they are told of.
#[derive(Debug, Default)]
pub(crate) struct Monitors {
    stations: BTreeMap<ConnId, Station>,
    watched: BTreeMap<PeerIndex, Watched>,
    /// A moment, and the time of day that it was, counted from 1970.
    clock: Option<(Instant, Duration)>,
    report_at: Option<Instant>,
}

impl Monitors {
    /// A station's connection is up; `unix` is the time of day.
    pub(crate) fn connect(
        &mut self,
        conn: ConnId,
        (name, description): (&str, &str),
        unix: Duration,
        now: Instant,
    ) {
        self.clock = Some((now, unix));
        let mut station = Station::default();
        bmp::initiation(name, description, station.outbox.buffer());
        for (index, watched) in &self.watched {
            bmp::peer_up(watched, unix, station.outbox.buffer());
            station.walks.push_back((*index, 0));
        }
        self.stations.insert(conn, station);
        self.report_at.get_or_insert(now + REPORT_TIME);
    }

    /// The connection is gone.
    pub(crate) fn closed(&mut self, conn: ConnId) {
        self.stations.remove(&conn);
        if self.stations.is_empty() {
            self.report_at = None;
        }
    }

    /// We stop: gives the stations, each with its last octets.
    pub(crate) fn stop(&mut self) -> Vec<(ConnId, Outbox)> {
        self.report_at = None;
        let stations = std::mem::take(&mut self.stations).into_iter();
        stations
            .map(|(conn, mut station)| {
                bmp::termination(station.outbox.buffer());
                (conn, station.outbox)
            })
            .collect()
    }

    fn time_of_day(&self, now: Instant) -> Duration {
        self.clock.map_or(Duration::ZERO, |(then, unix)| unix + now.saturating_duration_since(then))
    }

    fn tell(&mut self, write: impl Fn(&mut Vec<u8>)) {
        self.stations.values_mut().for_each(|station| write(station.outbox.buffer()));
    }

    pub(crate) fn up(&mut self, index: PeerIndex, watched: Watched, now: Instant) {
        let time = self.time_of_day(now);
        self.tell(|buf| bmp::peer_up(&watched, time, buf));
        self.watched.insert(index, watched);
    }

    pub(crate) fn down(&mut self, index: PeerIndex, ending: &Ending, now: Instant) {
        let Some(watched) = self.watched.remove(&index) else { return };
        let time = self.time_of_day(now);
        for station in self.stations.values_mut() {
            station.walks.retain(|(walked, _)| *walked != index);
            bmp::peer_down(&watched.header, time, ending, station.outbox.buffer());
        }
    }

    /// An UPDATE came, whose octets these are.
    pub(crate) fn update(&mut self, index: PeerIndex, octets: &[u8], now: Instant) {
        let time = self.time_of_day(now);
        let Self { stations, watched, .. } = self;
        if let Some(watched) = watched.get(&index) {
            for station in stations.values_mut() {
                bmp::route_monitoring(&watched.header, time, octets, station.outbox.buffer());
            }
        }
    }

    /// Whether anybody watches.
    pub(crate) fn is_idle(&self) -> bool {
        self.stations.is_empty()
    }

    /// How a peer's routes are written for stations.
    pub(crate) fn dialect(&self, index: PeerIndex) -> Option<Dialect> {
        self.watched.get(&index).map(|watched| watched.dialect)
    }

    /// When something is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.report_at
    }

    /// Reports counters if that is due.
    pub(crate) fn timeout(&mut self, stats: impl Fn(PeerIndex) -> Stats, now: Instant) {
        if self.report_at.is_none_or(|due| due > now) {
            return;
        }
        self.report_at = Some(now + REPORT_TIME);
        let time = self.time_of_day(now);
        for (index, watched) in &self.watched {
            let stats = stats(*index);
            for station in self.stations.values_mut() {
                bmp::stats_report(&watched.header, time, &stats, station.outbox.buffer());
            }
        }
    }

    /// The stations that have news for their owners, and those that do not keep up, which are forgotten.
    pub(crate) fn flush(&mut self) -> (Vec<ConnId>, Vec<ConnId>) {
        let slow = self.stations.iter().filter(|(_, station)| station.outbox.len() > MOST_UNREAD);
        let slow: Vec<ConnId> = slow.map(|(conn, _)| *conn).collect();
        slow.iter().for_each(|conn| self.closed(*conn));
        let woken = self.stations.iter_mut().filter(|(_, station)| station.pending() && !station.signalled);
        let woken = woken.map(|(conn, station)| {
            station.signalled = true;
            *conn
        });
        (woken.collect(), slow)
    }

    /// Appends at most `budget` octets for a station; `None` if it is none. Says whether more remain.
    pub(crate) fn transmit(
        &mut self,
        conn: ConnId,
        rib: &Rib,
        buf: &mut Vec<u8>,
        budget: usize,
        now: Instant,
    ) -> Option<bool> {
        let time = self.time_of_day(now);
        let Self { stations, watched, .. } = self;
        let station = stations.get_mut(&conn)?;
        while station.outbox.len() < budget.max(READ_AHEAD)
            && let Some((index, from)) = station.walks.pop_front()
        {
            let Some(watched) = watched.get(&index) else { continue };
            let (updates, next) = rib.told_by(index, from, &watched.dialect);
            for update in updates {
                bmp::route_monitoring(&watched.header, time, &update, station.outbox.buffer());
            }
            match next {
                Some(next) => station.walks.push_front((index, next)),
                None => bmp::end_of_table(watched, time, station.outbox.buffer()),
            }
        }
        station.outbox.take(buf, budget);
        station.signalled = station.pending();
        Some(station.signalled)
    }
}

impl Ending {
    /// A session that ended with this NOTIFICATION, or without one.
    pub(crate) fn new(by_peer: bool, notification: Option<Notification>) -> Self {
        match (by_peer, notification) {
            (true, Some(notification)) => Self::Received(notification),
            (true, None) => Self::Closed,
            (false, Some(notification)) => Self::Sent(notification),
            (false, None) => Self::Ours,
        }
    }
}
