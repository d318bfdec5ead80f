//! Enough OpenAPI for kubectl: it looks here whether the server validates fields by itself, and for `explain`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::resource::{Registry, Resource};

/// An OpenAPI v2 document without definitions, in protobuf (`swagger: "2.0"`): old clients that validate by
/// themselves find no schema and leave it to the server.
pub(crate) const V2_PROTOBUF: &[u8] = b"\x0a\x032.0";

/// The same in JSON.
pub(crate) fn v2() -> Value {
    json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1"}, "paths": {}, "definitions": {}})
}

/// The list of OpenAPI v3 documents, one for each group and version.
pub(crate) fn v3_index(registry: &Registry) -> Value {
    let paths: Map<String, Value> = registry
        .iter()
        .map(|resource| {
            let path = base(resource);
            let at = json!({"serverRelativeURL": format!("/openapi/v3/{path}")});
            (path, at)
        })
        .collect();
    json!({"paths": paths})
}

/// The OpenAPI v3 document of a group and version, if it is served.
pub(crate) fn v3(registry: &Registry, path: &str) -> Option<Value> {
    let resources: Vec<_> = registry.iter().filter(|resource| base(resource) == path).collect();
    if resources.is_empty() {
        return None;
    }
    let mut paths = Map::new();
    let mut schemas = BTreeMap::new();
    for resource in resources {
        let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("/{path}{scope}/{}", resource.plural);
        paths.insert(
            format!("{collection}/{{name}}"),
            json!({
                "get": operation(resource, "get", &[]),
                "put": operation(resource, "put", WRITE),
                "patch": operation(resource, "patch", WRITE),
                "delete": operation(resource, "delete", &["dryRun"]),
            }),
        );
        paths.insert(
            collection,
            json!({
                "get": operation(resource, "list", &[]),
                "post": operation(resource, "post", WRITE),
            }),
        );
        schemas.insert(definition_name(resource), schema(resource));
    }
    Some(json!({
        "openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1"},
        "paths": paths, "components": {"schemas": schemas},
    }))
}

const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];

fn base(resource: &Resource) -> String {
    match resource.group.as_str() {
        "" => format!("api/{}", resource.version),
        group => format!("apis/{group}/{}", resource.version),
    }
}

fn group_version_kind(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

fn operation(resource: &Resource, action: &str, parameters: &[&str]) -> Value {
    let parameters: Vec<Value> = parameters
        .iter()
        .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
        .collect();
    let reference = format!("#/components/schemas/{}", definition_name(resource));
    json!({
        "x-kubernetes-action": action, "x-kubernetes-group-version-kind": group_version_kind(resource),
        "parameters": parameters,
        "responses": {"200": {
            "description": "OK", "content": {"application/json": {"schema": {"$ref": reference}}},
        }},
    })
}

/// `dev.manx.v1alpha1.IPPool` for `manx.dev/v1alpha1`.
fn definition_name(resource: &Resource) -> String {
    let mut parts: Vec<&str> = resource.group.split('.').filter(|part| !part.is_empty()).collect();
    parts.reverse();
    parts.extend([resource.version.as_str(), resource.kind.as_str()]);
    parts.join(".")
}

fn schema(resource: &Resource) -> Value {
    let mut schema = match resource.schema() {
        Some(schema) => schema.source().clone(),
        None => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
    };
    let described = |text: &str, kind: &str| json!({"description": text, "type": kind});
    schema["properties"]["apiVersion"] = described("The version of the schema of this object.", "string");
    schema["properties"]["kind"] = described("The kind of this object.", "string");
    schema["properties"]["metadata"] = described("The metadata of every object.", "object");
    schema["x-kubernetes-group-version-kind"] = json!([group_version_kind(resource)]);
    schema
}
