//! Finds the router at the other end of a link by its advertisements (RFC 4861 §6), and lets it find us.
//!
//! Nobody is made anybody's default router: what we advertise has a lifetime of 0, and what we hear is only an address.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::cmsg_space;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::options;

/// How often a link is looked at: whether it is still there, is up and has its address.
const LOOK: Duration = Duration::from_secs(1);
/// The pause between two of our advertisements.
const ADVERTISE: Duration = Duration::from_secs(10);
/// The pause between two questions while nobody has answered (RFC 4861 §10).
const SOLICIT: Duration = Duration::from_secs(4);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// Type, code, checksum (the kernel's), and four octets of nothing.
const ASK: [u8; 8] = [SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
/// Type, code, checksum (the kernel's), then hop limit, flags, lifetime and timers, all of which say nothing.
const ADVERT: [u8; 16] = [ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The router at the other end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Neighbor {
    /// Its link-local address.
    pub(super) address: Ipv6Addr,
    /// The number of the link.
    pub(super) link: u32,
    /// Our link-local address there.
    pub(super) own: Ipv6Addr,
}

/// What is known of each link that is looked at: its router, or why there is none.
pub(super) type Found = BTreeMap<String, Result<Neighbor, String>>;

/// Looks at links for as long as the value lives.
#[derive(Debug)]
pub(super) struct Neighbors {
    found: watch::Sender<Found>,
    tasks: BTreeMap<String, AbortHandle>,
}

impl Neighbors {
    /// Looks at no link yet.
    pub(super) fn new() -> Self {
        Self { found: watch::Sender::default(), tasks: BTreeMap::new() }
    }

    /// Tells what is found, and when that changes.
    pub(super) fn subscribe(&self) -> watch::Receiver<Found> {
        self.found.subscribe()
    }

    /// Looks at these links and no others.
    pub(super) fn set(&mut self, links: &BTreeSet<String>) {
        self.tasks.retain(|link, task| {
            let keep = links.contains(link);
            if !keep {
                task.abort();
                self.found.send_modify(|found| drop(found.remove(link)));
            }
            keep
        });
        for link in links {
            if !self.tasks.contains_key(link) {
                let task = tokio::spawn(follow(link.clone(), self.found.clone()));
                self.tasks.insert(link.clone(), task.abort_handle());
            }
        }
    }
}

impl Drop for Neighbors {
    fn drop(&mut self) {
        self.tasks.values().for_each(AbortHandle::abort);
    }
}

fn tell(found: &watch::Sender<Found>, link: &str, state: Result<Neighbor, String>) {
    found.send_if_modified(|found| {
        let changed = found.get(link) != Some(&state);
        if changed {
            match &state {
                Ok(neighbor) => tracing::info!(link, address = %neighbor.address, "found a router"),
                Err(why) => {
                    tracing::warn!(link, why, "no router is known on a link: the session there waits")
                }
            }
            found.insert(link.to_owned(), state);
        }
        changed
    });
}

async fn follow(link: String, found: watch::Sender<Found>) {
    loop {
        let why = match Line::open(&link) {
            Ok(mut line) => line.follow(&link, &found).await,
            Err(why) => why,
        };
        tell(&found, &link, Err(why));
        tokio::time::sleep(LOOK).await;
    }
}

/// A socket on a link that is up.
struct Line {
    socket: UdpSocket,
    link: u32,
    own: Ipv6Addr,
}

impl Line {
    fn open(name: &str) -> Result<Self, String> {
        let (link, own) = standing(name)?;
        let socket =
            raw_socket(name, link).map_err(|error| format!("link {name} cannot be listened on: {error}"))?;
        Ok(Self { socket, link, own })
    }

    /// Follows the link until something about it changes, and says what.
    async fn follow(&mut self, name: &str, found: &watch::Sender<Found>) -> String {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut advertise, mut solicit) = (Instant::now(), Instant::now());
        let mut known: Option<Ipv6Addr> = None;
        loop {
            tokio::select! {
                _ = look.tick() => {
                    match standing(name) {
                        Ok(now) if now == (self.link, self.own) => {}
                        Ok(_) => return format!("link {name} has changed"),
                        Err(why) => return why,
                    }
                    if advertise <= Instant::now() {
                        self.send(&ADVERT, ALL_NODES).await;
                        advertise = Instant::now() + ADVERTISE;
                    }
                    if known.is_none() && solicit <= Instant::now() {
                        self.send(&ASK, ALL_ROUTERS).await;
                        solicit = Instant::now() + SOLICIT;
                        let waiting = format!("no router advertises itself on link {name} yet: the peer must send router advertisements there");
                        tell(found, name, Err(waiting));
                    }
                }
                heard = self.receive() => match heard {
                    Ok((ADVERTISEMENT, address)) if known != Some(address) => {
                        known = Some(address);
                        tell(found, name, Ok(Neighbor { address, link: self.link, own: self.own }));
                        // It may just have come up, and waits for ours.
                        self.send(&ADVERT, ALL_NODES).await;
                    }
                    Ok((SOLICITATION, _)) => self.send(&ADVERT, ALL_NODES).await,
                    Ok(_) => {}
                    Err(error) => return format!("link {name} cannot be listened on: {error}"),
                },
            }
        }
    }

    /// Says something on the link; what is lost is said again.
    async fn send(&self, message: &[u8], to: Ipv6Addr) {
        let to = SocketAddrV6::new(to, 0, 0, self.link);
        if let Err(error) = self.socket.send_to(message, to).await {
            tracing::debug!(%error, "a router advertisement cannot be sent");
        }
    }

    /// The type of a message of a neighbour, and its address. Others are nobody's.
    async fn receive(&self) -> io::Result<(u8, Ipv6Addr)> {
        loop {
            let heard = self.socket.async_io(Interest::READABLE, || receive(&self.socket)).await?;
            if let Some(heard) = heard.filter(|(_, from)| *from != self.own) {
                return Ok(heard);
            }
        }
    }
}

fn receive(socket: &UdpSocket) -> io::Result<Option<(u8, Ipv6Addr)>> {
    let mut octets = [0; 16];
    let mut room = cmsg_space!(i32);
    let mut parts = [IoSliceMut::new(&mut octets)];
    let message =
        recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut room), MsgFlags::MSG_DONTWAIT)?;
    let from = message.address.map(|from| from.ip());
    let mut notes = message.cmsgs()?;
    // Whatever passed a router is not of a neighbour (RFC 4861 §6.1).
    let near = notes.any(|note| matches!(note, ControlMessageOwned::Ipv6HopLimit(255)));
    let length = message.bytes;
    let kind = octets[0];
    let long = length >= if kind == ADVERTISEMENT { 16 } else { 8 };
    Ok(from.filter(|from| near && long && from.is_unicast_link_local()).map(|from| (kind, from)))
}

fn raw_socket(name: &str, link: u32) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    options::only_icmp(&socket, &[SOLICITATION, ADVERTISEMENT])?;
    socket.bind_device(Some(name.as_bytes()))?;
    socket.set_nonblocking(true)?;
    socket.set_multicast_hops_v6(255)?;
    socket.set_unicast_hops_v6(255)?;
    socket.set_multicast_loop_v6(false)?;
    socket.set_multicast_if_v6(link)?;
    socket.join_multicast_v6(&ALL_ROUTERS, link)?;
    setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
    UdpSocket::from_std(socket.into())
}

/// The number of a link that is up, and our link-local address there.
fn standing(name: &str) -> Result<(u32, Ipv6Addr), String> {
    let missing = || format!("there is no link {name} on this node");
    let link = if_nametoindex(name).map_err(|_| missing())?;
    let all = getifaddrs().map_err(|error| error.to_string())?;
    let of_link: Vec<_> = all.filter(|entry| entry.interface_name == name).collect();
    let up = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    if !of_link.iter().any(|entry| entry.flags.contains(up)) {
        return Err(format!("link {name} is down or has no carrier"));
    }
    let addresses = of_link.iter().filter_map(|entry| Some(entry.address.as_ref()?.as_sockaddr_in6()?.ip()));
    let own = addresses.into_iter().find(Ipv6Addr::is_unicast_link_local);
    own.map(|own| (link, own)).ok_or_else(|| format!("link {name} has no link-local address"))
}
