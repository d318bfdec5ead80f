//! What Manx's own accounts asked of API servers, gathered from the audit logs of all clusters of a run, and what the
//! roles that it ships allow them: every request was granted, and every grant is of use.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use serde_json::Value;

use super::Cluster;

/// The accounts that are looked at: those of this namespace.
const NAMESPACE: &str = "manx-system";
const USERS: &str = "system:serviceaccount:manx-system:";

/// A request as the API server saw it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// The name of the ServiceAccount.
    pub account: String,
    /// As in RBAC; a server-side apply that made an object is a `patch` and a `create`.
    pub verb: String,
    /// The API group, empty for the core.
    pub group: String,
    /// The resource, with its subresource after a slash.
    pub resource: String,
    /// The namespace, empty for objects of the cluster and for lists over all namespaces.
    pub namespace: String,
    /// The object's name, empty for lists.
    pub name: String,
    /// The HTTP status of the answer.
    pub code: u64,
    /// Whether RBAC refused it; other refusals, as those in a namespace that is being deleted, are not its doing.
    pub forbidden: bool,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, verb, group, resource, namespace, name, code, .. } = self;
        write!(f, "{account}: {verb} {group}/{resource} {namespace}/{name}: {code}")
    }
}

/// How often each request was made.
pub type Tally = BTreeMap<Request, usize>;

/// What one rule allows, spelt out: one verb on one resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// To which ServiceAccount.
    pub account: String,
    /// In which namespace; `None` in all.
    pub namespace: Option<String>,
    /// The API group, empty for the core.
    pub group: String,
    /// The resource, with its subresource after a slash.
    pub resource: String,
    /// To which objects alone; empty to all.
    pub names: Vec<String>,
    /// The verb.
    pub verb: String,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { account, group, resource, names, verb, namespace } = self;
        let group = if group.is_empty() { "core" } else { group };
        write!(f, "{account}: {verb} {group}/{resource}")?;
        if !names.is_empty() {
            write!(f, " {}", names.join(", "))?;
        }
        namespace.as_ref().map_or(Ok(()), |namespace| write!(f, " in {namespace}"))
    }
}

impl Grant {
    /// Whether it allows `request`.
    pub fn allows(&self, request: &Request) -> bool {
        self.account == request.account
            && self.verb == request.verb
            && self.group == request.group
            && self.resource == request.resource
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == request.namespace)
            && (self.names.is_empty() || self.names.contains(&request.name))
    }

    /// How many requests of `tally` it allowed.
    pub fn uses(&self, tally: &Tally) -> usize {
        let used = tally.iter().filter(|(request, _)| !request.forbidden && self.allows(request));
        used.map(|(_, count)| count).sum()
    }
}

/// What clusters of this process were asked that are down by now.
static PAST: Mutex<Tally> = Mutex::new(Tally::new());

/// Remembers what a cluster was asked that is about to go down.
pub(super) fn remember(cluster: &Cluster) {
    // A cluster that never had an API server has no log.
    let Ok(events) = cluster.audit() else { return };
    add(&mut PAST.lock().unwrap_or_else(PoisonError::into_inner), &events);
}

/// What Manx asked of `cluster`, and of all clusters of this process that are down by now.
pub fn tally(cluster: &Cluster) -> Result<Tally> {
    let mut tally = PAST.lock().unwrap_or_else(PoisonError::into_inner).clone();
    add(&mut tally, &cluster.audit()?);
    Ok(tally)
}

fn add(tally: &mut Tally, events: &[Value]) {
    for event in events {
        for request in requests(event) {
            *tally.entry(request).or_default() += 1;
        }
    }
}

/// The requests that an event of an audit log tells of; none when it is of no account of Manx.
fn requests(event: &Value) -> Vec<Request> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let account = event["user"]["username"].as_str().and_then(|user| user.strip_prefix(USERS));
    // A watch is told of when it begins and once more when it ends.
    let again = event["stage"] == "ResponseComplete" && event["verb"] == "watch";
    let (Some(account), Some(object), false) = (account, event.get("objectRef"), again) else {
        return Vec::new();
    };
    let resource = match object["subresource"].as_str() {
        Some(part) => format!("{}/{part}", text(&object["resource"])),
        None => text(&object["resource"]),
    };
    let request = Request {
        account: account.to_owned(),
        verb: text(&event["verb"]),
        group: text(&object["apiGroup"]),
        resource,
        namespace: text(&object["namespace"]),
        name: text(&object["name"]),
        code: event["responseStatus"]["code"].as_u64().unwrap_or(0),
        forbidden: event["annotations"]["authorization.k8s.io/decision"] == "forbid",
    };
    let applied = request.verb == "patch" && request.code == 201;
    let made = applied.then(|| Request { verb: "create".to_owned(), ..request.clone() });
    made.into_iter().chain([request]).collect()
}

/// Every grant that the accounts of Manx have by roles bound to them, as the API server has those.
pub fn grants(cluster: &Cluster) -> Result<BTreeSet<Grant>> {
    let mut grants = BTreeSet::new();
    for kind in ["clusterrolebindings", "rolebindings"] {
        for binding in cluster.objects(kind)? {
            let accounts = accounts(&binding);
            if accounts.is_empty() {
                continue;
            }
            let namespace = binding["metadata"]["namespace"].as_str();
            let role = binding["roleRef"]["name"].as_str().unwrap_or_default();
            let role = match (binding["roleRef"]["kind"].as_str(), namespace) {
                (Some("Role"), Some(namespace)) => cluster.object("role", &format!("{namespace}/{role}"))?,
                _ => cluster.object("clusterrole", role)?,
            };
            for account in accounts {
                grants.extend(spelt_out(&role, account, namespace));
            }
        }
    }
    Ok(grants)
}

fn accounts(binding: &Value) -> Vec<&str> {
    let subjects = binding["subjects"].as_array().into_iter().flatten();
    let ours = subjects.filter(|it| it["kind"] == "ServiceAccount" && it["namespace"] == NAMESPACE);
    ours.filter_map(|it| it["name"].as_str()).collect()
}

fn texts(list: &Value) -> impl Iterator<Item = String> + '_ {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned)
}

fn spelt_out(role: &Value, account: &str, namespace: Option<&str>) -> Vec<Grant> {
    let mut grants = Vec::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                grants.extend(texts(&rule["verbs"]).map(|verb| Grant {
                    account: account.to_owned(),
                    namespace: namespace.map(str::to_owned),
                    group: group.clone(),
                    resource: resource.clone(),
                    names: texts(&rule["resourceNames"]).collect(),
                    verb,
                }));
            }
        }
    }
    grants
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(verb: &str, code: u64) -> Value {
        json!({"stage": "ResponseComplete", "verb": verb, "responseStatus": {"code": code},
               "user": {"username": "system:serviceaccount:manx-system:manx-agent"},
               "annotations": {"authorization.k8s.io/decision": if code == 403 { "forbid" } else { "allow" }},
               "objectRef": {"resource": "leases", "apiGroup": "coordination.k8s.io",
                             "namespace": "manx-system", "name": "manx-node1"}})
    }

    fn tally_of(events: &[Value]) -> Tally {
        let mut tally = Tally::new();
        add(&mut tally, events);
        tally
    }

    fn role() -> Value {
        json!({"rules": [{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
                          "verbs": ["create", "patch", "delete"]}]})
    }

    #[test]
    fn an_apply_that_makes_an_object_uses_two_grants_and_an_unused_one_shows() {
        let grants = spelt_out(&role(), "manx-agent", Some("manx-system"));
        let uses = |events: &[Value]| {
            let tally = tally_of(events);
            grants.iter().map(|grant| grant.uses(&tally)).collect::<Vec<_>>()
        };
        assert_eq!(uses(&[event("patch", 201), event("patch", 200)]), [1, 2, 0]);
        assert_eq!(uses(&[event("delete", 403)]), [0, 0, 0], "what was refused is no use");
    }

    #[test]
    fn a_grant_holds_for_its_account_namespace_and_names_alone() {
        let grants = spelt_out(&role(), "manx-agent", Some("manx-system"));
        let request = tally_of(&[event("patch", 200)]).into_keys().next().expect("one");
        let allowed = |request: &Request| grants.iter().any(|grant| grant.allows(request));
        assert!(allowed(&request));
        assert!(!allowed(&Request { account: "manx-controller".to_owned(), ..request.clone() }));
        assert!(!allowed(&Request { namespace: "default".to_owned(), ..request.clone() }));
        let named = Grant { names: vec!["other".to_owned()], ..grants[1].clone() };
        assert!(grants[1].allows(&request) && !named.allows(&request));
    }

    #[test]
    fn others_are_no_concern_and_a_watch_counts_once() {
        let mut other = event("get", 403);
        other["user"]["username"] = "system:node:node1".into();
        let mut begun = event("watch", 200);
        begun["stage"] = "ResponseStarted".into();
        let tally = tally_of(&[other, begun, event("watch", 200)]);
        assert_eq!(tally.values().sum::<usize>(), 1);
    }
}
