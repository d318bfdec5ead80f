//! Tables, as `kubectl get` prints them: declared columns for custom resources, the usual ones for built-in ones.

mod built_in;
mod jsonpath;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::call::Call;
use super::resource::{Column, Origin, Resource};

/// How a built-in column gets its cell.
#[derive(Clone, Copy)]
enum Cell {
    /// From a JSONPath.
    Path(&'static str),
    /// From the object.
    Computed(fn(&Value) -> Value),
}

/// A table of objects; without `headed`, as a watch goes on with, it does not say what its columns are.
pub(crate) fn table<'a>(
    resource: &Resource,
    call: &Call,
    objects: impl Iterator<Item = &'a Value>,
    metadata: &Value,
    headed: bool,
) -> Value {
    let rows: Vec<Value> = objects
        .map(|stored| {
            let object = match call.query.text("includeObject") {
                "None" => Value::Null,
                "Object" => resource.shown(stored),
                _ => json!({
                    "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                    "metadata": stored["metadata"],
                }),
            };
            json!({"cells": cells(resource, stored), "object": object})
        })
        .collect();
    let columns = if headed { headings(resource) } else { Vec::new() };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

fn heading(name: &str, kind: &str, format: &str, description: &str, priority: i64) -> Value {
    json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority})
}

const NAME: &str = "Name must be unique within a namespace.";

fn headings(resource: &Resource) -> Vec<Value> {
    let mut headings = Vec::new();
    match &resource.origin {
        Origin::BuiltIn(_) => {
            for (name, kind, priority, _) in built_in::columns(resource) {
                let format = if *name == "Name" { "name" } else { "" };
                headings.push(heading(name, kind, format, name, *priority));
            }
        }
        Origin::Custom { columns, .. } => {
            headings.push(heading("Name", "string", "name", NAME, 0));
            for column in declared(columns) {
                headings.push(heading(
                    &column.name,
                    &column.kind,
                    &column.format,
                    &column.description,
                    column.priority,
                ));
            }
        }
    }
    headings
}

fn cells(resource: &Resource, stored: &Value) -> Vec<Value> {
    match &resource.origin {
        Origin::BuiltIn(_) => built_in::columns(resource)
            .iter()
            .map(|(_, kind, _, cell)| match cell {
                Cell::Path(path) => match typed(kind, jsonpath::first(path, stored)) {
                    Value::Null if *kind == "string" => "".into(),
                    cell => cell,
                },
                Cell::Computed(compute) => compute(stored),
            })
            .collect(),
        Origin::Custom { columns, .. } => {
            let name = stored["metadata"]["name"].clone();
            let others = declared(columns);
            let others =
                others.iter().map(|column| typed(&column.kind, jsonpath::first(&column.path, stored)));
            std::iter::once(name).chain(others).collect()
        }
    }
}

/// The declared columns, or the age if there are none.
fn declared(columns: &[Column]) -> Vec<Column> {
    if !columns.is_empty() {
        return columns.to_vec();
    }
    vec![Column {
        name: "Age".into(),
        kind: "date".into(),
        format: String::new(),
        description: String::new(),
        priority: 0,
        path: ".metadata.creationTimestamp".into(),
    }]
}

/// A value as a cell of the declared type; null where there is none or it does not fit.
fn typed(kind: &str, value: Option<&Value>) -> Value {
    let Some(value) = value else { return Value::Null };
    match (kind, value) {
        ("date", Value::String(time)) => age(time).into(),
        ("integer", Value::Number(number)) => number.as_i64().map_or_else(|| value.clone(), Value::from),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) | ("string", Value::String(_)) => {
            value.clone()
        }
        ("string", Value::Null) => Value::Null,
        ("string", other) => other.to_string().into(),
        _ => Value::Null,
    }
}

/// The time since then, as people say it.
pub(crate) fn age(time: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(then) => duration(Timestamp::now().as_second() - then.as_second()),
        Err(_) => "<unknown>".into(),
    }
}

/// A number of seconds in at most two units, fewer the longer it is.
fn duration(seconds: i64) -> String {
    let two = |large: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{small_unit}"),
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        ..-1 => "<invalid>".into(),
        -1..0 => "0s".into(),
        _ if seconds < 120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2920 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_prints_them() {
        for (seconds, wanted) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (3600, "60m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (47 * 3600, "47h"),
            (49 * 3600, "2d1h"),
            (100 * 86_400, "100d"),
            (1000 * 86_400, "2y270d"),
        ] {
            assert_eq!(duration(seconds), wanted);
        }
    }
}
