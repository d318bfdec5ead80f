//! What the kernel has of pods when an agent starts.

use manx_ipam::{Endpoint, EndpointId};
use manx_kernel::model::{Dump, Forward};
use manx_kernel::names::parse_alias;

/// The links of pods that the kernel has, with the addresses that are routed to them: none when the link is down or
/// only half made.
pub fn endpoints(dump: &Dump) -> Vec<Endpoint> {
    let ours = dump.links.iter().filter_map(|link| Some((link, parse_alias(link.alias.as_deref()?)?)));
    let endpoints = ours.map(|(link, (container, ifname))| {
        let routes = dump.routes.iter().filter(|route| route.forward == Forward::Link(link.index));
        let mut addresses: Vec<_> = routes.map(|route| route.key.dst.ip()).collect();
        addresses.sort();
        Endpoint {
            id: EndpointId { container: container.to_owned(), ifname: ifname.to_owned() },
            link: link.name.clone(),
            addresses,
            ..Endpoint::default()
        }
    });
    endpoints.collect()
}
