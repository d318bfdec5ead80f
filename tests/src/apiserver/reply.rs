//! How objects are shown: whole, as tables, or only their metadata.

use std::sync::Arc;

use serde_json::{Value, json};

use super::call::{Call, Shape};
use super::read::Page;
use super::resource::Resource;

/// One object in the shape that the request wants.
pub(crate) fn object(resource: &Resource, call: &Call, stored: &Value) -> Value {
    match call.shape {
        Shape::Whole | Shape::Table => resource.shown(stored),
        Shape::Metadata => metadata(resource, stored),
    }
}

/// A list in the shape that the request wants.
pub(crate) fn list(resource: &Resource, call: &Call, page: &Page) -> Value {
    let items = |shown: fn(&Resource, &Value) -> Value| -> Vec<Value> {
        page.objects.iter().map(|stored: &Arc<Value>| shown(resource, stored)).collect()
    };
    match call.shape {
        Shape::Whole | Shape::Table => json!({
            "kind": resource.list_kind, "apiVersion": resource.api_version(),
            "metadata": page.metadata, "items": items(Resource::shown),
        }),
        Shape::Metadata => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
            "metadata": page.metadata, "items": items(metadata),
        }),
    }
}

/// The object of a watch event; only the first table of a watch says what its columns are.
pub(crate) fn event_object(resource: &Resource, call: &Call, stored: &Value, _first: bool) -> Value {
    object(resource, call, stored)
}

fn metadata(resource: &Resource, stored: &Value) -> Value {
    let shown = resource.shown(stored);
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": shown["metadata"]})
}
