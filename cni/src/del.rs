//! DEL: the agent frees the addresses and removes the link; without the agent, the plugin does what it can.
//!
//! DEL succeeds whatever is already gone: the namespace, the link, the record. It never touches a link whose alias
//! names another container, since that is the pod's new sandbox.

use manx_cni::rpc::{DelRequest, Remover};
use manx_cni::spec::{Code, Error, NetConf, Target};
use manx_cni::tombstone;
use manx_kernel::names::LINK_GROUP;
use manx_kernel::netlink::inspect;
use manx_kernel::netlink::links::{self, LinkError};
use manx_kernel::netlink::socket::Socket;
use manx_kernel::netns::NetNs;

use crate::add::{link_error, link_name};
use crate::agent;

/// Ends an attachment.
pub(crate) fn del(target: &Target, config: &NetConf) -> Result<(), Error> {
    let ended = DelRequest {
        container: target.container.clone(),
        ifname: target.ifname.clone(),
        link: link_name(target),
    };
    match agent::del(&config.run_dir, &ended) {
        Some(Remover::Agent) => Ok(()),
        Some(Remover::Plugin) => remove_link(target, &ended).map_err(|error| link_error(&error)),
        None => {
            let buried = tombstone::leave(&config.run_dir, &ended);
            match (remove_link(target, &ended), buried) {
                (Err(error), _) => Err(link_error(&error)),
                (Ok(()), Err(error)) => Err(no_tombstone(&error)),
                (Ok(()), Ok(())) => Ok(()),
            }
        }
    }
}

/// Frees the addresses of an ADD that failed: through the agent or, if it is away, by a tombstone.
pub(crate) fn free(config: &NetConf, ended: &DelRequest) {
    if agent::del(&config.run_dir, ended).is_none()
        && let Err(error) = tombstone::leave(&config.run_dir, ended)
    {
        eprintln!("manx-cni: {}", no_tombstone(&error));
    }
}

fn no_tombstone(error: &std::io::Error) -> Error {
    Error::new(
        Code::TRY_AGAIN,
        "the Manx agent is away and cannot be left a note that this container has ended",
    )
    .details(error.to_string())
}

/// Removes the link of this container, if there is one.
fn remove_link(target: &Target, ended: &DelRequest) -> Result<(), LinkError> {
    let mut host = Socket::route()?;
    if let Some(end) = links::find(&mut host, &ended.link, &ended.container, &ended.ifname)? {
        return links::delete(&mut host, end.index);
    }
    // A plugin that was killed between two requests leaves a link without an alias. It is this container's if its
    // other end is in this container's namespace.
    let Some(end) = inspect::end(&mut host, &ended.link)? else { return Ok(()) };
    if end.alias.is_some() || end.group != LINK_GROUP || end.peer_namespace.is_none() {
        return Ok(());
    }
    let path = target.netns.as_deref().unwrap_or_default();
    let Ok(netns) = NetNs::open(path.as_ref()) else { return Ok(()) };
    match inspect::namespace_number(&mut host, &netns) {
        Ok(number) if number == end.peer_namespace => links::delete(&mut host, end.index),
        _ => Ok(()),
    }
}
