//! Command line and environment of manx-controller.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::shell::options::LogFormat;

/// Returns the blocks of nodes that are gone, and keeps the status of pools.
#[derive(Debug, Clone, Parser)]
#[command(name = "manx-controller", version)]
pub struct Options {
    /// A kubeconfig; without it the service account of the pod is used.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the Leases: the one by which a replica leads, and those by which agents say that they live.
    #[arg(long, env = "POD_NAMESPACE", default_value = "manx-system")]
    pub namespace: String,
    /// How long a node must be gone, and its agent silent, before its blocks are taken back (90s, 5m, 1h).
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub node_grace: Duration,
    /// The name of this replica in the election; made up unless given.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
    /// Say what would be done and do none of it. Takes no part in the election: other replicas go on.
    #[arg(long)]
    pub dry_run: bool,
    /// A directory of YAML files with the pools, peers, filters and the configuration to begin with: each object is made
    /// once, and pools only if the cluster has none when the first is looked for.
    #[arg(long, value_name = "DIR")]
    pub defaults: Option<PathBuf>,
    /// Take the finalizers of Manx off all pools and claims, and end: once agents and controllers are gone, before the
    /// definitions are deleted.
    #[arg(long, conflicts_with = "dry_run")]
    pub let_go: bool,
    /// Where /metrics, /healthz and /readyz are served, such as 127.0.0.1:9180; nowhere unless given. While
    /// another replica on the same node has the port, this one does not try to lead, for half a minute at most.
    #[arg(long)]
    pub metrics_listen: Option<SocketAddr>,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 90s, 5m or 1h");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        for wrong in ["", "5", "m", "5d", "-1s", "99999999999999999999h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
