//! Addresses: the pools that give them on this node, what our blocks are announced with, what is masqueraded.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use kube::ResourceExt as _;
use manx_api::{
    AllowedUse, AssignmentMode, BGPConfigurationSpec, BlockSource, Cidr, IPPool, selects, shadowed,
};
use manx_bgp::{Community, ExtendedCommunity, LargeCommunity, OriginAttributes, Prefix};
use manx_ipam::{BlockId, Family, Pool};

use super::Problem;
use crate::node::cluster::{Cluster, OwnNode};

/// The pools that may be used on this node, in the order in which they give: by priority, then the oldest. Of two that
/// overlap the older one counts, on every node alike.
pub(super) fn for_node(cluster: &Cluster, node: &OwnNode, problems: &mut BTreeSet<Problem>) -> Vec<Pool> {
    let shadowed = shadowed(cluster.pools.values().map(|pool| &**pool));
    let mut chosen: Vec<&IPPool> = selected(cluster, node).collect();
    chosen.sort_by_key(|pool| {
        (Reverse(pool.spec.priority), pool.creation_timestamp().map(|time| time.0), pool.name_any())
    });
    let mut pools = Vec::new();
    for object in chosen {
        let name = object.name_any();
        if let Some(older) = shadowed.get(&name) {
            let text = format!(
                "is not used: {} has addresses of the older IPPool {older}; delete one of the two",
                object.spec.cidr
            );
            problems.insert(Problem::new("IPPool", &name, text));
            continue;
        }
        match read(object) {
            Ok(mut pool) => {
                pool.closed = cluster.closed;
                if object.spec.block_source == BlockSource::NodePodCIDRs && !pool.closed {
                    let (within, faults) = within(&pool, node);
                    let elsewhere = within.is_empty() && another_follows(cluster, node, &pool);
                    for text in faults.into_iter().filter(|_| !elsewhere) {
                        problems.insert(Problem::new("IPPool", &name, text));
                    }
                    pool.within = Some(within);
                }
                pools.push(pool);
            }
            Err(error) => {
                problems.insert(Problem::new("IPPool", &name, error.to_string()));
            }
        }
    }
    pools
}

/// The podCIDRs of the node in which blocks of a pool lie, and what is wrong with the others.
fn within(pool: &Pool, node: &OwnNode) -> (Vec<IpNetwork>, Vec<String>) {
    let family = pool.family();
    let ours = node.pod_cidrs.iter().filter(|network| Family::of(network.ip()) == family);
    let (mut within, mut faults) = (Vec::new(), Vec::new());
    for network in ours {
        if pool.cidr.contains(network.network()) && network.prefix() > pool.block_len {
            faults.push(format!(
                "takes its blocks from the node's podCIDRs, and {network} is smaller than one block (/{}): make a pool with a blockSize of {} or more",
                pool.block_len,
                network.prefix()
            ));
        } else if pool.cidr.contains(network.network()) || network.contains(pool.cidr.network()) {
            within.push(*network);
        } else {
            faults.push(format!(
                "takes its blocks from the node's podCIDRs, and {network} lies outside of {}: make a pool around it, or set blockSource to Claim",
                pool.cidr
            ));
        }
    }
    if within.is_empty() && faults.is_empty() {
        faults.push(format!(
            "takes its blocks from the node's podCIDRs, and the Node has no {family} one: let the controller manager allocate them (--allocate-node-cidrs), or set blockSource to Claim"
        ));
    }
    (within, faults)
}

/// Whether the node's podCIDRs of that family are for another pool.
fn another_follows(cluster: &Cluster, node: &OwnNode, pool: &Pool) -> bool {
    let following = selected(cluster, node).filter(|other| {
        other.spec.block_source == BlockSource::NodePodCIDRs && other.name_any() != pool.name
    });
    let of_family = |network: &&IpNetwork| Family::of(network.ip()) == pool.family();
    following.into_iter().any(|other| {
        let cidr = other.spec.cidr.network();
        node.pod_cidrs.iter().filter(of_family).any(|network| cidr.contains(network.network()))
    })
}

fn selected<'a>(cluster: &'a Cluster, node: &'a OwnNode) -> impl Iterator<Item = &'a IPPool> {
    cluster.pools.values().map(|pool| &**pool).filter(|pool| {
        pool.spec.allowed_uses.contains(&AllowedUse::Pod)
            && selects(pool.spec.node_selector.as_ref(), &node.labels)
    })
}

fn read(object: &IPPool) -> Result<Pool, manx_ipam::PoolError> {
    let spec = &object.spec;
    let mut pool = Pool::new(object.name_any(), spec.cidr.network(), spec.block_len())?;
    // A pool on its way out keeps its pods and gives no new addresses, like a disabled one.
    pool.disabled = spec.disabled || object.metadata.deletion_timestamp.is_some();
    pool.automatic = spec.assignment_mode == AssignmentMode::Automatic;
    pool.reserved = spec.reserved.iter().map(|cidr| cidr.network()).collect();
    pool.restricted = spec.namespace_selector.is_some();
    pool.max_blocks = spec.max_blocks_per_node.and_then(|most| usize::try_from(most).ok());
    pool.cooldown = spec.cooldown_seconds.map(|seconds| Duration::from_secs(seconds.into()));
    Ok(pool)
}

/// What our own announcements carry, by where they lie.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Announcement {
    rules: Vec<(Cidr, OriginAttributes)>,
}

impl Announcement {
    /// The routes to announce for these blocks.
    pub fn origins(&self, owned: &BTreeSet<BlockId>) -> BTreeMap<Prefix, OriginAttributes> {
        owned.iter().filter_map(|block| self.origin(block.cidr())).collect()
    }

    /// The routes to announce for single addresses.
    pub fn hosts(&self, addresses: &BTreeSet<IpAddr>) -> BTreeMap<Prefix, OriginAttributes> {
        addresses.iter().filter_map(|address| self.origin(IpNetwork::from(*address))).collect()
    }

    fn origin(&self, block: IpNetwork) -> Option<(Prefix, OriginAttributes)> {
        let cidr = Cidr::try_from(block).ok()?;
        let mut attributes = OriginAttributes::default();
        for (_, more) in self.rules.iter().filter(|(within, _)| within.contains(cidr)) {
            attributes.communities.extend(&more.communities);
            attributes.extended_communities.extend(&more.extended_communities);
            attributes.large_communities.extend(&more.large_communities);
            attributes.local_pref = attributes.local_pref.or(more.local_pref);
            attributes.med = attributes.med.or(more.med);
        }
        Some((Prefix::new(block).ok()?, attributes))
    }
}

pub(super) fn announcement(
    cluster: &Cluster,
    config: &BGPConfigurationSpec,
    problems: &mut BTreeSet<Problem>,
) -> Announcement {
    let mut rules = Vec::new();
    for advertisement in &config.prefix_advertisements {
        let mut communities = Vec::new();
        for text in &advertisement.communities {
            match config.community(text) {
                Some(community) => communities.push(community),
                None => {
                    let text =
                        format!("{text:?} in prefixAdvertisements is neither a community nor a name of one");
                    problems.insert(Problem::new("BGPConfiguration", "default", text));
                }
            }
        }
        rules.push((advertisement.cidr, Tags::new(&communities).attributes()));
    }
    let of_pools = cluster.pools.values().filter_map(|pool| {
        let wanted = pool.spec.announcement.as_ref()?;
        let tags = Tags::new(&wanted.communities).attributes();
        let attributes = OriginAttributes { local_pref: wanted.local_preference, med: wanted.med, ..tags };
        Some((pool.spec.cidr, attributes))
    });
    rules.extend(of_pools);
    Announcement { rules }
}

/// Communities by kind.
#[derive(Debug, Default)]
pub(super) struct Tags {
    pub(super) standard: BTreeSet<Community>,
    pub(super) extended: BTreeSet<ExtendedCommunity>,
    pub(super) large: BTreeSet<LargeCommunity>,
}

impl Tags {
    pub(super) fn new(communities: &[manx_api::Community]) -> Self {
        let mut tags = Self::default();
        for community in communities {
            match *community {
                manx_api::Community::Standard(high, low) => {
                    tags.standard.insert(Community::new(high, low));
                }
                manx_api::Community::Large(global, local1, local2) => {
                    tags.large.insert(LargeCommunity { global, local1, local2 });
                }
                manx_api::Community::Target(..) | manx_api::Community::Origin(..) => {
                    // Written the same in both worlds.
                    tags.extended.extend(community.to_string().parse::<ExtendedCommunity>());
                }
            }
        }
        tags
    }

    fn attributes(self) -> OriginAttributes {
        OriginAttributes {
            communities: self.standard,
            extended_communities: self.extended,
            large_communities: self.large,
            ..OriginAttributes::default()
        }
    }
}

/// What leaves the cluster under the node's address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NatIntent {
    /// Sources that are masqueraded: the natOutgoing pools.
    pub sources: BTreeSet<IpNetwork>,
    /// Destinations that never are: all pools.
    pub inside: BTreeSet<IpNetwork>,
}

pub(super) fn nat(cluster: &Cluster) -> NatIntent {
    let masqueraded = cluster.pools.values().filter(|pool| pool.spec.nat_outgoing);
    NatIntent {
        sources: masqueraded.map(|pool| pool.spec.cidr.network()).collect(),
        inside: cluster.pools.values().map(|pool| pool.spec.cidr.network()).collect(),
    }
}
