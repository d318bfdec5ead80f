//! Command line and environment of manx-agent.

use std::collections::BTreeSet;
use std::net::{AddrParseError, IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, ValueEnum};

/// Routes pods of this node over BGP and gives them addresses.
#[derive(Debug, Clone, Parser)]
#[command(name = "manx-agent", version)]
pub struct Options {
    /// The name of this node's Node object.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,
    /// A kubeconfig; without it the service account of the pod is used.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// A directory of YAML files that say what the API server would: no API server is asked.
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    pub objects: Option<PathBuf>,
    /// Touch neither routes nor NAT rules nor the kernel's settings: for a host that speaks BGP and does not forward.
    #[arg(long)]
    pub no_kernel_routes: bool,
    /// Where BGP connections are accepted, unless at every address of the node: ADDRESS or ADDRESS:PORT, more than
    /// once if need be. Without a port it is that of the BGPConfiguration.
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = ListenAt::from_str)]
    pub bgp_listen: Vec<ListenAt>,
    /// Where the allocation socket and the record of endpoints lie (tmpfs).
    #[arg(long, default_value = "/run/manx")]
    pub run_dir: PathBuf,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, default_value = "127.0.0.1:9179")]
    pub health_listen: SocketAddr,
    /// The namespace of the Lease by which this agent says that it lives.
    #[arg(long, env = "POD_NAMESPACE", default_value = "manx-system")]
    pub namespace: String,
    /// The MTU of pods; without it the configuration's, else that of the uplink.
    #[arg(long)]
    pub mtu: Option<u32>,
    /// The metric of the routes to blocks: 0 is the kernel's default, which is 1024 for IPv6. Routes to this node's
    /// own pods always have the default.
    #[arg(long, default_value_t = 0)]
    pub route_metric: u32,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

impl Options {
    /// Ports of this process that pods may not reach: all that others than this machine could.
    pub fn guarded_ports(&self) -> BTreeSet<u16> {
        let health = Some(self.health_listen).filter(|listen| !listen.ip().is_loopback());
        let bgp = self.bgp_listen.iter().filter_map(|listen| listen.port);
        bgp.chain(health.map(|listen| listen.port())).collect()
    }
}

/// An address to listen on, perhaps with a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenAt {
    /// The address.
    pub address: IpAddr,
    /// The port; the configuration's when unset.
    pub port: Option<u16>,
}

impl FromStr for ListenAt {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        match text.parse() {
            Ok(address) => Ok(Self { address, port: None }),
            Err(_) => {
                text.parse().map(|both: SocketAddr| Self { address: both.ip(), port: Some(both.port()) })
            }
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line of text per event.
    Text,
    /// One JSON object per event.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(more: &[&str]) -> Options {
        let all = ["manx-agent", "--node-name", "node1"].iter().chain(more);
        Options::try_parse_from(all).expect("options")
    }

    #[test]
    fn a_port_that_others_reach_is_kept_from_pods() {
        assert_eq!(read(&[]).guarded_ports(), BTreeSet::new());
        let options = read(&["--health-listen", "0.0.0.0:9179", "--bgp-listen", "[2001:db8::1]:1179"]);
        assert_eq!(options.guarded_ports(), BTreeSet::from([1179, 9179]));
    }

    #[test]
    fn an_address_to_listen_on_needs_no_port() {
        let options = read(&["--bgp-listen", "192.0.2.1", "--bgp-listen", "2001:db8::1"]);
        assert!(options.bgp_listen.iter().all(|listen| listen.port.is_none()));
    }
}
