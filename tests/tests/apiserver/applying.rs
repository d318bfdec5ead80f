//! Server-side apply and the ownership of fields.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Error, ResourceExt};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::objects::code_of;

crate::tests![
    apply_creates_what_is_not_there,
    applying_the_same_again_changes_nothing,
    a_field_that_is_no_longer_applied_goes,
    a_field_that_two_apply_stays_until_both_let_go,
    another_owners_field_is_a_conflict_unless_forced,
    elements_with_keys_have_owners_of_their_own,
    an_update_takes_the_fields_that_it_changes,
    the_status_is_applied_apart,
    apply_needs_the_name_of_its_manager,
    managed_fields_can_be_given_up,
];

async fn apply(
    cluster: &Cluster,
    widgets: &Api<DynamicObject>,
    manager: &str,
    spec: Value,
) -> Result<DynamicObject, Error> {
    let widget = cluster.widget("a", &spec);
    widgets.patch("a", &PatchParams::apply(manager), &Patch::Apply(&widget)).await
}

fn owned_by(object: &DynamicObject, manager: &str) -> Value {
    let entries = object.metadata.managed_fields.iter().flatten();
    let mut owned = entries.filter(|entry| entry.manager.as_deref() == Some(manager));
    owned.next().and_then(|entry| entry.fields_v1.clone()).map_or(Value::Null, |fields| fields.0)
}

async fn apply_creates_what_is_not_there(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let made = apply(&cluster, &widgets, "alice", json!({"size": 1})).await.expect("valid");
    assert_eq!(made.metadata.generation, Some(1));
    assert_eq!(made.data["spec"], json!({"size": 1, "colour": "Green"}));
    assert_eq!(owned_by(&made, "alice"), json!({"f:spec": {"f:size": {}}}));
}

async fn applying_the_same_again_changes_nothing(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let spec = json!({"size": 1, "parts": [{"name": "x"}], "tags": ["t"]});
    let first = apply(&cluster, &widgets, "alice", spec.clone()).await.expect("valid");
    let second = apply(&cluster, &widgets, "alice", spec).await.expect("valid");
    assert_eq!(first.resource_version(), second.resource_version());
}

async fn a_field_that_is_no_longer_applied_goes(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let full = json!({"size": 1, "title": "one", "options": {"k": "v"}, "tags": ["t", "u"]});
    apply(&cluster, &widgets, "alice", full).await.expect("valid");
    let less = apply(&cluster, &widgets, "alice", json!({"size": 1, "tags": ["u"]})).await.expect("valid");
    assert_eq!(less.data["spec"], json!({"size": 1, "colour": "Green", "tags": ["u"]}));
    assert_eq!(less.metadata.generation, Some(2));
}

async fn a_field_that_two_apply_stays_until_both_let_go(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let spec = json!({"size": 1, "title": "one"});
    apply(&cluster, &widgets, "alice", spec.clone()).await.expect("valid");
    apply(&cluster, &widgets, "bob", spec).await.expect("the same value is no conflict");
    let still = apply(&cluster, &widgets, "alice", json!({"size": 1})).await.expect("valid");
    assert_eq!(still.data["spec"]["title"], "one");
    let gone = apply(&cluster, &widgets, "bob", json!({"size": 1})).await.expect("valid");
    assert_eq!(gone.data["spec"].get("title"), None);
}

async fn another_owners_field_is_a_conflict_unless_forced(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    apply(&cluster, &widgets, "alice", json!({"size": 1})).await.expect("valid");
    let Err(Error::Api(status)) = apply(&cluster, &widgets, "bob", json!({"size": 2})).await else {
        panic!("alice owns the size");
    };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"alice\": .spec.size");
    let cause = &status.details.expect("causes").causes[0];
    assert_eq!((cause.reason.as_str(), cause.field.as_str()), ("FieldManagerConflict", ".spec.size"));
    let widget = cluster.widget("a", &json!({"size": 2}));
    let forced = PatchParams::apply("bob").force();
    let taken = widgets.patch("a", &forced, &Patch::Apply(&widget)).await.expect("forced");
    assert_eq!(taken.data["spec"]["size"], 2);
    assert_eq!(owned_by(&taken, "alice"), Value::Null);
}

async fn elements_with_keys_have_owners_of_their_own(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let part = |name: &str| json!({"size": 1, "parts": [{"name": name, "weight": 2}]});
    apply(&cluster, &widgets, "alice", part("x")).await.expect("valid");
    let both = apply(&cluster, &widgets, "bob", part("y")).await.expect("valid");
    assert_eq!(both.data["spec"]["parts"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        owned_by(&both, "bob")["f:spec"]["f:parts"],
        json!({"k:{\"name\":\"y\"}": {".": {}, "f:name": {}, "f:weight": {}}})
    );
    let one = apply(&cluster, &widgets, "alice", json!({"size": 1})).await.expect("valid");
    assert_eq!(one.data["spec"]["parts"], json!([{"name": "y", "weight": 2}]));
}

async fn an_update_takes_the_fields_that_it_changes(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    apply(&cluster, &widgets, "alice", json!({"size": 1, "title": "one"})).await.expect("valid");
    let patch = Patch::Merge(json!({"spec": {"size": 2}}));
    let params = PatchParams { field_manager: Some("carol".into()), ..PatchParams::default() };
    let patched = widgets.patch("a", &params, &patch).await.expect("valid");
    assert_eq!(owned_by(&patched, "alice"), json!({"f:spec": {"f:title": {}}}));
    assert_eq!(owned_by(&patched, "carol"), json!({"f:spec": {"f:size": {}}}));
    let Err(Error::Api(status)) = apply(&cluster, &widgets, "alice", json!({"size": 1})).await else {
        panic!("carol owns the size");
    };
    assert!(
        status.message.contains(&format!("with \"carol\" using {}/v1: ", cluster.group())),
        "{}",
        status.message
    );
}

async fn the_status_is_applied_apart(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    apply(&cluster, &widgets, "alice", json!({"size": 1})).await.expect("valid");
    let mut widget = cluster.widget("a", &json!({"size": 9}));
    widget.data["status"] = json!({"used": 3, "conditions": [{"type": "Ready", "status": "True"}]});
    let params = PatchParams::apply("bob");
    let status = widgets.patch_status("a", &params, &Patch::Apply(&widget)).await.expect("no conflict");
    assert_eq!(status.data["spec"]["size"], 1);
    assert_eq!(status.data["status"]["used"], 3);
    assert_eq!(status.metadata.generation, Some(1));
    let again = apply(&cluster, &widgets, "alice", json!({"size": 2})).await.expect("valid");
    assert_eq!(again.data["status"]["used"], 3);
}

async fn apply_needs_the_name_of_its_manager(cluster: Cluster) {
    let namespace = cluster.namespace().await;
    let url = format!("/api/v1/namespaces/{namespace}/configmaps/a");
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let request = hyper::Request::patch(url)
        .header("content-type", "application/apply-patch+yaml")
        .body(body.to_string().into_bytes())
        .expect("a request");
    assert_eq!(code_of(cluster.client.request::<ConfigMap>(request).await), 422);
}

async fn managed_fields_can_be_given_up(cluster: Cluster) {
    let namespace = cluster.namespace().await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &namespace);
    let map = serde_json::from_value(json!({"metadata": {"name": "a"}, "data": {"k": "v"}})).expect("a map");
    let made = maps.create(&PostParams::default(), &map).await.expect("valid");
    assert_eq!(made.metadata.managed_fields.map(|entries| entries.len()), Some(1));
    let patch = Patch::Merge(json!({"metadata": {"managedFields": [{}]}}));
    let reset = maps.patch("a", &PatchParams::default(), &patch).await.expect("valid");
    assert_eq!(reset.metadata.managed_fields, None);
}
