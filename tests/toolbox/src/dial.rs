//! The client: one question, many over one connection, or a load of octets.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::answer::asked;
use crate::args::Args;

/// Whom to ask, from where, and how long to wait.
#[derive(Clone, Debug)]
pub(crate) struct To {
    /// The server's address.
    pub(crate) server: SocketAddr,
    /// Our own address, if it matters.
    pub(crate) from: Option<IpAddr>,
    /// For connecting, and again for the answer.
    pub(crate) timeout: Duration,
}

/// A way to the server over which several questions can be asked.
pub(crate) enum Line {
    /// A connection, and what was read of a line that is not whole yet.
    Tcp(BufReader<TcpStream>, Vec<u8>),
    /// A socket that takes datagrams of the server only.
    Udp(UdpSocket),
}

impl To {
    /// The words ADDRESS and PORT and the options of a command line. A name is resolved to its first address.
    pub(crate) fn read(args: &Args) -> io::Result<Self> {
        let address = args.word(0, "ADDRESS")?.trim_matches(['[', ']']);
        let port: u16 = args.word(1, "PORT")?.parse().map_err(|_| io::Error::other("PORT is a number"))?;
        let found = (address, port)
            .to_socket_addrs()
            .map_err(|error| io::Error::new(error.kind(), format!("{address} cannot be resolved: {error}")));
        let server = found?.next().ok_or_else(|| io::Error::other(format!("{address} has no address")))?;
        let timeout = Duration::from_millis(args.number("timeout")?.unwrap_or(2000).max(1));
        Ok(Self { server, from: args.number("from")?, timeout })
    }

    /// Connects, or opens a socket for datagrams.
    pub(crate) fn open(&self, udp: bool) -> io::Result<Line> {
        if udp {
            let socket = self.socket(Type::DGRAM, Protocol::UDP)?;
            socket.connect(&self.server.into())?;
            return Ok(Line::Udp(socket.into()));
        }
        Ok(Line::Tcp(BufReader::new(self.connect()?), Vec::new()))
    }

    /// The body that is at `path`.
    ///
    /// # Errors
    /// Also when the status is not 2xx; then the error holds status and body.
    pub(crate) fn http(&self, path: &str) -> io::Result<String> {
        let mut stream = self.connect()?;
        stream.set_read_timeout(Some(self.timeout))?;
        let server = self.server;
        let question = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
        stream.write_all(question.as_bytes())?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        let (head, body) =
            reply.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("not an HTTP reply"))?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        if status.starts_with('2') {
            return Ok(body.trim_end().to_owned());
        }
        Err(io::Error::other(format!("HTTP {status}: {}", body.trim_end())))
    }

    /// Gives so many octets to the server; how long until it had them all.
    pub(crate) fn send(&self, bytes: u64) -> io::Result<Duration> {
        let mut stream = self.connect()?;
        let start = Instant::now();
        stream.write_all(format!("take {bytes}\n").as_bytes())?;
        io::copy(&mut io::repeat(0).take(bytes), &mut stream)?;
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer)?;
        if answer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(start.elapsed())
    }

    /// Takes so many octets from the server; how long until they were here.
    pub(crate) fn receive(&self, bytes: u64) -> io::Result<Duration> {
        let mut stream = self.connect()?;
        let start = Instant::now();
        stream.write_all(format!("send {bytes}\n").as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let came = io::copy(&mut (&stream).take(bytes), &mut io::sink())?;
        if came < bytes {
            return Err(io::Error::other(format!("{came} of {bytes} octets came")));
        }
        Ok(start.elapsed())
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let socket = self.socket(Type::STREAM, Protocol::TCP)?;
        socket.connect_timeout(&self.server.into(), self.timeout)?;
        socket.set_tcp_nodelay(true)?;
        Ok(socket.into())
    }

    fn socket(&self, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.server), kind, Some(protocol))?;
        let any =
            if self.server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        socket.bind(&SocketAddr::new(self.from.unwrap_or(any), 0).into())?;
        Ok(socket)
    }
}

impl Line {
    /// Asks, and waits for the answer to this very question (letters and digits, 32 at most).
    ///
    /// # Errors
    /// `TimedOut` or `WouldBlock` when there was no answer in time: the line can be used further.
    pub(crate) fn ask(&mut self, question: &str, timeout: Duration) -> io::Result<String> {
        let end = Instant::now() + timeout;
        match self {
            Self::Tcp(reader, _) => reader.get_mut().write_all(format!("{question}\n").as_bytes())?,
            Self::Udp(socket) => drop(socket.send(question.as_bytes())?),
        }
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
            }
            let answer = self.hear(left)?;
            if asked(&answer) == Some(question) {
                return Ok(answer);
            }
        }
    }

    fn hear(&mut self, timeout: Duration) -> io::Result<String> {
        match self {
            Self::Tcp(reader, pending) => {
                reader.get_ref().set_read_timeout(Some(timeout))?;
                reader.read_until(b'\n', pending)?;
                if pending.pop() != Some(b'\n') {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(String::from_utf8_lossy(&std::mem::take(pending)).into_owned())
            }
            Self::Udp(socket) => {
                socket.set_read_timeout(Some(timeout))?;
                let mut buffer = [0; 2048];
                let length = socket.recv(&mut buffer)?;
                Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
            }
        }
    }
}
