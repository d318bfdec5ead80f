//! Which pods may have addresses of which pools.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use kube::ResourceExt as _;
use manx_api::{AllowedUse, AssignmentMode, LabelSelector, selects, shadowed};
use manx_ipam::Family;

use crate::node::cluster::{Cluster, OwnNode};
use crate::node::pods::{NamespaceNotes, Namespaces};

/// The pools for pods, those of other nodes too, and the namespaces by which they choose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodPools {
    pools: BTreeMap<String, PodPool>,
    namespaces: Namespaces,
}

/// A pool, as far as it chooses its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPool {
    /// Its network.
    pub cidr: IpNetwork,
    /// It selects this node, and no older pool has its addresses.
    pub here: bool,
    /// It gives addresses to pods that do not name it.
    pub automatic: bool,
    /// It gives no new addresses.
    pub disabled: bool,
    /// Whose pods may have its addresses; anybody's where it is unset.
    pub namespaces: Option<LabelSelector>,
}

impl PodPool {
    /// The family of its addresses.
    pub fn family(&self) -> Family {
        Family::of(self.cidr.ip())
    }

    /// Whether pods of this namespace may have its addresses, however they ask for them. Nobody knows the labels of
    /// `None`.
    pub fn admits(&self, namespace: Option<&NamespaceNotes>) -> bool {
        let chooses =
            |selector: &LabelSelector| namespace.is_some_and(|notes| selector.matches(&notes.labels));
        self.namespaces.as_ref().is_none_or(chooses)
    }

    /// Whether a pod on this node gets an address of it without naming it.
    pub fn serves(&self) -> bool {
        self.here && self.automatic && !self.disabled
    }
}

impl PodPools {
    pub(super) fn new(cluster: &Cluster, node: &OwnNode) -> Self {
        let for_pods =
            cluster.pools.values().filter(|pool| pool.spec.allowed_uses.contains(&AllowedUse::Pod));
        let shadowed = shadowed(cluster.pools.values().map(|pool| &**pool));
        let pools = for_pods.map(|pool| {
            let spec = &pool.spec;
            let read = PodPool {
                cidr: spec.cidr.network(),
                here: selects(spec.node_selector.as_ref(), &node.labels)
                    && !shadowed.contains_key(&pool.name_any()),
                automatic: spec.assignment_mode == AssignmentMode::Automatic,
                disabled: spec.disabled || pool.metadata.deletion_timestamp.is_some(),
                namespaces: spec.namespace_selector.clone(),
            };
            (pool.name_any(), read)
        });
        Self { pools: pools.collect(), namespaces: Arc::clone(&cluster.namespaces) }
    }

    /// These pools and namespaces.
    pub fn of(pools: impl IntoIterator<Item = (String, PodPool)>, namespaces: Namespaces) -> Self {
        Self { pools: pools.into_iter().collect(), namespaces }
    }

    /// All pools by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &PodPool)> {
        self.pools.iter()
    }

    /// The pool of this name.
    pub fn get(&self, name: &str) -> Option<&PodPool> {
        self.pools.get(name)
    }

    /// What is known of a namespace.
    pub fn namespace(&self, name: &str) -> Option<&Arc<NamespaceNotes>> {
        self.namespaces.get(name)
    }

    /// Whether any pool that serves this node serves every pod, which is the rule.
    pub fn open_to_all(&self) -> bool {
        self.pools.values().filter(|pool| pool.serves()).all(|pool| pool.namespaces.is_none())
    }
}
