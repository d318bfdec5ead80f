//! Watches: what happened since a revision, then what happens, until the time is up or the history is gone.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use hyper::body::Frame;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, Interval};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::call::{Call, Shape};
use super::failure::Failure;
use super::read;
use super::reply;
use super::resource::Resource;
use super::selector::Selector;
use super::state::State;
use super::store::Change;

/// A watch that is open now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenWatch {
    /// Plural name of the resource.
    pub resource: String,
    /// Who watches.
    pub user_agent: String,
}

/// The watches that are open now, so that tests can count and cut them.
#[derive(Debug, Default)]
pub(crate) struct Watches(Mutex<Opened>);

#[derive(Debug, Default)]
struct Opened {
    count: u64,
    open: BTreeMap<u64, (OpenWatch, CancellationToken)>,
}

impl Watches {
    /// What is watched, by whom.
    pub(crate) fn list(&self) -> Vec<OpenWatch> {
        self.locked().open.values().map(|(open, _)| open.clone()).collect()
    }

    /// Cuts the watches of a resource, or all; returns how many.
    pub(crate) fn cut(&self, resource: Option<&str>) -> usize {
        let locked = self.locked();
        let chosen = locked.open.values().filter(|(open, _)| resource.is_none_or(|r| r == open.resource));
        chosen.map(|(_, token)| token.cancel()).count()
    }

    fn open(&self, open: OpenWatch) -> (u64, CancellationToken) {
        let mut locked = self.locked();
        locked.count += 1;
        let (id, token) = (locked.count, CancellationToken::new());
        locked.open.insert(id, (open, token.clone()));
        (id, token)
    }

    fn locked(&self) -> MutexGuard<'_, Opened> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open watch: where it is in the history, and the lines that are still to be sent.
struct Feed {
    shared: Arc<Shared>,
    resource: Arc<Resource>,
    selector: Selector,
    call: Call,
    position: u64,
    lines: VecDeque<Bytes>,
    table_headed: bool,
    over: bool,
    revisions: watch::Receiver<u64>,
    deadline: Instant,
    bookmarks: Option<Interval>,
    id: u64,
    cut: CancellationToken,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.watches.locked().open.remove(&self.id);
    }
}

/// Opens a watch; the caller holds the lock on `state`, so that nothing is missed.
///
/// # Errors
/// 400 or 422 for parameters that contradict each other, 504 for a revision of the future.
pub(crate) fn open(
    shared: &Arc<Shared>,
    state: &mut State,
    call: &Call,
    resource: &Arc<Resource>,
) -> Result<impl Stream<Item = Result<Frame<Bytes>, Infallible>> + use<>, Failure> {
    let selector = read::selector(call, resource)?;
    let asked = call.query.number("resourceVersion")?;
    let current = state.store.revision();
    if let Some(asked) = asked.filter(|asked| *asked > current) {
        return Err(Failure::too_large_revision(asked, current));
    }
    let streaming = streaming_list(call)?;
    let from_now = asked.unwrap_or_default() == 0 || streaming == Some(true);
    let timeout = call.query.timeout()?.unwrap_or(shared.watch_timeout);
    let user_agent = call.user_agent.clone();
    let (id, cut) = shared.watches.open(OpenWatch { resource: resource.plural.clone(), user_agent });
    let mut feed = Feed {
        shared: Arc::clone(shared),
        resource: Arc::clone(resource),
        selector,
        position: if from_now { current } else { asked.unwrap_or_default() },
        lines: VecDeque::new(),
        table_headed: false,
        over: false,
        revisions: state.store.collection(&resource.storage).subscribe(),
        deadline: Instant::now() + timeout,
        bookmarks: call.query.flag("allowWatchBookmarks").then(|| ticks(shared.bookmark_every)),
        id,
        cut,
        call: call.clone(),
    };
    feed.begin(state, from_now && streaming != Some(false), streaming == Some(true));
    Ok(stream::unfold(feed, |mut feed| async move {
        let line = feed.next().await?;
        Some((Ok(Frame::data(line)), feed))
    }))
}

/// `sendInitialEvents`, if it is there and allowed.
fn streaming_list(call: &Call) -> Result<Option<bool>, Failure> {
    let query = &call.query;
    if !query.has("sendInitialEvents") {
        return Ok(None);
    }
    if query.text("resourceVersionMatch") != "NotOlderThan" {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        return Err(read::forbidden_match(why));
    }
    Ok(Some(query.flag("sendInitialEvents")))
}

fn ticks(every: Duration) -> Interval {
    tokio::time::interval_at(Instant::now() + every, every)
}

impl Feed {
    fn begin(&mut self, state: &mut State, synthetic: bool, annotated: bool) {
        if synthetic {
            let namespace = read::scope(&self.call).map(str::to_owned);
            let collection = state.store.collection(&self.resource.storage);
            let in_scope = collection.in_scope(namespace.as_deref()).map(|(_, object)| object);
            let selected: Vec<Arc<Value>> =
                in_scope.filter(|object| self.selector.matches(object)).cloned().collect();
            for object in selected {
                self.push("ADDED", &object);
            }
        }
        if annotated && self.bookmarks.is_some() {
            self.bookmark(true);
        }
        self.collect(state);
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            self.shared.faults.audible().await;
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if self.over {
                return None;
            }
            self.wait().await;
        }
    }

    async fn wait(&mut self) {
        let bookmark = async {
            match &mut self.bookmarks {
                Some(interval) => drop(interval.tick().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.revisions.changed() => match changed {
                Ok(()) => {
                    let shared = Arc::clone(&self.shared);
                    self.collect(&mut shared.state());
                }
                Err(_) => self.over = true,
            },
            () = bookmark => {
                let shared = Arc::clone(&self.shared);
                self.collect(&mut shared.state());
                self.bookmark(false);
            }
            () = tokio::time::sleep_until(self.deadline) => self.over = true,
            () = self.cut.cancelled() => self.over = true,
        }
    }

    /// Takes from the history what happened since the last look.
    fn collect(&mut self, state: &mut State) {
        self.revisions.mark_unchanged();
        let resource = &self.resource;
        let current = state.store.revision();
        let changes: Vec<Change> = match state.store.collection(&resource.storage).since(self.position) {
            Ok(changes) => changes.cloned().collect(),
            Err(compacted) => {
                let message = format!("too old resource version: {} ({})", self.position, compacted.oldest);
                self.line("ERROR", &Failure::expired(message).status());
                self.over = true;
                return;
            }
        };
        for change in changes {
            self.change(&change);
        }
        self.position = current;
        let resource = &self.resource;
        // A watch does not outlive the definition of its resource.
        self.over = state.registry.find(&resource.group, &resource.version, &resource.plural).is_none();
    }

    /// Says what a change means to somebody who sees only what is selected.
    fn change(&mut self, change: &Change) {
        if read::scope(&self.call).is_some_and(|namespace| namespace != change.key.namespace) {
            return;
        }
        let seen = |object: &Option<Arc<Value>>| object.as_ref().is_some_and(|o| self.selector.matches(o));
        match (seen(&change.before), seen(&change.after), &change.after, &change.last) {
            (false, true, Some(after), _) => self.push("ADDED", after),
            (true, true, Some(after), _) => self.push("MODIFIED", after),
            (true, false, None, Some(last)) => self.push("DELETED", last),
            (true, false, Some(_), _) => {
                if let Some(before) = &change.before {
                    let mut gone = (**before).clone();
                    gone["metadata"]["resourceVersion"] = change.revision.to_string().into();
                    self.push("DELETED", &gone);
                }
            }
            _ => {}
        }
    }

    fn push(&mut self, kind: &str, object: &Value) {
        let first = !std::mem::replace(&mut self.table_headed, true);
        let shown = reply::event_object(&self.resource, &self.call, object, first);
        self.line(kind, &shown);
    }

    fn bookmark(&mut self, end_of_initial: bool) {
        if self.over {
            return;
        }
        let mut metadata = json!({"resourceVersion": self.position.to_string(), "creationTimestamp": null});
        if end_of_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (api_version, kind) = match self.call.shape {
            Shape::Metadata => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadata"),
            Shape::Whole | Shape::Table => (self.resource.api_version(), self.resource.kind.as_str()),
        };
        let object = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata});
        self.line("BOOKMARK", &object);
    }

    fn line(&mut self, kind: &str, object: &Value) {
        let mut line = json!({"type": kind, "object": object}).to_string();
        line.push('\n');
        self.lines.push_back(line.into());
    }
}
