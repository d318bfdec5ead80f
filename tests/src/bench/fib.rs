//! `bench fib`: how long a table takes from the wire into the kernel, and to change when its next hop dies, beside
//! BIRD on the same feed.
//!
//! Each daemon has a namespace of its own and the same wire to a namespace of feeders. The clock starts with the first
//! octet of the table and stops when the kernel of the daemon's namespace holds all routes.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::Row;
use super::feed::{Session, Table};
use crate::lab::{Lab, Options, netns, wait};

/// The AS of the feeders.
const FEED_ASN: u32 = 65100;
/// Patience for anything that is not measured.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first of the networks that are fed; all of them are inside the pool.
const FIRST: Ipv4Addr = Ipv4Addr::new(20, 0, 0, 0);

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Routes in the table.
    pub routes: u32,
    /// Runs of each daemon.
    pub runs: usize,
}

/// A daemon under test, ready to take sessions from the feeders.
struct Subject<'a> {
    name: &'a str,
    /// Its namespace.
    netns: String,
    /// The namespace of its feeders.
    feed: String,
    /// The process whose processor time counts.
    process: &'a str,
    /// The address on which it takes sessions.
    address: Ipv4Addr,
}

/// What one run measured.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    seconds: f64,
    cpu_seconds: f64,
    peak_mib: f64,
}

/// Runs the benchmark with daemons of its own.
pub fn run(size: Size) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for next_hops in [1, 2000] {
        let what = format!("{} routes over {next_hops} next hops, wire to kernel", size.routes);
        let target = if next_hops == 1 { "<= 0.4" } else { "<= 0.15" };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..size.runs {
            ours.push(manx(|subject| load(subject, size.routes, next_hops))?);
            theirs.push(bird(|subject| load(subject, size.routes, next_hops))?);
        }
        rows.extend(compare(&what, target, &ours, &theirs));
    }
    let what = format!("next hop of {} routes dies, second path exists", size.routes);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..size.runs {
        ours.push(manx(|subject| reroute(subject, size.routes))?);
        theirs.push(bird(|subject| reroute(subject, size.routes))?);
    }
    rows.extend(compare(&what, "<= 1/100", &ours, &theirs).into_iter().take(1));
    Ok(rows)
}

fn compare(what: &str, target: &'static str, ours: &[Sample], theirs: &[Sample]) -> Vec<Row> {
    let row = |what: String, unit, target, pick: fn(&Sample) -> f64| Row {
        what,
        peer: "BIRD 2".to_owned(),
        ours: ours.iter().map(pick).collect(),
        theirs: theirs.iter().map(pick).collect(),
        unit,
        target,
    };
    vec![
        row(what.to_owned(), "s", target, |sample| sample.seconds),
        row("  processor time, user and system".to_owned(), "s", target, |sample| sample.cpu_seconds),
        row("  peak memory".to_owned(), "MiB", "", |sample| sample.peak_mib),
    ]
}

/// Feeds one table and waits until the kernel has it.
fn load(subject: &Subject<'_>, routes: u32, next_hops: u16) -> Result<Sample> {
    let hops = (0..next_hops).map(|n| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 98, 8, 0)) + u32::from(n)));
    let table = Table {
        asn: FEED_ASN,
        path: 1,
        first: FIRST,
        routes,
        per_update: if next_hops == 1 { 6 } else { 4 },
        next_hops: hops.collect(),
    };
    let bytes = table.updates();
    let mut session = subject.session(2)?;
    let before = cpu_seconds(&subject.netns, subject.process)?;
    let start = kernel_prefixes(&subject.netns)?;
    let begin = Instant::now();
    let sender = std::thread::spawn(move || session.send(&bytes).map(|()| session));
    wait_fast(|| Ok(kernel_prefixes(&subject.netns)? >= start + u64::from(routes)))?;
    let seconds = begin.elapsed().as_secs_f64();
    sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??.close()?;
    let cpu_seconds = cpu_seconds(&subject.netns, subject.process)? - before;
    Ok(Sample { seconds, cpu_seconds, peak_mib: peak_mib(&subject.netns, subject.process)? })
}

/// Feeds the table twice, the second time with a longer path by another next hop, ends the first session, and waits
/// until the kernel uses the second next hop.
fn reroute(subject: &Subject<'_>, routes: u32) -> Result<Sample> {
    let table = |path: usize, hop| Table {
        asn: FEED_ASN,
        path,
        first: FIRST,
        routes,
        per_update: 6,
        next_hops: vec![Ipv4Addr::new(10, 98, 8, hop)],
    };
    let (best, second) = (table(1, 1), table(3, 2));
    let start = kernel_prefixes(&subject.netns)?;
    let mut first_session = subject.session(2)?;
    first_session.send(&best.updates())?;
    wait_fast(|| Ok(kernel_prefixes(&subject.netns)? >= start + u64::from(routes)))?;
    let mut second_session = subject.session(3)?;
    second_session.send(&second.updates())?;
    subject.wait_until_idle()?;
    let before = cpu_seconds(&subject.netns, subject.process)?;
    let probes: Vec<Ipv4Addr> = [0, routes / 2, routes - 1].iter().map(|n| best.network(*n)).collect();
    let begin = Instant::now();
    first_session.close()?;
    wait_fast(|| {
        for network in &probes {
            if gateway(&subject.netns, *network)? != "10.98.8.2" {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    second_session.close()?;
    let cpu_seconds = cpu_seconds(&subject.netns, subject.process)? - before;
    Ok(Sample { seconds, cpu_seconds, ..Sample::default() })
}

/// The gateway that the kernel of `netns` would use for the first host of `network`; empty when there is none.
fn gateway(netns: &str, network: Ipv4Addr) -> Result<String> {
    let host = Ipv4Addr::from(u32::from(network) + 1).to_string();
    let routes =
        netns::run(std::process::Command::new("ip").args(["-n", netns, "-j", "route", "get", &host]));
    let Ok(output) = routes else { return Ok(String::new()) };
    let routes: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(routes[0]["gateway"].as_str().unwrap_or_default().to_owned())
}

impl Subject<'_> {
    /// A session from the feeder number `host` (10.98.0.`host`).
    fn session(&self, host: u8) -> Result<Session> {
        netns::enter(&self.feed, || {
            let source = Ipv4Addr::new(10, 98, 0, host);
            let target = SocketAddr::from((self.address, 179));
            Session::open(target, source, FEED_ASN, PATIENCE)
                .with_context(|| format!("{} takes no session from {source}", self.name))
        })
    }

    /// Waits until the daemon has been idle for a while: a second table that changes nothing in the kernel leaves no
    /// other trace there.
    fn wait_until_idle(&self) -> Result<()> {
        let mut last = cpu_seconds(&self.netns, self.process)?;
        let mut quiet = 0;
        wait::until("the daemon is idle", PATIENCE, || {
            std::thread::sleep(Duration::from_millis(200));
            let now = cpu_seconds(&self.netns, self.process)?;
            quiet = if now - last < 0.02 { quiet + 1 } else { 0 };
            last = now;
            Ok(quiet >= 5)
        })
    }
}

/// Runs `body` against a fresh agent of ours.
fn manx<T>(body: impl FnOnce(&Subject<'_>) -> Result<T>) -> Result<T> {
    let lab = Lab::up(&Options { name: "benchfib".to_owned(), nodes: 1, ..Options::default() })?;
    let mut objects = vec![json!({
        "apiVersion": "manx.dev/v1alpha1", "kind": "IPPool", "metadata": {"name": "fed"},
        "spec": {"cidr": "20.0.0.0/8", "blockSize": 26, "assignmentMode": "Manual"}
    })];
    for host in [2, 3] {
        objects.push(json!({
            "apiVersion": "manx.dev/v1alpha1", "kind": "BGPPeer", "metadata": {"name": format!("feed{host}")},
            "spec": {"peerIP": format!("10.98.0.{host}"), "asNumber": FEED_ASN, "passive": true,
                     "nextHopMode": "Keep", "maxPrefixes": {"ipv4": 2_000_000}, "filters": ["fed"]}
        }));
    }
    objects.push(json!({
        "apiVersion": "manx.dev/v1alpha1", "kind": "BGPFilter", "metadata": {"name": "fed"},
        "spec": {"importV4": [{"name": "fed", "action": "Accept", "cidr": "20.0.0.0/8", "matchOperator": "In"}]}
    }));
    let (netns, feed) = (lab.netns("node1"), lab.netns("feed"));
    feeders(&netns, &feed)?;
    lab.apply(&objects)?;
    // The agent listens on the node's own addresses.
    let address = Ipv4Addr::new(172, 30, 1, 2);
    body(&Subject { name: "manx-agent", netns, feed, process: "manx-agent", address })
}

/// Runs `body` against a fresh BIRD.
fn bird<T>(body: impl FnOnce(&Subject<'_>) -> Result<T>) -> Result<T> {
    const NAME: &str = "benchbrd";
    Lab::down_by_name(NAME)?;
    let (netns, feed) = (format!("{NAME}-bird"), format!("{NAME}-feed"));
    netns::add(&netns)?;
    feeders(&netns, &feed)?;
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("bird.conf");
    std::fs::write(&config, bird_config())?;
    start_bird(&netns, &config)?;
    let result =
        body(&Subject { name: "BIRD", netns, feed, process: "bird", address: Ipv4Addr::new(10, 98, 0, 1) });
    Lab::down_by_name(NAME)?;
    result
}

fn start_bird(netns: &str, config: &Path) -> Result<()> {
    let mut command = netns::command(netns, "bird");
    command.arg("-c").arg(config).arg("-s").arg(config.with_extension("ctl"));
    command.arg("-P").arg(config.with_extension("pid"));
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    ensure!(status.success(), "bird did not start with {}", config.display());
    Ok(())
}

fn bird_config() -> String {
    let mut text = "router id 10.98.0.1;\nprotocol device { scan time 10; }\n\
                    protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; }\n"
        .to_owned();
    for host in [2, 3] {
        text.push_str(&format!(
            "protocol bgp feed{host} {{ local 10.98.0.1 as 65001; neighbor 10.98.0.{host} as {FEED_ASN}; passive on; \
             ipv4 {{ import all; export none; }}; }}\n"
        ));
    }
    text
}

/// Makes the namespace of the feeders and its wire: 10.98.0.0/16 on both ends.
fn feeders(subject: &str, feed: &str) -> Result<()> {
    netns::add(feed)?;
    let own = ["10.98.0.1/16".to_owned()];
    let hosts = ["10.98.0.2/16".to_owned(), "10.98.0.3/16".to_owned()];
    netns::wire(
        &netns::End { netns: subject, link: "feed", addresses: &own },
        &netns::End { netns: feed, link: "eth0", addresses: &hosts },
    )?;
    netns::ip(&["-n", feed, "route", "add", "default", "via", "10.98.0.1"])
}

/// Looks at `condition` every two milliseconds.
fn wait_fast(mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !condition()? {
        if Instant::now() > end {
            bail!("not within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// The process of the name `process` inside `netns`.
fn pid(netns: &str, process: &str) -> Result<u32> {
    let text = netns::run(std::process::Command::new("ip").args(["netns", "pids", netns]))?;
    let pids = String::from_utf8_lossy(&text.stdout).into_owned();
    pids.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .find(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim() == process
        })
        .with_context(|| format!("no {process} runs in {netns}"))
}

/// User and system time of the process so far, from /proc/PID/stat in clock ticks of 10 ms.
fn cpu_seconds(netns: &str, process: &str) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid(netns, process)?))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    Ok((ticks(11) + ticks(12)) / 100.0)
}

/// The largest resident size of the process so far.
fn peak_mib(netns: &str, process: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid(netns, process)?))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM")).context("no VmHWM")?;
    let kib: f64 = line.split_whitespace().nth(1).context("an empty VmHWM")?.parse()?;
    Ok(kib / 1024.0)
}

/// How many IPv4 prefixes the main routing table of `netns` holds, as the kernel itself counts them.
fn kernel_prefixes(netns: &str) -> Result<u64> {
    netns::enter(netns, || {
        let text = std::fs::read_to_string("/proc/thread-self/net/fib_triestat")?;
        let mut main = text.split("Main:").nth(1).context("no main table")?.lines();
        let line = main.find(|line| line.contains("Prefixes:")).context("no count of prefixes")?;
        line.split_whitespace().last().context("an empty count")?.parse().map_err(Into::into)
    })
}
