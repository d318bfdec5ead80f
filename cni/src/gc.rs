//! GC: whatever the runtime no longer knows is freed and removed.

use std::collections::BTreeSet;

use manx_cni::rpc::{Attachment, GcRequest};
use manx_cni::spec::{Error, NetConf};
use manx_kernel::names::{DOOMED_GROUP, parse_alias};
use manx_kernel::netlink::socket::Socket;
use manx_kernel::netlink::{inspect, links};

use crate::add::{kernel, link_error};
use crate::agent;

/// Lets the agent free what is not in the list, then removes links of Manx that neither the list nor the agent knows.
///
/// The agent knows the links of other networks of Manx on this node, so that they stay.
pub(crate) fn gc(config: &NetConf) -> Result<(), Error> {
    agent::gc(&config.run_dir, GcRequest { network: config.name.clone(), valid: config.valid.clone() })?;
    let valid: BTreeSet<&Attachment> = config.valid.iter().collect();
    let failed = |error: &dyn std::error::Error| {
        kernel("the links of this node cannot be read from the kernel", error)
    };
    let mut host = Socket::route().map_err(|error| failed(&error))?;
    let ends = inspect::ends(&mut host).map_err(|error| failed(&error))?;
    for end in ends.into_iter().filter(|end| end.group != DOOMED_GROUP) {
        let Some((container, ifname)) = end.alias.as_deref().and_then(parse_alias) else { continue };
        let attachment = Attachment { container: container.to_owned(), ifname: ifname.to_owned() };
        if !valid.contains(&attachment) && agent::check(&config.run_dir, &attachment)?.is_none() {
            links::delete(&mut host, end.index).map_err(|error| link_error(&error))?;
        }
    }
    Ok(())
}
