//! Before everything is taken off a cluster: finalizers are lifted that only a controller would lift, and then there is
//! none. Without this the definitions would wait for ever for their last objects.

use kube::api::{ListParams, Patch};
use kube::{Api, Client, Resource, ResourceExt as _};
use manx_api::{CLAIM_FINALIZER, IPClaim, IPPool, POOL_FINALIZER};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::run::params;
use crate::shell::kube::{bounded, status_of};

/// Lifts our finalizer off every pool and every claim. No controller and no agent may run: they would put it back.
///
/// # Errors
/// When the API server cannot be asked or refuses; what was lifted until then stays so.
pub(super) async fn run(client: &Client) -> anyhow::Result<()> {
    let pools: Vec<IPPool> = all(client).await?;
    for pool in pools {
        lift(&Api::all(client.clone()), &pool, POOL_FINALIZER).await?;
    }
    let claims: Vec<IPClaim> = all(client).await?;
    for claim in claims {
        let namespace = claim.namespace().unwrap_or_default();
        lift(&Api::namespaced(client.clone(), &namespace), &claim, CLAIM_FINALIZER).await?;
    }
    Ok(())
}

/// All objects of a kind; none where the kind itself is gone.
async fn all<K>(client: &Client) -> anyhow::Result<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    match bounded(Api::<K>::all(client.clone()).list(&ListParams::default())).await {
        Ok(list) => Ok(list.items),
        Err(error) if status_of(&error) == Some(404) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

async fn lift<K>(api: &Api<K>, object: &K, finalizer: &str) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let ours = |name: &&String| name.as_str() == finalizer;
    if !object.finalizers().iter().any(|name| ours(&name)) {
        return Ok(());
    }
    let others: Vec<&String> = object.finalizers().iter().filter(|name| !ours(name)).collect();
    let metadata = json!({ "finalizers": others, "resourceVersion": object.resource_version() });
    let name = object.name_any();
    match bounded(api.patch(&name, &params(), &Patch::Merge(json!({ "metadata": metadata })))).await {
        Ok(_) => tracing::info!(kind = %K::kind(&()), name, "let go"),
        Err(error) if status_of(&error) == Some(404) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}
