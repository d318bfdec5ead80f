//! Forgets the connections of addresses whose pods are gone.
//!
//! Where connections are tracked (kube-proxy, masquerading, any stateful firewall), an entry of UDP lives on for
//! minutes and goes on translating: what a client sends to a service would still go to the address of a pod that is
//! gone, and so to whoever gets the address next. Nothing is done where connections are not tracked.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::errno::Errno;
use nix::libc;

use super::request::{Batch, Message, attributes, read_ip};
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
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;

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
    let addresses = attributes(tuple).find(|(kind, _)| *kind == CTA_TUPLE_IP).map(|(_, value)| value);
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
