//! Two speakers that dial each other, and the two connections between them: the messages arrive in any order.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use manx_bgp::{Asn, ConnId, Direction, Event, Input, Local, Output, PeerState, RouterId, Speaker};

use crate::others::{Habits, Other};
use crate::world::{address, beginning, name, open_peer};

/// What travels towards one end of a connection, in order.
#[derive(Debug)]
pub(crate) enum Mail {
    Connected,
    Octets(Vec<u8>),
    Closed,
}

#[derive(Debug)]
enum End {
    Ours(Box<Speaker>),
    Other(Other),
}

/// Two speakers and two connections; who dialled, decides which is which. The queues are emptied in any order.
#[derive(Debug)]
pub(crate) struct Crossing {
    ends: [End; 2],
    /// By connection and receiving speaker.
    queues: BTreeMap<(u64, usize), VecDeque<Mail>>,
    began: Instant,
    now: Instant,
    lost: usize,
}

fn id(host: usize) -> RouterId {
    RouterId::new([10, 0, 0, host as u8 + 1].into()).expect("not zero")
}

fn ours(host: usize, asns: [u32; 2], now: Instant) -> End {
    let mut speaker = Speaker::new(Local::new(asns[host].into(), id(host)), [host as u8; 32], now);
    let config = open_peer(host, 1 - host, asns[1 - host].into());
    speaker.handle(Input::SetPeers([(name(1 - host), config)].into()), now);
    while speaker.poll().is_some() {}
    End::Ours(Box::new(speaker))
}

impl Crossing {
    /// Both have dialled each other.
    pub(crate) fn new(asns: [u32; 2]) -> Self {
        let now = beginning();
        Self::between([ours(0, asns, now), ours(1, asns, now)], now)
    }

    /// The same with another speaker at one end.
    pub(crate) fn with(habits: Habits, place: usize) -> Self {
        let (now, asns) = (beginning(), [64512, 65000]);
        let other = Other::new(habits, Asn(asns[place]), id(place), id(1 - place));
        let mut ends = [ours(1 - place, asns, now), End::Other(other)];
        if place == 0 {
            ends.reverse();
        }
        Self::between(ends, now)
    }

    fn between(ends: [End; 2], now: Instant) -> Self {
        let all = (0..2).flat_map(|conn| (0..2).map(move |host| (conn, host)));
        let queues = all.map(|end| (end, VecDeque::from([Mail::Connected]))).collect();
        Self { ends, queues, began: now, now, lost: 0 }
    }

    pub(crate) fn ready(&self) -> Vec<(u64, usize)> {
        self.queues.iter().filter(|(_, queue)| !queue.is_empty()).map(|(key, _)| *key).collect()
    }

    /// Delivers the next thing to one end.
    pub(crate) fn deliver(&mut self, (conn, host): (u64, usize)) {
        let Some(mail) = self.queues.get_mut(&(conn, host)).and_then(VecDeque::pop_front) else { return };
        let direction = if conn as usize == host { Direction::Active } else { Direction::Passive };
        if let End::Other(other) = &mut self.ends[host] {
            other.take(conn, direction, mail);
            for (conn, mail) in std::mem::take(&mut other.sent) {
                self.queues.entry((conn, 1 - host)).or_default().push_back(mail);
            }
            return;
        }
        let id = ConnId(conn);
        let end = |host| SocketAddr::new(address(host), 179);
        self.tell(
            host,
            match &mail {
                Mail::Connected => Input::Connected {
                    peer: name(1 - host),
                    conn: id,
                    local: end(host),
                    remote: end(1 - host),
                    direction,
                },
                Mail::Octets(bytes) => Input::Received { conn: id, bytes },
                Mail::Closed => Input::Closed { conn: id },
            },
        );
    }

    fn tell(&mut self, host: usize, input: Input<'_>) {
        let End::Ours(speaker) = &mut self.ends[host] else { return };
        speaker.handle(input, self.now);
        while let End::Ours(speaker) = &mut self.ends[host]
            && let Some(output) = speaker.poll()
        {
            match output {
                Output::Writable { conn } => self.send(conn, host),
                Output::Close { conn } => {
                    self.send(conn, host);
                    self.queues.entry((conn.0, 1 - host)).or_default().push_back(Mail::Closed);
                }
                Output::Event(Event::StateChanged { from: PeerState::Established, .. }) => self.lost += 1,
                _ => {}
            }
        }
    }

    fn send(&mut self, conn: ConnId, host: usize) {
        let End::Ours(speaker) = &mut self.ends[host] else { return };
        let mut bytes = Vec::new();
        while speaker.transmit(conn, &mut bytes, 4096) {}
        if !bytes.is_empty() {
            self.queues.entry((conn.0, 1 - host)).or_default().push_back(Mail::Octets(bytes));
        }
    }

    /// With nothing on its way time passes until one of ours does something about it; says whether within this time.
    pub(crate) fn wait(&mut self, most: Duration) -> bool {
        let due = |end: &End| match end {
            End::Ours(speaker) => speaker.deadline(),
            End::Other(_) => None,
        };
        let Some(next) = self.ends.iter().filter_map(due).min().filter(|due| *due <= self.began + most)
        else {
            return false;
        };
        self.now = self.now.max(next);
        (0..2).for_each(|host| self.tell(host, Input::Timeout));
        true
    }

    /// Which ends are up.
    pub(crate) fn established(&self) -> [bool; 2] {
        [0, 1].map(|host| match &self.ends[host] {
            End::Ours(speaker) => speaker.snapshot(self.now).peers[0].state == PeerState::Established,
            End::Other(other) => other.is_up(),
        })
    }

    /// The sessions that were up at one end and are not.
    pub(crate) fn lost(&self) -> usize {
        let others = self.ends.iter().map(|end| match end {
            End::Ours(_) => 0,
            End::Other(other) => other.lost,
        });
        self.lost + others.sum::<usize>()
    }
}
