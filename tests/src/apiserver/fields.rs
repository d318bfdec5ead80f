//! Sets of fields, as `metadata.managedFields` writes them, and walks over objects that respect how lists merge.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::lists::{self, ListShape};
use super::resource::Resource;
use super::schema::{ListType, Node};

/// A set of paths into an object. A step of a path is written as FieldsV1 writes it: `f:name` for a field,
/// `k:{"name":"a"}` for an element with keys, `v:"a"` for an element of a set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    owned: bool,
    below: BTreeMap<String, Self>,
}

impl FieldSet {
    fn leaf() -> Self {
        Self { owned: true, below: BTreeMap::new() }
    }

    /// From the `fieldsV1` of an entry.
    pub(crate) fn parse(fields: &Value) -> Self {
        let Some(map) = fields.as_object() else { return Self::default() };
        let below = map.iter().filter(|(step, _)| *step != ".").map(|(step, child)| {
            let mut set = Self::parse(child);
            set.owned |= child.as_object().is_none_or(Map::is_empty);
            (step.clone(), set)
        });
        Self { owned: map.contains_key("."), below: below.collect() }
    }

    /// As the `fieldsV1` of an entry.
    pub(crate) fn to_json(&self) -> Value {
        let mut map: Map<String, Value> =
            self.below.iter().map(|(step, set)| (step.clone(), set.to_json())).collect();
        if self.owned && !map.is_empty() {
            map.insert(".".into(), json!({}));
        }
        Value::Object(map)
    }

    /// Whether no path is in the set.
    pub(crate) fn is_empty(&self) -> bool {
        !self.owned && self.below.is_empty()
    }

    /// Adds all paths of `other`.
    pub(crate) fn add(&mut self, other: &Self) {
        self.owned |= other.owned;
        for (step, set) in &other.below {
            self.below.entry(step.clone()).or_default().add(set);
        }
    }

    /// Takes out all paths of `other`.
    pub(crate) fn subtract(&mut self, other: &Self) {
        self.owned &= !other.owned;
        for (step, set) in &other.below {
            if let Some(own) = self.below.get_mut(step) {
                own.subtract(set);
                if own.is_empty() {
                    self.below.remove(step);
                }
            }
        }
    }

    /// The paths in both sets.
    pub(crate) fn common(&self, other: &Self) -> Self {
        let below = self.below.iter().filter_map(|(step, set)| {
            let both = set.common(other.below.get(step)?);
            (!both.is_empty()).then(|| (step.clone(), both))
        });
        Self { owned: self.owned && other.owned, below: below.collect() }
    }

    /// Takes out the path of these field names and all below.
    pub(crate) fn cut(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else { return };
        let step = format!("f:{first}");
        if rest.is_empty() {
            self.below.remove(&step);
        } else if let Some(set) = self.below.get_mut(&step) {
            set.cut(rest);
            if set.is_empty() {
                self.below.remove(&step);
            }
        }
    }

    /// The paths as people read them: `.spec.parts[name="a"].weight`.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        if self.owned {
            paths.push(prefix.to_owned());
        }
        for (step, set) in &self.below {
            set.collect(&format!("{prefix}{}", readable(step)), paths);
        }
    }
}

fn readable(step: &str) -> String {
    let (kind, rest) = step.split_at(2);
    match kind {
        "f:" => format!(".{rest}"),
        "v:" => format!("[={rest}]"),
        "k:" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        _ => format!("[{rest}]"),
    }
}

/// A place in an object: what its schema or, for built-in parts, its path says about merging.
#[derive(Debug, Clone)]
pub(crate) struct Place<'a> {
    node: Option<&'a Node>,
    built_in: bool,
    path: String,
}

/// How the value at a place merges with another.
#[derive(Debug, PartialEq)]
enum Nature {
    Fields,
    Keyed(Vec<String>),
    Set,
    Atomic,
}

impl<'a> Place<'a> {
    /// The root of an object.
    pub(crate) fn root(resource: &'a Resource) -> Self {
        let node = resource.schema().map(|schema| schema.root());
        Self { node, built_in: node.is_none(), path: String::new() }
    }

    fn child(&self, key: &str) -> Self {
        let metadata = self.path.is_empty() && key == "metadata";
        let node = self.node.filter(|_| !metadata);
        let node = node.and_then(|node| node.properties.get(key).or(node.additional.as_deref()));
        Self { node, built_in: self.built_in || metadata, path: format!("{}/{key}", self.path) }
    }

    fn item(&self) -> Self {
        let node = self.node.and_then(|node| node.items.as_deref());
        Self { node, built_in: self.built_in, path: self.path.clone() }
    }

    /// Whether the value is a built-in object with named fields, which nobody owns as such, rather than a map.
    fn is_struct(&self, value: &Value) -> bool {
        const MAPS: [&str; 6] = ["labels", "annotations", "data", "nodeSelector", "capacity", "allocatable"];
        let is_map = MAPS.iter().any(|map| self.path.ends_with(&format!("/{map}")));
        value.is_object() && (self.path.is_empty() || (self.built_in && !is_map))
    }

    fn nature(&self, value: &Value) -> Nature {
        match value {
            Value::Object(_) if self.node.is_some_and(|node| node.atomic_map) => Nature::Atomic,
            Value::Object(_) => Nature::Fields,
            Value::Array(_) if self.built_in => match lists::built_in(&self.path) {
                ListShape::Atomic => Nature::Atomic,
                ListShape::Set => Nature::Set,
                ListShape::Map(keys) => Nature::Keyed(keys.iter().map(|key| (*key).to_owned()).collect()),
            },
            Value::Array(_) => match self.node.map(|node| &node.list_type) {
                Some(ListType::Set) => Nature::Set,
                Some(ListType::Map(keys)) => Nature::Keyed(keys.clone()),
                Some(ListType::Atomic) | None => Nature::Atomic,
            },
            _ => Nature::Atomic,
        }
    }

    /// The parts of a value that can be owned apart: the step to each, its place and itself. `None` for a value
    /// that is owned as a whole.
    fn parts<'v>(&self, value: &'v Value) -> Option<Vec<(String, Self, &'v Value)>> {
        match (self.nature(value), value) {
            (Nature::Fields, Value::Object(map)) => {
                Some(map.iter().map(|(key, value)| (format!("f:{key}"), self.child(key), value)).collect())
            }
            (Nature::Keyed(keys), Value::Array(list)) => {
                Some(list.iter().map(|item| (key_step(&keys, item), self.item(), item)).collect())
            }
            (Nature::Set, Value::Array(list)) => {
                Some(list.iter().map(|item| (format!("v:{item}"), self.item(), item)).collect())
            }
            _ => None,
        }
    }
}

fn key_step(keys: &[String], item: &Value) -> String {
    let identity: Map<String, Value> =
        keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone()))).collect();
    format!("k:{}", Value::Object(identity))
}

/// All fields of a value.
pub(crate) fn of_value(place: &Place<'_>, value: &Value) -> FieldSet {
    match place.parts(value) {
        Some(parts) if !parts.is_empty() => {
            let below = parts.into_iter().map(|(step, place, value)| {
                let mut set = of_value(&place, value);
                set.owned |= !step.starts_with("f:");
                (step, set)
            });
            FieldSet { owned: false, below: below.collect() }
        }
        _ => FieldSet::leaf(),
    }
}

/// All fields of a value that came or went as a whole, the maps and lists in it included.
fn whole(place: &Place<'_>, value: &Value) -> FieldSet {
    if value.is_null() {
        return FieldSet::default();
    }
    match place.parts(value) {
        Some(parts) if !parts.is_empty() => {
            let below = parts.into_iter().map(|(step, place, value)| {
                let mut set = whole(&place, value);
                set.owned |= !step.starts_with("f:");
                (step, set)
            });
            FieldSet { owned: !place.is_struct(value), below: below.collect() }
        }
        _ => FieldSet::leaf(),
    }
}

/// What differs between two values.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    /// Fields that are new or have another value.
    pub(crate) changed: FieldSet,
    /// Fields that are gone.
    pub(crate) removed: FieldSet,
}

/// Compares two values at a place.
pub(crate) fn difference(place: &Place<'_>, old: &Value, new: &Value) -> Difference {
    if old == new {
        return Difference::default();
    }
    let (Some(had), Some(has)) = (place.parts(old), place.parts(new)) else {
        let changed = whole(place, new);
        let mut removed = whole(place, old);
        removed.subtract(&changed);
        return Difference { changed, removed };
    };
    let had: BTreeMap<String, &Value> = had.into_iter().map(|(step, _, value)| (step, value)).collect();
    let mut found = Difference::default();
    let mut kept = Vec::new();
    for (step, place, value) in has {
        let old = had.get(&step).copied().unwrap_or(&Value::Null);
        let part = difference(&place, old, value);
        for (set, part) in [(&mut found.changed, part.changed), (&mut found.removed, part.removed)] {
            if !part.is_empty() {
                set.below.insert(step.clone(), part);
            }
        }
        kept.push(step);
    }
    let (lost, item) = (had.into_iter().filter(|(step, _)| !kept.contains(step)), place.item());
    for (step, value) in lost {
        let place = step.strip_prefix("f:").map_or_else(|| item.clone(), |key| place.child(key));
        found.removed.below.insert(step, FieldSet { owned: true, ..whole(&place, value) });
    }
    found
}

/// Lays `config` over `live`, as server-side apply does.
pub(crate) fn merge(place: &Place<'_>, live: &mut Value, config: &Value) {
    match (place.nature(config), live, config) {
        (Nature::Fields, Value::Object(live), Value::Object(config)) => {
            for (key, value) in config {
                merge(&place.child(key), live.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Nature::Keyed(keys), Value::Array(live), Value::Array(config)) => {
            for item in config {
                let step = key_step(&keys, item);
                match live.iter_mut().find(|other| key_step(&keys, other) == step) {
                    Some(found) => merge(&place.item(), found, item),
                    None => live.push(item.clone()),
                }
            }
        }
        (Nature::Set, Value::Array(live), Value::Array(config)) => {
            let fresh: Vec<Value> = config.iter().filter(|item| !live.contains(item)).cloned().collect();
            live.extend(fresh);
        }
        (_, live, config) => *live = config.clone(),
    }
}

/// Takes the fields of `gone` out of a value; what is left empty by that goes too. Returns whether anything is left.
pub(crate) fn remove(place: &Place<'_>, value: &mut Value, gone: &FieldSet) -> bool {
    if gone.below.is_empty() {
        return !gone.owned;
    }
    let nature = place.nature(value);
    match value {
        Value::Object(map) => {
            map.retain(|key, value| match gone.below.get(&format!("f:{key}")) {
                Some(gone) => remove(&place.child(key), value, gone),
                None => true,
            });
            !map.is_empty()
        }
        Value::Array(list) => {
            list.retain_mut(|item| {
                let step = match &nature {
                    Nature::Keyed(keys) => key_step(keys, item),
                    _ => format!("v:{item}"),
                };
                match gone.below.get(&step) {
                    Some(gone) if gone.owned => false,
                    Some(gone) => {
                        remove(&place.item(), item, gone);
                        true
                    }
                    None => true,
                }
            });
            !list.is_empty()
        }
        _ => true,
    }
}

/// Fields of `gone` that can go without taking anything along that `kept` holds.
pub(crate) fn removable(gone: &FieldSet, kept: &FieldSet) -> FieldSet {
    let below = gone.below.iter().filter_map(|(step, set)| {
        let set = match kept.below.get(step) {
            Some(kept) => removable(set, kept),
            None => set.clone(),
        };
        (!set.is_empty()).then(|| (step.clone(), set))
    });
    FieldSet { owned: gone.owned && kept.is_empty(), below: below.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_sets_read_and_write_fields_v1() {
        let fields =
            json!({"f:spec": {"f:a": {}, "f:l": {".": {}, "k:{\"name\":\"x\"}": {".": {}, "f:name": {}}}}});
        let set = FieldSet::parse(&fields);
        assert_eq!(set.to_json(), fields);
        assert_eq!(set.paths(), [".spec.a", ".spec.l", ".spec.l[name=\"x\"]", ".spec.l[name=\"x\"].name"]);
    }

    #[test]
    fn sets_subtract_and_intersect_path_by_path() {
        let mut a = FieldSet::parse(&json!({"f:a": {"f:x": {}, "f:y": {}}, "f:b": {}}));
        let b = FieldSet::parse(&json!({"f:a": {"f:y": {}}, "f:c": {}}));
        assert_eq!(a.common(&b).paths(), [".a.y"]);
        a.subtract(&b);
        assert_eq!(a.paths(), [".a.x", ".b"]);
        a.cut(&["a", "x"]);
        assert_eq!(a.paths(), [".b"]);
    }
}
