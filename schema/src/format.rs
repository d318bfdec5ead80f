//! The string and number formats that the API server checks.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use k8s_openapi::jiff::Timestamp;

/// Whether `text` has the named format; formats that the API server does not know always hold.
pub(crate) fn holds(format: &str, text: &str) -> bool {
    match format {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => text.contains('/') && text.parse::<IpNetwork>().is_ok(),
        "mac" => is_mac(text),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => is_uuid(text),
        "date-time" | "datetime" => text.parse::<Timestamp>().is_ok(),
        "date" => text.parse::<k8s_openapi::jiff::civil::Date>().is_ok(),
        "hostname" => is_hostname(text),
        _ => true,
    }
}

/// Whether a whole number fits the named format.
pub(crate) fn fits(format: &str, number: i128) -> bool {
    match format {
        "int32" => i32::try_from(number).is_ok(),
        "int64" => i64::try_from(number).is_ok(),
        "uint32" => u32::try_from(number).is_ok(),
        "uint64" => u64::try_from(number).is_ok(),
        _ => true,
    }
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    matches!(parts.len(), 6 | 8)
        && parts.iter().all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_uuid(text: &str) -> bool {
    let digits = text.replace('-', "");
    digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_hostname(text: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}
