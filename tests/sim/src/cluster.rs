//! The owner of what the API server says, as `agent/src/shell/kube/watch.rs` has it, and those who write there what a node
//! says of itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use manx_agent::node::cluster::{Cluster, Objects};
use manx_agent::node::intent::Intent;
use manx_api::NodeNetwork;

use crate::agent::{Agent, Task};
use crate::api::{Answer, Kind, Object, Request};
use crate::client::{Client, Desk, Watch};
use crate::world::{Life, World, millis, secs};

/// How long a change waits for company.
const GATHER: Duration = millis(20);
/// The least time between two copies of the cluster.
const COPY_PAUSE: Duration = secs(2);
/// The kinds of which all objects must have been seen.
const KINDS: [Kind; 4] = [Kind::Pool, Kind::Config, Kind::Network, Kind::Node];

impl World {
    /// A watch of a host's agent told something.
    pub(crate) fn on_objects(&mut self, host: usize, kind: Kind) {
        if kind == Kind::Block {
            return self.show_blocks(host);
        }
        self.wake_at(host, Task::Watch, self.now + GATHER);
    }

    /// Makes the intent of what is known and publishes it.
    pub(crate) fn watch_turn(&mut self, host: usize) -> bool {
        let now = self.now;
        let name = self.hosts[host].name.clone();
        let Some(agent) = self.agent(host) else { return false };
        if agent.copy_due.is_some_and(|due| due <= now) {
            agent.copy_due = None;
            let copy = agent.cluster.to_bytes().ok();
            if !self.hosts[host].disk.full {
                self.hosts[host].disk.copy = copy;
            }
        }
        let Some(agent) = self.agent(host) else { return false };
        let cluster = agent.seen_cluster();
        let all_seen = agent.has_seen_all();
        if same(&cluster, &agent.cluster) && agent.intent.is_some() || !(all_seen || agent.copied) {
            return false;
        }
        let turned = agent.cluster.node.is_some() != cluster.node.is_some();
        agent.cluster = cluster;
        if all_seen && agent.copy_due.is_none() {
            agent.copy_due = Some(now + COPY_PAUSE);
        }
        let intent = Arc::new(Intent::new(&agent.cluster, &name));
        // Without an address of ours for a moment, sessions stay as they are.
        if intent.bgp.is_some() && intent.bgp != agent.bgp {
            agent.bgp.clone_from(&intent.bgp);
            agent.bgp_changed = true;
        }
        (agent.intent, agent.intent_changed) = (Some(intent), true);
        for task in [Task::Owner, Task::Bgp, Task::Publish] {
            self.poke(host, task);
        }
        if turned {
            self.poke(host, Task::Heartbeat);
        }
        false
    }

    /// Writes the NodeNetwork where it is not as it should be.
    pub(crate) fn publish_turn(&mut self, host: usize) -> bool {
        let name = self.hosts[host].name.as_str().to_owned();
        let Some(agent) = self.agent(host) else { return false };
        let Some(network) = agent.intent.as_ref().and_then(|intent| intent.network.clone()) else {
            return false;
        };
        let seen = agent.cluster.networks.get(&name);
        let written = seen.is_some_and(|seen| {
            seen.spec == network.spec && seen.metadata.labels.as_ref() == Some(&network.labels)
        });
        if written || agent.publishing {
            return false;
        }
        agent.publishing = true;
        let life = agent.life;
        let mut object = NodeNetwork::new(&name, network.spec);
        object.metadata.labels = Some(network.labels);
        let request = Request::Apply((Kind::Network, name), Box::new(Object::Network(object)));
        self.ask(Client::Host(host), life, Desk::Publish, request);
        false
    }

    /// Says that the agent lives.
    pub(crate) fn heartbeat_turn(&mut self, host: usize) -> bool {
        let name = self.hosts[host].name.as_str().to_owned();
        let Some(agent) = self.agent(host) else { return false };
        let pause = if agent.cluster.node.is_some() { secs(60) } else { millis(700) };
        if !std::mem::replace(&mut agent.beating, true) {
            let life = agent.life;
            self.ask(Client::Host(host), life, Desk::Heartbeat, Request::Renew(name));
        }
        self.wake_at(host, Task::Heartbeat, self.now + pause);
        false
    }

    /// An answer of the API server for one of a host's desks.
    pub(crate) fn answered(&mut self, host: usize, life: Life, desk: Desk, answer: Answer) {
        let Some(agent) = self.hosts[host].living(life) else { return };
        match desk {
            Desk::Blocks => self.blocks_answered(host, answer),
            Desk::Heartbeat => agent.beating = false,
            Desk::Publish => {
                agent.publishing = false;
                agent.publish_failures = match answer {
                    Answer::Done => 0,
                    _ => (agent.publish_failures + 1).min(6),
                };
                // Also after a success: the watch shows whether it is still as it was written.
                let pause = secs(1) * (1 << agent.publish_failures);
                self.wake_at(host, Task::Publish, self.now + pause);
            }
            Desk::Census => {}
        }
    }
}

impl Agent {
    fn has_seen_all(&self) -> bool {
        KINDS.iter().all(|kind| self.watches.get(kind).is_some_and(|watch| watch.listed))
    }

    /// The cluster as the watches and the owner of blocks show it, and where they show nothing yet as it was.
    fn seen_cluster(&self) -> Cluster {
        let mut cluster = self.cluster.clone();
        if let Some(watch) = self.listed(Kind::Pool) {
            cluster.pools = objects(watch, |object| match object {
                Object::Pool(pool) => Some(pool.clone()),
                _ => None,
            });
        }
        if let Some(watch) = self.listed(Kind::Config) {
            cluster.configurations = objects(watch, |object| match object {
                Object::Config(config) => Some(config.clone()),
                _ => None,
            });
        }
        if let Some(watch) = self.listed(Kind::Network) {
            cluster.networks = objects(watch, |object| match object {
                Object::Network(network) => Some(network.clone()),
                _ => None,
            });
        }
        if let Some(watch) = self.listed(Kind::Node) {
            cluster.node = watch.objects.values().next().and_then(|object| match &**object {
                Object::Node(node) => Some(Arc::new(node.clone())),
                _ => None,
            });
        }
        if let Some(owners) = &self.owners {
            cluster.blocks = Arc::clone(owners);
        }
        cluster
    }

    fn listed(&self, kind: Kind) -> Option<&Watch> {
        self.watches.get(&kind).filter(|watch| watch.listed)
    }
}

/// The objects of one kind; what is in their metadata beside names, labels and times is of no interest.
fn objects<K: kube::Resource<DynamicType = ()>>(watch: &Watch, read: fn(&Object) -> Option<K>) -> Objects<K> {
    let lean = |object: &Arc<Object>| {
        let mut object = read(object)?;
        object.meta_mut().resource_version = None;
        Some(Arc::new(object))
    };
    let all = watch.objects.iter().filter_map(|(name, object)| Some((name.clone(), lean(object)?)));
    Arc::new(all.collect::<BTreeMap<_, _>>())
}

fn same(one: &Cluster, other: &Cluster) -> bool {
    one.pools == other.pools
        && one.configurations == other.configurations
        && one.networks == other.networks
        && one.node == other.node
        && one.blocks == other.blocks
}
