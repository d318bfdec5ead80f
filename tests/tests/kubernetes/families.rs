//! Clusters of one family, and pools that kube-proxy was not told of.

use std::net::SocketAddr;

use anyhow::Result;
use manx_tests::kubernetes::{Cluster, Families, LocalMode, Options, Proxy};
use manx_tests::lab::wait;
use serde_json::json;

use super::places::{BOTH, LINES, Place};
use super::tables::{Expect, Seen, Table, by};
use super::traffic::sizes;
use super::world::{World, backend, pod, service};
use super::{Scenario, drop_shared, options, shared};

/// The scenarios of this module that run on the shared cluster.
pub(crate) const SHARED: &[(&str, Scenario)] =
    &[("a_service_sees_pods_of_any_pool_when_kube_proxy_goes_by_links", any_pool)];

/// The scenarios of this module with clusters of their own.
pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("a_cluster_of_ipv4_alone_has_pods_and_services", || alone(Families::Ipv4, Proxy::Nftables)),
    ("a_cluster_of_ipv6_alone_has_pods_and_services", || alone(Families::Ipv6, Proxy::Iptables)),
];

fn alone(families: Families, proxy: Proxy) -> Result<()> {
    drop_shared();
    let cluster = Cluster::up(&Options { nodes: 2, families, proxy, ..options("f") })?;
    cluster.install_and_wait()?;
    cluster.peer_with_router()?;
    let local = json!({"type": "NodePort", "externalTrafficPolicy": "Local"});
    let objects = vec![
        // The same names of ports, but other numbers.
        backend("a1", 1, "web", LINES),
        pod("b1", 1, "client", &[]),
        backend("a2", 2, "web", 9081),
        pod("b2", 2, "client", &[]),
        service("both", "web", &json!({"type": "NodePort"})),
        service("local", "web", &local),
        service("none", "nothing", &json!({})),
    ];
    let world = World::start(&cluster, "families", objects)?;
    let mut table = Table::default();
    let family = families.primary();
    let outside = Place::outside(&cluster);
    let node = Place::node(&cluster, 2);
    for how in BOTH {
        for from in [world.pod("b1")?, world.pod("b2")?] {
            let to = world.service("both")?.cluster(family)?;
            table.row("cluster address", from, how, to, by(&["a1", "a2"], Seen::Own));
            let to = world.service("none")?.cluster(family)?;
            table.row("no backends", from, how, to, Expect::Refused);
        }
        let to = world.service("both")?.cluster(family)?;
        table.row(
            "a pod asks its own Service",
            world.pod("a1")?,
            how,
            to,
            by(&["a1", "a2"], Seen::Hairpin(1)),
        );
        table.row("cluster address", &node, how, to, by(&["a1", "a2"], Seen::Node(2)));
        for number in [1, 2] {
            let node = cluster.node(number).address(family);
            let both = SocketAddr::new(node, world.service("both")?.node_port(how)?);
            table.row("node port, Cluster", &outside, how, both, by(&["a1", "a2"], Seen::Node(number)));
            let local = SocketAddr::new(node, world.service("local")?.node_port(how)?);
            table.row("node port, Local", &outside, how, local, by(&[&format!("a{number}")], Seen::Own));
        }
    }
    sizes(&mut table, &world, family)?;
    table.finish(&cluster)
}

/// A pool besides those that kube-proxy knows as the cluster's range.
const OTHER: &str = r#"{"apiVersion": "manx.dev/v1alpha1", "kind": "IPPool", "metadata": {"name": "other"},
                        "spec": {"cidr": "10.250.0.0/24", "blockSize": 28, "assignmentMode": "Manual"}}"#;

/// The pool `other`; it goes when this is dropped.
struct Other<'a>(&'a Cluster);

impl Drop for Other<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.kubectl(&["delete", "ippool.manx.dev", "other", "--timeout=30s"]) {
            eprintln!("the pool stays: {error:#}");
        }
    }
}

/// A pod whose address is outside the cluster's range is taken for a stranger by a kube-proxy that goes by addresses:
/// its address is hidden, and a Service with the policy Local does not answer it. By links it is right.
fn any_pool() -> Result<()> {
    let cluster = shared()?;
    cluster.apply(OTHER)?;
    let _other = Other(&cluster);
    let mut client = pod("client", 3, "client", &[]);
    client["metadata"]["annotations"] = json!({"manx.dev/ipv4pools": "other", "manx.dev/ipFamilies": "ipv4"});
    let objects = vec![
        backend("web", 1, "web", LINES),
        client,
        service("inside", "web", &json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]})),
    ];
    let world = World::start(&cluster, "pools", objects)?;
    let node = cluster.node(3);
    let to = world.service("inside")?.cluster(cluster.families().primary())?;
    let mut table = Table::default();
    for (proxy, local, seen) in [
        (Proxy::Iptables, LocalMode::ClusterCidr, Seen::Node(3)),
        (Proxy::Iptables, LocalMode::Links, Seen::Own),
    ] {
        node.set_proxy_and_local(proxy, local)?;
        wait::until("the Service answers", std::time::Duration::from_secs(20), || {
            Ok(matches!(world.pod("client")?.ask(BOTH[0], to), super::places::Reply::Answer { .. }))
        })?;
        for how in BOTH {
            table.row(&format!("{local:?}"), world.pod("client")?, how, to, by(&["web"], seen));
        }
        table.run(&cluster);
    }
    node.set_proxy(Proxy::Nftables)?;
    table.finish(&cluster)
}
