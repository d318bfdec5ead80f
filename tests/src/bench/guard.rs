//! `bench guard`: what a packet of 64 octets costs from pod to pod across two nodes, with and without the guards of
//! pods, beside the same packet from node to node.
//!
//! Two nodes are joined by a router, each with one pod, all of them network namespaces. The sender is bound to one
//! processor, and the kernel carries each packet through all of them before the call returns; the receiver is a socket
//! that is always full, so that nobody else runs. What is counted is the time of a call for 64 packets.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use manx_kernel::guard::{Admission, GuardRules};
use manx_kernel::names::Mac;
use manx_kernel::netlink::guard::{Gate, Gates, Guard, admit};
use manx_kernel::netlink::links;
use manx_kernel::netlink::socket::Socket;
use manx_kernel::netns::NetNs;
use manx_kernel::pod::PodLink;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
use nix::unistd::Pid;

use super::Row;
use crate::lab::netns::{self, End};

/// What all namespaces of this benchmark are called by.
const PREFIX: &str = "mx-guard-";
/// Octets of payload: with the headers of UDP and IPv4 a packet of 64.
const PAYLOAD: [u8; 36] = [7; 36];
const PORT: u16 = 9;
/// Packets of one call.
const BATCH: usize = 64;
/// Calls of one sample.
const CALLS: usize = 300;

/// Node, its address towards the router and the router's own there, its pod's addresses.
struct Side {
    node: &'static str,
    pod: &'static str,
    node_addresses: [&'static str; 2],
    router_addresses: [&'static str; 2],
    pod_addresses: [&'static str; 2],
    mac: Mac,
}

static SIDES: [Side; 2] = [
    Side {
        node: "mx-guard-left",
        pod: "mx-guard-left-pod",
        node_addresses: ["192.0.2.1", "2001:db8:1::1"],
        router_addresses: ["192.0.2.2", "2001:db8:1::2"],
        pod_addresses: ["10.244.1.7", "fd00:10:244:1::7"],
        mac: Mac([0x0a, 0x58, 0, 0, 1, 7]),
    },
    Side {
        node: "mx-guard-right",
        pod: "mx-guard-right-pod",
        node_addresses: ["198.51.100.1", "2001:db8:2::1"],
        router_addresses: ["198.51.100.2", "2001:db8:2::2"],
        pod_addresses: ["10.244.2.7", "fd00:10:244:2::7"],
        mac: Mac([0x0a, 0x58, 0, 0, 2, 7]),
    },
];
const ROUTER: &str = "mx-guard-router";
const LINK: &str = "cali0";

/// Which guards are in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guards {
    None,
    /// What a pod's link may bring.
    Link,
    /// And the ports that pods may not reach.
    All,
}

/// The namespaces; they go with this.
struct Bed;

impl Drop for Bed {
    fn drop(&mut self) {
        for name in netns::list(PREFIX) {
            // What is left the next run removes.
            let _ = netns::delete(&name);
        }
    }
}

/// Runs the benchmark; `rounds` samples of each way.
pub fn run(rounds: usize) -> Result<Vec<Row>> {
    let _bed = build()?;
    let mut cpu = CpuSet::new();
    cpu.set(0)?;
    let before = nix::sched::sched_getaffinity(Pid::from_raw(0))?;
    sched_setaffinity(Pid::from_raw(0), &cpu)?;
    let rows = [0, 1].map(|family| measure(family, rounds));
    sched_setaffinity(Pid::from_raw(0), &before)?;
    rows.into_iter().collect::<Result<Vec<_>>>().map(|rows| rows.concat())
}

fn measure(family: usize, rounds: usize) -> Result<Vec<Row>> {
    let [left, right] = &SIDES;
    let host = Way::new(left.node, right.node, right.node_addresses[family])?;
    let pods = Way::new(left.pod, right.pod, right.pod_addresses[family])?;
    let mut samples: [Vec<f64>; 4] = Default::default();
    for round in 0..=rounds {
        let mut sample = [0.0; 4];
        sample[0] = host.blast()?;
        for (guards, sample) in [Guards::None, Guards::Link, Guards::All].into_iter().zip(&mut sample[1..]) {
            SIDES.iter().try_for_each(|side| put(side, guards))?;
            *sample = pods.blast()?;
        }
        // The first round warms caches up.
        if round > 0 {
            samples.iter_mut().zip(sample).for_each(|(samples, sample)| samples.push(sample));
        }
    }
    let [host, none, link, all] = samples;
    let what = |what: &str| format!("UDP packet of 64 octets, {}, {what}", ["IPv4", "IPv6"][family]);
    let row = |text: &str, peer: &str, ours: &Vec<f64>, theirs: &Vec<f64>, target| Row {
        what: what(text),
        peer: peer.to_owned(),
        ours: ours.clone(),
        theirs: theirs.clone(),
        unit: "ns",
        target,
    };
    Ok(vec![
        row("pods, all guards", "host to host", &all, &host, "<= 1.5"),
        row("pods, no guard", "host to host", &none, &host, ""),
        row("guard of the link", "no guard", &link, &none, ""),
        row("all guards", "no guard", &all, &none, ""),
    ])
}

/// A socket to send by, and one that receives and is full.
struct Way {
    sender: UdpSocket,
    _receiver: UdpSocket,
    receiver: &'static str,
    v4: bool,
}

impl Way {
    fn new(from: &'static str, to: &'static str, address: &str) -> Result<Self> {
        let address: IpAddr = address.parse()?;
        let place = SocketAddr::new(address, PORT);
        let receiver = netns::enter(to, || {
            let socket = UdpSocket::bind(place)?;
            socket2::SockRef::from(&socket).set_recv_buffer_size(0)?;
            Ok(socket)
        })?;
        let sender = netns::enter(from, || {
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            socket.connect(place)?;
            Ok(socket)
        })?;
        Ok(Self { sender, _receiver: receiver, receiver: to, v4: address.is_ipv4() })
    }

    /// Nanoseconds of one packet: the fifth percentile of all calls.
    fn blast(&self) -> Result<f64> {
        let payload = [std::io::IoSlice::new(&PAYLOAD)];
        let slices = [&payload; BATCH];
        let addresses: [Option<SockaddrStorage>; BATCH] = [None; BATCH];
        let mut headers = MultiHeaders::preallocate(BATCH, None);
        let mut calls = Vec::with_capacity(CALLS);
        let before = self.arrived()?;
        for _ in 0..CALLS {
            let begin = Instant::now();
            let fd = self.sender.as_raw_fd();
            let sent = sendmmsg(fd, &mut headers, slices, addresses, [], MsgFlags::empty())?;
            let count = sent.count();
            calls.push(begin.elapsed().as_nanos() as f64 / BATCH as f64);
            ensure!(count == BATCH, "only {count} packets were sent");
        }
        let arrived = self.arrived()? - before;
        let sent = (BATCH * CALLS) as u64;
        ensure!(arrived * 100 >= sent * 99, "of {sent} packets only {arrived} arrived");
        calls.sort_by(f64::total_cmp);
        Ok(calls[CALLS / 20])
    }

    /// How many datagrams found the receiver full so far.
    fn arrived(&self) -> Result<u64> {
        if self.v4 {
            let text = netns::text(self.receiver, &["cat", "/proc/net/snmp"])?;
            let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
            let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
            let mut pairs = names.split(' ').zip(values.split(' '));
            let (_, value) = pairs.find(|(name, _)| *name == "RcvbufErrors").context("no counter")?;
            return Ok(value.parse()?);
        }
        let text = netns::text(self.receiver, &["cat", "/proc/net/snmp6"])?;
        let value = text.lines().find_map(|line| line.strip_prefix("Udp6RcvbufErrors"));
        Ok(value.context("no counter")?.trim().parse()?)
    }
}

/// Two nodes, a router between them, and a pod on each.
fn build() -> Result<Bed> {
    let bed = Bed;
    drop(Bed);
    let names = [ROUTER].into_iter().chain(SIDES.iter().flat_map(|side| [side.node, side.pod]));
    names.into_iter().try_for_each(netns::add)?;
    let forward =
        ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.rp_filter=0"];
    for name in [ROUTER, SIDES[0].node, SIDES[1].node] {
        netns::sysctl(name, &forward)?;
    }
    for (number, side) in SIDES.iter().enumerate() {
        let lengths = |addresses: [&str; 2]| [format!("{}/24", addresses[0]), format!("{}/64", addresses[1])];
        let (ours, routers) = (lengths(side.node_addresses), lengths(side.router_addresses));
        let router_link = format!("to{number}");
        netns::wire(
            &End { netns: side.node, link: "up0", addresses: &ours },
            &End { netns: ROUTER, link: &router_link, addresses: &routers },
        )?;
    }
    for side in &SIDES {
        for family in [0, 1] {
            let default = ["0.0.0.0/0", "::/0"][family];
            netns::ip(&["-n", side.node, "route", "add", default, "via", side.router_addresses[family]])?;
            let (pod, node) = (side.pod_addresses[family], side.node_addresses[family]);
            netns::ip(&["-n", ROUTER, "route", "add", pod, "via", node])?;
        }
        make_pod(side)?;
    }
    Ok(bed)
}

fn make_pod(side: &Side) -> Result<()> {
    let link = pod_link(side)?;
    netns::enter(side.node, || {
        let netns = NetNs::open(&netns::path(side.pod))?;
        let (mut host, mut pod) = (Socket::route()?, netns.within(Socket::route)??);
        let ends = links::create(&mut host, &link, &netns)?.context("the names are taken")?;
        links::set_up_inside(&mut pod, &netns, &link, ends.pod)?;
        links::set_up_outside(&mut host, &link, ends.host)?;
        links::await_carrier(&mut pod, &link)?;
        Ok(())
    })
}

fn pod_link(side: &Side) -> Result<PodLink> {
    let addresses: Result<Vec<IpAddr>, _> = side.pod_addresses.iter().map(|text| text.parse()).collect();
    Ok(PodLink {
        container: "bench".to_owned(),
        ifname: "eth0".to_owned(),
        link: LINK.to_owned(),
        addresses: addresses?,
        mtu: 1500,
        mac: side.mac,
    })
}

/// Puts guards in place as the plugin and the agent do, or takes them away.
fn put(side: &Side, guards: Guards) -> Result<()> {
    let admission = Admission::of(&pod_link(side)?);
    let routers = side.router_addresses.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let rules = GuardRules { ports: [179, 9470].into(), router_ports: [179].into(), routers };
    netns::enter(side.node, || {
        let mut gates = Gates::open()?.context("this kernel cannot filter at the ingress of links")?;
        let handle = gates.handles()?.get(LINK).copied();
        match (guards, handle) {
            (Guards::None, Some(handle)) => drop(gates.forget(handle)?),
            (Guards::None, None) => {}
            _ => ensure!(admit(&mut Socket::netfilter()?, &admission)? == Gate::Shut, "no guard"),
        }
        let mut guard = Guard::open()?;
        if guards == Guards::All {
            guard.replace(&rules)?
        } else {
            guard.remove()?
        }
        Ok(())
    })
}
