//! What is served: the resources by group, version and plural name, those that are built in and those
//! that a CustomResourceDefinition added.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::builtin;
use super::schema::Schema;

/// Where the objects of a resource are kept, whatever the version they are asked for in.
pub(crate) type StorageKey = (String, String);

/// One printed column of a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    /// Heading, in the case in which it was declared.
    pub(crate) name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub(crate) kind: String,
    /// OpenAPI format, mostly empty.
    pub(crate) format: String,
    /// What the column says.
    pub(crate) description: String,
    /// 0 is always shown; more only with `-o wide`.
    pub(crate) priority: i64,
    /// JSONPath below the object, such as `.spec.cidr`.
    pub(crate) path: String,
}

/// Where a resource comes from.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// Compiled in.
    BuiltIn(&'static builtin::BuiltIn),
    /// Declared by a CustomResourceDefinition.
    Custom {
        /// The schema of this version.
        schema: Arc<Schema>,
        /// Printed columns after NAME; empty means just AGE.
        columns: Vec<Column>,
        /// JSON paths that a field selector may use.
        selectable: Vec<String>,
    },
}

/// One resource in one version.
#[derive(Debug, Clone)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    /// Whether `…/status` is served and `status` is out of reach of the main path.
    pub(crate) status: bool,
    /// Where the objects live.
    pub(crate) storage: StorageKey,
    pub(crate) origin: Origin,
}

impl Resource {
    /// The name in messages: `pods`, `ippools.manx.dev`.
    pub(crate) fn qualified(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// The kind in messages: `Pod`, `IPPool.manx.dev`.
    pub(crate) fn qualified_kind(&self) -> String {
        match self.group.as_str() {
            "" => self.kind.clone(),
            group => format!("{}.{group}", self.kind),
        }
    }

    /// `v1`, `manx.dev/v1alpha1`.
    pub(crate) fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The built-in description, unless it is a custom resource.
    pub(crate) fn built_in(&self) -> Option<&'static builtin::BuiltIn> {
        match &self.origin {
            Origin::BuiltIn(built_in) => Some(built_in),
            Origin::Custom { .. } => None,
        }
    }

    /// The schema, if it is a custom resource.
    pub(crate) fn schema(&self) -> Option<&Schema> {
        match &self.origin {
            Origin::BuiltIn(_) => None,
            Origin::Custom { schema, .. } => Some(schema),
        }
    }

    /// Whether an update may come without a resourceVersion.
    pub(crate) fn unconditional_update(&self) -> bool {
        self.built_in().is_some_and(|b| b.unconditional_update)
    }

    /// Whether the server counts generations of this kind.
    pub(crate) fn counts_generations(&self) -> bool {
        self.built_in().is_none_or(|b| b.counts_generations)
    }

    /// The object as this version of the resource shows it.
    pub(crate) fn shown(&self, stored: &Value) -> Value {
        match self.built_in().and_then(|b| b.conversion) {
            Some(conversion) => (conversion.shown)(stored),
            None => {
                let mut object = stored.clone();
                object["apiVersion"] = self.api_version().into();
                object["kind"] = self.kind.clone().into();
                object
            }
        }
    }

    /// The object as it is kept.
    pub(crate) fn kept(&self, sent: Value) -> Value {
        match self.built_in().and_then(|b| b.conversion) {
            Some(conversion) => (conversion.kept)(&sent),
            None => sent,
        }
    }
}

/// All resources that are served now.
#[derive(Debug)]
pub(crate) struct Registry {
    resources: BTreeMap<(String, String, String), Arc<Resource>>,
}

impl Registry {
    /// The built-in resources.
    pub(crate) fn new() -> Self {
        let mut registry = Self { resources: BTreeMap::new() };
        for built_in in builtin::ALL {
            registry.add(built_in.resource());
        }
        registry
    }

    /// Serves one more resource, or a new edition of it.
    pub(crate) fn add(&mut self, resource: Resource) {
        let key = (resource.group.clone(), resource.version.clone(), resource.plural.clone());
        self.resources.insert(key, Arc::new(resource));
    }

    /// Stops serving all versions of a custom resource.
    pub(crate) fn remove(&mut self, group: &str, plural: &str) {
        self.resources.retain(|(g, _, p), _| (g.as_str(), p.as_str()) != (group, plural));
    }

    /// Looks up what a path names.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.resources.get(&(group.to_owned(), version.to_owned(), plural.to_owned())).cloned()
    }

    /// Some version of what is stored under `key`.
    pub(crate) fn of_storage(&self, key: &StorageKey) -> Option<Arc<Resource>> {
        self.resources.values().find(|r| &r.storage == key).cloned()
    }

    /// Every resource, ordered by group, version and name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }
}
