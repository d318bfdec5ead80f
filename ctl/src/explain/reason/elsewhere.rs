//! How the other nodes get there: what their BGP tables and their kernels have, and whether both agree.

use std::collections::BTreeSet;

use manx_api::SessionState;
use manx_facts::bgp::{Explained, Path};
use manx_facts::kernel::{Kernel, PROTOCOL, Route, RouteKind};

use super::super::gather::{Gathered, Target};
use super::super::{Chain, Way};
use super::{down, named, route_to, rules, session, shown};
use crate::finding::Finding;

/// The ways of all other nodes that answered.
pub(super) fn ways(
    gathered: &Gathered,
    home: Option<&str>,
    target: &Target,
    chain: &mut Chain,
    findings: &mut Vec<Finding>,
) {
    for (node, kernel) in &gathered.kernels {
        let Ok(kernel) = kernel else { continue };
        if home == Some(node) {
            continue;
        }
        let here = Here { gathered, home, target, node, kernel, table: target.tables.get(node) };
        chain.nodes.push(here.way());
        // What belongs to nobody need not be reached.
        if home.is_some() {
            here.judge(findings);
        }
    }
}

/// One node and what it has.
struct Here<'a> {
    gathered: &'a Gathered,
    home: Option<&'a str>,
    target: &'a Target,
    node: &'a str,
    kernel: &'a Kernel,
    table: Option<&'a Result<Explained, crate::ask::Away>>,
}

impl Here<'_> {
    fn best(&self) -> Option<(&Explained, &Path)> {
        let table = self.table?.as_ref().ok()?;
        Some((table, table.paths.get(table.best?)?))
    }

    fn route(&self) -> Option<&Route> {
        route_to(self.kernel, self.target.network)
    }

    fn way(&self) -> Way {
        let mut way = Way { node: self.node.to_owned(), ..Way::default() };
        way.kernel = rules::way(self.kernel, self.target.network);
        match self.table {
            None => "not asked".clone_into(&mut way.bgp),
            Some(Err(away)) => way.bgp = format!("unknown: {away}"),
            Some(Ok(table)) => {
                way.others = table
                    .paths
                    .iter()
                    .enumerate()
                    .filter(|(place, _)| table.best != Some(*place))
                    .map(|(_, path)| lost(path))
                    .collect();
                match self.best() {
                    None if table.paths.is_empty() => "no path".clone_into(&mut way.bgp),
                    None => way.bgp = format!("{}: no path that can be used", named(table.prefix)),
                    Some((table, path)) => {
                        way.bgp = format!("{} {}", named(table.prefix), from(table, path));
                        way.why = match &table.step {
                            Some(step) => format!("best by {step}"),
                            None => "the only path".to_owned(),
                        };
                    }
                }
            }
        }
        way
    }

    fn judge(&self, findings: &mut Vec<Finding>) {
        let object = || format!("node {}", self.node);
        if let Some(Err(away)) = self.table {
            findings.push(
                Finding::error(
                    object(),
                    format!("its BGP speaker does not tell its table: {away}"),
                    "look at its agent's log",
                )
                .see("agent-down"),
            );
        }
        let best = self.best().filter(|(table, _)| table.prefix.prefix() > 0);
        let route = self.route().filter(|route| route.dst.prefix() > 0);
        match (best, route) {
            (None, route) => self.unheard(route, findings),
            (Some((table, _)), None) => findings.push(
                Finding::error(
                    object(),
                    format!("BGP has {}, its kernel has no route to it", named(table.prefix)),
                    "the condition RoutesInstalled of its NodeNetwork and its agent's log say why",
                )
                .see("no-route"),
            ),
            (Some((table, path)), Some(route)) => findings.extend(self.compare(table, path, route)),
        }
        findings.extend(rules::judge(self.gathered, self.node, self.kernel, self.target.network));
    }

    /// No path in BGP.
    fn unheard(&self, route: Option<&Route>, findings: &mut Vec<Finding>) {
        if matches!(self.table, Some(Err(_))) {
            return;
        }
        let object = format!("node {}", self.node);
        if let Some(Ok(table)) = self.table
            && let Some(refused) = table.paths.iter().find(|path| !path.import.accepted)
        {
            let (who, verdict) = (refused.peer.as_deref().unwrap_or("itself"), &refused.import.verdict);
            let what = format!("what {who} announces of {} is {verdict}", named(table.prefix));
            let cure = "nodes believe what is inside a pool and no longer than its blocks, unless a BGPFilter says more: \
                        docs/policy.md";
            findings.push(Finding::error(object, what, cure).see("no-route"));
            return;
        }
        let instead = route.map_or_else(
            || "its kernel has no route either".to_owned(),
            |route| format!("its kernel has {}", shown(self.kernel, route)),
        );
        if let Some(home) = self.home
            && let Some(session) = session(self.gathered, self.node, &format!("node/{home}"))
            && session.state != SessionState::Established
        {
            findings.push(down(self.node, session));
        }
        let what = format!("nobody told it of {}; {instead}", named(self.target.network));
        let cure =
            "bring up the session with the node that has it, or with whoever should pass it on: manxctl bgp";
        findings.push(Finding::error(object, what, cure).see("no-route"));
    }

    /// Both have something: is it the same?
    fn compare(&self, table: &Explained, path: &Path, route: &Route) -> Option<Finding> {
        let object = format!("node {}", self.node);
        let is = shown(self.kernel, route);
        let prefix = named(table.prefix);
        if route.protocol != PROTOCOL {
            let what = format!("another route is in the way: {is}; BGP says {prefix} {}", from(table, path));
            let cure = format!("who made it? take it away: ip route del {}", deleted(self.kernel, route));
            return Some(Finding::error(object, what, cure).see("no-route"));
        }
        if route.kind != RouteKind::Unicast {
            let what = format!("its kernel drops packets to {prefix}: {is}");
            return Some(Finding::error(object, what, "restart its agent, and report what was there"));
        }
        if route.dst.prefix() < table.prefix.prefix() {
            let what = format!("BGP has {prefix}, its kernel only the wider {is}");
            let cure = "the condition RoutesInstalled of its NodeNetwork and its agent's log say why";
            return Some(Finding::error(object, what, cure).see("no-route"));
        }
        if let Some(dead) = route.hops.iter().find(|hop| hop.dead) {
            let what = format!("the link {} of its route {is} is down", self.kernel.link_name(dead.link));
            return Some(Finding::error(
                object,
                what,
                "bring the link up, or look at the cable and the switch",
            ));
        }
        self.other_hop(table, route).map(|wanted| {
            let what =
                format!("its kernel sends to another next hop than BGP says: {is} in place of {wanted}");
            let cure =
                "the agent mends it within a minute; if it stays, restart its agent and look at its log";
            Finding::error(object, what, cure).see("no-route")
        })
    }

    /// The next hops of BGP, if all are on the link and the route has another.
    fn other_hop(&self, table: &Explained, route: &Route) -> Option<String> {
        let plain = |hop: &String| hop.split('%').next().unwrap_or_default().parse().ok();
        let wanted: BTreeSet<std::net::IpAddr> = table.next_hops.iter().filter_map(plain).collect();
        let on_link = wanted.iter().all(|hop| {
            let way = route_to(self.kernel, (*hop).into());
            way.is_some_and(|way| way.hops.iter().all(|hop| hop.gateway.is_none()))
        });
        let has: BTreeSet<_> = route.hops.iter().filter_map(|hop| hop.gateway).collect();
        (on_link && !wanted.is_empty() && has != wanted).then(|| table.next_hops.join(" and "))
    }
}

/// Whose path, and where it leads.
fn from(table: &Explained, path: &Path) -> String {
    let peer = path.peer.as_deref().unwrap_or("its own");
    match table.next_hops.is_empty() {
        true => format!("of {peer}"),
        false => format!("of {peer} via {}", table.next_hops.join(" and ")),
    }
}

/// A path that is not the best one.
fn lost(path: &Path) -> String {
    let peer = path.peer.as_deref().unwrap_or("its own");
    let why = match (&path.lost_at, path.selected) {
        (Some(step), true) => format!("carries traffic too, after {step}"),
        (Some(step), false) => format!("lost at {step}"),
        (None, _) => path.import.verdict.clone(),
    };
    format!("{peer} ({}): {why}", path.received)
}

/// A route as `ip route del` wants it.
fn deleted(kernel: &Kernel, route: &Route) -> String {
    let link =
        route.hops.first().map_or_else(String::new, |hop| format!(" dev {}", kernel.link_name(hop.link)));
    let metric = if route.metric == 0 { String::new() } else { format!(" metric {}", route.metric) };
    format!("{}{link}{metric}", named(route.dst))
}
