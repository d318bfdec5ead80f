//! A set of small numbers, one bit each.

use super::nets::NetId;

/// A growing set of nets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bits {
    words: Vec<u64>,
    count: u32,
}

impl Bits {
    /// Whether the net is in the set.
    pub(crate) fn contains(&self, net: NetId) -> bool {
        let (word, bit) = position(net);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Adds a net; says whether it was not there before.
    pub(crate) fn insert(&mut self, net: NetId) -> bool {
        let (at, bit) = position(net);
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        let Some(word) = self.words.get_mut(at) else { return false };
        let new = *word & bit == 0;
        *word |= bit;
        self.count += u32::from(new);
        new
    }

    /// Takes a net out; says whether it was there.
    pub(crate) fn remove(&mut self, net: NetId) -> bool {
        let (at, bit) = position(net);
        let Some(word) = self.words.get_mut(at) else { return false };
        let was = *word & bit != 0;
        *word &= !bit;
        self.count -= u32::from(was);
        was
    }

    /// How many nets there are.
    pub(crate) fn len(&self) -> u32 {
        self.count
    }

    /// Adds all of another set.
    pub(crate) fn add_all(&mut self, other: &Self) {
        if other.words.len() > self.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine |= theirs;
        }
        self.count = self.words.iter().map(|word| word.count_ones()).sum();
    }
}

fn position(net: NetId) -> (usize, u64) {
    (net.0 as usize / 64, 1 << (net.0 % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_remembers_exactly_what_was_put_in() {
        let mut bits = Bits::default();
        for number in [0, 63, 64, 1000] {
            assert!(bits.insert(NetId(number)));
            assert!(!bits.insert(NetId(number)));
        }
        assert!(bits.remove(NetId(63)));
        assert!(!bits.remove(NetId(63)));
        assert!(!bits.remove(NetId(5000)));
        let there: Vec<u32> = (0..2000).filter(|number| bits.contains(NetId(*number))).collect();
        assert_eq!(there, [0, 64, 1000]);
        assert_eq!(bits.len(), 3);
    }
}
