//! What the kernel takes from the links of pods, in the namespace of this thread.

use std::net::IpAddr;

use manx_facts::guards::Guards;
use manx_kernel::names::parse_alias;
use manx_kernel::netlink::guard::{Gates, tables};
use manx_kernel::netlink::inspect::{self, End};
use manx_kernel::netlink::socket::Socket;

use crate::shell::events::chain;

/// Looks at all of them.
pub(super) fn look() -> Result<Guards, String> {
    let words = |error| chain(&error);
    let mut guards = Guards { tables: tables().map_err(words)?, ..Guards::default() };
    let mut socket = Socket::route().map_err(words)?;
    for end in inspect::ends(&mut socket).map_err(words)?.iter().filter(|end| is_pods(end)) {
        guards.links += 1;
        *guards.mtus.entry(end.mtu).or_default() += 1;
    }
    if let Some(mut gates) = Gates::open().map_err(words)? {
        let sight = gates.look().map_err(words)?;
        guards.admitted = sight.admitted;
        for addresses in guards.admitted.values_mut() {
            addresses.retain(|address| !is_link_local(*address));
        }
        (guards.open, guards.unknown, guards.strays) = (sight.open, sight.unknown, sight.strays);
    }
    Ok(guards)
}

/// Whether it is the host's end of a pod's link.
pub(super) fn is_pods(end: &End) -> bool {
    end.alias.as_deref().is_some_and(|alias| parse_alias(alias).is_some())
}

/// Whether an address counts on one link only.
pub(super) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
