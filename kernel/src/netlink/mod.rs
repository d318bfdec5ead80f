//! Netlink, the synchronous way: one socket, one batch, one answer.
//!
//! The kernel carries out a request inside the `sendmsg` that brings it, so a blocking exchange is also the
//! fastest one. [`request`] builds messages and reads them back, [`socket`] exchanges them. Everything above
//! speaks in the types of [`crate::model`]; [`Kernel`] is the door.

mod apply;
mod decode;
mod dump;
mod encode;
pub mod inspect;
pub mod links;
#[cfg(feature = "async")]
pub mod monitor;
pub mod nat;
mod nftables;
pub mod request;
pub mod socket;

use crate::fib::{Input, Output};
use crate::model::{Op, OpError};

use request::Batch;
use socket::{Socket, SocketError};

/// Room for the answers to, and the requests of, the largest batch.
const BUFFER_OCTETS: usize = 1 << 20;

/// The routing half of the kernel, in the network namespace in which it was opened. Calls block, for
/// microseconds as a rule.
///
/// [`Kernel::dump`] and [`Kernel::resolve`] read, [`Kernel::apply`] writes.
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

    /// The port number of the socket, for [`Monitor::open`](monitor::Monitor::open) to ignore.
    ///
    /// # Errors
    ///
    /// When the kernel gives none.
    #[cfg_attr(not(feature = "async"), expect(rustdoc::broken_intra_doc_links, reason = "no monitor"))]
    pub fn port(&self) -> Result<u32, SocketError> {
        self.socket.port()
    }

    /// Does what a [`Fib`](crate::fib::Fib) asks and returns the answer to feed to it, with the error if it
    /// failed as a whole (the machine copes; the error is for the log). `None` for [`Output::Event`].
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
