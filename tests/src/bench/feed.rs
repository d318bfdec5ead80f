//! A BGP speaker that only talks: opens a session, sends a table as fast as TCP takes it, and keeps the session up.
//!
//! Its messages are written by hand, so that neither side of a comparison is measured with its own encoder.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// The length of a message header (RFC 4271 §4.1).
pub(super) const HEADER: usize = 19;

/// A table of IPv4 routes: consecutive /26 networks, as blocks of pods are, spread over next hops in turn.
#[derive(Clone, Debug)]
pub struct Table {
    /// The AS that the routes come from, and how often it stands in their path.
    pub asn: u32,
    /// Length of the AS_PATH.
    pub path: usize,
    /// First network; the following ones are the next /26 each.
    pub first: Ipv4Addr,
    /// How many networks.
    pub routes: u32,
    /// Networks in one UPDATE.
    pub per_update: u32,
    /// The next hops, used in turn by one UPDATE each.
    pub next_hops: Vec<Ipv4Addr>,
}

impl Table {
    /// The network number `index` of the table.
    pub fn network(&self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.first) + (index << 6))
    }

    /// The whole table as UPDATE messages, ready to be written.
    pub fn updates(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut index = 0;
        for next_hop in self.next_hops.iter().cycle() {
            if index >= self.routes {
                break;
            }
            let end = (index + self.per_update).min(self.routes);
            self.update(*next_hop, index..end, &mut bytes);
            index = end;
        }
        bytes
    }

    fn update(&self, next_hop: Ipv4Addr, networks: std::ops::Range<u32>, bytes: &mut Vec<u8>) {
        let mut attributes = vec![0x40, 1, 1, 0]; // ORIGIN IGP
        attributes.extend([0x40, 2, u8::try_from(2 + 4 * self.path).expect("a short path"), 2]);
        attributes.push(u8::try_from(self.path).expect("a short path"));
        for _ in 0..self.path {
            attributes.extend(self.asn.to_be_bytes());
        }
        attributes.extend([0x40, 3, 4]);
        attributes.extend(next_hop.octets());
        let mut body = vec![0, 0]; // no withdrawn routes
        body.extend(u16::try_from(attributes.len()).expect("few attributes").to_be_bytes());
        body.extend(attributes);
        for index in networks {
            body.push(26);
            body.extend(self.network(index).octets());
        }
        message(2, &body, bytes);
    }
}

/// Appends one message of type `kind`.
pub(super) fn message(kind: u8, body: &[u8], bytes: &mut Vec<u8>) {
    bytes.extend([0xff; 16]);
    bytes.extend(u16::try_from(HEADER + body.len()).expect("at most 4096 octets").to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
}

/// What a speaker says before it has heard anything: OPEN and KEEPALIVE. `families` are the AFIs of the unicast families
/// that it offers.
pub(super) fn opening(id: Ipv4Addr, asn: u32, hold: u16, families: &[u8]) -> Vec<u8> {
    let mut capabilities = Vec::new();
    for afi in families {
        capabilities.extend([1, 4, 0, *afi, 0, 1]);
    }
    capabilities.extend([65, 4]); // 4-octet AS
    capabilities.extend(asn.to_be_bytes());
    let length = u8::try_from(capabilities.len()).expect("few families");
    let mut body = vec![4];
    body.extend(u16::try_from(asn).unwrap_or(23456).to_be_bytes());
    body.extend(hold.to_be_bytes());
    body.extend(id.octets());
    body.extend([length + 2, 2, length]);
    body.extend(capabilities);
    let mut bytes = Vec::new();
    message(1, &body, &mut bytes);
    message(4, &[], &mut bytes);
    bytes
}

/// An established session.
#[derive(Debug)]
pub struct Session {
    stream: TcpStream,
    over: Arc<AtomicBool>,
}

impl Session {
    /// Connects from `source`, which is also the BGP identifier, to `target`, trying for `patience`, and exchanges
    /// OPEN and KEEPALIVE.
    pub fn open(target: SocketAddr, source: Ipv4Addr, asn: u32, patience: Duration) -> Result<Self> {
        let mut last = None;
        let end = std::time::Instant::now() + patience;
        while std::time::Instant::now() < end {
            match Self::try_open(target, source, asn) {
                Ok(session) => return Ok(session),
                Err(error) => last = Some(error),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(last.context("no time to connect")?)
    }

    fn try_open(target: SocketAddr, source: Ipv4Addr, asn: u32) -> Result<Self> {
        let mut stream = connect(target, source)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_nodelay(true)?;
        stream.write_all(&opening(source, asn, 90, &[1]))?;
        ensure!(read_kind(&mut stream)? == 1, "the first answer was no OPEN");
        ensure!(read_kind(&mut stream)? == 4, "the OPEN was not accepted");
        let over = Arc::new(AtomicBool::new(false));
        keep_alive(stream.try_clone()?, Arc::clone(&over));
        Ok(Self { stream, over })
    }

    /// Writes messages; returns when TCP has taken them all.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("the session ended while sending")
    }

    /// Ends the session with Cease / Administrative Shutdown, so that nothing is kept for a restart.
    pub fn close(mut self) -> Result<()> {
        let mut bytes = Vec::new();
        message(3, &[6, 2], &mut bytes);
        self.over.store(true, Ordering::Relaxed);
        self.stream.write_all(&bytes)?;
        self.stream.shutdown(std::net::Shutdown::Both).map_err(Into::into)
    }
}

/// Reads whatever the other side says and throws it away, so that its window never closes; the hold time of 90 s is
/// longer than any measurement, so no KEEPALIVE needs to be sent after the first.
fn keep_alive(mut stream: TcpStream, over: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while !over.load(Ordering::Relaxed) {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Err(error) if !matches!(error.kind(), std::io::ErrorKind::WouldBlock) => break,
                _ => {}
            }
        }
    });
}

/// A TCP connection from `source`; the standard library cannot bind before it connects.
fn connect(target: SocketAddr, source: Ipv4Addr) -> Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(&target.into(), Duration::from_secs(1))?;
    Ok(socket.into())
}

/// Reads one message and gives its type.
pub(super) fn read_kind(stream: &mut TcpStream) -> Result<u8> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header)?;
    let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
    let mut body = vec![0; length.saturating_sub(HEADER)];
    stream.read_exact(&mut body)?;
    Ok(header[18])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_spread_over_its_next_hops_in_whole_updates() {
        let hops = vec![Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
        let first = Ipv4Addr::new(20, 0, 0, 0);
        let table = Table { asn: 65100, path: 1, first, routes: 3, per_update: 2, next_hops: hops };
        let bytes = table.updates();
        let first_length = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
        assert_eq!(first_length, HEADER + 4 + 4 + 9 + 7 + 10);
        assert_eq!(bytes.len(), first_length + first_length - 5);
        assert_eq!(&bytes[first_length - 5..first_length], [26, 20, 0, 0, 64]);
        assert_eq!(&bytes[bytes.len() - 5..], [26, 20, 0, 0, 128]);
    }
}
