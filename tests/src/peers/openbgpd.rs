//! OpenBGPD in its portable form.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, Result};
use serde_json::Value;

use super::process::Processes;
use super::{Driver, Heard, Neighbor, Place, Session, Setup};
use crate::lab::netns;

/// Where its unprivileged half locks itself in; made by its service otherwise.
const JAIL: &str = "/run/openbgpd";

pub(super) struct OpenBgpd;

impl Driver for OpenBgpd {
    fn version(&self) -> &'static [&'static str] {
        &["/usr/sbin/bgpd", "-V"]
    }

    fn configure(&self, place: &Place, setup: &Setup) -> Result<()> {
        let file = place.file("bgpd.conf");
        std::fs::write(&file, config(place, setup))?;
        // It refuses a configuration that others may read.
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).map_err(Into::into)
    }

    fn start(&self, place: &Place, _setup: &Setup, processes: &mut Processes) -> Result<()> {
        std::fs::create_dir_all(JAIL)?;
        let mut command = netns::command(&place.netns, "/usr/sbin/bgpd");
        command.args(["-d", "-v", "-f"]).arg(place.file("bgpd.conf"));
        processes.spawn(&mut command, &place.file("log"))
    }

    fn ready(&self, place: &Place, setup: &Setup) -> Result<bool> {
        let neighbors = bgpctl(place, &["show", "neighbor"])?;
        Ok(neighbors["neighbors"].as_array().is_some_and(|all| all.len() == setup.neighbors.len()))
    }

    fn reload(&self, place: &Place, _setup: &Setup) -> Result<()> {
        bgpctl_text(place, &["reload"]).map(drop)
    }

    fn session(&self, place: &Place, neighbor: &Neighbor) -> Result<Session> {
        let remote = neighbor.remote.to_string();
        let json = bgpctl(place, &["show", "neighbor", &remote])?;
        let json = json["neighbors"][0].clone();
        let state = json["state"].as_str().unwrap_or_default().to_owned();
        let updates = json["stats"]["message"]["received"]["updates"].as_u64().unwrap_or(0);
        let mut words = bgpctl_text(place, &["show", "neighbor", &remote])?;
        words.push_str(&std::fs::read_to_string(place.file("log")).unwrap_or_default());
        let refreshes = received_frames(&json["stats"], false);
        Ok(Session { established: state == "Established", state, updates, refreshes, words })
    }

    fn heard(&self, place: &Place, neighbor: &Neighbor) -> Result<Vec<Heard>> {
        let remote = neighbor.remote.to_string();
        let table = bgpctl(place, &["show", "rib", "detail", "in", "neighbor", &remote])?;
        Ok(table["rib"].as_array().into_iter().flatten().map(read).collect())
    }

    fn refresh(&self, place: &Place, neighbor: &Neighbor) -> Result<()> {
        bgpctl_text(place, &["neighbor", &neighbor.remote.to_string(), "refresh"]).map(drop)
    }

    fn shut(&self, place: &Place, neighbor: &Neighbor, message: &str) -> Result<()> {
        bgpctl_text(place, &["neighbor", &neighbor.remote.to_string(), "down", message]).map(drop)
    }

    fn kernel_protocol(&self) -> Option<&'static str> {
        None
    }
}

/// How many beginnings and ends of refreshes came in, wherever this version of bgpctl shows them.
fn received_frames(stats: &Value, received: bool) -> u64 {
    let members = stats.as_object().into_iter().flatten();
    members
        .map(|(name, value)| match value.as_u64() {
            Some(count) if received && name.to_lowercase().ends_with("orr") => count,
            _ => received_frames(value, received || name == "received"),
        })
        .sum()
}

fn bgpctl_text(place: &Place, words: &[&str]) -> Result<String> {
    let socket = place.file("bgpd.sock");
    let mut argv = vec!["bgpctl", "-s", socket.to_str().context("a path in UTF-8")?];
    argv.extend(words);
    place.ask(&argv)
}

fn bgpctl(place: &Place, words: &[&str]) -> Result<Value> {
    let mut all = vec!["-j"];
    all.extend(words);
    let text = bgpctl_text(place, &all)?;
    serde_json::from_str(&text).with_context(|| format!("bgpctl printed no JSON: {text}"))
}

fn config(place: &Place, setup: &Setup) -> String {
    let mut text = format!(
        "AS {}\nrouter-id {}\nsocket \"{}\"\nfib-update no\nconnect-retry 1\n",
        setup.asn,
        setup.router_id,
        place.file("bgpd.sock").display()
    );
    for route in &setup.routes {
        let mut set = String::new();
        for (high, low) in &route.communities {
            let _ = write!(set, " community {high}:{low}");
        }
        for (a, b, c) in &route.large_communities {
            let _ = write!(set, " large-community {a}:{b}:{c}");
        }
        for (asn, value) in &route.route_targets {
            let _ = write!(set, " ext-community rt {asn}:{value}");
        }
        if let Some(med) = route.med {
            let _ = write!(set, " med {med}");
        }
        let set = if set.is_empty() { set } else { format!(" set {{{set} }}") };
        let _ = writeln!(text, "network {}{set}", route.prefix);
    }
    for neighbor in &setup.neighbors {
        text.push_str(&session(neighbor));
    }
    text.push_str("allow from any\nallow to any\n");
    text
}

fn session(neighbor: &Neighbor) -> String {
    let mut text = format!("neighbor {} {{\n", neighbor.remote);
    let mut line = |words: String| {
        let _ = writeln!(text, "  {words}");
    };
    line(format!("remote-as {}", neighbor.asn));
    line(format!("descr \"{}\"", neighbor.name));
    line(format!("holdtime {}", neighbor.hold));
    line(format!("announce IPv4 {}", if neighbor.ipv4 { "unicast" } else { "none" }));
    line(format!("announce IPv6 {}", if neighbor.ipv6 { "unicast" } else { "none" }));
    line("announce enhanced refresh yes".to_owned());
    if let Some(local) = neighbor.local {
        line(format!("local-address {local}"));
    }
    if neighbor.passive {
        line("passive".to_owned());
    }
    if let Some(password) = &neighbor.password {
        line(format!("tcp md5sig password {password}"));
    }
    if neighbor.ttl_security {
        line("ttl-security yes".to_owned());
    }
    line(format!("announce restart {}", if neighbor.restart.is_some() { "yes" } else { "no" }));
    if neighbor.add_path.receive {
        line("announce add-path recv yes".to_owned());
    }
    if neighbor.add_path.send {
        line("announce add-path send all".to_owned());
    }
    if let Some(role) = neighbor.role {
        line(format!("announce policy {role}"));
    }
    if let Some(limit) = neighbor.max_prefixes {
        line(format!("max-prefix {limit} restart 1"));
    }
    text.push_str("}\n");
    text
}

fn read(path: &Value) -> Heard {
    let text = |name: &str| path[name].as_str().unwrap_or_default();
    let words = |name: &str| -> Vec<String> {
        match &path[name] {
            Value::Array(values) => {
                values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
            }
            Value::String(text) => text.split_whitespace().map(str::to_owned).collect(),
            _ => Vec::new(),
        }
    };
    let targets = words("extended_communities").into_iter();
    Heard {
        prefix: text("prefix").to_owned(),
        next_hops: [&path["true_nexthop"], &path["exit_nexthop"]]
            .into_iter()
            .filter_map(|hop| hop.as_str().map(str::to_owned))
            .collect(),
        as_path: text("aspath").split_whitespace().filter_map(|asn| asn.parse().ok()).collect(),
        communities: words("communities").into_iter().collect(),
        large_communities: words("large_communities").into_iter().collect(),
        route_targets: targets.filter_map(|text| text.strip_prefix("rt ").map(str::to_owned)).collect(),
        med: path["metric"].as_u64().and_then(|med| u32::try_from(med).ok()),
        stale: path["stale"] == true,
        words: path.to_string(),
    }
}
