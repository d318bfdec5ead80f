//! Two speakers on real sockets of this machine, with a BMP station that is a plain listener.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use manx_bgp::wire::{self, Capability, Dialect, Framer, GracefulRestart, Message, MessageType, Open};
use manx_bgp::{
    Asn, Dial, Family, FamilyConfig, Local, NextHopMode, PeerConfig, PeerId, PeerState, Policy, RouterId,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;
use crate::node::intent::{PeerIntent, Transport};

const A: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);
const B: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 2);

/// A speaker on its own thread, ended with the value.
struct Running {
    intent: watch::Sender<Option<Arc<BgpIntent>>>,
    origins: watch::Sender<Arc<BTreeMap<Prefix, OriginAttributes>>>,
    sessions: watch::Receiver<Arc<Sessions>>,
    asker: Asker,
    stop: CancellationToken,
    learned: LearnedReceiver,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        self.learned.close();
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

fn peer(own: u8, target: Dial, source: Option<IpAddr>) -> PeerIntent {
    // A next hop out of 127.0.0.0/8 would be a fault.
    let own = NextHopMode::Own(Ipv4Addr::new(198, 51, 100, own).into());
    let family = FamilyConfig::new(Policy::accept_all(), Policy::accept_all(), own);
    let config = PeerConfig {
        target,
        source,
        families: BTreeMap::from([(Family::Ipv4Unicast, family)]),
        ..PeerConfig::new(Asn(64512), SocketAddr::new(A.into(), 1))
    };
    PeerIntent { config, transport: Transport::default() }
}

fn start_speaker(
    own: Ipv4Addr,
    port: u16,
    peers: BTreeMap<PeerId, PeerIntent>,
    stations: &[SocketAddr],
) -> Running {
    let local = Local::new(Asn(64512), RouterId::new(own).expect("not zero"));
    let intent = BgpIntent {
        local,
        listen: BTreeSet::from([SocketAddr::new(own.into(), port)]),
        port,
        peers,
        nodes: BTreeSet::new(),
        stations: stations.iter().copied().collect(),
    };
    let intent = watch::Sender::new(Some(Arc::new(intent)));
    let origins = watch::Sender::default();
    let sessions = watch::Sender::default();
    let (learned_in, learned) = learned();
    let (asker, questions) = questions();
    let stop = CancellationToken::new();
    let links = Links {
        ready: None,
        name: format!("node-{own}"),
        intent: intent.subscribe(),
        origins: origins.subscribe(),
        asked: watch::Sender::default().subscribe(),
        lag: Lag::default(),
        learned: learned_in,
        sessions: sessions.clone(),
        listen: Vec::new(),
        questions,
        metrics: Metrics::default(),
        stop: stop.clone(),
    };
    let thread = Some(start(links, false).expect("a thread"));
    Running { intent, origins, sessions: sessions.subscribe(), asker, stop, learned, thread }
}

/// A speaker A, and a speaker B that dials it and announces 192.0.2.0/24.
fn a_pair(stations: &[SocketAddr]) -> (Running, Running) {
    let free = std::net::TcpListener::bind((A, 0)).and_then(|socket| socket.local_addr()).expect("a port");
    let port = free.port();
    let of_a = peer(1, Dial::Passive(SocketAddr::new(B.into(), port)), None);
    let a = start_speaker(A, port, BTreeMap::from([(PeerId::from("node/b"), of_a)]), stations);
    let of_b = peer(2, Dial::Active(SocketAddr::new(A.into(), port)), Some(B.into()));
    let b = start_speaker(B, port, BTreeMap::from([(PeerId::from("node/a"), of_b)]), &[]);
    let origin = BTreeMap::from([("192.0.2.0/24".parse().expect("a prefix"), OriginAttributes::default())]);
    b.origins.send_replace(Arc::new(origin));
    (a, b)
}

async fn within<T>(what: &str, done: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), done)
        .await
        .unwrap_or_else(|_| panic!("{what}: not in time"))
}

async fn has_route(running: &mut Running) {
    let up = running.sessions.wait_for(|sessions| {
        let up = sessions.peers.iter().filter(|peer| peer.state == PeerState::Established);
        up.flat_map(|peer| peer.families.values()).any(|family| family.accepted == 1)
    });
    within("the route", up).await.expect("the speaker runs");
}

/// The kind of the next BMP message, and what follows its common header.
async fn message(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 6];
    within("a message", stream.read_exact(&mut head)).await.expect("a header");
    assert_eq!(head[0], 3, "the version of BMP");
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let mut body = vec![0; length - head.len()];
    within("a body", stream.read_exact(&mut body)).await.expect("a body");
    (head[5], body)
}

fn holds(body: &[u8], what: &[u8]) -> bool {
    body.windows(what.len()).any(|part| part == what)
}

#[tokio::test]
async fn a_station_is_told_who_we_are_who_peers_with_us_and_what_they_announce() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let station = listener.local_addr().expect("bound");
    let (mut a, b) = a_pair(&[station]);
    let (mut stream, _) = within("the station is dialled", listener.accept()).await.expect("a connection");

    let (kind, body) = message(&mut stream).await;
    assert_eq!(kind, 4, "Initiation");
    assert!(holds(&body, b"manx-agent ") && holds(&body, b"node-127.0.1.1"));
    let (kind, body) = message(&mut stream).await;
    assert_eq!(kind, 3, "Peer Up");
    assert!(holds(&body, &B.octets()) && holds(&body, b"node/b"));
    let told = loop {
        let (kind, body) = message(&mut stream).await;
        assert_eq!(kind, 0, "Route Monitoring");
        if holds(&body, &[24, 192, 0, 2]) {
            break body;
        }
    };
    assert!(holds(&told, &B.octets()));
    assert_eq!(a.sessions.wait_for(|sessions| sessions.stations == 1).await.expect("runs").stations, 1);

    drop(b);
    loop {
        if message(&mut stream).await.0 == 2 {
            break;
        }
    }
    a.intent.send_modify(|intent| {
        let intent = Arc::make_mut(intent.as_mut().expect("there is one"));
        intent.stations.clear();
    });
    let mut rest = Vec::new();
    within("the connection ends", stream.read_to_end(&mut rest)).await.expect("without an error");
}

#[tokio::test]
async fn a_station_that_comes_late_is_told_what_is_there() {
    let place = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let station = place.local_addr().expect("bound");
    let (mut a, _b) = a_pair(&[]);
    has_route(&mut a).await;
    drop(place);
    let listener = TcpListener::bind(station).await.expect("the port is free again");
    a.intent.send_modify(|intent| {
        Arc::make_mut(intent.as_mut().expect("there is one")).stations.insert(station);
    });
    let (mut stream, _) = within("the station is dialled", listener.accept()).await.expect("a connection");
    let mut kinds = Vec::new();
    loop {
        let (kind, body) = message(&mut stream).await;
        kinds.push(kind);
        if kind == 0 && holds(&body, &[24, 192, 0, 2]) {
            break;
        }
    }
    assert_eq!(kinds, [4, 3, 0]);
}

#[tokio::test]
async fn the_speaker_explains_and_dumps_what_it_knows() {
    let (mut a, _b) = a_pair(&[]);
    has_route(&mut a).await;
    let explained = a.asker.explain("192.0.2.0/24".parse().expect("a prefix")).await.expect("an answer");
    assert!(explained.to_string().contains("path of node/b: best"), "{explained}");
    let dump = a.asker.mrt().await.expect("an answer");
    assert!(holds(&dump, &[24, 192, 0, 2]), "the prefix is in the dump");
}

#[tokio::test]
async fn bgpdump_reads_a_dump() {
    if std::process::Command::new("bgpdump").arg("-v").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "bgpdump is not installed: cargo xtask setup");
        println!("skipped: bgpdump is not installed");
        return;
    }
    let (mut a, _b) = a_pair(&[]);
    has_route(&mut a).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("table.mrt");
    std::fs::write(&file, a.asker.mrt().await.expect("an answer")).expect("written");
    let read = std::process::Command::new("bgpdump").arg("-m").arg(&file).output().expect("it runs");
    let text = String::from_utf8_lossy(&read.stdout);
    let line = text.lines().next().expect("a line");
    assert!(line.contains("|B|127.0.1.2|64512|192.0.2.0/24||IGP|198.51.100.2|"), "{line}");
}

/// Whether the kernel waits for an answer to a connection to this port.
fn is_dialled(port: u16) -> bool {
    // The remote end and the state SYN_SENT (proc_net_tcp(5)).
    let line = format!(":{port:04X} 02 ");
    std::fs::read_to_string("/proc/net/tcp").expect("a table").contains(&line)
}

/// A listener that has as many connections waiting as it may: those that come are not answered.
fn a_deaf_listener() -> (socket2::Socket, std::net::TcpStream) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(B.into(), 0).into()).expect("a port");
    socket.listen(0).expect("listening");
    let there = socket.local_addr().expect("bound").as_socket().expect("an address");
    (socket, std::net::TcpStream::connect(there).expect("the only one"))
}

/// An OPEN of B's with graceful restart.
fn open_of_b() -> Vec<u8> {
    let restart =
        GracefulRestart { restarting: false, notification: false, restart_secs: 60, families: vec![] };
    let open = Open {
        asn: Asn(64512),
        hold_secs: 90,
        router_id: RouterId::new(B).expect("not zero"),
        capabilities: vec![
            Capability::Multiprotocol(Family::Ipv4Unicast.into()),
            Capability::FourOctetAs(Asn(64512)),
            Capability::GracefulRestart(restart),
        ],
    };
    let mut octets = Vec::new();
    wire::encode(&Message::Open(open), &Dialect::BEFORE_OPEN, &mut octets).expect("it fits");
    octets
}

#[tokio::test]
async fn a_dial_that_is_not_answered_is_given_up_before_the_peer_that_came_first_sees_a_session() {
    let (deaf, _full) = a_deaf_listener();
    let target = deaf.local_addr().expect("bound").as_socket().expect("an address");
    let free = std::net::TcpListener::bind((A, 0)).and_then(|socket| socket.local_addr()).expect("a port");
    let to_b = peer(1, Dial::Active(target), None);
    let _a = start_speaker(A, free.port(), BTreeMap::from([(PeerId::from("node/b"), to_b)]), &[]);
    let until = async |wanted: bool| {
        let mut pulse = tokio::time::interval(Duration::from_millis(10));
        while is_dialled(target.port()) != wanted {
            pulse.tick().await;
        }
    };
    within("the dial", until(true)).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(B.into(), 0)).expect("free");
    let mut from_b = within("a listener", socket.connect(free)).await.expect("a connection");
    from_b.write_all(&open_of_b()).await.expect("written");
    let (mut heard, mut framer) = ([0; 4096], Framer::new());
    let mut kinds = Vec::new();
    while kinds.len() < 2 {
        let length = within("an answer", from_b.read(&mut heard)).await.expect("read");
        assert_ne!(length, 0, "it was closed after {kinds:?}");
        let mut input = &heard[..length];
        while let Some(frame) = framer.next(&mut input).expect("good frames") {
            kinds.push(frame.kind());
        }
    }
    assert_eq!(kinds, [MessageType::Open, MessageType::Keepalive]);
    // Long before it would end by itself.
    let ended = tokio::time::timeout(Duration::from_secs(2), until(false)).await;
    assert!(ended.is_ok(), "it is still being dialled");
}
