//! Links of pods that another network's plugin made in the way that Calico does, and what makes them ours.
//!
//! Such a link looks like ours from the pod: the same gateway behind the same hardware address. What it lacks is on the
//! host's side, so it becomes ours without the pod taking notice, and not a packet is lost: what there is is replaced,
//! never taken away first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use nix::libc;

use super::inspect::{self, End};
use super::request::Batch;
use super::socket::{Socket, SocketError};
use crate::names::Mac;
use crate::pod::link_body;

/// `IFLA_TARGET_NETNSID`: ask about a link of another namespace, by the number under which this one knows it.
const IFLA_TARGET_NETNSID: u16 = 46;

/// The link of a pod, whoever made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// The host's end.
    pub end: End,
    /// Hardware address of the pod's end; `None` when it is gone.
    pub mac: Option<Mac>,
    /// Name of the pod's end.
    pub ifname: String,
    /// The addresses that are routed to it one by one.
    pub addresses: BTreeSet<IpAddr>,
}

/// The links that lead into other namespaces and to which an address within `networks` is routed by itself, by name.
/// Each comes with all such addresses, since those outside the networks are the same pod's.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn guests(host: &mut Socket, networks: &[IpNetwork]) -> Result<Vec<Guest>, SocketError> {
    let mut addresses: BTreeMap<u32, BTreeSet<IpAddr>> = BTreeMap::new();
    for route in inspect::routes(host, None)? {
        let single = route.dst == IpNetwork::from(route.dst.ip()) && route.gateway.is_none();
        if let Some(link) = route.link.filter(|_| single) {
            addresses.entry(link).or_default().insert(route.dst.ip());
        }
    }
    let inside = |address: &IpAddr| networks.iter().any(|network| network.contains(*address));
    addresses.retain(|_, addresses| addresses.iter().any(inside));
    if addresses.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for end in inspect::ends(host)?.into_iter().filter(|end| end.peer_namespace.is_some()) {
        let Some(addresses) = addresses.remove(&end.index) else { continue };
        let other = other_end(host, &end)?;
        let (mac, ifname) = other.map_or((None, String::new()), |other| (other.mac, other.name));
        found.push(Guest { end, mac, ifname, addresses });
    }
    found.sort_by(|a, b| a.end.name.cmp(&b.end.name));
    Ok(found)
}

/// The other end of a link, which is in another namespace; `None` when it cannot be seen.
fn other_end(host: &mut Socket, end: &End) -> Result<Option<End>, SocketError> {
    let (Some(peer), Some(namespace)) = (end.peer, end.peer_namespace) else { return Ok(None) };
    let Ok(namespace) = u32::try_from(namespace) else { return Ok(None) };
    let mut request = Batch::of(libc::RTM_GETLINK, 0, &link_body(peer, 0, 0), |link| {
        link.put_u32(libc::IFLA_EXT_MASK, libc::RTEXT_FILTER_SKIP_STATS as u32);
        link.put_u32(IFLA_TARGET_NETNSID, namespace);
    });
    // Refused when the pod has gone meanwhile.
    let replies = host.send(&mut request)?.all_done();
    Ok(replies.ok().and_then(|replies| replies.iter().find_map(|message| inspect::read_end(&message))))
}

/// Marks a link as that of this container's interface, and changes nothing else of it.
///
/// # Errors
/// If the kernel refuses.
pub fn mark(host: &mut Socket, index: u32, alias: &str) -> Result<(), SocketError> {
    let mut request = Batch::of(libc::RTM_SETLINK, 0, &link_body(index, 0, 0), |link| {
        link.put_str(libc::IFLA_IFALIAS, alias);
    });
    host.send(&mut request)?.all_done()?;
    Ok(())
}
