//! `bench mesh`: what a route reflector for a large cluster costs, alone: its clients are octets written by hand.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use manx_bgp::{
    Asn, ConnId, Dial, Direction, Family, FamilyConfig, Input, Local, NextHopMode, Output, PeerConfig,
    PeerId, Policy, RouterId, Speaker,
};

use super::core::{memory_mib, processor_time};
use super::feed::{Table, opening};

const ASN: u32 = 64512;
const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const BUDGET: usize = 64 << 10;

/// Runs a reflector with so many clients, each with so many prefixes, and prints what it costs.
///
/// # Errors
/// When something is not told that must be.
pub fn run(clients: u32, prefixes: u32) -> Result<()> {
    let before = memory_mib("VmRSS")?;
    let mut bed = Bed::new(clients, prefixes);
    let up = bed.timed(Bed::connect)?;
    let connected = memory_mib("VmRSS")? - before;
    let cold = bed.timed(|bed| {
        (0..clients).for_each(|client| bed.announce(client, 1));
        bed.drain();
    })?;
    let octets = bed.octets;
    let least = u64::from(clients) * u64::from(clients - 1) * u64::from(prefixes) * 5;
    ensure!(octets > least, "only {octets} octets were told");
    let full = memory_mib("VmRSS")? - before;
    const CHANGES: u32 = 20;
    let change = bed.timed(|bed| {
        for client in 0..CHANGES {
            bed.announce(client, 2);
            bed.drain();
        }
    })?;
    println!(
        "a reflector, {clients} clients, {} prefixes: sessions {:.2} s of processor time; everybody hears of everything \
         {:.2} s, {:.0} MiB told; one client changes its {prefixes} prefixes and all hear of it {:.2} ms, {:.2} us a \
         client; {connected:.0} MiB with the sessions, {full:.0} MiB with the routes, at most {:.0} MiB",
        clients * prefixes,
        up.as_secs_f64(),
        cold.as_secs_f64(),
        octets as f64 / f64::from(1 << 20),
        change.as_secs_f64() * 1e3 / f64::from(CHANGES),
        change.as_secs_f64() * 1e6 / f64::from(CHANGES) / f64::from(clients),
        memory_mib("VmHWM")? - before,
    );
    Ok(())
}

struct Bed {
    speaker: Speaker,
    now: Instant,
    clients: u32,
    prefixes: u32,
    /// Connections that have something to send.
    writable: Vec<ConnId>,
    buffer: Vec<u8>,
    octets: u64,
}

impl Bed {
    fn new(clients: u32, prefixes: u32) -> Self {
        let now = Instant::now();
        let local = Local::new(Asn(ASN), RouterId::try_from(OURS).expect("a router id"));
        let speaker = Speaker::new(local, [9; 32], now);
        Self { speaker, now, clients, prefixes, writable: Vec::new(), buffer: Vec::new(), octets: 0 }
    }

    fn timed(&mut self, act: impl FnOnce(&mut Self)) -> Result<Duration> {
        let begin = processor_time()?;
        act(self);
        Ok(processor_time()? - begin)
    }

    fn connect(&mut self) {
        let peers = (0..self.clients).map(|client| (name(client), config(client)));
        self.handle(Input::SetPeers(peers.collect()));
        for client in 0..self.clients {
            let conn = ConnId(client.into());
            let (local, remote) = (SocketAddr::from((OURS, 179)), SocketAddr::from((address(client), 40000)));
            let direction = Direction::Passive;
            self.handle(Input::Connected { peer: name(client), conn, local, remote, direction });
            self.handle(Input::Received { conn, bytes: &opening(address(client), ASN, 90, &[1]) });
        }
        self.drain();
        self.octets = 0;
    }

    /// A client tells its prefixes, with a path of that length.
    fn announce(&mut self, client: u32, path: usize) {
        let first = Ipv4Addr::from(Ipv4Addr::new(100, 64, 0, 0).to_bits() + ((client * self.prefixes) << 6));
        let table = Table {
            asn: 65000,
            path,
            first,
            routes: self.prefixes,
            per_update: self.prefixes,
            next_hops: vec![address(client)],
        };
        self.handle(Input::Received { conn: ConnId(client.into()), bytes: &table.updates() });
    }

    fn handle(&mut self, input: Input<'_>) {
        self.speaker.handle(input, self.now);
        while let Some(output) = self.speaker.poll() {
            if let Output::Writable { conn } = output {
                self.writable.push(conn);
            }
        }
    }

    /// Lets every socket take all there is for it.
    fn drain(&mut self) {
        for conn in std::mem::take(&mut self.writable) {
            loop {
                self.buffer.clear();
                let more = self.speaker.transmit(conn, &mut self.buffer, BUDGET);
                self.octets += self.buffer.len() as u64;
                if !more {
                    break;
                }
            }
        }
    }
}

fn address(client: u32) -> Ipv4Addr {
    Ipv4Addr::from(OURS.to_bits() + 1 + client)
}

fn name(client: u32) -> PeerId {
    PeerId::from(format!("node/{client}"))
}

fn config(client: u32) -> PeerConfig {
    let own = NextHopMode::Own(IpAddr::V4(OURS));
    let family = FamilyConfig::new(Policy::accept_all(), Policy::accept_all(), own);
    let remote = SocketAddr::from((address(client), 179));
    let mut config = PeerConfig::new(Asn(ASN), remote);
    config.target = Dial::Passive(remote);
    config.reflector_client = true;
    config.families.insert(Family::Ipv4Unicast, family);
    config
}
