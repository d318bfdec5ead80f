//! What a link has: its two ends, its addresses, neighbours and routes, read back from the kernel.
//!
//! Dumps ask the kernel for one link only and filter again, since older kernels give everything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

use ipnetwork::IpNetwork;
use nix::errno::Errno;
use nix::libc;

use super::request::{Attributes, Batch, Message, read_ip, read_str, read_u32};
use super::socket::{Socket, SocketError};
use crate::aside::{Rule, read_rule};
use crate::model::MAIN_TABLE;
use crate::names::Mac;
use crate::pod::link_body;

const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

/// One end of a link, as it is now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct End {
    /// Index in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Alias; on the host end of a pod's link it says whose it is.
    pub alias: Option<String>,
    /// Group; see [`crate::names::LINK_GROUP`].
    pub group: u32,
    /// Hardware address, if it is an Ethernet one.
    pub mac: Option<Mac>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it is up and has carrier, and the kernel has acted on that.
    pub running: bool,
    /// Index of the other end, in the other end's namespace.
    pub peer: Option<u32>,
    /// Number under which this namespace knows the other end's; none if both are in this one.
    pub peer_namespace: Option<i32>,
}

/// A neighbour of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Its hardware address, if known.
    pub mac: Option<Mac>,
    /// Whether it never expires.
    pub permanent: bool,
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRoute {
    /// Destination.
    pub dst: IpNetwork,
    /// Gateway, if it has one.
    pub gateway: Option<IpAddr>,
    /// Index of the link, if it leaves by just one.
    pub link: Option<u32>,
    /// Metric.
    pub metric: u32,
    /// Who made it.
    pub protocol: u8,
}

/// The link of this name, in the socket's namespace.
///
/// # Errors
/// If the exchange fails, or the kernel refuses it for another reason than that there is none.
pub fn end(socket: &mut Socket, name: &str) -> Result<Option<End>, SocketError> {
    one(socket, 0, Some(name))
}

/// The link with this index, in the socket's namespace.
///
/// # Errors
/// As for [`end`].
pub fn end_at(socket: &mut Socket, index: u32) -> Result<Option<End>, SocketError> {
    one(socket, index, None)
}

fn one(socket: &mut Socket, index: u32, name: Option<&str>) -> Result<Option<End>, SocketError> {
    let mut request = Batch::of(libc::RTM_GETLINK, 0, &link_body(index, 0, 0), |link| {
        link.put_u32(libc::IFLA_EXT_MASK, libc::RTEXT_FILTER_SKIP_STATS as u32);
        if let Some(name) = name {
            link.put_str(libc::IFLA_IFNAME, name);
        }
    });
    match socket.send(&mut request)?.all_done() {
        Ok(replies) => Ok(replies.iter().find_map(|message| read_end(&message))),
        Err(refusal) if refusal.errno == Errno::ENODEV => Ok(None),
        Err(refusal) => Err(refusal.into()),
    }
}

/// All links in the socket's namespace.
///
/// # Errors
/// If the dump fails.
pub fn ends(socket: &mut Socket) -> Result<Vec<End>, SocketError> {
    let mut request = Batch::of(libc::RTM_GETLINK, libc::NLM_F_DUMP, &link_body(0, 0, 0), |link| {
        link.put_u32(libc::IFLA_EXT_MASK, libc::RTEXT_FILTER_SKIP_STATS as u32);
    });
    Ok(socket.dump(&mut request)?.iter().filter_map(|message| read_end(&message)).collect())
}

/// The addresses of a link.
///
/// # Errors
/// If the dump fails.
pub fn addresses(socket: &mut Socket, index: u32) -> Result<BTreeSet<IpNetwork>, SocketError> {
    let mut body = [0; 8];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut request = Batch::of(libc::RTM_GETADDR, libc::NLM_F_DUMP, &body, |_| {});
    Ok(socket.dump(&mut request)?.iter().filter_map(|message| read_address(&message, index)).collect())
}

/// The neighbours of a link.
///
/// # Errors
/// If the dump fails.
pub fn neighbours(socket: &mut Socket, index: u32) -> Result<BTreeMap<IpAddr, Neighbour>, SocketError> {
    let mut request = Batch::of(libc::RTM_GETNEIGH, libc::NLM_F_DUMP, &[0; 12], |neighbour| {
        neighbour.put_u32(libc::NDA_IFINDEX, index);
    });
    Ok(socket.dump(&mut request)?.iter().filter_map(|message| read_neighbour(&message, index)).collect())
}

/// The unicast routes of the main table that leave by this link; by any link if none is named.
///
/// # Errors
/// If the dump fails.
pub fn routes(socket: &mut Socket, index: Option<u32>) -> Result<Vec<FoundRoute>, SocketError> {
    routes_in(socket, MAIN_TABLE, index)
}

/// The rules of the socket's namespace that choose a table by a source.
///
/// # Errors
/// If the dump fails.
pub fn rules(socket: &mut Socket) -> Result<Vec<Rule>, SocketError> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut body = [0; 12];
        body[0] = family as u8;
        let mut request = Batch::of(libc::RTM_GETRULE, libc::NLM_F_DUMP, &body, |_| {});
        match socket.dump(&mut request) {
            Ok(replies) => found.extend(replies.iter().filter_map(|message| read_rule(&message))),
            // A kernel without this family has no rules of it.
            Err(SocketError::Refused(refusal)) if refusal.errno == Errno::EOPNOTSUPP => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The unicast routes of a table that leave by this link; by any link if none is named.
///
/// # Errors
/// If the dump fails.
pub fn routes_in(
    socket: &mut Socket,
    table: u32,
    index: Option<u32>,
) -> Result<Vec<FoundRoute>, SocketError> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut body = [0; 12];
        body[0] = family as u8;
        let only = |route: &mut Attributes<'_>| {
            if let Some(index) = index {
                route.put_u32(libc::RTA_OIF, index);
            }
            if table != MAIN_TABLE {
                route.put_u32(libc::RTA_TABLE, table);
            }
        };
        let mut request = Batch::of(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &body, only);
        let of_link = |route: &FoundRoute| index.is_none() || route.link == index;
        match socket.dump(&mut request) {
            Ok(replies) => found.extend(replies.iter().filter_map(|m| read_route(&m, table)).filter(of_link)),
            // A kernel without this family has no routes of it; a table is there once a route was put into it.
            Err(SocketError::Refused(refusal))
                if matches!(refusal.errno, Errno::EOPNOTSUPP | Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The number under which the socket's namespace knows another one, if it does.
///
/// # Errors
/// If the exchange fails.
pub fn namespace_number(socket: &mut Socket, netns: impl AsFd) -> Result<Option<i32>, SocketError> {
    let fd = u32::try_from(netns.as_fd().as_raw_fd()).expect("an open descriptor is not negative");
    let mut request = Batch::of(libc::RTM_GETNSID, 0, &[0; 4], |namespace| {
        namespace.put_u32(NETNSA_FD, fd);
    });
    let replies = socket.send(&mut request)?.all_done()?;
    let number = replies.iter().find_map(|message| message.attribute(4, NETNSA_NSID).and_then(read_i32));
    Ok(number.filter(|number| *number >= 0))
}

/// Reads `RTM_NEWLINK`.
pub(super) fn read_end(message: &Message<'_>) -> Option<End> {
    let body: [u8; 16] = message.body().filter(|_| message.kind == libc::RTM_NEWLINK)?;
    let flags = read_u32(&body[8..])?;
    let has = |flag: i32| flags & flag as u32 != 0;
    let mut end = End {
        index: read_u32(&body[4..])?,
        up: has(libc::IFF_UP),
        running: has(libc::IFF_RUNNING),
        ..End::default()
    };
    for (kind, value) in message.attributes(16) {
        match kind {
            libc::IFLA_IFNAME => end.name = read_str(value),
            libc::IFLA_IFALIAS => end.alias = Some(read_str(value)),
            libc::IFLA_GROUP => end.group = read_u32(value)?,
            libc::IFLA_ADDRESS => end.mac = value.try_into().ok().map(Mac),
            libc::IFLA_MTU => end.mtu = read_u32(value)?,
            libc::IFLA_LINK => end.peer = read_u32(value),
            libc::IFLA_LINK_NETNSID => end.peer_namespace = read_i32(value),
            _ => {}
        }
    }
    Some(end)
}

/// Reads `RTM_NEWADDR`.
fn read_address(message: &Message<'_>, index: u32) -> Option<IpNetwork> {
    let body: [u8; 8] = message.body().filter(|_| message.kind == libc::RTM_NEWADDR)?;
    if read_u32(&body[4..])? != index {
        return None;
    }
    let of_kind = |wanted| message.attribute(8, wanted);
    // On a point-to-point address IFA_ADDRESS is the other side's.
    let value = of_kind(libc::IFA_LOCAL).or_else(|| of_kind(libc::IFA_ADDRESS))?;
    IpNetwork::new(read_ip(value)?, body[1]).ok()
}

/// Reads `RTM_NEWNEIGH`.
fn read_neighbour(message: &Message<'_>, index: u32) -> Option<(IpAddr, Neighbour)> {
    let body: [u8; 12] = message.body().filter(|_| message.kind == libc::RTM_NEWNEIGH)?;
    if read_u32(&body[4..])? != index {
        return None;
    }
    let permanent = u16::from_ne_bytes([body[8], body[9]]) & libc::NUD_PERMANENT != 0;
    let of_kind = |wanted| message.attribute(12, wanted);
    let mac = of_kind(libc::NDA_LLADDR).and_then(|value| value.try_into().ok()).map(Mac);
    Some((read_ip(of_kind(libc::NDA_DST)?)?, Neighbour { mac, permanent }))
}

/// Reads `RTM_NEWROUTE`.
fn read_route(message: &Message<'_>, of_table: u32) -> Option<FoundRoute> {
    let body: [u8; 12] = message.body().filter(|_| message.kind == libc::RTM_NEWROUTE)?;
    let [family, dst_len, _, _, table, protocol, _, kind, ..] = body;
    let everywhere = if i32::from(family) == libc::AF_INET {
        IpAddr::from(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::from(Ipv6Addr::UNSPECIFIED)
    };
    let (mut dst, mut gateway, mut link, mut metric, mut table) =
        (everywhere, None, None, 0, u32::from(table));
    for (kind, value) in message.attributes(12) {
        match kind {
            libc::RTA_DST => dst = read_ip(value)?,
            libc::RTA_GATEWAY => gateway = read_ip(value),
            libc::RTA_OIF => link = read_u32(value),
            libc::RTA_PRIORITY => metric = read_u32(value)?,
            libc::RTA_TABLE => table = read_u32(value)?,
            _ => {}
        }
    }
    let wanted = kind == libc::RTN_UNICAST && table == of_table;
    wanted.then(|| {
        Some(FoundRoute { dst: IpNetwork::new(dst, dst_len).ok()?, gateway, link, metric, protocol })
    })?
}

fn read_i32(value: &[u8]) -> Option<i32> {
    value.first_chunk().map(|octets| i32::from_ne_bytes(*octets))
}
