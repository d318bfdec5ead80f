//! Reads the kernel's state: dumps that the kernel filters, and lookups.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nix::errno::Errno;
use nix::libc;

use crate::model::{Address, Dump, Forward, Hop, KernelRoute, Link, Nexthop, PROTOCOL, Resolution};

use super::decode::{self, ADDRESS_BODY, LINK_BODY, NEXTHOP_BODY, RTM_GETNEXTHOP};
use super::request::Message;
use super::socket::RequestError;
use super::{Batch, Kernel, SocketError, encode};

/// `RTEXT_FILTER_SKIP_STATS`: counters would be two thirds of a dump of links.
const SKIP_STATS: u32 = 1 << 3;
/// Addresses looked up in one exchange (two requests each).
const LOOKUPS: usize = 64;
/// Answer with the route instead of the way; `libc` has it for glibc alone.
const RTM_F_FIB_MATCH: u32 = 0x2000;

impl Kernel {
    /// Reads links, our routes of both families and all next-hop objects.
    ///
    /// # Errors
    ///
    /// When a dump fails.
    pub fn dump(&mut self) -> Result<Dump, SocketError> {
        // Objects first: a route whose object is not in the dump was made later, or has lost it since.
        let nexthops = self.nexthops()?;
        Ok(Dump { nexthops, routes: self.routes()?, links: self.links()? })
    }

    /// Reads every link.
    ///
    /// # Errors
    ///
    /// When the dump fails.
    pub fn links(&mut self) -> Result<Vec<Link>, SocketError> {
        let mut request = Batch::of(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; LINK_BODY], |attributes| {
            attributes.put_u32(libc::IFLA_EXT_MASK, SKIP_STATS);
        });
        Ok(self.socket.dump(&mut request)?.iter().filter_map(|message| decode::link(&message)).collect())
    }

    /// Reads every address.
    ///
    /// # Errors
    ///
    /// When the dump fails.
    pub fn addresses(&mut self) -> Result<Vec<Address>, SocketError> {
        let mut request = Batch::of(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; ADDRESS_BODY], |_| {});
        Ok(self.socket.dump(&mut request)?.iter().filter_map(|message| decode::address(&message)).collect())
    }

    /// Reads the routes with protocol [`PROTOCOL`], of both families and in all tables.
    ///
    /// # Errors
    ///
    /// When a dump fails.
    pub fn routes(&mut self) -> Result<Vec<KernelRoute>, SocketError> {
        let mut routes = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let body = [family as u8, 0, 0, 0, 0, PROTOCOL, 0, 0, 0, 0, 0, 0];
            let mut request = Batch::of(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &body, |_| {});
            let replies = self.socket.dump(&mut request)?;
            let ours = |route: &KernelRoute| {
                route.protocol == PROTOCOL && route.key.dst.is_ipv4() == (family == libc::AF_INET)
            };
            routes.extend(replies.iter().filter_map(|message| decode::route(&message)).filter(ours));
        }
        Ok(routes)
    }

    /// Reads every next-hop object, or `None` if this kernel has no such thing.
    ///
    /// # Errors
    ///
    /// When the dump fails otherwise.
    pub fn nexthops(&mut self) -> Result<Option<Vec<Nexthop>>, SocketError> {
        let mut request = Batch::of(RTM_GETNEXTHOP, libc::NLM_F_DUMP, &[0; NEXTHOP_BODY], |_| {});
        match self.socket.dump(&mut request) {
            Ok(replies) => Ok(Some(replies.iter().filter_map(|message| decode::nexthop(&message)).collect())),
            Err(SocketError::Refused(RequestError { errno: Errno::EOPNOTSUPP | Errno::EINVAL, .. })) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Asks how the kernel reaches each address. An address that leads through a route of ours is unreachable:
    /// such a route must not rest on itself.
    ///
    /// # Errors
    ///
    /// When the exchange fails as a whole.
    pub fn resolve(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<BTreeMap<IpAddr, Resolution>, SocketError> {
        let addresses: Vec<IpAddr> = addresses.iter().copied().collect();
        let mut resolved = BTreeMap::new();
        for chunk in addresses.chunks(LOOKUPS) {
            self.batch.clear();
            for &address in chunk {
                push_lookup(&mut self.batch, address, 0);
                push_lookup(&mut self.batch, address, RTM_F_FIB_MATCH);
            }
            let replies = self.socket.send(&mut self.batch)?.replies;
            let mut found: BTreeMap<usize, KernelRoute> = replies
                .iter()
                .filter_map(|message| Some((message.sequence as usize, lookup_result(&message)?)))
                .collect();
            for (index, &address) in chunk.iter().enumerate() {
                let (flow, route) = (found.remove(&(2 * index)), found.remove(&(2 * index + 1)));
                resolved.insert(address, resolution(address, flow, route));
            }
        }
        Ok(resolved)
    }
}

/// Asks for the way of a packet to `address`, or with `RTM_F_FIB_MATCH` for the route that it would take.
fn push_lookup(batch: &mut Batch, address: IpAddr, flags: u32) {
    let [a, b, c, d] = flags.to_ne_bytes();
    let length = if address.is_ipv4() { 32 } else { 128 };
    let body = [encode::family(address), length, 0, 0, 0, 0, 0, 0, a, b, c, d];
    batch.push(libc::RTM_GETROUTE, 0, &body, |attributes| {
        attributes.put_ip(libc::RTA_DST, address);
    });
}

/// Reads an answer. That of a lookup for a packet is marked as a cached route and in IPv6 has a source.
fn lookup_result(message: &Message<'_>) -> Option<KernelRoute> {
    let mut payload = message.payload.to_vec();
    *payload.get_mut(2)? = 0;
    payload.get_mut(8..12)?.fill(0);
    decode::route(&Message { payload: &payload, ..*message })
}

fn resolution(address: IpAddr, flow: Option<KernelRoute>, route: Option<KernelRoute>) -> Resolution {
    if route.as_ref().is_some_and(|route| route.protocol == PROTOCOL) {
        return Resolution::Unreachable;
    }
    match (route.map(|route| route.forward), flow.map(|flow| flow.forward)) {
        // A packet takes one of several paths, a route of ours all of them.
        (Some(Forward::Paths(hops)), Some(_)) if hops.len() > 1 => Resolution::Hops(hops),
        (_, Some(Forward::Paths(hops))) => Resolution::Hops(hops),
        (_, Some(Forward::Link(link))) => Resolution::Hops([Hop { gateway: address, link }].into()),
        _ => Resolution::Unreachable,
    }
}
