//! Writes operations as netlink messages.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::libc;

use crate::model::{Forward, Hop, NexthopTo, Op, PROTOCOL, RouteKey};

use super::decode::{
    NHA_GATEWAY, NHA_GROUP, NHA_ID, NHA_OIF, RTA_NH_ID, RTA_VIA, RTM_DELNEXTHOP, RTM_NEWNEXTHOP,
};
use super::request::{Attributes, Batch};

/// Appends the message that carries out `op`.
pub(super) fn op(batch: &mut Batch, op: &Op) {
    match op {
        Op::PutNexthop { id, to, replace } => put_nexthop(batch, *id, to, creation(*replace)),
        Op::DeleteNexthop { id } => batch.push(RTM_DELNEXTHOP, 0, &[0; 8], |attributes| {
            attributes.put_u32(NHA_ID, *id);
        }),
        Op::PutRoute { key, forward, source, replace } => {
            put_route(batch, key, forward, *source, creation(*replace));
        }
        Op::DeleteRoute { key } => {
            // Any scope and any type, but only ours.
            let body = route_body(key, PROTOCOL, libc::RT_SCOPE_NOWHERE, libc::RTN_UNSPEC);
            batch.push(libc::RTM_DELROUTE, 0, &body, |attributes| put_key(attributes, key));
        }
    }
}

fn creation(replace: bool) -> i32 {
    libc::NLM_F_CREATE | if replace { libc::NLM_F_REPLACE } else { libc::NLM_F_EXCL }
}

fn put_nexthop(batch: &mut Batch, id: u32, to: &NexthopTo, flags: i32) {
    let family = match to {
        NexthopTo::Hop(hop) => family(hop.gateway),
        NexthopTo::Group(_) | NexthopTo::Other => libc::AF_UNSPEC as u8,
    };
    let body = [family, libc::RT_SCOPE_UNIVERSE, PROTOCOL, 0, 0, 0, 0, 0];
    batch.push(RTM_NEWNEXTHOP, flags, &body, |attributes| {
        attributes.put_u32(NHA_ID, id);
        match to {
            NexthopTo::Hop(hop) => {
                attributes.put_u32(NHA_OIF, hop.link).put_ip(NHA_GATEWAY, hop.gateway);
            }
            NexthopTo::Group(members) => {
                let entries: Vec<u8> = members.iter().flat_map(|id| group_entry(*id)).collect();
                attributes.put(NHA_GROUP, &entries);
            }
            NexthopTo::Other => {}
        }
    });
}

/// `struct nexthop_grp` with weight 1, which is written 0.
fn group_entry(id: u32) -> [u8; 8] {
    let [a, b, c, d] = id.to_ne_bytes();
    [a, b, c, d, 0, 0, 0, 0]
}

fn put_route(batch: &mut Batch, key: &RouteKey, forward: &Forward, source: Option<IpAddr>, flags: i32) {
    let (scope, kind) = match forward {
        Forward::Blackhole => (libc::RT_SCOPE_UNIVERSE, libc::RTN_BLACKHOLE),
        Forward::Link(_) if key.dst.is_ipv4() => (libc::RT_SCOPE_LINK, libc::RTN_UNICAST),
        _ => (libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST),
    };
    batch.push(libc::RTM_NEWROUTE, flags, &route_body(key, PROTOCOL, scope, kind), |attributes| {
        put_key(attributes, key);
        if let Some(source) = source {
            attributes.put_ip(libc::RTA_PREFSRC, source);
        }
        match forward {
            Forward::Nexthop(id) => {
                attributes.put_u32(RTA_NH_ID, *id);
            }
            Forward::Paths(hops) => put_paths(attributes, key, hops),
            Forward::Link(index) => {
                attributes.put_u32(libc::RTA_OIF, *index);
            }
            Forward::Blackhole | Forward::Other => {}
        }
    });
}

fn put_paths(attributes: &mut Attributes<'_>, key: &RouteKey, hops: &BTreeSet<Hop>) {
    if let (1, Some(hop)) = (hops.len(), hops.first()) {
        attributes.put_u32(libc::RTA_OIF, hop.link);
        put_gateway(attributes, key, hop.gateway);
        return;
    }
    attributes.nest(libc::RTA_MULTIPATH, |attributes| {
        for hop in hops {
            attributes.put_rtnexthop(hop.link, |attributes| put_gateway(attributes, key, hop.gateway));
        }
    });
}

fn put_gateway(attributes: &mut Attributes<'_>, key: &RouteKey, gateway: IpAddr) {
    match gateway {
        IpAddr::V6(address) if key.dst.is_ipv4() => {
            let mut via = (libc::AF_INET6 as u16).to_ne_bytes().to_vec();
            via.extend_from_slice(&address.octets());
            attributes.put(RTA_VIA, &via);
        }
        _ => {
            attributes.put_ip(libc::RTA_GATEWAY, gateway);
        }
    }
}

fn put_key(attributes: &mut Attributes<'_>, key: &RouteKey) {
    attributes.put_ip(libc::RTA_DST, key.dst.ip()).put_u32(libc::RTA_PRIORITY, key.metric);
    if u8::try_from(key.table).is_err() {
        attributes.put_u32(libc::RTA_TABLE, key.table);
    }
}

/// `struct rtmsg`.
fn route_body(key: &RouteKey, protocol: u8, scope: u8, kind: u8) -> [u8; 12] {
    let table = u8::try_from(key.table).unwrap_or(libc::RT_TABLE_UNSPEC);
    [family(key.dst.ip()), key.dst.prefix(), 0, 0, table, protocol, scope, kind, 0, 0, 0, 0]
}

/// `AF_INET` or `AF_INET6`.
pub(super) fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}
