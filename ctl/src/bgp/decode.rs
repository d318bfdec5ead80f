//! What a last error means: codes and subcodes by their names (RFC 4271 §4.5, RFC 4486, RFC 8203, RFC 8538, RFC 9234),
//! with the likely cause and the cure.

use manx_api::{Session, SessionError, SessionState};
use serde::Serialize;

/// A last error in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Decoded {
    /// By the registry of IANA: `Cease/Administrative Shutdown`.
    pub(super) name: String,
    /// What most likely happened.
    pub(super) cause: String,
    /// What to do.
    pub(super) cure: String,
}

/// Code, subcode, name, cause, cure. A subcode of `None` is for all that are not there.
type Row = (u8, Option<u8>, &'static str, &'static str, &'static str);

const LOOK: &str = "compare both logs around that time: manxctl diags has ours";

/// Everything that a NOTIFICATION can say.
const ROWS: [Row; 44] = [
    (
        1,
        Some(1),
        "Message Header Error/Connection Not Synchronized",
        "octets were lost or added on the way",
        "look for something between both that rewrites TCP, or for wrong passwords",
    ),
    (
        1,
        Some(2),
        "Message Header Error/Bad Message Length",
        "one side wrote a message that the other does not take",
        LOOK,
    ),
    (
        1,
        Some(3),
        "Message Header Error/Bad Message Type",
        "one side wrote a message that the other does not know",
        LOOK,
    ),
    (
        1,
        None,
        "Message Header Error",
        "what came is no BGP message",
        "is it BGP that answers at that address and port?",
    ),
    (
        2,
        Some(1),
        "OPEN Message Error/Unsupported Version Number",
        "the peer does not speak BGP-4",
        "update the peer",
    ),
    (
        2,
        Some(2),
        "OPEN Message Error/Bad Peer AS",
        "one side expects another AS number of the other",
        "compare asNumber of the BGPPeer with the router's own AS, and the router's neighbour statement with asNumber of the BGPConfiguration",
    ),
    (
        2,
        Some(3),
        "OPEN Message Error/Bad BGP Identifier",
        "both sides have the same router id, or one has 0.0.0.0",
        "give one of them another router id: manxctl nodes shows ours",
    ),
    (
        2,
        Some(4),
        "OPEN Message Error/Unsupported Optional Parameter",
        "the peer is too old for an option that we offer",
        "update the peer",
    ),
    (
        2,
        Some(6),
        "OPEN Message Error/Unacceptable Hold Time",
        "one side refuses the hold time of the other",
        "set holdTimeSeconds to what the other takes: 0, or 3 and more",
    ),
    (
        2,
        Some(7),
        "OPEN Message Error/Unsupported Capability",
        "one side insists on a capability that the other lacks",
        "the octets of the error name it: manxctl peers -o wide; take the demand away on the side that makes it",
    ),
    (
        2,
        Some(11),
        "OPEN Message Error/Role Mismatch",
        "both roles of RFC 9234 do not fit: provider faces customer, peer faces peer",
        "set role of the BGPPeer to the counterpart of the router's",
    ),
    (2, None, "OPEN Message Error", "one side did not accept what the other offers", LOOK),
    (
        3,
        Some(1),
        "UPDATE Message Error/Malformed Attribute List",
        "one side could not read an UPDATE of the other",
        LOOK,
    ),
    (
        3,
        Some(2),
        "UPDATE Message Error/Unrecognized Well-known Attribute",
        "one side could not read an UPDATE of the other",
        LOOK,
    ),
    (
        3,
        Some(3),
        "UPDATE Message Error/Missing Well-known Attribute",
        "a route came without something that every route must have",
        LOOK,
    ),
    (
        3,
        Some(4),
        "UPDATE Message Error/Attribute Flags Error",
        "one side could not read an UPDATE of the other",
        LOOK,
    ),
    (
        3,
        Some(5),
        "UPDATE Message Error/Attribute Length Error",
        "one side could not read an UPDATE of the other",
        LOOK,
    ),
    (
        3,
        Some(6),
        "UPDATE Message Error/Invalid ORIGIN Attribute",
        "one side could not read an UPDATE of the other",
        LOOK,
    ),
    (
        3,
        Some(8),
        "UPDATE Message Error/Invalid NEXT_HOP Attribute",
        "one side takes the next hop of a route for none",
        "look at setNextHop of the BGPFilters and of the router",
    ),
    (
        3,
        Some(9),
        "UPDATE Message Error/Optional Attribute Error",
        "one side could not read an UPDATE of the other",
        LOOK,
    ),
    (
        3,
        Some(10),
        "UPDATE Message Error/Invalid Network Field",
        "one side could not read a prefix of the other",
        LOOK,
    ),
    (
        3,
        Some(11),
        "UPDATE Message Error/Malformed AS_PATH",
        "one side could not read an AS path: as a rule the AS number of a neighbour is not first in it",
        "compare the AS numbers on both sides; a route server must be configured as one",
    ),
    (3, None, "UPDATE Message Error", "one side could not read an UPDATE of the other", LOOK),
    (
        4,
        None,
        "Hold Timer Expired",
        "nothing was heard for the whole hold time: the way between both was broken, or one side was too busy to speak",
        "ping the peer from the node, with large packets too (MTU); look at the load of both",
    ),
    (
        5,
        Some(1),
        "Finite State Machine Error/Receive Unexpected Message in OpenSent State",
        "the peer went on while we had begun anew",
        LOOK,
    ),
    (
        5,
        Some(2),
        "Finite State Machine Error/Receive Unexpected Message in OpenConfirm State",
        "the peer went on while we had begun anew",
        LOOK,
    ),
    (
        5,
        Some(3),
        "Finite State Machine Error/Receive Unexpected Message in Established State",
        "the peer began anew within a session",
        LOOK,
    ),
    (5, None, "Finite State Machine Error", "a message came that does not belong there", LOOK),
    (
        6,
        Some(1),
        "Cease/Maximum Number of Prefixes Reached",
        "one side announced more than the other takes",
        "see who announces what: manxctl routes --peer NAME in; raise maxPrefixes of the BGPPeer or of the router if it is right so",
    ),
    (
        6,
        Some(2),
        "Cease/Administrative Shutdown",
        "an operator shut the session down",
        "bring it up again where it was shut down; the text may say why",
    ),
    (
        6,
        Some(3),
        "Cease/Peer De-configured",
        "the session was taken out of the configuration",
        "put it back there, or take the BGPPeer away here",
    ),
    (
        6,
        Some(4),
        "Cease/Administrative Reset",
        "an operator, or a changed configuration, began the session anew",
        "nothing: it comes back by itself",
    ),
    (
        6,
        Some(5),
        "Cease/Connection Rejected",
        "the peer has no session for us, or not for this address",
        "configure this node's address on the peer, with its AS number: manxctl nodes",
    ),
    (
        6,
        Some(6),
        "Cease/Other Configuration Change",
        "the configuration changed",
        "nothing: it comes back by itself",
    ),
    (
        6,
        Some(7),
        "Cease/Connection Collision Resolution",
        "both called each other at once, and this was the call too many",
        "nothing, while another session is up; else compare router ids, which must differ",
    ),
    (
        6,
        Some(8),
        "Cease/Out of Resources",
        "one side has no memory or no room for more routes",
        "announce less to it, or give it more",
    ),
    (
        6,
        Some(9),
        "Cease/Hard Reset",
        "the session ended for good, without keeping routes (RFC 8538)",
        "look at the reason within, in the text",
    ),
    (
        6,
        Some(10),
        "Cease/BFD Down",
        "BFD of the peer lost us",
        "BFD and the way between both: ping the peer from the node",
    ),
    (6, None, "Cease", "the session was ended on purpose", "ask who ended it"),
    (
        7,
        Some(1),
        "ROUTE-REFRESH Message Error/Invalid Message Length",
        "one side could not read a request of the other",
        LOOK,
    ),
    (7, None, "ROUTE-REFRESH Message Error", "one side could not read a request of the other", LOOK),
    (
        8,
        Some(1),
        "Send Hold Timer Expired",
        "the other side did not read for too long (RFC 9687)",
        "look at its load, and at the MTU between both: small packets pass and large ones do not",
    ),
    (
        8,
        None,
        "Send Hold Timer Expired",
        "the other side did not read for too long (RFC 9687)",
        "look at its load, and at the MTU between both: small packets pass and large ones do not",
    ),
    (0, None, "unknown", "a code that is not known", LOOK),
];

/// What is in errors without a NOTIFICATION, with cause and cure.
const WORDS: [(&str, &str, &str); 8] = [
    (
        "refused",
        "nobody listens at the peer's address and port, or its firewall answers so",
        "does the peer run BGP, on this port, and take connections from this node? ss -tlnp there",
    ),
    ("unreachable", "there is no way to the peer", "look at the route: ip route get PEER on the node"),
    (
        "timed out",
        "the peer does not answer: it is away, or a firewall drops TCP 179",
        "ping it; open TCP 179 between both, both ways",
    ),
    (
        "did not answer",
        "the peer does not answer: it is away, or a firewall drops TCP 179",
        "ping it; open TCP 179 between both, both ways",
    ),
    (
        "reset",
        "the peer broke the connection off: as a rule it does not know this node, or passwords differ",
        "configure this node's address on the peer; compare the passwords",
    ),
    (
        "closed",
        "the peer closed without a word: as a rule it does not know this node, or it was restarted",
        "configure this node's address on the peer: manxctl nodes; look at its log",
    ),
    (
        "password",
        "the password cannot be read, or the kernel does not take it",
        "look at the Secret that the BGPPeer names",
    ),
    (
        "hold timer",
        "nothing was heard for the whole hold time",
        "ping the peer from the node, with large packets too (MTU)",
    ),
];

/// What an error means.
pub(super) fn decode(error: &SessionError) -> Decoded {
    let Some(code) = error.code else { return by_words(&error.text) };
    let row = |code: u8, sub: Option<u8>| ROWS.iter().find(|row| row.0 == code && row.1 == sub);
    let (known, other) = (row(code, error.subcode), row(code, None));
    let (.., name, cause, cure) = known.or(other).unwrap_or(&ROWS[ROWS.len() - 1]);
    let name = match (known, error.subcode) {
        (None, Some(sub)) if sub != 0 || other.is_none() => format!("{name} ({code}/{sub})"),
        _ => (*name).to_owned(),
    };
    let who = if error.by_peer { " on the peer" } else { " on this side" };
    let cause = match (code, error.subcode) {
        (6, Some(2..=4)) => format!("{cause}{who}"),
        _ => (*cause).to_owned(),
    };
    Decoded { name, cause, cure: (*cure).to_owned() }
}

fn by_words(text: &str) -> Decoded {
    let low = text.to_lowercase();
    let known = WORDS.iter().find(|(word, ..)| low.contains(word));
    let (cause, cure) = known.map_or(("see its words", LOOK), |(_, cause, cure)| (*cause, *cure));
    Decoded { name: text.to_owned(), cause: cause.to_owned(), cure: cure.to_owned() }
}

/// What to do about a session that is down.
pub(crate) fn cure(session: &Session) -> String {
    match (&session.last_error, session.state) {
        (Some(error), _) => decode(error).cure,
        (None, SessionState::Active | SessionState::Connect) => {
            "nobody answered yet: does the peer run, know this node's address, and let TCP 179 through?"
                .to_owned()
        }
        (None, _) => "wait for the first attempt, then look again".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use manx_api::{Time, Timestamp};

    use super::*;

    fn of(code: Option<u8>, subcode: Option<u8>, text: &str) -> Decoded {
        decode(&SessionError { code, subcode, ..SessionError::new(Time(Timestamp::UNIX_EPOCH), text) })
    }

    #[test]
    fn codes_have_their_names_and_unknown_ones_their_numbers() {
        assert_eq!(of(Some(2), Some(2), "").name, "OPEN Message Error/Bad Peer AS");
        assert_eq!(of(Some(4), Some(0), "").name, "Hold Timer Expired");
        assert_eq!(of(Some(6), Some(77), "").name, "Cease (6/77)");
        assert_eq!(of(Some(99), Some(1), "").name, "unknown (99/1)");
    }

    #[test]
    fn an_error_without_a_code_is_known_by_its_words() {
        let decoded = of(None, None, "Connection refused (os error 111)");
        assert_eq!(decoded.name, "Connection refused (os error 111)");
        assert!(decoded.cure.contains("ss -tlnp"));
        assert_eq!(of(None, None, "brand new").cure, LOOK);
    }

    #[test]
    fn no_row_hides_another() {
        for (place, row) in ROWS.iter().enumerate() {
            let first = ROWS.iter().position(|other| (other.0, other.1) == (row.0, row.1));
            assert_eq!(first, Some(place), "{row:?}");
        }
    }
}
