//! Socket options that neither socket2 nor nix names: TTL security (RFC 5082) and TCP MD5 (RFC 2385).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::setsockopt;
use zeroize::Zeroize;

use crate::node::secret::{KEY_OCTETS_MAX, Key};

mod raw {
    //! The options as the kernel numbers them.
    use nix::{getsockopt_impl, libc, setsockopt_impl, sockopt_impl};

    sockopt_impl!(
        /// The least TTL of a packet that is taken (GTSM, RFC 5082 §3).
        MinTtl, Both, libc::IPPROTO_IP, libc::IP_MINTTL, i32);
    sockopt_impl!(
        /// The least hop limit of a packet that is taken (GTSM, RFC 5082 §3).
        MinHops, Both, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, i32);
    /// `ICMPV6_FILTER` of Linux.
    const ICMPV6_FILTER: i32 = 1;
    sockopt_impl!(
        /// The types of ICMPv6 that are not heard, a bit for each.
        IcmpFilter, SetOnly, libc::IPPROTO_ICMPV6, ICMPV6_FILTER, [u32; 8]);
    sockopt_impl!(
        /// A key for the peers of a network (RFC 2385); one of no octets takes it away.
        Md5, SetOnly, libc::IPPROTO_TCP, libc::TCP_MD5SIG_EXT, super::Md5Key);
}

/// Lets a raw ICMPv6 socket hear these types and no others (RFC 3542 §3.2).
///
/// # Errors
/// When the kernel refuses.
pub(super) fn only_icmp(socket: &impl AsFd, types: &[u8]) -> io::Result<()> {
    let mut blocked = [u32::MAX; 8];
    for kind in types {
        blocked[usize::from(kind >> 5)] &= !(1 << (kind & 31));
    }
    setsockopt(socket, raw::IcmpFilter, &blocked).map_err(io::Error::from)
}

/// Sets the least TTL or hop limit that is taken; 0 takes all.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn set_min_ttl(socket: &impl AsFd, remote: SocketAddr, least: u8) -> io::Result<()> {
    let least = i32::from(least);
    let set = if remote.is_ipv6() {
        setsockopt(socket, raw::MinHops, &least)
    } else {
        setsockopt(socket, raw::MinTtl, &least)
    };
    set.map_err(io::Error::from)
}

/// The flag by which the length of a prefix counts.
const FLAG_PREFIX: u8 = 1;

/// `struct tcp_md5sig` of Linux. Its first 128 octets are a `struct sockaddr_storage`.
#[derive(Clone)]
#[repr(C, align(8))]
#[expect(unreachable_pub, reason = "the macro that makes an option of it wants it public")]
pub struct Md5Key {
    family: libc::sa_family_t,
    address: [u8; 126],
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    link: i32,
    key: [u8; KEY_OCTETS_MAX],
}

const _: () = assert!(size_of::<Md5Key>() == 216 && std::mem::offset_of!(Md5Key, key) == 136);

impl Md5Key {
    fn new((address, prefix_length): (IpAddr, u8), key: &[u8]) -> Option<Self> {
        let mut option = Self {
            family: 0,
            address: [0; 126],
            flags: FLAG_PREFIX,
            prefix_length,
            key_length: u16::try_from(key.len()).ok()?,
            link: 0,
            key: [0; KEY_OCTETS_MAX],
        };
        // The port comes first; an IPv6 address has its flow label before it.
        match address {
            IpAddr::V4(address) => {
                option.family = libc::AF_INET as libc::sa_family_t;
                option.address[2..6].copy_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                option.family = libc::AF_INET6 as libc::sa_family_t;
                option.address[6..22].copy_from_slice(&address.octets());
            }
        }
        option.key.get_mut(..key.len())?.copy_from_slice(key);
        Some(option)
    }
}

impl Drop for Md5Key {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// Sets the key for segments from and to these addresses, or takes it away. It counts from the next segment on, on
/// listening, connecting and connected sockets alike; there is one key for a network at a time.
///
/// # Errors
/// When the kernel refuses: one without TCP MD5, or (before Linux 5.8) on a connection.
pub(super) fn set_key(socket: &impl AsFd, peers: (IpAddr, u8), key: Option<&Key>) -> io::Result<()> {
    let octets = key.map(Key::octets).unwrap_or_default();
    let option = Md5Key::new(peers, octets).ok_or(io::ErrorKind::InvalidInput)?;
    match setsockopt(socket, raw::Md5, &option) {
        // There was none.
        Err(Errno::ENOENT) if key.is_none() => Ok(()),
        set => set.map_err(io::Error::from),
    }
}

/// The network of one address.
pub(super) fn only(address: IpAddr) -> (IpAddr, u8) {
    (address, if address.is_ipv4() { 32 } else { 128 })
}
