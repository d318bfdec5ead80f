//! Faults that are not of routes and neighbours: who drops a packet, rules that lead it elsewhere, a node that cannot be
//! asked, and a pod that is hidden behind its node.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use manx_tests::kubernetes::{Family, program};
use manx_tests::lab::{netns, wait};

use super::super::places::Place;
use super::super::traffic::{Mirror, masquerades};
use super::{PATIENCE, Stage, Undo};

/// Where somebody outside answers.
const OUTSIDE: u16 = 7778;
/// Answers of nodes that are not there are not awaited long.
const BRIEFLY: [&str; 2] = ["--node-timeout", "4"];

fn lines(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

impl Stage<'_> {
    /// A pod that the node hides behind its own address is followed both ways, by each protocol.
    pub(super) fn hidden(&self) -> Result<()> {
        let _mirror = Mirror::start(&Place::outside(self.cluster), OUTSIDE)?;
        let port = OUTSIDE.to_string();
        for family in self.cluster.families().list() {
            if !masquerades(self.cluster, *family) {
                continue;
            }
            let away = self.cluster.outside().address(*family).context("an address outside")?.to_string();
            let node = self.cluster.node(1).address(*family).to_string();
            for protocol in ["icmp", "tcp", "udp"] {
                let mut args = vec!["a1", &away, "--protocol", protocol];
                if protocol != "icmp" {
                    args.extend(["--port", &port]);
                }
                let data = self.well(&args)?;
                let pass = &data["hops"][1]["exit"];
                let both = pass["there"] == true && pass["back"] == true;
                ensure!(both, "{protocol} to {away} passes the uplink both ways: {data:#}");
                let about = pass["about"].as_str().unwrap_or_default();
                ensure!(about.ends_with(&format!("as {node}")), "{protocol}: {about} is not as {node}");
                let notes = data["hops"][1]["notes"].to_string();
                for words in ["masquerade: ", &format!("goes out as {node}"), &format!("answers to {node}")] {
                    ensure!(notes.contains(words), "{protocol}: {words:?} is not in {notes}");
                }
            }
        }
        Ok(())
    }

    /// A rule of policy routing, which `explain` follows, too.
    pub(super) fn rules(&self) -> Result<()> {
        let b = self.world.pod("b1")?.address(Family::Ipv4)?;
        let put = vec![
            "ip link add aside type veth peer name aside2; ip link set aside up; ip link set aside2 up"
                .to_owned(),
            format!("ip route add {b}/32 dev aside table 177; ip rule add to {b} lookup 177 pref 100"),
        ];
        let out = lines(&["ip rule del pref 100; ip link del aside"]);
        let rule = format!("100: from all to {b} lookup 177");
        let node = self.cluster.node(1).netns();
        self.with(&node, [&put, &out], || {
            self.finds(&["a1", "b1"], "wrongRoute", &["node node1", "aside", "table 177", &rule])?;
            let output = self.cluster.manxctl_command()?.args(["-n", "trace", "explain", "b1"]).output()?;
            let text = String::from_utf8_lossy(&output.stdout).replace('\n', " ");
            let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let found =
                format!("node node1: its rule \"{rule}\" leads packets to {b} elsewhere: {b} dev aside");
            ensure!(output.status.code() == Some(1) && words.contains(&found), "explain: {found:?}: {text}");
            println!("{text}");
            Ok(())
        })?;
        let put = vec![format!("ip rule add to {b} blackhole pref 100")];
        let out = lines(&["ip rule del pref 100"]);
        let rule = format!("100: from all to {b} blackhole");
        self.with(&node, [&put, &out], || self.finds(&["a1", "b1"], "blackHole", &["node node1", &rule]))
    }

    /// Who drops packets besides nftables: both kinds of iptables, programs on links, and Manx's own guard.
    pub(super) fn droppers(&self) -> Result<()> {
        let node = self.cluster.node(2).netns();
        let b = self.world.pod("b1")?.address(Family::Ipv4)?;
        let rule = format!("FORWARD -d {b} -p icmp -m comment --comment 'no pings' -j DROP");
        let put = vec![
            "iptables-nft -A FORWARD -p tcp --dport 7 -j ACCEPT".to_owned(),
            format!("iptables-nft -A {rule}"),
        ];
        let out = lines(&["nft delete table ip filter"]);
        let words = ["node node2", "rule 2 (\"no pings\") in chain FORWARD of the table filter of iptables"];
        self.with(&node, [&put, &out], || self.finds(&["a1", "b1"], "firewall", &words))?;

        let put = vec![format!("iptables-legacy -A {rule}")];
        let out = vec![format!("iptables-legacy -D {rule}")];
        let words = ["node node2: a firewall of legacy iptables", "rule 1 (\"no pings\") in chain FORWARD"];
        self.with(&node, [&put, &out], || self.finds(&["a1", "b1"], "firewall", &words))?;

        let put = vec![
            "ip link add aside type veth peer name aside2; ip link set aside up; ip link set aside2 up"
                .to_owned(),
            "tc qdisc add dev eth0 clsact".to_owned(),
            format!(
                "tc filter add dev eth0 ingress protocol ip u32 match ip dst {b}/32 match ip protocol 1 0xff \
                 action mirred egress redirect dev aside"
            ),
        ];
        let out = lines(&["tc qdisc del dev eth0 clsact; ip link del aside"]);
        let words =
            ["node node2", "eth0 of node node2 has a filter of tc at ingress: u32, which may drop it"];
        self.with(&node, [&put, &out], || self.finds(&["a1", "b1"], "lostInNode", &words))?;
        self.guarded()
    }

    /// A pod that takes another hardware address, and finds its gateway or does not.
    fn guarded(&self) -> Result<()> {
        let a1 = self.world.pod("a1")?;
        let inside = |program: &str, line: &str| {
            let mut command = Command::new(program);
            command.args(line.split_whitespace());
            let output = a1.inside(|| netns::run(&mut command))?;
            anyhow::Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let link = inside("ip", "-o link show eth0")?;
        let own =
            link.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).context("a MAC")?;
        let neighbours = inside("ip", "neigh show dev eth0 nud permanent")?;
        ensure!(neighbours.contains("lladdr"), "the pod knows its gateway for good: {neighbours}");
        // A change of the address makes the kernel forget them.
        let gateways = || {
            neighbours.lines().try_for_each(|line| {
                let line = line.replace("PERMANENT", "nud permanent").replace("router", "");
                inside("ip", &format!("neigh replace {line} dev eth0")).map(drop)
            })
        };
        let _undo = Undo(|| {
            inside("ip", &format!("link set eth0 address {own}"))?;
            gateways()
        });
        let other = "02:00:00:00:00:77";
        inside("ip", &format!("link set eth0 address {other}"))?;
        let words =
            ["node node1: Manx's guard of the pod's link cali", other, &format!("Manx gave it {own}")];
        self.finds(&["a1", "b1"], "guard", &words)?;
        gateways()?;
        self.finds(&["a1", "b1"], "guard", &words)
    }

    /// The next hop to the API server is wrong: the node cannot be asked by it, and is found by another way.
    pub(super) fn away(&self) -> Result<()> {
        let node = self.cluster.node(1);
        let router = node.router_address(Family::Ipv4);
        let put = vec![format!("ip neigh replace {router} lladdr 02:00:00:00:00:99 nud permanent dev eth0")];
        let out = vec![format!("ip neigh del {router} dev eth0")];
        let folder = tempfile::tempdir()?;
        let reach = folder.path().join("reach");
        let agent = program("manx-agent")?;
        let mut script = "node=$1; shift 2; case $node in\n".to_owned();
        for node in self.cluster.nodes() {
            let enter = node.command(&agent);
            let words: Vec<_> = std::iter::once(enter.get_program()).chain(enter.get_args()).collect();
            let words = words.join(std::ffi::OsStr::new(" "));
            script += &format!("{}) exec {} \"$@\";;\n", node.name(), words.display());
        }
        std::fs::write(&reach, script + "esac\n")?;
        let through = format!("sh {} {{node}}", reach.display());
        self.with(&node.netns(), [&put, &out], || {
            let from = [&["a1", "b1"][..], &BRIEFLY].concat();
            self.finds(&from, "away", &["node node1", "its sessions with", "node3 are up"])?;
            let by = ["a1", "b1", "--through", &through];
            let words = ["node node1", &router.to_string(), "02:00:00:00:00:99"];
            self.finds(&by, "neighbour", &words)
        })?;
        wait::until("the node answers again", PATIENCE, || {
            Ok(self.told(&[&["a1", "b1"][..], &BRIEFLY].concat())?.0 == 0)
        })
    }
}
