//! Changes of the topology that reach the nodes one after the other: no node is ever without a route.

use std::time::Duration;

use manx_bgp::{Input, PeerState};
use proptest::prelude::*;

use crate::world::{Host, World, name, open_peer, secs};

const NODES: usize = 4;
const REFLECTORS: usize = 2;
const ALL: usize = NODES + REFLECTORS;

/// Who speaks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology {
    /// Everybody, the reflectors among them; they reflect as well.
    Mesh,
    /// Everybody, and nobody reflects.
    PlainMesh,
    /// The nodes among themselves, and the reflectors among themselves.
    Apart,
    /// The nodes to the reflectors only.
    Reflectors,
}

fn reflects(host: Host) -> bool {
    host >= NODES
}

impl Topology {
    fn joins(self, a: Host, b: Host) -> bool {
        match self {
            Self::Mesh | Self::PlainMesh => true,
            Self::Apart => reflects(a) == reflects(b),
            Self::Reflectors => reflects(a) || reflects(b),
        }
    }
}

fn declare(world: &mut World, host: Host, topology: Topology, gr: bool) {
    let asn = world.nodes[host].local.asn;
    let others = (0..ALL).filter(|other| *other != host && topology.joins(host, *other));
    world.nodes[host].peers = others
        .map(|other| {
            let mut config = open_peer(host, other, asn);
            let reflecting = topology != Topology::PlainMesh;
            config.reflector_client = reflecting && reflects(host) && !reflects(other);
            if !gr {
                config.graceful_restart = None;
            }
            (name(other), config)
        })
        .collect();
    world.declare(host);
}

/// A cluster in which every node knows a route of every other one.
fn cluster(topology: Topology, to: Topology, gr: bool, latency: Duration) -> World {
    let mut world = World::new();
    world.latency = latency;
    for _ in 0..ALL {
        world.add(64512);
    }
    for host in 0..ALL {
        declare(&mut world, host, topology, gr);
        // Reflectors that are apart, before or after, have nothing to tell.
        if ![topology, to].contains(&Topology::Apart) || !reflects(host) {
            world.originate(host, &[&format!("10.{}.0.0/16", host + 100)]);
        }
    }
    world.run(secs(90));
    world
}

/// Changes each node at its own moment, and says who lost what meanwhile.
fn change(world: &mut World, to: Topology, gr: bool, moments: &[u64]) -> Vec<String> {
    let mut order: Vec<(u64, Host)> = moments.iter().copied().zip(0..).collect();
    order.sort_unstable();
    for host in 0..ALL {
        world.nodes[host].lost.clear();
    }
    let start = world.now;
    for (moment, host) in order {
        let due = start + Duration::from_millis(moment);
        world.run(due.saturating_duration_since(world.now));
        declare(world, host, to, gr);
    }
    world.run(secs(200));
    // Reflectors that go lose everything, as they should.
    let staying = if to == Topology::Apart { NODES } else { ALL };
    (0..staying)
        .flat_map(|host| world.nodes[host].lost.iter().map(move |prefix| format!("{host}: {prefix}")))
        .collect()
}

fn check(world: &World, to: Topology) {
    for host in 0..ALL {
        let peers = world.nodes[host].speaker.peers(world.now);
        let wanted = (0..ALL).filter(|other| *other != host && to.joins(host, *other)).count();
        let up = peers.iter().filter(|peer| peer.state == PeerState::Established).count();
        assert_eq!((up, peers.len()), (wanted, wanted), "{host} in {to:?}");
    }
}

fn from_to() -> impl Strategy<Value = (Topology, Topology)> {
    use Topology::{Apart, Mesh, PlainMesh, Reflectors};
    prop::sample::select(vec![
        (Mesh, Reflectors),
        (Reflectors, Mesh),
        (PlainMesh, Reflectors),
        (Reflectors, PlainMesh),
        (Apart, Reflectors),
        (Reflectors, Apart),
        (Mesh, PlainMesh),
        (PlainMesh, Mesh),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changing_the_topology_node_by_node_loses_no_route(
        (from, to) in from_to(),
        moments in prop::collection::vec(0_u64..20_000, ALL),
        latency in 1_u64..50,
    ) {
        let mut world = cluster(from, to, true, Duration::from_millis(latency));
        let lost = change(&mut world, to, true, &moments);
        prop_assert_eq!(lost, Vec::<String>::new());
        check(&world, to);
    }
}

#[test]
fn when_all_nodes_change_at_once_nothing_is_lost_even_without_graceful_restart() {
    for (from, to) in [
        (Topology::Mesh, Topology::Reflectors),
        (Topology::Reflectors, Topology::Mesh),
        (Topology::Apart, Topology::Reflectors),
    ] {
        let mut world = cluster(from, to, false, Duration::from_millis(5));
        assert_eq!(change(&mut world, to, false, &[0; ALL]), [] as [String; 0], "{from:?} to {to:?}");
        check(&world, to);
    }
}

#[test]
fn without_lingering_routes_are_lost() {
    // What the others prove is not true by itself.
    let mut world = World::new();
    for _ in 0..ALL {
        world.add_with(64512, |local| local.linger = Duration::ZERO);
    }
    for host in 0..ALL {
        declare(&mut world, host, Topology::Apart, true);
        world.originate(host, &[&format!("10.{}.0.0/16", host + 100)]);
    }
    world.run(secs(90));
    let moments: Vec<u64> = (0..ALL as u64).map(|host| host * 1000).collect();
    assert_ne!(change(&mut world, Topology::Reflectors, true, &moments), [] as [String; 0]);
}

#[test]
fn a_peer_whose_host_is_no_more_does_not_linger() {
    let mut world = World::new();
    for _ in 0..3 {
        world.add(64512);
    }
    for (a, b) in [(0, 1), (1, 2), (0, 2)] {
        world.peer(a, b);
    }
    world.originate(2, &["10.2.0.0/26"]);
    world.run(secs(20));
    assert!(!world.hops(0, "10.2.0.0/26").is_empty());
    world.crash(2, true);
    world.run(secs(1));
    assert!(!world.hops(0, "10.2.0.0/26").is_empty(), "kept over what may be a restart");
    world.input(0, Input::Dismiss { peer: name(2) });
    world.nodes[0].peers.remove(&name(2));
    world.declare(0);
    assert!(world.hops(0, "10.2.0.0/26").is_empty(), "gone at once");
    assert!(world.is_up(0, 1));
}
