//! Follows the pods of this node, by their metadata only, and asks for single ones that a call waits for.
//!
//! This is a watch of its own and not `follow`: whether it is live matters here, and [`mod@kube::runtime::watcher`] does
//! not tell when it is again. A copy is kept beside that of the cluster, since pods change much more often.

use std::future::ready;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use manx_ipam::NodeName;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{bounded, jitter, status_of};
use crate::node::pods::{LookedUp, NamespaceNotes, PodName, PodNotes, Pods};
use crate::shell::deltas;
use crate::shell::record::{read_bounded, write_whole};

/// How long the API server keeps a watch open.
const WATCH_SECONDS: u32 = 290;
/// How much longer than that a watch may be silent.
const GRACE: Duration = Duration::from_secs(10);
/// The first pause after a failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The least time between two copies.
const COPY_PAUSE: Duration = Duration::from_secs(2);
/// The largest copy that is believed.
const COPY_LIMIT: u64 = 64 << 20;
/// Questions that are asked at the same time.
const AT_ONCE: usize = 16;

type PodMeta = PartialObjectMeta<Pod>;

/// What is shown of the pods of this node.
#[derive(Debug, Clone)]
pub struct Shown {
    /// All of them.
    pub pods: Pods,
    /// What happens is shown as it happens.
    pub live: bool,
}

/// What the watch and the questions work with.
pub struct Wires {
    /// Where the pods are shown.
    pub shown: watch::Sender<Option<Shown>>,
    /// The pods that a call waits for.
    pub questions: deltas::Receiver<PodName, ()>,
    /// What was found, one for each; `None` when the API server did not answer.
    pub answers: deltas::Sender<PodName, Option<LookedUp>>,
}

/// Reads what an earlier agent saw; nothing when there is nothing that can be read. Until the API server says
/// otherwise, it is taken for what there is.
pub fn read_copy(path: &Path) -> Shown {
    let read = read_bounded(path, COPY_LIMIT).and_then(|bytes| match bytes {
        Some(bytes) => serde_json::from_slice::<Vec<(PodName, Arc<PodNotes>)>>(&bytes).map_err(Into::into),
        None => Ok(Vec::new()),
    });
    let pods = read.unwrap_or_else(|error| {
        tracing::warn!(%error, path = %path.display(), "the copy of the pods cannot be read: pods start without their annotations until the API server has told them");
        Vec::new()
    });
    Shown { pods: Arc::new(pods.into_iter().collect()), live: true }
}

/// Follows and answers for as long as the process lives.
pub async fn run(client: Client, me: NodeName, copy: PathBuf, wires: Wires) {
    let Wires { shown, questions, answers } = wires;
    let begun = shown.borrow().clone();
    let pods = begun.map(|shown| shown.pods).unwrap_or_default();
    let follower = Follower { me, pods, shown: shown.clone(), pause: PAUSES.0, away: false };
    tokio::join!(
        follower.run(Api::all(client.clone())),
        keep_copy(copy, shown.subscribe()),
        answer(client, questions, answers),
    );
}

struct Follower {
    me: NodeName,
    pods: Pods,
    shown: watch::Sender<Option<Shown>>,
    /// Before the next attempt, if this one fails.
    pause: Duration,
    away: bool,
}

/// How a watch ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// It goes on from the version that it came to.
    Continue,
    /// That version is forgotten: all is to be listed again.
    Forgotten,
    /// It broke.
    Broken(String),
}

impl Follower {
    async fn run(mut self, api: Api<PodMeta>) {
        loop {
            match self.list(&api).await {
                Ok(version) => self.watch(&api, version).await,
                Err(error) => self.failed(&format!("{error:#}")).await,
            }
        }
    }

    fn fields(&self) -> String {
        format!("spec.nodeName={}", self.me)
    }

    async fn list(&mut self, api: &Api<PodMeta>) -> anyhow::Result<String> {
        let list = bounded(api.list(&ListParams::default().fields(&self.fields()).match_any())).await?;
        let read = |pod: &PodMeta| (PodName::of(&pod.metadata), Arc::new(PodNotes::read(&pod.metadata)));
        self.pods = Arc::new(list.items.iter().map(read).collect());
        self.live();
        Ok(list.metadata.resource_version.unwrap_or_default())
    }

    /// Watches until everything has to be listed again.
    async fn watch(&mut self, api: &Api<PodMeta>, mut version: String) {
        let params = WatchParams::default().fields(&self.fields()).timeout(WATCH_SECONDS);
        loop {
            let end = match bounded(api.watch(&params, &version)).await {
                Ok(events) => {
                    self.live();
                    self.drain(events, &mut version).await
                }
                Err(error) if status_of(&error) == Some(410) => End::Forgotten,
                Err(error) => End::Broken(format!("{error:#}")),
            };
            match end {
                End::Continue => {}
                End::Forgotten => return,
                End::Broken(error) => self.failed(&error).await,
            }
        }
    }

    async fn drain(
        &mut self,
        events: impl Stream<Item = kube::Result<WatchEvent<PodMeta>>>,
        version: &mut String,
    ) -> End {
        let mut events = std::pin::pin!(events);
        let began = Instant::now();
        let longest = Duration::from_secs(WATCH_SECONDS.into()) + GRACE;
        loop {
            let event = match tokio::time::timeout(longest, events.next()).await {
                Ok(Some(Ok(event))) => event,
                Ok(Some(Err(error))) => return End::Broken(error.to_string()),
                // One that always ends at once must not be asked for without end.
                Ok(None) if began.elapsed() < PAUSES.0 => {
                    return End::Broken("the watch ended at once".to_owned());
                }
                Ok(None) => return End::Continue,
                Err(_) => return End::Broken("the watch fell silent".to_owned()),
            };
            if let Err(end) = self.take_in(event, version) {
                return end;
            }
        }
    }

    fn take_in(&mut self, event: WatchEvent<PodMeta>, version: &mut String) -> Result<(), End> {
        match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                let (name, notes) = (PodName::of(&pod.metadata), PodNotes::read(&pod.metadata));
                if self.pods.get(&name).is_none_or(|known| **known != notes) {
                    Arc::make_mut(&mut self.pods).insert(name, Arc::new(notes));
                }
                version.clone_from(&pod.metadata.resource_version.unwrap_or_default());
            }
            WatchEvent::Deleted(pod) => {
                Arc::make_mut(&mut self.pods).remove(&PodName::of(&pod.metadata));
                version.clone_from(&pod.metadata.resource_version.unwrap_or_default());
            }
            WatchEvent::Bookmark(bookmark) => version.clone_from(&bookmark.metadata.resource_version),
            WatchEvent::Error(status) if status.code == 410 => return Err(End::Forgotten),
            WatchEvent::Error(status) => return Err(End::Broken(status.message.clone())),
        }
        self.live();
        Ok(())
    }

    /// Something was heard: shows the pods as they are now.
    fn live(&mut self) {
        self.pause = PAUSES.0;
        if std::mem::take(&mut self.away) {
            tracing::info!("the API server shows the pods of this node again");
        }
        self.show(true);
    }

    async fn failed(&mut self, error: &str) {
        if !std::mem::replace(&mut self.away, true) {
            tracing::warn!(
                error,
                "the pods of this node cannot be followed; what was seen last holds until it works again"
            );
        }
        self.show(false);
        tokio::time::sleep(self.pause.mul_f64(0.75 + jitter(self.me.as_str()) / 2.0)).await;
        self.pause = (self.pause * 2).min(PAUSES.1);
    }

    fn show(&self, live: bool) {
        self.shown.send_replace(Some(Shown { pods: Arc::clone(&self.pods), live }));
    }
}

/// Writes the pods down when they have changed.
async fn keep_copy(path: PathBuf, mut shown: watch::Receiver<Option<Shown>>) {
    let mut written = shown.borrow_and_update().clone().map(|shown| shown.pods);
    while shown.changed().await.is_ok() {
        let now = shown.borrow_and_update().clone().map(|shown| shown.pods);
        if now == written {
            continue;
        }
        let bytes = serde_json::to_vec(&now.iter().flat_map(|pods| pods.iter()).collect::<Vec<_>>());
        if let Err(error) = bytes.map_err(Into::into).and_then(|bytes| write_whole(&path, &bytes)) {
            tracing::warn!(%error, path = %path.display(), "the copy of the pods cannot be written: after a restart of the agent, pods' annotations take the API server");
        }
        written = now;
        tokio::time::sleep(COPY_PAUSE).await;
    }
}

async fn answer(
    client: Client,
    mut questions: deltas::Receiver<PodName, ()>,
    answers: deltas::Sender<PodName, Option<LookedUp>>,
) {
    let mut open = FuturesUnordered::new();
    loop {
        tokio::select! {
            batch = questions.recv(AT_ONCE), if open.len() < AT_ONCE => {
                let Some(batch) = batch else { return };
                open.extend(batch.into_iter().map(|(name, ())| look_up(client.clone(), name)));
            }
            Some((name, found)) = open.next() => answers.send(name, found),
        }
    }
}

async fn look_up(client: Client, name: PodName) -> (PodName, Option<LookedUp>) {
    let pods: Api<PodMeta> = Api::namespaced(client.clone(), &name.namespace);
    let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(client);
    let (pod, namespace) =
        tokio::join!(bounded(pods.get_opt(&name.name)), bounded(namespaces.get_opt(&name.namespace)));
    let found = pod.and_then(|pod| {
        let pod = pod.map(|pod| PodNotes::read(&pod.metadata));
        let namespace = namespace?.map(|namespace| NamespaceNotes::read(&namespace.metadata));
        Ok(LookedUp { pod, namespace })
    });
    let found = found
        .inspect_err(|error| tracing::debug!(error = format!("{error:#}"), ?name, "a pod was not looked up"));
    ready((name, found.ok())).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, version: &str, annotation: &str) -> PodMeta {
        let metadata = serde_json::json!({
            "metadata": {"name": name, "namespace": "web", "uid": "u1", "resourceVersion": version,
                         "annotations": {"manx.dev/ipAddrs": annotation, "example.com/other": version}}
        });
        serde_json::from_value(metadata).expect("metadata")
    }

    fn follower() -> (Follower, watch::Receiver<Option<Shown>>) {
        let (shown, receiver) = watch::channel(None);
        let follower =
            Follower { me: "node1".into(), pods: Pods::default(), shown, pause: PAUSES.0, away: false };
        (follower, receiver)
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_watch_says_is_shown_and_where_it_goes_on_is_known() {
        let (mut follower, shown) = follower();
        let mut version = "1".to_owned();
        let bookmark = serde_json::json!({"type": "BOOKMARK", "object": {"apiVersion": "v1", "kind": "Pod",
            "metadata": {"resourceVersion": "9"}}});
        let events = vec![
            Ok(WatchEvent::Added(event("a", "2", "10.0.0.1"))),
            Ok(WatchEvent::Added(event("b", "3", "10.0.0.2"))),
            Ok(WatchEvent::Modified(event("a", "4", "10.0.0.3"))),
            Ok(WatchEvent::Deleted(event("b", "5", "10.0.0.2"))),
            Ok(serde_json::from_value(bookmark).expect("a bookmark")),
        ];
        let end = follower.drain(futures_util::stream::iter(events), &mut version).await;
        assert!(matches!(end, End::Broken(_)), "it ended at once");
        assert_eq!(version, "9");
        let shown = shown.borrow().clone().expect("shown");
        assert!(shown.live && shown.pods.len() == 1);
        let (name, notes) = shown.pods.first_key_value().expect("one");
        assert_eq!((name.name.as_str(), notes.annotations["manx.dev/ipAddrs"].as_str()), ("a", "10.0.0.3"));
        assert_eq!(notes.annotations.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_watch_ends_and_one_that_breaks_is_no_longer_live() {
        let (mut follower, shown) = follower();
        let mut version = "1".to_owned();
        let silent = follower.drain(futures_util::stream::pending(), &mut version).await;
        assert_eq!(silent, End::Broken("the watch fell silent".to_owned()));
        follower.failed("gone").await;
        assert!(!shown.borrow().as_ref().expect("shown").live);
        assert_eq!(follower.pause, PAUSES.0 * 2);
        follower.live();
        assert!(shown.borrow().as_ref().expect("shown").live && follower.pause == PAUSES.0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_copy_is_read_back_by_the_next_agent() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pods.json");
        assert!(read_copy(&path).pods.is_empty());
        let (mut follower, shown) = follower();
        let copying = tokio::spawn(keep_copy(path.clone(), shown.clone()));
        tokio::task::yield_now().await;
        follower
            .take_in(WatchEvent::Added(event("a", "2", "10.0.0.1")), &mut String::new())
            .expect("taken in");
        drop(follower);
        copying.await.expect("it ends with its source");
        assert_eq!(read_copy(&path).pods, shown.borrow().as_ref().expect("shown").pods);
        std::fs::write(&path, "[").expect("written");
        assert!(read_copy(&path).pods.is_empty());
    }
}
