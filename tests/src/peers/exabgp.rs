//! ExaBGP: a script's hands on the wire. A process of its own writes down, as JSON, all that arrives, and passes on
//! what is appended to a file of commands.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::Result;
use serde_json::Value;

use super::process::Processes;
use super::{Driver, Heard, Neighbor, Originated, Place, Session, Setup};
use crate::lab::netns;

pub(super) struct ExaBgp;

impl Driver for ExaBgp {
    fn version(&self) -> &'static [&'static str] {
        &["sh", "-c", "exabgp --version 2>&1 | sed -n 's/^ExaBGP *: *//p'"]
    }

    fn configure(&self, place: &Place, setup: &Setup) -> Result<()> {
        let script = place.file("api.sh");
        let (events, commands) = (place.file("events"), place.file("commands"));
        std::fs::write(
            &script,
            format!(
                "#!/bin/sh\nexec 3<&0\ncat <&3 >>'{}' &\nexec tail -n 0 -s 0.05 -f '{}'\n",
                events.display(),
                commands.display()
            ),
        )?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
        for file in [&events, &commands] {
            std::fs::File::options().create(true).append(true).open(file)?;
        }
        std::fs::write(place.file("exabgp.conf"), config(place, setup)).map_err(Into::into)
    }

    fn start(&self, place: &Place, _setup: &Setup, processes: &mut Processes) -> Result<()> {
        for file in ["events", "commands"] {
            std::fs::write(place.file(file), "")?;
        }
        let mut command = netns::command(&place.netns, "env");
        command.args([
            "exabgp.daemon.user=root",
            "exabgp.daemon.daemonize=false",
            "exabgp.tcp.bind=0.0.0.0 ::",
            "exabgp.tcp.port=179",
            "exabgp.api.cli=false",
            "exabgp.log.destination=stdout",
            "exabgp.log.level=INFO",
            "exabgp",
        ]);
        command.arg(place.file("exabgp.conf"));
        processes.spawn(&mut command, &place.file("log"))
    }

    fn ready(&self, place: &Place, _setup: &Setup) -> Result<bool> {
        // The process of the interface is started once the configuration was read.
        let log = std::fs::read_to_string(place.file("log"))?;
        anyhow::ensure!(!log.contains("problem with the configuration"), "ExaBGP refuses it: {log}");
        Ok(log.contains("loaded new configuration successfully"))
    }

    fn reload(&self, place: &Place, _setup: &Setup) -> Result<()> {
        say(place, "reload")
    }

    fn session(&self, place: &Place, neighbor: &Neighbor) -> Result<Session> {
        let mut session = Session::default();
        let events = std::fs::read_to_string(place.file("events"))?;
        for event in events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            if !of(&event, neighbor) {
                continue;
            }
            match event["type"].as_str() {
                Some("state") => {
                    event["neighbor"]["state"].as_str().unwrap_or_default().clone_into(&mut session.state);
                    if session.state == "up" {
                        session.updates = 0;
                    }
                }
                Some("update") => session.updates += 1,
                _ => {}
            }
        }
        session.established = session.state == "up";
        session.words = events;
        session.words.push_str(&std::fs::read_to_string(place.file("log")).unwrap_or_default());
        Ok(session)
    }

    fn heard(&self, place: &Place, neighbor: &Neighbor) -> Result<Vec<Heard>> {
        let mut heard: Vec<Heard> = Vec::new();
        let events = std::fs::read_to_string(place.file("events"))?;
        for event in events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            if !of(&event, neighbor) {
                continue;
            }
            if event["type"] == "state" && event["neighbor"]["state"] != "connected" {
                heard.clear();
            }
            take(&mut heard, &event["neighbor"]["message"]["update"], &event);
        }
        Ok(heard)
    }

    fn refresh(&self, place: &Place, neighbor: &Neighbor) -> Result<()> {
        for (family, wanted) in [("ipv4", neighbor.ipv4), ("ipv6", neighbor.ipv6)] {
            if wanted {
                say(place, &format!("announce route-refresh {family} unicast"))?;
            }
        }
        Ok(())
    }

    fn shut(&self, place: &Place, neighbor: &Neighbor, _message: &str) -> Result<()> {
        say(place, &format!("neighbor {} teardown 2", neighbor.remote))
    }

    fn kernel_protocol(&self) -> Option<&'static str> {
        None
    }
}

fn say(place: &Place, words: &str) -> Result<()> {
    let mut file = std::fs::File::options().append(true).open(place.file("commands"))?;
    writeln!(file, "{words}").map_err(Into::into)
}

fn of(event: &Value, neighbor: &Neighbor) -> bool {
    event["neighbor"]["address"]["peer"] == neighbor.remote.to_string()
}

fn config(place: &Place, setup: &Setup) -> String {
    let mut text =
        format!("process api {{\n  run {};\n  encoder json;\n}}\n", place.file("api.sh").display());
    for neighbor in &setup.neighbors {
        text.push_str(&session(neighbor, setup));
    }
    text
}

fn session(neighbor: &Neighbor, setup: &Setup) -> String {
    let mut text = format!("neighbor {} {{\n", neighbor.remote);
    let mut line = |words: String| {
        let _ = writeln!(text, "  {words}");
    };
    line(format!("router-id {};", setup.router_id));
    if let Some(local) = neighbor.local {
        line(format!("local-address {local};"));
    }
    line(format!("local-as {};\n  peer-as {};", setup.asn, neighbor.asn));
    line(format!("hold-time {};", neighbor.hold));
    if neighbor.passive {
        line("passive true;".to_owned());
    }
    if let Some(password) = &neighbor.password {
        line(format!("md5-password \"{password}\";"));
    }
    if neighbor.ttl_security {
        line("outgoing-ttl 255;\n  incoming-ttl 255;".to_owned());
    }
    let restart = neighbor.restart.map(|seconds| format!(" graceful-restart {seconds};"));
    let paths = match (neighbor.add_path.receive, neighbor.add_path.send) {
        (true, true) => " add-path send/receive;",
        (true, false) => " add-path receive;",
        (false, true) => " add-path send;",
        (false, false) => "",
    };
    let hops = if neighbor.extended_next_hop { " nexthop enable;" } else { "" };
    let large = if neighbor.extended_messages { "enable" } else { "disable" };
    line(format!(
        "capability {{ asn4 enable; route-refresh enable; extended-message {large};{}{paths}{hops} }}",
        restart.unwrap_or_default()
    ));
    let families = [("ipv4 unicast;", neighbor.ipv4), ("ipv6 unicast;", neighbor.ipv6)];
    let families: String = families.iter().filter(|(_, wanted)| *wanted).map(|(name, _)| *name).collect();
    line(format!("family {{ {families} }}"));
    if neighbor.extended_next_hop {
        line("nexthop { ipv4 unicast ipv6; }".to_owned());
    }
    line("api { processes [ api ]; neighbor-changes; receive { parsed; update; notification; open; refresh; } }".to_owned());
    let of_family = |route: &&Originated| if route.prefix.is_ipv6() { neighbor.ipv6 } else { neighbor.ipv4 };
    let routes: String = setup.routes.iter().filter(of_family).map(originated).collect();
    line(format!("static {{\n{routes}  }}\n}}"));
    text
}

fn originated(route: &Originated) -> String {
    let hop = route.next_hop.map_or_else(|| "self".to_owned(), |hop| hop.to_string());
    let mut text = format!("    route {} next-hop {hop}", route.prefix);
    let list = |text: &mut String, name: &str, items: Vec<String>| {
        if !items.is_empty() {
            let _ = write!(text, " {name} [ {} ]", items.join(" "));
        }
    };
    list(&mut text, "community", route.communities.iter().map(|(a, b)| format!("{a}:{b}")).collect());
    let large = route.large_communities.iter().map(|(a, b, c)| format!("{a}:{b}:{c}")).collect();
    list(&mut text, "large-community", large);
    let targets = route.route_targets.iter().map(|(asn, value)| format!("target:{asn}:{value}")).collect();
    list(&mut text, "extended-community", targets);
    if let Some(med) = route.med {
        let _ = write!(text, " med {med}");
    }
    if let Some((kind, value)) = &route.unknown {
        let value: String = value.iter().map(|octet| format!("{octet:02x}")).collect();
        let _ = write!(text, " attribute [ 0x{kind:02x} 0xc0 0x{value} ]");
    }
    if let Some(id) = route.path_id {
        let _ = write!(text, " path-information 0.0.0.{id}");
    }
    text.push_str(";\n");
    text
}

/// Applies one UPDATE to what was heard before.
fn take(heard: &mut Vec<Heard>, update: &Value, event: &Value) {
    for prefixes in update["withdraw"].as_object().into_iter().flat_map(|families| families.values()) {
        for prefix in prefixes.as_array().into_iter().flatten() {
            heard.retain(|route| prefix["nlri"] != *route.prefix || !same_path(route, prefix));
        }
    }
    for hops in update["announce"].as_object().into_iter().flat_map(|families| families.values()) {
        for (hop, prefixes) in hops.as_object().into_iter().flatten() {
            for prefix in prefixes.as_array().into_iter().flatten() {
                let mut route = read(&update["attribute"]);
                prefix["nlri"].as_str().unwrap_or_default().clone_into(&mut route.prefix);
                route.next_hops.insert(hop.clone());
                route.words = event.to_string();
                heard.retain(|old| old.prefix != route.prefix || !same_path(old, prefix));
                heard.push(route);
            }
        }
    }
}

/// Whether an entry of an UPDATE is about that path; without identifiers there is one path per prefix.
fn same_path(route: &Heard, entry: &Value) -> bool {
    entry["path-information"].as_str().is_none_or(|id| route.words.contains(&format!("\"{id}\"")))
}

fn read(attribute: &Value) -> Heard {
    let list = |name: &str| attribute[name].as_array().cloned().unwrap_or_default();
    let joined = |value: &Value| {
        let parts = value.as_array().into_iter().flatten().map(ToString::to_string);
        parts.collect::<Vec<_>>().join(":")
    };
    let targets = list("extended-community");
    let targets = targets.iter().filter_map(|value| value["string"].as_str()?.strip_prefix("target:"));
    Heard {
        as_path: list("as-path")
            .iter()
            .filter_map(|asn| asn.as_u64().and_then(|asn| u32::try_from(asn).ok()))
            .collect(),
        communities: list("community").iter().map(joined).collect(),
        large_communities: list("large-community").iter().map(joined).collect(),
        route_targets: targets.map(str::to_owned).collect(),
        med: attribute["med"].as_u64().and_then(|med| u32::try_from(med).ok()),
        ..Heard::default()
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn an_update_adds_and_withdraws() -> Result<()> {
        let event = serde_json::json!({"neighbor": {"message": {"update": {
            "attribute": {"as-path": [64512], "community": [[64512, 7]]},
            "announce": {"ipv4 unicast": {"10.0.0.1": [{"nlri": "203.0.113.0/28"}]}}}}}});
        let mut heard = Vec::new();
        take(&mut heard, &event["neighbor"]["message"]["update"], &event);
        let first = heard.first().context("a route")?;
        assert!(first.communities.contains("64512:7") && first.next_hops.contains("10.0.0.1"));
        let gone = serde_json::json!({"withdraw": {"ipv4 unicast": [{"nlri": "203.0.113.0/28"}]}});
        take(&mut heard, &gone, &Value::Null);
        assert_eq!(heard, []);
        Ok(())
    }
}
