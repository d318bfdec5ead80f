//! Messages by hand: hex to octets, headers, attribute lists, and the shortest way through the codec.

use manx_bgp::wire::{self, Decoded, Dialect, FrameError, Framer, Message, Notification, Side};
use manx_bgp::{Families, Prefix};

/// Reads hex digits; white space and `|` are for the reader.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace() && *c != '|').collect();
    assert!(digits.len().is_multiple_of(2), "odd number of digits in {text:?}");
    let octet = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).expect("hex digits");
    digits.chunks(2).map(octet).collect()
}

/// Writes octets as hex.
pub(crate) fn to_hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Puts a header in front of a body.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len() + 19).expect("a test message fits");
    [[0xff; 16].as_slice(), &length.to_be_bytes(), &[kind], body].concat()
}

/// One attribute, with a long length where it needs one.
pub(crate) fn attribute(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    match u8::try_from(value.len()) {
        Ok(len) => [&[flags, code, len], value].concat(),
        Err(_) => {
            let len = u16::try_from(value.len()).expect("a test attribute fits");
            [[flags | 0x10, code].as_slice(), &len.to_be_bytes(), value].concat()
        }
    }
}

/// An UPDATE of three fields.
pub(crate) fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let len = |field: &[u8]| u16::try_from(field.len()).expect("a test field fits").to_be_bytes();
    message(2, &[&len(withdrawn), withdrawn, &len(attributes), attributes, nlri].concat())
}

/// Both families, four-octet numbers, nothing else.
pub(crate) fn dialect(side: Side) -> Dialect {
    Dialect {
        side,
        families: Families::ALL,
        four_octet_as: true,
        extended_messages: false,
        extended_next_hop: false,
        paths_in: Families::NONE,
        paths_out: Families::NONE,
    }
}

/// Decodes exactly one message.
pub(crate) fn decode(octets: &[u8], dialect: &Dialect) -> Result<Decoded, FrameError> {
    let mut framer = Framer::new();
    if dialect.extended_messages {
        framer.allow_extended_messages();
    }
    let mut input = octets;
    let frame = framer.next(&mut input)?.expect("the input is one whole message");
    let decoded = wire::decode(frame, dialect);
    assert!(input.is_empty(), "octets behind the message");
    decoded
}

/// Decodes a message that must be good.
pub(crate) fn good(octets: &[u8], dialect: &Dialect) -> Message {
    let decoded = decode(octets, dialect).expect("a good message");
    assert_eq!(decoded.faults, []);
    decoded.message
}

/// The NOTIFICATION that answers a bad message, as code, subcode and data in hex.
pub(crate) fn answer(octets: &[u8], dialect: &Dialect) -> (u8, u8, String) {
    let error = decode(octets, dialect).expect_err("a bad message");
    let notification = Notification::from(&error);
    (notification.code.code, notification.code.subcode, to_hex(&notification.data))
}

/// Encodes a message.
pub(crate) fn encode(message: &Message, dialect: &Dialect) -> Vec<u8> {
    let mut buf = Vec::new();
    wire::encode(message, dialect, &mut buf).expect("the message can be encoded");
    buf
}

/// Reads a prefix.
pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}
