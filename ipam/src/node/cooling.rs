//! Freed addresses that rest, each until its own time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use crate::name::BlockId;

/// When an address has rested; of two at the same time the one that was freed first comes first.
type End = (Instant, u64);

/// The addresses in their cooldown, by address and by its end.
#[derive(Debug, Default)]
pub(super) struct Cooling {
    ends: BTreeMap<IpAddr, End>,
    order: BTreeSet<(End, IpAddr)>,
}

impl Cooling {
    /// An address rests until `end`, whatever was said of it before. `turn` is its place in the order of freeing.
    pub(super) fn insert(&mut self, address: IpAddr, end: Instant, turn: u64) {
        let end = (end, turn);
        if let Some(before) = self.ends.insert(address, end) {
            self.order.remove(&(before, address));
        }
        self.order.insert((end, address));
    }

    /// An address rests no more.
    pub(super) fn remove(&mut self, address: IpAddr) {
        if let Some(end) = self.ends.remove(&address) {
            self.order.remove(&(end, address));
        }
    }

    /// None of a block's addresses rests any more.
    pub(super) fn remove_block(&mut self, block: &BlockId) {
        let within: Vec<IpAddr> = self.within(block).map(|(address, _)| address).collect();
        within.into_iter().for_each(|address| self.remove(address));
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.ends.contains_key(&address)
    }

    /// The addresses, in order.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ends.keys().copied()
    }

    /// Those of a block, with their ends.
    pub(super) fn within(&self, block: &BlockId) -> impl Iterator<Item = (IpAddr, Instant)> {
        self.ends.range(block.first()..=block.last()).map(|(address, (end, _))| (*address, *end))
    }

    /// When the first one has rested.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.order.first().map(|((end, _), _)| *end)
    }

    /// Takes an address that has rested by `now`.
    pub(super) fn take_rested(&mut self, now: Instant) -> Option<IpAddr> {
        let (_, address) = *self.order.first().filter(|((end, _), _)| *end <= now)?;
        self.remove(address);
        Some(address)
    }
}
