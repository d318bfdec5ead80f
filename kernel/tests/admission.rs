//! What comes in by the link of a pod, in a real kernel: the pod is the attacker, with a raw socket and all privileges
//! in its namespace.

#![expect(clippy::disallowed_types, reason = "the attacks of a pod go over the network")]

mod frames;
mod namespace;
mod pods;

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use frames::{ARP, ICMPV6, IP, IPV6, UDP, Wire, ethernet, v4, v6};
use manx_kernel::guard::Admission;
use manx_kernel::names::{HOST_LINK_LOCAL, HOST_MAC, Mac};
use manx_kernel::netlink::guard::{Audit, Gate, Gates, admit, admitted};
use manx_kernel::netlink::socket::Socket;
use namespace::{command, ip, nft};
use pods::Pod;

const MAC: Mac = Mac([0x0a, 0x58, 0x0a, 0xf4, 0, 7]);
const BROADCAST: Mac = Mac([0xff; 6]);
const POD_V4: &str = "10.244.0.7";
const POD_V6: &str = "fd00:10:244::7";
const OTHER_POD_V4: &str = "10.244.0.8";
const OTHER_POD_V6: &str = "fd00:10:244::8";
const NODE_V4: &str = "192.0.2.1";
const NODE_V6: &str = "2001:db8::1";

fn admission(link: &str, addresses: &[&str]) -> Admission {
    let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().expect("an address")).collect();
    Admission { link: link.to_owned(), mac: MAC, addresses }
}

/// What the attacker does.
trait Attacker {
    fn send(&self, frames: Vec<Vec<u8>>);
    /// Takes the guard away, as if there had never been one.
    fn unguard(&self);
    fn guard(&self);
}

impl Attacker for Pod {
    fn send(&self, frames: Vec<Vec<u8>>) {
        self.home.run(move || {
            let wire = Wire::open("eth0");
            frames.iter().for_each(|frame| wire.send(frame));
        });
    }

    fn unguard(&self) {
        nft(&format!("delete table netdev manx-{}", self.link.link));
    }

    fn guard(&self) {
        let mut netfilter = Socket::netfilter().expect("a socket");
        admit(&mut netfilter, &Admission::of(&self.link)).expect("admitted");
    }
}

/// A node with two pods; the first is the attacker.
fn node_with_pods() -> (Pod, Pod) {
    ip("link set lo up");
    // Proxy ARP answers only for what the node would send elsewhere.
    for arguments in [
        "link add up1 type veth peer name up1-peer",
        &format!("addr add {NODE_V4}/24 dev up1"),
        &format!("addr add {NODE_V6}/64 dev up1 nodad"),
        "link set up1-peer up",
        "link set up1 up",
        "route add default via 192.0.2.254",
    ] {
        ip(arguments);
    }
    command(
        "sysctl",
        "-qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0",
    );
    let attacker = Pod::new("cali1", MAC, &[POD_V4, POD_V6]);
    let other = Pod::new("cali2", Mac([0x0a, 0x58, 0x0a, 0xf4, 0, 8]), &[OTHER_POD_V4, OTHER_POD_V6]);
    (attacker, other)
}

/// Counts what passes the guard of the first pod's link, whatever the node does with it then.
struct Passed {
    before: Cell<u64>,
}

impl Passed {
    fn count() -> Option<Self> {
        nft("add table netdev count")?;
        nft("add chain netdev count in { type filter hook ingress device cali1 priority 0; }")?;
        nft("add rule netdev count in counter")?;
        Some(Self { before: Cell::new(0) })
    }

    fn of(&self, pod: &Pod, frame: &[u8]) -> u64 {
        pod.send(vec![frame.to_vec()]);
        let listed = nft("list chain netdev count in").unwrap_or_default();
        let (_, rest) = listed.split_once("packets ").expect("a counter");
        let now: u64 = rest.split(' ').next().and_then(|number| number.parse().ok()).expect("a number");
        now - self.before.replace(now)
    }
}

fn udp_v4(mac: Mac, source: &str) -> Vec<u8> {
    let (from, to) = (v4(source), v4(OTHER_POD_V4));
    let datagram = frames::udp(from.into(), to.into(), (7000, 9000), b"x");
    ethernet(HOST_MAC, mac, IP, &frames::ipv4(from, to, 0, &[], &datagram))
}

fn udp_v6(mac: Mac, source: &str) -> Vec<u8> {
    let (from, to) = (v6(source), v6(OTHER_POD_V6));
    let datagram = frames::udp(from.into(), to.into(), (7000, 9000), b"x");
    ethernet(HOST_MAC, mac, IPV6, &frames::ipv6(from, to, UDP, &datagram))
}

fn arp(mac: Mac, operation: u16, said: Mac, sender: &str, target: &str) -> Vec<u8> {
    ethernet(BROADCAST, mac, ARP, &frames::arp(operation, said, v4(sender), v4(target)))
}

/// An ICMPv6 message to the host's end or, with hop limit 255 all the same, to anybody.
fn icmpv6(source: Ipv6Addr, to: Ipv6Addr, kind: u8, body: &[u8]) -> Vec<u8> {
    ethernet(HOST_MAC, MAC, IPV6, &frames::ipv6(source, to, ICMPV6, &frames::icmpv6(source, to, kind, body)))
}

/// An IPv6 packet of the pod with a header in between.
fn extended(source: Ipv6Addr, (next, payload): (u8, Vec<u8>)) -> Vec<u8> {
    ethernet(HOST_MAC, MAC, IPV6, &frames::ipv6(source, HOST_LINK_LOCAL, next, &payload))
}

fn advertisement(source: Ipv6Addr) -> Vec<u8> {
    let body = frames::router_advertisement(v6("2001:db8:bad::"));
    frames::icmpv6(source, HOST_LINK_LOCAL, 134, &body)
}

type Frames = Vec<(&'static str, Vec<u8>)>;

fn attacks_v4() -> Frames {
    let other_mac = Mac([2, 0, 0, 0, 0, 9]);
    let spoofed = |fragment, options: &[u8]| {
        let packet = frames::ipv4(v4(OTHER_POD_V4), v4("10.244.9.9"), fragment, options, &[0; 16]);
        ethernet(HOST_MAC, MAC, IP, &packet)
    };
    let own = udp_v4(MAC, POD_V4);
    vec![
        ("another pod's address", udp_v4(MAC, "10.244.0.9")),
        ("the node's address", udp_v4(MAC, NODE_V4)),
        ("the gateway's address", udp_v4(MAC, "169.254.1.1")),
        ("an address outside", udp_v4(MAC, "8.8.8.8")),
        ("no address", udp_v4(MAC, "0.0.0.0")),
        ("a group's address", udp_v4(MAC, "224.0.0.1")),
        ("the broadcast address", udp_v4(MAC, "255.255.255.255")),
        ("the loopback address", udp_v4(MAC, "127.0.0.1")),
        ("another hardware address", udp_v4(other_mac, POD_V4)),
        ("the host's hardware address", udp_v4(HOST_MAC, POD_V4)),
        ("another pod's address in a first fragment", spoofed(0x2000, &[])),
        ("another pod's address in a later fragment", spoofed(2, &[])),
        ("another pod's address behind options", spoofed(0, &[0x94, 4, 0, 0])),
        ("a tag", frames::tagged(&own, 0x8100, 5)),
        ("the tag that is none", frames::tagged(&own, 0x8100, 0)),
        ("a provider's tag", frames::tagged(&own, 0x88a8, 5)),
        ("two tags", frames::tagged(&frames::tagged(&own, 0x8100, 5), 0x88a8, 6)),
        ("ARP that asks for another pod", arp(MAC, 1, MAC, OTHER_POD_V4, "169.254.1.1")),
        ("ARP that answers for the gateway", arp(MAC, 2, MAC, "169.254.1.1", NODE_V4)),
        ("ARP that answers for the node", arp(MAC, 2, MAC, NODE_V4, NODE_V4)),
        ("ARP with another hardware address inside", arp(MAC, 1, other_mac, POD_V4, "169.254.1.1")),
        ("ARP with another hardware address outside", arp(other_mac, 1, MAC, POD_V4, "169.254.1.1")),
        ("ARP that probes", arp(MAC, 1, MAC, "0.0.0.0", POD_V4)),
        ("ARP with a tag", frames::tagged(&arp(MAC, 1, MAC, POD_V4, "169.254.1.1"), 0x8100, 0)),
        ("ARP cut short", ethernet(BROADCAST, MAC, ARP, &[0, 1, 8, 0, 6, 4, 0, 1])),
        ("RARP", ethernet(BROADCAST, MAC, 0x8035, &[0; 28])),
        ("a bridge's hello", ethernet(Mac([1, 0x80, 0xc2, 0, 0, 0]), MAC, 38, &[0x42; 46])),
        ("LLDP", ethernet(Mac([1, 0x80, 0xc2, 0, 0, 14]), MAC, 0x88cc, &[0; 46])),
        ("MPLS", ethernet(HOST_MAC, MAC, 0x8847, &[0; 46])),
        ("IPv4 that calls itself IPv6", ethernet(HOST_MAC, MAC, IPV6, &own[14..])),
    ]
}

fn attacks_v6() -> Frames {
    let (own, link_local) = (v6(POD_V6), MAC.link_local());
    let (all_nodes, nobody) = (v6("ff02::1"), Ipv6Addr::UNSPECIFIED);
    let solicit = |source, target: &str| {
        icmpv6(source, v6("ff02::1:ff00:1"), 135, &frames::neighbour(v6(target), 1, MAC))
    };
    let claim = |source, target: &str| icmpv6(source, all_nodes, 136, &frames::neighbour(v6(target), 2, MAC));
    let advertised = advertisement(link_local);
    let redirect = [&[0; 4][..], &link_local.octets(), &v6("2001:db8::9").octets()].concat();
    let mut attacks: Frames = [
        ("another pod's address", "fd00:10:244::9"),
        ("the node's address", NODE_V6),
        ("the gateway's address", "fe80::ecee:eeff:feee:eeee"),
        ("another link-local address", "fe80::bad"),
        ("an address outside", "2001:db8:1::1"),
        ("no address", "::"),
        ("the loopback address", "::1"),
        ("a group's address", "ff02::1"),
        ("an IPv4 address in IPv6", "::ffff:10.244.0.7"),
    ]
    .map(|(what, source)| (what, udp_v6(MAC, source)))
    .into();
    attacks.extend([
        ("another hardware address", udp_v6(Mac([2, 0, 0, 0, 0, 9]), POD_V6)),
        ("a tag", frames::tagged(&udp_v6(MAC, POD_V6), 0x8100, 7)),
        ("a question whether an address is free", solicit(nobody, "fd00:10:244::7")),
        ("a question from another pod", solicit(v6(OTHER_POD_V6), "fe80::ecee:eeff:feee:eeee")),
        ("a question from another link-local address", solicit(v6("fe80::1:2"), "fe80::ecee:eeff:feee:eeee")),
        ("a question about another pod", solicit(own, OTHER_POD_V6)),
        ("a question about the node", solicit(link_local, NODE_V6)),
        ("an answer for another pod", claim(own, OTHER_POD_V6)),
        ("an answer for the gateway", claim(own, "fe80::ecee:eeff:feee:eeee")),
        ("an answer for the node", claim(link_local, NODE_V6)),
        ("a question for routers", icmpv6(link_local, v6("ff02::2"), 133, &[0; 4])),
        ("a router advertisement", extended(link_local, (ICMPV6, advertised.clone()))),
        ("one from the pod's other address", extended(own, (ICMPV6, advertisement(own)))),
        (
            "one behind hop-by-hop options",
            extended(link_local, frames::behind_hop_by_hop(ICMPV6, &advertised)),
        ),
        (
            "one behind destination options",
            extended(link_local, frames::behind_destination_options(ICMPV6, &advertised)),
        ),
        ("one in a whole fragment", extended(link_local, frames::fragment(ICMPV6, 0, false, &advertised))),
        (
            "one in a first fragment",
            extended(link_local, frames::fragment(ICMPV6, 0, true, &advertised[..16])),
        ),
        ("a first fragment too short to tell", extended(link_local, short_of_a_type())),
        ("a later fragment that begins with a header", extended(link_local, late_header())),
        ("a redirect", icmpv6(link_local, HOST_LINK_LOCAL, 137, &redirect)),
        ("a report of groups", icmpv6(link_local, v6("ff02::16"), 143, &[0; 4])),
        ("a question about groups", icmpv6(link_local, all_nodes, 130, &[0; 20])),
        ("a question about names", icmpv6(own, HOST_LINK_LOCAL, 139, &[0; 28])),
        ("half a header", ethernet(HOST_MAC, MAC, IPV6, &udp_v6(MAC, POD_V6)[14..34])),
        ("headers without an end", extended(own, (frames::DESTINATION_OPTIONS, vec![ICMPV6, 200, 1, 4]))),
    ]);
    attacks
}

/// A first fragment that ends behind a header of options: which type of ICMPv6 follows shows only in the next one.
fn short_of_a_type() -> (u8, Vec<u8>) {
    let (next, options) = frames::behind_destination_options(ICMPV6, &[]);
    frames::fragment(next, 0, true, &options)
}

fn late_header() -> (u8, Vec<u8>) {
    let (next, options) = frames::behind_destination_options(ICMPV6, &advertisement(MAC.link_local()));
    frames::fragment(next, 1, false, &options)
}

fn honest_v4() -> Frames {
    let own = |fragment, options: &[u8]| {
        let packet = frames::ipv4(v4(POD_V4), v4(OTHER_POD_V4), fragment, options, &[0; 16]);
        ethernet(HOST_MAC, MAC, IP, &packet)
    };
    vec![
        ("a datagram", udp_v4(MAC, POD_V4)),
        ("a first fragment", own(0x2000, &[])),
        ("a later fragment", own(2, &[])),
        ("options", own(0, &[0x94, 4, 0, 0])),
        ("ARP for the gateway", arp(MAC, 1, MAC, POD_V4, "169.254.1.1")),
        ("ARP for another pod", arp(MAC, 1, MAC, POD_V4, OTHER_POD_V4)),
        ("an answer to ARP", arp(MAC, 2, MAC, POD_V4, NODE_V4)),
    ]
}

fn honest_v6() -> Frames {
    let (own, link_local) = (v6(POD_V6), MAC.link_local());
    let datagram = frames::udp(own.into(), HOST_LINK_LOCAL.into(), (7000, 9000), b"x");
    let echo = frames::icmpv6(own, HOST_LINK_LOCAL, 128, &[0, 1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]);
    let solicit =
        |source| icmpv6(source, v6("ff02::1:ffee:eeee"), 135, &frames::neighbour(HOST_LINK_LOCAL, 1, MAC));
    let claim = |source, target| icmpv6(source, HOST_LINK_LOCAL, 136, &frames::neighbour(target, 2, MAC));
    vec![
        ("a datagram", udp_v6(MAC, POD_V6)),
        ("a datagram from the link-local address", udp_v6(MAC, &link_local.to_string())),
        ("a datagram behind hop-by-hop options", extended(own, frames::behind_hop_by_hop(UDP, &datagram))),
        ("a first fragment", extended(own, frames::fragment(UDP, 0, true, &datagram))),
        ("a later fragment", extended(own, frames::fragment(UDP, 2, false, &[0; 16]))),
        ("an echo", extended(own, (ICMPV6, echo.clone()))),
        ("the first fragment of an echo", extended(own, frames::fragment(ICMPV6, 0, true, &echo))),
        ("a later fragment of an echo", extended(own, frames::fragment(ICMPV6, 2, false, &[0; 16]))),
        ("an error", icmpv6(own, v6(OTHER_POD_V6), 2, &[0; 52])),
        ("who is the gateway?", solicit(own)),
        ("who is the gateway? from the link-local address", solicit(link_local)),
        ("that is me", claim(own, own)),
        ("that is me, by the link-local address", claim(link_local, link_local)),
    ]
}

#[test]
fn every_frame_that_is_not_the_pods_own_is_stopped_at_its_link_and_every_other_passes() {
    namespace::run(|| {
        let (attacker, _other) = node_with_pods();
        // What the pod's own kernel sends or answers would be counted too.
        attacker.home.run(|| {
            ip("addr flush dev eth0");
            command("sysctl", "-qw net.ipv6.conf.eth0.disable_ipv6=1");
        });
        let Some(passed) = Passed::count() else { return };
        let attacks: Frames = [attacks_v4(), attacks_v6()].concat();
        let honest: Frames = [honest_v4(), honest_v6()].concat();
        for (what, frame) in attacks.iter() {
            assert_eq!(passed.of(&attacker, frame), 0, "passes: {what}");
        }
        for (what, frame) in honest.iter() {
            assert_eq!(passed.of(&attacker, frame), 1, "is stopped: {what}");
        }
        attacker.unguard();
        for (what, frame) in attacks.iter() {
            assert_eq!(passed.of(&attacker, frame), 1, "does not reach the link: {what}");
        }
    });
}

/// How many entries the node's tables of neighbours have, besides those for groups.
fn neighbours() -> usize {
    let all = ip("-4 neigh show nud all") + &ip("-6 neigh show nud all");
    all.lines().filter(|line| !line.ends_with("NOARP ")).count()
}

fn flood(number: u16) -> Vec<Vec<u8>> {
    let question = |n: u16| {
        let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xbad, 0, 0, n);
        icmpv6(source, v6("ff02::1:ffee:eeee"), 135, &frames::neighbour(HOST_LINK_LOCAL, 1, MAC))
    };
    let arp = |n: u16| {
        let sender = Ipv4Addr::from_bits(v4("10.250.0.0").to_bits() + u32::from(n));
        ethernet(BROADCAST, MAC, ARP, &frames::arp(1, MAC, sender, v4("10.244.0.8")))
    };
    (1..=number).flat_map(|n| [question(n), arp(n)]).collect()
}

#[test]
fn no_flood_of_questions_fills_the_nodes_tables_of_neighbours() {
    namespace::run(|| {
        let (attacker, _other) = node_with_pods();
        let before = neighbours();
        attacker.send(flood(5000));
        assert_eq!(neighbours(), before);
        attacker.unguard();
        // All namespaces of a machine share the limit of these tables.
        attacker.send(flood(100));
        assert!(neighbours() >= before + 100, "a flood fills nothing without a guard either");
    });
}

#[test]
fn no_router_advertisement_gives_the_node_a_route_or_an_address() {
    namespace::run(|| {
        let (attacker, _other) = node_with_pods();
        // As if somebody had undone what the plugin sets.
        command("sysctl", "-qw net.ipv6.conf.cali1.accept_ra=2");
        let advertised = || {
            let frame = extended(MAC.link_local(), (ICMPV6, advertisement(MAC.link_local())));
            attacker.send(vec![frame.clone(), frame]);
            (ip("-6 route show proto ra"), ip("-6 addr show dev cali1 dynamic"))
        };
        assert_eq!(advertised(), (String::new(), String::new()));
        attacker.unguard();
        let (routes, addresses) = advertised();
        assert!(routes.contains("default via fe80::858:aff:fef4:7"), "{routes}");
        assert!(addresses.contains("2001:db8:bad:"), "{addresses}");
    });
}

/// Receives at the other pod what comes from somebody else than it says.
fn victim(other: &Pod) -> UdpSocket {
    other.home.run(|| UdpSocket::bind("[::]:9000").expect("a socket"))
}

/// How many octets come, at once if none should.
fn hears(socket: &UdpSocket, expected: Option<usize>) -> bool {
    let patience = Duration::from_millis(if expected.is_some() { 10_000 } else { 300 });
    socket.set_read_timeout(Some(patience)).expect("a timeout");
    socket.recv(&mut [0; 5000]).ok() == expected
}

#[test]
fn nothing_with_a_forged_source_reaches_another_pod() {
    namespace::run(|| {
        let (attacker, other) = node_with_pods();
        // As if somebody had undone what the plugin sets; IPv6 has no such check at all.
        command("sysctl", "-qw net.ipv4.conf.cali1.rp_filter=0");
        let socket = victim(&other);
        for forged in [udp_v4(MAC, "10.244.0.9"), udp_v6(MAC, "fd00:10:244::9"), udp_v6(MAC, NODE_V6)] {
            attacker.guard();
            attacker.send(vec![forged.clone()]);
            assert!(hears(&socket, None));
            attacker.unguard();
            attacker.send(vec![forged]);
            assert!(
                socket.recv(&mut [0; 8]).is_ok(),
                "what is forged does not arrive without a guard either"
            );
        }
    });
}

/// Redirects what comes by the link through another device and back, as the plugin `bandwidth` does to limit what a pod
/// sends. The kernel shows such packets to no filter at the ingress of the link.
fn limit(link: &str) {
    ip("link add bwp1 type ifb");
    ip("link set bwp1 up");
    command("tc", "qdisc add dev bwp1 root tbf rate 100mbit burst 100000 latency 25ms");
    command("tc", &format!("qdisc add dev {link} ingress"));
    let all = "parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev bwp1";
    command("tc", &format!("filter add dev {link} {all}"));
}

#[test]
fn a_pod_whose_rate_is_limited_still_forges_no_ipv4_and_advertises_no_route() {
    namespace::run(|| {
        let (attacker, other) = node_with_pods();
        limit("cali1");
        let socket = victim(&other);
        let before = neighbours();
        attacker.send(vec![udp_v6(MAC, POD_V6)]);
        assert!(hears(&socket, Some(1)));
        attacker.send(vec![udp_v4(MAC, "10.244.0.9")]);
        assert!(hears(&socket, None));
        let frame = extended(MAC.link_local(), (ICMPV6, advertisement(MAC.link_local())));
        attacker.send(vec![frame]);
        let forged = |n: u8| {
            let sender = Ipv4Addr::new(10, 250, 0, n);
            ethernet(BROADCAST, MAC, ARP, &frames::arp(1, MAC, sender, v4(OTHER_POD_V4)))
        };
        attacker.send((1..=200).map(forged).collect());
        // The last of them has arrived once an honest packet behind them has.
        attacker.send(vec![udp_v4(MAC, POD_V4)]);
        assert!(hears(&socket, Some(1)));
        assert_eq!(ip("-6 route show proto ra"), "");
        assert!(neighbours() <= before + 1, "{}", ip("neigh show dev cali1"));
    });
}

#[test]
fn an_address_that_a_pod_gives_itself_is_of_no_use_to_it() {
    namespace::run(|| {
        let (attacker, other) = node_with_pods();
        let socket = victim(&other);
        let reaches = |from: &'static str, to: &'static str, expected: bool| {
            attacker
                .home
                .run(move || UdpSocket::bind(from).expect("a socket").send_to(b"x", to).expect("sent"));
            hears(&socket, expected.then_some(1))
        };
        attacker.home.run(|| {
            ip("addr add 10.244.0.99/32 dev eth0");
            ip("addr add fd00:10:244::99/128 dev eth0 nodad");
        });
        assert!(reaches("10.244.0.7:0", "10.244.0.8:9000", true));
        assert!(reaches("[fd00:10:244::7]:0", "[fd00:10:244::8]:9000", true));
        assert!(reaches("10.244.0.99:0", "10.244.0.8:9000", false));
        assert!(reaches("[fd00:10:244::99]:0", "[fd00:10:244::8]:9000", false));
        attacker.unguard();
        assert!(reaches("[fd00:10:244::99]:0", "[fd00:10:244::8]:9000", true));
    });
}

/// TCP, datagrams in fragments and the gateway's link-local address, in both directions.
fn talk(pod: &Pod, other: &Pod) {
    let socket = victim(other);
    let listener = other.home.run(|| TcpListener::bind("[::]:8080").expect("a socket"));
    let here = UdpSocket::bind("[::]:9001").expect("a socket");
    here.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    for (own, there) in [(POD_V4, OTHER_POD_V4), (POD_V6, OTHER_POD_V6)] {
        let place = |host: &str, port| SocketAddr::new(host.parse().expect("an address"), port);
        let (tcp, large) = (place(there, 8080), place(there, 9000));
        pod.home.run(move || {
            TcpStream::connect_timeout(&tcp, Duration::from_secs(5)).expect("a connection");
            let socket = UdpSocket::bind(place(own, 7000)).expect("a socket");
            socket.send_to(&[7; 4000], large).expect("sent");
        });
        assert!(listener.accept().is_ok());
        assert!(hears(&socket, Some(4000)), "a datagram in fragments from {own}");
        other.home.run(move || {
            let socket = UdpSocket::bind("[::]:0").expect("a socket");
            socket.send_to(b"x", place(own, 7001)).expect("sent");
        });
    }
    pod.home.run(|| {
        let socket = UdpSocket::bind("[::]:0").expect("a socket");
        let gateway = std::net::SocketAddrV6::new(HOST_LINK_LOCAL, 9001, 0, 2);
        socket.send_to(b"x", gateway).expect("sent");
    });
    let (_, from) = here.recv_from(&mut [0; 8]).expect("the gateway hears its pod");
    assert!(from.ip() == IpAddr::from(v6(POD_V6)) || from.ip() == IpAddr::from(MAC.link_local()));
    for to in [OTHER_POD_V4, OTHER_POD_V6, "fe80::ecee:eeff:feee:eeee%eth0"] {
        pod.home.run(move || drop(command("ping", &format!("-c1 -W5 -s 3000 {to}"))));
    }
}

#[test]
fn an_honest_pod_notices_nothing_even_after_it_forgot_its_neighbours() {
    namespace::run(|| {
        let (pod, other) = node_with_pods();
        talk(&pod, &other);
        let forget = "neigh flush dev eth0 nud permanent";
        pod.home.run(move || drop(ip(forget)));
        other.home.run(move || drop(ip(forget)));
        talk(&pod, &other);
        let found = pod.home.run(|| ip("neigh show dev eth0"));
        assert!(found.contains("169.254.1.1 lladdr ee:ee:ee:ee:ee:ee"), "{found}");
        assert!(found.contains("fe80::ecee:eeff:feee:eeee lladdr ee:ee:ee:ee:ee:ee"), "{found}");
    });
}

#[test]
fn an_audit_mends_what_somebody_flushed_and_leaves_the_rest_alone() {
    namespace::run(|| {
        let (one, two) = node_with_pods();
        ip("link add cali3 type veth peer name foreign");
        let mut gates = Gates::open().unwrap().expect("this kernel can filter at ingress");
        let calm = Audit { guarded: 2, ..Audit::default() };
        assert_eq!(gates.audit(), Ok(calm.clone()));
        for (change, mended) in [
            ("flush ruleset", vec!["cali1", "cali2"]),
            ("flush chain netdev manx-cali1 ingress", vec!["cali1"]),
            ("insert rule netdev manx-cali2 ingress accept", vec!["cali2"]),
            ("delete table netdev manx-cali2", vec!["cali2"]),
        ] {
            if nft(change).is_none() {
                return;
            }
            let mended: Vec<String> = mended.into_iter().map(str::to_owned).collect();
            assert_eq!(gates.audit(), Ok(Audit { mended, ..calm.clone() }), "{change}");
            assert_eq!(gates.audit(), Ok(calm.clone()));
        }
        let mut netfilter = Socket::netfilter().unwrap();
        for pod in [&one, &two] {
            assert_eq!(admitted(&mut netfilter, &Admission::of(&pod.link)), Ok(Some(true)));
        }
        ip("neigh flush dev cali1 nud permanent");
        assert_eq!(gates.audit().unwrap().unknown, ["cali1"]);
        assert_eq!(admitted(&mut netfilter, &Admission::of(&one.link)), Ok(Some(true)));
    });
}

#[test]
fn a_guard_that_was_made_anew_outlives_whoever_knew_only_the_old_one() {
    namespace::run(|| {
        let (pod, _other) = node_with_pods();
        let mut gates = Gates::open().unwrap().expect("this kernel can filter at ingress");
        let old = gates.handles().unwrap()["cali1"];
        // A pod of the same name begins where the old one ended: a plugin makes link and guard.
        pod.guard();
        assert_eq!(gates.forget(old), Ok(false));
        let mut netfilter = Socket::netfilter().unwrap();
        assert_eq!(admitted(&mut netfilter, &Admission::of(&pod.link)), Ok(Some(true)));
        let new = gates.handles().unwrap()["cali1"];
        assert_eq!(gates.forget(new), Ok(true));
        assert_eq!(admitted(&mut netfilter, &Admission::of(&pod.link)), Ok(Some(false)));
    });
}

#[test]
fn an_admission_is_put_read_back_changed_and_goes_with_its_link() {
    namespace::run(|| {
        ip("link add cali1 type veth peer name cali2");
        let mut socket = Socket::netfilter().unwrap();
        let all = [
            admission("cali1", &[POD_V4]),
            admission("cali1", &[POD_V6]),
            admission("cali1", &[POD_V4, POD_V6]),
            admission("cali1", &[]),
        ];
        for wanted in &all {
            assert_eq!(admitted(&mut socket, wanted), Ok(Some(false)));
            assert_eq!(admit(&mut socket, wanted), Ok(Gate::Shut));
            assert_eq!(admitted(&mut socket, wanted), Ok(Some(true)));
            let other = Admission { link: "cali2".into(), ..wanted.clone() };
            assert_eq!(admitted(&mut socket, &other), Ok(Some(false)));
        }
        ip("link del cali1");
        let mut gates = Gates::open().unwrap().expect("this kernel can filter at ingress");
        assert_eq!(gates.audit(), Ok(Audit { swept: 1, ..Audit::default() }));
        assert_eq!(nft("list tables").as_deref().unwrap_or_default(), "");
    });
}
