//! What must hold: after every step, and once the last fault is over.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use manx_cni::rpc::RpcError;
use manx_ipam::{BlockId, BlockUsage, Standing};
use manx_kernel::model::{Forward, Hop, RouteKey};

use crate::api::Kind;
use crate::kernel::UPLINK;
use crate::plan::Room;
use crate::runtime::{Sandbox, Stage};
use crate::world::{World, secs};

/// How old a container that is still ending may be: ADD and DEL wait for the agent, the runtime looks now and then.
const LINGER: Duration = secs(60);

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: &'static str,
    /// How.
    pub what: String,
    /// At which step.
    pub step: u64,
    /// After how much virtual time.
    pub at: Duration,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (step {}, {:.3} s): {}", self.invariant, self.step, self.at.as_secs_f64(), self.what)
    }
}

/// Where a route leads, as an expectation says it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Leads {
    Hops(BTreeSet<Hop>),
    Link(String),
    Nowhere,
}

impl World {
    /// What must hold after every step, and is cheap to see.
    pub(crate) fn check_step(&mut self, host: usize) {
        if let Some(key) = self.hosts[host].kernel.touched_foreign() {
            self.violated("nothing foreign is changed", format!("node{host}: {key}"));
        }
    }

    /// No address is at two pods whose links pass packets.
    pub(crate) fn check_living(&mut self) {
        let mut seen: BTreeMap<IpAddr, String> = BTreeMap::new();
        let mut twice = None;
        for (number, host) in self.hosts.iter().enumerate().filter(|(_, host)| host.on) {
            for link in host.kernel.links.values().filter(|link| link.link.up) {
                for address in &link.addresses {
                    let who = format!("node{number}/{}", link.container.as_deref().unwrap_or_default());
                    if let Some(other) = seen.insert(*address, who.clone()) {
                        twice = Some(format!("{address} is at {other} and {who}"));
                    }
                }
            }
        }
        if let Some(what) = twice {
            self.violated("no address at two living pods", what);
        }
    }

    /// What an agent gives nobody else has, and lies in a block of its own.
    pub(crate) fn check_assigned(&mut self, host: usize, container: &str, addresses: &[IpAddr]) {
        self.log(format_args!("node{host}: {container} is assigned {addresses:?}"));
        for address in addresses {
            for number in 0..self.hosts.len() {
                let links = self.hosts[number].kernel.links.values();
                let mut others = links
                    .filter(|link| link.link.up && link.addresses.contains(address))
                    .filter(|link| link.container.as_deref() != Some(container));
                if self.hosts[number].on
                    && let Some(other) = others.next().and_then(|link| link.container.clone())
                {
                    let what = format!("node{host} gives {address} of node{number}/{other} to {container}");
                    return self.violated("no address given while another pod has it", what);
                }
            }
            let owner = self.api.blocks().find(|block| block.spec.cidr.network().contains(*address));
            let owner = owner.map(|block| block.spec.node.clone());
            if owner.as_deref() != Some(self.hosts[host].name.as_str()) {
                let what = format!("node{host} gives {address} of a block of {owner:?}");
                self.violated("addresses come from blocks of one's own", what);
            }
        }
    }

    /// A pod is refused only if there is nothing to give.
    pub(crate) fn check_refused(&mut self, host: usize, container: &str, error: &RpcError) {
        let Some(agent) = self.agent(host) else { return };
        if agent.record_broken {
            return;
        }
        let (usage, intent) = (agent.node.usage(), agent.intent.clone());
        if agent.intent_changed {
            return;
        }
        let usable = |name: &str| {
            let mut pools = intent.iter().flat_map(|intent| &intent.pools);
            pools.any(|pool| pool.name == name && !pool.disabled && pool.automatic)
        };
        let free = |v4: bool| {
            let usable = |block: &&BlockUsage| block.pool.as_deref().is_some_and(usable);
            let mut blocks = usage.blocks.iter().filter(usable);
            blocks.any(|block| block.free > 0 && block.block.cidr().is_ipv4() == v4)
        };
        if free(true) && free(false) {
            let what = format!("node{host} refuses {container} though it has addresses: {}", error.msg);
            self.violated("a pod starts while its node has addresses", what);
        }
    }

    /// What a node announces has changed.
    pub(crate) fn check_origins(&mut self, host: usize) {
        let mine = self.announced(host);
        self.log(format_args!("node{host}: announces {}", words(&mine)));
        self.check_doubles(host);
    }

    /// No two nodes announce one prefix.
    ///
    /// Except that a node which was away, gone and silent for the grace, begins with the blocks of its record at once, as
    /// any agent that starts does; what became of them meanwhile it hears with the first list, and from then on no more.
    pub(crate) fn check_doubles(&mut self, host: usize) {
        let mine = self.announced(host);
        for number in (0..self.hosts.len()).filter(|number| *number != host) {
            let theirs = self.announced(number);
            let both = mine.iter().filter(|block| theirs.contains(block));
            let mut both =
                both.filter(|block| ![host, number].iter().any(|host| self.is_behind(*host, **block)));
            if let Some(both) = both.next() {
                let what = format!("{both} by node{host} and node{number}");
                return self.violated("no block is announced by two nodes", what);
            }
        }
    }

    fn announced(&self, host: usize) -> Vec<IpNetwork> {
        let agent = self.hosts[host].agent.iter();
        agent.flat_map(|agent| agent.origins.keys()).map(|prefix| IpNetwork::from(*prefix)).collect()
    }

    /// Whether a node knows a block only by its record, and the controller took it back while the node was away.
    fn is_behind(&self, host: usize, block: IpNetwork) -> bool {
        let there = &self.hosts[host];
        let (Some(agent), Ok(id)) = (&there.agent, BlockId::new(block)) else { return false };
        let unheard = |usage: &BlockUsage| usage.block == id && usage.standing == Standing::Remembered;
        agent.node.usage().blocks.iter().any(unheard) && self.api.is_collected(id, &there.name)
    }

    /// Everything is as it should be, now that the last fault is long over.
    pub(crate) fn check_calm(&mut self) {
        for host in 0..self.hosts.len() {
            self.check_kernel(host);
            self.check_pods(host);
            self.check_leaks(host);
        }
        self.check_living();
        self.check_blocks();
    }

    /// Blocks of nodes that are gone for good are free again, and nobody remembers those nodes.
    fn check_blocks(&mut self) {
        let gone = |name: &str| self.host_named(name).is_none_or(|host| !self.hosts[host].on);
        let blocks = self.api.blocks().filter(|block| gone(&block.spec.node));
        let left: Vec<String> = blocks.map(|block| block.spec.cidr.to_string()).collect();
        let networks: Vec<String> =
            self.api.all(Kind::Network).map(|(name, _)| name.clone()).filter(|name| gone(name)).collect();
        if !left.is_empty() || !networks.is_empty() {
            let what = format!("blocks {left:?}, networks {networks:?}");
            self.violated("what a node leaves behind is collected", what);
        }
    }

    fn check_kernel(&mut self, host: usize) {
        let there = &self.hosts[host];
        if there.agent.is_none() {
            return;
        }
        let wanted = self.expected(host);
        let name = |index: &u32| there.kernel.links.get(index).map(|link| link.link.name.clone());
        let is = there.kernel.ours().map(|(key, held)| {
            let leads = match &held.forward {
                Forward::Link(index) => Leads::Link(name(index).unwrap_or_default()),
                Forward::Blackhole => Leads::Nowhere,
                forward => Leads::Hops(there.kernel.hops(forward)),
            };
            (*key, leads)
        });
        let is: BTreeMap<RouteKey, Leads> = is.collect();
        let missing: Vec<_> = wanted.iter().filter(|(key, leads)| is.get(key) != Some(leads)).collect();
        let extra: Vec<_> = is.iter().filter(|(key, _)| !wanted.contains_key(key)).collect();
        if !missing.is_empty() || !extra.is_empty() {
            let what = format!("node{host}: not as wanted: {missing:?}; too many: {extra:?}");
            self.violated("each kernel holds exactly the routes of all live blocks", what);
        }
    }

    /// The routes that a host's kernel must have.
    fn expected(&self, host: usize) -> BTreeMap<RouteKey, Leads> {
        let mut wanted = BTreeMap::new();
        let me = &self.hosts[host];
        for block in self.api.blocks() {
            let network = block.spec.cidr.network();
            let Some(owner) = self.host_named(&block.spec.node) else { continue };
            let there = &self.hosts[owner];
            let leads = if owner == host {
                Leads::Nowhere
            } else if there.on && there.agent.is_some() {
                let gateway = there.addresses.iter().find(|address| address.is_ipv4() == network.is_ipv4());
                let hop = gateway.map(|gateway| Hop { gateway: *gateway, link: UPLINK });
                Leads::Hops(hop.into_iter().collect())
            } else {
                continue;
            };
            let key = RouteKey::main(network, 0);
            // Somebody else's route is in the way, and stays.
            if !me.kernel.foreign.contains(&key) {
                wanted.insert(key, leads);
            }
        }
        for link in me.kernel.links.values().filter(|link| link.container.is_some() && link.link.up) {
            for address in &link.addresses {
                let key = RouteKey::main(IpNetwork::from(*address), 0);
                wanted.insert(key, Leads::Link(link.link.name.clone()));
            }
        }
        wanted
    }

    fn check_pods(&mut self, host: usize) {
        let runtime = &self.hosts[host].runtime;
        let runs = |pod: usize| runtime.of_pod(pod).any(|(_, sandbox)| sandbox.stage == Stage::Running);
        let waiting: Vec<usize> = runtime
            .wanted
            .iter()
            .filter(|(pod, wanted)| **wanted && !runs(**pod))
            .map(|(pod, _)| *pod)
            .collect();
        // A pod for which there is no room begins and ends containers for ever: those of the last moments may be there.
        let lingers = |sandbox: &Sandbox| sandbox.stage == Stage::Ending && sandbox.made + LINGER < self.now;
        let sandboxes = runtime.sandboxes.iter().filter(|(_, sandbox)| lingers(sandbox));
        let lingering: Vec<String> = sandboxes.map(|(container, _)| container.clone()).collect();
        if !self.hosts[host].on {
            return;
        }
        if !lingering.is_empty() {
            self.violated("what is ended ends", format!("node{host}: {lingering:?}"));
        }
        if !waiting.is_empty() && self.settings.room == Room::Ample {
            self.violated("pods start again", format!("node{host}: pods {waiting:?} do not run"));
        }
    }

    /// The record and the kernel have the pods that run, and no others.
    fn check_leaks(&mut self, host: usize) {
        let there = &self.hosts[host];
        let Some(agent) = &there.agent else { return };
        let links = there.kernel.links.values().filter_map(|link| link.container.clone());
        let stray: Vec<String> = links.filter(|link| !there.runtime.sandboxes.contains_key(link)).collect();
        let running = there.runtime.sandboxes.iter().filter(|(_, sandbox)| sandbox.stage == Stage::Running);
        let running: BTreeSet<(String, Vec<IpAddr>)> =
            running.map(|(container, sandbox)| (container.clone(), sandbox.addresses.clone())).collect();
        let usage = agent.node.usage();
        let mut known: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
        for endpoint in usage.blocks.iter().flat_map(|block| &block.allocations) {
            known.entry(endpoint.id.container.clone()).or_default().extend(&endpoint.addresses);
        }
        let known: BTreeSet<(String, Vec<IpAddr>)> = known
            .into_iter()
            .map(|(container, addresses)| (container, addresses.into_iter().collect()))
            .collect();
        if known != running {
            let what = format!("node{host}: on record {known:?}, running {running:?}");
            self.violated("addresses belong to pods that run", what);
        }
        if !stray.is_empty() {
            self.violated("links go with their pods", format!("node{host}: {stray:?}"));
        }
    }
}

fn words(networks: &[IpNetwork]) -> String {
    networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
