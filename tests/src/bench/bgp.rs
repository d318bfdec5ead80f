//! `bench bgp`: tables blasted at our agent and at the daemons that people run, each in a namespace of its own with the
//! same wire to a feeder and a receiver.
//!
//! The clock starts with the first octet of the table. RIB only, it stops when the receiving session has been told
//! everything, which needs no word from the daemon; with kernel routes, when the kernel of the daemon's namespace
//! holds everything as well. Then every route moves to another next hop, then all are withdrawn.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::internet::{Internet, Towards};
use super::listener::{Caller, Goal, Listener, blast};
use super::{Row, median, ours, usage};
use crate::lab::netns;
use crate::peers::{Daemon, Neighbor, Peer, Setup};

/// The AS of every daemon under test.
pub(super) const ASN: u32 = 65001;
/// The AS of the feeder, and that of the receiver.
pub(super) const FEEDER_ASN: u32 = 65100;
pub(super) const SINK_ASN: u32 = 65200;
const PREFIX: &str = "mx-bench-bgp";
/// Patience for anything that is not measured.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much to measure.
#[derive(Clone, Debug)]
pub struct Size {
    /// Sizes of the IPv4 tables.
    pub routes: Vec<u32>,
    /// Size of the IPv6 table; 0: none.
    pub ipv6: u32,
    /// Runs of each subject, in turn.
    pub runs: usize,
    /// The daemons beside ours.
    pub peers: Vec<Daemon>,
    /// How long one phase of one run may take; a daemon that needs longer is said so and not run again.
    pub patience: Duration,
    /// RIB only, kernel routes, or both.
    pub kernel: Vec<bool>,
}

/// One cell of the comparison: what is fed, and where it has to go.
#[derive(Clone, Copy, Debug)]
struct Case {
    routes: u32,
    ipv6: bool,
    kernel: bool,
    patience: Duration,
}

impl Case {
    fn title(&self) -> String {
        let family = if self.ipv6 { "IPv6" } else { "IPv4" };
        let into = if self.kernel { "into the kernel" } else { "RIB only" };
        format!("{} {family} routes, {into}", self.routes)
    }

    fn table(&self, edition: u16) -> Internet {
        let host = 2 * u8::try_from(edition).unwrap_or(1);
        let towards = match address(host, self.ipv6) {
            IpAddr::V4(next_hop) => Towards::V4(next_hop),
            IpAddr::V6(next_hop) => Towards::V6(next_hop),
        };
        Internet { asn: FEEDER_ASN, routes: self.routes, towards, edition }
    }
}

/// The addresses on the wire: 1 is the daemon, 2 the feeder, 3 the receiver, 4 the second next hop.
pub(super) fn address(host: u8, ipv6: bool) -> IpAddr {
    if ipv6 { IpAddr::from([0xfd98, 0, 0, 0, 0, 0, 0, host.into()]) } else { IpAddr::from([10, 98, 0, host]) }
}

/// What one run measured. A phase that did not end within its bound ends the run.
#[derive(Clone, Debug, Default)]
struct Sample {
    figures: Vec<(&'static str, &'static str, f64)>,
    /// The phase that took too long.
    late: Option<&'static str>,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Ours,
    Theirs(Daemon),
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "manx",
            Self::Theirs(daemon) => daemon.name(),
        }
    }

    fn slug(self) -> &'static str {
        match self {
            Self::Ours => "manx",
            Self::Theirs(daemon) => daemon.slug(),
        }
    }

    fn can(self, case: &Case) -> bool {
        !case.kernel
            || self == Self::Ours
            || matches!(self, Self::Theirs(daemon) if daemon.has_kernel_routes())
    }
}

/// Runs everything, printing each comparison when it is done.
///
/// # Errors
/// When a daemon does not start or breaks its session.
pub fn run(size: &Size) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let tables = size.routes.iter().map(|routes| (*routes, false));
    for (routes, ipv6) in tables.chain((size.ipv6 > 0).then_some((size.ipv6, true))) {
        for kernel in &size.kernel {
            let case = Case { routes, ipv6, kernel: *kernel, patience: size.patience };
            rows.extend(compare(&case, size)?);
        }
    }
    Ok(rows)
}

fn compare(case: &Case, size: &Size) -> Result<Vec<Row>> {
    let mut subjects = vec![(Subject::Ours, Vec::new())];
    subjects.extend(size.peers.iter().map(|daemon| (Subject::Theirs(*daemon), Vec::new())));
    for _ in 0..size.runs {
        for (subject, samples) in &mut subjects {
            let late = samples.iter().any(|sample: &Sample| sample.late.is_some());
            if subject.can(case) && !late {
                samples.push(
                    once(*subject, case).with_context(|| format!("{}, {}", subject.name(), case.title()))?,
                );
            }
        }
    }
    print(case, &subjects);
    Ok(rows(case, &subjects))
}

fn print(case: &Case, subjects: &[(Subject, Vec<Sample>)]) {
    let Some((_, ours)) = subjects.first() else { return };
    let columns: Vec<&str> = ours
        .first()
        .map(|sample| sample.figures.iter().map(|(name, ..)| *name).collect())
        .unwrap_or_default();
    println!("\n{} ({} runs; in brackets ours divided by theirs)", case.title(), ours.len());
    print!("{:<10}", "");
    columns.iter().for_each(|column| print!(" {column:>17}"));
    println!();
    for (subject, samples) in subjects {
        print!("{:<10}", subject.name());
        if !subject.can(case) {
            println!("  puts no routes into the kernel");
            continue;
        }
        for column in &columns {
            print!(" {:>17}", cell(column, ours, samples, *subject, case));
        }
        println!();
    }
}

fn cell(column: &str, ours: &[Sample], samples: &[Sample], subject: Subject, case: &Case) -> String {
    let values = values(samples, column);
    if values.is_empty() {
        return format!("> {} s", case.patience.as_secs());
    }
    let value = median(&values);
    if subject == Subject::Ours {
        return format!("{value:.3}");
    }
    format!("{value:.3} ({:.2})", median(&self::values(ours, column)) / value)
}

fn values(samples: &[Sample], column: &str) -> Vec<f64> {
    let figures = samples.iter().flat_map(|sample| &sample.figures);
    figures.filter(|(name, ..)| *name == column).map(|(_, _, value)| *value).collect()
}

fn rows(case: &Case, subjects: &[(Subject, Vec<Sample>)]) -> Vec<Row> {
    let mut rows = Vec::new();
    let Some(((_, ours), others)) = subjects.split_first() else { return rows };
    for (subject, samples) in others {
        let Some(first) = samples.first() else { continue };
        for (name, unit, _) in &first.figures {
            rows.push(Row {
                what: format!("{}: {name}", case.title()),
                peer: subject.name().to_owned(),
                ours: values(ours, name),
                theirs: values(samples, name),
                unit,
                target: if *subject != Subject::Theirs(Daemon::Bird2) {
                    ""
                } else if case.kernel {
                    "<= 0.4"
                } else {
                    "<= 0.9"
                },
            });
        }
    }
    rows
}

/// A daemon in its namespace.
struct Bed {
    netns: String,
    pids: Vec<u32>,
    case: Case,
    /// Routes that the kernel had before.
    own_routes: u64,
    _daemon: Running,
}

/// What ends with the run.
#[expect(dead_code, reason = "held until the run is over")]
enum Running {
    Ours(ours::Agent),
    Theirs(Peer),
}

fn once(subject: Subject, case: &Case) -> Result<Sample> {
    let names = ["dut", "feed"].map(|end| format!("{PREFIX}-{}-{end}", subject.slug()));
    let folder = tempfile::tempdir()?;
    let result = namespaces(&names).and_then(|()| measured(subject, case, &names, folder.path()));
    let cleaned = clean(&names);
    let sample = result?;
    cleaned.map(|()| sample)
}

fn clean(names: &[String; 2]) -> Result<()> {
    names.iter().filter(|name| netns::path(name).exists()).try_for_each(|name| netns::delete(name))
}

fn namespaces(names: &[String; 2]) -> Result<()> {
    clean(names)?;
    let [dut, feed] = names;
    netns::add(dut)?;
    netns::add(feed)?;
    let own = [1].map(on_wire).concat();
    let others = [2, 3, 4].map(on_wire).concat();
    netns::wire(
        &netns::End { netns: dut, link: "feed", addresses: &own },
        &netns::End { netns: feed, link: "eth0", addresses: &others },
    )
}

fn on_wire(host: u8) -> Vec<String> {
    vec![format!("{}/16", address(host, false)), format!("{}/64", address(host, true))]
}

fn measured(subject: Subject, case: &Case, names: &[String; 2], folder: &Path) -> Result<Sample> {
    let [dut, feed] = names;
    let daemon = match subject {
        Subject::Ours => Running::Ours(ours::Agent::start(dut, folder, case.kernel)?),
        Subject::Theirs(daemon) => Running::Theirs(Peer::start(daemon, dut, folder, &setup(case))?),
    };
    let session = |host: u8, asn| {
        let caller = Caller {
            target: SocketAddr::from((address(1, case.ipv6), 179)),
            source: address(host, case.ipv6),
            id: Ipv4Addr::new(10, 98, 0, host),
            asn,
        };
        netns::enter(feed, || caller.call(PATIENCE))
    };
    let feeder = session(2, FEEDER_ASN).context("the feeder's session")?;
    let sink = Listener::new(session(3, SINK_ASN).context("the receiver's session")?, case.routes)?;
    let bed = Bed {
        netns: dut.clone(),
        pids: usage::pids(dut)?,
        case: *case,
        own_routes: usage::kernel_routes(dut, case.ipv6)?,
        _daemon: daemon,
    };
    bed.phases(feeder, &sink)
}

/// The daemon's side: both sessions passive, everything passed on.
fn setup(case: &Case) -> Setup {
    let mut setup = Setup::new(ASN, Ipv4Addr::new(10, 98, 0, 1));
    setup.kernel = case.kernel;
    for (name, host, asn) in [("feeder", 2, FEEDER_ASN), ("sink", 3, SINK_ASN)] {
        let mut neighbor = Neighbor::new(name, address(host, case.ipv6), asn);
        neighbor.local = Some(address(1, case.ipv6));
        (neighbor.passive, neighbor.transit, neighbor.hold) = (true, true, super::listener::HOLD);
        (neighbor.ipv4, neighbor.ipv6) = (!case.ipv6, case.ipv6);
        setup.neighbors.push(neighbor);
    }
    setup
}

impl Bed {
    fn phases(&self, feeder: std::net::TcpStream, sink: &Listener) -> Result<Sample> {
        let mut sample = Sample::default();
        self.settle()?;
        let (first, second) = (self.case.table(1), self.case.table(2));
        let told = Goal::Announced(self.case.routes);
        let held = self.own_routes + u64::from(self.case.routes);
        let announce =
            Phase { name: "announce", seconds: "announce s", cpu: "announce cpu s", goal: told, held };
        let Some(feeder) = self.phase(&announce, first.updates(), feeder, sink, &mut sample)? else {
            return Ok(sample);
        };
        sample.figures.push(("peak MiB", "MiB", usage::memory_mib(&self.pids, "VmHWM")?));
        let change = Phase { name: "change", seconds: "change s", cpu: "change cpu s", goal: told, held };
        let Some(feeder) = self.phase(&change, second.updates(), feeder, sink, &mut sample)? else {
            return Ok(sample);
        };
        let goal = Goal::Withdrawn(self.case.routes);
        let held = self.own_routes;
        let withdraw = Phase { name: "withdraw", seconds: "withdraw s", cpu: "withdraw cpu s", goal, held };
        self.phase(&withdraw, second.withdrawals(), feeder, sink, &mut sample)?;
        Ok(sample)
    }

    /// One blast, from its first octet until its effect is complete.
    fn phase(
        &self,
        phase: &Phase,
        bytes: Vec<u8>,
        feeder: std::net::TcpStream,
        sink: &Listener,
        sample: &mut Sample,
    ) -> Result<Option<std::net::TcpStream>> {
        sink.expect(phase.goal);
        let before = usage::cpu_seconds(&self.pids);
        let begin = Instant::now();
        let sender = blast(feeder, bytes);
        let kernel = self.case.kernel.then(|| self.await_kernel(phase, begin)).transpose()?;
        let left = self.case.patience.saturating_sub(begin.elapsed());
        let told = sink.wait(left)?;
        let (Some(told), false) = (told, kernel == Some(None)) else {
            sample.late = Some(phase.name);
            return Ok(None);
        };
        let end = kernel.flatten().map_or(told, |held| held.max(told));
        let feeder = sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        self.settle()?;
        sample.figures.push((phase.seconds, "s", (end - begin).as_secs_f64()));
        sample.figures.push((phase.cpu, "s", usage::cpu_seconds(&self.pids) - before));
        Ok(Some(feeder))
    }

    /// Looks every two milliseconds until the kernel holds what it should; `None` if it does not in time.
    fn await_kernel(&self, phase: &Phase, begin: Instant) -> Result<Option<Instant>> {
        while begin.elapsed() < self.case.patience {
            let count = usage::kernel_routes(&self.netns, self.case.ipv6)?;
            if count == phase.held && (phase.name != "change" || self.moved()?) {
                return Ok(Some(Instant::now()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(None)
    }

    /// Whether the first, the middle and the last route lead to the second next hop.
    fn moved(&self) -> Result<bool> {
        let wanted = address(4, self.case.ipv6).to_string();
        for index in [0, self.case.routes / 2, self.case.routes - 1] {
            if self.gateway(index)? != wanted {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn gateway(&self, index: u32) -> Result<String> {
        let host = self.case.table(1).host(index).to_string();
        let mut command = std::process::Command::new("ip");
        let Ok(output) = netns::run(command.args(["-n", &self.netns, "-j", "route", "get", &host])) else {
            return Ok(String::new());
        };
        let routes: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        Ok(routes[0]["gateway"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until the daemon has nothing left to do, for the processor time of a phase to be whole.
    fn settle(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut last = usage::cpu_seconds(&self.pids);
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(150));
            let now = usage::cpu_seconds(&self.pids);
            if now - last < 0.004 {
                return Ok(());
            }
            last = now;
        }
        bail!("the daemon does not come to rest")
    }
}

/// One of the blasts, and by what its end is known.
struct Phase {
    name: &'static str,
    seconds: &'static str,
    cpu: &'static str,
    goal: Goal,
    /// How many routes the kernel holds then.
    held: u64,
}

/// A child that ends with the value.
#[derive(Debug)]
pub(super) struct Owned(pub(super) Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}
