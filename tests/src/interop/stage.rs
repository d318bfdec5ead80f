//! Where a cell of the matrix is played: one segment, the agent, the daemon in question, and witnesses beside them.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::subject::Subject;
use crate::lab::{netns, wait};
use crate::peers::{Daemon, Neighbor, Originated, Peer, Setup};

/// Every namespace of a matrix starts so; the number of the process that made it follows.
pub(super) const PREFIX: &str = "mxi";
/// How long anything may take that two speakers do together.
pub(super) const PATIENCE: Duration = Duration::from_secs(25);
/// Our AS unless a cell is about it.
pub(super) const OUR_ASN: u32 = 64512;
/// What the agent announces.
pub(super) const OURS: [&str; 2] = ["10.244.0.0/26", "fd00:10:244::/122"];
/// What the daemon announces: inside our pools, so that our default policy believes it.
pub(super) const THEIRS: [&str; 2] = ["10.244.128.0/26", "fd00:10:244::8000/122"];

/// The AS of the speaker at `host`.
pub(super) fn asn(host: u8) -> u32 {
    65000 + u32::from(host)
}

/// The addresses of the speaker at `host`; the agent is host 1, the daemon host 2.
pub(super) fn v4(host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, host))
}

/// See [`v4`].
pub(super) fn v6(host: u8) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, host.into()))
}

/// Namespaces on one segment, which end with this value.
pub(super) struct Stage {
    name: String,
    dir: tempfile::TempDir,
    program: PathBuf,
    /// The daemon in question.
    pub(super) daemon: Daemon,
    hosts: Cell<u8>,
}

impl Stage {
    pub(super) fn new(program: &Path, daemon: Daemon) -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let dir = tempfile::Builder::new().prefix("manx-interop").tempdir()?;
        // FRR gives up its rights and must still enter.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let stage = Self { name, dir, program: program.to_owned(), daemon, hosts: Cell::new(0) };
        let switch = stage.netns_of(0);
        netns::add(&switch)?;
        netns::ip(&["-n", &switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0"])?;
        netns::ip(&["-n", &switch, "link", "set", "br0", "up"])?;
        for host in [1, 2] {
            stage.wire(host)?;
        }
        Ok(stage)
    }

    fn netns_of(&self, host: u8) -> String {
        format!("{}-{host}", self.name)
    }

    fn wire(&self, host: u8) -> Result<String> {
        let (switch, netns, port) = (self.netns_of(0), self.netns_of(host), format!("p{host}"));
        netns::add(&netns)?;
        self.hosts.set(self.hosts.get().max(host));
        netns::sysctl(
            &netns,
            &[
                "net.ipv4.ip_forward=1",
                "net.ipv6.conf.all.forwarding=1",
                "net.ipv6.conf.default.accept_dad=0",
            ],
        )?;
        let own = [format!("{}/24", v4(host)), format!("{}/64", v6(host))];
        netns::wire(
            &netns::End { netns: &netns, link: "eth0", addresses: &own },
            &netns::End { netns: &switch, link: &port, addresses: &[] },
        )?;
        netns::ip(&["-n", &switch, "link", "set", &port, "master", "br0"])?;
        Ok(netns)
    }

    /// The namespace of the daemon.
    pub(super) fn peer_netns(&self) -> String {
        self.netns_of(2)
    }

    /// The namespace of the agent.
    pub(super) fn agent_netns(&self) -> String {
        self.netns_of(1)
    }

    /// Starts the daemon in question.
    pub(super) fn peer(&self, setup: &Setup) -> Result<Peer> {
        Peer::start(self.daemon, &self.netns_of(2), &self.dir.path().join("peer"), setup)
    }

    /// Starts another speaker at `host`, 3 or more.
    pub(super) fn witness(&self, daemon: Daemon, host: u8, setup: &Setup) -> Result<Peer> {
        let netns = self.wire(host)?;
        Peer::start(daemon, &netns, &self.dir.path().join(format!("host{host}")), setup)
    }

    /// Starts the agent.
    pub(super) fn agent(&self, objects: &[Value]) -> Result<Subject> {
        Subject::start(&self.program, &self.netns_of(1), &self.dir.path().join("agent"), objects)
    }

    /// What all of them have written to their logs; called when a cell failed.
    pub(super) fn logs(&self) -> String {
        let mut text = String::new();
        for log in ["agent/agent.log", "peer/log", "peer/bird.log"] {
            let Ok(written) = std::fs::read_to_string(self.dir.path().join(log)) else { continue };
            let lines: Vec<&str> = written.lines().collect();
            let from = lines.len().saturating_sub(40);
            text.push_str(&format!("--- {log}\n{}\n", lines[from..].join("\n")));
        }
        text
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for host in 0..=self.hosts.get() {
            if let Err(error) = netns::delete(&self.netns_of(host)) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// The daemon at `host`, with a session to the agent over IPv4 and one route of each family.
pub(super) fn setup(host: u8) -> Setup {
    let own = Ipv4Addr::new(10, 96, 0, host);
    let mut setup = Setup::new(asn(host), own);
    let mut neighbor = Neighbor::new("agent", v4(1), OUR_ASN);
    neighbor.local = Some(v4(host));
    setup.neighbors.push(neighbor);
    setup.routes = THEIRS.map(route).into();
    for route in &mut setup.routes {
        route.next_hop = route.prefix.is_ipv6().then_some(v6(host));
    }
    setup
}

/// The same over IPv6.
pub(super) fn setup_v6(host: u8) -> Setup {
    let mut setup = setup(host);
    let neighbor = &mut setup.neighbors[0];
    neighbor.remote = crate::peers::Remote::Address(v6(1));
    neighbor.local = Some(v6(host));
    setup.routes[1].next_hop = None;
    setup
}

/// A route of that prefix.
pub(super) fn route(prefix: &str) -> Originated {
    Originated::new(prefix.parse().expect("written here"))
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "manx.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// What the agent is told in every cell: its addresses, its pools, its blocks, and no mesh; `config` is merged in.
pub(super) fn own_objects(config: &Value) -> Vec<Value> {
    let asn = config["asNumber"].as_u64().unwrap_or_else(|| OUR_ASN.into());
    let mut configuration = json!({"asNumber": asn, "topology": "None"});
    merge(&mut configuration, config);
    let block = |name: &str, index: usize, pool: &str| {
        object("IPBlock", name, json!({"cidr": OURS[index], "node": "dut", "pool": pool}))
    };
    vec![
        object(
            "NodeNetwork",
            "dut",
            json!({"addresses": {"ipv4": v4(1), "ipv6": v6(1)}, "asNumber": asn,
                                            "routerId": v4(1), "nodeUID": "dut"}),
        ),
        object("IPPool", "four", json!({"cidr": "10.244.0.0/16", "blockSize": 26, "natOutgoing": false})),
        object("IPPool", "six", json!({"cidr": "fd00:10:244::/112", "blockSize": 122, "natOutgoing": false})),
        block("10-244-0-0-26", 0, "four"),
        block("fd00-10-244---122", 1, "six"),
        object("BGPConfiguration", "default", configuration),
    ]
}

/// A session of the agent named `name` with the speaker at `host`; `spec` is merged in.
pub(super) fn peer_object(name: &str, host: u8, spec: &Value) -> Value {
    let mut whole = json!({"peerIP": v4(host), "asNumber": asn(host), "holdTimeSeconds": 9});
    merge(&mut whole, spec);
    object("BGPPeer", name, whole)
}

/// A filter that tells and believes everything.
pub(super) fn open_filter() -> Value {
    let all = json!([{"name": "all", "action": "Accept"}]);
    object("BGPFilter", "open", json!({"importV4": all, "importV6": all, "exportV4": all, "exportV6": all}))
}

/// A Secret with one password.
pub(super) fn secret(password: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bgp", "namespace": "manx-system"},
           "stringData": {"password": password}})
}

/// Where a BGPPeer finds the password of [`secret`].
pub(super) fn password() -> Value {
    json!({"passwordSecretRef": {"namespace": "manx-system", "name": "bgp", "key": "password"}})
}

/// Sets every key of `with`; null takes the key away.
fn merge(into: &mut Value, with: &Value) {
    for (key, value) in with.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
    if let Some(into) = into.as_object_mut() {
        into.retain(|_, value| !value.is_null());
    }
}

/// What the agent is told for one session with the daemon.
pub(super) fn objects(spec: &Value) -> Vec<Value> {
    let mut objects = own_objects(&Value::Null);
    objects.push(peer_object("dut", 2, spec));
    objects
}

/// The daemon and the agent.
pub(super) struct Pair {
    pub(super) peer: Peer,
    pub(super) agent: Subject,
}

impl Pair {
    /// Starts both and waits for their session.
    pub(super) fn up(stage: &Stage, setup: &Setup, objects: &[Value]) -> Result<Self> {
        let pair = Self::start(stage, setup, objects)?;
        pair.established()?;
        Ok(pair)
    }

    /// Starts both.
    pub(super) fn start(stage: &Stage, setup: &Setup, objects: &[Value]) -> Result<Self> {
        let peer = stage.peer(setup)?;
        Ok(Self { peer, agent: stage.agent(objects)? })
    }

    /// Waits until both call the session established.
    pub(super) fn established(&self) -> Result<()> {
        wait::until("both call the session established", PATIENCE, || {
            Ok(self.agent.session("peer/dut")?.established && self.peer.session("agent")?.established)
        })
        .with_context(|| {
            let theirs = self.peer.session("agent").map(|session| session.state);
            format!("ours: {:?}, theirs: {theirs:?}", self.agent.session("peer/dut"))
        })
    }

    /// Waits until the daemon has heard `prefix` from us.
    pub(super) fn peer_hears(&self, prefix: &str) -> Result<crate::peers::Heard> {
        let mut found = None;
        wait::until(&format!("the daemon hears {prefix}"), PATIENCE, || {
            found = self.peer.heard("agent")?.into_iter().find(|heard| heard.prefix == prefix);
            Ok(found.is_some())
        })
        .with_context(|| format!("it heard {:?}", self.peer.heard("agent")))?;
        found.context("just found")
    }

    /// Waits until our kernel has `prefix`.
    pub(super) fn agent_routes(&self, prefix: &str) -> Result<Value> {
        let mut found = None;
        wait::until(&format!("our kernel has {prefix}"), PATIENCE, || {
            found = self.agent.route(prefix)?;
            Ok(found.is_some())
        })
        .with_context(|| format!("it has {:?}", self.agent.kernel_routes()))?;
        found.context("just found")
    }

    /// Waits until the daemon's kernel has `prefix`.
    pub(super) fn peer_routes(&self, prefix: &str) -> Result<()> {
        wait::until(&format!("the daemon's kernel has {prefix}"), PATIENCE, || {
            Ok(self.peer.kernel_routes()?.iter().any(|route| route == prefix))
        })
        .with_context(|| format!("it has {:?}", self.peer.kernel_routes()))
    }
}

/// One of the kernel's TCP counters inside a namespace.
pub(super) fn tcp_counter(netns: &str, name: &str) -> Result<u64> {
    let text = netns::text(netns, &["cat", "/proc/net/netstat"])?;
    let lines: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("TcpExt:"))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let [names, values] = lines.as_slice() else { anyhow::bail!("no TcpExt counters") };
    let place = names.iter().position(|found| *found == name);
    ensure!(place.is_some(), "this kernel has no counter {name}");
    Ok(place.and_then(|place| values.get(place)?.parse().ok()).unwrap_or(0))
}

/// Watches the routes of a namespace, to see whether one was ever gone.
pub(super) struct Watch {
    child: std::process::Child,
    file: PathBuf,
}

impl Watch {
    /// Starts to watch.
    pub(super) fn start(stage: &Stage, netns: &str) -> Result<Self> {
        let file = stage.dir.path().join("monitor");
        let child = netns::command(netns, "ip")
            .args(["monitor", "route"])
            .stdin(std::process::Stdio::null())
            .stdout(std::fs::File::create(&file)?)
            .stderr(std::process::Stdio::null())
            .spawn()?;
        let watch = Self { child, file };
        // A route of no consequence shows that it listens.
        wait::until("the monitor of routes listens", PATIENCE, || {
            let _ = netns::ip(&["-n", netns, "route", "add", "blackhole", "192.0.2.1/32"]);
            let _ = netns::ip(&["-n", netns, "route", "del", "blackhole", "192.0.2.1/32"]);
            Ok(watch.text()?.contains("192.0.2.1"))
        })?;
        Ok(watch)
    }

    fn text(&self) -> Result<String> {
        std::fs::read_to_string(&self.file).map_err(Into::into)
    }

    /// Fails when `prefix` was taken away meanwhile.
    pub(super) fn ensure_kept(&self, prefix: &str) -> Result<()> {
        let text = self.text()?;
        let gone = text.lines().find(|line| line.starts_with("Deleted") && line.contains(prefix));
        ensure!(gone.is_none(), "the route was gone for a while: {gone:?}");
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
