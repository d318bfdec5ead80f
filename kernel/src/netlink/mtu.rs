//! Gives a running pod's link another MTU, on both ends.
//!
//! A veth drops what is larger than the MTU of the end that receives it, without a word. So both ends change or
//! neither does: the pod's first, and the host's, by which it shows that all is done, last.

use std::path::Path;

use nix::libc;

use super::inspect::{self, End};
use super::links::{LinkError, find};
use super::request::Batch;
use super::socket::Socket;
use crate::names::DOOMED_GROUP;
use crate::netns::{NetNs, NetNsError};
use crate::pod::link_body;

/// Which link: the name of its host end, and whose it is.
#[derive(Debug, Clone, Copy)]
pub struct Which<'a> {
    /// Name of the host's end.
    pub link: &'a str,
    /// The container id.
    pub container: &'a str,
    /// Name of the pod's end.
    pub ifname: &'a str,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resized {
    /// Both ends have the MTU now.
    Changed,
    /// They had it before.
    Already,
    /// There is no such link.
    NoLink,
}

/// Why a link keeps its MTU.
#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    /// The pod's namespace is not to be found, or cannot be entered.
    #[error("the pod's namespace cannot be entered")]
    Unreachable(#[from] NetNsError),
    /// It is not on record where the pod's end is.
    #[error("the path of the pod's namespace is not on record")]
    Nowhere,
    /// What is there is not the other end of the link.
    #[error("{path} is not the namespace of the pod's end")]
    Stranger {
        /// The path.
        path: String,
    },
    /// The kernel refused.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// Gives both ends of a link this MTU. The pod's end keeps another one that somebody gave it, as long as that is
/// smaller. Nothing is changed where the pod's end cannot be reached.
///
/// The calling thread and `host` must be in the host's namespace; the thread enters the pod's for a moment.
///
/// # Errors
/// See [`ResizeError`].
pub fn resize(
    host: &mut Socket,
    which: Which<'_>,
    netns: Option<&Path>,
    mtu: u32,
) -> Result<Resized, ResizeError> {
    let outer = find(host, which.link, which.container, which.ifname).map_err(LinkError::from)?;
    let Some(outer) = outer.filter(|end| end.group != DOOMED_GROUP) else { return Ok(Resized::NoLink) };
    if outer.mtu == mtu {
        return Ok(Resized::Already);
    }
    let path = netns.ok_or(ResizeError::Nowhere)?;
    let mut pod = NetNs::open(path)?.within(Socket::route)?.map_err(LinkError::from)?;
    let inner = inspect::end(&mut pod, which.ifname).map_err(LinkError::from)?;
    let paired = |inner: &End| inner.peer == Some(outer.index) && outer.peer == Some(inner.index);
    let Some(inner) = inner.filter(paired) else {
        return Err(ResizeError::Stranger { path: path.display().to_string() });
    };
    if inner.mtu == outer.mtu || inner.mtu > mtu {
        set(&mut pod, &inner, mtu)?;
    }
    set(host, &outer, mtu)?;
    Ok(Resized::Changed)
}

fn set(socket: &mut Socket, end: &End, mtu: u32) -> Result<(), LinkError> {
    let mut request = Batch::of(libc::RTM_SETLINK, 0, &link_body(end.index, 0, 0), |link| {
        link.put_u32(libc::IFLA_MTU, mtu);
    });
    let done = socket.send(&mut request)?.all_done();
    let doing = || format!("give {} the MTU {mtu}", end.name);
    done.map(drop).map_err(|source| LinkError::Refused { doing: doing(), source })
}
