//! The plugins that are compared, and how each is called: started directly, as a runtime would, by a thread inside the
//! node's namespace.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::lab::{Lab, netns};

/// Where Debian installs the reference plugins.
const DEBIAN_PLUGINS: &str = "/usr/lib/cni";

/// One plugin under test.
pub(super) struct Subject {
    /// What the tables call it.
    pub(super) name: &'static str,
    /// The program that the runtime starts.
    pub(super) binary: PathBuf,
    /// The program that it starts for addresses, if it does.
    pub(super) ipam: Option<PathBuf>,
    config: Value,
    /// Rounds so far: no runtime uses the id of a container twice.
    rounds: AtomicU64,
}

/// Milliseconds of each verb.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) add: f64,
    pub(super) check: f64,
    pub(super) del: f64,
}

/// Ours first, then the peers.
pub(super) fn all(lab: &Lab) -> Result<Vec<Subject>> {
    let runtime = lab.runtime("node1")?;
    let mut ours = runtime.conflist["plugins"][0].clone();
    ours["name"] = json!("bench");
    ours["cniVersion"] = json!("1.0.0");
    let binary = runtime.bin_dir.join("manx-cni");
    let mut subjects =
        vec![Subject { name: "manx-cni", binary, ipam: None, config: ours, rounds: AtomicU64::new(0) }];
    for (name, kind, families) in [("ptp", "ptp", 1), ("bridge", "bridge", 1), ("ptp IPv4 + IPv6", "ptp", 2)]
    {
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
        let (binary, ipam) = (debian(kind)?, Some(debian("host-local")?));
        subjects.push(Subject { name, binary, ipam, config, rounds: AtomicU64::new(0) });
    }
    Ok(subjects)
}

fn debian(kind: &str) -> Result<PathBuf> {
    let binary = Path::new(DEBIAN_PLUGINS).join(kind);
    ensure!(binary.exists(), "{} is missing: install containernetworking-plugins", binary.display());
    Ok(binary)
}

impl Subject {
    /// Starts, checks and ends `count` pods, each verb for all of them at once; returns how long each took, from the
    /// first start to the last exit. The pods' namespaces are made and removed while no clock runs.
    pub(super) fn round(&self, lab: &Lab, count: usize) -> Result<Times> {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        let pods: Vec<String> = (0..count).map(|number| lab.netns(&format!("pod-{number}"))).collect();
        for pod in &pods {
            netns::add(pod)?;
        }
        let times = netns::enter(&lab.netns("node1"), || {
            let nothing = vec![Value::Null; pods.len()];
            let (add, results) = self.call_all("ADD", &pods, &nothing)?;
            let (check, _) = self.call_all("CHECK", &pods, &results)?;
            let (del, _) = self.call_all("DEL", &pods, &results)?;
            Ok(Times { add, check, del })
        })?;
        for pod in &pods {
            netns::delete(pod)?;
        }
        Ok(times)
    }

    /// One verb for all `pods` at once: milliseconds, and what each printed.
    pub(super) fn call_all(
        &self,
        verb: &str,
        pods: &[String],
        previous: &[Value],
    ) -> Result<(f64, Vec<Value>)> {
        let configs: Vec<String> = previous.iter().map(|result| self.config(result)).collect();
        let begin = Instant::now();
        let children: Vec<Child> = pods
            .iter()
            .zip(&configs)
            .map(|(pod, config)| feed(&mut self.command(&self.binary, verb, pod), config))
            .collect::<Result<_>>()?;
        let outputs =
            children.into_iter().map(Child::wait_with_output).collect::<std::io::Result<Vec<_>>>()?;
        let took = begin.elapsed().as_secs_f64() * 1000.0;
        let read = |output: &std::process::Output| {
            let text = String::from_utf8_lossy(&output.stdout);
            ensure!(output.status.success(), "{} {verb} failed: {text}", self.name);
            Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
        };
        Ok((took, outputs.iter().map(read).collect::<Result<_>>()?))
    }

    /// The call of a verb by another program, such as one that looks on.
    pub(super) fn call_under(
        &self,
        program: &[&str],
        verb: &str,
        pod: &str,
        previous: &Value,
    ) -> Result<Value> {
        let mut command = self.command(Path::new(program[0]), verb, pod);
        command.args(&program[1..]).arg(&self.binary);
        let output = feed(&mut command, &self.config(previous))?.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{} {verb} failed: {text}", self.name);
        Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
    }

    fn config(&self, previous: &Value) -> String {
        let mut config = self.config.clone();
        if !previous.is_null() {
            config["prevResult"] = previous.clone();
        }
        config.to_string()
    }

    fn command(&self, program: &Path, verb: &str, pod: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", format!("{pod}-{}", self.rounds.load(Ordering::Relaxed)))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", netns::path(pod))
            .env("CNI_PATH", DEBIAN_PLUGINS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command
    }
}

fn feed(command: &mut Command, config: &str) -> Result<Child> {
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    child.stdin.take().context("no standard input")?.write_all(config.as_bytes())?;
    Ok(child)
}
