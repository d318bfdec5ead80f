//! What happens to an object between the body of a request and the store: types, pruning, defaults, metadata.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::call::{Call, Strictness};
use super::failure::{Failure, FieldError};
use super::resource::Resource;
use super::schema::join;
use super::state::State;
use super::store::Key;

/// Checks apiVersion, kind, name and namespace of a body against the path it was sent to.
///
/// # Errors
/// 400 when they contradict each other.
pub(crate) fn identity(resource: &Resource, call: &Call, object: &mut Value) -> Result<(), Failure> {
    if !object.is_object() {
        return Err(Failure::bad_request("the body of the request is not an object"));
    }
    let wanted = [("apiVersion", resource.api_version()), ("kind", resource.kind.clone())];
    for (field, wanted) in wanted {
        match object.get(field).and_then(Value::as_str) {
            Some(found) if found == wanted => {}
            Some(found) => {
                let what = if field == "kind" { "kind" } else { "API version" };
                return Err(Failure::bad_request(format!(
                    "the {what} in the data ({found}) does not match the expected {what} ({wanted})"
                )));
            }
            None if resource.built_in().is_some() => object[field] = wanted.into(),
            None => {
                return Err(Failure::bad_request(format!("Object '{field}' is missing in the body")));
            }
        }
    }
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    let metadata = &mut object["metadata"];
    let named = metadata["name"].as_str().unwrap_or_default();
    if !call.target.name.is_empty() && named != call.target.name {
        if named.is_empty() {
            metadata["name"] = call.target.name.clone().into();
        } else {
            return Err(Failure::bad_request(format!(
                "the name of the object ({named}) does not match the name on the URL ({})",
                call.target.name
            )));
        }
    }
    let namespace = metadata["namespace"].as_str().unwrap_or_default();
    if !namespace.is_empty() && namespace != call.target.namespace {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if resource.namespaced {
        metadata["namespace"] = call.target.namespace.clone().into();
    } else if let Some(metadata) = metadata.as_object_mut() {
        metadata.remove("namespace");
    }
    Ok(())
}

/// Reads the object into its type or schema; unknown fields go. Returns warnings about them.
///
/// # Errors
/// 400 for a value that does not fit its type, and for unknown fields when those are to be refused.
pub(crate) fn shape(
    resource: &Resource,
    object: &mut Value,
    strictness: Strictness,
) -> Result<Vec<String>, Failure> {
    let mut unknown = Vec::new();
    if let Some(built_in) = resource.built_in() {
        let sent = object.take();
        *object = (built_in.typed)(sent.clone()).map_err(|why| {
            Failure::bad_request(format!(
                "{} in version {:?} cannot be handled: {why}",
                resource.kind, resource.version
            ))
        })?;
        lost(&sent, object, "", &mut unknown);
    } else {
        let sent = object["metadata"].take();
        let metadata: ObjectMeta = serde_json::from_value(sent.clone())
            .map_err(|why| Failure::bad_request(format!("metadata cannot be handled: {why}")))?;
        object["metadata"] = serde_json::to_value(metadata)
            .map_err(|why| Failure::internal(format!("metadata cannot be written: {why}")))?;
        lost(&sent, &object["metadata"], "metadata", &mut unknown);
        if let Some(schema) = resource.schema() {
            unknown.extend(schema.prepare(object));
        }
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.retain(|_, value| !is_empty(value));
    }
    let complaints = unknown.iter().map(|path| format!("unknown field {path:?}"));
    match strictness {
        Strictness::Ignore => Ok(Vec::new()),
        Strictness::Warn => Ok(complaints.collect()),
        Strictness::Refuse if unknown.is_empty() => Ok(Vec::new()),
        Strictness::Refuse => Err(Failure::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
            resource.kind,
            resource.version,
            resource.kind,
            complaints.collect::<Vec<_>>().join(", ")
        ))),
    }
}

/// Paths in `sent` that are not in `kept`; nulls and empty values do not count.
fn lost(sent: &Value, kept: &Value, path: &str, unknown: &mut Vec<String>) {
    match (sent, kept) {
        (Value::Object(sent), Value::Object(kept)) => {
            for (key, value) in sent {
                match kept.get(key) {
                    Some(kept) => lost(value, kept, &join(path, key), unknown),
                    None if is_empty(value) => {}
                    None => unknown.push(join(path, key)),
                }
            }
        }
        (Value::Array(sent), Value::Array(kept)) => {
            for (index, (sent, kept)) in sent.iter().zip(kept).enumerate() {
                lost(sent, kept, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Fills what the server fills in built-in objects when they are created.
pub(crate) fn defaults(resource: &Resource, object: &mut Value) {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "namespaces") => {
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = object["metadata"]["name"].clone();
            object["spec"]["finalizers"] = json!(["kubernetes"]);
            object["status"]["phase"] = "Active".into();
        }
        ("", "pods") => {
            fill(object, &["status", "phase"], "Pending");
            fill(object, &["status", "qosClass"], "BestEffort");
            if object["spec"]["terminationGracePeriodSeconds"].is_null() {
                object["spec"]["terminationGracePeriodSeconds"] = 30.into();
            }
            fill(object, &["spec", "restartPolicy"], "Always");
            fill(object, &["spec", "dnsPolicy"], "ClusterFirst");
            fill(object, &["spec", "schedulerName"], "default-scheduler");
        }
        ("", "secrets") => fill(object, &["type"], "Opaque"),
        ("", "services") => {
            fill(object, &["spec", "type"], "ClusterIP");
            fill(object, &["spec", "sessionAffinity"], "None");
        }
        _ => {}
    }
    if (resource.group.as_str(), resource.plural.as_str()) == ("", "secrets") {
        string_data(object);
    }
}

fn fill(object: &mut Value, path: &[&str], default: &str) {
    let mut place = object;
    for key in path {
        place = &mut place[*key];
    }
    if place.is_null() {
        *place = default.into();
    }
}

/// `stringData` of a Secret is written, never read: it becomes `data`.
pub(crate) fn string_data(object: &mut Value) {
    let Some(Value::Object(plain)) = object.as_object_mut().and_then(|o| o.remove("stringData")) else {
        return;
    };
    for (key, value) in plain {
        let bytes = k8s_openapi::ByteString(value.as_str().unwrap_or_default().as_bytes().to_vec());
        object["data"][key] = serde_json::to_value(bytes).unwrap_or_default();
    }
}

/// Refuses objects in namespaces that are not there or are going away.
///
/// # Errors
/// 404 or 403.
pub(crate) fn namespace_alive(state: &mut State, resource: &Resource, call: &Call) -> Result<(), Failure> {
    if !resource.namespaced {
        return Ok(());
    }
    let namespaces = state.registry.find("", "v1", "namespaces").ok_or_else(Failure::no_such_path)?;
    let name = call.target.namespace.clone();
    let key = Key { namespace: String::new(), name: name.clone() };
    match state.store.collection(&namespaces.storage).get(&key) {
        None => Err(Failure::not_found(&namespaces, &name)),
        Some(found) if found["metadata"]["deletionTimestamp"].is_string() => {
            let why =
                format!("unable to create new content in namespace {name} because it is being terminated");
            Err(Failure::forbidden(resource, &call.target.name, &why))
        }
        Some(_) => Ok(()),
    }
}

/// Rules that no schema states: for the metadata of every object, and for pods.
pub(crate) fn violations(resource: &Resource, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else if let Some(why) = name_problem(resource, name) {
        errors.push(FieldError::invalid("metadata.name", &name.into(), why));
    }
    let labels = metadata["labels"].as_object().into_iter().flatten();
    for (key, value) in labels {
        let value_text = value.as_str().unwrap_or_default();
        if !is_qualified(key) {
            errors.push(FieldError::invalid("metadata.labels", &key.as_str().into(), QUALIFIED));
        }
        if !(value_text.is_empty() || is_name_part(value_text)) {
            errors.push(FieldError::invalid("metadata.labels", value, LABEL_VALUE));
        }
    }
    for key in metadata["annotations"].as_object().into_iter().flatten().map(|(key, _)| key) {
        if !is_qualified(&key.to_lowercase()) {
            errors.push(FieldError::invalid("metadata.annotations", &key.as_str().into(), QUALIFIED));
        }
    }
    let is_pod = (resource.group.as_str(), resource.plural.as_str()) == ("", "pods");
    if is_pod && object["spec"]["containers"].as_array().is_none_or(Vec::is_empty) {
        errors.push(FieldError::required("spec.containers", ""));
    }
    for finalizer in metadata["finalizers"].as_array().into_iter().flatten() {
        if !finalizer.as_str().is_some_and(is_qualified) {
            errors.push(FieldError::invalid("metadata.finalizers", finalizer, QUALIFIED));
        }
    }
    errors
}

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const PATH_SEGMENT: &str = "a path segment name may not be '.' or '..' and may not contain '/' or '%'";

fn name_problem(resource: &Resource, name: &str) -> Option<&'static str> {
    if resource.group == "rbac.authorization.k8s.io" {
        let wrong = matches!(name, "." | "..") || name.contains(['/', '%']);
        return wrong.then_some(PATH_SEGMENT);
    }
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    let fine = name.len() <= 253 && name.split('.').all(label);
    (!fine).then_some(SUBDOMAIN)
}

fn is_qualified(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => {
            let part = |p: &str| {
                !p.is_empty() && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            };
            prefix.len() <= 253 && prefix.split('.').all(part) && is_name_part(name)
        }
        None => is_name_part(key),
    }
}

fn is_name_part(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && bytes.iter().all(|b| inner(*b)) && edge(bytes.first()) && edge(bytes.last())
}
