//! What changes in the kernel, as it changes.
//!
//! On our own socket rather than `rtnetlink`'s: its message types do not know next-hop objects, and here the same
//! decoder serves dumps and notifications.

use std::collections::VecDeque;
use std::io;

use nix::errno::Errno;
use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::model::Event;

use super::decode;
use super::socket::{Socket, SocketError};

/// Room for the notifications of some fifty thousand routes.
const BUFFER_OCTETS: usize = 16 << 20;

/// A subscription to links, addresses, routes and next-hop objects of one network namespace.
#[derive(Debug)]
pub struct Monitor {
    socket: AsyncFd<Socket>,
    events: VecDeque<Event>,
}

impl Monitor {
    /// Subscribes, in the current network namespace. Changes made through the socket with the port number `ignore`,
    /// one's own, are not told: the kernel leaves them out, so that they cost nothing here.
    ///
    /// # Errors
    ///
    /// When the system gives no socket or refuses the subscription.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O enabled.
    pub fn open(ignore: Option<u32>) -> Result<Self, SocketError> {
        let socket = Socket::route()?;
        socket.enlarge_buffers(BUFFER_OCTETS);
        if let Some(port) = ignore {
            socket.leave_out(port)?;
        }
        for group in [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV6_ROUTE,
        ] {
            socket.join(group)?;
        }
        // A kernel without next-hop objects has no such group, and needs none.
        let _ = socket.join(libc::RTNLGRP_NEXTHOP);
        #[expect(
            deprecated,
            reason = "its unsafe heir asks for a descriptor that stays open: a Socket owns its own"
        )]
        let socket = AsyncFd::with_interest(socket, Interest::READABLE).map_err(watch)?;
        Ok(Self { socket, events: VecDeque::new() })
    }

    /// Waits for the next event. Cancel safe. After [`Event::Overrun`] a dump is due.
    ///
    /// # Errors
    ///
    /// When the socket fails for good.
    pub async fn next(&mut self) -> Result<Event, SocketError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let mut ready = self.socket.readable_mut().await.map_err(watch)?;
            let events = &mut self.events;
            let told = ready.get_inner_mut().notifications(|message| events.extend(decode::event(&message)));
            match told {
                Ok(true) => {}
                Ok(false) => ready.clear_ready(),
                Err(SocketError::Lost) => self.events.push_back(Event::Overrun),
                Err(error) => return Err(error),
            }
        }
    }
}

fn watch(error: io::Error) -> SocketError {
    SocketError::Io { call: "watch", errno: Errno::from_raw(error.raw_os_error().unwrap_or_default()) }
}
