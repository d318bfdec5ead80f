//! What is published of a node: the status of its NodeNetwork and of its blocks.
//!
//! Nothing here ticks: a status that is computed twice without news is equal, so that it is written once.

use std::collections::BTreeMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use manx_api::{
    Allocation, Condition, IPBlockStatus, NodeNetworkStatus, Session, SessionState, Time, set_condition,
};
use manx_bgp::{FamilyStatus, PeerState, PeerStatus};
use manx_ipam::{BlockId, BlockUsage, Standing};
use manx_kernel::fib::{Stats, Why};

use super::intent::Problem;

/// A session counts as unchanged while its start moves by less than this: it is computed from its age.
const SINCE_SLACK: SignedDuration = SignedDuration::from_secs(2);

/// What the status is made of.
#[derive(Debug, Clone, Default)]
pub struct Facts<'a> {
    /// The sessions, as the speaker tells of them.
    pub peers: &'a [PeerStatus],
    /// The blocks.
    pub blocks: &'a [BlockUsage],
    /// The routes in the kernel.
    pub routes: Option<&'a Stats>,
    /// What keeps pods from starting.
    pub obstacles: &'a [String],
    /// What is configured and cannot be done.
    pub problems: &'a [Problem],
}

/// The status of the NodeNetwork, given the one before it.
pub fn network(
    before: &NodeNetworkStatus,
    facts: &Facts<'_>,
    version: &str,
    now: Timestamp,
) -> NodeNetworkStatus {
    let sessions: Vec<Session> = facts.peers.iter().map(|peer| session(before, peer, now)).collect();
    let mut owned: Vec<_> = facts.blocks.iter().filter(|block| is_ours(block.standing)).collect();
    owned.sort_by_key(|block| block.block);
    NodeNetworkStatus {
        sessions_up: NodeNetworkStatus::count_up(&sessions),
        sessions,
        blocks: owned.iter().map(|block| block.block.cidr()).collect(),
        version: version.to_owned(),
        conditions: conditions(before.conditions.clone(), facts, now),
    }
}

fn is_ours(standing: Standing) -> bool {
    match standing {
        Standing::Owned | Standing::Remembered | Standing::Releasing => true,
        Standing::Claiming | Standing::Vanished | Standing::Foreign => false,
    }
}

fn session(before: &NodeNetworkStatus, peer: &PeerStatus, now: Timestamp) -> Session {
    let sum = |count: fn(&FamilyStatus) -> u32| peer.families.values().map(count).sum();
    let state = state(peer.state);
    let since =
        SignedDuration::try_from(peer.since).ok().and_then(|age| now.checked_sub(age).ok()).unwrap_or(now);
    let since = Timestamp::from_second(since.as_second()).unwrap_or(since);
    let old = before.sessions.iter().find(|old| old.peer == peer.peer.as_str() && old.state == state);
    let since = old
        .map(|old| old.since.0)
        .filter(|old| since.duration_since(*old).abs() <= SINCE_SLACK)
        .unwrap_or(since);
    Session {
        peer: peer.peer.to_string(),
        address: peer.remote.map(|remote| remote.ip()),
        as_number: peer.asn.map(|asn| asn.0),
        state,
        since: Time(since),
        last_error: peer.last_error.as_ref().map(ToString::to_string),
        received: sum(|family| family.received),
        accepted: sum(|family| family.accepted),
        advertised: sum(|family| family.announced),
    }
}

fn state(state: PeerState) -> SessionState {
    match state {
        PeerState::Idle => SessionState::Idle,
        PeerState::Connect => SessionState::Connect,
        PeerState::Active => SessionState::Active,
        PeerState::OpenSent => SessionState::OpenSent,
        PeerState::OpenConfirm => SessionState::OpenConfirm,
        PeerState::Established => SessionState::Established,
    }
}

fn conditions(mut conditions: Vec<Condition>, facts: &Facts<'_>, now: Timestamp) -> Vec<Condition> {
    let mut set = |type_, complaints: &[String], good: (&str, &str), bad: &str| {
        let (reason, message) = match complaints {
            [] => (good.0, good.1.to_owned()),
            complaints => (bad, complaints.join("; ")),
        };
        set_condition(&mut conditions, type_, complaints.is_empty(), reason, message, None, now);
    };
    set("Ready", facts.obstacles, ("PodsCanStart", "pods can start on this node"), "PodsCannotStart");
    let problems: Vec<String> = facts.problems.iter().map(ToString::to_string).collect();
    set(
        "Configured",
        &problems,
        ("Accepted", "everything that is configured is carried out"),
        "NotCarriedOut",
    );
    let blocked: Vec<String> = facts.routes.map(blocked).unwrap_or_default();
    set("RoutesInstalled", &blocked, ("InSync", "the kernel has every route that it should have"), "Blocked");
    let conflicts: Vec<String> = facts.blocks.iter().filter_map(conflict).collect();
    set("BlocksHeld", &conflicts, ("Held", "every pod's address lies in a block of this node"), "Lost");
    conditions
}

fn blocked(stats: &Stats) -> Vec<String> {
    let reason = |why: &Why| match why {
        Why::NextHop => "whose next hop the kernel cannot reach",
        Why::Link => "whose link is missing or down",
        Why::Foreign => "where a route that is not ours has the same key",
        Why::Refused => "that the kernel refused",
    };
    let counted = stats.blocked.iter().filter(|(_, count)| **count > 0);
    counted.map(|(why, count)| format!("{count} routes {}", reason(why))).collect()
}

fn conflict(block: &BlockUsage) -> Option<String> {
    match block.standing {
        Standing::Foreign => {
            Some(format!("{} belongs to another node, and {} pods here use it", block.block, block.used))
        }
        Standing::Vanished => {
            Some(format!("{} has no owner, and {} pods here use it", block.block, block.used))
        }
        Standing::Claiming | Standing::Remembered | Standing::Owned | Standing::Releasing => None,
    }
}

/// The status of each block of this node, by its id.
pub fn blocks(blocks: &[BlockUsage]) -> BTreeMap<BlockId, IPBlockStatus> {
    blocks
        .iter()
        .filter(|block| is_ours(block.standing))
        .map(|block| (block.block, block_status(block)))
        .collect()
}

fn block_status(block: &BlockUsage) -> IPBlockStatus {
    let allocations = block.allocations.iter().flat_map(|endpoint| {
        let inside = endpoint.addresses.iter().filter(|address| block.block.contains(**address));
        inside.map(move |address| Allocation {
            address: *address,
            pod: endpoint.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name)),
            container: endpoint.id.container.clone(),
            interface: endpoint.id.ifname.clone(),
            since: Time(since(endpoint.since)),
        })
    });
    IPBlockStatus { used: block.used, free: block.free, allocations: allocations.collect() }
}

fn since(seconds: Option<u64>) -> Timestamp {
    let seconds = seconds.and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use manx_api::is_true;
    use manx_bgp::{Asn, PeerId};

    use super::*;

    fn peer(state: PeerState, since: u64) -> PeerStatus {
        PeerStatus {
            state,
            since: Duration::from_secs(since),
            asn: Some(Asn(64512)),
            established: 1,
            ..PeerStatus::new(PeerId::from("node/node2"))
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).expect("a time")
    }

    #[test]
    fn a_status_without_news_is_equal_however_much_later_it_is_made() {
        let before = {
            let peers = [peer(PeerState::Established, 5)];
            network(&NodeNetworkStatus::default(), &Facts { peers: &peers, ..Facts::default() }, "1", at(0))
        };
        let peers = [peer(PeerState::Established, 66)];
        let after = network(&before, &Facts { peers: &peers, ..Facts::default() }, "1", at(60));
        assert_eq!(after, before);
        assert_eq!(after.sessions_up, "1/1");
    }

    #[test]
    fn a_session_that_changed_its_state_has_a_new_start() {
        let peers = [peer(PeerState::Established, 60)];
        let before =
            network(&NodeNetworkStatus::default(), &Facts { peers: &peers, ..Facts::default() }, "1", at(60));
        let peers = [peer(PeerState::Idle, 1)];
        let after = network(&before, &Facts { peers: &peers, ..Facts::default() }, "1", at(100));
        assert_eq!((before.sessions[0].since.0, after.sessions[0].since.0), (at(0), at(99)));
    }

    #[test]
    fn what_is_wrong_stands_in_a_condition_and_goes_with_it() {
        let stats = Stats { blocked: BTreeMap::from([(Why::NextHop, 2)]), ..Stats::default() };
        let obstacles = ["no pool".to_owned()];
        let facts = Facts { routes: Some(&stats), obstacles: &obstacles, ..Facts::default() };
        let status = network(&NodeNetworkStatus::default(), &facts, "1", at(0));
        assert!(!is_true(&status.conditions, "Ready"));
        let routes = manx_api::condition(&status.conditions, "RoutesInstalled").expect("set");
        assert_eq!(routes.message, "2 routes whose next hop the kernel cannot reach");
        let status = network(&status, &Facts::default(), "1", at(9));
        assert!(is_true(&status.conditions, "Ready") && is_true(&status.conditions, "RoutesInstalled"));
    }
}
