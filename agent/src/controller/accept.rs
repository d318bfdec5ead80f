//! Writes the condition `Accepted` of the objects that people write about BGP.

use std::fmt::Debug;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, SelectAll, select_all};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::Config;
use kube::{Api, Client, Resource};
use manx_api::{BGPConfiguration, BGPFilter, BGPPeer, Condition, NodeNetwork, set_condition};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::hand::Hand;
use super::verdict::{Kind, Seen, Verdict};
use crate::shell::kube::bounded;
use crate::shell::kube::follow::{Change, absorb, follow};

/// How long a change waits for company: nodes that meet the same trouble tell of it together.
const GATHER: Duration = Duration::from_millis(500);
/// The pause before what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// A change of one of the kinds.
enum Update {
    Peers(Change<BGPPeer>),
    Filters(Change<BGPFilter>),
    Configurations(Change<BGPConfiguration>),
    Networks(Change<NodeNetwork>),
}

/// Judges and writes for as long as this replica leads.
pub(super) async fn run(client: Client, params: PatchParams, hand: Hand) {
    let mut updates: SelectAll<BoxStream<'static, Update>> = select_all([
        kind(&client, Update::Peers),
        kind(&client, Update::Filters),
        kind(&client, Update::Configurations),
        kind(&client, Update::Networks),
    ]);
    let mut owner = Owner { client, params, hand, seen: Seen::default(), known: [false; 4], failing: false };
    loop {
        let wait = if owner.failing { RETRY } else { Duration::MAX };
        if let Ok(Some(update)) = tokio::time::timeout(wait, updates.next()).await {
            owner.absorb(update);
            let until = Instant::now() + GATHER;
            while let Ok(Some(update)) = timeout_at(until, updates.next()).await {
                owner.absorb(update);
            }
        }
        // What is missing so far is not missing, only not seen yet.
        if owner.known == [true; 4] {
            owner.write().await;
        }
    }
}

fn kind<K>(client: &Client, wrap: fn(Change<K>) -> Update) -> BoxStream<'static, Update>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    follow(Api::<K>::all(client.clone()), Config::default()).map(wrap).boxed()
}

struct Owner {
    client: Client,
    params: PatchParams,
    hand: Hand,
    seen: Seen,
    /// Kinds of which all objects are known.
    known: [bool; 4],
    failing: bool,
}

impl Owner {
    fn absorb(&mut self, update: Update) {
        fn whole<K>(change: &Change<K>) -> bool {
            matches!(change, Change::All(_))
        }
        let (place, all) = match &update {
            Update::Peers(change) => (0, whole(change)),
            Update::Filters(change) => (1, whole(change)),
            Update::Configurations(change) => (2, whole(change)),
            Update::Networks(change) => (3, whole(change)),
        };
        self.known[place] |= all;
        match update {
            Update::Peers(change) => absorb(&mut self.seen.peers, change),
            Update::Filters(change) => absorb(&mut self.seen.filters, change),
            Update::Configurations(change) => absorb(&mut self.seen.configurations, change),
            Update::Networks(change) => absorb(&mut self.seen.networks, change),
        }
    }

    async fn write(&mut self) {
        let mut failed = false;
        for ((kind, name), verdict) in self.seen.verdicts() {
            let Some((mut conditions, generation)) = self.stands(kind, &name) else { continue };
            let Verdict { accepted, reason, message } = verdict;
            let now = Timestamp::now();
            let told = format!("{reason}: {message}");
            if !set_condition(&mut conditions, "Accepted", accepted, reason, message, generation, now) {
                continue;
            }
            if !self.hand.may(|| format!("set Accepted={accepted} on {} {name} ({told})", kind.name())) {
                continue;
            }
            if let Err(error) = self.patch(kind, &name, &conditions).await {
                tracing::warn!(
                    error = format!("{error:#}"),
                    ?kind,
                    name,
                    "the condition Accepted of an object cannot be written; it is tried again"
                );
                failed = true;
            }
        }
        self.failing = failed;
    }

    /// The conditions that an object has, and its generation.
    fn stands(&self, kind: Kind, name: &str) -> Option<(Vec<Condition>, Option<i64>)> {
        match kind {
            Kind::Peer => self.seen.peers.get(name).map(|object| {
                let status = object.status.as_ref();
                (status.map(|it| it.conditions.clone()).unwrap_or_default(), object.metadata.generation)
            }),
            Kind::Filter => self.seen.filters.get(name).map(|object| {
                let status = object.status.as_ref();
                (status.map(|it| it.conditions.clone()).unwrap_or_default(), object.metadata.generation)
            }),
            Kind::Configuration => self.seen.configurations.get(name).map(|object| {
                let status = object.status.as_ref();
                (status.map(|it| it.conditions.clone()).unwrap_or_default(), object.metadata.generation)
            }),
        }
    }

    async fn patch(&self, kind: Kind, name: &str, conditions: &[Condition]) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({ "status": { "conditions": conditions } }));
        let client = self.client.clone();
        match kind {
            Kind::Peer => {
                bounded(Api::<BGPPeer>::all(client).patch_status(name, &self.params, &patch)).await.map(drop)
            }
            Kind::Filter => bounded(Api::<BGPFilter>::all(client).patch_status(name, &self.params, &patch))
                .await
                .map(drop),
            Kind::Configuration => {
                let api = Api::<BGPConfiguration>::all(client);
                bounded(api.patch_status(name, &self.params, &patch)).await.map(drop)
            }
        }
    }
}
