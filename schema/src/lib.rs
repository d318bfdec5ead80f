//! The schema of a custom resource, compiled from `openAPIV3Schema`: what an API server refuses at the door, rules in CEL
//! included.
//!
//! [`Schema::prepare`] does to an object what the API server does before it looks at it: unknown fields go, nulls
//! that the schema does not want go, defaults come. [`Schema::violations`] then says what is wrong.

mod check;
mod error;
mod format;
mod network;
mod node;
mod rule;
mod validate;

use serde_json::{Map, Value};

pub use error::FieldError;
pub use node::{ListType, Node, SchemaError};

/// The compiled schema of one version of a custom resource.
#[derive(Debug)]
pub struct Schema {
    root: Node,
    source: Value,
}

impl Schema {
    /// Compiles `openAPIV3Schema`.
    ///
    /// # Errors
    /// Each part that a real API server would refuse, with its path below the schema.
    pub fn compile(source: &Value) -> Result<Self, Vec<SchemaError>> {
        let mut errors = Vec::new();
        let root = Node::compile(source, "", true, &mut errors);
        if errors.is_empty() { Ok(Self { root, source: source.clone() }) } else { Err(errors) }
    }

    /// `openAPIV3Schema` as it was declared.
    pub fn source(&self) -> &Value {
        &self.source
    }

    /// The root of the tree.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// Prunes and defaults the object; returns the paths of the unknown fields that were dropped.
    pub fn prepare(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        self.root.prune(object, "", true, &mut unknown);
        self.root.fill_defaults(object);
        unknown
    }

    /// What is wrong with `new`; `old` is the object that it replaces, for rules that compare the two.
    pub fn violations(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        validate::structure(&self.root, new, old, "", &mut errors);
        let blocking = errors.iter().any(|error: &FieldError| BLOCKING.contains(&error.reason));
        if blocking {
            errors.push(FieldError::with_reason("<nil>", "FieldValueInvalid", NOT_CHECKED.into()));
        } else {
            rule::rules(&self.root, new, old, "", &mut errors);
        }
        errors
    }
}

/// Errors after which rules are not looked at.
const BLOCKING: [&str; 5] = [
    "FieldValueNotSupported",
    "FieldValueRequired",
    "FieldValueTooLong",
    "FieldValueTooMany",
    "FieldValueTypeInvalid",
];

const NOT_CHECKED: &str = "Invalid value: \"null\": some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";

/// Fields of the root that belong to every object, whatever its schema says.
const OF_EVERY_OBJECT: [&str; 3] = ["apiVersion", "kind", "metadata"];

impl Node {
    fn prune(&self, value: &mut Value, path: &str, root: bool, unknown: &mut Vec<String>) {
        match value {
            Value::Object(map) => self.prune_object(map, path, root || self.embedded_resource, unknown),
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    for (index, item) in list.iter_mut().enumerate() {
                        items.prune(item, &format!("{path}[{index}]"), false, unknown);
                    }
                }
            }
            _ => {}
        }
    }

    fn prune_object(&self, map: &mut Map<String, Value>, path: &str, root: bool, unknown: &mut Vec<String>) {
        let keys: Vec<String> = map.keys().cloned().collect();
        for key in keys {
            if root && OF_EVERY_OBJECT.contains(&key.as_str()) {
                continue;
            }
            let below = join(path, &key);
            let Some(node) = self.properties.get(&key).or(self.additional.as_deref()) else {
                if !self.preserve_unknown {
                    map.remove(&key);
                    unknown.push(below);
                }
                continue;
            };
            if map[&key].is_null() && !node.nullable && self.properties.contains_key(&key) {
                map.remove(&key);
            } else if let Some(value) = map.get_mut(&key) {
                node.prune(value, &below, false, unknown);
            }
        }
    }

    fn fill_defaults(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (key, node) in &self.properties {
                    if let Some(default) = &node.default {
                        map.entry(key.clone()).or_insert_with(|| default.clone());
                    }
                    if let Some(value) = map.get_mut(key) {
                        node.fill_defaults(value);
                    }
                }
                if let Some(additional) = &self.additional {
                    let others = map.iter_mut().filter(|(key, _)| !self.properties.contains_key(*key));
                    others.for_each(|(_, value)| additional.fill_defaults(value));
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    list.iter_mut().for_each(|item| items.fill_defaults(item));
                }
            }
            _ => {}
        }
    }
}

/// `path.key`, or just the key at the root.
pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests;
