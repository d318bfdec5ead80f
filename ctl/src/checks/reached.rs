//! Who reached whom: peers, nodes, the API server.

use kube::ResourceExt as _;
use manx_api::{BGPPeer, PeerAsn, selects};
use manx_facts::host::{Outcome, Reach, Reached};

use super::{Facts, machines};
use crate::finding::Finding;

/// The most other nodes that a node is asked to reach: each is reached by as many in a large cluster.
const NEIGHBOURS: usize = 16;
/// Milliseconds of an answer of the API server from which on it is slow.
const SLOW: u64 = 2_000;
/// The port of BGP.
const PORT: u16 = 179;
/// What the names of those to be reached begin with.
const NODE: &str = "node/";
const PEER: &str = "peer/";

/// The peers that a node shall reach.
pub(crate) fn peers_of(facts: &Facts, node: &str) -> Vec<Reach> {
    let Some(seen) = facts.nodes.get(node) else { return Vec::new() };
    let peers =
        facts.cluster.peers.iter().filter(|peer| selects(peer.spec.node_selector.as_ref(), &seen.labels));
    peers
        .filter_map(|peer| {
            let at = peer.spec.peer_ip.as_ref()?;
            let name = format!("{PEER}{}", peer.name_any());
            Some(Reach { name, address: at.ip, port: at.port.unwrap_or(PORT), open: true })
        })
        .collect()
}

/// The other nodes that a node shall reach: those that follow it in their order, and after the last the first again.
pub(crate) fn nodes_of(facts: &Facts, node: &str) -> Vec<Reach> {
    let port = facts.cluster.configuration.as_ref().map_or(PORT, |object| object.spec.listen_port);
    let (after, before): (Vec<_>, Vec<_>) =
        facts.nodes.iter().filter(|(name, _)| *name != node).partition(|(name, _)| name.as_str() > node);
    let others = after.into_iter().chain(before).take(NEIGHBOURS);
    let reach = others.flat_map(|(name, seen)| {
        seen.addresses.iter().map(move |address| Reach {
            name: format!("{NODE}{name}"),
            address: *address,
            port,
            open: false,
        })
    });
    reach.collect()
}

fn all<'a>(facts: &'a Facts, kind: &'a str) -> impl Iterator<Item = (String, &'a str, &'a Reached)> {
    machines(facts).flat_map(move |(node, host)| {
        host.reached
            .iter()
            .filter_map(move |reached| Some((node.clone(), reached.reach.name.strip_prefix(kind)?, reached)))
    })
}

/// Whether nodes may drop, without a word, what is not of a session: it is not signed, or does not come from next door.
fn is_guarded(facts: &Facts) -> bool {
    let between_nodes = facts.cluster.peers.iter().filter(|peer| peer.spec.peer_selector.is_some());
    between_nodes
        .into_iter()
        .any(|peer| peer.spec.password_secret_ref.is_some() || peer.spec.ttl_security_hops.is_some())
}

/// Nodes that a node does not reach.
pub(super) fn nodes(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (node, other, reached) in all(facts, NODE) {
        let (address, port) = (reached.reach.address, reached.reach.port);
        let what = match &reached.outcome {
            Outcome::Timeout if is_guarded(facts) => continue,
            Outcome::Timeout => {
                format!("it does not reach {address} of {other}: nobody answers at port {port}")
            }
            Outcome::Error(error) => format!("it does not reach {address} of {other}: {error}"),
            Outcome::Refused => {
                // The machine is there; that its agent is not is found elsewhere.
                continue;
            }
            _ => continue,
        };
        let cure = "let nodes reach each other: routers between them, firewalls (port 179/tcp must pass)";
        findings.push(Finding::error(node, what, cure).see("no-route"));
    }
    findings
}

/// Peers that do not answer, or not as they should.
pub(super) fn peers(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (node, name, reached) in all(facts, PEER) {
        let peer = facts.cluster.peers.iter().find(|peer| peer.name_any() == name);
        let at = format!("the peer {name} at {} port {}", reached.reach.address, reached.reach.port);
        findings.extend(judge(&node, &at, peer, &reached.outcome));
    }
    findings
}

fn judge(node: &str, at: &str, peer: Option<&BGPPeer>, outcome: &Outcome) -> Option<Finding> {
    let finding = |what: String, cure: &str| Some(Finding::warning(node, what, cure).see("session-down"));
    let password = peer.is_some_and(|peer| peer.spec.password_secret_ref.is_some());
    match outcome {
        Outcome::Open { as_number, .. } => {
            let wanted = match peer?.spec.as_number {
                PeerAsn::Number(number) if number != *as_number => number,
                _ => return None,
            };
            finding(
                format!("{at} says that it is of AS {as_number}, and the BGPPeer says {wanted}"),
                "`asNumber` of the BGPPeer is the router's",
            )
        }
        // The kernel there drops, without a word, what is not signed.
        Outcome::Timeout if password => None,
        Outcome::Timeout => finding(
            format!("{at} does not answer"),
            "is the address right, does the way lead there, does a firewall take port 179?",
        ),
        Outcome::Refused => {
            finding(format!("nobody listens as {at}"), "start the router's BGP, or correct `peerIP`")
        }
        Outcome::Closed => finding(
            format!("{at} takes the connection and closes it without an OPEN"),
            "tell the router of this node: its address as a neighbour, or a range that holds it",
        ),
        Outcome::Silent => finding(
            format!("{at} takes the connection and says nothing"),
            "it may wait for our OPEN first (a passive peer with delay), or be no speaker of BGP",
        ),
        Outcome::Notification(code, subcode) => finding(
            format!("{at} refuses with NOTIFICATION {code}/{subcode}"),
            "tell the router of this node, or look at its log for why",
        ),
        Outcome::Error(error) => {
            finding(format!("{at}: {error}"), "is that the address of a router that speaks BGP?")
        }
        Outcome::Connected => None,
    }
}

/// Nodes that do not reach the API server.
pub(super) fn api(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (node, host) in machines(facts) {
        let Some(api) = &host.api else { continue };
        if let Some(error) = &api.error {
            findings.push(
                Finding::error(
                    node,
                    format!("it does not reach the API server at {}: {error}", api.address),
                    "is kube-proxy there (it makes the Service address)? Else name another address in the ConfigMap \
                     kubernetes-endpoint",
                )
                .see("api-server-away"),
            );
        } else if api.millis > SLOW {
            findings.push(Finding::warning(
                node,
                format!("the API server takes {} ms to answer", api.millis),
                "is it, or etcd, overloaded? Is the way to it lossy?",
            ));
        }
    }
    findings
}
