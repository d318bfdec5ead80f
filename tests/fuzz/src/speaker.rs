//! Several speakers of ours among themselves, on wires that break, under a script.

use std::collections::BTreeSet;

use manx_bgp::{AddPath, Event, Input, PeerConfig, Prefix, StopReason};

use crate::script::Script;
use crate::world::{Host, World, name, prefix, secs};

const HOSTS: Host = 3;
/// Long enough for every timer of a session, and for whatever was kept over a restart.
const QUIET: u64 = 1200;
/// What each host may originate.
const ORIGINS: [[&str; 3]; HOSTS] = [
    ["10.0.0.0/26", "10.0.0.64/26", "fd00::/122"],
    ["10.1.0.0/26", "0.0.0.0/1", "fd00:1::/122"],
    ["10.2.0.0/32", "10.2.0.0/26", "::/0"],
];

/// Octets are the configuration of three hosts in a triangle, then what happens. At the end every wire is mended,
/// and every host must know what the others originate, and nothing else.
pub fn speaker(octets: &[u8]) {
    let mut script = Script::new(octets);
    let mut world = World::with_seed(script.octet());
    let systems =
        [[64512, 64512, 64512], [64512, 65001, 65002], [64512, 64512, 65001], [64512, 65001, 4_200_000_000]];
    let systems = systems[usize::from(script.below(4))];
    for asn in systems {
        world.add(asn);
    }
    world.chunk = [1, 7, 19, 64, 4096, 65_536][usize::from(script.below(6))];
    for (a, b) in [(0, 1), (1, 2), (0, 2)] {
        let flavours = [script.u16(), script.u16()];
        world.peer_with(a, b, |me, config| flavour(config, flavours[usize::from(me == b)]));
    }
    let mut originated: [BTreeSet<Prefix>; HOSTS] = std::array::from_fn(|_| BTreeSet::new());
    let mut crashed = BTreeSet::new();
    while !script.is_over() {
        happen(&mut script, &mut world, &mut originated, &mut crashed);
        no_fault_is_found(&mut world);
    }
    for host in crashed {
        world.start(host, false);
        originate(&mut world, host, &originated[host]);
    }
    for (a, b) in [(0, 1), (1, 2), (0, 2)] {
        world.mend(a, b);
    }
    world.run(secs(QUIET));
    no_fault_is_found(&mut world);
    for host in 0..HOSTS {
        let others =
            (0..HOSTS).filter(|other| *other != host).flat_map(|other| originated[other].iter().copied());
        let others: BTreeSet<Prefix> = others.collect();
        let known: BTreeSet<Prefix> = world.nodes[host].routes.keys().copied().collect();
        assert_eq!(known, others, "what host {host} knows of the others");
    }
}

/// Differences that sessions must bear: none of them keeps routes away.
fn flavour(config: &mut PeerConfig, octet: u16) {
    let bit = |n: u16| octet >> n & 1 == 1;
    if bit(0) {
        config.graceful_restart = None;
    }
    if bit(1) {
        config.hold_time = manx_bgp::HoldTime::new(3).expect("allowed");
    }
    if bit(2) {
        config.connect_retry = secs(7);
    }
    config.reflector_client = bit(3);
    config.damping = bit(4);
    config.delay_open = bit(5).then(|| secs(2));
    config.keepalive = bit(6).then(|| secs(1));
    config.long_lived = bit(7).then(|| secs(120));
    config.remove_private_as = bit(8);
    for family in config.families.values_mut() {
        family.add_path = AddPath { receive: bit(9), send: bit(10).then_some(3) };
        family.extended_next_hop = bit(11);
    }
}

fn happen(
    script: &mut Script<'_>,
    world: &mut World,
    originated: &mut [BTreeSet<Prefix>; HOSTS],
    crashed: &mut BTreeSet<Host>,
) {
    let action = script.below(10);
    let host = usize::from(script.below(3));
    let other = (host + 1 + usize::from(script.flag())) % HOSTS;
    let dead = crashed.contains(&host);
    match action {
        0 | 1 => world.run(script.pause().min(secs(300))),
        2 => {
            let wanted = script.octet();
            originated[host] =
                (0..3).filter(|n| wanted >> n & 1 == 1).map(|n| prefix(ORIGINS[host][n])).collect();
            if !dead {
                originate(world, host, &originated[host]);
            }
        }
        3 => world.cut(host, other),
        4 => world.mend(host, other),
        5 if !dead => {
            world.crash(host, script.flag());
            crashed.insert(host);
        }
        6 if dead => {
            crashed.remove(&host);
            world.start(host, script.flag());
            originate(world, host, &originated[host]);
        }
        7 if !dead => world.input(host, Input::Reset { peer: name(other) }),
        8 if !dead => {
            let octet = script.u16();
            world.reconfigure(host, other, |config| flavour(config, octet));
        }
        9 if !dead => {
            let leave = StopReason::Leave { communication: "maintenance".to_owned() };
            world.stop(host, if script.flag() { leave } else { StopReason::Restart });
            crashed.insert(host);
        }
        _ => {}
    }
}

fn originate(world: &mut World, host: Host, prefixes: &BTreeSet<Prefix>) {
    let origins = prefixes.iter().map(|prefix| (*prefix, Default::default())).collect();
    world.input(host, Input::SetOrigins(origins));
}

/// Nothing that one of ours says is wrong in the eyes of another.
fn no_fault_is_found(world: &mut World) {
    for node in &mut world.nodes {
        for (when, event) in node.events.drain(..) {
            match event {
                Event::Fault { .. } => panic!("{when:?}: {event:?}"),
                Event::NotificationSent { code: 1..=3 | 5 | 7, .. } => panic!("{when:?}: {event:?}"),
                _ => {}
            }
        }
    }
}
