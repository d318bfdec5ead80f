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

use crate::aside::{self, Aside};
use crate::model::{PROTOCOL, RouteKey};
use crate::names::{GATEWAY_V4, HOST_LINK_LOCAL, HOST_MAC, LINK_GROUP, Mac, alias};
use crate::netlink::request::{Attributes, Batch};
use crate::sysctl;

const VETH_INFO_PEER: u16 = 1;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_EUI64: u8 = 0;
/// The gateway counts as reachable though no route leads to it.
const RTNH_F_ONLINK: u32 = 4;
const NDTA_NAME: u16 = 1;
const NDTPA_IFINDEX: u16 = 1;
const NDTA_PARMS: u16 = 6;
const NDTPA_PROXY_DELAY: u16 = 13;

/// IPv6 settings of a host end that are 0 before it is up: the host believes nothing that a pod says about the
/// network, and does not probe for its own link-local address.
pub const DISTRUST: [&str; 2] = ["accept_ra", "accept_dad"];

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

    /// The requests to be sent inside the pod's namespace, where its end has this index. Families in `aside` get their
    /// default route in a table of the interface's own ([`crate::aside`]).
    pub fn inside(&self, index: u32, aside: Aside, existing: Existing) -> Batch {
        let mut batch = Batch::new();
        batch.push(libc::RTM_SETLINK, 0, &link_body(index, UP, UP), |end| {
            end.put_u32(libc::IFLA_MTU, self.mtu);
        });
        let route = |batch: &mut Batch, dst, way| {
            RouteRequest { dst, way, protocol: libc::RTPROT_BOOT }.put(batch, index, existing);
        };
        let table = aside::table(index);
        for &address in &self.addresses {
            let gateway = gateway(address);
            put_address(&mut batch, index, address, host_bits(address));
            if gateway.is_ipv4() && !aside.v4 {
                route(&mut batch, whole(gateway), Way::OnLink);
            } else if gateway.is_ipv6() {
                // The kernel does this by itself, but in its own time: until then the pod hears nothing.
                route(&mut batch, whole(address), Way::Own);
            }
            put_neighbour(&mut batch, index, gateway, HOST_MAC);
            let way = if aside.has(address) { Way::Aside(gateway, table) } else { Way::Via(gateway) };
            route(&mut batch, everywhere(address), way);
        }
        batch
    }

    /// The requests to be sent on the host, where the link's end has this index. The last one asks for the
    /// link as it then is.
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
        if self.addresses.iter().any(IpAddr::is_ipv6) {
            // The kernel does this by itself, but in its own time, and not again once somebody took it away.
            put_address(&mut batch, index, HOST_LINK_LOCAL.into(), 64);
        }
        for &address in &self.addresses {
            put_neighbour(&mut batch, index, address, self.mac);
            let to_pod = RouteRequest { dst: whole(address), way: Way::OnLink, protocol: PROTOCOL };
            to_pod.put(&mut batch, index, existing);
        }
        // Somebody else may have been at it, and the kernel acts on its carrier when it is asked for it.
        batch.push(libc::RTM_GETLINK, 0, &link_body(index, 0, 0), |end| {
            end.put_u32(libc::IFLA_EXT_MASK, libc::RTEXT_FILTER_SKIP_STATS as u32);
        });
        batch
    }

    /// The request that gives an end its hardware address back. The kernel forgets the neighbours of the link with it.
    pub fn readdress(index: u32, mac: Mac) -> Batch {
        Batch::of(libc::RTM_SETLINK, 0, &link_body(index, 0, 0), |end| {
            end.put(libc::IFLA_ADDRESS, &mac.0);
        })
    }

    /// Destinations of the routes that [`PodLink::inside`] makes in the main table, with metric [`default_metric`].
    pub fn destinations_inside(&self, aside: Aside) -> Vec<IpNetwork> {
        let per_family = |&address: &IpAddr| match address {
            _ if aside.has(address) => vec![],
            IpAddr::V4(_) => vec![whole(GATEWAY_V4.into()), everywhere(address)],
            IpAddr::V6(_) => vec![everywhere(address)],
        };
        self.addresses.iter().flat_map(per_family).collect()
    }

    /// Destinations of the routes that [`PodLink::outside`] makes, with metric [`default_metric`].
    pub fn destinations_outside(&self) -> Vec<IpNetwork> {
        self.addresses.iter().copied().map(whole).collect()
    }

    /// The settings that the host's end has once it is set up, by their path below `/proc/sys`. Those of IPv6 are not
    /// there in a kernel without it.
    pub fn settings(&self) -> Vec<(String, &'static str)> {
        let link = &*self.link;
        let v4 = [("forwarding", "1"), ("proxy_arp", "1"), ("rp_filter", "1")];
        let v4 = v4.into_iter().chain([("accept_redirects", "0"), ("send_redirects", "0")]);
        let mut settings: Vec<_> = v4.map(|(name, value)| (sysctl::ipv4(link, name), value)).collect();
        settings.push((format!("net/ipv4/neigh/{link}/proxy_delay"), "0"));
        settings.extend(DISTRUST.map(|name| (sysctl::ipv6(link, name), "0")));
        if self.addresses.iter().any(IpAddr::is_ipv6) {
            settings.push((sysctl::ipv6(link, "disable_ipv6"), "0"));
            settings.push((sysctl::ipv6(link, "addr_gen_mode"), "0"));
        }
        settings
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

/// An address of an end. They are unique, so there is no reason to probe for a second owner, which would keep an IPv6
/// address from use for a second.
fn put_address(batch: &mut Batch, index: u32, address: IpAddr, bits: u8) {
    let no_probe = if address.is_ipv6() { libc::IFA_F_NODAD as u8 } else { 0 };
    let mut body = [family(address), bits, no_probe, 0, 0, 0, 0, 0];
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

/// A route by a link.
struct RouteRequest {
    dst: IpNetwork,
    way: Way,
    protocol: u8,
}

enum Way {
    /// The destination is on the link.
    OnLink,
    /// Through a neighbour on the link.
    Via(IpAddr),
    /// Through a neighbour on the link, to which no route need lead, in a table of its own.
    Aside(IpAddr, u32),
    /// The destination is this side's own address.
    Own,
}

impl RouteRequest {
    fn put(&self, batch: &mut Batch, index: u32, existing: Existing) {
        let (table, kind) = match self.way {
            Way::Own => (libc::RT_TABLE_LOCAL, libc::RTN_LOCAL),
            Way::OnLink | Way::Via(_) => (libc::RT_TABLE_MAIN, libc::RTN_UNICAST),
            // The number is too large for the octet here.
            Way::Aside(..) => (libc::RT_TABLE_COMPAT, libc::RTN_UNICAST),
        };
        let scope = match self.way {
            Way::OnLink if self.dst.is_ipv4() => libc::RT_SCOPE_LINK,
            _ => libc::RT_SCOPE_UNIVERSE,
        };
        let of_family = family(self.dst.ip());
        let mut body = [of_family, self.dst.prefix(), 0, 0, table, self.protocol, scope, kind, 0, 0, 0, 0];
        if matches!(self.way, Way::Aside(..)) {
            body[8..].copy_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
        }
        let flags = match existing {
            Existing::Refuse => libc::NLM_F_CREATE | libc::NLM_F_EXCL,
            Existing::Replace => REPLACE,
        };
        batch.push(libc::RTM_NEWROUTE, flags, &body, |route| {
            if self.dst.prefix() > 0 {
                route.put_ip(libc::RTA_DST, self.dst.ip());
            }
            if let Way::Via(gateway) | Way::Aside(gateway, _) = self.way {
                route.put_ip(libc::RTA_GATEWAY, gateway);
            }
            if let Way::Aside(_, table) = self.way {
                route.put_u32(libc::RTA_TABLE, table);
            }
            route.put_u32(libc::RTA_OIF, index);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::netlink::request::{Message, attributes, messages, read_str, read_u32};

    fn link(addresses: &[&str]) -> PodLink {
        PodLink {
            container: "c1".into(),
            ifname: "eth0".into(),
            link: "cali0".into(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            mtu: 1440,
            mac: Mac([2, 0, 0, 0, 0, 7]),
        }
    }

    fn kinds(batch: &mut Batch) -> Vec<u16> {
        messages(batch.seal(1, true)).map(|message| message.kind).collect()
    }

    fn find<'a>(mut list: impl Iterator<Item = (u16, &'a [u8])>, kind: u16) -> Option<&'a [u8]> {
        list.find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// Name, address, MTU and queues of an end, out of its attributes.
    fn read_end<'a>(
        end: impl Iterator<Item = (u16, &'a [u8])> + Clone,
    ) -> (String, Vec<u8>, [Option<u32>; 3]) {
        let number = |kind| find(end.clone(), kind).and_then(read_u32);
        (
            read_str(find(end.clone(), libc::IFLA_IFNAME).unwrap()),
            find(end.clone(), libc::IFLA_ADDRESS).unwrap().to_vec(),
            [number(libc::IFLA_MTU), number(libc::IFLA_NUM_TX_QUEUES), number(libc::IFLA_NUM_RX_QUEUES)],
        )
    }

    #[test]
    fn both_ends_are_made_by_one_request_and_the_pods_end_is_born_in_the_pod() {
        let netns = std::io::stdin();
        let mut batch = link(&["10.244.3.7"]).create(netns.as_fd());
        let bytes = batch.seal(1, true);
        let all: Vec<Message<'_>> = messages(bytes).collect();
        assert_eq!(all.len(), 1);
        let body: [u8; 16] = all[0].body().unwrap();
        assert_eq!(body[4..], [0; 12], "both ends are born down");
        let host = all[0].attributes(16);
        let sizes = [Some(1440), Some(1), Some(1)];
        assert_eq!(read_end(host.clone()), ("cali0".into(), HOST_MAC.0.to_vec(), sizes));
        assert_eq!(find(host.clone(), libc::IFLA_GROUP).and_then(read_u32), Some(LINK_GROUP));
        let info = attributes(find(host, libc::IFLA_LINKINFO).unwrap());
        assert_eq!(read_str(find(info.clone(), libc::IFLA_INFO_KIND).unwrap()), "veth");
        let data = attributes(find(info, libc::IFLA_INFO_DATA).unwrap());
        let peer = attributes(&find(data, VETH_INFO_PEER).unwrap()[16..]);
        assert_eq!(read_end(peer.clone()), ("eth0".into(), vec![2, 0, 0, 0, 0, 7], sizes));
        assert_eq!(find(peer, libc::IFLA_NET_NS_FD).and_then(read_u32), Some(0));
    }

    #[test]
    fn inside_the_gateway_is_a_neighbour_before_a_route_leads_to_it() {
        let dual = link(&["10.244.3.7", "fd00::7"]);
        use libc::{RTM_NEWADDR as ADDR, RTM_NEWNEIGH as NEIGH, RTM_NEWROUTE as ROUTE, RTM_SETLINK as LINK};
        assert_eq!(
            kinds(&mut dual.inside(5, Aside::default(), Existing::Refuse)),
            [LINK, ADDR, ROUTE, NEIGH, ROUTE, ADDR, ROUTE, NEIGH, ROUTE]
        );
        assert_eq!(dual.destinations_inside(Aside::default()).len(), 3);
        assert_eq!(
            kinds(&mut link(&["fd00::7"]).inside(5, Aside::default(), Existing::Refuse)),
            [LINK, ADDR, ROUTE, NEIGH, ROUTE]
        );
    }

    #[test]
    fn a_second_interface_has_its_default_route_in_a_table_of_its_own_by_family() {
        let dual = link(&["10.244.3.7", "fd00::7"]);
        for (v4, v6, tables) in [
            (true, true, [Some(179_005), Some(179_005)]),
            (true, false, [Some(179_005), None]),
            (false, true, [None, Some(179_005)]),
        ] {
            let mut batch = dual.inside(5, Aside { v4, v6 }, Existing::Refuse);
            let defaults = messages(batch.seal(1, true))
                .filter(|m| m.kind == libc::RTM_NEWROUTE && m.body::<12>().is_some_and(|body| body[1] == 0))
                .map(|m| find(m.attributes(12), libc::RTA_TABLE).and_then(read_u32));
            assert_eq!(defaults.collect::<Vec<_>>(), tables);
            let in_main = dual.destinations_inside(Aside { v4, v6 }).len();
            assert_eq!(in_main, usize::from(!v4) * 2 + usize::from(!v6));
        }
    }

    #[test]
    fn outside_the_source_check_is_on_before_the_link_is_up() {
        let mut batch = link(&["10.244.3.7"]).outside(5, Existing::Refuse);
        let bytes = batch.seal(1, true);
        let first =
            messages(bytes).position(|message| find(message.attributes(16), libc::IFLA_AF_SPEC).is_some());
        let up = messages(bytes).position(|message| {
            message.kind == libc::RTM_SETLINK
                && message.body::<16>().is_some_and(|body| body[12..] == UP.to_ne_bytes())
        });
        assert!(first.is_some() && first < up, "settings {first:?}, up {up:?}");
        let families =
            messages(bytes).find_map(|message| find(message.attributes(16), libc::IFLA_AF_SPEC)).unwrap();
        let inet = attributes(find(attributes(families), libc::AF_INET as u16).unwrap());
        let conf = attributes(find(inet, IFLA_INET_CONF).unwrap());
        assert_eq!(find(conf, inet_conf::RP_FILTER).and_then(read_u32), Some(1));
    }

    #[test]
    fn a_kernel_without_ipv6_is_not_asked_about_it_for_a_pod_without_ipv6() {
        for (addresses, asked) in [(&["10.244.3.7"][..], false), (&["10.244.3.7", "fd00::7"], true)] {
            let mut batch = link(addresses).outside(5, Existing::Refuse);
            let bytes = batch.seal(1, true);
            let families =
                messages(bytes).find_map(|message| find(message.attributes(16), libc::IFLA_AF_SPEC));
            let inet6 = find(attributes(families.unwrap()), libc::AF_INET6 as u16);
            assert_eq!(inet6.is_some(), asked);
        }
    }

    #[test]
    fn a_route_that_exists_is_replaced_only_when_that_is_asked_for() {
        let dual = link(&["10.244.3.7", "fd00::7"]);
        for (existing, flag) in
            [(Existing::Refuse, libc::NLM_F_EXCL), (Existing::Replace, libc::NLM_F_REPLACE)]
        {
            for mut batch in [dual.inside(5, Aside::default(), existing), dual.outside(5, existing)] {
                let routes = messages(batch.seal(1, true)).filter(|m| m.kind == libc::RTM_NEWROUTE);
                let flags: Vec<i32> =
                    routes.map(|m| i32::from(m.flags) & (libc::NLM_F_EXCL | libc::NLM_F_REPLACE)).collect();
                assert!(
                    !flags.is_empty() && flags.iter().all(|found| *found == flag),
                    "{existing:?}: {flags:?}"
                );
            }
        }
    }
}
