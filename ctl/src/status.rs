//! `manxctl status`: what there is, what is wrong with it, and what to do.

use std::process::ExitCode;

use anyhow::Result;

use crate::cluster::Cluster;
use crate::{Context, finding, report, write_out};

/// How it is shown.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  manxctl status              # is anything wrong?
  manxctl status && deploy    # exit status 0: nothing is")]
pub(crate) struct Options {}

/// Reads the cluster and says how it is.
pub(crate) async fn run(_: Options, context: &Context) -> Result<ExitCode> {
    let cluster = Cluster::read(context).await?;
    write_out(report::status(&cluster, &context.show.page()).as_bytes())?;
    Ok(finding::exit_code(&report::problems(&cluster)))
}
