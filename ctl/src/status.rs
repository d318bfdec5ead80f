//! `manxctl status`: what there is, what is wrong with it, and what to do; of the cluster or of one node.

mod cures;
mod findings;
mod mesh;
#[cfg(test)]
mod tests;
mod view;

use std::process::ExitCode;

use anyhow::{Result, bail};
use manx_api::Timestamp;

use crate::cluster::{Cluster, Part};
use crate::show::Live;
use crate::{Context, finding};

pub(crate) use findings::findings;
pub(crate) use view::View;

/// Of what, and how it is shown.
#[derive(clap::Args, Debug)]
#[command(after_help = "Exit status: 0 nothing is wrong, 1 something is, 2 that could not be found out.

Examples:
  manxctl status                    # is anything wrong, and what is to be done?
  manxctl status node1              # all that is known of one node
  manxctl status -o json | jq '.findings[]'
  manxctl status --watch            # during an upgrade")]
pub(crate) struct Options {
    /// Only this node, with its sessions, blocks and conditions.
    #[arg(value_name = "NODE")]
    node: Option<String>,
    #[command(flatten)]
    live: Live,
}

/// Reads the cluster and says how it is.
pub(crate) async fn run(options: Options, context: &Context) -> Result<ExitCode> {
    let node = options.node.as_deref();
    let find = |cluster: &Cluster| View::new(cluster, node, Timestamp::now());
    let Some(view) = context.each(&Part::ALL, options.live, find, View::text).await? else {
        return Ok(ExitCode::from(2));
    };
    if let (Some(node), true) = (node, view.nodes.is_empty()) {
        bail!("there is no node {node}: `manxctl nodes` lists them");
    }
    Ok(match (finding::well(&view.findings), view.unread.is_empty()) {
        (true, false) => ExitCode::from(2),
        _ => finding::exit_code(&view.findings),
    })
}
