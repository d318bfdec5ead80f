//! The plugin's calls against a node whose API server is this file.

use std::time::Duration;

use manx_cni::rpc::{AddRequest, Assignment, GcRequest, PodRef as RpcPod};
use manx_cni::spec::Code;
use manx_ipam::{Pool, recover};

use super::found::LINK_GRACE;
use super::intent::{PodPool, PodPools};
use super::pods::Namespaces;
use super::*;

mod asks;

const NODE: &str = "node1";

/// A node, the record that it wrote, and a cluster that grants every claim.
struct Scene {
    node: Node,
    record: Vec<u8>,
    owners: BTreeMap<BlockId, NodeName>,
    granting: bool,
    now: Instant,
    next: u64,
    seen: Vec<Output>,
    /// The figures at the last time when they were said to have changed.
    shown: Usage,
}

impl Scene {
    /// A node that has read an IPv4 pool and owns a block of it.
    fn new() -> Self {
        let mut scene = Self::blank(Recovered::default());
        scene.configure(&[("v4", "10.244.0.0/24")]);
        scene
    }

    fn blank(recovered: Recovered) -> Self {
        let now = Instant::now();
        let mut scene = Self {
            node: Node::new(NODE.into(), Limits::default(), recovered, now),
            record: Vec::new(),
            owners: BTreeMap::new(),
            granting: true,
            now,
            next: 0,
            seen: Vec::new(),
            shown: Usage::default(),
        };
        scene.run();
        scene
    }

    /// The same node after its agent was killed and started again.
    fn restarted(self) -> Self {
        let mut scene = Self::blank(recover(&self.record));
        (scene.record, scene.owners) = (self.record, self.owners);
        scene
    }

    fn configure(&mut self, pools: &[(&str, &str)]) {
        let pools: Vec<Pool> = pools.iter().map(pool).collect();
        let intent = Intent { pod_pools: pod_pools(&pools), pools, ..Intent::default() };
        self.feed(Input::Intent(Arc::new(intent)));
        self.feed(Input::Blocks(Arc::new(self.owners.clone())));
    }

    fn feed(&mut self, input: Input) {
        self.node.handle(input, self.now);
        self.run();
    }

    fn run(&mut self) {
        while let Some(output) = self.node.poll() {
            match &output {
                Output::Record(bytes) => self.record.extend_from_slice(bytes),
                Output::Rewrite(bytes) => self.record.clone_from(bytes),
                Output::Claim { block, .. } => {
                    let outcome = if self.granting { Ok(()) } else { Err(ClaimError::Taken) };
                    if self.granting {
                        self.owners.insert(*block, NODE.into());
                    }
                    self.node.handle(Input::Claimed { block: *block, outcome }, self.now);
                }
                Output::Changed => self.shown = self.node.usage(),
                _ => {}
            }
            self.seen.push(output);
        }
    }

    fn call(&mut self, call: Request) -> RequestId {
        let request = RequestId(self.next);
        self.next += 1;
        self.feed(Input::Call { request, call, at: 1_000 });
        request
    }

    fn reply(&self, request: RequestId) -> Option<&Reply> {
        self.seen.iter().find_map(|output| match output {
            Output::Reply { request: answered, reply } if *answered == request => Some(reply),
            _ => None,
        })
    }

    fn add(&mut self, container: &str) -> Reply {
        let request = self.call(Request::Add(add(container)));
        self.reply(request).cloned().expect("answered at once")
    }

    fn assigned(&mut self, container: &str) -> Assignment {
        match self.add(container) {
            Reply::Assigned(assignment) => assignment,
            other => panic!("{other:?}"),
        }
    }

    fn position(&self, wanted: impl Fn(&Output) -> bool) -> usize {
        self.seen.iter().position(wanted).expect("it happened")
    }
}

fn pool((name, cidr): &(&str, &str)) -> Pool {
    let cidr: ipnetwork::IpNetwork = cidr.parse().expect("a network");
    Pool::new(*name, cidr, if cidr.is_ipv4() { 26 } else { 122 }).expect("a pool")
}

/// Pools for everybody.
fn pod_pools(pools: &[Pool]) -> PodPools {
    let open = |pool: &Pool| PodPool {
        cidr: pool.cidr,
        here: true,
        automatic: pool.automatic,
        disabled: pool.disabled,
        namespaces: None,
    };
    PodPools::of(pools.iter().map(|pool| (pool.name.clone(), open(pool))), Namespaces::default())
}

pub(super) fn add(container: &str) -> AddRequest {
    AddRequest {
        network: "manx".to_owned(),
        container: container.to_owned(),
        ifname: "eth0".to_owned(),
        netns: format!("/run/netns/{container}"),
        pod: Some(RpcPod { namespace: "default".to_owned(), name: container.to_owned(), uid: None }),
        link: format!("cali-{container}"),
        addresses: Vec::new(),
        mac: None,
        mtu: None,
    }
}

fn del(container: &str) -> DelRequest {
    DelRequest {
        container: container.to_owned(),
        ifname: "eth0".to_owned(),
        link: format!("cali-{container}"),
    }
}

fn id(container: &str) -> EndpointId {
    EndpointId { container: container.to_owned(), ifname: "eth0".to_owned() }
}

fn attachment(container: &str) -> Attachment {
    Attachment { container: container.to_owned(), ifname: "eth0".to_owned() }
}

#[test]
fn an_address_is_on_record_before_the_plugin_hears_of_it() {
    let mut scene = Scene::new();
    scene.seen.clear();
    scene.assigned("a");
    let recorded = scene.position(|output| matches!(output, Output::Record(_)));
    let replied = scene.position(|output| matches!(output, Output::Reply { .. }));
    assert!(recorded < replied);
}

#[test]
fn a_pod_gets_a_route_to_its_link_and_the_block_leads_nowhere() {
    let mut scene = Scene::new();
    let address = scene.assigned("a").addresses[0];
    let routes = scene.seen.iter().rev().find_map(|output| match output {
        Output::Routes(routes) => Some(routes),
        _ => None,
    });
    let routes = routes.expect("declared");
    assert_eq!(routes.get(&address.into()), Some(&fib::LocalRoute::Pod("cali-a".to_owned())));
    assert!(routes.values().any(|route| *route == fib::LocalRoute::Block));
}

#[test]
fn a_repeated_add_gets_the_same_address_and_the_mtu_of_the_uplink() {
    let mut scene = Scene::new();
    let first = scene.assigned("a");
    scene.feed(Input::Mtu(9000));
    let second = scene.assigned("a");
    assert_eq!(first.addresses, second.addresses);
    assert_eq!((first.mtu, second.mtu), (1500, 9000));
}

#[test]
fn a_del_is_answered_when_the_link_is_down_and_not_before() {
    let mut scene = Scene::new();
    let addresses = scene.assigned("a").addresses;
    let request = scene.call(Request::Del(del("a")));
    let unlink = Output::Unlink { id: id("a"), link: "cali-a".to_owned(), addresses };
    assert!(scene.seen.contains(&unlink));
    assert_eq!(scene.reply(request), None);
    scene.seen.clear();
    scene.call(Request::Del(del("a")));
    assert!(scene.seen.contains(&unlink), "said again, it names the same addresses");
    scene.feed(Input::LinkDown { id: id("a") });
    assert_eq!(scene.reply(request), Some(&Reply::Deleted { link_removed_by: Remover::Agent }));
}

#[test]
fn a_del_of_what_nobody_knows_still_looks_for_the_link() {
    let mut scene = Scene::new();
    let request = scene.call(Request::Del(del("ghost")));
    assert!(scene.seen.contains(&Output::Unlink {
        id: id("ghost"),
        link: "cali-ghost".to_owned(),
        addresses: Vec::new(),
    }));
    scene.feed(Input::LinkGone { id: id("ghost") });
    assert_eq!(scene.reply(request), Some(&Reply::Deleted { link_removed_by: Remover::Agent }));
}

#[test]
fn two_dels_of_one_attachment_are_both_answered() {
    let mut scene = Scene::new();
    scene.assigned("a");
    let requests = [scene.call(Request::Del(del("a"))), scene.call(Request::Del(del("a")))];
    scene.feed(Input::LinkGone { id: id("a") });
    assert!(requests.iter().all(|request| scene.reply(*request).is_some()));
}

#[test]
fn a_check_tells_what_is_known_and_changes_nothing() {
    let mut scene = Scene::new();
    let assignment = scene.assigned("a");
    let known = scene.call(Request::Check(attachment("a")));
    let unknown = scene.call(Request::Check(attachment("b")));
    assert_eq!(scene.reply(known), Some(&Reply::Known(Some(assignment))));
    assert_eq!(scene.reply(unknown), Some(&Reply::Known(None)));
}

#[test]
fn a_gc_frees_what_is_not_in_its_list_and_says_so() {
    let mut scene = Scene::new();
    scene.assigned("a");
    let addresses = scene.assigned("b").addresses;
    let gc = GcRequest { network: "manx".to_owned(), valid: vec![attachment("a")] };
    let request = scene.call(Request::Gc(gc));
    assert_eq!(scene.reply(request), Some(&Reply::Collected(vec![attachment("b")])));
    assert!(scene.seen.contains(&Output::Unlink { id: id("b"), link: "cali-b".to_owned(), addresses }));
}

#[test]
fn running_pods_follow_the_uplinks_mtu_but_not_one_that_is_fixed_nor_one_too_small_for_ipv6() {
    let mut scene = Scene::new();
    scene.configure(&[("v4", "10.244.0.0/24"), ("v6", "fd00::/112")]);
    scene.assigned("both");
    scene.call(Request::Add(AddRequest { mtu: Some(1400), ..add("fixed") }));
    scene.configure(&[("v4", "10.244.0.0/24")]);
    assert_eq!(scene.assigned("four").mtu, 1500, "nothing is known of the uplink yet");
    for (uplink, both, four, problem) in [
        (1500, 1500, 1500, false),
        (9000, 9000, 9000, false),
        (1000, 1280, 1000, true),
        (1280, 1280, 1280, false),
    ] {
        scene.seen.clear();
        scene.feed(Input::Mtu(uplink));
        let sizes: BTreeMap<EndpointId, u32> = scene
            .seen
            .iter()
            .filter_map(|output| match output {
                Output::Resize { id, size } => Some((id.clone(), size.mtu)),
                _ => None,
            })
            .collect();
        assert_eq!(sizes, BTreeMap::from([(id("both"), both), (id("fixed"), 1400), (id("four"), four)]));
        assert_eq!(scene.node.mtu_problem().is_some(), problem, "{uplink}");
        let request = scene.call(Request::Check(attachment("both")));
        let Some(Reply::Known(Some(known))) = scene.reply(request) else { panic!("known") };
        assert_eq!(known.mtu, both);
    }
    let mut scene = Scene::blank(recover(&scene.record));
    scene.feed(Input::Mtu(1500));
    let fixed = |output: &Output| matches!(output, Output::Resize { id: of, size } if *of == id("fixed") && size.mtu == 1400);
    assert!(scene.seen.iter().any(fixed), "what was fixed is on record");
}

#[test]
fn a_gc_of_one_network_leaves_the_endpoints_of_another_alone() {
    let mut scene = Scene::new();
    scene.assigned("a");
    let other = AddRequest { network: "storage".to_owned(), ..add("b") };
    scene.call(Request::Add(other));
    let mut gc = |network: &str| {
        let request = scene.call(Request::Gc(GcRequest { network: network.to_owned(), valid: Vec::new() }));
        scene.reply(request).cloned().expect("answered at once")
    };
    assert_eq!(gc("backup"), Reply::Collected(Vec::new()));
    assert_eq!(gc("storage"), Reply::Collected(vec![attachment("b")]));
    assert_eq!(gc("manx"), Reply::Collected(vec![attachment("a")]));
}

#[test]
fn an_endpoint_of_an_unknown_network_is_collected_only_where_there_is_no_other_network() {
    let found = |container: &str, address: &str| Endpoint {
        id: id(container),
        link: format!("cali-{container}"),
        addresses: vec![address.parse().expect("an address")],
        ..Endpoint::default()
    };
    for (several, collected) in [(false, vec![attachment("old")]), (true, vec![])] {
        let mut scene = Scene::blank(Recovered::default());
        scene.feed(Input::Found { endpoints: vec![found("old", "10.244.0.7")], at: 0 });
        scene.configure(&[("v4", "10.244.0.0/24")]);
        if several {
            scene.call(Request::Add(AddRequest { network: "storage".to_owned(), ..add("new") }));
        }
        let request = scene.call(Request::Gc(GcRequest { network: "manx".to_owned(), valid: Vec::new() }));
        assert_eq!(scene.reply(request), Some(&Reply::Collected(collected)));
    }
}

#[test]
fn network_and_hardware_address_outlive_a_restart() {
    let mut scene = Scene::new();
    let asked = AddRequest { mac: Some("0a:58:0a:00:00:07".to_owned()), ..add("a") };
    scene.call(Request::Add(asked));
    let scene = Scene::blank(recover(&scene.record));
    let endpoint = scene.node.ipam.endpoints().next().expect("it is on record");
    assert_eq!(endpoint.network.as_deref(), Some("manx"));
    assert_eq!(endpoint.mac.as_deref(), Some("0a:58:0a:00:00:07"));
}

#[test]
fn a_node_that_has_read_nothing_yet_cannot_take_pods_and_says_why() {
    let mut scene = Scene::blank(Recovered::default());
    let request = scene.call(Request::Status);
    let Some(Reply::Error(error)) = scene.reply(request) else { panic!("refused") };
    assert_eq!((error.code, error.details.contains("has not been read yet")), (50, true));
    scene.configure(&[("v4", "10.244.0.0/24")]);
    let request = scene.call(Request::Status);
    assert_eq!(scene.reply(request), Some(&Reply::Ready));
}

#[test]
fn both_families_are_given_when_there_are_pools_of_both() {
    let mut scene = Scene::blank(Recovered::default());
    scene.configure(&[("v4", "10.244.0.0/24"), ("v6", "fd00:10:244::/112")]);
    let addresses = scene.assigned("a").addresses;
    assert_eq!(addresses.iter().map(IpAddr::is_ipv4).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn a_pod_that_finds_no_pool_is_told_so_by_an_event() {
    let mut scene = Scene::blank(Recovered::default());
    scene.configure(&[]);
    let Reply::Error(error) = scene.add("a") else { panic!("refused") };
    assert_eq!(error.code, Code::NO_ADDRESS.0);
    assert!(
        scene.seen.iter().any(|output| matches!(output, Output::PodEvent { pod, .. } if pod.name == "a"))
    );
}

#[test]
fn endpoints_and_announcements_are_there_at_once_after_a_restart() {
    let mut scene = Scene::new();
    let assignment = scene.assigned("a");
    let mut scene = scene.restarted();
    let routes = scene.position(|output| matches!(output, Output::Routes(routes) if routes.len() >= 2));
    let origins = scene.position(|output| matches!(output, Output::Origins(origins) if !origins.is_empty()));
    assert!(routes.max(origins) < scene.seen.len());
    assert_eq!(scene.assigned("a").addresses, assignment.addresses);
}

#[test]
fn an_endpoint_whose_link_vanished_while_nobody_looked_is_freed_after_a_restart() {
    let mut scene = Scene::new();
    scene.assigned("a");
    scene.assigned("b");
    let mut scene = scene.restarted();
    let found = Endpoint { id: id("a"), link: "cali-a".to_owned(), ..Endpoint::default() };
    scene.feed(Input::Found { endpoints: vec![found], at: 1_000 + LINK_GRACE + 1 });
    let known =
        |scene: &Scene| scene.node.ipam.endpoints().map(|endpoint| endpoint.id.clone()).collect::<Vec<_>>();
    assert_eq!(known(&scene), [id("a")]);
}

#[test]
fn an_endpoint_whose_link_the_plugin_may_just_be_making_is_kept() {
    let mut scene = Scene::new();
    scene.assigned("a");
    let mut scene = scene.restarted();
    scene.feed(Input::Found { endpoints: vec![], at: 1_001 });
    assert_eq!(scene.node.ipam.endpoints().count(), 1);
}

#[test]
fn an_endpoint_whose_plugin_made_no_link_within_its_time_is_freed_without_another_restart() {
    let left = |linked: &[&str], again: bool| {
        let mut scene = Scene::new();
        scene.assigned("a");
        let mut scene = scene.restarted();
        scene.feed(Input::Found { endpoints: vec![], at: 1_001 });
        scene.configure(&[("v4", "10.244.0.0/24")]);
        if again {
            scene.assigned("a");
        }
        scene.now += Duration::from_secs(LINK_GRACE + 1);
        scene.feed(Input::Timeout);
        scene.position(|output| matches!(output, Output::Look));
        scene.feed(Input::Linked(linked.iter().map(|name| id(name)).collect()));
        scene.node.ipam.endpoints().count()
    };
    assert_eq!(left(&[], false), 0, "its end was never recorded");
    assert_eq!(left(&["a"], false), 1, "its plugin made the link meanwhile");
    assert_eq!(left(&[], true), 1, "another plugin may be making it");
}

#[test]
fn what_the_wall_clock_says_neither_frees_an_endpoint_nor_keeps_one() {
    let begin = Duration::from_secs(5_000);
    let mut scene = Scene::blank(Recovered { uptime: begin, ..Recovered::default() });
    scene.configure(&[("v4", "10.244.0.0/24")]);
    scene.assigned("a");
    let left = |later: u64, at: u64| {
        let uptime = begin + Duration::from_secs(later);
        let mut scene = Scene::blank(Recovered { uptime, ..recover(&scene.record) });
        scene.feed(Input::Found { endpoints: vec![], at });
        scene.node.ipam.endpoints().count()
    };
    for at in [0, 1_000, 1_000_000_000] {
        assert_eq!(left(5, at), 1, "its plugin may be about to make the link, at {at}");
        assert_eq!(left(LINK_GRACE + 2, at), 0, "its plugin has ended long ago, at {at}");
    }
}

#[test]
fn a_link_that_the_record_lacks_is_taken_over_with_its_addresses() {
    let mut scene = Scene::blank(Recovered::default());
    let address = "10.244.0.7".parse().expect("an address");
    let found = Endpoint {
        id: id("old"),
        link: "cali-old".to_owned(),
        addresses: vec![address],
        ..Endpoint::default()
    };
    scene.feed(Input::Found { endpoints: vec![found], at: 0 });
    scene.owners.insert("10.244.0.0/26".parse().expect("a block"), NODE.into());
    scene.configure(&[("v4", "10.244.0.0/24")]);
    let request = scene.call(Request::Check(attachment("old")));
    let Some(Reply::Known(Some(known))) = scene.reply(request) else { panic!("known") };
    assert_eq!(known.addresses, [address]);
}

#[test]
fn a_tombstone_is_removed_only_after_the_record_says_that_the_endpoint_is_over() {
    let mut scene = Scene::new();
    scene.assigned("a");
    let mut scene = scene.restarted();
    scene.seen.clear();
    scene.feed(Input::Ended(del("a")));
    let recorded = scene.position(|output| matches!(output, Output::Record(_) | Output::Rewrite(_)));
    let buried = scene.position(|output| *output == Output::Buried(attachment("a")));
    assert!(recorded < buried);
    assert_eq!(scene.node.ipam.endpoints().count(), 0);
}

#[test]
fn a_link_of_an_attachment_with_a_tombstone_is_not_taken_over() {
    let mut scene = Scene::blank(Recovered::default());
    let found = Endpoint {
        id: id("dead"),
        link: "cali-dead".to_owned(),
        addresses: vec!["10.244.0.7".parse().expect("an address")],
        ..Endpoint::default()
    };
    scene.feed(Input::Ended(del("dead")));
    scene.feed(Input::Found { endpoints: vec![found], at: 0 });
    assert_eq!(scene.node.ipam.endpoints().count(), 0);
}

#[test]
fn a_full_cluster_is_an_obstacle_as_soon_as_no_address_is_free() {
    let mut scene = Scene::new();
    scene.granting = false;
    scene.feed(Input::Blocks(Arc::new(scene.owners.clone())));
    while let Reply::Assigned(_) = scene.add(&format!("pod{}", scene.next)) {
        assert!(scene.next < 300, "the pool has 256 addresses");
    }
    scene.now += Duration::from_secs(60);
    scene.feed(Input::Timeout);
    assert!(
        scene.node.obstacles().iter().any(|text| text.contains("no IPv4 address is free")),
        "{:?}",
        scene.node.obstacles()
    );
    let request = scene.call(Request::Status);
    assert!(matches!(scene.reply(request), Some(Reply::Error(error)) if error.code == 50));
}

#[test]
fn figures_that_change_by_the_word_of_the_cluster_are_shown() {
    let mut scene = Scene::new();
    scene.assigned("a");
    let mut scene = scene.restarted();
    scene.configure(&[("v4", "10.244.0.0/24")]);
    assert_eq!(scene.shown, scene.node.usage());
    assert!(scene.shown.pools[0].free > 0, "the block is known to be this node's: {:?}", scene.shown);
}

#[test]
fn figures_that_change_by_time_are_shown() {
    let mut scene = Scene::new();
    scene.assigned("a");
    scene.feed(Input::Blocks(Arc::new(scene.owners.clone())));
    scene.call(Request::Del(del("a")));
    scene.feed(Input::LinkGone { id: id("a") });
    assert_eq!((scene.shown.pools[0].used, scene.shown.pools[0].resting), (0, 1));
    scene.now += Limits::default().cooldown;
    scene.feed(Input::Timeout);
    assert_eq!(scene.shown, scene.node.usage());
    assert_eq!(scene.shown.pools[0].resting, 0, "it has rested");
}
