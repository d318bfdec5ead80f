//! A sans-IO BGP-4 speaker.

pub mod prefix;
pub mod wire;

pub use prefix::{Asn, Families, Family, HostBits, Ipv4Prefix, Ipv6Prefix, Prefix, RouterId};
