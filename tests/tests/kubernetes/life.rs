//! The lives of pods: many at once, probes and what kubectl does with them, and pods of every odd kind.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manx_tests::kubernetes::{Cluster, LivingPod, Network};
use manx_tests::lab::{netns, wait};
use serde_json::{Value, json};

use super::ground::{Ground, PATIENCE, TOOLBOX, all_answer};
use super::{Scenario, shared};

/// The scenarios of this module.
pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("a_deployment_of_two_sixty_and_five_pods_leaves_on_every_node_what_these_need", scaled),
    ("probes_reach_pods_from_their_node_and_kubectl_reaches_into_them", probed_and_visited),
    ("short_crashing_imageless_static_and_other_odd_pods_leave_nothing", odd_pods),
];

/// A pool with small blocks, so that sixty pods need several on each node.
const SMALL_BLOCKS: [(&str, &str, u8); 2] =
    [("life-v4", "10.99.0.0/24", 29), ("life-v6", "fd00:10:99::/112", 125)];

fn scaled() -> Result<()> {
    let cluster = &*shared()?;
    let manx = cluster.network() == Network::Manx;
    let mut annotations = json!({});
    if manx {
        pools(cluster, false)?;
        annotations = json!({"manx.dev/ipv4pools": "life-v4", "manx.dev/ipv6pools": "life-v6"});
    }
    let ground = Ground::new(cluster, "scaled", &annotations)?;
    ground.deployment("web", 2, &spread("web"))?;
    let two = ground.ready("web", 2)?;
    all_answer(&netns::path(&cluster.outside().netns), &two)?;

    ground.kubectl(&["scale", "deployment/web", "--replicas=60"])?;
    let sixty = ground.ready("web", 60)?;
    cluster.network_is_even()?;
    all_are_reached(cluster, &sixty)?;
    let many = blocks(cluster)?;

    ground.kubectl(&["scale", "deployment/web", "--replicas=5"])?;
    let five = ground.ready("web", 5)?;
    cluster.network_is_even()?;
    all_are_reached(cluster, &five)?;
    if manx {
        ensure!(many.len() >= 16, "sixty pods of two families are in {many:?}");
        // Of a pool out of use, what is empty goes back at once.
        pools(cluster, true)?;
        wait::until("only blocks with pods are left", PATIENCE, || {
            Ok(blocks(cluster)?.iter().all(|block| five.iter().any(|pod| holds(block, pod))))
        })?;
        all_are_reached(cluster, &five)?;
    }
    ground.finish()?;
    if manx {
        let names = SMALL_BLOCKS.map(|(name, ..)| name);
        cluster.kubectl(&["delete", "ippool", names[0], names[1], "--timeout=60s"])?;
        ensure!(blocks(cluster)?.is_empty(), "blocks outlive their pool");
        cluster.network_is_even()?;
    }
    Ok(())
}

/// As many pods on each node, give or take one.
fn spread(app: &str) -> Value {
    json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
           "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": app}}}]})
}

fn pools(cluster: &Cluster, disabled: bool) -> Result<()> {
    for (name, cidr, size) in SMALL_BLOCKS {
        let pool = json!({"apiVersion": "manx.dev/v1alpha1", "kind": "IPPool", "metadata": {"name": name},
                          "spec": {"cidr": cidr, "blockSize": size, "assignmentMode": "Manual",
                                   "cooldownSeconds": 1, "disabled": disabled}});
        cluster.apply(&pool.to_string())?;
    }
    Ok(())
}

/// The blocks of the pools with small blocks: none elsewhere than with Manx.
fn blocks(cluster: &Cluster) -> Result<BTreeSet<String>> {
    if cluster.network() != Network::Manx {
        return Ok(BTreeSet::new());
    }
    let blocks = cluster.objects("ipblocks.manx.dev")?;
    let of_pools =
        blocks.iter().filter(|block| SMALL_BLOCKS.iter().any(|(name, ..)| block["spec"]["pool"] == *name));
    Ok(of_pools.filter_map(|block| block["spec"]["cidr"].as_str()).map(str::to_owned).collect())
}

fn holds(block: &str, pod: &LivingPod) -> bool {
    let block = block.parse::<ipnetwork::IpNetwork>();
    block.is_ok_and(|block| pod.addresses.iter().any(|address| block.contains(*address)))
}

/// Every pod is reached from outside, from every node, and from a pod of each node that has one.
fn all_are_reached(cluster: &Cluster, pods: &[LivingPod]) -> Result<()> {
    let mut from = vec![netns::path(&cluster.outside().netns)];
    for node in cluster.nodes() {
        from.push(netns::path(&node.netns()));
        if let Some(pod) = pods.iter().find(|pod| pod.node == node.name()) {
            from.push(cluster.node_by_name(&pod.node)?.netns_of_pod(&pod.uid)?);
        }
    }
    from.iter().try_for_each(|from| all_answer(from, pods))
}

fn probed_and_visited() -> Result<()> {
    let cluster = &*shared()?;
    let ground = Ground::new(cluster, "probed", &json!({}))?;
    for (name, main) in probes() {
        ground.single(name, &json!({"main": main}))?;
    }
    for name in ["http", "tcp", "exec", "grpcless", "restarted"] {
        ground.ready_one(name)?;
    }
    readiness_follows(&ground)?;
    kubectl_visits(&ground)?;
    ground.finish()
}

/// Pods with a probe of each kind.
fn probes() -> Vec<(&'static str, Value)> {
    let every = |probe: Value| {
        let mut probe = probe;
        probe["periodSeconds"] = json!(1);
        probe["failureThreshold"] = json!(2);
        probe
    };
    let http = every(json!({"httpGet": {"path": "/healthz", "port": 8080}}));
    let mut patient = http.clone();
    patient["failureThreshold"] = json!(60);
    vec![
        ("http", json!({"readinessProbe": http})),
        (
            "tcp",
            json!({"readinessProbe": every(json!({"tcpSocket": {"port": 8081}})),
                       "livenessProbe": every(json!({"tcpSocket": {"port": 8081}}))}),
        ),
        (
            "exec",
            json!({"readinessProbe": every(json!({"exec": {"command": ["test", "!", "-e", "/tmp/busy"]}}))}),
        ),
        // Its server is late: only the startup probe gives it the time.
        (
            "grpcless",
            json!({"command": ["sh", "-c", "sleep 4; exec manx-toolbox serve"],
                            "startupProbe": patient, "livenessProbe": http}),
        ),
        ("restarted", json!({"livenessProbe": http, "readinessProbe": http})),
    ]
}

/// Readiness and liveness follow what the probes see.
fn readiness_follows(ground: &Ground<'_>) -> Result<()> {
    let ready = |name: &str| -> Result<bool> {
        let object = ground.object(name)?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        Ok(conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
    };
    let toggle = |name: &str, path: &str| {
        let url = format!("http://127.0.0.1:8080{path}");
        ground.kubectl(&["exec", name, "--", "wget", "-q", "-O-", &url])
    };
    let before = ground.ready_one("restarted")?;
    toggle("http", "/fail")?;
    ground.kubectl(&["exec", "exec", "--", "touch", "/tmp/busy"])?;
    toggle("restarted", "/fail")?;
    for name in ["http", "exec"] {
        wait::until(&format!("{name} is not Ready"), PATIENCE, || Ok(!ready(name)?))?;
    }
    toggle("http", "/heal")?;
    ground.kubectl(&["exec", "exec", "--", "rm", "/tmp/busy"])?;
    for name in ["http", "exec"] {
        wait::until(&format!("{name} is Ready again"), PATIENCE, || ready(name))?;
    }
    wait::until("liveness restarts the container", PATIENCE, || {
        Ok(ground.object("restarted")?["status"]["containerStatuses"][0]["restartCount"] == 1)
    })?;
    let after = ground.ready_one("restarted")?;
    ensure!(after.addresses == before.addresses, "{before:?} became {after:?}");
    for name in ["http", "tcp", "exec", "grpcless"] {
        let restarts = &ground.object(name)?["status"]["containerStatuses"][0]["restartCount"];
        ensure!(*restarts == 0, "{name} was restarted {restarts} times");
    }
    all_answer(&netns::path(&ground.cluster.outside().netns), &[after])
}

/// exec, logs, cp, attach and port-forward.
fn kubectl_visits(ground: &Ground<'_>) -> Result<()> {
    let pod = ground.ready_one("http")?;
    let text = ground.kubectl(&["exec", "http", "--", "hostname"])?;
    ensure!(text.trim() == "http", "exec: {text}");
    let script = "echo hello; exec cat";
    ground.single(
        "talker",
        &json!({"main": {"command": ["sh", "-c", script], "stdin": true, "stdinOnce": true}}),
    )?;
    ground.ready_one("talker")?;
    let text = ground.kubectl(&["logs", "talker"])?;
    ensure!(text == "hello\n", "logs: {text}");
    let file = ground.cluster.dir().join("copied");
    std::fs::write(&file, "a file\n")?;
    ground.kubectl(&["cp", &file.display().to_string(), "http:/tmp/copied"])?;
    let text = ground.kubectl(&["exec", "http", "--", "cat", "/tmp/copied"])?;
    ensure!(text == "a file\n", "cp: {text}");
    let echoed = attach(ground)?;
    ensure!(echoed.contains("back again"), "attach: {echoed}");
    forwarded(ground, &pod)
}

fn attach(ground: &Ground<'_>) -> Result<String> {
    let mut command = ground.cluster.kubectl_command();
    command.args(["-n", ground.name, "attach", "-i", "talker"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    child.stdin.take().context("no standard input")?.write_all(b"back again\n")?;
    let output = child.wait_with_output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn forwarded(ground: &Ground<'_>, pod: &LivingPod) -> Result<()> {
    let mut command = ground.cluster.kubectl_command();
    command.args(["-n", ground.name, "port-forward", "pod/http", "18080:8080"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let host = ground.cluster.control_plane_host().netns;
    let asked = wait::until("port-forward answers", PATIENCE, || {
        let answer = netns::enter(&host, || {
            let mut stream = std::net::TcpStream::connect("127.0.0.1:18080")?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })?;
        ensure!(answer.contains("\"pod\":\"http\""), "{} answers {answer}", pod.name);
        Ok(true)
    });
    child.kill()?;
    child.wait()?;
    asked
}

/// Where the kubelet of a node looks for static pods, below the node's folder.
const STATIC_POD: &str = "etc/kubernetes/manifests/standing.json";

fn odd_pods() -> Result<()> {
    let cluster = &*shared()?;
    let ground = Ground::new(cluster, "odd", &json!({}))?;
    let doomed = Ground::new(cluster, "doomed", &json!({}))?;
    let standing = cluster.node(2).dir().join(STATIC_POD);
    std::fs::write(&standing, ground.pod_object("standing", &json!({})).to_string())?;
    let outcome = odd_pods_on(&ground, &doomed);
    // Other scenarios go on without it.
    std::fs::remove_file(standing)?;
    outcome?;
    doomed.forget();
    ground.finish()
}

fn odd_pods_on(ground: &Ground<'_>, doomed: &Ground<'_>) -> Result<()> {
    let cluster = ground.cluster;
    // What takes longest first.
    ground.single("greedy", &greedy())?;
    ground.create(&hundred_pods())?;
    ground.single("crashing", &json!({"main": {"command": ["false"]}}))?;
    ground.single(
        "imageless",
        &json!({"main": {"image": "docker.io/library/none:1", "imagePullPolicy": "Never"}}),
    )?;
    ground.single(
        "host",
        &json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet",
                                  "main": {"command": ["sleep", "infinity"]}}),
    )?;
    ground.single("prepared", &prepared())?;
    ground.single("resolver", &json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.53"],
                                      "searches": ["example.test"], "options": [{"name": "ndots", "value": "3"}]}}))?;
    doomed.deployment("web", 3, &json!({}))?;
    doomed.ready("web", 3)?;
    let cleared = std::thread::scope(|scope| {
        // A namespace ends while pods of all others come and go.
        let ending = scope.spawn(|| cluster.kubectl(&["delete", "namespace", doomed.name, "--timeout=90s"]));
        they_are_what_they_should(ground)?;
        ending.join().map_err(|_| anyhow::anyhow!("the deletion panicked"))?
    });
    cleared?;
    let evicted = wait::until("the kubelet evicts a pod for the room it takes", PATIENCE, || {
        Ok(ground.object("greedy")?["status"]["reason"] == "Evicted")
    });
    evicted?;
    ground.kubectl(&["wait", "job/short", "--for=condition=Complete", "--timeout=150s"])?;
    cluster.network_is_even()
}

/// Fills more of its volume than it may.
fn greedy() -> Value {
    json!({"main": {"command": ["sh", "-c", "dd if=/dev/zero of=/room/file bs=1M count=8; exec sleep infinity"],
                    "volumeMounts": [{"name": "room", "mountPath": "/room"}]},
           "volumes": [{"name": "room", "emptyDir": {"sizeLimit": "1Mi"}}]})
}

/// A hundred pods, ten at a time, each of which only looks at its own address.
fn hundred_pods() -> Value {
    let command = json!(["sh", "-c", "ip -o addr show dev eth0 scope global | grep -q ."]);
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "short", "namespace": "odd"},
           "spec": {"completions": 100, "parallelism": 12, "backoffLimit": 0,
                    "template": {"spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
                        "containers": [{"name": "main", "image": TOOLBOX, "imagePullPolicy": "Never",
                                        "command": command}]}}}})
}

/// Its init containers have the address that it has later.
fn prepared() -> Value {
    let init = |name: &str, script: &str| {
        json!({"name": name, "image": TOOLBOX, "imagePullPolicy": "Never", "command": ["sh", "-c", script],
               "volumeMounts": [{"name": "notes", "mountPath": "/notes"}]})
    };
    json!({"initContainers": [init("first", "ip -o addr show dev eth0 scope global > /notes/first"),
                              init("second", "test -s /notes/first")],
           "main": {"volumeMounts": [{"name": "notes", "mountPath": "/notes"}]},
           "volumes": [{"name": "notes", "emptyDir": {}}]})
}

fn they_are_what_they_should(ground: &Ground<'_>) -> Result<()> {
    let cluster = ground.cluster;
    let outside = netns::path(&cluster.outside().netns);
    all_answer(&outside, &[ground.ready_one("prepared")?])?;
    let noted = ground.kubectl(&["exec", "prepared", "--", "cat", "/notes/first"])?;
    for address in cluster.pod_addresses(&ground.pod("prepared"))? {
        ensure!(noted.contains(&format!(" {address}/")), "init containers had {noted}, not {address}");
    }
    ground.ready_one("resolver")?;
    let resolv = ground.kubectl(&["exec", "resolver", "--", "cat", "/etc/resolv.conf"])?;
    ensure!(resolv.contains("nameserver 192.0.2.53") && resolv.contains("search example.test"), "{resolv}");
    ground.kubectl(&["wait", "pod/host", "--for=condition=Ready", "--timeout=60s"])?;
    let host = cluster.pod_addresses(&ground.pod("host"))?;
    let node = ground.object("host")?["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
    ensure!(host == cluster.node_by_name(&node)?.addresses(), "a pod of the host network has {host:?}");
    let standing = ground.ready_one("standing")?;
    all_answer(&outside, &[standing])?;
    let waits_for = |name: &str, reason: &str| {
        wait::until(&format!("{name} waits: {reason}"), PATIENCE, || {
            let object = ground.object(name)?;
            let state = &object["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
            ensure!(*state == reason, "it is {}", object["status"]);
            // It has a sandbox with an address all the while.
            Ok(object["status"]["podIPs"].as_array().is_some_and(|ips| !ips.is_empty()))
        })
    };
    waits_for("crashing", "CrashLoopBackOff")?;
    waits_for("imageless", "ErrImageNeverPull")
}
