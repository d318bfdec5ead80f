//! A speaker against a script: every message by hand, every output seen.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use manx_bgp::wire::{
    self, AfiSafi, Announcement, AsPath, Attributes, Capability, Dialect, Framer, GracefulRestart, Message,
    NextHop, Open, RefreshKind, RestartFamily, RouteRefresh, Side, Update,
};
use manx_bgp::{
    Asn, ConnId, Dial, Direction, Event, Families, Family, Input, Local, Output, PeerConfig, PeerId,
    RouterId, Speaker,
};

use crate::world::{beginning, open_peer};

pub(crate) const ASN: Asn = Asn(64512);
pub(crate) const PEER_ASN: Asn = Asn(65000);

/// The connection of a BMP station, which the test reads for itself.
pub(crate) const STATION: ConnId = ConnId(77);

/// How both talk once the session is up.
pub(crate) const DIALECT: Dialect = Dialect {
    side: Side::External,
    families: Families::ALL,
    four_octet_as: true,
    extended_messages: false,
    extended_next_hop: false,
    paths_in: Families::NONE,
    paths_out: Families::NONE,
};

/// A speaker with one peer, which the test plays.
pub(crate) struct Script {
    pub(crate) speaker: Speaker,
    pub(crate) now: Instant,
    /// All events, in order.
    pub(crate) events: Vec<Event>,
    framers: BTreeMap<ConnId, Framer>,
}

pub(crate) fn peer() -> PeerId {
    "peer".into()
}

pub(crate) fn config() -> PeerConfig {
    open_peer(0, 1, PEER_ASN)
}

/// The peer's OPEN.
pub(crate) fn open(asn: Asn) -> Open {
    let families = Family::ALL.map(|family| Capability::Multiprotocol(family.into()));
    let mut capabilities = Vec::from(families);
    capabilities.extend([Capability::FourOctetAs(asn), Capability::RouteRefresh]);
    Open {
        asn,
        hold_secs: 90,
        router_id: RouterId::new([10, 0, 0, 9].into()).expect("not zero"),
        capabilities,
    }
}

/// The same with graceful restart.
pub(crate) fn restartable(asn: Asn, restarting: bool) -> Open {
    let mut open = open(asn);
    let entry = |family| RestartFamily { family: AfiSafi::from(family), forwarding: true };
    open.capabilities.push(Capability::GracefulRestart(GracefulRestart {
        restarting,
        notification: true,
        restart_secs: 60,
        families: Family::ALL.map(entry).to_vec(),
    }));
    open
}

pub(crate) fn octets(message: &Message) -> Vec<u8> {
    let mut octets = Vec::new();
    wire::encode(message, &DIALECT, &mut octets).expect("the message fits");
    octets
}

impl Script {
    /// The peer is declared, and dialled unless it is passive.
    pub(crate) fn new(change: impl FnOnce(&mut PeerConfig)) -> Self {
        let mut script = Self::empty();
        let mut config = config();
        change(&mut config);
        script.input(Input::SetPeers(BTreeMap::from([(peer(), config)])));
        script
    }

    /// No peer is declared.
    pub(crate) fn empty() -> Self {
        let now = beginning();
        let local = Local::new(ASN, RouterId::new([10, 0, 0, 1].into()).expect("not zero"));
        let speaker = Speaker::new(local, [5; 32], now);
        Self { speaker, now, events: Vec::new(), framers: BTreeMap::new() }
    }

    /// Announces a route of the peer.
    pub(crate) fn announce(&mut self, conn: u64, text: &str, asn: Asn) -> Vec<String> {
        let mut attributes = Attributes::new(NextHop::V4([10, 0, 0, 2].into()));
        attributes.as_path = AsPath::sequence([asn]);
        let prefixes = vec![crate::world::prefix(text)];
        let announced = vec![Announcement::new(attributes, prefixes)];
        self.say(conn, &Message::Update(Update { withdrawn: Vec::new(), announced }))
    }

    /// Feeds the speaker and returns everything that it says, one word or two for each thing.
    pub(crate) fn input(&mut self, input: Input<'_>) -> Vec<String> {
        self.speaker.handle(input, self.now);
        let mut said = Vec::new();
        while let Some(output) = self.speaker.poll() {
            if let Output::Event(event) = &output {
                self.events.push(event.clone());
            }
            match output {
                Output::Connect { .. } => said.push("dial".to_owned()),
                Output::Abandon { .. } => said.push("give up".to_owned()),
                Output::Adopted { conn, peer } => said.push(format!("adopt {} {peer}", conn.0)),
                Output::Writable { conn: STATION } => {}
                Output::Close { conn: STATION } => said.push("station closed".to_owned()),
                Output::Writable { conn } => said.extend(self.read(conn)),
                Output::Close { conn } => {
                    said.extend(self.read(conn));
                    said.push(format!("close {}", conn.0));
                }
                Output::Hops { .. } => {}
                Output::Route { prefix, set: None } => said.push(format!("lose {prefix}")),
                Output::Route { prefix, .. } => said.push(format!("use {prefix}")),
                Output::Settled => said.push("settled".to_owned()),
                Output::Event(Event::StateChanged { to, .. }) => said.push(to.to_string()),
                Output::Event(Event::Fault { action, .. }) => said.push(format!("fault: {action}")),
                Output::Event(Event::RoutesRetained { count, .. }) => said.push(format!("keep {count}")),
                Output::Event(Event::RoutesExpired { count, .. }) => said.push(format!("drop {count}")),
                Output::Event(Event::PeerVanished { .. }) => said.push("vanished".to_owned()),
                // The message itself is among what was read.
                Output::Event(_) => {}
            }
        }
        said
    }

    /// Takes everything that the speaker sends on a connection.
    pub(crate) fn read(&mut self, conn: ConnId) -> Vec<String> {
        let mut bytes = Vec::new();
        while self.speaker.transmit(conn, &mut bytes, 1000) {}
        let mut input = bytes.as_slice();
        let framer = self.framers.entry(conn).or_default();
        let mut said = Vec::new();
        while let Some(frame) = framer.next(&mut input).expect("good frames") {
            said.push(match wire::decode(frame, &DIALECT).expect("good messages").message {
                Message::Open(_) => "OPEN".to_owned(),
                Message::Keepalive => "KEEPALIVE".to_owned(),
                Message::EndOfRib(family) => format!("END {family}"),
                Message::RouteRefresh(RouteRefresh { kind: RefreshKind::Begin, .. }) => "BEGIN".to_owned(),
                Message::RouteRefresh(RouteRefresh { kind: RefreshKind::End, .. }) => {
                    "END OF REFRESH".to_owned()
                }
                Message::RouteRefresh(_) => "REFRESH".to_owned(),
                Message::Notification(sent) => {
                    format!("NOTIFICATION {}/{}", sent.code.code, sent.code.subcode)
                }
                Message::Update(update) => {
                    let told = update.announced.iter().flat_map(|one| &one.prefixes);
                    let told = told.map(|prefix| format!("+{prefix}"));
                    let gone = update.withdrawn.iter().map(|prefix| format!("-{prefix}"));
                    format!("UPDATE {}", told.chain(gone).collect::<Vec<_>>().join(" "))
                }
            });
        }
        said
    }

    pub(crate) fn connect(&mut self, conn: u64, direction: Direction) -> Vec<String> {
        let (local, remote): (SocketAddr, SocketAddr) =
            ("10.0.0.1:179".parse().expect("good"), "10.0.0.2:179".parse().expect("good"));
        self.input(Input::Connected { peer: peer(), conn: ConnId(conn), local, remote, direction })
    }

    pub(crate) fn say(&mut self, conn: u64, message: &Message) -> Vec<String> {
        self.input(Input::Received { conn: ConnId(conn), bytes: &octets(message) })
    }

    /// Lets time pass, waking the speaker whenever it asks for it.
    pub(crate) fn wait(&mut self, time: Duration) -> Vec<String> {
        let end = self.now + time;
        let mut said = Vec::new();
        while let Some(due) = self.speaker.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            said.extend(self.input(Input::Timeout));
        }
        self.now = end;
        said
    }

    /// Brings the session up on connection 1.
    pub(crate) fn establish(&mut self, theirs: Open) {
        self.connect(1, Direction::Active);
        if theirs.capabilities.contains(&Capability::ExtendedMessages) {
            self.framers.entry(ConnId(1)).or_default().allow_extended_messages();
        }
        self.say(1, &Message::Open(theirs));
        self.say(1, &Message::Keepalive);
    }

    pub(crate) fn state(&self) -> String {
        self.speaker.snapshot(self.now).peers.first().map_or_else(String::new, |peer| peer.state.to_string())
    }
}

/// The same peer, for whose connections we wait.
pub(crate) fn passive(target: Dial) -> Dial {
    match target {
        Dial::Active(address) => Dial::Passive(address),
        other => other,
    }
}
