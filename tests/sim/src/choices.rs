//! Decisions: out of a seed, or out of octets that a fuzzer makes.

use std::time::Duration;

/// A source of decisions.
#[derive(Debug, Clone)]
pub struct Choices<'a> {
    source: Source<'a>,
}

#[derive(Debug, Clone)]
enum Source<'a> {
    Seed(u64),
    Octets(&'a [u8]),
}

impl<'a> Choices<'a> {
    /// Decisions without end, the same ones for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self { source: Source::Seed(seed) }
    }

    /// Decisions out of octets, one for each; once they are used up every decision is zero.
    pub fn octets(octets: &'a [u8]) -> Self {
        Self { source: Source::Octets(octets) }
    }

    /// Whether nothing is left to decide with.
    pub fn is_over(&self) -> bool {
        matches!(self.source, Source::Octets([]))
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        match &mut self.source {
            Source::Seed(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                mixed ^ (mixed >> 31)
            }
            Source::Octets(octets) => {
                let Some((first, rest)) = octets.split_first() else { return 0 };
                *octets = rest;
                u64::from(*first)
            }
        }
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.number() % bound as u64).unwrap_or(0)
    }

    /// True as often as that of a thousand times.
    pub fn chance(&mut self, per_mille: usize) -> bool {
        per_mille > 0 && self.below(1000) < per_mille
    }

    /// A time from `from` to `to`, in 256 steps.
    pub fn between(&mut self, from: Duration, to: Duration) -> Duration {
        let step = u32::try_from(self.below(256)).unwrap_or(0);
        from + to.saturating_sub(from) * step / 255
    }
}
