//! `bench mesh`: many speakers in one process, joined in memory, in virtual time: what a cluster costs each of its
//! nodes, and what a route reflector costs.
//!
//! Octets arrive as soon as they are sent, and time passes only while nobody has anything to say; so the seconds that a
//! cluster needs are those that timers cost, and processor time is that of all its nodes on one core.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use manx_bgp::{
    Asn, ConnId, Dial, Direction, Family, FamilyConfig, Input, Local, NextHopMode, OriginAttributes, Output,
    PeerConfig, PeerId, Policy, Prefix, RouterId, Speaker,
};

use super::core::{memory_mib, processor_time};
use super::feed::HEADER;

/// The AS of all of them.
const ASN: Asn = Asn(64512);
/// More than a message: one call empties what a speaker has to say.
const BUDGET: usize = 64 << 10;
/// Virtual time after which a cluster that has not converged never will.
const NEVER: Duration = Duration::from_secs(600);

/// Who speaks with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Everybody with everybody.
    Mesh,
    /// The first one reflects for all others (RFC 4456).
    Reflector,
}

/// Runs one cluster and prints its line.
///
/// # Errors
/// When it does not converge.
pub fn run(shape: Shape, nodes: u32, prefixes: u32) -> Result<()> {
    let before = memory_mib("VmRSS")?;
    let begin = processor_time()?;
    let mut cluster = Cluster::new(shape, nodes, prefixes);
    cluster.converge()?;
    let cpu = processor_time()? - begin;
    let memory = memory_mib("VmRSS")? - before;
    let sessions = cluster.sessions();
    let prefixes_in_all = f64::from(nodes * prefixes);
    let name = match shape {
        Shape::Mesh => "full mesh",
        Shape::Reflector => "one reflector",
    };
    println!(
        "{name}: {nodes} nodes, {prefixes} prefixes each, {sessions} sessions: converged after {:.2} s of virtual time; \
         {:.2} s of processor time, {:.2} ms a node; {} UPDATEs sent, {:.2} for each prefix and node that has to hear \
         of it; {memory:.0} MiB, {:.2} KiB an end of a session",
        cluster.elapsed.as_secs_f64(),
        cpu.as_secs_f64(),
        cpu.as_secs_f64() * 1e3 / f64::from(nodes),
        cluster.updates,
        cluster.updates as f64 / prefixes_in_all / f64::from(nodes - 1),
        memory * 1024.0 / (2.0 * f64::from(sessions)),
    );
    Ok(())
}

/// Speakers and the octets between them.
struct Cluster {
    shape: Shape,
    speakers: Vec<Speaker>,
    /// To whom, from whom, what.
    wire: VecDeque<(u32, u32, Vec<u8>)>,
    /// Who dials whom.
    dials: VecDeque<(u32, SocketAddr)>,
    begin: Instant,
    elapsed: Duration,
    updates: u64,
    /// Routes known, of all that must be.
    known: u64,
    wanted: u64,
}

impl Cluster {
    fn new(shape: Shape, nodes: u32, prefixes: u32) -> Self {
        let begin = Instant::now();
        let mut cluster = Self {
            shape,
            speakers: Vec::new(),
            wire: VecDeque::new(),
            dials: VecDeque::new(),
            begin,
            elapsed: Duration::ZERO,
            updates: 0,
            known: 0,
            wanted: u64::from(nodes) * u64::from(nodes - 1) * u64::from(prefixes),
        };
        for node in 0..nodes {
            let local = Local::new(ASN, RouterId::try_from(address(node)).expect("a router id"));
            let mut seed = [0; 32];
            seed[..4].copy_from_slice(&node.to_be_bytes());
            let mut speaker = Speaker::new(local, seed, begin);
            let origins = (0..prefixes).map(|n| (block(node * prefixes + n), OriginAttributes::default()));
            speaker.handle(Input::SetOrigins(origins.collect()), begin);
            cluster.speakers.push(speaker);
        }
        for node in 0..nodes {
            let others = (0..nodes).filter(|other| *other != node && cluster.joined(node, *other));
            let peers: BTreeMap<PeerId, PeerConfig> =
                others.map(|other| (name(other), config(shape, node, other))).collect();
            cluster.handle(node, Input::SetPeers(peers));
        }
        cluster
    }

    fn joined(&self, a: u32, b: u32) -> bool {
        self.shape == Shape::Mesh || a == 0 || b == 0
    }

    fn sessions(&self) -> u32 {
        let nodes = self.speakers.len() as u32;
        match self.shape {
            Shape::Mesh => nodes * (nodes - 1) / 2,
            Shape::Reflector => nodes - 1,
        }
    }

    /// Lets time pass until everybody knows everything.
    fn converge(&mut self) -> Result<()> {
        loop {
            while let Some((node, target)) = self.dials.pop_front() {
                self.connect(node, target);
            }
            while let Some((to, from, bytes)) = self.wire.pop_front() {
                self.handle(to, Input::Received { conn: ConnId(from.into()), bytes: &bytes });
            }
            if self.known == self.wanted {
                return Ok(());
            }
            let next = self.speakers.iter().filter_map(Speaker::deadline).min();
            let next = next.map(|due| due - self.begin).unwrap_or(NEVER);
            ensure!(next < NEVER, "{} of {} routes are known", self.known, self.wanted);
            self.elapsed = self.elapsed.max(next);
            let now = self.begin + self.elapsed;
            for node in 0..self.speakers.len() as u32 {
                if self.speakers[node as usize].deadline().is_some_and(|due| due <= now) {
                    self.handle(node, Input::Timeout);
                }
            }
        }
    }

    fn handle(&mut self, node: u32, input: Input<'_>) {
        let now = self.begin + self.elapsed;
        let Some(speaker) = self.speakers.get_mut(node as usize) else { return };
        speaker.handle(input, now);
        while let Some(output) = speaker.poll() {
            match output {
                Output::Connect { target, .. } => self.dials.push_back((node, target)),
                Output::Route { set, .. } => {
                    self.known = if set.is_none() { self.known - 1 } else { self.known + 1 };
                }
                Output::Writable { conn } => loop {
                    let mut bytes = Vec::new();
                    let more = speaker.transmit(conn, &mut bytes, BUDGET);
                    self.updates += updates(&bytes);
                    self.wire.push_back((conn.0 as u32, node, bytes));
                    if !more {
                        break;
                    }
                },
                _ => {}
            }
        }
    }

    /// Each connection has the number of the node at its other end.
    fn connect(&mut self, node: u32, target: SocketAddr) {
        let IpAddr::V4(other) = target.ip() else { return };
        let other = other.to_bits() - address(0).to_bits();
        let ends = [SocketAddr::from((address(node), 40000)), target];
        let up = |peer: u32, local, remote, direction| Input::Connected {
            peer: name(peer),
            conn: ConnId(peer.into()),
            local,
            remote,
            direction,
        };
        self.handle(other, up(node, ends[1], ends[0], Direction::Passive));
        self.handle(node, up(other, ends[0], ends[1], Direction::Active));
    }
}

/// How many UPDATEs there are among whole messages.
fn updates(mut bytes: &[u8]) -> u64 {
    let mut count = 0;
    while let Some(header) = bytes.get(..HEADER) {
        count += u64::from(header[18] == 2);
        bytes = bytes.get(usize::from(u16::from_be_bytes([header[16], header[17]]))..).unwrap_or_default();
    }
    count
}

fn address(node: u32) -> Ipv4Addr {
    Ipv4Addr::from(Ipv4Addr::new(10, 0, 0, 1).to_bits() + node)
}

fn block(number: u32) -> Prefix {
    let address = Ipv4Addr::from(Ipv4Addr::new(100, 64, 0, 0).to_bits() + (number << 6));
    Prefix::masked(address.into(), 26).expect("a length of its family")
}

fn name(node: u32) -> PeerId {
    PeerId::from(format!("node{node}"))
}

/// The lesser of two dials.
fn config(shape: Shape, node: u32, other: u32) -> PeerConfig {
    let own = NextHopMode::Own(IpAddr::V4(address(node)));
    let family = FamilyConfig::new(Policy::accept_all(), Policy::accept_all(), own);
    let remote = SocketAddr::from((address(other), 179));
    let mut config = PeerConfig::new(ASN, remote);
    if other < node {
        config.target = Dial::Passive(remote);
    }
    config.source = Some(address(node).into());
    config.reflector_client = shape == Shape::Reflector && node == 0;
    config.families.insert(Family::Ipv4Unicast, family);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_clusters_converge_with_one_update_for_each_node_that_has_to_hear() -> Result<()> {
        for shape in [Shape::Mesh, Shape::Reflector] {
            let mut cluster = Cluster::new(shape, 8, 3);
            cluster.converge()?;
            assert_eq!(cluster.known, 8 * 7 * 3);
        }
        Ok(())
    }
}
