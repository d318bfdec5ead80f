//! `manx-bench`: our figures beside a peer's, in one run.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use manx_tests::bench::{self, bgp, cni, core, fib, guard, ipam, kubernetes, mesh, reflector};
use manx_tests::peers::Daemon;

/// Benchmarks against what people run today; only the ratios mean anything.
#[derive(Parser)]
#[command(name = "cargo xtask bench", version)]
struct Arguments {
    #[command(subcommand)]
    name: Name,
    /// Write the rows, with every sample, to this file.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Name {
    /// Pod links: against Debian's ptp and bridge, both with host-local.
    Cni {
        /// ADD and DEL one at a time, this many of each.
        #[arg(long, default_value_t = 40)]
        single: usize,
        /// Pods started at once, each number in turn; 0 leaves it out.
        #[arg(long, value_delimiter = ',', default_values_t = [2, 4, 8, 16, 100])]
        parallel: Vec<usize>,
        /// How often each parallel start is repeated.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Pod starts during which requests to the API server are counted.
        #[arg(long, default_value_t = 1000)]
        starts: usize,
    },
    /// Addresses alone, without links: the agent's socket against Debian's host-local.
    Ipam {
        /// Addresses given and freed one at a time, this many of each.
        #[arg(long, default_value_t = 200)]
        single: usize,
        /// Pods that have addresses meanwhile, each number in turn.
        #[arg(long, value_delimiter = ',', default_values_t = [0, 100, 1000])]
        held: Vec<usize>,
    },
    /// Tables from the wire into the RIB and into the kernel: against BIRD 2, FRR, GoBGP and OpenBGPD.
    Bgp {
        /// IPv4 routes in the tables.
        #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000, 500_000])]
        routes: Vec<u32>,
        /// IPv6 routes in the table of that family; 0 leaves it out.
        #[arg(long, default_value_t = 100_000)]
        ipv6: u32,
        /// Runs of each daemon, in turn.
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// Whom to compare with: bird2, frr, gobgp, openbgpd.
        #[arg(long, value_delimiter = ',', default_value = "bird2,frr,gobgp,openbgpd", value_parser = daemon)]
        peers: Vec<Daemon>,
        /// Seconds that one phase may take; who needs longer is said so and not run again.
        #[arg(long, default_value_t = 60)]
        patience: u64,
        /// Leave out what goes into the kernel.
        #[arg(long, conflicts_with = "kernel_only")]
        rib_only: bool,
        /// Leave out what stays in the RIB.
        #[arg(long)]
        kernel_only: bool,
    },
    /// The speaker alone, without a socket: octets in, octets out, in one thread of this process.
    Core {
        /// Routes in the table.
        #[arg(long, default_values_t = [100_000, 500_000])]
        routes: Vec<u32>,
        /// Runs of each size.
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Run one size once, here, and print it as JSON.
        #[arg(long, hide = true)]
        once: bool,
    },
    /// Clusters of speakers in this process, joined in memory.
    Mesh {
        /// Sizes of full meshes.
        #[arg(long, value_delimiter = ',', default_values_t = [100, 1000])]
        nodes: Vec<u32>,
        /// Prefixes of each node in them.
        #[arg(long, default_value_t = 20)]
        prefixes: u32,
        /// Clients of a reflector that is measured alone, with four prefixes each.
        #[arg(long, value_delimiter = ',', default_values_t = [1000, 5000])]
        clients: Vec<u32>,
    },
    /// Routes from the wire into the kernel: against BIRD 2.
    Fib {
        /// Routes in the table.
        #[arg(long, default_value_t = 100_000)]
        routes: u32,
        /// Runs of each daemon, in turn.
        #[arg(long, default_value_t = 5)]
        runs: usize,
    },
    /// A real cluster: time until it is Ready, pods through kubelet and containerd against Debian's ptp, memory of every
    /// component, requests to the API server.
    Kubernetes {
        /// Pods started one at a time, this many of each network.
        #[arg(long, default_value_t = 30)]
        single: usize,
        /// Pods of a Deployment that are started at once.
        #[arg(long, default_value_t = 60)]
        pods: usize,
        /// How often these are, for each network.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
    /// What a packet costs from pod to pod, with and without the guards of pods: against host to host.
    Guard {
        /// Samples of each way, in turn.
        #[arg(long, default_value_t = 20)]
        rounds: usize,
    },
}

fn daemon(slug: &str) -> Result<Daemon, String> {
    let known = Daemon::ALL.into_iter().find(|daemon| daemon.slug() == slug);
    known.ok_or_else(|| format!("no daemon is called {slug}"))
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // That one prints a table of its own as it goes.
    let printed = matches!(arguments.name, Name::Bgp { .. });
    let rows = match arguments.name {
        Name::Bgp { routes, ipv6, runs, peers, patience, rib_only, kernel_only } => {
            let kernel = [(false, !kernel_only), (true, !rib_only)];
            let kernel = kernel.into_iter().filter(|(_, wanted)| *wanted).map(|(kernel, _)| kernel).collect();
            let patience = Duration::from_secs(patience);
            bgp::run(&bgp::Size { routes, ipv6, runs, peers, patience, kernel })?
        }
        Name::Mesh { nodes, prefixes, clients } => {
            for nodes in nodes {
                mesh::run(mesh::Shape::Mesh, nodes, prefixes)?;
            }
            for clients in clients {
                reflector::run(clients, 4)?;
            }
            return Ok(());
        }
        Name::Core { routes, once: true, .. } => return core::once(&routes),
        Name::Core { routes, runs, .. } => return core::run(&routes, runs),
        Name::Cni { single, parallel, rounds, starts } => {
            cni::run(&cni::Size { single, parallel, rounds, starts })?
        }
        Name::Ipam { single, held } => ipam::run(&ipam::Size { single, held })?,
        Name::Kubernetes { single, pods, rounds } => {
            kubernetes::run(&kubernetes::Size { single, pods, rounds })?
        }
        Name::Guard { rounds } => guard::run(rounds)?,
        Name::Fib { routes, runs } => fib::run(fib::Size { routes, runs })?,
    };
    if !printed {
        bench::print(&rows);
    }
    if let Some(path) = arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&bench::to_json(&rows))?)?;
    }
    Ok(())
}
