//! PATCH: merge patch (RFC 7386), JSON patch (RFC 6902), strategic merge and server-side apply.

pub(crate) mod json_patch;
pub(crate) mod merge;

use serde_json::{Value, json};

use super::admit;
use super::call::Call;
use super::failure::Failure;
use super::ownership::{self, Writer};
use super::resource::Resource;
use super::state::State;
use super::write::{self, Written};

/// PATCH of an object or its status.
///
/// # Errors
/// 400, 404, 409, 415 or 422 as the API server would.
pub(crate) fn patch(
    state: &mut State,
    call: &Call,
    resource: &Resource,
    content_type: &str,
    body: &Value,
) -> Result<Written, Failure> {
    if content_type == "application/apply-patch+yaml" {
        return apply(state, call, resource, body);
    }
    let live = state.object(resource, call)?;
    let mut new = resource.shown(&live);
    match content_type {
        "application/merge-patch+json" => merge::merge(&mut new, body),
        "application/json-patch+json" => json_patch::apply(&mut new, body)?,
        "application/strategic-merge-patch+json" if resource.built_in().is_some() => {
            merge::strategic(&mut new, body, "");
        }
        _ => {
            let strategic = "application/strategic-merge-patch+json, application/apply-patch+yaml";
            let last = if resource.built_in().is_some() { strategic } else { "application/apply-patch+yaml" };
            let accepted = format!("application/json-patch+json, application/merge-patch+json, {last}");
            return Err(Failure::unsupported_media_type(&accepted));
        }
    }
    admit::identity(resource, call, &mut new)?;
    let writer = Writer::update(call, resource);
    write::replace(state, call, resource, &live, new, &writer)
}

fn apply(state: &mut State, call: &Call, resource: &Resource, body: &Value) -> Result<Written, Failure> {
    let writer = Writer::apply(call, resource)?;
    let mut config = body.clone();
    admit::identity(resource, call, &mut config)?;
    if config["metadata"].get("managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    out_of_reach(resource, call, &mut config);
    let force = call.query.flag("force");
    match state.object(resource, call) {
        Ok(live) => {
            let shown = resource.shown(&live);
            let new = ownership::apply(resource, &shown, &config, &writer, force)?;
            write::replace(state, call, resource, &live, new, &writer)
        }
        Err(missing) if !call.target.subresource.is_empty() => Err(missing),
        Err(_) => {
            let identity = json!({
                "apiVersion": config["apiVersion"], "kind": config["kind"], "metadata": config["metadata"],
            });
            let new = ownership::apply(resource, &identity, &config, &writer, force)?;
            write::insert(state, call, resource, new, &writer)
        }
    }
}

/// Drops what cannot be applied at this path, so that nobody comes to own it.
fn out_of_reach(resource: &Resource, call: &Call, config: &mut Value) {
    let Some(map) = config.as_object_mut().filter(|_| resource.status) else { return };
    if call.target.subresource.is_empty() {
        map.remove("status");
        return;
    }
    map.retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
    let metadata = map.get_mut("metadata").filter(|_| resource.built_in().is_none());
    if let Some(metadata) = metadata.and_then(Value::as_object_mut) {
        metadata.retain(|key, _| matches!(key.as_str(), "name" | "namespace" | "uid" | "resourceVersion"));
    }
}
