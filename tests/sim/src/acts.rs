//! Carrying out what a plan says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnetwork::IpNetwork;
use manx_agent::node::cluster::OwnNode;
use manx_api::{
    BGPConfiguration, BGPConfigurationSpec, Cidr, IPPool, IPPoolSpec, LabelSelector, RouteReflector, Topology,
};

use manx_kernel::model::RouteKey;

use crate::api::{Kind, Object};
use crate::client::{Client, Weather};
use crate::kernel::{Kernel, UPLINK};
use crate::plan::{Act, Room};
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
            Act::SpeakerFails { host } => self.replace_speaker(host),
            Act::ApiAway { .. }
            | Act::ApiSlow { .. }
            | Act::ApiLossy { .. }
            | Act::WatchStale { .. }
            | Act::WatchBreaks { .. } => self.act_on_api(act),
            Act::Cut { .. } | Act::Isolate { .. } | Act::Reset { .. } | Act::Unplug { .. } => {
                self.act_on_network(act);
            }
            Act::Overrun { .. }
            | Act::ForeignAdd { .. }
            | Act::ForeignRemove { .. }
            | Act::Spoil { .. }
            | Act::SpoilObject { .. } => self.act_on_kernel(act),
            Act::Fill { host, lasts } => {
                self.hosts[host].disk.full = true;
                self.after(lasts, Happening::Room { host });
            }
            Act::PowerOff { host, lasts, node_goes } => self.power_off(host, lasts, node_goes),
            Act::ForgetNode { host, lasts } => {
                if self.hosts[host].on && !self.is_away(Client::Host(host)) {
                    self.unregister(host);
                    self.after(lasts, Happening::Register { host });
                }
            }
            Act::PoolMade { number } => self.make_pool(number),
            Act::PoolDisabled { number, disabled } => self.disable_pool(number, disabled),
            Act::PoolDeleted { number } => self.delete_pool(number),
            Act::Reflectors(reflectors) => self.write_config(reflectors),
            Act::Touch { host } => self.touch_block(host),
            Act::Elect => self.start_controller(),
        }
    }

    fn act_on_api(&mut self, act: Act) {
        let now = self.now;
        let client = |host: Option<usize>| host.map(Client::Host);
        match act {
            // Nobody can tell a machine that was taken out of the cluster from a dead one if it cannot be heard either.
            Act::ApiAway { host: Some(host), .. } if !self.is_registered(host) => {}
            Act::ApiAway { host, lasts } => {
                self.set_weather(client(host), |weather| {
                    weather.away_until = weather.away_until.max(Some(now + lasts));
                });
            }
            Act::ApiSlow { host, lasts, most } => {
                self.set_weather(client(host), |weather| weather.slow_until = Some((now + lasts, most)));
            }
            Act::ApiLossy { host, lasts, per_mille } => {
                let lossy = Some((now + lasts, per_mille));
                self.set_weather(client(host), |weather| weather.lossy_until = lossy);
            }
            Act::WatchStale { host, lasts } => {
                self.set_weather(client(host), |weather| {
                    weather.stale_until = weather.stale_until.max(Some(now + lasts));
                });
            }
            Act::WatchBreaks { host, forgotten } => {
                let clients = client(host).map_or_else(|| self.clients(), |client| vec![client]);
                clients.into_iter().for_each(|client| self.break_watches(client, forgotten));
            }
            _ => {}
        }
    }

    fn act_on_network(&mut self, act: Act) {
        match act {
            Act::Cut { one, other, lasts } => self.cut(one, other, self.now + lasts),
            Act::Isolate { host, lasts } => {
                for other in (0..self.hosts.len()).filter(|other| *other != host) {
                    self.cut(host, other, self.now + lasts);
                }
            }
            Act::Reset { one, other } => self.reset_between(one, other),
            Act::Unplug { host, lasts } if self.wires.unplugged.insert(host) => {
                self.hosts[host].kernel.carrier(UPLINK, false);
                self.after(lasts, Happening::Carrier { host });
            }
            _ => {}
        }
    }

    fn act_on_kernel(&mut self, act: Act) {
        match act {
            Act::Overrun { host, number } => {
                self.act_on_kernel(Act::Spoil { host, number });
                self.hosts[host].kernel.overrun();
            }
            Act::ForeignAdd { host, number } => {
                let key = self.destination(number);
                let there = &mut self.hosts[host];
                // Between a route of ours that goes and the notification of it a replacement would hit whatever
                // came there: the kernel offers no way to tell. Only quiet keys are taken.
                let quiet = !there.kernel.has_news()
                    && there.agent.as_ref().is_none_or(|agent| agent.asked.is_none());
                if quiet && there.kernel.foreign_add(key) {
                    self.log(format_args!("node{host}: somebody adds {key}"));
                }
            }
            Act::ForeignRemove { host, number } => {
                let key = self.destination(number);
                self.hosts[host].kernel.foreign_remove(key);
            }
            Act::Spoil { host, number } => {
                let keys: Vec<RouteKey> = self.hosts[host].kernel.ours().map(|(key, _)| *key).collect();
                if let Some(key) = number.checked_rem(keys.len()).map(|place| keys[place]) {
                    self.log(format_args!("node{host}: somebody removes {key}"));
                    self.hosts[host].kernel.spoil(key);
                }
            }
            Act::SpoilObject { host, number } => self.hosts[host].kernel.spoil_object(number),
            _ => {}
        }
    }

    /// A destination that somebody else may want: a block of a pool, or something else.
    fn destination(&self, number: usize) -> RouteKey {
        let (_, cidr, len) = self.settings.pool(number % 2).expect("two pools are there from the beginning");
        let bits = if cidr.is_ipv4() { 32 } else { 128 };
        let offset = ((number / 2 % 8) as u128) << (bits - len);
        let address = match cidr.network().network() {
            IpAddr::V4(base) if number >= 16 => IpAddr::from([198, 51, 100, base.octets()[3]]),
            IpAddr::V4(base) => {
                Ipv4Addr::from_bits(base.to_bits() + u32::try_from(offset).unwrap_or(0)).into()
            }
            IpAddr::V6(base) => Ipv6Addr::from_bits(base.to_bits() + offset).into(),
        };
        RouteKey::main(IpNetwork::new(address, len).expect("a length of this family"), 0)
    }

    fn power_off(&mut self, host: usize, lasts: Option<Duration>, node_goes: Option<Duration>) {
        if !self.hosts[host].on {
            return;
        }
        self.log(format_args!("node{host}: is off"));
        // Nobody says a word to peers.
        self.vanish_all(host);
        self.kill_agent(host);
        let there = &mut self.hosts[host];
        there.on = false;
        there.kernel = Kernel::new(there.addresses.clone());
        there.runtime.crash();
        self.wires.unplugged.remove(&host);
        if let Some(lasts) = lasts {
            self.after(lasts, Happening::Boot { host });
        }
        if let Some(delay) = node_goes {
            self.after(delay, Happening::Unregister { host });
        }
    }

    /// The Node of a host that is off is deleted.
    pub(crate) fn node_goes(&mut self, host: usize) {
        if !self.hosts[host].on {
            self.unregister(host);
        }
    }

    fn is_registered(&self, host: usize) -> bool {
        self.api.get(Kind::Node, self.hosts[host].name.as_str()).is_some()
    }

    fn unregister(&mut self, host: usize) {
        let name = self.hosts[host].name.as_str().to_owned();
        let before = self.api.now();
        self.api.remove(&(Kind::Node, name));
        self.announce_changes(before);
    }

    fn make_pool(&mut self, number: usize) {
        let Some((name, cidr, block_size)) = self.settings.pool(number) else { return };
        if self.api.get(Kind::Pool, &name).is_none() {
            self.write_pool(&name, cidr, block_size);
        }
    }

    fn disable_pool(&mut self, number: usize, disabled: bool) {
        let Some((name, ..)) = self.settings.pool(number) else { return };
        let found = self.api.pools().find(|pool| pool.metadata.name.as_ref() == Some(&name)).cloned();
        if let Some(mut pool) = found {
            pool.spec.disabled = disabled;
            self.write((Kind::Pool, name), Object::Pool(pool));
        }
    }

    fn delete_pool(&mut self, number: usize) {
        let Some((name, ..)) = self.settings.pool(number) else { return };
        let before = self.api.now();
        self.api.delete_pool(&name);
        self.announce_changes(before);
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
        let cooldown_seconds = (self.settings.room == Room::Tiny).then_some(0);
        let spec = IPPoolSpec { block_size: Some(block_size), cooldown_seconds, ..IPPoolSpec::new(cidr) };
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
        there.kernel = Kernel::new(there.addresses.clone());
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
            self.hosts[host].kernel.carrier(UPLINK, true);
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
    /// The last fault is over: what was broken is mended, and what was taken away is there again.
    pub(crate) fn heal(&mut self) {
        self.calm = true;
        self.log(format_args!("-- all faults are over"));
        self.set_weather(None, |weather| *weather = Weather::default());
        self.wires.mend();
        for number in 0..4 {
            self.make_pool(number);
            self.disable_pool(number, false);
        }
        for host in 0..self.hosts.len() {
            self.plug_in(host);
            self.hosts[host].fuse = None;
            self.hosts[host].disk.full = false;
            self.hosts[host].runtime.plugin_fuse = None;
            self.hosts[host].runtime.gc_due = self.settings.collects;
            if self.left_for_good(host) {
                continue;
            }
            self.boot(host);
            self.register(host);
            self.start_agent(host);
            self.look_soon(host, secs(60));
        }
        for client in self.clients() {
            self.begin_watches(client);
        }
    }

    fn left_for_good(&self, host: usize) -> bool {
        let left = |act: &Act| matches!(act, Act::PowerOff { host: off, lasts: None, .. } if *off == host);
        !self.hosts[host].on && self.acts.iter().any(|(_, act)| left(act))
    }
}
