//! Packet sockets: what passes any link of a namespace, as far as it may be of the flow. The kernel filters, so that a busy
//! node shows us next to nothing of others' packets.

use std::io;
use std::io::IoSliceMut;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use manx_facts::probe::{Flow, Protocol};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg,
    setsockopt, socket, sockopt,
};
use socket2::{SockFilter, SockRef};

/// Enough of each packet to know it, or what it quotes.
const SNAPSHOT: usize = 512;

/// A packet socket of one namespace.
#[derive(Debug)]
pub(super) struct Capture {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

/// A packet as it passed.
#[derive(Debug)]
pub(super) struct Passed {
    /// Without its link header.
    pub(super) packet: Vec<u8>,
    /// Nanoseconds since 1970.
    pub(super) time: u64,
    /// Index of the link.
    pub(super) link: u32,
    pub(super) outgoing: bool,
    /// Hardware address of the sender.
    pub(super) mac: Option<[u8; 6]>,
}

impl Capture {
    /// Opens one in the namespace of this thread.
    pub(super) fn open(flow: &Flow) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // All protocols: only so it sees what goes out, too.
        let fd = socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll)?;
        SockRef::from(&fd).attach_filter(&filter(flow))?;
        setsockopt(&fd, sockopt::ReceiveTimestampns, &true)?;
        let mut capture = Self { fd, buffer: vec![0; SNAPSHOT] };
        // What came before the filter was there.
        while capture.next()?.is_some() {}
        Ok(capture)
    }

    /// The next packet that is there; none if there is none yet.
    pub(super) fn next(&mut self) -> io::Result<Option<Passed>> {
        let mut space = nix::cmsg_space!(nix::sys::time::TimeSpec);
        let mut slices = [IoSliceMut::new(&mut self.buffer)];
        let message =
            recvmsg::<LinkAddr>(self.fd.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty());
        let message = match message {
            Ok(message) => message,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let stamp = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::ScmTimestampns(time) => Some(time),
            _ => None,
        });
        let time = stamp.map_or(0, |time| {
            let nanoseconds = time.tv_sec().saturating_mul(1_000_000_000).saturating_add(time.tv_nsec());
            u64::try_from(nanoseconds).unwrap_or(0)
        });
        let (length, address) = (message.bytes, message.address);
        let packet = self.buffer.get(..length.min(SNAPSHOT)).unwrap_or_default().to_vec();
        Ok(address.map(|address| Passed {
            packet,
            time,
            link: u32::try_from(address.ifindex()).unwrap_or(0),
            outgoing: address.pkttype() == libc::PACKET_OUTGOING,
            mac: address.addr().filter(|_| address.halen() == 6),
        }))
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Capture {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Lets pass what may be of the flow: ICMP, TCP handshakes and datagrams to its source port or with its mark, and what
/// comes from its target, where the port may be another because the node hides the pod behind its own address. A classic
/// filter; packets begin with their IP header.
fn filter(flow: &Flow) -> Vec<SockFilter> {
    let ipv4 = flow.source.is_ipv4();
    let (ethertype, protocol_at, icmp) = if ipv4 {
        (libc::ETH_P_IP, 9, libc::IPPROTO_ICMP)
    } else {
        (libc::ETH_P_IPV6, 6, libc::IPPROTO_ICMPV6)
    };
    let icmp = icmp.cast_unsigned();
    let mut steps = vec![
        Step::Load(LOAD_SHORT, LINK_PROTOCOL),
        Step::Equal(ethertype.cast_unsigned(), Next, Drop),
        Step::Load(LOAD_OCTET, protocol_at),
    ];
    let number = u32::from(flow.ip_number());
    if flow.protocol == Protocol::Icmp {
        steps.push(Step::Equal(icmp, Keep, Drop));
    } else {
        steps.push(Step::Equal(icmp, Keep, Next));
        steps.push(Step::Equal(number, Next, Drop));
        // The length of the IP header, to which the next offsets are added.
        steps.push(if ipv4 { Step::Load(LOAD_HEADER_LENGTH, 0) } else { Step::Load(LOAD_INDEX, 40) });
    }
    match flow.protocol {
        Protocol::Icmp => {}
        Protocol::Tcp => {
            steps.push(Step::Load(LOAD_OCTET_BEHIND, 13));
            steps.push(Step::AnyBit(SYN_OR_RST, Next, Drop));
            steps.push(Step::Load(LOAD_SHORT_BEHIND, 2));
            steps.push(Step::Equal(u32::from(flow.source_port()), Keep, Next));
            steps.push(Step::Load(LOAD_SHORT_BEHIND, 14));
            steps.push(Step::Equal(u32::from(flow.window()), Keep, Next));
        }
        Protocol::Udp => {
            steps.push(Step::Load(LOAD_SHORT_BEHIND, 2));
            steps.push(Step::Equal(u32::from(flow.source_port()), Keep, Next));
            steps.push(Step::Load(LOAD_WORD_BEHIND, 8));
            steps.push(Step::Equal(flow.mark, Keep, Next));
            let (place, words) = address(flow.target);
            for (number, word) in (0..).zip(words) {
                steps.push(Step::Load(LOAD_WORD, place + 4 * number));
                steps.push(Step::Equal(word, Next, Drop));
            }
        }
    }
    if flow.protocol != Protocol::Icmp {
        steps.push(Step::Load(LOAD_SHORT_BEHIND, 0));
        steps.push(Step::Equal(u32::from(flow.port), Keep, Drop));
    }
    assemble(&steps)
}

/// Where the IP header has its source, and that address in words.
fn address(address: IpAddr) -> (u32, Vec<u32>) {
    match address {
        IpAddr::V4(address) => (12, vec![address.to_bits()]),
        IpAddr::V6(address) => {
            let words = address.octets();
            let words = words.chunks_exact(4).filter_map(|word| word.first_chunk());
            (8, words.map(|word| u32::from_be_bytes(*word)).collect())
        }
    }
}

const LOAD_WORD: u16 = 0x20;
const LOAD_SHORT: u16 = 0x28;
const LOAD_OCTET: u16 = 0x30;
const LOAD_WORD_BEHIND: u16 = 0x40;
const LOAD_SHORT_BEHIND: u16 = 0x48;
const LOAD_OCTET_BEHIND: u16 = 0x50;
const LOAD_HEADER_LENGTH: u16 = 0xb1;
const LOAD_INDEX: u16 = 0x01;
const IF_EQUAL: u16 = 0x15;
const IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
/// Where the kernel shows the protocol that the link header names (`SKF_AD_OFF + SKF_AD_PROTOCOL`).
const LINK_PROTOCOL: u32 = 0xffff_f000;
/// Flags of TCP.
const SYN_OR_RST: u32 = 6;

/// A step of a filter: a load, or a comparison with where to go when it holds and when not.
enum Step {
    Load(u16, u32),
    Equal(u32, Go, Go),
    AnyBit(u32, Go, Go),
}

#[derive(Clone, Copy)]
enum Go {
    Next,
    Keep,
    Drop,
}

use Go::{Drop, Keep, Next};

/// The steps, and behind them the two ends.
fn assemble(steps: &[Step]) -> Vec<SockFilter> {
    let count = steps.len();
    let mut program: Vec<SockFilter> = Vec::with_capacity(count + 2);
    for (place, step) in steps.iter().enumerate() {
        let jump = |go: Go| {
            let distance = match go {
                Next => 0,
                Keep => count - place - 1,
                Drop => count - place,
            };
            u8::try_from(distance).expect("a filter has some ten steps")
        };
        program.push(match *step {
            Step::Load(code, at) => SockFilter::new(code, 0, 0, at),
            Step::Equal(number, yes, no) => SockFilter::new(IF_EQUAL, jump(yes), jump(no), number),
            Step::AnyBit(bits, yes, no) => SockFilter::new(IF_ANY_BIT, jump(yes), jump(no), bits),
        });
    }
    program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program
}
