//! Route refresh, plain (RFC 2918) and with a begin and an end (RFC 7313).

use manx_bgp::wire::{AfiSafi, Capability, Message, RefreshKind, RouteRefresh};
use manx_bgp::{Family, Input, OriginAttributes, Policy};

use crate::script::{PEER_ASN, Script, open, peer, restartable};
use crate::world::{prefix, secs};

fn refresh(kind: RefreshKind) -> Message {
    Message::RouteRefresh(RouteRefresh { family: AfiSafi::from(Family::Ipv4Unicast), kind })
}

/// A session with a peer that knows begin and end, and has announced two routes.
fn session(enhanced: bool) -> Script {
    let mut script = Script::new(|_| {});
    script.input(Input::SetOrigins([(prefix("10.1.0.0/16"), OriginAttributes::default())].into()));
    let mut theirs = open(PEER_ASN);
    if enhanced {
        theirs.capabilities.push(Capability::EnhancedRouteRefresh);
    }
    script.establish(theirs);
    script.announce(1, "10.8.0.0/16", PEER_ASN);
    script.announce(1, "10.9.0.0/16", PEER_ASN);
    script
}

#[test]
fn a_refresh_is_told_between_begin_and_end_to_those_who_know_them() {
    let said = session(true).say(1, &refresh(RefreshKind::Request));
    assert_eq!(said, ["BEGIN", "UPDATE +10.1.0.0/16", "END OF REFRESH"]);
    let said = session(false).say(1, &refresh(RefreshKind::Request));
    assert_eq!(said, ["UPDATE +10.1.0.0/16"]);
}

#[test]
fn a_refresh_of_nothing_has_a_begin_and_an_end_as_well() {
    let mut script = session(true);
    script.input(Input::SetOrigins([].into()));
    assert_eq!(script.say(1, &refresh(RefreshKind::Request)), ["BEGIN", "END OF REFRESH"]);
}

#[test]
fn what_is_not_told_again_by_the_end_of_a_refresh_is_gone_and_nothing_before() {
    let mut script = session(true);
    assert_eq!(script.say(1, &refresh(RefreshKind::Begin)), [] as [&str; 0]);
    assert_eq!(script.announce(1, "10.8.0.0/16", PEER_ASN), [] as [&str; 0]);
    assert_eq!(script.say(1, &refresh(RefreshKind::End)), ["lose 10.9.0.0/16"]);
    // An end without a begin means nothing.
    assert_eq!(script.say(1, &refresh(RefreshKind::End)), [] as [&str; 0]);
}

#[test]
fn a_second_begin_starts_over() {
    let mut script = session(true);
    script.say(1, &refresh(RefreshKind::Begin));
    script.announce(1, "10.8.0.0/16", PEER_ASN);
    assert_eq!(script.say(1, &refresh(RefreshKind::Begin)), [] as [&str; 0]);
    script.announce(1, "10.9.0.0/16", PEER_ASN);
    assert_eq!(script.say(1, &refresh(RefreshKind::End)), ["lose 10.8.0.0/16"]);
}

#[test]
fn a_refresh_that_never_ends_is_over_after_a_while() {
    let mut script = session(true);
    script.say(1, &refresh(RefreshKind::Begin));
    script.announce(1, "10.8.0.0/16", PEER_ASN);
    let mut said = Vec::new();
    for _ in 0..8 {
        said.extend(script.wait(secs(50)));
        said.extend(script.say(1, &Message::Keepalive));
    }
    let said: Vec<String> = said.into_iter().filter(|word| word != "KEEPALIVE").collect();
    assert_eq!(said, ["settled", "drop 1", "lose 10.9.0.0/16"]);
}

#[test]
fn begin_and_end_of_a_peer_that_never_offered_them_mean_nothing() {
    let mut script = session(false);
    script.say(1, &refresh(RefreshKind::Begin));
    assert_eq!(script.say(1, &refresh(RefreshKind::End)), [] as [&str; 0]);
}

#[test]
fn a_session_lost_in_the_midst_of_a_refresh_keeps_what_was_not_told_again() {
    let mut script = Script::new(|_| {});
    let mut theirs = restartable(PEER_ASN, false);
    theirs.capabilities.push(Capability::EnhancedRouteRefresh);
    script.establish(theirs);
    script.announce(1, "10.8.0.0/16", PEER_ASN);
    script.announce(1, "10.9.0.0/16", PEER_ASN);
    script.say(1, &refresh(RefreshKind::Begin));
    script.announce(1, "10.8.0.0/16", PEER_ASN);
    let said = script.input(Input::Closed { conn: manx_bgp::ConnId(1) });
    assert_eq!(said, ["keep 2", "Active"]);
}

#[test]
fn a_new_import_policy_asks_for_a_refresh() {
    let mut script = session(true);
    let mut config = crate::script::config();
    for family in config.families.values_mut() {
        family.import = Policy::reject_all();
    }
    let said = script.input(Input::SetPeers([(peer(), config)].into()));
    assert_eq!(said.iter().filter(|word| *word == "REFRESH").count(), 2, "{said:?}");
}
