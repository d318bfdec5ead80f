//! Delete and deletecollection: preconditions, finalizers, grace, and what goes with a namespace or a definition.

use std::sync::Arc;

use serde_json::{Value, json};

use super::call::{Call, Query};
use super::crd;
use super::failure::Failure;
use super::read;
use super::resource::{Resource, StorageKey};
use super::state::{State, key_in, key_of, now};
use super::store::Key;

/// The part of `DeleteOptions` that matters here; the propagation policy is accepted and has no effect, because
/// no garbage collector runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    uid: Option<String>,
    resource_version: Option<String>,
    grace: Option<i64>,
    dry_run: bool,
}

impl DeleteOptions {
    /// From the body, if there is one, and the query.
    pub(crate) fn parse(body: &Value, query: &Query) -> Result<Self, Failure> {
        let text = |pointer| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let in_query = query.number("gracePeriodSeconds")?.and_then(|n| i64::try_from(n).ok());
        Ok(Self {
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            grace: body.get("gracePeriodSeconds").and_then(Value::as_i64).or(in_query),
            dry_run: query.has("dryRun") || body["dryRun"].as_array().is_some_and(|d| !d.is_empty()),
        })
    }

    /// At once, whatever it is.
    fn forced() -> Self {
        Self { grace: Some(0), ..Self::default() }
    }
}

/// DELETE of one object: the `Status`, or the object if it stays for its finalizers.
///
/// # Errors
/// 404, or 409 when a precondition does not hold.
pub(crate) fn delete(
    state: &mut State,
    call: &Call,
    resource: &Resource,
    options: &DeleteOptions,
) -> Result<Value, Failure> {
    let live = state.object(resource, call)?;
    let key = key_of(call);
    preconditions(resource, &key.name, &live, options)?;
    if options.dry_run {
        return Ok(success(resource, &live));
    }
    match mark_or_remove(state, resource, &key, &live, options) {
        Some(kept) => Ok(resource.shown(&kept)),
        None if returns_object(resource) => Ok(resource.shown(&live)),
        None => Ok(success(resource, &live)),
    }
}

/// DELETE of a collection: the list of what was there.
///
/// # Errors
/// 400 for selectors that cannot be parsed.
pub(crate) fn delete_collection(
    state: &mut State,
    call: &Call,
    resource: &Resource,
    options: &DeleteOptions,
) -> Result<Value, Failure> {
    let selected = read::select(state, call, resource)?;
    for object in &selected {
        if !options.dry_run {
            mark_or_remove(state, resource, &key_in(object), object, options);
        }
    }
    let items: Vec<Value> = selected.iter().map(|object| resource.shown(object)).collect();
    Ok(json!({
        "apiVersion": resource.api_version(), "kind": resource.list_kind,
        "metadata": {"resourceVersion": state.store.revision().to_string()}, "items": items,
    }))
}

/// Whether an object that is being deleted has nothing left to wait for.
pub(crate) fn is_due(object: &Value) -> bool {
    let metadata = &object["metadata"];
    metadata["deletionTimestamp"].is_string()
        && metadata["finalizers"].as_array().is_none_or(Vec::is_empty)
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or_default() == 0
}

/// Takes the object out of the store, and what only waited for that.
pub(crate) fn remove(
    state: &mut State,
    resource: &Resource,
    key: &Key,
    last: Option<Value>,
) -> Option<Arc<Value>> {
    let removed = state.store.remove(&resource.storage, key, last)?;
    crd::unregister(state, resource, &removed);
    finish_owner(state, resource, &key.namespace);
    Some(removed)
}

fn preconditions(
    resource: &Resource,
    name: &str,
    live: &Value,
    options: &DeleteOptions,
) -> Result<(), Failure> {
    let recreated = "The object might have been deleted and then recreated";
    let checks = [
        ("UID", "uid", &options.uid, recreated),
        (
            "ResourceVersion",
            "resourceVersion",
            &options.resource_version,
            "The object might have been modified",
        ),
    ];
    for (label, field, wanted, perhaps) in checks {
        let found = live["metadata"][field].as_str().unwrap_or_default();
        if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != found) {
            let why = format!(
                "the {label} in the precondition ({wanted}) does not match the {label} in record ({found}). {perhaps}"
            );
            return Err(Failure::precondition(resource, name, &why));
        }
    }
    Ok(())
}

/// Removes the object, or marks it when something has to happen first; returns the marked object.
fn mark_or_remove(
    state: &mut State,
    resource: &Resource,
    key: &Key,
    live: &Arc<Value>,
    options: &DeleteOptions,
) -> Option<Arc<Value>> {
    let contents = contents(state, resource, key);
    let grace = grace(resource, live, options);
    let finalizers = live["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    if grace == 0 && !finalizers && contents.is_empty() {
        remove(state, resource, key, None);
        return None;
    }
    let marked = mark(state, resource, key, live, grace);
    for (storage, key) in contents {
        let Some(resource) = state.registry.of_storage(&storage) else { continue };
        let Some(object) = state.store.collection(&storage).get(&key).cloned() else { continue };
        mark_or_remove(state, &resource, &key, &object, &DeleteOptions::forced());
    }
    state.store.collection(&resource.storage).get(key).is_some().then_some(marked)
}

fn mark(state: &mut State, resource: &Resource, key: &Key, live: &Arc<Value>, grace: i64) -> Arc<Value> {
    let metadata = &live["metadata"];
    let shorter = metadata["deletionGracePeriodSeconds"].as_i64().is_none_or(|had| grace < had);
    if metadata["deletionTimestamp"].is_string() && !shorter {
        return Arc::clone(live);
    }
    let mut marked = (**live).clone();
    let metadata = &mut marked["metadata"];
    metadata["deletionTimestamp"] = now().into();
    metadata["deletionGracePeriodSeconds"] = grace.into();
    if let Some(generation) = metadata["generation"].as_i64() {
        metadata["generation"] = (generation + 1).into();
    }
    if resource.plural == "namespaces" {
        marked["status"]["phase"] = "Terminating".into();
    }
    state.store.put(&resource.storage, key.clone(), marked)
}

/// Pods on a node are left to their kubelet for as long as they may take; everything else goes at once.
fn grace(resource: &Resource, live: &Value, options: &DeleteOptions) -> i64 {
    let on_a_node = live["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty());
    let over = matches!(live["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if (resource.group.as_str(), resource.plural.as_str()) != ("", "pods") || !on_a_node || over {
        return 0;
    }
    options.grace.or_else(|| live["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30)
}

/// What lives in a namespace or is an instance of a definition, and has to go before it.
fn contents(state: &mut State, resource: &Resource, key: &Key) -> Vec<(StorageKey, Key)> {
    let inside = |state: &mut State, storage: &StorageKey, namespace: Option<&str>| -> Vec<_> {
        let collection = state.store.collection(storage);
        collection.in_scope(namespace).map(|(key, _)| (storage.clone(), key.clone())).collect()
    };
    match resource.plural.as_str() {
        "namespaces" => {
            let mut namespaced: Vec<StorageKey> =
                state.registry.iter().filter(|r| r.namespaced).map(|r| r.storage.clone()).collect();
            namespaced.dedup();
            namespaced.sort();
            namespaced.dedup();
            namespaced.iter().flat_map(|storage| inside(state, storage, Some(&key.name))).collect()
        }
        "customresourcedefinitions" => match key.name.split_once('.') {
            Some((plural, group)) => inside(state, &(group.to_owned(), plural.to_owned()), None),
            None => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// Removes a namespace or definition that was only waiting for its last content.
fn finish_owner(state: &mut State, resource: &Resource, namespace: &str) {
    let owners = [
        ("", "namespaces", namespace.to_owned()),
        (
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            format!("{}.{}", resource.plural, resource.group),
        ),
    ];
    for (group, plural, name) in owners {
        let Some(owner) = state.registry.find(group, "v1", plural) else { continue };
        let key = Key { namespace: String::new(), name };
        let collection = state.store.collection(&owner.storage);
        let waiting = collection.get(&key).is_some_and(|object| is_due(object));
        if waiting && contents(state, &owner, &key).is_empty() {
            remove(state, &owner, &key, None);
        }
    }
}

fn returns_object(resource: &Resource) -> bool {
    resource.group.is_empty()
        && matches!(resource.plural.as_str(), "pods" | "services" | "serviceaccounts" | "namespaces")
}

fn success(resource: &Resource, object: &Value) -> Value {
    let mut details = json!({
        "name": object["metadata"]["name"], "kind": resource.plural, "uid": object["metadata"]["uid"],
    });
    if !resource.group.is_empty() {
        details["group"] = resource.group.clone().into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
