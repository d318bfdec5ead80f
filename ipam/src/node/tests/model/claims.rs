//! The model's part for claimed addresses: the claims of the API server, another node that visits, and what must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;

use super::{World, pod_id};
use crate::node::tests::bench::{NODE, endpoint, ip};
use crate::{AddressClaim, EndpointId, Input, Want, recover};

/// Something that happens to one of four claims.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Somebody makes it, with this address.
    Make(u8),
    /// Somebody deletes it; it goes if nobody has its addresses.
    Delete,
    /// This node takes it, if nobody has it.
    Hold,
    /// Another node takes it if nobody has it, and uses it.
    HoldElsewhere,
    /// Whoever has it gives it back, if no endpoint has its addresses or waits for them.
    Release,
    /// A pod here asks for its addresses.
    Assign(u8),
    /// What this node has set aside is written down.
    Reserve,
    /// This node hears of all claims.
    Show,
}

pub(super) fn step() -> impl Strategy<Value = (u8, Step)> {
    let what = prop_oneof![
        4 => (0u8..32).prop_map(Step::Make),
        1 => Just(Step::Delete),
        3 => Just(Step::Hold),
        3 => Just(Step::HoldElsewhere),
        2 => Just(Step::Release),
        5 => (0u8..10).prop_map(Step::Assign),
        4 => Just(Step::Reserve),
        4 => Just(Step::Show),
    ];
    (0u8..4, what)
}

/// The claims of the API server, and what this life of the node knows of them.
#[derive(Default)]
pub(super) struct Claims {
    all: BTreeMap<String, AddressClaim>,
    shown: Option<BTreeMap<String, AddressClaim>>,
    made: i64,
}

impl Claims {
    pub(super) fn begin_life(&mut self) {
        self.shown = None;
    }
}

impl World {
    pub(super) fn on_claim(&mut self, which: u8, step: Step) {
        let key = format!("claim{which}");
        let here = Some(NODE.into());
        match step {
            Step::Make(n) => {
                let address =
                    if n < 16 { ip(&format!("10.0.0.{n}")) } else { ip(&format!("fd00::{:x}", n - 16)) };
                self.claims.made += 1;
                let claim = AddressClaim {
                    addresses: [address].into(),
                    created: self.claims.made,
                    ..AddressClaim::default()
                };
                self.claims.all.entry(key).or_insert(claim);
            }
            Step::Delete => self.claims.all.retain(|name, claim| *name != key || claim.node.is_some()),
            Step::Hold => {
                if let Some(claim) = self.claims.all.get_mut(&key).filter(|claim| claim.node.is_none()) {
                    claim.node = here;
                }
            }
            Step::HoldElsewhere => self.hold_elsewhere(&key),
            Step::Release => {
                let asked = self.requests.values().any(|(_, want, _)| want.claim.as_ref() == Some(&key));
                let used = asked || self.users_of(&key).next().is_some();
                if let Some(claim) = self.claims.all.get_mut(&key)
                    && (claim.node != here || !used)
                {
                    claim.node = None;
                }
            }
            Step::Assign(pod) => self.assign_claimed(&key, pod),
            Step::Reserve => self.reserve(),
            Step::Show => self.show_claims(),
        }
    }

    /// Another node uses what is reserved wherever it lies: nobody here may have it then.
    fn hold_elsewhere(&mut self, key: &str) {
        let Some(claim) = self.claims.all.get_mut(key).filter(|claim| claim.node.is_none()) else { return };
        if !claim.addresses.is_subset(&claim.reserved) {
            return;
        }
        claim.node = Some("other".into());
        let taken = claim.addresses.clone();
        let in_use = self.live.values().chain(self.leaving.values()).flatten();
        assert_eq!(in_use.copied().find(|address| taken.contains(address)), None, "{key} has two holders");
    }

    fn assign_claimed(&mut self, key: &str, pod: u8) {
        let Some(claim) = self.claims.all.get(key).filter(|claim| claim.node == Some(NODE.into())) else {
            return;
        };
        let addresses = claim.addresses.iter().copied().collect();
        let want = Want { addresses, claim: Some(key.to_owned()), ..Want::default() };
        let (request, id) = (self.request(), pod_id(pod));
        self.unlinked.remove(&id);
        self.requests.insert(request, (id.clone(), want.clone(), self.now + super::WAIT));
        let claimed = crate::Endpoint { claim: want.claim.clone(), ..endpoint(&id.container) };
        self.feed(Input::Assign { request, endpoint: claimed, want });
    }

    /// Writes down what this node has set aside, as its agent does.
    fn reserve(&mut self) {
        if self.unrecorded {
            return;
        }
        let set_aside: Vec<(IpAddr, String)> =
            self.ipam.set_aside_for().map(|(address, key)| (address, key.to_owned())).collect();
        for (address, key) in set_aside {
            let meddled = self.meddled.iter().any(|block| block.contains(address));
            let Some(claim) = self.claims.all.get_mut(&key).filter(|_| !meddled) else { continue };
            if !claim.addresses.contains(&address) || !claim.reserved.insert(address) {
                continue;
            }
            let others = self.claims.all.iter().filter(|(other, _)| **other != key);
            let twice = others.filter(|(_, claim)| claim.reserved.contains(&address)).count();
            assert_eq!(twice, 0, "{address} is reserved for two claims");
            for (id, addresses) in self.live.iter().chain(&self.leaving) {
                let ours = self.holders.get(id).is_some_and(|holder| *holder == key);
                assert!(!addresses.contains(&address) || ours, "{address} of {id} is set aside for {key}");
            }
        }
    }

    pub(super) fn show_claims(&mut self) {
        self.claims.shown = Some(self.claims.all.clone());
        self.feed(Input::SetClaims(self.claims.all.clone()));
    }

    /// The first list of claims comes before that of blocks.
    pub(super) fn show_claims_first(&mut self) {
        if self.claims.shown.is_none() && !self.claims.all.is_empty() {
            self.show_claims();
        }
    }

    fn users_of<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a EndpointId> {
        let living = self.live.keys().chain(self.leaving.keys());
        living.filter(move |id| self.holders.get(*id).is_some_and(|holder| holder == key))
    }

    /// Addresses that the node knows to be claimed.
    pub(super) fn claimed(&self) -> BTreeSet<IpAddr> {
        match &self.claims.shown {
            Some(shown) => shown.values().flat_map(|claim| claim.addresses.iter().copied()).collect(),
            None => recover(&self.record).claimed.into_keys().collect(),
        }
    }

    /// What holds for an address just given; true when it needs no block of this node's.
    pub(super) fn check_claimed(&self, address: IpAddr, want: &Want) -> bool {
        for (key, claim) in &self.claims.all {
            if want.claim.as_ref() == Some(key) {
                assert_eq!(claim.node, Some(NODE.into()), "only who holds a claim gives its addresses");
            } else {
                let reserved = claim.reserved.contains(&address);
                assert!(
                    !reserved || self.meddled.iter().any(|block| block.contains(address)),
                    "{address} is {key}'s"
                );
            }
        }
        let named = want.claim.as_ref();
        assert!(named.is_some() || !self.claimed().contains(&address), "{address} is claimed");
        let claim = named.and_then(|key| self.claims.all.get(key));
        claim.is_some_and(|claim| claim.reserved.contains(&address))
    }

    /// Nobody holds or makes a claim any more.
    pub(super) fn end_claims(&mut self) {
        self.claims.all.clear();
        self.show_claims();
    }
}
