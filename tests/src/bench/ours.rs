//! Our agent as the benchmarks run it: without an API server, its objects in a folder.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::bgp::{ASN, FEEDER_ASN, Owned, SINK_ASN, address};
use super::listener::HOLD;
use crate::lab::netns;

/// A running agent; it ends with the value.
#[derive(Debug)]
pub struct Agent(#[expect(dead_code, reason = "held until the run is over")] Owned);

impl Agent {
    /// An agent that takes tables from the feeder and tells all of them to the receiver, both families.
    ///
    /// # Errors
    /// When its program is not built or does not start.
    pub fn start(netns: &str, folder: &Path, kernel: bool) -> Result<Self> {
        let mut objects = vec![configuration(), open_filter()];
        for (name, host, asn) in [("feeder", 2, FEEDER_ASN), ("sink", 3, SINK_ASN)] {
            for ipv6 in [false, true] {
                let family = if ipv6 { "v6" } else { "v4" };
                objects.push(peer(&format!("{name}-{family}"), address(host, ipv6), asn));
            }
        }
        Self::with(netns, folder, kernel, &objects)
    }

    /// An agent with these objects.
    ///
    /// # Errors
    /// As for [`Agent::start`].
    pub fn with(netns: &str, folder: &Path, kernel: bool, objects: &[Value]) -> Result<Self> {
        let directory = folder.join("objects");
        std::fs::create_dir_all(&directory)?;
        let documents: Vec<String> = objects.iter().map(Value::to_string).collect();
        std::fs::write(directory.join("all.yaml"), documents.join("\n---\n"))?;
        let mut command = netns::command(netns, program()?);
        command.args(["--node-name", "bench", "--objects"]).arg(&directory);
        command.arg("--run-dir").arg(folder.join("run")).args(["--health-listen", "127.0.0.1:9179"]);
        if !kernel {
            command.arg("--no-kernel-routes");
        }
        let log = std::fs::File::create(folder.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self(Owned(command.spawn().context("starting the agent")?)))
    }
}

/// The agent that was built beside this program.
fn program() -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("manx-agent");
    program.exists().then_some(program).context("manx-agent is not built: cargo xtask bench builds it")
}

/// An AS of our own and no sessions but those that are named.
pub fn configuration() -> Value {
    json!({"apiVersion": "manx.dev/v1alpha1", "kind": "BGPConfiguration", "metadata": {"name": "default"},
           "spec": {"asNumber": ASN, "topology": "None", "holdTimeSeconds": HOLD}})
}

/// What an operator writes who wants a node to take and to pass on whatever comes.
pub fn open_filter() -> Value {
    let rules = json!([{"name": "all", "action": "Accept"}]);
    json!({"apiVersion": "manx.dev/v1alpha1", "kind": "BGPFilter", "metadata": {"name": "open"},
           "spec": {"importV4": rules, "exportV4": rules, "importV6": rules, "exportV6": rules}})
}

/// A router that calls us.
pub fn peer(name: &str, address: IpAddr, asn: u32) -> Value {
    json!({"apiVersion": "manx.dev/v1alpha1", "kind": "BGPPeer", "metadata": {"name": name},
           "spec": {"peerIP": address.to_string(), "asNumber": asn, "passive": true, "filters": ["open"],
                    "maxPrefixes": {"ipv4": 4_000_000, "ipv6": 4_000_000}}})
}
