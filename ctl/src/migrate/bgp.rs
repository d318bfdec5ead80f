//! The BGP configuration: Calico's BGPConfiguration and what Nodes say of BGP, as our BGPConfiguration.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use manx_api::{
    BGPConfiguration, BGPConfigurationSpec, DEFAULT_CONFIGURATION, GracefulRestart, NamedCommunity,
    PrefixAdvertisement, Topology,
};

use super::calico::{BgpConfiguration, Calico, Named, Node};
use super::plan::Remarks;

/// The annotation with a node's IPv4 address and prefix length.
const ADDRESS_V4: &str = "projectcalico.org/IPv4Address";
/// The same for IPv6.
const ADDRESS_V6: &str = "projectcalico.org/IPv6Address";
/// The annotation with a node's own AS.
const AS_NUMBER: &str = "projectcalico.org/ASNumber";
/// The annotation of route reflectors.
const CLUSTER_ID: &str = "projectcalico.org/RouteReflectorClusterID";
/// Calico's AS where nothing else is said.
const DEFAULT_AS: u32 = 64512;

/// What the rest of a plan has to know of the network.
pub(crate) struct Network {
    pub(crate) as_number: u32,
    /// The nodes peer with one another.
    pub(crate) mesh: bool,
    pub(crate) port: u16,
    pub(crate) object: BGPConfiguration,
}

/// The configuration.
pub(crate) fn translate(calico: &Calico, remarks: &mut Remarks) -> Network {
    let default = calico.bgp.iter().find(|object| object.name == "default");
    for other in calico.bgp.iter().filter(|object| object.name != "default") {
        let about = format!("BGPConfiguration {}", other.name);
        remarks.warning(about, "configurations of single nodes are not taken over");
    }
    let empty = Named { name: "default".to_owned(), spec: BgpConfiguration::default() };
    let spec = &default.unwrap_or(&empty).spec;
    let as_number = own_as(calico, spec, remarks);
    let mesh = spec.node_to_node_mesh_enabled.unwrap_or(true);
    reflectors(calico, remarks);
    left_out(spec, remarks);
    let port = spec.listen_port.unwrap_or(179);
    let restart = spec.node_mesh_max_restart_time.as_deref().and_then(|text| seconds(text, remarks));
    let usual = GracefulRestart::default();
    let object = BGPConfigurationSpec {
        as_number,
        listen_port: port,
        topology: if mesh { Topology::FullMesh } else { Topology::None },
        graceful_restart: GracefulRestart {
            restart_time_seconds: restart.unwrap_or(usual.restart_time_seconds),
            ..usual
        },
        communities: communities(spec, remarks),
        prefix_advertisements: advertisements(spec, remarks),
        ..BGPConfigurationSpec::default()
    };
    Network { as_number, mesh, port, object: BGPConfiguration::new(DEFAULT_CONFIGURATION, object) }
}

/// A node's addresses as Calico announced them.
pub(crate) fn addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    let texts = [ADDRESS_V4, ADDRESS_V6].into_iter().filter_map(|key| node.annotations.get(key));
    texts.filter_map(|text| text.split('/').next()?.parse().ok())
}

/// Seconds of a duration as Go writes it, such as `2m30s`; what is no such thing is told.
pub(crate) fn seconds(text: &str, remarks: &mut Remarks) -> Option<u16> {
    let mut total: u32 = 0;
    let mut number = String::new();
    for letter in text.chars() {
        let unit = match letter {
            '0'..='9' => {
                number.push(letter);
                continue;
            }
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return odd_duration(text, remarks),
        };
        let Ok(count) = std::mem::take(&mut number).parse::<u32>() else {
            return odd_duration(text, remarks);
        };
        total = total.saturating_add(count.saturating_mul(unit));
    }
    if total == 0 || !number.is_empty() {
        return odd_duration(text, remarks);
    }
    Some(u16::try_from(total).unwrap_or(u16::MAX).min(4095))
}

fn odd_duration(text: &str, remarks: &mut Remarks) -> Option<u16> {
    remarks.warning("BGP", format!("{text:?} is no duration in whole seconds: our default holds"));
    None
}

/// The AS of all nodes.
fn own_as(calico: &Calico, spec: &BgpConfiguration, remarks: &mut Remarks) -> u32 {
    let configured = spec.as_number.unwrap_or(DEFAULT_AS);
    let mut found: BTreeMap<u32, &str> = BTreeMap::new();
    for node in &calico.nodes {
        let own = node.annotations.get(AS_NUMBER).map(|text| text.parse());
        match own {
            Some(Ok(number)) => drop(found.insert(number, &node.name)),
            Some(Err(_)) => {
                remarks.blocker(format!("Node {}", node.name), format!("its {AS_NUMBER} is no number"))
            }
            None => drop(found.insert(configured, &node.name)),
        }
    }
    match found.keys().copied().collect::<Vec<u32>>().as_slice() {
        [] => configured,
        [one] => *one,
        [first, ..] => {
            let nodes: Vec<String> =
                found.iter().map(|(number, node)| format!("{node} has AS {number}")).collect();
            remarks.blocker(
                "BGP",
                format!("{}: all nodes of Manx have one AS, that of BGPConfiguration", nodes.join(", ")),
            );
            *first
        }
    }
}

fn reflectors(calico: &Calico, remarks: &mut Remarks) {
    let reflects = calico.nodes.iter().filter(|node| node.annotations.contains_key(CLUSTER_ID));
    for node in reflects {
        remarks.blocker(
            format!("Node {}", node.name),
            "it is a route reflector: turn nodeToNodeMeshEnabled on for the move and take the annotation away; \
             afterwards say topology RouteReflectors in Manx's BGPConfiguration",
        );
    }
}

/// What there is nothing for in our configuration.
fn left_out(spec: &BgpConfiguration, remarks: &mut Remarks) {
    let about = "BGPConfiguration default";
    let ranges = [
        ("serviceClusterIPs", &spec.service_cluster_ips),
        ("serviceExternalIPs", &spec.service_external_ips),
        ("serviceLoadBalancerIPs", &spec.service_load_balancer_ips),
    ];
    for (field, ranges) in ranges.into_iter().filter(|(_, ranges)| !ranges.is_empty()) {
        let ranges: Vec<&str> = ranges.iter().map(|range| range.cidr.as_str()).collect();
        let text =
            format!("{field} {}: Manx announces no Services; let another speaker do it", ranges.join(", "));
        remarks.warning(about, text);
    }
    if spec.node_mesh_password.is_some() {
        remarks.blocker(
            about,
            "nodeMeshPassword: the sessions between nodes have no password in Manx; take it away for the move",
        );
    }
    if spec.bind_mode.as_deref() == Some("NodeIP") {
        remarks.note(about, "bindMode NodeIP: say --bgp-listen to each agent, or listenAddresses");
    }
    if spec.workload_peering_v4.is_some() || spec.workload_peering_v6.is_some() {
        remarks.warning(about, "localWorkloadPeeringIP: pods are kept from BGP in Manx");
    }
}

fn communities(spec: &BgpConfiguration, remarks: &mut Remarks) -> Vec<NamedCommunity> {
    let mut named = Vec::new();
    for community in &spec.communities {
        match community.value.parse() {
            Ok(value) => named.push(NamedCommunity { name: community.name.clone(), value }),
            Err(error) => {
                remarks.blocker("BGPConfiguration default", format!("community {}: {error}", community.name))
            }
        }
    }
    named
}

fn advertisements(spec: &BgpConfiguration, remarks: &mut Remarks) -> Vec<PrefixAdvertisement> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for advertisement in &spec.prefix_advertisements {
        let about = "BGPConfiguration default";
        match advertisement.cidr.parse() {
            Ok(cidr) if seen.insert(cidr) => {
                found.push(PrefixAdvertisement { cidr, communities: advertisement.communities.clone() });
            }
            Ok(cidr) => {
                remarks.warning(about, format!("prefixAdvertisements has {cidr} twice: the first counts"))
            }
            Err(error) => remarks.blocker(about, format!("prefixAdvertisements: {error}")),
        }
    }
    found
}
