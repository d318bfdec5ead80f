//! Netlink, the synchronous way: one socket, one batch, one answer.
//!
//! The kernel carries out a request inside the `sendmsg` that brings it, so a blocking exchange is also the
//! fastest one. [`request`] builds messages and reads them back, [`socket`] exchanges them. Everything above
//! speaks in the types of [`crate::model`]; [`Kernel`] is the door.
//!
//! With the feature `async` there are also `monitor`, which tells what changes, and `inventory`.

mod admission;
mod apply;
pub mod conntrack;
mod decode;
mod dump;
mod encode;
mod expression;
pub mod filters;
pub mod guard;
pub mod guests;
pub mod inspect;
#[cfg(feature = "async")]
pub mod inventory;
pub mod links;
pub mod lookup;
#[cfg(feature = "async")]
pub mod monitor;
pub mod mtu;
pub mod nat;
pub mod nfrules;
mod nftables;
pub mod nftrace;
pub mod request;
pub mod socket;

use std::time::Instant;

use crate::fib::{Fib, FibEvent, Input, Output};
use crate::model::{Op, OpError};

use request::Batch;
use socket::{Socket, SocketError};

/// Room for the answers to, and the requests of, the largest batch.
const BUFFER_OCTETS: usize = 1 << 20;

/// The routing half of the kernel, in the network namespace in which it was opened. Calls block, for
/// microseconds as a rule.
///
/// [`Kernel::dump`] and [`Kernel::resolve`] read, [`Kernel::apply`] writes; [`Kernel::carry_out`] does whatever
/// a [`Fib`] asks for. The socket stays in its namespace wherever its thread goes.
#[derive(Debug)]
pub struct Kernel {
    socket: Socket,
    batch: Batch,
}

impl Kernel {
    /// Opens a socket in the current network namespace.
    ///
    /// # Errors
    ///
    /// When the system gives no socket.
    pub fn open() -> Result<Self, SocketError> {
        let socket = Socket::route()?;
        socket.enlarge_buffers(BUFFER_OCTETS);
        Ok(Self { socket, batch: Batch::new() })
    }

    /// The port number of the socket, for a monitor to ignore.
    ///
    /// # Errors
    ///
    /// When the kernel gives none.
    pub fn port(&self) -> Result<u32, SocketError> {
        self.socket.port()
    }

    /// Does everything that a machine asks for at this time. Returns its events and, if an exchange failed as a
    /// whole, the error (the machine copes; both are for the log).
    pub fn carry_out(&mut self, fib: &mut Fib, now: Instant) -> (Vec<FibEvent>, Option<SocketError>) {
        let (mut events, mut failure) = (Vec::new(), None);
        while let Some(output) = fib.poll() {
            if let Some((input, error)) = self.answer(&output) {
                failure = failure.or(error);
                fib.handle(input, now);
            } else if let Output::Event(event) = output {
                events.push(event);
            }
        }
        (events, failure)
    }

    /// Does one thing that a [`Fib`] asks for and returns the answer to feed to it, with the error if it failed
    /// as a whole. `None` for [`Output::Event`].
    pub fn answer(&mut self, output: &Output) -> Option<(Input, Option<SocketError>)> {
        Some(match output {
            Output::Dump => split(self.dump(), Input::Dumped),
            Output::Resolve(addresses) => {
                split(self.resolve(addresses), |resolved| Input::Resolved(resolved.unwrap_or_default()))
            }
            Output::Apply(ops) => split(self.apply(ops), Input::Applied),
            Output::Event(_) => return None,
        })
    }
}

fn split<T>(
    result: Result<T, SocketError>,
    input: impl FnOnce(Option<T>) -> Input,
) -> (Input, Option<SocketError>) {
    match result {
        Ok(value) => (input(Some(value)), None),
        Err(error) => (input(None), Some(error)),
    }
}
