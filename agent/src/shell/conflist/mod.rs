//! The owner of the conflist: it is written once this node can take pods, and kept from then on.
//!
//! A container runtime that finds no conflist says that its node is not ready, and one that finds ours calls the
//! plugin. It stays when the agent ends: an upgrade makes no node unready. What others append to it stays as well.

mod keeper;
mod template;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::objects::follow::Watcher;
use super::options::Options;
use super::owner::NodeReport;
use crate::node::serving::{Hindrance, Serving};
use crate::shell::wake::sleep_until;
use keeper::Keeper;

/// How often everything is looked at, whether there was a notice or not.
const LOOK: Duration = Duration::from_secs(60);

/// Where everything is.
#[derive(Debug, Clone)]
pub struct Places {
    /// The directory where the container runtime looks for configurations.
    pub conf_dir: PathBuf,
    /// The template.
    pub template: PathBuf,
    /// The directory where it looks for plugins.
    pub bin_dir: PathBuf,
}

impl Places {
    /// The places, if a conflist is to be kept.
    pub fn of(options: &Options) -> Option<Self> {
        let conf_dir = options.cni_conf_dir.clone()?;
        Some(Self { conf_dir, template: options.conflist.clone(), bin_dir: options.cni_bin_dir.clone() })
    }
}

/// What is known of the conflist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConflistReport {
    /// One is to be kept.
    pub wanted: bool,
    /// It is as it should be.
    pub in_place: bool,
    /// Why not, if that is an error.
    pub error: Option<String>,
    /// The plugins of the template that the node does not have.
    pub missing: Vec<String>,
    /// The configurations that the container runtime takes in place of ours.
    pub before: Vec<String>,
    /// What is wrong, with what to do about it.
    pub complaints: Vec<String>,
    /// Times that it was put back after somebody had removed or changed it.
    pub restored_total: u64,
}

/// Keeps the conflist for as long as the process lives, and says to `serving` whether this node can take pods.
pub async fn run(
    places: Option<Places>,
    mut node: watch::Receiver<Arc<NodeReport>>,
    report: watch::Sender<Arc<ConflistReport>>,
    serving: watch::Sender<Serving>,
) {
    let mut followers = places
        .as_ref()
        .map(|places| [&places.conf_dir, &places.bin_dir].map(|dir| Watcher::new(dir.clone())));
    let mut keeper = places.map(Keeper::new);
    loop {
        let told = node.borrow_and_update().serving.clone();
        let mut due = None;
        let mut answer = told.clone();
        if let Some(keeper) = &mut keeper {
            due = keeper.look(told == Serving::Yes, Instant::now());
            answer = judge(&told, keeper.known());
            tell(&report, &Arc::new(keeper.known().clone()));
        }
        tell(&serving, &answer);
        let changed = node.wait_for(|node| node.serving != told);
        match &mut followers {
            Some([configurations, plugins]) => tokio::select! {
                Ok(_) = changed => {}
                () = configurations.changed(LOOK) => {}
                () = plugins.changed(LOOK) => {}
                () = sleep_until(due) => {}
            },
            None if changed.await.is_err() => return,
            None => {}
        }
    }
}

/// A node whose runtime does not know us can take no pods either.
fn judge(told: &Serving, known: &ConflistReport) -> Serving {
    match (told, &known.error) {
        (Serving::Yes, Some(error)) if !known.in_place => Serving::No(Hindrance::NoConflist(error.clone())),
        (Serving::Yes, None) if !known.in_place => Serving::Starting,
        (told, _) => told.clone(),
    }
}

fn tell<T: PartialEq + Clone>(to: &watch::Sender<T>, what: &T) {
    to.send_if_modified(|told| {
        let news = told != what;
        if news {
            told.clone_from(what);
        }
        news
    });
}
