//! Where connections are accepted: one socket for each address, with the keys of the peers that may call there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use manx_bgp::{Dial, PeerId};
use nix::libc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{options, socket};
use crate::node::intent::{PeerIntent, Problem};
use crate::node::secret::Key;

/// The pause before an address that could not be bound is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// All listening sockets of a speaker.
#[derive(Debug)]
pub(super) struct Listeners {
    arrivals: mpsc::Sender<TcpStream>,
    wanted: BTreeSet<SocketAddr>,
    open: BTreeMap<SocketAddr, Listener>,
    /// What could not be bound, and why.
    failed: BTreeMap<SocketAddr, String>,
    retry: Option<Instant>,
    keys: BTreeMap<(IpAddr, u8), Key>,
}

impl Listeners {
    /// None yet. Accepted connections go to `arrivals`.
    pub(super) fn new(arrivals: mpsc::Sender<TcpStream>) -> Self {
        Self {
            arrivals,
            wanted: BTreeSet::new(),
            open: BTreeMap::new(),
            failed: BTreeMap::new(),
            retry: None,
            keys: BTreeMap::new(),
        }
    }

    /// Listens on these addresses and no others, with the keys of these peers.
    pub(super) fn set(
        &mut self,
        wanted: BTreeSet<SocketAddr>,
        peers: &BTreeMap<PeerId, PeerIntent>,
        now: Instant,
    ) {
        let peers = peers.values();
        let keyed =
            peers.filter_map(|peer| Some((called_from(peer.config.target), peer.transport.key.clone()?)));
        self.keys = keyed.collect();
        self.failed.retain(|address, _| wanted.contains(address));
        self.wanted = wanted;
        self.bind(now);
    }

    /// When an address that could not be bound is tried again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.retry
    }

    /// Tries again what could not be bound, once it is time; true when it did.
    pub(super) fn on_time(&mut self, now: Instant) -> bool {
        let due = self.retry.is_some_and(|retry| retry <= now);
        if due {
            self.bind(now);
        }
        due
    }

    /// What cannot be listened on.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        let failed = self.failed.iter();
        failed.map(|(address, why)| {
            Problem::new(
                "Listener",
                &address.to_string(),
                format!("BGP connections are not accepted there: {why}"),
            )
        })
    }

    fn bind(&mut self, now: Instant) {
        let wanted = &self.wanted;
        self.open.retain(|address, listener| wanted.contains(address) && !listener.task.is_finished());
        for address in wanted {
            if self.open.contains_key(address) {
                continue;
            }
            match Listener::open(*address, self.arrivals.clone()) {
                Ok(listener) => {
                    if self.failed.remove(address).is_some() {
                        tracing::info!(%address, "BGP connections are accepted now");
                    }
                    self.open.insert(*address, listener);
                }
                // There is no IPv6 on this machine, and nobody could call.
                Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
                Err(error) => {
                    let words = explain(&error);
                    if self.failed.insert(*address, words.clone()).as_ref() != Some(&words) {
                        tracing::error!(%address, error = words, "BGP connections cannot be accepted");
                    }
                }
            }
        }
        for (address, listener) in &mut self.open {
            listener.set_keys(*address, &self.keys);
        }
        self.retry = (!self.failed.is_empty()).then_some(now + RETRY);
    }
}

/// Where the connections of a peer come from.
fn called_from(target: Dial) -> (IpAddr, u8) {
    match target {
        Dial::Active(target) | Dial::Passive(target) => options::only(target.ip()),
        Dial::Range { prefix, .. } => (prefix.address(), prefix.len()),
    }
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program listens there, such as another BGP daemon: stop it, or set \
                                     listenPort in the BGPConfiguration or --bgp-listen on this node"
                .to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "it takes the capability NET_BIND_SERVICE to listen there".to_owned()
        }
        _ => error.to_string(),
    }
}

/// A listening task, ended when the value is dropped.
#[derive(Debug)]
struct Listener {
    task: JoinHandle<()>,
    socket: Arc<TcpListener>,
    /// The keys that the kernel was given, by the networks of the peers.
    keys: BTreeMap<(IpAddr, u8), Key>,
}

impl Listener {
    fn open(address: SocketAddr, arrivals: mpsc::Sender<TcpStream>) -> io::Result<Self> {
        let socket = Arc::new(socket::listen(address)?);
        let task = tokio::spawn(accept(Arc::clone(&socket), arrivals));
        Ok(Self { task, socket, keys: BTreeMap::new() })
    }

    /// Connections that are being made use the new keys at once; those that are made keep theirs.
    fn set_keys(&mut self, address: SocketAddr, all: &BTreeMap<(IpAddr, u8), Key>) {
        let of_family = all.iter().filter(|((peer, _), _)| peer.is_ipv4() == address.is_ipv4());
        let wanted: BTreeMap<_, _> = of_family.map(|(peers, key)| (*peers, key.clone())).collect();
        let gone = self.keys.keys().filter(|peers| !wanted.contains_key(peers)).map(|peers| (*peers, None));
        let changed = wanted.iter().filter(|(peers, key)| self.keys.get(peers) != Some(key));
        let changes: Vec<_> = gone.chain(changed.map(|(peers, key)| (*peers, Some(key)))).collect();
        for (peers, key) in changes {
            if let Err(error) = options::set_key(&self.socket, peers, key) {
                tracing::error!(%error, %address, peer = %peers.0, "the TCP MD5 key of a peer cannot be set: the peer cannot connect to this node");
            }
        }
        self.keys = wanted;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: Arc<TcpListener>, arrivals: mpsc::Sender<TcpStream>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if arrivals.send(stream).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a BGP connection cannot be accepted; it is tried again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
