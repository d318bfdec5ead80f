//! What uninstalling leaves: what was there before, and the pods that still run.

use std::process::{Command, Output};

use super::world::{AGENT, World, command, files, run, until};

/// Settings that the agent changes, as they are on a host that is no router.
const SETTINGS: [(&str, &str); 7] = [
    ("net.ipv4.ip_forward", "0"),
    ("net.ipv6.conf.all.forwarding", "0"),
    ("net.ipv4.conf.all.rp_filter", "2"),
    ("net.ipv4.conf.uplink.rp_filter", "0"),
    ("net.ipv4.nexthop_compat_mode", "1"),
    ("net.ipv4.fib_multipath_hash_policy", "0"),
    ("net.ipv6.conf.uplink.accept_ra", "1"),
];

/// Everything that the kernel has in this namespace.
fn snapshot() -> Vec<String> {
    let mut all: Vec<String> = SETTINGS.iter().map(|(key, _)| command(&format!("sysctl {key}"))).collect();
    for line in [
        "ip -4 route show table all",
        "ip -6 route show table all",
        "ip nexthop show",
        "ip rule show",
        "ip -6 rule show",
        "ip -br link show",
        "nft list ruleset",
    ] {
        all.push(command(line));
    }
    all
}

fn uninstall(world: &World, more: &[&str]) -> Output {
    let mut command = Command::new(AGENT);
    command.arg("uninstall").arg("--run-dir").arg(world.path("run"));
    command.arg("--cni-conf-dir").arg(world.path("conf")).arg("--cni-bin-dir").arg(world.path("bin"));
    command.arg("--conflist").arg(world.template()).args(more).output().expect("run")
}

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

/// A node before Manx, with what others put there.
fn prepare(world: &World) {
    for (key, value) in SETTINGS {
        command(&format!("sysctl -qw {key}={value}"));
    }
    command("ip route add 198.51.100.0/24 via 192.0.2.1 dev uplink proto static");
    command("ip nexthop add id 7 via 192.0.2.1 dev uplink");
    command("nft add table inet other");
    std::fs::write(world.path("conf").join("99-loopback.conf"), "{}").expect("written");
    until("the links are ready", || !command("ip -6 address show").contains("tentative"));
}

/// A link as a pod has it, and a route to what is on another node.
fn add_pod() {
    command("ip link add cali0123456789a group 179 type veth peer name eth0");
    command("ip link set cali0123456789a alias manx:c1:eth0");
    command("ip link set eth0 up");
    command("ip link set cali0123456789a up");
    command("ip route add 10.244.3.65/32 dev cali0123456789a proto 179");
    command("ip nexthop add id 1297612801 via 192.0.2.1 dev uplink proto 179");
    command("ip nexthop add id 1297612802 group 1297612801 proto 179");
    command("ip route add 10.244.9.0/26 nhid 1297612802 proto 179");
    command("ip link add cali11111111111 group 179 type veth peer name half");
    command("nft add table netdev manx-cali0123456789a");
    command("nft add table netdev manx-cali11111111111");
}

#[test]
fn uninstalling_leaves_the_node_as_it_was_and_running_pods_until_they_are_gone() {
    run(|world| {
        prepare(&world);
        let before = snapshot();
        world.add_pool();
        let agent = world.start();
        until("all is in place", || world.page("readyz") == "ok\n");
        until("the routes are there", || command("ip route show proto 179").contains("10.244.3.64/26"));
        until("the tables are there", || command("nft list tables").matches("manx").count() >= 2);
        let running = uninstall(&world, &[]);
        assert!(String::from_utf8_lossy(&running.stderr).contains("another manx-agent runs"));
        assert!(!running.status.success() && world.conflist().exists());
        agent.stop();
        add_pod();

        let output = uninstall(&world, &[]);
        let left = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "to be done again");
        assert!(left.contains("1 links of running pods (cali0123456789a)"), "{left}");
        assert!(left.contains("10.244.9.0/26") && left.contains("cali11111111111"), "{left}");
        assert_eq!(files(&world.path("conf")), ["99-loopback.conf"]);
        assert!(files(&world.path("bin")).contains(&"manx-cni".to_owned()), "the pod is still to be ended");
        assert_eq!(command("ip route show proto 179").trim(), "10.244.3.65 dev cali0123456789a scope link");
        assert_eq!(command("ip nexthop show proto 179"), "");
        let tables = command("nft list tables");
        assert_eq!(tables.trim(), "table inet other\ntable netdev manx-cali0123456789a");

        command("ip link delete cali0123456789a");
        let all = said(&uninstall(&world, &[]));
        assert!(all.contains("net/ipv4/ip_forward = 0"), "{all}");
        assert_eq!(snapshot(), before);
        assert_eq!(files(&world.path("bin")), ["bandwidth", "portmap"]);
        assert!(!world.path("run").exists());
        let again = said(&uninstall(&world, &[]));
        assert!(!again.contains("removed"), "{again}");
    });
}

#[test]
fn by_force_running_pods_lose_their_links_and_settings_of_others_stay() {
    run(|world| {
        prepare(&world);
        let before = snapshot();
        world.add_pool();
        let agent = world.start();
        until("all is in place", || world.page("readyz") == "ok\n");
        agent.stop();
        add_pod();
        command("sysctl -qw net.ipv4.conf.all.rp_filter=1");
        let all = said(&uninstall(&world, &["--force"]));
        assert!(all.contains("rp_filter = 1: somebody else set it"), "{all}");
        command("sysctl -qw net.ipv4.conf.all.rp_filter=2");
        assert_eq!(snapshot(), before);
        assert_eq!(files(&world.path("bin")), ["bandwidth", "portmap"]);
    });
}
