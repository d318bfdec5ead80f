//! `x-kubernetes-validations`: rules in CEL over `self` and `oldSelf`.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use cel::objects::OptionalValue;
use cel::{Context, Env, Program, extensions};
use serde_json::Value;

use super::node::{ListType, Node, SchemaError};
use super::validate::type_name;
use super::{check, join, network};
use crate::FieldError;

/// A compiled rule.
#[derive(Debug)]
pub(crate) struct Rule {
    source: String,
    program: Program,
    /// Whether it compares with the old value, and so only holds for updates.
    transition: bool,
    /// Whether `oldSelf` is an optional, so that the rule also holds for creation.
    optional_old: bool,
    message: String,
    message_program: Option<Program>,
    reason: &'static str,
    field: String,
}

impl Rule {
    /// Compiles the rules at a node; `correlatable` says whether the old value at this place can be told.
    pub(crate) fn compile_all(
        source: &Value,
        path: &str,
        correlatable: bool,
        errors: &mut Vec<SchemaError>,
    ) -> Vec<Self> {
        let list = source["x-kubernetes-validations"].as_array().map_or(&[][..], Vec::as_slice);
        let mut rules = Vec::new();
        for (index, declared) in list.iter().enumerate() {
            let below = join(path, &format!("x-kubernetes-validations[{index}]"));
            match Self::compile(declared) {
                Ok(rule) if rule.transition && !correlatable => errors.push(SchemaError {
                    path: join(&below, "rule"),
                    message:
                        "Invalid value: oldSelf cannot be used on the uncorrelatable portion of the schema"
                            .into(),
                }),
                Ok(rule) => rules.push(rule),
                Err((field, message)) => errors.push(SchemaError { path: join(&below, field), message }),
            }
        }
        rules
    }

    fn compile(declared: &Value) -> Result<Self, (&'static str, String)> {
        let text = |key: &str| declared[key].as_str().unwrap_or_default().to_owned();
        let source = text("rule");
        if source.trim().is_empty() {
            return Err(("rule", "Required value: rule is not specified".into()));
        }
        let program = compile(&source).map_err(|why| ("rule", why))?;
        let message_program = match text("messageExpression").as_str() {
            "" => None,
            expression => Some(compile(expression).map_err(|why| ("messageExpression", why))?),
        };
        let reason = match text("reason").as_str() {
            "FieldValueRequired" => "FieldValueRequired",
            "FieldValueForbidden" => "FieldValueForbidden",
            "FieldValueDuplicate" => "FieldValueDuplicate",
            _ => "FieldValueInvalid",
        };
        let optional_old = declared["optionalOldSelf"] == true;
        let transition = program.references().has_variable("oldSelf");
        let (message, field) = (text("message"), text("fieldPath"));
        Ok(Self { source, program, transition, optional_old, message, message_program, reason, field })
    }

    /// What is wrong with the fields and functions that the rule names, given the schema it stands in.
    pub(crate) fn complaint(&self, node: &Node, root: bool) -> Option<String> {
        check::complaint(&self.program, node, root)
    }

    fn violation(&self, context: &Context<'_, '_>, value: &Value, path: &str) -> Option<FieldError> {
        let why = match self.program.execute(context) {
            Ok(cel::Value::Bool(true)) => return None,
            Ok(cel::Value::Bool(false)) => self.explanation(context),
            Ok(_) => format!("rule does not evaluate to a boolean: {}", self.source),
            Err(error) => format!("rule evaluation error: {error}: {}", self.source),
        };
        let field = format!("{path}{}", self.field);
        let prefix = match self.reason {
            "FieldValueRequired" => "Required value".to_owned(),
            "FieldValueForbidden" => "Forbidden".to_owned(),
            "FieldValueDuplicate" => format!("Duplicate value: \"{}\"", type_name(value)),
            _ => format!("Invalid value: \"{}\"", type_name(value)),
        };
        let field =
            if field.is_empty() { "<nil>".to_owned() } else { field.trim_start_matches('.').to_owned() };
        Some(FieldError::with_reason(&field, self.reason, format!("{prefix}: {why}")))
    }

    fn explanation(&self, context: &Context<'_, '_>) -> String {
        let computed = self.message_program.as_ref().and_then(|program| match program.execute(context) {
            Ok(cel::Value::String(text)) => Some(text.to_string()),
            _ => None,
        });
        computed.unwrap_or_else(|| match self.message.as_str() {
            "" => format!("failed rule: {}", self.source),
            message => message.to_owned(),
        })
    }
}

fn compile(source: &str) -> Result<Program, String> {
    environment()
        .compile(source)
        .map_err(|why| format!("Invalid value: {source:?}: compilation failed: {why}"))
}

fn environment() -> &'static Arc<Env> {
    static ENVIRONMENT: OnceLock<Arc<Env>> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let mut env = Env::stdlib();
        let added = env
            .add_extension(extensions::strings)
            .and_then(|()| env.add_extension(extensions::lists))
            .and_then(|()| env.add_extension(network::extension));
        added.expect("the extensions declare different functions");
        Arc::new(env)
    })
}

/// Collects the rules that `new` breaks, here and below; `old` is the value that it replaces, where there is one.
pub(crate) fn rules(node: &Node, new: &Value, old: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    if new.is_null() && node.nullable {
        return;
    }
    if !node.rules.is_empty() {
        own_rules(node, new, old, path, errors);
    }
    match new {
        Value::Object(map) => {
            for (key, value) in map {
                if let Some(child) = node.child(path, key) {
                    rules(child, value, old.and_then(|old| old.get(key)), &join(path, key), errors);
                }
            }
        }
        Value::Array(list) => {
            for (index, item) in list.iter().enumerate() {
                if let Some(items) = &node.items {
                    rules(items, item, node.old_item(old, item), &format!("{path}[{index}]"), errors);
                }
            }
        }
        _ => {}
    }
}

fn own_rules(node: &Node, new: &Value, old: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    let root = path.is_empty();
    let mut context = Context::with_env(Arc::clone(environment()));
    context.add_variable_from_value("self", value(Some(node), new, root));
    let plain_old = old.map(|old| value(Some(node), old, root));
    for rule in &node.rules {
        let mut context = context.new_inner_scope();
        match (&plain_old, rule.transition, rule.optional_old) {
            (None, true, false) => continue,
            // What did not change is not held against the client, unless the rule is about change.
            (Some(_), false, _) if old == Some(new) => continue,
            (old, true, true) => {
                let optional = old.clone().map_or_else(OptionalValue::none, OptionalValue::of);
                context.add_variable_from_value("oldSelf", cel::Value::Opaque(Arc::new(optional)));
            }
            (Some(old), true, false) => context.add_variable_from_value("oldSelf", old.clone()),
            (_, false, _) => {}
        }
        errors.extend(rule.violation(&context, new, path));
    }
}

/// A JSON value as CEL sees it through its schema: property names escaped, numbers of the declared type.
fn value(node: Option<&Node>, json: &Value, root: bool) -> cel::Value {
    let kind = node.map_or("", |node| node.kind.as_str());
    match json {
        Value::Null => cel::Value::Null,
        Value::Bool(b) => cel::Value::Bool(*b),
        Value::Number(n) if kind == "number" => cel::Value::Float(n.as_f64().unwrap_or_default()),
        Value::Number(n) => match n.as_i64() {
            Some(whole) => cel::Value::Int(whole),
            None => cel::Value::Float(n.as_f64().unwrap_or_default()),
        },
        Value::String(text) => cel::Value::from(text.as_str()),
        Value::Array(list) => {
            let items = node.and_then(|node| node.items.as_deref());
            cel::Value::from(list.iter().map(|item| value(items, item, false)).collect::<Vec<_>>())
        }
        Value::Object(map) => {
            let properties = map.iter().filter_map(|(key, json)| property(node, key, json, root));
            cel::Value::from(properties.collect::<HashMap<_, _>>())
        }
    }
}

fn property(node: Option<&Node>, key: &str, json: &Value, root: bool) -> Option<(String, cel::Value)> {
    if root && key == "metadata" {
        let names = json.as_object().into_iter().flatten();
        let visible = names.filter(|(key, _)| matches!(key.as_str(), "name" | "generateName"));
        let visible = visible.map(|(key, json)| (key.clone(), value(None, json, false)));
        return Some((key.to_owned(), cel::Value::from(visible.collect::<HashMap<_, _>>())));
    }
    let Some(node) = node else { return Some((key.to_owned(), value(None, json, false))) };
    match (node.properties.get(key), node.additional.as_deref()) {
        (Some(child), _) => Some((escape(key), value(Some(child), json, false))),
        (None, Some(child)) => Some((key.to_owned(), value(Some(child), json, false))),
        (None, None) => Some((escape(key), value(None, json, false))),
    }
}

const RESERVED: [&str; 20] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
];

/// The name under which a rule finds a property.
pub(super) fn escape(key: &str) -> String {
    if RESERVED.contains(&key) || key == "while" {
        return format!("__{key}__");
    }
    key.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}

impl Node {
    /// The schema of a member; `apiVersion`, `kind` and `metadata` of the root have none.
    pub(super) fn child(&self, path: &str, key: &str) -> Option<&Self> {
        if path.is_empty() && super::OF_EVERY_OBJECT.contains(&key) {
            return None;
        }
        self.properties.get(key).or(self.additional.as_deref())
    }

    /// The old element that an element of a list with keys replaces.
    pub(super) fn old_item<'a>(&self, old: Option<&'a Value>, item: &Value) -> Option<&'a Value> {
        let ListType::Map(keys) = &self.list_type else { return None };
        let same = |other: &&Value| keys.iter().all(|key| other.get(key) == item.get(key));
        old?.as_array()?.iter().find(same)
    }
}
