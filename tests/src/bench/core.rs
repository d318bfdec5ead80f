//! `bench core`: what the speaker itself costs, without sockets and tasks: one session feeds a table, another one is
//! told all of it, in one thread.
//!
//! Each run is a process of its own, so that its memory is its own. Time is processor time of the thread: other load
//! on the machine shows less in it than on the wall's clock.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use manx_bgp::{
    Asn, ConnId, Dial, Direction, Family, FamilyConfig, Input, Local, NextHopMode, Output, PeerConfig,
    PeerId, Policy, RouterId, Speaker,
};
use serde_json::{Value, json};

use super::feed;
use super::internet::{Internet, Towards};
use super::median;

const OURS: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
const FEEDER: (ConnId, Ipv4Addr, u32) = (ConnId(0), Ipv4Addr::new(10, 98, 0, 2), 65100);
const SINK: (ConnId, Ipv4Addr, u32) = (ConnId(1), Ipv4Addr::new(10, 98, 0, 3), 65200);
/// As much as the agent reads at once.
const CHUNK: usize = 64 << 10;

/// What is measured, in the order of the phases.
const COLUMNS: [&str; 6] = ["announce s", "change s", "withdraw s", "told MiB", "held MiB", "peak MiB"];

/// Runs each size `runs` times and prints the medians.
pub fn run(sizes: &[u32], runs: usize) -> Result<()> {
    print!("{:<10} {:>4}", "routes", "runs");
    COLUMNS.iter().for_each(|column| print!(" {column:>12}"));
    println!();
    for routes in sizes {
        let samples = (0..runs).map(|_| child(*routes)).collect::<Result<Vec<_>>>()?;
        print!("{routes:<10} {runs:>4}");
        for column in COLUMNS {
            let values: Vec<f64> = samples.iter().filter_map(|sample| sample[column].as_f64()).collect();
            print!(" {:>12.4}", median(&values));
        }
        println!();
    }
    Ok(())
}

fn child(routes: u32) -> Result<Value> {
    let program = std::env::current_exe().context("finding this program")?;
    let output = Command::new(program).args(["core", "--once", "--routes", &routes.to_string()]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("reading the figures of one run")
}

/// Runs one size here and prints its figures.
pub fn once(sizes: &[u32]) -> Result<()> {
    let routes = *sizes.first().context("no size")?;
    let towards = |host| Towards::V4(Ipv4Addr::new(10, 98, 0, host));
    let table = Internet { asn: FEEDER.2, routes, towards: towards(2), edition: 1 };
    let announced = table.updates();
    let changed = Internet { towards: towards(4), edition: 2, ..table }.updates();
    let withdrawn = table.withdrawals();
    let before = memory_mib("VmRSS")?;
    let mut bed = Bed::new();
    let (announce, told) = bed.feed(&announced)?;
    ensure!(told > routes as usize * 4, "only {told} octets were told to the other peer");
    let held = memory_mib("VmRSS")? - before;
    let (change, _) = bed.feed(&changed)?;
    let (withdraw, _) = bed.feed(&withdrawn)?;
    let peak = memory_mib("VmHWM")? - before;
    let values = [announce, change, withdraw, told as f64 / f64::from(1 << 20), held, peak];
    let figures: serde_json::Map<String, Value> =
        COLUMNS.iter().zip(values).map(|(column, value)| ((*column).to_owned(), json!(value))).collect();
    println!("{}", Value::Object(figures));
    Ok(())
}

/// A speaker with both sessions up.
struct Bed {
    speaker: Speaker,
    now: Instant,
    buffer: Vec<u8>,
}

impl Bed {
    fn new() -> Self {
        let now = Instant::now();
        let local = Local::new(Asn(65001), RouterId::try_from(OURS).expect("a router id"));
        let mut bed = Self { speaker: Speaker::new(local, [7; 32], now), now, buffer: Vec::new() };
        let peers = [FEEDER, SINK].map(|(_, address, asn)| (name(address), config(address, asn)));
        bed.speaker.handle(Input::SetPeers(peers.into()), now);
        for (conn, address, asn) in [FEEDER, SINK] {
            let (local, remote) = (SocketAddr::from((OURS, 179)), SocketAddr::from((address, 40000)));
            let peer = name(address);
            bed.handle(Input::Connected { peer, conn, local, remote, direction: Direction::Passive });
            bed.handle(Input::Received { conn, bytes: &feed::opening(address, asn, 90, &[1]) });
        }
        bed
    }

    /// Feeds octets as they would be read; returns the seconds that it took and the octets told to the other peer.
    fn feed(&mut self, bytes: &[u8]) -> Result<(f64, usize)> {
        let begin = processor_time()?;
        let mut told = 0;
        for chunk in bytes.chunks(CHUNK) {
            told += self.handle(Input::Received { conn: FEEDER.0, bytes: chunk });
        }
        Ok(((processor_time()? - begin).as_secs_f64(), told))
    }

    /// Returns how many octets the speaker had to send.
    fn handle(&mut self, input: Input<'_>) -> usize {
        self.speaker.handle(input, self.now);
        let mut told = 0;
        while let Some(output) = self.speaker.poll() {
            let Output::Writable { conn } = output else { continue };
            loop {
                self.buffer.clear();
                let more = self.speaker.transmit(conn, &mut self.buffer, CHUNK);
                told += self.buffer.len();
                if !more {
                    break;
                }
            }
        }
        told
    }
}

fn name(address: Ipv4Addr) -> PeerId {
    PeerId::from(address.to_string())
}

fn config(address: Ipv4Addr, asn: u32) -> PeerConfig {
    let own = NextHopMode::Own(IpAddr::V4(OURS));
    let family = FamilyConfig::new(Policy::accept_all(), Policy::accept_all(), own);
    let remote = SocketAddr::from((address, 179));
    let mut config = PeerConfig::new(Asn(asn), remote);
    config.target = Dial::Passive(remote);
    config.families.insert(Family::Ipv4Unicast, family);
    config
}

/// Processor time of this thread so far. The kernel brings its account up to date when the thread gives way.
pub(super) fn processor_time() -> Result<Duration> {
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split_whitespace().next().context("an empty account")?.parse()?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// A line of /proc/self/status in MiB.
pub(super) fn memory_mib(field: &str) -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line =
        status.lines().find(|line| line.starts_with(field)).context("no such field of /proc/self/status")?;
    let kib: f64 = line.split_whitespace().nth(1).context("an empty field")?.parse()?;
    Ok(kib / 1024.0)
}
