//! The wires of a cluster, and its addresses: the same as in the lab without Kubernetes.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;

use super::Cluster;
use crate::lab::netns;
use crate::lab::router::{Router, RouterKind};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// The families that a cluster speaks: of its nodes, pods and services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Families {
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
    /// Both, IPv4 first.
    Dual,
}

impl Families {
    /// The families, the primary one first.
    pub fn list(self) -> &'static [Family] {
        match self {
            Self::Ipv4 => &[Family::Ipv4],
            Self::Ipv6 => &[Family::Ipv6],
            Self::Dual => &[Family::Ipv4, Family::Ipv6],
        }
    }

    /// The family that is named first where one is first.
    pub fn primary(self) -> Family {
        self.list()[0]
    }

    /// Those of two texts (IPv4, IPv6) that are spoken.
    pub fn pick(self, both: [&str; 2]) -> Vec<String> {
        self.list().iter().map(|family| both[usize::from(*family == Family::Ipv6)].to_owned()).collect()
    }

    /// [`Families::pick`], joined by a comma as Kubernetes' flags have it.
    pub fn join(self, both: [&str; 2]) -> String {
        self.pick(both).join(",")
    }
}

/// Where cluster addresses of Services come from, IPv4 first.
pub const SERVICES: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];
/// The address of the Service `kubernetes`, IPv4 first.
pub const KUBERNETES_SERVICE: [&str; 2] = ["10.96.0.1", "fd00:10:96::1"];
/// The address of the Service `kube-dns`, when somebody makes one; IPv4 first.
pub const DNS_SERVICE: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];
/// Where addresses of pods come from (`--cluster-cidr`), IPv4 first.
pub const PODS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];
/// How long a node may be silent before the controller-manager calls it unreachable.
pub const NODE_GRACE: Duration = Duration::from_secs(20);
/// The control plane's host, IPv4 first.
const CONTROL_PLANE: [&str; 2] = ["172.30.0.10", "fd00:30::10"];
/// The host outside, IPv4 first.
const OUTSIDE: [&str; 2] = ["192.0.2.10", "2001:db8:ff::10"];

/// The prefix length of every wire.
fn length(family: Family) -> u8 {
    if family == Family::Ipv4 { 24 } else { 64 }
}

fn parse(text: &str) -> IpAddr {
    text.parse().expect("addresses of the lab are well formed")
}

/// The address of node `number` (from 1).
pub fn node_address(number: usize, family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => parse(&format!("172.30.{number}.2")),
        Family::Ipv6 => parse(&format!("fd00:30:{number}::2")),
    }
}

/// The router's address on the wire of node `number`.
pub fn router_address(number: usize, family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => parse(&format!("172.30.{number}.1")),
        Family::Ipv6 => parse(&format!("fd00:30:{number}::1")),
    }
}

/// The address of the control plane's host.
pub fn control_plane_address(family: Family) -> IpAddr {
    parse(CONTROL_PLANE[usize::from(family == Family::Ipv6)])
}

/// The block of pod addresses that node `number` has with Debian's ptp.
pub fn ptp_block(number: usize, family: Family) -> String {
    match family {
        Family::Ipv4 => format!("10.244.{number}.0/24"),
        Family::Ipv6 => format!("fd00:10:244:{number}::/64"),
    }
}

/// A host that is no node: the one outside, or the control plane's.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its network namespace.
    pub netns: String,
    /// Its addresses, IPv4 first; only those of the cluster's families.
    pub addresses: Vec<IpAddr>,
}

impl Host {
    /// A command that will run there.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> std::process::Command {
        netns::command(&self.netns, program)
    }

    /// Its address of `family`, when the cluster speaks it.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv6() == (family == Family::Ipv6))
    }
}

impl Cluster {
    /// The network namespace of a node, `tor`, `outside` or `cp`.
    pub fn netns(&self, place: &str) -> String {
        format!("{}-{place}", self.state.options.name)
    }

    /// The host outside the cluster, behind the router.
    pub fn outside(&self) -> Host {
        Host { netns: self.netns("outside"), addresses: self.addresses(OUTSIDE) }
    }

    /// The host of the control plane.
    pub fn control_plane_host(&self) -> Host {
        Host { netns: self.netns("cp"), addresses: self.addresses(CONTROL_PLANE) }
    }

    fn addresses(&self, both: [&str; 2]) -> Vec<IpAddr> {
        self.families().pick(both).iter().map(|text| parse(text)).collect()
    }

    /// The top-of-rack router.
    pub fn router(&self) -> Router {
        Router { kind: RouterKind::Bird, netns: self.netns("tor"), dir: self.dir.join("router") }
    }

    /// Name and address of each node, as the router has them for neighbours.
    pub(super) fn neighbours(&self) -> Vec<(String, String)> {
        let family = self.families().primary();
        let of = |number: &usize| (format!("node{number}"), node_address(*number, family).to_string());
        self.state.nodes.iter().map(of).collect()
    }

    /// Router, host outside, the control plane's host, and the wires between them.
    pub(super) fn fabric(&self) -> Result<()> {
        let tor = self.netns("tor");
        netns::add(&tor)?;
        netns::sysctl(&tor, &["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])?;
        for (host, link, gateway) in [
            (self.outside(), "outside", ["192.0.2.1", "2001:db8:ff::1"]),
            (self.control_plane_host(), "cp", ["172.30.0.1", "fd00:30::1"]),
        ] {
            netns::add(&host.netns)?;
            self.stub(&host.netns, link, &host.addresses, &self.addresses(gateway))?;
        }
        Ok(())
    }

    /// The namespace of node `number`, wired to the router.
    pub(super) fn wire_node(&self, number: usize) -> Result<()> {
        let node = format!("node{number}");
        let netns = self.netns(&node);
        netns::add(&netns)?;
        let families = self.families().list();
        let own: Vec<IpAddr> = families.iter().map(|family| node_address(number, *family)).collect();
        let router: Vec<IpAddr> = families.iter().map(|family| router_address(number, *family)).collect();
        self.stub(&netns, &node, &own, &router)
    }

    /// Joins `netns` to the router and lets its default routes go there.
    fn stub(&self, netns: &str, link: &str, own: &[IpAddr], gateways: &[IpAddr]) -> Result<()> {
        let with_length = |address: &IpAddr| {
            let family = if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
            format!("{address}/{}", length(family))
        };
        let addresses = |list: &[IpAddr]| list.iter().map(with_length).collect::<Vec<_>>();
        netns::wire(
            &netns::End { netns, link: "eth0", addresses: &addresses(own) },
            &netns::End { netns: &self.netns("tor"), link, addresses: &addresses(gateways) },
        )?;
        for gateway in gateways {
            netns::ip(&["-n", netns, "route", "add", "default", "via", &gateway.to_string()])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_names_the_families_that_are_spoken_ipv4_first() {
        assert_eq!(Families::Dual.join(SERVICES), "10.96.0.0/16,fd00:10:96::/112");
        assert_eq!(Families::Ipv6.join(SERVICES), "fd00:10:96::/112");
        assert_eq!((Families::Ipv6.primary(), Families::Dual.primary()), (Family::Ipv6, Family::Ipv4));
    }
}
