//! Paths: what one peer says about one prefix, and the attribute sets that many of them share.

use std::sync::Arc;

use super::slots::{SeededHasher, Slots};
use crate::policy::RuleIndex;
use crate::wire::Attributes;

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

    /// The one copy of this set.
    pub(crate) fn intern(&mut self, attributes: Attributes) -> Shared {
        let hash = SeededHasher::hash(self.key, &attributes);
        let same = |place: u32| {
            self.entries
                .get(place as usize)
                .is_some_and(|(known, set)| *known == hash && set.attributes == attributes)
        };
        if let Some((_, known)) =
            self.slots.find(hash, same).and_then(|place| self.entries.get(place as usize))
        {
            return Arc::clone(known);
        }
        self.next_serial += 1;
        let shared = Arc::new(Interned { serial: self.next_serial, attributes });
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
}

/// What one peer, or we, say about one prefix.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    /// As received, so that policy can be applied again.
    pub(crate) received: Shared,
    /// After import policy, if that changed anything.
    pub(crate) changed: Option<Shared>,
    /// Who says it.
    pub(crate) peer: PeerIndex,
    /// The rule of import policy that decided.
    pub(crate) rule: RuleIndex,
    /// What import made of it.
    pub(crate) import: Import,
    /// Kept from an earlier session, not yet confirmed (RFC 4724 §4.2).
    pub(crate) stale: bool,
}

impl Path {
    /// What the decision sees; `None` if the path takes no part in it.
    pub(crate) fn used(&self) -> Option<&Shared> {
        (self.import == Import::Accepted).then(|| self.changed.as_ref().unwrap_or(&self.received))
    }

    /// Whether both say the same, whatever their age.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        let same = |a: Option<&Shared>, b: Option<&Shared>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        self.peer == other.peer
            && self.import == other.import
            && self.rule == other.rule
            && Arc::ptr_eq(&self.received, &other.received)
            && same(self.changed.as_ref(), other.changed.as_ref())
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

    pub(crate) fn remove(&mut self, peer: PeerIndex) -> Option<Path> {
        let at = self.as_slice().iter().position(|path| path.peer == peer)?;
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
    fn a_path_stays_small() {
        assert_eq!(size_of::<Path>(), 24);
        assert_eq!(size_of::<Paths>(), 24);
    }

    #[test]
    fn paths_come_and_go_in_any_number() {
        let shared = Interner::new(1).intern(attributes(0));
        let path = |peer| Path {
            received: Arc::clone(&shared),
            changed: None,
            peer: PeerIndex(peer),
            rule: RuleIndex::OTHERWISE,
            import: Import::Accepted,
            stale: false,
        };
        let mut paths = Paths::default();
        (0..4).for_each(|peer| paths.push(path(peer)));
        for (gone, left) in [(1, vec![0, 2, 3]), (0, vec![2, 3]), (3, vec![2]), (2, vec![])] {
            assert_eq!(paths.remove(PeerIndex(gone)).map(|path| path.peer), Some(PeerIndex(gone)));
            assert_eq!(paths.as_slice().iter().map(|path| path.peer.0).collect::<Vec<_>>(), left);
        }
        assert!(paths.remove(PeerIndex(2)).is_none());
    }
}
