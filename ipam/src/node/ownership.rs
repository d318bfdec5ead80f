//! Which blocks are this node's.
//!
//! The API server's answer to a claim is final; the cluster's list of blocks says the same, only later. So a
//! claim just confirmed is believed against a list that does not show it yet, and a block that the list gives
//! to this node without its knowing is used only after a claim of it was confirmed too (the list may be of a
//! time before its release). Nothing that keeps two nodes apart depends on how late the list is. A recorded
//! block that the list shows at start needs no claim: releases are recorded first.
//!
//! If a block with endpoints vanishes from the cluster it stays announced, gives no address, and is claimed
//! again. If it turns out to be another node's, it is not announced any more. Both are told as a conflict.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::backoff::Backoff;
use super::door::{ClaimError, Event, Output};
use super::held::{Asked, Held, Title, covering, overlapping};
use super::{LATE, NodeIpam};
use crate::journal::Entry;
use crate::ledger::Use;
use crate::name::{BlockId, NodeName};
use crate::pool::block_lengths;

/// What the cluster's list says of a block.
enum Cluster {
    Ours,
    Other(NodeName),
    Nobody,
}

impl NodeIpam {
    pub(super) fn on_blocks(&mut self, blocks: BTreeMap<BlockId, NodeName>) {
        let valid = |block: &BlockId| {
            let (min, max) = block_lengths(block.family());
            (min..=max).contains(&block.cidr().prefix())
        };
        let known: BTreeMap<_, _> = blocks.into_iter().filter(|(block, _)| valid(block)).collect();
        self.ours = known.iter().filter(|(_, owner)| **owner == self.name).map(|(block, _)| *block).collect();
        self.avoid.retain(|block, _| !known.contains_key(block) || self.ours.contains(block));
        self.known = Some(known);
        self.barren.clear();
        self.hold_orphans();
    }

    pub(super) fn on_claimed(&mut self, block: BlockId, outcome: Result<(), ClaimError>) {
        let Some(held) = self.held.get_mut(&block).filter(|held| held.asked == Some(Asked::Claim)) else {
            return;
        };
        held.asked = None;
        let title = held.title.clone();
        self.note_answer(&block, outcome);
        match (outcome, title) {
            (Ok(()), _) => {
                self.released.remove(&block);
                let unseen = (!self.ours.contains(&block)).then_some(self.now);
                self.entitle(block, Title::Owned { unseen });
            }
            (Err(ClaimError::Failed), Title::Claiming) => self.let_go(block),
            (Err(ClaimError::Failed), _) => {}
            (Err(ClaimError::Taken), title) => {
                self.avoid.insert(block, self.now + LATE);
                match title {
                    Title::Claiming => self.let_go(block),
                    _ => self.entitle(block, Title::Foreign { owner: self.owner_elsewhere(&block) }),
                }
            }
        }
    }

    pub(super) fn on_released(&mut self, block: BlockId, outcome: Result<(), ClaimError>) {
        let Some(held) = self.held.get_mut(&block).filter(|held| held.asked == Some(Asked::Release)) else {
            return;
        };
        held.asked = None;
        self.note_answer(&block, outcome);
        if outcome != Err(ClaimError::Failed) {
            self.let_go(block);
            self.released.insert(block, self.now + LATE);
        }
    }

    /// Compares what is held with the cluster's list.
    pub(super) fn review_blocks(&mut self) {
        if self.known.is_none() {
            return;
        }
        let all: Vec<BlockId> = self.held.keys().copied().collect();
        for block in all {
            self.review(block);
        }
        let late: Vec<BlockId> =
            self.released.iter().filter(|(_, until)| **until <= self.now).map(|(block, _)| *block).collect();
        for block in late {
            self.released.remove(&block);
            if self.may_adopt(&block) {
                self.hold(block, Title::Releasing);
            }
        }
        let found: Vec<BlockId> = self.ours.iter().filter(|block| self.may_adopt(block)).copied().collect();
        found.into_iter().for_each(|block| self.adopt(block));
    }

    /// Takes over a block that the list gives to this node: by a claim if it is to be used, and else as it
    /// is, to return it when empty.
    fn adopt(&mut self, block: BlockId) {
        if self.pools.is_none() || !self.may_adopt(&block) || self.avoid.contains_key(&block) {
            return;
        }
        if self.pool_of(&block).is_some() {
            if !self.paused(&block) {
                self.claim(block);
            }
            return;
        }
        self.hold(block, Title::Claiming);
        let busy = self.held.get(&block).is_some_and(Held::busy);
        self.entitle(block, if busy { Title::Owned { unseen: None } } else { Title::Releasing });
    }

    /// When a block's standing may change by time alone.
    pub(super) fn review_times(&self, block: &BlockId, held: &Held) -> impl Iterator<Item = Instant> + use<> {
        let shown = match held.title {
            Title::Owned { unseen } => unseen.map(|since| since + LATE),
            Title::Claiming
            | Title::Remembered
            | Title::Vanished
            | Title::Foreign { .. }
            | Title::Releasing => None,
        };
        let spare = held.spare_since.map(|since| since + self.patience(block));
        shown.into_iter().chain(spare)
    }

    /// Holds the blocks of endpoints whose addresses are in no block of this node's: as vanished, or as
    /// another's.
    pub(super) fn hold_orphans(&mut self) {
        if self.known.is_none() || self.pools.is_none() {
            return;
        }
        let in_use = self.ledger.uses().filter(|(_, usage)| !matches!(usage, Use::Freed(_)));
        let in_use = in_use.filter(|(address, usage)| !self.visits(*address, usage));
        let orphans: Vec<_> = in_use
            .map(|(address, _)| address)
            .filter(|address| covering(&self.held, *address).is_none())
            .collect();
        for address in orphans {
            let known = self.known.as_ref().and_then(|known| covering(known, address));
            let by_pool = || self.pools.iter().flatten().find_map(|pool| pool.block_of(address));
            let block = known.or_else(by_pool).filter(|block| overlapping(&self.held, block).is_none());
            if let Some(block) = block.filter(|block| !self.ours.contains(block)) {
                self.hold(block, Title::Claiming);
                match self.owner_elsewhere(&block) {
                    Some(owner) => self.entitle(block, Title::Foreign { owner: Some(owner) }),
                    None => self.entitle(block, Title::Vanished),
                }
            }
        }
    }

    /// Gives a held block another title: records, tells.
    pub(super) fn entitle(&mut self, block: BlockId, title: Title) {
        let Some(held) = self.held.get_mut(&block) else { return };
        let before = std::mem::replace(&mut held.title, title.clone());
        let owned = self.ledger.owns(&block);
        match &title {
            Title::Owned { .. } if !owned => {
                self.write(&Entry::Own(block));
                self.tell(Event::BlockOwned { block });
            }
            Title::Foreign { .. } if owned => {
                self.write(&Entry::Disown(block));
                self.tell(Event::BlockGone { block });
            }
            Title::Releasing => drop(self.write(&Entry::Release(block))),
            _ => {}
        }
        match (conflict(&before), conflict(&title)) {
            (before, Some(owner)) if before.as_ref() != Some(&owner) => {
                self.tell(Event::Conflict { block, owner })
            }
            (Some(_), None) => self.tell(Event::ConflictEnded { block }),
            _ => {}
        }
    }

    /// Takes a block out of hand.
    fn let_go(&mut self, block: BlockId) {
        let Some(held) = self.held.remove(&block) else { return };
        if held.title != Title::Claiming {
            self.write(&Entry::Disown(block));
        }
        self.cooling.remove_block(&block);
        self.barren.clear();
        match held.title {
            Title::Vanished | Title::Foreign { .. } => self.tell(Event::ConflictEnded { block }),
            Title::Owned { .. } | Title::Remembered | Title::Releasing => {
                self.tell(Event::BlockGone { block })
            }
            Title::Claiming => {}
        }
    }

    fn review(&mut self, block: BlockId) {
        let Some(held) = self.held.get(&block) else { return };
        let believed = match held.title {
            Title::Owned { unseen } => unseen.is_some_and(|since| self.now < since + LATE),
            Title::Foreign { owner: None } => self.avoid.contains_key(&block),
            Title::Claiming => true,
            Title::Remembered | Title::Vanished | Title::Foreign { .. } | Title::Releasing => false,
        };
        let lost = matches!(held.title, Title::Vanished | Title::Foreign { .. });
        let busy = held.busy() && !(lost && self.only_visited(&block));
        let releasing = held.title == Title::Releasing;
        if held.asked.is_some() {
            return;
        }
        match self.cluster_says(&block) {
            Cluster::Ours => match held.title {
                Title::Owned { unseen: None } => {}
                Title::Remembered | Title::Owned { .. } => self.entitle(block, Title::Owned { unseen: None }),
                Title::Foreign { .. } => self.entitle(block, Title::Vanished),
                Title::Claiming | Title::Vanished | Title::Releasing => {}
            },
            Cluster::Other(_) | Cluster::Nobody if believed => {}
            Cluster::Other(_) | Cluster::Nobody if !busy || releasing => self.let_go(block),
            Cluster::Other(owner) => self.entitle(block, Title::Foreign { owner: Some(owner) }),
            Cluster::Nobody => self.entitle(block, Title::Vanished),
        }
    }

    fn cluster_says(&self, block: &BlockId) -> Cluster {
        if self.ours.contains(block) {
            return Cluster::Ours;
        }
        self.owner_elsewhere(block).map_or(Cluster::Nobody, Cluster::Other)
    }

    /// The owner of a block, or of one that overlaps it, by the cluster's list.
    pub(super) fn owner_elsewhere(&self, block: &BlockId) -> Option<NodeName> {
        self.known.as_ref().and_then(|known| overlapping(known, block)).map(|(_, owner)| owner.clone())
    }

    /// Whether the cluster's list gives a block to this node that it does not hold.
    fn may_adopt(&self, block: &BlockId) -> bool {
        self.ours.contains(block)
            && !self.held.contains_key(block)
            && !self.released.contains_key(block)
            && overlapping(&self.held, block).is_none()
    }

    /// Emits the set to announce if it has changed.
    pub(super) fn announce(&mut self) {
        let announced: BTreeSet<BlockId> =
            self.held.iter().filter(|(_, held)| held.announced()).map(|(block, _)| *block).collect();
        if announced != self.announced {
            self.outputs.push_back(Output::Owned(announced.clone()));
            self.announced = announced;
        }
    }

    /// Keeps the pauses between requests to the API server.
    fn note_answer(&mut self, block: &BlockId, outcome: Result<(), ClaimError>) {
        let pool = self.backoff_key(block);
        if outcome == Err(ClaimError::Failed) {
            let before = self.backoff.get(&pool).copied();
            let jitter =
                self.name.as_str().bytes().fold(0, |sum: u32, octet| sum.wrapping_mul(31) + u32::from(octet));
            self.backoff.insert(pool.clone(), Backoff::after(before, jitter, self.now));
            if before.is_none() {
                self.tell(Event::ClaimsFailing { pool });
            }
        } else if self.backoff.remove(&pool).is_some() {
            self.tell(Event::ClaimsFailingEnded { pool });
        }
    }

    /// Whether requests about a block are to pause.
    pub(super) fn paused(&self, block: &BlockId) -> bool {
        self.pool_paused(&self.backoff_key(block))
    }

    /// Whether claims from a pool are to pause.
    pub(super) fn pool_paused(&self, pool: &str) -> bool {
        self.backoff.get(pool).is_some_and(|backoff| backoff.retry_at > self.now)
    }

    /// The pool's name, or the block's where no pool is known.
    fn backoff_key(&self, block: &BlockId) -> String {
        self.pool_of(block).map_or_else(|| block.to_string(), |pool| pool.name.clone())
    }
}

/// Whether a title is a conflict, and with whom.
fn conflict(title: &Title) -> Option<Option<NodeName>> {
    match title {
        Title::Vanished => Some(None),
        Title::Foreign { owner } => Some(owner.clone()),
        Title::Claiming | Title::Remembered | Title::Owned { .. } | Title::Releasing => None,
    }
}
