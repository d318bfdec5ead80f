//! Endpoints and their addresses: assign, free, collect, adopt.
//!
//! An address goes round: assigned, freed (it stays out of use while its link exists), resting for the
//! cooldown, free again behind all others of its block. Among several blocks the fullest gives first, so that
//! the others can be returned.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ipnetwork::IpNetwork;

use super::NodeIpam;
use super::door::{AssignError, Event, Output, Want};
use super::held::{Title, covering};
use crate::endpoint::{Endpoint, EndpointId};
use crate::journal::{Entry, Gone};
use crate::ledger::Use;
use crate::name::{BlockId, Family, RequestId};
use crate::pool::Pool;

/// A request that no address was found for yet.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) request: RequestId,
    pub(super) endpoint: Endpoint,
    pub(super) want: Want,
    pub(super) until: Instant,
    /// What it lacked when it was last tried.
    pub(super) lacks: Vec<Lack>,
}

/// Why a request cannot be served now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lack {
    /// It cannot be served at all.
    Never(AssignError),
    /// No free address of the family.
    Room(Family),
    /// The block of an address that was asked for is not this node's.
    Block { address: IpAddr, block: BlockId, pool: String },
    /// An address that was asked for still belongs to a link.
    Leaving { address: IpAddr, holder: EndpointId },
    /// Pools or blocks are not known yet.
    Unknown,
}

impl NodeIpam {
    pub(super) fn on_assign(&mut self, request: RequestId, endpoint: Endpoint, want: Want) {
        self.unlinked.remove(&endpoint.id);
        if self.rewrite_at.is_some() {
            return self.answer(Output::Refused { request, why: AssignError::NotRecorded });
        }
        if self.ledger.endpoint(&endpoint.id).is_none()
            && want == (Want { pools: want.pools.clone(), ..Want::default() })
        {
            return self.answer(Output::Refused { request, why: AssignError::NothingWanted });
        }
        let until = self.now + self.limits.wait;
        self.waiting.push(Waiting { request, endpoint, want, until, lacks: Vec::new() });
    }

    pub(super) fn on_free(&mut self, request: RequestId, id: &EndpointId) {
        let withdrawn: Vec<Waiting> =
            self.waiting.extract_if(.., |waiting| waiting.endpoint.id == *id).collect();
        for waiting in withdrawn {
            self.answer(Output::Refused { request: waiting.request, why: AssignError::Withdrawn });
        }
        let endpoint = self.free(id);
        self.answer(Output::Freed { request, endpoint });
    }

    pub(super) fn on_link_gone(&mut self, id: &EndpointId) {
        if self.ledger.is_leaving(id) {
            let freed = self.write(&Entry::Gone(Gone::new(id.clone(), Some(self.uptime()))));
            freed.into_iter().for_each(|address| self.rest(address));
        } else if self.ledger.endpoint(id).is_some() {
            self.unlinked.insert(id.clone());
        }
    }

    pub(super) fn on_keep(&mut self, valid: &BTreeSet<EndpointId>) {
        let stale: Vec<EndpointId> =
            self.endpoints().map(|endpoint| &endpoint.id).filter(|id| !valid.contains(id)).cloned().collect();
        for id in stale {
            if let Some(endpoint) = self.free(&id) {
                self.answer(Output::Collected(endpoint));
            }
        }
    }

    pub(super) fn on_adopt(&mut self, found: Vec<Endpoint>) {
        for endpoint in found {
            let known = self.ledger.endpoint(&endpoint.id).is_some() || self.ledger.is_leaving(&endpoint.id);
            if known || endpoint.addresses.is_empty() {
                continue;
            }
            let holders =
                endpoint.addresses.iter().filter_map(|address| match self.ledger.use_of(*address) {
                    Some(Use::Live(holder) | Use::Leaving(holder)) => Some((*address, holder.clone())),
                    Some(Use::Freed(_)) | None => None,
                });
            match holders.collect::<Vec<_>>().pop() {
                Some((address, holder)) => {
                    self.tell(Event::AddressConflict { address, holder, found: endpoint.id });
                }
                None => self.occupy(&endpoint),
            }
        }
        self.hold_orphans();
    }

    /// Tries all that wait, oldest first.
    pub(super) fn serve(&mut self) {
        if self.rewrite_at.is_some() {
            return;
        }
        // Serving others only takes: what one wish lacked, an equal one lacks too.
        let mut in_vain: Vec<(Want, Vec<Lack>)> = Vec::new();
        for mut waiting in std::mem::take(&mut self.waiting) {
            if self.ledger.endpoint(&waiting.endpoint.id).is_some() {
                self.confirm(waiting);
                continue;
            }
            if let Some(lack) = self.former_life(&waiting.endpoint.id) {
                waiting.lacks = vec![lack];
                self.waiting.push(waiting);
                continue;
            }
            let equal = in_vain.iter().find(|(want, _)| *want == waiting.want);
            match equal.map_or_else(|| self.pick(&waiting.want), |(_, lacks)| Err(lacks.clone())) {
                Ok(addresses) => {
                    let endpoint = Endpoint { addresses, ..waiting.endpoint };
                    self.occupy(&endpoint);
                    self.turnover.begun += 1;
                    self.note_given(&endpoint);
                    self.answer(Output::Assigned { request: waiting.request, endpoint });
                }
                Err(lacks) => {
                    if equal.is_none() && waiting.want.addresses.is_empty() {
                        in_vain.push((waiting.want.clone(), lacks.clone()));
                    }
                    waiting.lacks = lacks;
                    self.waiting.push(waiting);
                }
            }
        }
        let served = |waiting: &mut Waiting| self.ledger.endpoint(&waiting.endpoint.id).is_some();
        let repeated: Vec<Waiting> = self.waiting.extract_if(.., served).collect();
        repeated.into_iter().for_each(|waiting| self.confirm(waiting));
    }

    /// A container that starts again waits for the end of its former link: by their marks nobody could tell the two
    /// apart, and the new one would be removed in place of the old.
    fn former_life(&self, id: &EndpointId) -> Option<Lack> {
        let former =
            self.ledger.is_leaving(id).then(|| self.ledger.leaving().find(|former| former.id == *id));
        let address = *former.flatten()?.addresses.first()?;
        Some(Lack::Leaving { address, holder: id.clone() })
    }

    /// Refuses those for whom nothing can come in time.
    pub(super) fn refuse(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            let hopeless = |lack: &&Lack| self.now >= waiting.until || !self.hopes(lack, &waiting);
            match waiting.lacks.iter().find(hopeless) {
                Some(lack) => {
                    let why = self.reason(lack, &waiting.want);
                    self.answer(Output::Refused { request: waiting.request, why });
                }
                None => self.waiting.push(waiting),
            }
        }
    }

    /// Answers a repeated request with the same addresses, and notes whatever else is new about its endpoint.
    fn confirm(&mut self, Waiting { request, endpoint: asked, .. }: Waiting) {
        let Some(known) = self.ledger.endpoint(&asked.id) else { return };
        let claim = asked.claim.clone().or_else(|| known.claim.clone());
        let endpoint = Endpoint { addresses: known.addresses.clone(), since: known.since, claim, ..asked };
        if *known != endpoint {
            self.write(&Entry::Assign(endpoint.clone()));
            self.answer(Output::EndpointsChanged);
        }
        self.answer(Output::Assigned { request, endpoint });
    }

    /// Gives an endpoint the addresses that it lists.
    fn occupy(&mut self, endpoint: &Endpoint) {
        self.write(&Entry::Assign(endpoint.clone()));
        for address in &endpoint.addresses {
            if let Some(held) = covering(&self.held, *address).and_then(|block| self.held.get_mut(&block)) {
                held.block.take(*address);
            }
        }
        endpoint.addresses.iter().for_each(|address| self.cooling.remove(*address));
        self.answer(Output::EndpointsChanged);
    }

    fn free(&mut self, id: &EndpointId) -> Option<Endpoint> {
        let endpoint = self.ledger.endpoint(id)?.clone();
        self.write(&Entry::Free(id.clone()));
        self.turnover.ended += 1;
        self.answer(Output::EndpointsChanged);
        if self.unlinked.remove(id) {
            self.on_link_gone(id);
        }
        Some(endpoint)
    }

    fn answer(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    /// Addresses that satisfy a wish whole, IPv4 first, or all that is lacking.
    fn pick(&self, want: &Want) -> Result<Vec<IpAddr>, Vec<Lack>> {
        let (mut picked, mut lacks) = (Vec::new(), Vec::new());
        for family in Family::ALL {
            let wanted = if family == Family::V4 { want.v4 } else { want.v6 };
            let exact: BTreeSet<IpAddr> =
                want.addresses.iter().copied().filter(|address| Family::of(*address) == family).collect();
            let any = (wanted && exact.is_empty()).then(|| self.pick_any(family, &want.pools));
            for pick in exact.into_iter().map(|address| self.pick_exact(address, want)).chain(any) {
                match pick {
                    Ok(address) => picked.push(address),
                    Err(lack) => lacks.push(lack),
                }
            }
        }
        if lacks.is_empty() { Ok(picked) } else { Err(lacks) }
    }

    /// The next address of the fullest block that has one, in the first pool that has one.
    fn pick_any(&self, family: Family, named: &BTreeSet<String>) -> Result<IpAddr, Lack> {
        if self.pools.is_none() {
            return Err(Lack::Unknown);
        }
        let pools = self.eligible(family, named);
        if pools.is_empty() {
            return Err(Lack::Never(self.no_pool(family, named)));
        }
        let in_pool = |pool: Arc<Pool>| {
            let usable =
                self.held.iter().filter(|(block, held)| pool.reaches(block) && self.assignable(held));
            let fullest =
                usable.filter(|(_, held)| held.block.free() > 0).min_by_key(|(_, held)| held.block.free());
            fullest.and_then(|(_, held)| held.block.next())
        };
        let lack = if self.known.is_none() { Lack::Unknown } else { Lack::Room(family) };
        pools.into_iter().find_map(in_pool).ok_or(lack)
    }

    /// An address that was asked for by value. It need not have rested: who asks for it expects its history.
    fn pick_exact(&self, address: IpAddr, want: &Want) -> Result<IpAddr, Lack> {
        let Some(pools) = &self.pools else { return Err(Lack::Unknown) };
        let allowed = |pool: &&Arc<Pool>| want.pools.is_empty() || want.pools.contains(&pool.name);
        let pool = pools.iter().filter(allowed).find(|pool| pool.cidr.contains(address));
        let pool = pool.ok_or(Lack::Never(AssignError::OutsidePools { address }))?;
        if let Some(claim) = self.claimants.get(&address).filter(|key| want.claim.as_ref() != Some(key)) {
            return Err(Lack::Never(AssignError::AddressClaimed { address, claim: claim.clone() }));
        }
        // What is reserved for a claim was given to it before.
        let reserved = want.claim.as_ref().is_some_and(|key| self.is_reserved_for(address, key));
        if pool.disabled && !reserved {
            return Err(Lack::Never(AssignError::PoolDisabled { pool: pool.name.clone() }));
        }
        if pool.is_reserved(address) && !reserved {
            return Err(Lack::Never(AssignError::AddressReserved { address, pool: pool.name.clone() }));
        }
        match self.ledger.use_of(address) {
            Some(Use::Live(holder)) => {
                return Err(Lack::Never(AssignError::AddressTaken { address, holder: holder.clone() }));
            }
            Some(Use::Leaving(holder)) => return Err(Lack::Leaving { address, holder: holder.clone() }),
            Some(Use::Freed(_)) | None => {}
        }
        if reserved {
            return Ok(address);
        }
        let block = BlockId::around(address, pool.block_len);
        if let Some(within) = pool.within.as_ref().filter(|_| !pool.reaches(&block)) {
            let (pool, within) = (pool.name.clone(), list(within));
            return Err(Lack::Never(AssignError::OutsidePodCidrs { address, pool, within }));
        }
        match self.held.get(&block) {
            Some(held) if self.assignable(held) => return Ok(address),
            Some(_) | None if self.known.is_none() => return Err(Lack::Unknown),
            Some(_) | None => {}
        }
        match self.owner_elsewhere(&block).filter(|owner| *owner != self.name) {
            Some(node) if want.claim.is_some() => {
                Err(Lack::Never(AssignError::AddressUnreserved { address, node }))
            }
            Some(node) => Err(Lack::Never(AssignError::AddressElsewhere { address, node })),
            None => Err(Lack::Block { address, block, pool: pool.name.clone() }),
        }
    }

    /// Why no pool is eligible.
    fn no_pool(&self, family: Family, named: &BTreeSet<String>) -> AssignError {
        if named.is_empty() {
            return AssignError::NoPool { family };
        }
        let known =
            self.pools.iter().flatten().find(|pool| pool.family() == family && named.contains(&pool.name));
        match known {
            Some(pool) => AssignError::PoolDisabled { pool: pool.name.clone() },
            None => AssignError::UnknownPool { family, pools: join(named.iter().map(String::as_str)) },
        }
    }

    /// Whether what is lacking may come before the request runs out.
    fn hopes(&self, lack: &Lack, waiting: &Waiting) -> bool {
        match lack {
            Lack::Never(_) => false,
            Lack::Leaving { .. } | Lack::Unknown => true,
            Lack::Block { block, .. } => self.held.contains_key(block) || self.may_grow(block),
            Lack::Room(family) => {
                let pools = self.eligible(*family, &waiting.want.pools);
                let coming = pools.iter().any(|pool| self.pool_paused(&pool.name));
                coming
                    || self.held.iter().any(|(block, held)| {
                        pools.iter().any(|pool| pool.reaches(block))
                            && match held.title {
                                Title::Claiming | Title::Remembered | Title::Vanished | Title::Releasing => {
                                    true
                                }
                                Title::Owned { .. } => self.rests_until(block, waiting.until),
                                Title::Foreign { .. } => false,
                            }
                    })
            }
        }
    }

    /// Whether an address of a block may be free again by then.
    fn rests_until(&self, block: &BlockId, until: Instant) -> bool {
        let leaving = || self.ledger.uses_in(block).any(|(_, usage)| matches!(usage, Use::Leaving(_)));
        let soon = self.now + self.cooldown(block.first()) <= until;
        self.cooling.within(block).any(|(_, end)| end <= until) || (soon && leaving())
    }

    /// The lack in words for whoever asked.
    fn reason(&self, lack: &Lack, want: &Want) -> AssignError {
        match lack {
            Lack::Never(why) => why.clone(),
            Lack::Unknown => AssignError::NotReady,
            Lack::Leaving { address, holder } => {
                AssignError::AddressLeaving { address: *address, holder: holder.clone() }
            }
            Lack::Block { block, pool, .. } => {
                self.shortage(block.family(), &[pool.clone()].into(), self.held.contains_key(block))
            }
            Lack::Room(family) => {
                let pools: BTreeSet<String> =
                    self.eligible(*family, &want.pools).iter().map(|pool| pool.name.clone()).collect();
                self.shortage(*family, &pools, self.claiming(&pools))
            }
        }
    }

    /// Why no block came, or comes.
    fn shortage(&self, family: Family, pools: &BTreeSet<String>, pending: bool) -> AssignError {
        let failing = pools.iter().find(|pool| self.backoff.contains_key(*pool));
        match (failing, pools.first()) {
            (Some(pool), _) => return AssignError::ClaimFailed { family, pool: pool.clone() },
            (None, Some(pool)) if pending => {
                return AssignError::ClaimPending { family, pool: pool.clone() };
            }
            _ if self.at_limit(family) => {
                return AssignError::BlockLimit { family, limit: self.limits.max_blocks };
            }
            _ => {}
        }
        let tried = || self.pools.iter().flatten().filter(|pool| pools.contains(&pool.name));
        let limited = tried().find(|pool| self.at_pool_limit(pool));
        if let Some((pool, limit)) = limited.and_then(|pool| Some((pool, pool.max_blocks?))) {
            return AssignError::PoolBlockLimit { family, pool: pool.name.clone(), limit };
        }
        let bound = tried().find_map(|pool| Some((pool, pool.within.as_ref()?)));
        if let Some((pool, within)) = bound.filter(|_| pools.len() == 1) {
            return AssignError::PodCidrsFull { family, pool: pool.name.clone(), within: list(within) };
        }
        AssignError::PoolFull { family, pools: join(pools.iter().map(String::as_str)) }
    }
}

fn list(networks: &[IpNetwork]) -> String {
    let texts: Vec<String> = networks.iter().map(IpNetwork::to_string).collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}

fn join<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
