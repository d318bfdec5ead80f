//! The Kubernetes API: what is watched, and what is written.
//!
//! Everything here may fail for hours without harm: watches go on with what was seen last, writes are
//! kept, coalesced and tried again. `watch.rs` and `pods.rs` read, `blocks.rs` claims and releases, `claims.rs` knows whose addresses follow whom, `publish.rs` writes
//! status, `own_node.rs` says on the Node that pods may come, `heartbeat.rs` says that we live, `pod_events.rs` tells owners of pods what is wrong.

pub mod blocks;
pub mod claims;
pub(crate) mod follow;
pub mod guests;
pub mod heartbeat;
pub mod own_node;
pub(crate) mod pace;
pub mod pod_events;
pub mod pods;
pub mod publish;
pub mod secrets;
pub mod watch;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hyper::Response;
use hyper::header::{HeaderValue, USER_AGENT};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::BoxError;
use tower::util::MapFutureLayer;

use super::events::chain;
use super::metrics::ApiRequests;

/// The longest that one request may take.
pub(crate) const CALL_TIME: Duration = Duration::from_secs(10);

/// The longest wait for a connection: one that was begun before the address of a Service led anywhere never comes about.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Who we are in the record of who set which field.
pub(crate) const FIELD_MANAGER: &str = "manx-agent";

/// Makes a client that the API server's audit log knows by this program's name and whose requests are counted. The API
/// server need not be there.
///
/// # Errors
/// When the kubeconfig or the service account cannot be read.
pub async fn client(
    program: &str,
    kubeconfig: Option<&Path>,
    requests: ApiRequests,
) -> anyhow::Result<Client> {
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).with_context(|| format!("reading {}", path.display()))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .context("reading the kubeconfig")?
        }
        None => Config::incluster()
            .context("reading the service account (give --kubeconfig outside a cluster)")?,
    };
    let name = HeaderValue::from_str(&format!("{program}/{}", env!("CARGO_PKG_VERSION")));
    config.headers.push((USER_AGENT, name.context("naming this program to the API server")?));
    config.connect_timeout = Some(CONNECT_TIME);
    let reach = Arc::new(Reach { server: config.cluster_url.to_string(), away: AtomicBool::new(false) });
    let builder = ClientBuilder::try_from(config).context("making a client for the API server")?;
    Ok(builder
        .with_layer(&MapFutureLayer::new(move |answer| counted(answer, requests.clone(), Arc::clone(&reach))))
        .build())
}

/// The answer, counted when it begins.
async fn counted<B>(
    answer: impl Future<Output = Result<Response<B>, BoxError>>,
    requests: ApiRequests,
    reach: Arc<Reach>,
) -> Result<Response<B>, BoxError> {
    let begun = Instant::now();
    let answer = answer.await;
    requests.count(answer.as_ref().ok().map(|answer| answer.status().as_u16()), begun.elapsed());
    reach.note(answer.as_ref().err());
    answer
}

/// Says once that the API server is away, and once that it is there again.
struct Reach {
    server: String,
    away: AtomicBool,
}

impl Reach {
    /// Takes note of how a request ended: with an answer, whatever it says, or with an error.
    fn note(&self, error: Option<&BoxError>) {
        if self.away.swap(error.is_some(), Ordering::Relaxed) == error.is_some() {
            return;
        }
        match error {
            Some(error) => tracing::warn!(
                server = self.server,
                error = chain(&**error),
                "the API server cannot be reached: what was seen last holds, and it is tried again and again. Where its \
                 address is that of a Service, kube-proxy may not be there yet"
            ),
            None => tracing::info!(server = self.server, "the API server answers"),
        }
    }
}

/// A request that takes no longer than [`CALL_TIME`].
pub(crate) async fn bounded<T>(request: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
    match tokio::time::timeout(CALL_TIME, request).await {
        Ok(result) => Ok(result?),
        Err(_) => anyhow::bail!("the API server did not answer within {} s", CALL_TIME.as_secs()),
    }
}

/// The HTTP status of an error of the API server, if it is one.
pub(crate) fn status_of(error: &anyhow::Error) -> Option<u16> {
    match error.downcast_ref::<kube::Error>()? {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// A number in 0..1 that differs between nodes and moments, for jitter.
pub(crate) fn jitter(salt: &str) -> f64 {
    use std::hash::{BuildHasher as _, RandomState};
    let hash = RandomState::new().hash_one(salt);
    f64::from(u32::try_from(hash >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}
