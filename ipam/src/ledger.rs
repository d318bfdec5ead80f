//! What entries of the record add up to: who has which address, which were freed in which order, which blocks
//! are owned.
//!
//! The machine keeps its own truth in a [`Ledger`] and changes it only by entries that it also writes, so
//! that what a restart recovers is what was there, by construction.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::endpoint::{Endpoint, EndpointId};
use crate::journal::{Entry, Recovered, entries};
use crate::name::BlockId;

/// What is known of an address that was ever given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Use {
    /// An endpoint has it.
    Live(EndpointId),
    /// A freed endpoint had it, and its link may still exist.
    Leaving(EndpointId),
    /// Nobody has it. The number orders the freed addresses by the time of their last use.
    Freed(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Title {
    Owned,
    Releasing,
}

/// The sum of a record.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    live: BTreeMap<EndpointId, Endpoint>,
    leaving: BTreeMap<EndpointId, Vec<Endpoint>>,
    uses: BTreeMap<IpAddr, Use>,
    freed: BTreeMap<u64, IpAddr>,
    next_freed: u64,
    /// Freed addresses that rest, and since when in milliseconds on the machine's clock, if that is known.
    resting: BTreeMap<IpAddr, Option<u64>>,
    blocks: BTreeMap<BlockId, Title>,
    asides: BTreeMap<IpAddr, String>,
}

impl Ledger {
    /// The ledger that a record left behind.
    pub(crate) fn new(recovered: &Recovered) -> Self {
        let mut ledger = Self::default();
        for entry in entries(recovered) {
            ledger.apply(&entry);
        }
        ledger
    }

    /// Carries out an entry, and returns the addresses that it freed.
    pub(crate) fn apply(&mut self, entry: &Entry) -> Vec<IpAddr> {
        match entry {
            Entry::Assign(endpoint) => return self.assign(endpoint),
            Entry::Free(id) => self.free(id),
            Entry::Gone(gone) => return self.gone(&gone.id(), gone.at),
            Entry::Own(block) => drop(self.blocks.insert(*block, Title::Owned)),
            Entry::Release(block) => drop(self.blocks.insert(*block, Title::Releasing)),
            Entry::Disown(block) => self.disown(block),
            Entry::Aside(address, key) => drop(self.asides.insert(*address, key.clone())),
            Entry::Forgo(address) => drop(self.asides.remove(address)),
            Entry::Leaving(endpoint) => self.leave(endpoint.clone()),
            Entry::Freed(addresses) => addresses.iter().for_each(|address| self.retire(*address, None)),
            Entry::Resting(resting) => {
                let freed = |address: &IpAddr| matches!(self.uses.get(address), Some(Use::Freed(_)));
                self.resting = resting.iter().copied().filter(|(address, _)| freed(address)).collect();
            }
        }
        Vec::new()
    }

    /// The endpoint with this id, if it has addresses.
    pub(crate) fn endpoint(&self, id: &EndpointId) -> Option<&Endpoint> {
        self.live.get(id)
    }

    /// All endpoints that have addresses, by id.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.live.values()
    }

    /// All freed endpoints whose link may still exist.
    pub(crate) fn leaving(&self) -> impl Iterator<Item = &Endpoint> {
        self.leaving.values().flatten()
    }

    /// Whether a link of a freed endpoint of this id may still exist.
    pub(crate) fn is_leaving(&self, id: &EndpointId) -> bool {
        self.leaving.contains_key(id)
    }

    /// What an address is used for.
    pub(crate) fn use_of(&self, address: IpAddr) -> Option<&Use> {
        self.uses.get(&address)
    }

    /// All addresses with what they are used for.
    pub(crate) fn uses(&self) -> impl Iterator<Item = (IpAddr, &Use)> {
        self.uses.iter().map(|(address, usage)| (*address, usage))
    }

    /// Those within a block.
    pub(crate) fn uses_in(&self, block: &BlockId) -> impl Iterator<Item = (IpAddr, &Use)> {
        self.uses.range(block.first()..=block.last()).map(|(address, usage)| (*address, usage))
    }

    /// Addresses that were used and are not any more, least recently used first.
    pub(crate) fn freed(&self) -> impl Iterator<Item = IpAddr> {
        self.freed.values().copied()
    }

    /// The freed addresses that rest, and since when in milliseconds on the machine's clock, if that is known.
    pub(crate) fn resting(&self) -> impl Iterator<Item = (IpAddr, Option<u64>)> {
        self.resting.iter().map(|(address, since)| (*address, *since))
    }

    /// Since when an address rests.
    pub(crate) fn resting_since(&self, address: IpAddr) -> Option<u64> {
        *self.resting.get(&address)?
    }

    /// A freed address rests since `since`, as far as anybody knows. Not an entry: it is said of a ledger just read.
    pub(crate) fn rests_since(&mut self, address: IpAddr, since: u64) {
        if let Some(known) = self.resting.get_mut(&address) {
            *known = Some(since);
        }
    }

    /// A freed address has rested. Not an entry: it follows from the time.
    pub(crate) fn rested(&mut self, address: IpAddr) {
        self.resting.remove(&address);
    }

    /// The claim for which an address is set aside.
    pub(crate) fn aside(&self, address: IpAddr) -> Option<&String> {
        self.asides.get(&address)
    }

    /// All addresses that are set aside, with the keys of their claims.
    pub(crate) fn asides(&self) -> impl Iterator<Item = (&IpAddr, &String)> {
        self.asides.iter()
    }

    /// Those within a block.
    pub(crate) fn asides_in(&self, block: &BlockId) -> impl Iterator<Item = (&IpAddr, &String)> {
        self.asides.range(block.first()..=block.last())
    }

    /// Whether the record says that the block is this node's.
    pub(crate) fn owns(&self, block: &BlockId) -> bool {
        self.blocks.get(block) == Some(&Title::Owned)
    }

    /// Drops a freed address from memory: its block is not this node's, so its history is of no use.
    pub(crate) fn forget(&mut self, address: IpAddr) {
        if let Some(Use::Freed(turn)) = self.uses.get(&address) {
            self.freed.remove(turn);
            self.uses.remove(&address);
            self.resting.remove(&address);
        }
    }

    /// About how many lines a record of just this would have.
    pub(crate) fn lines(&self) -> usize {
        self.live.len() + self.leaving.len() + self.freed.len() / 64 + self.blocks.len() + self.asides.len()
    }

    /// The same as plain data.
    pub(crate) fn to_recovered(&self) -> Recovered {
        let titled = |wanted| {
            self.blocks.iter().filter(move |(_, title)| **title == wanted).map(|(block, _)| *block).collect()
        };
        Recovered {
            endpoints: self.endpoints().cloned().collect(),
            leaving: self.leaving().cloned().collect(),
            freed: self.freed().collect(),
            resting: self
                .resting()
                .map(|(address, since)| (address, since.map(Duration::from_millis)))
                .collect(),
            uptime: Duration::ZERO,
            blocks: titled(Title::Owned),
            releasing: titled(Title::Releasing),
            claimed: self.asides.clone(),
            damaged: 0,
        }
    }

    fn assign(&mut self, endpoint: &Endpoint) -> Vec<IpAddr> {
        let before = self.live.insert(endpoint.id.clone(), endpoint.clone());
        for address in &endpoint.addresses {
            if let Some(Use::Freed(turn)) = self.uses.insert(*address, Use::Live(endpoint.id.clone())) {
                self.freed.remove(&turn);
                self.resting.remove(address);
            }
        }
        let dropped: Vec<IpAddr> = before
            .map_or_else(Vec::new, |before| before.addresses)
            .into_iter()
            .filter(|address| !endpoint.addresses.contains(address))
            .filter(|address| self.uses.get(address) == Some(&Use::Live(endpoint.id.clone())))
            .collect();
        dropped.iter().for_each(|address| self.retire(*address, None));
        dropped
    }

    fn free(&mut self, id: &EndpointId) {
        if let Some(endpoint) = self.live.remove(id) {
            self.leave(endpoint);
        }
    }

    /// An endpoint without its link gone: only addresses that are still its own leave with it.
    fn leave(&mut self, endpoint: Endpoint) {
        for address in &endpoint.addresses {
            match self.uses.get(address) {
                Some(Use::Live(holder)) if *holder != endpoint.id => continue,
                Some(Use::Leaving(_)) => continue,
                Some(Use::Freed(turn)) => {
                    self.freed.remove(turn);
                    self.resting.remove(address);
                }
                Some(Use::Live(_)) | None => {}
            }
            self.uses.insert(*address, Use::Leaving(endpoint.id.clone()));
        }
        self.leaving.entry(endpoint.id.clone()).or_default().push(endpoint);
    }

    fn gone(&mut self, id: &EndpointId, at: Option<u64>) -> Vec<IpAddr> {
        let left = self.leaving.remove(id).unwrap_or_default();
        let freed: Vec<IpAddr> = left
            .into_iter()
            .flat_map(|endpoint| endpoint.addresses)
            .filter(|address| matches!(self.uses.get(address), Some(Use::Leaving(holder)) if holder == id))
            .collect();
        freed.iter().for_each(|address| self.retire(*address, at));
        freed
    }

    /// Puts an address behind all others that are free, to rest.
    fn retire(&mut self, address: IpAddr, at: Option<u64>) {
        if let Some(Use::Freed(turn)) = self.uses.insert(address, Use::Freed(self.next_freed)) {
            self.freed.remove(&turn);
        }
        self.freed.insert(self.next_freed, address);
        self.next_freed += 1;
        self.resting.insert(address, at);
    }

    /// The history of a block's addresses is of no use without the block, unless some of them are still out.
    fn disown(&mut self, block: &BlockId) {
        self.blocks.remove(block);
        self.asides.retain(|address, _| !block.contains(*address));
        let uses: Vec<(IpAddr, bool)> =
            self.uses_in(block).map(|(address, usage)| (address, matches!(usage, Use::Freed(_)))).collect();
        if uses.iter().all(|(_, freed)| *freed) {
            uses.into_iter().for_each(|(address, _)| self.forget(address));
        }
    }
}
