//! Who owns which block, as far as this node has seen: its own by a watch, those of others by a list now and then, and
//! what it wrote itself and neither shows yet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use manx_ipam::{BlockId, NodeName};

/// How long our own write may be ahead of the watch.
const AHEAD: Duration = Duration::from_secs(30);

/// The owners of blocks.
#[derive(Debug)]
pub struct BlockMap {
    me: NodeName,
    /// What the watch of our own blocks shows; `None` until its first list.
    own: Option<BTreeSet<BlockId>>,
    /// What the last list of the others showed; `None` until there was one.
    others: Option<BTreeMap<BlockId, NodeName>>,
    /// Blocks that we claimed and the watch has not shown yet.
    made: BTreeMap<BlockId, Instant>,
    /// Blocks that we released and the watch still shows.
    removed: BTreeMap<BlockId, Instant>,
}

impl BlockMap {
    /// Nothing is known yet.
    pub fn new(me: NodeName) -> Self {
        Self { me, own: None, others: None, made: BTreeMap::new(), removed: BTreeMap::new() }
    }

    /// The watch of our own blocks shows these now.
    pub fn shown(&mut self, own: BTreeSet<BlockId>, now: Instant) {
        let fresh = |at: &Instant| now.saturating_duration_since(*at) < AHEAD;
        self.made.retain(|block, at| !own.contains(block) && fresh(at));
        self.removed.retain(|block, at| own.contains(block) && fresh(at));
        self.own = Some(own);
    }

    /// A list showed these blocks of others.
    pub fn listed(&mut self, others: BTreeMap<BlockId, NodeName>) {
        self.others = Some(others);
    }

    /// A claim was confirmed.
    pub fn claimed(&mut self, block: BlockId, now: Instant) {
        self.made.insert(block, now);
        self.removed.remove(&block);
        if let Some(others) = &mut self.others {
            others.remove(&block);
        }
    }

    /// A claim met the block of another.
    pub fn taken(&mut self, block: BlockId, owner: NodeName) {
        self.others.get_or_insert_default().insert(block, owner);
    }

    /// A release was confirmed.
    pub fn released(&mut self, block: BlockId, now: Instant) {
        self.made.remove(&block);
        self.removed.insert(block, now);
    }

    /// The owners of all blocks; `None` until all of them were seen.
    pub fn owners(&self) -> Option<BTreeMap<BlockId, NodeName>> {
        let (own, others) = (self.own.as_ref()?, self.others.as_ref()?);
        let ours = own.iter().filter(|block| !self.removed.contains_key(block));
        let ours = ours.chain(self.made.keys()).map(|block| (*block, self.me.clone()));
        Some(others.iter().map(|(block, owner)| (*block, owner.clone())).chain(ours).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> BlockId {
        text.parse().expect("a block")
    }

    #[test]
    fn our_own_writes_count_before_the_watch_shows_them() {
        let (start, first, second) = (Instant::now(), block("10.0.0.0/26"), block("10.0.0.64/26"));
        let mut map = BlockMap::new("me".into());
        map.shown([first].into(), start);
        assert_eq!(map.owners(), None);
        map.listed([(second, "other".into())].into());
        map.claimed(second, start);
        map.released(first, start);
        assert_eq!(map.owners(), Some([(second, "me".into())].into()));
        // A watch that still shows the time before is late.
        map.shown([first].into(), start);
        assert_eq!(map.owners(), Some([(second, "me".into())].into()));
        map.shown([first].into(), start + AHEAD);
        assert_eq!(map.owners(), Some([(first, "me".into())].into()));
    }
}
