//! YAML as a tree that remembers where everything stands, so that a complaint can name the line of a field.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

/// A place in a file: line and column, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) line: u64,
    pub(super) column: u64,
}

impl From<serde_saphyr::Location> for Place {
    fn from(location: serde_saphyr::Location) -> Self {
        Self { line: location.line(), column: location.column() }
    }
}

/// A value and where it begins.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub(super) place: Place,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Scalar(Value),
    List(Vec<Tree>),
    /// Keys with their places.
    Map(Vec<(String, Place, Tree)>),
}

/// Reads all documents of a file; empty ones are left out.
///
/// # Errors
/// Where the text is no YAML, or not of the kind that JSON can say.
pub(super) fn read(text: &str) -> Result<Vec<Tree>, (Place, String)> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options::<Tree>(text, options).map_err(|error| {
        let place = error.location().map_or(Place { line: 1, column: 1 }, Place::from);
        (place, error.without_snippet().to_string())
    })
}

impl Tree {
    /// The tree without its places.
    pub(super) fn to_json(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => items.iter().map(Self::to_json).collect(),
            Content::Map(entries) => {
                entries.iter().map(|(key, _, value)| (key.clone(), value.to_json())).collect()
            }
        }
    }

    /// The text at a key of a map.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.1.content {
            Content::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    fn get(&self, key: &str) -> Option<(Place, &Self)> {
        let Content::Map(entries) = &self.content else { return None };
        entries.iter().find(|(name, ..)| name == key).map(|(_, place, value)| (*place, value))
    }

    /// Where a field such as `spec.importV4[2].cidr` stands: its key, or what encloses it when it is missing.
    pub(super) fn locate(&self, field: &str) -> Place {
        let mut place = self.place;
        let mut at = self;
        for step in steps(field) {
            let below = match (&at.content, step) {
                (Content::Map(_), Step::Key(key)) => at.get(key),
                (Content::List(items), Step::Index(index)) => items.get(index).map(|item| (item.place, item)),
                _ => None,
            };
            let Some((found, below)) = below else { break };
            (place, at) = (found, below);
        }
        place
    }
}

#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

fn steps(field: &str) -> impl Iterator<Item = Step<'_>> {
    let parts = field.split(['.', '[']).filter(|part| !part.is_empty());
    parts.map(|part| match part.strip_suffix(']').map(str::parse) {
        Some(Ok(index)) => Step::Index(index),
        _ => Step::Key(part),
    })
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<Content>::deserialize(deserializer)?;
        Ok(Self { place: referenced.into(), content: value })
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        Content::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Content::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let mut entries: Vec<(String, Place, Tree)> = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, Tree>()? {
            if entries.iter().any(|(known, ..)| *known == key.value) {
                return Err(A::Error::custom(format!("the field {} is there twice", key.value)));
            }
            entries.push((key.value, key.referenced.into(), value));
        }
        Ok(Content::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
kind: A
spec:
  rules:
  - name: one
  - name: two
    cidr: 10.0.0.0/8
---
# nothing
---
kind: B
on: yes
";

    #[test]
    fn a_field_is_found_by_its_path_in_the_document_it_stands_in() {
        let documents = read(TEXT).expect("YAML");
        assert_eq!(documents.len(), 2);
        let line = |document: usize, field: &str| documents[document].locate(field).line;
        assert_eq!(line(0, "spec.rules[1].cidr"), 6);
        assert_eq!(line(0, "spec.rules[1]"), 5);
        assert_eq!(line(1, "kind"), 10);
        assert_eq!(line(0, "spec.rules[0].missing"), 4, "what encloses it");
    }

    #[test]
    fn words_are_words_and_numbers_numbers() {
        let documents = read(TEXT).expect("YAML");
        assert_eq!(documents[1].to_json(), serde_json::json!({"kind": "B", "on": "yes"}));
        let json = read("a: 1\nb: -2\nc: 1.5\nd: 'x'\ne: null\nf: [true]\ng: 64512:100\n").expect("YAML");
        let expected = serde_json::json!({"a": 1, "b": -2, "c": 1.5, "d": "x", "e": null, "f": [true], "g": "64512:100"});
        assert_eq!(json[0].to_json(), expected);
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_line() {
        let (place, _) = read("a: 1\nb: [2\n").expect_err("a list without end");
        assert!(place.line >= 2, "{place:?}");
        let (place, text) = read("a: 1\nb: 2\na: 3\n").expect_err("a key twice");
        assert_eq!(place.line, 3, "{text}");
    }
}
