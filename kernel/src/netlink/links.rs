//! Makes, repairs and removes the links of pods.
//!
//! What a link looks like is said by [`crate::pod`]; here the requests are sent and their answers understood. All
//! functions block, the deletion of a single link for some 15 ms: the kernel waits for a grace period. The agent
//! therefore dooms links one by one ([`doom`]) and removes all that are doomed at once ([`remove_doomed`]), which
//! takes hardly longer than removing one.

use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnetwork::IpNetwork;
use nix::errno::Errno;
use nix::libc;

use super::guard;
use super::inspect::{self, End, FoundRoute};
use super::request::Batch;
use super::socket::{Answers, Replies, RequestError, Socket, SocketError};
use crate::aside::{Aside, PRIMARY, make_rule, table};
use crate::guard::Admission;
use crate::model::PROTOCOL;
use crate::names::{DOOMED_GROUP, GATEWAY_V4, HOST_MAC, alias};
use crate::netns::{NetNs, NetNsError};
use crate::pod::{DISTRUST, Existing, PodLink, default_metric, link_body, whole};
use crate::sysctl::{self, SysctlError};

/// How often the hardware address of a host's end is given back before that is somebody else's war.
const READDRESS_ATTEMPTS: usize = 5;

/// A pod's link could not be made, repaired or removed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The exchange with the kernel failed.
    #[error("the exchange with the kernel failed")]
    Socket(#[from] SocketError),
    /// The kernel refused a request.
    #[error("the kernel refused to {doing}")]
    Refused {
        /// What was to be done.
        doing: String,
        /// Why not.
        source: RequestError,
    },
    /// Somebody else's route is in the way.
    #[error("there is already a route to {dst} that is not Manx's, and Manx replaces only its own")]
    Occupied {
        /// The destination.
        dst: IpNetwork,
    },
    /// A pod has an IPv6 address and the node's kernel has no IPv6.
    #[error("the kernel of this node has no IPv6 (ipv6.disable=1?), so that it can have no pods with IPv6")]
    NoIpv6,
    /// A setting of a link cannot be made.
    #[error("a setting of the link cannot be made")]
    Sysctl(#[from] SysctlError),
    /// What the pod may send cannot be limited.
    #[error("the guard of {link} cannot be put in place")]
    Guard {
        /// The host's end.
        link: String,
        /// Why not.
        source: SocketError,
    },
    /// The pod's namespace cannot be entered.
    #[error("the pod's namespace cannot be entered")]
    NetNs(#[from] NetNsError),
    /// Somebody else keeps giving the link another hardware address.
    #[error(
        "something on this node keeps changing the hardware address of {0}: exempt cali* from udev, NetworkManager \
         and systemd-networkd"
    )]
    Contested(String),
    /// The link was removed by somebody else meanwhile.
    #[error("the link {0} vanished while it was being set up")]
    Vanished(String),
}

/// The two ends of a new link, by their indexes in their namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The host's end.
    pub host: u32,
    /// The pod's end.
    pub pod: u32,
}

/// Makes a link with one end in `netns`, both ends down and without addresses. `None` if one of the two names is
/// taken.
///
/// # Errors
/// If the kernel refuses for another reason.
pub fn create(host: &mut Socket, link: &PodLink, netns: &NetNs) -> Result<Option<Ends>, LinkError> {
    let replies = match host.send(&mut link.create(netns.as_fd()))?.all_done() {
        Ok(replies) => replies,
        Err(refusal) if refusal.errno == Errno::EEXIST => return Ok(None),
        Err(source) => {
            return Err(LinkError::Refused { doing: format!("make the link {}", link.link), source });
        }
    };
    // Kernels before 6.2 do not echo what they made.
    let echoed = replies.iter().find_map(|message| inspect::read_end(&message));
    let end = match echoed.filter(|end| end.peer.is_some()) {
        Some(end) => Some(end),
        None => inspect::end(host, &link.link)?,
    };
    let ends = end.and_then(|end| Some(Ends { host: end.index, pod: end.peer? }));
    ends.map(Some).ok_or_else(|| LinkError::Vanished(link.link.clone()))
}

/// Sets up the pod's end, or repairs it. `pod` is a socket inside `netns`. Gives the families of which the pod's
/// default route leads by another interface, and stays there.
///
/// # Errors
/// If the kernel refuses, or the pod has such routes by another link.
pub fn set_up_inside(
    pod: &mut Socket,
    netns: &NetNs,
    link: &PodLink,
    index: u32,
) -> Result<Aside, LinkError> {
    let aside = aside(pod, link, index)?;
    let plan = |existing| link.inside(index, aside, existing);
    let ours = |route: &FoundRoute| route.link == Some(index);
    let permit_ipv6 =
        || netns.within(|| permit_ipv6(&["all", "default", "lo", &link.ifname]))?.map_err(Into::into);
    let doing = format!("set up {} in the pod", link.ifname);
    Setup { plan, destinations: link.destinations_inside(aside), ours, permit_ipv6, doing }.run(pod)?;
    for &address in link.addresses.iter().filter(|address| aside.has(**address)) {
        match pod.send(&mut make_rule(address, table(index)))?.all_done() {
            Err(refusal) if refusal.errno != Errno::EEXIST => {
                let doing = format!("make the rule for what the pod sends from {address}");
                return Err(LinkError::Refused { doing, source: refusal });
            }
            _ => {}
        }
    }
    Ok(aside)
}

/// The families of which the pod's default route, or the way to the gateway, leads by another interface. The pod's
/// first interface is not asked for: it has them, or fails.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn aside(pod: &mut Socket, link: &PodLink, index: u32) -> Result<Aside, SocketError> {
    let mut aside = Aside::default();
    if link.ifname == PRIMARY {
        return Ok(aside);
    }
    let taken = |route: &FoundRoute| {
        let way = route.dst.prefix() == 0 || route.dst == whole(GATEWAY_V4.into());
        way && route.link != Some(index)
    };
    for route in inspect::routes(pod, None)?.iter().filter(|route| taken(route)) {
        if route.dst.is_ipv4() { aside.v4 = true } else { aside.v6 = true }
    }
    Ok(aside)
}

/// Sets up the host's end, or repairs it: settings, neighbours and the routes to the pod's addresses. Its hardware
/// address is read back: pods know their node by it.
///
/// The calling thread and `host` must be in the host's namespace.
///
/// # Errors
/// If the kernel refuses, or somebody else's route to one of the addresses is in the way.
pub fn set_up_outside(host: &mut Socket, link: &PodLink, index: u32) -> Result<(), LinkError> {
    distrust(link)?;
    admit(link)?;
    for _ in 0..READDRESS_ATTEMPTS {
        let plan = |existing| link.outside(index, existing);
        let ours = |route: &FoundRoute| route.protocol == PROTOCOL;
        let permit_ipv6 = || permit_ipv6(&[&link.link]).map_err(Into::into);
        let doing = format!("set up {} on the host", link.link);
        let setup = Setup { plan, destinations: link.destinations_outside(), ours, permit_ipv6, doing };
        let replies = setup.run(host)?;
        let end = replies.iter().find_map(|message| inspect::read_end(&message));
        if end.is_none_or(|end| end.mac == Some(HOST_MAC)) {
            return Ok(());
        }
        // The neighbours go with the address, so that all is put again.
        let readdressed = host.send(&mut PodLink::readdress(index, HOST_MAC))?.all_done();
        let doing = || format!("give {} the hardware address {HOST_MAC} again", link.link);
        readdressed.map_err(|source| LinkError::Refused { doing: doing(), source })?;
    }
    Err(LinkError::Contested(link.link.clone()))
}

/// Makes a link ours that another network's plugin made: as [`set_up_outside`], but whoever made the routes to the
/// pod's addresses, they are replaced in place as long as they lead to this very link. The MTU must be the link's.
///
/// # Errors
/// If the kernel refuses, or a route to one of the addresses leads elsewhere.
pub fn take_over(host: &mut Socket, link: &PodLink, index: u32) -> Result<(), LinkError> {
    distrust(link)?;
    admit(link)?;
    let plan = |existing| link.outside(index, existing);
    let ours = |route: &FoundRoute| route.protocol == PROTOCOL || route.link == Some(index);
    let permit_ipv6 = || permit_ipv6(&[&link.link]).map_err(Into::into);
    let doing = format!("take over {}", link.link);
    Setup { plan, destinations: link.destinations_outside(), ours, permit_ipv6, doing }.run(host)?;
    Ok(())
}

/// Gives the host's end of a link the hardware address by which its pod knows it. The kernel forgets the link's
/// neighbours with the address; those that are needed it finds again by itself, and ADD makes them permanent.
///
/// # Errors
/// If the kernel refuses.
pub fn readdress(host: &mut Socket, index: u32) -> Result<(), LinkError> {
    tolerate_absence(host.send(&mut PodLink::readdress(index, HOST_MAC))?, "change a hardware address")
}

/// Makes the kernel notice that the pod's end has carrier, once both ends are up.
///
/// The end that came up first is switched on by a worker in the kernel's own time; until then every packet that the
/// pod sends is dropped. A kernel from 6.8 on catches up when it is asked for the link; an older one needs no more
/// than a moment.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn await_carrier(pod: &mut Socket, link: &PodLink) -> Result<(), LinkError> {
    inspect::end(pod, &link.ifname)?;
    Ok(())
}

/// Removes a link by its index, and waits until it is gone. It need not be there any more.
///
/// # Errors
/// If the kernel refuses.
pub fn delete(socket: &mut Socket, index: u32) -> Result<(), LinkError> {
    let mut request = Batch::of(libc::RTM_DELLINK, 0, &link_body(index, 0, 0), |_| {});
    tolerate_absence(socket.send(&mut request)?, "remove a link")
}

/// Takes a link down and puts it into the group of those that [`remove_doomed`] removes. Its routes and neighbours
/// are gone at once. It need not be there any more.
///
/// # Errors
/// If the kernel refuses.
pub fn doom(socket: &mut Socket, index: u32) -> Result<(), LinkError> {
    let down = link_body(index, 0, libc::IFF_UP as u32);
    let mut request = Batch::of(libc::RTM_SETLINK, 0, &down, |link| {
        link.put_u32(libc::IFLA_GROUP, DOOMED_GROUP);
    });
    tolerate_absence(socket.send(&mut request)?, "take a link down")
}

/// Removes all doomed links at once, and waits until they are gone. There need not be any.
///
/// # Errors
/// If the kernel refuses.
pub fn remove_doomed(socket: &mut Socket) -> Result<(), LinkError> {
    let mut request = Batch::of(libc::RTM_DELLINK, 0, &link_body(0, 0, 0), |link| {
        link.put_u32(libc::IFLA_GROUP, DOOMED_GROUP);
    });
    tolerate_absence(socket.send(&mut request)?, "remove the doomed links")
}

/// The host end that belongs to this container's interface, whatever its name: first the link of the name that it
/// should have, then any other.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn find(
    host: &mut Socket,
    link: &str,
    container: &str,
    ifname: &str,
) -> Result<Option<End>, SocketError> {
    let alias = alias(container, ifname);
    let ours = |end: &End| end.alias.as_deref() == Some(&alias);
    if let Some(end) = inspect::end(host, link)?.filter(ours) {
        return Ok(Some(end));
    }
    Ok(inspect::ends(host)?.into_iter().find(ours))
}

/// Some requests that are sent until they are done, or until it is clear that they cannot be.
struct Setup<P, O, I> {
    plan: P,
    destinations: Vec<IpNetwork>,
    ours: O,
    permit_ipv6: I,
    doing: String,
}

impl<P, O, I> Setup<P, O, I>
where
    P: Fn(Existing) -> Batch,
    O: Fn(&FoundRoute) -> bool,
    I: Fn() -> Result<(), LinkError>,
{
    /// Sends the plan. If IPv6 is switched off on the link, it is switched on and the plan sent again; if routes
    /// are in the way, the plan is sent again to replace them, provided that all of them are ours.
    fn run(self, socket: &mut Socket) -> Result<Replies, LinkError> {
        let mut existing = Existing::Refuse;
        let mut ipv6_permitted = false;
        loop {
            let Answers { results, replies } = socket.send(&mut (self.plan)(existing))?;
            let refusals: Vec<RequestError> = results.into_iter().filter_map(Result::err).collect();
            let Some(worst) = refusals.iter().find(|r| r.errno != Errno::EEXIST).or_else(|| refusals.first())
            else {
                return Ok(replies);
            };
            if refusals.iter().any(|refusal| refusal.errno == Errno::EACCES) && !ipv6_permitted {
                (self.permit_ipv6)()?;
                ipv6_permitted = true;
            } else if worst.errno == Errno::EEXIST && existing == Existing::Refuse {
                existing = Existing::Replace;
                self.check_routes_in_the_way(socket)?;
            } else {
                return Err(LinkError::Refused { doing: self.doing, source: worst.clone() });
            }
        }
    }

    fn check_routes_in_the_way(&self, socket: &mut Socket) -> Result<(), LinkError> {
        let wanted = |route: &FoundRoute| {
            self.destinations.contains(&route.dst) && route.metric == default_metric(route.dst)
        };
        let foreign = inspect::routes(socket, None)?.into_iter().find(|r| wanted(r) && !(self.ours)(r));
        foreign.map_or(Ok(()), |route| Err(LinkError::Occupied { dst: route.dst }))
    }
}

/// The host believes nothing that a pod says about the network, from the first packet on: no router advertisements
/// (also where pods have no IPv6 address), and no probing for the host end's own link-local address.
fn distrust(link: &PodLink) -> Result<(), LinkError> {
    let wants_ipv6 = link.addresses.iter().any(IpAddr::is_ipv6);
    for setting in DISTRUST {
        match sysctl::write(&sysctl::ipv6(&link.link, setting), "0") {
            // The kernel has no IPv6 here, and so nothing to distrust.
            Err(error) if error.is_unknown() && !wants_ipv6 => return Ok(()),
            Err(error) if error.is_unknown() && !sysctl::has_ipv6() => return Err(LinkError::NoIpv6),
            other => other?,
        }
    }
    Ok(())
}

/// The host takes nothing from the link but what the pod itself may send. Where the kernel cannot do that, what
/// [`distrust`] and the link's settings refuse must do; the agent says so.
fn admit(link: &PodLink) -> Result<(), LinkError> {
    let refused = |source| LinkError::Guard { link: link.link.clone(), source };
    let Some(mut netfilter) = netfilter()? else { return Ok(()) };
    guard::admit(&mut netfilter, &Admission::of(link)).map(drop).map_err(refused)
}

/// Whether what the pod may send is limited as it should be, or cannot be on this kernel. The calling thread must be in
/// the host's namespace.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn is_guarded(link: &PodLink) -> Result<bool, SocketError> {
    let Some(mut netfilter) = netfilter()? else { return Ok(true) };
    Ok(guard::admitted(&mut netfilter, &Admission::of(link))?.unwrap_or(true))
}

/// `None` on a kernel without netfilter.
fn netfilter() -> Result<Option<Socket>, SocketError> {
    match Socket::netfilter() {
        Err(SocketError::Io { errno: Errno::EPROTONOSUPPORT, .. }) => Ok(None),
        socket => socket.map(Some),
    }
}

/// Switches IPv6 on where a runtime or an operator has switched it off for new links.
fn permit_ipv6(links: &[&str]) -> Result<(), SysctlError> {
    links.iter().try_for_each(|link| sysctl::write(&sysctl::ipv6(link, "disable_ipv6"), "0"))
}

fn tolerate_absence(answers: Answers, doing: &str) -> Result<(), LinkError> {
    match answers.all_done() {
        Err(refusal) if matches!(refusal.errno, Errno::ENODEV | Errno::ESRCH) => Ok(()),
        Err(source) => Err(LinkError::Refused { doing: doing.to_owned(), source }),
        Ok(_) => Ok(()),
    }
}
