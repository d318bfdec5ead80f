//! Which routes this node wants in its kernel: those of its own pods and blocks, and those that BGP found best.
//!
//! Our own come first: a route that a peer announces for something inside a block of ours is never
//! installed, whatever policy let it through. Routes of a speaker that was started again stay until
//! the new one has settled.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use manx_bgp::{Gateway, Prefix};
use manx_ipam::{BlockId, Endpoint};
use manx_kernel::model::{Route, RouteKey};

/// The metric of the routes to our own pods: the kernel's default, which is what the plugin gives them too.
const POD_METRIC: u32 = 0;

/// A route of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalRoute {
    /// To a pod, by the link of this name.
    Pod(String),
    /// A block of ours: addresses in it that no pod has lead nowhere.
    Block,
}

/// The routes of our own, by destination.
pub type LocalRoutes = BTreeMap<IpNetwork, LocalRoute>;

/// Changes for the kernel: a route that is wanted from now on, or no more.
pub type Changes = Vec<(RouteKey, Option<Route>)>;

/// The routes of these endpoints and blocks.
pub fn local_routes<'a>(
    endpoints: impl IntoIterator<Item = &'a Endpoint>,
    owned: &BTreeSet<BlockId>,
) -> LocalRoutes {
    let mut routes: LocalRoutes = owned.iter().map(|block| (block.cidr(), LocalRoute::Block)).collect();
    for endpoint in endpoints {
        for address in &endpoint.addresses {
            // In a block of a single address the pod's route stands for the block's.
            routes.insert(IpNetwork::from(*address), LocalRoute::Pod(endpoint.link.clone()));
        }
    }
    routes
}

/// All wanted routes, and where each comes from.
#[derive(Debug, Default)]
pub struct Wanted {
    metric: u32,
    local: LocalRoutes,
    learned: BTreeMap<Prefix, Learned>,
}

#[derive(Debug)]
struct Learned {
    next_hops: BTreeSet<Gateway>,
    /// Said by the present speaker, not only by one before it.
    fresh: bool,
}

impl Wanted {
    /// Nothing wanted yet; `metric` is that of learned routes and of blocks.
    pub fn new(metric: u32) -> Self {
        Self { metric, ..Self::default() }
    }

    /// Declares all routes of our own.
    pub fn set_local(&mut self, local: LocalRoutes) -> Changes {
        let before = std::mem::replace(&mut self.local, local);
        let mut touched: BTreeSet<IpNetwork> = BTreeSet::new();
        for (network, route) in &before {
            if self.local.get(network) != Some(route) {
                touched.insert(*network);
            }
        }
        touched.extend(self.local.keys().filter(|network| !before.contains_key(network)));
        let mut changes = Changes::new();
        for network in touched {
            if let Some(route) = before.get(&network) {
                changes.push((self.local_key(network, route), None));
            }
            if let Some(route) = self.local.get(&network) {
                changes.push((self.local_key(network, route), Some(local_route(route))));
            }
            // A block that is new hides learned routes inside it, one that is gone shows them again.
            let inside = self.learned.iter().filter(|(prefix, _)| covers(network, IpNetwork::from(**prefix)));
            changes.extend(inside.map(|(prefix, learned)| self.learned_change(*prefix, Some(learned))));
        }
        last_word(changes)
    }

    /// A best route changed; without next hops it is withdrawn.
    pub fn learn(&mut self, prefix: Prefix, next_hops: BTreeSet<Gateway>) -> Changes {
        if next_hops.is_empty() {
            self.learned.remove(&prefix);
        } else {
            self.learned.insert(prefix, Learned { next_hops, fresh: true });
        }
        vec![self.learned_change(prefix, self.learned.get(&prefix))]
    }

    /// A fresh speaker begins: what was learned before stays until [`Self::settled`].
    pub fn restarted(&mut self) {
        self.learned.values_mut().for_each(|learned| learned.fresh = false);
    }

    /// The speaker has heard everybody: what only its predecessor said goes.
    pub fn settled(&mut self) -> Changes {
        let stale: Vec<Prefix> =
            self.learned.iter().filter(|(_, learned)| !learned.fresh).map(|(prefix, _)| *prefix).collect();
        self.learned.retain(|_, learned| learned.fresh);
        stale.into_iter().map(|prefix| self.learned_change(prefix, None)).collect()
    }

    fn learned_change(&self, prefix: Prefix, learned: Option<&Learned>) -> (RouteKey, Option<Route>) {
        let network = IpNetwork::from(prefix);
        let key = RouteKey::main(network, self.metric);
        if self.inside_ours(network) {
            // A key that is ours by another route stays ours.
            let own = self.local.get(&network).filter(|route| self.local_key(network, route) == key);
            return (key, own.map(local_route));
        }
        (key, learned.map(|learned| Route::via(learned.next_hops.iter().map(gateway))))
    }

    fn inside_ours(&self, network: IpNetwork) -> bool {
        self.local.contains_key(&network)
            || (0..network.prefix())
                .any(|len| truncated(network, len).is_some_and(|wider| self.local.contains_key(&wider)))
    }

    fn local_key(&self, network: IpNetwork, route: &LocalRoute) -> RouteKey {
        match route {
            LocalRoute::Pod(_) => RouteKey::main(network, POD_METRIC),
            LocalRoute::Block => RouteKey::main(network, self.metric),
        }
    }
}

fn local_route(route: &LocalRoute) -> Route {
    match route {
        LocalRoute::Pod(link) => Route::link(link.clone()),
        LocalRoute::Block => Route::blackhole(),
    }
}

/// A next hop in the kernel's terms: with a zone its link is known.
fn gateway(gateway: &Gateway) -> manx_kernel::model::Gateway {
    manx_kernel::model::Gateway {
        address: gateway.address,
        link: (gateway.zone != 0).then_some(gateway.zone),
    }
}

fn covers(wider: IpNetwork, network: IpNetwork) -> bool {
    wider.prefix() <= network.prefix() && wider.contains(network.network())
}

fn truncated(network: IpNetwork, len: u8) -> Option<IpNetwork> {
    let wider = IpNetwork::new(network.network(), len).ok()?;
    IpNetwork::new(wider.network(), len).ok()
}

/// Of several changes to one key only the last counts.
fn last_word(changes: Changes) -> Changes {
    let by_key: BTreeMap<RouteKey, Option<Route>> = changes.into_iter().collect();
    by_key.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> IpNetwork {
        text.parse().expect("a network")
    }

    fn prefix(text: &str) -> Prefix {
        Prefix::new(network(text)).expect("no host bits")
    }

    fn hops(text: &str) -> BTreeSet<Gateway> {
        let address = |hop: &str| hop.parse::<std::net::IpAddr>().expect("an address");
        text.split_whitespace().map(|hop| address(hop).into()).collect()
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
        let changes = Wanted::new(0).set_local(local_routes([&endpoint], &owned));
        assert_eq!(
            changes,
            [
                (key("10.244.1.0/26"), Some(Route::blackhole())),
                (key("10.244.1.5/32"), Some(Route::link("cali1"))),
                (key("fd00::5/128"), Some(Route::link("cali1"))),
            ]
        );
    }

    #[test]
    fn what_a_peer_announces_inside_a_block_of_ours_is_never_installed() {
        let mut wanted = Wanted::new(0);
        wanted.set_local(block());
        assert_eq!(wanted.learn(prefix("10.244.1.9/32"), hops("192.0.2.1")), [(key("10.244.1.9/32"), None)]);
        assert_eq!(
            wanted.learn(prefix("10.244.1.0/26"), hops("192.0.2.1")),
            [(key("10.244.1.0/26"), Some(Route::blackhole()))]
        );
    }

    #[test]
    fn a_learned_route_comes_back_when_our_block_is_gone() {
        let mut wanted = Wanted::new(0);
        wanted.set_local(block());
        wanted.learn(prefix("10.244.1.0/26"), hops("192.0.2.1"));
        let changes = wanted.set_local(LocalRoutes::new());
        assert_eq!(
            changes,
            [(key("10.244.1.0/26"), Some(Route::via(hops("192.0.2.1").iter().map(gateway))))]
        );
    }

    #[test]
    fn a_restarted_speaker_keeps_its_routes_until_it_has_settled() {
        let mut wanted = Wanted::new(0);
        wanted.learn(prefix("10.244.2.0/26"), hops("192.0.2.2"));
        wanted.learn(prefix("10.244.3.0/26"), hops("192.0.2.3"));
        wanted.restarted();
        wanted.learn(prefix("10.244.2.0/26"), hops("192.0.2.2"));
        assert_eq!(wanted.settled(), [(key("10.244.3.0/26"), None)]);
        assert_eq!(wanted.settled(), []);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Local(Vec<u8>),
        Learn(u8, bool),
        Restarted,
        Settled,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            prop::collection::vec(0..12u8, 0..4).prop_map(Step::Local),
            (0..12u8, any::<bool>()).prop_map(|(n, up)| Step::Learn(n, up)),
            Just(Step::Restarted),
            Just(Step::Settled),
        ];
        prop::collection::vec(step, 0..40)
    }

    /// Twelve networks that lie inside one another in several ways.
    fn nth(n: u8) -> IpNetwork {
        let n = u32::from(n);
        match n {
            0..6 => network(&format!("10.0.0.{}/{}", 0, 24 + n)),
            _ => network(&format!("10.0.0.{}/{}", 64 * (n % 3), 26 + n % 6)),
        }
    }

    proptest! {
        #[test]
        fn the_sum_of_all_changes_is_what_a_fresh_look_gives(steps in steps()) {
            let mut wanted = Wanted::new(0);
            let mut kernel: BTreeMap<RouteKey, Route> = BTreeMap::new();
            for step in steps {
                let changes = match step {
                    Step::Local(blocks) => wanted.set_local(
                        blocks.into_iter().map(|n| (nth(n), LocalRoute::Block)).collect(),
                    ),
                    Step::Learn(n, up) => wanted.learn(
                        Prefix::new(nth(n)).expect("no host bits"),
                        if up { hops("192.0.2.1") } else { BTreeSet::new() },
                    ),
                    Step::Restarted => { wanted.restarted(); Vec::new() }
                    Step::Settled => wanted.settled(),
                };
                for (key, route) in changes {
                    match route {
                        Some(route) => kernel.insert(key, route),
                        None => kernel.remove(&key),
                    };
                }
                prop_assert_eq!(&kernel, &naive(&wanted));
            }
        }
    }

    fn naive(wanted: &Wanted) -> BTreeMap<RouteKey, Route> {
        let ours = wanted.local.keys().map(|network| (RouteKey::main(*network, 0), Route::blackhole()));
        let theirs = wanted.learned.iter().map(|(prefix, learned)| (IpNetwork::from(*prefix), learned));
        let theirs = theirs.filter(|(network, _)| !wanted.local.keys().any(|own| covers(*own, *network)));
        let theirs = theirs.map(|(network, learned)| {
            (RouteKey::main(network, 0), Route::via(learned.next_hops.iter().map(gateway)))
        });
        theirs.chain(ours).collect()
    }
}
