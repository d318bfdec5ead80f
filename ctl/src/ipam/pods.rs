//! What the audit needs to know of pods: little, since there are many.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};

/// Pods that are read at a time.
const PAGE: u32 = 500;

/// A pod of the API that has a network of its own and a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PodSeen {
    /// `namespace/name`.
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) node: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) phase: String,
    /// Somebody deleted it.
    pub(crate) leaving: bool,
}

impl PodSeen {
    /// What counts of a pod; none of one without a node, or in the node's own network.
    pub(crate) fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref().filter(|spec| spec.host_network != Some(true))?;
        let status = pod.status.as_ref();
        let addresses = status.iter().flat_map(|status| status.pod_ips.iter().flatten());
        Some(Self {
            name: format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()),
            uid: pod.uid().unwrap_or_default(),
            node: spec.node_name.clone()?,
            addresses: addresses.filter_map(|one| one.ip.parse().ok()).collect(),
            phase: status.and_then(|status| status.phase.clone()).unwrap_or_default(),
            leaving: pod.metadata.deletion_timestamp.is_some(),
        })
    }

    /// Its processes run, or may.
    pub(crate) fn lives(&self) -> bool {
        !self.leaving && !matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }
}

/// Every pod of the cluster.
pub(crate) async fn all(client: &Client) -> Result<Vec<PodSeen>> {
    let api: Api<Pod> = Api::all(client.clone());
    let mut pods = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&params).await.context("cannot list pods")?;
        pods.extend(page.items.iter().filter_map(PodSeen::of));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(pods),
        }
    }
}
