//! TCP sockets as a BGP session wants them: listeners, dialling, and what both sides set on a socket.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::node::intent::Transport;

/// How long a peer may leave our bytes unacknowledged before the kernel gives the connection up.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest wait for a connection to be made; the session's own retry goes on from there.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// What the handshake of an accepted connection is sent with: a peer with TTL security takes nothing less, and which
/// peer calls is known only afterwards.
const FULL_TTL: u32 = 255;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Listens on one address of the node, also before the address is there.
///
/// # Errors
/// When the port is taken or may not be bound.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_unicast_hops_v6(FULL_TTL)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_ttl_v4(FULL_TTL)?;
        socket.set_freebind_v4(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Connects to a peer from the address that it expects.
///
/// # Errors
/// When the connection cannot be made in time.
pub(super) async fn dial(
    target: SocketAddr,
    source: Option<IpAddr>,
    transport: &Transport,
) -> io::Result<TcpStream> {
    let socket = if target.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    prepare(&SockRef::from(&socket), target, transport)?;
    tokio::time::timeout(CONNECT_TIME, socket.connect(target)).await?
}

/// Sets on an accepted connection what a dialled one has from the start.
///
/// # Errors
/// When the kernel refuses an option.
pub(super) fn adopt(stream: &TcpStream, transport: &Transport) -> io::Result<()> {
    prepare(&SockRef::from(stream), stream.peer_addr()?, transport)
}

fn prepare(socket: &SockRef<'_>, remote: SocketAddr, transport: &Transport) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    if let Some(ttl) = transport.ttl {
        if remote.is_ipv6() {
            socket.set_unicast_hops_v6(u32::from(ttl))?;
        } else {
            socket.set_ttl_v4(u32::from(ttl))?;
        }
    }
    if let Some(least) = transport.min_ttl {
        set_min_ttl(socket, remote, least)?;
    }
    Ok(())
}

mod options {
    //! Socket options that neither socket2 nor nix names.
    use nix::{getsockopt_impl, libc, setsockopt_impl, sockopt_impl};
    sockopt_impl!(
        /// The least TTL of a packet that is taken (GTSM, RFC 5082 §3).
        MinTtl, Both, libc::IPPROTO_IP, libc::IP_MINTTL, i32);
    sockopt_impl!(
        /// The least hop limit of a packet that is taken (GTSM, RFC 5082 §3).
        MinHops, Both, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, i32);
}

fn set_min_ttl(socket: &SockRef<'_>, remote: SocketAddr, least: u8) -> io::Result<()> {
    use std::os::fd::AsFd as _;
    let least = i32::from(least);
    let fd = socket.as_fd();
    let set = if remote.is_ipv6() {
        nix::sys::socket::setsockopt(&fd, options::MinHops, &least)
    } else {
        nix::sys::socket::setsockopt(&fd, options::MinTtl, &least)
    };
    set.map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_session_with_ttl_security_still_connects_over_loopback() {
        let listener = listen("127.0.0.1:0".parse().expect("an address")).expect("listening");
        let gtsm = Transport { ttl: Some(255), min_ttl: Some(255) };
        let target = listener.local_addr().expect("an address");
        let source = Some("127.0.0.1".parse().expect("an address"));
        let dialled = dial(target, source, &gtsm).await.expect("connected");
        let (accepted, _) = listener.accept().await.expect("a connection");
        adopt(&accepted, &gtsm).expect("options are set");
        assert_eq!(dialled.peer_addr().expect("an address"), target);
    }

    #[tokio::test]
    async fn listening_on_an_address_that_is_not_there_yet_is_no_error() {
        listen("192.0.2.77:0".parse().expect("an address")).expect("listening");
    }
}
