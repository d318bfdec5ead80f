//! Pods that another network started on this node, and that are ours from now on.
//!
//! Whose they are is told by the status of this node's blocks, where `manxctl migrate` wrote it
//! ([`IPBlockStatus::handed_over_by`](manx_api::IPBlockStatus)); that they live is told by the kernel. A link of which
//! only the kernel tells is held: its address is in use, whoever has it, until somebody says or the link is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use manx_api::{Allocation, IPBlock};
use manx_ipam::{BlockId, Endpoint, EndpointId, NodeName, PodRef, RequestId};
use manx_kernel::model::Dump;
use manx_kernel::names::{HOST_LINK_PREFIX, UNKNOWN_CONTAINER, host_link_name, parse_alias};
use manx_kernel::netlink::guests::Guest;

use super::{Node, Owed};

/// What was handed over to a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HandedOver {
    /// The blocks that wait for their pods to be taken over.
    pub blocks: BTreeSet<BlockId>,
    /// The pods, as the other network knew them.
    pub endpoints: Vec<Endpoint>,
}

/// What becomes of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// It is this endpoint's: it becomes ours.
    Adopt(Endpoint),
    /// Nobody says whose it is: its addresses are not given, and it is only marked.
    Hold(Endpoint),
}

/// What the blocks of a node say.
pub fn handed_over<'a>(blocks: impl Iterator<Item = &'a IPBlock>, me: &NodeName) -> HandedOver {
    let mut all = HandedOver::default();
    let mut endpoints: BTreeMap<EndpointId, Endpoint> = BTreeMap::new();
    for block in blocks.filter(|block| block.spec.node == me.as_str()) {
        let Some(status) = &block.status else { continue };
        let (Some(network), Ok(id)) = (&status.handed_over_by, BlockId::new(block.spec.cidr.network()))
        else {
            continue;
        };
        all.blocks.insert(id);
        for allocation in &status.allocations {
            let endpoint = endpoint(allocation, network);
            let known = endpoints.entry(endpoint.id.clone()).or_insert(endpoint);
            known.addresses.push(allocation.address);
        }
    }
    all.endpoints = endpoints.into_values().collect();
    all.endpoints.iter_mut().for_each(|endpoint| endpoint.addresses.sort());
    all
}

/// An endpoint as an allocation tells of it, without addresses.
fn endpoint(allocation: &Allocation, network: &str) -> Endpoint {
    let pod = allocation.pod.as_deref().and_then(|pod| pod.split_once('/'));
    Endpoint {
        id: EndpointId { container: allocation.container.clone(), ifname: allocation.interface.clone() },
        link: host_link_name(pod, &allocation.container, &allocation.interface),
        pod: pod.map(|(namespace, name)| PodRef {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: None,
        }),
        since: u64::try_from(allocation.since.0.as_second()).ok(),
        network: Some(network.to_owned()),
        ..Endpoint::default()
    }
}

/// What becomes of each link to which addresses of the blocks are routed; links that are ours already are left out.
pub fn judge(handed: &HandedOver, guests: &[Guest]) -> Vec<(u32, Part)> {
    guests.iter().filter_map(|guest| Some((guest.end.index, part(handed, guest)?))).collect()
}

fn part(handed: &HandedOver, guest: &Guest) -> Option<Part> {
    let marked = guest.end.alias.as_deref().filter(|alias| !alias.is_empty()).map(parse_alias);
    let is_it = |endpoint: &&Endpoint| {
        endpoint.link == guest.end.name
            && endpoint.addresses.iter().any(|address| guest.addresses.contains(address))
    };
    let told = handed.endpoints.iter().find(is_it);
    let ours = |id: &EndpointId| marked == Some(Some((id.container.as_str(), id.ifname.as_str())));
    let unknown = matches!(marked, Some(Some((UNKNOWN_CONTAINER, _))));
    match (told, marked) {
        (Some(endpoint), _) if marked.is_none() || unknown || ours(&endpoint.id) => {
            Some(Part::Adopt(Endpoint {
                // Another block of the pod's may be settled already, or not be known yet.
                addresses: guest.addresses.iter().copied().collect(),
                mac: guest.mac.map(|mac| mac.to_string()),
                mtu: Some(guest.end.mtu),
                ..endpoint.clone()
            }))
        }
        (None, None) => Some(Part::Hold(unexplained(guest))),
        (None, Some(_)) if unknown => Some(Part::Hold(unexplained(guest))),
        // Ours, or marked by somebody else who looks after it.
        _ => None,
    }
}

fn unexplained(guest: &Guest) -> Endpoint {
    Endpoint {
        id: EndpointId { container: UNKNOWN_CONTAINER.to_owned(), ifname: guest.end.name.clone() },
        link: guest.end.name.clone(),
        addresses: guest.addresses.iter().copied().collect(),
        mtu: Some(guest.end.mtu),
        network: Some(UNKNOWN_CONTAINER.to_owned()),
        ..Endpoint::default()
    }
}

/// Whether an endpoint was taken over: no plugin of ours asked for it.
pub fn is_guest(endpoint: &Endpoint) -> bool {
    endpoint.netns.is_none() && endpoint.network.is_some()
}

/// Whether nobody says whose an endpoint is.
pub fn is_unexplained(endpoint: &Endpoint) -> bool {
    endpoint.id.container == UNKNOWN_CONTAINER
}

/// Whether there are links that look as Calico's do and that nobody has taken over.
pub fn strangers(dump: &Dump) -> bool {
    let named = |name: &str| {
        name.strip_prefix(HOST_LINK_PREFIX)
            .is_some_and(|rest| rest.len() == 11 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    dump.links.iter().any(|link| link.up && link.alias.is_none() && named(&link.name))
}

impl Node {
    /// Takes over endpoints whose links are ours by now; `present` are all whose links there are. Those of earlier looks
    /// whose links are gone are over: their DEL may have gone to the plugin that made them.
    pub(super) fn on_guests(&mut self, found: Vec<Endpoint>, present: &BTreeSet<EndpointId>, now: Instant) {
        let gone = self.ipam.endpoints().filter(|known| is_guest(known) && !present.contains(&known.id));
        let gone: Vec<Endpoint> = gone.cloned().collect();
        for known in gone {
            let shares =
                |endpoint: &Endpoint| known.addresses.iter().any(|own| endpoint.addresses.contains(own));
            match is_unexplained(&known) && found.iter().any(shares) {
                true => self.rename(known.id, now),
                false => self.free_ourselves(known.id, |id| Owed::Nothing { id }, now),
            }
        }
        self.drain(now);
        let leaving: BTreeSet<EndpointId> = self.ipam.leaving().map(|endpoint| endpoint.id.clone()).collect();
        let living = found.into_iter().filter(|endpoint| !leaving.contains(&endpoint.id)).collect();
        self.ipam.handle(manx_ipam::Input::Adopt(living), now);
    }

    /// The holder of an address has another name now: its link lives on, and nothing is owed for it.
    fn rename(&mut self, id: EndpointId, now: Instant) {
        let request = RequestId(self.next_own);
        self.next_own -= 1;
        self.ipam.handle(manx_ipam::Input::Free { request, id: id.clone() }, now);
        self.ipam.handle(manx_ipam::Input::LinkGone { id }, now);
    }
}

#[cfg(test)]
mod tests;
