//! One run from beginning to end.

use std::time::Duration;

use crate::check::Violation;
use crate::plan::Plan;
use crate::world::{Figures, World, secs};

/// How long after the last fault everything must be right.
const CALM: Duration = secs(480);

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The invariant that did not hold, if one did not.
    pub violation: Option<Violation>,
    /// One number for everything that happened.
    pub hash: u64,
    /// Lines of the log.
    pub lines: u64,
    /// Steps of the scheduler.
    pub steps: u64,
    /// What was counted.
    pub figures: Figures,
    /// The last lines of the log, or all of them.
    pub log: Vec<String>,
}

/// Runs a plan; with `whole_log` the outcome has every line.
pub fn run(plan: &Plan, whole_log: bool) -> Outcome {
    let mut world = World::new(plan, whole_log);
    let last = plan.acts.last().map_or(secs(10), |(at, _)| *at);
    world.run_until(world.start + last + secs(1));
    world.heal();
    world.run_until(world.now + CALM);
    if world.broken.is_none() {
        world.check_calm();
    }
    world.figures.requests = world.api.requests;
    Outcome {
        violation: world.broken,
        hash: world.log.hash(),
        lines: world.log.count(),
        steps: world.steps,
        figures: world.figures,
        log: world.log.into_lines(),
    }
}
