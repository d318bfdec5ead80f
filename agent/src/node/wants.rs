//! From what a pod asks for to what the allocator is asked for.
//!
//! A pool's `namespaceSelector` holds for every way of asking: by default, by name, by network and by address, whoever
//! asks, the runtime included.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use manx_cni::spec::Code;
use manx_ipam::{Family, Want};

use super::asks::{Asks, PoolRef};
use super::intent::{PodPool, PodPools};
use super::pods::NamespaceNotes;

/// Somebody who asks for addresses.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// What the annotations say.
    pub asks: &'a Asks,
    /// The addresses that the runtime asks for; of their families, no annotation counts.
    pub runtime: &'a [IpAddr],
    /// The pod's namespace, unless there is no pod.
    pub namespace: Option<&'a str>,
    /// What is known of it.
    pub notes: Option<&'a NamespaceNotes>,
}

/// Why something that was asked for is not even tried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// No such pool.
    #[error("there is no pool {pool} for pods: check the name in the annotation {annotation}")]
    NoSuchPool {
        /// As it was named.
        pool: String,
        /// Where.
        annotation: &'static str,
    },
    /// A pool of the other family.
    #[error("pool {pool} ({cidr}) has no {family} addresses: name it in the annotation of its own family")]
    PoolFamily {
        /// Which.
        pool: String,
        /// Its network.
        cidr: IpNetwork,
        /// The family that was asked for.
        family: Family,
    },
    /// A pool of other nodes.
    #[error(
        "pool {pool} does not select this node: run the pod on one that it selects, or name another pool"
    )]
    PoolElsewhere {
        /// Which.
        pool: String,
    },
    /// A disabled pool.
    #[error("pool {pool} is disabled: enable it or name another")]
    PoolDisabled {
        /// Which.
        pool: String,
    },
    /// A pool for other namespaces.
    #[error("pool {pool} is not for pods of {namespace}: its namespaceSelector does not choose it")]
    PoolClosed {
        /// Which.
        pool: String,
        /// Whose pod asks.
        namespace: String,
    },
    /// An address of no pool.
    #[error("{address} is in no pool for pods: ask for an address of a pool")]
    AddressOutside {
        /// Which.
        address: IpAddr,
    },
    /// An address of a pool of other nodes.
    #[error(
        "{address} is of pool {pool}, which does not select this node: run the pod on one that it selects"
    )]
    AddressElsewhere {
        /// Which.
        address: IpAddr,
        /// Of which pool.
        pool: String,
    },
    /// An address of a pool for other namespaces.
    #[error(
        "{address} is of pool {pool}, which is not for pods of {namespace}: its namespaceSelector does not choose it"
    )]
    AddressClosed {
        /// Which.
        address: IpAddr,
        /// Of which pool.
        pool: String,
        /// Whose pod asks.
        namespace: String,
    },
    /// An address outside the pools that are named beside it.
    #[error("{address} is of pool {pool}, which is not among those that the annotation {annotation} names")]
    AddressUnnamed {
        /// Which.
        address: IpAddr,
        /// Of which pool.
        pool: String,
        /// Which names others.
        annotation: &'static str,
    },
    /// A family that no pool gives.
    #[error(
        "{family} is asked for, but no enabled automatic {family} pool that selects this node is for pods of {namespace}"
    )]
    NoPool {
        /// Which.
        family: Family,
        /// Whose pod asks.
        namespace: String,
    },
    /// Every pool is for other namespaces.
    #[error(
        "no enabled automatic pool that selects this node is for pods of {namespace}: widen a namespaceSelector"
    )]
    NothingOpen {
        /// Whose pod asks.
        namespace: String,
    },
}

impl Denial {
    /// The error for the runtime.
    pub fn code(&self) -> Code {
        match self {
            Self::NoPool { .. } | Self::NothingOpen { .. } => Code::NO_ADDRESS,
            _ => Code::ADDRESS_REFUSED,
        }
    }
}

impl Asking<'_> {
    /// What the allocator is to be asked for.
    ///
    /// # Errors
    /// When something that is asked for is not there, or not for this node or namespace.
    pub fn want(&self, pools: &PodPools) -> Result<Want, Denial> {
        let addresses = self.addresses();
        let mut want = Want { addresses: addresses.clone(), ..Want::default() };
        for &address in &addresses {
            want.pools.extend(self.pools_around(address, pools)?);
        }
        for family in Family::ALL {
            if addresses.iter().any(|address| Family::of(*address) == family) {
                set(&mut want, family);
                continue;
            }
            let from = self.pools_of(family, pools)?;
            if !from.is_empty() {
                set(&mut want, family);
                want.pools.extend(from);
            }
        }
        if addresses.is_empty() && self.asks.pools.is_empty() && pools.open_to_all() {
            // Any automatic pool will do, also one that is added while the request waits.
            want.pools.clear();
        }
        match (want.v4, want.v6, pools.iter().any(|(_, pool)| pool.serves())) {
            (false, false, true) => Err(Denial::NothingOpen { namespace: self.namespace() }),
            // With no pool at all the allocator says which one is missing.
            (false, false, false) => Ok(Want { v4: true, ..Want::default() }),
            _ => Ok(want),
        }
    }

    /// The fixed addresses: the runtime's, and those of the pod for families of which the runtime names none.
    fn addresses(&self) -> Vec<IpAddr> {
        let named = |family| self.runtime.iter().any(|address| Family::of(*address) == family);
        let more = self.asks.addresses.iter().filter(|(family, _)| !named(**family));
        self.runtime.iter().copied().chain(more.map(|(_, address)| *address)).collect()
    }

    /// The pools of an address that is asked for; of several that overlap, the allocator knows which one counts.
    fn pools_around(&self, address: IpAddr, pools: &PodPools) -> Result<BTreeSet<String>, Denial> {
        let around = pools.iter().filter(|(_, pool)| pool.cidr.contains(address));
        let mut denial = Denial::AddressOutside { address };
        let mut usable = BTreeSet::new();
        for (name, pool) in around {
            match self.denies(address, name, pool) {
                Some(reason) => denial = reason,
                None => drop(usable.insert(name.clone())),
            }
        }
        if usable.is_empty() { Err(denial) } else { Ok(usable) }
    }

    /// Why this pool may not give its address.
    fn denies(&self, address: IpAddr, name: &str, pool: &PodPool) -> Option<Denial> {
        let family = Family::of(address);
        let named = self.asks.pools.get(&family).filter(|_| !self.runtime.contains(&address));
        let pool_name = name.to_owned();
        if !pool.here {
            Some(Denial::AddressElsewhere { address, pool: pool_name })
        } else if !pool.admits(self.notes) {
            Some(Denial::AddressClosed { address, pool: pool_name, namespace: self.namespace() })
        } else if named.is_some_and(|refs| !refs.iter().any(|by| is(by, name, pool))) {
            Some(Denial::AddressUnnamed { address, pool: pool_name, annotation: annotation(family) })
        } else {
            None
        }
    }

    /// The pools that may give an address of this family; none if the pod is not to have one.
    fn pools_of(&self, family: Family, pools: &PodPools) -> Result<BTreeSet<String>, Denial> {
        let asked = self.asks.families.as_ref().map(|families| families.contains(&family));
        if asked == Some(false) {
            return Ok(BTreeSet::new());
        }
        if let Some(named) = self.asks.pools.get(&family) {
            return self.named(named, family, pools);
        }
        let serves = |pool: &PodPool| pool.serves() && pool.family() == family && pool.admits(self.notes);
        let serving: BTreeSet<String> =
            pools.iter().filter(|(_, pool)| serves(pool)).map(|(name, _)| name.clone()).collect();
        match serving.is_empty() && asked == Some(true) {
            true => Err(Denial::NoPool { family, namespace: self.namespace() }),
            false => Ok(serving),
        }
    }

    /// Those of the named pools that this node can use. One that is of other nodes or disabled does not matter beside
    /// one that can be used; one that does not exist or is not for this namespace is a mistake in any case.
    fn named(
        &self,
        named: &BTreeSet<PoolRef>,
        family: Family,
        pools: &PodPools,
    ) -> Result<BTreeSet<String>, Denial> {
        let mut usable = BTreeSet::new();
        let mut unusable = None;
        for by in named {
            let found = pools.iter().find(|(name, pool)| is(by, name, pool));
            let Some((name, pool)) = found else {
                return Err(Denial::NoSuchPool { pool: by.to_string(), annotation: annotation(family) });
            };
            if pool.family() != family {
                return Err(Denial::PoolFamily { pool: name.clone(), cidr: pool.cidr, family });
            }
            if !pool.admits(self.notes) {
                return Err(Denial::PoolClosed { pool: name.clone(), namespace: self.namespace() });
            }
            if !pool.here {
                unusable.get_or_insert_with(|| Denial::PoolElsewhere { pool: name.clone() });
            } else if pool.disabled {
                unusable.get_or_insert_with(|| Denial::PoolDisabled { pool: name.clone() });
            } else {
                usable.insert(name.clone());
            }
        }
        match unusable.filter(|_| usable.is_empty()) {
            Some(denial) => Err(denial),
            None => Ok(usable),
        }
    }

    fn namespace(&self) -> String {
        self.namespace.map_or_else(|| "no namespace".to_owned(), |name| format!("namespace {name}"))
    }
}

fn set(want: &mut Want, family: Family) {
    match family {
        Family::V4 => want.v4 = true,
        Family::V6 => want.v6 = true,
    }
}

fn is(by: &PoolRef, name: &str, pool: &PodPool) -> bool {
    match by {
        PoolRef::Name(named) => named == name,
        PoolRef::Range(range) => *range == pool.cidr,
    }
}

fn annotation(family: Family) -> &'static str {
    match family {
        Family::V4 => "manx.dev/ipv4pools",
        Family::V6 => "manx.dev/ipv6pools",
    }
}

#[cfg(test)]
mod tests;
