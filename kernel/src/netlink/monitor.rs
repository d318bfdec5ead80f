//! What changes in the kernel, as it changes.

use crate::model::Event;

use super::socket::SocketError;

/// A subscription to links, addresses, routes and next-hop objects of one network namespace.
#[derive(Debug)]
pub struct Monitor {}

impl Monitor {
    /// Subscribes, in the current network namespace. Changes made through the sockets with the port numbers in
    /// `ignore` are not told (one's own).
    ///
    /// # Errors
    ///
    /// When the system gives no socket or refuses the subscription.
    pub fn open(_ignore: &[u32]) -> Result<Self, SocketError> {
        Ok(Self {})
    }

    /// Waits for the next event. Cancel safe. After [`Event::Overrun`] a dump is due.
    ///
    /// # Errors
    ///
    /// When the socket fails for good.
    pub async fn next(&mut self) -> Result<Event, SocketError> {
        std::future::pending().await
    }
}
