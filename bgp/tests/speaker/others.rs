//! How other speakers resolve collisions, as small state machines: all of them decide when an OPEN comes, and at once.

use std::collections::BTreeMap;

use manx_bgp::wire::{self, ErrorCode, Framer, Message};
use manx_bgp::{Asn, Direction, RouterId};

use crate::crossing::Mail;
use crate::script::{DIALECT, octets, open, restartable};

/// In what they differ.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// Offers graceful restart: a connection that comes while a session is up replaces it, for the peer must have
    /// restarted (RFC 4724 §5).
    pub(crate) replaces: bool,
    /// Identifiers decide as soon as one of two connections has had an OPEN, not only when both have.
    pub(crate) hasty: bool,
    /// A dial under way is given up when an OPEN comes on the connection from the other side.
    pub(crate) hangs_up: bool,
    /// All other connections go when a session is up.
    pub(crate) tidies: bool,
    /// Only the first connection is ever taken.
    pub(crate) single: bool,
}

const PLAIN: Habits = Habits { replaces: false, hasty: false, hangs_up: false, tidies: false, single: false };

/// The habits of four speakers, with graceful restart and without: BIRD's as its source has them, those of FRR, GoBGP and
/// OpenBGPD as they are known from outside.
pub(crate) const HABITS: [(&str, Habits); 8] = [
    ("BIRD", Habits { hangs_up: true, ..PLAIN }),
    ("BIRD with restarts", Habits { replaces: true, hangs_up: true, ..PLAIN }),
    ("FRR", Habits { hasty: true, tidies: true, ..PLAIN }),
    ("FRR with restarts", Habits { replaces: true, hasty: true, tidies: true, ..PLAIN }),
    ("GoBGP", Habits { single: true, ..PLAIN }),
    ("OpenBGPD with restarts", Habits { replaces: true, single: true, ..PLAIN }),
    ("RFC 4271", PLAIN),
    ("RFC 4271 with restarts", Habits { replaces: true, ..PLAIN }),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    OpenSent,
    OpenConfirm,
    Established,
    Gone,
}

#[derive(Debug)]
struct Conn {
    direction: Direction,
    stage: Stage,
    framer: Framer,
}

/// Another speaker with its connections to us.
#[derive(Debug)]
pub(crate) struct Other {
    habits: Habits,
    asn: Asn,
    id: RouterId,
    our_id: RouterId,
    conns: BTreeMap<u64, Conn>,
    hung_up: bool,
    /// What goes to us, by connection.
    pub(crate) sent: Vec<(u64, Mail)>,
    /// Sessions that were up and are not.
    pub(crate) lost: usize,
}

impl Other {
    pub(crate) fn new(habits: Habits, asn: Asn, id: RouterId, our_id: RouterId) -> Self {
        let (conns, sent) = (BTreeMap::new(), Vec::new());
        Self { habits, asn, id, our_id, conns, hung_up: false, sent, lost: 0 }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.conns.values().any(|conn| conn.stage == Stage::Established)
    }

    pub(crate) fn take(&mut self, conn: u64, direction: Direction, mail: Mail) {
        match mail {
            Mail::Connected => self.connected(conn, direction),
            Mail::Octets(bytes) => self.received(conn, &bytes),
            Mail::Closed => self.gone(conn),
        }
    }

    fn connected(&mut self, new: u64, direction: Direction) {
        let up = self.conns.iter().find(|(_, conn)| conn.stage == Stage::Established);
        let up = up.map(|(conn, _)| *conn);
        let alive = self.conns.values().any(|conn| conn.stage != Stage::Gone);
        let passive = direction == Direction::Passive;
        if let Some(old) = up.filter(|_| passive && self.habits.replaces) {
            self.hang_up(old);
        } else if alive && self.habits.single || !passive && (up.is_some() || self.hung_up) {
            return self.sent.push((new, Mail::Closed));
        }
        let conn = Conn { direction, stage: Stage::OpenSent, framer: Framer::new() };
        self.conns.insert(new, conn);
        let mut open = if self.habits.replaces { restartable(self.asn, false) } else { open(self.asn) };
        open.router_id = self.id;
        self.say(new, &Message::Open(open));
    }

    fn say(&mut self, conn: u64, message: &Message) {
        self.sent.push((conn, Mail::Octets(octets(message))));
    }

    fn gone(&mut self, conn: u64) {
        let Some(conn) = self.conns.get_mut(&conn) else { return };
        self.lost += usize::from(conn.stage == Stage::Established);
        conn.stage = Stage::Gone;
    }

    fn hang_up(&mut self, conn: u64) {
        self.gone(conn);
        self.sent.push((conn, Mail::Closed));
    }

    fn refuse(&mut self, conn: u64) {
        self.say(conn, &Message::Notification(ErrorCode::COLLISION.into()));
        self.hang_up(conn);
    }

    fn stage(&self, conn: u64) -> Stage {
        self.conns.get(&conn).map_or(Stage::Gone, |conn| conn.stage)
    }

    fn enter(&mut self, conn: u64, stage: Stage) {
        self.conns.get_mut(&conn).expect("it is there").stage = stage;
    }

    fn received(&mut self, conn: u64, mut bytes: &[u8]) {
        loop {
            let Some(end) = self.conns.get_mut(&conn).filter(|conn| conn.stage != Stage::Gone) else {
                return;
            };
            let Some(frame) = end.framer.next(&mut bytes).expect("good frames") else { return };
            match wire::decode(frame, &DIALECT).expect("good messages").message {
                Message::Open(_) => self.on_open(conn),
                Message::Keepalive if self.stage(conn) == Stage::OpenConfirm => self.on_confirmed(conn),
                Message::Notification(_) => self.hang_up(conn),
                _ => assert_eq!(self.stage(conn), Stage::Established, "only a session hears that"),
            }
        }
    }

    fn on_confirmed(&mut self, up: u64) {
        self.enter(up, Stage::Established);
        let others = self.conns.iter().filter(|(conn, other)| **conn != up && other.stage != Stage::Gone);
        if self.habits.tidies {
            others.map(|(conn, _)| *conn).collect::<Vec<_>>().into_iter().for_each(|conn| self.refuse(conn));
        }
    }

    fn on_open(&mut self, new: u64) {
        assert_eq!(self.stage(new), Stage::OpenSent, "one OPEN");
        let direction = self.conns[&new].direction;
        let other = self.conns.iter().find(|(conn, other)| **conn != new && other.stage != Stage::Gone);
        let other = other.map(|(conn, other)| (*conn, other.stage));
        self.hung_up |= self.habits.hangs_up && direction == Direction::Passive;
        let they_win = self.id > self.our_id;
        let new_wins = they_win == (direction == Direction::Active);
        match other {
            Some((_, Stage::Established)) => return self.refuse(new),
            Some((old, stage)) if stage == Stage::OpenConfirm || self.habits.hasty => {
                self.refuse(if new_wins { old } else { new });
                if !new_wins {
                    return;
                }
            }
            _ => {}
        }
        self.say(new, &Message::Keepalive);
        self.enter(new, Stage::OpenConfirm);
    }
}
