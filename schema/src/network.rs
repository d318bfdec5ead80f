//! The functions for addresses and networks that Kubernetes adds to CEL: `ip()`, `cidr()` and what they can do.

use std::any::Any;
use std::net::IpAddr;

use cel::common::types::{CelBool, CelInt, CelString, Type};
use cel::common::value::{StaticVal, Val};
use cel::{DeclarationError, Env, ExecutionError};
use ipnetwork::IpNetwork;

static IP: Type = Type::new_unspecified_type("net.IP");
static CIDR: Type = Type::new_unspecified_type("net.CIDR");

/// An address in an expression.
#[derive(Debug, Clone, PartialEq)]
struct Ip(IpAddr);

/// A network in an expression; it may have host bits.
#[derive(Debug, Clone, PartialEq)]
struct Network(IpNetwork);

macro_rules! cel_value {
    ($type:ty, $cel:ident) => {
        impl Val for $type {
            fn get_type(&self) -> &Type {
                <Self as Val>::cel_type()
            }
            fn cel_type() -> &'static Type {
                &$cel
            }
            fn equals(&self, other: &dyn Val) -> bool {
                other.downcast_ref::<Self>().is_some_and(|other| other == self)
            }
            fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
                Box::new(self.clone())
            }
            fn as_any(&self) -> Option<&dyn Any> {
                Some(self)
            }
        }
        impl StaticVal for $type {}
    };
}

cel_value!(Ip, IP);
cel_value!(Network, CIDR);

/// Adds the functions to an environment.
pub(super) fn extension(env: &mut Env) -> Result<(), DeclarationError> {
    cel::add_overload!(env, fn is_ip: (CelString<'_>) -> CelBool, name = "isIP")?;
    cel::add_overload!(env, fn ip: (CelString<'_>) -> Result<Ip>)?;
    cel::add_overload!(env, fn is_cidr: (CelString<'_>) -> CelBool, name = "isCIDR")?;
    cel::add_overload!(env, fn cidr: (CelString<'_>) -> Result<Network>)?;
    cel::add_overload!(env, fn ip_text: (Ip) -> CelString<'_>, name = "string", id = "string_ip")?;
    cel::add_overload!(env, fn cidr_text: (Network) -> CelString<'_>, name = "string", id = "string_cidr")?;
    cel::add_overload!(env, fn is_canonical: (CelString<'_>) -> Result<CelBool>, name = "ip.isCanonical")?;
    cel::add_member_overload!(env, fn family: (Ip) -> CelInt)?;
    cel::add_member_overload!(env, fn is_unspecified: (Ip) -> CelBool)?;
    cel::add_member_overload!(env, fn is_loopback: (Ip) -> CelBool)?;
    cel::add_member_overload!(env, fn is_link_local_multicast: (Ip) -> CelBool)?;
    cel::add_member_overload!(env, fn is_link_local_unicast: (Ip) -> CelBool)?;
    cel::add_member_overload!(env, fn is_global_unicast: (Ip) -> CelBool)?;
    cel::add_member_overload!(env, fn network_ip: (Network) -> Ip, name = "ip")?;
    cel::add_member_overload!(env, fn prefix_length: (Network) -> CelInt)?;
    cel::add_member_overload!(env, fn masked: (Network) -> Network)?;
    cel::add_member_overload!(env, fn contains_ip: (Network, Ip) -> CelBool, name = "containsIP")?;
    cel::add_member_overload!(env, fn contains_ip_text: (Network, CelString<'_>) -> Result<CelBool>, name = "containsIP")?;
    cel::add_member_overload!(env, fn contains_cidr: (Network, Network) -> CelBool, name = "containsCIDR")?;
    cel::add_member_overload!(env, fn contains_cidr_text: (Network, CelString<'_>) -> Result<CelBool>, name = "containsCIDR")?;
    Ok(())
}

/// As strict as the API server: no zones, no IPv4-mapped IPv6.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    (!mapped).then_some(address)
}

fn parse_cidr(text: &str) -> Option<IpNetwork> {
    let (address, length) = text.split_once('/')?;
    let plain = !length.is_empty()
        && length.bytes().all(|b| b.is_ascii_digit())
        && (length.len() == 1 || !length.starts_with('0'));
    let length = plain.then(|| length.parse().ok()).flatten()?;
    IpNetwork::new(parse_ip(address)?, length).ok()
}

fn is_ip(text: &CelString<'_>) -> CelBool {
    parse_ip(text.inner()).is_some().into()
}

fn ip(text: &CelString<'_>) -> Result<Ip, ExecutionError> {
    let unable =
        || ExecutionError::function_error("ip", format!("IP Address {:?} parse error", text.inner()));
    parse_ip(text.inner()).map(Ip).ok_or_else(unable)
}

fn is_cidr(text: &CelString<'_>) -> CelBool {
    parse_cidr(text.inner()).is_some().into()
}

fn cidr(text: &CelString<'_>) -> Result<Network, ExecutionError> {
    let unable = || {
        ExecutionError::function_error(
            "cidr",
            format!("network address parse error during conversion from string: {:?}", text.inner()),
        )
    };
    parse_cidr(text.inner()).map(Network).ok_or_else(unable)
}

fn ip_text(ip: &Ip) -> CelString<'static> {
    ip.0.to_string().into()
}

fn cidr_text(cidr: &Network) -> CelString<'static> {
    cidr.0.to_string().into()
}

fn is_canonical(text: &CelString<'_>) -> Result<CelBool, ExecutionError> {
    Ok((ip(text)?.0.to_string() == text.inner()).into())
}

fn family(ip: &Ip) -> CelInt {
    if ip.0.is_ipv4() { 4.into() } else { 6.into() }
}

fn is_unspecified(ip: &Ip) -> CelBool {
    ip.0.is_unspecified().into()
}

fn is_loopback(ip: &Ip) -> CelBool {
    ip.0.is_loopback().into()
}

fn link_local_multicast(ip: &Ip) -> bool {
    match ip.0 {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn link_local_unicast(ip: &Ip) -> bool {
    match ip.0 {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_link_local_multicast(ip: &Ip) -> CelBool {
    link_local_multicast(ip).into()
}

fn is_link_local_unicast(ip: &Ip) -> CelBool {
    link_local_unicast(ip).into()
}

fn is_global_unicast(ip: &Ip) -> CelBool {
    let broadcast = matches!(ip.0, IpAddr::V4(v4) if v4.is_broadcast());
    let special = ip.0.is_unspecified() || ip.0.is_loopback() || ip.0.is_multicast() || broadcast;
    (!special && !link_local_unicast(ip)).into()
}

fn network_ip(cidr: &Network) -> Ip {
    Ip(cidr.0.ip())
}

fn prefix_length(cidr: &Network) -> CelInt {
    i64::from(cidr.0.prefix()).into()
}

fn network(cidr: &IpNetwork) -> IpNetwork {
    IpNetwork::new(cidr.network(), cidr.prefix()).unwrap_or(*cidr)
}

fn masked(cidr: &Network) -> Network {
    Network(network(&cidr.0))
}

fn contains_ip(cidr: &Network, ip: &Ip) -> CelBool {
    cidr.0.contains(ip.0).into()
}

fn contains_ip_text(cidr: &Network, text: &CelString<'_>) -> Result<CelBool, ExecutionError> {
    Ok(contains_ip(cidr, &ip(text)?))
}

fn contains_cidr(outer: &Network, inner: &Network) -> CelBool {
    (outer.0.contains(inner.0.network()) && outer.0.prefix() <= inner.0.prefix()).into()
}

fn contains_cidr_text(outer: &Network, text: &CelString<'_>) -> Result<CelBool, ExecutionError> {
    Ok(contains_cidr(outer, &cidr(text)?))
}
