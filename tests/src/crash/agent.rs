//! The agent killed and hindered at the system calls of its side of ADD and DEL, and of its start.
//!
//! `strace` is attached to one thread of a running agent, and counts from there: what that thread does for the next
//! call of the plugin is harmed at one point. Then the agent starts again, if it died, and the runtime goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::call::{Harm, Outcome};
use super::check;
use super::plugin::{Next, follow};
use super::tally::{Tally, chosen, wanted};
use super::trace::{Point, points};
use super::world::{Pod, World};
use crate::lab::wait;

/// What is made to go wrong besides death.
const ERRORS: [&str; 7] = ["EINTR", "ENOBUFS", "ENOSPC", "EBUSY", "EMFILE", "ENOMEM", "EIO"];
/// Waiting changes nothing, so that dying there is dying at the next call.
const IDLE: [&str; 12] = [
    "epoll_wait",
    "futex",
    "restart_syscall",
    "nanosleep",
    "clock_nanosleep",
    "madvise",
    "mprotect",
    "mmap",
    "munmap",
    "brk",
    "sched_yield",
    "fcntl",
];
/// Calls that cannot fail, or whose failure by injection would itself be the leak.
const INFALLIBLE: [&str; 5] = ["close", "geteuid", "getpid", "gettid", "sched_getaffinity"];
/// How long an agent may take to find out that its record can be written.
const HEALED: Duration = Duration::from_secs(15);
/// How long the last thread may take to do its part after the plugin has its answer.
const AFTERMATH: Duration = Duration::from_millis(400);

/// Lets one system call after the other of the agent's threads fail or kill it while the plugin calls `verb`.
pub fn harmed(class: &'static str, verb: &'static str, errors: bool, share: usize) -> Result<()> {
    let mut world = World::new("agent")?;
    let mut spots = undisturbed(&world, verb)?;
    if errors {
        spots.retain(|(_, point)| can_fail(point));
    }
    let harms: Vec<Harm> = if errors { ERRORS.map(Harm::Fail).into() } else { vec![Harm::Kill] };
    let mut tally = Tally { points: spots.len(), ..Tally::default() };
    let spots = spots.into_iter().enumerate();
    let grid = spots.flat_map(|(index, spot)| harms.iter().map(move |harm| (index, spot.clone(), *harm)));
    for (index, (thread, point), harm) in chosen(grid.collect(), share) {
        let next = Next::ALL[index % Next::ALL.len()];
        let label = format!("{verb}, thread {thread}, {harm:?} at {}, then {next:?}", point.label());
        if !wanted(&label) {
            continue;
        }
        if let Err(error) = case(&mut world, verb, (&thread, &point, harm), next, &mut tally) {
            if tally.fail(&label, &error.context(world.last_words())) {
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

fn can_fail(point: &Point) -> bool {
    let wakes = point.name == "write" && point.rest.contains("eventfd");
    !wakes && !INFALLIBLE.contains(&&*point.name)
}

/// The points of each thread while nothing disturbs the agent, with the thread's name.
fn undisturbed(world: &World, verb: &str) -> Result<Vec<(String, Point)>> {
    let mut pod = before(world, verb)?;
    let file = world.file("agent.trace");
    let threads = threads(world)?;
    let strace = Strace::attach(world.agent_pid()?, &["-f", "-y"], &file)?;
    let result = world.call(verb, &pod, Value::Null)?.done()?;
    pod.result = (verb == "ADD").then_some(result);
    let living: Vec<&Pod> = if verb == "ADD" { vec![&pod] } else { Vec::new() };
    check::settled(world, &living, &[])?;
    std::thread::sleep(AFTERMATH);
    strace.detach()?;
    end(world, &mut pod)?;
    let name = |thread: Option<i32>| threads.iter().find(|(id, _)| Some(*id) == thread).map(|(_, name)| name);
    let all = points(&fs::read_to_string(file)?).into_iter();
    let mut spots: Vec<_> = all
        // Whoever waits for files to change is interrupted by being watched.
        .filter(|point| !IDLE.contains(&&*point.name) && !point.rest.contains("inotify"))
        .filter_map(|point| Some((name(point.thread)?.clone(), point)))
        .collect();
    ensure!(spots.len() >= 20, "strace shows only {} system calls of the agent", spots.len());
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (_, point) in spots.iter_mut().filter(|(_, point)| is_of_record(point)) {
        point.nth = *counts.entry(point.name.clone()).and_modify(|count| *count += 1).or_insert(1);
    }
    Ok(spots)
}

/// Whether the call concerns the record; such ones are counted apart from others of their name, so that none is
/// taken for another.
fn is_of_record(point: &Point) -> bool {
    point.rest.contains("/endpoints>")
}

fn before(world: &World, verb: &str) -> Result<Pod> {
    let mut pod = world.pod()?;
    if verb == "DEL" {
        world.add(&mut pod)?;
        check::settled(world, &[&pod], &[])?;
    }
    Ok(pod)
}

fn end(world: &World, pod: &mut Pod) -> Result<()> {
    world.del(pod)?;
    world.drop_sandbox(pod)?;
    check::settled(world, &[], &[])
}

/// The threads of the agent and their names.
fn threads(world: &World) -> Result<Vec<(i32, String)>> {
    let tasks = format!("/proc/{}/task", world.agent_pid()?);
    let mut threads = Vec::new();
    for entry in fs::read_dir(tasks)? {
        let path = entry?.path();
        let id =
            path.file_name().and_then(|name| name.to_str()?.parse().ok()).context("a thread's number")?;
        threads.push((id, fs::read_to_string(path.join("comm"))?.trim().to_owned()));
    }
    Ok(threads)
}

/// One case, from a settled world to a settled world.
fn case(
    world: &mut World,
    verb: &str,
    (thread, point, harm): (&str, &Point, Harm),
    next: Next,
    tally: &mut Tally,
) -> Result<()> {
    let mut pod = before(world, verb)?;
    let threads = threads(world)?;
    let (id, _) =
        threads.iter().find(|(_, name)| name == thread).with_context(|| format!("no thread {thread}"))?;
    let file = world.file("agent.harm");
    let only = format!("trace={}", point.name);
    let injection = harm.injection(point);
    let mut options = vec!["-e", &only, "-e", &injection];
    let record = world.run_dir.join("endpoints").to_string_lossy().into_owned();
    if is_of_record(point) {
        options.extend(["-P", &record]);
    }
    let strace = Strace::attach(*id, &options, &file)?;
    let outcome = world.call(verb, &pod, Value::Null)?;
    tally.tried += 1;
    tally.refused += usize::from(matches!(outcome, Outcome::Refused(..)));
    tally.succeeded += usize::from(matches!(outcome, Outcome::Done(_)));
    let met = aftermath(world, harm, strace, &file)?;
    tally.met += usize::from(met);
    let went_on = goes_on(world, verb, &mut pod, &outcome, harm, next);
    went_on.with_context(|| format!("met: {met}; the plugin ended with {outcome:?}"))
}

/// Lets the threads finish what the call began. An agent that was to die and did not meet its point is killed now.
fn aftermath(world: &mut World, harm: Harm, strace: Strace, file: &Path) -> Result<bool> {
    let end = Instant::now() + AFTERMATH;
    let injected = || fs::read_to_string(file).is_ok_and(|text| text.contains("(INJECTED)"));
    let mut met = false;
    while !met && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
        met = if harm == Harm::Kill { world.agent_has_ended() } else { injected() };
    }
    strace.detach()?;
    match harm {
        Harm::Kill => world.kill_agent()?,
        Harm::Fail(_) => ensure!(!world.agent_has_ended(), "the agent ended: {}", world.last_words()),
    }
    Ok(met)
}

/// What agent and runtime do next, up to a world without the pod.
fn goes_on(
    world: &mut World,
    verb: &str,
    pod: &mut Pod,
    outcome: &Outcome,
    harm: Harm,
    next: Next,
) -> Result<()> {
    let dead = harm == Harm::Kill;
    match (outcome, verb) {
        (Outcome::Done(result), "ADD") => {
            pod.result = Some(result.clone());
            if dead {
                world.start_agent()?;
            }
            check::settled(world, &[pod], &[]).context("ADD has said that it is done")?;
            world.check_by_plugin(pod)?;
        }
        (Outcome::Done(_), _) => {
            if dead {
                world.start_agent()?;
            } else {
                bury(world)?;
            }
            check::settled(world, &[], &[pod]).context("DEL has said that it is done")?;
        }
        (Outcome::Refused(..), _) if dead => away(world, pod, next)?,
        (Outcome::Refused(..), _) => writes_again(world)?,
        (other, _) => bail!("the plugin ended wrongly: {other:?}"),
    }
    follow(world, verb, pod, next)
}

/// An agent that could not write its record gives no address until it has written it anew.
fn writes_again(world: &World) -> Result<()> {
    let mut probe = world.pod()?;
    wait::until("pods start again", HEALED, || world.add(&mut probe).map(|()| true))?;
    world.del(&mut probe)?;
    world.drop_sandbox(&mut probe)
}

/// The agent is dead. With some continuations the runtime is faster than the next agent, and has to be content.
fn away(world: &mut World, pod: &mut Pod, next: Next) -> Result<()> {
    if next == Next::Del {
        world.del(pod).context("while the agent is away")?;
        world.start_agent()?;
        return check::settled(world, &[], &[pod]).context("DEL while the agent was away");
    }
    world.start_agent()
}

/// A tombstone is found at once when an agent starts.
fn bury(world: &mut World) -> Result<()> {
    if check::tombstones(world)?.is_empty() { Ok(()) } else { world.restart_agent() }
}

/// Kills or hinders the agent at the system calls of its start, when there is something to put right.
pub fn starting(class: &'static str, errors: bool, share: usize) -> Result<()> {
    let mut world = World::new("start")?;
    let mut all = whole_start(&mut world)?;
    if errors {
        all.retain(can_fail);
    }
    let harms: Vec<Harm> = if errors { ERRORS.map(Harm::Fail).into() } else { vec![Harm::Kill] };
    let mut tally = Tally { points: all.len(), ..Tally::default() };
    let grid = all.into_iter().flat_map(|point| harms.iter().map(move |harm| (point.clone(), *harm)));
    for (point, harm) in chosen(grid.collect(), share) {
        let label = format!("start, {harm:?} at {}", point.label());
        if !wanted(&label) {
            continue;
        }
        if let Err(error) = start_case(&mut world, &point, harm, &mut tally) {
            if tally.fail(&label, &error.context(world.last_words())) {
                break;
            }
            world = World::new("again")?;
        }
    }
    tally.close(class)
}

/// The points of a start from its lock on, each name and number once: threads count for themselves.
fn whole_start(world: &mut World) -> Result<Vec<Point>> {
    let ended = unfinished_business(world)?;
    let file = world.file("start.trace");
    begin(world, &["-f", "-y", "-o", &file.to_string_lossy()])?;
    world.await_ready()?;
    tidy_up(world, ended)?;
    let trace = points(&fs::read_to_string(file)?);
    let from_lock = trace.into_iter().skip_while(|point| !point.rest.contains("agent.lock"));
    let mut seen = BTreeSet::new();
    let fresh = |point: &Point| !IDLE.contains(&&*point.name) && seen.insert((point.name.clone(), point.nth));
    let found: Vec<Point> = from_lock.filter(fresh).collect();
    ensure!(found.len() >= 50, "strace shows only {} system calls of a start", found.len());
    Ok(found)
}

/// Starts the agent under `strace` and does not wait.
fn begin(world: &mut World, options: &[&str]) -> Result<()> {
    let mut command = world.agent_command("strace")?;
    command.arg("-qq").args(options).arg(world.program("manx-agent"));
    world.agent_words(&mut command);
    world.adopt(command)
}

/// Leaves a node without an agent, and things to put right: a pod that ended meanwhile, one whose namespace is gone,
/// and one whose link was on its way out.
fn unfinished_business(world: &mut World) -> Result<[Pod; 3]> {
    let mut pods = [world.pod()?, world.pod()?, world.pod()?];
    for pod in &mut pods {
        world.add(pod)?;
    }
    let [buried, vanished, leaving] = &mut pods;
    let threads = threads(world)?;
    let (reaper, _) = threads.iter().find(|(_, name)| name == "reaper").context("no thread reaper")?;
    let inject = ["-e", "trace=sendto", "-e", "inject=sendto:signal=KILL:when=1"];
    let strace = Strace::attach(*reaper, &inject, &world.file("agent.harm"))?;
    world.del(leaving)?;
    strace.detach()?;
    world.kill_agent()?;
    world.del(buried)?;
    world.drop_sandbox(vanished)?;
    Ok(pods)
}

/// The runtime finds out what is left, and tells.
fn tidy_up(world: &mut World, mut pods: [Pod; 3]) -> Result<()> {
    world.gc(&world.bystanders.iter().collect::<Vec<_>>())?;
    check::settled(world, &[], &pods.each_ref())?;
    for pod in &mut pods {
        world.drop_sandbox(pod)?;
    }
    world.restart_agent()?;
    check::settled(world, &[], &[])
}

fn start_case(world: &mut World, point: &Point, harm: Harm, tally: &mut Tally) -> Result<()> {
    let pods = unfinished_business(world)?;
    let file = world.file("start.harm");
    let only = format!("trace={}", point.name);
    begin(world, &["-f", "-o", &file.to_string_lossy(), "-e", &only, "-e", &harm.injection(point)])?;
    let started = world.await_ready();
    tally.tried += 1;
    let trace = fs::read_to_string(&file).unwrap_or_default();
    tally.met += usize::from(match harm {
        Harm::Kill => trace.contains("killed by SIGKILL"),
        Harm::Fail(_) => trace.contains("(INJECTED)"),
    });
    match started {
        Ok(()) => tally.succeeded += 1,
        // An agent that cannot start says why; the kubelet starts it again.
        Err(_) => tally.refused += 1,
    }
    world.kill_agent()?;
    world.start_agent()?;
    tidy_up(world, pods)
}

/// A `strace` that is attached to a process or thread.
struct Strace(Child);

impl Strace {
    fn attach(target: i32, options: &[&str], file: &Path) -> Result<Self> {
        let _ = fs::remove_file(file);
        let mut command = Command::new("strace");
        command.args(["-qq", "-o"]).arg(file).args(options).args(["-p", &target.to_string()]);
        let mut strace = Self(command.spawn().context("strace does not start")?);
        let traced = |path: &Path| {
            let status = fs::read_to_string(path).unwrap_or_default();
            status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        };
        let end = Instant::now() + Duration::from_secs(10);
        let follows = options.contains(&"-f");
        loop {
            let own = Path::new("/proc").join(target.to_string());
            let tasks =
                fs::read_dir(own.join("task"))?.filter_map(|entry| Some(entry.ok()?.path().join("status")));
            if traced(&own.join("status")) && (!follows || tasks.into_iter().all(|path| traced(&path))) {
                return Ok(strace);
            }
            ensure!(strace.0.try_wait()?.is_none(), "strace ended");
            ensure!(Instant::now() < end, "strace does not attach");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn detach(mut self) -> Result<()> {
        // It may have ended with what it was attached to.
        let _ = kill(Pid::from_raw(i32::try_from(self.0.id())?), Signal::SIGINT);
        self.0.wait().map(drop).map_err(Into::into)
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
