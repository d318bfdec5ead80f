//! One file applied to a new cluster, and what follows from it.

use anyhow::Result;

use super::{Scenario, shared};

/// The scenarios of this module.
pub(crate) const SCENARIOS: &[(&str, Scenario)] =
    &[("kubectl_apply_of_one_file_makes_every_node_ready_and_pods_talk_across_them", one_file)];

fn one_file() -> Result<()> {
    let cluster = shared()?;
    cluster.wait_ready()
}
