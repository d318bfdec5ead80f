//! Watches.

use std::pin::pin;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::ResourceExt;
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use manx_tests::apiserver::Config;
use serde_json::json;

use super::cluster::Cluster;

crate::tests![
    a_watch_goes_on_from_the_revision_of_a_list,
    an_object_that_leaves_the_selection_is_deleted_for_the_watcher,
    the_watcher_of_kube_follows_every_change,
    a_watch_ends_when_its_time_is_up,
    metadata_can_be_watched_alone,
    a_namespace_is_watched_apart,
];

/// What only the embedded server can be made to do.
pub(crate) mod embedded {
    use super::*;

    crate::tests![
        a_watch_of_the_forgotten_past_is_told_410,
        an_open_watch_is_told_410_when_the_history_goes,
        bookmarks_tell_the_revision_of_a_quiet_resource,
        watches_end_with_their_definition,
        the_watcher_of_kube_follows_a_streamed_list,
    ];

    /// A real server streams lists only from an etcd (3.4.31, 3.5.13) that is newer than Debian's.
    async fn the_watcher_of_kube_follows_a_streamed_list(cluster: Cluster) {
        follows_every_change(&cluster, watcher::Config::default().streaming_lists()).await;
    }

    async fn a_watch_of_the_forgotten_past_is_told_410(_: Cluster) {
        let cluster = Cluster::embedded_with(Config { history: 2, ..Config::default() }).await;
        let widgets = cluster.widgets().await;
        let list = widgets.list(&ListParams::default()).await.expect("a list");
        let revision = list.metadata.resource_version.expect("always there");
        for name in ["a", "b", "c"] {
            let widget = cluster.widget(name, &json!({"size": 1}));
            widgets.create(&PostParams::default(), &widget).await.expect("valid");
        }
        assert_eq!(take(&widgets, &plain(), &revision, 2).await, ["error 410"]);
        let exact = ListParams { resource_version: Some(revision), ..ListParams::default() }
            .matching(kube::api::VersionMatch::Exact);
        assert_eq!(super::super::objects::code_of(widgets.list(&exact).await), 410);
    }

    async fn an_open_watch_is_told_410_when_the_history_goes(cluster: Cluster) {
        let widgets = cluster.widgets().await;
        let events = widgets.watch(&plain(), "0").await.expect("a watch");
        cluster.server().compact(Some("widgets"));
        let events: Vec<_> = events.try_collect().await.expect("well-formed events");
        assert_eq!(events.iter().map(describe).collect::<Vec<_>>(), ["error 410"]);
    }

    async fn bookmarks_tell_the_revision_of_a_quiet_resource(_: Cluster) {
        let every = Duration::from_millis(50);
        let cluster = Cluster::embedded_with(Config { bookmark_every: every, ..Config::default() }).await;
        let widgets = cluster.widgets().await;
        let mut events = pin!(widgets.watch(&WatchParams::default(), "0").await.expect("a watch"));
        let elsewhere = cluster.namespace().await;
        let first = events.next().await.expect("open").expect("well-formed");
        let WatchEvent::Bookmark(bookmark) = first else { panic!("nothing happened here: {elsewhere}") };
        let list = widgets.list(&ListParams::default()).await.expect("a list");
        assert_eq!(Some(bookmark.metadata.resource_version), list.metadata.resource_version);
    }

    async fn watches_end_with_their_definition(cluster: Cluster) {
        let widgets = cluster.widgets().await;
        let params = PostParams::default();
        widgets.create(&params, &cluster.widget("a", &json!({"size": 1}))).await.expect("valid");
        let events = widgets.watch(&plain(), "0").await.expect("a watch");
        let definitions: Api<DynamicObject> =
            Api::all_with(cluster.client.clone(), &super::super::cluster::definition_resource());
        let name = format!("widgets.{}", cluster.group());
        definitions.delete(&name, &DeleteParams::default()).await.expect("there");
        let events: Vec<_> = events.try_collect().await.expect("well-formed events");
        assert_eq!(events.iter().map(describe).collect::<Vec<_>>(), ["added a", "deleted a"]);
    }
}

fn plain() -> WatchParams {
    WatchParams { bookmarks: false, ..WatchParams::default() }
}

fn describe(event: &WatchEvent<DynamicObject>) -> String {
    match event {
        WatchEvent::Added(object) => format!("added {}", object.name_any()),
        WatchEvent::Modified(object) => format!("modified {}", object.name_any()),
        WatchEvent::Deleted(object) => format!("deleted {}", object.name_any()),
        WatchEvent::Bookmark(_) => "bookmark".into(),
        WatchEvent::Error(status) => format!("error {}", status.code),
    }
}

async fn take(
    widgets: &Api<DynamicObject>,
    params: &WatchParams,
    revision: &str,
    count: usize,
) -> Vec<String> {
    let events = widgets.watch(params, revision).await.expect("a watch");
    let events: Vec<_> = events.take(count).try_collect().await.expect("well-formed events");
    events.iter().map(describe).collect()
}

async fn a_watch_goes_on_from_the_revision_of_a_list(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let params = PostParams::default();
    widgets.create(&params, &cluster.widget("a", &json!({"size": 1}))).await.expect("valid");
    let list = widgets.list(&ListParams::default()).await.expect("a list");
    let revision = list.metadata.resource_version.expect("always there");
    widgets.create(&params, &cluster.widget("b", &json!({"size": 1}))).await.expect("valid");
    let patch = Patch::Merge(json!({"spec": {"size": 2}}));
    widgets.patch("a", &PatchParams::default(), &patch).await.expect("valid");
    widgets.delete("a", &DeleteParams::default()).await.expect("there");
    assert_eq!(take(&widgets, &plain(), &revision, 3).await, ["added b", "modified a", "deleted a"]);
    assert_eq!(take(&widgets, &plain(), "0", 1).await, ["added b"]);
}

async fn an_object_that_leaves_the_selection_is_deleted_for_the_watcher(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let list = widgets.list(&ListParams::default()).await.expect("a list");
    let revision = list.metadata.resource_version.expect("always there");
    let mut widget = cluster.widget("a", &json!({"size": 1}));
    widget.labels_mut().insert("on".into(), "1".into());
    widgets.create(&PostParams::default(), &widget).await.expect("valid");
    for label in [json!("2"), json!("1")] {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"on": label}}}));
        widgets.patch("a", &PatchParams::default(), &patch).await.expect("valid");
    }
    let selected = plain().labels("on=1");
    assert_eq!(take(&widgets, &selected, &revision, 3).await, ["added a", "deleted a", "added a"]);
}

async fn the_watcher_of_kube_follows_every_change(cluster: Cluster) {
    follows_every_change(&cluster, watcher::Config::default()).await;
}

async fn follows_every_change(cluster: &Cluster, config: watcher::Config) {
    let widgets = cluster.widgets().await;
    let params = PostParams::default();
    widgets.create(&params, &cluster.widget("a", &json!({"size": 1}))).await.expect("valid");
    let mut events = pin!(watcher(widgets.clone(), config));
    let mut next = async || events.next().await.expect("never ends").expect("no error");
    assert!(matches!(next().await, watcher::Event::Init));
    assert!(matches!(next().await, watcher::Event::InitApply(_)));
    assert!(matches!(next().await, watcher::Event::InitDone));
    widgets.create(&params, &cluster.widget("b", &json!({"size": 1}))).await.expect("valid");
    assert!(matches!(next().await, watcher::Event::Apply(o) if o.name_any() == "b"));
    widgets.delete("b", &DeleteParams::default()).await.expect("there");
    assert!(matches!(next().await, watcher::Event::Delete(o) if o.name_any() == "b"));
}

async fn a_watch_ends_when_its_time_is_up(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let short = plain().timeout(1);
    let events = widgets.watch(&short, "0").await.expect("a watch");
    let events: Vec<_> = events.try_collect().await.expect("a clean end");
    assert!(events.is_empty());
}

async fn metadata_can_be_watched_alone(cluster: Cluster) {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let (name, labels) = (cluster.scope.as_str(), json!({"on": cluster.scope}));
    let node = serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).expect("a node");
    nodes.create(&PostParams::default(), &node).await.expect("free");
    let partial: Api<PartialObjectMeta<Node>> = Api::all(cluster.client.clone());
    let selected = watcher::Config::default().labels(&format!("on={name}"));
    let mut events = pin!(watcher(partial, selected));
    let mut next = async || events.next().await.expect("never ends").expect("no error");
    assert!(matches!(next().await, watcher::Event::Init));
    assert!(matches!(next().await, watcher::Event::InitApply(object) if object.name_any() == name));
    assert!(matches!(next().await, watcher::Event::InitDone));
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"note": "text"}}}));
    nodes.patch(name, &PatchParams::default(), &patch).await.expect("valid");
    let watcher::Event::Apply(object) = next().await else { panic!("one change") };
    assert_eq!(object.annotations()["note"], "text");
    nodes.delete(name, &DeleteParams::default()).await.expect("there");
}

async fn a_namespace_is_watched_apart(cluster: Cluster) {
    let namespace = cluster.namespace().await;
    let here: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &namespace);
    let there: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "default");
    let list = here.list(&ListParams::default()).await.expect("a list");
    let revision = list.metadata.resource_version.expect("always there");
    let name = cluster.scope.as_str();
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": name}})).expect("a map");
    there.create(&PostParams::default(), &map).await.expect("free");
    here.create(&PostParams::default(), &map).await.expect("free");
    let mut events = pin!(here.watch(&plain(), &revision).await.expect("a watch"));
    let first = events.next().await.expect("open").expect("well-formed");
    assert!(
        matches!(first, WatchEvent::Added(map) if map.namespace().as_deref() == Some(namespace.as_str()))
    );
    there.delete(name, &DeleteParams::default()).await.expect("there");
}
