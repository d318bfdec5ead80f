//! The owner of what the API server says: folds all watches into one [`Cluster`], makes an
//! [`Intent`] of it, and keeps a copy for a start without the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, SelectAll};
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Config;
use kube::{Api, Client, Resource, ResourceExt as _};
use manx_api::{BGPConfiguration, BGPFilter, BGPPeer, IPPool, NodeNetwork};
use manx_ipam::{BlockId, NodeName};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;

use super::follow::{Change, absorb, follow};
use crate::node::claims::KnownClaims;
use crate::node::cluster::{Cluster, Objects, OwnNode};
use crate::node::intent::{BgpIntent, Intent, Problem};
use crate::node::pods::{NamespaceNotes, Namespaces};
use crate::node::secret::Secrets;
use crate::shell::record::{read_bounded, write_whole};
use crate::shell::wake::sleep_until;

/// How long a change waits for company before the intent is made anew.
const GATHER: Duration = Duration::from_millis(20);
/// The least time between two copies of the cluster.
const COPY_PAUSE: Duration = Duration::from_secs(2);
/// The largest copy that is believed.
const COPY_LIMIT: u64 = 256 << 20;

/// The owners of all blocks, as last seen.
pub type Blocks = Arc<BTreeMap<BlockId, NodeName>>;

/// What others follow for the owner.
pub struct Known {
    /// The owners of all blocks.
    pub blocks: watch::Receiver<Option<Blocks>>,
    /// All claims of addresses.
    pub claims: watch::Receiver<Option<Arc<KnownClaims>>>,
    /// The Secrets that peers name.
    pub secrets: watch::Receiver<Secrets>,
}

/// Where the owner publishes.
pub struct Outlets {
    /// What this node is to do.
    pub intent: watch::Sender<Option<Arc<Intent>>>,
    /// The part of it for the speaker.
    pub bgp: watch::Sender<Option<Arc<BgpIntent>>>,
    /// What the API server says, for whoever compares with it.
    pub cluster: watch::Sender<Arc<Cluster>>,
}

impl Outlets {
    /// Makes an intent of the cluster and publishes both; `more` are problems that the cluster does not show.
    pub fn publish(&self, cluster: &Cluster, me: &NodeName, more: &BTreeSet<Problem>) {
        let mut intent = Intent::new(cluster, me);
        intent.problems.extend(more.iter().cloned());
        let intent = Arc::new(intent);
        self.bgp.send_if_modified(|bgp| {
            // Without an address of ours for a moment, sessions stay as they are.
            let changed = intent.bgp.is_some() && intent.bgp != *bgp;
            if changed {
                bgp.clone_from(&intent.bgp);
            }
            changed
        });
        self.intent.send_replace(Some(intent));
        self.cluster.send_replace(Arc::new(cluster.clone()));
    }
}

/// Reads what an earlier agent saw; `None` when there is nothing that can be read.
pub fn read_copy(path: &std::path::Path) -> Option<Cluster> {
    let bytes = match read_bounded(path, COPY_LIMIT) {
        Ok(bytes) => bytes?,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the copy of the cluster cannot be read: the agent waits for the API server");
            return None;
        }
    };
    Cluster::from_bytes(&bytes)
        .inspect_err(|error| tracing::warn!(%error, "the copy of the cluster is of another version: the agent waits for the API server"))
        .ok()
}

/// A change of one of the kinds.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a change is folded at once, never stored in numbers")]
enum Update {
    Pools(Change<IPPool>),
    Configurations(Change<BGPConfiguration>),
    Peers(Change<BGPPeer>),
    Filters(Change<BGPFilter>),
    Networks(Change<NodeNetwork>),
    Node(Change<Node>),
    Namespaces(Change<PartialObjectMeta<Namespace>>),
}

/// The kinds of which all objects must have been seen before there is an intent.
const KINDS: usize = 7;

/// Follows everything that this node has to know, for as long as the process lives.
pub async fn run(
    client: Client,
    me: NodeName,
    copy: Option<Cluster>,
    copy_path: PathBuf,
    mut known: Known,
    outlets: Outlets,
) {
    let mut updates = streams(&client, &me);
    let mut owner = Owner::new(me, copy, copy_path, outlets);
    owner.publish();
    loop {
        let news = tokio::select! {
            Some(update) = updates.next() => owner.absorb(update),
            Ok(()) = known.blocks.changed() => {
                let blocks = known.blocks.borrow_and_update().clone();
                blocks.is_some_and(|blocks| owner.set_blocks(blocks))
            }
            Ok(()) = known.claims.changed() => {
                let claims = known.claims.borrow_and_update().clone();
                claims.is_some_and(|claims| owner.set_claims(&claims))
            }
            Ok(()) = known.secrets.changed() => {
                let secrets = Arc::clone(&known.secrets.borrow_and_update());
                owner.set_secrets(secrets)
            }
            () = sleep_until(owner.copy_due) => {
                owner.copy();
                continue;
            }
        };
        if news {
            gather(&mut updates, &mut owner).await;
            owner.publish();
        }
    }
}

async fn gather(updates: &mut SelectAll<BoxStream<'static, Update>>, owner: &mut Owner) {
    let until = Instant::now() + GATHER;
    while let Ok(Some(update)) = tokio::time::timeout_at(until, updates.next()).await {
        owner.absorb(update);
    }
}

fn streams(client: &Client, me: &NodeName) -> SelectAll<BoxStream<'static, Update>> {
    let all = Config::default;
    futures_util::stream::select_all([
        kind(client, all(), Update::Pools),
        kind(client, all(), Update::Configurations),
        kind(client, all(), Update::Peers),
        kind(client, all(), Update::Filters),
        kind(client, all(), Update::Networks),
        kind(client, all().fields(&format!("metadata.name={me}")), Update::Node),
        kind::<PartialObjectMeta<Namespace>>(client, all(), Update::Namespaces),
    ])
}

fn kind<K>(client: &Client, config: Config, wrap: fn(Change<K>) -> Update) -> BoxStream<'static, Update>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    follow(Api::<K>::all(client.clone()), config).map(wrap).boxed()
}

struct Owner {
    cluster: Cluster,
    me: NodeName,
    outlets: Outlets,
    /// The kinds of which all objects have been seen.
    seen: BTreeSet<&'static str>,
    /// There was a copy: what it says holds until the API server says otherwise.
    copied: bool,
    copy_path: PathBuf,
    copy_due: Option<Instant>,
    not_before: Instant,
}

impl Owner {
    fn new(me: NodeName, copy: Option<Cluster>, copy_path: PathBuf, outlets: Outlets) -> Self {
        Self {
            copied: copy.is_some(),
            cluster: copy.unwrap_or_default(),
            me,
            outlets,
            seen: BTreeSet::new(),
            copy_path,
            copy_due: None,
            not_before: Instant::now(),
        }
    }

    /// Takes a change in; false when it is none to us, which the status of an object never is.
    fn absorb(&mut self, update: Update) -> bool {
        let cluster = &mut self.cluster;
        let (kind, news) = match update {
            Update::Pools(change) => take_in(&mut cluster.pools, change, |pool| pool.status = None),
            Update::Configurations(change) => {
                take_in(&mut cluster.configurations, change, |config| config.status = None)
            }
            Update::Peers(change) => take_in(&mut cluster.peers, change, |peer| peer.status = None),
            Update::Filters(change) => take_in(&mut cluster.filters, change, |filter| filter.status = None),
            Update::Networks(change) => {
                take_in(&mut cluster.networks, change, |network| network.status = None)
            }
            Update::Node(change) => own_node(&mut cluster.node, change),
            Update::Namespaces(change) => note(&mut cluster.namespaces, change),
        };
        kind.is_some_and(|kind| self.seen.insert(kind)) || news
    }

    fn set_blocks(&mut self, blocks: Blocks) -> bool {
        let news = self.cluster.blocks != blocks;
        self.cluster.blocks = blocks;
        news
    }

    fn set_claims(&mut self, claims: &KnownClaims) -> bool {
        let reserved = claims.values().flat_map(|claim| claim.reserved.iter().copied()).collect();
        let news = *self.cluster.claimed != reserved;
        self.cluster.claimed = Arc::new(reserved);
        news
    }

    fn set_secrets(&mut self, secrets: Secrets) -> bool {
        let news = self.cluster.secrets != secrets;
        self.cluster.secrets = secrets;
        news
    }

    fn publish(&mut self) {
        if !self.copied && self.seen.len() < KINDS {
            return;
        }
        self.outlets.publish(&self.cluster, &self.me, &BTreeSet::new());
        if self.seen.len() == KINDS && self.copy_due.is_none() {
            self.copy_due = Some(self.not_before);
        }
    }

    fn copy(&mut self) {
        self.copy_due = None;
        self.not_before = Instant::now() + COPY_PAUSE;
        let written = self.cluster.to_bytes().map_err(std::io::Error::from);
        if let Err(error) = written.and_then(|bytes| write_whole(&self.copy_path, &bytes)) {
            tracing::warn!(%error, path = %self.copy_path.display(), "the copy of the cluster cannot be written: a restart of the agent will need the API server");
        }
    }
}

/// Carries a change out, less what is of no interest here. Gives the kind when all of its objects are known
/// now, and whether anything is new.
fn take_in<K: Resource<DynamicType = ()> + Clone + PartialEq>(
    objects: &mut Objects<K>,
    change: Change<K>,
    strip: fn(&mut K),
) -> (Option<&'static str>, bool) {
    let lean = |mut object: K| {
        strip(&mut object);
        let metadata = object.meta_mut();
        (metadata.resource_version, metadata.generation, metadata.annotations) = (None, None, None);
        object
    };
    let change = match change {
        Change::All(all) => Change::All(all.into_iter().map(|(name, object)| (name, lean(object))).collect()),
        Change::Applied(object) => Change::Applied(lean(object)),
        deleted @ Change::Deleted(_) => deleted,
    };
    let whole = matches!(change, Change::All(_));
    let before = Arc::clone(objects);
    let known = matches!(&change, Change::Applied(object) if before.get(&object.name_any()).is_some_and(|old| **old == *object));
    if known {
        return (None, false);
    }
    absorb(objects, change);
    (whole.then(std::any::type_name::<K>), before != *objects)
}

fn own_node(node: &mut Option<Arc<OwnNode>>, change: Change<Node>) -> (Option<&'static str>, bool) {
    let whole = matches!(change, Change::All(_));
    let read = match change {
        Change::All(nodes) => nodes.values().next().map(OwnNode::read),
        Change::Applied(object) => Some(OwnNode::read(&object)),
        Change::Deleted(_) => None,
    };
    let news = node.as_deref() != read.as_ref();
    *node = read.map(Arc::new);
    (whole.then_some("Node"), news)
}

/// Takes in what counts of namespaces: labels, by which pools may come to select them at any time, and annotations of
/// ours.
fn note(
    known: &mut Namespaces,
    change: Change<PartialObjectMeta<Namespace>>,
) -> (Option<&'static str>, bool) {
    let read = |object: &PartialObjectMeta<Namespace>| Arc::new(NamespaceNotes::read(&object.metadata));
    match change {
        Change::All(all) => {
            let all: BTreeMap<_, _> = all.iter().map(|(name, object)| (name.clone(), read(object))).collect();
            let news = **known != all;
            *known = Arc::new(all);
            (Some("Namespace"), news)
        }
        Change::Applied(object) => {
            let (name, notes) = (object.name_any(), read(&object));
            let news = known.get(&name) != Some(&notes);
            if news {
                Arc::make_mut(known).insert(name, notes);
            }
            (None, news)
        }
        Change::Deleted(name) => (None, Arc::make_mut(known).remove(&name).is_some()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_an_object_is_no_news() {
        let mut pools = Objects::default();
        let strip = |pool: &mut IPPool| pool.status = None;
        let mut pool = IPPool::example();
        assert!(take_in(&mut pools, Change::Applied(pool.clone()), strip).1);
        pool.status = Some(manx_api::IPPoolStatus { used: 7, ..Default::default() });
        pool.metadata.resource_version = Some("8".to_owned());
        assert!(!take_in(&mut pools, Change::Applied(pool.clone()), strip).1);
        pool.spec.disabled = true;
        assert!(take_in(&mut pools, Change::Applied(pool), strip).1);
    }

    #[test]
    fn of_namespaces_labels_and_annotations_of_ours_are_kept() {
        let namespace = |labels: serde_json::Value, other: &str| {
            let annotations = serde_json::json!({"manx.dev/ipv4pools": "red", "example.com/large": other});
            let metadata = serde_json::json!({"name": "web", "labels": labels, "annotations": annotations});
            serde_json::from_value(serde_json::json!({"metadata": metadata})).expect("metadata")
        };
        let team = || serde_json::json!({"team": "red"});
        let mut known = Namespaces::default();
        assert_eq!(note(&mut known, Change::Applied(namespace(team(), "1"))), (None, true));
        assert_eq!(known["web"].labels.keys().collect::<Vec<_>>(), ["team"]);
        assert_eq!(known["web"].annotations.keys().collect::<Vec<_>>(), ["manx.dev/ipv4pools"]);
        assert_eq!(note(&mut known, Change::Applied(namespace(team(), "2"))), (None, false));
        let all = Change::All(BTreeMap::from([("web".to_owned(), namespace(serde_json::json!({}), "2"))]));
        assert_eq!(note(&mut known, all), (Some("Namespace"), true));
        assert_eq!(note(&mut known, Change::Deleted("web".to_owned())), (None, true));
    }

    #[test]
    fn a_kind_is_known_once_it_was_listed_even_if_there_is_none_of_it() {
        let mut pools = Objects::default();
        let (kind, news) = take_in(&mut pools, Change::<IPPool>::All(BTreeMap::new()), |_| {});
        assert!(kind.is_some() && !news);
    }
}
