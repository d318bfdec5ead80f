//! Reads routes, next-hop objects, links and addresses out of netlink messages.
//!
//! What a message says beyond the model makes a route or an object `Other`, which is to say: not as we would
//! have made it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use nix::libc;

#[cfg(any(feature = "async", test))]
use crate::model::Event;
use crate::model::{Address, Forward, Hop, KernelRoute, Link, Nexthop, NexthopTo, RouteKey};

use super::request::{Message, read_ip, read_str, read_u32};

/// Octets of `struct rtmsg`.
pub(super) const ROUTE_BODY: usize = 12;
/// Octets of `struct ifinfomsg`.
pub(super) const LINK_BODY: usize = 16;
/// Octets of `struct ifaddrmsg`.
pub(super) const ADDRESS_BODY: usize = 8;
/// Octets of `struct nhmsg`.
pub(super) const NEXTHOP_BODY: usize = 8;

pub(super) const RTM_NEWNEXTHOP: u16 = 104;
pub(super) const RTM_DELNEXTHOP: u16 = 105;
pub(super) const RTM_GETNEXTHOP: u16 = 106;
pub(super) const RTA_NH_ID: u16 = 30;
/// A next hop of another family than the route's; `libc` has it for glibc alone.
pub(super) const RTA_VIA: u16 = 18;
pub(super) const NHA_ID: u16 = 1;
pub(super) const NHA_GROUP: u16 = 2;
pub(super) const NHA_OIF: u16 = 5;
pub(super) const NHA_GATEWAY: u16 = 6;
const NHA_GROUP_TYPE: u16 = 3;
const NHA_BLACKHOLE: u16 = 4;
const NHA_ENCAP: u16 = 8;
const NHA_FDB: u16 = 11;
const RTA_ENCAP: u16 = 22;

/// Reads a notification; `None` if it is of no interest.
#[cfg(any(feature = "async", test))]
pub(super) fn event(message: &Message<'_>) -> Option<Event> {
    Some(match message.kind {
        libc::RTM_NEWLINK => Event::Link(link(message)?),
        libc::RTM_DELLINK => Event::LinkGone(link(message)?.index),
        libc::RTM_NEWADDR => Event::Address(address(message)?),
        libc::RTM_DELADDR => Event::AddressGone(address(message)?),
        libc::RTM_NEWROUTE => {
            Event::Route { route: route(message)?, replaced: message.flags & libc::NLM_F_REPLACE as u16 != 0 }
        }
        libc::RTM_DELROUTE => Event::RouteGone(route(message)?),
        RTM_NEWNEXTHOP => Event::Nexthop(nexthop(message)?),
        RTM_DELNEXTHOP => Event::NexthopGone(nexthop(message)?.id),
        _ => return None,
    })
}

/// Reads `RTM_NEWLINK`; messages about bridge ports and the like (another family) are not links.
pub(super) fn link(message: &Message<'_>) -> Option<Link> {
    let body: [u8; LINK_BODY] = message.body()?;
    if i32::from(body[0]) != libc::AF_UNSPEC {
        return None;
    }
    let flags = read_u32(&body[8..])?;
    let mut link = Link {
        index: read_u32(&body[4..])?,
        name: String::new(),
        up: flags & libc::IFF_UP as u32 != 0,
        carrier: flags & libc::IFF_LOWER_UP as u32 != 0,
        mtu: 0,
        alias: None,
    };
    for (kind, value) in message.attributes(LINK_BODY) {
        match kind {
            libc::IFLA_IFNAME => link.name = read_str(value),
            libc::IFLA_MTU => link.mtu = read_u32(value)?,
            libc::IFLA_IFALIAS => link.alias = Some(read_str(value)),
            _ => {}
        }
    }
    Some(link)
}

/// Reads `RTM_NEWADDR`.
pub(super) fn address(message: &Message<'_>) -> Option<Address> {
    let body: [u8; ADDRESS_BODY] = message.body()?;
    let (mut local, mut remote) = (None, None);
    for (kind, value) in message.attributes(ADDRESS_BODY) {
        match kind {
            libc::IFA_LOCAL => local = read_ip(value),
            // On a point-to-point link this is the other end.
            libc::IFA_ADDRESS => remote = read_ip(value),
            _ => {}
        }
    }
    let address = IpNetwork::new(local.or(remote)?, body[1]).ok()?;
    Some(Address { link: read_u32(&body[4..])?, address })
}

/// Reads `RTM_NEWNEXTHOP`.
pub(super) fn nexthop(message: &Message<'_>) -> Option<Nexthop> {
    let body: [u8; NEXTHOP_BODY] = message.body()?;
    let (mut id, mut group, mut gateway, mut link, mut strange) = (None, None, None, None, false);
    for (kind, value) in message.attributes(NEXTHOP_BODY) {
        match kind {
            NHA_ID => id = read_u32(value),
            NHA_GROUP => group = Some(group_members(value)),
            NHA_OIF => link = read_u32(value),
            NHA_GATEWAY => gateway = read_ip(value),
            NHA_BLACKHOLE | NHA_ENCAP | NHA_FDB => strange = true,
            NHA_GROUP_TYPE => strange |= value.iter().any(|&octet| octet != 0),
            _ => {}
        }
    }
    let to = match (strange, group, gateway, link) {
        (false, Some(Some(members)), _, _) => NexthopTo::Group(members),
        (false, None, Some(gateway), Some(link)) => NexthopTo::Hop(Hop { gateway, link }),
        _ => NexthopTo::Other,
    };
    Some(Nexthop { id: id?, protocol: body[2], to })
}

/// The ids in an array of `struct nexthop_grp`, or `None` if one weighs more than another could.
fn group_members(value: &[u8]) -> Option<BTreeSet<u32>> {
    value.chunks_exact(8).map(|entry| read_u32(entry).filter(|_| entry[4..8] == [0; 4])).collect()
}

/// Reads `RTM_NEWROUTE` or `RTM_DELROUTE`; `None` for cached routes and those that depend on more than the
/// destination, which never collide with ours.
pub(super) fn route(message: &Message<'_>) -> Option<KernelRoute> {
    let body: [u8; ROUTE_BODY] = message.body()?;
    let [family, dst_len, src_len, tos, table, protocol, _scope, kind, flags @ ..] = body;
    if u32::from_ne_bytes(flags) & libc::RTM_F_CLONED != 0 || src_len != 0 || tos != 0 {
        return None;
    }
    let unspecified: IpAddr = match i32::from(family) {
        libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut parts = RouteParts { table: u32::from(table), ..RouteParts::default() };
    for (kind, value) in message.attributes(ROUTE_BODY) {
        parts.take(kind, value);
    }
    let dst = IpNetwork::new(parts.dst.unwrap_or(unspecified), dst_len).ok()?;
    let key = RouteKey { table: parts.table, dst, metric: parts.metric };
    Some(KernelRoute { key, protocol, forward: parts.forward(kind), source: parts.source })
}

#[derive(Default)]
struct RouteParts {
    table: u32,
    dst: Option<IpAddr>,
    metric: u32,
    source: Option<IpAddr>,
    nexthop: Option<u32>,
    link: Option<u32>,
    gateway: Option<IpAddr>,
    paths: Option<Option<BTreeSet<Hop>>>,
    strange: bool,
}

impl RouteParts {
    fn take(&mut self, kind: u16, value: &[u8]) {
        match kind {
            libc::RTA_TABLE => self.table = read_u32(value).unwrap_or(self.table),
            libc::RTA_DST => self.dst = read_ip(value),
            libc::RTA_PRIORITY => self.metric = read_u32(value).unwrap_or_default(),
            libc::RTA_PREFSRC => self.source = read_ip(value),
            libc::RTA_OIF => self.link = read_u32(value),
            libc::RTA_GATEWAY => self.gateway = read_ip(value),
            RTA_VIA => self.gateway = read_via(value),
            libc::RTA_MULTIPATH => self.paths = Some(read_multipath(value)),
            RTA_NH_ID => self.nexthop = read_u32(value),
            RTA_ENCAP => self.strange = true,
            _ => {}
        }
    }

    fn forward(&self, kind: u8) -> Forward {
        match kind {
            libc::RTN_BLACKHOLE => return Forward::Blackhole,
            libc::RTN_UNICAST if !self.strange => {}
            _ => return Forward::Other,
        }
        match (self.nexthop, &self.paths, self.gateway, self.link) {
            (Some(id), ..) => Forward::Nexthop(id),
            (None, Some(paths), ..) => paths.clone().map_or(Forward::Other, Forward::Paths),
            (None, None, Some(gateway), Some(link)) => Forward::Paths([Hop { gateway, link }].into()),
            (None, None, None, Some(link)) => Forward::Link(link),
            _ => Forward::Other,
        }
    }
}

/// Reads `struct rtvia`: a gateway of another family than the destination.
fn read_via(value: &[u8]) -> Option<IpAddr> {
    read_ip(value.get(2..)?)
}

/// Reads an array of `struct rtnexthop` with attributes; `None` if it is not an even split over gateways.
fn read_multipath(value: &[u8]) -> Option<BTreeSet<Hop>> {
    let mut hops = BTreeSet::new();
    let mut rest = value;
    while let Some(head) = rest.first_chunk::<8>() {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let entry = rest.get(8..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        let gateway = super::request::attributes(entry).find_map(|(kind, value)| match kind {
            libc::RTA_GATEWAY => read_ip(value),
            RTA_VIA => read_via(value),
            _ => None,
        });
        let even = head[3] == 0;
        hops.insert(Hop { gateway: gateway.filter(|_| even)?, link: read_u32(&head[4..])? });
    }
    Some(hops)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(
            kind in prop_oneof![16..26u16, 104..106u16],
            payload in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            let _ = event(&Message { kind, flags: 0, sequence: 0, port: 0, payload: &payload });
        }
    }
}
