//! What pods may not reach: the ports on which routers speak BGP, here and on other routers.
//!
//! A pod is one hop away and may send with any TTL, so TTL security does not keep it out. What it sends through the
//! node to another router may arrive there with the node's address, and would pass for the node. So both are dropped,
//! by the link on which they come in.
//!
//! [`netlink::guard`](crate::netlink::guard) puts it into the kernel.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::nat::{Range, ranges};

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
    fn routers_are_told_apart_by_family_and_neighbours_are_one_range() {
        let routers = ["192.0.2.2", "192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
        let rules = GuardRules { routers: routers.into(), ..GuardRules::default() };
        assert_eq!(rules.routers_of(true).len(), 1);
        assert_eq!(rules.routers_of(false).len(), 1);
    }
}
