//! What to do about a session that is down and a condition that is bad.

use manx_api::{Session, SessionState};

/// A cure, and the heading of docs/operate.md with more.
pub(super) type Cure = (&'static str, &'static str);

/// Why a session is probably down, from its last error (RFC 4271 §4.5, RFC 4486).
pub(super) fn of_session(session: &Session) -> Cure {
    let error = session.last_error.as_ref();
    let cure = match error.map(|error| (error.code, error.subcode)) {
        Some((Some(2), Some(2))) => {
            "make asNumber of the BGPPeer the router's AS, and let the router expect the node's"
        }
        Some((Some(2), Some(3))) => {
            "two speakers have one router id: a node's is its IPv4 address, so change the other's"
        }
        Some((Some(2), Some(4 | 6 | 7 | 11))) => {
            "the two ends ask for what the other has not: compare hold time, roles and capabilities of both"
        }
        Some((Some(3), _)) => {
            "the peer sent a broken UPDATE: `manxctl peers -o wide` shows its octets, the agent's log the reason"
        }
        Some((Some(4), _)) => {
            "nothing was heard for the hold time: look for loss, overload, or an MTU that swallows large packets"
        }
        Some((Some(6), Some(1))) => "it announced more than maxPrefixes: find out why, or raise the limit",
        Some((Some(6), Some(2))) => {
            "somebody shut it down at the other end: its words, if there are any, say who"
        }
        Some((Some(6), Some(3))) => "the other end no longer has this session configured: add the node there",
        Some((Some(6), Some(5))) => "the other end refuses us: let it expect this node's address and AS",
        Some((Some(6), Some(7))) => "both ends dialled at once, which passes by itself",
        _ if session.state == SessionState::Idle => {
            "it waits after an error, or is not dialled: see the condition Configured of the node"
        }
        _ => {
            "nobody answers at its port: look for a firewall, a wrong address, a password that differs, a speaker that is down"
        }
    };
    (cure, "session-down")
}

/// What to do about a condition of a NodeNetwork that is not True.
pub(super) fn of_condition(type_: &str, message: &str) -> Cure {
    match type_ {
        "Ready" => ("the message names what is missing: most often a pool for this node", "node-notready"),
        "Configured" => ("put right the object that the message names, or what it refers to", "session-down"),
        "RoutesInstalled" if message.contains("not ours") => {
            ("find the route with `ip route` on the node, and delete it or whatever makes it", "no-route")
        }
        "RoutesInstalled" if message.contains("next hop") => {
            ("the node needs a way to the network of its next hops: look at its own routes", "no-route")
        }
        "RoutesInstalled" => ("the agent's log there has the kernel's words", "no-route"),
        "MTUFollowed" => ("the message names the pod and why", "mtu"),
        "RuntimeConfigured" => {
            ("put the plugin or file right that the message names", "host-port-not-reached")
        }
        "BlocksHeld" => (
            "restart the pods whose addresses are in the blocks that the message names",
            "a-nodes-block-is-anothers",
        ),
        _ => ("`kubectl describe nodenetwork` has all conditions of the node", "node-notready"),
    }
}

/// What to do about a pool that is not ready, by the reason.
pub(super) fn of_pool(reason: &str) -> Cure {
    match reason {
        "Exhausted" => ("make a second pool: it gives when this one is full", "addresses-run-out"),
        "Overlap" => ("delete one of the two pools", "addresses-run-out"),
        "NoNode" => ("label nodes as its nodeSelector says, or change that", "node-notready"),
        _ => ("`kubectl describe ippool` tells more", "addresses-run-out"),
    }
}
