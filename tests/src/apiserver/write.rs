//! Create and update: the one way by which an object gets into the store.

use std::sync::Arc;

use serde_json::{Value, json};

use super::admit;
use super::call::Call;
use super::crd;
use super::delete;
use super::failure::{Failure, FieldError};
use super::ownership::{self, Writer};
use super::resource::Resource;
use super::state::{State, key_in, key_of, new_suffix, new_uid, now};

/// The outcome of a write.
#[derive(Debug)]
pub(crate) struct Written {
    /// 200 or 201.
    pub(crate) code: u16,
    /// The object as it is stored now.
    pub(crate) object: Arc<Value>,
    /// Warnings for the client.
    pub(crate) warnings: Vec<String>,
}

/// POST to a collection.
///
/// # Errors
/// 400, 404, 409 or 422 as the API server would.
pub(crate) fn create(
    state: &mut State,
    call: &Call,
    resource: &Resource,
    mut body: Value,
) -> Result<Written, Failure> {
    admit::identity(resource, call, &mut body)?;
    let writer = Writer::update(call, resource);
    insert(state, call, resource, body, &writer)
}

/// Puts a new object into the store, whichever verb brought it.
///
/// # Errors
/// As [`create`].
pub(crate) fn insert(
    state: &mut State,
    call: &Call,
    resource: &Resource,
    mut object: Value,
    writer: &Writer,
) -> Result<Written, Failure> {
    admit::namespace_alive(state, resource, call)?;
    if object["metadata"]["resourceVersion"].as_str().is_some_and(|v| !v.is_empty()) {
        return Err(Failure::internal("resourceVersion should not be set on objects to be created"));
    }
    let warnings = admit::shape(resource, &mut object, call.strictness())?;
    let object = resource.kept(object);
    let mut object = initial(resource, object);
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    crd::complete(resource, &mut object)?;
    check(resource, &object, None, &name)?;
    ownership::record(resource, &Value::Null, &mut object, writer);
    crd::establish(resource, &mut object, None);
    let key = key_in(&object);
    if state.store.collection(&resource.storage).get(&key).is_some() {
        return Err(Failure::already_exists(resource, &name));
    }
    if call.dry_run() {
        return Ok(Written { code: 201, object: Arc::new(object), warnings });
    }
    let object = state.store.put(&resource.storage, key, object);
    crd::register(state, resource, &object);
    Ok(Written { code: 201, object, warnings })
}

/// Sets what the server decides about a new object.
fn initial(resource: &Resource, mut object: Value) -> Value {
    if resource.status {
        set_or_remove(&mut object, "status", None);
    }
    let metadata = &mut object["metadata"];
    let prefix = metadata["generateName"].as_str().unwrap_or_default().to_owned();
    if metadata["name"].as_str().unwrap_or_default().is_empty() && !prefix.is_empty() {
        metadata["name"] = format!("{prefix}{}", new_suffix()).into();
    }
    metadata["uid"] = new_uid().into();
    metadata["creationTimestamp"] = now().into();
    if let Some(map) = metadata.as_object_mut() {
        for field in
            ["resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"]
        {
            map.remove(field);
        }
    }
    if resource.counts_generations() {
        metadata["generation"] = 1.into();
    }
    admit::defaults(resource, &mut object);
    object
}

/// PUT to an object or its status.
///
/// # Errors
/// 400, 404, 409 or 422 as the API server would.
pub(crate) fn update(
    state: &mut State,
    call: &Call,
    resource: &Resource,
    mut body: Value,
) -> Result<Written, Failure> {
    admit::identity(resource, call, &mut body)?;
    let live = state.object(resource, call)?;
    let version = body["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if version.is_empty() && !resource.unconditional_update() {
        let error =
            FieldError::invalid("metadata.resourceVersion", &json!(0), "must be specified for an update");
        return Err(Failure::invalid(resource, &call.target.name, &[error]));
    }
    let writer = Writer::update(call, resource);
    replace(state, call, resource, &live, body, &writer)
}

/// Puts `new` in the place of `live`, whichever verb brought it.
///
/// # Errors
/// As [`update`].
pub(crate) fn replace(
    state: &mut State,
    call: &Call,
    resource: &Resource,
    live: &Arc<Value>,
    mut new: Value,
    writer: &Writer,
) -> Result<Written, Failure> {
    let name = call.target.name.as_str();
    let warnings = admit::shape(resource, &mut new, call.strictness())?;
    let mut new = resource.kept(new);
    preconditions(resource, name, live, &new)?;
    isolate(resource, call, live, &mut new);
    keep_system_metadata(live, &mut new);
    if (resource.group.as_str(), resource.plural.as_str()) == ("", "secrets") {
        admit::string_data(&mut new);
    }
    crd::complete(resource, &mut new)?;
    check(resource, &new, Some(live), name)?;
    ownership::record(resource, live, &mut new, writer);
    crd::establish(resource, &mut new, Some(live));
    count_generation(resource, live, &mut new);
    if same_but_for_times(live, &new) {
        return Ok(Written { code: 200, object: Arc::clone(live), warnings });
    }
    if call.dry_run() {
        return Ok(Written { code: 200, object: Arc::new(new), warnings });
    }
    let key = key_of(call);
    let object = if delete::is_due(&new) {
        delete::remove(state, resource, &key, Some(new)).unwrap_or_else(|| Arc::clone(live))
    } else {
        let object = state.store.put(&resource.storage, key, new);
        crd::register(state, resource, &object);
        object
    };
    Ok(Written { code: 200, object, warnings })
}

fn preconditions(resource: &Resource, name: &str, live: &Value, new: &Value) -> Result<(), Failure> {
    let of = |object: &Value, field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let (had, has) = (of(live, "uid"), of(new, "uid"));
    if !has.is_empty() && has != had {
        let why = format!("Precondition failed: UID in precondition: {has}, UID in object meta: {had}");
        return Err(Failure::conflict(resource, name, &why));
    }
    let (had, has) = (of(live, "resourceVersion"), of(new, "resourceVersion"));
    if !has.is_empty() && has != had {
        return Err(Failure::modified(resource, name));
    }
    Ok(())
}

/// Keeps the main path away from `status` and the status path away from everything else.
fn isolate(resource: &Resource, call: &Call, live: &Value, new: &mut Value) {
    if !resource.status {
        return;
    }
    if call.target.subresource != "status" {
        set_or_remove(new, "status", live.get("status"));
        return;
    }
    let metadata = new["metadata"].take();
    let status = new.get("status").cloned();
    *new = live.clone();
    if resource.built_in().is_some() {
        new["metadata"] = metadata;
    } else {
        new["metadata"]["managedFields"] = metadata["managedFields"].clone();
    }
    set_or_remove(new, "status", status.as_ref());
}

fn set_or_remove(object: &mut Value, field: &str, value: Option<&Value>) {
    let Some(map) = object.as_object_mut() else { return };
    match value {
        Some(value) => map.insert(field.to_owned(), value.clone()),
        None => map.remove(field),
    };
}

/// Carries over what only the server may change.
fn keep_system_metadata(live: &Value, new: &mut Value) {
    const OURS: [&str; 6] = [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
    ];
    for field in OURS {
        set_or_remove(&mut new["metadata"], field, live["metadata"].get(field));
    }
}

fn check(resource: &Resource, new: &Value, live: Option<&Value>, name: &str) -> Result<(), Failure> {
    let mut errors = admit::violations(resource, new);
    if let Some(live) = live.filter(|live| live["metadata"]["deletionTimestamp"].is_string()) {
        let of = |object: &Value| object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        let had = of(live);
        let added: Vec<Value> = of(new).into_iter().filter(|f| !had.contains(f)).collect();
        if !added.is_empty() {
            let list = added.iter().map(Value::to_string).collect::<Vec<_>>().join(", ");
            let message = format!(
                "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{{{list}}}",
            );
            errors.push(FieldError::with_reason("metadata.finalizers", "FieldValueForbidden", message));
        }
    }
    if let Some(schema) = resource.schema() {
        errors.extend(schema.violations(new, live));
    }
    if errors.is_empty() { Ok(()) } else { Err(Failure::invalid(resource, name, &errors)) }
}

fn count_generation(resource: &Resource, live: &Value, new: &mut Value) {
    if !resource.counts_generations() {
        return;
    }
    let meaning = |object: &Value| {
        let mut object = object.clone();
        if let Some(map) = object.as_object_mut() {
            map.remove("metadata");
            if resource.status {
                map.remove("status");
            }
        }
        object
    };
    if meaning(live) != meaning(new) {
        let generation = live["metadata"]["generation"].as_i64().unwrap_or_default();
        new["metadata"]["generation"] = (generation + 1).into();
    }
}

/// Whether nothing changed, apart from the times at which owners last wrote.
fn same_but_for_times(live: &Value, new: &Value) -> bool {
    let timeless = |object: &Value| {
        let mut object = object.clone();
        for entry in object["metadata"]["managedFields"].as_array_mut().into_iter().flatten() {
            entry["time"] = Value::Null;
        }
        object
    };
    timeless(live) == timeless(new)
}
