//! Create, get, list, update, patch and delete.

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
use kube::{Error, ResourceExt};
use serde_json::{Value, json};

use super::cluster::Cluster;

crate::tests![
    a_created_object_gets_its_identity,
    a_name_is_taken_once,
    generated_names_differ,
    an_update_with_an_old_resource_version_is_a_conflict,
    an_update_that_changes_nothing_keeps_the_resource_version,
    the_generation_counts_changes_of_the_spec_alone,
    status_and_spec_are_out_of_each_others_reach,
    a_finalizer_keeps_the_object_until_it_is_gone,
    delete_obeys_its_preconditions,
    selectors_narrow_a_list,
    pages_show_the_state_at_the_first_page,
    merge_and_json_patches_change_what_they_name,
];

/// The HTTP status of the server's refusal.
pub(crate) fn code_of<T>(outcome: Result<T, Error>) -> u16 {
    match outcome {
        Err(Error::Api(status)) => status.code,
        Err(other) => panic!("not a refusal of the server: {other}"),
        Ok(_) => panic!("the server did not refuse"),
    }
}

async fn a_created_object_gets_its_identity(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let made = widgets.create(&PostParams::default(), &cluster.widget("a", &json!({"size": 1}))).await;
    let made = made.expect("valid");
    assert_eq!(made.metadata.generation, Some(1));
    assert_eq!(made.uid().map(|uid| uid.len()), Some(36));
    assert!(made.creation_timestamp().is_some());
    assert!(made.resource_version().is_some());
    assert_eq!(widgets.get("a").await.expect("there"), made);
}

async fn a_name_is_taken_once(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let widget = cluster.widget("a", &json!({"size": 1}));
    widgets.create(&PostParams::default(), &widget).await.expect("free");
    let Err(Error::Api(status)) = widgets.create(&PostParams::default(), &widget).await else {
        panic!("taken twice");
    };
    assert_eq!((status.code, status.reason.as_str()), (409, "AlreadyExists"));
    assert_eq!(status.message, format!("widgets.{} \"a\" already exists", cluster.group()));
}

async fn generated_names_differ(cluster: Cluster) {
    let namespace = cluster.namespace().await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &namespace);
    let template: ConfigMap =
        serde_json::from_value(json!({"metadata": {"generateName": "map-"}})).expect("a map");
    let a = maps.create(&PostParams::default(), &template).await.expect("created").name_any();
    let b = maps.create(&PostParams::default(), &template).await.expect("created").name_any();
    assert_ne!(a, b);
    assert!(a.starts_with("map-") && a.len() == 9, "{a}");
}

async fn an_update_with_an_old_resource_version_is_a_conflict(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let first = widgets.create(&PostParams::default(), &cluster.widget("a", &json!({"size": 1}))).await;
    let first = first.expect("valid");
    let mut second = first.clone();
    second.data["spec"]["size"] = 2.into();
    widgets.replace("a", &PostParams::default(), &second).await.expect("current");
    let mut late = first;
    late.data["spec"]["size"] = 3.into();
    assert_eq!(code_of(widgets.replace("a", &PostParams::default(), &late).await), 409);
    late.metadata.resource_version = None;
    assert_eq!(code_of(widgets.replace("a", &PostParams::default(), &late).await), 422);
}

async fn an_update_that_changes_nothing_keeps_the_resource_version(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let made = widgets.create(&PostParams::default(), &cluster.widget("a", &json!({"size": 1}))).await;
    let made = made.expect("valid");
    let again = widgets.replace("a", &PostParams::default(), &made).await.expect("current");
    assert_eq!(again.resource_version(), made.resource_version());
    let patch = Patch::Merge(json!({"spec": {"size": 1}}));
    let patched = widgets.patch("a", &PatchParams::default(), &patch).await.expect("valid");
    assert_eq!(patched.resource_version(), made.resource_version());
}

async fn the_generation_counts_changes_of_the_spec_alone(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    widgets.create(&PostParams::default(), &cluster.widget("a", &json!({"size": 1}))).await.expect("valid");
    let merge = |patch: Value| Patch::Merge(patch);
    let params = PatchParams::default();
    let labelled = widgets.patch("a", &params, &merge(json!({"metadata": {"labels": {"x": "y"}}}))).await;
    assert_eq!(labelled.expect("valid").metadata.generation, Some(1));
    let status = widgets.patch_status("a", &params, &merge(json!({"status": {"used": 1}}))).await;
    assert_eq!(status.expect("valid").metadata.generation, Some(1));
    let spec = widgets.patch("a", &params, &merge(json!({"spec": {"size": 2}}))).await;
    assert_eq!(spec.expect("valid").metadata.generation, Some(2));
}

async fn status_and_spec_are_out_of_each_others_reach(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let mut widget = cluster.widget("a", &json!({"size": 1}));
    widget.data["status"] = json!({"used": 7});
    let made = widgets.create(&PostParams::default(), &widget).await.expect("valid");
    assert_eq!(made.data.get("status"), None);
    let patch = Patch::Merge(json!({"spec": {"size": 2}, "status": {"used": 3}}));
    let through_status = widgets.patch_status("a", &PatchParams::default(), &patch).await.expect("valid");
    assert_eq!(through_status.data["spec"]["size"], 1);
    assert_eq!(through_status.data["status"]["used"], 3);
    let patch = Patch::Merge(json!({"spec": {"size": 4}, "status": {"used": 9}}));
    let through_main = widgets.patch("a", &PatchParams::default(), &patch).await.expect("valid");
    assert_eq!(through_main.data["spec"]["size"], 4);
    assert_eq!(through_main.data["status"]["used"], 3);
}

async fn a_finalizer_keeps_the_object_until_it_is_gone(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let mut widget = cluster.widget("a", &json!({"size": 1}));
    widget.metadata.finalizers = Some(vec!["example.dev/hold".into()]);
    widgets.create(&PostParams::default(), &widget).await.expect("valid");
    let params =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    let kept = widgets.delete("a", &params).await.expect("accepted").left().expect("the object");
    assert!(kept.metadata.deletion_timestamp.is_some());
    let more = Patch::Merge(json!({"metadata": {"finalizers": ["example.dev/hold", "example.dev/more"]}}));
    assert_eq!(code_of(widgets.patch("a", &PatchParams::default(), &more).await), 422);
    let released = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    widgets.patch("a", &PatchParams::default(), &released).await.expect("valid");
    assert_eq!(code_of(widgets.get("a").await), 404);
}

async fn delete_obeys_its_preconditions(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let made = widgets.create(&PostParams::default(), &cluster.widget("a", &json!({"size": 1}))).await;
    let made = made.expect("valid");
    let with = |uid: Option<String>, resource_version: Option<String>| DeleteParams {
        preconditions: Some(Preconditions { uid, resource_version }),
        ..DeleteParams::default()
    };
    let other_uid = Some("00000000-0000-4000-8000-000000000000".to_owned());
    assert_eq!(code_of(widgets.delete("a", &with(other_uid, None)).await), 409);
    assert_eq!(code_of(widgets.delete("a", &with(None, Some("1".into()))).await), 409);
    let gone = widgets.delete("a", &with(made.uid(), made.resource_version())).await.expect("holds");
    assert!(gone.is_right(), "a status, since nothing is left of the object");
    assert_eq!(code_of(widgets.get("a").await), 404);
}

async fn selectors_narrow_a_list(cluster: Cluster) {
    let namespace = cluster.namespace().await;
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &namespace);
    for (name, node, app) in [("a", "n1", "web"), ("b", "n2", "web"), ("c", "n1", "db")] {
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": app}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
        });
        let pod = serde_json::from_value(pod).expect("a pod");
        pods.create(&PostParams::default(), &pod).await.expect("valid");
    }
    let names = async |params: ListParams| -> Vec<String> {
        pods.list(&params).await.expect("well-formed").iter().map(ResourceExt::name_any).collect()
    };
    assert_eq!(names(ListParams::default().labels("app=web")).await, ["a", "b"]);
    assert_eq!(names(ListParams::default().labels("app notin (web)")).await, ["c"]);
    assert_eq!(names(ListParams::default().fields("spec.nodeName=n1")).await, ["a", "c"]);
    assert_eq!(
        names(ListParams::default().fields("metadata.name!=a").labels("app in (web, db)")).await,
        ["b", "c"]
    );
    assert_eq!(code_of(pods.list(&ListParams::default().fields("spec.colour=red")).await), 400);
}

async fn pages_show_the_state_at_the_first_page(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    for name in ["a", "b", "c"] {
        let widget = cluster.widget(name, &json!({"size": 1}));
        widgets.create(&PostParams::default(), &widget).await.expect("valid");
    }
    let first = widgets.list(&ListParams::default().limit(2)).await.expect("a page");
    assert_eq!(first.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(first.metadata.remaining_item_count, Some(1));
    widgets.delete("c", &DeleteParams::default()).await.expect("there");
    let token = first.metadata.continue_.expect("more");
    let second = widgets.list(&ListParams::default().limit(2).continue_token(&token)).await.expect("a page");
    assert_eq!(second.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["c"]);
    assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
}

async fn merge_and_json_patches_change_what_they_name(cluster: Cluster) {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let name = cluster.scope.as_str();
    let node = serde_json::from_value(json!({"metadata": {"name": name, "labels": {"a": "1"}}}));
    nodes.create(&PostParams::default(), &node.expect("a node")).await.expect("valid");
    let params = PatchParams::default();
    let strategic =
        Patch::Strategic(json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
    nodes.patch_status(name, &params, &strategic).await.expect("valid");
    let strategic = Patch::Strategic(json!({"status": {
        "conditions": [{"type": "NetworkUnavailable", "status": "False"}],
        "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
    }}));
    let node = nodes.patch_status(name, &params, &strategic).await.expect("valid");
    assert_eq!(node.status.and_then(|s| s.conditions).map(|c| c.len()), Some(2));
    let merge = Patch::Merge(json!({"metadata": {"labels": {"a": null, "b": "2"}}}));
    let node = nodes.patch(name, &params, &merge).await.expect("valid");
    assert_eq!(node.labels().iter().collect::<Vec<_>>(), [(&"b".to_owned(), &"2".to_owned())]);
    nodes.delete(name, &DeleteParams::default()).await.expect("there");
}
