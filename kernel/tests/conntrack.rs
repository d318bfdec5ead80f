//! What becomes of tracked connections when an address is freed, in a real kernel.

#![expect(clippy::disallowed_types, reason = "a client connects over the network")]

mod namespace;
mod pods;

use std::collections::BTreeSet;
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};

use manx_kernel::names::Mac;
use manx_kernel::netlink::conntrack::purge;
use namespace::{command, ip, nft};
use pods::Pod;

/// A node with connection tracking, a service at 10.96.0.1 and fd00:96::1 whose only endpoint is the second pod, and
/// three pods: the client, the endpoint and a bystander.
fn node() -> Option<[Pod; 3]> {
    ip("link set lo up");
    command(
        "sysctl",
        "-qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0",
    );
    for line in [
        "add table inet proxy",
        "add chain inet proxy prerouting { type nat hook prerouting priority -100; }",
        "add rule inet proxy prerouting ip daddr 10.96.0.1 dnat ip to 10.244.0.2",
        "add rule inet proxy prerouting ip6 daddr fd00:96::1 dnat ip6 to fd00:10:244::2",
    ] {
        nft(line)?;
    }
    Some([1, 2, 3].map(|number| {
        let addresses = [format!("10.244.0.{number}"), format!("fd00:10:244::{number}")];
        let mac = Mac([0x0a, 0x58, 0x0a, 0xf4, 0, number]);
        Pod::new(&format!("cali{number}"), mac, &[&*addresses[0], &*addresses[1]])
    }))
}

/// The entries that the kernel has, as `conntrack -L` shows them: one line each.
fn entries() -> Vec<String> {
    let shown = |family: &str| command("conntrack", &format!("-L -f {family}"));
    let lines = shown("ipv4") + &shown("ipv6");
    lines.lines().map(str::to_owned).collect()
}

/// The pod is over: its connections are to be forgotten.
fn forget(pod: &Pod) -> usize {
    purge(&pod.link.addresses.iter().copied().collect()).expect("purged")
}

fn says(from: &Pod, source: &'static str, to: &'static str) {
    from.home.run(move || {
        let socket = UdpSocket::bind(source).expect("a socket");
        socket.send_to(b"x", to).expect("sent");
    });
}

#[test]
fn connections_of_a_freed_address_are_forgotten_also_translated_ones_and_all_others_stay() {
    namespace::run(|| {
        let Some([client, endpoint, bystander]) = node() else { return };
        assert_eq!(forget(&endpoint), 0, "nothing is tracked yet");
        let listener = endpoint.home.run(|| TcpListener::bind("10.244.0.2:80").expect("a socket"));
        let kept = client.home.run(|| TcpStream::connect("10.96.0.1:80").expect("a connection"));
        says(&client, "10.244.0.1:1001", "10.96.0.1:53");
        says(&client, "[fd00:10:244::1]:1002", "[fd00:96::1]:53");
        says(&endpoint, "10.244.0.2:1003", "10.244.0.3:53");
        says(&bystander, "10.244.0.3:1004", "10.244.0.2:53");
        says(&client, "10.244.0.1:1005", "10.244.0.3:53");
        says(&bystander, "[fd00:10:244::3]:1006", "[fd00:10:244::1]:53");
        let has = |port: &str| entries().iter().any(|line| line.contains(&format!("sport={port} ")));
        for port in ["1001", "1002", "1003", "1004", "1005", "1006"] {
            assert!(has(port), "{port} is not tracked: {:#?}", entries());
        }
        assert_eq!(forget(&endpoint), 5);
        for port in ["1001", "1002", "1003", "1004"] {
            assert!(!has(port), "{port} is still there: {:#?}", entries());
        }
        assert!(has("1005") && has("1006"), "connections of others are gone: {:#?}", entries());
        assert!(!entries().iter().any(|line| line.contains("dport=80 ")));
        assert_eq!(forget(&endpoint), 0);
        drop((listener, kept));
    });
}

#[test]
fn a_service_leads_to_its_new_endpoint_once_the_old_one_is_forgotten() {
    namespace::run(|| {
        let Some([client, old, new]) = node() else { return };
        let socket = new.home.run(|| UdpSocket::bind("10.244.0.3:53").expect("a socket"));
        says(&client, "10.244.0.1:1001", "10.96.0.1:53");
        nft("flush chain inet proxy prerouting");
        nft("add rule inet proxy prerouting ip daddr 10.96.0.1 dnat ip to 10.244.0.3");
        let arrives = |expected: bool| {
            let patience = std::time::Duration::from_millis(if expected { 10_000 } else { 300 });
            socket.set_read_timeout(Some(patience)).expect("a timeout");
            says(&client, "10.244.0.1:1001", "10.96.0.1:53");
            socket.recv(&mut [0; 8]).is_ok() == expected
        };
        assert!(arrives(false), "the kernel forgets by itself");
        assert_eq!(forget(&old), 1);
        assert!(arrives(true));
    });
}

#[test]
fn where_nothing_is_tracked_nothing_is_done() {
    namespace::run(|| assert_eq!(purge(&BTreeSet::from([IpAddr::from([10, 244, 0, 2])])), Ok(0)));
}
