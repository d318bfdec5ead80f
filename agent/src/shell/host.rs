//! What a node must have set before it is a router, and which MTU its uplink has.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Context as _;
use manx_kernel::names::HOST_LINK_PREFIX;
use manx_kernel::sysctl::{ipv4, ipv6, read, write};

/// Makes a router of this node. Values that are right already are not written, so that a read-only
/// `/proc/sys` is fine once somebody else has set them.
///
/// # Errors
/// When packets cannot be forwarded; the rest is logged.
pub fn prepare() -> anyhow::Result<()> {
    keep_router_advertisements();
    set("net/ipv4/ip_forward", "1")
        .context("forwarding IPv4 (run `sysctl -w net.ipv4.ip_forward=1` on the node)")?;
    let forward_v6 = ipv6("all", "forwarding");
    // A node whose kernel has no IPv6 has nothing to forward.
    if read(&forward_v6).is_ok() {
        set(&forward_v6, "1")
            .context("forwarding IPv6 (run `sysctl -w net.ipv6.conf.all.forwarding=1` on the node)")?;
    }
    move_reverse_path_filter();
    for (key, value, why) in [
        ("net/ipv4/nexthop_compat_mode", "0", "a changed next hop costs a message for each of its routes"),
        ("net/ipv4/fib_multipath_hash_policy", "1", "flows between two pods all take one of several paths"),
        ("net/ipv6/fib_multipath_hash_policy", "1", "flows between two pods all take one of several paths"),
    ] {
        if read(key).is_ok()
            && let Err(error) = set(key, value)
        {
            tracing::warn!(
                error = format!("{error:#}"),
                effect = why,
                "a setting of the kernel stays as it is"
            );
        }
    }
    Ok(())
}

fn set(key: &str, value: &str) -> anyhow::Result<()> {
    if read(key)? != value {
        write(key, value)?;
        tracing::info!(key, value, "set");
    }
    Ok(())
}

/// A router takes no router advertisements, unless it is told to: links that took them before must go on doing so, or
/// the node loses its IPv6 default route.
fn keep_router_advertisements() {
    if read(&ipv6("all", "forwarding")).is_ok_and(|value| value != "0") {
        return;
    }
    for link in links() {
        let key = ipv6(&link, "accept_ra");
        if read(&key).is_ok_and(|value| value == "1")
            && let Err(error) = set(&key, "2")
        {
            tracing::warn!(
                error = format!("{error:#}"),
                link,
                "router advertisements may be ignored from now on"
            );
        }
    }
}

/// The source check of a link is the larger of its own value and that of `all`, and a loose one counts as larger: with
/// anything but 0 in `all` the strict check of pods' links would not hold. What `all` said moves to the links.
fn move_reverse_path_filter() {
    let all = ipv4("all", "rp_filter");
    let Ok(before) = read(&all) else { return };
    if before == "0" {
        return;
    }
    let targets = links().into_iter().chain(["default".to_owned()]);
    for link in targets {
        let key = ipv4(&link, "rp_filter");
        if read(&key).is_ok_and(|value| value < before)
            && let Err(error) = write(&key, &before)
        {
            tracing::warn!(%error, link, "the source check of a link stays as it is");
            return;
        }
    }
    if let Err(error) = set(&all, "0") {
        tracing::warn!(error = format!("{error:#}"), "the source check of pods' links is loose");
    }
}

/// The links of this node that are not pods'.
fn links() -> Vec<String> {
    let Ok(addresses) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let names: BTreeSet<String> = addresses.map(|address| address.interface_name).collect();
    names.into_iter().filter(|name| name != "lo" && !name.starts_with(HOST_LINK_PREFIX)).collect()
}

/// The names of the links that have one of these addresses.
pub fn uplinks(addresses: &[IpAddr]) -> BTreeSet<String> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return BTreeSet::new() };
    let ours = all.filter(|entry| {
        let address = entry.address.as_ref();
        let v4 = address.and_then(|address| address.as_sockaddr_in()).map(|v4| IpAddr::V4(v4.ip()));
        let v6 = address.and_then(|address| address.as_sockaddr_in6()).map(|v6| IpAddr::V6(v6.ip()));
        v4.or(v6).is_some_and(|address| addresses.contains(&address))
    });
    ours.map(|entry| entry.interface_name).collect()
}
