//! Sends the probes: one to reach the target, one as large as the pod may send, and where that one is lost, smaller ones.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use manx_facts::probe::{Aim, Flow, Kind, ProbeQuestion, Protocol, Seen, Sent, Sight};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::time::Instant;

use super::eyes::Eyes;
use super::packet::{Shot, build};
use crate::look::Lines;

/// How long the first try is waited for, then the second and the third.
pub(super) const PATIENCE: [Duration; 3] =
    [Duration::from_millis(250), Duration::from_millis(350), Duration::from_millis(500)];
/// How long several sizes at once are waited for.
pub(super) const SIZES_PATIENCE: Duration = Duration::from_millis(400);
/// How long routers are waited for.
const ROUTERS_PATIENCE: Duration = Duration::from_millis(300);
/// What links and tunnels take, largest first.
pub(super) const SIZES: [u16; 18] = [
    8950, 4000, 1500, 1492, 1480, 1476, 1472, 1460, 1450, 1440, 1430, 1420, 1410, 1400, 1380, 1350, 1300,
    1280,
];
/// As a pod's own packets have it.
pub(super) const TTL: u8 = 64;
/// The number of the probe that reaches, of the large one, of the first smaller one, and of the first to a router.
const REACH: u8 = 0;
const LARGE: u8 = 1;
const SMALLER: u8 = 2;
const ROUTERS: u8 = 24;
/// Routers that can be asked.
const MOST_ROUTERS: u8 = 7;
const IPPROTO_RAW: i32 = 255;

/// A raw socket inside the pod. Beside it a socket that takes the answers to datagrams, so that the pod does not refuse
/// them.
pub(super) struct Sender {
    raw: Socket,
    _answers: Option<std::net::UdpSocket>,
}

impl Sender {
    /// Opens it in the namespace of this thread.
    pub(super) fn open(flow: &Flow) -> io::Result<Self> {
        let domain = if flow.source.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        // This protocol has the IP header written by who sends.
        let raw = Socket::new(domain, Type::RAW.nonblocking(), Some(IPPROTO_RAW.into()))?;
        let answers = (flow.protocol == Protocol::Udp)
            .then(|| std::net::UdpSocket::bind((flow.source, flow.source_port())).ok());
        Ok(Self { raw, _answers: answers.flatten() })
    }

    /// Sends one; gives its octets.
    pub(super) fn send(&self, flow: &Flow, shot: &Shot) -> io::Result<u16> {
        let packet = build(flow, shot).ok_or(io::ErrorKind::InvalidInput)?;
        self.raw.send_to(&packet, &SockAddr::from(SocketAddr::new(shot.target, 0)))?;
        Ok(u16::try_from(packet.len()).unwrap_or(u16::MAX))
    }
}

/// Sends everything, and says what comes of it.
pub(super) async fn all<W: Write>(
    question: &ProbeQuestion,
    sender: &Sender,
    eyes: &mut Eyes,
    lines: &mut Lines<W>,
) -> io::Result<()> {
    let flow = question.watch.flow;
    let mut round = Round { flow, sender, eyes, lines, target: flow.target, port: flow.port };
    let reached = round.insist(Aim::Reach, REACH, 0).await?;
    round.aim_at_backend()?;
    // Nobody has to answer a datagram: whether it arrives is seen there.
    let known = reached || flow.protocol == Protocol::Udp;
    if question.size > 0 && known && !round.insist(Aim::Size, LARGE, question.size).await? {
        round.smaller(question.size).await?;
    }
    round.routers(question.routers).await
}

struct Round<'a, W> {
    flow: Flow,
    sender: &'a Sender,
    eyes: &'a mut Eyes,
    lines: &'a mut Lines<W>,
    target: IpAddr,
    port: u16,
}

impl<W: Write> Round<'_, W> {
    /// From here on to the backend that was chosen: another connection could be led to another one.
    fn aim_at_backend(&mut self) -> io::Result<()> {
        self.eyes.tick(self.lines)?;
        if let Some(translation) = self.eyes.translation.as_ref().filter(|translation| translation.chooses())
        {
            self.target = translation.backend;
            if self.flow.protocol != Protocol::Icmp {
                self.port = translation.backend_port;
            }
        }
        Ok(())
    }

    fn shoot(&mut self, aim: Aim, probe: u8, size: u16, ttl: u8) -> io::Result<()> {
        let shot = Shot { probe, size, ttl, target: self.target, port: self.port };
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let sent = self.sender.send(&self.flow, &shot);
        self.lines.ok(&Sight::Sent(Sent {
            probe,
            aim,
            size: *sent.as_ref().unwrap_or(&size),
            ttl,
            target: self.target,
            time: u64::try_from(time).unwrap_or(0),
            failed: sent.err().map(|error| error.to_string()),
        }))
    }

    /// Sends a probe, and again while nothing comes of it; whether something did.
    async fn insist(&mut self, aim: Aim, probe: u8, size: u16) -> io::Result<bool> {
        let mut told = false;
        for patience in PATIENCE {
            self.shoot(aim, probe, size, TTL)?;
            let end = Instant::now() + patience;
            let heard = |seen: &Seen| {
                let back = seen.inside && !seen.outgoing && seen.probe == probe && seen.kind != Kind::Probe;
                // An error that a router sends may be one of several, or of nobody who is on the way.
                told |= back;
                back && matches!(seen.kind, Kind::Answer | Kind::Refusal)
            };
            if self.eyes.until(self.lines, end, heard).await? {
                return Ok(true);
            }
            if told {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Asks routers who they are.
    async fn routers(&mut self, count: u8) -> io::Result<()> {
        let count = count.min(MOST_ROUTERS);
        for router in 1..=count {
            // The pod's node is the first router.
            self.shoot(Aim::Router, ROUTERS + router - 1, 0, router + 1)?;
        }
        let mut told = 0;
        let enough = |seen: &Seen| {
            let back = seen.inside && !seen.outgoing && seen.probe >= ROUTERS && seen.kind != Kind::Probe;
            told += u8::from(back);
            told >= count
        };
        if count > 0 {
            self.eyes.until(self.lines, Instant::now() + ROUTERS_PATIENCE, enough).await?;
        }
        Ok(())
    }

    async fn smaller(&mut self, size: u16) -> io::Result<()> {
        let least = if self.flow.source.is_ipv4() { 576 } else { 1280 };
        let sizes = SIZES.into_iter().filter(|smaller| (least..size).contains(smaller));
        for (probe, smaller) in (SMALLER..ROUTERS).zip(sizes) {
            self.shoot(Aim::Size, probe, smaller, TTL)?;
        }
        self.eyes.until(self.lines, Instant::now() + SIZES_PATIENCE, |_| false).await.map(drop)
    }
}
