//! BIRD 2 and BIRD 1.6.

use std::fmt::Write as _;

use anyhow::Result;

use super::process::Processes;
use super::{Driver, Heard, Neighbor, Originated, Place, Remote, Session, Setup};
use crate::lab::netns;

/// One of the two lines of BIRD.
pub(super) struct Bird {
    /// Where its programs lie; empty: in the search path.
    root: &'static str,
    version: &'static [&'static str],
    two: bool,
}

pub(super) const BIRD2: Bird = Bird { root: "", version: &["bird", "--version"], two: true };
/// Unpacked by `cargo xtask setup`, which cannot install it beside BIRD 2.
pub(super) const BIRD1: Bird = Bird {
    root: "/var/cache/manx/bird1/usr/sbin/",
    version: &["/var/cache/manx/bird1/usr/sbin/bird", "--version"],
    two: false,
};

impl Driver for Bird {
    fn version(&self) -> &'static [&'static str] {
        self.version
    }

    fn configure(&self, place: &Place, setup: &Setup) -> Result<()> {
        for process in self.processes(setup) {
            let text = if self.two { two(place, setup) } else { one(place, setup, process == "bird6") };
            std::fs::write(place.file(&format!("{process}.conf")), text)?;
        }
        Ok(())
    }

    fn start(&self, place: &Place, setup: &Setup, processes: &mut Processes) -> Result<()> {
        for process in self.processes(setup) {
            let mut command = netns::command(&place.netns, format!("{}{process}", self.root));
            command.arg("-f").arg("-c").arg(place.file(&format!("{process}.conf")));
            command.arg("-s").arg(place.file(&format!("{process}.ctl")));
            if place.restarting {
                command.arg("-R");
            }
            processes.spawn(&mut command, &place.file("log"))?;
        }
        Ok(())
    }

    fn ready(&self, place: &Place, setup: &Setup) -> Result<bool> {
        for process in self.processes(setup) {
            if !self.birdc(place, process, &["show", "status"])?.contains("up and running") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn reload(&self, place: &Place, setup: &Setup) -> Result<()> {
        for process in self.processes(setup) {
            let said = self.birdc(place, process, &["configure"])?;
            anyhow::ensure!(said.contains("Reconfigur"), "{process} does not reconfigure: {said}");
        }
        Ok(())
    }

    fn session(&self, place: &Place, neighbor: &Neighbor) -> Result<Session> {
        let mut words =
            self.birdc(place, self.process(neighbor), &["show", "protocols", "all", &protocol(neighbor)])?;
        let field = |name: &str| {
            let line = words.lines().find_map(|line| line.trim().strip_prefix(name));
            line.map(|rest| rest.trim().to_owned()).unwrap_or_default()
        };
        let state = field("BGP state:");
        let updates = words.lines().filter_map(|line| line.trim().strip_prefix("Import updates:"));
        let updates = updates.filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).sum();
        let log = std::fs::read_to_string(place.file("bird.log")).unwrap_or_default();
        let of_session = |line: &&str| line.contains(&protocol(neighbor));
        for line in log.lines().filter(of_session) {
            words.push_str(line);
            words.push('\n');
        }
        let refreshes =
            words.lines().filter(|line| line.contains("END-OF-RR") || line.contains("BEGIN-OF-RR"));
        let refreshes = refreshes.count() as u64;
        Ok(Session { established: state == "Established", state, updates, refreshes, words })
    }

    fn heard(&self, place: &Place, neighbor: &Neighbor) -> Result<Vec<Heard>> {
        let words = ["show", "route", "protocol", &protocol(neighbor), "all"];
        Ok(routes(&self.birdc(place, self.process(neighbor), &words)?))
    }

    fn refresh(&self, place: &Place, neighbor: &Neighbor) -> Result<()> {
        self.birdc(place, self.process(neighbor), &["reload", "in", &protocol(neighbor)]).map(drop)
    }

    fn shut(&self, place: &Place, neighbor: &Neighbor, message: &str) -> Result<()> {
        let quoted = format!("\"{message}\"");
        let name = protocol(neighbor);
        let mut words = vec!["disable", &name];
        if self.two {
            words.push(&quoted);
        }
        self.birdc(place, self.process(neighbor), &words).map(drop)
    }

    fn kernel_protocol(&self) -> Option<&'static str> {
        Some("bird")
    }
}

impl Bird {
    /// The programs that run: BIRD 1.6 needs one per family.
    fn processes(&self, setup: &Setup) -> Vec<&'static str> {
        let six = |neighbor: &Neighbor| self.process(neighbor) == "bird6";
        let mut processes = Vec::new();
        if self.two || setup.neighbors.is_empty() || !setup.neighbors.iter().all(six) {
            processes.push("bird");
        }
        if !self.two && setup.neighbors.iter().any(six) {
            processes.push("bird6");
        }
        processes
    }

    /// The program that has this session.
    fn process(&self, neighbor: &Neighbor) -> &'static str {
        let six = matches!(&neighbor.remote, Remote::Address(address) if address.is_ipv6())
            || matches!(neighbor.remote, Remote::LinkLocal(..));
        if six && !self.two { "bird6" } else { "bird" }
    }

    fn birdc(&self, place: &Place, process: &str, words: &[&str]) -> Result<String> {
        let client = if process == "bird6" { "birdc6" } else { "birdc" };
        let mut command = std::process::Command::new(format!("{}{client}", self.root));
        command.arg("-s").arg(place.file(&format!("{process}.ctl"))).args(words);
        let output = netns::run(&mut command)?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().filter(|line| !line.starts_with("BIRD ")).map(|line| format!("{line}\n")).collect())
    }
}

/// What the protocol of a session is called; a bare name could be a word of BIRD's language.
fn protocol(neighbor: &Neighbor) -> String {
    format!("n_{}", neighbor.name)
}

fn head(place: &Place, setup: &Setup) -> String {
    format!(
        "log \"{}\" all;\nrouter id {};\nprotocol device {{ scan time 2; }}\n",
        place.file("bird.log").display(),
        setup.router_id
    )
}

/// What both lines say in the same words about a session.
fn session(neighbor: &Neighbor, setup: &Setup) -> String {
    let mut text = String::new();
    let local = neighbor.local.map(|local| format!("{local} ")).unwrap_or_default();
    let _ = writeln!(text, "  local {local}as {};", setup.asn);
    let _ = writeln!(text, "  hold time {};", neighbor.hold);
    text.push_str(
        "  connect delay time 1; connect retry time 1; error wait time 1,2; error forget time 1;\n",
    );
    if neighbor.passive {
        text.push_str("  passive on;\n");
    }
    if let Some(password) = &neighbor.password {
        let _ = writeln!(text, "  password \"{password}\";");
    }
    if neighbor.ttl_security {
        text.push_str("  ttl security on;\n");
    }
    match neighbor.restart {
        Some(seconds) => {
            let _ = writeln!(text, "  graceful restart on; graceful restart time {seconds};");
        }
        None => text.push_str("  graceful restart aware;\n"),
    }
    if let Some(seconds) = neighbor.long_lived {
        let _ = writeln!(text, "  long lived graceful restart on; long lived stale time {seconds};");
    }
    if neighbor.trace {
        text.push_str("  debug { packets };\n");
    }
    if neighbor.extended_messages {
        text.push_str("  enable extended messages on;\n");
    }
    text
}

fn add_paths(neighbor: &Neighbor) -> &'static str {
    match (neighbor.add_path.receive, neighbor.add_path.send) {
        (true, true) => " add paths on;",
        (true, false) => " add paths rx;",
        (false, true) => " add paths tx;",
        (false, false) => "",
    }
}

/// What a session takes and tells, the same for both lines.
fn traffic(neighbor: &Neighbor) -> String {
    let export = if neighbor.transit { "all" } else { "where source = RTS_STATIC" };
    let limit = neighbor.max_prefixes.map(|limit| format!(" import limit {limit} action restart;"));
    format!("import all; export {export};{}{}", add_paths(neighbor), limit.unwrap_or_default())
}

fn two(place: &Place, setup: &Setup) -> String {
    let mut text = head(place, setup);
    for family in ["ipv4", "ipv6"] {
        if setup.kernel {
            let _ = writeln!(
                text,
                "protocol kernel {{ {family} {{ import none; export where source = RTS_BGP; }}; merge paths on; \
                 graceful restart on; }}"
            );
        }
        let own: Vec<&Originated> =
            setup.routes.iter().filter(|route| route.prefix.is_ipv6() == (family == "ipv6")).collect();
        let _ = writeln!(text, "protocol static {{ {family};\n{}}}", statics(&own, "blackhole"));
    }
    for neighbor in &setup.neighbors {
        if let Remote::LinkLocal(_, link) = &neighbor.remote {
            // By its advertisements the other side finds it.
            let interval = "min ra interval 3; max ra interval 4;";
            let _ = writeln!(text, "protocol radv {{ interface \"{link}\" {{ {interval} }}; }}");
        }
        let _ = writeln!(text, "protocol bgp {} {{\n{}", protocol(neighbor), session(neighbor, setup));
        let _ = writeln!(text, "  neighbor {} as {};", quoted(&neighbor.remote), neighbor.asn);
        if let Some(role) = neighbor.role {
            let _ = writeln!(text, "  local role {};", role.replace('-', "_"));
        }
        for (family, wanted) in [("ipv4", neighbor.ipv4), ("ipv6", neighbor.ipv6)] {
            if !wanted {
                continue;
            }
            let extended =
                if neighbor.extended_next_hop && family == "ipv4" { " extended next hop on;" } else { "" };
            let _ = writeln!(text, "  {family} {{ {}{extended} }};", traffic(neighbor));
        }
        text.push_str("}\n");
    }
    text
}

fn quoted(remote: &Remote) -> String {
    match remote {
        Remote::LinkLocal(address, link) => format!("{address} % '{link}'"),
        other => other.to_string(),
    }
}

fn one(place: &Place, setup: &Setup, six: bool) -> String {
    let mut text = head(place, setup);
    if setup.kernel {
        text.push_str(
            "protocol kernel { import none; export where source = RTS_BGP; graceful restart on; }\n",
        );
    }
    let own: Vec<&Originated> = setup.routes.iter().filter(|route| route.prefix.is_ipv6() == six).collect();
    let _ = writeln!(text, "protocol static {{\n{}}}", statics(&own, "reject"));
    let of_family =
        |neighbor: &&Neighbor| matches!(&neighbor.remote, Remote::Address(to) if to.is_ipv6() == six);
    for neighbor in setup.neighbors.iter().filter(of_family) {
        let _ = writeln!(text, "protocol bgp {} {{\n{}", protocol(neighbor), session(neighbor, setup));
        let _ = writeln!(text, "  neighbor {} as {};", neighbor.remote, neighbor.asn);
        let _ = writeln!(text, "  {}\n}}", traffic(neighbor));
    }
    text
}

fn statics(routes: &[&Originated], kind: &str) -> String {
    let mut text = String::new();
    for route in routes {
        let _ = write!(text, "  route {} {kind} {{", route.prefix);
        for (high, low) in &route.communities {
            let _ = write!(text, " bgp_community.add(({high},{low}));");
        }
        for (a, b, c) in &route.large_communities {
            let _ = write!(text, " bgp_large_community.add(({a},{b},{c}));");
        }
        for (asn, value) in &route.route_targets {
            let _ = write!(text, " bgp_ext_community.add((rt,{asn},{value}));");
        }
        if let Some(med) = route.med {
            let _ = write!(text, " bgp_med = {med};");
        }
        text.push_str(" };\n");
    }
    text
}

/// The routes of `show route … all`: a line per path that is not indented more than the prefix, then its attributes.
fn routes(text: &str) -> Vec<Heard> {
    let mut routes: Vec<Heard> = Vec::new();
    let mut prefix = String::new();
    for line in text.lines().filter(|line| !line.starts_with("Table")) {
        let first = line.split_whitespace().next().unwrap_or_default();
        if line.contains(" [") && !line.starts_with('\t') {
            if first.contains('/') && !line.starts_with(' ') {
                first.clone_into(&mut prefix);
            }
            let stale = line.contains("] *s") || line.contains("(100s)") || line.contains("s) [");
            routes.push(Heard { prefix: prefix.clone(), stale, ..Heard::default() });
        }
        let Some(route) = routes.last_mut() else { continue };
        route.words.push_str(line);
        route.words.push('\n');
        if let Some((name, value)) = line.trim().split_once(": ") {
            attribute(route, name, value);
        }
    }
    routes
}

fn attribute(route: &mut Heard, name: &str, value: &str) {
    match name {
        "BGP.next_hop" => route.next_hops = value.split_whitespace().map(str::to_owned).collect(),
        "BGP.as_path" => {
            route.as_path = value.split_whitespace().filter_map(|asn| asn.parse().ok()).collect()
        }
        "BGP.med" => route.med = value.parse().ok(),
        "BGP.community" => route.communities = tuples(value).collect(),
        "BGP.large_community" => route.large_communities = tuples(value).collect(),
        "BGP.ext_community" => {
            route.route_targets =
                tuples(value).filter_map(|text| text.strip_prefix("rt:").map(str::to_owned)).collect();
        }
        _ => {}
    }
}

/// The members of a set as BIRD prints it, `(65001,7) (65001, 8)`, joined by colons.
fn tuples(text: &str) -> impl Iterator<Item = String> {
    text.split(')').filter_map(|tuple| {
        let (_, inner) = tuple.split_once('(')?;
        Some(inner.split(',').map(str::trim).collect::<Vec<_>>().join(":"))
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_route_with_all_kinds_of_communities_is_read() -> Result<()> {
        let text = "Table master4:\n203.0.113.0/28       unicast [dut 03:38:41.650] * (100) [AS65001i]\n\
                    \tvia 10.99.0.2 on eth0\n\tType: BGP univ\n\tBGP.as_path: 65001 4200000001\n\
                    \tBGP.next_hop: 2001:db8::1 fe80::1\n\tBGP.community: (65001,7) (65001,8)\n\
                    \tBGP.ext_community: (rt, 65001, 9)\n\tBGP.large_community: (1, 2, 3)\n";
        let routes = routes(text);
        let route = routes.first().context("a route")?;
        assert_eq!(route.prefix, "203.0.113.0/28");
        assert_eq!(route.as_path, [65001, 4_200_000_001]);
        assert_eq!(route.next_hops.len(), 2);
        assert!(route.communities.contains("65001:8") && route.large_communities.contains("1:2:3"));
        assert!(route.route_targets.contains("65001:9"));
        Ok(())
    }
}
