//! Prefixes on the wire: a length in bits and as many octets as that needs (RFC 4271 §4.3).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::reader::Reader;
use crate::prefix::{Family, Ipv4Prefix, Ipv6Prefix, Prefix};

/// Appends all prefixes of a field; `None` if one is too long for its family or is cut short
/// (RFC 7606 §5.3). Bits beyond a prefix's length are cleared: their value is irrelevant.
pub(super) fn decode(field: &[u8], family: Family, into: &mut Vec<Prefix>) -> Option<()> {
    let mut reader = Reader::new(field);
    match family {
        Family::Ipv4Unicast => {
            into.reserve(field.len().div_ceil(4));
            while !reader.is_empty() {
                into.push(Prefix::V4(ipv4(&mut reader)?));
            }
        }
        Family::Ipv6Unicast => {
            into.reserve(field.len().div_ceil(8));
            while !reader.is_empty() {
                into.push(Prefix::V6(ipv6(&mut reader)?));
            }
        }
    }
    Some(())
}

fn ipv4(reader: &mut Reader<'_>) -> Option<Ipv4Prefix> {
    let len = reader.u8()?;
    let octets = match *reader.take(octets_of(len))? {
        [a, b, c, d] => [a, b, c, d],
        [a, b, c] => [a, b, c, 0],
        [a, b] => [a, b, 0, 0],
        [a] => [a, 0, 0, 0],
        [] => [0; 4],
        _ => return None,
    };
    Ipv4Prefix::masked(Ipv4Addr::from(octets), len)
}

fn ipv6(reader: &mut Reader<'_>) -> Option<Ipv6Prefix> {
    let len = reader.u8()?;
    let taken = reader.take(octets_of(len))?;
    let mut octets = [0; 16];
    octets.get_mut(..taken.len())?.copy_from_slice(taken);
    Ipv6Prefix::masked(Ipv6Addr::from(octets), len)
}

/// How many octets of the address follow a length in bits.
fn octets_of(len: u8) -> usize {
    usize::from(len.div_ceil(8))
}

/// How many octets [`encode`] writes.
pub(super) fn encoded_len(prefix: Prefix) -> usize {
    octets_of(prefix.len()).saturating_add(1)
}

/// Appends one prefix.
pub(super) fn encode(prefix: Prefix, buf: &mut Vec<u8>) {
    let len = encoded_len(prefix);
    match prefix {
        Prefix::V4(prefix) => {
            let [a, b, c, d] = prefix.address().octets();
            let octets = [prefix.len(), a, b, c, d];
            buf.extend_from_slice(octets.get(..len).unwrap_or(&octets));
        }
        Prefix::V6(prefix) => {
            let octets = prefix.address().octets();
            buf.push(prefix.len());
            buf.extend_from_slice(octets.get(..len.saturating_sub(1)).unwrap_or(&octets));
        }
    }
}
