//! Which node this is, what runs there, and how its agent is.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use manx_facts::node::{Agent, NodeFacts};
use manx_kernel::netlink::Kernel;
use manx_kernel::sysctl;

use super::page;
use crate::shell::options::Look;

/// Finds out.
pub(super) async fn look(place: &Look) -> NodeFacts {
    let mut unread = Vec::new();
    let mut text = |path: &str| {
        std::fs::read_to_string(path).map(|text| text.trim_end().to_owned()).unwrap_or_else(|error| {
            unread.push(format!("{path}: {error}"));
            String::new()
        })
    };
    let hostname = text("/proc/sys/kernel/hostname");
    let kernel_release = text("/proc/sys/kernel/osrelease");
    let uptime = text("/proc/uptime");
    let memory = text("/proc/meminfo");
    let number = |key: &str| sysctl::read(key).ok().and_then(|value| value.parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    NodeFacts {
        name: place.node_name.clone().unwrap_or(hostname),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_release,
        uptime_seconds: uptime.split('.').next().and_then(|whole| whole.parse().ok()).unwrap_or_default(),
        time: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        agent: agent(place).await,
        features: features(),
        conntrack: number("net/netfilter/nf_conntrack_count"),
        conntrack_max: number("net/netfilter/nf_conntrack_max"),
        memory_available: available(&memory),
        unread,
    }
}

/// The octets behind `MemAvailable:`.
fn available(memory: &str) -> Option<u64> {
    let line = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

async fn agent(place: &Look) -> Agent {
    let alive = page::get(place.health_listen, "/healthz").await;
    let ready = page::get(place.health_listen, "/readyz").await;
    let mut obstacles = Vec::new();
    let mut well = |answer: Result<page::Page, String>| match answer {
        Ok(page) if page.status == 200 => true,
        Ok(page) => {
            obstacles.extend(page.text().lines().map(str::to_owned));
            false
        }
        Err(why) => {
            obstacles.push(why);
            false
        }
    };
    let (alive, ready) = (well(alive), well(ready));
    obstacles.dedup();
    Agent { running: listens(&place.run_dir), alive, ready, obstacles }
}

/// Whether a process listens on the allocation socket, whether it answers or not.
fn listens(run_dir: &Path) -> bool {
    UnixStream::connect(manx_cni::rpc::socket_path(run_dir)).is_ok()
}

fn features() -> BTreeMap<String, bool> {
    let mut features = BTreeMap::from([("ipv6".to_owned(), sysctl::has_ipv6())]);
    if let Ok(objects) = Kernel::open().and_then(|mut kernel| kernel.nexthops()) {
        features.insert("nextHopObjects".to_owned(), objects.is_some());
    }
    features
}
