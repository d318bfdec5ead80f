//! The contract of an API server, as far as this project leans on it.
//!
//! Every test of the contract runs against the embedded server, and again against a real kube-apiserver when
//! `KUBE_APISERVER` and `ETCD` name the binaries. Without them the second run is left out and says so; that is by
//! design, in CI too, because the binaries are optional. What only the embedded server can do (faults, the request
//! log, forgetting history at once) is tested under `embedded::` alone.

mod apiserver {
    pub(crate) mod applying;
    pub(crate) mod cluster;
    pub(crate) mod objects;
    pub(crate) mod watches;
}

use std::sync::Arc;

use futures_util::future::BoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};

use apiserver::cluster::{Cluster, RealServer};

/// A test: its name and what it does with a cluster.
pub(crate) type Test = (&'static str, fn(Cluster) -> BoxFuture<'static, ()>);

/// Lists async functions as tests under their own names.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        /// The tests of this file.
        pub(crate) const TESTS: &[$crate::Test] =
            &[$((stringify!($name), |cluster| Box::pin($name(cluster)))),*];
    };
}

fn main() {
    let arguments = Arguments::from_args();
    let contract =
        [apiserver::objects::TESTS, apiserver::watches::TESTS, apiserver::applying::TESTS].concat();
    let embedded = |(name, test): Test| {
        Trial::test(format!("embedded::{name}"), move || {
            run(async move { test(Cluster::embedded().await).await })
        })
    };
    let mut trials: Vec<Trial> = contract.iter().copied().map(embedded).collect();
    match RealServer::from_environment() {
        None => eprintln!(
            "kube-apiserver: skipped, KUBE_APISERVER and ETCD do not name binaries (they are optional)"
        ),
        Some(server) => {
            let server = Arc::new(server);
            trials.extend(contract.iter().copied().map(|(name, test)| {
                let server = Arc::clone(&server);
                Trial::test(format!("real::{name}"), move || {
                    run(async move { test(server.cluster().await).await })
                })
            }));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// Runs a test on a runtime of its own; a panic is its failure.
fn run(test: impl Future<Output = ()>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let limit = std::time::Duration::from_secs(60);
        tokio::time::timeout(limit, test).await.map_err(|_| Failed::from("not done after a minute"))
    })
}
