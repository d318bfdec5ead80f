//! A pod's link as a plan: the netlink requests that make it, and nothing that sends them.
//!
//! ```text
//!  pod                                            node
//!  eth0  10.244.3.7/32  fd00:10:244::307/128      cali0123456789a  fe80::ecee:eeff:feee:eeee
//!   169.254.1.1 and fe80::ecee… are neighbours     10.244.3.7 and fd00:10:244::307 are neighbours
//!   default via 169.254.1.1, via fe80::ecee…       10.244.3.7/32 and fd00:10:244::307/128 on this link
//! ```
//!
//! Three batches make it. [`PodLink::create`] makes the pair with its other end already in the pod: moving a link
//! between namespaces afterwards would cost a grace period of the kernel under its lock, some 16 ms. Both ends have
//! one queue, since more cost another grace period, and are down: an end that is up while its peer is not shows the
//! same price to whoever looks at it. [`PodLink::inside`] then sets up the pod's end and [`PodLink::outside`] the
//! host's. Permanent neighbours carry the traffic, so that a pod's first packet waits for nobody, and neither proxy
//! ARP nor a default route of the node is needed; proxy ARP stays on beneath for whoever asks.
//!
//! The last two may be repeated at any time: they repair as well as they make. Only routes are not simply replaced,
//! since one to the same destination may be somebody else's; [`Existing`] says what to do then.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnetwork::IpNetwork;
use nix::libc;

use crate::model::{PROTOCOL, RouteKey};
use crate::names::{GATEWAY_V4, HOST_LINK_LOCAL, HOST_MAC, LINK_GROUP, Mac, alias};
use crate::netlink::request::{Attributes, Batch};

const VETH_INFO_PEER: u16 = 1;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_EUI64: u8 = 0;
const NDTA_NAME: u16 = 1;
const NDTPA_IFINDEX: u16 = 1;
const NDTA_PARMS: u16 = 6;
const NDTPA_PROXY_DELAY: u16 = 13;

/// IPv4 settings of a host end, by their number in `IFLA_INET_CONF`.
mod inet_conf {
    pub(super) const FORWARDING: u16 = 1;
    pub(super) const PROXY_ARP: u16 = 3;
    pub(super) const ACCEPT_REDIRECTS: u16 = 4;
    pub(super) const SEND_REDIRECTS: u16 = 6;
    pub(super) const RP_FILTER: u16 = 8;
}

/// Everything that there is to know about a pod's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLink {
    /// The container id; part of the alias.
    pub container: String,
    /// Name of the pod's end.
    pub ifname: String,
    /// Name of the host's end.
    pub link: String,
    /// The pod's addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// MTU of both ends in bytes.
    pub mtu: u32,
    /// Hardware address of the pod's end.
    pub mac: Mac,
}

/// What to do with a route that exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Fail, so that whose route it is can be found out.
    Refuse,
    /// Put ours in its place.
    Replace,
}

impl PodLink {
    /// The request that makes both ends, the pod's in `netns`. Echoed by kernels from 6.2 on.
    pub fn create(&self, netns: BorrowedFd<'_>) -> Batch {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_ECHO;
        let netns = u32::try_from(netns.as_raw_fd()).expect("an open descriptor is not negative");
        Batch::of(libc::RTM_NEWLINK, flags, &link_body(0, 0, 0), |end| {
            self.put_end(end, &self.link, HOST_MAC);
            end.put_u32(libc::IFLA_GROUP, LINK_GROUP);
            end.nest(libc::IFLA_LINKINFO, |info| {
                info.put_str(libc::IFLA_INFO_KIND, "veth");
                info.nest(libc::IFLA_INFO_DATA, |data| {
                    data.nest_after(VETH_INFO_PEER, &link_body(0, 0, 0), |peer| {
                        self.put_end(peer, &self.ifname, self.mac);
                        peer.put_u32(libc::IFLA_NET_NS_FD, netns);
                    });
                });
            });
        })
    }

    fn put_end(&self, end: &mut Attributes<'_>, name: &str, mac: Mac) {
        // Given at birth, the address counts as set, and udev leaves it alone.
        end.put_str(libc::IFLA_IFNAME, name)
            .put(libc::IFLA_ADDRESS, &mac.0)
            .put_u32(libc::IFLA_MTU, self.mtu);
        end.put_u32(libc::IFLA_NUM_TX_QUEUES, 1).put_u32(libc::IFLA_NUM_RX_QUEUES, 1);
    }

    /// The requests to be sent inside the pod's namespace, where its end has this index.
    pub fn inside(&self, index: u32, existing: Existing) -> Batch {
        let mut batch = Batch::new();
        batch.push(libc::RTM_SETLINK, 0, &link_body(index, UP, UP), |end| {
            end.put_u32(libc::IFLA_MTU, self.mtu);
        });
        for &address in &self.addresses {
            let gateway = gateway(address);
            put_address(&mut batch, index, address);
            if gateway.is_ipv4() {
                let on_link = RouteRequest { dst: Some(gateway), gateway: None, protocol: libc::RTPROT_BOOT };
                on_link.put(&mut batch, index, existing);
            }
            put_neighbour(&mut batch, index, gateway, HOST_MAC);
            let default = RouteRequest { dst: None, gateway: Some(gateway), protocol: libc::RTPROT_BOOT };
            default.put(&mut batch, index, existing);
        }
        batch
    }

    /// The requests to be sent on the host, where the link's end has this index.
    ///
    /// The settings come in a message of their own ahead of the one that brings the link up: within one message the
    /// kernel would do it the other way round, and the pod's first packets could meet a link without source check.
    pub fn outside(&self, index: u32, existing: Existing) -> Batch {
        let mut batch = Batch::new();
        batch.push(libc::RTM_SETLINK, 0, &link_body(index, 0, 0), |end| {
            end.put_str(libc::IFLA_IFALIAS, &alias(&self.container, &self.ifname));
            end.put_u32(libc::IFLA_MTU, self.mtu).put_u32(libc::IFLA_GROUP, LINK_GROUP);
            end.nest(libc::IFLA_AF_SPEC, |families| self.put_settings(families));
        });
        batch.push(libc::RTM_SETNEIGHTBL, 0, &[libc::AF_INET as u8, 0, 0, 0], |table| {
            table.put_str(NDTA_NAME, "arp_cache");
            table.nest(NDTA_PARMS, |parms| {
                parms.put_u32(NDTPA_IFINDEX, index).put(NDTPA_PROXY_DELAY, &0_u64.to_ne_bytes());
            });
        });
        batch.push(libc::RTM_SETLINK, 0, &link_body(index, UP, UP), |_| {});
        for &address in &self.addresses {
            put_neighbour(&mut batch, index, address, self.mac);
            let to_pod = RouteRequest { dst: Some(address), gateway: None, protocol: PROTOCOL };
            to_pod.put(&mut batch, index, existing);
        }
        batch
    }

    /// Destinations of the routes that [`PodLink::inside`] makes, with metric [`default_metric`].
    pub fn destinations_inside(&self) -> Vec<IpNetwork> {
        let per_family = |&address: &IpAddr| match address {
            IpAddr::V4(_) => vec![whole(GATEWAY_V4.into()), everywhere(address)],
            IpAddr::V6(_) => vec![everywhere(address)],
        };
        self.addresses.iter().flat_map(per_family).collect()
    }

    /// Destinations of the routes that [`PodLink::outside`] makes, with metric [`default_metric`].
    pub fn destinations_outside(&self) -> Vec<IpNetwork> {
        self.addresses.iter().copied().map(whole).collect()
    }

    fn put_settings(&self, families: &mut Attributes<'_>) {
        families.nest(libc::AF_INET as u16, |inet| {
            inet.nest(IFLA_INET_CONF, |conf| {
                conf.put_u32(inet_conf::FORWARDING, 1).put_u32(inet_conf::PROXY_ARP, 1);
                conf.put_u32(inet_conf::RP_FILTER, 1);
                conf.put_u32(inet_conf::ACCEPT_REDIRECTS, 0).put_u32(inet_conf::SEND_REDIRECTS, 0);
            });
        });
        // Only where it is needed: a kernel without IPv6 refuses the whole message.
        if self.addresses.iter().any(IpAddr::is_ipv6) {
            families.nest(libc::AF_INET6 as u16, |inet6| {
                inet6.put_u8(IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_MODE_EUI64);
            });
        }
    }
}

/// The gateway that a pod uses for the family of one of its addresses.
pub fn gateway(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { GATEWAY_V4.into() } else { HOST_LINK_LOCAL.into() }
}

/// The address as a network of one.
pub fn whole(address: IpAddr) -> IpNetwork {
    IpNetwork::from(address)
}

/// The destination of the default route of an address's family.
pub fn everywhere(of_family: IpAddr) -> IpNetwork {
    let (any, len): (IpAddr, u8) = match of_family {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), 0),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), 0),
    };
    IpNetwork::new(any, len).expect("no prefix is shorter than the length 0")
}

/// The metric that the kernel gives to a route that asks for none, as those of a pod's link do.
pub fn default_metric(dst: IpNetwork) -> u32 {
    RouteKey::main(dst, 0).metric
}

const UP: u32 = libc::IFF_UP as u32;

/// `struct ifinfomsg`: the flags in `change` become as they are in `flags`.
pub(crate) fn link_body(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..16].copy_from_slice(&change.to_ne_bytes());
    body
}

/// The family of an address as the kernel numbers it.
pub(crate) fn family(address: IpAddr) -> u8 {
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

/// Bits of a whole address.
pub(crate) fn host_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

const REPLACE: i32 = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;

/// The pod's address. Addresses are assigned uniquely, so there is no reason to probe for a second owner, which would keep an IPv6 address from use for a second.
fn put_address(batch: &mut Batch, index: u32, address: IpAddr) {
    let no_probe = if address.is_ipv6() { libc::IFA_F_NODAD as u8 } else { 0 };
    let mut body = [family(address), host_bits(address), no_probe, 0, 0, 0, 0, 0];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    batch.push(libc::RTM_NEWADDR, REPLACE, &body, |end| {
        end.put_ip(libc::IFA_LOCAL, address).put_ip(libc::IFA_ADDRESS, address);
    });
}

/// A neighbour that needs no resolution and is never forgotten.
fn put_neighbour(batch: &mut Batch, index: u32, address: IpAddr, mac: Mac) {
    let mut body = [0; 12];
    body[0] = family(address);
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..10].copy_from_slice(&libc::NUD_PERMANENT.to_ne_bytes());
    batch.push(libc::RTM_NEWNEIGH, REPLACE, &body, |end| {
        end.put_ip(libc::NDA_DST, address).put(libc::NDA_LLADDR, &mac.0);
    });
}

/// A route by a link: to one address or, without `dst`, to everywhere.
struct RouteRequest {
    dst: Option<IpAddr>,
    gateway: Option<IpAddr>,
    protocol: u8,
}

impl RouteRequest {
    fn put(&self, batch: &mut Batch, index: u32, existing: Existing) {
        let Some(of_family) = self.dst.or(self.gateway) else { return };
        let scope = if self.gateway.is_none() && of_family.is_ipv4() { libc::RT_SCOPE_LINK } else { 0 };
        let body = [
            family(of_family),
            self.dst.map_or(0, host_bits),
            0,
            0,
            libc::RT_TABLE_MAIN,
            self.protocol,
            scope,
            libc::RTN_UNICAST,
            0,
            0,
            0,
            0,
        ];
        let flags = match existing {
            Existing::Refuse => libc::NLM_F_CREATE | libc::NLM_F_EXCL,
            Existing::Replace => REPLACE,
        };
        batch.push(libc::RTM_NEWROUTE, flags, &body, |route| {
            if let Some(dst) = self.dst {
                route.put_ip(libc::RTA_DST, dst);
            }
            if let Some(gateway) = self.gateway {
                route.put_ip(libc::RTA_GATEWAY, gateway);
            }
            route.put_u32(libc::RTA_OIF, index);
        });
    }
}
