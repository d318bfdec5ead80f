//! This node as a Node object would show it: from its NodeNetwork among the files, else from the machine.

use std::net::IpAddr;

use kube::ResourceExt as _;
use manx_api::NodeNetwork;
use manx_ipam::NodeName;
use manx_kernel::names::HOST_LINK_PREFIX;

use crate::node::cluster::{OwnNode, OwnRouter};

/// An address of this machine and the link that has it.
pub(super) type Found = (String, IpAddr);

/// The addresses of this machine that others could send to.
pub(super) fn addresses() -> Vec<Found> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let found = all.filter_map(|entry| {
        let address = entry.address.as_ref()?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let v6 = address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
        Some((entry.interface_name, v4.or(v6)?))
    });
    found.filter(|(link, address)| !link.starts_with(HOST_LINK_PREFIX) && is_ours_alone(*address)).collect()
}

fn is_ours_alone(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !local && !address.is_loopback() && !address.is_unspecified()
}

/// This node, and what is wrong with it: a machine with several addresses of a family does not say which one counts.
pub(super) fn node(
    network: Option<&NodeNetwork>,
    me: &NodeName,
    machine: &[Found],
) -> (Option<OwnNode>, Vec<String>) {
    if let Some(network) = network {
        let addresses = network.spec.addresses;
        let addresses = addresses.ipv4.map(IpAddr::V4).into_iter().chain(addresses.ipv6.map(IpAddr::V6));
        let router = OwnRouter {
            as_number: network.spec.as_number,
            router_id: network.spec.router_id,
            cluster_id: network.spec.cluster_id,
        };
        let node = OwnNode {
            uid: network.spec.node_uid.clone(),
            labels: network.labels().clone(),
            addresses: addresses.collect(),
            router: Some(router),
            ..OwnNode::default()
        };
        return (Some(node), Vec::new());
    }
    let (v4, v6): (Vec<&Found>, Vec<&Found>) = machine.iter().partition(|(_, address)| address.is_ipv4());
    let mut complaints = Vec::new();
    let mut addresses = Vec::new();
    for (family, found) in [("IPv4", v4), ("IPv6", v6)] {
        match found.as_slice() {
            [] => {}
            [(_, address)] => addresses.push(*address),
            several => {
                let named: Vec<String> =
                    several.iter().map(|(link, address)| format!("{address} on {link}")).collect();
                complaints.push(format!(
                    "has several {family} addresses ({}): say which one counts in a NodeNetwork named {me}",
                    named.join(", ")
                ));
            }
        }
    }
    if addresses.is_empty() && complaints.is_empty() {
        complaints
            .push(format!("has no address that others could send to: say which in a NodeNetwork named {me}"));
    }
    let node = OwnNode { addresses, ..OwnNode::default() };
    ((!node.addresses.is_empty()).then_some(node), complaints)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(all: &[(&str, &str)]) -> Vec<Found> {
        let read =
            |(link, address): &(&str, &str)| ((*link).to_owned(), address.parse().expect("an address"));
        all.iter().map(read).collect()
    }

    #[test]
    fn the_only_address_of_a_family_is_the_nodes() {
        let machine = found(&[("eth0", "192.0.2.7"), ("eth0", "2001:db8::7")]);
        let (node, complaints) = node(None, &NodeName::from("node7"), &machine);
        assert_eq!(complaints, [""; 0]);
        assert_eq!(node.map(|node| node.addresses.len()), Some(2));
    }

    #[test]
    fn several_addresses_of_a_family_are_named_and_none_is_guessed() {
        let machine = found(&[("eth0", "192.0.2.7"), ("eth1", "198.51.100.7"), ("eth0", "2001:db8::7")]);
        let (node, complaints) = node(None, &NodeName::from("node7"), &machine);
        assert_eq!(
            complaints,
            [
                "has several IPv4 addresses (192.0.2.7 on eth0, 198.51.100.7 on eth1): say which one counts in a NodeNetwork named node7"
            ]
        );
        assert_eq!(node.map(|node| node.addresses), Some(vec!["2001:db8::7".parse().expect("an address")]));
    }

    #[test]
    fn a_node_network_among_the_files_says_it_all() {
        let network = NodeNetwork::example();
        let machine = found(&[("eth0", "192.0.2.7"), ("eth1", "198.51.100.7")]);
        let (node, complaints) = node(Some(&network), &NodeName::from("node1"), &machine);
        assert_eq!(complaints, [""; 0]);
        let node = node.expect("known");
        assert_eq!(node.addresses[0].to_string(), "192.0.2.11");
        assert_eq!(node.router.map(|router| router.as_number), Some(64512));
    }
}
