//! Reads what a plan is made of from the API server.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node as KubeNode;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt};
use serde::de::DeserializeOwned;

use super::calico::{Calico, Named, Node};

/// Group and version of Calico's Kubernetes datastore.
const GROUP: &str = "crd.projectcalico.org";
const VERSION: &str = "v1";
/// Objects in one page of a list.
const PAGE: u32 = 500;

/// Everything of Calico's, and the Nodes.
///
/// # Errors
/// When the cluster cannot be asked, has no Calico with its datastore in Kubernetes, or an object cannot be read.
pub(crate) async fn calico(client: &Client) -> Result<Calico> {
    let pools = list(client, "IPPool", "ippools").await?;
    let Some(pools) = pools else {
        anyhow::bail!(
            "there is no Calico with its datastore in Kubernetes here: no kind IPPool of {GROUP}/{VERSION} \
             (a datastore in etcd can be moved to Kubernetes with calicoctl datastore migrate)"
        );
    };
    let ipam = list(client, "IPAMConfig", "ipamconfigs").await?.unwrap_or_default();
    Ok(Calico {
        pools,
        blocks: list(client, "IPAMBlock", "ipamblocks").await?.unwrap_or_default(),
        affinities: list(client, "BlockAffinity", "blockaffinities").await?.unwrap_or_default(),
        ipam: ipam.into_iter().find(|object| object.name == "default").map(|object| object.spec),
        reservations: list(client, "IPReservation", "ipreservations").await?.unwrap_or_default(),
        bgp: list(client, "BGPConfiguration", "bgpconfigurations").await?.unwrap_or_default(),
        peers: list(client, "BGPPeer", "bgppeers").await?.unwrap_or_default(),
        filters: list(client, "BGPFilter", "bgpfilters").await?.unwrap_or_default(),
        felix: list(client, "FelixConfiguration", "felixconfigurations").await?.unwrap_or_default(),
        nodes: nodes(client).await?,
    })
}

/// All objects of a kind; `None` where there is no such kind, as in older versions.
async fn list<S: DeserializeOwned>(
    client: &Client,
    kind: &str,
    plural: &str,
) -> Result<Option<Vec<Named<S>>>> {
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, kind), plural);
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let mut found = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = match api.list(&params).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
            page => page.with_context(|| format!("cannot list Calico's {kind}"))?,
        };
        for mut object in page.items {
            let name = object.name_any();
            let spec = object.data["spec"].take();
            let spec = if spec.is_null() { serde_json::json!({}) } else { spec };
            let spec = serde_json::from_value(spec).with_context(|| {
                format!("{kind} {name} of Calico is not as this version of manxctl knows it")
            })?;
            found.push(Named { name, spec });
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(Some(found)),
        }
    }
}

async fn nodes(client: &Client) -> Result<Vec<Node>> {
    let nodes = Api::<KubeNode>::all(client.clone()).list_metadata(&ListParams::default()).await;
    let nodes = nodes.context("cannot list Nodes")?;
    let read = |node: kube::core::PartialObjectMeta<KubeNode>| Node {
        name: node.name_any(),
        labels: node.labels().clone(),
        annotations: node.annotations().clone(),
    };
    Ok(nodes.items.into_iter().map(read).collect())
}
