//! Network address translation for what leaves the pods' world: which traffic is masqueraded.
//!
//! What comes from a masquerading pool and goes to outside all pools takes the address of the node. Traffic between
//! pods is never translated, nor what stays on the node or goes to a multicast group. A family without a
//! masquerading pool gets no table at all, and so costs no connection tracking.
//!
//! [`netlink::nat`](crate::netlink::nat) puts it into the kernel.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// What is to be translated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NatRules {
    /// Traffic from these networks …
    pub masquerade: BTreeSet<IpNetwork>,
    /// … to outside all of these takes the node's address. All pools, whether they masquerade or not.
    pub all_pools: BTreeSet<IpNetwork>,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// What one family's table says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FamilyRules {
    /// Sources that are translated; never empty.
    pub(crate) pools: Vec<Range>,
    /// Destinations to which nothing is translated.
    pub(crate) inside: Vec<Range>,
}

/// Addresses from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Range {
    pub(crate) first: IpAddr,
    pub(crate) last: IpAddr,
}

impl NatRules {
    /// What the table of a family says; `None`: there is none.
    pub(crate) fn of(&self, family: Family) -> Option<FamilyRules> {
        let of_family = |networks: &BTreeSet<IpNetwork>| -> BTreeSet<IpNetwork> {
            networks.iter().filter(|network| network.is_ipv4() == (family == Family::V4)).copied().collect()
        };
        let masquerade = of_family(&self.masquerade);
        if masquerade.is_empty() {
            return None;
        }
        let mut inside = of_family(&self.all_pools);
        inside.extend(masquerade.iter().chain([&family.multicast()]));
        Some(FamilyRules { pools: ranges(&masquerade), inside: ranges(&inside) })
    }
}

impl Family {
    fn multicast(self) -> IpNetwork {
        let (address, length): (IpAddr, u8) = match self {
            Self::V4 => (Ipv4Addr::new(224, 0, 0, 0).into(), 4),
            Self::V6 => (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
        };
        IpNetwork::new(address, length).expect("the length is within the family's")
    }
}

/// The same addresses as ranges in order, none of which overlap or touch: the kernel takes no others in a set.
pub(crate) fn ranges(networks: &BTreeSet<IpNetwork>) -> Vec<Range> {
    let mut all: Vec<Range> = networks
        .iter()
        .map(|network| Range { first: network.network(), last: network.broadcast() })
        .collect();
    all.sort();
    let mut merged: Vec<Range> = Vec::new();
    for range in all {
        match merged.last_mut() {
            Some(last) if range.first <= last.last || Some(range.first) == next(last.last) => {
                last.last = last.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// The address after this one; `None` after the last.
pub(crate) fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => address.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(address) => address.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn networks(texts: &[&str]) -> BTreeSet<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn show(ranges: &[Range]) -> Vec<String> {
        ranges.iter().map(|range| format!("{}-{}", range.first, range.last)).collect()
    }

    #[test]
    fn a_family_without_a_masquerading_pool_gets_no_table() {
        let rules = NatRules {
            masquerade: networks(&["10.244.0.0/16"]),
            all_pools: networks(&["10.244.0.0/16", "fd00:10:244::/48"]),
        };
        assert!(rules.of(Family::V4).is_some());
        assert_eq!(rules.of(Family::V6), None);
    }

    #[test]
    fn pools_that_do_not_masquerade_are_inside_and_so_is_multicast() {
        let rules = NatRules {
            masquerade: networks(&["10.244.0.0/16"]),
            all_pools: networks(&["10.244.0.0/16", "10.250.0.0/16"]),
        };
        let v4 = rules.of(Family::V4).unwrap();
        assert_eq!(show(&v4.pools), ["10.244.0.0-10.244.255.255"]);
        assert_eq!(
            show(&v4.inside),
            ["10.244.0.0-10.244.255.255", "10.250.0.0-10.250.255.255", "224.0.0.0-239.255.255.255"]
        );
    }

    #[test]
    fn a_masquerading_pool_is_inside_even_if_nobody_said_so() {
        let rules = NatRules { masquerade: networks(&["fd00::/64"]), ..NatRules::default() };
        let v6 = rules.of(Family::V6).unwrap();
        assert_eq!(v6.inside[0], v6.pools[0]);
    }

    proptest! {
        #[test]
        fn ranges_hold_the_same_addresses_and_keep_apart(
            parts in proptest::collection::btree_set((0..=255u8, 24..=32u8), 0..12),
        ) {
            let networks: BTreeSet<IpNetwork> = parts
                .iter()
                .map(|(octet, length)| IpNetwork::new([255, 255, 255, *octet].into(), *length).unwrap())
                .collect();
            let ranges = ranges(&networks);
            for octet in 0..=255u8 {
                let address: IpAddr = [255, 255, 255, octet].into();
                let held = ranges.iter().any(|range| range.first <= address && address <= range.last);
                prop_assert_eq!(held, networks.iter().any(|network| network.contains(address)));
            }
            for pair in ranges.windows(2) {
                prop_assert!(next(pair[0].last).unwrap() < pair[1].first);
            }
        }
    }
}
