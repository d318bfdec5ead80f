//! Who owns which fields (`metadata.managedFields`), and server-side apply, which is built on it.

use serde_json::{Value, json};

use super::admit;
use super::call::{Call, Strictness};
use super::failure::{Failure, FieldError};
use super::fields::{self, FieldSet, Place};
use super::resource::Resource;
use super::state::now;

/// Who writes, and how.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    manager: String,
    apply: bool,
    api_version: String,
    subresource: String,
}

impl Writer {
    /// A writer by create, update or patch.
    pub(crate) fn update(call: &Call, resource: &Resource) -> Self {
        Self {
            manager: call.field_manager(),
            apply: false,
            api_version: resource.api_version(),
            subresource: call.target.subresource.clone(),
        }
    }

    /// A writer by server-side apply.
    ///
    /// # Errors
    /// 422 when the request does not say who applies.
    pub(crate) fn apply(call: &Call, resource: &Resource) -> Result<Self, Failure> {
        if call.query.text("fieldManager").is_empty() {
            let error = FieldError::required("fieldManager", "is required for apply patch");
            return Err(Failure::invalid_options("PatchOptions", &error));
        }
        Ok(Self { apply: true, ..Self::update(call, resource) })
    }
}

/// Whether two writers are the same owner: for those who apply, the version in which they do does not matter.
impl PartialEq for Writer {
    fn eq(&self, other: &Self) -> bool {
        let identity = |writer: &Self| {
            let version = if writer.apply { String::new() } else { writer.api_version.clone() };
            (writer.manager.clone(), writer.apply, version, writer.subresource.clone())
        };
        identity(self) == identity(other)
    }
}

/// One owner and what is owned.
#[derive(Debug, Clone, PartialEq)]
struct Owner {
    writer: Writer,
    time: String,
    fields: FieldSet,
}

impl Owner {
    fn parse(entry: &Value) -> Option<Self> {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let writer = Writer {
            manager: text("manager"),
            apply: entry["operation"] == "Apply",
            api_version: text("apiVersion"),
            subresource: text("subresource"),
        };
        entry.get("operation")?;
        Some(Self { writer, time: text("time"), fields: FieldSet::parse(&entry["fieldsV1"]) })
    }

    fn to_json(&self) -> Value {
        let mut entry = json!({
            "manager": self.writer.manager, "operation": if self.writer.apply { "Apply" } else { "Update" },
            "apiVersion": self.writer.api_version, "time": self.time,
            "fieldsType": "FieldsV1", "fieldsV1": self.fields.to_json(),
        });
        if !self.writer.subresource.is_empty() {
            entry["subresource"] = self.writer.subresource.clone().into();
        }
        entry
    }

    /// As it is named in conflicts.
    fn description(&self) -> String {
        let mut text = format!("conflict with {:?}", self.writer.manager);
        if !self.writer.subresource.is_empty() {
            text += &format!(" with subresource {:?}", self.writer.subresource);
        }
        if !self.writer.apply {
            text += &format!(" using {}", self.writer.api_version);
        }
        text
    }
}

/// Fields that nobody owns, because they say which object it is or are the server's.
const NOBODYS: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "uid"],
    &["metadata", "resourceVersion"],
    &["metadata", "generation"],
    &["metadata", "creationTimestamp"],
    &["metadata", "deletionTimestamp"],
    &["metadata", "deletionGracePeriodSeconds"],
    &["metadata", "managedFields"],
    &["metadata", "selfLink"],
];

fn ownable(mut set: FieldSet) -> FieldSet {
    for path in NOBODYS {
        set.cut(path);
    }
    set
}

/// The owners that an object names; an entry without content means that nobody is to own anything.
fn owners(object: &Value) -> Option<Vec<Owner>> {
    let entries = object["metadata"]["managedFields"].as_array().filter(|entries| !entries.is_empty())?;
    Some(entries.iter().filter_map(Owner::parse).collect())
}

fn write_owners(object: &mut Value, mut owners: Vec<Owner>) {
    owners.retain(|owner| !owner.fields.is_empty());
    owners.sort_by(|a, b| {
        (!a.writer.apply, &a.time, &a.writer.manager).cmp(&(!b.writer.apply, &b.time, &b.writer.manager))
    });
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    if owners.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".into(), owners.iter().map(Owner::to_json).collect());
    }
}

/// The place of `writer` among the owners.
fn entry<'a>(owners: &'a mut Vec<Owner>, writer: &Writer) -> &'a mut Owner {
    let index = owners.iter().position(|owner| &owner.writer == writer).unwrap_or_else(|| {
        owners.push(Owner { writer: writer.clone(), time: now(), fields: FieldSet::default() });
        owners.len() - 1
    });
    &mut owners[index]
}

/// Notes in `new` who owns what, after `writer` has changed it from `live` (null if it was not there). What was
/// applied has been noted by [`apply`] already.
pub(crate) fn record(resource: &Resource, live: &Value, new: &mut Value, writer: &Writer) {
    if writer.apply {
        return;
    }
    let mut owners = owners(new).or_else(|| owners(live)).unwrap_or_default();
    let place = Place::root(resource);
    let found = fields::difference(&place, live, new);
    let (changed, removed) = (ownable(found.changed), ownable(found.removed));
    if !changed.is_empty() || !removed.is_empty() {
        for owner in owners.iter_mut().filter(|owner| &owner.writer != writer) {
            owner.fields.subtract(&changed);
            owner.fields.subtract(&removed);
        }
        let own = entry(&mut owners, writer);
        own.fields.add(&changed);
        own.fields.subtract(&removed);
        own.time = now();
    }
    write_owners(new, owners);
}

/// Lays the configuration that `writer` applies over `live`, takes out what it applied before and no longer names,
/// and notes who owns what.
///
/// # Errors
/// 409 when others own fields that would change, unless `force` takes them over.
pub(crate) fn apply(
    resource: &Resource,
    live: &Value,
    config: &Value,
    writer: &Writer,
    force: bool,
) -> Result<Value, Failure> {
    let place = Place::root(resource);
    let mut owners = owners(live).unwrap_or_default();
    let applied = ownable(fields::of_value(&place, config));
    let mut new = live.clone();
    fields::merge(&place, &mut new, config);
    let mut shaped = new.clone();
    admit::shape(resource, &mut shaped, Strictness::Ignore)?;
    let changed = fields::difference(&place, live, &shaped).changed;
    let conflicts: Vec<(Owner, FieldSet)> = owners
        .iter()
        .filter(|owner| &owner.writer != writer)
        .map(|owner| (owner.clone(), owner.fields.common(&changed).common(&applied)))
        .filter(|(_, fields)| !fields.is_empty())
        .collect();
    if !conflicts.is_empty() && !force {
        return Err(refusal(&conflicts));
    }
    for (owner, fields) in &conflicts {
        entry(&mut owners, &owner.writer).fields.subtract(fields);
    }
    let own = entry(&mut owners, writer);
    let mut dropped = std::mem::replace(&mut own.fields, applied);
    own.time = now();
    own.writer.api_version.clone_from(&writer.api_version);
    let mut kept = FieldSet::default();
    owners.iter().for_each(|owner| kept.add(&owner.fields));
    dropped.subtract(&kept);
    let dropped = fields::removable(&dropped, &kept);
    if !dropped.is_empty() {
        fields::remove(&place, &mut new, &dropped);
    }
    write_owners(&mut new, owners);
    Ok(new)
}

fn refusal(conflicts: &[(Owner, FieldSet)]) -> Failure {
    let count: usize = conflicts.iter().map(|(_, fields)| fields.paths().len()).sum();
    let plural = if count == 1 { "" } else { "s" };
    let mut causes = Vec::new();
    let mut parts = Vec::new();
    for (owner, fields) in conflicts {
        let (description, paths) = (owner.description(), fields.paths());
        parts.push(match paths.as_slice() {
            [one] => format!("{description}: {one}"),
            many => {
                let list: Vec<String> = many.iter().map(|path| format!("\n- {path}")).collect();
                format!("{}:{}", description.replacen("conflict", "conflicts", 1), list.concat())
            }
        });
        causes.extend(
            paths
                .into_iter()
                .map(|path| json!({"reason": "FieldManagerConflict", "message": description, "field": path})),
        );
    }
    Failure::apply_conflict(
        format!("Apply failed with {count} conflict{plural}: {}", parts.join("\n")),
        causes,
    )
}
