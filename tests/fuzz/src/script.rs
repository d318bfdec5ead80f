//! Decisions out of octets. When the octets are used up, every decision is zero: a script always ends.

use std::time::Duration;

/// A cursor over the octets of a test case.
#[derive(Debug)]
pub(crate) struct Script<'a> {
    rest: &'a [u8],
}

impl<'a> Script<'a> {
    pub(crate) fn new(octets: &'a [u8]) -> Self {
        Self { rest: octets }
    }

    /// Whether nothing is left to decide.
    pub(crate) fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn octet(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u8) -> u8 {
        self.octet() % bound
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.octet() & 1 == 1
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.octet(), self.octet()])
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from(self.u16()) << 16 | u32::from(self.u16())
    }

    /// At most `most` octets; how many comes first.
    pub(crate) fn octets(&mut self, most: u16) -> &'a [u8] {
        let len = usize::from(self.u16() % most.saturating_add(1)).min(self.rest.len());
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        taken
    }

    /// From a millisecond to about ten hours, each order of magnitude as likely as the others.
    pub(crate) fn pause(&mut self) -> Duration {
        let octet = u64::from(self.octet());
        Duration::from_millis((1 + octet % 10) << (octet / 10).min(22))
    }
}
