//! Links as Calico makes them, in a real kernel, taken over while pings go through them.

mod namespace;

use std::process::{Child, Command, Stdio};

use manx_kernel::names::{HOST_MAC, LINK_GROUP, Mac, alias, host_link_name};
use manx_kernel::netlink::guests::{Guest, guests, mark};
use manx_kernel::netlink::socket::Socket;
use manx_kernel::netlink::{inspect, links};
use manx_kernel::pod::PodLink;
use manx_kernel::sysctl;
use namespace::{Elsewhere, command, ip};

const POD_V4: &str = "10.48.21.65";
const POD_V6: &str = "fd00:10:48::2a41";
const POD_MAC: &str = "4e:c1:15:0f:3a:07";
const NODE_V4: &str = "192.0.2.1";
const NODE_V6: &str = "2001:db8::1";

fn link_name() -> String {
    host_link_name(Some(("default", "web-0")), "", "eth0")
}

/// A pod as Calico's plugin and its agent leave it on a node.
fn calicos_pod(home: &Elsewhere) -> String {
    let link = link_name();
    ip("link set lo up");
    ip(&format!("address add {NODE_V4}/32 dev lo"));
    ip(&format!("address add {NODE_V6}/128 dev lo nodad"));
    // Calico answers for the gateway of pods by proxy ARP, which takes a route to it: the node's default route.
    ip("link add uplink type veth peer name router");
    ip("link set router up");
    ip("link set uplink up");
    ip("route add default dev uplink");
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        sysctl::write(key, "1").expect("forwarding");
    }
    ip(&format!("link add {link} mtu 1440 type veth peer name eth0 netns {} mtu 1440", home.path));
    ip(&format!("link set {link} address ee:ee:ee:ee:ee:ee"));
    let settings = [
        ("ipv4/conf/LINK/route_localnet", "1"),
        ("ipv4/neigh/LINK/proxy_delay", "0"),
        ("ipv4/conf/LINK/proxy_arp", "1"),
        ("ipv4/conf/LINK/forwarding", "1"),
        ("ipv6/conf/LINK/accept_dad", "0"),
        ("ipv6/conf/LINK/proxy_ndp", "1"),
        ("ipv6/conf/LINK/forwarding", "1"),
        ("ipv6/conf/LINK/accept_ra", "0"),
    ];
    for (key, value) in settings {
        sysctl::write(&format!("net/{}", key.replace("LINK", &link)), value).expect("a setting of Calico's");
    }
    ip(&format!("link set {link} up"));
    home.run(move || {
        sysctl::write("net/ipv6/conf/eth0/accept_dad", "0").expect("no probing");
        ip(&format!("link set eth0 address {POD_MAC}"));
        ip("link set lo up");
        ip("link set eth0 up");
        ip("route add 169.254.1.1 dev eth0 scope link");
        ip("route add default via 169.254.1.1 dev eth0");
        ip("-6 route add default via fe80::ecee:eeff:feee:eeee dev eth0");
        ip(&format!("address add {POD_V4}/32 dev eth0"));
        ip(&format!("address add {POD_V6}/128 dev eth0 nodad"));
    });
    ip(&format!("route add {POD_V4} dev {link} scope link proto boot"));
    ip(&format!("-6 route add {POD_V6} dev {link} metric 1024 proto 80"));
    link
}

fn networks() -> Vec<ipnetwork::IpNetwork> {
    ["10.48.21.64/26", "fd00:10:48::2a40/122"].map(|text| text.parse().expect("a network")).to_vec()
}

fn as_ours(guest: &Guest) -> PodLink {
    PodLink {
        container: "0b0e7e0bd3a0".into(),
        ifname: guest.ifname.clone(),
        link: guest.end.name.clone(),
        addresses: guest.addresses.iter().copied().collect(),
        mtu: guest.end.mtu,
        mac: guest.mac.expect("the pod's end is there"),
    }
}

/// A ping every 10 ms.
fn ping(address: &str) -> Child {
    Command::new("ping")
        .args(["-n", "-i", "0.01", "-W", "1", address])
        .stdout(Stdio::piped())
        .spawn()
        .expect("ping is installed")
}

/// Ends it; how many were sent and lost.
fn lost(mut ping: Child) -> (u64, u64) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(ping.id()).expect("a process id"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it runs");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut ping.stdout.take().expect("its output"), &mut text).expect("text");
    ping.wait().expect("it ends");
    let summary = text.lines().find(|line| line.contains("packets transmitted")).expect("a summary");
    let numbers: Vec<u64> = summary.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    (numbers[0], numbers[0] - numbers[1])
}

/// Until this many answers have come on a stream of pings of its own.
fn a_while() {
    let status = Command::new("ping").args(["-n", "-q", "-i", "0.01", "-c", "40", POD_V4]).output();
    assert!(status.expect("ping is installed").status.success());
}

#[test]
fn a_link_of_calicos_is_found_with_the_pods_addresses_and_hardware_address() {
    namespace::run(|| {
        let home = Elsewhere::new();
        let link = calicos_pod(&home);
        let mut socket = Socket::route().expect("a socket");
        let found = guests(&mut socket, &networks()).expect("guests");
        let [guest] = found.as_slice() else { panic!("one link: {found:?}") };
        assert_eq!((guest.end.name.as_str(), guest.end.alias.as_deref()), (link.as_str(), None));
        assert_eq!((guest.end.mtu, guest.end.mac, guest.ifname.as_str()), (1440, Some(HOST_MAC), "eth0"));
        assert_eq!(guest.mac, POD_MAC.parse::<Mac>().ok());
        assert_eq!(guest.addresses, [POD_V4, POD_V6].map(|text| text.parse().expect("an address")).into());
        let by_one_block = guests(&mut socket, &networks()[1..]).expect("guests");
        assert_eq!(by_one_block[0].addresses.len(), 2, "the other address is the same pod's");
        assert_eq!(guests(&mut socket, &["10.9.0.0/16".parse().expect("a network")]), Ok(Vec::new()));
    });
}

#[test]
fn a_link_becomes_ours_without_a_packet_lost_and_can_do_so_again() {
    namespace::run(|| {
        let home = Elsewhere::new();
        let link = calicos_pod(&home);
        let mut socket = Socket::route().expect("a socket");
        let streams = [ping(POD_V4), ping(POD_V6)];
        let outward = home.run(|| ping(NODE_V4));
        a_while();
        for _ in 0..3 {
            let guest = guests(&mut socket, &networks()).expect("guests").remove(0);
            links::take_over(&mut socket, &as_ours(&guest), guest.end.index).expect("taken over");
        }
        a_while();
        for stream in streams.into_iter().chain([outward]) {
            let (sent, lost) = lost(stream);
            assert!(sent > 50 && lost == 0, "{lost} of {sent} pings were lost");
        }
        // The pod may ask for its gateway again at any time.
        home.run(|| {
            ip("neigh flush dev eth0");
            command("ping", &format!("-n -q -c 2 -W 1 {NODE_V4}"));
            command("ping", &format!("-n -q -c 2 -W 1 {NODE_V6}"));
        });
        let end = inspect::end(&mut socket, &link).expect("asked").expect("it is there");
        assert_eq!((end.alias, end.group, end.mtu), (Some(alias("0b0e7e0bd3a0", "eth0")), LINK_GROUP, 1440));
        let routes = inspect::routes(&mut socket, Some(end.index)).expect("routes");
        let of_pod: Vec<_> =
            routes.iter().filter(|route| route.dst.ip().to_string().starts_with("10.48")).collect();
        assert!(of_pod.len() == 1 && of_pod[0].protocol == 179, "{routes:?}");
        let neighbours = inspect::neighbours(&mut socket, end.index).expect("neighbours");
        for address in [POD_V4, POD_V6] {
            let neighbour = neighbours[&address.parse::<std::net::IpAddr>().expect("an address")];
            assert!(neighbour.permanent && neighbour.mac == POD_MAC.parse().ok(), "{address}: {neighbour:?}");
        }
        assert_eq!(sysctl::read(&sysctl::ipv4(&link, "proxy_arp")).ok().as_deref(), Some("1"));
        assert_eq!(sysctl::read(&sysctl::ipv4(&link, "rp_filter")).ok().as_deref(), Some("1"));
    });
}

#[test]
fn an_address_that_is_routed_elsewhere_keeps_its_route_and_the_link_is_not_ours() {
    namespace::run(|| {
        let home = Elsewhere::new();
        let link = calicos_pod(&home);
        let mut socket = Socket::route().expect("a socket");
        let mut guest = guests(&mut socket, &networks()).expect("guests").remove(0);
        ip("link add other type veth peer name another");
        ip("link set another up");
        ip("link set other up");
        ip("route add 10.48.21.70 dev other");
        guest.addresses = ["10.48.21.70".parse().expect("an address")].into();
        let refused = links::take_over(&mut socket, &as_ours(&guest), guest.end.index);
        assert!(matches!(refused, Err(links::LinkError::Occupied { .. })), "{refused:?}");
        assert!(ip("route show 10.48.21.70").contains("dev other"));
        assert!(ip(&format!("route show {POD_V4}")).contains(&link));
    });
}

#[test]
fn a_link_of_which_nobody_says_whose_it_is_gets_a_mark_and_nothing_else() {
    namespace::run(|| {
        let home = Elsewhere::new();
        let link = calicos_pod(&home);
        let mut socket = Socket::route().expect("a socket");
        let before = ip("route show table all");
        let guest = guests(&mut socket, &networks()).expect("guests").remove(0);
        mark(&mut socket, guest.end.index, &alias("?", &link)).expect("marked");
        let end = inspect::end(&mut socket, &link).expect("asked").expect("it is there");
        assert_eq!((end.alias, end.group), (Some(format!("manx:?:{link}")), 0));
        assert_eq!(ip("route show table all"), before);
    });
}
