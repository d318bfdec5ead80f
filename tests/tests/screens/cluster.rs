//! A cluster in the embedded API server: nodes, routers, sessions, pools, blocks; and a script in place of the nodes'
//! agents, which counts two pods a second.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use manx_api::{
    IPBlock, IPBlockStatus, IPPool, IPPoolSpec, IPPoolStatus, NodeNetwork, NodeNetworkStatus, Session,
    SessionError, SessionState, Time, Timestamp, set_condition,
};
use manx_tests::apiserver::{ApiServer, Config, Handle};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Objects that are made at once.
const AT_ONCE: usize = 16;
const PATIENCE: Duration = Duration::from_secs(60);

/// What a node answers: one line a second, two starts more in each.
const NODE: &str = r#"read question
started=10
while :; do
    routes=$((started * 3))
    echo "{\"ok\":{\"time\":$(date +%s%N),\"ready\":true,\"started\":$started,\"pods\":3,\"routesInstalled\":6,\"routesDesired\":6,\"routesChanged\":$routes,\"memory\":34603008,\"peers\":[{\"peer\":\"peer/tor\",\"messagesIn\":$started,\"messagesOut\":3,\"received\":7,\"accepted\":6,\"announced\":2}]}}" || exit 0
    case $1 in node1) started=$((started + 2)) ;; esac
    sleep 1
done"#;

/// The cluster.
pub(crate) struct Cluster {
    server: Handle,
    client: Client,
    folder: tempfile::TempDir,
    nodes: usize,
    shape: Shape,
}

/// Who speaks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Few nodes all speak to each other and to one router.
    Few,
    /// Racks of twenty nodes, with two routers each.
    Racks,
    /// Every node speaks to every other, and to nobody else.
    Mesh,
}

/// The BGP identifier of a router: one for each name.
fn identifier(router: &str) -> Option<std::net::Ipv4Addr> {
    let end: [u8; 3] = router.as_bytes().last_chunk().copied()?;
    Some([10, end[0], end[1], end[2]].into())
}

/// A running `manxctl ui`; it ends with this value.
pub(crate) struct Ui {
    /// What it printed.
    pub(crate) address: String,
    process: Child,
}

impl Cluster {
    /// With so many nodes: in racks of twenty with two routers each, or with one router for all if there are few.
    pub(crate) async fn of(nodes: usize) -> Result<Self> {
        Self::shaped(nodes, if nodes > 24 { Shape::Racks } else { Shape::Few }).await
    }

    /// With so many nodes.
    pub(crate) async fn shaped(nodes: usize, shape: Shape) -> Result<Self> {
        let server = ApiServer::start(Config::default()).await?;
        let client = server.client();
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        for definition in manx_api::crds() {
            definitions.create(&PostParams::default(), &definition).await?;
        }
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("kubeconfig"), server.kubeconfig())?;
        std::fs::write(folder.path().join("node"), NODE)?;
        let cluster = Self { server, client, folder, nodes, shape };
        let pools: Api<IPPool> = Api::all(cluster.client.clone());
        tokio::time::timeout(PATIENCE, async {
            while pools.list(&ListParams::default()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .context("the kinds are not served")?;
        if nodes > 0 {
            cluster.pool("pods-v4", "10.244.0.0/16").await?;
            cluster.pool("pods-v6", "fd00:10:244::/48").await?;
        }
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "manx-system"}}))?;
        Api::all(cluster.client.clone()).create(&PostParams::default(), &namespace).await?;
        cluster.lease("manx-controller").await?;
        let made = (1..=nodes).map(|number| cluster.node(number));
        stream::iter(made)
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<_>>()
            .await
            .into_iter()
            .collect::<Result<()>>()?;
        Ok(cluster)
    }

    async fn pool(&self, name: &str, cidr: &str) -> Result<()> {
        let api: Api<IPPool> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &IPPool::new(name, IPPoolSpec::new(cidr.parse()?))).await?;
        let mut status = IPPoolStatus::default();
        set_condition(
            &mut status.conditions,
            "Ready",
            true,
            "Used",
            "nodes claim blocks of it",
            None,
            Timestamp::now(),
        );
        self.status(&api, name, json!(status)).await
    }

    async fn status<K>(&self, api: &Api<K>, name: &str, status: serde_json::Value) -> Result<()>
    where
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let patch = Patch::Merge(json!({"status": status}));
        api.patch_status(name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// A sign of life that lasts.
    async fn lease(&self, name: &str) -> Result<()> {
        let later = Timestamp::now() + Duration::from_secs(86_400);
        let spec = json!({"holderIdentity": "test", "leaseDurationSeconds": 3600, "renewTime": format!("{later:.6}")});
        let lease: Lease = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
        let api: Api<Lease> = Api::namespaced(self.client.clone(), "manx-system");
        api.create(&PostParams::default(), &lease).await?;
        Ok(())
    }

    fn routers(&self, number: usize) -> Vec<String> {
        let rack = (number - 1) / 20 + 1;
        match self.shape {
            Shape::Few => vec!["peer/tor".to_owned()],
            Shape::Mesh => Vec::new(),
            Shape::Racks => ["a", "b"].map(|which| format!("peer/tor-{rack:02}{which}")).to_vec(),
        }
    }

    async fn node(&self, number: usize) -> Result<()> {
        let name = format!("node{number}");
        let rack =
            if self.nodes > 24 { format!("rack-{:02}", (number - 1) / 20 + 1) } else { "rack".to_owned() };
        let node = json!({"metadata": {"name": name, "labels": {"topology.kubernetes.io/rack": rack}}});
        let node: Node = serde_json::from_value(node)?;
        Api::<Node>::all(self.client.clone()).create(&PostParams::default(), &node).await?;
        self.lease(&format!("manx-agent-{name}")).await?;
        let mut network = NodeNetwork::example();
        network.metadata.name = Some(name.clone());
        let address = format!("172.30.{}.2", number % 250);
        network.spec.addresses.ipv4 = address.parse().ok();
        network.spec.router_id = address.parse()?;
        let api: Api<NodeNetwork> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &network).await?;
        let mut peers = self.routers(number);
        if self.shape != Shape::Racks {
            let others = (1..=self.nodes).filter(|other| *other != number);
            peers.extend(others.map(|other| format!("node/node{other}")));
        }
        let since = Time(Timestamp::now() - Duration::from_secs(5000 + number as u64 * 61));
        let session = |peer: String| Session {
            router_id: peer.strip_prefix("peer/").and_then(identifier),
            address: format!("172.30.{}.1", number % 250).parse().ok(),
            as_number: Some(if peer.starts_with("peer/") { 65000 } else { 64512 }),
            received: 7,
            accepted: 6,
            advertised: 2,
            ..Session::new(peer, SessionState::Established, since.clone())
        };
        let sessions: Vec<Session> = peers.into_iter().map(session).collect();
        let sessions_up = NodeNetworkStatus::count_up(&sessions);
        let version = "0.1.0".to_owned();
        let mut status = NodeNetworkStatus { sessions_up, sessions, version, ..Default::default() };
        set_condition(
            &mut status.conditions,
            "Ready",
            true,
            "Serving",
            "pods can start",
            None,
            Timestamp::now(),
        );
        self.status(&api, &name, json!(status)).await?;
        self.blocks(number, &name).await
    }

    /// Two IPv4 blocks for each node, and one of IPv6.
    async fn blocks(&self, number: usize, name: &str) -> Result<()> {
        let api: Api<IPBlock> = Api::all(self.client.clone());
        let second = if self.nodes > 24 { (number * 37) % 300 + 500 } else { number + self.nodes - 1 };
        let places = if self.nodes > 24 { vec![number - 1, 210 + number] } else { vec![number - 1, second] };
        let v4 =
            places.iter().map(|place| ("pods-v4", format!("10.244.{}.{}/26", place / 4, place % 4 * 64)));
        let v6 = ("pods-v6", format!("fd00:10:244:{number:x}::/122"));
        for (index, (pool, cidr)) in v4.chain([v6]).enumerate() {
            let block = IPBlock::claim(cidr.parse()?, name, pool);
            api.create(&PostParams::default(), &block).await?;
            let used = if index == 1 { number as u32 % 9 } else { (number as u32 * 29) % 65 };
            let status = IPBlockStatus { used, free: 64 - used, ..IPBlockStatus::default() };
            self.status(&api, &block.name_any(), json!(status)).await?;
        }
        Ok(())
    }

    /// Lets all sessions of a node go down, as the node sees it.
    pub(crate) async fn alone(&self, node: &str, reason: &str) -> Result<()> {
        let api: Api<NodeNetwork> = Api::all(self.client.clone());
        let mut status = api.get(node).await?.status.context("a status")?;
        let when = Time(Timestamp::now());
        for session in &mut status.sessions {
            session.state = SessionState::Active;
            session.since = when.clone();
            session.last_error = Some(SessionError::new(when.clone(), reason));
        }
        status.sessions_up = NodeNetworkStatus::count_up(&status.sessions);
        self.status(&api, node, json!(status)).await
    }

    /// Lets a session go down for a reason, or come up again.
    pub(crate) async fn session(&self, node: &str, peer: &str, reason: Option<&str>) -> Result<()> {
        let api: Api<NodeNetwork> = Api::all(self.client.clone());
        let mut status = api.get(node).await?.status.context("a status")?;
        let session =
            status.sessions.iter_mut().find(|session| session.peer == peer).context("no such session")?;
        session.since = Time(Timestamp::now());
        session.state = if reason.is_some() { SessionState::Active } else { SessionState::Established };
        session.last_error = reason.map(|reason| SessionError::new(Time(Timestamp::now()), reason));
        session.flaps += 1;
        status.sessions_up = NodeNetworkStatus::count_up(&status.sessions);
        self.status(&api, node, json!(status)).await
    }

    /// What nodes do in place of answering: a script.
    pub(crate) fn nodes_answer(&self, script: &str) -> Result<()> {
        Ok(std::fs::write(self.folder.path().join("node"), script)?)
    }

    fn words(&self, manxctl: &Path, command: &[&str]) -> Vec<String> {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let through = format!("sh {} {{node}}", path("node"));
        let mut words = vec![manxctl.display().to_string(), "--kubeconfig".to_owned(), path("kubeconfig")];
        words.extend(["--through".to_owned(), through]);
        words.extend(command.iter().map(|&word| word.to_owned()));
        words
    }

    /// The words of `manxctl top` for this cluster.
    pub(crate) fn top(&self, manxctl: &Path, more: &[&str]) -> Vec<String> {
        self.words(manxctl, &[&["top"], more].concat())
    }

    /// Starts `manxctl ui`. So many nodes as scripts would be a load of their own: where there are many, none is asked.
    pub(crate) async fn ui(&self, manxctl: &Path) -> Result<Ui> {
        let more: &[&str] = if self.nodes > 24 { &["--objects-only"] } else { &[] };
        let words = self.words(manxctl, &[&["ui", "--port", "0"], more].concat());
        let mut process =
            Command::new(&words[0]).args(&words[1..]).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(process.stdout.take().context("a pipe")?).lines();
        let address =
            tokio::time::timeout(PATIENCE, lines.next_line()).await??.context("it printed no address")?;
        Ok(Ui { address, process })
    }

    /// Prints what a screen takes of the machine.
    pub(crate) fn usage(&self, ui: &Ui) {
        let Some(pid) = ui.process.id() else { return };
        let file = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let status: BTreeMap<String, String> = file("status")
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
            .collect();
        let times: u64 = file("stat")
            .rsplit(')')
            .next()
            .map(|rest| {
                rest.split_whitespace().skip(11).take(2).filter_map(|time| time.parse::<u64>().ok()).sum()
            })
            .unwrap_or_default();
        println!("manxctl ui: {:?} resident, {times} ticks on a processor", status.get("VmRSS"));
    }

    /// The API server goes away.
    pub(crate) async fn stop(self) {
        self.server.stop().await;
    }
}
