//! The MTU of pods' links: that of the uplink, of new pods at once and of running ones as well.

use manx_ipam::Endpoint;

use super::{Node, Output};

/// The smallest MTU with which IPv6 works, in octets (RFC 8200 §5). Below it the kernel takes IPv6 from a link.
pub const IPV6_LEAST: u32 = 1280;

/// What a link is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Size {
    /// Name of the host's end.
    pub link: String,
    /// Path of the pod's network namespace.
    pub netns: Option<String>,
    /// MTU of both ends in octets.
    pub mtu: u32,
}

impl Node {
    pub(super) fn on_mtu(&mut self, mtu: u32) {
        self.mtu = Some(mtu);
        self.resize();
        self.outputs.push_back(Output::Changed);
    }

    /// Asks for the right MTU of every link; most of them have it.
    pub(super) fn resize(&mut self) {
        if self.mtu.is_none() {
            return;
        }
        let sizes = self.ipam.endpoints().map(|endpoint| Output::Resize {
            id: endpoint.id.clone(),
            size: Size {
                link: endpoint.link.clone(),
                netns: endpoint.netns.clone(),
                mtu: self.mtu_of(endpoint),
            },
        });
        let sizes: Vec<Output> = sizes.collect();
        self.outputs.extend(sizes);
    }

    /// The MTU that the link of an endpoint is to have: what its network configuration says, else the uplink's.
    pub(super) fn mtu_of(&self, endpoint: &Endpoint) -> u32 {
        let least = if endpoint.addresses.iter().any(std::net::IpAddr::is_ipv6) { IPV6_LEAST } else { 0 };
        endpoint.mtu.unwrap_or_else(|| self.mtu.unwrap_or(super::USUAL_MTU).max(least))
    }

    /// What is wrong with the uplink's MTU.
    pub fn mtu_problem(&self) -> Option<String> {
        let mtu = self.mtu.filter(|mtu| *mtu < IPV6_LEAST)?;
        let has_ipv6 = |endpoint: &Endpoint| endpoint.addresses.iter().any(std::net::IpAddr::is_ipv6);
        let concerned = self.families().1 || self.ipam.endpoints().any(has_ipv6);
        concerned.then(|| {
            format!(
                "the uplink's MTU of {mtu} is less than the {IPV6_LEAST} that IPv6 needs: pods with IPv6 keep \
                 {IPV6_LEAST}, and their larger packets do not get through; raise the MTU of the uplink"
            )
        })
    }
}
