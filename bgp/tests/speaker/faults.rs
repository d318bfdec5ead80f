//! What a peer does wrong costs what RFC 7606 says, hurts only itself, and never turns into a storm.

use std::time::Duration;

use manx_bgp::wire::{
    AfiSafi, Announcement, AsPath, Attributes, Message, NextHop, RefreshKind, RouteRefresh,
};
use manx_bgp::{Asn, ConnId, Direction, Event, Family, Input, Output, PeerState, Policy};

use crate::script::{PEER_ASN, Script, config, octets, open, peer};
use crate::world::{World, address, prefix, secs};

fn announcement(texts: &[&str], change: impl FnOnce(&mut Attributes)) -> Message {
    let mut attributes = Attributes::new(NextHop::V4([10, 0, 0, 2].into()));
    attributes.as_path = AsPath::sequence([PEER_ASN]);
    change(&mut attributes);
    let prefixes = texts.iter().map(|text| prefix(text));
    Message::Update(Announcement::new(attributes, prefixes).into())
}

fn up() -> Script {
    let mut script = Script::new(|_| {});
    script.establish(open(PEER_ASN));
    script
}

/// An UPDATE for 192.0.2.0/24 with these path attributes.
fn update(attributes: &[u8]) -> Vec<u8> {
    let mut message = vec![0xff; 16];
    let body = 4 + attributes.len() + 4;
    message.extend((19 + body as u16).to_be_bytes());
    message.extend([2, 0, 0]);
    message.extend((attributes.len() as u16).to_be_bytes());
    message.extend(attributes);
    message.extend([24, 192, 0, 2]);
    message
}

const ORIGIN: [u8; 4] = [0x40, 1, 1, 0];
const AS_PATH: [u8; 9] = [0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe8];
const NEXT_HOP: [u8; 7] = [0x40, 3, 4, 10, 0, 0, 2];

fn good() -> Vec<u8> {
    update(&[&ORIGIN[..], &AS_PATH, &NEXT_HOP].concat())
}

fn receive(script: &mut Script, bytes: &[u8]) -> Vec<String> {
    script.input(Input::Received { conn: ConnId(1), bytes })
}

#[test]
fn a_bad_attribute_costs_the_route_and_not_the_session() {
    let mut script = up();
    assert_eq!(receive(&mut script, &good()), ["use 192.0.2.0/24"]);
    let bad_origin = update(&[&[0x40, 1, 1, 7][..], &AS_PATH, &NEXT_HOP].concat());
    assert_eq!(receive(&mut script, &bad_origin), ["fault: treat as withdraw", "lose 192.0.2.0/24"]);
    assert_eq!(receive(&mut script, &good()), ["use 192.0.2.0/24"]);
    assert_eq!(script.state(), "Established");
}

#[test]
fn an_attribute_that_does_not_matter_is_dropped_alone() {
    let mut script = up();
    let bad_aggregator = [0xc0, 7, 1, 0];
    let octets = update(&[&ORIGIN[..], &AS_PATH, &NEXT_HOP, &bad_aggregator].concat());
    assert_eq!(receive(&mut script, &octets), ["fault: attribute discard", "use 192.0.2.0/24"]);
}

#[test]
fn lengths_that_contradict_end_the_session_with_exactly_one_notification() {
    let mut script = up();
    receive(&mut script, &good());
    let mut octets = good();
    octets[21..23].copy_from_slice(&[0xff, 0xff]);
    let twice = [octets.clone(), octets].concat();
    let said = receive(&mut script, &twice);
    assert_eq!(said, ["fault: session reset", "NOTIFICATION 3/1", "close 1", "Idle", "lose 192.0.2.0/24"]);
}

#[test]
fn a_broken_family_is_ignored_from_then_on_and_the_other_one_lives() {
    let mut script = up();
    receive(&mut script, &good());
    let v6 = |next_hop: NextHop| announcement(&["fd00:1::/64"], |a| a.next_hop = next_hop);
    let own = NextHop::from("fd00::2".parse::<std::net::IpAddr>().unwrap());
    assert_eq!(script.say(1, &v6(own)), ["use fd00:1::/64"]);
    // MP_REACH_NLRI of IPv6 whose next hop has three octets.
    let mp_reach = [0x80, 14, 8, 0, 2, 1, 3, 1, 2, 3, 0];
    let said = receive(&mut script, &update(&[&ORIGIN[..], &AS_PATH, &NEXT_HOP, &mp_reach].concat()));
    assert!(said.contains(&"lose fd00:1::/64".to_owned()), "{said:?}");
    assert!(said.contains(&"fault: family disabled".to_owned()), "{said:?}");
    assert_eq!(script.say(1, &v6(own)), [] as [&str; 0]);
    assert_eq!(script.state(), "Established");
    let families = script.speaker.snapshot(script.now).peers[0].families.clone();
    assert_eq!(families[&Family::Ipv6Unicast].received, 0);
}

#[test]
fn an_external_peer_must_put_its_own_as_first() {
    let mut script = up();
    script.say(1, &announcement(&["192.0.2.0/24"], |_| {}));
    let foreign = announcement(&["192.0.2.0/24"], |a| a.as_path = AsPath::sequence([Asn(1), PEER_ASN]));
    assert_eq!(script.say(1, &foreign), ["fault: treat as withdraw", "lose 192.0.2.0/24"]);
}

#[test]
fn a_path_through_ourselves_or_a_next_hop_of_ours_is_known_but_not_used() {
    let mut script = up();
    let looped = announcement(&["192.0.2.0/24"], |a| a.as_path = AsPath::sequence([PEER_ASN, Asn(64512)]));
    assert_eq!(script.say(1, &looped), [] as [&str; 0]);
    let ours = announcement(&["192.0.2.0/24"], |a| a.next_hop = NextHop::V4([10, 0, 0, 1].into()));
    assert_eq!(script.say(1, &ours), [] as [&str; 0]);
    let routes = script.speaker.snapshot(script.now).routes;
    assert_eq!(routes[0].paths[0].import, manx_bgp::ImportStatus::OwnNextHop);
    assert_eq!(routes[0].best, None);
}

#[test]
fn a_route_refresh_is_answered_with_all_routes() {
    let mut script = up();
    let origins = ["10.244.0.0/26", "fd00::/122"].map(|text| (prefix(text), Default::default()));
    let said = script.input(Input::SetOrigins(origins.into()));
    assert_eq!(said, ["UPDATE +10.244.0.0/26", "UPDATE +fd00::/122"]);
    let refresh = |family: Family, kind| RouteRefresh { family: AfiSafi::from(family), kind };
    let ask = Message::RouteRefresh(refresh(Family::Ipv4Unicast, RefreshKind::Request));
    assert_eq!(script.say(1, &ask), ["UPDATE +10.244.0.0/26"]);
    let begin = Message::RouteRefresh(refresh(Family::Ipv6Unicast, RefreshKind::Begin));
    assert_eq!(script.say(1, &begin), [] as [&str; 0]);
    let unknown = RouteRefresh { family: AfiSafi { afi: 25, safi: 70 }, kind: RefreshKind::Request };
    assert_eq!(script.say(1, &Message::RouteRefresh(unknown)), [] as [&str; 0]);
}

#[test]
fn a_changed_import_policy_asks_for_the_routes_again() {
    let mut script = up();
    let mut config = config();
    config.families.get_mut(&Family::Ipv4Unicast).unwrap().import = Policy::reject_all();
    assert_eq!(script.input(Input::SetPeers([(peer(), config)].into())), ["REFRESH"]);
}

#[test]
fn newer_states_replace_older_ones_that_were_not_sent() {
    let mut script = Script::new(|_| {});
    script.establish(open(PEER_ASN));
    let origin = |med| {
        let attributes = manx_bgp::OriginAttributes { med: Some(med), ..Default::default() };
        Input::SetOrigins([(prefix("10.244.0.0/26"), attributes)].into())
    };
    for med in 0..1000 {
        script.speaker.handle(origin(med), script.now);
    }
    let said = script.input(Input::SetOrigins([(prefix("10.9.0.0/26"), Default::default())].into()));
    assert_eq!(said, ["UPDATE +10.9.0.0/26"], "what was never told needs no withdrawal");
}

#[test]
fn a_peer_that_never_reads_is_given_up_after_the_send_hold_time() {
    let mut script = up();
    let begin = script.now;
    let alive = octets(&Message::Keepalive);
    let mut ended = None;
    while ended.is_none() {
        script.now += secs(10);
        for input in [Input::Timeout, Input::Received { conn: ConnId(1), bytes: &alive }] {
            script.speaker.handle(input, script.now);
        }
        while let Some(output) = script.speaker.poll() {
            if let Output::Event(Event::NotificationSent { code, .. }) = output {
                ended = Some((code, script.now - begin));
            }
        }
    }
    let (code, after) = ended.unwrap();
    assert_eq!(code, 8);
    assert!((secs(480)..secs(530)).contains(&after), "given up after {after:?}");
}

#[test]
fn a_peer_that_reads_slowly_is_borne() {
    let mut script = up();
    let alive = octets(&Message::Keepalive);
    for _ in 0..200 {
        script.now += secs(10);
        let origins = (0..100).map(|n| (prefix(&format!("10.{n}.0.0/16")), Default::default()));
        script.speaker.handle(Input::SetOrigins(origins.collect()), script.now);
        script.speaker.handle(Input::SetOrigins(Default::default()), script.now);
        for input in [Input::Timeout, Input::Received { conn: ConnId(1), bytes: &alive }] {
            script.speaker.handle(input, script.now);
        }
        while script.speaker.poll().is_some() {}
        script.speaker.transmit(ConnId(1), &mut Vec::new(), 10);
    }
    assert_eq!(script.state(), "Established");
}

#[test]
fn a_dead_peer_is_dialled_ever_more_rarely() {
    let mut world = World::new();
    world.add(64512);
    world.add(65000);
    world.crash(1, true);
    world.peer(0, 1);
    world.run(secs(60));
    let first = world.nodes[0].dials;
    world.run(secs(3600));
    let dials = world.nodes[0].dials - first;
    assert!((6..=12).contains(&first), "{first} dials in the first minute");
    assert!((115..=165).contains(&dials), "{dials} dials in an hour");
}

#[test]
fn peers_that_disagree_about_their_systems_do_not_storm() {
    let mut world = World::new();
    world.add(64512);
    world.add(65000);
    world.peer_with(0, 1, |me, peer| {
        if me == 0 {
            peer.asn = Asn(65001).into();
        }
    });
    world.run(secs(3600));
    let outputs: usize = world.nodes.iter().map(|node| node.outputs).sum();
    assert!(outputs < 8000, "{outputs} outputs in an hour");
    world.reconfigure(0, 1, |peer| peer.asn = Asn(65000).into());
    world.run(secs(35));
    assert!(world.is_up(0, 1));
}

#[test]
fn a_session_that_flaps_is_retried_with_growing_waits_and_a_steady_one_at_once() {
    let mut script = Script::new(|config| config.graceful_restart = None);
    let mut waits = Vec::new();
    for conn in 1..9 {
        script.connect(conn, Direction::Active);
        script.say(conn, &Message::Open(open(PEER_ASN)));
        script.say(conn, &Message::Keepalive);
        script.input(Input::Closed { conn: ConnId(conn) });
        let from = script.now;
        while !script.wait(Duration::from_millis(50)).contains(&"dial".to_owned()) {}
        waits.push(script.now - from);
    }
    assert!(waits.windows(2).take(4).all(|pair| pair[1] > pair[0]), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= Duration::from_millis(30_050)), "{waits:?}");
    script.connect(20, Direction::Active);
    script.say(20, &Message::Open(open(PEER_ASN)));
    for _ in 0..4 {
        script.say(20, &Message::Keepalive);
        script.wait(secs(30));
    }
    script.input(Input::Closed { conn: ConnId(20) });
    assert!(script.wait(Duration::from_millis(1000)).contains(&"dial".to_owned()));
}

#[test]
fn octets_for_connections_that_were_never_there_mean_nothing() {
    let mut script = up();
    let message = octets(&Message::Keepalive);
    assert_eq!(script.input(Input::Received { conn: ConnId(77), bytes: &message }), [] as [&str; 0]);
    assert_eq!(script.input(Input::Closed { conn: ConnId(77) }), [] as [&str; 0]);
    assert_eq!(script.read(ConnId(77)), [] as [&str; 0]);
}

#[test]
fn thirty_hosts_in_a_full_mesh_settle_with_a_bounded_number_of_outputs() {
    let mut world = World::new();
    let hosts = 30;
    (0..hosts).for_each(|_| _ = world.add(64512));
    for a in 0..hosts {
        for b in 0..a {
            for (me, other) in [(a, b), (b, a)] {
                let config = crate::world::open_peer(me, other, Asn(64512));
                world.nodes[me].peers.insert(crate::world::name(other), config);
            }
        }
    }
    for host in 0..hosts {
        world.declare(host);
        world.originate(host, &[&format!("10.244.{host}.0/26")]);
    }
    world.run(secs(15));
    assert!((0..hosts).all(|host| world.nodes[host].routes.len() == hosts - 1));
    assert!((0..hosts).all(|host| world.nodes[host].settled.is_some()));
    assert_eq!(world.hops(0, "10.244.7.0/26"), [address(7)]);
    assert_eq!(world.state(0, 1), PeerState::Established);
    let per_peering = world.nodes.iter().map(|node| node.outputs).sum::<usize>() / (hosts * (hosts - 1));
    assert!(per_peering < 30, "{per_peering} outputs for each end of a peering");
}

#[test]
fn a_process_that_stood_still_hears_its_peers_before_it_judges_them() {
    let mut script = up();
    script.now += secs(200);
    assert!(!script.input(Input::Timeout).contains(&"NOTIFICATION 4/0".to_owned()));
    script.wait(secs(4));
    script.say(1, &Message::Keepalive);
    script.wait(secs(80));
    assert_eq!(script.state(), "Established");
    script.now += secs(200);
    script.input(Input::Timeout);
    assert!(script.wait(secs(6)).contains(&"NOTIFICATION 4/0".to_owned()), "silence goes on to count");
}

#[test]
fn a_flood_of_faults_is_counted_in_full_and_told_in_part() {
    let mut script = up();
    let bad = update(&[&[0x40, 1, 1, 7][..], &AS_PATH, &NEXT_HOP].concat());
    let said = receive(&mut script, &bad.repeat(500));
    assert_eq!(said, ["fault: treat as withdraw"; 16]);
    assert_eq!(script.speaker.snapshot(script.now).peers[0].faults, 500);
}
