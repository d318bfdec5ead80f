//! `manxctl`: what the pod network is doing, for people. On the PATH as `kubectl-manx` it is also `kubectl manx`.
//!
//! It reads the same objects as `kubectl get` and puts them together: what is up, and what is wrong and where.

mod report;
mod table;

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
    },
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
    let cluster = read().await?;
    let text = match &command {
        Command::Status => report::status(&cluster),
        Command::Peers { node } => report::peers(&cluster, node.as_deref()),
    };
    write_out(&text)?;
    let wrong = matches!(command, Command::Status) && !report::problems(&cluster).is_empty();
    Ok(if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Reads all objects of ours, from the cluster of the current kubeconfig context.
async fn read() -> Result<Cluster> {
    let client = kube::Client::try_default()
        .await
        .context("no cluster to ask: set KUBECONFIG, or run where a service account is mounted")?;
    Ok(Cluster {
        nodes: list::<NodeNetwork>(&client).await?,
        pools: list::<IPPool>(&client).await?,
        blocks: list::<IPBlock>(&client).await?,
    })
}

async fn list<K>(client: &kube::Client) -> Result<Vec<K>>
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
fn write_out(text: &str) -> Result<()> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
