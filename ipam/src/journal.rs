//! The record that survives a restart of the agent: its bytes, written and read.
//!
//! A first line names the format and its version. Each further line is eight hexadecimal digits of SHA-1 over
//! the rest, a space, and one entry as JSON. Lines are only appended, or the whole is replaced. So every
//! prefix of a record is a record of an earlier moment: a torn last line is as if it had not been written,
//! and a damaged one elsewhere is counted and left out. What the entries mean is in
//! [`ledger`](crate::ledger).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use crate::endpoint::{Endpoint, EndpointId};
use crate::ledger::Ledger;
use crate::name::BlockId;

/// First line: format and version.
const HEADER: &str = "manx-ipam-record 1";

/// Addresses per line of a list.
const LIST: usize = 64;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Entry {
    /// The endpoint has these addresses.
    Assign(Endpoint),
    /// The endpoint is over; its link may still exist.
    Free(EndpointId),
    /// The link of a freed endpoint is gone.
    Gone(Gone),
    /// The block is this node's.
    Own(BlockId),
    /// The block is about to be released: it must not be used again without a new claim.
    Release(BlockId),
    /// The block is not this node's.
    Disown(BlockId),
    /// The address is given to nobody but the claim of this key.
    Aside(IpAddr, String),
    /// The address is for anybody again.
    Forgo(IpAddr),
    /// In a rewritten record: an endpoint that was freed and whose link may still exist.
    Leaving(Endpoint),
    /// In a rewritten record: addresses that were used and are not any more, least recently used first.
    Freed(Vec<IpAddr>),
    /// In a rewritten record: of the addresses freed so far these still rest, and since when, in milliseconds on the
    /// machine's clock; `None`: unknown.
    Resting(Vec<(IpAddr, Option<u64>)>),
}

/// An endpoint whose link is gone. The fields of the id are its own: older records have no more than these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gone {
    pub(crate) container: String,
    pub(crate) ifname: String,
    /// When, in milliseconds on the machine's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<u64>,
}

impl Gone {
    pub(crate) fn new(id: EndpointId, at: Option<u64>) -> Self {
        Self { container: id.container, ifname: id.ifname, at }
    }

    pub(crate) fn id(&self) -> EndpointId {
        EndpointId { container: self.container.clone(), ifname: self.ifname.clone() }
    }
}

/// What a record says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Endpoints with their addresses, sorted by id.
    pub endpoints: Vec<Endpoint>,
    /// Endpoints that were freed and whose link may still exist: remove it and say
    /// [`Input::LinkGone`](crate::Input::LinkGone).
    pub leaving: Vec<Endpoint>,
    /// Addresses that were used and are not any more, least recently used first.
    pub freed: Vec<IpAddr>,
    /// Those of them that still rested, and since when on the clock of [`Self::uptime`]; `None`: unknown, so that
    /// they rest anew.
    pub resting: BTreeMap<IpAddr, Option<Duration>>,
    /// What the machine's monotonic clock shows now, as time since its boot: to be set by who read the record, so that
    /// a cooldown goes on over a restart of the agent whatever becomes of the time of day. The record says nothing of
    /// it, and a time ahead of it is of an earlier boot: unknown.
    pub uptime: Duration,
    /// Blocks of this node.
    pub blocks: BTreeSet<BlockId>,
    /// Blocks that were being released.
    pub releasing: BTreeSet<BlockId>,
    /// Addresses of those that are given to one claim only, with its key.
    pub claimed: BTreeMap<IpAddr, String>,
    /// Lines that could not be read, a torn last one not counted.
    pub damaged: usize,
}

/// Reads a record. Any prefix of a record is one too, the empty one included.
///
/// ```
/// assert_eq!(manx_ipam::recover(b""), manx_ipam::Recovered::default());
/// ```
pub fn recover(record: &[u8]) -> Recovered {
    let mut lines: Vec<&[u8]> = record.split(|octet| *octet == b'\n').collect();
    lines.pop(); // what follows the last line feed: nothing, or a torn line
    let mut ledger = Ledger::default();
    let mut damaged = 0;
    let known_format = lines.first().is_none_or(|line| *line == HEADER.as_bytes());
    for line in lines.into_iter().skip(1) {
        match decode(line).filter(|_| known_format) {
            Some(entry) => drop(ledger.apply(&entry)),
            None => damaged += 1,
        }
    }
    Recovered { damaged: damaged + usize::from(!known_format), ..ledger.to_recovered() }
}

/// The line of an entry.
pub(crate) fn encode(entry: &Entry) -> Vec<u8> {
    let json = serde_json::to_string(entry).expect("entries have string keys and no failing serializers");
    format!("{} {json}\n", checksum(json.as_bytes())).into_bytes()
}

/// A whole record that says what the ledger says.
pub(crate) fn encode_all(ledger: &Ledger) -> Vec<u8> {
    let mut record = format!("{HEADER}\n").into_bytes();
    for entry in entries(&ledger.to_recovered()) {
        record.extend(encode(&entry));
    }
    record
}

/// Entries that lead from nothing to what a record said.
pub(crate) fn entries(recovered: &Recovered) -> Vec<Entry> {
    let blocks = recovered.blocks.iter().map(|block| Entry::Own(*block));
    let releasing = recovered.releasing.iter().map(|block| Entry::Release(*block));
    let freed = recovered.freed.chunks(LIST).map(|list| Entry::Freed(list.to_vec()));
    let times = recovered.resting.iter();
    let times = times.map(|(address, since)| (*address, since.map(millis)));
    // Without any freed address there is nothing to be said of them.
    let resting = (!recovered.freed.is_empty()).then(|| Entry::Resting(times.collect()));
    let leaving = recovered.leaving.iter().cloned().map(Entry::Leaving);
    let live = recovered.endpoints.iter().cloned().map(Entry::Assign);
    let asides = recovered.claimed.iter().map(|(address, key)| Entry::Aside(*address, key.clone()));
    blocks.chain(releasing).chain(asides).chain(freed).chain(resting).chain(leaving).chain(live).collect()
}

/// A time on the machine's clock as it is recorded.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The entry on a line, if the line is whole.
fn decode(line: &[u8]) -> Option<Entry> {
    let (sum, json) = line.split_at_checked(8)?;
    let json = json.strip_prefix(b" ")?;
    (sum == checksum(json).as_bytes()).then(|| serde_json::from_slice(json).ok())?
}

fn checksum(json: &[u8]) -> String {
    Sha1::digest(json).iter().take(4).map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests;
