//! Reads what checks look at: nodes, pools, peers, networks of Services and of others.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use ipnetwork::IpNetwork;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Service};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, PostParams};
use manx_api::{BGPConfiguration, BGPPeer, IPPool};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::{Cluster, Facts, Seen};

/// What `kubectl apply` of the one file makes, the first pools included.
const SHIPPED: &str = include_str!("../../../deploy/manx.yaml");
/// Pods of other networks: a part of their DaemonSet's name, and whose it is.
const NETWORKS: [(&str, &str); 9] = [
    ("calico-node", "Calico"),
    ("canal", "Calico"),
    ("flannel", "flannel"),
    ("cilium", "Cilium"),
    ("weave-net", "Weave Net"),
    ("antrea-agent", "Antrea"),
    ("kube-router", "kube-router"),
    ("ovnkube-node", "OVN-Kubernetes"),
    ("kindnet", "kindnet"),
];
/// The words of the API server before the range of Services' addresses.
const RANGE_IS: &str = "valid IPs is ";

/// Reads the cluster; what may not be read is said, and nothing else goes missing for it.
///
/// # Errors
/// When not even the nodes can be read, or a file of objects is wrong.
pub(crate) async fn read(client: &kube::Client, objects: Option<&Path>) -> Result<Facts> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await;
    let nodes = nodes.context("cannot list the nodes")?;
    let mut cluster = Cluster { asked: true, ..Cluster::default() };
    match client.apiserver_version().await {
        Ok(version) => cluster.version = version.git_version,
        Err(error) => cluster.refused.push(format!("its version was not told: {error}")),
    }
    match Api::<DaemonSet>::all(client.clone()).list(&ListParams::default()).await {
        Ok(sets) => cluster.networks = sets.items.iter().filter_map(network).collect(),
        Err(error) => cluster.refused.push(format!("DaemonSets of other networks cannot be listed: {error}")),
    }
    for probe in ["192.0.2.1", "2001:db8::1"] {
        match services(client, probe).await {
            Ok(network) => cluster.services.extend(network),
            Err(error) => cluster.refused.push(format!("the network of Services was not told: {error}")),
        }
    }
    add_objects(client, objects, &mut cluster).await?;
    let nodes = nodes.items.iter().map(|node| (node.name_any(), seen(node))).collect();
    Ok(Facts { nodes, cluster, ..Facts::default() })
}

/// The name of the network to which a DaemonSet belongs, if it is one that is known, and what to call the DaemonSet.
fn network(set: &DaemonSet) -> Option<(String, String)> {
    let name = set.name_any();
    let (_, network) = NETWORKS.iter().find(|(part, _)| name.contains(part))?;
    Some(((*network).to_owned(), format!("DaemonSet {}/{name}", set.namespace().unwrap_or_default())))
}

fn seen(node: &Node) -> Seen {
    let status = node.status.clone().unwrap_or_default();
    let addresses = status.addresses.iter().flatten().filter(|address| address.type_ == "InternalIP");
    let spec = node.spec.clone().unwrap_or_default();
    Seen {
        addresses: addresses.filter_map(|address| address.address.parse().ok()).collect(),
        labels: node.labels().clone(),
        pod_cidrs: spec.pod_cidrs.iter().flatten().filter_map(|cidr| cidr.parse().ok()).collect(),
        kubelet: status.node_info.map(|info| info.kubelet_version).unwrap_or_default(),
        ..Seen::default()
    }
}

/// The network of Services' addresses of a family. Nobody tells it but in the words of a refusal: a Service with an
/// address outside of it is asked for, and would not be made if it were granted.
async fn services(client: &kube::Client, outside: &str) -> Result<Option<IpNetwork>> {
    let family = if outside.contains(':') { "IPv6" } else { "IPv4" };
    let service: Service = serde_json::from_value(json!({
        "metadata": {"generateName": "manx-check-"},
        "spec": {"clusterIP": outside, "ipFamilies": [family], "ports": [{"port": 1}]},
    }))?;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let asked = Api::<Service>::default_namespaced(client.clone()).create(&dry, &service).await;
    match asked {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if status.code == 422 => Ok(range(&status.message)),
        Err(error) => Err(error.into()),
    }
}

/// The network in the words of the API server.
fn range(words: &str) -> Option<IpNetwork> {
    let (_, after) = words.split_once(RANGE_IS)?;
    after.split([' ', ',', ';']).next()?.trim_end_matches('.').parse().ok()
}

/// Pools and peers: those of a file; else those that there are; else those that the one file makes.
async fn add_objects(client: &kube::Client, file: Option<&Path>, cluster: &mut Cluster) -> Result<()> {
    if let Some(path) = file {
        return from_file(path, cluster);
    }
    let there = Api::<IPPool>::all(client.clone()).list(&ListParams::default()).await;
    match there {
        Ok(pools) if !pools.items.is_empty() => {
            cluster.pools = pools.items;
            let peers = Api::<BGPPeer>::all(client.clone()).list(&ListParams::default()).await;
            cluster.peers = peers.map(|peers| peers.items).unwrap_or_default();
            let found = Api::<BGPConfiguration>::all(client.clone()).get_opt("default").await;
            cluster.configuration = found.ok().flatten();
            Ok(())
        }
        _ => shipped(cluster),
    }
}

/// Pools and peers of a file.
pub(crate) fn from_file(path: &Path, cluster: &mut Cluster) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    take(&text, cluster).with_context(|| path.display().to_string())
}

/// What the one file makes.
pub(crate) fn shipped(cluster: &mut Cluster) -> Result<()> {
    take(SHIPPED, cluster).context("deploy/manx.yaml")
}

/// Takes pools, peers and the configuration out of a text of several objects, those inside of Lists and of the
/// ConfigMap `manx-defaults` included.
fn take(text: &str, cluster: &mut Cluster) -> Result<()> {
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let object = Value::deserialize(document).context("this is no YAML")?;
        take_object(object, cluster)?;
    }
    Ok(())
}

fn take_object(object: Value, cluster: &mut Cluster) -> Result<()> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let wrong = || format!("{kind} {name}");
    match &*kind {
        "IPPool" => cluster.pools.push(serde_json::from_value(object).with_context(wrong)?),
        "BGPPeer" => cluster.peers.push(serde_json::from_value(object).with_context(wrong)?),
        "BGPConfiguration" => {
            cluster.configuration = Some(serde_json::from_value(object).with_context(wrong)?)
        }
        "List" => {
            for item in object["items"].as_array().into_iter().flatten() {
                take_object(item.clone(), cluster)?;
            }
        }
        "ConfigMap" if name == "manx-defaults" => {
            let data: BTreeMap<String, String> =
                serde_json::from_value(object["data"].clone()).with_context(wrong)?;
            for text in data.values() {
                take(text, cluster).with_context(wrong)?;
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pools_of_the_one_file_are_known() {
        let mut cluster = Cluster::default();
        shipped(&mut cluster).expect("read");
        let pools: Vec<String> = cluster.pools.iter().map(|pool| pool.spec.cidr.to_string()).collect();
        assert_eq!(pools, ["10.244.0.0/16"]);
    }

    #[test]
    fn objects_are_taken_out_of_lists_and_a_fault_names_the_object() {
        let mut cluster = Cluster::default();
        let text = "apiVersion: v1\nkind: List\nitems:\n- {kind: IPPool, metadata: {name: a}, spec: {cidr: 10.0.0.0/8}}\n\
                    ---\n---\nkind: Secret\n";
        take(text, &mut cluster).expect("read");
        assert_eq!(cluster.pools.len(), 1);
        let error = take("kind: IPPool\nmetadata: {name: b}\nspec: {cidr: 10.0.0.1/8}\n", &mut cluster);
        let words = format!("{:#}", error.expect_err("host bits"));
        assert!(words.starts_with("IPPool b: ") && words.contains("host bits"), "{words}");
    }

    #[test]
    fn the_network_of_services_is_in_the_words_of_the_refusal() {
        for words in [
            "Service \"x\" is invalid: spec.clusterIPs: Invalid value: []string{\"192.0.2.1\"}: failed to allocate IP \
             192.0.2.1: the provided IP (192.0.2.1) is not in the valid range. The range of valid IPs is 10.96.0.0/16",
            "the provided network does not match. The range of valid IPs is 10.96.0.0/16.",
        ] {
            assert_eq!(range(words), Some("10.96.0.0/16".parse().expect("a network")));
        }
        assert_eq!(range("ipFamilies[0]: not configured on this cluster"), None);
    }
}
