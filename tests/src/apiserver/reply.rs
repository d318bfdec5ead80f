//! How objects are shown: whole, as tables, or only their metadata.

use std::sync::Arc;

use serde_json::{Value, json};

use super::call::{Call, Shape};
use super::read::Page;
use super::resource::Resource;
use super::table;

/// One object in the shape that the request wants.
pub(crate) fn object(resource: &Resource, call: &Call, stored: &Value) -> Value {
    match call.shape {
        Shape::Whole => resource.shown(stored),
        Shape::Metadata => metadata(resource, stored),
        Shape::Table => {
            let version = json!({"resourceVersion": stored["metadata"]["resourceVersion"]});
            table::table(resource, call, std::iter::once(stored), &version, true)
        }
    }
}

/// A list in the shape that the request wants.
pub(crate) fn list(resource: &Resource, call: &Call, page: &Page) -> Value {
    let objects = page.objects.iter().map(Arc::as_ref);
    let (kind, api_version, shown): (_, _, fn(&Resource, &Value) -> Value) = match call.shape {
        Shape::Table => return table::table(resource, call, objects, &page.metadata, true),
        Shape::Whole => (resource.list_kind.clone(), resource.api_version(), Resource::shown),
        Shape::Metadata => ("PartialObjectMetadataList".into(), "meta.k8s.io/v1".into(), metadata),
    };
    let items: Vec<Value> = objects.map(|stored| shown(resource, stored)).collect();
    json!({"kind": kind, "apiVersion": api_version, "metadata": page.metadata, "items": items})
}

/// The object of a watch event; only the first table of a watch says what its columns are.
pub(crate) fn event_object(resource: &Resource, call: &Call, stored: &Value, first: bool) -> Value {
    match call.shape {
        Shape::Whole | Shape::Metadata => object(resource, call, stored),
        Shape::Table => {
            let version = json!({"resourceVersion": stored["metadata"]["resourceVersion"]});
            table::table(resource, call, std::iter::once(stored), &version, first)
        }
    }
}

fn metadata(resource: &Resource, stored: &Value) -> Value {
    let shown = resource.shown(stored);
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": shown["metadata"]})
}
