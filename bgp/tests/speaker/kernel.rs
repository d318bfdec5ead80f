//! The routes that a speaker's outputs make, as a kernel would hold them.

use std::collections::{BTreeMap, BTreeSet};

use manx_bgp::{Gateway, HopSet, Output, Prefix};

/// Sets, and which prefix is in which.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    sets: BTreeMap<HopSet, BTreeSet<Gateway>>,
    members: BTreeMap<Prefix, HopSet>,
}

/// Where each prefix leads.
pub(crate) type Routes = BTreeMap<Prefix, BTreeSet<Gateway>>;

impl Kernel {
    /// Takes what an output says of routes; gives the prefixes that lost theirs.
    pub(crate) fn take(&mut self, output: &Output, routes: &mut Routes) -> Vec<Prefix> {
        match output {
            Output::Hops { set, gateways } if gateways.is_empty() => {
                self.sets.remove(set);
                let void = self.members.iter().filter(|(_, member)| *member == set);
                let void: Vec<Prefix> = void.map(|(prefix, _)| *prefix).collect();
                void.into_iter().filter(|prefix| self.lose(prefix, routes)).collect()
            }
            Output::Hops { set, gateways } => {
                self.sets.insert(*set, gateways.clone());
                let moved = self.members.iter().filter(|(_, member)| *member == set);
                routes.extend(moved.map(|(prefix, _)| (*prefix, gateways.clone())));
                Vec::new()
            }
            Output::Route { prefix, set: None } => {
                if self.lose(prefix, routes) {
                    vec![*prefix]
                } else {
                    Vec::new()
                }
            }
            Output::Route { prefix, set: Some(HopSet::DISCARD) } => {
                routes.insert(*prefix, BTreeSet::new());
                self.members.insert(*prefix, HopSet::DISCARD);
                Vec::new()
            }
            Output::Route { prefix, set: Some(set) } => {
                let gateways = self.sets.get(set).expect("a set is told before its prefixes");
                routes.insert(*prefix, gateways.clone());
                self.members.insert(*prefix, *set);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn lose(&mut self, prefix: &Prefix, routes: &mut Routes) -> bool {
        self.members.remove(prefix);
        routes.remove(prefix).is_some()
    }
}
