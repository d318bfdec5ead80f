//! The contract of an API server, as far as this project leans on it.
//!
//! Every test of the contract runs against the embedded server, and again against a real kube-apiserver with its etcd:
//! the two agree. Where these are missing the second run is left out and says so; in CI it may not be left out. What
//! only the embedded server can do (faults, the request log, forgetting history at once) is tested under `embedded::`
//! alone.

mod apiserver {
    pub(crate) mod applying;
    pub(crate) mod cluster;
    pub(crate) mod faults;
    pub(crate) mod installing;
    pub(crate) mod kinds;
    pub(crate) mod kubectl;
    pub(crate) mod objects;
    pub(crate) mod real;
    pub(crate) mod validation;
    pub(crate) mod watches;
}

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};

use apiserver::cluster::Cluster;
use apiserver::real::RealServer;

/// A test: its name and what it does with a cluster.
pub(crate) type Test = (&'static str, fn(Cluster) -> LocalBoxFuture<'static, ()>);

/// Lists async functions as tests under their own names.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        /// The tests of this module.
        pub(crate) const TESTS: &[$crate::Test] =
            &[$((stringify!($name), |cluster| Box::pin($name(cluster)))),*];
    };
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::from_args();
    let contract = [
        apiserver::objects::TESTS,
        apiserver::kinds::TESTS,
        apiserver::watches::TESTS,
        apiserver::applying::TESTS,
        apiserver::validation::TESTS,
        kubectl_tests()?,
    ]
    .concat();
    let embedded_only =
        [apiserver::faults::TESTS, apiserver::kinds::embedded::TESTS, apiserver::watches::embedded::TESTS]
            .concat();
    let mut trials: Vec<Trial> =
        contract.iter().chain(&embedded_only).map(|test| trial("embedded", *test, None)).collect();
    let server = match RealServer::start_here()? {
        Ok(server) => Some(Arc::new(server)),
        Err(missing) => {
            anyhow::ensure!(std::env::var_os("CI").is_none(), "{missing}");
            eprintln!("kube-apiserver: skipped, {missing}");
            None
        }
    };
    if let Some(server) = &server {
        trials.extend(contract.iter().map(|test| trial("real", *test, Some(Arc::clone(server)))));
        trials.extend(apiserver::installing::TESTS.iter().map(|test| alone(*test)));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Its processes end with it; `exit` would not wait for that.
    drop(server);
    conclusion.exit();
}

/// The tests with kubectl, if it is there; in CI it has to be.
fn kubectl_tests() -> anyhow::Result<&'static [Test]> {
    if apiserver::kubectl::is_there() {
        return Ok(apiserver::kubectl::TESTS);
    }
    anyhow::ensure!(std::env::var_os("CI").is_none(), "kubectl is missing");
    eprintln!("kubectl: skipped, it is not on the PATH");
    Ok(&[])
}

fn trial(kind: &str, (name, test): Test, server: Option<Arc<RealServer>>) -> Trial {
    Trial::test(format!("{kind}::{name}"), move || {
        run(async move {
            let cluster = match server {
                Some(server) => server.cluster().await?,
                None => Cluster::embedded().await,
            };
            test(cluster).await;
            Ok(())
        })
    })
}

/// A test that needs a real server of its own, with nothing in it.
fn alone((name, test): Test) -> Trial {
    Trial::test(format!("alone::{name}"), move || {
        let server = RealServer::start_here()?.map_err(Failed::from)?;
        run_within(Duration::from_secs(180), async {
            test(server.cluster().await?).await;
            Ok(())
        })
    })
}

/// Runs a test on a runtime of its own; a panic is its failure.
fn run(test: impl Future<Output = anyhow::Result<()>>) -> Result<(), Failed> {
    run_within(Duration::from_secs(60), test)
}

fn run_within(limit: Duration, test: impl Future<Output = anyhow::Result<()>>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::time::timeout(limit, test)
            .await
            .map_err(|_| Failed::from(format!("not done after {} s", limit.as_secs())))?
            .map_err(Failed::from)
    })
}
