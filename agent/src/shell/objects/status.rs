//! What this node says of itself, in a file: its NodeNetwork with status, as the API server would show it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use manx_api::{NodeNetwork, NodeNetworkStatus};
use manx_ipam::NodeName;

use crate::node::status;
use crate::shell::kube::publish::Sources;
use crate::shell::record::write_whole;

/// How long a change waits for company.
const GATHER: Duration = Duration::from_millis(300);
/// How often the counters are brought up to date though nothing else changed.
const COUNTERS: Duration = Duration::from_secs(10);

/// Keeps the file up to date for as long as the process lives.
pub async fn run(me: NodeName, path: PathBuf, mut sources: Sources) {
    let mut shown = NodeNetworkStatus::default();
    let mut written = String::new();
    let mut failing = false;
    loop {
        if let Some(object) = object(&me, &mut shown, &mut sources) {
            match write(&path, &object, &mut written) {
                Ok(()) => failing = false,
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(error = format!("{error:#}"), path = %path.display(), "the file of the status cannot be written; it is tried again");
                    }
                }
            }
        }
        tokio::select! {
            Ok(()) = sources.intent.changed() => {}
            Ok(()) = sources.node.changed() => {}
            Ok(()) = sources.sessions.changed() => {}
            Ok(()) = sources.kernel.changed() => {}
            Ok(()) = sources.stuck.changed() => {}
            () = tokio::time::sleep(COUNTERS) => {}
        }
        tokio::time::sleep(GATHER).await;
    }
}

fn object(me: &NodeName, shown: &mut NodeNetworkStatus, sources: &mut Sources) -> Option<NodeNetwork> {
    let look = sources.look()?;
    *shown = status::network(shown, &look.facts(), env!("CARGO_PKG_VERSION"), Timestamp::now());
    let network = look.intent.network.clone()?;
    let mut object = NodeNetwork::new(me.as_str(), network.spec);
    object.metadata.labels = (!network.labels.is_empty()).then_some(network.labels);
    object.status = Some(shown.clone());
    Some(object)
}

/// Writes the object if it says anything new.
fn write(path: &Path, object: &NodeNetwork, written: &mut String) -> anyhow::Result<()> {
    let text = serde_saphyr::to_string(object)?;
    if text != *written {
        write_whole(path, text.as_bytes())?;
        *written = text;
    }
    Ok(())
}
