//! Interoperability: every feature of our speaker against every daemon of [`crate::peers`], played for real.
//!
//! A cell of the matrix is one feature with one daemon. Each is played on a stage of its own, a few at a time, and
//! ends in an [`Outcome`]. A cell looks at what the feature is for (routes that stay, attributes that arrive, a session
//! that is refused), never only at a capability that both name.

mod features;
mod stage;
mod subject;
mod table;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Context, Result};

use crate::lab::netns;
use crate::peers::Daemon;
pub use features::{FEATURES, Feature};
use stage::Stage;
pub use table::{document, is_current, print};

/// What became of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It works; a note where there is something to know about the daemon.
    Yes(&'static str),
    /// The daemon cannot do it, and why.
    Cannot(&'static str),
    /// Ours is not there yet, in the agent's own words.
    Missing(String),
    /// It does not work.
    Failed(String),
}

/// The agent said that it does not know, or cannot do, what it was told.
#[derive(Debug)]
pub struct NotThere(pub String);

impl fmt::Display for NotThere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not there yet: {}", self.0)
    }
}

impl std::error::Error for NotThere {}

/// The outcomes by feature and daemon.
pub type Matrix = BTreeMap<(&'static str, Daemon), Outcome>;

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Cells whose `FEATURE/DAEMON` contains one of these; all when empty.
    pub filters: Vec<String>,
    /// Cells played at the same time.
    pub at_once: usize,
    /// The agent's program.
    pub program: PathBuf,
}

impl Plan {
    fn wants(&self, feature: &Feature, daemon: Daemon) -> bool {
        let name = format!("{}/{}", feature.key, daemon.slug());
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str()))
    }
}

/// Plays all cells of the plan and tells of each as it ends.
///
/// # Errors
/// When what earlier runs left cannot be removed.
pub fn run(plan: &Plan) -> Result<Matrix> {
    remove_leftovers()?;
    let cells = FEATURES.iter().flat_map(|feature| Daemon::ALL.map(|daemon| (feature, daemon)));
    let cells: VecDeque<_> = cells.filter(|(feature, daemon)| plan.wants(feature, *daemon)).collect();
    let cells = Mutex::new(cells);
    let matrix = Mutex::new(Matrix::new());
    std::thread::scope(|scope| {
        for _ in 0..plan.at_once.max(1) {
            scope.spawn(|| {
                loop {
                    let Some((feature, daemon)) = lock(&cells).pop_front() else { break };
                    let start = std::time::Instant::now();
                    let outcome = play(plan, feature, daemon);
                    table::tell(feature, daemon, &outcome, start.elapsed());
                    lock(&matrix).insert((feature.key, daemon), outcome);
                }
            });
        }
    });
    matrix.into_inner().map_err(|_| anyhow::anyhow!("a cell panicked"))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn play(plan: &Plan, feature: &Feature, daemon: Daemon) -> Outcome {
    if let Some(why) = (feature.cannot)(daemon) {
        return Outcome::Cannot(why);
    }
    let played = Stage::new(&plan.program, daemon).and_then(|stage| {
        (feature.play)(&stage).map_err(|error| {
            if error.downcast_ref::<NotThere>().is_some() { error } else { error.context(stage.logs()) }
        })
    });
    match played {
        Ok(note) => Outcome::Yes(note),
        Err(error) => match error.downcast_ref::<NotThere>() {
            Some(NotThere(words)) => Outcome::Missing(words.clone()),
            None => Outcome::Failed(format!("{error:#}")),
        },
    }
}

/// Ends what a run left that was killed: its namespaces carry the number of its process.
fn remove_leftovers() -> Result<()> {
    for name in netns::list(stage::PREFIX) {
        let number: String = name[stage::PREFIX.len()..].chars().take_while(char::is_ascii_digit).collect();
        if !std::path::Path::new("/proc").join(number).exists() {
            netns::delete(&name)?;
        }
    }
    Ok(())
}

/// Ends everything of this run at once, for a handler of Ctrl-C.
///
/// # Errors
/// When a namespace cannot be removed.
pub fn remove_own() -> Result<()> {
    for name in netns::list(&format!("{}{}-", stage::PREFIX, std::process::id())) {
        netns::delete(&name).with_context(|| name.clone())?;
    }
    Ok(())
}
