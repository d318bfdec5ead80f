//! `IPPool`: a prefix that addresses are given from.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema, ResourceExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Cidr, Community, LabelSelector};

/// A prefix that pods get addresses from. Nodes claim blocks of it (see IPBlock) and give addresses from their blocks.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "manx.dev",
    version = "v1alpha1",
    kind = "IPPool",
    plural = "ippools",
    shortname = "ipp",
    category = "manx",
    status = "IPPoolStatus",
    derive = "PartialEq",
    doc = "A prefix that pods get addresses from. Nodes claim blocks of it and give addresses from their blocks.",
    validation = ("size(self.metadata.name) <= 63", "the name must fit a label's value: at most 63 characters"),
    printcolumn(name = "CIDR", type_ = "string", json_path = ".spec.cidr"),
    printcolumn(name = "BLOCK", type_ = "integer", json_path = ".spec.blockSize", description = "prefix length of a block; empty: 26 (IPv4), 122 (IPv6)"),
    printcolumn(name = "USED", type_ = "integer", json_path = ".status.used", description = "addresses in use"),
    printcolumn(name = "BLOCKS", type_ = "integer", json_path = ".status.blocks", description = "blocks that nodes own"),
    printcolumn(name = "NAT", type_ = "boolean", json_path = ".spec.natOutgoing"),
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "MODE", type_ = "string", json_path = ".spec.assignmentMode", priority = 1),
    printcolumn(name = "PRIORITY", type_ = "integer", json_path = ".spec.priority", priority = 1),
    printcolumn(name = "DISABLED", type_ = "boolean", json_path = ".spec.disabled", priority = 1),
    printcolumn(name = "CAPACITY", type_ = "integer", json_path = ".status.capacity", priority = 1),
    printcolumn(name = "FREE", type_ = "integer", json_path = ".status.free", priority = 1)
)]
#[x_kube(
    validation = (
        "has(self.blockSize) == has(oldSelf.blockSize) && (!has(self.blockSize) || self.blockSize == oldSelf.blockSize)",
        "blockSize cannot change: make a new pool"
    ),
    validation = (
        "!isCIDR(self.cidr) || !has(self.blockSize) || (cidr(self.cidr).ip().family() == 4 ? self.blockSize >= 20 && self.blockSize <= 32 : self.blockSize >= 112 && self.blockSize <= 128)",
        "blockSize must be 20 to 32 (IPv4) or 112 to 128 (IPv6)"
    ),
    validation = (
        "!isCIDR(self.cidr) || cidr(self.cidr).prefixLength() <= (has(self.blockSize) ? self.blockSize : (cidr(self.cidr).ip().family() == 4 ? 26 : 122))",
        "the pool must hold at least one block: blockSize (26 for IPv4 and 122 for IPv6 unless set) must not be below the prefix length of cidr"
    ),
    validation = (
        "!isCIDR(self.cidr) || cidr(self.cidr).prefixLength() >= (cidr(self.cidr).ip().family() == 4 ? 8 : 16)",
        "cidr must not be shorter than /8 (IPv4) or /16 (IPv6)"
    ),
    validation = (
        "!isCIDR(self.cidr) || ['0.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/4', '::/8', 'fe80::/10', 'ff00::/8'].all(n, !cidr(n).containsCIDR(self.cidr) && !cidr(self.cidr).containsCIDR(n))",
        "cidr must not overlap unspecified, loopback, link-local or multicast addresses (0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/4, ::/8, fe80::/10, ff00::/8)"
    ),
    validation = (
        "!isCIDR(self.cidr) || !has(self.reserved) || self.reserved.all(r, !isCIDR(r) || cidr(self.cidr).containsCIDR(r))",
        "every reserved network must be inside cidr"
    )
)]
pub struct IPPoolSpec {
    /// The prefix, such as 10.244.0.0/16 or fd00:10:244::/48. It cannot change.
    #[x_kube(validation = ("self == oldSelf", "cidr cannot change: make a new pool, disable this one, and delete it once its pods are gone"))]
    pub cidr: Cidr,

    /// Prefix length of the blocks that nodes claim: 20 to 32 (IPv4, 26 unless set) or 112 to 128 (IPv6, 122 unless
    /// set). It cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 20, max = 128))]
    pub block_size: Option<u8>,

    /// Which nodes may claim blocks, by the labels of the Node. Unset: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,

    /// Whose pods may get addresses, by the labels of the Namespace. Unset: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,

    /// Masquerade what pods of this pool send to addresses outside all pools.
    #[serde(default)]
    pub nat_outgoing: bool,

    /// Give no new addresses and claim no new blocks. Pods that have an address keep it, and it stays routed.
    #[serde(default)]
    pub disabled: bool,

    /// Announce the blocks of this pool to BGP peers outside the cluster.
    #[serde(default = "yes")]
    pub advertise: bool,

    /// What announcements of this pool's blocks carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announcement: Option<PoolAnnouncement>,

    /// Whether any pod may get an address from here, or only those that ask for this pool.
    #[serde(default)]
    pub assignment_mode: AssignmentMode,

    /// What addresses of this pool may be used for.
    #[serde(default = "pods_only")]
    #[schemars(length(min = 1, max = 2))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allowed_uses: Vec<AllowedUse>,

    /// Networks inside cidr whose addresses are never given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub reserved: Vec<Cidr>,

    /// Which pool gives first where a pod may have addresses of several: the one with the highest number, and of
    /// equal ones the oldest.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: i32,

    /// Which blocks a node may claim.
    #[serde(default)]
    pub block_source: BlockSource,

    /// Most blocks of this pool that a node may have. Unset: as many as it may have in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub max_blocks_per_node: Option<u32>,

    /// How long an address that was freed rests before another pod gets it, in seconds. Unset: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86400))]
    pub cooldown_seconds: Option<u32>,
}

/// What the blocks of a pool are announced with.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PoolAnnouncement {
    /// Communities, besides those that BGPConfiguration gives to the prefix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub communities: Vec<Community>,

    /// LOCAL_PREF towards internal peers. Unset: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_preference: Option<u32>,

    /// MULTI_EXIT_DISC. Unset: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
}

/// Who may get addresses from a pool.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AssignmentMode {
    /// Any pod whose node and namespace are selected.
    #[default]
    Automatic,
    /// Only pods that ask for this pool or for an address in it.
    Manual,
}

/// Which blocks of a pool a node may claim.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlockSource {
    /// Any block that no other node has.
    #[default]
    Claim,
    /// Only blocks inside the podCIDRs of its Node object.
    NodePodCIDRs,
}

/// What addresses of a pool may be used for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AllowedUse {
    /// Pods.
    Pod,
    /// Services of type LoadBalancer.
    LoadBalancer,
}

/// What the controller last saw of a pool. Counts stop at 9223372036854775807, which means at least so many.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct IPPoolStatus {
    /// Addresses that may be given: the whole prefix less what is reserved.
    #[serde(default)]
    pub capacity: i64,

    /// Addresses in use.
    #[serde(default)]
    pub used: i64,

    /// Addresses that are not in use: capacity less used.
    #[serde(default)]
    pub free: i64,

    /// Blocks that nodes own.
    #[serde(default)]
    pub blocks: i64,

    /// Ready, Overlap, Terminating and NearlyFull.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

impl IPPoolSpec {
    /// A pool with every other field as the API server would default it.
    pub fn new(cidr: Cidr) -> Self {
        Self {
            cidr,
            block_size: None,
            node_selector: None,
            namespace_selector: None,
            nat_outgoing: false,
            disabled: false,
            advertise: true,
            announcement: None,
            assignment_mode: AssignmentMode::Automatic,
            allowed_uses: pods_only(),
            reserved: Vec::new(),
            priority: 0,
            block_source: BlockSource::Claim,
            max_blocks_per_node: None,
            cooldown_seconds: None,
        }
    }

    /// Prefix length of the pool's blocks: `blockSize`, or the default of its family.
    pub fn block_len(&self) -> u8 {
        match self.block_size {
            Some(len) => len,
            None if self.cidr.is_ipv4() => 26,
            None => 122,
        }
    }
}

impl IPPool {
    /// The IPv4 pool of `deploy/examples/ippool.yaml`.
    pub fn example() -> Self {
        let cidr = "10.244.0.0/16".parse().expect("a valid network");
        let reserved = vec!["10.244.0.0/28".parse().expect("a valid network")];
        Self::new(
            "pods-v4",
            IPPoolSpec { block_size: Some(26), nat_outgoing: true, reserved, ..IPPoolSpec::new(cidr) },
        )
    }
}

/// The pools that are not used because they have addresses of an older one, each with that one. Of pools that were made
/// in the same second the first by name is the older.
pub fn shadowed<'a>(pools: impl IntoIterator<Item = &'a IPPool>) -> BTreeMap<String, String> {
    let mut by_age: Vec<&IPPool> = pools.into_iter().collect();
    by_age.sort_by_key(|pool| (pool.creation_timestamp().map(|time| time.0), pool.name_any()));
    let mut used: Vec<&IPPool> = Vec::new();
    let mut shadowed = BTreeMap::new();
    for pool in by_age {
        match used.iter().find(|older| older.spec.cidr.overlaps(pool.spec.cidr)) {
            Some(older) => drop(shadowed.insert(pool.name_any(), older.name_any())),
            None => used.push(pool),
        }
    }
    shadowed
}

fn yes() -> bool {
    true
}

fn pods_only() -> Vec<AllowedUse> {
    vec![AllowedUse::Pod]
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    #[test]
    fn what_the_api_server_would_default_is_what_new_gives() {
        let sparse: IPPoolSpec =
            serde_json::from_value(serde_json::json!({"cidr": "fd00::/48"})).expect("a pool");
        assert_eq!(sparse, IPPoolSpec::new("fd00::/48".parse().expect("a network")));
        assert_eq!(sparse.block_len(), 122);
    }

    #[test]
    fn a_pool_is_shadowed_by_an_older_one_that_is_used_itself() {
        let pool = |name: &str, cidr: &str, second: i64| {
            let mut pool = IPPool::new(name, IPPoolSpec::new(cidr.parse().expect("a network")));
            let time = k8s_openapi::jiff::Timestamp::from_second(second).expect("in range");
            pool.metadata.creation_timestamp = Some(Time(time));
            pool
        };
        let pools = [
            pool("c", "10.0.3.0/24", 3),
            pool("b", "10.0.2.0/23", 2),
            pool("a", "10.0.0.0/22", 4),
            pool("d", "10.0.0.0/24", 5),
        ];
        let expected = [("a", "b"), ("c", "b")].map(|(one, other)| (one.to_owned(), other.to_owned()));
        assert_eq!(shadowed(&pools), BTreeMap::from(expected), "d lies in a only, which is not used");
    }
}
