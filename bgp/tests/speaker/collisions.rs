//! Two connections at once, in every order in which their messages can arrive (RFC 4271 §6.8).

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use manx_bgp::wire::Message;
use manx_bgp::{ConnId, Direction, Event, Input, Local, Output, PeerState, RouterId, Speaker};

use crate::script::{PEER_ASN, Script, octets, open, passive, restartable};
use crate::world::{World, address, beginning, name, open_peer, secs};

/// What travels towards one end of a connection, in order.
#[derive(Debug)]
enum Mail {
    Connected,
    Octets(Vec<u8>),
    Closed,
}

/// Two speakers and two connections; who dialled, decides which is which. The queues are emptied in any order.
struct Crossing {
    speakers: [Speaker; 2],
    /// By connection and receiving speaker.
    queues: BTreeMap<(u64, usize), VecDeque<Mail>>,
    now: Instant,
    lost: usize,
}

impl Crossing {
    /// Both have dialled each other.
    fn new(asns: [u32; 2]) -> Self {
        let now = beginning();
        let speaker = |host: usize| {
            let id = RouterId::new([10, 0, 0, host as u8 + 1].into()).expect("not zero");
            let mut speaker = Speaker::new(Local::new(asns[host].into(), id), [host as u8; 32], now);
            let config = open_peer(host, 1 - host, asns[1 - host].into());
            speaker.handle(Input::SetPeers([(name(1 - host), config)].into()), now);
            while speaker.poll().is_some() {}
            speaker
        };
        let mut queues = BTreeMap::new();
        for conn in 0..2 {
            for host in 0..2 {
                queues.insert((conn, host), VecDeque::from([Mail::Connected]));
            }
        }
        Self { speakers: [speaker(0), speaker(1)], queues, now, lost: 0 }
    }

    fn ready(&self) -> Vec<(u64, usize)> {
        self.queues.iter().filter(|(_, queue)| !queue.is_empty()).map(|(key, _)| *key).collect()
    }

    /// Delivers the next thing to one end.
    fn deliver(&mut self, (conn, host): (u64, usize)) {
        let Some(mail) = self.queues.get_mut(&(conn, host)).and_then(VecDeque::pop_front) else { return };
        let id = ConnId(conn);
        let end = |host| SocketAddr::new(address(host), 179);
        let direction = if conn as usize == host { Direction::Active } else { Direction::Passive };
        let input = match &mail {
            Mail::Connected => Input::Connected {
                peer: name(1 - host),
                conn: id,
                local: end(host),
                remote: end(1 - host),
                direction,
            },
            Mail::Octets(bytes) => Input::Received { conn: id, bytes },
            Mail::Closed => Input::Closed { conn: id },
        };
        self.speakers[host].handle(input, self.now);
        while let Some(output) = self.speakers[host].poll() {
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
        let mut bytes = Vec::new();
        while self.speakers[host].transmit(conn, &mut bytes, 4096) {}
        if !bytes.is_empty() {
            self.queues.entry((conn.0, 1 - host)).or_default().push_back(Mail::Octets(bytes));
        }
    }

    fn established(&self) -> [bool; 2] {
        [0, 1].map(|host| self.speakers[host].snapshot(self.now).peers[0].state == PeerState::Established)
    }
}

/// Walks through all orders by counting in the mixed radix of the choices; returns how many there were.
fn every_order(limit: usize, mut visit: impl FnMut(&Crossing, &[usize]), asns: [u32; 2]) -> usize {
    let mut choices: Vec<(usize, usize)> = Vec::new();
    for round in 0.. {
        let mut crossing = Crossing::new(asns);
        let mut depth = 0;
        while let Some(radix) = Some(crossing.ready().len()).filter(|radix| *radix > 0) {
            if depth == choices.len() {
                choices.push((0, radix));
            }
            let end = crossing.ready()[choices[depth].0];
            crossing.deliver(end);
            depth += 1;
        }
        choices.truncate(depth);
        visit(&crossing, &choices.iter().map(|(choice, _)| *choice).collect::<Vec<_>>());
        while choices.last().is_some_and(|(choice, radix)| choice + 1 == *radix) {
            choices.pop();
        }
        match choices.last_mut() {
            Some((choice, _)) if round < limit => *choice += 1,
            _ => return round + 1,
        }
    }
    0
}

#[test]
fn in_every_order_exactly_one_connection_survives_on_both_sides() {
    for asns in [[64512, 64512], [64512, 65000], [65000, 64512]] {
        let orders = every_order(
            30_000,
            |crossing, order| {
                assert_eq!(crossing.established(), [true, true], "order {order:?}");
            },
            asns,
        );
        assert!(orders > 1000, "only {orders} orders");
    }
}

#[test]
fn in_random_orders_too_and_few_of_them_cost_a_session_that_was_up() {
    let mut dice = 1_u64;
    let mut lost = 0;
    for round in 0..5000 {
        let mut crossing = Crossing::new([64512, 65000]);
        while let Some(ready) = Some(crossing.ready()).filter(|ready| !ready.is_empty()) {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            crossing.deliver(ready[(dice >> 33) as usize % ready.len()]);
        }
        assert_eq!(crossing.established(), [true, true], "round {round}");
        lost += crossing.lost;
    }
    assert!(lost < 250, "{lost} sessions were lost");
}

#[test]
fn speakers_that_start_together_agree_whatever_the_latency() {
    for step in 0..200 {
        let mut world = World::with_seed(step as u8);
        world.latency = Duration::from_micros(37 * step);
        world.add(64512);
        world.add(64512);
        world.peer(0, 1);
        world.run(secs(10));
        assert!(world.is_up(0, 1), "latency {:?}", world.latency);
        let ups = world.states(0, 1).iter().filter(|state| **state == PeerState::Established).count();
        assert_eq!(ups, 1, "latency {:?}: {:?}", world.latency, world.states(0, 1));
    }
}

/// Both have dialled, and the peer, whose identifier is the higher, has sent its OPEN on our connection 1.
fn yielding() -> Script {
    let mut script = Script::new(|_| {});
    script.connect(1, Direction::Active);
    script.connect(2, Direction::Passive);
    assert_eq!(script.say(1, &Message::Open(open(PEER_ASN))), ["OpenConfirm"], "without a KEEPALIVE");
    script
}

#[test]
fn a_connection_that_will_lose_is_not_confirmed_and_goes_before_it_was_up() {
    let mut script = yielding();
    assert!(script.say(1, &Message::Keepalive).is_empty());
    let said = script.say(2, &Message::Open(open(PEER_ASN)));
    assert_eq!(said, ["NOTIFICATION 6/7", "close 1", "OpenSent", "OpenConfirm", "KEEPALIVE"]);
    script.say(2, &Message::Keepalive);
    assert_eq!(script.state(), "Established");
}

#[test]
fn a_connection_goes_on_when_nothing_comes_on_the_one_that_went_before_it() {
    let mut script = yielding();
    script.say(1, &Message::Keepalive);
    let said = script.wait(secs(2));
    assert_eq!(said.iter().filter(|word| *word == "KEEPALIVE").count(), 1, "{said:?}");
    assert_eq!(script.state(), "Established");
}

#[test]
fn a_connection_goes_on_at_once_when_the_one_that_went_before_it_is_closed() {
    let mut script = yielding();
    let said = script.input(Input::Closed { conn: ConnId(2) });
    assert!(said.iter().any(|word| word == "KEEPALIVE"), "{said:?}");
    assert_eq!(script.state(), "OpenConfirm");
    script.say(1, &Message::Keepalive);
    assert_eq!(script.state(), "Established");
}

#[test]
fn a_late_second_connection_does_not_disturb_a_session_without_graceful_restart() {
    let mut script = Script::new(|_| {});
    script.establish(open(PEER_ASN));
    script.wait(secs(5));
    assert_eq!(script.connect(2, Direction::Passive), ["OPEN"]);
    let said = script.say(2, &Message::Open(open(PEER_ASN)));
    assert_eq!(said, ["NOTIFICATION 6/7", "close 2", "KEEPALIVE"], "the old session is probed");
    assert_eq!(script.state(), "Established");
}

#[test]
fn a_late_second_connection_of_a_peer_with_graceful_restart_replaces_the_session() {
    let mut script = Script::new(|_| {});
    script.establish(restartable(PEER_ASN, false));
    script.wait(secs(5));
    script.connect(2, Direction::Passive);
    let said = script.say(2, &Message::Open(restartable(PEER_ASN, true)));
    assert_eq!(said, ["close 1", "OpenSent", "OpenConfirm", "KEEPALIVE"]);
    let said = script.say(2, &Message::Keepalive);
    assert_eq!(said, ["Established", "END ipv4-unicast", "END ipv6-unicast"]);
}

#[test]
fn an_open_that_is_no_good_does_not_replace_a_session() {
    let mut script = Script::new(|_| {});
    script.establish(restartable(PEER_ASN, false));
    script.wait(secs(5));
    script.connect(2, Direction::Passive);
    let said = script.say(2, &Message::Open(restartable(manx_bgp::Asn(1), true)));
    assert_eq!(said, ["NOTIFICATION 2/2", "close 2"]);
    assert_eq!(script.state(), "Established");
}

#[test]
fn the_newest_of_two_connections_that_the_peer_dialled_is_the_live_one() {
    let mut script = Script::new(|config| config.target = passive(config.target));
    script.connect(1, Direction::Passive);
    assert_eq!(
        script.connect(2, Direction::Passive),
        ["NOTIFICATION 6/7", "close 1", "Active", "OpenSent", "OPEN"]
    );
    script.say(2, &Message::Open(open(PEER_ASN)));
    script.say(2, &Message::Keepalive);
    assert_eq!(script.state(), "Established");
}

#[test]
fn a_peer_that_connects_in_a_storm_is_throttled() {
    let mut script = Script::new(|_| {});
    let mut taken = 0;
    for conn in 0..1000 {
        let said = script.connect(conn, Direction::Passive);
        taken += usize::from(said.contains(&"OPEN".to_owned()));
        script.input(Input::Closed { conn: ConnId(conn) });
        script.wait(Duration::from_millis(10));
    }
    assert!(taken <= 25, "{taken} connections were taken in ten seconds");
    script.wait(secs(30));
    script.connect(1001, Direction::Passive);
    script.say(1001, &Message::Open(open(PEER_ASN)));
    script.say(1001, &Message::Keepalive);
    assert_eq!(script.state(), "Established", "an honest attempt later succeeds");
    assert!(octets(&Message::Keepalive).len() == 19);
}

#[test]
fn a_third_connection_is_measured_against_the_session_that_is_up_not_against_one_that_still_waits() {
    let mut script = Script::new(|_| {});
    script.connect(1, Direction::Active);
    script.connect(2, Direction::Passive);
    script.say(2, &Message::Open(open(PEER_ASN)));
    script.say(2, &Message::Keepalive);
    assert_eq!(script.state(), "Established");
    script.wait(secs(5));
    script.connect(3, Direction::Passive);
    let said = script.say(3, &Message::Open(open(PEER_ASN)));
    assert_eq!(said[..2], ["NOTIFICATION 6/7", "close 3"], "{said:?}");
    assert_eq!(script.state(), "Established");
}
