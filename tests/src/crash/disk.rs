//! A run directory that is full or read-only, a record that is damaged, a clock that jumps.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use manx_ipam::{Recovered, recover};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;
use sha1::{Digest as _, Sha1};

use super::call::Outcome;
use super::check;
use super::tally::{Tally, chosen, wanted};
use super::world::{Pod, World};
use crate::lab::wait;

/// How long an agent may take to find out that there is room again.
const HEALED: Duration = Duration::from_secs(15);

/// A case on a world with two living pods besides the bystander.
type Case = fn(&mut World, &mut [Pod; 2]) -> Result<()>;

const CASES: [(&str, Case); 8] = [
    ("a full run directory refuses ADD, lets DEL go on, and heals when there is room", full),
    ("an agent starts on a full run directory, refuses ADD, and heals when there is room", full_at_start),
    (
        "a full run directory without an agent: DEL fails cleanly or leaves a whole tombstone",
        full_without_agent,
    ),
    ("a read-only run directory without an agent: DEL asks to be repeated", read_only_without_agent),
    ("an agent does not start on a read-only run directory, and says why", read_only_at_start),
    ("a record that is gone is made anew from the kernel", record_gone),
    ("the wall clock was a year behind when the record was written", clock_behind),
    ("the wall clock was a year ahead when the record was written", clock_ahead),
];

/// Tries all cases of storage and clock.
pub fn storage(class: &'static str) -> Result<()> {
    let mut tally = Tally { points: CASES.len(), ..Tally::default() };
    for (label, case) in CASES {
        if !wanted(label) {
            continue;
        }
        tally.tried += 1;
        let mut world = small_world()?;
        if let Err(error) = with_pods(&mut world, case) {
            tally.fail(label, &error.context(world.last_words()));
        }
        tally.met += 1;
        let _ = umount2(&world.run_dir, MntFlags::MNT_DETACH);
    }
    tally.close(class)
}

/// A world whose run directory is a file system of its own, of 64 KiB.
fn small_world() -> Result<World> {
    let mut world = World::new("disk")?;
    world.kill_agent()?;
    let mut bystanders = std::mem::take(&mut world.bystanders);
    for pod in &mut bystanders {
        world.del(pod)?;
        world.drop_sandbox(pod)?;
    }
    mount(Some("tmpfs"), &world.run_dir, Some("tmpfs"), MsFlags::empty(), Some("size=64k"))?;
    world.start_agent()?;
    let mut bystander = world.pod()?;
    world.add(&mut bystander)?;
    world.bystanders.push(bystander);
    Ok(world)
}

fn with_pods(world: &mut World, case: Case) -> Result<()> {
    let mut pods = [world.pod()?, world.pod()?];
    for pod in &mut pods {
        world.add(pod)?;
    }
    case(world, &mut pods)?;
    for pod in &mut pods {
        world.del(pod)?;
    }
    check::settled(world, &[], &pods.each_ref())?;
    check::agent_is_even(world, &[])
}

/// Takes all the room that is left, to the last octet.
fn fill(world: &World) -> Result<()> {
    let path = world.run_dir.join("ballast");
    let mut size = 64 << 10;
    let mut ballast = Vec::new();
    while size > 0 {
        ballast.resize(ballast.len() + size, b'x');
        if fs::write(&path, &ballast).is_err() {
            ballast.truncate(ballast.len() - size);
            size /= 2;
        }
    }
    Ok(())
}

fn make_room(world: &World) -> Result<()> {
    fs::remove_file(world.run_dir.join("ballast")).context("removing the ballast")
}

/// Calls ADD for new pods until one is refused; those that were taken are ended again afterwards.
fn until_refused(world: &World) -> Result<(Vec<Pod>, Pod, String)> {
    let mut taken = Vec::new();
    for _ in 0..64 {
        let mut pod = world.pod()?;
        match world.call("ADD", &pod, Value::Null)? {
            Outcome::Done(result) => {
                pod.result = Some(result);
                taken.push(pod);
            }
            Outcome::Refused(code, words) => {
                ensure!(code == 11, "ADD is refused with code {code}: {words}");
                return Ok((taken, pod, words));
            }
            other => bail!("ADD ends wrongly: {other:?}"),
        }
    }
    bail!("64 pods start although there is no room for their record")
}

fn full(world: &mut World, pods: &mut [Pod; 2]) -> Result<()> {
    fill(world)?;
    let (mut taken, mut refused, words) = until_refused(world)?;
    ensure!(words.contains("full"), "the reason does not say what is full: {words}");
    world.del(&mut pods[0]).context("DEL with a full run directory")?;
    world.del(&mut refused).context("DEL of what was refused")?;
    make_room(world)?;
    repaired(world, &mut refused)?;
    finish(world, pods, &mut taken, &mut refused)
}

/// What was refused is given now, without a restart.
fn repaired(world: &World, pod: &mut Pod) -> Result<()> {
    wait::until("what was refused is given", HEALED, || world.add(pod).map(|()| true))
}

/// The agent restarts on what it has on record, and everybody lives who should.
fn finish(world: &mut World, pods: &mut [Pod; 2], taken: &mut [Pod], refused: &mut Pod) -> Result<()> {
    for again in [false, true] {
        if again {
            world.restart_agent()?;
        }
        let mut living: Vec<&Pod> =
            taken.iter().chain(pods.iter()).filter(|pod| pod.result.is_some()).collect();
        living.push(refused);
        check::settled(world, &living, &[]).with_context(|| format!("restarted: {again}"))?;
    }
    for pod in taken.iter_mut().chain([refused]) {
        world.del(pod)?;
        world.drop_sandbox(pod)?;
    }
    Ok(())
}

fn full_at_start(world: &mut World, pods: &mut [Pod; 2]) -> Result<()> {
    world.kill_agent()?;
    fill(world)?;
    world.start_unready().context("with a full run directory")?;
    let (mut taken, mut refused, _) = until_refused(world)?;
    world.del(&mut refused)?;
    make_room(world)?;
    repaired(world, &mut refused)?;
    finish(world, pods, &mut taken, &mut refused)
}

fn full_without_agent(world: &mut World, pods: &mut [Pod; 2]) -> Result<()> {
    world.kill_agent()?;
    fill(world)?;
    let first = world.call("DEL", &pods[0], Value::Null)?;
    ensure!(matches!(first, Outcome::Done(_) | Outcome::Refused(..)), "DEL ends wrongly: {first:?}");
    make_room(world)?;
    world.del(&mut pods[0])?;
    world.start_agent()?;
    let [dead, living] = pods;
    check::settled(world, &[living], &[dead])
}

fn remount(world: &World, flags: MsFlags) -> Result<()> {
    let flags = MsFlags::MS_REMOUNT | flags;
    mount(None::<&str>, &world.run_dir, None::<&str>, flags, None::<&str>).context("mounting anew")
}

/// Nobody can make a file system read-only under an agent that has files on it open: the agent is away.
fn read_only_without_agent(world: &mut World, pods: &mut [Pod; 2]) -> Result<()> {
    world.kill_agent()?;
    remount(world, MsFlags::MS_BIND | MsFlags::MS_RDONLY)?;
    let del = world.call("DEL", &pods[0], Value::Null)?;
    ensure!(matches!(del, Outcome::Refused(11, _)), "DEL that can leave no tombstone: {del:?}");
    remount(world, MsFlags::MS_BIND)?;
    world.del(&mut pods[0])?;
    world.start_agent()?;
    let [dead, living] = pods;
    check::settled(world, &[living], &[dead])
}

fn read_only_at_start(world: &mut World, pods: &mut [Pod; 2]) -> Result<()> {
    world.kill_agent()?;
    remount(world, MsFlags::MS_BIND | MsFlags::MS_RDONLY)?;
    let Err(error) = world.start_agent() else { bail!("the agent starts although it can record nothing") };
    let words = format!("{error:#}");
    ensure!(words.contains("Read-only file system"), "it does not say why: {words}");
    let outcome = world.call("ADD", &pods[0], Value::Null)?;
    ensure!(matches!(outcome, Outcome::Refused(11, _)), "ADD without an agent: {outcome:?}");
    remount(world, MsFlags::MS_BIND)?;
    world.start_agent()?;
    check::settled(world, &pods.each_ref(), &[])
}

fn record_gone(world: &mut World, pods: &mut [Pod; 2]) -> Result<()> {
    world.kill_agent()?;
    fs::remove_file(world.run_dir.join("endpoints"))?;
    world.start_agent()?;
    check::settled(world, &pods.each_ref(), &[])
}

/// Seconds of a year.
const YEAR: i64 = 31_536_000;

fn clock_behind(world: &mut World, pods: &mut [Pod; 2]) -> Result<()> {
    clock(world, pods, YEAR)
}

fn clock_ahead(world: &mut World, pods: &mut [Pod; 2]) -> Result<()> {
    clock(world, pods, -YEAR)
}

/// The same as a clock that has jumped since: all times in the record lie this far in the past. Both living pods stay.
/// One that was just assigned, and whose plugin may be about to make its link, keeps its addresses too.
fn clock(world: &mut World, pods: &mut [Pod; 2], seconds: i64) -> Result<()> {
    let mut coming = world.pod()?;
    let inject = ["-e", "trace=sendto", "-e", "inject=sendto:signal=KILL:when=2"];
    let outcome = world.traced(&inject, &world.file("harm"), "ADD", &coming, Value::Null)?;
    ensure!(
        outcome == Outcome::Killed,
        "the plugin was to die with addresses and without a link: {outcome:?}"
    );
    world.kill_agent()?;
    let path = world.run_dir.join("endpoints");
    let record = fs::read(&path)?;
    let assigned = addresses_of(&recover(&record), &coming.container);
    ensure!(!assigned.is_empty(), "nothing was assigned");
    fs::write(&path, shifted(&record, seconds)?)?;
    world.start_agent()?;
    let now = addresses_of(&recover(&fs::read(&path)?), &coming.container);
    ensure!(now == assigned, "its plugin may be about to use {assigned:?}, the record has {now:?}");
    world.add(&mut coming)?;
    check::settled(world, &[&pods[0], &pods[1], &coming], &[])?;
    world.del(&mut coming)?;
    world.drop_sandbox(&mut coming)
}

fn addresses_of(recovered: &Recovered, container: &str) -> BTreeSet<IpAddr> {
    let own = recovered.endpoints.iter().filter(|endpoint| endpoint.id.container == container);
    own.flat_map(|endpoint| endpoint.addresses.clone()).collect()
}

/// The record with every wall-clock time moved into the past.
fn shifted(record: &[u8], seconds: i64) -> Result<String> {
    let mut text = String::new();
    for line in std::str::from_utf8(record)?.lines() {
        let Some((_, json)) = line.split_once(" {") else {
            text += &format!("{line}\n");
            continue;
        };
        let mut entry: Value = serde_json::from_str(&format!("{{{json}"))?;
        if let Some(since) = entry["assign"]["since"].as_i64() {
            entry["assign"]["since"] = (since - seconds).into();
        }
        text += &line_of(&entry.to_string());
    }
    Ok(text)
}

/// A line of the record: checksum and entry.
fn line_of(json: &str) -> String {
    let sum: String = Sha1::digest(json).iter().take(4).map(|octet| format!("{octet:02x}")).collect();
    format!("{sum} {json}\n")
}

/// Starts the agent on records that were cut or changed anywhere: whoever lives keeps address and record.
pub fn damaged(class: &'static str, share: usize) -> Result<()> {
    let mut world = World::new("torn")?;
    let mut pods = [world.pod()?, world.pod()?];
    for pod in &mut pods {
        world.add(pod)?;
    }
    let mut ended = world.pod()?;
    world.add(&mut ended)?;
    world.del(&mut ended)?;
    world.drop_sandbox(&mut ended)?;
    check::settled(&world, &pods.each_ref(), &[])?;
    let path = world.run_dir.join("endpoints");
    let record = fs::read(&path)?;
    let mut tally = Tally { points: record.len(), ..Tally::default() };
    let grid = (0..record.len()).flat_map(|at| [(at, false), (at, true)]);
    for (at, flip) in chosen(grid.collect(), share) {
        tally.tried += 1;
        tally.met += 1;
        let bytes = harmed(&record, at, flip);
        if let Err(error) = on_record(&mut world, &path, &bytes, &pods)
            && tally.fail(&format!("octet {at}, changed: {flip}, cut: {}", !flip), &error)
        {
            break;
        }
    }
    tally.close(class)
}

fn harmed(record: &[u8], at: usize, flip: bool) -> Vec<u8> {
    let mut bytes = record.to_vec();
    if flip {
        bytes[at] ^= 1 << (at % 8);
    } else {
        bytes.truncate(at);
    }
    bytes
}

/// Starts an agent on this record; the runtime's GC comes next, since a lost line may bring an ended pod back.
fn on_record(world: &mut World, path: &Path, bytes: &[u8], pods: &[Pod; 2]) -> Result<()> {
    world.kill_agent()?;
    fs::write(path, bytes)?;
    world.start_agent()?;
    let kept: Vec<&Pod> = world.bystanders.iter().chain(pods).collect();
    world.gc(&kept)?;
    check::settled(world, &pods.each_ref(), &[])
}
