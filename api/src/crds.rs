//! All definitions, as they are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::{BGPConfiguration, BGPFilter, BGPPeer, IPBlock, IPClaim, IPPool, NodeNetwork};

/// The definitions of every kind, in the order in which people meet them.
///
/// These differ from each type's own `crd()` in what schema generators for Rust say and Kubernetes does not want:
/// `nullable` is gone (a missing value is missing, never null), and so are formats such as `uint16`, of which
/// `kubectl` would warn. Install these, not those.
pub fn crds() -> Vec<CustomResourceDefinition> {
    [
        IPPool::crd(),
        IPBlock::crd(),
        IPClaim::crd(),
        BGPConfiguration::crd(),
        BGPPeer::crd(),
        BGPFilter::crd(),
        NodeNetwork::crd(),
    ]
    .into_iter()
    .map(tidied)
    .collect()
}

fn tidied(crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let mut value = serde_json::to_value(crd).expect("a definition is plain data");
    tidy(&mut value);
    serde_json::from_value(value).expect("a definition without nullable and uint formats is one")
}

fn tidy(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("nullable") == Some(&Value::Bool(true)) {
                fields.remove("nullable");
            }
            if let Some(Value::String(format)) = fields.get_mut("format") {
                match format.as_str() {
                    "uint8" | "uint16" => "int32".clone_into(format),
                    "uint32" | "uint64" | "uint" => "int64".clone_into(format),
                    _ => {}
                }
            }
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_nullable_and_every_format_is_known() {
        let text = serde_json::to_string(&crds()).expect("plain data");
        assert!(!text.contains("\"nullable\""));
        assert!(!text.contains("\"uint"));
        assert!(!text.contains("\"anyOf\""), "a schema that is not structural");
    }

    #[test]
    fn every_kind_but_that_of_pods_is_cluster_scoped_and_each_has_a_status_and_is_in_the_category() {
        for crd in crds() {
            let scope = if crd.spec.names.kind == "IPClaim" { "Namespaced" } else { "Cluster" };
            assert_eq!((crd.spec.group.as_str(), crd.spec.scope.as_str()), (crate::GROUP, scope));
            let version = &crd.spec.versions[0];
            assert_eq!(version.name, crate::VERSION);
            assert!(version.subresources.as_ref().is_some_and(|subresources| subresources.status.is_some()));
            assert_eq!(crd.spec.names.categories, Some(vec!["manx".to_owned()]));
            assert_eq!(crd.spec.names.short_names.map(|names| names.len()), Some(1));
        }
    }
}
