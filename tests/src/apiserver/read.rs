//! Get and list.

use std::sync::Arc;

use serde_json::{Value, json};

use super::call::Call;
use super::failure::{Failure, FieldError};
use super::resource::Resource;
use super::selector::Selector;
use super::state::State;
use super::store::Key;

/// GET of one object.
///
/// # Errors
/// 404, or 504 for a revision that does not exist yet.
pub(crate) fn get(state: &mut State, call: &Call, resource: &Resource) -> Result<Arc<Value>, Failure> {
    not_from_the_future(state, call)?;
    state.object(resource, call)
}

/// The objects on one page of a list, and what the list says of itself.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) objects: Vec<Arc<Value>>,
    /// `metadata` of the list.
    pub(crate) metadata: Value,
}

/// GET of a collection.
///
/// # Errors
/// 400 for bad selectors, 410 for a past that is compacted, 504 for the future.
pub(crate) fn list(state: &mut State, call: &Call, resource: &Resource) -> Result<Page, Failure> {
    not_from_the_future(state, call)?;
    let selector = selector(call, resource)?;
    let limit = call.query.number("limit")?.filter(|limit| *limit > 0);
    let (revision, after) = start(state, call)?;
    let namespace = scope(call);
    let current = revision == state.store.revision();
    let collection = state.store.collection(&resource.storage);
    let in_scope: Vec<(Key, Arc<Value>)> = if current {
        collection.in_scope(namespace).map(|(k, o)| (k.clone(), Arc::clone(o))).collect()
    } else {
        let past = collection.at(revision).map_err(|_| too_old(call))?;
        past.into_iter().filter(|(key, _)| namespace.is_none_or(|n| n == key.namespace)).collect()
    };
    let selected: Vec<(Key, Arc<Value>)> = in_scope
        .into_iter()
        .filter(|(key, object)| after.as_ref().is_none_or(|after| key > after) && selector.matches(object))
        .collect();
    let size = limit.and_then(|l| usize::try_from(l).ok()).unwrap_or(usize::MAX);
    let remaining = selected.len().saturating_sub(size);
    let mut metadata = json!({"resourceVersion": revision.to_string(), "continue": ""});
    if remaining > 0 {
        let (last, _) = &selected[size - 1];
        metadata["continue"] = token(revision, last).into();
        if call.query.text("labelSelector").is_empty() && call.query.text("fieldSelector").is_empty() {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    let objects = selected.into_iter().take(size).map(|(_, object)| object).collect();
    Ok(Page { objects, metadata })
}

/// The stored objects that the request selects, now.
///
/// # Errors
/// 400 for bad selectors.
pub(crate) fn select(
    state: &mut State,
    call: &Call,
    resource: &Resource,
) -> Result<Vec<Arc<Value>>, Failure> {
    let selector = selector(call, resource)?;
    let collection = state.store.collection(&resource.storage);
    let in_scope = collection.in_scope(scope(call)).map(|(_, object)| object);
    Ok(in_scope.filter(|object| selector.matches(object)).cloned().collect())
}

/// The selectors of a request.
///
/// # Errors
/// 400 when they cannot be parsed.
pub(crate) fn selector(call: &Call, resource: &Resource) -> Result<Selector, Failure> {
    Selector::parse(resource, call.query.text("labelSelector"), call.query.text("fieldSelector"))
}

/// The namespace that a request is limited to.
pub(crate) fn scope(call: &Call) -> Option<&str> {
    Some(call.target.namespace.as_str()).filter(|namespace| !namespace.is_empty())
}

fn not_from_the_future(state: &State, call: &Call) -> Result<(), Failure> {
    let current = state.store.revision();
    match call.query.number("resourceVersion")? {
        Some(asked) if asked > current => Err(Failure::too_large_revision(asked, current)),
        _ => Ok(()),
    }
}

/// The revision to list at, and the key after which to go on.
fn start(state: &State, call: &Call) -> Result<(u64, Option<Key>), Failure> {
    let current = state.store.revision();
    let query = &call.query;
    if !query.text("continue").is_empty() {
        let (revision, key) = parse_token(query.text("continue")).ok_or_else(|| {
            Failure::bad_request("continue key is not valid: it was not issued by this server")
        })?;
        return Ok((revision, Some(key)));
    }
    match (query.text("resourceVersionMatch"), query.number("resourceVersion")?) {
        ("Exact", Some(revision)) if revision > 0 => Ok((revision, None)),
        ("Exact" | "NotOlderThan", None) => {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            Err(forbidden_match(why))
        }
        _ => Ok((current, None)),
    }
}

/// A `resourceVersionMatch` that does not go with the other parameters.
pub(crate) fn forbidden_match(why: &str) -> Failure {
    let field = "resourceVersionMatch";
    let error = FieldError::with_reason(field, "FieldValueForbidden", format!("Forbidden: {why}"));
    Failure::invalid_options("ListOptions", &error)
}

fn too_old(call: &Call) -> Failure {
    Failure::expired(if call.query.text("continue").is_empty() {
        "The resourceVersion for the provided list is too old."
    } else {
        "The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results."
    })
}

fn token(revision: u64, last: &Key) -> String {
    format!("{revision}/{}/{}", last.namespace, last.name).bytes().map(|b| format!("{b:02x}")).collect()
}

fn parse_token(token: &str) -> Option<(u64, Key)> {
    let bytes: Option<Vec<u8>> = (0..token.len())
        .step_by(2)
        .map(|at| token.get(at..at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok()))
        .collect();
    let plain = String::from_utf8(bytes?).ok()?;
    let mut parts = plain.splitn(3, '/');
    let revision = parts.next()?.parse().ok()?;
    let (namespace, name) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    Some((revision, Key { namespace, name }))
}
