//! BMP messages (RFC 7854 §4), written only: a router has nothing to hear from a station.

use std::net::IpAddr;
use std::time::Duration;

use super::Watched;
use crate::prefix::{Asn, Family, RouterId};
use crate::wire::{self, Dialect, Message, Notification};

const VERSION: u8 = 3;
const ROUTE_MONITORING: u8 = 0;
const STATISTICS_REPORT: u8 = 1;
const PEER_DOWN: u8 = 2;
const PEER_UP: u8 = 3;
const INITIATION: u8 = 4;
const TERMINATION: u8 = 5;

/// V: the address is IPv6.
const IPV6: u8 = 0x80;
/// A: AS_PATH is written with two octets per AS.
const TWO_OCTET: u8 = 0x20;

/// Of the text in an Initiation or a Peer Up.
const STRING: u16 = 0;
const SYS_DESCR: u16 = 1;
const SYS_NAME: u16 = 2;
/// Of a Termination: its reason.
const REASON: u16 = 1;

/// What stands ahead of everything about one peer (RFC 7854 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerHeader {
    pub(crate) address: IpAddr,
    pub(crate) asn: Asn,
    pub(crate) router_id: RouterId,
    pub(crate) four_octet_as: bool,
}

/// How a session ended (RFC 7854 §4.9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// We sent this.
    Sent(Notification),
    /// We ended it without a word.
    Ours,
    /// The peer sent this.
    Received(Notification),
    /// The peer closed the connection.
    Closed,
}

/// The counters of a peer (RFC 7854 §4.8).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    /// UPDATEs whose routes counted as withdrawn, or worse.
    pub(crate) faults: u32,
    /// Prefixes received, by family.
    pub(crate) received: Vec<(Family, u64)>,
}

fn message(kind: u8, buf: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = buf.len();
    buf.extend_from_slice(&[VERSION, 0, 0, 0, 0, kind]);
    write(buf);
    let length = u32::try_from(buf.len() - start).unwrap_or(u32::MAX);
    if let Some(place) = buf.get_mut(start + 1..start + 5) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

fn put_u16(value: u16, buf: &mut Vec<u8>) {
    buf.extend_from_slice(&value.to_be_bytes());
}

fn text(kind: u16, text: &str, buf: &mut Vec<u8>) {
    let octets = text.as_bytes();
    let length = u16::try_from(octets.len()).unwrap_or(u16::MAX);
    put_u16(kind, buf);
    put_u16(length, buf);
    buf.extend_from_slice(octets.get(..usize::from(length)).unwrap_or_default());
}

/// An address in sixteen octets, an IPv4 one at their end.
fn address(address: IpAddr, buf: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => {
            buf.extend_from_slice(&[0; 12]);
            buf.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => buf.extend_from_slice(&address.octets()),
    }
}

fn header(peer: &PeerHeader, time: Duration, buf: &mut Vec<u8>) {
    let family = if peer.address.is_ipv6() { IPV6 } else { 0 };
    let width = if peer.four_octet_as { 0 } else { TWO_OCTET };
    // A peer of the one instance that there is, which needs no distinguisher.
    buf.extend_from_slice(&[0, family | width]);
    buf.extend_from_slice(&[0; 8]);
    address(peer.address, buf);
    buf.extend_from_slice(&peer.asn.0.to_be_bytes());
    buf.extend_from_slice(&peer.router_id.get().octets());
    buf.extend_from_slice(&u32::try_from(time.as_secs()).unwrap_or(u32::MAX).to_be_bytes());
    buf.extend_from_slice(&time.subsec_micros().to_be_bytes());
}

/// Who we are (RFC 7854 §4.3).
pub(super) fn initiation(name: &str, description: &str, buf: &mut Vec<u8>) {
    message(INITIATION, buf, |buf| {
        text(SYS_DESCR, description, buf);
        text(SYS_NAME, name, buf);
    });
}

/// That we end, as an administrator asked for (RFC 7854 §4.5).
pub(super) fn termination(buf: &mut Vec<u8>) {
    message(TERMINATION, buf, |buf| {
        put_u16(REASON, buf);
        put_u16(2, buf);
        put_u16(0, buf);
    });
}

/// A session came up, with the OPENs of both sides (RFC 7854 §4.10).
pub(super) fn peer_up(watched: &Watched, time: Duration, buf: &mut Vec<u8>) {
    message(PEER_UP, buf, |buf| {
        header(&watched.header, time, buf);
        address(watched.local.ip(), buf);
        put_u16(watched.local.port(), buf);
        put_u16(watched.remote.port(), buf);
        for open in [&watched.ours, &watched.theirs] {
            // What was sent or received fits into a message.
            let _fits = wire::encode(&Message::Open(open.clone()), &Dialect::BEFORE_OPEN, buf);
        }
        text(STRING, &watched.name, buf);
    });
}

/// A session ended (RFC 7854 §4.9).
pub(super) fn peer_down(peer: &PeerHeader, time: Duration, ending: &Ending, buf: &mut Vec<u8>) {
    let (reason, notification) = match ending {
        Ending::Sent(notification) => (1, Some(notification)),
        Ending::Ours => (2, None),
        Ending::Received(notification) => (3, Some(notification)),
        Ending::Closed => (4, None),
    };
    message(PEER_DOWN, buf, |buf| {
        header(peer, time, buf);
        buf.push(reason);
        match notification {
            Some(notification) => {
                let message = Message::Notification(notification.clone());
                let _fits = wire::encode(&message, &Dialect::BEFORE_OPEN, buf);
            }
            // The event of the state machine; 0 says that none applies.
            None if reason == 2 => put_u16(0, buf),
            None => {}
        }
    });
}

/// An UPDATE of a peer, with its header (RFC 7854 §4.6).
pub(super) fn route_monitoring(peer: &PeerHeader, time: Duration, update: &[u8], buf: &mut Vec<u8>) {
    message(ROUTE_MONITORING, buf, |buf| {
        header(peer, time, buf);
        buf.extend_from_slice(update);
    });
}

/// The routes that a peer had when the station came have all been told (RFC 7854 §5).
pub(super) fn end_of_table(watched: &Watched, time: Duration, buf: &mut Vec<u8>) {
    for family in watched.dialect.families.iter() {
        let mut end = Vec::new();
        wire::end_of_rib(family, &mut end);
        route_monitoring(&watched.header, time, &end, buf);
    }
}

/// The counters of a peer (RFC 7854 §4.8).
pub(super) fn stats_report(peer: &PeerHeader, time: Duration, stats: &Stats, buf: &mut Vec<u8>) {
    const UPDATES_TREATED_AS_WITHDRAW: u16 = 11;
    const ROUTES: u16 = 7;
    const ROUTES_OF_FAMILY: u16 = 9;
    message(STATISTICS_REPORT, buf, |buf| {
        header(peer, time, buf);
        let count = stats.received.len() as u32 + 2;
        buf.extend_from_slice(&count.to_be_bytes());
        put_u16(UPDATES_TREATED_AS_WITHDRAW, buf);
        put_u16(4, buf);
        buf.extend_from_slice(&stats.faults.to_be_bytes());
        put_u16(ROUTES, buf);
        put_u16(8, buf);
        let all: u64 = stats.received.iter().map(|(_, count)| count).sum();
        buf.extend_from_slice(&all.to_be_bytes());
        for (family, count) in &stats.received {
            let family = wire::AfiSafi::from(*family);
            put_u16(ROUTES_OF_FAMILY, buf);
            put_u16(11, buf);
            put_u16(family.afi, buf);
            buf.push(family.safi);
            buf.extend_from_slice(&count.to_be_bytes());
        }
    });
}
