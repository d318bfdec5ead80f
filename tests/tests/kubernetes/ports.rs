//! What plugins behind ours do for pods: ports of the node by portmap, limits by the bandwidth plugin.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use manx_tests::kubernetes::Family;
use serde_json::json;

use super::places::{BOTH, How, LINES, Place};
use super::tables::{Expect, Seen, Table, by};
use super::traffic::masquerades;
use super::world::{World, backend, pod};
use super::{Scenario, shared};

/// The scenarios of this module.
pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("a_port_of_the_node_leads_to_its_pod_from_everywhere_and_goes_with_it", host_ports),
    ("a_pod_is_as_fast_as_its_annotations_allow_in_each_direction", bandwidth),
];

/// The node's port.
const PORT: u16 = 18_281;
/// What an annotation allows, in bits each second.
const LIMIT: f64 = 40e6;

fn host_ports() -> Result<()> {
    let cluster = shared()?;
    let mut web = backend("web", 1, "web", LINES);
    web["spec"]["containers"][0]["ports"] = json!([
        {"containerPort": LINES, "hostPort": PORT, "protocol": "TCP"},
        {"containerPort": LINES, "hostPort": PORT, "protocol": "UDP"}]);
    let objects = vec![web, pod("near", 1, "client", &[]), pod("far", 2, "client", &[])];
    let mut world = World::start(&cluster, "ports", objects)?;
    let mut table = Table::default();
    let outside = Place::outside(&cluster);
    let nodes = [Place::node(&cluster, 1), Place::node(&cluster, 2)];
    for family in cluster.families().list() {
        let to = SocketAddr::new(cluster.node(1).address(*family), PORT);
        for how in BOTH {
            let far = Seen::Outgoing(masquerades(&cluster, *family));
            for (from, seen) in [
                (&outside, Seen::Own),
                (&nodes[1], Seen::Own),
                (&nodes[0], Seen::Own),
                (world.pod("near")?, Seen::Own),
                (world.pod("far")?, far),
                (world.pod("web")?, Seen::Node(1)),
            ] {
                table.row("a port of the node", from, how, to, by(&["web"], seen));
            }
        }
    }
    let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT);
    if cluster.families().list().contains(&Family::Ipv4) {
        table.row("by the loopback address", &nodes[0], How::Tcp, local, by(&["web"], Seen::Node(1)));
    }
    table.run(&cluster);
    world.delete_pod("web")?;
    for family in cluster.families().list() {
        let to = SocketAddr::new(cluster.node(1).address(*family), PORT);
        for how in BOTH {
            table.row("the port of a pod that is gone", &outside, how, to, Expect::Refused);
        }
    }
    table.finish(&cluster)
}

/// Which way octets go, as the pod sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// The pod receives.
    Ingress,
    /// The pod sends.
    Egress,
}

/// Bits each second, window by window, while `from` keeps the pod at `to` busy; `enough` ends it.
fn rates(
    from: &Place,
    to: SocketAddr,
    direction: Direction,
    mut enough: impl FnMut(f64) -> bool,
) -> Result<Vec<f64>> {
    const ENDLESS: &str = "1000000000000";
    const WINDOW: Duration = Duration::from_millis(500);
    const LIMIT: Duration = Duration::from_secs(25);
    let mut stream = from.connect(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let verb = if direction == Direction::Ingress { "take" } else { "send" };
    stream.write_all(format!("{verb} {ENDLESS}\n").as_bytes())?;
    let mut buffer = vec![0; 1 << 18];
    let begin = Instant::now();
    let mut rates = Vec::new();
    while begin.elapsed() < LIMIT {
        let window = Instant::now();
        let mut octets = 0_usize;
        while window.elapsed() < WINDOW {
            octets += match direction {
                Direction::Ingress => stream.write(&buffer)?,
                Direction::Egress => stream.read(&mut buffer)?,
            };
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate with two digits")]
        let rate = octets as f64 * 8.0 / window.elapsed().as_secs_f64();
        rates.push(rate);
        if enough(rate) {
            return Ok(rates);
        }
    }
    Ok(rates)
}

/// containerd lets half a gibioctet pass before a limit bites (its burst cannot be chosen); after that the limit holds.
/// A pod without a limit on the same nodes in the same run is many times as fast.
fn bandwidth() -> Result<()> {
    let cluster = shared()?;
    let mut limited = backend("limited", 1, "busy", LINES);
    limited["metadata"]["annotations"] =
        json!({"kubernetes.io/ingress-bandwidth": "40M", "kubernetes.io/egress-bandwidth": "40M"});
    let objects = vec![limited, backend("free", 1, "busy", LINES), pod("client", 2, "client", &[])];
    let world = World::start(&cluster, "bandwidth", objects)?;
    let client = world.pod("client")?;
    let family = cluster.families().primary();
    for direction in [Direction::Ingress, Direction::Egress] {
        let to =
            |name: &str| Ok::<_, anyhow::Error>(SocketAddr::new(world.pod(name)?.address(family)?, LINES));
        let mut windows = 0;
        let free = rates(client, to("free")?, direction, |_| {
            windows += 1;
            windows == 3
        })?;
        let slowest = free.iter().copied().fold(f64::INFINITY, f64::min);
        let mut slow = 0;
        let limited = rates(client, to("limited")?, direction, |rate| {
            slow = if rate < LIMIT * 1.3 { slow + 1 } else { 0 };
            slow == 4
        })?;
        let last = limited.iter().rev().take(3).sum::<f64>() / 3.0;
        println!(
            "{direction:?}: {:.0} Mbit/s allowed, {:.1} measured after {} windows; {:.0} without a limit",
            LIMIT / 1e6,
            last / 1e6,
            limited.len(),
            slowest / 1e6
        );
        ensure!(slow == 4, "{direction:?}: the limit of {LIMIT} does not hold: {limited:?}");
        ensure!(last > LIMIT * 0.5, "{direction:?}: {last} of {LIMIT} bits each second: {limited:?}");
        ensure!(slowest > 5.0 * last, "{direction:?}: {slowest} without a limit, {last} with one");
    }
    Ok(())
}
