//! One file applied to a new cluster, and what follows from it.

use anyhow::{Result, ensure};
use manx_tests::kubernetes::show;

use super::{Scenario, shared};

/// The scenarios of this module.
pub(crate) const SCENARIOS: &[(&str, Scenario)] =
    &[("kubectl_apply_of_one_file_makes_every_node_ready_and_pods_talk_across_them", one_file)];

/// Routers between two pods on different nodes: the one node, the router, the other node.
const HOPS_ACROSS: u8 = 3;

fn one_file() -> Result<()> {
    let cluster = shared()?;
    cluster.wait_ready()?;
    show::start_pods(&cluster)?;
    let pods: Vec<_> =
        cluster.running_pods()?.into_iter().filter(|pod| pod.name.starts_with("default/show-")).collect();
    let families = cluster.families().list().len();
    ensure!(pods.iter().all(|pod| pod.addresses.len() == families), "not every family: {pods:?}");
    println!("{}", show::until_reached(&cluster, &pods)?);
    for from in &pods {
        for to in pods.iter().filter(|to| to.node != from.node) {
            for address in &to.addresses {
                let hops = show::ping_from(&cluster, from, *address)?;
                ensure!(hops == Some(HOPS_ACROSS), "{} to {address}: {hops:?} routers between", from.name);
            }
        }
    }
    for (component, bytes) in show::memory(&cluster)? {
        println!("{component}: {} MiB", bytes >> 20);
    }
    cluster.kubectl(&["delete", "daemonset", "show", "--wait", "--cascade=foreground"]).map(drop)
}
