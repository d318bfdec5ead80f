//! `manxctl peers`: every BGP session.

use std::process::ExitCode;

use anyhow::Result;

use crate::cluster::Cluster;
use crate::show::{Format, Output};
use crate::{Context, report, write_out};

/// Which sessions, and how they are shown.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Only the sessions of this node.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// Lists them.
pub(crate) async fn run(options: Options, context: &Context) -> Result<ExitCode> {
    let cluster = Cluster::read(context).await?;
    let wide = options.output.output == Some(Format::Wide);
    let page = context.show.asked(options.output).page();
    write_out(report::peers(&cluster, options.node.as_deref(), wide, &page).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
