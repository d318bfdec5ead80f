//! The table as an MRT file of type TABLE_DUMP_V2 (RFC 6396 §4.3), which every tool for BGP archives reads.

use std::net::{IpAddr, Ipv4Addr};

use crate::prefix::{Asn, Family, Prefix};
use crate::wire::{Attributes, EncodedAttributes};

/// TABLE_DUMP_V2.
const TYPE: u16 = 13;
const PEER_INDEX_TABLE: u16 = 1;
const RIB_IPV4_UNICAST: u16 = 2;
const RIB_IPV6_UNICAST: u16 = 4;
/// The difference to the subtypes whose entries have path identifiers (RFC 8050 §4.2).
const ADD_PATH: u16 = 6;
/// Of a peer: its address is IPv6.
const IPV6: u8 = 1;
/// Of a peer: its AS takes four octets.
const FOUR_OCTET: u8 = 2;

/// A peer in the index of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DumpedPeer {
    pub(crate) router_id: Ipv4Addr,
    pub(crate) address: IpAddr,
    pub(crate) asn: Asn,
}

/// A path of a prefix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    /// The place of its peer in the index.
    pub(crate) peer: u16,
    /// Which of the peer's paths it is; 0 where there is only one.
    pub(crate) path: u32,
    /// As received.
    pub(crate) attributes: &'a Attributes,
}

/// Appends a record. `write` writes all that follows its header.
fn record(time: u32, subtype: u16, buf: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    buf.extend_from_slice(&time.to_be_bytes());
    buf.extend_from_slice(&TYPE.to_be_bytes());
    buf.extend_from_slice(&subtype.to_be_bytes());
    let at = buf.len();
    buf.extend_from_slice(&[0; 4]);
    write(buf);
    let length = u32::try_from(buf.len() - at - 4).unwrap_or(u32::MAX);
    if let Some(place) = buf.get_mut(at..at + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends the index to which all entries refer (RFC 6396 §4.3.1).
pub(crate) fn peers(time: u32, collector: Ipv4Addr, peers: &[DumpedPeer], buf: &mut Vec<u8>) {
    record(time, PEER_INDEX_TABLE, buf, |buf| {
        buf.extend_from_slice(&collector.octets());
        buf.extend_from_slice(&[0, 0]);
        buf.extend_from_slice(&u16::try_from(peers.len()).unwrap_or(u16::MAX).to_be_bytes());
        for peer in peers {
            buf.push(FOUR_OCTET | if peer.address.is_ipv6() { IPV6 } else { 0 });
            buf.extend_from_slice(&peer.router_id.octets());
            match peer.address {
                IpAddr::V4(address) => buf.extend_from_slice(&address.octets()),
                IpAddr::V6(address) => buf.extend_from_slice(&address.octets()),
            }
            buf.extend_from_slice(&peer.asn.0.to_be_bytes());
        }
    });
}

/// Appends all paths of a prefix (RFC 6396 §4.3.2, RFC 8050 §4.2).
pub(crate) fn prefix(time: u32, sequence: u32, prefix: Prefix, entries: &[Entry<'_>], buf: &mut Vec<u8>) {
    let plain = match prefix.family() {
        Family::Ipv4Unicast => RIB_IPV4_UNICAST,
        Family::Ipv6Unicast => RIB_IPV6_UNICAST,
    };
    let paths = entries.iter().any(|entry| entry.path != 0);
    record(time, if paths { plain + ADD_PATH } else { plain }, buf, |buf| {
        buf.extend_from_slice(&sequence.to_be_bytes());
        buf.push(prefix.len());
        let octets = usize::from(prefix.len().div_ceil(8));
        match prefix.address() {
            IpAddr::V4(address) => buf.extend(address.octets().iter().take(octets)),
            IpAddr::V6(address) => buf.extend(address.octets().iter().take(octets)),
        }
        buf.extend_from_slice(&u16::try_from(entries.len()).unwrap_or(u16::MAX).to_be_bytes());
        for entry in entries {
            buf.extend_from_slice(&entry.peer.to_be_bytes());
            // When a path came is not kept: it is as old as the dump, or older.
            buf.extend_from_slice(&time.to_be_bytes());
            if paths {
                buf.extend_from_slice(&entry.path.to_be_bytes());
            }
            let attributes = EncodedAttributes::for_dump(entry.attributes);
            buf.extend_from_slice(&u16::try_from(attributes.len()).unwrap_or(u16::MAX).to_be_bytes());
            buf.extend_from_slice(&attributes);
        }
    });
}
