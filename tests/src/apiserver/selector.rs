//! Label selectors (equality and sets) and field selectors, parsed from their query strings.

use serde_json::Value;

use super::failure::Failure;
use super::resource::{Origin, Resource};

/// What a list or watch is narrowed to.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldRequirement>,
}

#[derive(Debug, Clone, PartialEq)]
struct Requirement {
    key: String,
    condition: Condition,
}

#[derive(Debug, Clone, PartialEq)]
enum Condition {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    GreaterThan(i64),
    LessThan(i64),
}

#[derive(Debug, Clone, PartialEq)]
struct FieldRequirement {
    pointer: String,
    equal: bool,
    value: String,
}

impl Selector {
    /// Parses both query parameters for `resource`.
    ///
    /// # Errors
    /// 400 when a selector cannot be parsed or names a field that the resource does not offer.
    pub(crate) fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self, Failure> {
        let labels = split_outside_parentheses(labels)
            .into_iter()
            .map(|part| requirement(part).ok_or_else(|| unable_to_parse(part)))
            .collect::<Result<_, _>>()?;
        let fields = fields
            .split(',')
            .filter(|part| !part.is_empty())
            .map(|part| field_requirement(resource, part))
            .collect::<Result<_, _>>()?;
        Ok(Self { labels, fields })
    }

    /// Whether the stored object is selected.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels.iter().all(|r| r.condition.holds(labels[&r.key].as_str()))
            && self.fields.iter().all(|f| {
                let found = object.pointer(&f.pointer).map(text).unwrap_or_default();
                (found == f.value) == f.equal
            })
    }
}

impl Condition {
    fn holds(&self, label: Option<&str>) -> bool {
        let number = || label.and_then(|l| l.parse::<i64>().ok());
        match self {
            Self::Exists => label.is_some(),
            Self::Absent => label.is_none(),
            Self::In(values) => label.is_some_and(|l| values.iter().any(|v| v == l)),
            Self::NotIn(values) => label.is_none_or(|l| values.iter().all(|v| v != l)),
            Self::GreaterThan(bound) => number().is_some_and(|n| n > *bound),
            Self::LessThan(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn unable_to_parse(part: &str) -> Failure {
    Failure::bad_request(format!("unable to parse requirement: {part:?} is not a label requirement"))
}

fn split_outside_parentheses(selector: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (at, c) in selector.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(selector[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(selector[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

fn requirement(part: &str) -> Option<Requirement> {
    let of = |key: &str, condition| label_key(key).map(|key| Requirement { key, condition });
    if let Some((key, value)) = part.split_once("!=") {
        return of(key, Condition::NotIn(vec![label_value(value)?]));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return of(key, Condition::In(vec![label_value(value)?]));
    }
    if let Some((key, value)) = part.split_once('>') {
        return of(key, Condition::GreaterThan(value.trim().parse().ok()?));
    }
    if let Some((key, value)) = part.split_once('<') {
        return of(key, Condition::LessThan(value.trim().parse().ok()?));
    }
    if let Some(key) = part.strip_prefix('!') {
        return of(key, Condition::Absent);
    }
    let Some((key, rest)) = part.split_once(char::is_whitespace) else {
        return of(part, Condition::Exists);
    };
    let (operator, values) = rest.trim().split_once('(')?;
    let values = values.trim().strip_suffix(')')?;
    let values = values.split(',').map(label_value).collect::<Option<Vec<_>>>()?;
    match operator.trim() {
        "in" => of(key, Condition::In(values)),
        "notin" => of(key, Condition::NotIn(values)),
        _ => None,
    }
}

fn label_key(key: &str) -> Option<String> {
    let key = key.trim();
    let well_formed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    (!key.is_empty() && key.chars().all(well_formed)).then(|| key.to_owned())
}

fn label_value(value: &str) -> Option<String> {
    let value = value.trim();
    let well_formed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (value.len() <= 63 && value.chars().all(well_formed)).then(|| value.to_owned())
}

fn field_requirement(resource: &Resource, part: &str) -> Result<FieldRequirement, Failure> {
    let split = |separator| part.split_once(separator);
    let (field, value, equal) = match (split("!="), split("=="), split("=")) {
        (Some((field, value)), _, _) => (field, value, false),
        (None, Some((field, value)), _) | (None, None, Some((field, value))) => (field, value, true),
        (None, None, None) => {
            return Err(Failure::bad_request(format!(
                "invalid selector: '{part}'; can't understand '{part}'"
            )));
        }
    };
    let pointer = field_pointer(resource, field.trim())
        .ok_or_else(|| Failure::bad_request(format!("field label not supported: {field}")))?;
    Ok(FieldRequirement { pointer, equal, value: value.trim().to_owned() })
}

fn field_pointer(resource: &Resource, field: &str) -> Option<String> {
    match field {
        "metadata.name" => return Some("/metadata/name".into()),
        "metadata.namespace" => return Some("/metadata/namespace".into()),
        _ => {}
    }
    match &resource.origin {
        Origin::BuiltIn(built_in) => {
            let (_, pointer) = built_in.selectable.iter().find(|(name, _)| *name == field)?;
            Some((*pointer).to_owned())
        }
        Origin::Custom { selectable, .. } => {
            let path = selectable.iter().find(|path| path.trim_start_matches('.') == field)?;
            Some(path.replace('.', "/"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::apiserver::resource::Registry;

    fn selects(labels: &str, fields: &str, object: &Value) -> bool {
        let pods = Registry::new().find("", "v1", "pods").expect("built in");
        Selector::parse(&pods, labels, fields).expect("well-formed").matches(object)
    }

    #[test]
    fn label_selectors_follow_the_kubernetes_grammar() {
        let pod = json!({"metadata": {"labels": {"app": "web", "tier": "3"}}});
        for (selector, wanted) in [
            ("", true),
            ("app", true),
            ("!app", false),
            ("app=web", true),
            ("app==web,tier=3", true),
            ("app!=web", false),
            ("other!=web", true),
            ("app in (db, web),tier", true),
            ("app notin (db,web)", false),
            ("other notin (db)", true),
            ("tier>2", true),
            ("tier<3", false),
        ] {
            assert_eq!(selects(selector, "", &pod), wanted, "{selector}");
        }
    }

    #[test]
    fn field_selectors_know_the_fields_of_the_resource() {
        let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}});
        assert!(selects("", "metadata.name=a,spec.nodeName=n1", &pod));
        assert!(!selects("", "spec.nodeName!=n1", &pod));
        let pods = Registry::new().find("", "v1", "pods").expect("built in");
        let failure = Selector::parse(&pods, "", "spec.colour=red").expect_err("no such field");
        assert_eq!(failure.code, 400);
    }
}
