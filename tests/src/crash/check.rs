//! The one judge of all cases: do the kernel's namespaces, the agent's record and the run directory say of the pods
//! that live what they should, and nothing of any other?
//!
//! It looks with `ip`, not with the code under test, at the node's namespace and at every sandbox' own. What is still
//! going on (links on their way out) is given a moment; what is wrong at its end is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use manx_ipam::recover;
use serde_json::Value;

use super::world::{ADDRESSES, BLOCKS, Pod, World};

/// How long what is going on may take: a link's end is some 20 ms, more on a busy machine.
const PATIENCE: Duration = Duration::from_secs(8);
/// What may lie in the run directory.
const FILES: [&str; 6] =
    ["agent.lock", "agent.sock", "endpoints", "settings.json", "status.yaml", "tombstones"];

/// What `ip` says of one namespace.
#[derive(Debug, Default)]
struct Sight {
    links: Vec<Value>,
    routes: Vec<Value>,
    neighbours: Vec<Value>,
}

/// Waits until all is as it should with these pods alive, these others dead whose namespaces are still there, and the
/// bystanders.
pub fn settled(world: &World, living: &[&Pod], dead: &[&Pod]) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    let mut all: Vec<&Pod> = world.bystanders.iter().collect();
    all.extend(living);
    loop {
        match look(world, &all, dead) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Everything that can be looked at without the agent's help.
fn look(world: &World, living: &[&Pod], dead: &[&Pod]) -> Result<()> {
    record(world, living)?;
    files(world)?;
    node(world, living).context("on the node")?;
    let mut holders: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for pod in living {
        sandbox(world, pod, &mut holders).with_context(|| format!("in the pod {}", pod.container))?;
    }
    for pod in dead.iter().filter(|pod| pod.there) {
        let sight = Sight::of(world, Some(&pod.netns()))?;
        let links = sight.names();
        ensure!(links == BTreeSet::from(["lo".to_owned()]), "the dead pod {} has {links:?}", pod.container);
        ensure!(sight.routes.is_empty(), "the dead pod {} has routes", pod.container);
    }
    Ok(())
}

/// The record names the living with their addresses, nobody else, and no address twice.
fn record(world: &World, living: &[&Pod]) -> Result<()> {
    let bytes = fs::read(world.run_dir.join("endpoints")).context("reading the record")?;
    let found = recover(&bytes);
    ensure!(found.damaged == 0, "the record has {} lines that cannot be read", found.damaged);
    let recorded: BTreeMap<&str, BTreeSet<IpAddr>> = found
        .endpoints
        .iter()
        .map(|endpoint| (&*endpoint.id.container, endpoint.addresses.iter().copied().collect()))
        .collect();
    let expected: BTreeMap<&str, BTreeSet<IpAddr>> =
        living.iter().map(|pod| (&*pod.container, pod.addresses().into_iter().collect())).collect();
    ensure!(recorded == expected, "the record has {recorded:?}, alive are {expected:?}");
    let held: Vec<IpAddr> = found.endpoints.iter().flat_map(|endpoint| endpoint.addresses.clone()).collect();
    let free: BTreeSet<&IpAddr> = found.freed.iter().collect();
    ensure!(!held.iter().any(|address| free.contains(address)), "an address is held and free: {held:?}");
    let leaving: Vec<_> = found.leaving.iter().map(|endpoint| &endpoint.id.container).collect();
    ensure!(leaving.is_empty(), "by the record the links of {leaving:?} are still on their way out");
    Ok(())
}

/// The run directory holds what belongs there: no tombstone, nothing half written.
fn files(world: &World) -> Result<()> {
    for name in names(&world.run_dir)? {
        ensure!(FILES.contains(&&*name), "the run directory holds {name}");
    }
    let left = tombstones(world)?;
    ensure!(left.is_empty(), "tombstones are left: {left:?}");
    Ok(())
}

/// The tombstones that the agent has not seen to, and whatever else lies among them.
pub fn tombstones(world: &World) -> Result<BTreeSet<String>> {
    let directory = world.run_dir.join("tombstones");
    if directory.exists() { names(&directory) } else { Ok(BTreeSet::new()) }
}

fn names(directory: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    entries.collect()
}

/// The node has a link, its routes and its neighbours for each of the living, the routes of its blocks, and no more.
fn node(world: &World, living: &[&Pod]) -> Result<()> {
    let sight = Sight::of(world, None)?;
    let mut links: BTreeSet<String> = living.iter().map(|pod| pod.link().to_owned()).collect();
    for pod in living {
        let link = sight.link(pod.link()).with_context(|| format!("no link {}", pod.link()))?;
        let alias = format!("manx:{}:eth0", pod.container);
        ensure!(link["ifalias"] == *alias && link["group"] == "179", "the link is marked wrongly: {link}");
        ensure!(link["operstate"] == "UP", "the link is not up: {link}");
    }
    links.insert("lo".to_owned());
    ensure!(sight.names() == links, "there are the links {:?}, not {links:?}", sight.names());
    let addresses =
        |pod: &Pod| pod.addresses().into_iter().map(|address| address.to_string()).collect::<Vec<_>>();
    let of_pods =
        living.iter().flat_map(|pod| addresses(pod).into_iter().map(|address| (address, pod.link())));
    let blocks = BLOCKS.map(|block| (block.to_owned(), "blackhole"));
    let routes: BTreeSet<_> =
        of_pods.clone().chain(blocks).map(|(dst, way)| format!("{dst} {way}")).collect();
    ensure!(sight.routes() == routes, "there are the routes {:?}, not {routes:?}", sight.routes());
    let macs = living
        .iter()
        .flat_map(|pod| addresses(pod).into_iter().map(move |a| format!("{a} {} {}", pod.link(), pod.mac())));
    let neighbours: BTreeSet<String> = macs.collect();
    ensure!(
        sight.neighbours() == neighbours,
        "there are the neighbours {:?}, not {neighbours:?}",
        sight.neighbours()
    );
    settings(&links)
}

/// The trees of settings are those of the links.
fn settings(links: &BTreeSet<String>) -> Result<()> {
    for tree in ["ipv4/conf", "ipv6/conf", "ipv4/neigh", "ipv6/neigh"] {
        let mut of = names(Path::new(&format!("/proc/sys/net/{tree}")))?;
        of.retain(|name| name != "all" && name != "default");
        ensure!(of.is_subset(links), "there are settings {tree} of {of:?}, but links {links:?}");
    }
    Ok(())
}

/// A living pod has its interface, up, with its addresses and routes, and nobody else has these addresses.
fn sandbox<'a>(world: &World, pod: &'a Pod, holders: &mut BTreeMap<IpAddr, &'a str>) -> Result<()> {
    let sight = Sight::of(world, Some(&pod.netns()))?;
    let link = sight.link("eth0").context("no eth0")?;
    ensure!(link["operstate"] == "UP" && link["address"] == *pod.mac(), "eth0 is wrong: {link}");
    let entries =
        link["addr_info"].as_array().into_iter().flatten().filter(|entry| entry["scope"] == "global");
    let found: BTreeSet<IpAddr> = entries.filter_map(|entry| entry["local"].as_str()?.parse().ok()).collect();
    let expected: BTreeSet<IpAddr> = pod.addresses().into_iter().collect();
    ensure!(found == expected && !found.is_empty(), "it has {found:?}, was told {expected:?}");
    for address in found {
        if let Some(other) = holders.insert(address, &pod.container) {
            bail!("{address} is also held by {other}");
        }
    }
    let defaults = sight.routes.iter().filter(|route| route["dst"] == "default").count();
    ensure!(defaults == expected.len(), "it has {defaults} default routes");
    Ok(())
}

impl Sight {
    fn of(world: &World, netns: Option<&str>) -> Result<Self> {
        let mut command = Command::new("ip");
        if let Some(netns) = netns {
            command.args(["-n", netns]);
        }
        let output = command.args(["-d", "-j", "-batch"]).arg(world.file("look")).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut sight = Self::default();
        for list in serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>() {
            for object in list?.as_array_mut().map(std::mem::take).unwrap_or_default() {
                let group = if object.get("ifname").is_some() {
                    &mut sight.links
                } else if object.get("table").is_some() {
                    &mut sight.routes
                } else {
                    &mut sight.neighbours
                };
                group.push(object);
            }
        }
        Ok(sight)
    }

    fn link(&self, name: &str) -> Option<&Value> {
        self.links.iter().find(|link| link["ifname"] == name)
    }

    fn names(&self) -> BTreeSet<String> {
        self.links.iter().filter_map(|link| link["ifname"].as_str()).map(str::to_owned).collect()
    }

    /// Routes that the kernel did not make by itself, as destination and way.
    fn routes(&self) -> BTreeSet<String> {
        let made = self.routes.iter().filter(|route| route["protocol"] != "kernel");
        let way = |route: &Value| {
            if route["type"] == "blackhole" { "blackhole".to_owned() } else { text(&route["dev"]) }
        };
        made.map(|route| format!("{} {}", text(&route["dst"]), way(route))).collect()
    }

    /// Permanent neighbours, as address, link and hardware address.
    fn neighbours(&self) -> BTreeSet<String> {
        let permanent = |neighbour: &&Value| {
            neighbour["state"].as_array().is_some_and(|state| state.iter().any(|word| word == "PERMANENT"))
        };
        let line = |neighbour: &Value| {
            format!("{} {} {}", text(&neighbour["dst"]), text(&neighbour["dev"]), text(&neighbour["lladdr"]))
        };
        self.neighbours.iter().filter(permanent).map(line).collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The agent has not blamed others for what it, the plugin or the end of a link did to routes.
fn nobody_is_blamed(world: &World) -> Result<()> {
    let log = fs::read_to_string(world.file("agent.log")).context("reading the agent's log")?;
    match log.lines().find(|line| line.contains("somebody else removed or changed routes")) {
        Some(line) => bail!("nobody else is here, but the agent says: {line}"),
        None => Ok(()),
    }
}

/// What the agent must be asked for, or takes its time: the sums of the pools, and what the agent itself holds; and
/// what it said.
pub fn agent_is_even(world: &World, living: &[&Pod]) -> Result<()> {
    nobody_is_blamed(world)?;
    let alive = world.bystanders.len() + living.len();
    let end = Instant::now() + PATIENCE;
    loop {
        match sums(alive) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(25)),
        }
    }
}

/// The addresses of each pool are used, free or resting, and add up.
fn sums(alive: usize) -> Result<()> {
    let mut stream = TcpStream::connect("127.0.0.1:9179").context("the agent's metrics")?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    let figure = |name: &str, pool: &str| -> Result<u32> {
        let key = format!("manx_ipam_addresses_{name}{{pool=\"{pool}\"}} ");
        let value =
            page.lines().find_map(|line| line.strip_prefix(&key)).with_context(|| format!("no {key}"))?;
        value.trim().parse().map_err(Into::into)
    };
    for pool in ["v4", "v6"] {
        let [used, free, resting] = ["used", "free", "resting"].map(|name| figure(name, pool));
        let (used, free, resting) = (used?, free?, resting?);
        ensure!(
            usize::try_from(used)? == alive,
            "{used} addresses of {pool} are used, {alive} pods are alive"
        );
        ensure!(
            used + free + resting == ADDRESSES,
            "{pool}: {used} + {free} + {resting} are not {ADDRESSES}"
        );
    }
    Ok(())
}

/// How many descriptors the agent has open.
pub fn descriptors(world: &World) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", world.agent_pid()?))?.count())
}

/// Waits until the agent has no more open than `before`.
pub fn descriptors_are_steady(world: &World, before: usize) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let now = descriptors(world)?;
        if now <= before {
            return Ok(());
        }
        ensure!(Instant::now() < end, "the agent has {now} descriptors open, {before} before");
        std::thread::sleep(Duration::from_millis(25));
    }
}
