//! A configuration that changes under a session: what takes effect at once, and what needs a new session.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use manx_bgp::wire::Message;
use manx_bgp::{
    AddPath, Asn, Dial, Family, FamilyConfig, HoldTime, Input, LimitAction, LocalAs, NextHopMode, PeerConfig,
    PeerState, Policy, PrefixLimit, RemoteAs, Role,
};

use crate::script::{ASN, PEER_ASN, Script, open, passive, peer, restartable};
use crate::world::secs;

const SOFT: bool = false;
const RESET: bool = true;

fn socket(text: &str) -> std::net::SocketAddr {
    text.parse().expect("valid in this test")
}

fn v4(config: &mut PeerConfig) -> &mut FamilyConfig {
    config.families.get_mut(&Family::Ipv4Unicast).expect("configured")
}

fn hold(seconds: u16) -> HoldTime {
    HoldTime::new(seconds).expect("valid in this test")
}

type Change = fn(&mut PeerConfig);

/// Field, change, whether the session must start again. The peer offers a hold time of 90 s.
const ROWS: &[(&str, Change, bool)] = &[
    ("asn", |config| config.asn = RemoteAs::External, SOFT),
    ("asn", |config| config.asn = Asn(65001).into(), RESET),
    ("asn", |config| config.asn = RemoteAs::Internal, RESET),
    ("target", |config| config.target = passive(config.target), SOFT),
    ("target", |config| config.target = Dial::Active(socket("10.0.0.2:1790")), SOFT),
    ("target", |config| config.target = Dial::Active(socket("10.0.0.3:179")), RESET),
    ("source", |config| config.source = None, SOFT),
    ("source", |config| config.source = Some([10, 0, 0, 77].into()), RESET),
    ("hold_time", |config| config.hold_time = hold(180), SOFT),
    ("hold_time", |config| config.hold_time = hold(9), RESET),
    ("hold_time", |config| config.hold_time = HoldTime::NEVER, RESET),
    ("keepalive", |config| config.keepalive = Some(secs(1)), SOFT),
    ("connect_retry", |config| config.connect_retry = secs(7), SOFT),
    ("connect_retry_max", |config| config.connect_retry_max = secs(7), SOFT),
    ("delay_open", |config| config.delay_open = Some(secs(7)), SOFT),
    ("damping", |config| config.damping = false, SOFT),
    ("families", |config| _ = config.families.remove(&Family::Ipv6Unicast), RESET),
    ("graceful_restart", |config| config.graceful_restart = None, RESET),
    ("graceful_restart", |config| config.graceful_restart = Some(secs(7)), RESET),
    ("long_lived", |config| config.long_lived = Some(secs(7)), RESET),
    ("add_path", |config| v4(config).add_path = AddPath { receive: true, send: None }, RESET),
    ("add_path", |config| v4(config).add_path = AddPath { receive: false, send: Some(4) }, RESET),
    ("reflector_client", |config| config.reflector_client = true, SOFT),
    ("role", |config| config.role = Some(Role::Peer), RESET),
    ("role_strict", |config| config.role_strict = true, SOFT),
    ("local_as", |config| config.local_as = shown(Asn(64999)), RESET),
    ("local_as", |config| config.local_as = shown(ASN), SOFT),
    ("allow_own_as", |config| config.allow_own_as = 1, SOFT),
    ("remove_private_as", |config| config.remove_private_as = true, SOFT),
    ("import", |config| v4(config).import = Policy::reject_all(), SOFT),
    ("export", |config| v4(config).export = Policy::reject_all(), SOFT),
    ("limit", |config| v4(config).limit.max = 7, SOFT),
    ("limit", |config| v4(config).limit.max = 0, RESET),
    ("limit", |config| v4(config).limit = limit(0, LimitAction::Warn), SOFT),
    ("next_hop", |config| v4(config).next_hop = NextHopMode::Keep, SOFT),
    ("extended_next_hop", |config| v4(config).extended_next_hop = false, RESET),
];

fn shown(asn: Asn) -> Option<LocalAs> {
    Some(LocalAs { asn, prepend: true, replace: false })
}

fn limit(max: u32, action: LimitAction) -> PrefixLimit {
    PrefixLimit { max, warn_percent: 75, action }
}

/// A session with a peer that keeps routes and has announced one.
fn session() -> Script {
    let mut script = Script::new(|_| {});
    script.establish(restartable(PEER_ASN, false));
    script.announce(1, "10.9.0.0/16", PEER_ASN);
    assert_eq!(script.state(), "Established");
    script
}

fn configure(script: &mut Script, change: impl Fn(&mut PeerConfig)) -> Vec<String> {
    let mut config = crate::script::config();
    change(&mut config);
    script.input(Input::SetPeers(BTreeMap::from([(peer(), config)])))
}

#[test]
fn each_field_resets_the_session_only_if_an_open_must_say_it() {
    let mut wrong = Vec::new();
    for (place, (field, change, reset)) in ROWS.iter().enumerate() {
        let mut script = session();
        let said = configure(&mut script, change);
        let ended = said.iter().any(|word| word.starts_with("NOTIFICATION"));
        if ended != *reset || (script.state() == "Established") == *reset {
            wrong.push(format!("{field} (row {place}): {said:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_has_every_field() {
    let mut config = crate::script::config();
    let FamilyConfig { import: _, export: _, limit: _, next_hop: _, add_path: _, extended_next_hop: _ } =
        v4(&mut config);
    let PeerConfig {
        asn: _,
        target: _,
        source: _,
        hold_time: _,
        keepalive: _,
        connect_retry: _,
        connect_retry_max: _,
        delay_open: _,
        damping: _,
        families: _,
        graceful_restart: _,
        long_lived: _,
        reflector_client: _,
        role: _,
        role_strict: _,
        local_as: _,
        allow_own_as: _,
        remove_private_as: _,
    } = config;
    let fields: BTreeSet<&str> = ROWS.iter().map(|(field, ..)| *field).collect();
    assert_eq!(fields.len(), 24);
}

#[test]
fn a_reset_for_a_changed_configuration_costs_no_route_where_restarts_were_agreed_on() {
    let mut script = session();
    let said = configure(&mut script, |config| config.graceful_restart = Some(secs(7)));
    assert_eq!(said[..3], ["NOTIFICATION 6/6", "close 1", "keep 1"].map(str::to_owned), "{said:?}");
    assert!(!said.iter().any(|word| word.starts_with("lose")), "{said:?}");
    assert!(script.wait(Duration::from_millis(1)).is_empty() || script.state() != "Idle");
}

#[test]
fn a_keepalive_time_takes_effect_at_once_and_never_exceeds_a_third_of_the_hold_time() {
    let mut script = session();
    let alive = |said: Vec<String>| said.iter().filter(|word| *word == "KEEPALIVE").count();
    configure(&mut script, |config| config.keepalive = Some(secs(2)));
    assert!((9..=14).contains(&alive(script.wait(secs(20)))));
    assert_eq!(script.speaker.peers(script.now)[0].keepalive, Some(secs(2)));
    configure(&mut script, |config| config.keepalive = Some(secs(80)));
    script.say(1, &Message::Keepalive);
    assert!((2..=4).contains(&alive(script.wait(secs(85)))));
    assert_eq!(script.speaker.peers(script.now)[0].keepalive, Some(secs(30)));
}

#[test]
fn strictness_about_roles_ends_a_session_whose_peer_told_none() {
    let mut script = Script::new(|config| config.role = Some(Role::Provider));
    script.establish(open(PEER_ASN));
    assert_eq!(script.state(), "Established");
    let said = configure(&mut script, |config| {
        config.role = Some(Role::Provider);
        config.role_strict = true;
    });
    assert!(said.contains(&"NOTIFICATION 6/6".to_owned()), "{said:?}");
    assert_ne!(script.speaker.peers(script.now)[0].state, PeerState::Established);
}
