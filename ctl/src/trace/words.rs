//! Routes, neighbours and stations in words.

use manx_facts::kernel::{Neighbour, NeighbourState, Route, RouteKind, Rule};

use super::evidence::{Evidence, NodeEvidence};
use super::path::Station;

/// Who made a route.
pub(crate) fn protocol(number: u8) -> String {
    match number {
        2 => "the kernel".to_owned(),
        3 => "hand".to_owned(),
        4 => "an administrator (static)".to_owned(),
        16 => "DHCP".to_owned(),
        179 => "Manx".to_owned(),
        186 => "another BGP daemon".to_owned(),
        other => format!("protocol {other}"),
    }
}

/// The word of iproute2 for what becomes of packets.
pub(crate) fn kind(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::Blackhole => "blackhole",
        RouteKind::Unreachable => "unreachable",
        RouteKind::Prohibit => "prohibit",
        RouteKind::Throw => "throw",
        RouteKind::Local => "local",
        _ => "unicast",
    }
}

/// A route as iproute2 shows it, with its maker.
pub(crate) fn route(node: &NodeEvidence, route: &Route) -> String {
    let kernel = &node.kernel;
    let mut text = match route.kind {
        RouteKind::Unicast => String::new(),
        other => format!("{} ", kind(other)),
    };
    text += &if route.dst.prefix() == 0 { "default".to_owned() } else { route.dst.to_string() };
    for hop in &route.hops {
        text += &hop.gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
        text += &format!(" dev {}", kernel.link_name(hop.link));
    }
    format!("{text} (made by {})", protocol(route.protocol))
}

/// The command that removes a rule of policy routing.
pub(crate) fn rule_gone(rule: &Rule) -> String {
    format!("{} rule del pref {}", if rule.ipv6 { "ip -6" } else { "ip" }, rule.priority)
}

/// A neighbour, with what is known of it.
pub(crate) fn neighbour(neighbour: &Neighbour) -> String {
    let state = match neighbour.state {
        NeighbourState::Permanent => "permanent".to_owned(),
        state => format!("{state:?}").to_lowercase(),
    };
    let mac = neighbour.mac.as_deref().unwrap_or("unknown");
    format!("neighbour {} is {mac}, {state}", neighbour.address)
}

/// A station by the name of its link and where that is.
pub(crate) fn station(evidence: &Evidence, station: Station) -> String {
    let far = evidence.far_node();
    let veth = |node: Option<&NodeEvidence>| {
        node.and_then(NodeEvidence::veth).unwrap_or("the pod's link").to_owned()
    };
    let node = |node: Option<&NodeEvidence>| node.map_or_else(String::new, |node| node.node.clone());
    match station {
        Station::SourcePod => format!("pod {}", evidence.source.name),
        Station::SourceVeth => format!("{} of node {}", veth(Some(&evidence.here)), evidence.here.node),
        Station::SourceUplink => format!("the uplink of node {}", evidence.here.node),
        Station::TargetUplink => format!("the uplink of node {}", node(far)),
        Station::TargetVeth => format!("{} of node {}", veth(far), node(far)),
        Station::TargetPod => evidence.far_end().0,
    }
}
