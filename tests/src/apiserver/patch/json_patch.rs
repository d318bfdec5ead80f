//! JSON patch (RFC 6902).

use serde_json::Value;

use crate::apiserver::failure::Failure;

/// Applies the operations in order; the first that fails undoes nothing, so apply to a copy.
///
/// # Errors
/// 400 for what is not a patch, 422 for an operation that cannot be carried out.
pub(crate) fn apply(target: &mut Value, patch: &Value) -> Result<(), Failure> {
    let operations =
        patch.as_array().ok_or_else(|| Failure::bad_request("a JSON patch is a list of operations"))?;
    operations.iter().try_for_each(|operation| step(target, operation))
}

fn step(target: &mut Value, operation: &Value) -> Result<(), Failure> {
    let verb = operation["op"].as_str().unwrap_or_default();
    let path = pointer(operation, "path")?;
    match verb {
        "add" => add(target, path, value(operation)?),
        "remove" => remove(target, path).map(drop),
        "replace" => {
            let place = target.pointer_mut(path).ok_or_else(unprocessable)?;
            *place = value(operation)?;
            Ok(())
        }
        "move" => {
            let moved = remove(target, pointer(operation, "from")?)?;
            add(target, path, moved)
        }
        "copy" => {
            let from = pointer(operation, "from")?;
            let copied = target.pointer(from).cloned().ok_or_else(unprocessable)?;
            add(target, path, copied)
        }
        "test" if target.pointer(path) == Some(&value(operation)?) => Ok(()),
        "test" => Err(unprocessable()),
        other => Err(Failure::bad_request(format!("unknown JSON patch operation {other:?}"))),
    }
}

fn pointer<'a>(operation: &'a Value, key: &str) -> Result<&'a str, Failure> {
    operation[key]
        .as_str()
        .ok_or_else(|| Failure::bad_request(format!("a JSON patch operation lacks {key:?}")))
}

fn value(operation: &Value) -> Result<Value, Failure> {
    let value = operation.get("value").cloned();
    value.ok_or_else(|| Failure::bad_request("a JSON patch operation lacks \"value\""))
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), Failure> {
    let Some((parent, token)) = path.rsplit_once('/') else {
        *target = value;
        return Ok(());
    };
    let key = token.replace("~1", "/").replace("~0", "~");
    match target.pointer_mut(parent) {
        Some(Value::Object(map)) => {
            map.insert(key, value);
            Ok(())
        }
        Some(Value::Array(list)) if key == "-" => {
            list.push(value);
            Ok(())
        }
        Some(Value::Array(list)) => {
            let index = key.parse().ok().filter(|index| *index <= list.len());
            list.insert(index.ok_or_else(unprocessable)?, value);
            Ok(())
        }
        _ => Err(unprocessable()),
    }
}

fn remove(target: &mut Value, path: &str) -> Result<Value, Failure> {
    let (parent, token) = path.rsplit_once('/').ok_or_else(unprocessable)?;
    let key = token.replace("~1", "/").replace("~0", "~");
    let removed = match target.pointer_mut(parent) {
        Some(Value::Object(map)) => map.remove(&key),
        Some(Value::Array(list)) => {
            key.parse().ok().filter(|index: &usize| *index < list.len()).map(|index| list.remove(index))
        }
        _ => None,
    };
    removed.ok_or_else(unprocessable)
}

/// An operation that cannot be carried out; the API server does not say which.
fn unprocessable() -> Failure {
    Failure::unprocessable("the server rejected our request due to an error in our request")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operations_follow_rfc_6902() {
        let mut object = json!({"a": {"b~/c": 1}, "l": [1, 3]});
        let patch = json!([
            {"op": "test", "path": "/a/b~0~1c", "value": 1},
            {"op": "add", "path": "/l/1", "value": 2},
            {"op": "add", "path": "/l/-", "value": 4},
            {"op": "move", "from": "/a/b~0~1c", "path": "/d"},
            {"op": "copy", "from": "/d", "path": "/e"},
            {"op": "replace", "path": "/d", "value": 7},
            {"op": "remove", "path": "/l/0"},
        ]);
        apply(&mut object, &patch).expect("applies");
        assert_eq!(object, json!({"a": {}, "l": [2, 3, 4], "d": 7, "e": 1}));
    }

    #[test]
    fn a_failed_test_refuses_the_patch() {
        let patch = json!([{"op": "test", "path": "/a", "value": 1}]);
        assert_eq!(apply(&mut json!({"a": 2}), &patch).expect_err("differs").code, 422);
    }
}
