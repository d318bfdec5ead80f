//! Merge patch (RFC 7386) and the part of strategic merge patch that clients of built-in resources use.

use serde_json::{Value, json};

use crate::apiserver::lists::{self, ListShape};

/// JSON merge patch: null removes, objects merge, everything else replaces.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Some(map) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Strategic merge patch at `path` of a built-in object: as [`merge`], but lists with keys merge element by
/// element, and `$patch`, `$setElementOrder` and `$deleteFromPrimitiveList` are obeyed.
pub(crate) fn strategic(target: &mut Value, patch: &Value, path: &str) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if patch.get("$patch").is_some_and(|directive| directive == "replace") || !target.is_object() {
        *target = json!({});
    }
    let Some(map) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = value.as_array().map_or(&[][..], Vec::as_slice);
            if let Some(Value::Array(list)) = map.get_mut(list) {
                list.retain(|element| !gone.contains(element));
            }
        } else if key.starts_with('$') {
            continue;
        } else if value.is_null() || value.get("$patch").is_some_and(|directive| directive == "delete") {
            map.remove(key);
        } else {
            let below = format!("{path}/{key}");
            let place = map.entry(key.clone()).or_insert(Value::Null);
            match (lists::built_in(&below), value) {
                (ListShape::Atomic, Value::Array(_)) => *place = value.clone(),
                (ListShape::Set, Value::Array(elements)) => union(place, elements),
                (ListShape::Map(keys), Value::Array(elements)) => by_key(place, elements, keys, &below),
                _ => strategic(place, value, &below),
            }
        }
    }
}

fn union(place: &mut Value, elements: &[Value]) {
    if !place.is_array() {
        *place = json!([]);
    }
    let Some(list) = place.as_array_mut() else { return };
    for element in elements {
        if !list.contains(element) {
            list.push(element.clone());
        }
    }
}

fn by_key(place: &mut Value, elements: &[Value], keys: &[&str], path: &str) {
    if !place.is_array() || elements.iter().any(|e| e["$patch"] == "replace") {
        *place = json!([]);
    }
    let Some(list) = place.as_array_mut() else { return };
    for element in elements.iter().filter(|e| e["$patch"] != "replace") {
        let same = |other: &Value| keys.iter().all(|key| other[*key] == element[*key]);
        if element["$patch"] == "delete" {
            list.retain(|other| !same(other));
        } else if let Some(found) = list.iter_mut().find(|other| same(other)) {
            strategic(found, element, path);
        } else {
            let mut fresh = json!({});
            strategic(&mut fresh, element, path);
            list.push(fresh);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_patch_follows_rfc_7386() {
        let mut object = json!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
        merge(&mut object, &json!({"a": {"b": null, "d": {"e": null, "f": 1}}, "l": [3]}));
        assert_eq!(object, json!({"a": {"c": 2, "d": {"f": 1}}, "l": [3]}));
    }

    #[test]
    fn strategic_merge_keeps_the_conditions_of_others() {
        let mut node = json!({"status": {"conditions": [
            {"type": "Ready", "status": "True"}, {"type": "NetworkUnavailable", "status": "True"},
        ]}});
        let patch = json!({"status": {
            "$setElementOrder/conditions": [{"type": "NetworkUnavailable"}],
            "conditions": [{"type": "NetworkUnavailable", "status": "False"}],
        }});
        strategic(&mut node, &patch, "");
        assert_eq!(
            node,
            json!({"status": {"conditions": [
                {"type": "Ready", "status": "True"}, {"type": "NetworkUnavailable", "status": "False"},
            ]}})
        );
    }
}
