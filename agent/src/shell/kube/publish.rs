//! Writes what this node says of itself: its NodeNetwork, and the status of its blocks.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use manx_api::{IPBlock, IPBlockStatus, NodeNetwork, NodeNetworkStatus, Session};
use manx_ipam::{BlockId, NodeName};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::pace::{Pace, Settings};
use super::{FIELD_MANAGER, bounded, jitter, status_of};
use crate::node::cluster::Cluster;
use crate::node::intent::{Intent, OwnNetwork, Problem};
use crate::node::status::{self, Facts};
use crate::shell::bgp::Sessions;
use crate::shell::conflist::ConflistReport;
use crate::shell::kernel::KernelReport;
use crate::shell::owner::NodeReport;
use crate::shell::wake::sleep_until;

/// Of the NodeNetwork: sessions that come up together are told together.
const NETWORK: Settings = Settings {
    gather: Duration::from_millis(300),
    pause: Duration::from_secs(1),
    longest_pause: Duration::from_secs(8),
    longest_backoff: Duration::from_secs(60),
};

/// Of blocks: a block that fills while many pods start is told about once or twice.
const BLOCKS: Settings = Settings {
    gather: Duration::from_secs(2),
    pause: Duration::from_secs(2),
    longest_pause: Duration::from_secs(16),
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
    /// The conflist.
    pub conflist: watch::Receiver<Arc<ConflistReport>>,
    /// Which running pods do not get the MTU that they should have, and why.
    pub stuck: watch::Receiver<Option<String>>,
}

/// One look at everything that the status is made of.
pub struct Look {
    /// What this node is to do.
    pub intent: Arc<Intent>,
    node: Arc<NodeReport>,
    sessions: Arc<Sessions>,
    kernel: Arc<KernelReport>,
    conflist: Arc<ConflistReport>,
    mtu: Vec<String>,
    problems: Vec<Problem>,
}

impl Sources {
    /// Takes note of what there is now; nothing while it is not known what this node is to do.
    pub fn look(&mut self) -> Option<Look> {
        let intent = self.intent.borrow_and_update().clone();
        let node = Arc::clone(&self.node.borrow_and_update());
        let sessions = Arc::clone(&self.sessions.borrow_and_update());
        let kernel = Arc::clone(&self.kernel.borrow_and_update());
        let conflist = Arc::clone(&self.conflist.borrow_and_update());
        let stuck = self.stuck.borrow_and_update().clone();
        let mtu = node.mtu_problem.iter().cloned().chain(stuck).collect();
        let intent = intent?;
        let problems = intent.problems.union(&sessions.problems).cloned().chain(kernel.problems()).collect();
        Some(Look { intent, node, sessions, kernel, conflist, mtu, problems })
    }
}

impl Look {
    /// What it says.
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            peers: &self.sessions.peers,
            age: self.sessions.age(),
            blocks: &self.node.usage.blocks,
            routes: self.kernel.stats.as_ref(),
            obstacles: &self.node.obstacles,
            mtu: &self.mtu,
            runtime: self.conflist.wanted.then_some(&*self.conflist.complaints),
            problems: &self.problems,
        }
    }
}

/// A part of the NodeNetwork that is written at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Spec,
    Status,
}

/// What is written to it.
#[derive(Debug, Clone, PartialEq)]
enum Body {
    Spec(OwnNetwork),
    Status(Box<NodeNetworkStatus>),
}

/// Publishes for as long as the process lives.
pub async fn run(client: Client, me: NodeName, mut sources: Sources) {
    let mut publisher = Publisher {
        networks: Api::all(client.clone()),
        blocks: Api::all(client),
        me,
        network_pace: Pace::new(NETWORK),
        block_pace: Pace::new(BLOCKS),
        status: NodeNetworkStatus::default(),
        counted_at: None,
        params: PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() },
        uid: None,
    };
    loop {
        publisher.wish(&mut sources);
        publisher.write_due().await;
        let due =
            [publisher.network_pace.deadline(), publisher.block_pace.deadline()].into_iter().flatten().min();
        tokio::select! {
            Ok(()) = sources.intent.changed() => {}
            Ok(()) = sources.cluster.changed() => {}
            Ok(()) = sources.node.changed() => {}
            Ok(()) = sources.sessions.changed() => {}
            Ok(()) = sources.kernel.changed() => {}
            Ok(()) = sources.conflist.changed() => {}
            Ok(()) = sources.stuck.changed() => {}
            () = sleep_until(due) => {}
            () = tokio::time::sleep(COUNTERS_PAUSE) => {}
        }
    }
}

struct Publisher {
    networks: Api<NodeNetwork>,
    blocks: Api<IPBlock>,
    me: NodeName,
    network_pace: Pace<Part, Body>,
    block_pace: Pace<BlockId, IPBlockStatus>,
    status: NodeNetworkStatus,
    counted_at: Option<Instant>,
    params: PatchParams,
    /// The UID of the NodeNetwork that our status was written to.
    uid: Option<String>,
}

impl Publisher {
    fn wish(&mut self, sources: &mut Sources) {
        let cluster = Arc::clone(&sources.cluster.borrow_and_update());
        let Some(look) = sources.look() else { return };
        let Some(network) = &look.intent.network else { return };
        let now = Instant::now();
        self.notice_others(&cluster, network, now);
        let facts = look.facts();
        self.set_status(&facts, now);
        let status = Box::new(self.status.clone());
        let parts = [(Part::Spec, Body::Spec(network.clone())), (Part::Status, Body::Status(status))];
        self.network_pace.wish(parts, now);
        self.block_pace.wish(status::blocks(facts.blocks), now);
    }

    /// Somebody deleted or changed our NodeNetwork: it is written again.
    fn notice_others(&mut self, cluster: &Cluster, network: &OwnNetwork, now: Instant) {
        let Some(seen) = cluster.networks.get(self.me.as_str()) else {
            if self.uid.take().is_some() {
                self.network_pace.forget(&Part::Spec, now);
            }
            return;
        };
        if self.uid != seen.uid() {
            self.uid = seen.uid();
            self.network_pace.forget(&Part::Status, now);
        }
        let labelled = network.labels.iter().all(|(key, value)| seen.labels().get(key) == Some(value));
        match seen.spec == network.spec && labelled {
            true => self.network_pace.confirm(&Part::Spec, now),
            false => self.network_pace.forget(&Part::Spec, now),
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

    async fn write_due(&mut self) {
        while let Some((part, body)) = self.network_pace.take(Instant::now()) {
            let written = match &body {
                Body::Spec(network) => self.write_network(network).await,
                Body::Status(status) => {
                    let patch = whole(status, &["sessions", "blocks", "conditions"], &[]);
                    let write = self.networks.patch_status(self.me.as_str(), &self.params, &patch);
                    bounded(write).await.map(drop)
                }
            };
            match told(written, &part) {
                true => self.network_pace.written(&part, body, Instant::now()),
                false => self.network_pace.failed(&part, jitter(self.me.as_str()), Instant::now()),
            }
        }
        while let Some((block, status)) = self.block_pace.take(Instant::now()) {
            let patch = whole(&status, &["allocations"], &["handedOverBy"]);
            let name = block.name();
            let written = bounded(self.blocks.patch_status(&name, &self.params, &patch)).await.map(drop);
            match told(written, &block) {
                true => self.block_pace.written(&block, status, Instant::now()),
                false => self.block_pace.failed(&block, jitter(&name), Instant::now()),
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

/// A patch that replaces a status: lists that are empty and texts that are unset are left out of the object, and a merge
/// would keep the old ones.
fn whole(status: &impl Serialize, lists: &[&str], texts: &[&str]) -> Patch<Value> {
    let mut status = json!(status);
    for text in texts {
        if status.get(text).is_none() {
            status[text] = Value::Null;
        }
    }
    for list in lists {
        if status.get(list).is_none() {
            status[list] = json!([]);
        }
    }
    Patch::Merge(json!({ "status": status }))
}

/// Whether a write succeeded; what is not there (yet) is made by another write, or was released.
fn told(written: anyhow::Result<()>, what: &impl Debug) -> bool {
    match written {
        Ok(()) => true,
        Err(error) => {
            if status_of(&error) != Some(404) {
                tracing::warn!(error = format!("{error:#}"), object = ?what, "the status of an object of this node cannot be written; it is tried again");
            }
            false
        }
    }
}

fn without_counters(status: &NodeNetworkStatus) -> NodeNetworkStatus {
    let mut status = status.clone();
    status.sessions = status.sessions.iter().map(Session::without_counters).collect();
    status
}
