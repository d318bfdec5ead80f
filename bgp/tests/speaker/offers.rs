//! What a peer's capabilities change about routes: how long they are kept, and how much can be said of them.

use std::collections::BTreeMap;
use std::time::Duration;

use manx_bgp::wire::{AfiSafi, Capability, GracefulRestart, LongLivedFamily, Open, RestartFamily};
use manx_bgp::{Community, ConnId, Event, Family, Input, OriginAttributes};

use crate::script::{PEER_ASN, Script, open};
use crate::world::{prefix, secs};

const BLOCK: &str = "10.244.0.0/26";

/// An OPEN with this restart time, for the families if `listed`, and this time for stale routes.
fn lasting(restart: Option<(u16, bool)>, stale_secs: Option<u32>) -> Open {
    let mut open = open(PEER_ASN);
    let families = || Family::ALL.into_iter().map(AfiSafi::from);
    if let Some((restart_secs, listed)) = restart {
        let entries = families().map(|family| RestartFamily { family, forwarding: true });
        open.capabilities.push(Capability::GracefulRestart(GracefulRestart {
            restarting: false,
            notification: true,
            restart_secs,
            families: entries.filter(|_| listed).collect(),
        }));
    }
    if let Some(stale_secs) = stale_secs {
        let entries = families().map(|family| LongLivedFamily { family, forwarding: true, stale_secs });
        open.capabilities.push(Capability::LongLivedGracefulRestart(entries.collect()));
    }
    open
}

/// A session on which a route was told, and which is lost.
fn lost(ours: Option<u64>, theirs: Open) -> (Script, Vec<String>) {
    let mut script = Script::new(|config| config.long_lived = ours.map(secs));
    script.establish(theirs);
    script.announce(1, BLOCK, PEER_ASN);
    let said = script.input(Input::Closed { conn: ConnId(1) });
    (script, said)
}

fn loses(said: &[String]) -> bool {
    said.contains(&format!("lose {BLOCK}"))
}

#[test]
fn routes_stay_for_the_restart_time_and_then_for_the_lesser_of_both_stale_times() {
    // Our stale time, the peer's restart time and whether it lists the families, its stale time, when the route goes.
    let rows = [
        (Some(3600), Some((60, true)), Some(100), 160),
        (Some(50), Some((60, true)), Some(100), 110),
        (None, Some((60, true)), Some(100), 60),
        (Some(3600), Some((60, true)), None, 60),
        (Some(3600), Some((60, true)), Some(0), 60),
        // A family that is only kept for long has no restart time (RFC 9494 §4.2).
        (Some(3600), Some((60, false)), Some(100), 100),
        (Some(3600), Some((0, true)), Some(100), 100),
        (Some(3600), Some((0, false)), Some(100), 100),
        (None, Some((60, false)), Some(100), 0),
        // Without graceful restart the other capability means nothing (RFC 9494 §3).
        (Some(3600), None, Some(100), 0),
    ];
    for (ours, restart, theirs, expected) in rows {
        let (mut script, mut said) = lost(ours, lasting(restart, theirs));
        let mut elapsed = 0;
        while !loses(&said) {
            elapsed += 1;
            said = script.wait(secs(1));
            assert!(elapsed < 1000);
        }
        assert_eq!(elapsed, expected, "{ours:?} {restart:?} {theirs:?}");
    }
}

#[test]
fn who_returns_in_the_long_time_without_its_forwarding_or_the_capability_loses_what_was_kept() {
    let both = Some((60, true));
    let forgetful = |which: fn(&mut Capability)| {
        let mut open = lasting(both, Some(100));
        open.capabilities.iter_mut().for_each(which);
        open
    };
    let no_restart_bit: fn(&mut Capability) = |capability| {
        if let Capability::GracefulRestart(restart) = capability {
            restart.families.iter_mut().for_each(|family| family.forwarding = false);
        }
    };
    let no_long_bit: fn(&mut Capability) = |capability| {
        if let Capability::LongLivedGracefulRestart(families) = capability {
            families.iter_mut().for_each(|family| family.forwarding = false);
        }
    };
    // How long it was away, what it says then, whether the route goes at once.
    let rows = [
        (30, lasting(both, Some(100)), false),
        (30, forgetful(no_restart_bit), true),
        (30, forgetful(no_long_bit), false),
        (90, lasting(both, Some(100)), false),
        (90, forgetful(no_long_bit), true),
        (90, forgetful(no_restart_bit), false),
        (90, lasting(both, None), true),
        (90, lasting(None, None), true),
    ];
    for (place, (away, theirs, expected)) in rows.into_iter().enumerate() {
        let (mut script, _) = lost(Some(3600), lasting(both, Some(100)));
        assert!(!loses(&script.wait(secs(away))));
        script.input(Input::ConnectFailed { peer: crate::script::peer() });
        script.connect(2, manx_bgp::Direction::Passive);
        let mut said = script.say(2, &manx_bgp::wire::Message::Open(theirs));
        said.extend(script.say(2, &manx_bgp::wire::Message::Keepalive));
        assert_eq!(script.state(), "Established", "row {place}");
        assert_eq!(loses(&said), expected, "row {place}: {said:?}");
    }
}

#[test]
fn attributes_beyond_4096_octets_are_told_to_those_who_take_them_and_withdrawn_from_others() {
    let origin = |count: u16| {
        let communities = (0..count).map(|n| Community::new(7, n)).collect();
        BTreeMap::from([(prefix(BLOCK), OriginAttributes { communities, ..OriginAttributes::default() })])
    };
    for agreed in [false, true] {
        let mut script = Script::new(|_| {});
        let mut theirs = open(PEER_ASN);
        theirs.capabilities.extend(agreed.then_some(Capability::ExtendedMessages));
        script.establish(theirs);
        let said = script.input(Input::SetOrigins(origin(3)));
        assert!(said.contains(&format!("UPDATE +{BLOCK}")), "{said:?}");
        let said = script.input(Input::SetOrigins(origin(1100)));
        let expected = if agreed { format!("UPDATE +{BLOCK}") } else { format!("UPDATE -{BLOCK}") };
        assert!(said.contains(&expected), "{said:?}");
        let unsaid = script.events.iter().filter(|event| matches!(event, Event::NotAnnounced { .. })).count();
        assert_eq!(unsaid, usize::from(!agreed));
        let said = script.input(Input::SetOrigins(origin(3)));
        assert!(said.contains(&format!("UPDATE +{BLOCK}")), "{said:?}");
        assert!(script.wait(Duration::from_secs(1)).is_empty());
    }
}
