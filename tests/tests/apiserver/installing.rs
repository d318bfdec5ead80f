//! What is under `deploy`, applied by the real kubectl to a real API server of its own that has nothing yet.

use std::path::Path;
use std::time::{Duration, Instant};

use manx_api::IPPool;
use tokio::process::Command;

use super::cluster::Cluster;
use super::kubectl::Kubectl;

crate::tests![
    one_apply_is_all_of_an_installation_and_may_be_repeated,
    the_first_pool_is_there_though_the_controller_started_before_its_kind,
];

const OVERLAYS: [&str; 5] = ["dual-stack", "full-mesh", "ipv6", "single-node", "tor"];

fn deploy(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path).display().to_string()
}

async fn one_apply_is_all_of_an_installation_and_may_be_repeated(cluster: Cluster) {
    let kubectl = Kubectl::of_the_tests(&cluster);
    let whole = deploy("manx.yaml");
    let first = kubectl.ok_without_warning(&["apply", "-f", &whole]).await;
    assert!(first.lines().all(|line| line.ends_with(" created")), "{first}");
    let second = kubectl.ok_without_warning(&["apply", "-f", &whole]).await;
    assert!(!second.contains(" created"), "{second}");
    // kubectl sends the selector of a disruption budget each time.
    let mut changed = second.lines().filter(|line| line.ends_with(" configured"));
    assert!(changed.all(|line| line.starts_with("poddisruptionbudget")), "{second}");
    // No conflict with what was applied in the other way.
    kubectl.ok_without_warning(&["apply", "--server-side", "-f", &whole]).await;
    kubectl.ok_without_warning(&["apply", "--server-side", "-f", &whole]).await;
    for overlay in OVERLAYS {
        let folder = deploy(&format!("overlays/{overlay}"));
        kubectl.ok_without_warning(&["apply", "--server-side", "--dry-run=server", "-k", &folder]).await;
        for file in ["configuration.yaml", "peers.yaml", "pools.yaml"].map(|file| format!("{folder}/{file}"))
        {
            if Path::new(&file).exists() {
                kubectl.ok_without_warning(&["create", "--dry-run=server", "-f", &file]).await;
            }
        }
    }
    kubectl.ok_without_warning(&["apply", "--dry-run=server", "-f", &deploy("uninstall.yaml")]).await;
}

async fn the_first_pool_is_there_though_the_controller_started_before_its_kind(cluster: Cluster) {
    let kubectl = Kubectl::of_the_tests(&cluster);
    let exe = std::env::current_exe().expect("a test is a program");
    let program = exe.ancestors().nth(2).expect("target/debug").join("manx-controller");
    assert!(program.exists(), "{} is not built: cargo build -p manx-agent", program.display());
    let defaults = kubectl.folder().join("defaults");
    std::fs::create_dir(&defaults).expect("a folder");
    std::fs::copy(deploy("overlays/full-mesh/pools.yaml"), defaults.join("pools.yaml")).expect("copied");
    kubectl.ok_without_warning(&["create", "namespace", "manx-system"]).await;
    let mut controller = Command::new(program);
    controller.arg("--kubeconfig").arg(kubectl.kubeconfig()).arg("--defaults").arg(&defaults);
    let log = std::fs::File::create(kubectl.folder().join("log")).expect("a file");
    let _running = controller.stderr(log).kill_on_drop(true).spawn().expect("it can be run");
    let leases = kube::Api::<k8s_openapi::api::coordination::v1::Lease>::namespaced(
        cluster.client.clone(),
        "manx-system",
    );
    until(async || leases.get_opt("manx-controller").await.is_ok_and(|lease| lease.is_some())).await;
    for definition in
        ["ippools", "ipblocks", "ipclaims", "nodenetworks", "bgpconfigurations", "bgppeers", "bgpfilters"]
    {
        kubectl.ok_without_warning(&["apply", "-f", &deploy(&format!("crds/{definition}.yaml"))]).await;
    }
    let pools: kube::Api<IPPool> = kube::Api::all(cluster.client.clone());
    until(async || pools.get_opt("pods-v4").await.is_ok_and(|pool| pool.is_some())).await;
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(45);
    while !holds().await {
        assert!(Instant::now() < end, "not in time");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
