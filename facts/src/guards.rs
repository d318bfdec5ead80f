//! What the kernel takes from the links of pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The guards of pods' links.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Guards {
    /// Pods' links of ours.
    pub links: usize,
    /// Those of which the kernel takes more than the pod may send.
    pub open: Vec<String>,
    /// Those of which the kernel's neighbours do not tell what they may bring.
    pub unknown: Vec<String>,
    /// The addresses of which it takes packets, link by link, without link-local ones.
    pub admitted: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Links that are gone, and whose guards are still there.
    pub strays: Vec<String>,
    /// How many pods' links there are of each MTU.
    pub mtus: BTreeMap<u32, usize>,
    /// Tables of nftables of ours besides those of links, as `nft` names them.
    pub tables: Vec<String>,
}
