//! Links with their counters, addresses and neighbours, out of netlink messages.

use ipnetwork::IpNetwork;
use manx_facts::kernel::{Address, Counters, Link, Neighbour, NeighbourState};
use manx_kernel::names::Mac;
use manx_kernel::netlink::request::{Batch, Message, attribute, read_ip, read_str, read_u32};
use manx_kernel::netlink::socket::{Socket, SocketError};
use nix::libc;

use super::programs;

const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_STATS64: u16 = 23;
const IFA_FLAGS: u16 = 8;
const IFA_F_TENTATIVE: u32 = 0x40;
const IFA_F_DADFAILED: u32 = 0x08;

/// Every link.
pub(super) fn links(socket: &mut Socket) -> Result<Vec<Link>, SocketError> {
    let mut request = Batch::of(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; 16], |_| {});
    Ok(socket.dump(&mut request)?.iter().filter_map(|message| link(&message)).collect())
}

/// Every address.
pub(super) fn addresses(socket: &mut Socket) -> Result<Vec<Address>, SocketError> {
    let mut request = Batch::of(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; 8], |_| {});
    Ok(socket.dump(&mut request)?.iter().filter_map(|message| address(&message)).collect())
}

/// Every neighbour of IPv4 and IPv6.
pub(super) fn neighbours(socket: &mut Socket) -> Result<Vec<Neighbour>, SocketError> {
    let mut request = Batch::of(libc::RTM_GETNEIGH, libc::NLM_F_DUMP, &[0; 12], |_| {});
    Ok(socket.dump(&mut request)?.iter().filter_map(|message| neighbour(&message)).collect())
}

fn link(message: &Message<'_>) -> Option<Link> {
    let body: [u8; 16] = message.body().filter(|_| message.kind == libc::RTM_NEWLINK)?;
    // Messages about bridge ports and the like are of another family.
    if i32::from(body[0]) != libc::AF_UNSPEC {
        return None;
    }
    let flags = read_u32(&body[8..])?;
    let has = |flag: i32| flags & flag.cast_unsigned() != 0;
    let mut link = Link {
        index: read_u32(&body[4..])?,
        up: has(libc::IFF_UP),
        carrier: has(libc::IFF_LOWER_UP),
        ..Link::default()
    };
    for (kind, value) in message.attributes(16) {
        match kind {
            libc::IFLA_IFNAME => link.name = read_str(value),
            libc::IFLA_IFALIAS => link.alias = Some(read_str(value)),
            libc::IFLA_GROUP => link.group = read_u32(value)?,
            libc::IFLA_ADDRESS => link.mac = mac(value),
            libc::IFLA_MTU => link.mtu = read_u32(value)?,
            libc::IFLA_LINK => link.peer_index = read_u32(value).filter(|index| *index != 0),
            libc::IFLA_LINK_NETNSID => link.peer_namespace = read_u32(value).map(u32::cast_signed),
            IFLA_MASTER => link.master = read_u32(value),
            IFLA_LINKINFO => {
                link.kind = attribute(value, IFLA_INFO_KIND).map(read_str);
            }
            IFLA_STATS64 => link.counters = counters(value),
            kind => link.programs.extend(programs::xdp(kind, value)),
        }
    }
    Some(link)
}

/// Reads `struct rtnl_link_stats64`.
fn counters(value: &[u8]) -> Counters {
    let at = |place: usize| {
        let octets = value.get(place * 8..).and_then(|rest| rest.first_chunk());
        octets.map_or(0, |octets| u64::from_ne_bytes(*octets))
    };
    Counters {
        rx_packets: at(0),
        tx_packets: at(1),
        rx_bytes: at(2),
        tx_bytes: at(3),
        rx_errors: at(4),
        tx_errors: at(5),
        rx_dropped: at(6),
        tx_dropped: at(7),
    }
}

fn mac(value: &[u8]) -> Option<String> {
    value.try_into().ok().map(|octets| Mac(octets).to_string())
}

fn address(message: &Message<'_>) -> Option<Address> {
    let body: [u8; 8] = message.body().filter(|_| message.kind == libc::RTM_NEWADDR)?;
    let (mut local, mut other, mut flags) = (None, None, u32::from(body[2]));
    for (kind, value) in message.attributes(8) {
        match kind {
            libc::IFA_LOCAL => local = read_ip(value),
            // On a point-to-point link this is the other end's.
            libc::IFA_ADDRESS => other = read_ip(value),
            IFA_FLAGS => flags = read_u32(value)?,
            _ => {}
        }
    }
    Some(Address {
        link: read_u32(&body[4..])?,
        address: IpNetwork::new(local.or(other)?, body[1]).ok()?,
        tentative: flags & IFA_F_TENTATIVE != 0,
        duplicate: flags & IFA_F_DADFAILED != 0,
    })
}

fn neighbour(message: &Message<'_>) -> Option<Neighbour> {
    let body: [u8; 12] = message.body().filter(|_| message.kind == libc::RTM_NEWNEIGH)?;
    if !matches!(i32::from(body[0]), libc::AF_INET | libc::AF_INET6) {
        return None;
    }
    let of_kind = |wanted| message.attribute(12, wanted);
    Some(Neighbour {
        link: read_u32(&body[4..])?,
        address: read_ip(of_kind(libc::NDA_DST)?)?,
        mac: of_kind(libc::NDA_LLADDR).and_then(mac),
        state: match u16::from_ne_bytes([body[8], body[9]]) {
            libc::NUD_INCOMPLETE => NeighbourState::Incomplete,
            libc::NUD_REACHABLE => NeighbourState::Reachable,
            libc::NUD_STALE => NeighbourState::Stale,
            libc::NUD_DELAY => NeighbourState::Delay,
            libc::NUD_PROBE => NeighbourState::Probe,
            libc::NUD_FAILED => NeighbourState::Failed,
            libc::NUD_NOARP => NeighbourState::Noarp,
            libc::NUD_PERMANENT => NeighbourState::Permanent,
            _ => NeighbourState::None,
        },
    })
}
