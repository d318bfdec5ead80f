//! From a plan to writes: what is there already is compared first, and nothing is written when something conflicts.
//!
//! Everything may be repeated: what is there as planned stays, and who has which address is renewed until the owner of a
//! block has taken its pods over. Nothing of Calico's is ever written.

use std::collections::BTreeSet;
use std::fmt::Debug;

use anyhow::{Context, Result};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::core::ClusterResourceScope;
use kube::{Client, Resource, ResourceExt};
use manx_api::{BGPConfiguration, BGPFilter, BGPPeer, IPBlock, IPBlockStatus, IPPool};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::plan::{CALICO, NODE_PEER, ORIGIN_LABEL, Plan, Remarks};

/// Who writes.
const FIELD_MANAGER: &str = "manxctl-migrate";

/// The objects of ours that there are.
#[derive(Debug, Default)]
pub(crate) struct Existing {
    pub(crate) pools: Vec<IPPool>,
    pub(crate) configurations: Vec<BGPConfiguration>,
    pub(crate) filters: Vec<BGPFilter>,
    pub(crate) peers: Vec<BGPPeer>,
    pub(crate) blocks: Vec<IPBlock>,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    CreatePool(Box<IPPool>),
    CreateConfiguration(Box<BGPConfiguration>),
    CreateFilter(Box<BGPFilter>),
    CreatePeer(Box<BGPPeer>),
    /// The node that it stood for runs our agent now.
    DeletePeer(String),
    CreateBlock(Box<IPBlock>),
    /// Who has which address, of the object of this version.
    TellBlock {
        name: String,
        version: Option<String>,
        status: IPBlockStatus,
    },
}

/// What is to be written, in order. Remarks tell what is left as it is and what conflicts.
pub(crate) fn steps(plan: &Plan, existing: &Existing, nodes: &[String], remarks: &mut Remarks) -> Vec<Step> {
    let mut steps = Vec::new();
    for pool in &plan.pools {
        if !is_new(pool, &existing.pools, |pool| json!(pool.spec), remarks) {
            continue;
        }
        let other = existing.pools.iter().find(|other| other.spec.cidr.overlaps(pool.spec.cidr));
        if let Some(other) = other {
            let text = format!("it overlaps Manx's pool {}, {}", other.name_any(), other.spec.cidr);
            remarks.blocker(format!("IPPool {}", pool.name_any()), text);
        }
        steps.push(Step::CreatePool(Box::new(pool.clone())));
    }
    let configuration = plan.configuration.iter();
    let configuration = configuration
        .filter(|object| is_new(*object, &existing.configurations, |object| json!(object.spec), remarks));
    steps.extend(configuration.map(|object| Step::CreateConfiguration(Box::new(object.clone()))));
    let filters = plan.filters.iter();
    let filters =
        filters.filter(|object| is_new(*object, &existing.filters, |object| json!(object.spec), remarks));
    steps.extend(filters.map(|object| Step::CreateFilter(Box::new(object.clone()))));
    let peers = plan.peers.iter();
    let peers = peers.filter(|object| is_new(*object, &existing.peers, |object| json!(object.spec), remarks));
    steps.extend(peers.map(|object| Step::CreatePeer(Box::new(object.clone()))));
    steps.extend(outlived(plan, existing).map(Step::DeletePeer));
    let chosen = |block: &&IPBlock| nodes.is_empty() || nodes.contains(&block.spec.node);
    for block in plan.blocks.iter().filter(chosen) {
        steps.extend(block_step(block, existing, remarks));
    }
    steps
}

/// Peers that stood for nodes which do not run Calico any more.
fn outlived(plan: &Plan, existing: &Existing) -> impl Iterator<Item = String> {
    let planned: BTreeSet<String> = plan.peers.iter().map(ResourceExt::name_any).collect();
    let ours = existing.peers.iter().filter(|peer| is_ours(*peer)).map(ResourceExt::name_any);
    ours.filter(move |name| name.starts_with(NODE_PEER) && !planned.contains(name))
}

fn is_ours<K: Resource>(object: &K) -> bool {
    object.labels().get(ORIGIN_LABEL).is_some_and(|origin| origin == CALICO)
}

/// Whether an object is to be made. One of the same name that says otherwise stays as it is if an earlier run made it,
/// and is in the way if it did not.
fn is_new<K, V>(planned: &K, existing: &[K], spec: impl Fn(&K) -> V, remarks: &mut Remarks) -> bool
where
    K: Resource<DynamicType = ()>,
    V: PartialEq,
{
    let Some(found) = existing.iter().find(|found| found.name_any() == planned.name_any()) else {
        return true;
    };
    let about = format!("{} {}", K::kind(&()), planned.name_any());
    if spec(found) == spec(planned) {
        return false;
    }
    if is_ours(found) {
        remarks.warning(
            about,
            "Manx's object says otherwise by now and stays as it is; delete it to have it made anew",
        );
    } else {
        remarks.blocker(about, "Manx has an object of this name that says otherwise: delete or rename it");
    }
    false
}

fn block_step(block: &IPBlock, existing: &Existing, remarks: &mut Remarks) -> Vec<Step> {
    let name = block.name_any();
    let about = format!("IPBlock {}", block.spec.cidr);
    let Some(found) = existing.blocks.iter().find(|found| found.name_any() == name) else {
        let overlapping = existing.blocks.iter().find(|other| other.spec.cidr.overlaps(block.spec.cidr));
        if let Some(other) = overlapping {
            let text =
                format!("{} of {} overlaps it in Manx: let it go first", other.spec.cidr, other.spec.node);
            remarks.blocker(about, text);
        }
        return vec![Step::CreateBlock(Box::new(block.clone()))];
    };
    if found.spec.node != block.spec.node {
        let text = format!("in Manx it is {}'s, in Calico {}'s", found.spec.node, block.spec.node);
        remarks.blocker(about, text);
        return Vec::new();
    }
    let waits = match &found.status {
        Some(status) => status.handed_over_by.is_some(),
        // An earlier run was interrupted between object and status.
        None => is_ours(found),
    };
    match &block.status {
        Some(status) if waits && found.status.as_ref() != Some(status) => {
            vec![Step::TellBlock { name, version: found.resource_version(), status: status.clone() }]
        }
        _ => Vec::new(),
    }
}

impl Step {
    /// What was done, for people.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::CreatePool(object) => format!("created IPPool {}", object.name_any()),
            Self::CreateConfiguration(object) => format!("created BGPConfiguration {}", object.name_any()),
            Self::CreateFilter(object) => format!("created BGPFilter {}", object.name_any()),
            Self::CreatePeer(object) => format!("created BGPPeer {}", object.name_any()),
            Self::DeletePeer(name) => format!("deleted BGPPeer {name}"),
            Self::CreateBlock(object) => {
                let used = object.status.as_ref().map_or(0, |status| status.allocations.len());
                format!("created IPBlock {} of {} with {used} pods", object.spec.cidr, object.spec.node)
            }
            Self::TellBlock { name, status, .. } => {
                format!("told IPBlock {name} of {} pods", status.allocations.len())
            }
        }
    }

    /// Carries it out.
    pub(crate) async fn carry_out(&self, client: &Client) -> Result<()> {
        match self {
            Self::CreatePool(object) => create(client, &**object).await.map(drop),
            Self::CreateConfiguration(object) => create(client, &**object).await.map(drop),
            Self::CreateFilter(object) => create(client, &**object).await.map(drop),
            Self::CreatePeer(object) => create(client, &**object).await.map(drop),
            Self::DeletePeer(name) => {
                let deleted =
                    Api::<BGPPeer>::all(client.clone()).delete(name, &DeleteParams::default()).await;
                deleted.map(drop).with_context(|| format!("cannot delete BGPPeer {name}"))
            }
            Self::CreateBlock(object) => {
                let made = create(client, &**object).await?;
                match &object.status {
                    Some(status) => tell(client, &made.name_any(), made.resource_version(), status).await,
                    None => Ok(()),
                }
            }
            Self::TellBlock { name, version, status } => tell(client, name, version.clone(), status).await,
        }
    }
}

async fn create<K>(client: &Client, object: &K) -> Result<K>
where
    K: Resource<Scope = ClusterResourceScope, DynamicType = ()>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug,
{
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let made = Api::<K>::all(client.clone()).create(&params, object).await;
    made.with_context(|| format!("cannot create {} {}", K::kind(&()), object.name_any()))
}

/// Writes the status of a block, unless it is another version by now: its owner may have taken it over.
async fn tell(client: &Client, name: &str, version: Option<String>, status: &IPBlockStatus) -> Result<()> {
    let mut body = json!({ "metadata": { "resourceVersion": version }, "status": status });
    // A merge leaves out what the patch leaves out.
    body["status"]["allocations"] = json!(status.allocations);
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let told = Api::<IPBlock>::all(client.clone()).patch_status(name, &params, &Patch::Merge(body)).await;
    told.map(drop).with_context(|| format!("cannot write the status of IPBlock {name}"))
}
