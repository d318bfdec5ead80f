//! Prefixes on the wire: a length in bits and as many octets as that needs (RFC 4271 §4.3), behind a path identifier
//! where both ends agreed on that (RFC 7911 §3).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::reader::Reader;
use crate::prefix::{Family, Ipv4Prefix, Ipv6Prefix, Prefix};

/// What tells several paths of one sender to one prefix apart (RFC 7911 §3). The number means nothing else; on a
/// session without path identifiers it is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u32);

/// A prefix as it stands in an UPDATE: 24 octets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nlri {
    /// The prefix.
    pub prefix: Prefix,
    /// Which of the sender's paths to it; written only if both ends agreed on that.
    pub path: PathId,
}

impl Nlri {
    /// The family of the prefix.
    pub const fn family(self) -> Family {
        self.prefix.family()
    }
}

impl From<Prefix> for Nlri {
    fn from(prefix: Prefix) -> Self {
        Self { prefix, path: PathId::default() }
    }
}

impl PartialEq<Prefix> for Nlri {
    /// A bare prefix equals itself without a path identifier.
    fn eq(&self, other: &Prefix) -> bool {
        *self == Self::from(*other)
    }
}

impl fmt::Display for Nlri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path {
            PathId(0) => fmt::Display::fmt(&self.prefix, f),
            PathId(path) => write!(f, "{} path {path}", self.prefix),
        }
    }
}

impl fmt::Debug for Nlri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Appends all prefixes of a field; `None` if one is too long for its family or is cut short
/// (RFC 7606 §5.3). Bits beyond a prefix's length are cleared: their value is irrelevant.
pub(super) fn decode(field: &[u8], family: Family, paths: bool, into: &mut Vec<Nlri>) -> Option<()> {
    let mut reader = Reader::new(field);
    let path = |reader: &mut Reader<'_>| if paths { reader.u32().map(PathId) } else { Some(PathId(0)) };
    match family {
        Family::Ipv4Unicast => {
            into.reserve(field.len().div_ceil(4));
            while !reader.is_empty() {
                let path = path(&mut reader)?;
                into.push(Nlri { prefix: Prefix::V4(ipv4(&mut reader)?), path });
            }
        }
        Family::Ipv6Unicast => {
            into.reserve(field.len().div_ceil(8));
            while !reader.is_empty() {
                let path = path(&mut reader)?;
                into.push(Nlri { prefix: Prefix::V6(ipv6(&mut reader)?), path });
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
pub(super) fn encoded_len(nlri: Nlri, paths: bool) -> usize {
    let len = octets_of(nlri.prefix.len()).saturating_add(1);
    if paths { len.saturating_add(4) } else { len }
}

/// Appends one prefix, with `paths` behind its path identifier.
pub(super) fn encode(nlri: Nlri, paths: bool, buf: &mut Vec<u8>) {
    if paths {
        buf.extend_from_slice(&nlri.path.0.to_be_bytes());
    }
    let len = octets_of(nlri.prefix.len()).saturating_add(1);
    match nlri.prefix {
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
