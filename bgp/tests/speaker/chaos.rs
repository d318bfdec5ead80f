//! Anything in any order: the speaker neither panics nor loses track.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use manx_bgp::wire::{Announcement, AsPath, Attributes, ErrorCode, Message, NextHop, Notification, Update};
use manx_bgp::{
    Asn, ConnId, Dial, Direction, Event, Family, Input, LimitAction, Local, Output, PeerConfig, PeerId,
    PeerState, Policy, Prefix, PrefixLimit, RemoteAs, RouterId, Speaker, StopReason,
};
use proptest::prelude::*;

use crate::kernel::{Kernel, Routes};
use crate::script::{octets, open, passive, restartable};
use crate::world::{beginning, open_peer};

const PEERS: usize = 3;

#[derive(Clone, Debug)]
enum Act {
    Connect { peer: usize, active: bool },
    Fail { peer: usize },
    Say { conn: usize, what: What },
    Bytes { conn: usize, bytes: Vec<u8> },
    Mangled { conn: usize, what: What, place: usize, octet: u8 },
    Close { conn: usize },
    Wait { millis: u64 },
    Declare { peers: u8, variant: u8 },
    Originate { number: u8 },
    Reset { peer: usize },
    Transmit { conn: usize, budget: usize },
    Stop { leave: bool },
}

#[derive(Clone, Copy, Debug)]
enum What {
    Open { restarting: Option<bool> },
    Keepalive,
    Announce { prefix: u8, hop: u8 },
    Withdraw { prefix: u8 },
    End,
    Cease { hard: bool },
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        3 => any::<Option<bool>>().prop_map(|restarting| What::Open { restarting }),
        4 => Just(What::Keepalive),
        6 => (0..6_u8, 0..3_u8).prop_map(|(prefix, hop)| What::Announce { prefix, hop }),
        2 => (0..6_u8).prop_map(|prefix| What::Withdraw { prefix }),
        2 => Just(What::End),
        1 => any::<bool>().prop_map(|hard| What::Cease { hard }),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0..PEERS, any::<bool>()).prop_map(|(peer, active)| Act::Connect { peer, active }),
        1 => (0..PEERS).prop_map(|peer| Act::Fail { peer }),
        20 => (0..8_usize, what()).prop_map(|(conn, what)| Act::Say { conn, what }),
        1 => (0..8_usize, prop::collection::vec(any::<u8>(), 0..60)).prop_map(|(conn, bytes)| Act::Bytes { conn, bytes }),
        1 => (0..8_usize, what(), 0..60_usize, any::<u8>())
            .prop_map(|(conn, what, place, octet)| Act::Mangled { conn, what, place, octet }),
        2 => (0..8_usize).prop_map(|conn| Act::Close { conn }),
        6 => prop_oneof![0..3000_u64, 0..200_000_u64].prop_map(|millis| Act::Wait { millis }),
        2 => (0..8_u8, 0..11_u8).prop_map(|(peers, variant)| Act::Declare { peers, variant }),
        2 => (0..8_u8).prop_map(|number| Act::Originate { number }),
        1 => (0..PEERS).prop_map(|peer| Act::Reset { peer }),
        6 => (0..8_usize, 0..100_usize).prop_map(|(conn, budget)| Act::Transmit { conn, budget }),
        1 => prop::bool::weighted(0.05).prop_map(|leave| Act::Stop { leave }),
    ]
}

fn id(peer: usize) -> PeerId {
    format!("peer{peer}").into()
}

fn asn(peer: usize) -> Asn {
    Asn([64512, 65000, 65000][peer])
}

fn net(number: u8) -> Prefix {
    Prefix::masked(IpAddr::from([10, number, 0, 0]), 16).expect("a good length")
}

fn message(what: What, peer: usize) -> Message {
    match what {
        What::Open { restarting: None } => Message::Open(with_id(open(asn(peer)), peer)),
        What::Open { restarting: Some(bit) } => Message::Open(with_id(restartable(asn(peer), bit), peer)),
        What::Keepalive => Message::Keepalive,
        What::Announce { prefix, hop } => {
            let mut attributes = Attributes::new(NextHop::V4([10, 0, 0, 100 + hop].into()));
            if asn(peer) != Asn(64512) {
                attributes.as_path = AsPath::sequence([asn(peer)]);
            } else {
                attributes.local_pref = Some(100);
            }
            Message::Update(Announcement::new(attributes, [net(prefix)]).into())
        }
        What::Withdraw { prefix } => Message::Update(Update::withdrawal([net(prefix)])),
        What::End => Message::EndOfRib(Family::Ipv4Unicast),
        What::Cease { hard: false } => Message::Notification(ErrorCode::ADMINISTRATIVE_RESET.into()),
        What::Cease { hard: true } => Message::Notification(Notification::shutdown("gone").into_hard_reset()),
    }
}

fn with_id(mut open: manx_bgp::wire::Open, peer: usize) -> manx_bgp::wire::Open {
    open.router_id = RouterId::new([10, 0, 0, 50 + peer as u8].into()).expect("not zero");
    open
}

/// The configuration of a peer in one of a few variants: policy, limit, timers.
fn variant(peer: usize, variant: u8) -> PeerConfig {
    let mut config = open_peer(0, peer + 1, asn(peer));
    let family = config.families.get_mut(&Family::Ipv4Unicast).expect("configured");
    match variant {
        1 => family.import = Policy::reject_all(),
        2 => family.limit.max = 2,
        3 => config.graceful_restart = None,
        4 => config.target = passive(config.target),
        5 => config.delay_open = Some(Duration::from_secs(2)),
        6 => config.target = Dial::Range { prefix: "10.0.0.0/24".parse().expect("good"), limit: 2 },
        7 => family.limit = PrefixLimit { max: 1, warn_percent: 50, action: LimitAction::StayDown },
        8 => (config.reflector_client, config.keepalive) = (true, Some(Duration::from_secs(1))),
        9 => config.families.retain(|family, _| *family == Family::Ipv4Unicast),
        10 => (config.asn, config.damping) = (RemoteAs::External, false),
        _ => {}
    }
    config
}

struct Chaos {
    speaker: Speaker,
    now: std::time::Instant,
    conns: BTreeMap<ConnId, usize>,
    kernel: Kernel,
    routes: Routes,
    next: u64,
    stopped: bool,
    states: BTreeMap<PeerId, PeerState>,
    settled: usize,
}

impl Chaos {
    fn new() -> Self {
        let now = beginning();
        let local = Local::new(Asn(64512), RouterId::new([10, 0, 0, 1].into()).expect("not zero"));
        Self {
            speaker: Speaker::new(local, [1; 32], now),
            now,
            conns: BTreeMap::new(),
            kernel: Kernel::default(),
            routes: Routes::new(),
            next: 0,
            stopped: false,
            states: BTreeMap::new(),
            settled: 0,
        }
    }

    fn input(&mut self, input: Input<'_>) {
        self.speaker.handle(input, self.now);
        while let Some(output) = self.speaker.poll() {
            match output {
                Output::Connect { .. } => assert!(!self.stopped, "nothing is dialled after a stop"),
                Output::Abandon { .. } => {}
                Output::Adopted { conn, .. } => assert!(self.conns.contains_key(&conn), "{conn:?} is gone"),
                Output::Writable { conn } => assert!(self.conns.contains_key(&conn), "{conn:?} is gone"),
                Output::Close { conn } => {
                    let mut rest = Vec::new();
                    while self.speaker.transmit(conn, &mut rest, 4096) {}
                    assert!(self.conns.remove(&conn).is_some(), "{conn:?} is closed twice");
                    assert!(!self.speaker.transmit(conn, &mut rest, 4096));
                }
                route @ (Output::Hops { .. } | Output::Route { .. }) => {
                    _ = self.kernel.take(&route, &mut self.routes)
                }
                Output::Settled => self.settled += 1,
                Output::Event(Event::StateChanged { peer, from, to }) => {
                    let known = self.states.insert(peer, to).unwrap_or_default();
                    assert_eq!((known, from != to), (from, true));
                }
                Output::Event(_) => {}
            }
        }
        assert!(self.settled <= 1);
    }

    fn check(&self) {
        let snapshot = self.speaker.snapshot(self.now);
        if !self.stopped {
            let wanted = snapshot.routes.iter().filter(|route| !route.next_hops.is_empty());
            let wanted: BTreeMap<_, _> =
                wanted.map(|route| (route.prefix, route.next_hops.clone())).collect();
            assert_eq!(self.routes, wanted);
        }
        for peer in &snapshot.peers {
            assert_eq!(self.states.get(&peer.peer).copied().unwrap_or_default(), peer.state);
            let paths = snapshot.routes.iter().flat_map(|route| &route.paths);
            let stored = paths.filter(|path| path.peer.as_ref() == Some(&peer.peer)).count();
            let counted: u32 = peer.families.values().map(|family| family.received).sum();
            assert_eq!(stored, counted as usize);
            let stale: u32 = peer.families.values().map(|family| family.stale).sum();
            assert!(
                peer.state == PeerState::Established || stale == counted,
                "only what is retained outlives a session"
            );
        }
        assert!(self.speaker.deadline().is_none_or(|due| due >= self.now || !self.stopped));
    }

    fn conn(&self, number: usize) -> Option<(ConnId, usize)> {
        let place = number.checked_rem(self.conns.len())?;
        self.conns.iter().nth(place).map(|(conn, peer)| (*conn, *peer))
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Connect { peer, active } => {
                let conn = ConnId(self.next);
                self.next += 1;
                self.conns.insert(conn, peer);
                let end = |last| SocketAddr::from(([10, 0, 0, last], 179));
                let direction = if active { Direction::Active } else { Direction::Passive };
                let (local, remote) = (end(1), end(2 + peer as u8));
                self.input(Input::Connected { peer: id(peer), conn, local, remote, direction });
            }
            Act::Fail { peer } => self.input(Input::ConnectFailed { peer: id(peer) }),
            Act::Say { conn, what } => {
                if let Some((conn, peer)) = self.conn(conn) {
                    self.input(Input::Received { conn, bytes: &octets(&message(what, peer)) });
                }
            }
            Act::Bytes { conn, bytes } => {
                if let Some((conn, _)) = self.conn(conn) {
                    self.input(Input::Received { conn, bytes: &bytes });
                }
            }
            Act::Mangled { conn, what, place, octet } => {
                if let Some((conn, peer)) = self.conn(conn) {
                    let mut bytes = octets(&message(what, peer));
                    let len = bytes.len();
                    bytes[place % len] = octet;
                    self.input(Input::Received { conn, bytes: &bytes });
                }
            }
            Act::Close { conn } => {
                if let Some((conn, _)) = self.conn(conn) {
                    self.conns.remove(&conn);
                    self.input(Input::Closed { conn });
                }
            }
            Act::Wait { millis } => self.wait(Duration::from_millis(millis)),
            Act::Declare { peers, variant: number } => {
                let declared = (0..PEERS).filter(|peer| peers >> peer & 1 == 1);
                let declared = declared.map(|peer| (id(peer), variant(peer, number))).collect();
                self.input(Input::SetPeers(declared));
                // Those that are gone have said that they are Idle; some linger.
                let there = self.speaker.peers(self.now);
                let is_there = |peer: &PeerId| there.iter().any(|status| status.peer == *peer);
                assert!(self.states.iter().all(|(peer, state)| *state == PeerState::Idle || is_there(peer)));
            }
            Act::Originate { number } => {
                let origins = (0..number).map(|number| (net(number), Default::default())).collect();
                self.input(Input::SetOrigins(origins));
            }
            Act::Reset { peer } => self.input(Input::Reset { peer: id(peer) }),
            Act::Transmit { conn, budget } => {
                if let Some((conn, _)) = self.conn(conn) {
                    let mut bytes = Vec::new();
                    let more = self.speaker.transmit(conn, &mut bytes, budget);
                    assert!(bytes.len() <= budget && (!more || budget == 0 || !bytes.is_empty()));
                }
            }
            Act::Stop { leave: true } => {
                self.stopped = true;
                self.input(Input::Stop(StopReason::Leave { communication: "test".to_owned() }));
            }
            Act::Stop { leave: false } => {}
        }
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        let mut wakes = 0;
        while let Some(due) = self.speaker.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.input(Input::Timeout);
            wakes += 1;
            assert!(wakes < 2000, "awake all the time");
        }
        self.now = end;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_the_kernel_has_what_the_table_says(acts in prop::collection::vec(act(), 1..150)) {
        let mut chaos = Chaos::new();
        chaos.act(Act::Declare { peers: 7, variant: 0 });
        for act in acts {
            chaos.act(act);
            chaos.check();
        }
    }
}
