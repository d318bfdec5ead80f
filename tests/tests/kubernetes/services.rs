//! Services through kube-proxy: who answers, and whose address is seen, as Kubernetes promises for each kind of Service
//! and each policy, with rules of nftables, iptables and IPVS.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use manx_tests::kubernetes::{Cluster, Family, Proxy};
use manx_tests::lab::{netns, wait};
use serde_json::{Value, json};

use super::places::{BOTH, How, LINES, Place, Reply, ask_again};
use super::tables::{Expect, Seen, Table, by};
use super::traffic::{host_pod, host_route, masquerades};
use super::world::{World, backend, pod, service};
use super::{Scenario, shared};

/// The scenarios of this module.
pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("services_show_the_addresses_that_kubernetes_promises_in_every_mode_of_kube_proxy", promises),
    ("backends_that_go_drop_out_also_of_the_memory_of_connections", backends_go),
];

/// Addresses that a load balancer would give, and the node that the router sends each to.
const BALANCED: [(&str, [&str; 2], usize); 3] = [
    ("both", ["198.51.100.1", "2001:db8:100::1"], 1),
    ("local", ["198.51.100.2", "2001:db8:100::2"], 2),
    ("external", ["198.51.100.3", "2001:db8:100::3"], 3),
];
/// Both pods that are behind the Services.
const WEB: [&str; 2] = ["web-1", "web-2"];
/// Where pods of the host's network serve.
const HOST_PORT: u16 = 18082;
const PATIENCE: Duration = Duration::from_secs(20);

fn text_of(both: [&str; 2], family: Family) -> Result<IpAddr> {
    Ok(both[usize::from(family == Family::Ipv6)].parse()?)
}

/// The address of a Service that the router sends to one of the nodes.
fn balanced(name: &str, family: Family) -> Result<SocketAddr> {
    let (_, both, _) = BALANCED.iter().find(|(known, _, _)| *known == name).context("a balanced Service")?;
    Ok(SocketAddr::new(text_of(*both, family)?, 80))
}

/// Routes on the router that lead to Services, as some load balancer would announce them; they go when this is dropped.
struct Routes<'a>(&'a Cluster);

impl<'a> Routes<'a> {
    fn add(cluster: &'a Cluster) -> Result<Self> {
        let routes = Self(cluster);
        routes.each("replace")?;
        Ok(routes)
    }

    fn each(&self, verb: &str) -> Result<()> {
        let tor = self.0.netns("tor");
        for (_, both, node) in BALANCED {
            for family in self.0.families().list() {
                let address = host_route(text_of(both, *family)?);
                let via = self.0.node(node).address(*family).to_string();
                netns::ip(&["-n", &tor, "route", verb, &address, "via", &via])?;
            }
        }
        Ok(())
    }
}

impl Drop for Routes<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.each("del") {
            eprintln!("routes stay on the router: {error:#}");
        }
    }
}

fn objects(cluster: &Cluster) -> Vec<Value> {
    let external: Vec<String> = cluster.families().pick(BALANCED[2].1);
    let balancer = |policy: &str| json!({"type": "LoadBalancer", "externalTrafficPolicy": policy});
    let on_hosts = json!({"ports": [
        {"name": "lines", "protocol": "TCP", "port": 80, "targetPort": HOST_PORT},
        {"name": "datagrams", "protocol": "UDP", "port": 80, "targetPort": HOST_PORT}]});
    let mut objects = vec![
        // The same names of ports, but other numbers.
        backend("web-1", 1, "web", LINES),
        backend("web-2", 2, "web", 9081),
        pod("client-1", 1, "client", &[]),
        pod("client-3", 3, "client", &[]),
        host_pod("h1", 1, HOST_PORT),
        host_pod("h3", 3, HOST_PORT),
        service("both", "web", &balancer("Cluster")),
        service("local", "web", &balancer("Local")),
        service("external", "web", &json!({"externalIPs": external})),
        service("inside", "web", &json!({"internalTrafficPolicy": "Local"})),
        service("host", "host", &on_hosts),
        service("none", "nothing", &json!({"type": "NodePort"})),
        service("sticky", "web", &json!({"sessionAffinity": "ClientIP"})),
        service("headless", "web", &json!({"clusterIP": "None"})),
    ];
    if cluster.families().list().len() == 2 {
        objects.push(service("dual", "web", &json!({"ipFamilyPolicy": "RequireDualStack"})));
    }
    objects
}

/// The Services with all that the rows need to know.
struct Stage<'a> {
    world: &'a World<'a>,
    cluster: &'a Cluster,
    family: Family,
    how: How,
}

/// What the mode is called.
fn title(proxy: Proxy) -> String {
    format!("{proxy:?}").to_lowercase()
}

fn has_ipvs() -> bool {
    let there = || Path::new("/proc/net/ip_vs").exists();
    // A kernel that has it as a module, and the program to load it.
    there() || (std::process::Command::new("modprobe").arg("ip_vs").status().is_ok() && there())
}

fn promises() -> Result<()> {
    let cluster = shared()?;
    let world = World::start(&cluster, "services", objects(&cluster))?;
    let _routes = Routes::add(&cluster)?;
    for (name, both, _) in &BALANCED[..2] {
        let addresses: Result<Vec<IpAddr>> =
            cluster.families().list().iter().map(|family| text_of(*both, *family)).collect();
        world.set_load_balancer(name, &addresses?)?;
    }
    let mut modes = vec![Proxy::Nftables, Proxy::Iptables];
    if has_ipvs() {
        modes.push(Proxy::Ipvs);
    } else {
        println!("ignored: Services by IPVS: the kernel has no IPVS");
    }
    let lines = Lasting::open(&world)?;
    let mut table = Table::default();
    for mode in modes {
        let begin = Instant::now();
        if mode != Proxy::Nftables {
            set_mode(&cluster, mode)?;
        }
        everything(&mut table, &world, mode)?;
        table.note(&format!("connections from before, {}", title(mode)), lines.ask());
        println!("kube-proxy by {}: {:.1} s", title(mode), begin.elapsed().as_secs_f32());
    }
    set_mode(&cluster, Proxy::Nftables)?;
    table.note("connections from before, nftables again", lines.ask());
    table.finish(&cluster)
}

/// Lets every node's kube-proxy work in another mode.
fn set_mode(cluster: &Cluster, mode: Proxy) -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            cluster.nodes().into_iter().map(|node| scope.spawn(move || node.set_proxy(mode))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })
}

/// Connections that outlive every change of the mode.
struct Lasting(Vec<(String, std::net::TcpStream)>);

impl Lasting {
    fn open(world: &World<'_>) -> Result<Self> {
        let (from, to) = (world.pod("client-3")?, world.pod("web-1")?);
        let service = world.service("both")?;
        let mut lines = Vec::new();
        for family in world.cluster.families().list() {
            let pod = SocketAddr::new(to.address(*family)?, LINES);
            for (what, to) in [("a pod", pod), ("a Service", service.cluster(*family)?)] {
                let connect = || from.connect(to);
                let mut stream = None;
                wait::until("the connection is there", PATIENCE, || {
                    stream = Some(connect()?);
                    Ok(true)
                })?;
                lines.push((format!("{what} at {to}"), stream.context("a connection")?));
            }
        }
        Ok(Self(lines))
    }

    fn ask(&self) -> Result<()> {
        for (what, stream) in &self.0 {
            let reply = ask_again(stream).map_err(anyhow::Error::from).context(format!("to {what}"))?;
            ensure!(matches!(reply, Reply::Answer { .. }), "{what}: {reply}");
        }
        Ok(())
    }
}

/// All rows, in the mode that is set.
fn everything(table: &mut Table, world: &World<'_>, mode: Proxy) -> Result<()> {
    let cluster = world.cluster;
    for family in cluster.families().list() {
        let masqueraded = masquerades(cluster, *family);
        for how in BOTH {
            let stage = Stage { world, cluster, family: *family, how };
            let mode = title(mode);
            stage.cluster_addresses(table, &mode)?;
            stage.node_ports(table, &mode)?;
            stage.balanced(table, &mode)?;
            stage.nodes_behind(table, &mode, masqueraded)?;
            stage.without_backends(table, &mode)?;
            table.note(&format!("session affinity, {mode}, {family:?}, {how:?}"), stage.affinity());
        }
        table.note(&format!("headless, {family:?}"), headless(world, *family));
    }
    table.run(cluster);
    table.note(&format!("health checks of nodes, {}", title(mode)), health(world));
    Ok(())
}

impl Stage<'_> {
    fn pod(&self, name: &str) -> Result<&Place> {
        self.world.pod(name)
    }

    fn node(&self, number: usize) -> Place {
        Place::node(self.cluster, number)
    }

    fn cluster_address(&self, service: &str) -> Result<SocketAddr> {
        self.world.service(service)?.cluster(self.family)
    }

    fn node_port(&self, service: &str, node: usize) -> Result<SocketAddr> {
        let port = self.world.service(service)?.node_port(self.how)?;
        Ok(SocketAddr::new(self.cluster.node(node).address(self.family), port))
    }

    /// Who asks a Service inside the cluster: pods keep their addresses.
    fn cluster_addresses(&self, table: &mut Table, mode: &str) -> Result<()> {
        let both = self.cluster_address("both")?;
        let what = |text: &str| format!("{mode}: {text}");
        for name in ["client-1", "client-3"] {
            table.row(&what("cluster address"), self.pod(name)?, self.how, both, by(&WEB, Seen::Own));
        }
        for from in [self.node(1), self.node(3), self.pod("h1")?.clone(), self.pod("h3")?.clone()] {
            let seen = Seen::Node(from.node);
            table.row(&what("cluster address"), &from, self.how, both, by(&WEB, seen));
        }
        let hairpin = by(&WEB, Seen::Hairpin(1));
        table.row(&what("a pod asks its own Service"), self.pod("web-1")?, self.how, both, hairpin);
        let inside = self.cluster_address("inside")?;
        for from in [self.pod("client-1")?.clone(), self.node(1)] {
            let seen = if from.name == "node1" { Seen::Node(1) } else { Seen::Own };
            table.row(&what("internalTrafficPolicy Local"), &from, self.how, inside, by(&["web-1"], seen));
        }
        let from = self.pod("client-3")?;
        table.row(
            &what("internalTrafficPolicy Local without a backend"),
            from,
            self.how,
            inside,
            Expect::Silent,
        );
        if self.cluster.families().list().len() == 2 {
            let dual = self.cluster_address("dual")?;
            table.row(&what("RequireDualStack"), from, self.how, dual, by(&WEB, Seen::Own));
        }
        Ok(())
    }

    /// Node ports: the node's address with Cluster, the client's with Local.
    fn node_ports(&self, table: &mut Table, mode: &str) -> Result<()> {
        let outside = Place::outside(self.cluster);
        for node in 1..=3 {
            let port = self.node_port("both", node)?;
            let what = format!("{mode}: node port, Cluster");
            table.row(&what, &outside, self.how, port, by(&WEB, Seen::Node(node)));
            let expect = match node {
                1 => by(&["web-1"], Seen::Own),
                2 => by(&["web-2"], Seen::Own),
                _ => Expect::Silent,
            };
            let port = self.node_port("local", node)?;
            table.row(&format!("{mode}: node port, Local"), &outside, self.how, port, expect);
        }
        let client = self.pod("client-1")?;
        let own = self.node_port("both", 1)?;
        table.row(
            &format!("{mode}: own node's port, Cluster"),
            client,
            self.how,
            own,
            by(&WEB, Seen::Node(1)),
        );
        // kube-proxy takes what a pod of the node sends to be from inside, whatever the policy.
        let own = self.node_port("local", 1)?;
        table.row(&format!("{mode}: own node's port, Local"), client, self.how, own, by(&WEB, Seen::Own));
        let port = self.node_port("both", 1)?;
        let what = format!("{mode}: another node's port, Cluster");
        table.row(&what, self.pod("client-3")?, self.how, port, by(&WEB, Seen::Node(1)));
        Ok(())
    }

    /// Addresses that the router sends to some node.
    fn balanced(&self, table: &mut Table, mode: &str) -> Result<()> {
        let outside = Place::outside(self.cluster);
        let [both, local] = [balanced("both", self.family)?, balanced("local", self.family)?];
        let external = balanced("external", self.family)?;
        let what = |text: &str| format!("{mode}: {text}");
        table.row(&what("balancer, Cluster"), &outside, self.how, both, by(&WEB, Seen::Node(1)));
        table.row(&what("balancer, Local"), &outside, self.how, local, by(&["web-2"], Seen::Own));
        table.row(&what("external address"), &outside, self.how, external, by(&WEB, Seen::Node(3)));
        for from in [self.pod("client-1")?, self.pod("client-3")?] {
            table.row(&what("balancer, Local, by a pod"), from, self.how, local, by(&WEB, Seen::Own));
            let node = Seen::Node(from.node);
            table.row(&what("balancer, Cluster, by a pod"), from, self.how, both, by(&WEB, node));
        }
        // In nftables mode a node without a backend drops what it sends itself, which iptables mode leads to the others.
        if mode != "nftables" {
            let what = what("balancer, Local, by a node");
            table.row(&what, &self.node(3), self.how, local, by(&WEB, Seen::Node(3)));
        }
        Ok(())
    }

    /// Behind the Service are nodes: towards another one, a pod is seen as its pool says, as without a Service.
    fn nodes_behind(&self, table: &mut Table, mode: &str, masqueraded: bool) -> Result<()> {
        let host = self.cluster_address("host")?;
        for from in [self.pod("client-1")?, self.pod("client-3")?] {
            let expect = by(&["node1", "node3"], Seen::Outgoing(masqueraded));
            table.row(&format!("{mode}: a Service of nodes"), from, self.how, host, expect);
        }
        Ok(())
    }

    /// Nobody behind it: refused at once.
    fn without_backends(&self, table: &mut Table, mode: &str) -> Result<()> {
        let none = self.cluster_address("none")?;
        let what = format!("{mode}: no backends");
        for from in [self.pod("client-1")?.clone(), self.node(3)] {
            table.row(&what, &from, self.how, none, Expect::Refused);
        }
        let outside = Place::outside(self.cluster);
        table.row(&what, &outside, self.how, self.node_port("none", 2)?, Expect::Refused);
        Ok(())
    }

    /// One client always gets the same backend.
    fn affinity(&self) -> Result<()> {
        let sticky = self.cluster_address("sticky")?;
        for from in [self.pod("client-1")?, self.pod("client-3")?] {
            let mut first = None;
            wait::until("the Service answers", PATIENCE, || {
                first = Some(from.ask(self.how, sticky));
                Ok(matches!(first, Some(Reply::Answer { .. })))
            })?;
            for number in 1..=10 {
                let next = from.ask(self.how, sticky);
                ensure!(
                    first.as_ref() == Some(&next),
                    "{}: first {first:?}, then ({number}) {next}",
                    from.name
                );
            }
        }
        Ok(())
    }
}

/// Without an address of its own a Service has those of its pods.
fn headless(world: &World<'_>, family: Family) -> Result<()> {
    let label = "kubernetes.io/service-name=headless";
    let text = world.kubectl(&["get", "endpointslices", "-l", label, "-o", "json"])?;
    let slices: Value = serde_json::from_str(&text)?;
    let slices = slices["items"].as_array().context("a list")?;
    let mut listed: Vec<IpAddr> = Vec::new();
    for endpoint in slices.iter().filter_map(|slice| slice["endpoints"].as_array()).flatten() {
        let addresses = endpoint["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str);
        listed.extend(addresses.filter_map(|text| text.parse::<IpAddr>().ok()));
    }
    for name in WEB {
        let address = world.pod(name)?.address(family)?;
        ensure!(listed.contains(&address), "{address} of {name} is not among {listed:?}");
    }
    Ok(())
}

/// Each node tells load balancers whether it has a backend of a Service with the policy Local.
fn health(world: &World<'_>) -> Result<()> {
    let service = world.service("local")?;
    let port = service.0["spec"]["healthCheckNodePort"].as_u64().context("a port for health checks")?;
    let outside = Place::outside(world.cluster);
    for family in world.cluster.families().list() {
        for node in 1..=3 {
            let to = SocketAddr::new(world.cluster.node(node).address(*family), u16::try_from(port)?);
            let due = if node == 3 { 503 } else { 200 };
            wait::until(
                &format!("{to} says {due}"),
                PATIENCE,
                || Ok(outside.http(to, "/healthz")?.0 == due),
            )?;
        }
    }
    Ok(())
}

fn backends_go() -> Result<()> {
    let cluster = shared()?;
    let objects = vec![
        backend("u-1", 1, "u", LINES),
        backend("u-2", 2, "u", LINES),
        pod("client", 3, "client", &[]),
        service("u", "u", &json!({"type": "NodePort"})),
    ];
    let mut world = World::start(&cluster, "backends", objects)?;
    let mut table = Table::default();
    let service = world.service("u")?;
    let client = world.pod("client")?.clone();
    let outside = Place::outside(&cluster);
    let mut streams = Vec::new();
    for family in cluster.families().list() {
        let node_port = SocketAddr::new(cluster.node(3).address(*family), service.node_port(How::Udp)?);
        for (from, to) in [(&client, service.cluster(*family)?), (&outside, node_port)] {
            let name = format!("datagrams of one port from {} to {to}", from.name);
            streams.push((name, pinned(from, to, "u-1")?));
        }
    }
    world.delete_pod("u-1")?;
    for (name, socket) in streams {
        let moved = wait::until("the other backend answers", PATIENCE, || {
            Ok(matches!(socket.ask(), Ok(Reply::Answer { pod, .. }) if pod == "u-2"))
        });
        table.note(&name, moved);
    }
    for family in cluster.families().list() {
        for how in BOTH {
            let to = service.cluster(*family)?;
            table.row("the backend that is left", &client, how, to, by(&["u-2"], Seen::Own));
        }
    }
    table.run(&cluster);
    world.delete_pod("u-2")?;
    for family in cluster.families().list() {
        for how in BOTH {
            table.row("the last backend is gone", &client, how, service.cluster(*family)?, Expect::Refused);
        }
    }
    table.finish(&cluster)
}

/// A socket whose datagrams go to `pod`.
fn pinned(from: &Place, to: SocketAddr, pod: &str) -> Result<super::places::Datagrams> {
    let mut found = None;
    wait::until(&format!("{to} leads to {pod}"), PATIENCE, || {
        let socket = from.datagrams(to)?;
        let right = matches!(socket.ask()?, Reply::Answer { pod: answered, .. } if answered == pod);
        found = right.then_some(socket);
        Ok(right)
    })?;
    found.context("a socket")
}
