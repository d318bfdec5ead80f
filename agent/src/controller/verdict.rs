//! What becomes of the objects that people write about BGP: accepted, or why not. Pure.
//!
//! One object alone is judged at the door. Here is what takes several: a filter that does not exist, two peers for one
//! router, and what the nodes say that they cannot carry out.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt as _;
use manx_api::{BGPConfiguration, BGPFilter, BGPPeer, NodeNetwork, PeerTarget, condition, selects};

use crate::node::cluster::Objects;

/// Nodes that are named in a message; of more only the number is told.
const NAMED: usize = 3;

/// What the judgement rests on.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) peers: Objects<BGPPeer>,
    pub(super) filters: Objects<BGPFilter>,
    pub(super) configurations: Objects<BGPConfiguration>,
    pub(super) networks: Objects<NodeNetwork>,
}

/// The kinds that are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Configuration,
    Filter,
    Peer,
}

impl Kind {
    /// As it is written in objects.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Configuration => "BGPConfiguration",
            Self::Filter => "BGPFilter",
            Self::Peer => "BGPPeer",
        }
    }
}

/// What became of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) accepted: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Verdict {
    fn accepted(reason: &'static str, message: impl Into<String>) -> Self {
        Self { accepted: true, reason, message: message.into() }
    }

    fn refused(reason: &'static str, message: impl Into<String>) -> Self {
        Self { accepted: false, reason, message: message.into() }
    }
}

impl Seen {
    /// The verdict on every object.
    pub(super) fn verdicts(&self) -> BTreeMap<(Kind, String), Verdict> {
        let peers =
            self.peers.iter().map(|(name, peer)| ((Kind::Peer, name.clone()), self.on_peer(name, peer)));
        let filters = self.filters.keys().map(|name| ((Kind::Filter, name.clone()), self.on_filter(name)));
        let configurations = self.configurations.keys();
        let configurations = configurations.map(|name| {
            let good = || Verdict::accepted("Accepted", "every node carries it out");
            let verdict = self.by_nodes(Kind::Configuration, name).unwrap_or_else(good);
            ((Kind::Configuration, name.clone()), verdict)
        });
        peers.chain(filters).chain(configurations).collect()
    }

    fn on_peer(&self, name: &str, peer: &BGPPeer) -> Verdict {
        let missing: Vec<&str> = peer
            .spec
            .filters
            .iter()
            .filter(|filter| !self.filters.contains_key(*filter))
            .map(String::as_str)
            .collect();
        if !missing.is_empty() {
            let text = format!("there is no BGPFilter {}: sessions wait for it", missing.join(", "));
            return Verdict::refused("UnknownFilter", text);
        }
        let nodes = self.nodes_of(peer);
        if let Some(text) = self.rival(name, peer, &nodes) {
            return Verdict::refused("OverlappingTarget", text);
        }
        if let Some(verdict) = self.by_nodes(Kind::Peer, name) {
            return verdict;
        }
        match nodes.len() {
            0 => Verdict::accepted("NoNodes", "nodeSelector selects no node"),
            1 => Verdict::accepted("Accepted", "1 node carries it out"),
            many => Verdict::accepted("Accepted", format!("{many} nodes carry it out")),
        }
    }

    fn on_filter(&self, name: &str) -> Verdict {
        if let Some(verdict) = self.by_nodes(Kind::Filter, name) {
            return verdict;
        }
        let users =
            self.peers.iter().filter(|(_, peer)| peer.spec.filters.iter().any(|filter| filter == name));
        match some(users.map(|(peer, _)| peer.as_str())) {
            None => Verdict::accepted("Unused", "no BGPPeer names it"),
            Some(users) => Verdict::accepted("Accepted", format!("BGPPeer {users} names it")),
        }
    }

    fn nodes_of(&self, peer: &BGPPeer) -> BTreeSet<&str> {
        let chosen = self.networks.iter();
        let chosen = chosen.filter(|(_, node)| selects(peer.spec.node_selector.as_ref(), node.labels()));
        chosen.map(|(name, _)| name.as_str()).collect()
    }

    /// Another peer object, first in the order of names, that gives the same nodes a session with the same router.
    fn rival(&self, name: &str, peer: &BGPPeer, nodes: &BTreeSet<&str>) -> Option<String> {
        let rivals = self.peers.iter().filter(|(other, _)| other.as_str() < name);
        let mut rivals = rivals.filter(|(_, other)| same_target(peer, other));
        rivals.find_map(|(other, object)| {
            let both = some(self.nodes_of(object).intersection(nodes).copied())?;
            Some(format!("BGPPeer {other} gives {both} a session with the same peer"))
        })
    }

    /// What nodes say that they cannot carry out.
    fn by_nodes(&self, kind: Kind, name: &str) -> Option<Verdict> {
        let mut told: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let start = format!("{} {name}: ", kind.name());
        for (node, network) in self.networks.iter() {
            let conditions = network.status.as_ref().map(|status| status.conditions.as_slice());
            let configured = condition(conditions.unwrap_or_default(), "Configured");
            let message = configured.filter(|it| it.status == "False").map(|it| it.message.as_str());
            let problems = message.unwrap_or_default().split("; ");
            for text in problems.filter_map(|problem| problem.strip_prefix(&start)) {
                told.entry(text).or_default().insert(node);
            }
        }
        let texts = told
            .iter()
            .filter_map(|(text, nodes)| Some(format!("{text} (on {})", some(nodes.iter().copied())?)));
        let texts: Vec<String> = texts.collect();
        (!texts.is_empty()).then(|| Verdict::refused("NotCarriedOut", texts.join("; ")))
    }
}

/// Whether two objects are about the same router: the same address, the same link, or ranges that overlap.
fn same_target(one: &BGPPeer, other: &BGPPeer) -> bool {
    match (one.spec.target(), other.spec.target()) {
        (Some(PeerTarget::Address(one)), Some(PeerTarget::Address(other))) => one.ip == other.ip,
        (Some(PeerTarget::Interface(one)), Some(PeerTarget::Interface(other))) => one == other,
        (Some(PeerTarget::Range(one)), Some(PeerTarget::Range(other))) => one.cidr.overlaps(other.cidr),
        _ => false,
    }
}

/// The first names and how many more there are; `None` when there is none.
fn some<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let names: Vec<&str> = names.collect();
    let first = names.get(..NAMED.min(names.len()))?.join(", ");
    match names.len() {
        0 => None,
        few if few <= NAMED => Some(first),
        many => Some(format!("{first} and {} more", many - NAMED)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use manx_api::{BGPPeerSpec, NodeNetworkStatus, PeerAsn, Timestamp, set_condition};

    use super::*;

    fn put<K: kube::Resource + Clone>(objects: &mut Objects<K>, object: K) {
        Arc::make_mut(objects).insert(object.name_any(), Arc::new(object));
    }

    /// Four nodes, and the peer and the filter of the examples.
    fn seen() -> Seen {
        let mut seen = Seen::default();
        for number in 1..=4 {
            let mut network = NodeNetwork::example();
            network.metadata.name = Some(format!("node{number}"));
            put(&mut seen.networks, network);
        }
        put(&mut seen.peers, BGPPeer::example());
        put(&mut seen.filters, BGPFilter::example());
        put(&mut seen.configurations, BGPConfiguration::example());
        seen
    }

    fn shown(seen: &Seen, kind: Kind, name: &str) -> (bool, &'static str, String) {
        let Verdict { accepted, reason, message } = seen.verdicts()[&(kind, name.to_owned())].clone();
        (accepted, reason, message)
    }

    #[test]
    fn what_is_in_order_is_accepted_with_who_carries_it_out() {
        let seen = seen();
        assert_eq!(shown(&seen, Kind::Peer, "tor"), (true, "Accepted", "4 nodes carry it out".to_owned()));
        assert_eq!(shown(&seen, Kind::Filter, "tor"), (true, "Accepted", "BGPPeer tor names it".to_owned()));
        assert!(shown(&seen, Kind::Configuration, "default").0);
    }

    #[test]
    fn a_peer_whose_filter_is_missing_and_a_filter_that_nobody_names_are_told() {
        let mut seen = seen();
        seen.filters = Objects::default();
        let (accepted, reason, message) = shown(&seen, Kind::Peer, "tor");
        assert_eq!((accepted, reason), (false, "UnknownFilter"));
        assert!(message.contains("there is no BGPFilter tor"), "{message}");
        let mut other = BGPFilter::example();
        other.metadata.name = Some("other".to_owned());
        put(&mut seen.filters, other);
        assert_eq!(shown(&seen, Kind::Filter, "other").1, "Unused");
    }

    #[test]
    fn of_two_peers_for_one_router_the_later_is_refused() {
        let mut seen = seen();
        let spec = BGPPeerSpec::with_router("192.0.2.1".parse().expect("an address"), PeerAsn::External);
        put(&mut seen.peers, BGPPeer::new("tor-again", spec));
        assert!(shown(&seen, Kind::Peer, "tor").0);
        let (accepted, reason, message) = shown(&seen, Kind::Peer, "tor-again");
        assert_eq!((accepted, reason), (false, "OverlappingTarget"));
        assert_eq!(message, "BGPPeer tor gives node1, node2, node3 and 1 more a session with the same peer");
    }

    #[test]
    fn what_nodes_cannot_carry_out_is_told_with_their_names() {
        let mut seen = seen();
        let mut network = NodeNetwork::example();
        network.metadata.name = Some("node3".to_owned());
        let mut status = NodeNetworkStatus::default();
        let message = "BGPPeer tor: 192.0.2.1 cannot be reached; IPPool x: too small";
        set_condition(
            &mut status.conditions,
            "Configured",
            false,
            "NotCarriedOut",
            message,
            None,
            Timestamp::UNIX_EPOCH,
        );
        network.status = Some(status);
        put(&mut seen.networks, network);
        let expected = (false, "NotCarriedOut", "192.0.2.1 cannot be reached (on node3)".to_owned());
        assert_eq!(shown(&seen, Kind::Peer, "tor"), expected);
        assert!(shown(&seen, Kind::Configuration, "default").0);
    }
}
