//! Who reached whom: peers, nodes, the API server.

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use manx_api::{BGPPeer, PeerAsn, selects};
use manx_facts::host::{HostQuestion, Large, LargeOutcome, LargeReached, Outcome, Reach, Reached};

use super::{Facts, Seen, machines};
use crate::finding::{Finding, NAMED, named};

/// The most other nodes that a node is asked to reach. Half of them follow it in their order, so that each is reached by as
/// many, the others are spread over the rest.
const NEIGHBOURS: usize = 16;
/// Milliseconds of an answer of the API server from which on it is slow.
const SLOW: u64 = 2_000;
/// The port of BGP.
const PORT: u16 = 179;
/// What the API server says to a token that it does not take.
const NOT_TAKEN: &str = "Unauthorized";
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

/// What every node is asked, before there is a Manx and afterwards: what its kernel can do, whether firewalls let pods
/// pass, and whom it reaches by which packets.
pub(crate) fn question(facts: &Facts, node: &str) -> HostQuestion {
    HostQuestion {
        trials: true,
        reach: nodes_of(facts, node),
        large: large_of(facts, node),
        pods: facts.cluster.pools.iter().map(|pool| pool.spec.cidr.network()).collect(),
        own: facts.nodes.get(node).map(|seen| seen.addresses.clone()).unwrap_or_default(),
        ..HostQuestion::default()
    }
}

/// The other nodes that a node shall reach.
fn others<'a>(facts: &'a Facts, node: &str) -> Vec<(&'a String, &'a Seen)> {
    let (after, before): (Vec<_>, Vec<_>) =
        facts.nodes.iter().filter(|(name, _)| *name != node).partition(|(name, _)| name.as_str() > node);
    let all: Vec<_> = after.into_iter().chain(before).collect();
    if all.len() <= NEIGHBOURS {
        return all;
    }
    let (next, rest) = all.split_at(NEIGHBOURS / 2);
    let spread = rest.iter().step_by(rest.len() / (NEIGHBOURS - next.len()));
    next.iter().chain(spread).take(NEIGHBOURS).copied().collect()
}

fn large_of(facts: &Facts, node: &str) -> Vec<Large> {
    let others = others(facts, node).into_iter();
    let large = others.flat_map(|(name, seen)| {
        seen.addresses.iter().map(move |address| Large { name: format!("{NODE}{name}"), address: *address })
    });
    large.collect()
}

fn nodes_of(facts: &Facts, node: &str) -> Vec<Reach> {
    let port = facts.cluster.configuration.as_ref().map_or(PORT, |object| object.spec.listen_port);
    let reach = others(facts, node).into_iter().flat_map(|(name, seen)| {
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

/// Nodes that a node reaches by small packets and not by such as its pods send.
pub(super) fn large(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (node, host) in machines(facts) {
        let mut lost: BTreeMap<_, Vec<&LargeReached>> = BTreeMap::new();
        for reached in &host.large {
            match &reached.outcome {
                LargeOutcome::Lost { passes, told } => {
                    lost.entry((reached.size, *passes, *told)).or_default().push(reached);
                }
                LargeOutcome::Error(error) => findings.push(Finding::note(
                    node.clone(),
                    format!(
                        "whether {} is reached by large packets could not be tried: {error}",
                        at(reached)
                    ),
                )),
                LargeOutcome::Answered | LargeOutcome::Silent => {}
            }
        }
        findings.extend(lost.into_iter().map(|((size, passes, told), to)| {
            let to: Vec<String> = to.into_iter().map(at).collect();
            hole(&node, size, &named(&to, NAMED), passes, told)
        }));
    }
    findings
}

fn at(reached: &LargeReached) -> String {
    let name = &reached.large.name;
    format!("{} ({})", name.strip_prefix(NODE).unwrap_or(name), reached.large.address)
}

/// Large packets that are lost: for pods it is harmless only if they are told.
fn hole(node: &str, size: u32, to: &str, passes: Option<u32>, told: Option<u32>) -> Finding {
    let passes = passes.map_or_else(String::new, |passes| format!("; such of {passes} pass"));
    let cure = "give all links between nodes the same MTU, or the agents --mtu with what passes";
    let finding = match told {
        Some(told) => Finding::warning(
            node,
            format!(
                "packets of {size} octets, as its pods send them, do not reach {to}: a link on the way takes {told}{passes}"
            ),
            cure,
        ),
        None => Finding::error(
            node,
            format!(
                "packets of {size} octets, as its pods send them, get lost on the way to {to}, and small ones do not{passes}"
            ),
            cure,
        ),
    };
    finding.see("mtu")
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
                    if error.contains(NOT_TAKEN) {
                        "its token is not taken: the kubelet renews it (is the node's clock right?); restart the pod"
                    } else {
                        "is kube-proxy there (it makes the Service address)? Else name another address in the \
                         ConfigMap kubernetes-endpoint"
                    },
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
