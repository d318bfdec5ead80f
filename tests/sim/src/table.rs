//! How long a cluster takes to learn all its routes, in virtual time, by its size and the loss on its wires.

use std::time::{Duration, Instant};

use manx_kernel::model::Forward;

use crate::plan::{Plan, Room, Settings};
use crate::world::{World, millis, secs};

/// Sizes of clusters.
const NODES: [usize; 3] = [3, 10, 30];
/// Packets lost of a thousand.
const LOSS: [usize; 3] = [0, 10, 50];
/// The longest that anything may take.
const LIMIT: Duration = secs(300);

/// The table as a document.
pub fn table() -> String {
    let rows: Vec<String> = NODES.into_iter().flat_map(|nodes| LOSS.map(|loss| row(nodes, loss))).collect();
    format!("{HEAD}{}", rows.concat())
}

/// One row of the table, for so many nodes and packets lost of a thousand.
pub fn row(nodes: usize, loss: usize) -> String {
    let row = measure(nodes, loss);
    let seconds = |time: Option<Duration>| {
        time.map_or_else(|| "—".to_owned(), |time| format!("{:.2}", time.as_secs_f64()))
    };
    let (start, change) = (seconds(row.start), seconds(row.change));
    let (percent, kilobytes) = (loss / 10, row.octets / 1000.0);
    format!("| {nodes} | {percent} % | {start} | {change} | {:.1} | {kilobytes:.1} |\n", row.updates)
}

const HEAD: &str = "\
# How long convergence takes

In virtual time, whole nodes on simulated wires (0.2 ms and up to 2 ms of jitter; a lost packet comes 200 ms later, one
lost again 400 ms after that), full mesh, two blocks per node. The numbers are the same in every run; `cargo xtask sim --table`
writes this file, `cargo xtask sim --row 100 10` another row (100 nodes, 10 of 1000 packets lost).

- *start*: all nodes are switched on within five seconds; from the start of the last agent until every kernel has the routes
  of all blocks.
- *change*: a node claims one block more; until it is in every kernel.
- *UPDATEs* and *kB*: what one node receives over both, on average.

| nodes | loss | start, s | change, s | UPDATEs per node | kB per node |
|--:|--:|--:|--:|--:|--:|
";

struct Row {
    start: Option<Duration>,
    change: Option<Duration>,
    updates: f64,
    octets: f64,
}

fn measure(nodes: usize, loss: usize) -> Row {
    let settings = Settings {
        latency: Duration::from_micros(200),
        jitter: millis(2),
        loss,
        api_latency: millis(5),
        reflectors: false,
        room: Room::Ample,
        audits: true,
        release_after: secs(300),
        collects: false,
    };
    let plan = Plan { nodes, settings, noise: 1, acts: Vec::new() };
    let mut world = World::new(&plan, false);
    let until = world.now + LIMIT;
    let start = converge(&mut world, until, 2 * nodes);
    let start = start.map(|at| at.saturating_duration_since(world.last_start));
    world.run_until(world.now + secs(5));
    let change = world.claim_one_more().and_then(|from| {
        let until = from + LIMIT;
        converge(&mut world, until, 2 * nodes + 1).map(|at| at - from)
    });
    let per_node = |number: u64| number as f64 / nodes as f64;
    Row { start, change, updates: per_node(world.updates()), octets: per_node(world.figures.octets) }
}

/// Runs until every kernel has the routes of so many blocks; gives the time when it had.
fn converge(world: &mut World, until: Instant, blocks: usize) -> Option<Instant> {
    while world.now < until && world.broken.is_none() {
        if world.routes_to_blocks().all(|count| count >= blocks) {
            return Some(world.now);
        }
        world.run_until(world.now + millis(5));
    }
    None
}

impl World {
    /// How many routes to blocks each kernel has.
    fn routes_to_blocks(&self) -> impl Iterator<Item = usize> {
        self.hosts.iter().map(|host| {
            let ours = host.kernel.ours();
            ours.filter(|(_, held)| !matches!(held.forward, Forward::Link(_))).map(|_| 1).sum()
        })
    }

    /// UPDATEs that all speakers received in sessions that are up.
    fn updates(&self) -> u64 {
        let speakers = self.hosts.iter().filter_map(|host| host.agent.as_ref()?.speaker.as_ref());
        speakers.flat_map(|speaker| speaker.peers(self.now)).map(|peer| peer.messages_in.update).sum()
    }

    /// A node starts as many pods as take one block more; gives the time when it is its own.
    fn claim_one_more(&mut self) -> Option<Instant> {
        let before = self.api.blocks().map(|_| 1).sum::<usize>();
        let until = self.now + LIMIT;
        let mut pod = 0;
        while self.now < until && self.broken.is_none() {
            let blocks = self.api.blocks().map(|_| 1).sum::<usize>();
            if blocks > before {
                return Some(self.now);
            }
            if pod < 1 {
                self.want_pod(0, pod, true);
                pod += 1;
            }
            self.run_until(self.now + millis(5));
        }
        None
    }
}
