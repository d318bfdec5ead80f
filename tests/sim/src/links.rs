//! The owners of pods' links on their way out, as `agent/src/shell/links.rs` has them: one takes links down, one deletes
//! what was taken down.

use std::collections::BTreeSet;

use manx_ipam::EndpointId;

use crate::agent::Task;
use crate::world::{World, millis, secs};

/// How far a link is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// It passes no packets, its routes are gone.
    Down,
    /// It does not exist.
    Gone,
}

impl World {
    pub(crate) fn links_turn(&mut self, host: usize) -> bool {
        let now = self.now;
        let Some(agent) = self.agent(host) else { return false };
        if agent.sweep_due <= now {
            self.sweep(host);
        }
        let Some(agent) = self.agent(host) else { return false };
        if !agent.unlinks.is_empty() {
            for (id, link) in std::mem::take(&mut agent.unlinks) {
                self.take_down(host, id, link);
            }
            return true;
        }
        let gone = std::mem::take(&mut agent.gone_news);
        gone.into_iter().for_each(|id| self.tell_of_link(host, id, News::Gone));
        false
    }

    fn tell_of_link(&mut self, host: usize, id: EndpointId, news: News) {
        let Some(agent) = self.agent(host) else { return };
        agent.news.insert(id, news);
        self.poke(host, Task::Owner);
    }

    fn take_down(&mut self, host: usize, id: EndpointId, link: String) {
        let kernel = &mut self.hosts[host].kernel;
        let Some(index) = kernel.find(&link, &id.container, &id.ifname) else {
            return self.tell_of_link(host, id, News::Gone);
        };
        kernel.doom(index);
        self.tell_of_link(host, id.clone(), News::Down);
        let Some(agent) = self.agent(host) else { return };
        agent.dooms.insert(id, link);
        self.poke(host, Task::Reaper);
    }

    /// Removes links that were left half made a while ago.
    fn sweep(&mut self, host: usize) {
        let due = self.now + secs(60);
        let half_made = self.hosts[host].kernel.half_made();
        let Some(agent) = self.agent(host) else { return };
        agent.sweep_due = due;
        let before = std::mem::replace(&mut agent.half_made, half_made.clone());
        let old: BTreeSet<u32> = half_made.intersection(&before).copied().collect();
        for index in old {
            let kernel = &mut self.hosts[host].kernel;
            let name = kernel.links.get(&index).map(|link| link.link.name.clone()).unwrap_or_default();
            kernel.doom(index);
            let Some(agent) = self.agent(host) else { return };
            agent.dooms.insert(EndpointId::default(), name);
            self.poke(host, Task::Reaper);
        }
    }

    /// Deletes all doomed links, which takes the kernel a while.
    pub(crate) fn reaper_turn(&mut self, host: usize) -> bool {
        let Some(agent) = self.agent(host) else { return false };
        let dooms = std::mem::take(&mut agent.dooms);
        agent.pending.extend(dooms);
        let pending = std::mem::take(&mut agent.pending);
        if self.noise.chance(30) {
            // The kernel refuses, for once.
            let Some(agent) = self.agent(host) else { return false };
            agent.pending = pending;
            self.wake_at(host, Task::Reaper, self.now + secs(1));
            return false;
        }
        self.hosts[host].kernel.remove_doomed();
        for (id, link) in pending {
            let kernel = &mut self.hosts[host].kernel;
            let found = kernel.find(&link, &id.container, &id.ifname);
            if let Some(index) = found {
                kernel.doom(index);
            }
            let Some(agent) = self.agent(host) else { return false };
            match found {
                None => drop(agent.gone_news.insert(id)),
                Some(_) => {
                    agent.pending.insert(id, link);
                    self.wake_at(host, Task::Reaper, self.now + secs(1));
                }
            }
        }
        let took = self.noise.between(millis(5), millis(60));
        self.wake_at(host, Task::Links, self.now + took);
        false
    }
}
