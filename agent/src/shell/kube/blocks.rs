//! The owner of the IPBlock objects: claims and releases them, and says who owns which.
//!
//! A node watches its own blocks only. Those of others change often, and all that it has to know of
//! them is which are taken: it lists their names at the start, when a claim meets one that it did not
//! know of, and now and then; a claim on stale knowledge is refused by the API server, never granted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::runtime::watcher::Config;
use kube::{Api, Client, ResourceExt as _};
use manx_api::{Cidr, IPBlock, NODE_LABEL, label_value};
use manx_ipam::{BlockId, ClaimError, NodeName};
use tokio::sync::oneshot::channel as once;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::claims::Refresh;
use super::follow::{Change, absorb, follow};
use super::guests::{Guests, Host};
use super::watch::Blocks;
use super::{FIELD_MANAGER, bounded, jitter, status_of};
use crate::node::blockmap::BlockMap;
use crate::node::cluster::Objects;
use crate::shell::deltas;
use crate::shell::owner::NodeReport;
use crate::shell::wake::sleep_until;

/// What is to be done with a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Make it ours; it belongs to this pool.
    Claim {
        /// The name of the pool.
        pool: String,
    },
    /// Give it back.
    Release,
}

/// What became of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Of a claim.
    Claimed(Result<(), ClaimError>),
    /// Of a release.
    Released(Result<(), ClaimError>),
}

/// How often the blocks of others are listed though nothing asks for it.
const LIST_EVERY: Duration = Duration::from_secs(600);
/// The least time between two lists.
const LIST_PAUSE: Duration = Duration::from_secs(5);
/// The same where only a pod that asks for another node's address could be served by it.
const DOUBT_PAUSE: Duration = Duration::from_secs(30);
/// Objects in one page of a list.
const PAGE: u32 = 1000;

/// What the owner works with.
pub struct Wires {
    /// Claims and releases to be made.
    pub orders: deltas::Receiver<BlockId, Order>,
    /// What became of them, one for each.
    pub outcomes: deltas::Sender<BlockId, Outcome>,
    /// Whether the node lacks blocks.
    pub report: watch::Receiver<Arc<NodeReport>>,
    /// Where the owners of all blocks are published.
    pub published: watch::Sender<Option<Blocks>>,
    /// Where all claims of addresses can be had as they are now.
    pub refreshes: mpsc::Sender<Refresh>,
    /// Where the pods go that another network started; none where the kernel is left alone.
    pub guests: Option<mpsc::Sender<Guests>>,
}

/// Carries out orders and publishes the owners of all blocks, for as long as the process lives.
pub async fn run(client: Client, me: NodeName, mut wires: Wires) {
    let api: Api<IPBlock> = Api::all(client);
    let label = label_value(me.as_str());
    let selector = Config::default().labels(&format!("{NODE_LABEL}={label}"));
    let mut own: BoxStream<'static, Change<IPBlock>> = follow(api.clone(), selector).boxed();
    let mut owner = Owner {
        api,
        map: BlockMap::new(me.clone()),
        host: wires.guests.map(|guests| Host::new(me.clone(), guests)),
        me,
        label,
        own: Objects::default(),
        list_due: Instant::now(),
        listed_at: None,
        list_failing: false,
        short_of_blocks: false,
        doubts: 0,
        published: wires.published,
        refreshes: wires.refreshes,
    };
    loop {
        tokio::select! {
            Some(change) = own.next() => owner.absorb(change),
            () = tokio::time::sleep_until(owner.list_due) => owner.list().await,
            () = sleep_until(owner.host.as_ref().and_then(Host::due)) => owner.look().await,
            // While a node lacks blocks, one that somebody returns should not wait for the next list.
            Ok(()) = wires.report.changed() => {
                let report = Arc::clone(&wires.report.borrow_and_update());
                owner.short_of_blocks = report.short_of_blocks;
                if let Some(host) = &mut owner.host {
                    host.heard(&report);
                }
                if owner.short_of_blocks {
                    owner.list_soon(LIST_PAUSE);
                }
                // Who was refused an address for its owner's sake tries again: by then that owner is known anew.
                if std::mem::replace(&mut owner.doubts, report.doubts) != report.doubts {
                    owner.list_soon(DOUBT_PAUSE);
                }
                continue;
            }
            Some(batch) = wires.orders.recv(16) => {
                let mut outcomes = Vec::new();
                for (block, order) in batch {
                    outcomes.push((block, owner.carry_out(block, order).await));
                }
                owner.know_claims(&mut outcomes).await;
                // The map of owners first: an answer is never ahead of what it rests on.
                owner.publish();
                outcomes.into_iter().for_each(|(block, outcome)| wires.outcomes.send(block, outcome));
                continue;
            }
        }
        owner.publish();
    }
}

struct Owner {
    api: Api<IPBlock>,
    me: NodeName,
    label: String,
    own: Objects<IPBlock>,
    map: BlockMap,
    host: Option<Host>,
    list_due: Instant,
    listed_at: Option<Instant>,
    list_failing: bool,
    short_of_blocks: bool,
    doubts: u64,
    published: watch::Sender<Option<Blocks>>,
    refreshes: mpsc::Sender<Refresh>,
}

impl Owner {
    fn absorb(&mut self, change: Change<IPBlock>) {
        absorb(&mut self.own, change);
        // The owner in the spec is the truth, the label only finds it.
        let own = self.own.values().filter(|block| block.spec.node == self.me.as_str());
        let own = own.filter_map(|block| BlockId::new(block.spec.cidr.network()).ok());
        self.map.shown(own.collect(), Instant::now().into_std());
        if let Some(host) = &mut self.host {
            host.shown(self.own.values().map(|block| &**block));
        }
    }

    async fn look(&mut self) {
        if let Some(host) = &mut self.host {
            host.look().await;
        }
    }

    /// Those who have addresses in blocks that were handed over come first.
    fn publish(&self) {
        if self.host.as_ref().is_some_and(|host| !host.is_ready()) {
            return;
        }
        let Some(blocks) = self.map.owners() else { return };
        self.published.send_if_modified(|published| {
            let changed = published.as_deref() != Some(&blocks);
            if changed {
                *published = Some(Arc::new(blocks));
            }
            changed
        });
    }

    async fn carry_out(&mut self, block: BlockId, order: Order) -> Outcome {
        match order {
            Order::Claim { pool } => Outcome::Claimed(self.claim(block, &pool).await),
            Order::Release => Outcome::Released(self.release(block).await),
        }
    }

    /// Nothing is given from a new block before the claims of its addresses are known that were made until now.
    async fn know_claims(&self, outcomes: &mut [(BlockId, Outcome)]) {
        let new = |outcome: &Outcome| *outcome == Outcome::Claimed(Ok(()));
        if !outcomes.iter().any(|(_, outcome)| new(outcome)) {
            return;
        }
        let (refresh, answer) = once();
        let known = self.refreshes.send(refresh).await.is_ok() && answer.await.unwrap_or(false);
        for (_, outcome) in outcomes.iter_mut().filter(|(_, outcome)| !known && new(outcome)) {
            // It is ours, and the next try finds it so.
            *outcome = Outcome::Claimed(Err(ClaimError::Failed));
        }
    }

    async fn claim(&mut self, block: BlockId, pool: &str) -> Result<(), ClaimError> {
        let cidr = Cidr::try_from(block.cidr()).expect("a block has no host bits");
        let object = IPBlock::claim(cidr, self.me.as_str(), pool);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let Err(error) = bounded(self.api.create(&params, &object)).await else {
            self.map.claimed(block, Instant::now().into_std());
            return Ok(());
        };
        if status_of(&error) != Some(409) {
            tracing::warn!(error = format!("{error:#}"), %block, "a block cannot be claimed; it is tried again");
            return Err(ClaimError::Failed);
        }
        self.find_owner(block).await
    }

    /// A claim met an object: perhaps one of our own, whose answer was lost.
    async fn find_owner(&mut self, block: BlockId) -> Result<(), ClaimError> {
        match bounded(self.api.get_opt(&block.name())).await {
            Ok(Some(object)) if object.spec.node == self.me.as_str() => {
                self.map.claimed(block, Instant::now().into_std());
                Ok(())
            }
            Ok(Some(object)) => {
                tracing::debug!(%block, node = %object.spec.node, "the block is taken");
                self.map.taken(block, NodeName::new(object.spec.node));
                self.list_soon(LIST_PAUSE);
                Err(ClaimError::Taken)
            }
            Ok(None) => Err(ClaimError::Failed),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), %block, "the owner of a block cannot be read");
                Err(ClaimError::Failed)
            }
        }
    }

    async fn release(&mut self, block: BlockId) -> Result<(), ClaimError> {
        let failed = |error: anyhow::Error| {
            tracing::warn!(error = format!("{error:#}"), %block, "a block cannot be released; it is tried again");
            ClaimError::Failed
        };
        let name = block.name();
        let Some(object) = bounded(self.api.get_opt(&name)).await.map_err(failed)? else {
            self.map.released(block, Instant::now().into_std());
            return Ok(());
        };
        if object.spec.node != self.me.as_str() {
            return Err(ClaimError::Taken);
        }
        let preconditions = Preconditions { resource_version: object.resource_version(), uid: object.uid() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match bounded(self.api.delete(&name, &params)).await {
            Ok(_) => {}
            Err(error) if status_of(&error) == Some(404) => {}
            Err(error) => return Err(failed(error)),
        }
        self.map.released(block, Instant::now().into_std());
        Ok(())
    }

    /// Lists the blocks of others, but not before `pause` since the last time is over.
    fn list_soon(&mut self, pause: Duration) {
        let earliest = self.listed_at.map_or_else(Instant::now, |at| at + pause);
        self.list_due = self.list_due.min(earliest);
    }

    async fn list(&mut self) {
        match self.list_others().await {
            Ok(others) => {
                self.map.listed(others);
                let pause = if self.short_of_blocks { LIST_PAUSE } else { LIST_EVERY };
                self.list_due = Instant::now() + pause.mul_f64(0.75 + jitter(&self.label) / 2.0);
                self.list_failing = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.list_failing, true) {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "the blocks of the cluster cannot be listed"
                    );
                }
                self.list_due = Instant::now() + LIST_PAUSE.mul_f64(0.5 + jitter(&self.label));
            }
        }
        self.listed_at = Some(Instant::now());
    }

    /// All blocks that are not ours, by name and label alone: their status may be large.
    async fn list_others(&self) -> anyhow::Result<BTreeMap<BlockId, NodeName>> {
        let mut others = BTreeMap::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = bounded(self.api.list_metadata(&params)).await.context("listing blocks")?;
            for object in &page.items {
                let owner = object.labels().get(NODE_LABEL).cloned().unwrap_or_default();
                if owner != self.label
                    && let Some(block) = block_of(&object.name_any())
                {
                    others.insert(block, NodeName::new(owner));
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(others),
            }
        }
    }
}

/// The block that an object of this name stands for.
fn block_of(name: &str) -> Option<BlockId> {
    let (address, len) = name.rsplit_once('-')?;
    let v4 = address.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
        && address.bytes().filter(|byte| *byte == b'-').count() == 3
        && !address.contains("--");
    let address = address.replace('-', if v4 { "." } else { ":" });
    format!("{address}/{len}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_block_says_which_it_is() {
        for cidr in ["10.244.3.64/26", "fd00:10:244::40/122", "fd00:1:2:3:4:5:6:0/112", "2001:db8::/112"] {
            let block: BlockId = cidr.parse().expect("a block");
            assert_eq!(block_of(&block.name()), Some(block), "{cidr}");
        }
    }

    #[test]
    fn an_object_that_is_named_otherwise_is_no_block() {
        assert_eq!(block_of("default"), None);
        assert_eq!(block_of("10-244-3-64-99"), None);
    }
}
