//! What is published of a node: the status of its NodeNetwork and of its blocks.
//!
//! Nothing here ticks: a status that is computed twice without news is equal, so that it is written once.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use manx_api::{
    Allocation, Condition, IPBlockStatus, NodeNetworkStatus, Session, SessionError, SessionFamily,
    SessionState, Time, set_condition,
};
use manx_bgp::{Family, FamilyStatus, LastError, PeerState, PeerStatus, RouterId};
use manx_ipam::{BlockId, BlockUsage, Standing};
use manx_kernel::fib::{Stats, Why};

use super::intent::Problem;
use super::takeover::is_unexplained;

/// A time counts as unchanged while it moves by less than this: it is computed from an age.
const SLACK: SignedDuration = SignedDuration::from_secs(2);
/// With more sessions than this, those with nodes of the cluster are told in short: the object has a largest size.
const DETAILED: usize = 256;
/// The most characters of what an error says; a shutdown communication has 255 octets.
const MOST_TEXT: usize = 400;

/// What the status is made of.
#[derive(Debug, Clone, Default)]
pub struct Facts<'a> {
    /// The sessions, as the speaker tells of them.
    pub peers: &'a [PeerStatus],
    /// How long ago it told.
    pub age: Duration,
    /// The blocks.
    pub blocks: &'a [BlockUsage],
    /// The routes in the kernel.
    pub routes: Option<&'a Stats>,
    /// What keeps pods from starting.
    pub obstacles: &'a [String],
    /// Why pods have another MTU than they should.
    pub mtu: &'a [String],
    /// What is wrong with the conflist; `None` where none is kept.
    pub runtime: Option<&'a [String]>,
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
    let few = facts.peers.len() <= DETAILED;
    let detailed = |peer: &PeerStatus| few || !peer.peer.as_str().starts_with("node/");
    let then = ago(facts.age, now).unwrap_or(now);
    let sessions = facts.peers.iter().map(|peer| session(before, peer, detailed(peer), then));
    let sessions: Vec<Session> = sessions.collect();
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

/// A time that lay this far from now: the one told before if it is nearly the same.
fn moment(told: Option<Timestamp>, exact: Option<Timestamp>, now: Timestamp) -> Timestamp {
    let exact = exact.unwrap_or(now);
    let exact = Timestamp::from_second(exact.as_second()).unwrap_or(exact);
    told.filter(|told| exact.duration_since(*told).abs() <= SLACK).unwrap_or(exact)
}

fn ago(age: Duration, now: Timestamp) -> Option<Timestamp> {
    now.checked_sub(SignedDuration::try_from(age).ok()?).ok()
}

fn ahead(wait: Duration, now: Timestamp) -> Option<Timestamp> {
    now.checked_add(SignedDuration::try_from(wait).ok()?).ok()
}

/// With `detailed` also what takes room.
fn session(before: &NodeNetworkStatus, peer: &PeerStatus, detailed: bool, now: Timestamp) -> Session {
    let sum = |count: fn(&FamilyStatus) -> u32| peer.families.values().map(count).sum();
    let state = state(peer.state);
    let old = before.sessions.iter().find(|old| old.peer == peer.peer.as_str());
    let began = old.filter(|old| old.state == state).map(|old| old.since.0);
    let failed = old.and_then(|old| old.last_error.as_ref()).map(|error| error.when.0);
    let due = old.and_then(|old| old.retry_at.as_ref()).map(|time| time.0);
    let up = peer.state == PeerState::Established;
    Session {
        peer: peer.peer.to_string(),
        address: peer.remote.map(|remote| remote.ip()),
        as_number: peer.asn.map(|asn| asn.0),
        state,
        since: Time(moment(began, ago(peer.since, now), now)),
        router_id: peer.router_id.map(RouterId::get),
        hold_time_seconds: up.then(|| {
            let seconds = peer.hold_time.unwrap_or_default().as_secs();
            u16::try_from(seconds).unwrap_or(u16::MAX)
        }),
        capabilities: match detailed {
            true => peer.capabilities.iter().map(|name| (*name).to_owned()).collect(),
            false => Vec::new(),
        },
        flaps: u32::try_from(peer.dropped).unwrap_or(u32::MAX),
        last_error: peer.last_error.as_ref().map(|error| last_error(error, failed, now)),
        retry_at: peer.retry_in.map(|wait| Time(moment(due, ahead(wait, now), now))),
        range: peer.range.as_ref().map(ToString::to_string),
        lingers: peer.lingers,
        received: sum(|family| family.received),
        accepted: sum(|family| family.accepted),
        advertised: sum(|family| family.announced),
        families: match detailed {
            true => peer.families.iter().map(|(family, status)| session_family(*family, status)).collect(),
            false => Vec::new(),
        },
    }
}

fn session_family(family: Family, status: &FamilyStatus) -> SessionFamily {
    SessionFamily {
        family: family.to_string(),
        negotiated: status.negotiated,
        received: status.received,
        accepted: status.accepted,
        advertised: status.announced,
        stale: status.stale,
        limit: status.max_prefixes,
    }
}

fn last_error(error: &LastError, told: Option<Timestamp>, now: Timestamp) -> SessionError {
    SessionError {
        when: Time(moment(told, ago(error.ago, now), now)),
        by_peer: error.by_peer,
        code: error.code.map(|code| code.code),
        subcode: error.code.map(|code| code.subcode),
        text: error.text.chars().take(MOST_TEXT).collect(),
        data: error.data.iter().map(|octet| format!("{octet:02x}")).collect(),
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
    set("MTUFollowed", facts.mtu, ("Followed", "every pod has the MTU that it should have"), "NotFollowed");
    if let Some(complaints) = facts.runtime {
        let good = ("Configured", "the container runtime finds Manx and every plugin behind it");
        set("RuntimeConfigured", complaints, good, "Incomplete");
    }
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
    counted.map(|(why, count)| format!("{count} routes {}: the agent's log names one", reason(why))).collect()
}

fn conflict(block: &BlockUsage) -> Option<String> {
    match block.standing {
        Standing::Foreign => Some(format!(
            "{} belongs to another node, and {} pods here use it: restart them",
            block.block, block.used
        )),
        Standing::Vanished => Some(format!(
            "{} has no owner, and {} pods here use it: it is claimed again",
            block.block, block.used
        )),
        Standing::Claiming | Standing::Remembered | Standing::Owned | Standing::Releasing => None,
    }
}

/// The status of each block of this node, by its id. One with a link of which nobody says whose it is keeps what was
/// said of it: somebody may yet say more.
pub fn blocks(blocks: &[BlockUsage]) -> BTreeMap<BlockId, IPBlockStatus> {
    blocks
        .iter()
        .filter(|block| is_ours(block.standing) && !block.allocations.iter().any(is_unexplained))
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
    IPBlockStatus {
        used: block.used,
        free: block.free,
        allocations: allocations.collect(),
        handed_over_by: None,
    }
}

fn since(seconds: Option<u64>) -> Timestamp {
    let seconds = seconds.and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use manx_api::is_true;
    use manx_bgp::{Asn, ErrorCode, PeerId};

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
    fn a_status_made_of_old_news_says_what_it_said() {
        let peers = [peer(PeerState::Established, 5)];
        let before = told(&peers, &NodeNetworkStatus::default(), 0);
        let facts = Facts { peers: &peers, age: Duration::from_secs(25), ..Facts::default() };
        assert_eq!(network(&before, &facts, "1", at(25)), before);
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

    fn told(peers: &[PeerStatus], before: &NodeNetworkStatus, second: i64) -> NodeNetworkStatus {
        network(before, &Facts { peers, ..Facts::default() }, "1", at(second))
    }

    #[test]
    fn the_last_error_is_decoded_and_has_its_octets() {
        let mut peer = peer(PeerState::Active, 1);
        peer.dropped = 3;
        peer.retry_in = Some(Duration::from_secs(30));
        peer.last_error = Some(LastError {
            ago: Duration::from_secs(10),
            by_peer: true,
            code: Some(ErrorCode::ADMINISTRATIVE_SHUTDOWN),
            text: "administrative shutdown: moving racks".to_owned(),
            data: vec![0x0c, 0xff],
        });
        let first = told(std::slice::from_ref(&peer), &NodeNetworkStatus::default(), 100);
        let session = &first.sessions[0];
        let error = session.last_error.as_ref().expect("there was one");
        assert_eq!((error.code, error.subcode, error.data.as_str()), (Some(6), Some(2), "0cff"));
        assert_eq!(
            (error.when.0, error.line().as_str()),
            (at(90), "peer: administrative shutdown: moving racks")
        );
        assert_eq!((session.flaps, session.retry_at.as_ref().map(|time| time.0)), (3, Some(at(130))));

        // The next attempt fails in the same way: that is no news, though the times are others.
        peer.last_error.as_mut().expect("set").ago = Duration::ZERO;
        let again = told(&[peer], &first, 131);
        assert_ne!(again.sessions[0].last_error, first.sessions[0].last_error);
        let mut still = [&again, &first].map(|status| status.sessions[0].without_counters());
        still[0].since = still[1].since.clone();
        assert_eq!(still[0], still[1]);
    }

    #[test]
    fn where_there_are_many_sessions_those_of_the_mesh_are_told_in_short() {
        let with_details = |name: &str| PeerStatus {
            capabilities: vec!["route refresh"],
            families: BTreeMap::from([(
                Family::Ipv4Unicast,
                FamilyStatus { received: 7, ..FamilyStatus::default() },
            )]),
            ..PeerStatus::new(PeerId::from(name))
        };
        let mut peers = vec![with_details("peer/tor")];
        peers.extend((1..DETAILED).map(|number| with_details(&format!("node/{number}"))));
        let few = told(&peers, &NodeNetworkStatus::default(), 0);
        assert!(few.sessions.iter().all(|session| session.capabilities == ["route refresh"]));
        peers.push(with_details("node/one-more"));
        let many = told(&peers, &NodeNetworkStatus::default(), 0);
        let detailed = many.sessions.iter().filter(|session| !session.families.is_empty());
        assert_eq!(detailed.map(|session| session.peer.as_str()).collect::<Vec<_>>(), ["peer/tor"]);
        assert!(many.sessions.iter().all(|session| session.received == 7));
    }

    #[test]
    fn what_is_wrong_stands_in_a_condition_and_goes_with_it() {
        let stats = Stats { blocked: BTreeMap::from([(Why::NextHop, 2)]), ..Stats::default() };
        let obstacles = ["no pool".to_owned()];
        let facts = Facts { routes: Some(&stats), obstacles: &obstacles, ..Facts::default() };
        let status = network(&NodeNetworkStatus::default(), &facts, "1", at(0));
        assert!(!is_true(&status.conditions, "Ready"));
        let routes = manx_api::condition(&status.conditions, "RoutesInstalled").expect("set");
        assert_eq!(
            routes.message,
            "2 routes whose next hop the kernel cannot reach: the agent's log names one"
        );
        let status = network(&status, &Facts::default(), "1", at(9));
        assert!(is_true(&status.conditions, "Ready") && is_true(&status.conditions, "RoutesInstalled"));
    }
}
