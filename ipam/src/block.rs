//! One block of addresses: which of them can be given next.
//!
//! An address is *fresh* (never used since the block came to this node), *rested* (used before, free again),
//! or *out* (an endpoint has it, or it must rest first). The least recently used one is given first: fresh
//! ones in ascending order, then rested ones in the order in which they came back. Reserved addresses are
//! never given, whatever else they are.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;

use crate::name::{BlockId, from_bits, to_bits};
use crate::pool::Pool;

/// The addresses of one block.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    id: BlockId,
    fresh: Bits,
    rested: VecDeque<u32>,
    reserved: Bits,
    /// Addresses that `next` could give, counted.
    free: u32,
    /// Addresses that are out, counted.
    out: u32,
}

impl Block {
    /// A block all of whose addresses are fresh and none reserved.
    pub(crate) fn new(id: BlockId) -> Self {
        let (size, fresh) = (id.size(), Bits::all_set(id.size()));
        Self { id, fresh, rested: VecDeque::new(), reserved: Bits::none_set(size), free: size, out: 0 }
    }

    /// Addresses that can be given now.
    pub(crate) fn free(&self) -> u32 {
        self.free
    }

    /// Addresses that endpoints have or that must rest.
    pub(crate) fn out(&self) -> u32 {
        self.out
    }

    /// Sets which addresses are reserved: those that `pool` reserves, and those that are claimed.
    pub(crate) fn reserve(&mut self, pool: Option<&Pool>, claimed: &BTreeSet<IpAddr>) {
        let mut reserved = Bits::none_set(self.id.size());
        if let Some(pool) = pool.filter(|pool| !pool.reserved.is_empty()) {
            let never = |offset: &u32| pool.is_reserved(self.address(*offset));
            (0..self.id.size()).filter(never).for_each(|offset| reserved.set(offset));
        }
        claimed.iter().filter_map(|address| self.offset(*address)).for_each(|offset| reserved.set(offset));
        self.reserved = reserved;
        let rested = self.rested.iter().filter(|offset| !self.reserved.contains(**offset)).count();
        self.free = self.fresh.count_without(&self.reserved) + u32::try_from(rested).unwrap_or(u32::MAX);
    }

    /// The address to give next.
    pub(crate) fn next(&self) -> Option<IpAddr> {
        let rested = || self.rested.iter().copied().find(|offset| !self.reserved.contains(*offset));
        self.fresh.first_without(&self.reserved).or_else(rested).map(|offset| self.address(offset))
    }

    /// Takes an address out, unless it is out already or not of this block.
    pub(crate) fn take(&mut self, address: IpAddr) {
        let Some(offset) = self.offset(address) else { return };
        if self.fresh.contains(offset) {
            self.fresh.clear(offset);
        } else if let Some(at) = self.rested.iter().position(|rested| *rested == offset) {
            self.rested.remove(at);
        } else {
            return;
        }
        self.out += 1;
        self.free -= u32::from(!self.reserved.contains(offset));
    }

    /// Makes an address that is out available again, behind all others.
    pub(crate) fn put_back(&mut self, address: IpAddr) {
        let Some(offset) = self.offset(address) else { return };
        if self.fresh.contains(offset) || self.rested.contains(&offset) {
            return;
        }
        self.rested.push_back(offset);
        self.out -= 1;
        self.free += u32::from(!self.reserved.contains(offset));
    }

    fn offset(&self, address: IpAddr) -> Option<u32> {
        let inside = self.id.contains(address);
        inside.then(|| u32::try_from(to_bits(address) - to_bits(self.id.first())).ok())?
    }

    fn address(&self, offset: u32) -> IpAddr {
        from_bits(self.id.family(), to_bits(self.id.first()) + u128::from(offset))
    }
}

/// A set of small numbers.
#[derive(Debug, Clone)]
struct Bits(Vec<u64>);

impl Bits {
    fn none_set(size: u32) -> Self {
        Self(vec![0; size.div_ceil(64) as usize])
    }

    fn all_set(size: u32) -> Self {
        let mut bits = Self(vec![u64::MAX; size.div_ceil(64) as usize]);
        if let (Some(last), tail @ 1..) = (bits.0.last_mut(), size % 64) {
            *last = (1 << tail) - 1;
        }
        bits
    }

    fn set(&mut self, offset: u32) {
        self.0[(offset / 64) as usize] |= 1 << (offset % 64);
    }

    fn clear(&mut self, offset: u32) {
        self.0[(offset / 64) as usize] &= !(1 << (offset % 64));
    }

    fn contains(&self, offset: u32) -> bool {
        self.0[(offset / 64) as usize] & 1 << (offset % 64) != 0
    }

    fn first_without(&self, others: &Self) -> Option<u32> {
        let mut words = (0u32..).zip(self.0.iter().zip(&others.0).map(|(word, other)| word & !other));
        words.find(|(_, word)| *word != 0).map(|(at, word)| at * 64 + word.trailing_zeros())
    }

    fn count_without(&self, others: &Self) -> u32 {
        self.0.iter().zip(&others.0).map(|(word, other)| (word & !other).count_ones()).sum()
    }
}

#[cfg(test)]
mod tests;
