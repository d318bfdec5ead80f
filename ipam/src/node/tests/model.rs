//! One machine against a naive model, under any order of requests, answers, losses, late lists, meddling and
//! crashes.
//!
//! The model knows only what was said aloud: which addresses were answered, when links went, what the API
//! server holds. A crash happens between any two outputs, or in the middle of a line of the record.

mod claims;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::bench::{NODE, block, endpoint, id, ip, pool};
use crate::{
    BlockId, ClaimError, Endpoint, EndpointId, Event, Family, Input, Limits, NodeIpam, NodeName, Output,
    Pool, Recovered, RequestId, Standing, Want, recover,
};

const COOLDOWN: Duration = Duration::from_secs(10);
const RELEASE_AFTER: Duration = Duration::from_secs(60);
const WAIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
enum Step {
    Assign { pod: u8, v4: bool, v6: bool, exact: Option<u8>, named: bool },
    Free { pod: u8 },
    LinkGone { pod: u8 },
    Keep { pods: u16 },
    Answer { which: u8, fate: Fate },
    Watch { versions: u8 },
    Meddle { block: u8, how: Meddling },
    Claim { which: u8, step: claims::Step },
    Pools { enabled: u8, present: u8 },
    Rules(Rules),
    Pass { millis: u16 },
    RecordFails,
    Crash { after: u8, torn: u8 },
    LoseRecord,
}

/// What somebody writes into the first pool while it is in use.
#[derive(Debug, Clone, Copy, Default)]
struct Rules {
    /// Where the blocks must lie: anywhere, in either half, nowhere.
    within: u8,
    /// Most blocks, unless 0.
    limit: u8,
    /// Cooldown: as usual, none, thrice as long.
    cooldown: u8,
    /// More addresses are reserved.
    reserved: bool,
    /// Only who names it gets its addresses.
    restricted: bool,
}

impl Rules {
    fn apply(self, pool: &mut Pool) {
        let half = |cidr: &str| Some(vec![cidr.parse().unwrap()]);
        pool.within = match self.within {
            1 => half("10.0.0.0/29"),
            2 => half("10.0.0.8/29"),
            3 => Some(Vec::new()),
            _ => None,
        };
        pool.max_blocks = (self.limit > 0).then_some(self.limit.into());
        pool.cooldown = match self.cooldown {
            1 => Some(Duration::ZERO),
            2 => Some(3 * COOLDOWN),
            _ => None,
        };
        if self.reserved {
            pool.reserved.push("10.0.0.8/31".parse().unwrap());
        }
        pool.restricted = self.restricted;
    }
}

/// What becomes of a request to the API server.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Confirmed,
    CarriedOutButLost,
    Lost,
}

#[derive(Debug, Clone, Copy)]
enum Meddling {
    OtherClaims,
    OtherReleases,
    SomebodyDeletes,
    SomebodySteals,
}

fn step() -> impl Strategy<Value = Step> {
    let assign =
        (0u8..10, any::<(bool, bool)>(), prop::option::weighted(0.15, 0u8..32), prop::bool::weighted(0.1));
    let fate =
        prop_oneof![6 => Just(Fate::Confirmed), 1 => Just(Fate::CarriedOutButLost), 1 => Just(Fate::Lost)];
    let meddling = prop_oneof![
        4 => Just(Meddling::OtherClaims),
        4 => Just(Meddling::OtherReleases),
        1 => Just(Meddling::SomebodyDeletes),
        1 => Just(Meddling::SomebodySteals)
    ];
    prop_oneof![
        10 => assign.prop_map(|(pod, (v4, v6), exact, named)| Step::Assign { pod, v4, v6, exact, named }),
        6 => (0u8..10).prop_map(|pod| Step::Free { pod }),
        6 => (0u8..10).prop_map(|pod| Step::LinkGone { pod }),
        1 => any::<u16>().prop_map(|pods| Step::Keep { pods }),
        10 => (any::<u8>(), fate).prop_map(|(which, fate)| Step::Answer { which, fate }),
        6 => (1u8..4).prop_map(|versions| Step::Watch { versions }),
        12 => claims::step().prop_map(|(which, step)| Step::Claim { which, step }),
        2 => (0u8..10, meddling).prop_map(|(block, how)| Step::Meddle { block, how }),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(enabled, present)| Step::Pools { enabled, present }),
        2 => (0u8..4, 0u8..3, 0u8..3, any::<bool>(), prop::bool::weighted(0.2)).prop_map(
            |(within, limit, cooldown, reserved, restricted)| {
                Step::Rules(Rules { within, limit, cooldown, reserved, restricted })
            },
        ),
        6 => (0u16..20_000).prop_map(|millis| Step::Pass { millis }),
        1 => Just(Step::RecordFails),
        2 => (0u8..6, any::<u8>()).prop_map(|(after, torn)| Step::Crash { after, torn }),
        1 => Just(Step::LoseRecord),
    ]
}

fn pools() -> Vec<Pool> {
    let mut v4 = pool("v4", "10.0.0.0/28", 30);
    v4.reserved = vec!["10.0.0.5/32".parse().unwrap()];
    let mut manual = pool("manual", "10.1.0.0/30", 31);
    manual.automatic = false;
    vec![v4, manual, pool("v6", "fd00::/124", 126)]
}

fn all_blocks() -> Vec<BlockId> {
    pools().iter().flat_map(|pool| pool.claim_order(&"anybody".into()).collect::<Vec<_>>()).collect()
}

fn limits() -> Limits {
    Limits { cooldown: COOLDOWN, headroom: 3, release_after: RELEASE_AFTER, max_blocks: 8, wait: WAIT }
}

#[derive(Debug, Clone)]
struct Call {
    block: BlockId,
    /// For a release: the object that is to be deleted.
    release: Option<u64>,
    /// Which life of the agent asked.
    life: u32,
}

/// The API server, as far as blocks go.
#[derive(Default)]
struct Api {
    blocks: BTreeMap<BlockId, (NodeName, u64)>,
    versions: Vec<BTreeMap<BlockId, NodeName>>,
    uid: u64,
}

impl Api {
    fn put(&mut self, block: BlockId, owner: &str) {
        self.uid += 1;
        self.blocks.insert(block, (owner.into(), self.uid));
        self.commit();
    }

    fn delete(&mut self, block: &BlockId) {
        self.blocks.remove(block);
        self.commit();
    }

    fn commit(&mut self) {
        self.versions.push(self.blocks.iter().map(|(block, (owner, _))| (*block, owner.clone())).collect());
    }

    fn owner(&self, block: &BlockId) -> Option<&str> {
        self.blocks.get(block).map(|(owner, _)| owner.as_str())
    }

    fn carry_out(&mut self, call: &Call) -> Result<(), ClaimError> {
        let found = self.blocks.get(&call.block).map(|(owner, uid)| (owner.as_str() == NODE, *uid));
        match (call.release, found) {
            (Some(u64::MAX), _) => return Err(ClaimError::Failed),
            (None, None) => self.put(call.block, NODE),
            (None, Some((ours, _))) if ours => {}
            (Some(_), None) => {}
            (Some(uid), Some((true, found))) if uid == found => self.delete(&call.block),
            (Some(_), Some((true, _))) => return Err(ClaimError::Failed),
            (_, Some(_)) => return Err(ClaimError::Taken),
        }
        Ok(())
    }
}

struct World {
    ipam: NodeIpam,
    now: Instant,
    record: Vec<u8>,
    /// The next line of the record cannot be written.
    full: bool,
    /// That happened.
    unwritten: bool,
    /// The record lacks something.
    unrecorded: bool,
    /// Endpoints that it may lack.
    unsure: BTreeSet<EndpointId>,
    life: u32,
    /// Outputs to carry out before the crash, and octets of a line torn by it.
    crash: Option<(u8, u8)>,
    api: Api,
    /// The version of the API server's blocks that was last shown.
    seen: usize,
    calls: Vec<Call>,
    pools: Vec<Pool>,
    requests: BTreeMap<RequestId, (EndpointId, Want, Instant)>,
    next_request: u64,

    live: BTreeMap<EndpointId, Vec<IpAddr>>,
    leaving: BTreeMap<EndpointId, Vec<IpAddr>>,
    unlinked: BTreeSet<EndpointId>,
    /// Freed addresses, least recently used first, with when that was; `None` once they have rested.
    freed: Vec<(IpAddr, Option<Instant>)>,
    began: Instant,
    rules: Rules,
    owned: BTreeSet<BlockId>,
    /// Blocks that somebody took away from under this node.
    meddled: BTreeSet<BlockId>,
    /// Blocks whose history the model has lost.
    blurred: BTreeSet<BlockId>,
    claims: claims::Claims,
    /// The claims by which endpoints have their addresses.
    holders: BTreeMap<EndpointId, String>,
    conditions: BTreeSet<String>,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "any instant will do as a beginning")]
    fn new() -> Self {
        let now = Instant::now();
        let mut api = Api::default();
        api.commit();
        let mut world = Self {
            ipam: NodeIpam::new(NODE.into(), limits(), recover(b""), now),
            now,
            record: Vec::new(),
            full: false,
            unwritten: false,
            unrecorded: false,
            unsure: BTreeSet::new(),
            life: 0,
            crash: None,
            api,
            seen: 0,
            calls: Vec::new(),
            pools: pools(),
            requests: BTreeMap::new(),
            next_request: 0,
            live: BTreeMap::new(),
            leaving: BTreeMap::new(),
            unlinked: BTreeSet::new(),
            freed: Vec::new(),
            began: now,
            rules: Rules::default(),
            owned: BTreeSet::new(),
            meddled: BTreeSet::new(),
            blurred: BTreeSet::new(),
            claims: claims::Claims::default(),
            holders: BTreeMap::new(),
            conditions: BTreeSet::new(),
        };
        world.drain(&BTreeSet::new());
        world.feed(Input::SetPools(pools()));
        world
    }

    fn carry_out(&mut self, step: &Step) {
        match *step {
            Step::Assign { pod, v4, v6, exact, named } => self.assign(pod, v4, v6, exact, named),
            Step::Free { pod } => {
                let request = self.request();
                let id = pod_id(pod);
                self.requests.insert(request, (id.clone(), Want::default(), self.now + WAIT));
                self.feed(Input::Free { request, id });
            }
            Step::LinkGone { pod } => self.link_gone(pod_id(pod)),
            Step::Keep { pods } => {
                let valid = (0..10).filter(|pod| pods & 1 << pod != 0).map(pod_id).collect();
                self.feed(Input::Keep { valid });
            }
            Step::Answer { which, fate } => self.answer(which, fate),
            Step::Watch { versions } => self.watch(usize::from(versions)),
            Step::Meddle { block, how } => self.meddle(block, how),
            Step::Claim { which, step } => self.on_claim(which, step),
            Step::Pools { enabled, present } => {
                let mut all = pools();
                self.rules.apply(&mut all[0]);
                for (bit, pool) in all.iter_mut().enumerate() {
                    pool.disabled = enabled & 3 << (2 * bit) == 0;
                }
                let mut bit = 0;
                all.retain(|_| {
                    bit += 2;
                    present & 3 << (bit - 2) != 0
                });
                self.set_pools(all);
            }
            Step::Rules(rules) => {
                self.rules = rules;
                let mut all = self.pools.clone();
                let fresh = pools().swap_remove(0);
                if let Some(pool) = all.iter_mut().find(|pool| pool.name == fresh.name) {
                    *pool = Pool { disabled: pool.disabled, ..fresh };
                    rules.apply(pool);
                }
                self.set_pools(all);
            }
            Step::Pass { millis } => self.pass(Duration::from_millis(millis.into())),
            Step::RecordFails => self.full = true,
            Step::Crash { after, torn } => self.crash = Some((after, torn)),
            Step::LoseRecord => self.lose_record(),
        }
    }

    fn set_pools(&mut self, pools: Vec<Pool>) {
        // What has rested by now has rested, whatever the new pools say.
        let rested: Vec<IpAddr> =
            self.freed.iter().filter(|freed| self.has_rested(freed)).map(|(address, _)| *address).collect();
        for (address, since) in &mut self.freed {
            *since = since.filter(|_| !rested.contains(address));
        }
        self.pools.clone_from(&pools);
        self.feed(Input::SetPools(pools));
    }

    fn has_rested(&self, (address, since): &(IpAddr, Option<Instant>)) -> bool {
        let pool = self.pools.iter().find(|pool| pool.cidr.contains(*address));
        let cooldown = pool.and_then(|pool| pool.cooldown).unwrap_or(COOLDOWN);
        since.is_none_or(|since| since + cooldown <= self.now)
    }

    fn request(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }

    fn assign(&mut self, pod: u8, v4: bool, v6: bool, exact: Option<u8>, named: bool) {
        let request = self.request();
        let exact = exact.map(|n| match n {
            0..16 => ip(&format!("10.0.0.{n}")),
            _ => ip(&format!("fd00::{:x}", n - 16)),
        });
        let named: BTreeSet<String> = named.then(|| "manual".to_owned()).into_iter().collect();
        let want = Want { v4, v6, addresses: exact.into_iter().collect(), pools: named, claim: None };
        let id = pod_id(pod);
        self.unlinked.remove(&id);
        self.requests.insert(request, (id.clone(), want.clone(), self.now + WAIT));
        self.feed(Input::Assign { request, endpoint: endpoint(&id.container), want });
    }

    fn link_gone(&mut self, id: EndpointId) {
        match self.leaving.remove(&id) {
            Some(addresses) => self.rest(addresses),
            None if self.live.contains_key(&id) => drop(self.unlinked.insert(id.clone())),
            None => {}
        }
        self.feed(Input::LinkGone { id });
    }

    fn rest(&mut self, addresses: Vec<IpAddr>) {
        for address in addresses {
            self.freed.retain(|(freed, _)| *freed != address);
            self.freed.push((address, Some(self.now)));
        }
    }

    fn answer(&mut self, which: u8, fate: Fate) {
        if self.calls.is_empty() {
            return;
        }
        let call = self.calls.remove(usize::from(which) % self.calls.len());
        let outcome = match fate {
            Fate::Confirmed => self.api.carry_out(&call),
            Fate::CarriedOutButLost => self.api.carry_out(&call).and(Err(ClaimError::Failed)),
            Fate::Lost => Err(ClaimError::Failed),
        };
        if call.life == self.life {
            if call.release.is_none() && outcome.is_ok() {
                self.show_claims();
            }
            let block = call.block;
            self.feed(match call.release {
                None => Input::Claimed { block, outcome },
                Some(_) => Input::Released { block, outcome },
            });
        }
    }

    fn watch(&mut self, versions: usize) {
        self.show_claims_first();
        let latest = self.api.versions.len() - 1;
        self.seen = self.seen.saturating_add(versions).min(latest);
        self.feed(Input::SetBlocks { blocks: self.api.versions[self.seen].clone() });
    }

    fn meddle(&mut self, which: u8, how: Meddling) {
        let block = all_blocks()[usize::from(which)];
        let owner = self.api.owner(&block).map(str::to_owned);
        match (how, owner.as_deref()) {
            (Meddling::OtherClaims, None) => self.api.put(block, "other"),
            (Meddling::OtherReleases, Some("other")) => self.api.delete(&block),
            (Meddling::SomebodyDeletes, Some(NODE)) => {
                self.meddled.insert(block);
                self.api.delete(&block);
            }
            (Meddling::SomebodySteals, Some(NODE)) => {
                self.meddled.insert(block);
                self.api.put(block, "other");
            }
            _ => {}
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut wakes = 0;
        while let Some(due) = self.ipam.deadline().filter(|due| *due <= end) {
            assert!(due > self.now, "a deadline lies ahead");
            wakes += 1;
            assert!(wakes < 1000, "the machine spins");
            self.now = due;
            self.feed(Input::Timeout);
        }
        self.now = end;
        self.feed(Input::Timeout);
    }

    fn feed(&mut self, input: Input) {
        let ending: BTreeSet<EndpointId> = match &input {
            Input::Free { id, .. } | Input::LinkGone { id } => [id.clone()].into(),
            Input::Keep { valid } => self.live.keys().filter(|id| !valid.contains(id)).cloned().collect(),
            _ => BTreeSet::new(),
        };
        self.unwritten = false;
        self.ipam.handle(input, self.now);
        self.drain(&ending);
        if self.unwritten {
            self.ipam.handle(Input::RecordFailed, self.now);
            self.drain(&ending);
        }
        let due = self.requests.values().find(|(_, _, until)| *until < self.now);
        assert_eq!(due, None, "every request is answered in time");
        let said = recover(&self.record);
        if !self.unrecorded {
            assert_eq!(said.endpoints, self.ipam.endpoints().cloned().collect::<Vec<_>>());
            assert_eq!(said.leaving, self.ipam.leaving().cloned().collect::<Vec<_>>());
        }
    }

    /// Carries out what the machine says, up to the crash if one is due.
    fn drain(&mut self, ending: &BTreeSet<EndpointId>) {
        let outputs: Vec<Output> = std::iter::from_fn(|| self.ipam.poll()).collect();
        let crash = if outputs.is_empty() { None } else { self.crash.take() };
        let survive = crash.map_or(outputs.len(), |(after, _)| usize::from(after).min(outputs.len()));
        for output in &outputs[..survive] {
            self.see(output);
        }
        if let Some((_, torn)) = crash {
            if let Some(Output::Record(line)) = outputs.get(survive) {
                self.record.extend(&line[..usize::from(torn) % line.len()]);
            }
            self.restart(ending);
        }
    }

    fn see(&mut self, output: &Output) {
        match output {
            Output::Record(line) => {
                if std::mem::take(&mut self.full) {
                    (self.unwritten, self.unrecorded) = (true, true);
                }
                if !self.unrecorded {
                    self.record.extend(line);
                }
            }
            Output::Rewrite(all) => {
                self.record.clone_from(all);
                self.unrecorded = false;
                self.unsure.clear();
            }
            Output::Claim(block) => {
                self.check_claim(block);
                self.call(*block, None);
            }
            Output::Release(block) if self.unrecorded => self.call(*block, Some(u64::MAX)),
            Output::Release(block) => {
                let found = self.api.blocks.get(block).filter(|(owner, _)| owner.as_str() == NODE);
                self.call(*block, Some(found.map_or(0, |(_, uid)| *uid)));
            }
            Output::Assigned { request, endpoint } => self.see_assigned(*request, endpoint),
            Output::Freed { request, endpoint } => {
                let (id, ..) = self.requests.remove(request).expect("one answer for each request");
                assert_eq!(endpoint.as_ref().map(|endpoint| &endpoint.addresses), self.live.get(&id));
                self.see_ended(&id);
            }
            Output::Collected(endpoint) => self.see_ended(&endpoint.id),
            Output::Refused { request, why } => {
                let (id, ..) = self.requests.remove(request).expect("one answer for each request");
                assert!(!self.live.contains_key(&id) || *why == crate::AssignError::NotRecorded, "{why}");
            }
            Output::Owned(blocks) => self.see_owned(blocks),
            Output::EndpointsChanged => {}
            Output::Event(event) => self.see_event(event),
        }
    }

    /// A block that is claimed for new pods lies where it must, and is not one too many.
    fn check_claim(&self, block: &BlockId) {
        let again = self.meddled.contains(block) || self.blurred.contains(block);
        if again || self.api.versions[self.seen].get(block).is_some_and(|owner| owner.as_str() == NODE) {
            return;
        }
        let pool = self.pools.iter().find(|pool| pool.has_block(block)).expect("of a pool");
        assert!(pool.reaches(block), "{block} is claimed");
        let claims = self.calls.iter().filter(|call| call.life == self.life && call.release.is_none());
        let all: BTreeSet<BlockId> =
            claims.map(|call| call.block).chain(self.owned.iter().copied()).collect();
        let count = all.iter().filter(|block| pool.has_block(block)).count();
        assert!(pool.max_blocks.is_none_or(|most| count < most), "{block} is one too many: {all:?}");
    }

    fn call(&mut self, block: BlockId, release: Option<u64>) {
        let twice = self.calls.iter().any(|call| call.block == block && call.life == self.life);
        assert!(!twice, "one request about a block at a time");
        self.calls.push(Call { block, release, life: self.life });
    }

    fn see_owned(&mut self, blocks: &BTreeSet<BlockId>) {
        for block in blocks.difference(&self.meddled) {
            assert_eq!(self.api.owner(block), Some(NODE), "{block} is announced");
        }
        self.owned.clone_from(blocks);
    }

    fn see_assigned(&mut self, request: RequestId, endpoint: &Endpoint) {
        let (id, want, _) = self.requests.remove(&request).expect("one answer for each request");
        let addresses = &endpoint.addresses;
        if let Some(known) = self.live.get(&id) {
            assert_eq!(addresses, known, "a repetition gets the same addresses");
            return;
        }
        let count = |family| addresses.iter().filter(|address| Family::of(**address) == family).count();
        let asked = |family| want.addresses.iter().any(|address| Family::of(*address) == family);
        assert_eq!(count(Family::V4), usize::from(want.v4 || asked(Family::V4)), "all or nothing");
        assert_eq!(count(Family::V6), usize::from(want.v6 || asked(Family::V6)), "all or nothing");
        assert!(want.addresses.iter().all(|address| addresses.contains(address)));
        for address in addresses {
            self.check_new(*address, &want);
        }
        self.freed.retain(|(address, _)| !addresses.contains(address));
        if self.unrecorded {
            self.unsure.insert(id.clone());
        }
        match want.claim {
            Some(claim) => drop(self.holders.insert(id.clone(), claim)),
            None => drop(self.holders.remove(&id)),
        }
        self.live.insert(id, addresses.clone());
    }

    fn check_new(&mut self, address: IpAddr, want: &Want) {
        let in_use = self.live.values().chain(self.leaving.values()).flatten().any(|used| *used == address);
        assert!(!in_use, "{address} is given twice");
        if self.check_claimed(address, want) {
            return;
        }
        let block = *self.owned.iter().find(|block| block.contains(address)).expect("of an announced block");
        let pool = self.pools.iter().find(|pool| pool.has_block(&block)).expect("of a pool");
        assert!(!pool.disabled && !pool.is_reserved(address));
        assert!(pool.reaches(&block), "{block} lies where this node gives no addresses");
        assert!(if want.pools.is_empty() {
            (pool.automatic && !pool.restricted) || want.addresses.contains(&address)
        } else {
            pool.name == "manual"
        });
        if !self.meddled.contains(&block) {
            assert_eq!(self.api.owner(&block), Some(NODE), "{block} is used");
        }
        if want.addresses.contains(&address) {
            return;
        }
        let rest = self.freed.iter().find(|(freed, _)| *freed == address);
        assert!(rest.is_none_or(|freed| self.has_rested(freed)), "{address} has not rested");
        if !self.blurred.contains(&block) {
            assert_eq!(self.next_of(block, pool), Some(address), "least recently used first");
        }
    }

    /// The address of a block that was not used for longest.
    fn next_of(&self, block: BlockId, pool: &Pool) -> Option<IpAddr> {
        let used: BTreeSet<IpAddr> =
            self.live.values().chain(self.leaving.values()).flatten().copied().collect();
        let claimed = self.claimed();
        let all = ipnetwork::IpNetwork::from(block).iter();
        let fresh = all.filter(|address| !self.freed.iter().any(|(freed, _)| freed == address));
        let rested = self.freed.iter().filter(|freed| block.contains(freed.0) && self.has_rested(freed));
        let mut order = fresh.chain(rested.map(|(address, _)| *address));
        order.find(|address| {
            !used.contains(address) && !pool.is_reserved(*address) && !claimed.contains(address)
        })
    }

    fn see_ended(&mut self, id: &EndpointId) {
        if let Some(addresses) = self.live.remove(id) {
            self.leaving.entry(id.clone()).or_default().extend(addresses);
            if self.unlinked.remove(id) {
                let left = self.leaving.remove(id).unwrap_or_default();
                self.rest(left);
            }
        }
    }

    fn see_event(&mut self, event: &Event) {
        let (name, begins) = match event {
            Event::BlockOwned { .. } => return,
            Event::BlockGone { block } => {
                self.freed.retain(|(address, _)| !block.contains(*address));
                return;
            }
            Event::Conflict { block, .. } => {
                self.blurred.insert(*block);
                self.conditions.insert(format!("conflict {block}"));
                return;
            }
            Event::ConflictEnded { block } => (format!("conflict {block}"), false),
            Event::Exhausted { family } => (format!("exhausted {family}"), true),
            Event::ExhaustedEnded { family } => (format!("exhausted {family}"), false),
            Event::ClaimsFailing { pool } => (format!("failing {pool}"), true),
            Event::ClaimsFailingEnded { pool } => (format!("failing {pool}"), false),
            Event::PoolOverlap { .. } | Event::PoolOverlapEnded { .. } => panic!("no pools overlap here"),
            Event::AddressConflict { .. } => panic!("nothing is adopted here"),
            Event::RecordDamaged { .. } => panic!("only a last line is torn"),
        };
        let changed =
            if begins { self.conditions.insert(name.clone()) } else { self.conditions.remove(&name) };
        assert!(changed, "{name}: begins and ends are told once, in turn");
    }

    /// The agent comes back. What it was just told may or may not have happened; all else must be as it was.
    fn restart(&mut self, ending: &BTreeSet<EndpointId>) {
        let waiting: BTreeSet<EndpointId> = self.requests.values().map(|(id, ..)| id.clone()).collect();
        self.requests.clear();
        let kept = recover(&self.record);
        let live: BTreeMap<_, _> =
            kept.endpoints.iter().map(|endpoint| (endpoint.id.clone(), endpoint.addresses.clone())).collect();
        for (id, addresses) in &self.live {
            let kept = live.get(id) == Some(addresses) || ending.contains(id);
            assert!(kept || self.unsure.contains(id), "{id} is lost");
        }
        for id in live.keys() {
            let known = self.live.contains_key(id) || waiting.contains(id) || self.unrecorded;
            assert!(known, "{id} comes from nowhere");
        }
        let mut leaving: BTreeMap<EndpointId, Vec<IpAddr>> = BTreeMap::new();
        for endpoint in &kept.leaving {
            leaving.entry(endpoint.id.clone()).or_default().extend(&endpoint.addresses);
        }
        for (id, addresses) in &self.leaving {
            let left = leaving.get(id).is_some_and(|left| left.starts_with(addresses));
            assert!(left || ending.contains(id) || self.unrecorded, "the link of {id} is forgotten");
        }
        let known: BTreeMap<IpAddr, Option<Instant>> = self.freed.iter().copied().collect();
        let since = |address: &IpAddr| known.get(address).copied().unwrap_or(Some(self.now));
        self.freed = kept.freed.iter().map(|address| (*address, since(address))).collect();
        let all = kept.endpoints.iter().chain(&kept.leaving);
        self.holders =
            all.filter_map(|endpoint| Some((endpoint.id.clone(), endpoint.claim.clone()?))).collect();
        (self.live, self.leaving) = (live, leaving);
        self.start(kept, Vec::new());
    }

    /// The agent comes back without a record, and finds the links that are there.
    fn lose_record(&mut self) {
        self.requests.clear();
        let leaving = std::mem::take(&mut self.leaving);
        for (id, addresses) in leaving {
            self.live.entry(id).or_insert(addresses);
        }
        let links = self.live.iter().filter(|(_, addresses)| !addresses.is_empty());
        let found =
            links.map(|(id, addresses)| Endpoint { addresses: addresses.clone(), ..endpoint(&id.container) });
        let found = found.collect();
        self.live.retain(|_, addresses| !addresses.is_empty());
        self.freed.clear();
        self.blurred.extend(all_blocks());
        self.calls.retain(|call| call.release.is_none());
        self.start(recover(b""), found);
    }

    fn start(&mut self, kept: Recovered, found: Vec<Endpoint>) {
        self.life += 1;
        self.claims.begin_life();
        (self.crash, self.full) = (None, false);
        self.unlinked.clear();
        self.conditions.clear();
        self.owned.clear();
        let kept = Recovered { uptime: self.now - self.began, ..kept };
        self.ipam = NodeIpam::new(NODE.into(), limits(), kept, self.now);
        self.drain(&BTreeSet::new());
        self.feed(Input::Adopt(found));
        self.feed(Input::SetPools(self.pools.clone()));
        self.seen = self.api.versions.len() - 1;
    }

    /// After the last fault: everything is answered and shown until nothing moves.
    fn calm(&mut self) {
        for _ in 0..60 {
            while !self.calls.is_empty() {
                self.answer(0, Fate::Confirmed);
            }
            self.watch(usize::MAX);
            self.pass(Duration::from_secs(5));
        }
    }

    fn ours(&self) -> BTreeSet<BlockId> {
        let ours = self.api.blocks.iter().filter(|(_, (owner, _))| owner.as_str() == NODE);
        ours.map(|(block, _)| *block).collect()
    }

    /// Everything ends, and then nothing may be left.
    fn wind_down(&mut self) {
        self.crash = None;
        self.full = false;
        self.set_pools(pools());
        self.calm();
        self.feed(Input::Keep { valid: BTreeSet::new() });
        for pod in 0..10 {
            self.link_gone(pod_id(pod));
        }
        self.end_claims();
        self.calm();
        let usage = self.ipam.usage();
        assert_eq!((self.ipam.endpoints().count(), self.ipam.leaving().count(), usage.waiting), (0, 0, 0));
        for in_block in &usage.blocks {
            let reserved = u32::from(in_block.block == block("10.0.0.4/30"));
            assert_eq!(in_block.standing, Standing::Owned);
            assert_eq!((in_block.used, in_block.resting), (0, 0));
            assert_eq!(in_block.free, in_block.block.size() - reserved, "{} leaks", in_block.block);
        }
        let held: BTreeSet<BlockId> = usage.blocks.iter().map(|in_block| in_block.block).collect();
        assert_eq!(held, self.ours(), "what the node holds is what the API server says");
        assert_eq!(held, self.owned, "and what it announces");
        assert!(held.iter().filter(|block| block.family() == Family::V4).count() <= 2, "{held:?}");
    }
}

fn pod_id(pod: u8) -> EndpointId {
    id(&format!("pod{pod}"))
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_events_gives_an_address_twice_or_leaks_one(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.carry_out(step);
        }
        world.wind_down();
    }
}
