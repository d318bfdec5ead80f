//! `manxctl`: what the pod network is doing, for people. On the PATH as `kubectl-manx` it is also `kubectl manx`.
//!
//! It reads the same objects as `kubectl get` and puts them together: what is up, and what is wrong and where. What only
//! one agent knows, it asks that agent, on its node.

mod agent;
#[cfg(test)]
mod documented;
mod migrate;
mod report;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use kube::api::{Api, ListParams};
use manx_api::{IPBlock, IPPool, NodeNetwork};

use report::Cluster;

/// What the pod network is doing.
#[derive(Parser)]
#[command(name = "manxctl", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Nodes, pools and what is wrong; exit status 1 when something is.
    Status,
    /// Every BGP session: where, with whom, its state, and why it last went down.
    Peers {
        /// Only the sessions of this node.
        #[arg(long)]
        node: Option<String>,
        /// More about each session: `wide`.
        #[arg(long, short)]
        output: Option<Columns>,
    },
    /// Why a prefix is where it is, as the agent of this machine sees it.
    Explain {
        /// The prefix, such as 10.244.0.0/24.
        prefix: String,
        #[command(flatten)]
        at: agent::Address,
    },
    /// The BGP table of the agent of this machine, as an MRT file (RFC 6396).
    Mrt {
        /// Where to write it.
        #[arg(long, short)]
        output: PathBuf,
        #[command(flatten)]
        at: agent::Address,
    },
    /// Moves in from another network without restarting pods; docs/migrate-calico.md tells how.
    #[command(subcommand)]
    Migrate(migrate::From),
}

/// How much is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Columns {
    /// All columns.
    Wide,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse().command).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Status => {
            let cluster = read().await?;
            write_out(report::status(&cluster).as_bytes())?;
            let well = report::problems(&cluster).is_empty();
            return Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Peers { node, output } => {
            let wide = output == Some(Columns::Wide);
            write_out(report::peers(&read().await?, node.as_deref(), wide).as_bytes())?;
        }
        Command::Explain { prefix, at } => {
            write_out(&at.get(&format!("/bgp/explain?prefix={prefix}")).await?)?;
        }
        Command::Mrt { output, at } => {
            let file = at.get("/bgp/mrt").await?;
            std::fs::write(&output, &file).with_context(|| format!("cannot write {}", output.display()))?;
        }
        Command::Migrate(from) => return migrate::run(from).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// A client of the cluster of the current kubeconfig context.
pub(crate) async fn client() -> Result<kube::Client> {
    kube::Client::try_default()
        .await
        .context("no cluster to ask: set KUBECONFIG, or run where a service account is mounted")
}

/// Reads all objects of ours.
async fn read() -> Result<Cluster> {
    let client = client().await?;
    Ok(Cluster {
        nodes: list::<NodeNetwork>(&client).await?,
        pools: list::<IPPool>(&client).await?,
        blocks: list::<IPBlock>(&client).await?,
    })
}

/// All objects of a kind of ours.
pub(crate) async fn list<K>(client: &kube::Client) -> Result<Vec<K>>
where
    K: kube::Resource<Scope = kube::core::ClusterResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + for<'de> serde::Deserialize<'de>,
{
    let objects = Api::<K>::all(client.clone()).list(&ListParams::default()).await;
    let kind = K::kind(&());
    let objects = objects.with_context(|| format!("cannot list {kind}: are the CRDs of Manx installed?"))?;
    Ok(objects.items)
}

/// Writes to standard output; a reader that has gone away, such as `head`, is no error.
pub(crate) fn write_out(text: &[u8]) -> Result<()> {
    use std::io::Write;
    match std::io::stdout().write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
