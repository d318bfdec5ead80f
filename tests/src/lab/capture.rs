//! Packets as a router sees them: a tcpdump on all its interfaces, and what can be proved from it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{netns, probe, wait};

/// Length of the file header of a pcap file.
const FILE_HEADER: usize = 24;
/// Length of the header before each packet.
const PACKET_HEADER: usize = 16;
/// Length of the LINUX_SLL2 header that `-i any` puts before the IP packet.
const SLL2_HEADER: usize = 20;

/// Octets kept of each packet: all headers. In immediate mode every slot of the kernel's ring has this size, and a ring
/// of few slots loses packets.
const SNAP_LENGTH: &str = "160";

/// A capture that runs until [`Capture::finish`].
pub struct Capture {
    netns: String,
    child: Child,
    file: PathBuf,
}

/// One packet, as far as a proof needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Index of the interface it was seen on.
    pub link: u32,
    /// Whether the router sent it (else it received it).
    pub outgoing: bool,
    /// Source address in the outermost IP header.
    pub source: IpAddr,
    /// Destination address in the outermost IP header.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IP protocol or first next header.
    pub protocol: u8,
    /// UDP destination port, where the packet is UDP.
    pub udp_port: Option<u16>,
}

impl Packet {
    /// Whether the packet carries another packet: IPIP, SIT, GRE, ESP, VXLAN, Geneve or WireGuard.
    pub fn is_encapsulated(&self) -> bool {
        matches!(self.protocol, 4 | 41 | 47 | 50 | 97)
            || matches!(self.udp_port, Some(4789 | 8472 | 6081 | 51820))
    }
}

impl Capture {
    /// Starts tcpdump on every interface of `netns` and waits until it listens.
    ///
    /// TCP is left out, so that the BGP sessions and the API server's connections do not fill the file.
    pub fn start(netns: &str, file: &Path) -> Result<Self> {
        let log = file.with_extension("log");
        let child = netns::command(netns, "tcpdump")
            .args([
                "-i",
                "any",
                "-y",
                "LINUX_SLL2",
                "-U",
                "--immediate-mode",
                "-s",
                SNAP_LENGTH,
                "-B",
                "4096",
                "-Z",
                "root",
                "-w",
            ])
            .arg(file)
            .arg("not tcp and not arp")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .spawn()
            .context("cannot start tcpdump")?;
        wait::until("tcpdump listens", Duration::from_secs(10), || {
            Ok(std::fs::read_to_string(&log)?.contains("listening on"))
        })?;
        Ok(Self { netns: netns.to_owned(), child, file: file.to_owned() })
    }

    /// Ends the capture and returns what it saw, in order.
    ///
    /// tcpdump may lag behind the wire: a last ping to `mark`, which nothing else speaks with, shows that all before
    /// it was written.
    pub fn finish(mut self, mark: IpAddr) -> Result<Vec<Packet>> {
        probe::ping(&self.netns, mark)?;
        wait::until("tcpdump wrote the last packet", Duration::from_secs(10), || {
            let packets = parse(&std::fs::read(&self.file)?)?;
            Ok(packets.iter().any(|packet| packet.source == mark))
        })?;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
        self.child.wait()?;
        let mut packets = parse(&std::fs::read(&self.file)?)?;
        packets.retain(|packet| packet.source != mark && packet.destination != mark);
        Ok(packets)
    }
}

/// Parses a pcap file of link type LINUX_SLL2; a packet that was cut off at the end is left out.
pub fn parse(bytes: &[u8]) -> Result<Vec<Packet>> {
    ensure!(bytes.get(..4) == Some(&0xa1b2_c3d4_u32.to_le_bytes()), "not a pcap file");
    let mut packets = Vec::new();
    let mut rest = bytes.get(FILE_HEADER..).unwrap_or_default();
    while let Some(header) = rest.get(..PACKET_HEADER) {
        let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let Some(body) = rest.get(PACKET_HEADER..PACKET_HEADER + length) else { break };
        packets.extend(packet(body));
        rest = &rest[PACKET_HEADER + length..];
    }
    Ok(packets)
}

fn packet(body: &[u8]) -> Option<Packet> {
    let sll = body.get(..SLL2_HEADER)?;
    let link = u32::from_be_bytes([sll[4], sll[5], sll[6], sll[7]]);
    let outgoing = sll[10] == 4;
    let ip = &body[SLL2_HEADER..];
    match u16::from_be_bytes([sll[0], sll[1]]) {
        0x0800 => {
            let header = ip.get(..20)?;
            let source = IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&header[12..16]).ok()?));
            let destination = IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&header[16..20]).ok()?));
            let payload = ip.get(usize::from(header[0] & 0xf) * 4..).unwrap_or_default();
            let udp_port = udp_port(header[9], payload);
            Some(Packet {
                link,
                outgoing,
                source,
                destination,
                ttl: header[8],
                protocol: header[9],
                udp_port,
            })
        }
        0x86dd => {
            let header = ip.get(..40)?;
            let source = IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&header[8..24]).ok()?));
            let destination = IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&header[24..40]).ok()?));
            let udp_port = udp_port(header[6], ip.get(40..).unwrap_or_default());
            Some(Packet {
                link,
                outgoing,
                source,
                destination,
                ttl: header[7],
                protocol: header[6],
                udp_port,
            })
        }
        _ => None,
    }
}

fn udp_port(protocol: u8, payload: &[u8]) -> Option<u16> {
    let port = payload.get(2..4)?;
    (protocol == 17).then(|| u16::from_be_bytes([port[0], port[1]]))
}
