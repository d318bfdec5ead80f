//! What a request asks for: the path taken apart, the query decoded, the representation that is wanted.

use std::collections::BTreeMap;
use std::time::Duration;

use super::failure::Failure;

/// The resource, namespace, name and subresource that a path names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    /// Namespace, or empty.
    pub(crate) namespace: String,
    /// Name, or empty for the collection.
    pub(crate) name: String,
    /// `status`, or empty.
    pub(crate) subresource: String,
}

impl Target {
    /// Takes apart `/api/v1/…` or `/apis/GROUP/VERSION/…`; `None` for every other path.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let parts: Vec<String> = path.split('/').filter(|p| !p.is_empty()).map(decode).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, plural, rest) = match rest {
            ["namespaces"] => ("", "namespaces", &[][..]),
            ["namespaces", name] => (*name, "namespaces", &rest[1..]),
            ["namespaces", name, "status" | "finalize"] => (*name, "namespaces", &rest[1..]),
            ["namespaces", namespace, plural, rest @ ..] => (*namespace, *plural, rest),
            [plural, rest @ ..] => ("", *plural, rest),
            [] => return None,
        };
        let (name, subresource) = match rest {
            [] => ("", ""),
            [name] => (*name, ""),
            [name, subresource] => (*name, *subresource),
            _ => return None,
        };
        let namespace = if plural == "namespaces" { "" } else { namespace };
        let own = str::to_owned;
        Some(Self {
            group: own(group),
            version: own(version),
            plural: own(plural),
            namespace: own(namespace),
            name: own(name),
            subresource: own(subresource),
        })
    }
}

/// Decodes percent escapes; a `+` stays what it is, as it must in a path.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The parameters of the query string.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(BTreeMap<String, String>);

impl Query {
    /// Decodes the query string.
    pub(crate) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")))
        });
        Self(pairs.collect())
    }

    /// The value of a parameter, empty if it is not there.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    /// A boolean parameter.
    pub(crate) fn flag(&self, key: &str) -> bool {
        matches!(self.text(key), "true" | "1" | "True" | "TRUE" | "t" | "T")
    }

    /// Whether the parameter is there at all.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// A number.
    ///
    /// # Errors
    /// 400 when the parameter is there and is not a number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>, Failure> {
        match self.text(key) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Failure::bad_request(format!("invalid value {text:?} of the parameter {key}: not a number"))
            }),
        }
    }

    /// `timeoutSeconds`.
    pub(crate) fn timeout(&self) -> Result<Option<Duration>, Failure> {
        Ok(self.number("timeoutSeconds")?.filter(|s| *s > 0).map(Duration::from_secs))
    }
}

/// The representation in which objects are returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The objects themselves.
    Whole,
    /// A `Table`, as kubectl prints.
    Table,
    /// Only the metadata.
    Metadata,
}

impl Shape {
    /// Finds the first acceptable alternative that is spoken here.
    pub(crate) fn from_accept(accept: &str) -> Self {
        for alternative in accept.split(',') {
            let mut parts = alternative.split(';').map(str::trim);
            let json = matches!(parts.next(), Some("application/json" | "application/*" | "*/*" | ""));
            let shape = parts.find_map(|p| p.strip_prefix("as="));
            match (json, shape) {
                (true, Some("Table")) => return Self::Table,
                (true, Some("PartialObjectMetadata" | "PartialObjectMetadataList")) => return Self::Metadata,
                (true, None) => return Self::Whole,
                _ => {}
            }
        }
        Self::Whole
    }
}

/// One request for objects, without its body.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) target: Target,
    pub(crate) query: Query,
    pub(crate) shape: Shape,
    pub(crate) user_agent: String,
}

impl Call {
    /// Whether nothing is to be kept (`dryRun=All`).
    pub(crate) fn dry_run(&self) -> bool {
        self.query.has("dryRun")
    }

    /// Who is named as the owner of the fields that this request writes.
    pub(crate) fn field_manager(&self) -> String {
        match self.query.text("fieldManager") {
            "" => self.user_agent.split('/').next().filter(|s| !s.is_empty()).unwrap_or("unknown").to_owned(),
            named => named.to_owned(),
        }
    }

    /// What happens to unknown and duplicate fields.
    pub(crate) fn strictness(&self) -> Strictness {
        match self.query.text("fieldValidation") {
            "Strict" => Strictness::Refuse,
            "Ignore" => Strictness::Ignore,
            _ => Strictness::Warn,
        }
    }
}

/// What happens to unknown fields (`fieldValidation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// They are dropped.
    Ignore,
    /// They are dropped, with a warning.
    Warn,
    /// They are refused.
    Refuse,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_their_resource() {
        let of = |path: &str| {
            let t = Target::parse(path).expect("an object path");
            (t.group, t.plural, t.namespace, t.name, t.subresource)
        };
        let row = |a: &str, b: &str, c: &str, d: &str, e: &str| {
            (a.to_owned(), b.to_owned(), c.to_owned(), d.to_owned(), e.to_owned())
        };
        assert_eq!(of("/api/v1/nodes"), row("", "nodes", "", "", ""));
        assert_eq!(of("/api/v1/namespaces/a"), row("", "namespaces", "", "a", ""));
        assert_eq!(of("/api/v1/namespaces/a/status"), row("", "namespaces", "", "a", "status"));
        assert_eq!(of("/api/v1/namespaces/a/pods/b"), row("", "pods", "a", "b", ""));
        assert_eq!(
            of("/apis/manx.dev/v1alpha1/ippools/p/status"),
            row("manx.dev", "ippools", "", "p", "status")
        );
        assert_eq!(Target::parse("/version"), None);
        assert_eq!(Target::parse("/apis/manx.dev/v1alpha1"), None);
    }

    #[test]
    fn the_first_spoken_representation_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(Shape::from_accept(table), Shape::Table);
        assert_eq!(Shape::from_accept("application/vnd.kubernetes.protobuf, application/json"), Shape::Whole);
        assert_eq!(Shape::from_accept(""), Shape::Whole);
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("labelSelector=a%3Db%2Cc+in+%28d%29&watch=1");
        assert_eq!(query.text("labelSelector"), "a=b,c in (d)");
        assert!(query.flag("watch"));
    }
}
