//! What a node must have set before it is a router, and which MTU its uplink has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use manx_kernel::names::HOST_LINK_PREFIX;
use manx_kernel::sysctl::{self, SysctlError, ipv4, ipv6, read};
use serde::{Deserialize, Serialize};

use super::record::{read_bounded, write_whole};

/// The most that is read of the record of settings: some hundred octets for each link.
const RECORD_LIMIT: u64 = 16 << 20;

/// Makes a router of this node. Values that are right already are not written, so that a read-only
/// `/proc/sys` is fine once somebody else has set them. What is written is recorded in the run directory, so that it can
/// be put back ([`put_back`]).
///
/// # Errors
/// When packets cannot be forwarded; the rest is logged.
pub fn prepare(run_dir: &Path) -> anyhow::Result<()> {
    let mut settings = Settings::open(run_dir);
    let made = settings.make_router();
    settings.save();
    made
}

/// A setting that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Change {
    /// What it was before the first agent of this boot.
    before: String,
    /// What it was set to.
    after: String,
}

/// The settings of this node, with a record of those that were changed, by their keys.
struct Settings {
    path: PathBuf,
    changes: BTreeMap<String, Change>,
    news: bool,
}

impl Settings {
    fn open(run_dir: &Path) -> Self {
        let path = run_dir.join("settings.json");
        let changes = read_bounded(&path, RECORD_LIMIT).ok().flatten();
        let changes = changes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { path, changes, news: false }
    }

    fn save(&self) {
        let written = serde_json::to_vec(&self.changes).map_err(std::io::Error::from);
        if self.news
            && let Err(error) = written.and_then(|bytes| write_whole(&self.path, &bytes))
        {
            tracing::warn!(%error, "which settings of the kernel were changed cannot be recorded: uninstalling will leave them");
        }
    }

    fn write(&mut self, key: &str, value: &str) -> Result<(), SysctlError> {
        let before = read(key)?;
        sysctl::write(key, value)?;
        tracing::info!(key, value, before, "set");
        let fresh = || Change { before, after: String::new() };
        self.changes.entry(key.to_owned()).or_insert_with(fresh).after = value.to_owned();
        self.news = true;
        Ok(())
    }

    fn set(&mut self, key: &str, value: &str) -> anyhow::Result<()> {
        if read(key)? != value {
            self.write(key, value)?;
        }
        Ok(())
    }

    fn make_router(&mut self) -> anyhow::Result<()> {
        self.keep_router_advertisements();
        self.set("net/ipv4/ip_forward", "1").with_context(|| forwarding("IPv4", "net.ipv4.ip_forward"))?;
        let forward_v6 = ipv6("all", "forwarding");
        // A node whose kernel has no IPv6 has nothing to forward.
        if read(&forward_v6).is_ok() {
            self.set(&forward_v6, "1").with_context(|| forwarding("IPv6", "net.ipv6.conf.all.forwarding"))?;
        }
        self.move_reverse_path_filter();
        for (key, value, why) in [
            (
                "net/ipv4/nexthop_compat_mode",
                "0",
                "a changed next hop costs a message for each of its routes",
            ),
            (
                "net/ipv4/fib_multipath_hash_policy",
                "1",
                "flows between two pods all take one of several paths",
            ),
            (
                "net/ipv6/fib_multipath_hash_policy",
                "1",
                "flows between two pods all take one of several paths",
            ),
        ] {
            if read(key).is_ok()
                && let Err(error) = self.set(key, value)
            {
                let error = format!("{error:#}");
                tracing::warn!(
                    error,
                    effect = why,
                    "a setting of the kernel cannot be made; the agent goes on without"
                );
            }
        }
        Ok(())
    }

    /// A router takes no router advertisements, unless it is told to: links that took them before must go on doing so,
    /// or the node loses its IPv6 default route.
    fn keep_router_advertisements(&mut self) {
        if read(&ipv6("all", "forwarding")).is_ok_and(|value| value != "0") {
            return;
        }
        for link in links() {
            let key = ipv6(&link, "accept_ra");
            if read(&key).is_ok_and(|value| value == "1")
                && let Err(error) = self.set(&key, "2")
            {
                let error = format!("{error:#}");
                tracing::warn!(
                    error,
                    link,
                    "accept_ra of a link cannot be set to 2: the node may lose the IPv6 routes that router advertisements give it"
                );
            }
        }
    }

    /// The source check of a link is the larger of its own value and that of `all`, and a loose one counts as larger:
    /// with anything but 0 in `all` the strict check of pods' links would not hold. What `all` said moves to the links.
    fn move_reverse_path_filter(&mut self) {
        let all = ipv4("all", "rp_filter");
        let Ok(before) = read(&all) else { return };
        if before == "0" {
            return;
        }
        let targets = links().into_iter().chain(["default".to_owned()]);
        for link in targets {
            let key = ipv4(&link, "rp_filter");
            if read(&key).is_ok_and(|value| value < before)
                && let Err(error) = self.write(&key, &before)
            {
                tracing::warn!(%error, link, "rp_filter of a link cannot be set: that of all stays, and the source check of pods' links is loose");
                return;
            }
        }
        if let Err(error) = self.set(&all, "0") {
            tracing::warn!(
                error = format!("{error:#}"),
                "net.ipv4.conf.all.rp_filter cannot be set to 0: the source check of pods' links is loose"
            );
        }
    }
}

/// What cannot be done, and the way out.
fn forwarding(family: &str, key: &str) -> String {
    format!(
        "forwarding {family} (run `sysctl -w {key}=1` on the node, or mount its /proc/sys/net into the container and \
         name that place with --proc-sys-net)"
    )
}

/// Puts settings back that agents changed, unless somebody else has changed them since. Gives what was done, and what
/// was not and why.
pub fn put_back(run_dir: &Path) -> (Vec<String>, Vec<String>) {
    let (mut done, mut left) = (Vec::new(), Vec::new());
    // Forwarding goes last: the kernel sets others along with it.
    let (forwarding, others): (Vec<_>, Vec<_>) =
        Settings::open(run_dir).changes.into_iter().partition(|(key, _)| key.contains("forward"));
    for (key, Change { before, after }) in others.into_iter().chain(forwarding) {
        match read(&key) {
            Ok(now) if now == before => {}
            Ok(now) if now == after => match sysctl::write(&key, &before) {
                Ok(()) => done.push(format!("{key} = {before}")),
                Err(error) => left.push(format!("{key} = {now}: {error}: {}", error.source)),
            },
            Ok(now) => left.push(format!("{key} = {now}: somebody else set it")),
            // The link is gone.
            Err(error) if error.is_unknown() => {}
            Err(error) => left.push(format!("{key}: {error}: {}", error.source)),
        }
    }
    (done, left)
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
