//! The owner of a node's addresses, as `agent/src/shell/owner.rs` has it: the one loop around [`Node`].

use manx_agent::node::{Input, Output, found};
use manx_cni::rpc::{DelRequest, Reply, RpcError};
use manx_cni::spec::Code;
use manx_ipam::{ClaimError, RequestId};

use crate::agent::Task;
use crate::blocks::{Order, Outcome};
use crate::links::News;
use crate::world::{Disk, World, secs};

#[cfg(doc)]
use manx_agent::node::Node;

/// What may wait for the owner.
#[derive(Debug, Clone, Copy)]
enum Ready {
    Call,
    News,
    Outcomes,
    Owners,
    Intent,
    Tombstones,
    Timeout,
}

impl World {
    /// Takes one thing of those that wait; true if there are more.
    pub(crate) fn owner_turn(&mut self, host: usize) -> bool {
        let ready = self.ready(host);
        if ready.is_empty() {
            return false;
        }
        let chosen = ready[self.noise.below(ready.len())];
        match chosen {
            Ready::Call => self.take_call(host),
            Ready::News => self.take_news(host),
            Ready::Outcomes => {
                // The owners of blocks first: an answer rests on them.
                self.take_owners(host);
                self.take_outcomes(host);
            }
            Ready::Owners => self.take_owners(host),
            Ready::Intent => {
                let Some(agent) = self.agent(host) else { return false };
                agent.intent_changed = false;
                if let Some(intent) = agent.intent.clone() {
                    self.feed(host, Input::Intent(intent));
                }
            }
            Ready::Tombstones => self.look_for_tombstones(host),
            Ready::Timeout => self.feed(host, Input::Timeout),
        }
        ready.len() > 1 || !self.ready(host).is_empty()
    }

    fn ready(&mut self, host: usize) -> Vec<Ready> {
        let now = self.now;
        let Some(agent) = self.agent(host) else { return Vec::new() };
        let waits = [
            (!agent.calls.is_empty(), Ready::Call),
            (!agent.news.is_empty(), Ready::News),
            (!agent.outcomes.is_empty(), Ready::Outcomes),
            (agent.owners_changed, Ready::Owners),
            (agent.intent_changed, Ready::Intent),
            (agent.look_due <= now, Ready::Tombstones),
            (agent.node.deadline().is_some_and(|due| due <= now), Ready::Timeout),
        ];
        waits.into_iter().filter(|(waits, _)| *waits).map(|(_, ready)| ready).collect()
    }

    fn take_call(&mut self, host: usize) {
        let at = self.time_of_day();
        let Some(agent) = self.agent(host) else { return };
        let Some((call, request)) = agent.calls.pop_front() else { return };
        let number = RequestId(agent.next_request);
        agent.next_request += 1;
        agent.waiting.insert(number, call);
        self.feed(host, Input::Call { request: number, call: request, at });
    }

    fn take_news(&mut self, host: usize) {
        let Some(agent) = self.agent(host) else { return };
        for (id, news) in std::mem::take(&mut agent.news) {
            self.feed(
                host,
                match news {
                    News::Down => Input::LinkDown { id },
                    News::Gone => Input::LinkGone { id },
                },
            );
        }
    }

    fn take_outcomes(&mut self, host: usize) {
        let Some(agent) = self.agent(host) else { return };
        for (block, outcome) in std::mem::take(&mut agent.outcomes) {
            self.feed(
                host,
                match outcome {
                    Outcome::Claimed(outcome) => Input::Claimed { block, outcome },
                    Outcome::Released(outcome) => Input::Released { block, outcome },
                },
            );
        }
    }

    fn take_owners(&mut self, host: usize) {
        let Some(agent) = self.agent(host) else { return };
        let changed = std::mem::take(&mut agent.owners_changed);
        if let Some(owners) = agent.owners.clone().filter(|_| changed) {
            self.feed(host, Input::Blocks(owners));
            self.check_doubles(host);
        }
    }

    fn look_for_tombstones(&mut self, host: usize) {
        let due = self.now + secs(10);
        let Some(agent) = self.agent(host) else { return };
        agent.look_due = due;
        for ended in self.hosts[host].disk.ended() {
            self.feed(host, Input::Ended(ended));
        }
    }

    /// Feeds the node and carries out what it says.
    pub(crate) fn feed(&mut self, host: usize, input: Input) {
        let now = self.now;
        let Some(agent) = self.agent(host) else { return };
        agent.node.handle(input, now);
        self.carry_out_all(host);
    }

    /// Carries out what the node says, in order, unless the process dies in between.
    pub(crate) fn carry_out_all(&mut self, host: usize) {
        while let Some(output) = self.agent(host).and_then(|agent| agent.node.poll()) {
            if let Some(fuse) = &mut self.hosts[host].fuse {
                match fuse.checked_sub(1) {
                    Some(left) => *fuse = left,
                    None => return self.die_at(host, &output),
                }
            }
            self.carry_out_output(host, output);
        }
        let Some(agent) = self.agent(host) else { return };
        // While blocks lack, one that somebody returns should not wait for the next list.
        if agent.node.short_of_blocks() {
            self.list_soon(host);
        }
    }

    /// The process dies while it carries something out: of a line of the record any part may be there.
    fn die_at(&mut self, host: usize, output: &Output) {
        if let Output::Record(bytes) = output {
            let torn = self.noise.below(bytes.len() + 1);
            self.hosts[host].disk.record.extend_from_slice(&bytes[..torn]);
            self.log(format_args!("node{host}: {torn} of {} octets are recorded", bytes.len()));
        }
        self.kill_agent(host);
    }

    fn carry_out_output(&mut self, host: usize, output: Output) {
        match output {
            Output::Record(bytes) => {
                let written = self.hosts[host].disk.append(&bytes);
                self.recorded(host, written, false);
            }
            Output::Rewrite(bytes) => {
                let written = self.hosts[host].disk.replace(bytes);
                self.recorded(host, written, true);
            }
            Output::Claim { block, pool } => self.order(host, block, Order::Claim { pool }),
            Output::Release(block) => self.release(host, block),
            Output::Reply { request, reply } => self.reply(host, request, reply),
            Output::Unlink { id, link, .. } => {
                let Some(agent) = self.agent(host) else { return };
                agent.unlinks.insert(id, link);
                self.poke(host, Task::Links);
            }
            Output::Buried(attachment) if self.agent(host).is_some_and(|agent| !agent.record_broken) => {
                self.hosts[host].disk.tombstones.remove(&attachment.container);
            }
            Output::Routes(routes) => {
                let Some(agent) = self.agent(host) else { return };
                agent.local = Some(routes);
                self.poke(host, Task::Kernel);
            }
            Output::Origins(origins) => {
                let Some(agent) = self.agent(host) else { return };
                (agent.origins, agent.origins_changed) = (origins, true);
                self.check_origins(host);
                self.poke(host, Task::Bgp);
            }
            Output::Look => {
                let now = self.now;
                let found = found::endpoints(&self.hosts[host].kernel.dump());
                let Some(agent) = self.agent(host) else { return };
                let present = found.into_iter().map(|endpoint| endpoint.id).collect();
                agent.node.handle(Input::Linked(present), now);
            }
            Output::Event(event) => self.log(format_args!("node{host}: {event:?}")),
            // What is told to people; pods are not watched here.
            _ => {}
        }
    }

    fn release(&mut self, host: usize, block: manx_ipam::BlockId) {
        let now = self.now;
        let Some(agent) = self.agent(host) else { return };
        // The record must say that a block is leaving before anybody else may have it.
        if agent.record_broken {
            agent.node.handle(Input::Released { block, outcome: Err(ClaimError::Failed) }, now);
        } else {
            self.order(host, block, Order::Release);
        }
    }

    fn recorded(&mut self, host: usize, written: bool, whole: bool) {
        let now = self.now;
        let Some(agent) = self.agent(host) else { return };
        match (written, whole) {
            (true, true) => agent.record_broken = false,
            (true, false) => {}
            (false, _) => {
                agent.record_broken = true;
                agent.node.handle(Input::RecordFailed, now);
            }
        }
    }

    fn reply(&mut self, host: usize, request: RequestId, reply: Reply) {
        let Some(agent) = self.agent(host) else { return };
        let reply = match reply {
            Reply::Assigned(_) if agent.record_broken => Reply::Error(RpcError {
                code: Code::TRY_AGAIN.0,
                msg: "the agent's record of endpoints cannot be written".to_owned(),
                details: String::new(),
            }),
            reply => reply,
        };
        if let Some(call) = agent.waiting.remove(&request) {
            self.replied(host, call, reply);
        }
    }
}

impl Disk {
    /// What plugins left a note of.
    pub(crate) fn ended(&self) -> Vec<DelRequest> {
        let ended = |(container, link): (&String, &String)| DelRequest {
            container: container.clone(),
            ifname: "eth0".to_owned(),
            link: link.clone(),
        };
        self.tombstones.iter().map(ended).collect()
    }

    fn append(&mut self, bytes: &[u8]) -> bool {
        if !self.full {
            self.record.extend_from_slice(bytes);
        }
        !self.full
    }

    fn replace(&mut self, bytes: Vec<u8>) -> bool {
        if !self.full {
            self.record = bytes;
        }
        !self.full
    }
}
