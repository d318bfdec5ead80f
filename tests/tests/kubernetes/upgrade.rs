//! New versions and broken ones, an API server that is away, starts in any order, and the removal of it all.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use manx_tests::kubernetes::{Cluster, LivingPod, Node, Options, Proxy};
use manx_tests::lab::process::is_alive;
use manx_tests::lab::{netns, wait};
use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::flows::Flows;
use super::nodes::{self, PATIENCE};
use super::{Scenario, drop_shared, options, shared};

/// The scenarios of this module.
pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("agents_and_controllers_are_rolled_out_and_no_ping_is_lost", rolled_out),
    ("a_broken_version_stops_at_one_node_and_is_taken_back", broken_version),
    ("pods_are_killed_and_restarted_while_the_api_server_is_away", api_server_away),
    ("an_api_server_that_hangs_and_an_etcd_that_restarts_are_survived", control_plane_hangs),
    ("agents_wait_for_kube_proxy_and_an_uninstalled_node_is_as_before", start_to_end),
];

/// Set to `all`, outages take as long as in real life.
const EXTENT: &str = "MANX_KUBERNETES";
const AGENT: [&str; 3] = ["-n", "manx-system", "daemonset/manx-agent"];
const CONTROLLER: [&str; 3] = ["-n", "manx-system", "deployment/manx-controller"];

/// How long an outage takes: long enough for every timeout of a request, or as long as the issue of an operator.
fn outage() -> Duration {
    let long = std::env::var_os(EXTENT).is_some_and(|extent| extent == "all");
    Duration::from_secs(if long { 120 } else { 20 })
}

/// The image that the agents run.
fn image(cluster: &Cluster) -> Result<String> {
    let agent = cluster.object("daemonset", "manx-system/manx-agent")?;
    let image = agent["spec"]["template"]["spec"]["containers"][0]["image"].as_str();
    Ok(image.context("an agent without image")?.to_owned())
}

/// Gives the image `from` another name on every node.
fn tag(cluster: &Cluster, from: &str, to: &str) -> Result<()> {
    let full = |name: &str| format!("docker.io/library/{name}");
    for node in cluster.nodes() {
        node.run(&["ctr", "-n", "k8s.io", "images", "tag", "--force", &full(from), &full(to)])?;
    }
    Ok(())
}

fn set_agent_image(cluster: &Cluster, image: &str) -> Result<()> {
    let all = format!("*={image}");
    cluster.kubectl(&["-n", "manx-system", "set", "image", "daemonset/manx-agent", &all]).map(drop)
}

fn rollout(cluster: &Cluster, what: &str, object: [&str; 3]) -> Result<()> {
    let mut args = vec!["rollout", what];
    args.extend(object);
    cluster.kubectl(&args).map(drop)
}

/// A rollout to another tag while pods ping each other, are pinged from outside, and more of them start.
fn rolled_out() -> Result<()> {
    let cluster = shared()?;
    let far = nodes::pod_on_every_node(&cluster, "far")?;
    nodes::reached(&cluster, &far)?;
    let flows = Flows::around(&cluster, &far)?;
    tag(&cluster, &image(&cluster)?, "manx:next")?;
    let begin = Instant::now();
    set_agent_image(&cluster, "manx:next")?;
    cluster.apply(&nodes::workload("Deployment", "young", Some(9), json!({})).to_string())?;
    cluster.wait_rollout(&AGENT)?;
    println!("{} agents rolled out in {:.1} s", far.len(), begin.elapsed().as_secs_f32());
    cluster.kubectl(&["-n", "manx-system", "set", "image", "deployment/manx-controller", "*=manx:next"])?;
    let young = nodes::wait_pods(&cluster, "young", 9)?;
    cluster.wait_rollout(&CONTROLLER)?;
    leader_killed(&cluster)?;
    nodes::reached(&cluster, &[&far[..], &young[..2]].concat())?;
    // Back again by what is under version control, as an operator would.
    cluster.install()?;
    cluster.wait_rollout(&AGENT)?;
    cluster.wait_rollout(&CONTROLLER)?;
    flows.none_lost()?;
    nodes::consistent(&cluster)?;
    nodes::delete(&cluster, "deployment", "young")?;
    nodes::delete(&cluster, "daemonset", "far")?;
    nodes::consistent(&cluster)
}

/// The controller that leads dies without a word.
fn leader_killed(cluster: &Cluster) -> Result<()> {
    let lease = || cluster.object("lease", "manx-system/manx-controller");
    let leader = |lease: &Value| lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
    let first = leader(&lease()?);
    let pod = cluster.object("pod", &format!("manx-system/{first}"))?;
    let node = cluster.node_by_name(pod["spec"]["nodeName"].as_str().unwrap_or_default())?;
    let begin = Instant::now();
    kill_pod(&node, pod["metadata"]["uid"].as_str().unwrap_or_default())?;
    let renewed = lease()?["spec"]["renewTime"].clone();
    wait::until("a controller leads", PATIENCE, || {
        let lease = lease()?;
        Ok(!leader(&lease).is_empty() && lease["spec"]["renewTime"] != renewed)
    })?;
    println!("a controller leads again after {:.1} s", begin.elapsed().as_secs_f32());
    Ok(())
}

/// Kills every process of a pod, its sandbox too; the kubelet starts it anew.
fn kill_pod(node: &Node<'_>, uid: &str) -> Result<()> {
    let mut killed = 0;
    while let Ok(pid) = node.process_of_pod(uid) {
        ensure!(killed < 10, "the pod {uid} goes on starting");
        killed += 1;
        match signal::kill(Pid::from_raw(pid), Signal::SIGKILL) {
            // The runtime, which ends the rest of a sandbox that died, was quicker.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
        wait::until("it ends", Duration::from_secs(5), || Ok(!is_alive(pid)))?;
    }
    ensure!(killed > 0, "the pod {uid} has no process on {}", node.name());
    Ok(())
}

/// A version that does not start: the rollout stops at the first node, whose pods go on; what starts there waits.
fn broken_version() -> Result<()> {
    let cluster = shared()?;
    let far = nodes::pod_on_every_node(&cluster, "far")?;
    nodes::reached(&cluster, &far)?;
    let flows = Flows::around(&cluster, &far)?;
    tag(&cluster, "toolbox:1", "manx:broken")?;
    set_agent_image(&cluster, "manx:broken")?;
    let mut stuck = Vec::new();
    wait::until("the rollout is stuck", PATIENCE, || {
        stuck = failing(&cluster)?;
        Ok(!stuck.is_empty())
    })?;
    let refused = cluster.kubectl(&["rollout", "status", "--timeout=5s", AGENT[0], AGENT[1], AGENT[2]]);
    ensure!(refused.is_err(), "the rollout of a broken version is done");
    stuck = failing(&cluster)?;
    println!("the operator sees: {stuck:?}");
    ensure!(stuck.len() == 1, "more than one node has the broken version: {stuck:?}");
    let node = stuck[0].0.clone();
    let other = far.iter().find(|pod| pod.node != node).context("one node alone")?.node.clone();
    for (name, place) in [("waits", &node), ("starts", &other)] {
        cluster
            .apply(&nodes::workload("Deployment", name, Some(1), json!({"nodeName": place})).to_string())?;
    }
    nodes::wait_pods(&cluster, "starts", 1)?;
    let mut told = String::new();
    wait::until("the pod says what it waits for", PATIENCE, || {
        told = why_not(&cluster, "waits")?;
        Ok(told.contains("manx"))
    })
    .with_context(|| told.clone())?;
    println!("the pod that waits says: {told}");
    rollout(&cluster, "undo", AGENT)?;
    cluster.wait_rollout(&AGENT)?;
    nodes::wait_pods(&cluster, "waits", 1)?;
    flows.none_lost()?;
    for (kind, name) in [("deployment", "waits"), ("deployment", "starts"), ("daemonset", "far")] {
        nodes::delete(&cluster, kind, name)?;
    }
    nodes::consistent(&cluster)
}

/// Nodes whose agent's pod cannot start, and why, as `kubectl get pods` shows it.
fn failing(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let pods = cluster.objects("pods")?;
    let agents =
        pods.iter().filter(|pod| pod["metadata"]["labels"]["app.kubernetes.io/name"] == "manx-agent");
    let mut failing = Vec::new();
    for agent in agents {
        let states = ["initContainerStatuses", "containerStatuses"].map(|key| &agent["status"][key]);
        let states = states.into_iter().filter_map(Value::as_array).flatten();
        let reasons = states.filter_map(|state| {
            let reason = &state["state"]["waiting"]["reason"];
            let reason = reason.as_str().or_else(|| state["state"]["terminated"]["reason"].as_str())?;
            (reason != "Completed" && reason != "PodInitializing" && reason != "ContainerCreating")
                .then_some(reason)
        });
        if let Some(reason) = reasons.into_iter().next() {
            let node = agent["spec"]["nodeName"].as_str().unwrap_or_default();
            failing.push((node.to_owned(), reason.to_owned()));
        }
    }
    Ok(failing)
}

/// The newest event that tells why a pod of `app` does not start.
fn why_not(cluster: &Cluster, app: &str) -> Result<String> {
    let events = cluster.objects("events")?;
    let of_app = events.iter().filter(|event| {
        let name = event["involvedObject"]["name"].as_str().unwrap_or_default();
        name.starts_with(&format!("{app}-")) && event["type"] == "Warning"
    });
    Ok(of_app.filter_map(|event| event["message"].as_str()).next_back().unwrap_or_default().to_owned())
}

/// A pod as its node knows it, without the API server.
struct Local<'a> {
    node: Node<'a>,
    uid: String,
}

impl<'a> Local<'a> {
    fn of(cluster: &'a Cluster, pod: &LivingPod) -> Result<Self> {
        let uid =
            cluster.object("pod", &pod.name)?["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        Ok(Self { node: cluster.node_by_name(&pod.node)?, uid })
    }

    /// A command in its network namespace, once it runs.
    fn command(&self, program: &str) -> Result<Command> {
        self.node.command_in_pod(&self.uid, program)
    }

    /// Whether it reaches the first address of each of `others` and has an address itself.
    fn reaches(&self, others: &[LivingPod]) -> Result<bool> {
        for other in others {
            let address = other.addresses.first().context("no address")?.to_string();
            let output = self.command("ping")?.args(["-n", "-c", "1", "-W", "1", &address]).output()?;
            if !output.status.success() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Kills the pods of `flap` again and again for the time of an outage; each comes back each time.
fn flapping(flap: &[Local<'_>], far: &[LivingPod]) -> Result<usize> {
    let begin = Instant::now();
    let mut rounds = 0;
    while begin.elapsed() < outage() || rounds == 0 {
        for pod in flap {
            kill_pod(&pod.node, &pod.uid)?;
        }
        for pod in flap {
            // The kubelet waits longer and longer before it starts a container that ended again.
            wait::until("a killed pod is back", outage() + PATIENCE, || pod.reaches(far))?;
        }
        rounds += 1;
    }
    Ok(rounds)
}

/// Pods on every node: some that stay and ping each other, some that are killed.
fn outage_of(
    cluster: &Cluster,
    away: impl FnOnce() -> Result<()>,
    back: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let far = nodes::pod_on_every_node(cluster, "far")?;
    let flap = nodes::pod_on_every_node(cluster, "flap")?;
    nodes::reached(cluster, &far)?;
    let local: Vec<Local<'_>> = flap.iter().map(|pod| Local::of(cluster, pod)).collect::<Result<_>>()?;
    let flows = Flows::around(cluster, &far)?;
    away()?;
    let rounds = flapping(&local, &far);
    back()?;
    println!("pods were killed and came back {} times meanwhile", rounds?);
    let begin = Instant::now();
    cluster.wait_ready()?;
    nodes::wait_pods(cluster, "flap", cluster.nodes().len())?;
    nodes::consistent(cluster)?;
    // Only now does the API server tell the addresses that they have since they were killed last.
    let flap = nodes::wait_pods(cluster, "flap", cluster.nodes().len())?;
    println!("all agrees {:.1} s after it was back", begin.elapsed().as_secs_f32());
    nodes::reached(cluster, &[&far[..], &flap[..]].concat())?;
    flows.none_lost()?;
    nodes::delete(cluster, "daemonset", "flap")?;
    nodes::delete(cluster, "daemonset", "far")?;
    nodes::consistent(cluster)
}

fn api_server_away() -> Result<()> {
    let cluster = shared()?;
    let control_plane = cluster.control_plane();
    outage_of(&cluster, || control_plane.stop_apiserver(), || control_plane.start_apiserver())
}

/// First the API server takes requests and answers none; then etcd is slow, and gone for a moment.
fn control_plane_hangs() -> Result<()> {
    let cluster = shared()?;
    let control_plane = cluster.control_plane();
    outage_of(&cluster, || control_plane.freeze_apiserver(true), || control_plane.freeze_apiserver(false))?;
    let far = nodes::pod_on_every_node(&cluster, "far")?;
    let flows = Flows::around(&cluster, &far)?;
    for _ in 0..5 {
        control_plane.etcd().signal(Signal::SIGSTOP)?;
        std::thread::sleep(Duration::from_secs(2));
        control_plane.etcd().signal(Signal::SIGCONT)?;
        std::thread::sleep(Duration::from_millis(500));
    }
    control_plane.etcd().signal(Signal::SIGKILL)?;
    wait::until("etcd is gone", PATIENCE, || Ok(!control_plane.etcd().is_alive()))?;
    control_plane.start_etcd()?;
    wait::until("the API server answers", PATIENCE, || cluster.kubectl(&["get", "nodes"]).map(|_| true))?;
    cluster.wait_ready()?;
    cluster.apply(&nodes::workload("Deployment", "young", Some(6), json!({})).to_string())?;
    nodes::wait_pods(&cluster, "young", 6)?;
    nodes::consistent(&cluster)?;
    flows.none_lost()?;
    nodes::delete(&cluster, "deployment", "young")?;
    nodes::delete(&cluster, "daemonset", "far")
}

/// What Manx could leave behind on a node, by what it is.
type Traces = BTreeMap<&'static str, BTreeSet<String>>;

/// How to list it: lines that differ mean that something was left, or taken.
const TRACES: [(&str, &str); 8] = [
    ("links", "ip -br link | awk '{print $1}'"),
    ("IPv4 routes", "ip -4 route show table all"),
    (
        "IPv6 routes",
        "ip -6 route show table all | grep -v '^multicast\\|^anycast' | sed 's/ expires [0-9]*sec//'",
    ),
    ("rules", "ip -4 rule; ip -6 rule"),
    ("neighbours", "ip neigh show nud permanent; ip neigh show proxy"),
    // kube-proxy's own belong to kube-proxy, and `portmap` keeps its empty chains.
    ("nftables", "nft list tables | grep -v kube-proxy"),
    ("files", "find /opt/cni/bin /etc/cni/net.d /run/manx /run/netns 2>/dev/null"),
    ("sysctls", "sysctl -a 2>/dev/null | grep '^net\\.\\(ipv4\\|ipv6\\)\\.\\(conf\\|neigh\\|ip_forward\\)'"),
];

fn traces(node: &Node<'_>) -> Result<Traces> {
    TRACES
        .iter()
        .map(|(what, script)| {
            let output = netns::run(node.command("sh").args(["-c", &format!("{script}; true")]))?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok((*what, text.lines().map(|line| line.trim().to_owned()).collect()))
        })
        .collect()
}

/// What one has and the other has not.
fn difference(before: &Traces, after: &Traces) -> Vec<String> {
    let mut lines = Vec::new();
    for (what, old) in before {
        let new = &after[what];
        lines.extend(old.difference(new).map(|line| format!("{what}: gone: {line}")));
        lines.extend(new.difference(old).map(|line| format!("{what}: left: {line}")));
    }
    lines
}

/// A cluster whose kubelets register with the taint, first without kube-proxy.
fn start_to_end() -> Result<()> {
    drop_shared();
    let taint = "manx.dev/agent-not-ready:NoExecute".to_owned();
    let cluster =
        Cluster::up(&Options { nodes: 2, proxy: Proxy::None, taints: vec![taint], ..options("u") })?;
    let before: Vec<Traces> = cluster.nodes().iter().map(traces).collect::<Result<_>>()?;
    before_kube_proxy(&cluster)?;
    for node in cluster.nodes() {
        node.set_proxy(Proxy::Nftables)?;
    }
    let begin = Instant::now();
    ready_in_order(&cluster)?;
    println!("every node was Ready {:.1} s after kube-proxy came", begin.elapsed().as_secs_f32());
    agents_die_while_pods_start(&cluster)?;
    uninstall(&cluster, &before)?;
    cluster.install_and_wait()?;
    cluster.peer_with_router()?;
    let far = nodes::pod_on_every_node(&cluster, "far")?;
    nodes::reached_inside(&cluster, &far)?;
    cluster.down()
}

/// Agents that cannot reach the API server by its Service yet: they wait, and no pod is lured to their nodes.
fn before_kube_proxy(cluster: &Cluster) -> Result<()> {
    cluster.install()?;
    wait::until("every agent runs", PATIENCE, || {
        let pods = cluster.objects("pods")?;
        let agents =
            pods.iter().filter(|pod| pod["metadata"]["labels"]["app.kubernetes.io/name"] == "manx-agent");
        let started =
            agents.filter(|pod| pod["status"]["containerStatuses"][0]["state"]["running"].is_object());
        Ok(started.count() == cluster.nodes().len())
    })?;
    // Long enough for a careless agent to announce itself.
    std::thread::sleep(Duration::from_secs(5));
    for node in cluster.nodes() {
        let found = node.run(&["ls", "/etc/cni/net.d"])?;
        ensure!(
            found.trim().is_empty(),
            "{} has a conflist before its agent can serve: {found}",
            node.name()
        );
        ensure!(
            is_tainted(cluster, &node.name())?,
            "{} lost its taint before its agent can serve",
            node.name()
        );
    }
    let restarts = agent_restarts(cluster)?;
    ensure!(restarts == 0, "agents without an API server restarted {restarts} times");
    Ok(())
}

fn agent_restarts(cluster: &Cluster) -> Result<u64> {
    let pods = cluster.objects("pods")?;
    let agents =
        pods.iter().filter(|pod| pod["metadata"]["labels"]["app.kubernetes.io/name"] == "manx-agent");
    Ok(agents.filter_map(|pod| pod["status"]["containerStatuses"][0]["restartCount"].as_u64()).sum())
}

fn is_tainted(cluster: &Cluster, node: &str) -> Result<bool> {
    let taints = cluster.object("node", node)?["spec"]["taints"].clone();
    Ok(taints.as_array().into_iter().flatten().any(|taint| taint["key"] == "manx.dev/agent-not-ready"))
}

/// When the conflist is there the agent answers, and after that the taint goes and the node says so.
fn ready_in_order(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        wait::until(&format!("{} has its conflist", node.name()), PATIENCE, || {
            Ok(!node.run(&["ls", "/etc/cni/net.d"])?.trim().is_empty())
        })?;
        let status = r#"echo '{"cniVersion":"1.1.0","name":"manx","type":"manx-cni"}' |
            CNI_COMMAND=STATUS CNI_PATH=/opt/cni/bin /opt/cni/bin/manx-cni"#;
        node.run(&["sh", "-c", status]).context("there is a conflist, and the agent does not serve")?;
    }
    cluster.wait_ready()?;
    for node in cluster.nodes() {
        wait::until(&format!("{} is open for pods", node.name()), PATIENCE, || {
            let object = cluster.object("node", &node.name())?;
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let network = conditions.iter().find(|it| it["type"] == "NetworkUnavailable");
            Ok(network.is_some_and(|it| it["status"] == "False" && it["reason"] == "ManxIsUp")
                && !is_tainted(cluster, &node.name())?)
        })?;
    }
    Ok(())
}

/// Forty pods start while every agent is deleted once.
fn agents_die_while_pods_start(cluster: &Cluster) -> Result<()> {
    nodes::wait_agents(cluster)?;
    cluster.apply(&nodes::workload("Deployment", "young", Some(20), json!({})).to_string())?;
    for node in cluster.nodes() {
        nodes::delete_agent(cluster, &node.name())?;
    }
    nodes::wait_pods(cluster, "young", 20)?;
    nodes::wait_agents(cluster)?;
    nodes::consistent(cluster)?;
    nodes::delete(cluster, "deployment", "young")
}

/// As docs/uninstall.md says.
fn uninstall(cluster: &Cluster, before: &[Traces]) -> Result<()> {
    let file = |name: &str| format!("{}/../deploy/{name}", env!("CARGO_MANIFEST_DIR"));
    let begin = Instant::now();
    cluster.kubectl(&[
        "-n",
        "manx-system",
        "delete",
        "daemonset/manx-agent",
        "deployment/manx-controller",
    ])?;
    cluster.kubectl(&["apply", "-f", &file("uninstall.yaml")])?;
    cluster.wait_rollout(&["-n", "manx-system", "daemonset/manx-uninstall"])?;
    cluster.kubectl(&["delete", "-f", &file("uninstall.yaml"), "--ignore-not-found"])?;
    cluster.kubectl(&["delete", "-f", &file("manx.yaml"), "--ignore-not-found", "--timeout=60s"])?;
    println!("uninstalled in {:.1} s", begin.elapsed().as_secs_f32());
    for (node, before) in cluster.nodes().iter().zip(before) {
        let left = difference(before, &traces(node)?);
        ensure!(left.is_empty(), "{} is not as it was:\n{}", node.name(), left.join("\n"));
    }
    Ok(())
}
