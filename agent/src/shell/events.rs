//! How the events of the machines read in the log, all in one place, so that wording and levels agree.
//!
//! Info: a change that somebody who runs the node would notice. Warn: it works, but look. Error: something
//! stays broken until somebody acts. Each begins and ends with one line, not one for each retry.

use manx_bgp::{Event as Bgp, PeerState};
use manx_ipam::Event as Ipam;
use manx_kernel::fib::{FibEvent, Why};

use super::metrics::Metrics;
use crate::node::pods::PodName;

/// An error with all of its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Logs that the annotations of a pod do not count, since nobody knows them.
pub fn log_unheard(pod: &PodName) {
    let PodName { namespace, name } = pod;
    tracing::warn!(
        namespace,
        pod = name,
        "the API server has not told of this pod: it starts without its annotations"
    );
}

/// Logs and counts what the speaker tells.
pub fn log_bgp(event: &Bgp, metrics: &Metrics) {
    match event {
        Bgp::StateChanged { peer, from, to: PeerState::Established } => {
            metrics.sessions_established.inc();
            tracing::info!(%peer, %from, "the session is up");
        }
        // Both sides connected at once, and the other connection goes on.
        Bgp::StateChanged {
            peer,
            from: PeerState::Established,
            to: PeerState::OpenSent | PeerState::OpenConfirm,
        }
        | Bgp::NotificationSent { peer, code: 6, subcode: 7, .. }
        | Bgp::NotificationReceived { peer, code: 6, subcode: 7, .. } => {
            tracing::debug!(%peer, "one of two connections is closed");
        }
        Bgp::StateChanged { peer, from: PeerState::Established, to } => {
            metrics.sessions_lost.inc();
            tracing::warn!(%peer, %to, "the session is down");
        }
        Bgp::StateChanged { peer, from, to } => {
            tracing::debug!(%peer, %from, %to, "the session changed its state")
        }
        Bgp::NotificationSent { peer, code, subcode, text } => {
            metrics.notifications.inc();
            tracing::warn!(%peer, code, subcode, text, "we ended the connection");
        }
        Bgp::NotificationReceived { peer, code, subcode, text } => {
            metrics.notifications.inc();
            tracing::warn!(%peer, code, subcode, text, "the peer ended the connection");
        }
        Bgp::Fault { peer, action, reason } => {
            metrics.faults.inc();
            tracing::warn!(%peer, %action, reason, "the peer sent something that breaks the rules");
        }
        Bgp::PrefixLimit { peer, family, count, limit, exceeded: true, .. } => {
            tracing::error!(%peer, %family, count, limit, "the peer announced more prefixes than it may");
        }
        Bgp::PrefixLimit { peer, family, count, limit, exceeded: false, .. } => {
            tracing::warn!(%peer, %family, count, limit, "the peer announces nearly as many prefixes as it may");
        }
        Bgp::PeerAppeared { peer } => tracing::info!(%peer, "a peer connected from a range"),
        Bgp::PeerVanished { peer } => tracing::info!(%peer, "the peer is gone"),
        Bgp::PeerLingers { peer } => {
            tracing::info!(%peer, "the peer is no longer wanted; it stays until its successors are heard");
        }
        Bgp::ConnectionRefused { remote, reason } => {
            tracing::debug!(%remote, reason, "a BGP connection was refused");
        }
        Bgp::StationTooSlow { conn } => {
            tracing::warn!(
                conn = conn.0,
                "a BMP station does not read what it is sent: its connection is closed"
            );
        }
        Bgp::EndOfRib { peer, family } => {
            tracing::debug!(%peer, %family, "the peer has told all that it has")
        }
        Bgp::RoutesRetained { peer, count } => {
            tracing::info!(%peer, count, "the peer's routes are kept while it restarts");
        }
        Bgp::RoutesMarked { peer, family, count } => {
            tracing::warn!(%peer, %family, count, "the peer is away for long; its routes are kept as the last resort");
        }
        Bgp::RoutesExpired { peer, count } => {
            tracing::warn!(%peer, count, "kept routes were not confirmed in time and are gone");
        }
        Bgp::NotAnnounced { peer, prefix, reason } => {
            tracing::warn!(%peer, %prefix, reason, "a route cannot be announced");
        }
    }
}

/// Logs what the route machine tells.
pub fn log_fib(event: &FibEvent) {
    match event {
        FibEvent::Drift { routes, example } => {
            tracing::warn!(routes, %example, "somebody else removed or changed Manx's routes; they are put back");
        }
        // The plugin makes the link of a pod right after it was told its address.
        FibEvent::Blocked { why: Why::Link, example } => {
            tracing::debug!(%example, "a route waits for its link");
        }
        FibEvent::Blocked { why, example } => {
            tracing::warn!(?why, %example, "routes cannot be installed: why and example say which")
        }
        FibEvent::Unblocked { why: Why::Link } => {}
        FibEvent::Unblocked { why } => tracing::info!(?why, "all routes can be installed again"),
        FibEvent::NoNexthopObjects => {
            tracing::info!("this kernel has no next-hop objects; routes carry their gateways");
        }
    }
}

/// Logs what the allocator tells.
pub fn log_ipam(event: &Ipam) {
    match event {
        Ipam::BlockOwned { block } => tracing::info!(%block, "the block is this node's"),
        Ipam::BlockGone { block } => tracing::info!(%block, "the block is not this node's any more"),
        Ipam::Conflict { block, owner: Some(node) } => {
            tracing::error!(%block, %node, "pods here use a block that belongs to another node: nobody answers for their addresses, restart them");
        }
        Ipam::Conflict { block, owner: None } => {
            tracing::error!(%block, "pods here use a block that nobody owns; it is claimed again");
        }
        Ipam::ConflictEnded { block } => tracing::info!(%block, "the block is in order again"),
        Ipam::Exhausted { family } => tracing::error!(%family, "no pool has a free block left: add a pool"),
        Ipam::ExhaustedEnded { family } => tracing::info!(%family, "there are free blocks again"),
        Ipam::ClaimsFailing { pool } => {
            tracing::warn!(pool, "blocks cannot be claimed or released: the API server does not confirm");
        }
        Ipam::ClaimsFailingEnded { pool } => tracing::info!(pool, "blocks can be claimed and released again"),
        Ipam::PoolOverlap { pool, with } => {
            tracing::error!(pool, with, "a pool is not used: it overlaps an older one; delete one of the two")
        }
        Ipam::PoolOverlapEnded { pool } => tracing::info!(pool, "the pool overlaps no other any more"),
        Ipam::AddressConflict { address, holder, found } => {
            tracing::error!(%address, %holder, %found, "two endpoints have one address; the recorded one keeps it");
        }
        Ipam::RecordDamaged { lines } => {
            tracing::error!(
                lines,
                "the record of endpoints has lines that cannot be read: their pods keep their links, and must be restarted to be known"
            );
        }
    }
}
