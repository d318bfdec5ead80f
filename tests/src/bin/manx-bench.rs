//! `manx-bench`: our figures beside a peer's, in one run.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use manx_tests::bench::{self, cni, fib};

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
        /// Pods started at once.
        #[arg(long, default_value_t = 100)]
        parallel: usize,
        /// How often the parallel start is repeated.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
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
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let rows = match arguments.name {
        Name::Cni { single, parallel, rounds } => cni::run(cni::Size { single, parallel, rounds })?,
        Name::Fib { routes, runs } => fib::run(fib::Size { routes, runs })?,
    };
    bench::print(&rows);
    if let Some(path) = arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&bench::to_json(&rows))?)?;
    }
    Ok(())
}
