//! Claimed addresses: those that belong to the name of a pod, wherever it runs.
//!
//! Nobody else gets one, on no node. What keeps that true while blocks change hands:
//!
//! - Only the owner of its block *sets an address aside*: from then on, by the record, over restarts, it gives the
//!   address to nobody but that claim. An address that somebody else has is set aside once it is free.
//! - What is set aside is then written into the claim as *reserved*. Of an address that is reserved it does not matter
//!   who owns the block: the node that holds the claim gives it, be the block another's or nobody's ("visiting").
//! - A block may be released while claims lie in it, if all of them are reserved: the next owner reads the claims after
//!   its own claim of the block, before it gives the first address ([`Input::Claimed`](crate::Input::Claimed)). To
//!   keep such blocks would be no simpler, since a node that dies gives its blocks back without asking, and it would
//!   tie up a whole block for one address that has moved away.
//!
//! Of several claims of one address that counts which has it reserved, then for which it is set aside, then the oldest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::NodeIpam;
use super::held::{Held, Title, covering};
use crate::endpoint::{Endpoint, EndpointId};
use crate::journal::Entry;
use crate::ledger::Use;
use crate::name::{BlockId, NodeName};

/// What the cluster says of one claim of addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressClaim {
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Those of them that the owner of their block has set aside.
    pub reserved: BTreeSet<IpAddr>,
    /// The node on which they are in use.
    pub node: Option<NodeName>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
}

impl NodeIpam {
    pub(super) fn on_claims(&mut self, claims: BTreeMap<String, AddressClaim>) {
        self.claims = Some(claims);
        self.choose_claimants();
        self.attach_found();
        self.hold_orphans();
    }

    /// Decides which claim of an address counts.
    fn choose_claimants(&mut self) {
        let mut chosen: BTreeMap<IpAddr, ((bool, bool, i64), &String)> = BTreeMap::new();
        for (key, claim) in self.claims.iter().flatten() {
            for address in &claim.addresses {
                let set_aside = self.ledger.aside(*address) == Some(key);
                let rank = (!claim.reserved.contains(address), !set_aside, claim.created);
                let better = chosen.get(address).is_none_or(|(best, _)| rank < *best);
                if better {
                    chosen.insert(*address, (rank, key));
                }
            }
        }
        let chosen = chosen.into_iter().map(|(address, (_, key))| (address, key.clone())).collect();
        if self.claimants != chosen {
            self.claimants = chosen;
            self.barren.clear();
            self.reserve_all();
        }
    }

    /// Endpoints that were found in the kernel and lack in the record say nothing of their claim.
    fn attach_found(&mut self) {
        let claim_of = |endpoint: &Endpoint| {
            // What is reserved has no other holder; without that it may be another pod's.
            let mut keys = endpoint.addresses.iter().filter_map(|address| {
                self.claimants.get(address).filter(|key| self.is_reserved_for(*address, key))
            });
            let key = keys.find(|key| self.holds(key))?;
            Some(Endpoint { claim: Some(key.clone()), ..endpoint.clone() })
        };
        let plain = self.ledger.endpoints().filter(|endpoint| endpoint.claim.is_none());
        let attached: Vec<Endpoint> = plain.filter_map(claim_of).collect();
        for endpoint in attached {
            self.write(&Entry::Assign(endpoint));
        }
    }

    /// Sets aside what is claimed in this node's blocks, and lets go of what is not any more.
    pub(super) fn set_aside(&mut self) {
        if self.claims.is_none() {
            return;
        }
        let ours = self.held.iter().filter(|(_, held)| vouches(held));
        let claimed = ours.flat_map(|(block, _)| self.claimants.range(block.first()..=block.last()));
        let due: BTreeMap<IpAddr, String> = claimed
            .filter(|(address, key)| {
                self.ledger.aside(**address) == Some(*key) || self.is_free_for(**address, key)
            })
            .map(|(address, key)| (*address, key.clone()))
            .collect();
        // A block that seems to be nobody's may be this node's when a late list catches up: what is set aside there stays
        // so, by the record too.
        let unsure = |address: IpAddr, key: &String| {
            let held = covering(&self.held, address).and_then(|block| self.held.get(&block));
            held.is_some_and(|held| held.title == Title::Vanished)
                && self.claimants.get(&address) == Some(key)
        };
        let over = self.ledger.asides().filter(|(address, key)| due.get(address) != Some(key));
        let over = over.filter(|(address, key)| !unsure(**address, key));
        let over: Vec<IpAddr> = over.map(|(address, _)| *address).collect();
        for address in over {
            self.write(&Entry::Forgo(address));
        }
        for (address, key) in due {
            if self.ledger.aside(address) != Some(&key) {
                self.write(&Entry::Aside(address, key));
            }
        }
    }

    /// Whether nobody but this claim has an address.
    fn is_free_for(&self, address: IpAddr, key: &str) -> bool {
        match self.ledger.use_of(address) {
            Some(Use::Live(id) | Use::Leaving(id)) => self.claim_of(id, address) == Some(key),
            Some(Use::Freed(_)) | None => true,
        }
    }

    /// The claim for which an endpoint has an address.
    fn claim_of(&self, id: &EndpointId, address: IpAddr) -> Option<&str> {
        let leaving = self.ledger.leaving().filter(|endpoint| endpoint.id == *id);
        let mut all = self.ledger.endpoint(id).into_iter().chain(leaving);
        all.find(|endpoint| endpoint.addresses.contains(&address))
            .and_then(|endpoint| endpoint.claim.as_deref())
    }

    fn claim_named(&self, key: &str) -> Option<&AddressClaim> {
        self.claims.as_ref().and_then(|claims| claims.get(key))
    }

    /// Whether this node has the addresses of a claim.
    fn holds(&self, key: &str) -> bool {
        self.claim_named(key).is_some_and(|claim| claim.node.as_ref() == Some(&self.name))
    }

    /// Whether an address is reserved for a claim, so that it can be given in any node's block.
    pub(super) fn is_reserved_for(&self, address: IpAddr, key: &str) -> bool {
        self.claimants.get(&address).is_some_and(|claimant| claimant == key)
            && self.claim_named(key).is_some_and(|claim| claim.reserved.contains(&address))
    }

    /// Whether an address that is in use needs no block of this node's.
    pub(super) fn visits(&self, address: IpAddr, usage: &Use) -> bool {
        let (Use::Live(id) | Use::Leaving(id)) = usage else { return false };
        // As long as the claims are not known, an endpoint that had its address by one keeps it so.
        if self.claims.is_none() {
            return self.claim_of(id, address).is_some();
        }
        let Some(key) = self.claimants.get(&address).filter(|key| self.is_reserved_for(address, key)) else {
            return false;
        };
        self.claim_of(id, address) == Some(key) || self.holds(key)
    }

    /// Whether a block that is not this node's need not be, for those who have addresses in it.
    pub(super) fn only_visited(&self, block: &BlockId) -> bool {
        let mut in_use =
            self.ledger.uses_in(block).filter(|(_, usage)| !matches!(usage, Use::Freed(_))).peekable();
        in_use.peek().is_some() && in_use.all(|(address, usage)| self.visits(address, usage))
    }

    /// Whether a block holds an address that is set aside and not reserved yet: its next owner might not know.
    pub(super) fn must_vouch(&self, block: &BlockId) -> bool {
        let mut asides = self.ledger.asides_in(block);
        asides.any(|(address, key)| !self.is_reserved_for(*address, key))
    }

    /// The addresses of a block that are claimed.
    pub(super) fn claimed_in(&self, block: &BlockId) -> BTreeSet<IpAddr> {
        self.claimants.range(block.first()..=block.last()).map(|(address, _)| *address).collect()
    }
}

/// Whether this node may say of a block's addresses whom they are for.
fn vouches(held: &Held) -> bool {
    match held.title {
        Title::Remembered | Title::Owned { .. } => true,
        Title::Claiming | Title::Vanished | Title::Foreign { .. } | Title::Releasing => false,
    }
}
