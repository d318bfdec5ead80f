//! Whole nodes, and what befalls them.

use manx_sim::{Choices, Plan, run};

/// Octets are the cluster and its acts, as `manx_sim` decodes them; what they do not say is the same in every run.
pub fn node(octets: &[u8]) {
    let outcome = run(&Plan::decode(&mut Choices::octets(octets)), false);
    if let Some(violation) = outcome.violation {
        panic!("{violation}\n{}", outcome.log.join("\n"));
    }
}
