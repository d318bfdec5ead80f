//! What `manxctl` tells an operator who has only the roles that ship, on a healthy cluster and on one with something broken.

use std::path::PathBuf;

use anyhow::{Context, Result};
use manx_tests::kubernetes::{Cluster, Family};
use serde_json::{Value, json};

use super::told::Manxctl;
use super::world::{World, pod};
use super::{Scenario, shared};

/// The scenarios of this module.
pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("an_operator_has_a_pod_a_block_and_addresses_explained_and_what_is_wrong_named", explained),
    ("who_may_only_view_is_told_which_role_asking_nodes_takes", viewer),
];

/// Somebody who looks, with a kubeconfig of their own.
pub(crate) struct Person<'a> {
    cluster: &'a Cluster,
    /// Of the account alone, and of nothing of Manx.
    namespace: String,
    kubeconfig: PathBuf,
    pub(crate) manxctl: Manxctl<'a>,
}

impl<'a> Person<'a> {
    /// Makes an account bound to these roles of deploy/access.
    pub(crate) fn new(cluster: &'a Cluster, name: &str, operator: bool) -> Result<Self> {
        let namespace = format!("person-{name}");
        cluster.apply(include_str!("../../../deploy/access/roles.yaml"))?;
        cluster.apply(
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": &namespace}}).to_string(),
        )?;
        let subject = json!([{"kind": "ServiceAccount", "name": name, "namespace": &namespace}]);
        let group = "rbac.authorization.k8s.io";
        let mut objects = vec![
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": &namespace}}),
            json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding",
                   "metadata": {"name": format!("{name}-views")}, "subjects": subject,
                   "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "manx-viewer"}}),
        ];
        let roles = if operator { &["manx-viewer", "manx-operator"][..] } else { &["manx-viewer"] };
        objects.extend(roles.iter().map(|role| {
            json!({"apiVersion": format!("{group}/v1"), "kind": "RoleBinding",
                   "metadata": {"name": format!("{name}-{role}"), "namespace": "manx-system"}, "subjects": subject,
                   "roleRef": {"apiGroup": group, "kind": "Role", "name": role}})
        }));
        cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
        let token = cluster.kubectl(&["-n", &namespace, "create", "token", name])?;
        let mut config: Value = serde_json::from_str(&cluster.kubectl(&[
            "config",
            "view",
            "--raw",
            "--flatten",
            "-o",
            "json",
        ])?)?;
        for user in config["users"].as_array_mut().context("users")? {
            user["user"] = json!({"token": token.trim()});
        }
        let kubeconfig = cluster.dir().join(format!("{name}.kubeconfig"));
        std::fs::write(&kubeconfig, config.to_string())?;
        let manxctl = Manxctl::by_owner_of(cluster, kubeconfig.clone());
        Ok(Self { cluster, namespace, kubeconfig, manxctl })
    }
}

impl Drop for Person<'_> {
    fn drop(&mut self) {
        let _kept = std::fs::remove_file(&self.kubeconfig);
        let gone = self.cluster.kubectl(&[
            "delete",
            "namespace",
            &self.namespace,
            "--ignore-not-found",
            "--wait=false",
        ]);
        if let Err(error) = gone {
            eprintln!("the namespace {} could not be removed: {error:#}", self.namespace);
        }
    }
}

fn explained() -> Result<()> {
    let cluster = shared()?;
    let world = World::start(&cluster, "eyes", vec![pod("web", 2, "web", &[])])?;
    let person = Person::new(&cluster, "operator", true)?;
    let manxctl = &person.manxctl;
    let address = world.pod("web")?.address(Family::Ipv4)?.to_string();
    let blocks = cluster.objects("ipblocks.manx.dev")?;
    let block = block_of(&blocks, "node2").context("node2 has a block of IPv4")?;

    let healthy = ["nothing is wrong", "pool ", "block ", "link ", "node2 announces", "node/node1", "node3"];
    manxctl.comes_to_say(&["explain", "eyes/web"], 0, &healthy)?;
    manxctl.comes_to_say(&["explain", "web", "-n", "eyes", "-o", "json"], 0, &["\"findings\": []"])?;
    manxctl.comes_to_say(&["explain", &address], 0, &["it is pod eyes/web"])?;
    manxctl.comes_to_say(&["explain", &block], 0, &["of node node2", "nothing is wrong"])?;
    manxctl.comes_to_say(&["explain", "198.18.99.99"], 1, &["it is in no pool"])?;
    let free = block.split('/').next().unwrap_or_default();
    manxctl.call(&["explain", free])?;
    manxctl.comes_to_say(&["routes", "--node", "node1"], 0, &[&block, "node/node2"])?;
    manxctl.comes_to_say(
        &["routes", "--node", "node1", "--peer", "node2", "in"],
        0,
        &[&block, "accepted by"],
    )?;
    manxctl.comes_to_say(&["bgp"], 0, &["Established", "nothing is wrong"])?;

    wrong_route(&cluster, manxctl, &address)?;
    shut_session(&cluster, manxctl)?;
    without_kubelet(&cluster, manxctl)
}

/// The IPv4 block of a node.
fn block_of(blocks: &[Value], node: &str) -> Option<String> {
    let of_node = blocks.iter().filter(|block| block["spec"]["node"] == node);
    let cidrs = of_node.filter_map(|block| block["spec"]["cidr"].as_str());
    cidrs.filter(|cidr| !cidr.contains(':')).map(str::to_owned).next()
}

/// A route that somebody put in the way is named with how to take it away.
fn wrong_route(cluster: &Cluster, manxctl: &Manxctl<'_>, address: &str) -> Result<()> {
    let node = cluster.node(1);
    let gateway = node.router_address(Family::Ipv4).to_string();
    let to = format!("{address}/32");
    node.run(&["ip", "route", "add", &to, "via", &gateway])?;
    let named = manxctl.comes_to_say(
        &["explain", "eyes/web"],
        1,
        &["node node1: another route is in the way", "ip route del"],
    );
    node.run(&["ip", "route", "del", &to])?;
    named?;
    manxctl.comes_to_say(&["explain", "eyes/web"], 0, &["nothing is wrong"]).map(drop)
}

/// A session that an operator of the router shut is named, with what its last error means.
fn shut_session(cluster: &Cluster, manxctl: &Manxctl<'_>) -> Result<()> {
    let router = cluster.router();
    router.birdc(&["disable", "node2", "\"moving racks\""])?;
    let session = manxctl.comes_to_say(
        &["bgp", "--node", "node2"],
        1,
        &["Cease/Administrative Shutdown", "moving racks", "an operator shut the session down on the peer"],
    );
    let chain =
        manxctl.comes_to_say(&["explain", "eyes/web"], 1, &["not to peer/tor-node2: no session is up"]);
    router.birdc(&["enable", "node2"])?;
    session.and(chain)?;
    manxctl.comes_to_say(&["explain", "eyes/web"], 0, &["nothing is wrong"]).map(drop)
}

/// A node whose kubelet is away is named, and the others are told.
fn without_kubelet(cluster: &Cluster, manxctl: &Manxctl<'_>) -> Result<()> {
    let node = cluster.node(3);
    node.stop_kubelet()?;
    let told = manxctl.comes_to_say(&["explain", "eyes/web"], 1, &["node node3: it is away", "node/node2"]);
    node.start_kubelet()?;
    told?;
    manxctl.comes_to_say(&["explain", "eyes/web"], 0, &["nothing is wrong"]).map(drop)
}

fn viewer() -> Result<()> {
    let cluster = shared()?;
    let person = Person::new(&cluster, "viewer", false)?;
    person.manxctl.comes_to_say(&["bgp"], 0, &["Established"])?;
    person.manxctl.says(&["routes"], 2, &["manx-operator"]).map(drop)
}
