//! Protobuf bodies, as `kubectl create configmap` and its like send them.
//!
//! Only the few kinds are read that kubectl makes from its command line; for every other kind, and for every field
//! that is not known here, the answer is 415, never a guess.

use serde_json::{Map, Value};

use k8s_openapi::ByteString;

/// What the envelope of every Kubernetes object in protobuf begins with.
const MAGIC: &[u8] = b"k8s\0";

/// How the bytes of a field become JSON.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Bytes,
    Bool,
    Texts,
    Map(&'static Self),
    Message(&'static [(u64, &'static str, Self)]),
    /// Present in what kubectl sends, and of no consequence.
    Ignored,
}

const METADATA: Shape = Shape::Message(&[
    (1, "name", Shape::Text),
    (2, "generateName", Shape::Text),
    (3, "namespace", Shape::Text),
    (4, "selfLink", Shape::Ignored),
    (5, "uid", Shape::Ignored),
    (6, "resourceVersion", Shape::Ignored),
    (7, "generation", Shape::Ignored),
    (8, "creationTimestamp", Shape::Ignored),
    (11, "labels", Shape::Map(&Shape::Text)),
    (12, "annotations", Shape::Map(&Shape::Text)),
    (14, "finalizers", Shape::Texts),
]);

const NAMESPACE: Shape =
    Shape::Message(&[(1, "metadata", METADATA), (2, "", Shape::Ignored), (3, "", Shape::Ignored)]);

const CONFIG_MAP: Shape = Shape::Message(&[
    (1, "metadata", METADATA),
    (2, "data", Shape::Map(&Shape::Text)),
    (3, "binaryData", Shape::Map(&Shape::Bytes)),
    (4, "immutable", Shape::Bool),
]);

const SECRET: Shape = Shape::Message(&[
    (1, "metadata", METADATA),
    (2, "data", Shape::Map(&Shape::Bytes)),
    (3, "type", Shape::Text),
    (4, "stringData", Shape::Map(&Shape::Text)),
    (5, "immutable", Shape::Bool),
]);

const SERVICE_ACCOUNT: Shape = Shape::Message(&[(1, "metadata", METADATA)]);

const DELETE_OPTIONS: Shape = Shape::Message(&[(4, "propagationPolicy", Shape::Text)]);

const ENVELOPE: Shape = Shape::Message(&[
    (1, "type", Shape::Message(&[(1, "apiVersion", Shape::Text), (2, "kind", Shape::Text)])),
    (2, "raw", Shape::Bytes),
    (3, "", Shape::Ignored),
    (4, "", Shape::Ignored),
]);

/// The object in the body, or `None` if it is of a kind or has a field that is not read.
pub(crate) fn read(body: &[u8]) -> Option<Value> {
    let envelope = value(ENVELOPE, body.strip_prefix(MAGIC)?)?;
    let raw: ByteString = serde_json::from_value(envelope["raw"].clone()).unwrap_or_default();
    let shape = match envelope["type"]["kind"].as_str()? {
        "Namespace" => NAMESPACE,
        "ConfigMap" => CONFIG_MAP,
        "Secret" => SECRET,
        "ServiceAccount" => SERVICE_ACCOUNT,
        "DeleteOptions" => DELETE_OPTIONS,
        _ => return None,
    };
    let mut object = value(shape, &raw.0)?;
    object["apiVersion"] = envelope["type"]["apiVersion"].clone();
    object["kind"] = envelope["type"]["kind"].clone();
    Some(object)
}

fn value(shape: Shape, bytes: &[u8]) -> Option<Value> {
    match shape {
        Shape::Text | Shape::Texts => String::from_utf8(bytes.to_vec()).ok().map(Value::from),
        Shape::Bytes => serde_json::to_value(ByteString(bytes.to_vec())).ok(),
        Shape::Bool => Some((bytes != [0]).into()),
        Shape::Ignored => Some(Value::Null),
        Shape::Map(_) => None,
        Shape::Message(fields) => message(fields, bytes),
    }
}

fn message(fields: &[(u64, &str, Shape)], mut bytes: &[u8]) -> Option<Value> {
    let mut object = Map::new();
    while !bytes.is_empty() {
        let (number, content, rest) = field(bytes)?;
        bytes = rest;
        let (_, name, shape) = fields.iter().find(|(known, ..)| *known == number)?;
        match shape {
            Shape::Ignored => {}
            Shape::Map(values) => {
                let (key, value) = map_entry(**values, content)?;
                let map = object.entry(*name).or_insert_with(|| Value::Object(Map::new()));
                map[key] = value;
            }
            Shape::Texts => {
                let list = object.entry(*name).or_insert_with(|| Value::Array(Vec::new()));
                list.as_array_mut()?.push(value(*shape, content)?);
            }
            shape => {
                let value = value(*shape, content)?;
                if value != "" {
                    object.insert((*name).to_owned(), value);
                }
            }
        }
    }
    Some(Value::Object(object))
}

fn map_entry(values: Shape, mut bytes: &[u8]) -> Option<(String, Value)> {
    let (mut key, mut found) = (String::new(), value(values, &[])?);
    while !bytes.is_empty() {
        let (number, content, rest) = field(bytes)?;
        bytes = rest;
        match number {
            1 => key = String::from_utf8(content.to_vec()).ok()?,
            2 => found = value(values, content)?,
            _ => return None,
        }
    }
    Some((key, found))
}

/// Number and content of the first field, and what follows it. A varint is its own content.
fn field(bytes: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (tag, rest) = varint(bytes)?;
    let (content, rest) = match tag & 7 {
        0 => {
            let (_, after) = varint(rest)?;
            rest.split_at(rest.len() - after.len())
        }
        2 => {
            let (length, rest) = varint(rest)?;
            rest.split_at_checked(usize::try_from(length).ok()?)?
        }
        _ => return None,
    };
    Some((tag >> 3, content, rest))
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f).checked_shl(u32::try_from(index * 7).ok()?)?;
        if byte & 0x80 == 0 {
            return Some((number, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with_length(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).expect("short");
        [&[tag, length], content].concat()
    }

    fn envelope(kind: &str, raw: &[u8]) -> Vec<u8> {
        let kind = [with_length(0x0a, b"v1"), with_length(0x12, kind.as_bytes())].concat();
        [MAGIC.to_vec(), with_length(0x0a, &kind), with_length(0x12, raw)].concat()
    }

    #[test]
    fn a_config_map_is_read() {
        let entry = [with_length(0x0a, b"k"), with_length(0x12, b"v")].concat();
        let raw = [with_length(0x0a, &with_length(0x0a, b"name")), with_length(0x12, &entry)].concat();
        let object = read(&envelope("ConfigMap", &raw)).expect("known");
        assert_eq!(
            object,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "name"}, "data": {"k": "v"}})
        );
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        assert_eq!(read(&envelope("Pod", &[])), None);
        assert_eq!(read(&envelope("ConfigMap", &with_length(0x4a, b"?"))), None);
        assert_eq!(read(b"k8s\0\xff\xff\xff"), None);
    }
}
