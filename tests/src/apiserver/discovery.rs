//! Which groups, versions and resources there are, in the classic and the aggregated form, and the health paths.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::http::request::Parts;
use hyper::{Method, Response, header};
use serde_json::{Value, json};

use super::Shared;
use super::failure::Failure;
use super::http::{self, Body};
use super::openapi;
use super::resource::{Registry, Resource};

/// The version of Kubernetes whose manners are imitated.
const VERSION: (&str, &str) = ("1", "32");

const AGGREGATED: [(&str, &str); 2] = [
    ("v2", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"),
    ("v2beta1", "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"),
];

/// Answers every path that names no objects.
///
/// # Errors
/// 404 for paths that are not served.
pub(crate) fn serve(shared: &Arc<Shared>, parts: &Parts) -> Result<Response<Body>, Failure> {
    if parts.method != Method::GET {
        return Err(Failure::method_not_allowed());
    }
    let registry = &shared.state().registry;
    let accept = parts.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let path: Vec<&str> = parts.uri.path().split('/').filter(|part| !part.is_empty()).collect();
    let value = match path.as_slice() {
        ["healthz" | "readyz" | "livez", ..] => return Ok(http::typed(200, "text/plain", "ok")),
        ["version"] => version(),
        ["api"] => match aggregated(accept) {
            Some((form, content_type)) => return Ok(all(registry, form, content_type, str::is_empty)),
            None => json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        },
        ["apis"] => match aggregated(accept) {
            Some((form, content_type)) => {
                return Ok(all(registry, form, content_type, |group| !group.is_empty()));
            }
            None => json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups(registry)}),
        },
        ["apis", group] => {
            let found = groups(registry).into_iter().find(|g| g["name"] == *group);
            let mut found = found.ok_or_else(Failure::no_such_path)?;
            found["kind"] = "APIGroup".into();
            found["apiVersion"] = "v1".into();
            found
        }
        ["api", version] => resource_list(registry, "", version)?,
        ["apis", group, version] => resource_list(registry, group, version)?,
        ["openapi", "v2"] if accept.contains("json") && !accept.contains("proto-openapi") => openapi::v2(),
        ["openapi", "v2"] => {
            let content_type = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
            return Ok(http::typed(200, content_type, openapi::V2_PROTOBUF));
        }
        ["openapi", "v3"] => openapi::v3_index(registry),
        ["openapi", "v3", of @ ..] => {
            openapi::v3(registry, &of.join("/")).ok_or_else(Failure::no_such_path)?
        }
        [] => json!({"paths": ["/api", "/apis", "/healthz", "/livez", "/readyz", "/version"]}),
        _ => return Err(Failure::no_such_path()),
    };
    Ok(http::json(200, &value))
}

fn version() -> Value {
    let (major, minor) = VERSION;
    json!({
        "major": major, "minor": minor, "gitVersion": format!("v{major}.{minor}.0+manx-tests"),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

fn aggregated(accept: &str) -> Option<(&'static str, &'static str)> {
    let squeezed = accept.replace(' ', "");
    accept.contains("as=APIGroupDiscoveryList").then_some(())?;
    AGGREGATED.into_iter().find(|(form, _)| {
        squeezed.contains(&format!("v={form};"))
            || squeezed.contains(&format!("v={form},"))
            || squeezed.ends_with(&format!("v={form}"))
    })
}

/// Resources by group and version.
fn by_version(registry: &Registry) -> BTreeMap<(&str, &str), Vec<&Resource>> {
    let mut versions: BTreeMap<(&str, &str), Vec<&Resource>> = BTreeMap::new();
    for resource in registry.iter() {
        versions.entry((&resource.group, &resource.version)).or_default().push(resource);
    }
    versions
}

fn groups(registry: &Registry) -> Vec<Value> {
    let mut groups: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (group, version) in by_version(registry).into_keys().filter(|(group, _)| !group.is_empty()) {
        let entry = json!({"groupVersion": format!("{group}/{version}"), "version": version});
        groups.entry(group).or_default().push(entry);
    }
    groups
        .into_iter()
        .map(|(name, versions)| json!({"name": name, "preferredVersion": versions[0], "versions": versions}))
        .collect()
}

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const STATUS_VERBS: [&str; 3] = ["get", "patch", "update"];

fn resource_list(registry: &Registry, group: &str, version: &str) -> Result<Value, Failure> {
    let versions = by_version(registry);
    let resources = versions.get(&(group, version)).ok_or_else(Failure::no_such_path)?;
    let mut list = Vec::new();
    for resource in resources {
        list.push(json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": VERBS, "shortNames": resource.short_names,
            "categories": resource.categories,
        }));
        if resource.status {
            list.push(json!({
                "name": format!("{}/status", resource.plural), "singularName": "",
                "namespaced": resource.namespaced, "kind": resource.kind, "verbs": STATUS_VERBS,
            }));
        }
    }
    let group_version = resources[0].api_version();
    Ok(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}),
    )
}

fn all(
    registry: &Registry,
    form: &str,
    content_type: &'static str,
    of: impl Fn(&str) -> bool,
) -> Response<Body> {
    let mut groups: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for ((group, version), resources) in by_version(registry) {
        if of(group) {
            let resources: Vec<Value> = resources.into_iter().map(discovered).collect();
            let entry = json!({"version": version, "freshness": "Current", "resources": resources});
            groups.entry(group).or_default().push(entry);
        }
    }
    let items: Vec<Value> = groups
        .into_iter()
        .map(|(name, versions)| {
            let metadata = if name.is_empty() { json!({}) } else { json!({"name": name}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{form}"),
        "metadata": {}, "items": items,
    });
    http::typed(200, content_type, list.to_string())
}

fn discovered(resource: &Resource) -> Value {
    let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let mut entry = json!({
        "resource": resource.plural, "responseKind": kind, "singularResource": resource.singular,
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" }, "verbs": VERBS,
        "shortNames": resource.short_names, "categories": resource.categories,
    });
    if resource.status {
        entry["subresources"] =
            json!([{"subresource": "status", "responseKind": kind, "verbs": STATUS_VERBS}]);
    }
    entry
}
