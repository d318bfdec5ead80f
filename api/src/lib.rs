//! The custom resources of Manx: what people write to the Kubernetes API to say how pods get their addresses and
//! whom the nodes speak BGP with, and what agents and the controller write there about the state of things.
//!
//! | kind | written by | says |
//! |---|---|---|
//! | [`IPPool`] | people | a prefix that pods get addresses from, and its rules |
//! | [`IPBlock`] | agents | one block of a pool and the node that owns it |
//! | [`IPClaim`] | agents, people | addresses that follow the name of a pod, and the node that has them |
//! | [`BGPConfiguration`] | people | what is true for every BGP session of the cluster |
//! | [`BGPPeer`] | people | whom some nodes speak BGP with |
//! | [`BGPFilter`] | people | ordered rules on what is believed and what is told |
//! | [`NodeNetwork`] | agents | a node's addresses and BGP identity, and the state of its sessions |
//!
//! Everything that one object alone can get wrong is refused at the door: by the schema, and by CEL rules that stand
//! beside the fields they guard. The same rules are in the types ([`Cidr`], [`PeerAsn`], [`Community`] …), so that a
//! value that was read needs no second check. What takes two objects to get wrong (pools that overlap, a filter that
//! does not exist) becomes a condition, set with [`set_condition`].
//!
//! This crate depends on no other crate of the workspace, opens nothing and reads no clock. `cargo xtask crds` writes
//! what [`crds()`] returns to `deploy/crds/`.

#![expect(clippy::duplicated_attributes, reason = "kube takes one attribute per printer column and rule")]
#![expect(unreachable_pub, reason = "KubeSchema repeats each struct, still pub, inside a function")]

mod address;
mod asn;
mod block;
mod claim;
mod community;
mod condition;
mod config;
mod crds;
mod filter;
mod node;
mod peer;
mod pool;
mod selector;

pub use address::{Address, AddressError, Cidr, CidrError, PeerAddress, PeerAddressError};
pub use asn::{AsnError, PeerAsn};
pub use block::{Allocation, IPBlock, IPBlockSpec, IPBlockStatus, block_name, label_value};
pub use claim::{IPClaim, IPClaimSpec, IPClaimStatus};
pub use community::{Community, CommunityError, CommunityPattern};
pub use condition::{condition, is_true, set_condition};
pub use config::{
    BGPConfiguration, BGPConfigurationSpec, BGPConfigurationStatus, GracefulRestart, GracefulShutdown,
    LimitAction, LongLivedGracefulRestart, MaxPrefixes, MonitoringStation, NamedCommunity,
    PrefixAdvertisement, RouteReflector, Topology,
};
pub use crds::crds;
pub use filter::{
    AsPathMatch, BGPFilter, BGPFilterSpec, BGPFilterStatus, CommunityMatch, FilterAction, FilterRule,
    FilterSource, MatchOperator, PeerType, PrefixLength,
};
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
/// The clock type of [`Time`]: arguments named `now` take it.
pub use k8s_openapi::jiff::Timestamp;
pub use node::{
    NodeAddresses, NodeNetwork, NodeNetworkSpec, NodeNetworkStatus, Session, SessionError, SessionFamily,
    SessionState,
};
pub use peer::{
    AddPath, BGPPeer, BGPPeerSpec, BGPPeerStatus, LocalAs, NextHopMode, PeerRange, PeerTarget, Role,
    SecretKeyRef, SourceAddress,
};
pub use pool::{
    AllowedUse, AssignmentMode, BlockSource, IPPool, IPPoolSpec, IPPoolStatus, PoolAnnouncement, shadowed,
};
pub use selector::{LabelSelector, Operator, Requirement, selects};

/// The API group of every kind here.
pub const GROUP: &str = "manx.dev";

/// The version of every kind here.
pub const VERSION: &str = "v1alpha1";

/// Label of an [`IPBlock`] that names its owner; its value is [`label_value`] of the node's name.
pub const NODE_LABEL: &str = "manx.dev/node";

/// Label of an [`IPBlock`] that names the pool it was cut from.
pub const POOL_LABEL: &str = "manx.dev/pool";

/// Finalizer of an [`IPPool`]: it keeps the pool until its last block is gone.
pub const POOL_FINALIZER: &str = "manx.dev/blocks";

/// Finalizer of an [`IPClaim`]: it keeps the claim until no pod has its addresses.
pub const CLAIM_FINALIZER: &str = "manx.dev/addresses";

/// Name of the only [`BGPConfiguration`] that is heeded (the door refuses any other).
pub const DEFAULT_CONFIGURATION: &str = "default";
