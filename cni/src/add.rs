//! ADD: addresses from the agent, then the link.
//!
//! Everything that can be wrong with the call is found before the agent is asked. From then on a failure gives the
//! addresses back and removes what was made, unless the link had been there before: repeating ADD for a running pod
//! repairs its link and never tears it down.

use std::net::IpAddr;

use manx_cni::rpc::{AddRequest, Assignment, DelRequest};
use manx_cni::spec::{Code, Dns, Error, Interface, Ip, NetConf, Route, Success, Target};
use manx_cni::tombstone;
use manx_kernel::aside::Aside;
use manx_kernel::names::{DOOMED_GROUP, HOST_MAC, LINK_GROUP, Mac, alias, host_link_name, parse_alias};
use manx_kernel::netlink::inspect::{self, End, Neighbour};
use manx_kernel::netlink::links::{self, Ends, LinkError};
use manx_kernel::netlink::socket::Socket;
use manx_kernel::netns::NetNs;
use manx_kernel::pod::{PodLink, everywhere, gateway, whole};

use crate::agent::{self, AddFailure};
use crate::del;

/// The smallest MTU with which IPv6 works (RFC 8200 §5).
const IPV6_MTU: u32 = 1280;

/// Makes the link and returns the result for the runtime.
pub(crate) fn add(target: &Target, config: &NetConf) -> Result<Success, Error> {
    check_previous(target, config)?;
    let mut sockets = Sockets::open(target)?;
    let request = request(target, config);
    let ended = DelRequest {
        container: request.container.clone(),
        ifname: request.ifname.clone(),
        link: request.link.clone(),
    };
    let assignment = assign(target, config, request, &ended)?;
    let mac = assigned_mac(&assignment)
        .or_else(|| requested_mac(target, config))
        .unwrap_or_else(|| Mac::of_pod(&target.container, &target.ifname));
    let link = PodLink {
        container: target.container.clone(),
        ifname: target.ifname.clone(),
        link: ended.link.clone(),
        mtu: config.mtu.unwrap_or(assignment.mtu),
        addresses: assignment.addresses,
        mac,
    };
    match make(&mut sockets, &link) {
        Ok(aside) => Ok(success(target, config, &link, aside)),
        Err((error, undo)) => {
            undo_all(&mut sockets.host, target, config, &ended, undo);
            Err(error)
        }
    }
}

fn undo_all(host: &mut Socket, target: &Target, config: &NetConf, ended: &DelRequest, undo: Undo) {
    match undo {
        Undo::Nothing => {}
        Undo::Addresses => del::free_unless_linked(target, config, ended),
        Undo::Link(index) => {
            // The error that is being reported matters more; GC finds what may be left.
            let _ = links::delete(host, index);
            del::free(config, ended);
        }
    }
}

/// A plugin before this one must not have made the interface that this one is to make.
fn check_previous(target: &Target, config: &NetConf) -> Result<(), Error> {
    let previous = config.previous.iter().flat_map(|previous| &previous.interfaces);
    let mut same = previous.filter(|link| link.name == target.ifname && link.sandbox == target.netns);
    same.next().map_or(Ok(()), |_| {
        let msg =
            format!("a plugin before this one has already made {} (it is in prevResult)", target.ifname);
        Err(Error::new(Code::LINK_EXISTS, msg)
            .details("put manx-cni first, or give one of them another name"))
    })
}

/// The host's end of the link of a target, by name.
pub(crate) fn link_name(target: &Target) -> String {
    let pod = target.args.pod.as_ref().map(|pod| (&*pod.namespace, &*pod.name));
    host_link_name(pod, &target.container, &target.ifname)
}

/// The pod's namespace and a netlink socket on either side.
pub(crate) struct Sockets {
    pub(crate) netns: NetNs,
    pub(crate) pod: Socket,
    pub(crate) host: Socket,
}

impl Sockets {
    /// Opens the namespace that the runtime named, and makes sure that it is one and not the host's own.
    pub(crate) fn open(target: &Target) -> Result<Self, Error> {
        let wrong = |reason: String| {
            Error::new(
                Code::INVALID_ENVIRONMENT,
                "environment variable CNI_NETNS does not name a pod's namespace",
            )
            .details(reason)
        };
        let path = target.netns.as_deref().unwrap_or_default();
        let netns = NetNs::open(path.as_ref()).map_err(|error| wrong(error.to_string()))?;
        let own = NetNs::current().map_err(|error| wrong(error.to_string()))?;
        if netns.same_as(&own) {
            return Err(wrong(format!("{path} is the host's own network namespace")));
        }
        let pod = netns.within(Socket::route).map_err(|error| wrong(error.to_string()))?;
        let no_socket = |error| kernel("the kernel cannot be asked: no netlink socket can be opened", &error);
        Ok(Self { netns, pod: pod.map_err(no_socket)?, host: Socket::route().map_err(no_socket)? })
    }
}

/// The hardware address that the agent decided on: it knows what the runtime asked for, and what the pod says.
pub(crate) fn assigned_mac(assignment: &Assignment) -> Option<Mac> {
    assignment.mac.as_ref().and_then(|mac| mac.parse().ok())
}

fn requested_mac(target: &Target, config: &NetConf) -> Option<Mac> {
    config.mac.or(target.args.mac)
}

fn request(target: &Target, config: &NetConf) -> AddRequest {
    let asked = if config.addresses.is_empty() { &target.args.addresses } else { &config.addresses };
    AddRequest {
        network: config.name.clone(),
        container: target.container.clone(),
        ifname: target.ifname.clone(),
        netns: target.netns.clone().unwrap_or_default(),
        pod: target.args.pod.clone(),
        link: link_name(target),
        addresses: asked.clone(),
        mac: requested_mac(target, config).map(|mac| mac.to_string()),
        mtu: config.mtu,
    }
}

/// Asks the agent. Where it is unknown what the agent did, it is told to undo it, now or when it is back.
fn assign(
    target: &Target,
    config: &NetConf,
    request: AddRequest,
    ended: &DelRequest,
) -> Result<Assignment, Error> {
    // A tombstone of an earlier life of this container must not free what is assigned now.
    let attachment =
        manx_cni::rpc::Attachment { container: ended.container.clone(), ifname: ended.ifname.clone() };
    tombstone::clear(&config.run_dir, &attachment).map_err(|error| {
        Error::new(
            Code::TRY_AGAIN,
            "an old note about this container (/run/manx/tombstones) cannot be removed",
        )
        .details(error.to_string())
    })?;
    let assignment = agent::add(&config.run_dir, request).map_err(|failure| match failure {
        AddFailure::NotAsked(error) | AddFailure::Refused(error) => error,
        AddFailure::Unknown(error) => {
            del::free_unless_linked(target, config, ended);
            error
        }
    })?;
    let mtu = config.mtu.unwrap_or(assignment.mtu);
    if mtu < IPV6_MTU && assignment.addresses.iter().any(IpAddr::is_ipv6) {
        del::free_unless_linked(target, config, ended);
        let msg = format!("an MTU of {mtu} is too small for IPv6, which needs at least {IPV6_MTU}");
        return Err(Error::new(Code::INVALID_CONFIG, msg));
    }
    Ok(assignment)
}

/// What a failed ADD has to undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Undo {
    /// The link was there before: the pod runs, and keeps its link and addresses.
    Nothing,
    /// No link was made that this call knows of: the addresses are to be freed, unless their link is there.
    Addresses,
    /// The link of this index is to be removed and the addresses freed.
    Link(u32),
}

/// Makes the link, or repairs the one that is there already.
fn make(sockets: &mut Sockets, link: &PodLink) -> Result<Aside, (Error, Undo)> {
    let failed = |error: LinkError| (link_error(&error), Undo::Addresses);
    let ends = match links::create(&mut sockets.host, link, &sockets.netns).map_err(failed)? {
        Some(ends) => ends,
        None => match make_room(sockets, link)? {
            Room::Repair(ends) => {
                return set_up(sockets, link, ends).map_err(|error| (link_error(&error), Undo::Nothing));
            }
            Room::Free => links::create(&mut sockets.host, link, &sockets.netns)
                .map_err(failed)?
                .ok_or_else(|| taken(link))?,
        },
    };
    set_up(sockets, link, ends).map_err(|error| (link_error(&error), Undo::Link(ends.host)))
}

/// The pod's end first: bringing the host's end up while its peer is down costs a grace period.
fn set_up(sockets: &mut Sockets, link: &PodLink, ends: Ends) -> Result<Aside, LinkError> {
    let aside = links::set_up_inside(&mut sockets.pod, &sockets.netns, link, ends.pod)?;
    links::set_up_outside(&mut sockets.host, link, ends.host)?;
    links::await_carrier(&mut sockets.pod, link)?;
    Ok(aside)
}

/// What became of the name that was taken.
enum Room {
    /// It is this container's own link, whole.
    Repair(Ends),
    /// Whatever had it is gone.
    Free,
}

/// Finds out who has the name of the new link. What Manx left behind goes: the link of an older container of the same
/// pod, a link that lost its other end, one that was half made. Anybody else's stays.
fn make_room(sockets: &mut Sockets, link: &PodLink) -> Result<Room, (Error, Undo)> {
    let failed = |error: LinkError| (link_error(&error), Undo::Addresses);
    let host = inspect::end(&mut sockets.host, &link.link).map_err(|error| failed(error.into()))?;
    let Some(host) = host else { return Err(taken(link)) };
    let own = host.alias.as_deref() == Some(&alias(&link.container, &link.ifname));
    if own && let Some(ends) = whole_link(sockets, link, &host).map_err(|error| failed(error.into()))? {
        return Ok(Room::Repair(ends));
    }
    if !is_ours(&host) {
        let msg = format!("the node already has a link {} that is not one of Manx's", link.link);
        let way_out = format!("if nothing uses it, remove it with: ip link delete {}", link.link);
        return Err((Error::new(Code::LINK_EXISTS, msg).details(way_out), Undo::Addresses));
    }
    links::delete(&mut sockets.host, host.index).map_err(failed)?;
    Ok(Room::Free)
}

/// Whether Manx made this link, by its alias, or by its group if it was never finished.
pub(crate) fn is_ours(host: &End) -> bool {
    match &host.alias {
        Some(alias) => parse_alias(alias).is_some(),
        None => host.group == LINK_GROUP,
    }
}

/// The two ends of this container's link, if they still belong to each other, are not on their way out, and have never
/// carried other addresses than those that the agent gives now.
fn whole_link(
    sockets: &mut Sockets,
    link: &PodLink,
    host: &End,
) -> Result<Option<Ends>, manx_kernel::netlink::socket::SocketError> {
    let neighbours = inspect::neighbours(&mut sockets.host, host.index)?;
    let stale =
        |(address, found): (&IpAddr, &Neighbour)| found.permanent && !link.addresses.contains(address);
    if host.group == DOOMED_GROUP || neighbours.iter().any(stale) {
        return Ok(None);
    }
    let pod = inspect::end(&mut sockets.pod, &link.ifname)?;
    let number = inspect::namespace_number(&mut sockets.host, &sockets.netns)?;
    let paired = |pod: &End| {
        host.peer == Some(pod.index)
            && pod.peer == Some(host.index)
            && host.peer_namespace == number
            && pod.mac == Some(link.mac)
    };
    Ok(pod.filter(paired).map(|pod| Ends { host: host.index, pod: pod.index }))
}

fn taken(link: &PodLink) -> (Error, Undo) {
    let msg =
        format!("the pod already has an interface {}, and it is not this container's Manx link", link.ifname);
    (Error::new(Code::LINK_EXISTS, msg), Undo::Addresses)
}

/// A failure of the kernel as the runtime gets to see it: the chain of causes in the details.
pub(crate) fn link_error(error: &LinkError) -> Error {
    kernel(&error.to_string(), std::error::Error::source(error).unwrap_or(error))
}

pub(crate) fn kernel(msg: &str, cause: &dyn std::error::Error) -> Error {
    let mut chain = cause.to_string();
    let mut next = cause.source();
    while let Some(cause) = next {
        chain = format!("{chain}: {cause}");
        next = cause.source();
    }
    let error = Error::new(Code::KERNEL, msg);
    if chain == msg { error } else { error.details(chain) }
}

/// The result: what plugins before this one made, then the host's end, the pod's end, its addresses and routes.
fn success(target: &Target, config: &NetConf, link: &PodLink, aside: Aside) -> Success {
    let mut result = config.previous.clone().unwrap_or_default();
    let host = Interface {
        name: link.link.clone(),
        mac: Some(HOST_MAC.to_string()),
        mtu: Some(link.mtu),
        ..Interface::default()
    };
    let pod = Interface {
        name: link.ifname.clone(),
        mac: Some(link.mac.to_string()),
        sandbox: target.netns.clone(),
        ..host.clone()
    };
    result.interfaces.extend([host, pod]);
    let interface = Some(result.interfaces.len() - 1);
    for &address in &link.addresses {
        let gateway = gateway(address);
        result.ips.push(Ip { interface, address: whole(address), gateway: Some(gateway) });
        // The route of a second interface is for its own address alone: whoever reads it here would take it for more.
        if !aside.has(address) {
            result.routes.push(Route::via(everywhere(address), gateway));
        }
    }
    if result.dns == Dns::default() {
        result.dns = config.dns.clone();
    }
    result
}
