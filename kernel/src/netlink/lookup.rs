//! Asks the kernel which way a packet goes, as it would decide itself: with the link by which it comes in, so that its
//! source is checked too.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use nix::errno::Errno;
use nix::libc;

use super::decode::RTA_VIA;
use super::request::{Batch, Message, read_ip, read_u32};
use super::socket::{Socket, SocketError};

/// Answer with the route that fits rather than with what is made of it.
const RTM_F_FIB_MATCH: u32 = 0x2000;
/// Answer with the table in which the route was found.
const RTM_F_LOOKUP_TABLE: u32 = 0x1000;
/// Octets of `struct rtmsg`.
const BODY: usize = 12;

/// A packet whose way is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Where it goes.
    pub to: IpAddr,
    /// Where it comes from.
    pub from: Option<IpAddr>,
    /// The index of the link by which it comes in; none for a packet of the machine itself.
    pub iif: Option<u32>,
}

/// The way of a packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Way {
    /// Whether the packet is for this machine.
    pub local: bool,
    /// The index of the link by which it goes.
    pub link: Option<u32>,
    /// The neighbour that takes it; none if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The route's table.
    pub table: u32,
    /// Who made the route.
    pub protocol: u8,
    /// The prefix of the route that fits; none where the kernel (before 4.13) does not say.
    pub prefix: Option<IpNetwork>,
}

/// Looks up the way of a packet in the namespace of `socket` (a [`Socket::route`]). The inner error is the kernel's
/// decision: `ENETUNREACH` and `EHOSTUNREACH` without a route, `EACCES` for a prohibited one, `EINVAL` for a black hole
/// and, with `iif`, for a source that does not pass the check, `EXDEV` for that in some versions.
///
/// # Errors
///
/// When the kernel cannot be asked.
pub fn way(socket: &mut Socket, packet: &Packet) -> Result<Result<Way, Errno>, SocketError> {
    let decided = match ask(socket, packet, 0)? {
        Ok(way) => way,
        Err(errno) => return Ok(Err(errno)),
    };
    let matched = ask(socket, packet, RTM_F_FIB_MATCH)?.unwrap_or_default();
    let (table, protocol) = if matched.prefix.is_some() {
        (matched.table, matched.protocol)
    } else {
        (decided.table, decided.protocol)
    };
    Ok(Ok(Way { prefix: matched.prefix, table, protocol, ..decided }))
}

fn ask(socket: &mut Socket, packet: &Packet, flags: u32) -> Result<Result<Way, Errno>, SocketError> {
    // IPv6 always names the table, and takes no wish for it.
    let (family, length, table) = match packet.to.is_ipv4() {
        true => (libc::AF_INET, 32, RTM_F_LOOKUP_TABLE),
        false => (libc::AF_INET6, 128, 0),
    };
    let source_length = if packet.from.is_some() { length } else { 0 };
    let mut body = [family as u8, length, source_length, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    body[8..].copy_from_slice(&(flags | table).to_ne_bytes());
    let mut batch = Batch::of(libc::RTM_GETROUTE, 0, &body, |attributes| {
        attributes.put_ip(libc::RTA_DST, packet.to);
        if let Some(from) = packet.from {
            attributes.put_ip(libc::RTA_SRC, from);
        }
        if let Some(iif) = packet.iif {
            attributes.put_u32(libc::RTA_IIF, iif);
        }
    });
    let answers = socket.send(&mut batch)?;
    Ok(match answers.all_done() {
        Ok(replies) => replies
            .iter()
            .find_map(|message| read(&message, flags & RTM_F_FIB_MATCH != 0))
            .unwrap_or(Err(Errno::ENODATA)),
        Err(refusal) => Err(refusal.errno),
    })
}

/// Reads `RTM_NEWROUTE`. IPv6 answers with what kind of route refuses packets, in place of an error.
fn read(message: &Message<'_>, matched: bool) -> Option<Result<Way, Errno>> {
    let body: [u8; BODY] = message.body().filter(|_| message.kind == libc::RTM_NEWROUTE)?;
    let [family, dst_len, _, _, table, protocol, _, kind, ..] = body;
    match kind {
        libc::RTN_BLACKHOLE => return Some(Err(Errno::EINVAL)),
        libc::RTN_PROHIBIT => return Some(Err(Errno::EACCES)),
        libc::RTN_UNREACHABLE => return Some(Err(Errno::ENETUNREACH)),
        _ => {}
    }
    let mut way = Way { local: kind == libc::RTN_LOCAL, table: u32::from(table), protocol, ..Way::default() };
    let mut dst: IpAddr = if i32::from(family) == libc::AF_INET { [0; 4].into() } else { [0; 16].into() };
    for (kind, value) in message.attributes(BODY) {
        match kind {
            libc::RTA_DST => dst = read_ip(value)?,
            libc::RTA_GATEWAY => way.gateway = read_ip(value),
            // struct rtvia: two octets of family, then the address.
            RTA_VIA => way.gateway = value.get(2..).and_then(read_ip),
            libc::RTA_OIF => way.link = read_u32(value),
            libc::RTA_TABLE => way.table = read_u32(value)?,
            _ => {}
        }
    }
    if matched {
        way.prefix = IpNetwork::new(dst, dst_len).ok();
    }
    Some(Ok(way))
}
