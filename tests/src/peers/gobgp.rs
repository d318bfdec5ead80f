//! GoBGP.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::Result;
use serde_json::Value;

use super::process::Processes;
use super::{Driver, Heard, Neighbor, Originated, Place, Session, Setup};
use crate::lab::netns;

pub(super) struct GoBgp;

impl Driver for GoBgp {
    fn version(&self) -> &'static [&'static str] {
        &["gobgpd", "--version"]
    }

    fn configure(&self, place: &Place, setup: &Setup) -> Result<()> {
        std::fs::write(place.file("gobgp.toml"), config(setup)).map_err(Into::into)
    }

    fn start(&self, place: &Place, _setup: &Setup, processes: &mut Processes) -> Result<()> {
        let mut command = netns::command(&place.netns, "gobgpd");
        command.arg("-f").arg(place.file("gobgp.toml"));
        command.args(["--api-hosts", "127.0.0.1:50051", "--pprof-disable", "--log-plain", "-l", "debug"]);
        if place.restarting {
            command.arg("-r");
        }
        processes.spawn(&mut command, &place.file("log"))
    }

    fn ready(&self, place: &Place, setup: &Setup) -> Result<bool> {
        let global = place.ask(&["gobgp", "global"])?;
        if !global.contains(&setup.asn.to_string()) {
            return Ok(false);
        }
        for route in &setup.routes {
            announce(place, route)?;
        }
        // Sessions wait until the routes are there: an End-of-RIB before them would say that they are gone.
        for neighbor in &setup.neighbors {
            place.ask(&["gobgp", "neighbor", &neighbor.remote.to_string(), "enable"])?;
        }
        Ok(true)
    }

    fn reload(&self, place: &Place, setup: &Setup) -> Result<()> {
        let pids = netns::run(std::process::Command::new("ip").args(["netns", "pids", &place.netns]))?;
        for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.trim() == "gobgpd" {
                let pid = nix::unistd::Pid::from_raw(pid.parse()?);
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP)?;
            }
        }
        for family in ["ipv4", "ipv6"] {
            place.ask(&["gobgp", "global", "rib", "del", "all", "-a", family])?;
        }
        for route in &setup.routes {
            announce(place, route)?;
        }
        Ok(())
    }

    fn session(&self, place: &Place, neighbor: &Neighbor) -> Result<Session> {
        let remote = neighbor.remote.to_string();
        let json = place.ask_json(&["gobgp", "-j", "neighbor", &remote])?;
        let mut words = place.ask(&["gobgp", "neighbor", &remote])?;
        let json = if json.is_array() { json[0].clone() } else { json };
        // 6 is ESTABLISHED; the word stands in the text only.
        let established = json["state"]["session_state"] == 6;
        let state = json["state"]["session_state"].to_string();
        let updates = json["state"]["messages"]["received"]["update"].as_u64();
        let updates =
            updates.or_else(|| json["state"]["messages"]["received"]["update"].as_str()?.parse().ok());
        words.push_str(&std::fs::read_to_string(place.file("log")).unwrap_or_default());
        Ok(Session { established, state, updates: updates.unwrap_or(0), refreshes: 0, words })
    }

    fn heard(&self, place: &Place, neighbor: &Neighbor) -> Result<Vec<Heard>> {
        let mut heard = Vec::new();
        for (family, wanted) in [("ipv4", neighbor.ipv4), ("ipv6", neighbor.ipv6)] {
            if !wanted {
                continue;
            }
            let remote = neighbor.remote.to_string();
            let table = place.ask_json(&["gobgp", "-j", "neighbor", &remote, "adj-in", "-a", family])?;
            for (prefix, paths) in table.as_object().into_iter().flatten() {
                let paths = paths.as_array().cloned().unwrap_or_default();
                heard.extend(paths.iter().map(|path| read(prefix, path)));
            }
        }
        Ok(heard)
    }

    fn refresh(&self, place: &Place, neighbor: &Neighbor) -> Result<()> {
        // `softresetin` works on the table that GoBGP keeps; only a change of families would ask the other side.
        place.ask(&["gobgp", "neighbor", &neighbor.remote.to_string(), "softresetin"]).map(drop)
    }

    fn shut(&self, place: &Place, neighbor: &Neighbor, message: &str) -> Result<()> {
        let remote = neighbor.remote.to_string();
        place.ask(&["gobgp", "neighbor", &remote, "shutdown", "--reason", message]).map(drop)
    }

    fn kernel_protocol(&self) -> Option<&'static str> {
        None
    }
}

fn announce(place: &Place, route: &Originated) -> Result<()> {
    let prefix = route.prefix.to_string();
    let family = if route.prefix.is_ipv6() { "ipv6" } else { "ipv4" };
    let mut words = vec!["gobgp".to_owned(), "global".into(), "rib".into(), "add".into(), "-a".into()];
    words.extend([family.to_owned(), prefix]);
    let list = |items: Vec<String>| items.join(",");
    let communities = route.communities.iter().map(|(high, low)| format!("{high}:{low}")).collect::<Vec<_>>();
    if !communities.is_empty() {
        words.extend(["community".into(), list(communities)]);
    }
    let large = route.large_communities.iter().map(|(a, b, c)| format!("{a}:{b}:{c}")).collect::<Vec<_>>();
    if !large.is_empty() {
        words.extend(["large-community".into(), list(large)]);
    }
    for (asn, value) in &route.route_targets {
        words.extend(["rt".into(), format!("{asn}:{value}")]);
    }
    if let Some(hop) = route.next_hop {
        words.extend(["nexthop".into(), hop.to_string()]);
    }
    if let Some(med) = route.med {
        words.extend(["med".into(), med.to_string()]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    place.ask(&words).map(drop)
}

fn config(setup: &Setup) -> String {
    let mut text = format!(
        "[global.config]\n  as = {}\n  router-id = \"{}\"\n  port = 179\n",
        setup.asn, setup.router_id
    );
    for neighbor in &setup.neighbors {
        text.push_str(&session(neighbor));
    }
    text
}

fn session(neighbor: &Neighbor) -> String {
    let mut text = format!(
        "[[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"{}\"\n    peer-as = {}\n    admin-down = true\n",
        neighbor.remote, neighbor.asn
    );
    if let Some(password) = &neighbor.password {
        let _ = writeln!(text, "    auth-password = \"{password}\"");
    }
    let _ = writeln!(
        text,
        "  [neighbors.transport.config]\n    passive-mode = {}{}",
        neighbor.passive,
        neighbor.local.map(|local| format!("\n    local-address = \"{local}\"")).unwrap_or_default()
    );
    let _ = writeln!(
        text,
        "  [neighbors.timers.config]\n    hold-time = {}\n    keepalive-interval = {}\n    connect-retry = 1\n    \
         idle-hold-time-after-reset = 1",
        neighbor.hold,
        neighbor.hold / 3
    );
    if neighbor.ttl_security {
        text.push_str("  [neighbors.ttl-security.config]\n    enabled = true\n    ttl-min = 255\n");
    }
    if let Some(seconds) = neighbor.restart {
        let _ = writeln!(
            text,
            "  [neighbors.graceful-restart.config]\n    enabled = true\n    restart-time = {seconds}\n    \
             notification-enabled = true\n    long-lived-enabled = {}",
            neighbor.long_lived.is_some()
        );
    }
    for (family, wanted) in [("ipv4-unicast", neighbor.ipv4), ("ipv6-unicast", neighbor.ipv6)] {
        if wanted {
            text.push_str(&family_config(neighbor, family));
        }
    }
    text
}

fn family_config(neighbor: &Neighbor, family: &str) -> String {
    let mut text = format!(
        "  [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]\n      afi-safi-name = \"{family}\"\n"
    );
    if neighbor.restart.is_some() {
        text.push_str("    [neighbors.afi-safis.mp-graceful-restart.config]\n      enabled = true\n");
    }
    if let Some(seconds) = neighbor.long_lived {
        let _ = writeln!(
            text,
            "    [neighbors.afi-safis.long-lived-graceful-restart.config]\n      enabled = true\n      \
             restart-time = {seconds}"
        );
    }
    if neighbor.add_path.receive || neighbor.add_path.send {
        let send = if neighbor.add_path.send { 8 } else { 0 };
        let _ = writeln!(
            text,
            "    [neighbors.afi-safis.add-paths.config]\n      receive = {}\n      send-max = {send}",
            neighbor.add_path.receive
        );
    }
    if let Some(limit) = neighbor.max_prefixes {
        let _ = writeln!(
            text,
            "    [neighbors.afi-safis.prefix-limit.config]\n      max-prefixes = {limit}\n      \
             shutdown-threshold-pct = 80"
        );
    }
    text
}

/// A path: its attributes are a list of objects with the number of their type.
fn read(prefix: &str, path: &Value) -> Heard {
    let mut heard = Heard {
        prefix: prefix.to_owned(),
        stale: path["stale"] == true,
        words: path.to_string(),
        ..Heard::default()
    };
    for attribute in path["attrs"].as_array().into_iter().flatten() {
        let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
        let list = |name: &str| attribute[name].as_array().cloned().unwrap_or_default();
        match attribute["type"].as_u64() {
            Some(2) => {
                let segments = list("as_paths");
                let asns =
                    segments.iter().flat_map(|segment| segment["asns"].as_array().into_iter().flatten());
                heard.as_path = asns.filter_map(number).collect();
            }
            Some(3 | 14) => heard.next_hops.extend(attribute["nexthop"].as_str().map(str::to_owned)),
            Some(4) => heard.med = number(&attribute["metric"]),
            Some(8) => {
                let values = list("communities");
                let values = values.iter().filter_map(number);
                heard.communities =
                    values.map(|value| format!("{}:{}", value >> 16, value & 0xffff)).collect();
            }
            Some(16) => heard.route_targets = targets(&list("value")),
            Some(32) => {
                let values = list("value");
                heard.large_communities = values
                    .iter()
                    .map(|v| format!("{}:{}:{}", v["ASN"], v["LocalData1"], v["LocalData2"]))
                    .collect();
            }
            _ => {}
        }
    }
    heard
}

fn targets(values: &[Value]) -> BTreeSet<String> {
    values
        .iter()
        .filter(|value| value["subtype"] == 2)
        .filter_map(|value| value["value"].as_str().map(str::to_owned))
        .collect()
}
