//! The rows of the matrix.

mod attributes;
mod limits;
mod restart;
mod sessions;
mod transport;

use anyhow::Result;

use super::stage::Stage;
use crate::peers::Daemon;

/// One row of the matrix.
pub struct Feature {
    /// One word for the command line.
    pub key: &'static str,
    /// What the table calls it.
    pub title: &'static str,
    /// What a "yes" means.
    pub shows: &'static str,
    /// Why a daemon has no such feature; `None` when it has.
    pub(super) cannot: fn(Daemon) -> Option<&'static str>,
    /// Plays it; gives a note on the daemon, mostly empty.
    pub(super) play: fn(&Stage) -> Result<&'static str>,
}

fn everybody(_: Daemon) -> Option<&'static str> {
    None
}

const ONE_FAMILY: &str = "one address family per process";
const NO_KERNEL: &str = "no routes in the kernel, by design or as Debian builds it";
const NO_TABLE: &str = "it has no table of routes that could be kept";

/// All rows, in the order of the table.
pub const FEATURES: &[Feature] = &[
    Feature {
        key: "ipv4",
        title: "session over IPv4",
        shows: "both call it established; each has the other's IPv4 route with the right AS path and next hop",
        cannot: everybody,
        play: sessions::ipv4,
    },
    Feature {
        key: "ipv6",
        title: "session over IPv6",
        shows: "the same with IPv6 routes",
        cannot: everybody,
        play: sessions::ipv6,
    },
    Feature {
        key: "families",
        title: "both families on one session (RFC 4760)",
        shows: "routes of both families go both ways on one IPv4 session",
        cannot: |daemon| (daemon == Daemon::Bird1).then_some(ONE_FAMILY),
        play: sessions::families,
    },
    Feature {
        key: "kernel",
        title: "routes in both kernels",
        shows: "the pods' block is in the daemon's kernel and the daemon's network in ours",
        cannot: |daemon| (!daemon.has_kernel_routes()).then_some(NO_KERNEL),
        play: sessions::kernel,
    },
    Feature {
        key: "as4",
        title: "4-octet AS numbers (RFC 6793)",
        shows: "AS 4200000001 and 4200000002 speak and see each other in AS_PATH",
        cannot: everybody,
        play: sessions::as4,
    },
    Feature {
        key: "md5",
        title: "TCP MD5 (RFC 2385)",
        shows: "with another password no session comes up and the kernel counts bad digests; with the right one it does",
        cannot: everybody,
        play: transport::md5,
    },
    Feature {
        key: "ttl",
        title: "TTL security (RFC 5082)",
        shows: "packets with a low TTL are dropped by our kernel; a session comes up once the daemon sends 255",
        cannot: everybody,
        play: transport::ttl,
    },
    Feature {
        key: "range",
        title: "dynamic peers by range",
        shows: "the daemon dials from an address that no BGPPeer names and is taken by the range",
        cannot: everybody,
        play: transport::range,
    },
    Feature {
        key: "unnumbered",
        title: "unnumbered, by link-local address",
        shows: "the peer is found on the link; IPv4 routes go over its link-local address",
        cannot: |daemon| match daemon {
            Daemon::Bird2 | Daemon::Frr => None,
            Daemon::Bird1 | Daemon::GoBgp | Daemon::OpenBgpd | Daemon::ExaBgp => {
                Some("no peers by link-local address, or no IPv4 routes over IPv6 next hops")
            }
        },
        play: transport::unnumbered,
    },
    Feature {
        key: "restarter",
        title: "graceful restart, ours restarts (RFC 4724)",
        shows: "our agent is killed and started again: the daemon keeps our routes all the while, in its kernel where it has some there",
        cannot: |daemon| (daemon == Daemon::ExaBgp).then_some(NO_TABLE),
        play: restart::restarter,
    },
    Feature {
        key: "helper",
        title: "graceful restart, the peer restarts (RFC 4724)",
        shows: "the daemon is killed and started again: our kernel never loses its route",
        cannot: |daemon| {
            (daemon == Daemon::OpenBgpd)
                .then_some("it helps others restart and does not offer to restart itself")
        },
        play: restart::helper,
    },
    Feature {
        key: "llgr",
        title: "long-lived graceful restart (RFC 9494)",
        shows: "the daemon is killed and stays away past its restart time: our kernel keeps its route",
        cannot: |daemon| {
            matches!(daemon, Daemon::OpenBgpd | Daemon::ExaBgp | Daemon::Frr)
                .then_some("it does not offer it (FRR 8.4 only helps others)")
        },
        play: restart::long_lived,
    },
    Feature {
        key: "refresh",
        title: "route refresh (RFC 2918)",
        shows: "the daemon asks, and our routes are told again",
        cannot: |daemon| {
            (daemon == Daemon::GoBgp).then_some("it keeps what it received and has no command to ask again")
        },
        play: sessions::refresh,
    },
    Feature {
        key: "enhanced",
        title: "enhanced route refresh (RFC 7313)",
        shows: "our answer to a refresh is framed by its begin and end",
        cannot: |daemon| {
            matches!(daemon, Daemon::GoBgp | Daemon::ExaBgp).then_some("it does not offer it, or cannot ask")
        },
        play: sessions::enhanced,
    },
    Feature {
        key: "communities",
        title: "communities, all kinds (RFC 1997, 4360, 8092)",
        shows: "standard, extended and large ones go through us unchanged, from the daemon and to it",
        cannot: everybody,
        play: attributes::communities,
    },
    Feature {
        key: "unknown",
        title: "unknown attributes are carried",
        shows: "an optional transitive attribute that nobody knows goes through us to the daemon, with its Partial bit",
        cannot: |daemon| {
            matches!(daemon, Daemon::Frr | Daemon::OpenBgpd | Daemon::Bird1)
                .then_some("it does not show such attributes")
        },
        play: attributes::unknown,
    },
    Feature {
        key: "addpath-rx",
        title: "ADD-PATH, received (RFC 7911)",
        shows: "two paths of one prefix arrive from the daemon, and one remains when the other goes",
        cannot: everybody,
        play: attributes::add_path_rx,
    },
    Feature {
        key: "addpath-tx",
        title: "ADD-PATH, sent (RFC 7911)",
        shows: "the daemon has two paths of one prefix from us",
        cannot: |daemon| (daemon == Daemon::Frr).then_some("8.4 sends several paths and takes only one"),
        play: attributes::add_path_tx,
    },
    Feature {
        key: "nexthop",
        title: "IPv4 routes over IPv6 next hops (RFC 8950)",
        shows: "IPv4 routes go both ways on an IPv6 session; our kernel has the daemon's by way of an IPv6 address",
        cannot: |daemon| match daemon {
            Daemon::Bird1 | Daemon::OpenBgpd => Some("not in this version"),
            Daemon::Bird2 | Daemon::Frr | Daemon::GoBgp | Daemon::ExaBgp => None,
        },
        play: attributes::extended_next_hop,
    },
    Feature {
        key: "nexthop32",
        title: "next hops of 32 octets (RFC 2545)",
        shows: "an IPv6 route with a global and a link-local next hop is in our kernel",
        cannot: |daemon| match daemon {
            Daemon::Bird2 | Daemon::Bird1 | Daemon::Frr => None,
            Daemon::GoBgp | Daemon::OpenBgpd | Daemon::ExaBgp => Some("it sends one address"),
        },
        play: attributes::next_hop_of_32_octets,
    },
    Feature {
        key: "messages",
        title: "extended messages (RFC 8654)",
        shows: "a route arrives whose attributes do not fit into 4,096 octets",
        cannot: |daemon| match daemon {
            Daemon::Bird2 | Daemon::Frr | Daemon::ExaBgp => None,
            Daemon::Bird1 | Daemon::GoBgp | Daemon::OpenBgpd => Some("not in this version"),
        },
        play: attributes::extended_messages,
    },
    Feature {
        key: "limit",
        title: "limit of prefixes, and its restart timer",
        shows: "the session ends with Cease/1, the daemon shows it, and the session returns by itself",
        cannot: everybody,
        play: limits::limit,
    },
    Feature {
        key: "shutdown-in",
        title: "shutdown communication, received (RFC 9003)",
        shows: "the operator's message at the daemon stands in our last error",
        cannot: |daemon| {
            matches!(daemon, Daemon::Bird1 | Daemon::ExaBgp).then_some("it cannot send one by command")
        },
        play: limits::shutdown_in,
    },
    Feature {
        key: "shutdown-out",
        title: "shutdown communication, sent (RFC 9003)",
        shows: "a BGPPeer that goes away ends the session with words that the daemon shows",
        cannot: |daemon| (daemon == Daemon::Bird1).then_some("it shows none"),
        play: limits::shutdown_out,
    },
    Feature {
        key: "roles",
        title: "roles and Only to Customer (RFC 9234)",
        shows: "two providers are refused; towards a customer our routes carry OTC",
        cannot: |daemon| match daemon {
            Daemon::Bird2 | Daemon::Frr | Daemon::OpenBgpd => None,
            Daemon::Bird1 | Daemon::GoBgp | Daemon::ExaBgp => Some("not in this version"),
        },
        play: limits::roles,
    },
];
