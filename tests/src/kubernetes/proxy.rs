//! kube-proxy, and Debian's ptp as the network to compare with.

use anyhow::Result;
use serde_json::json;

use super::network::{self, Family, PODS};
use super::{Network, Node, Proxy, binary};
use crate::lab::netns;

/// How kube-proxy tells what pods of its node send from what comes from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalMode {
    /// By the names of Manx's links: right for any pools. In nftables mode kube-proxy can do it from 1.34.2 on; those
    /// before ask for one interface of the name `cali*`, and write no rules at all.
    Links,
    /// By source addresses within the cluster's first range of pods.
    ClusterCidr,
}

impl Node<'_> {
    /// Starts kube-proxy in the mode that the cluster was made with, or that [`Node::set_proxy`] chose since.
    pub fn start_proxy(&self) -> Result<()> {
        let config = self.dir().join("proxy.json");
        if !config.exists() {
            return self.set_proxy(self.cluster.state.options.proxy);
        }
        let mut command = self.command(binary("kube-proxy"));
        command.arg("--config").arg(config).arg("--v=2");
        self.proxy().start(&command)
    }

    /// Ends kube-proxy; its rules stay.
    pub fn stop_proxy(&self) -> Result<()> {
        self.proxy().stop(super::node::GRACE)
    }

    /// Lets kube-proxy work in another mode from now on: its rules of before are removed.
    pub fn set_proxy(&self, proxy: Proxy) -> Result<()> {
        let links = self.cluster.state.options.network == Network::Manx && proxy != Proxy::Nftables;
        self.set_proxy_and_local(proxy, if links { LocalMode::Links } else { LocalMode::ClusterCidr })
    }

    /// [`Node::set_proxy`], with the way to tell what pods of this node send.
    pub fn set_proxy_and_local(&self, proxy: Proxy, local: LocalMode) -> Result<()> {
        let path = self.dir().join("proxy.json");
        if path.exists() {
            self.stop_proxy()?;
            // It complains of tools for modes that were never used, and succeeds or not depending on them.
            self.command(binary("kube-proxy")).arg("--config").arg(&path).arg("--cleanup").output()?;
            std::fs::remove_file(&path)?;
            // For half a minute the kernel leads a port that is used again to the backend of the mode before. There
            // may be no such entry, which conntrack takes for a failure.
            for family in ["ipv4", "ipv6"] {
                self.command("conntrack").args(["-D", "-f", family, "-p", "udp"]).output()?;
            }
        }
        let mode = match proxy {
            Proxy::Nftables => "nftables",
            Proxy::Iptables => "iptables",
            Proxy::Ipvs => "ipvs",
            Proxy::None => return Ok(()),
        };
        let kubeconfig = self.cluster.pki().kubeconfig("proxy");
        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": kubeconfig},
            "mode": mode,
            "hostnameOverride": self.name(),
            "clusterCIDR": self.cluster.families().join(PODS),
            "detectLocalMode": match local {
                LocalMode::Links => "InterfaceNamePrefix",
                LocalMode::ClusterCidr => "ClusterCIDR",
            },
            "detectLocal": {"interfaceNamePrefix": if local == LocalMode::Links { "cali" } else { "" }},
            // The table of connections has one size for all namespaces, which none of them may change.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        });
        std::fs::write(path, config.to_string())?;
        self.start_proxy()
    }

    /// The conflist of Debian's ptp and host-local with this node's own block, and the way to it on the router.
    pub(super) fn install_ptp(&self) -> Result<()> {
        let families = self.cluster.families().list();
        let mut ranges = Vec::new();
        let mut routes = Vec::new();
        for family in families {
            let block = network::ptp_block(self.number, *family);
            let via = self.address(*family).to_string();
            netns::ip(&["-n", &self.cluster.netns("tor"), "route", "replace", &block, "via", &via])?;
            ranges.push(json!([{"subnet": block}]));
            routes.push(json!({"dst": if *family == Family::Ipv4 { "0.0.0.0/0" } else { "::/0" }}));
        }
        let conflist = json!({"cniVersion": "0.4.0", "name": "ptp", "plugins": [
            {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "ranges": ranges, "routes": routes}},
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ]});
        std::fs::write(self.dir().join("etc/cni/net.d/10-ptp.conflist"), conflist.to_string())
            .map_err(Into::into)
    }
}
