//! The agent from start to end: opens every outside world, wires the owners together, waits for a signal.
//!
//! | owner | thread | owns |
//! |---|---|---|
//! | `owner` | node | addresses, endpoints, the record, the allocation socket |
//! | `bgp` | bgp | sessions and the routing table |
//! | `kernel` | kernel | the kernel's routes and NAT rules |
//! | `links` | links, reaper | links on their way out |
//! | `conflist` | main | the conflist of the container runtime |
//! | `kube::*` | main | watches, claims, status |
//!
//! The end is a restart: veths, routes and rules stay as they are and sessions close without a
//! word, so that peers keep forwarding (RFC 4724 §4). The kernel closes the sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use manx_bgp::{OriginAttributes, Prefix};
use manx_cni::rpc::DelRequest;
use manx_cni::tombstone;
use manx_ipam::{BlockId, Limits, NodeName, Recovered, recover};
use manx_kernel::model::Dump;
use manx_kernel::sysctl;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::bgp::{self, Sessions};
use super::conflist::{self, ConflistReport};
use super::kernel::{self, KernelReport};
use super::kube::guests::Guests;
use super::kube::{
    blocks, claims, client, heartbeat, own_node, pod_events, pods, publish, secrets, watch as cluster_watch,
};
use super::metrics::{ForOthers, Metrics, Reports, Threads};
use super::options::Options;
use super::owner::{self, NodeReport, Ports, time_of_day, uptime};
use super::record::RunDir;
use super::{bystander, cni, deltas, health, host, links, mtu, objects};
use crate::node::claims::{ClaimOrder, ClaimTrouble, KnownClaims};
use crate::node::cluster::Cluster;
use crate::node::fib::LocalRoutes;
use crate::node::intent::{BgpIntent, Intent};
use crate::node::pods::{LookedUp, PodName};
use crate::node::serving::Serving;
use crate::node::{Input, Node, found, takeover};

/// Calls of the plugin that wait for the owner.
const CALLS: usize = 256;

/// Runs the agent until it is told to stop.
///
/// # Errors
/// When something without which no pod can start is missing; the message says what.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let me = NodeName::new(options.node_name.clone());
    let run_dir = Arc::new(RunDir::open(&options.run_dir)?);
    if !options.no_kernel_routes {
        sysctl::reach_by(&options.proc_sys_net);
        host::prepare(run_dir.path())?;
    }
    let inherited = Inherited::read(&run_dir, options.objects.is_none())?;
    let taking_over = takeover::strangers(&inherited.dump);
    let restarting = inherited.restarting() || taking_over;
    tracing::info!(node = %me, version = env!("CARGO_PKG_VERSION"), restarting, "the agent starts");
    let stop = CancellationToken::new();
    let board = Board::new(inherited.copy.as_ref(), inherited.pods.clone());

    let (learned_in, learned) = bgp::learned();
    let (asker, questions) = bgp::questions();
    let bgp =
        bgp::start(board.for_bgp(&options, learned_in, questions, stop.clone(), taking_over), restarting)?;
    let for_kernel = board.for_kernel(learned, &options, stop.clone());
    let kernel = match options.no_kernel_routes {
        true => bystander::start(for_kernel)?,
        false => kernel::start(for_kernel, options.route_metric)?,
    };
    let copy = inherited.copy.clone();
    let (orders_in, orders) = deltas::coalescing();
    let (outcomes_in, outcomes) = deltas::coalescing();
    let (pod_events_in, pod_events) = mpsc::channel(64);
    let (guests_in, guests) = mpsc::channel(4);
    let (look_up, questions) = deltas::coalescing();
    let (answers, looked_up) = deltas::coalescing();
    let (claim_orders_in, claim_orders) = deltas::coalescing();
    let (ordered_in, ordered) = deltas::coalescing();
    let desk = Desk {
        claim_orders: claim_orders_in,
        ordered,
        orders: orders_in,
        outcomes,
        pod_events: pod_events_in,
        look_up,
        looked_up,
        guests,
    };
    let mut threads = start_owner(&options, &run_dir, inherited, desk, &board, stop.clone())?;
    threads.extend([("bgp", bgp), ("kernel", kernel)]);
    board.keep_conflist(&options);
    let reports = Arc::new(board.reports(asker, threads));
    if let Some(address) = options.metrics_listen {
        tokio::spawn(show_others(address, Arc::clone(&reports)));
    }
    let health = tokio::spawn(health::serve(options.health_listen, reports));
    let pods = pods::Wires { shown: board.pods.clone(), questions, answers };
    let guests = guests_in;
    let outside = Outside {
        me,
        run_dir,
        orders,
        outcomes: outcomes_in,
        pod_events,
        guests,
        pods,
        claim_orders,
        ordered: ordered_in,
    };
    match options.objects.clone() {
        Some(directory) => outside.with_files(directory, &board),
        None => outside.with_api_server(&options, copy, &board).await?,
    }
    let ended = until_told(health).await;
    stop.cancel();
    ended
}

/// Where the objects come from and what is said goes to.
struct Outside {
    me: NodeName,
    run_dir: Arc<RunDir>,
    orders: deltas::Receiver<BlockId, blocks::Order>,
    outcomes: deltas::Sender<BlockId, blocks::Outcome>,
    pod_events: mpsc::Receiver<pod_events::PodEvent>,
    guests: mpsc::Sender<Guests>,
    pods: pods::Wires,
    claim_orders: deltas::Receiver<PodName, ClaimOrder>,
    ordered: deltas::Sender<PodName, Result<(), ClaimTrouble>>,
}

impl Outside {
    async fn with_api_server(
        self,
        options: &Options,
        copy: Option<Cluster>,
        board: &Board,
    ) -> anyhow::Result<()> {
        let kube = client("manx-agent", options.kubeconfig.as_deref(), board.metrics.api.clone()).await?;
        let (refreshes_in, refreshes) = mpsc::channel(1);
        let wires = claims::Wires {
            orders: self.claim_orders,
            outcomes: self.ordered,
            published: board.claims.clone(),
            refreshes,
        };
        tokio::spawn(claims::run(kube.clone(), self.me.clone(), wires));
        let wires = blocks::Wires {
            refreshes: refreshes_in,
            orders: self.orders,
            outcomes: self.outcomes,
            report: board.node.subscribe(),
            published: board.blocks.clone(),
            guests: (!options.no_kernel_routes).then_some(self.guests),
        };
        tokio::spawn(blocks::run(kube.clone(), self.me.clone(), wires));
        tokio::spawn(pod_events::run(kube.clone(), options.node_name.clone(), self.pod_events));
        tokio::spawn(pods::run(kube.clone(), self.me.clone(), self.run_dir.pods_copy(), self.pods));
        let leases: Api<Lease> = Api::namespaced(kube.clone(), &options.namespace);
        tokio::spawn(heartbeat::run(leases, self.me.clone(), board.cluster.subscribe()));
        tokio::spawn(publish::run(kube.clone(), self.me.clone(), board.sources()));
        let (cluster, serving) = (board.cluster.subscribe(), board.serving.subscribe());
        tokio::spawn(own_node::run(kube.clone(), self.me.clone(), cluster, serving));
        let copy_path = self.run_dir.cluster_copy();
        let secrets =
            watch::Sender::new(copy.as_ref().map(|copy| Arc::clone(&copy.secrets)).unwrap_or_default());
        let known = cluster_watch::Known {
            blocks: board.blocks.subscribe(),
            claims: board.claims.subscribe(),
            secrets: secrets.subscribe(),
        };
        tokio::spawn(secrets::run(kube.clone(), board.intent.subscribe(), secrets));
        tokio::spawn(cluster_watch::run(kube, self.me, copy, copy_path, known, board.outlets()));
        Ok(())
    }

    fn with_files(self, directory: PathBuf, board: &Board) {
        // Files have no claims.
        board.claims.send_replace(Some(Arc::default()));
        let wires = objects::Wires {
            orders: self.orders,
            outcomes: self.outcomes,
            published: board.blocks.clone(),
            pod_events: self.pod_events,
            outlets: board.outlets(),
            complaints: board.complaints.clone(),
        };
        let status = self.run_dir.path().join("status.yaml");
        tokio::spawn(objects::write_status(self.me.clone(), status, board.sources()));
        tokio::spawn(objects::run(directory, self.me, wires));
    }
}

/// Serves the pages to whoever asks; without them the agent goes on.
async fn show_others(address: SocketAddr, reports: Arc<Reports>) {
    if let Err(error) = health::serve(address, Arc::new(ForOthers(reports))).await {
        tracing::error!(
            error = format!("{error:#}"),
            "--metrics-listen cannot be listened on: metrics are shown to this machine only"
        );
    }
}

/// Waits for a signal and does nothing else.
///
/// # Errors
/// When signals cannot be listened for.
pub async fn until_told_to_end() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Waits for a signal; anything that cannot serve at all ends the process too.
async fn until_told(health: tokio::task::JoinHandle<anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("told to end: routes and links stay, sessions close without a word"),
        _ = interrupt.recv() => tracing::info!("interrupted: routes and links stay, sessions close without a word"),
        health = health => return health.context("the health server failed")?,
    }
    Ok(())
}

/// What an earlier agent left behind.
struct Inherited {
    /// The record of endpoints.
    record: Vec<u8>,
    /// Links and routes in the kernel.
    dump: Dump,
    /// What the API server said last.
    copy: Option<Cluster>,
    /// The pods that it showed last; `None` without an API server.
    pods: Option<pods::Shown>,
    /// What plugins removed while no agent answered.
    ended: Vec<DelRequest>,
}

impl Inherited {
    fn read(run_dir: &RunDir, with_copy: bool) -> anyhow::Result<Self> {
        Ok(Self {
            record: run_dir.read_record()?,
            dump: kernel::inventory()?,
            copy: with_copy.then(|| cluster_watch::read_copy(&run_dir.cluster_copy())).flatten(),
            pods: with_copy.then(|| pods::read_copy(&run_dir.pods_copy())),
            ended: tombstone::list(run_dir.path()).context("reading the tombstones")?,
        })
    }

    /// Forwarding goes on where an earlier agent left off, and peers may rely on it.
    fn restarting(&self) -> bool {
        !self.record.is_empty() || !self.dump.routes.is_empty()
    }
}

/// The owner's ways to the API server.
struct Desk {
    claim_orders: deltas::Sender<PodName, ClaimOrder>,
    ordered: deltas::Receiver<PodName, Result<(), ClaimTrouble>>,
    orders: deltas::Sender<BlockId, blocks::Order>,
    outcomes: deltas::Receiver<BlockId, blocks::Outcome>,
    pod_events: mpsc::Sender<pod_events::PodEvent>,
    guests: mpsc::Receiver<Guests>,
    look_up: deltas::Sender<PodName, ()>,
    looked_up: deltas::Receiver<PodName, Option<LookedUp>>,
}

/// Starts the thread that owns addresses and answers the plugin, and those that do to links what it asks.
fn start_owner(
    options: &Options,
    run_dir: &Arc<RunDir>,
    inherited: Inherited,
    desk: Desk,
    board: &Board,
    stop: CancellationToken,
) -> anyhow::Result<Threads> {
    let (unlink, unlinks) = deltas::coalescing();
    let (news_in, news) = deltas::coalescing();
    let hurry = Arc::new(Notify::new());
    let mut threads = Threads::from(links::start(unlinks, news_in, Arc::clone(&hurry))?);
    let (resize, sizes) = deltas::coalescing();
    threads.push(("mtu", mtu::start(sizes, board.stuck.clone())?));
    let (calls_in, calls) = mpsc::channel(CALLS);
    let metrics = board.metrics.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("making the owner's runtime")?;
    let listener = {
        let _inside = runtime.enter();
        cni::listen(&run_dir.socket())?
    };
    let record = run_dir.open_record()?;
    let found = Input::Found { endpoints: found::endpoints(&inherited.dump), at: time_of_day() };
    let mut first: Vec<Input> = options.mtu.map(Input::Mtu).into_iter().collect();
    first.extend(inherited.ended.into_iter().map(Input::Ended));
    first.push(found);
    let shown = board.pods.borrow().clone();
    first.extend(shown.map(|pods::Shown { pods, live }| Input::Pods { pods, live }));
    // What the copy says of blocks is not heeded: the record knows our own, and who owns the others may have changed.
    let recovered = Recovered { uptime: uptime(), ..recover(&inherited.record) };
    let node =
        Node::new(NodeName::new(options.node_name.clone()), limits(options), recovered, Instant::now());
    let ports = Ports {
        claims: board.claims.subscribe(),
        ordered: desk.ordered,
        claim_orders: desk.claim_orders,
        calls,
        intent: board.intent.subscribe(),
        blocks: board.blocks.subscribe(),
        guests: desk.guests,
        outcomes: desk.outcomes,
        news,
        pods: board.pods.subscribe(),
        looked_up: desk.looked_up,
        mtu: board.mtu.subscribe(),
        look_up: desk.look_up,
        orders: desk.orders,
        unlink,
        hurry,
        resize,
        routes: board.routes.clone(),
        origins: board.origins.clone(),
        asked: board.asked.clone(),
        report: board.node.clone(),
        pod_events: desk.pod_events,
        run_dir: Arc::clone(run_dir),
        stop,
    };
    let owner = std::thread::Builder::new()
        .name("node".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                tokio::spawn(cni::serve(listener, calls_in, metrics));
                owner::run(node, record, first, ports).await;
            });
        })
        .context("starting the owner's thread")?;
    threads.push(("node", owner));
    Ok(threads)
}

/// Blocks that stand in files are nobody's to give back.
fn limits(options: &Options) -> Limits {
    let mut limits = Limits::default();
    if options.objects.is_some() {
        limits.release_after = Duration::from_secs(100 * 365 * 86_400);
    }
    limits
}

/// What the owners show one another: the latest state of each, whoever looks.
struct Board {
    intent: watch::Sender<Option<Arc<Intent>>>,
    bgp: watch::Sender<Option<Arc<BgpIntent>>>,
    cluster: watch::Sender<Arc<Cluster>>,
    blocks: watch::Sender<Option<cluster_watch::Blocks>>,
    claims: watch::Sender<Option<Arc<KnownClaims>>>,
    routes: watch::Sender<Arc<LocalRoutes>>,
    origins: watch::Sender<Arc<BTreeMap<Prefix, OriginAttributes>>>,
    asked: watch::Sender<Arc<bgp::Asked>>,
    mtu: watch::Sender<Option<u32>>,
    /// Which running pods do not get it, and why.
    stuck: watch::Sender<Option<String>>,
    pods: watch::Sender<Option<pods::Shown>>,
    node: watch::Sender<Arc<NodeReport>>,
    sessions: watch::Sender<Arc<Sessions>>,
    kernel: watch::Sender<Arc<KernelReport>>,
    complaints: watch::Sender<objects::Complaints>,
    conflist: watch::Sender<Arc<ConflistReport>>,
    /// Whether this node can take pods.
    serving: watch::Sender<Serving>,
    metrics: Metrics,
}

impl Board {
    fn new(copy: Option<&Cluster>, pods: Option<pods::Shown>) -> Self {
        let starting =
            NodeReport { obstacles: vec!["the agent is starting".to_owned()], ..NodeReport::default() };
        Self {
            intent: watch::Sender::default(),
            bgp: watch::Sender::default(),
            cluster: watch::Sender::new(Arc::new(copy.cloned().unwrap_or_default())),
            blocks: watch::Sender::default(),
            claims: watch::Sender::default(),
            routes: watch::Sender::default(),
            origins: watch::Sender::default(),
            asked: watch::Sender::default(),
            mtu: watch::Sender::default(),
            stuck: watch::Sender::default(),
            pods: watch::Sender::new(pods),
            node: watch::Sender::new(Arc::new(starting)),
            sessions: watch::Sender::default(),
            kernel: watch::Sender::default(),
            complaints: watch::Sender::default(),
            conflist: watch::Sender::default(),
            serving: watch::Sender::default(),
            metrics: Metrics::default(),
        }
    }

    fn for_bgp(
        &self,
        options: &Options,
        learned: bgp::LearnedSender,
        questions: bgp::Questions,
        stop: CancellationToken,
        taking_over: bool,
    ) -> bgp::Links {
        bgp::Links {
            ready: taking_over.then(|| self.node.subscribe()),
            intent: self.bgp.subscribe(),
            origins: self.origins.subscribe(),
            asked: self.asked.subscribe(),
            lag: bgp::Lag::default(),
            learned,
            sessions: self.sessions.clone(),
            name: options.node_name.clone(),
            listen: options.bgp_listen.clone(),
            questions,
            metrics: self.metrics.clone(),
            stop,
        }
    }

    fn for_kernel(
        &self,
        learned: bgp::LearnedReceiver,
        options: &Options,
        stop: CancellationToken,
    ) -> kernel::Links {
        kernel::Links {
            intent: self.intent.subscribe(),
            local: self.routes.subscribe(),
            learned,
            report: self.kernel.clone(),
            // An MTU from the command line is not overruled by the uplink's.
            guarded: options.guarded_ports(),
            mtu: if options.mtu.is_some() { watch::Sender::default() } else { self.mtu.clone() },
            stop,
        }
    }

    fn reports(&self, asker: bgp::Asker, threads: Threads) -> Reports {
        Reports {
            metrics: self.metrics.clone(),
            stuck: self.stuck.subscribe(),
            bgp: bgp::BgpPages::new(asker),
            node: self.node.subscribe(),
            sessions: self.sessions.subscribe(),
            kernel: self.kernel.subscribe(),
            complaints: self.complaints.subscribe(),
            conflist: self.conflist.subscribe(),
            threads,
        }
    }

    fn sources(&self) -> publish::Sources {
        publish::Sources {
            intent: self.intent.subscribe(),
            cluster: self.cluster.subscribe(),
            node: self.node.subscribe(),
            sessions: self.sessions.subscribe(),
            kernel: self.kernel.subscribe(),
            stuck: self.stuck.subscribe(),
            conflist: self.conflist.subscribe(),
        }
    }

    fn keep_conflist(&self, options: &Options) {
        let (places, node) = (conflist::Places::of(options), self.node.subscribe());
        tokio::spawn(conflist::run(places, node, self.conflist.clone(), self.serving.clone()));
    }

    fn outlets(&self) -> cluster_watch::Outlets {
        cluster_watch::Outlets {
            intent: self.intent.clone(),
            bgp: self.bgp.clone(),
            cluster: self.cluster.clone(),
        }
    }
}
