//! The owner of the kernel's routes: one machine that compares, one socket that writes, one that listens.
//!
//! It runs on a thread of its own, since its exchanges with the kernel block, if only for
//! milliseconds. The NAT rules, of which there are few, are kept here as well.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use manx_kernel::fib::{Config, Fib, Input, Output, Stats};
use manx_kernel::model::{Dump, Event};
use manx_kernel::netlink::Kernel;
use manx_kernel::netlink::guard::Guard;
use manx_kernel::netlink::monitor::Monitor;
use manx_kernel::netlink::nat::Nat;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::bgp::LearnedReceiver;
use super::gates::{Guarded, Keeper};
use super::tables::{self, Upkeep};
use super::{events, host};
use crate::node::fib::{Changes, Learned, LocalRoutes, Wanted};
use crate::node::intent::{Intent, Problem};
use crate::shell::wake::sleep_until;

/// The least time between two published reports.
const PUBLISH_PAUSE: Duration = Duration::from_millis(250);
/// How long changes of pods and of the kernel are gathered before they are acted upon: a plugin in the middle of its
/// work makes and removes the same routes, and would wait for us in the kernel. Routes that BGP learned never wait.
const SETTLE: Duration = Duration::from_millis(10);

/// What the owner tells of itself.
#[derive(Debug, Clone, Default)]
pub struct KernelReport {
    /// Figures; `None` before the first dump.
    pub stats: Option<Stats>,
    /// The kernel has what it should have.
    pub in_sync: bool,
    /// Why NAT rules are not in place, if they are not.
    pub nat_error: Option<String>,
    /// Why pods are not kept from BGP, if they are not.
    pub guard_error: Option<String>,
    /// The guards of pods' links.
    pub guarded: Guarded,
}

impl KernelReport {
    /// What is wrong that the condition of the configuration tells.
    pub fn problems(&self) -> impl Iterator<Item = Problem> {
        let ports = self.guard_error.as_ref().map(|error| {
            let text = format!("pods are not kept from the ports of BGP: {error}");
            Problem::new("Kernel", "nftables", text)
        });
        let links = self.guarded.error.as_ref().map(|error| Problem::new("Kernel", "ingress", error.clone()));
        ports.into_iter().chain(links)
    }
}

/// What the thread works with.
pub struct Links {
    /// What this node is to do: NAT rules and own addresses.
    pub intent: watch::Receiver<Option<Arc<Intent>>>,
    /// Routes of our own.
    pub local: watch::Receiver<Arc<LocalRoutes>>,
    /// Routes that BGP found.
    pub learned: LearnedReceiver,
    /// Where the report goes.
    pub report: watch::Sender<Arc<KernelReport>>,
    /// Where the MTU of the uplink goes, once it is known.
    pub mtu: watch::Sender<Option<u32>>,
    /// Ports of this process that pods may not reach, besides those of BGP.
    pub guarded: BTreeSet<u16>,
    /// Ends the thread; routes stay.
    pub stop: CancellationToken,
}

/// Reads what there is in the kernel, before anything is changed.
///
/// # Errors
/// When the kernel cannot be read.
pub fn inventory() -> anyhow::Result<Dump> {
    let mut kernel = Kernel::open().context("opening a netlink socket")?;
    match kernel.answer(&Output::Dump) {
        Some((Input::Dumped(Some(dump)), _)) => Ok(dump),
        Some((_, Some(error))) => Err(error).context("reading the kernel's links and routes"),
        _ => anyhow::bail!("the kernel's links and routes cannot be read"),
    }
}

/// Starts the thread.
///
/// # Errors
/// When no thread, runtime or socket can be made.
pub fn start(links: Links, metric: u32) -> anyhow::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("making the runtime of the kernel's owner")?;
    let kernel = Kernel::open().context("opening a netlink socket")?;
    let port = kernel.port().context("reading the number of a netlink socket")?;
    let monitor = {
        let _inside = runtime.enter();
        Monitor::open(Some(port)).context("subscribing to the kernel's changes")?
    };
    // Peers choose destinations: they must not be able to foresee where these are kept.
    let config = Config { hash_key: RandomState::new().build_hasher().finish(), ..Config::default() };
    let owner = Owner {
        kernel,
        fib: Fib::new(config, Instant::now()),
        wanted: Wanted::new(metric),
        mtus: BTreeMap::new(),
        names: BTreeMap::new(),
        addresses: Vec::new(),
        uplinks: BTreeSet::new(),
        nat: Upkeep::new(),
        guard: Upkeep::new(),
        gates: Keeper::new(Instant::now()),
        guarded: links.guarded.clone(),
        failing: false,
        dumped: false,
    };
    std::thread::Builder::new()
        .name("kernel".to_owned())
        .spawn(move || runtime.block_on(owner.run(links, monitor)))
        .context("starting the thread of the kernel's owner")
}

struct Owner {
    kernel: Kernel,
    fib: Fib,
    wanted: Wanted,
    /// The MTU of each link, by name.
    mtus: BTreeMap<String, u32>,
    names: BTreeMap<u32, String>,
    /// This node's own.
    addresses: Vec<IpAddr>,
    /// The links that have them, by name. Finding them out means reading every link of the node.
    uplinks: BTreeSet<String>,
    nat: Upkeep<Nat>,
    guard: Upkeep<Guard>,
    gates: Keeper,
    /// Ports of this process that pods may not reach.
    guarded: BTreeSet<u16>,
    /// The last exchange with the kernel failed.
    failing: bool,
    dumped: bool,
}

impl Owner {
    async fn run(mut self, mut links: Links, mut monitor: Monitor) {
        let mut published = Instant::now();
        let mut dirty = true;
        // Until then what happens to pods' links is only noted.
        let mut settled: Option<Instant> = None;
        loop {
            if settled.is_none_or(|settled| settled <= Instant::now()) {
                settled = None;
                dirty |= self.drain(&mut links);
            }
            if dirty && published.elapsed() >= PUBLISH_PAUSE {
                self.publish(&links);
                (published, dirty) = (Instant::now(), false);
            }
            let publish_at = dirty.then_some(published + PUBLISH_PAUSE);
            let tables = [self.nat.deadline(), self.guard.deadline(), self.gates.deadline()];
            let wake = [self.fib.deadline(), publish_at, settled].into_iter().chain(tables).flatten().min();
            tokio::select! {
                () = links.stop.cancelled() => return,
                Ok(()) = links.local.changed() => {
                    self.on_local(&mut links);
                    settled.get_or_insert_with(|| Instant::now() + SETTLE);
                }
                event = monitor.next() => match event {
                    Ok(event) => {
                        // What we no longer want is no surprise when it vanishes.
                        if links.local.has_changed().unwrap_or(false) {
                            self.on_local(&mut links);
                        }
                        self.observe(event, &links);
                        settled.get_or_insert_with(|| Instant::now() + SETTLE);
                    }
                    Err(error) => {
                        tracing::error!(%error, "the kernel's notices of changes cannot be followed: changes are found only by looking now and then");
                        monitor = self.listen_again().await;
                    }
                },
                Ok(()) = links.intent.changed() => self.on_intent(&mut links),
                () = sleep_until(wake) => self.on_time(),
                Some(batch) = links.learned.recv() => {
                    self.learn(batch);
                    settled = None;
                }
            }
        }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if self.fib.deadline().is_some_and(|deadline| deadline <= now) {
            self.fib.handle(Input::Timeout, now);
        }
        self.nat.on_time(now);
        self.guard.on_time(now);
        self.gates.on_time(now);
    }

    fn on_local(&mut self, links: &mut Links) {
        let local = Arc::clone(&links.local.borrow_and_update());
        let fib = &self.fib;
        let changes = self.wanted.set_local(local, |within| fib.in_sets(within));
        self.desire(changes);
    }

    fn desire(&mut self, Changes { sets, routes }: Changes) {
        let now = Instant::now();
        if !sets.is_empty() {
            self.fib.handle(Input::Sets(sets), now);
        }
        if !routes.is_empty() {
            self.fib.handle(Input::Desire(routes), now);
        }
    }

    fn learn(&mut self, batch: Vec<Learned>) {
        let mut changes = Changes::default();
        let mut settled = false;
        for learned in batch {
            settled |= learned == Learned::Settled;
            self.wanted.learn(learned, &mut changes);
        }
        self.desire(changes);
        if settled {
            tracing::info!("BGP has settled; routes that nobody announced again are removed");
            self.fib.handle(Input::KeepStale(false), Instant::now());
        }
    }

    fn observe(&mut self, event: Event, links: &Links) {
        match &event {
            Event::Link(link) => {
                let renamed = self.names.insert(link.index, link.name.clone());
                if renamed.is_some_and(|before| before != link.name) {
                    self.find_uplinks();
                }
                if self.mtus.insert(link.name.clone(), link.mtu) != Some(link.mtu) {
                    self.tell_mtu(links);
                }
            }
            Event::LinkGone(index) => {
                if let Some(name) = self.names.remove(index) {
                    self.mtus.remove(&name);
                }
            }
            Event::Address(found) | Event::AddressGone(found)
                if self.addresses.contains(&found.address.ip()) =>
            {
                self.find_uplinks();
                self.tell_mtu(links);
            }
            _ => {}
        }
        self.fib.handle(Input::Observed(event), Instant::now());
    }

    fn on_intent(&mut self, links: &mut Links) {
        let Some(intent) = links.intent.borrow_and_update().clone() else { return };
        self.nat.set(tables::nat_rules(&intent.nat));
        self.guard.set(tables::guard_rules(&intent.guard, &self.guarded));
        let addresses = intent.addresses();
        if addresses != self.addresses {
            self.addresses = addresses;
            self.find_uplinks();
            self.tell_mtu(links);
        }
    }

    fn find_uplinks(&mut self) {
        self.uplinks = host::uplinks(&self.addresses);
    }

    /// The smallest MTU of the links that carry this node's addresses.
    fn tell_mtu(&self, links: &Links) {
        let mtu = self.uplinks.iter().filter_map(|name| self.mtus.get(name)).min().copied();
        links.mtu.send_if_modified(|told| {
            let changed = mtu.is_some() && *told != mtu;
            if changed {
                *told = mtu;
            }
            changed
        });
    }

    /// Does what the machine asks for; true when something was asked.
    fn drain(&mut self, links: &mut Links) -> bool {
        let mut any = false;
        while let Some(output) = self.fib.poll() {
            any = true;
            if let Output::Event(event) = &output {
                events::log_fib(event);
                continue;
            }
            let Some((answer, error)) = self.kernel.answer(&output) else { continue };
            self.note(error);
            if let Input::Dumped(Some(dump)) = &answer {
                self.mtus = dump.links.iter().map(|link| (link.name.clone(), link.mtu)).collect();
                self.names = dump.links.iter().map(|link| (link.index, link.name.clone())).collect();
                self.find_uplinks();
                self.dumped = true;
                // The dump may show routes of pods that were wanted only while nobody listened here: they are wanted
                // before their plugin can make them, and would else be taken for leftovers.
                if links.local.has_changed().unwrap_or(false) {
                    self.on_local(links);
                }
            }
            self.fib.handle(answer, Instant::now());
        }
        any
    }

    fn note(&mut self, error: Option<manx_kernel::netlink::socket::SocketError>) {
        match error {
            Some(error) if !self.failing => {
                self.failing = true;
                tracing::error!(
                    error = events::chain(&error),
                    "the kernel's routes cannot be read or written; it is tried again"
                );
            }
            None if self.failing => {
                self.failing = false;
                tracing::info!("the kernel answers again");
            }
            _ => {}
        }
    }

    async fn listen_again(&mut self) -> Monitor {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let monitor = self.kernel.port().and_then(|port| Monitor::open(Some(port)));
            if let Ok(monitor) = monitor {
                self.fib.handle(Input::Observed(Event::Overrun), Instant::now());
                return monitor;
            }
        }
    }

    fn publish(&self, links: &Links) {
        self.tell_mtu(links);
        links.report.send_replace(Arc::new(KernelReport {
            stats: self.dumped.then(|| self.fib.stats()),
            in_sync: self.fib.in_sync(),
            nat_error: self.nat.error(),
            guard_error: self.guard.error(),
            guarded: self.gates.known(),
        }));
    }
}
