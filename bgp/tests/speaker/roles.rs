//! Roles (RFC 9234 §4.2): which two go together, and who is refused.

use manx_bgp::wire::{Capability, Message};
use manx_bgp::{Direction, Role};

use crate::script::{ASN, PEER_ASN, Script, open};

const ROLES: [(Role, u8, u8); 5] = [
    // Our role, its number, the number that the peer must have.
    (Role::Provider, 0, 3),
    (Role::RouteServer, 1, 2),
    (Role::RouteServerClient, 2, 1),
    (Role::Customer, 3, 0),
    (Role::Peer, 4, 4),
];

/// What our role makes of the roles that a peer tells.
fn answer(role: Role, strict: bool, told: &[u8]) -> String {
    let mut script = Script::new(|config| (config.role, config.role_strict) = (Some(role), strict));
    script.connect(1, Direction::Active);
    let mut theirs = open(PEER_ASN);
    theirs.capabilities.extend(told.iter().map(|role| Capability::Role(*role)));
    script.say(1, &Message::Open(theirs)).first().cloned().unwrap_or_default()
}

#[test]
fn two_roles_go_together_or_the_session_is_refused() {
    for (role, _, counterpart) in ROLES {
        for told in 0..=6 {
            let expected = if told == counterpart { "OpenConfirm" } else { "NOTIFICATION 2/11" };
            assert_eq!(answer(role, false, &[told]), expected, "{role:?} and {told}");
        }
    }
}

#[test]
fn a_peer_without_a_role_is_taken_unless_roles_are_insisted_on() {
    assert_eq!(answer(Role::Peer, false, &[]), "OpenConfirm");
    assert_eq!(answer(Role::Peer, true, &[]), "NOTIFICATION 2/11");
}

#[test]
fn a_role_told_twice_counts_once_and_two_roles_are_refused() {
    assert_eq!(answer(Role::Peer, true, &[4, 4]), "OpenConfirm");
    assert_eq!(answer(Role::Peer, false, &[4, 3]), "NOTIFICATION 2/11");
}

#[test]
fn our_role_is_told_to_external_peers_only() {
    for (role, number, counterpart) in ROLES {
        let offered = |asn| {
            let mut script = Script::new(|config| (config.asn, config.role) = (asn, Some(role)));
            let manx_bgp::RemoteAs::Exactly(asn) = asn else { panic!("these are exact") };
            let mut theirs = open(asn);
            theirs.capabilities.push(Capability::Role(counterpart));
            script.establish(theirs);
            script.speaker.peers(script.now)[0].offered.contains(&Capability::Role(number))
        };
        assert!(offered(PEER_ASN.into()), "{role:?}");
        assert!(!offered(ASN.into()), "{role:?}");
    }
}
