//! `bench cni`: how long ADD and DEL take from the plugin's start to its exit, against Debian's reference plugins.
//!
//! Ours gives every pod both families. The peers are measured with IPv4 alone as well: with IPv6 they wait for duplicate
//! address detection, more than a second, which would say little about them.
//!
//! All plugins run in the same node namespace, started directly by a thread inside it, each on a fresh pod namespace
//! that was made before the clock starts.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Row;
use crate::lab::{Lab, Options, netns};

/// Where Debian installs the reference plugins.
const DEBIAN_PLUGINS: &str = "/usr/lib/cni";

/// One plugin under test.
struct Subject {
    name: &'static str,
    binary: PathBuf,
    config: Value,
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// ADD and DEL one at a time, this many of each.
    pub single: usize,
    /// Pods started at the same time.
    pub parallel: usize,
    /// How often the parallel start is repeated.
    pub rounds: usize,
}

/// Milliseconds of ADD and of DEL.
#[derive(Clone, Copy, Debug)]
struct Times {
    add: f64,
    del: f64,
}

/// Runs the benchmark in a lab of one node of its own.
pub fn run(size: Size) -> Result<Vec<Row>> {
    let lab = Lab::up(&Options { name: "benchcni".to_owned(), nodes: 1, ..Options::default() })?;
    let subjects = subjects(&lab)?;
    let node = lab.netns("node1");
    let mut single: Vec<Vec<Times>> = vec![Vec::new(); subjects.len()];
    for number in 0..=size.single {
        for (subject, times) in subjects.iter().zip(&mut single) {
            let sample = one(&node, subject, &lab, 1)?;
            // The first round warms caches up.
            if number > 0 {
                times.push(sample);
            }
        }
    }
    let mut parallel: Vec<Vec<Times>> = vec![Vec::new(); subjects.len()];
    for _ in 0..size.rounds {
        for (subject, times) in subjects.iter().zip(&mut parallel) {
            times.push(one(&node, subject, &lab, size.parallel)?);
        }
    }
    Ok(rows(&subjects, &single, &parallel, size.parallel))
}

fn rows(subjects: &[Subject], single: &[Vec<Times>], parallel: &[Vec<Times>], count: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    let (ours, peers) = (&single[0], &single[1..]);
    for (peer, times) in subjects[1..].iter().zip(peers) {
        let row = |what: &str, pick: fn(&Times) -> f64, target| Row {
            what: what.to_owned(),
            peer: peer.name.to_owned(),
            ours: ours.iter().map(pick).collect(),
            theirs: times.iter().map(pick).collect(),
            unit: "ms",
            target,
        };
        rows.push(row("CNI ADD, process start to exit, ours IPv4 + IPv6, warm", |times| times.add, "<= 1/6"));
        rows.push(row("CNI DEL, likewise", |times| times.del, "<= 1/20"));
    }
    for (peer, times) in subjects[1..].iter().zip(&parallel[1..]) {
        rows.push(Row {
            what: format!("{count} ADDs at once on one node, all done"),
            peer: peer.name.to_owned(),
            ours: parallel[0].iter().map(|times| times.add).collect(),
            theirs: times.iter().map(|times| times.add).collect(),
            unit: "ms",
            target: "<= 1/6",
        });
    }
    rows
}

/// Ours first, then the peers.
fn subjects(lab: &Lab) -> Result<Vec<Subject>> {
    let runtime = lab.runtime("node1")?;
    let mut ours = runtime.conflist["plugins"][0].clone();
    ours["name"] = json!("bench");
    ours["cniVersion"] = json!("1.0.0");
    let mut subjects =
        vec![Subject { name: "manx-cni", binary: runtime.bin_dir.join("manx-cni"), config: ours }];
    for (name, kind, families) in [("ptp", "ptp", 1), ("bridge", "bridge", 1), ("ptp IPv4 + IPv6", "ptp", 2)]
    {
        let binary = Path::new(DEBIAN_PLUGINS).join(kind);
        ensure!(binary.exists(), "{} is missing: install containernetworking-plugins", binary.display());
        let number = subjects.len();
        let mut ranges = vec![
            json!([{"subnet": format!("10.9{number}.0.0/20")}]),
            json!([{"subnet": format!("fd00:9{number}::/116")}]),
        ];
        let mut routes = vec![json!({"dst": "0.0.0.0/0"}), json!({"dst": "::/0"})];
        ranges.truncate(families);
        routes.truncate(families);
        let config = json!({
            "cniVersion": "1.0.0", "name": format!("bench-{number}"), "type": kind, "bridge": "cni0", "isGateway": true,
            "ipam": {"type": "host-local", "dataDir": lab.dir().join("host-local"), "ranges": ranges, "routes": routes}
        });
        subjects.push(Subject { name, binary, config });
    }
    Ok(subjects)
}

/// Starts `count` pods at once and ends them at once; returns how long each took, from the first start to the last exit.
fn one(node: &str, subject: &Subject, lab: &Lab, count: usize) -> Result<Times> {
    let pods: Vec<String> = (0..count).map(|number| lab.netns(&format!("pod-{number}"))).collect();
    for pod in &pods {
        netns::add(pod)?;
    }
    let times = netns::enter(node, || {
        let add = all(subject, "ADD", &pods)?;
        let del = all(subject, "DEL", &pods)?;
        Ok(Times { add, del })
    })?;
    for pod in &pods {
        netns::delete(pod)?;
    }
    Ok(times)
}

/// One verb for all `pods` at once, in milliseconds.
fn all(subject: &Subject, verb: &str, pods: &[String]) -> Result<f64> {
    let config = subject.config.to_string();
    let begin = Instant::now();
    let children: Vec<Child> =
        pods.iter().map(|pod| start(subject, verb, pod, &config)).collect::<Result<_>>()?;
    for child in children {
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "{} {verb} failed: {}",
            subject.name,
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(begin.elapsed().as_secs_f64() * 1000.0)
}

fn start(subject: &Subject, verb: &str, pod: &str, config: &str) -> Result<Child> {
    let mut child = Command::new(&subject.binary)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", pod)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_NETNS", netns::path(pod))
        .env("CNI_PATH", DEBIAN_PLUGINS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {}", subject.binary.display()))?;
    child.stdin.take().context("no standard input")?.write_all(config.as_bytes())?;
    Ok(child)
}
