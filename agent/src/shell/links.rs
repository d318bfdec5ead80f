//! The owner of pods' links on their way out: takes them down at once, deletes them in groups.
//!
//! Deleting a link waits for a grace period of the kernel, some 20 ms, however many links go at once. So
//! one thread only takes links down, which is what a plugin waits for, and another deletes all that
//! gathered meanwhile. Both work synchronously on sockets of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use manx_ipam::EndpointId;
use manx_kernel::names::LINK_GROUP;
use manx_kernel::netlink::inspect;
use manx_kernel::netlink::links::{LinkError, doom, find, remove_doomed};
use manx_kernel::netlink::socket::Socket;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::deltas;
use super::events::chain;

/// How many orders are taken at once.
const BATCH: usize = 256;
/// How long a link may be without its alias before it counts as left half made, and how often that is looked at.
const SWEEP: Duration = Duration::from_secs(60);
/// The pause before a deletion that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How far a link is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum News {
    /// It passes no packets, its routes are gone.
    Down,
    /// It does not exist.
    Gone,
}

/// Orders: the link of this name is to go, if it is this attachment's.
pub type Orders = deltas::Receiver<EndpointId, String>;

/// Starts both threads. They end when the orders do.
///
/// # Errors
/// When no thread, runtime or socket can be made.
pub fn start(orders: Orders, news: deltas::Sender<EndpointId, News>) -> anyhow::Result<()> {
    let (doomed, dooms) = deltas::coalescing();
    let (gone_news, mut forwarded) = deltas::coalescing::<EndpointId, News>();
    let socket = Socket::route().context("opening a netlink socket")?;
    spawn("links", async move {
        let mut taker = Taker { socket, news, doomed };
        taker.run(orders, &mut forwarded).await;
    })?;
    let socket = Socket::route().context("opening a netlink socket")?;
    spawn("reaper", reap(socket, dooms, gone_news))
}

fn spawn(name: &str, work: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .with_context(|| format!("making the runtime of {name}"))?;
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || runtime.block_on(work))
        .with_context(|| format!("starting the thread {name}"))?;
    Ok(())
}

/// Takes links down.
struct Taker {
    socket: Socket,
    news: deltas::Sender<EndpointId, News>,
    doomed: deltas::Sender<EndpointId, String>,
}

impl Taker {
    async fn run(&mut self, mut orders: Orders, gone: &mut deltas::Receiver<EndpointId, News>) {
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut half_made = BTreeSet::new();
        loop {
            tokio::select! {
                biased;
                batch = orders.recv(BATCH) => {
                    let Some(batch) = batch else { return };
                    for (id, link) in batch {
                        self.take_down(id, link);
                    }
                }
                Some(batch) = gone.recv(BATCH) => {
                    for (id, news) in batch {
                        self.news.send(id, news);
                    }
                }
                _ = sweep.tick() => half_made = self.sweep(&half_made),
            }
        }
    }

    fn take_down(&mut self, id: EndpointId, link: String) {
        let found = find(&mut self.socket, &link, &id.container, &id.ifname).map_err(LinkError::from);
        let taken = match found {
            Ok(None) => return self.news.send(id, News::Gone),
            Ok(Some(end)) => doom(&mut self.socket, end.index),
            Err(error) => Err(error),
        };
        match taken {
            Ok(()) => self.news.send(id.clone(), News::Down),
            Err(error) => {
                tracing::error!(
                    error = chain(&error),
                    link,
                    "a link cannot be taken down; deleting it is tried on"
                );
            }
        }
        self.doomed.send(id, link);
    }

    /// Dooms links of our group that had no alias at the last look either: a plugin was killed while it made them.
    fn sweep(&mut self, before: &BTreeSet<u32>) -> BTreeSet<u32> {
        let ends = match inspect::ends(&mut self.socket) {
            Ok(ends) => ends,
            Err(error) => {
                tracing::warn!(error = chain(&error), "the links of this node cannot be read");
                return BTreeSet::new();
            }
        };
        let nameless = ends.into_iter().filter(|end| end.group == LINK_GROUP && end.alias.is_none());
        let nameless: BTreeMap<u32, String> = nameless.map(|end| (end.index, end.name)).collect();
        for (index, name) in nameless.iter().filter(|(index, _)| before.contains(index)) {
            tracing::warn!(link = name, "removing a link that was left half made");
            if doom(&mut self.socket, *index).is_ok() {
                self.doomed.send(EndpointId::default(), name.clone());
            }
        }
        nameless.into_keys().collect()
    }
}

/// Deletes all doomed links whenever there are some.
async fn reap(
    mut socket: Socket,
    mut doomed: deltas::Receiver<EndpointId, String>,
    news: deltas::Sender<EndpointId, News>,
) {
    // Links that an earlier agent had taken down.
    let mut pending: BTreeMap<EndpointId, String> = BTreeMap::new();
    let mut next: Option<Instant> = Some(Instant::now());
    loop {
        tokio::select! {
            batch = doomed.recv(BATCH) => {
                let Some(batch) = batch else { return };
                pending.extend(batch);
            }
            () = sleep_until(next) => {}
        }
        next = None;
        if let Err(error) = remove_doomed(&mut socket) {
            tracing::error!(error = chain(&error), "links that were taken down cannot be deleted");
            next = Some(Instant::now() + RETRY);
            continue;
        }
        for (id, link) in std::mem::take(&mut pending) {
            match find(&mut socket, &link, &id.container, &id.ifname) {
                Ok(None) => news.send(id, News::Gone),
                Ok(Some(end)) => {
                    let _tried_again = doom(&mut socket, end.index);
                    pending.insert(id, link);
                    next = Some(Instant::now() + RETRY);
                }
                Err(_) => {
                    pending.insert(id, link);
                    next = Some(Instant::now() + RETRY);
                }
            }
        }
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
