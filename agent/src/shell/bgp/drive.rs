//! The owner loop of the speaker: sockets and time in, sockets, routes and log lines out.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use manx_bgp::{
    ConnId, Dial, Direction, Input, Local, OriginAttributes, Output, PeerId, PeerState, PeerStatus, Prefix,
    Speaker, StopReason,
};
use manx_ipam::Standing;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::conn::{CHUNK, Conn, Note};
use super::listeners::Listeners;
use super::neighbors::{Found, Neighbors};
use super::questions::since_1970;
use super::stations::{Answered, Stations};
use super::{LearnedSender, Links, socket};
use crate::node::fib::Learned;
use crate::node::intent::{BgpIntent, PeerIntent, Problem, Transport};
use crate::shell::events;
use crate::shell::options::ListenAt;
use crate::shell::owner::NodeReport;
use crate::shell::wake::sleep_until;

/// Notes of connections that wait for the loop; together with [`CHUNK`] the bound on unread bytes.
const NOTES: usize = 64;
/// How long BGP waits for blocks that were handed over.
const BLOCKS_PATIENCE: Duration = Duration::from_secs(20);
/// Notes handled before the loop looks at its timers again.
const NOTES_PER_TURN: usize = 32;
/// Routes that go to the kernel's owner at once.
const ROUTES: usize = 1024;
/// The least time between two published states of the sessions.
const PUBLISH_PAUSE: Duration = Duration::from_millis(250);

/// The state of all sessions, published when something about them changed.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    /// One entry per configured peer, in the order of their names.
    pub peers: Vec<PeerStatus>,
    /// The first exchange of routes after the start is over.
    pub settled: bool,
    /// What is configured and this machine cannot do.
    pub problems: BTreeSet<Problem>,
    /// BMP stations that are connected.
    pub stations: usize,
    /// When this state was taken.
    pub at: Option<Instant>,
}

impl Sessions {
    /// How old this state is: what it says of times is counted from when it was taken.
    pub fn age(&self) -> Duration {
        self.at.map(|at| at.elapsed()).unwrap_or_default()
    }
}

/// Connections that the network brings us.
struct Arrivals {
    dialled: mpsc::Receiver<Dialled>,
    accepted: mpsc::Receiver<TcpStream>,
    answered: mpsc::Receiver<Answered>,
}

/// Who is at the other end of a connection.
enum Whose {
    Peer(PeerId),
    Station,
}

/// What became of dialling a peer, with the transport that it was dialled with.
struct Dialled {
    peer: PeerId,
    stream: std::io::Result<TcpStream>,
    transport: Transport,
}

/// Runs one speaker until the process stops or our own identity changes.
///
/// # Panics
/// When the speaker does; the caller starts a fresh one.
pub(super) async fn run(links: &mut Links, restarting: bool) {
    let Some(intent) = first_intent(links).await else { return };
    await_blocks(links).await;
    let seed = match seed() {
        Ok(seed) => seed,
        Err(error) => {
            tracing::error!(
                error = format!("{error:#}"),
                "the BGP speaker cannot start: there are no random numbers"
            );
            return;
        }
    };
    let local = Local { restarting, ..intent.local.clone() };
    let speaker = Speaker::new(local, seed, Instant::now());
    let (notes_in, notes) = mpsc::channel(NOTES);
    let (dialled_in, dialled) = mpsc::channel(16);
    let (accepted_in, accepted) = mpsc::channel(16);
    let (answered_in, answered) = mpsc::channel(4);
    let neighbors = Neighbors::new();
    let mut turn = Turn {
        speaker,
        intent: Arc::clone(&intent),
        conns: BTreeMap::new(),
        unread: BTreeMap::new(),
        next_conn: 0,
        notes_in,
        dialled_in,
        dials: BTreeMap::new(),
        listeners: Listeners::new(accepted_in),
        stations: Stations::new(answered_in),
        name: links.name.clone(),
        found: neighbors.subscribe(),
        neighbors,
        listen: links.listen.clone(),
        dirty: true,
        held: false,
    };
    turn.adopt_intent(intent);
    let origins = Arc::clone(&links.origins.borrow_and_update());
    turn.speaker.handle(Input::SetOrigins((*origins).clone()), Instant::now());
    turn.serve(links, notes, Arrivals { dialled, accepted, answered }).await;
}

async fn first_intent(links: &mut Links) -> Option<Arc<BgpIntent>> {
    let stop = links.stop.clone();
    let known = stop.run_until_cancelled(links.intent.wait_for(Option::is_some)).await?;
    let intent = known.ok()?.clone();
    links.intent.mark_unchanged();
    intent
}

/// Waits until the blocks that another network leaves to us are ours, for a while.
async fn await_blocks(links: &mut Links) {
    let Some(mut report) = links.ready.take() else { return };
    let has_all = |report: &Arc<NodeReport>| {
        let blocks = &report.usage.blocks;
        !blocks.is_empty() && blocks.iter().all(|block| block.standing != Standing::Claiming)
    };
    let all = tokio::time::timeout(BLOCKS_PATIENCE, report.wait_for(has_all));
    if links.stop.clone().run_until_cancelled(all).await.is_some_and(|all| all.is_err()) {
        tracing::warn!(
            "another network's links are there, and none of its blocks was handed over: BGP starts without (run manxctl migrate)"
        );
    }
}

fn seed() -> anyhow::Result<[u8; 32]> {
    let mut seed = [0; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut seed))
        .context("reading /dev/urandom")?;
    Ok(seed)
}

/// Everything that one speaker owns.
struct Turn {
    speaker: Speaker,
    intent: Arc<BgpIntent>,
    conns: BTreeMap<ConnId, (Whose, Conn)>,
    /// Accepted connections that have not found their peer yet; the speaker bounds their number.
    unread: BTreeMap<ConnId, TcpStream>,
    next_conn: u64,
    notes_in: mpsc::Sender<Note>,
    dialled_in: mpsc::Sender<Dialled>,
    /// What is being dialled.
    dials: BTreeMap<PeerId, AbortHandle>,
    listeners: Listeners,
    stations: Stations,
    /// What stations know us by.
    name: String,
    neighbors: Neighbors,
    found: watch::Receiver<Found>,
    listen: Vec<ListenAt>,
    /// Something about the sessions changed since they were published.
    dirty: bool,
    /// There are routes for which there was no room.
    held: bool,
}

impl Turn {
    async fn serve(&mut self, links: &mut Links, mut notes: mpsc::Receiver<Note>, mut arrivals: Arrivals) {
        let mut publish_at = Instant::now();
        loop {
            self.drain(links);
            self.count_announced(links);
            self.tell_routes(&links.learned);
            if self.dirty && Instant::now() >= publish_at {
                self.publish(&links.sessions);
                publish_at = Instant::now() + PUBLISH_PAUSE;
            }
            let deadlines =
                [self.speaker.deadline(), self.listeners.deadline(), self.dirty.then_some(publish_at)];
            let wake = deadlines.into_iter().flatten().min();
            tokio::select! {
                () = links.stop.cancelled() => return self.stop(),
                () = sleep_until(wake) => self.on_time(),
                // There is room again; who takes it is the next turn's business.
                Ok(room) = links.learned.reserve(), if self.held => drop(room),
                Ok(()) = links.intent.changed() => {
                    let intent = links.intent.borrow_and_update().clone();
                    if !intent.is_some_and(|intent| self.adopt_intent(intent)) {
                        return self.leave(links);
                    }
                }
                Ok(()) = links.origins.changed() => {
                    let origins: Arc<BTreeMap<Prefix, OriginAttributes>> = Arc::clone(&links.origins.borrow_and_update());
                    self.speaker.handle(Input::SetOrigins((*origins).clone()), Instant::now());
                }
                Ok(()) = self.found.changed() => self.declare_peers(),
                Some(dialled) = arrivals.dialled.recv() => self.on_dialled(dialled),
                Some(stream) = arrivals.accepted.recv() => self.on_accepted(stream),
                Some((address, stream)) = arrivals.answered.recv() => self.on_station(address, stream),
                Some(question) = links.questions.recv() => question.answer(&self.speaker),
                Some(note) = notes.recv() => {
                    self.on_note(note);
                    for _ in 1..NOTES_PER_TURN {
                        let Ok(note) = notes.try_recv() else { break };
                        self.on_note(note);
                    }
                }
            }
        }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        self.dirty |= self.listeners.on_time(now);
        if self.speaker.deadline().is_some_and(|deadline| deadline <= now) {
            self.speaker.handle(Input::Timeout, now);
        }
    }

    /// Where connections are accepted.
    fn listen(&self, intent: &BgpIntent) -> BTreeSet<SocketAddr> {
        if self.listen.is_empty() {
            return intent.listen.clone();
        }
        let at = |place: &ListenAt| SocketAddr::new(place.address, place.port.unwrap_or(intent.port));
        self.listen.iter().map(at).collect()
    }

    /// Takes over a changed intent; false when our own identity changed, which a speaker cannot survive.
    fn adopt_intent(&mut self, intent: Arc<BgpIntent>) -> bool {
        let identity = |local: &Local| (local.asn, local.router_id);
        if identity(&intent.local) != identity(&self.intent.local) {
            return false;
        }
        if intent.local != self.intent.local {
            self.speaker.handle(Input::SetLocal(intent.local.clone()), Instant::now());
        }
        let links = intent.peers.values().filter_map(|peer| peer.transport.interface.clone());
        self.neighbors.set(&links.collect());
        // Whom we do not speak with any longer may still be needed by others; who is gone is not.
        for peer in self.intent.nodes.difference(&intent.nodes) {
            self.speaker.handle(Input::Dismiss { peer: peer.clone() }, Instant::now());
        }
        self.intent = intent;
        self.change_transports();
        self.declare_peers();
        for conn in self.stations.set(&self.intent.stations) {
            self.conns.remove(&conn);
            self.speaker.handle(Input::Closed { conn }, Instant::now());
        }
        true
    }

    /// Tells the speaker of all peers whose addresses are known.
    fn declare_peers(&mut self) {
        let found = self.found.borrow_and_update().clone();
        let peers: BTreeMap<PeerId, PeerIntent> = self
            .intent
            .peers
            .iter()
            .filter_map(|(id, peer)| Some((id.clone(), located(peer, &found)?)))
            .collect();
        self.listeners.set(self.listen(&self.intent), &peers, Instant::now());
        let configs = peers.into_iter().map(|(id, peer)| (id, peer.config)).collect();
        self.speaker.handle(Input::SetPeers(configs), Instant::now());
        self.dirty = true;
    }

    /// What is configured and this machine cannot do.
    fn problems(&self) -> BTreeSet<Problem> {
        let found = self.found.borrow();
        let unknown = self.intent.peers.iter().filter_map(|(id, peer)| {
            let why = found.get(peer.transport.interface.as_ref()?)?.as_ref().err()?;
            Some(Problem::new("BGPPeer", id.as_str().trim_start_matches("peer/"), why.as_str()))
        });
        self.listeners.problems().chain(unknown).collect()
    }

    /// Connections follow their peers' transports without a reset. One that cannot is closed, since it is not what is
    /// configured.
    fn change_transports(&mut self) {
        let mut broken = Vec::new();
        for (id, (whose, conn)) in &mut self.conns {
            let Whose::Peer(peer) = whose else { continue };
            let Some(wanted) = self.intent.transport(peer) else { continue };
            if let Err(error) = conn.change(wanted) {
                tracing::warn!(%peer, %error, "a connection cannot take its new key or TTL and is made anew");
                broken.push(*id);
            }
        }
        for conn in broken {
            self.conns.remove(&conn);
            self.speaker.handle(Input::Closed { conn }, Instant::now());
        }
    }

    fn on_accepted(&mut self, stream: TcpStream) {
        let (Ok(local), Ok(remote)) = (stream.local_addr(), stream.peer_addr()) else { return };
        let conn = self.next_conn();
        self.unread.insert(conn, stream);
        self.speaker.handle(Input::Accepted { conn, local, remote }, Instant::now());
    }

    /// An accepted connection has found its peer: it is read from now on.
    fn adopt(&mut self, conn: ConnId, peer: PeerId) {
        let Some(stream) = self.unread.remove(&conn) else { return };
        let transport = self.intent.transport(&peer).cloned().unwrap_or_default();
        let adopted = socket::adopt(&stream, &transport);
        match adopted.and_then(|()| Conn::start(conn, stream, transport, self.notes_in.clone())) {
            Ok(entry) => {
                self.conns.insert(conn, (Whose::Peer(peer), entry));
            }
            Err(error) => {
                tracing::warn!(%peer, %error, "a connection that a peer opened cannot be used and is closed; the peer dials again");
                self.speaker.handle(Input::Closed { conn }, Instant::now());
            }
        }
        self.dirty = true;
    }

    fn next_conn(&mut self) -> ConnId {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        conn
    }

    fn on_dialled(&mut self, Dialled { peer, stream, transport }: Dialled) {
        self.dials.remove(&peer);
        // While it was being made, its peer's transport may have changed.
        let wanted = self.intent.transport(&peer).unwrap_or(&transport).clone();
        let conn = self.next_conn();
        let started = stream.and_then(|stream| {
            let ends = (stream.local_addr()?, stream.peer_addr()?);
            let mut entry = Conn::start(conn, stream, transport, self.notes_in.clone())?;
            entry.change(&wanted)?;
            Ok((ends, entry))
        });
        match started {
            Ok(((local, remote), entry)) => {
                self.conns.insert(conn, (Whose::Peer(peer.clone()), entry));
                let connected = Input::Connected { peer, conn, local, remote, direction: Direction::Active };
                self.speaker.handle(connected, Instant::now());
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "connecting failed");
                self.speaker.handle(Input::ConnectFailed { peer }, Instant::now());
            }
        }
        self.dirty = true;
    }

    /// A BMP station answered: it is told of everything from now on.
    fn on_station(&mut self, address: SocketAddr, stream: TcpStream) {
        let conn = self.next_conn();
        if !self.stations.connected(address, conn) {
            return;
        }
        match Conn::start(conn, stream, Transport::default(), self.notes_in.clone()) {
            Ok(entry) => {
                self.conns.insert(conn, (Whose::Station, entry));
                let description = concat!("manx-agent ", env!("CARGO_PKG_VERSION"));
                let monitor = Input::Monitor { conn, name: &self.name, description, unix: since_1970() };
                self.speaker.handle(monitor, Instant::now());
            }
            Err(error) => {
                tracing::warn!(%address, %error, "the connection to a BMP station cannot be used; it is tried again");
                self.stations.closed(conn);
            }
        }
        self.dirty = true;
    }

    fn on_note(&mut self, note: Note) {
        let now = Instant::now();
        match note {
            // Bytes of a connection that the speaker closed meanwhile are nobody's.
            Note::Received(conn, bytes) if self.conns.contains_key(&conn) => {
                self.speaker.handle(Input::Received { conn, bytes: &bytes }, now);
                self.dirty = true;
            }
            Note::Written(conn) => {
                if let Some((_, entry)) = self.conns.get_mut(&conn) {
                    entry.busy = false;
                    self.fill(conn);
                }
            }
            Note::Closed(conn) if self.conns.remove(&conn).is_some() => {
                self.speaker.handle(Input::Closed { conn }, now);
                self.stations.closed(conn);
                self.dirty = true;
            }
            Note::Received(..) | Note::Closed(_) => {}
        }
    }

    /// Gives an idle writer what the speaker has for it.
    fn fill(&mut self, conn: ConnId) {
        let Some((_, entry)) = self.conns.get_mut(&conn) else { return };
        if entry.busy {
            return;
        }
        let mut chunk = Vec::new();
        self.speaker.transmit(conn, &mut chunk, CHUNK);
        if !chunk.is_empty() {
            entry.write(chunk);
        }
    }

    fn drain(&mut self, links: &Links) {
        while let Some(output) = self.speaker.poll_sessions() {
            match output {
                Output::Connect { peer, target, source } => self.dial(peer, target, source),
                Output::Abandon { peer } => self.hang_up(&peer),
                Output::Adopted { conn, peer } => self.adopt(conn, peer),
                Output::Writable { conn } => self.fill(conn),
                Output::Close { conn } => self.close(conn),
                // These come by `poll_routes`.
                Output::Hops { .. } | Output::Route { .. } | Output::Settled => {}
                Output::Event(event) => {
                    events::log_bgp(&event, &links.metrics);
                    self.dirty = true;
                }
            }
        }
    }

    /// What new blocks took until they were handed to the sockets of the sessions that are up.
    fn count_announced(&self, links: &mut Links) {
        let asked = Arc::clone(&links.asked.borrow());
        let now = Instant::now();
        let is_up = |peer: &PeerStatus| peer.state == PeerState::Established;
        if links.lag.waits(&asked) && self.speaker.peers(now).iter().any(is_up) {
            links.lag.heard(&asked, now).into_iter().for_each(|took| links.metrics.announced(took));
        }
    }

    /// Hands routes to the kernel's owner while it has room for them.
    fn tell_routes(&mut self, learned: &LearnedSender) {
        self.held = false;
        while let Ok(room) = learned.try_reserve() {
            let outputs = std::iter::from_fn(|| self.speaker.poll_routes()).take(ROUTES);
            let batch: Vec<Learned> = outputs.filter_map(Learned::of).collect();
            if batch.is_empty() {
                return;
            }
            self.dirty |= batch.last() == Some(&Learned::Settled);
            room.send(batch);
        }
        self.held = !learned.is_closed();
    }

    fn dial(&mut self, peer: PeerId, target: SocketAddr, source: Option<IpAddr>) {
        let transport = self.intent.transport(&peer).cloned().unwrap_or_default();
        let dialled = self.dialled_in.clone();
        let name = peer.clone();
        let task = tokio::spawn(async move {
            let stream = socket::dial(target, source, &transport).await;
            let _gone = dialled.send(Dialled { peer, stream, transport }).await;
        });
        if let Some(before) = self.dials.insert(name, task.abort_handle()) {
            before.abort();
        }
    }

    fn hang_up(&mut self, peer: &PeerId) {
        if let Some(task) = self.dials.remove(peer) {
            task.abort();
        }
    }

    fn close(&mut self, conn: ConnId) {
        self.unread.remove(&conn);
        self.stations.closed(conn);
        let Some((_, entry)) = self.conns.remove(&conn) else { return };
        let mut last = Vec::new();
        // A last NOTIFICATION fits into one chunk; a peer that does not read loses what is behind it.
        self.speaker.transmit(conn, &mut last, CHUNK);
        entry.close(last);
        self.dirty = true;
    }

    fn publish(&mut self, sessions: &watch::Sender<Arc<Sessions>>) {
        let now = Instant::now();
        let (peers, settled) = (self.speaker.peers(now), self.speaker.settled());
        let (problems, stations) = (self.problems(), self.stations.count_connected());
        sessions.send_replace(Arc::new(Sessions { peers, settled, problems, stations, at: Some(now) }));
        self.dirty = false;
    }

    /// The process ends: sessions close without a NOTIFICATION, so that peers keep forwarding.
    /// The kernel closes the sockets with the process.
    fn stop(&mut self) {
        self.speaker.handle(Input::Stop(StopReason::Restart), Instant::now());
        self.conns.clear();
    }

    /// Our identity changed. The next speaker is there at once: peers that agreed to keep our routes over a restart do.
    fn leave(&mut self, links: &Links) {
        self.speaker.handle(Input::Stop(StopReason::Change), Instant::now());
        self.drain(links);
    }
}

/// The peer with the address that was found on its link, if it is one of a link; `None` while none is known.
fn located(peer: &PeerIntent, found: &Found) -> Option<PeerIntent> {
    let Some(link) = &peer.transport.interface else { return Some(peer.clone()) };
    let neighbor = found.get(link)?.as_ref().ok()?;
    let mut peer = peer.clone();
    let target = |port| SocketAddr::V6(SocketAddrV6::new(neighbor.address, port, 0, neighbor.link));
    peer.config.target = match peer.config.target {
        Dial::Passive(place) => Dial::Passive(target(place.port())),
        Dial::Active(place) => Dial::Active(target(place.port())),
        range @ Dial::Range { .. } => range,
    };
    peer.config.source = Some(neighbor.own.into());
    Some(peer)
}
