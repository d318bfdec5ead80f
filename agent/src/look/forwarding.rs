//! Whether firewalls on this machine let pods' packets pass to and from other nodes.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use manx_facts::host::{Barrier, HostLink, HostQuestion};
use manx_kernel::names::host_link_name;
use manx_kernel::netlink::filters;
use manx_kernel::passage::{self, Family, Packet, Table};
use manx_kernel::xtables;

use crate::shell::events::chain;

/// What certainly does not let them pass.
pub(super) fn barriers(question: &HostQuestion, links: &[HostLink]) -> Result<Vec<Barrier>, String> {
    let tables = filters::forwarding().map_err(|error| chain(&error))?;
    let legacy = xtables::forwarding().map_err(|error| format!("of legacy iptables: {error}"))?;
    let uplinks = uplinks(&question.own, links);
    let mut found = Vec::new();
    for pods in &question.pods {
        found.extend(of(&tables, *pods, &uplinks, |family, table| format!("{} {table}", family.name())));
        found.extend(of(&legacy, *pods, &uplinks, |family, table| {
            format!(
                "{table} of {}",
                if family == Family::Ip6 { "ip6tables-legacy" } else { "iptables-legacy" }
            )
        }));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// What holds up the packets of one network of pods, on every way; `named` has words for a table.
fn of(
    tables: &[Table],
    pods: IpNetwork,
    uplinks: &[&str],
    named: impl Fn(Family, &str) -> String,
) -> Vec<Barrier> {
    let pod = host_link_name(None, "trial", "eth0");
    let address = within(pods);
    let ways =
        uplinks.iter().flat_map(|uplink| [(true, pod.as_str(), *uplink), (false, *uplink, pod.as_str())]);
    let mut found = Vec::new();
    for (outgoing, from, to) in ways {
        let packet = Packet { from: address, to: address, in_link: from.to_owned(), out_link: to.to_owned() };
        found.extend(passage::barriers(tables, &packet).into_iter().map(|barrier| Barrier {
            pods,
            outgoing,
            table: named(barrier.family, &barrier.table),
            chain: barrier.chain,
            rule_in: barrier.rule_in,
        }));
    }
    found
}

/// An address out of a network: its first is none of a pod's.
fn within(network: IpNetwork) -> IpAddr {
    network.iter().nth(1).unwrap_or_else(|| network.ip())
}

/// The links that have the machine's own addresses; if none is known, all that run and have any.
fn uplinks<'a>(own: &[IpAddr], links: &'a [HostLink]) -> Vec<&'a str> {
    let has = |link: &HostLink| link.addresses().any(|address| own.is_empty() || own.contains(&address));
    links.iter().filter(|link| link.running && has(link)).map(|link| link.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, address: &str, running: bool) -> HostLink {
        HostLink {
            name: name.to_owned(),
            running,
            addresses: vec![address.to_owned()],
            ..HostLink::default()
        }
    }

    #[test]
    fn uplinks_are_the_links_with_the_nodes_own_addresses() {
        let links = [
            link("eth0", "192.0.2.1/24", true),
            link("docker0", "172.17.0.1/16", true),
            link("eth1", "198.51.100.1/24", false),
        ];
        assert_eq!(uplinks(&["192.0.2.1".parse().expect("an address")], &links), ["eth0"]);
        assert_eq!(uplinks(&[], &links), ["eth0", "docker0"]);
    }

    #[test]
    fn a_pod_is_inside_of_its_network() {
        for (network, address) in [("10.244.0.0/16", "10.244.0.1"), ("192.0.2.7/32", "192.0.2.7")] {
            let network: IpNetwork = network.parse().expect("a network");
            assert_eq!(within(network).to_string(), address);
        }
    }
}
