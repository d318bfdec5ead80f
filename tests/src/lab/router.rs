//! The top-of-rack router: a real BIRD, or FRR in its place, peering by eBGP with every node.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{netns, wait};

/// The router's own AS.
pub const ROUTER_ASN: u32 = 65000;
/// The AS of all nodes.
pub const NODE_ASN: u32 = 64512;

/// Which program speaks BGP on the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum RouterKind {
    /// BIRD 2.
    Bird,
    /// FRR: zebra and bgpd.
    Frr,
}

/// The router's daemon, with its files in a folder of its own.
#[derive(Clone, Debug)]
pub struct Router {
    /// Which program.
    pub kind: RouterKind,
    /// The router's network namespace.
    pub netns: String,
    /// Configuration, control socket and log.
    pub dir: PathBuf,
}

impl Router {
    /// Writes the configuration for sessions with `nodes` (name, IPv4 address) and starts the daemon.
    pub fn start(&self, nodes: &[(String, String)]) -> Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        match self.kind {
            RouterKind::Bird => self.start_bird(nodes),
            RouterKind::Frr => self.start_frr(nodes),
        }
    }

    /// Takes up a changed set of nodes without touching the sessions of the others.
    pub fn reconfigure(&self, nodes: &[(String, String)]) -> Result<()> {
        match self.kind {
            RouterKind::Bird => {
                std::fs::write(self.dir.join("bird.conf"), bird_config(&self.dir, nodes))?;
                self.birdc(&["configure"]).map(drop)
            }
            RouterKind::Frr => {
                let mut command = self.vtysh();
                command.args(["-c", "configure terminal", "-c", &format!("router bgp {ROUTER_ASN}")]);
                for (_, address) in nodes {
                    for line in frr_neighbor(address).lines() {
                        command.args(["-c", line.trim()]);
                    }
                }
                netns::run(&mut command).map(drop)
            }
        }
    }

    /// What an operator would look at: sessions and routes, in the daemon's own words.
    pub fn show(&self) -> Result<String> {
        match self.kind {
            RouterKind::Bird => {
                let mut text = self.birdc(&["show", "protocols"])?;
                text.push_str(&self.birdc(&["show", "route"])?);
                Ok(text)
            }
            RouterKind::Frr => {
                let mut text = self.vtysh_text("show bgp summary")?;
                text.push_str(&self.vtysh_text("show ip route bgp")?);
                text.push_str(&self.vtysh_text("show ipv6 route bgp")?);
                Ok(text)
            }
        }
    }

    /// How many sessions with nodes are established.
    pub fn established(&self) -> Result<usize> {
        match self.kind {
            RouterKind::Bird => {
                let text = self.birdc(&["show", "protocols"])?;
                Ok(text.lines().filter(|line| line.contains("BGP") && line.contains("Established")).count())
            }
            RouterKind::Frr => {
                let summary: serde_json::Value =
                    serde_json::from_str(&self.vtysh_text("show bgp summary json")?)?;
                let peers = summary["ipv4Unicast"]["peers"].as_object();
                Ok(peers
                    .map_or(0, |peers| peers.values().filter(|peer| peer["state"] == "Established").count()))
            }
        }
    }

    /// The prefixes that BGP brought into the router's kernel, both families.
    pub fn kernel_routes(&self) -> Result<Vec<String>> {
        let protocol = match self.kind {
            RouterKind::Bird => "bird",
            RouterKind::Frr => "bgp",
        };
        let mut prefixes = Vec::new();
        for family in ["-4", "-6"] {
            let argv = ["ip", "-j", family, "route", "show", "proto", protocol];
            let routes = netns::json(&self.netns, &argv)?;
            for route in routes.as_array().into_iter().flatten() {
                prefixes.extend(route["dst"].as_str().map(str::to_owned));
            }
        }
        prefixes.sort();
        Ok(prefixes)
    }

    fn start_bird(&self, nodes: &[(String, String)]) -> Result<()> {
        let config = self.dir.join("bird.conf");
        std::fs::write(&config, bird_config(&self.dir, nodes))?;
        let mut command = netns::command(&self.netns, "bird");
        command
            .arg("-c")
            .arg(&config)
            .arg("-s")
            .arg(self.bird_socket())
            .arg("-P")
            .arg(self.dir.join("bird.pid"));
        // BIRD goes into the background and would keep a pipe open.
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        anyhow::ensure!(status.success(), "bird did not start with {}", config.display());
        wait::until("BIRD answers", Duration::from_secs(10), || {
            Ok(self.birdc(&["show", "status"])?.contains("up and running"))
        })
    }

    fn start_frr(&self, nodes: &[(String, String)]) -> Result<()> {
        let run = self.dir.join("run");
        std::fs::create_dir_all(&run)?;
        let config = self.dir.join("frr.conf");
        std::fs::write(&config, frr_config(nodes))?;
        netns::run(Command::new("chown").args(["-R", "frr:frr"]).arg(&self.dir))?;
        for daemon in ["zebra", "bgpd"] {
            let mut command = netns::command(&self.netns, format!("/usr/lib/frr/{daemon}"));
            command.args(["-d", "-u", "frr", "-g", "frr", "-P", "0", "-f"]).arg(&config);
            command.arg("-i").arg(run.join(format!("{daemon}.pid")));
            command.arg("-z").arg(run.join("zserv.api")).arg("--vty_socket").arg(&run);
            let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
            anyhow::ensure!(status.success(), "{daemon} did not start with {}", config.display());
        }
        wait::until("FRR answers", Duration::from_secs(10), || {
            Ok(self.vtysh_text("show bgp summary")?.contains("local AS"))
        })
    }

    fn bird_socket(&self) -> PathBuf {
        self.dir.join("bird.ctl")
    }

    /// Runs a command of BIRD's operator and returns what it says.
    pub fn birdc(&self, words: &[&str]) -> Result<String> {
        let output = netns::run(Command::new("birdc").arg("-s").arg(self.bird_socket()).args(words))?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().filter(|line| !line.starts_with("BIRD 2")).map(|line| format!("{line}\n")).collect())
    }

    fn vtysh(&self) -> Command {
        let mut command = netns::command(&self.netns, "vtysh");
        command.arg("--vty_socket").arg(self.dir.join("run"));
        command
    }

    fn vtysh_text(&self, words: &str) -> Result<String> {
        let output = netns::run(self.vtysh().args(["-c", words])).context("vtysh")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn bird_config(dir: &Path, nodes: &[(String, String)]) -> String {
    let mut text = format!(
        r#"log "{}" all;
router id 172.30.0.1;
protocol device {{ scan time 10; }}
protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; merge paths on; }}
protocol kernel {{ ipv6 {{ import none; export where source = RTS_BGP; }}; merge paths on; }}
template bgp node {{
  local as {ROUTER_ASN};
  hold time 9; connect retry time 1; connect delay time 1; error wait time 1,2;
  graceful restart on;
  ipv4 {{ import all; export none; }};
  ipv6 {{ import all; export none; }};
}}
"#,
        dir.join("bird.log").display()
    );
    for (name, address) in nodes {
        let _ = writeln!(text, "protocol bgp {name} from node {{ neighbor {address} as {NODE_ASN}; }}");
    }
    text
}

fn frr_config(nodes: &[(String, String)]) -> String {
    let mut text = format!(
        "frr defaults datacenter\nhostname tor\nip forwarding\nipv6 forwarding\n\
         router bgp {ROUTER_ASN}\n bgp router-id 172.30.0.1\n no bgp ebgp-requires-policy\n \
         bgp graceful-restart\n"
    );
    for (_, address) in nodes {
        text.push_str(&frr_neighbor(address));
    }
    text
}

fn frr_neighbor(address: &str) -> String {
    format!(
        " neighbor {address} remote-as {NODE_ASN}\n neighbor {address} timers 3 9\n \
         neighbor {address} timers connect 1\n address-family ipv6 unicast\n  \
         neighbor {address} activate\n exit-address-family\n"
    )
}
