//! Clusters in, intents out: no API server, no node.

use kube::api::ObjectMeta;
use manx_api::{
    BGPConfiguration, BGPFilter, BGPFilterSpec, BGPPeer, BGPPeerSpec, BlockSource, CommunityPattern,
    FilterAction, FilterRule, GracefulShutdown, IPPool, IPPoolSpec, LabelSelector, LongLivedGracefulRestart,
    MaxPrefixes, MonitoringStation, NamedCommunity, NextHopMode as ApiNextHop, NodeNetwork, PeerAsn,
    PeerRange, PeerType, PoolAnnouncement, PrefixAdvertisement, RouteReflector, SecretKeyRef,
};
use manx_bgp::wire::{AsPath, Attributes, NextHop};
use manx_bgp::{
    AddPath, Asn, Community, CommunityValue, Dial, Family, LimitAction, LocalAs, NextHopMode, Policy, Prefix,
    RemoteAs, Role, Source, Subject, Verdict,
};

use super::*;
use crate::node::cluster::Objects;
use crate::node::pods::NamespaceNotes;

/// A cluster that is built up object by object, seen from node1.
#[derive(Default)]
struct Scene {
    cluster: Cluster,
}

fn put<K: kube::Resource + Clone>(objects: &mut Objects<K>, object: K) {
    let name = object.meta().name.clone().expect("a name");
    Arc::make_mut(objects).insert(name, Arc::new(object));
}

fn selector(key: &str, value: &str) -> LabelSelector {
    let match_labels = BTreeMap::from([(key.to_owned(), value.to_owned())]);
    LabelSelector { match_labels, ..LabelSelector::default() }
}

impl Scene {
    /// Three dual-stack nodes and a pool of each family.
    fn new() -> Self {
        let mut scene = Self::default();
        scene.node(["192.0.2.1", "2001:db8::1"], &[]);
        for number in 1..=3 {
            scene.network(number, true, true, &[]);
        }
        scene.pool("v4", "10.244.0.0/16", |_| {}).pool("v6", "fd00:10:244::/48", |_| {});
        scene
    }

    fn node<const N: usize>(&mut self, addresses: [&str; N], labels: &[(&str, &str)]) -> &mut Self {
        self.cluster.node = Some(Arc::new(OwnNode {
            uid: "uid-1".to_owned(),
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            addresses: addresses.map(|address| address.parse().expect("an address")).into(),
            ..OwnNode::default()
        }));
        self
    }

    fn network(&mut self, number: u8, v4: bool, v6: bool, labels: &[(&str, &str)]) -> &mut Self {
        let addresses = NodeAddresses {
            ipv4: v4.then(|| Ipv4Addr::new(192, 0, 2, number)),
            ipv6: v6.then(|| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into())),
        };
        let spec = NodeNetworkSpec {
            addresses,
            as_number: 64512,
            router_id: Ipv4Addr::new(192, 0, 2, number),
            cluster_id: None,
            node_uid: format!("uid-{number}"),
        };
        let mut network = NodeNetwork::new(&format!("node{number}"), spec);
        network.metadata = ObjectMeta {
            labels: Some(
                labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ),
            ..network.metadata
        };
        put(&mut self.cluster.networks, network);
        self
    }

    fn pool(&mut self, name: &str, cidr: &str, change: impl FnOnce(&mut IPPoolSpec)) -> &mut Self {
        let mut spec = IPPoolSpec::new(cidr.parse().expect("a network"));
        change(&mut spec);
        put(&mut self.cluster.pools, IPPool::new(name, spec));
        self
    }

    fn config(&mut self, change: impl FnOnce(&mut BGPConfigurationSpec)) -> &mut Self {
        let mut spec = BGPConfigurationSpec::default();
        change(&mut spec);
        put(&mut self.cluster.configurations, BGPConfiguration::new("default", spec));
        self
    }

    fn router(&mut self, change: impl FnOnce(&mut BGPPeerSpec)) -> &mut Self {
        let address = "192.0.2.254".parse().expect("an address");
        let mut spec = BGPPeerSpec::with_router(address, PeerAsn::Number(65000));
        change(&mut spec);
        put(&mut self.cluster.peers, BGPPeer::new("tor", spec));
        self
    }

    fn filter(&mut self, name: &str, spec: BGPFilterSpec) -> &mut Self {
        put(&mut self.cluster.filters, BGPFilter::new(name, spec));
        self
    }

    fn block(&mut self, cidr: &str, node: &str) -> &mut Self {
        Arc::make_mut(&mut self.cluster.blocks).insert(cidr.parse().expect("a block"), node.into());
        self
    }

    fn intent(&self) -> Intent {
        Intent::new(&self.cluster, &"node1".into())
    }

    fn bgp(&self) -> Arc<BgpIntent> {
        self.intent().bgp.expect("the node has an address")
    }

    fn peer(&self, id: &str) -> PeerIntent {
        let bgp = self.bgp();
        bgp.peers
            .get(&PeerId::from(id))
            .cloned()
            .unwrap_or_else(|| panic!("{id} is not among {:?}", bgp.peers.keys()))
    }

    /// Whether a prefix from outside is believed of the peer, and the rule that says so.
    fn believed(&self, peer: &str, prefix: &str) -> (bool, Option<String>) {
        let prefix: Prefix = prefix.parse().expect("a prefix");
        let family = &self.peer(peer).config.families[&prefix.family()];
        judged(&family.import, &prefix, Source::External, Source::External)
    }

    fn told(&self, peer: &str, prefix: &str, source: Source) -> bool {
        let prefix: Prefix = prefix.parse().expect("a prefix");
        let family = &self.peer(peer).config.families[&prefix.family()];
        let listener = if peer.starts_with("node/") { Source::Internal } else { Source::External };
        judged(&family.export, &prefix, source, listener).0
    }

    fn problems(&self) -> Vec<String> {
        self.intent().problems.iter().map(ToString::to_string).collect()
    }
}

/// Whether a policy lets a plain route through, and the rule that says so.
fn judged(policy: &Policy, prefix: &Prefix, source: Source, peer: Source) -> (bool, Option<String>) {
    let mut attributes = Attributes::new(NextHop::V4([192, 0, 2, 9].into()));
    attributes.as_path = AsPath::sequence([Asn(65000)]);
    let (verdict, rule) = policy.evaluate(&Subject { prefix, source, peer, attributes: &attributes });
    (matches!(verdict, Verdict::Accept(_)), rule.map(str::to_owned))
}

fn ids(bgp: &BgpIntent) -> Vec<String> {
    bgp.peers.keys().map(ToString::to_string).collect()
}

#[test]
fn a_full_mesh_has_one_session_with_each_other_node_that_carries_both_families() {
    let scene = Scene::new();
    assert_eq!(ids(&scene.bgp()), ["node/node2", "node/node3"]);
    let peer = scene.peer("node/node2").config;
    assert_eq!(peer.target, Dial::Active("192.0.2.2:179".parse().expect("an address")));
    assert_eq!(peer.source, Some("192.0.2.1".parse().expect("an address")));
    assert_eq!(peer.asn, Asn(64512).into());
    let next_hops: Vec<NextHopMode> = peer.families.values().map(|family| family.next_hop).collect();
    let own = |text: &str| NextHopMode::Own(text.parse().expect("an address"));
    assert_eq!(next_hops, [own("192.0.2.1"), own("2001:db8::1")]);
}

#[test]
fn a_node_without_ipv4_is_reached_over_ipv6_and_carries_only_that() {
    let mut scene = Scene::new();
    scene.network(2, false, true, &[]);
    let peer = scene.peer("node/node2").config;
    assert_eq!(peer.target, Dial::Active("[2001:db8::2]:179".parse().expect("an address")));
    assert_eq!(peer.families.keys().copied().collect::<Vec<_>>(), [Family::Ipv6Unicast]);
}

#[test]
fn nodes_without_a_common_family_have_no_session() {
    let mut scene = Scene::new();
    scene.node(["192.0.2.1"], &[]).network(2, false, true, &[]);
    assert_eq!(ids(&scene.bgp()), ["node/node3"]);
}

#[test]
fn without_an_internal_address_there_is_no_bgp_and_the_reason_is_said() {
    let mut scene = Scene::new();
    scene.node([], &[]);
    let intent = scene.intent();
    assert_eq!((intent.bgp, intent.network), (None, None));
    assert_eq!(
        scene.problems(),
        ["Node node1: has no address of type InternalIP: the kubelet's --node-ip sets it"]
    );
}

#[test]
fn an_ipv6_only_node_has_a_router_id_of_its_own() {
    let mut scene = Scene::new();
    scene.node(["2001:db8::1"], &[]);
    let one = scene.bgp().local.router_id;
    scene.node(["2001:db8::2"], &[]);
    assert_ne!(scene.bgp().local.router_id, one);
}

#[test]
fn ordinary_nodes_peer_only_with_reflectors_and_reflectors_with_everybody() {
    let mut scene = Scene::new();
    let reflectors = RouteReflector { node_selector: selector("role", "rr"), cluster_id: None };
    scene.config(|config| {
        config.topology = Topology::RouteReflectors;
        config.route_reflector = Some(reflectors);
    });
    let mut reflector = NodeNetwork::clone(&scene.cluster.networks["node3"]);
    reflector.spec.cluster_id = Some(Ipv4Addr::new(192, 0, 2, 3));
    put(&mut scene.cluster.networks, reflector);
    assert_eq!(ids(&scene.bgp()), ["node/node3"]);
    assert!(!scene.peer("node/node3").config.reflector_client);

    scene.node(["192.0.2.1", "2001:db8::1"], &[("role", "rr")]);
    assert_eq!(ids(&scene.bgp()), ["node/node2", "node/node3"]);
    assert!(scene.peer("node/node2").config.reflector_client);
    assert!(!scene.peer("node/node3").config.reflector_client);
    assert_eq!(scene.intent().network.expect("published").spec.cluster_id, Some(Ipv4Addr::new(192, 0, 2, 1)));
    assert!(scene.told("node/node2", "10.244.7.0/26", Source::Internal));
    assert!(!scene.told("node/node2", "10.244.7.0/26", Source::External));
}

#[test]
fn only_prefixes_inside_pools_are_believed() {
    let scene = Scene::new();
    let rows = [
        ("10.244.7.0/26", true),
        ("10.244.7.9/32", false),
        ("10.244.0.0/16", true),
        ("10.0.0.0/8", false),
        ("0.0.0.0/0", false),
        ("192.0.2.0/24", false),
        ("fd00:10:244:7::/122", true),
        ("fd00::/16", false),
        ("::/0", false),
    ];
    for (prefix, expected) in rows {
        assert_eq!(scene.believed("node/node2", prefix).0, expected, "{prefix}");
    }
}

#[test]
fn a_single_address_is_believed_where_it_is_claimed_even_inside_our_own_block() {
    let mut scene = Scene::new();
    scene.block("10.244.1.0/26", "node1");
    let claimed = ["10.244.1.7", "10.244.7.9", "192.0.2.9", "fd00:10:244::9"];
    scene.cluster.claimed = Arc::new(claimed.iter().map(|text| text.parse().expect("an address")).collect());
    for (prefix, expected) in [
        ("10.244.1.7/32", true),
        ("10.244.7.9/32", true),
        ("fd00:10:244::9/128", true),
        ("10.244.1.8/32", false),
        ("10.244.1.6/31", false),
        ("10.244.7.8/32", false),
        ("192.0.2.9/32", false),
    ] {
        assert_eq!(scene.believed("node/node2", prefix).0, expected, "{prefix}");
    }
}

#[test]
fn nothing_is_believed_about_a_block_of_our_own_whatever_a_filter_says() {
    let mut scene = Scene::new();
    let anything = FilterRule::any("anything", FilterAction::Accept);
    scene.filter("open", BGPFilterSpec { import_v4: vec![anything], ..BGPFilterSpec::default() });
    scene.router(|peer| peer.filters = vec!["open".to_owned()]).block("10.244.1.0/26", "node1");
    scene.block("10.244.2.0/26", "node2");
    assert_eq!(scene.believed("peer/tor", "10.244.1.0/26"), (false, Some("built-in/own-blocks".to_owned())));
    assert_eq!(scene.believed("peer/tor", "10.244.1.7/32"), (false, Some("built-in/own-blocks".to_owned())));
    assert_eq!(scene.believed("peer/tor", "10.244.2.0/26"), (true, Some("open/anything".to_owned())));
    assert_eq!(scene.believed("peer/tor", "0.0.0.0/0"), (true, Some("open/anything".to_owned())));
}

#[test]
fn filters_come_before_the_defaults_in_both_directions() {
    let mut scene = Scene::new();
    let nothing = FilterRule::any("nothing", FilterAction::Reject);
    let spec = BGPFilterSpec {
        import_v4: vec![nothing.clone()],
        export_v6: vec![nothing],
        ..BGPFilterSpec::default()
    };
    scene.filter("shut", spec).router(|peer| peer.filters = vec!["shut".to_owned()]);
    assert!(!scene.believed("peer/tor", "10.244.7.0/26").0);
    assert!(scene.believed("peer/tor", "fd00:10:244:7::/122").0);
    assert!(scene.told("peer/tor", "10.244.1.0/26", Source::Local));
    assert!(!scene.told("peer/tor", "fd00:10:244:1::/122", Source::Local));
}

#[test]
fn only_what_originates_here_is_told() {
    let scene = &mut Scene::new();
    scene.router(|_| {});
    for peer in ["node/node2", "peer/tor"] {
        assert!(scene.told(peer, "10.244.1.0/26", Source::Local), "{peer}");
        assert!(!scene.told(peer, "10.244.2.0/26", Source::Internal), "{peer}");
        assert!(!scene.told(peer, "10.244.2.0/26", Source::External), "{peer}");
        assert!(!scene.told(peer, "192.0.2.0/24", Source::Local), "{peer}");
    }
}

#[test]
fn a_pool_that_is_not_advertised_stays_among_the_nodes() {
    let mut scene = Scene::new();
    scene.pool("v4", "10.244.0.0/16", |pool| pool.advertise = false).router(|_| {});
    assert!(scene.told("node/node2", "10.244.1.0/26", Source::Local));
    assert!(!scene.told("peer/tor", "10.244.1.0/26", Source::Local));
}

#[test]
fn a_disabled_pool_stays_routed() {
    let mut scene = Scene::new();
    scene.pool("v4", "10.244.0.0/16", |pool| pool.disabled = true);
    assert!(scene.believed("node/node2", "10.244.7.0/26").0);
    assert!(scene.told("node/node2", "10.244.1.0/26", Source::Local));
    assert!(scene.intent().pools.iter().any(|pool| pool.name == "v4" && pool.disabled));
}

#[test]
fn a_session_is_configured_as_its_peer_says_and_else_as_the_cluster_does() {
    let mut scene = Scene::new();
    scene.config(|config| {
        config.keepalive_time_seconds = Some(5);
        config.connect_retry_seconds = 7;
        config.long_lived_graceful_restart = Some(LongLivedGracefulRestart { stale_time_seconds: 3600 });
        config.max_prefixes =
            MaxPrefixes { ipv4: Some(10), warn_percent: Some(50), ..MaxPrefixes::default() };
    });
    scene.router(|_| {});
    let config = scene.peer("peer/tor").config;
    assert_eq!(config.keepalive, Some(Duration::from_secs(5)));
    assert_eq!(
        (config.connect_retry, config.connect_retry_max),
        (Duration::from_secs(1), Duration::from_secs(7))
    );
    assert_eq!((config.delay_open, config.damping), (None, true));
    assert_eq!(config.long_lived, Some(Duration::from_secs(3600)));
    let limit = config.families[&Family::Ipv4Unicast].limit;
    assert_eq!((limit.max, limit.warn_percent), (10, 50));
    assert_eq!(limit.action, LimitAction::Restart(Duration::from_secs(60)));
    scene.router(|peer| {
        peer.keepalive_time_seconds = Some(9);
        peer.delay_open_seconds = Some(3);
        peer.damping = false;
        peer.long_lived_graceful_restart = Some(LongLivedGracefulRestart { stale_time_seconds: 0 });
        peer.max_prefixes =
            Some(MaxPrefixes { action: Some(manx_api::LimitAction::StayDown), ..MaxPrefixes::default() });
        peer.add_path = Some(manx_api::AddPath { receive: true, send: Some(4) });
        peer.extended_next_hop = false;
        peer.ebgp_multihop = Some(2);
    });
    let peer = scene.peer("peer/tor");
    let config = peer.config;
    assert_eq!(
        (config.keepalive, config.delay_open),
        (Some(Duration::from_secs(9)), Some(Duration::from_secs(3)))
    );
    assert_eq!((config.damping, config.long_lived), (false, None));
    let family = &config.families[&Family::Ipv4Unicast];
    assert_eq!((family.limit.max, family.limit.action), (10, LimitAction::StayDown));
    assert_eq!(family.add_path, AddPath { receive: true, send: Some(4) });
    assert!(!family.extended_next_hop);
    assert_eq!(peer.transport.ttl, Some(2));
}

#[test]
fn a_router_is_shown_the_as_and_the_role_that_its_object_says() {
    let mut scene = Scene::new();
    scene.router(|peer| {
        peer.as_number = PeerAsn::External;
        peer.local_as = Some(manx_api::LocalAs { as_number: 65009, no_prepend: true, replace_as: false });
        peer.num_allowed_local_as_numbers = Some(2);
        peer.remove_private_as = true;
        peer.role = Some(manx_api::Role::Customer);
        peer.role_strict = true;
    });
    let config = scene.peer("peer/tor").config;
    assert_eq!(config.asn, RemoteAs::External);
    assert_eq!(config.local_as, Some(LocalAs { asn: Asn(65009), prepend: false, replace: false }));
    assert_eq!((config.allow_own_as, config.remove_private_as), (2, true));
    assert_eq!((config.role, config.role_strict), (Some(Role::Customer), true));
}

#[test]
fn whoever_connects_from_a_range_may_become_a_peer() {
    let mut scene = Scene::new();
    scene.router(|peer| {
        peer.peer_ip = None;
        peer.peer_range = Some(PeerRange { cidr: "192.0.2.0/24".parse().expect("a network"), limit: 5 });
    });
    let config = scene.peer("peer/tor").config;
    let prefix = "192.0.2.0/24".parse().expect("a prefix");
    assert_eq!(config.target, Dial::Range { prefix, limit: 5 });
    assert_eq!(config.source, Some("192.0.2.1".parse().expect("an address")));
}

#[test]
fn every_condition_and_change_of_a_rule_reaches_the_speaker() {
    let mut scene = Scene::new();
    let pattern = |text: &str| vec![text.parse::<CommunityPattern>().expect("a pattern")];
    let communities = |text: &str| vec![text.parse::<manx_api::Community>().expect("a community")];
    let rule = FilterRule {
        peer_type: Some(PeerType::External),
        communities: Some(manx_api::CommunityMatch {
            any: pattern("65000:*"),
            none: pattern("rt:65000:*"),
            ..manx_api::CommunityMatch::default()
        }),
        as_path: Some(manx_api::AsPathMatch { origin: vec![65001], max_hops: Some(3), ..Default::default() }),
        set_med: Some(7),
        set_communities: Some(communities("rt:65000:1")),
        remove_communities: pattern("no-export"),
        add_communities: communities("65000:1:2"),
        prepend_as_path: Some(3),
        set_next_hop: Some("192.0.2.99".parse().expect("an address")),
        blackhole: true,
        ..FilterRule::any("all", FilterAction::Accept)
    };
    scene.filter("f", BGPFilterSpec { import_v4: vec![rule], ..BGPFilterSpec::default() });
    scene.router(|peer| peer.filters = vec!["f".to_owned()]);
    let policy = scene.peer("peer/tor").config.families[&Family::Ipv4Unicast].import.clone();
    let rule = policy.rules.iter().find(|rule| rule.name == "f/all").expect("the rule");
    assert_eq!(rule.peer, Some(Source::External));
    let wanted = rule.communities.as_ref().expect("a condition");
    let shown =
        |values: &BTreeSet<CommunityValue>| values.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        (shown(&wanted.any_of), shown(&wanted.none_of)),
        (vec!["65000:*".to_owned()], vec!["rt:65000:*".to_owned()])
    );
    let path = rule.as_path.as_ref().expect("a condition");
    assert_eq!((path.origin.clone(), path.max_hops), (BTreeSet::from([Asn(65001)]), Some(3)));
    let Verdict::Accept(changes) = &rule.verdict else { panic!("accepted") };
    assert_eq!(
        (changes.med, changes.prepend, changes.next_hop, changes.blackhole),
        (Some(7), 3, Some("192.0.2.99".parse().expect("an address")), true)
    );
    assert_eq!(changes.set_communities, Some(BTreeSet::new()), "those of the other kinds go too");
    assert_eq!(changes.set_extended_communities.as_ref().map(BTreeSet::len), Some(1));
    assert_eq!(shown(&changes.remove_communities), ["no-export"]);
    assert_eq!(changes.add_large_communities.len(), 1);
}

#[test]
fn an_edited_filter_changes_policies_and_nothing_else_about_a_session() {
    let mut scene = Scene::new();
    let filter = |action| BGPFilterSpec {
        import_v4: vec![FilterRule::any("all", action)],
        ..BGPFilterSpec::default()
    };
    scene.filter("f", filter(FilterAction::Accept)).router(|peer| peer.filters = vec!["f".to_owned()]);
    let before = scene.bgp();
    scene.filter("f", filter(FilterAction::Reject));
    let after = scene.bgp();
    assert_eq!((&after.local, &after.listen), (&before.local, &before.listen));
    for (id, peer) in &after.peers {
        let mut same = peer.clone();
        for (family, config) in &mut same.config.families {
            config.import = before.peers[id].config.families[family].import.clone();
        }
        assert_eq!(same, before.peers[id], "{id}");
        assert_eq!(*peer == before.peers[id], id.as_str() != "peer/tor", "{id}");
    }
}

#[test]
fn a_node_that_is_about_to_go_says_so_with_every_announcement() {
    let mut scene = Scene::new();
    let finally = |scene: &Scene| {
        let families = scene.peer("node/node2").config.families;
        families[&Family::Ipv4Unicast].export.finally.iter().map(|it| it.name.clone()).collect::<Vec<_>>()
    };
    scene.config(|config| {
        config.graceful_shutdown = Some(GracefulShutdown { node_selector: selector("drain", "yes") })
    });
    assert_eq!(finally(&scene), [""; 0]);
    scene.node(["192.0.2.1", "2001:db8::1"], &[("drain", "yes")]);
    assert_eq!(finally(&scene), ["built-in/drain-external", "built-in/drain-internal"]);
}

#[test]
fn blocks_are_announced_with_what_their_pool_says() {
    let mut scene = Scene::new();
    scene.pool("v4", "10.244.0.0/16", |pool| {
        pool.announcement = Some(PoolAnnouncement {
            communities: vec![
                "64512:7".parse().expect("a community"),
                "rt:64512:8".parse().expect("a community"),
            ],
            local_preference: Some(200),
            med: Some(9),
        });
    });
    let owned = ["10.244.1.0/26", "fd00:10:244::40/122"].map(|block| block.parse().expect("a block"));
    let origins = scene.intent().announcement.origins(&owned.into());
    let attributes = &origins[&"10.244.1.0/26".parse::<Prefix>().expect("a prefix")];
    assert_eq!(attributes.communities, BTreeSet::from([Community::new(64512, 7)]));
    assert_eq!(
        (attributes.extended_communities.len(), attributes.local_pref, attributes.med),
        (1, Some(200), Some(9))
    );
    let other = &origins[&"fd00:10:244::40/122".parse::<Prefix>().expect("a prefix")];
    assert_eq!(*other, manx_bgp::OriginAttributes::default());
}

#[test]
fn connections_are_accepted_everywhere_or_where_the_configuration_says() {
    let mut scene = Scene::new();
    let listen = |scene: &Scene| scene.bgp().listen.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(listen(&scene), ["0.0.0.0:179", "[::]:179"]);
    scene.config(|config| config.listen_addresses = vec!["192.0.2.1".parse().expect("an address")]);
    assert_eq!(listen(&scene), ["192.0.2.1:179"]);
}

#[test]
fn a_router_is_peered_with_as_its_object_says() {
    let mut scene = Scene::new();
    scene.router(|peer| {
        peer.hold_time_seconds = Some(9);
        peer.ttl_security_hops = Some(2);
        peer.passive = true;
        peer.next_hop_mode = ApiNextHop::Keep;
    });
    let peer = scene.peer("peer/tor");
    assert_eq!(peer.config.hold_time.seconds(), 9);
    assert_eq!(peer.config.asn, Asn(65000).into());
    assert!(matches!(peer.config.target, Dial::Passive(_)));
    assert_eq!(
        peer.transport,
        Transport {
            ttl: Some(255),
            min_ttl: Some(254),
            patience: peer.transport.patience,
            ..Transport::default()
        }
    );
    assert!(peer.config.families.values().all(|family| family.next_hop == NextHopMode::Keep));
}

#[test]
fn a_peer_object_counts_only_on_the_nodes_that_it_selects() {
    let mut scene = Scene::new();
    scene.router(|peer| peer.node_selector = Some(selector("rack", "a")));
    assert_eq!(ids(&scene.bgp()), ["node/node2", "node/node3"]);
    scene.node(["192.0.2.1", "2001:db8::1"], &[("rack", "a")]);
    assert_eq!(ids(&scene.bgp()), ["node/node2", "node/node3", "peer/tor"]);
}

#[test]
fn sessions_between_selected_nodes_are_known_at_both_ends() {
    let mut scene = Scene::new();
    scene.config(|config| config.topology = Topology::None);
    scene.router(|peer| {
        peer.peer_ip = None;
        peer.as_number = PeerAsn::Internal;
        peer.node_selector = Some(selector("role", "leaf"));
        peer.peer_selector = Some(selector("role", "spine"));
    });
    scene.network(2, true, true, &[("role", "spine")]).network(3, true, true, &[("role", "leaf")]);
    scene.node(["192.0.2.1"], &[("role", "leaf")]);
    assert_eq!(ids(&scene.bgp()), ["node/node2"]);
    scene.node(["192.0.2.1"], &[("role", "spine")]);
    assert_eq!(ids(&scene.bgp()), ["node/node3"]);
    scene.node(["192.0.2.1"], &[]);
    assert_eq!(ids(&scene.bgp()), Vec::<String>::new());
}

#[test]
fn what_cannot_be_done_as_it_is_written_is_refused_and_the_rest_goes_on() {
    let secret = SecretKeyRef { namespace: "a".to_owned(), name: "b".to_owned(), key: "c".to_owned() };
    type Change = Box<dyn FnOnce(&mut BGPPeerSpec)>;
    let rows: [(Change, &str); 5] = [
        (Box::new(|peer| peer.password_secret_ref = Some(secret)), "there is no Secret"),
        (Box::new(|peer| peer.filters = vec!["gone".to_owned()]), "there is no BGPFilter gone"),
        (
            Box::new(|peer| {
                peer.as_number = PeerAsn::Number(64512);
                peer.role = Some(manx_api::Role::Peer);
            }),
            "role is for external peers",
        ),
        (
            Box::new(|peer| {
                peer.peer_ip = None;
                peer.interface = Some("cali1".to_owned());
            }),
            "cali1 leads to a pod",
        ),
        (
            Box::new(|peer| peer.peer_ip = None),
            "exactly one of peerIP, interface, peerSelector and peerRange",
        ),
    ];
    for (change, text) in rows {
        let mut scene = Scene::new();
        scene.router(change);
        let problems = scene.problems();
        assert!(problems.len() == 1 && problems[0].starts_with("BGPPeer tor: "), "{problems:?}");
        assert!(problems[0].contains(text), "{problems:?}");
        assert_eq!(ids(&scene.bgp()), ["node/node2", "node/node3"]);
    }
}

#[test]
fn a_node_uses_the_pools_that_select_it_the_oldest_first() {
    let mut scene = Scene::new();
    scene.pool("gpu", "10.9.0.0/16", |pool| pool.node_selector = Some(selector("gpu", "yes")));
    scene
        .pool("services", "10.8.0.0/16", |pool| pool.allowed_uses = vec![manx_api::AllowedUse::LoadBalancer]);
    let names = |scene: &Scene| scene.intent().pools.into_iter().map(|pool| pool.name).collect::<Vec<_>>();
    assert_eq!(names(&scene), ["v4", "v6"]);
    scene.node(["192.0.2.1"], &[("gpu", "yes")]);
    assert_eq!(names(&scene), ["gpu", "v4", "v6"]);
}

#[test]
fn a_pool_for_some_namespaces_is_for_their_pods_only() {
    let mut scene = Scene::new();
    assert!(scene.intent().pod_pools.open_to_all());
    scene.pool("red", "10.9.0.0/16", |pool| pool.namespace_selector = Some(selector("team", "red")));
    let red = NamespaceNotes {
        labels: BTreeMap::from([("team".to_owned(), "red".to_owned())]),
        ..NamespaceNotes::default()
    };
    let pools = scene.intent().pod_pools;
    assert!(!pools.open_to_all());
    let names = |namespace: Option<&NamespaceNotes>| {
        let admitted = pools.iter().filter(|(_, pool)| pool.admits(namespace));
        admitted.map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(Some(&red)), ["red", "v4", "v6"]);
    assert_eq!(names(Some(&NamespaceNotes::default())), ["v4", "v6"]);
    assert_eq!(names(None), ["v4", "v6"]);
}

#[test]
fn own_blocks_carry_the_communities_of_the_prefixes_they_lie_in() {
    let mut scene = Scene::new();
    scene.config(|config| {
        config.communities = vec![NamedCommunity {
            name: "pods".to_owned(),
            value: manx_api::Community::Standard(64512, 100),
        }];
        config.prefix_advertisements = vec![PrefixAdvertisement {
            cidr: "10.244.0.0/16".parse().expect("a network"),
            communities: vec!["pods".to_owned(), "64512:1:2".to_owned()],
        }];
    });
    let owned = ["10.244.1.0/26", "fd00:10:244::40/122"].map(|block| block.parse().expect("a block"));
    let origins = scene.intent().announcement.origins(&owned.into());
    let attributes = &origins[&"10.244.1.0/26".parse::<Prefix>().expect("a prefix")];
    assert_eq!(attributes.communities, BTreeSet::from([Community(64512 << 16 | 100)]));
    assert_eq!(attributes.large_communities.len(), 1);
    assert!(origins[&"fd00:10:244::40/122".parse::<Prefix>().expect("a prefix")].communities.is_empty());
}

#[test]
fn only_pools_with_nat_are_masqueraded_and_no_pool_is_outside() {
    let mut scene = Scene::new();
    scene.pool("v4", "10.244.0.0/16", |pool| pool.nat_outgoing = true);
    let nat = scene.intent().nat;
    assert_eq!(nat.sources.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.244.0.0/16"]);
    assert_eq!(nat.inside.len(), 2);
}

#[test]
fn the_published_network_says_what_peers_need() {
    let mut scene = Scene::new();
    scene.node(["192.0.2.1", "2001:db8::1", "192.0.2.99"], &[("rack", "a")]);
    let network = scene.intent().network.expect("published");
    assert_eq!(network.spec.addresses.ipv4, Some(Ipv4Addr::new(192, 0, 2, 1)));
    assert_eq!((network.spec.as_number, network.spec.node_uid.as_str()), (64512, "uid-1"));
    assert_eq!(network.labels["rack"], "a");
}

#[test]
fn a_station_is_for_the_nodes_that_it_selects_and_has_a_port() {
    let mut scene = Scene::new();
    scene.node(["192.0.2.1"], &[("rack", "a")]);
    scene.config(|config| {
        let station = |address: &str, rack: Option<&str>| MonitoringStation {
            address: address.parse().expect("an address"),
            node_selector: rack.map(|rack| selector("rack", rack)),
        };
        config.monitoring_stations = vec![
            station("198.51.100.1", None),
            station("198.51.100.2:1790", Some("b")),
            station("[2001:db8::2]:1790", Some("a")),
        ];
    });
    let stations = scene.intent().bgp.expect("there is an address").stations.clone();
    let told: Vec<_> = stations.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["198.51.100.1:11019", "[2001:db8::2]:1790"]);
}

#[test]
fn pools_give_by_priority_and_then_by_age() {
    let mut scene = Scene::new();
    scene.pool("a-younger", "10.1.0.0/16", |_| {}).pool("first", "10.2.0.0/16", |pool| pool.priority = 10);
    for (name, second) in [("v4", 1), ("a-younger", 2), ("first", 3), ("v6", 1)] {
        let pool = Arc::make_mut(&mut scene.cluster.pools).get_mut(name).expect("there");
        let time = manx_api::Timestamp::from_second(second).expect("in range");
        Arc::make_mut(pool).metadata.creation_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time));
    }
    let names: Vec<String> = scene.intent().pools.into_iter().map(|pool| pool.name).collect();
    assert_eq!(names, ["first", "v4", "v6", "a-younger"]);
}

#[test]
fn of_two_pools_that_overlap_the_younger_is_used_nowhere_whatever_its_priority() {
    let mut scene = Scene::new();
    // The older one selects other nodes.
    scene.pool("v4", "10.244.0.0/16", |pool| pool.node_selector = Some(selector("rack", "b")));
    scene.pool("v4-again", "10.244.128.0/17", |pool| pool.priority = 1000);
    let intent = scene.intent();
    assert_eq!(intent.pools.iter().map(|pool| pool.name.as_str()).collect::<Vec<_>>(), ["v6"]);
    let problem = intent.problems.first().expect("told").to_string();
    let expected = "IPPool v4-again: is not used: 10.244.128.0/17 has addresses of the older IPPool v4; delete one of the two";
    assert_eq!(problem, expected);
}

/// The blocks' places and the problems of a pool that follows these podCIDRs.
fn following(cidr: &str, block_size: Option<u8>, pod_cidrs: &[&str]) -> (Vec<String>, Vec<String>) {
    let mut scene = Scene::new();
    scene.cluster.pools = Arc::default();
    scene.pool("p", cidr, |pool| {
        pool.block_source = BlockSource::NodePodCIDRs;
        pool.block_size = block_size;
    });
    let node = Arc::make_mut(scene.cluster.node.as_mut().expect("there"));
    node.pod_cidrs = pod_cidrs.iter().map(|cidr| cidr.parse().expect("a network")).collect();
    let intent = scene.intent();
    let within = intent.pools[0].within.clone().expect("bound");
    let texts = intent.problems.iter().map(ToString::to_string);
    (within.iter().map(ToString::to_string).collect(), texts.collect())
}

#[test]
fn a_pool_that_follows_pod_cidrs_takes_them_at_any_length_or_says_why_not() {
    let none: Vec<String> = Vec::new();
    let good = |cidr: &str, size, pod_cidr: &str| {
        assert_eq!(
            following(cidr, size, &[pod_cidr]),
            (vec![pod_cidr.to_owned()], none.clone()),
            "{pod_cidr}"
        );
    };
    good("10.244.0.0/16", None, "10.244.7.0/24");
    good("10.244.0.0/16", None, "10.244.7.0/26");
    good("10.244.0.0/16", None, "10.244.0.0/16");
    good("10.244.0.0/16", None, "10.0.0.0/8");
    good("fd00:10:244::/48", None, "fd00:10:244:7::/64");
    good("fd00:10:244::/48", Some(128), "fd00:10:244:7::7/128");
    let bad = |cidr: &str, pod_cidrs: &[&str], text: &str| {
        let (within, problems) = following(cidr, None, pod_cidrs);
        assert_eq!((within.len(), problems.len()), (0, 1), "{pod_cidrs:?}");
        assert!(problems[0].contains(text), "{} does not say: {text}", problems[0]);
    };
    bad("10.244.0.0/16", &["10.245.7.0/24"], "10.245.7.0/24 lies outside of 10.244.0.0/16");
    bad("10.244.0.0/16", &["10.244.7.0/27"], "10.244.7.0/27 is smaller than one block (/26)");
    bad("10.244.0.0/16", &["fd00:10:244:7::/64"], "the Node has no IPv4 one");
    bad("fd00:10:244::/48", &[], "the Node has no IPv6 one");
}

#[test]
fn a_pod_cidr_of_another_following_pool_is_no_problem_of_this_one() {
    let mut scene = Scene::new();
    scene.cluster.pools = Arc::default();
    for (name, cidr) in [("old", "10.244.0.0/16"), ("new", "10.245.0.0/16")] {
        scene.pool(name, cidr, |pool| pool.block_source = BlockSource::NodePodCIDRs);
    }
    let node = Arc::make_mut(scene.cluster.node.as_mut().expect("there"));
    node.pod_cidrs = vec!["10.245.7.0/24".parse().expect("a network")];
    let intent = scene.intent();
    assert_eq!(intent.problems, BTreeSet::new());
    assert_eq!(
        intent.pools.iter().map(|pool| pool.within.as_ref().map(Vec::len)).collect::<Vec<_>>(),
        [Some(1), Some(0)]
    );
}
