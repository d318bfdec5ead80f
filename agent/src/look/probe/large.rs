//! Whether packets as large as pods send them reach other machines, not to be fragmented, as echo requests of this machine
//! itself: between nodes pods' packets go the same way.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use futures_util::stream::{self, StreamExt as _};
use manx_facts::host::{Large, LargeOutcome, LargeReached};
use manx_facts::probe::{Flow, Kind, Protocol};
use nix::errno::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

use super::capture::Capture;
use super::eyes::readable;
use super::packet::{Shot, recognise};
use super::send::{PATIENCE, SIZES, SIZES_PATIENCE, Sender, TTL};

/// How many are reached at once.
const AT_ONCE: usize = 16;
/// The numbers of the small probe, of the large one, and of the first of other sizes.
const SMALL: u8 = 0;
const LARGE: u8 = 1;
const SMALLER: u8 = 2;

/// Reaches all of them, in their order, by packets of so many octets as `size` says for our address on the way.
pub(in crate::look) async fn all(large: &[Large], size: impl Fn(IpAddr) -> u32) -> Vec<LargeReached> {
    let mark = std::process::id() << 8;
    let reached = large.iter().zip(mark..).map(|(large, mark)| {
        let source = source(large.address);
        let size = source.as_ref().map_or(0, |source| size(*source));
        async move {
            let outcome = match source {
                Ok(source) => one(source, large.address, mark, size).await,
                Err(error) => Err(error),
            };
            let outcome = outcome.unwrap_or_else(|error| LargeOutcome::Error(error.to_string()));
            LargeReached { large: large.clone(), size, outcome }
        }
    });
    stream::iter(reached).buffered(AT_ONCE).collect().await
}

/// The address that this machine takes for packets to another. Nothing is sent.
fn source(target: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match target {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(SocketAddr::new(target, 9))?;
    Ok(socket.local_addr()?.ip())
}

async fn one(source: IpAddr, target: IpAddr, mark: u32, size: u32) -> io::Result<LargeOutcome> {
    let flow = Flow { source, target, protocol: Protocol::Icmp, port: 0, mark };
    let mut line = Line { flow, sender: Sender::open(&flow)?, capture: readable(Capture::open(&flow)?)? };
    if line.insist(SMALL, 0).await? != Came::Answer {
        return Ok(LargeOutcome::Silent);
    }
    let size = u16::try_from(size).unwrap_or(u16::MAX);
    let told = match line.insist(LARGE, size).await? {
        Came::Answer => return Ok(LargeOutcome::Answered),
        Came::TooBig(takes) => takes,
        Came::Nothing => None,
    };
    Ok(LargeOutcome::Lost { passes: line.passes(size).await?.map(u32::from), told })
}

/// What came of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    Answer,
    /// A link does not take it, perhaps with what it takes.
    TooBig(Option<u32>),
    Nothing,
}

/// One flow, and what is heard of it.
struct Line {
    flow: Flow,
    sender: Sender,
    capture: AsyncFd<Capture>,
}

impl Line {
    /// Sends a probe; whether the kernel took it for a link on the way.
    fn send(&self, probe: u8, size: u16) -> io::Result<bool> {
        let shot = Shot { probe, size, ttl: TTL, target: self.flow.target, port: 0 };
        match self.sender.send(&self.flow, &shot) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a probe, and again while nothing comes of it.
    async fn insist(&mut self, probe: u8, size: u16) -> io::Result<Came> {
        for patience in PATIENCE {
            if !self.send(probe, size)? {
                return Ok(Came::TooBig(None));
            }
            let end = Instant::now() + patience;
            while let Some((number, kind)) = self.heard(end).await? {
                match kind {
                    _ if number != probe => {}
                    Kind::Answer => return Ok(Came::Answer),
                    Kind::TooBig(takes) => return Ok(Came::TooBig((takes > 0).then_some(takes))),
                    _ => {}
                }
            }
        }
        Ok(Came::Nothing)
    }

    /// The next that comes back of this flow, until a time.
    async fn heard(&mut self, end: Instant) -> io::Result<Option<(u8, Kind)>> {
        loop {
            let Ok(ready) = timeout_at(end, self.capture.readable_mut()).await else { return Ok(None) };
            let mut ready = ready?;
            let Some(passed) = ready.get_inner_mut().next()? else {
                ready.clear_ready();
                continue;
            };
            let known = recognise(&self.flow, None, &passed.packet).filter(|_| !passed.outgoing);
            if let Some(known) = known.filter(|known| known.kind != Kind::Probe) {
                return Ok(Some((known.probe, known.kind)));
            }
        }
    }

    /// The largest of some usual sizes below this one that is answered.
    async fn passes(&mut self, size: u16) -> io::Result<Option<u16>> {
        let least = if self.flow.source.is_ipv4() { 576 } else { 1280 };
        let sizes: Vec<u16> = SIZES.into_iter().filter(|smaller| (least..size).contains(smaller)).collect();
        for (probe, smaller) in (SMALLER..).zip(&sizes) {
            self.send(probe, *smaller)?;
        }
        let end = Instant::now() + SIZES_PATIENCE;
        let mut passes = None;
        while let Some((probe, kind)) = self.heard(end).await? {
            let place = probe.checked_sub(SMALLER).map(usize::from);
            if let (Kind::Answer, Some(size)) = (kind, place.and_then(|place| sizes.get(place))) {
                passes = passes.max(Some(*size));
            }
        }
        Ok(passes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_machine_reaches_itself_by_large_packets() {
        if !nix::unistd::geteuid().is_root() {
            println!("ignored: raw sockets need root");
            assert!(std::env::var_os("CI").is_none());
            return;
        }
        let large = Large { name: "self".to_owned(), address: Ipv4Addr::LOCALHOST.into() };
        let reached = all(std::slice::from_ref(&large), |_| 9000).await;
        let expected = LargeReached { large, size: 9000, outcome: LargeOutcome::Answered };
        assert_eq!(reached, [expected]);
    }
}
