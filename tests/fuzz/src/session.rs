//! One speaker of ours and peers that keep no rule, under a script.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use manx_bgp::wire::{
    self, AddPathFamily, Announcement, AsPath, Attributes, Capability, Dialect, ExtendedNextHop, Framer,
    GracefulRestart, LongLivedFamily, Message, MessageType, NextHop, Nlri, Open, PathId, RefreshKind,
    RestartFamily, RouteRefresh, Side, Update,
};
use manx_bgp::{
    AddPath, Asn, ConnId, Dial, Direction, Families, Family, FamilyConfig, Gateway, HopSet, Input,
    LimitAction, Local, LocalAs, NextHopMode, Output, PeerConfig, PeerId, Policy, Prefix, RemoteAs, Role,
    RouterId, Speaker,
};

use crate::script::Script;
use crate::world::{beginning, secs};

const OUR_ASN: u32 = 64512;
/// The third peer is in our own system.
const PEER_ASNS: [u32; 3] = [65001, 4_200_000_001, OUR_ASN];
/// Outputs and timers that one input may cause before the speaker counts as spinning.
const PATIENCE: usize = 10_000;
/// Connections that are open at once; a script does not open more.
const CONNECTIONS: usize = 12;
/// After this nothing of a peer that is gone may be left.
const QUIET: u64 = 24 * 3600;

/// Octets are what happens.
pub fn session(octets: &[u8]) {
    let mut script = Script::new(octets);
    let mut bench = Bench::new(&mut script);
    while !script.is_over() {
        bench.happen(&mut script);
        bench.settle();
    }
    bench.nothing_outlives_its_peer();
}

struct Conn {
    peer: usize,
    /// Reads what we send: every octet of it must be sound.
    framer: Framer,
    /// Whether we have closed it: nothing may be sent any more, nothing is received.
    closed: bool,
}

/// The speaker and the world around it.
struct Bench {
    speaker: Speaker,
    now: Instant,
    conns: BTreeMap<ConnId, Conn>,
    next_conn: u64,
    dialling: BTreeSet<usize>,
    /// The sets of next hops that we were told.
    sets: BTreeMap<HopSet, BTreeSet<Gateway>>,
    /// The routes that we were told.
    told: BTreeMap<Prefix, HopSet>,
}

fn peer_name(peer: usize) -> PeerId {
    PeerId::from(format!("peer{peer}"))
}

/// Which of ours a peer is.
fn place_of(peer: &PeerId) -> usize {
    (0..3).find(|place| peer_name(*place) == *peer).expect("a peer of ours")
}

fn address(host: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, host])
}

fn end(host: u8, port: u16) -> SocketAddr {
    SocketAddr::new(address(host), port)
}

/// A peer with settings of any choice. The first may also be declared as a range that its address lies in.
fn config(peer: usize, script: &mut Script<'_>) -> PeerConfig {
    let flavour = script.u32();
    let bit = |n: u32| flavour >> n & 1 == 1;
    let some = |n: u32, value: u64| bit(n).then(|| secs(value));
    let target = end(peer as u8 + 1, 179);
    let mut config = PeerConfig::new(Asn(PEER_ASNS[peer]), target);
    if bit(0) {
        config.target = Dial::Passive(target);
    } else if bit(1) && peer == 0 {
        config.target = Dial::Range { prefix: "192.0.2.0/29".parse().expect("a prefix"), limit: 2 };
    }
    config.source = bit(2).then(|| address(100));
    config.keepalive = some(3, 1);
    config.delay_open = some(4, 5);
    config.long_lived = some(5, 600);
    config.damping = bit(6);
    config.reflector_client = bit(7);
    config.role = bit(8).then_some(Role::Peer);
    config.role_strict = bit(9);
    config.allow_own_as = u8::from(bit(10));
    config.remove_private_as = bit(11);
    config.local_as = bit(12).then_some(LocalAs { asn: Asn(65200), prepend: bit(13), replace: bit(14) });
    if bit(15) {
        config.graceful_restart = None;
    }
    if bit(16) {
        config.asn = RemoteAs::External;
    }
    let v6: Ipv6Addr = "2001:db8::100".parse().expect("an address");
    for (family, own) in [(Family::Ipv4Unicast, address(100)), (Family::Ipv6Unicast, v6.into())] {
        if family == Family::Ipv6Unicast && bit(17) {
            continue;
        }
        let import = if bit(18) { Policy::reject_all() } else { Policy::accept_all() };
        let next_hop = if bit(19) { NextHopMode::Keep } else { NextHopMode::Own(own) };
        let mut declared = FamilyConfig::new(import, Policy::accept_all(), next_hop);
        declared.limit.max = if bit(20) { 3 } else { 1000 };
        declared.limit.action = match (bit(21), bit(22)) {
            (false, _) => LimitAction::Restart(secs(30)),
            (true, false) => LimitAction::StayDown,
            (true, true) => LimitAction::Warn,
        };
        declared.add_path = AddPath { receive: bit(23), send: bit(24).then_some(2) };
        declared.extended_next_hop = bit(25);
        config.families.insert(family, declared);
    }
    config
}

impl Bench {
    fn new(script: &mut Script<'_>) -> Self {
        let router_id = RouterId::new(Ipv4Addr::new(192, 0, 2, 100)).expect("not zero");
        let mut local = Local::new(Asn(OUR_ASN), router_id);
        local.restarting = script.flag();
        let now = beginning();
        let mut bench = Self {
            speaker: Speaker::new(local, [script.octet(); 32], now),
            now,
            conns: BTreeMap::new(),
            next_conn: 0,
            dialling: BTreeSet::new(),
            sets: BTreeMap::new(),
            told: BTreeMap::new(),
        };
        bench.set_peers(script, 7);
        bench.settle();
        bench
    }

    fn set_peers(&mut self, script: &mut Script<'_>, which: u8) {
        let chosen = (0..3).filter(|peer| which >> peer & 1 == 1);
        let peers = chosen.map(|peer| (peer_name(peer), config(peer, script))).collect();
        self.feed(Input::SetPeers(peers));
    }

    fn feed(&mut self, input: Input<'_>) {
        self.speaker.handle(input, self.now);
    }

    fn happen(&mut self, script: &mut Script<'_>) {
        match script.below(14) {
            0 => self.now += script.pause(),
            1 => self.accept(script),
            2 => self.answer_dial(script),
            3 => self.say(script, |script, _| script.octets(4096).to_vec()),
            4 => self.say(script, |script, _| framed(script)),
            5 | 6 => self.say(script, open),
            7 => self.say(script, |_, _| encoded(&Message::Keepalive)),
            8 | 9 => self.say(script, update),
            10 => self.say(script, |script, _| refresh(script)),
            11 => self.hang_up(script),
            12 => {
                let which = script.octet();
                self.set_peers(script, which);
            }
            _ => self.decide(script),
        }
    }

    /// What the owner does beside declaring peers.
    fn decide(&mut self, script: &mut Script<'_>) {
        if script.flag() {
            let peer = peer_name(usize::from(script.below(3)));
            return self.feed(Input::Reset { peer });
        }
        let count = script.below(40);
        let origins = (0..count).map(|n| (prefix(n), Default::default())).collect();
        self.feed(Input::SetOrigins(origins));
    }

    fn accept(&mut self, script: &mut Script<'_>) {
        let peer = usize::from(script.below(3));
        self.connect(peer, Direction::Passive);
    }

    fn answer_dial(&mut self, script: &mut Script<'_>) {
        let Some(peer) = self.dialling.pop_first() else { return };
        if script.flag() {
            self.connect(peer, Direction::Active);
        } else {
            self.feed(Input::ConnectFailed { peer: peer_name(peer) });
        }
    }

    fn connect(&mut self, peer: usize, direction: Direction) {
        if self.conns.len() >= CONNECTIONS {
            return;
        }
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let mut framer = Framer::new();
        framer.allow_extended_messages();
        self.conns.insert(conn, Conn { peer, framer, closed: false });
        let (local, remote) = (end(100, 179), end(peer as u8 + 1, 40_000 + conn.0 as u16));
        match direction {
            Direction::Active => {
                self.feed(Input::Connected { peer: peer_name(peer), conn, local, remote, direction })
            }
            Direction::Passive => self.feed(Input::Accepted { conn, local, remote }),
        }
    }

    /// A connection out of those that are open.
    fn pick(&self, script: &mut Script<'_>) -> Option<ConnId> {
        let open: Vec<ConnId> =
            self.conns.iter().filter(|(_, conn)| !conn.closed).map(|(id, _)| *id).collect();
        open.get(usize::from(script.octet()).checked_rem(open.len())?).copied()
    }

    /// A peer says something on one of its connections.
    fn say(&mut self, script: &mut Script<'_>, message: impl FnOnce(&mut Script<'_>, usize) -> Vec<u8>) {
        let Some(conn) = self.pick(script) else { return };
        let peer = self.conns.get(&conn).map_or(0, |conn| conn.peer);
        let octets = message(script, peer);
        self.feed(Input::Received { conn, bytes: &octets });
    }

    fn hang_up(&mut self, script: &mut Script<'_>) {
        if let Some(conn) = self.pick(script) {
            self.conns.remove(&conn);
            self.feed(Input::Closed { conn });
        }
    }

    /// Carries out all that the speaker asks for now.
    fn settle(&mut self) {
        for _ in 0..PATIENCE {
            if let Some(output) = self.speaker.poll() {
                self.carry_out(output);
            } else if self.speaker.deadline().is_some_and(|due| due <= self.now) {
                self.feed(Input::Timeout);
            } else {
                return self.told_is_the_table();
            }
        }
        panic!("the speaker spins: {:?}", self.speaker.peers(self.now));
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Connect { peer, .. } => {
                self.dialling.insert(place_of(&peer));
            }
            Output::Abandon { peer } => {
                self.dialling.remove(&place_of(&peer));
            }
            Output::Writable { conn } => self.read(conn),
            Output::Close { conn } => {
                self.read(conn);
                self.conns.get_mut(&conn).into_iter().for_each(|conn| conn.closed = true);
                self.conns.remove(&conn);
            }
            Output::Hops { set, gateways } if gateways.is_empty() => {
                self.sets.remove(&set);
                self.told.retain(|_, told| *told != set);
            }
            Output::Hops { set, gateways } => drop(self.sets.insert(set, gateways)),
            Output::Route { prefix, set: None } => drop(self.told.remove(&prefix)),
            Output::Route { prefix, set: Some(set) } => {
                assert!(self.sets.contains_key(&set), "a prefix is in a set that was never told");
                self.told.insert(prefix, set);
            }
            Output::Adopted { .. } | Output::Settled | Output::Event(_) => {}
        }
    }

    /// Takes what is sent on a connection; every message must be whole and sound.
    fn read(&mut self, conn: ConnId) {
        let mut octets = Vec::new();
        for _ in 0..PATIENCE {
            if !self.speaker.transmit(conn, &mut octets, 4096) {
                break;
            }
        }
        let Some(known) = self.conns.get_mut(&conn) else {
            // The peer has closed it already: what was on its way is lost.
            return;
        };
        assert!(!known.closed || octets.is_empty(), "octets on a connection that we closed");
        let mut input = octets.as_slice();
        while let Some(frame) = known.framer.next(&mut input).expect("what we send is whole messages") {
            if frame.kind() != MessageType::Update {
                wire::decode(frame, &Dialect::BEFORE_OPEN).expect("what we send is sound");
            }
        }
    }

    fn told_is_the_table(&self) {
        let snapshot = self.speaker.snapshot(self.now);
        let table = snapshot.routes.into_iter().filter(|route| !route.next_hops.is_empty());
        let table: BTreeMap<_, _> = table.map(|route| (route.prefix, route.next_hops)).collect();
        let told: BTreeMap<_, _> =
            self.told.iter().map(|(prefix, set)| (*prefix, self.sets[set].clone())).collect();
        assert_eq!(told, table, "what was told is what the table has");
        for peer in &snapshot.peers {
            for (family, status) in &peer.families {
                assert!(status.accepted <= status.received, "{family} of {}", peer.peer);
            }
        }
    }

    fn nothing_outlives_its_peer(&mut self) {
        self.feed(Input::SetOrigins(BTreeMap::new()));
        self.feed(Input::SetPeers(BTreeMap::new()));
        self.settle();
        let end = self.now + secs(QUIET);
        for _ in 0..PATIENCE {
            let Some(due) = self.speaker.deadline().filter(|due| *due <= end) else { break };
            self.now = self.now.max(due) + Duration::from_millis(1);
            self.feed(Input::Timeout);
            self.settle();
        }
        self.now = end;
        self.settle();
        let left = self.speaker.snapshot(self.now);
        assert!(left.routes.is_empty() && left.peers.is_empty(), "left: {left:?}");
    }
}

fn prefix(n: u8) -> Prefix {
    let text = match n % 4 {
        0 => format!("10.0.{n}.0/24"),
        1 => format!("10.0.0.{}/30", n & !3),
        2 => format!("2001:db8:{n}::/48"),
        _ => format!("0.0.0.0/{}", n % 2),
    };
    text.parse().unwrap_or_else(|_| "192.0.2.0/24".parse().expect("a prefix"))
}

/// Any body behind a good header.
fn framed(script: &mut Script<'_>) -> Vec<u8> {
    let kind = script.octet();
    let body = script.octets(4096 - 19);
    let length = (body.len() as u16 + 19).to_be_bytes();
    [[0xff; 16].as_slice(), &length, &[kind], body].concat()
}

fn encoded(message: &Message) -> Vec<u8> {
    let dialect = Dialect { side: Side::External, families: Families::ALL, ..Dialect::BEFORE_OPEN };
    let mut octets = Vec::new();
    wire::encode(message, &dialect, &mut octets).expect("a message that can be written");
    octets
}

/// A good OPEN with capabilities of any choice.
fn open(script: &mut Script<'_>, peer: usize) -> Vec<u8> {
    let flags = script.u16();
    let bit = |n: u16| flags >> n & 1 == 1;
    let asn = Asn(PEER_ASNS[peer]);
    let both = [Family::Ipv4Unicast, Family::Ipv6Unicast];
    let mut capabilities = vec![Capability::FourOctetAs(asn)];
    for family in both.into_iter().filter(|family| bit(*family as u16)) {
        capabilities.push(Capability::Multiprotocol(family.into()));
    }
    let simple = [Capability::RouteRefresh, Capability::EnhancedRouteRefresh, Capability::ExtendedMessages];
    capabilities
        .extend(simple.into_iter().zip(2..).filter(|(_, n)| bit(*n)).map(|(capability, _)| capability));
    if bit(5) {
        let families = both.map(|family| RestartFamily { family: family.into(), forwarding: bit(6) });
        capabilities.push(Capability::GracefulRestart(GracefulRestart {
            restarting: bit(7),
            notification: bit(8),
            restart_secs: u16::from(script.octet()),
            families: families.to_vec(),
        }));
    }
    if bit(9) {
        capabilities.push(Capability::Role(script.below(6)));
    }
    if bit(10) {
        let families =
            both.map(|family| AddPathFamily { family: family.into(), mode: 1 + u8::from(bit(11)) * 2 });
        capabilities.push(Capability::AddPath(families.to_vec()));
    }
    if bit(12) {
        let stale_secs = u32::from(script.octet());
        let families =
            both.map(|family| LongLivedFamily { family: family.into(), forwarding: bit(6), stale_secs });
        capabilities.push(Capability::LongLivedGracefulRestart(families.to_vec()));
    }
    if bit(13) {
        let families = both.map(|family| ExtendedNextHop { family: family.into(), next_hop_afi: 2 });
        capabilities.push(Capability::ExtendedNextHop(families.to_vec()));
    }
    let router_id = RouterId::new(Ipv4Addr::new(192, 0, 2, 1 + script.below(120))).expect("not zero");
    let hold_secs = [0, 3, 90, 65535][usize::from(script.below(4))];
    encoded(&Message::Open(Open { asn, hold_secs, router_id, capabilities }))
}

/// A good UPDATE of a few prefixes, with attributes of any choice.
fn update(script: &mut Script<'_>, peer: usize) -> Vec<u8> {
    let flags = script.octet();
    let bit = |n: u8| flags >> n & 1 == 1;
    let prefixes: Vec<Prefix> = (0..script.below(6)).map(|_| prefix(script.octet())).collect();
    let family = if bit(0) { Family::Ipv6Unicast } else { Family::Ipv4Unicast };
    let path = PathId(if bit(7) { u32::from(script.below(3)) } else { 0 });
    let routes = prefixes.into_iter().filter(|prefix| prefix.family() == family);
    let routes: Vec<Nlri> = routes.map(|prefix| Nlri { prefix, path }).collect();
    let side = if PEER_ASNS[peer] == OUR_ASN { Side::Internal } else { Side::External };
    let paths_out = if bit(7) { Families::ALL } else { Families::NONE };
    let dialect = Dialect { side, families: Families::ALL, paths_out, ..Dialect::BEFORE_OPEN };
    let mut octets = Vec::new();
    if bit(1) || routes.is_empty() {
        let message = Message::Update(Update { withdrawn: routes, announced: Vec::new() });
        wire::encode(&message, &dialect, &mut octets).expect("a message that can be written");
        return octets;
    }
    let v6 = Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(script.octet()));
    let next_hop = match family {
        Family::Ipv4Unicast => NextHop::V4(Ipv4Addr::new(192, 0, 2, script.octet())),
        Family::Ipv6Unicast => {
            NextHop::V6 { address: v6, link_local: bit(2).then(|| "fe80::1".parse().expect("an address")) }
        }
    };
    let mut attributes = Attributes::new(next_hop);
    let asn = PEER_ASNS[peer];
    let path = match (asn == OUR_ASN, script.below(4)) {
        (true, 0) => String::new(),
        (true, n) => format!("{}", 65100 + u32::from(n)),
        (false, n) => {
            [asn, 65100, OUR_ASN, 65101][..1 + usize::from(n)].iter().map(|asn| format!("{asn} ")).collect()
        }
    };
    attributes.as_path = path.trim().parse::<AsPath>().expect("a path");
    attributes.local_pref = bit(3).then(|| script.u32());
    attributes.med = bit(4).then(|| script.u32());
    attributes.originator_id = bit(5).then(|| Ipv4Addr::from(script.u32()));
    attributes.communities =
        (0..script.below(4)).map(|_| manx_bgp::Community(0xffff_0000 | script.u32())).collect();
    let announced = vec![Announcement { attributes, prefixes: routes }];
    let message = Message::Update(Update { withdrawn: Vec::new(), announced });
    wire::encode(&message, &dialect, &mut octets).expect("a message that can be written");
    octets
}

fn refresh(script: &mut Script<'_>) -> Vec<u8> {
    let family = if script.flag() { Family::Ipv6Unicast } else { Family::Ipv4Unicast };
    let kinds = [
        RefreshKind::Request,
        RefreshKind::Begin,
        RefreshKind::End,
        RefreshKind::Unknown(script.octet().max(3)),
    ];
    let kind = kinds[usize::from(script.below(4))];
    encoded(&Message::RouteRefresh(RouteRefresh { family: family.into(), kind }))
}
