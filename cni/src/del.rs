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

/// Frees the addresses of an ADD that failed before it knew of a link, and removes what it may have made all the same:
/// the kernel's answer can be lost. A finished link had been there before: the pod runs, and keeps it and its addresses.
pub(crate) fn free_unless_linked(target: &Target, config: &NetConf, ended: &DelRequest) {
    // Without knowing, nothing is taken from what may be a running pod: the runtime's DEL comes next.
    let Ok(mut host) = Socket::route() else { return };
    match remains(&mut host, target, ended) {
        Ok(Remains::Nothing) => {}
        // The error that is being reported matters more; the agent finds what may be left.
        Ok(Remains::HalfMade(index)) => drop(links::delete(&mut host, index)),
        Ok(Remains::Link(_)) | Err(_) => return,
    }
    free(config, ended);
}

/// What there is of a container's link on the host.
enum Remains {
    Nothing,
    /// A plugin was killed between two requests, or did not hear that the first one was carried out.
    HalfMade(u32),
    /// It has its alias.
    Link(u32),
}

fn remains(host: &mut Socket, target: &Target, ended: &DelRequest) -> Result<Remains, LinkError> {
    if let Some(end) = links::find(host, &ended.link, &ended.container, &ended.ifname)? {
        return Ok(Remains::Link(end.index));
    }
    // A link without an alias is this container's if its other end is in this container's namespace.
    let Some(end) = inspect::end(host, &ended.link)? else { return Ok(Remains::Nothing) };
    if end.alias.is_some() || end.group != LINK_GROUP || end.peer_namespace.is_none() {
        return Ok(Remains::Nothing);
    }
    let path = target.netns.as_deref().unwrap_or_default();
    let Ok(netns) = NetNs::open(path.as_ref()) else { return Ok(Remains::Nothing) };
    match inspect::namespace_number(host, &netns) {
        Ok(number) if number == end.peer_namespace => Ok(Remains::HalfMade(end.index)),
        _ => Ok(Remains::Nothing),
    }
}

/// Removes the link of this container, if there is one.
fn remove_link(target: &Target, ended: &DelRequest) -> Result<(), LinkError> {
    let mut host = Socket::route()?;
    match remains(&mut host, target, ended)? {
        Remains::Nothing => Ok(()),
        Remains::HalfMade(index) | Remains::Link(index) => links::delete(&mut host, index),
    }
}
