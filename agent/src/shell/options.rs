//! Command line and environment of manx-agent.

use std::collections::BTreeSet;
use std::net::{AddrParseError, IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Routes pods of this node over BGP and gives them addresses.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "manx-agent",
    version,
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true
)]
pub struct CommandLine {
    /// What to do, unless to be the agent.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to be the agent.
    #[command(flatten)]
    pub options: Option<Options>,
}

/// What this program does besides being the agent.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Puts the plugin where the container runtime looks for it: whole or not at all, and not while it is there.
    Install(Install),
    /// Takes everything of Manx off this node.
    Uninstall(Uninstall),
    /// Does nothing until told to end: the rest of a DaemonSet's pod whose work is done.
    Idle,
    /// Answers a question about this node, as manxctl asks it: one line of JSON for each answer.
    Look(Look),
}

/// Options of `manx-agent install`.
#[derive(Debug, Clone, Args)]
pub struct Install {
    /// The directory where the container runtime looks for plugins.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub bin_dir: PathBuf,
    /// The plugin.
    #[arg(long, value_name = "FILE", default_value = "/usr/bin/manx-cni")]
    pub plugin: PathBuf,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Options of `manx-agent uninstall`.
#[derive(Debug, Clone, Args)]
pub struct Uninstall {
    /// The directory where the container runtime looks for plugins.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,
    /// The directory where the container runtime looks for configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// The template of the conflist; the file of that name in the directory is removed.
    #[arg(long, value_name = "FILE", default_value = "/etc/manx/10-manx.conflist")]
    pub conflist: PathBuf,
    /// Where the agent kept its socket and its record.
    #[arg(long, value_name = "DIR", default_value = "/run/manx")]
    pub run_dir: PathBuf,
    /// Where the settings of the network can be written, if not at their usual place.
    #[arg(long, value_name = "DIR", default_value = "/proc/sys/net")]
    pub proc_sys_net: PathBuf,
    /// Also the links of running pods, which then have no network.
    #[arg(long)]
    pub force: bool,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Options of `manx-agent look`.
#[derive(Debug, Clone, Args)]
pub struct Look {
    /// The question as JSON, such as `{"kernel":{}}`; `-`: it is the first line of standard input.
    pub question: String,
    /// End when standard input ends.
    #[arg(long)]
    pub attended: bool,
    /// The name of this node's Node object.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// Where the agent has its socket and its record.
    #[arg(long, value_name = "DIR", default_value = "/run/manx")]
    pub run_dir: PathBuf,
    /// Where the agent serves /healthz.
    #[arg(long, default_value = "127.0.0.1:9179")]
    pub health_listen: SocketAddr,
}

/// Options of the agent.
#[derive(Debug, Clone, Args)]
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
    /// Where the same pages are served to others too, pods of this node included, such as `[::]:9181`; nowhere unless
    /// given.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<SocketAddr>,
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
    /// The directory where the container runtime looks for configurations: once this node can start pods, the
    /// conflist is written there and kept. Without it none is.
    #[arg(long, value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,
    /// What the conflist is made of; it gets the same name.
    #[arg(long, value_name = "FILE", default_value = "/etc/manx/10-manx.conflist")]
    pub conflist: PathBuf,
    /// The directory where the container runtime looks for plugins: chained plugins that are not there are left out
    /// of the conflist until they are.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,
    /// Where the settings of the network can be written, if not at their usual place: /proc/sys is read-only in
    /// containers without privileges, and the host's /proc/sys/net mounted elsewhere is not.
    #[arg(long, value_name = "DIR", default_value = "/proc/sys/net")]
    pub proc_sys_net: PathBuf,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

impl Options {
    /// Ports of this process that pods may not reach: all that others than this machine could, but for that of
    /// `--metrics-listen`, where a Prometheus in a pod reads.
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
        let line = CommandLine::try_parse_from(all).expect("options");
        line.options.expect("options of the agent")
    }

    #[test]
    fn an_installer_needs_no_name_of_the_node() {
        for verb in ["install", "uninstall"] {
            let line = CommandLine::try_parse_from(["manx-agent", verb]).expect("options");
            assert!(line.command.is_some() && line.options.is_none());
        }
        assert!(CommandLine::try_parse_from(["manx-agent"]).is_err(), "the agent needs one");
    }

    #[test]
    fn a_port_that_others_reach_is_kept_from_pods() {
        assert_eq!(read(&[]).guarded_ports(), BTreeSet::new());
        let options = read(&["--health-listen", "0.0.0.0:9179", "--bgp-listen", "[2001:db8::1]:1179"]);
        assert_eq!(options.guarded_ports(), BTreeSet::from([1179, 9179]));
        assert_eq!(read(&["--metrics-listen", "[::]:9181"]).guarded_ports(), BTreeSet::new());
    }

    #[test]
    fn an_address_to_listen_on_needs_no_port() {
        let options = read(&["--bgp-listen", "192.0.2.1", "--bgp-listen", "2001:db8::1"]);
        assert!(options.bgp_listen.iter().all(|listen| listen.port.is_none()));
    }
}
