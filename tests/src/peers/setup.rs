//! What a daemon is told to be, in terms that all of them share.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// One speaker: who it is, whom it speaks with, what it originates.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its AS.
    pub asn: u32,
    /// Its BGP identifier.
    pub router_id: Ipv4Addr,
    /// Put what is learned into the kernel, where the daemon can.
    pub kernel: bool,
    /// Its sessions.
    pub neighbors: Vec<Neighbor>,
    /// What it announces to all of them.
    pub routes: Vec<Originated>,
}

impl Setup {
    /// A speaker without sessions and routes; what it learns goes into the kernel.
    pub fn new(asn: u32, router_id: Ipv4Addr) -> Self {
        Self { asn, router_id, kernel: true, neighbors: Vec::new(), routes: Vec::new() }
    }
}

/// Where a neighbor is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote {
    /// At an address.
    Address(IpAddr),
    /// At a link-local address of that link.
    LinkLocal(Ipv6Addr, String),
    /// At the other end of that link, found by router advertisements (FRR).
    Interface(String),
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::LinkLocal(address, link) => write!(f, "{address}%{link}"),
            Self::Interface(link) => f.write_str(link),
        }
    }
}

/// Which directions of ADD-PATH (RFC 7911) are offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddPath {
    /// Several paths may be received.
    pub receive: bool,
    /// Several paths are sent.
    pub send: bool,
}

/// One session, every feature as the daemon has it by default unless named here.
#[derive(Clone, Debug)]
pub struct Neighbor {
    /// One word by which [`super::Peer`] is asked about it.
    pub name: String,
    /// The other end.
    pub remote: Remote,
    /// Our end.
    pub local: Option<IpAddr>,
    /// The AS of the other end.
    pub asn: u32,
    /// Wait for the other end to connect.
    pub passive: bool,
    /// Hold time in seconds.
    pub hold: u16,
    /// Exchange IPv4 routes.
    pub ipv4: bool,
    /// Exchange IPv6 routes.
    pub ipv6: bool,
    /// TCP MD5 password (RFC 2385).
    pub password: Option<String>,
    /// TTL security for one hop (RFC 5082).
    pub ttl_security: bool,
    /// Graceful restart with this restart time in seconds (RFC 4724).
    pub restart: Option<u16>,
    /// Long-lived graceful restart with this stale time in seconds (RFC 9494).
    pub long_lived: Option<u32>,
    /// ADD-PATH for all families.
    pub add_path: AddPath,
    /// IPv4 routes over IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// Messages above 4,096 octets (RFC 8654).
    pub extended_messages: bool,
    /// The role of the daemon (RFC 9234), in the words of the RFC: provider, rs-server, rs-client, customer, peer.
    pub role: Option<&'static str>,
    /// Prefixes of one family after which the daemon ends the session.
    pub max_prefixes: Option<u32>,
    /// Write down every message; BIRD counts refreshes by that only.
    pub trace: bool,
    /// Tell it everything that is known, not only what the daemon originates.
    pub transit: bool,
}

impl Neighbor {
    /// A session with one address, IPv4 and IPv6 routes, hold time 9 s, and nothing else asked for.
    pub fn new(name: &str, remote: IpAddr, asn: u32) -> Self {
        Self {
            name: name.to_owned(),
            remote: Remote::Address(remote),
            local: None,
            asn,
            passive: false,
            hold: 9,
            ipv4: true,
            ipv6: true,
            password: None,
            ttl_security: false,
            restart: None,
            long_lived: None,
            add_path: AddPath::default(),
            extended_next_hop: false,
            extended_messages: false,
            role: None,
            max_prefixes: None,
            trace: false,
            transit: false,
        }
    }
}

/// A route that a daemon announces.
#[derive(Clone, Debug)]
pub struct Originated {
    /// Which prefix.
    pub prefix: IpNetwork,
    /// The next hop, where the daemon would send a useless one by itself: GoBGP, ExaBGP and (before it knows its
    /// links) FRR, for IPv6 routes on an IPv4 session. The others choose for themselves (OpenBGPD badly: `::1`).
    pub next_hop: Option<IpAddr>,
    /// Communities (RFC 1997), as `65001:7`.
    pub communities: Vec<(u16, u16)>,
    /// Large communities (RFC 8092).
    pub large_communities: Vec<(u32, u32, u32)>,
    /// Route targets (RFC 4360), AS and value.
    pub route_targets: Vec<(u16, u32)>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// An attribute that nobody knows, optional and transitive: its type and value. Only ExaBGP can send one.
    pub unknown: Option<(u8, Vec<u8>)>,
    /// A number by which several paths of one prefix are told apart (RFC 7911). Only ExaBGP originates such.
    pub path_id: Option<u32>,
}

impl Originated {
    /// A route without any optional attribute.
    pub fn new(prefix: IpNetwork) -> Self {
        Self {
            prefix,
            next_hop: None,
            communities: Vec::new(),
            large_communities: Vec::new(),
            route_targets: Vec::new(),
            med: None,
            unknown: None,
            path_id: None,
        }
    }
}
