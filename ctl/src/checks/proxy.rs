//! What kube-proxy takes for pods, and what of that goes wrong on Manx (docs/services.md).

use ipnetwork::IpNetwork;
use kube::ResourceExt as _;
use manx_api::BlockSource;
use serde_json::Value;

use super::Facts;
use crate::finding::Finding;

/// What matters of its configuration.
struct Proxy {
    mode: String,
    detect: String,
    prefix: String,
    cluster: Vec<IpNetwork>,
}

impl Proxy {
    /// Reads what `/configz` tells: the kind's fields, in the spelling of the API or in that of its program.
    fn parse(text: &str) -> Option<Self> {
        let page: Value = serde_json::from_str(text).ok()?;
        let config = page.get("kubeproxy.config.k8s.io").unwrap_or(&page);
        let field = |value: &Value, names: [&str; 2]| {
            let found = names.iter().find_map(|name| value.get(name)).and_then(Value::as_str);
            found.unwrap_or_default().to_owned()
        };
        let local =
            ["detectLocal", "DetectLocal"].iter().find_map(|name| config.get(name)).unwrap_or(&Value::Null);
        let mut cluster = field(config, ["clusterCIDR", "ClusterCIDR"]);
        if cluster.is_empty() {
            let listed = ["ClusterCIDRs", "clusterCIDRs"].iter().find_map(|name| local.get(name)?.as_array());
            let listed = listed.into_iter().flatten().filter_map(Value::as_str);
            cluster = listed.collect::<Vec<_>>().join(",");
        }
        Some(Self {
            mode: field(config, ["mode", "Mode"]),
            detect: field(config, ["detectLocalMode", "DetectLocalMode"]),
            prefix: field(local, ["interfaceNamePrefix", "InterfaceNamePrefix"]),
            cluster: cluster.split(',').filter_map(|text| text.trim().parse().ok()).collect(),
        })
    }
}

/// Settings of kube-proxy that do not go with Manx.
pub(super) fn proxy(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, node) in &facts.nodes {
        let host = node.host.as_ref().ok();
        if let Some(proxy) = host.and_then(|host| Proxy::parse(host.kube_proxy.as_deref()?)) {
            judge(facts, &format!("node {name}"), &proxy, &node.kubelet, &mut findings);
        }
    }
    findings
}

fn judge(facts: &Facts, node: &str, proxy: &Proxy, kubelet: &str, findings: &mut Vec<Finding>) {
    let cure = "`kubectl -n kube-system edit configmap kube-proxy`: detectLocalMode: InterfaceNamePrefix with \
                interfaceNamePrefix: cali (docs/services.md says where not), then restart it";
    match proxy.detect.as_str() {
        "NodeCIDR" if facts.cluster.pools.iter().any(|pool| pool.spec.block_source != BlockSource::NodePodCIDRs) => {
            findings.push(Finding::error(
                node,
                "kube-proxy takes the node's podCIDR for its pods (detectLocalMode: NodeCIDR), and blocks come from pools: \
                 pods behind Services see nodes in place of pods",
                cure,
            ));
        }
        "BridgeInterface" => findings.push(Finding::error(
            node,
            "kube-proxy takes what comes by a bridge for pods (detectLocalMode: BridgeInterface), and there is none",
            cure,
        )),
        "InterfaceNamePrefix" => prefix(node, proxy, kubelet, findings),
        _ => cluster_cidr(facts, node, proxy, cure, findings),
    }
}

fn prefix(node: &str, proxy: &Proxy, kubelet: &str, findings: &mut Vec<Finding>) {
    if proxy.prefix != "cali" {
        findings.push(Finding::error(
            node,
            format!("kube-proxy takes links that begin with {:?} for pods', and they begin with \"cali\"", proxy.prefix),
            "detectLocal: {interfaceNamePrefix: cali} in the ConfigMap kube-system/kube-proxy, then restart it",
        ));
    }
    if proxy.mode == "nftables" && version(kubelet).is_some_and(|version| version < (1, 34, 2)) {
        findings.push(Finding::error(
            node,
            format!("kube-proxy of {kubelet} in nftables mode writes no rules with detectLocalMode: InterfaceNamePrefix"),
            "detectLocalMode: ClusterCIDR with a clusterCIDR that holds all pools, or Kubernetes 1.34.2 (docs/services.md)",
        ));
    }
}

fn cluster_cidr(facts: &Facts, node: &str, proxy: &Proxy, cure: &str, findings: &mut Vec<Finding>) {
    for pool in &facts.cluster.pools {
        let cidr = pool.spec.cidr.network();
        let of_family = || proxy.cluster.iter().filter(|range| range.is_ipv4() == cidr.is_ipv4());
        let within = of_family().any(|range| range.contains(cidr.ip()) && range.prefix() <= cidr.prefix());
        if of_family().next().is_some() && !within {
            findings.push(
                Finding::warning(
                    node,
                    format!(
                        "the pool {} ({cidr}) is outside of kube-proxy's clusterCIDR: pods behind Services see nodes in \
                         place of its pods",
                        pool.name_any()
                    ),
                    cure,
                )
                .see("source-address-is-wrong"),
            );
        }
    }
}

/// The numbers of a version such as `v1.32.6`.
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = text.trim_start_matches('v').split(['.', '-', '+']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
}
