//! The controller's part for claims of addresses: it lets go of what was deleted once no pod has it any more, and clears
//! what a node left behind that is gone for good. A node that is there clears its own.

use kube::api::{Patch, PostParams};
use kube::{Api, Client, ResourceExt as _};
use manx_api::{CLAIM_FINALIZER, IPClaim, IPClaimStatus};
use manx_ipam::NodeName;
use serde_json::json;

use super::census::{Census, Claim};
use super::hand::Hand;
use super::run::params;
use crate::shell::kube::{bounded, status_of};

/// Lets go of every claim that was deleted and that nobody holds.
pub(super) async fn let_go(client: &Client, census: &Census, hand: &Hand) {
    for ((namespace, name), claim) in &census.claims {
        let over = claim.deleting && claim.kept && claim.holder.is_none();
        if over && hand.may(|| format!("let go of IPClaim {namespace}/{name}, which was deleted")) {
            let result = release_object(&Api::namespaced(client.clone(), namespace), name).await;
            report(result, namespace, name);
        }
    }
}

/// Clears the claims that a node held which is gone for good.
pub(super) async fn clear(client: &Client, census: &Census, node: &NodeName, hand: &Hand) {
    for ((namespace, name), claim) in &census.claims {
        let left = claim.holder.as_ref() == Some(node);
        if left && hand.may(|| format!("let another node than {node} hold IPClaim {namespace}/{name}")) {
            let result = clear_holder(&Api::namespaced(client.clone(), namespace), name, node).await;
            report(result, namespace, name);
        }
    }
}

async fn release_object(api: &Api<IPClaim>, name: &str) -> anyhow::Result<()> {
    let Some(claim) = bounded(api.get_opt(name)).await? else { return Ok(()) };
    // The watch may lag: a node that holds it now still has the addresses.
    let holder = claim.status.as_ref().and_then(|status| status.node.as_ref());
    if claim.metadata.deletion_timestamp.is_none() || holder.is_some() {
        return Ok(());
    }
    let finalizers: Vec<&String> =
        claim.finalizers().iter().filter(|finalizer| *finalizer != CLAIM_FINALIZER).collect();
    let metadata = json!({ "finalizers": finalizers, "resourceVersion": claim.resource_version() });
    bounded(api.patch(name, &params(), &Patch::Merge(json!({ "metadata": metadata })))).await.map(drop)
}

async fn clear_holder(api: &Api<IPClaim>, name: &str, node: &NodeName) -> anyhow::Result<()> {
    let Some(mut claim) = bounded(api.get_opt(name)).await? else { return Ok(()) };
    let Some(status) = claim.status.take().filter(|status| status.node.as_deref() == Some(node.as_str()))
    else {
        return Ok(());
    };
    claim.status = Some(IPClaimStatus { reserved: status.reserved, ..IPClaimStatus::default() });
    // With the version that was read: a node that takes it at this moment wins.
    bounded(api.replace_status(name, &PostParams::default(), &claim)).await?;
    tracing::info!(claim = name, %node, "the claim of a node that is gone can be held again");
    Ok(())
}

fn report(result: anyhow::Result<()>, namespace: &str, name: &str) {
    if let Err(error) = result
        && !matches!(status_of(&error), Some(404 | 409))
    {
        tracing::warn!(
            error = format!("{error:#}"),
            namespace,
            name,
            "an IPClaim cannot be changed or removed; it is tried again"
        );
    }
}

impl Claim {
    /// Reads what counts.
    pub(super) fn read(object: &IPClaim) -> ((String, String), Self) {
        let holder = object.status.as_ref().and_then(|status| status.node.as_deref()).map(NodeName::from);
        let claim = Self {
            holder,
            deleting: object.metadata.deletion_timestamp.is_some(),
            kept: object.finalizers().iter().any(|finalizer| finalizer == CLAIM_FINALIZER),
        };
        ((object.namespace().unwrap_or_default(), object.name_any()), claim)
    }
}
