//! The controller as a process, against the embedded API server.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use manx_api::{BGPPeer, IPBlock, IPPool, IPPoolSpec, NodeNetwork, POOL_FINALIZER, condition};
use manx_tests::apiserver::{ApiServer, Config, Handle};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

/// The longest that anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often something is looked at again.
const AGAIN: Duration = Duration::from_millis(50);

/// A cluster of two pools' worth of objects, and the controller's program.
struct Scene {
    server: Handle,
    client: Client,
    directory: tempfile::TempDir,
}

/// A running controller; it ends with this value.
struct Controller {
    log: Lines<BufReader<ChildStderr>>,
    _child: Child,
}

/// The program: beside this test's folder.
fn program() -> Option<PathBuf> {
    let exe = std::env::current_exe().expect("a test is a program");
    let program = exe.ancestors().nth(2).expect("target/debug").join("manx-controller");
    if program.exists() {
        return Some(program);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is not built", program.display());
    eprintln!("skipped: {} is not built", program.display());
    None
}

impl Scene {
    async fn new() -> Self {
        let server = ApiServer::start(Config::default()).await.expect("a free port on the loopback");
        let client = server.client();
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        for definition in manx_api::crds() {
            definitions.create(&PostParams::default(), &definition).await.expect("valid");
        }
        let directory = tempfile::tempdir().expect("a folder");
        std::fs::write(directory.path().join("kubeconfig"), server.kubeconfig()).expect("written");
        let scene = Self { server, client, directory };
        until("the kinds are served", async || {
            Api::<IPPool>::all(scene.client.clone()).list(&ListParams::default()).await.is_ok()
        })
        .await;
        let metadata = ObjectMeta { name: Some("manx-system".to_owned()), ..ObjectMeta::default() };
        scene.create(Namespace { metadata, ..Namespace::default() }).await;
        scene
    }

    async fn create<K>(&self, object: K)
    where
        K: kube::Resource<DynamicType = ()>
            + Clone
            + serde::Serialize
            + serde::de::DeserializeOwned
            + std::fmt::Debug,
    {
        Api::all(self.client.clone()).create(&PostParams::default(), &object).await.expect("valid");
    }

    /// A pool of 256 addresses in blocks of 64.
    async fn pool(&self) -> Api<IPPool> {
        let spec = IPPoolSpec::new("10.244.0.0/24".parse().expect("a network"));
        self.create(IPPool::new("v4", spec)).await;
        Api::all(self.client.clone())
    }

    async fn node(&self, name: &str) {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        self.create(Node { metadata, ..Node::default() }).await;
    }

    async fn block(&self, cidr: &str, node: &str) {
        self.create(IPBlock::claim(cidr.parse().expect("a network"), node, "v4")).await;
    }

    /// A sign of life of an agent.
    async fn beat(&self, node: &str, count: i64) {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "manx-system");
        let time = manx_api::Timestamp::from_second(1_000_000 + count).expect("in range").to_string();
        let time = time.replace('Z', ".000000Z");
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": format!("manx-agent-{node}") },
            "spec": { "holderIdentity": node, "renewTime": time },
        });
        let params = PatchParams::apply("manx-agent").force();
        leases.patch(&format!("manx-agent-{node}"), &params, &Patch::Apply(&lease)).await.expect("taken");
    }

    async fn blocks(&self) -> Vec<String> {
        let blocks: Api<IPBlock> = Api::all(self.client.clone());
        let all = blocks.list(&ListParams::default()).await.expect("served");
        all.iter().map(|block| block.name_any()).collect()
    }

    /// A folder with one pool and one peer.
    fn defaults(&self, pool: &str, cidr: &str) -> String {
        let folder = self.directory.path().join("defaults");
        std::fs::create_dir_all(&folder).expect("a folder");
        let object = |kind: &str, name: &str, spec: serde_json::Value| {
            let metadata = json!({"name": name});
            json!({"apiVersion": "manx.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
        };
        let pool = object("IPPool", pool, json!({"cidr": cidr}));
        let peer = object("BGPPeer", "tor", json!({"peerIP": "192.0.2.1", "asNumber": 65000}));
        std::fs::write(folder.join("pools.yaml"), pool.to_string()).expect("written");
        std::fs::write(folder.join("peers.yaml"), peer.to_string()).expect("written");
        folder.display().to_string()
    }

    /// What the controller says it made to begin with.
    async fn made(&self) -> BTreeMap<String, String> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), "manx-system");
        let map = maps.get_opt("manx-defaults-made").await.expect("served");
        map.and_then(|map| map.data).unwrap_or_default()
    }

    fn controller(&self, program: &PathBuf, more: &[&str]) -> Controller {
        let mut command = Command::new(program);
        command.args(["--log-format", "text", "--node-grace", "1s", "--kubeconfig"]);
        command.arg(self.directory.path().join("kubeconfig")).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("it can be run");
        let log = BufReader::new(child.stderr.take().expect("piped")).lines();
        Controller { log, _child: child }
    }
}

impl Controller {
    /// Reads the log until each of these was said.
    async fn says(&mut self, expected: &[&str]) {
        let mut missing: Vec<&str> = expected.to_vec();
        let mut all = String::new();
        let read = async {
            while !missing.is_empty() {
                let line = self.log.next_line().await.expect("readable").expect("it goes on");
                missing.retain(|text| !line.contains(text));
                all.push_str(&line);
                all.push('\n');
            }
        };
        let done = tokio::time::timeout(PATIENCE, read).await.is_ok();
        assert!(done, "{missing:?} was not said:\n{all}");
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(AGAIN).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "not in time: {what}");
}

#[tokio::test]
async fn a_dry_run_says_what_it_would_do_and_changes_nothing() {
    let Some(program) = program() else { return };
    let scene = Scene::new().await;
    let pools = scene.pool().await;
    scene.node("here").await;
    scene.block("10.244.0.0/26", "here").await;
    scene.block("10.244.0.64/26", "gone").await;
    let mut network = NodeNetwork::example();
    network.metadata = ObjectMeta { name: Some("gone".to_owned()), ..ObjectMeta::default() };
    scene.create(network).await;
    let mut controller = scene.controller(&program, &["--dry-run"]);
    let expected = [
        "would delete IPBlock 10-244-0-64-26 (0 addresses in use): its node gone is gone",
        "would delete the NodeNetwork gone",
        "would keep IPPool v4 by a finalizer",
        "would write the status of IPPool v4: Ready=True (OK)",
    ];
    controller.says(&expected).await;
    assert_eq!(scene.blocks().await, ["10-244-0-0-26", "10-244-0-64-26"]);
    let pool = pools.get("v4").await.expect("there");
    assert!(pool.metadata.finalizers.is_none() && pool.status.is_none());
    let reads = ["get", "list", "watch"];
    let wrote = |kind: &manx_tests::apiserver::Kind| {
        kind.user_agent.starts_with("manx-controller") && !reads.contains(&kind.verb.as_str())
    };
    let read = |kind: &manx_tests::apiserver::Kind| kind.user_agent.starts_with("manx-controller");
    assert_eq!(scene.server.requests().count(wrote), 0, "{:?}", scene.server.requests().counts());
    assert!(scene.server.requests().count(read) > 5, "it did ask");
}

#[tokio::test]
async fn blocks_come_back_from_a_dead_node_and_stay_with_one_whose_agent_lives_without_its_node() {
    let Some(program) = program() else { return };
    let scene = Scene::new().await;
    scene.pool().await;
    scene.node("here").await;
    for (cidr, node) in
        [("10.244.0.0/26", "here"), ("10.244.0.64/26", "dead"), ("10.244.0.128/26", "removed")]
    {
        scene.block(cidr, node).await;
    }
    scene.beat("removed", 0).await;
    let _controller = scene.controller(&program, &[]);
    let mut count = 0;
    until("the dead node's block is back", async || {
        count += 1;
        scene.beat("removed", count).await;
        !scene.blocks().await.contains(&"10-244-0-64-26".to_owned())
    })
    .await;
    for _ in 0..40 {
        count += 1;
        scene.beat("removed", count).await;
        assert!(scene.blocks().await.contains(&"10-244-0-128-26".to_owned()), "its agent lives");
        tokio::time::sleep(AGAIN).await;
    }
    until("it fell silent", async || scene.blocks().await == ["10-244-0-0-26"]).await;
}

#[tokio::test]
async fn a_pool_says_that_it_fills_and_what_its_end_waits_for() {
    let Some(program) = program() else { return };
    let scene = Scene::new().await;
    let pools = scene.pool().await;
    scene.node("here").await;
    let _controller = scene.controller(&program, &[]);
    let shown = async |type_: &str| {
        let pool = pools.get("v4").await.expect("there");
        let conditions = pool.status.map(|status| status.conditions).unwrap_or_default();
        condition(&conditions, type_).map(|it| format!("{} {}: {}", it.status, it.reason, it.message))
    };
    until("it is ready", async || shown("Ready").await.is_some_and(|text| text.starts_with("True OK"))).await;
    for number in 0..4 {
        scene.block(&format!("10.244.0.{}/26", number * 64), "here").await;
    }
    let full = "True AboveNinetyFivePercent: 0 of 256 addresses are in use, 4 of 4 blocks have an owner";
    until("it is full", async || shown("NearlyFull").await.as_deref() == Some(full)).await;
    until("an event tells", async || {
        let events: Api<Event> = Api::all(scene.client.clone());
        let events = events.list(&ListParams::default()).await.expect("served");
        events.iter().any(|event| {
            let about = &event.involved_object;
            about.name.as_deref() == Some("v4") && event.reason.as_deref() == Some("NearlyFull")
        })
    })
    .await;
    until("it has the finalizer", async || {
        pools.get("v4").await.is_ok_and(|pool| !pool.finalizers().is_empty())
    })
    .await;
    pools.delete("v4", &DeleteParams::default()).await.expect("there");
    let waits = "True Deleted: the pool goes when its 4 blocks are gone: here (4 blocks, 0 addresses in use)";
    until("it says what it waits for", async || shown("Terminating").await.as_deref() == Some(waits)).await;
    let blocks: Api<IPBlock> = Api::all(scene.client.clone());
    for block in scene.blocks().await {
        blocks.delete(&block, &DeleteParams::default()).await.expect("there");
    }
    until("it is gone", async || pools.get_opt("v4").await.is_ok_and(|pool| pool.is_none())).await;
}

#[tokio::test]
async fn the_objects_to_begin_with_are_made_once_and_never_again() {
    let Some(program) = program() else { return };
    let scene = Scene::new().await;
    let folder = scene.defaults("v4", "10.244.0.0/24");
    let pools: Api<IPPool> = Api::all(scene.client.clone());
    let controller = scene.controller(&program, &["--defaults", &folder]);
    until("the pool is made", async || pools.get_opt("v4").await.is_ok_and(|pool| pool.is_some())).await;
    until("it is written down", async || scene.made().await.contains_key("IPPool.v4")).await;
    pools.delete("v4", &DeleteParams::default()).await.expect("there");
    drop(controller);
    // What is added later is made, and what an operator deleted stays away.
    scene.defaults("v6", "fd00:10:244::/120");
    let _controller = scene.controller(&program, &["--defaults", &folder, "--identity", "second"]);
    until("the other pool is made", async || scene.made().await.contains_key("IPPool.v6")).await;
    until("v4 is gone", async || pools.get_opt("v4").await.is_ok_and(|pool| pool.is_none())).await;
    let peers: Api<BGPPeer> = Api::all(scene.client.clone());
    assert_eq!(peers.list(&ListParams::default()).await.expect("served").items.len(), 1);
}

#[tokio::test]
async fn a_cluster_that_has_pools_gets_no_others_to_begin_with() {
    let Some(program) = program() else { return };
    let scene = Scene::new().await;
    scene.create(IPPool::new("mine", IPPoolSpec::new("10.1.0.0/24".parse().expect("a network")))).await;
    let folder = scene.defaults("v4", "10.244.0.0/24");
    let _controller = scene.controller(&program, &["--defaults", &folder]);
    until("the peer is made", async || scene.made().await.contains_key("BGPPeer.tor")).await;
    assert_eq!(scene.made().await["IPPool.v4"], "left out: the cluster had pools");
    let pools: Api<IPPool> = Api::all(scene.client.clone());
    assert!(pools.get_opt("v4").await.expect("served").is_none());
}

#[tokio::test]
async fn of_the_objects_to_begin_with_a_wrong_one_does_not_hinder_the_others() {
    let Some(program) = program() else { return };
    let scene = Scene::new().await;
    let folder = scene.defaults("v4", "10.244.0.0/24");
    let wrong = "apiVersion: manx.dev/v1alpha1\nkind: IPPool\nmetadata: {name: w}\nspec: {cidr: 10.0.0.0/8, typo: 1}\n";
    std::fs::write(format!("{folder}/wrong.yaml"), wrong).expect("written");
    let mut controller = scene.controller(&program, &["--defaults", &folder]);
    controller.says(&["wrong.yaml:4: spec.typo: IPPool has no such field"]).await;
    until("the others are made", async || scene.made().await.contains_key("IPPool.v4")).await;
}

#[tokio::test]
async fn a_replica_that_shares_its_node_leads_only_when_its_figures_can_be_seen() {
    let Some(program) = program() else { return };
    let scene = Scene::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let mut controller = scene.controller(&program, &["--metrics-listen", &address]);
    controller.says(&["metrics are not shown yet: the address cannot be listened on"]).await;
    let leases: Api<Lease> = Api::namespaced(scene.client.clone(), "manx-system");
    assert!(leases.get_opt("manx-controller").await.expect("served").is_none());
    drop(taken);
    controller.says(&["this replica leads"]).await;
}

#[tokio::test]
async fn before_an_uninstallation_nothing_is_kept_by_a_finalizer_of_ours() {
    let Some(program) = program() else { return };
    let scene = Scene::new().await;
    let pools = scene.pool().await;
    scene.block("10.244.0.0/26", "gone").await;
    let kept = json!({ "metadata": { "finalizers": [POOL_FINALIZER, "example.com/other"] } });
    pools.patch("v4", &PatchParams::default(), &Patch::Merge(kept)).await.expect("taken");
    pools.delete("v4", &DeleteParams::default()).await.expect("there");
    let mut command = Command::new(&program);
    command.arg("--kubeconfig").arg(scene.directory.path().join("kubeconfig")).arg("--let-go");
    let ended = command.kill_on_drop(true).output().await.expect("it can be run");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let pool = pools.get("v4").await.expect("somebody else keeps it");
    assert_eq!(pool.finalizers(), ["example.com/other"]);
}
