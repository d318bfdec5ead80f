//! The owner of the IPClaim objects: carries out what the node wants of them, and says how all of them stand.
//!
//! Every write rests on the version that was read, so of two nodes that want a claim one gets it. What was written or
//! read here counts until the watch has come as far. Whoever came to own a block asks for a list of all claims made
//! after that: the watch may be late, and in a new block no claimed address may be given to anybody else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, PostParams};
use kube::runtime::watcher::Config;
use kube::{Api, Client, ResourceExt as _};
use manx_api::{CLAIM_FINALIZER, IPClaim, IPClaimStatus, Time};
use manx_ipam::{Family, NodeName};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::follow::{Change, follow};
use super::{FIELD_MANAGER, bounded, status_of};
use crate::node::claims::{ClaimOrder, ClaimTrouble, KnownClaim, KnownClaims};
use crate::node::pods::{Controller, PodName};
use crate::shell::deltas;

/// How long what a list does not show may still be news.
const AHEAD: Duration = Duration::from_secs(30);
/// Objects in one page of a list.
const PAGE: u32 = 1000;
/// How often a write that met a newer version is tried again at once.
const TRIES: usize = 6;

/// Asks for a list that is made from now on; answered with whether it was.
pub type Refresh = oneshot::Sender<bool>;

/// What the owner works with.
pub struct Wires {
    /// What is to be done with a pod's claim.
    pub orders: deltas::Receiver<PodName, ClaimOrder>,
    /// What became of it, one for each.
    pub outcomes: deltas::Sender<PodName, Result<(), ClaimTrouble>>,
    /// Where all claims are published.
    pub published: watch::Sender<Option<Arc<KnownClaims>>>,
    /// Who wants to know all claims as they are now.
    pub refreshes: mpsc::Receiver<Refresh>,
}

/// Carries out orders and publishes the claims, for as long as the process lives.
pub async fn run(client: Client, me: NodeName, mut wires: Wires) {
    let mut updates: BoxStream<'static, Change<IPClaim>> =
        follow(Api::<IPClaim>::all(client.clone()), Config::default()).boxed();
    let mut owner = Owner { client, me, shown: None, ahead: BTreeMap::new(), published: wires.published };
    // The watch alone would never say that the cluster has no such kind.
    owner.refresh().await;
    owner.publish();
    loop {
        tokio::select! {
            Some(change) = updates.next() => owner.absorb(change),
            Some(refresh) = wires.refreshes.recv() => {
                let done = owner.refresh().await;
                owner.publish();
                // Nobody may wait for it any more.
                let _gone = refresh.send(done);
            }
            Some(batch) = wires.orders.recv(1) => {
                for (name, order) in batch {
                    let outcome = owner.carry_out(&name, &order).await;
                    if let Err(trouble) = &outcome {
                        tracing::info!(claim = %key(&name), %order, %trouble, "nothing came of an order");
                    }
                    // The claims first: an answer is never ahead of what it rests on.
                    owner.publish();
                    wires.outcomes.send(name, outcome);
                }
            }
        }
        owner.publish();
    }
}

struct Owner {
    client: Client,
    me: NodeName,
    /// What the watch shows; `None` until it has listed all.
    shown: Option<BTreeMap<PodName, IPClaim>>,
    /// What was written or read here and the watch has not shown yet.
    ahead: BTreeMap<PodName, (IPClaim, Instant)>,
    published: watch::Sender<Option<Arc<KnownClaims>>>,
}

impl Owner {
    fn absorb(&mut self, change: Change<IPClaim>) {
        match change {
            Change::All(all) => {
                let all: BTreeMap<PodName, IPClaim> =
                    all.into_values().map(|claim| (PodName::of(&claim.metadata), claim)).collect();
                self.ahead.retain(|name, (ours, since)| match all.get(name) {
                    Some(shown) => version(shown) < version(ours),
                    None => since.elapsed() < AHEAD,
                });
                self.shown = Some(all);
            }
            Change::Applied(claim) => {
                let name = PodName::of(&claim.metadata);
                if self.ahead.get(&name).is_some_and(|(ours, _)| version(ours) <= version(&claim)) {
                    self.ahead.remove(&name);
                }
                self.shown.get_or_insert_default().insert(name, claim);
            }
            Change::Deleted(key) => {
                let named = |name: &PodName| self::key(name) == key;
                self.shown.get_or_insert_default().retain(|name, _| !named(name));
                // One that was made anew is told again.
                self.ahead.retain(|name, _| !named(name));
            }
        }
    }

    fn current(&self, name: &PodName) -> Option<IPClaim> {
        let ahead = self.ahead.get(name).map(|(claim, _)| claim);
        ahead.or_else(|| self.shown.as_ref()?.get(name)).cloned()
    }

    fn saw(&mut self, name: &PodName, claim: IPClaim) {
        let known = self.current(name).map_or(0, |known| version(&known));
        if version(&claim) >= known {
            self.ahead.insert(name.clone(), (claim, Instant::now()));
        }
    }

    fn publish(&self) {
        let Some(shown) = &self.shown else { return };
        let mut all: KnownClaims = shown.iter().map(|(name, claim)| (name.clone(), read(claim))).collect();
        all.extend(self.ahead.iter().map(|(name, (claim, _))| (name.clone(), read(claim))));
        self.published.send_if_modified(|published| {
            let changed = published.as_deref() != Some(&all);
            if changed {
                *published = Some(Arc::new(all));
            }
            changed
        });
    }

    async fn refresh(&mut self) -> bool {
        match self.list().await {
            Ok(all) => {
                all.into_iter().for_each(|claim| self.saw(&PodName::of(&claim.metadata), claim));
                true
            }
            // A cluster that does not have the kind yet has no claims.
            Err(error) if status_of(&error) == Some(404) => {
                self.shown.get_or_insert_default();
                true
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the IPClaims cannot be listed: pods with sticky addresses wait"
                );
                false
            }
        }
    }

    async fn list(&self) -> anyhow::Result<Vec<IPClaim>> {
        let api: Api<IPClaim> = Api::all(self.client.clone());
        let mut params = ListParams::default().limit(PAGE);
        let mut all = Vec::new();
        loop {
            let page = bounded(api.list(&params)).await?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(all),
            }
        }
    }

    async fn carry_out(&mut self, name: &PodName, order: &ClaimOrder) -> Result<(), ClaimTrouble> {
        let api: Api<IPClaim> = Api::namespaced(self.client.clone(), &name.namespace);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let unreachable = |error: anyhow::Error| {
            tracing::warn!(error = format!("{error:#}"), claim = %key(name), "an IPClaim cannot be written: its pod waits");
            ClaimTrouble::Unreachable
        };
        let mut current = self.current(name);
        let mut said = false;
        for _ in 0..TRIES {
            let written = match next_step(order, name, current.as_ref(), &self.me, said)? {
                Step::Done => return Ok(()),
                Step::Create(claim) => bounded(api.create(&params, &claim)).await,
                Step::Replace(claim) => bounded(api.replace(&name.name, &params, &claim)).await,
                Step::Say(claim) => {
                    let written = bounded(api.replace_status(&name.name, &params, &claim)).await;
                    said |= written.is_ok();
                    written
                }
            };
            current = match written {
                Ok(claim) => Some(claim),
                Err(error) if matches!(status_of(&error), Some(404 | 409)) => {
                    let found = bounded(api.get_opt(&name.name)).await.map_err(unreachable)?;
                    if found.is_none() {
                        self.ahead.remove(name);
                    }
                    found
                }
                Err(error) => return Err(unreachable(error)),
            };
            if let Some(claim) = &current {
                self.saw(name, claim.clone());
                // What is about to be said of it rests on its being known.
                self.publish();
            }
        }
        Err(ClaimTrouble::Unreachable)
    }
}

/// The next write for an order.
#[derive(Debug, PartialEq)]
enum Step {
    Done,
    Create(Box<IPClaim>),
    Replace(Box<IPClaim>),
    /// Its status.
    Say(Box<IPClaim>),
}

/// What is to be written next; `said` when the status was written for this order. Whether this node holds a claim is
/// never believed without a write: what was read may be old.
fn next_step(
    order: &ClaimOrder,
    name: &PodName,
    current: Option<&IPClaim>,
    me: &NodeName,
    said: bool,
) -> Result<Step, ClaimTrouble> {
    let Some(claim) = current else {
        return match order {
            ClaimOrder::Settle { addresses, owner, .. } => {
                let mut claim = IPClaim::of_pod(&name.namespace, &name.name, addresses.iter().copied());
                claim.metadata.owner_references = owner.as_ref().map(|owner| vec![reference(owner)]);
                Ok(Step::Create(Box::new(claim)))
            }
            ClaimOrder::Hold { .. } => Err(ClaimTrouble::Gone),
            ClaimOrder::Reserve(_) | ClaimOrder::Release => Ok(Step::Done),
        };
    };
    let mut wanted = claim.clone();
    let holder = claim.status.as_ref().and_then(|status| status.node.as_deref());
    match order {
        ClaimOrder::Hold { pod_uid } => {
            let none = BTreeSet::new();
            hold(claim, wanted, (me, pod_uid.as_ref()), (&none, &none), said)
        }
        ClaimOrder::Settle { addresses, reserve, pod_uid, .. } => {
            hold(claim, wanted, (me, pod_uid.as_ref()), (addresses, reserve), said)
        }
        ClaimOrder::Reserve(addresses) => {
            reserve_in(&mut wanted, addresses);
            Ok(if wanted == *claim { Step::Done } else { Step::Say(Box::new(wanted)) })
        }
        ClaimOrder::Release if holder == Some(me.as_str()) => {
            let reserved = wanted.status.take().map(|status| status.reserved).unwrap_or_default();
            wanted.status = Some(IPClaimStatus { reserved, ..IPClaimStatus::default() });
            Ok(Step::Say(Box::new(wanted)))
        }
        ClaimOrder::Release => Ok(Step::Done),
    }
}

fn hold(
    claim: &IPClaim,
    mut wanted: IPClaim,
    (me, pod_uid): (&NodeName, Option<&String>),
    (addresses, reserve): (&BTreeSet<IpAddr>, &BTreeSet<IpAddr>),
    said: bool,
) -> Result<Step, ClaimTrouble> {
    let holder = claim.status.as_ref().and_then(|status| status.node.as_deref());
    if let Some(other) = holder.filter(|holder| *holder != me.as_str()) {
        return Err(ClaimTrouble::Held(other.into()));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(ClaimTrouble::Deleting);
    }
    for address in addresses {
        let has: Vec<IpAddr> = claim.spec.addresses.iter().map(|address| address.ip()).collect();
        if has.contains(address) {
            continue;
        }
        if has.iter().any(|other| Family::of(*other) == Family::of(*address)) {
            return Err(ClaimTrouble::Differs);
        }
        wanted.spec.addresses.push((*address).into());
    }
    if !claim.finalizers().iter().any(|finalizer| finalizer == CLAIM_FINALIZER) {
        wanted.finalizers_mut().push(CLAIM_FINALIZER.to_owned());
    }
    if wanted != *claim {
        return Ok(Step::Replace(Box::new(wanted)));
    }
    if said {
        return Ok(Step::Done);
    }
    let status = wanted.status.get_or_insert_default();
    status.node = Some(me.to_string());
    status.pod_uid = pod_uid.cloned();
    status.since = Some(Time(Timestamp::now()));
    reserve_in(&mut wanted, reserve);
    Ok(Step::Say(Box::new(wanted)))
}

/// Adds what is set aside to the status.
fn reserve_in(claim: &mut IPClaim, addresses: &BTreeSet<IpAddr>) {
    let listed: Vec<_> = claim.spec.addresses.clone();
    let status = claim.status.get_or_insert_default();
    for address in listed.into_iter().filter(|address| addresses.contains(&address.ip())) {
        if !status.reserved.contains(&address) {
            status.reserved.push(address);
        }
    }
}

fn reference(owner: &Controller) -> OwnerReference {
    OwnerReference {
        api_version: owner.api_version.clone(),
        kind: owner.kind.clone(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
        ..OwnerReference::default()
    }
}

/// What counts of a claim.
fn read(claim: &IPClaim) -> KnownClaim {
    let status = claim.status.as_ref();
    KnownClaim {
        addresses: claim.spec.addresses.iter().map(|address| address.ip()).collect(),
        reserved: status.iter().flat_map(|status| &status.reserved).map(|address| address.ip()).collect(),
        node: status.and_then(|status| status.node.as_deref()).map(NodeName::from),
        deleting: claim.metadata.deletion_timestamp.is_some(),
        created: claim.creation_timestamp().map_or(i64::MAX, |time| time.0.as_second()),
    }
}

/// Versions of one kind grow; one that cannot be read is older than any.
fn version(claim: &IPClaim) -> u64 {
    claim.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0)
}

fn key(name: &PodName) -> String {
    format!("{}/{}", name.namespace, name.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> PodName {
        PodName { namespace: "shop".to_owned(), name: "db-0".to_owned() }
    }

    fn addresses(all: &[&str]) -> BTreeSet<IpAddr> {
        all.iter().map(|text| text.parse().expect("an address")).collect()
    }

    fn settle(all: &[&str]) -> ClaimOrder {
        let (addresses, reserve) = (addresses(all), addresses(all));
        ClaimOrder::Settle { addresses, reserve, pod_uid: Some("u".to_owned()), owner: None }
    }

    /// Carries an order out on a claim that nobody else touches; how many writes it took.
    fn carried_out(
        order: &ClaimOrder,
        mut current: Option<IPClaim>,
    ) -> Result<(Option<IPClaim>, usize), ClaimTrouble> {
        let (mut said, mut writes) = (false, 0);
        loop {
            current = match next_step(order, &name(), current.as_ref(), &"node1".into(), said)? {
                Step::Done => return Ok((current, writes)),
                Step::Create(claim) | Step::Replace(claim) => Some(*claim),
                Step::Say(claim) => {
                    said = true;
                    Some(*claim)
                }
            };
            writes += 1;
        }
    }

    fn held_by(node: &str) -> IPClaim {
        let mut claim = IPClaim::of_pod("shop", "db-0", addresses(&["10.0.0.1"]));
        let reserved = claim.spec.addresses.clone();
        claim.status =
            Some(IPClaimStatus { node: Some(node.to_owned()), reserved, ..IPClaimStatus::default() });
        claim
    }

    #[test]
    fn a_claim_that_is_not_there_takes_two_writes_and_says_all_then() {
        let (claim, writes) = carried_out(&settle(&["10.0.0.1", "fd00::1"]), None).expect("free");
        let known = read(&claim.expect("made"));
        assert_eq!((writes, known.node), (2, Some("node1".into())));
        assert_eq!(known.reserved, addresses(&["10.0.0.1", "fd00::1"]));
    }

    #[test]
    fn a_family_that_a_claim_lacks_is_added_and_an_address_never_changed() {
        let mut claim = held_by("node1");
        claim.status = None;
        let (grown, _) = carried_out(&settle(&["10.0.0.1", "fd00::1"]), Some(claim.clone())).expect("free");
        assert_eq!(read(&grown.expect("there")).addresses, addresses(&["10.0.0.1", "fd00::1"]));
        assert_eq!(carried_out(&settle(&["10.0.0.2"]), Some(claim)), Err(ClaimTrouble::Differs));
    }

    #[test]
    fn what_another_node_holds_or_somebody_deletes_is_not_taken() {
        let hold = ClaimOrder::Hold { pod_uid: None };
        let held = Err(ClaimTrouble::Held("node2".into()));
        assert_eq!(carried_out(&hold, Some(held_by("node2"))), held);
        assert_eq!(carried_out(&settle(&["10.0.0.1"]), Some(held_by("node2"))), held);
        let mut going = held_by("node1");
        going.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(carried_out(&hold, Some(going)), Err(ClaimTrouble::Deleting));
        assert_eq!(carried_out(&hold, None), Err(ClaimTrouble::Gone));
    }

    #[test]
    fn even_a_claim_that_seems_to_be_ours_is_held_by_a_write_only() {
        let hold = ClaimOrder::Hold { pod_uid: None };
        assert_eq!(carried_out(&hold, Some(held_by("node1"))).expect("ours").1, 1);
    }

    #[test]
    fn a_release_keeps_what_is_reserved_and_leaves_the_claims_of_others_alone() {
        let (claim, _) = carried_out(&ClaimOrder::Release, Some(held_by("node1"))).expect("ours");
        let known = read(&claim.expect("there"));
        assert_eq!((known.node, known.reserved), (None, addresses(&["10.0.0.1"])));
        assert_eq!(carried_out(&ClaimOrder::Release, Some(held_by("node2"))).expect("nothing to do").1, 0);
    }

    #[test]
    fn a_claim_written_by_hand_gets_the_finalizer_before_anybody_holds_it() {
        let mut claim = held_by("node1");
        (claim.status, claim.metadata.finalizers) = (None, None);
        let first =
            next_step(&ClaimOrder::Hold { pod_uid: None }, &name(), Some(&claim), &"node1".into(), false);
        assert!(matches!(first, Ok(Step::Replace(_))), "{first:?}");
    }
}
