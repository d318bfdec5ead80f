//! The part of Kubernetes' JSONPath that printer columns use: fields, indices, `[*]` and `[?(@.a=="b")]`.

use serde_json::Value;

enum Step {
    Field(String),
    Index(i64),
    All,
    Where { path: String, equal: bool, value: String },
}

/// The first value at `path`, such as `.status.conditions[?(@.type=="Ready")].status`.
pub(super) fn first<'a>(path: &str, object: &'a Value) -> Option<&'a Value> {
    let mut found = vec![object];
    for step in steps(path)? {
        found = found.into_iter().flat_map(|value| follow(&step, value)).collect();
    }
    found.into_iter().next()
}

fn follow<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Index(index) => {
            let list = value.as_array().map_or(&[][..], Vec::as_slice);
            let length = i64::try_from(list.len()).unwrap_or_default();
            let index = if *index < 0 { length + index } else { *index };
            usize::try_from(index).ok().and_then(|index| list.get(index)).into_iter().collect()
        }
        Step::All => match value {
            Value::Array(list) => list.iter().collect(),
            Value::Object(map) => map.values().collect(),
            _ => Vec::new(),
        },
        Step::Where { path, equal, value: wanted } => {
            let holds = |item: &&Value| {
                let text = match first(path, item) {
                    Some(Value::String(text)) => text.clone(),
                    Some(other) => other.to_string(),
                    None => return false,
                };
                (text == *wanted) == *equal
            };
            value.as_array().into_iter().flatten().filter(holds).collect()
        }
    }
}

fn steps(path: &str) -> Option<Vec<Step>> {
    let mut rest = path.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix("[?(") {
            let (condition, after) = inside.split_once(")]")?;
            steps.push(condition_step(condition)?);
            rest = after;
        } else if let Some(inside) = rest.strip_prefix('[') {
            let (inside, after) = inside.split_once(']')?;
            let quoted = inside.trim_matches(['\'', '"']);
            steps.push(match inside {
                "*" => Step::All,
                _ if quoted.len() < inside.len() => Step::Field(quoted.to_owned()),
                index => Step::Index(index.parse().ok()?),
            });
            rest = after;
        } else {
            let (name, after) = field(rest.strip_prefix('.').unwrap_or(rest));
            steps.push(if name == "*" { Step::All } else { Step::Field(name) });
            rest = after;
        }
    }
    Some(steps)
}

/// A field name up to the next unescaped `.` or `[`.
fn field(text: &str) -> (String, &str) {
    let (mut name, mut escaped) = (String::new(), false);
    for (at, c) in text.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            '.' | '[' if !escaped => return (name, &text[at..]),
            c => {
                name.push(c);
                escaped = false;
            }
        }
    }
    (name, "")
}

fn condition_step(condition: &str) -> Option<Step> {
    let (equal, operator) = if condition.contains("!=") { (false, "!=") } else { (true, "==") };
    let (path, value) = condition.split_once(operator)?;
    let path = path.trim().strip_prefix('@')?.to_owned();
    let value = value.trim().trim_matches(['\'', '"']).to_owned();
    Some(Step::Where { path, equal, value })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_of_printer_columns_find_their_values() {
        let object = json!({
            "metadata": {"labels": {"manx.dev/node": "n1"}},
            "spec": {"cidr": "10.0.0.0/8", "list": [{"n": 1}, {"n": 2}]},
            "status": {"conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}]},
        });
        for (path, wanted) in [
            (".spec.cidr", json!("10.0.0.0/8")),
            (".status.conditions[?(@.type==\"Ready\")].status", json!("True")),
            (".status.conditions[?(@.type=='A')].status", json!("False")),
            (".spec.list[*].n", json!(1)),
            (".spec.list[-1].n", json!(2)),
            (".metadata.labels.manx\\.dev/node", json!("n1")),
            (".metadata.labels['manx.dev/node']", json!("n1")),
            ("{.spec.list[1].n}", json!(2)),
        ] {
            assert_eq!(first(path, &object), Some(&wanted), "{path}");
        }
        assert_eq!(first(".spec.none.more", &object), None);
    }
}
