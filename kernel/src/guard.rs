//! What the node takes from pods, and what they may not reach.
//!
//! [`Admission`] is the list of what may come in by the link of one pod: frames of its own hardware address with its own
//! addresses as their sources, and nothing else. It holds whatever the pod does inside, with `CAP_NET_ADMIN` too.
//!
//! [`GuardRules`] keep all pods from the ports on which routers speak BGP, here and on other routers. A pod is one hop away and may send with any TTL, so TTL security does not keep it out. What it sends through the
//! node to another router may arrive there with the node's address, and would pass for the node. So both are dropped,
//! by the link on which they come in.
//!
//! [`netlink::guard`](crate::netlink::guard) puts both into the kernel.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::names::Mac;
use crate::nat::{Range, ranges};
use crate::pod::PodLink;

/// Whom the node believes on the link of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Name of the host's end.
    pub link: String,
    /// Hardware address of the pod's end.
    pub mac: Mac,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
}

impl Admission {
    /// What a pod's link may bring.
    pub fn of(link: &PodLink) -> Self {
        Self { link: link.link.clone(), mac: link.mac, addresses: link.addresses.clone() }
    }

    /// The sources of IPv6 that are taken: the pod's addresses and the one link-local address that its kernel derives
    /// from its hardware address (RFC 4291 §2.5.1). Empty for a pod without IPv6.
    pub(crate) fn sources_v6(&self) -> Vec<Ipv6Addr> {
        let mut sources: Vec<Ipv6Addr> = self
            .addresses
            .iter()
            .filter_map(|address| match address {
                IpAddr::V6(address) => Some(*address),
                IpAddr::V4(_) => None,
            })
            .collect();
        if !sources.is_empty() {
            sources.push(self.mac.link_local());
        }
        sources
    }
}

/// What is kept from pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuardRules {
    /// Ports of this node, of TCP and UDP, at every address of it.
    pub ports: BTreeSet<u16>,
    /// TCP ports of other routers …
    pub router_ports: BTreeSet<u16>,
    /// … with these addresses: other nodes and peers outside the cluster.
    pub routers: BTreeSet<IpAddr>,
}

impl GuardRules {
    /// The routers' addresses of a family, as ranges in order.
    pub(crate) fn routers_of(&self, v4: bool) -> Vec<Range> {
        let of_family = self.routers.iter().filter(|address| address.is_ipv4() == v4);
        ranges(&of_family.map(|address| IpNetwork::from(*address)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_local_address_is_taken_only_from_a_pod_with_ipv6() {
        let mut admission = Admission {
            link: "cali0".into(),
            mac: Mac([0x0a, 0x58, 0x0a, 0xf4, 0, 7]),
            addresses: vec!["10.244.0.7".parse().unwrap()],
        };
        assert!(admission.sources_v6().is_empty());
        admission.addresses.push("fd00::7".parse().unwrap());
        assert_eq!(
            admission.sources_v6(),
            ["fd00::7", "fe80::858:aff:fef4:7"].map(|text| text.parse::<Ipv6Addr>().unwrap())
        );
    }

    #[test]
    fn routers_are_told_apart_by_family_and_neighbours_are_one_range() {
        let routers = ["192.0.2.2", "192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
        let rules = GuardRules { routers: routers.into(), ..GuardRules::default() };
        assert_eq!(rules.routers_of(true).len(), 1);
        assert_eq!(rules.routers_of(false).len(), 1);
    }
}
