//! The built-in resources: what a network's agents, controllers, lab and operators touch, no more.
//!
//! Their shape comes from the types of `k8s-openapi`: an object is read into its type and written back, so a
//! wrong type is refused and an unknown field disappears, as it does in a real API server.

use k8s_openapi::api::{apps, coordination, core, discovery, events, rbac};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::resource::{Origin, Resource};

/// A built-in resource in one version.
#[derive(Debug)]
pub(crate) struct BuiltIn {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    namespaced: bool,
    status: bool,
    /// Whether an update without resourceVersion overwrites.
    pub(crate) unconditional_update: bool,
    /// Whether `metadata.generation` is kept.
    pub(crate) counts_generations: bool,
    /// The group under which the objects are kept, if not the same.
    storage_group: Option<&'static str>,
    /// Translation between the kept form and the one shown in this version.
    pub(crate) conversion: Option<Conversion>,
    /// What a field selector may name, and where that is.
    pub(crate) selectable: &'static [(&'static str, &'static str)],
    /// Reads the object into its type and writes it back.
    pub(crate) typed: fn(Value) -> Result<Value, String>,
}

/// How a version differs from what is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conversion {
    /// From storage to this version.
    pub(crate) shown: fn(&Value) -> Value,
    /// From this version to storage.
    pub(crate) kept: fn(&Value) -> Value,
}

impl BuiltIn {
    /// As an entry of the registry.
    pub(crate) fn resource(&'static self) -> Resource {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Resource {
            group: self.group.into(),
            version: self.version.into(),
            plural: self.plural.into(),
            singular: self.singular.into(),
            kind: self.kind.into(),
            list_kind: format!("{}List", self.kind),
            short_names: owned(self.short_names),
            categories: owned(self.categories),
            namespaced: self.namespaced,
            status: self.status,
            storage: (self.storage_group.unwrap_or(self.group).into(), self.plural.into()),
            origin: Origin::BuiltIn(self),
        }
    }
}

/// Reads `value` as a `T` and writes it back.
fn typed<T: Serialize + DeserializeOwned>(value: Value) -> Result<Value, String> {
    let object: T = serde_json::from_value(value).map_err(|e| e.to_string())?;
    serde_json::to_value(object).map_err(|e| e.to_string())
}

/// What most built-in resources have in common.
const PLAIN: BuiltIn = BuiltIn {
    group: "",
    version: "v1",
    plural: "",
    singular: "",
    kind: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    status: false,
    unconditional_update: true,
    counts_generations: false,
    storage_group: None,
    conversion: None,
    selectable: &[],
    typed: Ok,
};

/// Every built-in resource.
pub(crate) const ALL: &[BuiltIn] = &[
    BuiltIn {
        plural: "configmaps",
        singular: "configmap",
        kind: "ConfigMap",
        short_names: &["cm"],
        typed: typed::<core::v1::ConfigMap>,
        ..PLAIN
    },
    BuiltIn {
        plural: "events",
        singular: "event",
        kind: "Event",
        short_names: &["ev"],
        selectable: EVENT_FIELDS,
        typed: typed::<core::v1::Event>,
        ..PLAIN
    },
    BuiltIn {
        plural: "namespaces",
        singular: "namespace",
        kind: "Namespace",
        short_names: &["ns"],
        namespaced: false,
        status: true,
        selectable: &[("status.phase", "/status/phase")],
        typed: typed::<core::v1::Namespace>,
        ..PLAIN
    },
    BuiltIn {
        plural: "nodes",
        singular: "node",
        kind: "Node",
        short_names: &["no"],
        namespaced: false,
        status: true,
        selectable: &[("spec.unschedulable", "/spec/unschedulable")],
        typed: typed::<core::v1::Node>,
        ..PLAIN
    },
    BuiltIn {
        plural: "pods",
        singular: "pod",
        kind: "Pod",
        short_names: &["po"],
        categories: &["all"],
        status: true,
        selectable: &[
            ("spec.nodeName", "/spec/nodeName"),
            ("spec.restartPolicy", "/spec/restartPolicy"),
            ("spec.schedulerName", "/spec/schedulerName"),
            ("spec.serviceAccountName", "/spec/serviceAccountName"),
            ("spec.hostNetwork", "/spec/hostNetwork"),
            ("status.phase", "/status/phase"),
            ("status.podIP", "/status/podIP"),
            ("status.nominatedNodeName", "/status/nominatedNodeName"),
        ],
        typed: typed::<core::v1::Pod>,
        ..PLAIN
    },
    BuiltIn {
        plural: "secrets",
        singular: "secret",
        kind: "Secret",
        selectable: &[("type", "/type")],
        typed: typed::<core::v1::Secret>,
        ..PLAIN
    },
    BuiltIn {
        plural: "serviceaccounts",
        singular: "serviceaccount",
        kind: "ServiceAccount",
        short_names: &["sa"],
        unconditional_update: false,
        typed: typed::<core::v1::ServiceAccount>,
        ..PLAIN
    },
    BuiltIn {
        plural: "services",
        singular: "service",
        kind: "Service",
        short_names: &["svc"],
        categories: &["all"],
        status: true,
        selectable: &[("spec.clusterIP", "/spec/clusterIP"), ("spec.type", "/spec/type")],
        typed: typed::<core::v1::Service>,
        ..PLAIN
    },
    BuiltIn {
        group: "apiextensions.k8s.io",
        plural: "customresourcedefinitions",
        singular: "customresourcedefinition",
        kind: "CustomResourceDefinition",
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        namespaced: false,
        status: true,
        unconditional_update: false,
        counts_generations: true,
        typed: typed::<apiextensions::v1::CustomResourceDefinition>,
        ..PLAIN
    },
    BuiltIn {
        group: "apps",
        plural: "daemonsets",
        singular: "daemonset",
        kind: "DaemonSet",
        short_names: &["ds"],
        categories: &["all"],
        status: true,
        counts_generations: true,
        typed: typed::<apps::v1::DaemonSet>,
        ..PLAIN
    },
    BuiltIn {
        group: "apps",
        plural: "deployments",
        singular: "deployment",
        kind: "Deployment",
        short_names: &["deploy"],
        categories: &["all"],
        status: true,
        counts_generations: true,
        typed: typed::<apps::v1::Deployment>,
        ..PLAIN
    },
    BuiltIn {
        group: "coordination.k8s.io",
        plural: "leases",
        singular: "lease",
        kind: "Lease",
        unconditional_update: false,
        typed: typed::<coordination::v1::Lease>,
        ..PLAIN
    },
    BuiltIn {
        group: "discovery.k8s.io",
        plural: "endpointslices",
        singular: "endpointslice",
        kind: "EndpointSlice",
        counts_generations: true,
        typed: typed::<discovery::v1::EndpointSlice>,
        ..PLAIN
    },
    BuiltIn {
        group: "events.k8s.io",
        plural: "events",
        singular: "event",
        kind: "Event",
        short_names: &["ev"],
        storage_group: Some(""),
        conversion: Some(Conversion { shown: regarding_event, kept: core_event }),
        selectable: EVENT_FIELDS,
        typed: typed::<events::v1::Event>,
        ..PLAIN
    },
    BuiltIn {
        group: "rbac.authorization.k8s.io",
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        kind: "ClusterRoleBinding",
        namespaced: false,
        typed: typed::<rbac::v1::ClusterRoleBinding>,
        ..PLAIN
    },
    BuiltIn {
        group: "rbac.authorization.k8s.io",
        plural: "clusterroles",
        singular: "clusterrole",
        kind: "ClusterRole",
        namespaced: false,
        typed: typed::<rbac::v1::ClusterRole>,
        ..PLAIN
    },
    BuiltIn {
        group: "rbac.authorization.k8s.io",
        plural: "rolebindings",
        singular: "rolebinding",
        kind: "RoleBinding",
        typed: typed::<rbac::v1::RoleBinding>,
        ..PLAIN
    },
    BuiltIn {
        group: "rbac.authorization.k8s.io",
        plural: "roles",
        singular: "role",
        kind: "Role",
        typed: typed::<rbac::v1::Role>,
        ..PLAIN
    },
];

const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject.kind", "/involvedObject/kind"),
    ("involvedObject.namespace", "/involvedObject/namespace"),
    ("involvedObject.name", "/involvedObject/name"),
    ("involvedObject.uid", "/involvedObject/uid"),
    ("involvedObject.apiVersion", "/involvedObject/apiVersion"),
    ("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
    ("involvedObject.fieldPath", "/involvedObject/fieldPath"),
    ("regarding.kind", "/involvedObject/kind"),
    ("regarding.namespace", "/involvedObject/namespace"),
    ("regarding.name", "/involvedObject/name"),
    ("regarding.uid", "/involvedObject/uid"),
    ("reason", "/reason"),
    ("reportingComponent", "/reportingComponent"),
    ("reportingController", "/reportingComponent"),
    ("source", "/source/component"),
    ("type", "/type"),
];

/// Names of the same field in `v1` and in `events.k8s.io/v1`.
const EVENT_NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// A stored event as `events.k8s.io/v1` shows it.
fn regarding_event(stored: &Value) -> Value {
    let mut event = stored.clone();
    event["apiVersion"] = "events.k8s.io/v1".into();
    event["kind"] = "Event".into();
    rename(&mut event, EVENT_NAMES.iter().copied());
    event
}

/// An event of `events.k8s.io/v1` as it is stored.
fn core_event(sent: &Value) -> Value {
    let mut event = sent.clone();
    event["apiVersion"] = "v1".into();
    event["kind"] = "Event".into();
    rename(&mut event, EVENT_NAMES.iter().map(|(core, new)| (*new, *core)));
    if event.get("involvedObject").is_none() {
        event["involvedObject"] = json!({});
    }
    event
}

fn rename<'a>(object: &mut Value, names: impl Iterator<Item = (&'a str, &'a str)>) {
    let Some(map) = object.as_object_mut() else { return };
    for (from, to) in names {
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}
