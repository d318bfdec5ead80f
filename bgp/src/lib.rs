//! A BGP-4 speaker that has no socket and no clock.
//!
//! A [`Speaker`] is told what happened ([`Input`]) and when, and says what should happen ([`Output`]). Sessions of all
//! peers, the collision of two connections, retry, graceful restart in both roles, the routing table, policy and what
//! each peer must still be told are inside; sockets, time, chance and files are not, and `clippy.toml` keeps them out.
//! So a year of a session costs a second in a test.
//!
//! ```text
//!            handle(Input, now)                        poll() -> Output
//!  shell ───────────────────────► Speaker ───────────────────────────────► shell
//!   sockets, timers               peers, rib    transmit(conn, buf, budget)
//! ```

mod agenda;
mod chance;
pub mod config;
pub mod event;
mod graceful;
mod peer;
pub mod policy;
pub mod prefix;
pub mod rib;
pub mod snapshot;
pub mod speaker;
pub mod wire;

pub use config::{
    ConnId, FamilyConfig, HoldTime, HoldTimeError, Local, NextHopMode, OriginAttributes, PeerConfig, PeerId,
};
pub use event::{Event, FaultAction, PeerState};
pub use policy::{Changes, Policy, PrefixMatch, Rule, Source, Verdict};
pub use prefix::{Asn, Families, Family, HostBits, Ipv4Prefix, Ipv6Prefix, Prefix, RouterId};
pub use rib::decision::Step;
pub use snapshot::{FamilyStatus, ImportStatus, PathStatus, PeerStatus, RouteStatus, Snapshot};
pub use speaker::{Direction, Input, Output, Speaker, StopReason};
pub use wire::{Community, LargeCommunity};
