//! The Lease by which this agent says that it lives, so that nobody takes its blocks away.
//!
//! Slow as a rule, since only the controller reads it. Once our Node object is gone the controller
//! counts the time until it returns our blocks: then the agent says often that its pods are still there.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use manx_ipam::NodeName;
use tokio::sync::watch;

use super::{FIELD_MANAGER, bounded, jitter};
use crate::node::cluster::Cluster;

/// The pause between two signs of life while the Node object is there.
const PAUSE: Duration = Duration::from_secs(60);
/// The pause while it is not.
const PAUSE_WITHOUT_NODE: Duration = Duration::from_millis(700);

/// The name of a node's Lease.
pub fn lease_name(node: &NodeName) -> String {
    format!("manx-agent-{node}")
}

/// Renews the Lease for as long as the process lives.
pub async fn run(api: Api<Lease>, me: NodeName, mut cluster: watch::Receiver<Arc<Cluster>>) {
    let mut failing = false;
    loop {
        let (name, patch) = (lease_name(&me), Patch::Apply(lease(&me)));
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match bounded(api.patch(&name, &params, &patch)).await {
            Ok(_) => failing = false,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "the Lease of this agent cannot be written: if its Node is gone, its blocks will be given to others"
                    );
                }
            }
        }
        let has_node = cluster.borrow_and_update().node.is_some();
        let pause =
            if has_node { PAUSE.mul_f64(0.8 + jitter(me.as_str()) * 0.4) } else { PAUSE_WITHOUT_NODE };
        // Waiting ends early when the Node goes or comes.
        let turned = cluster.wait_for(|cluster| cluster.node.is_some() != has_node);
        let _elapsed = tokio::time::timeout(pause, turned).await;
    }
}

fn lease(me: &NodeName) -> Lease {
    Lease {
        metadata: ObjectMeta { name: Some(lease_name(me)), ..ObjectMeta::default() },
        spec: Some(LeaseSpec {
            holder_identity: Some(me.to_string()),
            lease_duration_seconds: Some(180),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    }
}
