//! The controller's shell: leads by a Lease, watches, and carries out what [`plan`](super::plan) decides.

use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::SignedDuration;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::reflector::{Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use manx_api::{IPBlock, IPPool, NodeNetwork, Timestamp};
use serde_json::json;
use tracing::{info, warn};

use super::lease::{Election, Timing};
use super::plan::{Action, Lives, View, plan};
use crate::shell::log;
use crate::shell::options::LogFormat;

/// Label of the Leases by which agents say that they live; its value is the node's name.
pub const AGENT_LEASE_LABEL: &str = "manx.dev/agent";
/// The Lease by which one of several controllers leads.
const LEASE: &str = "manx-controller";
/// How long events are collected before they are acted upon.
const SETTLE: Duration = Duration::from_millis(100);
/// Looks at everything again after this time, whatever the watches say.
const RESYNC: Duration = Duration::from_secs(60);

/// Gives back the blocks of nodes that are gone, and keeps the status of the pools.
#[derive(Debug, Clone, Parser)]
#[command(name = "manx-controller", version)]
pub struct Options {
    /// A kubeconfig; without it the service account of the pod is used.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the Leases: the controllers' own and the agents'.
    #[arg(long, env = "POD_NAMESPACE", default_value = "manx-system")]
    pub namespace: String,
    /// How long a node must be gone, and its agent silent, before its blocks return; as in 5m or 30s.
    #[arg(long, default_value = "5m", value_parser = parse_grace)]
    pub node_grace: Duration,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

fn parse_grace(text: &str) -> Result<Duration, String> {
    let duration: SignedDuration = text.parse().map_err(|error| format!("{error}: write it as 5m or 30s"))?;
    Duration::try_from(duration).map_err(|_| "a grace is not negative".to_owned())
}

/// Runs until the process is told to end: waits to lead, leads, and starts over when leadership is lost.
///
/// # Errors
/// When there is no cluster to speak with.
pub async fn run(options: Options) -> anyhow::Result<()> {
    log::start(options.log_format);
    let config = config(options.kubeconfig.as_deref()).await?;
    let client = Client::try_from(config).context("the API server's address or credentials are unusable")?;
    let leases = Api::namespaced(client.clone(), &options.namespace);
    let identity = format!("{}-{}", nix::unistd::gethostname()?.to_string_lossy(), std::process::id());
    let mut election = Election::new(leases, LEASE, &identity, Timing::default());
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    loop {
        tokio::select! {
            () = election.acquire() => {}
            _ = terminated.recv() => return Ok(()),
        }
        info!(identity, "leading");
        tokio::select! {
            () = election.hold() => warn!("no longer leading"),
            outcome = lead(&client, &options) => outcome?,
            _ = terminated.recv() => {
                // Another controller may take over at once; if not, the Lease runs out by itself.
                let _ = election.resign().await;
                return Ok(());
            }
        }
    }
}

async fn config(kubeconfig: Option<&std::path::Path>) -> anyhow::Result<kube::Config> {
    let Some(path) = kubeconfig else {
        return kube::Config::infer()
            .await
            .context("no kubeconfig was given and no service account is mounted");
    };
    let file = kube::config::Kubeconfig::read_from(path)
        .with_context(|| format!("the kubeconfig {} cannot be read", path.display()))?;
    kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default())
        .await
        .with_context(|| format!("the kubeconfig {} is unusable", path.display()))
}

/// The watches' caches.
struct Stores {
    pools: Store<IPPool>,
    blocks: Store<IPBlock>,
    networks: Store<NodeNetwork>,
    nodes: Store<Node>,
    leases: Store<Lease>,
}

impl Stores {
    /// Waits until each cache was filled once: with half a view, a node would seem to be gone.
    async fn ready(&self) -> anyhow::Result<()> {
        self.pools.wait_until_ready().await?;
        self.blocks.wait_until_ready().await?;
        self.networks.wait_until_ready().await?;
        self.nodes.wait_until_ready().await?;
        self.leases.wait_until_ready().await?;
        Ok(())
    }

    fn view(&self) -> View {
        let all = |leases: &Store<Lease>| leases.state().into_iter();
        let heartbeat = |lease: &Lease| {
            let node = lease.labels().get(AGENT_LEASE_LABEL)?.clone();
            Some((node, lease.resource_version().unwrap_or_default()))
        };
        View {
            pools: objects(&self.pools),
            blocks: objects(&self.blocks),
            networks: objects(&self.networks),
            nodes: self.nodes.state().iter().map(|node| node.name_any()).collect(),
            heartbeats: all(&self.leases).filter_map(|lease| heartbeat(&lease)).collect(),
        }
    }
}

/// All objects of a cache, by name.
fn objects<K>(store: &Store<K>) -> Vec<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    let mut objects: Vec<K> = store.state().into_iter().map(|object| (*object).clone()).collect();
    objects.sort_by_key(ResourceExt::name_any);
    objects
}

/// A watch of all objects of a kind into a cache; the stream yields once per change.
fn watch<K>(api: Api<K>) -> (Store<K>, impl Stream<Item = ()> + Send)
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + Sync + 'static,
    K: serde::de::DeserializeOwned,
{
    let (reader, writer) = store();
    let changes = watcher(api, watcher::Config::default()).default_backoff().reflect(writer).map(|event| {
        if let Err(error) = event {
            warn!(%error, kind = %K::kind(&()), "the watch is interrupted and will be tried again");
        }
    });
    (reader, changes)
}

/// Works as the leader; returns only when it cannot go on.
async fn lead(client: &Client, options: &Options) -> anyhow::Result<()> {
    let (pools, pool_changes) = watch::<IPPool>(Api::all(client.clone()));
    let (blocks, block_changes) = watch::<IPBlock>(Api::all(client.clone()));
    let (networks, network_changes) = watch::<NodeNetwork>(Api::all(client.clone()));
    let (nodes, node_changes) = watch::<Node>(Api::all(client.clone()));
    let (leases, lease_changes) = watch::<Lease>(Api::namespaced(client.clone(), &options.namespace));
    let mut changes = futures_util::stream::select_all([
        pool_changes.boxed(),
        block_changes.boxed(),
        network_changes.boxed(),
        node_changes.boxed(),
        lease_changes.boxed(),
    ]);
    let stores = Stores { pools, blocks, networks, nodes, leases };
    {
        let mut ready = pin!(stores.ready());
        loop {
            tokio::select! {
                outcome = &mut ready => break outcome?,
                _ = changes.next() => {}
            }
        }
    }
    let mut lives = Lives::default();
    loop {
        let now = Instant::now();
        let view = stores.view();
        lives.observe(&view, now);
        for action in plan(&view, &lives, options.node_grace, now, Timestamp::now()) {
            carry_out(client, action).await;
        }
        let again = lives.deadline(options.node_grace).unwrap_or(now + RESYNC).max(now + SETTLE);
        tokio::select! {
            change = changes.next() => change.context("every watch has ended")?,
            () = tokio::time::sleep_until(again.into()) => continue,
        }
        collect(&mut changes).await;
    }
}

/// Takes in what comes within a moment, so that a burst of changes is acted upon once.
async fn collect(changes: &mut (impl Stream<Item = ()> + Unpin)) {
    let settled = tokio::time::sleep(SETTLE);
    let mut settled = pin!(settled);
    loop {
        tokio::select! {
            () = &mut settled => return,
            change = changes.next() => if change.is_none() { return },
        }
    }
}

/// Carries one action out; what fails is logged and comes again with the next look.
async fn carry_out(client: &Client, action: Action) {
    let outcome = match &action {
        Action::ReleaseBlock { name, version, node } => {
            info!(block = %name, %node, "giving back a block: its node is gone");
            let only = Preconditions { resource_version: Some(version.clone()), uid: None };
            delete::<IPBlock>(client, name, only).await
        }
        Action::ForgetNode { name, uid } => {
            info!(node = %name, "removing the NodeNetwork of a node that is gone");
            delete::<NodeNetwork>(
                client,
                name,
                Preconditions { uid: Some(uid.clone()), resource_version: None },
            )
            .await
        }
        Action::SetFinalizers { pool, version, finalizers } => {
            let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": version}});
            let pools: Api<IPPool> = Api::all(client.clone());
            pools.patch(pool, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
        }
        Action::Report { pool, status } => {
            let patch = json!({"status": status});
            let pools: Api<IPPool> = Api::all(client.clone());
            pools.patch_status(pool, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
        }
    };
    match outcome {
        // Gone already, or changed since: the watch tells.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        Err(error) => warn!(%error, ?action, "an action failed and will be tried again"),
        Ok(()) => {}
    }
}

async fn delete<K>(client: &Client, name: &str, preconditions: Preconditions) -> kube::Result<()>
where
    K: kube::Resource<Scope = kube::core::ClusterResourceScope, DynamicType = ()>,
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    Api::<K>::all(client.clone()).delete(name, &params).await.map(drop)
}
