//! `IPClaim`: addresses that belong to the name of a pod, on whichever node it runs.
//!
//! The object is named as the pod is, so there is one for each name. Its addresses are given to nobody else, on no node.
//! `status.node` is the compare-and-swap between nodes: only who stands there may give the addresses to the pod.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{Address, CLAIM_FINALIZER};

/// Addresses that follow the pod of this name for as long as the claim lives. Agents make one at the first start of a
/// pod that asks for it, and people may make one ahead.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "manx.dev",
    version = "v1alpha1",
    kind = "IPClaim",
    plural = "ipclaims",
    shortname = "ipclaim",
    category = "manx",
    namespaced,
    status = "IPClaimStatus",
    derive = "PartialEq",
    doc = "Addresses that follow the pod of this name for as long as the claim lives. Agents make one at the first start of a pod that asks for it, and people may make one ahead.",
    printcolumn(name = "ADDRESSES", type_ = "string", json_path = ".spec.addresses"),
    printcolumn(
        name = "NODE",
        type_ = "string",
        json_path = ".status.node",
        description = "where the pod of this name has them now"
    ),
    printcolumn(name = "SINCE", type_ = "date", json_path = ".status.since"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "RESERVED",
        type_ = "string",
        json_path = ".status.reserved",
        priority = 1,
        description = "addresses that nobody else can get any more"
    )
)]
#[x_kube(
    validation = (
        "self.addresses.all(a, !isIP(a) || self.addresses.exists_one(b, isIP(b) && ip(b).family() == ip(a).family()))",
        "at most one address of each family: a pod has no more"
    ),
    validation = (
        "oldSelf.addresses.all(a, a in self.addresses)",
        "an address can be added but neither changed nor taken away: delete the claim and make a new one"
    )
)]
pub struct IPClaimSpec {
    /// The pod's addresses, such as 10.244.3.70, at most one of each family, inside pools. A family that is missing is
    /// added when the pod first starts with an address of it.
    #[schemars(length(min = 1, max = 2))]
    pub addresses: Vec<Address>,
}

/// Who has the addresses. Agents write it, and the controller clears what a node left behind that is gone.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct IPClaimStatus {
    /// Name of the node on which the pod has the addresses; unset while it runs nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,

    /// UID of that pod, when the runtime told us.
    #[serde(default, rename = "podUID", skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,

    /// Since when it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,

    /// Addresses that the owner of their block has set aside: from then on no other pod can get them, whoever owns the
    /// block later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub reserved: Vec<Address>,
}

impl IPClaim {
    /// A claim of these addresses for the pod of that name. Its finalizer keeps it until no pod has them any more.
    pub fn of_pod(namespace: &str, name: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let addresses = addresses.into_iter().map(Address::from).collect();
        let mut claim = Self::new(name, IPClaimSpec { addresses });
        claim.metadata.namespace = Some(namespace.to_owned());
        claim.metadata.finalizers = Some(vec![CLAIM_FINALIZER.to_owned()]);
        claim
    }

    /// The claim of `deploy/examples/ipclaim.yaml`.
    pub fn example() -> Self {
        let addresses = ["10.244.3.70", "fd00:10:244::46"].map(|text| text.parse().expect("an address"));
        let mut claim = Self::new("db-0", IPClaimSpec { addresses: addresses.to_vec() });
        claim.metadata.namespace = Some("default".to_owned());
        claim
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_of_a_pod_is_named_like_it_and_does_not_vanish_under_it() {
        let claim = IPClaim::of_pod("shop", "db-0", ["10.244.3.70".parse().expect("an address")]);
        assert_eq!(claim.metadata.name.as_deref(), Some("db-0"));
        assert_eq!(claim.metadata.namespace.as_deref(), Some("shop"));
        assert_eq!(claim.metadata.finalizers, Some(vec!["manx.dev/addresses".to_owned()]));
        assert_eq!(claim.spec.addresses[0].to_string(), "10.244.3.70");
    }
}
