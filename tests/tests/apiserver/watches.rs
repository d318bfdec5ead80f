//! Watches.

use std::pin::Pin;

use futures_util::{StreamExt, TryStreamExt};
use kube::ResourceExt;
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::runtime::watcher;
use serde_json::json;

use super::cluster::Cluster;

crate::tests![
    a_watch_goes_on_from_the_revision_of_a_list,
    an_object_that_leaves_the_selection_is_deleted_for_the_watcher,
    the_watcher_of_kube_follows_every_change,
];

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
    let plain = WatchParams { bookmarks: false, ..WatchParams::default() };
    assert_eq!(take(&widgets, &plain, &revision, 3).await, ["added b", "modified a", "deleted a"]);
    assert_eq!(take(&widgets, &plain, "0", 1).await, ["added b"]);
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
    let selected = WatchParams { bookmarks: false, ..WatchParams::default() }.labels("on=1");
    assert_eq!(take(&widgets, &selected, &revision, 3).await, ["added a", "deleted a", "added a"]);
}

async fn the_watcher_of_kube_follows_every_change(cluster: Cluster) {
    let widgets = cluster.widgets().await;
    let params = PostParams::default();
    widgets.create(&params, &cluster.widget("a", &json!({"size": 1}))).await.expect("valid");
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut events: Pin<Box<_>> = Box::pin(watcher(widgets.clone(), config));
        let mut next = async || events.next().await.expect("never ends").expect("no error");
        assert!(matches!(next().await, watcher::Event::Init));
        assert!(matches!(next().await, watcher::Event::InitApply(_)));
        assert!(matches!(next().await, watcher::Event::InitDone));
        widgets.create(&params, &cluster.widget("b", &json!({"size": 1}))).await.expect("valid");
        assert!(matches!(next().await, watcher::Event::Apply(o) if o.name_any() == "b"));
        widgets.delete("b", &DeleteParams::default()).await.expect("there");
        assert!(matches!(next().await, watcher::Event::Delete(o) if o.name_any() == "b"));
    }
}
