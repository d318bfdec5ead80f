//! The roles that ship are those that are needed: everything runs under exactly them, nothing is refused, and no grant
//! is without use.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manx_tests::kubernetes::audit::{self, Grant, Tally};
use manx_tests::kubernetes::{Cluster, Family};
use manx_tests::lab::wait;
use serde_json::{Value, json};

use super::{Scenario, nodes, shared};

/// The scenarios of this module; it goes last, for it judges what all others asked of API servers.
pub(crate) const SCENARIOS: &[(&str, Scenario)] =
    &[("nothing_that_is_asked_for_is_refused_and_no_grant_of_the_roles_is_unused", proof)];

/// How long one of the actions may take to show.
const PATIENCE: Duration = Duration::from_secs(60);

/// Grants that only a lost race uses, with the reason why they stay: account, verb, resource.
const RACES: [(&str, &str, &str, &str); 1] = [(
    "manx-agent",
    "get",
    "ipclaims",
    "reads a claim again that somebody else wrote between its own reading and writing",
)];

/// Does something that uses grants, and undoes it.
type Action = fn(&Cluster) -> Result<()>;

/// What uses all grants together. Each is done only while grants are unused that the scenarios before left so.
const ACTIONS: [(&str, Action, &[&str]); 8] = [
    ("objects to begin with", defaults, &["bgppeers", "bgpfilters", "bgpconfigurations", "configmaps"]),
    ("peers, filters, passwords", peers, &["secrets", "bgppeers", "bgpfilters", "bgpconfigurations"]),
    ("a pool that fills up, twice, and goes", full_pool, &["ippools", "ipblocks", "events"]),
    ("claims", claims, &["ipclaims"]),
    ("a pod that the API server does not have", unknown_pod, &["pods", "namespaces"]),
    ("a node that waits for its agent", taint, &["nodes"]),
    ("a controller that ends", failover, &["leases"]),
    ("a node that is gone for good", gone_node, &["nodes", "nodenetworks", "leases", "ipclaims", "ipblocks"]),
];

fn proof() -> Result<()> {
    let cluster = shared()?;
    let grants = audit::grants(&cluster)?;
    ensure!(grants.len() > 40, "the roles of Manx were not found: {grants:?}");
    for (what, action, resources) in ACTIONS {
        let unused = unused(&grants, &audit::tally(&cluster)?);
        let concerned = |grant: &&Grant| resources.contains(&plain(&grant.resource));
        if unused.iter().any(|grant| concerned(&grant)) {
            action(&cluster).with_context(|| format!("while trying {what}"))?;
        }
    }
    // The last answers are on their way to the log.
    let complete = || Ok(unused(&grants, &audit::tally(&cluster)?).is_empty());
    let outcome = wait::until("every grant is used", Duration::from_secs(5), complete);
    let tally = audit::tally(&cluster)?;
    print!("{}", table(&grants, &tally));
    let refused: Vec<String> = tally
        .iter()
        .filter(|(request, _)| request.forbidden)
        .map(|(request, count)| format!("{request} ({count} times)"))
        .collect();
    ensure!(refused.is_empty(), "refused by RBAC:\n{}", refused.join("\n"));
    outcome.with_context(|| format!("unused grants:\n{}", lines(&unused(&grants, &tally))))
}

/// A resource without its subresource.
fn plain(resource: &str) -> &str {
    resource.split('/').next().unwrap_or(resource)
}

fn reason(grant: &Grant) -> Option<&'static str> {
    let of = |(account, verb, resource, _): &&(&str, &str, &str, &str)| {
        grant.account == *account && grant.verb == *verb && grant.resource == *resource
    };
    RACES.iter().find(of).map(|(.., reason)| *reason)
}

fn unused(grants: &BTreeSet<Grant>, tally: &Tally) -> Vec<Grant> {
    let unused = grants.iter().filter(|grant| grant.uses(tally) == 0 && reason(grant).is_none());
    unused.cloned().collect()
}

fn lines(grants: &[Grant]) -> String {
    grants.iter().map(|grant| format!("  {grant}\n")).collect()
}

fn table(grants: &BTreeSet<Grant>, tally: &Tally) -> String {
    let mut text = format!("{:<78} used\n", "granted");
    for grant in grants {
        let uses = grant.uses(tally);
        let kept = if uses == 0 { reason(grant).unwrap_or("UNUSED") } else { "" };
        text.push_str(&format!("{:<78} {uses:>5} {kept}\n", grant.to_string()));
    }
    let others = tally.iter().filter(|(request, _)| !grants.iter().any(|grant| grant.allows(request)));
    for (request, count) in others {
        text.push_str(&format!("{:<78} {count:>5} by a role of Kubernetes' own\n", request.to_string()));
    }
    text
}

fn list(items: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// Objects to begin with that came later: the controller makes them when it starts.
fn defaults(cluster: &Cluster) -> Result<()> {
    let objects = [
        json!({"apiVersion": "manx.dev/v1alpha1", "kind": "BGPFilter", "metadata": {"name": "rbac-first"},
               "spec": {"importV4": [{"name": "nothing", "action": "Reject"}]}}),
        json!({"apiVersion": "manx.dev/v1alpha1", "kind": "BGPPeer", "metadata": {"name": "rbac-first"},
               "spec": {"peerIP": "192.0.2.98", "asNumber": 64998, "filters": ["rbac-first"]}}),
    ];
    let files = objects.map(|object| object.to_string()).join("\n---\n");
    let patch = |text: &Value| {
        let patch = json!({"data": {"rbac.yaml": text}}).to_string();
        cluster.kubectl(&[
            "-n",
            "manx-system",
            "patch",
            "configmap",
            "manx-defaults",
            "--type=merge",
            "-p",
            &patch,
        ])
    };
    patch(&files.into())?;
    // Pods that start have what the ConfigMap says now.
    cluster.kubectl(&["-n", "manx-system", "rollout", "restart", "deployment/manx-controller"])?;
    cluster.wait_rollout(&["-n", "manx-system", "deployment/manx-controller"])?;
    for kind in ["bgppeer", "bgpfilter"] {
        wait::until("the controller made them", PATIENCE, || {
            cluster.object(kind, "rbac-first").map(|_| true)
        })?;
    }
    patch(&Value::Null)?;
    cluster.kubectl(&["delete", "bgppeer/rbac-first", "bgpfilter/rbac-first"]).map(drop)
}

/// A peer that is never there, with a password from a Secret and a filter.
fn peers(cluster: &Cluster) -> Result<()> {
    let mut objects = vec![
        json!({"apiVersion": "v1", "kind": "Secret", "stringData": {"password": "rbac"},
               "metadata": {"name": "rbac-password", "namespace": "manx-system"}}),
        json!({"apiVersion": "manx.dev/v1alpha1", "kind": "BGPFilter", "metadata": {"name": "rbac"},
               "spec": {"importV4": [{"name": "nothing", "action": "Reject"}]}}),
        json!({"apiVersion": "manx.dev/v1alpha1", "kind": "BGPPeer", "metadata": {"name": "rbac"},
               "spec": {"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "node1"}},
                        "peerIP": "192.0.2.99", "asNumber": 64999, "filters": ["rbac"],
                        "passwordSecretRef": {"namespace": "manx-system", "name": "rbac-password",
                                              "key": "password"}}}),
    ];
    let configured =
        cluster.objects("bgpconfigurations")?.iter().any(|it| it["metadata"]["name"] == "default");
    if !configured {
        objects.push(json!({"apiVersion": "manx.dev/v1alpha1", "kind": "BGPConfiguration",
                            "metadata": {"name": "default"}, "spec": {}}));
    }
    cluster.apply(&list(&objects))?;
    for (kind, name) in [("bgppeer", "rbac"), ("bgpfilter", "rbac"), ("bgpconfiguration", "default")] {
        wait::until(&format!("the {kind} has a status"), PATIENCE, || {
            Ok(cluster.object(kind, name)?["status"]["conditions"].is_array())
        })?;
    }
    wait::until("the Secret is watched", PATIENCE, || {
        let tally = audit::tally(cluster)?;
        Ok(tally.keys().any(|request| request.resource == "secrets" && request.verb == "watch"))
    })?;
    if !configured {
        cluster.kubectl(&["delete", "bgpconfiguration", "default"])?;
    }
    cluster.kubectl(&["delete", "bgppeer/rbac", "bgpfilter/rbac"])?;
    cluster.kubectl(&["-n", "manx-system", "delete", "secret", "rbac-password"]).map(drop)
}

/// A Deployment of pods of which each asks for an address of the pool `rbac`, on node1.
fn askers(count: usize) -> Value {
    let mut pods = pods("rbac-askers", &json!({"manx.dev/ipv4pools": "rbac", "manx.dev/ipFamilies": "ipv4"}));
    pods["kind"] = "Deployment".into();
    pods["spec"].as_object_mut().expect("a spec").remove("serviceName");
    pods["spec"]["replicas"] = count.into();
    pods["spec"]["template"]["spec"]["nodeName"] = "node1".into();
    pods
}

/// A set of one pod with these annotations.
fn pods(name: &str, annotations: &Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name, "namespace": "default"},
           "spec": {"replicas": 1, "serviceName": name, "selector": {"matchLabels": {"app": name}},
                    "template": {"metadata": {"labels": {"app": name}, "annotations": annotations},
                                 "spec": {"terminationGracePeriodSeconds": 0,
                                          "containers": [{"name": "main", "image": "registry.k8s.io/pause:3.10"}]}}}})
}

/// How many requests of Manx' accounts there were of this verb and resource.
fn asked(cluster: &Cluster, account: &str, verb: &str, resource: &str) -> Result<usize> {
    let tally = audit::tally(cluster)?;
    let of = |request: &audit::Request| {
        request.account == account && request.verb == verb && request.resource == resource
    };
    Ok(tally.iter().filter(|(request, _)| of(request)).map(|(_, count)| count).sum())
}

/// A pool of four addresses, of which six pods want one each: events tell of it, on pods and on the pool; again when it
/// fills up once more. Then it goes, and is kept until its block is given back.
fn full_pool(cluster: &Cluster) -> Result<()> {
    cluster.apply(
        &json!({"apiVersion": "manx.dev/v1alpha1", "kind": "IPPool", "metadata": {"name": "rbac"},
                "spec": {"cidr": "10.250.0.0/30", "blockSize": 30, "assignmentMode": "Manual"}})
        .to_string(),
    )?;
    let told = |what: &str, account: &'static str, verb: &'static str, more_than: usize| {
        wait::until(what, PATIENCE, || Ok(asked(cluster, account, verb, "events")? > more_than))
    };
    let before = asked(cluster, "manx-controller", "create", "events")?;
    cluster.apply(&askers(6).to_string())?;
    told("the full pool is told of", "manx-controller", "create", before)?;
    told("the pods are told of it", "manx-agent", "create", 0)?;
    let again = asked(cluster, "manx-controller", "patch", "events")?;
    scale(cluster, 0)?;
    wait::until("the pool is free", PATIENCE, || {
        Ok(cluster.object("ippool", "rbac")?["status"]["used"].as_i64().unwrap_or(0) == 0)
    })?;
    scale(cluster, 6)?;
    told("the pool is told of again", "manx-controller", "patch", again)?;
    told("more tries of pods are counted", "manx-agent", "patch", 0)?;
    cluster.kubectl(&["delete", "deployment", "rbac-askers"])?;
    cluster.kubectl(&["delete", "ippool", "rbac", "--timeout=60s"]).map(drop)
}

fn scale(cluster: &Cluster, count: usize) -> Result<()> {
    cluster.kubectl(&["scale", "deployment/rbac-askers", &format!("--replicas={count}")]).map(drop)
}

/// A claim that an agent makes, and one made ahead to which it adds the other family; both are deleted.
fn claims(cluster: &Cluster) -> Result<()> {
    let pools = cluster.objects("ippools")?;
    let pool = pools.iter().filter_map(|pool| pool["spec"]["cidr"].as_str());
    let v4 = pool.into_iter().find(|cidr| !cidr.contains(':')).context("no IPv4 pool")?;
    let ahead = v4.split('/').next().unwrap_or_default().replace(".0.0", ".251.7");
    let sticky = json!({"manx.dev/sticky": "true"});
    // One family was listed ahead, the pod gets the other one too.
    cluster.apply(&list(&[
        json!({"apiVersion": "manx.dev/v1alpha1", "kind": "IPPool", "metadata": {"name": "rbac-v6"},
               "spec": {"cidr": "fd00:10:250::/64"}}),
        json!({"apiVersion": "manx.dev/v1alpha1", "kind": "IPClaim", "spec": {"addresses": [ahead]},
               "metadata": {"name": "rbac-ahead-0", "namespace": "default"}}),
        pods("rbac-ahead", &sticky),
        pods("rbac-sticky", &sticky),
    ]))?;
    for set in ["statefulset/rbac-ahead", "statefulset/rbac-sticky"] {
        cluster.wait_rollout(&[set])?;
    }
    cluster.kubectl(&["delete", "statefulset", "rbac-ahead", "rbac-sticky"])?;
    cluster.kubectl(&["delete", "ipclaims", "--all", "--wait=false"])?;
    wait::until("the claims are gone", PATIENCE, || Ok(cluster.objects("ipclaims")?.is_empty()))?;
    cluster.kubectl(&["delete", "ippool", "rbac-v6", "--timeout=60s"]).map(drop)
}

/// A call of the plugin for a pod that is not there: the agent looks it up.
fn unknown_pod(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(1);
    let call = |verb: &str| -> Result<()> {
        let mut command = node.command("sh");
        command.args(["-c", "exec /opt/cni/bin/manx-cni </run/rbac.json"]);
        command.envs([
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", "rbac-unknown"),
            ("CNI_NETNS", "/run/netns/rbac"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
            ("CNI_ARGS", "K8S_POD_NAMESPACE=default;K8S_POD_NAME=rbac-unknown;K8S_POD_UID=rbac"),
        ]);
        let output = command.output()?;
        ensure!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stdout));
        Ok(())
    };
    let config = r#"{"cniVersion": "1.0.0", "name": "manx", "type": "manx-cni"}"#;
    node.run(&["sh", "-c", &format!("ip netns add rbac; echo '{config}' >/run/rbac.json")])?;
    let outcome = call("ADD");
    let ended = call("DEL");
    node.run(&["sh", "-c", "ip netns delete rbac; rm /run/rbac.json"])?;
    outcome.and(ended)
}

/// The taint of a node whose agent does not serve yet goes once it does.
fn taint(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["taint", "node", "node1", "manx.dev/agent-not-ready:NoSchedule", "--overwrite"])?;
    nodes::delete_agent(cluster, "node1")?;
    nodes::wait_agents(cluster)?;
    wait::until("the taint is gone", PATIENCE, || {
        let node = cluster.object("node", "node1")?;
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        Ok(taints.iter().all(|taint| taint["key"] != "manx.dev/agent-not-ready"))
    })
}

/// The controller that leads ends, and the other one takes over.
fn failover(cluster: &Cluster) -> Result<()> {
    let leader = || -> Result<String> {
        let lease = cluster.object("lease", "manx-system/manx-controller")?;
        Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
    };
    let first = leader()?;
    cluster.kubectl(&["-n", "manx-system", "delete", "pod", &first])?;
    wait::until("another controller leads", PATIENCE, || {
        Ok(![String::new(), first.clone()].contains(&leader()?))
    })?;
    cluster.wait_rollout(&["-n", "manx-system", "deployment/manx-controller"])
}

/// A node dies with a pod that holds a claim, and its Node is deleted: what it had is free after the grace.
fn gone_node(cluster: &Cluster) -> Result<()> {
    nodes::with_short_grace(cluster, || {
        let name = cluster.nodes().last().context("no nodes")?.name();
        let node = cluster.node_by_name(&name)?;
        let mut sticky = pods("rbac-gone", &json!({"manx.dev/sticky": "true"}));
        sticky["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": name});
        cluster.apply(&sticky.to_string())?;
        cluster.wait_rollout(&["statefulset/rbac-gone"])?;
        node.power_off()?;
        cluster.kubectl(&["delete", "node", &name])?;
        nodes::wait_forgotten(cluster, &name)?;
        node.restart()?;
        cluster.wait_ready()?;
        cluster.kubectl(&["delete", "statefulset", "rbac-gone"])?;
        cluster.kubectl(&["delete", "ipclaims", "--all", "--wait=false"])?;
        nodes::consistent(cluster)?;
        ensure!(cluster.node(1).address(Family::Ipv4).is_ipv4());
        Ok(())
    })
}
