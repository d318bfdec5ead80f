//! Nodes as Calico runs them: pods with links made by ip(8) as its plugin and agent make them, a BIRD that announces
//! their blocks and meshes with the others, and what Calico keeps in the API server. Only Calico's own programs are not
//! there: nothing polices packets, and nothing repairs what is changed.

use std::net::IpAddr;
use std::process::{Output, Stdio};

use anyhow::{Context, Result};
use manx_kernel::names::{HOST_LINK_LOCAL, host_link_name};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::pod::Pod;
use super::router::{NODE_ASN, ROUTER_ASN};
use super::runtime::Sandbox;
use super::{Lab, PATIENCE, netns, wait};

/// The pods of one node get these ordinals of its block, from here on.
const FIRST_ORDINAL: usize = 1;

impl Lab {
    /// Ends every agent of ours with all that it left, and lets Calico have run on every node from the beginning.
    pub fn become_calicos(&self) -> Result<()> {
        for node in self.nodes() {
            self.stop_agent(&node, Signal::SIGKILL)?;
            std::fs::remove_dir_all(self.run_dir(&node))?;
            for family in ["-4", "-6"] {
                netns::ip(&["-n", &self.netns(&node), family, "route", "flush", "proto", "179"])?;
            }
        }
        for kind in ["ipblocks", "nodenetworks", "bgppeers", "bgpconfigurations", "ippools"] {
            self.kubectl(&["delete", &format!("{kind}.manx.dev"), "--all"])?;
        }
        let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/src/lab/calico/crds.yaml");
        self.kubectl(&["apply", "--validate=false", "-f", crds])?;
        let mut objects = cluster_objects();
        for node in self.nodes() {
            objects.extend(self.node_objects(&node)?);
        }
        self.apply(&objects)?;
        for node in self.nodes() {
            self.start_bird(&node)?;
        }
        wait::until("the router has sessions with all nodes", PATIENCE, || {
            Ok(self.router().established()? == self.nodes().len())
        })
    }

    /// A pod whose link Calico made. Its addresses are the next of its node's blocks.
    pub fn add_calico_pod(&mut self, name: &str, node: &str) -> Result<Pod> {
        let ordinal = FIRST_ORDINAL + self.pods().iter().filter(|pod| pod.node == node).count();
        self.state.sandboxes += 1;
        let sandbox = Sandbox {
            container: format!("{:064x}", 0xca11_c000_u64 + self.state.sandboxes),
            netns: self.netns(&format!("pod-{name}")),
            namespace: "default".to_owned(),
            pod: name.to_owned(),
            uid: String::new(),
            capabilities: Value::Null,
        };
        netns::add(&sandbox.netns)?;
        let addresses = [block_address(node, ordinal, false)?, block_address(node, ordinal, true)?];
        let link = self.calico_link(node, &sandbox, addresses)?;
        let ips: Vec<Value> = addresses.iter().map(|ip| json!({"address": whole(*ip)})).collect();
        let result = json!({"cniVersion": "1.0.0", "interfaces": [{"name": link}], "ips": ips, "dns": {}});
        let pod = Pod {
            name: name.to_owned(),
            node: node.to_owned(),
            sandbox,
            result,
            addresses: addresses.to_vec(),
        };
        self.state.pods.push(pod.clone());
        self.save()?;
        self.tell_calico(node)?;
        Ok(pod)
    }

    /// Writes the blocks of a node as Calico's plugin would, from the pods that there are.
    pub fn tell_calico(&self, node: &str) -> Result<()> {
        self.apply(&self.block_objects(node)?)
    }

    /// Ends Calico on a node as the end of its pod does: at once, and nothing is cleaned up.
    pub fn stop_calico(&self, node: &str) -> Result<()> {
        let pid: i32 = std::fs::read_to_string(self.node_dir(node).join("bird.pid"))?.trim().parse()?;
        signal::kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        wait::until(
            "BIRD has ended",
            PATIENCE,
            || Ok(!std::path::Path::new(&format!("/proc/{pid}")).exists()),
        )
    }

    /// Runs manxctl where the API server is.
    pub fn manxctl(&self, args: &[&str]) -> Result<Output> {
        let mut command = netns::command(&self.netns("cp"), self.bin_dir.join("manxctl"));
        command.args(args).env("KUBECONFIG", self.kubeconfig());
        command.output().context("cannot run manxctl")
    }

    /// What Calico's plugin and agent do for a pod, in their order; the name of the link.
    fn calico_link(&self, node: &str, sandbox: &Sandbox, [v4, v6]: [IpAddr; 2]) -> Result<String> {
        let (host, pod) = (self.netns(node), &*sandbox.netns);
        let link = host_link_name(Some((&sandbox.namespace, &sandbox.pod)), "", "eth0");
        netns::ip(&[
            "-n", &host, "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", pod,
        ])?;
        netns::ip(&["-n", &host, "link", "set", &link, "address", "ee:ee:ee:ee:ee:ee"])?;
        let settings = [
            "net.ipv4.conf.LINK.route_localnet=1",
            "net.ipv4.neigh.LINK.proxy_delay=0",
            "net.ipv4.conf.LINK.proxy_arp=1",
            "net.ipv4.conf.LINK.forwarding=1",
            "net.ipv6.conf.LINK.accept_dad=0",
            "net.ipv6.conf.LINK.proxy_ndp=1",
            "net.ipv6.conf.LINK.forwarding=1",
            "net.ipv6.conf.LINK.accept_ra=0",
        ];
        let settings: Vec<String> = settings.iter().map(|setting| setting.replace("LINK", &link)).collect();
        netns::sysctl(&host, &settings.iter().map(String::as_str).collect::<Vec<_>>())?;
        netns::sysctl(pod, &["net.ipv6.conf.eth0.accept_dad=0"])?;
        netns::ip(&["-n", &host, "link", "set", &link, "up"])?;
        netns::ip(&["-n", pod, "link", "set", "eth0", "up"])?;
        netns::ip(&["-n", pod, "route", "add", "169.254.1.1", "dev", "eth0", "scope", "link"])?;
        netns::ip(&["-n", pod, "route", "add", "default", "via", "169.254.1.1", "dev", "eth0"])?;
        let gateway = HOST_LINK_LOCAL.to_string();
        netns::ip(&["-n", pod, "-6", "route", "add", "default", "via", &gateway, "dev", "eth0"])?;
        netns::ip(&["-n", pod, "address", "add", &whole(v4), "dev", "eth0"])?;
        netns::ip(&["-n", pod, "address", "add", &whole(v6), "dev", "eth0", "nodad"])?;
        netns::ip(&[
            "-n",
            &host,
            "route",
            "add",
            &whole(v4),
            "dev",
            &link,
            "scope",
            "link",
            "proto",
            "boot",
        ])?;
        netns::ip(&["-n", &host, "-6", "route", "add", &whole(v6), "dev", &link, "proto", "boot"])?;
        Ok(link)
    }

    /// A node's address for BGP, its session with the router, and its blocks.
    fn node_objects(&self, node: &str) -> Result<Vec<Value>> {
        let [v4, v6] = self.node_addresses(node)?;
        let number = number(node)?;
        let mut objects = vec![
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node,
                "labels": {"kubernetes.io/hostname": node, "kubernetes.io/os": "linux"},
                "annotations": {"projectcalico.org/IPv4Address": format!("{v4}/24"),
                                "projectcalico.org/IPv6Address": format!("{v6}/64")}}}),
            json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "BGPPeer",
                "metadata": {"name": format!("tor-{node}")},
                "spec": {"node": node, "peerIP": format!("172.30.{number}.1"), "asNumber": ROUTER_ASN}}),
        ];
        objects.extend(self.block_objects(node)?);
        Ok(objects)
    }

    fn block_objects(&self, node: &str) -> Result<Vec<Value>> {
        let pods: Vec<&Pod> = self.pods().iter().filter(|pod| pod.node == node).collect();
        let attributes: Vec<Value> = pods
            .iter()
            .map(|pod| {
                json!({"handle_id": format!("k8s-pod-network.{}", pod.sandbox.container),
                    "secondary": {"namespace": "default", "node": node, "pod": pod.name,
                                  "timestamp": "2026-01-07 08:13:05.482193 +0000 UTC"}})
            })
            .collect();
        let mut objects = Vec::new();
        for v6 in [false, true] {
            let ordinals = (0..64).map(|ordinal| {
                let address = block_address(node, ordinal, v6).ok();
                pods.iter().position(|pod| pod.addresses.iter().any(|own| Some(*own) == address))
            });
            let allocations: Vec<Option<usize>> = ordinals.collect();
            let free: Vec<usize> = (0..64).filter(|ordinal| allocations[*ordinal].is_none()).collect();
            let cidr = block(node, v6)?;
            objects.push(json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMBlock",
                "metadata": {"name": cidr.replace(['.', ':', '/'], "-")},
                "spec": {"cidr": cidr, "affinity": format!("host:{node}"), "allocations": allocations,
                         "attributes": attributes, "unallocated": free, "strictAffinity": false, "deleted": false}}));
        }
        Ok(objects)
    }

    fn start_bird(&self, node: &str) -> Result<()> {
        let dir = self.node_dir(node);
        let config = dir.join("bird.conf");
        std::fs::write(&config, self.bird_config(node)?)?;
        let mut command = netns::command(&self.netns(node), "bird");
        command
            .arg("-c")
            .arg(&config)
            .arg("-s")
            .arg(dir.join("bird.ctl"))
            .arg("-P")
            .arg(dir.join("bird.pid"));
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        anyhow::ensure!(status.success(), "bird did not start with {}", config.display());
        Ok(())
    }

    /// As Calico's templates make it: a session of its own for each family with every other node, blocks announced whole
    /// and blackholed, what is learned kept in the kernel when BIRD ends.
    fn bird_config(&self, node: &str) -> Result<String> {
        let [own_v4, own_v6] = self.node_addresses(node)?;
        let (block_v4, block_v6, number) = (block(node, false)?, block(node, true)?, number(node)?);
        let mut text = format!(
            r#"router id {own_v4};
graceful restart wait 10;
protocol device {{ scan time 2; }}
protocol static {{ ipv4; route {block_v4} blackhole; }}
protocol static {{ ipv6; route {block_v6} blackhole; }}
protocol kernel {{ learn; persist; scan time 2; metric 0; graceful restart; ipv4 {{ import all; export all; }}; }}
protocol kernel {{ learn; persist; scan time 2; metric 0; graceful restart; ipv6 {{ import all; export all; }}; }}
filter own {{ if source = RTS_STATIC then accept; reject; }}
template bgp any {{
  local as {NODE_ASN};
  connect retry time 1; connect delay time 1; error wait time 1,2;
  graceful restart on; graceful restart time 120;
}}
protocol bgp tor from any {{
  neighbor 172.30.{number}.1 as {ROUTER_ASN};
  ipv4 {{ import all; export filter own; next hop self; }};
  ipv6 {{ import all; export filter own; next hop self; }};
}}
"#
        );
        for other in self.nodes().iter().filter(|other| *other != node) {
            let [v4, v6] = self.node_addresses(other)?;
            text.push_str(&format!(
                r#"protocol bgp {other}_v4 from any {{
  neighbor {v4} as {NODE_ASN}; source address {own_v4}; multihop;
  ipv4 {{ import all; export filter own; gateway recursive; next hop self; }};
}}
protocol bgp {other}_v6 from any {{
  neighbor {v6} as {NODE_ASN}; source address {own_v6}; multihop;
  ipv6 {{ import all; export filter own; gateway recursive; next hop self; }};
}}
"#
            ));
        }
        Ok(text)
    }
}

fn cluster_objects() -> Vec<Value> {
    let object = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "crd.projectcalico.org/v1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let pool = |cidr: &str, size: u8, nat: bool| {
        json!({"cidr": cidr, "blockSize": size, "natOutgoing": nat, "ipipMode": "Never", "vxlanMode": "Never",
               "nodeSelector": "all()", "allowedUses": ["Workload", "Tunnel"]})
    };
    vec![
        object("IPPool", "default-ipv4-ippool", pool("10.48.0.0/16", 26, false)),
        object("IPPool", "default-ipv6-ippool", pool("fd00:10:48::/64", 122, false)),
        object("IPAMConfig", "default", json!({"strictAffinity": true, "autoAllocateBlocks": false})),
        object("BGPConfiguration", "default", json!({"asNumber": NODE_ASN, "nodeToNodeMeshEnabled": true})),
    ]
}

fn number(node: &str) -> Result<u8> {
    node.strip_prefix("node").and_then(|number| number.parse().ok()).context("no such node")
}

/// The block of a node.
fn block(node: &str, v6: bool) -> Result<String> {
    let number = number(node)?;
    Ok(if v6 { format!("fd00:10:48::{number}:40/122") } else { format!("10.48.{number}.64/26") })
}

fn block_address(node: &str, ordinal: usize, v6: bool) -> Result<IpAddr> {
    let number = number(node)?;
    let text = if v6 {
        format!("fd00:10:48::{number}:{:x}", 64 + ordinal)
    } else {
        format!("10.48.{number}.{}", 64 + ordinal)
    };
    text.parse().context("an address")
}

fn whole(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}
