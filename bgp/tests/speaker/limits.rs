//! What follows when a peer announces more prefixes than it may.

use manx_bgp::{Event, Family, Input, LimitAction, PrefixLimit};

use crate::script::{PEER_ASN, Script, open, peer};
use crate::world::secs;

fn with_limit(limit: PrefixLimit) -> manx_bgp::PeerConfig {
    let mut config = crate::script::config();
    config.families.get_mut(&Family::Ipv4Unicast).expect("configured").limit = limit;
    config
}

/// A session under a limit of 4, with a warning at half of it.
fn session(action: LimitAction) -> Script {
    let mut script = Script::new(|config| {
        *config = with_limit(PrefixLimit { max: 4, warn_percent: 50, action });
    });
    script.establish(open(PEER_ASN));
    script
}

fn announce(script: &mut Script, count: u8) -> Vec<String> {
    (0..count).flat_map(|place| script.announce(1, &format!("10.{place}.0.0/16"), PEER_ASN)).collect()
}

fn limits(script: &Script) -> Vec<(u32, bool, bool)> {
    let of_limits = |event: &Event| match event {
        Event::PrefixLimit { count, exceeded, ended, .. } => Some((*count, *exceeded, *ended)),
        _ => None,
    };
    script.events.iter().filter_map(of_limits).collect()
}

#[test]
fn a_limit_that_only_warns_takes_all_routes_and_tells_each_thing_once() {
    let mut script = session(LimitAction::Warn);
    let said = announce(&mut script, 7);
    assert_eq!(said.len(), 7, "{said:?}");
    assert_eq!(script.state(), "Established");
    assert_eq!(limits(&script), [(2, false, false), (5, true, false)]);
}

#[test]
fn a_limit_with_a_pause_ends_the_session_and_shows_when_the_next_one_may_come() {
    let mut script = session(LimitAction::Restart(secs(60)));
    let said = announce(&mut script, 5);
    assert!(said.contains(&"NOTIFICATION 6/1".to_owned()), "{said:?}");
    assert_eq!(limits(&script), [(2, false, false), (5, true, true)]);
    script.wait(secs(20));
    assert_eq!(script.state(), "Idle");
    assert_eq!(script.speaker.peers(script.now)[0].retry_in, Some(secs(40)));
    assert!(script.wait(secs(41)).contains(&"dial".to_owned()));
}

#[test]
fn a_limit_for_good_keeps_the_peer_down_until_the_limit_changes_or_somebody_resets_it() {
    let restarts: [fn(&mut Script) -> Vec<String>; 2] = [
        |script| {
            let limit = PrefixLimit { max: 9, warn_percent: 75, action: LimitAction::StayDown };
            script.input(Input::SetPeers([(peer(), with_limit(limit))].into()))
        },
        |script| script.input(Input::Reset { peer: peer() }),
    ];
    for restart in restarts {
        let mut script = session(LimitAction::StayDown);
        announce(&mut script, 5);
        assert!(!script.wait(secs(86_400)).contains(&"dial".to_owned()));
        assert_eq!(script.speaker.peers(script.now)[0].retry_in, None);
        restart(&mut script);
        assert!(script.wait(secs(1)).contains(&"dial".to_owned()));
    }
}

#[test]
fn a_raised_limit_warns_again() {
    let mut script = session(LimitAction::Warn);
    announce(&mut script, 5);
    let limit = PrefixLimit { max: 6, warn_percent: 50, action: LimitAction::Warn };
    script.input(Input::SetPeers([(peer(), with_limit(limit))].into()));
    assert_eq!(limits(&script), [(2, false, false), (5, true, false), (5, false, false)]);
}
