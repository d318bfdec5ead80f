//! The agent's record, as it lies on the disk.

use std::path::Path;

use manx_facts::record::{Claimed, Endpoint, Record};
use manx_ipam::Recovered;

use crate::shell::record::{RECORD_LIMIT, read_bounded};

/// Reads it. An agent that writes meanwhile does no harm: any prefix of a record is one.
pub(super) fn look(run_dir: &Path) -> Record {
    let path = run_dir.join("endpoints");
    match read_bounded(&path, RECORD_LIMIT) {
        Ok(Some(bytes)) => told(manx_ipam::recover(&bytes)),
        Ok(None) => Record { missing: true, ..Record::default() },
        Err(error) => {
            Record { unread: Some(format!("cannot read {}: {error}", path.display())), ..Record::default() }
        }
    }
}

fn told(recovered: Recovered) -> Record {
    let block = |block: &manx_ipam::BlockId| block.cidr();
    Record {
        unread: None,
        missing: false,
        damaged: u64::try_from(recovered.damaged).unwrap_or(u64::MAX),
        blocks: recovered.blocks.iter().map(block).collect(),
        releasing: recovered.releasing.iter().map(block).collect(),
        endpoints: recovered.endpoints.into_iter().map(endpoint).collect(),
        leaving: recovered.leaving.into_iter().map(endpoint).collect(),
        resting: recovered
            .freed
            .into_iter()
            .filter(|address| recovered.resting.contains_key(address))
            .collect(),
        claimed: recovered.claimed.into_iter().map(|(address, claim)| Claimed { address, claim }).collect(),
    }
}

fn endpoint(found: manx_ipam::Endpoint) -> Endpoint {
    let pod = found.pod.unwrap_or_default();
    Endpoint {
        container: found.id.container,
        ifname: found.id.ifname,
        namespace: pod.namespace,
        pod: pod.name,
        uid: pod.uid,
        link: found.link,
        addresses: found.addresses,
        netns: found.netns,
        claim: found.claim,
        since: found.since,
    }
}
