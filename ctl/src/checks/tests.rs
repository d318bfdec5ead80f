//! Each check finds what it is for, and nothing on what is well.

use std::collections::BTreeMap;

use manx_api::{BGPPeer, BlockSource, IPPool, PeerAsn};
use manx_facts::host::{
    ApiReached, Barrier, Certificate, CniFiles, ConfFile, Configurer, Feature, HostFacts, HostLink, Large,
    LargeOutcome, LargeReached, Listener, Outcome, Reach, Reached, Room, Trial,
};

use super::*;

fn pool(cidr: &str) -> IPPool {
    let mut pool = IPPool::example();
    pool.metadata.name = Some("pods".to_owned());
    pool.spec.cidr = cidr.parse().expect("a network");
    pool.spec.node_selector = None;
    pool
}

fn link(name: &str, address: &str, mtu: u32) -> HostLink {
    HostLink {
        name: name.to_owned(),
        mtu,
        running: true,
        addresses: vec![address.to_owned()],
        rp_filter: None,
    }
}

/// A machine on which all is well, and a running agent.
fn host(number: u8) -> HostFacts {
    let metrics = "# HELP manx_nat_in_place …\nmanx_nat_in_place 1\nmanx_guard_in_place 1\nmanx_fib_in_sync 1\n\
                   manx_cni_conflist_in_place 1\nmanx_fib_drift_total 0\nmanx_api_requests_total{code=\"200\"} 9\n";
    let settings = [
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv6.conf.all.forwarding", "1"),
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv4.fib_multipath_hash_policy", "1"),
        ("net.ipv6.conf.all.disable_ipv6", "0"),
    ];
    HostFacts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        trials: vec![Trial { feature: Feature::Veth, error: None }],
        settings: settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        listeners: Some(vec![Listener {
            port: 179,
            address: "::".parse().expect("an address"),
            program: Some("manx-agent".to_owned()),
        }]),
        links: vec![link("eth0", &format!("172.30.0.{number}/24"), 1500)],
        guards: manx_facts::host::Guards {
            links: 2,
            tables: vec!["inet manx".to_owned()],
            mtus: BTreeMap::from([(1500, 2)]),
            ..Default::default()
        },
        cni: Some(CniFiles {
            files: vec![ConfFile {
                file: "10-manx.conflist".to_owned(),
                plugins: vec!["manx-cni".to_owned()],
                ..ConfFile::default()
            }],
            ..CniFiles::default()
        }),
        pages: BTreeMap::from([("/metrics".to_owned(), Ok(metrics.to_owned()))]),
        api: Some(ApiReached { version: "v1.32.6".to_owned(), millis: 9, ..ApiReached::default() }),
        ..HostFacts::default()
    }
}

/// Objects that tell of nothing wrong: a pool that gives addresses.
fn objects() -> crate::cluster::Cluster {
    let mut pool = pool("10.244.0.0/16");
    let mut status = manx_api::IPPoolStatus::default();
    let then = manx_api::Timestamp::UNIX_EPOCH;
    manx_api::set_condition(&mut status.conditions, "Ready", true, "Well", "", None, then);
    pool.status = Some(status);
    crate::cluster::Cluster { pools: vec![pool], ..crate::cluster::Cluster::default() }
}

/// Two nodes on which all is well.
fn well() -> Facts {
    let seen = |number: u8| Seen {
        addresses: vec![format!("172.30.0.{number}").parse().expect("an address")],
        kubelet: "v1.32.6".to_owned(),
        host: Ok(Box::new(host(number))),
        clock: Some(40),
        ..Seen::default()
    };
    let pod = |component: &str, node: &str| PodSeen {
        name: format!("{component}-{node}"),
        component: component.to_owned(),
        node: node.to_owned(),
        image: "manx:0.1.0".to_owned(),
        ..PodSeen::default()
    };
    Facts {
        nodes: BTreeMap::from([("a".to_owned(), seen(1)), ("b".to_owned(), seen(2))]),
        cluster: Cluster {
            asked: true,
            services: vec!["10.96.0.0/16".parse().expect("a network")],
            pools: vec![pool("10.244.0.0/16")],
            ..Cluster::default()
        },
        manx: Manx {
            pods: vec![pod("manx-agent", "a"), pod("manx-agent", "b"), pod("manx-controller", "a")],
            objects: objects(),
            ..Manx::default()
        },
    }
}

fn machine(facts: &mut Facts) -> &mut HostFacts {
    facts.nodes.get_mut("b").expect("a node").host.as_mut().expect("it answers")
}

/// Facts with something wrong.
fn broken(wrong: impl FnOnce(&mut Facts)) -> Facts {
    let mut facts = well();
    wrong(&mut facts);
    facts
}

/// What is found, as lines.
#[track_caller]
fn finds(look: fn(&Facts) -> Vec<Finding>, facts: &Facts, words: &[&str]) {
    assert_eq!(look(&well()), Vec::new(), "on what is well");
    let found: Vec<String> =
        look(facts).iter().map(|finding| format!("{}: {}", finding.object, finding.what)).collect();
    assert_eq!(found.len(), words.len(), "{found:#?}");
    for (found, words) in found.iter().zip(words) {
        assert!(found.contains(words), "{words:?} is not in {found:?}");
    }
}

#[test]
fn nothing_is_found_on_what_is_well() {
    let verdicts = Verdicts::of(&well(), |_| true);
    assert_eq!(verdicts.findings(), Vec::new());
    assert_eq!(verdicts.nodes.len(), 2);
}

#[test]
fn a_node_that_is_away_is_named_with_the_reason() {
    let facts =
        broken(|facts| facts.nodes.get_mut("b").expect("a node").host = Err("no route to host".to_owned()));
    finds(network::answers, &facts, &["node b: it does not answer: no route to host"]);
    assert_eq!(Verdicts::of(&facts, |_| true).away["b"], "no route to host");
}

#[test]
fn what_a_kernel_cannot_do_is_named_with_its_words() {
    let facts = broken(|facts| {
        let error = Some("Operation not supported".to_owned());
        machine(facts).trials = vec![Trial { feature: Feature::Netdev, error }];
    });
    finds(
        machine::features,
        &facts,
        &["node b: what pods send cannot be guarded at their links (Operation not"],
    );
}

#[test]
fn settings_that_stand_in_the_way_are_named() {
    let facts = broken(|facts| {
        machine(facts).settings.insert("net.ipv6.conf.all.disable_ipv6".to_owned(), "1".to_owned());
        machine(facts).settings.insert("net.ipv4.conf.all.arp_ignore".to_owned(), "8".to_owned());
    });
    finds(machine::settings, &facts, &["IPv6 is switched off", "it answers no ARP"]);
}

#[test]
fn a_setting_that_somebody_took_back_is_named() {
    let facts = broken(|facts| {
        machine(facts).settings.insert("net.ipv4.ip_forward".to_owned(), "0".to_owned());
        machine(facts).settings.insert("net.ipv4.fib_multipath_hash_policy".to_owned(), "0".to_owned());
    });
    let words = ["net.ipv4.ip_forward = 0, not 1", "net.ipv4.fib_multipath_hash_policy = 0"];
    finds(machine::settings_of_a_router, &facts, &words);
}

#[test]
fn whoever_has_the_port_of_bgp_is_named() {
    let facts = broken(|facts| {
        let address = "0.0.0.0".parse().expect("an address");
        let listener = |port, program: &str| Listener { port, address, program: Some(program.to_owned()) };
        machine(facts).listeners =
            Some(vec![listener(179, "bird"), listener(9180, "x"), listener(9181, "y")]);
    });
    finds(machine::ports, &facts, &["port 179 is taken by the program bird at 0.0.0.0", "port 9180"]);
}

#[test]
fn the_port_of_the_configuration_is_the_one_that_must_be_free() {
    let facts = broken(|facts| {
        let mut configuration = BGPConfiguration::example();
        configuration.spec.listen_port = 1179;
        facts.cluster.configuration = Some(configuration);
        let address = "0.0.0.0".parse().expect("an address");
        machine(facts).listeners =
            Some(vec![Listener { port: 179, address, program: Some("bird".to_owned()) }]);
    });
    finds(machine::ports, &facts, &[]);
}

#[test]
fn another_network_is_known_by_its_file_and_by_its_links() {
    let file = |file: &str| ConfFile {
        file: file.to_owned(),
        name: "cbr0".to_owned(),
        plugins: vec!["flannel".to_owned()],
        error: None,
    };
    let facts = broken(|facts| {
        let host = machine(facts);
        host.cni = Some(CniFiles {
            files: vec![file("05-x.conflist"), file("20-x.conflist")],
            ..CniFiles::default()
        });
        host.links.push(link("flannel.1", "10.9.0.0/32", 1450));
        host.links.push(link("cali0123", "fe80::1/64", 1450));
        host.links.push(link("cali4567", "fe80::1/64", 1450));
    });
    let words = [
        "sorts before 10-manx.conflist, so that it wins",
        "will win over it",
        "links of flannel",
        "links of Calico",
    ];
    finds(machine::networks, &facts, &words);
}

#[test]
fn a_configuration_before_ours_is_named_while_manx_runs() {
    let facts = broken(|facts| {
        let cni = machine(facts).cni.as_mut().expect("given");
        cni.files.insert(0, ConfFile { file: "05-x.conf".to_owned(), ..ConfFile::default() });
    });
    finds(machine::conflists, &facts, &["takes /etc/cni/net.d/05-x.conf in place of Manx's"]);
}

#[test]
fn a_runtime_that_looks_elsewhere_is_named() {
    let facts = broken(|facts| {
        let cni = machine(facts).cni.as_mut().expect("given");
        cni.runtime_bin_dir = Some("/usr/lib/cni".to_owned());
        cni.runtime_conf_dir = Some("/etc/cni/net.d/".to_owned());
    });
    finds(machine::folders, &facts, &["looks for plugins in /usr/lib/cni"]);
}

#[test]
fn a_program_that_was_not_told_to_leave_ours_alone_is_named() {
    let facts = broken(|facts| {
        let program = |name: &str, told| Configurer { name: name.to_owned(), told };
        machine(facts).configurers = vec![
            program("NetworkManager", false),
            program("systemd-networkd", true),
            program("firewalld", false),
        ];
    });
    finds(machine::configurers, &facts, &["NetworkManager", "firewalld"]);
}

#[test]
fn what_is_nearly_used_up_is_named_before_it_is() {
    let facts = broken(|facts| {
        let room =
            |used, what: &str| Room { what: what.to_owned(), used, limit: 100, setting: "x".to_owned() };
        machine(facts).room = vec![
            room(Some(79), "files"),
            room(Some(80), "connections"),
            room(Some(99), "neighbours"),
            room(None, "z"),
        ];
        machine(facts).settings.insert("fs.inotify.max_user_instances".to_owned(), "16".to_owned());
    });
    finds(
        machine::room,
        &facts,
        &["80 of 100 connections", "99 of 100 neighbours", "max_user_instances is 16"],
    );
    let weights: Vec<_> = machine::room(&facts).iter().map(|finding| finding.weight).collect();
    assert_eq!(weights, [Weight::Warning, Weight::Error, Weight::Note]);
}

#[test]
fn of_inotify_only_the_very_last_is_an_error() {
    let weight = |used| {
        let facts = broken(|facts| {
            let setting = "fs.inotify.max_user_instances".to_owned();
            machine(facts).room =
                vec![Room { what: "instances".to_owned(), used: Some(used), limit: 128, setting }];
        });
        machine::room(&facts)[0].weight
    };
    assert_eq!((weight(125), weight(126)), (Weight::Note, Weight::Error));
}

#[test]
fn the_node_with_another_mtu_than_most_is_named() {
    let facts = broken(|facts| {
        let third = Seen {
            host: Ok(Box::new(host(3))),
            addresses: vec!["172.30.0.3".parse().expect("an address")],
            ..Seen::default()
        };
        facts.nodes.insert("c".to_owned(), third);
        machine(facts).links[0].mtu = 1400;
        machine(facts).links.push(link("docker0", "172.17.0.1/16", 9000));
    });
    finds(
        network::mtu,
        &facts,
        &["node b: the MTU of its uplink (eth0) is 1400, while that of most is 1500"],
    );
}

#[test]
fn a_node_without_an_address_of_a_pools_family_is_named() {
    let facts = broken(|facts| {
        facts.cluster.pools.push(pool("fd00:10:244::/48"));
        facts.nodes.get_mut("a").expect("a node").addresses.push("fd00::1".parse().expect("an address"));
    });
    finds(network::families, &facts, &["node b: it has no IPv6 InternalIP"]);
    let facts = broken(|facts| machine(facts).links.clear());
    finds(network::families, &facts, &["node b: no link of the machine has its InternalIP 172.30.0.2"]);
}

#[test]
fn a_node_without_a_pod_cidr_for_the_pool_that_needs_one_is_named() {
    let facts = broken(|facts| {
        facts.cluster.pools[0].spec.block_source = BlockSource::NodePodCIDRs;
        facts.nodes.get_mut("a").expect("a node").pod_cidrs =
            vec!["10.244.1.0/24".parse().expect("a network")];
    });
    finds(network::families, &facts, &["node b: it has no podCIDR inside of the pool pods"]);
}

#[test]
fn a_pool_must_be_apart_from_everything_else() {
    for (cidr, words) in [
        ("10.96.128.0/17", "overlaps the network of Services 10.96.0.0/16"),
        ("10.0.0.0/8", "overlaps the network of Services"),
        ("172.30.0.0/30", "has the address 172.30.0.1 of the node a in it"),
        ("172.17.4.0/24", "overlaps 172.17.0.1/16 of the link docker0"),
        ("192.0.2.0/24", "has the address 192.0.2.1 of the peer"),
    ] {
        let facts = broken(|facts| {
            facts.cluster.pools = vec![pool(cidr)];
            machine(facts).links.push(link("docker0", "172.17.0.1/16", 1500));
            let mut peer = BGPPeer::example();
            peer.spec.peer_ip = Some("192.0.2.1".parse().expect("an address"));
            facts.cluster.peers.push(peer);
        });
        let found = network::overlaps(&facts);
        assert!(found.iter().any(|finding| finding.what.contains(words)), "{cidr}: {found:#?}");
    }
    let facts = broken(|facts| facts.cluster.pools.push(pool("10.244.7.0/24")));
    finds(network::overlaps, &facts, &["10.244.0.0/16 overlaps 10.244.7.0/24 of the pool pods"]);
}

#[test]
fn another_network_in_the_cluster_is_named() {
    let facts = broken(|facts| {
        facts.cluster.networks.insert("Calico".to_owned(), "DaemonSet kube-system/calico-node".to_owned());
    });
    finds(network::networks, &facts, &["DaemonSet kube-system/calico-node: Calico is"]);
}

/// Facts of a kube-proxy with this configuration.
fn proxied(config: serde_json::Value) -> Facts {
    broken(|facts| machine(facts).kube_proxy = Some(config.to_string()))
}

#[test]
fn what_kube_proxy_takes_for_pods_must_be_pods() {
    use serde_json::json;
    let page = |config| proxied(json!({"kubeproxy.config.k8s.io": config}));
    finds(
        proxy::proxy,
        &page(json!({"Mode": "nftables", "DetectLocalMode": "ClusterCIDR", "ClusterCIDR": "10.244.0.0/16"})),
        &[],
    );
    finds(
        proxy::proxy,
        &page(json!({"Mode": "iptables", "DetectLocalMode": "InterfaceNamePrefix",
        "DetectLocal": {"InterfaceNamePrefix": "cali"}})),
        &[],
    );
    let facts = page(json!({"DetectLocalMode": "NodeCIDR"}));
    finds(proxy::proxy, &facts, &["detectLocalMode: NodeCIDR"]);
    let facts = page(json!({"detectLocalMode": "BridgeInterface"}));
    finds(proxy::proxy, &facts, &["detectLocalMode: BridgeInterface"]);
    let facts = page(
        json!({"mode": "nftables", "detectLocalMode": "InterfaceNamePrefix", "detectLocal": {"interfaceNamePrefix": "cali"}}),
    );
    finds(proxy::proxy, &facts, &["kube-proxy of v1.32.6 in nftables mode writes no rules"]);
    let facts = page(
        json!({"mode": "iptables", "detectLocalMode": "InterfaceNamePrefix", "detectLocal": {"interfaceNamePrefix": "veth"}}),
    );
    finds(proxy::proxy, &facts, &["takes links that begin with \"veth\""]);
    let facts = page(json!({"detectLocalMode": "ClusterCIDR", "clusterCIDR": "10.200.0.0/16,fd00::/48"}));
    finds(proxy::proxy, &facts, &["the pool pods (10.244.0.0/16) is outside of kube-proxy's clusterCIDR"]);
}

#[test]
fn a_clock_that_differs_from_most_is_named() {
    let at = |clocks: [i64; 3]| {
        broken(|facts| {
            facts.nodes.insert("c".to_owned(), Seen::default());
            for (node, clock) in facts.nodes.values_mut().zip(clocks) {
                node.clock = Some(clock);
            }
        })
    };
    finds(clock::clocks, &at([50, 2_500, 90]), &["node b: its clock is 2.4 s behind that of most"]);
    finds(
        clock::clocks,
        &at([7_000, 7_100, -60_000]),
        &["node c: its clock is 67.0 s ahead of that of most"],
    );
    finds(clock::clocks, &at([90_000, 90_100, 90_200]), &["this machine: its clock differs by 90.1 s"]);
    finds(clock::clocks, &at([500, 1_000, 1_900]), &[]);
}

fn reached(name: &str, outcome: Outcome) -> Facts {
    broken(|facts| {
        let address = "192.0.2.1".parse().expect("an address");
        let reach = Reach { name: name.to_owned(), address, port: 179, open: true };
        machine(facts).reached = vec![Reached { reach, outcome, millis: 3 }];
        let mut peer = BGPPeer::example();
        peer.metadata.name = Some("tor".to_owned());
        peer.spec.as_number = PeerAsn::Number(65000);
        peer.spec.password_secret_ref = None;
        facts.cluster.peers.push(peer);
    })
}

#[test]
fn a_peer_that_does_not_answer_as_it_should_is_named() {
    let open = |as_number| Outcome::Open { as_number, router_id: "192.0.2.1".to_owned(), hold_time: 90 };
    finds(reached::peers, &reached("peer/tor", open(65000)), &[]);
    finds(
        reached::peers,
        &reached("peer/tor", open(65001)),
        &["says that it is of AS 65001, and the BGPPeer says 65000"],
    );
    for (outcome, words) in [
        (Outcome::Timeout, "does not answer"),
        (Outcome::Refused, "nobody listens as the peer tor at 192.0.2.1 port 179"),
        (Outcome::Closed, "closes it without an OPEN"),
        (Outcome::Silent, "says nothing"),
        (Outcome::Notification(6, 5), "NOTIFICATION 6/5"),
        (Outcome::Error("this is not BGP".to_owned()), "this is not BGP"),
    ] {
        finds(reached::peers, &reached("peer/tor", outcome), &[words]);
    }
}

#[test]
fn a_node_that_does_not_reach_another_is_named() {
    finds(
        reached::nodes,
        &reached("node/a", Outcome::Timeout),
        &["node b: it does not reach 192.0.2.1 of a"],
    );
    finds(reached::nodes, &reached("node/a", Outcome::Refused), &[]);
    let mut facts = reached("node/a", Outcome::Timeout);
    facts.cluster.peers[0].spec.peer_selector = Some(manx_api::LabelSelector::default());
    facts.cluster.peers[0].spec.ttl_security_hops = Some(1);
    finds(reached::nodes, &facts, &[]);
    let facts = well();
    assert_eq!(reached::question(&facts, "b").reach.len(), 1);
    assert_eq!(reached::question(&facts, "b").reach[0].name, "node/a");
}

#[test]
fn a_node_that_does_not_reach_the_api_server_is_named() {
    let facts = broken(|facts| {
        let error = Some("invalid peer certificate: Expired".to_owned());
        machine(facts).api =
            Some(ApiReached { address: "10.96.0.1:443".to_owned(), error, ..ApiReached::default() });
    });
    finds(
        reached::api,
        &facts,
        &["does not reach the API server at 10.96.0.1:443: invalid peer certificate: Expired"],
    );
    let facts = broken(|facts| machine(facts).api.as_mut().expect("given").millis = 5_000);
    finds(reached::api, &facts, &["takes 5000 ms"]);
}

#[test]
fn a_pod_of_ours_that_was_started_anew_is_named() {
    let facts = broken(|facts| facts.manx.pods[1].restarted = Some((600, "OOMKilled".to_owned())));
    finds(running::restarts, &facts, &["started anew 10 min ago (OOMKilled)"]);
}

#[test]
fn several_versions_are_named() {
    let facts = broken(|facts| facts.manx.pods[1].image = "manx:0.0.9".to_owned());
    finds(running::versions, &facts, &["several images run: manx:0.0.9 on 1 node, manx:0.1.0 on 1 node"]);
    let facts = broken(|facts| machine(facts).version = "0.0.9".to_owned());
    finds(running::versions, &facts, &["and the agents of 0.0.9"]);
}

#[test]
fn what_objects_tell_is_told_too() {
    let facts = broken(|facts| {
        facts.manx.objects.pools.clear();
        facts.manx.objects.unread.push("Leases may not be read".to_owned());
    });
    finds(running::objects, &facts, &["pools: there is none", "Leases may not be read"]);
}

#[test]
fn a_guard_that_is_gone_is_named() {
    let facts = broken(|facts| {
        machine(facts).guards.open = vec!["cali1".to_owned()];
        machine(facts).guards.tables.clear();
    });
    finds(running::guards, &facts, &["1 of 2 links of pods take more than", "the table inet manx is gone"]);
}

#[test]
fn what_an_agent_says_of_itself_is_heard() {
    let facts = broken(|facts| {
        let page = "manx_nat_in_place 0\nmanx_guard_in_place 1\nmanx_fib_drift_total 7\nmanx_guard_mended_total 2\n\
                    manx_bgp_speaker_panics_total 1\nmanx_api_requests_total{code=\"403\"} 2\n";
        machine(facts).pages.insert("/metrics".to_owned(), Ok(page.to_owned()));
    });
    finds(running::gauges, &facts, &["the rules that masquerade are not in place"]);
    finds(running::counters, &facts, &["7 routes were removed", "1 times the speaker failed", "2 requests"]);
    let facts = broken(|facts| {
        machine(facts).pages.insert("/metrics".to_owned(), Err("connection refused".to_owned()));
    });
    finds(running::gauges, &facts, &["does not tell how it is: connection refused"]);
}

#[test]
fn links_of_pods_with_more_than_the_uplink_carries_are_named() {
    let facts = broken(|facts| machine(facts).links[0].mtu = 1400);
    finds(running::pods_mtu, &facts, &["2 links of pods have the MTU 1500, and the uplink has 1400"]);
}

#[test]
fn what_is_the_same_on_several_nodes_is_said_once() {
    let facts = broken(|facts| {
        for node in facts.nodes.values_mut() {
            let host = node.host.as_mut().expect("it answers");
            host.settings.insert("net.ipv4.ip_forward".to_owned(), "0".to_owned());
        }
    });
    let findings = Verdicts::of(&facts, |_| true).findings();
    let objects: Vec<&str> = findings.iter().map(|finding| finding.object.as_str()).collect();
    assert_eq!(objects, ["nodes a, b"]);
}

fn barrier(pods: &str, outgoing: bool, table: &str, chain: &str) -> Barrier {
    let (table, chain) = (table.to_owned(), chain.to_owned());
    Barrier { pods: pods.parse().expect("a network"), outgoing, table, chain, rule_in: None }
}

#[test]
fn a_firewall_that_drops_what_pods_send_is_named_with_what_lets_it_pass() {
    let facts = broken(|facts| {
        machine(facts).barriers = vec![
            barrier("10.244.0.0/16", true, "ip filter", "FORWARD"),
            barrier("10.244.0.0/16", false, "ip filter", "FORWARD"),
            barrier("fd00::/48", true, "inet fw", "passing"),
            barrier("fd00::/48", true, "mangle of ip6tables-legacy", "FORWARD"),
        ];
    });
    let words = [
        "the chain passing of the table inet fw drops of pods in fd00::/48 what they send to other nodes, by its policy",
        "the chain FORWARD of the table ip filter drops of pods in 10.244.0.0/16 what they send to other nodes, and what",
        "the chain FORWARD of the table mangle of ip6tables-legacy drops of pods in fd00::/48 what they send",
    ];
    finds(firewall::barriers, &facts, &words);
    let cures: Vec<_> = firewall::barriers(&facts).into_iter().map(|finding| finding.cure).collect();
    for command in [
        "`iptables -t filter -I FORWARD -s 10.244.0.0/16 -j ACCEPT`",
        "`ip6tables-legacy -t mangle -I FORWARD -s fd00::/48 -j ACCEPT`",
        "`nft insert rule inet fw passing ip6 saddr fd00::/48 accept`",
    ] {
        assert!(cures.iter().any(|cure| cure.contains(command)), "{cures:?}");
    }
}

fn lost(name: &str, told: Option<u32>) -> LargeReached {
    let large = Large { name: format!("node/{name}"), address: "172.30.0.9".parse().expect("an address") };
    LargeReached { large, size: 1500, outcome: LargeOutcome::Lost { passes: Some(1400), told } }
}

#[test]
fn large_packets_that_get_lost_are_worse_where_nobody_is_told() {
    let facts = broken(|facts| machine(facts).large = vec![lost("c", None), lost("d", None)]);
    finds(
        reached::large,
        &facts,
        &[
            "packets of 1500 octets, as its pods send them, get lost on the way to c (172.30.0.9), d (172.30.0.9)",
        ],
    );
    assert_eq!(reached::large(&facts)[0].weight, Weight::Error);
    let told = broken(|facts| machine(facts).large = vec![lost("c", Some(1400))]);
    finds(reached::large, &told, &["a link on the way takes 1400; such of 1400 pass"]);
    assert_eq!(reached::large(&told)[0].weight, Weight::Warning);
    let silent = broken(|facts| {
        machine(facts).large = vec![LargeReached { outcome: LargeOutcome::Silent, ..lost("c", None) }];
    });
    assert_eq!(reached::large(&silent), [], "who answers no echo says nothing of large ones");
}

#[test]
fn every_node_is_reached_by_as_many_in_a_large_cluster_and_by_some_from_afar() {
    let mut facts = Facts::default();
    for number in 0..100 {
        let seen = Seen { addresses: vec![[10, 0, 0, number].into()], ..Seen::default() };
        facts.nodes.insert(format!("node{number:03}"), seen);
    }
    let mut reached: BTreeMap<String, usize> = BTreeMap::new();
    for name in facts.nodes.keys() {
        let question = reached::question(&facts, name);
        assert_eq!((question.large.len(), question.reach.len()), (16, 16));
        for large in question.large {
            *reached.entry(large.name).or_default() += 1;
        }
    }
    assert!(reached.len() == 100 && reached.values().all(|count| *count == 16), "{reached:?}");
}

#[test]
fn a_certificate_that_ends_within_a_month_is_named_once() {
    const DAY: i64 = 86_400;
    let ends = |days: i64| {
        let mut facts = well();
        for seen in facts.nodes.values_mut() {
            let host = seen.host.as_mut().expect("it answers");
            host.time = 1_000_000 * 1_000_000_000;
            let certificate =
                Certificate { of: "the API server (CN=x)".to_owned(), until: 1_000_000 + days * DAY };
            host.certificates = vec![certificate];
        }
        certificates::certificates(&facts)
    };
    assert_eq!(ends(31), []);
    let found = ends(29);
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].weight, found[0].what.as_str()),
        (Weight::Warning, "it ends on 1970-02-10, in 29 days")
    );
    assert_eq!(ends(2)[0].weight, Weight::Error);
    assert!(ends(-1)[0].what.starts_with("it has ended on"));
}
