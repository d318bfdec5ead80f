//! Carrying out what a plan says.

use manx_agent::node::cluster::OwnNode;
use manx_api::{
    BGPConfiguration, BGPConfigurationSpec, Cidr, IPPool, IPPoolSpec, LabelSelector, RouteReflector, Topology,
};

use crate::api::{Kind, Object};
use crate::plan::Act;
use crate::world::{Happening, World, millis, secs};

/// How many hosts reflect when some do.
const REFLECTORS: usize = 2;
/// The label of those that do.
const REFLECTS: &str = "reflects";

impl World {
    /// Something happens that the plan says.
    pub(crate) fn act(&mut self, number: usize) {
        let Some((_, act)) = self.acts.get(number).copied() else { return };
        self.log(format_args!("-- {act:?}"));
        match act {
            Act::Start { host, pod } => self.want_pod(host, pod, true),
            Act::Stop { host, pod } => self.want_pod(host, pod, false),
            Act::Collect { host } => {
                self.hosts[host].runtime.gc_due = true;
                self.look_soon(host, millis(5));
            }
            Act::KillPlugin { host, steps } => self.hosts[host].runtime.plugin_fuse = Some(steps),
            Act::KillAgent { host, outputs, away } => {
                if self.hosts[host].agent.is_none() {
                    return;
                }
                match outputs {
                    Some(outputs) => self.hosts[host].fuse = Some(outputs),
                    None => self.kill_agent(host),
                }
                self.after(away, Happening::StartAgent { host });
            }
        }
    }

    /// Writes the configuration of BGP.
    pub(crate) fn write_config(&mut self, reflectors: bool) {
        let selector = LabelSelector {
            match_labels: [(REFLECTS.to_owned(), "yes".to_owned())].into(),
            ..LabelSelector::default()
        };
        let spec = BGPConfigurationSpec {
            topology: if reflectors { Topology::RouteReflectors } else { Topology::FullMesh },
            route_reflector: Some(RouteReflector { node_selector: selector, cluster_id: None }),
            ..BGPConfigurationSpec::default()
        };
        let config = BGPConfiguration::new("default", spec);
        self.write((Kind::Config, "default".to_owned()), Object::Config(config));
    }

    /// Writes a pool.
    pub(crate) fn write_pool(&mut self, name: &str, cidr: Cidr, block_size: u8) {
        let spec = IPPoolSpec { block_size: Some(block_size), ..IPPoolSpec::new(cidr) };
        self.write((Kind::Pool, name.to_owned()), Object::Pool(IPPool::new(name, spec)));
    }

    /// Somebody writes an object.
    pub(crate) fn write(&mut self, key: crate::api::Key, object: Object) {
        let before = self.api.now();
        self.api.put(key, object);
        self.announce_changes(before);
    }

    /// A machine is switched on: its kernel is new, its run directory empty.
    pub(crate) fn boot(&mut self, host: usize) {
        let there = &mut self.hosts[host];
        if std::mem::replace(&mut there.on, true) {
            return;
        }
        there.kernel = crate::kernel::Kernel::new(there.addresses.clone());
        there.disk = crate::world::Disk::default();
        self.log(format_args!("node{host}: is on"));
        let (agent, kubelet) =
            (self.noise.between(millis(100), secs(3)), self.noise.between(millis(100), secs(3)));
        self.after(agent, Happening::StartAgent { host });
        self.after(kubelet, Happening::Register { host });
        self.look_soon(host, secs(5));
    }

    /// The kubelet registers the Node, unless there is one.
    pub(crate) fn register(&mut self, host: usize) {
        if !self.hosts[host].on {
            return;
        }
        let name = self.hosts[host].name.as_str().to_owned();
        if self.api.get(Kind::Node, &name).is_some() {
            return;
        }
        let mut node = OwnNode { addresses: self.hosts[host].addresses.clone(), ..OwnNode::default() };
        if host < REFLECTORS {
            node.labels.insert(REFLECTS.to_owned(), "yes".to_owned());
        }
        self.write((Kind::Node, name), Object::Node(node));
    }

    /// A link has carrier again.
    pub(crate) fn plug_in(&mut self, host: usize) {
        if self.wires.unplugged.remove(&host) {
            self.hosts[host].kernel.carrier(crate::kernel::UPLINK, true);
            self.poke(host, crate::agent::Task::Kernel);
        }
    }

    /// Somebody writes the status of a block of a host.
    pub(crate) fn touch_block(&mut self, host: usize) {
        let name = self.hosts[host].name.as_str();
        let block = self.api.blocks().find(|block| block.spec.node == name);
        if let Some(name) = block.and_then(|block| block.metadata.name.clone()) {
            let before = self.api.now();
            self.api.touch(&(Kind::Block, name));
            self.announce_changes(before);
        }
    }
}

impl World {
    /// The last fault is over.
    pub(crate) fn heal(&mut self) {
        self.calm = true;
        self.log(format_args!("-- all faults are over"));
        for host in 0..self.hosts.len() {
            self.hosts[host].fuse = None;
            self.hosts[host].disk.full = false;
            self.hosts[host].runtime.plugin_fuse = None;
            self.hosts[host].runtime.gc_due = true;
            self.start_agent(host);
            self.look_soon(host, secs(60));
        }
    }
}
