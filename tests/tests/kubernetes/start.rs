//! What a node says before its network is there and after; agents before kube-proxy; and back to where a node was.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use manx_tests::kubernetes::{Cluster, Families, Node, Options, Proxy};
use manx_tests::lab::wait;
use serde_json::Value;

use super::{Scenario, drop_shared, options};

/// The scenarios of this module.
pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("a_node_takes_pods_once_its_network_is_there_and_is_as_it_was_after_uninstalling", taint_to_uninstall),
    ("agents_start_before_kube_proxy_and_without_it", before_the_proxy),
];

/// How long a change may take to be seen.
const PATIENCE: Duration = Duration::from_secs(60);
/// The taint that the agent takes away.
const TAINT: &str = "manx.dev/agent-not-ready";
/// The rights of the agent, as `/proc/PID/status` shows them: `NET_BIND_SERVICE`, `NET_ADMIN`, `NET_RAW`, `SYS_ADMIN`.
const RIGHTS: u64 = 1 << 10 | 1 << 12 | 1 << 13 | 1 << 21;

/// Keys of the taints of a node.
fn taints(cluster: &Cluster, node: &str) -> Result<Vec<String>> {
    let node = cluster.object("node", node)?;
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    Ok(taints.iter().filter_map(|taint| taint["key"].as_str().map(str::to_owned)).collect())
}

/// Status and reason of the condition `NetworkUnavailable` of a node.
fn network(cluster: &Cluster, node: &str) -> Result<(String, String)> {
    let node = cluster.object("node", node)?;
    let conditions = node["status"]["conditions"].as_array().context("a node without conditions")?;
    let found = conditions.iter().find(|condition| condition["type"] == "NetworkUnavailable");
    let text = |key: &str| found.and_then(|found| found[key].as_str()).unwrap_or_default().to_owned();
    Ok((text("status"), text("reason")))
}

fn until_up(cluster: &Cluster, node: &str) -> Result<()> {
    let up = ("False".to_owned(), "ManxIsUp".to_owned());
    wait::until("the Node says that its network is there", PATIENCE, || Ok(network(cluster, node)? == up))
}

/// What the kernel of a node has, as far as Manx could change it.
fn snapshot(node: Node<'_>) -> Result<String> {
    node.run(&[
        "sh",
        "-c",
        "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv4.conf.all.rp_filter \
         net.ipv4.nexthop_compat_mode net.ipv4.fib_multipath_hash_policy net.ipv6.fib_multipath_hash_policy; \
         ip route show proto 179; ip -6 route show proto 179; ip nexthop show; ip rule; \
         nft list tables | grep manx; ls /etc/cni/net.d /opt/cni/bin; ls /run | grep manx; true",
    ])
}

/// The process of the agent on a node.
fn agent(node: Node<'_>) -> Result<String> {
    let found = node.run(&["sh", "-c", "for p in /proc/[0-9]*; do \
        [ \"$(readlink $p/exe)\" = /usr/bin/manx-agent ] && [ \"$(readlink $p/ns/net)\" = \"$(readlink /proc/self/ns/net)\" ] \
        && grep -q cni-conf-dir $p/cmdline && echo $p; done; true"])?;
    found.lines().next().map(str::to_owned).context("no agent runs")
}

fn field(status: &str, name: &str) -> Option<String> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(|text| text.trim().to_owned())
}

/// The agent has the rights that the documentation lists, and no others.
fn is_confined(node: Node<'_>) -> Result<()> {
    let status = node.run(&["cat", &format!("{}/status", agent(node)?)])?;
    let effective = field(&status, "CapEff").context("no CapEff")?;
    ensure!(u64::from_str_radix(&effective, 16)? == RIGHTS, "the agent has the rights {effective}");
    ensure!(field(&status, "NoNewPrivs").as_deref() == Some("1"), "it may gain more");
    ensure!(field(&status, "Seccomp").as_deref() == Some("2"), "no seccomp profile");
    Ok(())
}

fn taint_to_uninstall() -> Result<()> {
    drop_shared();
    let taints_of_kubelet = [format!("{TAINT}:NoExecute"), "example.com/other:PreferNoSchedule".to_owned()];
    let cluster = Cluster::up(&Options { nodes: 1, taints: taints_of_kubelet.to_vec(), ..options("t") })?;
    let node = cluster.node(1);
    ensure!(taints(&cluster, "node1")?.contains(&TAINT.to_owned()), "the node registers with the taint");
    let before = snapshot(node)?;
    ensure!(!before.contains("10-manx"), "{before}");
    cluster.install_and_wait()?;
    wait::until("the taint is gone", PATIENCE, || {
        Ok(!taints(&cluster, "node1")?.contains(&TAINT.to_owned()))
    })?;
    ensure!(taints(&cluster, "node1")?.contains(&"example.com/other".to_owned()), "a foreign taint is gone");
    until_up(&cluster, "node1")?;
    is_confined(node)?;
    somebody_else_writes(&cluster)?;
    uninstall(&cluster)?;
    let after = snapshot(node)?;
    ensure!(after == before, "before:\n{before}\nafter:\n{after}");
    Ok(())
}

/// What others write to the Node is put right.
fn somebody_else_writes(cluster: &Cluster) -> Result<()> {
    let lie = r#"{"status":{"conditions":[{"type":"NetworkUnavailable","status":"True","reason":"NoRouteCreated"}]}}"#;
    cluster.kubectl(&["patch", "node", "node1", "--subresource=status", "--type=strategic", "-p", lie])?;
    cluster.kubectl(&["taint", "node", "node1", &format!("{TAINT}=x:NoSchedule")])?;
    until_up(cluster, "node1")?;
    wait::until("the taint is gone again", PATIENCE, || {
        Ok(!taints(cluster, "node1")?.contains(&TAINT.to_owned()))
    })
}

/// As the head of deploy/uninstall.yaml says, on a node without pods of its own.
fn uninstall(cluster: &Cluster) -> Result<()> {
    let system = ["-n", "manx-system"];
    let file = |name: &str| format!("{}/../deploy/{name}", env!("CARGO_MANIFEST_DIR"));
    let run = |args: &[&str]| cluster.kubectl(&[&system[..], args].concat());
    run(&["delete", "--ignore-not-found", "--wait", "daemonset/manx-agent", "deployment/manx-controller"])?;
    wait::until("the agent is gone", PATIENCE, || {
        let pods = cluster.objects("pods")?;
        let ours = |pod: &Value| pod["metadata"]["namespace"] == "manx-system";
        Ok(!pods.iter().any(ours))
    })?;
    run(&["apply", "-f", &file("uninstall.yaml")])?;
    run(&["rollout", "status", "daemonset/manx-uninstall", "--timeout=60s"])?;
    run(&["wait", "--for=condition=Complete", "job/manx-uninstall", "--timeout=60s"])?;
    Ok(())
}

/// The log of the agent on the cluster's only node.
fn log(cluster: &Cluster) -> Result<String> {
    cluster.kubectl(&["logs", "-n", "manx-system", "daemonset/manx-agent", "-c", "agent"])
}

fn before_the_proxy() -> Result<()> {
    drop_shared();
    let families = Families::Ipv4;
    let cluster = Cluster::up(&Options { nodes: 1, families, proxy: Proxy::None, ..options("p") })?;
    let node = cluster.node(1);
    cluster.install()?;
    let away = "the API server cannot be reached";
    wait::until("the agent says that it reaches nobody", PATIENCE, || Ok(log(&cluster)?.contains(away)))?;
    ensure!(!node.dir().join("etc/cni/net.d/10-manx.conflist").exists(), "a conflist without an API server");
    node.set_proxy(Proxy::Nftables)?;
    cluster.wait_ready()?;
    until_up(&cluster, "node1")?;
    let log_after = log(&cluster)?;
    // Requests that were refused before the first answer may be heard of after it.
    ensure!(log_after.matches(away).count() <= 3, "again and again:\n{log_after}");

    // Without kube-proxy for good: another address.
    node.stop_proxy()?;
    let server = cluster.api_server();
    let (host, port) =
        server.trim_start_matches("https://").rsplit_once(':').context("an address with a port")?;
    cluster.kubectl(&[
        "-n",
        "manx-system",
        "create",
        "configmap",
        "kubernetes-endpoint",
        &format!("--from-literal=KUBERNETES_SERVICE_HOST={host}"),
        &format!("--from-literal=KUBERNETES_SERVICE_PORT={port}"),
    ])?;
    node.set_proxy(Proxy::None)?;
    cluster.kubectl(&["-n", "manx-system", "rollout", "restart", "daemonset/manx-agent"])?;
    cluster.wait_rollout(&["-n", "manx-system", "daemonset/manx-agent"])?;
    let log_of_new = log(&cluster)?;
    ensure!(!log_of_new.contains(away), "{log_of_new}");
    Ok(())
}
