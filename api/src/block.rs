//! `IPBlock`: one block of a pool and the node that owns it.
//!
//! The object is named by its network, so that the API server's uniqueness of names is the compare-and-swap between
//! nodes: create is a claim, delete with a precondition on resourceVersion is a release, update is a hand-over.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{Cidr, NODE_LABEL, POOL_LABEL};

/// A block of a pool, owned by a node. Agents create and delete these; the owner alone gives addresses from it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "manx.dev",
    version = "v1alpha1",
    kind = "IPBlock",
    plural = "ipblocks",
    shortname = "ipb",
    category = "manx",
    status = "IPBlockStatus",
    derive = "PartialEq",
    doc = "A block of a pool, owned by a node. Agents create and delete these; the owner alone gives addresses from it.",
    validation = (
        "self.metadata.name == self.spec.cidr.replace('.', '-').replace(':', '-').replace('/', '-')",
        "the name must be the cidr with - for . : and /, such as 10-244-3-64-26"
    ),
    selectable = ".spec.node",
    selectable = ".spec.pool",
    printcolumn(name = "CIDR", type_ = "string", json_path = ".spec.cidr"),
    printcolumn(name = "NODE", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "POOL", type_ = "string", json_path = ".spec.pool"),
    printcolumn(name = "USED", type_ = "integer", json_path = ".status.used", description = "addresses in use"),
    printcolumn(name = "FREE", type_ = "integer", json_path = ".status.free", description = "addresses that may be given"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = (
    "!isCIDR(self.cidr) || (cidr(self.cidr).ip().family() == 4 ? cidr(self.cidr).prefixLength() >= 20 : cidr(self.cidr).prefixLength() >= 112)",
    "a block must be /20 to /32 (IPv4) or /112 to /128 (IPv6)"
))]
pub struct IPBlockSpec {
    /// The block's network. It cannot change.
    #[x_kube(validation = ("self == oldSelf", "cidr cannot change: it is what the block is"))]
    pub cidr: Cidr,

    /// Name of the node that owns the block.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,

    /// Name of the pool that the block was cut from. It cannot change.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = ("self == oldSelf", "pool cannot change"))]
    pub pool: String,
}

/// What the owner last said of a block: at most about one write a second, so it may lag behind the node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct IPBlockStatus {
    /// Addresses in use.
    #[serde(default)]
    pub used: u32,

    /// Addresses that may be given.
    #[serde(default)]
    pub free: u32,

    /// Who uses which address, sorted by address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allocations: Vec<Allocation>,

    /// Which other network the allocations were copied from, such as calico: the owner has not taken those pods over
    /// yet, and until it has, it does not write here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub handed_over_by: Option<String>,
}

/// One address in use.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    /// The address.
    #[schemars(with = "String")]
    pub address: IpAddr,

    /// The pod as namespace/name, when the runtime told us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,

    /// The sandbox's id as the runtime gave it.
    pub container: String,

    /// Name of the interface in the pod.
    pub interface: String,

    /// When the address was given.
    pub since: Time,
}

impl IPBlock {
    /// The object that claims `cidr` for `node`: named by [`block_name`], with both labels.
    pub fn claim(cidr: Cidr, node: &str, pool: &str) -> Self {
        let spec = IPBlockSpec { cidr, node: node.to_owned(), pool: pool.to_owned() };
        let mut block = Self::new(&block_name(cidr.network()), spec);
        let labels = block.metadata.labels.get_or_insert_default();
        labels.insert(NODE_LABEL.to_owned(), label_value(node));
        labels.insert(POOL_LABEL.to_owned(), label_value(pool));
        block
    }

    /// The block of `deploy/examples/ipblock.yaml`.
    pub fn example() -> Self {
        Self::claim("10.244.3.64/26".parse().expect("a valid network"), "node1", "pods-v4")
    }
}

/// Name of the object of a block: its network with `-` for `.`, `:` and `/`.
///
/// ```
/// let name = |text: &str| manx_api::block_name(text.parse().expect("a network"));
/// assert_eq!(name("10.244.3.64/26"), "10-244-3-64-26");
/// assert_eq!(name("fd00:10:244::40/122"), "fd00-10-244--40-122");
/// ```
pub fn block_name(network: IpNetwork) -> String {
    network.to_string().replace(['.', ':', '/'], "-")
}

/// A node's or pool's name as a label's value: the name itself when it fits into 63 characters, else its beginning and
/// a hash (FNV-1a, 64 bits) of the whole.
pub fn label_value(name: &str) -> String {
    if name.len() <= 63 {
        return name.to_owned();
    }
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let beginning: String = name.chars().take(46).collect();
    format!("{beginning}-{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_claim_carries_both_labels() {
        let block = IPBlock::claim("fd00:10:244::40/122".parse().expect("a network"), "node1", "pods-v6");
        assert_eq!(block.metadata.name.as_deref(), Some("fd00-10-244--40-122"));
        let labels = block.metadata.labels.expect("labels");
        assert_eq!((labels[NODE_LABEL].as_str(), labels[POOL_LABEL].as_str()), ("node1", "pods-v6"));
    }

    #[test]
    fn long_names_stay_apart_as_labels() {
        let long = |end: &str| format!("{}{end}", "node-".repeat(40));
        assert_eq!(label_value("node1.example.com"), "node1.example.com");
        assert_eq!(label_value(&long("a")).len(), 63);
        assert_ne!(label_value(&long("a")), label_value(&long("b")));
    }

    proptest! {
        /// Names of objects are DNS subdomains (RFC 1123 §2.1): they begin and end with a letter or digit.
        #[test]
        fn names_of_blocks_of_pools_are_valid_and_unique(a in any::<u32>(), b in any::<u32>(), len in 20u8..=32) {
            let block = |bits: u32| {
                let ip = std::net::Ipv4Addr::from(bits & (u32::MAX << (32 - len)));
                IpNetwork::new(ip.into(), len).expect("a valid length")
            };
            let name = block_name(block(a));
            prop_assert!(name.bytes().all(|b| b.is_ascii_digit() || b == b'-'));
            prop_assert!(!name.starts_with('-') && !name.ends_with('-'));
            prop_assert_eq!(block(a) == block(b), name == block_name(block(b)));
        }
    }
}
