//! `manxctl check` before anything of Manx is there, `manxctl doctor` afterwards, and the bundle of `manxctl diags`.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use manx_tests::kubernetes::{Cluster, Families, Options};
use manx_tests::lab::{netns, wait};
use serde_json::json;

use super::ground::TOOLBOX;
use super::told::Manxctl;
use super::{Scenario, drop_shared, options};

/// The scenarios of this module.
pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[(
    "a_cluster_is_checked_before_manx_is_installed_and_looked_after_then_and_its_bundle_has_no_secret",
    check_to_diags,
)];

const PATIENCE: Duration = Duration::from_secs(60);
/// What must never be in a bundle.
const SECRET: &str = "correct-horse-battery-staple";
/// A firewall that lets nothing pass but what was begun already, whatever other tables accept.
const FIREWALL: &str = "add table inet stranger; add chain inet stranger passing { type filter hook forward priority 10; \
                        policy drop; }; flush chain inet stranger passing; add rule inet stranger passing ct state established accept";
/// A network for pods inside of that of Services.
const OVERLAP: &str = "
apiVersion: manx.dev/v1alpha1
kind: IPPool
metadata: {name: inside}
spec: {cidr: 10.96.128.0/17}
";

fn check_to_diags() -> Result<()> {
    drop_shared();
    let cluster = Cluster::up(&Options { nodes: 2, families: Families::Ipv4, ..options("d") })?;
    let manxctl = Manxctl::of(&cluster);
    manxctl.says(&["check"], 0, &["2 of 2 nodes answered", "nothing is wrong"])?;
    nothing_is_left(&cluster)?;
    with_faults(&cluster)?;
    nothing_is_left(&cluster)?;
    cluster.install_and_wait()?;
    cluster.wait_rollout(&["-n", "manx-system", "deployment/manx-controller"])?;
    pod_with_secrets(&cluster)?;
    manxctl.comes_to_say(&["doctor"], 0, &[])?;
    broken(&cluster)?;
    bundle(&cluster)
}

/// Neither the namespace nor a link, table or route of ours.
fn nothing_is_left(cluster: &Cluster) -> Result<()> {
    let namespaces = cluster.kubectl(&["get", "namespaces", "-o", "name"])?;
    ensure!(!namespaces.contains("manx-check"), "{namespaces}");
    for node in cluster.nodes() {
        let left =
            node.run(&["sh", "-c", "ip link; ip route show proto 179; nft list tables; ls /etc/cni/net.d"])?;
        ensure!(!left.contains("cali") && !left.contains("manx"), "{}: {left}", node.name());
    }
    Ok(())
}

/// A program that is ended when this is dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// BIRD on the second node, which takes the port of BGP.
fn bird(cluster: &Cluster) -> Result<Daemon> {
    let node = cluster.node(2);
    let conf = node.dir().join("bird.conf");
    let text = "router id 10.0.0.9;\nprotocol device {}\nprotocol bgp stranger {\n  local as 65009;\n  \
                neighbor 172.30.2.77 as 65010;\n  ipv4 { import none; export none; };\n}\n";
    std::fs::write(&conf, text)?;
    let mut command = node.command("bird");
    command.arg("-f").arg("-c").arg(&conf).arg("-s").arg(node.dir().join("bird.ctl"));
    let daemon = Daemon(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    wait::until("BIRD listens", PATIENCE, || {
        Ok(node.run(&["sh", "-c", "cat /proc/self/net/tcp"])?.contains(":00B3 "))
    })?;
    Ok(daemon)
}

/// Each fault is named before anything is installed.
fn with_faults(cluster: &Cluster) -> Result<()> {
    let file = cluster.dir().join("pools.yaml");
    std::fs::write(&file, OVERLAP)?;
    let foreign = cluster.node(1).dir().join("etc/cni/net.d/05-flannel.conflist");
    let conflist = json!({"cniVersion": "1.0.0", "name": "cbr0", "plugins": [{"type": "flannel"}]});
    std::fs::write(&foreign, conflist.to_string())?;
    let uplink = cluster.netns("node2");
    netns::ip(&["-n", &uplink, "link", "set", "eth0", "mtu", "1400"])?;
    let bird = bird(cluster)?;
    cluster.node(2).run(&["iptables-nft", "-P", "FORWARD", "DROP"])?;
    cluster.node(1).run(&["iptables-legacy", "-P", "FORWARD", "DROP"])?;
    let words = [
        "node node1: the chain FORWARD of the table filter of iptables-legacy drops of pods in 10.96.128.0/17 what",
        "node node2: the chain FORWARD of the table ip filter drops of pods in 10.96.128.0/17 what they send",
        "node node1: packets of 1500 octets, as its pods send them, get lost on the way to node2",
        "pool inside: 10.96.128.0/17 overlaps the network of Services 10.96.0.0/16",
        "node node2: port 179 is taken by the program bird at 0.0.0.0",
        "node node1: /etc/cni/net.d/05-flannel.conflist is of the network cbr0 (flannel)",
        "1400",
    ];
    let args = ["check", "--objects", &file.display().to_string()];
    Manxctl::of(cluster).says(&args, 1, &words)?;
    drop(bird);
    cluster.node(2).run(&["nft", "delete", "table", "ip", "filter"])?;
    cluster.node(1).run(&["iptables-legacy", "-P", "FORWARD", "ACCEPT"])?;
    netns::ip(&["-n", &uplink, "link", "set", "eth0", "mtu", "1500"])?;
    std::fs::remove_file(foreign).map_err(Into::into)
}

/// A pod on the first node with a secret wherever one may be.
fn pod_with_secrets(cluster: &Cluster) -> Result<()> {
    let secret = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "tor", "namespace": "manx-system"}, "stringData": {"password": SECRET}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
    "metadata": {"name": "carrier", "annotations": {"example.com/token": SECRET}},
    "spec": {"nodeName": "node1", "terminationGracePeriodSeconds": 0, "containers": [{
        "name": "main", "image": TOOLBOX, "imagePullPolicy": "Never", "args": ["serve"],
        "env": [{"name": "PASSWORD", "value": SECRET}],
    }]}});
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [secret, pod]});
    cluster.apply(&list.to_string())?;
    let pools = cluster.kubectl(&["get", "ippools.manx.dev", "-o", "name"])?;
    let first = pools.lines().next().context("a pool")?;
    cluster.kubectl(&["annotate", first, &format!("example.com/note={SECRET}")])?;
    wait::until("the pod has an address", PATIENCE, || {
        Ok(cluster.object("pod", "carrier")?["status"]["podIP"].is_string())
    })
}

/// A guard that is gone, a setting that was changed and a session that is down are named.
fn broken(cluster: &Cluster) -> Result<()> {
    let nobody = json!({"apiVersion": "manx.dev/v1alpha1", "kind": "BGPPeer", "metadata": {"name": "nobody"},
        "spec": {"peerIP": "172.30.1.99", "asNumber": 65099,
                 "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "node1"}}}});
    cluster.apply(&nobody.to_string())?;
    let node = cluster.node(2);
    let guarded = cluster.node(1);
    let manxctl = Manxctl::of(cluster);
    wait::until("the doctor names all of it", PATIENCE, || {
        node.run(&["sysctl", "-w", "net.ipv4.ip_forward=0"])?;
        node.run(&["nft", FIREWALL])?;
        guarded.run(&[
            "sh",
            "-c",
            "nft delete table inet manx; for t in $(nft list tables netdev | cut -d' ' -f3); \
                                   do nft delete table netdev $t; done; true",
        ])?;
        let words = [
            "node node2: the node forwards no IPv4 (net.ipv4.ip_forward = 0, not 1)",
            "node node2: the chain passing of the table inet stranger drops of pods in",
            "the table inet manx is gone",
            "links of pods take more than their pods may send",
            "the session with peer/nobody",
        ];
        manxctl.says(&["doctor"], 1, &words).map(|_| true)
    })?;
    node.run(&["sysctl", "-w", "net.ipv4.ip_forward=1"])?;
    node.run(&["nft", "delete", "table", "inet", "stranger"])?;
    cluster.kubectl(&["delete", "bgppeer", "nobody"])?;
    let restore = ["-n", "manx-system", "rollout", "restart", "daemonset/manx-agent"];
    cluster.kubectl(&restore)?;
    cluster.wait_rollout(&["-n", "manx-system", "daemonset/manx-agent"])
}

/// The bundle has what is needed and nothing that is secret.
fn bundle(cluster: &Cluster) -> Result<()> {
    // The speaker knows the password, and tells it nobody.
    let guarded = json!({"apiVersion": "manx.dev/v1alpha1", "kind": "BGPPeer", "metadata": {"name": "guarded"},
        "spec": {"peerIP": "172.30.1.98", "asNumber": 65098,
                 "passwordSecretRef": {"namespace": "manx-system", "name": "tor", "key": "password"}}});
    cluster.apply(&guarded.to_string())?;
    let manxctl = Manxctl::of(cluster);
    wait::until("the nodes have the peer with a password, and routes of each other", PATIENCE, || {
        let routes = manxctl.call(&["routes", "--node", "node1", "--peer", "node/node2", "in"])?;
        Ok(routes.text.contains("node/node2") && manxctl.call(&["peers"])?.text.contains("guarded"))
    })?;
    let file = cluster.dir().join("diags.tar.gz");
    let path = file.display().to_string();
    manxctl.says(&["diags", "-o", &path], 0, &[&path])?;
    let folder = cluster.dir().join("diags");
    std::fs::create_dir(&folder)?;
    let mut unpack = std::process::Command::new("tar");
    netns::run(unpack.arg("-xzf").arg(&file).arg("-C").arg(&folder).arg("--strip-components=1"))?;
    let index = std::fs::read_to_string(folder.join("index.txt"))?;
    println!("{index}");
    for name in [
        "doctor.txt",
        "objects/ippools.yaml",
        "nodes/node1/kernel.json",
        "nodes/node2/metrics.txt",
        "nodes/node2/bgp-in.jsonl",
        "logs/",
    ] {
        ensure!(index.contains(name), "{name} is not in the index:\n{index}");
    }
    let address =
        cluster.object("pod", "carrier")?["status"]["podIP"].as_str().context("an address")?.to_owned();
    ensure!(found(&folder, &address)?, "the address of the pod is nowhere");
    for (file, words) in [
        ("bgp-best.jsonl", "our own"),
        ("bgp-in.jsonl", "\"peer\":\"node/node2\""),
        ("bgp-out.jsonl", "\"peer\":\"node/node2\""),
        ("host.json", "the API server (CN="),
    ] {
        let text = std::fs::read_to_string(folder.join("nodes/node1").join(file))?;
        ensure!(text.contains(words), "{file} has not {words:?}:\n{text}");
    }
    ensure!(!found(&folder, SECRET)?, "a secret is in the bundle");
    Ok(())
}

/// Whether a text is in any file below a folder.
fn found(folder: &Path, text: &str) -> Result<bool> {
    let mut grep = std::process::Command::new("grep");
    let output = grep.args(["-rlF", text]).arg(folder).output()?;
    println!("{text:?} is in {:?}", String::from_utf8_lossy(&output.stdout));
    Ok(output.status.success())
}
