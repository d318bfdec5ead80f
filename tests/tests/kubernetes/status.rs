//! What `kubectl manx status` and `kubectl manx ipam check` say of a healthy cluster, while pods come and go, and of one
//! with something broken by hand.

use anyhow::{Context as _, Result, ensure};
use manx_tests::kubernetes::{Cluster, Family, LivingPod, Node};
use manx_tests::lab::wait;
use serde_json::{Value, json};

use super::ground::{Ground, PATIENCE};
use super::told::Manxctl;
use super::{Scenario, shared};

/// The scenarios of this module.
pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("kubectl_manx_says_nothing_of_a_healthy_cluster_while_pods_come_and_go", healthy),
    ("ipam_check_names_links_records_and_blocks_that_somebody_broke", leaks),
    ("status_names_sessions_routes_and_agents_that_somebody_broke", broken),
];

fn healthy() -> Result<()> {
    let cluster = &*shared()?;
    let kubectl = Manxctl::by_kubectl(cluster);
    let ground = Ground::new(cluster, "status", &json!({}))?;
    ground.deployment("web", 6, &json!({}))?;
    let pod = ground.ready("web", 6)?.pop().context("a pod")?;
    kubectl.comes_to_say(&["status"], 0, &["3/3 alive", "nothing is wrong", "leads"])?;
    for command in ["nodes", "peers", "pools", "blocks"] {
        kubectl.says(&[command, "-o", "wide"], 0, &[])?;
        let told = kubectl.says(&[command, "-o", "json"], 0, &[])?;
        let rows: Value = serde_json::from_str(&told.text)?;
        ensure!(rows.as_array().is_some_and(|rows| !rows.is_empty()), "{command}: {rows}");
    }
    let address = pod.addresses[0].to_string();
    let name = format!("in use by the pod {} on {}", pod.name, pod.node);
    kubectl.says(&["ipam", "show", &address], 0, &[&name, "link", "Running"])?;
    // Named as it was called, and completed by kubectl.
    kubectl.says(&["ipam", "check", "--help"], 0, &["kubectl manx ipam check"])?;
    let mut complete = cluster.kubectl_with_plugin()?;
    let words = complete.args(["__complete", "manx", "ipam", "ch"]).output()?;
    let words = String::from_utf8_lossy(&words.stdout).into_owned();
    ensure!(words.starts_with("check"), "kubectl completes `manx ipam ch` by {words:?}");

    for replicas in ["18", "3", "12"] {
        ground.kubectl(&["scale", "deployment/web", &format!("--replicas={replicas}")])?;
        kubectl.says(&["ipam", "check"], 0, &["nothing is wrong"])?;
    }
    ground.finish()?;
    kubectl.says(&["ipam", "check"], 0, &["nothing is wrong"]).map(drop)
}

/// Stops the agent of a node, so that it mends nothing meanwhile; it goes on when this is dropped.
struct Frozen<'a>(Node<'a>);

impl<'a> Frozen<'a> {
    fn new(node: Node<'a>) -> Result<Self> {
        signal(&node, "STOP")?;
        Ok(Self(node))
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if let Err(error) = signal(&self.0, "CONT") {
            eprintln!("the agent of {} stays stopped: {error:#}", self.0.name());
        }
    }
}

/// A signal to the agent of a node, and to no other process: agents are in the network of their node.
fn signal(node: &Node<'_>, signal: &str) -> Result<()> {
    let script = format!(
        "here=$(readlink /proc/self/ns/net); for p in /proc/[0-9]*; do \
           [ \"$(readlink $p/ns/net)\" = \"$here\" ] && [ \"$(tr '\\0' ' ' < $p/cmdline | cut -d' ' -f1)\" = /usr/bin/manx-agent ] \
             && kill -{signal} ${{p#/proc/}}; \
         done; true"
    );
    node.run(&["sh", "-c", &script]).map(drop)
}

fn leaks() -> Result<()> {
    let cluster = &*shared()?;
    let kubectl = Manxctl::by_kubectl(cluster);
    let ground = Ground::new(cluster, "leaks", &json!({}))?;
    ground.single("web", &json!({}))?;
    let pod = ground.ready_one("web")?;
    kubectl.says(&["ipam", "check"], 0, &["nothing is wrong"])?;
    link_of_nobody(cluster, &pod)?;
    block_of_nobody(cluster)?;
    link_without_guard(cluster, &pod)?;
    record_without_link(cluster, &pod)?;
    ground.finish()?;
    kubectl.comes_to_say(&["ipam", "check"], 0, &["nothing is wrong"]).map(drop)
}

fn link_of_nobody(cluster: &Cluster, pod: &LivingPod) -> Result<()> {
    let kubectl = Manxctl::by_kubectl(cluster);
    let node = cluster.node_by_name(&pod.node)?;
    let frozen = Frozen::new(node)?;
    let node = &frozen.0;
    let pair = "ip link add calidead group 179 type veth peer name calidead2";
    node.run(&pair.split(' ').collect::<Vec<_>>())?;
    node.run(&["ip", "link", "set", "calidead", "alias", "manx:feed:eth0"])?;
    let told = kubectl.says(&["ipam", "check", "--pause", "1"], 1, &["calidead", "of no pod", "ip link del"]);
    let gone = node.run(&["ip", "link", "del", "calidead"]);
    told?;
    gone.map(drop)
}

fn block_of_nobody(cluster: &Cluster) -> Result<()> {
    let kubectl = Manxctl::by_kubectl(cluster);
    let pool = cluster.objects("ippools.manx.dev")?;
    let pool = pool.iter().find(|pool| pool["spec"]["cidr"].as_str().is_some_and(|cidr| cidr.contains('.')));
    let pool = pool.context("a pool of IPv4")?;
    let (name, cidr) = (&pool["metadata"]["name"], pool["spec"]["cidr"].as_str().context("a cidr")?);
    let cidr: ipnetwork::Ipv4Network = cidr.parse()?;
    let last = cidr.nth(cidr.size() - 64).context("an address")?;
    let block = format!("{last}/26");
    let object = block.replace(['.', '/'], "-");
    cluster.apply(
        &json!({"apiVersion": "manx.dev/v1alpha1", "kind": "IPBlock", "metadata": {"name": object},
                "spec": {"cidr": block, "node": "nobody", "pool": name}})
        .to_string(),
    )?;
    let told = kubectl
        .says(&["ipam", "check", "--pause", "1"], 1, &[&block, "belongs to nobody"])
        .and_then(|_| kubectl.says(&["status"], 1, &["node nobody", &block, "controller returns"]));
    cluster.kubectl(&["delete", "ipblock", &object, "--ignore-not-found"])?;
    told.map(drop)
}

/// The host's end of the link of a pod.
fn link_of(node: &Node<'_>, pod: &LivingPod) -> Result<String> {
    let route = node.run(&["ip", "route", "get", &pod.addresses[0].to_string()])?;
    let link = route.split_whitespace().find(|word| word.starts_with("cali"));
    link.map(str::to_owned).context("the pod's link")
}

/// The agent puts the guard right as soon as it goes on.
fn link_without_guard(cluster: &Cluster, pod: &LivingPod) -> Result<()> {
    let node = cluster.node_by_name(&pod.node)?;
    let link = link_of(&node, pod)?;
    let frozen = Frozen::new(node)?;
    frozen.0.run(&["nft", "delete", "table", "netdev", &format!("manx-{link}")])?;
    let words = [&pod.name, &format!("its link {link} takes more than the pod may send"), "within a minute"];
    Manxctl::by_kubectl(cluster).says(&["ipam", "check", "--pause", "1"], 1, &words).map(drop)
}

fn record_without_link(cluster: &Cluster, pod: &LivingPod) -> Result<()> {
    let kubectl = Manxctl::by_kubectl(cluster);
    let node = cluster.node_by_name(&pod.node)?;
    let link = link_of(&node, pod)?;
    let frozen = Frozen::new(node)?;
    frozen.0.run(&["ip", "link", "del", &link])?;
    let words = [&link, "is not there", &pod.name, "restart it"];
    kubectl.says(&["ipam", "check", "--pause", "1"], 1, &words).map(drop)
}

fn broken() -> Result<()> {
    let cluster = &*shared()?;
    let kubectl = Manxctl::by_kubectl(cluster);
    kubectl.comes_to_say(&["status"], 0, &["nothing is wrong"])?;
    session_down(cluster)?;
    kubectl.comes_to_say(&["status"], 0, &["nothing is wrong"])?;
    foreign_route(cluster)?;
    kubectl.comes_to_say(&["status"], 0, &["nothing is wrong"])?;
    agent_gone(cluster)?;
    kubectl.comes_to_say(&["status"], 0, &["nothing is wrong"]).map(drop)
}

/// A peer that nobody is.
fn session_down(cluster: &Cluster) -> Result<()> {
    let kubectl = Manxctl::by_kubectl(cluster);
    let peer = json!({"apiVersion": "manx.dev/v1alpha1", "kind": "BGPPeer", "metadata": {"name": "nobody"},
                      "spec": {"peerIP": "192.0.2.99", "asNumber": "External"}});
    cluster.apply(&peer.to_string())?;
    let told = kubectl.comes_to_say(
        &["status"],
        1,
        &["peer/nobody", "node1, node2, node3", "docs/operate.md#session-down"],
    );
    cluster.kubectl(&["delete", "bgppeer", "nobody"])?;
    told.map(drop)
}

/// A route of somebody else where one of ours is to be.
fn foreign_route(cluster: &Cluster) -> Result<()> {
    let kubectl = Manxctl::by_kubectl(cluster);
    let blocks = cluster.objects("ipblocks.manx.dev")?;
    let of_node2 = |block: &&Value| {
        block["spec"]["node"] == "node2"
            && block["spec"]["cidr"].as_str().is_some_and(|cidr| cidr.contains('.'))
    };
    let block = blocks.iter().find(of_node2).context("a block of node2")?;
    let cidr = block["spec"]["cidr"].as_str().context("a cidr")?;
    let node = cluster.node(1);
    let router = node.router_address(Family::Ipv4).to_string();
    let frozen = Frozen::new(cluster.node(1))?;
    node.run(&["ip", "route", "del", cidr])?;
    node.run(&["ip", "route", "add", cidr, "via", &router, "proto", "static"])?;
    drop(frozen);
    let words = ["node node1", "RoutesInstalled", "not ours", "ip route"];
    let told = kubectl.comes_to_say(&["status", "node1"], 1, &words);
    node.run(&["ip", "route", "del", cidr, "proto", "static"])?;
    told.map(drop)
}

/// A node without an agent: the DaemonSet does not select it any more.
fn agent_gone(cluster: &Cluster) -> Result<()> {
    let kubectl = Manxctl::by_kubectl(cluster);
    let affinity = json!({"spec": {"template": {"spec": {"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["node3"]}]}]}}}}}}});
    let patch = |patch: Value| {
        let text = patch.to_string();
        cluster.kubectl(&[
            "-n",
            "manx-system",
            "patch",
            "daemonset",
            "manx-agent",
            "--type=strategic",
            "-p",
            &text,
        ])
    };
    patch(affinity)?;
    let words = ["node node3", "no agent's pod is on it"];
    let told = wait::until("node3 is named as not asked", PATIENCE, || {
        let told = kubectl.call(&["ipam", "check", "--pause", "1"])?;
        Ok(told.code == Some(2) && words.iter().all(|word| told.text.contains(word)))
    })
    .and_then(|()| kubectl.comes_to_say(&["status"], 1, &["node3", "node node3: no agent runs on it"]));
    patch(json!({"spec": {"template": {"spec": {"affinity": null}}}}))?;
    cluster.wait_rollout(&["-n", "manx-system", "daemonset/manx-agent"])?;
    told.map(drop)
}
