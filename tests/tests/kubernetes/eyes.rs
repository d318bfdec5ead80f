//! What `manxctl` tells an operator who has only the roles that ship, on a healthy cluster and on one with something broken.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manx_tests::kubernetes::{Cluster, Family};
use manx_tests::lab::wait;
use serde_json::{Value, json};

use super::world::{World, pod};
use super::{Scenario, shared};

/// The scenarios of this module.
pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("an_operator_has_a_pod_a_block_and_addresses_explained_and_what_is_wrong_named", explained),
    ("who_may_only_view_is_told_which_role_asking_nodes_takes", viewer),
];

const PATIENCE: Duration = Duration::from_secs(60);

/// Somebody who looks, with a kubeconfig of their own.
struct Person<'a> {
    cluster: &'a Cluster,
    /// Of the account alone, and of nothing of Manx.
    namespace: String,
    kubeconfig: PathBuf,
}

/// What a command printed, and its exit status.
#[derive(Debug)]
struct Told {
    text: String,
    code: Option<i32>,
}

impl Told {
    /// All of these are in the text, and this is the exit status.
    fn says(&self, code: i32, parts: &[&str]) -> Result<&Self> {
        for part in parts {
            ensure!(self.text.contains(part), "{part:?} is not in\n{}", self.text);
        }
        ensure!(self.code == Some(code), "exit status {:?} in place of {code}:\n{}", self.code, self.text);
        Ok(self)
    }
}

impl<'a> Person<'a> {
    /// Makes an account bound to these roles of deploy/access.
    fn new(cluster: &'a Cluster, name: &str, operator: bool) -> Result<Self> {
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
        Ok(Self { cluster, namespace, kubeconfig })
    }

    fn manxctl(&self, args: &[&str]) -> Result<Told> {
        let mut command = self.cluster.manxctl_command()?;
        // Given a second time, behind the command, it is this one that counts.
        command.args(args).arg("--kubeconfig").arg(&self.kubeconfig);
        let output = command.output().context("cannot run manxctl")?;
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        println!("$ manxctl {}\n{text}", args.join(" "));
        Ok(Told { text, code: output.status.code() })
    }

    /// Asks until the answer is so, since sessions and statuses take their time.
    fn until(&self, args: &[&str], code: i32, parts: &[&str]) -> Result<Told> {
        let mut last = None;
        let outcome = wait::until("manxctl says so", PATIENCE, || {
            let told = self.manxctl(args)?;
            let well = told.says(code, parts).is_ok();
            last = Some(told);
            Ok(well)
        });
        let told = last.context("it never answered")?;
        if outcome.is_err() {
            told.says(code, parts)?;
        }
        Ok(told)
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
    let address = world.pod("web")?.address(Family::Ipv4)?.to_string();
    let blocks = cluster.objects("ipblocks.manx.dev")?;
    let block = block_of(&blocks, "node2").context("node2 has a block of IPv4")?;

    let healthy = ["nothing is wrong", "pool ", "block ", "link ", "node2 announces", "node/node1", "node3"];
    person.until(&["explain", "eyes/web"], 0, &healthy)?;
    person.until(&["explain", "web", "-n", "eyes", "-o", "json"], 0, &["\"findings\": []"])?;
    person.until(&["explain", &address], 0, &["it is pod eyes/web"])?;
    person.until(&["explain", &block], 0, &["of node node2", "nothing is wrong"])?;
    person.until(&["explain", "198.18.99.99"], 1, &["it is in no pool"])?;
    let free = block.split('/').next().unwrap_or_default();
    person.manxctl(&["explain", free])?;
    person.until(&["routes", "--node", "node1"], 0, &[&block, "node/node2"])?;
    person.until(&["routes", "--node", "node1", "--peer", "node2", "in"], 0, &[&block, "accepted by"])?;
    person.until(&["bgp"], 0, &["Established", "nothing is wrong"])?;

    wrong_route(&cluster, &person, &address)?;
    shut_session(&cluster, &person)?;
    without_kubelet(&cluster, &person)
}

/// The IPv4 block of a node.
fn block_of(blocks: &[Value], node: &str) -> Option<String> {
    let of_node = blocks.iter().filter(|block| block["spec"]["node"] == node);
    let cidrs = of_node.filter_map(|block| block["spec"]["cidr"].as_str());
    cidrs.filter(|cidr| !cidr.contains(':')).map(str::to_owned).next()
}

/// A route that somebody put in the way is named with how to take it away.
fn wrong_route(cluster: &Cluster, person: &Person<'_>, address: &str) -> Result<()> {
    let node = cluster.node(1);
    let gateway = node.router_address(Family::Ipv4).to_string();
    let to = format!("{address}/32");
    node.run(&["ip", "route", "add", &to, "via", &gateway])?;
    let named = person.until(
        &["explain", "eyes/web"],
        1,
        &["node node1: another route is in the way", "ip route del"],
    );
    node.run(&["ip", "route", "del", &to])?;
    named?;
    person.until(&["explain", "eyes/web"], 0, &["nothing is wrong"]).map(drop)
}

/// A session that an operator of the router shut is named, with what its last error means.
fn shut_session(cluster: &Cluster, person: &Person<'_>) -> Result<()> {
    let router = cluster.router();
    router.birdc(&["disable", "node2", "\"moving racks\""])?;
    let session = person.until(
        &["bgp", "--node", "node2"],
        1,
        &["Cease/Administrative Shutdown", "moving racks", "an operator shut the session down on the peer"],
    );
    let chain = person.until(&["explain", "eyes/web"], 1, &["not to peer/tor-node2: no session is up"]);
    router.birdc(&["enable", "node2"])?;
    session.and(chain)?;
    person.until(&["explain", "eyes/web"], 0, &["nothing is wrong"]).map(drop)
}

/// A node whose kubelet is away is named, and the others are told.
fn without_kubelet(cluster: &Cluster, person: &Person<'_>) -> Result<()> {
    let node = cluster.node(3);
    node.stop_kubelet()?;
    let told = person.until(&["explain", "eyes/web"], 1, &["node node3: it is away", "node/node2"]);
    node.start_kubelet()?;
    told?;
    person.until(&["explain", "eyes/web"], 0, &["nothing is wrong"]).map(drop)
}

fn viewer() -> Result<()> {
    let cluster = shared()?;
    let person = Person::new(&cluster, "viewer", false)?;
    person.until(&["bgp"], 0, &["Established"])?;
    person.manxctl(&["routes"])?.says(2, &["manx-operator"]).map(drop)
}
