//! The owner of a host's speaker, as `agent/src/shell/bgp/drive.rs` has it.

use std::net::SocketAddr;
use std::sync::Arc;

use manx_agent::node::fib::Learned;
use manx_agent::node::intent::BgpIntent;
use manx_bgp::{ConnId, Direction, Event, Input, Local, Output, PeerId, Speaker, StopReason};

use crate::agent::Task;
use crate::wires::Dialling;
use crate::world::{Life, World};

/// The most that one write is given.
const CHUNK: usize = 64 << 10;
/// Batches of routes on their way to the owner of routes at once.
const BATCHES: usize = 4;
/// Routes in one of them.
const ROUTES: usize = 1024;

impl World {
    /// Which life of a speaker a host has, if any.
    pub(crate) fn bgp_of(&self, host: usize) -> Option<Life> {
        self.hosts[host].agent.as_ref().filter(|agent| agent.speaker.is_some()).map(|agent| agent.bgp_life)
    }

    pub(crate) fn bgp_turn(&mut self, host: usize) -> bool {
        let now = self.now;
        self.begin_speaker(host);
        let Some(agent) = self.agent(host) else { return false };
        if std::mem::take(&mut agent.bgp_changed) {
            self.adopt_intent(host);
        }
        let Some(agent) = self.agent(host) else { return false };
        if std::mem::take(&mut agent.origins_changed) {
            let origins = agent.origins.clone();
            self.tell_speaker(host, Input::SetOrigins(origins));
        }
        let Some(agent) = self.agent(host) else { return false };
        let deadline = agent.speaker.as_ref().and_then(Speaker::deadline);
        if deadline.is_some_and(|due| due <= now) {
            self.tell_speaker(host, Input::Timeout);
        }
        self.tell_routes(host);
        false
    }

    /// The first speaker of a life begins once it is known who we are.
    fn begin_speaker(&mut self, host: usize) {
        let now = self.now;
        let Some(agent) = self.agent(host) else { return };
        let (None, Some(bgp)) = (&agent.speaker, agent.bgp.clone()) else { return };
        let local = Local { restarting: agent.restarting, ..bgp.local.clone() };
        let number = self.noise.number();
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&number.to_be_bytes());
        let life = self.wires.next_life();
        let Some(agent) = self.agent(host) else { return };
        agent.speaker = Some(Speaker::new(local, seed, now));
        agent.bgp_life = life;
        agent.bgp_known = Some(bgp);
        agent.bgp_changed = false;
        let origins = agent.origins.clone();
        agent.origins_changed = false;
        self.declare_peers(host);
        self.tell_speaker(host, Input::SetOrigins(origins));
    }

    fn adopt_intent(&mut self, host: usize) {
        let Some(agent) = self.agent(host) else { return };
        let (Some(before), Some(after)) = (agent.bgp_known.clone(), agent.bgp.clone()) else { return };
        let identity = |local: &Local| (local.asn, local.router_id);
        if identity(&before.local) != identity(&after.local) {
            self.tell_speaker(host, Input::Stop(StopReason::Change));
            return self.replace_speaker(host);
        }
        if before.local != after.local {
            self.tell_speaker(host, Input::SetLocal(after.local.clone()));
        }
        // Whom we do not speak with any longer may still be needed by others; who is gone is not.
        for peer in before.nodes.difference(&after.nodes) {
            self.tell_speaker(host, Input::Dismiss { peer: peer.clone() });
        }
        let Some(agent) = self.agent(host) else { return };
        agent.bgp_known = Some(after);
        self.declare_peers(host);
    }

    fn declare_peers(&mut self, host: usize) {
        let Some(agent) = self.agent(host) else { return };
        let Some(intent): Option<Arc<BgpIntent>> = agent.bgp_known.clone() else { return };
        let peers = intent.peers.iter().map(|(id, peer)| (id.clone(), peer.config.clone())).collect();
        self.tell_speaker(host, Input::SetPeers(peers));
    }

    /// The speaker is gone: a fresh one follows.
    pub(crate) fn replace_speaker(&mut self, host: usize) {
        self.hang_up_all(host);
        let Some(agent) = self.agent(host).filter(|agent| agent.speaker.is_some()) else { return };
        agent.speaker = None;
        agent.restarting = true;
        agent.learned.push_back(vec![Learned::Restarted]);
        self.poke(host, Task::Kernel);
        self.poke(host, Task::Bgp);
    }

    /// Feeds the speaker and carries out what it says.
    pub(crate) fn tell_speaker(&mut self, host: usize, input: Input<'_>) {
        let now = self.now;
        let Some(speaker) = self.agent(host).and_then(|agent| agent.speaker.as_mut()) else { return };
        speaker.handle(input, now);
        while let Some(output) =
            self.agent(host).and_then(|agent| agent.speaker.as_mut()).and_then(Speaker::poll_sessions)
        {
            self.on_session(host, output);
        }
        self.tell_routes(host);
        let deadline = self.agent(host).and_then(|agent| agent.speaker.as_ref()?.deadline());
        if let Some(deadline) = deadline {
            self.wake_at(host, Task::Bgp, deadline);
        }
    }

    fn on_session(&mut self, host: usize, output: Output) {
        match output {
            Output::Connect { peer, target, source } => {
                let Some(bgp_life) = self.bgp_of(host) else { return };
                let source = source.unwrap_or(self.hosts[host].addresses[0]);
                let source = SocketAddr::new(source, 0);
                self.dial(Dialling { host, bgp_life, number: 0, peer, target, source });
            }
            Output::Abandon { peer } => self.abandon(host, &peer),
            Output::Adopted { conn, .. } => self.make_readable(conn),
            Output::Writable { conn } => self.fill(host, conn),
            Output::Close { conn } => {
                let mut last = Vec::new();
                if let Some(speaker) = self.agent(host).and_then(|agent| agent.speaker.as_mut()) {
                    speaker.transmit(conn, &mut last, CHUNK);
                }
                if !last.is_empty() {
                    self.send(conn, last);
                }
                self.hang_up(conn);
            }
            // These come by `poll_routes`.
            Output::Hops { .. } | Output::Route { .. } | Output::Settled => {}
            Output::Event(event) => self.on_bgp_event(host, &event),
        }
    }

    fn on_bgp_event(&mut self, host: usize, event: &Event) {
        match event {
            Event::StateChanged { peer, from, to } => {
                self.log(format_args!("node{host}: {peer}: {from:?} to {to:?}"));
            }
            // What one speaker of ours says no other finds fault with.
            Event::Fault { .. } | Event::NotificationSent { code: 1..=3 | 5 | 7, .. } => {
                self.violated("no fault between our own speakers", format!("node{host}: {event:?}"));
            }
            _ => {}
        }
    }

    /// Gives a writer what the speaker has for it.
    pub(crate) fn fill(&mut self, host: usize, conn: ConnId) {
        while self.has_window(conn) {
            let mut chunk = Vec::new();
            let Some(speaker) = self.agent(host).and_then(|agent| agent.speaker.as_mut()) else { return };
            speaker.transmit(conn, &mut chunk, CHUNK);
            if chunk.is_empty() {
                return;
            }
            self.send(conn, chunk);
        }
    }

    /// Hands routes to the owner of routes while it has room for them.
    fn tell_routes(&mut self, host: usize) {
        while let Some(agent) = self.agent(host).filter(|agent| agent.learned.len() < BATCHES) {
            let Some(speaker) = agent.speaker.as_mut() else { return };
            let outputs = std::iter::from_fn(|| speaker.poll_routes()).take(ROUTES);
            let batch: Vec<Learned> = outputs.filter_map(Learned::of).collect();
            if batch.is_empty() {
                return;
            }
            agent.learned.push_back(batch);
            self.poke(host, Task::Kernel);
        }
    }

    pub(crate) fn connected(
        &mut self,
        host: usize,
        conn: ConnId,
        peer: PeerId,
        (local, remote): (SocketAddr, SocketAddr),
    ) {
        let direction = Direction::Active;
        self.tell_speaker(host, Input::Connected { peer, conn, local, remote, direction });
    }

    pub(crate) fn accepted(&mut self, host: usize, conn: ConnId, local: SocketAddr, remote: SocketAddr) {
        self.tell_speaker(host, Input::Accepted { conn, local, remote });
    }

    pub(crate) fn connect_failed(&mut self, host: usize, peer: &PeerId) {
        self.tell_speaker(host, Input::ConnectFailed { peer: peer.clone() });
    }

    pub(crate) fn received(&mut self, host: usize, conn: ConnId, bytes: &[u8]) {
        self.tell_speaker(host, Input::Received { conn, bytes });
    }

    pub(crate) fn closed(&mut self, host: usize, conn: ConnId) {
        self.tell_speaker(host, Input::Closed { conn });
    }
}
