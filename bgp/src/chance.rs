//! Chance from a seed: the jitter of timers, the same in every run with the same seed.

use std::time::Duration;

/// SplitMix64, fed with all of the seed.
#[derive(Clone, Debug)]
pub(crate) struct Chance {
    state: u64,
}

impl Chance {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        let mut chance = Self { state: 0 };
        for word in seed.chunks_exact(8) {
            chance.state ^= word.try_into().map_or(0, u64::from_le_bytes);
            chance.state = chance.next();
        }
        chance
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Between three quarters of `duration` and all of it (RFC 4271 §10).
    pub(crate) fn jitter(&mut self, duration: Duration) -> Duration {
        let part = (self.next() >> 56) as u32;
        duration - duration / 1024 * part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_quarter_and_differs() {
        let mut chance = Chance::new([7; 32]);
        let second = Duration::from_secs(1);
        let drawn: Vec<Duration> = (0..100).map(|_| chance.jitter(second)).collect();
        assert!(drawn.iter().all(|drawn| (second * 3 / 4..=second).contains(drawn)));
        assert!(drawn.iter().any(|other| *other != drawn[0]));
    }

    #[test]
    fn equal_seeds_give_equal_numbers_and_each_octet_counts() {
        let first = |seed| Chance::new(seed).next();
        assert_eq!(first([1; 32]), first([1; 32]));
        let mut seed = [1; 32];
        seed[31] = 2;
        assert_ne!(first([1; 32]), first(seed));
    }
}
