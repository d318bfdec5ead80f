//! Routes of all tables with their next-hop objects resolved, and rules, out of netlink messages.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use manx_facts::kernel::{Hop, Route, RouteKind, Rule, RuleAction};
use manx_kernel::netlink::request::{Batch, Message, attribute, attributes, read_ip, read_str, read_u32};
use manx_kernel::netlink::socket::{Socket, SocketError};
use nix::errno::Errno;
use nix::libc;

const RTM_GETNEXTHOP: u16 = 106;
const RTA_NH_ID: u16 = 30;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_BLACKHOLE: u16 = 4;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const DEAD: u32 = 0x1 | 0x10;
const ONLINK: u32 = 0x4;
const FIB_RULE_INVERT: u32 = 0x2;

/// What a next-hop object stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Object {
    Hop(Hop),
    Blackhole,
    Group(Vec<(u32, u32)>),
}

type Objects = BTreeMap<u32, Object>;

/// The routes of both families that hold one of `around` or lie in it, at most so many, and how many more there are.
pub(super) fn routes(
    socket: &mut Socket,
    around: &[IpNetwork],
    most: usize,
) -> Result<(Vec<Route>, u64), SocketError> {
    let objects = objects(socket)?;
    let (mut routes, mut left_out) = (Vec::new(), 0);
    for family in [libc::AF_INET, libc::AF_INET6] {
        let Some(replies) = dump(socket, libc::RTM_GETROUTE, family)? else { continue };
        for route in replies.iter().filter_map(|message| route(&message, &objects)) {
            if !around.is_empty() && !around.iter().any(|network| related(*network, route.dst)) {
                continue;
            }
            if routes.len() < most { routes.push(route) } else { left_out += 1 }
        }
    }
    Ok((routes, left_out))
}

/// Whether one of both holds the other.
fn related(one: IpNetwork, other: IpNetwork) -> bool {
    let (wide, narrow) = if one.prefix() <= other.prefix() { (one, other) } else { (other, one) };
    wide.contains(narrow.network())
}

/// The rules of both families, by priority.
pub(super) fn rules(socket: &mut Socket) -> Result<Vec<Rule>, SocketError> {
    let mut rules = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        if let Some(replies) = dump(socket, libc::RTM_GETRULE, family)? {
            rules.extend(replies.iter().filter_map(|message| rule(&message)));
        }
    }
    rules.sort_by_key(|rule: &Rule| (rule.ipv6, rule.priority));
    Ok(rules)
}

/// All of a kind and a family; `None` if this kernel has no such family.
fn dump(
    socket: &mut Socket,
    kind: u16,
    family: i32,
) -> Result<Option<manx_kernel::netlink::socket::Replies>, SocketError> {
    let mut body = [0; 12];
    body[0] = u8::try_from(family).expect("both families are small numbers");
    match socket.dump(&mut Batch::of(kind, libc::NLM_F_DUMP, &body, |_| {})) {
        Ok(replies) => Ok(Some(replies)),
        Err(SocketError::Refused(refusal)) if refusal.errno == Errno::EOPNOTSUPP => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every next-hop object; none of a kernel before Linux 5.3.
fn objects(socket: &mut Socket) -> Result<Objects, SocketError> {
    match socket.dump(&mut Batch::of(RTM_GETNEXTHOP, libc::NLM_F_DUMP, &[0; 8], |_| {})) {
        Ok(replies) => Ok(replies.iter().filter_map(|message| object(&message)).collect()),
        Err(SocketError::Refused(_)) => Ok(Objects::new()),
        Err(error) => Err(error),
    }
}

fn object(message: &Message<'_>) -> Option<(u32, Object)> {
    let body: [u8; 8] = message.body()?;
    let (mut id, mut object) = (None, None);
    let mut hop = Hop { weight: 1, ..Hop::default() };
    flag(&mut hop, read_u32(&body[4..])?);
    for (kind, value) in message.attributes(8) {
        match kind {
            NHA_ID => id = read_u32(value),
            NHA_OIF => hop.link = read_u32(value)?,
            NHA_GATEWAY => hop.gateway = read_ip(value),
            NHA_BLACKHOLE => object = Some(Object::Blackhole),
            NHA_GROUP => {
                let members = value.chunks_exact(8);
                let members = members.filter_map(|entry| Some((read_u32(entry)?, u32::from(entry[4]) + 1)));
                object = Some(Object::Group(members.collect()));
            }
            _ => {}
        }
    }
    Some((id?, object.unwrap_or(Object::Hop(hop))))
}

fn flag(hop: &mut Hop, flags: u32) {
    hop.dead = flags & DEAD != 0;
    hop.onlink = flags & ONLINK != 0;
}

/// The hops of an object, and whether it has packets vanish.
fn resolve(id: u32, objects: &Objects) -> (Vec<Hop>, bool) {
    match objects.get(&id) {
        None => (Vec::new(), false),
        Some(Object::Hop(hop)) => (vec![*hop], false),
        Some(Object::Blackhole) => (Vec::new(), true),
        // The kernel has no groups of groups.
        Some(Object::Group(members)) => {
            let member = |(id, weight): &(u32, u32)| match objects.get(id)? {
                Object::Hop(hop) => Some(Hop { weight: *weight, ..*hop }),
                _ => None,
            };
            (members.iter().filter_map(member).collect(), false)
        }
    }
}

fn route(message: &Message<'_>, objects: &Objects) -> Option<Route> {
    let body: [u8; 12] = message.body().filter(|_| message.kind == libc::RTM_NEWROUTE)?;
    let [family, length, _, _, table, protocol, scope, kind, ..] = body;
    let flags = read_u32(&body[8..])?;
    let everywhere: IpAddr = match i32::from(family) {
        libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut route = Route {
        dst: IpNetwork::new(everywhere, length).ok()?,
        table: u32::from(table),
        metric: 0,
        protocol,
        kind: kind_of(kind),
        hops: Vec::new(),
        nexthop: None,
        source: None,
        mtu: None,
        scope,
    };
    let mut only = Hop { weight: 1, ..Hop::default() };
    flag(&mut only, flags);
    for (kind, value) in message.attributes(12) {
        match kind {
            libc::RTA_DST => route.dst = IpNetwork::new(read_ip(value)?, length).ok()?,
            libc::RTA_TABLE => route.table = read_u32(value)?,
            libc::RTA_PRIORITY => route.metric = read_u32(value)?,
            libc::RTA_PREFSRC => route.source = read_ip(value),
            libc::RTA_METRICS => route.mtu = mtu(value),
            libc::RTA_OIF => only.link = read_u32(value)?,
            libc::RTA_GATEWAY => only.gateway = read_ip(value),
            RTA_VIA => only.gateway = read_via(value),
            libc::RTA_MULTIPATH => route.hops = read_multipath(value),
            RTA_NH_ID => route.nexthop = read_u32(value),
            _ => {}
        }
    }
    if let Some(id) = route.nexthop.filter(|id| objects.contains_key(id)) {
        let (hops, vanish) = resolve(id, objects);
        route.hops = hops;
        if vanish {
            route.kind = RouteKind::Blackhole;
        }
    } else if route.hops.is_empty() && only.link != 0 {
        route.hops = vec![only];
    }
    Some(route)
}

fn kind_of(kind: u8) -> RouteKind {
    match kind {
        libc::RTN_UNICAST => RouteKind::Unicast,
        libc::RTN_LOCAL => RouteKind::Local,
        libc::RTN_BROADCAST => RouteKind::Broadcast,
        libc::RTN_ANYCAST => RouteKind::Anycast,
        libc::RTN_MULTICAST => RouteKind::Multicast,
        libc::RTN_BLACKHOLE => RouteKind::Blackhole,
        libc::RTN_UNREACHABLE => RouteKind::Unreachable,
        libc::RTN_PROHIBIT => RouteKind::Prohibit,
        libc::RTN_THROW => RouteKind::Throw,
        _ => RouteKind::Other,
    }
}

fn mtu(metrics: &[u8]) -> Option<u32> {
    attribute(metrics, RTAX_MTU).and_then(read_u32)
}

/// Reads `struct rtvia`: a gateway of another family than the destination.
fn read_via(value: &[u8]) -> Option<IpAddr> {
    read_ip(value.get(2..)?)
}

/// Reads an array of `struct rtnexthop` with attributes.
fn read_multipath(value: &[u8]) -> Vec<Hop> {
    let mut hops = Vec::new();
    let mut rest = value;
    while let Some(head) = rest.first_chunk::<8>() {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let Some(entry) = rest.get(8..length) else { break };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        let gateway = attributes(entry).find_map(|(kind, value)| match kind {
            libc::RTA_GATEWAY => read_ip(value),
            RTA_VIA => read_via(value),
            _ => None,
        });
        let link = read_u32(&head[4..]).unwrap_or_default();
        let mut hop = Hop { gateway, link, weight: u32::from(head[3]) + 1, ..Hop::default() };
        flag(&mut hop, u32::from(head[2]));
        hops.push(hop);
    }
    hops
}

fn rule(message: &Message<'_>) -> Option<Rule> {
    let body: [u8; 12] = message.body().filter(|_| message.kind == libc::RTM_NEWRULE)?;
    let [family, to_length, from_length, tos, table, _, _, action, ..] = body;
    let mut rule = Rule {
        ipv6: i32::from(family) == libc::AF_INET6,
        table: u32::from(table),
        invert: read_u32(&body[8..])? & FIB_RULE_INVERT != 0,
        more: tos != 0,
        action: match action {
            1 => RuleAction::Table,
            2 => RuleAction::Goto,
            3 => RuleAction::Nop,
            6 => RuleAction::Blackhole,
            7 => RuleAction::Unreachable,
            8 => RuleAction::Prohibit,
            _ => RuleAction::Other,
        },
        ..Rule::default()
    };
    let network = |value, length| IpNetwork::new(read_ip(value)?, length).ok();
    // FRA_… of linux/fib_rules.h.
    for (kind, value) in message.attributes(12) {
        match kind {
            1 => rule.to = network(value, to_length),
            2 => rule.from = network(value, from_length),
            3 => rule.iif = Some(read_str(value)),
            4 => rule.goto = read_u32(value),
            6 => rule.priority = read_u32(value)?,
            10 => rule.mark = read_u32(value),
            // Minus one stands for any length.
            14 => rule.suppress_length = read_u32(value).filter(|length| *length <= 128),
            15 => rule.table = read_u32(value)?,
            16 => rule.mask = read_u32(value),
            17 => rule.oif = Some(read_str(value)),
            11 | 12 | 18 | 19 | 20 | 22..=24 => rule.more |= value.iter().any(|octet| *octet != 0),
            _ => {}
        }
    }
    Some(rule)
}
