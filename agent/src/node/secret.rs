//! Keys of sessions, out of Secrets: held for as long as they are used, never shown, wiped when they are dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use manx_api::SecretKeyRef;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The longest key that TCP MD5 takes, in octets (`TCP_MD5SIG_MAXKEYLEN` of Linux).
pub const KEY_OCTETS_MAX: usize = 80;

/// What is known of the Secrets that peers name, by their names.
pub type Secrets = Arc<BTreeMap<SecretName, SecretKeys>>;

/// The values of one Secret, by their keys in its data.
pub type SecretKeys = BTreeMap<String, Key>;

/// Where a Secret is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SecretName {
    /// Its namespace.
    pub namespace: String,
    /// Its name in there.
    pub name: String,
}

impl From<&SecretKeyRef> for SecretName {
    fn from(reference: &SecretKeyRef) -> Self {
        Self { namespace: reference.namespace.clone(), name: reference.name.clone() }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A secret value. Its octets are wiped when the last clone is dropped, and `Debug` does not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Arc<Zeroizing<Vec<u8>>>);

impl Key {
    /// Takes the octets over. One line break at the end, which editors and `echo` leave there, is no part of the key.
    pub fn new(octets: Vec<u8>) -> Self {
        let mut octets = Zeroizing::new(octets);
        if octets.last() == Some(&b'\n') {
            octets.pop();
        }
        Self(Arc::new(octets))
    }

    /// The octets, for the one who hands them to the kernel.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// The values of a Secret as an object, whether they are written as `data` or as `stringData`.
pub fn read(secret: Secret) -> SecretKeys {
    let data = secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, Key::new(value.0)));
    let plain = secret.string_data.unwrap_or_default().into_iter();
    data.chain(plain.map(|(key, value)| (key, Key::new(value.into_bytes())))).collect()
}

/// Why there is no key to be had from a Secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    /// There is no such Secret, or it may not be read.
    #[error(
        "there is no Secret {0}, or the agent may not read it: the session waits for it (agents read Secrets in \
         their own namespace unless a Role allows more)"
    )]
    Secret(SecretName),
    /// The Secret lacks the key.
    #[error("the Secret {0} has no key {1}: the session waits for it")]
    Entry(SecretName, String),
    /// Nothing in it.
    #[error("the key {1} of the Secret {0} is empty: the session waits for a password")]
    Empty(SecretName, String),
    /// More than the kernel takes.
    #[error("the key {1} of the Secret {0} is longer than 80 octets, which is all that TCP MD5 takes")]
    TooLong(SecretName, String),
}

/// The key that a peer names.
///
/// # Errors
/// When it is missing, or nothing that TCP MD5 could use.
pub fn find(secrets: &BTreeMap<SecretName, SecretKeys>, wanted: &SecretKeyRef) -> Result<Key, NoKey> {
    let name = SecretName::from(wanted);
    let Some(keys) = secrets.get(&name) else { return Err(NoKey::Secret(name)) };
    match keys.get(&wanted.key) {
        None => Err(NoKey::Entry(name, wanted.key.clone())),
        Some(key) if key.octets().is_empty() => Err(NoKey::Empty(name, wanted.key.clone())),
        Some(key) if key.octets().len() > KEY_OCTETS_MAX => Err(NoKey::TooLong(name, wanted.key.clone())),
        Some(key) => Ok(key.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(key: &str) -> SecretKeyRef {
        SecretKeyRef { namespace: "manx-system".to_owned(), name: "tor".to_owned(), key: key.to_owned() }
    }

    #[test]
    fn a_key_is_never_shown() {
        let key = Key::new(b"s3cret".to_vec());
        assert!(!format!("{key:?}").contains("s3cret"));
    }

    #[test]
    fn a_line_break_at_the_end_is_no_part_of_the_key() {
        assert_eq!(Key::new(b"s3cret\n".to_vec()), Key::new(b"s3cret".to_vec()));
    }

    #[test]
    fn what_is_missing_or_unusable_is_said_with_the_names() {
        let json = serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tor"}, "data": {"good": "czNjcmV0"},
            "stringData": {"empty": "", "plain": "s3cret", "long": "x".repeat(81)},
        });
        let secret: Secret = serde_json::from_value(json).expect("a Secret");
        let secrets = BTreeMap::from([(SecretName::from(&wanted("")), read(secret))]);
        assert_eq!(find(&secrets, &wanted("good")), find(&secrets, &wanted("plain")));
        let complaints = [
            (find(&BTreeMap::new(), &wanted("good")), "there is no Secret manx-system/tor"),
            (find(&secrets, &wanted("password")), "Secret manx-system/tor has no key password"),
            (find(&secrets, &wanted("empty")), "key empty of the Secret manx-system/tor is empty"),
            (find(&secrets, &wanted("long")), "longer than 80 octets"),
        ];
        for (found, words) in complaints {
            let said = found.expect_err("no key").to_string();
            assert!(said.contains(words), "{said}");
        }
    }
}
