//! Manx on a real Kubernetes: real API server, kubelets, containerds, kube-proxies, and a real BIRD on the router.
//!
//! One cluster comes up with the first scenario that wants it and serves all that leave it as they found it; the others
//! bring up their own. They run one after the other: two clusters at once would starve each other on a small machine.

use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, OnceLock};

use anyhow::{Result, anyhow};
use libtest_mimic::{Arguments, Failed, Trial};
use manx_tests::kubernetes::{self, Cluster, Options};

#[path = "kubernetes/deaths.rs"]
mod deaths;
#[path = "kubernetes/doctor.rs"]
mod doctor;
#[path = "kubernetes/eyes.rs"]
mod eyes;
#[path = "kubernetes/families.rs"]
mod families;
#[path = "kubernetes/flows.rs"]
mod flows;
#[path = "kubernetes/ground.rs"]
mod ground;
#[path = "kubernetes/install.rs"]
mod install;
#[path = "kubernetes/life.rs"]
mod life;
#[path = "kubernetes/nodes.rs"]
mod nodes;
#[path = "kubernetes/places.rs"]
mod places;
#[path = "kubernetes/ports.rs"]
mod ports;
#[path = "kubernetes/rbac.rs"]
mod rbac;
#[path = "kubernetes/screens.rs"]
mod screens;
#[path = "kubernetes/services.rs"]
mod services;
#[path = "kubernetes/start.rs"]
mod start;
#[path = "kubernetes/status.rs"]
mod status;
#[path = "kubernetes/tables.rs"]
mod tables;
#[path = "kubernetes/told.rs"]
mod told;
#[path = "kubernetes/trace.rs"]
mod trace;
#[path = "kubernetes/traffic.rs"]
mod traffic;
#[path = "kubernetes/upgrade.rs"]
mod upgrade;
#[path = "kubernetes/world.rs"]
mod world;

/// Set in the environment to the name of a cluster that is up, it is the shared one: quick while scenarios are written.
const USE: &str = "MANX_CLUSTER";

/// One scenario: says what did not hold.
type Scenario = fn() -> Result<()>;

/// Every module brings its own; `rbac` judges what was asked of all clusters before and goes last.
const SCENARIOS: [&[(&str, Scenario)]; 17] = [
    install::SCENARIOS,
    start::SCENARIOS,
    life::SCENARIOS,
    deaths::SCENARIOS,
    traffic::SCENARIOS,
    services::SCENARIOS,
    ports::SCENARIOS,
    eyes::SCENARIOS,
    screens::SCENARIOS,
    trace::SCENARIOS,
    families::SHARED,
    status::SCENARIOS,
    doctor::SCENARIOS,
    upgrade::SCENARIOS,
    nodes::SCENARIOS,
    families::SCENARIOS,
    rbac::SCENARIOS,
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if !arguments.list
        && let Some(missing) = kubernetes::missing()
    {
        println!("ignored: {missing}");
        return if std::env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let trial = |(name, scenario): (&str, Scenario)| {
        Trial::test(name, move || scenario().map_err(|error| Failed::from(format!("{error:#}"))))
    };
    let trials = SCENARIOS.concat().into_iter().map(trial).collect();
    let code = libtest_mimic::run(&arguments, trials).exit_code();
    drop_shared();
    code
}

/// The shared cluster: dual stack, three nodes, Manx installed, every node peering with the router.
static SHARED: OnceLock<Mutex<Option<Cluster>>> = OnceLock::new();

/// The shared cluster as a scenario holds it.
struct Shared(MutexGuard<'static, Option<Cluster>>);

impl std::ops::Deref for Shared {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.0.as_ref().expect("it is there as long as a scenario holds it")
    }
}

/// The cluster that all scenarios share which leave it as they found it; the first to ask brings it up.
fn shared() -> Result<Shared> {
    let mut cluster =
        SHARED.get_or_init(Mutex::default).lock().map_err(|_| anyhow!("a scenario panicked"))?;
    if let (None, Ok(name)) = (cluster.as_ref(), std::env::var(USE)) {
        *cluster = Some(Cluster::open(&name)?);
    }
    if cluster.is_none() {
        let new = Cluster::up(&options("s"))?;
        new.install_and_wait()?;
        new.peer_with_router()?;
        *cluster = Some(new);
    }
    Ok(Shared(cluster))
}

/// Takes the shared cluster down, for a scenario that needs the machine for its own, and at the end.
fn drop_shared() {
    if let Some(mut cluster) = SHARED.get().and_then(|shared| shared.lock().ok()) {
        *cluster = None;
    }
}

/// Options of a cluster with a name that no other run uses: `letter` tells the clusters of one run apart.
fn options(letter: &str) -> Options {
    Options { name: format!("k{letter}{}", std::process::id() % 100_000), ..Options::default() }
}
