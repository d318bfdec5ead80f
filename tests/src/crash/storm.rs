//! Many calls at once, in an order drawn from a seed, while plugins and the agent are killed.
//!
//! A runtime keeps slots, each with a pod; workers call ADD, DEL and CHECK for them, some of the calls are killed after
//! a drawn time, and now and then the agent is. At each quiescent point the runtime does what a runtime does with what
//! it does not know the end of: DEL until that succeeds. Then the judge looks.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::call::Outcome;
use super::check;
use super::tally::{Tally, whole};
use super::world::{Pod, World};

/// A number in the environment that replays a storm.
const SEED: &str = "MANX_CRASH_SEED";
/// Calls of a storm, and those between two quiescent points.
const CALLS: usize = 1_000;
const ROUND: usize = 100;
const SLOTS: usize = 24;
const WORKERS: usize = 4;

/// Numbers from a seed: SplitMix64.
#[derive(Clone, Debug)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, share: u64) -> bool {
        self.below(share) == 0
    }
}

/// What the runtime knows of a slot.
#[derive(Clone, Debug)]
struct Slot {
    pod: Pod,
    /// A call for it failed or was killed: it may have anything.
    unclear: bool,
}

/// A thousand calls, or several thousand with several seeds.
pub fn storms(class: &'static str) -> Result<()> {
    let given = std::env::var(SEED).ok().and_then(|text| text.parse().ok());
    let seeds: Vec<u64> = match given {
        Some(seed) => vec![seed],
        None if whole() => (1..=5).collect(),
        None => vec![1],
    };
    let mut tally = Tally::default();
    for seed in seeds {
        let mut world = World::new("storm")?;
        if let Err(error) = storm(&mut world, seed, &mut tally) {
            let case = format!("{SEED}={seed} cargo xtask crash {class}");
            if tally.fail(&case, &error.context(world.last_words())) {
                break;
            }
        }
    }
    tally.close(class)
}

fn storm(world: &mut World, seed: u64, tally: &mut Tally) -> Result<()> {
    let mut dice = Dice(seed);
    let open = check::descriptors(world)?;
    let mut slots = Vec::new();
    for _ in 0..SLOTS {
        slots.push(Slot { pod: world.pod()?, unclear: false });
    }
    for round in 0..CALLS / ROUND {
        tally.points += 1;
        let slots = &mut slots;
        calls(world, slots, &mut dice, tally)?;
        quiet(world, slots, &mut dice).with_context(|| format!("after round {round}"))?;
    }
    for slot in &mut slots {
        world.del(&mut slot.pod)?;
        world.drop_sandbox(&mut slot.pod)?;
    }
    check::settled(world, &[], &[])?;
    check::agent_is_even(world, &[])?;
    check::descriptors_are_steady(world, open)
}

/// One round: workers take slots one after the other; the agent dies in the middle of two rounds of three.
fn calls(world: &mut World, slots: &mut [Slot], dice: &mut Dice, tally: &mut Tally) -> Result<()> {
    let next = AtomicUsize::new(0);
    let killing = !dice.one_in(3);
    let death = Duration::from_millis(20 + dice.below(400));
    let seeds: Vec<u64> = (0..WORKERS).map(|_| dice.next()).collect();
    let shared: Vec<Mutex<&mut Slot>> = slots.iter_mut().map(Mutex::new).collect();
    let agent = world.agent_pid()?;
    let outcomes = std::thread::scope(|scope| {
        let (world, shared, next) = (&*world, &shared, &next);
        let workers: Vec<_> = seeds
            .into_iter()
            .map(|seed| scope.spawn(move || work(world, shared, next, Dice(seed))))
            .collect();
        if killing {
            std::thread::sleep(death);
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(agent), nix::sys::signal::Signal::SIGKILL);
        }
        workers.into_iter().map(|worker| worker.join()).collect::<Vec<_>>()
    });
    for outcome in outcomes {
        let [succeeded, refused, killed] = outcome.ok().context("a worker panicked")??;
        tally.tried += succeeded + refused + killed;
        tally.succeeded += succeeded;
        tally.refused += refused;
        tally.met += killed;
    }
    if killing { world.restart_agent() } else { Ok(()) }
}

fn work(world: &World, slots: &[Mutex<&mut Slot>], next: &AtomicUsize, mut dice: Dice) -> Result<[usize; 3]> {
    let mut counts = [0; 3];
    while next.fetch_add(1, Ordering::Relaxed) < ROUND {
        let index = usize::try_from(dice.below(slots.len() as u64))?;
        // A runtime makes one call at a time for a pod; that two of them meet is tried elsewhere.
        let mut slot = slots[index].lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = one(world, &mut slot, &mut dice)?;
        match outcome {
            Outcome::Done(_) => counts[0] += 1,
            Outcome::Refused(..) => counts[1] += 1,
            Outcome::Killed => counts[2] += 1,
            Outcome::Dumb(words) => bail!("the plugin ended wrongly: {words}"),
        }
    }
    Ok(counts)
}

/// One call for a slot, killed after some time in one case of five.
fn one(world: &World, slot: &mut Slot, dice: &mut Dice) -> Result<Outcome> {
    let alive = slot.pod.result.is_some();
    let verb = match (slot.unclear, alive) {
        (true, _) => "DEL",
        (false, true) if dice.one_in(3) => "CHECK",
        (false, true) => "DEL",
        (false, false) => "ADD",
    };
    if verb == "ADD" && dice.one_in(2) {
        // Another sandbox of the same pod; what is left of the one before went with its namespace.
        let mut newer = world.sandbox_of(&slot.pod.name)?;
        std::mem::swap(&mut newer, &mut slot.pod);
        world.drop_sandbox(&mut newer)?;
    }
    let more = if verb == "CHECK" { json!({ "prevResult": slot.pod.result }) } else { Value::Null };
    let death = dice.one_in(5).then(|| Duration::from_micros(1 + dice.below(15_000)));
    let outcome = world.call_until(verb, &slot.pod, more, death)?;
    match (&outcome, verb) {
        (_, "CHECK") => {}
        (Outcome::Done(result), "ADD") => slot.pod.result = Some(result.clone()),
        // The sandbox of a call that came to no good end goes, and with it a link that was never finished.
        (Outcome::Done(_), _) if slot.unclear => {
            world.drop_sandbox(&mut slot.pod)?;
            *slot = Slot { pod: world.sandbox_of(&slot.pod.name)?, unclear: false };
        }
        (Outcome::Done(_), _) => slot.pod.result = None,
        _ => slot.unclear = true,
    }
    Ok(outcome)
}

/// The runtime ends what it does not know the state of; then all must be as it should.
fn quiet(world: &mut World, slots: &mut [Slot], dice: &mut Dice) -> Result<()> {
    for slot in slots.iter_mut().filter(|slot| slot.unclear) {
        if dice.one_in(2) {
            world.drop_sandbox(&mut slot.pod)?;
        }
        world.del(&mut slot.pod)?;
        world.drop_sandbox(&mut slot.pod)?;
        *slot = Slot { pod: world.sandbox_of(&slot.pod.name)?, unclear: false };
    }
    if !check::tombstones(world)?.is_empty() {
        world.restart_agent()?;
    }
    let (living, dead): (Vec<&Pod>, Vec<&Pod>) =
        slots.iter().map(|slot| &slot.pod).partition(|pod| pod.result.is_some());
    check::settled(world, &living, &dead)
}

/// Calls that meet, on a settled world that they leave settled.
type Meeting = fn(&World) -> Result<()>;

/// Calls of two runtimes, or of one that lost track, that meet.
pub fn pairs(class: &'static str, times: usize) -> Result<()> {
    let mut world = World::new("pair")?;
    let times = if whole() { times * 10 } else { times };
    let mut tally = Tally { points: 5, ..Tally::default() };
    let kinds: [(&str, Meeting); 5] = [
        ("DEL and at once ADD of one container", started_again),
        ("two ADDs of one container", two_adds),
        ("ADD and DEL of one container", add_and_del),
        ("two DELs of one container", two_dels),
        ("ADDs of two sandboxes of one pod", two_sandboxes),
    ];
    for index in 0..times {
        let (label, pair) = kinds[index % kinds.len()];
        tally.tried += 1;
        tally.met += 1;
        if let Err(error) = pair(&world) {
            if tally.fail(label, &error.context(world.last_words())) {
                break;
            }
            world = World::new("again")?;
        }
    }
    if let Err(error) = check::agent_is_even(&world, &[]) {
        tally.fail("at the end", &error);
    }
    tally.close(class)
}

/// Makes two calls at once.
fn both(world: &World, first: (&str, &Pod), second: (&str, &Pod)) -> Result<[Outcome; 2]> {
    std::thread::scope(|scope| {
        let [first, second] =
            [first, second].map(|(verb, pod)| scope.spawn(|| world.call(verb, pod, Value::Null)));
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Outcome>>| {
            thread.join().ok().context("a caller panicked")?
        };
        Ok([join(first)?, join(second)?])
    })
}

fn ended_cleanly(outcomes: &[Outcome]) -> Result<()> {
    for outcome in outcomes {
        ensure!(
            matches!(outcome, Outcome::Done(_) | Outcome::Refused(..)),
            "a call ended wrongly: {outcome:?}"
        );
    }
    Ok(())
}

fn end(world: &World, pod: &mut Pod) -> Result<()> {
    world.del(pod)?;
    check::settled(world, &[], &[pod])?;
    world.drop_sandbox(pod)
}

/// Whoever succeeds says the same, and one ADD more makes it whole.
fn two_adds(world: &World) -> Result<()> {
    let mut pod = world.pod()?;
    let outcomes = both(world, ("ADD", &pod), ("ADD", &pod))?;
    ended_cleanly(&outcomes)?;
    let results: Vec<&Value> = outcomes
        .iter()
        .filter_map(|outcome| if let Outcome::Done(result) = outcome { Some(result) } else { None })
        .collect();
    ensure!(results.windows(2).all(|pair| pair[0] == pair[1]), "two results: {results:?}");
    if results.len() == 2 {
        pod.result = Some(results[0].clone());
        check::settled(world, &[&pod], &[]).context("both have said that they are done")?;
    }
    world.add(&mut pod)?;
    check::settled(world, &[&pod], &[]).context("ADD was repeated")?;
    world.check_by_plugin(&pod)?;
    end(world, &mut pod)
}

/// A container that is restarted keeps its id.
fn started_again(world: &World) -> Result<()> {
    let mut pod = world.pod()?;
    for _ in 0..3 {
        world.add(&mut pod)?;
        world.del(&mut pod)?;
    }
    world.add(&mut pod)?;
    check::settled(world, &[&pod], &[])?;
    // The end of a former link comes some 20 ms after DEL.
    std::thread::sleep(Duration::from_millis(100));
    check::settled(world, &[&pod], &[]).context("later")?;
    world.check_by_plugin(&pod)?;
    end(world, &mut pod)
}

fn add_and_del(world: &World) -> Result<()> {
    let mut pod = world.pod()?;
    ended_cleanly(&both(world, ("ADD", &pod), ("DEL", &pod))?)?;
    // Which was first is not known; DEL comes last.
    end(world, &mut pod)
}

fn two_dels(world: &World) -> Result<()> {
    let mut pod = world.pod()?;
    world.add(&mut pod)?;
    for outcome in both(world, ("DEL", &pod), ("DEL", &pod))? {
        outcome.done()?;
    }
    check::settled(world, &[], &[&pod]).context("both have said that they are done")?;
    end(world, &mut pod)
}

fn two_sandboxes(world: &World) -> Result<()> {
    let first = world.pod()?;
    let mut pods = [world.sandbox_of(&first.name)?, first];
    let outcomes = both(world, ("ADD", &pods[0]), ("ADD", &pods[1]))?;
    ended_cleanly(&outcomes)?;
    let mut addresses = BTreeSet::new();
    for (pod, outcome) in pods.iter_mut().zip(outcomes) {
        if let Outcome::Done(result) = outcome {
            pod.result = Some(result);
            ensure!(
                pod.addresses().into_iter().all(|address| addresses.insert(address)),
                "one address twice"
            );
        }
    }
    // Only one of them can have the pod's link; the runtime keeps the second and starts it once more.
    let [first, second] = &mut pods;
    world.del(first)?;
    world.drop_sandbox(first)?;
    world.add(second)?;
    check::settled(world, &[second], &[]).context("the other sandbox is over")?;
    world.check_by_plugin(second)?;
    end(world, second)
}
