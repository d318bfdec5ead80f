//! Which sessions end at the same router. One router may be declared by many BGPPeers, one for each node, say; and one
//! BGPPeer that names a link may be many routers.
//!
//! A router is known by its AS and BGP identifier, which it says while a session is up and which is remembered afterwards
//! (RFC 6286 §2.1); before it has said so, by its address; a link-local address says nothing, then it is the BGPPeer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use kube::ResourceExt as _;
use manx_api::{BGPPeer, NodeNetwork, Session};

/// What a router is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    Identifier(Option<u32>, Ipv4Addr),
    Address(Option<u32>, IpAddr),
    Name(String),
}

/// A node, and one of its peers.
type End = (String, String);

/// What routers said of themselves, kept while their sessions are down.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    /// With the address that it had then.
    known: BTreeMap<End, (Option<IpAddr>, Option<u32>, Ipv4Addr)>,
    /// The addresses that BGPPeers name: a session that is down may have none.
    declared: BTreeMap<String, IpAddr>,
}

/// The router of each session that is not with another node, such as `peer/tor`.
pub(crate) type Routers = BTreeMap<End, String>;

impl Identities {
    /// Takes what sessions and BGPPeers say now, and forgets those that are no more.
    pub(crate) fn learn(&mut self, networks: &[NodeNetwork], peers: &[BGPPeer]) {
        let address =
            |peer: &BGPPeer| Some((format!("peer/{}", peer.name_any()), peer.spec.peer_ip.as_ref()?.ip));
        self.declared = peers.iter().filter_map(address).collect();
        let mut before = std::mem::take(&mut self.known);
        for (node, session) in outer(networks) {
            let end = (node, session.peer.clone());
            let now = self.address(session);
            let said = session.router_id.map(|id| (now, session.as_number, id));
            let kept = before.remove(&end).filter(|(address, ..)| now.is_none() || *address == now);
            if let Some(identity) = said.or(kept) {
                self.known.insert(end, identity);
            }
        }
    }

    /// Tells routers apart and names them.
    pub(crate) fn routers(&self, networks: &[NodeNetwork]) -> Routers {
        let mut at: BTreeMap<IpAddr, BTreeSet<Mark>> = BTreeMap::new();
        for (end, session) in outer(networks).map(|(node, session)| ((node, session.peer.clone()), session)) {
            let mark = self.known.get(&end).map(|(_, asn, id)| Mark::Identifier(*asn, *id));
            if let (Some(mark), Some(address)) = (mark, self.lasting(session)) {
                at.entry(address).or_default().insert(mark);
            }
        }
        let mut ends: BTreeMap<Mark, Vec<End>> = BTreeMap::new();
        for (node, session) in outer(networks) {
            let end = (node, session.peer.clone());
            let mark = match self.known.get(&end) {
                Some((_, asn, id)) => Mark::Identifier(*asn, *id),
                None => self.unidentified(session, &at),
            };
            ends.entry(mark).or_default().push(end);
        }
        named(ends)
    }

    /// The peer's address, as the session says, else the BGPPeer.
    fn address(&self, session: &Session) -> Option<IpAddr> {
        session.address.or_else(|| self.declared.get(&session.peer).copied())
    }

    /// The same, if it is the same router's wherever it is seen.
    fn lasting(&self, session: &Session) -> Option<IpAddr> {
        self.address(session).filter(|address| match address {
            IpAddr::V4(address) => !address.is_link_local(),
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        })
    }

    /// Whom a session is with that has never been up: the router that others know at this address, if it is one.
    fn unidentified(&self, session: &Session, at: &BTreeMap<IpAddr, BTreeSet<Mark>>) -> Mark {
        let Some(address) = self.lasting(session) else { return Mark::Name(session.peer.clone()) };
        let may_be = |mark: &&Mark| match mark {
            Mark::Identifier(asn, _) => {
                asn.is_none() || session.as_number.is_none() || *asn == session.as_number
            }
            Mark::Address(..) | Mark::Name(_) => false,
        };
        let mut known = at.get(&address).into_iter().flatten().filter(may_be);
        match (known.next(), known.next()) {
            (Some(only), None) => only.clone(),
            _ => Mark::Address(session.as_number, address),
        }
    }
}

/// Sessions with others than nodes of the cluster.
fn outer(networks: &[NodeNetwork]) -> impl Iterator<Item = (String, &Session)> {
    networks.iter().flat_map(|network| {
        let sessions = network.status.iter().flat_map(|status| &status.sessions);
        let outer = sessions.filter(|session| !session.peer.starts_with("node/"));
        outer.map(|session| (network.name_any(), session))
    })
}

/// Names each router after its BGPPeers; those of equal names also by what they are known by.
fn named(ends: BTreeMap<Mark, Vec<End>>) -> Routers {
    let names: Vec<String> = ends.values().map(|ends| name(ends)).collect();
    let mut routers = Routers::new();
    for ((mark, ends), name) in ends.into_iter().zip(&names) {
        let same = names.iter().filter(|other| *other == name).count();
        let whole = match (&mark, same) {
            (_, ..=1) | (Mark::Name(_), _) => format!("peer/{name}"),
            (Mark::Identifier(_, id), _) => format!("peer/{name} {id}"),
            (Mark::Address(_, address), _) => format!("peer/{name} {address}"),
        };
        routers.extend(ends.into_iter().map(|end| (end, whole.clone())));
    }
    routers
}

/// What the BGPPeers of one router have in common: their name; what is left without the name of the node; how they
/// begin; else the first, and how many more there are.
fn name(ends: &[End]) -> String {
    let bare = |peer: &str| peer.strip_prefix("peer/").unwrap_or(peer).to_owned();
    let names: BTreeSet<String> = ends.iter().map(|(_, peer)| bare(peer)).collect();
    let first = names.first().cloned().unwrap_or_default();
    if names.len() <= 1 {
        return first;
    }
    let mark = |end: char| !end.is_alphanumeric();
    let without = ends
        .iter()
        .map(|(node, peer)| bare(peer).replacen(node.as_str(), "", 1).trim_matches(mark).to_owned());
    let without: BTreeSet<String> = without.collect();
    if let (1, Some(rest)) = (without.len(), without.first().filter(|rest| !rest.is_empty())) {
        return rest.clone();
    }
    let shared = |one: &str, other: &str| -> String {
        one.chars().zip(other.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
    };
    let begin = names.iter().fold(first.clone(), |begin, name| shared(&begin, name));
    let begin = begin.trim_end_matches(|end: char| mark(end) || end.is_ascii_digit());
    if begin.chars().count() >= 2 { begin.to_owned() } else { format!("{first} +{}", names.len() - 1) }
}

#[cfg(test)]
mod tests {
    use manx_api::{NodeNetworkStatus, SessionState, Time, Timestamp};

    use super::*;

    /// A node whose sessions are `(peer, address, AS, identifier)`.
    fn node(name: &str, sessions: &[(&str, &str, u32, Option<&str>)]) -> NodeNetwork {
        let session = |&(peer, address, asn, id): &(&str, &str, u32, Option<&str>)| {
            let mut session = Session::new(peer, SessionState::Idle, Time(Timestamp::UNIX_EPOCH));
            session.address = address.parse().ok();
            session.as_number = Some(asn);
            session.router_id = id.map(|id| id.parse().expect("an identifier"));
            session
        };
        let mut network = NodeNetwork::example();
        network.metadata.name = Some(name.to_owned());
        let sessions = sessions.iter().map(session).collect();
        network.status = Some(NodeNetworkStatus { sessions, ..NodeNetworkStatus::default() });
        network
    }

    fn routers(networks: &[NodeNetwork]) -> Vec<String> {
        let mut identities = Identities::default();
        identities.learn(networks, &[]);
        identities.routers(networks).into_values().collect()
    }

    #[test]
    fn one_router_of_many_peers_is_one() {
        let id = Some("10.0.0.1");
        let on = |name: &str, peer: &str, address: &str| node(name, &[(peer, address, 65000, id)]);
        let each = [on("n1", "peer/tor-n1", "10.1.0.1"), on("n2", "peer/tor-n2", "10.2.0.1")];
        assert_eq!(routers(&each), ["peer/tor", "peer/tor"], "by its identifier");
        let same = |name: &str, peer: &str| node(name, &[(peer, "10.1.0.1", 65000, None)]);
        assert_eq!(
            routers(&[same("a", "peer/spine-1"), same("b", "peer/spine-11")]),
            ["peer/spine", "peer/spine"]
        );
        assert_eq!(
            routers(&[same("a", "peer/east"), same("b", "peer/west")]),
            ["peer/east +1", "peer/east +1"]
        );
        let half = [same("a", "peer/tor-a"), node("b", &[("peer/tor-b", "10.1.0.1", 65000, id)])];
        assert_eq!(routers(&half), ["peer/tor", "peer/tor"], "one of the sessions was never up");
    }

    #[test]
    fn who_was_never_up_is_known_by_the_address_of_its_peer_object() {
        let peer = |name: &str, address: &str| -> BGPPeer {
            let spec = serde_json::json!({"peerIP": address, "asNumber": 65000});
            serde_json::from_value(serde_json::json!({"metadata": {"name": name}, "spec": spec}))
                .expect("a peer")
        };
        let peers = [peer("tor-a", "10.1.0.1"), peer("tor-b", "10.1.0.1"), peer("other", "10.9.0.1")];
        let down = |name: &str, peer: &str| node(name, &[(peer, "not known", 65000, None)]);
        let networks = [down("a", "peer/tor-a"), down("b", "peer/tor-b"), down("b", "peer/other")];
        let mut identities = Identities::default();
        identities.learn(&networks, &peers);
        let names: Vec<String> = identities.routers(&networks).into_values().collect();
        assert_eq!(names, ["peer/tor", "peer/other", "peer/tor"]);
    }

    #[test]
    fn other_numbers_and_addresses_are_other_routers() {
        let id = Some("10.0.0.1");
        let by_as = [
            node("a", &[("peer/x", "10.1.0.1", 65000, id)]),
            node("b", &[("peer/y", "10.2.0.1", 65001, id)]),
        ];
        assert_eq!(routers(&by_as), ["peer/x", "peer/y"]);
        let by_address = [
            node("a", &[("peer/x", "10.1.0.1", 65000, None)]),
            node("b", &[("peer/y", "10.2.0.1", 65000, None)]),
        ];
        assert_eq!(routers(&by_address), ["peer/x", "peer/y"]);
    }

    #[test]
    fn one_peer_that_names_a_link_is_as_many_routers_as_answer() {
        let on = |name: &str, id: Option<&str>| node(name, &[("peer/uplink", "fe80::1", 65000, id)]);
        assert_eq!(routers(&[on("a", None), on("b", None)]), ["peer/uplink", "peer/uplink"]);
        assert_eq!(
            routers(&[on("a", Some("10.0.0.1")), on("b", Some("10.0.0.2")), on("c", Some("10.0.0.2"))]),
            ["peer/uplink 10.0.0.1", "peer/uplink 10.0.0.2", "peer/uplink 10.0.0.2"]
        );
    }

    #[test]
    fn a_router_stays_the_same_while_its_session_is_down() {
        let state = |id: Option<&str>, address: &str| {
            [
                node("n1", &[("peer/tor-n1", "10.1.0.1", 65000, Some("10.0.0.1"))]),
                node("n2", &[("peer/tor-n2", address, 65000, id)]),
            ]
        };
        let mut identities = Identities::default();
        identities.learn(&state(Some("10.0.0.1"), "10.2.0.1"), &[]);
        let down = state(None, "none while it is down");
        identities.learn(&down, &[]);
        let names = |identities: &Identities, networks: &[NodeNetwork]| -> BTreeSet<String> {
            identities.routers(networks).into_values().collect()
        };
        assert_eq!(names(&identities, &down), ["peer/tor".to_owned()].into());
        let elsewhere = state(None, "10.9.0.1");
        identities.learn(&elsewhere, &[]);
        assert_eq!(names(&identities, &elsewhere).len(), 2, "its BGPPeer names another address now");
    }
}
