//! The owner of pods' links on their way out: takes them down at once, deletes them in groups.
//!
//! Deleting a link waits for a grace period of the kernel, some 20 ms, however many links go at once. So
//! one thread only takes links down, which is what a plugin waits for, and another deletes all that
//! gathered meanwhile. Both work synchronously on sockets of their own.
//!
//! What else the kernel keeps of a link and its addresses goes after it: the guard of the link at once, tracked
//! connections at once or, since finding them takes a look at all there are on the node, soon, together with those of
//! whatever else ended meanwhile. Only then is the link said to be gone, and its addresses may be given again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use manx_ipam::EndpointId;
use manx_kernel::names::{HOST_MAC, LINK_GROUP, alias, parse_alias};
use manx_kernel::netlink::guard::Gates;
use manx_kernel::netlink::links::{LinkError, doom, find, readdress, remove_doomed};
use manx_kernel::netlink::socket::Socket;
use manx_kernel::netlink::{conntrack, inspect};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::deltas;
use super::events::chain;
use crate::shell::wake::sleep_until;

/// How many orders are taken at once.
const BATCH: usize = 256;
/// How long a link may be without its alias before it counts as left half made, and how often that is looked at.
const SWEEP: Duration = Duration::from_secs(60);
/// How often tracked connections are tried to be removed again before their addresses are given all the same.
const PURGES: u32 = 5;
/// The least time between two looks at all tracked connections, unless a pod waits for one. The kernel locks each of its
/// quarter of a million buckets for it, however few connections there are: that costs more than everything else that a
/// pod's end does here.
const PURGE_PAUSE: Duration = Duration::from_millis(500);
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

/// A link that is to go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leaving {
    /// Its name.
    pub link: String,
    /// The addresses that wait for it to be gone.
    pub addresses: Vec<IpAddr>,
}

/// What was found of a link that is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// There is none.
    Nothing,
    /// It has this index, and is doomed.
    Index(u32),
    /// Nobody knows, or it cannot be doomed.
    Unclear,
}

/// Orders: the link is to go, if it is this attachment's.
pub type Orders = deltas::Receiver<EndpointId, Leaving>;

/// Starts both threads and gives their names. They end when the orders do. Who waits for addresses says so by `hurry`.
///
/// # Errors
/// When no thread, runtime or socket can be made.
pub fn start(
    orders: Orders,
    news: deltas::Sender<EndpointId, News>,
    hurry: Arc<Notify>,
) -> anyhow::Result<[(&'static str, JoinHandle<()>); 2]> {
    let (doomed, dooms) = deltas::coalescing();
    let (gone_news, mut forwarded) = deltas::coalescing::<EndpointId, News>();
    let socket = Socket::route().context("opening a netlink socket")?;
    let taker = spawn("links", async move {
        let mut taker = Taker { socket, news, doomed };
        taker.run(orders, &mut forwarded).await;
    })?;
    let reaper = Reaper::new(Socket::route().context("opening a netlink socket")?, gone_news, hurry);
    Ok([("links", taker), ("reaper", spawn("reaper", reaper.run(dooms))?)])
}

fn spawn(name: &str, work: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .with_context(|| format!("making the runtime of {name}"))?;
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || runtime.block_on(work))
        .with_context(|| format!("starting the thread {name}"))
}

/// Takes links down.
struct Taker {
    socket: Socket,
    news: deltas::Sender<EndpointId, News>,
    doomed: deltas::Sender<EndpointId, (Leaving, Found)>,
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
                    for (id, leaving) in batch {
                        self.take_down(id, leaving);
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

    fn take_down(&mut self, id: EndpointId, leaving: Leaving) {
        let found = find(&mut self.socket, &leaving.link, &id.container, &id.ifname).map_err(LinkError::from);
        let taken = match found {
            Ok(None) => Ok(Found::Nothing),
            Ok(Some(end)) => doom(&mut self.socket, end.index).map(|()| Found::Index(end.index)),
            Err(error) => Err(error),
        };
        if taken.is_ok() {
            self.news.send(id.clone(), News::Down);
        }
        let found = taken.unwrap_or_else(|error| {
            tracing::error!(
                error = chain(&error),
                link = leaving.link,
                "a link cannot be taken down; deleting it is tried on"
            );
            Found::Unclear
        });
        self.doomed.send(id, (leaving, found));
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
        let (named, nameless): (Vec<inspect::End>, Vec<inspect::End>) =
            ends.into_iter().filter(|end| end.group == LINK_GROUP).partition(|end| end.alias.is_some());
        let ours = |end: &&inspect::End| end.alias.as_deref().and_then(parse_alias).is_some();
        for end in named.iter().filter(ours).filter(|end| end.mac != Some(HOST_MAC)) {
            self.readdress(end);
        }
        let nameless = nameless.into_iter();
        let nameless: BTreeMap<u32, String> = nameless.map(|end| (end.index, end.name)).collect();
        for (index, name) in nameless.iter().filter(|(index, _)| before.contains(index)) {
            tracing::warn!(link = name, "a link that a plugin left half made is removed");
            if doom(&mut self.socket, *index).is_ok() {
                let leaving = Leaving { link: name.clone(), addresses: Vec::new() };
                self.doomed.send(EndpointId::default(), (leaving, Found::Nothing));
            }
        }
        nameless.into_keys().collect()
    }

    /// Something on the node changed the address by which a pod knows it: nothing that the pod sends arrives.
    fn readdress(&mut self, end: &inspect::End) {
        let way_out = "exempt cali* from udev, NetworkManager and systemd-networkd";
        match readdress(&mut self.socket, end.index) {
            Ok(()) => {
                tracing::warn!(link = end.name, way_out, "the hardware address of a pod's link is put right");
            }
            Err(error) => {
                tracing::error!(
                    error = chain(&error),
                    link = end.name,
                    way_out,
                    "the hardware address of a pod's link was changed and cannot be put right: nothing that the pod sends arrives"
                );
            }
        }
    }
}

/// Deletes all doomed links whenever there are some.
struct Reaper {
    socket: Socket,
    /// None on a kernel that cannot filter at the ingress of links.
    gates: Option<Gates>,
    news: deltas::Sender<EndpointId, News>,
    /// What is not gone yet.
    pending: BTreeMap<EndpointId, (Leaving, Found)>,
    /// What is gone but for its tracked connections, and how often these could not be forgotten.
    gone: BTreeMap<EndpointId, (Leaving, u32)>,
    /// Before then nobody looks at tracked connections again, unless told to hurry.
    purge_at: Instant,
    hurry: Arc<Notify>,
}

impl Reaper {
    fn new(socket: Socket, news: deltas::Sender<EndpointId, News>, hurry: Arc<Notify>) -> Self {
        // Without rights to nftables there are no guards either.
        let gates = Gates::open().ok().flatten();
        let purge_at = Instant::now();
        Self { socket, gates, news, pending: BTreeMap::new(), gone: BTreeMap::new(), purge_at, hurry }
    }

    async fn run(mut self, mut doomed: deltas::Receiver<EndpointId, (Leaving, Found)>) {
        // Links that an earlier agent had taken down.
        let mut delete_at = Some(Instant::now());
        loop {
            let purge_at = (!self.gone.is_empty()).then_some(self.purge_at);
            tokio::select! {
                batch = doomed.recv(BATCH) => {
                    let Some(batch) = batch else { return };
                    self.take_in(batch);
                    delete_at = Some(Instant::now());
                }
                () = self.hurry.notified() => self.purge_at = Instant::now(),
                () = sleep_until([delete_at, purge_at].into_iter().flatten().min()) => {}
            }
            if delete_at.is_some_and(|at| at <= Instant::now()) {
                let done = self.delete();
                delete_at = (!done).then(|| Instant::now() + RETRY);
            }
            if !self.gone.is_empty() && self.purge_at <= Instant::now() {
                self.forget_connections();
            }
        }
    }

    /// Each names all addresses that wait for it, those of what is gone by the same name too: that is not over yet.
    fn take_in(&mut self, batch: Vec<(EndpointId, (Leaving, Found))>) {
        for (id, doomed) in batch {
            self.gone.remove(&id);
            self.pending.insert(id, doomed);
        }
    }

    /// Deletes what is doomed, and the guards of what is gone; false if something is left to do.
    fn delete(&mut self) -> bool {
        // Listed before any link goes: a guard that is made afterwards is another link's, and not in the list.
        let guards = self.guards();
        if let Err(error) = remove_doomed(&mut self.socket) {
            tracing::error!(
                error = chain(&error),
                "links of pods that ended cannot be deleted; it is tried again"
            );
            return false;
        }
        let (gone, pending): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|(id, (leaving, found))| self.is_gone(id, leaving, *found));
        self.pending = pending;
        self.forget_guards(&guards, gone.values().map(|(leaving, _)| &leaving.link));
        self.gone.extend(gone.into_iter().map(|(id, (leaving, _))| (id, (leaving, 0))));
        self.pending.is_empty()
    }

    /// Forgets the connections of all that is gone, and says so. What fails is tried again some times.
    fn forget_connections(&mut self) {
        let forgotten = forget_connections(self.gone.values().map(|(leaving, _)| leaving));
        self.purge_at = Instant::now() + PURGE_PAUSE;
        for (id, (leaving, failures)) in std::mem::take(&mut self.gone) {
            if forgotten || failures >= PURGES {
                self.news.send(id, News::Gone);
            } else {
                self.gone.insert(id, (leaving, failures + 1));
            }
        }
    }

    /// Whether the link is not there any more. One that is there is doomed again, but not the link of the same
    /// container's next start, which has the same marks.
    fn is_gone(&mut self, id: &EndpointId, leaving: &Leaving, found: Found) -> bool {
        let there = match found {
            Found::Nothing => return true,
            Found::Index(index) => inspect::end_at(&mut self.socket, index)
                .map(|end| end.filter(|end| end.alias.as_deref() == Some(&alias(&id.container, &id.ifname)))),
            Found::Unclear => find(&mut self.socket, &leaving.link, &id.container, &id.ifname),
        };
        match there {
            Ok(Some(end)) => {
                let _tried_again = doom(&mut self.socket, end.index);
                false
            }
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// The guards of links, by the links' names.
    fn guards(&mut self) -> BTreeMap<String, u64> {
        let handles = self.gates.as_mut().map(Gates::handles);
        handles.and_then(Result::ok).unwrap_or_default()
    }

    /// Removes the guards of links that are gone, unless another link has the name by now. What fails is left to the
    /// audit.
    fn forget_guards<'a>(&mut self, guards: &BTreeMap<String, u64>, links: impl Iterator<Item = &'a String>) {
        let Some(gates) = &mut self.gates else { return };
        for (link, handle) in links.filter_map(|link| Some((link, guards.get(link)?))) {
            if let Ok(None) = inspect::end(&mut self.socket, link) {
                let _left_to_the_audit = gates.forget(*handle);
            }
        }
    }
}

/// Forgets the connections of all these addresses; false if that failed.
fn forget_connections<'a>(leaving: impl Iterator<Item = &'a Leaving>) -> bool {
    let addresses: BTreeSet<IpAddr> = leaving.flat_map(|leaving| leaving.addresses.iter().copied()).collect();
    match conntrack::purge(&addresses) {
        Ok(0) => true,
        Ok(connections) => {
            tracing::debug!(
                connections,
                addresses = addresses.len(),
                "connections of freed addresses are forgotten"
            );
            true
        }
        Err(error) => {
            tracing::warn!(
                error = chain(&error),
                ?addresses,
                "tracked connections of freed addresses cannot be removed: who gets these may get old traffic"
            );
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use manx_kernel::names::Mac;
    use manx_kernel::netlink::links::{create, remove_doomed, set_up_outside};
    use manx_kernel::netns::NetNs;
    use manx_kernel::pod::PodLink;
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// Calls a test on a thread in a namespace of its own, with another namespace that outlives every plugin.
    fn on_a_node(test: impl FnOnce(&NetNs) + Send + 'static) {
        let on_a_thread = || {
            if unshare(CloneFlags::CLONE_NEWNET).is_err() {
                assert!(std::env::var_os("CI").is_none(), "no namespaces");
                println!("ignored: no namespaces");
                return;
            }
            let pod = std::thread::spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("it worked before");
                NetNs::current().expect("a namespace")
            });
            test(&pod.join().expect("a namespace"));
        };
        std::thread::spawn(on_a_thread).join().expect("the test passes");
    }

    fn taker() -> Taker {
        let (news, _) = deltas::coalescing();
        let (doomed, _) = deltas::coalescing();
        Taker { socket: Socket::route().expect("a socket"), news, doomed }
    }

    fn link(container: &str) -> PodLink {
        PodLink {
            container: container.to_owned(),
            ifname: format!("eth-{container}"),
            link: format!("cali-{container}"),
            addresses: vec![IpAddr::from([10, 0, 0, 1])],
            mtu: 1500,
            mac: Mac::of_pod(container, "eth0"),
        }
    }

    /// The links of the node, without its loopback.
    fn names(taker: &mut Taker) -> Vec<String> {
        let ends = inspect::ends(&mut taker.socket).expect("links");
        ends.into_iter().map(|end| end.name).filter(|name| name != "lo").collect()
    }

    #[test]
    fn what_a_killed_plugin_left_half_made_goes_at_the_second_look_though_its_namespace_lives_on() {
        on_a_node(|pod| {
            let mut taker = taker();
            let whole = create(&mut taker.socket, &link("whole"), pod).expect("made").expect("a free name");
            set_up_outside(&mut taker.socket, &link("whole"), whole.host).expect("set up");
            create(&mut taker.socket, &link("half"), pod).expect("made").expect("a free name");
            let seen = taker.sweep(&BTreeSet::new());
            assert_eq!(seen.len(), 1);
            create(&mut taker.socket, &link("young"), pod).expect("made").expect("a free name");
            remove_doomed(&mut taker.socket).expect("nothing is doomed yet");
            assert_eq!(names(&mut taker), ["cali-whole", "cali-half", "cali-young"]);
            taker.sweep(&seen);
            remove_doomed(&mut taker.socket).expect("removed");
            assert_eq!(names(&mut taker), ["cali-whole", "cali-young"]);
        });
    }

    /// The reaper alone, and links for it.
    struct Reaping<'a> {
        taker: Taker,
        doomed: deltas::Sender<EndpointId, (Leaving, Found)>,
        told: deltas::Receiver<EndpointId, News>,
        hurry: Arc<Notify>,
        pod: &'a NetNs,
    }

    impl<'a> Reaping<'a> {
        fn start(pod: &'a NetNs) -> Self {
            let (doomed, dooms) = deltas::coalescing();
            let (news, told) = deltas::coalescing();
            let hurry = Arc::new(Notify::new());
            let socket = Socket::route().expect("a socket");
            tokio::spawn(Reaper::new(socket, news, Arc::clone(&hurry)).run(dooms));
            Self { taker: taker(), doomed, told, hurry, pod }
        }

        fn id(of: &str) -> EndpointId {
            EndpointId { container: of.to_owned(), ifname: format!("eth-{of}") }
        }

        /// Makes a link that is not taken down, and orders that it go.
        fn order(&mut self, of: &str) -> u32 {
            let made =
                create(&mut self.taker.socket, &link(of), self.pod).expect("made").expect("a free name");
            set_up_outside(&mut self.taker.socket, &link(of), made.host).expect("set up");
            let leaving = Leaving { link: link(of).link, addresses: link(of).addresses };
            self.doomed.send(Self::id(of), (leaving, Found::Index(made.host)));
            made.host
        }

        /// Makes a link, takes it down, and orders that it go.
        fn end(&mut self, of: &str) {
            let index = self.order(of);
            doom(&mut self.taker.socket, index).expect("doomed");
        }

        /// What is said to be gone, once something is.
        async fn gone(&mut self) -> Vec<String> {
            let told = self.told.recv(8).await.expect("the reaper runs");
            assert!(told.iter().all(|(_, news)| *news == News::Gone), "{told:?}");
            told.into_iter().map(|(id, _)| id.container).collect()
        }

        async fn nothing_is_gone_for(&mut self, time: Duration) {
            let soon = tokio::time::timeout(time, self.told.recv(8)).await;
            assert!(soon.is_err(), "its connections were not looked for yet: {soon:?}");
        }
    }

    /// Calls a test of the reaper; time passes when everybody waits.
    fn reaping(test: impl AsyncFnOnce(Reaping<'_>) + Send + 'static) {
        on_a_node(|pod| {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
            runtime.block_on(async { test(Reaping::start(pod)).await });
        });
    }

    #[test]
    fn of_links_that_end_one_soon_after_the_other_the_connections_are_looked_for_together() {
        reaping(async |mut reaping| {
            let begin = Instant::now();
            reaping.end("a");
            assert_eq!(reaping.gone().await, ["a"]);
            assert!(begin.elapsed() < PURGE_PAUSE, "the first waits for nobody");
            reaping.end("b");
            reaping.nothing_is_gone_for(PURGE_PAUSE / 2).await;
            reaping.end("c");
            assert_eq!(reaping.gone().await, ["b", "c"]);
            assert!(begin.elapsed() >= PURGE_PAUSE);
            let begin = Instant::now();
            reaping.end("d");
            reaping.hurry.notify_one();
            assert_eq!(reaping.gone().await, ["d"]);
            assert!(begin.elapsed() < PURGE_PAUSE, "a pod waits for it");
            assert!(names(&mut reaping.taker).is_empty());
        });
    }

    #[test]
    fn a_container_whose_next_link_is_to_go_too_is_over_once_both_are() {
        reaping(async |mut reaping| {
            reaping.end("a");
            assert_eq!(reaping.gone().await, ["a"]);
            reaping.end("b");
            reaping.nothing_is_gone_for(PURGE_PAUSE / 2).await;
            let begin = Instant::now();
            reaping.order("b");
            assert_eq!(reaping.gone().await, ["b"]);
            assert!(begin.elapsed() >= RETRY, "a link that was not taken down goes at the second try");
            assert!(names(&mut reaping.taker).is_empty());
        });
    }

    #[test]
    fn both_threads_are_known_by_name_and_end_with_the_orders() {
        on_a_node(|_| {
            let (unlink, orders) = deltas::coalescing();
            let (news, _) = deltas::coalescing();
            let threads = start(orders, news, Arc::default()).expect("started");
            assert_eq!(threads.each_ref().map(|(name, _)| *name), ["links", "reaper"]);
            assert!(threads.iter().all(|(_, thread)| !thread.is_finished()));
            drop(unlink);
            for (name, thread) in threads {
                assert!(thread.join().is_ok(), "{name}");
            }
        });
    }

    #[test]
    fn a_hardware_address_that_something_changed_is_put_right() {
        on_a_node(|pod| {
            let mut taker = taker();
            let made = create(&mut taker.socket, &link("a"), pod).expect("made").expect("a free name");
            set_up_outside(&mut taker.socket, &link("a"), made.host).expect("set up");
            let mut other = PodLink::readdress(made.host, Mac([2, 0, 0, 0, 0, 9]));
            taker.socket.send(&mut other).expect("sent").all_done().expect("changed");
            taker.sweep(&BTreeSet::new());
            let end = inspect::end(&mut taker.socket, "cali-a").expect("asked").expect("it is there");
            assert_eq!(end.mac, Some(HOST_MAC));
        });
    }
}
