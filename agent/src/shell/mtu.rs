//! The owner of the MTU of running pods' links: what the node asks for is done on both ends of each link.
//!
//! The pod's end lies in its own namespace, which is entered by the path that the runtime gave at ADD. An agent in a
//! container sees that path only where the directory of the namespaces is mounted into it; where it does not, the link
//! stays as it is on both ends, which is said, and the pod learns of a smaller path from its node's ICMP.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use manx_ipam::EndpointId;
use manx_kernel::netlink::mtu::{ResizeError, Resized, Which, resize};
use manx_kernel::netlink::socket::Socket;
use tokio::sync::watch;
use tokio::time::Instant;

use super::deltas;
use super::events::chain;
use crate::node::mtu::Size;
use crate::shell::wake::sleep_until;

/// How many links are taken at once.
const BATCH: usize = 256;
/// The pause before what could not be done is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// The pause once it has failed for a while.
const LONG_RETRY: Duration = Duration::from_secs(60);
/// How long a link may be missing: its plugin may be about to make it.
const GRACE: Duration = Duration::from_secs(60);

/// Orders: this attachment's link is to have this size.
pub type Orders = deltas::Receiver<EndpointId, Size>;

/// Starts the thread. It ends when the orders do. What cannot be done is told to `stuck`.
///
/// # Errors
/// When no thread, runtime or socket can be made.
pub fn start(orders: Orders, stuck: watch::Sender<Option<String>>) -> anyhow::Result<JoinHandle<()>> {
    let host = Socket::route().context("opening a netlink socket")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .context("making the runtime of the links' sizes")?;
    let sizer = Sizer { host, pending: BTreeMap::new(), stuck };
    std::thread::Builder::new()
        .name("mtu".to_owned())
        .spawn(move || runtime.block_on(sizer.run(orders)))
        .context("starting the thread of the links' sizes")
}

struct Sizer {
    host: Socket,
    /// What is not done yet, and since when.
    pending: BTreeMap<EndpointId, (Size, Instant)>,
    stuck: watch::Sender<Option<String>>,
}

impl Sizer {
    async fn run(mut self, mut orders: Orders) {
        let mut retry_at = None;
        loop {
            tokio::select! {
                batch = orders.recv(BATCH) => {
                    let Some(batch) = batch else { return };
                    let now = Instant::now();
                    self.pending.extend(batch.into_iter().map(|(id, size)| (id, (size, now))));
                }
                () = sleep_until(retry_at) => {}
            }
            retry_at = self.pass();
        }
    }

    /// Tries all that is not done yet; returns when to try again.
    fn pass(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let (mut changed, mut failure) = (0_usize, None);
        let mut left = BTreeMap::new();
        for (id, (size, since)) in std::mem::take(&mut self.pending) {
            let which = Which { link: &size.link, container: &id.container, ifname: &id.ifname };
            match resize(&mut self.host, which, size.netns.as_deref().map(Path::new), size.mtu) {
                Ok(Resized::Changed) => changed += 1,
                Ok(Resized::Already) => {}
                Ok(Resized::NoLink) if now.duration_since(since) > GRACE => {}
                Ok(Resized::NoLink) => drop(left.insert(id, (size, since))),
                Err(error) => {
                    failure.get_or_insert_with(|| (size.link.clone(), error));
                    left.insert(id, (size, since));
                }
            }
        }
        if changed > 0 {
            tracing::info!(links = changed, "the MTU of running pods was changed");
        }
        self.tell(left.len(), failure);
        self.pending = left;
        let fresh = |since: &Instant| now.duration_since(*since) < GRACE;
        let pause = if self.pending.values().any(|(_, since)| fresh(since)) { RETRY } else { LONG_RETRY };
        (!self.pending.is_empty()).then(|| now + pause)
    }

    fn tell(&self, count: usize, failure: Option<(String, ResizeError)>) {
        let stuck = failure.map(|(link, error)| {
            let way_out = match error {
                ResizeError::Unreachable(_) => {
                    " (mount the host's /run/netns into the agent with mountPropagation: HostToContainer)"
                }
                _ => "",
            };
            format!(
                "{count} pods keep the MTU that they have, such as that of {link}: {}{way_out}",
                chain(&error)
            )
        });
        let news = self.stuck.send_if_modified(|told| {
            let changed = *told != stuck;
            told.clone_from(&stuck);
            changed
        });
        if let Some(stuck) = stuck.filter(|_| news) {
            tracing::warn!("{stuck}");
        }
    }
}
