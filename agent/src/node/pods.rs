//! The pods of this node and their namespaces, as far as their annotations count: what the API server said of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::{Deserialize, Serialize};

use super::asks::{self, Annotations};

/// On the API server's image of a pod that is defined by a file of the node: the UID that kubelet and runtime use.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What a pod is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name there.
    pub name: String,
}

/// What counts of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNotes {
    /// Its UID.
    pub uid: String,
    /// The UID by which the runtime knows it, if that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirrored: Option<String>,
    /// Its annotations that count.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: Annotations,
    /// Its controller; kept only where something is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<Controller>,
}

/// Who makes a pod anew when it goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Controller {
    /// Its `apiVersion`.
    pub api_version: String,
    /// Its kind, such as `StatefulSet`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// What counts of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceNotes {
    /// Its labels; empty while no pool selects by them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its annotations that count.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: Annotations,
}

/// The pods of this node.
pub type Pods = Arc<BTreeMap<PodName, Arc<PodNotes>>>;

/// All namespaces.
pub type Namespaces = Arc<BTreeMap<String, Arc<NamespaceNotes>>>;

/// What the API server said when it was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LookedUp {
    /// The pod, if there is one.
    pub pod: Option<PodNotes>,
    /// Its namespace, if there is one.
    pub namespace: Option<NamespaceNotes>,
}

impl PodName {
    /// The name of the pod with this metadata.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

impl PodNotes {
    /// Reads what counts.
    pub fn read(meta: &ObjectMeta) -> Self {
        let all = meta.annotations.as_ref();
        let annotations = all.map(asks::of_pod).unwrap_or_default();
        let owners = meta.owner_references.iter().flatten();
        let controller =
            owners.filter(|_| !annotations.is_empty()).find(|owner| owner.controller == Some(true));
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            mirrored: all.and_then(|all| all.get(MIRROR)).cloned(),
            controller: controller.map(Controller::read),
            annotations,
        }
    }

    /// Whether this is the pod that the runtime means: names are used again, by a StatefulSet at once.
    pub fn is(&self, uid: Option<&str>) -> bool {
        uid.is_none_or(|uid| uid == self.uid || Some(uid) == self.mirrored.as_deref())
    }
}

impl Controller {
    fn read(owner: &OwnerReference) -> Self {
        Self {
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        }
    }
}

impl NamespaceNotes {
    /// Reads what counts, all labels included.
    pub fn read(meta: &ObjectMeta) -> Self {
        Self {
            labels: meta.labels.clone().unwrap_or_default(),
            annotations: meta.annotations.as_ref().map(asks::of_namespace).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(annotations: &[(&str, &str)]) -> ObjectMeta {
        let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let owner = |name: &str, controller| OwnerReference {
            api_version: "apps/v1".to_owned(),
            kind: "StatefulSet".to_owned(),
            name: name.to_owned(),
            uid: "owner".to_owned(),
            controller: Some(controller),
            ..OwnerReference::default()
        };
        ObjectMeta {
            uid: Some("u1".to_owned()),
            annotations: Some(annotations.collect()),
            owner_references: Some(vec![owner("other", false), owner("web", true)]),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn only_what_counts_is_kept() {
        let plain = PodNotes::read(&meta(&[("example.com/large", "x")]));
        assert_eq!(plain, PodNotes { uid: "u1".to_owned(), ..PodNotes::default() });
        let asking = PodNotes::read(&meta(&[("manx.dev/sticky", "true"), ("example.com/large", "x")]));
        assert_eq!(asking.annotations.keys().collect::<Vec<_>>(), ["manx.dev/sticky"]);
        assert_eq!(asking.controller.map(|controller| controller.name).as_deref(), Some("web"));
    }

    #[test]
    fn a_pod_is_known_by_its_uid_and_one_from_a_file_by_that_of_the_file() {
        let pod = PodNotes::read(&meta(&[]));
        assert!(pod.is(Some("u1")) && pod.is(None) && !pod.is(Some("hash")));
        let mirror = PodNotes::read(&meta(&[(MIRROR, "hash")]));
        assert!(mirror.is(Some("u1")) && mirror.is(Some("hash")) && !mirror.is(Some("u2")));
    }
}
