//! What one peer must still be told about one family.
//!
//! A change only marks a prefix; messages are made when the connection can take them, from the state of that moment.
//! So the newest state wins, a slow peer costs one bit and one number per prefix, and prefixes that share their
//! attributes share messages whatever the order in which they changed.

use std::collections::{BTreeMap, VecDeque};

use super::Sources;
use super::bits::Bits;
use super::export::{Choice, Export, Key};
use super::nets::{Net, NetId, Nets};
use super::path::PeerIndex;
use super::several::Several;
use crate::config::Local;
use crate::policy::Source;
use crate::prefix::{Family, Prefix};
use crate::wire::{
    self, Attributes, EncodeError, EncodedAttributes, Message, Nlri, PathId, RefreshKind, RouteRefresh,
};

/// The outgoing side of a family.
#[derive(Debug)]
pub(crate) struct AdjOut {
    /// How routes are chosen and told.
    pub(crate) export: Export,
    family: Family,
    /// Told, or staged to be told.
    announced: Bits,
    /// In `queue`.
    queued: Bits,
    queue: VecDeque<NetId>,
    staged: VecDeque<Run>,
    /// Something staged may have changed since.
    outdated: bool,
    owes_end: bool,
    /// What was told, if several paths per prefix are.
    several: Option<Box<Several>>,
    refresh: Refresh,
}

/// Where a route refresh with begin and end (RFC 7313) has got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refresh {
    /// There is none.
    None,
    /// Its begin is owed.
    Begin,
    /// Its end is owed.
    End,
}

/// All outgoing sides. Internal peers that are no clients are apart: in a mesh nothing but our own is told to them.
#[derive(Debug, Default)]
pub(crate) struct Outs {
    inside: BTreeMap<(Family, PeerIndex), AdjOut>,
    others: BTreeMap<(Family, PeerIndex), AdjOut>,
    /// How many take several paths per prefix; they are among the others.
    several: usize,
}

impl Outs {
    pub(crate) fn insert(&mut self, out: AdjOut) {
        let key = (out.family, out.export.peer);
        let facts = out.export.facts;
        self.remove(key.0, key.1);
        self.several += usize::from(out.takes_several());
        let inside = facts.kind == Source::Internal && !facts.client && !out.takes_several();
        let outs = if inside { &mut self.inside } else { &mut self.others };
        outs.insert(key, out);
    }

    /// Whether anybody is told several paths per prefix.
    pub(crate) fn any_several(&self) -> bool {
        self.several > 0
    }

    pub(crate) fn get(&self, family: Family, peer: PeerIndex) -> Option<&AdjOut> {
        self.others.get(&(family, peer)).or_else(|| self.inside.get(&(family, peer)))
    }

    pub(crate) fn get_mut(&mut self, family: Family, peer: PeerIndex) -> Option<&mut AdjOut> {
        self.others.get_mut(&(family, peer)).or_else(|| self.inside.get_mut(&(family, peer)))
    }

    pub(crate) fn remove(&mut self, family: Family, peer: PeerIndex) {
        self.take(family, peer);
    }

    pub(crate) fn take(&mut self, family: Family, peer: PeerIndex) -> Option<AdjOut> {
        let key = (family, peer);
        let out = self.others.remove(&key).or_else(|| self.inside.remove(&key))?;
        self.several -= usize::from(out.takes_several());
        Some(out)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &AdjOut> {
        self.inside.values().chain(self.others.values())
    }

    /// The peers that have any.
    pub(crate) fn peers(&self) -> impl Iterator<Item = PeerIndex> {
        self.inside.keys().chain(self.others.keys()).map(|(_, peer)| *peer)
    }

    /// The sides of a family, those of internal peers that are no clients only if `inside`.
    pub(crate) fn range_mut(
        &mut self,
        family: Family,
        inside: bool,
    ) -> impl Iterator<Item = (PeerIndex, &mut AdjOut)> {
        let range = || (family, PeerIndex(0))..=(family, PeerIndex::LOCAL);
        let inner = inside.then(|| self.inside.range_mut(range())).into_iter().flatten();
        inner.chain(self.others.range_mut(range())).map(|((_, peer), out)| (*peer, out))
    }
}

/// Prefixes for the same messages.
#[derive(Debug)]
struct Run {
    what: What,
    nets: Vec<(NetId, PathId)>,
    done: usize,
}

#[derive(Debug)]
enum What {
    Withdraw,
    Announce(Choice),
    Encoded(Box<EncodedAttributes>),
}

/// A route that could not be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unsaid {
    pub(crate) prefix: Prefix,
    pub(crate) reason: &'static str,
}

/// Where messages go, and what happened on the way.
#[derive(Debug, Default)]
pub(crate) struct Filled {
    /// How many UPDATEs were written.
    pub(crate) messages: u64,
    /// The same, by family.
    pub(crate) by_family: [u64; Family::ALL.len()],
    /// How many begins and ends of a route refresh.
    pub(crate) refreshes: u64,
    /// What could not be told, at most a few.
    pub(crate) unsaid: Vec<Unsaid>,
}

/// How many prefixes are grouped at a time: enough to fill messages, little enough to forget.
const WINDOW: usize = 8192;
const REPORTED: usize = 4;
/// Room that an empty queue keeps: thousands of peers that were told everything must not each hold on to it.
const QUEUE_KEPT: usize = 256;

impl AdjOut {
    /// A peer that has been told nothing and is owed everything, then End-of-RIB.
    pub(crate) fn new(export: Export, family: Family) -> Self {
        let several = export.dialect.paths_out.contains(family);
        Self {
            export,
            family,
            announced: Bits::default(),
            queued: Bits::default(),
            queue: VecDeque::new(),
            staged: VecDeque::new(),
            outdated: false,
            owes_end: true,
            several: several.then(Box::default),
            refresh: Refresh::None,
        }
    }

    /// The paths that the peer is told, if it is told several per prefix.
    pub(crate) fn several_best(&self, net: &Net, sources: &Sources) -> Option<Vec<Choice>> {
        self.takes_several().then(|| super::several::best(net, &self.export, sources))
    }

    /// Whether the peer is told several paths per prefix.
    pub(crate) fn takes_several(&self) -> bool {
        self.several.is_some()
    }

    /// What is marked from now on is told even if it has not changed.
    pub(crate) fn forget_what_was_said(&mut self) {
        if let Some(several) = &mut self.several {
            several.forget_what_was_said();
        }
    }

    /// The prefix must be looked at again.
    pub(crate) fn mark(&mut self, net: NetId) {
        if self.queued.insert(net) {
            self.queue.push_back(net);
            self.outdated |= !self.staged.is_empty();
        }
    }

    /// Whether the peer knows the prefix, or is about to.
    pub(crate) fn knows(&self, net: NetId) -> bool {
        self.announced.contains(net)
    }

    /// Whether the newest state of a prefix that the peer knows is on its way or there.
    pub(crate) fn has_sent(&self, net: NetId) -> bool {
        let mut staged = self.staged.iter().flat_map(|run| run.nets.iter().skip(run.done));
        self.knows(net) && !self.queued.contains(net) && !staged.any(|(waiting, _)| *waiting == net)
    }

    /// Why a route cannot be told to the peer; `None` if it can.
    pub(crate) fn unsayable(&self, attributes: &Attributes, prefix: Prefix) -> Option<&'static str> {
        let dialect = &self.export.dialect;
        let attributes = EncodedAttributes::new(attributes, dialect);
        let mut prefixes = std::iter::once(prefix.into()).peekable();
        let said = wire::announce(&attributes, &mut prefixes, dialect, &mut Vec::new());
        said.err().map(|error| why_unsaid(&error))
    }

    /// How many prefixes, or paths, the peer knows.
    pub(crate) fn announced(&self) -> u32 {
        self.several.as_ref().map_or_else(|| self.announced.len(), |several| several.len())
    }

    /// Whether there is something to tell.
    pub(crate) fn pending(&self, hold_end: bool) -> bool {
        !self.queue.is_empty()
            || !self.staged.is_empty()
            || self.owes_end && !hold_end
            || self.refresh != Refresh::None
    }

    /// Everything that is referred to.
    pub(crate) fn references(&self, into: &mut Bits) {
        into.add_all(&self.announced);
        into.add_all(&self.queued);
        self.staged.iter().flat_map(|run| &run.nets).for_each(|(net, _)| {
            into.insert(*net);
        });
    }

    /// Appends messages until `buf` is `limit` octets long or nothing is left.
    pub(crate) fn fill(
        &mut self,
        nets: &Nets,
        sources: &Sources,
        local: &Local,
        (limit, hold_end): (usize, bool),
        buf: &mut Vec<u8>,
    ) -> Filled {
        let mut filled = Filled::default();
        self.drop_outdated();
        if self.refresh == Refresh::Begin {
            self.refresh = Refresh::End;
            self.mark_refresh(RefreshKind::Begin, buf, &mut filled);
        }
        while buf.len() < limit {
            if self.staged.is_empty() {
                self.stage(nets, sources);
            }
            let Some(mut run) = self.staged.pop_front() else {
                if self.queue.is_empty() {
                    break;
                }
                continue;
            };
            self.write(&mut run, nets, sources, local, buf, &mut filled);
            if run.done < run.nets.len() {
                self.staged.push_front(run);
            }
        }
        if self.owes_end && !hold_end && self.queue.is_empty() && self.staged.is_empty() {
            self.owes_end = false;
            wire::end_of_rib(self.family, buf);
            filled.messages += 1;
        }
        if self.refresh == Refresh::End && self.queue.is_empty() && self.staged.is_empty() {
            self.refresh = Refresh::None;
            self.mark_refresh(RefreshKind::End, buf, &mut filled);
        }
        filled
    }

    /// Everything is marked, and what follows is all of it. Before End-of-RIB no refresh may begin (RFC 7313 §4).
    pub(crate) fn begin_refresh(&mut self) {
        if !self.owes_end {
            self.refresh = Refresh::Begin;
        }
    }

    fn mark_refresh(&self, kind: RefreshKind, buf: &mut Vec<u8>, filled: &mut Filled) {
        let message = Message::RouteRefresh(RouteRefresh { family: self.family.into(), kind });
        if wire::encode(&message, &self.export.dialect, buf).is_ok() {
            filled.refreshes += 1;
        }
    }

    /// Unstages what is looked at again. The peer still has what it was not told to forget.
    fn drop_outdated(&mut self) {
        if !std::mem::take(&mut self.outdated) {
            return;
        }
        for run in &mut self.staged {
            run.nets.drain(..run.done);
            run.done = 0;
            let withdrawal = matches!(run.what, What::Withdraw);
            for (net, path) in run.nets.extract_if(.., |(net, _)| self.queued.contains(*net)) {
                if withdrawal {
                    self.announced.insert(net);
                }
                if let Some(several) = &mut self.several {
                    several.doubt(net, path);
                }
            }
        }
        self.staged.retain(|run| !run.nets.is_empty());
    }

    /// Takes the next window of marked prefixes and groups them by what is to be said about them.
    fn stage(&mut self, nets: &Nets, sources: &Sources) {
        let mut withdrawn: Vec<(NetId, PathId)> = Vec::new();
        let mut chosen: Vec<(Key, (NetId, PathId), Choice)> = Vec::new();
        let window = self.queue.len().min(WINDOW);
        for id in self.queue.drain(..window) {
            self.queued.remove(id);
            if let Some(several) = &mut self.several {
                let news = several.update(id, nets.get(id), &self.export, sources);
                if news.known {
                    self.announced.insert(id)
                } else {
                    self.announced.remove(id)
                };
                withdrawn.extend(news.withdrawn.into_iter().map(|path| (id, path)));
                chosen.extend(
                    news.announced.into_iter().map(|(path, choice)| (choice.key(), (id, path), choice)),
                );
                continue;
            }
            match nets.get(id).and_then(|net| self.export.choose(net, sources)) {
                Some(choice) => {
                    self.announced.insert(id);
                    chosen.push((choice.key(), (id, PathId::default()), choice));
                }
                None if self.announced.remove(id) => withdrawn.push((id, PathId::default())),
                None => {}
            }
        }
        if !withdrawn.is_empty() {
            self.staged.push_back(Run { what: What::Withdraw, nets: withdrawn, done: 0 });
        }
        // What the keys are made of is far away in memory: sorting must not go there again and again.
        chosen.sort_by_key(|(key, ..)| *key);
        if self.queue.is_empty() {
            self.queue.shrink_to(QUEUE_KEPT);
        }
        for (key, id, choice) in chosen {
            match self.staged.back_mut() {
                Some(Run { what: What::Announce(last), nets, .. }) if last.key() == key => nets.push(id),
                _ => self.staged.push_back(Run { what: What::Announce(choice), nets: vec![id], done: 0 }),
            }
        }
    }

    /// Writes the next message of a run.
    fn write(
        &mut self,
        run: &mut Run,
        nets: &Nets,
        sources: &Sources,
        local: &Local,
        buf: &mut Vec<u8>,
        filled: &mut Filled,
    ) {
        let dialect = self.export.dialect;
        if let What::Announce(choice) = &run.what {
            let attributes = self.export.attributes(choice, sources, local);
            run.what = What::Encoded(Box::new(EncodedAttributes::new(&attributes, &dialect)));
        }
        let todo = run.nets.get(run.done..).unwrap_or_default();
        let nlri = |(id, path): &(NetId, PathId)| Some(Nlri { prefix: nets.get(*id)?.prefix, path: *path });
        let mut prefixes = todo.iter().filter_map(nlri).peekable();
        let written = match &run.what {
            What::Encoded(attributes) => wire::announce(attributes, &mut prefixes, &dialect, buf),
            What::Withdraw | What::Announce(_) => Ok(wire::withdraw(&mut prefixes, &dialect, buf)),
        };
        match written {
            Ok(0) => run.done = run.nets.len(),
            Ok(count) => {
                run.done += count;
                filled.messages += 1;
            }
            Err(error) => {
                run.what = What::Withdraw;
                run.nets.drain(..run.done);
                run.done = 0;
                self.give_up(run, nets, error, filled);
            }
        }
    }

    /// What cannot be announced is withdrawn, so that the peer does not keep what it had (RFC 4271 §9.1.3).
    fn give_up(&mut self, run: &Run, nets: &Nets, error: EncodeError, filled: &mut Filled) {
        let reason = why_unsaid(&error);
        for (id, path) in &run.nets {
            let known = self.several.as_mut().is_some_and(|several| several.forget(*id, *path));
            if !known {
                self.announced.remove(*id);
            }
            if let Some(net) = nets.get(*id)
                && filled.unsaid.len() < REPORTED
            {
                filled.unsaid.push(Unsaid { prefix: net.prefix, reason });
            }
        }
    }
}

fn why_unsaid(error: &EncodeError) -> &'static str {
    match error {
        EncodeError::AttributesTooLarge { .. } | EncodeError::MessageTooLarge { .. } => {
            "its attributes do not fit into a message"
        }
        EncodeError::NextHop { .. } => "its next hop cannot be told to this peer",
        EncodeError::CapabilityTooLarge(_) => "a capability is too large",
    }
}
