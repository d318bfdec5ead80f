//! Servers on every address of both families: lines over TCP, datagrams, HTTP.
//!
//! A line `send N` is answered with N octets, `take N` with an answer once N octets have come; any other with an answer.

use std::fmt;
use std::io::{self, BufRead as _, BufReader, IoSlice, IoSliceMut, Read, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::sockopt::Ipv6RecvPacketInfo;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::answer::answer;

/// Where to serve what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ports {
    /// Lines over TCP.
    pub(crate) tcp: Option<u16>,
    /// Datagrams.
    pub(crate) udp: Option<u16>,
    /// HTTP.
    pub(crate) http: Option<u16>,
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = [("tcp", self.tcp), ("udp", self.udp), ("http", self.http)];
        let open = ports.iter().filter_map(|(name, port)| port.map(|port| format!("\"{name}\":{port}")));
        write!(f, "{{{}}}", open.collect::<Vec<_>>().join(","))
    }
}

/// Opens every port, then serves in threads of its own. Says which ports they are: of 0 the kernel makes a free one.
///
/// # Errors
/// When a port cannot be had.
pub(crate) fn start(ports: Ports) -> io::Result<Ports> {
    let tcp = ports.tcp.map(listen).transpose()?;
    let udp = ports.udp.map(datagrams).transpose()?;
    let http = ports.http.map(listen).transpose()?;
    let of = |local: Option<io::Result<SocketAddr>>| local.and_then(Result::ok).map(|local| local.port());
    let opened = Ports {
        tcp: of(tcp.as_ref().map(TcpListener::local_addr)),
        udp: of(udp.as_ref().map(UdpSocket::local_addr)),
        http: of(http.as_ref().map(TcpListener::local_addr)),
    };
    if let Some(tcp) = tcp {
        thread::spawn(move || accept(&tcp, |stream| lines(&stream)));
    }
    if let Some(udp) = udp {
        thread::spawn(move || answer_datagrams(&udp));
    }
    if let Some(http) = http {
        let healthy = Arc::new(AtomicBool::new(true));
        thread::spawn(move || {
            accept(&http, move |stream| request(&stream, &healthy));
        });
    }
    Ok(opened)
}

/// A listener for both families.
fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = open(Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?;
    bind(&socket, port)?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// A socket for both families that tells to which address a datagram came.
fn datagrams(port: u16) -> io::Result<UdpSocket> {
    let socket = open(Type::DGRAM, Protocol::UDP)?;
    bind(&socket, port)?;
    setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
    Ok(socket.into())
}

fn open(kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, kind, Some(protocol))?;
    socket.set_only_v6(false)?;
    Ok(socket)
}

fn bind(socket: &Socket, port: u16) -> io::Result<()> {
    let bound = socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into());
    bound.map_err(|error| io::Error::new(error.kind(), format!("port {port}: {error}")))
}

/// A thread for each connection. What fails with one concerns nobody else.
fn accept(listener: &TcpListener, serve: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static) {
    for stream in listener.incoming().flatten() {
        let serve = serve.clone();
        thread::spawn(move || serve(stream));
    }
}

fn lines(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (client, local) = (stream.peer_addr()?, stream.local_addr()?);
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        let mut stream = stream;
        match line.trim_end().split_once(' ').map(|(verb, count)| (verb, count.parse())) {
            Some(("send", Ok(count))) => drop(io::copy(&mut io::repeat(0).take(count), &mut stream)?),
            Some(("take", Ok(count))) => {
                io::copy(&mut reader.by_ref().take(count), &mut io::sink())?;
                stream.write_all(format!("{}\n", answer(client, local, "")).as_bytes())?;
            }
            _ => stream.write_all(format!("{}\n", answer(client, local, &line)).as_bytes())?,
        }
        line.clear();
    }
    Ok(())
}

fn answer_datagrams(socket: &UdpSocket) {
    let port = socket.local_addr().map_or(0, |local| local.port());
    loop {
        // An error is that of an earlier answer (nobody there), or of one datagram.
        answer_datagram(socket, port).ok();
    }
}

/// Answers from the address that was asked: the kernel would choose another one where there are several.
fn answer_datagram(socket: &UdpSocket, port: u16) -> io::Result<()> {
    let mut buffer = [0; 2048];
    let mut space = nix::cmsg_space!(libc::in6_pktinfo);
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let message =
        recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty())?;
    let client = message.address.ok_or_else(|| io::Error::other("a datagram from nowhere"))?;
    let info = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(info),
        _ => None,
    });
    let mut info = info.ok_or_else(|| io::Error::other("a datagram to nowhere"))?;
    let local = SocketAddr::from((IpAddr::from(info.ipi6_addr.s6_addr), port));
    if !Ipv6Addr::from(info.ipi6_addr.s6_addr).is_unicast_link_local() {
        info.ipi6_ifindex = 0;
    }
    let length = message.bytes;
    let text = answer(SocketAddrV6::from(client).into(), local, &String::from_utf8_lossy(&buffer[..length]));
    let slices = [IoSlice::new(text.as_bytes())];
    let control = [ControlMessage::Ipv6PacketInfo(&info)];
    sendmsg(socket.as_raw_fd(), &slices, &control, MsgFlags::empty(), Some(&client))?;
    Ok(())
}

fn request(stream: &TcpStream, healthy: &AtomicBool) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut reader = BufReader::new(stream.take(16 << 10));
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let path = first.split(' ').nth(1).unwrap_or("/");
    let (status, body) = match path {
        "/healthz" if !healthy.load(Ordering::Relaxed) => ("503 Service Unavailable", "failing".to_owned()),
        "/healthz" => ("200 OK", "ok".to_owned()),
        "/fail" | "/heal" => {
            healthy.store(path == "/heal", Ordering::Relaxed);
            ("200 OK", "ok".to_owned())
        }
        _ => ("200 OK", answer(stream.peer_addr()?, stream.local_addr()?, path)),
    };
    let length = body.len() + 1;
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/json\r\n");
    let mut stream = stream;
    stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}\n").as_bytes())
}
