//! The owner loop of the speaker: sockets and time in, sockets, routes and log lines out.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use manx_bgp::{
    ConnId, Direction, Input, Local, OriginAttributes, Output, PeerId, PeerStatus, Prefix, Speaker,
    StopReason,
};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::conn::{CHUNK, Conn, Note};
use super::{Learned, Links, socket};
use crate::node::intent::BgpIntent;
use crate::shell::events;

/// Notes of connections that wait for the loop; together with [`CHUNK`] the bound on unread bytes.
const NOTES: usize = 64;
/// Notes handled before the loop looks at its timers again.
const NOTES_PER_TURN: usize = 32;
/// The least time between two published states of the sessions.
const PUBLISH_PAUSE: Duration = Duration::from_millis(250);

/// The state of all sessions, published when something about them changed.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    /// One entry per configured peer, in the order of their names.
    pub peers: Vec<PeerStatus>,
    /// The first exchange of routes after the start is over.
    pub settled: bool,
    /// When this state was taken.
    pub at: Option<Instant>,
}

/// A connection that the network brought us.
enum Arrival {
    Dialled { peer: PeerId, stream: std::io::Result<TcpStream> },
    Accepted(TcpStream),
}

/// Runs one speaker until the process stops or our own identity changes.
///
/// # Panics
/// When the speaker does; the caller starts a fresh one.
pub(super) async fn run(links: &mut Links, restarting: bool) {
    let Some(intent) = first_intent(links).await else { return };
    let seed = match seed() {
        Ok(seed) => seed,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "no randomness for the BGP speaker");
            return;
        }
    };
    let local = Local { restarting, ..intent.local.clone() };
    let speaker = Speaker::new(local, seed, Instant::now());
    let (notes_in, notes) = mpsc::channel(NOTES);
    let (arrivals_in, arrivals) = mpsc::channel(16);
    let mut turn = Turn {
        speaker,
        intent: Arc::clone(&intent),
        conns: BTreeMap::new(),
        unread: BTreeMap::new(),
        next_conn: 0,
        notes_in,
        arrivals_in,
        listeners: BTreeMap::new(),
        dirty: true,
    };
    turn.adopt_intent(intent);
    let origins = Arc::clone(&links.origins.borrow_and_update());
    turn.speaker.handle(Input::SetOrigins((*origins).clone()), Instant::now());
    turn.serve(links, notes, arrivals).await;
}

async fn first_intent(links: &mut Links) -> Option<Arc<BgpIntent>> {
    let stop = links.stop.clone();
    let known = stop.run_until_cancelled(links.intent.wait_for(Option::is_some)).await?;
    let intent = known.ok()?.clone();
    links.intent.mark_unchanged();
    intent
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
    conns: BTreeMap<ConnId, (PeerId, Conn)>,
    /// Accepted connections that have not found their peer yet; the speaker bounds their number.
    unread: BTreeMap<ConnId, TcpStream>,
    next_conn: u64,
    notes_in: mpsc::Sender<Note>,
    arrivals_in: mpsc::Sender<Arrival>,
    listeners: BTreeMap<SocketAddr, Listener>,
    /// Something about the sessions changed since they were published.
    dirty: bool,
}

/// A listening task, ended when the value is dropped.
struct Listener(JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Turn {
    async fn serve(
        &mut self,
        links: &mut Links,
        mut notes: mpsc::Receiver<Note>,
        mut arrivals: mpsc::Receiver<Arrival>,
    ) {
        let mut publish_at = Instant::now();
        loop {
            self.drain(links);
            if self.dirty && Instant::now() >= publish_at {
                self.publish(&links.sessions);
                publish_at = Instant::now() + PUBLISH_PAUSE;
            }
            let wake = earliest(self.speaker.deadline(), self.dirty.then_some(publish_at));
            tokio::select! {
                () = links.stop.cancelled() => return self.stop(),
                () = sleep_until(wake) => self.on_time(),
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
                Some(arrival) = arrivals.recv() => self.on_arrival(arrival),
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
        if self.speaker.deadline().is_some_and(|deadline| deadline <= now) {
            self.speaker.handle(Input::Timeout, now);
        }
    }

    /// Takes over a changed intent; false when our own identity changed, which a speaker cannot survive.
    fn adopt_intent(&mut self, intent: Arc<BgpIntent>) -> bool {
        if intent.local != self.intent.local {
            return false;
        }
        self.listen(&intent.listen);
        let peers = intent.peers.iter().map(|(id, peer)| (id.clone(), peer.config.clone())).collect();
        self.intent = intent;
        self.speaker.handle(Input::SetPeers(peers), Instant::now());
        self.dirty = true;
        true
    }

    /// Opens what is missing and closes what is no longer wanted. An address that cannot be bound
    /// is tried again with the next change; dialling works without it.
    fn listen(&mut self, wanted: &BTreeSet<SocketAddr>) {
        self.listeners.retain(|address, listener| wanted.contains(address) && !listener.0.is_finished());
        for address in wanted {
            if self.listeners.contains_key(address) {
                continue;
            }
            match socket::listen(*address) {
                Ok(listener) => {
                    let task = tokio::spawn(accept(listener, self.arrivals_in.clone()));
                    self.listeners.insert(*address, Listener(task));
                }
                Err(error) => tracing::error!(%error, %address, "BGP connections cannot be accepted"),
            }
        }
    }

    fn on_arrival(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Dialled { peer, stream: Ok(stream) } => self.connected(peer, stream),
            Arrival::Dialled { peer, stream: Err(error) } => {
                tracing::debug!(%peer, %error, "connecting failed");
                self.speaker.handle(Input::ConnectFailed { peer }, Instant::now());
            }
            Arrival::Accepted(stream) => {
                let (Ok(local), Ok(remote)) = (stream.local_addr(), stream.peer_addr()) else { return };
                let conn = self.next_conn();
                self.unread.insert(conn, stream);
                self.speaker.handle(Input::Accepted { conn, local, remote }, Instant::now());
            }
        }
    }

    /// An accepted connection has found its peer: it is read from now on.
    fn adopt(&mut self, conn: ConnId, peer: PeerId) {
        let Some(stream) = self.unread.remove(&conn) else { return };
        let transport = self.intent.peers.get(&peer).map(|peer| peer.transport.clone()).unwrap_or_default();
        if let Err(error) = socket::adopt(&stream, &transport) {
            tracing::warn!(%peer, %error, "an accepted connection cannot be used");
            self.speaker.handle(Input::Closed { conn }, Instant::now());
            return;
        }
        self.conns.insert(conn, (peer, Conn::start(conn, stream, self.notes_in.clone())));
        self.dirty = true;
    }

    fn next_conn(&mut self) -> ConnId {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        conn
    }

    fn connected(&mut self, peer: PeerId, stream: TcpStream) {
        let (Ok(local), Ok(remote)) = (stream.local_addr(), stream.peer_addr()) else {
            self.speaker.handle(Input::ConnectFailed { peer }, Instant::now());
            return;
        };
        let conn = self.next_conn();
        self.conns.insert(conn, (peer.clone(), Conn::start(conn, stream, self.notes_in.clone())));
        self.speaker.handle(
            Input::Connected { peer, conn, local, remote, direction: Direction::Active },
            Instant::now(),
        );
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
        while let Some(output) = self.speaker.poll() {
            match output {
                Output::Connect { peer, target, source } => self.dial(peer, target, source),
                Output::Adopted { conn, peer } => self.adopt(conn, peer),
                Output::Writable { conn } => self.fill(conn),
                Output::Close { conn } => self.close(conn),
                Output::Route { prefix, next_hops } => links.learned.send(Learned::Route(prefix), next_hops),
                Output::Settled => {
                    links.learned.send(Learned::Settled, BTreeSet::new());
                    self.dirty = true;
                }
                Output::Event(event) => {
                    events::log_bgp(&event, &links.metrics);
                    self.dirty = true;
                }
            }
        }
    }

    fn dial(&mut self, peer: PeerId, target: SocketAddr, source: Option<IpAddr>) {
        let transport = self.intent.peers.get(&peer).map(|peer| peer.transport.clone()).unwrap_or_default();
        let arrivals = self.arrivals_in.clone();
        tokio::spawn(async move {
            let stream = socket::dial(target, source, &transport).await;
            let _gone = arrivals.send(Arrival::Dialled { peer, stream }).await;
        });
    }

    fn close(&mut self, conn: ConnId) {
        self.unread.remove(&conn);
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
        sessions.send_replace(Arc::new(Sessions { peers, settled, at: Some(now) }));
        self.dirty = false;
    }

    /// The process ends: sessions close without a NOTIFICATION, so that peers keep forwarding.
    /// The kernel closes the sockets with the process.
    fn stop(&mut self) {
        self.speaker.handle(Input::Stop(StopReason::Restart), Instant::now());
        self.conns.clear();
    }

    /// Our identity changed: peers are told, since they must not keep routes of an AS that is no more.
    fn leave(&mut self, links: &Links) {
        let communication = "the configuration of this node changed".to_owned();
        self.speaker.handle(Input::Stop(StopReason::Leave { communication }), Instant::now());
        self.drain(links);
    }
}

async fn accept(listener: tokio::net::TcpListener, arrivals: mpsc::Sender<Arrival>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if arrivals.send(Arrival::Accepted(stream)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a BGP connection failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}
