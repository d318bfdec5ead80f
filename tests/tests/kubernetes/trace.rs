//! `manxctl trace` on the real cluster: what is well is told so, and each fault is found and named where it is.

#[path = "dropped.rs"]
mod dropped;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manx_tests::kubernetes::{Cluster, Family};
use manx_tests::lab::{netns, wait};
use serde_json::{Value, json};

use super::places::LINES;
use super::world::{World, backend, pod, service};
use super::{Scenario, shared};

/// The scenarios of this module.
pub(crate) const SCENARIOS: &[(&str, Scenario)] =
    &[("a_trace_shows_the_way_of_a_packet_and_names_what_is_wrong_on_it", trace)];

/// How long a session may take to end or to come back.
const PATIENCE: Duration = Duration::from_secs(30);

fn trace() -> Result<()> {
    let cluster = shared()?;
    let objects = vec![
        pod("a1", 1, "client", &[]),
        backend("a2", 1, "near", LINES),
        backend("b1", 2, "web", LINES),
        service("web", "web", &json!({})),
        service("none", "nobody", &json!({})),
    ];
    let world = World::start(&cluster, "trace", objects)?;
    let stage = Stage { cluster: &cluster, world: &world };
    stage.healthy()?;
    stage.hidden()?;
    stage.on_nodes()?;
    stage.rules()?;
    stage.droppers()?;
    stage.between()?;
    stage.away()?;
    stage.of_kubernetes()?;
    stage.nothing_stays()
}

struct Stage<'a> {
    cluster: &'a Cluster,
    world: &'a World<'a>,
}

/// Undoes a fault, also when what was to be found was not.
struct Undo<F: FnMut() -> Result<()>>(F);

impl<F: FnMut() -> Result<()>> Drop for Undo<F> {
    fn drop(&mut self) {
        if let Err(error) = (self.0)() {
            eprintln!("a fault could not be taken out: {error:#}");
        }
    }
}

/// Runs each line in a network namespace.
fn all(netns: &str, lines: &[String]) -> Result<()> {
    for line in lines {
        netns::run(netns::command(netns, "sh").args(["-ec", line]))?;
    }
    Ok(())
}

impl Stage<'_> {
    fn manxctl(&self) -> Result<Command> {
        let mut command = self.cluster.manxctl_command()?;
        command.args(["-n", "trace", "trace"]);
        Ok(command)
    }

    /// Its exit status, and what it says as data.
    fn told(&self, args: &[&str]) -> Result<(i32, Value)> {
        let output = self.manxctl()?.args(args).args(["-o", "json"]).output()?;
        let code = output.status.code().context("it ended by itself")?;
        let data = serde_json::from_slice(&output.stdout).with_context(|| {
            format!("manxctl trace {args:?}: {}", String::from_utf8_lossy(&output.stderr))
        })?;
        Ok((code, data))
    }

    /// A trace finds nothing wrong.
    fn well(&self, args: &[&str]) -> Result<Value> {
        let (code, data) = self.told(args)?;
        ensure!(code == 0, "manxctl trace {args:?}: {code}, {data:#}");
        Ok(data)
    }

    /// A trace names just this fault, in these words, and shows it to people.
    fn finds(&self, args: &[&str], name: &str, words: &[&str]) -> Result<()> {
        let (code, data) = self.told(args)?;
        let faults = data["faults"].as_array().context("faults")?;
        let errors: Vec<&Value> = faults.iter().filter(|fault| fault["weight"] == "error").collect();
        let right = code == 1 && errors.len() == 1 && errors[0]["name"] == name;
        ensure!(right, "{name} was to be found, and exit status 1: {code}, {data:#}");
        let said = |key: &str| errors[0][key].as_str().unwrap_or_default();
        let text = format!("{}: {}", said("object"), said("what"));
        for word in words {
            ensure!(text.contains(word), "{name}: {word:?} is not in {text}");
        }
        ensure!(errors[0]["cure"].as_str().is_some_and(|cure| !cure.is_empty()), "{name} has a cure");
        println!("{name}: {text}");
        Ok(())
    }

    fn healthy(&self) -> Result<()> {
        let outside = self.cluster.outside();
        for family in self.cluster.families().list() {
            let six: &[&str] = if *family == Family::Ipv6 { &["-6"] } else { &[] };
            let away = outside.address(*family).context("an address outside")?.to_string();
            for to in [&["b1"][..], &["a2"], &["svc/web"], &["b1", "--port", "8081"], &[&away]] {
                let args = [&["a1"], to, six].concat();
                let data = self.well(&args)?;
                let hops = data["hops"].as_array().map_or(0, Vec::len);
                let due = if to == ["a2"] {
                    3
                } else if to == [&*away] {
                    4
                } else {
                    5
                };
                ensure!(hops == due, "manxctl trace {args:?}: {hops} hops, {due} were due: {data:#}");
            }
            let udp = [&["a1", "svc/web", "--protocol", "udp"], six].concat();
            self.well(&udp)?;
        }
        let told = self.well(&["a1", "svc/web"])?;
        ensure!(told.to_string().contains("Service: "), "the chosen backend is shown: {told:#}");
        self.pictures()
    }

    fn pictures(&self) -> Result<()> {
        for (form, begin) in
            [("svg", "<svg"), ("html", "<!doctype html>"), ("wide", "pod trace/a1 → pod trace/b1")]
        {
            let output = self.manxctl()?.args(["a1", "b1", "-o", form]).output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            ensure!(output.status.success() && text.starts_with(begin), "-o {form}: {text}");
            if form == "wide" {
                println!("{text}");
            }
        }
        Ok(())
    }

    /// Puts lines into a namespace, looks, and takes them out by other lines.
    fn with(
        &self,
        netns: &str,
        [put, out]: [&[String]; 2],
        found: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let _undo = Undo(|| all(netns, out));
        all(netns, put)?;
        found()
    }

    /// Faults of nodes.
    fn on_nodes(&self) -> Result<()> {
        let b = self.world.pod("b1")?.address(Family::Ipv4)?;
        let a = self.world.pod("a1")?.address(Family::Ipv4)?;
        let (node1, node2) = (self.cluster.node(1).netns(), self.cluster.node(2).netns());
        let text = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<String>>();
        let aside =
            "ip link add aside type veth peer name aside2; ip link set aside up; ip link set aside2 up";
        let gone = text(&["ip link del aside"]);

        let put = [text(&[aside]), vec![format!("ip route add {b}/32 dev aside")]].concat();
        self.with(&node1, [&put, &gone], || {
            self.finds(&["a1", "b1"], "wrongRoute", &["node node1", &format!("{b}/32"), "aside"])
        })?;

        let put = [
            text(&[aside, "sysctl -qw net.ipv4.conf.eth0.rp_filter=1"]),
            vec![format!("ip route add {a}/32 dev aside")],
        ]
        .concat();
        let out = [gone, text(&["sysctl -qw net.ipv4.conf.eth0.rp_filter=0"])].concat();
        self.with(&node2, [&put, &out], || {
            self.finds(&["a1", "b1"], "sourceCheck", &["node node2", "rp_filter=1 of eth0", "aside"])
        })?;

        // Of IPv6: the API server asks the node over IPv4.
        let router = self.cluster.node(1).router_address(Family::Ipv6);
        let put = vec![format!("ip neigh replace {router} lladdr 02:00:00:00:00:99 nud permanent dev eth0")];
        let out = vec![format!("ip neigh del {router} dev eth0")];
        self.with(&node1, [&put, &out], || {
            self.finds(
                &["a1", "b1", "-6"],
                "neighbour",
                &["node node1", &router.to_string(), "02:00:00:00:00:99"],
            )
        })?;

        let put = vec![format!("ip route add blackhole {b}/32")];
        let out = vec![format!("ip route del blackhole {b}/32")];
        self.with(&node1, [&put, &out], || {
            self.finds(&["a1", "b1"], "blackHole", &["node node1", &format!("blackhole {b}/32")])
        })?;

        let put = text(&["nft 'table inet wall { chain forward { type filter hook forward priority 0; \
                          ip protocol icmp counter drop comment \"no pings\"; }; }'"]);
        let out = text(&["nft delete table inet wall"]);
        self.with(&node2, [&put, &out], || {
            let handle = netns::text(&node2, &["nft", "-a", "list", "chain", "inet", "wall", "forward"])?;
            let handle = handle.lines().find(|line| line.contains("no pings")).unwrap_or_default();
            let handle = handle.rsplit(' ').next().context("a handle")?;
            let words = format!("handle {handle} (\"no pings\") in chain forward of table inet wall");
            self.finds(&["a1", "b1"], "firewall", &["node node2", &words])
        })
    }

    /// Faults of the router between.
    fn between(&self) -> Result<()> {
        let b = self.world.pod("b1")?.address(Family::Ipv4)?;
        let tor = self.cluster.netns("tor");
        let wall = |rule: &str| vec![format!("nft 'table inet wall {{ chain c {{ {rule}; }}; }}'")];
        let out = vec!["nft delete table inet wall".to_owned()];
        let put = wall(&format!("type filter hook forward priority 0; ip daddr {b} drop"));
        self.with(&tor, [&put, &out], || {
            self.finds(
                &["a1", "b1"],
                "lostOnWire",
                &["node node1", "never comes to node node2", "172.30.1.1"],
            )
        })?;

        let put = [
            vec!["ip link set node2 mtu 1400".to_owned()],
            wall("type filter hook output priority 0; icmp type destination-unreachable drop"),
        ]
        .concat();
        let out = [out, vec!["ip link set node2 mtu 1500".to_owned()]].concat();
        self.with(&tor, [&put, &out], || {
            self.finds(
                &["a1", "b1"],
                "mtu",
                &["1500 octets are lost behind the uplink of node node1", "1400 pass"],
            )
        })
    }

    /// A Service without endpoints, and a session that is down.
    fn of_kubernetes(&self) -> Result<()> {
        self.finds(&["a1", "svc/none"], "noEndpoints", &["Service trace/none"])?;
        let mesh = |topology: &str| {
            let patch = json!({"spec": {"topology": topology}}).to_string();
            self.cluster
                .kubectl(&["patch", "bgpconfiguration", "default", "--type=merge", "-p", &patch])
                .map(drop)
        };
        let router = self.cluster.router();
        let sessions = self.cluster.nodes().len();
        let up = |count: usize| {
            wait::until("the router has its sessions", PATIENCE, || Ok(router.established()? == count))
        };
        let _undo = Undo(|| {
            mesh("FullMesh")?;
            router.birdc(&["enable", "node2"])?;
            up(sessions)?;
            wait::until("pods reach each other again", PATIENCE, || Ok(self.told(&["a1", "b1"])?.0 == 0))
        });
        mesh("None")?;
        router.birdc(&["disable", "node2"])?;
        up(sessions - 1)?;
        let words = ["node node2: its session with peer/tor-node2", "node node1 has no route of Manx"];
        let mut last = Ok(());
        // The routes of the mesh go, and NodeNetworks say so, a moment later.
        wait::until("the session is named", PATIENCE, || {
            last = self.finds(&["a1", "b1"], "sessionDown", &words);
            Ok(last.is_ok())
        })
        .or(last)
    }

    /// Tables, sockets and processes of traces are gone, also of one that was killed.
    fn nothing_stays(&self) -> Result<()> {
        let mut killed = self.manxctl()?.args(["a1", "b1"]).spawn()?;
        std::thread::sleep(Duration::from_millis(700));
        killed.kill()?;
        killed.wait()?;
        for node in self.cluster.nodes() {
            wait::until("nothing of a trace is left", PATIENCE, || {
                let tables = netns::text(&node.netns(), &["nft", "list", "tables"])?;
                Ok(!tables.contains("manxctl-trace"))
            })?;
        }
        Ok(())
    }
}
