//! The servers under test, and the resource that the tests use.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, ResourceExt};
use manx_tests::apiserver::{ApiServer, Config, Handle};
use serde_json::{Value, json};

/// A cluster for one test: a client, and names that no other test uses.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) kubeconfig: String,
    /// Unique to this test; a valid DNS label.
    pub(crate) scope: String,
    /// The embedded server, if it is one.
    pub(crate) handle: Option<Handle>,
}

impl Cluster {
    /// A fresh embedded server.
    pub(crate) async fn embedded() -> Self {
        Self::embedded_with(Config::default()).await
    }

    /// A fresh embedded server that behaves as told.
    pub(crate) async fn embedded_with(config: Config) -> Self {
        let handle = ApiServer::start(config).await.expect("a free port on the loopback");
        let kubeconfig = handle.kubeconfig();
        Self { client: handle.client(), kubeconfig, scope: fresh_scope(), handle: Some(handle) }
    }

    /// A server that runs elsewhere.
    pub(crate) fn remote(client: Client, kubeconfig: String) -> Self {
        Self { client, kubeconfig, scope: fresh_scope(), handle: None }
    }

    /// The embedded server of a test that is only about it.
    pub(crate) fn server(&self) -> &Handle {
        self.handle.as_ref().expect("the test is about the embedded server")
    }

    /// The group of this test's resources.
    pub(crate) fn group(&self) -> String {
        format!("{}.example.dev", self.scope)
    }

    /// Declares the cluster-scoped resource `widgets` in a group of this test's own and waits until it is served.
    pub(crate) async fn widgets(&self) -> Api<DynamicObject> {
        self.declare(widget_definition(&self.group())).await
    }

    /// Creates a definition with the plural `widgets` and waits until it is served.
    pub(crate) async fn declare(&self, definition: Value) -> Api<DynamicObject> {
        let definitions: Api<DynamicObject> = Api::all_with(self.client.clone(), &definition_resource());
        let object = serde_json::from_value(definition).expect("a definition is an object");
        definitions.create(&PostParams::default(), &object).await.expect("the definition is valid");
        let widgets = Api::all_with(self.client.clone(), &self.widget_resource());
        while widgets.list(&ListParams::default()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        widgets
    }

    /// How the client addresses this test's widgets.
    pub(crate) fn widget_resource(&self) -> ApiResource {
        let kind = GroupVersionKind::gvk(&self.group(), "v1", "Widget");
        ApiResource::from_gvk_with_plural(&kind, "widgets")
    }

    /// A widget whose `spec` is `spec`.
    pub(crate) fn widget(&self, name: &str, spec: &Value) -> DynamicObject {
        let mut object = DynamicObject::new(name, &self.widget_resource());
        object.data = json!({"spec": spec});
        object
    }

    /// Creates a namespace of this test's own.
    pub(crate) async fn namespace(&self) -> String {
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.client.clone());
        let object = serde_json::from_value(json!({"metadata": {"name": self.scope}})).expect("a namespace");
        namespaces.create(&PostParams::default(), &object).await.expect("the name is free");
        self.scope.clone()
    }
}

impl Cluster {
    /// Installs this project's own definitions and waits until all are served.
    pub(crate) async fn ours(&self) {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        for definition in manx_api::crds() {
            let (name, params) = (definition.name_any(), PatchParams::apply("contract").force());
            definitions
                .patch(&name, &params, &Patch::Apply(&definition))
                .await
                .expect("the definition is valid");
            let established = conditions::is_crd_established();
            await_condition(definitions.clone(), &name, established).await.expect("a watch");
        }
    }
}

/// How the client addresses CustomResourceDefinitions.
pub(crate) fn definition_resource() -> ApiResource {
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    ApiResource::from_gvk_with_plural(&kind, "customresourcedefinitions")
}

fn fresh_scope() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A resource with a rule of each kind that this project uses.
pub(crate) fn widget_definition(group: &str) -> Value {
    let spec = json!({
        "type": "object",
        "required": ["size"],
        "properties": {
            "size": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 9},
            "colour": {"type": "string", "enum": ["Red", "Green"], "default": "Green"},
            "title": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 8},
            "cidr": {"type": "string", "maxLength": 43},
            "tags": {"type": "array", "maxItems": 3, "x-kubernetes-list-type": "set",
                     "items": {"type": "string", "maxLength": 16}},
            "parts": {"type": "array", "maxItems": 8, "x-kubernetes-list-type": "map",
                      "x-kubernetes-list-map-keys": ["name"],
                      "items": {"type": "object", "required": ["name"], "properties": {
                          "name": {"type": "string", "maxLength": 16},
                          "weight": {"type": "integer", "default": 1},
                      }}},
            "steps": {"type": "array", "maxItems": 8, "items": {"type": "string", "maxLength": 16}},
            "options": {"type": "object", "maxProperties": 8,
                        "additionalProperties": {"type": "string", "maxLength": 16}},
        },
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("widgets.{group}")},
        "spec": {
            "group": group, "scope": "Cluster",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                    {"name": "Colour", "type": "string", "jsonPath": ".spec.colour", "priority": 1},
                    {"name": "Ready", "type": "string",
                     "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": spec,
                        "status": {"type": "object", "properties": {
                            "used": {"type": "integer"},
                            "conditions": {"type": "array", "x-kubernetes-list-type": "map",
                                "x-kubernetes-list-map-keys": ["type"],
                                "items": {"type": "object", "required": ["type"], "properties": {
                                    "type": {"type": "string"}, "status": {"type": "string"},
                                }}},
                        }},
                    },
                }},
            }],
        },
    })
}
