//! What rules of policy routing make of packets to a network, before they come to the route of Manx in the main table.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kube::ResourceExt as _;
use manx_facts::kernel::{Decision, Kernel, PROTOCOL, Packet, Route, RouteKind, Rule, holds};

use super::super::gather::Gathered;
use super::{named, route_to, shown};
use crate::finding::{Finding, Weight};
use crate::trace::words::rule_gone;

/// What the kernel does with packets to a network, with the rule that has the say where it is none of the usual.
pub(super) fn way(kernel: &Kernel, network: IpNetwork) -> String {
    let others = kernel.decide(&to(network)).others;
    others.map_or_else(|| "no route".to_owned(), |decision| words(kernel, &decision))
}

fn to(network: IpNetwork) -> Packet<'static> {
    Packet { to: network, from: None, iif: None }
}

fn words(kernel: &Kernel, decision: &Decision<'_>) -> String {
    let rule = decision.rule.filter(|rule| !rule.is_usual());
    let by = rule.map_or_else(String::new, |rule| format!("by the rule {rule}"));
    match (decision.route, by.is_empty()) {
        (Some(route), true) => shown(kernel, route),
        (Some(route), false) => format!("{}, {by}", shown(kernel, route)),
        (None, _) => format!("thrown away {by}"),
    }
}

/// Rules that keep packets from the route of Manx to a network.
pub(super) fn judge(gathered: &Gathered, node: &str, kernel: &Kernel, network: IpNetwork) -> Vec<Finding> {
    let own = route_to(kernel, network).filter(|route| route.protocol == PROTOCOL);
    let Some(own) = own else { return Vec::new() };
    let decided = kernel.decide(&to(network));
    let all = decided.others.map(|decision| (decision, true)).into_iter();
    let some = decided.some.into_iter().map(|decision| (decision, false));
    let away = |(decision, all): (Decision<'_>, bool)| {
        let rule = decision.rule.filter(|rule| !rule.is_usual())?;
        let led = !decision.route.is_some_and(|route| same_way(route, own));
        (led && (all || concerns(gathered, node, kernel, rule)))
            .then(|| finding(node, kernel, network, own, &decision, rule, all))
    };
    some.chain(all).filter_map(away).collect()
}

/// Whether two routes lead to the same neighbour or link.
fn same_way(one: &Route, other: &Route) -> bool {
    let hops = |route: &Route| {
        let mut hops: Vec<_> = route.hops.iter().map(|hop| (hop.gateway, hop.link)).collect();
        hops.sort_unstable();
        hops
    };
    one.kind == other.kind && hops(one) == hops(other)
}

/// Whether a rule with conditions can be for packets of pods or of the node itself, by what is known of them.
fn concerns(gathered: &Gathered, node: &str, kernel: &Kernel, rule: &Rule) -> bool {
    let own = gathered.networks.iter().find(|network| network.name_any() == node);
    let addresses = own.map(|network| &network.spec.addresses).into_iter();
    let addresses = addresses
        .flat_map(|own| [own.ipv4.map(IpAddr::from), own.ipv6.map(IpAddr::from)])
        .flatten()
        .map(IpNetwork::from);
    let pools = gathered.pools.iter().map(|pool| pool.spec.cidr.network());
    let meets = |one: IpNetwork, other| holds(one, other) || holds(other, one);
    let from = |from: IpNetwork| pools.chain(addresses).any(|network| meets(from, network));
    rule.from.is_none_or(from) && rule.iif.as_ref().is_none_or(|link| kernel.link_named(link).is_some())
}

fn finding(
    node: &str,
    kernel: &Kernel,
    network: IpNetwork,
    own: &Route,
    decision: &Decision<'_>,
    rule: &Rule,
    all: bool,
) -> Finding {
    let some = if all { "" } else { "some " };
    let to = named(network);
    let is = match decision.route {
        None => format!("throws {some}packets to {to} away"),
        Some(route) if !matches!(route.kind, RouteKind::Unicast) => {
            format!("throws {some}packets to {to} away: {} of table {}", shown(kernel, route), rule.table)
        }
        Some(route) => {
            let route = shown(kernel, route);
            format!("leads {some}packets to {to} elsewhere: {route} of table {}", rule.table)
        }
    };
    let what = format!("its rule \"{rule}\" {is}; that of Manx is {}", shown(kernel, own));
    let ip = if rule.ipv6 { "ip -6" } else { "ip" };
    let cure = format!(
        "who made it? take it away: {}; or have pods looked up before it: {ip} rule add to {} \
         lookup main pref {}",
        rule_gone(rule),
        own.dst,
        rule.priority.saturating_sub(1)
    );
    let weight = if all { Weight::Error } else { Weight::Warning };
    Finding { weight, ..Finding::error(format!("node {node}"), what, cure).see("no-route") }
}

#[cfg(test)]
mod tests {
    use manx_facts::kernel::{Hop, TABLE_MAIN};

    use super::*;

    #[test]
    fn routes_lead_the_same_way_whatever_the_order_of_their_hops() {
        let hop = |link| Hop { link, ..Hop::default() };
        let route = |links: [u32; 2]| Route {
            dst: "10.0.0.0/8".parse().expect("a network"),
            table: TABLE_MAIN,
            metric: 0,
            protocol: PROTOCOL,
            kind: RouteKind::Unicast,
            hops: links.map(hop).to_vec(),
            nexthop: None,
            source: None,
            mtu: None,
            scope: 0,
        };
        assert!(same_way(&route([1, 2]), &route([2, 1])));
        assert!(!same_way(&route([1, 2]), &route([1, 1])));
    }
}
