//! `manxctl ipam`: who has an address, and whether everybody agrees about all of them.

mod audit;
mod check;
mod pods;
mod show;

use std::process::ExitCode;

use anyhow::Result;

use crate::Context;

/// What to do.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    /// Who has an address, since when, and by which pool, block and claim; or why nobody has it.
    Show(show::Options),
    /// Compares API server, records of agents and kernels of all nodes; exit status 1 when they disagree.
    Check(check::Options),
}

/// Runs it.
pub(crate) async fn run(command: Command, context: &Context) -> Result<ExitCode> {
    match command {
        Command::Show(options) => show::run(options, context).await,
        Command::Check(options) => check::run(options, context).await,
    }
}
