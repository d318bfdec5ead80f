//! A network of speakers in virtual time: links with latency that can be cut, hosts that crash and come back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use manx_bgp::{
    Asn, ConnId, Dial, Direction, Event, Family, FamilyConfig, Gateway, Input, Local, NextHopMode, Output,
    PeerConfig, PeerId, PeerState, Policy, Prefix, RouterId, Speaker, StopReason,
};

use crate::kernel::{Kernel, Routes};

/// The place of a host in the world.
pub(crate) type Host = usize;

/// Any moment will do as the beginning.
#[expect(clippy::disallowed_methods, reason = "the only place where tests take a moment from outside")]
pub(crate) fn beginning() -> Instant {
    Instant::now()
}

pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().expect("valid in this test")
}

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn address(host: Host) -> IpAddr {
    IpAddr::from([10, 0, (host / 250) as u8, (host % 250) as u8 + 1])
}

pub(crate) fn v6_address(host: Host) -> IpAddr {
    IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, host as u16 + 1])
}

/// Where a host speaks BGP: at its address, or at the one that it has on the link of all.
fn end(host: Host, on_link: bool) -> SocketAddr {
    if !on_link {
        return SocketAddr::new(address(host), 179);
    }
    let address = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, host as u16 + 1);
    SocketAddr::V6(SocketAddrV6::new(address, 179, 0, World::ZONE))
}

pub(crate) fn name(host: Host) -> PeerId {
    PeerId::from(format!("host{host}"))
}

/// A peer's configuration that lets everything through.
pub(crate) fn open_peer(me: Host, other: Host, asn: Asn) -> PeerConfig {
    let family = |own| FamilyConfig::new(Policy::accept_all(), Policy::accept_all(), NextHopMode::Own(own));
    let mut config = PeerConfig::new(asn, SocketAddr::new(address(other), 179));
    config.source = Some(address(me));
    config.families.insert(Family::Ipv4Unicast, family(address(me)));
    config.families.insert(Family::Ipv6Unicast, family(v6_address(me)));
    config
}

/// One host with its speaker.
pub(crate) struct Node {
    pub(crate) speaker: Speaker,
    pub(crate) local: Local,
    pub(crate) peers: BTreeMap<PeerId, PeerConfig>,
    /// What the kernel would have.
    pub(crate) routes: Routes,
    kernel: Kernel,
    /// What it had and lost, in order.
    pub(crate) lost: Vec<Prefix>,
    /// All that happened, with its time.
    pub(crate) events: Vec<(Duration, Event)>,
    pub(crate) settled: Option<Duration>,
    pub(crate) routes_when_settled: usize,
    /// Dials asked for.
    pub(crate) dials: usize,
    /// Outputs of any kind.
    pub(crate) outputs: usize,
    alive: bool,
}

struct Conn {
    host: Host,
    other: ConnId,
    peer: Host,
}

enum Packet {
    Connected { host: Host, conn: ConnId, peer: Host, direction: Direction, on_link: bool },
    Refused { host: Host, peer: Host },
    Data { conn: ConnId, bytes: Vec<u8> },
    Closed { conn: ConnId },
}

/// All hosts, links and the clock.
pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) latency: Duration,
    conns: BTreeMap<ConnId, Conn>,
    /// Packets by time of arrival and order of sending.
    wire: BTreeMap<(Instant, u64), Packet>,
    cut: BTreeSet<(Host, Host)>,
    sent: u64,
    next_conn: u64,
    seed: u8,
    /// How much a socket takes at a time.
    pub(crate) chunk: usize,
    /// Peers declared from now on speak over link-local addresses.
    pub(crate) on_link: bool,
}

impl World {
    /// The link on which link-local addresses are.
    pub(crate) const ZONE: u32 = 3;

    pub(crate) fn new() -> Self {
        let start = beginning();
        Self {
            nodes: Vec::new(),
            start,
            now: start,
            latency: Duration::from_millis(1),
            conns: BTreeMap::new(),
            wire: BTreeMap::new(),
            cut: BTreeSet::new(),
            sent: 0,
            next_conn: 0,
            seed: 0,
            chunk: 4096,
            on_link: false,
        }
    }

    pub(crate) fn with_seed(seed: u8) -> Self {
        Self { seed, ..Self::new() }
    }

    /// Adds a host without peers.
    pub(crate) fn add(&mut self, asn: u32) -> Host {
        self.add_with(asn, |_| {})
    }

    /// As [`add`](Self::add), with changes to what holds for the host.
    pub(crate) fn add_with(&mut self, asn: u32, change: impl FnOnce(&mut Local)) -> Host {
        let host = self.nodes.len();
        let IpAddr::V4(id) = address(host) else { unreachable!("hosts have IPv4 addresses") };
        let mut local = Local::new(Asn(asn), RouterId::new(id).expect("valid in this test"));
        change(&mut local);
        let speaker = Speaker::new(local.clone(), self.seed_of(host), self.now);
        self.nodes.push(Node {
            speaker,
            local,
            peers: BTreeMap::new(),
            routes: Routes::new(),
            kernel: Kernel::default(),
            lost: Vec::new(),
            events: Vec::new(),
            settled: None,
            routes_when_settled: 0,
            dials: 0,
            outputs: 0,
            alive: true,
        });
        host
    }

    fn seed_of(&self, host: Host) -> [u8; 32] {
        let mut seed = [self.seed; 32];
        seed[0] = host as u8;
        seed
    }

    /// Configures a peering on both hosts and declares it.
    pub(crate) fn peer(&mut self, a: Host, b: Host) {
        self.peer_with(a, b, |_, _| {});
    }

    /// As [`peer`](Self::peer), with changes to what each host configures.
    pub(crate) fn peer_with(&mut self, a: Host, b: Host, change: impl Fn(Host, &mut PeerConfig)) {
        for (me, other) in [(a, b), (b, a)] {
            let mut config = open_peer(me, other, self.nodes[other].local.asn);
            if self.on_link {
                config.target = Dial::Active(end(other, true));
                config.source = Some(end(me, true).ip());
            }
            change(me, &mut config);
            self.nodes[me].peers.insert(name(other), config);
        }
        self.declare(a);
        self.declare(b);
    }

    /// Changes a configured peer and declares all peers of the host.
    pub(crate) fn reconfigure(&mut self, host: Host, other: Host, change: impl FnOnce(&mut PeerConfig)) {
        change(self.nodes[host].peers.get_mut(&name(other)).expect("valid in this test"));
        self.declare(host);
    }

    pub(crate) fn declare(&mut self, host: Host) {
        let peers = self.nodes[host].peers.clone();
        self.input(host, Input::SetPeers(peers));
    }

    pub(crate) fn originate(&mut self, host: Host, prefixes: &[&str]) {
        let origins = prefixes.iter().map(|text| (prefix(text), Default::default())).collect();
        self.input(host, Input::SetOrigins(origins));
    }

    /// Feeds a host and carries out what it says.
    pub(crate) fn input(&mut self, host: Host, input: Input<'_>) {
        let now = self.now;
        self.nodes[host].speaker.handle(input, now);
        self.drain(host);
    }

    fn drain(&mut self, host: Host) {
        while let Some(output) = self.nodes[host].speaker.poll() {
            let elapsed = self.now - self.start;
            let node = &mut self.nodes[host];
            node.outputs += 1;
            match output {
                Output::Connect { target, .. } => {
                    node.dials += 1;
                    self.dial(host, target);
                }
                Output::Abandon { .. } | Output::Adopted { .. } => {}
                Output::Writable { conn } => self.write(host, conn),
                Output::Close { conn } => {
                    self.write(host, conn);
                    self.hang_up(conn);
                }
                route @ (Output::Hops { .. } | Output::Route { .. }) => {
                    node.lost.extend(node.kernel.take(&route, &mut node.routes));
                }
                Output::Settled => {
                    node.routes_when_settled = node.routes.len();
                    assert_eq!(node.settled.replace(elapsed), None, "a speaker settles once");
                }
                Output::Event(event) => node.events.push((elapsed, event)),
            }
        }
    }

    fn dial(&mut self, host: Host, target: SocketAddr) {
        let on_link = target.is_ipv6();
        let peer = (0..self.nodes.len()).find(|other| end(*other, on_link) == target);
        let peer = peer.expect("peers are hosts");
        if self.cut.contains(&(host, peer)) {
            self.send_after(secs(5), Packet::Refused { host, peer });
        } else if !self.nodes[peer].alive {
            self.send_after(self.latency * 2, Packet::Refused { host, peer });
        } else {
            let (mine, theirs) = (ConnId(self.next_conn), ConnId(self.next_conn + 1));
            self.next_conn += 2;
            self.conns.insert(mine, Conn { host, other: theirs, peer });
            self.conns.insert(theirs, Conn { host: peer, other: mine, peer: host });
            let (active, passive) = (Direction::Active, Direction::Passive);
            let here =
                Packet::Connected { host: peer, conn: theirs, peer: host, direction: passive, on_link };
            let there = Packet::Connected { host, conn: mine, peer, direction: active, on_link };
            self.send_after(self.latency, here);
            self.send_after(self.latency * 2, there);
        }
    }

    fn write(&mut self, host: Host, conn: ConnId) {
        loop {
            let mut bytes = Vec::new();
            let more = self.nodes[host].speaker.transmit(conn, &mut bytes, self.chunk);
            assert!(bytes.len() <= self.chunk, "a budget is kept");
            assert!(!more || !bytes.is_empty(), "more remains but nothing comes");
            if let (false, Some(end)) = (bytes.is_empty(), self.conns.get(&conn)) {
                let (other, peer) = (end.other, end.peer);
                if !self.cut.contains(&(host, peer)) {
                    self.send_after(self.latency, Packet::Data { conn: other, bytes });
                }
            }
            if !more {
                return;
            }
        }
    }

    fn hang_up(&mut self, conn: ConnId) {
        if let Some(end) = self.conns.remove(&conn)
            && !self.cut.contains(&(end.host, end.peer))
        {
            self.send_after(self.latency, Packet::Closed { conn: end.other });
        }
    }

    fn send_after(&mut self, delay: Duration, packet: Packet) {
        self.sent += 1;
        self.wire.insert((self.now + delay, self.sent), packet);
    }

    fn deliver(&mut self, packet: Packet) {
        match packet {
            Packet::Connected { host, conn, peer, direction, on_link } => {
                if !self.nodes[host].alive || !self.conns.contains_key(&conn) {
                    return;
                }
                let (local, remote) = (end(host, on_link), end(peer, on_link));
                self.input(
                    host,
                    match direction {
                        Direction::Active => {
                            Input::Connected { peer: name(peer), conn, local, remote, direction }
                        }
                        Direction::Passive => Input::Accepted { conn, local, remote },
                    },
                );
            }
            Packet::Refused { host, peer } => {
                if self.nodes[host].alive {
                    self.input(host, Input::ConnectFailed { peer: name(peer) });
                }
            }
            Packet::Data { conn, bytes } => match self.conns.get(&conn) {
                Some(end) if self.nodes[end.host].alive => {
                    let host = end.host;
                    self.input(host, Input::Received { conn, bytes: &bytes });
                }
                // Nobody is there any more: the kernel answers with a reset.
                _ => self.reset_towards(conn),
            },
            Packet::Closed { conn } => {
                if let Some(end) = self.conns.remove(&conn)
                    && self.nodes[end.host].alive
                {
                    self.input(end.host, Input::Closed { conn });
                }
            }
        }
    }

    fn reset_towards(&mut self, gone: ConnId) {
        let sender = self.conns.iter().find(|(_, end)| end.other == gone).map(|(conn, _)| *conn);
        if let Some(conn) = sender {
            self.send_after(self.latency, Packet::Closed { conn });
        }
    }

    /// When something happens next.
    fn next(&self) -> Option<Instant> {
        let alive = self.nodes.iter().filter(|node| node.alive);
        let deadlines = alive.filter_map(|node| node.speaker.deadline());
        deadlines.chain(self.wire.first_key_value().map(|((due, _), _)| *due)).min()
    }

    /// Runs for this long.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.next()
            && next <= end
        {
            self.now = self.now.max(next);
            self.step();
        }
        self.now = end;
    }

    fn step(&mut self) {
        while let Some(entry) = self.wire.first_entry()
            && entry.key().0 <= self.now
        {
            let packet = entry.remove();
            self.deliver(packet);
        }
        for host in 0..self.nodes.len() {
            let node = &self.nodes[host];
            if node.alive && node.speaker.deadline().is_some_and(|due| due <= self.now) {
                self.input(host, Input::Timeout);
            }
        }
    }

    /// Packets between two hosts vanish; both keep their connections.
    pub(crate) fn cut(&mut self, a: Host, b: Host) {
        self.cut.extend([(a, b), (b, a)]);
        let conns = &self.conns;
        self.wire.retain(|_, packet| {
            let conn = match packet {
                Packet::Data { conn, .. } | Packet::Closed { conn } => *conn,
                Packet::Connected { .. } | Packet::Refused { .. } => return true,
            };
            conns.get(&conn).is_none_or(|end| ![(a, b), (b, a)].contains(&(end.host, end.peer)))
        });
    }

    pub(crate) fn mend(&mut self, a: Host, b: Host) {
        self.cut.remove(&(a, b));
        self.cut.remove(&(b, a));
    }

    /// The host's process dies; with `closes` its kernel tells the peers.
    pub(crate) fn crash(&mut self, host: Host, closes: bool) {
        self.nodes[host].alive = false;
        let mine: Vec<ConnId> =
            self.conns.iter().filter(|(_, end)| end.host == host).map(|(conn, _)| *conn).collect();
        for conn in mine {
            if closes {
                self.hang_up(conn);
            } else {
                self.conns.remove(&conn);
            }
        }
    }

    /// A new process on the host, with the same configuration.
    pub(crate) fn start(&mut self, host: Host, restarting: bool) {
        let mut local = self.nodes[host].local.clone();
        local.restarting = restarting;
        let speaker = Speaker::new(local, self.seed_of(host), self.now);
        let node = &mut self.nodes[host];
        node.speaker = speaker;
        node.alive = true;
        node.settled = None;
        node.routes.clear();
        node.kernel = Kernel::default();
        self.declare(host);
    }

    /// The host stops and its process ends.
    pub(crate) fn stop(&mut self, host: Host, reason: StopReason) {
        self.input(host, Input::Stop(reason));
        self.crash(host, true);
    }

    pub(crate) fn state(&self, host: Host, other: Host) -> PeerState {
        let snapshot = self.nodes[host].speaker.snapshot(self.now);
        snapshot.peers.iter().find(|peer| peer.peer == name(other)).expect("valid in this test").state
    }

    pub(crate) fn is_up(&self, a: Host, b: Host) -> bool {
        [(a, b), (b, a)].iter().all(|(me, other)| self.state(*me, *other) == PeerState::Established)
    }

    /// The next hops of a prefix in the kernel of a host.
    pub(crate) fn hops(&self, host: Host, text: &str) -> Vec<IpAddr> {
        self.gateways(host, text).into_iter().map(|gateway| gateway.address).collect()
    }

    /// The same with their links.
    pub(crate) fn gateways(&self, host: Host, text: &str) -> BTreeSet<Gateway> {
        self.nodes[host].routes.get(&prefix(text)).cloned().unwrap_or_default()
    }

    /// The states that a host's peer went through since `from`, and forgets nothing.
    pub(crate) fn states(&self, host: Host, other: Host) -> Vec<PeerState> {
        let events = self.nodes[host].events.iter();
        events
            .filter_map(|(_, event)| match event {
                Event::StateChanged { peer, to, .. } if *peer == name(other) => Some(*to),
                _ => None,
            })
            .collect()
    }

    /// The codes of the NOTIFICATIONs that a host sent.
    pub(crate) fn notifications_sent(&self, host: Host) -> Vec<(u8, u8)> {
        let events = self.nodes[host].events.iter();
        events
            .filter_map(|(_, event)| match event {
                Event::NotificationSent { code, subcode, .. } => Some((*code, *subcode)),
                _ => None,
            })
            .collect()
    }

    /// The codes of the NOTIFICATIONs that a host received.
    pub(crate) fn notifications_received(&self, host: Host) -> Vec<(u8, u8)> {
        let events = self.nodes[host].events.iter();
        events
            .filter_map(|(_, event)| match event {
                Event::NotificationReceived { code, subcode, .. } => Some((*code, *subcode)),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn forget_events(&mut self) {
        for node in &mut self.nodes {
            node.events.clear();
            node.lost.clear();
        }
    }
}

/// A world of two hosts that are peers of different systems.
pub(crate) fn pair() -> World {
    let mut world = World::new();
    world.add(64512);
    world.add(65000);
    world.peer(0, 1);
    world
}
