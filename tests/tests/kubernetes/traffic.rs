//! Pods, nodes and the world outside talk to each other: who reaches whom, over how many routers, in which sizes, and
//! whose address the other side sees.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manx_tests::kubernetes::{Cluster, Family};
use serde_json::{Value, json};

use super::places::{BOTH, LINES, Place};
use super::tables::{Seen, Table, by};
use super::world::{World, backend, merge};
use super::{Scenario, shared};

/// The scenarios of this module.
pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("pods_nodes_and_the_outside_see_each_others_own_addresses_over_plain_routes", plain_routes),
    ("what_leaves_the_cluster_takes_the_nodes_address_where_its_pool_says_so", outgoing),
];

/// Where pods of the host's network serve: the node's own ports.
const HOST_PORT: u16 = 18081;
/// What links carry.
const MTU: usize = 1500;

/// A pod of the host's network that serves on `port` of its node.
pub(crate) fn host_pod(name: &str, node: usize, port: u16) -> Value {
    let mut pod = backend(name, node, "host", port);
    // Named ports would be reserved on the node, also for a while after the pod.
    pod["spec"]["containers"][0]["ports"] = json!([]);
    merge(&mut pod["spec"], &json!({"hostNetwork": true}));
    pod
}

/// Whether the pools of `family` ask for the node's address towards the outside; they do not where Manx is not.
pub(crate) fn masquerades(cluster: &Cluster, family: Family) -> bool {
    let pools = cluster.objects("ippools.manx.dev").unwrap_or_default();
    pools.iter().any(|pool| {
        let of_family = pool["spec"]["cidr"].as_str().is_some_and(|cidr| cidr.contains(':'));
        of_family == (family == Family::Ipv6) && pool["spec"]["natOutgoing"] == true
    })
}

/// What a place outside the pools has to see of a pod on `node`.
fn seen_outside(masqueraded: bool, node: usize) -> Seen {
    if masqueraded { Seen::Node(node) } else { Seen::Own }
}

fn plain_routes() -> Result<()> {
    let cluster = shared()?;
    let objects = vec![
        backend("a1", 1, "plain", LINES),
        backend("b1", 1, "plain", LINES),
        backend("a2", 2, "plain", LINES),
        backend("a3", 3, "plain", LINES),
        host_pod("h1", 1, HOST_PORT),
        host_pod("h3", 3, HOST_PORT),
    ];
    let world = World::start(&cluster, "traffic", objects)?;
    let mut table = Table::default();
    for family in cluster.families().list() {
        own_addresses(&mut table, &world, *family)?;
        sizes(&mut table, &world, *family)?;
    }
    table.finish(&cluster)
}

/// The pods with a network of their own.
fn own_network<'a>(world: &'a World<'_>) -> impl Iterator<Item = &'a Place> {
    world.pods().filter(|pod| !pod.name.starts_with('h'))
}

/// Each place asks each pod: nobody translates anything, but for what leaves the pools.
pub(crate) fn own_addresses(table: &mut Table, world: &World<'_>, family: Family) -> Result<()> {
    let cluster = world.cluster;
    let mut places: Vec<Place> = world.pods().cloned().collect();
    places.extend(cluster.nodes().iter().map(|node| Place::node(cluster, node.number())));
    places.push(Place::outside(cluster));
    for from in &places {
        for to in own_network(world) {
            let address = to.address(family)?;
            for how in BOTH {
                table.row("pod", from, how, (address, LINES).into(), by(&[&to.name], Seen::Own));
            }
            let hops = from.ping(address, 84, false).and_then(|hops| {
                let due = routers(from, to);
                ensure!(hops == due, "{hops} routers between, {due} were due");
                Ok(())
            });
            table.note(&format!("ping from {} to {address} of {}", from.name, to.name), hops);
        }
    }
    let masqueraded = masquerades(cluster, family);
    for from in own_network(world) {
        for host in world.pods().filter(|pod| pod.name.starts_with('h')) {
            let to = SocketAddr::new(host.address(family)?, HOST_PORT);
            let seen = if from.node == host.node { Seen::Own } else { seen_outside(masqueraded, from.node) };
            for how in BOTH {
                // A pod of the host's network has the node's host name.
                table.row("node", from, how, to, by(&[&format!("node{}", host.node)], seen));
            }
        }
    }
    Ok(())
}

/// The routers between: each pod's node is one, and the top of rack between nodes.
fn routers(from: &Place, to: &Place) -> u8 {
    let is_pod = !from.name.starts_with("node") && !from.name.starts_with('h') && from.node != 0;
    match (from.name == to.name, from.node == to.node) {
        (true, _) => 0,
        (_, true) => u8::from(is_pod),
        (_, false) => 2 + u8::from(is_pod),
    }
}

/// Packets that fill the links pass whole, so that nothing is wrapped around them; a larger one does not, and in
/// fragments it does.
pub(crate) fn sizes(table: &mut Table, world: &World<'_>, family: Family) -> Result<()> {
    let outside = Place::outside(world.cluster);
    for to in own_network(world).filter(|pod| pod.name != "a1") {
        let address = to.address(family)?;
        for from in [world.pod("a1")?, &outside] {
            let what = |size: &str| format!("{size} from {} to {}", from.name, to.name);
            table.note(&what("a full packet"), from.ping(address, MTU, false).map(drop));
            table.note(&what("fragments"), from.ping(address, 4000, true).map(drop));
            let refused = match from.ping(address, MTU + 1, false) {
                Ok(_) => Err(anyhow::anyhow!("it went through, though nothing carries it")),
                Err(_) => Ok(()),
            };
            table.note(&what("one octet too much"), refused);
        }
    }
    Ok(())
}

/// A server outside that tells each client its address, until it is dropped.
pub(super) struct Mirror {
    stop: Arc<AtomicBool>,
}

impl Mirror {
    /// On `port` of `place`, both families, TCP and UDP.
    pub(super) fn start(place: &Place, port: u16) -> Result<Self> {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let (tcp, udp) = place.inside(|| Ok((TcpListener::bind(any)?, UdpSocket::bind(any)?)))?;
        tcp.set_nonblocking(true)?;
        udp.set_read_timeout(Some(Duration::from_millis(10)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let mirror = Self { stop: stop.clone() };
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                // What fails with one client shows in its row.
                let _ = reflect(&tcp, &udp);
            }
        });
        Ok(mirror)
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn reflect(tcp: &TcpListener, udp: &UdpSocket) -> Result<()> {
    let text = |client: SocketAddr| json!({"pod": "mirror", "client": client.to_string()}).to_string() + "\n";
    if let Ok((mut stream, client)) = tcp.accept() {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        BufReader::new(&stream).read_line(&mut String::new())?;
        stream.write_all(text(client).as_bytes())?;
    }
    let mut buffer = [0; 512];
    let (_, client) = udp.recv_from(&mut buffer)?;
    udp.send_to(text(client).as_bytes(), client)?;
    Ok(())
}

fn outgoing() -> Result<()> {
    let cluster = shared()?;
    let world = World::start(
        &cluster,
        "outgoing",
        vec![backend("a1", 1, "out", LINES), backend("a2", 2, "out", LINES)],
    )?;
    let _mirror = Mirror::start(&Place::outside(&cluster), 7777)?;
    let before = Pools::of(&cluster)?;
    let mut table = Table::default();
    // The last turn is what was found.
    let first = before.0.first().is_some_and(|(_, on)| *on);
    for on in [!first, first] {
        before.set(&cluster, Some(on))?;
        for family in cluster.families().list() {
            leaving(&mut table, &world, *family, on)?;
        }
        table.run(&cluster);
    }
    before.set(&cluster, None)?;
    table.finish(&cluster)
}

/// Pods to the outside, and what is never translated: pods to pods and the outside to pods.
fn leaving(table: &mut Table, world: &World<'_>, family: Family, masqueraded: bool) -> Result<()> {
    let outside = Place::outside(world.cluster);
    let mirror = SocketAddr::new(outside.address(family)?, 7777);
    let how = if masqueraded { "with natOutgoing" } else { "without natOutgoing" };
    for (from, to) in [("a1", "a2"), ("a2", "a1")] {
        let (from, to) = (world.pod(from)?, world.pod(to)?);
        let pod = SocketAddr::new(to.address(family)?, LINES);
        for transport in BOTH {
            let out = by(&["mirror"], seen_outside(masqueraded, from.node));
            table.row(&format!("{how}, to the outside"), from, transport, mirror, out);
            table.row(&format!("{how}, to a pod"), from, transport, pod, by(&[&to.name], Seen::Own));
            table.row(
                &format!("{how}, from the outside"),
                &outside,
                transport,
                pod,
                by(&[&to.name], Seen::Own),
            );
        }
    }
    Ok(())
}

/// The pools, and whether each asked for the node's address.
pub(crate) struct Pools(Vec<(String, bool)>);

impl Pools {
    pub(crate) fn of(cluster: &Cluster) -> Result<Self> {
        let pools = cluster.objects("ippools.manx.dev")?;
        let of = |pool: &Value| {
            let name = pool["metadata"]["name"].as_str().context("a pool without a name")?;
            Ok((name.to_owned(), pool["spec"]["natOutgoing"] == true))
        };
        pools.iter().map(of).collect::<Result<_>>().map(Self)
    }

    /// Sets all pools, or lets each be as it was found.
    pub(crate) fn set(&self, cluster: &Cluster, on: Option<bool>) -> Result<()> {
        for (name, was) in &self.0 {
            let patch = json!({"spec": {"natOutgoing": on.unwrap_or(*was)}}).to_string();
            cluster.kubectl(&["patch", "ippool.manx.dev", name, "--type=merge", "-p", &patch])?;
        }
        Ok(())
    }
}

/// An address as the host's part of a route.
pub(crate) fn host_route(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}
