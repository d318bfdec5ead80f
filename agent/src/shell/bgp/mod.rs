//! The speaker's thread: one `manx_bgp::Speaker`, its sockets and its clock, on a runtime of its own, so
//! that a storm of updates cannot delay a pod.
//!
//! A panic inside the speaker ends that speaker and nothing else: the thread drops it with its
//! connections and starts a fresh one, which peers take for a graceful restart.

mod conn;
mod drive;
mod facts;
mod lag;
mod listeners;
mod neighbors;
mod options;
mod pages;
mod questions;
mod socket;
mod stations;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::FutureExt as _;
use manx_bgp::{OriginAttributes, Prefix};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use super::options::ListenAt;
use super::owner::NodeReport;
use crate::node::fib::Learned;
use crate::node::intent::BgpIntent;

pub use drive::Sessions;
pub use lag::{Asked, Lag};
pub use pages::{BgpPages, ROOT as PAGES, RoutesPart};
pub use questions::{Asker, Explained, NoAnswer, Part, Question, Questions, ToldTo, questions};

/// The way of best routes to the owner of the kernel's routes, some at a time. While it is full the speaker keeps what
/// there is to tell, and of each route only the newest state.
pub type LearnedSender = mpsc::Sender<Vec<Learned>>;
/// The other end of it.
pub type LearnedReceiver = mpsc::Receiver<Vec<Learned>>;

/// Makes the way.
pub fn learned() -> (LearnedSender, LearnedReceiver) {
    mpsc::channel(BATCHES)
}

/// Batches of routes on their way at once.
const BATCHES: usize = 4;

/// What the speaker's thread works with.
pub struct Links {
    /// The name of this node.
    pub name: String,
    /// Who we are and whom we peer with.
    pub intent: watch::Receiver<Option<Arc<BgpIntent>>>,
    /// What we announce.
    pub origins: watch::Receiver<Arc<BTreeMap<Prefix, OriginAttributes>>>,
    /// When that of it which this process claimed was asked for.
    pub asked: watch::Receiver<Arc<Asked>>,
    /// Which of that peers have heard of; for counting only.
    pub lag: Lag,
    /// Set when the pods of another network are taken over: peers that keep its routes are not to be told anything before
    /// all blocks are ours, or they would let go of the rest.
    pub ready: Option<watch::Receiver<Arc<NodeReport>>>,
    /// Where best routes go.
    pub learned: LearnedSender,
    /// Where the state of the sessions is published.
    pub sessions: watch::Sender<Arc<Sessions>>,
    /// Where connections are accepted, instead of where the intent says.
    pub listen: Vec<ListenAt>,
    /// What others ask.
    pub questions: Questions,
    /// Counters.
    pub metrics: Metrics,
    /// Ends the thread: sessions close without a NOTIFICATION.
    pub stop: CancellationToken,
}

/// Starts the thread. `restarting` tells peers that our forwarding state outlived our last process.
///
/// # Errors
/// When no thread or runtime can be made.
pub fn start(links: Links, restarting: bool) -> anyhow::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("making the speaker's runtime")?;
    std::thread::Builder::new()
        .name("bgp".to_owned())
        .spawn(move || runtime.block_on(supervise(links, restarting)))
        .context("starting the speaker's thread")
}

async fn supervise(mut links: Links, mut restarting: bool) {
    let mut pause = Duration::from_millis(250);
    loop {
        let run = AssertUnwindSafe(drive::run(&mut links, restarting)).catch_unwind().await;
        let panic = match run {
            Ok(()) if links.stop.is_cancelled() => return,
            Ok(()) => None,
            Err(panic) => Some(panic),
        };
        let _gone = links.learned.send(vec![Learned::Restarted]).await;
        restarting = true;
        let Some(panic) = panic else { continue };
        links.metrics.speaker_panics.inc();
        tracing::error!(panic = describe(&*panic), "the BGP speaker failed and is started again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(30));
    }
}

fn describe(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown")
}
