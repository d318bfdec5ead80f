//! What the API server says, as last seen: the only input of [`Intent`](super::intent::Intent).
//!
//! The whole is cheap to clone, since kinds and objects are shared. It can be written to a file and
//! read back, so that an agent that starts while the API server is away knows what it knew before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use manx_api::{BGPConfiguration, BGPFilter, BGPPeer, IPPool, NodeNetwork};
use manx_ipam::{BlockId, NodeName};
use serde::{Deserialize, Serialize};

use super::asks::Annotations;
use super::pods::{NamespaceNotes, Namespaces};
use super::secret::{Key, SecretKeys, SecretName, Secrets};

/// The objects of one kind by name, shared with readers until the next change.
pub type Objects<K> = Arc<BTreeMap<String, Arc<K>>>;

/// Everything that a node wants to know of its cluster.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    /// The pools.
    pub pools: Objects<IPPool>,
    /// The BGP configuration; only the one named `default` counts.
    pub configurations: Objects<BGPConfiguration>,
    /// The peers besides the mesh.
    pub peers: Objects<BGPPeer>,
    /// The filters that peers name.
    pub filters: Objects<BGPFilter>,
    /// All nodes as routers.
    pub networks: Objects<NodeNetwork>,
    /// The owners of the blocks.
    pub blocks: Arc<BTreeMap<BlockId, NodeName>>,
    /// Addresses that are reserved for the names of pods, whichever node they run on.
    pub claimed: Arc<BTreeSet<IpAddr>>,
    /// Blocks are those listed, and nobody claims another.
    pub closed: bool,
    /// The namespaces, as far as pools and annotations ask for them.
    pub namespaces: Namespaces,
    /// This node; `None` when there is no such Node object, or it was not seen yet.
    pub node: Option<Arc<OwnNode>>,
    /// The Secrets that peers name.
    pub secrets: Secrets,
}

/// What counts of this node's Node object. Heartbeats leave it equal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnNode {
    /// Its UID.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its addresses of type InternalIP, in the order given; those of a family after the first are not used.
    pub addresses: Vec<IpAddr>,
    /// Its BGP identity where it was given as such; as a rule it follows from the addresses and the configuration.
    #[serde(default)]
    pub router: Option<OwnRouter>,
    /// The podCIDRs of its Node object, for pools that follow them.
    #[serde(default)]
    pub pod_cidrs: Vec<IpNetwork>,
    /// It still has the taint [`STARTUP_TAINT`].
    #[serde(default)]
    pub tainted: bool,
    /// What it says of its network.
    #[serde(default)]
    pub network: Option<NetworkCondition>,
}

/// With this taint, of whatever effect, a node may be registered until its network is there.
pub const STARTUP_TAINT: &str = "manx.dev/agent-not-ready";
/// The condition of a Node that says whether its network is missing.
pub const NETWORK_UNAVAILABLE: &str = "NetworkUnavailable";

/// The condition [`NETWORK_UNAVAILABLE`] of a Node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkCondition {
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// In one word.
    pub reason: String,
}

/// A BGP identity that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnRouter {
    /// The AS.
    pub as_number: u32,
    /// The BGP identifier (RFC 6286).
    pub router_id: Ipv4Addr,
    /// The cluster id of a route reflector (RFC 4456 §8).
    pub cluster_id: Option<Ipv4Addr>,
}

impl OwnNode {
    /// Reads the parts that count.
    pub fn read(node: &Node) -> Self {
        let status = node.status.as_ref();
        let addresses = status.and_then(|status| status.addresses.as_deref()).unwrap_or_default();
        let internal = addresses.iter().filter(|address| address.type_ == "InternalIP");
        Self {
            uid: node.uid().unwrap_or_default(),
            labels: node.labels().clone(),
            addresses: internal.filter_map(|address| address.address.parse().ok()).collect(),
            router: None,
            pod_cidrs: pod_cidrs(node),
            tainted: node
                .spec
                .as_ref()
                .and_then(|spec| spec.taints.as_ref())
                .is_some_and(|taints| taints.iter().any(|taint| taint.key == STARTUP_TAINT)),
            network: network_condition(node),
        }
    }
}

fn network_condition(node: &Node) -> Option<NetworkCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == NETWORK_UNAVAILABLE)?;
    Some(NetworkCondition { status: found.status.clone(), reason: found.reason.clone().unwrap_or_default() })
}

/// What the Node object lists in `podCIDRs`, or in the older `podCIDR`; what is no network is left out.
fn pod_cidrs(node: &Node) -> Vec<IpNetwork> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let listed = spec.pod_cidrs.iter().flatten();
    let all: Vec<&String> =
        listed.chain(spec.pod_cidr.as_ref().filter(|_| spec.pod_cidrs.is_none())).collect();
    let networks = all.into_iter().filter_map(|text| text.parse::<IpNetwork>().ok());
    networks.filter_map(|network| IpNetwork::new(network.network(), network.prefix()).ok()).collect()
}

/// The form in which a [`Cluster`] is kept in a file.
#[derive(Debug, Serialize, Deserialize)]
struct Copy {
    pools: Vec<Arc<IPPool>>,
    configurations: Vec<Arc<BGPConfiguration>>,
    peers: Vec<Arc<BGPPeer>>,
    filters: Vec<Arc<BGPFilter>>,
    networks: Vec<Arc<NodeNetwork>>,
    blocks: Vec<(IpNetwork, NodeName)>,
    #[serde(default)]
    claimed: BTreeSet<IpAddr>,
    /// Labels.
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Annotations.
    #[serde(default)]
    namespace_notes: BTreeMap<String, Annotations>,
    node: Option<OwnNode>,
    #[serde(default)]
    secrets: Vec<(SecretName, BTreeMap<String, Vec<u8>>)>,
}

impl Cluster {
    /// Writes down everything that is needed to go on without the API server.
    ///
    /// # Errors
    /// Never in practice: all keys are strings.
    pub fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        fn all<K>(objects: &Objects<K>) -> Vec<Arc<K>> {
            objects.values().cloned().collect()
        }
        serde_json::to_vec(&Copy {
            pools: all(&self.pools),
            configurations: all(&self.configurations),
            peers: all(&self.peers),
            filters: all(&self.filters),
            networks: all(&self.networks),
            blocks: self.blocks.iter().map(|(block, node)| (block.cidr(), node.clone())).collect(),
            claimed: (*self.claimed).clone(),
            namespaces: self
                .namespaces
                .iter()
                .map(|(name, kept)| (name.clone(), kept.labels.clone()))
                .collect(),
            namespace_notes: annotated(&self.namespaces),
            node: self.node.as_deref().cloned(),
            secrets: self.secrets.iter().map(|(name, keys)| (name.clone(), plain(keys))).collect(),
        })
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// When the bytes are from another version, or damaged.
    pub fn from_bytes(bytes: &[u8]) -> serde_json::Result<Self> {
        fn by_name<K: kube::Resource>(objects: Vec<Arc<K>>) -> Objects<K> {
            Arc::new(objects.into_iter().map(|object| (object.name_any(), object)).collect())
        }
        let copy: Copy = serde_json::from_slice(bytes)?;
        let blocks = copy.blocks.into_iter();
        let blocks = blocks.filter_map(|(cidr, node)| Some((BlockId::new(cidr).ok()?, node))).collect();
        Ok(Self {
            pools: by_name(copy.pools),
            configurations: by_name(copy.configurations),
            peers: by_name(copy.peers),
            filters: by_name(copy.filters),
            networks: by_name(copy.networks),
            blocks: Arc::new(blocks),
            claimed: Arc::new(copy.claimed),
            closed: false,
            namespaces: namespaces(copy.namespaces, copy.namespace_notes),
            node: copy.node.map(Arc::new),
            secrets: Arc::new(copy.secrets.into_iter().map(|(name, keys)| (name, kept(keys))).collect()),
        })
    }
}

fn annotated(namespaces: &Namespaces) -> BTreeMap<String, Annotations> {
    let annotated = namespaces.iter().filter(|(_, notes)| !notes.annotations.is_empty());
    annotated.map(|(name, notes)| (name.clone(), notes.annotations.clone())).collect()
}

fn namespaces(
    labels: BTreeMap<String, BTreeMap<String, String>>,
    mut annotations: BTreeMap<String, Annotations>,
) -> Namespaces {
    let notes = labels.into_iter().map(|(name, labels)| {
        let annotations = annotations.remove(&name).unwrap_or_default();
        (name, Arc::new(NamespaceNotes { labels, annotations }))
    });
    Arc::new(notes.collect())
}

fn plain(keys: &SecretKeys) -> BTreeMap<String, Vec<u8>> {
    keys.iter().map(|(name, key)| (name.clone(), key.octets().to_vec())).collect()
}

fn kept(keys: BTreeMap<String, Vec<u8>>) -> SecretKeys {
    keys.into_iter().map(|(name, octets)| (name, Key::new(octets))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_down_is_read_back_whole() {
        let pool = Arc::new(IPPool::example());
        let network = Arc::new(NodeNetwork::example());
        let pair = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let notes =
            NamespaceNotes { labels: pair("team", "red"), annotations: pair("manx.dev/ipv4pools", "red") };
        let cluster = Cluster {
            pools: Arc::new(BTreeMap::from([(pool.name_any(), pool)])),
            networks: Arc::new(BTreeMap::from([(network.name_any(), network)])),
            blocks: Arc::new(BTreeMap::from([(
                "10.244.3.64/26".parse().expect("a block"),
                NodeName::from("node1"),
            )])),
            node: Some(Arc::new(OwnNode {
                uid: "u".to_owned(),
                labels: BTreeMap::new(),
                addresses: vec!["192.0.2.11".parse().expect("an address")],
                router: None,
                pod_cidrs: vec!["10.244.3.0/24".parse().expect("a network")],
                ..OwnNode::default()
            })),
            namespaces: Arc::new(BTreeMap::from([("web".to_owned(), Arc::new(notes))])),
            secrets: Arc::new(BTreeMap::from([(
                SecretName { namespace: "manx-system".to_owned(), name: "tor".to_owned() },
                kept(BTreeMap::from([("password".to_owned(), b"s3cret".to_vec())])),
            )])),
            ..Cluster::default()
        };
        let again = Cluster::from_bytes(&cluster.to_bytes().expect("written")).expect("read");
        assert_eq!(again.pools, cluster.pools);
        assert_eq!(again.networks, cluster.networks);
        assert_eq!(again.blocks, cluster.blocks);
        assert_eq!(again.node, cluster.node);
        assert_eq!(again.namespaces, cluster.namespaces);
        assert_eq!(again.secrets, cluster.secrets);
    }
}
