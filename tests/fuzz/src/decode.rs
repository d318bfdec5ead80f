//! The codec under arbitrary octets.

use manx_bgp::wire::{self, Decoded, Dialect, Framer, HEADER_LEN, Message, Notification, Side};
use manx_bgp::{Families, Family};

/// Octets that any message may own beside what its length allows: the fixed parts of a value.
const BASE: usize = 2048;
/// Octets that a decoded message may own per octet on the wire.
const PER_OCTET: usize = 40;

/// The first octet is the dialect. By its highest bit the second octet is the type of one message whose body is the
/// rest; else it says where the rest is cut in two, as a network may do.
pub fn decode(octets: &[u8]) {
    let [flags, second, octets @ ..] = octets else { return };
    let dialect = dialect(*flags);
    if flags & 0x80 == 0 {
        let (first, second) = octets.split_at((usize::from(*second) * 16).min(octets.len()));
        return stream(&[first, second], &dialect);
    }
    let Ok(length) = u16::try_from(octets.len() + HEADER_LEN) else { return };
    stream(&[&[0xff; 16], &length.to_be_bytes(), &[1 + second % 5], octets], &dialect);
}

/// Reads a connection's octets as they come.
fn stream(parts: &[&[u8]], dialect: &Dialect) {
    let mut framer = Framer::new();
    if dialect.extended_messages {
        framer.allow_extended_messages();
    }
    for mut part in parts.iter().copied() {
        loop {
            match framer.next(&mut part) {
                Ok(Some(frame)) => {
                    let len = frame.octets().len();
                    match wire::decode(frame, dialect) {
                        Ok(decoded) => judge(&decoded, len, dialect),
                        Err(error) => assert!(!Notification::from(&error).to_string().is_empty()),
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    assert!(!Notification::from(&error).to_string().is_empty());
                    return;
                }
            }
        }
    }
}

fn dialect(flags: u8) -> Dialect {
    let bit = |n: u8| flags >> n & 1 == 1;
    let wanted = [(bit(4), Family::Ipv4Unicast), (bit(5), Family::Ipv6Unicast)];
    Dialect {
        side: if bit(0) { Side::Internal } else { Side::External },
        families: wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, family)| family).collect(),
        four_octet_as: bit(1),
        extended_messages: bit(2),
        extended_next_hop: bit(3),
        paths_in: if bit(6) { Families::ALL } else { Families::NONE },
        paths_out: if bit(6) { Families::ALL } else { Families::NONE },
    }
}

fn judge(decoded: &Decoded, len: usize, dialect: &Dialect) {
    assert!(owned(decoded) <= BASE + PER_OCTET * len, "{} octets out of {len}", owned(decoded));
    assert!(!format!("{decoded:?}").is_empty());
    for fault in &decoded.faults {
        assert!(!fault.to_string().is_empty() && !fault.notification().to_string().is_empty());
    }
    told_again_is_the_same(&decoded.message, dialect);
}

/// An upper bound of the octets that a decoded message owns.
fn owned(decoded: &Decoded) -> usize {
    let faults: usize = decoded.faults.iter().map(|fault| fault.bytes.len() + size_of_val(fault)).sum();
    let message = match &decoded.message {
        Message::Update(update) => {
            let announced = update.announced.iter().map(|it| {
                let attributes = &it.attributes;
                size_of_val(attributes)
                    + size_of_val(it.prefixes.as_slice())
                    + attributes.as_path.hops() * 4
                    + attributes.communities.len() * 8
                    + attributes.extended_communities.len() * 16
                    + attributes.large_communities.len() * 24
                    + attributes.cluster_list.len() * 4
                    + attributes.unknown.iter().map(|it| it.value.len() + 32).sum::<usize>()
            });
            announced.sum::<usize>() + size_of_val(update.withdrawn.as_slice())
        }
        Message::Open(open) => open.capabilities.len() * 64,
        Message::Notification(notification) => notification.data.len(),
        Message::EndOfRib(_) | Message::Keepalive | Message::RouteRefresh(_) => 0,
    };
    message + faults
}

/// What was read is written, read again as the same, and written again as the same octets.
fn told_again_is_the_same(message: &Message, dialect: &Dialect) {
    let full = Dialect { families: Families::ALL, ..*dialect };
    let mut octets = Vec::new();
    if wire::encode(message, &full, &mut octets).is_err() {
        return;
    }
    let again = read(&octets, &full);
    let mut told = Vec::new();
    for message in &again {
        wire::encode(message, &full, &mut told).expect("what was written once can be written again");
    }
    assert_eq!(told, octets, "written again: {message:?}");
    if let ([one], false) = (again.as_slice(), matches!(message, Message::Update(_))) {
        assert_eq!(one, message);
    }
}

/// Reads messages of ours, in which nothing may be wrong.
fn read(octets: &[u8], dialect: &Dialect) -> Vec<Message> {
    let mut framer = Framer::new();
    if dialect.extended_messages {
        framer.allow_extended_messages();
    }
    let mut input = octets;
    let mut messages = Vec::new();
    while let Some(frame) = framer.next(&mut input).expect("sound frames") {
        let decoded = wire::decode(frame, dialect).expect("a sound message");
        assert_eq!(decoded.faults, [], "in a message of ours");
        messages.push(decoded.message);
    }
    messages
}
