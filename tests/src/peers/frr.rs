//! FRR: zebra and bgpd.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::process::Processes;
use super::{Driver, Heard, Neighbor, PATIENCE, Place, Remote, Session, Setup};
use crate::lab::{netns, wait};

pub(super) struct Frr;

impl Driver for Frr {
    fn version(&self) -> &'static [&'static str] {
        &["/usr/lib/frr/bgpd", "--version"]
    }

    fn configure(&self, place: &Place, setup: &Setup) -> Result<()> {
        let run = place.file("run");
        std::fs::create_dir_all(&run)?;
        std::fs::write(place.file("frr.conf"), config(setup))?;
        netns::run(Command::new("chown").args(["-R", "frr:frr"]).arg(&place.dir)).map(drop)
    }

    fn start(&self, place: &Place, setup: &Setup, processes: &mut Processes) -> Result<()> {
        let run = place.file("run");
        let door = run.join("zserv.api");
        // A killed zebra leaves its socket behind.
        let _ = std::fs::remove_file(&door);
        for daemon in ["zebra", "bgpd"] {
            let mut command = netns::command(&place.netns, format!("/usr/lib/frr/{daemon}"));
            command.args(["-u", "frr", "-g", "frr", "-P", "0", "--log", "stdout", "-f"]);
            command.arg(place.file("frr.conf"));
            command.arg("-i").arg(run.join(format!("{daemon}.pid")));
            command.arg("-z").arg(run.join("zserv.api")).arg("--vty_socket").arg(&run);
            if daemon == "bgpd" && !setup.kernel {
                command.arg("--no_kernel");
            }
            processes.spawn(&mut command, &place.file("log"))?;
            // A bgpd that finds no zebra tries again after 10 s only, and sends useless next hops meanwhile.
            wait::until("zebra listens", PATIENCE, || Ok(door.exists()))?;
        }
        Ok(())
    }

    fn ready(&self, place: &Place, setup: &Setup) -> Result<bool> {
        let config = vtysh(place, "show running-config")?;
        // bgpd finds no next hop before zebra has told it of the links.
        Ok(config.contains(&format!("router bgp {}", setup.asn))
            && vtysh(place, "show interface brief")?.contains("up"))
    }

    fn reload(&self, place: &Place, setup: &Setup) -> Result<()> {
        let mut command = netns::command(&place.netns, "vtysh");
        command.arg("--vty_socket").arg(place.file("run")).args(["-c", "configure terminal"]);
        for line in config(setup).lines().filter(|line| !line.starts_with("frr ")) {
            command.args(["-c", line.trim()]);
        }
        netns::run(&mut command).map(drop)
    }

    fn session(&self, place: &Place, neighbor: &Neighbor) -> Result<Session> {
        let words = vtysh(place, &format!("show bgp neighbors {} json", neighbor.remote))?;
        let json: Value = serde_json::from_str(&words).context("vtysh printed no JSON")?;
        let json = json.as_object().and_then(|all| all.values().next()).cloned().unwrap_or_default();
        let state = json["bgpState"].as_str().unwrap_or_default().to_owned();
        let updates = json["messageStats"]["updatesRecv"].as_u64().unwrap_or(0);
        let refreshes = json["messageStats"]["routeRefreshRecv"].as_u64().unwrap_or(0);
        Ok(Session { established: state == "Established", state, updates, refreshes, words })
    }

    fn heard(&self, place: &Place, neighbor: &Neighbor) -> Result<Vec<Heard>> {
        let mut heard = Vec::new();
        for (family, wanted) in [("ipv4", neighbor.ipv4), ("ipv6", neighbor.ipv6)] {
            if !wanted {
                continue;
            }
            let table = vtysh_json(
                place,
                &format!("show bgp {family} unicast neighbors {} routes json", neighbor.remote),
            )?;
            for prefix in table["routes"].as_object().into_iter().flat_map(|routes| routes.keys()) {
                let detail = vtysh_json(place, &format!("show bgp {family} unicast {prefix} json"))?;
                let paths = detail["paths"].as_array().cloned().unwrap_or_default();
                heard.extend(paths.iter().filter(|path| of(path, neighbor)).map(|path| read(prefix, path)));
            }
        }
        Ok(heard)
    }

    fn refresh(&self, place: &Place, neighbor: &Neighbor) -> Result<()> {
        for (family, wanted) in [("ipv4", neighbor.ipv4), ("ipv6", neighbor.ipv6)] {
            if wanted {
                vtysh(place, &format!("clear bgp {family} unicast {} soft in", neighbor.remote))?;
            }
        }
        Ok(())
    }

    fn shut(&self, place: &Place, neighbor: &Neighbor, message: &str) -> Result<()> {
        let mut command = netns::command(&place.netns, "vtysh");
        command.arg("--vty_socket").arg(place.file("run"));
        let asn = asn(place)?;
        for line in [
            "configure terminal".to_owned(),
            format!("router bgp {asn}"),
            format!("neighbor {} shutdown message {message}", neighbor.remote),
        ] {
            command.args(["-c", &line]);
        }
        netns::run(&mut command).map(drop)
    }

    fn kernel_protocol(&self) -> Option<&'static str> {
        Some("bgp")
    }
}

fn vtysh(place: &Place, words: &str) -> Result<String> {
    let run = place.file("run");
    place.ask(&["vtysh", "--vty_socket", run.to_str().context("a path in UTF-8")?, "-c", words])
}

fn vtysh_json(place: &Place, words: &str) -> Result<Value> {
    let text = vtysh(place, words)?;
    serde_json::from_str(&text).with_context(|| format!("{words} printed no JSON: {text}"))
}

fn asn(place: &Place) -> Result<String> {
    let config = vtysh(place, "show running-config")?;
    let line = config.lines().find_map(|line| line.strip_prefix("router bgp "));
    line.map(|rest| rest.trim().to_owned()).context("bgpd has no `router bgp`")
}

fn config(setup: &Setup) -> String {
    let mut text = format!(
        "frr defaults datacenter\nhostname {}\nlog stdout\n\
         router bgp {}\n bgp router-id {}\n no bgp ebgp-requires-policy\n no bgp network import-check\n \
         no bgp default ipv4-unicast\n bgp bestpath as-path multipath-relax\n",
        setup.router_id, setup.asn, setup.router_id
    );
    if setup.neighbors.iter().any(|neighbor| neighbor.restart.is_some()) {
        let seconds = setup.neighbors.iter().find_map(|neighbor| neighbor.restart).unwrap_or(120);
        let _ = writeln!(text, " bgp graceful-restart");
        let _ = writeln!(text, " bgp graceful-restart preserve-fw-state");
        let _ = writeln!(text, " bgp graceful-restart restart-time {seconds}");
    }
    if let Some(seconds) = setup.neighbors.iter().find_map(|neighbor| neighbor.long_lived) {
        let _ = writeln!(text, " bgp long-lived-graceful-restart stale-time {seconds}");
    }
    for neighbor in &setup.neighbors {
        text.push_str(&session(neighbor));
    }
    text.push_str(&families(setup));
    let mut extra = String::new();
    for (number, route) in setup.routes.iter().enumerate() {
        let _ = writeln!(extra, "route-map own{number} permit 10");
        let mut set = |what: &str, values: Vec<String>| {
            if !values.is_empty() {
                let _ = writeln!(extra, " set {what} {}", values.join(" "));
            }
        };
        set("community", route.communities.iter().map(|(high, low)| format!("{high}:{low}")).collect());
        let large = route.large_communities.iter().map(|(a, b, c)| format!("{a}:{b}:{c}")).collect();
        set("large-community", large);
        set(
            "extcommunity rt",
            route.route_targets.iter().map(|(asn, value)| format!("{asn}:{value}")).collect(),
        );
        if let Some(hop) = route.next_hop.filter(IpAddr::is_ipv6) {
            let _ = writeln!(extra, " set ipv6 next-hop global {hop}");
        }
        if let Some(med) = route.med {
            let _ = writeln!(extra, " set metric {med}");
        }
        extra.push_str("exit\n");
    }
    for neighbor in &setup.neighbors {
        if let Remote::Interface(link) = &neighbor.remote {
            let _ =
                writeln!(extra, "interface {link}\n ipv6 nd ra-interval 1\n no ipv6 nd suppress-ra\nexit");
        }
    }
    text + &extra
}

fn session(neighbor: &Neighbor) -> String {
    let mut text = String::new();
    let name = &neighbor.remote;
    let mut line = |words: String| {
        let _ = writeln!(text, " neighbor {words}");
    };
    match name {
        Remote::Interface(link) => line(format!("{link} interface remote-as {}", neighbor.asn)),
        Remote::Address(_) => line(format!("{name} remote-as {}", neighbor.asn)),
        Remote::LinkLocal(address, link) => {
            line(format!("{address} remote-as {}", neighbor.asn));
            line(format!("{address} interface {link}"));
        }
    }
    line(format!("{name} timers {} {}", neighbor.hold / 3, neighbor.hold));
    line(format!("{name} timers connect 1"));
    if neighbor.passive {
        line(format!("{name} passive"));
    }
    if let Some(password) = &neighbor.password {
        line(format!("{name} password {password}"));
    }
    if neighbor.ttl_security {
        line(format!("{name} ttl-security hops 1"));
    }
    if neighbor.extended_next_hop {
        line(format!("{name} capability extended-nexthop"));
    }
    if let Some(role) = neighbor.role {
        line(format!("{name} local-role {role}"));
    }
    text
}

fn families(setup: &Setup) -> String {
    let mut text = String::new();
    for (family, six) in [("ipv4", false), ("ipv6", true)] {
        let _ = writeln!(text, " address-family {family} unicast");
        for (number, route) in setup.routes.iter().enumerate() {
            if route.prefix.is_ipv6() == six {
                let _ = writeln!(text, "  network {} route-map own{number}", route.prefix);
            }
        }
        for neighbor in setup.neighbors.iter().filter(|n| if six { n.ipv6 } else { n.ipv4 }) {
            let name = &neighbor.remote;
            let _ = writeln!(text, "  neighbor {name} activate");
            if neighbor.add_path.send {
                let _ = writeln!(text, "  neighbor {name} addpath-tx-all-paths");
            }
            if let Some(limit) = neighbor.max_prefixes {
                let _ = writeln!(text, "  neighbor {name} maximum-prefix {limit} restart 1");
            }
        }
        text.push_str(" exit-address-family\n");
    }
    text.push_str("exit\n");
    text
}

/// Whether a path of `show bgp … PREFIX json` came from that neighbor.
fn of(path: &Value, neighbor: &Neighbor) -> bool {
    let peer = &path["peer"];
    match &neighbor.remote {
        Remote::Address(address) => peer["peerId"] == address.to_string(),
        Remote::LinkLocal(address, _) => peer["peerId"] == address.to_string(),
        Remote::Interface(link) => peer["interface"] == **link || peer["hostname"] == **link,
    }
}

fn read(prefix: &str, path: &Value) -> Heard {
    let texts = |value: &Value| value.as_str().map(str::to_owned);
    let split = |value: &Value| {
        let text = value.as_str().unwrap_or_default().to_owned();
        text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let next_hops = path["nexthops"].as_array().into_iter().flatten().filter_map(|hop| texts(&hop["ip"]));
    let asns = path["aspath"]["string"].as_str().unwrap_or_default().split_whitespace();
    let targets = split(&path["extendedCommunity"]["string"]).into_iter();
    Heard {
        prefix: prefix.to_owned(),
        next_hops: next_hops.collect(),
        as_path: asns.filter_map(|asn| asn.parse().ok()).collect(),
        communities: split(&path["community"]["string"]).into_iter().collect(),
        large_communities: split(&path["largeCommunity"]["string"]).into_iter().collect(),
        route_targets: targets.filter_map(|text| text.strip_prefix("RT:").map(str::to_owned)).collect(),
        med: path["metric"].as_u64().and_then(|med| u32::try_from(med).ok()),
        stale: path["stale"] == true,
        words: path.to_string(),
    }
}
