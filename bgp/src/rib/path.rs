//! Paths: what one peer says about one prefix, and the attribute sets that many of them share.

use std::sync::Arc;

use super::slots::{SeededHasher, Slots};
use crate::policy::RuleIndex;
use crate::wire::{Attributes, PathId};

/// The place of a peer in the speaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PeerIndex(pub(crate) u32);

impl PeerIndex {
    /// Ourselves: the source of origins.
    pub(crate) const LOCAL: Self = Self(u32::MAX);
}

/// An attribute set that exists once.
#[derive(Debug)]
pub(crate) struct Interned {
    /// Ascending in the order of first appearance, for orders that do not depend on addresses in memory.
    pub(crate) serial: u64,
    /// The set.
    pub(crate) attributes: Attributes,
    /// The set as it was received, if import made this one of it. Sets of different descent are different sets, so that
    /// a path needs to remember only one.
    received: Option<Shared>,
}

impl Interned {
    fn descends_from(&self, received: Option<&Shared>) -> bool {
        match (&self.received, received) {
            (Some(mine), Some(other)) => Arc::ptr_eq(mine, other),
            (None, None) => true,
            _ => false,
        }
    }
}

/// A shared attribute set: equal sets are the same allocation.
pub(crate) type Shared = Arc<Interned>;

/// All attribute sets in use.
#[derive(Debug)]
pub(crate) struct Interner {
    entries: Vec<(u64, Shared)>,
    slots: Slots,
    key: u64,
    next_serial: u64,
    sweep_at: usize,
}

const FIRST_SWEEP: usize = 1024;

impl Interner {
    pub(crate) fn new(key: u64) -> Self {
        Self { entries: Vec::new(), slots: Slots::default(), key, next_serial: 0, sweep_at: FIRST_SWEEP }
    }

    /// The one copy of a set as received.
    pub(crate) fn intern(&mut self, attributes: Attributes) -> Shared {
        self.intern_from(attributes, None)
    }

    /// The one copy of what import made of a set.
    pub(crate) fn intern_from(&mut self, attributes: Attributes, received: Option<&Shared>) -> Shared {
        let received = received.map(Arc::clone);
        let hash = SeededHasher::hash(self.key, &attributes);
        let same = |place: u32| {
            self.entries.get(place as usize).is_some_and(|(known, set)| {
                *known == hash && set.descends_from(received.as_ref()) && set.attributes == attributes
            })
        };
        if let Some((_, known)) =
            self.slots.find(hash, same).and_then(|place| self.entries.get(place as usize))
        {
            return Arc::clone(known);
        }
        self.next_serial += 1;
        let shared = Arc::new(Interned { serial: self.next_serial, attributes, received });
        if self.entries.len() >= self.sweep_at {
            self.sweep();
        }
        let place = self.entries.len() as u32;
        self.entries.push((hash, Arc::clone(&shared)));
        let entries = &self.entries;
        self.slots.insert(hash, place, |place| entries.get(place as usize).map_or(0, |(hash, _)| *hash));
        shared
    }

    /// Forgets sets that nobody else holds. Runs when the number of sets has doubled, so it costs little per set.
    fn sweep(&mut self) {
        self.entries.retain(|(_, set)| Arc::strong_count(set) > 1);
        let entries = &self.entries;
        let hash_of = |place: u32| entries.get(place as usize).map_or(0, |(hash, _)| *hash);
        self.slots.rebuild(entries.len() * 2, 0..entries.len() as u32, hash_of);
        self.sweep_at = (entries.len() * 2).max(FIRST_SWEEP);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// What became of a path on its way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Import {
    /// It takes part in the decision.
    Accepted,
    /// It takes part in the decision, and traffic by it is discarded (RFC 7999 §3.3).
    Discarded,
    /// Policy refused it.
    Rejected,
    /// Our own AS is in AS_PATH (RFC 4271 §9.1.2).
    AsLoop,
    /// We are its originator, or it passed our cluster (RFC 4456 §8).
    ReflectionLoop,
    /// Its next hop is ourselves (RFC 4271 §5.1.3).
    OwnNextHop,
    /// Only customers may have it, and they do not send it on to us (RFC 9234 §5).
    Leak,
    /// It asks for traffic to be discarded, and no rule says that the peer may (RFC 7999 §3.3).
    Blackhole,
    /// Its next hop is link-local and the session is not (RFC 2545 §3).
    NextHopOffLink,
}

/// What one peer, or we, say about one prefix.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    /// Its attributes after import policy, which remember what was received.
    pub(crate) set: Shared,
    /// Who says it.
    pub(crate) peer: PeerIndex,
    /// Which of the peer's paths to the prefix it is (RFC 7911).
    pub(crate) id: PathId,
    /// The rule of import policy that decided.
    pub(crate) rule: RuleIndex,
    /// What import made of it.
    pub(crate) import: Import,
    /// Kept from an earlier session, not yet confirmed (RFC 4724 §4.2).
    pub(crate) stale: bool,
    /// Stale for so long that it is marked and least preferred (RFC 9494 §4.2).
    pub(crate) long_lived: bool,
}

impl Path {
    /// As received, so that policy can be applied again.
    pub(crate) fn received(&self) -> &Shared {
        self.set.received.as_ref().unwrap_or(&self.set)
    }

    /// What tells it apart from the other paths of its prefix.
    pub(crate) fn key(&self) -> (PeerIndex, PathId) {
        (self.peer, self.id)
    }

    /// What the decision sees; `None` if the path takes no part in it.
    pub(crate) fn used(&self) -> Option<&Shared> {
        matches!(self.import, Import::Accepted | Import::Discarded).then_some(&self.set)
    }

    /// Whether traffic by it leads nowhere.
    pub(crate) fn discards(&self) -> bool {
        self.import == Import::Discarded
    }

    /// Whether both say the same, whatever their age.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        self.key() == other.key()
            && self.import == other.import
            && self.rule == other.rule
            && Arc::ptr_eq(&self.set, &other.set)
    }
}

/// The paths of one prefix: nearly always one, so one needs no allocation.
#[derive(Clone, Debug, Default)]
pub(crate) enum Paths {
    /// No path.
    #[default]
    None,
    /// A single path.
    One(Path),
    /// More than one.
    #[expect(clippy::box_collection, reason = "keeps the common case at the size of one path")]
    Many(Box<Vec<Path>>),
}

impl Paths {
    pub(crate) fn as_slice(&self) -> &[Path] {
        match self {
            Self::None => &[],
            Self::One(path) => std::slice::from_ref(path),
            Self::Many(paths) => paths,
        }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [Path] {
        match self {
            Self::None => &mut [],
            Self::One(path) => std::slice::from_mut(path),
            Self::Many(paths) => paths,
        }
    }

    pub(crate) fn push(&mut self, path: Path) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(path),
            Self::One(first) => Self::Many(Box::new(vec![first, path])),
            Self::Many(mut paths) => {
                paths.push(path);
                Self::Many(paths)
            }
        };
    }

    /// Takes out the first path that is wanted.
    pub(crate) fn remove(&mut self, wanted: impl Fn(&Path) -> bool) -> Option<Path> {
        let at = self.as_slice().iter().position(wanted)?;
        match std::mem::take(self) {
            Self::None => None,
            Self::One(path) => Some(path),
            Self::Many(mut paths) => {
                let removed = paths.remove(at);
                *self = match paths.pop() {
                    Some(last) if paths.is_empty() => Self::One(last),
                    Some(last) => {
                        paths.push(last);
                        Self::Many(paths)
                    }
                    None => Self::None,
                };
                Some(removed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::NextHop;

    fn attributes(med: u32) -> Attributes {
        let mut attributes = Attributes::new(NextHop::V4([10, 0, 0, 1].into()));
        attributes.med = Some(med);
        attributes
    }

    #[test]
    fn equal_attributes_are_one_allocation_and_unused_ones_go() {
        let mut interner = Interner::new(3);
        let kept = interner.intern(attributes(1));
        for round in 0..10 * FIRST_SWEEP as u32 {
            interner.intern(attributes(1 + round));
        }
        assert!(Arc::ptr_eq(&kept, &interner.intern(attributes(1))));
        assert!(interner.len() <= 2 * FIRST_SWEEP, "{} sets are kept", interner.len());
    }

    #[test]
    fn a_changed_set_remembers_what_it_was_made_of() {
        let mut interner = Interner::new(3);
        let (one, two) = (interner.intern(attributes(1)), interner.intern(attributes(2)));
        let from_one = interner.intern_from(attributes(3), Some(&one));
        let from_two = interner.intern_from(attributes(3), Some(&two));
        assert!(!Arc::ptr_eq(&from_one, &from_two));
        assert!(Arc::ptr_eq(&from_one, &interner.intern_from(attributes(3), Some(&one))));
        assert!(!Arc::ptr_eq(&from_one, &interner.intern(attributes(3))));
    }

    #[test]
    fn a_path_stays_small() {
        assert_eq!(size_of::<Path>(), 24);
        assert_eq!(size_of::<Paths>(), 24);
    }

    #[test]
    fn paths_come_and_go_in_any_number() {
        let shared = Interner::new(1).intern(attributes(0));
        let path = |peer| Path {
            set: Arc::clone(&shared),
            peer: PeerIndex(peer),
            id: PathId(0),
            rule: RuleIndex::OTHERWISE,
            import: Import::Accepted,
            stale: false,
            long_lived: false,
        };
        let mut paths = Paths::default();
        (0..4).for_each(|peer| paths.push(path(peer)));
        for (gone, left) in [(1, vec![0, 2, 3]), (0, vec![2, 3]), (3, vec![2]), (2, vec![])] {
            let removed = paths.remove(|path| path.peer == PeerIndex(gone));
            assert_eq!(removed.map(|path| path.peer), Some(PeerIndex(gone)));
            assert_eq!(paths.as_slice().iter().map(|path| path.peer.0).collect::<Vec<_>>(), left);
        }
        assert!(paths.remove(|_| true).is_none());
    }
}
