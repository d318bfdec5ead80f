//! PATCH: merge patch (RFC 7386), JSON patch (RFC 6902), strategic merge and server-side apply.

pub(crate) mod json_patch;
pub(crate) mod merge;

use serde_json::Value;

use super::admit;
use super::call::Call;
use super::failure::Failure;
use super::ownership::Writer;
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
        other => return Err(Failure::unsupported_media_type(other)),
    }
    admit::identity(resource, call, &mut new)?;
    let writer = Writer::update(call, resource);
    write::replace(state, call, resource, &live, new, &writer)
}

fn apply(state: &mut State, call: &Call, resource: &Resource, body: &Value) -> Result<Written, Failure> {
    let writer = Writer::update(call, resource);
    let mut body = body.clone();
    admit::identity(resource, call, &mut body)?;
    match state.object(resource, call) {
        Ok(live) => {
            let mut new = resource.shown(&live);
            merge::merge(&mut new, &body);
            write::replace(state, call, resource, &live, new, &writer)
        }
        Err(_) => write::insert(state, call, resource, body, &writer),
    }
}
