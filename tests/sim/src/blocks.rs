//! The owner of the objects of blocks, as `agent/src/shell/kube/blocks.rs` has it: claims and releases one by one, lists now
//! and then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use manx_api::{Cidr, IPBlock, label_value};
use manx_ipam::{BlockId, ClaimError, NodeName};

use crate::agent::Task;
use crate::api::{Answer, Kind, Object, Request, Stored};
use crate::client::{Client, Desk};
use crate::world::{World, secs};

/// What is to be done with a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    Claim { pool: String },
    Release,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Claimed(Result<(), ClaimError>),
    Released(Result<(), ClaimError>),
}

/// What the owner of blocks waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    Create(BlockId),
    FindOwner(BlockId),
    Look(BlockId),
    Delete(BlockId),
    List,
}

impl World {
    pub(crate) fn order(&mut self, host: usize, block: BlockId, order: Order) {
        let Some(agent) = self.agent(host) else { return };
        agent.orders.insert(block, order);
        self.poke(host, Task::Blocks);
    }

    pub(crate) fn list_soon(&mut self, host: usize) {
        let now = self.now;
        let Some(agent) = self.agent(host) else { return };
        let earliest = agent.listed_at.map_or(now, |at| at + secs(5));
        if earliest < agent.list_due {
            agent.list_due = earliest;
            self.poke(host, Task::Blocks);
        }
    }

    pub(crate) fn blocks_turn(&mut self, host: usize) -> bool {
        let now = self.now;
        let Some(agent) = self.agent(host) else { return false };
        if agent.job.is_some() {
            return false;
        }
        let list = agent.list_due <= now;
        if list && (agent.orders.is_empty() || self.noise.chance(500)) {
            self.begin(host, Job::List, Request::ListBlocks);
            return false;
        }
        let Some(agent) = self.agent(host) else { return false };
        let Some((block, order)) = agent.orders.pop_first() else { return false };
        let key = (Kind::Block, block.name());
        match order {
            Order::Claim { pool } => {
                let cidr = Cidr::try_from(block.cidr()).expect("a block has no host bits");
                let object = IPBlock::claim(cidr, self.hosts[host].name.as_str(), &pool);
                self.begin(host, Job::Create(block), Request::Create(key, Box::new(Object::Block(object))));
            }
            Order::Release => self.begin(host, Job::Look(block), Request::Get(key)),
        }
        false
    }

    fn begin(&mut self, host: usize, job: Job, request: Request) {
        let Some(agent) = self.agent(host) else { return };
        agent.job = Some(job);
        let life = agent.life;
        self.ask(Client::Host(host), life, Desk::Blocks, request);
    }

    /// An answer for the owner of blocks.
    pub(crate) fn blocks_answered(&mut self, host: usize, answer: Answer) {
        let now = self.now;
        let me = self.hosts[host].name.clone();
        let Some(agent) = self.agent(host) else { return };
        let Some(job) = agent.job.take() else { return };
        match job {
            Job::Create(block) => match answer {
                Answer::Done => {
                    agent.map.claimed(block, now);
                    self.figures.claims += 1;
                    self.outcome(host, block, Outcome::Claimed(Ok(())));
                }
                Answer::Conflict => {
                    self.begin(host, Job::FindOwner(block), Request::Get((Kind::Block, block.name())));
                }
                _ => self.outcome(host, block, Outcome::Claimed(Err(ClaimError::Failed))),
            },
            Job::FindOwner(block) => self.found_owner(host, block, &me, answer),
            Job::Look(block) => self.looked(host, block, &me, answer),
            Job::Delete(block) => match answer {
                Answer::Done | Answer::Missing => {
                    agent.map.released(block, now);
                    self.outcome(host, block, Outcome::Released(Ok(())));
                }
                _ => self.outcome(host, block, Outcome::Released(Err(ClaimError::Failed))),
            },
            Job::List => self.listed(host, &me, answer),
        }
        self.poke(host, Task::Blocks);
    }

    /// A claim met an object: perhaps one of our own, whose answer was lost.
    fn found_owner(&mut self, host: usize, block: BlockId, me: &NodeName, answer: Answer) {
        let now = self.now;
        let Some(agent) = self.agent(host) else { return };
        let outcome = match answer {
            Answer::Found(Some(stored)) => match owner(&stored) {
                Some(owner) if owner == *me => {
                    agent.map.claimed(block, now);
                    Ok(())
                }
                Some(owner) => {
                    agent.map.taken(block, owner);
                    self.list_soon(host);
                    Err(ClaimError::Taken)
                }
                None => Err(ClaimError::Failed),
            },
            _ => Err(ClaimError::Failed),
        };
        self.outcome(host, block, Outcome::Claimed(outcome));
    }

    fn looked(&mut self, host: usize, block: BlockId, me: &NodeName, answer: Answer) {
        let now = self.now;
        let Some(agent) = self.agent(host) else { return };
        let outcome = match answer {
            Answer::Found(None) => {
                agent.map.released(block, now);
                Ok(())
            }
            Answer::Found(Some(stored)) if owner(&stored).as_ref() == Some(me) => {
                let key = (Kind::Block, block.name());
                let request = Request::Delete(key, stored.uid, Some(stored.version));
                return self.begin(host, Job::Delete(block), request);
            }
            Answer::Found(Some(_)) => Err(ClaimError::Taken),
            _ => Err(ClaimError::Failed),
        };
        self.outcome(host, block, Outcome::Released(outcome));
    }

    fn listed(&mut self, host: usize, me: &NodeName, answer: Answer) {
        let (now, early) = (self.now, self.noise.between(secs(450), secs(750)));
        let retry = self.noise.between(secs(3), secs(7));
        let Some(agent) = self.agent(host) else { return };
        agent.listed_at = Some(now);
        match answer {
            Answer::Blocks(blocks) => {
                let label = label_value(me.as_str());
                let others = blocks.into_iter().filter(|(_, owner, _)| label_value(owner) != label);
                let others = others.map(|(block, owner, _)| (block, NodeName::new(owner)));
                agent.map.listed(others.collect::<BTreeMap<_, _>>());
                agent.list_due = now + if agent.node.short_of_blocks() { retry } else { early };
                self.publish_owners(host);
            }
            _ => agent.list_due = now + retry,
        }
    }

    fn outcome(&mut self, host: usize, block: BlockId, outcome: Outcome) {
        self.log(format_args!("node{host}: {block} {outcome:?}"));
        // The map of owners first: an answer is never ahead of what it rests on.
        self.publish_owners(host);
        let Some(agent) = self.agent(host) else { return };
        agent.outcomes.insert(block, outcome);
        self.poke(host, Task::Owner);
    }

    /// The watch shows which blocks are this node's.
    pub(crate) fn show_blocks(&mut self, host: usize) {
        let now = self.now;
        let me = self.hosts[host].name.clone();
        let Some(agent) = self.agent(host) else { return };
        let Some(watch) = agent.watches.get(&Kind::Block) else { return };
        let blocks = watch.objects.values().filter_map(|object| match &**object {
            Object::Block(block) if block.spec.node == me.as_str() => {
                BlockId::new(block.spec.cidr.network()).ok()
            }
            _ => None,
        });
        let own: BTreeSet<BlockId> = blocks.collect();
        agent.map.shown(own, now);
        self.publish_owners(host);
    }

    fn publish_owners(&mut self, host: usize) {
        let Some(agent) = self.agent(host) else { return };
        let Some(owners) = agent.map.owners() else { return };
        if agent.owners.as_deref() != Some(&owners) {
            (agent.owners, agent.owners_changed) = (Some(Arc::new(owners)), true);
            self.poke(host, Task::Owner);
            self.poke(host, Task::Watch);
        }
    }
}

fn owner(stored: &Stored) -> Option<NodeName> {
    match &*stored.object {
        Object::Block(block) => Some(NodeName::new(block.spec.node.clone())),
        _ => None,
    }
}
