//! `bench ipam`: what a pod's addresses cost alone, without its link: one request to the agent's socket against one run
//! of Debian's host-local, both with IPv4 and IPv6, on a node without pods and on one with many.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use manx_cni::rpc::{AddRequest, DelRequest, Reply, Request, call};
use serde_json::{Value, json};

use super::{Row, cni};
use crate::lab::{Lab, Options};

/// Debian's plugin.
const HOST_LOCAL: &str = "/usr/lib/cni/host-local";
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How much to measure.
#[derive(Clone, Debug)]
pub struct Size {
    /// Addresses given and freed one at a time, this many of each.
    pub single: usize,
    /// Pods that have addresses meanwhile, each number in turn.
    pub held: Vec<usize>,
}

/// Milliseconds of giving and of freeing.
#[derive(Clone, Copy, Debug)]
struct Times {
    assign: f64,
    free: f64,
}

/// Runs the benchmark in a lab of one node of its own.
///
/// # Errors
/// When a request is refused, or the lab cannot be made.
pub fn run(size: &Size) -> Result<Vec<Row>> {
    let lab = Lab::up(&Options { name: "benchipm".to_owned(), nodes: 1, ..Options::default() })?;
    cni::widen(&lab)?;
    let run_dir = lab.run_dir("node1");
    let config = json!({
        "cniVersion": "1.0.0", "name": "bench", "type": "bench",
        "ipam": {"type": "host-local", "dataDir": lab.dir().join("host-local"),
                 "ranges": [[{"subnet": "10.90.0.0/20"}], [{"subnet": "fd00:90::/112"}]]}
    });
    let mut rows = Vec::new();
    let mut there = 0;
    for &held in &size.held {
        for number in there..held.max(there) {
            let container = format!("held-{number}");
            ask_agent(&run_dir, &add(&container))?;
            host_local("ADD", &config, &container)?;
        }
        there = there.max(held);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for number in 0..size.single {
            let container = format!("pod-{number}");
            let assign = ask_agent(&run_dir, &add(&container))?;
            ours.push(Times { assign, free: ask_agent(&run_dir, &del(&container))? });
            let assign = host_local("ADD", &config, &container)?;
            theirs.push(Times { assign, free: host_local("DEL", &config, &container)? });
        }
        rows.extend(lines(there, &ours, &theirs));
    }
    Ok(rows)
}

fn lines(held: usize, ours: &[Times], theirs: &[Times]) -> [Row; 2] {
    let line = |what: &str, pick: fn(&Times) -> f64| Row {
        what: format!("{what}, {held} pods there"),
        peer: "host-local".to_owned(),
        ours: ours.iter().map(pick).collect(),
        theirs: theirs.iter().map(pick).collect(),
        unit: "ms",
        target: "",
    };
    [
        line("addresses of a pod, IPv4 + IPv6", |times| times.assign),
        line("the same freed, link taken down", |times| times.free),
    ]
}

fn add(container: &str) -> Request {
    Request::Add(AddRequest {
        network: "bench".to_owned(),
        container: container.to_owned(),
        ifname: "eth0".to_owned(),
        netns: "/run/netns/none".to_owned(),
        pod: None,
        link: format!("cali{container}"),
        addresses: Vec::new(),
        mtu: None,
        mac: None,
    })
}

fn del(container: &str) -> Request {
    Request::Del(DelRequest {
        container: container.to_owned(),
        ifname: "eth0".to_owned(),
        link: format!("cali{container}"),
    })
}

/// Milliseconds of one request to the agent.
fn ask_agent(run_dir: &Path, request: &Request) -> Result<f64> {
    let begin = Instant::now();
    let reply = call(run_dir, request, PATIENCE)?;
    let took = begin.elapsed().as_secs_f64() * 1000.0;
    match reply {
        Reply::Assigned(_) | Reply::Deleted { .. } => Ok(took),
        other => bail!("the agent answered {other:?}"),
    }
}

/// Milliseconds of one run of host-local, as a plugin would start it.
fn host_local(verb: &str, config: &Value, container: &str) -> Result<f64> {
    let begin = Instant::now();
    let mut child = Command::new(HOST_LOCAL)
        .env_clear()
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", container)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_NETNS", "/run/netns/none")
        .env("CNI_PATH", "/usr/lib/cni")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting host-local: install containernetworking-plugins")?;
    child.stdin.take().context("no standard input")?.write_all(config.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    let took = begin.elapsed().as_secs_f64() * 1000.0;
    ensure!(output.status.success(), "host-local {verb}: {}", String::from_utf8_lossy(&output.stdout));
    Ok(took)
}
