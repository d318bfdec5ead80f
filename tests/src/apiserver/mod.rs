//! A Kubernetes API server in memory: for the lab, and for tests of whatever talks to one.
//!
//! It is honest where clients look: optimistic concurrency, watches that resume from a revision and can be told
//! 410, bookmarks, finalizers, status as a subresource, server-side apply, CRDs with their schemas and CEL rules,
//! tables for `kubectl get`. The contract suite in `tests/tests/apiserver.rs` runs against it and, where the
//! binaries are there, against the real one. It has no authentication, no admission webhooks, no garbage collector
//! and no controllers; nothing survives a restart. As in a real cluster, a pod that is deleted while bound to a node only
//! gets a deletionTimestamp: whoever plays its kubelet deletes it with grace period 0.
//!
//! A request runs through `http` (routing, faults, log) to a verb (`read`, `write`, `patch`, `delete`, `watch`) under
//! one briefly held lock on `state::State`. Other processes inject faults and read the log by the paths of `admin`.

mod admin;
mod admit;
mod builtin;
mod call;
mod crd;
mod delete;
mod discovery;
mod failure;
mod faults;
mod fields;
mod http;
mod lists;
mod openapi;
mod ownership;
mod patch;
mod protobuf;
mod read;
mod reply;
mod requests;
mod resource;
mod selector;
mod server;
mod state;
mod store;
mod table;
mod watch;
mod write;

use manx_schema as schema;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

pub use faults::{Effect, Fault, Faults, Presence, Scope, Subject, When};
pub use requests::{Kind, Request, RequestLog};
pub use watch::OpenWatch;

use state::State;
use watch::Watches;

/// How the server is to behave.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// How many changes of each resource are remembered for watches; older ones are told 410.
    pub history: usize,
    /// How often a watch that allows bookmarks gets one.
    pub bookmark_every: Duration,
    /// How long a watch lives whose client names no timeout.
    pub watch_timeout: Duration,
    /// Decides which requests a [`When::Probability`] hits.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            history: 10_000,
            bookmark_every: Duration::from_secs(10),
            watch_timeout: Duration::from_secs(30 * 60),
            seed: 1,
        }
    }
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    faults: Arc<Faults>,
    requests: RequestLog,
    watches: Watches,
    bookmark_every: Duration,
    watch_timeout: Duration,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts servers.
#[derive(Debug)]
pub struct ApiServer;

impl ApiServer {
    /// Binds the address and serves on it until the handle is stopped or dropped. Needs a Tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(config: Config) -> io::Result<Handle> {
        let listener = TcpListener::bind(config.listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(config.history)),
            faults: Arc::new(Faults::new(config.seed)),
            requests: RequestLog::default(),
            watches: Watches::default(),
            bookmark_every: config.bookmark_every,
            watch_timeout: config.watch_timeout,
        });
        let stop = CancellationToken::new();
        let task = tokio::spawn(server::run(Arc::clone(&shared), listener, address, stop.clone()));
        Ok(Handle { address, shared, stop, task: Some(task) })
    }
}

/// A running server. Dropping it stops the server.
#[derive(Debug)]
pub struct Handle {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Handle {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://ADDRESS:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Configuration for a client of this server; set `headers` or timeouts as you like.
    pub fn client_config(&self) -> kube::Config {
        let url = self.url().parse().expect("a socket address makes a valid URL");
        kube::Config::new(url)
    }

    /// A client of this server.
    pub fn client(&self) -> kube::Client {
        kube::Client::try_from(self.client_config()).expect("plain HTTP needs nothing that could be missing")
    }

    /// A kubeconfig for this server.
    pub fn kubeconfig(&self) -> String {
        kubeconfig(self.address)
    }

    /// The faults that are in force.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// What was asked.
    pub fn requests(&self) -> &RequestLog {
        &self.shared.requests
    }

    /// The watches that are open.
    pub fn watches(&self) -> Vec<OpenWatch> {
        self.shared.watches.list()
    }

    /// Ends the open watches of a resource (plural name), or all of them; returns how many.
    pub fn cut_watches(&self, resource: Option<&str>) -> usize {
        self.shared.watches.cut(resource)
    }

    /// Forgets the history of a resource (plural name), or all: open watches and those that resume are told 410.
    pub fn compact(&self, resource: Option<&str>) {
        self.shared.state().store.compact(|(_, plural)| resource.is_none_or(|r| r == plural));
    }

    /// Serves the same paths on a Unix socket, which outages leave alone.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn control(&self, path: &Path) -> io::Result<()> {
        let listener = UnixListener::bind(path)?;
        server::control(Arc::clone(&self.shared), listener, self.stop.clone());
        Ok(())
    }

    /// Stops listening, cuts all connections, and returns when that is done.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // A panic in the accept loop has been printed where it happened.
            let _ = task.await;
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A kubeconfig with one cluster, reached over plain HTTP.
pub fn kubeconfig(server: SocketAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: manx\n  cluster:\n    server: http://{server}\n\
         users:\n- name: manx\n  user: {{}}\ncontexts:\n- name: manx\n  context:\n    cluster: manx\n    user: manx\n\
         current-context: manx\n"
    )
}
