//! `manxctl explain`: why a prefix is where it is.

use std::process::ExitCode;

use anyhow::Result;

use crate::Context;

/// What to explain.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// The prefix, such as 10.244.0.0/24.
    prefix: String,
    #[command(flatten)]
    at: crate::agent::Address,
}

/// Asks the agent and prints its answer.
pub(crate) async fn run(options: Options, _: &Context) -> Result<ExitCode> {
    let Options { prefix, at } = options;
    crate::write_out(&at.get(&format!("/bgp/explain?prefix={prefix}")).await?)?;
    Ok(ExitCode::SUCCESS)
}
