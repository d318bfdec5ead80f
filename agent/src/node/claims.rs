//! Addresses that follow a pod's name: who may start a pod that has a claim, and what the API server is told.
//!
//! A start goes through up to three steps, and is answered after the last: the claim is *held* (the API server says that
//! this node has it, and so no other), the addresses are *assigned*, and the claim is *settled* where it does not say
//! all of that yet (there is none, or addresses are not reserved). A claim that this node surely holds costs no request.
//!
//! Everything else follows from how things stand, not from what happened, so a crash at any point is mended by looking:
//! what this node holds and nobody here uses is released; what an endpoint uses and the claim does not say is settled;
//! what is set aside and not reserved is reserved. One order for each claim is out at a time, tried again with pauses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use manx_cni::rpc::Reply;
use manx_cni::spec::Code;
use manx_ipam::{AddressClaim, AssignError, BlockId, Endpoint, Family, NodeName, RequestId, Want};
use serde::{Deserialize, Serialize};

use super::calls::refusal;
use super::pods::{Controller, PodName};
use super::{Node, Output, Owed};

/// How long a start waits for the API server.
const PATIENCE: Duration = Duration::from_secs(8);
/// The pause after the first order that failed; twice as long each time.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A claim as it stands in the API server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownClaim {
    /// Its addresses, at most one of each family.
    pub addresses: BTreeSet<IpAddr>,
    /// Those that the owner of their block has set aside.
    pub reserved: BTreeSet<IpAddr>,
    /// The node that holds it.
    pub node: Option<NodeName>,
    /// It goes as soon as nobody holds it.
    pub deleting: bool,
    /// When it was made, in seconds since 1970.
    pub created: i64,
}

/// All claims of the cluster, by the pod that they are for.
pub type KnownClaims = BTreeMap<PodName, KnownClaim>;

/// What is to be done with a claim in the API server. Whoever holds the claim is looked at once more by whoever carries
/// it out: what is known here may be old.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimOrder {
    /// Let this node hold it.
    Hold {
        /// The pod's UID.
        pod_uid: Option<String>,
    },
    /// Let it be there with these addresses, held by this node.
    Settle {
        /// All of the pod's addresses.
        addresses: BTreeSet<IpAddr>,
        /// Those that are set aside here.
        reserve: BTreeSet<IpAddr>,
        /// The pod's UID.
        pod_uid: Option<String>,
        /// Whose end is the end of a claim that is made.
        owner: Option<Controller>,
    },
    /// Say that these are set aside.
    Reserve(BTreeSet<IpAddr>),
    /// Let nobody hold it, if this node does.
    Release,
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimTrouble {
    /// Another node holds it.
    #[error("node {0} still has its addresses: the pod's end there has not been seen yet")]
    Held(NodeName),
    /// It is on its way out.
    #[error("it is being deleted, and the next one can be made once it is gone")]
    Deleting,
    /// There is none.
    #[error("it was deleted meanwhile")]
    Gone,
    /// It has other addresses.
    #[error("it has other addresses by now")]
    Differs,
    /// The record cannot be written.
    #[error("the agent's record cannot be written")]
    Unrecorded,
    /// The API server did not confirm.
    #[error("the API server does not confirm it")]
    Unreachable,
}

/// What the node knows of claims, and the starts that wait for them.
#[derive(Debug, Default)]
pub(super) struct Claims {
    known: Option<Arc<KnownClaims>>,
    /// Claims that are surely this node's: confirmed in this life, and not given back since.
    held: BTreeSet<PodName>,
    /// Orders that are out.
    busy: BTreeMap<PodName, ClaimOrder>,
    /// Orders that failed: how often, and when to try again.
    pauses: BTreeMap<PodName, (u32, Instant)>,
    starts: BTreeMap<RequestId, Start>,
    /// Orders to give once the record says what they rest on.
    ready: Vec<(PodName, ClaimOrder)>,
    /// Refusals to give once it says that nothing of the start stays.
    refusals: Vec<(RequestId, Reply)>,
    /// Something has changed since orders were last thought about.
    stirred: bool,
}

/// A pod that starts with a claim.
#[derive(Debug)]
struct Start {
    name: PodName,
    endpoint: Endpoint,
    want: Want,
    owner: Option<Controller>,
    until: Instant,
    stage: Stage,
    /// The endpoint is there since this start only.
    fresh: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Looking,
    Holding,
    Assigning,
    Settling,
}

impl Claims {
    /// When something is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let pauses = self.pauses.iter().filter(|(name, _)| !self.busy.contains_key(*name));
        // The allocator answers in time by itself.
        let starts = self.starts.values().filter(|start| start.stage != Stage::Assigning);
        starts.map(|start| start.until).chain(pauses.map(|(_, (_, until))| *until)).min()
    }

    /// Something has changed that orders may follow from.
    pub(super) fn stir(&mut self) {
        self.stirred = true;
    }

    fn get(&self, name: &PodName) -> Option<&KnownClaim> {
        self.known.as_ref().and_then(|known| known.get(name))
    }

    fn fail(&mut self, name: &PodName, now: Instant) {
        let failures = self.pauses.get(name).map_or(0, |(failures, _)| *failures);
        let pause = PAUSE.saturating_mul(1 << failures.min(8)).min(LONGEST_PAUSE);
        self.pauses.insert(name.clone(), (failures + 1, now + pause));
    }

    /// Claims as the allocator takes them, those in the making included.
    fn facts(&self) -> Option<BTreeMap<String, AddressClaim>> {
        let known = self.known.as_ref()?.iter();
        let fact = |claim: &KnownClaim| AddressClaim {
            addresses: claim.addresses.clone(),
            reserved: claim.reserved.clone(),
            node: claim.node.clone(),
            created: claim.created,
        };
        let mut facts: BTreeMap<String, AddressClaim> =
            known.map(|(name, claim)| (key_of(name), fact(claim))).collect();
        for (name, order) in &self.busy {
            if let ClaimOrder::Settle { addresses, .. } = order {
                // Until it is known when it was made it is younger than any other.
                let young = AddressClaim { created: i64::MAX, ..AddressClaim::default() };
                facts.entry(key_of(name)).or_insert(young).addresses.extend(addresses);
            }
        }
        Some(facts)
    }
}

impl Node {
    /// A pod starts whose addresses are to follow its name; `endpoint` is without addresses.
    pub(super) fn start_sticky(
        &mut self,
        request: RequestId,
        mut endpoint: Endpoint,
        mut want: Want,
        owner: Option<Controller>,
        now: Instant,
    ) {
        let Some(pod) = &endpoint.pod else {
            let why = "manx.dev/sticky needs the name of the pod, and the runtime gave none";
            return self.reply(request, refusal(Code::ADDRESS_REFUSED, why, String::new()));
        };
        let name = PodName { namespace: pod.namespace.clone(), name: pod.name.clone() };
        endpoint.claim = Some(key_of(&name));
        want.claim = Some(key_of(&name));
        let start =
            Start { name, endpoint, want, owner, until: now + PATIENCE, stage: Stage::Looking, fresh: true };
        self.claims.starts.insert(request, start);
        self.look_at_claim(request, now);
    }

    /// The claims as the API server shows them.
    pub(super) fn on_claims(&mut self, known: Arc<KnownClaims>, now: Instant) {
        self.claims.known = Some(known);
        self.tell_claims(now);
        self.look_again(None, now);
        self.show_away();
        self.announce();
    }

    /// What became of an order. The claims as they stand after it come first.
    pub(super) fn on_claim_done(&mut self, name: &PodName, outcome: Result<(), ClaimTrouble>, now: Instant) {
        let Some(order) = self.claims.busy.remove(name) else { return };
        self.tell_claims(now);
        match &outcome {
            Ok(()) => {
                self.claims.pauses.remove(name);
                if matches!(order, ClaimOrder::Hold { .. } | ClaimOrder::Settle { .. }) {
                    self.claims.held.insert(name.clone());
                }
            }
            Err(_) => self.claims.fail(name, now),
        }
        let waits =
            |start: &Start| start.name == *name && matches!(start.stage, Stage::Holding | Stage::Settling);
        let waiting: Vec<RequestId> = self
            .claims
            .starts
            .iter()
            .filter(|(_, start)| waits(start))
            .map(|(request, _)| *request)
            .collect();
        for request in waiting {
            match &outcome {
                Ok(()) => self.go_on_with(request, now),
                Err(trouble) => self.give_up(request, trouble, now),
            }
        }
        self.look_again(Some(name), now);
    }

    /// Ends what has waited too long and tries again what failed.
    pub(super) fn wake_claims(&mut self, now: Instant) {
        let late = self.claims.starts.iter().filter(|(_, start)| start.until <= now);
        let late: Vec<RequestId> = late.map(|(request, _)| *request).collect();
        for request in late {
            self.give_up(request, &ClaimTrouble::Unreachable, now);
        }
        let due = |(name, (_, until)): (&PodName, &(u32, Instant))| {
            *until <= now && !self.claims.busy.contains_key(name)
        };
        self.claims.stirred |= self.claims.pauses.iter().any(due);
    }

    /// A start is overtaken by the end of its endpoint.
    pub(super) fn withdraw_sticky(&mut self, id: &manx_ipam::EndpointId) {
        let of_it = self.claims.starts.iter().filter(|(_, start)| start.endpoint.id == *id);
        let of_it: Vec<(RequestId, Stage)> = of_it.map(|(request, start)| (*request, start.stage)).collect();
        for (request, stage) in of_it {
            // One that the allocator has is answered by it.
            if stage != Stage::Assigning {
                self.claims.starts.remove(&request);
                self.refuse(request, &AssignError::Withdrawn);
            }
        }
        self.claims.stirred = true;
    }

    fn look_again(&mut self, only: Option<&PodName>, now: Instant) {
        let looking = self.claims.starts.iter().filter(|(_, start)| {
            start.stage == Stage::Looking && only.is_none_or(|name| start.name == *name)
        });
        let looking: Vec<RequestId> = looking.map(|(request, _)| *request).collect();
        looking.into_iter().for_each(|request| self.look_at_claim(request, now));
        self.claims.stirred = true;
    }

    /// The first step of a start: may this node hold the claim, and does it?
    fn look_at_claim(&mut self, request: RequestId, now: Instant) {
        let Some(start) = self.claims.starts.get(&request) else { return };
        let name = start.name.clone();
        // Of two containers of one pod the second waits for what becomes of the first.
        let ahead = |other: &Start| other.name == name && other.stage != Stage::Looking;
        let behind = self.claims.starts.values().any(ahead);
        if behind || self.claims.known.is_none() || self.claims.busy.contains_key(&name) {
            return;
        }
        let Some(start) = self.claims.starts.get(&request) else { return };
        let pod_uid = start.endpoint.pod.as_ref().and_then(|pod| pod.uid.clone());
        let trouble = match self.claims.get(&name) {
            None => return self.assign_claimed(request, now),
            Some(KnownClaim { node: Some(node), .. }) if node != self.ipam.name() => {
                ClaimTrouble::Held(node.clone())
            }
            Some(claim) if claim.deleting => ClaimTrouble::Deleting,
            Some(_) if self.claims.held.contains(&name) => return self.assign_claimed(request, now),
            Some(_) => {
                if let Some(start) = self.claims.starts.get_mut(&request) {
                    start.stage = Stage::Holding;
                }
                return self.order(name, ClaimOrder::Hold { pod_uid }, now);
            }
        };
        self.give_up(request, &trouble, now);
    }

    /// The second step: the claim's addresses, and any where it has none of a family.
    fn assign_claimed(&mut self, request: RequestId, now: Instant) {
        let Some(start) = self.claims.starts.get_mut(&request) else { return };
        start.stage = Stage::Assigning;
        let (mut want, endpoint, name) = (start.want.clone(), start.endpoint.clone(), start.name.clone());
        let claimed = self.claims.get(&name).map(|claim| claim.addresses.clone()).unwrap_or_default();
        for address in claimed {
            let family = Family::of(address);
            let asked = want.addresses.iter().find(|asked| Family::of(**asked) == family);
            let wanted = if family == Family::V4 { want.v4 } else { want.v6 };
            let why = match asked {
                Some(asked) if *asked == address => continue,
                Some(asked) => {
                    format!("the pod asks for {asked}, but IPClaim {} has {address}", key_of(&name))
                }
                None if wanted => {
                    want.addresses.push(address);
                    continue;
                }
                None => format!(
                    "IPClaim {} has {address}, but the pod gets no {family} address: give the pod that family or delete the claim",
                    key_of(&name)
                ),
            };
            self.claims.starts.remove(&request);
            self.claims.stirred = true;
            return self.reply(request, refusal(Code::ADDRESS_REFUSED, &why, String::new()));
        }
        self.asking.insert(request, endpoint.pod.clone());
        self.ipam.handle(manx_ipam::Input::Assign { request, endpoint, want }, now);
    }

    /// The allocator gave addresses to a call: gives back the endpoint if that is the last step.
    pub(super) fn on_assigned_claim(
        &mut self,
        request: RequestId,
        endpoint: Endpoint,
        now: Instant,
    ) -> Option<Endpoint> {
        let Some(name) = endpoint.claim.as_deref().and_then(name_of) else {
            self.claims.starts.remove(&request);
            return Some(endpoint);
        };
        // Without the API server a call that is repeated gets what it has.
        if self.claims.known.is_none() || self.is_settled(&name, &endpoint.addresses) {
            self.claims.starts.remove(&request);
            return Some(endpoint);
        }
        let fresh = self.claims.starts.contains_key(&request);
        let owner = self.claims.starts.get(&request).and_then(|start| start.owner.clone());
        let until = self.claims.starts.get(&request).map_or(now + PATIENCE, |start| start.until);
        let settle = self.settlement(&name, &endpoint, owner.clone());
        let want = Want { claim: endpoint.claim.clone(), ..Want::default() };
        let start = Start { name: name.clone(), endpoint, want, owner, until, stage: Stage::Settling, fresh };
        self.claims.starts.insert(request, start);
        if !self.claims.busy.contains_key(&name) {
            self.order(name, settle, now);
        }
        None
    }

    /// The allocator refused a call.
    pub(super) fn on_refused_claim(&mut self, request: RequestId) {
        self.claims.stirred |= self.claims.starts.remove(&request).is_some();
    }

    /// Whether a claim says all that it must before its pod may run here. A claim that says so while it is in use here is
    /// surely this node's.
    fn is_settled(&self, name: &PodName, addresses: &[IpAddr]) -> bool {
        self.claims.get(name).is_some_and(|claim| {
            claim.node.as_ref() == Some(self.ipam.name())
                && addresses.iter().all(|address| claim.reserved.contains(address))
        })
    }

    fn settlement(&self, name: &PodName, endpoint: &Endpoint, owner: Option<Controller>) -> ClaimOrder {
        let addresses = endpoint.addresses.iter().copied().collect();
        let pod_uid = endpoint.pod.as_ref().and_then(|pod| pod.uid.clone());
        ClaimOrder::Settle { addresses, reserve: self.set_aside(name), pod_uid, owner }
    }

    fn set_aside(&self, name: &PodName) -> BTreeSet<IpAddr> {
        let key = key_of(name);
        self.ipam.set_aside_for().filter(|(_, of)| *of == key).map(|(address, _)| address).collect()
    }

    /// An order of a start was carried out.
    fn go_on_with(&mut self, request: RequestId, now: Instant) {
        match self.claims.starts.get(&request).map(|start| start.stage) {
            Some(Stage::Holding) => self.assign_claimed(request, now),
            Some(Stage::Settling) => {
                if let Some(start) = self.claims.starts.remove(&request) {
                    let assignment = self.assignment(&start.endpoint);
                    self.reply(request, Reply::Assigned(assignment));
                }
            }
            Some(Stage::Looking | Stage::Assigning) | None => {}
        }
    }

    /// A start fails: nothing of it stays.
    fn give_up(&mut self, request: RequestId, trouble: &ClaimTrouble, now: Instant) {
        let Some(start) = self.claims.starts.get(&request) else { return };
        if start.stage == Stage::Assigning {
            // The allocator answers in time by itself.
            return;
        }
        let Some(start) = self.claims.starts.remove(&request) else { return };
        self.claims.stirred = true;
        let id = start.endpoint.id;
        let shared = self.claims.starts.values().any(|other| other.endpoint.id == id);
        if start.stage == Stage::Settling && start.fresh && !shared {
            self.free_ourselves(id, |id| Owed::Nothing { id }, now);
        }
        let why = format!("IPClaim {}: {trouble}; try again", key_of(&start.name));
        self.claims.refusals.push((request, refusal(Code::TRY_AGAIN, &why, String::new())));
    }

    fn order(&mut self, name: PodName, mut order: ClaimOrder, now: Instant) {
        self.claims.busy.insert(name.clone(), order.clone());
        if let ClaimOrder::Settle { reserve, .. } = &mut order {
            // What is being claimed is set aside, by the record, before it is said to be.
            self.tell_claims(now);
            *reserve = self.set_aside(&name);
            self.claims.busy.insert(name.clone(), order.clone());
        }
        self.claims.ready.push((name, order));
    }

    fn tell_claims(&mut self, now: Instant) {
        if let Some(facts) = self.claims.facts() {
            self.ipam.handle(manx_ipam::Input::SetClaims(facts), now);
        }
    }

    /// Orders what follows from how things stand.
    pub(super) fn tend_claims(&mut self, now: Instant) {
        if !std::mem::take(&mut self.claims.stirred) {
            return;
        }
        let Some(known) = self.claims.known.clone() else { return };
        let mut orders = self.settlements();
        let in_use: BTreeSet<IpAddr> = self
            .ipam
            .endpoints()
            .chain(self.ipam.leaving())
            .flat_map(|endpoint| endpoint.addresses.iter().copied())
            .collect();
        let asides: BTreeSet<IpAddr> = self.ipam.set_aside_for().map(|(address, _)| address).collect();
        for (name, claim) in known.iter() {
            let unused = claim.reserved.is_disjoint(&in_use) && !self.starts_with(name) && !self.keeps(name);
            if claim.node.as_ref() == Some(self.ipam.name()) && unused && self.healed {
                orders.entry(name.clone()).or_insert(ClaimOrder::Release);
            }
            if !claim.deleting
                && claim.addresses.difference(&claim.reserved).any(|address| asides.contains(address))
            {
                let reserve: BTreeSet<IpAddr> =
                    self.set_aside(name).intersection(&claim.addresses).copied().collect();
                if !reserve.is_subset(&claim.reserved) && !self.starts_with(name) {
                    orders.entry(name.clone()).or_insert(ClaimOrder::Reserve(reserve));
                }
            }
        }
        for (name, order) in orders {
            let paused = self.claims.pauses.get(&name).is_some_and(|(_, until)| *until > now);
            if paused || self.claims.busy.contains_key(&name) {
                continue;
            }
            if order == ClaimOrder::Release {
                // From here on another node may have it.
                self.claims.held.remove(&name);
            }
            self.order(name, order, now);
        }
        let busy = &self.claims.busy;
        self.claims.pauses.retain(|name, (_, until)| *until > now || busy.contains_key(name));
    }

    /// What endpoints use by claims that do not say so.
    fn settlements(&self) -> BTreeMap<PodName, ClaimOrder> {
        let mut orders = BTreeMap::new();
        for endpoint in self.ipam.endpoints() {
            let Some(name) = endpoint.claim.as_deref().and_then(name_of) else { continue };
            let lacking = match self.claims.get(&name) {
                None => true,
                Some(claim) => {
                    claim.node.is_none() && !claim.deleting
                        || claim.node.as_ref() == Some(self.ipam.name())
                            && !endpoint.addresses.iter().all(|address| claim.addresses.contains(address))
                }
            };
            if lacking && !self.starts_with(&name) {
                let order = self.settlement(&name, endpoint, None);
                orders.insert(name, order);
            }
        }
        orders
    }

    /// Whether an endpoint, also one whose link may still exist, has its addresses by a claim.
    fn keeps(&self, name: &PodName) -> bool {
        let key = key_of(name);
        let mut all = self.ipam.endpoints().chain(self.ipam.leaving());
        all.any(|endpoint| endpoint.claim.as_deref() == Some(&key))
    }

    fn starts_with(&self, name: &PodName) -> bool {
        self.claims.starts.values().any(|start| start.name == *name)
    }

    /// Addresses of endpoints here that lie outside this node's blocks: each is announced by itself, unless another node
    /// holds its claim by now.
    pub(super) fn visiting(&self) -> BTreeSet<IpAddr> {
        let claimed = self.ipam.endpoints().filter(|endpoint| {
            let name = endpoint.claim.as_deref().and_then(name_of);
            let claim = name.as_ref().map(|name| self.claims.get(name));
            claim.is_some_and(|claim| {
                claim.is_none_or(|claim| claim.node.as_ref().is_none_or(|node| node == self.ipam.name()))
            })
        });
        let addresses = claimed.flat_map(|endpoint| endpoint.addresses.iter().copied());
        addresses.filter(|address| !self.owned.iter().any(|block| block.contains(*address))).collect()
    }

    /// Says anew which routes are wanted, if other claimed addresses may be elsewhere than before.
    fn show_away(&mut self) {
        if self.away() != self.away {
            self.routes();
        }
    }

    /// Gives the answers and orders that are due by now.
    pub(super) fn give_orders(&mut self) {
        for (request, reply) in std::mem::take(&mut self.claims.refusals) {
            self.reply(request, reply);
        }
        let ready = std::mem::take(&mut self.claims.ready);
        self.outputs.extend(ready.into_iter().map(|(claim, order)| Output::Order { claim, order }));
    }

    /// The blocks to announce: one of a single address that may be with another node is that node's to announce.
    pub(super) fn told_blocks(&self) -> BTreeSet<BlockId> {
        let here =
            |address: IpAddr| self.ipam.endpoints().any(|endpoint| endpoint.addresses.contains(&address));
        let away = |block: &&BlockId| {
            block.size() == 1 && self.away.contains(&block.first()) && !here(block.first())
        };
        self.owned.iter().filter(|block| !away(block)).copied().collect()
    }

    /// Claimed addresses inside this node's blocks that no endpoint here has: another node may.
    pub(super) fn away(&self) -> BTreeSet<IpAddr> {
        let known = self.claims.known.iter().flat_map(|known| known.values());
        let claimed = known.flat_map(|claim| claim.addresses.iter().copied());
        let claimed = claimed.chain(self.ipam.set_aside_for().map(|(address, _)| address));
        claimed.filter(|address| self.owned.iter().any(|block| block.contains(*address))).collect()
    }
}

/// The key of a pod's claim in the allocator and the record.
fn key_of(name: &PodName) -> String {
    format!("{}/{}", name.namespace, name.name)
}

fn name_of(key: &str) -> Option<PodName> {
    let (namespace, name) = key.split_once('/')?;
    Some(PodName { namespace: namespace.to_owned(), name: name.to_owned() })
}

impl fmt::Display for ClaimOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hold { .. } => "hold",
            Self::Settle { .. } => "settle",
            Self::Reserve(_) => "reserve",
            Self::Release => "release",
        })
    }
}

#[cfg(test)]
mod tests;
