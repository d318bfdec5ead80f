//! The lab's scenarios as tests: a real kernel, real agents, the real plugin, and a real BIRD or FRR.
//!
//! Each scenario has a lab of its own, so that none depends on what another left. They run one after the other:
//! several labs at once would starve each other's timers on a small machine.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use manx_tests::lab::router::{NODE_ASN, RouterKind};
use manx_tests::lab::runtime::PluginError;
use manx_tests::lab::{Lab, Options, Pod, netns, probe, show, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

#[path = "lab/install.rs"]
mod install;
#[path = "lab/migrate.rs"]
mod migrate;
#[path = "lab/monitoring.rs"]
mod monitoring;
#[path = "lab/sticky.rs"]
mod sticky;

/// How long a change may take to reach every node.
const CONVERGENCE: Duration = Duration::from_secs(20);

/// One scenario: brings up what it needs, and says what did not hold.
type Scenario = fn() -> Result<()>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let scenarios: &[(&str, Scenario)] = &[
        ("pods_and_the_outside_reach_each_other_through_bird", || through(RouterKind::Bird)),
        ("pods_and_the_outside_reach_each_other_through_frr", || through(RouterKind::Frr)),
        ("a_second_pool_serves_new_pods_while_the_first_keeps_its_own", second_pool),
        ("a_full_block_is_followed_by_the_next_one", next_block),
        ("a_freed_address_is_given_again_last", reused_last),
        ("a_node_that_joins_is_reached_and_one_that_dies_leaves_nothing", nodes_come_and_go),
        ("a_killed_agent_comes_back_without_losing_a_packet", || restarted_agent(Signal::SIGKILL)),
        ("an_upgraded_agent_loses_no_packet", || restarted_agent(Signal::SIGTERM)),
        ("pods_start_and_stop_while_the_api_server_is_away", api_server_away),
        ("our_routes_come_back_and_foreign_ones_are_left_alone", routes_by_hand),
        ("agents_that_start_at_the_same_instant_share_an_empty_pool", same_instant),
        ("a_host_port_leads_to_its_pod_and_bandwidth_is_limited_behind_our_plugin", chained_plugins),
        ("a_mesh_becomes_reflectors_and_back_and_no_ping_is_lost", live_topology),
        ("peers_filters_timers_and_passwords_change_and_no_ping_is_lost", live_settings),
        ("running_pods_follow_the_mtu_of_their_nodes_uplink", followed_mtu),
        ("a_pod_reaches_itself_its_node_and_its_neighbour_and_checks_clean", within_a_node),
        ("a_pod_leaves_no_guard_and_no_connection_behind_and_a_flush_is_mended", nothing_left),
        ("a_pod_gets_what_its_annotations_ask_for_or_the_reason_why_not", asking_pods),
        ("an_agent_that_starts_without_the_api_server_knows_what_its_pods_ask_for", asking_after_a_restart),
        ("an_address_follows_its_pods_name_to_another_node_and_back", sticky::follows_its_name),
        ("an_address_away_from_its_block_outlives_agents_and_nodes", sticky::outlives_agents_and_nodes),
        ("the_plugin_is_replaced_while_pods_start_and_end", install::replaced_under_calls),
        ("a_thousand_pods_start_with_few_requests_to_the_api_server", a_thousand_starts),
        (
            "every_expression_of_rules_and_dashboard_finds_its_series_in_a_real_prometheus",
            monitoring::expressions_find_their_series,
        ),
        ("a_cluster_moves_in_from_calico_node_by_node_and_no_ping_is_lost", migrate::from_calico),
    ];
    if !nix::unistd::geteuid().is_root() {
        println!("ignored: the lab makes network namespaces and needs root");
        return if std::env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    for stale in Lab::stale("manx") {
        if let Err(error) = Lab::down_by_name(&stale) {
            eprintln!("the lab {stale} of an earlier run cannot be taken down: {error:#}");
        }
    }
    let trial = |(name, scenario): (&str, Scenario)| {
        Trial::test(name, move || scenario().map_err(|error| Failed::from(format!("{error:#}"))))
    };
    libtest_mimic::run(&arguments, scenarios.iter().copied().map(trial).collect()).exit_code()
}

/// A lab for one scenario, with a name that no other run uses.
fn lab(nodes: usize, router: RouterKind) -> Result<Lab> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("t{}x{number}", std::process::id() % 10_000);
    Lab::up(&Options { name, nodes, router })
}

/// A lab with one pod on each node, `p1` on `node1` and so on, once every pod reaches every other.
fn lab_with_pods(nodes: usize) -> Result<Lab> {
    let mut lab = lab(nodes, RouterKind::Bird)?;
    for number in 1..=nodes {
        lab.add_pod(&format!("p{number}"), &format!("node{number}"))?;
    }
    everyone_is_reached(&lab)?;
    Ok(lab)
}

fn everyone_is_reached(lab: &Lab) -> Result<()> {
    show::until_reached(lab, CONVERGENCE)
}

/// The blocks of `node` (all with `None`), from the API server.
fn blocks(lab: &Lab, node: Option<&str>) -> Result<BTreeSet<String>> {
    let blocks = lab.objects("ipblocks")?;
    let of_node = blocks.iter().filter(|block| node.is_none_or(|node| block["spec"]["node"] == node));
    Ok(of_node.filter_map(|block| block["spec"]["cidr"].as_str().map(str::to_owned)).collect())
}

/// Our routes in the kernel of `node`, as iproute2 prints them.
fn our_routes(lab: &Lab, node: &str) -> Result<Vec<Value>> {
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        let argv = ["ip", "-j", family, "route", "show", "proto", "179"];
        routes.extend(netns::json(&lab.netns(node), &argv)?.as_array().cloned().unwrap_or_default());
    }
    Ok(routes)
}

fn destinations(routes: &[Value]) -> BTreeSet<String> {
    routes.iter().filter_map(|route| route["dst"].as_str().map(str::to_owned)).collect()
}

fn v4(lab: &Lab, pod: &str) -> Result<IpAddr> {
    lab.pod(pod)?.addresses.iter().copied().find(IpAddr::is_ipv4).context("the pod has no IPv4 address")
}

/// What `cargo xtask lab` shows and proves, with either router.
fn through(router: RouterKind) -> Result<()> {
    let mut lab = lab(3, router)?;
    for node in lab.nodes() {
        lab.add_pod(&format!("a-{node}"), &node)?;
        lab.add_pod(&format!("b-{node}"), &node)?;
    }
    everyone_is_reached(&lab)?;
    ensure!(show::all(&lab)? == 0, "a proof failed, see above");
    let expected = blocks(&lab, None)?;
    let routes: BTreeSet<String> = lab.router().kernel_routes()?.into_iter().collect();
    ensure!(routes == expected, "the router has {routes:?}, the blocks are {expected:?}");
    Ok(())
}

fn second_pool() -> Result<()> {
    let mut lab = lab_with_pods(2)?;
    let first = v4(&lab, "p1")?;
    lab.apply(&[
        json!({"apiVersion": "manx.dev/v1alpha1", "kind": "IPPool", "metadata": {"name": "second"},
                       "spec": {"cidr": "10.245.0.0/20", "blockSize": 28}}),
    ])?;
    lab.kubectl(&[
        "patch",
        "ippool",
        "default-ipv4",
        "--type",
        "merge",
        "-p",
        r#"{"spec":{"disabled":true}}"#,
    ])?;
    for node in lab.nodes() {
        let mut pods = 0;
        wait::until("a new pod gets an address of the second pool", CONVERGENCE, || {
            pods += 1;
            let pod = lab.add_pod(&format!("{node}-{pods}"), &node)?;
            Ok(pod.addresses[0].to_string().starts_with("10.245."))
        })?;
    }
    ensure!(v4(&lab, "p1")? == first, "a running pod lost its address");
    everyone_is_reached(&lab)
}

fn next_block() -> Result<()> {
    let mut lab = lab(2, RouterKind::Bird)?;
    lab.kubectl(&["delete", "ippool", "default-ipv4", "--wait=false"])?;
    lab.apply(&[json!({"apiVersion": "manx.dev/v1alpha1", "kind": "IPPool", "metadata": {"name": "small"},
                       "spec": {"cidr": "10.246.0.0/24", "blockSize": 30}})])?;
    let of_pool = |lab: &Lab, node: &str| -> Result<usize> {
        Ok(blocks(lab, Some(node))?.iter().filter(|block| block.starts_with("10.246.")).count())
    };
    wait::until("both nodes own a block of the new pool", CONVERGENCE, || {
        Ok(of_pool(&lab, "node1")? > 0 && of_pool(&lab, "node2")? > 0)
    })?;
    for number in 0..9 {
        let pod = lab.add_pod(&format!("p{number}"), "node1")?;
        ensure!(pod.addresses[0].to_string().starts_with("10.246."), "{pod:?} is not of the new pool");
    }
    lab.add_pod("far", "node2")?;
    ensure!(of_pool(&lab, "node1")? >= 3, "nine pods need three blocks of four addresses");
    everyone_is_reached(&lab)
}

fn reused_last() -> Result<()> {
    let mut lab = lab_with_pods(1)?;
    let freed = lab.pod("p1")?.addresses.clone();
    lab.del_pod("p1")?;
    for number in 2..8 {
        let pod = lab.add_pod(&format!("p{number}"), "node1")?;
        ensure!(
            pod.addresses.iter().all(|address| !freed.contains(address)),
            "{:?} was given again at once, while others of the block were never used",
            pod.addresses
        );
    }
    everyone_is_reached(&lab)
}

fn nodes_come_and_go() -> Result<()> {
    let mut lab = lab_with_pods(2)?;
    let node = lab.add_node()?;
    lab.add_pod("new", &node)?;
    everyone_is_reached(&lab)?;
    let lost = blocks(&lab, Some(&node))?;
    ensure!(!lost.is_empty(), "{node} owns no block");
    lab.remove_node(&node)?;
    wait::until("the dead node's blocks are free again", CONVERGENCE, || {
        Ok(blocks(&lab, Some(&node))?.is_empty())
    })?;
    wait::until("no node has a route to the dead node's blocks", CONVERGENCE, || {
        let mut left = BTreeSet::new();
        for other in lab.nodes() {
            left.extend(destinations(&our_routes(&lab, &other)?));
        }
        left.extend(lab.router().kernel_routes()?);
        // A survivor may have claimed the block since; then its route is right.
        Ok(lost.iter().all(|block| !left.contains(block)) || !blocks(&lab, None)?.is_disjoint(&lost))
    })?;
    wait::until("its NodeNetwork is gone", CONVERGENCE, || {
        Ok(lab.objects("nodenetworks")?.iter().all(|object| object["metadata"]["name"] != *node))
    })?;
    everyone_is_reached(&lab)
}

/// Restarts the agent of one node while pings go to its pod from another node and from the outside, and from it.
fn restarted_agent(signal: Signal) -> Result<()> {
    let mut lab = lab_with_pods(2)?;
    let [p1, p2] = [lab.pod("p1")?.clone(), lab.pod("p2")?.clone()];
    let outside = lab.netns("outside");
    let mut streams = Vec::new();
    for (netns, target) in [(&p1.sandbox.netns, &p2), (&p2.sandbox.netns, &p1), (&outside, &p1)] {
        for address in &target.addresses {
            let log = lab.dir().join(format!("ping-{}", streams.len()));
            streams.push(probe::Stream::start(netns, *address, &log)?);
        }
    }
    lab.stop_agent("node1", signal)?;
    wait::until("the router has lost its session", CONVERGENCE, || Ok(lab.router().established()? == 1))?;
    lab.start_agent("node1")?;
    wait::until("the router has its session back", CONVERGENCE, || Ok(lab.router().established()? == 2))?;
    lab.add_pod("after", "node1")?;
    everyone_is_reached(&lab)?;
    // Stale routes are swept at the latest 10 s after the start: what they still carried would be lost now.
    std::thread::sleep(Duration::from_secs(12));
    for stream in streams {
        let count = stream.stop()?;
        ensure!(count.sent > 500 && count.lost.is_empty(), "pings were lost: {count:?}");
    }
    Ok(())
}

fn api_server_away() -> Result<()> {
    let mut lab = lab_with_pods(2)?;
    let log = lab.dir().join("ping");
    let stream = probe::Stream::start(&lab.pod("p1")?.sandbox.netns, v4(&lab, "p2")?, &log)?;
    lab.set_api_outage(true)?;
    let begin = Instant::now();
    let mut number = 0;
    while begin.elapsed() < Duration::from_secs(60) {
        number += 1;
        for node in ["node1", "node2"] {
            lab.start_sandbox(&format!("x{number}-{node}"), node, "", Value::Null)?;
        }
        everyone_is_reached(&lab)?;
        if number > 3 {
            for node in ["node1", "node2"] {
                lab.stop_sandbox(&format!("x{}-{node}", number - 3))?;
            }
        }
        std::thread::sleep(Duration::from_secs(3));
    }
    let count = stream.stop()?;
    ensure!(count.lost.is_empty(), "pings lost while the API server was away: {count:?}");
    lab.stop_agent("node2", Signal::SIGKILL)?;
    lab.start_agent("node2")?;
    lab.start_sandbox("restarted", "node2", "", Value::Null)?;
    everyone_is_reached(&lab)?;
    lab.set_api_outage(false)?;
    lab.add_pod("back", "node1")?;
    everyone_is_reached(&lab)
}

fn routes_by_hand() -> Result<()> {
    let lab = lab_with_pods(2)?;
    let node = lab.netns("node1");
    let foreign = [("-4", "198.51.100.0/24", "172.30.1.1"), ("-6", "2001:db8:77::/64", "fd00:30:1::1")];
    for (family, destination, gateway) in foreign {
        netns::ip(&["-n", &node, family, "route", "add", destination, "via", gateway, "proto", "static"])?;
    }
    let before = our_routes(&lab, "node1")?;
    ensure!(before.len() >= 6, "blackholes, remote blocks and pods of both families are ours: {before:?}");
    let restored = |what: &str| {
        wait::until(&format!("{what} is back"), Duration::from_secs(5), || {
            Ok(destinations(&our_routes(&lab, "node1")?) == destinations(&before))
        })
    };
    for route in &before {
        let destination = route["dst"].as_str().context("a route without destination")?;
        let family = if destination.contains(':') { "-6" } else { "-4" };
        let mut words = vec!["-n", &node, family, "route", "del"];
        words.extend(route["type"].as_str());
        words.extend([destination, "proto", "179"]);
        netns::ip(&words)?;
        restored(destination)?;
    }
    netns::ip(&["-n", &node, "route", "flush", "proto", "179"])?;
    netns::ip(&["-n", &node, "-6", "route", "flush", "proto", "179"])?;
    restored("everything")?;
    for (family, destination, _) in foreign {
        let kept = netns::json(&node, &["ip", "-j", family, "route", "show", destination])?;
        ensure!(kept.as_array().is_some_and(|routes| routes.len() == 1), "{destination} is gone");
    }
    everyone_is_reached(&lab)
}

fn same_instant() -> Result<()> {
    let mut lab = lab(4, RouterKind::Bird)?;
    let nodes = lab.nodes();
    for node in &nodes {
        lab.stop_agent(node, Signal::SIGKILL)?;
        std::fs::remove_dir_all(lab.run_dir(node))?;
    }
    lab.kubectl(&["delete", "ipblocks", "--all"])?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = nodes.iter().map(|node| scope.spawn(|| lab.start_agent(node))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    for node in &nodes {
        lab.add_pod(&format!("on-{node}"), node)?;
    }
    let mut all = BTreeSet::new();
    for node in &nodes {
        for block in blocks(&lab, Some(node))? {
            ensure!(all.insert(block.clone()), "{block} has two owners");
        }
    }
    everyone_is_reached(&lab)
}

/// The links of a node that take only what their pods may send.
fn guarded_links(lab: &Lab, node: &str) -> Result<BTreeSet<String>> {
    let tables = netns::text(&lab.netns(node), &["nft", "list", "tables", "netdev"])?;
    Ok(tables.lines().filter_map(|line| line.strip_prefix("table netdev manx-")).map(str::to_owned).collect())
}

fn nothing_left() -> Result<()> {
    let mut lab = lab(1, RouterKind::Bird)?;
    lab.add_pod("a", "node1")?;
    lab.add_pod("b", "node1")?;
    let node = lab.netns("node1");
    let nft = |line: &str| netns::text(&node, &["nft", line]).map(drop);
    let guarded = guarded_links(&lab, "node1")?;
    ensure!(guarded.len() == 2, "guarded are only {guarded:?}");
    nft("flush ruleset")?;
    lab.stop_agent("node1", Signal::SIGTERM)?;
    lab.start_agent("node1")?;
    wait::until("the guards are back", CONVERGENCE, || Ok(guarded_links(&lab, "node1")? == guarded))?;
    // Connections are tracked, as where kube-proxy runs.
    nft("add table inet proxy")?;
    nft("add chain inet proxy track { type filter hook forward priority 0; }")?;
    nft("add rule inet proxy track ct state new accept")?;
    everyone_is_reached(&lab)?;
    let gone = lab.pod("b")?.addresses.clone();
    let connections = || -> Result<usize> {
        let families = ["ipv4", "ipv6"].map(|family| netns::text(&node, &["conntrack", "-L", "-f", family]));
        let [v4, v6] = families;
        let all = v4? + &v6?;
        let of_b = |line: &&str| gone.iter().any(|address| line.contains(&format!("={address} ")));
        Ok(all.lines().filter(of_b).count())
    };
    ensure!(connections()? >= 2, "nothing is tracked");
    lab.del_pod("b")?;
    wait::until("its guard and its connections are gone", CONVERGENCE, || {
        Ok(guarded_links(&lab, "node1")?.len() == 1 && connections()? == 0)
    })?;
    lab.add_pod("b", "node1")?;
    ensure!(guarded_links(&lab, "node1")? == guarded, "the link of the same name has no guard");
    everyone_is_reached(&lab)
}

fn within_a_node() -> Result<()> {
    let mut lab = lab(1, RouterKind::Bird)?;
    lab.add_pod("a", "node1")?;
    lab.add_pod("b", "node1")?;
    everyone_is_reached(&lab)?;
    let pod = lab.pod("a")?.clone();
    for address in &pod.addresses {
        ensure!(
            probe::ping(&pod.sandbox.netns, *address)?.is_some(),
            "a pod does not reach its own {address}"
        );
        ensure!(probe::ping(&lab.netns("node1"), *address)?.is_some(), "the node does not reach {address}");
    }
    for address in lab.node_addresses("node1")? {
        ensure!(
            probe::ping(&pod.sandbox.netns, address)?.is_some(),
            "a pod does not reach its node at {address}"
        );
    }
    let mut runtime = lab.runtime("node1")?;
    // Debian's bandwidth plugin crashes in CHECK for a pod without a limit.
    runtime.conflist["plugins"].as_array_mut().context("a list of plugins")?.truncate(1);
    runtime.check(&pod.sandbox, &pod.result)
}

fn chained_plugins() -> Result<()> {
    let mut lab = lab(1, RouterKind::Bird)?;
    let limit = json!({"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000});
    let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    let pod = lab.add_pod_with("web", "node1", json!({"portMappings": ports, "bandwidth": limit}))?;
    everyone_is_reached(&lab)?;
    let server = netns::enter(&pod.sandbox.netns, || Ok(TcpListener::bind("0.0.0.0:80")?))?;
    let answer = std::thread::spawn(move || -> Result<()> {
        let (mut stream, _) = server.accept()?;
        stream.write_all(b"from the pod").map_err(Into::into)
    });
    let [node, _] = lab.node_addresses("node1")?;
    let heard = netns::enter(&lab.netns("outside"), || {
        let mut stream = TcpStream::connect_timeout(&(node, 8080).into(), CONVERGENCE)?;
        stream.set_read_timeout(Some(CONVERGENCE))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })?;
    answer.join().expect("no panic")?;
    ensure!(heard == "from the pod", "the host port answered {heard:?}");
    let disciplines = netns::text(&lab.netns("node1"), &["tc", "qdisc", "show"])?;
    ensure!(disciplines.matches("tbf").count() == 2, "a limit each way, not: {disciplines}");
    let mut runtime = lab.runtime("node1")?;
    // Debian's portmap fails CHECK for every pod of two families.
    runtime.conflist["plugins"].as_array_mut().context("a list of plugins")?.remove(1);
    runtime.check(&pod.sandbox, &pod.result)?;
    lab.del_pod("web")?;
    let rules = netns::text(&lab.netns("node1"), &["iptables-save", "-t", "nat"])?;
    ensure!(!rules.contains("8080"), "the host port outlives its pod: {rules}");
    Ok(())
}

/// Pings every 10 ms between pods of all pairs of nodes, both families, both directions.
/// The MTU of a pod's link, the host's end first.
fn sizes(lab: &Lab, pod: &Pod) -> Result<[u64; 2]> {
    let link = pod.result["interfaces"][0]["name"].as_str().context("the host's end in the result")?;
    let of = |netns: &str, link: &str| -> Result<u64> {
        let shown = netns::json(netns, &["ip", "-j", "link", "show", "dev", link])?;
        shown[0]["mtu"].as_u64().context("an MTU")
    };
    Ok([of(&lab.netns(&pod.node), link)?, of(&pod.sandbox.netns, "eth0")?])
}

/// Whether a packet of this size reaches an address in one piece.
fn passes(netns: &str, address: IpAddr, size: u32) -> bool {
    let headers = if address.is_ipv6() { 48 } else { 28 };
    let (size, address) = ((size - headers).to_string(), address.to_string());
    netns::text(netns, &["ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", &size, &address]).is_ok()
}

fn followed_mtu() -> Result<()> {
    let mut lab = lab_with_pods(1)?;
    let node = lab.netns("node1");
    let pod = lab.pod("p1")?.clone();
    ensure!(sizes(&lab, &pod)? == [1500, 1500], "a pod does not have its uplink's MTU");
    for mtu in [9000_u32, 1400, 1500] {
        netns::run(netns::command(&node, "ip").args(["link", "set", "eth0", "mtu", &mtu.to_string()]))?;
        let all = [u64::from(mtu); 2];
        wait::until(&format!("the MTU {mtu} of a running pod"), CONVERGENCE, || {
            Ok(sizes(&lab, &pod)? == all)
        })?;
        let name = format!("after-{mtu}");
        let fresh = lab.add_pod(&name, "node1")?;
        ensure!(sizes(&lab, &fresh)? == all, "a new pod has another MTU than {mtu}");
        for address in &fresh.addresses {
            ensure!(passes(&pod.sandbox.netns, *address, mtu), "{mtu} octets do not reach {address}");
            ensure!(!passes(&pod.sandbox.netns, *address, mtu + 1), "{} octets reach {address}", mtu + 1);
        }
        let mut runtime = lab.runtime("node1")?;
        runtime.conflist["plugins"].as_array_mut().context("a list of plugins")?.truncate(1);
        runtime.check(&pod.sandbox, &pod.result)?;
    }
    // Too small for IPv6: pods keep what it needs, and the status says so.
    netns::run(netns::command(&node, "ip").args(["link", "set", "eth0", "mtu", "1200"]))?;
    wait::until("the least MTU of IPv6", CONVERGENCE, || Ok(sizes(&lab, &pod)? == [1280, 1280]))?;
    wait::until("the condition of the MTU", CONVERGENCE, || {
        let networks = lab.objects("nodenetworks")?;
        let conditions = networks.iter().filter_map(|network| network["status"]["conditions"].as_array());
        Ok(conditions.flatten().any(|c| c["type"] == "MTUFollowed" && c["status"] == "False"))
    })
}

fn stream_everywhere(lab: &Lab) -> Result<Vec<(String, probe::Stream)>> {
    let across = |path: &probe::Path| {
        lab.pod(&path.from).ok().map(|pod| &pod.node) != lab.pod(&path.to).ok().map(|pod| &pod.node)
    };
    let mut streams = Vec::new();
    for path in show::pod_paths(lab).iter().filter(|path| across(path)) {
        let log = lab.dir().join(format!("ping-{}", streams.len()));
        let name = format!("{} to {} ({})", path.from, path.to, path.address);
        streams.push((name, probe::Stream::start(&path.netns, path.address, &log)?));
    }
    Ok(streams)
}

/// Ends the pings and fails when one of them was lost; tells how many there were.
fn nothing_was_lost(streams: Vec<(String, probe::Stream)>) -> Result<()> {
    let mut sent = 0;
    let mut lost = Vec::new();
    for (name, stream) in streams {
        let count = stream.stop()?;
        sent += count.sent;
        if !count.lost.is_empty() {
            lost.push(format!("{name}: {} of {}, numbers {:?}", count.lost.len(), count.sent, count.lost));
        }
    }
    println!("{sent} pings");
    ensure!(lost.is_empty(), "pings were lost: {}", lost.join("; "));
    ensure!(sent > 1000, "only {sent} pings were sent");
    Ok(())
}

/// The sessions of `node` that are established, each with its start.
fn sessions(lab: &Lab, node: &str) -> Result<BTreeMap<String, String>> {
    let networks = lab.objects("nodenetworks")?;
    let network =
        networks.iter().find(|network| network["metadata"]["name"] == node).context("no NodeNetwork")?;
    let sessions = network["status"]["sessions"].as_array().cloned().unwrap_or_default();
    let up = sessions.iter().filter(|session| session["state"] == "Established");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(up.map(|session| (text(&session["peer"]), text(&session["since"]))).collect())
}

fn configure(lab: &Lab, mut spec: Value) -> Result<()> {
    spec["asNumber"] = json!(NODE_ASN);
    lab.apply(&[json!({"apiVersion": "manx.dev/v1alpha1", "kind": "BGPConfiguration",
                       "metadata": {"name": "default"}, "spec": spec})])
}

/// Waits until each node has exactly the sessions with nodes that `wanted` gives it.
fn mesh_is(lab: &Lab, wanted: &[(&str, &[&str])]) -> Result<()> {
    for (node, others) in wanted {
        let wanted: BTreeSet<String> = others.iter().map(|other| format!("node/{other}")).collect();
        wait::until(&format!("{node} has sessions with {others:?}"), Duration::from_secs(60), || {
            let up = sessions(lab, node)?.into_keys().filter(|peer| peer.starts_with("node/"));
            Ok(up.collect::<BTreeSet<_>>() == wanted)
        })
        .with_context(|| format!("it has {:?}", sessions(lab, node)))?;
    }
    Ok(())
}

fn live_topology() -> Result<()> {
    let lab = lab_with_pods(3)?;
    let mesh: [(&str, &[&str]); 3] =
        [("node1", &["node2", "node3"]), ("node2", &["node1", "node3"]), ("node3", &["node1", "node2"])];
    mesh_is(&lab, &mesh)?;
    let streams = stream_everywhere(&lab)?;
    for reflector in ["node1", "node3"] {
        let selector = json!({"matchLabels": {"kubernetes.io/hostname": reflector}});
        configure(
            &lab,
            json!({"topology": "RouteReflectors", "routeReflector": {"nodeSelector": selector}}),
        )?;
        for node in lab.nodes().iter().filter(|node| *node != reflector) {
            mesh_is(&lab, &[(node, &[reflector])])?;
        }
        everyone_is_reached(&lab)?;
        configure(&lab, json!({"topology": "FullMesh"}))?;
        mesh_is(&lab, &mesh)?;
        everyone_is_reached(&lab)?;
    }
    nothing_was_lost(streams)
}

fn live_settings() -> Result<()> {
    let lab = lab_with_pods(3)?;
    let mesh: [(&str, &[&str]); 3] =
        [("node1", &["node2", "node3"]), ("node2", &["node1", "node3"]), ("node3", &["node1", "node2"])];
    mesh_is(&lab, &mesh)?;
    let streams = stream_everywhere(&lab)?;
    let object = |kind: &str, name: &str, spec: Value| {
        json!({"apiVersion": "manx.dev/v1alpha1", "kind": kind,
                                                              "metadata": {"name": name}, "spec": spec})
    };
    let nodes = json!({"nodeSelector": {"matchLabels": {"kubernetes.io/os": "linux"}},
                       "peerSelector": {"matchLabels": {"kubernetes.io/os": "linux"}}, "asNumber": NODE_ASN});
    let peer = |more: Value| {
        let mut spec = nodes.clone();
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        object("BGPPeer", "nodes", spec)
    };
    let uptimes =
        |lab: &Lab| -> Result<Vec<_>> { lab.nodes().iter().map(|node| sessions(lab, node)).collect() };
    let rule = |community: &str| {
        json!([{"name": "mark", "action": "Accept", "cidr": "10.244.0.0/16",
                                         "source": "Local", "addCommunities": [community]}])
    };
    // A filter comes, is used, is changed and goes; no session notices.
    let before = uptimes(&lab)?;
    lab.apply(&[object("BGPFilter", "mark", json!({"exportV4": rule("64512:1")}))])?;
    lab.apply(&[peer(json!({"filters": ["mark"]}))])?;
    lab.apply(&[object("BGPFilter", "mark", json!({"exportV4": rule("64512:2")}))])?;
    everyone_is_reached(&lab)?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(uptimes(&lab)? == before, "a filter ended sessions: {before:?}, then {:?}", uptimes(&lab)?);
    // A peer that nobody answers for, added and taken away.
    lab.apply(&[object("BGPPeer", "nobody", json!({"peerIP": "192.0.2.99", "asNumber": 64999}))])?;
    // Timers of the sessions between nodes, then a password, then another one, then none.
    lab.apply(&[peer(json!({"holdTimeSeconds": 30, "keepaliveTimeSeconds": 5}))])?;
    mesh_is(&lab, &mesh)?;
    for password in ["first", "second"] {
        lab.apply(&[json!({"apiVersion": "v1", "kind": "Secret",
                           "metadata": {"name": "bgp", "namespace": "manx-system"},
                           "stringData": {"password": password}})])?;
        let secret = json!({"namespace": "manx-system", "name": "bgp", "key": "password"});
        lab.apply(&[peer(json!({"holdTimeSeconds": 30, "passwordSecretRef": secret}))])?;
        mesh_is(&lab, &mesh)?;
        everyone_is_reached(&lab)?;
    }
    for name in ["nodes", "nobody"] {
        lab.kubectl(&["delete", "bgppeer", name])?;
    }
    mesh_is(&lab, &mesh)?;
    everyone_is_reached(&lab)?;
    nothing_was_lost(streams)
}

/// The code and the text of a plugin's refusal.
fn refusal<T>(outcome: Result<T>) -> Result<(u64, String)> {
    let Err(error) = outcome else { anyhow::bail!("it was not refused") };
    let error = error.downcast::<PluginError>()?;
    Ok((error.code, error.message.trim().to_owned()))
}

/// Reason, note and count of our events on a pod.
fn events(lab: &Lab, namespace: &str, pod: &str) -> Result<Vec<(String, String, u64)>> {
    let selector = format!("regarding.name={pod}");
    let list = lab.kubectl(&[
        "get",
        "events.events.k8s.io",
        "-n",
        namespace,
        "--field-selector",
        &selector,
        "-o",
        "json",
    ])?;
    let list: Value = serde_json::from_str(&list)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = list["items"].as_array().cloned().unwrap_or_default();
    let ours = all.iter().filter(|event| event["reportingController"] == "manx.dev/agent");
    let read = |event: &Value| {
        (text(&event["reason"]), text(&event["note"]), event["series"]["count"].as_u64().unwrap_or(1))
    };
    Ok(ours.map(read).collect())
}

fn pool_object(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "manx.dev/v1alpha1", "kind": "IPPool", "metadata": {"name": name}, "spec": spec})
}

/// A pool that only pods that ask for it use, and one for the namespace `red`, which asks for it.
fn pools_to_ask_for(lab: &Lab) -> Result<()> {
    let selector = json!({"matchLabels": {"team": "red"}});
    lab.apply(&[
        pool_object("manual", json!({"cidr": "10.250.0.0/24", "blockSize": 28, "assignmentMode": "Manual"})),
        pool_object("red", json!({"cidr": "10.251.0.0/24", "blockSize": 28, "assignmentMode": "Manual",
                                  "namespaceSelector": selector})),
        json!({"apiVersion": "v1", "kind": "Namespace",
               "metadata": {"name": "red", "labels": {"team": "red"}, "annotations": {"manx.dev/ipv4pools": "red"}}}),
    ])
}

fn asking_pods() -> Result<()> {
    let mut lab = lab(1, RouterKind::Bird)?;
    pools_to_ask_for(&lab)?;
    // Pool and namespace come by watches of their own: the pod of a namespace just made gets what it asks for.
    let red = lab.add_pod_that_asks("red", "pooled", "node1", &json!({}))?;
    ensure!(red.addresses[0].to_string().starts_with("10.251.0.") && red.addresses.len() == 2, "{red:?}");
    let asks = json!({"manx.dev/ipAddrs": "10.250.0.77", "manx.dev/hwAddr": "0a:58:0a:fa:00:4d",
                      "cni.projectcalico.org/ipFamilies": "[\"ipv4\"]"});
    let fixed = lab.add_pod_that_asks("default", "fixed", "node1", &asks)?;
    ensure!(fixed.addresses == [IpAddr::from([10, 250, 0, 77])], "{fixed:?}");
    let link = netns::json(&fixed.sandbox.netns, &["ip", "-j", "link", "show", "eth0"])?;
    ensure!(link[0]["address"] == "0a:58:0a:fa:00:4d", "{link}");
    let manual =
        lab.add_pod_that_asks("default", "manual", "node1", &json!({"manx.dev/ipv4pools": "10.250.0.0/24"}))?;
    ensure!(manual.addresses[0].to_string().starts_with("10.250.0."), "{manual:?}");
    let any = lab.add_pod("any", "node1")?;
    ensure!(any.addresses[0].to_string().starts_with("10.244."), "{any:?}");
    everyone_is_reached(&lab)?;
    let mut runtime = lab.runtime("node1")?;
    runtime.conflist["plugins"].as_array_mut().context("a list of plugins")?.truncate(1);
    runtime.check(&fixed.sandbox, &fixed.result)?;
    for (name, key, value, reason, words) in [
        (
            "unreadable",
            "ipAddrs",
            "10.250.0.770",
            "BadAnnotation",
            "the pod's annotation manx.dev/ipAddrs has \"10.250.0.770\"",
        ),
        ("taken", "ipAddrs", "10.250.0.77", "AddressRefused", "10.250.0.77 is in use by pod default/fixed"),
        ("foreign", "ipv4pools", "red", "AddressRefused", "pool red is not for pods of namespace default"),
        (
            "thief",
            "ipAddrs",
            "10.251.0.200",
            "AddressRefused",
            "10.251.0.200 is of pool red, which is not for pods",
        ),
        ("nowhere", "ipv4pools", "gone", "AddressRefused", "there is no pool gone for pods"),
    ] {
        let key = format!("manx.dev/{key}");
        let (code, text) = refusal(lab.add_pod_that_asks("default", name, "node1", &json!({&key: value})))?;
        ensure!(code == 101 && text.starts_with(words), "{name}: {code} {text}");
        wait::until(&format!("the event about {name} is there"), CONVERGENCE, || {
            Ok(events(&lab, "default", name)? == [(reason.to_owned(), text.clone(), 1)])
        })
        .with_context(|| format!("{:?}, not {text}", events(&lab, "default", name)))?;
    }
    let uid = lab.kubectl(&["get", "pod", "unreadable", "-o", "jsonpath={.metadata.uid}"])?;
    for _ in 0..3 {
        refusal(lab.start_sandbox("unreadable", "node1", &uid, Value::Null))?;
    }
    // A new pod of the name, as a StatefulSet makes it, in the moment in which the watch begins anew.
    lab.del_pod("fixed")?;
    lab.kubectl(&["delete", "--raw", "/-/watches?resource=pods"])?;
    let begin = Instant::now();
    let again =
        lab.add_pod_that_asks("default", "fixed", "node1", &json!({"manx.dev/ipAddrs": "10.250.0.78"}))?;
    ensure!(again.addresses[0] == IpAddr::from([10, 250, 0, 78]), "{again:?} after {:?}", begin.elapsed());
    wait::until("the event counts the tries", CONVERGENCE, || {
        let counts: Vec<u64> =
            events(&lab, "default", "unreadable")?.into_iter().map(|event| event.2).collect();
        Ok(counts == [4])
    })
}

fn asking_after_a_restart() -> Result<()> {
    let mut lab = lab(1, RouterKind::Bird)?;
    pools_to_ask_for(&lab)?;
    // The block has to be the node's before the API server goes.
    lab.add_pod_that_asks("default", "first", "node1", &json!({"manx.dev/ipAddrs": "10.250.0.77"}))?;
    let mut late = manx_tests::lab::cluster::pod_object("default", "late", "node1");
    late["metadata"]["annotations"] = json!({"manx.dev/ipAddrs": "10.250.0.78"});
    let uid = lab.create_pod(&late)?;
    wait::until("the agent has written down what the pod asks for", CONVERGENCE, || {
        Ok(std::fs::read_to_string(lab.run_dir("node1").join("pods.json"))?.contains("10.250.0.78"))
    })?;
    lab.set_api_outage(true)?;
    lab.stop_agent("node1", Signal::SIGKILL)?;
    lab.start_agent("node1")?;
    let late = lab.start_sandbox("late", "node1", &uid, Value::Null)?;
    ensure!(late.addresses[0] == IpAddr::from([10, 250, 0, 78]), "{late:?}");
    let begin = Instant::now();
    let unknown = lab.start_sandbox("unknown", "node1", "u", Value::Null)?;
    let waited = begin.elapsed();
    ensure!(unknown.addresses.len() == 2 && waited < Duration::from_secs(3), "{unknown:?} after {waited:?}");
    lab.set_api_outage(false)?;
    everyone_is_reached(&lab)
}

/// One call of the agent as the plugin makes it.
fn ask_agent(socket: &std::path::Path, request: &Value) -> Result<Value> {
    let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

/// The requests of the agent that the API server answered.
fn requests(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    let all: Value = serde_json::from_str(&lab.kubectl(&["get", "--raw", "/-/requests"])?)?;
    let kinds = all["kinds"].as_array().cloned().unwrap_or_default();
    let is_agent =
        |kind: &&Value| kind["user_agent"].as_str().is_some_and(|name| name.starts_with("manx-agent/"));
    let text = |kind: &Value| format!("{} {} {}", kind["verb"], kind["resource"], kind["code"]);
    let of_agent = kinds.iter().filter(is_agent);
    Ok(of_agent.map(|kind| (text(kind), kind["count"].as_u64().unwrap_or(0))).collect())
}

fn a_thousand_starts() -> Result<()> {
    const PODS: usize = 1000;
    let lab = lab(1, RouterKind::Bird)?;
    lab.kubectl(&["delete", "ippool", "--all", "--wait=false"])?;
    lab.apply(&[
        pool_object("large4", json!({"cidr": "10.248.0.0/16", "blockSize": 21})),
        pool_object("large6", json!({"cidr": "fd00:10:248::/112", "blockSize": 117})),
    ])?;
    wait::until("the node owns blocks that hold them all", CONVERGENCE, || {
        let blocks = blocks(&lab, Some("node1"))?;
        Ok(blocks.iter().any(|block| block.ends_with("/21"))
            && blocks.iter().any(|block| block.ends_with("/117")))
    })?;
    let pods: Vec<_> = (0..PODS)
        .map(|number| manx_tests::lab::cluster::pod_object("default", &format!("p{number}"), "node1"))
        .collect();
    // What the agent says of its blocks and sessions after its start is no cost of pods.
    std::thread::sleep(Duration::from_secs(12));
    lab.kubectl(&["delete", "--raw", "/-/requests"])?;
    let socket = lab.run_dir("node1").join("agent.sock");
    let mut slowest = Duration::ZERO;
    let uids = lab.create_pods(&pods)?;
    let begin = Instant::now();
    for (number, (pod, uid)) in pods.iter().zip(uids).enumerate() {
        let request = json!({"add": {"network": "manx", "container": format!("c{number}"), "ifname": "eth0",
            "netns": format!("/run/netns/c{number}"), "link": format!("cali{number}"),
            "pod": {"namespace": "default", "name": pod["metadata"]["name"], "uid": uid}}});
        let asked = Instant::now();
        let answer = ask_agent(&socket, &request)?;
        slowest = slowest.max(asked.elapsed());
        ensure!(answer["assigned"]["addresses"].as_array().is_some_and(|all| all.len() == 2), "{answer}");
    }
    let took = begin.elapsed();
    std::thread::sleep(Duration::from_secs(20));
    let requests = requests(&lab)?;
    let total: u64 = requests.values().sum();
    println!(
        "{PODS} starts in {took:?}, the slowest answer after {slowest:?}, {total} requests: {requests:?}"
    );
    ensure!(total <= 40, "{total} requests for {PODS} starts: {requests:?}");
    Ok(())
}
