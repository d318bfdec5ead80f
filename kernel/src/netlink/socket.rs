//! A blocking netlink socket: sends a batch, waits for its acknowledgement, matches errors by sequence number.
//!
//! Only one message of a batch asks for an acknowledgement; the others answer only when they fail. The kernel
//! answers while it takes the batch, so by the time `send` returns every answer is queued, and a missing one
//! was lost rather than late.

#![expect(clippy::disallowed_methods, reason = "this module is the shell: it opens sockets")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt,
};
use nix::sys::time::TimeVal;
#[cfg(feature = "async")]
use socket2::{SockFilter, SockRef};

use super::request::{Batch, Message, attributes, messages, read_str, read_u32};

/// How long to wait for an answer that the kernel should already have queued.
const ANSWER_SECONDS: i64 = 5;
/// Larger than any datagram that the kernel sends (dumps use 32 KiB).
const RECEIVE_BUFFER: usize = 64 * 1024;
/// How often a dump that changed under the reader is begun again.
const DUMP_ATTEMPTS: usize = 16;

const NLMSGERR_ATTR_MSG: u16 = 1;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;

mod option {
    //! Socket options that nix has no name for.
    use nix::libc;
    use nix::sys::socket::sockopt::{SetBool, SetStruct};

    #[derive(Clone, Copy)]
    pub(super) struct CapAck;
    #[derive(Clone, Copy)]
    pub(super) struct ExtAck;
    #[derive(Clone, Copy)]
    pub(super) struct StrictCheck;
    #[derive(Clone, Copy)]
    pub(super) struct AddMembership;

    nix::setsockopt_impl!(CapAck, libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, bool, SetBool);
    nix::setsockopt_impl!(ExtAck, libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, bool, SetBool);
    nix::setsockopt_impl!(StrictCheck, libc::SOL_NETLINK, libc::NETLINK_GET_STRICT_CHK, bool, SetBool);
    nix::setsockopt_impl!(
        AddMembership,
        libc::SOL_NETLINK,
        libc::NETLINK_ADD_MEMBERSHIP,
        u32,
        SetStruct<'_, u32>
    );
}

/// The exchange with the kernel failed as a whole; what became of its requests is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SocketError {
    /// A system call on the socket failed.
    #[error("cannot {call} the netlink socket: {errno}")]
    Io {
        /// What was being done.
        call: &'static str,
        /// Why it failed.
        errno: Errno,
    },
    /// Answers did not fit in the socket's receive buffer; read the state again.
    #[error("the kernel's answers were lost because the receive buffer was full")]
    Lost,
    /// The acknowledgement never came.
    #[error("the kernel did not answer within {ANSWER_SECONDS} s")]
    NoAnswer,
    /// The table changed during each attempt to dump it.
    #[error("a table of the kernel kept changing while it was read")]
    Unsteady,
    /// The kernel refused the dump.
    #[error(transparent)]
    Refused(#[from] RequestError),
}

/// The kernel refused one request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{}", errno.desc(), if text.is_empty() { "" } else { ": " }, text)]
pub struct RequestError {
    /// The code.
    pub errno: Errno,
    /// The kernel's own explanation, empty when it gives none.
    pub text: String,
}

/// What the kernel answered to a batch.
#[derive(Debug, Default)]
pub struct Answers {
    /// For each message of the batch, in order: whether it was carried out.
    pub results: Vec<Result<(), RequestError>>,
    /// What it sent besides: answers to `RTM_GET…` and to requests with `NLM_F_ECHO`.
    pub replies: Replies,
}

impl Answers {
    /// The first error of the batch, or the replies.
    ///
    /// # Errors
    ///
    /// The first request, in the order of the batch, that was refused.
    pub fn all_done(self) -> Result<Replies, RequestError> {
        self.results.into_iter().collect::<Result<(), _>>()?;
        Ok(self.replies)
    }
}

/// Messages from the kernel.
#[derive(Debug, Default, Clone)]
pub struct Replies {
    bytes: Vec<u8>,
}

impl Replies {
    /// The messages in the order of their arrival. `sequence` counts from 0: the index of the request in its
    /// batch.
    pub fn iter(&self) -> impl Iterator<Item = Message<'_>> {
        messages(&self.bytes)
    }

    fn push(&mut self, message: &Message<'_>, index: usize) {
        let length = u32::try_from(16 + message.payload.len()).expect("it came out of a 64 KiB buffer");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&message.kind.to_ne_bytes());
        self.bytes.extend_from_slice(&message.flags.to_ne_bytes());
        self.bytes.extend_from_slice(&u32::try_from(index).unwrap_or(u32::MAX).to_ne_bytes());
        self.bytes.extend_from_slice(&message.port.to_ne_bytes());
        self.bytes.extend_from_slice(message.payload);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// A netlink socket in the network namespace in which it was opened, wherever its thread goes afterwards.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    next_sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a `NETLINK_ROUTE` socket in the current network namespace, with error texts and strict checking.
    ///
    /// # Errors
    ///
    /// [`SocketError::Io`] when the system gives no socket.
    pub fn route() -> Result<Self, SocketError> {
        let socket = Self::open(SockProtocol::NetlinkRoute)?;
        // Kernels before 4.20 filter nothing in dumps; the readers of dumps filter again.
        let _ = socket::setsockopt(&socket.fd, option::StrictCheck, &true);
        Ok(socket)
    }

    /// Opens a `NETLINK_NETFILTER` socket in the current network namespace, with error texts.
    ///
    /// # Errors
    ///
    /// [`SocketError::Io`] when the system gives no socket.
    pub fn netfilter() -> Result<Self, SocketError> {
        Self::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> Result<Self, SocketError> {
        let fd = socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
            .map_err(io("open"))?;
        // Without these two, errors come without their text and with a copy of the request.
        let _ = socket::setsockopt(&fd, option::ExtAck, &true);
        let _ = socket::setsockopt(&fd, option::CapAck, &true);
        let timeout = TimeVal::new(ANSWER_SECONDS, 0);
        socket::setsockopt(&fd, sockopt::ReceiveTimeout, &timeout).map_err(io("configure"))?;
        Ok(Self { fd, next_sequence: 1, buffer: vec![0; RECEIVE_BUFFER] })
    }

    /// Asks for send and receive buffers of `octets`; without `CAP_NET_ADMIN` as much as the system allows.
    pub fn enlarge_buffers(&self, octets: usize) {
        if socket::setsockopt(&self.fd, sockopt::RcvBufForce, &octets).is_err() {
            let _ = socket::setsockopt(&self.fd, sockopt::RcvBuf, &octets);
        }
        if socket::setsockopt(&self.fd, sockopt::SndBufForce, &octets).is_err() {
            let _ = socket::setsockopt(&self.fd, sockopt::SndBuf, &octets);
        }
    }

    /// The port number of this socket: what notifications name as the cause of changes made through it.
    ///
    /// # Errors
    ///
    /// [`SocketError::Io`] when the kernel gives none.
    pub fn port(&self) -> Result<u32, SocketError> {
        let port = || socket::getsockname::<NetlinkAddr>(self.fd.as_raw_fd()).map(|address| address.pid());
        if port().map_err(io("name"))? == 0 {
            socket::bind(self.fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(io("bind"))?;
        }
        port().map_err(io("name"))
    }

    /// From now on the kernel leaves out of the notifications for this socket what was done through the socket with
    /// this port number. A classic filter looks at `nlmsg_pid`, the fourth word of the header.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the filter.
    #[cfg(feature = "async")]
    pub fn leave_out(&self, port: u32) -> Result<(), SocketError> {
        const LOAD_WORD: u16 = 0x20;
        const JUMP_IF_EQUAL: u16 = 0x15;
        const RETURN: u16 = 0x06;
        // The filter reads words as they come from a network.
        let port = u32::from_be_bytes(port.to_ne_bytes());
        let program = [
            SockFilter::new(LOAD_WORD, 0, 0, 12),
            SockFilter::new(JUMP_IF_EQUAL, 0, 1, port),
            SockFilter::new(RETURN, 0, 0, 0),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
        ];
        let attached = SockRef::from(&self.fd).attach_filter(&program);
        attached.map_err(|error| SocketError::Io {
            call: "filter",
            errno: Errno::from_raw(error.raw_os_error().unwrap_or_default()),
        })
    }

    /// Subscribes to the notifications of a multicast group (`RTNLGRP_LINK`, …).
    ///
    /// # Errors
    ///
    /// [`SocketError::Io`] when the kernel does not know the group.
    pub fn join(&self, group: u32) -> Result<(), SocketError> {
        // An unbound socket joins, and hears nothing.
        self.port()?;
        socket::setsockopt(&self.fd, option::AddMembership, &group).map_err(io("subscribe"))
    }

    /// Sends the batch in one piece and waits until all of it is answered. A request that is refused does not
    /// stop those behind it.
    ///
    /// # Errors
    ///
    /// When the exchange fails as a whole: none, some or all requests may have been carried out.
    pub fn send(&mut self, batch: &mut Batch) -> Result<Answers, SocketError> {
        if batch.is_empty() {
            return Ok(Answers::default());
        }
        let first = self.transmit(batch, true)?;
        let last = batch.acknowledged();
        let mut answers = Answers { results: vec![Ok(()); batch.len()], replies: Replies::default() };
        loop {
            let length = match self.receive(MsgFlags::empty()) {
                // A transaction that could not be committed is answered on its first message alone.
                Err(SocketError::NoAnswer) if answers.results[0].is_err() => return Ok(answers),
                other => other?,
            };
            for message in messages(&self.buffer[..length]) {
                let index = message.sequence.wrapping_sub(first) as usize;
                if index >= answers.results.len() {
                    continue;
                }
                match message.kind as i32 {
                    libc::NLMSG_ERROR => answers.results[index] = outcome(&message),
                    libc::NLMSG_DONE | libc::NLMSG_NOOP => {}
                    _ => answers.replies.push(&message, index),
                }
                if message.kind as i32 == libc::NLMSG_ERROR && index == last {
                    return Ok(answers);
                }
            }
        }
    }

    /// Dumps a table: sends the one message of `request` (which has `NLM_F_DUMP`) and gathers what comes. A
    /// dump during which the table changed is repeated.
    ///
    /// # Errors
    ///
    /// [`SocketError::Refused`] when the kernel does not give this dump, [`SocketError::Unsteady`] when the
    /// table never held still, or what befell the socket.
    pub fn dump(&mut self, request: &mut Batch) -> Result<Replies, SocketError> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(replies) = self.dump_once(request)? {
                return Ok(replies);
            }
        }
        Err(SocketError::Unsteady)
    }

    fn dump_once(&mut self, request: &mut Batch) -> Result<Option<Replies>, SocketError> {
        let mut replies = Replies::default();
        let steady = self.visit(request, |message| replies.push(message, 0))?;
        Ok(steady.then_some(replies))
    }

    /// Dumps a table once and shows each message to `each` as it comes. False if the kernel says that the table
    /// changed meanwhile.
    ///
    /// # Errors
    ///
    /// [`SocketError::Refused`] when the kernel does not give this dump, or what befell the socket.
    pub fn visit(
        &mut self,
        request: &mut Batch,
        mut each: impl FnMut(&Message<'_>),
    ) -> Result<bool, SocketError> {
        let sequence = self.transmit(request, false)?;
        let mut steady = true;
        loop {
            let length = self.receive(MsgFlags::empty())?;
            for message in messages(&self.buffer[..length]).filter(|message| message.sequence == sequence) {
                steady &= message.flags & libc::NLM_F_DUMP_INTR as u16 == 0;
                match message.kind as i32 {
                    libc::NLMSG_DONE | libc::NLMSG_ERROR => {
                        outcome(&message)?;
                        return Ok(steady);
                    }
                    libc::NLMSG_NOOP => {}
                    _ => each(&message),
                }
            }
        }
    }

    /// Sends the batch and returns the sequence number of its first message.
    fn transmit(&mut self, batch: &mut Batch, acknowledge: bool) -> Result<u32, SocketError> {
        let first = self.next_sequence;
        // Zero stays free: it marks notifications.
        let count = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        self.next_sequence = first.checked_add(count).unwrap_or(1);
        socket::send(self.fd.as_raw_fd(), batch.seal(first, acknowledge), MsgFlags::empty())
            .map_err(io("write to"))?;
        Ok(first)
    }

    /// Takes one datagram of notifications and shows each to `visit`. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// [`SocketError::Lost`] when some were lost (those still queued are then thrown away too), or what befell
    /// the socket.
    pub fn notifications(&mut self, visit: impl FnMut(Message<'_>)) -> Result<bool, SocketError> {
        match self.receive(MsgFlags::MSG_DONTWAIT) {
            Ok(length) => messages(&self.buffer[..length]).for_each(visit),
            Err(SocketError::NoAnswer) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Receives one datagram into the buffer and returns its length.
    fn receive(&mut self, flags: MsgFlags) -> Result<usize, SocketError> {
        loop {
            match socket::recv(self.fd.as_raw_fd(), &mut self.buffer, flags | MsgFlags::MSG_TRUNC) {
                Ok(length) if length > self.buffer.len() => return Err(SocketError::Lost),
                Ok(length) => return Ok(length),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(SocketError::NoAnswer),
                Err(Errno::ENOBUFS) => {
                    self.drain();
                    return Err(SocketError::Lost);
                }
                Err(errno) => return Err(SocketError::Io { call: "read from", errno }),
            }
        }
    }

    /// Throws away what is queued, so that the next exchange begins with its own answers.
    fn drain(&mut self) {
        while matches!(
            socket::recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT),
            Ok(_) | Err(Errno::EINTR | Errno::ENOBUFS)
        ) {}
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn io(call: &'static str) -> impl Fn(Errno) -> SocketError {
    move |errno| SocketError::Io { call, errno }
}

/// Reads `NLMSG_ERROR` or `NLMSG_DONE`: a negative error number, and with `NLM_F_ACK_TLVS` attributes behind
/// the header of the request (and behind the request itself unless `NLM_F_CAPPED`).
fn outcome(message: &Message<'_>) -> Result<(), RequestError> {
    let code = message.body().map_or(0, i32::from_ne_bytes);
    if code == 0 {
        return Ok(());
    }
    let mut behind = 4;
    if message.kind as i32 == libc::NLMSG_ERROR {
        behind += 16;
        if message.flags & NLM_F_CAPPED == 0 {
            let length = message.payload.get(4..8).and_then(read_u32).unwrap_or(16) as usize;
            behind += length.saturating_sub(16).next_multiple_of(4);
        }
    }
    let text = (message.flags & NLM_F_ACK_TLVS != 0)
        .then(|| attributes(message.payload.get(behind..).unwrap_or_default()))
        .and_then(|mut attributes| attributes.find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG))
        .map(|(_, text)| read_str(text))
        .unwrap_or_default();
    Err(RequestError { errno: Errno::from_raw(-code), text })
}
