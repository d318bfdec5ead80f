//! Settings under `/proc/sys`. Those of the network are the calling thread's namespace's own, by whatever mount they
//! are reached: containers without privileges have `/proc/sys` read-only, and may have the host's `/proc/sys/net`
//! elsewhere ([`reach_by`]).
//!
//! IPv4 settings of a link travel with the link's netlink messages instead ([`crate::pod`]); what is left for this
//! module are the IPv6 settings that netlink cannot reach.

#![expect(clippy::disallowed_methods, reason = "this is where files under /proc/sys are read and written")]

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Where settings of the network are, if not at their usual place.
static PLACE: OnceLock<PathBuf> = OnceLock::new();

/// A setting cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} /proc/sys/{key}")]
pub struct SysctlError {
    /// "read" or "write".
    pub verb: &'static str,
    /// The setting's path below `/proc/sys`, such as `net/ipv6/conf/eth0/accept_ra`.
    pub key: String,
    /// Why.
    pub source: io::Error,
}

impl SysctlError {
    /// Whether the kernel does not have the setting: the link is gone, or the protocol is switched off.
    pub fn is_unknown(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Has this process read and write settings of the network below `place`, which stands for `/proc/sys/net`. Only the
/// first call counts.
pub fn reach_by(place: &Path) {
    let _placed_before = PLACE.set(place.to_owned());
}

/// Reads a setting, without the line feed at its end.
///
/// # Errors
/// If there is no such setting, or it cannot be read.
pub fn read(key: &str) -> Result<String, SysctlError> {
    let text = fs::read_to_string(path(key));
    text.map(|text| text.trim_end().to_owned()).map_err(|source| SysctlError {
        verb: "read",
        key: key.to_owned(),
        source,
    })
}

/// Writes a setting.
///
/// # Errors
/// If there is no such setting, or it cannot be written.
pub fn write(key: &str, value: &str) -> Result<(), SysctlError> {
    let attempt = || OpenOptions::new().write(true).open(path(key))?.write_all(value.as_bytes());
    attempt().map_err(|source| SysctlError { verb: "write", key: key.to_owned(), source })
}

/// The key of an IPv6 setting of a link (or of `all` or `default`).
pub fn ipv6(link: &str, setting: &str) -> String {
    format!("net/ipv6/conf/{link}/{setting}")
}

/// The key of an IPv4 setting of a link (or of `all` or `default`).
pub fn ipv4(link: &str, setting: &str) -> String {
    format!("net/ipv4/conf/{link}/{setting}")
}

/// Whether the kernel has IPv6 at all; it may still be switched off on single links.
pub fn has_ipv6() -> bool {
    fs::metadata(path("net/ipv6/conf")).is_ok()
}

fn path(key: &str) -> PathBuf {
    match (key.strip_prefix("net/"), PLACE.get()) {
        (Some(of_network), Some(place)) => place.join(of_network),
        _ => Path::new("/proc/sys").join(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_read_without_its_line_feed() {
        assert!(matches!(&*read(&ipv4("all", "forwarding")).unwrap(), "0" | "1"));
    }

    #[test]
    fn a_setting_of_a_link_that_is_gone_is_unknown() {
        let error = write(&ipv6("no-such-link", "accept_ra"), "0").unwrap_err();
        assert!(error.is_unknown());
        assert_eq!(error.to_string(), "cannot write /proc/sys/net/ipv6/conf/no-such-link/accept_ra");
    }
}
