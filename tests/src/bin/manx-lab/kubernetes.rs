//! `lab --kubernetes`: a cluster with real kubelets to play with.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use manx_tests::kubernetes::{Cluster, Families, Network, Options, Proxy, show};

/// A real Kubernetes out of network namespaces on this machine, with Manx.
#[derive(Parser)]
#[command(name = "cargo xtask lab --kubernetes", version)]
struct Arguments {
    /// Name of the cluster, the prefix of all its namespaces.
    #[arg(long, default_value = "kube", global = true)]
    lab: String,
    #[command(subcommand)]
    command: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring the cluster up, install Manx, start a pod on each node, and prove that they talk (the default).
    Up(Up),
    /// Show nodes, pods, blocks and sessions, and prove again that pods talk.
    Status,
    /// kubectl as an administrator.
    Kubectl {
        /// What kubectl gets.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Add a node, restart one as after a power cut, or run a command on one.
    #[command(subcommand)]
    Node(NodeVerb),
    /// Take the cluster down and leave nothing behind, also after a run that was killed.
    Down,
}

#[derive(clap::Args)]
struct Up {
    /// How many nodes.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Address families of nodes, pods and services.
    #[arg(long, value_enum, default_value_t = FamiliesName::Dual)]
    families: FamiliesName,
    /// What kube-proxy uses.
    #[arg(long, value_enum, default_value_t = ProxyName::Nftables)]
    proxy: ProxyName,
    /// What gives pods their network.
    #[arg(long, value_enum, default_value_t = NetworkName::Manx)]
    network: NetworkName,
}

#[derive(Clone, Copy, ValueEnum)]
enum FamiliesName {
    Ipv4,
    Ipv6,
    Dual,
}

#[derive(Clone, Copy, ValueEnum)]
enum ProxyName {
    Nftables,
    Iptables,
    Ipvs,
    None,
}

#[derive(Clone, Copy, ValueEnum)]
enum NetworkName {
    /// Manx, peering with the router.
    Manx,
    /// Debian's ptp and host-local.
    Ptp,
    /// Nothing: Manx is yours to install.
    None,
}

#[derive(Subcommand)]
enum NodeVerb {
    /// Add one more node.
    Add,
    /// Cut the power of a node and start it again.
    Reboot { name: String },
    /// Run a command in the namespaces of a node, or of `tor`, `outside` or `cp`.
    Exec {
        name: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
}

/// What follows `--kubernetes` on the command line.
pub(super) fn run(arguments: Vec<String>) -> Result<ExitCode> {
    let arguments = Arguments::parse_from(arguments);
    let name = arguments.lab;
    match arguments.command {
        None => up(&name, &Up::default()),
        Some(Verb::Up(options)) => up(&name, &options),
        Some(Verb::Status) => Ok(super::code(show::all(&Cluster::open(&name)?)?)),
        Some(Verb::Kubectl { arguments }) => {
            super::pass(Cluster::open(&name)?.kubectl_command().args(arguments))
        }
        Some(Verb::Node(verb)) => node(&name, verb),
        Some(Verb::Down) => {
            for stale in Cluster::stale(&name) {
                Cluster::down_by_name(&stale)?;
            }
            Cluster::down_by_name(&name)?;
            println!("the cluster {name} is gone");
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl Default for Up {
    fn default() -> Self {
        Self {
            nodes: 3,
            families: FamiliesName::Dual,
            proxy: ProxyName::Nftables,
            network: NetworkName::Manx,
        }
    }
}

fn up(name: &str, options: &Up) -> Result<ExitCode> {
    super::clean_up_on_interrupt(name, Cluster::down_by_name)?;
    let network = if matches!(options.network, NetworkName::Ptp) { Network::Ptp } else { Network::Manx };
    println!("bringing up etcd, the control plane, {} nodes, a router and a host outside", options.nodes);
    let mut cluster = Cluster::up(&Options {
        name: name.to_owned(),
        nodes: options.nodes,
        families: match options.families {
            FamiliesName::Ipv4 => Families::Ipv4,
            FamiliesName::Ipv6 => Families::Ipv6,
            FamiliesName::Dual => Families::Dual,
        },
        proxy: match options.proxy {
            ProxyName::Nftables => Proxy::Nftables,
            ProxyName::Iptables => Proxy::Iptables,
            ProxyName::Ipvs => Proxy::Ipvs,
            ProxyName::None => Proxy::None,
        },
        network,
        ..Options::default()
    })?;
    if matches!(options.network, NetworkName::None) {
        cluster.keep()?;
        println!("no node is Ready before you install a network; {HOW}");
        return Ok(ExitCode::SUCCESS);
    }
    if network == Network::Manx {
        cluster.install_and_wait()?;
        cluster.peer_with_router()?;
    }
    cluster.wait_ready()?;
    show::start_pods(&cluster)?;
    let failed = show::all(&cluster)?;
    cluster.keep()?;
    println!("\nThe cluster stays up; {HOW}");
    Ok(super::code(failed))
}

const HOW: &str = "play with it: cargo xtask lab --kubernetes kubectl …, status, node add|reboot|exec; \
                   end it: cargo xtask lab --kubernetes down";

fn node(name: &str, verb: NodeVerb) -> Result<ExitCode> {
    let mut cluster = Cluster::open(name)?;
    match verb {
        NodeVerb::Add => {
            println!("node{} has registered", cluster.add_node()?);
            Ok(ExitCode::SUCCESS)
        }
        NodeVerb::Reboot { name } => {
            cluster.node_by_name(&name)?.reboot()?;
            println!("{name} starts again");
            Ok(ExitCode::SUCCESS)
        }
        NodeVerb::Exec { name, command } => {
            let (program, arguments) = command.split_first().context("no command to run")?;
            let mut command = if ["tor", "outside", "cp"].contains(&name.as_str()) {
                manx_tests::lab::netns::command(&cluster.netns(&name), program)
            } else {
                cluster.node_by_name(&name)?.command(program)
            };
            super::pass(command.args(arguments))
        }
    }
}
