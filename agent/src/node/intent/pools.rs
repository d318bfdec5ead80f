//! Addresses: the pools that give them on this node, what our blocks are announced with, what is masqueraded.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use kube::ResourceExt as _;
use manx_api::{AllowedUse, AssignmentMode, BGPConfigurationSpec, Cidr, IPPool, selects};
use manx_bgp::{Community, ExtendedCommunity, LargeCommunity, OriginAttributes, Prefix};
use manx_ipam::{BlockId, Pool};

use super::Problem;
use crate::node::cluster::{Cluster, OwnNode};

/// The pools that may be used on this node, the oldest first: of two that overlap the older one counts.
pub(super) fn for_node(cluster: &Cluster, node: &OwnNode, problems: &mut BTreeSet<Problem>) -> Vec<Pool> {
    let mut chosen: Vec<&IPPool> = selected(cluster, node).collect();
    chosen.sort_by_key(|pool| (pool.creation_timestamp().map(|time| time.0), pool.name_any()));
    let mut pools = Vec::new();
    for pool in chosen {
        match read(pool) {
            Ok(mut pool) => {
                pool.closed = cluster.closed;
                pools.push(pool);
            }
            Err(error) => {
                problems.insert(Problem::new("IPPool", &pool.name_any(), error.to_string()));
            }
        }
    }
    pools
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
