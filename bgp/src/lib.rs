//! A BGP-4 speaker that has no socket and no clock.
//!
//! A [`Speaker`] is told what happened ([`Input`]) and when, and says what should happen ([`Output`]). The sessions of
//! all peers, the collision of two connections, retries, graceful restart in both roles, the routing table, policy and
//! what each peer must still be told are inside. Sockets, time, chance and files are not, and `clippy.toml` keeps them
//! out; so a year of a session costs a second in a test, and what a test has seen happens again.
//!
//! ```text
//!            handle(Input, now)                         poll() -> Output
//!  shell ──────────────────────► Speaker ──────────────────────────────────► shell
//!   sockets, timers               peer ── wire   transmit(conn, buf, budget)
//!                                  │
//!                                 rib ── policy
//! ```
//!
//! # How to drive it
//!
//! After each [`Speaker::handle`] drain [`Speaker::poll`] and arm a timer for [`Speaker::deadline`]. On
//! [`Output::Connect`] dial; on [`Output::Writable`] call [`Speaker::transmit`] for as long as the socket takes octets
//! and it says that more remain; on [`Output::Close`] send what it still gives and close. That is all.
//!
//! # What holds
//!
//! - No input panics, whatever a peer sends, and a peer's fault costs what RFC 7606 says, to that peer only.
//! - Configuration is declared whole. A session starts again only if its OPEN would say something else, and then both
//!   sides keep their routes if they agreed to; everything else takes effect at once.
//! - Peers that are replaced stay until those in their place were heard: no change of the topology costs a route.
//! - Messages are made when the socket can take them, from the newest state: memory is bounded by the table, however
//!   slow a peer is.
//! - Own origins never reach the kernel as routes, and routes of a peer never displace them.
//! - Order never depends on addresses in memory or on hashes: equal inputs give equal outputs.
//!
//! # Where to read
//!
//! [`speaker`] is the door. `peer` holds the sessions, `rib` the table, [`wire`] the octets; `graceful` knows when a
//! start is over, `retained` which routes outlive a session. Types for everyone: [`prefix`], [`config`], [`policy`],
//! [`event`], [`snapshot`], [`explanation`].
//!
//! # RFCs
//!
//! 1997, 2545, 2918, 4271, 4360, 4456, 4486, 4724, 4760, 5492, 5668, 6286, 6608, 6793, 6996, 7313, 7606, 7607, 7911, 7999,
//! 8092, 8212, 8326, 8538, 8654, 8950, 9003, 9072, 9234, 9494, 9687; for those who watch 6396, 7854 and 8050. Absent on purpose: confederations, every family but
//! unicast.
//!
//! Where they leave a choice:
//!
//! - Limits on prefixes count paths, as the table holds them, where a peer tells several per prefix (RFC 7911).
//! - Path identifiers that we give begin with 1 for each prefix and stay with a path for as long as the peer knows it.
//! - Routes that are stale for long are not told to peers without the capability (RFC 9494 §4.3), internal ones included:
//!   the exception of §4.7 is not made use of.
//! - Of two next hops the link-local one is used where the session itself is on a link, the global one elsewhere
//!   (RFC 2545 §3). Over such a session we tell both, or the link-local one twice if there is no other.

mod agenda;
mod chance;
pub mod config;
pub mod event;
pub mod explanation;
mod graceful;
mod monitor;
mod peer;
pub mod policy;
pub mod prefix;
mod retained;
mod rib;
pub mod snapshot;
pub mod speaker;
pub mod wire;

pub use config::{
    AddPath, ConnId, Dial, FamilyConfig, HoldTime, HoldTimeError, LimitAction, Local, LocalAs, NextHopMode,
    OriginAttributes, PeerConfig, PeerId, PrefixLimit, RemoteAs, Role,
};
pub use event::{Event, FaultAction, PeerState};
pub use explanation::{Explanation, PathExplanation, Told, ToldStatus, Untold, communities};
pub use policy::{
    Amendment, AsPathMatch, Changes, CommunityMatch, CommunityValue, CommunityValueError, Policy,
    PrefixMatch, Rule, Source, Subject, Verdict,
};
pub use prefix::{Asn, Families, Family, Gateway, HostBits, Ipv4Prefix, Ipv6Prefix, Prefix, RouterId};
pub use rib::HopSet;
pub use rib::decision::Step;
pub use snapshot::{
    FamilyStatus, ImportStatus, LastError, MessageCounts, PathStatus, PeerStatus, RouteStatus, Snapshot,
};
pub use speaker::{Direction, Input, Output, Speaker, StopReason};
pub use wire::{Attributes, Capability, Community, ErrorCode, ExtendedCommunity, LargeCommunity};
