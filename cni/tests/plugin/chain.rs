//! The plugins of `deploy/10-manx.conflist`, called in their order as a runtime does, with Debian's `portmap`,
//! `bandwidth` and `tuning` behind ours.

use std::path::Path;

use serde_json::{Value, json};

use crate::node::{Agent, Answer, NODE_V4, Node, Sandbox, echo, variables};

const V4: &str = "10.244.3.7";
const V6: &str = "fd00:10:244::307";

/// Where distributions and Kubernetes put plugins.
const FOLDERS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

fn folder() -> Option<&'static str> {
    let found = FOLDERS.into_iter().find(|folder| {
        ["portmap", "bandwidth", "tuning"].iter().all(|plugin| Path::new(folder).join(plugin).exists())
    });
    if found.is_none() {
        println!("ignored: no portmap, bandwidth and tuning (package containernetworking-plugins)");
    }
    found
}

fn conflist() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/10-manx.conflist");
    serde_json::from_str(&std::fs::read_to_string(path).expect("the file is there")).expect("it is JSON")
}

#[test]
fn the_conflist_has_ours_first_and_names_only_versions_that_are_spoken() {
    let list = conflist();
    assert_eq!(list["name"], "manx");
    let types: Vec<_> =
        list["plugins"].as_array().expect("a list").iter().map(|plugin| plugin["type"].clone()).collect();
    assert_eq!(types, ["manx-cni", "portmap", "bandwidth"]);
    assert!(list["cniVersion"].as_str().expect("text").parse::<manx_cni::spec::Version>().is_ok());
}

/// Calls one plugin of the list, which has to succeed.
fn call(node: &Node, verb: &str, sandbox: &Sandbox, plugin: &Value, previous: &Value) -> Value {
    try_call(node, verb, sandbox, plugin, previous).ok()
}

/// Calls one plugin of the list.
fn try_call(node: &Node, verb: &str, sandbox: &Sandbox, plugin: &Value, previous: &Value) -> Answer {
    let mut config = plugin.clone();
    // Debian's plugins are older than 1.1.
    config["cniVersion"] = json!("1.0.0");
    config["name"] = json!("manx");
    if !previous.is_null() {
        config["prevResult"] = previous.clone();
    }
    let kind = plugin["type"].as_str().expect("text");
    if kind == "manx-cni" {
        config["runDir"] = json!(node.run_dir);
    }
    config["runtimeConfig"] = json!({
        "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }],
        "bandwidth": { "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000 },
    });
    let folder = folder().expect("it was found before");
    let program = if kind == "manx-cni" {
        env!("CARGO_BIN_EXE_manx-cni").to_owned()
    } else {
        format!("{folder}/{kind}")
    };
    let mut variables = variables(verb, sandbox);
    variables.insert("CNI_PATH", folder.to_owned());
    variables.insert("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    node.exec(&program, &variables, &config.to_string())
}

/// Whether the machine has what the chain needs.
fn chain_is_there(node: &Node) -> bool {
    if folder().is_none() {
        return false;
    }
    let iptables = node.space.try_run("iptables -t nat -L -n");
    if let Err(error) = &iptables {
        println!("ignored: no iptables for portmap ({})", error.trim());
    }
    iptables.is_ok()
}

/// The conflist's plugins with `tuning` behind them.
fn with_tuning(tuning: Value) -> Vec<Value> {
    let mut plugins = conflist()["plugins"].as_array().expect("a list").clone();
    let mut last = json!({ "type": "tuning" });
    last.as_object_mut().expect("an object").extend(tuning.as_object().expect("an object").clone());
    plugins.push(last);
    plugins
}

#[test]
fn the_whole_chain_is_added_checked_twice_and_removed_for_a_pod_with_ipv4() {
    let Some(node) = Node::new() else { return };
    if !chain_is_there(&node) {
        return;
    }
    let agent = Agent::start(&node, &[&[V4]]);
    let before = node.space.photograph();
    let sandbox = node.sandbox("c1");
    let plugins = with_tuning(
        json!({ "sysctl": { "net.ipv4.conf.eth0.arp_notify": "1", "net.core.somaxconn": "512" } }),
    );
    let result =
        plugins.iter().fold(Value::Null, |result, plugin| call(&node, "ADD", &sandbox, plugin, &result));
    // `bandwidth` adds a link of its own for the other direction.
    assert_eq!(result["interfaces"][1]["name"], "eth0", "{result}");
    assert_eq!(sandbox.space.sysctl("net/core/somaxconn"), "512");
    for _ in 0..2 {
        // Debian's portmap 1.1.1 looks for its IPv4 rules among the IPv6 ones: its CHECK fails for every host port.
        for plugin in plugins.iter().filter(|plugin| plugin["type"] != "portmap") {
            call(&node, "CHECK", &sandbox, plugin, &result);
        }
    }
    assert!(echo(&sandbox.space, &node.space, V4, NODE_V4));
    for plugin in plugins.iter().rev().chain(plugins.iter().rev()) {
        call(&node, "DEL", &sandbox, plugin, &result);
    }
    assert!(node.pod_link().is_none() && agent.known().is_empty());
    assert_eq!(node.space.photograph(), before);
}

/// What `tuning` can spoil is named by CHECK: the cures are in docs/cni.md.
#[test]
fn what_tuning_changes_of_ours_is_named_by_check() {
    let Some(node) = Node::new() else { return };
    if !chain_is_there(&node) {
        return;
    }
    let _agent = Agent::start(&node, &[&[V4]]);
    for (tuning, difference) in [
        (json!({ "mtu": 1400 }), "eth0 has MTU 1400"),
        (json!({ "mac": "0a:58:0a:f4:03:07" }), "lost its permanent neighbour 10.244.3.7"),
    ] {
        let sandbox = node.sandbox("c1");
        let plugins = with_tuning(tuning);
        let chain: Vec<&Value> = plugins
            .iter()
            .filter(|plugin| ["manx-cni", "tuning"].contains(&plugin["type"].as_str().expect("text")))
            .collect();
        let result =
            chain.iter().fold(Value::Null, |result, plugin| call(&node, "ADD", &sandbox, plugin, &result));
        call(&node, "CHECK", &sandbox, chain[1], &result);
        let (code, text) = try_call(&node, "CHECK", &sandbox, chain[0], &result).failed();
        assert!(code == 104 && text.contains(difference), "{text}");
        for plugin in chain.iter().rev() {
            call(&node, "DEL", &sandbox, plugin, &result);
        }
    }
}

#[test]
fn portmap_and_bandwidth_work_behind_ours() {
    let Some(node) = Node::new() else { return };
    if !chain_is_there(&node) {
        return;
    }
    let _agent = Agent::start(&node, &[&[V4, V6]]);
    let sandbox = node.sandbox("c1");
    let list = conflist();
    let plugins = list["plugins"].as_array().expect("a list");
    let mut result = Value::Null;
    for plugin in plugins {
        result = call(&node, "ADD", &sandbox, plugin, &result);
    }
    let link = node.pod_link().expect("the host's end")["ifname"].as_str().expect("text").to_owned();
    let shaped = node.space.run(&format!("tc qdisc show dev {link}"));
    assert!(shaped.contains("tbf"), "bandwidth found the host's end: {shaped}");
    let rules = node.space.run("iptables -t nat -S");
    assert!(rules.contains("--to-destination 10.244.3.7:80"), "portmap found the pod's address: {rules}");
    assert!(echo(&sandbox.space, &node.space, V4, NODE_V4));
    // Without portmap for the reason above.
    for plugin in plugins.iter().filter(|plugin| plugin["type"] != "portmap") {
        call(&node, "CHECK", &sandbox, plugin, &result);
    }
    for plugin in plugins.iter().rev() {
        call(&node, "DEL", &sandbox, plugin, &result);
    }
    assert!(node.pod_link().is_none());
}
