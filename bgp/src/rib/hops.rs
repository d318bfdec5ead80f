//! Sets of next hops: what prefixes share so that they can be moved together.
//!
//! A set is told apart by what makes its prefixes fail together: who says the paths that carry traffic and where these
//! lead, and the same of the paths that would carry it next. So when a session ends, each set that rests on it gets
//! other gateways at once, whatever the number of its prefixes (BGP PIC), and the decision process follows at leisure.
//!
//! A set that lost a member is *loose*: its key is no longer true. The first of its prefixes that is decided anew and
//! wants the same gateways gives it its new key, so that the others need not move either.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::Sources;
use super::path::{Path, PeerIndex};
use crate::prefix::{Family, Gateway};

/// The number of a set of next hops that prefixes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HopSet(u32);

impl HopSet {
    /// The set of prefixes that lead nowhere.
    pub(crate) const NONE: Self = Self(0);

    /// The set of prefixes whose traffic is discarded. It is always there: nothing is told of it.
    pub const DISCARD: Self = Self(u32::MAX);

    /// The set with this number.
    pub const fn numbered(number: u32) -> Self {
        Self(number)
    }

    /// The number; those of sets that are gone are used again.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// A path, as far as traffic is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    peer: PeerIndex,
    gateway: Gateway,
}

/// What a set is told apart by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    family: Family,
    /// How many of the members carry traffic; the others would do so next.
    active: usize,
    members: Vec<Member>,
}

impl Key {
    fn gateways(&self) -> BTreeSet<Gateway> {
        let (active, spare) = self.members.split_at(self.active.min(self.members.len()));
        let used = if active.is_empty() { spare } else { active };
        used.iter().map(|member| member.gateway).collect()
    }

    fn has(&self, family: Family, peer: PeerIndex) -> bool {
        self.family == family && self.members.iter().any(|member| member.peer == peer)
    }

    fn without(&self, peer: PeerIndex) -> Self {
        let lives = |member: &&Member| member.peer != peer;
        let active = self.members.iter().take(self.active).filter(lives).count();
        Self { family: self.family, active, members: self.members.iter().filter(lives).copied().collect() }
    }
}

#[derive(Debug)]
struct Set {
    key: Arc<Key>,
    /// The key is true, and the set is found by it.
    keyed: bool,
    /// How many prefixes are in it.
    count: u32,
    gateways: BTreeSet<Gateway>,
    /// The kernel's side knows it.
    told: bool,
    /// It waits in `untold`.
    queued: bool,
}

/// All sets of next hops in use.
#[derive(Debug)]
pub(crate) struct Hops {
    numbers: BTreeMap<Arc<Key>, HopSet>,
    sets: Vec<Set>,
    free: Vec<HopSet>,
    /// Sets without prefixes whose last moves may not have been told yet.
    leaving: Vec<HopSet>,
    untold: VecDeque<HopSet>,
    /// The key being looked for; kept for its memory.
    sought: Key,
    /// The set found last: neighbouring prefixes often share theirs.
    last: HopSet,
}

impl Default for Hops {
    fn default() -> Self {
        Self {
            numbers: BTreeMap::new(),
            sets: Vec::new(),
            free: Vec::new(),
            leaving: Vec::new(),
            untold: VecDeque::new(),
            sought: Key { family: Family::Ipv4Unicast, active: 0, members: Vec::new() },
            last: HopSet::NONE,
        }
    }
}

impl Hops {
    /// The set of a prefix whose traffic goes by the paths `active`, and by `spare` when those are gone; `before` is
    /// the one in which it was and is counted. Routes of our own have none.
    pub(crate) fn choose(
        &mut self,
        before: HopSet,
        family: Family,
        (active, spare): (&[Path], &[Path]),
        sources: &Sources,
    ) -> HopSet {
        if active.first().is_some_and(Path::discards) {
            self.release(before);
            return HopSet::DISCARD;
        }
        self.seek(family, active, spare, sources);
        if self.sought.members.is_empty() {
            self.release(before);
            return HopSet::NONE;
        }
        if self.is_sought(before) || self.claim(before) {
            return before;
        }
        if self.is_sought(self.last) {
            let last = self.last;
            self.enter(last);
            self.release(before);
            return last;
        }
        let found = self.numbers.get(&self.sought).copied();
        let set = match found {
            Some(set) => {
                self.enter(set);
                self.release(before);
                set
            }
            None => {
                let set = self.insert();
                self.release(before);
                set
            }
        };
        self.last = set;
        set
    }

    /// Makes the key of these paths the one sought.
    fn seek(&mut self, family: Family, active: &[Path], spare: &[Path], sources: &Sources) {
        let Key { members, active: count, family: sought } = &mut self.sought;
        members.clear();
        *sought = family;
        if active.first().is_none_or(|best| best.peer == PeerIndex::LOCAL) {
            return;
        }
        let member = |path: &Path| Some(Member { peer: path.peer, gateway: sources.gateway(path)? });
        members.extend(active.iter().filter_map(member));
        members.sort_unstable();
        members.dedup();
        *count = members.len();
        if !spare.is_empty() {
            members.extend(spare.iter().filter_map(member));
            if let Some(spare) = members.get_mut(*count..) {
                spare.sort_unstable();
            }
        }
    }

    fn is_sought(&self, set: HopSet) -> bool {
        self.get(set).is_some_and(|set| set.keyed && *set.key == self.sought)
    }

    /// Gives a loose set the key that is sought, if its gateways are those of the key.
    fn claim(&mut self, number: HopSet) -> bool {
        let Some(set) = place(number).and_then(|place| self.sets.get_mut(place)) else { return false };
        if set.keyed || set.count == 0 || set.gateways != self.sought.gateways() {
            return false;
        }
        set.key = Arc::new(self.sought.clone());
        set.keyed = true;
        // Several that came to be the same stay apart: moving prefixes would gain nothing.
        self.numbers.entry(Arc::clone(&set.key)).or_insert(number);
        true
    }

    fn insert(&mut self) -> HopSet {
        let key = Arc::new(self.sought.clone());
        let gateways = key.gateways();
        let set = Set { key: Arc::clone(&key), keyed: true, count: 1, gateways, told: false, queued: false };
        let number = self.free.pop();
        let number = match number.and_then(|number| Some((number, self.get_mut(number)?))) {
            Some((number, vacant)) => {
                let queued = vacant.queued;
                *vacant = Set { queued, ..set };
                number
            }
            None => {
                self.sets.push(set);
                HopSet(self.sets.len() as u32)
            }
        };
        self.numbers.insert(key, number);
        self.queue(number);
        number
    }

    fn enter(&mut self, number: HopSet) {
        if let Some(set) = self.get_mut(number) {
            set.count += 1;
        }
    }

    /// One prefix less is in the set.
    fn release(&mut self, number: HopSet) {
        let Some(set) = self.get_mut(number) else { return };
        set.count = set.count.saturating_sub(1);
        if set.count == 0 {
            let (key, keyed) = (Arc::clone(&set.key), std::mem::take(&mut set.keyed));
            set.gateways.clear();
            if keyed && self.numbers.get(&key) == Some(&number) {
                self.numbers.remove(&key);
            }
            self.leaving.push(number);
        }
    }

    /// A peer's paths of a family are gone: what rests on them gets the gateways that remain.
    pub(crate) fn fail(&mut self, peer: PeerIndex, family: Family) {
        for (set, number) in self.sets.iter_mut().zip(1..) {
            if set.count == 0 || !set.key.has(family, peer) {
                continue;
            }
            if std::mem::take(&mut set.keyed) && self.numbers.get(&set.key) == Some(&HopSet(number)) {
                self.numbers.remove(&set.key);
            }
            let key = set.key.without(peer);
            let mut gateways = key.gateways();
            // What stands for one gateway in the kernel cannot come to stand for several in place.
            if set.gateways.len() == 1 && gateways.len() > 1 {
                let first = gateways.first().copied();
                gateways.retain(|gateway| Some(*gateway) == first);
            }
            set.key = Arc::new(key);
            if set.gateways != gateways {
                set.gateways = gateways;
                if !std::mem::replace(&mut set.queued, true) {
                    self.untold.push_back(HopSet(number));
                }
            }
        }
    }

    fn queue(&mut self, number: HopSet) {
        if let Some(set) = self.get_mut(number)
            && !std::mem::replace(&mut set.queued, true)
        {
            self.untold.push_back(number);
        }
    }

    /// The next set that is new or has other gateways; none when it is gone. To be told before the prefixes in it.
    pub(crate) fn next_change(&mut self) -> Option<(HopSet, BTreeSet<Gateway>)> {
        loop {
            let number = self.untold.pop_front()?;
            let Some(set) = self.get_mut(number) else { continue };
            set.queued = false;
            let known = std::mem::replace(&mut set.told, set.count > 0);
            if set.told || known {
                return Some((number, set.gateways.clone()));
            }
        }
    }

    /// Every move of a prefix has been told: sets without prefixes go. Returns whether there is more to tell.
    pub(crate) fn retire(&mut self) -> bool {
        for number in std::mem::take(&mut self.leaving) {
            if self.get(number).is_some_and(|set| set.told) {
                self.queue(number);
            }
            self.free.push(number);
        }
        !self.untold.is_empty()
    }

    /// Whether a prefix in a set is to be had: there are gateways, or its traffic is discarded.
    pub(crate) fn means_something(&self, number: HopSet) -> bool {
        number == HopSet::DISCARD || self.get(number).is_some_and(|set| !set.gateways.is_empty())
    }

    /// The gateways of a set.
    pub(crate) fn gateways(&self, number: HopSet) -> BTreeSet<Gateway> {
        self.get(number).map_or_else(BTreeSet::new, |set| set.gateways.clone())
    }

    fn get(&self, number: HopSet) -> Option<&Set> {
        self.sets.get(place(number)?)
    }

    fn get_mut(&mut self, number: HopSet) -> Option<&mut Set> {
        self.sets.get_mut(place(number)?)
    }

    /// How many sets there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.sets.iter().filter(|set| set.count > 0).count()
    }
}

fn place(number: HopSet) -> Option<usize> {
    (number.0 as usize).checked_sub(1)
}
