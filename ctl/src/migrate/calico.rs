//! Calico's objects as its Kubernetes datastore keeps them (group `crd.projectcalico.org/v1`): the fields that a move
//! has to know. Whatever else there is in them is not looked at.

use std::collections::BTreeMap;

use serde::Deserialize;

/// An object: its name and what it specifies.
#[derive(Clone, Debug)]
pub(crate) struct Named<S> {
    /// `metadata.name`.
    pub(crate) name: String,
    /// `spec`.
    pub(crate) spec: S,
}

/// Everything of Calico's that was read, and the Nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calico {
    pub(crate) pools: Vec<Named<Pool>>,
    pub(crate) blocks: Vec<Named<Block>>,
    pub(crate) affinities: Vec<Named<Affinity>>,
    pub(crate) ipam: Option<IpamConfig>,
    pub(crate) reservations: Vec<Named<Reservation>>,
    pub(crate) bgp: Vec<Named<BgpConfiguration>>,
    pub(crate) peers: Vec<Named<Peer>>,
    pub(crate) filters: Vec<Named<Filter>>,
    pub(crate) felix: Vec<Named<Felix>>,
    pub(crate) nodes: Vec<Node>,
}

/// What counts of a Node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// `IPPool`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Pool {
    pub(crate) cidr: String,
    pub(crate) block_size: Option<u8>,
    pub(crate) node_selector: String,
    pub(crate) namespace_selector: String,
    pub(crate) allowed_uses: Vec<String>,
    pub(crate) assignment_mode: String,
    pub(crate) disabled: bool,
    #[serde(rename = "disableBGPExport")]
    pub(crate) disable_bgp_export: bool,
    pub(crate) nat_outgoing: bool,
    pub(crate) ipip_mode: String,
    pub(crate) vxlan_mode: String,
}

/// `IPAMBlock`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Block {
    pub(crate) cidr: String,
    /// `host:NODE`, `virtual:load-balancer`, or nobody's.
    pub(crate) affinity: Option<String>,
    /// By ordinal: the index of its attributes, none for a free address.
    pub(crate) allocations: Vec<Option<usize>>,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) deleted: bool,
}

/// Who has an address of a block.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Attribute {
    #[serde(alias = "handleID")]
    pub(crate) handle_id: Option<String>,
    /// `pod`, `namespace`, `node`, `timestamp`, `type`, as far as they are known.
    pub(crate) secondary: BTreeMap<String, String>,
    /// Set on an address that is free and rests.
    #[serde(rename = "releasedAt")]
    pub(crate) released_at: Option<serde_json::Value>,
}

/// `BlockAffinity`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Affinity {
    pub(crate) cidr: String,
    pub(crate) node: String,
    /// `confirmed`, `pending`, `pendingDeletion`; empty means confirmed.
    pub(crate) state: String,
    #[serde(deserialize_with = "truth")]
    pub(crate) deleted: bool,
}

/// `IPAMConfig`, named `default`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct IpamConfig {
    pub(crate) strict_affinity: bool,
    pub(crate) auto_allocate_blocks: bool,
    /// 0: no limit of the operator's.
    pub(crate) max_blocks_per_host: u32,
    pub(crate) ip_cooldown_seconds: Option<u32>,
}

impl Default for IpamConfig {
    fn default() -> Self {
        Self {
            strict_affinity: false,
            auto_allocate_blocks: true,
            max_blocks_per_host: 0,
            ip_cooldown_seconds: None,
        }
    }
}

/// `IPReservation`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Reservation {
    #[serde(rename = "reservedCIDRs")]
    pub(crate) reserved: Vec<String>,
}

/// `BGPConfiguration`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct BgpConfiguration {
    pub(crate) as_number: Option<u32>,
    pub(crate) node_to_node_mesh_enabled: Option<bool>,
    pub(crate) listen_port: Option<u16>,
    pub(crate) bind_mode: Option<String>,
    pub(crate) node_mesh_password: Option<Password>,
    pub(crate) node_mesh_max_restart_time: Option<String>,
    pub(crate) communities: Vec<Community>,
    pub(crate) prefix_advertisements: Vec<Advertisement>,
    #[serde(rename = "serviceClusterIPs")]
    pub(crate) service_cluster_ips: Vec<Service>,
    #[serde(rename = "serviceExternalIPs")]
    pub(crate) service_external_ips: Vec<Service>,
    #[serde(rename = "serviceLoadBalancerIPs")]
    pub(crate) service_load_balancer_ips: Vec<Service>,
    #[serde(rename = "localWorkloadPeeringIPV4")]
    pub(crate) workload_peering_v4: Option<String>,
    #[serde(rename = "localWorkloadPeeringIPV6")]
    pub(crate) workload_peering_v6: Option<String>,
}

/// A range of service addresses.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Service {
    pub(crate) cidr: String,
}

/// A community with a name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Community {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// What announcements of a prefix carry.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Advertisement {
    pub(crate) cidr: String,
    pub(crate) communities: Vec<String>,
}

/// A password, from a Secret in the namespace of Calico's pods.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Password {
    pub(crate) secret_key_ref: Option<SecretKey>,
}

/// A key of a Secret.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SecretKey {
    pub(crate) name: String,
    pub(crate) key: String,
}

/// `BGPPeer`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Peer {
    pub(crate) node: String,
    pub(crate) node_selector: String,
    #[serde(rename = "peerIP")]
    pub(crate) peer_ip: String,
    pub(crate) peer_selector: String,
    pub(crate) as_number: u32,
    #[serde(rename = "localASNumber")]
    pub(crate) local_as_number: Option<u32>,
    pub(crate) keep_original_next_hop: bool,
    pub(crate) next_hop_mode: String,
    pub(crate) password: Option<Password>,
    pub(crate) source_address: String,
    pub(crate) max_restart_time: Option<String>,
    pub(crate) keepalive_time: Option<String>,
    #[serde(rename = "numAllowedLocalASNumbers")]
    pub(crate) allowed_local_as: Option<u8>,
    #[serde(rename = "ttlSecurity")]
    pub(crate) ttl_security: Option<u8>,
    pub(crate) reachable_by: String,
    pub(crate) filters: Vec<String>,
    pub(crate) local_workload_selector: String,
}

/// `BGPFilter`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Filter {
    #[serde(rename = "importV4")]
    pub(crate) import_v4: Vec<Rule>,
    #[serde(rename = "exportV4")]
    pub(crate) export_v4: Vec<Rule>,
    #[serde(rename = "importV6")]
    pub(crate) import_v6: Vec<Rule>,
    #[serde(rename = "exportV6")]
    pub(crate) export_v6: Vec<Rule>,
}

/// A rule of a filter. What is not listed here is in `rest`, so that it is not lost silently.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    pub(crate) action: String,
    pub(crate) cidr: Option<String>,
    pub(crate) match_operator: Option<String>,
    pub(crate) prefix_length: Option<Lengths>,
    pub(crate) source: Option<String>,
    pub(crate) peer_type: Option<String>,
    pub(crate) communities: Option<Communities>,
    pub(crate) as_path_prefix: Vec<u32>,
    pub(crate) operations: Vec<Operation>,
    #[serde(flatten)]
    pub(crate) rest: BTreeMap<String, serde_json::Value>,
}

/// Prefix lengths, both ends included.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Lengths {
    pub(crate) min: Option<u8>,
    pub(crate) max: Option<u8>,
}

/// Communities of which a route must carry one.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Communities {
    pub(crate) values: Vec<String>,
}

/// Something done to a route that is accepted.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Operation {
    pub(crate) add_community: Option<AddCommunity>,
    #[serde(rename = "prependASPath")]
    pub(crate) prepend_as_path: Option<PrependAsPath>,
    #[serde(flatten)]
    pub(crate) rest: BTreeMap<String, serde_json::Value>,
}

/// Adds a community.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AddCommunity {
    pub(crate) value: String,
}

/// Puts AS numbers before the path.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PrependAsPath {
    pub(crate) prefix: Vec<u32>,
}

/// `FelixConfiguration`: what would make links or packets other than we know them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Felix {
    pub(crate) interface_prefix: Option<String>,
    pub(crate) bpf_enabled: bool,
    pub(crate) wireguard_enabled: bool,
    #[serde(rename = "wireguardEnabledV6")]
    pub(crate) wireguard_enabled_v6: bool,
    pub(crate) nat_outgoing_address: Option<String>,
}

/// A truth that some versions write as a text.
fn truth<'de, D: serde::Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    let value = serde_json::Value::deserialize(value)?;
    Ok(value == serde_json::json!(true) || value == serde_json::json!("true"))
}
