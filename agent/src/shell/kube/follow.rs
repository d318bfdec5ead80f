//! Following one kind of object: list, watch, and again from the start when the API server forgot where we were.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::node::cluster::Objects;

/// What happened to the objects of one kind.
#[derive(Debug)]
pub(crate) enum Change<K> {
    /// These are all there are, by name, or by `NAMESPACE/NAME`; what is missing was deleted while we looked away.
    All(BTreeMap<String, K>),
    /// One was added or modified.
    Applied(K),
    /// One was deleted.
    Deleted(String),
}

/// Follows the objects that `config` selects. The stream never ends; an API server that is away
/// is tried again with growing pauses and jitter, and logged when that begins and ends.
pub(crate) fn follow<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = Change<K>> + Send
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let kind = K::kind(&()).into_owned();
    let mut gathered = BTreeMap::new();
    let mut away = false;
    watch(api, config).default_backoff().filter_map(move |event| {
        let change = match event {
            Ok(event) => {
                if std::mem::take(&mut away) {
                    tracing::info!(kind, "the API server answers again");
                }
                fold(&mut gathered, event)
            }
            Err(error) => {
                // That it is away is said once for all kinds.
                if is_answer(&error) && !std::mem::replace(&mut away, true) {
                    tracing::warn!(kind, %error, "objects of a kind cannot be watched; what was seen last holds until it works again");
                }
                None
            }
        };
        std::future::ready(change)
    })
}

/// Whether the API server said no, other than being away.
fn is_answer(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => {
            matches!(error, kube::Error::Api(_))
        }
        _ => true,
    }
}

fn fold<K: Resource>(gathered: &mut BTreeMap<String, K>, event: Event<K>) -> Option<Change<K>> {
    match event {
        Event::Init => {
            gathered.clear();
            None
        }
        Event::InitApply(object) => {
            gathered.insert(key(&object), lean(object));
            None
        }
        Event::InitDone => Some(Change::All(std::mem::take(gathered))),
        Event::Apply(object) => Some(Change::Applied(lean(object))),
        Event::Delete(object) => Some(Change::Deleted(key(&object))),
    }
}

/// What an object is called among its kind: `NAMESPACE/NAME` where it lies in a namespace.
fn key<K: Resource>(object: &K) -> String {
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}

/// Without the record of who set which field: it is the larger half of many objects.
fn lean<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

/// Carries a change out on a set of objects.
pub(crate) fn absorb<K: Resource + Clone>(objects: &mut Objects<K>, change: Change<K>) {
    match change {
        Change::All(all) => {
            *objects = Arc::new(all.into_iter().map(|(name, object)| (name, Arc::new(object))).collect());
        }
        Change::Applied(object) => {
            Arc::make_mut(objects).insert(key(&object), Arc::new(object));
        }
        Change::Deleted(name) => {
            Arc::make_mut(objects).remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use kube::api::ObjectMeta;

    use super::*;

    fn node(name: &str) -> Node {
        Node {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            ..Node::default()
        }
    }

    #[test]
    fn an_object_that_a_new_list_does_not_show_is_gone() {
        let mut objects = Objects::<Node>::default();
        let mut gathered = BTreeMap::new();
        absorb(&mut objects, Change::Applied(node("old")));
        for event in [Event::Init, Event::InitApply(node("new"))] {
            assert!(fold(&mut gathered, event).is_none());
        }
        absorb(&mut objects, fold(&mut gathered, Event::InitDone).expect("a whole list"));
        assert_eq!(objects.keys().collect::<Vec<_>>(), ["new"]);
    }

    #[test]
    fn a_list_that_breaks_off_changes_nothing() {
        let mut objects = Objects::<Node>::default();
        let mut gathered = BTreeMap::new();
        absorb(&mut objects, Change::Applied(node("old")));
        fold(&mut gathered, Event::Init);
        fold(&mut gathered, Event::InitApply(node("half")));
        fold(&mut gathered, Event::Init);
        fold(&mut gathered, Event::InitApply(node("whole")));
        absorb(&mut objects, fold(&mut gathered, Event::InitDone).expect("a whole list"));
        assert_eq!(objects.keys().collect::<Vec<_>>(), ["whole"]);
    }
}
