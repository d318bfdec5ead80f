//! One node of a structural schema.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use super::join;
use super::rule::Rule;

/// A part of a CustomResourceDefinition's schema that cannot be used.
#[derive(Debug, Clone, PartialEq)]
pub struct SchemaError {
    /// Path below `openAPIV3Schema`.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

/// How the elements of a list are told apart (`x-kubernetes-list-type`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ListType {
    /// The list is one value.
    #[default]
    Atomic,
    /// Each scalar is there once.
    Set,
    /// Elements are told apart by these of their fields.
    Map(Vec<String>),
}

/// A compiled schema node.
#[derive(Debug, Default)]
pub struct Node {
    pub(crate) kind: String,
    /// The members that have a schema of their own.
    pub properties: BTreeMap<String, Self>,
    /// The schema of all other members.
    pub additional: Option<Box<Self>>,
    /// The schema of a list's elements.
    pub items: Option<Box<Self>>,
    pub(crate) required: Vec<String>,
    pub(crate) allowed: Vec<Value>,
    pub(crate) pattern: Option<Regex>,
    pub(crate) format: String,
    pub(crate) minimum: Option<f64>,
    pub(crate) maximum: Option<f64>,
    pub(crate) exclusive_minimum: bool,
    pub(crate) exclusive_maximum: bool,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) min_properties: Option<u64>,
    pub(crate) max_properties: Option<u64>,
    pub(crate) nullable: bool,
    pub(crate) default: Option<Value>,
    pub(crate) preserve_unknown: bool,
    pub(crate) int_or_string: bool,
    pub(crate) embedded_resource: bool,
    /// How a list's elements are told apart.
    pub list_type: ListType,
    /// A map that is one value (`x-kubernetes-map-type: atomic`).
    pub atomic_map: bool,
    pub(crate) all_of: Vec<Self>,
    pub(crate) any_of: Vec<Self>,
    pub(crate) one_of: Vec<Self>,
    pub(crate) not: Option<Box<Self>>,
    pub(crate) rules: Vec<Rule>,
}

impl Node {
    /// Compiles the node at `path`, collecting what is wrong with it and below. `correlatable` says whether the old
    /// value at this place can be told when an object is updated.
    pub(crate) fn compile(
        source: &Value,
        path: &str,
        correlatable: bool,
        errors: &mut Vec<SchemaError>,
    ) -> Self {
        let mut node = Self::compile_value(source, path, errors);
        let structural = node.int_or_string || node.preserve_unknown || !node.kind.is_empty();
        if !structural {
            errors.push(SchemaError {
                path: join(path, "type"),
                message: "Required value: must not be empty for specified object fields".into(),
            });
        }
        node.compile_children(source, path, correlatable, errors);
        node.rules = Rule::compile_all(source, path, correlatable, errors);
        for (index, rule) in node.rules.iter().enumerate() {
            if let Some(why) = rule.complaint(&node, path.is_empty()) {
                let message = format!("Invalid value: compilation failed: ERROR: {why}");
                let path = join(path, &format!("x-kubernetes-validations[{index}].rule"));
                errors.push(SchemaError { path, message });
            }
        }
        node
    }

    /// Compiles a branch of `allOf`, `anyOf`, `oneOf` or `not`, which needs no type.
    fn compile_branch(source: &Value, path: &str, errors: &mut Vec<SchemaError>) -> Self {
        let mut node = Self::compile_value(source, path, errors);
        for (key, child) in members(source, "properties") {
            let below = join(path, &format!("properties[{key}]"));
            node.properties.insert(key.clone(), Self::compile_branch(child, &below, errors));
        }
        if let Some(items) = source.get("items") {
            node.items = Some(Box::new(Self::compile_branch(items, &join(path, "items"), errors)));
        }
        node.compile_logic(source, path, errors);
        node
    }

    fn compile_children(
        &mut self,
        source: &Value,
        path: &str,
        correlatable: bool,
        errors: &mut Vec<SchemaError>,
    ) {
        for (key, child) in members(source, "properties") {
            let below = join(path, &format!("properties[{key}]"));
            let child = if path.is_empty() && super::OF_EVERY_OBJECT.contains(&key.as_str()) {
                Self::compile_branch(child, &below, errors)
            } else {
                Self::compile(child, &below, correlatable, errors)
            };
            self.properties.insert(key.clone(), child);
        }
        match source.get("additionalProperties") {
            Some(Value::Bool(true)) => self.preserve_unknown = true,
            Some(child @ Value::Object(_)) => {
                let below = join(path, "additionalProperties");
                self.additional = Some(Box::new(Self::compile(child, &below, correlatable, errors)));
            }
            _ => {}
        }
        match source.get("items") {
            Some(items) => {
                let correlatable = correlatable && matches!(self.list_type, ListType::Map(_));
                let items = Self::compile(items, &join(path, "items"), correlatable, errors);
                self.items = Some(Box::new(items));
            }
            None if self.kind == "array" => errors.push(SchemaError {
                path: join(path, "items"),
                message: "Required value: must be specified".into(),
            }),
            None => {}
        }
        self.compile_logic(source, path, errors);
    }

    fn compile_logic(&mut self, source: &Value, path: &str, errors: &mut Vec<SchemaError>) {
        let mut branches = |key: &str| -> Vec<Self> {
            let list = source.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            list.iter()
                .enumerate()
                .map(|(index, branch)| {
                    Self::compile_branch(branch, &join(path, &format!("{key}[{index}]")), errors)
                })
                .collect()
        };
        self.all_of = branches("allOf");
        self.any_of = branches("anyOf");
        self.one_of = branches("oneOf");
        self.not =
            source.get("not").map(|not| Box::new(Self::compile_branch(not, &join(path, "not"), errors)));
    }

    fn compile_value(source: &Value, path: &str, errors: &mut Vec<SchemaError>) -> Self {
        let text = |key: &str| source.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let flag = |key: &str| source.get(key).and_then(Value::as_bool).unwrap_or_default();
        let count = |key: &str| source.get(key).and_then(Value::as_u64);
        let number = |key: &str| source.get(key).and_then(Value::as_f64);
        let pattern = source.get("pattern").and_then(Value::as_str).and_then(|pattern| {
            let compiled = Regex::new(pattern);
            if let Err(error) = &compiled {
                let message =
                    format!("Invalid value: {pattern:?}: must be a valid regular expression: {error}");
                errors.push(SchemaError { path: join(path, "pattern"), message });
            }
            compiled.ok()
        });
        Self {
            kind: text("type"),
            required: strings(source, "required"),
            allowed: source.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            pattern,
            format: text("format"),
            minimum: number("minimum"),
            maximum: number("maximum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            multiple_of: number("multipleOf"),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            nullable: flag("nullable"),
            default: source.get("default").cloned(),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            embedded_resource: flag("x-kubernetes-embedded-resource"),
            list_type: match text("x-kubernetes-list-type").as_str() {
                "set" => ListType::Set,
                "map" => ListType::Map(strings(source, "x-kubernetes-list-map-keys")),
                _ => ListType::Atomic,
            },
            atomic_map: text("x-kubernetes-map-type") == "atomic",
            ..Self::default()
        }
    }
}

fn members<'a>(source: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    source.get(key).and_then(Value::as_object).into_iter().flatten()
}

fn strings(source: &Value, key: &str) -> Vec<String> {
    let list = source.get(key).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}
