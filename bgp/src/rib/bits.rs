//! A set of nets: a short list while it is small, one bit each when it grows.

use super::nets::NetId;

/// How many nets are listed before bits are used: most peers are told a handful of routes among thousands.
const LISTED: usize = 64;

/// A growing set of nets.
#[derive(Clone, Debug)]
pub(crate) enum Bits {
    /// Ascending.
    Listed(Vec<NetId>),
    /// A bit for each.
    Dense { words: Vec<u64>, count: u32 },
}

impl Default for Bits {
    fn default() -> Self {
        Self::Listed(Vec::new())
    }
}

impl Bits {
    /// Whether the net is in the set.
    pub(crate) fn contains(&self, net: NetId) -> bool {
        match self {
            Self::Listed(nets) => nets.binary_search(&net).is_ok(),
            Self::Dense { words, .. } => {
                let (word, bit) = position(net);
                words.get(word).is_some_and(|word| word & bit != 0)
            }
        }
    }

    /// Adds a net; says whether it was not there before.
    pub(crate) fn insert(&mut self, net: NetId) -> bool {
        match self {
            Self::Listed(nets) => {
                let Err(place) = nets.binary_search(&net) else { return false };
                nets.insert(place, net);
                if nets.len() > LISTED {
                    self.spread();
                }
                true
            }
            Self::Dense { words, count } => {
                let (at, bit) = position(net);
                if at >= words.len() {
                    words.resize(at + 1, 0);
                }
                let Some(word) = words.get_mut(at) else { return false };
                let new = *word & bit == 0;
                *word |= bit;
                *count += u32::from(new);
                new
            }
        }
    }

    fn spread(&mut self) {
        let nets = match self {
            Self::Listed(nets) => std::mem::take(nets),
            Self::Dense { .. } => return,
        };
        *self = Self::Dense { words: Vec::new(), count: 0 };
        nets.into_iter().for_each(|net| _ = self.insert(net));
    }

    /// Takes a net out; says whether it was there.
    pub(crate) fn remove(&mut self, net: NetId) -> bool {
        match self {
            Self::Listed(nets) => {
                let found = nets.binary_search(&net);
                found.is_ok_and(|place| nets.remove(place) == net)
            }
            Self::Dense { words, count } => {
                let (at, bit) = position(net);
                let Some(word) = words.get_mut(at) else { return false };
                let was = *word & bit != 0;
                *word &= !bit;
                *count -= u32::from(was);
                was
            }
        }
    }

    /// How many nets there are.
    pub(crate) fn len(&self) -> u32 {
        match self {
            Self::Listed(nets) => nets.len() as u32,
            Self::Dense { count, .. } => *count,
        }
    }

    /// Adds all of another set.
    pub(crate) fn add_all(&mut self, other: &Self) {
        match other {
            Self::Listed(nets) => nets.iter().for_each(|net| _ = self.insert(*net)),
            Self::Dense { words: theirs, .. } => {
                self.spread();
                let Self::Dense { words, count } = self else { return };
                words.resize(words.len().max(theirs.len()), 0);
                words.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine |= theirs);
                *count = words.iter().map(|word| word.count_ones()).sum();
            }
        }
    }
}

fn position(net: NetId) -> (usize, u64) {
    (net.0 as usize / 64, 1 << (net.0 % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_is_a_set_listed_or_dense(changes in prop::collection::vec((any::<bool>(), 0..300_u32), 0..400)) {
            let (mut bits, mut model) = (Bits::default(), BTreeSet::new());
            for (add, number) in changes {
                let net = NetId(number);
                if add {
                    prop_assert_eq!(bits.insert(net), model.insert(number));
                } else {
                    prop_assert_eq!(bits.remove(net), model.remove(&number));
                }
                prop_assert_eq!(bits.len() as usize, model.len());
            }
            let mut sum = Bits::default();
            sum.insert(NetId(1000));
            sum.add_all(&bits);
            for number in 0..300 {
                prop_assert_eq!(bits.contains(NetId(number)), model.contains(&number));
                prop_assert_eq!(sum.contains(NetId(number)), model.contains(&number));
            }
            prop_assert_eq!(sum.len() as usize, model.len() + 1);
        }
    }
}
