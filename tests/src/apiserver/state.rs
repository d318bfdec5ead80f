//! Everything that the lock guards: the registry of resources and the store of their objects.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::call::Call;
use super::failure::Failure;
use super::resource::{Registry, Resource};
use super::store::{Key, Store};

/// Namespaces that exist from the start.
const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// The registry and the store.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) registry: Registry,
    pub(crate) store: Store,
}

impl State {
    /// The built-in resources and the four namespaces of every cluster.
    pub(crate) fn new(history: usize) -> Self {
        let mut state = Self { registry: Registry::new(), store: Store::new(history) };
        for name in NAMESPACES {
            let object = json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {
                    "name": name, "uid": new_uid(), "creationTimestamp": now(),
                    "labels": {"kubernetes.io/metadata.name": name},
                },
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
            });
            let key = Key { namespace: String::new(), name: name.into() };
            state.store.put(&(String::new(), "namespaces".into()), key, object);
        }
        state
    }

    /// The resource that the request names.
    ///
    /// # Errors
    /// 404 when it is not served, or is asked for in a namespace though it has none.
    pub(crate) fn resource(&self, call: &Call) -> Result<Arc<Resource>, Failure> {
        let target = &call.target;
        let resource = self
            .registry
            .find(&target.group, &target.version, &target.plural)
            .ok_or_else(|| Failure::no_such_resource(&target.group))?;
        let served = match target.subresource.as_str() {
            "" => true,
            "status" => resource.status,
            "finalize" => resource.plural == "namespaces",
            _ => false,
        };
        let scoped = resource.namespaced || target.namespace.is_empty();
        if served && scoped { Ok(resource) } else { Err(Failure::no_such_path()) }
    }

    /// The stored object that the request names.
    ///
    /// # Errors
    /// 404 when there is none.
    pub(crate) fn object(&mut self, resource: &Resource, call: &Call) -> Result<Arc<Value>, Failure> {
        let key = key_of(call);
        let found = self.store.collection(&resource.storage).get(&key).cloned();
        found.ok_or_else(|| Failure::not_found(resource, &key.name))
    }
}

/// The key that the request's path names.
pub(crate) fn key_of(call: &Call) -> Key {
    Key { namespace: call.target.namespace.clone(), name: call.target.name.clone() }
}

/// The key in an object's metadata.
pub(crate) fn key_in(object: &Value) -> Key {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    Key { namespace: text("/metadata/namespace"), name: text("/metadata/name") }
}

/// The time as the API writes it, to the second.
pub(crate) fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A fresh identity for an object.
pub(crate) fn new_uid() -> String {
    let (a, b) = (random(), random());
    let (variant, node) = (0x8000 | (b >> 48 & 0x3fff), b & 0xffff_ffff_ffff);
    format!("{:08x}-{:04x}-4{:03x}-{variant:04x}-{node:012x}", a >> 32, a >> 16 & 0xffff, a & 0xfff)
}

/// Five characters in which no word can be read, as `generateName` appends them.
pub(crate) fn new_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut bits = random();
    let mut suffix = String::new();
    for _ in 0..5 {
        let index = bits % ALPHABET.len() as u64;
        suffix.push(char::from(ALPHABET[usize::try_from(index).unwrap_or_default()]));
        bits /= ALPHABET.len() as u64;
    }
    suffix
}

/// Sixty-four bits from the standard library's seeded hasher.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(Timestamp::now().as_nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_version_four_uuids_and_differ() {
        let (a, b) = (new_uid(), new_uid());
        assert_ne!(a, b);
        assert_eq!(a.len(), 36);
        assert_eq!(&a[14..15], "4");
        assert_eq!(new_suffix().len(), 5);
    }
}
