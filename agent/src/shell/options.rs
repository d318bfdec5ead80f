//! Command line and environment of manx-agent.

use std::net::SocketAddr;
use std::path::PathBuf;

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

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line of text per event.
    Text,
    /// One JSON object per event.
    Json,
}
