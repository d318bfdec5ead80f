//! CustomResourceDefinitions: what they must say, and how they become resources that are served.

use std::sync::Arc;

use serde_json::{Value, json};

use super::failure::{Failure, FieldError};
use super::resource::{Column, Origin, Resource};
use super::schema::Schema;
use super::state::{State, now};

fn is_definition(resource: &Resource) -> bool {
    resource.group == "apiextensions.k8s.io" && resource.plural == "customresourcedefinitions"
}

/// Checks a definition and fills in its names; leaves every other object alone.
///
/// # Errors
/// 422 with one cause for each part of the definition that cannot be used.
pub(crate) fn complete(resource: &Resource, object: &mut Value) -> Result<(), Failure> {
    if !is_definition(resource) {
        return Ok(());
    }
    let kind = text(object, "/spec/names/kind");
    let fill = |object: &mut Value, field: &str, default: String| {
        if object["spec"]["names"][field].as_str().unwrap_or_default().is_empty() {
            object["spec"]["names"][field] = default.into();
        }
    };
    fill(object, "singular", kind.to_lowercase());
    fill(object, "listKind", format!("{kind}List"));
    if object["spec"]["conversion"].is_null() {
        object["spec"]["conversion"] = json!({"strategy": "None"});
    }
    let errors = violations(object);
    if !errors.is_empty() {
        return Err(Failure::invalid(resource, &text(object, "/metadata/name"), &errors));
    }
    Ok(())
}

/// Sets the status of a definition, which is the server's own; leaves every other object alone.
pub(crate) fn establish(resource: &Resource, object: &mut Value, live: Option<&Value>) {
    if is_definition(resource) {
        object["status"] = status(object, live);
    }
}

fn violations(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = format!("{}.{}", text(object, "/spec/names/plural"), text(object, "/spec/group"));
    if text(object, "/metadata/name") != name {
        let why = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid("metadata.name", &object["metadata"]["name"], why));
    }
    let versions = object["spec"]["versions"].as_array().map_or(&[][..], Vec::as_slice);
    let stored = versions.iter().filter(|v| v["storage"] == true).count();
    if stored != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", &json!(stored), why));
    }
    for (index, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{index}].schema.openAPIV3Schema");
        match version.pointer("/schema/openAPIV3Schema") {
            None => errors.push(FieldError::required(&path, "schemas are required")),
            Some(schema) => {
                let found = Schema::compile(schema).err().unwrap_or_default();
                errors.extend(found.into_iter().map(|e| {
                    FieldError::with_reason(&format!("{path}.{}", e.path), "FieldValueInvalid", e.message)
                }));
            }
        }
    }
    errors
}

fn status(object: &Value, live: Option<&Value>) -> Value {
    let conditions = live.and_then(|live| live["status"]["conditions"].as_array().cloned());
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": "True", "reason": reason, "message": message,
               "lastTransitionTime": now()})
    };
    let conditions = conditions.unwrap_or_else(|| {
        vec![
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ]
    });
    let versions = object["spec"]["versions"].as_array().into_iter().flatten();
    let stored: Vec<&Value> = versions.filter(|v| v["storage"] == true).map(|v| &v["name"]).collect();
    json!({"acceptedNames": object["spec"]["names"], "conditions": conditions, "storedVersions": stored})
}

/// Serves what a stored definition declares.
pub(crate) fn register(state: &mut State, resource: &Resource, object: &Value) {
    if !is_definition(resource) {
        return;
    }
    let spec = &object["spec"];
    state.registry.remove(&text(spec, "/group"), &text(spec, "/names/plural"));
    for version in spec["versions"].as_array().into_iter().flatten() {
        if version["served"] == true
            && let Ok(schema) = Schema::compile(&version["schema"]["openAPIV3Schema"])
        {
            state.registry.add(served(spec, version, schema));
        }
    }
}

/// Stops serving what a removed definition declared.
pub(crate) fn unregister(state: &mut State, resource: &Resource, object: &Value) {
    if is_definition(resource) {
        let storage = (text(object, "/spec/group"), text(object, "/spec/names/plural"));
        state.registry.remove(&storage.0, &storage.1);
        state.store.wake(&storage);
    }
}

fn served(spec: &Value, version: &Value, schema: Schema) -> Resource {
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let names = &spec["names"];
    let columns = version["additionalPrinterColumns"].as_array().into_iter().flatten().map(column).collect();
    let selectable = version["selectableFields"].as_array().into_iter().flatten();
    let (group, plural) = (text(spec, "/group"), text(names, "/plural"));
    Resource {
        version: text(version, "/name"),
        singular: text(names, "/singular"),
        kind: text(names, "/kind"),
        list_kind: text(names, "/listKind"),
        short_names: list(&names["shortNames"]),
        categories: list(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        status: version.pointer("/subresources/status").is_some(),
        storage: (group.clone(), plural.clone()),
        origin: Origin::Custom {
            schema: Arc::new(schema),
            columns,
            selectable: selectable.map(|field| text(field, "/jsonPath")).collect(),
        },
        group,
        plural,
    }
}

fn column(declared: &Value) -> Column {
    Column {
        name: text(declared, "/name"),
        kind: text(declared, "/type"),
        format: text(declared, "/format"),
        description: text(declared, "/description"),
        priority: declared["priority"].as_i64().unwrap_or_default(),
        path: text(declared, "/jsonPath"),
    }
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}
