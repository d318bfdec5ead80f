//! TCP sockets as a BGP session wants them: listeners, dialling, and what both sides set on a socket.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::options::{only, set_key, set_min_ttl};
use crate::node::intent::Transport;

/// The longest wait for a connection to be made; the session's own retry goes on from there.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// What the handshake of an accepted connection is sent with: a peer with TTL security takes nothing less, and which
/// peer calls is known only afterwards.
const FULL_TTL: u8 = 255;
/// What the system sends with unless told otherwise.
const USUAL_TTL: u8 = 64;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// Network control, before all else (DSCP CS6, RFC 4594 §3.1).
const CS6: u32 = 0xc0;

/// Listens on an address, also before the address is there.
///
/// # Errors
/// When the port is taken or may not be bound.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    mark(&SockRef::from(&socket), address.is_ipv6(), FULL_TTL)?;
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
        socket.bind(from(source, target))?;
    }
    prepare(&SockRef::from(&socket), target, transport)?;
    if transport.key.is_some() {
        set_key(&socket, only(target.ip()), transport.key.as_ref())?;
    }
    tokio::time::timeout(CONNECT_TIME, socket.connect(target)).await?
}

/// The local end: a link-local address is one of the link that leads to the peer.
fn from(source: IpAddr, target: SocketAddr) -> SocketAddr {
    let mut local = SocketAddr::new(source, 0);
    if let (SocketAddr::V6(local), SocketAddr::V6(target)) = (&mut local, target)
        && local.ip().is_unicast_link_local()
    {
        local.set_scope_id(target.scope_id());
    }
    local
}

/// Sets on an accepted connection what a dialled one has from the start.
///
/// # Errors
/// When the kernel refuses an option.
pub(super) fn adopt(stream: &TcpStream, transport: &Transport) -> io::Result<()> {
    let remote = stream.peer_addr()?;
    if transport.key.is_some() {
        // The key came with it from the listener, and may have changed since; before Linux 5.8 it could not.
        let _unchanged = set_key(stream, only(remote.ip()), transport.key.as_ref());
    }
    prepare(&SockRef::from(stream), remote, transport)
}

/// Changes a connection to what its peer's transport is now. A key counts from the next segment on.
///
/// # Errors
/// When the kernel refuses an option; the connection is then to be closed, as it is not what was asked for.
pub(super) fn change(
    socket: &Socket,
    remote: SocketAddr,
    old: &Transport,
    new: &Transport,
) -> io::Result<()> {
    prepare(socket, remote, new)?;
    if old.min_ttl.is_some() && new.min_ttl.is_none() {
        set_min_ttl(socket, remote, 0)?;
    }
    if old.key != new.key {
        set_key(socket, only(remote.ip()), new.key.as_ref())?;
    }
    Ok(())
}

fn prepare(socket: &Socket, remote: SocketAddr, transport: &Transport) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(transport.patience))?;
    let probe = (transport.patience / 3).max(Duration::from_secs(1));
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(probe).with_interval(probe))?;
    mark(socket, remote.is_ipv6(), transport.ttl.unwrap_or(USUAL_TTL))?;
    if let Some(least) = transport.min_ttl {
        set_min_ttl(socket, remote, least)?;
    }
    Ok(())
}

fn mark(socket: &Socket, v6: bool, ttl: u8) -> io::Result<()> {
    if v6 {
        socket.set_tclass_v6(CS6)?;
        socket.set_unicast_hops_v6(ttl.into())
    } else {
        socket.set_tos_v4(CS6)?;
        socket.set_ttl_v4(ttl.into())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::timeout;

    use super::super::options::set_key;
    use super::*;
    use crate::node::secret::Key;

    const LOOPBACKS: [&str; 2] = ["127.0.0.1", "::1"];

    fn keyed(key: &str) -> Transport {
        Transport { key: Some(Key::new(key.as_bytes().to_vec())), ..Transport::default() }
    }

    fn listener_for(address: &str, transport: &Transport) -> (TcpListener, SocketAddr) {
        let address: IpAddr = address.parse().expect("an address");
        let listener = listen(SocketAddr::new(address, 0)).expect("listening");
        set_key(&listener, only(address), transport.key.as_ref()).expect("the key is set");
        let target = listener.local_addr().expect("an address");
        (listener, target)
    }

    async fn pair(address: &str, transport: &Transport) -> (TcpStream, TcpStream) {
        let (listener, target) = listener_for(address, transport);
        let dialled = dial(target, Some(target.ip()), transport).await.expect("connected");
        let (accepted, _) = listener.accept().await.expect("a connection");
        adopt(&accepted, transport).expect("options are set");
        (dialled, accepted)
    }

    async fn says(from: &mut TcpStream, to: &mut TcpStream, word: &[u8; 4]) -> bool {
        from.write_all(word).await.expect("written");
        heard(to, word).await
    }

    async fn heard(to: &mut TcpStream, word: &[u8; 4]) -> bool {
        let mut read = [0; 4];
        timeout(Duration::from_secs(5), to.read_exact(&mut read)).await.is_ok_and(|read| read.is_ok())
            && read == *word
    }

    #[tokio::test]
    async fn a_session_with_ttl_security_still_connects_over_loopback() {
        for address in LOOPBACKS {
            let gtsm = Transport { ttl: Some(255), min_ttl: Some(255), ..Transport::default() };
            let (mut dialled, mut accepted) = pair(address, &gtsm).await;
            assert!(says(&mut dialled, &mut accepted, b"open").await);
        }
    }

    #[tokio::test]
    async fn listening_on_an_address_that_is_not_there_yet_is_no_error() {
        listen("192.0.2.77:0".parse().expect("an address")).expect("listening");
    }

    #[tokio::test]
    async fn both_ends_with_one_key_connect_and_others_do_not() {
        for address in LOOPBACKS {
            let (mut dialled, mut accepted) = pair(address, &keyed("s3cret")).await;
            assert!(says(&mut dialled, &mut accepted, b"open").await);
            let (listener, target) = listener_for(address, &keyed("s3cret"));
            for wrong in [Transport::default(), keyed("other")] {
                let dialled = dial(target, Some(target.ip()), &wrong);
                assert!(timeout(Duration::from_millis(300), dialled).await.is_err(), "{wrong:?} connected");
            }
            drop(listener);
        }
    }

    #[tokio::test]
    async fn a_key_changes_under_a_connection_and_what_was_sent_meanwhile_arrives() {
        for address in LOOPBACKS {
            let (old, new) = (keyed("old"), keyed("new"));
            let (mut dialled, mut accepted) = pair(address, &old).await;
            assert!(says(&mut dialled, &mut accepted, b"open").await);
            let remote = dialled.peer_addr().expect("an address");
            change(&SockRef::from(&dialled), remote, &old, &new).expect("changed");
            dialled.write_all(b"next").await.expect("written");
            let early = timeout(Duration::from_millis(50), accepted.peek(&mut [0; 4])).await;
            assert!(early.is_err(), "a segment with a key that is not known yet was taken");
            let remote = accepted.peer_addr().expect("an address");
            change(&SockRef::from(&accepted), remote, &old, &new).expect("changed");
            assert!(heard(&mut accepted, b"next").await, "nothing is lost");
            assert!(says(&mut accepted, &mut dialled, b"back").await);
        }
    }

    #[tokio::test]
    async fn a_key_can_come_and_go_under_a_connection() {
        let (none, some) = (Transport::default(), keyed("s3cret"));
        let (mut dialled, mut accepted) = pair("127.0.0.1", &none).await;
        for (old, new) in [(&none, &some), (&some, &none)] {
            for end in [&dialled, &accepted] {
                let remote = end.peer_addr().expect("an address");
                change(&SockRef::from(end), remote, old, new).expect("changed");
            }
            assert!(says(&mut dialled, &mut accepted, b"ping").await);
            assert!(says(&mut accepted, &mut dialled, b"pong").await);
        }
    }

    #[tokio::test]
    async fn control_traffic_is_marked_and_watched() {
        let (dialled, accepted) = pair("127.0.0.1", &Transport::default()).await;
        for end in [&dialled, &accepted] {
            let socket = SockRef::from(end);
            assert_eq!(socket.tos_v4().expect("read"), CS6);
            assert!(socket.keepalive().expect("read") && socket.tcp_nodelay().expect("read"));
            assert_eq!(socket.tcp_user_timeout().expect("read"), Some(Transport::PATIENCE));
        }
    }
}
