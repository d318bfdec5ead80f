//! Writes what this node says of itself: its NodeNetwork, and the status of its blocks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use manx_api::{IPBlock, IPBlockStatus, NodeNetwork, NodeNetworkStatus};
use manx_ipam::{BlockId, NodeName};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::pace::{Pace, Settings};
use super::{FIELD_MANAGER, bounded, jitter, status_of};
use crate::node::cluster::Cluster;
use crate::node::intent::{Intent, OwnNetwork};
use crate::node::status::{self, Facts};
use crate::shell::bgp::Sessions;
use crate::shell::kernel::KernelReport;
use crate::shell::owner::NodeReport;

/// At most one write a second and object; the first of several changes waits for the others.
const SETTINGS: Settings = Settings {
    gather: Duration::from_millis(300),
    pause: Duration::from_secs(1),
    longest_backoff: Duration::from_secs(60),
};

/// Counters alone are no news: they are written along with news, or this long after the last write.
const COUNTERS_PAUSE: Duration = Duration::from_secs(60);

/// What the published status is made of.
pub struct Sources {
    /// What this node is to do.
    pub intent: watch::Receiver<Option<Arc<Intent>>>,
    /// What the API server says.
    pub cluster: watch::Receiver<Arc<Cluster>>,
    /// Endpoints and blocks.
    pub node: watch::Receiver<Arc<NodeReport>>,
    /// Sessions.
    pub sessions: watch::Receiver<Arc<Sessions>>,
    /// Routes.
    pub kernel: watch::Receiver<Arc<KernelReport>>,
}

/// An object that is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Network,
    NetworkStatus,
    Block(BlockId),
}

/// What is written to it.
#[derive(Debug, Clone, PartialEq)]
enum Body {
    Network(OwnNetwork),
    NetworkStatus(Box<NodeNetworkStatus>),
    Block(IPBlockStatus),
}

/// Publishes for as long as the process lives.
pub async fn run(client: Client, me: NodeName, mut sources: Sources) {
    let mut publisher = Publisher {
        networks: Api::all(client.clone()),
        blocks: Api::all(client),
        me,
        pace: Pace::new(SETTINGS),
        status: NodeNetworkStatus::default(),
        counted_at: None,
        uid: None,
    };
    loop {
        publisher.wish(&mut sources);
        while let Some((target, body)) = publisher.pace.take(Instant::now()) {
            publisher.write(target, body).await;
        }
        let due = publisher.pace.deadline();
        tokio::select! {
            Ok(()) = sources.intent.changed() => {}
            Ok(()) = sources.cluster.changed() => {}
            Ok(()) = sources.node.changed() => {}
            Ok(()) = sources.sessions.changed() => {}
            Ok(()) = sources.kernel.changed() => {}
            () = sleep_until(due) => {}
            () = tokio::time::sleep(COUNTERS_PAUSE) => {}
        }
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

struct Publisher {
    networks: Api<NodeNetwork>,
    blocks: Api<IPBlock>,
    me: NodeName,
    pace: Pace<Target, Body>,
    status: NodeNetworkStatus,
    counted_at: Option<Instant>,
    /// The UID of the NodeNetwork that our status was written to.
    uid: Option<String>,
}

impl Publisher {
    fn wish(&mut self, sources: &mut Sources) {
        let intent = sources.intent.borrow_and_update().clone();
        let cluster = Arc::clone(&sources.cluster.borrow_and_update());
        let node = Arc::clone(&sources.node.borrow_and_update());
        let sessions = Arc::clone(&sources.sessions.borrow_and_update());
        let kernel = Arc::clone(&sources.kernel.borrow_and_update());
        let Some(intent) = intent else { return };
        let Some(network) = &intent.network else { return };
        let now = Instant::now();
        self.notice_others(&cluster, network, now);
        let problems: Vec<_> = intent.problems.iter().cloned().collect();
        let facts = Facts {
            peers: &sessions.peers,
            blocks: &node.usage.blocks,
            routes: kernel.stats.as_ref(),
            obstacles: &node.obstacles,
            problems: &problems,
        };
        self.set_status(&facts, now);
        let mut wishes = vec![
            (Target::Network, Body::Network(network.clone())),
            (Target::NetworkStatus, Body::NetworkStatus(Box::new(self.status.clone()))),
        ];
        let blocks = status::blocks(&node.usage.blocks).into_iter();
        wishes.extend(blocks.map(|(block, status)| (Target::Block(block), Body::Block(status))));
        self.pace.wish(wishes, now);
    }

    /// Somebody deleted or changed our NodeNetwork: it is written again.
    fn notice_others(&mut self, cluster: &Cluster, network: &OwnNetwork, now: Instant) {
        let Some(seen) = cluster.networks.get(self.me.as_str()) else {
            if self.uid.take().is_some() {
                self.pace.forget(&Target::Network, now);
            }
            return;
        };
        if self.uid != seen.uid() {
            self.uid = seen.uid();
            self.pace.forget(&Target::NetworkStatus, now);
        }
        let labelled = network.labels.iter().all(|(key, value)| seen.labels().get(key) == Some(value));
        if seen.spec != network.spec || !labelled {
            self.pace.forget(&Target::Network, now);
        }
    }

    fn set_status(&mut self, facts: &Facts<'_>, now: Instant) {
        let status = status::network(&self.status, facts, env!("CARGO_PKG_VERSION"), Timestamp::now());
        let overdue = self.counted_at.is_none_or(|at| now.duration_since(at) >= COUNTERS_PAUSE);
        if overdue || without_counters(&status) != without_counters(&self.status) {
            self.status = status;
            self.counted_at = Some(now);
        }
    }

    async fn write(&mut self, target: Target, body: Body) {
        let written = match (&target, &body) {
            (_, Body::Network(network)) => self.write_network(network).await,
            (_, Body::NetworkStatus(status)) => {
                let patch = whole(status, &["sessions", "blocks", "conditions"]);
                let params = params();
                let write = self.networks.patch_status(self.me.as_str(), &params, &patch);
                bounded(write).await.map(drop)
            }
            (Target::Block(block), Body::Block(status)) => {
                let patch = whole(status, &["allocations"]);
                let (name, params) = (block.name(), params());
                let write = self.blocks.patch_status(&name, &params, &patch);
                bounded(write).await.map(drop)
            }
            (_, Body::Block(_)) => return,
        };
        match written {
            Ok(()) => self.pace.written(&target, body, Instant::now()),
            Err(error) => {
                // What is not there yet is made by another write, or was released.
                if status_of(&error) != Some(404) {
                    tracing::warn!(error = format!("{error:#}"), object = ?target, "status cannot be written");
                }
                self.pace.failed(&target, jitter(self.me.as_str()), Instant::now());
            }
        }
    }

    async fn write_network(&self, network: &OwnNetwork) -> anyhow::Result<()> {
        let mut object = NodeNetwork::new(self.me.as_str(), network.spec.clone());
        object.metadata.labels = Some(network.labels.clone());
        let params = PatchParams::apply(FIELD_MANAGER).force();
        bounded(self.networks.patch(self.me.as_str(), &params, &Patch::Apply(object))).await.map(drop)
    }
}

/// A patch that replaces a status: lists that are empty are left out of the object, and a merge would keep the old ones.
fn whole(status: &impl Serialize, lists: &[&str]) -> Patch<Value> {
    let mut status = json!(status);
    for list in lists {
        if status.get(list).is_none() {
            status[list] = json!([]);
        }
    }
    Patch::Merge(json!({ "status": status }))
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

fn without_counters(status: &NodeNetworkStatus) -> NodeNetworkStatus {
    let mut status = status.clone();
    for session in &mut status.sessions {
        (session.received, session.accepted, session.advertised) = (0, 0, 0);
    }
    status
}
