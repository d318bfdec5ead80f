//! Names and addresses that every pod link has: what the host end is called, how it is marked as ours, and the
//! constants of the point-to-point link between a pod and its node.
//!
//! The host end of a pod's link is called as Calico calls it, so that tools, firewalls and habits keep working.
//! The alias of the host end is the second record of who owns the link, kept by the kernel itself: whoever removes
//! or repairs a link looks at the alias first, never only at the name.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use sha1::{Digest, Sha1};

/// Beginning of the name of every host end.
pub const HOST_LINK_PREFIX: &str = "cali";

/// Hardware address of every host end. Links are point to point, so one address serves them all.
pub const HOST_MAC: Mac = Mac([0xee; 6]);

/// A pod's IPv4 gateway: link-local, the same in every pod, and only an entry in the pod's neighbour table.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// A pod's IPv6 gateway: the link-local address that the kernel derives from [`HOST_MAC`] (RFC 4291 §2.5.1).
pub const HOST_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);

/// Link group of every host end, so that `ip link show group 179` lists them. It is given at birth, unlike the alias:
/// a link of this group without an alias was left half made by a plugin that was killed.
pub const LINK_GROUP: u32 = 179;

/// Link group of host ends that are about to be deleted: the agent removes the whole group at once.
pub const DOOMED_GROUP: u32 = 179_179;

/// Longest container id that still fits into an alias beside the longest interface name.
pub const CONTAINER_ID_MAX: usize = 200;

/// Stands in an alias for the container of a link that another network made and of which nobody says whose it is; what
/// would be the interface's name is the link's. No runtime gives such an id.
pub const UNKNOWN_CONTAINER: &str = "?";

/// An Ethernet hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// The text is not six pairs of hexadecimal digits, or not the address of one interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not the hardware address of an interface, such as 0a:58:0a:f4:00:07")]
pub struct MacError(String);

impl Mac {
    /// The hardware address of a pod's end: locally administered, and always the same for one container's interface.
    pub fn of_pod(container: &str, ifname: &str) -> Self {
        let digest = Sha1::digest(format!("{container}.{ifname}"));
        let mut bytes: [u8; 6] = std::array::from_fn(|i| digest[i]);
        bytes[0] = (bytes[0] & 0b1111_1100) | 0b10;
        Self(bytes)
    }

    /// The IPv6 link-local address that a kernel derives from it (RFC 4291 §2.5.1).
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0.map(u16::from);
        Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let wrong = || MacError(text.chars().take(40).collect());
        let pairs: Vec<&str> = text.split([':', '-']).collect();
        let pairs: [&str; 6] = pairs.try_into().map_err(|_| wrong())?;
        let mut bytes = [0; 6];
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        // A group address or all zeros cannot be an interface's own: the kernel refuses it too, but says less.
        if bytes[0] & 1 == 1 || bytes == [0; 6] { Err(wrong()) } else { Ok(Self(bytes)) }
    }
}

/// The name of the host end of a pod's link: `cali` and 11 hexadecimal digits.
///
/// `pod` is the pod's namespace and name. The digits are the beginning of SHA-1 over `namespace.pod` for `eth0`
/// (as Calico does it), over `namespace.pod.ifname` for any other interface, and over `container.ifname` where no
/// pod is named.
pub fn host_link_name(pod: Option<(&str, &str)>, container: &str, ifname: &str) -> String {
    let identity = match pod {
        Some((namespace, name)) if ifname == "eth0" => format!("{namespace}.{name}"),
        Some((namespace, name)) => format!("{namespace}.{name}.{ifname}"),
        None => format!("{container}.{ifname}"),
    };
    let mut link = String::from(HOST_LINK_PREFIX);
    for byte in Sha1::digest(identity).iter().take(6) {
        link.push_str(&format!("{byte:02x}"));
    }
    link.truncate(HOST_LINK_PREFIX.len() + 11);
    link
}

/// The alias (`IFLA_IFALIAS`) that marks a host end as the one of this container's interface.
pub fn alias(container: &str, ifname: &str) -> String {
    format!("manx:{container}:{ifname}")
}

/// The container id and interface name that an alias stands for; `None` if the link is not one of Manx's.
pub fn parse_alias(alias: &str) -> Option<(&str, &str)> {
    let (container, ifname) = alias.strip_prefix("manx:")?.split_once(':')?;
    (!container.is_empty() && !ifname.is_empty() && !ifname.contains(':')).then_some((container, ifname))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_eth0_is_called_as_calico_calls_it() {
        // `printf 'default.nginx' | sha1sum`
        assert_eq!(host_link_name(Some(("default", "nginx")), "c1", "eth0"), "calic440f455693");
    }

    #[test]
    fn other_interfaces_and_bare_containers_have_names_of_their_own() {
        let eth0 = host_link_name(Some(("default", "nginx")), "c1", "eth0");
        let net1 = host_link_name(Some(("default", "nginx")), "c1", "net1");
        let bare = host_link_name(None, "c1", "eth0");
        assert!(eth0 != net1 && net1 != bare && bare != eth0);
        for name in [eth0, net1, bare] {
            assert_eq!(name.len(), 15, "{name} fills IFNAMSIZ exactly");
        }
    }

    #[test]
    fn an_alias_names_its_container_and_foreign_aliases_name_none() {
        assert_eq!(parse_alias(&alias("0a1b", "eth0")), Some(("0a1b", "eth0")));
        for foreign in
            ["", "uplink to rack 3", "manx:", "manx:c1", "manx::eth0", "manx:c1:", "manx:c1:eth0:x"]
        {
            assert_eq!(parse_alias(foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn a_pods_hardware_address_is_stable_local_and_of_one_interface() {
        let mac = Mac::of_pod("c1", "eth0");
        assert_eq!(mac, Mac::of_pod("c1", "eth0"));
        assert_ne!(mac, Mac::of_pod("c2", "eth0"));
        assert_eq!(mac.0[0] & 0b11, 0b10);
        assert_eq!(mac.to_string().parse(), Ok(mac));
    }

    #[test]
    fn what_no_interface_can_have_is_not_a_hardware_address() {
        for text in [
            "",
            "0a:58:0a:f4:00",
            "0a:58:0a:f4:00:07:08",
            "0a:58:0a:f4:00:+7",
            "zz:58:0a:f4:00:07",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_ipv6_gateway_is_what_the_kernel_derives_from_the_host_ends_hardware_address() {
        assert_eq!(HOST_MAC.link_local(), HOST_LINK_LOCAL);
    }
}
