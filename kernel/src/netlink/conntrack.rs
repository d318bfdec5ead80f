//! Tracked connections: looks one up, and forgets those of addresses whose pods are gone.
//!
//! Where connections are tracked (kube-proxy, masquerading, any stateful firewall), an entry of UDP lives on for
//! minutes and goes on translating: what a client sends to a service would still go to the address of a pod that is
//! gone, and so to whoever gets the address next. Nothing is done where connections are not tracked.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::errno::Errno;
use nix::libc;

use super::request::{Attributes, Batch, Message, attribute, attributes, read_ip};
use super::socket::{RequestError, Socket, SocketError};
use crate::sysctl;

/// How many connections this namespace tracks.
const COUNT: &str = "net/netfilter/nf_conntrack_count";
/// Deletions in one exchange.
const CHUNK: usize = 256;
/// Room for what the kernel sends ahead of us in a dump, and for the refusals of a chunk.
const BUFFER_OCTETS: usize = 1 << 20;

const GET: i32 = 1;
const DELETE: i32 = 2;
/// Octets of `struct nfgenmsg`.
const BODY: usize = 4;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TIMEOUT: u16 = 7;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_6: u8 = 128;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;

/// One direction of a connection: its addresses and ports. ICMP has its identifier as both ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// Source address.
    pub from: IpAddr,
    /// Destination address.
    pub to: IpAddr,
    /// Source port.
    pub from_port: u16,
    /// Destination port.
    pub to_port: u16,
    /// The number of the transport protocol.
    pub protocol: u8,
}

/// A tracked connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracked {
    /// Its packets as they came.
    pub original: Tuple,
    /// Its answers as they come.
    pub reply: Tuple,
    /// How long it is still remembered, in seconds.
    pub timeout: u32,
}

/// The tracked connection of these packets as they came, in the network namespace of `socket`
/// (a [`Socket::netfilter`]).
///
/// # Errors
/// When the kernel cannot be asked, or tracks nothing.
pub fn find(socket: &mut Socket, packets: &Tuple) -> Result<Option<Tracked>, SocketError> {
    let family = if packets.from.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut batch = Batch::of(kind(GET), 0, &[family as u8, 0, 0, 0], |connection| {
        connection.nest(CTA_TUPLE_ORIG, |tuple| {
            let (source, destination) = match family {
                libc::AF_INET => (CTA_IP_V4_SRC, CTA_IP_V4_DST),
                _ => (CTA_IP_V6_SRC, CTA_IP_V6_DST),
            };
            tuple.nest(CTA_TUPLE_IP, |ip| {
                ip.put_ip(source, packets.from).put_ip(destination, packets.to);
            });
            tuple.nest(CTA_TUPLE_PROTO, |protocol| packets.write_protocol(protocol));
        });
    });
    match socket.send(&mut batch)?.all_done() {
        Ok(replies) => Ok(replies.iter().find_map(|message| read_tracked(&message))),
        Err(RequestError { errno: Errno::ENOENT, .. }) => Ok(None),
        Err(refusal) => Err(refusal.into()),
    }
}

impl Tuple {
    fn write_protocol(&self, attributes: &mut Attributes<'_>) {
        attributes.put_u8(CTA_PROTO_NUM, self.protocol);
        let echo = match i32::from(self.protocol) {
            libc::IPPROTO_ICMP => Some((CTA_PROTO_ICMP_ID, ECHO_REQUEST)),
            libc::IPPROTO_ICMPV6 => Some((CTA_PROTO_ICMPV6_ID, ECHO_REQUEST_6)),
            _ => None,
        };
        match echo {
            Some((id, kind)) => {
                attributes.put(id, &self.from_port.to_be_bytes());
                attributes.put_u8(id + 1, kind).put_u8(id + 2, 0);
            }
            None => {
                attributes.put(CTA_PROTO_SRC_PORT, &self.from_port.to_be_bytes());
                attributes.put(CTA_PROTO_DST_PORT, &self.to_port.to_be_bytes());
            }
        }
    }

    fn read(value: &[u8]) -> Option<Self> {
        let (mut from, mut to) = (None, None);
        for (source, address) in ends(value) {
            *(if source { &mut from } else { &mut to }) = Some(address);
        }
        let mut tuple = Self { from: from?, to: to?, from_port: 0, to_port: 0, protocol: 0 };
        let protocol = attribute(value, CTA_TUPLE_PROTO)?;
        for (kind, value) in attributes(protocol) {
            let port = value.first_chunk().map(|octets| u16::from_be_bytes(*octets));
            match kind {
                CTA_PROTO_NUM => tuple.protocol = *value.first()?,
                CTA_PROTO_SRC_PORT => tuple.from_port = port?,
                CTA_PROTO_DST_PORT => tuple.to_port = port?,
                CTA_PROTO_ICMP_ID | CTA_PROTO_ICMPV6_ID => {
                    (tuple.from_port, tuple.to_port) = (port?, port?);
                }
                _ => {}
            }
        }
        Some(tuple)
    }
}

fn read_tracked(message: &Message<'_>) -> Option<Tracked> {
    let of_kind = |wanted| message.attribute(BODY, wanted);
    Some(Tracked {
        original: Tuple::read(of_kind(CTA_TUPLE_ORIG)?)?,
        reply: Tuple::read(of_kind(CTA_TUPLE_REPLY)?)?,
        timeout: of_kind(CTA_TIMEOUT)
            .and_then(|value| value.first_chunk())
            .map_or(0, |octets| u32::from_be_bytes(*octets)),
    })
}

/// Removes every tracked connection from or to one of these addresses, before or after translation, in the network
/// namespace of the calling thread. Returns how many there were. One look at all connections, however many addresses.
///
/// # Errors
/// When connections are tracked but cannot be read or removed.
pub fn purge(addresses: &BTreeSet<IpAddr>) -> Result<usize, SocketError> {
    // No such file: nobody tracks connections.
    let tracked = sysctl::read(COUNT).is_ok_and(|count| count != "0");
    if addresses.is_empty() || !tracked {
        return Ok(0);
    }
    let mut socket = Socket::netfilter()?;
    socket.enlarge_buffers(BUFFER_OCTETS);
    let mut doomed = Vec::new();
    socket.visit(&mut request(GET, libc::NLM_F_DUMP), |message| {
        if concerns(message, addresses) {
            doomed.push(Doomed::read(message));
        }
    })?;
    let mut removed = 0;
    for chunk in doomed.chunks(CHUNK) {
        let mut batch = Batch::new();
        chunk.iter().for_each(|connection| connection.put(&mut batch));
        for result in socket.send(&mut batch)?.results {
            match result {
                Ok(()) => removed += 1,
                // It ended by itself, or another one has its place.
                Err(RequestError { errno: Errno::ENOENT, .. }) => {}
                Err(refusal) => return Err(refusal.into()),
            }
        }
    }
    Ok(removed)
}

fn request(message: i32, flags: i32) -> Batch {
    Batch::of(kind(message), flags, &[libc::AF_UNSPEC as u8, 0, 0, 0], |_| {})
}

fn kind(message: i32) -> u16 {
    (libc::NFNL_SUBSYS_CTNETLINK << 8 | message) as u16
}

/// Whether a connection begins or ends at one of the addresses. Where its destination is translated, that shows only in
/// what answers.
fn concerns(message: &Message<'_>, addresses: &BTreeSet<IpAddr>) -> bool {
    message.attributes(BODY).any(|(kind, tuple)| match kind {
        CTA_TUPLE_ORIG => ends(tuple).any(|(_, address)| addresses.contains(&address)),
        CTA_TUPLE_REPLY => ends(tuple).any(|(source, address)| source && addresses.contains(&address)),
        _ => false,
    })
}

/// The two addresses of a direction, and whether each is its source.
fn ends(tuple: &[u8]) -> impl Iterator<Item = (bool, IpAddr)> {
    let addresses = attribute(tuple, CTA_TUPLE_IP);
    attributes(addresses.unwrap_or_default()).filter_map(|(kind, value)| match kind {
        CTA_IP_V4_SRC | CTA_IP_V6_SRC => Some((true, read_ip(value)?)),
        CTA_IP_V4_DST | CTA_IP_V6_DST => Some((false, read_ip(value)?)),
        _ => None,
    })
}

/// What the kernel needs to find a connection again, as it said it.
struct Doomed {
    family: u8,
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Doomed {
    fn read(message: &Message<'_>) -> Self {
        let needed =
            message.attributes(BODY).filter(|(kind, _)| matches!(*kind, CTA_TUPLE_ORIG | CTA_ZONE | CTA_ID));
        Self {
            family: message.payload.first().copied().unwrap_or_default(),
            attributes: needed.map(|(kind, value)| (kind, value.to_vec())).collect(),
        }
    }

    fn put(&self, batch: &mut Batch) {
        batch.push(kind(DELETE), 0, &[self.family, 0, 0, 0], |connection| {
            for (kind, value) in &self.attributes {
                let nested = if *kind == CTA_TUPLE_ORIG { libc::NLA_F_NESTED as u16 } else { 0 };
                connection.put(kind | nested, value);
            }
        });
    }
}
