//! The built-in kinds: events in both versions, pods that end with grace, secrets, leases, namespaces.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, ObjectReference, Pod, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::events::{EventType, Recorder, Reporter};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::cluster::Cluster;
use super::objects::code_of;

crate::tests![
    an_event_of_the_new_api_is_found_through_the_old_one,
    a_pod_on_a_node_ends_with_grace,
    secrets_keep_what_was_written_as_text,
    leases_are_held_by_one,
    objects_need_their_namespace,
    deletecollection_takes_what_is_selected,
    identity_in_body_and_path_must_agree,
    the_server_says_what_it_serves,
];

/// What a real API server leaves to controllers, and the embedded one does itself.
pub(crate) mod embedded {
    use super::*;

    crate::tests![
        a_namespace_takes_its_contents_along,
        a_definition_takes_its_instances_along_when_finalizers_let_go,
    ];

    async fn a_namespace_takes_its_contents_along(cluster: Cluster) {
        let namespace = cluster.namespace().await;
        let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &namespace);
        let map = serde_json::from_value(json!({"metadata": {"name": "a", "finalizers": ["a.dev/hold"]}}));
        maps.create(&PostParams::default(), &map.expect("a map")).await.expect("free");
        let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
        namespaces.delete(&namespace, &DeleteParams::default()).await.expect("there");
        let waiting = namespaces.get(&namespace).await.expect("it waits for the map");
        assert_eq!(waiting.status.and_then(|status| status.phase).as_deref(), Some("Terminating"));
        let other = serde_json::from_value(json!({"metadata": {"name": "b"}})).expect("a map");
        assert_eq!(code_of(maps.create(&PostParams::default(), &other).await), 403);
        let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        maps.patch("a", &PatchParams::default(), &release).await.expect("there");
        assert_eq!(code_of(namespaces.get(&namespace).await), 404);
    }

    async fn a_definition_takes_its_instances_along_when_finalizers_let_go(cluster: Cluster) {
        let widgets = cluster.widgets().await;
        let mut held = cluster.widget("held", &json!({"size": 1}));
        held.metadata.finalizers = Some(vec!["a.dev/hold".into()]);
        widgets.create(&PostParams::default(), &held).await.expect("valid");
        widgets
            .create(&PostParams::default(), &cluster.widget("free", &json!({"size": 1})))
            .await
            .expect("valid");
        let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
        let name = format!("widgets.{}", cluster.group());
        definitions.delete(&name, &DeleteParams::default()).await.expect("there");
        assert_eq!(widgets.list(&ListParams::default()).await.expect("still served").items.len(), 1);
        let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        widgets.patch("held", &PatchParams::default(), &release).await.expect("there");
        assert_eq!(code_of(definitions.get(&name).await), 404);
        assert_eq!(code_of(widgets.list(&ListParams::default()).await), 404);
    }
}

async fn an_event_of_the_new_api_is_found_through_the_old_one(cluster: Cluster) {
    let namespace = cluster.namespace().await;
    let reporter = Reporter { controller: "manx-agent".into(), instance: Some("node1".into()) };
    let subject = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some("a".into()),
        namespace: Some(namespace.clone()),
        ..ObjectReference::default()
    };
    let event = kube::runtime::events::Event {
        type_: EventType::Warning,
        reason: "NoAddress".into(),
        note: Some("the pool is full".into()),
        action: "Assign".into(),
        secondary: None,
    };
    let recorder = Recorder::new(cluster.client.clone(), reporter);
    recorder.publish(&event, &subject).await.expect("published");
    recorder.publish(&event, &subject).await.expect("published as a series");
    let events: Api<Event> = Api::namespaced(cluster.client.clone(), &namespace);
    let of_pod = |name: &str| ListParams::default().fields(&format!("involvedObject.name={name}"));
    let found = events.list(&of_pod("a")).await.expect("a list").items;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].message.as_deref(), Some("the pool is full"));
    assert_eq!(found[0].reporting_component.as_deref(), Some("manx-agent"));
    assert!(events.list(&of_pod("b")).await.expect("a list").items.is_empty());
}

async fn a_pod_on_a_node_ends_with_grace(cluster: Cluster) {
    let namespace = cluster.namespace().await;
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &namespace);
    let pod = json!({
        "metadata": {"name": "a"},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
    });
    let pod = serde_json::from_value(pod).expect("a pod");
    pods.create(&PostParams::default(), &pod).await.expect("valid");
    pods.delete("a", &DeleteParams::default()).await.expect("there");
    let ending = pods.get("a").await.expect("its kubelet has not let go");
    assert!(ending.metadata.deletion_timestamp.is_some());
    assert_eq!(ending.metadata.deletion_grace_period_seconds, Some(30));
    pods.delete("a", &DeleteParams::default().grace_period(0)).await.expect("there");
    assert_eq!(code_of(pods.get("a").await), 404);
}

async fn secrets_keep_what_was_written_as_text(cluster: Cluster) {
    let namespace = cluster.namespace().await;
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), &namespace);
    let secret = json!({"metadata": {"name": "a"}, "stringData": {"password": "of the peer"}});
    let secret = serde_json::from_value(secret).expect("a secret");
    let made = secrets.create(&PostParams::default(), &secret).await.expect("valid");
    assert_eq!(made.type_.as_deref(), Some("Opaque"));
    assert_eq!(made.data.expect("data")["password"].0, b"of the peer");
    assert_eq!(made.string_data, None);
}

async fn leases_are_held_by_one(cluster: Cluster) {
    let namespace = cluster.namespace().await;
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), &namespace);
    let lease = json!({"metadata": {"name": "a"}, "spec": {
        "holderIdentity": "one", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z",
    }});
    let lease = serde_json::from_value(lease).expect("a lease");
    let mut held = leases.create(&PostParams::default(), &lease).await.expect("free");
    let mut stolen = held.clone();
    held.spec.get_or_insert_default().lease_transitions = Some(1);
    leases.replace("a", &PostParams::default(), &held).await.expect("current");
    stolen.spec.get_or_insert_default().holder_identity = Some("two".into());
    assert_eq!(code_of(leases.replace("a", &PostParams::default(), &stolen).await), 409);
    stolen.metadata.resource_version = None;
    assert_eq!(code_of(leases.replace("a", &PostParams::default(), &stolen).await), 422);
}

async fn objects_need_their_namespace(cluster: Cluster) {
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &cluster.scope);
    let map = serde_json::from_value(json!({"metadata": {"name": "a"}})).expect("a map");
    assert_eq!(code_of(maps.create(&PostParams::default(), &map).await), 404);
}

async fn deletecollection_takes_what_is_selected(cluster: Cluster) {
    let namespace = cluster.namespace().await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &namespace);
    for (name, label) in [("a", "x"), ("b", "y"), ("c", "x")] {
        let map = json!({"metadata": {"name": name, "labels": {"l": label}}});
        let map = serde_json::from_value(map).expect("a map");
        maps.create(&PostParams::default(), &map).await.expect("free");
    }
    let selected = ListParams::default().labels("l=x");
    maps.delete_collection(&DeleteParams::default(), &selected).await.expect("accepted");
    let left = maps.list(&ListParams::default()).await.expect("a list");
    assert_eq!(left.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["b"]);
}

async fn identity_in_body_and_path_must_agree(cluster: Cluster) {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let name = cluster.scope.as_str();
    let node: Node = serde_json::from_value(json!({"metadata": {"name": name}})).expect("a node");
    let made = nodes.create(&PostParams::default(), &node).await.expect("free");
    let mut renamed = made.clone();
    renamed.meta_mut().name = Some("other".into());
    assert_eq!(code_of(nodes.replace(name, &PostParams::default(), &renamed).await), 400);
    let mut reborn = made;
    reborn.meta_mut().uid = Some("00000000-0000-4000-8000-000000000000".into());
    assert_eq!(code_of(nodes.replace(name, &PostParams::default(), &reborn).await), 409);
    nodes.delete(name, &DeleteParams::default()).await.expect("there");
}

async fn the_server_says_what_it_serves(cluster: Cluster) {
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    cluster.widgets().await;
    let name = format!("widgets.{}", cluster.group());
    let established = await_condition(definitions, &name, conditions::is_crd_established());
    let established = tokio::time::timeout(Duration::from_secs(10), established).await;
    established.expect("in time").expect("a watch");
    assert_eq!(cluster.client.apiserver_version().await.expect("a version").major, "1");
    let groups = cluster.client.list_api_groups().await.expect("groups");
    assert!(groups.groups.iter().any(|group| group.name == cluster.group()));
    let resources = cluster.client.list_api_group_resources(&format!("{}/v1", cluster.group())).await;
    let resources = resources.expect("resources").resources;
    let names: Vec<&str> = resources.iter().map(|resource| resource.name.as_str()).collect();
    assert_eq!(names, ["widgets", "widgets/status"]);
    assert_eq!(resources[0].short_names.as_deref(), Some(&["wd".to_owned()][..]));
    let core = cluster.client.list_core_api_resources("v1").await.expect("resources");
    assert!(core.resources.iter().any(|resource| resource.name == "pods" && resource.namespaced));
}
