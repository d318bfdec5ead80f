//! `manxctl mrt`: the BGP table in a file.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::Context;

/// Whose table, and where to.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  manxctl mrt -o table.mrt && bgpdump -m table.mrt")]
pub(crate) struct Options {
    /// Where to write it.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    at: crate::agent::Address,
}

/// Asks the agent and writes the file.
pub(crate) async fn run(options: Options, _: &Context) -> Result<ExitCode> {
    let Options { output, at } = options;
    let file = at.get("/bgp/mrt").await?;
    std::fs::write(&output, &file).with_context(|| format!("cannot write {}", output.display()))?;
    Ok(ExitCode::SUCCESS)
}
