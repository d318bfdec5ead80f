//! Nodes that cannot be asked: what others know of them.

use super::super::evidence::{Evidence, NodeEvidence};
use super::{Fault, fault};
use crate::finding::{Finding, Weight};

/// What there is to say of a node that does not answer. Without the node of the source no probe is sent.
pub(super) fn away(evidence: &Evidence, node: &NodeEvidence, why: &str, weight: Weight) -> Fault {
    let name = &node.node;
    let mut what = format!("it does not say what it sees: {why}");
    let mut cure = "what happens there is left out".to_owned();
    let view = evidence.views.iter().find(|view| view.name == *name);
    for (nodes, is) in view.into_iter().flat_map(|view| [(&view.up, "up"), (&view.down, "down")]) {
        if !nodes.is_empty() {
            what += &format!("; its sessions with {} are {is}", nodes.join(", "));
        }
    }
    if view.is_some_and(|view| !view.up.is_empty()) {
        cure = format!(
            "it lives, and its own way to the API server may be what is wrong (its route, or its neighbour entry of the \
             next hop): trace again with --through 'ssh root@{{node}}', or look there at `ip route get` and `ip neigh`; \
             {cure}"
        );
    }
    for (other, is) in neighbours(evidence, name) {
        what += &format!("; node {other} has the {is}");
    }
    let finding = Finding::error(format!("node {name}"), what, cure).see("agent-down");
    fault("away", Finding { weight, ..finding })
}

/// What the nodes that were asked have as neighbour entries of it.
fn neighbours<'a>(evidence: &'a Evidence, name: &str) -> Vec<(&'a str, String)> {
    let view = evidence.views.iter().find(|view| view.name == name);
    let addresses = view.map_or(&[][..], |view| &view.addresses);
    let asked = std::iter::once(&evidence.here).chain(&evidence.there).filter(|node| node.away.is_none());
    let of = |node: &'a NodeEvidence| {
        let all = node.kernel.neighbours.iter().filter(|it| addresses.contains(&it.address));
        all.map(|neighbour| (&*node.node, super::super::words::neighbour(neighbour)))
    };
    asked.flat_map(of).collect()
}
