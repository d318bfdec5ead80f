//! Ethernet frames as an attacker writes them, octet by octet, and a socket that sends them.

#![expect(clippy::disallowed_methods, reason = "an attack needs a socket")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use manx_kernel::names::Mac;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, send, socket,
};

pub(crate) const IP: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
pub(crate) const DESTINATION_OPTIONS: u8 = 60;
const FRAGMENT: u8 = 44;

/// Sends frames by a link as they are.
pub(crate) struct Wire(OwnedFd);

impl Wire {
    /// Opens the link of this name in the namespace of the calling thread.
    pub(crate) fn open(link: &str) -> Self {
        let protocol = SockProtocol::EthAll;
        let fd =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).expect("a socket");
        let mut addresses = getifaddrs().expect("the links").filter(|entry| entry.interface_name == link);
        let place: LinkAddr =
            addresses.find_map(|entry| entry.address?.as_link_addr().copied()).expect("the link is there");
        bind(fd.as_raw_fd(), &place).expect("the link is up");
        Self(fd)
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        // A queue that is full says so.
        while send(self.0.as_raw_fd(), frame, MsgFlags::empty()) == Err(nix::errno::Errno::ENOBUFS) {}
    }
}

pub(crate) fn v4(text: &str) -> Ipv4Addr {
    text.parse().expect("an IPv4 address")
}

pub(crate) fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("an IPv6 address")
}

/// A frame; a kind below 1536 is a length.
pub(crate) fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &kind.to_be_bytes(), payload].concat()
}

/// The same frame with a tag of this kind and number behind the addresses.
pub(crate) fn tagged(frame: &[u8], kind: u16, number: u16) -> Vec<u8> {
    [&frame[..12], &kind.to_be_bytes(), &number.to_be_bytes(), &frame[12..]].concat()
}

/// An ARP message: 1 asks, 2 answers.
pub(crate) fn arp(operation: u16, mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4];
    let [high, low] = operation.to_be_bytes();
    [&head[..], &[high, low], &mac.0, &sender.octets(), &[0; 6], &target.octets()].concat()
}

/// An IPv4 packet; `fragment` is the field of flags and offset.
pub(crate) fn ipv4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    fragment: u16,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let words = 5 + options.len() / 4;
    let length = u16::try_from(words * 4 + payload.len()).expect("short");
    let mut header = vec![0x40 | words as u8, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 7]);
    header.extend(fragment.to_be_bytes());
    header.extend([255, UDP, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    header.extend(options);
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum);
    [header, payload.to_vec()].concat()
}

/// An IPv6 packet with hop limit 255; `next` is what the payload begins with.
pub(crate) fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(payload.len()).expect("short").to_be_bytes();
    let head = [0x60, 0, 0, 0, high, low, next, 255];
    [&head[..], &source.octets(), &destination.octets(), payload].concat()
}

/// A UDP datagram between these ports.
pub(crate) fn udp(source: IpAddr, destination: IpAddr, ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).expect("short");
    let mut datagram = [ports.0.to_be_bytes(), ports.1.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    datagram.extend(data);
    let sum = checksum(&[&pseudo_header(source, destination, UDP, &datagram), &datagram]);
    datagram[6..8].copy_from_slice(&sum);
    datagram
}

/// An ICMPv6 message with a right checksum.
pub(crate) fn icmpv6(source: Ipv6Addr, destination: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0], body].concat();
    let pseudo = pseudo_header(source.into(), destination.into(), ICMPV6, &message);
    let sum = checksum(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&sum);
    message
}

/// What follows the checksum of a neighbour solicitation (option 1) or advertisement (option 2).
pub(crate) fn neighbour(target: Ipv6Addr, option: u8, mac: Mac) -> Vec<u8> {
    let flags = if option == 2 { [0x60, 0, 0, 0] } else { [0; 4] };
    [&flags[..], &target.octets(), &[option, 1], &mac.0].concat()
}

/// What follows the checksum of a router advertisement: a default router for half an hour, and a prefix for addresses.
pub(crate) fn router_advertisement(prefix: Ipv6Addr) -> Vec<u8> {
    let mut body = vec![64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    body.extend([3, 4, 64, 0xc0, 0, 0, 7, 8, 0, 0, 7, 8, 0, 0, 0, 0]);
    body.extend(prefix.octets());
    body
}

/// A header of hop-by-hop options that say nothing, before what `next` names; the kind that leads here is 0.
pub(crate) fn behind_hop_by_hop(next: u8, payload: &[u8]) -> (u8, Vec<u8>) {
    (HOP_BY_HOP, [&[next, 0, 1, 4, 0, 0, 0, 0], payload].concat())
}

/// A header of destination options that say nothing.
pub(crate) fn behind_destination_options(next: u8, payload: &[u8]) -> (u8, Vec<u8>) {
    (DESTINATION_OPTIONS, [&[next, 0, 1, 4, 0, 0, 0, 0], payload].concat())
}

/// A fragment header: offset in units of eight octets, and whether more follow.
pub(crate) fn fragment(next: u8, offset: u16, more: bool, payload: &[u8]) -> (u8, Vec<u8>) {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    (FRAGMENT, [&[next, 0, high, low, 0, 0, 0, 9], payload].concat())
}

fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let octets = |address| match address {
        IpAddr::V4(address) => Ipv4Addr::octets(&address).to_vec(),
        IpAddr::V6(address) => Ipv6Addr::octets(&address).to_vec(),
    };
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [octets(source), octets(destination), length.to_vec(), vec![0, 0, 0, protocol]].concat()
}

/// RFC 1071.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let octets = parts.concat();
    let mut sum: u32 = octets
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
