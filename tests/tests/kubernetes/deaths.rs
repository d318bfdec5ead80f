//! The deaths of pods: processes, containers, sandboxes and daemons that are killed, pods that are evicted and deleted
//! in every way, and what is made anew under their names.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manx_tests::kubernetes::{Cluster, LivingPod, Network, Node};
use manx_tests::lab::{netns, wait};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::flows::Flows;
use super::ground::{Ground, PATIENCE, all_answer, process_of};
use super::{Scenario, shared};

/// The scenarios of this module.
pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("a_killed_container_keeps_the_address_and_a_killed_sandbox_frees_its_own", killed),
    ("evicted_deleted_and_force_deleted_pods_free_their_addresses_and_their_names", removed),
    ("a_stateful_set_force_deleted_twenty_times_never_has_an_address_twice", deleted_by_force),
    ("sticky_addresses_follow_a_stateful_set_and_go_with_it", sticky),
    ("pods_talk_on_while_containerd_and_kubelet_are_restarted_and_killed", daemons),
];
/// How often pods of the StatefulSet are deleted.
const DELETIONS: usize = 20;

fn on(node: &str) -> Value {
    json!({"nodeSelector": {"kubernetes.io/hostname": node}})
}

/// What spreads the pods of an application over the nodes.
fn one_per_node(app: &str) -> Value {
    json!({"topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
         "labelSelector": {"matchLabels": {"app": app}}}]})
}

fn kill(pid: i32) -> Result<()> {
    signal::kill(Pid::from_raw(pid), Signal::SIGKILL).context("cannot kill a process of a pod")
}

fn killed() -> Result<()> {
    let cluster = &*shared()?;
    let outside = netns::path(&cluster.outside().netns);
    let ground = Ground::new(cluster, "killed", &json!({}))?;
    ground.single("pod", &json!({}))?;
    let first = ground.ready_one("pod")?;
    all_answer(&outside, std::slice::from_ref(&first))?;

    kill(process_of(cluster, &first, "manx-toolbox")?)?;
    restarted(&ground, 1)?;
    let second = ground.ready_one("pod")?;
    ensure!(second.addresses == first.addresses, "{first:?} became {second:?}");
    all_answer(&outside, std::slice::from_ref(&second))?;
    cluster.network_is_even()?;

    let pause = process_of(cluster, &second, "pause")?;
    kill(pause)?;
    wait::until("the pod has another sandbox", PATIENCE, || {
        Ok(process_of(cluster, &second, "pause").is_ok_and(|pid| pid != pause))
    })?;
    restarted(&ground, 2)?;
    let third = ground.ready_one("pod")?;
    // Whatever the address: the old one is free or the new one, and nothing of the old sandbox is left.
    cluster.network_is_even()?;
    let third = if third.addresses.is_empty() { ground.ready_one("pod")? } else { third };
    all_answer(&outside, &[third])?;
    ground.finish()
}

/// Waits until the container of `pod` was started again so often and is Ready.
fn restarted(ground: &Ground<'_>, times: u64) -> Result<()> {
    wait::until("the container is started again", PATIENCE, || {
        let container = &ground.object("pod")?["status"]["containerStatuses"][0];
        Ok(container["restartCount"] == times && container["ready"] == true)
    })
}

fn removed() -> Result<()> {
    let cluster = &*shared()?;
    let outside = netns::path(&cluster.outside().netns);
    let ground = Ground::new(cluster, "removed", &json!({}))?;
    for name in ["evicted", "deleted", "forced"] {
        ground.single(name, &on("node1"))?;
    }
    let before: Vec<LivingPod> = ["evicted", "deleted", "forced"]
        .into_iter()
        .map(|name| ground.ready_one(name))
        .collect::<Result<_>>()?;
    all_answer(&outside, &before)?;

    evict(&ground, "evicted")?;
    ground.kubectl(&["delete", "pod", "deleted", "--timeout=60s"])?;
    // The same name at once, while the old sandbox still runs.
    ground.kubectl(&["delete", "pod", "forced", "--grace-period=0", "--force"])?;
    ground.single("forced", &on("node1"))?;
    let forced = ground.ready_one("forced")?;
    ensure!(forced.uid != before[2].uid, "the pod is still the old one");
    wait::until("the evicted pod is gone", PATIENCE, || Ok(ground.object("evicted").is_err()))?;
    cluster.network_is_even()?;
    all_answer(&outside, std::slice::from_ref(&forced))?;
    ensure!(
        forced.addresses.iter().all(|address| !before[2].addresses.contains(address)),
        "{forced:?} has addresses of its predecessor, which ended a moment ago"
    );
    ground.finish()
}

/// What `kubectl drain` does with one pod.
fn evict(ground: &Ground<'_>, name: &str) -> Result<()> {
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
                          "metadata": {"name": name, "namespace": ground.name}});
    let file = ground.cluster.dir().join("eviction.json");
    std::fs::write(&file, eviction.to_string())?;
    let url = format!("/api/v1/namespaces/{}/pods/{name}/eviction", ground.name);
    ground.cluster.kubectl(&["create", "--raw", &url, "-f", &file.display().to_string()]).map(drop)
}

fn deleted_by_force() -> Result<()> {
    let cluster = &*shared()?;
    let ground = Ground::new(cluster, "forced", &json!({}))?;
    // On two nodes, so that a successor starts where its predecessor still runs as well as elsewhere.
    let affinity = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In",
                                                      "values": ["node1", "node2"]}]}]}}}});
    ground.deployment("others", 3, &one_per_node("others"))?;
    ground.stateful_set("db", 3, &json!({}), &affinity)?;
    let others = ground.ready("others", 3)?;
    ground.ready("db", 3)?;
    let flows = Flows::from_everywhere(cluster, &others)?;
    for round in 0..DELETIONS {
        let name = format!("db-{}", round % 3);
        let before = ground.object(&name)?["metadata"]["uid"].clone();
        ground.kubectl(&["delete", "pod", &name, "--grace-period=0", "--force"])?;
        wait::until("the pod is made anew", PATIENCE, || {
            Ok(ground.object(&name).is_ok_and(|pod| pod["metadata"]["uid"] != before))
        })?;
        nobody_shares(cluster)?;
        if round % 5 == 4 {
            all_answer(&netns::path(&cluster.outside().netns), &ground.ready("db", 3)?)?;
        }
    }
    all_answer(&netns::path(&cluster.outside().netns), &ground.ready("db", 3)?)?;
    cluster.network_is_even()?;
    flows.none_lost()?;
    ground.finish()
}

/// No address leads to pods of two nodes at this moment, whatever the API says of them.
fn nobody_shares(cluster: &Cluster) -> Result<()> {
    let mut places: BTreeMap<String, String> = BTreeMap::new();
    for node in cluster.nodes() {
        for family in ["-4", "-6"] {
            let routes = netns::json(&node.netns(), &["ip", family, "-j", "route", "show"])?;
            for route in routes.as_array().into_iter().flatten() {
                let (device, to) = (route["dev"].as_str().unwrap_or(""), route["dst"].as_str().unwrap_or(""));
                if !device.starts_with("cali") || to.contains('/') {
                    continue;
                }
                let place = format!("{} {device}", node.name());
                if let Some(other) = places.insert(to.to_owned(), place) {
                    anyhow::bail!("{to} is at {other} and at {} {device}", node.name());
                }
            }
        }
    }
    Ok(())
}

fn sticky() -> Result<()> {
    let cluster = &*shared()?;
    if cluster.network() != Network::Manx {
        println!("only Manx keeps addresses by name");
        return Ok(());
    }
    let outside = netns::path(&cluster.outside().netns);
    let ground = Ground::new(cluster, "sticky", &json!({}))?;
    ground.stateful_set("db", 3, &json!({"manx.dev/sticky": "true"}), &json!({}))?;
    let first = by_name(&ground)?;
    ensure!(claims(&ground)?.len() == 3, "not every pod has a claim: {:?}", claims(&ground)?);

    ground.kubectl(&["delete", "pod", "db-0", "db-1", "--timeout=60s"])?;
    ground.kubectl(&["delete", "pod", "db-2", "--grace-period=0", "--force"])?;
    wait::until("db-2 is made anew", PATIENCE, || Ok(ground.object("db-2").is_ok()))?;
    let second = by_name(&ground)?;
    for (name, pod) in &second {
        let before = &first[name];
        ensure!(pod.uid != before.uid && pod.addresses == before.addresses, "{before:?} became {pod:?}");
    }
    all_answer(&outside, &second.into_values().collect::<Vec<_>>())?;
    cluster.network_is_even()?;

    // A scaled-down pod's claim waits for the next one of its name.
    ground.kubectl(&["scale", "statefulset/db", "--replicas=1"])?;
    ground.ready("db", 1)?;
    ensure!(claims(&ground)?.len() == 3, "a claim went with its pod: {:?}", claims(&ground)?);
    ground.kubectl(&["delete", "statefulset", "db", "--timeout=60s"])?;
    wait::until("the claims go with the StatefulSet", PATIENCE, || Ok(claims(&ground)?.is_empty()))?;
    ground.finish()
}

fn by_name(ground: &Ground<'_>) -> Result<BTreeMap<String, LivingPod>> {
    Ok(ground.ready("db", 3)?.into_iter().map(|pod| (pod.name.clone(), pod)).collect())
}

fn claims(ground: &Ground<'_>) -> Result<BTreeSet<String>> {
    let names = ground.kubectl(&["get", "ipclaims.manx.dev", "-o", "name"])?;
    Ok(names.lines().map(str::to_owned).collect())
}

fn daemons() -> Result<()> {
    let cluster = &*shared()?;
    let node = cluster.node(1);
    let ground = Ground::new(cluster, "daemons", &json!({}))?;
    ground.deployment("others", 3, &one_per_node("others"))?;
    ground.deployment("churn", 2, &on("node1"))?;
    let others = ground.ready("others", 3)?;
    ground.ready("churn", 2)?;
    let flows = Flows::from_everywhere(cluster, &others)?;

    node.stop_containerd()?;
    ground.kubectl(&["scale", "deployment/churn", "--replicas=4"])?;
    node.start_containerd()?;
    ground.ready("churn", 4)?;
    node.stop_kubelet()?;
    ground.kubectl(&["scale", "deployment/churn", "--replicas=2"])?;
    node.start_kubelet()?;
    ground.ready("churn", 2)?;
    cluster.network_is_even()?;

    let slow = SlowPlugin::install(cluster, node)?;
    ground.kubectl(&["scale", "deployment/churn", "--replicas=10"])?;
    slow.wait_for_calls(2)?;
    // Some sandboxes have their link, and the runtime does not know yet.
    both_die(node)?;
    drop(slow);
    ground.ready("churn", 10)?;
    ground.kubectl(&["scale", "deployment/churn", "--replicas=1"])?;
    std::thread::sleep(Duration::from_millis(300));
    both_die(node)?;
    let last = ground.ready("churn", 1)?;
    all_answer(&netns::path(&cluster.outside().netns), &last)?;
    cluster.network_is_even()?;
    flows.none_lost()?;
    ground.finish()
}

/// A node whose plugin takes its time after every ADD, so that whoever waits for it can be killed meanwhile.
struct SlowPlugin {
    plugin: PathBuf,
    real: PathBuf,
    calls: PathBuf,
}

impl SlowPlugin {
    fn install(cluster: &Cluster, node: Node<'_>) -> Result<Self> {
        let name = if cluster.network() == Network::Manx { "manx-cni" } else { "ptp" };
        let folder = node.dir().join("opt/cni/bin");
        let slow = Self {
            plugin: folder.join(name),
            real: folder.join(format!("{name}.real")),
            calls: folder.join("calls"),
        };
        std::fs::rename(&slow.plugin, &slow.real)?;
        let new = folder.join("new");
        let script = format!(
            "#!/bin/sh\n[ \"$CNI_COMMAND\" = ADD ] || exec /opt/cni/bin/{name}.real\n\
             /opt/cni/bin/{name}.real; code=$?\necho $CNI_CONTAINERID >> /opt/cni/bin/calls\nsleep 3\nexit $code\n"
        );
        std::fs::write(&new, script)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755))?;
        std::fs::rename(new, &slow.plugin)?;
        Ok(slow)
    }

    /// Waits until so many sandboxes have their network.
    fn wait_for_calls(&self, count: usize) -> Result<()> {
        wait::until("sandboxes get their network", PATIENCE, || {
            Ok(std::fs::read_to_string(&self.calls).unwrap_or_default().lines().count() >= count)
        })
    }
}

impl Drop for SlowPlugin {
    fn drop(&mut self) {
        // What is not there any more, another start of the node has brought anew.
        let _ = std::fs::rename(&self.real, &self.plugin);
        let _ = std::fs::remove_file(&self.calls);
    }
}

/// containerd and the kubelet are killed in the middle of what they do, and started again.
fn both_die(node: Node<'_>) -> Result<()> {
    for daemon in [node.containerd(), node.kubelet()] {
        daemon.signal(Signal::SIGKILL)?;
        wait::until("it is gone", PATIENCE, || Ok(!daemon.is_alive()))?;
    }
    node.start_containerd()?;
    node.start_kubelet()
}
