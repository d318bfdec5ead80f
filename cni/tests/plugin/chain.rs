//! The plugins of `deploy/10-manx.conflist`, called in their order as a runtime does, with Debian's `portmap` and
//! `bandwidth` behind ours.

use std::path::Path;

use serde_json::{Value, json};

use crate::node::{Agent, NODE_V4, Node, Sandbox, echo, variables};

const V4: &str = "10.244.3.7";
const V6: &str = "fd00:10:244::307";

/// Where distributions and Kubernetes put plugins.
const FOLDERS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

fn folder() -> Option<&'static str> {
    let found = FOLDERS
        .into_iter()
        .find(|folder| ["portmap", "bandwidth"].iter().all(|plugin| Path::new(folder).join(plugin).exists()));
    if found.is_none() {
        println!("ignored: no portmap and bandwidth (package containernetworking-plugins)");
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

/// Calls one plugin of the list.
fn call(node: &Node, verb: &str, sandbox: &Sandbox, plugin: &Value, previous: &Value) -> Value {
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
    node.exec(&program, &variables, &config.to_string()).ok()
}

#[test]
fn portmap_and_bandwidth_work_behind_ours() {
    let Some(node) = Node::new() else { return };
    if folder().is_none() {
        return;
    }
    if let Err(error) = node.space.try_run("iptables -t nat -L -n") {
        println!("ignored: no iptables for portmap ({})", error.trim());
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
    // Debian's portmap 1.1.1 looks for its IPv4 rules among the IPv6 ones and fails CHECK of every dual-stack pod.
    for plugin in plugins.iter().filter(|plugin| plugin["type"] != "portmap") {
        call(&node, "CHECK", &sandbox, plugin, &result);
    }
    for plugin in plugins.iter().rev() {
        call(&node, "DEL", &sandbox, plugin, &result);
    }
    assert!(node.pod_link().is_none());
}
