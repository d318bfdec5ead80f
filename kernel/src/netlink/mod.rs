//! Netlink, the synchronous way: one socket, one batch, one answer.
//!
//! The kernel carries out a request inside the `sendmsg` that brings it, so a blocking exchange is also the
//! fastest one. [`request`] builds messages and reads them back, [`socket`] exchanges them. Everything above
//! speaks in the types of [`crate::model`].

pub mod request;
pub mod socket;
