//! The agent without an API server: the objects are files in a directory.
//!
//! Everything else is as ever: the same [`Cluster`](crate::node::cluster::Cluster), the same intent, the same owners. Blocks are those that the
//! files name; none is claimed and none is given back. What the agent would write to its NodeNetwork stands in a file.

pub(in crate::shell) mod follow;
mod own;
mod read;
mod status;
mod yaml;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use manx_ipam::{BlockId, ClaimError, NodeName};
use tokio::sync::{mpsc, watch};

pub use read::Complaint;
pub(crate) use read::Files;
pub use status::run as write_status;

use super::deltas;
use super::kube::blocks::{Order, Outcome};
use super::kube::pod_events::PodEvent;
use super::kube::watch::{Blocks, Outlets};
use crate::node::intent::Problem;
use follow::Watcher;

/// How often files are looked at though nothing says that they changed: a link may lead to another directory.
const LOOK: Duration = Duration::from_secs(5);

/// What is wrong with the files, in their order.
pub type Complaints = Arc<BTreeSet<Complaint>>;

/// What the owner of the files works with.
pub struct Wires {
    /// Claims and releases that the node wishes for.
    pub orders: deltas::Receiver<BlockId, Order>,
    /// What became of them, one for each.
    pub outcomes: deltas::Sender<BlockId, Outcome>,
    /// Where the owners of all blocks are published.
    pub published: watch::Sender<Option<Blocks>>,
    /// What is to be told about pods.
    pub pod_events: mpsc::Receiver<PodEvent>,
    /// Where the cluster and what is made of it are published.
    pub outlets: Outlets,
    /// Where it is told what is wrong with the files.
    pub complaints: watch::Sender<Complaints>,
}

/// Follows the files of a directory for as long as the process lives.
pub async fn run(directory: PathBuf, me: NodeName, mut wires: Wires) {
    let mut watcher = Watcher::new(directory.clone());
    let mut owner = Owner { files: Files::new(directory), me, node: None };
    owner.files.refresh();
    owner.publish(&mut wires);
    loop {
        tokio::select! {
            () = watcher.changed(LOOK) => {
                if owner.files.refresh() || owner.machine_changed() {
                    owner.publish(&mut wires);
                }
            }
            Some(batch) = wires.orders.recv(16) => {
                for (block, order) in batch {
                    wires.outcomes.send(block, owner.answer(block, &order, &wires));
                }
            }
            Some(event) = wires.pod_events.recv() => {
                tracing::warn!(namespace = event.pod.namespace, pod = event.pod.name, note = event.note, "a pod cannot start");
            }
        }
    }
}

struct Owner {
    files: Files,
    me: NodeName,
    /// The machine's addresses when they were last used.
    node: Option<Vec<own::Found>>,
}

impl Owner {
    fn machine_changed(&self) -> bool {
        self.node.as_ref().is_some_and(|used| *used != own::addresses())
    }

    fn publish(&mut self, wires: &mut Wires) {
        let mut said = self.files.say();
        let network = said.cluster.networks.get(self.me.as_str()).cloned();
        self.node = network.is_none().then(own::addresses);
        let machine = self.node.as_deref().unwrap_or_default();
        let (node, unclear) = own::node(network.as_deref(), &self.me, machine);
        said.cluster.closed = true;
        said.cluster.node = node.map(Arc::new);
        let mut problems: BTreeSet<Problem> =
            unclear.iter().map(|text| Problem::new("Machine", self.me.as_str(), text.as_str())).collect();
        problems.extend(said.complaints.iter().map(problem));
        tell_new(&wires.complaints.borrow(), &said.complaints);
        wires.complaints.send_replace(Arc::new(said.complaints));
        wires.published.send_replace(Some(Arc::clone(&said.cluster.blocks)));
        wires.outlets.publish(&said.cluster, &self.me, &problems);
    }

    /// A block is ours when a file says so, and only then.
    fn answer(&self, block: BlockId, order: &Order, wires: &Wires) -> Outcome {
        let ours = wires.published.borrow().as_ref().and_then(|blocks| blocks.get(&block).cloned());
        match order {
            Order::Claim { .. } if ours.as_ref() == Some(&self.me) => Outcome::Claimed(Ok(())),
            Order::Claim { pool } => {
                tracing::warn!(
                    pool,
                    "another block is needed and no file gives one: add an IPBlock of this pool with node: {}",
                    self.me
                );
                Outcome::Claimed(Err(ClaimError::Failed))
            }
            Order::Release => Outcome::Released(Err(ClaimError::Failed)),
        }
    }
}

fn problem(complaint: &Complaint) -> Problem {
    let mut at = match complaint.line {
        0 => String::new(),
        line => format!("line {line}: "),
    };
    if !complaint.field.is_empty() {
        at = format!("{at}{}: ", complaint.field);
    }
    Problem::new("File", &complaint.file, format!("{at}{}", complaint.text))
}

fn tell_new(before: &BTreeSet<Complaint>, now: &BTreeSet<Complaint>) {
    for complaint in now.difference(before) {
        tracing::error!(
            file = complaint.file,
            line = complaint.line,
            field = complaint.field,
            "{}",
            complaint.text
        );
    }
    if now.is_empty() && !before.is_empty() {
        tracing::info!("all files are in order again");
    }
}
