//! The plugin killed at every system call of a call, and every system call made to fail, one at a time.
//!
//! Killed as a call begins is also killed as the one before it has ended: between two of them a process changes nothing
//! that anybody else sees. So every state that a dying plugin can leave behind is tried.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::call::{Harm, Outcome, judge, valid};
use super::check;
use super::tally::{Tally, chosen, wanted};
use super::trace::{Point, from_stdin, points};
use super::world::{Pod, World};

/// What is made to go wrong besides death.
pub const ERRORS: [&str; 6] = ["EINTR", "ENOBUFS", "ENOSPC", "EBUSY", "EMFILE", "ENOMEM"];

/// What the runtime does after a call that was done harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The same call again.
    Repeat,
    /// DEL.
    Del,
    /// DEL once the namespace is gone.
    DelWithoutNamespace,
    /// GC that names only the others.
    Gc,
    /// ADD of another sandbox of the same pod, and only then DEL of this one.
    NewSandbox,
}

impl Next {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Repeat, Self::Del, Self::DelWithoutNamespace, Self::Gc, Self::NewSandbox];
}

/// A point, what happens there, and what comes next.
type Case = (Point, Harm, Next);

/// Kills the plugin at every system call of `verb`, each with every continuation or some of them.
pub fn killed(class: &'static str, verb: &'static str, share: usize) -> Result<()> {
    let world = World::new("kill")?;
    let points = undisturbed(&world, verb)?;
    let count = points.len();
    let grid = points.into_iter().flat_map(|point| Next::ALL.map(|next| (point.clone(), Harm::Kill, next)));
    run(class, world, verb, count, chosen(grid.collect(), share))
}

/// Lets every system call of `verb` fail with every error, or some of them.
pub fn failing(class: &'static str, verb: &'static str, share: usize) -> Result<()> {
    let world = World::new("fail")?;
    let mut points = undisturbed(&world, verb)?;
    points.retain(|point| !point.name.starts_with("exit"));
    let count = points.len();
    let grid = points.into_iter().enumerate().flat_map(|(index, point)| {
        let next = if index % 2 == 0 { Next::Repeat } else { Next::Del };
        ERRORS.map(|error| (point.clone(), Harm::Fail(error), next))
    });
    run(class, world, verb, count, chosen(grid.collect(), share))
}

/// How many pods end during one absence of the agent.
const ABSENCE: usize = 16;

/// Harms DEL while no agent is there: the plugin removes the link by itself and leaves a tombstone.
pub fn alone(class: &'static str, errors: bool, share: usize) -> Result<()> {
    let mut world = World::new("alone")?;
    let mut pod = before(&world, "DEL")?;
    world.kill_agent()?;
    let trace = world.file("whole");
    world.traced(&[], &trace, "DEL", &pod, Value::Null)?.done()?;
    world.drop_sandbox(&mut pod)?;
    world.start_agent()?;
    let mut points = from_stdin(points(&std::fs::read_to_string(trace)?));
    let harms: Vec<Harm> = if errors { ERRORS.map(Harm::Fail).into() } else { vec![Harm::Kill] };
    if errors {
        points.retain(|point| !point.name.starts_with("exit"));
    }
    let mut tally = Tally { points: points.len(), ..Tally::default() };
    let grid = points.into_iter().flat_map(|point| harms.iter().map(move |harm| (point.clone(), *harm)));
    for cases in chosen(grid.collect(), share).chunks(ABSENCE) {
        let mut last = String::new();
        if let Err(error) = absence(&mut world, cases, &mut tally, &mut last) {
            if tally.fail(&last, &error.context(world.last_words())) {
                break;
            }
            world = World::new("again")?;
        }
    }
    tally.close(class)
}

/// Some pods end, each with harm, while the agent is away; then it comes back.
fn absence(world: &mut World, cases: &[(Point, Harm)], tally: &mut Tally, last: &mut String) -> Result<()> {
    let mut pods = Vec::new();
    for _ in cases {
        pods.push(before(world, "DEL")?);
    }
    world.kill_agent()?;
    for (index, ((point, harm), pod)) in cases.iter().zip(&mut pods).enumerate() {
        *last = format!("DEL without an agent, {harm:?} at {}", point.label());
        let (outcome, met) = world.harmed(*harm, point, "DEL", pod, Value::Null)?;
        tally.tried += 1;
        tally.met += usize::from(met);
        tally.refused += usize::from(matches!(outcome, Outcome::Refused(..)));
        tally.succeeded += usize::from(matches!(outcome, Outcome::Done(_)));
        judge(*harm, point, &outcome, met)?;
        if index % 2 == 1 {
            world.drop_sandbox(pod)?;
        }
        if !matches!(outcome, Outcome::Done(_)) {
            world.del(pod)?;
        }
    }
    world.start_agent()?;
    check::settled(world, &[], &pods.iter().collect::<Vec<_>>()).context("the agent is back")?;
    pods.iter_mut().try_for_each(|pod| world.drop_sandbox(pod))
}

/// The points of a call that nothing disturbs.
fn undisturbed(world: &World, verb: &str) -> Result<Vec<Point>> {
    let mut pod = before(world, verb)?;
    let trace = world.file("whole");
    let outcome = world.traced(&[], &trace, spoken(verb), &pod, config(world, verb, &pod))?;
    let result = outcome.done().with_context(|| format!("an undisturbed {verb}"))?;
    let found = from_stdin(points(&std::fs::read_to_string(trace)?));
    ensure!(found.len() >= 8, "strace shows only {} system calls of {verb}", found.len());
    pod.result = (verb == "ADD").then_some(result);
    world.del(&mut pod)?;
    world.drop_sandbox(&mut pod)?;
    check::settled(world, &[], &[])?;
    Ok(found)
}

/// The verb that the plugin gets: `AGAIN` is an ADD for a pod that lives already.
fn spoken(verb: &str) -> &str {
    if verb == "AGAIN" { "ADD" } else { verb }
}

/// A pod as `verb` wants it.
fn before(world: &World, verb: &str) -> Result<Pod> {
    let mut pod = world.pod()?;
    if verb != "ADD" {
        world.add(&mut pod)?;
    }
    Ok(pod)
}

/// The configuration that `verb` wants besides the usual.
fn config(world: &World, verb: &str, pod: &Pod) -> Value {
    match verb {
        "GC" => valid(&world.bystanders.iter().collect::<Vec<_>>()),
        "CHECK" => json!({ "prevResult": pod.result }),
        _ => Value::Null,
    }
}

fn run(class: &'static str, mut world: World, verb: &str, points: usize, cases: Vec<Case>) -> Result<()> {
    let mut tally = Tally { points, ..Tally::default() };
    let mut open = check::descriptors(&world)?;
    for (point, harm, next) in &cases {
        let label = format!("{verb}, {harm:?} at {}, then {next:?}", point.label());
        if !wanted(&label) {
            continue;
        }
        if let Err(error) = case(&mut world, verb, (point, *harm, *next), &mut tally) {
            if tally.fail(&label, &error.context(world.last_words())) {
                break;
            }
            world = World::new("again")?;
            open = check::descriptors(&world)?;
        }
    }
    let even = check::agent_is_even(&world, &[]).and_then(|()| check::descriptors_are_steady(&world, open));
    if let Err(error) = even {
        tally.fail("at the end", &error);
    }
    tally.close(class)
}

/// One case, from a settled world to a settled world.
fn case(
    world: &mut World,
    verb: &str,
    (point, harm, next): (&Point, Harm, Next),
    tally: &mut Tally,
) -> Result<()> {
    let mut pod = before(world, verb)?;
    let (outcome, met) = world.harmed(harm, point, spoken(verb), &pod, config(world, verb, &pod))?;
    tally.tried += 1;
    tally.met += usize::from(met);
    tally.refused += usize::from(matches!(outcome, Outcome::Refused(..)));
    tally.succeeded += usize::from(matches!(outcome, Outcome::Done(_)));
    judge(harm, point, &outcome, met)?;
    match (verb, &outcome) {
        ("CHECK" | "AGAIN", _) => check::settled(world, &[&pod], &[]).context("the pod lived before")?,
        // The runtime has been told that all is done, and comes never again.
        ("DEL", Outcome::Done(_)) => {
            bury(world)?;
            check::settled(world, &[], &[&pod]).context("DEL has said that it is done")?;
        }
        ("ADD", Outcome::Refused(..)) => {
            bury(world)?;
            check::settled(world, &[], &[&pod]).context("ADD has said that it did nothing")?;
        }
        _ => {}
    }
    follow(world, verb, &mut pod, next).with_context(|| format!("it ended with {outcome:?}"))
}

/// A plugin that did not get through to the agent has left a tombstone, which the agent finds within some seconds, and
/// at once when it starts.
fn bury(world: &mut World) -> Result<()> {
    match check::tombstones(world)?.is_empty() {
        true => Ok(()),
        false => world.restart_agent(),
    }
}

/// What the runtime does next, up to a world without the pod.
pub fn follow(world: &World, verb: &str, pod: &mut Pod, next: Next) -> Result<()> {
    match next {
        Next::Repeat => repeat(world, verb, pod)?,
        Next::Del => {
            world.del(pod)?;
            // A link that was never finished goes with the sandbox, which the runtime removes after DEL.
            world.drop_sandbox(pod)?;
        }
        Next::DelWithoutNamespace => {
            world.drop_sandbox(pod)?;
            world.del(pod)?;
        }
        Next::Gc => {
            world.gc(&world.bystanders.iter().collect::<Vec<_>>())?;
            world.drop_sandbox(pod)?;
        }
        Next::NewSandbox => new_sandbox(world, pod)?,
    }
    world.drop_sandbox(pod)?;
    check::settled(world, &[], &[]).context("at the end")
}

fn repeat(world: &World, verb: &str, pod: &mut Pod) -> Result<()> {
    match verb {
        "ADD" | "AGAIN" => {
            world.add(pod)?;
            check::settled(world, &[pod], &[]).context("ADD was repeated")?;
            world.check_by_plugin(pod)?;
            world.del(pod)?;
        }
        "GC" => world.gc(&world.bystanders.iter().collect::<Vec<_>>())?,
        "CHECK" => {
            world.check_by_plugin(pod)?;
            world.del(pod)?;
        }
        _ => world.del(pod)?,
    }
    check::settled(world, &[], &[pod]).context("the pod is dead")
}

fn new_sandbox(world: &World, pod: &mut Pod) -> Result<()> {
    let mut newer = world.sandbox_of(&pod.name)?;
    world.add(&mut newer)?;
    world.del(pod)?;
    world.drop_sandbox(pod)?;
    check::settled(world, &[&newer], &[]).context("a newer sandbox lives")?;
    world.check_by_plugin(&newer)?;
    world.del(&mut newer)?;
    check::settled(world, &[], &[&newer]).context("the newer sandbox is dead")?;
    world.drop_sandbox(&mut newer)
}
