//! The routing table: what every peer says, what of it is best, and what every peer must be told.
//!
//! Changes only mark prefixes. [`Rib::decide`] runs the decision process once for each marked prefix, however many
//! paths changed, and marks it in turn for the peers and for the kernel; those take it when they can.
//!
//! Reading order: `path`, `nets`, `decision`, `export`, `adj_out`. Here are the table itself and its changes.

mod adj_out;
mod bits;
pub(crate) mod decision;
mod explain;
pub(crate) mod export;
mod flush;
mod hops;
mod import;
mod nets;
mod parting;
pub(crate) mod path;
mod select;
mod several;
mod slots;
mod stale;
mod terms;
mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::{Local, OriginAttributes, Role};
use crate::policy::{RuleIndex, Source};
use crate::prefix::{Asn, Family, Gateway, Prefix, RouterId};
use crate::wire::{Attributes, NextHop, Nlri, PathId};
pub(crate) use adj_out::Filled;
use adj_out::{AdjOut, Outs};
use bits::Bits;
pub(crate) use explain::Names;
use export::Export;
use flush::{Gone, SLICE};
pub use hops::HopSet;
use hops::Hops;
pub(crate) use import::Screen;
use nets::{Net, NetId, Nets};
pub(crate) use path::PeerIndex;
use path::{Import, Interner, Path, Paths, Shared};
use select::{candidates, select};
pub(crate) use terms::Terms;

/// What the table knows about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Internal or external.
    pub(crate) kind: Source,
    /// We reflect for it (RFC 4456).
    pub(crate) client: bool,
    /// Its BGP identifier.
    pub(crate) router_id: RouterId,
    /// Its address.
    pub(crate) address: IpAddr,
    /// The index of the link on which its link-local addresses are; 0 if the session does not say.
    pub(crate) zone: u32,
    /// Its AS.
    pub(crate) asn: Asn,
    /// Our role towards it, told or not (RFC 9234); `None` inside our AS.
    pub(crate) role: Option<Role>,
}

impl Facts {
    /// Whether what it says goes on to internal peers that are no clients (RFC 4456 §6).
    fn spreads_inside(&self) -> bool {
        self.kind != Source::Internal || self.client
    }
}

/// How many prefixes of one family a peer has given us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// All of them.
    pub(crate) received: u32,
    /// Those that import let through.
    pub(crate) accepted: u32,
    /// Those not yet confirmed after a restart.
    pub(crate) stale: u32,
}

/// The peers that have, or may have, paths in the table.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    slots: Vec<Option<Facts>>,
    counts: Vec<BTreeMap<Family, Counts>>,
}

impl Sources {
    /// Who a peer is; `None` for ourselves.
    pub(crate) fn facts(&self, peer: PeerIndex) -> Option<&Facts> {
        self.slots.get(peer.0 as usize)?.as_ref()
    }

    /// The link on which a peer's link-local addresses are.
    pub(crate) fn zone(&self, peer: PeerIndex) -> u32 {
        self.facts(peer).map_or(0, |facts| facts.zone)
    }

    /// Where an accepted path leads; `None` if its traffic is discarded.
    fn gateway(&self, path: &Path) -> Option<Gateway> {
        if path.discards() {
            return None;
        }
        Some(path.used()?.attributes.next_hop.gateway(self.zone(path.peer)))
    }

    fn set(&mut self, peer: PeerIndex, facts: Facts) {
        let place = peer.0 as usize;
        if place >= self.slots.len() {
            self.slots.resize(place + 1, None);
            self.counts.resize(place + 1, BTreeMap::new());
        }
        if let Some(slot) = self.slots.get_mut(place) {
            *slot = Some(facts);
        }
    }

    fn counts(&self, peer: PeerIndex, family: Family) -> Counts {
        self.counts.get(peer.0 as usize).and_then(|counts| counts.get(&family)).copied().unwrap_or_default()
    }

    fn count(&mut self, path: &Path, family: Family, change: fn(&mut u32)) {
        if let Some(counts) = self.counts.get_mut(path.peer.0 as usize) {
            let counts = counts.entry(family).or_default();
            change(&mut counts.received);
            if path.used().is_some() {
                change(&mut counts.accepted);
            }
            if path.stale {
                change(&mut counts.stale);
            }
        }
    }
}

impl Net {
    /// The path that the decision process preferred.
    pub(crate) fn best(&self) -> Option<&Path> {
        self.carrying().first()
    }

    /// The paths that would carry traffic if all the peers whose paths do were gone.
    fn spare(&self) -> &[Path] {
        let selected = usize::from(self.selected);
        self.paths.as_slice().get(selected..selected + usize::from(self.spare)).unwrap_or_default()
    }

    /// The paths that carry traffic.
    pub(crate) fn carrying(&self) -> &[Path] {
        self.paths.as_slice().get(..usize::from(self.selected)).unwrap_or_default()
    }
}

/// A marked prefix, and the best path it had.
type Dirty = (NetId, Option<(Shared, PeerIndex)>);

/// The table.
#[derive(Debug)]
pub(crate) struct Rib {
    local: Local,
    nets: Nets,
    sources: Sources,
    interner: Interner,
    hops: Hops,
    dirty: Vec<Dirty>,
    untold: VecDeque<NetId>,
    /// Paths that are gone and still in their places.
    gone: VecDeque<Gone>,
    origins: BTreeMap<Prefix, OriginAttributes>,
    outs: Outs,
    woken: BTreeSet<PeerIndex>,
}

impl Rib {
    pub(crate) fn new(local: Local, keys: [u64; 2]) -> Self {
        let [nets, attributes] = keys;
        Self {
            local,
            nets: Nets::new(nets),
            sources: Sources::default(),
            interner: Interner::new(attributes),
            hops: Hops::default(),
            dirty: Vec::new(),
            untold: VecDeque::new(),
            gone: VecDeque::new(),
            origins: BTreeMap::new(),
            outs: Outs::default(),
            woken: BTreeSet::new(),
        }
    }

    /// What holds for the speaker. Where other paths may carry traffic from now on, prefixes are decided anew.
    pub(crate) fn set_local(&mut self, local: &Local) {
        let width = |local: &Local| (local.multipath, local.relax);
        if width(&self.local) != width(local) {
            let rivals = self.nets.iter().filter(|(_, net)| net.paths.as_slice().len() > 1);
            rivals.map(|(id, _)| id).collect::<Vec<_>>().into_iter().for_each(|id| self.touch(id, None));
        }
        self.local.clone_from(local);
    }

    /// Introduces a peer, or tells what changed about it.
    pub(crate) fn set_facts(&mut self, peer: PeerIndex, facts: Facts) {
        self.finish_flush_of(peer);
        if self.sources.facts(peer).is_some_and(|known| *known != facts) {
            for family in Family::ALL {
                self.of_peer(peer, family, |_| true).into_iter().for_each(|id| self.touch(id, None));
            }
        }
        self.sources.set(peer, facts);
    }

    /// What is known about a peer; `None` if it never had a session.
    pub(crate) fn facts(&self, peer: PeerIndex) -> Option<&Facts> {
        self.sources.facts(peer)
    }

    pub(crate) fn counts(&self, peer: PeerIndex, family: Family) -> Counts {
        self.sources.counts(peer, family)
    }

    /// Declares the routes of our own.
    pub(crate) fn set_origins(&mut self, origins: BTreeMap<Prefix, OriginAttributes>) {
        let before = std::mem::replace(&mut self.origins, origins);
        for prefix in before.keys() {
            if !self.origins.contains_key(prefix) {
                self.withdraw(PeerIndex::LOCAL, *prefix);
            }
        }
        let changed: Vec<(Prefix, Attributes)> = self
            .origins
            .iter()
            .filter(|(prefix, origin)| before.get(prefix) != Some(origin))
            .map(|(prefix, origin)| (*prefix, origin_attributes(origin)))
            .collect();
        for (prefix, attributes) in changed {
            let path = Path {
                set: self.interner.intern(attributes),
                peer: PeerIndex::LOCAL,
                id: PathId::default(),
                rule: RuleIndex::OTHERWISE,
                import: Import::Accepted,
                stale: false,
                long_lived: false,
            };
            self.store(prefix, path);
        }
    }

    /// Takes a path in the place of what its peer said before; returns whether the peer had said nothing.
    fn store(&mut self, prefix: Prefix, path: Path) -> bool {
        self.finish_flush_of(path.peer);
        let family = prefix.family();
        let id = self.nets.find_or_insert(prefix);
        let Some(net) = self.nets.get_mut(id) else { return false };
        let known = net.paths.as_mut_slice().iter_mut().find(|known| known.key() == path.key());
        if let Some(known) = known {
            self.sources.count(known, family, |count| *count = count.saturating_sub(1));
            self.sources.count(&path, family, |count| *count += 1);
            if known.says_the_same(&path) {
                (known.stale, known.long_lived) = (path.stale, path.long_lived);
                return false;
            }
            let old = std::mem::replace(known, path);
            self.touch(id, Some(&old));
            return false;
        }
        self.sources.count(&path, family, |count| *count += 1);
        if net.paths.as_slice().is_empty() {
            self.nets.note_empty(false);
        }
        self.touch(id, None);
        if let Some(net) = self.nets.get_mut(id) {
            net.paths.push(path);
        }
        true
    }

    /// Marks a prefix for the decision process. `replaced` is a path that is no longer in its place.
    fn touch(&mut self, id: NetId, replaced: Option<&Path>) {
        let Some(net) = self.nets.get_mut(id) else { return };
        if net.dirty {
            return;
        }
        net.dirty = true;
        let best = match (net.best(), replaced) {
            (Some(best), Some(old)) if best.key() == old.key() => Some(old),
            (best, _) => best,
        };
        let before = best.and_then(|best| Some((Arc::clone(best.used()?), best.peer)));
        self.dirty.push((id, before));
    }

    /// Forgets one path that a peer told.
    pub(crate) fn withdraw(&mut self, peer: PeerIndex, nlri: impl Into<Nlri>) {
        let Nlri { prefix, path } = nlri.into();
        if let Some(id) = self.nets.find(&prefix) {
            self.remove(id, |known| known.key() == (peer, path));
        }
    }

    /// Forgets what a peer said about these prefixes.
    pub(crate) fn withdraw_all(&mut self, peer: PeerIndex, prefixes: &[Nlri]) {
        self.nets.warm(prefixes);
        prefixes.iter().for_each(|nlri| self.withdraw(peer, *nlri));
    }

    /// Forgets the paths of these prefixes that are wanted; returns how many that were.
    fn remove_all(&mut self, nets: &[NetId], wanted: impl Fn(&Path) -> bool) -> u32 {
        let mut count = 0;
        for id in nets {
            while self.remove(*id, &wanted) {
                count += 1;
            }
        }
        count
    }

    /// Forgets the first path that is wanted; says whether there was one.
    fn remove(&mut self, id: NetId, wanted: impl Fn(&Path) -> bool) -> bool {
        let Some(net) = self.nets.get(id) else { return false };
        if !net.paths.as_slice().iter().any(&wanted) {
            return false;
        }
        self.touch(id, None);
        self.take_out(id, wanted)
    }

    /// Takes the first path that is wanted out of a marked prefix; says whether there was one.
    fn take_out(&mut self, id: NetId, wanted: impl Fn(&Path) -> bool) -> bool {
        let Some(net) = self.nets.get_mut(id) else { return false };
        let family = net.prefix.family();
        let Some(path) = net.paths.remove(wanted) else { return false };
        // Until the decision nothing is selected: the paths have moved.
        (net.selected, net.spare) = (0, 0);
        if net.paths.as_slice().is_empty() {
            self.nets.note_empty(true);
        }
        self.sources.count(&path, family, |count| *count = count.saturating_sub(1));
        true
    }

    fn of_peer(&self, peer: PeerIndex, family: Family, wanted: impl Fn(&Path) -> bool) -> Vec<NetId> {
        let has = |paths: &Paths| paths.as_slice().iter().any(|path| path.peer == peer && wanted(path));
        let nets = self.nets.iter().filter(|(_, net)| net.prefix.family() == family && has(&net.paths));
        nets.map(|(id, _)| id).collect()
    }

    /// Forgets what a peer has not said again since [`retain`](Self::retain).
    pub(crate) fn flush_stale(&mut self, peer: PeerIndex, family: Family) -> u32 {
        if self.counts(peer, family).stale == 0 {
            return 0;
        }
        let nets = self.of_peer(peer, family, |path| path.stale);
        self.remove_all(&nets, |path| path.peer == peer && path.stale)
    }

    /// Runs the decision process for all marked prefixes, and takes away some of the paths that are gone. Between
    /// calls of the speaker nothing stays marked.
    pub(crate) fn decide(&mut self) {
        self.decide_in_slices(SLICE);
    }

    fn decide_in_slices(&mut self, paths: usize) {
        self.flush_some(paths);
        self.decide_marked();
    }

    fn decide_marked(&mut self) {
        let dirty = std::mem::take(&mut self.dirty);
        for (id, before) in &dirty {
            self.decide_one(*id, before.as_ref());
        }
        self.dirty = dirty;
        self.dirty.clear();
        self.dirty.shrink_to(1 << 16);
        if self.nets.wants_sweep() {
            let mut referenced = Bits::default();
            self.outs.all().for_each(|out| out.references(&mut referenced));
            self.nets.sweep(&referenced);
        }
    }

    fn decide_one(&mut self, id: NetId, before: Option<&(Shared, PeerIndex)>) {
        self.flush_one(id);
        let Some(net) = self.nets.get_mut(id) else { return };
        net.dirty = false;
        select(net, &self.sources, &self.local);
        let paths = (net.carrying(), net.spare());
        let hops = self.hops.choose(net.hops, net.prefix.family(), paths, &self.sources);
        if hops != net.hops {
            net.hops = hops;
            if !std::mem::replace(&mut net.untold, true) {
                self.untold.push_back(id);
            }
        }
        let after = net.best().and_then(|best| Some((best.used()?, best.peer)));
        let unchanged = match (before, after) {
            (Some((was, from)), Some((is, by))) => Arc::ptr_eq(was, is) && *from == by,
            (None, None) => true,
            _ => false,
        };
        if !unchanged {
            self.mark(id, before.map(|(_, peer)| *peer));
        } else if self.outs.any_several() {
            self.mark_for_several(id);
        }
    }

    /// Marks a prefix whose best path is what it was for the peers that are told others as well.
    fn mark_for_several(&mut self, id: NetId) {
        let Some(net) = self.nets.get(id) else { return };
        for (peer, out) in self.outs.range_mut(net.prefix.family(), false) {
            if out.takes_several() {
                out.mark(id);
                self.woken.insert(peer);
            }
        }
    }

    /// Marks a prefix for all peers that may be told about it or were. `before` is where the best path came from.
    fn mark(&mut self, id: NetId, before: Option<PeerIndex>) {
        let Some(net) = self.nets.get(id) else { return };
        let after = net.best().map(|best| best.peer);
        let facts = after.and_then(|source| self.sources.facts(source));
        // In a mesh of thousands nearly all routes come from inside and stay there.
        let spreads = |source: Option<PeerIndex>| {
            source.is_some_and(|source| self.sources.facts(source).is_none_or(Facts::spreads_inside))
        };
        let inside = spreads(before) || spreads(after);
        for (peer, out) in self.outs.range_mut(net.prefix.family(), inside) {
            let may_pass = after.is_some_and(|source| out.export.may_pass(source, facts));
            if may_pass || out.knows(id) || out.takes_several() {
                out.mark(id);
                self.woken.insert(peer);
            }
        }
    }

    /// The next set of next hops that is new, changed or gone; to be told before [`Self::next_route`].
    pub(crate) fn next_hops(&mut self) -> Option<(HopSet, BTreeSet<Gateway>)> {
        self.hops.next_change()
    }

    /// The next prefix that is in another set, and in which; none if it leads nowhere.
    pub(crate) fn next_route(&mut self) -> Option<(Prefix, Option<HopSet>)> {
        let id = self.untold.pop_front()?;
        let net = self.nets.get_mut(id)?;
        net.untold = false;
        Some((net.prefix, Some(net.hops).filter(|set| self.hops.means_something(*set))))
    }

    /// All that [`Self::next_route`] had to tell has been told. Returns whether [`Self::next_hops`] has more.
    pub(crate) fn routes_told(&mut self) -> bool {
        self.untold.shrink_to(1 << 14);
        self.hops.retire()
    }

    /// Begins to tell a peer all routes of a family, then End-of-RIB.
    pub(crate) fn open(&mut self, family: Family, export: Export) {
        let peer = export.peer;
        self.outs.insert(AdjOut::new(export, family));
        self.woken.insert(peer);
        self.tell_again(peer, family);
    }

    /// Tells a peer all routes again (RFC 2918 §4).
    pub(crate) fn tell_again(&mut self, peer: PeerIndex, family: Family) {
        let Some(out) = self.outs.get_mut(family, peer) else { return };
        out.forget_what_was_said();
        for (id, net) in self.nets.iter().filter(|(_, net)| net.prefix.family() == family) {
            let best = net.best().map(|best| best.peer);
            let may_pass = best.is_some_and(|best| out.export.may_pass(best, self.sources.facts(best)));
            if may_pass || out.knows(id) || out.takes_several() {
                out.mark(id);
            }
        }
        self.woken.insert(peer);
    }

    /// Changes how routes are told, and tells them again if that makes a difference.
    pub(crate) fn set_export(
        &mut self,
        peer: PeerIndex,
        family: Family,
        change: impl FnOnce(&mut Export) -> bool,
    ) {
        if self.outs.get_mut(family, peer).is_some_and(|out| change(&mut out.export)) {
            self.tell_again(peer, family);
        }
    }

    /// The session is over: nothing is owed.
    pub(crate) fn close(&mut self, peer: PeerIndex) {
        for family in Family::ALL {
            self.outs.remove(family, peer);
        }
    }

    /// How many prefixes, or paths if it takes several per prefix, a peer was told.
    pub(crate) fn announced(&self, peer: PeerIndex, family: Family) -> u32 {
        self.outs.get(family, peer).map_or(0, AdjOut::announced)
    }

    /// Whether a peer must still be told something, and can be.
    pub(crate) fn pending(&self, peer: PeerIndex, hold_end: bool) -> bool {
        if self.unfinished() {
            return false;
        }
        let out = |family| self.outs.get(family, peer).is_some_and(|out| out.pending(hold_end));
        Family::ALL.into_iter().any(out)
    }

    /// Peers for whom there is something new to tell.
    pub(crate) fn take_woken(&mut self) -> BTreeSet<PeerIndex> {
        std::mem::take(&mut self.woken)
    }

    /// Appends messages for a peer until `buf` is `limit` octets long; with `hold_end` End-of-RIB is put off.
    pub(crate) fn fill(
        &mut self,
        peer: PeerIndex,
        limit: usize,
        hold_end: bool,
        buf: &mut Vec<u8>,
    ) -> Filled {
        let mut filled = Filled::default();
        if self.unfinished() {
            return filled;
        }
        for family in Family::ALL {
            if let Some(out) = self.outs.get_mut(family, peer) {
                let more = out.fill(&self.nets, &self.sources, &self.local, (limit, hold_end), buf);
                filled.messages += more.messages;
                if let Some(count) = filled.by_family.get_mut(family as usize) {
                    *count += more.messages;
                }
                filled.refreshes += more.refreshes;
                filled.unsaid.extend(more.unsaid);
            }
        }
        filled
    }
}

fn origin_attributes(origin: &OriginAttributes) -> Attributes {
    // A route of our own has no next hop until it is told to somebody.
    let mut attributes = Attributes::new(NextHop::V4(std::net::Ipv4Addr::UNSPECIFIED));
    attributes.communities.clone_from(&origin.communities);
    attributes.extended_communities.clone_from(&origin.extended_communities);
    attributes.large_communities.clone_from(&origin.large_communities);
    attributes.local_pref = origin.local_pref;
    attributes.med = origin.med;
    attributes
}

#[cfg(test)]
mod cost;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
