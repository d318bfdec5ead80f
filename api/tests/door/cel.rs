//! Just enough of the API server to ask the rules of a schema: its defaults, and CEL with the libraries for addresses
//! and networks.

use std::collections::HashMap;
use std::sync::Arc;

use cel::common::types::{CelBool, CelInt, CelString, Type};
use cel::common::value::{StaticVal, Val};
use cel::{Context, Env, ExecutionError, Value};
use ipnetwork::IpNetwork;
use serde_json::Value as Json;
use std::any::Any;
use std::net::IpAddr;

static IP: Type = Type::new_unspecified_type("net.IP");
static CIDR: Type = Type::new_unspecified_type("net.CIDR");

#[derive(Debug, Clone, PartialEq)]
struct Ip(IpAddr);

#[derive(Debug, Clone, PartialEq)]
struct Cidr(IpNetwork);

macro_rules! value {
    ($type:ident, $cel:ident) => {
        impl Val for $type {
            fn get_type(&self) -> &Type {
                &$cel
            }
            fn cel_type() -> &'static Type {
                &$cel
            }
            fn equals(&self, other: &dyn Val) -> bool {
                other.downcast_ref::<Self>() == Some(self)
            }
            fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
                Box::new(self.clone())
            }
            fn as_any(&self) -> Option<&dyn Any> {
                Some(self)
            }
        }
        impl StaticVal for $type {}
    };
}
value!(Ip, IP);
value!(Cidr, CIDR);

/// The messages of every rule that refuses `object`, or its change from `old`.
pub(crate) fn refusals(schema: &Json, object: &Json, old: Option<&Json>) -> Vec<String> {
    let mut refused = Vec::new();
    let env = environment();
    walk(&env, schema, object, old, &mut refused);
    refused
}

/// Fills in what the schema defaults, as the API server does before it validates.
pub(crate) fn fill_defaults(schema: &Json, object: &mut Json) {
    match object {
        Json::Object(fields) => {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                if let (None, Some(default)) = (fields.get(name), property.get("default")) {
                    fields.insert(name.clone(), default.clone());
                }
                if let Some(field) = fields.get_mut(name) {
                    fill_defaults(property, field);
                }
            }
        }
        Json::Array(items) => items.iter_mut().for_each(|item| fill_defaults(&schema["items"], item)),
        _ => {}
    }
}

/// Every rule of a schema, wherever it is.
pub(crate) fn rules(schema: &Json) -> Vec<String> {
    match schema {
        Json::Object(fields) => {
            let own = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
            let own = own.filter_map(|rule| rule["rule"].as_str().map(str::to_owned));
            own.chain(fields.values().flat_map(rules)).collect()
        }
        Json::Array(items) => items.iter().flat_map(rules).collect(),
        _ => Vec::new(),
    }
}

/// The environment that rules are compiled in.
pub(crate) fn environment() -> Arc<Env> {
    let mut env = Env::stdlib();
    env.add_extension(cel::extensions::strings).expect("no conflict");
    declare(&mut env).expect("no conflict");
    Arc::new(env)
}

fn declare(env: &mut Env) -> Result<(), cel::DeclarationError> {
    cel::add_overload!(env, fn is_ip: (CelString<'_>) -> CelBool, name = "isIP")?;
    cel::add_overload!(env, fn is_cidr: (CelString<'_>) -> CelBool, name = "isCIDR")?;
    cel::add_overload!(env, fn parse_ip: (CelString<'_>) -> Result<Ip>, name = "ip")?;
    cel::add_overload!(env, fn parse_cidr: (CelString<'_>) -> Result<Cidr>, name = "cidr")?;
    cel::add_overload!(env, fn ip_text: (Ip) -> CelString<'_>, name = "string")?;
    cel::add_overload!(env, fn cidr_text: (Cidr) -> CelString<'_>, name = "string")?;
    cel::add_member_overload!(env, fn family: (Ip) -> CelInt)?;
    cel::add_member_overload!(env, fn address: (Cidr) -> Ip, name = "ip")?;
    cel::add_member_overload!(env, fn masked: (Cidr) -> Cidr)?;
    cel::add_member_overload!(env, fn prefix_length: (Cidr) -> CelInt)?;
    cel::add_member_overload!(env, fn contains: (Cidr, CelString<'_>) -> Result<CelBool>, name = "containsCIDR")
}

fn walk(env: &Arc<Env>, schema: &Json, value: &Json, old: Option<&Json>, refused: &mut Vec<String>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let text = rule["rule"].as_str().expect("a rule is a string");
        if text.contains("oldSelf") && old.is_none() {
            continue;
        }
        let program = env.compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let mut context = Context::with_env(env.clone());
        context.add_variable_from_value("self", to_cel(value));
        if let Some(old) = old {
            context.add_variable_from_value("oldSelf", to_cel(old));
        }
        match program.execute(&context) {
            Ok(Value::Bool(true)) => {}
            Ok(_) => refused.push(rule["message"].as_str().expect("a rule has a message").to_owned()),
            Err(error) => refused.push(format!("{text}: {error}")),
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(field) = value.get(name) {
            walk(env, property, field, old.and_then(|old| old.get(name)), refused);
        }
    }
    for item in value.as_array().into_iter().flatten() {
        walk(env, &schema["items"], item, None, refused);
    }
}

/// Whole numbers are CEL's `int`, whatever their sign, as in Kubernetes.
fn to_cel(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => {
            number.as_i64().map_or_else(|| Value::Float(number.as_f64().expect("finite")), Value::Int)
        }
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::List(Arc::new(items.iter().map(to_cel).collect())),
        Json::Object(fields) => {
            let fields: HashMap<String, Value> =
                fields.iter().map(|(name, value)| (name.clone(), to_cel(value))).collect();
            Value::from(fields)
        }
    }
}

fn network(text: &str) -> Option<IpNetwork> {
    text.contains('/').then(|| text.parse().ok()).flatten()
}

fn is_ip(text: &CelString<'_>) -> CelBool {
    text.inner().parse::<IpAddr>().is_ok().into()
}

fn is_cidr(text: &CelString<'_>) -> CelBool {
    network(text.inner()).is_some().into()
}

fn parse_ip(text: &CelString<'_>) -> Result<Ip, ExecutionError> {
    text.inner().parse().map(Ip).map_err(|error| ExecutionError::function_error("ip", error))
}

fn parse_cidr(text: &CelString<'_>) -> Result<Cidr, ExecutionError> {
    network(text.inner()).map(Cidr).ok_or_else(|| ExecutionError::function_error("cidr", "not a network"))
}

fn ip_text(ip: &Ip) -> CelString<'static> {
    ip.0.to_string().into()
}

fn cidr_text(cidr: &Cidr) -> CelString<'static> {
    cidr.0.to_string().into()
}

fn family(ip: &Ip) -> CelInt {
    if ip.0.is_ipv4() { 4_i64.into() } else { 6_i64.into() }
}

fn address(cidr: &Cidr) -> Ip {
    Ip(cidr.0.ip())
}

fn masked(cidr: &Cidr) -> Cidr {
    Cidr(IpNetwork::new(cidr.0.network(), cidr.0.prefix()).expect("a valid length"))
}

fn prefix_length(cidr: &Cidr) -> CelInt {
    i64::from(cidr.0.prefix()).into()
}

fn contains(cidr: &Cidr, other: &CelString<'_>) -> Result<CelBool, ExecutionError> {
    let Cidr(other) = parse_cidr(other)?;
    Ok((cidr.0.is_ipv4() == other.is_ipv4()
        && cidr.0.prefix() <= other.prefix()
        && cidr.0.contains(other.ip()))
    .into())
}
