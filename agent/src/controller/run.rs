//! The controller from start to end: waits until it leads, watches, carries out what the census says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, SelectAll};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::watcher::Config;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use manx_api::{IPBlock, IPClaim, IPPool, IPPoolStatus, NodeNetwork, POOL_FINALIZER};
use manx_ipam::{BlockId, NodeName};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot::channel as once;
use tokio::time::{MissedTickBehavior, interval};

use super::census::{Block, Census, Claim, Finalizer};
use super::claims;
use super::hand::Hand;
use super::lease::{Election, Timing};
use super::metrics::Board;
use super::options::Options;
use super::pool_status::news;
use crate::shell::health::serve_at;
use crate::shell::kube::follow::{Change, follow};
use crate::shell::kube::heartbeat::lease_name;
use crate::shell::kube::pace::{Pace, Settings};
use crate::shell::kube::{bounded, client, jitter, status_of};
use crate::shell::wake::sleep_until;

/// The Lease by which one of the replicas leads.
const LEASE: &str = "manx-controller";
/// Who we are in the record of who set which field.
const FIELD_MANAGER: &str = "manx-controller";
/// How long changes are gathered before the census is looked at.
const GATHER: Duration = Duration::from_millis(50);
/// How long a replica waits for the port of its figures before it runs for the Lease without.
const PORT_PATIENCE: Duration = Duration::from_secs(30);
/// How often a pool's status is written at most.
const SETTINGS: Settings = Settings {
    gather: Duration::from_millis(200),
    pause: Duration::from_secs(1),
    longest_pause: Duration::from_secs(8),
    longest_backoff: Duration::from_secs(60),
};

/// Runs the controller until it is told to stop, or another replica leads.
///
/// # Errors
/// When the client cannot be made, or leadership is lost: a fresh process runs for it again.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let board = Board::default();
    let client = client("manx-controller", options.kubeconfig.as_deref(), board.api.clone()).await?;
    if options.let_go {
        return super::let_go::run(&client).await;
    }
    let identity = options.identity.clone().unwrap_or_else(|| format!("manx-controller-{:08x}", salt()));
    let leases: Api<Lease> = Api::namespaced(client.clone(), &options.namespace);
    let shown = show(options.metrics_listen, &board);
    let mut election = Election::new(leases.clone(), LEASE, &identity, Timing::default());
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    if options.dry_run {
        tracing::info!("this is a dry run: what would be done is said, and nothing is written");
        let mut leader = Leader::new(client.clone(), leases, options.node_grace, Hand::dry(), board);
        let accept = super::accept::run(client.clone(), params(), Hand::dry());
        let hand = Hand::dry();
        let defaults = super::defaults::run(client, options.namespace, options.defaults, &hand);
        tokio::select! {
            () = leader.lead() => {}
            () = accept => {}
            () = defaults => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        return Ok(());
    }
    let elected = async {
        // Of two replicas on one node the one whose figures can be seen leads.
        let _shown = tokio::time::timeout(PORT_PATIENCE, shown).await;
        election.acquire().await;
    };
    tokio::select! {
        () = elected => {}
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    }
    tracing::info!(identity, "this replica leads");
    board.update(|figures| figures.leads = true);
    let accept = super::accept::run(client.clone(), params(), Hand::default());
    let hand = Hand::default();
    let defaults = super::defaults::run(client.clone(), options.namespace, options.defaults, &hand);
    let mut leader = Leader::new(client, leases, options.node_grace, Hand::default(), board);
    tokio::select! {
        () = election.hold() => anyhow::bail!("another replica leads, or the API server is away: starting over"),
        () = leader.lead() => {}
        () = accept => {}
        () = defaults => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("told to end");
    bounded(election.resign()).await.context("giving up the Lease")
}

/// Shows the figures. What is returned ends once they can be seen, or at once if nobody asked for that.
fn show(address: Option<SocketAddr>, board: &Board) -> impl Future<Output = ()> + use<> {
    let (seen, shown) = once();
    if let Some(address) = address {
        let pages = Arc::new(board.clone());
        tokio::spawn(async move {
            let listener = wait_for_port(address).await;
            let _nobody_waits = seen.send(());
            serve_at(listener, pages).await
        });
    }
    async { drop(shown.await) }
}

/// Another replica on this node may have the port; it is free again when that one ends.
async fn wait_for_port(address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) if !std::mem::replace(&mut told, true) => {
                tracing::warn!(%error, %address, "metrics are not shown yet: the address cannot be listened on; it is tried again");
            }
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn salt() -> u32 {
    use std::hash::{BuildHasher as _, RandomState};
    u32::try_from(RandomState::new().hash_one(std::process::id()) >> 32).unwrap_or(0)
}

/// A change of one of the kinds.
enum Update {
    Nodes(Change<PartialObjectMeta<Node>>),
    Networks(Change<PartialObjectMeta<NodeNetwork>>),
    Blocks(Change<IPBlock>),
    Pools(Change<IPPool>),
    Claims(Change<IPClaim>),
}

struct Leader {
    client: Client,
    leases: Api<Lease>,
    nodes: Api<Node>,
    networks: Api<NodeNetwork>,
    blocks: Api<IPBlock>,
    pools: Api<IPPool>,
    grace: Duration,
    census: Census,
    /// Kinds of which all objects are known; nothing is decided on less.
    seen: [bool; 5],
    pace: Pace<String, Arc<IPPoolStatus>>,
    hand: Hand,
    board: Board,
    events: Recorder,
}

impl Leader {
    fn new(client: Client, leases: Api<Lease>, grace: Duration, hand: Hand, board: Board) -> Self {
        let reporter = Reporter { controller: "manx-controller".to_owned(), instance: None };
        Self {
            events: Recorder::new(client.clone(), reporter),
            hand,
            board,
            leases,
            nodes: Api::all(client.clone()),
            networks: Api::all(client.clone()),
            blocks: Api::all(client.clone()),
            pools: Api::all(client.clone()),
            client,
            grace,
            census: Census::default(),
            seen: [false; 5],
            pace: Pace::new(SETTINGS),
        }
    }

    async fn lead(&mut self) {
        let mut updates = self.watch();
        // A quarter of the grace bounds how late a node's end is noticed.
        let beat = (self.grace / 4).clamp(Duration::from_millis(250), Duration::from_secs(30));
        let mut tick = interval(beat);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.pace.deadline();
            tokio::select! {
                Some(update) = updates.next() => {
                    self.absorb(update);
                    let until = tokio::time::Instant::now() + GATHER;
                    while let Ok(Some(update)) = tokio::time::timeout_at(until, updates.next()).await {
                        self.absorb(update);
                    }
                }
                _ = tick.tick() => {}
                () = sleep_until(due) => {}
            }
            if self.seen == [true; 5] {
                self.act().await;
            }
        }
    }

    fn watch(&self) -> SelectAll<BoxStream<'static, Update>> {
        let all = Config::default;
        futures_util::stream::select_all([
            follow(Api::all(self.client.clone()), all()).map(Update::Nodes).boxed(),
            follow(Api::all(self.client.clone()), all()).map(Update::Networks).boxed(),
            follow(self.blocks.clone(), all()).map(Update::Blocks).boxed(),
            follow(self.pools.clone(), all()).map(Update::Pools).boxed(),
            follow(Api::all(self.client.clone()), all()).map(Update::Claims).boxed(),
        ])
    }

    fn absorb(&mut self, update: Update) {
        let census = &mut self.census;
        match update {
            Update::Nodes(change) => {
                labels(&mut census.labels, &change);
                names(&mut census.nodes, change, &mut self.seen[0]);
            }
            Update::Networks(change) => names(&mut census.networks, change, &mut self.seen[1]),
            Update::Blocks(Change::All(all)) => {
                census.blocks = all.values().filter_map(Block::read).collect();
                self.seen[2] = true;
            }
            Update::Blocks(Change::Applied(object)) => census.blocks.extend(Block::read(&object)),
            Update::Blocks(Change::Deleted(name)) => census.blocks.retain(|id, _| id.name() != name),
            Update::Pools(Change::All(all)) => {
                census.pools = all;
                self.seen[3] = true;
            }
            Update::Pools(Change::Applied(object)) => {
                census.pools.insert(object.name_any(), object);
            }
            Update::Pools(Change::Deleted(name)) => {
                census.pools.remove(&name);
            }
            Update::Claims(Change::All(all)) => {
                census.claims = all.values().map(Claim::read).collect();
                self.seen[4] = true;
            }
            Update::Claims(Change::Applied(object)) => census.claims.extend([Claim::read(&object)]),
            Update::Claims(Change::Deleted(key)) => {
                census.claims.retain(|(namespace, name), _| format!("{namespace}/{name}") != key);
            }
        }
    }

    async fn act(&mut self) {
        let known = self.census.gone();
        self.census.observe(Instant::now());
        let gone = self.census.gone();
        for node in gone.iter().filter(|node| !known.contains(node)) {
            let blocks = self.census.blocks.values().filter(|block| block.owner == *node).count();
            tracing::info!(%node, blocks, grace = ?self.grace, "a node is gone: its blocks are free after the grace, unless its agent lives");
        }
        self.board.update(|figures| figures.gone = gone.len());
        for node in gone {
            self.listen_for(&node).await;
        }
        let (nodes, blocks) = self.census.over(self.grace, Instant::now());
        self.bury(nodes, blocks).await;
        claims::let_go(&self.client, &self.census, &self.hand).await;
        for (pool, change) in self.census.finalizers() {
            if let Err(error) = self.change_finalizer(&pool, &change).await {
                tracing::warn!(
                    error = format!("{error:#}"),
                    pool,
                    ?change,
                    "the finalizer of an IPPool cannot be changed; it is tried again"
                );
            }
        }
        self.write_pools().await;
    }

    /// Reads the sign of life of an agent whose Node is gone.
    async fn listen_for(&mut self, node: &NodeName) {
        // Silence is counted only while we can hear: a lease that cannot be read says nothing.
        let sign = match bounded(self.leases.get_opt(&lease_name(node))).await {
            Ok(Some(lease)) => lease.spec.and_then(|spec| spec.renew_time).map(|time| time.0.to_string()),
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), %node, "the Lease of a node's agent cannot be read: the node counts as alive");
                Some(format!("unreadable at {:?}", Instant::now()))
            }
        };
        self.census.heard(node, sign.unwrap_or_default(), Instant::now());
    }

    async fn bury(&self, nodes: Vec<NodeName>, blocks: Vec<BlockId>) {
        for node in nodes {
            // The watch may lag: the API server is asked once more before anything is taken away.
            match bounded(self.nodes.get_opt(node.as_str())).await {
                Ok(None) => {}
                Ok(Some(_)) | Err(_) => continue,
            }
            for block in &blocks {
                if self.census.blocks.get(block).is_some_and(|known| known.owner == node) {
                    self.reclaim(*block, &node).await;
                }
            }
            claims::clear(&self.client, &self.census, &node, &self.hand).await;
            if self.census.networks.contains(&node) {
                report(self.forget(&node).await, &format!("NodeNetwork {node}"));
            }
        }
    }

    async fn forget(&self, node: &NodeName) -> anyhow::Result<()> {
        if !self
            .hand
            .may(|| format!("delete the NodeNetwork {node} and the Lease of its agent: the node is gone"))
        {
            return Ok(());
        }
        if let Some(network) = bounded(self.networks.get_opt(node.as_str())).await? {
            // A node that comes back at this moment makes a new object, with another UID.
            let preconditions = Preconditions { uid: network.uid(), resource_version: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            bounded(self.networks.delete(node.as_str(), &params)).await?;
        }
        bounded(self.leases.delete(&lease_name(node), &DeleteParams::default())).await.map(drop)
    }

    async fn reclaim(&self, block: BlockId, node: &NodeName) {
        let name = block.name();
        let object = match bounded(self.blocks.get_opt(&name)).await {
            Ok(Some(object)) if object.spec.node == node.as_str() => object,
            Ok(_) => return,
            Err(error) => return report(Err(error), &name),
        };
        let used = object.status.as_ref().map_or(0, |status| status.used);
        if !self
            .hand
            .may(|| format!("delete IPBlock {name} ({used} addresses in use): its node {node} is gone"))
        {
            return;
        }
        let preconditions = Preconditions { uid: object.uid(), resource_version: object.resource_version() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let removed = bounded(self.blocks.delete(&name, &params)).await.map(drop);
        if removed.is_ok() {
            tracing::info!(%block, %node, "the block of a node that is gone is free again");
            self.board.update(|figures| figures.reclaimed += 1);
        }
        report(removed, &name);
    }

    async fn change_finalizer(&self, name: &str, change: &Finalizer) -> anyhow::Result<()> {
        let what = || match change {
            Finalizer::Add => format!("keep IPPool {name} by a finalizer until its last block is gone"),
            Finalizer::Remove => format!("let IPPool {name} go: its last block is gone"),
        };
        if !self.hand.may(what) {
            return Ok(());
        }
        let Some(pool) = bounded(self.pools.get_opt(name)).await? else { return Ok(()) };
        let mut finalizers = pool.finalizers().to_vec();
        finalizers.retain(|finalizer| finalizer != POOL_FINALIZER);
        match change {
            Finalizer::Add if pool.metadata.deletion_timestamp.is_some() => return Ok(()),
            Finalizer::Add => finalizers.push(POOL_FINALIZER.to_owned()),
            // Watches may lag, and a block that is claimed now would be lost with its pool.
            Finalizer::Remove if self.has_blocks(&pool).await? => return Ok(()),
            Finalizer::Remove => {}
        }
        let metadata = json!({ "finalizers": finalizers, "resourceVersion": pool.resource_version() });
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        bounded(self.pools.patch(name, &params(), &patch)).await.map(drop)
    }

    async fn has_blocks(&self, pool: &IPPool) -> anyhow::Result<bool> {
        let blocks = bounded(self.blocks.list_metadata(&kube::api::ListParams::default().labels(&format!(
            "{}={}",
            manx_api::POOL_LABEL,
            manx_api::label_value(&pool.name_any())
        ))))
        .await?;
        Ok(!blocks.items.is_empty())
    }

    async fn write_pools(&mut self) {
        let status = self.census.pool_status(Timestamp::now());
        self.board.update(|figures| figures.pools.clone_from(&status));
        let unchanged: BTreeMap<String, bool> = status
            .iter()
            .map(|(name, status)| (name.clone(), self.census.pools[name].status.as_ref() == Some(status)))
            .collect();
        let wishes = status.into_iter().filter(|(name, _)| !unchanged[name]);
        self.pace.wish(wishes.map(|(name, status)| (name, Arc::new(status))), Instant::now());
        while let Some((name, status)) = self.pace.take(Instant::now()) {
            if !self.hand.may(|| format!("write the status of IPPool {name}: {}", in_words(&status))) {
                self.pace.written(&name, status, Instant::now());
                continue;
            }
            let patch = Patch::Merge(json!({ "status": &*status }));
            match bounded(self.pools.patch_status(&name, &params(), &patch)).await {
                Ok(_) => {
                    self.tell(&name, &status).await;
                    self.pace.written(&name, status, Instant::now());
                }
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        pool = name,
                        "the status of an IPPool cannot be written; it is tried again"
                    );
                    self.pace.failed(&name, jitter(&name), Instant::now());
                }
            }
        }
    }

    /// An Event on the pool for what has just begun.
    async fn tell(&self, name: &str, status: &IPPoolStatus) {
        let Some(pool) = self.census.pools.get(name) else { return };
        for (reason, note) in news(pool.status.as_ref(), status) {
            tracing::warn!(pool = name, reason, note, "an IPPool needs somebody to look after it");
            let event = Event {
                type_: EventType::Warning,
                reason: reason.to_owned(),
                note: Some(note),
                action: "LookAfterPool".to_owned(),
                secondary: None,
            };
            if let Err(error) = bounded(self.events.publish(&event, &pool.object_ref(&()))).await {
                tracing::debug!(
                    error = format!("{error:#}"),
                    pool = name,
                    "the event about a pool was not taken"
                );
            }
        }
    }
}

fn labels(
    known: &mut BTreeMap<NodeName, BTreeMap<String, String>>,
    change: &Change<PartialObjectMeta<Node>>,
) {
    match change {
        Change::All(all) => {
            let labelled =
                all.iter().map(|(name, node)| (NodeName::new(name.clone()), node.labels().clone()));
            *known = labelled.collect();
        }
        Change::Applied(node) => {
            known.insert(NodeName::new(node.name_any()), node.labels().clone());
        }
        Change::Deleted(name) => {
            known.remove(&NodeName::new(name.clone()));
        }
    }
}

/// The conditions that hold.
fn in_words(status: &IPPoolStatus) -> String {
    let told = status.conditions.iter().map(|it| format!("{}={} ({})", it.type_, it.status, it.reason));
    told.collect::<Vec<_>>().join(", ")
}

pub(super) fn params() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

fn names<K>(
    known: &mut std::collections::BTreeSet<NodeName>,
    change: Change<PartialObjectMeta<K>>,
    seen: &mut bool,
) where
    PartialObjectMeta<K>: kube::Resource,
{
    match change {
        Change::All(all) => {
            *known = all.into_keys().map(NodeName::new).collect();
            *seen = true;
        }
        Change::Applied(object) => {
            known.insert(NodeName::new(object.name_any()));
        }
        Change::Deleted(name) => {
            known.remove(&NodeName::new(name));
        }
    }
}

/// What is gone already needs no removing, and what changed meanwhile is looked at again.
fn report(removed: anyhow::Result<()>, what: &str) {
    if let Err(error) = removed
        && !matches!(status_of(&error), Some(404 | 409))
    {
        tracing::warn!(
            error = format!("{error:#}"),
            what,
            "what a node left behind cannot be removed; it is tried again"
        );
    }
}
