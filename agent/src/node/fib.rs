//! Which routes this node wants in its kernel: those of its own pods and blocks, and those that BGP found best.
//!
//! Our own come first: a route that a peer announces for something inside a block of ours is never
//! installed, whatever policy let it through. Routes of a speaker that was started again stay until
//! the new one has settled.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::takeover::is_unexplained;
use ipnetwork::IpNetwork;
use manx_bgp::{Gateway, HopSet, Prefix};
use manx_ipam::{BlockId, Endpoint};
use manx_kernel::model::{self as kernel, Route, RouteKey, SetId};

/// The metric of the routes to our own pods: the kernel's default, which is what the plugin gives them too.
const POD_METRIC: u32 = 0;

/// A route of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalRoute {
    /// To a pod, by the link of this name.
    Pod(String),
    /// A block of ours: addresses in it that no pod has lead nowhere.
    Block,
    /// A claimed address in a block of ours that no pod here has: what is learned of it counts.
    Away,
}

/// What a speaker found, in the order in which it tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Learned {
    /// A fresh speaker begins: what was learned before stays until it has settled, unless it is said again.
    Restarted,
    /// A set of next hops leads there from now on; without gateways it is gone, and the routes in it are withdrawn.
    Hops(HopSet, BTreeSet<Gateway>),
    /// A route is in this set from now on; in none when it is withdrawn. Traffic by [`HopSet::DISCARD`] is discarded.
    Route(Prefix, Option<HopSet>),
    /// The speaker has heard everybody: what only its predecessors said goes.
    Settled,
}

impl Learned {
    /// What an output of [`Speaker::poll_routes`](manx_bgp::Speaker::poll_routes) tells of routes; nothing for those of
    /// its sessions.
    pub fn of(output: manx_bgp::Output) -> Option<Self> {
        match output {
            manx_bgp::Output::Hops { set, gateways } => Some(Self::Hops(set, gateways)),
            manx_bgp::Output::Route { prefix, set } => Some(Self::Route(prefix, set)),
            manx_bgp::Output::Settled => Some(Self::Settled),
            _ => None,
        }
    }
}

/// The routes of our own, by destination.
pub type LocalRoutes = BTreeMap<IpNetwork, LocalRoute>;

/// Changes for the kernel: where sets of next hops lead from now on, then routes that are wanted from now on, or no more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Sets; those without next hops are gone, with the routes in them.
    pub sets: Vec<(SetId, BTreeSet<kernel::Gateway>)>,
    /// Routes.
    pub routes: Vec<(RouteKey, Option<Route>)>,
}

/// The routes of these endpoints and blocks; what is `away` may be with another node. What leads to links that are not
/// ours stays as it is.
pub fn local_routes<'a>(
    endpoints: impl IntoIterator<Item = &'a Endpoint>,
    owned: &BTreeSet<BlockId>,
    away: &BTreeSet<IpAddr>,
) -> LocalRoutes {
    let mut routes: LocalRoutes = owned.iter().map(|block| (block.cidr(), LocalRoute::Block)).collect();
    routes.extend(away.iter().map(|address| (IpNetwork::from(*address), LocalRoute::Away)));
    for endpoint in endpoints.into_iter().filter(|endpoint| !is_unexplained(endpoint)) {
        for address in &endpoint.addresses {
            // In a block of a single address the pod's route stands for the block's.
            routes.insert(IpNetwork::from(*address), LocalRoute::Pod(endpoint.link.clone()));
        }
    }
    routes
}

/// What is wanted, apart from the learned routes that the kernel's machine has: it alone knows those by name.
#[derive(Debug, Default)]
pub struct Wanted {
    metric: u32,
    local: Arc<LocalRoutes>,
    /// The networks of our own that lie in no other of them, by first address.
    outermost: BTreeMap<IpAddr, IpNetwork>,
    /// Learned routes that lie inside a network of our own.
    hidden: BTreeMap<IpNetwork, SetId>,
    /// Learned networks whose traffic is discarded, hidden ones too, with the speaker that said so.
    discarded: BTreeMap<IpNetwork, u32>,
    /// Counts the speakers: the numbers of their sets are their own.
    generation: u32,
    sets: BTreeSet<SetId>,
}

impl Wanted {
    /// Nothing wanted yet; `metric` is that of learned routes and of blocks.
    pub fn new(metric: u32) -> Self {
        Self { metric, ..Self::default() }
    }

    /// Declares all routes of our own; `learned` tells the learned routes inside a network that are wanted so far.
    pub fn set_local(
        &mut self,
        local: impl Into<Arc<LocalRoutes>>,
        learned: impl Fn(IpNetwork) -> Vec<(RouteKey, SetId)>,
    ) -> Changes {
        let before = std::mem::replace(&mut self.local, local.into());
        let outermost = std::mem::replace(&mut self.outermost, outermost(&self.local));
        let mut routes: BTreeMap<RouteKey, Option<Route>> = BTreeMap::new();
        for (network, route) in
            before.iter().filter(|(network, route)| self.local.get(network) != Some(route))
        {
            routes.extend(self.local_key(*network, route).map(|key| (key, None)));
        }
        let returned = before.iter().filter(|(network, route)| {
            **route == LocalRoute::Away && self.local.get(network) != Some(&LocalRoute::Away)
        });
        let new = self.outermost.values().filter(|network| !outermost.values().any(|was| was == *network));
        // A network that is new hides learned routes inside it, one that is gone shows them again.
        for network in
            new.chain(returned.map(|(network, _)| network)).copied().collect::<BTreeSet<IpNetwork>>()
        {
            let mut inside = learned(network);
            inside.retain(|(key, _)| self.inside_ours(key.dst));
            for (key, set) in inside {
                self.hidden.insert(key.dst, set);
                routes.insert(key, None);
            }
        }
        let shown: Vec<(IpNetwork, SetId)> = self
            .hidden
            .iter()
            .filter(|(network, _)| !self.inside_ours(**network))
            .map(|(network, set)| (*network, *set))
            .collect();
        for network in self.discarded.keys().copied() {
            let was = hides(&outermost, &before, network);
            let key = RouteKey::main(network, self.metric);
            match (was, self.inside_ours(network)) {
                (false, true) => drop(routes.insert(key, None)),
                (true, false) => drop(routes.insert(key, Some(Route::blackhole()))),
                _ => {}
            }
        }
        for (network, set) in shown {
            self.hidden.remove(&network);
            routes.insert(RouteKey::main(network, self.metric), Some(Route::set(set)));
        }
        for (network, route) in
            self.local.iter().filter(|(network, route)| before.get(network) != Some(route))
        {
            routes.extend(
                self.local_key(*network, route)
                    .zip(local_route(route))
                    .map(|(key, route)| (key, Some(route))),
            );
        }
        Changes { sets: Vec::new(), routes: routes.into_iter().collect() }
    }

    /// Takes what the speaker found.
    pub fn learn(&mut self, learned: Learned, changes: &mut Changes) {
        match learned {
            Learned::Restarted => self.generation += 1,
            Learned::Hops(set, gateways) => {
                let set = self.set_id(set);
                if gateways.is_empty() {
                    self.drop_set(set, changes);
                } else {
                    self.sets.insert(set);
                    changes.sets.push((set, gateways.iter().map(gateway).collect()));
                }
            }
            Learned::Route(prefix, Some(HopSet::DISCARD)) => {
                let network = IpNetwork::from(prefix);
                self.hidden.remove(&network);
                self.discarded.insert(network, self.generation);
                if !self.inside_ours(network) {
                    let key = RouteKey::main(network, self.metric);
                    changes.routes.push((key, Some(Route::blackhole())));
                }
            }
            Learned::Route(prefix, set) => {
                self.discarded.remove(&IpNetwork::from(prefix));
                let set = set.map(|set| self.set_id(set));
                changes.routes.extend(self.learned_change(IpNetwork::from(prefix), set));
            }
            Learned::Settled => {
                let old = self.sets.range(..SetId(u64::from(self.generation) << 32));
                for set in old.copied().collect::<Vec<SetId>>() {
                    self.drop_set(set, changes);
                }
                for network in self.forget_discarded() {
                    changes.routes.push((RouteKey::main(network, self.metric), None));
                }
            }
        }
    }

    /// Forgets what only earlier speakers wanted discarded; gives those networks that are not inside ours.
    fn forget_discarded(&mut self) -> Vec<IpNetwork> {
        let generation = self.generation;
        let old = self.discarded.iter().filter(|(_, speaker)| **speaker < generation);
        let mut old: Vec<IpNetwork> = old.map(|(network, _)| *network).collect();
        self.discarded.retain(|_, speaker| *speaker == generation);
        old.retain(|network| !self.inside_ours(*network));
        old
    }

    /// A set is gone, and with it the routes in it.
    fn drop_set(&mut self, set: SetId, changes: &mut Changes) {
        self.hidden.retain(|_, hidden| *hidden != set);
        self.sets.remove(&set);
        changes.sets.push((set, BTreeSet::new()));
    }

    fn set_id(&self, set: HopSet) -> SetId {
        SetId(u64::from(self.generation) << 32 | u64::from(set.number()))
    }

    fn learned_change(
        &mut self,
        network: IpNetwork,
        set: Option<SetId>,
    ) -> Option<(RouteKey, Option<Route>)> {
        if self.inside_ours(network) {
            match set {
                Some(set) => self.hidden.insert(network, set),
                None => self.hidden.remove(&network),
            };
            return None;
        }
        Some((RouteKey::main(network, self.metric), set.map(Route::set)))
    }

    fn inside_ours(&self, network: IpNetwork) -> bool {
        hides(&self.outermost, &self.local, network)
    }

    fn local_key(&self, network: IpNetwork, route: &LocalRoute) -> Option<RouteKey> {
        match route {
            LocalRoute::Pod(_) => Some(RouteKey::main(network, POD_METRIC)),
            LocalRoute::Block => Some(RouteKey::main(network, self.metric)),
            LocalRoute::Away => None,
        }
    }
}

/// A next hop in the kernel's terms: with a zone its link is known.
fn gateway(gateway: &Gateway) -> kernel::Gateway {
    kernel::Gateway { address: gateway.address, link: (gateway.zone != 0).then_some(gateway.zone) }
}

fn local_route(route: &LocalRoute) -> Option<Route> {
    match route {
        LocalRoute::Pod(link) => Some(Route::link(link.clone())),
        LocalRoute::Block => Some(Route::blackhole()),
        LocalRoute::Away => None,
    }
}

/// Those that lie in no other: their order by address is that of their ends as well.
fn outermost(local: &LocalRoutes) -> BTreeMap<IpAddr, IpNetwork> {
    let mut outermost: BTreeMap<IpAddr, IpNetwork> = BTreeMap::new();
    // The wider of two that begin alike sorts first.
    for network in local.iter().filter(|(_, route)| **route != LocalRoute::Away).map(|(network, _)| network) {
        let below = outermost.range(..=network.network()).next_back();
        if !below.is_some_and(|(_, ours)| covers(*ours, *network)) {
            outermost.insert(network.network(), *network);
        }
    }
    outermost
}

/// Whether what is learned of a network does not count, because it is inside one of ours.
fn hides(outermost: &BTreeMap<IpAddr, IpNetwork>, local: &LocalRoutes, network: IpNetwork) -> bool {
    outermost_covers(outermost, network) && local.get(&network) != Some(&LocalRoute::Away)
}

fn outermost_covers(outermost: &BTreeMap<IpAddr, IpNetwork>, network: IpNetwork) -> bool {
    let below = outermost.range(..=network.network()).next_back();
    below.is_some_and(|(_, ours)| covers(*ours, network))
}

fn covers(wider: IpNetwork, network: IpNetwork) -> bool {
    wider.is_ipv4() == network.is_ipv4()
        && wider.prefix() <= network.prefix()
        && wider.contains(network.network())
}

#[cfg(test)]
mod tests {
    use manx_kernel::model::RouteTo;
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> IpNetwork {
        text.parse().expect("a network")
    }

    fn prefix(text: &str) -> Prefix {
        Prefix::new(network(text)).expect("no host bits")
    }

    fn hops(text: &str) -> BTreeSet<Gateway> {
        let address = |hop: &str| hop.parse::<IpAddr>().expect("an address");
        text.split_whitespace().map(|hop| address(hop).into()).collect()
    }

    /// The kernel's side, as the route machine keeps it.
    #[derive(Default)]
    struct Kernel {
        sets: BTreeMap<SetId, BTreeSet<kernel::Gateway>>,
        routes: BTreeMap<RouteKey, Route>,
    }

    impl Kernel {
        fn take(&mut self, changes: Changes) {
            for (set, gateways) in changes.sets {
                if gateways.is_empty() {
                    self.sets.remove(&set);
                    self.routes.retain(|_, route| *route != Route::set(set));
                } else {
                    self.sets.insert(set, gateways);
                }
            }
            for (key, route) in changes.routes {
                match route {
                    Some(route) => self.routes.insert(key, route),
                    None => self.routes.remove(&key),
                };
            }
        }

        fn set_local(&mut self, wanted: &mut Wanted, local: LocalRoutes) {
            let changes = wanted.set_local(local, |within| {
                let inside = self.routes.iter().filter(|(key, _)| covers(within, key.dst));
                inside
                    .filter_map(|(key, route)| match route.to {
                        RouteTo::Set(set) => Some((*key, set)),
                        _ => None,
                    })
                    .collect()
            });
            self.take(changes);
        }

        fn learn(&mut self, wanted: &mut Wanted, learned: Learned) {
            let mut changes = Changes::default();
            wanted.learn(learned, &mut changes);
            self.take(changes);
        }

        /// Where each route leads: the sets by their gateways.
        fn leads(&self) -> BTreeMap<String, String> {
            let lead = |route: &Route| match &route.to {
                RouteTo::Set(set) => {
                    self.sets[set].iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
                }
                RouteTo::Blackhole => "nowhere".to_owned(),
                other => format!("{other:?}"),
            };
            self.routes.iter().map(|(key, route)| (key.dst.to_string(), lead(route))).collect()
        }
    }

    /// A set whose number is the last octet of its only gateway.
    fn set(last: u8) -> HopSet {
        HopSet::numbered(last.into())
    }

    fn define(kernel: &mut Kernel, wanted: &mut Wanted, last: u8) {
        kernel.learn(wanted, Learned::Hops(set(last), hops(&format!("192.0.2.{last}"))));
    }

    fn route(text: &str, last: u8) -> Learned {
        Learned::Route(prefix(text), Some(set(last)))
    }

    fn leads(rows: &[(&str, &str)]) -> BTreeMap<String, String> {
        rows.iter().map(|(network, to)| ((*network).to_owned(), (*to).to_owned())).collect()
    }

    fn key(text: &str) -> RouteKey {
        RouteKey::main(network(text), 0)
    }

    fn block() -> LocalRoutes {
        LocalRoutes::from([(network("10.244.1.0/26"), LocalRoute::Block)])
    }

    #[test]
    fn a_pod_leads_to_its_link_and_its_block_to_nowhere() {
        let endpoint = Endpoint {
            link: "cali1".to_owned(),
            addresses: vec![
                "10.244.1.5".parse().expect("an address"),
                "fd00::5".parse().expect("an address"),
            ],
            ..Endpoint::default()
        };
        let owned = BTreeSet::from(["10.244.1.0/26".parse().expect("a block")]);
        let changes =
            Wanted::new(0).set_local(local_routes([&endpoint], &owned, &BTreeSet::new()), |_| Vec::new());
        assert_eq!(
            changes.routes,
            [
                (key("10.244.1.0/26"), Some(Route::blackhole())),
                (key("10.244.1.5/32"), Some(Route::link("cali1"))),
                (key("fd00::5/128"), Some(Route::link("cali1"))),
            ]
        );
    }

    #[test]
    fn what_a_peer_announces_inside_a_block_of_ours_is_never_installed() {
        let (mut wanted, mut kernel) = (Wanted::new(0), Kernel::default());
        define(&mut kernel, &mut wanted, 1);
        kernel.set_local(&mut wanted, block());
        for inside in ["10.244.1.9/32", "10.244.1.0/26"] {
            kernel.learn(&mut wanted, route(inside, 1));
        }
        assert_eq!(kernel.leads(), leads(&[("10.244.1.0/26", "nowhere")]));
    }

    #[test]
    fn a_learned_route_comes_back_when_our_block_is_gone() {
        let (mut wanted, mut kernel) = (Wanted::new(0), Kernel::default());
        define(&mut kernel, &mut wanted, 1);
        kernel.learn(&mut wanted, route("10.244.1.9/32", 1));
        kernel.set_local(&mut wanted, block());
        kernel.learn(&mut wanted, route("10.244.1.0/26", 1));
        assert_eq!(kernel.leads(), leads(&[("10.244.1.0/26", "nowhere")]));
        kernel.set_local(&mut wanted, LocalRoutes::new());
        assert_eq!(kernel.leads(), leads(&[("10.244.1.0/26", "192.0.2.1"), ("10.244.1.9/32", "192.0.2.1")]));
    }

    #[test]
    fn a_restarted_speaker_keeps_its_routes_until_it_has_settled() {
        let (mut wanted, mut kernel) = (Wanted::new(0), Kernel::default());
        define(&mut kernel, &mut wanted, 2);
        kernel.learn(&mut wanted, route("10.244.2.0/26", 2));
        kernel.learn(&mut wanted, route("10.244.3.0/26", 2));
        kernel.learn(&mut wanted, Learned::Restarted);
        // The numbers of the new speaker's sets mean something else.
        kernel.learn(&mut wanted, Learned::Hops(set(2), hops("192.0.2.7")));
        kernel.learn(&mut wanted, route("10.244.2.0/26", 2));
        assert_eq!(kernel.leads(), leads(&[("10.244.2.0/26", "192.0.2.7"), ("10.244.3.0/26", "192.0.2.2")]));
        kernel.learn(&mut wanted, Learned::Settled);
        assert_eq!(kernel.leads(), leads(&[("10.244.2.0/26", "192.0.2.7")]));
        assert_eq!(kernel.sets.len(), 1);
    }

    #[test]
    fn what_is_to_be_discarded_leads_nowhere_until_its_speaker_is_forgotten() {
        let (mut wanted, mut kernel) = (Wanted::new(0), Kernel::default());
        define(&mut kernel, &mut wanted, 1);
        kernel.learn(&mut wanted, route("192.0.2.66/32", 1));
        for host in ["192.0.2.66/32", "10.244.1.9/32"] {
            kernel.learn(&mut wanted, Learned::Route(prefix(host), Some(HopSet::DISCARD)));
        }
        kernel.set_local(&mut wanted, block());
        assert_eq!(kernel.leads(), leads(&[("10.244.1.0/26", "nowhere"), ("192.0.2.66/32", "nowhere")]));
        kernel.learn(&mut wanted, Learned::Restarted);
        kernel.set_local(&mut wanted, LocalRoutes::new());
        assert_eq!(kernel.leads(), leads(&[("10.244.1.9/32", "nowhere"), ("192.0.2.66/32", "nowhere")]));
        kernel.learn(&mut wanted, Learned::Settled);
        assert_eq!(kernel.leads(), leads(&[]));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Local(Vec<u8>, Vec<u8>),
        Define(u8),
        Void(u8),
        Learn(u8, Option<u8>),
        Discard(u8),
        Restarted,
        Settled,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            2 => (prop::collection::vec(0..12u8, 0..4), prop::collection::vec(0..12u8, 0..4))
                .prop_map(|(blocks, away)| Step::Local(blocks, away)),
            1 => (1..4u8).prop_map(Step::Define),
            1 => (1..4u8).prop_map(Step::Void),
            4 => (0..12u8, prop::option::of(1..4u8)).prop_map(|(n, set)| Step::Learn(n, set)),
            1 => (0..12u8).prop_map(Step::Discard),
            1 => Just(Step::Restarted),
            1 => Just(Step::Settled),
        ];
        prop::collection::vec(step, 0..60)
    }

    /// Twelve networks that lie inside one another in several ways.
    fn nth(n: u8) -> IpNetwork {
        let n = u32::from(n);
        match n {
            0..6 => network(&format!("10.0.0.{}/{}", 0, 24 + n)),
            _ => network(&format!("10.0.0.{}/{}", 64 * (n % 3), 26 + n % 6)),
        }
    }

    /// What was said, taken down naively: our networks, and for each learned one its speaker and set; 0 discards.
    #[derive(Default)]
    struct Model {
        local: BTreeSet<IpNetwork>,
        away: BTreeSet<IpNetwork>,
        learned: BTreeMap<IpNetwork, (u32, u8)>,
        defined: BTreeSet<u8>,
        speaker: u32,
    }

    impl Model {
        fn leads(&self) -> BTreeMap<String, String> {
            let ours = self.local.iter().map(|network| (network.to_string(), "nowhere".to_owned()));
            let hidden = |network: &IpNetwork| {
                !self.away.contains(network) && self.local.iter().any(|own| covers(*own, *network))
            };
            let theirs = self.learned.iter().filter(|(network, _)| !hidden(network));
            let lead = |set: &u8| if *set == 0 { "nowhere".to_owned() } else { format!("192.0.2.{set}") };
            ours.chain(theirs.map(|(network, (_, set))| (network.to_string(), lead(set)))).collect()
        }
    }

    fn carry_out(step: Step, wanted: &mut Wanted, kernel: &mut Kernel, model: &mut Model) {
        match step {
            Step::Local(blocks, away) => {
                model.local = blocks.into_iter().map(nth).collect();
                model.away = away.into_iter().map(nth).collect();
                let away = std::mem::take(&mut model.away);
                model.away = away.difference(&model.local).copied().collect();
                let blocks = model.local.iter().map(|network| (*network, LocalRoute::Block));
                let away = model.away.iter().map(|network| (*network, LocalRoute::Away));
                let local = blocks.chain(away).collect();
                kernel.set_local(wanted, local);
            }
            Step::Define(last) => {
                model.defined.insert(last);
                define(kernel, wanted, last);
            }
            Step::Void(last) => {
                model.defined.remove(&last);
                model.learned.retain(|_, lead| *lead != (model.speaker, last));
                kernel.learn(wanted, Learned::Hops(set(last), BTreeSet::new()));
            }
            // The speaker names no set that it has not told.
            Step::Learn(_, Some(last)) if !model.defined.contains(&last) => {}
            Step::Learn(n, last) => {
                match last {
                    Some(last) => drop(model.learned.insert(nth(n), (model.speaker, last))),
                    None => drop(model.learned.remove(&nth(n))),
                }
                let prefix = Prefix::new(nth(n)).expect("no host bits");
                kernel.learn(wanted, Learned::Route(prefix, last.map(set)));
            }
            Step::Discard(n) => {
                model.learned.insert(nth(n), (model.speaker, 0));
                let prefix = Prefix::new(nth(n)).expect("no host bits");
                kernel.learn(wanted, Learned::Route(prefix, Some(HopSet::DISCARD)));
            }
            Step::Restarted => {
                model.speaker += 1;
                model.defined.clear();
                kernel.learn(wanted, Learned::Restarted);
            }
            Step::Settled => {
                model.learned.retain(|_, (speaker, _)| *speaker == model.speaker);
                kernel.learn(wanted, Learned::Settled);
            }
        }
    }

    proptest! {
        #[test]
        fn the_sum_of_all_changes_is_what_a_fresh_look_gives(steps in steps()) {
            let (mut wanted, mut kernel, mut model) = (Wanted::new(0), Kernel::default(), Model::default());
            for step in steps {
                carry_out(step, &mut wanted, &mut kernel, &mut model);
                prop_assert_eq!(kernel.leads(), model.leads());
            }
        }
    }
}
