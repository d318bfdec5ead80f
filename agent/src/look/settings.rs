//! The settings under `/proc/sys` that forwarding depends on, of the namespace of this thread.

use std::collections::BTreeMap;

use manx_facts::kernel::Link;
use manx_kernel::sysctl::{ipv4, ipv6, read};

/// Settings of the whole namespace.
const GENERAL: [&str; 20] = [
    "net/ipv4/ip_forward",
    "net/ipv4/ip_default_ttl",
    "net/ipv4/icmp_echo_ignore_all",
    "net/ipv4/ip_no_pmtu_disc",
    "net/ipv4/nexthop_compat_mode",
    "net/ipv4/fib_multipath_hash_policy",
    "net/ipv6/fib_multipath_hash_policy",
    "net/ipv4/neigh/default/gc_thresh1",
    "net/ipv4/neigh/default/gc_thresh2",
    "net/ipv4/neigh/default/gc_thresh3",
    "net/ipv6/neigh/default/gc_thresh1",
    "net/ipv6/neigh/default/gc_thresh2",
    "net/ipv6/neigh/default/gc_thresh3",
    "net/ipv6/route/max_size",
    "net/netfilter/nf_conntrack_count",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_tcp_be_liberal",
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/ipv4/fwmark_reflect",
];

/// IPv4 settings of a link, and of `all` and `default`.
const OF_LINK_V4: [&str; 10] = [
    "forwarding",
    "rp_filter",
    "proxy_arp",
    "send_redirects",
    "accept_redirects",
    "arp_ignore",
    "arp_announce",
    "accept_local",
    "route_localnet",
    "src_valid_mark",
];

/// IPv6 settings of a link, and of `all` and `default`.
const OF_LINK_V6: [&str; 7] =
    ["forwarding", "disable_ipv6", "accept_ra", "accept_dad", "addr_gen_mode", "proxy_ndp", "mtu"];

/// All of them, by their path; what the kernel does not have is not there.
pub(super) fn settings(links: &[Link]) -> BTreeMap<String, String> {
    let names = || links.iter().map(|link| link.name.as_str()).chain(["all", "default"]);
    let general = GENERAL.iter().map(|key| (*key).to_owned());
    let of_v4 = names().flat_map(|link| OF_LINK_V4.map(|setting| ipv4(link, setting)));
    let of_v6 = names().flat_map(|link| OF_LINK_V6.map(|setting| ipv6(link, setting)));
    let keys = general.chain(of_v4).chain(of_v6);
    keys.filter_map(|key| read(&key).ok().map(|value| (key, value))).collect()
}
