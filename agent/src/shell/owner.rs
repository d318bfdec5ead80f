//! The owner of the node's addresses: the one loop around [`Node`], on a thread of its own together with the
//! allocation socket, so that a pod waits for nothing but this.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use manx_bgp::{OriginAttributes, Prefix};
use manx_cni::rpc::{Attachment, Reply, RpcError};
use manx_cni::spec::Code;
use manx_cni::tombstone;
use manx_ipam::{BlockId, ClaimError, EndpointId, RequestId, Usage};
use manx_kernel::names::parse_alias;
use manx_kernel::netlink::inspect;
use manx_kernel::netlink::socket::Socket;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::bgp::Asked;
use super::cni::Call;
use super::kube::blocks::{Order, Outcome};
use super::kube::guests::Guests;
use super::kube::pod_events::PodEvent;
use super::kube::pods::Shown;
use super::kube::watch::Blocks;
use super::links::{Leaving, News};
use super::record::{Record, RunDir};
use super::{deltas, events};
use crate::node::claims::{ClaimOrder, ClaimTrouble, KnownClaims};
use crate::node::fib::LocalRoutes;
use crate::node::intent::Intent;
use crate::node::mtu::Size;
use crate::node::pods::{LookedUp, PodName};
use crate::node::serving::Serving;
use crate::node::{Input, Node, Output};
use crate::shell::wake::sleep_until;

/// The least time between two reports.
const REPORT_PAUSE: Duration = Duration::from_millis(200);
/// How often tombstones are looked for.
const TOMBSTONES: Duration = Duration::from_secs(10);
/// Calls handled before the loop looks at everything else again.
const CALLS_PER_TURN: usize = 32;

/// What the owner tells of itself.
#[derive(Debug, Clone, Default)]
pub struct NodeReport {
    /// Blocks, pools and endpoints.
    pub usage: Usage,
    /// What keeps pods from starting.
    pub obstacles: Vec<String>,
    /// What is wrong with the uplink's MTU.
    pub mtu_problem: Option<String>,
    /// A block is wanted and, as far as this node knows, none is left.
    pub short_of_blocks: bool,
    /// Whether this node can take pods at all.
    pub serving: Serving,
    /// How many starts were refused because another node owned a block, as far as this node knows.
    pub doubts: u64,
}

/// Everything that the owner works with.
pub struct Ports {
    /// Calls of the plugin.
    pub calls: mpsc::Receiver<Call>,
    /// What this node is to do.
    pub intent: watch::Receiver<Option<Arc<Intent>>>,
    /// Who owns which block.
    pub blocks: watch::Receiver<Option<Blocks>>,
    /// All claims of addresses.
    pub claims: watch::Receiver<Option<Arc<KnownClaims>>>,
    /// What became of orders about claims.
    pub ordered: deltas::Receiver<PodName, Result<(), ClaimTrouble>>,
    /// What is to be done with claims.
    pub claim_orders: deltas::Sender<PodName, ClaimOrder>,
    /// Pods that another network started and that are ours now.
    pub guests: mpsc::Receiver<Guests>,
    /// What became of claims and releases.
    pub outcomes: deltas::Receiver<BlockId, Outcome>,
    /// What became of links.
    pub news: deltas::Receiver<EndpointId, News>,
    /// The pods of this node; never shown where nobody follows them.
    pub pods: watch::Receiver<Option<Shown>>,
    /// What the API server said of single ones.
    pub looked_up: deltas::Receiver<PodName, Option<LookedUp>>,
    /// The MTU of the uplink.
    pub mtu: watch::Receiver<Option<u32>>,
    /// Claims and releases.
    pub orders: deltas::Sender<BlockId, Order>,
    /// Pods that the API server is to be asked for.
    pub look_up: deltas::Sender<PodName, ()>,
    /// Links that are to go.
    pub unlink: deltas::Sender<EndpointId, Leaving>,
    /// Told while a pod waits for what a link on its way out may have.
    pub hurry: Arc<Notify>,
    /// The MTU that links are to have.
    pub resize: deltas::Sender<EndpointId, Size>,
    /// Routes of our own.
    pub routes: watch::Sender<Arc<LocalRoutes>>,
    /// What we announce.
    pub origins: watch::Sender<Arc<BTreeMap<Prefix, OriginAttributes>>>,
    /// When that of it which this process claimed was asked for.
    pub asked: watch::Sender<Arc<Asked>>,
    /// The report.
    pub report: watch::Sender<Arc<NodeReport>>,
    /// Events on pods; one that finds no room is dropped.
    pub pod_events: mpsc::Sender<PodEvent>,
    /// Where plugins leave tombstones.
    pub run_dir: Arc<RunDir>,
    /// Ends the loop.
    pub stop: CancellationToken,
}

/// Runs until the process stops. Inputs that are known from the start are handled before the first call.
pub async fn run(node: Node, record: Record, first: Vec<Input>, mut ports: Ports) {
    let mut owner = Owner {
        node,
        record,
        record_broken: false,
        waiting: BTreeMap::new(),
        next_request: 0,
        changed: true,
        claims_told: false,
        asked: Asked::new(),
    };
    for input in first {
        owner.feed(input, &ports);
    }
    let mut reported = Instant::now();
    let mut look = tokio::time::interval(TOMBSTONES);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if owner.changed && reported.elapsed() >= REPORT_PAUSE {
            owner.report(&ports);
            reported = Instant::now();
        }
        let report_at = owner.changed.then_some(reported + REPORT_PAUSE);
        let wake = [owner.node.deadline(), report_at].into_iter().flatten().min();
        tokio::select! {
            () = ports.stop.cancelled() => return,
            Some(call) = ports.calls.recv() => {
                owner.call(call, &ports);
                for _ in 1..CALLS_PER_TURN {
                    let Ok(call) = ports.calls.try_recv() else { break };
                    owner.call(call, &ports);
                }
            }
            Some(batch) = ports.news.recv(64) => owner.on_news(batch, &ports),
            Some(batch) = ports.outcomes.recv(64) => {
                // The claims and the owners of blocks first: an answer rests on them.
                owner.on_claims(&mut ports);
                if ports.blocks.has_changed().unwrap_or(false) {
                    owner.on_blocks(&mut ports);
                }
                owner.on_outcomes(batch, &ports);
            }
            Ok(()) = ports.claims.changed() => owner.on_claims(&mut ports),
            Some(batch) = ports.ordered.recv(64) => {
                // The claims first: an answer rests on them.
                owner.on_claims(&mut ports);
                for (claim, outcome) in batch {
                    owner.feed(Input::Ordered { claim, outcome }, &ports);
                }
            }
            // Whose the addresses in them are is known before blocks are.
            Ok(()) = ports.blocks.changed(), if owner.claims_told => owner.on_blocks(&mut ports),
            Some(guests) = ports.guests.recv() => owner.on_guests(guests, &ports),
            Ok(()) = ports.intent.changed() => {
                let intent = ports.intent.borrow_and_update().clone();
                if let Some(intent) = intent {
                    owner.feed(Input::Intent(intent), &ports);
                }
            }
            Ok(()) = ports.pods.changed() => owner.on_pods(&mut ports),
            Some(batch) = ports.looked_up.recv(64) => {
                for (pod, found) in batch {
                    owner.feed(Input::LookedUp { pod, found }, &ports);
                }
            }
            Ok(()) = ports.mtu.changed() => {
                let mtu = *ports.mtu.borrow_and_update();
                if let Some(mtu) = mtu {
                    owner.feed(Input::Mtu(mtu), &ports);
                }
            }
            _ = look.tick() => owner.look_for_tombstones(&ports),
            () = sleep_until(wake) => {
                if owner.node.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                    owner.feed(Input::Timeout, &ports);
                }
            }
        }
    }
}

/// The time of day in seconds since 1970, for status.
pub fn time_of_day() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// How long the machine has been running, which no change of the time of day moves; zero if that cannot be read, and
/// then what rested begins to rest anew.
pub fn uptime() -> Duration {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split(' ').next().and_then(|seconds| seconds.parse::<f64>().ok());
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_default()
}

struct Owner {
    node: Node,
    record: Record,
    /// The record lacks something: no address may be given out until it is whole again.
    record_broken: bool,
    waiting: BTreeMap<RequestId, oneshot::Sender<Reply>>,
    next_request: u64,
    changed: bool,
    claims_told: bool,
    /// When blocks were asked for that are claimed or announced.
    asked: Asked,
}

impl Owner {
    fn call(&mut self, call: Call, ports: &Ports) {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        self.waiting.insert(request, call.reply);
        self.feed(Input::Call { request, call: call.request, at: time_of_day() }, ports);
    }

    fn on_news(&mut self, batch: Vec<(EndpointId, News)>, ports: &Ports) {
        for (id, news) in batch {
            let input = match news {
                News::Down => Input::LinkDown { id },
                News::Gone => Input::LinkGone { id },
            };
            self.feed(input, ports);
        }
    }

    fn on_guests(&mut self, Guests { found, present }: Guests, ports: &Ports) {
        self.feed(Input::Guests { found, present }, ports);
    }

    fn on_claims(&mut self, ports: &mut Ports) {
        let claims = ports.claims.borrow_and_update().clone();
        if let Some(claims) = claims {
            self.claims_told = true;
            self.feed(Input::Claims(claims), ports);
        }
    }

    fn on_blocks(&mut self, ports: &mut Ports) {
        // Those who have addresses in the blocks first.
        while let Ok(guests) = ports.guests.try_recv() {
            self.on_guests(guests, ports);
        }
        let blocks = ports.blocks.borrow_and_update().clone();
        if let Some(blocks) = blocks {
            self.feed(Input::Blocks(blocks), ports);
        }
    }

    fn on_pods(&mut self, ports: &mut Ports) {
        let shown = ports.pods.borrow_and_update().clone();
        if let Some(Shown { pods, live }) = shown {
            self.feed(Input::Pods { pods, live }, ports);
        }
    }

    fn on_outcomes(&mut self, batch: Vec<(BlockId, Outcome)>, ports: &Ports) {
        for (block, outcome) in batch {
            let input = match outcome {
                Outcome::Claimed(outcome) => {
                    if outcome.is_err() {
                        self.not_asked(block);
                    }
                    Input::Claimed { block, outcome }
                }
                Outcome::Released(outcome) => Input::Released { block, outcome },
            };
            self.feed(input, ports);
        }
    }

    /// Tombstones are read before the first call; one that a plugin was about to leave at that moment is found here.
    fn look_for_tombstones(&mut self, ports: &Ports) {
        match tombstone::list(ports.run_dir.path()) {
            Ok(ended) => ended.into_iter().for_each(|ended| self.feed(Input::Ended(ended), ports)),
            Err(error) => {
                tracing::warn!(%error, "the plugin's notes of ended pods cannot be read: their addresses stay in use")
            }
        }
    }

    fn clear_tombstone(&self, attachment: &Attachment, ports: &Ports) {
        // What is not recorded as freed must not be forgotten.
        if self.record_broken {
            return;
        }
        if let Err(error) = tombstone::clear(ports.run_dir.path(), attachment) {
            tracing::warn!(%error, container = attachment.container, "a note of the plugin about an ended pod cannot be removed");
        }
    }

    fn feed(&mut self, input: Input, ports: &Ports) {
        self.node.handle(input, Instant::now());
        while let Some(output) = self.node.poll() {
            self.carry_out(output, ports);
        }
        if self.node.is_awaited() {
            ports.hurry.notify_one();
        }
    }

    fn carry_out(&mut self, output: Output, ports: &Ports) {
        match output {
            Output::Record(bytes) => {
                let written = self.record.append(&bytes);
                self.recorded(written, false);
            }
            Output::Rewrite(bytes) => {
                let written = self.record.replace(&bytes);
                self.recorded(written, true);
            }
            Output::Claim { block, pool } => {
                if let Ok(prefix) = Prefix::new(block.cidr()) {
                    self.asked.entry(prefix).or_insert_with(Instant::now);
                }
                ports.orders.send(block, Order::Claim { pool });
            }
            // The record must say that a block is leaving before anybody else may have it.
            Output::Release(block) if self.record_broken => {
                let outcome = Err(ClaimError::Failed);
                self.node.handle(Input::Released { block, outcome }, Instant::now());
            }
            Output::Release(block) => {
                self.not_asked(block);
                ports.orders.send(block, Order::Release);
            }
            // The record must say whose an address is before anybody else hears of it.
            Output::Order { claim, .. } if self.record_broken => {
                let outcome = Err(ClaimTrouble::Unrecorded);
                self.node.handle(Input::Ordered { claim, outcome }, Instant::now());
            }
            Output::Order { claim, order } => ports.claim_orders.send(claim, order),
            Output::Reply { request, reply } => self.reply(request, reply),
            Output::Unlink { id, link, addresses } => ports.unlink.send(id, Leaving { link, addresses }),
            Output::Resize { id, size } => ports.resize.send(id, size),
            Output::Buried(attachment) => self.clear_tombstone(&attachment, ports),
            Output::Routes(routes) => drop(ports.routes.send_replace(Arc::new(routes))),
            Output::Origins(origins) => self.announce(origins, ports),
            Output::Changed => self.changed = true,
            Output::Look => self.look_at_links(),
            Output::LookUp(pod) => ports.look_up.send(pod, ()),
            Output::Unheard(pod) => events::log_unheard(&pod),
            Output::PodEvent { pod, trouble, note } => {
                // One that finds no room is dropped: the runtime tries again, and so does this.
                drop(ports.pod_events.try_send(PodEvent { pod, trouble, note }));
            }
            Output::Event(event) => events::log_ipam(&event),
        }
    }

    fn not_asked(&mut self, block: BlockId) {
        if let Ok(prefix) = Prefix::new(block.cidr()) {
            self.asked.remove(&prefix);
        }
    }

    fn announce(&mut self, origins: BTreeMap<Prefix, OriginAttributes>, ports: &Ports) {
        let before = Arc::clone(&ports.asked.borrow());
        // What was announced and is not any more was given back.
        self.asked.retain(|prefix, _| origins.contains_key(prefix) || !before.contains_key(prefix));
        let asked = self.asked.iter().filter(|(prefix, _)| origins.contains_key(prefix));
        ports.asked.send_replace(Arc::new(asked.map(|(prefix, at)| (*prefix, *at)).collect()));
        ports.origins.send_replace(Arc::new(origins));
    }

    /// What cannot be read is asked for again later.
    fn look_at_links(&mut self) {
        let ends = Socket::route().and_then(|mut socket| inspect::ends(&mut socket));
        let Ok(ends) = ends else { return };
        let aliases = ends.iter().filter_map(|end| parse_alias(end.alias.as_deref()?));
        let id = |(container, ifname): (&str, &str)| EndpointId {
            container: container.to_owned(),
            ifname: ifname.to_owned(),
        };
        self.node.handle(Input::Linked(aliases.map(id).collect()), Instant::now());
    }

    fn recorded(&mut self, written: std::io::Result<()>, whole: bool) {
        match written {
            Ok(()) if whole && std::mem::take(&mut self.record_broken) => {
                tracing::info!("the record of endpoints is whole again");
                self.node.handle(Input::RecordWhole, Instant::now());
            }
            Ok(()) => {}
            Err(error) => {
                if !std::mem::replace(&mut self.record_broken, true) {
                    tracing::error!(%error, "the record of endpoints cannot be written: no pod can start");
                }
                self.node.handle(Input::RecordFailed, Instant::now());
            }
        }
    }

    fn reply(&mut self, request: RequestId, reply: Reply) {
        let reply = match reply {
            Reply::Assigned(_) if self.record_broken => no_record(Code::TRY_AGAIN),
            Reply::Ready if self.record_broken => no_record(Code::NOT_AVAILABLE),
            reply => reply,
        };
        if let Some(waiting) = self.waiting.remove(&request) {
            // A plugin that was killed meanwhile is repeated by its runtime.
            let _gone = waiting.send(reply);
        }
    }

    fn report(&mut self, ports: &Ports) {
        self.changed = false;
        let report = NodeReport {
            usage: self.node.usage(),
            obstacles: self.node.obstacles(),
            mtu_problem: self.node.mtu_problem(),
            short_of_blocks: self.node.short_of_blocks(),
            doubts: self.node.doubts(),
            serving: self.node.serving(),
        };
        ports.report.send_replace(Arc::new(report));
    }
}

fn no_record(code: Code) -> Reply {
    Reply::Error(RpcError {
        code: code.0,
        msg: "the agent's record of endpoints cannot be written".to_owned(),
        details: "look for a full or read-only run directory on the node".to_owned(),
    })
}
