//! Pods, nodes and the host outside as places that ask each other: over TCP, UDP and by ping, from inside this process,
//! so that hundreds of ways are tried within seconds.

use std::fmt;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manx_tests::kubernetes::{Cluster, Family};
use manx_tests::lab::netns;
use serde_json::Value;

/// How long an answer may take; a packet that was dropped costs this much.
pub(crate) const PATIENCE: Duration = Duration::from_millis(600);
/// How long a refusal may take: the kernel forgets one that comes back while it still sends, as happens with IPv6 on one
/// machine, and learns it from the second SYN, a second later.
pub(crate) const REFUSAL: Duration = Duration::from_millis(2500);

/// Where the toolbox serves lines over TCP, and datagrams.
pub(crate) const LINES: u16 = 8081;

/// The transport of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// A new connection.
    Tcp,
    /// A datagram from a new port.
    Udp,
}

/// Both transports.
pub(crate) const BOTH: [How; 2] = [How::Tcp, How::Udp];

/// Somewhere to ask from.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// What to call it in a table.
    pub(crate) name: String,
    /// Its own addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// The number of its node; 0 is outside.
    pub(crate) node: usize,
    /// The file of its network namespace.
    netns: PathBuf,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The toolbox told who answered, and whom it saw.
    Answer {
        /// The host name of who answered.
        pod: String,
        /// The source address that it saw.
        client: IpAddr,
    },
    /// The other side, or a router, said no.
    Refused,
    /// Nothing came back.
    Silent,
    /// Anything else.
    Failed(String),
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer { pod, client } => write!(f, "{pod} answered and saw {client}"),
            Self::Refused => f.write_str("it was refused"),
            Self::Silent => f.write_str("nobody answered"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

impl From<io::Error> for Reply {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // What a node itself must not send, it learns as EPERM.
            ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied => Self::Refused,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::Silent,
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl Place {
    /// Node `number` of `cluster`.
    pub(crate) fn node(cluster: &Cluster, number: usize) -> Self {
        let node = cluster.node(number);
        let netns = netns::path(&node.netns());
        Self { name: node.name(), addresses: node.addresses(), node: number, netns }
    }

    /// The host outside.
    pub(crate) fn outside(cluster: &Cluster) -> Self {
        let host = cluster.outside();
        let netns = netns::path(&host.netns);
        Self { name: "outside".to_owned(), addresses: host.addresses, node: 0, netns }
    }

    /// A running pod, from its object.
    pub(crate) fn pod(cluster: &Cluster, object: &Value) -> Result<Self> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).context("a running pod");
        let node = cluster.node_by_name(text("/spec/nodeName")?)?;
        let ips = object["status"]["podIPs"].as_array().cloned().unwrap_or_default();
        let addresses: Result<Vec<IpAddr>> =
            ips.iter().map(|ip| Ok(ip["ip"].as_str().context("an IP")?.parse()?)).collect();
        Ok(Self {
            name: text("/metadata/name")?.to_owned(),
            addresses: addresses?,
            node: node.number(),
            netns: node.netns_of_pod(text("/metadata/uid")?)?,
        })
    }

    /// Its address of `family`.
    pub(crate) fn address(&self, family: Family) -> Result<IpAddr> {
        let address = self.addresses.iter().find(|address| address.is_ipv6() == (family == Family::Ipv6));
        address
            .copied()
            .with_context(|| format!("{} has no address of {family:?}: {:?}", self.name, self.addresses))
    }

    /// Runs `body` on a thread inside its network namespace: sockets that it opens and programs that it starts belong
    /// there.
    pub(crate) fn inside<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        netns::enter_at(&self.netns, body)
    }

    /// Asks the toolbox at `to`, by a connection or port of its own.
    pub(crate) fn ask(&self, how: How, to: SocketAddr) -> Reply {
        self.ask_within(how, to, PATIENCE)
    }

    /// [`Place::ask`] with another patience for a connection to be there.
    pub(crate) fn ask_within(&self, how: How, to: SocketAddr, patience: Duration) -> Reply {
        let asked = self.inside(|| {
            Ok(match how {
                How::Tcp => tcp(to, patience),
                How::Udp => Datagrams::open(to).and_then(|socket| socket.ask()),
            })
        });
        match asked {
            Ok(reply) => reply.unwrap_or_else(Reply::from),
            Err(error) => Reply::Failed(format!("{error:#}")),
        }
    }

    /// A socket for several questions from one port.
    pub(crate) fn datagrams(&self, to: SocketAddr) -> Result<Datagrams> {
        self.inside(|| Ok(Datagrams::open(to)?))
    }

    /// A connection for several questions.
    pub(crate) fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        self.inside(|| {
            let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        })
    }

    /// HTTP GET: the status, and what follows the head.
    pub(crate) fn http(&self, to: SocketAddr, path: &str) -> Result<(u16, String)> {
        let mut stream = self.connect(to)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let status = text.split(' ').nth(1).and_then(|word| word.parse().ok()).context("an HTTP status")?;
        Ok((status, text.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned())))
    }

    /// One echo request of `size` octets with all headers of IP and ICMP; returns the routers that the answer crossed.
    pub(crate) fn ping(&self, to: IpAddr, size: usize, may_fragment: bool) -> Result<u8> {
        let data = size - if to.is_ipv6() { 48 } else { 28 };
        let output = self.inside(|| {
            let mut ping = Command::new("ping");
            ping.args(["-n", "-c", "1", "-W", "1", "-s", &data.to_string()]);
            ping.args(["-M", if may_fragment { "dont" } else { "do" }, &to.to_string()]);
            Ok(ping.output()?)
        })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let ttl =
            text.split_once("ttl=").and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<u8>().ok());
        let errors = String::from_utf8_lossy(&output.stderr);
        let ttl = ttl.with_context(|| format!("no answer to {size} octets: {text}{errors}"))?;
        ensure!(ttl <= 64, "a TTL of {ttl}");
        Ok(64 - ttl)
    }
}

/// A socket that asks one address.
pub(crate) struct Datagrams(UdpSocket);

impl Datagrams {
    fn open(to: SocketAddr) -> io::Result<Self> {
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(to)?;
        Ok(Self(socket))
    }

    /// Asks once.
    pub(crate) fn ask(&self) -> io::Result<Reply> {
        self.0.send(b"question\n")?;
        let mut buffer = [0; 512];
        let length = self.0.recv(&mut buffer)?;
        Ok(read(&String::from_utf8_lossy(&buffer[..length])))
    }
}

fn tcp(to: SocketAddr, patience: Duration) -> io::Result<Reply> {
    let stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    ask_again(&stream)
}

/// Asks over a connection that is there.
pub(crate) fn ask_again(mut stream: &TcpStream) -> io::Result<Reply> {
    stream.write_all(b"question\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(read(&line))
}

/// What the toolbox says.
pub(crate) fn read(line: &str) -> Reply {
    let answer: Value = serde_json::from_str(line).unwrap_or_default();
    let client = answer["client"].as_str().and_then(|text| text.parse::<SocketAddr>().ok());
    match (answer["pod"].as_str(), client) {
        (Some(pod), Some(client)) => {
            Reply::Answer { pod: pod.to_owned(), client: client.ip().to_canonical() }
        }
        _ => Reply::Failed(format!("an answer that is none: {line:?}")),
    }
}
