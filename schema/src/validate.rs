//! Structural validation: types, ranges, lengths, enumerations, patterns, formats and logic.

use serde_json::{Map, Value};

use super::node::{ListType, Node};
use super::{format, join};
use crate::FieldError;

/// Collects what is wrong with `value` and below; what is as it was in `old` is not held against the client.
pub(crate) fn structure(
    node: &Node,
    value: &Value,
    old: Option<&Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    if (value.is_null() && node.nullable) || old == Some(value) {
        return;
    }
    if !has_type(node, value) {
        errors.push(FieldError::wrong_type(path, type_name(value), wanted_type(node)));
        return;
    }
    if !node.allowed.is_empty() && !node.allowed.contains(value) {
        errors.push(FieldError::unsupported(path, value, &node.allowed));
    }
    match value {
        Value::String(text) => string(node, text, path, errors),
        Value::Number(_) => number(node, value, path, errors),
        Value::Array(list) => array(node, list, old, path, errors),
        Value::Object(map) => object(node, map, old, path, errors),
        Value::Null | Value::Bool(_) => {}
    }
    logic(node, value, path, errors);
}

/// The JSON type in OpenAPI's words.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn wanted_type(node: &Node) -> &str {
    if node.int_or_string { "integer,string" } else { &node.kind }
}

fn has_type(node: &Node, value: &Value) -> bool {
    let found = type_name(value);
    if node.int_or_string {
        return matches!(found, "integer" | "string");
    }
    match node.kind.as_str() {
        "" => true,
        "number" => matches!(found, "integer" | "number"),
        "integer" => found == "integer" || value.as_f64().is_some_and(|f| f.fract() == 0.0),
        kind => kind == found,
    }
}

fn invalid(path: &str, value: &Value, why: String) -> FieldError {
    FieldError::invalid(path, value, &format!("{path} in body {why}"))
}

fn string(node: &Node, text: &str, path: &str, errors: &mut Vec<FieldError>) {
    let value = Value::from(text);
    let length = text.chars().count() as u64;
    if let Some(max) = node.max_length.filter(|max| length > *max) {
        let message = format!("Too long: may not be more than {max} bytes");
        errors.push(FieldError::with_reason(path, "FieldValueTooLong", message));
    } else if let Some(min) = node.min_length.filter(|min| length < *min) {
        errors.push(invalid(path, &value, format!("should be at least {min} chars long")));
    } else if let Some(pattern) = node.pattern.as_ref().filter(|p| !p.is_match(text)) {
        errors.push(invalid(path, &value, format!("should match '{pattern}'")));
    }
    if !format::holds(&node.format, text) {
        let message =
            format!("Invalid value: {value}: {path} in body must be of type {}: {value}", node.format);
        errors.push(FieldError::with_reason(path, "FieldValueTypeInvalid", message));
    }
}

fn number(node: &Node, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(number) = value.as_f64() else { return };
    let above = |max: &f64| number > *max || (node.exclusive_maximum && number == *max);
    if let Some(max) = node.maximum.filter(above) {
        let or_equal = if node.exclusive_maximum { "" } else { " or equal to" };
        errors.push(invalid(path, value, format!("should be less than{or_equal} {max}")));
    }
    let below = |min: &f64| number < *min || (node.exclusive_minimum && number == *min);
    if let Some(min) = node.minimum.filter(below) {
        let or_equal = if node.exclusive_minimum { "" } else { " or equal to" };
        errors.push(invalid(path, value, format!("should be greater than{or_equal} {min}")));
    }
    if let Some(factor) = node.multiple_of.filter(|factor| (number / factor).fract() != 0.0) {
        errors.push(invalid(path, value, format!("should be a multiple of {factor}")));
    }
    let whole = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    if whole.is_some_and(|whole| !format::fits(&node.format, whole)) {
        errors.push(invalid(path, value, format!("must be of type {}: {value}", node.format)));
    }
}

fn array(node: &Node, list: &[Value], old: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    let length = list.len() as u64;
    if let Some(max) = node.max_items.filter(|max| length > *max) {
        let message = format!("Too many: {length}: must have at most {max} items");
        errors.push(FieldError::with_reason(path, "FieldValueTooMany", message));
    }
    if let Some(min) = node.min_items.filter(|min| length < *min) {
        errors.push(invalid(path, &length.into(), format!("should have at least {min} items")));
    }
    duplicates(node, list, path, errors);
    if let Some(items) = &node.items {
        for (index, item) in list.iter().enumerate() {
            structure(items, item, node.old_item(old, item), &format!("{path}[{index}]"), errors);
        }
    }
}

fn duplicates(node: &Node, list: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let identity = |item: &Value| match &node.list_type {
        ListType::Atomic => None,
        ListType::Set => Some(item.clone()),
        ListType::Map(keys) => {
            Some(keys.iter().map(|k| (k.clone(), item.get(k).cloned().unwrap_or_default())).collect())
        }
    };
    let identities: Vec<Option<Value>> = list.iter().map(identity).collect();
    for (index, identity) in identities.iter().enumerate() {
        if let Some(identity) = identity
            && identities[..index].iter().flatten().any(|earlier| earlier == identity)
        {
            let go_type = if identity.is_object() { "map[string]interface {}" } else { "" };
            let message = format!("Duplicate value: {go_type}{identity}");
            let field = format!("{path}[{index}]");
            errors.push(FieldError::with_reason(&field, "FieldValueDuplicate", message));
        }
    }
}

fn object(
    node: &Node,
    map: &Map<String, Value>,
    old: Option<&Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let length = map.len() as u64;
    if let Some(max) = node.max_properties.filter(|max| length > *max) {
        let message = format!("Too many: {length}: must have at most {max} items");
        errors.push(FieldError::with_reason(path, "FieldValueTooMany", message));
    }
    if let Some(min) = node.min_properties.filter(|min| length < *min) {
        errors.push(invalid(path, &length.into(), format!("should have at least {min} properties")));
    }
    for key in node.required.iter().filter(|key| !map.contains_key(*key)) {
        errors.push(FieldError::required(&join(path, key), ""));
    }
    for (key, value) in map {
        if let Some(child) = node.child(path, key) {
            structure(child, value, old.and_then(|old| old.get(key)), &join(path, key), errors);
        }
    }
}

fn logic(node: &Node, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let holds = |branch: &Node| {
        let mut found = Vec::new();
        structure(branch, value, None, path, &mut found);
        found.is_empty()
    };
    let mut broken = |why: String| {
        let shown = Value::from(if value.is_object() { "" } else { type_name(value) });
        errors.push(FieldError::invalid("<nil>", &shown, &why));
    };
    if !node.all_of.iter().all(&holds) {
        broken(format!("\"{path}\" must validate all the schemas (allOf)"));
    }
    if !node.any_of.is_empty() && !node.any_of.iter().any(&holds) {
        broken(format!("\"{path}\" must validate at least one schema (anyOf)"));
    }
    if !node.one_of.is_empty() {
        match node.one_of.iter().filter(|branch| holds(branch)).count() {
            1 => {}
            0 => {
                broken(format!("\"{path}\" must validate one and only one schema (oneOf). Found none valid"))
            }
            n => broken(format!(
                "\"{path}\" must validate one and only one schema (oneOf). Found {n} valid alternatives"
            )),
        }
    }
    if node.not.as_deref().is_some_and(holds) {
        broken(format!("\"{path}\" must not validate the schema (not)"));
    }
}
